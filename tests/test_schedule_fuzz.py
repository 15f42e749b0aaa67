"""Schedules drawn at random, against a clock that goes anywhere: nothing hangs, nothing grows, no time is lost."""
# SPDX-License-Identifier: ZPL-2.1
import datetime
import logging
import math
import os
import unittest
from unittest import mock

from hypothesis import HealthCheck
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.job import CronJob
from lovely.remotetask.job import Run
from lovely.remotetask.schedules import cron
from lovely.remotetask.schedules.misfire import MOST
from lovely.remotetask.schedules.misfire import decide
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import transitions
from lovely.remotetask.task import SimpleTask


LONG = 'REMOTETASK_FUZZ' in os.environ
EXAMPLES = int(os.environ.get('REMOTETASK_FUZZ', 200))

fuzz = settings(max_examples=EXAMPLES, derandomize=not LONG, database=None, deadline=None, print_blob=LONG,
                report_multiple_bugs=False, suppress_health_check=list(HealthCheck))

HOUR, DAY, YEAR = 3600.0, 86400.0, 366 * 86400.0

#: Transactions of the scheduler that one moment may take, and steps through times in each of them.
TICKS, STEPS = 20_000, 100_000

NUMBERS = st.one_of(st.sampled_from([0, 1e-9, 0.1, 0.7, 3.3, 33.3, 90.1, HOUR, YEAR, 1e9, math.inf, math.nan, True]),
                    st.floats(allow_nan=True), st.floats(0.1, 1000), st.integers(-10, 10 ** 30))
FIELDS = {name: st.lists(st.integers(low, high), max_size=4) for name, (low, high) in cron.RANGES.items()}
ZONES = st.sampled_from(['UTC', 'Europe/Berlin', 'Australia/Lord_Howe', 'America/Sao_Paulo', 'Pacific/Apia', '',
                         'localtime'])
CRONTABS = st.sampled_from(['* * * * *', '*/2 18-23,0-6 * * *', '0 3 29 2 *', '30 2 * * *', '* * * 1 *', '@weekly', ''])
OPTIONS = st.fixed_dictionaries({}, optional={
    'newJobs': st.booleans(), 'overlap': st.booleans(), 'active': st.sampled_from([True, True, True, False]),
    'misfire': st.sampled_from(['once', 'skip', 0, 1, 3, 40, MOST, MOST + 1]), 'timeZone': ZONES})
SCHEDULES = st.builds(lambda when, options: {**when, **options}, st.one_of(
    st.fixed_dictionaries({'delay': NUMBERS}), st.fixed_dictionaries({}, optional=FIELDS),
    st.fixed_dictionaries({'crontab': CRONTABS})), OPTIONS)
MOVES = st.one_of(st.floats(0, 100), st.floats(-10, 10), st.sampled_from(
    [0.0, 59.9, 60.0, HOUR, -HOUR, DAY, -DAY, YEAR, -YEAR, 10 * YEAR, -10 * YEAR, 300 * YEAR, -300 * YEAR]))
STEPS_OF_A_WALK = st.lists(st.tuples(MOVES, st.sampled_from(
    ['nothing', 'nothing', 'nothing', 'add', 'update', 'reschedule', 'cancel']), SCHEDULES), min_size=1, max_size=12)


class TestWalks(unittest.TestCase):

    level = 2

    def setUp(self):
        testing.setUp()
        self.addCleanup(testing.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='run')
        logging.disable()
        self.addCleanup(logging.disable, logging.NOTSET)

    @fuzz
    @given(SCHEDULES, STEPS_OF_A_WALK)
    def test_a_host_and_its_clock(self, first, walk):
        self.service, self.now, self.called = TaskService(), 1.7e9, {}
        self.add(first)
        for move, action, schedule in walk:
            self.now = min(max(self.now + move, 0.0), 2.5e11)
            self.act(action, schedule)
            self.process()
        self.assertEqual(len(self.service.schedule.aside), 0)

    def add(self, schedule):
        try:
            self.service.addCronJob('run', now=self.now, **schedule)
        except ValueError as error:
            self.assertRegex(str(error), '^(delay|crontab|timeZone|misfire|overlap|the schedule has no time)')

    def act(self, action, schedule):
        jobs = [job for job in self.service.jobs.values() if isinstance(job, CronJob) and job.status not in FINAL]
        if action == 'add':
            self.add(schedule)
        for job in jobs[:1]:
            if action == 'cancel':
                self.service.cancel(job.id, self.now)
            elif action == 'reschedule' and job.status != 'queued':
                self.service.reschedule(job.id, self.now)
                self.called.pop(job.id, None)
            elif action == 'update' and job.status != 'queued':
                try:
                    self.service.updateCronJob(job.id, self.now, **schedule)
                except ValueError as error:
                    self.assertRegex(str(error), '^(delay|crontab|timeZone|misfire|overlap|the schedule has no time)')
                else:
                    self.called.pop(job.id, None)

    def process(self):  # noqa: C901
        """Do what a host does at a moment, with a bound; and look at what has come of it."""
        before, latest = len(self.service.jobs), self.service.schedule.seen.latest
        runs = mock.Mock(side_effect=Run)
        with mock.patch.object(scheduling, 'Run', runs), mock.patch.object(transitions, 'Run', runs), \
                mock.patch.object(CronJob, 'timeOfNextCall', autospec=True,
                                  side_effect=CronJob.timeOfNextCall) as steps:
            schedules = [job for job in self.service.jobs.values() if isinstance(job, CronJob)]
            for _ in range(TICKS + len(schedules) * MOST):
                for _ in range(TICKS):
                    if not scheduling.tick(self.service, self.now):
                        break
                else:
                    self.fail('the scheduler does not come to an end')
                if not self.service.processNext(self.now):
                    break
            else:
                self.fail('the host does not come to an end')
        self.assertLess(steps.call_count, STEPS)
        self.assertLessEqual(len(self.service.jobs) - before, len(schedules) * MOST)
        self.assertFalse(self.service.hasJobsWaiting(self.now))
        for job in schedules:
            if job.status == 'cronjob' and job.active:
                self.assertGreaterEqual(job.scheduledFor, self.now)
                if job.isInterval and (latest is None or self.now < latest - 5 or self.now >= latest):
                    self.assertLessEqual(job.scheduledFor, self.now + 2 * job.delay + 6)
        times = {}
        for run in runs.call_args_list:
            job = self.service.jobs[run.args[1]]
            times.setdefault(job.schedule or job.id, []).append(run.args[0])
        for jobid, found in times.items():
            job = self.service.jobs[jobid]
            self.assertEqual(found, sorted(set(found)))         # each once, in order
            self.assertLessEqual(found[-1], self.now)
            self.assertLessEqual(len(found), job.misfire if job.catchesUp else 1)
            if job.delay is None and job.status == 'cronjob':
                self.assertGreater(found[0], self.called.get(jobid, -math.inf))          # none twice
                self.called[jobid] = found[-1]
                for time in found:
                    self.assertEqual(job.timeOfNextCall(time - 60), time)


class TestDecide(unittest.TestCase):

    level = 2

    @fuzz
    @given(st.integers(1, 50), st.sets(st.integers(0, 10 ** 6), min_size=1, max_size=300), st.integers(0, 2 * 10 ** 6))
    def test_the_latest(self, count, minutes, now):
        """The search gives what a look at all times gives, however they lie."""
        times, calls = sorted(60 * minute for minute in minutes), []

        def following(moment):
            calls.append(moment)
            return next((time for time in times if time > moment), None)

        due, now = times[0], times[0] + 60 * now
        expected = [time for time in times if time <= now][-count:][0]
        self.assertEqual(decide(count, due, now, following), expected)
        self.assertLess(len(calls), 50 * (2 * count + 2))

    @fuzz
    @given(st.floats(0, 2e11), st.floats(0.1, cron.LONGEST), st.floats(0, 2e11))
    def test_a_beat_moves_on(self, start, interval, now):
        after = cron.nextBeat(start, interval, now)
        self.assertLess(now, after)
        self.assertLess(after, now + 2 * interval)
        self.assertGreater(cron.nextBeat(after, interval, after), after)

    @fuzz
    @example(-2422054501.0, {}, False, 'Europe/Berlin')         # when the clocks there were 53 min 28 s ahead
    @given(st.one_of(st.floats(), st.floats(-1e9, 1e10)), st.fixed_dictionaries({}, optional=FIELDS), st.booleans(),
           st.sampled_from([None, 'Europe/Berlin', 'Australia/Lord_Howe', 'America/Sao_Paulo', 'Pacific/Apia']))
    def test_a_calendar_moves_on(self, now, fields, eitherDay, zone):
        time = cron.nextTime(now, **fields, eitherDay=eitherDay, timeZone=zone)
        if time is not None:
            self.assertGreater(time, now)
            self.assertEqual(time, int(time))
            self.assertEqual((cron.EPOCH + datetime.timedelta(seconds=time)).astimezone(cron.zoneOf(zone)).second, 0)


class TestCrontabs(unittest.TestCase):

    level = 2

    @fuzz
    @given(st.one_of(st.text(max_size=30), st.lists(st.text('0123456789*/,-?LW#~@ aefjnrsuy=', max_size=5), max_size=9)
                     .map(' '.join)))
    def test_any_text(self, text):
        try:
            fields = cron.parseCrontab(text)
        except ValueError as error:
            self.assertRegex(str(error), '^crontab: ')
            self.assertLess(len(str(error)), 300)
        else:
            cron.nextTime(1.7e9, **fields)


if __name__ == '__main__':
    unittest.main()
