"""The ledger cycle: one transaction that settles what has ended, queues what is due, and claims what comes next."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import logging
import math
import random
import socket
import threading
import time

import transaction
from ZODB.POSException import ConflictError

from lovely.remotetask import lifecycle
from lovely.remotetask import rescue
from lovely.remotetask.container import SHARDS
from lovely.remotetask.database import isDatabaseError
from lovely.remotetask.database import rest
from lovely.remotetask.database import transact
from lovely.remotetask.errors import NameTaken
from lovely.remotetask.evolve import evolve
from lovely.remotetask.execute import queryTask
from lovely.remotetask.ledger import ALONE
from lovely.remotetask.ledger import LONG
from lovely.remotetask.ledger import ONCE
from lovely.remotetask.ledger import Ledger
from lovely.remotetask.sharing import WARM
from lovely.remotetask.sharing import Pace
from lovely.remotetask.sharing import Precedence
from lovely.remotetask.sharing import rateOf
from lovely.remotetask.sharing import roomOf
from lovely.remotetask.sites import ROOT_NAME
from lovely.remotetask.sites import atPath


log = logging.getLogger('lovely.remotetask')

#: Seconds between two looks at whether other hosts are alive, and at what they do.
LOOK = 0.3

#: Seconds between two looks of an idle processor at how many others there are: when jobs wait, and when there are none.
SURVEY, IDLE_SURVEY = 2.0, 60.0

#: How many living processors each one watches: those that come after it, by name.  So many must end at once, with
#: those that watch them, to be noticed later than one.
WATCHED = 3

#: Jobs that one transaction removes.
CLEANED = 200

#: How many more ids of a queue are passed over at the most after a conflict.
SKIP = 128

#: How many ids, at least, a busy processor leaves to each one before it.
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
    threads -- how many threads run jobs, for the record; 0 for one that only schedules, or is about to stop.
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
        self._guarded = self._surveyed = self._beaten = float('-inf')
        self.interest = None            # ids of the objects whose changes are to wake this processor; None for any
        self._sharing = 0               # how many other processors run jobs
        self._working = 0               # how many of these had claims when this was looked at
        self._before = []               # names of those that come before this one
        self.freeBefore = 0             # how many of those had a thread free when jobs were seen to wait
        self._precedence, self._pace = Precedence(), Pace()
        self._spared = False            # whether those before it do what there is
        self._neighbours = []           # owners of those watched on this machine, whose end can be seen at once
        self.pace = None                # seconds that a job takes lately, for the record; None for unknown
        self.busy = 0.0                 # for how many seconds all threads have been busy with the same jobs
        self.isQuick = False            # whether others may leave jobs to this one because its jobs are short
        self._doubt = False             # whether the outcome of a commit is unknown
        self._shard, self._skip = random.randrange(SHARDS), 0
        self._manager = transaction.TransactionManager(explicit=True)
        self._connection = None

    @property
    def rank(self):
        """How many processors come before this one, as far as is known: those get a job first."""
        return len(self._before)

    def _begin(self):
        if self._connection is None:
            self._connection = self.db.open(self._manager)
        self._manager.begin()

    def _rest(self):
        """End a transaction that has failed.  A connection that cannot be used any more is replaced by another one."""
        if not rest(self._manager):
            self._manager, self._connection = transaction.TransactionManager(explicit=True), None

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
            transact(self._manager, self._take, ATTEMPTS)
        except BaseException:
            self.close()        # a database can't be closed while a connection is open outside of a transaction
            raise
        self._beaten = self.monotonic()

    def _take(self):
        service = self._service()
        if self.name is None:
            self.name = self._freeName(service)
        ledger = service.ledgers.get(self.name)
        if ledger is None:
            ledger = service.ledgers[self.name] = Ledger()
        elif ledger.owner and ledger.owner['token'] != self.owner['token'] and rescue.isGone(ledger.owner) is False:
            raise NameTaken(self.name, f'process {ledger.owner["pid"]}')
        ledger.owner = self.owner
        ledger.upgrade()
        rescue.rescue(service, self.name, self.clock())

    def _awaitSilence(self):
        """Raise `NameTaken` when a host of this name on another machine is heard of within the time of a heartbeat."""
        bell, until, heard = threading.Event(), None, None
        while self.name is not None:
            owner, serial = transact(self._manager, self._lastOwner)
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

    def _lastOwner(self):
        ledger = self._service().ledgers.get(self.name)
        return ledger and ledger.owner, ledger and ledger._p_serial

    def _freeName(self, service):
        number = 1
        while True:
            name = f'{socket.gethostname()}-{number}'
            ledger = service.ledgers.get(name)
            if ledger is None or rescue.isGone(ledger.owner):
                return name
            number += 1

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
        try:
            self._begin()
            service = self._service()
            ledger = service.ledgers[self.name]
            if ledger.owner is None or ledger.owner['token'] != self.owner['token']:
                raise Deposed(f'{self.name!r} was taken over')
            if ledger.owner.get('threads') != self.threads:
                ledger.owner = dict(ledger.owner, threads=self.threads)
            now, moment = self.clock(), self.monotonic()
            self._tellPace(service, ledger, bool(reports or long), moment)
            for report in reports:
                lifecycle.settle(service, ledger, report, now)
            for jobid in long:
                ledger.mark(jobid, LONG)
            for jobid, state in progress:
                if jobid in ledger.claimed:
                    ledger.progress[jobid] = state
            gone = [jobid for jobid, run in watched if ledger.claimed.get(jobid) != run
                    or not lifecycle.holds(service.jobs.get(jobid), lifecycle.Recorded(jobid, run))]
            pause = min(LOOK, self.lease / 4)
            if moment - self._guarded >= pause:
                self._guard(service, moment, now)
            if moment - self._surveyed >= (pause if self.inFlight else
                                           SURVEY if lifecycle.isWaiting(service) else IDLE_SURVEY):
                self._survey(service, moment)
            isKeeper = service.schedule.keeper == self.name
            more = isKeeper and lifecycle.tick(service, now)
            claims, shard = self._claim(service, ledger, 0 if service.paused else want, now, moment)
            if self._doubt:
                claims += self._adopt(service, ledger, reports, claims)
            self._mark(service, ledger, claims)
            # In doubt it writes in any case: then a commit that is still under way can only fail.
            beat = self._doubt or moment - self._beaten >= self.lease / 3
            if beat:
                ledger._p_changed = True
            nextTime = None if not isKeeper else now if more else service.schedule.nextTime()
            paused = service.paused
            interest, isQuick = lifecycle.interest(service, ledger, not self._spared), bool(rateOf(ledger.owner))
            if touched(self._manager.get()):
                self._manager.commit()
                if reports or beat:
                    self._beaten = moment
            else:
                self._manager.abort()
        except BaseException as error:
            self._rest()
            # Most likely another host has claimed the same jobs: go elsewhere, in the queues and in each of them.
            self._shard, self._skip = random.randrange(SHARDS), random.randrange(SKIP)
            # A conflict is certain; of a connection that broke, nobody knows what it still brought to the server.
            self._doubt = self._doubt or not isinstance(error, (ConflictError, Deposed))
            raise
        self._shard, self._doubt, self.nextTime, self.paused = shard, False, nextTime, paused
        self.interest, self.isQuick = interest, isQuick
        self._skip = 0
        for report in reports:
            if self.inFlight.get(report.jobid) == report.run:       # else it is of a run that was over before
                del self.inFlight[report.jobid]
        self.inFlight.update((claim.jobid, claim.run) for claim in claims)
        return claims, gone

    def _tellPace(self, service, ledger, writes, moment):
        """Put on record how long a job takes, if that has changed much."""
        if self._pace.isToTell(ledger.owner, self.pace, self.busy, writes, moment):
            wasQuick = rateOf(ledger.owner)
            ledger.owner = dict(ledger.owner, pace=self.pace)
            if wasQuick and not rateOf(ledger.owner):
                service._p_changed = True           # wakes those that this processor has spared

    def _mark(self, service, ledger, claims):
        """Put on record, before they are begun, the claims on suspects and on what must not be begun twice."""
        once = functools.cache(lambda name: getattr(queryTask(service, name), 'atMostOnce', False))
        for claim in claims:
            if once(claim.task):
                ledger.mark(claim.jobid, ONCE)
            elif claim.suspect:
                ledger.mark(claim.jobid, ALONE)

    def _claim(self, service, ledger, want, now, moment):
        self._spared = False
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
        skip = self._skip
        if want and (self._sharing or skip):
            # If there are others (a conflict may be the first that is heard of them), no more than a fair share of all,
            # once the threads have something to do; and each at a place of its own.  Those that do nothing have no share
            # in short jobs.
            held, others = len(ledger.claimed), (self._working if self.isQuick else self._sharing) + 1
            stride = max(want, PLACE)
            room = roomOf(map(service.ledgers.__getitem__, self._before), self.owner)
            waiting = lifecycle.waiting(service, 1 if room.jobs == math.inf else room.jobs + (stride + held) * others)
            want = min(want, max(self.threads, -(-(waiting + held) // others)) - held)
            left = self._precedence.leave(room, waiting, moment)
            if waiting:
                self.freeBefore = len(room.serials)
            if left >= waiting > 0:
                self._spared = room.isQuick and self.rank >= WARM and not self.inFlight
                return suspects, self._shard
            place = skip + (stride * len(self._before) if held else 0)
            skip = left + place % max(1, waiting - left - want + 1)
        claims, shard = lifecycle.claim(service, want, self._shard, now, ledger, skip)
        return suspects + claims, shard

    def _adopt(self, service, ledger, reports, claims):
        """Return the claims in the ledger that this process does not know of: a commit whose answer was lost.

        Those whose jobs have been brought forward by others meanwhile are closed.
        """
        known = set(self.inFlight) | {claim.jobid for claim in claims} | {report.jobid for report in reports}
        adopted = []
        for unknown in [lifecycle.Recorded(*item) for item in ledger.claimed.items() if item[0] not in known]:
            job = service.jobs.get(unknown.jobid)
            if lifecycle.holds(job, unknown):
                adopted.append(lifecycle.claimOn(job))
            else:
                lifecycle.settle(service, ledger, unknown, self.clock())
        return adopted

    def _guard(self, service, moment, now):
        """See whether the next processors live; take in the jobs of the dead, and the schedule of a dead scheduler.

        Each is watched by some, and nobody by all: many hosts that do nothing are to cost little.
        """
        self._guarded, alive, self._neighbours = moment, 0, []
        names = list(service.ledgers)
        place = names.index(self.name)
        for name in names[place + 1:] + names[:place]:
            ledger = service.ledgers[name]
            if not self._watch.isDead(name, ledger, moment):
                alive += 1
                if rescue.isGone(ledger.owner) is False:
                    self._neighbours.append(ledger.owner)
                if alive == WATCHED:
                    break
                continue
            if ledger.claimed:
                count = rescue.rescue(service, name, now)
                log.warning('processing host %s is gone: %d of its jobs are queued again by %s', name, count, self.name)
            if service.schedule.keeper == name:
                service.schedule.keeper = None
        if self.schedule and service.schedule.keeper is None:
            service.schedule.keeper = self.name

    @property
    def hasNeighbours(self):
        """Whether there are processors on this machine to be watched by this one."""
        return bool(self._neighbours)

    def lookAtNeighbours(self):
        """Say whether one of them has ended; then the next turn sees to it.  This needs no transaction."""
        if not any(map(rescue.isGone, self._neighbours)):
            return False
        self._guarded = float('-inf')
        return True

    def _survey(self, service, moment):
        """See how many others run jobs, and which of these come before this processor."""
        self._surveyed = moment
        working = [name for name, ledger in service.ledgers.items() if name != self.name
                   and not self._watch.isDead(name, ledger, moment) and ledger.owner.get('threads', 1)]
        self._sharing, self._before = len(working), [name for name in working if name < self.name]
        self._working = sum(bool(service.ledgers[name].claimed) for name in working)
        self.freeBefore = min(self.freeBefore, len(self._before))

    def clean(self, keep):
        """Remove some of the jobs that ended long ago, in a transaction of its own; return how many.

        keep -- status -> seconds for which jobs in it are kept.

        Each host sees to what it has brought to an end itself, and the scheduler to what nobody else sees to.
        """
        try:
            self._begin()
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
            self._rest()
            raise

    def leave(self, unstarted=()):
        """Give back all claims, those on the ids of `unstarted` as such, and give up the ledger."""
        def leave():
            service = self._service()
            ledger = service.ledgers[self.name]
            if ledger.owner and ledger.owner['token'] == self.owner['token']:
                for jobid in list(ledger.claimed.keys()):
                    rescue.interrupt(service, self.name, jobid, jobid in unstarted, self.clock())
                ledger.owner = None
                if service.schedule.keeper == self.name:
                    service.schedule.keeper = None

        transact(self._manager, leave, ATTEMPTS)
        self.inFlight.clear()

    def close(self):
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        rest(self._manager)
        try:
            connection.close()
        except Exception as error:
            if not isDatabaseError(error):
                raise
            log.warning('processing host %s: the database is away, its connection is given up: %s', self.name, error)
