"""Jobs as views of their rows: over transactions, beside each other, and of jobs that are gone."""
# SPDX-License-Identifier: ZPL-2.1
import unittest

from zope.interface.verify import verifyObject

from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import ICronJob
from lovely.remotetask.interfaces import IJob
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.job import CronJob
from lovely.remotetask.job import Job
from processorcase import ProcessorCase
from rowcase import LARGE
from rowcase import ROWS
from rowcase import User


class TestViews(ProcessorCase):

    def setUp(self):
        super().setUp()
        self.provide('echo', lambda input: input)
        self.service._v_nextid = ROWS
        self.jobid, self.neighbour = self.add('echo', 1), self.add('echo', 2)
        self.other = User(self, self.db)
        self.view = self.service.jobs[self.jobid]

    def test_held_over_transactions(self):
        self.other.service.jobs[self.jobid].change(error='seen', failedAttempts=2)
        self.assertTrue(self.other.commit())
        self.assertEqual((self.view.error, self.view.failedAttempts), (None, 0))       # as in all of this transaction
        self.manager.begin()
        self.assertEqual((self.view.error, self.view.failedAttempts), ('seen', 2))
        self.other.begin().service.jobs[self.jobid].output = LARGE
        self.other.commit()
        self.manager.begin()
        self.connection.cacheMinimize()
        self.assertEqual(self.view.output, LARGE)
        self.view.error = 'mine'
        self.manager.abort()
        self.assertEqual(self.view.error, 'seen')

    def test_a_change_through_a_view_that_is_older_than_the_transaction(self):
        self.other.service.jobs[self.jobid].error = 'kept'
        self.other.commit()
        self.manager.begin()
        self.view.failedAttempts = 7
        self.manager.commit()
        job = self.other.begin().service.jobs[self.jobid]
        self.assertEqual((job.error, job.failedAttempts), ('kept', 7))

    def test_a_job_that_was_removed(self):
        for neighbours in (), (self.neighbour,):                # the last one takes its page along
            with self.subTest(neighbours=neighbours):
                view = self.service.jobs[neighbours[0]] if neighbours else self.view
                self.assertEqual(view.status, QUEUED)
                self.other.begin().service.cancel(view.id)
                self.other.service.removeJobs()
                self.assertTrue(self.other.commit())
                self.manager.begin()
                self.assertNotIn(view.id, self.service.jobs)
                self.assertEqual((view.status, view.task), (QUEUED, 'echo'))
                for change in (lambda: setattr(view, 'error', 'x'), view.touch, lambda: setattr(view, 'output', LARGE)):
                    with self.assertRaisesRegex(UnknownJob, f'no job {view.id}'):
                        change()
                self.manager.commit()
                self.assertNotIn(view.id, self.other.begin().service.jobs)
        self.assertEqual(len(self.other.service.jobs), 0)

    def test_a_job_that_was_not_to_be(self):
        self.manager.begin()
        jobid = self.service.add('echo', 3)
        view = self.service.jobs[jobid]
        self.manager.abort()
        self.assertNotIn(jobid, self.service.jobs)
        self.assertEqual(view.task, 'echo')

    def test_two_views_agree(self):
        one, two = self.service.jobs[self.jobid], self.service.jobs[self.jobid]
        one.error = 'at once'
        self.assertEqual(two.error, 'at once')
        two.change(error=None, failedAttempts=1)
        self.assertEqual((one.error, one.failedAttempts), (None, 1))

    def test_equality(self):
        one, two = self.service.jobs[self.jobid], self.service.jobs[self.jobid]
        self.assertTrue(one == two and not one != two and hash(one) == hash(two))
        self.assertEqual(len({one, two, self.service.jobs[self.neighbour]}), 2)
        self.assertNotEqual(one, self.service.jobs[self.neighbour])
        self.assertNotEqual(one, Job(self.jobid, 'echo', 1))
        self.assertNotEqual(one, self.jobid)
        self.assertIn(one, self.service.getJobs())
        one.error = 'the same job, whatever is changed'
        self.assertTrue(one == two and hash(one) == hash(two))

    def test_repr_and_contracts(self):
        cron = self.service.jobs[self.service.addCronJob('echo', minute=(5,))]
        self.assertEqual((repr(self.view), repr(cron)), (f'<Job {self.jobid}>', f'<CronJob {cron.id}>'))
        for job in self.view, Job(1, 'echo', None), BrokenJob(1, 'why'), cron, CronJob(1, 'echo', None):
            with self.subTest(job):
                self.assertTrue(verifyObject(IJob, job))
                if isinstance(job, CronJob):
                    self.assertTrue(verifyObject(ICronJob, job))


if __name__ == '__main__':
    unittest.main()
