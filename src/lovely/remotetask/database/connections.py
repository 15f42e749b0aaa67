"""Connections of threads that run jobs: to the database of the host, or to a separate client."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import threading

import transaction
from ZODB.POSException import StorageError
from ZODB.utils import p64
from ZODB.utils import u64

from lovely.remotetask.common.internals import isUnchanged
from lovely.remotetask.database.storages import clientOf
from lovely.remotetask.database.transactions import tryAbort


log = logging.getLogger('lovely.remotetask')


class SharedClient:
    """Lends a database that is open anyway."""

    #: Whether this is another client than the one that keeps the ledgers.
    isSeparate = False

    def __init__(self, db):
        self._db = db

    def acquire(self):
        """Return a `ZODB.DB`, for as long as `release` is not called."""
        return self._db

    def release(self):
        """End the use of it: call this once for each `acquire`, after all its connections are closed."""

    def prefetch(self, oids):
        """Have a separate client ask its server for records, if it is open, and do not wait for them.

        oids -- a list of object ids.
        """


class ThreadConnection:
    """A thread's connection to a database, opened when it is needed and again when it was given up.

    It takes part in the transactions of the thread, those of `transaction.manager`.

    connection -- the `Connection`; None while there is none.
    isCold -- whether nothing has been loaded by it yet: to be set to False by the one who uses it.
    isSeparate -- see `SharedClient.isSeparate`.
    """

    def __init__(self, client, poolSize):
        """Open nothing yet.

        client -- the `SharedClient` of the `ZODB.DB`.
        poolSize -- how many connections the database has to have room for.
        """
        self._client, self._poolSize = client, poolSize
        self.connection, self.isCold, self.isSeparate = None, True, client.isSeparate
        self._opened = None                     # what the connection says of when it was opened

    @property
    def isLost(self):
        """Whether somebody else has closed the connection; it may be the one of another thread by now."""
        return self.connection is not None and self.connection.opened != self._opened

    def open(self):
        """Return the open connection.  Raise `StorageError` when there is none to be had now."""
        if self.isLost:
            self.close()
        if self.connection is None:
            try:
                db = self._client.acquire()
                try:
                    db.setPoolSize(max(db.getPoolSize(), self._poolSize))
                    self.connection, self.isCold = db.open(), True
                    self._opened = self.connection.opened
                except BaseException:
                    self._client.release()
                    raise
            except Exception as error:          # each kind of storage has errors of its own
                raise StorageError(f'the database cannot be opened: {error}') from error
        return self.connection

    def tryAbort(self):
        """Abort the thread's transaction.  A connection that still has its changes after that is given up."""
        transaction.manager.explicit = False    # as it is at first; a task may have changed that
        if not tryAbort(transaction.manager) and self.connection is not None and not isUnchanged(self.connection):
            self.close()

    def close(self):
        """Give the connection back, and with the last one of a client the client.  Twice is fine."""
        isLost, connection, self.connection = self.isLost, self.connection, None
        if connection is None:
            return
        try:
            if not isLost:
                connection.close()
        except Exception:                       # as it refuses to do with changes that could not be aborted
            log.debug('a connection could not be closed in order', exc_info=True)
            with contextlib.suppress(KeyError):
                transaction.manager.unregisterSynch(connection)         # it is to hear of no other transaction
        try:
            self._client.release()
        except Exception:
            log.debug('a client of the database could not be closed in order', exc_info=True)


class SeparateClient(SharedClient):
    """Lends a separate client, which is open while somebody has it.

    Each client of a ZEO server hears of each commit, which takes time on both sides: one that nobody needs is closed.
    """

    isSeparate = True

    def __init__(self, open, close):
        """`open` returns a `ZODB.DB`, and `close` is called with it."""
        self._open, self._close = open, close
        self._lock = threading.Lock()
        self._db, self._users = None, 0

    def acquire(self):
        """See `SharedClient`.  Opening takes some time, and raises what the database raises."""
        with self._lock:
            if self._db is None:
                self._db = self._open()
            self._users += 1
            return self._db

    def release(self):
        """See `SharedClient`."""
        with self._lock:
            self._users -= 1
            if self._users or self._db is None:
                return
            db, self._db = self._db, None
        self._close(db)

    def prefetch(self, oids):
        """See `SharedClient`."""
        db = self._db                           # without the lock, which is held while a client is opened
        client = None if db is None else clientOf(db)
        if client is None or not client.is_connected():
            return
        try:
            client.prefetch(oids, p64(u64(client.lastTransaction()) + 1))
        except Exception:                       # closed meanwhile, say
            log.debug('a client of the database cannot load in advance', exc_info=True)

    def close(self):
        """Close the client even if somebody has it still."""
        with self._lock:
            db, self._db = self._db, None
        if db is not None:
            self._close(db)
