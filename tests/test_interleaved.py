"""Transactions of many processes, interleaved at random: no job is lost, or in two places, and all counts are right.

What is committed is merged as a database server does it.  The steps are the same ones each time; REMOTETASK_FUZZ=20000
in the environment makes 200 other walks.
"""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import itertools
import logging
import os
import random
import unittest.mock

import transaction
import ZODB
from ZODB.DemoStorage import DemoStorage
from ZODB.POSException import ConflictError
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask import service as services
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.execution import rescue
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import PROCESSING
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import STARTLATER
from lovely.remotetask.job import Failure
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import cleanup
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import tallies
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.index import PARTS
from lovely.remotetask.storage.index import entryOf
from lovely.remotetask.storage.index import partsOf
from lovely.remotetask.storage.ledger import LONG
from lovely.remotetask.storage.ledger import SUSPECT
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.storage.ledger import microseconds
from lovely.remotetask.storage.queue import ReadyQueue
from lovely.remotetask.storage.shards import BITS
from lovely.remotetask.storage.transitions import Outcome
from lovely.remotetask.storage.transitions import Recorded
from lovely.remotetask.storage.transitions import Returned
from lovely.remotetask.task import SimpleTask


LONGER = 'REMOTETASK_FUZZ' in os.environ
WALKS, STEPS = int(os.environ.get('REMOTETASK_FUZZ', 300)) // 100, 700


class Process:
    """A connection, and what its process knows: its methods `do...` are steps of a transaction."""

    def __init__(self, db, walk, name):
        self.manager, self.walk, self.rng, self.name = transaction.TransactionManager(), walk, walk.rng, name
        self.root = db.open(self.manager).root()
        self.isOpen = False

    @property
    def service(self):
        return self.root['service']

    def step(self):
        """Begin a transaction with something at random, or commit the one that has begun."""
        if self.isOpen:
            self.isOpen = False
            try:
                self.manager.commit()
            except ConflictError:
                self.manager.abort()
            else:
                for function in self.after:
                    function()
            return
        self.manager.begin()
        self.after, self.isOpen, self.now = [], True, self.walk.tick()
        try:
            getattr(self, self.rng.choice([name for name in dir(self) if name.startswith('do')]))(self.service)
        except RemoteTaskError:
            self.manager.abort()
            self.isOpen = False


class Caller(Process):

    def any(self, service):
        return self.rng.choice(list(service.jobs) or [1])

    def doAdd(self, service):
        service.addMany([{'task': self.rng.choice(('echo', 'rare'))}] * self.rng.randrange(1, 7), self.now)

    doAddMore = doAdd

    def doAddLater(self, service):
        service.add('echo', startLater=True, now=self.now)

    def doStart(self, service):
        for job in service.getJobs(STARTLATER, size=1):
            service.startJob(job.id, self.now)

    def doAddCronJob(self, service):
        service.addCronJob('echo', delay=1, newJobs=self.rng.random() < 0.5, now=self.now)

    def doReschedule(self, service):
        service.reschedule(self.any(service), self.now)

    def doRunNow(self, service):
        service.runNow(self.any(service), self.now)

    def doCancel(self, service):
        service.cancel(self.any(service), self.now)

    doCancelAnother = doCancel

    def doCancelMany(self, service):
        for job in self.rng.sample(list(service.jobs.values()), min(4, len(service.jobs))):
            if job.status not in FINAL:
                service.cancel(job.id, self.now)

    def doRemove(self, service):
        cleanup.remove(service, service.jobs[self.any(service)])

    def doRemoveSome(self, service):
        service.removeJobs(self.rng.choice(FINAL), self.rng.randrange(1, 6))

    def doRetry(self, service):
        service.retryFailed(limit=3, now=self.now)


class Host(Process):

    def __init__(self, db, walk, name):
        super().__init__(db, walk, name)
        self.waiting, self.running, self.reports = {}, {}, []       # id -> claim

    def ledgerOf(self, service):
        """Return the ledger, taken back from a rescuer; what that took is forgotten when this is committed."""
        ledger = service.ledgers[self.name]
        ledger.owner = {'token': self.name}
        for claims in self.waiting, self.running:
            self.after += (lambda claims=claims, jobid=jobid: claims.pop(jobid) for jobid, claim in claims.items()
                           if ledger.claimed.get(jobid) != claim.run)
        return ledger

    def doIterate(self, service, lacks=lambda task: None):
        ledger, reports, ends = self.ledgerOf(service), list(self.reports), []
        for report in reports:
            transitions.acknowledge(service, ledger, report, self.now, ends)
        tallies.enter(ledger, ends)
        for jobid in self.running:
            ledger.mark(jobid, self.rng.choice((LONG, LONG, SUSPECT)), self.now)
        group = claiming.Group(self.rng.randrange(1, 5))
        claims = claiming.claimSuspects(service, self.now, ledger, lacks, group=group, skip=self.rng.randrange(3))
        claims += claiming.claimStranded(service, 2, self.now, lacks, ledger, group)
        claims += claiming.claim(service, self.rng.randrange(6), self.rng.randrange(3), self.now, ledger,
                                 self.rng.choice((0, 0, 1, 3)), lacks)[0]
        self.after.append(lambda: self.goOn(reports, claims))

    doIterateAgain = doIterateOnceMore = doAndSoOn = doIterate

    def doIterateWithoutATask(self, service):
        self.doIterate(service, {'echo': None, 'rare': 'it lacks that'}.get)

    def goOn(self, reports, claims):
        """Begin some of the claims, and end some of the runs."""
        del self.reports[:len(reports)]
        self.waiting.update((claim.jobid, claim) for claim in claims)
        for jobid in [jobid for jobid in self.waiting if self.rng.random() < 0.6]:
            claim = self.running[jobid] = self.waiting.pop(jobid)
            self.walk.begun[claim.jobid, claim.run] += 1
        for jobid in [jobid for jobid in self.running if self.rng.random() < 0.6]:
            claim, now = self.running.pop(jobid), self.walk.tick()
            status = self.rng.choice((COMPLETED, COMPLETED, QUEUED, QUEUED, ERROR))
            self.reports.append(Outcome(claim.jobid, claim.run, status, now, now,
                                        failure=None if status == COMPLETED else Failure(now, 'as asked'),
                                        retryAt=now + self.rng.choice((0, 0.05)) if status == QUEUED else None))

    def doRecord(self, service):
        """As a task that writes to the database, or cancels its own job."""
        for claim in list(self.running.values())[:1]:
            job, outcome = service.jobs.get(claim.jobid), None
            if transitions.holds(job, claim) and self.rng.random() < 0.3:
                service.cancel(job.id, self.now)
            elif transitions.holds(job, claim):
                outcome = Outcome(claim.jobid, claim.run, COMPLETED, self.now, self.now)
                transitions.record(service, job, outcome, 1)
            self.after.append(lambda: self.running.pop(claim.jobid))
            self.after.append(lambda: self.reports.append(Recorded(claim.jobid, claim.run, b'', outcome)))

    doRecordAnother = doRecord

    def doGiveBack(self, service):
        ledger = self.ledgerOf(service)
        for jobid, claim in list(self.waiting.items()):
            report = Returned(jobid, claim.run, isLast=self.rng.random() < 0.2)
            transitions.acknowledge(service, ledger, report, self.now, [])
            self.after.append(lambda jobid=jobid: self.waiting.pop(jobid, None))

    def doLeave(self, service):
        ledger = service.ledgers[self.name]
        for jobid in list(ledger.claimed) if ledger.owner else ():
            rescue.interrupt(service, self.name, jobid, jobid in self.waiting, self.now)
        ledger.owner = None
        self.after += (self.waiting.clear, self.running.clear, self.reports.clear)

    def doRescue(self, service):
        rescue.rescue(service, self.rng.choice([name for name in service.ledgers if name != self.name]), self.now)

    def doSchedule(self, service):
        service.schedule.scheduler = self.name
        scheduling.tick(service, self.now)

    doScheduleAgain = doSchedule


class Walk:
    """What all processes of a database do, one step of one of them after the other."""

    def __init__(self, db, rng):
        self.rng, self._now = rng, 1000.0
        self.begun = collections.Counter()      # (id, run) -> how often a run was begun
        with db.transaction() as connection:
            service = connection.root()['service'] = TaskService()
            for name in 'abc':
                service.ledgers[name] = Ledger()
        self.processes = [Caller(db, self, name) for name in 'uvw'] + [Host(db, self, name) for name in 'abc']

    def tick(self):
        """Return the time; often it is the same as before."""
        self._now += self.rng.choice((0, 0, 0.001, 0.01))
        return self._now

    def step(self):
        self.rng.choice(self.processes).step()


class Checks:
    """What is wrong in a service, as far as is committed: an iterable of texts."""

    def __init__(self, service):
        self.service = service
        self.ledgers = list(ready.ledgers(service))
        self.queued = collections.defaultdict(list)     # id -> the queues that it is in, or 'stranded'
        for queue in ready.queues(service):
            for jobid in queue:
                self.queued[jobid].append(queue)
        for jobid in itertools.chain.from_iterable(service.stranded.values()):
            self.queued[jobid].append('stranded')

    def __iter__(self):
        for jobid, job in self.service.jobs.items():
            yield from (f'job {jobid}, {job.status}: {fault}' for fault in self.faultsOf(job))
        yield from (f'job {jobid} is gone, but queued' for jobid in self.queued if jobid not in self.service.jobs)
        yield from self.counts()

    def faultsOf(self, job):
        claims = [ledger for ledger in self.ledgers if ledger.claimed.get(job.id) == job.run]
        isReady = job.status == QUEUED or job.status == CRONJOB and job.pending
        places = self.queued[job.id] + claims
        if isReady and job.retryAt is None and len(places) != 1 or len(self.queued[job.id]) > isReady:
            yield f'it is in {places}'
        for part in PARTS:
            if (entryOf(job) in self.service.index.entries(part)) != (part in partsOf(job)):
                yield f'it is, or is not, among those that are {part}'
        ends = [(status, key) for ledger in self.ledgers for status in FINAL
                for key, jobid in ledger.finished[status].items() if jobid == job.id]
        expected = [(job.status, microseconds(job.completed))] if job.status in FINAL else []
        if ends != expected and not (claims and not ends and job.status == COMPLETED):      # to be entered by its host
            yield f'its end is entered as {ends}'

    def counts(self):
        for status in FINAL:
            entered = sum(len(ledger.finished[status]) for ledger in self.ledgers)
            if sum(ledger.tally[status] for ledger in self.ledgers) != entered:
                yield f'the tally of {status} is not {entered}'
        counts = collections.Counter(self.service.countJobs())
        counts[QUEUED] += counts.pop(PROCESSING)
        if counts != collections.Counter(job.status for job in self.service.jobs.values()):
            yield f'they are not {counts}'


class TestInterleaved(unittest.TestCase):

    level = 2

    def setUp(self):
        self.addCleanup(testing.tearDown)
        for name in 'echo', 'rare':
            provideUtility(SimpleTask(lambda input: input), name=name)
        # Small buckets, few shards, and neighbours on one page: whoever can conflict does.
        self.enterContext(unittest.mock.patch.object(ReadyQueue, 'bucketSize', 4))
        self.enterContext(unittest.mock.patch.object(rescue, 'GROUPS', 2))
        numbers = itertools.count(1)
        for module in services, scheduling:
            self.enterContext(unittest.mock.patch.object(
                module, 'newId', lambda *_: (number := next(numbers)) + (number // 7 % 3 << BITS)))
        self.addCleanup(random.setstate, random.getstate())
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)

    def test_at_random(self):
        for seed in range(1, WALKS + 1):
            seed = random.random() if LONGER else seed
            with self.subTest(seed=seed), contextlib.closing(ZODB.DB(DemoStorage())) as db:
                random.seed(seed)
                walk = Walk(db, random.Random(seed))
                for number in range(STEPS):
                    walk.step()
                    if number % 10 == 0:
                        with db.transaction() as connection:
                            self.assertEqual(list(Checks(connection.root()['service'])), [], number)
                self.assertEqual(set(walk.begun.values()), {1})
                for process in walk.processes:
                    process.manager.abort()
