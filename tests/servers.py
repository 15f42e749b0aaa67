"""A server that many tests share, as a layer: it starts once, which takes seconds."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import time
import unittest

from lovely.remotetask.testing import temporaryPostgreSQL


#: Seconds after which something that should have happened long ago makes a test fail.
PATIENCE = 30


class PostgreSQL:
    """The layer of tests with PostgreSQL."""

    @classmethod
    def setUp(cls):
        cls.stack = contextlib.ExitStack()
        cls.server = cls.stack.enter_context(temporaryPostgreSQL())

    @classmethod
    def tearDown(cls):
        cls.stack.close()


@contextlib.contextmanager
def emptyPostgreSQL():
    """Give the server of the layer, running, with an empty database."""
    # RelStorage logs each connection that it has lost.
    logger, handler = logging.getLogger('relstorage'), logging.NullHandler()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield PostgreSQL.server
    finally:
        PostgreSQL.server.start()
        PostgreSQL.server.clear()
        logger.removeHandler(handler)
        logger.propagate = True


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

    def waitUntil(self, condition, what):
        """Return the condition's value as soon as it is true."""
        until = time.monotonic() + PATIENCE
        while not (value := condition()):
            self.assertLess(time.monotonic(), until, f'in vain waited for {what}')
            time.sleep(0.01)
        return value
