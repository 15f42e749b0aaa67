"""Ledgers: what each processing host has claimed, and the jobs that it brought to their end."""
# SPDX-License-Identifier: ZPL-2.1
import itertools

from BTrees.IIBTree import IIBTree
from BTrees.IIBTree import IIBucket
from BTrees.IOBTree import IOBTree
from BTrees.Length import Length
from BTrees.LLBTree import LLBTree
from BTrees.OOBTree import OOBTree
from persistent import Persistent

from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import FINAL


MICROSECONDS = 1_000_000

#: Seconds for which it is known when the runs of cron jobs failed.
KEPT_FAILED_RUNS = 86400.0

# What `Ledger.started` says of a job that has begun: it has run for a while; it is a suspect, of which few run at a
# time; it must not begin again.
LONG, SUSPECT, ONCE = 1, 2, 3


def microseconds(time):
    """Return a time in UTC seconds as the key that it has in a ledger: in whole microseconds."""
    return round(time * MICROSECONDS)


def _put(tree, key, jobid):
    """Put an id into a tree by a time in microseconds, moved on to one that is not taken; return that time.

    Thousands of jobs may end at the same time, as those do that one call cancels: few of the taken times are looked at.
    """
    free, step = key, 1
    while free in tree:
        key, free, step = free, free + step, 2 * step
    while free - key > 1:                       # the first one is taken
        middle = (key + free) // 2
        key, free = (middle, free) if middle in tree else (key, middle)
    tree[free] = jobid
    return free


class Ledger(Persistent):
    """The claims of one processing host, and the jobs that it brought to their end.

    Its owner writes it, a rescuer when the owner is lost, and `storage.cleanup`; nobody else does.  So hosts share no
    counter and no index: a reader sums over all ledgers.
    """

    #: The host that runs under this name, as `hosts.identity` describes it; None when there is none.
    owner = None

    #: The number of its host, as rows have it; see `index.Hosts`.  0 in the ledgers of the shards.
    number = 0

    #: task -> `Length`, how many of its jobs were cancelled; None in ledgers of hosts, which are not for that
    cancelled = None

    #: id -> what `stacks.Stack` has, of the runs that somebody has asked for; None in ledgers that no host has taken.
    questions = None

    def __init__(self):
        self._claimed = IIBucket()
        #: id -> LONG, SUSPECT or ONCE, for those claims of which it matters
        self.started = IIBTree()
        #: id -> when its run began, in microseconds, for those that have been running for a while
        self.began = LLBTree()
        #: id -> how far its run is: fraction or None, message
        self.progress = IOBTree()
        #: status -> (time of the end in microseconds -> id)
        self.finished = {status: LLBTree() for status in FINAL}
        #: time in microseconds -> id, of runs of cron jobs that failed here in the last day; such a job does not end
        self.failedRuns = LLBTree()
        self._tally = dict.fromkeys(FINAL, 0)
        #: task -> how its runs fared here: see `tallies`.  Few tasks are here, the others in the tree; None for none.
        self.tasks, self.olderTasks = {}, None

    @property
    def claimed(self):
        """The claims: id -> `Job.run` at the time of the claim, an `IIBucket`.

        It is loaded here: `len` and `bool` of a bucket that cannot be loaded would give a wrong value, and the error
        would come up anywhere later, as a `SystemError` (BTrees 6.5).
        """
        self._claimed._p_activate()
        return self._claimed

    @property
    def tally(self):
        """A dict: status -> jobs that came into it, less jobs that left it; only the sum over all ledgers counts."""
        return self._tally

    def claim(self, jobid, run):
        """Note that the job, in its run number `run`, is being worked on here; forget a run before, if it was here."""
        self.release(jobid)
        self.claimed[jobid] = run

    def release(self, jobid):
        """Forget a claim; return whether there was one."""
        claimed = self.claimed
        if jobid not in claimed:
            return False
        del claimed[jobid]
        for tree in self.started, self.began, self.progress:
            if jobid in tree:
                del tree[jobid]
        return True

    def mark(self, jobid, mark, began=None):
        """Put on record that a claimed job has been begun; a mark that is there already stays.

        began -- when its run began, in UTC seconds; None if it has not yet.
        """
        if jobid not in self.claimed:
            return
        if jobid not in self.started:
            self.started[jobid] = mark
        if began is not None:
            self.began[jobid] = microseconds(began)

    def beganAt(self, jobid):
        """Return when the run of a claimed job began, in UTC seconds; None when that is not on record."""
        began = self.began.get(jobid)
        return None if began is None else began / MICROSECONDS

    def finish(self, jobid, status, when):
        """Note the end of a job and return its time: `when`, in UTC seconds, moved on to one that is not taken."""
        key = _put(self.finished[status], microseconds(when), jobid)
        self.count(status, 1)
        return key / MICROSECONDS

    def failRun(self, jobid, when):
        """Note that a run of a cron job has failed, at `when` in UTC seconds; forget some that are older than a day."""
        for key in list(itertools.islice(self.failedRuns.keys(max=microseconds(when - KEPT_FAILED_RUNS)), 2)):
            del self.failedRuns[key]
        _put(self.failedRuns, microseconds(when), jobid)

    def count(self, status, jobs):
        """Note that so many jobs have come into a final status, or, below 0, have left it."""
        self._tally[status] += jobs
        self._p_changed = True


class ShardLedger(Ledger):
    """A ledger for changes that no processing host makes: cancelled and removed jobs, runs in an application's thread.

    All processes write it.  So each count is an object of its own, which the database merges: transactions that cancel
    or remove jobs at the same time do not conflict, whatever host has these jobs.
    """

    def __init__(self):
        super().__init__()
        self._tally = {status: Length() for status in FINAL}
        self.cancelled = OOBTree()

    @property
    def tally(self):
        """See `Ledger.tally`."""
        return {status: length() for status, length in self._tally.items()}

    def count(self, status, jobs):
        """See `Ledger.count`."""
        self._tally[status].change(jobs)

    @property
    def cancellations(self):
        """The object that is written whenever a cancelled job is entered here."""
        return self._tally[CANCELLED]
