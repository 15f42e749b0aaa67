"""Hearing of the commits of other processes to PostgreSQL, below RelStorage.

A trigger notifies everybody who listens, in the transaction itself, of the objects that were written.  So a commit is
heard even if its process does not use this package, and one that fails is not heard.
"""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import os
import selectors
import socket
import threading
import time
import weakref

from persistent.timestamp import TimeStamp
from ZODB.utils import p64

from lovely.remotetask.common.internals import LIBPQ_ENVIRONMENT
from lovely.remotetask.common.internals import addToDSN
from lovely.remotetask.common.keepalive import COUNT
from lovely.remotetask.common.keepalive import IDLE
from lovely.remotetask.common.keepalive import INTERVAL
from lovely.remotetask.common.keepalive import VANISHED
from lovely.remotetask.errors import ConfigurationError


log = logging.getLogger('lovely.remotetask')


#: Seconds until the next try to connect, at first and at the most.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0

#: Seconds between two questions to a server, and after which one that does not answer is taken to hang, a whole number.
PING_INTERVAL, ANSWER_TIME = 2.0, 10

#: Parameters of a connection that are given nowhere else: a server that hangs accepts connections, and a machine that
#: has vanished ends none, on either side.  The transaction of a task is idle for as long as the task runs: a job whose
#: run took longer than an administrator grants to such transactions would be run again and again.
DEFAULTS = {
    'connect_timeout': ANSWER_TIME, 'tcp_user_timeout': 1000 * VANISHED,
    'keepalives_idle': IDLE, 'keepalives_interval': INTERVAL, 'keepalives_count': COUNT,
    'options': f'-c tcp_keepalives_idle={IDLE} -c tcp_keepalives_interval={INTERVAL} -c tcp_keepalives_count={COUNT} '
               '-c idle_in_transaction_session_timeout=0'}

#: What libpq says of a connection that waits for an answer (PQTRANS_ACTIVE).
ACTIVE = 1

#: What PostgreSQL says, by SQLSTATE, when others make the same tables, functions and rows at the same time.
RACED = frozenset({
    '23505',                    # unique_violation
    '40P01',                    # deadlock_detected
    '42710',                    # duplicate_object
    '42723',                    # duplicate_function
    '42P07',                    # duplicate_table
    'XX000',                    # internal_error: "tuple concurrently updated"
})

# A notification has less than 8,000 bytes: one without ids is for all objects.  In a database without history a commit
# updates rows, in one with history it inserts them.
#
# The functions are those that RelStorage commits with.  They join the few rows of a commit with all objects; but
# PostgreSQL takes them for a thousand, and would read the whole table, while others wait for the locks.
_LISTEN = """\
SET lock_timeout = '10s';
DO $do$
DECLARE
    found regprocedure;
BEGIN
    PERFORM pg_advisory_xact_lock(1919250804, 0);
    FOR found IN
        SELECT pg_proc.oid FROM pg_proc JOIN pg_class ON relnamespace = pronamespace
            WHERE pg_class.oid = 'object_state'::regclass AND pg_has_role(proowner, 'USAGE')
            AND proname IN ('lock_objects_and_detect_conflicts', 'lock_and_choose_tid_and_move')
            AND NOT coalesce(proconfig @> ARRAY['enable_hashjoin=off', 'enable_mergejoin=off'], false)
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET enable_hashjoin = off', found);
        EXECUTE format('ALTER FUNCTION %s SET enable_mergejoin = off', found);
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_trigger
                   WHERE tgrelid = 'object_state'::regclass AND tgname = 'remotetask_update') THEN
        CREATE OR REPLACE FUNCTION remotetask_notify() RETURNS trigger LANGUAGE plpgsql AS $function$
            DECLARE
                oids text;
            BEGIN
                SELECT string_agg(to_hex(zoid), ' ') INTO oids FROM (SELECT zoid FROM written LIMIT 4000) AS found;
                IF oids IS NOT NULL THEN
                    PERFORM pg_notify('remotetask', CASE WHEN length(oids) < 7999 THEN oids ELSE '' END);
                END IF;
                RETURN NULL;
            END
        $function$;
        CREATE TRIGGER remotetask_insert AFTER INSERT ON object_state REFERENCING NEW TABLE AS written
            FOR EACH STATEMENT EXECUTE PROCEDURE remotetask_notify();
        CREATE TRIGGER remotetask_update AFTER UPDATE ON object_state REFERENCING NEW TABLE AS written
            FOR EACH STATEMENT EXECUTE PROCEDURE remotetask_notify();
    END IF;
END $do$;
LISTEN remotetask;
"""

# Which of some backends that owe this process an answer have nothing to do, as the server has it, and so hang.  One
# that hangs in a statement cannot be told from one that works, as a pack does for a long time.
_HANGING = """\
SELECT pid FROM pg_stat_activity
    WHERE pid = ANY(%s) AND state LIKE 'idle%%' AND state_change < now() - %s * interval '1s'
"""

# What is said when a database is opened -> what may be the cause.  libpq does not pass on what a pooler says.
_CAUSES = {
    'server closed the connection unexpectedly':
        'the server has ended the connection, and its log says why; a pooler before PostgreSQL does so in statement '
        'mode: set pool_mode = session for this database, or connect without the pooler',
    'read-write mode during recovery':
        "the server is a standby, which cannot be written to; connect to the primary: host='one,two' "
        "target_session_attrs='read-write' finds it",
}

# What is in the history, the newest first.  RelStorage's `undoLog` reads all of it, however little is asked for.
_TRANSACTIONS = """\
SELECT tid, username, description FROM transaction WHERE NOT packed AND tid <> 0 ORDER BY tid DESC LIMIT %s OFFSET %s
"""

# Identifies the backend of a connection: the number of a process alone is used again.
_BACKEND = 'SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()'


def isRaced(error):
    """Return whether an exception says that another process has made the tables at the same time."""
    return getattr(error, 'pgcode', None) in RACED


@contextlib.contextmanager
def firstConnections():
    """Have a connection that begins in the block take the `DEFAULTS` that libpq takes from the environment.

    For the first connections, which RelStorage makes before anybody can change its `dsn`.  What is in the `dsn` or in
    the environment is kept.
    """
    ours = {variable: str(DEFAULTS[name]) for name, variable in LIBPQ_ENVIRONMENT.items() if variable not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for variable in ours:
            os.environ.pop(variable, None)          # it is no business of what tasks start


def checkPooler(manager):
    """Raise `ConfigurationError` if two connections share a backend, because of a pooler that is not in session mode.

    RelStorage's temporary tables and prepared statements belong to a backend, and so do notifications.

    manager -- RelStorage's `IConnectionManager` of the database.
    """
    with contextlib.ExitStack() as stack:
        first, second = _backendOf(manager, stack), _backendOf(manager, stack)
    if first == second:
        raise ConfigurationError('the pooler before PostgreSQL is not in session mode: each transaction has another '
                                 'backend; set pool_mode = session for this database, or connect without the pooler')


def whyUnfit(error):
    """Return what may be the cause of an exception that comes when a database is opened, a text; None if unknown."""
    return next((cause for said, cause in _CAUSES.items() if said in str(error)), None)


def _backendOf(manager, stack):
    """Return what identifies the backend of a new connection, which stays open until the end of an `ExitStack`."""
    connection, cursor = manager.open(application_name='remotetask: check')
    stack.callback(connection.close)
    cursor.execute(_BACKEND)
    found = cursor.fetchone()
    connection.rollback()
    return found


def transactionsOf(manager, first, last):
    """Return transactions of a database with history, as `ZODB.DB.undoInfo` does, without what extensions have added.

    manager -- RelStorage's `IConnectionManager` of the database.
    first, last -- which of them, the newest being 0: from `first` up to `last`, which is not included.
    """
    connection, cursor = manager.open(application_name='remotetask: history')
    with contextlib.closing(connection):
        cursor.execute(_TRANSACTIONS, (last - first, first))
        return [{'time': TimeStamp(p64(tid)).timeTime(), 'user_name': _text(user), 'description': _text(description)}
                for tid, user, description in cursor]


def _text(value):
    return bytes(value).decode('utf-8', 'replace')


class Connections:
    """The connections of this process to a PostgreSQL, to end them all when it does not answer.

    libpq waits for an answer for as long as that takes: nothing but the end of the connection ends the waiting.
    RelStorage tells its callers then, and connects anew, as if the network had ended it.
    """

    def __init__(self, manager):
        """`manager` is RelStorage's `IConnectionManager` of the database."""
        self._all, self._lock = weakref.WeakSet(), threading.Lock()
        self._waiting = {}                              # connection -> how often in a row it was found waiting
        addToDSN(manager, DEFAULTS)
        manager.add_on_store_opened(self._note)
        manager.add_on_load_opened(self._note)

    def _note(self, cursor, restart=False):         # RelStorage calls this before each transaction
        with self._lock:
            self._all.add(cursor.connection)

    @contextlib.contextmanager
    def answering(self, seconds, *more):
        """End all connections, and those of `more`, when the block takes longer than so many seconds, a whole number.

        Those do not count in which this process itself was stopped.
        """
        done = threading.Event()

        def watch():
            for _ in range(seconds):
                if done.wait(1):
                    return
            log.warning('PostgreSQL has not answered for %d seconds: connecting to it anew', seconds)
            self._end(more)

        threading.Thread(target=watch, name='remotetask-watchdog', daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def ask(self, cursor):
        """Ask the server whether it is there; end those connections whose backend does not take what it was asked.

        To be called every PING_INTERVAL seconds.  These calls are counted, and not the time, in which this process
        itself may have been stopped.

        cursor -- of a connection of the same role.
        """
        with self._lock:
            waiting = [connection for connection in self._all if _isWaiting(connection)]
        self._waiting = {connection: self._waiting.get(connection, 0) + 1 for connection in waiting}
        late = {connection.info.backend_pid: connection for connection, looks in self._waiting.items()
                if looks > ANSWER_TIME / PING_INTERVAL}
        if not late:
            cursor.execute('SELECT 1')
            return
        cursor.execute(_HANGING, (list(late), ANSWER_TIME))
        for pid, in cursor.fetchall():
            log.warning('the process %d of PostgreSQL has not answered for %d seconds, but others do: connecting anew',
                        pid, ANSWER_TIME)
            _shutDown([late[pid]])

    def _end(self, more):
        with self._lock:
            connections = [*self._all, *more]
        _shutDown(connections)


def _isWaiting(connection):
    """Return whether a connection has asked the server something, and has no answer yet."""
    return not connection.closed and connection.info.transaction_status == ACTIVE


def _shutDown(connections):
    for connection in connections:
        # An exception: it is closed.
        with contextlib.suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)


class CommitListener:
    """Tells a notifier of the commits of other processes, in a thread of its own, with a connection of its own.

    It also leaves a server that hangs: see `Connections`.

    While the database is away the notifier's `hearsOthers` is False, and whoever has subscribed has to look by itself.
    The log says so once.
    """

    def __init__(self, connections, notifier, isClosed):
        """Open nothing yet.

        connections -- RelStorage's `IConnectionManager` of the database.
        notifier -- a `CommitNotifier`.
        isClosed -- returns whether nobody needs this any more.
        """
        self.open = Connections(connections)            # what is open
        self._connections, self._notifier, self._isClosed = connections, notifier, isClosed
        self._own = weakref.WeakValueDictionary()       # process id of a backend -> connection of this process
        connections.add_on_store_opened(self._noteOwn)
        # The lock is one that can be taken twice: the garbage collector may call `stop` at any moment.
        self._lock, self._stopped, self._thread = threading.RLock(), threading.Event(), None
        self._failures = 0
        self._waking, self._woken = None, None          # the ends of a pipe that ends the waiting for the database

    def start(self):
        """Start to listen, unless that was done before.  It takes some time until the notifier hears of commits."""
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                if self._waking is None:
                    self._waking, self._woken = socket.socketpair()
                thread = threading.Thread(target=self._run, name='remotetask-listener', daemon=True)
                thread.start()              # else the next who subscribes tries again
                self._thread = thread

    def stop(self):
        """Ask it to end, and wait for nothing.  Twice is fine."""
        with self._lock:
            self._stopped.set()
            if self._thread is not None:
                with contextlib.suppress(OSError):
                    self._waking.send(b'.')

    def close(self, timeout=2):
        """Ask it to end, and wait for that, `timeout` seconds at most: it may be about to connect."""
        self.stop()
        if self._thread is not None:
            self._thread.join(timeout)

    def _noteOwn(self, cursor, restart=False):
        """Note a connection of this process: RelStorage calls this before each transaction that writes."""
        if hasattr(cursor.connection, 'notifies'):
            self._own[cursor.connection.get_backend_pid()] = cursor.connection

    def _isOwn(self, pid):
        connection = self._own.get(pid)
        return connection is not None and not connection.closed

    def _run(self):
        with self._waking, self._woken:
            while not self._isDone():
                try:
                    self._listen()
                except Exception as error:              # each driver has errors of its own
                    self._tellFailure(error)
                    self._stopped.wait(min(FIRST_PAUSE * 2 ** min(self._failures, 10), LONGEST_PAUSE))
                    self._failures += 1

    def _isDone(self):
        return self._stopped.is_set() or self._isClosed()

    def _listen(self):
        """Connect, and pass on what comes, until the connection ends or this is stopped."""
        connection, cursor = self._connections.open(application_name='remotetask: commits')
        try:
            if not hasattr(connection, 'notifies'):
                raise TypeError(f'{type(connection).__module__} is not psycopg2')
            connection.autocommit = True
            with self.open.answering(2 * ANSWER_TIME, connection):      # it may wait for a lock, too
                cursor.execute(_LISTEN)
            self._tellSuccess()
            self._notifier.hearsOthers = True
            self._notifier.notify()                     # of what was not heard of before
            self._passOn(connection, cursor)
        finally:
            if self._notifier.hearsOthers:
                self._notifier.hearsOthers = False
                self._notifier.notify()                 # and so others look by themselves
            with contextlib.suppress(Exception):
                connection.close()

    def _passOn(self, connection, cursor):
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            asked = time.monotonic()
            while not self._isDone():
                if selector.select(max(0, asked + PING_INTERVAL - time.monotonic())):
                    connection.poll()
                if time.monotonic() - asked >= PING_INTERVAL:
                    with self.open.answering(ANSWER_TIME, connection):
                        self.open.ask(cursor)
                    asked = time.monotonic()
                told, connection.notifies[:] = connection.notifies[:], ()
                payloads = [each.payload for each in told if not self._isOwn(each.pid)]
                if payloads:
                    self._notifier.notify(oids=_oids(payloads))

    def _tellFailure(self, error):
        if self._failures == 0:
            log.warning('commits of other processes are not heard of, and hosts look for jobs now and then: %s: %s',
                        type(error).__name__, str(error).partition('\n')[0])

    def _tellSuccess(self):
        if self._failures:
            log.info('commits of other processes are heard of again')
        self._failures = 0


def _oids(payloads):
    """Return the ids of the objects of which notifications tell, a set; None for all objects."""
    if '' in payloads:
        return None
    return {p64(int(oid, 16)) for payload in payloads for oid in payload.split()}
