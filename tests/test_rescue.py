"""What becomes of jobs whose host ends, whose time is over, that are cancelled, that cannot be loaded, that are old."""
# SPDX-License-Identifier: ZPL-2.1
import os
import pathlib
import pickle
import subprocess
import sys
import threading
import unittest
from unittest import mock

import zope.component.testing
from ZODB.Connection import TransactionMetaData
from zope.component import provideUtility

from lovely.remotetask.encoding import rows
from lovely.remotetask.errors import NameTaken
from lovely.remotetask.errors import Retry
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import WrongState
from lovely.remotetask.execution import rescue
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.processing import in_flight
from lovely.remotetask.processing.cycle import Cycle
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.ledger import LONG
from lovely.remotetask.storage.ledger import ONCE
from lovely.remotetask.storage.ledger import SUSPECT
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.storage.shards import BITS
from lovely.remotetask.task import SimpleTask
from processorcase import PATH
from processorcase import ProcessorCase
from waits import PATIENCE
from waits import waitUntil


DATA = pathlib.Path(__file__).parent / 'data'


def endedProcess():
    """Return the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return process.pid


class RescueCase(unittest.TestCase):
    """A service outside any database, and a ledger of a host that is gone."""

    def setUp(self):
        self.addCleanup(zope.component.testing.tearDown)
        self.provide('echo', lambda input: input)
        self.service = TaskService()
        self.ledger = self.service.ledgers['gone'] = Ledger()

    def provide(self, name, function, **attributes):
        task = SimpleTask(function)
        vars(task).update(attributes)
        provideUtility(task, name=name)

    def claimed(self, *marks, task='echo'):
        """Return the ids of new jobs, one for each mark, or None for none, claimed by the host."""
        jobids = []
        for mark in marks:
            jobids.append(self.service.add(task))
            claim, = claiming.claim(self.service, 1, 0, 0, self.ledger)[0]
            if mark is not None:
                self.ledger.mark(claim.jobid, mark)
        return jobids

    def rescue(self, now=100):
        return rescue.rescue(self.service, 'gone', now)

    def states(self, jobids):
        jobs = [self.service.jobs[jobid] for jobid in jobids]
        return [(job.status, job.failedAttempts, job.run, job.suspect) for job in jobs]


class TestRescue(RescueCase):

    def test_what_was_merely_claimed_is_not_charged(self):
        jobids = self.claimed(None, None)
        self.assertEqual(self.rescue().claims, 2)
        self.assertEqual(self.states(jobids), [('queued', 0, 1, 1)] * 2)
        self.assertEqual((ready.waiting(self.service), len(self.ledger.claimed)), (2, 0))

    def test_what_was_running_is_charged(self):
        jobids = self.claimed(LONG, None)
        self.rescue(now=77)
        self.assertEqual(self.states(jobids), [('queued', 1, 1, 0), ('queued', 0, 1, 1)])
        failure, = self.service.jobs[jobids[0]].errors
        self.assertEqual((failure.time, failure.host, str(failure)),
                         (77, 'gone', 'the processing host gone ended while the job was running'))

    def test_the_suspect_alone_is_charged(self):
        jobids = self.claimed(LONG, SUSPECT, None)
        self.rescue()
        self.assertEqual(self.states(jobids),
                         [('queued', 0, 1, 1), ('queued', 1, 1, 1), ('queued', 0, 1, 1)])

    def test_a_poison_ends_in_error(self):
        jobid, = self.claimed(None)
        self.rescue()
        for attempt in range(4):
            self.assertEqual(self.service.getStatus(jobid), 'queued')
            self.assertEqual(len(claiming.claimSuspects(self.service, 0, self.ledger)), 1)
            self.ledger.mark(jobid, SUSPECT)
            self.rescue()
        self.assertEqual((self.service.getStatus(jobid), len(self.service.jobs[jobid].errors)), ('error', 4))
        self.assertIn('ended while the job was running', self.service.getError(jobid))
        self.assertFalse(ready.waiting(self.service))

    def test_a_poison_that_takes_a_while_costs_the_suspect_beside_it_one_attempt(self):
        poison, innocent = self.claimed(LONG, None)
        self.rescue()
        self.assertEqual(self.states([poison, innocent]), [('queued', 1, 1, 0), ('queued', 0, 1, 1)])
        claiming.claim(self.service, 1, 0, 0, self.ledger)
        self.ledger.mark(poison, LONG)
        self.assertEqual(self.claimGroup(), [innocent])
        self.rescue()
        self.assertEqual(self.states([poison, innocent]), [('queued', 1, 2, 1), ('queued', 1, 2, 1)])
        while ready.waiting(self.service):
            if self.claimGroup() == [innocent]:
                outcome = transitions.Outcome(innocent, 2, 'completed', 1, 2)
                transitions.acknowledge(self.service, self.ledger, outcome, 2)
            else:
                self.rescue()
        self.assertEqual((self.service.getStatus(poison), len(self.service.jobs[poison].errors)), ('error', 4))
        self.assertEqual((self.service.getStatus(innocent), len(self.service.jobs[innocent].errors)), ('completed', 1))

    def test_many_suspects_run_in_groups_that_become_smaller(self):
        jobids = self.claimed(*[None] * (2 * rescue.GROUPS + 1))
        self.rescue()
        self.assertEqual(self.states(jobids), [('queued', 0, 1, 3)] * len(jobids))
        group = self.claimGroup()
        self.assertEqual(group, jobids[:3])
        long, other = self.claimed(LONG, None)
        self.ledger.mark(group[1], LONG, 7.0)
        self.rescue()                                   # any of the group may have done it, or what nobody knows of
        self.assertEqual(self.states(group), [('queued', 0, 2, 1)] * 3)
        self.assertEqual(self.states([long, other]), [('queued', 0, 1, 1), ('queued', 0, 1, 1)])
        self.assertEqual(self.claimGroup(), group[:1])
        self.rescue()
        self.assertEqual(self.states(group), [('queued', 1, 3, 1), ('queued', 0, 2, 1), ('queued', 0, 2, 1)])
        self.assertEqual(self.claimGroup(), group[:1])
        self.ledger.release(group[0])
        self.assertEqual([self.claimGroup() for _ in range(3)], [group[1:2], group[2:], jobids[3:6]])

    def test_a_group_is_as_small_as_each_of_its_suspects_says(self):
        jobids = self.suspects(3, 1, 3, 2, 2)
        self.assertEqual([self.claimGroup() for _ in range(4)], [jobids[:1], jobids[1:2], jobids[2:4], jobids[4:]])

    def test_no_group_is_larger_than_a_host_can_bear(self):
        jobids = self.suspects(*[1000] * (claiming.TOGETHER + 1))
        self.assertEqual([self.claimGroup(), self.claimGroup()], [jobids[:-1], jobids[-1:]])

    def suspects(self, *sizes):
        """Return the ids of new suspects, one for each number of those that may run together with it."""
        jobids = [self.service.add('echo') for _ in sizes]
        for jobid, size in zip(jobids, sizes):
            ready.dequeue(self.service, jobid)
            self.service.jobs[jobid].suspect = size
            ready.enqueue(self.service, self.service.jobs[jobid])
        return jobids

    def claimGroup(self):
        """Claim the next suspects, as a host does that has threads for many; return their ids."""
        claims = claiming.claimSuspects(self.service, 0, self.ledger, group=claiming.Group(1000))
        for claim in claims:
            self.ledger.mark(claim.jobid, SUSPECT)
        return [claim.jobid for claim in claims]

    def test_at_most_once(self):
        jobids = self.claimed(ONCE, None, SUSPECT)            # whoever else may be the reason
        self.rescue()
        self.assertEqual([self.service.getStatus(jobid) for jobid in jobids], ['error', 'queued', 'queued'])
        self.assertIn('it must not run twice', self.service.getError(jobids[0]))

    def test_what_had_ended(self):
        jobids = self.claimed(LONG, None, None)
        for jobid in jobids[:2]:
            self.service.cancel(jobid)
        self.rescue()
        self.assertEqual([self.service.getStatus(jobid) for jobid in jobids], ['cancelled', 'cancelled', 'queued'])
        self.assertEqual(self.service.jobs[jobids[0]].errors, ())

    def test_what_is_on_record_of_a_host(self):
        cores = subprocess.check_output(['nproc'], env={**os.environ, 'OMP_NUM_THREADS': '', 'OMP_THREAD_LIMIT': ''})
        owner = hosts.identity(threads=3)
        self.assertEqual((owner['threads'], owner['pid'], owner['cores']), (3, os.getpid(), int(cores)))
        self.assertFalse(hosts.isGone(owner))


class TestNames(ProcessorCase):

    level = 2

    def test_a_host_of_that_name_on_another_machine(self):
        ledger = self.service.ledgers['far'] = Ledger()
        ledger.owner = dict(hosts.identity(lease=0.2), machine='elsewhere/boot/1')
        self.manager.commit()
        processor = MultiProcessor(self.db, PATH, name='far')
        ended = threading.Event()

        def live():
            with self.db.transaction() as connection:
                connection.root()['Application']['TaskService'].ledgers['far']._p_changed = True
            while not ended.wait(0.05):
                with self.db.transaction() as connection:
                    connection.root()['Application']['TaskService'].ledgers['far']._p_changed = True

        thread = threading.Thread(target=live)
        thread.start()
        try:
            with self.assertRaisesRegex(NameTaken, 'already running .on elsewhere, process'):
                processor.start()
        finally:
            ended.set()
            thread.join()
        processor.start()                   # nothing more is heard of the other
        self.addCleanup(processor.stop, PATIENCE)
        self.manager.begin()
        self.assertEqual(ledger.owner['token'], processor.cycle.owner['token'])


    def test_it_is_heard_of_at_the_last_moment(self):
        ledger = self.service.ledgers['far'] = Ledger()
        ledger.owner = dict(hosts.identity(lease=0.2), machine='elsewhere/boot/1')
        self.manager.commit()

        def clock():
            # The attaching host has waited, and looks; and only now the other one is heard of.
            with self.db.transaction() as connection:
                connection.root()['Application']['TaskService'].ledgers['far']._p_changed = True
            cycle.clock = lambda: 0.0
            return 0.0

        cycle = Cycle(self.db, PATH, 'far')
        cycle.clock = clock
        with self.assertRaisesRegex(NameTaken, 'already running .on elsewhere, process'):
            cycle.attach()
        self.manager.begin()
        self.assertEqual(ledger.owner['machine'], 'elsewhere/boot/1')


class TestFence(ProcessorCase):
    """A run that begins after its job was given to another host."""

    def setUp(self):
        super().setUp()

        def write(service, jobid, input):
            service.data['runs'] = service.data.get('runs', 0) + 1

        provideUtility(write, ITask, name='write')
        self.processor = MultiProcessor(self.db, PATH)
        self.worker = self.processor._worker()
        self.addCleanup(self.worker.close)
        self.service.ledgers.update({name: Ledger() for name in 'ab'})
        self.manager.commit()

    def claim(self, name):
        """Have the host of that name claim the only job there is."""
        self.manager.begin()
        ledger, now = self.service.ledgers[name], 3600.0
        claims = claiming.claimSuspects(self.service, now, ledger)
        claims += claiming.claim(self.service, 1, 0, now, ledger)[0]
        self.manager.commit()
        claim, = claims
        return claim

    def rescue(self, name):
        self.manager.begin()
        self.assertEqual(rescue.rescue(self.service, name, 3600.0, 30).claims, 1)
        self.manager.commit()

    def run_(self, claim, name):
        """Run what a host has claimed, and have its ledger settle it; return whether it had an effect."""
        self.manager.begin()
        before = self.service.data.get('runs', 0)
        report = self.worker.run(claim)
        self.manager.begin()
        transitions.acknowledge(self.service, self.service.ledgers[name], report, 3601.0)
        self.manager.commit()
        return self.service.data.get('runs', 0) - before

    def job(self):
        return self.add('write')

    def check(self, jobid):
        self.manager.begin()
        self.assertEqual((self.service.getStatus(jobid), self.service.jobs[jobid].errors), ('completed', ()))

    def test_late_and_then_the_owner(self):
        jobid = self.job()
        late = self.claim('a')
        self.rescue('a')
        claim = self.claim('b')
        self.assertEqual((self.run_(late, 'a'), self.run_(claim, 'b')), (0, 1))
        self.check(jobid)

    def test_the_owner_and_then_late(self):
        jobid = self.job()
        late = self.claim('a')
        self.rescue('a')
        claim = self.claim('b')
        self.assertEqual((self.run_(claim, 'b'), self.run_(late, 'a')), (1, 0))
        self.check(jobid)

    def test_late_before_anybody_has_claimed_it(self):
        jobid = self.job()
        late = self.claim('a')
        self.rescue('a')
        self.assertEqual(self.run_(late, 'a'), 0)
        self.assertEqual(self.run_(self.claim('b'), 'b'), 1)
        self.check(jobid)

    def test_late_by_two_rescues(self):
        jobid = self.job()
        claims = []
        for name in 'ab':
            claims.append(self.claim(name))
            self.rescue(name)
        claim = self.claim('a')
        self.assertEqual([self.run_(*late) for late in zip(claims, 'ab')], [0, 0])
        self.assertEqual(self.run_(claim, 'a'), 1)
        self.check(jobid)


class TestFenceOfSchedules(TestFence):
    """The same for a cron job, whose status never is final: its run number alone tells the owner."""

    def job(self):
        jobid = self.service.addCronJob('write', minute=(0,), now=10.0)
        scheduling.tick(self.service, 10.0)
        scheduling.tick(self.service, 3600.0)
        self.manager.commit()
        return jobid

    def check(self, jobid):
        self.manager.begin()
        job = self.service.jobs[jobid]
        self.assertEqual((job.status, [run.status for run in job.history]), ('cronjob', ['completed']))


class TestSuspects(ProcessorCase):

    level = 2

    def suspects(self, count):
        jobids = [self.service.add('note', number) for number in range(count)]
        for jobid in jobids:
            ready.dequeue(self.service, jobid)
            self.service.jobs[jobid].suspect = 1
            ready.enqueue(self.service, self.service.jobs[jobid])
        self.manager.commit()
        return jobids

    def test_one_at_a_time(self):
        running, most, marks = set(), [], []

        def note(service, jobid, input):
            running.add(jobid)
            most.append(len(running))
            marks.append(dict(service.ledgers['host'].started))
            running.discard(jobid)

        provideUtility(note, ITask, name='note')
        jobids = self.suspects(20)
        self.start(name='host', maxThreads=4)
        self.assertEqual(set(self.statuses(*jobids)), {'completed'})
        self.assertEqual(set(most), {1})
        self.assertTrue(all(list(mark.values()) == [SUSPECT] for mark in marks), marks)
        self.assertFalse(any(self.service.jobs[jobid].suspect for jobid in jobids))
        self.assertEqual((dict(self.service.ledgers['host'].started), self.left()), ({}, []))

    def test_others_go_on_meanwhile(self):
        go = threading.Event()
        self.addCleanup(go.set)
        self.provide('note', lambda input: go.wait(PATIENCE))
        self.provide('echo', lambda input: input)
        jobids = self.suspects(3)
        self.start(name='host', maxThreads=3)
        others = [self.add('echo', number) for number in range(10)]
        self.assertEqual(set(self.statuses(*others)), {'completed'})
        self.assertEqual(sorted(self.service.getStatus(jobid) for jobid in jobids), ['processing', 'queued', 'queued'])
        go.set()
        self.assertEqual(set(self.statuses(*jobids)), {'completed'})

    def test_a_cancelled_one_that_goes_on_holds_up_no_others(self):
        begun, go, waited = threading.Event(), threading.Event(), []
        self.addCleanup(go.set)
        self.provide('note', lambda input: None if input else (begun.set(), waited.append(go.wait(PATIENCE))))
        first, *others = self.suspects(3)
        self.start(name='host', maxThreads=2)
        self.assertTrue(begun.wait(PATIENCE))
        self.manager.begin()
        self.service.cancel(first)
        self.manager.commit()
        self.assertEqual(set(self.statuses(*others)), {'completed'})
        self.assertEqual(waited, [])
        go.set()

    def test_stopped_while_some_wait(self):
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)
        self.provide('note', lambda input: (begun.set(), go.wait(PATIENCE)))
        jobids = self.suspects(3)
        processor = self.start(name='host', maxThreads=3)
        self.assertTrue(begun.wait(PATIENCE))
        with self.assertLogs('lovely.remotetask', 'WARNING') as logged:
            self.assertTrue(processor.stop(0))
        self.assertIn('it gives back 1 job to be run again: ', logged.output[0])
        self.manager.begin()
        self.assertEqual(sorted(self.left()), sorted(jobids))
        self.assertEqual(sorted(self.service.jobs[jobid].run for jobid in jobids), [0, 0, 1])
        self.assertEqual({self.service.jobs[jobid].failedAttempts for jobid in jobids}, {0})

    def test_at_most_once_is_on_record_before_it_begins(self):
        marks = []

        def once(service, jobid, input):
            marks.append(service.ledgers['host'].started.get(jobid))

        once.atMostOnce = True
        provideUtility(once, ITask, name='once')
        self.start(name='host')
        self.assertEqual(set(self.statuses(*[self.add('once') for _ in range(5)])), {'completed'})
        self.assertEqual(marks, [ONCE] * 5)

    def test_at_most_once_and_the_end_of_the_grace_period(self):
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)
        self.provide('once', lambda input: (begun.set(), go.wait(PATIENCE)), atMostOnce=True)
        processor = self.start(name='host', maxThreads=1)
        jobid, other = self.add('once'), self.add('once')
        self.assertTrue(begun.wait(PATIENCE))
        processor.stop(0)
        self.manager.begin()
        self.assertEqual(sorted(self.service.getStatus(id) for id in (jobid, other)), ['error', 'queued'])

    def test_long_runs_are_on_record(self):
        go = threading.Event()
        self.addCleanup(go.set)
        self.provide('note', lambda input: go.wait(PATIENCE))
        with mock.patch.object(in_flight, 'LONG_AFTER', 0.01):
            self.start(name='host', maxThreads=2)
            jobid = self.add('note')
            started = self.service.ledgers['host'].started
            waitUntil(lambda: self.manager.begin() and len(started))        # its commit wakes nobody in this process
        self.assertEqual(dict(started), {jobid: LONG})
        go.set()
        self.statuses(jobid)


class TestRetries(RescueCase):

    def test_a_policy_of_the_job(self):
        self.provide('fail', lambda input: 1 / 0, retryPolicy=RetryPolicy(attempts=9))
        jobid = self.service.add('fail', retryPolicy=RetryPolicy(attempts=2, base=5, jitter=0))
        with self.assertLogs('lovely.remotetask'):
            self.service.process(0)
            self.assertEqual(self.service.jobs[jobid].retryAt, 5)
            self.service.process(5)
        self.assertEqual((self.service.getStatus(jobid), self.service.jobs[jobid].failedAttempts), ('error', 2))

    def test_refused(self):
        for options in ({'retryPolicy': 3}, {'timeLimit': 0}, {'timeLimit': True}, {'timeLimit': 'x'}):
            with self.subTest(options=options), self.assertRaisesRegex(ValueError, next(iter(options))):
                self.service.add('echo', **options)
        for options in ({'attempts': 0}, {'attempts': 1.5}, {'base': -1}, {'factor': 0.5}, {'cap': 'x'}, {'jitter': 2},
                        {'retryOn': OSError}, {'neverRetryOn': ('OSError',)}):
            with self.subTest(options=options), self.assertRaisesRegex(ValueError, next(iter(options))):
                RetryPolicy(**options)
        self.assertEqual(len(self.service.jobs), 0)

    def test_a_task_that_asks_for_another_run(self):
        def ask(input):
            raise Retry(after=60, reason='the film is not there yet')

        self.provide('ask', ask, retryPolicy=RetryPolicy(attempts=2))
        jobid = self.service.add('ask')
        with self.assertLogs('lovely.remotetask'):
            self.service.process(0)
            self.assertEqual((self.service.getStatus(jobid), self.service.jobs[jobid].retryAt), ('queued', 60))
            self.service.process(60)
        self.assertEqual((self.service.getStatus(jobid), self.service.getError(jobid)),
                         ('error', 'the film is not there yet'))
        with self.assertRaises(ValueError):
            Retry(after=-1)
        self.assertEqual(vars(pickle.loads(pickle.dumps(Retry(5, 'why')))), {'after': 5, 'reason': 'why'})

    def test_run_again(self):
        def fail(input):
            if self.failing:
                raise TaskError('as asked')
            return 'well'

        self.failing = True
        self.provide('fail', fail)
        self.provide('other', fail)
        jobids = [self.service.add('fail') for _ in range(3)] + [self.service.add('other')]
        with self.assertLogs('lovely.remotetask'):
            self.service.process(5)
        self.failing = False
        self.service.retry(jobids[0])
        job = self.service.jobs[jobids[0]]
        self.assertEqual((job.status, job.failedAttempts, job.error, len(job.errors)), ('queued', 0, None, 1))
        with self.assertRaises(WrongState):
            self.service.retry(jobids[0])
        self.service.process(6)
        self.assertEqual((job.status, job.output, job.error, len(job.errors)), ('completed', 'well', None, 1))
        self.assertEqual(self.service.retryFailed('fail', limit=1), 1)
        self.assertEqual(self.service.retryFailed('fail'), 1)
        self.assertEqual(self.service.retryFailed(), 1)
        self.assertEqual(self.service.retryFailed(), 0)
        self.service.process(7)
        self.assertEqual({self.service.getStatus(jobid) for jobid in jobids}, {'completed'})
        tallies = [ledger.tally for ledger in ready.ledgers(self.service)]
        self.assertEqual([sum(tally[status] for tally in tallies) for status in ('completed', 'error', 'cancelled')],
                         [4, 0, 0])
        self.assertEqual(self.service.removeJobs(limit=3), 3)
        self.assertEqual((self.service.removeJobs(), len(self.service.jobs)), (1, 0))

    def test_remove_what_is_old(self):
        for now in range(10):
            self.service.add('echo')
            self.service.process(now)
        self.assertEqual(self.service.removeJobs('error'), 0)
        self.assertEqual(self.service.removeJobs(before=4.5), 5)
        self.assertEqual(sorted(job.completed for job in self.service.jobs.values()), [5, 6, 7, 8, 9])


class TestRunning(ProcessorCase):
    """Cancelling, progress and time limits of jobs that run in threads."""

    level = 2

    def test_a_task_asks_whether_it_is_cancelled(self):
        begun, seen = threading.Event(), []

        def ask(service, jobid, input):
            seen.append(service.isCancelled(jobid))
            begun.set()
            pause = threading.Event()
            while not service.isCancelled(jobid):
                pause.wait(0.01)
            seen.append(True)

        provideUtility(ask, ITask, name='ask')
        self.provide('echo', lambda input: input)
        self.start(maxThreads=1)
        jobid = self.add('ask')
        self.assertTrue(begun.wait(PATIENCE))
        self.manager.begin()
        self.service.cancel(jobid)
        self.manager.commit()
        self.assertEqual(self.statuses(self.add('echo')), ['completed'])        # by the same thread
        self.assertEqual((self.statuses(jobid), seen, self.left()), (['cancelled'], [False, True], []))

    def test_a_program_is_ended(self):
        from lovely.remotetask.execution.command import CommandTask
        provideUtility(CommandTask('sleep {seconds}'), name='sleep')
        self.provide('echo', lambda input: input)
        self.start(maxThreads=1)
        jobid = self.add('sleep', {'seconds': 3600})
        waitUntil(lambda: self.manager.begin() and self.service.getStatus(jobid) == 'processing')
        self.service.cancel(jobid)
        self.manager.commit()
        self.assertEqual(self.statuses(self.add('echo')), ['completed'])
        self.assertEqual((self.statuses(jobid), self.left()), (['cancelled'], []))

    def test_progress(self):
        begin, told, go = threading.Event(), threading.Event(), threading.Event()
        self.addCleanup(go.set)
        self.addCleanup(begin.set)

        def work(service, jobid, input):
            begin.wait(PATIENCE)
            service.setProgress(jobid, 0.25, 'first quarter')
            for wrong in (2, -1, 'x', True):
                with self.assertRaises(ValueError):
                    service.setProgress(jobid, wrong)
            for _ in range(10000):
                service.setProgress(jobid, 0.5, 'half')         # at most a write a second comes of that
            told.set()
            go.wait(PATIENCE)

        provideUtility(work, ITask, name='work')
        self.start()
        jobid = self.add('work')
        self.assertIsNone(self.service.getProgress(jobid))
        begin.set()
        self.assertTrue(told.wait(PATIENCE))
        waitUntil(lambda: self.manager.begin() and self.service.getProgress(jobid) == (0.5, 'half'))
        go.set()
        self.assertEqual((self.statuses(jobid), self.service.getProgress(jobid)), (['completed'], None))

    def test_a_run_that_takes_too_long(self):
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)

        def work(service, jobid, input):
            if service.jobs[jobid].failedAttempts == 0:
                begun.set()
                go.wait(PATIENCE)
                service.data['late'] = True
            return service.jobs[jobid].failedAttempts

        work.timeLimit = 0.05
        provideUtility(work, ITask, name='work')
        self.provide('echo', lambda input: input)
        self.start(maxThreads=2)
        with self.assertLogs('lovely.remotetask', 'WARNING') as logged:
            jobid = self.add('work')
            self.assertEqual(self.statuses(jobid), ['completed'])       # the second attempt, in the other thread
        self.assertIn('longer than its time limit of 0.05 s', logged.output[0])
        self.assertTrue(logged.records[0].getMessage().startswith(f'job {jobid} (work) failed, and runs again in '))
        self.assertEqual((self.service.getResult(jobid), self.service.jobs[jobid].failedAttempts), (1, 1))
        go.set()
        self.statuses(*[self.add('echo') for _ in range(10)])
        self.assertEqual((dict(self.service.data), self.left()), ({}, []))

    def test_a_limit_of_the_job(self):
        go = threading.Event()
        self.addCleanup(go.set)
        self.provide('wait', lambda input: go.wait(PATIENCE))
        self.start(maxThreads=1)
        with self.assertLogs('lovely.remotetask', 'ERROR'):
            jobid = self.add('wait', timeLimit=0.05, retryPolicy=RetryPolicy(attempts=1))
            self.assertEqual(self.statuses(jobid), ['error'])
        self.assertEqual(self.service.getError(jobid),
                         'TimeLimitExceeded: the run took longer than its time limit of 0.05 s')
        go.set()

    def test_in_a_child_process(self):
        self.provide('pow', pow3, isolation='process')
        self.provide('crash', crash, isolation='process', retryPolicy=RetryPolicy(attempts=2, base=0.01))
        self.start()
        with self.assertLogs('lovely.remotetask', 'ERROR'):
            jobids = [self.add('pow', 5), self.add('crash')]
            self.assertEqual(self.statuses(*jobids), ['completed', 'error'])
        self.assertEqual(self.service.getResult(jobids[0]), 125)
        self.assertIn('status 7', self.service.getError(jobids[1]))
        self.assertEqual(self.service.jobs[jobids[1]].failedAttempts, 2)


def pow3(input):
    """Return the third power."""
    return input ** 3


def crash(input):
    """End the process without any ado."""
    import os
    os._exit(7)


class TestBroken(ProcessorCase):
    """Jobs that cannot be loaded."""

    def corrupt(self, jobid, old, new):
        """Replace bytes of the input of a job where they are stored."""
        pages = self.service.shards[jobid >> BITS].pages
        oid = (pages._values['input'].get(jobid) or pages.page(jobid))._p_oid
        data, serial = self.db.storage.load(oid)
        self.assertIn(old, data)
        txn = TransactionMetaData()
        self.db.storage.tpc_begin(txn)
        self.db.storage.store(oid, serial, data.replace(old, new), '', txn)
        self.db.storage.tpc_vote(txn)
        self.db.storage.tpc_finish(txn)
        self.manager.begin()
        self.connection.cacheMinimize()
        self.manager.begin()

    def test_jobs_that_cannot_be_loaded(self):
        self.provide('echo', lambda input: input)
        jobids = [self.add('echo', text) for text in ('one', 'two', 'three')]
        # The second is corrupt, the third of another kind; the class of the input of a fourth is gone.
        pages = self.service.shards[jobids[1] >> BITS].pages
        pages.put(jobids[1], pages.get(jobids[1])[:-9])
        pages = self.service.shards[jobids[2] >> BITS].pages
        pages.put(jobids[2], rows.pack(rows.unpack(pages.get(jobids[2]))._replace(kind='jab')))
        self.manager.commit()
        fourth = self.add('echo', Gone())
        self.corrupt(fourth, b'Gone', b'Lost')
        fifth = self.add('echo', 'five')
        self.service.jobs[fifth].task = 'forgotten'
        self.manager.commit()
        with self.assertLogs('lovely.remotetask'):
            self.start()
            good = self.add('echo', 'good')
            self.assertEqual(self.statuses(jobids[0], good), ['completed'] * 2)
            self.assertEqual(self.statuses(*jobids[1:], fourth), ['error'] * 3)
        self.assertIn('cannot be loaded: the bytes are damaged', self.service.getError(jobids[1]))
        self.assertIn("cannot be loaded: its row has 'jab' as kind", self.service.getError(jobids[2]))
        self.assertIn('the input cannot be loaded', self.service.getError(fourth))
        # That the task of the fifth is missing is the matter of this host: another one may have it.
        self.assertEqual(self.service.getStatus(fifth), 'queued')
        self.assertIn("lacks the task 'forgotten'", self.service.getError(fifth))
        self.assertEqual([job.status for job in self.service.jobs.values()].count('error'), 3)
        self.assertIsNone(self.service.getResult(jobids[1]))
        for verb in 'cancel', 'retry':
            with self.assertRaises(WrongState):
                getattr(self.service, verb)(jobids[1])
        self.assertEqual(self.left(), [])
        self.service.cancel(fifth)
        self.service.clean()
        self.manager.commit()
        self.assertEqual(len(self.service.jobs), 0)


class Gone:
    """Of the class of an input that will be gone."""


if __name__ == '__main__':
    unittest.main()
