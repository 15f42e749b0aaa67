"""What is in flight: which claim runs next, and how those that conflict with each other are serialized."""
# SPDX-License-Identifier: ZPL-2.1
import sys
import threading
import unittest

from lovely.remotetask.processing.contention import SERIALIZED_RUNS
from lovely.remotetask.processing.in_flight import BATCH
from lovely.remotetask.processing.in_flight import ENDED
from lovely.remotetask.processing.in_flight import LONG_AFTER
from lovely.remotetask.processing.in_flight import STALE_AFTER
from lovely.remotetask.processing.in_flight import InFlight
from lovely.remotetask.processing.iteration import Snapshot
from lovely.remotetask.storage.transitions import Claim
from lovely.remotetask.storage.transitions import Returned
from waits import PATIENCE


class TestSerialized(unittest.TestCase):

    def setUp(self):
        self.inFlight = InFlight(lambda: None, lambda: 0.0)
        self.queue = self.inFlight.newQueue()
        self.number = 0

    def add(self, *tasks):
        for task in tasks:
            self.number += 1
            self.inFlight.add([Claim(self.number, 0, 1, task, None)], b'')

    def take(self, conflicts=0):
        run, _ = self.inFlight.acquire(self.queue)
        run.conflicts = conflicts
        return run

    def end(self, *runs):
        for run in runs:
            self.inFlight.end(run, None)

    def taken(self):
        """Take all claims that may run now, and return their runs."""
        runs = []
        while self.queue or self.inFlight._next() is not None:         # `acquire` would wait
            runs.append(self.take())
        return runs

    def tasks(self, runs):
        return [run.claim.task for run in runs]

    def meetConflicts(self, task='storm'):
        """Have runs of a task meet conflicts until it is serialized."""
        for _ in range(2):
            self.add(task)
            self.end(self.take(conflicts=2))
        self.assertTrue(self.inFlight.isSerialized(task))

    def test_in_order(self):
        self.add('a', 'b', 'a', 'a')
        self.assertEqual(self.tasks(self.taken()), ['a', 'b', 'a', 'a'])

    def test_a_single_conflict_is_nothing(self):
        self.add('a', 'a', 'a')
        self.end(self.take(conflicts=1))
        self.assertEqual(self.tasks(self.taken()), ['a', 'a'])

    def test_those_that_meet_conflicts_run_one_at_a_time(self):
        self.meetConflicts()
        self.add('storm', 'storm', 'other', 'storm', 'other')
        runs = self.taken()
        self.assertEqual(self.tasks(runs), ['storm', 'other', 'other'])
        self.end(*runs[1:])
        self.assertEqual(self.taken(), [])
        self.end(runs[0])
        self.assertEqual(self.tasks(self.taken()), ['storm'])

    def test_what_waits_for_that_holds_up_no_others(self):
        self.meetConflicts()
        self.add('storm', 'storm', 'other', 'storm')
        runs = self.taken()
        self.assertEqual(self.tasks(runs), ['storm', 'other'])
        self.add('other')
        jobids = [entry.claim.jobid for entry in self.inFlight._waiting]
        returned = self.inFlight.withdraw(0)
        self.assertEqual([(report.jobid, report.isLast) for report in returned], list(zip(jobids, (True, True, False))))
        self.add('storm')
        self.assertEqual([report.isLast for report in self.inFlight.withdraw()], [False])       # processing is paused

    def test_until_it_is_tried_without(self):
        self.meetConflicts()
        for _ in range(SERIALIZED_RUNS):
            self.assertTrue(self.inFlight.isSerialized('storm'))
            self.add('storm')
            self.end(self.take())
        self.add('storm', 'storm')
        first, second = self.taken()
        second.conflicts = 1                        # and after that, one is enough
        self.end(second, first)
        self.assertTrue(self.inFlight.isSerialized('storm'))

    def test_what_went_well_for_long_is_forgotten(self):
        self.add('a')
        self.end(self.take(conflicts=2))
        for _ in range(SERIALIZED_RUNS):
            self.add('a')
            self.end(self.take())
        self.assertFalse(self.inFlight._contention.isKnown)


class TestLostClaims(unittest.TestCase):
    """Two runs of one job in one process: the host has lost the first, and claimed the job again."""

    def setUp(self):
        self.inFlight = InFlight(lambda: None, lambda: 0.0)
        self.inFlight.add([Claim(1, run, 1, 'task', None) for run in (0, 1)], b'')
        self.old, self.new = (self.inFlight.acquire(self.inFlight.newQueue())[0] for _ in range(2))

    def test_the_lost_run_is_told_and_counts_no_more(self):
        self.inFlight.drop([(1, 0)], 'lost')
        self.assertEqual([run.control.reason for run in (self.old, self.new)], ['lost', None])
        self.assertEqual(self.inFlight.load(2).unwanted, 1)

    def test_it_is_not_put_on_record(self):
        for run in self.old, self.new:
            run.control.watched = True
            run.control.report(run.claim.run / 2, 'progress')
            run.began = -100.0
        self.inFlight.drop([(1, 0)], 'lost')
        snapshot = self.inFlight.snapshot()
        self.assertEqual(snapshot, Snapshot([((1, 1), 100.0)], [((1, 1), (0.5, 'progress'))], [(1, 1)]))
        self.inFlight.confirm(snapshot)
        self.assertIsNone(self.inFlight.nextMoment())

    def test_what_has_not_begun_does_not_begin(self):
        self.inFlight.add([Claim(jobid, 0, 1, 'task', None) for jobid in (2, 3)], b'')
        self.inFlight.drop([(2, 0), (3, 1)], 'lost')
        self.assertEqual(self.inFlight.withdraw(), [Returned(3, 0)])

    def test_nor_does_what_a_thread_has_in_its_queue(self):
        self.inFlight._average = BATCH / 4
        self.inFlight.add([Claim(jobid, 0, 1, 'task', None) for jobid in (2, 3, 4, 5, 6, 7)], b'')
        queue = self.inFlight.newQueue()
        self.assertEqual((self.inFlight.acquire(queue)[0].claim.jobid, len(queue)), (2, 1))
        self.inFlight.drop([(3, 0), (4, 0)], 'lost')
        self.assertEqual([claim.jobid for claim in self.inFlight.withdraw()], [5, 6, 7])

    def test_each_has_its_own_marks_and_progress(self):
        self.old.control.report(0.5, 'late')
        self.old.began = -100.0
        snapshot = self.inFlight.snapshot()
        self.assertEqual((snapshot.long, snapshot.progress), ([((1, 0), 100.0)], [((1, 0), (0.5, 'late'))]))
        self.inFlight.confirm(snapshot)
        self.new.control.report(0.5, 'late')
        self.new.began = -1000.0
        self.assertEqual(self.inFlight.snapshot().long, [((1, 1), 1000.0)])
        self.assertEqual((self.old.shown, self.new.shown), ((0.5, 'late'), None))

    def test_the_last_one_is_looked_at(self):
        for executions in [self.old, self.new], [self.new, self.old]:
            self.inFlight._executions, looked = executions, []
            for run in executions:
                run.control.look = lambda answer, looked=looked, run=run: looked.append(run)
            self.inFlight.lookAt([])
            self.inFlight.lookAt([1])
            self.assertEqual(looked, [self.new])

    def test_runs_are_told_one_by_one(self):
        self.inFlight.interrupt([(1, 1)], 'cancelled')
        self.assertEqual([run.control.reason for run in (self.old, self.new)], [None, 'cancelled'])


class TestPace(unittest.TestCase):

    def setUp(self):
        self.now, self.number = 0.0, 0
        self.inFlight = InFlight(lambda: None, lambda: self.now)
        self.queue = self.inFlight.newQueue()

    def take(self):
        self.number += 1
        self.inFlight.add([Claim(self.number, 0, 1, 'task', None)], b'')
        run, _ = self.inFlight.acquire(self.queue)
        return run

    def end(self, run, seconds, cold=False):
        self.now, run.cold = self.now + seconds, cold
        self.inFlight.end(run, None)

    def test_first_runs_do_not_count(self):
        self.end(self.take(), 3.0, cold=True)
        self.assertIsNone(self.inFlight.load(2).duration)
        self.end(self.take(), 1.0)
        self.assertEqual(self.inFlight.load(2).duration, 1.0)
        self.end(self.take(), 3.0, cold=True)
        self.assertEqual(self.inFlight.load(2).duration, 1.0)

    def test_all_threads_are_busy(self):
        self.end(self.take(), 1.0)
        first = self.take()
        self.now += 5
        self.assertIsNone(self.inFlight.load(2).busySince)
        self.assertEqual(self.inFlight.load(2).duration, 1.0)
        self.take()
        self.assertEqual(self.inFlight.load(2).busySince, 6.0)
        self.now += 4
        self.assertEqual(self.inFlight.load(2).duration, 4.0)
        self.end(first, 0)
        self.assertIsNone(self.inFlight.load(2).busySince)

    def test_nothing_for_a_while(self):
        self.assertIsNone(self.inFlight.acquire(self.queue, 0.01))
        self.inFlight.close()
        self.assertIs(self.inFlight.acquire(self.queue, 0.01), ENDED)


class TestQueues(unittest.TestCase):
    """What a thread acquires at once."""

    def setUp(self):
        self.now, self.number = 0.0, 0
        self.inFlight = InFlight(lambda: None, lambda: self.now)
        self.queues = [self.inFlight.newQueue() for _ in range(3)]

    def add(self, count):
        """Add claims; return their ids."""
        first = self.number + 1
        self.number += count
        self.inFlight.add([Claim(number, 0, 1, 'task', None) for number in range(first, self.number + 1)], b'')
        return list(range(first, self.number + 1))

    def take(self, thread):
        run, _ = self.inFlight.acquire(self.queues[thread], 0)
        return run

    def makeAverage(self, seconds):
        self.add(1)
        run = self.take(0)
        self.now += seconds
        self.inFlight.end(run, None)
        self.assertEqual(self.inFlight.load(3).duration, seconds)
        self.number = 0

    def held(self):
        return [[claim.jobid for claim, *_ in queue] for queue in self.queues]

    def test_nothing_is_known(self):
        self.add(9)
        self.assertEqual((self.take(0).claim.jobid, self.held()), (1, [[], [], []]))

    def test_short_jobs(self):
        self.makeAverage(BATCH / 4)
        self.add(30)
        self.assertEqual((self.take(0).claim.jobid, self.held()), (1, [[2, 3, 4], [], []]))
        self.assertEqual((self.take(1).claim.jobid, self.held()), (5, [[2, 3, 4], [6, 7, 8], []]))
        self.assertEqual([self.take(0).claim.jobid for _ in range(4)], [2, 3, 4, 9])

    def test_no_more_than_a_share(self):
        self.makeAverage(BATCH / 100)
        self.add(7)
        self.assertEqual((self.take(0).claim.jobid, self.held()), (1, [[2], [], []]))

    def test_long_jobs(self):
        self.makeAverage(BATCH * 0.6)
        self.add(30)
        self.assertEqual((self.take(0).claim.jobid, self.held()), (1, [[], [], []]))

    def test_a_thread_that_has_nothing_helps(self):
        self.makeAverage(BATCH / 4)
        self.add(12)
        self.assertEqual((self.take(0).claim.jobid, self.held()), (1, [[2, 3, 4], [], []]))
        # The first job of the first thread takes long: what it has not begun is run by the others.
        taken = []
        while (got := self.inFlight.acquire(self.queues[1 + len(taken) % 2], 0)) is not None:
            taken.append(got[0].claim.jobid)
        self.assertEqual(sorted(taken), list(range(2, 13)))

    def test_what_has_not_begun_goes_back(self):
        self.makeAverage(BATCH / 4)
        jobids = self.add(12)
        begun = self.take(0).claim.jobid
        self.assertEqual(self.inFlight.nextMoment(), self.now + min(STALE_AFTER, LONG_AFTER))
        self.assertEqual(self.inFlight.nextMoment(staleAfter=LONG_AFTER * 2), self.now + LONG_AFTER)
        self.assertEqual(self.inFlight.withdraw(STALE_AFTER), [])
        self.now += STALE_AFTER * 1.01
        claims = self.inFlight.withdraw(STALE_AFTER)
        self.assertEqual([begun, *(claim.jobid for claim in claims)], jobids)
        self.assertEqual((self.held(), self.inFlight.withdraw()), ([[], [], []], []))

    def test_the_end(self):
        self.makeAverage(BATCH / 4)
        self.add(12)
        self.take(0)
        self.inFlight.close()
        self.assertEqual([self.inFlight.acquire(queue) for queue in self.queues], [ENDED] * 3)


class TestTheEnd(unittest.TestCase):
    """A host gives up what it has in flight, in whichever thread."""

    def setUp(self):
        self.inFlight = InFlight(lambda: None, lambda: 0.0)

    def add(self, *jobids):
        self.inFlight.add([Claim(jobid, 0, 1, 'task', None) for jobid in jobids], b'')

    def test_what_has_not_begun_is_withdrawn_for_good(self):
        self.add(1, 2, 3)
        execution, _ = self.inFlight.acquire(self.inFlight.newQueue())
        self.inFlight.giveUp('the end')
        self.assertEqual(execution.control.reason, 'the end')
        self.assertEqual(self.inFlight.withdrawUnstarted(), {2, 3})
        self.add(4)
        self.inFlight.close()
        self.assertEqual(self.inFlight.withdrawUnstarted(), {2, 3, 4})

    def test_what_is_returned_to_be_claimed_again_is_not(self):
        self.add(1)
        self.assertEqual(len(self.inFlight.withdraw()), 1)
        self.assertEqual(self.inFlight.withdrawUnstarted(), set())

    def test_each_claim_has_begun_or_not(self):
        begun, isMany, barrier, jobids = [], threading.Event(), threading.Barrier(6), range(1, 3001)
        self.inFlight._average = BATCH / 10                 # a thread takes several at once
        self.add(*jobids)
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1e-6)

        def work():
            queue = self.inFlight.newQueue()
            barrier.wait(PATIENCE)
            while (acquired := self.inFlight.acquire(queue, PATIENCE)) is not ENDED:
                begun.append(acquired[0].claim.jobid)
                if len(begun) >= 100:
                    isMany.set()
                self.inFlight.end(acquired[0], None)

        def giveUp():
            barrier.wait(PATIENCE)
            isMany.wait(PATIENCE)                                 # the others are at work
            self.inFlight.giveUp('the end')
            self.inFlight.close()

        threads = [threading.Thread(target=target) for target in [work] * 4 + [giveUp] * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertFalse(any(thread.is_alive() for thread in threads))
        self.assertEqual(sorted([*begun, *self.inFlight.withdrawUnstarted()]), list(jobids))


class TestExecution(unittest.TestCase):
    """What the thread of a run writes, and the one that keeps the ledger reads."""

    def setUp(self):
        self.now = 100.0
        self.inFlight = InFlight(lambda: None, lambda: self.now)
        self.inFlight.add([Claim(1, 0, 1, 'task', None)], b'')
        self.execution, _ = self.inFlight.acquire(self.inFlight.newQueue())

    def test_the_time_limit(self):
        self.execution.begin(self.now, False)
        self.execution.setRules(None, 5.0)
        self.now += LONG_AFTER
        self.inFlight.confirm(self.inFlight.snapshot())
        self.assertEqual(self.inFlight.nextMoment(), 105.0)
        self.assertEqual(self.inFlight.takeOverdue(), [])
        self.now = 105.0
        self.assertEqual(self.inFlight.takeOverdue(), [self.execution])
        self.assertEqual((self.inFlight.takeOverdue(), self.inFlight.load(1).unwanted), ([], 1))

    def test_it_writes_under_the_lock(self):
        for write in (lambda: self.execution.begin(200.0, True), lambda: self.execution.setRules('policy', 5.0),
                      self.execution.countConflict):
            before = self.state()
            thread = threading.Thread(target=write, daemon=True)
            with self.inFlight._lock:
                thread.start()
                thread.join(0.05)
                self.assertEqual((thread.is_alive(), self.state()), (True, before))
            thread.join(PATIENCE)
            self.assertNotEqual(self.state(), before)

    def state(self):
        one = self.execution
        return one.began, one.cold, one.policy, one.limit, one.conflicts
