"""What is due when."""
# SPDX-License-Identifier: ZPL-2.1
import itertools

from BTrees.OOBTree import OOTreeSet
from persistent import Persistent

from lovely.remotetask.ledger import MICROSECONDS
from lovely.remotetask.readyqueue import ReadyQueue


#: Higher than any id.
TOP = 2 ** 31


class Timetable(Persistent):
    """Ids by the time at which they are to be queued.

    Everybody may write the inbox, which is merged; only the scheduler, one host at a time, writes the calendar.  An
    entry of the calendar whose time is not its job's `due` is stale: nobody has to find and remove entries.
    """

    #: The name of the ledger whose owner is the scheduler.
    keeper = None

    #: Until the data of an older release is up to date: see `evolve`.
    entries = ()

    def __init__(self):
        self.inbox = ReadyQueue()
        #: (time in microseconds, id)
        self.entries = OOTreeSet()

    def enter(self, jobid, when):
        """Enter an id at `when`, in UTC seconds; return that in microseconds."""
        due = round(when * MICROSECONDS)
        self.entries.add((due, jobid))
        return due

    def takeDue(self, now, limit):
        """Remove and return up to `limit` pairs of time and id that are due at `now` (UTC seconds), oldest first."""
        due = list(itertools.islice(self.entries.keys(max=(round(now * MICROSECONDS), TOP)), limit))
        for entry in due:
            self.entries.remove(entry)
        return due

    def nextTime(self):
        """Return the time of the first entry in UTC seconds, stale or not; None when there is none."""
        return self.entries.minKey()[0] / MICROSECONDS if self.entries else None
