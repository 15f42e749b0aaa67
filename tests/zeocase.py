"""A service on a ZEO server, and a client of its own that hears of all commits."""
# SPDX-License-Identifier: ZPL-2.1
import threading
import time
import unittest

import transaction
from zope.component import testing

from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.service import install
from lovely.remotetask.testing import temporaryZEO
from waits import PATIENCE


class ZEOCase(unittest.TestCase):

    def setUp(self):
        self.addCleanup(testing.tearDown)
        self.zeo = self.enterContext(temporaryZEO())
        self.db = self.zeo.database()
        self.addCleanup(self.db.close)
        install(self.db)
        self.manager = transaction.TransactionManager()
        other = self.zeo.database()         # a client of its own, which is told of all that the processors commit
        self.addCleanup(other.close)
        self.connection = other.open(self.manager)
        self.addCleanup(self.connection.close)
        self.addCleanup(self.manager.abort)
        self.service = self.connection.root()['Application']['TaskService']
        self.wakeup = threading.Event()
        notifierOf(other).subscribe(self.wakeup)

    def until(self, condition):
        """Return the condition's value as soon as it is true, looking after each commit."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.wakeup.clear()
            self.manager.begin()
            if value := condition():
                return value
            self.wakeup.wait(max(0, end - time.monotonic()))
        self.fail('waited in vain')

    def commit(self, function):
        """Call a function with the service, and commit that; again if a host has written the same."""
        for attempt in self.manager.attempts(10):
            with attempt:
                result = function(self.service)
        return result

    def start(self, factory, name, **arguments):
        processor = factory(self.db, ('TaskService',), name=name, **{'waitTime': 30.0, **arguments})
        processor.start()
        self.addCleanup(processor.stop, PATIENCE)
        return processor
