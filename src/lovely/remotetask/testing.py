"""What tests of applications need: a service with stubbed tasks, a clock, ways to have jobs run, database servers."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import glob
import os
import pwd
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from types import MappingProxyType

from transaction.interfaces import NoTransaction
from ZEO.ClientStorage import ClientStorage
from ZODB.config import databaseFromString
from ZODB.DB import DB

from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.opening import closeDatabase
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.service import TaskService


#: Seconds between two looks at jobs in a database that does not tell what others commit.
LOOK = 0.5

#: Seconds in which a process has to say or do what it does within one.
PATIENCE = 30.0

#: Seconds before a port is tried again that was in use.
PAUSE = 0.1


# Tasks

class ITaskStub(ITask):
    """A task that a `TaskServiceStub` has, and that stands for the task of the same name.

    Services that are no stubs find it as well, but prefer what is registered for `ITask`.
    """


class TaskServiceStub(TaskService):
    """A service whose tasks are utilities for `ITaskStub`, and which starts no threads; else see `ITaskService`.

    It needs no database.  Ids count from 1.  `startProcessing` and `stopProcessing` only change what `isProcessing`
    says, so that code which calls them can be tested, too; jobs run when the test calls `process` or `runDueJobs`.
    """

    taskInterface = ITaskStub

    _lastId = 0
    _processing = False

    def _newId(self):
        self._lastId += 1
        return self._lastId

    def startProcessing(self):
        """Have `isProcessing` say True."""
        self._processing = True

    def stopProcessing(self):
        """Have `isProcessing` say False."""
        self._processing = False

    def isProcessing(self):
        """Say which of the two was called last."""
        return self._processing


# Time

class Clock:
    """A clock that a test sets.  Called, it gives the time in seconds, as `time.time` does.

    It can be the argument `clock` of a processor, or give the time for `service.process(clock())`.
    """

    def __init__(self, now=0.0):
        self._now = now

    def __call__(self):
        """Return the time in UTC seconds."""
        return self._now

    def set(self, now):
        """Set the time, in UTC seconds."""
        self._now = now

    def advance(self, seconds):
        """Move on by so many seconds, and return the new time."""
        self._now += seconds
        return self._now


# Jobs

class TooManyJobs(AssertionError):
    """There are always more jobs to run; look for one that adds another of its kind each time."""


def runDueJobs(service, now=None, limit=1000):
    """Run all jobs that are ready or due, those that they add included, in the caller's thread and transaction.

    service -- an `ITaskService`.
    now -- UTC seconds; default: the present.  It stands still meanwhile.
    limit -- how many jobs are to be expected at the most.

    Return the number of jobs that have run; a job that is to be run again at once counts each time.  Raise
    `TooManyJobs`, an AssertionError, when more than `limit` have run.
    """
    now = time.time() if now is None else now
    count = 0
    while service.processNext(now):
        count += 1
        if count > limit:
            raise TooManyJobs(f'more than {limit} jobs have run, and it goes on: is there one that adds itself?')
    return count


def waitForJobs(service, jobids, timeout=20.0):
    """Wait until other threads or processes have brought all these jobs to their end.

    service -- an `ITaskService` from an open connection.  A new transaction is begun in it: commit first what is to
    be kept, above all the jobs themselves.
    jobids -- their ids.
    timeout -- seconds.

    Return the list of the statuses, in the order of the ids.  Raise `TimeoutError` that names the jobs which have
    not ended, `errors.UnknownJob`, and `errors.RemoteTaskError` for a service that is in no database.
    """
    if service._p_jar is None:
        raise RemoteTaskError('the service is in no database, so nobody else can run its jobs: use runDueJobs')
    jobids, until = list(jobids), time.monotonic() + timeout
    manager, notifier, wakeup = service._p_jar.transaction_manager, notifierOf(service._p_jar.db()), threading.Event()
    notifier.subscribe(wakeup)
    try:
        while True:
            with contextlib.suppress(NoTransaction):        # a manager in explicit mode insists on one
                manager.abort()
            manager.begin()
            statuses = [service.getStatus(jobid) for jobid in jobids]
            if all(status in FINAL for status in statuses):
                return statuses
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f'after {timeout:g} seconds have not ended: ' + ', '.join(
                    f'job {jobid} ({status})' for jobid, status in zip(jobids, statuses) if status not in FINAL))
            wakeup.wait(min(left, LOOK))
            wakeup.clear()
    finally:
        notifier.unsubscribe(wakeup)


# Processes

class Process:
    """A process of this Python, with the same packages, whose output is read as it comes.

    arguments -- of the interpreter, texts: '-m', 'lovely.remotetask.cli.main', 'serve'
    directory -- the path of the one where it runs; modules there can be imported.
    environment -- variables that it has besides those of this process: a dict.
    """

    def __init__(self, arguments, directory, environment=MappingProxyType({})):
        path = [directory, *(os.path.abspath(entry) for entry in sys.path)]
        self.arguments = arguments
        self.popen = subprocess.Popen(
            [sys.executable, '-u', *arguments], cwd=directory, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=dict(os.environ, PYTHONPATH=os.pathsep.join(path), **environment))
        self.pid = self.popen.pid
        self.said = []                  # all lines until now, of both its outputs
        self._lines = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.popen.stdout:
            self.said.append(line)
            self._lines.put(line.rstrip('\n'))
        self._lines.put(None)

    def waitFor(self, beginning, timeout=PATIENCE):
        """Return the rest of the next line that begins so.

        timeout -- seconds.

        Raise an AssertionError with all that the process has said when there comes none.
        """
        until = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0, until - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f'{self.arguments} did not say {beginning!r}:\n' + ''.join(self.said))
            if line.startswith(beginning):
                return line[len(beginning):]

    def end(self, number=signal.SIGTERM):
        """Send the signal, wait for the end and return the exit code, negative for a signal.

        Raise `subprocess.TimeoutExpired` when it does not end within PATIENCE seconds.
        """
        self.popen.send_signal(number)
        code = self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def close(self):
        """Kill it if it still runs, and let go of all that belongs to it.  Twice is fine."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._reader.join(PATIENCE)
        self.popen.stdout.close()


# A database server

_ZEO_CONF = """\
<zeo>
  address {host}:{port}
</zeo>
<filestorage 1>
  path {directory}/Data.fs
  blob-dir {directory}/blobs
</filestorage>
<eventlog>
  level info
  <logfile>
    path STDERR
    format %(message)s
  </logfile>
</eventlog>
"""

_ZODB_CONF = """\
%import ZEO
<zodb>
  <clientstorage>
    server {host}:{port}
    wait-timeout {patience:.0f}
    blob-dir {directory}/blobs
    shared-blob-dir yes
  </clientstorage>
</zodb>
"""


class TemporaryZEO:
    """A database server in a process of its own; `temporaryZEO` makes one and cleans up behind it.

    address -- the pair of host and port, the same after a restart.
    directory -- the path of the one where its data is: `Data.fs`, and `blobs`, which clients share with it.
    """

    _program = '-m', 'lovely.remotetask.runzeo'

    def __init__(self, directory):
        self.directory, self.address, self.process = directory, None, None
        self._storages = []

    @property
    def pid(self):
        """The id of the process; None while there is none."""
        return self.process and self.process.pid

    @property
    def config(self):
        """The text of a `<zodb>` section for a configuration file, with the `%import` that it needs."""
        return self._fill(_ZODB_CONF, self.address)

    @property
    def said(self):
        """What the running server has written to its log, as one text."""
        return ''.join(self.process.said) if self.process else ''

    def storage(self, **options):
        """Return a new `ClientStorage`, connected.

        options -- arguments of `ClientStorage`; default: wait for the server, and share its directory of blobs.
        """
        options = {'wait_timeout': PATIENCE, 'blob_dir': os.path.join(self.directory, 'blobs'),
                   'shared_blob_dir': True, **options}
        storage = ClientStorage(self.address, **options)
        self._storages.append(storage)
        return storage

    def database(self):
        """Return a new `ZODB.DB` over a storage of its own."""
        return DB(self.storage())

    def start(self):
        """Start the server and return when it accepts connections.  Harmless when it runs.

        Raise an AssertionError with what it has said when it does not start.
        """
        if self.process is not None:
            return
        until = time.monotonic() + PATIENCE
        while self.process is None:
            address = self.address or _freeAddress()
            with open(os.path.join(self.directory, 'zeo.conf'), 'w') as file:
                file.write(self._fill(_ZEO_CONF, address))
            process = Process([*self._program, '-C', file.name], self.directory)
            try:
                # Its own word, not a connection, which somebody else might accept who has taken the port.
                process.waitFor('listening on')
                self.address, self.process = address, process
            except AssertionError:
                if 'already in use' not in ''.join(process.said) or time.monotonic() > until:
                    raise
                time.sleep(PAUSE)
            finally:
                if self.process is not process:
                    process.close()

    def kill(self):
        """End the server as a crash would, by SIGKILL, and wait for its end.  Harmless when there is none."""
        self._end(signal.SIGKILL)

    def close(self):
        """Close the storages, which closes the databases over them, and have the server end.  Twice is fine."""
        while self._storages:
            self._storages.pop().close()
        self._end(signal.SIGTERM)

    def _end(self, number):
        process, self.process = self.process, None
        if process is not None:
            with contextlib.closing(process), contextlib.suppress(subprocess.TimeoutExpired):
                process.end(number)

    def _fill(self, template, address):
        return template.format(host=address[0], port=address[1], patience=PATIENCE,
                               directory=self.directory.replace('$', '$$'))     # a $ starts a substitution


def _freeAddress():
    """Return an address whose port is free now; it may be taken by the time it is used."""
    with socket.create_server(('127.0.0.1', 0)) as free:
        return free.getsockname()


@contextlib.contextmanager
def temporaryZEO(directory=None):
    """Run a database server (ZEO) with a FileStorage and blobs; give a `TemporaryZEO`, running.

    directory -- the path of an existing one for its data, which stays there; default: a new one, removed at the end.

    At the end the server and all clients that its methods have made are gone.  Raise an AssertionError with what the
    server has said when it does not start.
    """
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix='remotetask-'))
        server = TemporaryZEO(os.path.realpath(directory))
        stack.callback(server.close)
        server.start()
        yield server


# PostgreSQL

#: Where Debian and its kin have the programs of PostgreSQL; elsewhere they are found on PATH.
POSTGRESQL_PROGRAMS = '/usr/lib/postgresql/*/bin'

# The server refuses to run as root.
_POSTGRESQL_USERS = ('postgres', 'nobody')

# Without TCP: nobody else on the machine can connect, and no port is taken.  Without fsync: data survive the death of a
# process, not that of the machine.
_POSTGRESQL_OPTIONS = "-c listen_addresses='' -c unix_socket_directories='{directory}' -c fsync=off"

_RELSTORAGE_CONF = """\
%import relstorage
<zodb>
  <relstorage>
    blob-dir {directory}/blobs
    <postgresql>
      driver psycopg2
      dsn host='{directory}/server' dbname='postgres' user='remotetask'
    </postgresql>
  </relstorage>
</zodb>
"""


class TemporaryPostgreSQL:
    """A PostgreSQL server of its own; `temporaryPostgreSQL` makes one and cleans up behind it.

    directory -- the path of the one where its data is, and the blobs that clients have in store.
    """

    def __init__(self, directory):
        self.directory, self.isRunning = directory, False
        self._server, self._data = os.path.join(directory, 'server'), os.path.join(directory, 'server', 'data')
        self._user = None if os.getuid() else _existingUser(_POSTGRESQL_USERS)
        self._databases = []

    @property
    def pid(self):
        """The id of the server's first process; None while there is none."""
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self._data, 'postmaster.pid')) as file:
            return int(file.readline())

    @property
    def config(self):
        """The text of a `<zodb>` section for a configuration file, with the `%import` that it needs."""
        return _RELSTORAGE_CONF.format(directory=self.directory.replace('$', '$$'))

    @property
    def said(self):
        """What the server has written to its log, as one text."""
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self._server, 'log')) as file:
            return file.read()
        return ''

    def database(self):
        """Return a new `ZODB.DB` over a RelStorage of its own."""
        self._databases.append(databaseFromString(self.config))
        return self._databases[-1]

    def start(self):
        """Start the server and return when it accepts connections.  Harmless when it runs.

        Raise an AssertionError with what it has said when it does not start.
        """
        if self.isRunning:
            return
        if not os.path.exists(self._data):
            os.mkdir(self._server, 0o700)
            if self._user:
                os.chown(self._server, self._user.pw_uid, self._user.pw_gid)
            self._run('initdb', '-U', 'remotetask', '-A', 'trust', '-E', 'UTF8', '--locale=C', '-N')
        self._run('pg_ctl', '-w', '-l', os.path.join(self._server, 'log'),
                  '-o', _POSTGRESQL_OPTIONS.format(directory=self._server), 'start')
        self.isRunning = True

    def stop(self, mode='fast'):
        """Stop the server and wait for its end.  Harmless when there is none.

        mode -- of `pg_ctl stop`: 'fast' ends transactions in order, 'immediate' is like a crash, 'smart' waits until
            all clients have gone.
        """
        if self.isRunning:
            self._run('pg_ctl', '-w', '-m', mode, 'stop')
            self.isRunning = False

    def restart(self, mode='fast'):
        """Stop the server, start it, and return when it accepts connections.  For the argument see `stop`."""
        self.stop(mode)
        self.start()

    def backends(self):
        """Return the process ids of the backends of all clients; there is one for each connection."""
        return [pid for pid, in self._query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
                                            "AND pid <> pg_backend_pid()")]

    def killBackend(self, pid):
        """Kill one backend by SIGKILL, as the system does when memory is short.  The server ends all others then, and
        starts anew by itself.
        """
        os.kill(pid, signal.SIGKILL)

    def terminateBackends(self):
        """Have the server end all connections, as an administrator would; return how many."""
        return len(self._query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = "
                               "'client backend' AND pid <> pg_backend_pid()"))

    def close(self):
        """Close the databases, and have the server end.  Twice is fine."""
        while self._databases:
            closeDatabase(self._databases.pop())
        self.stop('immediate')

    def _query(self, statement):
        import psycopg2
        connected = psycopg2.connect(host=self._server, dbname='postgres', user='remotetask')
        with contextlib.closing(connected) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()

    def _run(self, program, *arguments):
        """Run a program of PostgreSQL.  Raise an AssertionError with what it has said when it fails."""
        found = sorted(glob.glob(os.path.join(POSTGRESQL_PROGRAMS, program)))
        path = found[-1] if found else shutil.which(program)
        if path is None:
            raise AssertionError(f'PostgreSQL is not installed: there is no {program} in {POSTGRESQL_PROGRAMS} or on '
                                 f'PATH')
        identity = {'user': self._user.pw_uid, 'group': self._user.pw_gid, 'extra_groups': []} if self._user else {}
        # The server inherits its output: into a file, because a pipe would not end before the server does.
        with tempfile.TemporaryFile('w+') as output:
            done = subprocess.run([path, '-D', self._data, *arguments], cwd='/', stdin=subprocess.DEVNULL,
                                  stdout=output, stderr=subprocess.STDOUT, **identity)
            if done.returncode:
                output.seek(0)
                raise AssertionError(f'{path} has failed:\n{output.read()}{self.said}')


def _existingUser(names):
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError(f'PostgreSQL cannot run as root, and there is none of the users {", ".join(names)}')


@contextlib.contextmanager
def temporaryPostgreSQL():
    """Run a PostgreSQL server in a new directory, removed at the end; give a `TemporaryPostgreSQL`, running.

    It needs the programs of PostgreSQL and the extra `relstorage`.  It listens at a Unix socket in the directory;
    for root it runs as another user.

    At the end the server and all databases that its methods have made are gone.  Raise an AssertionError with what the
    server has said when it does not start, or that it is not installed.
    """
    with tempfile.TemporaryDirectory(prefix='remotetask-') as directory:
        directory = os.path.realpath(directory)
        os.chmod(directory, 0o711)              # for the user that the server runs as
        server = TemporaryPostgreSQL(directory)
        with contextlib.closing(server):
            server.start()
            yield server
