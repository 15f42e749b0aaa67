"""Rows and values that cannot be read: each breaks its own job alone."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import itertools
import pickle
import unittest
import zlib

import transaction
from hypothesis import given
from hypothesis import strategies as st
from ZODB.Connection import TransactionMetaData
from zope.component import provideUtility
from zope.component import testing as component

from lovely.remotetask.encoding import rows
from lovely.remotetask.errors import Retry
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import WrongState
from lovely.remotetask.execution import rescue
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import STARTLATER
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.job import Failure
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.storage.transitions import Outcome
from lovely.remotetask.task import SimpleTask
from processorcase import PATH
from processorcase import ProcessorCase
from rowcase import LARGE
from rowcase import ROWS
from rowcase import Point
from rowcase import prove
from servercase import WAIT
from servercase import ServerCase
from threads import inThread


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
                             ('status', 'lost'), ('status', None), ('run', '1'), ('failedAttempts', None), ('error', 7),
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


if __name__ == '__main__':
    unittest.main()
