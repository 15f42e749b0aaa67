"""What an application calls: `getService`, `addService`; databases that others have made; the event that starts."""
# SPDX-License-Identifier: ZPL-2.1
import io
import os
import pathlib
import select
import signal
import sys
import tempfile
import threading
import types
import unittest

import transaction
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError
from zope.component import getUtility
from zope.component import hooks
from zope.component import provideHandler
from zope.component import provideUtility
from zope.component import testing
from zope.component.event import objectEventNotify
from zope.component.interfaces import ISite
from zope.event import notify
from zope.interface.verify import verifyObject
from zope.lifecycleevent import ObjectAddedEvent
from zope.lifecycleevent.interfaces import IObjectRemovedEvent
from zope.site import LocalSiteManager
from zope.site.folder import Folder

from lovely.remotetask.application import addService
from lovely.remotetask.application import getService
from lovely.remotetask.application import pauseCopy
from lovely.remotetask.application import removeService
from lovely.remotetask.application import retire
from lovely.remotetask.client import Client
from lovely.remotetask.config import products
from lovely.remotetask.config.autostart import servicePaths
from lovely.remotetask.database.sites import pathOf
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import UnknownService
from lovely.remotetask.execution import started
from lovely.remotetask.interfaces import IStartRemoteTasksEvent
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import STORED
from lovely.remotetask.service import StartRemoteTasksEvent
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import bootStrapSubscriber
from lovely.remotetask.service import getAutostartServiceNames
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import PATIENCE
from lovely.remotetask.testing import Process
from lovely.remotetask.testing import waitForJobs


class DatabaseTestCase(unittest.TestCase):

    def setUp(self):
        testing.setUp()
        self.addCleanup(testing.tearDown)
        self.db = DB(MappingStorage())
        self.addCleanup(self.db.close)
        self.addCleanup(products.setProductConfigurations, {})
        self.connection = self.open()

    def open(self):
        connection = self.db.open(transaction.TransactionManager())
        self.addCleanup(connection.close)
        self.addCleanup(connection.transaction_manager.abort)
        return connection

    def install(self):
        install(self.db)
        self.connection.sync()

    def commit(self):
        self.connection.transaction_manager.commit()


class TestGetService(DatabaseTestCase):

    def test_of_a_connection_or_an_object(self):
        self.install()
        service = getService(self.connection)
        self.assertTrue(verifyObject(ITaskService, service))
        root = self.connection.root()['Application']
        self.assertIs(service, root['TaskService'])
        self.assertIs(getService(root), service)
        self.assertIs(getService(service, '/TaskService'), service)

    def test_of_a_site(self):
        self.install()
        folder = self.connection.root()['Application']['site1'] = Folder()
        service = addService(folder, 'queue', 'films')
        self.assertIs(getService(self.connection, '/site1/films'), service)
        with self.assertRaises(UnknownService) as caught:
            getService(self.connection, '/site1/queue')
        self.assertEqual(str(caught.exception), "there is no task service at '/site1/queue'")

    def test_nothing_there(self):
        with self.assertRaises(RemoteTaskError) as caught:
            getService(self.connection)
        self.assertEqual(str(caught.exception), 'the database has no root folder yet: '
                         'lovely.remotetask.service.install(db) makes it, and a task service in it')
        self.assertEqual(list(self.connection.root()), [])

    def test_leads_to_no_database(self):
        for context in None, 'a text', TaskService(), types.SimpleNamespace(registry=None):
            with self.assertRaises(TypeError) as caught:
                getService(context)
            self.assertEqual(str(caught.exception), 'a request of Pyramid with pyramid_zodbconn, a ZODB connection or '
                             f'an object from a database is needed, not {type(context).__name__}')


class TestAddService(DatabaseTestCase):

    def setUp(self):
        super().setUp()
        self.install()
        self.root = self.connection.root()['Application']
        self.folder = self.root['site1'] = Folder()

    def test_makes_a_site(self):
        service = addService(self.folder, 'queue', 'films')
        self.commit()
        other = self.open().root()['Application']['site1']
        self.assertEqual(pathOf(other['queue']), ('site1', 'queue'))
        self.addCleanup(hooks.setSite)
        hooks.setHooks()
        self.addCleanup(hooks.resetHooks)
        hooks.setSite(self.folder)
        self.assertIs(getUtility(ITaskService, 'films'), service)
        self.assertIs(getUtility(ITaskService), self.root['TaskService'])

    def test_is_found_by_autostart(self):
        addService(self.folder, name='films')
        self.commit()
        self.assertEqual(servicePaths(self.db, ['site1@films']), [('site1', 'TaskService')])

    def test_twice(self):
        service = addService(self.folder)
        self.assertIs(addService(self.folder), service)

    def test_site_stays_as_it_is(self):
        manager = LocalSiteManager(self.folder)
        self.folder.setSiteManager(manager)
        addService(self.folder)
        self.assertIs(self.folder.getSiteManager(), manager)

    def test_something_is_in_the_way(self):
        self.folder['queue'] = Folder()
        with self.assertRaises(ValueError) as caught:
            addService(self.folder, 'queue')
        self.assertEqual(str(caught.exception), "id: there is another object 'queue' in the folder")
        addService(self.folder, 'first', 'films')
        with self.assertRaises(ValueError) as caught:
            addService(self.folder, 'second', 'films')
        self.assertEqual(str(caught.exception),
                         "name: there is another task service that is registered by the name 'films'")
        self.assertEqual(sorted(self.folder), ['first', 'queue'])

    def test_unfit_id_or_name(self):
        for arguments, said in (((3,), 'id: 3 is not a text of 1 to 200 characters'),
                                (('',), "id: '' is not a text of 1 to 200 characters"),
                                (('a', None), 'name: None is not a text of up to 200 characters')):
            with self.assertRaises(ValueError) as caught:
                addService(self.folder, *arguments)
            self.assertEqual(str(caught.exception), said)
        self.assertEqual((list(self.folder), ISite.providedBy(self.folder)), ([], False))

    def test_no_folder(self):
        for folder in None, {}, TaskService():
            with self.assertRaises(TypeError) as caught:
                addService(folder)
            self.assertEqual(str(caught.exception), 'folder: a folder that can be a site is needed, not '
                             + type(folder).__name__)


class TestCopy(DatabaseTestCase):

    def test_a_copy_is_paused_until_somebody_resumes_it(self):
        self.install()
        provideUtility(SimpleTask(str), name='echo')
        service = getService(self.connection)
        service.add('echo')
        self.commit()
        copies = [self.copy(service), self.copy(service)]
        self.assertEqual([one.paused for one in (service, *copies)], [False, True, True])
        copies[0].resume()
        self.commit()
        for one in service, *copies:
            one._p_deactivate()
        self.assertEqual([(one.paused, one.isCopy) for one in (service, *copies)],
                         [(False, False), (False, False), (True, True)])
        self.assertEqual([len(one.jobs) for one in (service, *copies)], [1, 1, 1])
        self.assertTrue(self.copy(copies[0]).paused)

    def test_one_that_is_added_again_after_a_rollback_or_a_conflict_is_no_copy(self):
        self.install()
        manager, root = self.connection.transaction_manager, self.connection.root()['Application']
        names, services, before = ('Films', 'Sounds'), (TaskService(), TaskService()), manager.savepoint()
        root['Films'] = services[0]
        manager.savepoint()
        before.rollback()

        root['Sounds'] = services[1]
        self.connection.root()['here'] = 1
        with self.db.transaction() as other:
            other.root()['there'] = 1
        with self.assertRaises(ConflictError):
            self.commit()
        manager.abort()

        for name, service in zip(names, services):
            self.assertIsNone(service._p_oid)
            root[name] = service
            pauseCopy(service, ObjectAddedEvent(service))
        self.commit()
        for service in services:
            self.assertEqual((service.paused, service.isCopy), (False, False))
            service._p_deactivate()
            self.assertEqual((service.paused, service.isCopy), (False, False))

    def test_one_from_another_database_that_has_the_id_of_the_original(self):
        databases = [DB(None), DB(None)]
        for each in databases:
            self.addCleanup(each.close)
        original, imported = [self.enterContext(each.transaction()) for each in databases]
        folder = original.root()['folder'] = PersistentMapping(Films=TaskService())
        original.transaction_manager.commit()
        file = self.enterContext(original.exportFile(folder._p_oid))
        file.seek(0)
        folder = imported.root()['folder'] = imported.importFile(file)
        service = folder['Films']
        self.assertEqual((service._p_oid, service.storedAs, service.paused), (service.storedAs,) * 2 + (False,))
        pauseCopy(service, ObjectAddedEvent(service))
        imported.transaction_manager.commit()
        service._p_deactivate()
        self.assertEqual((service.paused, service.isCopy), (True, False))
        service.resume()
        pauseCopy(service, ObjectAddedEvent(service))
        self.assertFalse(service.paused)

    def test_the_host_of_the_original_takes_a_copy_that_no_event_has_told_of(self):
        service, copy, jobid = self.copyWhileRunning()
        self.assertEqual((copy.paused, copy.isCopy, copy.getStatus(jobid)), (True, True, 'processing'))
        self.start('Copy')
        self.connection.sync()
        self.assertEqual((copy.paused, copy.isCopy, copy.getStatus(jobid)), (True, False, 'queued'))
        copy.resume()
        self.commit()
        self.assertTrue(self.begun.acquire(timeout=PATIENCE))
        self.go.set()
        self.assertEqual([waitForJobs(one, [jobid]) for one in (service, copy)], [['completed']] * 2)
        self.assertFalse(self.begun.acquire(timeout=0))

    def test_who_resumes_a_copy_takes_its_jobs_from_the_hosts_of_the_original(self):
        service, copy, jobid = self.copyWhileRunning()
        copy.resume()
        self.commit()
        for one in service, copy:
            one._p_deactivate()
        self.assertEqual([(one.paused, one.isCopy, one.getStatus(jobid)) for one in (service, copy)],
                         [(False, False, 'processing'), (False, False, 'queued')])

    def copyWhileRunning(self):
        """Return a service, a copy of it, and the id of a job that has begun, and runs until the event `go`."""
        self.begun, self.go = threading.Semaphore(0), threading.Event()
        provideUtility(SimpleTask(lambda input: (self.begun.release(), self.go.wait(PATIENCE))[0]), name='wait')
        self.install()
        service = getService(self.connection)
        jobid = service.add('wait')
        self.commit()
        self.start('TaskService')
        self.addCleanup(self.go.set)
        self.assertTrue(self.begun.acquire(timeout=PATIENCE))
        self.connection.sync()
        copy = self.connection.root()['Application']['Copy'] = self.copy(service)
        self.commit()
        return service, copy, jobid

    def start(self, name):
        host = MultiProcessor(self.db, (name,), name='alpha')
        host.start()
        self.addCleanup(host.stop, PATIENCE)

    def copy(self, service):
        """Return a copy of the service, as ZODB exports and imports it."""
        file = io.BytesIO()
        self.connection.exportFile(service._p_oid, file)
        file.seek(0)
        return self.connection.importFile(file)


def makeOld(service):
    """Have a service be stored as the release 0.5 would have done it."""
    service._p_activate()
    for name in *STORED, 'generation':
        del service.__dict__[name]
    service.__dict__.update(jobs=OOBTree(), _queue=OOBTree(), _scheduledJobs=OOBTree())
    service._p_changed = True


class TestRemoveService(DatabaseTestCase):

    def conflict(self, add, removesFirst):
        """Remove the service while somebody else adds a job; the second one to commit meets a conflict."""
        self.install()
        other = self.open()
        add(getService(other))
        removeService(self.connection.root()['Application'], '/')
        managers = [self.connection.transaction_manager, other.transaction_manager]
        first, second = managers if removesFirst else reversed(managers)
        first.commit()
        self.assertRaises(ConflictError, second.commit)
        second.abort()

    def setUp(self):
        super().setUp()
        provideUtility(SimpleTask(lambda input: input), ITask, name='echo')

    def test_a_job_that_was_added_meanwhile_is_not_lost(self):
        self.conflict(lambda service: service.add('echo'), False)
        self.assertRaisesRegex(RemoteTaskError, 'not ended, 1 of them', removeService,
                               self.connection.root()['Application'], '/')

    def test_a_job_that_is_added_afterwards_is_refused(self):
        self.conflict(lambda service: service.add('echo'), True)

    def test_a_schedule_that_was_added_meanwhile_is_not_lost(self):
        self.conflict(lambda service: service.addCronJob('echo', minute=[0]), False)

    def test_a_schedule_that_is_added_afterwards_is_refused(self):
        self.conflict(lambda service: service.addCronJob('echo', minute=[0]), True)

    def test_one_that_is_deleted_from_its_folder_is_unregistered(self):
        provideHandler(objectEventNotify)
        provideHandler(retire, (ITaskService, IObjectRemovedEvent))
        self.install()
        folder = self.connection.root()['Application']['site1'] = Folder()
        addService(folder, 'queue', 'films')
        del folder['queue']
        self.assertEqual(list(folder.getSiteManager().registeredUtilities()), [])


class Gone(Persistent):
    """Stands for a root folder whose class is not installed."""


class TestOldData(DatabaseTestCase):

    def old(self):
        """Return a service of the release 0.5."""
        self.install()
        service = self.connection.root()['Application']['TaskService']
        makeOld(service)
        self.commit()
        return self.open().root()['Application']['TaskService']

    def test_each_verb_says_so(self):
        old = self.old()
        provideUtility(SimpleTask(lambda input: input), ITask, name='echo')
        for verb in (lambda: old.add('echo', 1), lambda: len(old.jobs), lambda: old.process(), lambda: old.getStatus(1),
                     lambda: old.startProcessing(), lambda: old.hasJobsWaiting()):
            with self.assertRaises(RemoteTaskError) as caught:
                verb()
            self.assertIn('was made by lovely.remotetask 0.5 or older, whose jobs this release cannot read',
                          str(caught.exception))

    def test_what_was_never_there(self):
        with self.assertRaises(AttributeError) as caught:
            TaskService().shard
        self.assertEqual(str(caught.exception), "'TaskService' object has no attribute 'shard'")

    def test_class_of_the_root_folder_is_gone(self):
        module = sys.modules['gone'] = types.ModuleType('gone')
        self.addCleanup(sys.modules.pop, 'gone', None)
        module.Gone, Gone.__module__ = Gone, 'gone'
        self.addCleanup(setattr, Gone, '__module__', __name__)
        self.connection.root()['Application'] = Gone()
        self.commit()
        self.connection.cacheMinimize()
        del sys.modules['gone']
        other = DB(self.db.storage)
        connection = other.open(transaction.TransactionManager())
        self.addCleanup(connection.close)
        for function in (lambda: install(other), lambda: getService(connection),
                         lambda: servicePaths(other, ['*@*'])):
            with self.assertRaises(RemoteTaskError) as caught:
                function()
            self.assertEqual(str(caught.exception), 'the database was made by another application: its root folder is '
                             'a gone.Gone, and there is no such class here; install the packages of that application '
                             '(Zope, say) beside lovely.remotetask')


class TestOldDataOfAHost(unittest.TestCase):

    level = 2

    def test_it_is_named_in_one_sentence(self):
        directory = os.path.realpath(self.enterContext(tempfile.TemporaryDirectory()))
        os.mkdir(os.path.join(directory, 'var'))
        db = DB(FileStorage(os.path.join(directory, 'var', 'Data.fs'), blob_dir=os.path.join(directory, 'var/blobs')))
        install(db)
        with db.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            makeOld(service)
        db.close()
        process = Process(['-m', 'lovely.remotetask.cli.main', 'processor'], directory)
        self.addCleanup(process.close)
        self.assertEqual(process.popen.wait(PATIENCE), 1)
        process._reader.join(PATIENCE)
        self.assertIn("the task service 'TaskService' was made by lovely.remotetask 0.5 or older",
                      ''.join(process.said))
        self.assertNotIn('Traceback', ''.join(process.said))


class TestSiteOfATask(unittest.TestCase):

    level = 2

    def test_local_utilities_are_found(self):
        """In a task `getUtility` finds what is registered in the site of its service."""
        directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (directory / 'tasks.py').write_text(
            'from zope.component import getUtility\n'
            'from zope.component.hooks import getSite\n'
            'from lovely.remotetask.interfaces import ITaskService\n'
            'def which(input):\n'
            '    return [getUtility(ITaskService, input).__name__, getSite().__name__]\n')
        (directory / 'site.zcml').write_text(
            '<configure xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">'
            '<remotetask:task name="which" handler="tasks.which" /></configure>')
        (directory / 'remotetask.conf').write_text(
            'site-definition site.zcml\n<frontend>\n  address 127.0.0.1:0\n</frontend>\n')
        process = Process(['-m', 'lovely.remotetask.cli.main', '-C', 'remotetask.conf', 'serve'], str(directory))
        self.addCleanup(process.close)
        with Client(process.waitFor('listening on ')) as client:
            jobid = client.add('which', '')
            self.assertEqual(client.waitFor([jobid], PATIENCE), ['completed'])
            self.assertEqual(client.getResult(jobid), ['TaskService', None])        # of the root folder


class TestClose(unittest.TestCase):
    """A database that is closed while its service is processed."""

    def setUp(self):
        testing.setUp()
        self.addCleanup(testing.tearDown)
        directory = self.enterContext(tempfile.TemporaryDirectory())
        self.begun, self.go = threading.Event(), threading.Event()
        self.addCleanup(self.go.set)
        provideUtility(SimpleTask(lambda input: self.begun.set() or self.go.wait(PATIENCE)), ITask, name='wait')
        self.path = os.path.join(directory, 'Data.fs')
        self.db = DB(self.path)
        install(self.db)
        with self.db.transaction() as connection:
            self.jobid = getService(connection).add('wait')
        with self.db.transaction() as connection:
            service = getService(connection)
            service.startProcessing()
            self.processor = started.running(started.keyOf(service))
        self.assertTrue(self.begun.wait(PATIENCE))

    def job(self):
        db = DB(self.path)
        self.addCleanup(db.close)
        with db.transaction() as connection:
            job = getService(connection).jobs[self.jobid]
            return job.status, len(job.errors)

    def test_a_running_job_may_end(self):
        closing = threading.Thread(target=self.db.close)
        closing.start()
        self.assertTrue(self.processor._lifecycle.stopRequested.wait(PATIENCE))
        self.go.set()
        closing.join()
        self.assertEqual(self.job(), ('completed', 0))

    def test_one_that_does_not_goes_back(self):
        self.addCleanup(setattr, started, 'EXIT_TIME', started.EXIT_TIME)
        started.EXIT_TIME = 0.1
        with self.assertLogs('lovely.remotetask', 'WARNING'):       # that it is run again
            self.db.close()
        self.assertIs(self.processor.running, False)
        self.assertEqual(self.job(), ('queued', 0))


class TestFork(DatabaseTestCase):

    def test_a_process_that_is_forked_has_no_processors(self):
        self.install()
        service = getService(self.connection)
        service.startProcessing()
        self.addCleanup(service.stopProcessing)
        reading, writing = os.pipe()
        with started._lock:                     # as a thread may hold it that is not in the child
            child = os.fork()
            if not child:
                started.stopAll()               # as at its exit: without threads nothing would ever end
                os.write(writing, b'none' if started.running(started.keyOf(service)) is None else b'one')
                os._exit(0)
        self.addCleanup(os.waitpid, child, 0)
        self.addCleanup(os.kill, child, signal.SIGKILL)
        os.close(writing)
        self.addCleanup(os.close, reading)
        self.assertTrue(select.select([reading], [], [], PATIENCE)[0], 'the child hangs')
        self.assertEqual(os.read(reading, 100), b'none')
        self.assertTrue(service.isProcessing())


class TestStartEvent(DatabaseTestCase):

    def test_it_starts_the_services(self):
        self.install()
        service = getService(self.connection)
        provideHandler(bootStrapSubscriber, [IStartRemoteTasksEvent])
        products.setProductConfigurations({'lovely.remotetask': {'autostart': '@TaskService'}})
        event = StartRemoteTasksEvent(self.db)
        self.assertTrue(verifyObject(IStartRemoteTasksEvent, event))
        self.addCleanup(started.stopAll, self.db)
        notify(event)
        self.assertIs(service.isProcessing(), True)

    def test_unknown_key(self):
        products.setProductConfigurations({'lovely.remotetask': {'autostrat': '*@*', 'autostart': '*@*'},
                                         'other': {'autostrat': 'theirs'}})
        with self.assertRaises(ConfigurationError) as caught:
            getAutostartServiceNames()
        self.assertEqual(str(caught.exception), "<product-config lovely.remotetask>: 'autostrat' is not a known key; "
                         "the known keys are: autostart")


if __name__ == '__main__':
    unittest.main()
