"""The command `service`: services are made, listed and removed in a database of its own."""
# SPDX-License-Identifier: ZPL-2.1
import os
import tempfile
import unittest

from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zope.component import testing
from zope.component.interfaces import ISite
from zope.site.folder import Folder

import missing
from lovely.remotetask.application import getService
from lovely.remotetask.errors import UnknownService
from lovely.remotetask.service import install
from test_cli import CommandTestCase


class DatabaseCase(CommandTestCase):
    """A database on disk, which no process has open between two commands, and its configuration file."""

    def setUp(self):
        testing.setUp()
        self.addCleanup(testing.tearDown)
        self.directory = os.path.realpath(self.enterContext(tempfile.TemporaryDirectory()))
        self.configuration = self.configure('Data.fs')

    def configure(self, name):
        """Return the path of a configuration with the database of that file name."""
        path = os.path.join(self.directory, f'{name}.conf')
        with open(path, 'w') as file:
            file.write(f'<zodb>\n<blobstorage>\nblob-dir {self.directory}/{name}.blobs\n<filestorage>\n'
                       f'path {self.directory}/{name}\n</filestorage>\n</blobstorage>\n</zodb>\n<eventlog>\n<logfile>\n'
                       f'path {self.directory}/log\n</logfile>\n</eventlog>\n')
        return path

    def remotetask(self, *arguments):
        return super().remotetask('-C', self.configuration, *arguments)

    def inDatabase(self, function):
        """Return what a function of a connection returns, in a transaction that is committed."""
        db = DB(FileStorage(os.path.join(self.directory, 'Data.fs')))
        try:
            install(db)
            with db.transaction() as connection:
                return function(connection)
        finally:
            db.close()


class TestServices(DatabaseCase):

    def paths(self):
        """Return the paths that the command lists."""
        code, output, errors = self.remotetask('service', 'list')
        self.assertEqual((code, errors), (0, ''))
        return [line.split()[0] for line in output.splitlines()[1:]]

    def test_those_that_cannot_be_used_here(self):
        def change(connection):
            missing.add(connection.root()['Application'], module)
            service = getService(connection, '/')
            service.generation, service.needs, service.release = 99, 99, '9.9'

        self.assertEqual(self.remotetask('service', 'add', '/Films')[0], 0)
        with missing.package() as module:
            self.inDatabase(change)
        code, output, errors = self.remotetask('service', 'list')
        self.assertEqual((code, errors), (0, ''))
        table, reasons = output.splitlines()[1:4], output.splitlines()[4:]
        self.assertEqual([line.split() for line in table],
                         [['/Films', '0', '-'], ['/TaskService', '-', '-'], ['/special', '-', '-']])
        self.assertIn('the task service /special cannot be used: the class gone.Special is missing here', reasons[0])
        self.assertIn('the task service /TaskService is of generation 99', reasons[1])
        self.fails(1, "there is no task service at '/special'", 'service', 'remove', '/special')

    def test_an_interface_that_is_missing(self):
        with missing.package() as module:
            self.inDatabase(lambda connection: missing.add(connection.root()['Application'], module, module.ISpecial))
        for arguments in ('list',), ('remove', '/TaskService'):
            self.fails(1, 'the site / has something registered for the interface gone.ISpecial, which is missing here',
                       'service', *arguments)

    def test_add_and_remove_in_the_root(self):
        self.assertEqual(self.remotetask('service', 'add', '/Films'), (0, 'service /Films\n', ''))
        self.assertEqual(self.paths(), ['/Films', '/TaskService'])
        self.assertEqual(self.remotetask('service', 'add', '/Films')[0], 0)
        self.assertEqual(self.inDatabase(lambda connection: getService(connection, '/Films').__name__), 'Films')
        self.assertEqual(self.remotetask('service', 'remove', '/Films'), (0, 'removed /Films\n', ''))
        self.assertEqual(self.paths(), ['/TaskService'])
        self.fails(1, "there is no task service at '/Films'", 'service', 'remove', '/Films')

    def test_the_default_service_comes_back_as_such(self):
        self.assertEqual(self.remotetask('service', 'remove', '/TaskService')[0], 0)
        self.assertEqual(self.paths(), [])
        self.assertEqual(self.remotetask('service', 'add', '/TaskService')[0], 0)
        self.assertEqual(self.inDatabase(lambda connection: getService(connection, '/').__name__), 'TaskService')
        self.assertEqual(self.remotetask('service', 'add', '/TaskService')[0], 0)

    def test_a_site_is_made_when_that_is_asked_for(self):
        self.fails(2, 'there is no folder /site1; --site makes it', 'service', 'add', '/site1/Films')
        self.assertEqual(self.remotetask('service', 'add', '/site1/Films', '--site')[:2], (0, 'service /site1/Films\n'))
        self.assertEqual(self.paths(), ['/TaskService', '/site1/Films'])
        self.assertEqual(self.remotetask('service', 'add', '/site1/Sounds')[0], 0)
        self.assertEqual(self.remotetask('service', 'remove', '/site1/Films')[0], 0)
        self.assertEqual(self.paths(), ['/TaskService', '/site1/Sounds'])
        self.assertTrue(self.inDatabase(lambda connection: ISite.providedBy(connection.root()['Application']['site1'])))

    def test_a_folder_that_is_no_site(self):
        self.inDatabase(lambda connection: connection.root()['Application'].__setitem__('plain', Folder()))
        self.fails(2, '/plain is no site; --site makes it one', 'service', 'add', '/plain/Films')
        self.assertEqual(self.remotetask('service', 'add', '/plain/Films', '--site')[0], 0)
        self.fails(2, '/TaskService is no folder', 'service', 'add', '/TaskService/Films', '--site')

    def test_wrong_paths(self):
        for path in '', '/', 'Films', '/a/b/Films', '/site1/', '//Films', '/++etc++site/Films':
            for command in 'add', 'remove':
                with self.subTest(path=path, command=command):
                    self.fails(2, 'is neither /SERVICE nor /SITE/SERVICE', 'service', command, path)

    def test_a_service_with_jobs_stays(self):
        self.remotetask('service', 'add', '/Films')

        def add(connection):
            service = getService(connection, '/Films')
            service.ownTasks = {'echo': _Echo()}
            return service.add('echo', 1)

        self.inDatabase(add)
        self.fails(1, 'has jobs that have not ended, 1 of them', 'service', 'remove', '/Films')
        self.assertIn('/Films', self.paths())
        self.assertEqual(self.remotetask('service', 'remove', '/Films', '--force')[0], 0)
        with self.assertRaises(UnknownService):
            self.inDatabase(lambda connection: getService(connection, '/Films'))

    def test_no_command(self):
        code, output, errors = self.remotetask('service')
        self.assertEqual((code, output), (2, ''))
        self.assertIn('Usage: remotetask service', errors)


class _Echo:
    """A task that is stored with a service."""

    def __call__(self, service, jobid, input):
        return input


if __name__ == '__main__':
    unittest.main()
