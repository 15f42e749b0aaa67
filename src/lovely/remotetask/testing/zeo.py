"""A database server (ZEO) in a process of its own."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import os
import signal
import subprocess
import tempfile
import time

from ZEO.ClientStorage import ClientStorage
from ZODB.DB import DB

from lovely.remotetask.testing.ports import freePort
from lovely.remotetask.testing.process import PATIENCE
from lovely.remotetask.testing.process import Process


#: Seconds before a port is tried again that was in use.
PAUSE = 0.1

#: Seconds for which a client waits for a server that is away, until it raises an error.
WAIT = 30.0

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
    wait-timeout {wait:.0f}
    blob-dir {directory}/blobs
    shared-blob-dir yes
  </clientstorage>
</zodb>
"""


class TemporaryZEO:
    """A database server in a process of its own; `temporaryZEO` makes one and cleans up behind it.

    address -- the pair of host and port, the same after a restart.
    directory -- the path of the one where its data is: `Data.fs`, and `blobs`, which clients share with it.
    program -- arguments of the interpreter: what is started the next time.
    """

    program = '-m', 'lovely.remotetask.runzeo'

    def __init__(self, directory):
        self.directory, self.address, self.process = directory, None, None
        self._storages = []

    @property
    def pid(self):
        """The id of the process; None while there is none."""
        return self.process and self.process.pid

    @property
    def pids(self):
        """The ids of all its processes, a list."""
        return [] if self.process is None else [self.process.pid]

    @property
    def size(self):
        """How large the file of its data is, in bytes; without blobs."""
        return os.path.getsize(os.path.join(self.directory, 'Data.fs'))

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
        options = {'wait_timeout': WAIT, 'blob_dir': os.path.join(self.directory, 'blobs'),
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
            process = Process([*self.program, '-C', file.name], self.directory)
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

    def hang(self):
        """Have the server do nothing, like one whose disk hangs, until `goOn`: its process is stopped."""
        self._signal(signal.SIGSTOP)

    def goOn(self):
        """End what `hang` has begun.  Harmless when there is no server."""
        self._signal(signal.SIGCONT)

    def _signal(self, number):
        if self.process is not None:
            self.process.popen.send_signal(number)

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
        return template.format(host=address[0], port=address[1], wait=WAIT,
                               directory=self.directory.replace('$', '$$'))     # a $ starts a substitution


def _freeAddress():
    """Return an address whose port is free now; it may be taken by the time it is used."""
    return '127.0.0.1', freePort()


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
