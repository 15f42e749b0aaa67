"""The ledger cycle: one transaction that settles what has ended, queues what is due, and claims what comes next."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import random
import socket
import time

import transaction
from ZODB.POSException import ConflictError

from lovely.remotetask import lifecycle
from lovely.remotetask import rescue
from lovely.remotetask.container import SHARDS
from lovely.remotetask.errors import NameTaken
from lovely.remotetask.ledger import Ledger
from lovely.remotetask.sites import ROOT_NAME
from lovely.remotetask.sites import atPath


log = logging.getLogger('lovely.remotetask')

#: Seconds between two looks at whether other hosts are alive.
LOOK = 0.5

#: How many ids of a queue are passed over at the most after a conflict.
SKIP = 128

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
        self.db, self.path, self.name, self.lease = db, path, name, lease
        self.schedule, self.ordered, self.clock, self.monotonic = schedule, ordered, clock, monotonic
        self.nextTime = None            # UTC seconds at which something becomes due; None for never
        self.paused = False             # whether the service's processing is paused: nothing is claimed
        self.inFlight = {}              # id -> run, of the claims that this process knows of
        self.owner = rescue.identity(threads=threads, lease=lease, since=clock())
        self._watch = rescue.Watch(lease)
        self._looked = self._beaten = float('-inf')
        self._sharing = 0               # how many other processors run jobs
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
        if self._connection is None:
            self._connection = self.db.open(self._manager)
        try:
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
                    while rescue.rescue(service, self.name):
                        pass
        except BaseException:
            self.close()        # a database can't be closed while a connection is open outside of a transaction
            raise
        self._beaten = self.monotonic()

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

    def turn(self, reports, want):
        """Do one transaction and return a list of new `Claim`s.

        reports -- `Outcome`s and `Recorded`s to settle.
        want -- how many jobs to claim at the most.

        Raise what the database raises, having changed nothing that is known of; then the same reports must come
        again.  Raise `Deposed` when the ledger is somebody else's.
        """
        self._manager.begin()
        try:
            service = self._service()
            ledger = service.ledgers[self.name]
            if ledger.owner is None or ledger.owner['token'] != self.owner['token']:
                raise Deposed(f'{self.name!r} was taken over')
            for report in reports:
                lifecycle.settle(service, ledger, report)
            now, moment = self.clock(), self.monotonic()
            if moment - self._looked >= min(LOOK, self.lease / 4):
                self._look(service, moment)
            isKeeper = service.schedule.keeper == self.name
            more = isKeeper and lifecycle.tick(service, now)
            claims, shard = self._claim(service, ledger, 0 if service.paused else want)
            if self._doubt:
                claims += self._adopt(service, ledger, reports, claims)
            beat = moment - self._beaten >= self.lease / 3
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
            self._manager.abort()
            # Most likely another host has claimed the same jobs: go elsewhere, in the queues and in each of them.
            self._shard, self._skip = random.randrange(SHARDS), random.randrange(SKIP)
            # A conflict is certain; of a connection that broke, nobody knows what it still brought to the server.
            self._doubt = self._doubt or not isinstance(error, (ConflictError, Deposed))
            raise
        self._shard, self._skip, self._doubt, self.nextTime, self.paused = shard, 0, False, nextTime, paused
        for report in reports:
            self.inFlight.pop(report.jobid, None)
        self.inFlight.update((claim.jobid, claim.run) for claim in claims)
        return claims

    def _claim(self, service, ledger, want):
        if want <= 0:
            return [], self._shard
        if self.ordered:
            shard = lifecycle.oldestShard(service)
            return ([], 0) if shard is None else lifecycle.claim(service, 1, shard, ledger)
        if want > 1 and self._sharing:
            # No more than a fair share of what waits, if there are others.
            want = min(want, -(-lifecycle.waiting(service) // (self._sharing + 1)))
        return lifecycle.claim(service, want, self._shard, ledger, self._skip)

    def _adopt(self, service, ledger, reports, claims):
        """Return the claims in the ledger that this process does not know of: a commit whose answer was lost."""
        known = set(self.inFlight) | {claim.jobid for claim in claims} | {report.jobid for report in reports}
        adopted = []
        for jobid, run in ledger.claimed.items():
            job = service.jobs.get(jobid)
            if jobid not in known and job is not None and job.run == run:
                adopted.append(lifecycle.claimOn(job))
        return adopted

    def _look(self, service, moment):
        """See which hosts live; take in the jobs of the dead, and the schedule of a dead scheduler."""
        self._looked = moment
        dead = [name for name in self._watch.dead(service.ledgers, moment) if name != self.name]
        alive = [name for name in service.ledgers if name != self.name and name not in dead]
        self._sharing = sum(bool(service.ledgers[name].owner.get('threads', 1)) for name in alive)
        for name in dead:
            if service.ledgers[name].claimed:
                count = rescue.rescue(service, name)
                log.warning('processing host %s is gone: %d of its jobs are queued again by %s', name, count, self.name)
        keeper = service.schedule.keeper
        if self.schedule and keeper != self.name and keeper not in alive:
            service.schedule.keeper = self.name

    def leave(self, unstarted=()):
        """Give back all claims, those on the ids of `unstarted` as such, and give up the ledger."""
        for attempt in self._attempts():
            with attempt:
                service = self._service()
                ledger = service.ledgers[self.name]
                if ledger.owner and ledger.owner['token'] == self.owner['token']:
                    for jobid in list(ledger.claimed.keys()):
                        lifecycle.giveBack(service, ledger, jobid, started=jobid not in unstarted)
                    ledger.owner = None
                    if service.schedule.keeper == self.name:
                        service.schedule.keeper = None
        self.inFlight.clear()

    def close(self):
        """Close the connection."""
        if self._connection is not None:
            self._manager.begin()
            self._manager.abort()
            self._connection.close()
            self._connection = None
