"""Processing until nothing is left to do, while a service is removed."""
# SPDX-License-Identifier: ZPL-2.1
import threading
import unittest

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
        finished = threading.Event()
        burst = Burst(db, [LateProcessor()], finished.set)
        burst.start()
        self.assertTrue(finished.wait(PATIENCE))
        self.assertEqual(burst.failures, 0)
