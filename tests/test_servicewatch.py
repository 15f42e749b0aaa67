"""Processing hosts take up new services while they run, and let go of those that were removed."""
# SPDX-License-Identifier: ZPL-2.1
import threading
import unittest
from unittest.mock import patch

from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage
from zope.component import provideUtility
from zope.component import testing
from zope.site.folder import Folder

import missing
from deployment import DeploymentCase
from lovely.remotetask.application import addService
from lovely.remotetask.application import removeService
from lovely.remotetask.cli.grace import GracePeriod
from lovely.remotetask.cli.hosts import Hosts
from lovely.remotetask.client import Client
from lovely.remotetask.config import products
from lovely.remotetask.config import servicewatch
from lovely.remotetask.config.servicewatch import ServiceWatch
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.execution import started
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import StartRemoteTasksEvent
from lovely.remotetask.service import bootStrapSubscriber
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from waits import PATIENCE
from waits import waitUntil


#: The size of a stack, in bytes, with which no thread can be started.
NO_STACK = 1 << 46

#: Seconds between two looks when nothing is heard.
NEVER = 3600.0


class CountingStorage(MappingStorage):
    """Counts what is loaded."""

    loads = 0

    def load(self, oid, version=''):
        self.loads += 1
        return super().load(oid, version)

    def loadBefore(self, oid, tid):
        self.loads += 1
        return super().loadBefore(oid, tid)


class WatchCase(unittest.TestCase):

    def setUp(self):
        self.addCleanup(testing.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='echo')
        self.storage = CountingStorage()
        self.db = DB(self.storage)
        self.addCleanup(lambda: self.db.close())
        install(self.db)

    def commit(self, change):
        """Return what a function of the root folder returns, in a transaction that is committed."""
        with self.db.transaction() as connection:
            return change(connection.root()[ROOT_NAME])

    def add(self, name):
        self.commit(lambda root: addService(root, name, name) and None)

    def remove(self, name, **options):
        self.commit(lambda root: removeService(root, f'/{name}', **options))


class TestServiceWatch(WatchCase):

    def setUp(self):
        super().setUp()
        self.enterContext(patch.object(servicewatch, 'INTERVAL', NEVER))
        self.enterContext(patch.object(servicewatch, 'LEAST', 0.0))
        self.there, self.changed, self.failure = [], threading.Semaphore(0), None

    def watch(self, *patterns):
        watch = ServiceWatch(self.db, patterns or ['*@*'], self.begin, self.end)
        self.addCleanup(watch.stop)
        watch.look()
        watch.start()
        return watch

    def begin(self, found, service):
        if self.failure is not None:
            error, self.failure = self.failure, None
            self.changed.release()
            raise error
        self.there.append(str(found))
        self.changed.release()

    def end(self, found):
        self.there.remove(str(found))
        self.changed.release()

    def wait(self, *there):
        """Wait until just these services are there."""
        while sorted(self.there) != sorted(there):
            self.assertTrue(self.changed.acquire(timeout=PATIENCE), self.there)

    def test_it_takes_up_and_lets_go(self):
        self.watch()
        self.assertEqual(self.there, ['/TaskService'])
        self.add('Films')
        self.wait('/Films', '/TaskService')
        self.remove('Films')
        self.wait('/TaskService')
        self.remove('TaskService')
        self.wait()

    def test_a_new_site(self):
        self.watch('site1@*')
        self.assertEqual(self.there, [])
        self.commit(lambda root: root.__setitem__('site1', Folder()))
        self.commit(lambda root: addService(root['site1'], 'Films', 'Films') and None)
        self.add('Sounds')
        self.wait('/site1/Films')

    def test_another_service_at_the_same_path(self):
        self.watch('@Films')
        self.add('Films')
        self.wait('/Films')

        def replace(root):
            removeService(root, '/Films')
            addService(root, 'Films', 'Films')

        self.commit(replace)
        self.assertTrue(self.changed.acquire(timeout=PATIENCE))         # its end
        self.wait('/Films')

    def test_a_service_whose_class_is_missing(self):
        said = 'the task service /special is not processed here: the class gone.Special is missing here: install'
        with self.assertLogs('lovely.remotetask', 'WARNING') as caught:
            self.watch()
            missing.addTo(self.db)
            self.add('Films')
            self.wait('/Films', '/TaskService')
            self.remove('Films')
            self.wait('/TaskService')
            self.assertEqual(len(caught.output), 1)                     # once, however often it is met
            self.assertIn(said, caught.output[0])
            self.watch('@Films', '@special')                            # as when the host starts
            self.watch('*@TaskService')                                 # which has nothing to do with it
        self.assertEqual([said in line for line in caught.output if 'not found' not in line], [True, True])

    def test_what_cannot_be_begun_is_tried_again(self):
        watch = self.watch()
        self.fails(watch)

    def test_what_cannot_be_begun_again_is_told_again(self):
        watch = self.watch()
        self.fails(watch)
        self.remove('Films')
        self.wait('/TaskService')
        self.fails(watch)

    def fails(self, watch):
        """Add a service that cannot be begun at first."""
        self.failure = RemoteTaskError('the name is taken')
        with self.assertLogs('lovely.remotetask', 'ERROR') as caught:
            self.add('Films')
            while self.failure is not None:
                self.assertTrue(self.changed.acquire(timeout=PATIENCE))
            watch._wakeup.set()                                         # the next look
            self.wait('/Films', '/TaskService')
        self.assertIn('the task service /Films cannot be processed yet: the name is taken', caught.output[0])

    def test_failures_with_ever_changing_texts_are_told_a_hundred_times(self):
        watch = ServiceWatch(self.db, ['*@*'], self.begin, self.end)
        with self.assertLogs('lovely.remotetask', 'ERROR') as caught:
            for number in range(2 * servicewatch.MOST_TOLD):
                watch._tell(f'at {number}', RemoteTaskError())
        self.assertEqual((len(caught.output), len(watch._told)), (servicewatch.MOST_TOLD + 1, servicewatch.MOST_TOLD))
        self.assertIn('no more such failures are told', caught.output[-1])

    def test_nothing_is_loaded_while_nothing_changes(self):
        watch = ServiceWatch(self.db, ['*@*'], self.begin, self.end)
        self.addCleanup(watch.stop)
        watch.look()
        self.commit(lambda root: root['TaskService'].add('echo', 1))
        loads = self.storage.loads
        self.assertFalse(watch._inTransaction(watch._update))
        self.assertEqual(self.storage.loads, loads)
        self.add('Films')
        self.assertTrue(watch._inTransaction(watch._update))
        self.assertEqual(self.there, ['/TaskService', '/Films'])

    def test_commits_of_jobs_do_not_wake_it(self):
        watch = self.watch()
        watch._wakeup.wait(0.2)
        self.commit(lambda root: root['TaskService'].add('echo', 1))
        self.assertFalse(watch._wakeup.is_set())

    def test_a_database_that_is_closed_without_a_word(self):
        watch = self.watch()
        self.db.close()
        watch._wakeup.set()
        watch._thread.join(PATIENCE)
        self.assertFalse(watch._thread.is_alive())


class TestApplication(WatchCase):
    """In the threads of an application."""

    def test_autostart_follows(self):
        self.enterContext(patch.object(servicewatch, 'INTERVAL', NEVER))
        products.setProductConfigurations({'lovely.remotetask': {'autostart': '@*'}})
        self.addCleanup(products.setProductConfigurations, {})
        with self.assertLogs('lovely.remotetask', 'INFO') as caught:
            bootStrapSubscriber(StartRemoteTasksEvent(self.db))
            self.add('Films')
            jobid = self.commit(lambda root: root['Films'].add('echo', 7))
            self.wait(lambda root: root['Films'].getResult(jobid) == 7)
            self.remove('Films')
            self.wait(lambda root: len(started._running) == 2)          # the watch, and the default service
        self.assertIn('INFO:lovely.remotetask:service Films on site root started', caught.output)
        self.db.close()
        waitUntil(lambda: not any('remotetask' in thread.name for thread in threading.enumerate()))

    def wait(self, condition):
        waitUntil(lambda: self.commit(condition))


class TestProcessor(WatchCase):
    """A processor lets go by itself, whoever has started it."""

    def ends(self, change):
        processor = MultiProcessor(self.db, ('TaskService',), waitTime=0, name='host')
        self.addCleanup(processor.stop)
        with self.assertLogs('lovely.remotetask', 'INFO') as caught:
            processor.start()
            self.commit(change)
            processor.thread.join(PATIENCE)
        self.assertTrue(processor.isServiceRemoved)
        self.assertIn('INFO:lovely.remotetask:processing host host lets go: the task service /TaskService was removed',
                      caught.output)

    def test_a_removed_service(self):
        self.ends(lambda root: removeService(root, '/TaskService'))

    def test_a_replaced_service(self):
        def replace(root):
            removeService(root, '/TaskService')
            addService(root)

        self.ends(replace)

    def test_a_moved_service(self):
        self.enterContext(patch.object(servicewatch, 'INTERVAL', NEVER))
        jobid = self.commit(lambda root: root['TaskService'].add('echo', 1))

        def move(root):
            service = root['TaskService']
            service.pause()
            del root['TaskService']
            root['Moved'] = service

        self.ends(move)
        processor = MultiProcessor(self.db, ('Moved',), waitTime=0, name='host')
        processor.start()                           # under the same name: nobody has that ledger any more
        self.assertTrue(processor.stop(PATIENCE))
        self.assertEqual(len(self.commit(lambda root: root['Moved'].getProcessingHosts())), 0)
        self.assertIn(self.commit(lambda root: root['Moved'].getStatus(jobid)), ('completed', 'queued'))

    def test_the_default_service_is_made_once(self):
        self.remove('TaskService')
        install(self.db)
        self.assertEqual(self.commit(list), [])


class FullProcessor(MultiProcessor):
    """With its threads the process has as many as it may have."""

    isLast = True

    def start(self):
        super().start()
        waitUntil(lambda: len(self.threads) == self.maxThreads)
        if self.isLast:
            threading.stack_size(NO_STACK)


class TestNoMoreThreads(WatchCase):
    """A process takes up a service, and there is no room for another thread."""

    def setUp(self):
        super().setUp()
        self.addCleanup(threading.stack_size, threading.stack_size())
        self.ended = []
        self.hosts = Hosts(self.db, ['*'], lambda path, number: FullProcessor(self.db, path, name='host'),
                           self.ended.append)
        self.addCleanup(lambda: waitUntil(lambda: not self.hosts.processors))
        self.addCleanup(self.hosts.stop, GracePeriod(PATIENCE))

    def checkAnotherTry(self):
        threading.stack_size(0)
        self.enterContext(patch.object(FullProcessor, 'isLast', False))
        one, = self.hosts.start()                       # under the same name
        jobid = self.commit(lambda root: root['TaskService'].add('echo', 1))
        waitUntil(lambda: self.commit(lambda root: root['TaskService'].getStatus(jobid)) == 'completed')
        self.assertFalse(self.ended)

    def test_for_the_processor(self):
        threading.stack_size(NO_STACK)
        with self.assertRaises(RuntimeError):
            self.hosts.start()
        self.checkAnotherTry()

    def test_for_what_waits_for_its_end(self):
        with self.assertRaises(RuntimeError):
            self.hosts.start()
        self.assertFalse(self.hosts.processors)
        self.checkAnotherTry()


class TestProcesses(DeploymentCase):
    """A front end and a host take part while they run."""

    level = 2
    hostNames = ('host-1',)
    handlers = {'echo': 'echo', 'wait': 'wait'}
    tasks = ('import time\n\ndef echo(input):\n    return input\n\n'
             'def wait(input):\n    print("waits", flush=True)\n    time.sleep(input)\n')

    def client(self, path):
        return self.enterContext(Client(f'{self.url}{path}'))

    def change(self, function):
        """Change the services as another process does."""
        with self.db.transaction() as connection:
            function(connection.root()[ROOT_NAME])

    def runs(self, client, input):
        jobid = client.add('echo', input)
        client.waitFor([jobid], PATIENCE)
        return client.getResult(jobid) == input

    def test_add_and_remove(self):
        self.db = self.server.database()
        films = self.client('Films')
        self.change(lambda root: addService(root, 'Films', 'Films'))
        self.assertTrue(self.runs(films, 'new'))
        self.waitUntil(lambda: 'of /Films has started' in self.said(), 'the log')
        films.add('wait', PATIENCE)
        self.hosts[0].waitFor('waits')
        with self.assertRaisesRegex(RemoteTaskError, 'has jobs that have not ended, 1 of them'):
            self.change(lambda root: removeService(root, '/Films'))
        self.change(lambda root: removeService(root, '/Films', force=True))
        self.waitUntil(lambda: 'lets go: the task service /Films was removed' in self.said(), 'its end')
        with self.assertRaisesRegex(Exception, "there is no task service at '/Films'"):
            films.add('echo', 'late')
        self.assertTrue(self.runs(self.client(''), 'the others go on'))
        self.assertEqual(self.hosts[0].end(), 0)


if __name__ == '__main__':
    unittest.main()
