"""The frontend's way to the database: reads side by side, writes of concurrent calls in one transaction."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import queue
import random
import threading
import time
from collections import deque

from transaction import TransactionManager
from transaction.interfaces import TransientError
from ZODB.POSException import StorageError

from lovely.remotetask import errors
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.notifications import notifierOf
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
#: Seconds that the writer waits at the most to gather as many calls as there were lately.
GATHER = 0.02
#: Seconds after which a second reader is woken, beside one that is busy with a read.
SECOND_READER = 0.002
#: Seconds that a caller waits for the database, and when it is known to be silent.
DEADLINE = 10.0
SHORT_DEADLINE = 1.0
#: Seconds after which an idle reader looks at what was committed; what others have changed piles up until it does.
REFRESH = 60.0
#: How often a transaction is tried that meets conflicts, and one whose connection is lost: some storages notice that
#: only when they use one, and have two of them.
ATTEMPTS = 10
LOST_ATTEMPTS = 3
# Seconds to wait before the second attempt; doubled each time.
_FIRST_DELAY = 0.01
_LONGEST_DELAY = 1.0


# The states of a call.
_PENDING, _RUNNING, _FINISHED, _CANCELLED = range(4)


class _Withdrawn(TransientError):
    """Somebody whose call is part of the transaction does not wait for it any more."""


class _VoteSentinel:
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


class Call:
    """A function that waits for a thread to call it with a service, and what became of it.

    Its methods are those of `concurrent.futures.Future`, with the same meaning, as far as they are needed.  (With that
    class itself, and its condition for each call, 32 clients cost 16 us more of processor time for a call.)
    """

    def __init__(self, path, function, serialize, deadline, last):
        """For the first three see `Gateway.read`.

        deadline -- when to give up, by time.monotonic.
        last -- when to give up a write that is being committed at its deadline, by time.monotonic.
        """
        self.path, self.function, self.serialize = path, function, serialize
        self.deadline, self.last = deadline, last
        #: For whoever waits for the call, to keep something of his own.
        self.waiter = None
        self._lock = threading.Lock()           # guards what follows
        self._state = _PENDING
        self._result = self._error = self._callback = None

    def done(self):
        """Return whether there is a result, or an error, or it is cancelled; nothing follows."""
        return self._state in (_FINISHED, _CANCELLED)

    def cancelled(self):
        """Return whether nobody waits for it; a write is not carried out then, a read may go on."""
        return self._state == _CANCELLED

    def cancel(self):
        """Give up, unless it is being committed, or done; return whether that was possible."""
        return self._end(_CANCELLED, None, DatabaseUnavailable(), (_PENDING,))

    def end(self, result, error=None):
        """Set the result or the exception, unless it is done."""
        self._end(_FINISHED, result, error, (_PENDING, _RUNNING))

    def _end(self, state, result, error, states):
        with self._lock:
            if self._state not in states:
                return False
            self._state, self._result, self._error = state, result, error
            callback, self._callback = self._callback, None     # it knows the call: a large result is not to stay
        if callback is not None:
            callback(self)
        return True

    def isWanted(self):
        """Return whether the caller still waits; if so, the call cannot be cancelled from now on."""
        with self._lock:
            if self._state == _PENDING:
                self._state = _RUNNING
            return self._state == _RUNNING

    def add_done_callback(self, function):
        """Have a function called with the call when it is done, in whichever thread; at once if it is already."""
        with self._lock:
            isDone = self.done()
            if not isDone:
                self._callback = function
        if isDone:
            function(self)

    def result(self):
        """Return the result of a call that is done, or raise its exception: `DatabaseUnavailable` if it is cancelled.
        """
        if self._error is None:
            return self._result
        try:
            raise self._error
        finally:
            self._error = None                  # it knows this frame


class Gathering:
    """For how many writes the writer waits, to commit them together, and for how long; see `Gateway`."""

    def __init__(self, longest=GATHER):
        """`longest` is how long it waits at most, in seconds."""
        self._longest = longest
        #: How many writes there were lately at the same time, and for how many seconds as many are waited for.
        self.expected, self.seconds = 0, 0.0

    def note(self, count, seconds):
        """Note that so many writes came until a commit was over, which took so many seconds."""
        self.expected, self.seconds = count, min(self._longest, seconds)


class _ReadManager:
    """A transaction manager that commits nothing, and to a connection is its transaction as well.

    (With a `TransactionManager` 32 clients cost 5 us more of processor time for a call.)
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
        self.wakeup = queue.SimpleQueue()       # gets something when the reader is idle and is to go on


class Gateway:
    """Runs functions on task services, in connections and transactions of its own.

    The functions of waiting calls to `write` run one after the other in the thread of one writer and are committed
    together.  So many callers cost few commits, and the frontend never conflicts with itself.  Those of `read` run in
    a few threads.  No caller is ever in the database itself, which may not come back from there.  A watcher tells those
    who wait for jobs.

    Calls that come shortly after each other are cheapest when one thread runs them one after the other: so nobody is
    woken by `read` and `write`, but by `flush`, which is to be called when there are no more to come for now.

    Of many callers those that were answered last call again one after the other, while a commit would keep the others
    waiting: so the writer gathers as many writes as there were before, but waits for no longer than a commit takes.
    """

    def __init__(self, db, resolve, deadline=DEADLINE, attempts=ATTEMPTS, batch=BATCH, readers=READERS,
                 gathering=None):
        """Nothing is opened yet.

        db -- a `ZODB.DB`.
        resolve -- called with a connection and the path of a URL, it returns the `ITaskService` there or raises
            `errors.UnknownService`.
        deadline -- seconds that a caller waits at most.
        attempts -- how often a transaction that meets conflicts is tried, with growing pauses.
        batch -- how many writes are committed together at most.
        readers -- how many reads run at a time.
        gathering -- a `Gathering`; None for one that has seen nothing yet.
        """
        self.db = db
        self.resolve = resolve
        self.deadline = deadline
        self.attempts = attempts
        self.batch = batch
        self.readers = readers
        self.gathering = gathering or Gathering()   # only the writer changes it
        self._starting = threading.Lock()       # guards the threads
        self._threads = []
        self._changed = threading.Condition()   # guards the seven that follow
        self._waiting = deque()
        self._waitingReads = deque()
        self._idle = []                         # the reader that was busy last is the next one: fewer warm caches
        self._begun = 0.0                       # when a reader has taken a read last, by time.monotonic
        self._running = False
        self._isGathering = False               # whether the writer waits for more writes
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
                self._idle.pop().wakeup.put(None)
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

    def statistics(self):
        """Return what waits at the moment, as a dict of ints; from any thread.

        reads, writes -- calls that wait for a thread.
        idleReaders -- threads that wait for a read.
        watchedJobs, foundJobs -- jobs that somebody waits for, and those of them that were looked at.
        watchers -- callers who wait for jobs.
        """
        return {'reads': len(self._waitingReads), 'writes': len(self._waiting), 'idleReaders': len(self._idle),
                **self._watcher.statistics()}

    @property
    def isSilent(self):
        """Whether the database does not answer, as far as the watcher has noticed."""
        return self._watcher.isAway

    @property
    def _hasFewer(self):
        """Whether fewer calls wait to be committed than there were lately at the same time."""
        return len(self._waiting) < self.gathering.expected

    def _timeout(self):
        return min(self.deadline, SHORT_DEADLINE) if self._silent else self.deadline

    def read(self, path, function, serialize=plain):
        """Have a function called with the service at a path; what it changes is thrown away.  Return a `Call`.

        path -- the path of a URL.
        function -- called with the service; once more after each conflict.
        serialize -- called in the same thread with what that returns; its result is what the call results in, and can
            be used anywhere.

        Raise `Stopping`.  The call's exceptions are those that the function raises, `errors.UnknownService`, and
        `DatabaseUnavailable`.
        """
        deadline = time.monotonic() + self._timeout()
        read = Call(path, function, serialize, deadline, deadline)
        with self._changed:
            if not self._running:
                raise Stopping()
            self._waitingReads.append(read)
        return read

    def write(self, path, function, serialize=plain):
        """Have a function called with the service at a path, and its changes committed.  Return a `Call`.

        path, serialize -- as for `read`.
        function -- called with the service in the writer's thread, again if its transaction has to be repeated.  When
            it raises one of the family of `errors` it must have changed nothing: the other calls are committed.

        Raise `Stopping`.  The call has ended when it is committed; its exceptions are those that the function raises;
        `errors.UnknownService`; `DatabaseUnavailable` when nothing was changed; `OutcomeUnknown` when it is not known
        whether it was.
        """
        now = time.monotonic()
        write = Call(path, function, serialize, now + self._timeout(), now + self.deadline)
        with self._changed:
            if not self._running:
                raise Stopping()
            self._waiting.append(write)
        return write

    @property
    def needsFlush(self):
        """Whether calls wait that nobody will run before `flush`: a writer that gathers more will look by itself."""
        return bool(self._waitingReads or self._waiting and not (self._isGathering and self._hasFewer))

    def flush(self):
        """Have the calls run that wait, as far as there are threads for them.  Waits for nothing.

        Return the seconds after which this is to be called again, or None if nothing waits.
        """
        if not self._waiting and not self._waitingReads:
            return None
        with self._changed:
            if self._waiting and (not self._isGathering or not self._hasFewer):
                self._changed.notify_all()
            if not self._waitingReads:
                return None
            # While reads take but moments a second reader would only be in the way of the first one.
            if self._idle and (len(self._idle) == self.readers or time.monotonic() - self._begun >= SECOND_READER):
                self._begun = time.monotonic()
                self._idle.pop().wakeup.put(None)
                if len(self._waitingReads) == 1:        # which this one will take
                    return None
            return SECOND_READER if self._idle else None

    def giveUp(self, call):
        """The deadline of a call is over: cancel it, or move its deadline.  Waits for nothing.

        A write that is being committed at the first deadline can only be given up at the last one, not knowing what
        comes of it: it ends with `OutcomeUnknown` then.
        """
        self._silent = True
        if call.cancel():
            self._forget(self._waiting, call)
            self._forget(self._waitingReads, call)
        elif time.monotonic() < call.last:
            call.deadline = call.last
        else:
            call.end(None, OutcomeUnknown())

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
                    result, error = self._retried(reader, lambda: self._readOnce(reader, read)), None
                    self._silent = False
                except BaseException as caught:     # no error ends the reader
                    if not isinstance(caught, DatabaseUnavailable):
                        self._silent = False
                    result, error = None, caught
                read.end(result, error)
                # An idle reader is not to keep the caller's input and the result alive.
                del read, result, error
        finally:
            _close(reader)

    def _nextRead(self, reader):
        """Return the next read, or None to end."""
        while True:
            with self._changed:
                if self._waitingReads:
                    self._begun = time.monotonic()
                    return self._waitingReads.popleft()
                if not self._running:
                    return None
                self._idle.append(reader)
            while True:
                try:
                    reader.wakeup.get(timeout=REFRESH)
                    break
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
        try:
            manager.begin()
            return read.serialize(read.function(self.resolve(reader.connection, read.path)))
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
                    self.gathering.note(min(self.batch, len(writes) + len(self._waiting)), time.monotonic() - began)
                # An idle writer is not to keep the callers' input and futures alive.
                del writes
        finally:
            _close(self)

    def _next(self):
        """Return the writes to be committed together, as soon as there are any; none at the end."""
        with self._changed:
            while self._running and not self._waiting:
                self._changed.wait()
            self._isGathering, until = True, time.monotonic() + self.gathering.seconds
            while self._running and self._hasFewer and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            self._isGathering = False
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), self.batch))]

    def _settle(self, writes):
        """Commit the writes together and end them; no error ends the writer."""
        if not writes:
            return
        try:
            outcomes = self._retried(self, lambda: self._commit(writes))
        except (DatabaseUnavailable, OutcomeUnknown) as error:
            _close(self)
            logger.error('the database failed %d calls: %r', len(writes), error.__cause__)
            for write in writes:
                write.end(None, error)
        except BaseException as error:
            # One of them spoilt it for all: who did will be seen when each has a transaction of its own.
            _close(self)
            if len(writes) == 1:
                writes[0].end(None, error)
            else:
                for write in writes:
                    self._settle([write])
        else:
            self._silent = False
            notifierOf(self.db).notify()               # not all storages tell of the commits of this process
            for write, result, refusal in outcomes:
                write.end(result, refusal)

    def _commit(self, writes):
        """Run the writes in one transaction; return a list of each write, its result, and its refusal or None."""
        if self.connection is None:
            self.connection = self.db.open(TransactionManager(explicit=True))
        manager = self.connection.transaction_manager
        writes = [write for write in writes if not write.cancelled()]
        sentinel = _VoteSentinel(writes)
        try:
            manager.begin()
            outcomes = [(write, *self._run(write)) for write in writes]
            manager.get().join(sentinel)
            manager.commit()
        except BaseException as error:
            try:
                manager.abort()
            finally:                            # whatever comes of that: to try again could add twice
                if sentinel.allVoted:
                    raise OutcomeUnknown() from error
            raise
        return outcomes

    def _run(self, write):
        try:
            result = write.function(self.resolve(self.connection, write.path))
        except errors.RemoteTaskError as refusal:
            return None, refusal
        return write.serialize(result), None         # outside: a result that cannot be sent comes after the change

    def _retried(self, owner, function):
        """Call the function, again after a pause when the database fails it; raise `DatabaseUnavailable` in the end.

        owner -- whose connection the function uses: it is closed after each failure that is no conflict.
        """
        delay = _FIRST_DELAY
        for attempt in range(1, self.attempts + 1):
            try:
                return function()
            except Exception as error:
                if not isDatabaseError(error):
                    raise
                isConflict = isinstance(error, TransientError) and not isinstance(error, StorageError)
                if not isConflict:
                    _close(owner)
                # Where a storage has an exception of its own for a lost connection, it has waited for another one.
                limit = 1 if isinstance(error, StorageError) else self.attempts if isConflict else LOST_ATTEMPTS
                if attempt >= min(limit, self.attempts):
                    raise DatabaseUnavailable() from error
                logger.debug('attempt %d failed: %s', attempt, error)
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
    except Exception as error:                  # it is in no state to be used again, and will not be
        logger.log(logging.DEBUG if isDatabaseError(error) else logging.ERROR,
                   'a connection to the database could not be closed', exc_info=True)
