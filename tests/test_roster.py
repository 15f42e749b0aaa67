"""The roster: which claim runs next, and the turns of those that get in each other's way."""
# SPDX-License-Identifier: ZPL-2.1
import unittest

from lovely.remotetask.processing.in_flight import ENDED
from lovely.remotetask.processing.in_flight import HAND
from lovely.remotetask.processing.in_flight import LONG_AFTER
from lovely.remotetask.processing.in_flight import TURNS
from lovely.remotetask.processing.in_flight import WAITING_LOOK
from lovely.remotetask.processing.in_flight import Roster
from lovely.remotetask.storage.transitions import Claim


class TestTurns(unittest.TestCase):

    def setUp(self):
        self.roster = Roster(lambda: None, lambda: 0.0)
        self.hand = self.roster.newHand()
        self.number = 0

    def add(self, *tasks):
        for task in tasks:
            self.number += 1
            self.roster.add([Claim(self.number, 0, 0, task, None)], b'')

    def take(self, conflicts=0):
        run, _ = self.roster.take(self.hand)
        run.conflicts = conflicts
        return run

    def end(self, *runs):
        for run in runs:
            self.roster.end(run, None)

    def taken(self):
        """Take all claims that may run now, and return their runs."""
        runs = []
        while self.hand or self.roster._next() is not None:         # `take` would wait
            runs.append(self.take())
        return runs

    def tasks(self, runs):
        return [run.claim.task for run in runs]

    def meetConflicts(self, task='storm'):
        """Have runs of a task meet conflicts until they take turns."""
        for _ in range(2):
            self.add(task)
            self.end(self.take(conflicts=2))
        self.assertTrue(self.roster.takesTurns(task))

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

    def test_until_it_is_tried_without(self):
        self.meetConflicts()
        for _ in range(TURNS):
            self.assertTrue(self.roster.takesTurns('storm'))
            self.add('storm')
            self.end(self.take())
        self.add('storm', 'storm')
        first, second = self.taken()
        second.conflicts = 1                        # and after that, one is enough
        self.end(second, first)
        self.assertTrue(self.roster.takesTurns('storm'))

    def test_what_went_well_for_long_is_forgotten(self):
        self.add('a')
        self.end(self.take(conflicts=2))
        for _ in range(TURNS):
            self.add('a')
            self.end(self.take())
        self.assertEqual(self.roster._conflicts, {})


class TestLostClaims(unittest.TestCase):
    """Two runs of one job in one process: the host has lost the first, and claimed the job again."""

    def setUp(self):
        self.roster = Roster(lambda: None, lambda: 0.0)
        self.roster.add([Claim(1, run, 0, 'task', None) for run in (0, 1)], b'')
        self.old, self.new = (self.roster.take(self.roster.newHand())[0] for _ in range(2))

    def test_the_lost_run_is_told_and_counts_no_more(self):
        self.roster.drop([(1, 0)], 'lost')
        self.assertEqual([run.control.reason for run in (self.old, self.new)], ['lost', None])
        self.assertEqual(self.roster.stuck, 1)

    def test_it_is_not_put_on_record(self):
        for run in self.old, self.new:
            run.control.watched = True
            run.control.report(run.claim.run / 2, 'progress')
            run.began = -100.0
        self.roster.drop([(1, 0)], 'lost')
        look = self.roster.look()
        self.assertEqual((look.long, look.progress, look.watched), ([(1, 100.0)], [(1, (0.5, 'progress'))], [(1, 1)]))
        self.roster.confirm(look)
        self.assertIsNone(self.roster.nextMoment())

    def test_what_has_not_begun_does_not_begin(self):
        self.roster.add([Claim(jobid, 0, 0, 'task', None) for jobid in (2, 3)], b'')
        self.roster.drop([(2, 0), (3, 1)], 'lost')
        self.assertEqual(self.roster.takeWaiting(), [Claim(3, 0, 0, 'task', None)])

    def test_nor_does_what_a_thread_has_in_its_hand(self):
        self.roster.average = HAND / 4
        self.roster.add([Claim(jobid, 0, 0, 'task', None) for jobid in (2, 3, 4, 5, 6, 7)], b'')
        hand = self.roster.newHand()
        self.assertEqual((self.roster.take(hand)[0].claim.jobid, len(hand)), (2, 1))
        self.roster.drop([(3, 0), (4, 0)], 'lost')
        self.assertEqual([claim.jobid for claim in self.roster.takeWaiting()], [5, 6, 7])

    def test_runs_are_told_one_by_one(self):
        self.roster.tell([(1, 1)], 'cancelled')
        self.assertEqual([run.control.reason for run in (self.old, self.new)], [None, 'cancelled'])


class TestPace(unittest.TestCase):

    def setUp(self):
        self.now, self.number = 0.0, 0
        self.roster = Roster(lambda: None, lambda: self.now)
        self.hand = self.roster.newHand()

    def take(self):
        self.number += 1
        self.roster.add([Claim(self.number, 0, 0, 'task', None)], b'')
        run, _ = self.roster.take(self.hand)
        return run

    def end(self, run, seconds, cold=False):
        self.now, run.cold = self.now + seconds, cold
        self.roster.end(run, None)

    def test_first_runs_do_not_count(self):
        self.end(self.take(), 3.0, cold=True)
        self.assertIsNone(self.roster.pace(2))
        self.end(self.take(), 1.0)
        self.assertEqual(self.roster.pace(2), 1.0)
        self.end(self.take(), 3.0, cold=True)
        self.assertEqual(self.roster.pace(2), 1.0)

    def test_all_threads_are_busy(self):
        self.end(self.take(), 1.0)
        first = self.take()
        self.now += 5
        self.assertIsNone(self.roster.fullSince(2))
        self.assertEqual(self.roster.pace(2), 1.0)
        self.take()
        self.assertEqual(self.roster.fullSince(2), 6.0)
        self.now += 4
        self.assertEqual(self.roster.pace(2), 4.0)
        self.end(first, 0)
        self.assertIsNone(self.roster.fullSince(2))

    def test_nothing_for_a_while(self):
        self.assertIsNone(self.roster.take(self.hand, 0.01))
        self.roster.close()
        self.assertIs(self.roster.take(self.hand, 0.01), ENDED)


class TestHands(unittest.TestCase):
    """What a thread takes at once."""

    def setUp(self):
        self.now, self.number = 0.0, 0
        self.roster = Roster(lambda: None, lambda: self.now)
        self.hands = [self.roster.newHand() for _ in range(3)]

    def add(self, count):
        """Add claims; return their ids."""
        first = self.number + 1
        self.number += count
        self.roster.add([Claim(number, 0, 0, 'task', None) for number in range(first, self.number + 1)], b'')
        return list(range(first, self.number + 1))

    def take(self, thread):
        run, _ = self.roster.take(self.hands[thread], 0)
        return run

    def makeAverage(self, seconds):
        self.add(1)
        run = self.take(0)
        self.now += seconds
        self.roster.end(run, None)
        self.assertEqual(self.roster.average, seconds)
        self.number = 0

    def held(self):
        return [[claim.jobid for claim, _, _ in hand] for hand in self.hands]

    def test_nothing_is_known(self):
        self.add(9)
        self.assertEqual((self.take(0).claim.jobid, self.held()), (1, [[], [], []]))

    def test_short_jobs(self):
        self.makeAverage(HAND / 4)
        self.add(30)
        self.assertEqual((self.take(0).claim.jobid, self.held()), (1, [[2, 3, 4], [], []]))
        self.assertEqual((self.take(1).claim.jobid, self.held()), (5, [[2, 3, 4], [6, 7, 8], []]))
        self.assertEqual([self.take(0).claim.jobid for _ in range(4)], [2, 3, 4, 9])

    def test_no_more_than_a_share(self):
        self.makeAverage(HAND / 100)
        self.add(7)
        self.assertEqual((self.take(0).claim.jobid, self.held()), (1, [[2], [], []]))

    def test_long_jobs(self):
        self.makeAverage(HAND * 0.6)
        self.add(30)
        self.assertEqual((self.take(0).claim.jobid, self.held()), (1, [[], [], []]))

    def test_a_thread_that_has_nothing_helps(self):
        self.makeAverage(HAND / 4)
        self.add(12)
        self.assertEqual((self.take(0).claim.jobid, self.held()), (1, [[2, 3, 4], [], []]))
        # The first job of the first thread takes long: what it has not begun is run by the others.
        taken = []
        while (got := self.roster.take(self.hands[1 + len(taken) % 2], 0)) is not None:
            taken.append(got[0].claim.jobid)
        self.assertEqual(sorted(taken), list(range(2, 13)))

    def test_what_has_not_begun_goes_back(self):
        self.makeAverage(HAND / 4)
        jobids = self.add(12)
        begun = self.take(0).claim.jobid
        self.assertEqual(self.roster.nextMoment(), self.now + min(WAITING_LOOK, LONG_AFTER))
        self.assertEqual(self.roster.takeWaiting(WAITING_LOOK), [])
        self.now += WAITING_LOOK * 1.01
        claims = self.roster.takeWaiting(WAITING_LOOK)
        self.assertEqual([begun, *(claim.jobid for claim in claims)], jobids)
        self.assertEqual((self.held(), self.roster.takeWaiting()), ([[], [], []], []))

    def test_the_end(self):
        self.makeAverage(HAND / 4)
        self.add(12)
        self.take(0)
        self.roster.close()
        self.assertEqual([self.roster.take(hand) for hand in self.hands], [ENDED] * 3)
