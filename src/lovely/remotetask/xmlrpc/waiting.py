"""Waiting for jobs: after commits, one thread looks at all jobs for which callers wait."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import threading
import time
from collections import deque

from transaction import TransactionManager

from lovely.remotetask import errors
from lovely.remotetask.common.internals import resizeCache
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.storage.ready import shardOf


logger = logging.getLogger('lovely.remotetask')

#: Jobs that are watched at a time at most.
JOBS = 100_000
#: Seconds between two looks, whether something was heard or not: not every storage tells of commits.
POLL_INTERVAL = 1.0
#: Seconds that it rests between two looks, in addition to the time that the last one took: commits can come in floods.
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


class Wakeup(threading.Event):
    """Set when somebody has committed something of interest, or ordered something; see `CommitNotifier.subscribe`."""

    def __init__(self):
        super().__init__()
        self.interest = None            # ids of objects, a set; None for all
        self._lock = threading.Lock()
        self._changed = None            # ids of those that were written since `take`; None if it may have been any

    def note(self, oids):
        """Note which objects were written, a set of ids; None if it may have been any."""
        with self._lock:
            self._changed = None if oids is None or self._changed is None else self._changed | oids

    def take(self):
        """Clear it, and return what was noted since the last time."""
        self.clear()                    # first: what is noted from now on sets it once more
        with self._lock:
            changed, self._changed = self._changed, set()
        return changed


class JobWatcher:
    """Wakes callers whose jobs have ended; only its own thread waits for the database."""

    def __init__(self, db, resolve):
        """Nothing is opened yet; for the arguments see `gateway.Gateway`."""
        self._db, self._resolve = db, resolve
        self._wakeup = Wakeup()
        self._orders = deque()                  # pairs of function and `Wait`, for the thread
        self._stopping = threading.Event()
        self._thread = None
        self._lookBegan = None                  # by time.monotonic, while it looks
        self._failed = False                    # whether the last look did not come to its end
        # Of the thread alone:
        self._jobs = {}                         # (path, id) -> `_Watched`
        self._waits = set()
        self._new = []                          # keys of jobs that were not looked at
        self._onPage = {}                       # id of a page -> the keys of the jobs on it
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
        """Wake a `Wait`, once or more often, at once if need be; until `forget`."""
        self._order(self._add, wait)

    def forget(self, wait):
        """Leave a `Wait` alone, if it is watched at all."""
        self._order(self._remove, wait)

    def _order(self, function, wait):
        self._orders.append((function, wait))
        self._wakeup.set()

    def hasRoomFor(self, count):
        """Return whether so many jobs more can be watched."""
        return len(self._jobs) + count <= JOBS

    def statistics(self):
        """Return what `Gateway.statistics` says of the jobs that are watched."""
        jobs = list(self._jobs.values())
        return {'isWatching': self._connection is not None,
                'watchedJobs': len(jobs), 'foundJobs': sum(watched.page is not None for watched in jobs),
                'watchers': len(self._waits)}

    @property
    def isAway(self):
        """Whether the database has failed or does not answer, as far as was noticed."""
        began, isConnected = self._lookBegan, getattr(self._db.storage, 'is_connected', None)
        return (self._failed or began is not None and time.monotonic() - began > PATIENCE
                or isConnected is not None and not isConnected())

    # The thread

    def _run(self):
        notifier = notifierOf(self._db)
        try:
            while not self._stopping.is_set():
                began, changed = time.monotonic(), self._wakeup.take()
                self._carryOutOrders()
                if self._waits:
                    self._tryToLook(notifier, changed)
                else:
                    notifier.unsubscribe(self._wakeup)
                    self._close()               # invalidations would pile up in it
                self._stopping.wait(max(REST, time.monotonic() - began))
                if not self._wakeup.wait(POLL_INTERVAL if self._waits else None):
                    self._wakeup.note(None)
        finally:
            notifier.unsubscribe(self._wakeup)
            self._close()

    def _carryOutOrders(self):
        while self._orders:
            function, wait = self._orders.popleft()
            function(wait)

    def _add(self, wait):
        self._waits.add(wait)
        self._wakeup.interest = None            # all commits, until it is known where the jobs are
        self._new += wait.keys
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

    def _tryToLook(self, notifier, changed):
        self._lookBegan = time.monotonic()
        try:
            notifier.subscribe(self._wakeup)    # which may start what hears of commits, if there can be another thread
            self._look(changed)
            self._failed = False
        except BaseException as error:          # no error ends the thread
            if not self._failed:
                logger.warning('jobs cannot be watched: %s: %s', type(error).__name__, error)
            self._failed = True
            self._close()
        finally:
            self._lookBegan = None

    def _look(self, changed=None):
        """Wake those whose jobs have ended; `changed` are ids of the pages that were written, None for all pages."""
        if self._connection is None:
            self._connection = self._db.open(TransactionManager(explicit=True))
            # Pages of waiting jobs that do not fit would be loaded again at each look.
            self._cacheSize = resizeCache(self._connection, 2 * JOBS)
        manager = self._connection.transaction_manager
        try:
            manager.begin()
            services = {}
            for key in self._keysOf(changed):
                watched = self._jobs.get(key)   # those who waited for it may have been woken meanwhile
                if watched is not None and watched.isNew(key[1]) and self._hasEnded(key, watched, services):
                    self._end(key)
            self._new.clear()
            if self._wakeup.interest is None:
                self._onPage = {}
                for key, watched in self._jobs.items():
                    self._onPage.setdefault(watched.page._p_oid, []).append(key)
                self._wakeup.interest = set(self._onPage)
        finally:
            manager.abort()

    def _keysOf(self, pages):
        if pages is None:
            return list(self._jobs)
        return [*self._new, *(key for page in pages for key in self._onPage.get(page, ()))]

    def _hasEnded(self, key, watched, services):
        path, jobid = key
        try:
            if path not in services:
                services[path] = self._resolve(self._connection, path)
            job = services[path] and services[path].jobs.get(jobid)
        except (errors.UnknownService, errors.WrongGeneration):
            services[path] = job = None
        if job is None or job.status in FINAL:
            return True
        page = shardOf(services[path], jobid).pages.page(jobid)
        if page is not watched.page:
            self._wakeup.interest = None
        watched.page, watched.data = page, page[jobid]
        return False

    def _end(self, key):
        for wait in self._jobs.pop(key).waits:
            wait.left -= 1
            if wait.any or not wait.left:
                self._remove(wait)
                wait.wake()

    def _close(self):
        """Close the connection, if there is one.  The next one looks at all jobs: it may see other changes."""
        self._new.clear()
        self._wakeup.note(None)
        connection, self._connection = self._connection, None
        if connection is None:
            return
        for watched in self._jobs.values():
            watched.page = None
        resizeCache(connection, self._cacheSize)
        try:
            connection.close()
        except Exception as error:              # it is in no state to be used again, and will not be
            logger.log(logging.DEBUG if isDatabaseError(error) else logging.ERROR,
                       'a connection to the database could not be closed', exc_info=True)
