"""Several who change the rows of one page: what the database merges and refuses, late owners, random turns, undo."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import itertools
import random
import threading
import unittest
from unittest import mock

import transaction
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from ZODB.POSException import UndoError
from zope.component import provideUtility

from lovely.remotetask import testing
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.errors import WrongState
from lovely.remotetask.execution import rescue
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import PROCESSING
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import install
from lovely.remotetask.storage import ready
from lovely.remotetask.storage.pages import PAGE_BITS
from processorcase import PATH
from processorcase import ProcessorCase
from processorcase import claimOne
from processorcase import runClaim
from rowcase import LARGE
from rowcase import ROWS
from rowcase import User


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
        self.assertEqual((job.output, job.failedAttempts, job.errors), ('other', 0, ()))
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


if __name__ == '__main__':
    unittest.main()
