"""Processors on a real database: results, transactions, errors, retries, cancelling."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import sys
import threading
import types
import unittest
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from datetime import tzinfo
from pickle import PickleBuffer
from unittest import mock
from zoneinfo import ZoneInfo

import transaction
from BTrees.IIBTree import IIBucket
from persistent.mapping import PersistentMapping
from persistent.wref import WeakRef
from ZODB.Connection import TransactionMetaData
from zope.component import provideUtility

from lovely.remotetask.database.connections import SharedClient
from lovely.remotetask.database.connections import ThreadConnection
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.transactions import lastSeen
from lovely.remotetask.encoding.plain import NESTING
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import TaskError
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.processing.in_flight import Execution
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.processor import SimpleProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.storage import transitions
from processorcase import PATH
from processorcase import ProcessorCase
from waits import PATIENCE


class TestProcessing(ProcessorCase):

    level = 2

    def test_results(self):
        self.provide('double', lambda input: input * 2)
        self.start()
        jobids = [self.add('double', number) for number in range(50)]
        self.assertEqual(set(self.statuses(*jobids)), {'completed'})
        self.assertEqual([self.service.getResult(jobid) for jobid in jobids], [2 * number for number in range(50)])
        job = self.service.jobs[jobids[0]]
        self.assertTrue(job.created <= job.started <= job.completed)
        self.assertEqual(self.left(), [])

    def test_input_is_a_copy(self):
        self.provide('spoil', lambda input: input.clear())
        self.start()
        jobid = self.add('spoil', {'a': [1]})
        self.statuses(jobid)
        self.assertEqual(self.service.jobs[jobid].input, {'a': [1]})

    def test_writes_commit_with_the_completion(self):
        def write(service, jobid, input):
            service.data[jobid] = service.data.get(jobid, 0) + 1
            if input == 'fail':
                raise RuntimeError('after writing')

        provideUtility(write, ITask, name='write')
        self.start()
        good = [self.add('write') for _ in range(20)]
        bad = self.add('write', 'fail')
        self.assertEqual(self.statuses(*good, bad), ['completed'] * 20 + ['error'])
        self.assertEqual(dict(self.service.data), dict.fromkeys(good, 1))       # 5 threads, one object: conflicts
        self.assertEqual(len(self.service.jobs[bad].errors), 4)
        self.assertTrue(all(self.service.jobs[jobid].failedAttempts == 0 for jobid in good))

    def test_results_that_cannot_be_stored(self):
        self.provide('lambda', lambda input: lambda: None)
        self.provide('deep', lambda input: deep(20000))
        self.provide('echo', lambda input: input)
        self.start()
        jobids = [self.add('lambda'), self.add('deep'), self.add('echo', 'well')]
        self.assertEqual(self.statuses(*jobids), ['error', 'error', 'completed'])
        for jobid in jobids[:2]:
            self.assertIn('cannot be stored', self.service.getError(jobid))
            self.assertEqual(len(self.service.jobs[jobid].errors), 1)

    def test_nesting_of_results(self):
        self.provide('deep', deep)
        self.start()
        jobids = [self.add('deep', levels) for levels in (NESTING, NESTING + 1)]
        self.assertEqual(self.statuses(*jobids), ['completed', 'error'])
        self.assertEqual(depth(self.service.getResult(jobids[0])), NESTING)
        self.assertEqual(self.service.getError(jobids[1]),
                         f'the value cannot be stored: it is nested more than {NESTING} deep')

    def test_an_input_that_cannot_be_pickled_is_refused_when_it_is_added(self):
        self.provide('echo', lambda input: input)
        lock = threading.Lock()
        generator = (n for n in range(3))
        for input in (lock, {'lock': lock}, [lambda: None], {1: [generator]}, types.SimpleNamespace(lock=lock),
                      type('Missing', (PersistentMapping,), {}),
                      mock.Mock(), PickleBuffer(b'')):          # has any attribute; needs a newer kind of pickle
            with self.assertRaisesRegex(InvalidInput, '^input: the value cannot be stored: .*ickle'):
                self.service.add('echo', input)
            with self.assertRaisesRegex(InvalidInput, r'ickle.* \(jobs\[1\]\)$'):
                self.service.addMany([{'task': 'echo'}, {'task': 'echo', 'input': input}])
            with self.assertRaisesRegex(InvalidInput, 'ickle'):
                self.service.addCronJob('echo', input, minute=(0,))
        self.assertEqual((len(self.service.jobs), self.left()), (0, []))

    def test_an_input_may_refer_to_objects_of_the_database(self):
        self.provide('echo', lambda input: [len(input['data']), input['weak']() is input['data'], input['class']])
        self.data['lock'] = 1
        new = PersistentMapping(left=self.data)
        jobid = self.add('echo', {'data': self.data, 'weak': WeakRef(self.data), 'new': new, 'class': Exception})
        self.start()
        self.assertEqual(self.statuses(jobid), ['completed'])
        self.assertEqual(self.service.getResult(jobid), [1, True, Exception])

    def test_an_object_of_another_connection_is_refused_when_a_job_is_added(self):
        self.provide('echo', lambda input: input)
        connection = self.db.open(transaction.TransactionManager())
        self.addCleanup(connection.close)
        other = connection.get(self.data._p_oid)
        with self.assertRaisesRegex(InvalidInput, 'an object of the class .* is of another connection$'):
            self.service.add('echo', [other])
        self.assertEqual(self.left(), [])

    def test_moments_of_time_zones_as_results(self):
        class Zone(tzinfo):             # nobody can import it
            def utcoffset(self, moment):
                return timedelta(0)

        moments = [datetime(2024, 7, 1, tzinfo=zone) for zone in (ZoneInfo('Europe/Berlin'), timezone.utc, None)]
        self.provide('moments', lambda input: [*moments, *(moment.timetz() for moment in moments)])
        self.provide('foreign', lambda input: datetime(2024, 7, 1, tzinfo=Zone()))
        self.start()
        jobids = [self.add('moments'), self.add('foreign'), self.add('moments')]
        self.assertEqual(self.statuses(*jobids), ['completed', 'error', 'completed'])
        result = self.service.getResult(jobids[0])
        self.assertEqual(result, [*moments, *(moment.timetz() for moment in moments)])
        self.assertEqual([moment.tzinfo for moment in result], [moment.tzinfo for moment in moments] * 2)
        self.assertIn('cannot be stored', self.service.getError(jobids[1]))

    def test_objects_as_results(self):
        self.provide('object', lambda input: RetryPolicy(attempts=input))
        self.start()
        jobid = self.add('object', 7)
        self.assertEqual(self.statuses(jobid), ['completed'])
        self.assertEqual(self.service.getResult(jobid), RetryPolicy(attempts=7))

    def test_tasks_that_end_the_transaction(self):
        runs = []

        def end(service, jobid, input):
            runs.append(input)
            service.data[input] = jobid
            getattr(transaction, input)()
            return input

        provideUtility(end, ITask, name='end')
        self.start()
        with self.assertLogs('lovely.remotetask', 'INFO') as logged:
            jobids = {input: self.add('end', input) for input in ('abort', 'commit', 'doom')}
            self.assertEqual(self.statuses(*jobids.values()), ['completed', 'completed', 'error'])
        self.assertEqual(sorted(runs), ['abort', 'commit', 'doom'])
        self.assertEqual(dict(self.service.data), {'commit': jobids['commit']})
        self.assertEqual(sum('ended the transaction itself' in line for line in logged.output), 2)
        self.assertIn('doomed', self.service.getError(jobids['doom']))

    def test_tasks_that_close_their_connection(self):
        def close(service, jobid, input):
            jar = service._p_jar
            transaction.abort()
            jar.close()
            if input == 'and fail':
                raise TaskError('failed')
            return input

        def write(service, jobid, input):
            service.data[input] = service.data.get(input, 0) + 1

        provideUtility(close, ITask, name='close')
        provideUtility(write, ITask, name='write')
        self.start(maxThreads=1)
        for input in None, object, 'and fail':
            first, *others = self.add('close', input), self.add('write', str(input)), self.add('write', str(input))
            self.assertEqual(self.statuses(first, *others), ['error', 'completed', 'completed'])
            self.assertIn('failed' if input == 'and fail' else 'closed the connection', self.service.getError(first))
            self.assertEqual([self.service.jobs[jobid].failedAttempts for jobid in others], [0, 0])
            self.assertEqual(self.service.data[str(input)], 2)

    def test_a_connection_that_another_thread_has_by_now_is_left_alone(self):
        client = ThreadConnection(SharedClient(self.db), 10)
        first = client.open()
        transaction.abort()
        first.close()
        manager = transaction.TransactionManager()
        with contextlib.closing(self.db.open(manager)) as other:
            self.assertIs(other, first)
            self.assertIsNot(client.open(), other)
            client.close()
            self.assertEqual(other.root()['Application']['TaskService'].getAvailableTasks(), {})

    def test_a_task_that_has_its_thread_begin_transactions_explicitly(self):
        def explicit(service, jobid, input):
            transaction.manager.explicit = True

        provideUtility(explicit, ITask, name='explicit')
        self.provide('echo', lambda input: input)
        self.start(maxThreads=1)
        jobids = [self.add('explicit'), self.add('echo'), self.add('echo', object)]
        self.assertEqual(self.statuses(*jobids), ['completed'] * 3)
        self.assertEqual([self.service.jobs[jobid].failedAttempts for jobid in jobids], [0] * 3)

    def test_system_exit_is_a_failure(self):
        self.provide('exit', lambda input: sys.exit(3), retryPolicy=RetryPolicy(attempts=2, base=0.01))
        self.provide('echo', lambda input: input)
        self.start()
        self.assertEqual(self.statuses(self.add('exit'), self.add('echo')), ['error', 'completed'])

    def test_retries_wait_in_the_calendar(self):
        runs = []

        def third(input):
            runs.append(input)
            if len(runs) < 3:
                raise OSError('not yet')
            return len(runs)

        self.provide('third', third, retryPolicy=RetryPolicy(base=0.01))
        self.start(maxThreads=1)
        jobid = self.add('third')
        self.assertEqual(self.statuses(jobid), ['completed'])
        job = self.service.jobs[jobid]
        self.assertEqual((job.output, job.failedAttempts, [str(failure) for failure in job.errors]),
                         (3, 2, ['OSError: not yet'] * 2))
        self.assertIn('Traceback', job.errors[0].traceback)

    def test_cancelled_while_running(self):
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)

        def wait(service, jobid, input):
            if input:
                service.data['written'] = True
            begun.set()
            go.wait(PATIENCE)

        provideUtility(wait, ITask, name='wait')
        self.provide('echo', lambda input: input)
        self.start(maxThreads=1)
        for writes in (False, True):
            begun.clear(), go.clear()
            jobid = self.add('wait', writes)
            self.assertTrue(begun.wait(PATIENCE))
            self.assertEqual(self.statuses(jobid, until=('processing',)), ['processing'])
            self.service.cancel(jobid)
            self.manager.commit()
            go.set()
            self.assertEqual(self.statuses(self.add('echo')), ['completed'])        # by the same thread, later
            self.assertEqual(self.statuses(jobid), ['cancelled'])
        self.assertNotIn('written', self.service.data)
        self.assertEqual(self.left(), [])

    def test_cancelled_between_claim_and_start(self):
        def write(service, jobid, input):
            service.data['written'] = True

        provideUtility(write, ITask, name='write')
        jobid = self.add('write')
        claim = transitions.claimOn(self.service.jobs[jobid])
        self.service.cancel(jobid)
        self.manager.commit()
        with contextlib.closing(self.factory(self.db, PATH)._worker()) as worker:
            report = worker.run(claim)
        self.assertEqual((type(report), report[:2]), (transitions.Recorded, (jobid, 0)))
        self.assertEqual(self.statuses(jobid), ['cancelled'])
        self.assertNotIn('written', self.service.data)

    def test_delayed_job(self):
        self.provide('echo', lambda input: input)
        self.start()
        jobid = self.service.addCronJob('echo', 'late', delay=0.05)
        self.manager.commit()
        self.assertEqual(self.statuses(jobid), ['completed'])

    def test_threads(self):
        self.start(maxThreads=2)
        names = [thread.name for thread in threading.enumerate()]
        self.assertIn('remotetasks.TaskService', names)
        self.assertTrue(all(thread.daemon for thread in threading.enumerate() if 'TaskService' in thread.name))


class TestWhileAnotherCommits(ProcessorCase):

    def setUp(self):
        super().setUp()
        self.waits, self.go = threading.Event(), threading.Event()

    def commit(self):
        """Commit something in a thread; the storage is kept from the end of that, as by a slow disk, until `go`."""
        def run():
            storage, txn = self.db.storage, TransactionMetaData()
            storage.tpc_begin(txn)
            storage.store(self.data._p_oid, *reversed(storage.load(self.data._p_oid)), '', txn)
            storage.tpc_vote(txn)
            storage.tpc_finish(txn, lambda tid: (self.waits.set(), self.go.wait(PATIENCE)))

        thread = threading.Thread(target=run)
        self.addCleanup(thread.join)
        self.addCleanup(self.go.set)
        thread.start()
        self.assertTrue(self.waits.wait(PATIENCE))
        return thread

    def test_the_last_transaction_is_known(self):
        before = self.db.lastTransaction()
        thread = self.commit()
        self.assertEqual(lastSeen(self.db), before)
        self.go.set()
        thread.join()
        self.assertEqual(lastSeen(self.db), self.db.lastTransaction())
        self.assertGreater(lastSeen(self.db), before)

    def test_a_thread_begins_its_next_job(self):
        self.provide('echo', lambda input: input)
        host = MultiProcessor(self.db, PATH, maxThreads=1, monotonic=lambda: 0.0)
        host.cycle.attach()
        self.addCleanup(host.cycle.close)
        self.service.addMany([{'task': 'echo', 'input': number} for number in range(2)])
        self.manager.commit()
        claims = host.cycle.iterate(Work(want=2)).claims
        with contextlib.closing(host._worker()) as worker:
            executions = [Execution(claim, b'', 0.0, 0.0, lambda: None, threading.Lock()) for claim in claims]
            reports = [worker.run(claims[0], execution=executions[0])]
            committing = self.commit()
            reports.append(worker.run(claims[1], execution=executions[1]))
            self.assertTrue(committing.is_alive())
            self.go.set()
        self.assertEqual([report.status for report in reports], [COMPLETED] * 2)


class TestClaimsThatCannotBeLoaded(ProcessorCase):

    def test_the_error_is_the_database_s(self):
        ledger = self.service.shards[0].ledger
        ledger.claim(1, 0)
        self.manager.commit()
        bucket = ledger.claimed
        self.db.storage.close()
        for ask in len, bool, list, lambda claimed: claimed.get(1):
            bucket._p_deactivate()
            try:
                ask(ledger.claimed)
            except Exception as error:
                self.assertNotIsInstance(error, SystemError)
                self.assertTrue(isDatabaseError(error), error)
            else:
                self.fail('it could be loaded')

    def test_an_error_that_a_library_has_passed_over(self):
        bucket = self.service.bucket = IIBucket()
        self.manager.commit()
        bucket._p_deactivate()
        self.db.storage.close()
        try:
            bool(bucket)
        except Exception as error:              # a SystemError, unless BTrees has been mended
            self.assertTrue(isDatabaseError(error))
        else:
            self.fail('it could be loaded')


class TestSimpleProcessor(ProcessorCase):

    factory = SimpleProcessor

    def test_order(self):
        ran = []
        self.provide('note', ran.append)
        for number in range(30):
            self.service._goElsewhere()             # each in a shard of its own
            self.service.add('note', number)
        self.manager.commit()
        last = self.add('note', 30)
        self.start()
        self.statuses(last)
        self.assertEqual(ran, list(range(31)))

    def test_by_hand(self):
        self.provide('echo', lambda input: input)
        processor = self.factory(self.db, PATH)
        self.assertFalse(processor.hasJobsWaiting() or processor.processNext())
        jobid = self.add('echo', 'a')
        self.assertTrue(processor.hasJobsWaiting())
        self.assertEqual(processor.claimNextJob(), jobid)
        self.assertFalse(processor.processNext())
        jobid = self.add('echo', 'b')
        self.assertTrue(processor.processNext())
        self.assertEqual(self.statuses(jobid), ['completed'])


def deep(levels):
    """Return lists within each other, so many."""
    nested = []
    for _ in range(levels - 1):
        nested = [nested]
    return nested


def depth(nested):
    """Return how many lists these are within each other."""
    levels = 1
    while nested:
        nested, = nested
        levels += 1
    return levels


if __name__ == '__main__':
    unittest.main()
