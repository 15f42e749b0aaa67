"""Transactions: a function in one of its own, and the end of one whatever the database makes of that."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import random
import threading
import time

from transaction.interfaces import NoTransaction
from transaction.interfaces import TransientError
from ZODB.FileStorage import FileStorage

from lovely.remotetask.common.internals import endReading
from lovely.remotetask.common.internals import lastWritten
from lovely.remotetask.database.storages import baseOf
from lovely.remotetask.database.storages import isRelStorage


log = logging.getLogger('lovely.remotetask')

#: Seconds before the second attempt of a transaction that has met a conflict.  Each further attempt waits for twice as
#: long, up to the second number, and by chance from half of it to one and a half: not all come back at the same time.
PAUSE, LONGEST_PAUSE = 0.01, 1.0


def lastSeen(db):
    """Return the id of the last transaction that this process has seen in a `ZODB.DB`, without waiting for anything.

    `FileStorage.lastTransaction` waits, and so do all its callers, until the disk has confirmed a commit.  RelStorage
    asks its database: the result is None then.
    """
    storage = baseOf(db.storage)
    if isRelStorage(storage):
        return None
    tid = lastWritten(storage) if isinstance(storage, FileStorage) else None
    return db.lastTransaction() if tid is None else tid


# What a `ZODB.DB` asks RelStorage for itself goes through one connection to the server, which two threads must not use
# at a time.  It answers as of the first question, and nobody ends the transaction of that: it would not hear of later
# commits, and the server would keep all rows that were replaced or removed since.

_asking = threading.Lock()


@contextlib.contextmanager
def _current(db):
    storage = baseOf(db.storage)
    if not isRelStorage(storage):
        yield
        return
    with _asking:
        storage.poll_invalidations()
        try:
            yield
        finally:
            storage.afterCompletion()


def lastTransaction(db):
    """Return the id of the last transaction of a `ZODB.DB`.  This may ask its server, and raises what that raises."""
    with _current(db):
        return db.lastTransaction()


@contextlib.contextmanager
def openedAt(db, manager, at):
    """Give a connection to a `ZODB.DB` as it was at a time, and close it at the end.

    manager -- the `TransactionManager` of the connection.
    at -- the id that a transaction at that time would have.

    Raise ValueError if that is later than the last transaction.
    """
    with _current(db):
        connection = db.open(manager, at=at)
    with contextlib.closing(connection):
        try:
            yield connection
        finally:
            endReading(connection)


def tryAbort(manager):
    """Abort the transaction of a transaction manager, if there is one, whatever the database makes of that.

    Return whether the manager's connections can go on to be used: else they may still have the changes, which the next
    commit would store.
    """
    try:
        manager.abort()
    except NoTransaction:
        pass
    except Exception:
        log.debug('a transaction could not be aborted in order', exc_info=True)
        return False
    return True


def pauseAfter(failures):
    """Return for how many seconds to wait before the next attempt after so many that met conflicts, at least one."""
    return min(LONGEST_PAUSE, PAUSE * 2 ** min(failures - 1, 10)) * random.uniform(0.5, 1.5)


def transact(manager, function, attempts=1):
    """Call a function in a transaction, commit that, and return what the function has returned.

    manager -- a `TransactionManager` in explicit mode.
    attempts -- how often this is tried when it meets a `TransientError`, as after a conflict; see `pauseAfter`.

    Raise what the function or the database raises; the manager is in no transaction then.
    """
    failures = 0
    while True:
        try:
            manager.begin()
            result = function()
            manager.commit()
            return result
        except BaseException as error:
            isClean, failures = tryAbort(manager), failures + 1
            if not isClean or failures >= attempts or not isinstance(error, TransientError):
                raise
        time.sleep(pauseAfter(failures))
