"""Calls over real sockets: clients of the standard library, many at once, rude ones, and attackers."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import dataclasses
import gzip
import http.client
import io
import queue
import random
import socket
import struct
import threading
import unittest
import xmlrpc.client
from datetime import datetime
from datetime import timezone

from lovely.remotetask import errors
from lovely.remotetask.config.limits import Limits
from lovely.remotetask.job import Job
from lovely.remotetask.xmlrpc import faults
from lovely.remotetask.xmlrpc.permits import LARGE_BODY
from lovely.remotetask.xmlrpc.permits import LONG_BODY
from lovely.remotetask.xmlrpc.permits import LONG_CALLS
from lovely.remotetask.xmlrpc.server import Frontend
from servercase import CALL
from servercase import WAIT
from servercase import ServerCase
from threads import inThread


class Raising:
    """What a path leads to whose service fails in its own way."""

    def __init__(self, exception):
        self.exception = exception

    def __getattr__(self, name):
        raise self.exception


class TestCalls(ServerCase):

    level = 2

    def test_the_request_of_a_job(self):
        proxy = self.proxy()
        jobids = [proxy.add('echo', 1, False, {'key': 'a'}), *proxy.addMany([{'task': 'echo'}, {'task': 'echo'}])]
        self.assertEqual(proxy.add('echo', 1, False, {'key': 'a'}), jobids[0])
        requests = [proxy.getJob(jobid)['request'] for jobid in jobids]
        self.assertRegex(requests[0], '^[0-9a-f]{12}$')
        self.assertEqual(requests[1], requests[2])
        self.assertNotEqual(requests[0], requests[1])
        self.assertEqual(proxy.getJobs('queued', 0, 2)['total'], 3)
        self.assertEqual(proxy.getStatistics()['counts']['queued'], 3)
        self.assertNotIn(proxy.add('square', 1, False, {'key': 'a'}), jobids)

    def test_jobs_are_stored(self):
        proxy = self.proxy()
        value = {'a': [1, None, True, 1.5, 'é', b'\x00', datetime(2024, 2, 29)]}
        jobid = proxy.add('echo', value)
        self.assertEqual(proxy.getStatus(jobid), 'queued')
        with self.db.transaction() as connection:
            self.assertEqual(connection.root()['/'].jobs[jobid].input, value)

    def test_connection_is_kept(self):
        connection = http.client.HTTPConnection(*self.frontend.address, timeout=WAIT)
        self.addCleanup(connection.close)
        ports = set()
        for _ in range(3):
            connection.request('POST', '/', CALL)
            ports.add(connection.sock.getsockname())
            response = connection.getresponse()
            self.assertEqual(response.version, 11)
            response.read()
        self.assertEqual(len(ports), 1)

    def test_pipelined_calls_are_answered_in_order(self):
        request = b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n'
        bodies = [CALL, xmlrpc.client.dumps((), 'hasJobsWaiting').encode(), CALL]
        answer = self.send(b''.join(request % len(body) + body for body in bodies))
        self.assertEqual(answer.count(b'HTTP/1.1 200 OK'), 3)
        self.assertEqual([line for line in answer.split(b'\n') if b'echo' in line or b'boolean' in line],
                         [b'<value><string>echo</string></value>', b'<value><boolean>0</boolean></value>',
                          b'<value><string>echo</string></value>'])

    def test_empty_line_between_requests(self):
        request = b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % len(CALL) + CALL
        self.assertEqual(self.send(request + b'\r\n' + request).count(b'HTTP/1.1 200 OK'), 2)
        connection = self.socket()
        connection.sendall(b'\r')
        self.waitUntil(lambda: self.frontend.statistics()['bytesHeld'] == 1)
        connection.sendall(b'\n' + request)
        connection.shutdown(socket.SHUT_WR)
        self.assertIn(b'HTTP/1.1 200 OK', self.receive(connection))

    def test_path_names_the_service(self):
        jobid = self.proxy('/site1/T%C3%A4sks').add('echo')
        for path in ('/site1/T%c3%a4sks', '/site1/T%C3%A4sks?x=1'):
            self.assertEqual(self.proxy(path).getStatus(jobid), 'queued')
        for path in ('/', '/RPC2', ''):
            self.assertFault(faults.UNKNOWN_JOB, f'no job {jobid}', self.proxy(path).getStatus, jobid)
        for path in ('/nope', '/site1', '/%2e%2e/x', '/%00', '/%ff', '/a%0d%0ab'):
            self.assertFault(faults.UNKNOWN_SERVICE, 'there is no task service at', self.proxy(path).getStatus, jobid)
        status, headers, body = self.post(CALL, 'http://example.com/site1/T%C3%A4sks')
        self.assertIn(b'echo', body)

    def test_introspection(self):
        proxy = self.proxy('/nope')         # of the frontend, not of a service
        self.assertEqual(proxy.system.listMethods(), proxy.listMethods())
        self.assertIn('jobid', proxy.system.methodHelp('cancel'))
        self.assertEqual(proxy.system.methodSignature('cancel'), [['boolean', 'int']])

    def test_headers_keep_internals(self):
        for status, headers, body in (self.post(CALL), self.post('', 'x' * 70000)):
            self.assertEqual(headers['Server'], 'lovely.remotetask')

    def test_access_is_logged(self):
        with self.assertLogs('lovely.remotetask.access', 'INFO') as logs:
            self.proxy().getAvailableTasks()
            with self.assertRaises(xmlrpc.client.Fault):
                self.proxy().getStatus(5)
            status, headers, body = self.post(CALL, User_Agent='a "b"\\\t\xff', Referer='http://x/')
            self.send(b'GET /\x1b[31m\r\x85 HTTP/1.1\r\n\r\n')
            self.send(b'\x1b]0;x\x07 \r\n\r\n')
            self.send(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n')
        lines = [line.removeprefix('INFO:lovely.remotetask.access:') for line in logs.output]
        moment = r'\[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d \+0000\]'
        for line, expected in zip(lines, (
                r'"POST / HTTP/1\.1" 200 \d+ "-" "Python-xmlrpc/[0-9.]+" getAvailableTasks [0-9a-f]{12}',
                r'"POST / HTTP/1\.1" 200 \d+ "-" "Python-xmlrpc/[0-9.]+" getStatus:103 [0-9a-f]{12}',
                r'"POST / HTTP/1\.1" 200 %d "http://x/" "a \\"b\\"\\\\\\t\\xff" getAvailableTasks %s'
                % (len(body), headers['X-Request-ID']),
                r'"GET /\\x1b\[31m\\r\\x85 HTTP/1\.1" 400 \d+ "-" "-" - [0-9a-f]{12} "The request line is malformed"',
                r'"\\x1b\]0;x\\x07 " 400 \d+ "-" "-" - [0-9a-f]{12} "The request line is malformed"',
                r'"POST / HTTP/1\.1" 413 \d+ "-" "-" - [0-9a-f]{12} "The body may have 8388608 bytes '
                r'[(]max-body-size[)]; putUpload takes files in parts"'), strict=True):
            self.assertRegex(line, rf'^127\.0\.0\.1 - - {moment} {expected}$')

    def test_what_is_logged_is_cut(self):
        with self.assertLogs('lovely.remotetask', 'INFO') as logs:
            self.post(CALL, '/' + 'p' * 15000, User_Agent='a' * 15000, Referer='r' * 15000)
            self.send(b'x' * 70_000 + b'\r\n\r\n')
            self.post(xmlrpc.client.dumps((), 'm' * 100_000).encode())
            self.post(xmlrpc.client.dumps(('t' * 100_000,), 'add').encode())
            self.post(CALL, Authorization='Basic ' + 'A' * 15000)
            self.post(CALL, Content_Type='text/xml; charset=' + 'c' * 15000)
        self.assertEqual(len(logs.output), 6)
        self.assertLess(max(map(len, logs.output)), 4000)

    def test_standard_error_stays_empty(self):
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            self.proxy().getAvailableTasks()
            self.send(b'nonsense\r\n\r\n')
            self.send(b'GET / HTTP/1.1\r\n\r\n')
            self.services['/'] = Raising(SystemExit(3))
            with self.assertRaises((http.client.RemoteDisconnected, ConnectionError)):
                self.proxy().getAvailableTasks()
            self.assertTrue(self.frontend.stop(WAIT))
        self.assertEqual(stderr.getvalue(), '')

    def test_results(self):
        generator = random.Random(3)
        leaves = [None, 2 ** 70, float('inf'), '\x00\ud800\r\n', b'\xff', datetime.now(timezone.utc), object, {3, 1},
                  (1,), '']
        proxy = self.proxy()
        jobid = proxy.add('echo')
        for _ in range(30):
            value = [generator.choice(leaves) for _ in range(5)]
            for _ in range(generator.randrange(4)):
                value = {generator.choice([1, None, '\x01', 'a', (1, 2)]): value}
            with self.db.transaction() as connection:
                connection.root()['/'].jobs[jobid].output = value
            proxy.getResult(jobid)
        self.assertEqual(proxy.getStatus(jobid), 'queued')

    def test_concurrent_adds(self):
        before = sum(1 for record in self.storage.iterator())
        start = threading.Barrier(20)

        def add(n):
            proxy = self.proxy()
            proxy.getAvailableTasks()       # connected
            start.wait(WAIT)
            return [proxy.add('echo', [n, m]) for m in range(10)]
        threads = [inThread(add, n) for n in range(20)]
        ids = []
        for thread, outcome in threads:
            thread.join(WAIT)
            ids.extend(outcome[0])
        self.assertEqual(len(set(ids)), 200)
        with self.db.transaction() as connection:
            jobs = connection.root()['/'].jobs
            self.assertEqual([jobs[jobid].input for jobid in ids], [[n, m] for n in range(20) for m in range(10)])
        self.assertLess(sum(1 for record in self.storage.iterator()) - before, 200)


class TestFaults(ServerCase):

    level = 2

    def test_refusals(self):
        proxy = self.proxy()
        jobid = proxy.add('echo', [])
        with self.db.transaction() as connection:
            connection.root()['/'].process()
        for code, sentence, method, arguments in (
                (faults.UNKNOWN_METHOD, "there is no method 'nope'", 'nope', ()),
                (faults.UNKNOWN_METHOD, "there is no method 'system.multicall'", 'system.multicall', ([],)),
                (faults.UNKNOWN_METHOD, "there is no method 'add.__call__'", 'add.__call__', ()),
                (faults.WRONG_ARITY, 'add: the arguments are', 'add', ()),
                (faults.WRONG_TYPE, 'jobid is to be int, boolean was given', 'getStatus', (True,)),
                (faults.UNKNOWN_TASK, "task 'nope' is not registered; .* are: echo, square", 'add', ('nope',)),
                (faults.UNKNOWN_JOB, 'there is no job 0', 'getStatus', (0,)),
                (faults.WRONG_STATE, f'job {jobid} is completed: cannot cancel it', 'cancel', (jobid,))):
            self.assertFault(code, sentence, getattr(proxy, method), *arguments)

    def test_exceptions_of_the_service(self):
        for path, code, sentence, exception in (
                ('/input', faults.INVALID_INPUT, "^input field 'size': too small$",
                 errors.InvalidInput('size', 'too small')),
                ('/task', faults.TASK_ERROR, '^no$', errors.TaskError('no')),
                ('/large', faults.RESULT_TOO_LARGE, 'larger than 5 bytes', faults.ResultTooLarge(5)),
                ('/other', faults.REFUSED, '^no$', errors.RemoteTaskError('no'))):
            self.services[path] = Raising(exception)
            self.assertFault(code, sentence, self.proxy(path).getStatus, 1)
            self.assertFault(code, sentence, self.proxy(path).cancel, 1)

    def test_internal_errors_are_logged_only(self):
        self.services['/'] = Raising(ZeroDivisionError('secret of the service'))
        for name in ('getStatus', 'cancel'):
            with self.assertLogs('lovely.remotetask', 'ERROR') as logs:
                with self.assertRaises(xmlrpc.client.Fault) as caught:
                    getattr(self.proxy(), name)(1)
            self.assertEqual(caught.exception.faultCode, faults.INTERNAL_ERROR)
            sentence = caught.exception.faultString
            self.assertRegex(sentence, '^internal error; the log of the front end has .* request id [0-9a-f]{12}$')
            self.assertIn(sentence.split()[-1], logs.output[0])
            self.assertIn('ZeroDivisionError: secret of the service', logs.output[0])

    def test_stopped_gateway(self):
        self.gateway.stop(WAIT)
        self.assertFault(faults.STOPPING, 'the front end is stopping', self.proxy().add, 'echo')

    def test_what_is_no_exception_is_no_fault(self):
        for name in ('getStatus', 'cancel'):
            self.services['/'] = Raising(SystemExit(3))
            with self.assertRaises((http.client.RemoteDisconnected, ConnectionError)):
                getattr(self.proxy(), name)(1)
            del self.services['/']
            self.assertServing()

    def test_malformed_calls(self):
        nested = b'<array><data><value>' * 100000 + b'</value></data></array>' * 100000
        bomb = b'<!DOCTYPE x [<!ENTITY a "haha"><!ENTITY b "&a;&a;&a;">]>'
        for body, sentence in (
                (b'', 'not well-formed XML'),
                (b'{}', 'not well-formed XML'),
                (CALL.replace(b'<methodCall', bomb + b'<methodCall'), 'document type declaration'),
                (CALL.replace(b'<params>', b'<params><param><value>' + nested + b'</value></param>'), '64 deep'),
                (xmlrpc.client.dumps(xmlrpc.client.Fault(1, 'mine')).encode(), '<methodResponse> is not allowed')):
            status, headers, answer = self.post(body)
            self.assertEqual((status, headers['Content-Type']), (200, 'text/xml; charset=utf-8'))
            self.assertFault(faults.PARSE_ERROR, sentence, xmlrpc.client.loads, answer)


class TestDeadline(ServerCase):

    level = 2

    deadline = 0.05

    def test_callers_are_told_what_is_known(self):
        go = threading.Event()
        self.addCleanup(go.set)

        class Slow:
            def cancel(self, jobid):
                go.wait(WAIT)
        self.services['/slow'] = Slow()
        self.assertFault(faults.DATABASE_UNAVAILABLE, 'nothing was changed: try again', self.proxy('/slow').cancel, 1)
        self.assertFault(faults.DATABASE_UNAVAILABLE, 'nothing was changed: try again', self.proxy().add, 'echo')
        go.set()
        self.assertTrue(self.gateway.stop(WAIT))
        with self.db.transaction() as connection:
            self.assertEqual(len(connection.root()['/'].jobs), 0)


class TestRudeness(ServerCase):

    level = 2

    limits = Limits(bodySize=600 * 1024, requestTime=WAIT, idleTime=WAIT)

    def head(self, *lines):
        return self.send('\r\n'.join(('POST / HTTP/1.1', 'Host: x') + lines + ('', '')).encode('latin-1') + CALL)

    def assertStatus(self, status, answer):
        self.assertRegex(answer.partition(b'\r\n')[0].decode(), rf'^HTTP/1\.1 {status} ')
        self.assertIn(b'\r\nConnection: close\r\n', answer)
        self.assertServing()

    def test_lengths(self):
        self.assertStatus(411, self.head())
        for length in ('-1', 'abc', '', '1.0', '+5', '1e3', '0x10', '1_0', '\xb2', '9' * 100, '1, 1'):
            self.assertStatus(400, self.head(f'Content-Length: {length}'))
        self.assertStatus(400, self.head('Content-Length: 1', 'Content-Length: 2'))
        self.assertStatus(413, self.head('Content-Length: 614401'))
        self.assertStatus(413, self.head('Content-Length: 99999999999999999'))
        self.assertStatus(501, self.head('Transfer-Encoding: gzip'))
        self.assertStatus(400, self.head('Transfer-Encoding: chunked', 'Content-Length: 5'))

    def test_body_that_ends_early(self):
        self.assertStatus(400, self.head('Content-Length: 5000'))
        for data in b'', b'%x\r\n%s' % (len(CALL), CALL), b'%x\r\n%s\r\n0\r\n' % (len(CALL), CALL):
            answer = self.send(b'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n' + data)
            self.assertStatus(400, answer)
            self.assertIn(b'The body ends before its last chunk', answer)

    def test_chunked_bodies(self):
        proxy = self.proxy()
        for size in 0, 100, LONG_BODY, LARGE_BODY + 1:
            call = xmlrpc.client.dumps(('echo', 'x' * size), 'add').encode()
            for piece in 1000, len(call):
                pieces = (call[start:start + piece] for start in range(0, len(call), piece))
                status, headers, answer = self.post(pieces)     # the library sends what has no length in chunks
                (jobid,), _ = xmlrpc.client.loads(answer)
                self.assertEqual(proxy.getJob(jobid)['status'], 'queued')
                with self.db.transaction() as connection:
                    self.assertEqual(connection.root()['/'].jobs[jobid].input, 'x' * size)
        compressed = gzip.compress(CALL)
        status, headers, answer = self.post(iter([compressed[:20], compressed[20:]]), Content_Encoding='gzip')
        self.assertIn(b'echo', answer)
        self.assertEqual(self.post(iter([b'x' * 100_000] * 7))[0], 413)
        self.assertServing()

    def test_expected_continue_and_chunks(self):
        connection = self.socket()
        connection.sendall(b'POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n')
        self.assertEqual(connection.recv(1000), b'HTTP/1.1 100 Continue\r\n\r\n')
        for number, byte in enumerate(CALL):
            connection.sendall(b'1;%d\r\n%c\r\n' % (number, byte))
        connection.sendall(b'0\r\nX-Sum: 1\r\n\r\n')
        connection.shutdown(socket.SHUT_WR)
        self.assertIn(b'echo', self.receive(connection))

    def test_charsets(self):
        xml = '<?xml version="1.0" encoding="{}"?>' + xmlrpc.client.dumps(('echo', 'é'), 'add').partition('?>')[2]
        for declared, charset, written in (('utf-8', None, 'utf-8'), ('iso-8859-1', None, 'iso-8859-1'),
                                           ('utf-7', 'UTF-8', 'utf-8'), ('iso-8859-15', None, 'iso-8859-15'),
                                           ('utf-8', '"iso-8859-1"', 'iso-8859-1')):
            headers = {} if charset is None else {'Content_Type': f'text/xml; charset={charset}'}
            status, headers, answer = self.post(xml.format(declared).encode(written), **headers)
            (jobid,), _ = xmlrpc.client.loads(answer)
            with self.db.transaction() as connection:
                self.assertEqual(connection.root()['/'].jobs[jobid].input, 'é')
        for charset, sentence in (('utf-7', "the encoding 'utf-7' is not supported"), ('utf-8', 'not well-formed')):
            status, headers, answer = self.post(xml.format('iso-8859-1').encode('iso-8859-1'),
                                                Content_Type=f'text/xml; charset={charset}')
            self.assertFault(faults.PARSE_ERROR, sentence, xmlrpc.client.loads, answer)
        self.assertEqual(self.post(CALL, Content_Type='text/xml; charset=utf-8; charset=utf-16')[0], 400)

    def test_largest_body(self):
        proxy = self.proxy()
        jobid = proxy.add('echo', 'x' * 600000)
        with self.db.transaction() as connection:
            self.assertEqual(len(connection.root()['/'].jobs[jobid].input), 600000)
        with self.assertRaises(xmlrpc.client.ProtocolError) as caught:      # although it has sent all before it reads
            proxy.add('echo', 'x' * 700000)
        self.assertEqual(caught.exception.errcode, 413)

    def test_expected_continue(self):
        connection = self.socket()
        head = 'POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n'
        connection.sendall(head.format(len(CALL)).encode())
        self.assertEqual(connection.recv(1000), b'HTTP/1.1 100 Continue\r\n\r\n')
        connection.sendall(CALL)
        connection.shutdown(socket.SHUT_WR)
        self.assertIn(b'echo', self.receive(connection))
        self.assertStatus(413, self.send(head.format(10 ** 9).encode()))

    def test_other_methods(self):
        for method in ('GET', 'HEAD', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'):
            answer = self.send(f'{method} / HTTP/1.1\r\nHost: x\r\n\r\n'.encode())
            self.assertStatus(405, answer)
            self.assertIn(b'\r\nAllow: POST\r\n', answer)
            if method == 'HEAD':
                self.assertTrue(answer.endswith(b'\r\n\r\n'))
        self.assertStatus(405, self.send(b'OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n'))
        self.assertStatus(501, self.send(b'SCRIPT / HTTP/1.1\r\nHost: x\r\n\r\n'))
        self.assertNotIn(b'SCRIPT', self.send(b'SCRIPT / HTTP/1.1\r\nHost: x\r\n\r\n'))

    def test_damaged_heads(self):
        self.assertStatus(400, self.send(b'POST / HTTP/x\r\n\r\n'))
        self.assertStatus(505, self.send(b'POST / HTTP/2.0\r\n\r\n'))
        self.assertStatus(414, self.send(b'POST /' + b'x' * 70000 + b' HTTP/1.1\r\n\r\n'))
        self.assertStatus(431, self.head('X: ' + 'x' * 70000))
        self.assertStatus(431, self.head(*['X: y'] * 200))
        self.assertStatus(431, self.head(*['X: ' + 'x' * 60000] * 3))
        for data in (b'\r\n', b'\x16\x03\x01\x02\x00\x01\x00', b'\x00' * 1000, b'POST /\r\n', b'POST / HTTP/1.1'):
            self.send(data)
        self.assertServing()

    def test_compressed_bodies(self):
        status, headers, answer = self.post(gzip.compress(CALL), Content_Encoding='gzip')
        self.assertIn(b'echo', answer)
        bomb = gzip.compress(b'<methodCall>' + b' ' * 100_000_000)
        self.assertLess(len(bomb), self.limits.bodySize)
        for body in (bomb, b'no gzip', gzip.compress(CALL)[:-10], gzip.compress(CALL)[:-30]):
            status, headers, answer = self.post(body, Content_Encoding='gzip')
            self.assertEqual((status, answer[:4]), (400, b'The '), body[:10])
        status, headers, answer = self.post(CALL, Content_Encoding='deflate')
        self.assertEqual((status, headers['Accept-Encoding']), (415, 'gzip, identity'))
        self.assertServing()

    def test_client_that_goes_before_the_answer(self):
        with self.assertNoLogs('lovely.remotetask', 'WARNING'):
            connection = self.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))     # a reset
            connection.sendall(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % len(CALL) + CALL)
            connection.close()
            self.assertServing()
            self.assertTrue(self.frontend.stop(WAIT))


    def test_nothing_is_held_of_clients_that_have_gone(self):
        generator = random.Random(5)
        head = b'POST / HTTP/1.1\r\nHost: x\r\n%s\r\n'
        long = xmlrpc.client.dumps(('echo', 'x' * 300_000), 'add').encode()
        wait = xmlrpc.client.dumps(([self.proxy().add('echo', None, True)], 3600), 'waitFor').encode()
        requests = [head % b'Content-Length: %d\r\n' % len(body) + body for body in (CALL, long, wait)]
        requests += [head % b'Transfer-Encoding: chunked\r\n' + b'%x\r\n%s\r\n0\r\n\r\n' % (len(long), long),
                     head % b'Content-Encoding: gzip\r\nContent-Length: %d\r\n' % len(long) + long,
                     b'GET / HTTP/1.1\r\n\r\n' + long]
        for _ in range(200):
            data = generator.choice(requests)
            connection = self.socket()
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                connection.send(data[:generator.choice((1, 20, 100, len(data) // 2, len(data)))])
            if generator.randrange(2):          # a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            elif generator.randrange(2):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
            connection.close()
        counts = ('connections', 'calls', 'longCalls', 'waitingRequests', 'waitingForJobs', 'bytesHeld')
        self.waitUntil(lambda: [self.frontend.statistics()[name] for name in counts] == [1, 0, 0, 0, 0, 0])
        self.waitUntil(lambda: not self.gateway.statistics()['watchers'])
        self.assertServing()


class TestPatience(ServerCase):
    """Clients that take their time, against limits that are short for them."""

    level = 2

    limits = Limits(requestTime=0.3, idleTime=0.3, largeBodies=1)

    def assertServing(self):
        limits, self.frontend.limits = self.frontend.limits, ServerCase.limits
        super().assertServing()
        self.frontend.limits = limits

    def assertCutOff(self, data):
        """Send the data, then a byte now and then; assert that the server ends the connection."""
        connection = self.socket()
        connection.sendall(data)
        ended, giveUp = threading.Event(), threading.Event()
        timer = threading.Timer(WAIT, giveUp.set)
        timer.start()
        self.addCleanup(timer.cancel)

        def drip():
            with contextlib.suppress(OSError):
                while not ended.wait(0.02):
                    connection.sendall(b'x')
        thread, _ = inThread(drip)
        answer = self.receive(connection)
        ended.set()
        thread.join(WAIT)
        self.assertFalse(giveUp.is_set())
        self.assertNotIn(b'200 OK', answer)
        self.assertServing()

    def test_dripping_clients(self):
        self.assertCutOff(b'')
        self.assertCutOff(b'POST / HTTP/1.1\r\nX: ')
        self.assertCutOff(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n')
        self.assertCutOff(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n' + b'x' * 300000)
        self.assertCutOff(b'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n')
        self.assertCutOff(b'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;')
        self.assertCutOff(b'GET / HTTP/1.1\r\n\r\n')

    def test_silent_clients(self):
        self.assertEqual(self.receive(self.socket()), b'')
        for data in (b'POST', b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n'):
            connection = self.socket()
            connection.sendall(data)
            self.assertRegex(self.receive(connection), b'^HTTP/1.1 408 ')
        self.frontend.limits = Limits(requestTime=WAIT, idleTime=0.3)
        connection = self.socket()
        connection.sendall(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % len(CALL) + CALL)
        self.assertIn(b'200 OK', self.receive(connection))

    def test_clients_that_do_not_read(self):
        begun = threading.Event()

        class Large:
            jobs = {1: Job(1, 'large', None)}

            def getResult(self, jobid):
                begun.set()
                return b'x' * 20_000_000
        self.services['/large'] = Large()
        self.frontend.limits = Limits(answerTime=0.3)
        body = xmlrpc.client.dumps((1,), 'getResult').encode()
        connection = self.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(b'POST /large HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
        self.assertTrue(begun.wait(WAIT))
        self.waitUntil(lambda: not self.frontend.statistics()['connections'])
        self.assertLess(len(self.receive(connection)), 20_000_000)

    def test_large_bodies_take_turns(self):
        begun, go = self.addSlow('slow')
        self.frontend.limits = Limits(requestTime=1)        # which is also how long the second one waits
        padding = b' ' * 300_000
        body = padding.join([b'<methodCall>', b'<methodName>getStatus</methodName><params><param><value><int>1</int>'
                                              b'</value></param></params></methodCall>'])
        thread, outcome = inThread(self.post, body, '/slow')
        self.assertTrue(begun.wait(WAIT))
        status, headers, answer = self.post(body)
        self.assertEqual((status, headers['Retry-After']), (503, '1'))
        self.assertServing()                            # small ones do not wait
        go.set()
        thread.join(WAIT)
        self.assertIn(b'slow', outcome[0][2])
        status, headers, answer = self.post(body)
        self.assertEqual(status, 200)


class TestCrowd(ServerCase):

    level = 2

    limits = Limits(connections=3, requestTime=WAIT, idleTime=WAIT)

    def fill(self):
        """Have as many calls under way as there may be, until `go` is set."""
        begun, self.go = threading.Semaphore(0), threading.Event()
        self.addCleanup(self.go.set)

        class Slow:
            def getStatus(_, jobid):
                begun.release()
                self.go.wait(WAIT)
                return 'slow'
        self.services['/slow'] = Slow()
        self.idle = [self.proxy() for _ in range(10)]
        for proxy in self.idle:
            proxy.getAvailableTasks()           # they take nothing of it
        self.callers = [inThread(self.proxy('/slow').getStatus, 1) for _ in range(3)]
        for _ in self.callers:
            self.assertTrue(begun.acquire(timeout=WAIT))

    def assertAnswered(self):
        for thread, outcome in self.callers:
            thread.join(WAIT)
            self.assertEqual(outcome, ['slow'])
        for proxy in self.idle:
            proxy.getAvailableTasks()

    def test_requests_under_way_are_limited(self):
        self.fill()
        with self.assertLogs('lovely.remotetask.access', 'INFO') as logs:
            status, headers, body = self.post(CALL)
        self.assertEqual((status, headers['Retry-After']), (503, '1'))
        self.assertRegex(logs.output[0], '"POST / HTTP/1.1" 503 .* "There are too many requests at a time"$')
        self.assertEqual(self.frontend.statistics()['refused'], {'There are too many requests at a time': 1})
        self.assertEqual(self.frontend.statistics()['calls'], 3)
        self.go.set()
        self.assertAnswered()

    def test_bodies_of_all_sizes(self):
        for size in 10, LONG_BODY // 2, 2 * LONG_BODY, LARGE_BODY // 2, 2 * LARGE_BODY:
            proxies = [self.proxy() for _ in range(5)]          # more than there may be at a time
            calls = [inThread(proxy.add, 'echo', f'{number}' * size) for number, proxy in enumerate(proxies)]
            for thread, _ in calls:
                thread.join(WAIT)
            with self.db.transaction() as connection:
                jobs = connection.root()['/'].jobs
                self.assertEqual([jobs[outcome[0]].input for _, outcome in calls],
                                 [f'{number}' * size for number in range(5)])
        self.waitUntil(lambda: not self.frontend.statistics()['calls'] + self.frontend.statistics()['longCalls'])

    def test_more_wait_for_room(self):
        self.frontend.limits = dataclasses.replace(self.limits, permitTime=WAIT)
        self.fill()
        waits = [inThread(self.post, CALL) for _ in range(10)]
        self.waitUntil(lambda: self.frontend.statistics()['waitingRequests'] == 10)
        self.go.set()
        for thread, outcome in waits:
            thread.join(WAIT)
            self.assertEqual(outcome[0][0], 200, outcome)
        self.assertAnswered()

    def test_who_is_silent_longest_goes_first(self):
        self.frontend.limits = dataclasses.replace(self.limits, silent=3)
        begun = self.socket()
        begun.sendall(b'POST')
        idle = self.proxy()
        idle.getAvailableTasks()
        others = [self.socket() for _ in range(2)]
        self.assertRegex(self.receive(begun), b'^HTTP/1.1 503 ')
        others.append(self.socket())
        others.append(self.socket())
        self.assertEqual(self.receive(others[0]), b'')
        self.assertEqual(idle.getAvailableTasks(), ['echo', 'square'])      # its client has connected once more


class TestLongCalls(ServerCase):

    level = 2

    def test_long_calls_leave_room_for_others(self):
        """Few calls with a long body are under way at a time; one that is too many hears so, and short ones go on."""
        go = threading.Event()
        self.addCleanup(go.set)
        answers = queue.Queue()

        class Slow:
            def cancel(self, jobid):
                go.wait(WAIT)
        self.services['/slow'] = Slow()
        short = xmlrpc.client.dumps((1,), 'cancel').encode()
        long = short.replace(b'<methodName>', b' ' * (LONG_BODY + 1) + b'<methodName>')
        callers = [inThread(lambda: answers.put(self.post(long, '/slow'))) for _ in range(LONG_CALLS + 3)]
        for _ in range(3):                                      # as many as there are too many
            status, headers, body = answers.get(timeout=WAIT)
            self.assertEqual((status, headers['Retry-After']), (503, '1'))
            self.assertEqual(body, b'There are too many requests at a time.\n')
        status, headers, body = self.post(xmlrpc.client.dumps((), 'system.listMethods').encode())
        self.assertEqual(status, 200)
        callers.append(inThread(lambda: answers.put(self.post(short, '/slow'))))
        go.set()
        for thread, _ in callers:
            thread.join(WAIT)
        self.assertEqual([answers.get_nowait()[0] for _ in range(LONG_CALLS + 1)], [200] * (LONG_CALLS + 1))
        self.assertEqual(self.post(long, '/slow')[0], 200)      # there is room again


class TestLifecycle(ServerCase):

    level = 2

    def test_answer_under_way_is_given_before_it_stops(self):
        begun, go = self.addSlow('slow')
        idle = self.socket()
        kept = self.proxy()
        kept.getAvailableTasks()
        thread, outcome = inThread(self.proxy('/slow').getStatus, 1)
        self.assertTrue(begun.wait(WAIT))
        self.assertFalse(self.frontend.stop(0.01))
        self.assertEqual(self.receive(idle), b'')
        with self.assertRaises(ConnectionError):
            socket.create_connection(self.frontend.address, WAIT)
        go.set()
        self.assertTrue(self.frontend.stop(WAIT))
        thread.join(WAIT)
        self.assertEqual(outcome, ['slow'])
        self.serving.join(WAIT)
        self.assertFalse(self.serving.is_alive())
        self.assertTrue(self.frontend.stop(WAIT))
        self.frontend.serveForever()        # returns at once

    def test_what_cannot_go_on_ends(self):
        frontend, gateway = self.makeFrontend(), self.gateway
        gateway.flush = lambda: 1 / 0
        self.addCleanup(vars(gateway).pop, 'flush')
        connection = socket.create_connection(frontend.address, WAIT)
        self.addCleanup(connection.close)
        connection.sendall(b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % len(CALL) + CALL)
        with (self.assertLogs('lovely.remotetask', 'ERROR') as logs,
              self.assertRaisesRegex(RuntimeError, 'cannot go on')):
            frontend.serveForever()
        self.assertIn('ZeroDivisionError', logs.output[0])
        self.assertTrue(frontend.stop(WAIT))

    def test_stop_before_serving(self):
        frontend = Frontend(('127.0.0.1', 0), self.gateway)
        self.assertTrue(frontend.stop(WAIT))
        frontend.serveForever()

    def test_addresses(self):
        host, port = self.frontend.address
        self.assertEqual(host, '127.0.0.1')
        frontend = Frontend(('', 0), self.gateway)
        self.assertEqual(frontend.address[0], '0.0.0.0')
        frontend.stop(WAIT)
        for address in (('127.0.0.1', port), ('192.0.2.1', 0), ('127.0.0.1', 70000), ('no such host', 0),
                        ('x' * 300, 0)):
            with self.assertRaises(errors.ConfigurationError) as caught:
                Frontend(address, self.gateway)
            self.assertRegex(str(caught.exception), f'the front end cannot listen on {address[0]}:{address[1]}: .')

    def test_sixth_version_of_the_protocol(self):
        try:
            frontend = Frontend(('::1', 0), self.gateway)
        except errors.ConfigurationError as error:
            self.skipTest(str(error))
        self.addCleanup(frontend.stop, WAIT)
        inThread(frontend.serveForever)
        with xmlrpc.client.ServerProxy(f'http://[::1]:{frontend.address[1]}/') as proxy:
            self.assertEqual(proxy.getAvailableTasks(), ['echo', 'square'])
        if socket.has_dualstack_ipv6():         # '::' is for both
            both = Frontend(('::', 0), self.gateway)
            self.addCleanup(both.stop, WAIT)
            inThread(both.serveForever)
            for host in '127.0.0.1', '[::1]':
                with xmlrpc.client.ServerProxy(f'http://{host}:{both.address[1]}/') as proxy:
                    self.assertEqual(proxy.getAvailableTasks(), ['echo', 'square'])

    def test_limits_are_positive(self):
        for name in vars(Limits()):
            with self.assertRaisesRegex(errors.ConfigurationError, f'the limit {name} .* must be positive, not 0'):
                Limits(**{name: 0})


if __name__ == '__main__':
    unittest.main()
