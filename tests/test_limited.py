"""Hosts that take some tasks only: they leave the jobs of other tasks to other hosts, and hold nobody up."""
# SPDX-License-Identifier: ZPL-2.1
import unittest.mock

from lovely.remotetask.execution import rescue
from lovely.remotetask.execution.rescue import GROUPS
from lovely.remotetask.execution.tasks import takes
from lovely.remotetask.processing.claim_strategy import FEW
from lovely.remotetask.processing.claim_strategy import LEFT
from lovely.remotetask.processing.cycle import Cycle
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processing.peers import IDLE_SURVEY
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.processor import Scheduler
from lovely.remotetask.processor import SimpleProcessor
from lovely.remotetask.storage import ready
from lovely.remotetask.storage.claiming import IN_VAIN
from lovely.remotetask.storage.ready import Declined
from lovely.remotetask.storage.transitions import Returned
from lovely.remotetask.testing import Clock
from processorcase import PATH
from processorcase import ProcessorCase
from waits import PATIENCE
from waits import waitUntil


class TestPatterns(unittest.TestCase):

    def test_what_they_fit(self):
        for patterns, name, expected in (
            (None, 'echo', True), (('echo',), 'echo', True), (('echo',), 'Echo', False), (('echo',), 'echo2', False),
            (('film [HD]',), 'film [HD]', True),
            (('avi2*', 'echo'), 'avi2flv', True), (('avi2*', 'echo'), 'mov2flv', False), (('*',), 'echo', True),
        ):
            with self.subTest(patterns=patterns, name=name):
                self.assertIs(takes(patterns, name), expected)


class TestLimitedHosts(ProcessorCase):

    level = 2

    def setUp(self):
        super().setUp()
        self.ran = []
        for name in 'avi2flv', 'avi2mp4', 'echo':
            self.provide(name, lambda input, name=name: self.ran.append(name))

    def test_what_is_refused(self):
        for tasks in ('echo', [], [''], [7], {'echo': 1}):
            with self.subTest(tasks=tasks), self.assertRaisesRegex(ValueError, 'tasks: '):
                MultiProcessor(self.db, PATH, tasks=tasks)

    def test_a_host_takes_its_tasks_and_leaves_the_others(self):
        others = [self.add('echo', number) for number in range(20)]
        mine = [self.add(name, number) for number in range(10) for name in ('avi2flv', 'avi2mp4')]
        more = [self.add('echo', number) for number in range(20)]
        with self.assertNoLogs('lovely.remotetask', 'WARNING'):
            self.start(tasks=['avi2*'], name='films')
            self.assertEqual(set(self.statuses(*mine)), {'completed'})
            self.assertEqual({self.service.getStatus(jobid) for jobid in others + more}, {'queued'})
            self.assertEqual(self.service.ledgers['films'].owner['tasks'], ('avi2*',))
            self.start(tasks=('echo',), name='others')
            self.assertEqual(set(self.statuses(*others, *more)), {'completed'})
        self.assertEqual(len(self.ran), 60)

    def test_many_jobs_of_others_in_front_do_not_hold_up_a_host(self):
        for factory in MultiProcessor, SimpleProcessor:
            with self.subTest(factory=factory):
                self.service.addMany([{'task': 'echo'}] * (2 * IN_VAIN + 100))
                mine = self.add('avi2flv')
                self.factory = factory
                processor = self.start(tasks=['avi2*'], waitTime=100, lease=1000)       # longer than anybody waits here
                self.assertEqual(self.statuses(mine), ['completed'])
                self.assertTrue(processor.stop(PATIENCE))

    def test_jobs_that_were_left_do_not_run_twice(self):
        self.start(tasks=['avi2*'], name='films')
        self.start(tasks=['echo'], name='others')
        jobids = [self.add(name, number) for number in range(30) for name in ('avi2flv', 'echo')]
        self.assertEqual(set(self.statuses(*jobids)), {'completed'})
        self.assertEqual(sorted(self.ran), ['avi2flv'] * 30 + ['echo'] * 30)

    def test_one_at_a_time(self):
        self.start(tasks=['avi2*'], name='films', maxThreads=1)
        first, second = self.add('echo'), self.add('avi2flv')
        self.assertEqual(self.statuses(second), ['completed'])
        self.assertEqual(self.service.getStatus(first), 'queued')

    def test_nothing_is_left_to_hosts_that_take_other_tasks(self):
        self.start(tasks=['avi2*'], name='a')
        self.start(tasks=['echo'], name='b')
        self.start(name='c')
        for name, tasks, before in ('d', ['echo'], ('b',)), ('e', ['mp4'], ()), ('f', None, ('c',)):
            cycle = Cycle(self.db, PATH, name, tasks=tasks)
            cycle.attach()
            cycle.peers.look(cycle._begin(Work()), False)
            cycle.close()
            self.assertEqual(cycle.peers.survey.before, before)

    def test_few_jobs_are_left_in_their_queue_for_a_moment(self):
        # To put them aside would cost the host that takes them a conflict, and another commit.
        moment = Clock(1000.0)
        films = Cycle(self.db, PATH, 'films', tasks=['avi2*'], monotonic=moment)
        others = Cycle(self.db, PATH, 'others', tasks=['ech*', 'mov2flv'])
        for cycle in films, others:
            cycle.attach()
            self.addCleanup(cycle.close)
        jobids = [self.add('echo') for _ in range(2)]

        def look(seconds=0.0):
            """Return the result of an iteration, and how many jobs are put aside then."""
            moment.advance(seconds)
            result = films.iterate(Work(want=5))
            self.manager.begin()
            return result, sum(map(len, self.service.stranded.values()))

        result, aside = look()
        self.assertEqual((result.state.leaving.until, result.state.isSpared, aside), (moment() + LEFT, False, 0))
        self.assertFalse(look(LEFT / 2)[0].isWritten)
        self.assertEqual(look(LEFT / 2), (unittest.mock.ANY, 2))        # nobody was free for them
        self.assertEqual([claim.jobid for claim in others.iterate(Work(want=5)).claims], sorted(jobids))
        jobids.append(self.add('echo'))
        self.assertEqual(look()[1], 0)
        mine = self.add('avi2flv')
        result, aside = look()                                          # its own may be behind them
        self.assertEqual(([claim.jobid for claim in result.claims], result.state.leaving.until), ([mine], None))
        self.service.addMany([{'task': 'echo'}] * (FEW + 1))
        self.manager.commit()
        aside = look()[1]
        self.assertGreater(aside, FEW)                                  # these are not looked at again and again
        others.leave()
        self.add('echo')
        self.assertEqual(look(IDLE_SURVEY)[1], aside + 3)               # nobody is there for it, and what is given back

    def test_suspects_that_were_put_aside_run_in_groups(self):
        gone, films, others = (Cycle(self.db, PATH, name, tasks=tasks) for name, tasks in (
            ('gone', ['echo']), ('films', ['avi2*']), ('others', ['echo'])))
        self.service.addMany([{'task': 'echo'}] * (GROUPS + 2))
        self.manager.commit()
        for cycle in gone, films, others:
            self.addCleanup(cycle.close)
            cycle.attach()
            if cycle is gone:
                self.assertEqual(len(cycle.iterate(Work(want=100)).claims), GROUPS + 2)
        self.manager.begin()
        rescue.rescue(self.service, 'gone', 100.0)
        self.manager.commit()
        films.iterate(Work(want=5))
        self.manager.begin()
        self.assertEqual(len(self.service.stranded['echo']), GROUPS + 2)
        first = others.iterate(Work(want=5)).claims
        self.assertEqual([claim.suspect for claim in first], [2, 2])
        last = self.add('echo')                                         # is not held up by suspects
        ready.dequeue(self.service, last)
        ready.strand(self.service, self.service.jobs[last], Declined('for the test'))
        self.manager.commit()
        self.assertEqual([claim.jobid for claim in others.iterate(Work(want=5)).claims], [last])
        self.assertEqual(others.iterate(Work(want=5)).claims, [])
        second = others.iterate(Work([Returned(claim.jobid, claim.run) for claim in first], want=5)).claims
        self.assertEqual([claim.suspect for claim in second], [2, 2])

    def test_by_hand(self):
        processor = MultiProcessor(self.db, PATH, tasks=['avi2*'])
        first, second, third = self.add('echo'), self.add('avi2flv'), self.add('avi2mp4')
        self.assertTrue(processor.processNext())
        self.assertEqual(processor.claimNextJob(), third)
        self.assertTrue(processor.processNext(third))
        self.assertFalse(processor.processNext())
        self.assertIsNone(processor.claimNextJob())
        self.assertEqual(self.ran, ['avi2flv', 'avi2mp4'])
        self.manager.begin()
        self.assertEqual([self.service.getStatus(jobid) for jobid in (first, second)], ['queued', 'completed'])

    def test_a_job_that_was_left_can_be_cancelled(self):
        self.start(tasks=['avi2*'], name='films')
        jobid, other = self.add('echo'), self.add('avi2flv')
        self.statuses(other)
        self.manager.begin()
        self.service.cancel(jobid)
        self.manager.commit()
        self.assertEqual(self.service.getStatus(jobid), 'cancelled')
        self.start(name='all')
        self.assertEqual(self.statuses(self.add('echo')), ['completed'])
        self.assertEqual(self.ran, ['avi2flv', 'echo'])

    def awaitUnclaimable(self, expected):
        """Wait until the statistics say this of tasks that nobody takes; return the statistics."""
        def look():                     # nobody in this process is told when a host puts jobs aside
            self.manager.begin()
            found = self.service.getStatistics()
            return found['unclaimable'] == expected and found
        return waitUntil(look)

    def test_what_no_living_host_takes(self):
        films = self.start(tasks=['avi2*'], name='films')
        jobids = [self.add(name) for name in ('echo', 'avi2flv', 'echo')]
        found = self.awaitUnclaimable({'echo': 2})
        self.assertEqual((found['stranded'], found['retrying']), (2, 0))
        self.assertEqual([host['tasks'] for host in found['hosts']], [['avi2*']])
        self.statuses(jobids[1])
        self.assertTrue(films.stop(PATIENCE))
        with self.assertNoLogs('lovely.remotetask', 'WARNING'):
            self.factory = Scheduler                            # it runs nothing, so it takes nothing
            self.start(name='scheduler')
        self.awaitUnclaimable({'echo': 2})
        self.factory = MultiProcessor
        self.start(name='others', tasks=['echo'])
        self.assertEqual(self.statuses(*jobids), ['completed'] * 3)
        found = self.awaitUnclaimable({})
        self.assertEqual(found['stranded'], 0)


if __name__ == '__main__':
    unittest.main()
