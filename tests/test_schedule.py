"""Schedules of a service: misfires, time zones, new jobs, history; and who the scheduler is, with real processes."""
# SPDX-License-Identifier: ZPL-2.1
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

import transaction
from ZODB.POSException import POSKeyError
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import WrongState
from lovely.remotetask.job import SCHEDULE
from lovely.remotetask.job import CronJob
from lovely.remotetask.job import Failure
from lovely.remotetask.job import Run
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.processor import Scheduler
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.schedules.misfire import GRACE
from lovely.remotetask.schedules.misfire import decide
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import install
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import transitions
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import temporaryZEO


HOUR, DAY = 3600, 86400

#: Seconds after which something that should have happened long ago makes a test fail.
PATIENCE = 30


class ScheduleCase(unittest.TestCase):
    """A service outside any database; time is an argument."""

    def setUp(self):
        self.addCleanup(testing.tearDown)
        self.ran = []
        self.failing = False
        provideUtility(SimpleTask(self.run_), name='run')
        self.service = TaskService()

    def run_(self, input):
        self.ran.append(self.now)
        if self.failing:
            raise TaskError('as asked')
        return len(self.ran)

    def process(self, *times):
        """Process at each of the times; return how often the task was run in all."""
        for self.now in times:
            self.service.process(self.now)
        return len(self.ran)

    def add(self, now=0, **options):
        return self.service.addCronJob('run', now=now, **options)


class TestMisfire(ScheduleCase):

    def test_once_for_all_missed(self):
        jobid = self.add(hour=(2,))
        self.process(0)
        self.assertEqual(self.process(10 * DAY), 1)
        self.assertEqual(self.service.jobs[jobid].calledFor, 2 * HOUR)
        self.assertEqual(self.process(10 * DAY + HOUR), 1)
        self.assertEqual(self.process(10 * DAY + 2 * HOUR), 2)

    def test_skip(self):
        self.add(hour=(2,), misfire='skip')
        self.process(0)
        self.assertEqual(self.process(10 * DAY), 0)
        self.assertEqual(self.process(10 * DAY + 2 * HOUR + GRACE), 1)
        self.assertEqual(self.process(11 * DAY + 2 * HOUR + GRACE + 1), 1)

    def test_each_up_to_a_limit(self):
        jobid = self.add(hour=(2,), misfire=3)
        self.process(0)
        self.assertEqual(self.process(2 * DAY), 2)
        self.assertEqual(self.process(10 * DAY), 5)
        self.assertEqual([run.calledFor for run in self.service.jobs[jobid].history],
                         [2 * HOUR + day * DAY for day in (0, 1, 7, 8, 9)])
        self.assertEqual(self.process(10 * DAY + HOUR), 5)
        self.assertEqual(self.process(10 * DAY + 2 * HOUR), 6)

    def test_a_change_of_the_schedule_is_no_reason_to_make_up(self):
        jobid = self.add(hour=(2,), misfire=100)
        self.process(0, 2 * HOUR)
        self.service.jobs[jobid].update(minute=(0, 30))
        self.service.reschedule(jobid, now=20 * HOUR)
        self.assertEqual(self.process(20 * HOUR), 1)
        self.assertEqual(self.process(20 * HOUR + 1800), 2)

    def test_millions_of_missed_times(self):
        minutely = lambda time: (time // 60 + 1) * 60           # noqa: E731
        self.assertEqual(decide(2, 60, 10 ** 9, minutely), 999999900)
        self.assertEqual(decide(1000, 60, 300, minutely), 60)
        yearly = lambda time: (time // (365 * DAY) + 1) * 365 * DAY         # noqa: E731
        self.assertEqual(decide(1, 0, 10 ** 9, yearly), 31 * 365 * DAY)

    def test_refused(self):
        for misfire in ('never', 0, -1, True, 1.5, 10 ** 6, None.__class__):
            with self.subTest(misfire=misfire), self.assertRaisesRegex(ValueError, 'misfire'):
                self.add(hour=(2,), misfire=misfire)
        with self.assertRaisesRegex(ValueError, 'delayed job'):
            self.add(delay=5, misfire='skip')
        self.assertEqual(len(self.service.jobs), 0)

    def test_a_clock_that_is_set_back(self):
        self.add(hour=(2,))
        self.process(0)
        self.assertEqual(self.process(2 * HOUR + 5, HOUR, 2 * HOUR, 2 * HOUR + 10), 1)
        self.assertEqual(self.process(DAY + 2 * HOUR), 2)


class TestCronJobs(ScheduleCase):

    def test_history(self):
        jobid = self.add(minute=(0,))
        job = self.service.jobs[jobid]
        self.process(0, HOUR)
        self.failing = True
        self.process(2 * HOUR + 5)
        self.assertEqual(job.history, (Run(HOUR, jobid, 'completed', HOUR, HOUR, None),
                                       Run(2 * HOUR, jobid, 'error', 2 * HOUR + 5, 2 * HOUR + 5, 'as asked')))
        self.assertEqual((job.status, job.error, job.started, job.completed),
                         ('cronjob', 'as asked', 2 * HOUR + 5, 2 * HOUR + 5))
        self.failing = False
        self.process(*range(3 * HOUR, 20 * HOUR, HOUR))
        self.assertEqual((len(job.history), job.error, job.output), (10, None, 19))

    def test_scheduled_for(self):
        job = self.service.jobs[self.add(minute=(0,))]
        self.assertIsNone(job.scheduledFor)
        self.process(0)
        self.assertEqual(job.scheduledFor, HOUR)

    def test_inactive(self):
        jobid = self.add(minute=(0,), active=False)
        job = self.service.jobs[jobid]
        self.assertEqual(self.process(0, HOUR, 2 * HOUR), 0)
        self.assertIsNone(job.scheduledFor)
        job.active = True
        self.service.reschedule(jobid, now=2 * HOUR)
        self.assertEqual(self.process(2 * HOUR), 0)
        self.assertEqual(self.process(3 * HOUR), 1)
        job.active = False
        self.assertEqual(self.process(4 * HOUR, 5 * HOUR), 1)           # even if nobody rescheduled it

    def test_never_twice_at_a_time(self):
        # Rescheduled while a run is queued or claimed: it is not queued once more.
        jobid = self.add(minute=(0,))
        self.process(0)
        self.assertEqual(self.service.claimNextJob(now=HOUR), jobid)
        self.service.reschedule(jobid, now=HOUR)
        for now in (HOUR, 2 * HOUR, 3 * HOUR):
            self.assertIsNone(self.service.claimNextJob(now=now))
        self.now = 3 * HOUR
        self.service.processNext(3 * HOUR, jobid)
        self.assertEqual(self.process(3 * HOUR + 60), 1)
        self.assertEqual(self.process(4 * HOUR), 2)

    def test_crontab_and_time_zone(self):
        jobid = self.add(crontab='30 8 * * mon-fri', timeZone='Europe/Berlin')
        job = self.service.jobs[jobid]
        self.process(0)
        self.assertEqual((job.crontab, job.timeZone, job.scheduledFor), ('30 8 * * mon-fri', 'Europe/Berlin', 27000))
        job.update(hour=(9,))
        self.assertEqual((job.crontab, job.timeZone), (None, 'Europe/Berlin'))
        job.update(hour=(9,), timeZone='UTC')
        self.service.reschedule(jobid, now=0)
        self.process(0)
        self.assertEqual((job.timeZone, job.scheduledFor), (None, 9 * HOUR))

    def test_delayed_and_back(self):
        jobid = self.add(minute=(0,))
        job = self.service.jobs[jobid]
        job.update(delay=10)
        self.service.reschedule(jobid)
        self.assertEqual(job.status, 'delayed')
        self.assertEqual(self.process(5, 15, 25), 1)
        self.assertEqual(job.status, 'completed')
        with self.assertRaises(WrongState):
            self.service.reschedule(jobid)

    def test_refused(self):
        for options, reason in (({'crontab': 'x'}, 'crontab'), ({'crontab': '* * * * *', 'hour': (2,)}, 'not both'),
                                ({'delay': 5, 'hour': (2,)}, 'not both'), ({'timeZone': 'Mars/Base'}, 'timeZone'),
                                ({'newJobs': 1}, 'newJobs'), ({'overlap': True}, 'overlap'),
                                ({'active': None}, 'active'), ({'crontab': '0 0 30 2 *'}, 'no time at all')):
            with self.subTest(options=options), self.assertRaisesRegex(ValueError, reason):
                self.add(**options)
        with self.assertRaises(TypeError):
            self.add(nonsense=1)
        self.assertEqual((len(self.service.jobs), list(self.service.schedule.inbox)), (0, []))

    def test_edge_values(self):
        # Zero and empty are not the same as not given.
        for options, sentence in (({'delay': 0, 'hour': [2]}, 'not both'),
                                  ({'delay': 0, 'crontab': '@daily'}, 'not both'),
                                  ({'crontab': ''}, 'crontab: five fields are needed'),
                                  ({'crontab': '', 'hour': [2]}, 'not both'), ({'timeZone': ''}, "timeZone: '' is not"),
                                  ({'misfire': 0}, 'misfire: 0 is none of'), ({'misfire': ''}, 'misfire: \'\' is none'),
                                  ({'misfire': False}, 'misfire: False is'), ({'minute': 0}, 'minute: a list of numb'),
                                  ({'newJobs': 0}, 'newJobs: 0 is not a bool'), ({'active': 0}, 'active: 0 is not a'),
                                  ({'delay': False}, 'delay: False is not'),
                                  ({'delay': 0, 'newJobs': True}, 'too short'),
                                  ({'delay': 1e-9, 'newJobs': True}, 'delay: 1e-09 is too short'),
                                  ({'crontab': '0 ' * 1000}, 'crontab: the text has 2000 characters')):
            with self.subTest(options=options), self.assertRaisesRegex(ValueError, sentence):
                self.add(**options)
        for now in (float('inf'), -float('inf'), float('nan'), True, 'now', 1e15, -1e15):
            for call in (self.service.process, self.service.hasJobsWaiting, lambda now: self.add(now=now, hour=[2])):
                with self.subTest(now=now), self.assertRaisesRegex(ValueError, '^now: .* is not a time in UTC sec'):
                    call(now)
        self.assertEqual((len(self.service.jobs), list(self.service.schedule.inbox)), (0, []))
        jobid = self.add(delay=0, now=5)
        self.assertEqual((self.process(5), self.service.getStatus(jobid)), (1, 'completed'))
        fields = [self.service.jobs[self.add(minute=minute)].timeOfNextCall(0) for minute in ((), [], None)]
        self.assertEqual(fields, [60] * 3)
        jobid = self.add(hour=[2])
        for changes, sentence in (({'timeZone': ''}, 'timeZone'), ({'delay': -1}, 'delay'),
                                  ({'crontab': ''}, 'crontab'),
                                  ({'delay': 0, 'newJobs': True}, 'too short'), ({'minute': 0}, 'minute')):
            with self.subTest(changes=changes), self.assertRaisesRegex(ValueError, sentence):
                self.service.updateCronJob(jobid, **changes)
        self.assertEqual(self.service.jobs[jobid].hour, (2,))

    def test_a_change_to_none_is_one_to_the_default(self):
        jobid = self.add(delay=60, newJobs=True, overlap=True, active=False, misfire='skip', timeZone='Europe/Berlin')
        self.service.updateCronJob(jobid, **dict.fromkeys(SCHEDULE))
        changed, new = self.service.jobs[jobid], self.service.jobs[self.add()]
        self.assertEqual({name: getattr(changed, name) for name in SCHEDULE},
                         {name: getattr(new, name) for name in SCHEDULE})

    def test_what_waits(self):
        # hasJobsWaiting says whether processing would run something, also when the scheduler has not seen it.
        def check(*times):
            for now in times:
                before, said = len(self.ran), self.service.hasJobsWaiting(now)
                self.assertEqual((said, now), (self.process(now) > before, now))

        self.assertFalse(self.service.hasJobsWaiting(0))
        self.add(delay=0)
        self.assertTrue(self.service.hasJobsWaiting(0))
        check(0, 0)
        self.add(delay=10)
        check(5, 14, 15, 16)
        self.add(hour=(2,), misfire=3)
        check(20, 2 * HOUR, 2 * HOUR + 1, 5 * DAY, 5 * DAY)
        cancelled = self.add(delay=10)
        self.process(6 * DAY)
        self.service.cancel(cancelled)
        check(6 * DAY + 10)
        self.service.jobs[self.add(hour=(2,))].timeZone = 'Atlantis/Capital'
        self.assertFalse(self.service.hasJobsWaiting(6 * DAY + 10))


class TestSetAside(ScheduleCase):
    """Jobs that the scheduler cannot handle."""

    def break_(self, jobid):
        self.service.jobs[jobid].timeZone = 'Atlantis/Capital'          # of a machine that knows more

    def test_the_others_go_on(self):
        for options, ticks in (({}, 0), ({'newJobs': True}, 0), ({'newJobs': True, 'misfire': 3}, 2 * HOUR),
                               ({}, 2 * HOUR)):
            with self.subTest(options=options, ticks=ticks):
                self.setUp()
                jobid = self.add(hour=(2,), **options)
                other = self.add(hour=(2,))
                if ticks:
                    self.process(0)
                self.break_(jobid)
                runs = [2 * HOUR] * bool(ticks)
                with self.assertLogs('lovely.remotetask', 'ERROR') as logged:
                    self.process(0, HOUR, 2 * HOUR, 3 * HOUR, DAY)
                self.assertEqual(len(logged.records), 1)
                self.assertIn('Atlantis', logged.output[0])
                self.assertIn('reschedule', logged.output[0])
                self.assertEqual((self.service.getStatus(other), self.service.getResult(other)),
                                 ('cronjob', len(self.ran)))
                job = self.service.jobs[jobid]
                self.assertIn("'Atlantis/Capital' is not a time zone", self.service.getError(jobid))
                self.assertEqual((self.service.getStatus(jobid), list(self.service.schedule.aside)),
                                 ('cronjob', [jobid]))
                # A time that had come needs no zone, if it is the only one; only the next one cannot be told.
                self.assertEqual([run.calledFor for run in job.history], [] if options.get('misfire') else runs)
                job.timeZone = 'Europe/Berlin'
                with self.assertLogs('lovely.remotetask', 'INFO'):
                    self.process(DAY + 60)
                self.assertEqual((self.service.getError(jobid), list(self.service.schedule.aside)), ('None', []))
                self.assertIsNotNone(job.scheduledFor)
                self.process(2 * DAY)
                self.assertGreater(len(job.history), len(runs))

    def test_many_are_tried_in_parts(self):
        jobids = [self.add(hour=(2,)) for _ in range(2 * scheduling.CHUNK + 50)]
        for jobid in jobids:
            self.break_(jobid)
        with self.assertLogs('lovely.remotetask', 'ERROR'):
            self.process(0)
        aside = self.service.schedule.aside
        self.assertEqual(sorted(aside), sorted(jobids))
        while scheduling.tick(self.service, 1):
            pass
        self.assertFalse(scheduling.tick(self.service, 30))              # not yet again
        for jobid in jobids:
            self.service.jobs[jobid].timeZone = 'Europe/Berlin'
        left = []
        while scheduling.tick(self.service, HOUR):
            left.append(len(aside))
        self.assertEqual(left, [len(jobids) - scheduling.CHUNK, len(jobids) - 2 * scheduling.CHUNK])
        self.assertEqual(len(aside), 0)
        self.assertEqual({self.service.getError(jobid) for jobid in jobids}, {'None'})

    def test_any_exception(self):
        for step in 'timeOfNextRun', 'timeToRunFor', 'historyWith':
            for kind in ValueError, TypeError, KeyError, OverflowError, RecursionError, POSKeyError:
                with self.subTest(step=step, kind=kind):
                    self.setUp()
                    jobid = self.add(hour=(2,), newJobs=True, misfire=2)
                    other = self.add(hour=(2,))
                    self.process(0)
                    before = len(self.service.jobs)
                    whole = getattr(CronJob, step)

                    def fail(job, *arguments):
                        if job.id == jobid:
                            raise kind(b'as asked')
                        return whole(job, *arguments)

                    with (mock.patch.object(CronJob, step, fail),
                          self.assertLogs('lovely.remotetask', 'ERROR') as logged):
                        self.process(5 * DAY, 5 * DAY + 1)
                    self.assertEqual((len(logged.records), self.service.getStatus(other)), (1, 'cronjob'))
                    self.assertIn(self.service.getResult(other), (1, 2))
                    self.assertRegex(self.service.getError(jobid), f'^waits, .*({kind.__name__}|as asked)')
                    self.assertEqual(self.service.getStatus(jobid), 'cronjob')
                    if step != 'timeOfNextRun':
                        self.assertEqual(len(self.service.jobs), before)

    def test_what_no_schedule_can_be(self):
        for name, value in (('delay', 'x'), ('minute', 5), ('misfire', 0), ('retryAt', 1e999), ('retryAt', 'x')):
            with self.subTest(name=name):
                self.setUp()
                jobid = self.add(hour=(2,), newJobs=True, misfire=2)
                other = self.add(hour=(2,))
                self.process(0)
                setattr(self.service.jobs[jobid], name, value)
                if name == 'retryAt':
                    self.service.schedule.inbox.put(jobid)
                with self.assertLogs('lovely.remotetask', 'ERROR') as logged:
                    self.process(5 * DAY)
                self.assertEqual((len(logged.records), self.service.getResult(other)), (1, len(self.ran)))
                # What no schedule can be is a broken job, which ends; the rest waits for a scheduler that knows more.
                self.assertIn('cannot be loaded', self.service.getError(jobid))
                self.assertEqual(list(self.service.schedule.aside), [])

    def test_nothing_is_half_done(self):
        jobid = self.add(hour=(2,), newJobs=True, misfire=2)
        self.process(0)
        job = self.service.jobs[jobid]
        before = job.row
        with (mock.patch.object(CronJob, 'stored', lambda job, name: 1 / 0),            # the input of the new job
              self.assertLogs('lovely.remotetask', 'ERROR')):
            self.assertEqual(self.process(2 * HOUR), 0)
        self.assertEqual(job.row._replace(writes=0, error=None), before._replace(writes=0, error=None))
        self.assertEqual(len(self.service.jobs), 1)
        with self.assertLogs('lovely.remotetask', 'INFO'):
            self.assertEqual(self.process(2 * HOUR + 30, 2 * HOUR + 60), 1)      # what was missed is made up for

    def test_ways_back(self):
        jobid = self.add(hour=(2,))
        self.break_(jobid)
        with self.assertLogs('lovely.remotetask', 'ERROR') as logged:
            self.process(0, 10)
            self.service.schedule.inbox.put(jobid)
            self.process(11)
            self.assertEqual(len(logged.records), 1)
            self.service.updateCronJob(jobid, now=12, timeZone='UTC')
            self.assertEqual(self.process(13, 2 * HOUR), 1)
        self.assertEqual((self.service.getError(jobid), list(self.service.schedule.aside)), ('None', []))
        for end in (self.service.cancel,
                    lambda jobid: self.service.updateCronJob(jobid, now=DAY, active=False, timeZone=None)):
            jobid = self.add(hour=(2,), now=DAY)
            self.break_(jobid)
            with self.assertLogs('lovely.remotetask', 'ERROR'):
                self.process(DAY)
            end(jobid)
            self.process(DAY + 60)
            self.assertEqual(list(self.service.schedule.aside), [])


class TestNewJobs(ScheduleCase):

    level = 2

    def test_a_job_each_time(self):
        jobid = self.add(minute=(0,), newJobs=True, input={'a': 1})
        schedule = self.service.jobs[jobid]
        self.assertEqual(self.process(0, HOUR, 2 * HOUR), 2)
        added = [job for job in self.service.jobs.values() if job.schedule == jobid]
        self.assertEqual([(job.status, job.output, job.created) for job in sorted(added, key=lambda job: job.created)],
                         [('completed', 1, HOUR), ('completed', 2, 2 * HOUR)])
        self.assertEqual({run.jobid for run in schedule.history}, {job.id for job in added})
        self.assertEqual((schedule.status, schedule.output, schedule.scheduledFor), ('cronjob', None, 3 * HOUR))
        self.assertIsNot(added[0].input, schedule.input)
        self.service.cancel(jobid)
        self.assertEqual(self.process(3 * HOUR, 4 * HOUR), 2)

    def test_no_overlap_unless_asked_for(self):
        def tick(*times):
            for now in times:
                scheduling.tick(self.service, now)
            return ready.waiting(self.service)

        jobid = self.add(minute=(0,), newJobs=True)
        self.assertEqual(tick(0, HOUR, 2 * HOUR), 1)
        self.service.cancel(self.service.jobs[jobid].lastJob)
        self.assertEqual(tick(3 * HOUR), 1)
        self.service.cancel(jobid)
        self.add(minute=(0,), newJobs=True, overlap=True, misfire=2, now=3 * HOUR)
        self.assertEqual(tick(3 * HOUR, 4 * HOUR), 2)
        self.assertEqual(tick(9 * HOUR), 4)

    def test_an_interval_keeps_its_beat(self):
        jobid = self.add(delay=100, newJobs=True)
        schedule = self.service.jobs[jobid]
        self.assertEqual(schedule.status, 'cronjob')
        self.assertEqual(self.process(0, 99), 0)
        self.assertEqual(self.process(103), 1)
        self.assertEqual(schedule.scheduledFor, 200)
        self.assertEqual(self.process(450), 2)
        self.assertEqual(schedule.scheduledFor, 500)

    def test_an_interval_that_catches_up(self):
        self.add(delay=0.25, newJobs=True, overlap=True, misfire=3)
        self.assertEqual(self.process(0, 0.25), 1)
        self.assertEqual(self.process(100), 4)

    def test_intervals_move_on(self):
        # Sums of such floats need not: a step that does not move on hangs the host.
        rng = random.Random(12)
        for delay in (0.1, 0.7, 1.1, 3.3, 33.3, 90.1, *(rng.uniform(0.1, 100) for _ in range(200))):
            start = rng.uniform(1e9, 2e9)
            job = CronJob(1, 'run', None, delay=delay, newJobs=True, overlap=True, misfire=3)
            job.calledFor = time = start
            for count in range(1, 200):
                after = job.timeOfNextCall(time)
                self.assertAlmostEqual(after, start + count * delay, delta=1e-6 * count)
                self.assertGreater(after, time)
                time = after

    def test_an_outage_of_an_interval(self):
        for delay in (0.1, 3.3, 0.7, 33.3):
            for missed, added in ((1, 1), (2, 2), (3, 3), (4, 3), (10 ** 6, 3)):
                with self.subTest(delay=delay, missed=missed):
                    self.setUp()
                    jobid = self.add(delay=delay, newJobs=True, overlap=True, misfire=3, now=1.7e9)
                    schedule = self.service.jobs[jobid]
                    self.process(1.7e9)
                    first = schedule.due
                    self.assertEqual(self.process(1.7e9 + (missed + 0.5) * delay), added)
                    steps = [(round(run.calledFor * 1e6) - first) / round(delay * 1e6) for run in schedule.history]
                    self.assertEqual(steps, list(range(missed - added, missed)))

    def test_a_long_outage(self):
        # A thousand jobs at the most, the latest; some of them in each transaction, and found without a long search.
        for options, most in (({'minute': range(60)}, 3000), ({'crontab': '* * * 1 *'}, 60000), ({'delay': 0.1}, 3000),
                              ({'crontab': '0 3 29 2 *', 'timeZone': 'Europe/Berlin'}, 3000)):
            with self.subTest(options=options):
                self.setUp()
                jobid = self.add(newJobs=True, overlap=True, misfire=1000, now=0, **options)
                schedule = self.service.jobs[jobid]
                scheduling.tick(self.service, 0)
                first, now, added = schedule.scheduledFor, 50 * 365 * DAY, []
                expected = schedule.timeOfNextCall
                with mock.patch.object(CronJob, 'timeOfNextCall', autospec=True,
                                       side_effect=CronJob.timeOfNextCall) as calls:
                    more = True
                    while more:
                        more = scheduling.tick(self.service, now)
                        added.append(len(self.service.jobs) - 1)
                        self.assertLess(len(added), 1010)
                self.assertLess(calls.call_count, most)
                self.assertLessEqual(max(b - a for a, b in zip([0, *added], added)), scheduling.LIMIT)
                self.assertEqual(ready.waiting(self.service), min(1000, len(self.service.jobs) - 1))
                self.assertGreater(schedule.scheduledFor, now)
                times = [run.calledFor for run in schedule.history]
                for time, after in zip(times, [*times[1:], schedule.scheduledFor]):
                    self.assertEqual(expected(time, beat=first), after)         # none is left out

    def test_runs_that_are_slower_than_the_schedule(self):
        # Each time that it looks what it has missed, the latest of them count.
        jobid = self.add(minute=range(60), misfire=3)
        job, now = self.service.jobs[jobid], 0
        self.process(0)
        for _ in range(20):
            now += 600                                          # a run each ten minutes
            self.now = now
            self.service.processNext(now)
        self.assertLess(now - job.calledFor, 3 * 600 + 180)


class TestClocks(ScheduleCase):
    """The clock is set back, or was ahead for a while."""

    def test_an_interval_goes_on(self):
        for ahead in (1, 30, HOUR, 10 * 366 * DAY):
            for options in ({}, {'misfire': 3}, {'misfire': 'skip'}, {'overlap': True}):
                for ticks in (1, 5):
                    with self.subTest(ahead=ahead, options=options, ticks=ticks):
                        self.setUp()
                        schedule = self.service.jobs[self.add(delay=2, newJobs=True, now=1e9, **options)]
                        self.process(1e9, 1e9 + 2, 1e9 + 4)
                        self.process(*(1e9 + 4 + ahead + 2 * tick for tick in range(ticks)))
                        before = len(self.ran)
                        self.process(*(1e9 + 4 + 2 * tick for tick in range(10)))
                        self.assertGreaterEqual(len(self.ran) - before, 4 if ahead < 60 else 8)
                        self.assertLessEqual(len(self.ran) - before, 11)
                        self.assertLess(schedule.scheduledFor, 1e9 + 30)
                        self.assertEqual((schedule.scheduledFor - 1e9) % 2, 0)

    def test_a_calendar_calls_no_time_twice(self):
        for ahead in (60, HOUR, DAY, 10 * 366 * DAY):
            for options in ({}, {'misfire': 30}, {'newJobs': True}):
                with self.subTest(ahead=ahead, options=options):
                    self.setUp()
                    self.add(minute=range(0, 60, 10), **options)
                    calls = mock.Mock(side_effect=Run)
                    with mock.patch.object(scheduling, 'Run', calls), mock.patch.object(transitions, 'Run', calls):
                        self.process(0, 600, 1200, 1200 + ahead, 1201, 1800, 2400, 3000, 3600, 2 * HOUR, DAY, 1200,
                                     2 * DAY)
                    called = [call.args[0] for call in calls.call_args_list]
                    self.assertEqual(called, sorted(set(called)))
                    self.assertEqual(len(self.ran), len(called))
                    self.assertGreater(len(called), 3)

    def test_a_calendar_that_was_not_called_ahead_goes_on(self):
        schedule = self.service.jobs[self.add(hour=(2,))]
        self.process(0, 10 * 366 * DAY, DAY)
        self.assertEqual(schedule.scheduledFor, DAY + 2 * HOUR)

    def test_what_waits_once(self):
        delayed, startLater = self.add(delay=100), self.service.add('run', now=0, startLater=True)
        self.process(10 ** 9)                               # the scheduler sees the delayed job: for the first time
        self.assertEqual(self.service.jobs[delayed].scheduledFor, 10 ** 9 + 100)
        self.assertEqual(self.process(50, 149, 150), 1)
        self.assertEqual((self.service.getStatus(delayed), self.service.getStatus(startLater)),
                         ('completed', 'start later'))
        self.assertEqual(self.process(151), 1)

    def test_a_pause_before_the_next_attempt(self):
        def fail(input):
            raise OSError()

        provideUtility(SimpleTask(fail), name='fail')
        jobid = self.service.add('fail', now=0, retryPolicy=RetryPolicy(base=100, jitter=0))
        with self.assertLogs('lovely.remotetask'):
            self.process(10 ** 9, 10, 109)
            self.assertEqual(self.service.jobs[jobid].attempt, 1)
            self.process(110)
        self.assertEqual(self.service.jobs[jobid].attempt, 2)

    def test_a_host_whose_clock_is_ahead(self):
        # It is another one than the scheduler, whose clock is right and was not set back.
        jobid = self.service.add('run', now=0, retryPolicy=RetryPolicy(base=100, jitter=0))
        self.service.claimNextJob(0)
        failure = Failure(10 ** 9, 'as asked')
        transitions.acknowledge(self.service, ready.shardOf(self.service, jobid).ledger, transitions.Outcome(
            jobid, 0, 'queued', 10 ** 9, 10 ** 9, failure=failure, retryAt=10 ** 9 + 100), 10 ** 9)
        self.assertEqual(self.process(50, 149, 150), 1)

    def test_many_are_looked_at_again(self):
        # In several transactions, and only after the clock has been set back.
        jobids = [self.add(delay=1000, now=0) for _ in range(250)]
        self.process(10 ** 9)
        self.assertEqual(len(self.service.schedule.entries), 250)
        while scheduling.tick(self.service, 0):
            pass
        self.assertEqual({self.service.jobs[jobid].scheduledFor for jobid in jobids}, {1000})
        self.assertEqual((self.service.schedule.seen.part, self.service.schedule.seen.latest), (None, 0))
        self.assertEqual(self.process(999, 1000), 250)


class DatabaseCase(unittest.TestCase):

    def setUp(self):
        self.addCleanup(testing.tearDown)
        self.zeo = self.enterContext(temporaryZEO())
        self.db = self.zeo.database()
        self.addCleanup(self.db.close)
        install(self.db)
        self.manager = transaction.TransactionManager()
        other = self.zeo.database()         # a client of its own, which is told of all that the processors commit
        self.addCleanup(other.close)
        self.connection = other.open(self.manager)
        self.addCleanup(self.connection.close)
        self.addCleanup(self.manager.abort)
        self.service = self.connection.root()['Application']['TaskService']
        self.wakeup = threading.Event()
        notifierOf(other).subscribe(self.wakeup)

    def until(self, condition):
        """Return the condition's value as soon as it is true, looking after each commit."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.wakeup.clear()
            self.manager.begin()
            if value := condition():
                return value
            self.wakeup.wait(max(0, end - time.monotonic()))
        self.fail('waited in vain')

    def start(self, factory, name, **arguments):
        processor = factory(self.db, ('TaskService',), name=name, **{'waitTime': 30.0, **arguments})
        processor.start()
        self.addCleanup(processor.stop, PATIENCE)
        return processor


class TestScheduler(DatabaseCase):

    level = 2

    def test_only_schedules(self):
        ran = []
        provideUtility(SimpleTask(ran.append), name='note')
        scheduler = self.start(Scheduler, 'scheduler')
        self.until(lambda: self.service.schedule.scheduler == 'scheduler')
        self.service.addCronJob('note', 'a', delay=0.01)
        self.manager.commit()
        self.until(lambda: ready.waiting(self.service) == 1)
        self.assertEqual((ran, scheduler.threads), ([], []))
        self.start(MultiProcessor, 'host', schedule=False)
        self.until(lambda: not ready.waiting(self.service))
        self.until(lambda: [job.status for job in self.service.jobs.values()] == ['completed'])
        self.assertEqual((ran, self.service.schedule.scheduler), (['a'], 'scheduler'))
        hosts = {host['name']: host for host in self.service.getProcessingHosts()}
        self.assertEqual({name: (host['threads'], host['processing'], host['scheduling'], host['pid'])
                          for name, host in hosts.items()},
                         {'scheduler': (0, False, True, os.getpid()), 'host': (5, True, False, os.getpid())})

    def test_hosts_that_do_not_schedule(self):
        provideUtility(SimpleTask(len), name='note')
        self.start(MultiProcessor, 'host', schedule=False)
        jobid = self.service.addCronJob('note', 'a', delay=0.01)
        other = self.service.add('note', 'b')
        self.manager.commit()
        self.until(lambda: self.service.getStatus(other) == 'completed')
        self.assertEqual((self.service.getStatus(jobid), self.service.schedule.scheduler), ('delayed', None))

    def test_pause_and_resume(self):
        go = threading.Event()
        self.addCleanup(go.set)
        provideUtility(SimpleTask(lambda input: go.wait(PATIENCE)), name='wait')
        self.start(MultiProcessor, 'host', maxThreads=2)
        running = [self.service.add('wait') for _ in range(2)]
        self.manager.commit()
        self.until(lambda: all(self.service.getStatus(jobid) == 'processing' for jobid in running))
        self.service.pause()
        waiting = self.service.add('wait')
        self.manager.commit()
        go.set()
        self.until(lambda: all(self.service.getStatus(jobid) == 'completed' for jobid in running))
        self.assertEqual(self.service.getStatus(waiting), 'queued')
        self.assertFalse(any(host['processing'] for host in self.service.getProcessingHosts()))
        self.service.resume()
        self.manager.commit()
        self.until(lambda: self.service.getStatus(waiting) == 'completed')

    def test_a_paused_host_returns_what_it_has_in_store(self):
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)
        provideUtility(SimpleTask(lambda input: input and (begun.set(), go.wait(PATIENCE))), name='wait')
        processor = self.start(MultiProcessor, 'host', maxThreads=1)
        quick = [self.service.add('wait') for _ in range(50)]       # it learns that the jobs are short
        self.manager.commit()
        self.until(lambda: all(self.service.getStatus(jobid) == 'completed' for jobid in quick))
        jobids = [self.service.add('wait', True) for _ in range(20)]
        self.manager.commit()
        self.assertTrue(begun.wait(PATIENCE))
        claimed = self.service.ledgers['host'].claimed
        self.until(lambda: len(claimed) > 1)
        self.service.pause()
        self.manager.commit()
        self.until(lambda: len(claimed) == 1)
        self.assertEqual(ready.waiting(self.service), 19)
        go.set()
        self.service.resume()
        self.manager.commit()
        self.until(lambda: all(self.service.getStatus(jobid) == 'completed' for jobid in jobids))
        self.assertEqual({self.service.jobs[jobid].run for jobid in jobids}, {0})          # none was begun twice
        self.assertTrue(processor.running)

    def test_many_delayed_jobs(self):
        # They move in batches that follow one another at once.
        provideUtility(SimpleTask(len), name='note')
        for _ in range(10):
            for _ in range(500):
                self.service.addCronJob('note', 'a', delay=100000)
            self.manager.commit()
        last = self.service.addCronJob('note', 'a', delay=0.01)
        self.manager.commit()
        self.start(MultiProcessor, 'host')
        self.until(lambda: self.service.getStatus(last) == 'completed')
        self.until(lambda: len(self.service.schedule.entries) == 5000)


#: A scheduler that dies when it has moved what is due, before it can commit that; once, if FILE is not there.
DYING = '''\
import os, signal, sys
from lovely.remotetask import processor
from lovely.remotetask.storage import ready, scheduling
from ZEO import DB

tick = scheduling.tick

def dyingTick(service, now, **options):
    before = ready.waiting(service)
    more = tick(service, now, **options)
    if ready.waiting(service) > before:
        os.kill(os.getpid(), signal.SIGKILL)
    return more

if sys.argv[3] == 'dies':
    scheduling.tick = dyingTick
db = DB(('127.0.0.1', int(sys.argv[1])), wait_timeout=30)
one = processor.Scheduler(db, ('TaskService',), name=sys.argv[2], lease=2.0)
one.start()
print('ready', flush=True)
one.thread.join()
'''


class TestTwoSchedulers(DatabaseCase):

    level = 2

    def scheduler(self, name, way):
        path = [os.path.abspath(entry) for entry in sys.path]
        process = subprocess.Popen([sys.executable, '-c', DYING, str(self.zeo.address[1]), name, way],
                                   env=dict(os.environ, PYTHONPATH=os.pathsep.join(path)), stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b'ready\n')
        return process

    def test_one_is_killed_mid_tick(self):
        ran = []
        provideUtility(SimpleTask(ran.append), name='note')
        first = self.scheduler('first', 'dies')
        self.until(lambda: self.service.schedule.scheduler == 'first')
        second = self.scheduler('second', 'lives')
        self.start(MultiProcessor, 'host', schedule=False)
        jobids = [self.service.addCronJob('note', number, delay=0.3) for number in range(50)]
        repeated = self.service.addCronJob('note', 'again', delay=0.5, newJobs=True, overlap=True)
        self.manager.commit()
        self.assertEqual(first.wait(PATIENCE), -signal.SIGKILL)
        self.until(lambda: all(self.service.getStatus(jobid) == 'completed' for jobid in jobids))
        self.assertEqual(self.service.schedule.scheduler, 'second')
        self.until(lambda: len(self.service.jobs[repeated].history) >= 3)
        self.service.cancel(repeated)
        self.manager.commit()
        self.until(lambda: not ready.waiting(self.service) and not self.service.ledgers['host'].claimed)
        self.assertEqual(sorted(number for number in ran if number != 'again'), list(range(50)))
        history = self.service.jobs[repeated].history
        self.assertEqual(len({run.calledFor for run in history}), len(history))
        self.assertEqual(ran.count('again'), len(history))
        second.send_signal(signal.SIGKILL)


#: A processing host of this name, with the task `note`, which appends its input to a file, unless it is to lack it.
HOST = """\
import sys
from lovely.remotetask import processor
from lovely.remotetask.execution.command import CommandTask
from lovely.remotetask.task import SimpleTask
from ZEO import DB
from zope.component import provideUtility

def note(input):
    with open(sys.argv[4], 'a') as file:
        print(sys.argv[2], input, file=file)

provideUtility(CommandTask('the-program'), name='program')
if sys.argv[3] == 'has':
    provideUtility(SimpleTask(note), name='note')
db = DB(('127.0.0.1', int(sys.argv[1])), wait_timeout=30)
one = processor.MultiProcessor(db, ('TaskService',), name=sys.argv[2], lease=4.0, maxThreads=2)
one.start()
print('ready', flush=True)
one.thread.join()
"""


class TestWhatAHostLacks(DatabaseCase):
    """Time zones, tasks and programs that one host has, and another one has not."""

    def setUp(self):
        super().setUp()
        self.directory = self.enterContext(tempfile.TemporaryDirectory())
        self.notes = os.path.join(self.directory, 'notes')
        provideUtility(SimpleTask(len), name='note')            # for who adds jobs
        provideUtility(SimpleTask(len), name='program')

    def host(self, name, has='has', **environment):
        path = [os.path.abspath(entry) for entry in sys.path if 'tzdata' not in entry]
        process = subprocess.Popen([sys.executable, '-c', HOST, str(self.zeo.address[1]), name, has, self.notes],
                                   env={**os.environ, 'PYTHONPATH': os.pathsep.join(path), **environment},
                                   stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b'ready\n')
        return process

    def job(self, *arguments, **options):
        jobid = self.service.add(*arguments, **options)
        self.manager.commit()
        return jobid

    def test_a_zone_that_the_scheduler_lacks(self):
        self.host('a', PYTHONTZPATH='')
        self.until(lambda: self.service.schedule.scheduler == 'a')
        jobid = self.service.addCronJob('note', 'x', hour=(2,), timeZone='Europe/Berlin')
        other = self.service.addCronJob('note', 'y', delay=0.2, newJobs=True)
        self.manager.commit()
        error = self.until(lambda: self.service.jobs[jobid].error)
        self.assertIn("the scheduler a cannot handle it: timeZone: 'Europe/Berlin' is not known", error)
        self.until(lambda: len(self.service.jobs[other].history) > 2)            # the others go on
        self.assertEqual((self.service.schedule.scheduler, self.service.getStatus(jobid)), ('a', 'cronjob'))
        before = self.service.jobs[other].lastJob
        self.host('b')                                                          # another host comes that knows it
        self.until(lambda: self.service.jobs[jobid].scheduledFor)
        self.assertEqual((self.service.schedule.scheduler, self.service.jobs[jobid].error), ('b', None))
        self.assertFalse(self.service.schedule.aside)
        self.until(lambda: self.service.jobs[other].lastJob != before)

    def test_a_scheduler_gives_its_role_up_at_once(self):
        self.host('b', PYTHONTZPATH='')
        self.until(lambda: self.service.schedule.scheduler == 'b')
        self.host('a')
        jobid = self.service.addCronJob('note', 'x', hour=(2,), timeZone='Europe/Berlin')
        self.manager.commit()
        self.until(lambda: self.service.jobs[jobid].scheduledFor)
        self.assertEqual(self.service.schedule.scheduler, 'a')

    def test_a_task_that_one_host_lacks(self):
        self.host('a', 'lacks')                                 # which is the first to take jobs
        jobid = self.job('note', 1)
        error = self.until(lambda: self.service.jobs[jobid].error)
        self.assertEqual(error, "waits for a processing host that can run it: a lacks the task 'note'")
        self.assertEqual(self.service.getStatus(jobid), 'queued')
        self.assertEqual((self.service.countJobs()['queued'], [job.id for job in self.service.getJobs('queued')]),
                         (1, [jobid]))
        cancelled, schedule = self.job('note', 2), self.service.addCronJob('note', 3, delay=0)
        self.manager.commit()
        self.until(lambda: self.service.jobs[cancelled].error and self.service.jobs[schedule].error)
        self.service.cancel(cancelled)
        self.manager.commit()
        self.assertEqual((self.service.countJobs()['queued'], self.service.getStatistics()['oldestWaiting']),
                         (2, self.service.jobs[jobid].created))
        self.host('b')
        jobids = [jobid, schedule, *(self.job('note', number) for number in range(20))]
        self.until(lambda: all(self.service.getStatus(jobid) == 'completed' for jobid in jobids))
        self.assertEqual({(job.attempt, job.error) for job in map(self.service.jobs.get, jobids)}, {(0, None)})
        self.assertEqual((self.service.countJobs()['queued'], [*map(list, self.service.stranded.values())]), (0, [[]]))
        with open(self.notes) as notes:
            self.assertEqual(sorted(notes), sorted(f'b {number}\n' for number in (1, 3, *range(20))))

    def test_a_program_that_comes_later(self):
        self.host('a', PATH=self.directory)
        jobid = self.job('program', {})
        self.assertIn("a lacks the program 'the-program'", self.until(lambda: self.service.jobs[jobid].error))
        path = os.path.join(self.directory, 'the-program')
        with open(path, 'w') as file:
            file.write('#!/bin/sh\necho here\n')
        os.chmod(path, 0o700)
        self.until(lambda: self.service.getStatus(jobid) == 'completed')         # without another host
        self.assertEqual(self.service.getResult(jobid)['output'], 'here\n')
        self.assertEqual((self.service.jobs[jobid].attempt, self.service.jobs[jobid].error), (0, None))

    def test_by_hand(self):
        # A job that a host has set aside is run by hand, where that can be done.
        service = TaskService()
        jobids = [service.add('note', text) for text in ('a', 'ab', 'abc')]
        with self.assertLogs('lovely.remotetask', 'WARNING') as logged:
            self.assertEqual(claiming.claim(service, 3, 0, 0, lacks=lambda name: f'a lacks {name}')[0], [])
        self.assertEqual((len(logged.records), service.getStatus(jobids[0])), (1, 'queued'))
        self.assertFalse(ready.isWaiting(service))
        service.process()
        self.assertEqual([service.getResult(jobid) for jobid in jobids], [1, 2, 3])
        self.assertEqual({service.getError(jobid) for jobid in jobids}, {'None'})


class TestIds(DatabaseCase):

    level = 2

    def add(self, service, manager):
        jobid = service.add('note')
        manager.commit()
        return jobid

    def test_they_count_on(self):
        provideUtility(SimpleTask(len), name='note')
        first, number = self.add(self.service, self.manager), 0
        for number in range(1, 6):
            self.assertEqual(self.add(self.service, self.manager), first + number)
            self.service.pause() if number % 2 else self.service.resume()
            self.manager.commit()
            self.connection.cacheMinimize()                     # the service is loaded anew
            self.service._p_deactivate()
        self.assertEqual(self.service.addCronJob('note', hour=[2]), first + 6)
        self.manager.abort()

    def test_writers_are_apart(self):
        provideUtility(SimpleTask(len), name='note')
        starts = set()
        for _ in range(5):
            manager = transaction.TransactionManager()
            connection = self.db.open(manager)
            self.addCleanup(connection.close)
            self.addCleanup(manager.abort)
            service = connection.root()['Application']['TaskService']
            jobids = [self.add(service, manager) for _ in range(3)]
            self.assertEqual(jobids, list(range(jobids[0], jobids[0] + 3)))
            starts.add(jobids[0] >> 10)
        self.assertEqual(len(starts), 5)

    def test_before_the_service_is_in_a_database(self):
        provideUtility(SimpleTask(len), name='note')
        service = self.connection.root()['other'] = TaskService()
        first = service.add('note')
        self.assertEqual(service.add('note'), first + 1)
        self.manager.commit()
        self.assertEqual(service.add('note'), first + 2)
        self.manager.commit()
        self.connection.cacheMinimize()
        self.assertEqual(service.add('note'), first + 3)


if __name__ == '__main__':
    unittest.main()
