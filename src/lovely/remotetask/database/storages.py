"""The kind of storage that a database has, below its wrappers."""
# SPDX-License-Identifier: ZPL-2.1
from ZEO.ClientStorage import ClientStorage
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import IBlobStorage
from ZODB.interfaces import IStorageWrapper
from ZODB.MappingStorage import MappingStorage

from lovely.remotetask.common.internals import sqlAdapterOf


#: Those that wrap no other.
PLAIN = ClientStorage, FileStorage, MappingStorage


def baseOf(storage):
    """Return the storage that writes what is committed to `storage`: below all wrappers, such as zc.zlibstorage.

    A wrapper provides `IStorageWrapper`, and has the storage that it wraps as its `base`.  What is committed to a
    `DemoStorage` goes to its `changes`.
    """
    while not isinstance(storage, PLAIN):       # quickly: each run of a job comes by here
        if isinstance(storage, DemoStorage):
            storage = storage.changes
        elif IStorageWrapper.providedBy(storage) and getattr(storage, 'base', None) is not None:
            storage = storage.base
        else:
            break
    return storage


def isClosed(db):
    """Return whether a `ZODB.DB` has been closed."""
    return 'storage' not in vars(db)            # its class has something else under that name


def clientOf(db):
    """Return the `ClientStorage` that a `ZODB.DB` has, wrapped or not; None for another kind."""
    storage = baseOf(db.storage)
    return storage if isinstance(storage, ClientStorage) else None


def lacksBlobs(client):
    """Return whether a `ClientStorage` has no directory for blobs, although its server has blobs.

    It could read none of the large values and files that other processes have stored.
    """
    return IBlobStorage.providedBy(client) and not client.blob_dir


def fileOf(db):
    """Return the `FileStorage` that a `ZODB.DB` has, wrapped or not; None for another kind."""
    storage = baseOf(db.storage)
    return storage if isinstance(storage, FileStorage) else None


def postgresqlOf(db):
    """Return RelStorage's adapter of the PostgreSQL that a `ZODB.DB` has, wrapped or not; None for another kind."""
    storage = baseOf(db.storage)
    adapter = sqlAdapterOf(storage) if isRelStorage(storage) else None
    return adapter if adapter is not None and adapter.schema.database_type == 'postgresql' else None


def isRelStorage(storage):
    """Return whether a storage, one without a wrapper, is of RelStorage, which need not be installed."""
    return type(storage).__module__.startswith('relstorage.')


def silenceOf(db):
    """Return why this process does not hear of the commits of others to a `ZODB.DB`, a sentence; None if it does.

    Storages that a single process uses have no others.
    """
    storage = baseOf(db.storage)
    if isinstance(storage, PLAIN) or postgresqlOf(db) is not None:
        return None
    kind = f'{type(storage).__module__}.{type(storage).__qualname__}'
    if isRelStorage(storage):
        return 'of the databases of RelStorage only PostgreSQL tells of commits'
    return f'{kind} is neither a client of ZEO, nor RelStorage, nor a wrapper that provides IStorageWrapper'
