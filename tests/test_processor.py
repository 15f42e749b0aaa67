"""Processors on a real database: outcomes, transactions, conflicts, cancelling, hosts that are gone."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import dataclasses
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from datetime import tzinfo
from zoneinfo import ZoneInfo

import transaction
from BTrees.IIBTree import IIBucket
from persistent.mapping import PersistentMapping
from ZEO.ClientStorage import ClientStorage
from ZODB.Connection import TransactionMetaData
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask.database.connections import SeparateClient
from lovely.remotetask.database.connections import SharedClient
from lovely.remotetask.database.connections import ThreadConnection
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.opening import Database
from lovely.remotetask.database.transactions import lastSeen
from lovely.remotetask.encoding.plain import NESTING
from lovely.remotetask.errors import NameTaken
from lovely.remotetask.errors import TaskError
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.job import Failure
from lovely.remotetask.processing import claim_loop as claimloop
from lovely.remotetask.processing import rescue
from lovely.remotetask.processing import worker_pool as workerpool
from lovely.remotetask.processing.claim_strategy import CLAIMING
from lovely.remotetask.processing.claim_strategy import SKIP
from lovely.remotetask.processing.claim_strategy import Position
from lovely.remotetask.processing.cycle import Cycle
from lovely.remotetask.processing.in_flight import Execution
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processing.load_sharing import HELD_UP
from lovely.remotetask.processing.load_sharing import SLOWER
from lovely.remotetask.processing.load_sharing import WARM
from lovely.remotetask.processing.ownership import LeaseLost
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.processor import SimpleProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import install
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.storage.shards import BITS
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import temporaryZEO


PATH = ('TaskService',)


def claimOne(host):
    """Make a host go on until it has claimed a job; return the claim."""
    for _ in range(3):              # a scheduler takes in a schedule, and calls it in a later turn
        claims = host.cycle.iterate(Work(want=1)).claims
        if claims:
            return claims[0]
    raise AssertionError('nothing was claimed')


def runClaim(host, claim):
    """Run a job as a thread of the host does, enter the report, and return it."""
    with contextlib.closing(host._worker()) as worker:
        report = worker.run(claim)
    host.cycle.iterate(Work([report]))
    return report


class ProcessorCase(unittest.TestCase):

    factory = MultiProcessor
    storageFactory = FileStorage

    def setUp(self):
        self.addCleanup(testing.tearDown)
        logging.getLogger('lovely.remotetask').addHandler(handler := logging.NullHandler())
        self.addCleanup(logging.getLogger('lovely.remotetask').removeHandler, handler)
        self.db = DB(self.storageFactory(self.enterContext(tempfile.TemporaryDirectory()) + '/Data.fs'))
        self.addCleanup(self.db.close)
        install(self.db)
        self.manager = transaction.TransactionManager()
        self.connection = self.db.open(self.manager)
        self.addCleanup(lambda: self.connection.close())
        self.addCleanup(self.manager.abort)
        self.service = self.connection.root()['Application']['TaskService']
        self.data = self.service.data = PersistentMapping()
        self.manager.commit()

    def provide(self, name, function, **attributes):
        task = SimpleTask(function)
        vars(task).update(attributes)
        provideUtility(task, name=name)

    def start(self, **arguments):
        processor = self.factory(self.db, PATH, **{'waitTime': 30.0, **arguments})
        processor.start()
        self.addCleanup(lambda: self.assertTrue(processor.stop(20)))
        return processor

    def add(self, *arguments, **keywords):
        jobid = self.service.add(*arguments, **keywords)
        self.manager.commit()
        return jobid

    def statuses(self, *jobids, until=FINAL):
        """Wait until all jobs are in one of these statuses, woken by commits, and return their statuses."""
        wakeup = threading.Event()
        notifierOf(self.db).subscribe(wakeup)
        while True:
            self.manager.begin()
            found = [self.service.getStatus(jobid) for jobid in jobids]
            if set(found) <= set(until):
                return found
            self.assertTrue(wakeup.wait(20), found)
            wakeup.clear()

    def left(self):
        """Return what is ready or claimed."""
        self.manager.begin()
        return list(self.service.suspects) + [jobid for shard in self.service.shards for jobid in shard.ready] + [
            jobid for ledger in self.service.ledgers.values() for jobid in ledger.claimed]


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
        self.assertTrue(all(self.service.jobs[jobid].attempt == 0 for jobid in good))

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
            self.assertEqual([self.service.jobs[jobid].attempt for jobid in others], [0, 0])
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
        self.assertEqual([self.service.jobs[jobid].attempt for jobid in jobids], [0] * 3)

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
        self.assertEqual((job.output, job.attempt, [str(failure) for failure in job.errors]),
                         (3, 2, ['OSError: not yet'] * 2))
        self.assertIn('Traceback', job.errors[0].traceback)

    def test_cancelled_while_running(self):
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)

        def wait(service, jobid, input):
            if input:
                service.data['written'] = True
            begun.set()
            go.wait(20)

        provideUtility(wait, ITask, name='wait')
        self.provide('echo', lambda input: input)
        self.start(maxThreads=1)
        for writes in (False, True):
            begun.clear(), go.clear()
            jobid = self.add('wait', writes)
            self.assertTrue(begun.wait(20))
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
            storage.tpc_finish(txn, lambda tid: (self.waits.set(), self.go.wait(20)))

        thread = threading.Thread(target=run)
        self.addCleanup(thread.join)
        self.addCleanup(self.go.set)
        thread.start()
        self.assertTrue(self.waits.wait(20))
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


class TestIterations(ProcessorCase):
    """An iteration of the claim loop changes what the host knows if it is committed, and else nothing."""

    def setUp(self):
        super().setUp()
        self.provide('double', lambda input: 2 * input)
        self.meanwhile = []                 # what others do during the next iteration
        self.cycle = Cycle(self.db, PATH, 'a', clock=self.clock, monotonic=lambda: 100.0)
        self.addCleanup(self.cycle.close)
        self.cycle.attach()

    def clock(self):
        if self.meanwhile:
            self.manager.begin()
            self.meanwhile.pop()()
            self.manager.commit()
        return 1000.0

    def test_a_conflict_changes_nothing(self):
        jobid, later = self.add('double', 1), self.add('double', 2)
        claim, = self.cycle.iterate(Work(want=1)).claims
        self.assertEqual(claim.jobid, jobid)
        before, claims = self.cycle.state, dict(self.cycle.openClaims)
        self.assertEqual(claims, {jobid: 0})
        self.meanwhile.append(lambda: (self.service.jobs[jobid].touch(), self.service.pause()))
        work = Work([transitions.Outcome(jobid, 0, COMPLETED, 1.0, 2.0, 2)], 1, duration=0.001)
        with self.assertRaises(ConflictError):
            self.cycle.iterate(work)
        self.assertEqual(dataclasses.replace(self.cycle.state, position=before.position), before)
        self.assertEqual(self.cycle.openClaims, claims)
        result = self.cycle.iterate(work)                           # the same reports again
        self.assertEqual((result.claims, self.cycle.openClaims), ([], {}))
        self.assertIs(self.cycle.state, result.state)
        self.assertTrue(result.state.paused and result.state.isQuick)
        self.assertEqual(self.statuses(jobid), [COMPLETED])
        self.manager.begin()
        self.assertEqual(self.service.getStatus(later), QUEUED)

    def test_jobs_are_loaded_in_advance_where_commits_take_long(self):
        asked = []
        self.cycle.leave(set())
        cycle = Cycle(self.db, PATH, 'b', clock=self.clock, prefetch=asked.append)
        self.addCleanup(cycle.close)
        cycle.attach()
        self.add('double', 1)
        self.assertEqual(len(cycle.iterate(Work(want=1)).claims), 1)
        self.assertEqual(asked, [])
        jobid = self.add('double', 1)
        self.assertEqual(len(cycle.iterate(Work(want=1, isFar=True)).claims), 1)
        self.assertEqual(asked, [[ready.shardOf(self.service, jobid).pages.directory._p_oid,
                                  ready.shardOf(self.service, jobid).pages.page(jobid)._p_oid]])

    def test_after_a_conflict_it_goes_elsewhere(self):
        positions = set()
        for _ in range(20):
            jobid = self.add('double', 1)
            self.assertEqual(len(self.cycle.iterate(Work(want=1)).claims), 1)
            self.meanwhile.append(self.service.jobs[jobid].touch)
            with self.assertRaises(ConflictError):
                self.cycle.iterate(Work([transitions.Outcome(jobid, 0, COMPLETED, 1.0, 2.0, 2)]))
            positions.add(self.cycle.state.position)
            self.cycle.iterate(Work([transitions.Outcome(jobid, 0, COMPLETED, 1.0, 2.0, 2)]))
            self.assertEqual(self.cycle.state.position.skip, 0)
        self.assertGreater(len(positions), 1)

    def test_a_ledger_that_has_another_owner(self):
        self.manager.begin()
        self.service.ledgers['a'].owner = hosts.identity()
        self.manager.commit()
        before = self.db.lastTransaction()
        with self.assertRaises(LeaseLost):
            self.cycle.iterate(Work(want=1))
        self.assertEqual(self.db.lastTransaction(), before)

    def test_two_hosts_without_a_name_begin_at_the_same_time(self):
        others = []

        def clock():
            if begun and not others:
                others.append(None)                         # once
                others[0] = Cycle(self.db, PATH)
                self.addCleanup(others[0].close)
                others[0].attach()
            return 1000.0

        begun = []
        cycle = Cycle(self.db, PATH, clock=clock)
        self.addCleanup(cycle.close)
        begun.append(True)
        cycle.attach()
        self.assertEqual([each.name for each in (*others, cycle)],
                         [f'{socket.gethostname()}-{number}' for number in (1, 2)])


class TestHosts(ProcessorCase):

    level = 2

    def test_many_hosts_begin_at_the_same_time(self):
        server = self.enterContext(temporaryZEO())
        dbs = [self.enterContext(contextlib.closing(server.database())) for _ in range(24)]
        install(dbs[0])
        cycles = [Cycle(db, PATH, name=f'many-{number}') for number, db in enumerate(dbs)]
        barrier = threading.Barrier(len(cycles))

        def attach(cycle):
            self.addCleanup(cycle.close)
            barrier.wait(60)
            cycle.attach()
            return cycle.owner['token']

        with ThreadPoolExecutor(len(cycles)) as threads:
            tokens = list(threads.map(attach, cycles))
        dbs[0].storage.ping()
        with dbs[0].transaction() as connection:
            ledgers = connection.root()['Application']['TaskService'].ledgers
            self.assertEqual([ledgers[cycle.name].owner['token'] for cycle in cycles], tokens)
            self.assertEqual(len({ledgers[cycle.name].number for cycle in cycles}), len(cycles))

    def test_a_claim_on_what_has_run_meanwhile(self):
        # One host looks at the queue, and is slow.  Another runs the job meanwhile, which fails and is queued again:
        # the slow one must not take that entry with what it knows, which would be a claim on the run that is over.
        self.provide('double', lambda input: 2 * input)
        self.service.ledgers.update({name: Ledger() for name in 'ab'})
        jobid, now = self.add('double', 1), 1000.0
        slow = transaction.TransactionManager()
        connection = self.db.open(slow)
        self.addCleanup(connection.close)
        self.addCleanup(slow.abort)
        slow.begin()
        service = connection.root()['Application']['TaskService']
        claims, _ = claiming.claim(service, 1, 0, now, service.ledgers['a'])
        self.assertEqual(len(claims), 1)

        ledger = self.service.ledgers['b']
        (claim,), _ = claiming.claim(self.service, 1, 0, now, ledger)
        self.manager.commit()
        failure = transitions.Outcome(jobid, claim.run, QUEUED, now, now, failure=Failure(now, ''), retryAt=now + 1)
        transitions.acknowledge(self.service, ledger, failure, now)
        self.manager.commit()
        scheduling.tick(self.service, now)
        scheduling.tick(self.service, now + 1)
        self.manager.commit()
        self.assertEqual(self.left(), [jobid])
        with self.assertRaises(ConflictError):
            slow.commit()
        self.start()
        self.assertEqual(self.statuses(jobid), ['completed'])

    def test_what_the_inbox_has_again(self):
        # The same with who moves ids from the inbox to the calendar: one means a schedule that is not active yet.
        self.provide('double', lambda input: 2 * input)
        jobid = self.service.addCronJob('double', 1, minute=(0,), active=False, now=0)
        self.manager.commit()
        slow = transaction.TransactionManager()
        connection = self.db.open(slow)
        self.addCleanup(connection.close)
        self.addCleanup(slow.abort)
        slow.begin()
        scheduling.tick(connection.root()['Application']['TaskService'], 10.0)
        self.manager.begin()
        scheduling.tick(self.service, 10.0)
        self.manager.commit()
        self.service.updateCronJob(jobid, now=20.0, active=True)
        self.manager.commit()
        with self.assertRaises(ConflictError):
            slow.commit()
        self.manager.begin()
        scheduling.tick(self.service, 30.0)
        self.assertEqual(self.service.schedule.nextTime(), 3600.0)

    def test_claims_that_nobody_knows_of(self):
        # The answer to a commit was lost, the process goes on: it runs what it has claimed, if that is wanted still.
        self.provide('double', lambda input: 2 * input)
        jobids = [self.add('double', number) for number in range(3)]
        cycle = self.attached('a')
        self.assertEqual(len(cycle.iterate(Work(want=3)).claims), 3)
        cycle.openClaims.clear()
        cycle._isInDoubt = True
        self.manager.begin()
        self.service.cancel(jobids[1])
        self.manager.commit()
        self.assertEqual([claim.jobid for claim in cycle.iterate(Work(want=3)).claims], [jobids[0], jobids[2]])
        self.manager.begin()
        self.assertEqual(list(self.service.ledgers['a'].claimed), [jobids[0], jobids[2]])

    def test_two_hosts_share(self):
        ran = []
        self.provide('note', ran.append)
        self.start(name='a')
        self.start(name='b')
        jobids = [self.service.add('note', number) for number in range(500)]
        self.manager.commit()
        self.statuses(*jobids)
        self.assertEqual(sorted(ran), list(range(500)))

    def attached(self, name, cores=8, **arguments):
        """Return a cycle that looks at the others in each turn, as on a machine of so many cores."""
        seconds = itertools.count(step=3)
        cycle = Cycle(self.db, PATH, name, monotonic=lambda: next(seconds), **arguments)
        cycle.owner['cores'] = cores
        self.addCleanup(cycle.close)
        cycle.attach()
        return cycle

    def test_each_host_watches_the_next_ones(self):
        names = 'abcdefgh'
        cycles = {name: self.attached(name, threads=int(name in 'fgh')) for name in names}
        gone = subprocess.Popen([sys.executable, '-c', ''])
        gone.wait()
        self.provide('double', lambda input: 2 * input)
        for name in 'fgh':
            self.add('double', 1)
            # Those before have no thread free any more.
            self.assertEqual(len(cycles[name].iterate(Work(want=1)).claims), 1)
            self.manager.begin()
            self.service.ledgers[name].owner = dict(self.service.ledgers[name].owner, pid=gone.pid)
            self.manager.commit()

        def claims():
            self.manager.begin()
            return {name: len(ledger.claimed) for name, ledger in self.service.ledgers.items() if ledger.claimed}

        for name in 'ab':
            cycles[name].iterate(Work())
            self.assertEqual(claims(), {'f': 1, 'g': 1, 'h': 1})    # the next three live
        cycles['c'].iterate(Work())                                 # d, e, and, behind the dead, a
        self.assertEqual(claims(), {})

    def test_a_dead_scheduler_is_followed(self):
        cycles = {name: self.attached(name, schedule=name != 'b') for name in 'abcdefg'}
        gone = subprocess.Popen([sys.executable, '-c', ''])
        gone.wait()
        cycles['e'].iterate(Work())
        self.manager.begin()
        self.assertEqual(self.service.schedule.scheduler, 'e')
        self.service.ledgers['e'].owner = dict(self.service.ledgers['e'].owner, pid=gone.pid)
        self.manager.commit()
        for name, scheduler in (('a', 'e'), ('b', None), ('a', 'a')):  # b sees it, but is not to schedule
            cycles[name].iterate(Work())
            self.manager.begin()
            self.assertEqual(self.service.schedule.scheduler, scheduler)

    def test_only_what_matters_wakes(self):
        with contextlib.ExitStack() as stack:
            zeo = stack.enter_context(temporaryZEO())
            db = stack.enter_context(contextlib.closing(DB(zeo.storage())))
            install(db)
            other = stack.enter_context(contextlib.closing(DB(zeo.storage())))      # now: it is to see the service
            cycle = stack.enter_context(contextlib.closing(Cycle(other, PATH, 'a')))
            cycle.attach()
            cycle.iterate(Work())
            wakeup, all = threading.Event(), threading.Event()
            wakeup.interest = cycle.state.interest
            for each in wakeup, all:
                notifierOf(other).subscribe(each)

            def rings(change):
                wakeup.clear()
                all.clear()
                with db.transaction() as connection:
                    change(connection.root()['Application']['TaskService'])
                self.assertTrue(all.wait(20))
                return wakeup.is_set()

            self.provide('double', lambda input: 2 * input)
            jobids = []
            for change in (lambda service: service.ledgers.update({'b': Ledger()}),
                           lambda service: service.ledgers['b'].claim(1, 0),
                           lambda service: jobids.append(service.add('double', startLater=True))):
                self.assertFalse(rings(change))
            for change in (lambda service: jobids.append(service.add('double')),
                           lambda service: service.startJob(jobids[0]),
                           lambda service: service.addCronJob('double', delay=5)):
                self.assertTrue(rings(change))
            seen = threading.Event()
            notifierOf(db).subscribe(seen)
            claims = cycle.iterate(Work(want=2)).claims
            self.assertEqual({claim.jobid for claim in claims}, set(jobids))
            wakeup.interest = cycle.state.interest
            self.assertTrue(seen.wait(20))
            for change in (lambda service: service.cancel(jobids[0]),           # writes no queue
                           lambda service: service.pause()):
                self.assertTrue(rings(change))

    def test_after_many_conflicts_a_turn_claims_nothing(self):
        self.provide('double', lambda input: 2 * input)
        jobid = self.add('double', 1)
        processor = MultiProcessor(self.db, PATH)
        processor._attach()
        self.addCleanup(processor.cycle.close)
        for failures, claimed in ((CLAIMING - 1, {}), (2 * CLAIMING - 1, {}), (CLAIMING, {jobid: 0})):
            processor._wakeup.clear()
            processor.loop.failures = failures
            processor.loop.iterate()
            self.assertEqual(processor.cycle.openClaims, claimed)
            self.assertEqual(processor._wakeup.is_set(), not claimed)     # it goes on at once

    def test_hosts_claim_at_different_places(self):
        self.provide('double', lambda input: 2 * input)
        jobids = [self.service.add('double', number) for number in range(200)]
        self.manager.commit()
        first, second, third = (self.attached(name, threads=3) for name in 'abc')

        def claimed(cycle, want):
            return [jobids.index(claim.jobid) for claim in cycle.iterate(Work(want=want)).claims]

        self.assertEqual(claimed(first, 2), [0, 1])
        self.assertEqual(claimed(second, 2), [3, 4])        # the first one has a thread free
        self.assertEqual(claimed(third, 2), [6, 7])         # and so has the second: of 2, 5, 6, ... two are theirs
        self.assertEqual(claimed(first, 2), [2, 5])
        self.assertEqual(claimed(second, 2), [72, 73])      # busy: the next 64 are for the first
        self.assertEqual(claimed(third, 2), [138, 139])

    def test_after_a_conflict_few_jobs_are_not_skipped(self):
        self.provide('double', lambda input: 2 * input)
        cycle = Cycle(self.db, PATH, 'a', threads=3, monotonic=lambda: 0.0)
        self.addCleanup(cycle.close)
        cycle.attach()
        cycle.iterate(Work(want=3))                         # there are no others, as far as it has seen
        jobids = [self.add('double', number) for number in range(2)]
        # What follows from a conflict, if one is not lucky.
        cycle.state = dataclasses.replace(cycle.state, position=Position(0, SKIP - 1))
        claims = cycle.iterate(Work(want=1)).claims
        self.assertEqual(len(claims), 1)
        self.assertIn(claims[0].jobid, jobids)

    def test_idle_hosts_leave_jobs_to_those_before_them(self):
        self.provide('double', lambda input: 2 * input)
        jobids = [self.service.add('double', number) for number in range(3)]
        self.manager.commit()
        cycles = [self.attached(name, threads=threads) for name, threads in (('a', 2), ('b', 0), ('c', 1), ('d', 2))]

        def claimed(cycle):
            return [jobids.index(claim.jobid) for claim in cycle.iterate(Work(want=2)).claims], cycle.state.freeBefore

        self.assertEqual(claimed(cycles[3]), ([], 2))       # there are three threads before
        self.assertEqual(claimed(cycles[2]), ([2], 1))
        self.assertEqual(claimed(cycles[0]), ([0, 1], 0))
        jobids.append(self.add('double', 3))
        self.assertEqual(claimed(cycles[3]), ([3], 0))      # at once: the others have no thread free

    def test_so_do_hosts_that_have_something_to_do(self):
        self.provide('double', lambda input: 2 * input)
        first, second = (self.attached(name, threads=2) for name in 'ab')
        for cycle in first, second:
            self.manager.begin()
            jobid = self.add('double', 1)
            self.manager.begin()
            self.service.ledgers[cycle.name].claim(jobid, 0)
            self.service.shards[jobid >> BITS].ready.remove(jobid)
            self.manager.commit()
        jobid = self.add('double', 2)
        self.assertEqual((second.iterate(Work(want=1)).claims, second.state.freeBefore), ([], 1))
        self.assertEqual(first.iterate(Work(threads=0)).claims, [])     # it is about to stop
        claim, = second.iterate(Work(want=1)).claims
        self.assertEqual((claim.jobid, second.state.freeBefore), (jobid, 0))

    def test_idle_hosts_do_not_wait_for_ever(self):
        self.provide('double', lambda input: 2 * input)
        jobid, _, second = self.add('double', 1), self.attached('a'), self.attached('b')
        self.assertEqual(second.iterate(Work(want=1)).claims, [])
        claim, = second.iterate(Work(want=1)).claims         # the clock goes on by seconds
        self.assertEqual(claim.jobid, jobid)

    def quick(self, name, duration=0.001):
        """Return a cycle of which it is on record that its jobs are short."""
        cycle = self.attached(name, threads=2)
        self.finish(cycle, duration)
        return cycle

    def finish(self, cycle, duration):
        """Have a cycle claim the next job, and report that it has ended."""
        claim, = cycle.iterate(Work(want=1)).claims
        outcome = transitions.Outcome(claim.jobid, claim.run, COMPLETED, 1.0, 2.0)
        cycle.iterate(Work([outcome], duration=duration))

    def queue(self, number):
        self.manager.begin()
        for _ in range(number):
            self.service.add('double', 1)
        self.manager.commit()

    def test_short_jobs_are_left_to_those_that_do_them(self):
        self.provide('double', lambda input: 2 * input)
        self.queue(401)
        first, second = self.quick('a'), self.attached('b', threads=2)
        self.assertEqual((second.iterate(Work(want=2)).claims, second.state.freeBefore), ([], 1))
        self.queue(200)
        # 600 are more than the first one is to do alone.
        self.assertEqual(len(second.iterate(Work(want=2)).claims), 2)
        self.assertEqual(len(first.iterate(Work(want=600)).claims), 299)        # of 598

    def test_as_long_as_those_get_on(self):
        self.provide('double', lambda input: 2 * input)
        self.queue(100)
        first, second = self.quick('a'), self.attached('b', threads=2)
        for _ in range(3):                                  # of seconds, by the clock that goes on
            self.assertEqual(second.iterate(Work(want=2)).claims, [])
            self.finish(first, 0.001)
        self.assertEqual(second.iterate(Work(want=2)).claims, [])
        self.assertEqual(len(second.iterate(Work(want=2)).claims), 2)
        self.assertEqual(len(first.iterate(Work(want=100)).claims), 47)   # of 94: there is one to share with now

    def test_who_does_short_jobs_takes_what_waits(self):
        self.provide('double', lambda input: 2 * input)
        self.queue(101)
        first, second = self.quick('a'), self.attached('b', threads=2)
        self.assertEqual(second.iterate(Work(want=2)).claims, [])
        self.assertEqual(len(first.iterate(Work(want=100)).claims), 100)

    def test_of_beginners_the_same_is_expected(self):
        self.provide('double', lambda input: 2 * input)
        self.queue(1000)
        self.quick('a')
        second, third = self.attached('b', threads=2), self.attached('c', threads=2)
        self.assertEqual(len(second.iterate(Work(want=2)).claims), 2)
        self.assertEqual(third.iterate(Work(want=2)).claims, [])

    def test_first_runs_of_a_thread_do_not_count(self):
        self.provide('double', lambda input: 2 * input)
        processor = self.start(maxThreads=1)
        self.statuses(self.add('double', 1))
        self.assertIsNone(processor.inFlight.load(1).duration)
        self.statuses(self.add('double', 1))
        self.assertIsNotNone(processor.inFlight.load(1).duration)

    def test_more_hosts_than_help_are_spared(self):
        self.provide('double', lambda input: 2 * input)
        self.queue(1000)
        first, second = self.quick('a'), self.attached('b', threads=2)
        self.finish(second, 0.001)
        third, fourth = (self.attached(name, threads=2) for name in 'cd')
        queues = {queue._p_oid for queue in ready.queues(self.service)}
        third.iterate(Work())
        self.assertLessEqual(queues, third.state.interest)
        for cycle in third, fourth:
            self.assertEqual(cycle.iterate(Work(want=2)).claims, [])
            self.assertFalse(queues & cycle.state.interest)
            self.assertIn(self.service._p_oid, cycle.state.interest)
        # One of those that work gets on no longer: it says so.
        self.manager.begin()
        serial = self.service._p_serial
        first.iterate(Work(duration=HELD_UP, busyFor=HELD_UP))
        self.manager.begin()
        self.service.paused
        self.assertNotEqual(self.service._p_serial, serial)
        self.assertEqual(len(third.iterate(Work(want=2)).claims), 2)
        self.assertLessEqual(queues, third.state.interest)

    def test_where_no_core_is_left_one_does_short_jobs(self):
        self.provide('double', lambda input: 2 * input)
        self.queue(2000)
        self.quick('a')
        self.assertEqual(self.attached('b', cores=2, threads=2).iterate(Work(want=2)).claims, [])
        elsewhere = self.attached('c', cores=2, threads=2)
        elsewhere.owner['machine'] = 'elsewhere'
        self.assertEqual(len(elsewhere.iterate(Work(want=2)).claims), 2)
        self.assertEqual(self.attached('d', cores=99, threads=2).iterate(Work(want=2)).claims, [])      # two are enough

    def test_that_jobs_take_longer_is_told_after_a_while(self):
        self.provide('double', lambda input: 2 * input)
        self.queue(6)
        cycle, seconds = self.quick('a'), [0.0]
        cycle.monotonic = lambda: seconds[0]

        def told():
            self.manager.begin()
            return self.service.ledgers['a'].owner['duration']

        for duration, moment, expected in (
                (0.0011, 0.0, 0.001), (0.1, 1.0, 0.001), (0.1, SLOWER, 0.001), (0.1, SLOWER + 1.1, 0.1),
                (0.01, SLOWER + 1.1, 0.01)):        # quicker: at once
            seconds[0] = moment
            self.finish(cycle, duration)
            self.assertEqual(told(), expected)

    def test_long_jobs_after_short_ones_are_shared(self):
        begun = threading.Barrier(8)
        self.provide('double', lambda input: 2 * input)
        self.provide('meet', lambda input: begun.wait(20) and None)
        for name in 'ab':
            self.start(name=name, maxThreads=4)
        self.manager.begin()
        jobids = [self.service.add('double', number) for number in range(300)]
        self.manager.commit()
        self.statuses(*jobids)
        jobids = [self.service.add('meet') for _ in range(8)]
        self.manager.commit()
        self.assertEqual(set(self.statuses(*jobids)), {'completed'})

    def test_the_end_of_a_neighbour_is_seen_at_once(self):
        self.provide('double', lambda input: 2 * input)
        neighbour = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
        self.addCleanup(neighbour.stdin.close)
        self.addCleanup(neighbour.wait)
        self.addCleanup(neighbour.kill)
        jobid = self.add('double', 1)
        ledger = self.service.ledgers['b'] = Ledger()
        ledger.owner = dict(hosts.identity(), pid=neighbour.pid, started=hosts._startOf(neighbour.pid))
        self.assertTrue(self.service.shards[jobid >> BITS].ready.remove(jobid))
        ledger.claim(jobid, 0)
        self.manager.commit()
        cycle = Cycle(self.db, PATH, 'c', monotonic=lambda: 1.0)
        self.addCleanup(cycle.close)
        cycle.attach()
        cycle.iterate(Work())
        self.assertTrue(cycle.peers.hasNeighbours)
        self.assertFalse(cycle.peers.hasNeighbourEnded())
        processor = self.start(name='a', lease=1000)        # without a look it would do nothing for 30 seconds
        until = threading.Event()
        while not processor.cycle.peers.hasNeighbours:
            until.wait(0.01)
        neighbour.kill()
        self.assertEqual(self.statuses(jobid), ['completed'])
        self.assertTrue(cycle.peers.hasNeighbourEnded())
        neighbour.wait()

    def test_name_of_a_living_host(self):
        processor = self.start(name='a')
        with self.assertRaises(NameTaken):
            self.factory(self.db, PATH, name='a').start()
        self.assertTrue(processor.stop(20))
        self.start(name='a')

    def test_unnamed_hosts(self):
        self.assertNotEqual(self.start().name, self.start().name)

    def test_jobs_of_a_dead_host(self):
        # A host of this machine that was killed with claims: a process that is no more.
        dead = subprocess.Popen([sys.executable, '-c', ''])
        dead.wait()
        self.provide('echo', lambda input: input)
        jobids = [self.add('echo', number) for number in range(10)]
        ledger = self.service.ledgers['dead'] = Ledger()
        ledger.owner = dict(hosts.identity(), pid=dead.pid)
        for jobid in jobids:
            self.assertTrue(self.service.shards[jobid >> BITS].ready.remove(jobid))
            ledger.claim(jobid, 0)
        self.manager.commit()
        self.assertEqual({self.service.getStatus(jobid) for jobid in jobids}, {'processing'})
        self.start()
        self.assertEqual(set(self.statuses(*jobids)), {'completed'})
        self.assertEqual(self.left(), [])

    def test_late_host_changes_nothing(self):
        # Another host takes the job while its task runs; what the task wrote, and its outcome, must vanish.
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)

        def write(service, jobid, input):
            service.data['runs'] = service.data.get('runs', 0) + 1
            if not begun.is_set():
                begun.set()
                go.wait(20)

        provideUtility(write, ITask, name='write')
        self.start(name='late', maxThreads=1)
        jobid = self.add('write')
        self.assertTrue(begun.wait(20))
        self.manager.begin()
        rescue.rescue(self.service, 'late', 0)
        self.manager.commit()
        self.start(name='other', maxThreads=1)
        self.assertEqual(self.statuses(jobid), ['completed'])
        go.set()
        self.provide('echo', lambda input: input)
        self.statuses(*[self.add('echo') for _ in range(20)])
        self.assertEqual((dict(self.service.data), self.service.jobs[jobid].run), ({'runs': 1}, 1))

    def test_it_ends_when_running_is_set_to_false(self):
        processor, pause = self.start(waitTime=1000, lease=10000), threading.Event()
        while processor._wakeup.interest is None:                   # then it waits, for long if nobody wakes it
            pause.wait(0.01)
        with self.assertRaises(ValueError):
            processor.running = True
        self.assertTrue(processor.running)
        processor.running = False
        processor.thread.join(20)
        self.assertFalse(processor.thread.is_alive() or processor.running or processor.isStopping)
        self.manager.begin()
        self.assertIsNone(self.service.ledgers[processor.name].owner)

    def test_stop_gives_back(self):
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)
        self.provide('wait', lambda input: (begun.set(), go.wait(20), None)[-1])
        processor = self.start(maxThreads=1)
        jobids = [self.add('wait') for _ in range(3)]
        self.assertTrue(begun.wait(20))
        self.assertTrue(processor.stop(0))
        self.assertEqual(sorted(self.left()), sorted(jobids))
        self.assertEqual({self.service.getStatus(jobid) for jobid in jobids}, {'queued'})
        go.set()
        self.start()
        self.assertEqual(set(self.statuses(*jobids)), {'completed'})


class Relay:
    """Stands between one client and a database server, and holds back what the server says.

    address -- the pair of host and port for the client.
    passes -- an event: what the server says is passed on as long as it is set.
    """

    def __init__(self, server):
        self.passes = threading.Event()
        self.passes.set()
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.address = self._listener.getsockname()
        self._server, self._sockets = server, [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, server = self._listener.accept()[0], socket.create_connection(self._server)
                self._sockets += client, server
                for arguments in (client, server, False), (server, client, True):
                    self._threads.append(threading.Thread(target=self._pass, args=arguments))
                    self._threads[-1].start()

    def _pass(self, source, target, isHeld):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if isHeld:
                    self.passes.wait()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def close(self):
        """End all connections."""
        self.passes.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(20)


class TestClients(unittest.TestCase):
    """The clients of a database server that a process has open."""

    level = 2

    def setUp(self):
        self.addCleanup(testing.tearDown)
        self.zeo = self.enterContext(temporaryZEO())

    def database(self):
        database = Database(self.zeo.database)
        self.addCleanup(database.close)
        return database

    def test_lent_while_somebody_has_it(self):
        database = self.database()
        beside = database.taskClient
        first, second = beside.acquire(), beside.acquire()
        self.assertIs(first, second)
        self.assertIsNot(first, database.db)
        storage = first.storage
        beside.release()
        self.assertTrue(storage.is_connected())
        beside.release()
        self.assertFalse(storage.is_connected())
        self.assertIsNot(beside.acquire(), first)

    def test_closed_at_the_end_though_somebody_has_it(self):
        database = self.database()
        storage = database.taskClient.acquire().storage
        self.assertTrue(storage.is_connected())
        database.close()
        self.assertFalse(storage.is_connected())
        database.taskClient.release()

    def test_other_databases_have_one_client(self):
        with contextlib.closing(Database(lambda: DB(None))) as database:
            self.assertIs(database.taskClient.acquire(), database.db)
            database.taskClient.release()
            database.db.open().close()

    def test_looks_at_a_database_that_tells_of_commits_are_rare(self):
        database = self.database()
        for db, seconds in (database.db, claimloop.TOLD), (DB(None), 0.1):
            with contextlib.closing(db):
                self.assertEqual(MultiProcessor(db, PATH, waitTime=0.1).loop.idleTime(), seconds)

    def test_a_run_sees_what_was_there_when_its_job_was_claimed(self):
        # The client of the tasks hears later of a commit than the client that claims.
        begun = threading.Semaphore(0)

        def read(service, jobid, input):
            begun.release()
            return service.data.get('there')

        provideUtility(read, ITask, 'read')
        database = self.database()
        install(database.db)
        with database.db.transaction() as connection:
            connection.root()['Application']['TaskService'].data = PersistentMapping()
        relay = Relay(self.zeo.address)
        self.addCleanup(relay.close)
        tasks = SeparateClient(lambda: DB(ClientStorage(relay.address, wait_timeout=20)), lambda db: db.close())
        self.addCleanup(tasks.close)
        host = MultiProcessor(database.db, PATH, maxThreads=1, taskClient=tasks)
        host.start()
        self.addCleanup(host.stop, 20)
        self.addCleanup(relay.passes.set)

        def add(value):
            with client.transaction() as connection:
                service = connection.root()['Application']['TaskService']
                service.data['there'] = value
                return service.add('read')

        def result(jobid):
            wakeup = threading.Event()
            notifierOf(client).subscribe(wakeup)
            while True:
                with client.transaction() as connection:
                    service = connection.root()['Application']['TaskService']
                    if service.getStatus(jobid) in FINAL:
                        return service.getResult(jobid)
                self.assertTrue(wakeup.wait(20))
                wakeup.clear()

        client = self.database().db
        self.assertEqual(result(add('first')), 'first')     # in memory now, where the next run looks
        self.assertTrue(begun.acquire(timeout=20))
        relay.passes.clear()
        jobid, pause = add('second'), threading.Event()
        for _ in range(2000):
            if host.inFlight.executions():                     # a thread has taken it
                break
            pause.wait(0.01)
        self.assertFalse(begun.acquire(timeout=0.3))
        relay.passes.set()
        self.assertEqual(result(jobid), 'second')

    def test_the_end_of_a_run_is_settled_once_it_can_be_seen(self):
        # The client that claims hears later of a commit than the one of the tasks, which has made it.
        def write(service, jobid, input):
            service.data['written'] = input

        provideUtility(write, ITask, 'write')
        direct = self.database()
        install(direct.db)
        with direct.db.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            service.data = PersistentMapping()
            jobid = service.add('write', 1)
        relay = Relay(self.zeo.address)
        self.addCleanup(relay.close)
        behind = DB(ClientStorage(relay.address, wait_timeout=20))
        self.addCleanup(behind.close)
        # For its clock no time goes by: else it has a heartbeat to write, or others to look at, when this takes long.
        host = MultiProcessor(behind, PATH, taskClient=direct.taskClient, schedule=False, monotonic=lambda: 100.0)
        host._attach()
        self.addCleanup(host.cycle.close)
        self.addCleanup(relay.passes.set)
        claim = claimOne(host)
        host.loop.iterate()                             # all that an iteration looks at has been loaded
        relay.passes.clear()
        with contextlib.closing(host._worker()) as worker:
            reports = host.loop.reports = [worker.run(claim)]
        self.assertLess(behind.lastTransaction(), reports[0].tid)
        turn = threading.Thread(target=host.loop.iterate, daemon=True)
        turn.start()
        turn.join(20)
        self.assertFalse(turn.is_alive())               # it has nothing to write
        self.assertEqual(host.loop.reports, reports)
        relay.passes.set()
        pause = threading.Event()
        while behind.lastTransaction() < reports[0].tid:
            pause.wait(0.01)
        host.loop.iterate()
        self.assertEqual(host.loop.reports, [])
        with direct.db.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            self.assertEqual((service.getStatus(jobid), service.jobs[jobid].errors), (COMPLETED, ()))

    def test_idle_hosts_have_one_client(self):
        provideUtility(SimpleTask(lambda input: 2 * input), name='double')
        self.addCleanup(setattr, workerpool, 'REST', workerpool.REST)
        workerpool.REST = 0.1
        databases = [self.database()]
        install(databases[0].db)
        databases += (self.database() for _ in range(WARM + 1))     # now: they are to see the service
        opened, closed, hosts = [], threading.Event(), []
        for number, database in enumerate(databases[1:]):
            # Each one but the last knows of those before it when it starts; and that one is to give its client back.
            if number == WARM:
                open, close = database._open, database._shut
                database.taskClient = SeparateClient(lambda: opened.append(1) or open(),
                                                     lambda db: (close(db), closed.set()))
            hosts.append(MultiProcessor(database.db, PATH, name=f'host-{number}', taskClient=database.taskClient))
            hosts[-1].start()
            self.addCleanup(hosts[-1].stop, 20)
        self.assertTrue(closed.wait(20))
        self.assertEqual(opened, [1])
        for host in hosts[:-1]:
            self.assertTrue(host.stop(20))
        wakeup = threading.Event()
        notifierOf(databases[0].db).subscribe(wakeup)
        manager = transaction.TransactionManager()
        with contextlib.closing(databases[0].db.open(manager)) as connection:
            for attempt in manager.attempts(10):
                with attempt:
                    service = connection.root()['Application']['TaskService']
                    jobid = service.add('double', 4)
            while service.getStatus(jobid) not in FINAL:
                self.assertTrue(wakeup.wait(20))
                wakeup.clear()
                manager.begin()
            self.assertEqual(service.getResult(jobid), 8)
            manager.abort()
        self.assertEqual(opened, [1, 1])

    def test_runs_that_are_given_up_are_no_errors(self):
        begun, go = [], threading.Event()
        self.addCleanup(go.set)

        def touch(service, jobid, input):
            begun.append(jobid)
            wakeup.set()
            go.wait(20)
            service.schedule.scheduler                     # of a database that has been closed by now

        provideUtility(touch, ITask, 'touch')
        database = self.database()
        install(database.db)
        with database.db.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            jobids = [service.add('touch') for _ in range(5)]
        host = MultiProcessor(database.db, PATH, maxThreads=2, taskClient=database.taskClient)
        wakeup = threading.Event()
        host.start()
        while len(begun) < 2:
            self.assertTrue(wakeup.wait(20))
            wakeup.clear()
        os.kill(self.zeo.pid, signal.SIGSTOP)           # from now on its own thread waits for the database
        try:
            with self.assertLogs('lovely.remotetask', 'INFO') as logs:
                self.assertFalse(host.stop(0, wait=0))
                database.close()
                go.set()
                for thread in (host.thread, *host.threads):
                    thread.join(20)
                    self.assertFalse(thread.is_alive())
        finally:
            os.kill(self.zeo.pid, signal.SIGCONT)
        self.assertEqual([record.getMessage() for record in logs.records if record.levelno >= logging.ERROR], [])
        text = 'was ended: the processing host stops; after that it met'
        self.assertEqual(sum(text in record.getMessage() for record in logs.records), 2, logs.output)
        self.assertEqual(len(begun), 2)
        with self.zeo.database().transaction() as connection:
            service = connection.root()['Application']['TaskService']
            self.assertEqual({service.getStatus(jobid) for jobid in jobids} & set(FINAL), set())


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
