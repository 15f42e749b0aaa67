"""The loop of the thread that keeps a host's ledger: report, claim, hand out, wait until there is something to do."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field

from ZODB.POSException import ConflictError

from lovely.remotetask.common.checks import counted
from lovely.remotetask.common.counts import counts
from lovely.remotetask.common.logs import about
from lovely.remotetask.common.logs import line
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import TimeLimitExceeded
from lovely.remotetask.errors import WrongGeneration
from lovely.remotetask.execution.messages import messageOf
from lovely.remotetask.execution.run import failed
from lovely.remotetask.processing.claim_strategy import demand
from lovely.remotetask.processing.claim_strategy import headStart
from lovely.remotetask.processing.claim_strategy import isFar
from lovely.remotetask.processing.claim_strategy import mayClaim
from lovely.remotetask.processing.claim_strategy import store
from lovely.remotetask.processing.cycle import CLEANED
from lovely.remotetask.processing.in_flight import STALE_AFTER
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processing.load_sharing import HELD_UP
from lovely.remotetask.processing.ownership import LeaseLost
from lovely.remotetask.processing.ownership import ServiceRemoved
from lovely.remotetask.processing.worker import TOLD_FAILURES
from lovely.remotetask.processing.worker import pause
from lovely.remotetask.storage.transitions import Returned


log = logging.getLogger('lovely.remotetask')

#: Seconds between two looks for jobs and uploads to be removed, and between two transactions when there are many.
CLEAN_INTERVAL, CLEAN_PAUSE = 10.0, 0.1

#: Seconds between two iterations of an idle host that is told of the commits of others.
TOLD = 5.0

#: Seconds between two iterations of one that is not told, at the least: a `waitTime` of 0 does not keep a core busy.
LEAST_WAIT = 0.01

#: Seconds between two looks of an idle host at others on its machine: so soon it sees that one of them died.
NEIGHBOUR_INTERVAL = 0.4

#: Seconds without the database after which the log says so: a client may wait for half a minute until one try fails.
LONG_AWAY = 10.0

#: Iterations whose durations count.
REMEMBERED = 4

#: Only after so many conflicts in a row the pause grows as after other failures: the next iteration claims other jobs,
#: so it need not wait long.
CONFLICTS = 10


@dataclass(frozen=True)
class Settings:
    """What a host is made with: see `processor.MultiProcessor`."""

    waitTime: float = 1.0
    threads: int = 5
    keep: Mapping = field(default_factory=dict)
    isOrdered: bool = False
    isSeparate: bool = False        # whether the tasks have a client of their own: see `SharedClient.isSeparate`


class ClaimLoop:
    """One thread runs it.  What it shares with other threads is in the `InFlight` and the `Lifecycle`.

    cycle -- the `Cycle`.
    inFlight -- the `InFlight`.
    lifecycle -- the `Lifecycle`.
    pool -- the `WorkerPool`.
    notices -- the `Notices`.
    wakeup -- the `Wakeup` that the notifier of the database sets; its `interest` is a set that is replaced as a whole,
        by this thread alone.
    settings -- the `Settings`.
    clock, monotonic -- return UTC seconds, and seconds of the monotonic clock.
    """

    def __init__(self, cycle, inFlight, lifecycle, pool, notices, wakeup, settings, clock, monotonic):
        self.cycle, self.wakeup, self.clock, self.monotonic = cycle, wakeup, clock, monotonic
        self._inFlight, self._lifecycle, self._pool, self._settings = inFlight, lifecycle, pool, settings
        self._notices = notices
        self._service = pathText(cycle.session.path)        # for the log
        self.reports = []               # that have been taken, but are not settled yet
        self.failures = 0               # iterations that have failed in a row
        self._failingSince = None       # when the first of them began, by the monotonic clock
        self._isToldAway = False        # whether the log says that the database is away
        self.givenBack = 0              # claims that were given back at the end
        self._returned = set()          # ids of the jobs that were given back before, while runs went on
        self._durations = collections.deque(maxlen=REMEMBERED)      # seconds of the last iterations that have written
        self._cleanAt = float('-inf')   # when to look for jobs to be removed, by the monotonic clock

    def run(self):
        """Go on until the host has stopped, and has given back its ledger, or the time for that is over.

        Raise `LeaseLost` when another host has the ledger, `ServiceRemoved` when there is no service any more,
        `WrongGeneration` when it was upgraded beyond this release, and `RemoteTaskError` when a thread of the pool has
        ended.
        """
        while True:
            self.wakeup.interest = None         # what is committed from now on might be missed by the next iteration
            self.wakeup.clear()
            if not self._pool.isAlive:
                raise RemoteTaskError('a thread that runs jobs has ended')
            began = self.monotonic()
            try:
                if self._pass():
                    return
            except (LeaseLost, ServiceRemoved, WrongGeneration):
                raise
            except Exception as error:
                self.failures += 1
                if self._failingSince is None:
                    self._failingSince = began
                if not self._mayGoOn(error):
                    return
                self._tellFailure(error)
                self._backOff(error)
            else:
                self._noteSuccess()
                self._idle()

    def _pass(self):
        """Do all that is to be done between two waits; return whether that was the last time."""
        self._endOverdue()
        self.iterate()
        if self._leaveIfDone():
            return True
        if self._cleans:
            self._clean()
        return False

    @property
    def _cleans(self):
        """Whether there may be something to be removed: by each host what it ended, uploads by the scheduler."""
        return self._lifecycle.isRunning and bool(self._settings.keep or self.cycle.state.isScheduler)

    # One iteration

    def iterate(self):
        """Do one iteration: settle the reports that can be settled, and hand out what is claimed."""
        load = self._inFlight.load(self._settings.threads)
        self._returnStale(load)
        self.reports += self._inFlight.takeReports()
        seen, unseen = self._bySight()
        work = self._work(load, seen)
        began = self.monotonic()
        result = self.cycle.iterate(work)
        if result.isWritten:
            self._durations.append(self.monotonic() - began)
        self.reports = unseen
        try:
            self._tell(work, result)
        finally:                                # whatever happens, what is claimed is run
            self._handOut(result)

    def _returnStale(self, load):
        """Give back what has waited for long: jobs take longer than was thought, and other hosts may be free."""
        isHeldUp = self.cycle.state.isQuick and self._busyFor(load) >= HELD_UP
        self._return(None if isHeldUp else self._staleAfter)

    @property
    def _staleAfter(self):
        """Seconds after which claims that no thread has taken go back to the queue."""
        return max(STALE_AFTER, 2 * store(self._durations))

    def _return(self, age=None):
        """Let the next iteration return the claims on jobs that have not begun; return whether there are any.

        age -- see `InFlight.withdraw`.
        """
        returned = self._inFlight.withdraw(age)
        for report in returned:
            self._inFlight.report(report)
        return bool(returned)

    def _busyFor(self, load):
        return 0.0 if load.busySince is None else self.monotonic() - load.busySince

    def _bySight(self):
        """Return the reports whose transaction the ledger's client has seen, which can be settled, and the others.

        Of two clients of one database each may have seen what the other one has not.
        """
        if not self._settings.isSeparate:
            return self.reports, []
        tid = self._ledgerTid()
        seen = [report for report in self.reports if getattr(report, 'tid', b'') <= tid]
        return seen, [report for report in self.reports if getattr(report, 'tid', b'') > tid]

    def _ledgerTid(self):
        return self.cycle.db.lastTransaction() if self._settings.isSeparate else b''

    def _work(self, load, reports):
        """Return the `Work` of the next iteration."""
        isRunning = self._lifecycle.isRunning
        want = self.demand(load, len(reports)) if isRunning and mayClaim(self.failures) else 0
        # One that is about to stop has no threads, for the record: nobody leaves jobs to it.
        return Work(reports, want, self._settings.threads if isRunning else 0, load.duration, self._busyFor(load),
                    self._inFlight.snapshot(), self.wakeup.takeWritten(), isFar(self._durations))

    def demand(self, load, ended=0):
        """Return how many jobs to claim; 0 or less for none.

        load -- the `Load`.
        ended -- how many of those that are claimed have ended.
        """
        return demand(self._settings.threads, load.unwanted, load.duration, len(self.cycle.openClaims) - ended,
                      self._settings.isOrdered, store(self._durations))

    def _tell(self, work, result):
        """Tell what has come out of an iteration to those who run jobs, or wait for them."""
        self._notices.settled([*((report.jobid, report.run) for report in work.reports), *result.lost], result.outcomes,
                              self.cycle.name)
        self._notices.rescued(result.rescued)
        if not self._lifecycle.isRunning:
            self._returned.update(result.returned)
        if work.reports:
            notifierOf(self.cycle.db).notify(but=self.wakeup)      # whoever waits for results in this process
        self._inFlight.confirm(work.snapshot)
        self._inFlight.interrupt(result.unwanted, 'the job has been cancelled, or is run elsewhere')
        if result.lost:
            self._inFlight.drop(result.lost, 'others took this processing host for silent, and run the job')
        self._inFlight.lookAt(result.asked)

    def _handOut(self, result):
        """Pass on what is claimed to those who run jobs."""
        self._notices.claimed(result.claims)
        self._inFlight.add(result.claims, self._ledgerTid())
        if result.state.paused and self._return() or not mayClaim(self.failures) or result.state.hasMore:
            self.wakeup.set()

    def _endOverdue(self):
        """Report the runs whose time limit is over, and tell them to end; what they still do is refused."""
        for execution in self._inFlight.takeOverdue():
            error = TimeLimitExceeded(execution.limit)
            execution.control.end(str(error))
            now = self.clock()
            self._inFlight.report(failed(execution.claim, error, now - execution.limit, now, self.cycle.name,
                                         execution.policy, random.random(), self._service))

    def _clean(self):
        """Remove jobs and uploads that are old enough: a few at a time, so that nobody waits for it."""
        if self.monotonic() < self._cleanAt:
            return
        try:
            removed = self.cycle.clean(self._settings.keep)
        except Exception as error:
            if not isDatabaseError(error):
                raise
            removed = CLEANED                   # most likely a conflict: go on where it ended
        self._cleanAt = self.monotonic() + (CLEAN_PAUSE if removed >= CLEANED else CLEAN_INTERVAL)

    # The end

    def _leaveIfDone(self):
        """If the host is to stop, and nothing runs any more or the time is over, return its claims to the queues.

        Return whether that was done.
        """
        if self._lifecycle.isRunning or self.reports and not self._lifecycle.isLate:
            return False
        if not self._inFlight.isIdle and not self._lifecycle.isLate:
            self._returnEarly()
            return False
        unstarted = self._inFlight.withdrawUnstarted()
        if not self._inFlight.isIdle:
            self._inFlight.giveUp('the processing host stops')
        running = {execution.claim.jobid for execution in self._inFlight.executions()}
        again = sorted(running & self._leave(unstarted))            # others were cancelled, or must not run twice
        if again:
            log.warning('processing host %s: the time to stop is over, it gives back %s to be run again: %s',
                        self.cycle.name, counted(len(again), 'job'), ', '.join(map(str, again)),
                        extra=self._about('host.gaveBack', jobs=len(again)))
        return True

    def _returnEarly(self):
        """Give back what has not begun while runs go on: others begin it meanwhile."""
        if self._return():
            self.wakeup.set()

    def _leave(self, unstarted):
        """Give back all claims, those on the ids of `unstarted` as such, and the ledger.

        Return the ids of the jobs that are in their queues then.
        """
        self.reports += self._inFlight.takeReports()
        pending = {report.jobid for report in self.reports if isinstance(report, Returned)}
        rescued = self.cycle.leave(unstarted | pending)
        self.givenBack = len(self._returned | rescued.returned)
        self._notices.rescued(rescued.ends)
        return rescued.returned

    # Failures

    def _mayGoOn(self, error):
        """Return whether there is time for another try.  The database may have been closed meanwhile."""
        if not self._lifecycle.isLate:
            return True
        log.warning('processing host %s: the database is away, and the time to stop is over: what it has claimed is '
                    'run again by others, or when it is started again', self.cycle.name,
                    extra=self._about('database.away'))
        log.debug('processing host %s: %s', self.cycle.name, error, exc_info=error)
        return False

    def _tellFailure(self, error):
        if not isDatabaseError(error):
            log.error('processing host %s: a transaction failed, it is tried again', self.cycle.name, exc_info=error)
            return
        log.debug('processing host %s: %s', self.cycle.name, error, exc_info=error)
        isLong = self.monotonic() - self._failingSince >= LONG_AWAY
        if isLong and (self.failures in TOLD_FAILURES or not self._isToldAway):
            self._isToldAway = True
            log.warning('processing host %s waits for the database: %s', self.cycle.name, line(messageOf(error)),
                        extra=self._about('database.away'))

    def _noteSuccess(self):
        if self._isToldAway:
            log.info('processing host %s has the database again', self.cycle.name, extra=self._about('database.back'))
        self.failures, self._failingSince, self._isToldAway = 0, None, False

    def _about(self, event, **more):
        return about(event, service=self._service, host=self.cycle.name, **more)

    def _backOff(self, error):
        isShort = isinstance(error, ConflictError) and self.failures < CONFLICTS
        wait = min(pause(0 if isShort else self.failures, random.random()), self.cycle.lease / 6)
        counts.add('database_wait_seconds', 'cycle', number=wait)
        time.sleep(wait)

    # Waiting

    def _idle(self):
        """Wait until there is something to do."""
        self.wakeup.interest = self.cycle.state.interest
        if self._wait(self.wakeup, self.idleTime()):
            self._giveHeadStart()

    def _wait(self, event, seconds):
        """Wait for an event, but no longer than until a host of this machine ends; return whether it came."""
        while True:
            wait = min(seconds, NEIGHBOUR_INTERVAL) if self.cycle.peers.hasNeighbours else seconds
            if event.wait(wait):
                return True
            seconds -= wait
            if seconds <= 0 or self.cycle.peers.hasNeighbourEnded():
                return False

    def _giveHeadStart(self):
        """Idle: wait a little before looking at what somebody has committed, if other hosts may claim what has come.

        Else each job would be claimed by all idle hosts, and all but one of them meet a conflict; and many idle hosts
        would look, again and again, at what a single one does.
        """
        if not self.cycle.openClaims and self._inFlight.isIdle:
            self._wait(self._lifecycle.stopRequested, min(headStart(self.cycle.state.freeBefore), self.idleTime()))

    def idleTime(self):
        """Return for how many seconds there is nothing to do, if nobody wakes the host."""
        wait = min(max(TOLD if notifierOf(self.cycle.db).hearsOthers else LEAST_WAIT, self._settings.waitTime),
                   self.cycle.lease / 4)
        return max(0.0, min(wait, *self._waits()))

    def _waits(self):
        """Return the seconds until each of the moments at which there is something to do."""
        state, moment = self.cycle.state, self.monotonic()
        waits = [self.cycle.nextBeat - moment]
        if (remaining := self._lifecycle.remaining) is not None:
            waits.append(remaining)
        if state.nextTime is not None:
            waits.append(state.nextTime - self.clock())
        if state.leaving.until is not None:
            waits.append(state.leaving.until - moment)
        if state.isQuick and self.cycle.openClaims:
            waits.append(HELD_UP - self._busyFor(self._inFlight.load(self._settings.threads)))
        if (nextMoment := self._inFlight.nextMoment(self._staleAfter)) is not None:
            waits.append(nextMoment - moment)
        if self._cleans:
            waits.append(self._cleanAt - moment)
        return waits
