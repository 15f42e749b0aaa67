"""What is due when."""
# SPDX-License-Identifier: ZPL-2.1
from BTrees.LLBTree import LLBTree
from persistent import Persistent

from lovely.remotetask.ledger import MICROSECONDS
from lovely.remotetask.readyqueue import ReadyQueue


class Timetable(Persistent):
    """Ids by the time at which they are to be queued.

    Everybody may write the inbox, which is merged; only the scheduler, one host at a time, writes the calendar.  An
    entry of the calendar whose key is not its job's `due` is stale: nobody has to find and remove entries.
    """

    #: The name of the ledger whose owner is the scheduler.
    keeper = None

    def __init__(self):
        self.inbox = ReadyQueue()
        self.calendar = LLBTree()

    def enter(self, jobid, when):
        """Enter an id at `when`, in UTC seconds; return the key, a time in microseconds that is not taken yet."""
        key = round(when * MICROSECONDS)
        while key in self.calendar:
            key += 1
        self.calendar[key] = jobid
        return key

    def takeDue(self, now, limit):
        """Remove and return up to `limit` pairs of key and id that are due at `now` (UTC seconds), oldest first."""
        due = []
        for entry in self.calendar.items(max=round(now * MICROSECONDS)):
            due.append(entry)
            if len(due) == limit:
                break
        for key, jobid in due:
            del self.calendar[key]
        return due

    def nextTime(self):
        """Return the time of the first entry in UTC seconds, stale or not; None when there is none."""
        return self.calendar.minKey() / MICROSECONDS if self.calendar else None
