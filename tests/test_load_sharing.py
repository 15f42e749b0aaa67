"""Which of several hosts claims a job, and which leaves it to others."""
# SPDX-License-Identifier: ZPL-2.1
import dataclasses
import threading
import unittest

from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.processing.claim_strategy import SKIP
from lovely.remotetask.processing.claim_strategy import Position
from lovely.remotetask.processing.cycle import Cycle
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processing.load_sharing import HELD_UP
from lovely.remotetask.processing.load_sharing import SLOWER
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.shards import BITS
from processorcase import PATH
from processorcase import HostCase
from waits import PATIENCE


class TestLoadSharing(HostCase):

    level = 2

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
        self.provide('meet', lambda input: begun.wait(PATIENCE) and None)
        for name in 'ab':
            self.start(name=name, maxThreads=4)
        self.manager.begin()
        jobids = [self.service.add('double', number) for number in range(300)]
        self.manager.commit()
        self.statuses(*jobids)
        jobids = [self.service.add('meet') for _ in range(8)]
        self.manager.commit()
        self.assertEqual(set(self.statuses(*jobids)), {'completed'})


if __name__ == '__main__':
    unittest.main()
