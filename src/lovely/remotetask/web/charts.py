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

#: Seconds that a page spends on counting; what is missing then is counted for the next one.
ENOUGH = 0.03

#: Seconds after which the count of a bin does not change any more, but for jobs that are removed.
SETTLED = 120.0

#: Bins that are kept.
KEPT = 5000

#: The size of a chart, in units of its own.
WIDTH, HEIGHT = 480, 80


class Bin(NamedTuple):
    """A part of the time, and how many jobs ended in it."""

    start: int                  # UTC seconds
    completed: int
    failed: int


class Counter:
    """Counts the jobs that ended, and remembers what does not change.

    monotonic -- returns seconds of the monotonic clock.
    """

    def __init__(self, monotonic=time.monotonic):
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known = OrderedDict()         # (oid of the service, seconds, start) -> Bin

    def bins(self, service, now, seconds, count, keep=True):
        """Return a list of `Bin`s, the oldest first; None in place of one that there was no time to count.

        now -- UTC seconds.
        seconds, count -- of a bin, and how many there are; the last one is not over.
        keep -- whether to remember them: not those of a page as of an earlier time.
        """
        until, last = self._monotonic() + ENOUGH, int(now // seconds) * seconds
        starts, found = [last - seconds * number for number in range(count)], []
        for start in starts:                # the newest first
            key = service._p_oid, seconds, start
            with self._lock:
                known = self._known.get(key)
            if known is None and (self._monotonic() < until or start == last):
                known = counted(service, start, start + seconds)
                if keep and start + seconds < now - SETTLED:
                    with self._lock:
                        self._known[key] = known
                        while len(self._known) > KEPT:
                            self._known.popitem(last=False)
            found.append(known)
        return found[::-1]


def counted(service, start, end):
    """Return the `Bin` from `start` to `end`, UTC seconds.  The cost grows with the number of jobs by some hundreds."""
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
    return Chart(bars, highest, sum(one.completed for one in known), sum(one.failed for one in known),
                 len(known) == len(bins), last - seconds * (len(bins) - 1), last + seconds)
