"""The clients of a database server that a process has open, and what their connections see."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import os
import signal
import socket
import threading
import unittest
from concurrent import futures

import transaction
from persistent.mapping import PersistentMapping
from ZEO.ClientStorage import ClientStorage
from ZODB.DB import DB
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask.database.connections import SeparateClient
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.opening import Database
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.processing import claim_loop as claimloop
from lovely.remotetask.processing import worker_pool as workerpool
from lovely.remotetask.processing.load_sharing import WARM
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import runDueJobs
from lovely.remotetask.testing import temporaryZEO
from lovely.remotetask.testing import waitForJobs
from processorcase import PATH
from processorcase import claimOne
from waits import PATIENCE
from waits import waitUntil


class Relay:
    """Stands between one client and a database server, and holds back what the server says.

    address -- the pair of host and port for the client.
    passes -- an event: what the server says is passed on as long as it is set.
    asked -- an event: the client has asked the server for something.
    """

    def __init__(self, server):
        self.passes, self.asked = threading.Event(), threading.Event()
        self.passes.set()
        self._server, self._listener = server, self._listen()
        self.address, self._sockets = self._listener.getsockname(), [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _listen(self):
        return socket.create_server(('127.0.0.1', 0))

    def _connect(self):
        return socket.create_connection(self._server)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, server = self._listener.accept()[0], self._connect()
                self._sockets += client, server
                for arguments in (client, server, False), (server, client, True):
                    self._threads.append(threading.Thread(target=self._pass, args=arguments))
                    self._threads[-1].start()

    def _pass(self, source, target, isHeld):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if isHeld:
                    self.passes.wait()
                else:
                    self.asked.set()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def close(self):
        """End all connections."""
        self.passes.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(PATIENCE)


class TestClients(unittest.TestCase):
    """The clients of a database server that a process has open."""

    level = 2

    def setUp(self):
        self.addCleanup(testing.tearDown)
        self.zeo = self.enterContext(temporaryZEO())

    def database(self):
        database = Database(self.zeo.database)
        self.addCleanup(database.close)
        return database

    def test_lent_while_somebody_has_it(self):
        database = self.database()
        beside = database.taskClient
        first, second = beside.acquire(), beside.acquire()
        self.assertIs(first, second)
        self.assertIsNot(first, database.db)
        storage = first.storage
        beside.release()
        self.assertTrue(storage.is_connected())
        beside.release()
        self.assertFalse(storage.is_connected())
        self.assertIsNot(beside.acquire(), first)

    def test_closed_at_the_end_though_somebody_has_it(self):
        database = self.database()
        storage = database.taskClient.acquire().storage
        self.assertTrue(storage.is_connected())
        database.close()
        self.assertFalse(storage.is_connected())
        database.taskClient.release()

    def test_other_databases_have_one_client(self):
        with contextlib.closing(Database(lambda: DB(None))) as database:
            self.assertIs(database.taskClient.acquire(), database.db)
            database.taskClient.release()
            database.db.open().close()

    def test_looks_at_a_database_that_tells_of_commits_are_rare(self):
        database = self.database()
        for db, seconds in (database.db, claimloop.TOLD), (DB(None), 0.1):
            with contextlib.closing(db):
                self.assertEqual(MultiProcessor(db, PATH, waitTime=0.1).loop.idleTime(), seconds)

    def test_a_run_sees_what_was_there_when_its_job_was_claimed(self):
        # The client of the tasks hears later of a commit than the client that claims.
        begun = threading.Semaphore(0)

        def read(service, jobid, input):
            begun.release()
            return service.data.get('there')

        provideUtility(read, ITask, 'read')
        database = self.database()
        install(database.db)
        with database.db.transaction() as connection:
            connection.root()['Application']['TaskService'].data = PersistentMapping()
        relay = Relay(self.zeo.address)
        self.addCleanup(relay.close)
        tasks = SeparateClient(lambda: DB(ClientStorage(relay.address, wait_timeout=PATIENCE)), lambda db: db.close())
        self.addCleanup(tasks.close)
        host = MultiProcessor(database.db, PATH, maxThreads=1, taskClient=tasks)
        host.start()
        self.addCleanup(host.stop, PATIENCE)
        self.addCleanup(relay.passes.set)

        def add(value):
            with client.transaction() as connection:
                service = connection.root()['Application']['TaskService']
                service.data['there'] = value
                return service.add('read')

        def result(jobid):
            wakeup = threading.Event()
            notifierOf(client).subscribe(wakeup)
            while True:
                with client.transaction() as connection:
                    service = connection.root()['Application']['TaskService']
                    if service.getStatus(jobid) in FINAL:
                        return service.getResult(jobid)
                self.assertTrue(wakeup.wait(PATIENCE))
                wakeup.clear()

        client = self.database().db
        self.assertEqual(result(add('first')), 'first')     # in memory now, where the next run looks
        self.assertTrue(begun.acquire(timeout=PATIENCE))
        relay.passes.clear()
        jobid = add('second')
        waitUntil(host.inFlight.executions)                 # a thread has taken it
        self.assertFalse(begun.acquire(timeout=0.3))
        relay.passes.set()
        self.assertEqual(result(jobid), 'second')

    def test_the_end_of_a_run_is_settled_once_it_can_be_seen(self):
        # The client that claims hears later of a commit than the one of the tasks, which has made it.
        def write(service, jobid, input):
            service.data['written'] = input

        provideUtility(write, ITask, 'write')
        direct = self.database()
        install(direct.db)
        with direct.db.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            service.data = PersistentMapping()
            jobid = service.add('write', 1)
        relay = Relay(self.zeo.address)
        self.addCleanup(relay.close)
        behind = DB(ClientStorage(relay.address, wait_timeout=PATIENCE))
        self.addCleanup(behind.close)
        # For its clock no time goes by: else it has a heartbeat to write, or others to look at, when this takes long.
        host = MultiProcessor(behind, PATH, taskClient=direct.taskClient, schedule=False, monotonic=lambda: 100.0)
        host._attach()
        self.addCleanup(host.cycle.close)
        self.addCleanup(relay.passes.set)
        claim = claimOne(host)
        host.loop.iterate()                             # all that an iteration looks at has been loaded
        relay.passes.clear()
        with contextlib.closing(host._worker()) as worker:
            reports = host.loop.reports = [worker.run(claim)]
        self.assertLess(behind.lastTransaction(), reports[0].tid)
        turn = threading.Thread(target=host.loop.iterate, daemon=True)
        turn.start()
        turn.join(PATIENCE)
        self.assertFalse(turn.is_alive())               # it has nothing to write
        self.assertEqual(host.loop.reports, reports)
        relay.passes.set()
        waitUntil(lambda: behind.lastTransaction() >= reports[0].tid)
        host.loop.iterate()
        self.assertEqual(host.loop.reports, [])
        with direct.db.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            self.assertEqual((service.getStatus(jobid), service.jobs[jobid].errors), (COMPLETED, ()))

    def test_waiting_for_jobs_sees_what_another_client_has_committed(self):
        provideUtility(SimpleTask(lambda input: input), name='echo')
        direct, relay = self.database().db, Relay(self.zeo.address)
        self.addCleanup(relay.close)
        install(direct)
        behind = DB(ClientStorage(relay.address, wait_timeout=PATIENCE))
        self.addCleanup(behind.close)

        def run():
            with direct.transaction() as connection:
                service = connection.root()['Application']['TaskService']
                jobid = service.add('echo', 1)
                runDueJobs(service)
            return jobid

        waits = futures.ThreadPoolExecutor(1)
        self.addCleanup(waits.shutdown)
        with contextlib.closing(behind.open(transaction.TransactionManager())) as connection:
            service = connection.root()['Application']['TaskService']
            self.assertEqual(waitForJobs(service, [run()]), [COMPLETED])    # all that this looks at has been loaded
            relay.passes.clear()
            self.addCleanup(relay.passes.set)
            jobid = run()
            relay.asked.clear()
            waiting = waits.submit(waitForJobs, service, [jobid])
            self.assertTrue(relay.asked.wait(PATIENCE))
            relay.passes.set()
            self.assertEqual(waiting.result(PATIENCE), [COMPLETED])
            service._p_jar.transaction_manager.abort()

    def test_idle_hosts_have_one_client(self):
        provideUtility(SimpleTask(lambda input: 2 * input), name='double')
        self.addCleanup(setattr, workerpool, 'REST', workerpool.REST)
        workerpool.REST = 0.1
        databases = [self.database()]
        install(databases[0].db)
        databases += (self.database() for _ in range(WARM + 1))     # now: they are to see the service
        opened, closed, hosts = [], threading.Event(), []
        for number, database in enumerate(databases[1:]):
            # Each one but the last knows of those before it when it starts; and that one is to give its client back.
            if number == WARM:
                open, close = database._open, database._shut
                database.taskClient = SeparateClient(lambda: opened.append(1) or open(),
                                                     lambda db: (close(db), closed.set()))
            hosts.append(MultiProcessor(database.db, PATH, name=f'host-{number}', taskClient=database.taskClient))
            hosts[-1].start()
            self.addCleanup(hosts[-1].stop, PATIENCE)
        self.assertTrue(closed.wait(PATIENCE))
        self.assertEqual(opened, [1])
        for host in hosts[:-1]:
            self.assertTrue(host.stop(PATIENCE))
        wakeup = threading.Event()
        notifierOf(databases[0].db).subscribe(wakeup)
        manager = transaction.TransactionManager()
        with contextlib.closing(databases[0].db.open(manager)) as connection:
            for attempt in manager.attempts(10):
                with attempt:
                    service = connection.root()['Application']['TaskService']
                    jobid = service.add('double', 4)
            while service.getStatus(jobid) not in FINAL:
                self.assertTrue(wakeup.wait(PATIENCE))
                wakeup.clear()
                manager.begin()
            self.assertEqual(service.getResult(jobid), 8)
            manager.abort()
        self.assertEqual(opened, [1, 1])

    def test_runs_that_are_given_up_are_no_errors(self):
        begun, go = [], threading.Event()
        self.addCleanup(go.set)

        def touch(service, jobid, input):
            begun.append(jobid)
            wakeup.set()
            go.wait(PATIENCE)
            service.schedule.scheduler                     # of a database that has been closed by now

        provideUtility(touch, ITask, 'touch')
        database = self.database()
        install(database.db)
        with database.db.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            jobids = [service.add('touch') for _ in range(5)]
        host = MultiProcessor(database.db, PATH, maxThreads=2, taskClient=database.taskClient)
        wakeup = threading.Event()
        host.start()
        while len(begun) < 2:
            self.assertTrue(wakeup.wait(PATIENCE))
            wakeup.clear()
        os.kill(self.zeo.pid, signal.SIGSTOP)           # from now on its own thread waits for the database
        try:
            with self.assertLogs('lovely.remotetask', 'INFO') as logs:
                self.assertFalse(host.stop(0, wait=0))
                database.close()
                go.set()
                for thread in (host.thread, *host.threads):
                    thread.join(PATIENCE)
                    self.assertFalse(thread.is_alive())
        finally:
            os.kill(self.zeo.pid, signal.SIGCONT)
        self.assertEqual([record.getMessage() for record in logs.records if record.levelno >= logging.ERROR], [])
        text = 'was ended: the processing host stops; after that it met'
        self.assertEqual(sum(text in record.getMessage() for record in logs.records), 2, logs.output)
        self.assertEqual(len(begun), 2)
        with self.zeo.database().transaction() as connection:
            service = connection.root()['Application']['TaskService']
            self.assertEqual({service.getStatus(jobid) for jobid in jobids} & set(FINAL), set())


if __name__ == '__main__':
    unittest.main()
