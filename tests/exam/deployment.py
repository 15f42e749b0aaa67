"""The processes of a deployment over a database server, which can be ended, stopped and started again."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import os
import re
import signal
import time

import transaction

from deployment import configurationOf
from exam import tasks
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.service import DEFAULT_SERVICE
from lovely.remotetask.service import install
from lovely.remotetask.testing import Process


#: Seconds after which a silent host is taken for dead.
LEASE = 2

#: Objects that a connection keeps in memory, and the size of the file that a client of ZEO keeps others in, whose index
#: is in memory: so little that none grows for long until it has as much.
CACHE, CLIENT_CACHE = 500, '2MB'

#: Seconds in which all processes have to be ready.
PATIENCE = 90

#: Seconds between two looks at a process.
POLL_INTERVAL = 0.1

#: How many lines of each log are shown.
SHOWN = 60

#: What a line of the log says when a host is rescued, or finds that it was.
RESCUED = re.compile(r'processing host \S+ (has ended: |was silent for )')

#: What a program says that does not start because of the generation of the data.
REFUSED = re.compile(r'remotetask: the task service \S+ is of generation ')

SITE = """\
<configure xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">
  <include package="lovely.remotetask" />
  <remotetask:task name="plain" handler="exam.tasks.Plain" />
  <remotetask:task name="effect" handler="exam.tasks.Effect" />
  <remotetask:task name="once" handler="exam.tasks.Effect" atMostOnce="true" />
  <remotetask:task name="digest" handler="exam.tasks.Digest" />
  <remotetask:task name="fails" handler="exam.tasks.Fails" />
  <remotetask:task name="ends" handler="exam.tasks.Ends" />
  <remotetask:task name="again" handler="exam.tasks.Again" attempts="1000" />
  <remotetask:task name="conflict" handler="exam.tasks.Conflict" />
  <remotetask:task name="slow commit" handler="exam.tasks.SlowCommit" />
  <remotetask:task name="tick" handler="exam.tasks.Tick" />
  <remotetask:task name="poison" handler="exam.tasks.Poison" />
</configure>
"""


def programOf(tree, name, module):
    """Return the arguments of the interpreter for a program: the module here, or the script in a tree.

    tree -- the path of another checkout, with its own `bin`; None for this one.
    """
    return ('-m', f'lovely.remotetask.{module}') if tree is None else (os.path.join(tree, 'bin', name),)


class Program:
    """A process under a name, and those that had the name before.

    name -- of the processing host.
    arguments -- of the program `remotetask`.
    directory -- the path of the one where it runs.
    """

    def __init__(self, name, arguments, directory):
        self.name, self.arguments, self.directory = name, arguments, directory
        self.tree = None        # that the next process comes from: see `programOf`
        self.environment = {}   # what the next process has besides
        self.process = None
        self.said = []          # the last lines of the processes before
        self._rescues = []      # the lines of these that tell of rescues

    @property
    def pid(self):
        """The id of the process."""
        return self.process.pid

    @property
    def running(self):
        """Whether there is a process; also while it is stopped."""
        return self.process is not None and self.process.popen.poll() is None

    @property
    def ready(self):
        """Whether it has started and does its work."""
        return self.running and 'ready\n' in self.process.said

    def start(self):
        """Start it, and do not wait until it is ready.  Harmless when it runs."""
        if not self.running:
            self.close()
            arguments = [*programOf(self.tree, 'remotetask', 'cli.main'), *self.arguments]
            self.process = Process(arguments, self.directory, self.environment)

    def signal(self, number):
        """Send a signal, if it runs."""
        if self.running:
            self.process.popen.send_signal(number)

    def end(self, number):
        """Send a signal and wait until the process has ended."""
        if self.running:
            self.process.end(number)

    def close(self):
        """Kill it if it runs, and keep the end of what it said."""
        if self.process is not None:
            self.process.close()
            self._rescues = self.rescues
            self.said = (self.said + self.process.said + [f'-- process {self.pid} has ended: '
                                                          f'{self.process.popen.returncode}\n'])[-SHOWN:]
            self.process = None

    @property
    def refusal(self):
        """Why the process has ended that does not work with the generation of the data, a line; None if it has not."""
        if self.process is None or self.running:
            return None
        return next((line.rstrip() for line in self.process.said if REFUSED.match(line)), None)

    @property
    def rescues(self):
        """All lines of its log that tell of rescues, as a list."""
        return self._rescues + [f'{self.name}: {line.rstrip()}' for line in (self.process.said if self.process else [])
                                if RESCUED.search(line)]

    @property
    def log(self):
        """The last lines, as text."""
        return ''.join((self.said + (self.process.said if self.process else []))[-SHOWN:])


class Deployment:
    """A database server, a front end and processing hosts; `deployment` makes one and cleans up behind it.

    server -- the `TemporaryZEO` or `TemporaryPostgreSQL`, running.
    hosts -- how many processing hosts.
    processor -- the text of more keys for their configuration.
    """

    def __init__(self, server, hosts, processor=''):
        self.server, self.directory = server, server.directory
        lease = '' if 'lease ' in processor else f'lease {LEASE}s\n'
        self._processor = f'threads 4\n{lease}{processor}'
        self._write('site.zcml', SITE)
        self.frontend = self._program('frontend', 'frontend')
        self.hosts = [self._program(f'host-{number + 1}', 'processor') for number in range(hosts)]
        self._url = None

    def _write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, 'w') as file:
            file.write(text)
        return path

    def _program(self, name, command):
        config = self.server.config.replace('<zodb>', f'<zodb>\n  cache-size {CACHE}').replace(
            '<clientstorage>', f'<clientstorage>\n    cache-size {CLIENT_CACHE}')
        path = self._write(f'{name}.conf', configurationOf(self.directory, config, name, processor=self._processor))
        return Program(name, ['-C', path, command], self.directory)

    @property
    def programs(self):
        """The front end and the hosts."""
        return [self.frontend, *self.hosts]

    @property
    def url(self):
        """Where the front end listens, or has listened last: each of its processes has another port."""
        if self.frontend.process is not None:
            for line in self.frontend.process.said:
                if line.startswith('listening on '):
                    self._url = line.split()[-1]
                    break
        return self._url

    def mend(self):
        """Start what has ended; wait for nothing."""
        for program in self.programs:
            program.start()

    def restore(self):
        """Have everything run; return when all is ready.  Raise an AssertionError with the logs if that fails."""
        self.server.goOn()
        self.server.start()
        for program in self.programs:
            program.signal(signal.SIGCONT)
        until = time.monotonic() + PATIENCE
        while not all(program.ready for program in self.programs):
            self.mend()
            if time.monotonic() > until:
                raise AssertionError(f'the deployment does not start:\n{self.logs}')
            time.sleep(POLL_INTERVAL)

    @property
    def logs(self):
        """The ends of all logs, as text."""
        logs = [('database server', ''.join(self.server.said.splitlines(True)[-SHOWN:]))]
        logs += ((program.name, program.log) for program in self.programs)
        return '\n'.join(f'== {name}\n{text}' for name, text in logs)

    @property
    def trace(self):
        """What the tasks have written, oldest first: a list of word, id, process id and time in UTC seconds."""
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self.directory, tasks.TRACE)) as file:
            return [(word, int(jobid), int(pid), float(when)) for word, jobid, pid, when in map(str.split, file)]
        return []

    def close(self):
        """End all processes but the database server."""
        for program in self.programs:
            program.close()


@contextlib.contextmanager
def opened(database):
    """Give the root object of a `ZODB.DB` in a transaction of its own, which is aborted at the end."""
    manager = transaction.TransactionManager()
    connection = database.open(manager)
    try:
        yield connection.root()
    finally:
        manager.abort()
        connection.close()


def serviceOf(root):
    """Return the task service of the deployment."""
    return root[ROOT_NAME][DEFAULT_SERVICE]


@contextlib.contextmanager
def deployment(hosts, orders, temporaryServer, processor=''):
    """Run a `Deployment`; give it when all is ready.

    hosts -- how many processing hosts.
    orders -- how many counters to prepare.
    temporaryServer -- `testing.temporaryZEO` or `testing.temporaryPostgreSQL`.
    processor -- the text of more keys for the configuration of hosts.
    """
    with temporaryServer() as server, contextlib.ExitStack() as stack:
        database = server.database()
        install(database)
        with opened(database) as root:
            tasks.prepare(root, orders, root._p_jar.transaction_manager.commit)
        database.close()
        made = Deployment(server, hosts, processor)
        stack.callback(made.close)
        made.restore()
        yield made
