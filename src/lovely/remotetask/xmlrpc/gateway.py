"""The frontend's way to the database: reads side by side, writes of concurrent calls in one transaction."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import queue
import random
import threading
import time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout

from transaction import TransactionManager
from transaction.interfaces import TransientError
from ZODB.POSException import StorageError

from lovely.remotetask import errors
from lovely.remotetask.database import hubOf
from lovely.remotetask.xmlrpc.faults import DatabaseUnavailable
from lovely.remotetask.xmlrpc.faults import OutcomeUnknown
from lovely.remotetask.xmlrpc.faults import Stopping
from lovely.remotetask.xmlrpc.waiting import Watcher
from lovely.remotetask.xmlrpc.wire import plain


logger = logging.getLogger('lovely.remotetask')

#: Writes that are committed together at most.
BATCH = 500
#: Reads that run at a time; the others wait.  With the writer and the watcher that is ZODB's default pool of
#: connections.
READERS = 5
#: Seconds that the writer waits at the most for as many calls as there were lately.
LINGER = 0.02
#: Seconds that a caller waits for the database, and when it is known to be silent.
DEADLINE = 10.0
SHORT_DEADLINE = 1.0
#: Seconds after which an idle reader looks at what was committed; what others have changed piles up until it does.
REFRESH = 60.0
#: How often a transaction is tried that meets conflicts.
ATTEMPTS = 10
# Seconds to wait before the second attempt; doubled each time.
_FIRST_DELAY = 0.01
_LONGEST_DELAY = 1.0


class _Withdrawn(TransientError):
    """Somebody whose call is part of the transaction does not wait for it any more."""


class _Witness:
    """A data manager that knows whether all others of its transaction have voted.

    What fails before that has changed nothing.  After it, the database may have committed although the commit raises:
    the connection can break between its doing so and its saying so.
    """

    allVoted = False

    def __init__(self, writes):
        """`writes` are those that the transaction carries out."""
        self._writes = writes

    def sortKey(self):
        return '\U0010ffff'             # so that it votes last

    def tpc_begin(self, transaction):
        pass

    commit = abort = tpc_finish = tpc_abort = tpc_begin

    def tpc_vote(self, transaction):
        # Whoever did not want to wait any longer has been told that nothing was changed: without him, then.
        if not all([write.isWanted() for write in self._writes]):
            raise _Withdrawn()
        self.allVoted = True


class _Write:
    """A call that waits for its turn, and what became of it."""

    def __init__(self, path, function):
        self.path, self.function = path, function
        self.future = Future()
        self._begun = False

    def isWanted(self):
        """Say whether the caller still waits; if so, he cannot give up without an answer any more."""
        self._begun = self._begun or self.future.set_running_or_notify_cancel()
        return self._begun

    def answer(self, result, error=None):
        """Give the caller a result or an exception, if he waits for one."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error) if error is not None else self.future.set_result(result)


class _Read:
    """The same for a read, which may go on when its caller has gone."""

    def __init__(self, path, function):
        self.path, self.function = path, function
        self.outcome = queue.SimpleQueue()      # gets the pair of result and exception; far cheaper than a Future


class _ReadManager:
    """A transaction manager that commits nothing: far cheaper for a read than one with transactions.

    To a connection it is its transaction as well.
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
        """Have the connections see what was committed until now."""
        for connection in self._connections:
            connection.newTransaction(self)

    def abort(self):
        """Throw away what was changed."""
        while self._changed:
            self._changed.pop().abort(self)
        for connection in self._connections:
            connection.afterCompletion(self)


class _Reader:
    """What belongs to a reader's thread: its connection stays open, and nobody else is to wait for its lock."""

    connection = None

    def __init__(self):
        self.inbox = queue.SimpleQueue()        # gets a read while the reader is idle, or None to end


class Gateway:
    """Runs functions on task services, in connections and transactions of its own.

    The functions of waiting calls to `write` run one after the other in the thread of one writer and are committed
    together.  So many callers cost few commits, and the frontend never conflicts with itself.  Those of `read` run in
    a few threads.  No caller is ever in the database itself, which may not come back from there.  A watcher tells those
    who wait for jobs.
    """

    def __init__(self, db, resolve, deadline=DEADLINE, attempts=ATTEMPTS, batch=BATCH, readers=READERS):
        """Nothing is opened yet.

        db -- a `ZODB.DB`.
        resolve -- called with a connection and the path of a URL, it returns the `ITaskService` there or raises
            `errors.UnknownService`.
        deadline -- seconds that a caller waits at most.
        attempts -- how often a transaction that meets conflicts is tried, with growing pauses.
        batch -- how many writes are committed together at most.
        readers -- how many reads run at a time.
        """
        self.db = db
        self.resolve = resolve
        self.deadline = deadline
        self.attempts = attempts
        self.batch = batch
        self.readers = readers
        self._starting = threading.Lock()       # guards the threads
        self._threads = []
        self._changed = threading.Condition()   # guards the six that follow
        self._waiting = deque()
        self._waitingReads = deque()
        self._idle = []                         # the reader that was busy last is the next one: fewer warm caches
        self._running = False
        self._expected = 0                      # how many writes there were lately at the same time
        self._patienceForMore = 0.0             # seconds for which as many are waited for
        self._silent = False                    # whether nothing has come of the database since a call was given up
        self._watcher = Watcher(db, resolve)
        # Of the writer's thread alone: a connection of its own lets a service count up its ids from call to call.
        self.connection = None

    def start(self):
        """Start to take calls.  Harmless when it does already."""
        with self._starting:
            if self._running:
                return
            for thread in self._threads:
                thread.join()                   # stopped, and about to end
            self._running = True
            self._threads = [threading.Thread(target=self._write, name='remotetask-writer', daemon=True)]
            self._threads += (threading.Thread(target=self._read, name=f'remotetask-reader-{number}', daemon=True)
                              for number in range(1, self.readers + 1))
            for thread in self._threads:
                thread.start()
            self._watcher.start()

    def stop(self, timeout=None):
        """Take no more calls, and wait until the waiting ones are done, `timeout` seconds at most.

        Return whether they are.  Twice, or before `start`, is fine.
        """
        with self._changed:
            self._running = False
            self._changed.notify_all()
            while self._idle:
                self._idle.pop().inbox.put(None)
        end = None if timeout is None else time.monotonic() + timeout
        threads = self._threads
        for thread in threads:
            thread.join(None if end is None else max(0, end - time.monotonic()))
        watches = not self._watcher.stop(None if end is None else max(0, end - time.monotonic()))
        return not (watches or any(thread.is_alive() for thread in threads))

    def watch(self, wait):
        """Have a `waiting.Wait` woken when its jobs have ended, or might have; until `forget`.  Waits for nothing."""
        self._watcher.watch(wait)

    def forget(self, wait):
        """Leave a `waiting.Wait` alone.  Waits for nothing."""
        self._watcher.forget(wait)

    def canWatch(self, count):
        """Say whether there is room for a `waiting.Wait` with so many jobs."""
        return self._watcher.hasRoomFor(count)

    @property
    def isSilent(self):
        """Whether the database does not answer, as far as the watcher has noticed."""
        return self._watcher.isAway

    @property
    def _hasFewer(self):
        """Whether fewer calls wait to be committed than there were lately at the same time."""
        return len(self._waiting) < self._expected

    def _patience(self):
        return min(self.deadline, SHORT_DEADLINE) if self._silent else self.deadline

    def read(self, path, function):
        """Return `wire.plain` of what the function returns for the service at a path.  What it changes is thrown away.

        path -- the path of a URL.
        function -- called with the service; once more after each conflict.

        Raise what the function raises; `errors.UnknownService`; `Stopping`; `DatabaseUnavailable`, also when too many
        calls wait.
        """
        read = _Read(path, function)
        with self._changed:
            if not self._running:
                raise Stopping()
            if self._idle:
                self._idle.pop().inbox.put(read)
            else:
                self._waitingReads.append(read)
        try:
            result, error = read.outcome.get(timeout=self._patience())
        except queue.Empty:
            self._silent = True
            self._forget(self._waitingReads, read)
            raise DatabaseUnavailable() from None
        if error is None:
            return result
        try:
            raise error
        finally:
            del error                           # it knows this frame

    def write(self, path, function):
        """Return `wire.plain` of what the function returns for the service at a path, once that is committed.

        path -- the path of a URL.
        function -- called with the service in the writer's thread, again if its transaction has to be repeated.  When
            it raises one of the family of `errors` it must have changed nothing: the other calls are committed.

        Raise what the function raises; `errors.UnknownService`; `Stopping` and `DatabaseUnavailable` when nothing was
        changed; `OutcomeUnknown` when it is not known whether it was.
        """
        write = _Write(path, function)
        with self._changed:
            if not self._running:
                raise Stopping()
            self._waiting.append(write)
            if len(self._waiting) == 1 or not self._hasFewer:
                self._changed.notify_all()
        patience = self._patience()
        for left in (patience, self.deadline - patience):
            try:
                return write.future.result(left)
            except FutureTimeout:
                if write.future.done():         # in the last moment; or the TimeoutError was the function's own
                    return write.future.result()
                if write.future.cancel():       # it has not come to be committed: then it never will be
                    self._silent = True
                    self._forget(self._waiting, write)
                    raise DatabaseUnavailable() from None
        self._silent = True
        raise OutcomeUnknown()

    def _forget(self, waiting, call):
        # A database can be silent for long, and what nobody waits for is not to pile up meanwhile.
        with self._changed:
            if call in waiting:
                waiting.remove(call)

    # The readers' threads

    def _read(self):
        reader = _Reader()
        try:
            while (read := self._nextRead(reader)) is not None:
                try:
                    outcome = self._retried(lambda: self._readOnce(reader, read)), None
                    self._silent = False
                except BaseException as error:  # no error ends the reader
                    if isinstance(error, DatabaseUnavailable):
                        _close(reader)
                    else:
                        self._silent = False
                    outcome = None, error
                read.outcome.put(outcome)
                # An idle reader is not to keep the caller's input and the result alive.
                del read, outcome
        finally:
            _close(reader)

    def _nextRead(self, reader):
        """Return the next read, or None to end."""
        with self._changed:
            if self._waitingReads:
                return self._waitingReads.popleft()
            if not self._running:
                return None
            self._idle.append(reader)
        while True:
            try:
                return reader.inbox.get(timeout=REFRESH)
            except queue.Empty:
                self._refresh(reader)

    def _refresh(self, reader):
        if reader.connection is None:
            return
        try:
            reader.connection.transaction_manager.begin()
            reader.connection.transaction_manager.abort()
        except Exception:
            logger.debug('a connection to the database could not be refreshed', exc_info=True)
            _close(reader)

    def _readOnce(self, reader, read):
        if reader.connection is None:
            reader.connection = self.db.open(_ReadManager())
        manager = reader.connection.transaction_manager
        manager.begin()
        try:
            return plain(read.function(self.resolve(reader.connection, read.path)))
        finally:
            manager.abort()

    # The writer's thread

    def _write(self):
        try:
            while True:
                writes = self._next()
                if not writes:
                    return
                began = time.monotonic()
                self._settle(writes)
                with self._changed:
                    self._patienceForMore = min(LINGER, time.monotonic() - began)
                    self._expected = min(self.batch, len(writes) + len(self._waiting))
                # An idle writer is not to keep the callers' input and futures alive.
                del writes
        finally:
            _close(self)

    def _next(self):
        """Return the writes to be committed together, as soon as there are any; none at the end.

        Of many callers those that were answered last call again one after the other, while a commit would keep the
        others waiting: as many as before are waited for, but no longer than a commit takes.
        """
        with self._changed:
            while self._running and not self._waiting:
                self._changed.wait()
            until = time.monotonic() + self._patienceForMore
            while self._running and self._hasFewer and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), self.batch))]

    def _settle(self, writes):
        """Commit the writes together and answer their callers; no error ends the writer."""
        if not writes:
            return
        try:
            outcomes = self._retried(lambda: self._commit(writes))
        except (DatabaseUnavailable, OutcomeUnknown) as error:
            _close(self)
            logger.error('the database failed %d calls: %r', len(writes), error.__cause__)
            for write in writes:
                write.answer(None, error)
        except BaseException as error:
            # One of them spoilt it for all: who did will be seen when each has a transaction of its own.
            _close(self)
            if len(writes) == 1:
                writes[0].answer(None, error)
            else:
                for write in writes:
                    self._settle([write])
        else:
            self._silent = False
            hubOf(self.db).ring()               # not all storages tell of the commits of this process
            for write, result, refusal in outcomes:
                write.answer(result, refusal)

    def _commit(self, writes):
        """Run the writes in one transaction; return a list of each write, its result, and its refusal or None."""
        if self.connection is None:
            self.connection = self.db.open(TransactionManager(explicit=True))
        manager = self.connection.transaction_manager
        writes = [write for write in writes if not write.future.cancelled()]
        witness = _Witness(writes)
        try:
            manager.begin()
            outcomes = [(write, *self._run(write)) for write in writes]
            manager.get().join(witness)
            try:
                manager.commit()
            except OSError as error:            # of the storage: a full disk, say
                raise DatabaseUnavailable() from error
        except BaseException as error:
            try:
                manager.abort()
            finally:                            # whatever comes of that: to try again could add twice
                if witness.allVoted:
                    raise OutcomeUnknown() from error
            raise
        return outcomes

    def _run(self, write):
        try:
            result = write.function(self.resolve(self.connection, write.path))
        except errors.RemoteTaskError as refusal:
            return None, refusal
        return plain(result), None              # outside: a result that cannot be sent comes after the change

    def _retried(self, function):
        """Call the function, again and after a pause when it meets a conflict; raise `DatabaseUnavailable` in the end.
        """
        delay = _FIRST_DELAY
        for attempt in range(1, self.attempts + 1):
            try:
                return function()
            except StorageError as error:       # a lost connection is a transient error too, but has had its time
                raise DatabaseUnavailable() from error
            except TransientError as error:
                if attempt == self.attempts:
                    raise DatabaseUnavailable() from error
                logger.debug('attempt %d of %d met a conflict: %s', attempt, self.attempts, error)
            # Not all who conflicted come back at the same time.
            time.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(2 * delay, _LONGEST_DELAY)


def _close(owner):
    """Close the connection of the gateway's writer, or of a reader, if it has one."""
    connection, owner.connection = owner.connection, None
    if connection is None:
        return
    try:
        connection.close()
    except Exception:                           # it is in no state to be used again, and will not be
        logger.exception('a connection to the database could not be closed')
