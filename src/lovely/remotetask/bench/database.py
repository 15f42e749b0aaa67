"""The database that is measured, and in it the bench's folder with a service and a board."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import threading
import time

import transaction
from BTrees.IOBTree import IOBTree
from persistent.mapping import PersistentMapping
from ZODB.utils import p64
from ZODB.utils import u64
from zope.site import LocalSiteManager
from zope.site.folder import Folder

from lovely.remotetask.bench.client import addJobs
from lovely.remotetask.bench.settings import BATCH
from lovely.remotetask.bench.settings import CHECK_INTERVAL
from lovely.remotetask.bench.settings import POLL_INTERVAL
from lovely.remotetask.bench.settings import BenchError
from lovely.remotetask.bench.tasks import BOARD
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.opening import Database
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import atPath
from lovely.remotetask.database.storages import silenceOf
from lovely.remotetask.database.transactions import lastTransaction
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage.queue import ReadyQueue


class BenchDatabase:
    """The database, opened by this process, with a service of the bench; what it is asked and told.

    path -- the pair of names of the folder and the service in it.
    """

    def __init__(self, opener, path, settings, embedded, check):
        """`path`: see the class.

        opener -- the argument of `database.opening.Database`.
        settings -- `Settings`.
        embedded -- whether one process alone can open it.
        check -- called during each wait; it raises an exception when the wait is in vain.
        """
        self.path, self._opener, self._settings = path, opener, settings
        self._embedded, self._check, self._opened = embedded, check, None

    @property
    def db(self):
        """The `ZODB.DB`."""
        return self._opened.db

    @property
    def tells(self):
        """Whether the database says when somebody else has committed."""
        return self._embedded or silenceOf(self.db) is None

    def open(self):
        """Open the database.  Harmless when it is open."""
        if self._opened is None:
            self._opened = Database(self._opener)
            self.db.setPoolSize(max(self.db.getPoolSize(), self._settings.clients + 10))

    def close(self):
        """Let go of the database.  Twice is fine."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    # Changing it

    def _atRoot(self, function):
        """Return what the function makes of the root folder, in a transaction that is committed."""
        manager = transaction.TransactionManager(explicit=True)
        with contextlib.closing(self.db.open(manager)) as connection:
            for attempt in manager.attempts(10):
                with attempt:
                    return function(connection.root()[ROOT_NAME])

    def change(self, function):
        """Return what the function makes of the bench's service, in a transaction that is committed."""
        return self._atRoot(lambda root: function(atPath(root, self.path)))

    def setUp(self):
        """Add the folder, with the service and an empty board."""
        folder, name = self.path

        def addTo(root):
            site = root[folder] = Folder()
            site.setSiteManager(LocalSiteManager(site))
            service = site[name] = TaskService()
            site.getSiteManager().registerUtility(service, ITaskService, name)
            setattr(site, BOARD, IOBTree())
        self._atRoot(addTo)

    def remove(self):
        """Remove the folder; packing the database gives its space back.  Harmless when there is none."""
        self.open()
        folder, _ = self.path
        if not self._atRoot(lambda root: folder in root):
            return
        # The jobs first, a part at a time: it is only their trees that are written.
        for number in range(self.change(lambda service: len(service.shards))):
            self.change(lambda service: service.shards[number].pages.clear())  # noqa: B023
        self._atRoot(lambda root: root.__delitem__(folder))

    def board(self, count):
        """Put objects on the board for the numbers up to `count`, that one included."""
        def fill(service):
            board = getattr(service.__parent__, BOARD)
            for number in range(count + 1):
                if number not in board:
                    board[number] = PersistentMapping()
        self.change(fill)

    def add(self, jobs):
        """Add jobs, pairs of task and input, many in one transaction; return the seconds that it took."""
        began = time.monotonic()
        addJobs(self.db, self.path, jobs, BATCH)
        return time.monotonic() - began

    def addBehind(self):
        """Queue the jobs that are to wait behind others."""
        left = self._settings.behind
        while left > 0:
            self.add([self._settings.job] * min(left, 10 * BATCH))
            left -= 10 * BATCH

    def park(self):
        """Take all jobs out of the queues: they stay stored, and nobody runs them."""
        def empty(service):
            for shard in service.shards:
                if shard.ready:
                    shard.ready = ReadyQueue()
        self.pause()
        self.change(empty)

    def pause(self):
        """Pause the hosts, and wait until they have nothing claimed."""
        self.change(lambda service: service.pause())
        self.waitFor(lambda service: not any(ledger.claimed for ledger in service.ledgers.values()))

    def resume(self):
        """Resume the hosts."""
        self.change(lambda service: service.resume())

    # What is stored

    def lastTransaction(self):
        """Return the tid of the last transaction; None if the storage does not tell, or this process has let go of it.

        A storage without history would tell of the newest records only.
        """
        if self._opened is None or not self.db.supportsUndo():
            return None
        last = lastTransaction(self.db)         # that this client has heard of; the server knows better
        return max((each.tid for each in self._transactionsAfter(last)), default=last)

    def storedAfter(self, tid):
        """Return how many records were stored after a transaction, and their bytes."""
        sizes = [len(record.data or b'') for each in self._transactionsAfter(tid) for record in each]
        return len(sizes), sum(sizes)

    def _transactionsAfter(self, tid):
        return self.db.storage.iterator(p64(u64(tid) + 1))

    # Waiting

    @contextlib.contextmanager
    def wakeup(self, factory=threading.Event):
        """Give a new wakeup that is rung by commits."""
        wakeup = factory()
        notifierOf(self.db).subscribe(wakeup)
        try:
            yield wakeup
        finally:
            notifierOf(self.db).unsubscribe(wakeup)

    def waitFor(self, function, atLeast=0.0, timeout=None):
        """Look at the service whenever something was committed, until the function makes something true of it.

        function -- called with the service.
        atLeast -- seconds between two looks.
        timeout -- seconds without any commit, default: a minute longer than a job takes.

        Return what the function returned.  Raise `BenchError` when nothing happens, or what `check` raises.
        """
        timeout = 60 + self._settings.seconds if timeout is None else timeout
        wait = CHECK_INTERVAL if self.tells else POLL_INTERVAL
        manager = transaction.TransactionManager(explicit=True)
        seen, since = None, time.monotonic()
        with self.wakeup() as wakeup, contextlib.closing(self.db.open(manager)) as connection:
            while True:
                wakeup.clear()
                with manager:
                    found = function(atPath(connection.root()[ROOT_NAME], self.path))
                if found:
                    return found
                tid = lastTransaction(self.db)
                if tid != seen:
                    seen, since = tid, time.monotonic()
                elif time.monotonic() - since > timeout:
                    raise BenchError(f'nothing has happened for {timeout:.0f} seconds')
                if not wakeup.wait(wait):
                    self._check()
                if atLeast:
                    time.sleep(atLeast)


def completed(service):
    """Return how many jobs the hosts have completed.  Raise `BenchError` if others have ended otherwise."""
    tallies = [ledger.tally for ledger in service.ledgers.values()]
    if any(tally[status] for tally in tallies for status in FINAL if status != COMPLETED):
        raise BenchError('jobs have ended in errors')
    return sum(tally[COMPLETED] for tally in tallies)
