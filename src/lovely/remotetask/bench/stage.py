"""Where it is measured: the database, a service of its own in it, and the processes around them."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import json
import logging
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from types import MappingProxyType

import transaction
from BTrees.IOBTree import IOBTree
from persistent.mapping import PersistentMapping
from ZEO.ClientStorage import ClientStorage
from ZODB.utils import p64
from ZODB.utils import u64
from zope.site import LocalSiteManager
from zope.site.folder import Folder

from lovely.remotetask.bench.client import addJobs
from lovely.remotetask.bench.tasks import BOARD
from lovely.remotetask.config.settings import describeStorage
from lovely.remotetask.config.settings import load
from lovely.remotetask.config.zcml import loadSite
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.opening import Database
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import atPath
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import install
from lovely.remotetask.storage.queue import ReadyQueue
from lovely.remotetask.testing import PATIENCE
from lovely.remotetask.testing import Process
from lovely.remotetask.testing import temporaryZEO


#: Jobs that are added in one transaction, by a bulk add.
BATCH = 500

#: Threads of a processing host.
THREADS = 4

#: Seconds between two looks at a database that says when something was committed, and at one that does not.
LOOK, POLL = 0.5, 0.005

#: Lines of a log that are shown when its process has died.
SHOWN = 20

#: The name of the bench's service in its folder, and how those folders begin.
SERVICE, FOLDER = 'bench', 'remotetask-bench-'

# What a host logs when it repeats something because of the database.
_REPEATED = re.compile('DEBUG (processing host .*|job [0-9]+ is repeated): ')

_SITE = """\
<configure xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">
  <include package="lovely.remotetask" />
  <remotetask:task name="bench-noop" handler="lovely.remotetask.bench.tasks.noop" />
  <remotetask:task name="bench-sleep" handler="lovely.remotetask.bench.tasks.sleep" />
  <remotetask:task name="bench-write" handler="lovely.remotetask.bench.tasks.write" />
</configure>
"""

_CONFIGURATION = """\
{database}
site-definition {directory}/site.zcml
<frontend>
  address 127.0.0.1:0
</frontend>
<processor>
  name {name}
  threads {threads}
</processor>
<product-config lovely.remotetask>
  autostart {folder}@{service}
</product-config>
<eventlog>
  level info
  <logfile>
    path {directory}/{name}.log
    format %(levelname)s %(message)s
  </logfile>
</eventlog>
<logger>
  name lovely.remotetask
  level {level}
  propagate no
  <logfile>
    path {directory}/{name}.log
    format %(levelname)s %(message)s
  </logfile>
</logger>
"""

_EMBEDDED = """\
<zodb>
  <filestorage>
    path {directory}/Data.fs
    blob-dir {directory}/blobs
  </filestorage>
</zodb>
"""


class BenchError(RemoteTaskError):
    """It cannot be measured.  `log` is the end of what the process has logged that is to blame, or ''."""

    def __init__(self, message, log=''):
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Settings:
    """What is to be measured, and how much of it."""

    jobs: int = 5000
    clients: int = 8
    #: Numbers of processing hosts.
    hosts: tuple = (1, 2)
    #: Bytes of text in each input, and so in each result.
    payload: int = 0
    #: Seconds that a job takes where jobs per second are measured.
    seconds: float = 0.0
    #: Jobs that wait behind those that are measured.
    behind: int = 0
    #: How often each is measured.
    repeat: int = 3

    @property
    def some(self):
        """A tenth of the jobs, for what takes longer with each; 20 at least."""
        return max(20, self.jobs // 10)

    @property
    def job(self):
        """The pair of the name of a task and an input that stands for all jobs."""
        input = {'seconds': self.seconds} if self.seconds else {}
        if self.payload:
            input['payload'] = 'x' * self.payload
        return 'bench-sleep' if self.seconds else 'bench-noop', input

    def rounds(self):
        """Return what to repeat a measurement over."""
        return range(self.repeat)


class Cost:
    """What was spent and stored while a block ran; see `Stage.cost`.

    times -- kind of process -> seconds of processor time, summed up over all of its kind.
    records, size -- how many records were stored, and their bytes; None for a storage that does not tell.
    """

    times, records, size = MappingProxyType({}), None, None


class Client:
    """A process of `lovely.remotetask.bench.client`."""

    def __init__(self):
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(os.path.abspath, sys.path)))
        # Not of the terminal's group: a Ctrl-C is for us, who then end it.
        self._popen = subprocess.Popen([sys.executable, '-m', 'lovely.remotetask.bench.client'], text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       env=environment, start_new_session=True)
        self.pid = self._popen.pid

    def send(self, text):
        """Send a line."""
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.write(text + '\n')
            self._popen.stdin.flush()

    def answer(self):
        """Return the next answer, a dict.  Raise `BenchError` when there is none, or when it tells an error."""
        line = self._popen.stdout.readline()
        if not line:
            raise BenchError('a client process has ended', _end(self._popen.stderr.read()))
        answer = json.loads(line)
        if 'error' in answer:
            raise BenchError(f'a client met {answer["error"]}')
        return answer

    def close(self):
        """End it."""
        self._popen.kill()
        self._popen.wait()
        for pipe in self._popen.stdin, self._popen.stdout, self._popen.stderr:
            with contextlib.suppress(OSError):
                pipe.close()


class Stage:
    """A service of its own in a database, with as many hosts, clients and frontends as are asked for.

    Hosts, clients and frontends are processes of their own.  A database that one process alone can open is `embedded`:
    there the hosts and the clients are threads of this process, and the frontend is `remotetask serve`, for which this
    process lets go of the database.

    settings -- the `Settings`.
    title -- says what the database is.
    """

    def __init__(self, settings, database, title, embedded, server=None):
        """`database` is the text of a `<zodb>` section; `server` the `TemporaryZEO` that belongs to it, or None."""
        self.settings, self.title, self.embedded, self.server = settings, title, embedded, server
        self.folder = FOLDER + secrets.token_hex(4)
        self.path = (self.folder, SERVICE)
        self._text, self._hosts, self._frontend, self._clients = database, [], None, []
        self.peaks = collections.defaultdict(int)       # kind of process -> most bytes of memory that one had
        self._opened, self._names = None, set()         # the names of all hosts that have run

    def __enter__(self):
        with contextlib.ExitStack() as closing:
            # Resolved: a path that is not would not be the same for all.
            self._directory = os.path.realpath(closing.enter_context(
                tempfile.TemporaryDirectory(prefix=FOLDER, ignore_cleanup_errors=True)))
            with open(os.path.join(self._directory, 'site.zcml'), 'w') as file:
                file.write(_SITE)
            self._configurationPath = self.configure('bench', 'info')
            self._configuration = load(self._configurationPath)
            loadSite(self._configuration.siteDefinition)
            closing.callback(self._setUpLog())
            self._open()
            closing.callback(self._close)
            install(self.db)
            closing.callback(self._remove)
            self._add()
            closing.callback(self.stop)
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *exception):
        self._closing.close()

    def _setUpLog(self):
        """Log to a file in the bench's directory what happens in this process; return how to end that."""
        logger, handler = logging.getLogger('lovely.remotetask'), logging.FileHandler(self._log('bench'))
        before = logger.level, logger.propagate
        handler.setFormatter(logging.Formatter('%(levelname)s %(message)s'))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False

        def end():
            logger.removeHandler(handler)
            handler.close()
            logger.level, logger.propagate = before
        return end

    def configure(self, name, level='debug'):
        """Write a configuration file for a process, and return its path."""
        path = os.path.join(self._directory, f'{name}.conf')
        with open(path, 'w') as file:
            file.write(_CONFIGURATION.format(database=self._text, directory=self._directory.replace('$', '$$'),
                                             name=name, threads=THREADS, folder=self.folder, service=SERVICE,
                                             level=level))
        return path

    def _log(self, name):
        return os.path.join(self._directory, f'{name}.log')

    # The database

    @property
    def db(self):
        """The `ZODB.DB`."""
        return self._opened.db

    @property
    def tells(self):
        """Whether the database says when somebody else has committed."""
        return self.embedded or isinstance(self.db.storage, ClientStorage)

    def _open(self):
        self._opened = Database(self._configuration.database.open)
        self.db.setPoolSize(max(self.db.getPoolSize(), self.settings.clients + 10))

    def _close(self):
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

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

    def _add(self):
        def add(root):
            site = root[self.folder] = Folder()
            site.setSiteManager(LocalSiteManager(site))
            service = site[SERVICE] = TaskService()
            site.getSiteManager().registerUtility(service, ITaskService, SERVICE)
            setattr(site, BOARD, IOBTree())
        self._atRoot(add)

    def _remove(self):
        """Remove the bench's folder; packing the database gives its space back."""
        if self._opened is None:
            self._open()
        if not self._atRoot(lambda root: self.folder in root):
            return
        # The jobs first, a part at a time: it is only their trees that are written.
        for number in range(self.change(lambda service: len(service.shards))):
            self.change(lambda service: service.shards[number].pages.clear())  # noqa: B023
        self._atRoot(lambda root: root.__delitem__(self.folder))

    def board(self, count):
        """Have objects on the board for the numbers up to `count`, that one included."""
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
        left = self.settings.behind
        while left > 0:
            self.add([self.settings.job] * min(left, 10 * BATCH))
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
        """Have the hosts claim nothing, and wait until they have nothing claimed."""
        self.change(lambda service: service.pause())
        self.waitFor(lambda service: not any(ledger.claimed for ledger in service.ledgers.values()))

    def resume(self):
        """Have the hosts go on."""
        self.change(lambda service: service.resume())

    # What it costs

    @contextlib.contextmanager
    def cost(self):
        """Give a `Cost`, which has its values after the block."""
        cost, last = Cost(), self._lastTransaction()
        before = self.processorTimes()
        yield cost
        cost.times = {kind: seconds - before[kind] for kind, seconds in self.processorTimes().items()}
        if last is not None:
            sizes = [len(record.data or b'') for each in self._transactionsAfter(last) for record in each]
            cost.records, cost.size = len(sizes), sum(sizes)

    def processorTimes(self):
        """Return kind of process -> seconds of processor time until now, summed up; {} where the system cannot tell.

        This process counts when no other does the work.
        """
        kinds = {'hosts': [host for host in self._hosts if isinstance(host, Process)], 'clients': self._clients,
                 'frontend': [self._frontend] if self._frontend is not None else []}
        pids = {kind: [process.pid for process in processes] for kind, processes in kinds.items() if processes}
        pids = pids or {'this process': [os.getpid()]}
        if self.server is not None:
            pids['server'] = [self.server.pid]
        return {kind: sum(map(processorTime, pids[kind])) for kind in pids} if sys.platform == 'linux' else {}

    def _lastTransaction(self):
        """Return the tid of the last transaction; None if the storage does not tell, or this process has let go of it.

        A storage without history would tell of the newest records only.
        """
        if self._opened is None or not self.db.supportsUndo():
            return None
        last = self.db.lastTransaction()        # that this client has heard of; the server knows better
        return max((each.tid for each in self._transactionsAfter(last)), default=last)

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

        Return what the function returned.  Raise `BenchError` when nothing happens, or when a process has died.
        """
        timeout = 60 + self.settings.seconds if timeout is None else timeout
        wait = LOOK if self.tells else POLL
        manager = transaction.TransactionManager(explicit=True)
        seen, since = None, time.monotonic()
        with self.wakeup() as wakeup, contextlib.closing(self.db.open(manager)) as connection:
            while True:
                wakeup.clear()
                with manager:
                    found = function(atPath(connection.root()[ROOT_NAME], self.path))
                if found:
                    return found
                tid = self.db.lastTransaction()
                if tid != seen:
                    seen, since = tid, time.monotonic()
                elif time.monotonic() - since > timeout:
                    raise BenchError(f'nothing has happened for {timeout:.0f} seconds')
                if not wakeup.wait(wait):
                    self.check()
                if atLeast:
                    time.sleep(atLeast)

    def check(self):
        """Raise `BenchError` when a process has ended that should not."""
        for process in (*self._hosts, self._frontend):
            if isinstance(process, Process) and process.popen.poll() is not None:
                raise BenchError(f'{process.name} has ended with exit code {process.popen.returncode}',
                                 _end(''.join(process.said)) + _end(_read(self._log(process.name))))

    @staticmethod
    def done(service):
        """Count the jobs that the hosts have completed; raise `BenchError` if others ended otherwise."""
        tallies = [ledger.tally for ledger in service.ledgers.values()]
        if any(tally[status] for tally in tallies for status in FINAL if status != COMPLETED):
            raise BenchError('jobs have ended in errors')
        return sum(tally[COMPLETED] for tally in tallies)

    # Hosts, clients, frontends

    def hosts(self, count):
        """See to it that so many processing hosts run, and none else."""
        self._stopFrontend()
        if self._opened is None:
            self._open()
        while len(self._hosts) > count:
            self._stop(self._hosts.pop())
        new = []
        while len(self._hosts) < count:
            name = f'host-{len(self._hosts) + 1}'
            if self.embedded:
                host = MultiProcessor(self.db, self.path, maxThreads=THREADS, name=name)
                host.start()
            else:
                host = self._process('processor', name)
                self._names.add(name)
                new.append(host)
            self._hosts.append(host)
        self._await(new, 'processing as ')

    def _process(self, command, name, level='debug'):
        process = Process(['-m', 'lovely.remotetask.cli.main', '-C', self.configure(name, level), command], os.getcwd())
        process.name = name
        return process

    def _await(self, processes, beginning):
        for process in processes:
            try:
                said = process.waitFor(beginning)
            except AssertionError:
                raise BenchError(f'{process.name} does not start', _end(''.join(process.said))
                                 + _end(_read(self._log(process.name)))) from None
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
        """Return the URL of the bench's service at a frontend, which runs until hosts are asked for."""
        if self._frontend is None:
            for host in self._hosts:
                self._stop(host)
            self._hosts.clear()
            if self.embedded:
                self._close()
            self._frontend = self._process('serve' if self.embedded else 'frontend', 'frontend', 'info')
            self._address = self._await([self._frontend], 'listening on ')
        return self._address + '/'.join(self.path)

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
        """Have each client carry out its order, all from the same moment on.

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
        return {'do': 'add', 'configuration': self._configurationPath, 'path': self.path, 'jobs': jobs}

    def conflicts(self):
        """Return how often the hosts that run or have run have repeated something because of the database."""
        names = ['bench'] if self.embedded else self._names
        return sum(bool(_REPEATED.match(line)) for name in names for line in _read(self._log(name)).splitlines())

    def hostTimes(self):
        """Return the seconds of processor time that the hosts have taken until now, summed up."""
        times = self.processorTimes()
        return times.get('this process' if self.embedded else 'hosts', 0.0)


@contextlib.contextmanager
def stage(settings, configurationPath=None, zeo=False):
    """Give a `Stage`; when it is left, all that it has made in the database is removed.

    settings -- `Settings`.
    configurationPath -- of the configuration file whose database is to be used; default: a temporary one.
    zeo -- whether the temporary database has a server (ZEO), or else is embedded.

    Raise `ConfigurationError` when a configured database is none that can be measured.
    """
    with contextlib.ExitStack() as closing:
        server = None
        if configurationPath is not None:
            storage = load(configurationPath).database.config.storage
            text, title, embedded = _databaseText(configurationPath), describeStorage(storage), _isEmbedded(storage)
        elif zeo:
            server = closing.enter_context(temporaryZEO())
            text, title, embedded = server.config, 'ZEO, temporary', False
        else:
            directory = closing.enter_context(tempfile.TemporaryDirectory(prefix=FOLDER))
            text = _EMBEDDED.format(directory=os.path.realpath(directory).replace('$', '$$'))
            title, embedded = 'FileStorage, temporary', True
        yield closing.enter_context(Stage(settings, text, title, embedded, server))


def _databaseText(path):
    """Return the database's section of a configuration file, with the lines that it may need; '' for the default."""
    with open(path, encoding='utf-8-sig') as file:
        content = file.read()
    section = re.search(r'^[ \t]*<zodb\b.*?^[ \t]*</zodb>', content, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    lines = re.findall(r'^[ \t]*%(?:import|define)\b.*$', content, re.MULTILINE)
    if section is None and re.search(r'^[ \t]*%include\b', content, re.MULTILINE):
        raise ConfigurationError(f'{path}: the section <zodb> has to be in this file, not in one that it includes')
    return '\n'.join([*lines, section[0] if section else ''])


def _isEmbedded(storage):
    section = storage.config
    kind = section.getSectionType()
    if kind in ('mappingstorage', 'demostorage'):
        raise ConfigurationError(f'a database in memory ({kind}) cannot be measured')
    return _isEmbedded(section.base) if kind == 'blobstorage' else kind == 'filestorage'


# What Linux knows of a process

def peakMemory(pid):
    """Return the most bytes of memory that a process has had; 0 where there is no /proc."""
    match = re.search(r'^VmHWM:\s*([0-9]+) kB', _read(f'/proc/{pid}/status'), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def processorTime(pid):
    """Return the seconds of processor time that a process has taken, its ended threads included; 0 if it has ended."""
    # Its clock, as clock_getcpuclockid() in C gives it: /proc/PID/stat counts in hundredths of a second only.
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:                             # the process has ended
        return 0.0


def _read(path):
    try:
        with open(path, errors='replace') as file:
            return file.read()
    except OSError:
        return ''


def _end(text):
    return ''.join(line + '\n' for line in text.splitlines()[-SHOWN:])
