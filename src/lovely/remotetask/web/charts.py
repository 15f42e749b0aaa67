"""How many jobs came to an end, and when: counted by the ledgers' indexes, a bit at a time, and drawn as SVG."""
# SPDX-License-Identifier: ZPL-2.1
import threading
import time
from collections import OrderedDict
from typing import NamedTuple

from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.storage.ledger import MICROSECONDS
from lovely.remotetask.storage.ready import ledgers


#: Bins of a chart: seconds of one, and how many there are.
HOUR, DAY = (60, 60), (900, 96)

#: Seconds that a page spends on counting; the next page counts the rest.
ENOUGH = 0.03

#: Seconds after which the count of a bin does not change any more, but for jobs that are removed.
SETTLED = 120.0

#: Seconds of a part of a bin that is counted at once, and remembered.
PART = 60

#: Bins that are kept, and parts of them.
KEPT = 20_000

#: The size of a chart, in units of its own.
WIDTH, HEIGHT = 480, 80


class Bin(NamedTuple):
    """A part of the time, and how many jobs ended in it."""

    start: int                  # UTC seconds
    completed: int
    failed: int
    isWhole: bool = True        # whether all have been counted


class Counter:
    """Counts the jobs that ended, and remembers what does not change.

    monotonic -- returns seconds of the monotonic clock.
    """

    def __init__(self, monotonic=time.monotonic):
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known = OrderedDict()         # (oid of the service, seconds, start) -> Bin

    def bins(self, service, now, seconds, count, keep=True):
        """Return a list of `Bin`s, the oldest first; None for each that there was no time to count.

        now -- UTC seconds.
        seconds, count -- of a bin, and how many there are; the last one is not over.
        keep -- whether to remember them: not those of a page as of an earlier time.
        """
        until, last = self._monotonic() + ENOUGH, int(now // seconds) * seconds
        starts = [last - seconds * number for number in range(count)]           # the newest first
        found = [self._bin(service, start, seconds, now, until, keep) for start in starts]
        if found[0] is None:
            found[0] = Bin(last, 0, 0, isWhole=False)
        return found[::-1]

    def _bin(self, service, start, seconds, now, until, keep):
        """Return a `Bin`, or None when the time `until` which it can be counted is over; then it goes on next time."""
        key = service._p_oid, seconds, start
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            return known
        if self._monotonic() >= until:
            return None
        if seconds > PART and not isEmpty(service, start, start + seconds):
            # One part after the other: there may be too many to count them all at once.
            starts = range(start, min(start + seconds, int(now // PART + 1) * PART), PART)
            parts = [self._bin(service, each, PART, now, until, keep) for each in reversed(starts)]
            if None in parts:
                return None
            known = Bin(start, sum(part.completed for part in parts), sum(part.failed for part in parts))
        else:
            known = counted(service, start, start + seconds)
        if keep and start + seconds < now - SETTLED:
            with self._lock:
                self._known[key] = known
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
        return known


def isEmpty(service, start, end):
    """Return whether no job ended from `start` to `end`, UTC seconds."""
    low, high = int(start * MICROSECONDS), int(end * MICROSECONDS) - 1
    return not any(ledger.finished[status].keys(low, high) for ledger in ledgers(service)
                   for status in (COMPLETED, ERROR))


def counted(service, start, end):
    """Return the `Bin` from `start` to `end`, UTC seconds.  The cost grows by one step for some hundreds of jobs."""
    low, high = int(start * MICROSECONDS), int(end * MICROSECONDS) - 1
    completed, failed = (sum(len(ledger.finished[status].keys(low, high)) for ledger in ledgers(service))
                         for status in (COMPLETED, ERROR))
    return Bin(start, completed, failed)


class Bar(NamedTuple):
    """What is drawn of a bin, in the chart's units, from above."""

    x: float
    width: float
    completedTop: float
    completedHeight: float
    failedTop: float
    failedHeight: float


class Chart(NamedTuple):
    """What a template draws."""

    bars: list
    highest: int                # jobs of the highest bar
    completed: int              # jobs in all
    failed: int
    isWhole: bool               # whether all bins have been counted
    start: int                  # UTC seconds
    end: int


def chart(bins, seconds):
    """Return the `Chart` of a list of `Bin`s, of so many seconds each."""
    known = [one for one in bins if one is not None]
    highest = max((one.completed + one.failed for one in known), default=0)
    step = WIDTH / len(bins)
    bars = []
    for number, one in enumerate(bins):
        if one is not None and one.completed + one.failed:
            failed, completed = (round(HEIGHT * jobs / highest, 2) for jobs in (one.failed, one.completed))
            bars.append(Bar(round(number * step, 2), round(step * 0.8, 2), round(HEIGHT - completed - failed, 2),
                            completed, round(HEIGHT - failed, 2), failed))
    last = next(one.start for one in reversed(bins) if one is not None)
    isWhole = len(known) == len(bins) and all(one.isWhole for one in known)
    return Chart(bars, highest, sum(one.completed for one in known), sum(one.failed for one in known), isWhole,
                 last - seconds * (len(bins) - 1), last + seconds)
