"""Opening the object database, and waking up when somebody commits to it."""
# SPDX-License-Identifier: ZPL-2.1
import threading
import time
import weakref

from transaction.interfaces import TransientError
from ZEO.ClientStorage import ClientStorage
from ZODB.POSException import ConflictError
from ZODB.POSException import POSKeyError
from ZODB.POSException import StorageError


#: How often opening is tried when others open the same new database.
OPENINGS = 10


def isDatabaseError(error):
    """Say whether an exception is the database's business, to be met by another try, and not the task's failure."""
    return isinstance(error, (TransientError, StorageError)) and not isinstance(error, POSKeyError)


class Hub:
    """Everybody in this process who wants to be woken by a commit to one database."""

    def __init__(self):
        self._bells = weakref.WeakSet()
        self._lock = threading.Lock()

    def subscribe(self, bell):
        """Have `bell`, a `threading.Event`, set after each commit; until `unsubscribe`, or until it is forgotten."""
        with self._lock:
            self._bells.add(bell)

    def unsubscribe(self, bell):
        """Leave `bell` alone from now on."""
        with self._lock:
            self._bells.discard(bell)

    def ring(self, but=None):
        """Wake everybody, but whose bell is `but`.  Cheap, and calls nobody: it may run in ZEO's I/O thread."""
        with self._lock:
            for bell in self._bells:
                if bell is not but:
                    bell.set()


class _Listener:
    """Stands between a storage and its database: passes on what other clients have committed, and rings."""

    def __init__(self, target, hub):
        self._target, self._hub = target, hub

    def __getattr__(self, name):
        return getattr(self._target, name)

    def invalidate(self, *args):
        self._target.invalidate(*args)
        self._hub.ring()

    def invalidateCache(self):              # after a reconnection: look at everything
        self._target.invalidateCache()
        self._hub.ring()


_hubs = weakref.WeakKeyDictionary()
_hubsLock = threading.Lock()


def hubOf(db):
    """Return the `Hub` of a `ZODB.DB`, making it at the first call.

    A ZEO client is listened to from then on.  `ZODB.DB` has registered its MVCC adapter with the storage, and a
    storage has one database: so the listener takes the adapter's place and hands everything on.  (The adapter is a
    private attribute of DB; where there is none, or on a storage that tells nothing of the commits of others, like
    RelStorage, processors look every `waitTime` seconds.)
    """
    with _hubsLock:
        hub = _hubs.get(db)
        if hub is None:
            hub = _hubs[db] = Hub()
            adapter = getattr(db, '_mvcc_storage', None)
            if isinstance(db.storage, ClientStorage) and adapter is not None:
                db.storage.registerDB(_Listener(adapter, hub))
        return hub


class Database:
    """An open database, and how to open it once more.

    db -- the `ZODB.DB`.
    """

    def __init__(self, open):
        """`open` is a callable that opens a `ZODB.DB`."""
        self._openOnce = open
        self.db = self._open()
        self._ledgerDB = None

    def _open(self):
        # Whoever opens an empty database first makes its root object; the others of a new deployment, which do so
        # at the same time, meet a conflict.
        for failures in range(OPENINGS):
            try:
                return self._openOnce()
            except ConflictError:
                if failures == OPENINGS - 1:
                    raise
                time.sleep(0.1)

    def ledgerDB(self):
        """Return the `ZODB.DB` for the threads that keep the ledgers.

        All commits of one ZEO client wait for each other.  With a client of its own, a ledger is not kept from
        being written by a task's long commit, which would make a living host look dead.
        """
        if self._ledgerDB is None:
            self._ledgerDB = self._open() if isinstance(self.db.storage, ClientStorage) else self.db
        return self._ledgerDB

    def close(self):
        """Close what has been opened."""
        if self._ledgerDB not in (None, self.db):
            self._ledgerDB.close()
        self.db.close()
