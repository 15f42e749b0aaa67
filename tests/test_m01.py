"""A remote processor: jobs, retries, workers and scheduler items, in one process and in several."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import datetime
import logging
import os
import pathlib
import pickle
import signal
import tempfile
import threading
import time
import unittest

import transaction
import zope.component
from ZODB.DB import DB
from ZODB.DemoStorage import DemoStorage
from ZODB.POSException import ConflictError
from zope.component import testing
from zope.configuration import xmlconfig
from zope.event import notify
from zope.interface.verify import verifyObject
from zope.lifecycleevent import ObjectModifiedEvent

from lovely.remotetask import m01
from lovely.remotetask import p01
from lovely.remotetask.application import removeService
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.sites import findService
from lovely.remotetask.database.sites import localServices
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownService
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.job import Failure
from lovely.remotetask.m01 import interfaces
from lovely.remotetask.service import install
from lovely.remotetask.testing import PATIENCE
from lovely.remotetask.testing import Process
from lovely.remotetask.testing import temporaryZEO
from lovely.remotetask.testing import waitForJobs
from waits import waitUntil


UTC = datetime.timezone.utc
PAST = datetime.datetime(2000, 1, 1, tzinfo=UTC)


def at(day, hour=0, minute=0, second=0, month=1):
    """Return a time in the January of 2026, or another month of it."""
    return datetime.datetime(2026, month, day, hour, minute, second, tzinfo=UTC)


class EchoJob(m01.Job):

    def __call__(self, remoteProcessor):
        return self.input


class RefusedJob(m01.Job):

    def __call__(self, remoteProcessor):
        raise m01.RemoteException('An error: no film')


class BrokenJob(m01.Job):

    def __call__(self, remoteProcessor):
        raise ValueError('An error: no film\nin two lines')


class NameJob(m01.Job):

    def __call__(self, remoteProcessor):
        return remoteProcessor.__name__


class UntimelyItem(m01.Delay):

    def timeAfter(self, callTime):
        raise KeyError('no time')


class ListJob(m01.Job):

    def __call__(self, remoteProcessor):
        self.found.append(self.input)
        return self.found


class SilentJob(m01.Job):

    def __call__(self, remoteProcessor):
        raise StopIteration


class AbortingJob(m01.Job):

    def __call__(self, remoteProcessor):
        transaction.abort()
        raise ValueError('aborted')


class RemoteProcessorCase(unittest.TestCase):

    def setUp(self):
        testing.setUp()
        self.addCleanup(testing.tearDown)
        self.lines = []
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(f'{record.levelname} {record.getMessage()}')
        logger = logging.getLogger('m01.remote')
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        self.addCleanup(logger.removeHandler, handler)
        self.db = DB(DemoStorage())
        self.addCleanup(self.db.close)
        install(self.db)
        self.root = self.open()
        self.rp = m01.RemoteProcessor()
        m01.addProcessor(self.root, 'films', self.rp)
        for name, factory in (('echo', EchoJob()), ('refused', RefusedJob()), ('broken', BrokenJob()),
                              ('name', NameJob()), ('aborting', AbortingJob())):
            self.rp.addJobFactory(name, factory)
        transaction.commit()

    def open(self, manager=None):
        connection = self.db.open(manager)
        self.addCleanup(lambda: (connection.transaction_manager.abort(), connection.close()))
        return connection.root()['Application']

    def statuses(self):
        return sorted(job.status for job in self.rp.jobs.values())

    def vanish(self, base, *more):
        """Return an object whose class is gone when the transaction is committed and `vanished` was called.

        more -- arguments of its class.
        """
        class Gone(base):
            pass

        Gone.__module__ = __name__
        globals()['Gone'] = Gone
        return Gone(*more)

    def vanished(self):
        """Commit, and return the remote processor from a connection that lacks the class."""
        transaction.commit()
        del globals()['Gone']
        self.manager = transaction.TransactionManager()
        return self.open(self.manager)['films']


class TestJobs(RemoteProcessorCase):

    def test_the_contracts(self):
        verifyObject(interfaces.IRemoteProcessor, self.rp)
        verifyObject(interfaces.IJob, self.rp.jobs[self.rp.addJob('echo')])
        verifyObject(interfaces.IJob, EchoJob())
        verifyObject(interfaces.ISchedulerItems, self.rp.scheduler)
        verifyObject(interfaces.IDelay, m01.Delay())
        verifyObject(interfaces.ICron, m01.Cron())
        verifyObject(interfaces.ICron, p01.Cron('echo'))
        verifyObject(ITaskService, self.rp.service)

    def test_a_job_is_a_copy_of_its_factory(self):
        factory = self.rp.getJobFactory('echo')
        job = self.rp.jobs[self.rp.addJob('echo', 1)]
        self.assertEqual((job.input, factory.input, factory.id, factory.status), (1, None, None, None))
        self.assertEqual(repr(factory), "<EchoJob 'echo'>")
        self.assertEqual(repr(job), f"<EchoJob 'echo' {job.id}>")
        self.assertIsNone(self.rp.getJobFactory('other'))

    def test_the_attributes_of_a_job(self):
        job = self.rp.jobs[self.rp.addJob('echo', 1)]
        self.assertEqual((job.maxRetries, job.retryDelay, job.retryCounter, job.retryTime, job.errors, job.output),
                         (3, 10, 0, None, [], None))
        self.assertIsNone(job.started)
        self.rp.processNextJob()
        self.assertEqual(job.output, 1)
        self.assertLessEqual(job.created, job.completed)
        self.assertEqual({time.tzinfo for time in (job.created, job.queued, job.started, job.completed)}, {UTC})
        failed = self.rp.jobs[self.rp.addJob('refused')]
        self.rp.processNextJob()
        self.assertEqual((failed.status, failed.completed), ('error', None))

    def test_an_id_of_no_job(self):
        for jobid in ('12', 'twelve', None, 12):
            with self.subTest(jobid=jobid):
                for ask in (self.rp.getJobStatus, self.rp.getJobResult, self.rp.getJobErrors, self.rp.jobs.__getitem__):
                    self.assertRaises(KeyError, ask, jobid)
                self.rp.cancelJob(jobid)

    def test_an_unknown_factory(self):
        with self.assertRaisesRegex(ValueError, "'ehco'"):
            self.rp.addJob('ehco')
        self.assertEqual(len(self.rp.jobs), 0)

    def test_a_factory_that_was_removed(self):
        jobid = self.rp.addJob('echo', 1)
        del self.rp.jobFactories['echo']
        self.assertEqual(self.rp.jobs[jobid].jobName, 'echo')
        self.rp.processJobs()
        self.assertIn("task 'echo' is not registered", self.rp.getJobErrors(jobid)[0])

    def test_a_job_that_runs_is_cancelled(self):
        jobid = self.rp.addJob('echo', 1)
        self.assertEqual(self.rp.pullNextJob().id, jobid)
        self.rp.cancelJob(jobid)
        self.assertRaises(TypeError, self.rp.processJob, jobid)
        self.assertEqual((self.rp.getJobStatus(jobid), self.rp.getJobResult(jobid)), ('cancelled', None))

    def test_removing_refuses_a_status_before_anything_is_removed(self):
        self.rp.addJob('echo')
        self.rp.processJobs()
        self.assertRaises(ValueError, self.rp.removeJobs, ['completed', 'processing'])
        self.assertEqual(self.statuses(), ['completed'])

    def test_three_runs(self):
        jobid = self.rp.addJob('broken')
        for count in (1, 2):
            self.assertRaises(m01.JobFailed, self.rp.processNextJob)
            job = self.rp.jobs[jobid]
            self.assertEqual((job.status, job.retryCounter, len(job.errors)), ('queued', count, count))
            self.assertAlmostEqual(job.retryTime.timestamp(), time.time() + 10, delta=9)
            self.assertFalse(self.rp.processNextJob())
            job.retryTime = PAST
        self.assertTrue(self.rp.processNextJob())
        self.assertEqual((self.rp.getJobStatus(jobid), self.rp.jobs[jobid].retryCounter), ('error', 3))

    def test_time_is_an_argument(self):
        self.rp.addJob('broken')
        with self.assertRaises(m01.JobFailed):
            self.rp.processNextJob(callTime=at(1))
        self.assertFalse(self.rp.processNextJob(callTime=at(1, second=9)))
        with self.assertRaises(m01.JobFailed):
            self.rp.processNextJob(callTime=at(1, second=10))
        self.assertRaises(ValueError, self.rp.processNextJob, callTime=datetime.datetime(2026, 1, 1))

    def test_maxRetries_and_retryDelay_of_a_factory(self):
        self.rp.addJobFactory('once', BrokenJob({'maxRetries': 1, 'retryDelay': 0}))
        jobid = self.rp.addJob('once')
        self.assertTrue(self.rp.processNextJob())
        self.assertEqual(self.rp.getJobStatus(jobid), 'error')

    def test_a_long_retryDelay(self):
        self.rp.addJobFactory('daily', BrokenJob({'retryDelay': 86400}))
        jobid = self.rp.addJob('daily')
        with self.assertRaises(m01.JobFailed):
            self.rp.processNextJob(callTime=at(1))
        self.assertEqual(self.rp.jobs[jobid].retryTime, at(2))

    def test_more_failures_than_are_kept(self):
        self.rp.addJobFactory('often', BrokenJob({'maxRetries': 14, 'retryDelay': 0}))
        jobid = self.rp.addJob('often')
        self.rp.processJobs()
        job = self.rp.jobs[jobid]
        self.assertEqual((job.status, job.retryCounter, len(job.errors)), ('error', 14, 10))

    def test_a_factory_that_cannot_be_loaded_holds_up_no_other(self):
        self.rp.addJobFactory('gone', self.vanish(m01.Job))
        gone, echo = self.rp.addJob('gone'), self.rp.addJob('echo', 1)
        rp = self.vanished()
        self.assertEqual(rp.jobs[gone].jobName, 'gone')
        with self.assertRaisesRegex(TaskError, 'lacks the class test_m01.Gone'):
            rp.addJob('gone')
        worker = m01.SimpleJobWorker(rp)
        worker.start()
        self.addCleanup(worker.stop, PATIENCE)
        self.assertEqual(waitForJobs(rp.service, [int(echo)], PATIENCE), ['completed'])
        self.manager.begin()
        self.assertEqual(rp.getJobStatus(gone), 'queued')               # for a process that has the class
        self.assertIn('lacks the class test_m01.Gone', rp.service.getError(int(gone)))

    def test_a_factory_that_cannot_be_loaded_by_hand(self):
        self.rp.addJobFactory('gone', self.vanish(m01.Job))
        gone, echo = self.rp.addJob('gone'), self.rp.addJob('echo', 1)
        rp = self.vanished()
        self.assertIn('gone', rp.service.getAvailableTasks())
        rp.processJobs()
        self.assertEqual(rp.getJobResult(echo), 1)
        self.assertIn('lacks the class test_m01.Gone', rp.getJobErrors(gone)[0])

    def test_a_factory_that_is_no_good_any_more_holds_up_no_other(self):
        for data in {'maxRetries': 0}, {'maxRetries': None}, {'retryDelay': -1}, {'retryDelay': 'x'}:
            with self.subTest(data=data):
                bad, echo = self.rp.addJob('broken'), self.rp.addJob('echo', 1)
                vars(self.rp.jobFactories['broken']).update(data)       # as another release of the class may have it
                self.rp.processJobs()
                self.assertIn('retryPolicy', self.rp.getJobErrors(bad)[0])
                self.assertEqual(self.rp.getJobResult(echo), 1)
                self.rp.addJobFactory('broken', BrokenJob())

    def test_what_is_no_factory(self):
        for name, job, what in (
            (None, EchoJob(), 'name: '), (7, EchoJob(), 'name: '), ('', EchoJob(), 'name: '), ('new', None, 'job: '),
            ('new', EchoJob, 'job: '), ('new', 'text', 'job: '), ('new', EchoJob({'maxRetries': 0}), 'job: .*attempts'),
            ('new', EchoJob({'retryDelay': -1}), 'job: .*base'), ('new', EchoJob({'inputSchema': 7}), 'job: .*Schema'),
        ):
            with self.subTest(name=name, job=job), self.assertRaisesRegex(ValueError, what):
                self.rp.addJobFactory(name, job)
        self.assertEqual(sorted(self.rp.jobFactories), ['aborting', 'broken', 'echo', 'name', 'refused'])
        for name in None, 7, ('echo',):
            self.assertRaises(UnknownTask, self.rp.addJob, name)

    def test_a_factory_with_two_names(self):
        self.rp.addJobFactory('second', self.rp.jobFactories['echo'])
        self.assertEqual([self.rp.jobs[self.rp.addJob(name)].jobName for name in ('echo', 'second')],
                         ['echo', 'second'])

    def test_a_job_changes_no_list_of_its_factory(self):
        self.rp.addJobFactory('list', ListJob({'found': []}))
        jobids = [self.rp.addJob('list', number) for number in range(2)]
        self.rp.processJobs()
        self.assertEqual([self.rp.getJobResult(jobid) for jobid in jobids], [[0], [1]])
        self.assertEqual(self.rp.jobFactories['list'].found, [])

    def test_retryTime_of_a_job_that_waits_for_no_retry(self):
        job = self.rp.jobs[self.rp.addJob('echo')]
        with self.assertRaises(ValueError):
            job.retryTime = PAST
        with self.assertRaises(ValueError):
            EchoJob().retryTime = PAST

    def test_retryTime_None_is_at_once(self):
        jobid = self.rp.addJob('broken')
        self.assertRaises(m01.JobFailed, self.rp.processNextJob)
        self.rp.jobs[jobid].retryTime = None
        self.assertRaises(m01.JobFailed, self.rp.processNextJob)
        self.assertEqual(self.rp.jobs[jobid].retryCounter, 2)

    def test_what_is_no_time(self):
        for process in self.rp.processNextJob, self.rp.processJobs, self.rp.scheduleNextJob, self.rp.reScheduleItems:
            for wrong in 'x', datetime.datetime(2026, 1, 1), float('nan'), ():
                with self.subTest(process=process, wrong=wrong):
                    self.assertRaises(ValueError, process, callTime=wrong)

    def test_what_an_error_says(self):
        for name in ('refused', 'broken'):
            with contextlib.suppress(m01.JobFailed):
                jobid = self.rp.addJob(name)
                self.rp.processNextJob()
            error, = self.rp.getJobErrors(jobid)
            self.assertEqual(error.message.partition('\n')[0], 'An error: no film')
            self.assertEqual(error, f'[{error.created.isoformat(timespec="microseconds")}] {error.message}')
            self.assertIn('raise ', error.traceback)

    def test_an_error_can_be_stored(self):
        jobid = self.rp.addJob('refused')
        self.rp.processJobs()
        error, = self.rp.getJobErrors(jobid)
        again = pickle.loads(pickle.dumps(error))
        self.assertEqual((type(again), again, vars(again)), (type(error), error, vars(error)))
        self.assertEqual(again.message, 'An error: no film')

    def test_an_error_that_says_nothing_says_what_it_is(self):
        self.rp.addJobFactory('silent', SilentJob({'maxRetries': 1}))
        jobid = self.rp.addJob('silent')
        self.rp.processJobs()
        self.assertEqual(self.rp.getJobErrors(jobid)[0].message, 'StopIteration')

    def test_an_error_without_a_traceback(self):
        self.assertEqual(m01.JobError(Failure(0, 'the host: ended')),
                         '[1970-01-01T00:00:00.000000+00:00] the host: ended')

    def test_a_job_knows_its_processor(self):
        jobid = self.rp.addJob('name')
        self.rp.processJobs()
        self.assertEqual(self.rp.getJobResult(jobid), 'films')

    def test_jobs_that_abort_the_transaction_run_once_each(self):
        jobids = [self.rp.addJob('aborting') for _ in range(2)]
        transaction.commit()
        for _ in jobids:
            with self.assertRaises(m01.JobFailed):
                self.rp.processNextJob()
            transaction.commit()
        self.assertFalse(self.rp.processNextJob())
        self.assertEqual([self.rp.jobs[jobid].retryCounter for jobid in jobids], [1, 1])

    def test_jobs_that_undo_one_another_do_not_run_for_ever(self):
        for _ in range(2):
            self.rp.addJob('aborting')
        transaction.commit()
        for process in self.rp.processJobs, self.rp.service.process:
            with self.assertRaisesRegex(RemoteTaskError, 'again and again'):
                process()
            transaction.abort()

    def test_it_is_removed_as_any_other_service(self):
        jobid = self.rp.addJob('echo')
        with self.assertRaisesRegex(RemoteTaskError, 'not ended'):
            removeService(self.root, '/films')
        self.rp.cancelJob(jobid)
        removeService(self.root, '/films')
        self.assertNotIn('films', self.root)
        self.assertRaises(UnknownService, findService, self.root, '/films')
        self.assertRaisesRegex(ValueError, 'processor: ', m01.addProcessor, self.root, 'films', None)
        m01.addProcessor(self.root, 'films', m01.RemoteProcessor())

    def test_what_was_only_taken_out_of_its_folder_gets_no_jobs(self):
        del self.root['films']
        self.assertRaises(UnknownService, findService, self.root, '/films')
        self.assertEqual(sorted(localServices(self.root)), ['', 'TaskService'])
        del self.root['TaskService']
        self.assertRaises(UnknownService, findService, self.root, '/')
        self.assertEqual(localServices(self.root), {})

    def test_its_service_is_found_as_any_other(self):
        service = findService(self.root, '/films')
        self.assertIs(service, self.rp.service)
        self.assertEqual(sorted(service.getAvailableTasks()), ['aborting', 'broken', 'echo', 'name', 'refused'])
        jobid = service.add('echo', 2)
        self.rp.processJobs()
        self.assertEqual(self.rp.getJobResult(str(jobid)), 2)


class TestQueries(RemoteProcessorCase):

    def test_a_query_leaves_the_others_alone(self):
        others = [self.rp.addJob('name') for _ in range(3)]
        jobids = [self.rp.addJob('echo', number) for number in range(3)]
        self.rp.processJobs({'jobName': 'echo'})
        self.assertEqual([self.rp.getJobResult(jobid) for jobid in jobids], [0, 1, 2])
        self.assertEqual({self.rp.getJobStatus(jobid) for jobid in others}, {'queued'})
        self.rp.processJobs()
        self.assertEqual({self.rp.getJobResult(jobid) for jobid in others}, {'films'})

    def test_what_is_no_query(self):
        self.rp.addJob('echo')
        for query in ({'status': 'queued'}, {'jobName': 'echo', 'active': True}):
            with self.assertRaisesRegex(ValueError, 'jobName only'):
                self.rp.processNextJob(query)
        for query in 'echo', 7, {'jobName': 7}, {'jobName': []}, {'jobName': [7]}:
            with self.subTest(query=query), self.assertRaisesRegex(ValueError, 'jobQuery: '):
                self.rp.processNextJob(query)
        self.assertEqual(self.statuses(), ['queued'])


class TestItems(unittest.TestCase):

    def test_defaults(self):
        for item in m01.Delay(), m01.Cron():
            self.assertEqual((item.active, item.retryDelay, item.nextCallTime, item.retryTime, item.jobName),
                             (False, 300, None, None, None))
        self.assertEqual(m01.Delay().delay, 0)
        cron = m01.Cron({})
        self.assertEqual([cron.minute, cron.hour, cron.dayOfMonth, cron.month, cron.dayOfWeek], [[]] * 5)

    def times(self, item, count, start=None):
        """Return the first times of an item, each asked for at the time before."""
        start, found = at(1, 0, 3) if start is None else start, []
        self.assertIsNone(item.getNextCallTime(start))
        for _ in range(count):
            found.append(item.nextCallTime)
            item.getNextCallTime(found[-1])
        return found

    def test_the_times_of_a_cron(self):
        for fields, expected in (
            ({'minute': [0, 10]}, [at(1, 0, 10), at(1, 1), at(1, 1, 10)]),
            ({'hour': [2, 13]}, [at(1, 2), at(1, 13), at(2, 2)]),
            ({'minute': [10], 'hour': [4], 'dayOfMonth': [1, 12, 21, 30]}, [at(1, 4, 10), at(12, 4, 10)]),
            ({'month': [1, 2, 5, 12], 'dayOfMonth': [1], 'hour': [0], 'minute': [0]}, [at(1, month=2), at(1, month=5)]),
            ({'dayOfWeek': [0]}, [at(5), at(12)]),
        ):
            with self.subTest(fields=fields):
                item = m01.Cron(fields, active=True)
                if 'dayOfWeek' in fields:
                    item.hour = item.minute = [0]
                self.assertEqual(self.times(item, len(expected)), expected)

    def test_the_ranges_of_a_cron(self):
        for name, low, high in (('minute', 0, 59), ('hour', 0, 23), ('dayOfMonth', 1, 31), ('month', 1, 12),
                                ('dayOfWeek', 0, 6)):
            for value in (low - 1, high + 1, 'x'):
                with self.subTest(name=name, value=value), self.assertRaisesRegex(ValueError, name):
                    m01.Cron({name: [value]})
            self.assertEqual(getattr(m01.Cron({name: [high, low]}), name), [low, high])

    def test_the_times_of_a_delay(self):
        item = m01.Delay({'delay': 10, 'active': True})
        self.assertIsNone(item.getNextCallTime(at(1)))
        self.assertEqual(item.getNextCallTime(at(1, second=5)), at(1, second=10))       # not due: as stored
        self.assertEqual(item.getNextCallTime(at(1, second=25)), at(1, second=10))      # due: the next one is stored
        self.assertEqual(item.nextCallTime, at(1, second=35))

    def test_what_has_no_time(self):
        for item in (m01.Delay(delay=10), m01.Cron(minute=[0]), m01.Delay(active=True), m01.Cron(active=True),
                     m01.Cron(active=True, month=[2], dayOfMonth=[30])):
            with self.subTest(item=item):
                self.assertIsNone(item.getNextCallTime(at(1)))
                self.assertIsNone(item.nextCallTime)

    def test_what_is_refused(self):
        for make in (lambda: m01.Delay(delay=-1), lambda: m01.Delay(delay='10'), lambda: m01.Delay(wait=1),
                     lambda: m01.Cron({'minutes': [1]}), lambda: m01.Delay(nextCallTime=datetime.datetime(2026, 1, 1)),
                     lambda: m01.Delay(retryTime=5), lambda: m01.Delay(retryDelay=-1),
                     lambda: m01.Cron(retryDelay='x'), lambda: m01.Delay(retryDelay=float('inf')),
                     lambda: m01.Delay(jobName=5)):
            self.assertRaises(ValueError, make)


class TestScheduling(RemoteProcessorCase):

    def item(self, **fields):
        item = m01.Delay({'jobName': 'echo', 'delay': 10, 'active': True, 'retryDelay': 0, **fields})
        self.rp.addScheduler(item)
        self.rp.reScheduleItem(item, at(1))
        return item

    def test_an_item_adds_jobs_and_runs_none(self):
        item = self.item(input='tick')
        self.assertIsNone(self.rp.scheduleNextJob(at(1, second=9)))
        jobid = self.rp.scheduleNextJob(at(1, second=10))
        self.assertEqual((self.rp.jobs[jobid].input, self.rp.getJobStatus(jobid)), ('tick', 'queued'))
        self.assertIsNone(self.rp.scheduleNextJob(at(1, second=10)))
        self.assertEqual(item.nextCallTime, at(1, second=20))

    def test_what_was_missed_is_made_up_for_once(self):
        self.item()
        self.assertIsNotNone(self.rp.scheduleNextJob(at(2)))
        self.assertIsNone(self.rp.scheduleNextJob(at(2)))

    def test_not_again_before_the_retryDelay(self):
        item = self.item(retryDelay=300)
        self.assertIsNotNone(self.rp.scheduleNextJob(at(1, second=10)))
        self.assertEqual(item.retryTime, at(1, 0, 5, 10))
        self.assertIsNone(self.rp.scheduleNextJob(at(1, 0, 5, 9)))
        self.assertIsNotNone(self.rp.scheduleNextJob(at(1, 0, 5, 10)))

    def test_the_one_that_waits_for_the_longest_time_comes_first(self):
        self.item(input='second', delay=20)
        self.item(input='first', delay=5)
        self.assertEqual([self.rp.jobs[self.rp.scheduleNextJob(at(1, second=30))].input for _ in range(2)],
                         ['first', 'second'])

    def test_an_item_without_a_factory_holds_up_no_other(self):
        self.item(jobName='ehco', delay=5)
        self.item()
        self.assertIsNotNone(self.rp.scheduleNextJob(at(1, second=30)))
        self.assertEqual([line for line in self.lines if line.startswith('ERROR')],
                         ["ERROR <Delay '1' for: 'ehco'> adds no job: task 'ehco' is not registered; the registered "
                          'tasks are: aborting, broken, echo, name, refused'])

    def test_an_item_that_cannot_be_loaded_holds_up_no_other(self):
        self.rp.addScheduler(self.vanish(m01.Delay, {'jobName': 'echo', 'active': True, 'nextCallTime': PAST}))
        self.item()
        rp = self.vanished()
        self.assertIsNotNone(rp.scheduleNextJob(at(2)))
        self.assertIsNone(rp.scheduleNextJob(at(2)))
        rp.reScheduleItems(at(3))
        rp.scheduler.remove('1')

    def test_an_item_that_fails_holds_up_no_other(self):
        self.rp.addJobFactory('gone', self.vanish(m01.Job))
        self.rp.addScheduler(m01.Delay(jobName='gone', delay=5, active=True, nextCallTime=PAST))
        self.rp.addScheduler(UntimelyItem(jobName='echo', active=True, nextCallTime=PAST))
        self.item()
        rp = self.vanished()
        self.assertEqual([rp.scheduleNextJob(at(2)) is None for _ in range(3)], [False, False, True])
        said = [line for line in self.lines if line.startswith('ERROR')]
        self.assertIn('lacks the class test_m01.Gone', said[0])
        self.assertIn('has no time any more', said[1])

    def test_a_time_that_is_more_than_ten_years_away(self):
        item = m01.Cron(jobName='echo', active=True, month=[2], dayOfMonth=[29], dayOfWeek=[0])
        self.rp.addScheduler(item)
        self.assertGreater(item.nextCallTime.year, 2040)
        self.rp.addScheduler(m01.Delay(jobName='echo', active=True, delay=10,
                                       nextCallTime=datetime.datetime.max.replace(tzinfo=UTC)))
        self.assertEqual(self.rp.schedules.countJobs()['delayed'], 1)

    def test_when_the_clock_is_set_back_an_item_does_not_wait_for_the_old_time(self):
        item, chosen, begins = self.item(), self.item(), self.item()
        for _ in range(3):
            self.assertIsNotNone(self.rp.scheduleNextJob(at(1, month=6)))
        chosen.nextCallTime = at(1, month=6)                # by somebody who means it
        self.rp.reScheduleItem(begins, at(1, month=6))      # so does he who has it begin then
        self.rp.scheduler.lookAgain(at(1, month=2))
        self.assertEqual((item.nextCallTime, item.retryTime), (at(1, second=10, month=2), None))
        self.assertEqual(chosen.nextCallTime, at(1, month=6))
        self.assertEqual(begins.nextCallTime, at(1, second=10, month=6))

    def test_an_item_belongs_to_one_processor(self):
        item = self.item()
        for wrong in item, 'text', m01.Delay, None:
            with self.subTest(item=wrong), self.assertRaisesRegex(ValueError, 'item: '):
                self.rp.addScheduler(wrong)
        self.assertEqual(len(self.rp.scheduler), 1)
        self.rp.scheduler.remove(item.__name__)
        self.assertEqual(self.rp.addScheduler(item), '2')

    def test_an_inactive_item_is_not_pulled_until_it_is_active(self):
        item = self.item(active=False)
        self.assertIsNone(self.rp.scheduleNextJob(at(2)))
        item.active = True
        self.rp.reScheduleItems(at(2))
        self.assertIsNotNone(self.rp.scheduleNextJob(at(2, second=10)))

    def test_the_container(self):
        item = self.item()
        self.assertIs(self.rp.scheduler[item.__name__], item)
        self.assertEqual((list(self.rp.scheduler.values()), self.rp.scheduler.get('12')), ([item], None))
        self.rp.scheduler.remove(item.__name__)
        self.assertRaises(KeyError, self.rp.scheduler.remove, item.__name__)
        self.assertEqual(len(self.rp.scheduler), 0)

    def test_an_item_that_was_changed_is_scheduled_anew(self):
        context = xmlconfig.file('meta.zcml', zope.component)
        xmlconfig.file('configure.zcml', m01, context=context)
        item = self.item()
        item.delay = 3600
        notify(ObjectModifiedEvent(item))
        self.assertAlmostEqual(item.nextCallTime.timestamp(), time.time() + 3600, delta=60)
        notify(ObjectModifiedEvent(m01.Delay()))            # of no processor: nothing happens

    def test_of_two_schedulers_one_adds_the_job(self):
        self.item()
        transaction.commit()
        managers = [transaction.TransactionManager() for _ in range(2)]
        added = [self.open(manager)['films'].scheduleNextJob(at(2)) for manager in managers]
        self.assertNotIn(None, added)
        managers[0].commit()
        self.assertRaises(ConflictError, managers[1].commit)
        transaction.begin()
        self.assertEqual(list(self.rp.jobs), added[:1])


class TestThreads(RemoteProcessorCase):

    def threads(self):
        return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith(('films', 'root')))

    def makeDue(self, item):
        for attempt in transaction.manager.attempts(10):                # the scheduler writes the same records
            with attempt:
                item.nextCallTime = PAST
                self.rp.schedules.arrange()

    def waitFor(self, condition):
        """Wait until the condition is true after a commit."""
        wakeup, until = threading.Event(), time.monotonic() + PATIENCE
        notifierOf(self.db).subscribe(wakeup)
        while True:
            wakeup.clear()
            transaction.begin()
            if condition():
                return
            self.assertTrue(wakeup.wait(until - time.monotonic()), 'in vain')

    def test_worker_and_scheduler_are_independent(self):
        self.assertEqual((self.rp.isProcessing, self.rp.isScheduling), (False, False))
        self.rp.startScheduler()
        self.addCleanup(self.rp.stopScheduler)
        self.assertEqual((self.rp.isProcessing, self.rp.isScheduling, self.threads()),
                         (False, True, ['films-scheduler']))
        self.rp.startProcessor()
        self.addCleanup(self.rp.stopProcessor)
        self.rp.startProcessor()
        self.assertEqual(self.threads(), ['films-scheduler', 'films-worker'])
        self.assertIsNotNone(self.rp.processorStartTime)
        self.rp.stopScheduler()
        self.rp.stopScheduler()
        self.assertEqual((self.rp.isProcessing, self.rp.isScheduling, self.rp.schedulerStartTime), (True, False, None))
        self.rp.stopProcessor()
        self.assertEqual(self.lines, [
            "INFO Scheduler 'films-scheduler' started", "INFO Processor 'films-worker' started",
            "INFO Processor 'films-worker' already running", "INFO Scheduler 'films-scheduler' stopped",
            "INFO Processor 'films-worker' stopped"])
        waitUntil(lambda: not self.threads())

    def test_a_processor_that_is_in_no_database(self):
        rp = m01.RemoteProcessor()
        self.assertRaisesRegex(ValueError, 'committed', rp.startProcessor)
        self.assertEqual((rp.isProcessing, rp.workerName), (False, 'root-worker'))
        rp.stopProcessor()

    def test_the_scheduler_adds_a_job_and_arranges_for_the_next_one(self):
        item = m01.Delay({'jobName': 'echo', 'delay': 3600, 'active': True, 'retryDelay': 0, 'input': 'tick'})
        self.rp.addScheduler(item)
        transaction.commit()
        self.rp.startScheduler()
        self.addCleanup(self.rp.stopScheduler)
        for count in (1, 2):
            self.makeDue(item)
            self.waitFor(lambda: len(self.rp.jobs) == count and self.rp.schedules.countJobs()['delayed'] == 1)
        self.assertEqual(self.statuses(), ['queued', 'queued'])
        self.assertLessEqual(len(self.rp.schedules.jobs), 3)            # what has ended goes away

    def test_items_that_are_added_while_the_scheduler_waits(self):
        self.rp.startScheduler()
        self.addCleanup(self.rp.stopScheduler)
        for delay in (3600, 60, 7200):
            for attempt in transaction.manager.attempts(10):
                with attempt:
                    self.rp.addScheduler(m01.Delay({'jobName': 'echo', 'delay': delay, 'active': True}))
        self.assertEqual(self.rp.schedules.countJobs()['delayed'], 1)
        self.makeDue(self.rp.scheduler['3'])
        self.waitFor(lambda: len(self.rp.jobs) == 1)

    def test_jobs_are_processed_in_the_order_in_which_they_were_added(self):
        jobids = [self.rp.addJob('echo', number) for number in range(5)]
        transaction.commit()
        self.rp.startProcessor()
        self.addCleanup(self.rp.stopProcessor)
        waitForJobs(self.rp.service, list(map(int, jobids)))
        started = [self.rp.jobs[jobid].started for jobid in jobids]
        self.assertEqual(started, sorted(started))

    def test_both_of_p01_are_started_together(self):
        rp = p01.RemoteProcessor()
        m01.addProcessor(self.root, 'p01', rp)
        transaction.commit()
        rp.startProcessor()
        self.assertEqual((rp.isProcessing, rp.isScheduling), (True, True))
        rp.stopProcessor()
        self.assertEqual((rp.isProcessing, rp.isScheduling), (False, False))


class TestP01(RemoteProcessorCase):

    def setUp(self):
        super().setUp()
        self.rp = p01.RemoteProcessor()
        m01.addProcessor(self.root, 'p01', self.rp)
        transaction.commit()

    def test_four_runs(self):
        self.rp.addJob('broken', P01BrokenJob())
        jobid = self.rp.processJob('broken')
        self.rp.processJobs()
        job = self.rp.jobs[jobid]
        self.assertEqual((job.status, job.runCounter, self.rp.getJobError(jobid)), ('error', 4, 'broken'))
        self.assertEqual(job.error.message, 'broken')

    def test_a_JobError_is_final(self):
        self.rp.addJob('refused', P01RefusedJob())
        jobid = self.rp.processJob('refused')
        self.rp.processJobs()
        self.assertEqual((self.rp.getJobStatus(jobid), self.rp.getJobError(jobid)), ('error', 'refused'))
        self.assertIsNone(self.rp.removeJobs())
        self.assertEqual(len(self.rp.jobs), 0)

    def test_the_jobs_that_come_with_it(self):
        self.rp.addJob('clean', p01.RemoveCompletedJobsJob())
        self.rp.addJob('pack', p01.PackZODBJob())
        first = self.rp.processJob('pack')
        self.rp.processJobs()
        self.assertEqual(self.rp.getJobStatus(first), 'completed')
        second = self.rp.processJob('clean')
        self.rp.processJobs()
        self.assertEqual(list(self.rp.jobs), [second])

    def test_items(self):
        self.rp.addJob('refused', P01RefusedJob())
        delay = p01.Delay('refused', 10, startTime=0)
        self.rp.addScheduler(delay)
        self.assertEqual([self.rp.scheduleNextJob(now) is None for now in (9, 10, 19, 20)], [True, False, True, False])
        self.rp.scheduler.remove(delay.__name__)
        item = p01.Cron('refused', minute=(30,), startTime=0)
        self.assertTrue(item.active)
        self.assertEqual([item.getNextCallTime(now) for now in (0, 1800, 1801)], [1800, 1800, 5400])
        self.rp.addScheduler(item)
        self.assertEqual(self.rp.jobs[self.rp.scheduleNextJob(5400)].jobName, 'refused')


class P01BrokenJob(p01.Job):

    def __call__(self, remoteProcessor):
        raise ValueError('broken')


class P01RefusedJob(p01.Job):

    def __call__(self, remoteProcessor):
        raise p01.JobError('refused')


PROGRAM = '''
import logging, signal, sys
import transaction
from ZEO.ClientStorage import ClientStorage
from ZODB.DB import DB
import test_m01

logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stdout)
host, port, what = sys.argv[1:]
db = DB(ClientStorage((host, int(port)), wait_timeout=30))
rp = db.open().root()['Application']['films']
getattr(rp, what)()
print('running', flush=True)
signal.pause()
'''


class SlowJob(m01.Job):
    """Runs until there is a file."""

    def __call__(self, remoteProcessor):
        with open(os.path.join(self.input, 'begun'), 'a') as file:
            file.write(f'{os.getpid()}\n')
        while not os.path.exists(os.path.join(self.input, 'go')):
            time.sleep(0.01)
        return 'done'


class TestProcesses(unittest.TestCase):

    level = 2

    def test_one_schedules_and_one_works_and_is_killed(self):
        with temporaryZEO() as zeo, tempfile.TemporaryDirectory() as directory:
            db = zeo.database()
            install(db)
            connection = db.open()
            rp = m01.RemoteProcessor()
            m01.addProcessor(connection.root()['Application'], 'films', rp)
            slow = SlowJob()
            rp.addJobFactory('slow', slow)
            item = m01.Delay({'jobName': 'slow', 'delay': 3600, 'active': True, 'retryDelay': 0, 'input': directory})
            rp.addScheduler(item)
            transaction.commit()
            with contextlib.ExitStack() as closing:
                def start(what):
                    environment = [os.path.dirname(__file__)]
                    program = f'import sys; sys.path[:0] = {environment!r}\n{PROGRAM}'
                    process = Process(['-c', program, *map(str, zeo.address), what], directory)
                    closing.callback(process.close)
                    process.waitFor('running')
                    return process

                scheduler, worker = start('startScheduler'), start('startProcessor')
                self.assertIn("Scheduler 'films-scheduler' started", ''.join(scheduler.said))
                for attempt in transaction.manager.attempts(10):        # the scheduler writes the same records
                    with attempt:
                        item.nextCallTime = PAST
                        rp.schedules.arrange()
                begun = os.path.join(directory, 'begun')
                waitUntil(lambda: os.path.exists(begun), 'a run', lambda: ''.join(scheduler.said + worker.said))
                worker.end(signal.SIGKILL)
                start('startProcessor')
                waitUntil(lambda: len(pathlib.Path(begun).read_text().split()) == 2)
                pathlib.Path(directory, 'go').touch()
                waitUntil(lambda: transaction.begin() and len(rp.jobs))
                jobid, = rp.jobs
                self.assertEqual(waitForJobs(rp.service, [int(jobid)], PATIENCE), ['completed'])
                self.assertEqual(rp.getJobResult(jobid), 'done')
            transaction.abort()
            connection.close()


if __name__ == '__main__':
    unittest.main()
