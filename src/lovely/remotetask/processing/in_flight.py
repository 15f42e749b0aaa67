"""What a host has in flight: claims that wait for a thread, runs that go on, reports of those that have ended."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import functools
import threading
from typing import NamedTuple

from lovely.remotetask.execution.control import Control
from lovely.remotetask.processing.contention import Contention
from lovely.remotetask.processing.iteration import Snapshot
from lovely.remotetask.storage.transitions import Returned


#: Seconds after which it is put on record that a job runs: what is shorter costs no transaction of its own.
LONG_AFTER = 1.0

#: Seconds after which claims that no thread has taken are looked at, unless iterations take long.
STALE_AFTER = 0.5

#: Seconds between two writes of progress.
PROGRESS_PAUSE = 1.0

#: Seconds of work that a thread takes at once, when jobs are short: each time costs a change of threads.
BATCH = 0.002

#: What `InFlight.acquire` returns when there will be no more.
ENDED = 'ended'


class Waiting(NamedTuple):
    """A claim that waits for a thread."""

    claim: object
    tid: bytes          # of a transaction in which the claim can be seen
    since: float        # when that was committed at the latest, by the monotonic clock


class Load(NamedTuple):
    """How busy the threads are."""

    duration: float | None      # seconds that a job takes lately; None for unknown
    busySince: float | None     # since when all are busy with the same jobs, by the monotonic clock; None: they are not
    unwanted: int               # how many run something whose outcome is not wanted


class Execution:
    """A run that goes on in one of the threads.

    `control` guards itself.  `claim`, `tid` and `added` do not change.  All else is written under the lock of the
    `InFlight` that it belongs to; the methods here, for the thread that runs the job, see to that.  That thread may
    read without the lock what it alone writes: `began`, `cold`, `policy`, `limit`, `conflicts`.  Others read it under
    the lock; but `policy` and `limit`, which are set together and once, also after `InFlight.takeOverdue`.
    """

    def __init__(self, claim, tid, added, began, onProgress, lock):
        """`tid` and `added` are as in `Waiting`; `began` is of the monotonic clock."""
        self.claim, self.tid, self.added, self.began = claim, tid, added, began
        self.control = Control(claim.jobid, onProgress)
        self.limit = self.policy = None         # its time limit in seconds, its retry policy: when they are known
        self.cold = False                       # whether it is the first one in its connection, which takes longer
        self.conflicts = 0                      # how often it has been repeated because of a conflict
        self.unwanted = False                   # whether its time limit is over, or its claim is lost
        self.marked = False                     # whether it is on record that it runs
        self.shown = None                       # the progress that has been written
        self._lock = lock

    @property
    def token(self):
        """The pair of id and run that tells it from all others."""
        return self.claim.jobid, self.claim.run

    def begin(self, moment, cold):
        """Note when it has begun, by the monotonic clock, and whether it is the first one in its connection."""
        with self._lock:
            self.began, self.cold = moment, cold

    def setRules(self, policy, limit):
        """Note the retry policy, and the time limit in seconds or None."""
        with self._lock:
            self.policy, self.limit = policy, limit

    def countConflict(self):
        """Note that it is repeated because of a conflict."""
        with self._lock:
            self.conflicts += 1


class InFlight:
    """The state that the thread which keeps the ledger shares with those that run jobs, and with who stops them.

    `_lock` guards all attributes that change, those of the `Execution`s, and the queues of the threads.  While a method
    holds it, it waits for nobody and calls nothing but the clock.

    wake -- a callable that has the ledger's thread look.
    monotonic -- returns seconds of the monotonic clock.
    """

    def __init__(self, wake, monotonic):
        self._wake, self._monotonic = wake, monotonic
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._waiting = collections.deque()     # of `Waiting`
        self._queues = []                       # of each thread what it has acquired, but not begun: `Waiting`s
        self._executions = set()
        self._reports = []
        self._unstarted = set()                 # ids of claims that were withdrawn for good before they began
        self._average = None                    # seconds that a job takes
        self._closed = False                    # whether nothing will be acquired any more
        self._shownAt = float('-inf')           # when progress was written last
        self._hasProgress = False               # whether there is more to write
        self._contention = Contention()
        self._asked = frozenset()               # ids of the jobs of which somebody has asked where their runs are
        self._stacks = {}                       # id -> text, the answers that are not on record yet

    # For the thread that keeps the ledger

    def add(self, claims, tid):
        """Add claims, to be run as soon as a thread is free; `tid` is of a transaction in which they can be seen."""
        moment = self._monotonic()
        with self._lock:
            self._waiting.extend(Waiting(claim, tid, moment) for claim in claims)
            self._ready.notify(min(len(claims), len(self._queues)))

    def withdraw(self, age=None):
        """Return the claims that no thread has begun, as `Returned`s, and forget them.

        age -- seconds: only if the first of them has waited for so long; default: in any case.  Those that wait for
            a run of their task here are to be the last in their queue then: at its head they would come back at once,
            and hold up the jobs of other tasks.
        """
        with self._lock:
            since = self._waitingSince()
            if since is None or age is not None and self._monotonic() - since < age:
                return []
            held = set() if age is None else self._heldTasks()
            return [Returned(claim.jobid, claim.run, claim.task in held) for claim in self._withdraw()]

    def _withdraw(self):
        self._putBack()
        claims = [entry.claim for entry in self._waiting]
        self._waiting.clear()
        return claims

    def _waitingSince(self):
        """Return since when the first claim waits that no thread has begun; None when there is none."""
        return min((queue[0].since for queue in (self._waiting, *self._queues) if queue), default=None)

    def _putBack(self):
        """Take from the threads what they have not begun."""
        for queue in self._queues:
            self._waiting.extendleft(reversed(queue))
            queue.clear()

    def load(self, threads):
        """Return the `Load` of so many threads.

        The duration is that of the jobs that have ended, or of those that keep all threads busy, if that is longer.
        """
        with self._lock:
            duration, since = self._average, self._busySince(threads)
            if duration is not None and since is not None:
                duration = max(duration, self._monotonic() - since)
            return Load(duration, since, sum(execution.unwanted for execution in self._executions))

    def _busySince(self, threads):
        if not self._executions or len(self._executions) < threads:
            return None
        return max(execution.began for execution in self._executions)

    def takeReports(self):
        """Return the reports of what has ended, and forget them."""
        with self._lock:
            reports, self._reports = self._reports, []
            return reports

    @property
    def isIdle(self):
        """Whether nothing runs, and nothing is left to report."""
        with self._lock:
            return not self._executions and not self._reports

    def executions(self):
        """Return a list of the `Execution`s that go on."""
        with self._lock:
            return list(self._executions)

    def snapshot(self):
        """Return a `Snapshot` of what goes on."""
        moment = self._monotonic()
        with self._lock:
            wanted = [execution for execution in self._executions if not execution.unwanted]
            isTime = self._hasProgress and moment - self._shownAt >= PROGRESS_PAUSE
            return Snapshot(
                [(each.token, moment - each.began) for each in wanted
                 if not each.marked and moment - each.began >= LONG_AFTER],
                [(each.token, each.control.progress) for each in wanted
                 if isTime and each.control.progress != each.shown],
                [each.token for each in wanted if each.control.watched], tuple(self._stacks.items()))

    def confirm(self, snapshot):
        """Note that a `Snapshot` is on record."""
        with self._lock:
            for jobid, _ in snapshot.stacks:
                self._stacks.pop(jobid, None)
            progress, long = dict(snapshot.progress), dict(snapshot.long)
            for execution in self._executions:
                execution.marked = execution.marked or execution.token in long
                execution.shown = progress.get(execution.token, execution.shown)
            if progress:
                self._shownAt = self._monotonic()
            if progress or not self._executions:
                self._hasProgress = any(execution.control.progress != execution.shown
                                        for execution in self._executions if not execution.unwanted)

    def lookAt(self, jobids):
        """Find out where the last runs of these jobs are; those of the last call are not asked again."""
        new, self._asked = set(jobids) - self._asked, frozenset(jobids)
        executions = sorted(self.executions(), key=lambda execution: execution.token) if new else ()
        executions = {execution.claim.jobid: execution for execution in executions}
        for jobid in new:
            answer = functools.partial(self._noteStack, jobid)
            if jobid in executions:
                try:
                    executions[jobid].control.look(answer)
                except Exception as error:      # the loader of a module may fail to give its source
                    answer(f'it cannot be told where the run is: {type(error).__name__}: {error}')
            else:
                answer('the job has not begun, or has just ended')

    def _noteStack(self, jobid, text):
        with self._lock:
            self._stacks[jobid] = text
        self._wake()

    def takeOverdue(self):
        """Return the `Execution`s whose time limit has just been found to be over; they are unwanted from now on."""
        moment = self._monotonic()
        with self._lock:
            overdue = [execution for execution in self._executions if execution.limit is not None
                       and not execution.unwanted and moment - execution.began >= execution.limit]
            for execution in overdue:
                execution.unwanted = True
            return overdue

    def interrupt(self, tokens, reason):
        """Tell runs to end: those with these pairs of id and run."""
        for execution in self.executions():
            if execution.token in tokens:
                execution.control.end(reason)

    def drop(self, tokens, reason):
        """Forget claims that are lost, by pairs of id and run: what has not begun does not begin, and runs are to end.
        """
        with self._lock:
            self._putBack()
            self._waiting = collections.deque(entry for entry in self._waiting
                                              if (entry.claim.jobid, entry.claim.run) not in tokens)
            for execution in self._executions:
                execution.unwanted = execution.unwanted or execution.token in tokens
        self.interrupt(tokens, reason)

    def nextMoment(self, staleAfter=STALE_AFTER):
        """Return when there will be something to do that nobody wakes us for, by the monotonic clock; or None.

        staleAfter -- seconds after which claims that no thread has taken are looked at.
        """
        with self._lock:
            moments = [self._shownAt + PROGRESS_PAUSE] if self._hasProgress else []
            since = self._waitingSince()
            if since is not None:
                moments.append(since + staleAfter)
            for execution in self._executions:
                if execution.unwanted:
                    continue
                if not execution.marked:
                    moments.append(execution.began + LONG_AFTER)
                if execution.limit is not None:
                    moments.append(execution.began + execution.limit)
            return min(moments, default=None)

    # For who stops the host, in any thread

    def giveUp(self, reason):
        """Withdraw for good what has not begun, and tell what runs to end."""
        self.withdrawUnstarted()
        self.interrupt({execution.token for execution in self.executions()}, reason)

    def withdrawUnstarted(self):
        """Withdraw for good what has not begun; return the ids of all that has been withdrawn so."""
        with self._lock:
            self._unstarted.update(claim.jobid for claim in self._withdraw())
            return frozenset(self._unstarted)

    def close(self):
        """Tell the threads to end when they have nothing to run any more."""
        with self._lock:
            self._closed = True
            self._unstarted.update(claim.jobid for claim in self._withdraw())
            self._ready.notify_all()

    @property
    def isClosed(self):
        """Whether nothing will be acquired any more."""
        with self._lock:
            return self._closed

    # For the threads that run jobs

    def newQueue(self):
        """Return where one thread keeps what it has acquired; see `acquire`."""
        with self._lock:
            self._queues.append(queue := collections.deque())
            return queue

    def acquire(self, queue, timeout=None):
        """Return the next `Execution` for a thread and the seconds that its claim has waited here, or `ENDED`.

        queue -- the thread's own.  When jobs are short it takes several at once.  What it has not begun is taken by a
            thread that has nothing else to do, as when a job takes longer than was thought.
        timeout -- seconds after which None is returned when there was nothing; None for never.
        """
        with self._lock:
            if self._contention.serialized:
                self._putBack()
            while not queue and not self._fill(queue):
                if self._closed:
                    return ENDED
                if not self._ready.wait(timeout):
                    return None
            claim, tid, since = queue.popleft()
            moment = self._monotonic()
            execution = Execution(claim, tid, since, moment, self._noteProgress, self._lock)
            self._executions.add(execution)
            return execution, moment - since

    def _fill(self, queue):
        """Put into a thread's queue what it is to run next; return whether there was something."""
        index = self._next()
        if index is not None:
            count = 1
            if self._average is not None and not self._contention.serialized:
                # No more than its share: the other threads are to have something as well.
                count = min(int(BATCH / max(self._average, 1e-6)), len(self._waiting) // len(self._queues))
            queue.append(self._waiting[index])
            del self._waiting[index]
            queue.extend(self._waiting.popleft() for _ in range(count - 1))
            return True
        other = max(self._queues, key=len)
        if other and not self._contention.serialized:
            queue.append(other.pop())
            return True
        return False

    def _next(self):
        """Return the index of the first claim that may run now, or None.  Of serialized tasks one runs at a time."""
        if not self._contention.serialized:
            return 0 if self._waiting else None
        held = self._heldTasks()
        return next((index for index, entry in enumerate(self._waiting) if entry.claim.task not in held), None)

    def _heldTasks(self):
        """Return the names of the serialized tasks of which a run goes on."""
        return {execution.claim.task for execution in self._executions} & self._contention.serialized.keys()

    def isSerialized(self, task):
        """Return whether jobs of this task (its name) have met so many conflicts lately that one runs at a time."""
        with self._lock:
            return task in self._contention.serialized

    def end(self, execution, report):
        """Note that a run has ended, with an `Outcome` or `Recorded`."""
        spent = self._monotonic() - execution.began
        with self._lock:
            self._executions.discard(execution)
            if execution.conflicts or self._contention.isKnown:
                self._contention.count(execution.claim.task, execution.conflicts)
                self._ready.notify()            # who had to wait for it
            self._reports.append(report)        # of one that is unwanted it is refused: its claim is closed
            if not execution.cold:
                self._average = spent if self._average is None else self._average * 0.9 + spent * 0.1
        self._wake()

    def report(self, report):
        """Add a report that is not a run's own."""
        with self._lock:
            self._reports.append(report)

    def _noteProgress(self):
        with self._lock:
            if self._hasProgress:
                return              # the ledger's thread knows
            self._hasProgress = True
        self._wake()
