"""The life of a processor: it runs, it is asked to stop and has some time for that, it has ended."""
# SPDX-License-Identifier: ZPL-2.1
import threading


class Lifecycle:
    """Shared by the threads that start and stop the processor, keep the ledger, and run jobs.

    `_lock` guards `_isRunning` and `_deadline`.  The two events guard themselves.

    monotonic -- returns seconds of the monotonic clock.
    """

    def __init__(self, monotonic):
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._isRunning = False         # whether jobs are claimed
        self._deadline = None           # until when running jobs may go on after the stop; None for ever
        self.stopRequested = threading.Event()
        self.ended = threading.Event()
        self.ended.set()

    def begin(self):
        """Note that the processor runs."""
        with self._lock:
            self._isRunning, self._deadline = True, None
            self.stopRequested.clear()
            self.ended.clear()

    @property
    def isRunning(self):
        """Whether the processor runs, and is not about to stop."""
        with self._lock:
            return self._isRunning

    def requestStop(self, timeout=None):
        """Ask for the end.  `timeout` is how many seconds running jobs have; None for as long as they take."""
        with self._lock:
            self._isRunning = False
            self._deadline = None if timeout is None else self._monotonic() + timeout
            self.stopRequested.set()

    def halt(self):
        """Note that nothing will be claimed any more: the processor ends by itself, or was stopped."""
        with self._lock:
            self._isRunning = False

    def end(self):
        """Note that the processor has ended."""
        self.halt()
        self.ended.set()

    @property
    def remaining(self):
        """How many seconds running jobs have after a stop; None when there is no stop, or no limit."""
        with self._lock:
            return None if self._isRunning or self._deadline is None else self._deadline - self._monotonic()

    @property
    def isLate(self):
        """Whether the processor is to stop, and the time for that is over."""
        remaining = self.remaining
        return remaining is not None and remaining <= 0
