"""Who claims what, and what has ended: a book for each process that writes one."""
# SPDX-License-Identifier: ZPL-2.1
from BTrees.IIBTree import IIBTree
from BTrees.LLBTree import LLBTree
from persistent import Persistent

from lovely.remotetask.interfaces import FINAL


MICROSECONDS = 1_000_000


class Ledger(Persistent):
    """The claims of one processing host, and the jobs that it brought to their end.

    Only its owner writes it, but for a rescuer when the owner is dead, and for `clean`.  So no counter and no index
    is shared by the hosts: sums over all ledgers are made by whoever asks.
    """

    #: Who runs under this name: what `rescue.identity` gives; None when nobody does.
    owner = None

    def __init__(self):
        #: id -> `Job.run` at the time of the claim
        self.claimed = IIBTree()
        #: status -> (time of the end in microseconds -> id)
        self.finished = {status: LLBTree() for status in FINAL}
        #: status -> jobs that came into it here, less the jobs that were cleaned away here
        self.tally = dict.fromkeys(FINAL, 0)

    def claim(self, jobid, run):
        """Note that the job, in its run number `run`, is being worked on here."""
        self.claimed[jobid] = run

    def release(self, jobid):
        """Forget a claim; return whether there was one."""
        if jobid not in self.claimed:
            return False
        del self.claimed[jobid]
        return True

    def finish(self, jobid, status, when):
        """Note the end of a job and return its time: `when`, in UTC seconds, moved on when it is taken."""
        finished = self.finished[status]
        key = int(when * MICROSECONDS)
        if key in finished:
            key = finished.maxKey() + 1
        finished[key] = jobid
        self.tally[status] += 1
        self._p_changed = True
        return key / MICROSECONDS
