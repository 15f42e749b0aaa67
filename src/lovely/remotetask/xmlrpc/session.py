"""A thread's session with the database: its connection, opened when it is needed, and calls that are tried again."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import time

from transaction.interfaces import TransientError
from ZODB.POSException import StorageError

from lovely.remotetask.common.counts import counts
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.transactions import pauseAfter
from lovely.remotetask.xmlrpc.faults import DatabaseUnavailable


logger = logging.getLogger('lovely.remotetask')

#: How often a transaction is tried that meets conflicts, and one whose connection is lost: some storages notice that
#: only when they use one, and have two of them.
ATTEMPTS = 10
LOST_ATTEMPTS = 3


class ReadManager:
    """A transaction manager that commits nothing, and to a connection is its transaction as well.

    (With a `TransactionManager` 32 clients cost 5 us more of processor time for a call.)
    """

    explicit = True

    def __init__(self):
        self._connections, self._changed = [], []

    def registerSynch(self, connection):
        self._connections.append(connection)

    def unregisterSynch(self, connection):
        self._connections.remove(connection)

    def get(self):
        return self

    def join(self, connection):
        self._changed.append(connection)

    def begin(self):
        """Make the connections see what was committed until now."""
        for connection in self._connections:
            connection.newTransaction(self)

    def abort(self):
        """Throw away what was changed."""
        while self._changed:
            self._changed.pop().abort(self)
        for connection in self._connections:
            connection.afterCompletion(self)


class Session:
    """The connection of one thread.  It stays open, as it has what was loaded; after a failure another one is opened.
    """

    def __init__(self, db, newManager, attempts=ATTEMPTS):
        """Nothing is opened yet.

        db -- a `ZODB.DB`.
        newManager -- makes the transaction manager of a connection.
        attempts -- how often `run` tries.
        """
        self._db, self._newManager, self._attempts = db, newManager, attempts
        self._connection = None

    def open(self):
        """Return the connection; its transaction has not begun."""
        if self._connection is None:
            self._connection = self._db.open(self._newManager())
        return self._connection

    def close(self):
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.close()
        except Exception as error:              # it is in no state to be used again, and will not be
            logger.log(logging.DEBUG if isDatabaseError(error) else logging.ERROR,
                       'a connection to the database could not be closed', exc_info=True)

    def refresh(self):
        """Take in what was committed, if there is a connection: invalidations pile up until then."""
        if self._connection is None:
            return
        try:
            self._connection.transaction_manager.begin()
            self._connection.transaction_manager.abort()
        except Exception:
            logger.debug('a connection to the database could not be refreshed', exc_info=True)
            self.close()

    def run(self, function):
        """Return what the function does, called again after a pause when the database fails it.

        The connection is closed after each failure that is no conflict.  Raise `DatabaseUnavailable` in the end.
        """
        for attempt in range(1, self._attempts + 1):
            try:
                return function()
            except Exception as error:
                if not isDatabaseError(error):
                    raise
                isConflict = isinstance(error, TransientError) and not isinstance(error, StorageError)
                if not isConflict:
                    self.close()
                # Where a storage has an exception of its own for a lost connection, it has waited for another one.
                limit = 1 if isinstance(error, StorageError) else self._attempts if isConflict else LOST_ATTEMPTS
                if attempt >= min(limit, self._attempts):
                    raise DatabaseUnavailable() from error
                logger.debug('attempt %d failed: %s', attempt, error)
                counts.add('conflicts' if isConflict else 'database_failures', 'frontend')
            wait = pauseAfter(attempt)
            counts.add('database_wait_seconds', 'frontend', number=wait)
            time.sleep(wait)
