"""Listing and counting of jobs: right after every transition, merged, cheap; keys, many jobs at once, request ids."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import logging
import pathlib
import random
import tempfile
import unittest

import transaction
from BTrees.IOBTree import IOBTree
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError
from zope.component import provideUtility
from zope.component import testing
from zope.interface import Interface
from zope.schema import Int

from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.errors import WrongState
from lovely.remotetask.execution.inline import claimNext
from lovely.remotetask.execution.run import execute
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import install
from lovely.remotetask.storage import queries
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.queue import ReadyQueue
from lovely.remotetask.storage.shards import BITS
from lovely.remotetask.storage.transitions import Outcome
from lovely.remotetask.storage.transitions import Recorded
from lovely.remotetask.task import SimpleTask
from waits import PATIENCE
from waits import waitUntil


DATA = pathlib.Path(__file__).parent / 'data'
PATH = ('TaskService',)


def ids(jobs):
    return [job.id for job in jobs]


def scan(service):
    """Return what a look at each job says: status -> set of ids."""
    found = {status: set() for status in STATUSES}
    for jobid in service.jobs:
        found[service.getStatus(jobid)].add(jobid)
    return found


class Tasks(unittest.TestCase):
    """Tasks that do as they are told, and a service outside any database."""

    def setUp(self):
        self.addCleanup(testing.tearDown)
        for name, function in (('echo', lambda input: input), ('fail', self.fail_), ('break', lambda input: 1 / 0),
                               ('flaky', self.flaky)):
            provideUtility(SimpleTask(function), name=name)
        self.rng = random.Random(5)
        self.service = TaskService()

    def flaky(self, input):
        if self.rng.random() < 0.5:
            raise OSError('try again')

    def fail_(self, input):
        raise TaskError('as asked')

    def assertListed(self, service):
        """Compare what is listed and counted with a look at each job."""
        found = scan(service)
        self.assertEqual(service.countJobs(), {status: len(jobids) for status, jobids in found.items()})
        for status, jobids in found.items():
            self.assertEqual(sorted(ids(service.getJobs(status, 0, 10000))), sorted(jobids), status)
        self.assertEqual(sorted(ids(service.getJobs(None, 0, 10000))), sorted(service.jobs))


class Walk:
    """Things that happen to jobs, one after the other and at random."""

    def __init__(self, service, rng):
        self.service, self.rng, self.now = service, rng, 1000.0
        self.claims, self.recorded = [], []

    def step(self):
        self.now += self.rng.choice((0, 0, 0.5, 3, 50))
        names = [name for name in dir(self) if name.startswith('do')]
        with contextlib.suppress(WrongState, UnknownJob, ValueError):
            getattr(self, self.rng.choice(names))()

    def any(self):
        jobids = list(self.service.jobs)
        return self.rng.choice(jobids) if jobids else 1

    def task(self):
        return self.rng.choice(('echo', 'echo', 'fail', 'break'))

    def doAdd(self):
        self.service.add(self.task(), now=self.now, retryPolicy=RetryPolicy(attempts=2, base=20))

    def doAddMany(self):
        self.service.addMany([{'task': self.task(), 'startLater': later} for later in (True, False)], self.now)

    def doAddCronJob(self):
        schedule = self.rng.choice(({'delay': 5}, {'delay': 50, 'newJobs': True}, {'minute': ()}, {'delay': 90}))
        self.service.addCronJob(self.task(), now=self.now, **schedule)

    def doStart(self):
        self.service.startJob(self.any())

    def doUpdate(self):
        self.service.updateCronJob(self.any(), self.now, **self.rng.choice(
            ({'delay': 5}, {'minute': (1, 2)}, {'active': False}, {'active': True}, {'crontab': '* * * * *'})))

    def doUpdateByHand(self):
        jobid = self.any()
        if jobid in self.service.jobs and hasattr(self.service.jobs[jobid], 'update'):
            self.service.jobs[jobid].update(delay=self.rng.choice((None, 7)))
            with contextlib.suppress(WrongState):
                if self.rng.random() < 0.5:        # else without telling the service
                    self.service.cancel(jobid, self.now)
            self.service.reschedule(jobid, self.now)

    def doCancel(self):
        self.service.cancel(self.any(), self.now)

    def doClaim(self):
        jobid = self.service.claimNextJob(self.now)
        if jobid is not None:
            self.claims.append(jobid)

    doClaimOne = doClaimAnother = doClaim

    def doRun(self):
        if self.claims:
            jobid = self.claims.pop(self.rng.randrange(len(self.claims)))
            self.service.processNext(self.now, jobid)

    doRunOne = doRun

    def doRecord(self):
        """As a run that writes to the database: the job is completed, and the claim still open."""
        if self.claims:
            claim = claimNext(self.service, self.now, self.claims.pop())
            job = self.service.jobs[claim.jobid]
            if transitions.holds(job, claim):
                transitions.record(self.service, job, Outcome(claim.jobid, claim.run, 'completed', self.now, self.now))
            self.recorded.append(Recorded(claim.jobid, claim.run))

    def doSettle(self):
        if self.recorded:
            report = self.recorded.pop()
            transitions.acknowledge(self.service, ready.shardOf(self.service, report.jobid).ledger, report, self.now)

    def doProcess(self):
        self.service.process(self.now)

    def doRetry(self):
        self.service.retry(self.any())

    def doRetryFailed(self):
        self.service.retryFailed(limit=2)

    def doRemove(self):
        self.service.removeJobs(limit=3)


class TestRegister(Tasks):

    level = 2

    def test_after_any_transition(self):
        seen = collections.Counter()
        for seed in range(8):
            random.seed(seed)                   # ids are random
            service = TaskService()
            walk = Walk(service, random.Random(seed))
            for _ in range(250):
                walk.step()
                with self.subTest(seed=seed):
                    self.assertListed(service)
                seen.update(status for status, count in service.countJobs().items() if count)
        self.assertEqual(set(seen), set(STATUSES))

    def test_a_queued_run_that_is_not_wanted_any_more(self):
        jobid = self.service.addCronJob('echo', 'x', minute=(), now=0)
        for now in 0, 120:
            scheduling.tick(self.service, now)
        self.assertTrue(ready.isWaiting(self.service))
        self.service.updateCronJob(jobid, 120, delay=10)
        self.assertFalse(ready.isWaiting(self.service))
        self.assertListed(self.service)
        self.becomesCompleted(jobid)

    def test_a_claimed_run_that_is_not_wanted_any_more(self):
        jobid = self.service.addCronJob('echo', 'x', minute=(), now=0)
        scheduling.tick(self.service, 0)
        claim = claimNext(self.service, 120)
        self.assertEqual(claim.jobid, jobid)
        self.service.updateCronJob(jobid, 120, delay=10)
        self.assertFalse(transitions.holds(self.service.jobs[jobid], claim))
        self.assertListed(self.service)
        scheduling.tick(self.service, 120)
        scheduling.tick(self.service, 131)
        self.assertEqual(self.service.getStatus(jobid), 'queued')           # it is not that run that is claimed
        self.assertListed(self.service)
        self.becomesCompleted(jobid)

    def becomesCompleted(self, jobid):
        self.service.process(120)
        self.service.process(131)
        self.assertEqual(self.service.getStatus(jobid), 'completed')
        self.assertListed(self.service)

    def test_completed_by_its_own_transaction(self):
        ended = self.service.add('echo', now=0)
        self.service.process(3)
        jobid = self.service.add('echo', now=1)
        claim = claimNext(self.service, 2)
        transitions.record(self.service, self.service.jobs[jobid], Outcome(jobid, claim.run, 'completed', 5, 6))
        for _ in range(2):
            self.assertListed(self.service)
            self.assertEqual(ids(self.service.getJobs('completed')), [jobid, ended])
            ledger = ready.shardOf(self.service, jobid).ledger
            transitions.acknowledge(self.service, ledger, Recorded(jobid, claim.run), 7)

    def test_broken_jobs(self):
        jobid = self.service.add('echo', now=0)
        self.service.shards[jobid >> BITS].pages.put(jobid, b'no row')
        self.assertEqual(ids(self.service.getJobs('queued')), [jobid])
        self.assertIsNone(self.service.getStatistics(5)['oldestWaiting'])
        self.service.process(1)
        self.assertEqual(ids(self.service.getJobs('error')), [jobid])
        self.assertEqual(self.service.countJobs()['error'], 1)


class TestOrder(Tasks):

    def test_newest_first(self):
        service = self.service
        first = [service.add('echo', now=now) for now in range(10)]
        service.process(100)
        later = [service.add('echo', startLater=True, now=now) for now in range(20, 25)]
        cron = service.addCronJob('echo', delay=1000, now=26)
        queued = [service.add('echo', now=now) for now in range(30, 80)]
        self.assertEqual(ids(service.getJobs('queued')), queued[::-1])
        self.assertEqual(ids(service.getJobs('start later')), later[::-1])
        self.assertEqual(ids(service.getJobs('queued', 5, 3)), queued[44:41:-1])
        # They have all ended later than the others were added.
        self.assertEqual(set(ids(service.getJobs(None, 0, 10))), set(first))
        self.assertEqual(ids(service.getJobs(None, 10, 70)), queued[::-1] + [cron] + later[::-1])
        self.assertEqual(service.getJobs(None, 66), [])
        self.assertEqual(service.getJobs('completed', 2 ** 31 - 1), [])
        self.assertEqual(service.getJobs(None, 3, 0), [])

    def test_by_their_end(self):
        jobids = [self.service.add('echo', now=now) for now in range(5)]
        for now, jobid in enumerate(jobids[::-1]):
            self.service.cancel(jobid, 100 + now)
        self.assertEqual(ids(self.service.getJobs('cancelled')), jobids)

    def test_queued_again(self):
        # A job that has failed is put behind newer ones: these are not hidden by it.
        old = self.service.add('break', now=1, retryPolicy=RetryPolicy(base=1))
        self.service.process(2)
        self.assertEqual(ids(self.service.getJobs('queued')), [old])            # it waits for its next attempt
        newer = [self.service.add('echo', now=now) for now in range(10, 15)]
        self.service._v_nextid = newer[0] ^ 1 << BITS                           # of another shard
        other = self.service.add('echo', now=12.5)
        scheduling.tick(self.service, 20)
        for status in 'queued', None:
            self.assertEqual(ids(self.service.getJobs(status)),
                             [old, newer[4], newer[3], other, newer[2], newer[1], newer[0]])

    def test_wrong_arguments(self):
        for arguments, name in ((('nope',), 'status'), ((5,), 'status'), ((None, -1), 'start'), ((None, 1.5), 'start'),
                                ((None, True), 'start'), ((None, 2 ** 31), 'start'), ((None, 0, -1), 'size'),
                                ((None, 0, 'x'), 'size')):
            with self.subTest(arguments=arguments), self.assertRaisesRegex(ValueError, name):
                self.service.getJobs(*arguments)


class TestEnds(Tasks):
    """When a run began and ended, as it is on record."""

    def run_(self, started, ended, status='completed', **options):
        """Run a job from one time to another; return the job."""
        jobid = self.service.add('echo', now=0, **options)
        claim = claimNext(self.service, 0)
        transitions.acknowledge(self.service, ready.shardOf(self.service, jobid).ledger,
                         Outcome(jobid, claim.run, status, started, ended, retryAt=9e9), ended)
        return self.service.jobs[jobid]

    def test_the_end_is_not_before_the_start(self):
        rng = random.Random(5)
        for _ in range(2000):
            started = rng.choice((rng.uniform(0, 2e9), 1.7e9 + rng.random(),
                                   rng.randrange(10 ** 9), -rng.random()))
            job = self.run_(started, started + rng.choice((0, 1e-7, 1e-6, 3.3)))
            self.assertLessEqual(job.started, job.completed)
            self.assertAlmostEqual(job.started, started, delta=1e-6)
            self.assertAlmostEqual(job.completed, started, delta=4)

    def test_the_clock_is_set_back_meanwhile(self):
        for status in 'completed', 'error', 'queued':
            job = self.run_(1000.25, 500, status)
            self.assertEqual((job.started, job.completed), (1000.25, 1000.25))
        self.service.cancel(job.id, 600)
        self.assertEqual((job.status, job.completed), ('cancelled', 1000.25))
        schedule = self.service.jobs[self.service.addCronJob('echo', minute=(), now=0)]
        for now in 0, 60:
            scheduling.tick(self.service, now)
        claim = claimNext(self.service, 61)
        transitions.record(self.service, schedule, Outcome(schedule.id, claim.run, 'completed', 1000, 500))
        self.assertEqual((schedule.started, schedule.completed, *schedule.history[0][3:5]), (1000,) * 4)

    def test_ends_at_the_same_time(self):
        later = self.run_(0, 5)
        jobs = [self.run_(0, 1) for _ in range(100)]
        self.assertEqual([round(1e6 * job.completed) for job in jobs], list(range(1000000, 1000100)))
        self.assertEqual(ids(self.service.getJobs('completed', 0, 200)), ids([later, *jobs[::-1]]))

    def test_a_job_that_failed_at_the_beginning_of_time(self):
        jobid = self.service.add('fail', now=0)
        self.service.process(0)
        self.assertEqual(self.service.jobs[jobid].completed, 0)
        self.service.retry(jobid)
        self.assertListed(self.service)
        self.service.process(0)
        self.assertEqual((self.service.retryFailed(), self.service.getStatus(jobid)), (1, 'queued'))
        self.assertListed(self.service)

    def test_a_schedule_that_was_called_for_at_the_beginning_of_time(self):
        self.service.addCronJob('echo', minute=(), now=-60)
        scheduling.tick(self.service, -60)
        scheduling.tick(self.service, 0)
        self.assertEqual(self.service.getStatistics(5)['oldestWaiting'], 0)


class TestReversedQueue(unittest.TestCase):

    def test_reversed(self):
        queue = ReadyQueue()
        queue.bucketSize = 3
        for number in range(10):
            queue.put(number)
        self.assertEqual(list(reversed(queue)), list(range(9, -1, -1)))
        self.assertEqual(list(reversed(ReadyQueue())), [])


class TestStatistics(Tasks):

    def test_statistics(self):
        service = self.service
        self.assertEqual(service.getStatistics(0), {
            'counts': dict.fromkeys(STATUSES, 0), 'hosts': [], 'paused': False, 'oldestWaiting': None,
            'throughput': 0.0, 'failures': 0, 'failing': 0, 'longestRunning': None, 'nextTime': None,
            'retrying': 0, 'stranded': 0, 'unclaimable': {}, 'unscheduled': 0})
        for now in (3, 4, 5):
            service.add('echo', now=now)
        service.add('fail', now=9)
        self.assertEqual(service.getStatistics(100)['oldestWaiting'], 3)
        service.process(1000)
        service.cancel(service.add('echo', now=1001), 1002)
        service.pause()
        statistics = service.getStatistics(1030)
        self.assertEqual(statistics['throughput'], 4 / 60)
        self.assertEqual((statistics['oldestWaiting'], statistics['paused']), (None, True))
        self.assertEqual(statistics['counts'], {**dict.fromkeys(STATUSES, 0), 'completed': 3, 'error': 1,
                                                'cancelled': 1})
        self.assertEqual(service.getStatistics(1061)['throughput'], 0)

    def test_much_in_little_time(self):
        ledger = self.service.shards[0].ledger
        for number in range(1, 5001):
            ledger.finish(number, 'completed', 1000 + number / 1000)
        self.assertAlmostEqual(self.service.getStatistics(1005)['throughput'], queries.ENOUGH, delta=2)

    def test_a_schedule_waits_since_its_time(self):
        for _ in range(2):
            self.service.addCronJob('echo', minute=(0,), now=0)
        self.service.claimNextJob(0)
        self.service.claimNextJob(7200)         # one of the two: the other waits
        self.assertEqual(self.service.getStatistics(7300)['oldestWaiting'], 3600)


class TestKeys(Tasks):

    def test_same_key(self):
        first = self.service.add('echo', 1, key='a')
        self.assertEqual(self.service.add('echo', 2, key='a'), first)
        self.assertNotEqual(self.service.add('echo', 1, key='b'), first)
        self.assertNotEqual(self.service.add('echo', 1), first)
        self.assertEqual((len(self.service.jobs), self.service.jobs[first].input), (3, 1))
        self.assertEqual(self.service.keys.of(first), 'a')

    def test_each_task_has_its_own_keys(self):
        first = self.service.add('echo', 1, key='a')
        other = self.service.add('fail', 1, key='a')
        self.assertNotEqual(other, first)
        self.assertEqual([self.service.add(task, key='a') for task in ('echo', 'fail')], [first, other])
        self.assertEqual(self.service.addMany([{'task': 'fail', 'key': 'a'}, {'task': 'echo', 'key': 'a'},
                                               {'task': 'break', 'key': 'a'}])[:2], [other, first])
        self.service.cancel(other)
        self.service.clean()
        self.assertEqual((self.service.add('echo', key='a'), self.service.keys.of(other)), (first, None))
        self.assertNotIn(self.service.add('fail', key='a'), (first, other))

    def test_the_key_of_a_job_that_is_gone(self):
        first = self.service.add('echo', key='a')
        ready.shardOf(self.service, first).pages.remove(first)       # as somebody may do who repairs a database
        again = self.service.add('echo', key='a')
        self.assertIn(again, self.service.jobs)
        self.assertEqual(self.service.add('echo', key='a'), again)
        self.service.keys.remove(first)
        self.assertEqual(self.service.keys.get('echo', 'a'), again)

    def test_the_key_goes_with_its_job(self):
        first = self.service.add('echo', key='a')
        kept = self.service.add('echo', key='b', startLater=True)
        self.service.process()
        self.assertEqual(self.service.add('echo', key='a'), first)
        self.service.clean()
        self.assertNotEqual(again := self.service.add('fail', key='a'), first)
        self.assertEqual((self.service.keys.get('fail', 'a'), self.service.keys.of(first)), (again, None))
        self.assertEqual(self.service.add('echo', key='b'), kept)

    def test_wrong_keys(self):
        for key in '', 'x' * 201, 5, b'a', ('a',):
            with self.assertRaisesRegex(ValueError, 'key: .*text of 1 to 200 characters'):
                self.service.add('echo', key=key)
        self.assertEqual(len(self.service.jobs), 0)
        self.service.add('echo', key='\u20ac' * 200)


class INumber(Interface):
    number = Int(title='Number')


class TestAddMany(Tasks):

    def test_many(self):
        provideUtility(SimpleTask(lambda input: input['number'], inputSchema=INumber), name='number')
        policy = RetryPolicy(attempts=1)
        jobids = self.service.addMany([
            {'task': 'echo'}, {'task': 'number', 'input': {'number': 5}, 'startLater': True},
            {'task': 'echo', 'key': 'a', 'timeLimit': 5, 'retryPolicy': policy}, {'task': 'echo', 'key': 'a'}],
            now=7, request='r1')
        jobs = [self.service.jobs[jobid] for jobid in jobids]
        self.assertEqual(jobids[2], jobids[3])
        self.assertEqual([job.status for job in jobs], ['queued', 'start later', 'queued', 'queued'])
        self.assertEqual({(job.created, job.request) for job in jobs}, {(7, 'r1')})
        self.assertEqual((jobs[2].timeLimit, jobs[2].retryPolicy, jobs[1].input), (5, policy, {'number': 5}))
        self.assertEqual(self.service.addMany([]), [])

    def test_all_or_none(self):
        provideUtility(SimpleTask(lambda input: input['number'], inputSchema=INumber), name='number')
        self.service.add('fail', now=0)
        before = self.service.countJobs()
        for wrong, error, reason in (
                ({'task': 'nope'}, UnknownTask, 'nope'), ({'task': 'number', 'input': {'number': 'x'}}, InvalidInput,
                                                          r"'number'.*jobs\[2\]"),
                ({'task': 'echo', 'key': ''}, ValueError, r'jobs\[2\]: key'),
                ({'task': 'echo', 'timeLimit': 0}, ValueError, r'jobs\[2\]: timeLimit'),
                ({'task': 'echo', 'retryPolicy': 5}, ValueError, r'jobs\[2\]: retryPolicy'),
                ({'task': 'echo', 'now': 5}, ValueError, r'jobs\[2\]: a dict is needed'),
                ({'input': 5}, ValueError, r'jobs\[2\]: a dict'), ('echo', ValueError, r'jobs\[2\]: a dict')):
            with self.subTest(wrong=wrong), self.assertRaisesRegex(error, reason):
                self.service.addMany([{'task': 'echo'}, {'task': 'echo', 'key': 'new'}, wrong])
            self.assertEqual(self.service.countJobs(), before)
            self.assertIsNone(self.service.keys.get('echo', 'new'))


class TestUpdate(Tasks):

    def schedule(self, jobid):
        job = self.service.jobs[jobid]
        return job.minute, job.hour, job.delay, job.crontab, job.timeZone, job.misfire, job.active, job.status

    def test_changes(self):
        jobid = self.service.addCronJob('echo', minute=(5,), hour=(2,), timeZone='Europe/Berlin', misfire=3, now=0)
        for changes, expected in (
                ({'hour': (3, 4)}, ((5,), (3, 4), None, None, 'Europe/Berlin', 3, True, 'cronjob')),
                ({'timeZone': 'UTC', 'active': False}, ((5,), (3, 4), None, None, None, 3, False, 'cronjob')),
                ({'delay': 5, 'misfire': 'once'}, ((), (), 5, None, None, 'once', False, 'delayed')),
                ({'active': True}, ((), (), 5, None, None, 'once', True, 'delayed')),
                ({'crontab': '7 * * * *'}, ((7,), (), None, '7 * * * *', None, 'once', True, 'cronjob')),
                ({'misfire': 'skip'}, ((7,), (), None, '7 * * * *', None, 'skip', True, 'cronjob')),
                ({'hour': (1,)}, ((), (1,), None, None, None, 'skip', True, 'cronjob'))):
            with self.subTest(changes=changes):
                self.service.updateCronJob(jobid, 0, **changes)
                self.assertEqual(self.schedule(jobid), expected)
                self.assertListed(self.service)
        self.service.process(0)
        self.assertEqual(self.service.jobs[jobid].scheduledFor, 3600)

    def test_refused(self):
        jobid = self.service.addCronJob('echo', minute=(5,), now=0)
        before = self.schedule(jobid)
        for changes, reason in (({'minute': (60,)}, 'minute'), ({'month': (2,), 'dayOfMonth': (30,)}, 'no time at all'),
                                ({'crontab': 'x'}, 'crontab'), ({'crontab': '* * * * *', 'hour': (1,)}, 'crontab'),
                                ({'delay': 5, 'hour': (1,)}, 'delay'), ({'active': 1}, 'active'),
                                ({'overlap': True}, 'overlap'), ({'timeZone': 'X/Y'}, 'timeZone'),
                                ({'input': 5}, "no 'input'"), ({'status': 'error'}, "no 'status'")):
            with self.subTest(changes=changes), self.assertRaisesRegex(ValueError, reason):
                self.service.updateCronJob(jobid, 0, **changes)
            self.assertEqual(self.schedule(jobid), before)
        with self.assertRaises(WrongState):
            self.service.updateCronJob(self.service.add('echo'), active=False)
        with self.assertRaises(UnknownJob):
            self.service.updateCronJob(1, active=False)


class TestRequest(Tasks):

    def test_request(self):
        jobid = self.service.add('break', request='0a1b2c', retryPolicy=RetryPolicy(attempts=1))
        cron = self.service.addCronJob('echo', delay=5, request='3d4e5f')
        self.assertEqual([self.service.jobs[one].request for one in (jobid, cron)], ['0a1b2c', '3d4e5f'])
        with self.assertLogs('lovely.remotetask', 'INFO') as logged:
            self.service.process()
        self.assertIn(f'job {jobid} (break, request 0a1b2c) failed: ZeroDivisionError', logged.output[0])
        self.assertEqual(logged.records[0].levelname, 'ERROR')

    def test_none(self):
        jobid = self.service.add('fail')
        with self.assertLogs('lovely.remotetask', 'INFO') as logged:
            self.service.process()
        self.assertEqual(logged.output, [f'ERROR:lovely.remotetask:job {jobid} (fail) failed: as asked'])
        self.assertIsNone(self.service.jobs[jobid].request)

    def test_claim(self):
        self.service.add('echo', request='0a1b2c')
        claim = claimNext(self.service, 5)
        self.assertEqual(claim.request, '0a1b2c')
        self.assertEqual(execute(self.service, claim, lambda: 6).status, 'completed')


class StorageCase(Tasks):
    """A service in a file storage."""

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.db = DB(FileStorage(str(self.directory / 'Data.fs')))
        self.addCleanup(self.db.close)
        install(self.db)

    def user(self):
        """Return a transaction manager, begun, and the service as its connection sees it."""
        manager = transaction.TransactionManager()
        connection = self.db.open(manager)
        self.addCleanup(connection.close)
        self.addCleanup(manager.abort)
        manager.begin()
        return manager, connection.root()['Application']['TaskService']


class TestConflicts(StorageCase):

    def test_jobs_that_wait_are_merged(self):
        for _ in range(3):                      # into an empty tree, into one with jobs, and so on
            (one, service1), (two, service2) = self.user(), self.user()
            service1.add('echo', startLater=True, now=5)
            service1.addCronJob('echo', minute=(), now=5)
            service2.add('echo', startLater=True, now=5)
            one.commit()
            two.commit()
        _, service = self.user()
        self.assertEqual(service.countJobs()['start later'], 6)
        self.assertListed(service)

    def test_start_and_add_are_merged(self):
        setup, service = self.user()
        jobids = [service.add('echo', startLater=True, now=now) for now in range(3)]
        setup.commit()
        for number in 1, 0, 2:                  # in the middle, at the beginning, the last but one of all
            (one, service1), (two, service2) = self.user(), self.user()
            service1.startJob(jobids[number])
            service2.add('echo', startLater=True, now=9)
            one.commit()
            two.commit()
            self.assertListed(self.user()[1])

    def test_jobs_that_wait_for_their_next_attempt_come_and_go(self):
        # There are few at a time, or none: a host enters what has failed, and the scheduler takes out what is due.
        manager, service = self.user()
        jobid = service.add('break', retryPolicy=RetryPolicy(base=20), now=5)
        for _ in range(3):
            service.process(5)
            manager.commit()
            (one, service1), (two, service2) = self.user(), self.user()
            service1.runNow(jobid, now=6)
            other = service2.add('break', retryPolicy=RetryPolicy(base=20), now=7)
            service2.processNext(7)
            one.commit()
            two.commit()
            manager.begin()
            self.assertListed(service)
            service.cancel(jobid)
            jobid = other

    def test_the_same_key_conflicts(self):
        (one, service1), (two, service2) = self.user(), self.user()
        first = service1.add('echo', key='a')
        service2.add('echo', key='a')
        one.commit()
        with self.assertRaises(ConflictError):
            two.commit()
        two.abort()
        two.begin()
        self.assertEqual(service2.add('echo', key='a'), first)

    def test_plain_jobs_do_not_touch_the_register(self):
        manager, service = self.user()
        service.add('echo', startLater=True, key='a')
        manager.commit()
        before = self.register()
        service.add('echo')
        manager.commit()
        service.process()
        manager.commit()
        service.clean()
        manager.commit()
        self.assertEqual(len(service.jobs), 1)
        self.assertEqual(self.register(), before)
        service.add('echo', startLater=True)
        manager.commit()
        self.assertNotEqual(self.register(), before)

    def register(self):
        """Return the serials of all that the register and the keys are made of."""
        _, service = self.user()
        register, keys = service.index, service.keys
        register._p_activate(), keys._p_activate()
        parts = (register, keys, *register._entries.values(), *register._lengths.values(), *vars(keys).values())
        for part in parts:
            part._p_activate()
        return [part._p_serial for part in parts]


class TestHosts(StorageCase):

    level = 2

    def test_after_work(self):
        # Two hosts run jobs of which many fail at first, or write, while others are added, started and cancelled.
        def write(service, jobid, input):
            service._p_jar.root()['results'][jobid] = input

        provideUtility(write, ITask, name='write')
        with self.db.transaction() as connection:
            connection.root()['results'] = IOBTree()
        processors = [MultiProcessor(self.db, PATH, waitTime=0.05, maxThreads=3) for _ in range(2)]
        for processor in processors:
            processor.start()
            self.addCleanup(processor.stop, PATIENCE)
        logging.getLogger('lovely.remotetask').addHandler(handler := logging.NullHandler())
        self.addCleanup(logging.getLogger('lovely.remotetask').removeHandler, handler)
        later, rng = [], random.Random(7)
        for number in range(30):
            self.commit(lambda service: later.extend(service.addMany([
                {'task': rng.choice(('echo', 'flaky', 'break', 'write')), 'input': number,
                 'startLater': rng.random() < 0.3,
                 'retryPolicy': RetryPolicy(attempts=2, base=0.05), 'key': f'{number}-{n}'} for n in range(10)])))
            self.commit(lambda service: service.addCronJob('flaky', delay=0.05))
            self.commit(lambda service: service.startJob(rng.choice(later)))
            self.commit(self.cancelOne(rng.choice(later)))
            self.looked()
        for jobid in later:
            self.commit(lambda service: service.startJob(jobid))
        waitUntil(lambda: all(status in FINAL or not count for status, count in self.counts().items()))
        for processor in processors:
            self.assertTrue(processor.stop(PATIENCE))
        self.looked()
        self.assertEqual(sum(self.counts().values()), 330)

    def commit(self, function):
        """Call a function with the service, and commit that; again when it conflicts."""
        with contextlib.closing(self.db.open(manager := transaction.TransactionManager())) as connection:
            for attempt in manager.attempts(50):
                with attempt:
                    function(connection.root()['Application']['TaskService'])

    def looked(self):
        with self.db.transaction() as connection:
            self.assertListed(connection.root()['Application']['TaskService'])

    def cancelOne(self, jobid):
        def cancel(service):
            with contextlib.suppress(WrongState):
                service.cancel(jobid)
        return cancel

    def counts(self):
        with self.db.transaction() as connection:
            return connection.root()['Application']['TaskService'].countJobs()


class TestColdCount(StorageCase):

    def test_long_queues(self):
        manager, service = self.user()
        service.addMany([{'task': 'echo'}] * 3000, now=5)
        manager.commit()
        manager, service = self.user()
        self.db.cacheMinimize()
        self.assertEqual(service.countJobs()['queued'], 3000)
        self.assertEqual(len(service.getJobs('queued', 2990)), 10)


if __name__ == '__main__':
    unittest.main()
