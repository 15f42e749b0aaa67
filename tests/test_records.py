"""Rows of jobs that are not whole, and pages that do not load: each job is a broken one, alone, and can be removed."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import gc
import logging
import pickle
import tempfile
import threading
import unittest
import zlib

import transaction
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask import job
from lovely.remotetask.encoding import rowcheck
from lovely.remotetask.encoding import rows
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.errors import WrongState
from lovely.remotetask.execution import rescue
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.job import Failure
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import shards
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.storage.transitions import Outcome
from lovely.remotetask.storage.transitions import Returned
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import temporaryZEO
from lovely.remotetask.xmlrpc import structs
from lovely.remotetask.xmlrpc import waiting
from processorcase import ProcessorCase
from servercase import WAIT
from servercase import ServerCase
from threads import inThread
from waits import waitUntil


NAN, INF = float('nan'), float('inf')

#: Field -> values that the rows of no job have.
WRONG = {
    'writes': (None, 'x'),
    'kind': (None, 'jab', 5),
    'task': (None, 5, b'echo'),
    'created': (None, 'now', NAN, INF, 10 ** 400, True),
    'status': (None, 5, 'processing', 'nope', [], 'completed'),
    'error': (5,),
    'input': ('text', 5),
    'errors': ([], ('a text',)),
    'failedAttempts': (None, '1', 1.5, -1),
    'run': (None, '1', 1.5, -1, 2 ** 31, True),
    'started': ('now', NAN),
    'retryAt': ('now', INF, 1e300),
    'due': (1.5, '5', 10 ** 30),
    'schedule': ('5',),
    'suspect': (None, 0, True),
    'retryPolicy': ('often', (3, 4)),
    'timeLimit': ('5', 0, NAN),
    'request': (5,),
}
WRONG_SCHEDULES = {
    'kind': ('job',),
    'minute': (None, 5, ('5',), (60,), [5]),
    'dayOfWeek': ((7,),),
    'delay': ('5', -1, NAN, True),
    'crontab': (5,),
    'timeZone': (5,),
    'misfire': (None, 'x', 0, 1.5),
    'newJobs': (None, 1),
    'active': ('no',),
    'pending': (None,),
    'calledFor': ('now', NAN),
    'history': (None, ('x',), ((1,),)),
    'lastJob': ('5', -1),
}


def put(service, jobid, data):
    """Replace what the page of a job has of it."""
    ready.shardOf(service, jobid).pages.page(jobid)[jobid] = data


def breakRow(service, jobid):
    put(service, jobid, b'')


def packed(value):
    """Return the bytes of a row with another value in it: their checksum is right, so that the value is looked at."""
    data = pickle.dumps(value, 5)
    return zlib.crc32(data).to_bytes(4, 'big') + data


def setting(name, value):
    def spoil(case, job):
        row = job.row._asdict()
        if name in row:
            row[name] = value
        else:
            row['more'] = dict(row['more'] or {}, **{name: value})
        put(case.service, job.id, packed(tuple(row.values())))
    return spoil


def rowOf(value):
    def spoil(case, job):
        put(case.service, job.id, packed(value(job)))
    return spoil


def bytesOf(data):
    def spoil(case, job):
        put(case.service, job.id, data(job))
    return spoil


def inThePage(data):
    """Replace what is stored of the page of a job, which has no other one in it."""
    def spoil(case, job):
        case.store(ready.shardOf(case.service, job.id).pages.page(job.id), data)
    return spoil


#: Name -> what spoils the row of any job.
SPOILING = {
    'empty': bytesOf(lambda job: b''),
    'no pickle': bytesOf(lambda job: b'what is this'),
    'the half of it': bytesOf(lambda job: rows.pack(job.row)[:40]),
    'no bytes': bytesOf(lambda job: tuple(job.row)),
    'another object': bytesOf(lambda job: PersistentMapping()),
    'too short': rowOf(lambda job: tuple(job.row)[:-1]),
    'too long': rowOf(lambda job: (*job.row, 5)),
    'a list': rowOf(lambda job: list(job.row)),
    'a mapping': rowOf(lambda job: job.row._asdict()),
    'a number': rowOf(lambda job: 0),
    **{f'{name} {value!r:.20}': setting(name, value) for name, values in WRONG.items() for value in values},
}
SPOILING_SCHEDULES = {f'{name} {value!r}': setting(name, value)
                      for name, values in WRONG_SCHEDULES.items() for value in values}

#: What spoils the page of a job, and with it all that are in it.
SPOILING_PAGES = {
    'no pickle': inThePage(b'what is this'),
    'of another class': inThePage(pickle.dumps(PersistentMapping, 3) + pickle.dumps({'data': {}}, 3)),
    'of no class': inThePage(b'cnowhere\nNone\n.' + pickle.dumps(None, 3)),
}

#: Those that stand for the others, where all would take long.
SOME = ('empty', 'no pickle', 'too short', 'a mapping', 'run None')


class RecordCase(unittest.TestCase):

    def setUp(self):
        self.addCleanup(testing.tearDown)
        for name in 'echo', 'other':
            provideUtility(SimpleTask(lambda input: input), name=name)
        provideUtility(SimpleTask(lambda input: 1 / 0), name='fail')
        logging.getLogger('lovely.remotetask').addHandler(handler := logging.NullHandler())
        self.addCleanup(logging.getLogger('lovely.remotetask').removeHandler, handler)
        shards._told.clear()
        self.open()
        self.db.cacheMinimize()

    def open(self):
        self.use(DB(FileStorage(self.enterContext(tempfile.TemporaryDirectory()) + '/Data.fs')))

    def use(self, db):
        self.db = db
        self.addCleanup(self.db.close)
        self.manager = transaction.TransactionManager()
        self.connection = self.db.open(self.manager)
        self.addCleanup(self.connection.close)
        self.addCleanup(self.manager.abort)
        self.service = self.connection.root()['service'] = TaskService()
        self.service.ledgers['host'] = Ledger()
        self.manager.commit()

    def store(self, stored, data):
        """Replace what is stored of an object."""
        self.manager.commit()
        _, serial = self.db.storage.load(stored._p_oid)
        txn = TransactionMetaData()
        self.db.storage.tpc_begin(txn)
        self.db.storage.store(stored._p_oid, serial, data, '', txn)
        self.db.storage.tpc_vote(txn)
        self.db.storage.tpc_finish(txn)

    def spoil(self, jobid, spoil):
        self.manager.commit()
        spoil(self, self.service.jobs[jobid])
        self.manager.commit()
        self.connection.cacheMinimize()

    def counts(self):
        return {status: count for status, count in self.service.countJobs().items() if count}

    def assertToldOf(self, jobid, isListed=True):
        """Everything that looks at jobs looks at this one."""
        service = self.service
        self.assertEqual(service.getStatus(jobid), 'error')
        self.assertRegex(service.getError(jobid), f'^job {jobid} cannot be loaded: ')
        self.assertIsInstance(service.jobs[jobid], BrokenJob)
        self.assertIsNone(service.getResult(jobid))
        self.assertIsNone(service.getProgress(jobid))
        self.assertFalse(service.startJob(jobid))
        self.assertIn(jobid, [job.id for job in service.jobs.values()])
        service.getStatistics(5)
        service.hasJobsWaiting(5)
        listed = {job.id for job in service.getJobs()}
        self.assertEqual(jobid in listed, isListed)
        for one in service.getJobs():
            structs.summaryOf(service, one)
            structs.detailsOf(service, one)
        for verb in service.retry, service.reschedule:
            with self.assertRaises(WrongState):
                verb(jobid)
        service.retryFailed()

    def assertRemovable(self, jobids, count):
        self.assertEqual(self.service.removeJobs(before=1e9), count)
        self.manager.commit()
        self.assertEqual(self.counts(), {})
        self.assertEqual(len(self.service.jobs), 0)
        for jobid in jobids:
            with self.assertRaises(UnknownJob):
                self.service.getStatus(jobid)
        self.assertFalse(ready.isWaiting(self.service))


class TestBroken(RecordCase):

    level = 2

    def test_what_is_wrong_is_said(self):
        # Else the checksum of the rows above would be wrong, and nothing else of them would have been looked at.
        damaged = {'empty', 'no pickle', 'the half of it'}
        for number, (name, spoil) in enumerate({**SPOILING, **SPOILING_SCHEDULES}.items()):
            jobid = self.service.addCronJob('echo', minute=[number % 60], newJobs=True, now=0)
            self.spoil(jobid, spoil)
            with self.subTest(name=name):
                self.assertEqual('the bytes are damaged' in self.service.getError(jobid), name in damaged)

    def whichWaits(self, state):
        """Add a job and bring it into a state; return its id."""
        service = self.service
        if state == 'start later':
            return service.add('echo', startLater=True, now=1)
        if state in ('cronjob', 'scheduled', 'pending'):
            jobid = service.addCronJob('echo', minute=(5,), now=1)
        elif state in ('delayed', 'calendar'):
            jobid = service.addCronJob('echo', delay=50, now=1)
        elif state == 'retry':
            jobid = service.add('fail', now=1, retryPolicy=RetryPolicy(base=50, jitter=0))
            service.process(1)
        else:
            jobid = service.add('echo', now=1)
        if state in ('scheduled', 'pending', 'calendar'):
            scheduling.tick(service, 2)
        if state == 'pending':
            scheduling.tick(service, 600)
        if state == 'claimed':
            self.assertEqual(service.claimNextJob(3), jobid)
        return jobid

    STATES = ('queued', 'start later', 'cronjob', 'scheduled', 'pending', 'delayed', 'calendar', 'retry', 'claimed')

    def cases(self):
        for name, spoil in SPOILING.items():
            for state in self.STATES if name in SOME else ('queued', 'scheduled'):
                yield name, spoil, state
        for name, spoil in SPOILING_SCHEDULES.items():
            yield name, spoil, 'scheduled'
        yield 'a time without a cause', setting('due', 10 ** 6), 'queued'

    def test_it_is_cancelled_and_removed(self):
        for name, spoil, state in self.cases():
            with self.subTest(name, state=state):
                jobid = self.whichWaits(state)
                before = self.service.add('echo', 'before', now=0)
                after = self.service.add('other', 'after', now=2, key='a key')
                self.spoil(jobid, spoil)
                self.assertToldOf(jobid, isListed=state != 'claimed')
                self.manager.abort()
                self.service.cancel(jobid, 10)
                self.assertEqual(self.counts(), {'queued': 2, 'error': 1})
                self.assertEqual([job.id for job in self.service.getJobs('error')], [jobid])
                self.manager.commit()
                with self.assertRaises(WrongState):
                    self.service.cancel(jobid, 11)
                self.service.process(1e6)
                self.assertEqual([self.service.getStatus(one) for one in (before, jobid, after)],
                                 ['completed', 'error', 'completed'])
                self.assertEqual(self.counts(), {'completed': 2, 'error': 1})
                self.assertRemovable((before, jobid, after), 3)

    def test_it_ends_when_its_turn_comes(self):
        for name, spoil, state in self.cases():
            if state in ('start later', 'claimed'):
                continue                        # nothing comes to these
            with self.subTest(name, state=state):
                jobid = self.whichWaits(state)
                others = [self.service.add('echo', number, now=0) for number in range(3)]
                self.spoil(jobid, spoil)
                self.service.process(1e6)
                self.manager.commit()
                self.assertEqual(self.counts(), {'completed': 3, 'error': 1})
                self.assertEqual([job.id for job in self.service.getJobs('error')], [jobid])
                self.assertFalse(self.service.schedule.inbox)
                self.assertRemovable([jobid, *others], 4)

    def test_what_a_host_has_claimed(self):
        # A schedule of which a run is going on is in the register as well.
        for state in 'queued', 'pending':
            for name in SOME:
                for end in 'settled', 'returned', 'rescued', 'cancelled':
                    with self.subTest(name, state=state, end=end):
                        jobid = self.whichWaits(state)
                        ledger = self.service.ledgers['host']
                        claims, _ = claiming.claim(self.service, 5, 0, 700, ledger)
                        [claim] = claims
                        ledger.mark(jobid, 1)
                        self.spoil(jobid, SPOILING[name])
                        self.assertEqual(self.service.getStatus(jobid), 'error')
                        self.service.getStatistics(5)
                        with self.assertRaises(WrongState):             # its host sees to it
                            self.service.cancel(jobid)
                        if end == 'settled':
                            report = Outcome(jobid, claim.run, 'completed', 1, 2, 'result')
                            transitions.acknowledge(self.service, ledger, report, 800)
                        elif end == 'returned':
                            transitions.acknowledge(self.service, ledger, Returned(jobid, claim.run), 800)
                        elif end == 'rescued':
                            self.assertEqual(rescue.rescue(self.service, 'host', 800).claims, 1)
                        else:
                            transitions.release(self.service, ledger, jobid, 800)
                        self.assertFalse(ledger.claimed)
                        self.assertEqual(self.counts(), {'error': 1})
                        self.assertRemovable([jobid], 1)

    def test_many_do_not_stop_a_claim(self):
        for claim in self.service.claimNextJob, lambda now: claiming.claim(self.service, 1, 0, now)[0]:
            jobids = self.service.addMany([{'task': 'echo'}] * 50, now=1)
            for jobid in jobids:
                breakRow(self.service, jobid)
            good = self.service.add('echo', now=2)
            self.manager.commit()
            self.assertIsNotNone(claim(3))
            self.assertEqual(self.service.getStatus(good), 'processing')
            self.service.cancel(good, 5)
            self.assertRemovable(jobids, 51)

    def test_many_suspects(self):
        jobids = self.service.addMany([{'task': 'echo'}] * 3, now=1)
        for jobid in jobids:
            ready.dequeue(self.service, jobid)
            self.service.jobs[jobid].suspect = 1
            ready.enqueue(self.service, self.service.jobs[jobid])
        for jobid in jobids[:2]:
            breakRow(self.service, jobid)
        [claim] = claiming.claimSuspects(self.service, 2)
        self.assertEqual(claim.jobid, jobids[2])

    def test_set_aside_or_stranded(self):
        # As are those that the scheduler cannot handle, or of which no host has the task.
        for name in SOME:
            for end in 'cancelled', 'its turn':
                for place in 'aside', 'stranded':
                    with self.subTest(name, end=end, place=place):
                        service = self.service
                        if place == 'aside':
                            jobid = service.addCronJob('echo', minute=(5,), now=1)
                            service.jobs[jobid].timeZone = 'Atlantis/Capital'
                            scheduling.tick(service, 2)
                            self.assertEqual(list(service.schedule.aside), [jobid])
                        else:
                            jobid = service.add('echo', now=1)
                            ready.dequeue(service, jobid)
                            ready.strand(service, service.jobs[jobid], 'the task')
                        self.spoil(jobid, SPOILING[name])
                        self.assertToldOf(jobid)
                        self.manager.abort()
                        if end == 'cancelled':
                            service.cancel(jobid, 5)
                        else:
                            service.schedule._v_tried = None
                            scheduling.tick(service, 5)
                            self.assertEqual(claiming.claimStranded(service, 5, 5, lambda name: None), [])
                        self.assertEqual((self.counts(), list(service.schedule.aside)), ({'error': 1}, []))
                        self.assertFalse(any(service.stranded.values()))
                        self.assertRemovable([jobid], 1)

    def test_claimed_and_processed_by_hand(self):
        jobid = self.service.add('echo', now=1)
        self.service.claimNextJob(2)
        self.spoil(jobid, SPOILING['empty'])
        with self.assertRaises(WrongState):
            self.service.processNext(3, jobid)
        self.service.cancel(jobid, 4)
        self.assertRemovable([jobid], 1)

    def test_after_its_end(self):
        for end in 'completed', 'error', 'cancelled':
            with self.subTest(end):
                jobid = self.service.add('fail' if end == 'error' else 'echo', now=1,
                                         retryPolicy=RetryPolicy(attempts=1))
                if end == 'cancelled':
                    self.service.cancel(jobid, 2)
                self.service.process(3)
                self.spoil(jobid, SPOILING['empty'])
                self.assertToldOf(jobid)
                with self.assertRaises(WrongState):
                    self.service.cancel(jobid)
                self.assertEqual(self.counts(), {end: 1})
                self.assertRemovable([jobid], 1)

    def test_the_last_job_of_a_schedule(self):
        schedule = self.service.addCronJob('echo', minute=(5,), newJobs=True, now=1)
        scheduling.tick(self.service, 1)
        scheduling.tick(self.service, 600)
        last = self.service.jobs[schedule].lastJob
        self.spoil(last, SPOILING['empty'])
        scheduling.tick(self.service, 600 + 3600)
        self.assertNotIn(self.service.jobs[schedule].lastJob, (None, last))

    def test_its_key(self):
        jobid = self.service.add('echo', now=1, key='a')
        self.spoil(jobid, SPOILING['empty'])
        self.assertEqual(self.service.add('echo', now=2, key='a'), jobid)
        self.service.cancel(jobid)
        self.service.clean()
        self.assertNotEqual(self.service.add('echo', now=2, key='a'), jobid)

    def test_a_whole_row_is_left_alone(self):
        policy = RetryPolicy(attempts=1)
        jobid = self.service.add('echo', now=1, key='a', retryPolicy=policy, timeLimit=5, request='0a1b')
        job = self.service.jobs[jobid]
        job.errors, job.started, job.due, job.retryAt = (Failure(1.5, 'no'),), 1, 5_000_000, 5
        job.change(later=object.__name__)       # what a later release may have added
        self.assertEqual(self.service.jobs[jobid], job)
        self.assertNotIsInstance(self.service.jobs[jobid], BrokenJob)
        self.assertFalse(shards._told)

    def test_values_that_cannot_be_loaded(self):
        jobid = self.service.add('echo', 'x' * 5000, now=0)
        self.service.process(0)
        pages = ready.shardOf(self.service, jobid).pages
        for name in 'input', 'output':
            self.manager.commit()
            self.assertEqual(structs.detailsOf(self.service, self.service.jobs[jobid])[name], 'x' * 5000)
            for data in b'what is this', pickle.dumps(PersistentMapping, 3) + pickle.dumps({'data': {}}, 3):
                self.store(pages._values[name][jobid], data)
                self.manager.commit()
                self.connection.cacheMinimize()
                self.connection.newTransaction(None)
                details = structs.detailsOf(self.service, self.service.jobs[jobid])
                self.assertEqual((details['status'], details[name]), ('completed', None))

    def test_a_page_that_cannot_be_loaded(self):
        for name, spoil in SPOILING_PAGES.items():
            with self.subTest(name):
                self.open()
                good = self.service.add('echo', 'good', now=1)
                ids = iter((jobid := (good ^ 1 << 20) & ~15, jobid + 1, jobid + 2))             # in another page
                self.service._newId = lambda: next(ids)
                self.service.add('echo', 'x' * 2000, now=1)
                self.service.add('echo', 'x' * 2000, now=1, startLater=True, key='a')
                self.service.addCronJob('echo', minute=(5,), now=1)
                del self.service._newId
                self.spoil(jobid, spoil)
                self.assertIsInstance(self.service.jobs[jobid], BrokenJob)
                self.service.getJobs(), self.service.getStatistics(5), list(self.service.jobs.values())
                self.service.process(2)
                self.assertEqual(self.service.getStatus(good), 'completed')
                self.assertEqual(self.service.getStatus(jobid), 'error')
                self.assertEqual(self.service.removeJobs(), 3)
                self.manager.commit()
                self.assertNotIn(jobid, self.service.jobs)
                self.assertEqual((self.counts(), len(self.service.jobs)), ({}, 0))
                self.assertNotEqual(self.service.add('echo', key='a'), jobid + 1)
                values = ready.shardOf(self.service, jobid).pages._values
                self.assertFalse(any(map(len, values.values())))


class TestGone(RecordCase):
    """Ids that lead to no job, as somebody may leave them who repairs a database."""

    def test_everywhere(self):
        service, ledger = self.service, self.service.ledgers['host']
        later = service.add('echo', startLater=True, now=1)
        cron = service.addCronJob('echo', minute=(5,), now=1)
        inbox = service.addCronJob('echo', delay=9, now=1)
        ended = service.add('echo', now=1)
        service.process(2)
        claimed = service.add('echo', now=1)
        claiming.claim(service, 5, 0, 3, ledger)
        queued = service.add('echo', now=1, key='a')
        suspect = service.add('echo', now=1)
        ready.dequeue(service, suspect)
        service.suspects.put(suspect)
        good = service.add('echo', 'good', now=1)
        for jobid in later, cron, inbox, ended, claimed, queued, suspect:
            ready.shardOf(service, jobid).pages.remove(jobid)
        self.manager.commit()
        self.assertEqual([job.id for job in service.getJobs()], [good])
        service.getStatistics(5)
        self.assertTrue(service.hasJobsWaiting(5))
        self.assertEqual(rescue.rescue(service, 'host', 5).claims, 1)
        service.process(1e6)
        self.assertEqual(service.getStatus(good), 'completed')
        self.assertEqual(service.retryFailed(), 0)
        self.assertNotEqual(service.add('echo', key='a'), queued)
        service.clean()
        self.assertEqual(self.counts().get('completed', 0), 0)


class TestLog(RecordCase):

    def look(self, jobid):
        """Look at a job as all do, with nothing in memory."""
        self.connection.cacheMinimize()
        self.assertEqual(self.service.getStatus(jobid), 'error')
        self.service.getJobs()
        self.service.getStatistics(5)

    def test_one_line_for_each_record(self):
        jobids = [self.service.add('echo', now=1) for _ in SOME]
        for name, jobid in zip(SOME, jobids):
            self.spoil(jobid, SPOILING[name])
        shards._told.clear()                 # what has been said while they were spoilt
        with self.assertLogs(level='DEBUG') as logged:
            for _ in range(3):
                for jobid in jobids:
                    self.look(jobid)
        self.assertEqual({record.name for record in logged.records}, {'lovely.remotetask'})
        self.assertEqual(len(logged.output), len(jobids))
        for jobid in jobids:
            self.assertEqual(sum(f'job {jobid} cannot be loaded: ' in line for line in logged.output), 1)

    def test_ZODB_is_heard_of_other_records(self):
        shard = self.service.shards[0]
        self.service.add('echo', now=1)
        self.store(shard, b'nothing')
        self.manager.begin()
        self.connection.cacheMinimize()
        with self.assertLogs('ZODB', level='ERROR'), self.assertRaises(Exception):
            shard.ready

    def test_many_are_not_all_named(self):
        jobids = self.service.addMany([{'task': 'echo'}] * (shards.TOLD + 50), now=1)
        for jobid in jobids:
            breakRow(self.service, jobid)
        with self.assertLogs('lovely.remotetask') as logged:
            for _ in range(2):
                list(self.service.jobs.values())
        self.assertEqual(len(logged.output), shards.TOLD + 1)
        self.assertIn('no more are named', logged.output[-1])

    def test_a_long_reason(self):
        jobid = self.service.add('echo', now=1)
        setting('run', 'x' * 10 ** 6)(self, self.service.jobs[jobid])
        self.assertLess(len(self.service.getError(jobid)), 200)


class FailingStorage(FileStorage):
    """A file storage whose disk can fail."""

    error = None

    def loadBefore(self, oid, tid):
        if self.error is not None:
            raise self.error
        return super().loadBefore(oid, tid)

    def load(self, oid, version=''):
        if self.error is not None:
            raise self.error
        return super().load(oid, version)


class TestOutage(RecordCase):

    def open(self):
        self.use(DB(FailingStorage(self.enterContext(tempfile.TemporaryDirectory()) + '/Data.fs')))

    def test_a_disk_that_fails_breaks_no_job(self):
        jobid = self.service.add('echo', now=1)
        self.manager.commit()
        ready.shardOf(self.service, jobid).pages.page(jobid)._p_deactivate()
        for error in OSError(5, 'Input/output error'), RuntimeError('connection refused'):
            self.db.storage.error = error
            for look in self.service.getStatus, self.service.cancel:
                with self.assertRaises(type(error)):
                    look(jobid)
            with self.assertRaises(type(error)):
                self.service.process(5)
            self.manager.abort()
            self.db.storage.error = None
        self.assertEqual(self.service.getStatus(jobid), 'queued')
        self.assertFalse(shards._told)


class TestHost(ProcessorCase):
    """A processing host among broken records."""

    def test_a_host_goes_on(self):
        self.provide('echo', lambda input: input)
        shards._told.clear()
        broken = []
        for name, spoil in SPOILING.items():
            jobid = self.add('echo', name)
            spoil(self, self.service.jobs[jobid])
            self.manager.commit()
            broken.append(jobid)
        schedules = []
        for name, spoil in SPOILING_SCHEDULES.items():
            schedules.append(self.service.addCronJob('echo', minute=()))
            spoil(self, self.service.jobs[schedules[-1]])
        good = self.service.addMany([{'task': 'echo', 'input': number} for number in range(20)])
        self.manager.commit()
        self.connection.cacheMinimize()
        self.start(maxThreads=2)
        self.assertEqual(set(self.statuses(*good)), {'completed'})
        self.assertEqual(set(self.statuses(*broken, *schedules)), {'error'})
        last = self.add('echo', 'last')
        self.assertEqual(self.statuses(last), ['completed'])
        waitUntil(lambda: not self.left())
        self.assertEqual({status: count for status, count in self.service.countJobs().items() if count},
                         {'completed': 21, 'error': len(broken) + len(schedules)})
        self.service.clean()
        self.manager.commit()
        self.assertEqual(len(self.service.jobs), 0)

    store = RecordCase.store


class TestFrontend(ServerCase):
    """What callers see of a broken record."""

    level = 2

    def spoil(self, jobid):
        with self.db.transaction() as connection:
            breakRow(connection.root()['/'], jobid)

    def test_calls(self):
        proxy = self.proxy()
        before, jobid, after = proxy.addMany([{'task': 'echo', 'input': 'x', 'key': key} for key in 'abc'])
        self.spoil(jobid)
        self.assertEqual(proxy.waitFor([before, jobid, after], 0), ['queued', 'error', 'queued'])
        self.assertEqual(proxy.waitFor([before, jobid, after], 60, True), ['queued', 'error', 'queued'])
        self.assertEqual({job['id'] for job in proxy.getJobs('queued')['jobs']}, {before, jobid, after})
        self.assertEqual(proxy.getStatistics()['counts']['queued'], 3)
        details = proxy.getJob(jobid)
        self.assertEqual((details['status'], details['task'], details['key']), ('error', '', 'b'))
        self.assertEqual(proxy.getError(jobid), f'job {jobid} cannot be loaded: the bytes are damaged')
        self.assertTrue(proxy.cancel(jobid))
        listing = proxy.getJobs()
        self.assertEqual((listing['total'], len(listing['jobs']), listing['counts']['error']), (3, 3, 1))
        self.assertEqual((proxy.cleanSome(['error']), proxy.getJobs()['total']), (1, 2))

    def test_who_waits_is_told(self):
        proxy = self.proxy()
        jobid, other = proxy.add('echo', 'x'), proxy.add('echo', 'x')
        callers = [inThread(self.proxy().waitFor, [jobid], 60),
                   inThread(self.proxy().waitFor, [jobid, other], 60, True)]
        waitUntil(lambda: self.frontend.statistics()['waitingForJobs'] == len(callers))
        proxy.add('echo', 'x')                          # has the waiting jobs looked at again
        self.assertEqual(proxy.waitFor([jobid], 0), ['queued'])
        self.spoil(jobid)
        for (thread, outcome), answer in zip(callers, (['error'], ['error', 'queued'])):
            thread.join(WAIT)
            self.assertEqual(outcome, [answer])

    def test_two_wait_for_the_same_job(self):
        jobid = self.proxy().add('echo', 'x')
        watcher = waiting.JobWatcher(self.db, self.resolve)
        watcher.start()
        self.addCleanup(watcher.stop, WAIT)
        woken = [threading.Event(), threading.Event()]
        for number, event in enumerate(woken, 1):
            watcher.watch(waiting.Wait('/', [jobid], False, event.set))
            self.waitUntil(lambda: watcher.statistics() == {
                'isWatching': True, 'watchedJobs': 1, 'foundJobs': 1, 'watchers': number})
        self.assertFalse(any(event.is_set() for event in woken))
        self.proxy().cancel(jobid)
        self.assertTrue(all(event.wait(WAIT) for event in woken))


class TestPrefetch(unittest.TestCase):
    """Over ZEO many jobs are asked for at once; those of the same transaction have no oid yet."""

    level = 2

    def test_new_jobs_among_others(self):
        self.addCleanup(testing.tearDown)
        provideUtility(SimpleTask(len), name='echo')
        with temporaryZEO() as server, contextlib.closing(server.database()) as db:
            manager = transaction.TransactionManager()
            connection = db.open(manager)
            service = connection.root()['service'] = TaskService()
            old = service.addMany([{'task': 'echo'}] * 3)
            manager.commit()
            connection.cacheMinimize()
            with self.assertNoLogs(level='WARNING'):
                new = service.addMany([{'task': 'echo'}] * 3)
                self.assertEqual([job.id for _, job in ready.fetch(service, [*old, *new])], [*old, *new])
                self.assertEqual(len(service.getJobs('queued')), 6)
                db.storage.ping()               # what ZEO's thread was asked for before has been done, or has failed
                gc.collect()                    # then it is logged what nobody has asked for
            manager.abort()
            connection.close()


class TestEveryStatus(unittest.TestCase):

    def test_the_table_knows_all_attributes(self):
        # A new attribute of a job needs a line in the table, or a reason why any value will do.
        free = {'input', 'output', 'errors'}
        settable = {name for kind in (job.Job, job.CronJob) for name, value in vars(kind).items()
                    if isinstance(value, property) and value.fset is not None}
        self.assertLessEqual(settable - free - set(rows.Row._fields), set(rowcheck.RIGHT_MORE))
        for status in STATUSES:
            self.assertEqual(rowcheck.RIGHT['status'](status), status != 'processing')


if __name__ == '__main__':
    unittest.main()
