"""Schedules of a service: misfires, time zones, new jobs, history, clocks that are set."""
# SPDX-License-Identifier: ZPL-2.1
import random
import unittest
from unittest import mock

from ZODB.POSException import POSKeyError
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import WrongState
from lovely.remotetask.job import SCHEDULE
from lovely.remotetask.job import CronJob
from lovely.remotetask.job import Failure
from lovely.remotetask.job import Run
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.schedules.misfire import GRACE
from lovely.remotetask.schedules.misfire import decide
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import transitions
from lovely.remotetask.task import SimpleTask


HOUR, DAY = 3600, 86400


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

    def test_a_change_ends_the_claim_of_a_caller(self):
        jobid = self.add(minute=(0,))
        self.service.runNow(jobid, 1)
        self.assertEqual(self.service.claimNextJob(1), jobid)
        self.service.updateCronJob(jobid, now=2, minute=(), delay=5)
        with self.assertRaisesRegex(WrongState, 'delayed'):
            self.service.processNext(2, jobid)
        self.assertEqual(dict(ready.shardOf(self.service, jobid).ledger.claimed), {})
        self.assertEqual([self.process(now) for now in (2, 7)], [0, 1])

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
            self.assertEqual(self.service.jobs[jobid].failedAttempts, 1)
            self.process(110)
        self.assertEqual(self.service.jobs[jobid].failedAttempts, 2)

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


if __name__ == '__main__':
    unittest.main()
