"""Index by status of the jobs that no queue or ledger has; idempotency keys; numbers of hosts."""
# SPDX-License-Identifier: ZPL-2.1
import math

from BTrees.IOBTree import IOBTree
from BTrees.Length import Length
from BTrees.OIBTree import OIBTree
from BTrees.OOBTree import OOBTree
from BTrees.OOBTree import OOTreeSet
from persistent import Persistent

from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import STARTLATER
from lovely.remotetask.storage.ledger import microseconds


#: Parts of the index that are no status: queued jobs that wait for their next attempt, or for a host that has their
#: task; and cron jobs of which a run is queued or going on, whose ids are in queues and ledgers as well.
RETRY, PENDING = 'retry', 'pending'

#: Cron jobs whose last run failed: they do not end in ERROR.
FAILING = 'failing'

PARTS = (STARTLATER, DELAYED, CRONJOB, RETRY, PENDING, FAILING)

# The first entry of each part, which stands for no job.  The database does not merge two changes of a set that is empty
# before or after one of them, nor the removal of its first item with any other change.
_FLOOR = -math.inf, 0


def entryOf(job):
    """Return what stands for a job in lists, the newest last: when it was added, in microseconds, and its id."""
    return microseconds(job.created), job.id


def partsOf(job):
    """Return the parts of the index that a job belongs to."""
    if job.status == QUEUED:
        return () if job.retryAt is None and not job.stranded else (RETRY,)
    if job.status == CRONJOB:
        pending = (PENDING,) if job.pending and not job.stranded else ()
        return CRONJOB, *pending, *((FAILING,) if job.isFailing else ())
    return (job.status,) if job.status in PARTS else ()


class Entries:
    """The entries of a part of the index, in their order: what a tree set has above the `_FLOOR`."""

    def __init__(self, tree):
        self._tree = tree

    def keys(self, above=_FLOOR):
        """Return a sequence of the entries above one; default: of all."""
        return self._tree.keys(above, excludemin=True)

    def maxKey(self, max=None):
        """Return the last entry, or the last one up to `max`; raise `ValueError` when there is none."""
        entry = self._tree.maxKey(max)
        if entry == _FLOOR:
            raise ValueError('there is no such entry')
        return entry

    def __iter__(self):
        return iter(self.keys())


class StatusIndex(Persistent):
    """Index by status of the jobs that are in no queue and in no ledger.

    Everybody writes it, and what they write is merged.  A job that is added, claimed and completed is never in here.
    """

    def __init__(self):
        self._entries = {part: OOTreeSet([_FLOOR]) for part in PARTS}
        self._lengths = {part: Length() for part in PARTS}

    def place(self, job):
        """Enter a job where it belongs now, and nowhere else; return whether it is entered at all.

        It looks at all parts, as other code may have changed the status without a call of this.
        """
        entry, parts = entryOf(job), partsOf(job)
        for part, entries in self._entries.items():
            if part in parts:
                self._lengths[part].change(entries.insert(entry))
            elif entry in entries:
                entries.remove(entry)
                self._lengths[part].change(-1)
        return bool(parts)

    def remove(self, jobid):
        """Take out a job of which only the id is known; return whether it was in.  Looks at all entries."""
        found = False
        for part, entries in self._entries.items():
            for entry in [entry for entry in entries if entry[1] == jobid]:
                entries.remove(entry)
                self._lengths[part].change(-1)
                found = True
        return found

    def count(self, part):
        """Return how many jobs are in a part."""
        return self._lengths[part]()

    def entries(self, part):
        """Return the `Entries` of a part: see `entryOf`."""
        return Entries(self._entries[part])


class Hosts(Persistent):
    """The processing hosts that there have ever been: a number for each name, which is what the row of a job holds."""

    def __init__(self):
        self._names = IOBTree()
        self._numbers = OIBTree()

    @property
    def parts(self):
        """Its stored parts."""
        return self._names, self._numbers

    def add(self, name):
        """Return the number of a host, a new one if it has none."""
        number = self.numberOf(name)
        if not number:
            number = self._names.maxKey() + 1 if self._names else 1
            self._names[number] = name          # of two that take the same number at once one commits
            self._numbers[name] = number
        return number

    def numberOf(self, name):
        """Return the number of a host; 0 for a name that none has, or None."""
        return 0 if name is None else self._numbers.get(name, 0)

    def nameOf(self, number):
        """Return the name of the host with that number; None when there is none, as for 0."""
        return self._names.get(number)


class Keys(Persistent):
    """The idempotency keys of the jobs that there are.  Each task has a name space of its own."""

    def __init__(self):
        self._ids = OOBTree()       # (task, key) -> id
        self._keys = IOBTree()      # id -> (task, key)

    def get(self, task, key):
        """Return the id of the job of a task that was added with a key, or None."""
        return self._ids.get((task, key))

    def of(self, jobid):
        """Return the key that a job was added with, or None."""
        entry = self._keys.get(jobid)
        return None if entry is None else entry[1]

    def put(self, task, key, jobid):
        """Note that the job of the task has been added with this key."""
        self._ids[task, key] = jobid
        self._keys[jobid] = task, key

    def remove(self, jobid):
        """Forget the key of a job that is removed, if it has one."""
        entry = self._keys.pop(jobid, None)
        if entry is not None and self._ids.get(entry) == jobid:
            del self._ids[entry]
