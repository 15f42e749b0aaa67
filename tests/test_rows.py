"""Jobs as rows: how often one is written, what a row keeps, and how large it is."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import enum
import io
import pickle
import sys
import tempfile
import types
import unittest
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from ZODB.FileStorage import FileStorage
from ZODB.serialize import referencesf
from ZODB.utils import get_pickle_metadata
from zope.component import provideUtility
from zope.component import testing as component

from lovely.remotetask.encoding import rows
from lovely.remotetask.encoding.rows import BESIDE
from lovely.remotetask.encoding.rows import VALUE_LIMIT
from lovely.remotetask.errors import Retry
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import STARTLATER
from lovely.remotetask.job import CronJob
from lovely.remotetask.job import Failure
from lovely.remotetask.job import Job
from lovely.remotetask.job import Run
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.schedules.fields import RANGES
from lovely.remotetask.service import TaskService
from lovely.remotetask.task import SimpleTask
from processorcase import PATH
from processorcase import ProcessorCase
from rowcase import LARGE
from rowcase import ROWS
from rowcase import Point
from rowcase import User
from rowcase import prove


class TestWrites(unittest.TestCase):
    """How often a row is written: each time it is packed anew."""

    def test_a_job_is_added_and_ended_by_one_write_each(self):
        provideUtility(SimpleTask(lambda input: input), name='echo')
        self.addCleanup(component.tearDown)
        service = TaskService()
        jobid = service.add('echo', {'film': 'Metropolis'}, retryPolicy=RetryPolicy(attempts=2), timeLimit=5,
                            request='r1', now=1)
        job = service.jobs[jobid]
        self.assertEqual((job.row.writes, job.timeLimit, job.request, job.retryPolicy.attempts), (0, 5, 'r1', 2))
        service.process(2)
        self.assertEqual((job.row.writes, job.status, job.request), (1, 'completed', 'r1'))

    def test_a_schedule_is_changed_by_one_write(self):
        job = CronJob(1, 'echo', None, minute=(1,), newJobs=True)
        self.assertLessEqual(job.row.writes, 3)
        before = job.row.writes
        job.adopt(job.changed(crontab='0 3 * * *', timeZone='Asia/Tokyo', overlap=True))
        self.assertEqual((job.row.writes, job.hour, job.overlap, job.timeZone), (before + 1, (3,), True, 'Asia/Tokyo'))
        job.update(delay=60)
        self.assertEqual((job.row.writes, job.hour, job.delay, job.status), (before + 2, (), 60, 'cronjob'))
        with self.assertRaises(ValueError):
            job.update(delay=60, minute=(1,))
        self.assertEqual(job.row.writes, before + 2)


class Colour(enum.StrEnum):

    RED = 'red'


class Number(enum.IntEnum):

    SEVEN = 7


class Seconds(float):
    """As numbers of other packages are."""


# What there may be in jobs.
times, text = st.floats(0, 4e9), st.text(max_size=60)
atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text | st.binary(max_size=60) | \
    st.datetimes() | st.timedeltas()
plain = st.recursive(atoms, lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner)
                     | st.dictionaries(text, inner, max_size=4), max_leaves=12)
sizes = st.integers(VALUE_LIMIT - 40, VALUE_LIMIT + 40) | st.integers(0, 70_000)
objects = st.builds(Point, atoms, atoms) | st.sampled_from([Colour.RED, Number.SEVEN, Seconds(1.5), OSError]) | st.sets(
    st.fractions(), max_size=3)
values = plain | objects | sizes.map(lambda size: 'x' * size) | sizes.map(bytes) | \
    st.integers(0, 300).map(lambda size: list(range(size))) | st.tuples(plain, objects)
failures = st.builds(Failure, times, text, st.integers(0, 9000).map(lambda size: 'line\n' * (size // 5)), text)
policies = st.builds(
    RetryPolicy, attempts=st.integers(1, 9), base=st.floats(0, 60), jitter=st.floats(0, 1),
    retryOn=st.lists(st.sampled_from([OSError, KeyError, Retry, Point.Missed]), max_size=3).map(tuple))

attributes = {
    'task': text, 'created': times, 'status': st.sampled_from([QUEUED, STARTLATER]),
    'input': values, 'output': values, 'errors': st.lists(failures, max_size=10).map(tuple),
    'started': st.none() | times, 'completed': st.none() | times, 'error': st.none() | text,
    'failedAttempts': st.integers(0, 99), 'run': st.integers(0, 2 ** 31 - 1),
    'retryAt': st.none() | times, 'schedule': st.none() | st.integers(1, 2 ** 31 - 1), 'suspect': st.integers(1, 1000),
    'timeLimit': st.none() | st.floats(0.1, 1e8), 'request': st.none() | text, 'retryPolicy': st.none() | policies}
ofCronJobs = {
    'status': st.sampled_from([QUEUED, DELAYED, CRONJOB]),
    **{name: st.lists(st.integers(*limits), max_size=5).map(tuple) for name, limits in RANGES.items()},
    **dict.fromkeys(('eitherDay', 'newJobs', 'overlap', 'active', 'pending'), st.booleans()),
    'delay': st.none() | st.floats(0.1, 1e6), 'crontab': st.none() | text,
    'timeZone': st.none() | st.just('Europe/Berlin'), 'misfire': st.sampled_from(['once', 'skip', 1, 99]),
    'due': st.none() | st.integers(0, 2 ** 52), 'calledFor': st.none() | times,
    'lastJob': st.none() | st.integers(1, 2 ** 31 - 1),
    'history': st.lists(st.builds(Run, st.none() | times, st.integers(1, 99), st.none() | text, times, times, text),
                        max_size=10).map(tuple)}


def some(attributes):
    """Return a strategy for dicts with some of the attributes."""
    return st.fixed_dictionaries({}, optional=attributes)


class TestRoundTrip(ProcessorCase):
    """What is set on a job is what others read."""

    level = 2

    storageFactory = staticmethod(lambda path: FileStorage(path, blob_dir=f'{path}.blobs'))

    def setUp(self):
        super().setUp()
        self.pages = self.service.shards[0].pages
        self.user = User(self, self.db)
        self.number = 0

    def reloaded(self, jobid):
        """Return the job as it is in another connection that has nothing in memory."""
        self.manager.commit()
        self.user.begin()
        self.user.connection.cacheMinimize()
        return self.user.service.jobs[jobid]

    def check(self, kind, *changes):
        """Make a job, set attributes before and after it is stored, and have another one read them."""
        self.number += 1
        job, expected = kind(self.number, 'echo', None), {}
        names = {**attributes, **(ofCronJobs if kind is CronJob else {})}
        for step, change in enumerate(changes):
            if step == 1:
                job.store(self.pages)
                job = self.service.jobs[job.id]
            for name, value in change.items():
                setattr(job, name, value)
            expected.update(change)
            found = job if step == 0 else self.reloaded(job.id)
            self.assertIs(type(found), kind)
            for name in names:
                value = getattr(found, name)
                if name in expected:
                    self.assertEqual(value, expected[name], name)
                    self.assertFalse(isinstance(value, bool) and not isinstance(expected[name], bool), name)
                else:
                    self.assertEqual(value, getattr(kind(self.number, 'echo', None), name), name)
            self.assertFalse(found.row.more == {}, 'an empty dict is stored for nothing')

    @prove
    @given(some(attributes), some(attributes), some(attributes))
    def test_jobs(self, before, then, later):
        self.check(Job, before, then, later)

    @prove
    @given(*[some({**attributes, **ofCronJobs})] * 3)
    def test_cron_jobs(self, before, then, later):
        self.check(CronJob, before, then, later)

    def test_what_stands_in_the_row(self):
        job = Job(ROWS, 'echo', None)
        job.store(self.pages)
        job = self.service.jobs[ROWS]
        spare = VALUE_LIMIT - len(rows.encode('x' * 500)) + 500
        long = [Failure(1.0, 'no', 'x' * 4000, 'host')] * 10
        for name, value, beside in (
                ('output', 'x' * spare, False), ('output', 'x' * (spare + 1), True), ('output', 'short', False),
                ('output', None, False), ('output', Point(1, 2), True), ('output', [Colour.RED], True),
                ('input', b'x' * 500, False), ('input', bytes(VALUE_LIMIT), True), ('input', 'x' * 100_000, True),
                ('errors', long[:1], True), ('errors', long, True), ('errors', [Failure(1.0, 'no')], False)):
            with self.subTest(name, value=f'{value!r:.40}'):
                setattr(job, name, value)
                found = self.reloaded(ROWS)
                self.assertEqual(getattr(found, name), tuple(value) if name == 'errors' else value)
                self.assertIs(getattr(found.row, name) is BESIDE, beside)
                self.assertLess(len(self.pages.get(ROWS)), 3 * VALUE_LIMIT)

    def test_what_is_set_before_it_is_stored(self):
        large = 'x' * 100_000
        for name, value in (('input', large), ('input', [large]), ('output', large), ('output', Point(1, large)),
                            ('errors', (Failure(1.0, 'no', large),) * 3)):
            with self.subTest(name, value=f'{value!r:.20}'):
                self.number += 1
                job = Job(self.number, 'echo', None)
                setattr(job, name, value)
                self.assertEqual(getattr(job, name), value)
                job.store(self.pages)
                self.assertEqual(getattr(self.reloaded(job.id), name), value)

    def test_subclasses_of_texts_and_numbers(self):
        # Such a class may be missing where the row is read, so none is stored; it was asked for by its value.
        provideUtility(SimpleTask(lambda input: input), name='red')
        service = self.service
        jobid = service.add(Colour.RED, request=Colour.RED, timeLimit=Seconds(5), now=Seconds(100))
        cron = service.addCronJob(Colour.RED, minute=[Number.SEVEN], now=Number.SEVEN)
        found = self.reloaded(jobid)
        for value, expected in ((found.task, 'red'), (found.request, 'red'), (found.timeLimit, 5.0),
                                (found.created, 100.0), (service.jobs[cron].minute, (7,)),
                                (service.jobs[cron].created, 7)):
            self.assertEqual((value, type(value) in (str, float, int, tuple)), (expected, True))
        for jobid in jobid, cron:
            self.assertNotIn(b'test_rows', service.shards[jobid >> 27].pages.get(jobid))
        service.process(101.0)
        self.assertEqual(service.getStatus(found.id), COMPLETED)

    def test_what_no_row_can_hold(self):
        job = Job(ROWS, 'echo', 1)
        job.store(self.pages)
        job, before = self.service.jobs[ROWS], self.pages.get(ROWS)
        for name, value in (('task', None), ('task', b'echo'), ('created', 'now'), ('created', None), ('status', 3),
                            ('error', OSError('x')), ('failedAttempts', 1.5), ('run', 'x'), ('started', ())):
            with self.subTest(name, value=value):
                with self.assertRaisesRegex(ValueError, name):
                    setattr(job, name, value)
                self.assertEqual(self.pages.get(ROWS), before)
        for arguments in (None, 1), ('echo', 1, 'now'):
            with self.assertRaises(ValueError):
                Job(1, *arguments)

    # Retry policies that name classes

    @contextlib.contextmanager
    def application(self):
        """Have a module of an application; give it and a function that replaces it by a text, or, for None, removes it.
        """
        with tempfile.TemporaryDirectory() as directory, mock.patch.object(sys, 'path', [directory, *sys.path]), \
                mock.patch.dict(sys.modules):
            module = sys.modules['application'] = types.ModuleType('application')
            exec(APPLICATION, vars(module))

            def replace(text):
                del sys.modules['application']
                if text is not None:
                    with open(f'{directory}/application.py', 'w') as file:
                        file.write(text)

            yield module, replace

    def test_retry_policies_with_classes_that_are_missing(self):
        for text in None, 'x = 1', 'import no.such.module', 'raise OSError("no disk")', 'x =':
            for nested in False, True:
                with self.subTest(text, nested=nested), self.application() as (module, replace):
                    error = module.Client.Failed if nested else module.Failed
                    policy = RetryPolicy(3, base=0, retryOn=(error, OSError))
                    errors = self.failing(policy, lambda: replace(text), error)
                    self.assertEqual(errors, ['Failed: once'])              # not retried: it matches no class
                    self.assertEqual((self.policy.attempts, self.policy.decide(1, OSError())), (3, 0))

    def test_retry_policies_of_a_class_that_is_missing(self):
        with self.application() as (module, replace):
            errors = self.failing(module.Policy(9, base=0), lambda: replace(None), OSError)
            self.assertEqual(len(errors), 4)                                # as for any job without one
            self.assertIs(self.policy, None)

    def failing(self, policy, lose, error):
        """Run a job with a policy that was stored before something was lost, until it ends; return its errors."""
        def fail(input):
            raise error('once')

        self.provide('fail', fail)
        jobid = self.service.add('fail', retryPolicy=policy)
        self.manager.commit()
        self.connection.cacheMinimize()
        lose()
        self.policy = self.reloaded(jobid).retryPolicy
        with self.assertLogs('lovely.remotetask'):
            for now in range(10):
                self.service.process(now)
        self.assertEqual(self.service.jobs[jobid].status, ERROR)
        return [str(failure) for failure in self.service.jobs[jobid].errors]

    def test_retry_policies_with_classes_in_classes(self):
        self.provide('echo', lambda input: input)
        jobid = self.service.add('echo', retryPolicy=RetryPolicy(base=1, jitter=0, retryOn=(Point.Missed,)))
        policy = self.reloaded(jobid).retryPolicy
        self.assertEqual(policy.retryOn, (Point.Missed,))
        self.assertEqual((policy.decide(1, Point.Missed()), policy.decide(1, OSError())), (1, None))


#: A module of an application.
APPLICATION = """\
from lovely.remotetask.retry import RetryPolicy


class Failed(Exception):
    pass


class Client:

    class Failed(Exception):
        pass


class Policy(RetryPolicy):
    pass
"""


class TestSizes(ProcessorCase):
    """What is written to the database for a job: this is what the server's time, and packing, grow with."""

    level = 2

    batch, batches = 500, 4

    def setUp(self):
        super().setUp()
        self.provide('echo', lambda input: input)

    @contextlib.contextmanager
    def written(self):
        """Give a list, to which at the end the records are added that were stored: pairs of class and bytes."""
        before, records = self.db.lastTransaction(), []
        yield records
        for txn in self.db.storage.iterator():
            if txn.tid > before:
                records += [(get_pickle_metadata(record.data)[1], record.data) for record in txn if record.data]

    def assertPerJob(self, records, jobs, most, bytes):
        """Have no more records and bytes been written for each job than these."""
        self.assertLess(len(records) / jobs, most, collections.Counter(name for name, _ in records))
        self.assertLess(sum(len(data) for _, data in records) / jobs, bytes)

    def host(self):
        host = MultiProcessor(self.db, PATH, name='host')
        host._attach()
        self.addCleanup(host.cycle.close)
        host.cycle.iterate(Work())              # it comes to be the scheduler
        return host

    def test_many(self):
        jobs = self.batch * self.batches
        with self.written() as records:
            for number in range(self.batches):
                self.service.addMany([{'task': 'echo', 'input': number}] * self.batch)
                self.manager.commit()
        self.assertPerJob(records, jobs, 0.1, 150)
        added, host = records, self.host()
        with self.written() as records, contextlib.closing(host._worker()) as worker:
            claims = host.cycle.iterate(Work(want=self.batch)).claims
            while claims:
                claims = host.cycle.iterate(Work([worker.run(claim) for claim in claims], self.batch)).claims
        self.manager.begin()
        self.assertEqual(self.service.countJobs()[COMPLETED], jobs)
        self.assertPerJob(added + records, jobs, 0.2, 300)

    def test_one_alone(self):
        # Each job writes its page two times, and the page grows: what counts is the mean of those that fill one.
        host = self.host()
        with self.written() as records, contextlib.closing(host._worker()) as worker:
            for number in range(ROWS):
                self.service._v_nextid = ROWS + number
                self.add('echo', {'number': number})
                claims = host.cycle.iterate(Work(want=1)).claims
                host.cycle.iterate(Work([worker.run(claim) for claim in claims]))
                self.manager.begin()
        self.assertEqual(self.service.countJobs()[COMPLETED], ROWS)
        self.assertPerJob(records, ROWS, 10, 5000)

    def test_nothing_but_bytes_in_a_page(self):
        self.provide('fail', lambda input: 1 / 0, retryPolicy=RetryPolicy(attempts=9))
        for input in 1, LARGE, Point(1, 2), None:
            self.service.add('echo', input, retryPolicy=RetryPolicy(), request='x', timeLimit=3.0)
            self.service.addCronJob('echo', input, delay=1, now=0)
            self.service.addCronJob('echo', input, minute=(1,), newJobs=True, now=0)
        for _ in range(9):
            self.service.add('fail')
        self.manager.commit()
        with self.written() as records, self.assertLogs('lovely.remotetask'):
            for now in range(0, 400, 20):
                self.service.process(now)
                for job in self.service.jobs.values():
                    job.touch()
                self.manager.commit()
        pages = [data for name, data in records if name == 'IOBucket']
        self.assertGreater(len(pages), 50)
        for data in pages:
            self.assertEqual(referencesf(data), [])
            file = io.BytesIO(data)
            pickle.load(file)                       # the class, and then the state
            (values, *_) = pickle.load(file)
            self.assertLessEqual({type(value) for value in values[1::2]}, {bytes})


if __name__ == '__main__':
    unittest.main()
