"""The claim strategy: how many jobs are claimed, where, and what is left to other hosts.  Pure, so without a database.
"""
# SPDX-License-Identifier: ZPL-2.1
import itertools
import math
import unittest
from types import SimpleNamespace

from lovely.remotetask.processing.claim_strategy import CLAIMING
from lovely.remotetask.processing.claim_strategy import LARGEST_STORE
from lovely.remotetask.processing.claim_strategy import LONGEST_HEAD_START
from lovely.remotetask.processing.claim_strategy import MOST
from lovely.remotetask.processing.claim_strategy import PATIENCE
from lovely.remotetask.processing.claim_strategy import PLACE
from lovely.remotetask.processing.claim_strategy import SKIP
from lovely.remotetask.processing.claim_strategy import STORE
from lovely.remotetask.processing.claim_strategy import Position
from lovely.remotetask.processing.claim_strategy import Situation
from lovely.remotetask.processing.claim_strategy import Yielding
from lovely.remotetask.processing.claim_strategy import decide
from lovely.remotetask.processing.claim_strategy import demand
from lovely.remotetask.processing.claim_strategy import elsewhere
from lovely.remotetask.processing.claim_strategy import headStart
from lovely.remotetask.processing.claim_strategy import horizon
from lovely.remotetask.processing.claim_strategy import isFar
from lovely.remotetask.processing.claim_strategy import mayClaim
from lovely.remotetask.processing.claim_strategy import store
from lovely.remotetask.processing.load_sharing import AT_ONCE
from lovely.remotetask.processing.load_sharing import FIRST
from lovely.remotetask.processing.load_sharing import HELD_UP
from lovely.remotetask.processing.load_sharing import RATE
from lovely.remotetask.processing.load_sharing import SAMPLE
from lovely.remotetask.processing.load_sharing import SHORT
from lovely.remotetask.processing.load_sharing import SLOWER
from lovely.remotetask.processing.load_sharing import WARM
from lovely.remotetask.processing.load_sharing import Capacity
from lovely.remotetask.processing.load_sharing import Survey
from lovely.remotetask.processing.load_sharing import capacityOf
from lovely.remotetask.processing.load_sharing import publication
from lovely.remotetask.processing.load_sharing import rateOf
from lovely.remotetask.storage.shards import SHARDS


class TestDemand(unittest.TestCase):
    """How many jobs keep the threads busy."""

    def test_nothing_is_known_of_the_jobs(self):
        self.assertEqual(demand(5, 0, None, 0), 5)
        self.assertEqual(demand(5, 0, None, 3), 2)

    def test_short_jobs_are_held_in_store(self):
        self.assertEqual(demand(5, 0, STORE / 10, 0), 50)
        self.assertEqual(demand(5, 0, STORE / 10, 20), 30)

    def test_long_jobs_are_not(self):
        self.assertEqual(demand(5, 0, 10 * STORE, 0), 5)

    def test_the_shortest_jobs(self):
        self.assertEqual(demand(5, 0, 0.0, 0), MOST)

    def test_threads_that_nobody_waits_for(self):
        self.assertEqual(demand(5, 2, STORE / 10, 0), 30)
        self.assertLessEqual(demand(1, 1, STORE / 10, 0), 0)

    def test_in_order_nothing_is_held_in_store(self):
        self.assertEqual(demand(1, 0, STORE / 10, 0, isOrdered=True), 1)
        self.assertEqual(demand(1, 0, STORE / 10, 1, isOrdered=True), 0)

    def test_more_is_claimed_at_once_where_commits_take_long(self):
        self.assertEqual(store([]), STORE)
        self.assertEqual(store([STORE / 10, STORE]), STORE)
        self.assertEqual(store([3 * STORE, 2 * STORE, 9 * STORE]), 4 * STORE)
        self.assertEqual(store([60.0]), LARGEST_STORE)
        self.assertEqual([isFar(durations) for durations in ([], [STORE / 10, 60.0], [STORE])], [False, False, True])
        self.assertEqual(demand(1, 0, STORE / 2, 1, store=4 * STORE), 7)

    def test_a_host_without_threads(self):
        for duration in None, STORE / 10, 10 * STORE:
            self.assertLessEqual(demand(0, 0, duration, 0), 0)


class TestAlone(unittest.TestCase):

    def test_it_takes_what_it_wants(self):
        decision = decide(Situation(20, 5, position=Position(7)))
        self.assertEqual((decision.count, decision.position), (20, Position(7)))
        self.assertIsNone(decision.freeBefore)
        self.assertFalse(decision.isSpared)

    def test_it_wants_none(self):
        self.assertEqual(decide(Situation(-3, 5)).count, 0)
        self.assertFalse(Situation(0, 5, survey=Survey(3)).isShared)

    def test_after_a_conflict_it_is_not_alone(self):
        self.assertTrue(Situation(1, 5, position=Position(0, 9)).isShared)

    def test_after_a_conflict_few_jobs_are_not_skipped(self):
        for skip, waiting in itertools.product(range(SKIP), range(1, 10)):
            decision = decide(Situation(1, 5, position=Position(0, skip)), waiting)
            self.assertEqual(decision.count, 1)
            self.assertLess(decision.position.skip, waiting)


class TestShares(unittest.TestCase):
    """Of hosts that have a thread free each takes a share."""

    def decide(self, waiting, want=100, threads=4, held=0, running=1, **arguments):
        survey = arguments.pop('survey', Survey(running, running))
        return decide(Situation(want, threads, held, survey=survey, **arguments), waiting)

    def test_half(self):
        self.assertEqual(self.decide(100).count, 50)

    def test_what_it_has_already_counts(self):
        self.assertEqual(self.decide(100, held=20).count, 40)
        self.assertEqual(self.decide(20, held=60).count, 0)

    def test_its_threads_have_something_to_do(self):
        self.assertEqual(self.decide(5, running=9).count, 4)

    def test_no_more_than_it_wants(self):
        self.assertEqual(self.decide(1000, want=10).count, 10)

    def test_idle_hosts_have_no_share_in_short_jobs(self):
        self.assertEqual(self.decide(90, survey=Survey(8, 1)).count, 10)
        self.assertEqual(self.decide(90, survey=Survey(8, 1), isQuick=True).count, 45)

    def test_shares_never_exceed_what_waits_and_is_held(self):
        for waiting, others in itertools.product((10, 100, 999), (1, 2, 7)):
            count = self.decide(waiting, want=MOST, threads=1, running=others).count
            self.assertLessEqual(count * (others + 1), waiting + others)

    def test_busy_hosts_claim_at_different_places(self):
        places = [self.decide(1000, want=10, held=4, survey=Survey(2, 2, tuple('abc'[:rank])))
                  for rank in range(3)]
        self.assertEqual([place.position.skip for place in places], [0, PLACE, 2 * PLACE])
        self.assertEqual([place.count for place in places], [10] * 3)

    def test_but_not_beyond_the_end(self):
        for waiting in range(20, 200):
            decision = self.decide(waiting, want=10, held=4, survey=Survey(2, 2, ('a', 'b')))
            self.assertGreater(decision.count, 0)
            self.assertLessEqual(decision.position.skip + decision.count, waiting)

    def test_what_is_counted_is_enough(self):
        # With more that waits the decision is the same.
        for want, held, others, jobs in itertools.product((1, 50), (0, 30), (1, 5), (0, 7)):
            situation = Situation(want, 4, held, survey=Survey(others, others, ('a',)),
                                  capacity=Capacity(jobs, (b'1',)))
            most = horizon(situation)
            one, other = decide(situation, most), decide(situation, 100 * most)
            self.assertEqual(one.count, other.count)
            self.assertEqual(one.position, other.position)
            self.assertEqual(one.count, want)


class TestLeft(unittest.TestCase):
    """What is left to the hosts of higher priority."""

    def situation(self, jobs=3, rank=1, **arguments):
        names = tuple('abcdefg'[:rank])
        arguments = {'survey': Survey(rank, rank, names), 'capacity': Capacity(jobs, names), **arguments}
        return Situation(2, 2, **arguments)

    def test_as_much_as_they_can_do(self):
        for waiting in 1, 3:
            decision = decide(self.situation(position=Position(5, 77)), waiting)
            self.assertEqual((decision.count, decision.position, decision.freeBefore), (0, Position(5), 1))

    def test_the_rest_is_claimed(self):
        decision = decide(self.situation(), 5)
        self.assertEqual((decision.count, decision.position.skip, decision.freeBefore), (2, 3, 1))

    def test_nothing_waits(self):
        decision = decide(self.situation(), 0)
        self.assertEqual((decision.freeBefore, decision.yielding), (None, Yielding()))

    def test_all_where_they_are_enough(self):
        situation = self.situation(jobs=math.inf)
        self.assertEqual(horizon(situation), 1)
        self.assertEqual(decide(situation, 1).count, 0)

    def test_not_for_ever(self):
        for rank in 1, 3:
            situation = self.situation(rank=rank, moment=100.0)
            yielding = decide(situation, 2).yielding
            self.assertEqual(yielding, Yielding(100.0, situation.capacity.serials))
            for seconds, count in ((PATIENCE * rank * 0.9, 0), (PATIENCE * rank * 1.1, 2)):
                later = self.situation(rank=rank, moment=100.0 + seconds, yielding=yielding)
                self.assertEqual(decide(later, 2).count, count)

    def test_as_long_as_they_get_on(self):
        yielding = decide(self.situation(moment=100.0), 2).yielding
        later = self.situation(moment=200.0, yielding=yielding, capacity=Capacity(3, ('new',)))
        self.assertEqual(decide(later, 2).count, 0)
        self.assertEqual(decide(later, 2).yielding, Yielding(200.0, ('new',)))

    def test_patience_begins_anew(self):
        yielding = Yielding(100.0, ('a',))
        decision = decide(self.situation(moment=200.0, yielding=yielding), 100)     # more than they can do
        self.assertEqual(decision.yielding, Yielding())

    def test_who_may_sleep(self):
        def isSpared(rank=WARM, isQuick=True, **arguments):
            names = tuple('abcdefg'[:rank])
            return decide(self.situation(rank=rank, capacity=Capacity(9, names, isQuick), **arguments), 1).isSpared

        self.assertTrue(isSpared())
        self.assertFalse(isSpared(rank=WARM - 1))
        self.assertFalse(isSpared(isQuick=False))
        self.assertFalse(isSpared(isIdle=False))


class TestFailures(unittest.TestCase):

    def test_now_and_then_nothing_is_claimed(self):
        self.assertEqual([mayClaim(failures) for failures in range(2 * CLAIMING)],
                         ([True] * (CLAIMING - 1) + [False]) * 2)

    def test_it_goes_elsewhere(self):
        self.assertEqual(elsewhere(lambda limit: limit - 1), Position(SHARDS - 1, SKIP - 1))

    def test_the_head_start_grows_and_has_an_end(self):
        starts = [headStart(count) for count in range(100)]
        self.assertEqual(starts, sorted(starts))
        self.assertEqual((starts[0], starts[-1]), (0, LONGEST_HEAD_START))


class TestCapacity(unittest.TestCase):
    """What hosts do without help, by what is on record of them."""

    asking = {'machine': 'here', 'cores': 8}

    def ledger(self, claimed=0, machine='there', **owner):
        return SimpleNamespace(owner={'machine': machine, **owner}, claimed=range(claimed), _p_serial=b'1')

    def capacity(self, *ledgers, **asking):
        return capacityOf([(ledger, 1) for ledger in ledgers], {**self.asking, **asking})

    def test_free_threads(self):
        capacity = self.capacity(self.ledger(1, threads=4), self.ledger(2, threads=2))
        self.assertEqual(capacity, Capacity(3, (b'1',), False))

    def test_who_has_ended_or_stops_does_nothing(self):
        gone = self.ledger()
        gone.owner = None
        self.assertEqual(self.capacity(gone, self.ledger(threads=0)), Capacity())

    def test_short_jobs_are_done_at_once(self):
        capacity = self.capacity(self.ledger(10, threads=1, duration=SHORT))
        self.assertEqual((capacity.jobs, capacity.isQuick), (int(AT_ONCE / SHORT) - 10, True))

    def test_enough_hosts(self):
        quick = self.ledger(1, threads=4, duration=0.0001)
        self.assertLess(self.capacity(quick).jobs, math.inf)
        self.assertEqual(self.capacity(quick, quick).jobs, math.inf)
        # Of a beginner that has something to do as much is expected.
        self.assertEqual(self.capacity(quick, self.ledger(1)).jobs, math.inf)

    def test_enough_for_a_machine(self):
        near = self.ledger(1, machine='here', threads=4, duration=0.0001)
        for cores, jobs in ((2, math.inf), (8, int(RATE * AT_ONCE) - 1)):
            self.assertEqual(self.capacity(near, cores=cores).jobs, jobs)

    def test_some_stand_for_many(self):
        survey = Survey(200, 200, tuple(f'host-{number:03}' for number in range(150)))
        self.assertEqual(len(survey.sample), FIRST + SAMPLE)
        self.assertEqual([name for name, _ in survey.sample[:FIRST]], list(survey.before[:FIRST]))
        self.assertAlmostEqual(sum(number for _, number in survey.sample), 150)
        self.assertEqual(len(set(survey.sample)), FIRST + SAMPLE)
        idle = capacityOf([(self.ledger(threads=2), number) for _, number in survey.sample], self.asking)
        self.assertEqual(idle.jobs, 300)
        for rank in range(40):
            few = Survey(40, 40, survey.before[:rank])
            self.assertAlmostEqual(sum(number for _, number in few.sample), rank)
            self.assertLessEqual(len(few.sample), FIRST + SAMPLE)
        exact = Survey(40, 40, survey.before[:FIRST + SAMPLE]).sample
        self.assertEqual(exact, [(name, 1) for name in survey.before[:FIRST + SAMPLE]])

    def test_rates(self):
        for owner, rate in (({}, 0), ({'duration': SHORT * 1.01}, 0), ({'duration': SHORT, 'threads': 2}, 2 / SHORT),
                            ({'duration': 0.0, 'threads': 2}, RATE), ({'duration': SHORT, 'threads': 0}, 0)):
            self.assertEqual(rateOf(owner), rate)


class TestPublication(unittest.TestCase):
    """When a host puts on record how long its jobs take."""

    def isDue(self, published, duration, busyFor=0.0, isWritten=True, moment=100.0, slowerSince=None):
        owner = {'threads': 1} if published is None else {'threads': 1, 'duration': published}
        return publication(owner, duration, busyFor, isWritten, moment, slowerSince).isDue

    def test_the_first_time(self):
        self.assertTrue(self.isDue(None, 0.001))
        self.assertFalse(self.isDue(None, None))

    def test_only_with_something_else(self):
        self.assertFalse(self.isDue(None, 0.001, isWritten=False))

    def test_quicker_at_once(self):
        self.assertTrue(self.isDue(0.01, 0.004))
        self.assertFalse(self.isDue(0.01, 0.006))

    def test_slower_after_a_while(self):
        since = publication({'duration': 0.01}, 0.02, 0.0, True, 100.0, None).slowerSince
        self.assertEqual(since, 100.0)
        for seconds, isDue in ((0.9 * SLOWER, False), (1.1 * SLOWER, True)):
            self.assertEqual(self.isDue(0.01, 0.02, moment=100.0 + seconds, slowerSince=since), isDue)

    def test_what_has_passed_is_forgotten(self):
        self.assertIsNone(publication({'duration': 0.01}, 0.011, 0.0, True, 200.0, 100.0).slowerSince)

    def test_short_jobs_that_do_not_end(self):
        self.assertTrue(self.isDue(0.001, HELD_UP, busyFor=HELD_UP, isWritten=False))
        self.assertFalse(self.isDue(0.001, HELD_UP, busyFor=HELD_UP / 2, isWritten=False))
        self.assertFalse(self.isDue(10 * SHORT, HELD_UP, busyFor=HELD_UP, isWritten=False))


if __name__ == '__main__':
    unittest.main()
