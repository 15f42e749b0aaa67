"""What this package uses of other libraries by their private names.

No other module knows such a name.  Each function says why there is no public way, and what is lost without the name.
That may be speed or safety which nobody would miss at once: so a line of the log says it, once in a process.
`test_internals` fails when an installed release lacks a name, or when another module uses one.
"""
# SPDX-License-Identifier: ZPL-2.1
import asyncio
import contextlib
import logging
import os


log = logging.getLogger('lovely.remotetask')

_told = set()


def tellMissing(name, lost):
    """Log, once in a process, that a library lacks a name, and what is `lost` by that."""
    if name not in _told:
        _told.add(name)
        log.warning('%s is missing in the installed release: %s', name, lost)


def _get(owner, name, lost):
    """Return an attribute; None where it is missing, which is logged."""
    try:
        return getattr(owner, name)
    except AttributeError:
        tellMissing(f'{type(owner).__name__}.{name}', lost)


# asyncio

def loopThatTells(note):
    """Return an event loop whose servers call `note` with the address of each client that is to speak TLS.

    The call and the handshake run in the same context (`contextvars`).  There is no public way to learn whose handshake
    has failed: without this method of asyncio's, the log has no address.
    """
    class Loop(asyncio.SelectorEventLoop):
        def _make_ssl_transport(self, *arguments, extra=None, **options):
            note((extra or {}).get('peername'))
            return super()._make_ssl_transport(*arguments, extra=extra, **options)

    return Loop()


# transaction

def resourcesOf(txn):
    """Return the data managers that have joined a transaction.

    There is no public way to ask for them.  Without them nobody can tell whether a run has written: the name is needed.
    """
    return txn._resources


def hasData(txn):
    """Return whether something was stored on a transaction with `set_data`.

    The public `data` wants the object that it was stored for.  The attribute comes with the first use of `set_data`.
    Without it a run may meet what the one before has stored.
    """
    return bool(getattr(txn, '_data', None))


# ZODB

def adapterOf(db):
    """Return what a `ZODB.DB` has registered with its storage; None where that is missing.

    There is no public way to hear of the commits of others.
    """
    return _get(db, '_mvcc_storage', 'commits of other processes are noticed by polling only')


def lastWritten(storage):
    """Return the id of the last transaction that a `FileStorage` has written; None where that is missing.

    The public `lastTransaction` waits until the disk has confirmed it.
    """
    return _get(storage, '_ltid', 'threads wait for the commits of others, to the disk, before they begin a job')


def storageOf(connection):
    """Return the storage that a connection reads from.

    There is no public way to open the file of a blob without loading that: the name is needed.
    """
    return connection._storage


def isUnchanged(connection):
    """Return whether a connection takes part in no transaction: then it has no changes.

    There is no public way to ask.
    """
    return bool(_get(connection, '_needs_to_join',
                     'connections are given up whenever a transaction cannot be aborted in order'))


def resizeCache(connection, size):
    """Set how many objects the cache of a connection keeps, and return how many it kept; None leaves it as it is.

    The public `DB.setCacheSize` is for all connections.
    """
    cache = _get(connection, '_cache', 'jobs that are waited for are loaded again and again when there are many')
    if cache is None or size is None:
        return None
    before, cache.cache_size = cache.cache_size, size
    return before


def activeObjects(connection):
    """Return the objects that a connection has loaded and not forgotten; None where there is no way to tell.

    There is no public way to ask.
    """
    cache = _get(connection, '_cache', 'the services of a database are looked at again and again')
    return None if cache is None else [obj for _, obj in cache.lru_items()]


# FileStorage means to cut off what it has written of a transaction when the disk is full; but the buffer of its file
# still has the rest, wants to write that first, and fails again.  What then stays, in the file and in the buffers of
# those who read, is taken for the next transaction.

_OF_FILE_STORAGE = ('_abort', '_file', '_file_name', '_files', '_pos')


def cleanUpFailures(storage):
    """Make a `FileStorage` forget a transaction that it could not write entirely, so that it goes on when it can again.

    Its public methods do not know where the file ends that it has written in part.
    """
    for name in _OF_FILE_STORAGE:
        if _get(storage, name, 'after the disk was full the database may be damaged') is None:
            return
    abort = storage._abort                      # the part of `tpc_abort` that each kind of storage has for itself

    def abortAndForget():
        abort()
        try:
            storage._file.flush()
            isClean = os.fstat(storage._file.fileno()).st_size == storage._pos
        except OSError:
            isClean = False
        if not isClean:
            with contextlib.suppress(OSError):
                storage._file.close()           # once more it wants to write
            storage._file = open(storage._file_name, 'r+b')
            storage._file.truncate(storage._pos)
            storage._files.flush()

    storage._abort = abortAndForget


# RelStorage

#: Where libpq looks for what a connection string and its service do not say: name of the parameter -> variable.
LIBPQ_ENVIRONMENT = {'connect_timeout': 'PGCONNECT_TIMEOUT', 'options': 'PGOPTIONS'}


def addToDSN(manager, defaults):
    """Add defaults to the parameters that an `IConnectionManager` of PostgreSQL connects with; only for psycopg2.

    A default is for a parameter that is neither in the connection string, nor in its service, nor in the environment.
    There is no public way to add one.  With a service this connects once, and raises what that raises.

    defaults -- name of a parameter of libpq -> value.  One named `options` is put before the options that there are.
    """
    dsn = _get(manager, '_dsn', 'a process may wait for ever for a PostgreSQL that hangs or vanishes')
    if dsn is None or manager.driver.__name__ != 'psycopg2':
        return
    libpq = manager.driver.driver_module.extensions
    said = {name: os.environ[variable] for name, variable in LIBPQ_ENVIRONMENT.items() if variable in os.environ}
    said.update(libpq.parse_dsn(dsn))
    if 'service' in said or 'PGSERVICE' in os.environ:      # libpq alone finds what that says
        connection, _ = manager.open()
        with contextlib.closing(connection):
            said.update(connection.get_dsn_parameters())
    missing = {name: value for name, value in defaults.items() if name not in said}
    if 'options' in said and 'options' in defaults:
        missing['options'] = f'{defaults["options"]} {said["options"]}'
    manager._dsn = libpq.make_dsn(dsn, **missing)


def sqlAdapterOf(storage):
    """Return the `IRelStorageAdapter` by which a `RelStorage` speaks with its database; None where that is missing.

    Of it are used: `schema.database_type` and `connmanager`, an `IConnectionManager`.  There is no public way to it.
    """
    return _get(storage, '_adapter', 'commits of other processes are noticed by polling only')


# ZEO

def forgetNewIds(storage):
    """Make a `ClientStorage` forget the ids that it has in store for new objects.

    A server that was killed does not know of them, and gives them to others, too.  There is no public way.
    """
    ids = _get(storage, '_oids', 'after a crash of the database server two objects may get one id')
    if ids is not None:
        del ids[:]


def serverOf(storage):
    """Return the object by which a `ClientStorage` speaks with its server; None where that is missing.

    Of it are used: `call`, `loop`, and `client` with `register`, `invalidateTransaction`, `cache` and `protocol`; of
    that one `server_call`, `close` and `sm_protocol.transport`.  `ClientStorage` itself has no time limit for an
    answer, and tells nobody of a reconnection before it is used.
    """
    return _get(storage, '_server', 'a database server that hangs, or has another database, is not noticed')


def endReading(connection):
    """Have a connection that shows an earlier state of a `RelStorage` end the transaction in which it reads.

    ZODB does not pass on to that storage that a transaction of the connection is over.
    """
    storage = _get(storageOf(connection), '_storage', 'after a look at an earlier time PostgreSQL keeps all old rows')
    if hasattr(storage, 'afterCompletion'):     # other storages need nothing
        storage.afterCompletion()
