"""Edge values: what 0, nothing, and what is no number at all mean wherever a caller can give them.

Each table says it in one line.  An edge value is never taken for one that was not given: it means now, at once or none,
or it is refused with a sentence that names the argument.
"""
# SPDX-License-Identifier: ZPL-2.1
import os
import pathlib
import tempfile
import threading
import unittest
import unittest.mock

from ZEO.Exceptions import ClientDisconnected
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask import processor
from lovely.remotetask.client import Client
from lovely.remotetask.client import StillRunning
from lovely.remotetask.config import products
from lovely.remotetask.config import settings as config
from lovely.remotetask.config.autostart import getAutostartServiceNames
from lovely.remotetask.config.autostart import splitPatterns
from lovely.remotetask.config.users import readUsers
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import Retry
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.execution import tasks
from lovely.remotetask.execution.command import CommandTask
from lovely.remotetask.execution.control import Control
from lovely.remotetask.execution.inline import claimNext
from lovely.remotetask.job import Failure
from lovely.remotetask.processing import claim_loop as claimloop
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.retry import DEFAULT
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import cleanup
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.transitions import Claim
from lovely.remotetask.storage.transitions import Outcome
from lovely.remotetask.storage.transitions import Recorded
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.xmlrpc import access
from lovely.remotetask.xmlrpc import calls
from lovely.remotetask.xmlrpc.access import Authenticator
from lovely.remotetask.xmlrpc.faults import BadArguments
from processorcase import PATH
from processorcase import ProcessorCase
from servercase import ServerCase
from test_cli import CommandTestCase
from test_xmlrpc_methods import call
from waits import PATIENCE
from waits import waitUntil


NAN, INF, HUGE, DIGITS = float('nan'), float('inf'), 10 ** 400, 10 ** 5000

#: What is no number for anybody.
NO_NUMBERS = (True, False, NAN, INF, -INF, HUGE, DIGITS, '0', '', [], {}, b'0', 1j)


class ServiceCase(unittest.TestCase):

    def setUp(self):
        self.addCleanup(testing.tearDown)
        for name in 'echo', 'other':
            provideUtility(SimpleTask(lambda input: input), name=name)
        provideUtility(SimpleTask(lambda input: 1 / 0), name='fail')
        self.service = TaskService()

    def assertRefused(self, names, function, *arguments, **keywords):
        """A call is refused with a sentence that begins with the argument's name, is short, and changes nothing."""
        before = len(self.service.jobs), self.service.countJobs()
        with self.assertRaisesRegex(ValueError, names) as caught:
            function(*arguments, **keywords)
        self.assertLess(len(str(caught.exception)), 300)
        self.assertEqual((len(self.service.jobs), self.service.countJobs()), before)
        return caught.exception


class TestService(ServiceCase):

    def test_now(self):
        # 0 is the beginning of 1970, not the present; times before it are times as well.
        service = self.service
        for now in 0, 0.0, -0.0, -1, 1e9:
            with self.subTest(now=now):
                jobid = service.add('echo', now=now)
                [other] = service.addMany([{'task': 'echo'}], now=now)
                schedule = service.addCronJob('echo', minute=(), now=now)
                self.assertEqual([service.jobs[one].created for one in (jobid, other, schedule)], [now] * 3)
                service.cancel(jobid, now)
                self.assertAlmostEqual(service.jobs[jobid].completed, now, delta=0.001)
                service.process(now)
                self.assertAlmostEqual(service.jobs[other].completed, now, delta=0.001)
                self.assertEqual(service.getStatistics(now)['throughput'], 1 / 60)
                self.assertFalse(service.hasJobsWaiting(now))
                self.assertTrue(service.hasJobsWaiting(now + 60))
                service.cancel(schedule, now)
                service.clean()

    def test_what_is_no_time(self):
        service = self.service
        jobid, schedule = service.add('echo', startLater=True, now=0), service.addCronJob('echo', minute=(), now=0)
        for now in (*NO_NUMBERS, 1e12, -1e12):
            for name, arguments in (('add', ('echo',)), ('addMany', ([{'task': 'echo'}],)), ('addCronJob', ('echo',)),
                                    ('cancel', (jobid,)), ('reschedule', (schedule,)), ('updateCronJob', (schedule,)),
                                    ('hasJobsWaiting', ()), ('getStatistics', ()), ('getProcessingHosts', ()),
                                    ('claimNextJob', ()), ('processNext', ()), ('process', ())):
                with self.subTest(name, now=type(now)):
                    self.assertRefused('^now: ', getattr(service, name), *arguments, now=now)
        for before in (*NO_NUMBERS, 1e12):
            for verb in service.removeJobs, service.retryFailed:
                self.assertRefused('^before: ', verb, before=before)

    def test_limit(self):
        # None is all, 0 is none.
        jobids = [self.service.add('fail', now=0, retryPolicy=RetryPolicy(attempts=1)) for _ in range(3)]
        self.service.process(0)
        for verb in self.service.removeJobs, self.service.retryFailed:
            self.assertEqual(verb(limit=0), 0)
            for limit in (*NO_NUMBERS, -1, 1.0):
                if limit not in (HUGE, DIGITS):                             # which are more than there are
                    self.assertRefused('^limit: ', verb, limit=limit)
        self.assertEqual(self.service.countJobs()['error'], 3)
        self.assertEqual(self.service.retryFailed(limit=1), 1)
        self.assertEqual(self.service.retryFailed(limit=HUGE), 2)
        self.service.process(1)
        self.assertEqual(self.service.removeJobs(limit=HUGE), len(jobids))

    def test_before(self):
        # Before a time, which may be 0: what has ended just then stays.
        ends = -5, 0, 0.000001, 5
        for end in ends:
            self.service.add('fail', now=-9, retryPolicy=RetryPolicy(attempts=1))
            self.service.process(end)
        for before, count in ((-5, 0), (0, 1), (0.0, 1), (0.000001, 2), (5, 3), (6, 4)):
            service = self.service
            found = sum(1 for end in ends if end < before)
            self.assertEqual(found, count)
            self.assertEqual(len(list(cleanup.failed(service, None, before))), count, before)
        self.assertEqual(self.service.retryFailed(before=0), 1)
        self.assertEqual(self.service.removeJobs(before=0.0), 0)
        self.assertEqual(self.service.removeJobs(before=5), 2)
        self.assertEqual(self.service.removeJobs(), 1)

    def test_status(self):
        # No statuses are none, not all.
        service, jobid = self.service, self.service.add('echo', now=0)
        service.process(0)
        for status in (), [], set(), iter([]):
            self.assertEqual(service.removeJobs(status), 0)
        for status in '', [''], None, 0, False, [None], [0], [[]], 'queued', ['completed', 'queued']:
            self.assertRefused('^status: ', service.removeJobs, status)
            self.assertRefused('^status: ', service.clean, status)
        for status in '', 0, False, (), [], 'Queued', b'queued':
            self.assertRefused('^status: ', service.getJobs, status)
        self.assertEqual(service.removeJobs('completed'), 1)
        self.assertNotIn(jobid, service.jobs)

    def test_task(self):
        for task in '', 'nope', None, 0, False, [], {}, ['echo'], b'echo', 'echo\0', 'echo\ud800', 'x' * 10 ** 6:
            for add in (self.service.add, self.service.addCronJob,
                        lambda task: self.service.addMany([{'task': task}])):
                error = self.assertRefused('^task .* is not registered; the registered tasks are: echo', add, task)
                self.assertIsInstance(error, UnknownTask)
        self.service.add('fail', now=0, retryPolicy=RetryPolicy(attempts=1))
        self.service.process(0)
        self.assertEqual(self.service.retryFailed(''), 0)                   # of no task, and not of any
        for task in 0, False, [], b'':
            self.assertRefused('^task: ', self.service.retryFailed, task)

    def test_an_unnamed_task(self):
        provideUtility(SimpleTask(lambda input: 'unnamed'), name='')
        jobid = self.service.add('', now=0)
        self.service.process(0)
        self.assertEqual(self.service.getResult(jobid), 'unnamed')

    def test_options(self):
        for name, values in (
                ('timeLimit', (0, 0.0, -1, *NO_NUMBERS)),
                ('key', ('', 0, False, b'', (), 'x' * 201)),
                ('request', ('', 0, False, b'x', 'x' * 101)),
                ('startLater', (0, 1, '', 'no', [], None)),
                ('retryPolicy', (0, False, '', {'attempts': 0}, ()))):
            for value in values:
                with self.subTest(name, value=type(value)):
                    self.assertRefused(f'^{name}: ', self.service.add, 'echo', now=0, **{name: value})
                    if name == 'request':
                        self.assertRefused(f'^{name}: ', self.service.addMany, [], request=value)
                        self.assertRefused(f'^{name}: ', self.service.addCronJob, 'echo', minute=(), request=value)
                    else:
                        self.assertRefused(rf'^jobs\[1\]: {name}: ', self.service.addMany,
                                           [{'task': 'echo'}, {'task': 'echo', name: value}])
        jobid = self.service.add('echo', now=0, timeLimit=1e-9, key='\0\ud800', request='x')
        self.assertEqual(self.service.jobs[jobid].timeLimit, 1e-9)
        self.assertEqual(self.service.keys.of(jobid), '\0\ud800')

    def test_input(self):
        for input in None, 0, 0.0, False, '', b'', [], {}, (), -0.0:
            jobid = self.service.add('echo', input, now=0)
            self.service.process(0)
            self.assertEqual(self.service.getResult(jobid), input)
            self.assertIs(type(self.service.getResult(jobid)), type(input))

    def test_jobs(self):
        for jobs in None, 0, False, 5:
            self.assertRefused('^jobs: ', self.service.addMany, jobs)
        for jobs in '', [], (), {}:
            self.assertEqual(self.service.addMany(jobs), [])
        for jobs in 'x', [None], [[]], [{}], [''], {'task': 'echo'}, [{'': 1}], [{0: 1, 'task': 'echo'}]:
            self.assertRefused(r'^jobs\[0\]: a dict is needed', self.service.addMany, jobs)

    def test_ids(self):
        for jobid in 0, 0.0, False, True, None, '', [], -1, 2 ** 31, HUGE, DIGITS, NAN, '1', 'x' * 10 ** 6:
            for verb in (self.service.getStatus, self.service.getResult, self.service.getError, self.service.cancel,
                         self.service.retry, self.service.startJob, self.service.reschedule, self.service.getProgress,
                         self.service.getResultPart):
                with self.assertRaises(UnknownJob) as caught:
                    verb(jobid)
                self.assertLess(len(str(caught.exception)), 100)
            self.assertNotIn(jobid, self.service.jobs)
        with self.assertRaises(UnknownJob):
            self.service.processNext(0, 0)

    def test_page(self):
        self.service.add('echo', now=0)
        self.assertEqual(len(self.service.getJobs(None, 0, 1)), 1)
        self.assertEqual(self.service.getJobs(None, 0, 0), [])
        for value in (*NO_NUMBERS, -1, 0.0, 2 ** 31):
            self.assertRefused('^start: ', self.service.getJobs, None, value)
            self.assertRefused('^size: ', self.service.getJobs, None, 0, value)

    def test_part(self):
        jobid = self.service.add('echo', b'abc', now=0)
        self.service.process(0)
        self.assertEqual([self.service.getResultPart(jobid, start, size) for start, size in
                          ((0, 0), (0, 1), (2, 9), (3, 1), (9, 0))], [b'', b'a', b'c', b'', b''])
        for value in (*NO_NUMBERS, -1, 0.0):
            self.assertRefused('^start: ', self.service.getResultPart, jobid, value)
            self.assertRefused('^size: ', self.service.getResultPart, jobid, 0, value)

    def test_progress(self):
        jobid = self.service.add('echo', now=0)
        self.service.claimNextJob(0)
        for fraction, message in ((0, ''), (0.0, 'x'), (None, ''), (1, ''), (0.5, '\0\ud800')):
            self.service.setProgress(jobid, fraction, message)
            self.assertEqual(self.service.getProgress(jobid), (fraction, message))
        for value in (*NO_NUMBERS, -1, 1.001):
            self.assertRefused('^progress: ', self.service.setProgress, jobid, value)
        for value in None, 0, False, b'':
            self.assertRefused('^message: ', self.service.setProgress, jobid, 0, value)


class TestEnds(ProcessorCase):
    """A job is found in its ledger by its end, however that was written down."""

    def ended(self, status, when, count=3):
        """Return jobs that have recorded the same end themselves, before their claims were closed."""
        self.provide('echo', lambda input: input)
        jobs = []
        for _ in range(count):
            self.service.add('echo')
            claim = claimNext(self.service, 0)
            job = self.service.jobs[claim.jobid]
            failure = Failure(when, 'no') if status == 'error' else None
            transitions.record(self.service, job, Outcome(job.id, job.run, status, when, when, failure=failure))
            ledger = ready.shardOf(self.service, job.id).ledger
            transitions.acknowledge(self.service, ledger, Recorded(job.id, claim.run), when)
            jobs.append(job)
        return jobs

    def test_each_can_be_removed_or_run_again(self):
        for number in range(60):
            when = 1795000000 + number * 0.0123457
            for job in self.ended('completed', when):
                cleanup.remove(self.service, job)
            for job in self.ended('error', when):
                self.service.retry(job.id)
                self.service.cancel(job.id, when + 1)
                cleanup.remove(self.service, job)
        self.assertEqual((len(self.service.jobs), set(self.service.countJobs().values())), (0, {0}))


class TestTask(ServiceCase):
    """What a task says of itself."""

    def task(self, **attributes):
        task = SimpleTask(lambda input: 'done')
        vars(task).update(attributes)
        return task

    def test_what_nobody_can_give(self):
        for name, values in (
                ('timeLimit', (0, 0.0, -1, *NO_NUMBERS)),
                ('memoryLimit', (0, -1, 0.5, *NO_NUMBERS[:5])),
                ('isolation', ('', 0, False, 'proces', [])),
                ('retryPolicy', (0, False, (), {'attempts': 0}, 5))):
            for value in values:
                with self.subTest(name, value=type(value)):
                    provideUtility(self.task(), name='odd')
                    jobid = self.service.add('odd', now=0)
                    provideUtility(self.task(**{name: value}), name='odd')
                    with self.assertRaisesRegex(TaskError, f"task 'odd' cannot be run: its {name}, "):
                        self.service.add('odd', now=0)
                    # Nor is it run by mistake, in a thread, or for ever, when it was added before.
                    self.service.process(0)
                    self.assertIn(f"its {name}, ", self.service.getError(jobid))
                    self.service.clean()

    def test_none_is_the_default(self):
        provideUtility(self.task(timeLimit=None, memoryLimit=None, isolation=None, retryPolicy=None), name='odd')
        jobid = self.service.add('odd', now=0)
        self.service.process(0)
        self.assertEqual(self.service.getResult(jobid), 'done')

    def test_limit_and_policy(self):
        claim = Claim(1, 0, 1, 'odd', None)
        policy = RetryPolicy(attempts=1, base=0)
        for task, limit in ((None, None), (self.task(), None), (self.task(timeLimit=5), 5),
                            (self.task(timeLimit=0), None)):
            self.assertEqual(tasks.limitOf(claim, task), limit)
            self.assertEqual(tasks.limitOf(claim._replace(timeLimit=0.5), task), 0.5)
            self.assertIs(tasks.policyOf(claim, task), DEFAULT)
            self.assertIs(tasks.policyOf(claim._replace(retryPolicy=policy), task), policy)
        self.assertIs(tasks.policyOf(claim, self.task(retryPolicy=policy)), policy)
        self.assertIs(tasks.policyOf(claim, self.task(retryPolicy=())), DEFAULT)

    def test_retry(self):
        self.assertEqual(Retry(after=0).after, 0)
        self.assertEqual(DEFAULT.decide(1, Retry(after=0)), 0)
        for after in (*NO_NUMBERS, -1):
            with self.assertRaisesRegex(ValueError, '^after: '):
                Retry(after)

    def test_policy(self):
        self.assertEqual(RetryPolicy(base=0).decide(3, OSError()), 0)
        self.assertEqual(RetryPolicy(cap=0).decide(3, OSError()), 0)
        self.assertIsNone(RetryPolicy(retryOn=()).decide(1, OSError()))
        self.assertIsNone(RetryPolicy(attempts=1).decide(1, OSError()))
        self.assertEqual(RetryPolicy(attempts=2 ** 31 - 1, factor=1000, cap=9, jitter=0).decide(2 ** 30, OSError()), 9)
        for name, values in (('attempts', (0, -1, 1.0, 2 ** 31)), ('base', (-1,)), ('factor', (0, 0.5)), ('cap', (-1,)),
                             ('jitter', (-0.1, 1.1)), ('retryOn', (None, OSError, [OSError], (OSError(),)))):
            for value in (*values, *(NO_NUMBERS if name != 'retryOn' else ())):
                with self.subTest(name, value=type(value)), self.assertRaisesRegex(ValueError, f'^{name}: ') as caught:
                    RetryPolicy(**{name: value})
                self.assertLess(len(str(caught.exception)), 200)

    def test_command(self):
        self.assertEqual(CommandTask('true', text='').fields, ())
        self.assertEqual(CommandTask('true', timeout=INF).timeout, INF)
        for timeout in (0, -1, *(value for value in NO_NUMBERS if value != INF)):
            with self.assertRaisesRegex(ValueError, 'timeout must be more than 0'):
                CommandTask('true', timeout=timeout)
        for arguments, reason in ((('',), 'command is empty'), (("''",), 'program is empty'),
                                  (('true', ''), 'directory is empty'), (('true', None, 'x'), "text names 'x'")):
            with self.assertRaisesRegex(ValueError, reason):
                CommandTask(*arguments)
        for input in 0, False, '', [], {'': 1}:
            with self.assertRaises(InvalidInput):
                CommandTask('true').checkInput(input)
        for value in '', None, False, [], NAN:
            with self.assertRaises(InvalidInput):
                CommandTask('cat {name}', '/tmp').checkInput({'name': value})
        CommandTask('head -n {count}').checkInput({'count': 0})
        CommandTask('echo {word}').checkInput({'word': ''})


class TestProcessor(ProcessorCase):

    def test_refused(self):
        for name, values in (('waitTime', (-1, None, *NO_NUMBERS)), ('maxThreads', (-1, 0.5, None, 1001, *NO_NUMBERS)),
                             ('lease', (0, -1, None, *NO_NUMBERS)), ('name', ('', 0, False, b'x')),
                             ('keep', ({'queued': 1}, {'completed': -1}, {'completed': NAN}, {'error': False}))):
            for value in values:
                with self.subTest(name, value=type(value)), self.assertRaisesRegex(ValueError, f'^{name}'):
                    MultiProcessor(self.db, PATH, **{name: value})

    def test_no_wait_time(self):
        # As few as make sense: an idle processor does not keep a core busy.
        one = MultiProcessor(self.db, PATH, waitTime=0)
        self.assertEqual((one.waitTime, one.loop.idleTime()), (0, claimloop.LEAST_WAIT))

    def test_it_tells_when_the_database_is_away_for_long_and_when_it_is_back(self):
        moments, isBack = [0.0], threading.Event()
        host = self.start(monotonic=lambda: moments[-1])
        iterate = host.cycle.iterate
        failures = iter([ClientDisconnected('not for long'), ValueError('a fault'), ClientDisconnected()])

        def fail(work):
            if (error := next(failures, None)) is not None:
                moments.append(moments[-1] + 0.6 * claimloop.LONG_AWAY)
                raise error
            if host.loop.failures == 0:
                isBack.set()
            return iterate(work)

        with self.assertLogs('lovely.remotetask', 'INFO') as caught:
            with unittest.mock.patch.object(host.cycle, 'iterate', fail):
                waitUntil(lambda: host._wakeup.set() or isBack.is_set())
        said = [record.getMessage() for record in caught.records if getattr(record, 'event', '').startswith('database')]
        self.assertEqual(said, [f'processing host {host.name} waits for the database: ClientDisconnected',
                                f'processing host {host.name} has the database again'])

    def test_it_does_not_tell_that_the_database_is_away_for_a_moment(self):
        loop = MultiProcessor(self.db, PATH).loop
        loop.failures, loop._failingSince = 10, loop.monotonic()
        with self.assertNoLogs('lovely.remotetask', 'INFO'):
            loop._tellFailure(ClientDisconnected())
            loop._noteSuccess()

    def test_no_threads(self):
        # It only schedules.
        self.provide('echo', lambda input: input)
        jobid = self.add('echo')
        self.start(maxThreads=0)
        self.assertEqual(self.statuses(jobid, until=('queued',)), ['queued'])

    def test_keep_nothing(self):
        # Jobs in a status that is kept for 0 seconds are removed as soon as somebody looks.
        self.provide('echo', lambda input: input)
        self.provide('fail', lambda input: 1 / 0)
        failed, jobid = self.add('fail', retryPolicy=RetryPolicy(attempts=1)), self.add('echo')
        for _ in range(2):
            self.assertTrue(MultiProcessor(self.db, PATH).processNext())
        self.start(keep={'completed': 0})
        waitUntil(lambda: self.manager.begin() and jobid not in self.service.jobs)
        self.assertEqual(self.service.getStatus(failed), 'error')

    def test_stop_at_once(self):
        begun, end = threading.Event(), threading.Event()
        self.addCleanup(end.set)
        self.provide('wait', lambda input: (begun.set(), end.wait(PATIENCE)))
        one = self.start(maxThreads=1)
        jobid = self.add('wait')
        self.assertTrue(begun.wait(PATIENCE))
        self.assertTrue(one.stop(0))
        self.manager.begin()
        self.assertEqual(self.service.getStatus(jobid), 'queued')

    def test_the_name_of_the_first_releases(self):
        self.assertGreater(processor.THREAD_STARTUP_WAIT, 0)


class TestConfiguration(unittest.TestCase):

    level = 2

    def setUp(self):
        directory = self.enterContext(tempfile.TemporaryDirectory())
        self.addCleanup(products.setProductConfigurations, {})
        self.path = pathlib.Path(directory) / 'remotetask.conf'

    def load(self, section, line):
        self.path.write_text(f'<{section}>\n{line}\n</{section}>\n<zodb>\n<mappingstorage>\n</mappingstorage>\n</zodb>\n')
        return config.load(self.path)

    def test_taken(self):
        for section, line, attribute, value in (
                ('processor', 'grace-period 0', 'gracePeriod', 0),          # at once
                ('processor', 'pack-keep 0s', 'packKeep', 0),               # nothing
                ('processor', 'schedule off', 'schedule', False),
                ('frontend', 'address 0', 'address', ('127.0.0.1', 0)),     # any free port
                ('frontend', 'allow-insecure off', 'allowInsecure', False)):
            with self.subTest(line):
                self.assertEqual(getattr(getattr(self.load(section, line), section), attribute), value)

    def test_refused(self):
        for section, lines in (
                ('processor', ('threads 0', 'threads -1', 'threads', 'lease 0', 'lease 0.5', 'wait-time 0', 'wait-time',
                               'keep-completed 0', 'keep-error 0', 'keep-cancelled 0', 'pack-interval 0', 'name',
                               'grace-period -1', 'grace-period nan', 'grace-period inf', f'lease {"9" * 400}',
                               'keep-completed 99999999d', 'grace-period', 'schedule')),
                ('frontend', ('max-body-size 0', 'max-body-size', 'max-connections 0', 'max-waiting 0', 'deadline 0',
                              'request-timeout 0', 'idle-timeout 0', 'users', 'certificate', 'address', 'deadline inf',
                              'users a\0b'))):
            for line in lines:
                with self.subTest(line[:40]), self.assertRaises(ConfigurationError) as caught:
                    self.load(section, line)
                self.assertRegex(str(caught.exception), r'^\S+, line [23]: .+')
                self.assertLess(len(str(caught.exception)), 400)

    def test_no_autostart(self):
        for text in '', ' ', ',', ' , ,':
            self.assertEqual(splitPatterns(text), [])
        self.path.write_text('<product-config lovely.remotetask>\nautostart\n</product-config>\n'
                             '<zodb>\n<mappingstorage>\n</mappingstorage>\n</zodb>\n')
        self.assertEqual(config.load(self.path).product('lovely.remotetask'), {'autostart': ''})
        self.assertEqual(getAutostartServiceNames(), [])

    def test_an_empty_file_of_users(self):
        # Nobody may call; that is not the same as no file, where everybody may.
        path = self.path.with_name('users')
        path.write_text('')
        os.chmod(path, 0o600)
        self.assertEqual(readUsers(path), {})
        with self.assertLogs('lovely.remotetask', 'WARNING'), self.assertRaises(access.Unauthorized):
            Authenticator(readUsers(path)).authenticate(None, '192.0.2.1')


class TestXmlRpc(ServiceCase):

    def test_taken(self):
        jobid = call(self.service, 'add', 'echo', 0)
        for name, arguments, expected in (
                ('waitFor', ([], 0), []), ('waitFor', ([jobid], 0), ['queued']),
                ('waitFor', ([jobid], 0.0), ['queued']),
                ('getJobs', (None, 0, 0), None), ('clean', ([],), 0), ('cleanSome', ([], 5), 0), ('addMany', ([],), []),
                ('retryFailed', ('',), 0)):
            with self.subTest(name, arguments=arguments):
                answer = call(self.service, name, *arguments)
                self.assertEqual(answer['jobs'] if name == 'getJobs' else answer, [] if name == 'getJobs' else expected)
        self.service.process(0)
        self.assertEqual(call(self.service, 'getResult', jobid), 0)
        self.assertEqual(call(self.service, 'getJob', jobid)['started'], 0)

    def test_refused(self):
        jobid = call(self.service, 'add', 'echo', '')
        for name, arguments, argument in (
                ('add', ('echo', None, None, {'key': ''}), 'key'),
                ('add', ('echo', None, None, {'timeLimit': 0}), 'timeLimit'),
                ('add', ('echo', None, None, {'timeLimit': False}), 'timeLimit'),
                ('add', ('echo', None, None, {'': 1}), "''"),
                ('add', ('echo', None, None, {'retryPolicy': {'attempts': 0}}), 'attempts'),
                ('add', ('echo', None, None, {'retryPolicy': {'attempts': True}}), 'attempts'),
                ('add', ('echo', None, None, {'retryPolicy': False}), 'retryPolicy'),
                ('add', ('echo', None, None, {'retryPolicy': ''}), 'retryPolicy'),
                ('add', ('echo', None, 0), 'startLater'),
                ('addMany', ([{'task': 'echo', 'startLater': 0}],), 'startLater'),
                ('addMany', ([{'task': 'echo', 'key': ''}],), 'key'), ('addMany', ({},), 'jobs'),
                ('addMany', ('',), 'jobs'),
                ('cleanSome', (['error'], 0), 'limit'), ('cleanSome', (['error'], -1), 'limit'),
                ('clean', ([''],), "''"),
                ('clean', ('',), 'status'), ('getJobs', ('',), "''"), ('getJobs', (None, -1), 'start'),
                ('getJobs', (None, 0, -1), 'size'), ('getJobs', (None, 0, True), 'size'),
                ('waitFor', ([jobid], -1), 'timeout'),
                ('waitFor', ([jobid], True), 'timeout'), ('waitFor', ([jobid], 3601), 'timeout'),
                ('waitFor', ([True],), 'jobids'), ('waitFor', ('',), 'jobids'), ('getResultPart', (jobid, -1), 'start'),
                ('getResultPart', (jobid, 0.5), 'start'), ('getResultPart', (jobid, 0, 0), 'size'),
                ('retryFailed', (0,), 'task'), ('cancel', (False,), 'jobid'), ('methodHelp', (0,), 'name')):
            with self.subTest(name, arguments=arguments), self.assertRaisesRegex(BadArguments, argument):
                call(self.service, name, *arguments)
        self.assertEqual(len(self.service.jobs), 1)
        self.assertEqual(calls.WAITING_TIME, 3600)


class TestClient(ServerCase):

    def test_timeouts(self):
        client = Client(f'http://127.0.0.1:{self.frontend.address[1]}/')
        self.addCleanup(client.close)
        jobid = client.add('echo', 0)
        # 0 is a look.
        self.assertEqual(client.waitFor([jobid], 0), ['queued'])
        for wait in lambda timeout: client.wait(jobid, timeout), lambda timeout: list(client.results([jobid], timeout)):
            with self.assertRaisesRegex(StillRunning, 'after 0 seconds'):
                wait(0)
            for timeout in (-1, *(value for value in NO_NUMBERS if value not in (INF, HUGE, DIGITS))):
                with self.assertRaisesRegex(BadArguments, '^timeout: '):
                    wait(timeout)
        self.assertEqual(list(client.results([], 0)), [])
        for timeout in (-1, None, *(value for value in NO_NUMBERS if value not in (INF, HUGE, DIGITS))):
            with self.assertRaisesRegex(BadArguments, '^timeout: '):
                client.waitFor([jobid], timeout)
        client.cancel(jobid)
        for timeout in INF, HUGE, DIGITS:
            self.assertEqual(len(list(client.results([jobid], timeout))), 1)
            self.assertEqual(client.waitFor([jobid], timeout), ['cancelled'])
        for timeout in (0, -1, None, *NO_NUMBERS):
            with self.assertRaisesRegex(ValueError, '^timeout: '):
                Client('http://127.0.0.1/', timeout)

    def test_other_arguments(self):
        client = Client(f'http://127.0.0.1:{self.frontend.address[1]}/')
        self.addCleanup(client.close)
        jobid = client.add('echo', 0)
        for key in '', 0, False:
            with self.assertRaisesRegex(BadArguments, 'key: '):
                client.add('echo', key=key)
            with self.assertRaisesRegex(BadArguments, 'key: '):
                client.addMany([{'task': 'echo', 'key': key}])
        with self.assertRaisesRegex(BadArguments, 'timeLimit: 0 '):
            client.add('echo', timeLimit=0)
        for jobs in ['x'], [None], [0], [[]]:
            with self.assertRaisesRegex(BadArguments, r'addMany: jobs\[0\]: a dict is needed'):
                client.addMany(jobs)
        self.assertEqual(client.addMany([]), [])
        self.assertEqual(client.retryFailed(''), 0)
        client.cancel(jobid)
        self.assertEqual((client.clean([]), client.cleanSome(())), (0, 0))
        with self.assertRaisesRegex(BadArguments, 'limit'):
            client.cleanSome(limit=0)
        self.assertEqual(client.getJobs(size=0)['jobs'], [])
        with self.assertRaisesRegex(BadArguments, "'' is none of"):
            client.getJobs('')
        self.assertEqual(client.clean('cancelled'), 1)


class TestCommandLine(ServerCase, CommandTestCase):

    def setUp(self):
        super().setUp()
        self.url = f'http://127.0.0.1:{self.frontend.address[1]}/'

    def test_taken(self):
        code, output, errors = self.remotetask('add', 'echo', '0')
        self.assertEqual((code, errors), (0, ''))
        jobid = output.strip()
        self.assertEqual(self.remotetask('jobs', '--start', '0')[0], 0)
        self.assertEqual(self.remotetask('retry', '--task', '')[:2], (0, '0\n'))
        # To wait for no time is to look once.
        code, _, errors = self.remotetask('add', 'echo', '--wait', '--timeout', '0')
        self.assertEqual(code, 1)
        self.assertRegex(errors, 'is still queued after 0 seconds')
        self.assertEqual(self.remotetask('cancel', jobid)[0], 0)

    def test_refused(self):
        for arguments, reason in (
                (('add', 'echo', '--key', ''), 'key: '), (('add', 'echo', '--time-limit', '0'), '--time-limit'),
                (('add', 'echo', ''), 'not JSON'), (('add', ''), "task '' is not registered"),
                (('add', 'echo', '--answer-timeout', '0'), '--answer-timeout'), (('jobs', '--size', '0'), '--size'),
                (('jobs', '--status', ''), '--status'), (('status', '0'), 'ID'),
                (('clean', '--status', ''), '--status'),
                (('add', 'echo', '--wait', '--timeout', '-1'), '--timeout'),
                (('add', 'echo', '--wait', '--timeout', 'nan'), '--timeout')):
            with self.subTest(arguments=arguments):
                self.fails(2, reason, *arguments)

    def test_of_the_servers(self):
        self.url = None
        for arguments, reason in (
                (('-C', '', 'pack'), 'cannot read the configuration file'), (('pack', '--days', '-1'), '--days'),
                (('pack', '--days', 'nan'), '--days'), (('bench', '--seconds', 'nan'), '--seconds'),
                (('bench', '--hosts', ''), '--hosts'),
                (('bench', '--jobs', '0'), '--jobs'), (('bench', '--compare', ''), 'No such file'),
                (('user', 'add', '', '--file', ''), "'' is not a name")):
            with self.subTest(arguments=arguments):
                code, _, errors = self.remotetask(*arguments)
                self.assertNotEqual(code, 0)
                self.assertIn(reason, errors)


class TestControl(unittest.TestCase):

    def test_report(self):
        control = Control(1)
        control.report(0, '')
        self.assertEqual(control.progress, (0.0, ''))
        control.report(None)
        self.assertEqual(control.progress, (None, ''))


if __name__ == '__main__':
    unittest.main()
