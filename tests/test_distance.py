"""Processing hosts far away from their database: how often they wait for it, and that a bad network is no death."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import io
import os
import tempfile
import threading
import time
import unittest

from ZEO.ClientStorage import ClientStorage
from ZODB.DB import DB
from zope.component import provideUtility
from zope.component import testing

from deployment import PATIENCE
from deployment import configurationOf
from deployment import siteOf
from lovely.remotetask import files
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.opening import Database
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import DEFAULT_SERVICE
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import Process
from lovely.remotetask.testing import TemporaryZEO
from lovely.remotetask.testing import temporaryZEO
from machines import ImpossibleHere
from machines import network


#: Loads of single records that a host needs to start, at the most; without preloading it would be about ninety.
STARTING = 25

#: Seconds of a round trip, and the share of packets that are lost.
FAR, LOSS = 0.1, 0.02

#: Seconds: a heartbeat is due three times in it.
LEASE = 6

#: Bytes of a file.
FILM = 500_000

#: Jobs, and seconds in which one thread runs them; without preloading it took about three times as long.
JOBS, ENOUGH = 100, 15

TASKS = """\
def short(service, jobid, input):
    return input

def read(service, jobid, input):
    return len(input['file'].open().read())
"""


class CountingStorage(ClientStorage):
    """Notes the records that it asks the server for one by one, while somebody waits."""

    def __init__(self, *arguments, **options):
        self._asked, self.waits = set(), []
        super().__init__(*arguments, **options)

    def prefetch(self, oids, tid):
        """See `ClientStorage`."""
        oids = list(oids)
        self._asked.update(oids)
        super().prefetch(oids, tid)

    def loadBefore(self, oid, tid):
        """See `ClientStorage`."""
        if oid not in self._asked and self._cache.loadBefore(oid, tid) is None:
            self.waits.append(oid)
        return super().loadBefore(oid, tid)


class DistanceCase(unittest.TestCase):
    """What an application does with a service."""

    level = 2

    def openApplication(self, db):
        """Use this database for the methods below."""
        self.db, self.told = db, threading.Event()
        notifierOf(db).subscribe(self.told)

    def add(self, task, *inputs, **options):
        """Add jobs; return their ids."""
        with self.db.transaction() as connection:
            service = connection.root()[ROOT_NAME][DEFAULT_SERVICE]
            return [service.add(task, input, **options) for input in inputs]

    def wait(self, jobids):
        """Wait until jobs are completed."""
        while True:
            self.told.clear()
            with self.db.transaction() as connection:
                service = connection.root()[ROOT_NAME][DEFAULT_SERVICE]
                statuses = {service.getStatus(jobid) for jobid in jobids}
            if statuses == {COMPLETED}:
                return
            self.assertTrue(self.told.wait(PATIENCE), statuses)


class TestRoundTrips(DistanceCase):

    def setUp(self):
        self.server = self.enterContext(temporaryZEO())
        self.openApplication(self.server.database())
        install(self.db)
        self.addCleanup(testing.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='short')
        self.storages = []
        database = Database(self.open)
        self.addCleanup(database.close)
        self.processor = MultiProcessor(database.db, [DEFAULT_SERVICE], maxThreads=1, taskClient=database.taskClient)
        self.processor.start()
        self.addCleanup(self.processor.stop, PATIENCE)

    def open(self):
        self.storages.append(CountingStorage(self.server.address, wait_timeout=PATIENCE, shared_blob_dir=True,
                                             blob_dir=os.path.join(self.server.directory, 'blobs')))
        return DB(self.storages[-1])

    def test_a_host_that_starts_asks_for_all_that_it_needs_at_once(self):
        self.wait(self.add('short', 1))
        for storage in self.storages:
            self.assertLess(len(storage.waits), STARTING)

    def test_a_lone_job_needs_no_load_of_its_own(self):
        self.wait(self.add('short', 1))
        for number in range(20):                # so many need more than one page
            for storage in self.storages:
                storage.waits.clear()
                storage._asked.clear()
            self.wait(self.add('short', number))
            # What the application adds is in one or two records, which come together.
            self.assertEqual([len(storage.waits) for storage in self.storages], [0, 0])


class FarZEO(TemporaryZEO):
    """A database server on a machine."""

    def __init__(self, directory, machine):
        super().__init__(directory)
        self.address = machine.address, 8100


class TestBadNetwork(DistanceCase):

    def setUp(self):
        self.network, near, far = network(self, 'near', 'far')
        self.directory = os.path.realpath(self.enterContext(tempfile.TemporaryDirectory()))
        self.server = self.enterContext(contextlib.closing(FarZEO(self.directory, near)))
        near.run(self.server.start)
        self.openApplication(near.run(self.server.database))
        install(self.db)
        self.addCleanup(testing.tearDown)
        for name in 'short', 'read':
            provideUtility(SimpleTask(lambda input: input), name=name)
        self.write('tasks.py', TASKS)
        self.write('site.zcml', siteOf({'short': 'short', 'read': 'read'}))
        try:
            self.network.separate(near, far, FAR, LOSS)
        except ImpossibleHere as reason:
            self.skipTest(str(reason))
        self.enterContext(self.assertNoLogs('lovely.remotetask', 'WARNING'))
        watcher = MultiProcessor(self.db, [DEFAULT_SERVICE], name='near', lease=LEASE, tasks=['other'])
        watcher.start()
        self.addCleanup(watcher.stop, PATIENCE)
        self.host = self.start(far)

    def write(self, name, text):
        """Write a file; return its path."""
        path = os.path.join(self.directory, name)
        with open(path, 'w') as file:
            file.write(text)
        return path

    def start(self, machine):
        """Start a host on a machine; return its process when it works."""
        config = self.server.config.replace('shared-blob-dir yes', 'shared-blob-dir no').replace('/blobs', '/far')
        text = configurationOf(self.directory, config, 'far', '', f'threads 1\nlease {LEASE}s')
        process = machine.run(Process, ['-m', 'lovely.remotetask', '-C', self.write('far.conf', text), 'processor'],
                              self.directory)
        self.addCleanup(process.close)
        process.waitFor('ready')
        return process

    def test_a_host_behind_it_works_and_is_never_taken_for_dead(self):
        ids = self.add('short', *range(JOBS))
        began = time.monotonic()
        self.wait(ids)
        self.assertLess(time.monotonic() - began, ENOUGH)
        film = files.File(io.BytesIO(os.urandom(FILM)))
        self.wait(self.add('read', {'file': film}))
        self.wait(self.add('short', 1))
        with self.db.transaction() as connection:
            service = connection.root()[ROOT_NAME][DEFAULT_SERVICE]
            self.assertEqual({service.jobs[jobid].run for jobid in ids}, {0})
        self.assertNotIn('WARNING', ''.join(self.host.said))


if __name__ == '__main__':
    unittest.main()
