"""The threads of a host that run jobs: each takes what is in flight, one run after the other, until there is no more.
"""
# SPDX-License-Identifier: ZPL-2.1
import threading

from lovely.remotetask.database.sites import pathText
from lovely.remotetask.execution.control import running
from lovely.remotetask.execution.run import failed
from lovely.remotetask.processing.in_flight import ENDED


#: Seconds after which a claimed job is checked again before it is started: it may have been cancelled.
STALE = 0.1

#: Seconds after which a thread that has nothing to do gives its client of the database back, if it may.
REST = 30.0

#: Seconds that a thread has to end when it runs nothing: it may be opening a client.
LAST_JOIN = 3.0


class WorkerPool:
    """Some threads, and what they run.

    The thread that keeps the ledger starts and joins them: it alone changes the list of threads.

    inFlight -- an `InFlight`.
    makeWorker -- returns a `Worker` for the thread that calls it.
    mayRest -- returns whether a thread that has had nothing to do for long gives its client of the database back.
    notices -- the `Notices`.
    clock -- returns UTC seconds.
    """

    def __init__(self, inFlight, makeWorker, mayRest, notices, clock):
        self._inFlight, self._makeWorker, self._mayRest, self._clock = inFlight, makeWorker, mayRest, clock
        self._notices, self._threads = notices, []

    @property
    def threads(self):
        """The threads that have been started, a list."""
        return list(self._threads)

    def start(self, names):
        """Start a daemon thread for each of these names."""
        for name in names:
            thread = threading.Thread(target=self._work, daemon=True, name=name)
            thread.start()
            self._threads.append(thread)

    @property
    def isAlive(self):
        """Whether all threads still run."""
        return all(thread.is_alive() for thread in self._threads)

    def join(self, timeout):
        """Wait for the end of each thread, `timeout` seconds at most: a task that does not end cannot be waited for."""
        for thread in self._threads:
            thread.join(timeout)

    # What a thread does

    def _work(self):
        worker, queue = self._makeWorker(), self._inFlight.newQueue()
        worker.warmUp()
        while True:
            acquired = self._acquire(worker, queue)
            if acquired is ENDED:
                break
            if acquired is None:
                if self._mayRest():
                    worker.close()
                continue
            execution, waited = acquired
            self._inFlight.end(execution, self._run(worker, execution, waited > STALE))
        worker.close()

    def _acquire(self, worker, queue):
        """Return what `InFlight.acquire` gives; None when there is nothing to do for a while."""
        acquired = self._inFlight.acquire(queue, 0)
        if acquired is None:
            worker.tryAbort()                   # it may wait for long now
            acquired = self._inFlight.acquire(queue, REST if worker.isOpen else None)
        return acquired

    def _run(self, worker, execution, isStale):
        """Return the report of a run.  No exception ends the thread."""
        with running(execution.control):
            try:
                self._notices.started(execution.claim, worker.name)
                return worker.run(execution.claim, isStale, execution)
            except BaseException as error:
                return failed(execution.claim, error, self._clock(), self._clock(), worker.name,
                              service=pathText(worker.servicePath))
