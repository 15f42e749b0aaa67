"""Callers that wait for jobs: they are parked, woken by commits, and told when the database is away."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import dataclasses
import functools
import gzip
import os
import shutil
import socket
import ssl
import struct
import tempfile
import threading
import unittest
import unittest.mock
import xmlrpc.client

import trustme
from transaction import TransactionManager
from ZEO.Exceptions import ClientDisconnected
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask.database.notifications import CommitNotifier
from lovely.remotetask.database.opening import Database
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import findService
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import temporaryZEO
from lovely.remotetask.xmlrpc import faults
from lovely.remotetask.xmlrpc import waiting
from lovely.remotetask.xmlrpc.gateway import Gateway
from lovely.remotetask.xmlrpc.server import Frontend
from lovely.remotetask.xmlrpc.tls import Certificate
from servercase import WAIT
from servercase import ServerCase
from threads import inThread
from waits import waitUntil


def request(method, *arguments, path='/'):
    """Return a request, bytes."""
    body = xmlrpc.client.dumps(arguments, method, allow_none=True).encode()
    return f'POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n'.encode() + body


class WaitingCase(ServerCase):

    def setUp(self):
        self.ofTheWatcher = set()               # connections that it has had
        super().setUp()
        self.jobids = [self.proxy().add('echo', [number]) for number in range(3)]

    def resolve(self, connection, path):
        if threading.current_thread().name == 'remotetask-watcher':
            self.ofTheWatcher.add(connection)
        return super().resolve(connection, path)

    def waitFor(self, *arguments):
        """Wait for jobs in a thread, and until the caller is parked; return the thread and its outcome."""
        before = self.waiting
        caller = inThread(self.proxy().waitFor, *arguments)
        self.waitUntil(lambda: self.waiting > before)
        return caller

    def assertAnswer(self, caller, answer):
        thread, outcome = caller
        thread.join(WAIT)
        self.assertEqual(outcome, [answer])

    def assertNobodyWaits(self):
        self.waitUntil(lambda: not self.waiting and not self.watched and not self.gateway.statistics()['watchers'])

    @property
    def waiting(self):
        """How many callers wait for jobs."""
        return self.frontend.statistics()['waitingForJobs']

    @property
    def watched(self):
        """How many jobs are waited for."""
        return self.gateway.statistics()['watchedJobs']


class TestWaitFor(WaitingCase):

    level = 2

    def test_what_has_ended_is_answered_at_once(self):
        proxy = self.proxy()
        first, second, third = self.jobids
        self.assertEqual(proxy.waitFor([]), [])
        self.assertEqual(proxy.waitFor([first, second], 0), ['queued', 'queued'])
        proxy.cancel(second)
        self.assertEqual(proxy.waitFor([first, second], 3600, True), ['queued', 'cancelled'])
        proxy.cancel(first)
        self.assertEqual(proxy.waitFor([second, first, second]), ['cancelled'] * 3)
        self.assertFalse(self.gateway.statistics()['isWatching'])

    def test_all(self):
        first, second, third = self.jobids
        caller = self.waitFor([second, first], WAIT)
        self.proxy().cancel(first)
        self.proxy().cancel(third)
        self.waitUntil(lambda: self.watched == 1)
        self.assertEqual(self.waiting, 1)
        self.proxy().cancel(second)
        self.assertAnswer(caller, ['cancelled', 'cancelled'])
        self.assertNobodyWaits()

    def test_any(self):
        callers = [self.waitFor(self.jobids, WAIT, True) for _ in range(3)]
        self.proxy().cancel(self.jobids[2])
        for caller in callers:
            self.assertAnswer(caller, ['queued', 'queued', 'cancelled'])
        self.assertNobodyWaits()

    def test_jobs_that_others_end(self):
        # A file storage does not tell of it: the watcher looks every second.
        caller = self.waitFor(self.jobids[:1], WAIT)
        with self.db.transaction() as connection:
            connection.root()['/'].process()
        self.assertAnswer(caller, ['completed'])

    def test_end_of_time(self):
        self.assertEqual(self.proxy().waitFor(self.jobids, 0.2), ['queued'] * 3)
        self.assertNobodyWaits()

    def test_removed_jobs(self):
        first, second, third = self.jobids
        caller = self.waitFor([first, second], WAIT)
        self.proxy().cancel(first)
        self.proxy().clean()
        self.proxy().cancel(second)
        self.assertAnswer(caller, [None, 'cancelled'])
        self.assertFault(faults.UNKNOWN_JOB, f'no job {first}', self.proxy().waitFor, [second, first])

    def test_a_service_that_is_upgraded_beyond_this_release(self):
        caller = self.waitFor(self.jobids[:1], WAIT)
        with self.db.transaction() as connection:
            service = connection.root()['/']
            service.jobs[self.jobids[0]].touch()
            service.needs = 99
        caller[0].join(WAIT)
        self.assertEqual(caller[1][0].faultCode, faults.WRONG_GENERATION)
        self.assertNobodyWaits()

    def test_arguments(self):
        for code, sentence, *arguments in (
                (faults.BAD_ARGUMENTS, 'there may be 1000 jobids, 1001 were given', [1] * 1001),
                (faults.BAD_ARGUMENTS, 'timeout must be 0 to 3600', [1], -1),
                (faults.BAD_ARGUMENTS, 'timeout must be 0 to 3600', [1], 3600.5),
                (faults.WRONG_TYPE, 'jobids is to be an array of int', ['1']),
                (faults.WRONG_TYPE, 'jobids is to be array', 1)):
            self.assertFault(code, sentence, self.proxy().waitFor, *arguments)

    def test_client_that_goes_is_forgotten(self):
        before = self.frontend.statistics()['connections']
        for isReset in False, True:
            connection = self.socket()
            connection.sendall(request('waitFor', self.jobids, 3600))
            self.waitUntil(lambda: self.watched == 3)
            if isReset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            connection.close()
            self.assertNobodyWaits()
            self.waitUntil(lambda: self.frontend.statistics()['connections'] == before)

    def test_the_next_one_with_its_connection_sees_all(self):
        connection = self.socket()
        connection.sendall(request('waitFor', self.jobids, 3600))
        self.waitUntil(lambda: self.gateway.statistics()['foundJobs'] == 3)
        [used] = self.ofTheWatcher
        connection.close()
        self.waitUntil(lambda: not self.gateway.statistics()['isWatching'])
        with contextlib.ExitStack() as stack:
            opened = [self.db.open(TransactionManager()) for _ in range(5)]
            for other in opened:
                stack.callback(other.close)
            self.assertIn(used, opened)
            jobs = used.root()['/'].jobs
            self.assertEqual([jobs[jobid].input for jobid in self.jobids], [[0], [1], [2]])

    def test_connection_is_kept(self):
        connection = self.socket()
        # It asks on while it waits.
        connection.sendall(request('waitFor', self.jobids, 3600, True) + request('getStatus', self.jobids[0]))
        self.waitUntil(lambda: self.waiting)
        self.proxy().cancel(self.jobids[0])
        connection.sendall(request('getAvailableTasks') + request('waitFor', self.jobids[:1]))
        connection.shutdown(socket.SHUT_WR)
        answers = self.receive(connection).split(b'HTTP/1.1 200 OK')
        self.assertEqual([answer.count(b'cancelled') for answer in answers], [0, 1, 1, 0, 1])
        self.assertIn(b'echo', answers[3])

    def test_callers_are_told_that_it_stops(self):
        caller = self.waitFor(self.jobids, WAIT)
        self.assertTrue(self.frontend.stop(WAIT))
        caller[0].join(WAIT)
        self.assertEqual(caller[1][0].faultCode, faults.STOPPING)

    def test_many_callers_take_no_threads(self):
        before = threading.active_count()
        connections = [self.socket() for _ in range(300)]
        for number, connection in enumerate(connections, 1):
            connection.sendall(request('waitFor', self.jobids, 3600))
            if number % 50 == 0:                # so that there are not too many at a time that begin to wait
                self.waitUntil(lambda: self.waiting == number)
        self.waitUntil(lambda: not self.frontend.statistics()['calls'])
        self.assertServing()
        for jobid in self.jobids:
            self.proxy().cancel(jobid)
        for connection in connections:
            self.assertIn(b'cancelled', connection.recv(65536))
        self.assertLess(threading.active_count() - before, 220)


class TestWakeup(unittest.TestCase):

    level = 2

    def test_what_was_written(self):
        notifier, wakeup = CommitNotifier(), waiting.Wakeup()
        notifier.subscribe(wakeup)
        self.assertIsNone(wakeup.take())        # whatever it was
        wakeup.interest = {b'1', b'2'}
        notifier.notify(oids=[b'3'])
        self.assertFalse(wakeup.is_set())
        notifier.notify(oids=[b'1', b'3'])
        notifier.notify(oids=[b'2'])
        self.assertTrue(wakeup.is_set())
        self.assertEqual(wakeup.take(), {b'1', b'2'})
        self.assertFalse(wakeup.is_set())
        wakeup.set()                            # something ordered
        self.assertEqual(wakeup.take(), set())
        notifier.notify(oids=[b'1'])
        notifier.notify()
        self.assertIsNone(wakeup.take())


class FailingDB(DB):
    """Opens no connection for the watcher while `fails`."""

    fails, attempts = False, 0

    def open(self, *arguments, **options):
        if self.fails and threading.current_thread().name == 'remotetask-watcher':
            self.attempts += 1
            raise ClientDisconnected()
        return super().open(*arguments, **options)


class TestFailures(unittest.TestCase):
    """The watcher, while the database fails it; nothing but orders and commits wakes it."""

    waitUntil = staticmethod(waitUntil)

    def setUp(self):
        self.addCleanup(testing.tearDown)
        self.enterContext(unittest.mock.patch.object(waiting, 'POLL_INTERVAL', 3600))
        provideUtility(SimpleTask(len), name='echo')
        self.db = FailingDB(MappingStorage())
        self.addCleanup(self.db.close)
        install(self.db)
        self.watcher = waiting.JobWatcher(self.db, self.resolve)

    def start(self):
        self.watcher.start()
        self.addCleanup(self.watcher.stop, WAIT)

    def resolve(self, connection, path):
        if self.db.fails:
            raise ClientDisconnected()
        return findService(connection.root()[ROOT_NAME], '/')

    def do(self, name, *arguments):
        with self.db.transaction() as connection:
            return getattr(findService(connection.root()[ROOT_NAME], '/'), name)(*arguments)

    def order(self):
        """Have the watcher look."""
        self.watcher.forget(waiting.Wait('/', [1], False, None))

    def test_a_job_that_ends_meanwhile(self):
        self.start()
        jobid, woken = self.do('add', 'echo', ''), threading.Event()
        self.watcher.watch(waiting.Wait('/', [jobid], False, woken.set))
        self.waitUntil(lambda: self.watcher.statistics()['foundJobs'])
        self.db.fails = True
        with self.assertLogs('lovely.remotetask', 'WARNING'):
            self.do('cancel', jobid)
            self.waitUntil(lambda: self.watcher.isAway)
        self.order()
        self.waitUntil(lambda: self.db.attempts)
        self.db.fails = False
        self.order()
        self.assertTrue(woken.wait(WAIT))

    def test_callers_who_come_and_go_leave_nothing(self):
        for number in range(1, 4):
            wait = waiting.Wait('/', [number], False, None)
            self.watcher.watch(wait)
            self.watcher.forget(wait)
        self.start()
        self.waitUntil(lambda: not self.watcher._orders)
        self.assertTrue(self.watcher.stop(WAIT))
        self.assertEqual(self.watcher._new, [])


class TestLimits(WaitingCase):

    level = 2

    limits = dataclasses.replace(ServerCase.limits, waiting=2, largeBodies=1)

    def test_callers_keep_no_turn(self):
        body = gzip.compress(xmlrpc.client.dumps((self.jobids, WAIT, True), 'waitFor').encode())
        callers = [inThread(functools.partial(self.post, body, Content_Encoding='gzip')) for _ in range(2)]
        self.waitUntil(lambda: self.waiting == 2)
        body = gzip.compress(xmlrpc.client.dumps((self.jobids[0],), 'cancel').encode())
        self.assertEqual(self.post(body, Content_Encoding='gzip')[0], 200)
        for thread, outcome in callers:
            thread.join(WAIT)
            self.assertIn(b'cancelled', outcome[0][2])

    def test_callers_are_limited(self):
        callers = [self.waitFor(self.jobids, WAIT, True) for _ in range(2)]
        with self.assertRaises(xmlrpc.client.ProtocolError) as caught:
            self.proxy().waitFor(self.jobids)
        self.assertEqual((caught.exception.errcode, caught.exception.headers['Retry-After']), (503, '1'))
        self.assertEqual(self.proxy().waitFor(self.jobids, 0), ['queued'] * 3)
        self.proxy().cancel(self.jobids[0])
        for caller in callers:
            self.assertAnswer(caller, ['cancelled', 'queued', 'queued'])

    def test_jobs_are_limited(self):
        self.addCleanup(setattr, waiting, 'JOBS', waiting.JOBS)
        waiting.JOBS = 2
        with self.assertRaises(xmlrpc.client.ProtocolError) as caught:
            self.proxy().waitFor(self.jobids)
        self.assertEqual(caught.exception.errcode, 503)
        self.waitFor(self.jobids[:2], WAIT)


class TestTLS(WaitingCase):

    level = 2

    def setUp(self):
        super().setUp()
        authority = trustme.CA()
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        path = os.path.join(directory, 'certificate.pem')
        authority.issue_cert('127.0.0.1').private_key_and_cert_chain_pem.write_to_path(path)
        self.frontend = Frontend(('127.0.0.1', 0), self.gateway, self.limits, Certificate(path))
        inThread(self.frontend.serveForever)
        self.addCleanup(self.frontend.stop, WAIT)
        self.context = ssl.create_default_context()
        authority.configure_trust(self.context)

    def proxy(self, path='/'):
        if not hasattr(self, 'context'):
            return super().proxy(path)
        host, port = self.frontend.address
        proxy = xmlrpc.client.ServerProxy(f'https://{host}:{port}{path}', allow_none=True, context=self.context)
        self.addCleanup(proxy('close'))
        return proxy

    def test_calls(self):
        proxy = self.proxy()
        value = 'x' * 2_000_000             # many records, in both directions
        jobid = proxy.add('echo', value)
        with self.db.transaction() as connection:
            connection.root()['/'].jobs[jobid].output = value
        self.assertEqual(proxy.getResult(jobid), value)

    def test_waiting(self):
        caller = self.waitFor(self.jobids, WAIT, True)
        self.proxy().cancel(self.jobids[0])
        self.assertAnswer(caller, ['cancelled', 'queued', 'queued'])

    def test_pipelined_calls_in_one_record(self):
        connection = self.context.wrap_socket(self.socket(), server_hostname='127.0.0.1')
        self.addCleanup(connection.close)
        connection.sendall(request('getAvailableTasks') * 3)
        answer = b''
        while answer.count(b'</methodResponse>') < 3:
            piece = connection.recv(65536)
            self.assertTrue(piece, answer)
            answer += piece

    def test_what_is_no_TLS(self):
        for data in (b'', b'POST / HTTP/1.1\r\n\r\n', b'\x16\x03\x01\x02\x00\x01\x00', b'\x00' * 70000):
            with contextlib.suppress(OSError):
                self.send(data)
        idle = self.socket()                # shakes no hands
        self.assertServing()
        idle.close()


class TestOverZEO(ServerCase):
    """The frontend is one client of a database server, the processing hosts are others."""

    level = 2

    def setUp(self):
        self.addCleanup(testing.tearDown)
        for name in 'square', 'echo':
            provideUtility(SimpleTask(len), name=name)
        self.zeo = self.enterContext(temporaryZEO())
        self.host = self.open()
        install(self.host)
        self.gateway = Gateway(self.open(), lambda connection, path: findService(connection.root()[ROOT_NAME], path),
                               deadline=2)
        self.gateway.start()
        self.addCleanup(self.gateway.stop, WAIT)
        self.frontend = Frontend(('127.0.0.1', 0), self.gateway, self.limits)
        self.serving, _ = inThread(self.frontend.serveForever)
        self.addCleanup(self.frontend.stop, WAIT)
        self.jobids = [self.proxy().add('echo', [number]) for number in range(3)]

    def resolve(self, connection, path):
        if threading.current_thread().name == 'remotetask-watcher':
            self.ofTheWatcher.add(connection)
        return super().resolve(connection, path)

    def open(self):
        database = Database(self.zeo.database)
        self.addCleanup(database.close)
        return database.db

    def cancel(self, jobid):
        """Cancel a job in another client of the database server."""
        with self.host.transaction() as connection:
            findService(connection.root()[ROOT_NAME], '/').cancel(jobid)

    def test_callers_are_woken_by_commits(self):
        self.addCleanup(setattr, waiting, 'POLL_INTERVAL', waiting.POLL_INTERVAL)
        waiting.POLL_INTERVAL = 10 * WAIT
        callers = [inThread(self.proxy().waitFor, self.jobids[:count], WAIT) for count in (1, 2, 3)]
        self.waitUntil(lambda: self.gateway.statistics()['watchedJobs'] == 3)
        for jobid, (thread, outcome) in zip(self.jobids, callers):
            self.cancel(jobid)
            thread.join(WAIT)
            self.assertEqual(set(outcome[0]), {'cancelled'})
        self.waitUntil(lambda: not self.gateway.statistics()['watchedJobs'])

    def test_outage(self):
        short, long = [inThread(self.proxy().waitFor, self.jobids, timeout, True) for timeout in (4, 10 * WAIT)]
        self.waitUntil(lambda: self.gateway.statistics()['watchers'] == 2)
        self.zeo.kill()
        short[0].join(WAIT)
        self.assertEqual(short[1][0].faultCode, faults.DATABASE_UNAVAILABLE)
        self.zeo.start()
        self.cancel(self.jobids[0])
        long[0].join(WAIT)
        self.assertEqual(long[1], [['cancelled', 'queued', 'queued']])


if __name__ == '__main__':
    unittest.main()
