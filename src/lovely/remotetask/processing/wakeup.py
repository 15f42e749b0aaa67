"""The event that wakes the claim loop, and the ids of the records that it can load at once then."""
# SPDX-License-Identifier: ZPL-2.1
import threading


#: A commit that wrote more records than that has added many jobs: loading these one by one costs little per job.
FEW = 8


class Wakeup(threading.Event):
    """Set when there is something to do for a host.

    interest -- see `CommitNotifier.subscribe`: one thread sets it, the one that waits.
    """

    def __init__(self):
        super().__init__()
        self.interest, self._written = None, ()

    def hear(self, oids):
        """Note what the last commit of somebody else has written.  See `CommitNotifier.subscribe`."""
        self._written = oids

    def takeWritten(self):
        """Return the ids of the records that the last commit has written, and forget them; none if these are many."""
        written, self._written = self._written, ()
        return written if len(written) <= FEW else ()
