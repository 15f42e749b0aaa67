"""Transactions: a function in one of its own, and the end of one whatever the database makes of that."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import random
import time

from transaction.interfaces import NoTransaction
from transaction.interfaces import TransientError

from lovely.remotetask.common.internals import lastWritten
from lovely.remotetask.database.storages import fileOf


log = logging.getLogger('lovely.remotetask')

#: Seconds before the second attempt of a transaction that has met a conflict.  Each further attempt waits for twice as
#: long, up to the second number, and by chance from half of it to one and a half: not all come back at the same time.
PAUSE, LONGEST_PAUSE = 0.01, 1.0


def lastTransaction(db):
    """Return the id of the last transaction of a `ZODB.DB`, without waiting for one that is being committed.

    `FileStorage.lastTransaction` waits, and so do all its callers, until the disk has confirmed that commit.
    """
    file = fileOf(db)
    tid = None if file is None else lastWritten(file)
    return db.lastTransaction() if tid is None else tid


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
