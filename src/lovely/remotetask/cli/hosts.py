"""The processing hosts of a process: one for each task service, as long as that service exists."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import threading

from lovely.remotetask.common.logs import about
from lovely.remotetask.config.servicewatch import ServiceWatch
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.errors import RemoteTaskError


log = logging.getLogger('lovely.remotetask')

#: Seconds that the end waits for a look at the services that goes on.
WATCH_TIME = 1.0


class Hosts:
    """Runs a processor for each service that the patterns fit, also for those that are made later.

    db -- a `ZODB.DB`.
    patterns -- a list of texts, see `autostart.getAutostartServiceNames`.
    make -- called with the path of a service and the number of services; returns its processor.
    fail -- called with an exception when a processor has ended by itself: its supervisor starts the process anew.
    """

    def __init__(self, db, patterns, make, fail):
        self._make, self._fail = make, fail
        self._lock = threading.Lock()       # guards what follows
        self._running = {}                  # key of a `Found` -> processor
        self._isStopping = False
        self._watch = ServiceWatch(db, patterns, self._begin, self._end)
        self._givenBack = 0                 # claims that were given back by those that have ended

    def start(self):
        """Start a processor for each service; return the processors.  Raise what that raises."""
        self._watch.look()
        return self.processors

    def follow(self):
        """Take up new services from now on, and let go of those that were removed."""
        self._watch.start()

    @property
    def processors(self):
        """The processors that have been started and not stopped."""
        with self._lock:
            return list(self._running.values())

    @property
    def givenBack(self):
        """How many claims have been given back."""
        with self._lock:
            return self._givenBack + sum(one.givenBack for one in self._running.values())

    def _begin(self, found, service):
        with self._lock:
            if self._isStopping:
                return
            number = len(self._running) + 1
        one = self._make(found.path, number)
        one.start()
        where = pathText(found.path)
        log.info('processing host %s of %s has started', one.name, where,
                 extra=about('host.started', host=one.name, service=where))
        with self._lock:
            self._running[found.key] = one
            isLate = self._isStopping
        if isLate:
            one.stop(0)
        try:
            threading.Thread(target=self._attend, args=(found, one), name='remotetask-watch', daemon=True).start()
        except RuntimeError:                            # nobody would see it end
            one.stop(0)
            with self._lock:
                del self._running[found.key]
            raise

    def _end(self, found):
        with self._lock:
            one = self._running.get(found.key)
        if one is not None:
            one.stop(wait=0)

    def _attend(self, found, one):
        """Wait for the end of a processor."""
        one.thread.join()
        with self._lock:
            self._running.pop(found.key, None)
            self._givenBack += one.givenBack
        where = pathText(found.path)
        log.info('processing host %s of %s has stopped', one.name, where,
                 extra=about('host.stopped', host=one.name, service=where))
        if not one.isStopping and not one.isServiceRemoved:
            self._fail(RemoteTaskError(f'the processor of {found} has ended; the log says why'))

    def stop(self, grace):
        """Stop them all, with the time that a `GracePeriod` leaves."""
        self._watch.stop(WATCH_TIME)
        with self._lock:
            self._isStopping = True
        for one in self.processors:
            one.stop(grace.left(), wait=0)              # all claim nothing more, while the first is waited for
        for one in self.processors:
            if not one.stop(grace.left()):
                log.warning('jobs are still running after a grace period of %g seconds; they will be run again',
                            grace.seconds,
                            extra=about('host.gaveBack', host=one.name, service=pathText(one.servicePath)))
