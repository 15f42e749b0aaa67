"""Private names of other libraries: where they are used, that the releases have them, what a lack of one does."""
# SPDX-License-Identifier: ZPL-2.1
import ast
import asyncio
import contextlib
import inspect
import pathlib
import tempfile
import threading
import unittest
import warnings
from xmlrpc.client import Unmarshaller
from xmlrpc.client import gzip_decode

import transaction
from ZConfig.loader import ConfigLoader
from ZEO.asyncio.client import Protocol
from ZEO.zconfig import ssl_config
from ZODB.blob import Blob
from ZODB.blob import rename_or_copy_blob
from ZODB.config import databaseFromString
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.utils import mktemp

import lovely.remotetask
from lovely.remotetask.common import internals
from lovely.remotetask.database.zeo import leaveIfSilent
from lovely.remotetask.testing import temporaryZEO
from waits import PATIENCE


PACKAGE = pathlib.Path(lovely.remotetask.__file__).parent

#: What the standard library and ZODB document though it begins with an underscore.
DOCUMENTED = {
    '_asdict', '_fields', '_replace',           # of a named tuple
    '_current_frames', '_exit',                 # of sys and of os
    '_dispatch',                                # of SimpleXMLRPCDispatcher, for those who derive from it
}

#: Modules of the standard library that a process imports which must start in no time; see `guardian`.
FAST = {'_signal', '_thread'}


def namesIn(tree):
    """Yield the attributes that a module uses, also those that it names in a call of getattr or the like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in (
                'getattr', 'setattr', 'hasattr', 'delattr', '_get') and isinstance(node.args[1], ast.Constant):
            yield node.args[1].value


def ownNames(tree):
    """Yield what a module defines, or sets on objects: such names are our own."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) \
                and isinstance(node.value, ast.Name) and node.value.id == 'self':
            yield node.attr


def isPrivate(name):
    return name.startswith('_') and not name.startswith(('__', '_p_', '_v_'))


def modulesIn(tree):
    """Yield the parts of the dotted names of what a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from alias.name.split('.')
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or '').split('.')
            yield from (alias.name for alias in node.names)


class TestPlaces(unittest.TestCase):

    def test_no_other_module_knows_one(self):
        trees = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob('*.py')}
        theirs = set(filter(isPrivate, namesIn(trees.pop('common/internals.py'))))
        own = {name for tree in trees.values() for name in ownNames(tree)}
        for name, tree in trees.items():
            with self.subTest(name):
                used = set(filter(isPrivate, namesIn(tree)))
                self.assertEqual(used - own - DOCUMENTED, set())
                self.assertEqual({each for each in modulesIn(tree) if isPrivate(each)} - FAST, set())
        # A name of theirs may be one of ours as well: then it is an attribute of what uses it.
        for name, tree in trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and node.attr in theirs:
                    with self.subTest(name, line=node.lineno):
                        self.assertIn(ast.unparse(node.value), ('self', 'job'))


class TestReleases(unittest.TestCase):
    """The installed releases have the names: no function of `internals` has to warn, and each gives what it says."""

    def setUp(self):
        self.addCleanup(internals._told.update, internals._told.copy())
        internals._told.clear()
        self.addCleanup(lambda: self.assertEqual(internals._told, set()))
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def open(self, storage):
        db = DB(storage)
        self.addCleanup(db.close)
        return db

    def fileStorage(self):
        return FileStorage(self.directory.name + '/Data.fs')

    def test_asyncio(self):
        self.assertTrue(hasattr(asyncio.SelectorEventLoop, '_make_ssl_transport'))      # `test_zeo_tls` uses it
        with contextlib.closing(internals.loopThatTells(None)) as loop:
            self.assertIsInstance(loop, asyncio.SelectorEventLoop)

    def test_transaction(self):
        manager = transaction.TransactionManager(explicit=True)
        with contextlib.closing(self.open(None).open(manager)) as connection:
            txn = manager.begin()
            self.assertEqual(list(internals.resourcesOf(txn)), [])
            self.assertFalse(internals.hasData(txn))
            txn.set_data(self, 'something')
            self.assertTrue(internals.hasData(txn))
            self.assertTrue(internals.isUnchanged(connection))
            connection.root()['changed'] = True
            self.assertEqual(list(internals.resourcesOf(txn)), [connection])
            self.assertFalse(internals.isUnchanged(connection))
            manager.abort()
            self.assertTrue(internals.isUnchanged(connection))

    def test_cache(self):
        with contextlib.closing(self.open(None).open()) as connection:
            before = internals.resizeCache(connection, 123456)
            self.assertEqual(internals.resizeCache(connection, before), 123456)
            self.assertEqual(internals.resizeCache(connection, before), before)

    def test_file_storage(self):
        storage = self.fileStorage()
        db = self.open(storage)
        self.assertEqual(internals.lastWritten(storage), db.lastTransaction())
        with db.transaction() as connection:
            connection.root()['changed'] = True
        self.assertEqual(internals.lastWritten(storage), db.lastTransaction())
        internals.cleanUpFailures(storage)
        self.assertEqual(storage._abort.__name__, 'abortAndForget')     # what `tpc_abort` calls, see `test_full_disk`
        self.assertIn('self._abort()', inspect.getsource(type(storage).tpc_abort))

    def test_RelStorage(self):
        db = databaseFromString(f'%import relstorage\n<zodb>\n<relstorage>\n<sqlite3>\ndata-dir {self.directory.name}\n'
                                f'</sqlite3>\n</relstorage>\n</zodb>')
        self.addCleanup(db.close)
        adapter = internals.sqlAdapterOf(db.storage)
        self.assertNotEqual(adapter.schema.database_type, 'postgresql')
        self.assertIn('application_name', inspect.signature(adapter.connmanager.open).parameters)
        self.assertTrue(callable(adapter.connmanager.add_on_store_opened))

    def test_ZEO(self):
        with temporaryZEO() as zeo:
            with contextlib.closing(DB(zeo.storage())) as db:
                self.assertIs(internals.adapterOf(db), db._mvcc_storage)
                self.assertTrue(callable(internals.adapterOf(db).invalidateCache))
                storage = db.storage
                storage.new_oid()
                self.assertTrue(storage._oids)          # the server gives many at once
                internals.forgetNewIds(storage)
                self.assertEqual(storage._oids, [])
                server = internals.serverOf(storage)
                self.assertIsNone(server.call('ping', wait=False, timeout=0).result(PATIENCE))
                self.assertTrue(server.loop.is_running())
                for name in 'register', 'invalidateTransaction':
                    self.assertTrue(callable(getattr(server.client, name)))
                self.assertTrue(callable(server.client.cache.clear))
                for name in 'server_call', 'close':
                    self.assertTrue(callable(getattr(server.client.protocol, name)))
                self.assertTrue(callable(server.client.protocol.sm_protocol.transport.abort))
                self.assertFalse(leaveIfSilent(storage, 20, threading.Event()))
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter('always')
                self.assertFalse(leaveIfSilent(storage, 20, threading.Event()))         # it is closed
            self.assertEqual(said, [])


class TestUndocumented(unittest.TestCase):
    """Names without an underscore, or public by their convention, that nobody has promised: each has one user."""

    def test_places(self):
        for name, place in (('_p_blob_uncommitted', 'database/storedfiles.py'),
                            ('createResource', 'config/settings.py'),
                            ('endSection', 'config/settings.py'), ('gzip_decode', 'xmlrpc/body.py'),
                            ('rename_or_copy_blob', 'database/storedfiles.py'), ('mktemp', 'database/storedfiles.py')):
            with self.subTest(name):
                self.assertEqual([path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob('*.py')
                                  if name in path.read_text()], [place])

    def test_releases(self):
        self.assertIsNone(Blob._p_blob_uncommitted)
        for function, parameters in (
                (rename_or_copy_blob, ('f1', 'f2', 'chmod')), (mktemp, ('dir', 'prefix')),
                (gzip_decode, ('data', 'max_decode')),
                (ConfigLoader.createResource, ('self', 'file', 'url')),
                (ConfigLoader.endSection, ('self', 'parent', 'type_', 'name', 'matcher')),
                (Protocol.__init__, ('self', 'loop', 'addr', 'client', 'storage_key', 'read_only', 'connect_poll',
                                     'heartbeat_interval', 'ssl', 'ssl_server_hostname')),
                (Protocol.finish_connection, ('self', 'protocol_version')), (ssl_config, ('section', 'server')),
                (Unmarshaller.start, ('self', 'tag', 'attrs')), (Unmarshaller.data, ('self', 'text')),
                (Unmarshaller.end, ('self', 'tag')), (Unmarshaller.close, ('self',))):
            with self.subTest(function.__qualname__):
                self.assertEqual(tuple(inspect.signature(function).parameters), parameters)


class TestLack(unittest.TestCase):

    def setUp(self):
        self.addCleanup(internals._told.update, internals._told.copy())
        internals._told.clear()

    def test_one_line_says_what_is_lost(self):
        class Storage:
            """Has none of the names."""

        for function, lost in (
                (internals.adapterOf, 'commits of other processes are noticed by polling only'),
                (internals.lastWritten, 'threads wait for the commits of others'),
                (internals.isUnchanged, 'connections are given up'),
                (lambda storage: internals.resizeCache(storage, 1), 'loaded again and again'),
                (internals.cleanUpFailures, 'the database may be damaged'),
                (internals.forgetNewIds, 'two objects may get one id'),
                (internals.serverOf, 'a database server that hangs, or has another database, is not noticed')):
            with self.subTest(lost):
                with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
                    self.assertFalse(function(Storage()))
                line, = logs.output
                self.assertRegex(line, 'Storage\\.[_a-z]+ is missing in the installed release: ')
                self.assertIn(lost, line)
                with self.assertNoLogs('lovely.remotetask', 'WARNING'):
                    self.assertFalse(function(Storage()))

    def test_another_ZEO_is_not_watched(self):
        class Server:
            """Has no `loop`."""

        class Storage:
            _server = Server()

        with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            self.assertFalse(leaveIfSilent(Storage(), 1, threading.Event()))
        self.assertIn('loop is missing in the installed release', logs.output[0])

    def test_whether_a_run_has_written_has_to_be_known(self):
        with self.assertRaises(AttributeError):
            internals.resourcesOf(object())


if __name__ == '__main__':
    unittest.main()
