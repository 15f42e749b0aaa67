"""The roster: which claim runs next, and the turns of those that get in each other's way."""
# SPDX-License-Identifier: ZPL-2.1
import unittest

from lovely.remotetask.lifecycle import Claim
from lovely.remotetask.roster import ENDED
from lovely.remotetask.roster import TURNS
from lovely.remotetask.roster import Roster


class TestTurns(unittest.TestCase):

    def setUp(self):
        self.roster = Roster(lambda: None, lambda: 0.0)
        self.number = 0

    def add(self, *tasks):
        for task in tasks:
            self.number += 1
            self.roster.add([Claim(self.number, 0, 0, task, None)], b'')

    def take(self, conflicts=0):
        run, _ = self.roster.take()
        run.conflicts = conflicts
        return run

    def end(self, *runs):
        for run in runs:
            self.roster.end(run, None)

    def taken(self):
        """Take all claims that may run now, and return their runs."""
        runs = []
        while self.roster._next() is not None:      # `take` would wait
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
        self.old, self.new = (self.roster.take()[0] for _ in range(2))

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
        self.assertEqual((look.long, look.progress, look.watched), ([1], [(1, (0.5, 'progress'))], [(1, 1)]))
        self.roster.confirm(look)
        self.assertIsNone(self.roster.nextMoment())

    def test_what_has_not_begun_does_not_begin(self):
        self.roster.add([Claim(jobid, 0, 0, 'task', None) for jobid in (2, 3)], b'')
        self.roster.drop([(2, 0), (3, 1)], 'lost')
        self.assertEqual(self.roster.takeWaiting(), [Claim(3, 0, 0, 'task', None)])

    def test_runs_are_told_one_by_one(self):
        self.roster.tell([(1, 1)], 'cancelled')
        self.assertEqual([run.control.reason for run in (self.old, self.new)], [None, 'cancelled'])


class TestPace(unittest.TestCase):

    def setUp(self):
        self.now, self.number = 0.0, 0
        self.roster = Roster(lambda: None, lambda: self.now)

    def take(self):
        self.number += 1
        self.roster.add([Claim(self.number, 0, 0, 'task', None)], b'')
        run, _ = self.roster.take()
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
        self.assertIsNone(self.roster.take(0.01))
        self.roster.close()
        self.assertIs(self.roster.take(0.01), ENDED)

