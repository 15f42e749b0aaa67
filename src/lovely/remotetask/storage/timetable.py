"""The timetable of a service: the scheduler's calendar, its inbox, and the jobs that it could not handle."""
# SPDX-License-Identifier: ZPL-2.1
import itertools

from BTrees.IIBTree import IITreeSet
from BTrees.OOBTree import OOTreeSet
from persistent import Persistent

from lovely.remotetask.storage.ledger import MICROSECONDS
from lovely.remotetask.storage.ledger import microseconds
from lovely.remotetask.storage.queue import ReadyQueue


#: Higher than any id.
TOP = 2 ** 31

#: Seconds after which the scheduler tries jobs again that it could not handle.
RETRY = 60.0

#: Seconds by which the clock must be behind the latest time that was seen, to be taken for one that was set back.
SET_BACK = 5.0


class Seen(Persistent):
    """The latest time at which a scheduler entered jobs: a clock that shows less was set back."""

    latest = None           # UTC seconds; up to a second behind, so that it is not written all the time
    part = None             # of the status index: where the jobs are looked at again after that
    entry = None            # the last one of that part which was looked at


class Timetable(Persistent):
    """Ids by the time at which they are to be queued.

    All processes write the inbox, which the database merges; only the scheduler, one host at a time, writes the
    calendar.  An entry of the calendar whose time is not its job's `due` is stale: no caller need find and remove such
    entries.
    """

    #: The name of the ledger whose owner is the scheduler.
    scheduler = None

    _v_tried = None         # UTC seconds: when this process began to try the jobs that are set aside
    _v_last = None          # the id of the last one that it has tried; None when it has tried all

    def __init__(self):
        self.inbox = ReadyQueue()
        #: (time in microseconds, id)
        self.entries = OOTreeSet()
        #: Ids of jobs that the scheduler could not handle: their `due` is no key of the calendar
        self.aside = IITreeSet()
        self.seen = Seen()

    def enter(self, due, jobid):
        """Enter an id at its time, in microseconds."""
        self.entries.add((due, jobid))

    def takeDue(self, now, limit):
        """Remove and return up to `limit` pairs of time and id that are due at `now` (UTC seconds), oldest first."""
        due = list(itertools.islice(self.due(now), limit))
        for entry in due:
            self.entries.remove(entry)
        return due

    def due(self, now):
        """Yield the pairs of time and id that are due at `now`, stale or not, oldest first."""
        return iter(self.entries.keys(max=(microseconds(now), TOP)))

    def asideToTry(self, now, limit):
        """Return up to `limit` ids of jobs that are set aside: each of them comes once in RETRY seconds."""
        if self._v_last is None:
            if not self.aside or self._v_tried is not None and 0 <= now - self._v_tried < RETRY:
                return []
            self._v_tried = now
        jobids = list(itertools.islice(self.aside.keys(self._v_last, excludemin=self._v_last is not None), limit))
        self._v_last = jobids[-1] if len(jobids) == limit else None
        return jobids

    @property
    def isTryingAside(self):
        """Whether `asideToTry` has not come to its end."""
        return self._v_last is not None

    @property
    def earliest(self):
        """The time of the first entry, stale or not, in UTC seconds; None when there is none."""
        return self.entries.minKey()[0] / MICROSECONDS if self.entries else None

    def nextTime(self):
        """Return when the scheduler has something to do, in UTC seconds; None for never.

        That is the time of the first entry, stale or not, or of the next try of what is set aside.
        """
        times = [] if self.earliest is None else [self.earliest]
        if self.aside:
            times.append(0.0 if self._v_tried is None else self._v_tried + RETRY)
        return min(times, default=None)
