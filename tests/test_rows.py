"""Jobs as rows: what the database merges and what it refuses, late owners, undo, views, broken rows, sizes."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import enum
import io
import itertools
import pickle
import random
import sys
import tempfile
import threading
import types
import unittest
import zlib
from unittest import mock

import transaction
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError
from ZODB.POSException import UndoError
from ZODB.serialize import referencesf
from ZODB.utils import get_pickle_metadata
from zope.component import provideUtility
from zope.component import testing as component
from zope.interface.verify import verifyObject

from lovely.remotetask import testing
from lovely.remotetask.encoding import rows
from lovely.remotetask.encoding.rows import BESIDE
from lovely.remotetask.encoding.rows import VALUE_LIMIT
from lovely.remotetask.errors import Retry
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.errors import WrongState
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import PROCESSING
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import STARTLATER
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.interfaces import ICronJob
from lovely.remotetask.interfaces import IJob
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.job import CronJob
from lovely.remotetask.job import Failure
from lovely.remotetask.job import Job
from lovely.remotetask.job import Run
from lovely.remotetask.processing import rescue
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.schedules.fields import RANGES
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import install
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import cleanup
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.storage.pages import PAGE_BITS
from lovely.remotetask.storage.transitions import Outcome
from lovely.remotetask.task import SimpleTask
from test_processor import PATH
from test_processor import ProcessorCase
from test_processor import claimOne
from test_processor import runClaim
from test_xmlrpc_gateway import inThread
from test_xmlrpc_server import WAIT
from test_xmlrpc_server import ServerCase


ROWS = 1 << PAGE_BITS

#: An output that has a record of its own.
LARGE = 'x' * (2 * VALUE_LIMIT)

prove = settings(max_examples=100, derandomize=True, database=None, deadline=None,
                 suppress_health_check=list(HealthCheck))


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


class User:
    """Somebody with a connection of his own, who sees the service as it was when his transaction began."""

    def __init__(self, test, db):
        self.manager = transaction.TransactionManager()
        connection = db.open(self.manager)
        test.addCleanup(connection.close)
        test.addCleanup(self.manager.abort)
        self.connection = connection
        self.begin()

    def begin(self):
        self.manager.begin()
        return self

    def commit(self):
        """Return whether the transaction could be committed."""
        try:
            self.manager.commit()
        except ConflictError:
            self.manager.abort()
            return False
        return True

    @property
    def service(self):
        return self.connection.root()['Application']['TaskService']

    # On the jobs of a page, by their places in it

    base = ROWS

    @property
    def pages(self):
        return self.service.shards[0].pages

    def job(self, place):
        return self.service.jobs[self.base + place]

    def add(self, *places):
        for place in places:
            Job(self.base + place, 'echo', place).store(self.pages)

    def end(self, place, output='done', status=COMPLETED):
        """Write an outcome as a processing host does."""
        job = self.job(place)
        outcome = Outcome(job.id, job.run, status, 1.0, 2.0, output)
        if status == ERROR:
            outcome = outcome._replace(output=None, failure=Failure(2.0, 'no'))
        transitions.record(self.service, job, outcome)

    def rescue(self, place):
        """Write what a rescuer writes."""
        self.job(place).change(run=self.job(place).run + 1, suspect=True)

    def retry(self, place):
        cleanup.reopen(self.service, self.job(place), 0)

    def remove(self, *places):
        for place in places:
            self.pages.remove(self.base + place)

    def found(self):
        """Return place -> status, number of runs that ended without ending the job, output."""
        jobs = self.service.jobs.values(self.base, self.base + 4 * ROWS - 1)
        return {job.id - self.base: (job.status, job.run, job.output) for job in jobs}


NEW, AGAIN, FAILED = (QUEUED, 0, None), (QUEUED, 1, None), (ERROR, 0, None)
DONE, BIG = (COMPLETED, 0, 'done'), (COMPLETED, 0, LARGE)


def three(user):
    user.add(1, 2, 3)


def threeLarge(user):
    user.add(1, 2, 3)
    for place in 1, 2, 3:
        user.end(place, LARGE)


def twoFailed(user):
    user.add(1, 2, 3)
    for place in 1, 2:
        user.end(place, status=ERROR)


def thereAndBack(user):
    """Change a row, and change it back, in two transactions."""
    for error in 'other', None:
        user.begin()
        user.job(2).change(error=error)
        user.commit()


def onlyOne(user):
    user.add(1)


# What is there; what two users do who both see that; whether the second may commit; what the jobs are then.
MERGES = {
    'outcomes of two rows': (
        three, lambda one: one.end(1), lambda two: two.end(2), True, {1: DONE, 2: DONE, 3: NEW}),
    'a late owner after the rescuer': (
        three, lambda one: one.rescue(2), lambda two: two.end(2), False, {1: NEW, 2: AGAIN, 3: NEW}),
    'a rescuer after the owner': (
        three, lambda one: one.end(2), lambda two: two.rescue(2), False, {1: NEW, 2: DONE, 3: NEW}),
    'the same outcome by two': (
        three, lambda one: one.end(2), lambda two: two.end(2), False, {1: NEW, 2: DONE, 3: NEW}),
    'touched by two': (
        three, lambda one: one.job(2).touch(), lambda two: two.job(2).touch(), False, {1: NEW, 2: NEW, 3: NEW}),
    'touched, and an outcome': (
        three, lambda one: one.job(2).touch(), lambda two: two.end(2), False, {1: NEW, 2: NEW, 3: NEW}),
    'an addition behind the last row, its outcome': (
        three, lambda one: one.add(4), lambda two: two.end(3), True, {1: NEW, 2: NEW, 3: DONE, 4: NEW}),
    'an outcome of the last row, an addition behind it': (
        three, lambda one: one.end(3), lambda two: two.add(4), True, {1: NEW, 2: NEW, 3: DONE, 4: NEW}),
    'two additions': (
        three, lambda one: one.add(4), lambda two: two.add(5), True, dict.fromkeys((1, 2, 3, 4, 5), NEW)),
    'two additions of one id': (
        three, lambda one: one.add(4), lambda two: two.add(4), False, dict.fromkeys((1, 2, 3, 4), NEW)),
    'two that make the same page': (
        three, lambda one: one.add(ROWS), lambda two: two.add(ROWS + 1), False, dict.fromkeys((1, 2, 3, ROWS), NEW)),
    'two that make different pages': (
        three, lambda one: one.add(ROWS), lambda two: two.add(2 * ROWS), True,
        dict.fromkeys((1, 2, 3, ROWS, 2 * ROWS), NEW)),
    'a page dropped, another one made': (
        three, lambda one: one.remove(1, 2, 3), lambda two: two.add(ROWS), True, {ROWS: NEW}),
    'a page dropped, an addition to it': (
        three, lambda one: one.remove(1, 2, 3), lambda two: two.add(4), False, {}),
    'an addition to a page, which is dropped': (
        three, lambda one: one.add(4), lambda two: two.remove(1, 2, 3), False, dict.fromkeys((1, 2, 3, 4), NEW)),
    'a page dropped, an outcome in it': (
        three, lambda one: one.remove(1, 2, 3), lambda two: two.end(2), False, {}),
    'an outcome in a page, which is dropped': (
        three, lambda one: one.end(2), lambda two: two.remove(1, 2, 3), False, {1: NEW, 2: DONE, 3: NEW}),
    'a page of one row dropped, an addition to it': (
        onlyOne, lambda one: one.remove(1), lambda two: two.add(2), False, {}),
    'the rest of a page removed by two, to whom it is not all': (
        lambda user: user.add(1, 2), lambda one: one.remove(1), lambda two: two.remove(2), False, {2: NEW}),
    'all rows but the first one removed, an addition': (
        three, lambda one: one.remove(2, 3), lambda two: two.add(4), True, {1: NEW, 4: NEW}),
    'a row removed, which is retried': (
        twoFailed, lambda one: one.remove(2), lambda two: two.retry(2), False, {1: FAILED, 3: NEW}),
    'a retry of a row, which is removed': (
        twoFailed, lambda one: one.retry(2), lambda two: two.remove(2), False, {1: FAILED, 2: AGAIN, 3: NEW}),
    'a row removed, an outcome of another': (
        three, lambda one: one.remove(2), lambda two: two.end(3), True, {1: NEW, 3: DONE}),
    'there and back, and a view of before': (
        three, thereAndBack, lambda two: two.end(2), False, {1: NEW, 2: NEW, 3: NEW}),
    'an output beside, an outcome of another': (
        three, lambda one: one.end(1, LARGE), lambda two: two.end(2), True, {1: BIG, 2: DONE, 3: NEW}),
    'an outcome, an output beside of another': (
        three, lambda one: one.end(1), lambda two: two.end(2, LARGE), True, {1: DONE, 2: BIG, 3: NEW}),
    'two outputs beside, where there are some': (
        threeLarge, lambda one: (one.add(4), one.end(4, LARGE)), lambda two: (two.add(5), two.end(5, LARGE)), True,
        dict.fromkeys((1, 2, 3, 4, 5), BIG)),
    'an output beside, for the late owner and the other': (
        three, lambda one: one.end(2, LARGE), lambda two: two.end(2, LARGE * 2), False, {1: NEW, 2: BIG, 3: NEW}),
    'two outputs beside replaced': (
        threeLarge, lambda one: one.end(1, LARGE * 2), lambda two: two.end(2, LARGE * 2), True,
        {1: (COMPLETED, 0, LARGE * 2), 2: (COMPLETED, 0, LARGE * 2), 3: BIG}),
    'an output beside replaced by two': (
        threeLarge, lambda one: one.end(2, LARGE * 2), lambda two: two.end(2, LARGE * 3), False,
        {1: BIG, 2: (COMPLETED, 0, LARGE * 2), 3: BIG}),
    'an output beside replaced, and one in the row': (
        threeLarge, lambda one: one.end(2, LARGE * 2), lambda two: two.end(2), False,
        {1: BIG, 2: (COMPLETED, 0, LARGE * 2), 3: BIG}),
    'an output beside removed, that of another replaced': (
        threeLarge, lambda one: one.remove(2), lambda two: two.end(3, LARGE * 2), True,
        {1: BIG, 3: (COMPLETED, 0, LARGE * 2)}),
}

# It is said above what these are; but whether they merge is the business of BTrees, as long as nothing is lost.
EITHER = {
    'the first row removed, an outcome of another': (
        three, lambda one: one.remove(1), lambda two: two.end(3), {2: NEW, 3: NEW}, {2: NEW, 3: DONE}),
    'all rows but one removed, an addition': (
        three, lambda one: one.remove(1, 2), lambda two: two.add(4), {3: NEW}, {3: NEW, 4: NEW}),
    'two outputs beside, the first ones of all': (
        three, lambda one: one.end(1, LARGE), lambda two: two.end(2, LARGE),
        {1: BIG, 2: NEW, 3: NEW}, {1: BIG, 2: BIG, 3: NEW}),
}

# The server has ZEO, BTrees and `zc.queue`, and nothing else of what is here.
BARE = """\
import os, sys
sys.path[:] = [path for path in sys.path if not os.path.exists(os.path.join(path, 'lovely'))]
try:
    import lovely.remotetask
except ImportError:
    print('bare', flush=True)
else:
    sys.exit('lovely.remotetask can be imported here')
sys.modules['uvloop'] = None
from ZEO.runzeo import main
main()
"""


class TestMerges(unittest.TestCase):
    """What a database server merges that knows nothing of jobs."""

    level = 2

    def setUp(self):
        with mock.patch.object(testing.TemporaryZEO, 'program', ('-c', BARE)):
            self.zeo = self.enterContext(testing.temporaryZEO())
        # Each transaction begins with all that has been committed until then.
        dbs = [DB(self.zeo.storage(server_sync=True)) for _ in range(4)]
        install(dbs[0])
        self.everybody = [User(self, db) for db in dbs]

    def users(self, count):
        """Return users on pages that nobody has used before."""
        for user in self.everybody:
            user.base += 4 * ROWS
            user.begin()
        return self.everybody[:count]

    def play(self, before, *steps):
        """Have each step done by somebody who sees the same; return what could be committed, and the jobs then."""
        *users, reader = self.users(len(steps) + 1)
        before(reader)
        self.assertTrue(reader.commit())
        for user in users:
            user.begin()
            user.found()                        # it has all in memory
        for user, step in zip(users, steps):
            step(user)
        return [user.commit() for user in users], reader.begin().found()

    def test_the_server_knows_nothing_of_jobs(self):
        self.assertIn('bare\n', self.zeo.said)

    def test_pages(self):
        for name, (before, one, two, merged, jobs) in MERGES.items():
            with self.subTest(name):
                committed, found = self.play(before, one, two)
                self.assertEqual((committed, found), ([True, merged], jobs))
        # Types that BTrees cannot compare leave an error behind, and a conflict that is none.
        self.assertNotIn('Error', self.zeo.said.replace('ConflictError', ''))

    def test_pages_that_may_conflict(self):
        for name, (before, one, two, refused, merged) in EITHER.items():
            with self.subTest(name):
                committed, found = self.play(before, one, two)
                self.assertEqual((committed[0], found), (True, merged if committed[1] else refused))

    def test_a_page_is_dropped_while_others_add(self):
        steps = {'drop': lambda user: user.remove(*user.found()), 'add 4': lambda user: user.add(4),
                 'add 5': lambda user: user.add(5)}
        # Whoever begins anew sees what was committed before: the third, maybe, a page made after the first was dropped.
        for order, anew in itertools.product(itertools.permutations(steps), (None, *steps)):
            with self.subTest(order=order, anew=anew):
                *users, reader = self.users(4)
                three(reader)
                reader.commit()
                expected = {1, 2, 3}
                for user in users:
                    user.begin().found()
                for name, user in zip(order, users):
                    if name == anew:
                        user.begin()
                    before = set(user.found())
                    steps[name](user)
                    after = set(user.found())
                    if user.commit():
                        expected = expected - (before - after) | after - before
                    else:
                        self.assertNotIn(name, (order[0], anew), 'a conflict with nobody')
                self.assertEqual(set(reader.begin().found()), expected)


class TestLateOwners(ProcessorCase):
    """A job that was given to another host while the first one, which is merely slow, still has it."""

    level = 2

    def setUp(self):
        super().setUp()
        for name in 'slow', 'other':
            self.service.data[name] = PersistentMapping(written=0)
        self.manager.commit()
        self.meanwhile = {}

    # Tasks: what they write is their effect, and must be there once.

    def plain(self, service, name):
        pass

    def writing(self, service, name):
        service.data[name]['written'] += 1

    def committing(self, service, name):
        service.data[name]['written'] += 1
        transaction.commit()

    def provideTask(self, work, when):
        """Provide a task; when it is run by the slow host the other one does its run 'before' or 'after' its work."""
        def task(service, jobid, input):
            name = threading.current_thread().name
            if when == 'before':
                self.meanwhile.pop(name, bool)()
            work(service, name)
            if when == 'after':
                self.meanwhile.pop(name, bool)()
            return name

        provideUtility(task, ITask, name='task')

    def inThread(self, name, function):
        """Call the function in a thread of that name: a transaction belongs to a thread."""
        outcome = []

        def run():
            try:
                outcome.append(function())
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=run, name=name)
        thread.start()
        thread.join()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def host(self, name):
        host = MultiProcessor(self.db, PATH, name=name, clock=lambda: 60.0)
        host._attach()
        self.addCleanup(host.cycle.close)
        return host

    def check(self, kind, work, when):
        self.provideTask(work, when)
        if kind == 'job':
            jobid = self.add('task')
        else:
            jobid = self.service.addCronJob('task', minute=range(60), now=0.0)
            self.service.processNext(0.0)           # the scheduler takes it in
            self.manager.commit()
        before = [self.service.data[name]['written'] for name in ('slow', 'other')]
        slow = self.host('slow')
        claim = self.inThread('slow', lambda: claimOne(slow))

        def takeOver():
            self.manager.begin()
            rescue.rescue(self.service, 'slow', 60.0)
            self.manager.commit()
            other = self.host('other')
            runClaim(other, claimOne(other))
            other.cycle.leave()

        if when == 'first':
            self.inThread('other', takeOver)
        else:
            self.meanwhile['slow'] = lambda: self.inThread('other', takeOver)
        self.inThread('slow', lambda: runClaim(slow, claim))
        slow.cycle.leave()
        self.manager.begin()
        job = self.service.jobs[jobid]
        written = [self.service.data[name]['written'] for name in ('slow', 'other')]
        effect = 0 if work == self.plain else 1
        self.assertEqual(written, [before[0], before[1] + effect])
        self.assertEqual((job.output, job.attempt, job.errors), ('other', 0, ()))
        if kind == 'job':
            self.assertEqual((job.status, job.run), (COMPLETED, 1))
            ends = [list(ledger.finished[COMPLETED].values()) for ledger in ready.ledgers(self.service)]
            self.assertEqual(sum(ends, []).count(jobid), 1)
        else:
            self.assertEqual((job.status, [run.status for run in job.history]), (CRONJOB, [COMPLETED]))
            self.service.cancel(jobid)
            self.manager.commit()
        self.assertEqual(self.left(), [])

    def test_one_effect(self):
        for kind, work, when in itertools.product(
                ('job', 'cron job'), (self.plain, self.writing, self.committing), ('first', 'before', 'after')):
            if (work, when) != (self.committing, 'after'):      # it had an effect before it was given up
                with self.subTest(kind, work=work.__name__, when=when):
                    self.check(kind, work, when)


class TestInterleavings(ProcessorCase):
    """Several who add, run, cancel, retry and remove jobs of a page: random, and the same ones each time."""

    level = 2

    def setUp(self):
        super().setUp()
        self.provide('echo', lambda input: LARGE if input % 3 == 0 else input)
        self.provide('fail', self.refuse)
        self.now = 1000.0

    def refuse(self, input):
        raise TaskError('as asked')

    def do(self, user, rng):
        """Have a user do something in his transaction, if it can be done."""
        service, now, ids = user.service, self.now, list(user.service.jobs)
        # Everybody takes the first free id of a page: additions get into each other's way.
        service._v_nextid = next(jobid for jobid in itertools.count(ROWS) if jobid not in service.jobs)
        verb = rng.choice(('add', 'add', 'addMany', 'run', 'run', 'claim', 'finish', 'cancel', 'retry', 'retryFailed',
                            'start', 'remove', 'remove'))
        if verb == 'add':
            service.add(rng.choice(('echo', 'fail')), rng.randrange(9), startLater=rng.random() < 0.2, now=now)
        elif verb == 'addMany':
            service.addMany([{'task': rng.choice(('echo', 'fail')), 'input': number} for number in range(4)], now=now)
        elif verb == 'run':
            service.processNext(now)
        elif verb == 'claim':
            user.claimed = service.claimNextJob(now)
        elif verb == 'finish' and user.claimed is not None:
            with contextlib.suppress(UnknownJob, WrongState):       # somebody cancels it, and may have removed it
                service.processNext(now, user.claimed)
            user.claimed = None
        elif verb == 'retryFailed':
            service.retryFailed(limit=2)
        elif verb == 'remove':
            service.removeJobs(limit=rng.randrange(1, 6))
        elif ids:
            with contextlib.suppress(WrongState):
                {'cancel': lambda jobid: service.cancel(jobid, now), 'retry': service.retry,
                 'start': service.startJob}.get(verb, bool)(rng.choice(ids))

    def statusesOf(self, service):
        return {jobid: service.getStatus(jobid) for jobid in service.jobs}

    def play(self, rng, steps):
        """Have users do what they like; return jobid -> status by what was committed, and the number of conflicts."""
        users = [User(self, self.db) for _ in range(3)]
        pending, expected, conflicts = dict.fromkeys(users), {}, 0
        for user in users:
            user.claimed = None
        for _ in range(steps):
            self.now += 1
            user = rng.choice(users)
            if pending[user] is None:
                before = self.statusesOf(user.begin().service)
                self.do(user, rng)
                pending[user] = before, self.statusesOf(user.service)
                continue
            before, after = pending[user]
            pending[user] = None
            if not user.commit():
                conflicts, user.claimed = conflicts + 1, None
                continue
            for jobid in before.keys() | after.keys():
                if before.get(jobid) != after.get(jobid):
                    self.assertEqual(expected.get(jobid), before.get(jobid))       # nobody else has changed it
                    expected[jobid] = after.get(jobid)
        for user in users:
            user.manager.abort()
        return {jobid: status for jobid, status in expected.items() if status is not None}, conflicts

    def check(self, service, expected):
        """Have all that is said of the jobs agree."""
        self.assertEqual(self.statusesOf(service), expected)
        self.assertEqual(service.countJobs(), {**dict.fromkeys(STATUSES, 0), **collections.Counter(expected.values())})
        for status in STATUSES:
            jobids = sorted(jobid for jobid, found in expected.items() if found == status)
            self.assertEqual(sorted(job.id for job in service.getJobs(status)), jobids, status)
            if status in FINAL:
                entered = [jobid for ledger in ready.ledgers(service) for jobid in ledger.finished[status].values()]
                self.assertEqual(sorted(entered), jobids, status)
        queued = sorted(jobid for jobid, status in expected.items() if status == QUEUED)
        self.assertEqual(sorted(jobid for queue in ready.queues(service) for jobid in queue), queued)
        claimed = sorted(jobid for ledger in ready.ledgers(service) for jobid in ledger.claimed)
        self.assertEqual(claimed, sorted(jobid for jobid, status in expected.items() if status == PROCESSING))
        for shard in service.shards:
            self.assertTrue(all(map(len, shard.pages._pages.values())), 'an empty page was left behind')
            for name, values in shard.pages._values.items():
                self.assertLessEqual(set(values), set(expected), f'{name} of a job that was removed was left behind')
        self.assertEqual({job.output for job in service.getJobs(COMPLETED)} - {LARGE, 1, 2, 4, 5, 7, 8}, set())

    def test_nothing_is_lost_and_nothing_is_double(self):
        total = 0
        for seed in range(40):
            with self.subTest(seed=seed):
                expected, conflicts = self.play(random.Random(seed), 80)
                total += conflicts
                self.manager.begin()
                self.check(self.service, expected)
                for jobid in list(self.service.jobs):
                    with contextlib.suppress(WrongState):
                        self.service.cancel(jobid)
                self.service.removeJobs()
                self.manager.commit()
                self.check(self.service, {})
        self.assertGreater(total, 50)           # they did get into each other's way


class TestUndo(ProcessorCase):

    def setUp(self):
        super().setUp()
        self.provide('echo', lambda input: input)
        provideUtility(self.write, ITask, name='write')
        self.service._v_nextid = ROWS
        for number in range(3):
            self.service.data[number] = PersistentMapping()
            self.service.add('write', number)
        self.manager.commit()
        self.jobids = list(self.service.jobs)
        host = MultiProcessor(self.db, PATH, name='host')
        host._attach()
        self.addCleanup(host.cycle.close)
        claims = host.cycle.iterate(Work(want=3)).claims
        with contextlib.closing(host._worker()) as worker:
            self.reports = [worker.run(claim) for claim in claims]      # each commits by itself
        self.undos = [entry['id'] for entry in self.db.undoInfo(0, 3)][::-1]
        self.host = host

    def write(self, service, jobid, input):
        service.data[input]['written'] = True
        return 'done'

    def undo(self, number):
        self.manager.begin()
        self.db.undo(self.undos[number], self.manager.get())
        self.manager.commit()
        self.manager.begin()

    def test_a_page_that_neighbours_have_written_since(self):
        self.undo(0)
        self.assertEqual(len({jobid >> PAGE_BITS for jobid in self.jobids}), 1)
        self.assertEqual([(job.status, job.output) for job in self.service.jobs.values()],
                         [(QUEUED, None), (COMPLETED, 'done'), (COMPLETED, 'done')])
        self.assertEqual([dict(self.service.data[number]) for number in range(3)],
                         [{}, {'written': True}, {'written': True}])
        # The host finds that the end of that run is not on record any more, and has the job run again.
        self.host.cycle.iterate(Work(self.reports))
        self.manager.begin()
        self.assertEqual([self.service.getStatus(jobid) for jobid in self.jobids], [QUEUED, COMPLETED, COMPLETED])

    def test_a_row_that_was_written_since(self):
        self.manager.begin()
        self.service.jobs[self.jobids[1]].touch()
        self.manager.commit()
        with self.assertRaises(UndoError):
            self.undo(1)
        self.manager.abort()
        self.assertEqual([job.status for job in self.service.jobs.values()], [COMPLETED] * 3)
        self.undo(2)
        self.assertEqual([job.status for job in self.service.jobs.values()], [COMPLETED, COMPLETED, QUEUED])


class TestViews(ProcessorCase):

    def setUp(self):
        super().setUp()
        self.provide('echo', lambda input: input)
        self.service._v_nextid = ROWS
        self.jobid, self.neighbour = self.add('echo', 1), self.add('echo', 2)
        self.other = User(self, self.db)
        self.view = self.service.jobs[self.jobid]

    def test_held_over_transactions(self):
        self.other.service.jobs[self.jobid].change(error='seen', attempt=2)
        self.assertTrue(self.other.commit())
        self.assertEqual((self.view.error, self.view.attempt), (None, 0))       # as in all of this transaction
        self.manager.begin()
        self.assertEqual((self.view.error, self.view.attempt), ('seen', 2))
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
        self.view.attempt = 7
        self.manager.commit()
        job = self.other.begin().service.jobs[self.jobid]
        self.assertEqual((job.error, job.attempt), ('kept', 7))

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
        two.change(error=None, attempt=1)
        self.assertEqual((one.error, one.attempt), (None, 1))

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


class Colour(enum.StrEnum):

    RED = 'red'


class Number(enum.IntEnum):

    SEVEN = 7


class Seconds(float):
    """As numbers of other packages are."""


class Point(collections.namedtuple('Point', 'x y')):
    """No plain data: an object of a class."""

    class Missed(Exception):
        """A class in a class, as many packages have them."""


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
    'attempt': st.integers(0, 99), 'run': st.integers(0, 2 ** 31 - 1),
    'retryAt': st.none() | times, 'schedule': st.none() | st.integers(1, 2 ** 31 - 1), 'suspect': st.booleans(),
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
                            ('error', OSError('x')), ('attempt', 1.5), ('run', 'x'), ('started', ())):
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


def packed(values):
    """Return what is stored for values that are no row, but whole."""
    data = pickle.dumps(values)
    return zlib.crc32(data).to_bytes(4, 'big') + data


def notRows(real):
    """Return a strategy for bytes that are no row, made of a real one."""
    row = rows.unpack(real)
    flipped = st.integers(0, 8 * len(real) - 1).map(
        lambda bit: real[:bit // 8] + bytes([real[bit // 8] ^ 1 << bit % 8]) + real[bit // 8 + 1:])
    return st.one_of(
        st.binary(max_size=300),
        flipped, st.binary(min_size=1, max_size=20).map(lambda more: real + more),
        st.integers(0, len(real) - 1).map(lambda size: real[:size]), st.integers(1, len(real) - 1).map(
            lambda start: real[start:]),
        st.tuples(st.integers(0, len(real)), st.binary(min_size=1, max_size=9)).map(
            lambda cut: real[:cut[0]] + cut[1] + real[cut[0] + len(cut[1]):]).filter(lambda data: data != real),
        # Whole, and made by somebody else's code.
        st.sampled_from([(), (1,), [1] * len(row), {}, 'text', None, tuple(row)[:-1], (*row, 1),
                         *(tuple(row._replace(**{name: wrong})) for name, wrong in (
                             ('writes', None), ('kind', 'letter'), ('kind', None), ('task', 5), ('created', 'now'),
                             ('status', 'lost'), ('status', None), ('run', '1'), ('attempt', None), ('error', 7),
                             ('started', 'x'), ('completed', []), ('input', 'x'), ('output', {}), ('errors', []),
                             ('more', ())))]).map(packed))


def rowOf(service, jobid):
    """Return the bytes that are stored of a job."""
    return ready.shardOf(service, jobid).pages.get(jobid)


def spoil(service, jobid, data):
    """Have other bytes stored of a job."""
    ready.shardOf(service, jobid).pages.page(jobid)[jobid] = data


# What a job may wait for when its row is spoilt.
STATES = ('queued', 'claimed', 'completed', 'failed', 'cancelled', 'start later', 'delayed', 'cron job', 'retry')


class TestBrokenRows(unittest.TestCase):
    """A row that nobody can read is a broken job, alone: all others go on."""

    level = 2

    def setUp(self):
        self.addCleanup(component.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='echo')
        provideUtility(SimpleTask(self.raiseInput), name='fail')

    def raiseInput(self, input):
        raise input

    def newService(self):
        """Return a service outside any database, with jobs in one page, two in each state, and state -> ids."""
        service, found = TaskService(), {}
        service._v_nextid = ROWS
        service.ledgers['host'] = Ledger()
        for state in STATES:
            found[state] = [self.inState(service, state) for _ in range(2)]
        found['queued'] = [service.add('echo', 'x', now=50) for _ in range(2)]
        return service, found

    def inState(self, service, state):
        if state == 'queued':
            return None                         # these are added last, for the others run what is queued
        if state in ('delayed', 'cron job'):
            jobid = service.addCronJob('echo', now=0, **{'delay': 500} if state == 'delayed' else {'minute': (9,)})
            scheduling.tick(service, 0)
            return jobid
        jobid = service.add({'failed': 'fail', 'retry': 'fail'}.get(state, 'echo'), TaskError('x') if state == 'failed'
                            else Retry(400) if state == 'retry' else 'x', state == 'start later', now=1)
        if state == 'claimed':
            self.claim, = claiming.claim(service, 1, 0, 2, service.ledgers['host'])[0]
        elif state == 'cancelled':
            service.cancel(jobid, now=2)
        elif state != 'start later':
            service.processNext(2)
        return jobid

    def look(self, service, jobid):
        """Ask whatever there is to be asked."""
        job = service.jobs[jobid]
        self.assertIsInstance(job, BrokenJob)
        self.assertEqual((service.getStatus(jobid), service.getResult(jobid)), (ERROR, None))
        self.assertIn(f'job {jobid} cannot be loaded: ', service.getError(jobid))
        self.assertEqual((job.errors, job.input, job.task, repr(job)), ((), None, '', f'<BrokenJob {jobid}>'))
        for status in (None, *STATUSES):
            service.getJobs(status)
        service.getStatistics(60)
        for verb in service.retry, service.reschedule:
            with self.assertRaises(WrongState):
                verb(jobid)
        self.assertFalse(service.startJob(jobid))
        self.assertEqual(len(service.jobs), len(list(service.jobs.values())))

    def check(self, state, draw):
        with self.assertLogs('lovely.remotetask'):
            service, found = self.newService()
        jobid = self.claim.jobid if state == 'claimed' else found[state][0]
        counts = service.countJobs()
        spoil(service, jobid, draw(notRows(rowOf(service, jobid))))
        self.look(service, jobid)
        self.assertIn(sum(counts.values()) - sum(service.countJobs().values()), (0, 1))
        neighbours = [each for ids in found.values() for each in ids if each != jobid]
        self.assertFalse([each for each in neighbours if isinstance(service.jobs[each], BrokenJob)])

        # A host: what it has run is entered, what it has not run goes back, what is queued can be claimed.
        claims, _ = claiming.claim(service, 1, 0, 60, service.ledgers['host'])
        reports = [Outcome(*claim[:2], COMPLETED, 60, 61, 'x') for claim in [self.claim, *claims]]
        for report in reports:
            transitions.acknowledge(service, service.ledgers['host'], report, 61)
        rescue.rescue(service, 'host', 62)
        self.assertEqual(list(service.ledgers['host'].claimed), [])
        service.process(1000)
        self.assertFalse(ready.isWaiting(service))
        for name, ids in found.items():
            for each in set(ids) - {jobid}:
                self.assertEqual(service.getStatus(each), {
                    'failed': ERROR, 'cancelled': CANCELLED, 'start later': STARTLATER, 'cron job': CRONJOB,
                    'retry': QUEUED}.get(name, COMPLETED), name)
        self.look(service, jobid)
        self.assertEqual(service.retryFailed(), 2 - (state == 'failed'))
        if state in ('queued', 'claimed', 'completed', 'failed', 'cancelled'):
            self.assertIn(jobid, [job.id for status in FINAL for job in service.getJobs(status)])
        service.removeJobs()
        left = {each for name, ids in found.items() for each in ids
                if name in ('failed', 'start later', 'cron job', 'retry')} - {jobid}
        self.assertEqual(set(service.jobs) - {jobid}, left)
        if state in ('queued', 'claimed', 'completed', 'failed', 'cancelled'):
            self.assertNotIn(jobid, service.jobs)

    @prove
    @given(st.sampled_from(STATES), st.data())
    def test_any_bytes(self, state, data):
        self.check(state, data.draw)


class TestBrokenValues(ProcessorCase):
    """A value beside a row that cannot be loaded is the fault of this job alone."""

    def setUp(self):
        super().setUp()
        self.provide('echo', lambda input: input)
        self.provide('fail', lambda input: 1 / 0, retryPolicy=RetryPolicy(3, base=0))

    def entryGone(self, name, jobid):
        del self.service.shards[jobid >> 27].pages._values[name][jobid]
        self.manager.commit()

    def recordGone(self, name, jobid):
        value = self.service.shards[jobid >> 27].pages._values[name][jobid]
        self.change(value, lambda txn: self.db.storage.deleteObject(value._p_oid, value._p_serial, txn))

    def recordSpoilt(self, name, jobid):
        value = self.service.shards[jobid >> 27].pages._values[name][jobid]
        self.change(value, lambda txn: self.db.storage.store(value._p_oid, value._p_serial, b'spoilt', '', txn))

    def change(self, value, change):
        """Change the record of an object behind the back of ZODB; everybody hears of it."""
        value._p_activate()
        storage, txn = self.db.storage, TransactionMetaData()
        storage.tpc_begin(txn)
        change(txn)
        storage.tpc_vote(txn)
        storage.tpc_finish(txn, lambda tid: self.db._mvcc_storage.invalidate(tid, [value._p_oid]))
        self.connection.cacheMinimize()
        self.manager.begin()

    def runTurns(self, count):
        """Have a host run what is queued, in so many turns."""
        host = MultiProcessor(self.db, PATH, name='host')
        host._attach()
        reports, clock = [], itertools.count(1000, 10)
        host.clock = host.cycle.clock = lambda: next(clock)
        try:
            with contextlib.closing(host._worker()) as worker:
                for _ in range(count):
                    claims = host.cycle.iterate(Work(reports, 10)).claims
                    reports = [worker.run(claim) for claim in claims]
            host.cycle.leave()
        finally:
            host.cycle.close()
        self.manager.begin()

    def test_what_cannot_be_loaded(self):
        for name, lose in itertools.product(('input', 'errors', 'output'),
                                            (self.entryGone, self.recordGone, self.recordSpoilt)):
            with self.subTest(name, lose=lose.__name__):
                self.service._v_nextid = ROWS
                jobid, neighbour = self.service.add('fail' if name == 'errors' else 'echo', Point(1, 2)), \
                    self.service.add('echo', Point(3, 4))
                if name == 'errors':
                    self.service.jobs[jobid].errors = [Failure(1.0, 'no', LARGE)]
                self.manager.commit()
                if name == 'output':
                    self.runTurns(5)
                lose(name, jobid)
                self.runTurns(12)
                statuses = self.service.getStatus(jobid), self.service.getStatus(neighbour)
                self.assertEqual(statuses, (COMPLETED if name == 'output' else ERROR, COMPLETED))
                self.assertEqual(self.service.getResult(neighbour), Point(3, 4))
                self.assertEqual({job.id for job in self.service.getJobs()}, {jobid, neighbour})
                if name != 'output':
                    self.assertTrue(self.service.jobs[jobid].errors)
                self.assertEqual((self.left(), self.service.removeJobs(), len(self.service.jobs)), ([], 2, 0))
                self.manager.commit()

    def test_in_the_callers_transaction(self):
        self.service._v_nextid = ROWS
        for lose in self.entryGone, self.recordGone, self.recordSpoilt:
            with self.subTest(lose.__name__):
                jobid, neighbour = self.service.add('echo', Point(1, 2), now=0), self.service.add('echo', 3, now=1)
                self.manager.commit()
                lose('input', jobid)
                self.service.process(5)
                self.assertEqual((self.service.getStatus(jobid), self.service.getResult(neighbour)), (ERROR, 3))
                self.assertIn('the input cannot be loaded: ', self.service.getError(jobid))

    def test_what_cannot_be_loaded_can_be_replaced(self):
        self.service._v_nextid = ROWS
        for lose in self.entryGone, self.recordGone, self.recordSpoilt:
            with self.subTest(lose.__name__):
                jobid = self.service.add('echo', now=0)
                job, failure = self.service.jobs[jobid], Failure(1.0, 'no', LARGE)
                for name, value, new in ('errors', (failure,), (failure, failure)), ('output', LARGE, LARGE * 2):
                    setattr(job, name, value)
                    self.manager.commit()
                    lose(name, jobid)
                    if name == 'errors':
                        self.assertRegex(str(job.errors[0]), 'earlier errors cannot be loaded: .')
                    setattr(job, name, new)
                    self.manager.commit()
                    self.connection.cacheMinimize()
                    self.assertEqual(getattr(job, name), new)


class TestBrokenRowsOfCallers(ServerCase):
    """Somebody who waits for jobs gets an answer, whatever has become of a row."""

    level = 2

    def setUp(self):
        super().setUp()
        self.manager = transaction.TransactionManager()
        connection = self.db.open(self.manager)
        self.addCleanup(connection.close)
        self.addCleanup(self.manager.abort)
        self.service = connection.root()['/']
        self.service._v_nextid = ROWS                           # all in one page
        self.jobids = self.service.addMany([{'task': 'echo', 'input': [number]} for number in range(3)])
        self.manager.commit()

    def spoil(self, jobid):
        self.manager.begin()
        spoil(self.service, jobid, rowOf(self.service, jobid)[:-1])
        self.manager.commit()

    def test_a_row_that_is_spoilt_while_somebody_waits(self):
        spoilt, *others = self.jobids
        thread, answers = inThread(self.proxy().waitFor, self.jobids, WAIT)
        self.waitUntil(lambda: self.frontend.statistics()['waitingForJobs'])
        self.spoil(spoilt)
        self.assertEqual(self.proxy().waitFor([spoilt], WAIT), [ERROR])
        self.assertEqual(answers, [])                           # it waits for the others
        self.manager.begin()
        for jobid in others:
            self.service.cancel(jobid)
        self.manager.commit()
        thread.join(WAIT)
        self.assertEqual(answers, [[ERROR, CANCELLED, CANCELLED]])

    def test_what_is_asked(self):
        spoilt, *others = self.jobids
        self.spoil(spoilt)
        proxy = self.proxy()
        self.assertEqual([proxy.getStatus(jobid) for jobid in self.jobids], [ERROR, QUEUED, QUEUED])
        self.assertIn(f'job {spoilt} cannot be loaded', proxy.getError(spoilt))
        self.assertIs(proxy.getResult(spoilt), None)
        self.assertLessEqual(set(others), {job['id'] for job in proxy.getJobs()['jobs']})
        self.assertEqual(sum(proxy.getJobs()['counts'].values()), 3)


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
