"""Opening the object database, waking up when somebody commits to it, and leaving a server that hangs or is another."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import threading
import time
import weakref

import transaction
from persistent.timestamp import TimeStamp
from transaction.interfaces import NoTransaction
from transaction.interfaces import TransientError
from ZEO.ClientStorage import ClientStorage
from ZEO.Exceptions import ClientDisconnected
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import IStorage
from ZODB.POSException import ConflictError
from ZODB.POSException import POSKeyError
from ZODB.POSException import StorageError
from ZODB.utils import z64

from lovely.remotetask.internals import adapterOf
from lovely.remotetask.internals import cleanUpFailures
from lovely.remotetask.internals import forgetNewIds
from lovely.remotetask.internals import isUnchanged
from lovely.remotetask.internals import lastWritten
from lovely.remotetask.internals import serverOf
from lovely.remotetask.internals import tellMissing
from lovely.remotetask.keepalive import VANISHED
from lovely.remotetask.keepalive import keepAlive


log = logging.getLogger('lovely.remotetask')

#: How often opening is tried when others open the same new database.
OPENINGS = 10

#: Seconds between two looks at a ZEO server, and after which one that does not answer is taken to hang.  All its
#: clients wait while it resolves a large conflict or writes to a slow disk: that must not look like hanging.
LOOK = 2.0
HANG = 10

#: Seconds that a ZEO server has to answer before its client is closed.
LAST_LOOK = 2

#: Seconds that a ZEO server may have gone on without a client that connects again: it has to look through all of them.
AWAY = 3600

#: Packages of storages whose methods are spread over several classes; see `isDatabaseError`.
STORAGES = ('ZEO', 'relstorage')

#: Modules that call the storage of a database that is in use; wrappers of all kinds may stand between.
CALLERS = ('ZODB.Connection', 'ZODB.DB', 'ZODB.blob', 'ZODB.mvccadapter', 'ZODB.serialize')


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


def lastTransaction(db):
    """Return the id of the last transaction of a `ZODB.DB`, without waiting for one that is being committed.

    `FileStorage.lastTransaction` waits until the disk has confirmed that, with all its callers.
    """
    tid = lastWritten(db.storage) if isinstance(db.storage, FileStorage) else None
    return db.lastTransaction() if tid is None else tid


def rest(manager):
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


def transact(manager, function, attempts=1):
    """Call a function in a transaction, commit that, and return what the function has returned.

    manager -- a `TransactionManager` in explicit mode.
    attempts -- how often this is tried when it meets a `TransientError`, as after a conflict.

    Raise what the function or the database raises; the manager is in no transaction then.
    """
    while True:
        attempts -= 1
        try:
            manager.begin()
            result = function()
            manager.commit()
            return result
        except BaseException as error:
            isClean = rest(manager)
            if not isClean or not attempts or not isinstance(error, TransientError):
                raise


class Hub:
    """Everybody in this process who wants to be woken by a commit to one database."""

    #: Whether commits of other processes are told of.
    isTold = False

    def __init__(self):
        self._bells = weakref.WeakSet()
        self._lock = threading.Lock()

    def subscribe(self, bell):
        """Have `bell`, a `threading.Event`, set after each commit; until `unsubscribe`, or until it is forgotten.

        A bell may have an attribute `interest`, a set of object ids or None: of the commits of other processes only
        those to one of these objects set it then, or all.  If it also has a method `note`, that is called before, with
        the ids of those that were written, or None when that is not known.
        """
        with self._lock:
            self._bells.add(bell)

    def unsubscribe(self, bell):
        """Leave `bell` alone from now on."""
        with self._lock:
            self._bells.discard(bell)

    def ring(self, but=None, oids=None):
        """Wake everybody, but whose bell is `but`.  Cheap, and calls nobody: it may run in ZEO's I/O thread.

        oids -- ids of the objects that were written; None when that is not known.
        """
        with self._lock:
            for bell in self._bells:
                interest = None if oids is None else getattr(bell, 'interest', None)
                written = None if interest is None else interest.intersection(oids)
                if bell is not but and (written is None or written):
                    if hasattr(bell, 'note'):
                        bell.note(written)
                    bell.set()


class _Listener:
    """Stands between a storage and its database: passes on what other clients have committed, and rings."""

    def __init__(self, target, hub, storage):
        self._target, self._hub, self._storage = target, hub, storage

    def __getattr__(self, name):
        return getattr(self._target, name)

    def invalidate(self, tid, oids):
        self._target.invalidate(tid, oids)
        self._hub.ring(oids=oids)

    def invalidateCache(self):              # after a reconnection: look at everything
        forgetNewIds(self._storage)
        self._target.invalidateCache()
        self._hub.ring()


_hubs = weakref.WeakKeyDictionary()
_hubsLock = threading.Lock()


def hubOf(db):
    """Return the `Hub` of a `ZODB.DB`, making it at the first call.

    A ZEO client is listened to from then on.  `ZODB.DB` has registered its MVCC adapter with the storage, and a
    storage has one database: so the listener takes the adapter's place and hands everything on.  (Where there is no
    adapter, or on a storage that tells nothing of the commits of others, like RelStorage, processors look every
    `waitTime` seconds.)
    """
    with _hubsLock:
        hub = _hubs.get(db)
        if hub is None:
            hub = _hubs[db] = Hub()
            adapter = adapterOf(db) if isinstance(db.storage, ClientStorage) else None
            if adapter is not None:
                db.storage.registerDB(_Listener(adapter, hub, db.storage))
                hub.isTold = True
        return hub


# ZEO's client waits for an answer as long as it takes: nothing but the end of the connection ends that.

def _leaveIfSilent(storage, seconds, stopped):
    """End the connection to a ZEO server that does not answer; return whether that was done.

    ZEO tells its callers then, and connects anew, as if the network had ended it.

    seconds -- how long an answer may take, a whole number.
    stopped -- a `threading.Event` that ends the waiting.
    """
    def abort():
        protocol = server.client and server.client.protocol
        if protocol is not None:
            protocol.sm_protocol.transport.abort()

    server = serverOf(storage)
    if server is None:
        return False
    try:
        # A call that the server's loop answers.  `storage.ping()` would wait for that, and before for a connection.
        answer = server.call('ping', wait=False, timeout=0)
        # Second by second, so that those do not count in which this process itself was stopped.
        for _ in range(seconds):
            if stopped.is_set() or _ended(answer, 1):
                return False
        server.loop.call_soon_threadsafe(abort)
        _ended(answer, 1)                   # ZEO reports errors that nobody has asked for
        return True
    except AttributeError as error:
        tellMissing(f'in ClientStorage, {error.name}', 'a database server that hangs is not noticed')
        return False
    except Exception:                       # closed meanwhile
        log.debug('a database server cannot be watched', exc_info=True)
        return False


def _ended(answer, timeout):
    try:
        answer.result(timeout)
    except TimeoutError:
        return False
    except ClientDisconnected:
        pass
    return True


class Watchdog:
    """Leaves a ZEO server that hangs, in a thread of its own.

    What waits for the server fails with `ClientDisconnected` then, and is tried again as after a crash of the server.
    """

    def __init__(self, storage, look=LOOK, hang=HANG):
        """Start to watch.

        storage -- a `ClientStorage`.
        look, hang -- see `LOOK` and `HANG`, seconds; the second is a whole number.
        """
        self._storage, self._look, self._hang = storage, look, hang
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name='remotetask-watchdog', daemon=True)
        self._thread.start()

    def stop(self):
        """Watch no longer.  Twice is fine."""
        self._stopped.set()
        self._thread.join()

    def _watch(self):
        while not self._stopped.wait(self._look):
            if _leaveIfSilent(self._storage, self._hang, self._stopped):
                log.warning('the database server %s has not answered for %d seconds: connecting to it anew',
                            self._storage.getName(), self._hang)


# After a reconnection ZEO's client keeps what it has in store, but for what the server says has changed since.  That is
# wrong when the server has another history: a backup was put in place, say.  ZEO notices only a server that is behind.

def guard(storage, fail):
    """Have a ZEO client look, at each reconnection, whether the server has the transaction that it has seen last.

    A server that has not is never used: `fail` is called with `DatabaseReplaced`, in ZEO's I/O thread.  The connections
    are kept alive, see `keepAlive`.

    storage -- a `ClientStorage`, connected.
    """
    server = serverOf(storage)
    if server is None:
        return
    client = server.client
    register, invalidateTransaction = client.register, client.invalidateTransaction
    told = before = None                        # the last transaction of another client, and the one before it

    def noteAndInvalidate(tid, oids):
        nonlocal told, before
        told, before = tid, storage.lastTransaction()
        invalidateTransaction(tid, oids)

    async def checkAndRegister(protocol, serverTid):
        keepAlive(protocol.sm_protocol.transport.get_extra_info('socket'), VANISHED)
        seen = storage.lastTransaction()
        if not await _hasTransaction(protocol, serverTid, seen):
            # A server tells of a transaction just before it writes that it is complete: a crash may come in between.
            if seen != told or not await _hasTransaction(protocol, serverTid, before):
                protocol.close()                # and the client connects no more
                fail(DatabaseReplaced(storage.getName()))
                return
            client.cache.clear()
        await register(protocol, serverTid)

    client.register, client.invalidateTransaction = checkAndRegister, noteAndInvalidate
    if client.protocol is not None:
        keepAlive(client.protocol.sm_protocol.transport.get_extra_info('socket'), VANISHED)


async def _hasTransaction(protocol, serverTid, tid):
    """Return whether a ZEO server has a transaction, as far as can be told; False when that was too long ago.

    protocol -- the connection to the server.
    serverTid -- the id of its last transaction.
    tid -- the id of the transaction.
    """
    if tid is None or tid in (z64, serverTid):
        return True
    if serverTid is None or not 0 <= TimeStamp(serverTid).timeTime() - TimeStamp(tid).timeTime() <= AWAY:
        return False
    try:
        iterator = await protocol.server_call('iterator_start', tid, tid)
        return await protocol.server_call('iterator_next', iterator) is not None
    except Exception:                           # the connection is lost, or the storage has no iterator
        log.debug('a database server cannot be checked', exc_info=True)
        return True


class Lender:
    """Lends a database that is open anyway."""

    #: Whether this is another client than the one that keeps the ledgers.
    apart = False

    def __init__(self, db):
        self._db = db

    def borrow(self):
        """Return a `ZODB.DB`, for as long as `giveBack` is not called."""
        return self._db

    def giveBack(self):
        """Be done with it: to be called once for each `borrow`, with all its connections closed."""


class ThreadConnection:
    """A thread's connection to a database, opened when it is needed and again when it was given up.

    It takes part in the transactions of the thread, those of `transaction.manager`.

    connection -- the `Connection`; None while there is none.
    isCold -- whether nothing has been loaded by it yet: to be set to False by the one who uses it.
    isApart -- see `Lender.apart`.
    """

    def __init__(self, lender, poolSize):
        """Open nothing yet.

        lender -- the `Lender` of the `ZODB.DB`.
        poolSize -- how many connections the database has to have room for.
        """
        self._lender, self._poolSize = lender, poolSize
        self.connection, self.isCold, self.isApart = None, True, lender.apart
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
                db = self._lender.borrow()
                try:
                    db.setPoolSize(max(db.getPoolSize(), self._poolSize))
                    self.connection, self.isCold = db.open(), True
                    self._opened = self.connection.opened
                except BaseException:
                    self._lender.giveBack()
                    raise
            except Exception as error:          # each kind of storage has errors of its own
                raise StorageError(f'the database cannot be opened: {error}') from error
        return self.connection

    def rest(self):
        """Abort the thread's transaction.  A connection that still has its changes after that is given up."""
        transaction.manager.explicit = False    # as it is at first; a task may have changed that
        if not rest(transaction.manager) and self.connection is not None and not isUnchanged(self.connection):
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
            self._lender.giveBack()
        except Exception:
            log.debug('a client of the database could not be closed in order', exc_info=True)


class ClientLender(Lender):
    """Lends a client of its own, which is open while somebody has it.

    Each client of a ZEO server hears of each commit, which takes time on both sides: one that nobody needs is closed.
    """

    apart = True

    def __init__(self, open, close):
        """`open` returns a `ZODB.DB`, and `close` is called with it."""
        self._open, self._close = open, close
        self._lock = threading.Lock()
        self._db, self._borrowers = None, 0

    def borrow(self):
        """See `Lender`.  Opening takes some time, and raises what the database raises."""
        with self._lock:
            if self._db is None:
                self._db = self._open()
            self._borrowers += 1
            return self._db

    def giveBack(self):
        """See `Lender`."""
        with self._lock:
            self._borrowers -= 1
            if self._borrowers or self._db is None:
                return
            db, self._db = self._db, None
        self._close(db)

    def close(self):
        """Close the client even if somebody has it still."""
        with self._lock:
            db, self._db = self._db, None
        if db is not None:
            self._close(db)


class Database:
    """An open database, and how to open it once more.

    db -- the `ZODB.DB`.
    beside -- a `Lender` of the database for whoever must not be kept waiting by what goes on in `db`, or must not keep
        that waiting.  All commits of one ZEO client wait for each other: with another client for the tasks a ledger is
        not kept from being written by a task's long commit, which would make a living host look dead.
    """

    def __init__(self, open, fail=log.critical):
        """Open it.

        open -- a callable that opens a `ZODB.DB`.
        fail -- called with an exception when the database cannot be used any more, from any thread.
        """
        self._openOnce, self._fail = open, fail
        self._watchdogs = {}
        self.db = self._open()
        isClient = isinstance(self.db.storage, ClientStorage)
        self.beside = ClientLender(self._open, self._shut) if isClient else Lender(self.db)

    def _open(self):
        # Whoever opens an empty database first makes its root object; the others of a new deployment, which do so
        # at the same time, meet a conflict.
        for failures in range(OPENINGS):
            try:
                db = self._openOnce()
                break
            except ConflictError:
                if failures == OPENINGS - 1:
                    raise
                time.sleep(0.1)
        if isinstance(db.storage, ClientStorage):
            hubOf(db)                       # whose listener makes reconnecting safe
            guard(db.storage, self._fail)
            self._watchdogs[db] = Watchdog(db.storage)
        elif isinstance(db.storage, FileStorage):
            cleanUpFailures(db.storage)
        return db

    def _shut(self, db):
        if db in self._watchdogs:
            self._watchdogs.pop(db).stop()
        closeDatabase(db)

    def close(self):
        """Close what has been opened.  This takes some seconds at most, whatever the database does."""
        if self.beside.apart:
            self.beside.close()
        self._shut(self.db)


def closeDatabase(db):
    """Close a `ZODB.DB`, whatever the state of its connections; within seconds, whatever its server does."""
    storage = getattr(db, 'storage', None)
    if storage is None:                     # closed already
        return
    try:
        if isinstance(storage, ClientStorage):
            _leaveIfSilent(storage, LAST_LOOK, threading.Event())
            storage.close()                 # first: what still waits for the server ends, and nothing more will wait
        db.close()
    except NoTransaction:                   # a connection was left open, as by a thread that was given up
        storage.close()
    except Exception as error:
        log.warning('the database could not be closed in order: %s: %s', type(error).__name__, error)
        storage.close()
