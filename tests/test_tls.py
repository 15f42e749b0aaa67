"""The front end with TLS: calls, rude clients, connections that end, renewal of the certificate."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import dataclasses
import http.client
import os
import pathlib
import re
import resource
import socket
import ssl
import struct
import tempfile
import unittest
import xmlrpc.client

import trustme
from cryptography.hazmat.primitives import serialization

from accesscase import AccessCase
from accesscase import basic
from lovely.remotetask.config.limits import Limits
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.job import Job
from lovely.remotetask.xmlrpc.access import Authenticator
from lovely.remotetask.xmlrpc.tls import Certificate
from servercase import CALL
from servercase import WAIT
from servercase import ServerCase
from test_users import PASSWORD
from threads import inThread


class TlsCase(AccessCase):
    """A frontend with users and TLS."""

    def makeFrontend(self):
        self.authority = trustme.CA()
        self.client = ssl.create_default_context()
        self.authority.configure_trust(self.client)
        frontend = super().makeFrontend()
        self.pem = os.path.join(os.path.dirname(self.path), 'certificate.pem')
        self.certify(self.pem)
        frontend.tls = Certificate(self.pem)
        return frontend

    def certify(self, path):
        self.authority.issue_cert('127.0.0.1').private_key_and_cert_chain_pem.write_to_path(path)

    def connect(self):
        """Return a TLS connection, with the handshake done."""
        return self.client.wrap_socket(self.socket(), server_hostname='127.0.0.1')

    def over(self, connection):
        """Send a call over a TLS connection and return the status."""
        connection.sendall(b'POST / HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n' % (
            basic('ann', PASSWORD).encode(), len(CALL)) + CALL)
        response = http.client.HTTPResponse(connection)
        response.begin()
        response.read()
        return response.status

    def assertServing(self):
        with self.connect() as connection:
            self.assertEqual(self.over(connection), 200)


class TestTls(TlsCase):

    level = 2

    def test_calls(self):
        host, port = self.frontend.address
        password = ''.join(f'%{byte:02x}' for byte in PASSWORD.encode())
        with xmlrpc.client.ServerProxy(f'https://ann:{password}@{host}:{port}/', context=self.client,
                                       allow_none=True) as proxy:
            jobid = proxy.add('echo', 'x' * 300000)
            self.assertEqual(proxy.getStatus(jobid), 'queued')
            self.assertEqual(proxy.waitFor([jobid], 0), ['queued'])
        with xmlrpc.client.ServerProxy(f'https://{host}:{port}/', context=self.client) as proxy:
            with self.assertLogs('lovely.remotetask', 'WARNING'), self.assertRaises(xmlrpc.client.ProtocolError) as no:
                proxy.getStatus(jobid)
        self.assertEqual(no.exception.errcode, 401)

    def test_connection_is_kept(self):
        with self.connect() as connection:
            self.assertEqual([self.over(connection) for _ in range(3)], [200] * 3)
            self.assertGreaterEqual(connection.version(), 'TLSv1.2')

    def test_rude_clients(self):
        with self.assertNoLogs('lovely.remotetask', 'INFO'):
            for data in (b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx', b'', os.urandom(500),
                         b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'):         # a ClientHello's beginning
                with contextlib.suppress(OSError):
                    self.assertNotIn(b'200', self.send(data))
            for data in b'', b'\x16\x03\x01':
                connection = self.socket()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))     # a reset
                connection.sendall(data)
                connection.close()
            with self.socket() as distrustful, self.assertRaises(ssl.SSLCertVerificationError):
                ssl.create_default_context().wrap_socket(distrustful, server_hostname='127.0.0.1')
        with self.connect() as connection:              # ends without a word, in the middle of a request
            connection.sendall(b'POST / HTTP/1.1\r\n')
            os.close(connection.detach())
        self.assertServing()

    def test_renewal(self):
        def serial():
            with self.connect() as connection:
                return connection.getpeercert()['serialNumber']

        first = serial()
        with self.connect() as kept:
            self.certify(self.pem + '.new')
            os.replace(self.pem + '.new', self.pem)
            second = serial()
            self.assertNotEqual(second, first)
            self.assertEqual(self.over(kept), 200)
        pathlib.Path(self.pem).write_text('broken')
        with self.assertLogs('lovely.remotetask', 'ERROR') as logged:
            self.assertEqual([serial(), serial()], [second] * 2)
        self.assertEqual(len(logged.output), 1)
        self.assertIn('the certificate stays as it was', logged.output[0])

    def test_renewal_that_cannot_be_read_is_tried_again(self):
        self.assertServing()                            # it has the files that it needs
        certificate = Certificate(self.pem)
        contexts = []

        def look():
            contexts.append(certificate.context())
        self.certify(self.pem + '.new')
        os.replace(self.pem + '.new', self.pem)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        with self.assertLogs('lovely.remotetask', 'ERROR') as logged:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            for _ in range(3):
                look()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        self.assertEqual(len(logged.output), 1)
        self.assertIn('the certificate stays as it was', logged.output[0])
        look()
        self.assertEqual([context is contexts[0] for context in contexts], [True, True, True, False])

    def test_stop(self):
        with self.connect() as idle, self.socket() as silent:
            self.assertEqual(self.over(idle), 200)
            self.assertTrue(self.frontend.stop(WAIT))
            self.assertEqual(self.receive(silent), b'')


class TestIdleOverTls(TlsCase):

    level = 2

    limits = Limits(silentTLS=2, requestTime=WAIT, idleTime=WAIT)

    def test_the_oldest_goes(self):
        first, second = self.connect(), self.connect()
        self.addCleanup(first.close)
        self.addCleanup(second.close)
        stalled = [self.socket() for _ in range(3)]             # shake no hands
        self.assertEqual(self.receive(stalled[0]), b'')
        self.assertEqual([self.over(connection) for connection in (first, second)], [200, 200])
        with self.connect() as third:
            self.assertEqual(self.receive(first), b'')
            self.assertEqual([self.over(connection) for connection in (second, third)], [200, 200])


class TestSlowOverTls(TlsCase):
    """Clients of TLS that take their time, or leave in the middle."""

    limits = Limits(requestTime=WAIT, idleTime=WAIT, silentTLS=3, answerTime=3600)

    def makeFrontend(self):
        frontend = super().makeFrontend()
        frontend.authenticator = Authenticator()
        return frontend

    def connect(self):
        connection = socket.socket()
        self.addCleanup(connection.close)
        connection.settimeout(WAIT)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.connect(self.frontend.address)
        return self.client.wrap_socket(connection, server_hostname='127.0.0.1')

    def ask(self, connection, method, path, *lines):
        body = xmlrpc.client.dumps((1,), method).encode()
        head = '\r\n'.join([f'POST {path} HTTP/1.1', 'Host: x', f'Content-Length: {len(body)}', *lines, '', ''])
        connection.sendall(head.encode() + body)

    def askForLarge(self, *lines):
        """Return a connection whose client has not taken all of the response, which is large."""
        class Large:
            jobs = {1: Job(1, 'large', None)}

            def getResult(self, jobid):
                return b'x' * 20_000_000
        self.services['/large'] = Large()
        connection = self.connect()
        self.ask(connection, 'getResult', '/large', *lines)
        self.waitUntil(lambda: self.frontend.statistics()['bytesHeld'])
        return connection

    def waitForTheEnd(self):
        self.waitUntil(lambda: not self.frontend.statistics()['connections'])
        self.assertEqual(self.frontend.statistics()['bytesHeld'], 0)

    def test_all_of_the_last_response(self):
        connection = self.askForLarge('Connection: close')
        head, _, body = self.receive(connection).partition(b'\r\n\r\n')
        self.assertEqual(len(body), int(re.search(b'Content-Length: ([0-9]+)', head)[1]))
        connection.close()
        self.waitForTheEnd()

    def test_who_reads_nothing(self):
        self.frontend.limits = dataclasses.replace(self.limits, answerTime=0.3)
        for lines in (), ('Connection: close',):
            for leaves in False, True:
                connection = self.askForLarge(*lines)
                if leaves:
                    connection = socket.socket(fileno=connection.detach())
                    connection.shutdown(socket.SHUT_WR)
                self.waitForTheEnd()
                connection.close()

    def test_who_leaves_while_it_is_not_read_from(self):
        begun, go = self.addSlow('slow')
        self.frontend.limits = dataclasses.replace(self.limits, answerTime=0.3)
        connection = self.connect()
        self.ask(connection, 'getStatus', '/slow', 'Connection: close')
        self.assertTrue(begun.wait(WAIT))
        connection.sendall(b'x' * 100_000)              # far more than is read in advance
        with socket.socket(fileno=connection.detach()) as connection:
            connection.shutdown(socket.SHUT_WR)
            go.set()
            self.waitForTheEnd()

    def test_who_says_no_goodbye(self):
        connections = [self.connect() for _ in range(10)]
        self.waitUntil(lambda: self.frontend.statistics()['accepted'] == 10)
        self.waitUntil(lambda: self.frontend.statistics()['connections'] == 3)
        for connection in connections:
            connection.close()

    def test_response_under_way_is_given_before_it_stops(self):
        # Of so much the system takes only a part before the client reads.
        begun, go = self.addSlow('x' * 16_000_000)
        with self.connect() as connection:
            self.ask(connection, 'getStatus', '/slow')
            self.assertTrue(begun.wait(WAIT))
            reading, response = inThread(self.receive, connection)
            stopping, outcome = inThread(self.frontend.stop, WAIT)
            self.waitUntil(lambda: self.frontend.isStopping)
            go.set()
            reading.join(WAIT)
            stopping.join(WAIT)
        self.assertTrue(b'x' * 16_000_000 in response[0])
        self.assertEqual(outcome, [True])

    def test_who_says_no_goodbye_when_it_stops(self):
        begun, go = self.addSlow('slow')
        first, second = self.connect(), self.connect()
        self.ask(first, 'getStatus', '/', 'Connection: close')
        self.assertIn(b'no job', self.receive(first))
        self.ask(second, 'getStatus', '/slow', 'Connection: close')
        self.assertTrue(begun.wait(WAIT))
        stopping, outcome = inThread(self.frontend.stop, WAIT)
        self.waitUntil(lambda: self.frontend.isStopping)
        go.set()
        self.assertIn(b'slow', self.receive(second))
        stopping.join(WAIT)
        self.assertEqual(outcome, [True])
        self.assertEqual(self.frontend.statistics()['connections'], 0)
        first.close()
        second.close()


class TestStalledHandshakes(TlsCase):

    level = 2

    limits = Limits(requestTime=0.3, idleTime=WAIT)

    def test_stalled(self):
        for data in b'', b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03':
            connection = self.socket()
            connection.sendall(data)
            self.assertNotIn(b'200', self.receive(connection))


class TestPlainPort(ServerCase):

    level = 2

    limits = Limits(requestTime=0.3, idleTime=WAIT)

    def test_tls_client(self):
        context = ssl.create_default_context()
        with self.assertRaises(OSError), context.wrap_socket(self.socket(), server_hostname='127.0.0.1'):
            pass
        self.assertServing()


class TestCertificate(unittest.TestCase):

    def test_files(self):
        directory = self.enterContext(tempfile.TemporaryDirectory())
        certificate, key, other, encrypted = (os.path.join(directory, name) for name in 'ckoe')
        leaf = trustme.CA().issue_cert('127.0.0.1')
        leaf.cert_chain_pems[0].write_to_path(certificate)
        leaf.private_key_pem.write_to_path(key)
        trustme.CA().issue_cert('127.0.0.1').private_key_pem.write_to_path(other)
        loaded = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
        with open(encrypted, 'wb') as file:
            file.write(loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                            serialization.BestAvailableEncryption(b'secret')))
        self.assertEqual(Certificate(certificate, key).context().minimum_version, ssl.TLSVersion.TLSv1_2)
        for paths in ((certificate,), (certificate, other), (certificate, encrypted), (key,), (directory,),
                      (certificate, certificate + 'x')):
            with self.subTest(paths), self.assertRaises(ConfigurationError) as caught:
                Certificate(*paths)
            self.assertRegex(str(caught.exception), f'cannot use the certificate {paths[0]} with the key .*: .')
        with self.assertRaisesRegex(ConfigurationError, 'the key has a password: give one without'):
            Certificate(certificate, encrypted)
        os.chmod(key, 0o604)
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            Certificate(certificate, key)
        self.assertIn(f'all users of this machine can read the private key {key}', logs.output[0])


if __name__ == '__main__':
    unittest.main()
