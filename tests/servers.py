"""A server that many tests share, as a layer: it starts once, which takes seconds."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import os
import threading
import unittest
from unittest.mock import patch

from lovely.remotetask.testing import temporaryPostgreSQL
from lovely.remotetask.testing.postgresql import TemporaryPostgreSQL
from waits import PATIENCE
from waits import waitUntil


class PostgreSQL:
    """The layer of tests with PostgreSQL."""

    @classmethod
    def setUp(cls):
        cls.stack = contextlib.ExitStack()
        cls.server = cls.stack.enter_context(temporaryPostgreSQL())

    @classmethod
    def tearDown(cls):
        cls.stack.close()


class Standby(TemporaryPostgreSQL):
    """A server that has what another one has, and can take its place.  What is committed there is here as well.

    primary -- the other server, running.
    """

    def __init__(self, primary):
        os.mkdir(directory := os.path.join(primary.directory, 'standby'))
        os.chmod(directory, 0o711)          # whatever the umask: the server is of another user
        super().__init__(directory)
        self._primary = primary

    @property
    def config(self):
        """Clients connect to one of both that can be written to."""
        return self._primary._configFor(f'{self._primary._server},{self._server}').replace(
            "user=", "target_session_attrs='read-write' user=")

    def _make(self):
        self._run('pg_basebackup', '-h', self._primary._server, '-U', 'remotetask', '-R', '-c', 'fast')

    def follow(self):
        """Start, and let the other one wait for this in each commit."""
        self.start()
        self._primary._execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._primary._execute('SELECT pg_reload_conf()')

    def promote(self):
        """Take the place of the other one."""
        self._run('pg_ctl', '-w', 'promote')


@contextlib.contextmanager
def quietRelStorage():
    """Hide that RelStorage logs each connection that it has lost."""
    logger, handler = logging.getLogger('relstorage'), logging.NullHandler()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


@contextlib.contextmanager
def replicatedPostgreSQL():
    """Give a server with a standby, as `server.standby`."""
    with quietRelStorage(), temporaryPostgreSQL() as server, contextlib.closing(Standby(server)) as server.standby:
        server.standby.follow()
        yield server


@contextlib.contextmanager
def emptyPostgreSQL():
    """Give the server of the layer, running, with an empty database."""
    with quietRelStorage():
        try:
            yield PostgreSQL.server
        finally:
            PostgreSQL.server.start()
            PostgreSQL.server.clear()


class PostgreSQLCase(unittest.TestCase):
    """Each test begins with an empty database."""

    layer = PostgreSQL

    def setUp(self):
        self.server = self.enterContext(emptyPostgreSQL())

    @property
    def faults(self):
        """The faults, by name."""
        return {'restart': self.server.restart, 'crash': lambda: self.server.restart('immediate'),
                'kill': lambda: self.server.killBackend(self.server.backends()[-1]),
                'terminate': self.server.terminateBackends}

    waitUntil = staticmethod(waitUntil)


def holdBack(case, db):
    """Keep a client of ZEO from hearing of commits until it pings its server, or the event that is returned is set.

    case -- the test.
    db -- the `ZODB.DB` of the client.
    """
    held, go, ping = threading.Event(), threading.Event(), db.storage.ping
    case.addCleanup(go.set)

    def hold():
        held.set()
        go.wait(PATIENCE)

    def letGo():
        go.set()
        return ping()
    case.enterContext(patch.object(db.storage, 'ping', letGo))
    db.storage._server.loop.call_soon_threadsafe(hold)
    case.assertTrue(held.wait(PATIENCE))
    return go
