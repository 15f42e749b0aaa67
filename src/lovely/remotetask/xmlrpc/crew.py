"""A crew: threads that come when there is work and go when there has been none for a while."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import queue
import threading


logger = logging.getLogger('lovely.remotetask')

#: Seconds without work after which a thread ends.
IDLE = 10.0


class Crew:
    """Runs functions in a number of threads.

    (Those of concurrent.futures are waited for when the process ends, whatever they wait for themselves.)
    """

    def __init__(self, name, size):
        """name -- that of the threads begins with it.
        size -- how many there are at most.
        """
        self._name, self._size = name, size
        self._tasks = queue.SimpleQueue()
        self._lock = threading.Lock()           # guards the two that follow
        self._threads = set()
        self._busy = 0                          # functions that run or wait for a thread

    def put(self, function):
        """Have a function called, as soon as a thread is free; it raises nothing."""
        with self._lock:
            self._busy += 1
            self._tasks.put(function)
            if self._busy <= len(self._threads) or len(self._threads) == self._size:
                return
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:       # the system has no more: those that there are do it
                logger.error('%s: %s', self._name, error)
            else:
                self._threads.add(thread)

    def stop(self):
        """End the threads; there is nothing to do for them any more."""
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._tasks.put(None)
        for thread in threads:
            thread.join()

    def _work(self):
        while True:
            try:
                function = self._tasks.get(timeout=IDLE)
            except queue.Empty:
                with self._lock:
                    if self._tasks.empty():
                        self._threads.discard(threading.current_thread())
                        return
                continue
            if function is None:
                return
            try:
                function()
            finally:
                with self._lock:
                    self._busy -= 1
                # An idle thread is not to keep alive what it worked on.
                del function
