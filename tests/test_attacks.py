"""Attacks on a front end, which is a process of its own: honest clients are answered meanwhile, memory is bounded."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import gzip
import os
import re
import resource
import shutil
import socket
import struct
import tempfile
import threading
import time
import unittest
import xmlrpc.client

from lovely.remotetask.testing import Process
from threads import inThread
from waits import PATIENCE


#: Seconds that an honest client waits for an answer.
HONEST = 20

#: Bytes that the process may take more than before an attack; far less than what the attackers send.
MEMORY = 250 * 1024 * 1024

CONF = """\
<frontend>
  address 127.0.0.1:0
  {settings}
</frontend>
<eventlog>
  <logfile>
    path log
  </logfile>
</eventlog>
"""


class _Transport(xmlrpc.client.Transport):
    """Waits for an answer as long as an honest client does."""

    def make_connection(self, host):
        connection = super().make_connection(host)
        connection.timeout = HONEST
        return connection


def head(length, *lines):
    """Return the head of a call, bytes."""
    return '\r\n'.join(['POST / HTTP/1.1', 'Host: x', f'Content-Length: {length}', *lines, '', '']).encode()


#: The head of a request with a body in chunks.
CHUNKED = b'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n'


def call(method, *arguments):
    """Return a call, bytes."""
    body = xmlrpc.client.dumps(arguments, method, allow_none=True).encode()
    return head(len(body)) + body


class AttackTest(unittest.TestCase):

    settings = ''

    def setUp(self):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))      # for the clients
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        self.log = os.path.join(directory, 'log')
        path = os.path.join(directory, 'frontend.conf')
        with open(path, 'w') as file:
            file.write(CONF.format(settings=self.settings))
        self.process = Process(['-m', 'lovely.remotetask.cli.main', '-C', path, 'frontend'], directory)
        self.addCleanup(self.process.close)
        self.url = self.process.waitFor('listening on ')
        self.process.waitFor('ready')
        host, port = re.fullmatch('http://(.+):([0-9]+)/', self.url).groups()
        self.address = host, int(port)
        with self.honest() as client:
            client.getAvailableTasks()
        self.memory = self.resident()

    def honest(self):
        return xmlrpc.client.ServerProxy(self.url, _Transport(), allow_none=True, use_builtin_types=True)

    def resident(self):
        """Return how much memory the process has, in bytes; 0 where the system does not say so."""
        try:
            with open(f'/proc/{self.process.popen.pid}/statm') as file:
                return int(file.read().split()[1]) * resource.getpagesize()
        except FileNotFoundError:
            return 0

    def peak(self):
        """Return how much memory the process has had at most, in bytes; 0 where the system does not say so."""
        with contextlib.suppress(FileNotFoundError), open(f'/proc/{self.process.popen.pid}/status') as file:
            return 1024 * int(re.search('VmHWM: *([0-9]+) kB', file.read().replace('\t', ' '))[1])
        return 0

    def assertServing(self):
        """Assert that honest clients are answered, new ones and kept connections, and that memory is bounded."""
        for _ in range(3):
            with self.honest() as client:
                jobid = client.add('echo', 'x' * 1000, True)
                self.assertEqual(client.getStatus(jobid), 'start later')
                client.cancel(jobid)
                self.assertEqual(client.waitFor([jobid]), ['cancelled'])
        self.assertLess(self.resident() - self.memory, MEMORY)

    def connect(self):
        connection = socket.create_connection(self.address, PATIENCE)
        self.addCleanup(connection.close)
        return connection

    def answer(self, data, isLast=True):
        """Send bytes, as far as they are taken, and return all that comes back."""
        connection = self.connect()
        with contextlib.suppress(OSError):
            connection.sendall(data)
            if isLast:
                connection.shutdown(socket.SHUT_WR)
        return self.receive(connection)

    def receive(self, connection):
        pieces = []
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                pieces.append(piece)
        return b''.join(pieces)

    def drip(self, connections, data=b'x'):
        """Send the data over all connections again and again; those that are cut off connect anew.

        connections -- pairs of a connection and what it had sent at first.

        Return a function that ends it, as the end of the test does.
        """
        over = threading.Event()

        def run():
            alive = dict(connections)
            while not over.wait(0.2):
                for connection in list(alive):
                    try:
                        connection.send(data)
                    except OSError:
                        begin = alive.pop(connection)
                        connection.close()
                        with contextlib.suppress(OSError):
                            connection = self.connect()
                            connection.sendall(begin)
                            connection.setblocking(False)
                            alive[connection] = begin
        thread, _ = inThread(run)

        def stop():
            over.set()
            thread.join(PATIENCE)
        self.addCleanup(stop)
        return stop

    def slow(self, *begins):
        """Return what `drip` takes: a connection for each of the beginnings."""
        connections = []
        for begin in begins:
            connection = self.connect()
            connection.sendall(begin)
            connection.setblocking(False)
            connections.append((connection, begin))
        return connections

    def callers(self, count):
        """Have so many honest clients call for a second, all the time; return a function that waits for their end."""
        def run():
            until = time.monotonic() + 1
            with self.honest() as client:
                while time.monotonic() < until:
                    client.getStatus(client.add('echo', None, True))
        callers = [inThread(run) for _ in range(count)]

        def join():
            for thread, outcome in callers:
                thread.join(PATIENCE)
                self.assertEqual(outcome, [None])
        return join


class TestSlowClients(AttackTest):

    level = 2

    settings = 'request-timeout 3s'

    def test_slow_heads_and_bodies(self):
        self.drip(self.slow(*[b'POST / HTTP/1.1\r\nX: ', head(100_000)] * 200))
        self.callers(8)()
        self.assertServing()

    def test_slow_large_bodies(self):
        self.drip_large(head(8_000_000))

    def test_slow_large_bodies_in_chunks(self):
        self.drip_large(CHUNKED + b'7a1200\r\n')

    def drip_large(self, begin):
        # Together 400 MB, again and again.
        stop = self.drip(self.slow(*[begin + b'x' * 2_000_000] * 200))
        self.callers(8)()
        self.assertServing()
        stop()
        with self.honest() as client:
            jobid = client.add('echo', 'x' * 1_000_000, True)
            self.assertEqual(client.getStatus(jobid), 'start later')
        self.assertServing()
        self.assertLess(self.peak() - self.memory, MEMORY)

    def test_slow_headers_without_end(self):
        self.drip(self.slow(*[b'POST / HTTP/1.1\r\n'] * 100), b'X: y\r\n' * 20)
        self.assertServing()

    def test_clients_that_read_nothing(self):
        with self.honest() as client:
            jobids = [client.add('echo', 'x' * 100, True) for _ in range(1000)]
        body = call('waitFor', jobids, 0)
        # More than there are threads, each of whom asks for more than fits on the way.
        for _ in range(250):
            connection = socket.socket()
            self.addCleanup(connection.close)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(self.address)
            connection.sendall(body * 2)
        self.assertServing()


class TestManyClients(AttackTest):

    level = 2

    def test_silent_connections(self):
        connections = [self.connect() for _ in range(3000)]
        self.assertServing()
        self.assertLess(len(os.listdir(f'/proc/{self.process.popen.pid}/task')), 50)
        del connections

    def test_two_thousand_callers_wait(self):
        with self.honest() as client:
            jobids = [client.add('echo', None, True) for _ in range(100)]
            connections = []
            for number in range(2000):
                connection = self.connect()
                connection.sendall(call('waitFor', [jobids[number % 100], jobids[0]], 3600))
                connections.append(connection)
                if number % 50 == 49:           # so that there are not too many at a time that begin to wait
                    client.getStatus(jobids[0])
            self.callers(8)()
            self.assertServing()
            for jobid in jobids[1:]:
                client.cancel(jobid)
            self.assertServing()
            client.cancel(jobids[0])
        self.assertServing()
        for connection in connections:
            answer = b''
            while b'</methodResponse>' not in answer and (piece := connection.recv(65536)):
                answer += piece
            self.assertEqual(answer.count(b'cancelled'), 2, answer)
        # They can go on.
        connections[0].sendall(call('getStatus', jobids[0]))
        self.assertIn(b'cancelled', connections[0].recv(65536))

    def test_resets(self):
        for _ in range(300):
            connection = self.connect()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            connection.sendall(call('getAvailableTasks'))
            connection.close()
        self.assertServing()


class TestHTTP(AttackTest):

    level = 2

    def assertStatus(self, status, data):
        self.assertRegex(self.answer(data), b'^HTTP/1.1 %d ' % status)

    def tearDown(self):
        self.assertServing()
        with open(self.log) as file:
            log = file.read()
        self.assertNotIn('Traceback', log)
        self.assertNotIn('internal error', log)

    def test_lengths(self):
        body = call('getAvailableTasks').partition(b'\r\n\r\n')[2]
        begin = b'POST / HTTP/1.1\r\nHost: x\r\n'
        self.assertStatus(411, begin + b'\r\n' + body)
        for length in b'-1', b'+5', b'0x10', b'1_0', b'5,5', b'', b'9' * 1000, b'1e3', b'\xb2':
            self.assertStatus(400, begin + b'Content-Length: ' + length + b'\r\n\r\n' + body)
        for length in b'8388609', b'999999999999999999':
            self.assertStatus(413, begin + b'Content-Length: ' + length + b'\r\n\r\n' + body * 1000)
        self.assertStatus(400, begin + b'Content-Length: 5\r\nContent-Length: 5\r\n\r\n' + body)
        self.assertStatus(400, begin + b'Content-Length : 5\r\n\r\n' + body)
        self.assertStatus(400, head(5000) + body)

    def test_chunked(self):
        begin = b'POST / HTTP/1.1\r\nHost: x\r\n'
        body = xmlrpc.client.dumps((), 'getAvailableTasks').encode()
        chunks = b'%x\r\n%s\r\n0\r\n\r\n' % (len(body), body)
        smuggled = call('getAvailableTasks')
        # One sees a body that ends here, the other one that goes on: neither is to hear of what is behind it.
        for status, lines in ((400, 'Content-Length: 5|Transfer-Encoding: chunked'),
                              (400, 'Transfer-Encoding: chunked|Content-Length: 5'),
                              (400, 'Transfer-Encoding: chunked|Content-Length: 0'),
                              (400, 'Transfer-Encoding: chunked|Transfer-Encoding: identity'),
                              (400, 'Transfer-Encoding: chunked|Transfer-Encoding: chunked'),
                              (400, 'Transfer-Encoding: chunked, chunked'), (400, 'Transfer-Encoding: chunked, x'),
                              (400, 'Transfer-Encoding:'), (400, 'Transfer-Encoding : chunked'),
                              (400, 'Transfer-Encoding:\x0bchunked'), (400, ' Transfer-Encoding: chunked'),
                              (400, 'X: y|\tTransfer-Encoding: chunked'), (501, 'Transfer-Encoding: xchunked'),
                              (501, 'Transfer-Encoding: x, chunked'), (501, 'Transfer-Encoding: chunked;x'),
                              (501, 'Transfer-Encoding: identity'), (501, 'Transfer-Encoding: "chunked"'),
                              (411, 'Transfer_Encoding: chunked'), (411, 'Transfer-Encodin: chunked')):
            lines = b''.join(line.encode('latin-1') + b'\r\n' for line in lines.split('|'))
            self.assertStatus(status, begin + lines + b'\r\n' + chunks + smuggled)
        self.assertStatus(400, b'POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n' + chunks + smuggled)
        begin = CHUNKED
        for bad in (b'5\nhello\n0\n\n', b'5\r\nhello0\r\n\r\n', b'0x5\r\nhello\r\n0\r\n\r\n', b'+0\r\n\r\n',
                    b'5;\nhello\r\n0\r\n\r\n', b'5 \r\nhello\r\n0\r\n\r\n', b'\r\n0\r\n\r\n',
                    b'00000000000000000\r\n\r\n', b'5\r\nhello\r\n0\r\nX\r\n\r\n', b'5;' + b'x' * 10_000, b'5\r\nhell'):
            self.assertStatus(400, begin + bad + smuggled)
        self.assertStatus(413, begin + b'800001\r\n')
        self.assertStatus(413, begin + b'fffffffffffffffe\r\n' + smuggled)
        self.assertStatus(413, begin + b'100000\r\n%s\r\n' % (b'x' * 0x100000) * 20)
        self.assertStatus(431, begin + b'0\r\n' + b'X: y\r\n' * 1_000_000)
        self.assertStatus(431, begin + (b'1;' + b'x' * 1000 + b'\r\ny\r\n') * 10_000)
        # What is behind a body is the next request.
        answer = self.answer((begin + chunks) * 3 + smuggled)
        self.assertEqual(re.findall(b'HTTP/1.1 [0-9]+', answer), [b'HTTP/1.1 200'] * 4)
        self.assertEqual(answer.count(b'echo'), 4)
        self.assertServing()

    def test_tiny_chunks(self):
        """Bodies of a byte a chunk, as large as they may be, from many at a time: others are answered meanwhile."""
        data = CHUNKED + b'1\r\nx\r\n' * 1_000_000 + b'0\r\n\r\n'
        threads = [inThread(self.answer, data) for _ in range(5)]
        self.assertServing()
        for thread, _ in threads:
            thread.join(PATIENCE)
        for _, outcome in threads:
            self.assertRegex(outcome[0], b'HTTP/1.1 (200|408|503) ')        # it is no call
        self.assertServing()

    def test_heads(self):
        for line in (b' X: folded', b'X : y', b'X', b': y', b'X\x00: y', b'X: \x00', b'X: a\rb', b'(X): y',
                     b'Host: other', b'X: y\nX: z'):
            self.assertStatus(400, b'POST / HTTP/1.1\r\nHost: x\r\n' + line + b'\r\n\r\n')
        for line in (b'POST  / HTTP/1.1', b'POST / HTTP/1.1 ', b'POST /', b'POST', b'P@ST / HTTP/1.1',
                     b'POST \xe9 HTTP/1.1', b'POST nowhere HTTP/1.1', b'POST /#x HTTP/1.1', b'POST / http/1.1',
                     b'POST / HTTP/11', b'\x16\x03\x01'):
            self.assertStatus(400, line + b'\r\nHost: x\r\n\r\n')
        self.assertStatus(400, b'POST / HTTP/1.1\r\n\r\n')
        self.assertStatus(505, b'POST / HTTP/2.0\r\nHost: x\r\n\r\n')
        self.assertStatus(417, head(5, 'Expect: a-miracle'))
        self.assertStatus(414, b'POST /' + b'x' * 20_000 + b' HTTP/1.1\r\nHost: x\r\n\r\n')
        self.assertStatus(431, head(5, *['X: y'] * 200))
        self.assertStatus(431, head(5, 'X: ' + 'y' * 100_000))
        self.assertStatus(431, b'POST / HTTP/1.1\r\n' + b'X: y\r\n' * 10_000_000)

    def test_compression(self):
        bomb = gzip.compress(b'<methodCall>' + b' ' * 200_000_000)
        self.assertLess(len(bomb), 1_000_000)
        threads = [inThread(self.answer, head(len(bomb), 'Content-Encoding: gzip') + bomb) for _ in range(20)]
        self.assertServing()
        for thread, outcome in threads:
            thread.join(PATIENCE)
            self.assertRegex(outcome[0], b'^HTTP/1.1 400 ')

    def test_entities(self):
        laughs = ''.join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
        for declaration in (f'<!DOCTYPE x [<!ENTITY a0 "ha">{laughs}]>', '<!DOCTYPE x SYSTEM "file:///etc/passwd">',
                            '<!DOCTYPE x [<!ENTITY a9 SYSTEM "file:///etc/passwd">]>'):
            body = f'<?xml version="1.0"?>{declaration}<methodCall><methodName>&a9;</methodName></methodCall>'.encode()
            self.assertIn(b'document type declaration', self.answer(head(len(body)) + body))

    def test_pipelines(self):
        # More than is answered over one connection.
        count = 11_000
        connection = self.connect()
        thread, _ = inThread(self.sendAll, connection, call('listMethods') * count)
        answer = self.receive(connection)
        self.assertEqual(answer.count(b'HTTP/1.1 200 OK'), 10_000)
        self.assertEqual(answer.count(b'Connection: close'), 1)
        thread.join(PATIENCE)

    def sendAll(self, connection, data):
        with contextlib.suppress(OSError):
            connection.sendall(data)

    def test_half_closed(self):
        self.assertIn(b'echo', self.answer(call('getAvailableTasks')))
        self.assertEqual(self.answer(b''), b'')
        self.assertEqual(self.answer(b'POST / HT'), b'')
        self.assertStatus(400, head(5) + b'x')

    def test_endless_body(self):
        connection = self.connect()
        connection.sendall(head(10**15))
        self.assertRegex(connection.recv(1000), b'^HTTP/1.1 413 ')
        with self.assertRaises(OSError):
            for _ in range(10_000):
                connection.sendall(b'x' * 65536)


if __name__ == '__main__':
    unittest.main()
