"""Where it is measured: the database with the bench's service in it, and the processes around them."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import functools
import json
import os
import secrets
import subprocess
import sys
import tempfile
from types import MappingProxyType

from lovely.remotetask.bench.database import BenchDatabase
from lovely.remotetask.bench.directory import Directory
from lovely.remotetask.bench.directory import databaseText
from lovely.remotetask.bench.directory import embeddedDatabase
from lovely.remotetask.bench.directory import isEmbedded
from lovely.remotetask.bench.process import Client
from lovely.remotetask.bench.process import endedTime
from lovely.remotetask.bench.process import endOf
from lovely.remotetask.bench.process import peakMemory
from lovely.remotetask.bench.process import processorTime
from lovely.remotetask.bench.settings import FOLDER
from lovely.remotetask.bench.settings import SERVICE
from lovely.remotetask.bench.settings import THREADS
from lovely.remotetask.bench.settings import BenchError
from lovely.remotetask.config.settings import describeStorage
from lovely.remotetask.config.settings import load
from lovely.remotetask.config.zcml import loadSite
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import install
from lovely.remotetask.testing import PATIENCE
from lovely.remotetask.testing import Process
from lovely.remotetask.testing import temporaryPostgreSQL
from lovely.remotetask.testing import temporaryZEO


#: What a temporary server is, and how to run it.  Both write each commit to the disk.
SERVERS = {'zeo': ('ZEO', temporaryZEO),
           'postgresql': ('PostgreSQL', functools.partial(temporaryPostgreSQL, isDurable=True))}

#: The name of this process, as its log has it.
OWN = 'bench'


class Cost:
    """What was spent and stored while a block ran; see `Stage.cost`.

    times -- kind of process -> seconds of processor time, summed up over all of its kind.
    records, size -- how many records were stored, and their bytes; None for a storage that does not tell.
    """

    times, records, size = MappingProxyType({}), None, None


class Stage:
    """A service of its own in a database, with as many hosts, clients and front ends as are asked for.

    Hosts, clients and front ends are processes of their own.  A database that one process alone can open is `embedded`:
    there the hosts and the clients are threads of this process, and the front end is `remotetask serve`, for which this
    process lets go of the database.

    settings -- the `Settings`.
    title -- says what the database is.
    database -- the `BenchDatabase`.
    peaks -- kind of process -> most bytes of memory that one had.
    """

    def __init__(self, settings, database, title, embedded, server=None):
        """`database` is the text of a `<zodb>` section; `server` the temporary one that belongs to it, or None."""
        self.settings, self.title, self.embedded, self.server = settings, title, embedded, server
        self._text, self._hosts, self._frontend, self._clients = database, [], None, []
        self.peaks, self._names = collections.defaultdict(int), set()       # the names of all hosts that have run

    def __enter__(self):
        with contextlib.ExitStack() as closing:
            # Resolved: a path that is not would not be the same for all.
            directory = os.path.realpath(closing.enter_context(
                tempfile.TemporaryDirectory(prefix=FOLDER, ignore_cleanup_errors=True)))
            path = FOLDER + secrets.token_hex(4), SERVICE
            self._directory = Directory(directory, self._text, path)
            self._configurationPath = self._directory.configure(OWN, 'info')
            configuration = load(self._configurationPath)
            loadSite(configuration.siteDefinition)
            closing.callback(self._directory.setUpLog(OWN))
            self.database = BenchDatabase(configuration.database.open, path, self.settings, self.embedded, self.check)
            self.database.open()
            closing.callback(self.database.close)
            install(self.database.db)
            closing.callback(self.database.remove)
            self.database.setUp()
            closing.callback(self.stop)
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *exception):
        self._closing.close()

    # What it costs

    @contextlib.contextmanager
    def cost(self):
        """Give a `Cost`, which has its values after the block."""
        cost, last = Cost(), self.database.lastTransaction()
        before = self.processorTimes()
        yield cost
        cost.times = {kind: seconds - before[kind] for kind, seconds in self.processorTimes().items()}
        if last is not None:
            cost.records, cost.size = self.database.storedAfter(last)

    def processorTimes(self):
        """Return kind of process -> seconds of processor time until now, summed up; {} where the system cannot tell.

        This process counts when no other does the work.
        """
        kinds = {'hosts': [host for host in self._hosts if isinstance(host, Process)], 'clients': self._clients,
                 'frontend': [self._frontend] if self._frontend is not None else []}
        pids = {kind: [process.pid for process in processes] for kind, processes in kinds.items() if processes}
        pids = pids or {'this process': [os.getpid()]}
        if self.server is not None:
            pids['server'] = self.server.pids
        if sys.platform != 'linux':
            return {}
        times = {kind: sum(map(processorTime, pids[kind])) for kind in pids}
        if self.server is not None:             # PostgreSQL has a process for each connection
            times['server'] += sum(map(endedTime, pids['server'][:1]))
        return times

    # Hosts, clients, frontends

    def check(self):
        """Raise `BenchError` when a process has ended that should not."""
        for process in (*self._hosts, self._frontend):
            if isinstance(process, Process) and process.popen.poll() is not None:
                raise BenchError(f'{process.name} has ended with exit code {process.popen.returncode}',
                                 endOf(''.join(process.said)) + endOf(self._directory.log(process.name)))

    def hosts(self, count):
        """Start or stop processing hosts until so many run."""
        self._stopFrontend()
        self.database.open()
        while len(self._hosts) > count:
            self._stop(self._hosts.pop())
        new = []
        while len(self._hosts) < count:
            name = f'host-{len(self._hosts) + 1}'
            if self.embedded:
                host = MultiProcessor(self.database.db, self.database.path, maxThreads=THREADS, name=name)
                host.start()
            else:
                host = self._process('processor', name)
                self._names.add(name)
                new.append(host)
            self._hosts.append(host)
        self._await(new, 'processing as ')

    def _process(self, command, name, level='debug'):
        configurationPath = self._directory.configure(name, level)
        process = Process(['-m', 'lovely.remotetask.cli.main', '-C', configurationPath, command], os.getcwd())
        process.name = name
        return process

    def _await(self, processes, beginning):
        for process in processes:
            try:
                said = process.waitFor(beginning)
            except AssertionError:
                raise BenchError(f'{process.name} does not start', endOf(''.join(process.said))
                                 + endOf(self._directory.log(process.name))) from None
        return said if processes else None

    def _stop(self, host):
        if self.embedded and not isinstance(host, Process):
            host.stop(PATIENCE)
            return
        self._peak(host)
        with contextlib.closing(host), contextlib.suppress(subprocess.TimeoutExpired):
            host.end()

    def _peak(self, process):
        kind = process.name.partition('-')[0]
        self.peaks[kind] = max(self.peaks[kind], peakMemory(process.pid))

    def url(self):
        """Return the URL of the bench's service at a front end, which runs until hosts are asked for."""
        if self._frontend is None:
            for host in self._hosts:
                self._stop(host)
            self._hosts.clear()
            if self.embedded:
                self.database.close()
            self._frontend = self._process('serve' if self.embedded else 'frontend', 'frontend', 'info')
            self._address = self._await([self._frontend], 'listening on ')
        return self._address + '/'.join(self.database.path)

    def _stopFrontend(self):
        frontend, self._frontend = self._frontend, None
        if frontend is not None:
            self._stop(frontend)

    def stop(self):
        """Stop hosts and frontend."""
        self._stopFrontend()
        while self._hosts:
            self._stop(self._hosts.pop())
        if self.server is not None and self.server.pid:
            self.peaks['server'] = peakMemory(self.server.pid)
        self.peaks['bench'] = peakMemory(os.getpid())

    @contextlib.contextmanager
    def clients(self, count):
        """Give a list of so many client processes."""
        self._clients = clients = [Client() for _ in range(count)]
        try:
            yield clients
        finally:
            self._clients = []
            for client in clients:
                client.close()

    def order(self, clients, orders):
        """Let each client carry out its order, all from the same moment on.

        Return the seconds from the first beginning to the last end, the list of the answers, and the `Cost`.
        """
        for client, order in zip(clients, orders):
            client.send(json.dumps(order))
        for client in clients:
            client.answer()
        with self.cost() as cost:
            for client in clients:
                client.send('go')
            answers = [client.answer() for client in clients]
        return max(each['ended'] for each in answers) - min(each['began'] for each in answers), answers, cost

    def addOrder(self, jobs):
        """Return the order to add jobs."""
        return {'do': 'add', 'configuration': self._configurationPath, 'path': self.database.path, 'jobs': jobs}

    def conflicts(self):
        """Return how often the hosts that run or have run have repeated something because of the database."""
        return self._directory.repeated([OWN] if self.embedded else self._names)

    def hostTimes(self):
        """Return the seconds of processor time that the hosts have taken until now, summed up."""
        times = self.processorTimes()
        return times.get('this process' if self.embedded else 'hosts', 0.0)


@contextlib.contextmanager
def stage(settings, configurationPath=None, server=None):
    """Give a `Stage`; when it is left, all that it has made in the database is removed.

    settings -- `Settings`.
    configurationPath -- of the configuration file whose database is to be used; default: a temporary one.
    server -- which server a temporary database has, 'zeo' or 'postgresql'; None for one that is embedded.

    Raise `ConfigurationError` when a configured database is none that can be measured.
    """
    with contextlib.ExitStack() as closing:
        temporary = None
        if configurationPath is not None:
            storage = load(configurationPath).database.config.storage
            text, title, embedded = databaseText(configurationPath), describeStorage(storage), isEmbedded(storage)
        elif server is not None:
            title, run = SERVERS[server]
            try:
                temporary = closing.enter_context(run())
            except AssertionError as error:             # it is not installed, or does not start
                raise BenchError(str(error)) from None
            text, title, embedded = temporary.config, f'{title}, temporary', False
        else:
            directory = closing.enter_context(tempfile.TemporaryDirectory(prefix=FOLDER))
            text, title, embedded = embeddedDatabase(directory), 'FileStorage, temporary', True
        yield closing.enter_context(Stage(settings, text, title, embedded, temporary))
