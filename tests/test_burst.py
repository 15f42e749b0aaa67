"""Processing until nothing is left to do, while a service is removed."""
# SPDX-License-Identifier: ZPL-2.1
import queue
import unittest
from types import SimpleNamespace

from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage

from lovely.remotetask.cli.burst import Burst
from lovely.remotetask.service import install
from waits import PATIENCE


class LateProcessor:
    """A processor that sees only after a while that its service was removed."""

    running, servicePath, name = True, ('Films',), 'host'

    def __init__(self):
        self.looks = iter(range(4))

    @property
    def isServiceRemoved(self):
        return next(self.looks, None) is None


class TestRemovedService(unittest.TestCase):

    def test_it_ends_nevertheless(self):
        db = DB(MappingStorage())
        self.addCleanup(db.close)
        install(db)
        ends = queue.SimpleQueue()
        burst = Burst(db, [LateProcessor()], ends.put)
        burst.start()
        self.assertIsNone(ends.get(timeout=PATIENCE))
        self.assertEqual(burst.failures, 0)


class TestDamage(unittest.TestCase):

    def test_what_cannot_be_looked_at_ends_the_process(self):
        db = DB(MappingStorage())
        self.addCleanup(db.close)
        install(db)
        with db.transaction() as connection:
            connection.root()['Application']['TaskService'].ledgers = None
        ends = queue.SimpleQueue()
        processor = SimpleNamespace(running=True, isServiceRemoved=False, servicePath=('TaskService',), name='host')
        with self.assertLogs('lovely.remotetask', 'ERROR'):
            Burst(db, [processor], ends.put).start()
            self.assertIsInstance(ends.get(timeout=PATIENCE), TypeError)
