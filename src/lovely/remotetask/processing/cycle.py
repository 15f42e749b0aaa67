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

from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import atPath
from lovely.remotetask.database.transactions import transact
from lovely.remotetask.database.transactions import tryAbort
from lovely.remotetask.errors import NameTaken
from lovely.remotetask.execution.tasks import lacking
from lovely.remotetask.execution.tasks import queryTask
from lovely.remotetask.processing import rescue
from lovely.remotetask.processing.fence import touched
from lovely.remotetask.processing.load_sharing import WARM
from lovely.remotetask.processing.load_sharing import Pace
from lovely.remotetask.processing.load_sharing import Precedence
from lovely.remotetask.processing.load_sharing import rateOf
from lovely.remotetask.processing.load_sharing import roomOf
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import cleanup
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.evolve import evolve
from lovely.remotetask.storage.ledger import ALONE
from lovely.remotetask.storage.ledger import LONG
from lovely.remotetask.storage.ledger import ONCE
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.storage.shards import SHARDS


log = logging.getLogger('lovely.remotetask')

#: Seconds between two looks at whether other hosts are alive, and at what they do.
LOOK = 0.3

#: Seconds between two looks of an idle processor at how many others there are: when jobs wait, and when there are none.
SURVEY, IDLE_SURVEY = 2.0, 60.0

#: How many living processors each one watches: those that come after it, by name.  So many must end at once, with
#: those that watch them, to be noticed later than one.
WATCHED = 3

#: Seconds between two times that a scheduler gives its role to another host, because of jobs that it cannot handle.
HANDOVER = 60.0

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
        self.lost = []                  # pairs of id and run, of the claims that the last turn found to be lost
        self.owner = hosts.identity(threads=threads, lease=lease, since=clock(), schedule=schedule)
        self._watch = hosts.Watch(lease)
        self._guarded = self._surveyed = self._handed = float('-inf')
        self._isKeeper = False          # whether this was the scheduler in the last turn
        self._beaten = monotonic()      # when the last heartbeat was written
        self._rescued = False           # whether others took this processor for silent, and it has not dealt with that
        self._contended = False         # whether the last turn failed because of what others have written
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

    @property
    def nextBeat(self):
        """When the next heartbeat is due, by the monotonic clock."""
        return self._beaten + self.lease / 3

    def _begin(self):
        if self._connection is None:
            self._connection = self.db.open(self._manager)
        self._manager.begin()

    def _rest(self):
        """End a transaction that has failed.  A connection that cannot be used any more is replaced by another one."""
        if not tryAbort(self._manager):
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
            silent = self._awaitSilence()
            transact(self._manager, lambda: self._take(silent), ATTEMPTS)
        except BaseException:
            self.close()        # a database can't be closed while a connection is open outside of a transaction
            raise
        self._wrote(self.monotonic())

    def _checkName(self, ledger, silent):
        """Raise `NameTaken` if the ledger has an owner that may live; return the seconds of a silent one, or None.

        silent -- the serial of the ledger since which nothing was heard of its owner; see `_awaitSilence`.
        """
        owner = ledger.owner
        if owner is None or owner['token'] == self.owner['token']:
            return None
        gone = hosts.isGone(owner)
        if gone is False or gone is None and ledger._p_serial != silent:
            raise NameTaken(self.name, f'on {owner["machine"].partition("/")[0]}, process {owner["pid"]}')
        return None if gone else self._patience(owner)

    def _patience(self, owner):
        """Return for how many seconds a heartbeat of an owner is waited for before its name is taken."""
        return owner.get('lease', self.lease) / 2 + 1

    def _take(self, silent):
        service = self._service()
        if self.name is None:
            self.name = self._freeName(service)
        ledger = service.ledgers.get(self.name)
        if ledger is None:
            ledger = service.ledgers[self.name] = Ledger()
        ledger.number = service.hosts.add(self.name)
        seconds = self._checkName(ledger, silent)
        rescue.rescue(service, self.name, self.clock(), seconds)
        ledger.owner = self.owner

    def _awaitSilence(self):
        """Wait for as long as a heartbeat may take, if a host of this name may live, which this machine cannot see.

        Return the serial of the ledger if nothing is heard of that host, or None if there is none.  Raise `NameTaken`
        if it is heard of.
        """
        wakeup, until, heard = threading.Event(), None, None
        while self.name is not None:
            owner, serial = transact(self._manager, self._lastOwner)
            if owner is None or hosts.isGone(owner) is not None:
                return None
            if until is None:
                log.info('a processing host named %s may live on another machine: waiting whether it is heard of',
                         self.name)
                until, heard = self.monotonic() + self._patience(owner), serial
            if serial != heard:
                raise NameTaken(self.name, f'on {owner["machine"].partition("/")[0]}, process {owner["pid"]}')
            if self.monotonic() > until:
                return heard
            wakeup.wait(LOOK)

    def _lastOwner(self):
        ledger = self._service().ledgers.get(self.name)
        return ledger and ledger.owner, ledger and ledger._p_serial         # in this order: it has to be loaded

    def _freeName(self, service):
        number = 1
        while True:
            name = f'{socket.gethostname()}-{number}'
            ledger = service.ledgers.get(name)
            if ledger is None or hosts.isGone(ledger.owner):
                return name
            number += 1

    def turn(self, reports, want, long=(), progress=(), watched=()):  # noqa: C901
        """Do one transaction; return a list of `Claim`s to run, and those in `watched` whose runs are not wanted.

        reports -- `Outcome`s, `Recorded`s and `Returned`s to settle.
        want -- how many jobs to claim at the most.
        long -- pairs of id and seconds, of jobs that have been running for a while, which is put on record.
        progress -- pairs of id and how far its run is: a pair of a fraction or None, and a text.
        watched -- pairs of id and run, of jobs that may have been cancelled.

        Raise what the database raises, having changed nothing that is known of; then the same reports must come
        again.  Raise `Deposed` when the ledger is somebody else's.

        When others have taken this processor for silent and rescued its jobs it goes on: the claims that it has lost
        are in `lost` then.
        """
        if self._contended and self.monotonic() >= self.nextBeat:
            self._beat()
        try:
            self._begin()
            service = self._service()
            ledger = service.ledgers[self.name]
            self._own(ledger)
            lost = [(jobid, run) for jobid, run in self.inFlight.items()
                    if ledger.claimed.get(jobid) != run] if self._rescued else []
            if ledger.owner.get('threads') != self.threads:
                ledger.owner = dict(ledger.owner, threads=self.threads)
            now, moment = self.clock(), self.monotonic()
            self._tellPace(service, ledger, bool(reports or long), moment)
            for report in reports:
                transitions.acknowledge(service, ledger, report, now)
            for jobid, seconds in long:
                ledger.mark(jobid, LONG, now - seconds)
            for jobid, state in progress:
                if jobid in ledger.claimed:
                    ledger.progress[jobid] = state
            gone = [(jobid, run) for jobid, run in watched if ledger.claimed.get(jobid) != run
                    or not transitions.holds(service.jobs.get(jobid), transitions.Recorded(jobid, run))]
            pause = min(LOOK, self.lease / 4)
            lines = self._guard(service, moment, now) if moment - self._guarded >= pause else []
            if moment - self._surveyed >= (pause if self.inFlight else
                                           SURVEY if ready.isWaiting(service) else IDLE_SURVEY):
                self._survey(service, moment)
            isKeeper, wasKeeper = service.schedule.scheduler == self.name, self._isKeeper
            self._isKeeper = isKeeper
            if wasKeeper and not isKeeper:
                self._handed = moment
            more = isKeeper and scheduling.tick(service, now)
            if isKeeper and service.schedule.aside:
                lines += self._handOver(service, moment)
            claims, shard = self._claim(service, ledger, 0 if service.paused else want, now, moment)
            if self._doubt:
                claims += self._adopt(service, ledger, reports, claims)
            self._mark(service, ledger, claims)
            # In doubt it writes in any case: then a commit that is still under way can only fail.
            if self._doubt or moment >= self.nextBeat:
                ledger._p_changed = True
            nextTime = None if not isKeeper else now if more else service.schedule.nextTime()
            paused = service.paused
            interest, isQuick = ready.interest(service, ledger, not self._spared), bool(rateOf(ledger.owner))
            if touched(self._manager.get()):
                isBeat = bool(ledger._p_changed)
                self._manager.commit()
                self._wrote(moment if isBeat else None)
            else:
                self._manager.abort()
        except BaseException as error:
            self._rest()
            # Most likely another host has claimed the same jobs: go elsewhere, in the queues and in each of them.
            self._shard, self._skip = random.randrange(SHARDS), random.randrange(SKIP)
            # A conflict is certain; of a connection that broke, nobody knows what it still brought to the server.
            self._contended = isinstance(error, ConflictError)
            self._doubt = self._doubt or not isinstance(error, (ConflictError, Deposed))
            raise
        for line in lines:
            log.warning(*line)
        if self._rescued:
            log.warning('processing host %s was silent for its lease of %g s, as others saw it: they run the '
                        '%d jobs that it had claimed, and it goes on with others', self.name, self.lease, len(lost))
        self.lost, self._rescued, self._contended = lost, False, False
        self._shard, self._doubt, self.nextTime, self.paused = shard, False, nextTime, paused
        self.interest, self.isQuick = interest, isQuick
        self._skip = 0
        ended = [(report.jobid, report.run) for report in reports]
        for jobid, run in ended + lost:
            if self.inFlight.get(jobid) == run:             # else it is of a run that was over before
                del self.inFlight[jobid]
        self.inFlight.update((claim.jobid, claim.run) for claim in claims)
        return claims, gone

    def _own(self, ledger):
        """Take the ledger back if it has no owner any more; raise `Deposed` if it has another one."""
        if ledger.owner is None:
            ledger.owner = dict(self.owner, threads=self.threads)
            self._rescued = True
        elif ledger.owner['token'] != self.owner['token']:
            raise Deposed(f'{self.name!r} was taken over')

    def _beat(self):
        """Write the heartbeat and nothing else, so that it cannot conflict with anything but a rescue."""
        moment = self.monotonic()
        try:
            self._begin()
            ledger = self._service().ledgers[self.name]
            self._own(ledger)
            ledger._p_changed = True
            self._manager.commit()
        except BaseException:
            self._rest()
            raise
        self._wrote(moment)

    def _wrote(self, beat=None):
        """Note that a commit has succeeded.

        beat -- when the heartbeat was written that was in it, by the monotonic clock; None if there was none.
        """
        if beat is not None:
            self._beaten = beat
        self._watch.wrote(self.monotonic())

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
        lacks = functools.cache(functools.partial(lacking, service, self.name))
        suspects = [] if ALONE in ledger.started.values() else claiming.claimSuspect(service, now, ledger, lacks)
        suspects += claiming.claimStranded(service, want - len(suspects), now, lacks, ledger)
        want -= len(suspects)
        if self.ordered:
            return suspects or claiming.claimOldest(service, now, ledger, lacks), 0
        skip = self._skip
        if want and (self._sharing or skip):
            # If there are others (a conflict may be the first that is heard of them), no more than a fair share of all,
            # once the threads have something to do; and each at a place of its own.  Those that do nothing have no
            # share in short jobs.
            held, others = len(ledger.claimed), (self._working if self.isQuick else self._sharing) + 1
            stride = max(want, PLACE)
            room = roomOf(map(service.ledgers.__getitem__, self._before), self.owner)
            waiting = ready.waiting(service, 1 if room.jobs == math.inf else room.jobs + (stride + held) * others)
            want = min(want, max(self.threads, -(-(waiting + held) // others)) - held)
            left = self._precedence.leave(room, waiting, moment)
            if waiting:
                self.freeBefore = len(room.serials)
            if left >= waiting > 0:
                self._spared = room.isQuick and self.rank >= WARM and not self.inFlight
                return suspects, self._shard
            place = skip + (stride * len(self._before) if held else 0)
            skip = left + place % max(1, waiting - left - want + 1)
        claims, shard = claiming.claim(service, want, self._shard, now, ledger, skip, lacks)
        return suspects + claims, shard

    def _adopt(self, service, ledger, reports, claims):
        """Return the claims in the ledger that this process does not know of: a commit whose answer was lost.

        Those whose jobs have been brought forward by others meanwhile are closed.
        """
        known = set(self.inFlight) | {claim.jobid for claim in claims} | {report.jobid for report in reports}
        adopted = []
        for unknown in [transitions.Recorded(*item) for item in ledger.claimed.items() if item[0] not in known]:
            job = service.jobs.get(unknown.jobid)
            if transitions.holds(job, unknown):
                adopted.append(transitions.claimOn(job))
            else:
                transitions.acknowledge(service, ledger, unknown, self.clock())
        return adopted

    def _guard(self, service, moment, now):
        """See whether the next processors live; take in the jobs of those that are lost, and the schedule.

        Return what the log is to say when that is committed: a list of lines with their arguments.

        Each is watched by some, and nobody by all: many hosts that do nothing are to cost little.
        """
        self._guarded, alive, self._neighbours, lines = moment, 0, [], []
        names = list(service.ledgers)
        place = names.index(self.name)
        for name in names[place + 1:] + names[:place]:
            ledger = service.ledgers[name]
            state = self._watch.stateOf(name, ledger, moment)
            if state == hosts.ALIVE:
                alive += 1
                if hosts.isGone(ledger.owner) is False:
                    self._neighbours.append(ledger.owner)
                if alive == WATCHED:
                    break
            elif ledger.claimed or service.schedule.scheduler == name:
                lease = self._watch.leaseOf(ledger.owner) if state == hosts.SILENT else None
                count = rescue.rescue(service, name, now, lease)
                about = 'has ended' if lease is None else f'was silent for more than {lease:g} s'
                lines.append(('processing host %s %s: %d of its jobs are queued again by %s', name, about, count,
                              self.name))
                if service.schedule.scheduler == name:
                    service.schedule.scheduler = None
        if self.schedule and service.schedule.scheduler is None:
            service.schedule.scheduler = self.name
        return lines

    def _handOver(self, service, moment):
        """Make another host the scheduler, now and then: there are jobs that this one cannot handle.

        Return what the log is to say when that is committed, as `_guard` does.
        """
        if moment - self._handed < HANDOVER:
            return []
        names = list(service.ledgers)
        place = names.index(self.name)
        for name in names[place + 1:] + names[:place]:
            ledger = service.ledgers[name]
            if self._watch.stateOf(name, ledger, moment) == hosts.ALIVE and ledger.owner.get('schedule', True):
                service.schedule.scheduler = name
                return [('%s becomes the scheduler: %s cannot handle %d jobs', name, self.name,
                         len(service.schedule.aside))]
        return []

    @property
    def hasNeighbours(self):
        """Whether there are processors on this machine to be watched by this one."""
        return bool(self._neighbours)

    def lookAtNeighbours(self):
        """Say whether one of them has ended; then the next turn sees to it.  This needs no transaction."""
        if not any(map(hosts.isGone, self._neighbours)):
            return False
        self._guarded = float('-inf')
        return True

    def _survey(self, service, moment):
        """See how many others run jobs, and which of these come before this processor."""
        self._surveyed = moment
        working = [name for name, ledger in service.ledgers.items() if name != self.name
                   and self._watch.stateOf(name, ledger, moment) == hosts.ALIVE and ledger.owner.get('threads', 1)]
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
            if service.schedule.scheduler == self.name:
                ledgers += (shard.ledger for shard in service.shards)
                ledgers += (ledger for ledger in service.ledgers.values() if hosts.isGone(ledger.owner))
            for ledger in ledgers:
                for status, seconds in keep.items():
                    removed += cleanup.cleanLedger(service, ledger, [status], CLEANED - removed, now - seconds)
            self._manager.commit() if removed else self._manager.abort()
            return removed
        except BaseException:
            self._rest()
            raise

    def leave(self, unstarted=()):
        """Give back all claims, those on the ids of `unstarted` as such, and give up the ledger; return how many."""
        def leave():
            service, jobids = self._service(), []
            ledger = service.ledgers[self.name]
            if ledger.owner and ledger.owner['token'] == self.owner['token']:
                jobids = list(ledger.claimed.keys())
                for jobid in jobids:
                    rescue.interrupt(service, self.name, jobid, jobid in unstarted, self.clock())
                ledger.owner = None
                if service.schedule.scheduler == self.name:
                    service.schedule.scheduler = None
            return len(jobids)

        count = transact(self._manager, leave, ATTEMPTS)
        self.inFlight.clear()
        return count

    def close(self):
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        tryAbort(self._manager)
        try:
            connection.close()
        except Exception as error:          # it refuses to with changes that could not be aborted, too
            self._manager = transaction.TransactionManager(explicit=True)
            log.warning('processing host %s: its connection to the database is given up: %s', self.name, error)
