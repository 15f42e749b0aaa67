"""Opening the object database, safely for those that come first or connect again, and closing it."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import random
import threading
import time

from transaction.interfaces import NoTransaction
from ZODB.POSException import ConflictError

from lovely.remotetask.common.internals import cleanUpFailures
from lovely.remotetask.database.connections import SeparateClient
from lovely.remotetask.database.connections import SharedClient
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.notifications import stopListening
from lovely.remotetask.database.postgresql import checkPooler
from lovely.remotetask.database.postgresql import firstConnections
from lovely.remotetask.database.postgresql import isRaced
from lovely.remotetask.database.storages import clientOf
from lovely.remotetask.database.storages import fileOf
from lovely.remotetask.database.storages import isClosed
from lovely.remotetask.database.storages import lacksBlobs
from lovely.remotetask.database.storages import postgresqlOf
from lovely.remotetask.database.storages import silenceOf
from lovely.remotetask.database.zeo import CLOSE_TIME
from lovely.remotetask.database.zeo import Watchdog
from lovely.remotetask.database.zeo import guard
from lovely.remotetask.database.zeo import leaveIfSilent
from lovely.remotetask.database.zeo import useProtocol
from lovely.remotetask.errors import ConfigurationError


log = logging.getLogger('lovely.remotetask')


#: How often opening is tried when others open the same new database, and seconds between two tries, at the most.
OPENINGS, OPENING_PAUSE = 20, 0.5

#: Seconds after which the log says that a database has not opened yet.
LONG_OPENING = 5


class Database:
    """An open database, and how to open it once more.

    db -- the `ZODB.DB`.
    taskClient -- a `SharedClient` of the database for those that must not be kept waiting by what goes on in `db`, or
        must not keep that waiting.  All commits of one ZEO client wait for each other: with another client for the
        tasks a ledger is not kept from being written by a task's long commit, which would make a living host look dead.
    """

    def __init__(self, open, fail=log.critical):
        """Open it.

        open -- a callable that opens a `ZODB.DB`.
        fail -- called with an exception when the database cannot be used any more, from any thread.

        Raise `ConfigurationError` for a client of ZEO without a directory for blobs whose server has them: it could not
        read large values, and the jobs that have such an input would wait for the database for ever.
        """
        useProtocol()
        self._openOnce, self._fail = open, fail
        self._watchdogs = {}
        self.db = self._open()
        isClient = clientOf(self.db) is not None
        self.taskClient = SeparateClient(self._open, self._shut) if isClient else SharedClient(self.db)
        if (silence := silenceOf(self.db)) is not None:
            log.info('%s: commits of other processes are noticed by looking every "wait-time", and a server that hangs '
                     'is not noticed: %s', self.db.storage.getName(), silence)

    def _open(self):
        db = self._openNew()
        client, file, postgresql = clientOf(db), fileOf(db), postgresqlOf(db)
        if client is not None:
            self._checkBlobs(db, client)
            notifierOf(db)                       # whose listener makes reconnecting safe
            guard(client, self._fail)
            self._watchdogs[db] = Watchdog(client)
        elif file is not None:
            cleanUpFailures(file)
        elif postgresql is not None:
            try:
                listener = notifierOf(db).listener          # which adds to what it connects with
                checkPooler(postgresql.connmanager)
                listener.start()                # it also leaves a server that hangs, whoever waits for that
            except BaseException:
                closeDatabase(db)
                raise
        return db

    @staticmethod
    def _checkBlobs(db, client):
        if lacksBlobs(client):
            closeDatabase(db)
            raise ConfigurationError('the client of the database server has no directory for blobs, where large values '
                                     'and files are: add "blob-dir DIRECTORY" to <clientstorage>, and "shared-blob-dir '
                                     'yes" if it is the directory of the server')

    def _openNew(self):
        # Whoever opens an empty database first makes its root object, and its tables; the others of a new deployment,
        # which do so at the same time, meet a conflict.
        for failures in range(OPENINGS):
            try:
                with firstConnections(), _tellIfLong():
                    return self._openOnce()
            except Exception as error:
                if failures == OPENINGS - 1 or not (isinstance(error, ConflictError) or isRaced(error)):
                    raise
                time.sleep(random.uniform(0, OPENING_PAUSE))

    def _shut(self, db):
        if db in self._watchdogs:
            self._watchdogs.pop(db).stop()
        closeDatabase(db)

    def close(self):
        """Close what has been opened.  This takes some seconds at most, whatever the database does."""
        if self.taskClient.isSeparate:
            self.taskClient.close()
        self._shut(self.db)


@contextlib.contextmanager
def _tellIfLong():
    """Log it when the block takes long."""
    timer = threading.Timer(LONG_OPENING, log.warning, (
        'the database has not opened for %d seconds: its server does not answer, or a file without an index is read',
        LONG_OPENING))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()                    # at once: no thread is left


def closeDatabase(db):
    """Close a `ZODB.DB`, whatever the state of its connections; within seconds, whatever its server does."""
    listener = stopListening(db)
    if isClosed(db):
        return
    with contextlib.nullcontext() if listener is None else listener.open.answering(CLOSE_TIME):
        _close(db)


def _close(db):
    storage = db.storage
    try:
        if (client := clientOf(db)) is not None:
            leaveIfSilent(client, CLOSE_TIME, threading.Event())
            client.close()                 # first: what still waits for the server ends, and nothing more will wait
        db.close()
        return
    except NoTransaction:                   # a connection was left open, as by a thread that was given up
        pass
    except Exception as error:
        log.warning('the database could not be closed in order: %s: %s', type(error).__name__, error)
    try:
        storage.close()
    except Exception:                       # each of its connections may be lost
        log.debug('the storage could not be closed in order', exc_info=True)
