"""What operators ask: where and since when jobs run, how schedules fare, what has failed lately; and runs by hand."""
# SPDX-License-Identifier: ZPL-2.1
import threading
import unittest

import transaction
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import WrongState
from lovely.remotetask.execution import rescue
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import install
from lovely.remotetask.storage import ready
from lovely.remotetask.storage.index import Hosts
from lovely.remotetask.storage.ledger import KEPT_FAILED_RUNS
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.xmlrpc import methods
from waits import PATIENCE
from waits import waitUntil


HOUR = 3600


class Tasks(unittest.TestCase):
    """A service outside any database, and tasks of which one fails as long as it is told to."""

    def setUp(self):
        self.addCleanup(testing.tearDown)
        self.failing, self.runs = True, []
        for name, function in (('echo', lambda input: input), ('moody', self.moody)):
            provideUtility(SimpleTask(function), name=name)
        self.service = TaskService()

    def moody(self, input):
        self.runs.append(input)
        if self.failing:
            raise TaskError('not today')

    def schedule(self, jobid):
        """Return what a remote caller is told of a schedule."""
        found = methods.getSchedules(self.service, None, 0, 100)['schedules']
        return next(each for each in found if each['id'] == jobid)


class HostsTest(unittest.TestCase):

    def test_numbers(self):
        hosts = Hosts()
        self.assertEqual([hosts.add(name) for name in ('a', 'b', 'a', 'c')], [1, 2, 1, 3])
        self.assertEqual((hosts.numberOf('b'), hosts.numberOf('x'), hosts.numberOf(None)), (2, 0, 0))
        self.assertEqual((hosts.nameOf(3), hosts.nameOf(0), hosts.nameOf(9)), ('c', None, None))


class WhereTest(unittest.TestCase):
    """A real host, which says where and since when its jobs run."""

    level = 2

    def setUp(self):
        self.addCleanup(testing.tearDown)
        self.begun, self.go = threading.Event(), threading.Event()
        provideUtility(SimpleTask(self.wait), name='wait')
        provideUtility(SimpleTask(lambda input: input), name='echo')
        self.db = DB(MappingStorage())
        self.addCleanup(self.db.close)
        install(self.db)
        self.connection = self.db.open()
        self.addCleanup(self.connection.close)
        self.addCleanup(transaction.abort)
        self.service = self.connection.root()['Application']['TaskService']

    def wait(self, input):
        self.begun.set()
        self.go.wait(PATIENCE)
        return input

    def add(self, *arguments):
        with transaction.manager:
            return self.service.add(*arguments)

    def start(self, name):
        processor = MultiProcessor(self.db, ('TaskService',), name=name, maxThreads=2)
        processor.start()
        self.addCleanup(processor.stop, PATIENCE)
        self.addCleanup(self.go.set)                # before that
        return processor

    def until(self, condition):
        """Return what `condition` returns, as soon as that is true in a new transaction."""
        def look():                     # nobody in this process is told of each commit of a host
            transaction.abort()
            return condition()
        return waitUntil(look)

    def test_a_job_that_runs(self):
        jobid = self.add('wait')
        self.assertEqual(self.service.getRun(jobid), (None, None, False))
        self.start('alpha')
        self.until(lambda: self.service.getRun(jobid).started)
        run, job = self.service.getRun(jobid), methods.getJob(self.service, jobid)
        self.assertEqual((run.host, run.isRunning, job['status']), ('alpha', True, 'processing'))
        self.assertGreaterEqual(run.started, job['created'] - 0.1)
        self.assertEqual((job['host'], job['started']), ('alpha', run.started))
        listed, = methods.getJobs(self.service, 'processing', 0, 10, None, None, None, None)['jobs']
        self.assertEqual((listed['host'], listed['started']), ('alpha', run.started))
        self.assertEqual(self.service.getStatistics()['longestRunning'], run.started)
        self.go.set()
        self.until(lambda: self.service.getStatus(jobid) == 'completed')
        ended = self.service.getRun(jobid)
        self.assertEqual((ended.host, ended.isRunning), ('alpha', False))
        self.assertAlmostEqual(ended.started, run.started, delta=0.5)
        self.assertIsNone(self.service.getStatistics()['longestRunning'])

    def test_a_job_that_is_cancelled_while_it_runs(self):
        jobid = self.add('wait')
        self.start('alpha')
        began = self.until(lambda: self.service.getRun(jobid).started)
        with transaction.manager:
            self.service.cancel(jobid)
        self.assertEqual(self.service.getRun(jobid), ('alpha', began, False))

    def test_a_job_whose_host_has_ended(self):
        jobid = self.add('wait')
        processor = self.start('alpha')
        began = self.until(lambda: self.service.getRun(jobid).started)
        with transaction.manager:
            ledger = self.service.ledgers['alpha']
            self.assertEqual(ledger.beganAt(jobid), began)
            self.service.jobs[jobid].retryPolicy = RetryPolicy(attempts=1)
            with self.assertNoLogs('lovely.remotetask', 'WARNING'):
                rescue.rescue(self.service, 'alpha', began + 10)
            logs = self.enterContext(self.assertLogs('lovely.remotetask', 'WARNING'))
        # The host, which lives, may have told already that it lost its jobs.
        said = f'job {jobid} (wait) failed: the processing host alpha ended while the job was running'
        self.assertIn(('ERROR', said), [(record.levelname, record.getMessage()) for record in logs.records])
        self.assertEqual(self.service.getStatus(jobid), 'error')
        self.assertEqual(self.service.getRun(jobid), ('alpha', began, False))
        processor.running = False

    def test_jobs_that_two_hosts_have_run(self):
        self.start('beta').stop(PATIENCE)
        self.start('alpha')
        transaction.abort()
        self.service.ledgers['alpha'].began._p_activate()
        serial = self.service.ledgers['alpha'].began._p_serial
        jobids = [self.add('echo') for _ in range(3)]
        self.until(lambda: self.service.countJobs()['completed'] == 3)
        self.assertEqual(self.service.ledgers['alpha'].began._p_serial, serial)         # short jobs write no more there
        self.assertEqual({self.service.getRun(jobid).host for jobid in jobids}, {'alpha'})
        self.assertEqual({self.service.jobs[jobid].host for jobid in jobids}, {2})

    def test_nobody(self):
        jobid = self.add('echo')
        self.service.process()
        self.assertEqual(self.service.getRun(jobid)[0], None)
        self.assertIsNotNone(self.service.getRun(jobid).started)


class FailedRunsTest(Tasks):

    def test_a_cron_job(self):
        jobid = self.service.addCronJob('moody', minute=(0,), now=0)
        self.service.process(1)
        for hour in (1, 2, 3):
            self.service.process(hour * HOUR)
        schedule = self.schedule(jobid)
        self.assertEqual((schedule['outcome'], schedule['failures'], schedule['error']), ('error', 3, 'not today'))
        self.service.process(3 * HOUR + 1)
        self.assertEqual(self.schedule(jobid)['scheduledFor'], 4 * HOUR)
        found = self.service.getStatistics(3 * HOUR + 2, window=HOUR)
        self.assertEqual((found['failures'], found['failing'], found['nextTime']), (1, 1, 4 * HOUR))
        self.assertEqual(self.service.getStatistics(3 * HOUR + 2, window=2.5 * HOUR)['failures'], 3)
        listed, = methods.getJobs(self.service, 'cronjob', 0, 10, None, None, None, None)['jobs']
        self.assertEqual((listed['outcome'], listed['failures'], listed['scheduledFor']), ('error', 3, 4 * HOUR))
        self.failing = False
        self.service.process(4 * HOUR)
        schedule = self.schedule(jobid)
        self.assertEqual((schedule['outcome'], schedule['failures'], schedule['error']), ('completed', 0, None))
        self.assertEqual(self.service.getStatistics(4 * HOUR + 1)['failing'], 0)

    def test_a_cron_job_that_waits_for_a_host(self):
        jobid = self.service.addCronJob('moody', minute=(0,), now=0)
        self.service.process(1)
        self.service.process(HOUR)
        self.assertIsNone(self.schedule(jobid)['reason'])
        self.service.schedule.aside.insert(jobid)
        self.service.jobs[jobid].error = 'waits, because it is Sunday'
        self.assertEqual(self.schedule(jobid)['reason'], 'waits, because it is Sunday')
        self.assertEqual(self.service.getStatistics(HOUR)['unscheduled'], 1)

    def test_a_cron_job_that_is_removed_while_it_fails(self):
        jobid = self.service.addCronJob('moody', minute=(0,), now=0)
        self.service.process(1)
        self.service.process(HOUR)
        self.assertEqual(self.service.getStatistics(HOUR)['failing'], 1)
        self.service.cancel(jobid, HOUR + 1)
        self.assertEqual(self.service.getStatistics(HOUR + 1)['failing'], 0)

    def test_a_schedule_that_adds_jobs(self):
        jobid = self.service.addCronJob('moody', minute=(0,), newJobs=True, now=0)
        self.service.process(1)
        for hour in (1, 2):
            self.service.process(hour * HOUR)
        schedule = self.schedule(jobid)
        self.assertEqual((schedule['outcome'], schedule['failures']), ('error', 2))
        self.assertEqual(self.service.getStatistics(2 * HOUR, window=HOUR / 2)['failures'], 1)
        self.service.clean()
        self.assertEqual((self.schedule(jobid)['outcome'], self.schedule(jobid)['failures']), (None, 0))

    def test_jobs(self):
        for now in (1, 2, 3):
            self.service.add('moody', now=now)
            self.service.process(now * 100)
        self.assertEqual(self.service.getStatistics(300, window=150)['failures'], 2)
        self.assertEqual(self.service.getStatistics(1000, window=1)['failures'], 0)
        for window in 0, -1, 'x', None:
            with self.assertRaisesRegex(ValueError, 'window'):
                self.service.getStatistics(1000, window=window)

    def test_what_is_kept(self):
        ledger = Ledger()
        for number in range(1, 51):
            ledger.failRun(number, number)
        ledger.failRun(51, 50)                              # at the same time
        self.assertEqual(len(ledger.failedRuns), 51)
        for number in range(40):
            ledger.failRun(100 + number, KEPT_FAILED_RUNS + 1000 + number)
        self.assertEqual(len(ledger.failedRuns), 40)

    def test_retries_and_strangers(self):
        self.service.add('echo', now=1)
        job = self.service.jobs[self.service.add('echo', now=2, retryPolicy=RetryPolicy(attempts=3, jitter=0))]
        provideUtility(SimpleTask(lambda input: 1 / 0), name='echo')
        self.service.process(3)
        self.assertEqual((self.service.getStatistics(3)['retrying'], self.service.getStatistics(3)['stranded']), (2, 0))
        self.assertEqual(job.failedAttempts, 1)

    def test_what_is_stranded_does_not_wait_for_an_attempt(self):
        jobids = [self.service.add('echo', now=1), self.service.addCronJob('echo', minute=(0,), now=1)]
        self.service.runNow(jobids[1], 2)
        for jobid in jobids:
            self.assertTrue(ready.dequeue(self.service, jobid))
            ready.strand(self.service, self.service.jobs[jobid], 'a lacks it')
        found = self.service.getStatistics(3)
        self.assertEqual((found['retrying'], found['stranded'], found['unclaimable']), (0, 2, {'echo': 2}))


class RunNowTest(Tasks):

    def setUp(self):
        super().setUp()
        self.failing = False

    def test_a_cron_job(self):
        jobid = self.service.addCronJob('moody', 'x', minute=(0,), now=0)
        self.service.process(1)
        self.assertEqual(self.service.runNow(jobid, 10), jobid)
        with self.assertRaisesRegex(WrongState, 'queued or running already: cannot run it'):
            self.service.runNow(jobid, 11)
        self.service.process(12)
        self.assertEqual(self.runs, ['x'])
        self.assertEqual(self.service.jobs[jobid].history[0][:3], (10, jobid, 'completed'))
        self.service.process(13)
        self.assertEqual(self.service.jobs[jobid].scheduledFor, HOUR)
        for now in (HOUR - 1, HOUR, HOUR + 1):
            self.service.process(now)
        self.assertEqual(len(self.runs), 2)
        self.assertEqual(self.service.jobs[jobid].history[1][0], HOUR)

    def test_one_that_the_scheduler_has_not_seen(self):
        for delay in (None, 50):
            self.runs.clear()
            jobid = self.service.addCronJob('moody', 'x', minute=() if delay else (0,), delay=delay, now=0)
            self.service.runNow(jobid, 10)
            for now in (11, 12, 100, 200):
                self.service.process(now)
            self.assertEqual(self.runs, ['x'])
            self.service.cancel(jobid) if delay is None else self.assertEqual(
                self.service.getStatus(jobid), 'completed')

    def test_it_is_due_while_it_runs(self):
        jobid = self.service.addCronJob('moody', 'x', minute=(0,), now=0)
        self.service.process(1)
        self.service.runNow(jobid, HOUR - 1)
        self.service.process(HOUR + 5)
        self.assertEqual(self.runs, ['x'])
        self.service.process(HOUR + 6)
        self.assertEqual((self.runs, self.service.jobs[jobid].scheduledFor), (['x'], 2 * HOUR))

    def test_one_that_makes_up_for_missed_times_still_does(self):
        jobid = self.service.addCronJob('moody', 'x', minute=(0,), misfire=5, now=0)
        self.service.process(1)
        self.service.process(HOUR)
        self.service.process(HOUR + 1)
        self.service.runNow(jobid, 4 * HOUR + 1)
        for _ in range(5):
            self.service.process(4 * HOUR + 2)
        self.assertEqual([run.calledFor for run in self.service.jobs[jobid].history],
                         [HOUR, 4 * HOUR + 1, 2 * HOUR, 3 * HOUR, 4 * HOUR])

    def test_one_that_is_not_active(self):
        jobid = self.service.addCronJob('moody', 'x', minute=(0,), active=False, now=0)
        self.service.process(1)
        self.service.runNow(jobid, 2)
        for now in (3, 4, 2 * HOUR):
            self.service.process(now)
        self.assertEqual((self.runs, self.service.jobs[jobid].scheduledFor), (['x'], None))

    def test_a_delayed_job(self):
        jobid = self.service.addCronJob('moody', 'x', delay=100, now=0)
        self.service.process(1)
        self.assertEqual(self.service.runNow(jobid, 2), jobid)
        for now in (2, 3, 101, 200):
            self.service.process(now)
        self.assertEqual((self.runs, self.service.getStatus(jobid)), (['x'], 'completed'))

    def test_a_schedule_that_adds_jobs(self):
        jobid = self.service.addCronJob('moody', 'x', delay=100, newJobs=True, now=0)
        self.service.process(0)
        added = self.service.runNow(jobid, 2)
        self.assertNotEqual(added, jobid)
        with self.assertRaisesRegex(WrongState, 'running already'):
            self.service.runNow(jobid, 3)
        self.service.process(4)
        self.assertEqual(self.service.jobs[added].schedule, jobid)
        self.assertEqual(self.service.getStatus(added), 'completed')
        self.service.process(100)
        self.assertEqual((self.runs, self.service.jobs[jobid].scheduledFor), (['x', 'x'], 200))

    def test_a_job_that_waits_for_its_next_attempt(self):
        self.failing = False
        provideUtility(SimpleTask(lambda input: 1 / 0), name='weak')
        jobid = self.service.add('weak', now=0, retryPolicy=RetryPolicy(attempts=2, base=1000, jitter=0))
        self.service.process(1)
        self.service.process(2)
        self.assertEqual(self.service.jobs[jobid].failedAttempts, 1)
        self.assertEqual(self.service.runNow(jobid, 3), jobid)
        self.service.process(4)
        self.assertEqual(self.service.getStatus(jobid), 'error')

    def test_any_other(self):
        for jobid in (self.service.add('echo'), self.service.add('echo', startLater=True)):
            with self.assertRaisesRegex(WrongState, 'cannot run it'):
                self.service.runNow(jobid, 1)


class ListsTest(Tasks):

    def test_of_a_task_and_since(self):
        self.failing = False
        for now in range(10):
            self.service.add('moody' if now % 2 else 'echo', now, now=now)
        self.assertEqual([job.input for job in self.service.getJobs(task='moody')], [9, 7, 5, 3, 1])
        self.assertEqual([job.input for job in self.service.getJobs(task='moody', start=1, size=2)], [7, 5])
        self.assertEqual([job.input for job in self.service.getJobs(since=7)], [9, 8, 7])
        self.assertEqual([job.input for job in self.service.getJobs('queued', since=6, task='echo')], [8, 6])
        self.service.process(100)
        self.assertEqual(len(self.service.getJobs(since=50)), 10)
        self.assertEqual(self.service.getJobs(since=101), [])
        self.assertEqual(self.service.getJobs(task='none'), [])
        for name, value in (('task', 7), ('since', 'x'), ('since', float('nan'))):
            with self.assertRaisesRegex(ValueError, name):
                self.service.getJobs(**{name: value})

    def test_what_is_told_to_those_who_see_one_task_only(self):
        self.service.add('echo')
        answer = methods.getJobs(self.service, None, 0, 10, 'echo', None, None, None)
        self.assertEqual((len(answer['jobs']), answer['total'], answer['counts']), (1, None, None))
        self.service.addCronJob('echo', now=0)
        answer = methods.getSchedules(self.service, 'echo', 0, 10)
        self.assertEqual((len(answer['schedules']), answer['total']), (1, None))
        self.assertEqual(methods.getSchedules(self.service, 'moody', 0, 10)['schedules'], [])


if __name__ == '__main__':
    unittest.main()
