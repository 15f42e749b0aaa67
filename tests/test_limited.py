"""Hosts that take some tasks only: they leave the jobs of other tasks to other hosts, and hold nobody up."""
# SPDX-License-Identifier: ZPL-2.1
import unittest

from lovely.remotetask.execution.tasks import takes
from lovely.remotetask.processor import MultiProcessor
from test_processor import PATH
from test_processor import ProcessorCase


class TestPatterns(unittest.TestCase):

    def test_what_they_fit(self):
        for patterns, name, expected in (
            (None, 'echo', True), (('echo',), 'echo', True), (('echo',), 'Echo', False), (('echo',), 'echo2', False),
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


if __name__ == '__main__':
    unittest.main()
