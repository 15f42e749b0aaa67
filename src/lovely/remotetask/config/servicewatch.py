"""Following which task services there are: a process takes up new ones, and lets go of those that were removed."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import threading
from typing import NamedTuple

import transaction

from lovely.remotetask.common.internals import activeObjects
from lovely.remotetask.common.internals import resizeCache
from lovely.remotetask.common.logs import about
from lovely.remotetask.config.autostart import broken
from lovely.remotetask.config.autostart import matching
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.sites import loadFault
from lovely.remotetask.database.sites import pathOf
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.database.transactions import tryAbort
from lovely.remotetask.errors import RemoteTaskError


log = logging.getLogger('lovely.remotetask')

#: Seconds between two looks when nothing is heard of; and the least, however much is heard.
INTERVAL, LEAST = 5.0, 0.2

#: Objects that the connection keeps, at the most, to know whether one of them has changed.
KEPT = 100_000


#: Failures that are logged, at the most, until all is well: a text may have a number or a time in it.
MOST_TOLD = 100


class Found(NamedTuple):
    """A service that the patterns fit."""

    oid: bytes
    path: tuple         # of names, from the root folder down
    site: str           # the name of its site
    name: str           # that it is registered by

    @property
    def key(self):
        """What tells it from others: another service that comes to its path, or the same one at another path."""
        return self.oid, self.path

    def __str__(self):
        return '/' + '/'.join(self.path)


class ServiceWatch:
    """Starts processing each service that the patterns fit, and stops that when the service is gone.

    `look` does so once.  A thread, which `start` starts, does so whenever that may have changed.  It keeps what it has
    loaded to find the services.  A commit to one of these objects wakes it, as far as this process is told of it; and
    as long as none of them was changed, it loads nothing.

    db -- a `ZODB.DB`.
    patterns -- a list of texts, see `autostart.getAutostartServiceNames`.
    begin -- called with a `Found`, and with the service in a transaction, for each service that is new.
    end -- called with a `Found` for each that is gone.
    """

    def __init__(self, db, patterns, begin, end):
        self._db, self._patterns, self._begin, self._end = db, patterns, begin, end
        self._manager, self._connection = transaction.TransactionManager(), None
        self._cacheSize = None              # of the connection, before it was ours
        self._loaded = None                 # the objects that were looked at; None when all must be looked at
        self._known = {}                    # key -> `Found`, of each that has begun and not ended
        self._broken = {}                   # path -> why this process cannot load the service there
        self._told = set()                  # failures that have been logged: each once, until all is well
        self._stopRequested, self._wakeup = threading.Event(), threading.Event()
        self._wakeup.interest, self._wakeup.ignoresUnknown = frozenset(), True
        self._thread = None

    # Looking

    def look(self):
        """Begin with the services that there are.  Raise what the database and `begin` raise."""
        try:
            self._inTransaction(self._first)
        except BaseException:
            self._close()
            raise

    def _first(self):
        for found, service in self._services(log.log):
            self._begin(found, service)
            self._known[found.key] = found
        self._tellOfBroken()
        self._note()

    def _inTransaction(self, function):
        if self._connection is None:
            self._connection = self._db.open(self._manager)
            self._connection.explicit_transactions = True       # none stays open between two looks
            self._connection.cacheMinimize()                    # what others have loaded does not matter
            self._cacheSize = resizeCache(self._connection, KEPT)
        self._manager.begin()
        try:
            return function()
        finally:
            if not tryAbort(self._manager):
                self._manager, self._connection = transaction.TransactionManager(), None

    def _services(self, tell):
        for site, name, service in matching(self._connection, self._patterns, tell):
            yield Found(service._p_oid, pathOf(service), site, name), service

    def _tellOfBroken(self):
        """Log, once, which services the patterns fit that this process cannot even load."""
        before, self._broken = self._broken, {path: loadFault(service) for path, service in
                                              broken(self._connection, self._patterns).items()}
        for path, fault in self._broken.items():
            if before.get(path) != fault:
                log.warning('the task service %s is not processed here: %s', pathText(path), fault,
                            extra=about('service.missing', service=pathText(path)))

    def _note(self):
        """Note what all this depends on."""
        self._loaded = activeObjects(self._connection)
        self._wakeup.interest = frozenset(obj._p_oid for obj in self._loaded or ())

    def _update(self):
        """Begin and end what has changed; return whether there was something to look at."""
        if self._loaded is not None and all(obj._p_changed is not None for obj in self._loaded):
            return False
        self._loaded = None
        services = {found.key: (found, service) for found, service in self._services(lambda *arguments: None)}
        for key in self._known.keys() - services.keys():
            self._end(self._known.pop(key))
        self._tellOfBroken()
        new = sorted(services.keys() - self._known.keys())
        if all([self._hasBegun(*services[key]) for key in new]):
            self._note()
            self._told.clear()
        return True

    def _hasBegun(self, found, service):
        """Try to begin with a service; return whether that could be done.  Else it is tried again."""
        try:
            self._begin(found, service)
        except Exception as error:
            self._tell(f'the task service {found} cannot be processed yet: {error}', error)
            return False
        self._known[found.key] = found
        return True

    # The thread

    def start(self):
        """Start the thread.  `look` must have been called."""
        notifierOf(self._db).subscribe(self._wakeup)
        self._thread = threading.Thread(target=self._follow, name='remotetask-services', daemon=True)
        self._thread.start()

    @property
    def running(self):
        """Whether the thread goes on."""
        return self._thread is not None and not self._stopRequested.is_set()

    def stop(self, timeout=None, wait=None):
        """End the thread; wait for `wait` or else `timeout` seconds, None for as long as it takes, until it has ended.
        """
        self._stopRequested.set()
        self._wakeup.set()
        if self._thread is None:
            self._close()
        else:
            self._thread.join(timeout if wait is None else wait)

    @property
    def _isClosed(self):
        """Whether the database was closed, by somebody who did not stop this before."""
        return self._connection is not None and self._connection.opened is None

    def _follow(self):
        while not self._stopRequested.is_set() and not self._isClosed:
            try:
                hasLooked = self._inTransaction(self._update)
            except Exception as error:
                self._loaded, hasLooked = None, False
                self._tell(f'the task services cannot be looked at: {error}', error)
            if not self._stopRequested.wait(LEAST if hasLooked else 0):
                self._wakeup.wait(INTERVAL)
            self._wakeup.clear()
        notifierOf(self._db).unsubscribe(self._wakeup)
        self._close()

    def _tell(self, text, error):
        """Log a failure when it first comes, as each look meets it; once more if all was well in between."""
        if isDatabaseError(error):
            log.debug('%s', text, exc_info=error)
        elif text not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(text)
            log.error('%s', text, exc_info=None if isinstance(error, RemoteTaskError) else error)   # which says it all
            if len(self._told) == MOST_TOLD:
                log.error('no more such failures are told until all task services can be processed again')

    def _close(self):
        connection, isClosed = self._connection, self._isClosed
        self._connection = self._loaded = None
        if connection is not None and not isClosed:
            resizeCache(connection, self._cacheSize)
            connection.close()
