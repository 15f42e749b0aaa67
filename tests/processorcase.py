"""A database with a service, and the processing hosts that tests start on it."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import itertools
import logging
import tempfile
import threading
import unittest

import transaction
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.processing.cycle import Cycle
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from waits import PATIENCE


PATH = ('TaskService',)


def claimOne(host):
    """Make a host go on until it has claimed a job; return the claim."""
    for _ in range(3):              # a scheduler takes in a schedule, and calls it in a later turn
        claims = host.cycle.iterate(Work(want=1)).claims
        if claims:
            return claims[0]
    raise AssertionError('nothing was claimed')


def runClaim(host, claim):
    """Run a job as a thread of the host does, enter the report, and return it."""
    with contextlib.closing(host._worker()) as worker:
        report = worker.run(claim)
    host.cycle.iterate(Work([report]))
    return report


class ProcessorCase(unittest.TestCase):

    factory = MultiProcessor
    storageFactory = FileStorage

    def setUp(self):
        self.addCleanup(testing.tearDown)
        logging.getLogger('lovely.remotetask').addHandler(handler := logging.NullHandler())
        self.addCleanup(logging.getLogger('lovely.remotetask').removeHandler, handler)
        self.db = DB(self.storageFactory(self.enterContext(tempfile.TemporaryDirectory()) + '/Data.fs'))
        self.addCleanup(self.db.close)
        install(self.db)
        self.manager = transaction.TransactionManager()
        self.connection = self.db.open(self.manager)
        self.addCleanup(lambda: self.connection.close())
        self.addCleanup(self.manager.abort)
        self.service = self.connection.root()['Application']['TaskService']
        self.data = self.service.data = PersistentMapping()
        self.manager.commit()

    def provide(self, name, function, **attributes):
        task = SimpleTask(function)
        vars(task).update(attributes)
        provideUtility(task, name=name)

    def start(self, **arguments):
        processor = self.factory(self.db, PATH, **{'waitTime': 30.0, **arguments})
        processor.start()
        self.addCleanup(lambda: self.assertTrue(processor.stop(PATIENCE)))
        return processor

    def add(self, *arguments, **keywords):
        jobid = self.service.add(*arguments, **keywords)
        self.manager.commit()
        return jobid

    def statuses(self, *jobids, until=FINAL):
        """Wait until all jobs are in one of these statuses, woken by commits, and return their statuses."""
        wakeup = threading.Event()
        notifierOf(self.db).subscribe(wakeup)
        while True:
            self.manager.begin()
            found = [self.service.getStatus(jobid) for jobid in jobids]
            if set(found) <= set(until):
                return found
            self.assertTrue(wakeup.wait(PATIENCE), found)
            wakeup.clear()

    def left(self):
        """Return what is ready or claimed."""
        self.manager.begin()
        return list(self.service.suspects) + [jobid for shard in self.service.shards for jobid in shard.ready] + [
            jobid for ledger in self.service.ledgers.values() for jobid in ledger.claimed]


class HostCase(ProcessorCase):

    def attached(self, name, cores=8, **arguments):
        """Return a cycle that looks at the others in each turn, as on a machine of so many cores."""
        seconds = itertools.count(step=3)
        cycle = Cycle(self.db, PATH, name, monotonic=lambda: next(seconds), **arguments)
        cycle.owner['cores'] = cores
        self.addCleanup(cycle.close)
        cycle.attach()
        return cycle
