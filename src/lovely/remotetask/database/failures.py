"""Tells failures of the database from failures of a task."""
# SPDX-License-Identifier: ZPL-2.1
from transaction.interfaces import TransientError
from ZODB.interfaces import IStorage
from ZODB.POSException import POSKeyError
from ZODB.POSException import StorageError


#: Packages of storages whose methods are spread over several classes; see `isDatabaseError`.
STORAGES = ('ZEO', 'relstorage')

#: Modules that call the storage of a database that is in use; wrappers of all kinds may stand between.
CALLERS = ('ZODB.Connection', 'ZODB.DB', 'ZODB.blob', 'ZODB.mvccadapter', 'ZODB.serialize')

#: Seconds for which a client may have been away from its ZEO server, which looks through all transactions since then.
AWAY = 3600


class DatabaseReplaced(Exception):
    """The database server lacks what this process has seen in it: what the process knows is wrong; start it again."""

    def __init__(self, name):
        """`name` is that of the server."""
        super().__init__(f'the database server {name} lacks the last transaction that this process has seen: it has an '
                         f'older copy of the database, or another one, or this process was away for more than '
                         f'{AWAY // 3600} hour; start the process again')
        self.name = name


def isDatabaseError(error):
    """Return whether an exception is the database's business, to be met by another try, and not the task's failure.

    Each kind of storage, and each driver below one, has exceptions of its own: an `OSError` of a full disk, an
    `OperationalError` of PostgreSQL.  So besides those of ZODB all exceptions count that came through a method of a
    storage which a connection, a `ZODB.DB` or this package has called.  These do not: an object that is missing, what
    the caller has used up itself, its stack or the memory, and the errors of a storage that a task calls by itself.
    """
    if isinstance(error, SystemError) and error.__cause__ is not None:      # some code in C has passed over an error
        return isDatabaseError(error.__cause__)
    if not isinstance(error, Exception) or isinstance(error, (POSKeyError, RecursionError, MemoryError)):
        return False
    return isinstance(error, (TransientError, StorageError)) or _isOfStorage(error)


def _isOfStorage(error):
    traceback, isConnected, isOurs = error.__traceback__, False, True
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        module = frame.f_globals.get('__name__', '')
        # The class is asked: asking the object could load it from the database.
        if module.partition('.')[0] in STORAGES or IStorage.implementedBy(type(frame.f_locals.get('self'))):
            return isConnected or isOurs
        isConnected = isConnected or module.startswith(CALLERS)
        isOurs = module.startswith('lovely.remotetask.')
    return False
