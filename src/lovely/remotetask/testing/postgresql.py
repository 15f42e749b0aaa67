"""A PostgreSQL server in processes of its own, for RelStorage."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile

from ZODB.config import databaseFromString

from lovely.remotetask.database.opening import closeDatabase


#: Where Debian and its kin have the programs of PostgreSQL; elsewhere they are found on PATH.
POSTGRESQL_PROGRAMS = '/usr/lib/postgresql/*/bin'

# The server refuses to run as root.
_POSTGRESQL_USERS = ('postgres', 'nobody')

# Without TCP: nobody else on the machine can connect, and no port is taken.
_POSTGRESQL_OPTIONS = "-c listen_addresses='' -c unix_socket_directories='{directory}' -c fsync={fsync}"

_RELSTORAGE_CONF = """\
%import relstorage
<zodb>
  <relstorage>
    cache-local-mb 0
    blob-dir {directory}/blobs
    <postgresql>
      driver psycopg2
      dsn host='{host}' dbname='postgres' user='remotetask'
    </postgresql>
  </relstorage>
</zodb>
"""


class TemporaryPostgreSQL:
    """A PostgreSQL server of its own; `temporaryPostgreSQL` makes one and cleans up behind it.

    directory -- the path of the one where its data is, and the blobs that clients have in store.
    isDurable -- whether data survive the death of the machine, not only that of a process: that takes time.
    """

    def __init__(self, directory, isDurable=False):
        self.directory, self.isDurable, self.isRunning = directory, isDurable, False
        self._server, self._data = os.path.join(directory, 'server'), os.path.join(directory, 'server', 'data')
        self._user = None if os.getuid() else _existingUser(_POSTGRESQL_USERS)
        self._databases = []

    @property
    def pid(self):
        """The id of the server's first process; None while there is none."""
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self._data, 'postmaster.pid')) as file:
            return int(file.readline())

    @property
    def pids(self):
        """The ids of all its processes, a list; the first one begins all others."""
        first = self.pid
        return [] if first is None else [first, *_childrenOf(first)]

    @property
    def size(self):
        """How large the database is, in bytes; with blobs.  The server has to run."""
        return self._execute('SELECT pg_database_size(current_database())')[0][0]

    @property
    def config(self):
        """The text of a `<zodb>` section for a configuration file, with the `%import` that it needs."""
        return self._configFor(self._server)

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
            self._make()
        options = _POSTGRESQL_OPTIONS.format(directory=self._server, fsync='on' if self.isDurable else 'off')
        self._run('pg_ctl', '-w', '-l', os.path.join(self._server, 'log'), '-o', options, 'start')
        self.isRunning = True

    def stop(self, mode='fast'):
        """Stop the server and wait for its end.  Harmless when there is none.

        mode -- of `pg_ctl stop`: 'fast' ends transactions in order, 'immediate' is like a crash, 'smart' waits until
            all clients have gone.
        """
        if self.isRunning:
            self._run('pg_ctl', '-w', '-m', mode, 'stop')
            self.isRunning = False

    def kill(self):
        """End the server like a crash."""
        self.stop('immediate')

    def restart(self, mode='fast'):
        """Stop the server, start it, and return when it accepts connections.  For the argument see `stop`."""
        self.stop(mode)
        self.start()

    def clear(self):
        """Make the database anew, which ends all connections to it: nothing is in it then, not even tables."""
        self._closeDatabases()
        for statement in 'DROP DATABASE postgres WITH (FORCE)', 'CREATE DATABASE postgres':
            self._execute(statement, 'template1')
        shutil.rmtree(os.path.join(self.directory, 'blobs'), ignore_errors=True)

    def keepTemporaryTables(self, directory):
        """Have the temporary tables of all sessions that begin from now on in another directory, a new one.

        RelStorage empties such tables in each commit, while other commits wait: on a busy disk that takes longer than
        all else.
        """
        if self._user:
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)
        self._execute(f"CREATE TABLESPACE temporary LOCATION '{directory}'")
        self._execute("ALTER SYSTEM SET temp_tablespaces = 'temporary'")
        self._execute('SELECT pg_reload_conf()')

    def backends(self):
        """Return the process ids of the backends of all clients; there is one for each connection."""
        return [pid for pid, in self._execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
                                              "AND pid <> pg_backend_pid()")]

    def killBackend(self, pid):
        """Kill one backend by SIGKILL, as the system does when memory is short.  The server ends all others then, and
        starts anew by itself.
        """
        os.kill(pid, signal.SIGKILL)

    def hang(self):
        """Have the server do nothing, like one whose disk hangs, until `goOn`: all its processes are stopped."""
        self._signal(signal.SIGSTOP)

    def goOn(self):
        """End what `hang` has begun.  Harmless when there is no server."""
        self._signal(signal.SIGCONT)

    def _signal(self, number):
        for pid in self.pids[:1]:
            os.kill(pid, number)                # first: it makes no others any more
        for pid in self.pids[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def terminateBackends(self):
        """End all connections at the server, as an administrator would; return how many."""
        return len(self._execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = "
                                 "'client backend' AND pid <> pg_backend_pid()"))

    def close(self):
        """Close the databases, and have the server end.  Twice is fine."""
        self.goOn()
        self._closeDatabases()
        self.stop('immediate')

    def _configFor(self, host):
        return _RELSTORAGE_CONF.format(directory=self.directory.replace('$', '$$'), host=host.replace('$', '$$'))

    def _make(self):
        self._run('initdb', '-U', 'remotetask', '-A', 'trust', '-E', 'UTF8', '--locale=C', '-N')

    def _closeDatabases(self):
        while self._databases:
            closeDatabase(self._databases.pop())

    def _execute(self, statement, database='postgres'):
        import psycopg2
        connected = psycopg2.connect(host=self._server, dbname=database, user='remotetask')
        with contextlib.closing(connected) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

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


def _childrenOf(parent):
    """Return the ids of the processes that a process has begun."""
    found = []
    for path in glob.glob('/proc/[0-9]*/stat'):
        with contextlib.suppress(OSError), open(path) as file:
            if int(file.read().rpartition(')')[2].split()[1]) == parent:
                found.append(int(path.split('/')[2]))
    return found


def _existingUser(names):
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError(f'PostgreSQL cannot run as root, and there is none of the users {", ".join(names)}')


@contextlib.contextmanager
def temporaryPostgreSQL(isDurable=False):
    """Run a PostgreSQL server in a new directory, removed at the end; give a `TemporaryPostgreSQL`, running.

    It needs the programs of PostgreSQL and the extra `postgresql`.  It listens at a Unix socket in the directory;
    for root it runs as another user.

    isDurable -- whether each commit is written to the disk, which takes time; else it is lost with the machine.

    At the end the server and all databases that its methods have made are gone.  Raise an AssertionError with what the
    server has said when it does not start, or that it is not installed.
    """
    with tempfile.TemporaryDirectory(prefix='remotetask-') as directory:
        directory = os.path.realpath(directory)
        os.chmod(directory, 0o711)              # for the user that the server runs as
        server = TemporaryPostgreSQL(directory, isDurable)
        with contextlib.closing(server):
            server.start()
            yield server
