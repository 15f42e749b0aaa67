"""Processors: the threads that keep a service's ledger and run its jobs."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import random
import threading
import time

import transaction
from ZODB.POSException import ConflictError
from zope.interface import implementer

from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import isPause
from lovely.remotetask.common.checks import isSpan
from lovely.remotetask.common.checks import isWhole
from lovely.remotetask.database.connections import SharedClient
from lovely.remotetask.database.connections import ThreadConnection
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import atPath
from lovely.remotetask.database.transactions import transact
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import TimeLimitExceeded
from lovely.remotetask.execution.control import running
from lovely.remotetask.execution.run import failed
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import IProcessor
from lovely.remotetask.processing.cycle import ATTEMPTS
from lovely.remotetask.processing.cycle import CLEANED
from lovely.remotetask.processing.cycle import Cycle
from lovely.remotetask.processing.cycle import Deposed
from lovely.remotetask.processing.fence import touched
from lovely.remotetask.processing.in_flight import ENDED
from lovely.remotetask.processing.in_flight import WAITING_LOOK
from lovely.remotetask.processing.in_flight import Roster
from lovely.remotetask.processing.load_sharing import HELD_UP
from lovely.remotetask.processing.load_sharing import WARM
from lovely.remotetask.processing.worker import TOLD_FAILURES
from lovely.remotetask.processing.worker import Worker
from lovely.remotetask.processing.worker import pause
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.transitions import Returned


log = logging.getLogger('lovely.remotetask')

#: Seconds of work that the threads have in store at the most, so that a commit does not leave them idle.
STORE = 0.1

#: Jobs that one processor has claimed at the most.
MOST = 1000

#: Seconds after which a claimed job is looked at again before it is started: it may have been cancelled.
STALE = 0.1

#: Seconds between two looks for jobs to be removed, and between two transactions when there are many.
CLEAN_LOOK, CLEAN_PAUSE = 10.0, 0.1

#: Seconds between two turns of an idle processor that is told of the commits of others.
TOLD = 5.0

#: Seconds between two turns of one that is not told, at the least: a `waitTime` of 0 does not keep a core busy.
LEAST_WAIT = 0.01

#: The most threads that run jobs.
MOST_THREADS = 1000

#: Seconds for which the first releases slept when they had started a thread.  Nothing sleeps here; the name stays for
#: programs that set it.
THREAD_STARTUP_WAIT = 0.05

#: Seconds between two looks of an idle processor at others on its machine: so soon it sees that one of them died.
NEIGHBOUR_LOOK = 0.4

#: Seconds that an idle processor leaves to one with a free thread that comes before it; to n of them, n * n times that,
#: but no more than the second.
PRECEDENCE, LONGEST_PRECEDENCE = 0.01, 0.5

#: Seconds after which a thread that has nothing to do gives its client of the database back, if WARM processors or more
#: come before this one.
REST = 30.0

#: Seconds that a thread has to end when it runs nothing: it may be opening a client.
LAST_JOIN = 3.0

#: Of so many turns that fail in a row the last one claims nothing.
CLAIMING = 4


@implementer(IProcessor)
class MultiProcessor:
    """Processes the jobs of one service in several threads: see `IProcessor`.

    One thread, the one that calls this, goes through the ledger cycle (see `cycle`); `maxThreads` others run jobs.
    A job that does not write to the database gives its outcome to the cycle, which commits many together.  One that
    does is completed in its own transaction: what it wrote and its completion are committed together or not at all.

    db -- the `ZODB.DB`.
    servicePath -- names from the root folder down to the service, as `sites.pathOf` gives.
    waitTime -- seconds between two looks at an idle database; 0 for as few as make sense.
    maxThreads -- how many jobs run at a time; 0 for none.
    name -- the name of the processing host, kept over restarts; None for one that is free on this machine.
    lease -- seconds after which it may be taken for dead when it is silent.
    schedule -- whether it may become the scheduler, which one processor at a time is.
    keep -- final status -> seconds for which jobs in it are kept; one that is not there: for ever.
    tasks -- a `SharedClient` of the database that the tasks see (see `Database.taskClient`); default: of `db`.

    Raise `ValueError` that names the argument for a value out of range.
    """

    ordered = False
    threadName = 'remotetasks'

    def __init__(self, db, servicePath, waitTime=1.0, maxThreads=5, name=None, lease=30.0, schedule=True, keep=None,
                 tasks=None, clock=time.time, monotonic=time.monotonic):
        check('waitTime', waitTime, isPause(waitTime), 'a number of seconds, 0 or more')
        check('maxThreads', maxThreads, isWhole(maxThreads, 0, MOST_THREADS), f'a number from 0 to {MOST_THREADS}')
        check('name', name, name is None or isinstance(name, str) and name != '', 'a name')
        check('lease', lease, isSpan(lease), 'a number of seconds above 0')
        for status, seconds in {} if keep is None else keep.items():
            check('keep', status, status in FINAL, f'one of {", ".join(FINAL)}')
            check(f'keep {status}', seconds, isPause(seconds), 'a number of seconds, 0 or more')
        self.db, self.servicePath, self.waitTime, self.maxThreads = db, tuple(servicePath), waitTime, maxThreads
        self.clock, self.monotonic = clock, monotonic
        self._tasks = SharedClient(db) if tasks is None else tasks
        self.keep = {} if keep is None else dict(keep)
        self._cleanAt = float('-inf')           # when to look for jobs to be removed, by the monotonic clock
        self.cycle = Cycle(db, self.servicePath, name, lease, maxThreads, schedule, self.ordered, clock, monotonic)
        self.running = False
        self.threads = []
        self.thread = None
        self._wakeup = threading.Event()          # with an `interest`, see `CommitNotifier.subscribe`
        self._ended = threading.Event()
        self._ended.set()
        self._deadline = None
        self._stopping = threading.Event()      # set by `stop`
        self._roster = Roster(self._ring, monotonic)
        self.givenBack = 0                      # how many claims the last stop has given back
        self._unstarted = set()                 # ids that were claimed, but not begun before the stop

    @property
    def name(self):
        """The name of the ledger; None before the start when none was given."""
        return self.cycle.name

    @property
    def isStopping(self):
        """Whether `stop` has asked for the end."""
        return self._stopping.is_set()

    # Starting and stopping

    def start(self):
        """Start a daemon thread that calls this; return when the ledger is taken.  Raise `NameTaken`."""
        self._attach()
        self.thread = threading.Thread(target=self._process, name='.'.join((self.threadName,) + self.servicePath),
                                       daemon=True)
        self.thread.start()

    def __call__(self):
        """See `IProcessor`."""
        self._attach()
        self._process()

    def stop(self, timeout=None, wait=None):
        """See `IProcessor`.

        wait -- seconds to wait here, while the jobs go on until `timeout`; default: until it has ended.
        """
        self._deadline = None if timeout is None else self.monotonic() + timeout
        self._stopping.set()
        self.running = False
        self.cycle.threads = 0                  # so that nobody leaves jobs to this one
        self._wakeup.set()
        if wait is None and timeout is not None:
            wait = timeout + 2      # past the deadline the jobs that still run are given back, which takes a commit
        ended = self._ended.wait(wait)
        if not ended and self._late():
            self._giveUp()                      # its thread may be waiting for a database that is away
        return ended

    def _giveUp(self):
        """Tell the runs that still go on to end, and begin none; what they do, or meet, counts no more."""
        self._unstarted.update(claim.jobid for claim in self._roster.takeWaiting())
        self._roster.tell({(run.claim.jobid, run.claim.run) for run in self._roster.runs()},
                          'the processing host stops')

    def _attach(self):
        self.cycle.attach()
        self.running = True
        self.cycle.threads = self.maxThreads
        self._stopping.clear()
        self._ended.clear()
        notifierOf(self.db).subscribe(self._wakeup)

    def _process(self):
        try:
            for number in range(self.maxThreads):
                thread = threading.Thread(target=self._work, daemon=True,
                                          name='.'.join(('remotetask-thread',) + self.servicePath + (str(number + 1),)))
                self.threads.append(thread)
                thread.start()
            self._loop()
        except Deposed as error:
            log.error('processing host %s stops: %s', self.cycle.name, error)
        except Exception:
            log.exception('processing host %s stops', self.cycle.name)
            self._giveUp()
            with contextlib.suppress(Exception):        # else others see that it is gone
                self.cycle.leave(self._unstarted)
        finally:
            self.running = False
            idle = self._roster.isIdle
            self._roster.close()
            self._giveUp()
            for thread in self.threads:
                thread.join(LAST_JOIN if idle else 0.1)     # a task that does not end cannot be waited for
            notifierOf(self.db).unsubscribe(self._wakeup)
            self.cycle.close()
            self._ended.set()

    def _ring(self):
        if not self._wakeup.is_set():             # which is cheaper
            self._wakeup.set()

    # The ledger's thread

    def _loop(self):  # noqa: C901
        failures, reports = 0, []
        while True:
            self._wakeup.interest = None          # what is committed from now on might be missed by the next look
            self._wakeup.clear()
            if not all(thread.is_alive() for thread in self.threads):
                raise RemoteTaskError('a thread that runs jobs has ended')
            try:
                self._endOverdue()
                if self._turn(reports, failures):
                    return
                if self.running and self.keep:
                    self._clean()
            except Deposed:
                raise
            except Exception as error:
                failures += 1
                if not self.running and self._late():       # the database may have been closed meanwhile
                    log.warning('processing host %s: the database is away, and the time to stop is over: what it has '
                                'claimed is run again by others, or when it is started again', self.cycle.name)
                    log.debug('processing host %s: %s', self.cycle.name, error, exc_info=True)
                    return
                if not isDatabaseError(error):
                    log.exception('processing host %s: a transaction failed, it is tried again', self.cycle.name)
                else:
                    log.debug('processing host %s: %s', self.cycle.name, error, exc_info=True)
                if failures in TOLD_FAILURES:
                    log.warning('processing host %s waits for the database: %s', self.cycle.name, error)
                # After a conflict it claims other jobs: no need to wait long.
                shortly = isinstance(error, ConflictError) and failures < 10
                time.sleep(min(pause(0 if shortly else failures, random.random()), self.cycle.lease / 6))
                continue
            failures = 0
            self._wakeup.interest = self.cycle.interest
            if self._wait(self._wakeup, self._idleTime()):
                self._givePrecedence()

    def _wait(self, event, seconds):
        """Wait for an event, but no longer than until a processor of this machine ends; return whether it came."""
        while True:
            wait = min(seconds, NEIGHBOUR_LOOK) if self.cycle.hasNeighbours else seconds
            if event.wait(wait):
                return True
            seconds -= wait
            if seconds <= 0 or self.cycle.lookAtNeighbours():
                return False

    def _givePrecedence(self):
        """Idle: wait a little before looking at what somebody has committed, if others may claim what has come.

        Else each job would be claimed by all idle hosts, and all but one of them meet a conflict; and many idle hosts
        would look, again and again, at what a single one does.
        """
        if not self.cycle.inFlight and self._roster.isIdle:
            precedence = min(PRECEDENCE * self.cycle.freeBefore ** 2, LONGEST_PRECEDENCE)
            self._wait(self._stopping, min(precedence, self._idleTime()))

    def _clean(self):
        """Remove jobs that are old enough: a few at a time, so that nobody waits for it."""
        if self.monotonic() < self._cleanAt:
            return
        try:
            removed = self.cycle.clean(self.keep)
        except Exception as error:
            if not isDatabaseError(error):
                raise
            removed = CLEANED                   # most likely a conflict: go on where it ended
        self._cleanAt = self.monotonic() + (CLEAN_PAUSE if removed >= CLEANED else CLEAN_LOOK)

    def _turn(self, reports, failures):
        """Go once through the cycle, and take what it has settled out of `reports`; return whether that was the last.

        failures -- how often that has failed in a row.  Most likely others claim the same jobs: now and then it claims
            none, so that what has ended is reported, and the others hear of this processor.

        Of two clients of one database each may have seen what the other one has not: what is reported is only settled
        when it can be seen.
        """
        self.cycle.pace, full = self._roster.pace(self.maxThreads), self._roster.fullSince(self.maxThreads)
        self.cycle.busy = 0.0 if full is None else self.monotonic() - full
        # What waits goes back when jobs take longer than was thought: others may be free.
        self._returnWaiting(None if self.cycle.isQuick and self.cycle.busy >= HELD_UP else WAITING_LOOK)
        reports += self._roster.takeReports()
        tid = self._ledgerTid()
        seen = [report for report in reports if getattr(report, 'tid', b'') <= tid]
        unseen = [report for report in reports if getattr(report, 'tid', b'') > tid] if len(seen) < len(reports) else []
        look = self._roster.look()
        claiming = failures % CLAIMING < CLAIMING - 1
        claims, gone = self.cycle.turn(seen, self._want(len(seen)) if self.running and claiming else 0, *look)
        if seen:
            reports[:] = unseen
            notifierOf(self.db).notify(but=self._wakeup)             # whoever waits for results in this process
        self._roster.confirm(look)
        self._roster.tell(gone, 'the job has been cancelled, or is run elsewhere')
        if self.cycle.lost:
            self._roster.drop(self.cycle.lost, 'others took this processing host for silent, and run the job')
        self._roster.add(claims, self._ledgerTid())
        if self.cycle.paused and self._returnWaiting() or not claiming:
            self._wakeup.set()
        return not self.running and (not reports or self._late()) and self._finished()

    def _ledgerTid(self):
        return self.db.lastTransaction() if self._tasks.isSeparate else b''

    def _endOverdue(self):
        """Report the runs whose time limit is over, and tell them to end; what they still do is refused."""
        for run in self._roster.overdue():
            error = TimeLimitExceeded(run.limit)
            run.control.end(str(error))
            now = self.clock()
            self._roster.report(failed(run.claim, error, now - run.limit, now, self.cycle.name, run.policy,
                                       random.random()))

    def _returnWaiting(self, age=None):
        """Have the claims on jobs that have not begun returned by the next turn; return whether there are any.

        age -- see `Roster.takeWaiting`.
        """
        claims = self._roster.takeWaiting(age)
        for claim in claims:
            self._roster.report(Returned(claim.jobid, claim.run))
        return bool(claims)

    def _want(self, ended):
        """Return how many jobs to claim: what keeps the threads busy for STORE seconds, and no more."""
        threads, pace = self.maxThreads - self._roster.stuck, self._roster.pace(self.maxThreads)
        if pace is not None:
            threads = int(min(MOST, threads * max(1, STORE / max(pace, 1e-6))))
        return threads - (len(self.cycle.inFlight) - ended)

    def _idleTime(self):
        wait = max(TOLD if notifierOf(self.db).hearsOthers else LEAST_WAIT, self.waitTime)
        wait = min(wait, self.cycle.lease / 4)
        if not self.running and self._deadline is not None:
            wait = min(wait, self._deadline - self.monotonic())
        if self.cycle.nextTime is not None:
            wait = min(wait, self.cycle.nextTime - self.clock())
        if self.cycle.isQuick and self.cycle.inFlight:
            full = self._roster.fullSince(self.maxThreads)
            wait = min(wait, HELD_UP - (0.0 if full is None else self.monotonic() - full))
        moments = [self.cycle.nextBeat, self._roster.nextMoment(),
                   self._cleanAt if self.keep and self.running else None]
        for moment in moments:
            if moment is not None:
                wait = min(wait, moment - self.monotonic())
        return max(0.0, wait)

    def _late(self):
        return self._deadline is not None and self.monotonic() >= self._deadline

    def _finished(self):
        """Stopping: give back what has not begun; return whether nothing runs any more, or the time is over."""
        self._unstarted.update(claim.jobid for claim in self._roster.takeWaiting())
        if not self._roster.isIdle:
            if not self._late():
                return False
            self._giveUp()
        runs = self._roster.runs()
        self.givenBack = self.cycle.leave(self._unstarted)
        if runs:
            log.warning('processing host %s: the time to stop is over, %d jobs are run again: %s', self.cycle.name,
                        len(runs), ', '.join(str(run.claim.jobid) for run in runs))
        return True

    # The threads that run jobs

    def _work(self):
        worker, hand = self._worker(), self._roster.newHand()
        worker.warmUp()
        while True:
            taken = self._roster.take(hand, 0)
            if taken is None:
                worker.tryAbort()                   # it may wait for long now
                taken = self._roster.take(hand, REST if worker.isOpen else None)
            if taken is ENDED:
                break
            if taken is None:                   # nothing to do for a while
                if self._tasks.isSeparate and self.cycle.rank >= WARM:
                    worker.close()
                continue
            run, waited = taken
            with running(run.control):
                try:
                    report = worker.run(run.claim, waited > STALE, run)
                except BaseException as error:          # no exception ends the thread
                    report = failed(run.claim, error, self.clock(), self.clock(), self.name)
            self._roster.end(run, report)
        worker.close()

    def _worker(self):
        return Worker(self.servicePath, ThreadConnection(self._tasks, 2 * self.maxThreads + 4), self.name,
                      self.clock, self.monotonic, self._mayWait, self._wakeup.set, self._roster.takesTurns)

    def _mayWait(self):
        """Return whether a run may still wait for the database."""
        return not self._roster.closed and (self.running or not self._late())

    # By hand

    def processNext(self, jobid=None):
        """See `IProcessor`.  In the caller's thread, of which the current transaction must not have begun anything."""
        if touched(transaction.get()):
            raise RemoteTaskError('the current transaction has changes: commit or abort it before a job is processed')
        claim = self._look(lambda service: service.claimNext(self.clock(), jobid))
        if claim is None:
            return False
        worker = self._worker()
        try:
            report = worker.run(claim)
        finally:
            worker.close()
        self._look(lambda service: transitions.acknowledge(service, ready.shardOf(service, claim.jobid).ledger, report,
                                                      self.clock()))
        return True

    def claimNextJob(self):
        """Claim the next job, commit that, and return its id; None when there is none."""
        return self._look(lambda service: service.claimNextJob(self.clock()))

    def hasJobsWaiting(self):
        """See `IProcessor`."""
        return self._look(lambda service: service.hasJobsWaiting(self.clock()))

    def _look(self, function):
        """Return what the function makes of the service, in a transaction of its own."""
        manager = transaction.TransactionManager(explicit=True)
        with contextlib.closing(self.db.open(manager)) as connection:
            return transact(manager, lambda: function(atPath(connection.root()[ROOT_NAME], self.servicePath)), ATTEMPTS)


class Scheduler(MultiProcessor):
    """Runs no jobs, but queues them when they are due, if it comes to be the scheduler."""

    threadName = 'remotetasks-scheduler'

    def __init__(self, db, servicePath, waitTime=1.0, **arguments):
        """The arguments are those of `MultiProcessor`, without `maxThreads`."""
        super().__init__(db, servicePath, waitTime, maxThreads=0, **arguments)

    def _want(self, ended):
        return 0


class SimpleProcessor(MultiProcessor):
    """Processes the jobs of one service one at a time, in the order in which they were added."""

    ordered = True

    def __init__(self, db, servicePath, waitTime=1.0, **arguments):
        """The arguments are those of `MultiProcessor`, without `maxThreads`."""
        super().__init__(db, servicePath, waitTime, maxThreads=1, **arguments)

    def _want(self, ended):
        return 1 - (len(self.cycle.inFlight) - ended)
