"""A disk that is full: a real one, of a megabyte, with the database of a single process on it."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import logging
import os
import subprocess
import tempfile
import threading
import unittest

import transaction
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zope.component import provideUtility
from zope.component import testing
from zope.interface import Interface
from zope.interface import implementer

from lovely.remotetask.database.opening import Database
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import findService
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.xmlrpc.faults import DatabaseUnavailable
from lovely.remotetask.xmlrpc.gateway import Gateway
from waits import PATIENCE
from waits import waitUntil


#: Bytes on the disk.
SIZE = 1024 * 1024


@implementer(ITask)
class Count:
    """Counts in the database for the number in its input, and counts its runs."""

    inputSchema = outputSchema = Interface

    def __init__(self):
        self.runs = collections.Counter()
        self.go = threading.Event()             # until then a run does not go on

    def __call__(self, service, jobid, input):
        self.runs[input] += 1
        self.go.wait(PATIENCE)
        counts = service._p_jar.root()['counts']
        counts[input] = PersistentMapping(value=counts.get(input, {'value': 0})['value'] + 1, filling='x' * 6000)
        return input


class FullDiskTest(unittest.TestCase):

    level = 2

    def setUp(self):
        self.disk = self.enterContext(tempfile.TemporaryDirectory())
        mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={SIZE}', 'tmpfs', self.disk], text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if mounted.returncode:
            self.skipTest(f'a small disk cannot be mounted here, which needs root: {mounted.stdout}')
        self.addCleanup(subprocess.run, ['umount', '-l', self.disk], check=True)
        for name in 'lovely.remotetask', 'ZODB', 'txn':
            logger = logging.getLogger(name)
            logger.addHandler(handler := logging.NullHandler())
            self.addCleanup(logger.removeHandler, handler)
            logger.propagate = False
            self.addCleanup(setattr, logger, 'propagate', True)
        self.addCleanup(testing.tearDown)
        self.count = Count()
        provideUtility(self.count, ITask, name='count')
        provideUtility(SimpleTask(lambda input: self.plain.append(input)), name='plain')
        self.plain = []
        database = Database(lambda: DB(FileStorage(os.path.join(self.disk, 'Data.fs'))))
        self.addCleanup(database.close)
        self.db = database.db
        install(self.db)
        with self.db.transaction() as connection:
            connection.root()['counts'] = PersistentMapping()
        self.gateway = Gateway(self.db, lambda connection, path: findService(connection.root()[ROOT_NAME], path))
        self.gateway.start()
        self.addCleanup(lambda: self.assertTrue(self.gateway.stop(PATIENCE)))

    def fill(self):
        """Write to the disk until nothing more fits."""
        with open(os.path.join(self.disk, 'filling'), 'ab', buffering=0) as file:
            while True:
                try:
                    file.write(b'x' * 4096)
                except OSError:
                    return

    def empty(self):
        """Undo `fill`."""
        os.remove(os.path.join(self.disk, 'filling'))

    def call(self, function):
        """Have the front end's writer call a function of the service; return the result."""
        call = self.gateway.write('/', function)
        done = threading.Event()
        call.add_done_callback(lambda call: done.set())
        self.gateway.flush()
        self.assertTrue(done.wait(PATIENCE))
        return call.result()

    waitUntil = staticmethod(waitUntil)

    def look(self, function):
        manager = transaction.TransactionManager()
        connection = self.db.open(manager)
        try:
            return function(connection.root())
        finally:
            manager.abort()
            connection.close()

    def statuses(self):
        return self.look(lambda root: collections.Counter(
            job.status for job in findService(root[ROOT_NAME], '/').jobs.values()))

    def test_accepted_jobs_outlive_it(self):
        for number in range(20):
            self.call(lambda service: [service.add('count', number), service.add('plain', number)])
        processor = MultiProcessor(self.db, ('TaskService',), name='host', maxThreads=2)
        processor.start()
        self.addCleanup(lambda: self.assertTrue(processor.stop(PATIENCE)))
        self.waitUntil(lambda: self.count.runs, 'a run')
        self.fill()
        for _ in range(3):
            with self.assertRaises(DatabaseUnavailable):
                self.call(lambda service: service.add('plain', 'x' * 10000))
        self.count.go.set()
        self.waitUntil(lambda: max(self.count.runs.values()) > 2, 'commits that fail')
        self.assertNotIn('error', self.statuses())
        self.empty()
        self.waitUntil(lambda: self.statuses() == {'completed': 40}, f'the end of the jobs, {self.statuses()}')
        counts = self.look(lambda root: {number: count['value'] for number, count in root['counts'].items()})
        self.assertEqual(counts, dict.fromkeys(range(20), 1))
        self.assertEqual(sorted(set(self.plain)), list(range(20)))
        self.assertEqual(len(self.call(lambda service: [service.add('plain', 'after')])), 1)
        self.waitUntil(lambda: 'after' in self.plain, 'a job that was added afterwards')

    def test_nothing_stays_of_a_transaction_that_could_not_be_written(self):
        path = os.path.join(self.disk, 'Data.fs')
        with self.db.transaction() as connection:       # so that there is a temporary file that is large enough
            connection.root()['value'] = 'x' * 200_000
        self.fill()
        written, failures = 200_000, 0
        for length in range(200, 6000, 100):            # some fit on the disk, some into the buffer of the file
            try:
                with self.db.transaction() as connection:
                    connection.root()['value'] = 'x' * length
                written = length
            except OSError:
                failures += 1
            self.assertEqual(os.path.getsize(path), self.db.storage.getSize())
        self.assertGreater(failures, 0)
        self.empty()
        self.assertEqual(self.look(lambda root: len(root['value'])), written)
        with self.db.transaction() as connection:
            connection.root()['value'] = 'x'
        self.assertEqual(self.look(lambda root: root['value']), 'x')
        with contextlib.closing(FileStorage(path, read_only=True)) as storage, contextlib.closing(DB(storage)) as db:
            with db.transaction() as connection:
                self.assertEqual(connection.root()['value'], 'x')


if __name__ == '__main__':
    unittest.main()
