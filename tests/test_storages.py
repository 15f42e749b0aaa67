"""Storages that wrap another one, as zc.zlibstorage does: what needs the kind of the storage below finds it."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
import unittest
from unittest.mock import patch

from zc.zlibstorage import ZlibStorage
from ZODB.config import databaseFromString
from ZODB.DB import DB
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.tests.hexstorage import HexStorage
from zope.component import provideUtility
from zope.component import testing as componentTesting
from zope.interface import provider

from lovely.remotetask.application import getService
from lovely.remotetask.database import opening
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.opening import Database
from lovely.remotetask.database.opening import closeDatabase
from lovely.remotetask.database.storages import baseOf
from lovely.remotetask.database.storages import clientOf
from lovely.remotetask.database.storages import fileOf
from lovely.remotetask.database.storages import silenceOf
from lovely.remotetask.database.transactions import lastTransaction
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import TaskError
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.processor import SimpleProcessor
from lovely.remotetask.service import install
from lovely.remotetask.testing import temporaryZEO
from waits import PATIENCE


class Opaque:
    """A wrapper that says nothing of itself."""

    def __init__(self, storage):
        self._storage = storage

    def __getattr__(self, name):
        return getattr(self._storage, name)


class TestBase(unittest.TestCase):

    def setUp(self):
        self.directory = self.enterContext(tempfile.TemporaryDirectory())

    def open(self, storage):
        """Return a new `ZODB.DB`."""
        db = DB(storage)
        self.addCleanup(db.close)
        return db

    def file(self):
        return FileStorage(os.path.join(self.directory, 'Data.fs'))

    def test_wrappers(self):
        for wrap in (lambda base: base, ZlibStorage, lambda base: HexStorage(ZlibStorage(base)),
                     lambda base: DemoStorage(base=MappingStorage(), changes=ZlibStorage(base))):
            base = MappingStorage()
            db = self.open(wrap(base))
            with self.subTest(db.storage):
                self.assertIs(baseOf(db.storage), base)
                self.assertIsNone(silenceOf(db))

    def test_a_file_below_is_cleaned_up_and_asked_without_waiting(self):
        database = Database(lambda: DB(ZlibStorage(self.file())))
        self.addCleanup(database.close)
        base = fileOf(database.db)
        self.assertIsInstance(base, FileStorage)
        self.assertEqual(base._abort.__name__, 'abortAndForget')
        with database.db.transaction() as connection:
            connection.root()['x'] = 'x' * 1000
        self.assertEqual(lastTransaction(database.db), base.lastTransaction())
        self.assertFalse(database.taskClient.isSeparate)

    def test_storages_that_tell_nothing(self):
        sqlite = databaseFromString(f'%import relstorage\n<zodb>\n<relstorage>\n<sqlite3>\ndata-dir {self.directory}\n'
                                    f'</sqlite3>\n</relstorage>\n</zodb>')
        self.addCleanup(sqlite.close)
        for db, reason in ((self.open(Opaque(self.file())), 'test_storages.Opaque is neither a client of ZEO'),
                           (sqlite, 'of the databases of RelStorage only PostgreSQL tells of commits')):
            with self.subTest(reason):
                with self.assertLogs('lovely.remotetask', 'INFO') as logs:
                    Database(lambda: db)
                line, = logs.output
                self.assertIn(f'commits of other processes are noticed by looking every "wait-time", and a server that '
                              f'hangs is not noticed: {reason}', line)
                self.assertFalse(notifierOf(db).hearsOthers)

    def test_a_storage_that_takes_long_to_open(self):
        told, threads = threading.Event(), threading.active_count()

        def open():
            self.assertTrue(told.wait(PATIENCE))
            return self.open(MappingStorage())

        handler = logging.NullHandler()
        handler.handle = lambda record: told.set()
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs, \
                patch.object(opening, 'LONG_OPENING', 0):
            logging.getLogger('lovely.remotetask').addHandler(handler)
            self.addCleanup(logging.getLogger('lovely.remotetask').removeHandler, handler)
            Database(open)
        line, = logs.output
        self.assertIn('the database has not opened for 0 seconds', line)
        self.assertEqual(threading.active_count(), threads)

    def test_tasks_write_to_a_second_database(self):
        """What they write there, and the end of their job, are one transaction; a conflict there repeats the run."""
        self.addCleanup(componentTesting.tearDown)
        databases = {}
        db, second = (DB(MappingStorage(), database_name=name, databases=databases) for name in ('first', 'second'))
        for each in db, second:
            self.addCleanup(each.close)
        install(db)

        runs = []

        @provider(ITask)
        def sell(service, jobid, input):
            root = service._p_jar.get_connection('second').root()
            root['sold'] = root.get('sold', 0) + 1
            runs.append(input)
            if input == 'conflict' and runs.count(input) < 3:
                with second.transaction() as connection:
                    connection.root()['sold'] = 10 * runs.count(input)
            if input == 'fail':
                raise TaskError('out of stock')
            return root['sold']

        provideUtility(sell, ITask, name='sell')
        with db.transaction() as connection:
            service = getService(connection)
            jobids = [service.add('sell', input) for input in ('', 'fail', 'conflict')]
        processor = SimpleProcessor(db, ('TaskService',))
        while processor.processNext():
            pass
        with db.transaction() as connection:
            service = getService(connection)
            self.assertEqual([service.getResult(jobid) for jobid in jobids], [1, None, 21])
        with second.transaction() as connection:
            self.assertEqual(connection.root()['sold'], 21)
        self.assertEqual(runs.count('conflict'), 3)

    def test_a_storage_that_cannot_be_closed(self):
        db = self.open(MappingStorage())
        db.storage.close = lambda: 1 / 0
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            closeDatabase(db)
        self.assertIn('ZeroDivisionError', logs.output[0])
        del db.storage.close


class TestImports(unittest.TestCase):

    level = 2

    def test_who_has_no_PostgreSQL_pays_nothing(self):
        program = ('import contextlib, sys, threading\n'
                   'from ZODB.DB import DB\n'
                   'from lovely.remotetask.database.notifications import notifierOf\n'
                   'from lovely.remotetask.database.opening import Database\n'
                   'with contextlib.closing(Database(lambda: DB(None))) as database:\n'
                   '    notifierOf(database.db).subscribe(event := threading.Event())\n'
                   '    print(threading.active_count(), {"psycopg2", "relstorage"} & set(sys.modules))\n')
        done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
        self.assertEqual((done.stdout, done.stderr), ('1 set()\n', ''))


class TestWrappedClient(unittest.TestCase):
    """A client of ZEO below: `test_wakeup` has what hosts hear."""

    level = 2

    def setUp(self):
        self.zeo = self.enterContext(temporaryZEO())
        self.database = Database(lambda: DB(ZlibStorage(self.zeo.storage())))
        self.addCleanup(self.database.close)

    def test_it_is_watched_and_tasks_have_a_client_of_their_own(self):
        client = clientOf(self.database.db)
        self.assertTrue(self.database.taskClient.isSeparate)
        threads = [thread.name for thread in threading.enumerate()]
        self.assertEqual(threads.count('remotetask-watchdog'), 1)
        self.assertIsNot(client, self.database.db.storage)
        self.assertEqual(client._server.client.register.__name__, 'checkAndRegister')

    def test_a_client_without_a_directory_for_blobs_is_refused_and_closed(self):
        storage = self.zeo.storage(blob_dir=None, shared_blob_dir=False)
        with self.assertRaisesRegex(ConfigurationError, 'no directory for blobs.* add "blob-dir DIRECTORY" to <client'):
            Database(lambda: DB(ZlibStorage(storage)))
        self.assertFalse(storage.is_connected())

    def test_an_application_that_processes_without_such_a_directory_is_warned(self):
        install(self.database.db)
        lacking = DB(ZlibStorage(self.zeo.storage(blob_dir=None, shared_blob_dir=False)))
        self.addCleanup(lacking.close)

        def process(db):
            host = MultiProcessor(db, ('TaskService',), name='host')
            host.start()
            self.assertTrue(host.stop(PATIENCE))
        with self.assertLogs('lovely.remotetask', logging.WARNING) as caught:
            process(lacking)
        self.assertRegex(caught.output[0], 'processing host host: .* no directory for blobs')
        with self.assertNoLogs('lovely.remotetask', logging.WARNING):
            process(self.database.db)

    def test_what_was_written_is_compressed_and_read_by_others(self):
        with self.database.db.transaction() as connection:
            connection.root()['x'] = 'x' * 10_000
        with contextlib.closing(Database(lambda: DB(ZlibStorage(self.zeo.storage())))) as other:
            with other.db.transaction() as connection:
                self.assertEqual(connection.root()['x'], 'x' * 10_000)
        self.assertLess(len(clientOf(self.database.db).load(b'\0' * 8)[0]), 1000)

    def test_a_new_id_is_forgotten_after_a_crash_of_the_server(self):
        db, client, heard = self.database.db, clientOf(self.database.db), threading.Event()
        with db.transaction() as connection:
            connection.root()['x'] = 1
        client.new_oid()
        self.assertTrue(client._oids)
        notifierOf(db).subscribe(heard)
        self.zeo.kill()
        self.zeo.start()
        self.assertTrue(heard.wait(PATIENCE))
        self.assertEqual(client._oids, [])


if __name__ == '__main__':
    unittest.main()
