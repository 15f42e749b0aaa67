"""The ledger cycle: one transaction that settles what has ended, queues what is due, and claims what comes next."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import functools
import logging
import random
import socket
import threading
import time

import transaction
from transaction.interfaces import NoTransaction
from ZODB.POSException import ConflictError

from lovely.remotetask import lifecycle
from lovely.remotetask import rescue
from lovely.remotetask.container import SHARDS
from lovely.remotetask.database import isDatabaseError
from lovely.remotetask.errors import NameTaken
from lovely.remotetask.evolve import evolve
from lovely.remotetask.execute import queryTask
from lovely.remotetask.ledger import ALONE
from lovely.remotetask.ledger import LONG
from lovely.remotetask.ledger import ONCE
from lovely.remotetask.ledger import Ledger
from lovely.remotetask.readyqueue import ReadyQueue
from lovely.remotetask.sites import ROOT_NAME
from lovely.remotetask.sites import atPath


log = logging.getLogger('lovely.remotetask')

#: Seconds between two looks at whether other hosts are alive.
LOOK = 0.3

#: Jobs that one transaction removes.
CLEANED = 200

#: How many ids of a queue are passed over at the most after a conflict.
SKIP = 128

#: How many ids each processor leaves to the next one before it, so that they do not claim the same.
PLACE = 64

#: Transactions that may fail by conflicts before the cause is looked at elsewhere.
ATTEMPTS = 10


class Deposed(Exception):
    """The ledger has another owner now: this processor was taken for dead.  It must stop and write nothing."""


def touched(txn):
    """Say whether anything would happen if the transaction were committed.

    There is no public way to ask for the data managers that have joined.
    """
    return bool(txn._resources) or any(True for _ in txn.getBeforeCommitHooks()) \
        or any(True for _ in txn.getAfterCommitHooks())


class Cycle:
    """Keeps one ledger, in a connection of its own.  All methods belong to one thread, but for `nextTime`.

    db -- a `ZODB.DB`; over ZEO best one that no task uses.
    path -- the path of the service, a tuple of names.
    name -- the name of the ledger; None for one made of the machine's name and a number.
    lease -- seconds after which a silent host is taken for dead by those on other machines.
    threads -- how many threads run jobs, for the record; 0 for one that only schedules.
    schedule -- whether this processor may become the scheduler.
    ordered -- whether jobs are claimed in the order in which they were added, whatever their shards.
    """

    def __init__(self, db, path, name=None, lease=30.0, threads=1, schedule=True, ordered=False,
                 clock=time.time, monotonic=time.monotonic):
        self.db, self.path, self.name, self.lease, self.threads = db, path, name, lease, threads
        self.schedule, self.ordered, self.clock, self.monotonic = schedule, ordered, clock, monotonic
        self.nextTime = None            # UTC seconds at which something becomes due; None for never
        self.paused = False             # whether the service's processing is paused: nothing is claimed
        self.inFlight = {}              # id -> run, of the claims that this process knows of
        self.owner = rescue.identity(threads=threads, lease=lease, since=clock())
        self._watch = rescue.Watch(lease)
        self._looked = self._beaten = float('-inf')
        self._sharing = 0               # how many other processors run jobs
        self._place = 0                 # how many of them come before this one, by name
        self.freeBefore = 0             # how many of those have a thread free
        self.hasNeighbours = False      # whether there are others on this machine, whose end can be seen at once
        self._doubt = False             # whether the outcome of a commit is unknown
        self._shard, self._skip = random.randrange(SHARDS), 0
        self._manager = transaction.TransactionManager(explicit=True)
        self._connection = None

    def _service(self):
        return atPath(self._connection.root()[ROOT_NAME], self.path)

    def attach(self):
        """Take over the ledger of this name, and return what its last owner left to the queues.

        Raise `NameTaken` when a living processor has it.
        """
        evolve(self.db, self.path)
        if self._connection is None:
            self._connection = self.db.open(self._manager)
        try:
            self._awaitSilence()
            for attempt in self._attempts():
                with attempt:
                    service = self._service()
                    if self.name is None:
                        self.name = self._freeName(service)
                    ledger = service.ledgers.get(self.name)
                    if ledger is None:
                        ledger = service.ledgers[self.name] = Ledger()
                    elif ledger.owner and ledger.owner['token'] != self.owner['token'] \
                            and rescue.isGone(ledger.owner) is False:
                        raise NameTaken(self.name, f'process {ledger.owner["pid"]}')
                    ledger.owner = self.owner
                    ledger.upgrade()
                    rescue.rescue(service, self.name, self.clock())
        except BaseException:
            self.close()        # a database can't be closed while a connection is open outside of a transaction
            raise
        self._beaten = self.monotonic()

    def _awaitSilence(self):
        """Raise `NameTaken` when a host of this name on another machine is heard of within the time of a heartbeat."""
        bell, until, heard = threading.Event(), None, None
        while self.name is not None:
            self._manager.begin()
            ledger = self._service().ledgers.get(self.name)
            owner, serial = ledger and ledger.owner, ledger and ledger._p_serial
            self._manager.abort()
            if owner is None or rescue.isGone(owner) is not None:
                return
            if until is None:
                log.info('a processing host named %s was on another machine: waiting whether it is heard of', self.name)
                until, heard = self.monotonic() + owner.get('lease', self.lease) / 2 + 1, serial
            if serial != heard:
                raise NameTaken(self.name, f'on {owner["machine"].partition("/")[0]}, process {owner["pid"]}')
            if self.monotonic() > until:
                return
            bell.wait(LOOK)

    def _freeName(self, service):
        number = 1
        while True:
            name = f'{socket.gethostname()}-{number}'
            ledger = service.ledgers.get(name)
            if ledger is None or rescue.isGone(ledger.owner):
                return name
            number += 1

    def _attempts(self):
        return self._manager.attempts(ATTEMPTS)

    def turn(self, reports, want, long=(), progress=(), watched=()):
        """Do one transaction; return a list of `Claim`s to run, and the ids in `watched` whose runs are not wanted.

        reports -- `Outcome`s, `Recorded`s and `Returned`s to settle.
        want -- how many jobs to claim at the most.
        long -- ids of jobs that have been running for a while, which is put on record.
        progress -- pairs of id and how far its run is: a pair of a fraction or None, and a text.
        watched -- pairs of id and run, of jobs that may have been cancelled.

        Raise what the database raises, having changed nothing that is known of; then the same reports must come
        again.  Raise `Deposed` when the ledger is somebody else's.
        """
        self._manager.begin()
        try:
            service = self._service()
            ledger = service.ledgers[self.name]
            if ledger.owner is None or ledger.owner['token'] != self.owner['token']:
                raise Deposed(f'{self.name!r} was taken over')
            now, moment = self.clock(), self.monotonic()
            for report in reports:
                lifecycle.settle(service, ledger, report, now)
            for jobid in long:
                ledger.mark(jobid, LONG)
            for jobid, state in progress:
                if jobid in ledger.claimed:
                    ledger.progress[jobid] = state
            gone = [jobid for jobid, run in watched if ledger.claimed.get(jobid) != run
                    or not lifecycle.holds(service.jobs.get(jobid), lifecycle.Recorded(jobid, run))]
            if moment - self._looked >= min(LOOK, self.lease / 4):
                self._look(service, moment, now)
            isKeeper = service.schedule.keeper == self.name
            more = isKeeper and lifecycle.tick(service, now)
            claims, shard = self._claim(service, ledger, 0 if service.paused else want, now)
            if self._doubt:
                claims += self._adopt(service, ledger, reports, claims)
            self._mark(service, ledger, claims)
            # In doubt it writes in any case: then a commit that is still under way can only fail.
            beat = self._doubt or moment - self._beaten >= self.lease / 3
            if beat:
                ledger._p_changed = True
            nextTime = None if not isKeeper else now if more else service.schedule.nextTime()
            paused = service.paused
            if touched(self._manager.get()):
                self._manager.commit()
                if reports or beat:
                    self._beaten = moment
            else:
                self._manager.abort()
        except BaseException as error:
            with contextlib.suppress(NoTransaction):        # the database has been closed meanwhile, in despair
                self._manager.abort()
            # Most likely another host has claimed the same jobs: go elsewhere, in the queues and in each of them.
            self._shard, self._skip = random.randrange(SHARDS), random.randrange(SKIP)
            # A conflict is certain; of a connection that broke, nobody knows what it still brought to the server.
            self._doubt = self._doubt or not isinstance(error, (ConflictError, Deposed))
            raise
        self._shard, self._doubt, self.nextTime, self.paused = shard, False, nextTime, paused
        self._skip = self._place * PLACE % ReadyQueue.bucketSize
        for report in reports:
            if self.inFlight.get(report.jobid) == report.run:       # else it is of a run that was over before
                del self.inFlight[report.jobid]
        self.inFlight.update((claim.jobid, claim.run) for claim in claims)
        return claims, gone

    def _mark(self, service, ledger, claims):
        """Put on record, before they are begun, the claims on suspects and on what must not be begun twice."""
        once = functools.cache(lambda name: getattr(queryTask(service, name), 'atMostOnce', False))
        for claim in claims:
            if once(claim.task):
                ledger.mark(claim.jobid, ONCE)
            elif claim.suspect:
                ledger.mark(claim.jobid, ALONE)

    def _claim(self, service, ledger, want, now):
        if want <= 0:
            return [], self._shard
        # One suspect at a time: if it ends its host, one knows who did.
        suspects = [] if ALONE in ledger.started.values() else lifecycle.claimSuspect(service, now, ledger)
        want -= len(suspects)
        if self.ordered:
            shard = lifecycle.oldestShard(service)
            if suspects or shard is None:
                return suspects, 0
            return lifecycle.claim(service, 1, shard, now, ledger)
        if want > 1 and self._sharing:
            # If there are others, no more than a fair share of all, once the threads have something to do.
            held, others = len(ledger.claimed), self._sharing + 1
            share = -(-(lifecycle.waiting(service, (want + held) * others) + held) // others)
            want = min(want, max(self.threads, share) - held)
        claims, shard = lifecycle.claim(service, want, self._shard, now, ledger, self._skip)
        return suspects + claims, shard

    def _adopt(self, service, ledger, reports, claims):
        """Return the claims in the ledger that this process does not know of: a commit whose answer was lost."""
        known = set(self.inFlight) | {claim.jobid for claim in claims} | {report.jobid for report in reports}
        adopted = []
        for jobid, run in ledger.claimed.items():
            job = service.jobs.get(jobid)
            if jobid not in known and job is not None and job.run == run:
                adopted.append(lifecycle.claimOn(job))
        return adopted

    def _look(self, service, moment, now):
        """See which hosts live; take in the jobs of the dead, and the schedule of a dead scheduler."""
        self._looked = moment
        dead = [name for name in self._watch.dead(service.ledgers, moment) if name != self.name]
        alive = [name for name in service.ledgers if name != self.name and name not in dead]
        threads = {name: service.ledgers[name].owner.get('threads', 1) for name in alive}
        working = [name for name in alive if threads[name]]
        before = [name for name in working if name < self.name]
        self._sharing, self._place = len(working), len(before)
        self.freeBefore = sum(len(service.ledgers[name].claimed) < threads[name] for name in before)
        for name in dead:
            if service.ledgers[name].claimed:
                count = rescue.rescue(service, name, now)
                log.warning('processing host %s is gone: %d of its jobs are queued again by %s', name, count, self.name)
        self.hasNeighbours = any(rescue.isGone(service.ledgers[name].owner) is False for name in alive)
        keeper = service.schedule.keeper
        if self.schedule and keeper != self.name and keeper not in alive:
            service.schedule.keeper = self.name

    def clean(self, keep):
        """Remove some of the jobs that ended long ago, in a transaction of its own; return how many.

        keep -- status -> seconds for which jobs in it are kept.

        Each host sees to what it has brought to an end itself, and the scheduler to what nobody else sees to.
        """
        self._manager.begin()
        try:
            service, removed, now = self._service(), 0, self.clock()
            ledgers = [service.ledgers[self.name]]
            if service.schedule.keeper == self.name:
                ledgers += (shard.ledger for shard in service.shards)
                ledgers += (ledger for ledger in service.ledgers.values() if rescue.isGone(ledger.owner))
            for ledger in ledgers:
                for status, seconds in keep.items():
                    removed += lifecycle.cleanLedger(service, ledger, [status], CLEANED - removed, now - seconds)
            self._manager.commit() if removed else self._manager.abort()
            return removed
        except BaseException:
            self._manager.abort()
            raise

    def leave(self, unstarted=()):
        """Give back all claims, those on the ids of `unstarted` as such, and give up the ledger."""
        for attempt in self._attempts():
            with attempt:
                service = self._service()
                ledger = service.ledgers[self.name]
                if ledger.owner and ledger.owner['token'] == self.owner['token']:
                    for jobid in list(ledger.claimed.keys()):
                        rescue.interrupt(service, self.name, jobid, jobid in unstarted, self.clock())
                    ledger.owner = None
                    if service.schedule.keeper == self.name:
                        service.schedule.keeper = None
        self.inFlight.clear()

    def close(self):
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            self._manager.begin()
            self._manager.abort()
            connection.close()
        except Exception as error:
            if not isDatabaseError(error):
                raise
            log.warning('processing host %s: the database is away, its connection is given up: %s', self.name, error)
