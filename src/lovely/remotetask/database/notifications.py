"""Waking up when somebody commits to a database."""
# SPDX-License-Identifier: ZPL-2.1
import threading
import weakref

from ZODB.utils import z64

from lovely.remotetask.common.internals import adapterOf
from lovely.remotetask.common.internals import forgetNewIds
from lovely.remotetask.database.postgresql import CommitListener
from lovely.remotetask.database.storages import clientOf
from lovely.remotetask.database.storages import isClosed
from lovely.remotetask.database.storages import postgresqlOf
from lovely.remotetask.database.zeo import useProtocol


class CommitNotifier:
    """Wakes all subscribers in this process after each commit to one database."""

    #: Whether commits of other processes are told of.
    hearsOthers = False

    #: The `CommitListener` that hears of them, started by `Database`, or for the first who wants to be woken; or None.
    listener = None

    def __init__(self):
        self._wakeups = weakref.WeakSet()
        self._lock = threading.Lock()

    def subscribe(self, wakeup):
        """Set `wakeup`, a `threading.Event`, after each commit; until `unsubscribe`, or until it is forgotten.

        A wakeup may have an attribute `interest`, a set of object ids or None: of the commits of other processes only
        those to one of these objects set it then, or all.  If it also has a method `note`, that is called before, with
        the ids of those that were written, or None when that is not known.  One with an attribute `ignoresUnknown`
        that is true is left alone when that is not known.  A method `hear` is called before with the ids of all objects
        that such a commit has written, a sequence.
        """
        with self._lock:
            self._wakeups.add(wakeup)
        if self.listener is not None:
            self.listener.start()

    def unsubscribe(self, wakeup):
        """Leave `wakeup` alone from now on."""
        with self._lock:
            self._wakeups.discard(wakeup)

    def notify(self, but=None, oids=None):
        """Set all wakeups except `but`.  Cheap, and calls nobody: it may run in ZEO's I/O thread.

        oids -- ids of the objects that were written; None when that is not known.
        """
        with self._lock:
            for wakeup in self._wakeups:
                if wakeup is but or oids is None and getattr(wakeup, 'ignoresUnknown', False):
                    continue
                interest = None if oids is None else getattr(wakeup, 'interest', None)
                written = None if interest is None else interest.intersection(oids)
                if written is None or written:
                    if hasattr(wakeup, 'note'):
                        wakeup.note(written)
                    if oids is not None and hasattr(wakeup, 'hear'):
                        wakeup.hear(oids)
                    wakeup.set()


class _Listener:
    """Stands between a storage and its database: passes on the commits of other clients, and wakes subscribers."""

    def __init__(self, target, notifier, storage):
        self._target, self._notifier, self._storage = target, notifier, storage

    def __getattr__(self, name):
        return getattr(self._target, name)

    def invalidate(self, tid, oids):
        self._target.invalidate(tid, oids)
        self._notifier.notify(oids=oids)

    def invalidateCache(self):              # after a reconnection: look at everything
        forgetNewIds(self._storage)
        self._target.invalidateCache()
        self._notifier.notify()


_notifiers = weakref.WeakKeyDictionary()
_notifiersLock = threading.Lock()


def notifierOf(db):
    """Return the `CommitNotifier` of a `ZODB.DB`, making it at the first call.

    A ZEO client is listened to from then on.  `ZODB.DB` has registered its MVCC adapter with the storage, and a
    storage has one database: so `_Listener` takes the adapter's place and hands everything on.  PostgreSQL is listened
    to once somebody wants to be woken.  (Where there is no adapter, or on a storage that tells nothing of the commits
    of others, processors look every `waitTime` seconds.)
    """
    with _notifiersLock:
        notifier = _notifiers.get(db)
        if notifier is None:
            notifier = _notifiers[db] = _makeNotifier(db)
        return notifier


def _makeNotifier(db):
    notifier, client, postgresql = CommitNotifier(), clientOf(db), postgresqlOf(db)
    adapter = None if client is None else adapterOf(db)
    if adapter is not None:
        db.storage.registerDB(_Listener(adapter, notifier, client))
        notifier.hearsOthers = True
        useProtocol()                   # an application has opened it by itself: from its next connection on
    if postgresql is not None:
        reference = weakref.ref(db)
        notifier.listener = CommitListener(postgresql.connmanager, notifier,
                                           lambda: (db := reference()) is None or isClosed(db))
        weakref.finalize(db, notifier.listener.stop)
    return notifier


def stopListening(db):
    """Hear no longer of the commits of others to a `ZODB.DB` that is about to be closed; return its `CommitListener`.

    None if it has none.
    """
    with _notifiersLock:
        notifier = _notifiers.get(db)
    if notifier is None or notifier.listener is None:
        return None
    notifier.listener.close()
    return notifier.listener


def announceServices(connection):
    """When the current transaction of a connection is committed, wake those of this process who follow the services.

    To be called by what makes or removes a service: others than ZEO clients hear of it only so, or at their next look.
    None as the connection, that of a new object, is fine: then it is left to that look.
    """
    if connection is None:
        return
    notifier = notifierOf(connection.db())

    def tell(success):
        if success:
            notifier.notify(oids=(z64,))

    connection.transaction_manager.get().addAfterCommitHook(tell)
