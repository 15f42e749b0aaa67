"""What a processor has in hand: claims that wait for a thread, runs that go on, reports of those that have ended."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import threading
from typing import NamedTuple

from lovely.remotetask.execution.control import Control


#: Seconds after which it is put on record that a job runs: what is shorter costs no transaction of its own.
LONG_AFTER = 1.0

#: Seconds after which claims that no thread has taken are looked at.
WAITING_LOOK = 0.5

#: Seconds between two writes of progress.
PROGRESS_PAUSE = 1.0

#: Seconds of work that a thread takes at once, when jobs are short: each time costs a change of threads.
HAND = 0.002

#: Conflicts per run, of the latest runs of a task, from which on its runs take turns; the weight of the last of these;
#: and for how many runs, before it is tried without.
TURNS_FROM, LAST_WEIGHT, TURNS = 0.3, 0.1, 100


#: What `Roster.take` returns when there will be no more.
ENDED = 'ended'


class Run:
    """A run that goes on in one of the threads."""

    limit = policy = None           # its time limit in seconds, its retry policy: as soon as they are known
    over = False                    # whether its outcome is not wanted: its time limit is over, or its claim is lost
    marked = False                  # whether it is on record that it runs
    shown = None                    # the progress that has been written
    cold = False                    # whether it is the first one in its connection, which takes longer than others
    conflicts = 0                   # how often it has been repeated because of a conflict

    def __init__(self, claim, tid, added, began, onProgress):
        """`tid` is of a transaction in which the claim can be seen; `added`, when that was committed at the latest, and
        `began` are of the monotonic clock.
        """
        self.claim, self.tid, self.added, self.began = claim, tid, added, began
        self.control = Control(claim.jobid, onProgress)


class Look(NamedTuple):
    """What the next turn of the cycle is to put on record; see `Cycle.turn`."""

    long: list          # (id, seconds for which it has been running)
    progress: list      # (id, (fraction, message))
    watched: list       # (id, run)


class Roster:
    """The state that the ledger's thread shares with those that run jobs.

    wake -- a callable that has the ledger's thread look; it calls nobody else.
    monotonic -- returns seconds of the monotonic clock.
    """

    def __init__(self, wake, monotonic):
        self.wake, self.monotonic = wake, monotonic
        self.average = None                     # seconds that a job takes
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._waiting = collections.deque()     # (claim, tid, moment it was added)
        self._hands = []                        # of each thread what it has taken, but not begun, in the same form
        self._runs = set()
        self._reports = []
        self.closed = False                     # whether nothing will be taken any more
        self._told = float('-inf')              # when progress was written last
        self._telling = False                   # whether there is more to write
        self._conflicts = {}                    # name of a task that has met conflicts -> how many in a run, lately
        self._turns = {}                        # name of a task whose runs take turns -> how many of these still do

    # For the ledger's thread

    def add(self, claims, tid):
        """Have the claims run as soon as a thread is free; `tid` is of a transaction in which they can be seen."""
        moment = self.monotonic()
        with self._lock:
            self._waiting.extend((claim, tid, moment) for claim in claims)
            self._ready.notify(min(len(claims), len(self._hands)))

    def takeWaiting(self, age=None):
        """Return the claims that no thread has taken yet, and forget them.

        age -- seconds: only if the first of them has waited for so long; default: in any case.
        """
        with self._lock:
            since = self._waitingSince()
            if since is None or age is not None and self.monotonic() - since < age:
                return []
            self._putBack()
            claims = [claim for claim, _, _ in self._waiting]
            self._waiting.clear()
            return claims

    def _waitingSince(self):
        """Return since when the first claim waits that no thread has begun; None when there is none."""
        return min((queue[0][2] for queue in (self._waiting, *self._hands) if queue), default=None)

    def _putBack(self):
        """Take from the threads what they have not begun."""
        for hand in self._hands:
            self._waiting.extendleft(reversed(hand))
            hand.clear()

    def fullSince(self, threads):
        """Return since when all of so many threads are busy, by the monotonic clock; None when they are not."""
        runs = self.runs()
        return max(run.began for run in runs) if runs and len(runs) >= threads else None

    def pace(self, threads):
        """Return how many seconds a job takes: those that have ended, or those that keep all `threads` busy; or None.
        """
        full = self.fullSince(threads)
        if self.average is None or full is None:
            return self.average
        return max(self.average, self.monotonic() - full)

    def takeReports(self):
        """Return the reports of what has ended, and forget them."""
        with self._lock:
            reports, self._reports = self._reports, []
            return reports

    @property
    def isIdle(self):
        """Whether nothing runs, and nothing is left to report."""
        with self._lock:
            return not self._runs and not self._reports

    @property
    def stuck(self):
        """How many threads run something whose outcome is not wanted."""
        return sum(run.over for run in self.runs())

    def runs(self):
        """Return a list of the `Run`s that go on."""
        with self._lock:
            return list(self._runs)

    def look(self):
        """Return a `Look` at what goes on."""
        moment, runs = self.monotonic(), self.runs()
        tell = self._telling and moment - self._told >= PROGRESS_PAUSE
        runs = [run for run in runs if not run.over]
        return Look([(run.claim.jobid, moment - run.began) for run in runs
                     if not run.marked and moment - run.began >= LONG_AFTER],
                    [(run.claim.jobid, run.control.progress) for run in runs
                     if tell and run.control.progress != run.shown],
                    [(run.claim.jobid, run.claim.run) for run in runs if run.control.watched])

    def confirm(self, look):
        """Note that a `Look` is on record."""
        with self._lock:
            progress, long = dict(look.progress), dict(look.long)
            for run in self._runs:
                run.marked = run.marked or run.claim.jobid in long
                run.shown = progress.get(run.claim.jobid, run.shown)
            if progress:
                self._told = self.monotonic()
            if progress or not self._runs:
                self._telling = any(run.control.progress != run.shown for run in self._runs if not run.over)

    def overdue(self):
        """Return the `Run`s whose time limit has just been found to be over; what they report is not wanted."""
        moment, found = self.monotonic(), []
        with self._lock:
            for run in self._runs:
                if run.limit is not None and not run.over and moment - run.began >= run.limit:
                    run.over = True
                    found.append(run)
        return found

    def tell(self, tokens, reason):
        """Tell runs to end: those with these pairs of id and run."""
        for run in self.runs():
            if (run.claim.jobid, run.claim.run) in tokens:
                run.control.end(reason)

    def drop(self, tokens, reason):
        """Forget claims that are lost, by pairs of id and run: what has not begun does not begin, and runs are to end.
        """
        with self._lock:
            self._putBack()
            self._waiting = collections.deque(entry for entry in self._waiting
                                              if (entry[0].jobid, entry[0].run) not in tokens)
            for run in self._runs:
                run.over = run.over or (run.claim.jobid, run.claim.run) in tokens
        self.tell(tokens, reason)

    def nextMoment(self):
        """Return when there will be something to do that nobody wakes us for, by the monotonic clock; or None."""
        moments = [self._told + PROGRESS_PAUSE] if self._telling else []
        with self._lock:
            since = self._waitingSince()
            if since is not None:
                moments.append(since + WAITING_LOOK)
        for run in self.runs():
            if run.over:
                continue
            if not run.marked:
                moments.append(run.began + LONG_AFTER)
            if run.limit is not None:
                moments.append(run.began + run.limit)
        return min(moments, default=None)

    def close(self):
        """Have the threads end when they have nothing to run any more."""
        with self._lock:
            self.closed = True
            self._putBack()
            self._waiting.clear()
            self._ready.notify_all()

    # For the threads that run jobs

    def newHand(self):
        """Return where one thread keeps what it has taken; see `take`."""
        with self._lock:
            self._hands.append(hand := collections.deque())
            return hand

    def take(self, hand, timeout=None):
        """Return the next `Run` for a thread and the seconds that its claim has waited here, or `ENDED`.

        hand -- the thread's own.  When jobs are short it takes several at once.  What it has not begun is taken by a
            thread that has nothing else to do, as when a job takes longer than was thought.
        timeout -- seconds after which None is returned when there was nothing; None for never.
        """
        with self._lock:
            if self._turns:
                self._putBack()
            while not hand and not self._fill(hand):
                if self.closed:
                    return ENDED
                if not self._ready.wait(timeout):
                    return None
            claim, tid, moment = hand.popleft()
            now = self.monotonic()
            run = Run(claim, tid, moment, now, self._progressed)
            self._runs.add(run)
            return run, now - moment

    def _fill(self, hand):
        """Put into a hand what its thread is to run next; return whether there was something."""
        index = self._next()
        if index is not None:
            count = 1
            if self.average is not None and not self._turns:
                # No more than its share: the other threads are to have something as well.
                count = min(int(HAND / max(self.average, 1e-6)), len(self._waiting) // len(self._hands))
            hand.append(self._waiting[index])
            del self._waiting[index]
            hand.extend(self._waiting.popleft() for _ in range(count - 1))
            return True
        other = max(self._hands, key=len)
        if other and not self._turns:
            hand.append(other.pop())
            return True
        return False

    def _next(self):
        """Return the index of the first claim that may run now, or None.

        Jobs of a task that write the same object get in each other's way: of those one runs at a time, here.
        """
        if not self._turns:
            return 0 if self._waiting else None
        busy = {run.claim.task for run in self._runs if run.claim.task in self._turns}
        return next((index for index, (claim, _, _) in enumerate(self._waiting) if claim.task not in busy), None)

    def takesTurns(self, task):
        """Say whether jobs of this task (its name) have met so many conflicts lately that one runs at a time."""
        return task in self._turns

    def _count(self, run):
        """Note how many conflicts a run has met."""
        task = run.claim.task
        if task in self._turns:
            self._turns[task] -= 1
            if not self._turns[task]:
                del self._turns[task]
                self._conflicts[task] = TURNS_FROM          # the next conflict is enough
            return
        rate = self._conflicts.get(task, 0) * (1 - LAST_WEIGHT) + run.conflicts * LAST_WEIGHT
        self._conflicts[task] = rate
        if rate > TURNS_FROM:
            self._turns[task] = TURNS
        if rate > TURNS_FROM or rate < TURNS_FROM / 100:
            del self._conflicts[task]

    def end(self, run, report):
        """Note that a run has ended, with an `Outcome` or `Recorded`."""
        spent = self.monotonic() - run.began
        with self._lock:
            self._runs.discard(run)
            if run.conflicts or self._conflicts or self._turns:
                self._count(run)
                self._ready.notify()            # who had to wait for it
            self._reports.append(report)        # of one that is over it is refused: its claim is closed
            if not run.cold:
                self.average = spent if self.average is None else self.average * 0.9 + spent * 0.1
        self.wake()

    def report(self, report):
        """Have a report settled that is not a run's own."""
        with self._lock:
            self._reports.append(report)

    def _progressed(self):
        with self._lock:
            if self._telling:
                return              # the ledger's thread knows
            self._telling = True
        self.wake()
