"""What the package gives to tests of applications: the stub, the clock, running and waiting, a ZEO server."""
# SPDX-License-Identifier: ZPL-2.1
import os
import socket
import sys
import tempfile
import threading
import unittest
from unittest import mock

import transaction
import ZODB.config
from ZODB.blob import Blob
from ZODB.MappingStorage import MappingStorage
from zope.component import provideUtility
from zope.component import testing
from zope.interface.verify import verifyClass
from zope.interface.verify import verifyObject
from zope.location.interfaces import IContained
from zope.site import LocalSiteManager
from zope.site.folder import Folder

from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import Clock
from lovely.remotetask.testing import ITaskStub
from lovely.remotetask.testing import JobFailed
from lovely.remotetask.testing import TaskServiceStub
from lovely.remotetask.testing import TooManyJobs
from lovely.remotetask.testing import runDueJobs
from lovely.remotetask.testing import temporaryZEO
from lovely.remotetask.testing import waitForJobs
from lovely.remotetask.testing import zeo
from waits import PATIENCE


def provide(name, function, provides=ITask):
    provideUtility(SimpleTask(function), provides, name)


class TestStub(unittest.TestCase):

    def setUp(self):
        self.addCleanup(testing.tearDown)
        provide('real', lambda input: 'real')
        provide('echo', lambda input: 'real')
        provide('echo', lambda input: input, ITaskStub)
        self.service = TaskServiceStub()

    def test_contracts(self):
        self.assertTrue(verifyClass(ITaskService, TaskServiceStub, tentative=True))
        self.assertTrue(verifyObject(ITaskService, TaskServiceStub()))
        self.assertTrue(verifyObject(IContained, TaskServiceStub()))

    def test_only_stubs_are_its_tasks(self):
        self.assertEqual(list(self.service.getAvailableTasks()), ['echo'])
        with self.assertRaises(UnknownTask) as caught:
            self.service.add('real')
        self.assertEqual(caught.exception.available, ['echo'])
        jobid = self.service.add('echo', 'stub')
        self.service.process()
        self.assertEqual(self.service.getResult(jobid), 'stub')

    def test_a_real_service_keeps_its_tasks(self):
        service = TaskService()
        jobid = service.add('echo', 'stub')
        service.process()
        self.assertEqual(service.getResult(jobid), 'real')

    def test_stubs_of_its_site(self):
        site = Folder()
        site.setSiteManager(LocalSiteManager(site))
        service = site['service'] = TaskServiceStub()
        site.getSiteManager().registerUtility(SimpleTask(lambda input: 'of the site'), ITaskStub, 'echo')
        jobid = service.add('echo')
        service.process()
        self.assertEqual(service.getResult(jobid), 'of the site')

    def test_a_task_that_is_gone(self):
        jobid = self.service.add('echo')
        testing.tearDown()
        with self.assertLogs('lovely.remotetask', 'WARNING'):
            self.service.process()
        self.assertIn("'echo' is not registered", self.service.jobs[jobid].errors[0].message)

    def test_ids_count(self):
        self.assertEqual([self.service.add('echo') for _ in range(3)], [1, 2, 3])
        self.service.process()
        self.service.clean()
        self.assertEqual(self.service.addCronJob('echo', delay=1), 4)
        self.assertEqual(TaskServiceStub().add('echo'), 1)

    def test_verbs(self):
        first, later, cron = (self.service.add('echo'), self.service.add('echo', startLater=True),
                              self.service.addCronJob('echo', 7, minute=(10,)))
        self.service.cancel(first)
        self.service.startJob(later)
        self.service.process(0)
        self.service.process(600)
        self.assertEqual([self.service.getStatus(jobid) for jobid in (first, later, cron)],
                         ['cancelled', 'completed', 'cronjob'])
        self.assertEqual(self.service.getResult(cron), 7)
        self.service.clean()
        self.assertEqual(list(self.service.jobs), [cron])

    def test_no_threads(self):
        self.assertIs(self.service.isProcessing(), False)
        threads = threading.active_count()
        self.service.startProcessing()
        self.assertIs(self.service.isProcessing(), True)
        self.assertEqual(threading.active_count(), threads)
        self.service.stopProcessing()
        self.service.stopProcessing()
        self.assertIs(self.service.isProcessing(), False)

    def test_in_a_database(self):
        db = ZODB.DB(MappingStorage())
        self.addCleanup(db.close)
        self.addCleanup(transaction.abort)
        db.open().root()['service'] = self.service
        jobid = self.service.add('echo', 'stub')
        transaction.commit()
        self.assertEqual(runDueJobs(self.service), 1)
        transaction.commit()
        self.assertEqual(self.service.getResult(jobid), 'stub')


class TestClock(unittest.TestCase):

    def test_clock(self):
        clock = Clock()
        self.assertEqual(clock(), 0.0)
        self.assertEqual((clock.advance(1.5), clock()), (1.5, 1.5))
        clock.set(100)
        self.assertEqual((clock.advance(5), clock()), (105, 105))
        self.assertEqual(Clock(7)(), 7)


class TestRunDueJobs(unittest.TestCase):

    def setUp(self):
        self.addCleanup(testing.tearDown)
        self.service = TaskServiceStub()
        provide('echo', lambda input: input, ITaskStub)

    def test_ready_and_due(self):
        clock = Clock()
        ready = self.service.add('echo')
        delayed = self.service.addCronJob('echo', delay=10)
        self.assertEqual(runDueJobs(self.service, clock()), 1)
        self.assertEqual(self.service.getStatus(ready), 'completed')
        self.assertEqual(runDueJobs(self.service, clock.advance(9)), 0)
        self.assertEqual(runDueJobs(self.service, clock.advance(1)), 1)
        self.assertEqual(self.service.getStatus(delayed), 'completed')

    def test_the_present(self):
        self.service.add('echo')
        self.assertEqual(runDueJobs(self.service), 1)

    def test_jobs_that_jobs_add(self):
        provideUtility(lambda service, jobid, input: input and service.add('chain', input - 1), ITaskStub, 'chain')
        self.service.add('chain', 3)
        self.assertEqual(runDueJobs(self.service), 4)

    def test_limit(self):
        for _ in range(5):
            self.service.add('echo')
        self.assertEqual(runDueJobs(self.service, limit=5), 5)
        provideUtility(lambda service, jobid, input: service.add('again'), ITaskStub, 'again')
        self.service.add('again')
        with self.assertRaisesRegex(AssertionError, 'more than 20 jobs have run'):
            runDueJobs(self.service, limit=20)


    def test_raising(self):
        """What a task raises is seen by the test, also where a run would be repeated."""
        def fail(input):
            raise ValueError(f'cannot {input}')
        provide('fail', fail, ITaskStub)
        self.service.add('echo')
        jobid = self.service.add('fail', 'fly')
        with self.assertRaises(JobFailed) as caught:
            runDueJobs(self.service, raising=True)
        self.assertEqual(caught.exception.jobid, jobid)
        self.assertTrue(str(caught.exception).startswith(
            f"job {jobid}, task 'fail', has failed: ValueError: cannot fly\nTraceback (most recent call last)"))
        self.assertIn('raise ValueError', str(caught.exception))
        self.assertEqual(self.service.getStatus(jobid), 'queued')
        self.assertEqual(len(self.service.jobs[jobid].errors), 1)

    def test_raising_without_a_failure(self):
        provideUtility(lambda service, jobid, input: input and service.add('chain', input - 1), ITaskStub, 'chain')
        self.service.add('chain', 3)
        self.assertEqual(runDueJobs(self.service, raising=True), 4)
        for _ in range(2):
            self.service.add('echo')
        with self.assertRaises(TooManyJobs):
            runDueJobs(self.service, limit=1, raising=True)

    def test_raising_again(self):
        """A job that has failed before, and is done now, raises nothing."""
        outcomes = [1, ValueError('not yet')]
        def once(input):
            outcome = outcomes.pop()
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        provide('once', once, ITaskStub)
        clock = Clock()
        jobid = self.service.add('once', now=clock())
        with self.assertRaises(JobFailed):
            runDueJobs(self.service, clock(), raising=True)
        self.assertEqual(runDueJobs(self.service, clock.advance(3600), raising=True), 1)
        self.assertEqual(self.service.getResult(jobid), 1)


class TestWaitForJobs(unittest.TestCase):

    def setUp(self):
        self.addCleanup(testing.tearDown)
        self.db = ZODB.DB(MappingStorage())
        self.addCleanup(self.db.close)
        install(self.db)

    def open(self, **options):
        manager = transaction.TransactionManager(**options)
        manager.begin()
        connection = self.db.open(manager)
        self.addCleanup(connection.close)
        self.addCleanup(manager.abort)
        return manager, connection.root()['Application']['TaskService']

    def process(self, **arguments):
        processor = MultiProcessor(self.db, ('TaskService',), **arguments)
        processor.start()
        self.addCleanup(lambda: self.assertTrue(processor.stop(PATIENCE)))

    def test_statuses(self):
        go = threading.Event()
        provide('wait', lambda input: go.wait(PATIENCE))
        for explicit in False, True:
            with self.subTest(explicit=explicit):
                manager, service = self.open(explicit=explicit)
                jobids = [service.add('wait') for _ in range(3)]
                service.cancel(jobids[1])
                manager.commit()
                if not explicit:
                    self.process(waitTime=30)
                timer = threading.Timer(0.05, go.set)
                timer.start()
                self.addCleanup(timer.join)
                self.assertEqual(waitForJobs(service, iter(jobids)), ['completed', 'cancelled', 'completed'])
                self.assertEqual(waitForJobs(service, []), [])

    def test_timeout(self):
        provide('echo', lambda input: input)
        manager, service = self.open()
        first, second = service.add('echo'), service.addCronJob('echo', minute=(1,))
        third = service.add('echo')
        service.cancel(first)
        manager.commit()
        with self.assertRaises(TimeoutError) as caught:
            waitForJobs(service, [first, second, third], timeout=0.01)
        self.assertEqual(str(caught.exception), f'after 0.01 seconds have not ended: job {second} (cronjob), '
                                                f'job {third} (queued)')

    def test_jobs_that_are_not_there(self):
        manager, service = self.open()
        with self.assertRaises(UnknownJob):
            waitForJobs(service, [1])
        provide('echo', lambda input: input)
        with self.assertRaises(UnknownJob):         # not committed
            waitForJobs(service, [service.add('echo')])

    def test_no_database(self):
        with self.assertRaisesRegex(RemoteTaskError, 'runDueJobs'):
            waitForJobs(TaskService(), [])

    def test_the_clock_of_a_processor(self):
        clock = Clock()
        provide('echo', lambda input: input)
        manager, service = self.open()
        jobid = service.addCronJob('echo', 'late', delay=3600)
        first = service.add('echo')
        manager.commit()
        self.process(clock=clock, waitTime=0.01)
        waitForJobs(service, [first])
        self.assertEqual(service.getStatus(jobid), 'delayed')
        # It is due an hour after the scheduler has seen it, which it has before the other one was claimed.
        self.assertEqual(service.jobs[jobid].scheduledFor, 3600)
        clock.advance(3600)
        self.assertEqual(waitForJobs(service, [jobid]), ['completed'])


class TestZEO(unittest.TestCase):

    level = 2

    def start(self, *arguments):
        return self.enterContext(temporaryZEO(*arguments))

    def test_database(self):
        server = self.start()
        self.assertEqual(server.address[0], '127.0.0.1')
        with server.database().transaction() as connection:
            connection.root()['text'] = 'stored'
            connection.root()['blob'] = Blob(b'many bytes')
        with server.database().transaction() as connection:
            self.assertEqual(connection.root()['text'], 'stored')
            with connection.root()['blob'].open() as blob:
                self.assertEqual(blob.read(), b'many bytes')
        self.assertIn('listening', server.said)

    def test_the_server_does_without_uvloop(self):
        directory = self.enterContext(tempfile.TemporaryDirectory())
        with open(os.path.join(directory, 'uvloop.py'), 'w') as file:
            file.write('def new_event_loop():\n    raise SystemExit("a server must not use it")\n')
        with mock.patch.object(sys, 'path', [directory, *sys.path]):
            self.assertIn('listening', self.start().said)

    def test_options_of_a_storage(self):
        server = self.start()
        storage = server.storage(read_only=True, blob_dir=None, shared_blob_dir=False)
        self.assertTrue(storage.isReadOnly())
        self.assertIsNone(storage.blob_dir)

    def test_config(self):
        server = self.start()
        db = ZODB.config.databaseFromString(server.config)
        self.addCleanup(db.close)
        with db.transaction() as connection:
            connection.root()['text'] = Blob(b'stored')
        with server.database().transaction() as connection:
            with connection.root()['text'].open() as blob:
                self.assertEqual(blob.read(), b'stored')

    def test_kill_and_restart(self):
        server = self.start()
        db = server.database()
        with db.transaction() as connection:
            connection.root()['text'] = 'stored'
        address, pid = server.address, server.pid
        server.start()                          # it runs already
        self.assertEqual(server.pid, pid)
        server.kill()
        server.kill()
        self.assertIsNone(server.pid)
        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(address)
        server.start()
        self.assertEqual(server.address, address)
        self.assertNotEqual(server.pid, pid)
        with server.database().transaction() as connection:
            self.assertEqual(connection.root()['text'], 'stored')
        # A client from before comes back by itself.  Commits don't wait for that, other calls do.
        db.storage.ping()
        with db.transaction() as connection:
            connection.root()['text'] = 'changed'

    def test_the_port_is_taken_meanwhile(self):
        server = self.start()
        server.kill()
        with socket.create_server(server.address):
            timer = threading.Timer(0.5, server.start)
            timer.start()
            timer.join(1.5)
            self.assertTrue(timer.is_alive())   # it tries again and again
        timer.join(PATIENCE)
        self.assertIsNotNone(server.pid)

    def test_another_port_is_tried(self):
        with socket.create_server(('127.0.0.1', 0)) as taken:
            addresses = [taken.getsockname()]
            free = zeo._freeAddress
            zeo._freeAddress = lambda: addresses.pop() if addresses else free()
            try:
                server = self.start()
            finally:
                zeo._freeAddress = free
            self.assertNotEqual(server.address, taken.getsockname())

    def test_nothing_is_left(self):
        with temporaryZEO() as server:
            pid, directory = server.pid, server.directory
            db, threads = server.database(), threading.active_count()
            self.assertTrue(os.path.exists(os.path.join(directory, 'Data.fs')))
        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)
        self.assertFalse(os.path.exists(directory))
        self.assertLess(threading.active_count(), threads)
        db.close()                              # a test's own clean-up may come later

    def test_a_directory_of_ones_own(self):
        with tempfile.TemporaryDirectory() as directory:
            with temporaryZEO(directory) as server:
                with server.database().transaction() as connection:
                    connection.root()['text'] = 'stored'
            with temporaryZEO(directory) as server:
                with server.database().transaction() as connection:
                    self.assertEqual(connection.root()['text'], 'stored')

    def test_a_server_that_cannot_start(self):
        with tempfile.TemporaryDirectory() as directory:
            os.mkdir(os.path.join(directory, 'Data.fs'))
            with self.assertRaisesRegex(AssertionError, 'Data.fs'), temporaryZEO(directory):
                self.fail('it started')

    def test_jobs_of_another_client(self):
        self.addCleanup(testing.tearDown)
        provide('echo', lambda input: input)
        server = self.start()
        install(db := server.database())
        with db.transaction() as connection:
            jobids = [connection.root()['Application']['TaskService'].add('echo') for _ in range(3)]
        processor = MultiProcessor(server.database(), ('TaskService',))
        processor.start()
        self.addCleanup(lambda: self.assertTrue(processor.stop(PATIENCE)))
        connection = db.open()
        self.addCleanup(connection.close)
        self.addCleanup(transaction.abort)
        self.assertEqual(waitForJobs(connection.root()['Application']['TaskService'], jobids), ['completed'] * 3)


if __name__ == '__main__':
    unittest.main()
