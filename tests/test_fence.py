"""Runs that change their own job, late runs, and errors of the storage at any step of a run."""
# SPDX-License-Identifier: ZPL-2.1
import asyncio
import contextlib
import errno
import logging
import threading
import time
import unittest

import transaction
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError
from ZODB.POSException import POSKeyError
from zope.component import provideUtility

from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import TimeLimitExceeded
from lovely.remotetask.errors import WrongState
from lovely.remotetask.execution import rescue
from lovely.remotetask.execution.run import failed
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.storage.transitions import Recorded
from lovely.remotetask.testing import PATIENCE
from processorcase import PATH
from processorcase import ProcessorCase
from processorcase import claimOne
from processorcase import runClaim


class RunCase(ProcessorCase):

    def setUp(self):
        super().setUp()
        self.runs = []

    def task(self, function, name='task'):
        """Register a task that notes its run, writes to the database, and calls the function."""
        def task(service, jobid, input):
            self.runs.append(jobid)
            service.data['written'] = service.data.get('written', 0) + 1
            return function(service, jobid)

        provideUtility(task, ITask, name=name)

    def host(self):
        """Return a host that a test makes go on, step by step."""
        host = MultiProcessor(self.db, PATH, name='host')
        host._attach()
        self.addCleanup(host.cycle.close)
        return host

    def claimed(self, host, at=None):
        """Have the host claim a job; return the claim."""
        if at is not None:
            host.clock = host.cycle.clock = lambda: at
        return claimOne(host)

    def finish(self, host, claim):
        """Run what was claimed, report it, and return the report."""
        report = runClaim(host, claim)
        self.manager.begin()
        return report

    def written(self):
        self.manager.begin()
        return self.service.data.get('written', 0)

    def late(self, host, claim):
        """Have the host's claims rescued."""
        self.manager.begin()
        rescue.rescue(self.service, host.name, 0)
        self.manager.commit()


class TestOwnJob(RunCase):
    """What a task does to the job that it runs for: each has an end, and is committed with what else it writes."""

    level = 2

    def added(self):
        """Yield a job of each kind, which is due, with a name for it."""
        yield 'job', self.add('task'), None
        yield 'delayed job', self.scheduled(delay=10), 20.0
        yield 'cron job', self.scheduled(minute=range(60)), 60.0

    def scheduled(self, **schedule):
        jobid = self.service.addCronJob('task', now=0.0, **schedule)
        self.manager.commit()
        self.service.processNext(0.0)           # the scheduler takes it in
        self.manager.commit()
        return jobid

    def test_cancelled(self):
        self.task(lambda service, jobid: service.cancel(jobid))
        host, count = self.host(), 0
        for kind, jobid, at in self.added():
            with self.subTest(kind):
                count += 1
                self.finish(host, self.claimed(host, at))
                self.assertEqual((self.runs.count(jobid), self.written()), (1, count))
                self.assertEqual(self.service.getStatus(jobid), CANCELLED)
                self.assertEqual((self.service.jobs[jobid].failedAttempts, self.service.jobs[jobid].errors), (0, ()))
                self.assertEqual((self.left(), self.service.countJobs()[CANCELLED]), ([], count))

    def test_cancelled_and_removed(self):
        def remove(service, jobid):
            service.cancel(jobid)
            self.assertEqual(service.removeJobs(CANCELLED), 1)

        self.task(remove)
        host, count = self.host(), 0
        for kind, jobid, at in self.added():
            with self.subTest(kind):
                count += 1
                self.finish(host, self.claimed(host, at))
                self.assertEqual((self.runs.count(jobid), self.written()), (1, count))
                self.assertNotIn(jobid, self.service.jobs)
                self.assertEqual((self.left(), self.service.countJobs()[CANCELLED]), ([], 0))

    def test_cancelled_and_failed(self):
        def fail(service, jobid):
            service.cancel(jobid)
            raise TaskError('after all')

        self.task(fail)
        jobid, host = self.add('task'), self.host()
        self.finish(host, self.claimed(host))
        self.assertEqual((self.service.getStatus(jobid), self.service.getError(jobid)), ('error', 'after all'))
        self.assertEqual((self.written(), self.left()), (0, []))

    def test_cancelled_and_committed(self):
        refused = []

        def cancel(service, jobid):
            service.cancel(jobid)
            transaction.commit()
            service.data['later'] = True        # after its end the job has no say any more
            try:
                transaction.commit()
            except Exception as error:
                refused.append(str(error))
                transaction.abort()

        self.task(cancel)
        jobid, host = self.add('task'), self.host()
        self.finish(host, self.claimed(host))
        self.assertEqual((self.service.getStatus(jobid), self.written(), self.left()), (CANCELLED, 1, []))
        self.assertEqual(refused, ['the job has been cancelled, or is run elsewhere'])
        self.assertNotIn('later', self.service.data)

    def test_retried(self):
        def retry(service, jobid):
            with self.assertRaises(WrongState):
                service.retry(jobid)
            return 'done'

        self.task(retry)
        jobid, host = self.add('task'), self.host()
        self.finish(host, self.claimed(host))
        self.assertEqual(self.service.getResult(jobid), 'done')

    def test_rescheduled(self):
        # A cron job stays one: the run is one of its runs.
        for name, change in (('reschedule', lambda service, jobid: service.reschedule(jobid)),
                             ('update', lambda service, jobid: service.updateCronJob(jobid, minute=(7,)))):
            with self.subTest(name):
                self.task(lambda service, jobid: change(service, jobid) or 'done')
                jobid, host = self.scheduled(minute=range(60)), self.host()
                self.finish(host, self.claimed(host, 60.0))
                job = self.service.jobs[jobid]
                self.assertEqual((job.status, job.pending, job.output, len(job.history)), (CRONJOB, False, 'done', 1))
                self.assertEqual(self.runs.count(jobid), 1)
                host.cycle.iterate(Work())
                self.manager.begin()
                self.assertEqual((job.scheduledFor, job.failedAttempts), (420.0 if name == 'update' else 120.0, 0))
                host.cycle.leave()
                self.service.cancel(jobid)
                self.manager.commit()

    def test_a_cron_job_becomes_a_delayed_one(self):
        self.task(lambda service, jobid: service.updateCronJob(jobid, now=60.0, delay=100))
        jobid, host = self.scheduled(minute=range(60)), self.host()
        self.finish(host, self.claimed(host, 60.0))
        job = self.service.jobs[jobid]
        self.assertEqual((job.status, job.failedAttempts, self.written(), self.left()), (DELAYED, 0, 1, []))
        host.clock = host.cycle.clock = lambda: 90.0
        self.assertEqual(host.cycle.iterate(Work(want=1)).claims, [])
        self.manager.begin()
        self.assertEqual(self.left(), [])
        self.task(lambda service, jobid: 'later')
        self.finish(host, self.claimed(host, 200.0))
        self.assertEqual((job.status, job.output, self.runs), ('completed', 'later', [jobid] * 2))

    def test_in_the_callers_transaction(self):
        def cancel(service, jobid):
            service.cancel(jobid)

        def committed(service, jobid):
            service.cancel(jobid)
            self.manager.commit()

        def aborted(service, jobid):
            service.cancel(jobid)
            self.manager.abort()

        self.task(cancel)
        for change, status in (cancel, CANCELLED), (committed, CANCELLED), (aborted, 'completed'):
            for kind, jobid, at in self.added():
                with self.subTest(change.__name__, kind=kind):
                    self.task(change)
                    self.assertTrue(self.service.processNext(at))
                    self.assertEqual(self.runs.count(jobid), 1)
                    goesOn = kind == 'cron job' and status != CANCELLED
                    self.assertEqual(self.service.getStatus(jobid), CRONJOB if goesOn else status)
                    if goesOn:
                        self.service.cancel(jobid)
                    self.manager.commit()
                    self.assertEqual(self.left(), [])

    def test_a_run_whose_end_is_lost_is_charged(self):
        # A claim whose run says that all is on record, and it is not: this must not go on for ever.
        jobid, host = self.add_echo(), self.host()
        for count in 1, 2, 3:
            claim = self.claimed(host)
            host.cycle.iterate(Work([Recorded(claim.jobid, claim.run)]))
            self.manager.begin()
            self.assertEqual((self.service.getStatus(jobid), self.service.jobs[jobid].failedAttempts), (QUEUED, count))
        claim = self.claimed(host)
        host.cycle.iterate(Work([Recorded(claim.jobid, claim.run)]))
        self.manager.begin()
        self.assertEqual((self.service.getStatus(jobid), self.left()), ('error', []))
        self.assertEqual(self.service.getError(jobid), 'the end of the run is not on record')

    def test_a_time_limit_that_is_over_while_the_run_commits(self):
        # The thread has committed the end of the run, and the ledger's thread reports that it took too long.
        self.task(lambda service, jobid: 'done')
        jobid, host = self.add('task'), self.host()
        claim = self.claimed(host)
        with contextlib.closing(host._worker()) as worker:
            report = worker.run(claim)
        late = failed(claim, TimeLimitExceeded(1), 0.0, 1.0, host.name, RetryPolicy(attempts=1))
        host.cycle.iterate(Work([late, report]))
        self.manager.begin()
        self.assertEqual((self.service.getStatus(jobid), self.service.getResult(jobid)), ('completed', 'done'))
        self.assertEqual((self.left(), self.service.countJobs()['completed']), ([], 1))
        self.assertEqual([job.id for job in self.service.getJobs('completed')], [jobid])

    def add_echo(self):
        self.provide('echo', lambda input: input)
        return self.add('echo')


class TestLateRuns(RunCase):
    """Runs whose job was given to another host meanwhile: none of their commits counts."""

    level = 2

    def check(self, task, commits=0):
        """Have a task run for a job and for a cron job; return what its own commits were refused with.

        task -- called with the service, the job's id, and a function that has the job rescued.
        commits -- how often the task commits while the run is its own.
        """
        refusals, before = [], self.written()
        for number, (kind, add) in enumerate((('job', self.add), ('cron job', self.cron))):
            with self.subTest(kind):
                jobid, host = add('echo'), self.host()
                claim = self.claimed(host, 60.0)

                def run(service, jobid):
                    try:
                        task(service, jobid, lambda: self.late(host, claim))
                    except BaseException as error:
                        refusals.append(error)
                        raise

                self.task(run, 'echo')
                self.finish(host, claim)
                self.assertEqual(self.written(), before + commits * (number + 1))
                job = self.service.jobs[jobid]
                self.assertEqual((job.run, job.output, job.errors), (1, None, ()))
                self.assertEqual(self.left(), [jobid])
                self.service.cancel(jobid)
                self.manager.commit()
                host.cycle.leave()
        return refusals

    def setUp(self):
        super().setUp()
        self.task(lambda service, jobid: None, 'echo')

    def cron(self, task):
        jobid = self.service.addCronJob(task, minute=range(60), now=0.0)
        self.service.processNext(0.0)           # the scheduler takes it in
        self.manager.commit()
        return jobid

    def test_completion(self):
        self.assertEqual(self.check(lambda service, jobid, late: late()), [])

    def test_a_commit_of_the_task(self):
        def commit(service, jobid, late):
            late()
            transaction.commit()

        refusals = self.check(commit)
        self.assertEqual([type(error).__name__ for error in refusals], ['ConflictError'] * 2)

    def test_a_later_commit_of_the_task(self):
        def commit(service, jobid, late):
            transaction.commit()
            late()
            service.data['written'] += 1        # in a transaction that nobody has begun
            transaction.commit()

        refusals = self.check(commit, commits=1)
        self.assertEqual(len(refusals), 2)

    def test_a_transaction_that_begins_late(self):
        def commit(service, jobid, late):
            late()
            with transaction.manager:
                service.data['written'] = 7

        refusals = self.check(commit)
        self.assertEqual([str(error) for error in refusals], ['the job has been cancelled, or is run elsewhere'] * 2)

    def test_the_end_of_its_own_job(self):
        def cancel(service, jobid, late):
            service.cancel(jobid)
            late()

        self.check(cancel)

    def test_the_removal_of_its_own_job(self):
        def remove(service, jobid, late):
            service.cancel(jobid)
            service.removeJobs(CANCELLED)
            late()

        self.check(remove)

    def test_between_the_last_look_and_the_commit(self):
        class Late:
            """A data manager that has the job rescued before the database is locked."""

            def __init__(self, late):
                self.late = late

            def sortKey(self):
                return '\0'

            def tpc_begin(self, txn):
                self.late()

            def nothing(self, txn):
                pass

            commit = abort = tpc_vote = tpc_finish = tpc_abort = nothing

        def remove(service, jobid, late):
            service.cancel(jobid)
            service.removeJobs(CANCELLED)
            transaction.get().join(Late(late))

        def commit(service, jobid, late):
            transaction.get().join(Late(late))
            transaction.commit()

        for task in remove, commit:
            with self.subTest(task.__name__):
                self.check(task)


class DriverError(Exception):
    """What a driver raises that knows nothing of ZODB."""


class Faulty(FileStorage):
    """Fails in some of its methods, as often as is asked for."""

    faults = {}                 # name -> exceptions that are still to be raised

    def _fail(self, name):
        if self.faults.get(name):
            raise self.faults[name].pop()

    def tpc_begin(self, *arguments):
        self._fail('tpc_begin')
        super().tpc_begin(*arguments)

    def store(self, *arguments):
        self._fail('store')
        return super().store(*arguments)

    def tpc_vote(self, *arguments):
        self._fail('tpc_vote')
        return super().tpc_vote(*arguments)

    def tpc_finish(self, *arguments):
        tid = super().tpc_finish(*arguments)
        self._fail('tpc_finish')            # after it: nobody knows whether it is committed
        return tid

    def tpc_abort(self, *arguments):
        super().tpc_abort(*arguments)
        self._fail('tpc_abort')

    def load(self, *arguments):
        self._fail('load')
        return super().load(*arguments)

    def loadBefore(self, *arguments):
        self._fail('load')
        return super().loadBefore(*arguments)

    def lastTransaction(self):
        self._fail('lastTransaction')       # at the beginning of a transaction, and after it
        return super().lastTransaction()


class TestStorageErrors(RunCase):
    """An outage of the storage, whatever it raises and wherever, is no job's error."""

    level = 2

    storageFactory = Faulty

    def setUp(self):
        super().setUp()
        self.storage = self.db.storage
        self.storage.faults = {}

    def test_each_step(self):
        def echo(input):
            self.runs.append(input)
            return input

        self.task(lambda service, jobid: None, 'write')
        self.provide('echo', echo)
        self.db.setCacheSize(0)                 # so that each transaction has something to load
        host = self.start(waitTime=0.05, maxThreads=2)
        expected = 0
        with self.assertLogs('lovely.remotetask', logging.DEBUG) as logs:
            for method in 'tpc_begin', 'store', 'tpc_vote', 'tpc_finish', 'tpc_abort', 'load', 'lastTransaction':
                for error in OSError(errno.ENOSPC, 'no space left on device'), DriverError('the server went away'):
                    with self.subTest(method, error=error):
                        jobids = [self.add('write'), self.add('echo')]
                        expected += 1
                        self.connection.close()                         # its own errors are not meant here
                        self.meet(host, method, [error] * 6, logs)
                        self.connection = self.db.open(self.manager)
                        self.service = self.connection.root()['Application']['TaskService']
                        self.assertEqual(self.statuses(*jobids), ['completed'] * 2)
                        self.assertEqual([self.service.jobs[jobid].errors for jobid in jobids], [(), ()])
                        self.assertEqual(self.service.data['written'], expected)
                        self.assertTrue(all(thread.is_alive() for thread in (host.thread, *host.threads)))

    def meet(self, host, method, errors, logs):
        """Have a method of the storage raise errors, until the host has met all of them."""
        self.storage.faults, until = {method: errors}, time.monotonic() + 3 * PATIENCE
        while self.storage.faults[method] and method != 'tpc_abort':
            self.assertTrue(host.running)
            self.assertLess(time.monotonic(), until, '\n'.join(logs.output[-5:]))
            host._wakeup.set()
            host._lifecycle.ended.wait(0.01)
        self.storage.faults = {}

    def test_in_a_task(self):
        def load(service, jobid):
            if len(self.runs) < 4:
                service.schedule._p_deactivate()
                self.storage.faults['load'] = [DriverError('the server went away')]
                service.schedule.scheduler

        self.task(load)
        self.start(maxThreads=1)
        jobid = self.add('task')
        self.assertEqual(self.statuses(jobid), ['completed'])
        self.assertEqual((len(self.runs), self.written(), self.service.jobs[jobid].errors), (4, 1, ()))

    def test_another_storage_of_the_task(self):
        self.provide('open', lambda input: FileStorage(input, read_only=True),
                     retryPolicy=RetryPolicy(attempts=2, base=0))
        self.start(maxThreads=1)
        jobid = self.add('open', '/no/such/directory/Data.fs')
        self.assertEqual(self.statuses(jobid), ['error'])
        self.assertIn('FileNotFoundError', self.service.getError(jobid))

    def test_what_counts(self):
        def raised(function, *arguments):
            try:
                function(*arguments)
            except BaseException as error:
                return error
            self.fail('nothing was raised')

        def load(error=None):
            self.service.schedule._p_deactivate()
            self.storage.faults = {} if error is None else {'load': [error]}
            return self.service.schedule.scheduler

        def of(error):
            return raised(load, error)

        def direct(error):
            self.storage.faults = {'load': [error]}
            return raised(self.storage.load, b'\0' * 8)

        def deep():
            deep()

        for error, expected in ((of(DriverError()), True), (of(OSError()), True), (of(AttributeError()), True),
                                (of(KeyboardInterrupt()), False), (of(RecursionError()), False),
                                (of(MemoryError()), False), (raised(self.connection.get, b'\1' * 8), False),
                                (direct(DriverError()), False), (direct(ConflictError()), True),
                                (DriverError(), False), (OSError(), False),
                                (raised(deep), False), (raised(open, '/no/such/file'), False)):
            with self.subTest(repr(error)):
                self.assertIs(isDatabaseError(error), expected)
        self.assertIsInstance(raised(self.connection.get, b'\1' * 8), POSKeyError)
        load()


class TestThreads(RunCase):
    """No exception of a task ends a thread, and a thread that ends all the same is noticed."""

    level = 2

    def test_exceptions_of_any_kind(self):
        class Silent(Exception):
            def __str__(self):
                raise RuntimeError('it has nothing to say')

        class Strange(BaseException):
            pass

        errors = [Silent(), Strange('strange'), asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt(),
                  SystemExit('bye'), MemoryError()]

        def fail(input):
            raise errors[input]

        self.provide('fail', fail, retryPolicy=RetryPolicy(attempts=1))
        self.provide('echo', lambda input: input)
        host = self.start(maxThreads=1)
        with self.assertLogs('lovely.remotetask', logging.ERROR):
            jobids = [self.add('fail', number) for number in range(len(errors))] + [self.add('echo')]
            self.assertEqual(self.statuses(*jobids), ['error'] * len(errors) + ['completed'])
        self.assertEqual([self.service.getError(jobid) for jobid in jobids[:-1]],
                         ['Silent', 'Strange: strange', 'CancelledError', 'GeneratorExit', 'KeyboardInterrupt',
                          'SystemExit: bye', 'MemoryError'])
        self.assertTrue(host.threads[0].is_alive())

    def test_a_thread_that_ends(self):
        self.provide('echo', lambda input: input)
        host = self.start(maxThreads=2)
        self.statuses(self.add('echo'))

        def end(*arguments):
            raise SystemExit()

        hook = threading.excepthook
        threading.excepthook = lambda arguments: None
        self.addCleanup(setattr, threading, 'excepthook', hook)
        with self.assertLogs('lovely.remotetask', logging.ERROR) as logs:
            host.inFlight.acquire = end
            jobid = self.add('echo')
            host.thread.join(PATIENCE)
        self.assertFalse(host.thread.is_alive() or host.running)
        self.assertIn('a thread that runs jobs has ended', logs.output[0])
        self.start(name=host.name)
        self.assertEqual(self.statuses(jobid), ['completed'])

    def test_a_connection_that_cannot_be_closed(self):
        # It has changes that no transaction knows of, as after an abort that failed: the host ends all the same.
        host = self.host()
        session = host.cycle.session
        session.begin().data['forgotten'] = True
        connection, txn = session.connection, session.manager.get()
        session.manager.free(txn)
        with self.assertLogs('lovely.remotetask', logging.WARNING) as logs:
            host.cycle.close()
        self.assertIn('its connection to the database is given up', logs.output[0])
        host.cycle.attach()
        host.cycle.leave()
        self.manager.begin()
        self.assertNotIn('forgotten', self.service.data)
        connection.abort(txn)
        connection.close()

    def test_what_a_run_leaves_on_its_transaction(self):
        # The next run of the thread has nothing to do with it, though it might have the same transaction.
        seen = []

        def second(service, jobid, input):
            txn = transaction.get()
            seen.append((txn.description, txn.user, txn.extension, getattr(txn, '_data', None)))

        provideUtility(second, ITask, name='second')
        for name, leave in (
                ('note', lambda txn: txn.note('the first')), ('user', lambda txn: txn.setUser('ann')),
                ('extension', lambda txn: txn.setExtendedInfo('by', 'ann')),
                ('data', lambda txn: txn.set_data(self, 'the first')),
                ('before', lambda txn: txn.addBeforeAbortHook(seen.append, ('before',))),
                ('after', lambda txn: txn.addAfterAbortHook(seen.append, ('after',)))):
            with self.subTest(name):
                provideUtility(lambda service, jobid, input: leave(transaction.get()), ITask, name='first')
                jobids, host = [self.add('first'), self.add('second')], self.host()
                host.monotonic = lambda: 0.0            # no transaction is too old
                claims = host.cycle.iterate(Work(want=2)).claims
                claims.sort(key=lambda claim: claim.task)
                with contextlib.closing(host._worker()) as worker:
                    reports = [worker.run(claim) for claim in claims]
                host.cycle.iterate(Work(reports))
                host.cycle.leave()
                self.assertEqual(self.statuses(*jobids), ['completed'] * 2)
        nothing = ('', '', {}, None)
        self.assertEqual(seen, [nothing] * 4 + ['before', nothing, 'after', nothing])

    def test_a_commit_that_fails_and_is_aborted(self):
        class Refusal:
            def sortKey(self):
                return 'refusal'

            def nothing(self, txn):
                pass

            tpc_begin = commit = abort = tpc_finish = tpc_abort = nothing

            def tpc_vote(self, txn):
                raise ValueError('refused')

        def commit(service, jobid):
            transaction.get().join(Refusal())
            with self.assertRaises(ValueError):
                transaction.commit()
            transaction.abort()                 # as the documents of `transaction` have it
            service.data['afterwards'] = True
            return 'done'

        self.task(commit)
        jobid, host = self.add('task'), self.host()
        with self.assertNoLogs('txn', logging.ERROR):
            self.finish(host, self.claimed(host))
        self.assertEqual((self.service.getStatus(jobid), self.service.getResult(jobid)), ('completed', 'done'))
        self.assertTrue(self.service.data['afterwards'])
        self.assertEqual(self.written(), 0)

    def test_a_data_manager_that_asks_for_another_try(self):
        class Manager:
            def __init__(self, error, retry):
                self.error, self.retry = error, retry

            def sortKey(self):
                return 'manager'

            def tpc_vote(self, txn):
                if self.error is not None:
                    raise self.error

            def should_retry(self, error):
                return self.retry

            def nothing(self, txn):
                pass

            tpc_begin = commit = abort = tpc_finish = tpc_abort = nothing

        def join(service, jobid):
            transaction.get().join(Manager(OSError('the other database') if len(self.runs) < 3 else None, self.retry))

        self.task(join)
        self.start(maxThreads=1)
        self.retry = True
        jobid = self.add('task')
        self.assertEqual((self.statuses(jobid), len(self.runs), self.written()), (['completed'], 3, 1))
        self.retry = False
        self.runs.clear()
        jobid = self.add('task')
        self.assertEqual((self.statuses(jobid), len(self.runs), self.written()), (['error'], 1, 1))
        self.assertEqual(self.service.getError(jobid),
                         'what the task gives cannot be stored: OSError: the other database')


if __name__ == '__main__':
    unittest.main()
