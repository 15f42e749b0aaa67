"""Waiting for jobs: one thread that looks at those which somebody waits for, whenever something was committed."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import threading
import time
from collections import deque

from transaction import TransactionManager

from lovely.remotetask import errors
from lovely.remotetask.database import hubOf
from lovely.remotetask.database import isDatabaseError
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.lifecycle import shardOf


logger = logging.getLogger('lovely.remotetask')

#: Jobs that are watched at a time at most.
JOBS = 100_000
#: Seconds between two looks, whether something was heard or not: not every storage tells of commits.
LOOK = 1.0
#: Seconds that it rests between two looks, and as long as the last one took: commits can come in floods.
REST = 0.005
#: Seconds after which a look that does not end means that the database is away.
PATIENCE = 5.0


class Wait:
    """Somebody who waits for jobs."""

    def __init__(self, path, jobids, any, wake):
        """path -- the service's.
        jobids -- the ids.
        any -- whether one of them is enough.
        wake -- called without arguments when it is time to look at the jobs, from any thread; it does not wait for
            anything.
        """
        self.keys = frozenset((path, jobid) for jobid in jobids)
        self.left = len(self.keys)      # of them, as far as is known
        self.any, self.wake = any, wake


class _Watched:
    """A job that somebody waits for."""

    def __init__(self):
        self.page = self.data = None    # where the job's row is, and what it was; None: it has to be looked for
        self.waits = set()

    def isNew(self, jobid):
        """Return whether the job has to be looked at: its neighbours change the page as well."""
        return self.page is None or self.page.get(jobid) != self.data


class Watcher:
    """Wakes those whose jobs have ended; nobody but its thread waits for the database."""

    def __init__(self, db, resolve):
        """Nothing is opened yet; for the arguments see `gateway.Gateway`."""
        self._db, self._resolve = db, resolve
        self._wakeup = threading.Event()        # one of the jobs was written, or something ordered; see `Hub`
        self._wakeup.interest = None
        self._orders = deque()                  # pairs of function and `Wait`, for the thread
        self._stopping = threading.Event()
        self._thread = None
        self._lookBegan = None                  # by time.monotonic, while it looks
        self._failed = False                    # whether the last look did not come to its end
        # Of the thread alone:
        self._jobs = {}                         # (path, id) -> `_Watched`
        self._waits = set()
        self._connection = None

    def start(self):
        """Start to watch, once more after `stop`."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name='remotetask-watcher', daemon=True)
        self._thread.start()

    def stop(self, timeout=None):
        """Watch no longer; wait `timeout` seconds at most for the thread to end, and return whether it has."""
        self._stopping.set()
        self._wakeup.set()
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def watch(self, wait):
        """Have a `Wait` woken, once or more often, at once if need be; until `forget`."""
        self._order(self._add, wait)

    def forget(self, wait):
        """Leave a `Wait` alone, if it is watched at all."""
        self._order(self._remove, wait)

    def _order(self, function, wait):
        self._orders.append((function, wait))
        self._wakeup.set()

    def hasRoomFor(self, count):
        """Say whether so many jobs more can be watched."""
        return len(self._jobs) + count <= JOBS

    def statistics(self):
        """Return what `Gateway.statistics` says of the jobs that are watched."""
        jobs = list(self._jobs.values())
        return {'watchedJobs': len(jobs), 'foundJobs': sum(watched.page is not None for watched in jobs),
                'watchers': len(self._waits)}

    @property
    def isAway(self):
        """Whether the database has failed or does not answer, as far as was noticed."""
        began, isConnected = self._lookBegan, getattr(self._db.storage, 'is_connected', None)
        return (self._failed or began is not None and time.monotonic() - began > PATIENCE
                or isConnected is not None and not isConnected())

    # The thread

    def _run(self):
        hub = hubOf(self._db)
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                self._carryOutOrders()
                if self._waits:
                    hub.subscribe(self._wakeup)
                    self._tryToLook()
                else:
                    hub.unsubscribe(self._wakeup)
                    self._close()               # what others commit would pile up in it
                self._stopping.wait(max(REST, time.monotonic() - began))
                self._wakeup.wait(LOOK if self._waits else None)
                self._wakeup.clear()
        finally:
            hub.unsubscribe(self._wakeup)
            self._close()

    def _carryOutOrders(self):
        while self._orders:
            function, wait = self._orders.popleft()
            function(wait)

    def _add(self, wait):
        self._waits.add(wait)
        self._wakeup.interest = None              # of all commits, until it is known where the jobs are
        for key in wait.keys:
            watched = self._jobs.setdefault(key, _Watched())
            watched.page = None
            watched.waits.add(wait)

    def _remove(self, wait):
        self._waits.discard(wait)
        for key in wait.keys:
            watched = self._jobs.get(key)
            if watched is not None:
                watched.waits.discard(wait)
                if not watched.waits:
                    del self._jobs[key]

    def _tryToLook(self):
        self._lookBegan = time.monotonic()
        try:
            self._look()
            self._failed = False
        except Exception as error:              # no error ends the thread
            if not self._failed:
                logger.warning('jobs cannot be watched: %s: %s', type(error).__name__, error)
            self._failed = True
            self._close()
        finally:
            self._lookBegan = None

    def _look(self):
        if self._connection is None:
            self._connection = self._db.open(TransactionManager(explicit=True))
            # Pages of waiting jobs that do not fit would be loaded again at each look.
            self._cacheSize, self._connection._cache.cache_size = self._connection._cache.cache_size, 2 * JOBS
        manager = self._connection.transaction_manager
        try:
            manager.begin()
            services = {}
            for key in list(self._jobs):
                watched = self._jobs.get(key)   # those who waited for it may have been woken meanwhile
                if watched is not None and watched.isNew(key[1]) and self._hasEnded(key, watched, services):
                    self._end(key)
            if self._wakeup.interest is None:
                self._wakeup.interest = {watched.page._p_oid for watched in self._jobs.values()}
        finally:
            manager.abort()

    def _hasEnded(self, key, watched, services):
        path, jobid = key
        if path not in services:
            try:
                services[path] = self._resolve(self._connection, path)
            except errors.UnknownService:
                services[path] = None
        job = services[path] and services[path].jobs.get(jobid)
        if job is None or job.status in FINAL:
            return True
        watched.page = shardOf(services[path], jobid).pages.page(jobid)
        watched.data = watched.page[jobid]
        return False

    def _end(self, key):
        for wait in self._jobs.pop(key).waits:
            wait.left -= 1
            if wait.any or not wait.left:
                self._remove(wait)
                wait.wake()

    def _close(self):
        connection, self._connection = self._connection, None
        if connection is None:
            return
        for watched in self._jobs.values():
            watched.page = None
        connection._cache.cache_size = self._cacheSize
        try:
            connection.close()
        except Exception as error:              # it is in no state to be used again, and will not be
            logger.log(logging.DEBUG if isDatabaseError(error) else logging.ERROR,
                       'a connection to the database could not be closed', exc_info=True)
