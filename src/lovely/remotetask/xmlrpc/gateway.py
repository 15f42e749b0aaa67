"""The front end's way to the database: reads side by side, writes of concurrent calls in one transaction."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import queue
import threading
import time
from collections import deque

from lovely.remotetask.common.checks import counted
from lovely.remotetask.database.freshness import fresh
from lovely.remotetask.xmlrpc.committing import Committer
from lovely.remotetask.xmlrpc.faults import DatabaseUnavailable
from lovely.remotetask.xmlrpc.faults import OutcomeUnknown
from lovely.remotetask.xmlrpc.faults import Stopping
from lovely.remotetask.xmlrpc.pending import Call
from lovely.remotetask.xmlrpc.results import plain
from lovely.remotetask.xmlrpc.session import ATTEMPTS
from lovely.remotetask.xmlrpc.session import ReadManager
from lovely.remotetask.xmlrpc.session import Session
from lovely.remotetask.xmlrpc.waiting import JobWatcher


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


class Gathering:
    """How many writes the writer gathers for one commit, and how long it waits for them; see `Gateway`."""

    def __init__(self, longest=GATHER):
        """`longest` is how long it waits at most, in seconds."""
        self._longest = longest
        #: How many writes there were lately at the same time, and for how many seconds as many are waited for.
        self.expected, self.seconds = 0, 0.0

    def note(self, count, seconds):
        """Note that so many writes came until a commit was over, which took so many seconds."""
        self.expected, self.seconds = count, min(self._longest, seconds)


class _Reader:
    """The state of a reader's thread, with a session of its own, so that no other thread waits for its lock."""

    def __init__(self, db, attempts):
        self.session = Session(db, ReadManager, attempts)
        self.wakeup = queue.SimpleQueue()       # gets something when the reader is idle and is to go on


def _endFailed(calls, error):
    """End those of some calls that have not ended, and log an exception that there should not be."""
    logger.error('the front end failed %s', counted(len(calls), 'call'), exc_info=error)
    for call in calls:
        with contextlib.suppress(BaseException):        # of who waits for the call
            call.end(None, OutcomeUnknown())


class Gateway:
    """Runs functions on task services, in connections and transactions of its own.

    The functions of waiting calls to `write` run one after the other in the thread of one writer and are committed
    together.  So many callers cost few commits, and the front end never conflicts with itself.  Those of `read` run in
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
        self._writeBegan = None                 # when the writer has begun with its writes, by time.monotonic
        self._silent = False                    # whether the database has answered nothing since a call was given up
        self._watcher = JobWatcher(db, resolve)
        self._committer = Committer(db, resolve, attempts, self._noteAnswer)    # of the writer's thread alone

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
        """Wake a `waiting.Wait` when its jobs have ended, or might have; until `forget`.  Does not block."""
        self._watcher.watch(wait)

    def forget(self, wait):
        """Leave a `waiting.Wait` alone.  Waits for nothing."""
        self._watcher.forget(wait)

    def canWatch(self, count):
        """Return whether there is room for a `waiting.Wait` with so many jobs."""
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
    def problem(self):
        """Why calls that change something are not carried out, a sentence; None if they are, as far as is known."""
        began, threads = self._writeBegan, self._threads
        if self._running and not threads[0].is_alive():
            return 'the thread that commits calls has ended'
        if began is not None and (seconds := time.monotonic() - began) > self.deadline:
            return f'a commit of calls has been going on for {seconds:.0f} seconds'
        return None

    def _noteAnswer(self):
        self._silent = False

    @property
    def _hasFewer(self):
        """Whether fewer calls wait to be committed than there were lately at the same time."""
        return len(self._waiting) < self.gathering.expected

    @property
    def timeout(self):
        """The most seconds that a new caller waits: fewer while the database does not answer."""
        return min(self.deadline, SHORT_DEADLINE) if self._silent else self.deadline

    def read(self, path, function, serialize=plain):
        """Call a function with the service at a path; its changes are thrown away.  Return a `Call`.

        path -- the path of a URL.
        function -- called with the service; once more after each conflict.
        serialize -- called in the same thread with the result of `function`; what it returns is the result of the call,
            for any thread.

        Raise `Stopping`.  The call's exceptions are those that the function raises, `errors.UnknownService`, and
        `DatabaseUnavailable`.
        """
        deadline = time.monotonic() + self.timeout
        read = Call(path, function, serialize, deadline, deadline)
        with self._changed:
            if not self._running:
                raise Stopping()
            self._waitingReads.append(read)
        return read

    def write(self, path, function, serialize=plain, acts=None):
        """Call a function with the service at a path, and commit its changes.  Return a `Call`.

        path, serialize -- as for `read`.
        function -- called with the service in the writer's thread, again if its transaction has to be repeated.  When
            it raises one of the family of `errors` it must have changed nothing: the other calls are committed.
        acts -- called with the service and what the function returned, it returns a list of `notes.Act`s, for the note
            of the transaction; None for none.

        Raise `Stopping`.  The call has ended when it is committed; its exceptions are those that the function raises;
        `errors.UnknownService`; `DatabaseUnavailable` when nothing was changed; `OutcomeUnknown` when it is not known
        whether it was.
        """
        now = time.monotonic()
        write = Call(path, function, serialize, now + self.timeout, now + self.deadline, acts)
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
        """Start the calls that wait, as far as there are threads for them.  Does not block.

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
        """Cancel a call whose deadline is over, or move its deadline.  Waits for nothing.

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
        # A database can be silent for long: calls that nobody waits for must not pile up meanwhile.
        with self._changed:
            if call in waiting:
                waiting.remove(call)

    # The readers' threads

    def _read(self):
        reader = _Reader(self.db, self.attempts)
        try:
            while (read := self._nextRead(reader)) is not None:
                try:
                    result, error = reader.session.run(lambda: self._readOnce(reader, read)), None
                    self._noteAnswer()
                except BaseException as caught:     # no error ends the reader
                    if not isinstance(caught, DatabaseUnavailable):
                        self._noteAnswer()
                    result, error = None, caught
                try:
                    read.end(result, error)
                except BaseException as failure:
                    _endFailed([read], failure)
                # An idle reader is not to keep the caller's input and the result alive.
                del read, result, error
        finally:
            reader.session.close()

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
                    reader.session.refresh()

    def _readOnce(self, reader, read):
        return fresh(self.db, lambda: self._lookOnce(reader, read))

    def _lookOnce(self, reader, read):
        connection = reader.session.open()
        manager = connection.transaction_manager
        try:
            manager.begin()
            return read.serialize(read.function(self.resolve(connection, read.path)))
        finally:
            manager.abort()

    # The writer's thread

    def _write(self):
        try:
            while True:
                writes = self._next()
                if not writes:
                    return
                self._writeBegan = began = time.monotonic()
                try:
                    self._committer.acknowledge(writes)
                except BaseException as error:          # no error ends the writer
                    self._committer.close()
                    _endFailed(writes, error)
                self._writeBegan = None
                with self._changed:
                    self.gathering.note(min(self.batch, len(writes) + len(self._waiting)), time.monotonic() - began)
                # An idle writer is not to keep the callers' input and futures alive.
                del writes
        finally:
            self._committer.close()

    def _next(self):
        """Return the writes to be committed together, as soon as there are any; none at the end."""
        with self._changed:
            while True:
                while self._running and not self._waiting:
                    self._changed.wait()
                self._gather()
                if self._waiting or not self._running:      # else those who called have given up meanwhile
                    return [self._waiting.popleft() for _ in range(min(len(self._waiting), self.batch))]

    def _gather(self):
        """Wait for as many writes as there were lately, but not for long; the lock is held."""
        self._isGathering, until = True, time.monotonic() + self.gathering.seconds
        while self._running and self._hasFewer and (left := until - time.monotonic()) > 0:
            self._changed.wait(left)
        self._isGathering = False
