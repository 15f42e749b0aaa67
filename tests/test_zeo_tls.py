"""A database server with TLS, as `deploying.txt` tells it: who gets in, and what works over it."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import itertools
import os
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import textwrap
import threading
import time
import types
import unittest
import unittest.mock

from ZEO.ClientStorage import ClientStorage
from ZEO.Exceptions import ClientDisconnected
from ZODB.config import storageFromString
from ZODB.DB import DB
from zope.component import provideUtility
from zope.component import testing

from deployment import PATIENCE
from deployment import siteOf
from lovely.remotetask.common.internals import serverOf
from lovely.remotetask.common.keepalive import IDLE
from lovely.remotetask.config import settings
from lovely.remotetask.database import zeo
from lovely.remotetask.database.complaints import lastComplaint
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.opening import Database
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.tls import clientContext
from lovely.remotetask.database.zeo import leaveIfSilent
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.service import DEFAULT_SERVICE
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import Process
from lovely.remotetask.testing import temporaryZEO
from lovely.remotetask.testing.ports import freePort
from waits import waitUntil


ROOT = pathlib.Path(__file__).parent.parent
DOCUMENT = ROOT / 'src/lovely/remotetask/documents/deploying.txt'

#: What `etc/zeo.conf` has of the lines in `deployment.cfg`, and besides.
SERVER = """\
<zeo>
  address {address}
  {more}
</zeo>
<filestorage 1>
  path {directory}/Data.fs
  blob-dir {directory}/server.blobs
</filestorage>
<eventlog>
  <logfile>
    path STDERR
    format %(message)s
  </logfile>
</eventlog>
"""

HOST = """\
site-definition {directory}/site.zcml
%import ZEO
<zodb>
{client}
</zodb>
<processor>
  name beta-1
  wait-time 60s
</processor>
"""

#: How the line begins that the server has for a client that it refuses.
REFUSED = 'a client of the database at 127.0.0.1 (port '

#: What makes a certificate of no authority.
STRANGER = ['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj',
            '/CN=beta', '-keyout', 'beta.key', '-out', 'beta.pem']


def blocks():
    """Return the indented blocks of the section: the commands, the settings of the server, and those of a client."""
    section = re.search('\nTLS for the database\n-+\n(.*?)\n\n\n', DOCUMENT.read_text(), re.DOTALL)[1]
    return [textwrap.dedent(block) for block in re.findall(r'::\n\n((?:    .*\n|\n)+)', section + '\n')]


class TlsCase(unittest.TestCase):
    """Certificates, and the text of sections that name them."""

    level = 2

    def setUp(self):
        self.directory = os.path.realpath(self.enterContext(tempfile.TemporaryDirectory()))
        self.address = f'127.0.0.1:{freePort()}'
        commands, deployment, client = blocks()
        subprocess.run(['sh', '-euc', commands], cwd=self.directory, check=True, capture_output=True, timeout=PATIENCE)
        more = re.search(r'database-more =\n(.*?)\n\S*database-client', deployment, re.DOTALL)[1]
        self.server = self.here(SERVER.format(address=self.address, directory=self.directory, more=more))
        # The certificate is for the name that the document has, and nobody else waits so long.
        self.client = self.here(client).replace('</ssl>', '  server-hostname zeo.example.org\n  </ssl>') \
            .replace('wait-timeout 30', 'wait-timeout 5').replace('blob-dir var', f'blob-dir {self.directory}')

    def here(self, text):
        """Return a text of the document with the files and the address of this test."""
        return text.replace('/etc/remotetask', self.directory).replace('zeo.example.org:8100', self.address)

    def write(self, name, text):
        """Write a file, and return its path."""
        path = pathlib.Path(self.directory, name)
        path.write_text(text)
        return str(path)

    def start(self, *arguments):
        """Start a process of this Python, and return it."""
        process = Process(arguments, self.directory)
        self.addCleanup(process.close)
        return process

    def startServer(self):
        """Start the database server, and return it when it listens."""
        server = self.start('-m', 'lovely.remotetask.runzeo', '-C', self.write('zeo.conf', self.server))
        server.waitFor('listening on')
        return server

    def hostConfiguration(self, client):
        """Write the configuration file of a host with this storage; return its path."""
        self.write('site.zcml', siteOf({}))
        return self.write('host.conf', HOST.format(directory=self.directory, client=client))


class TestAdmitted(TlsCase):

    def setUp(self):
        super().setUp()
        self.process = self.startServer()
        self.database = Database(lambda: DB(storageFromString(f'%import ZEO\n{self.client}')))
        self.addCleanup(self.database.close)

    def test_a_host_hears_of_jobs_and_an_application_of_their_end(self):
        self.addCleanup(testing.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='echo')
        host = self.start('-m', 'lovely.remotetask', '-C', self.hostConfiguration(self.client), 'processor')
        host.waitFor('ready')
        told = threading.Event()
        notifierOf(self.database.db).subscribe(told)
        jobid = self.transact(lambda service: service.add('echo', 1))
        while self.transact(lambda service: service.getStatus(jobid)) != 'completed':
            self.assertTrue(told.wait(PATIENCE), ''.join(host.said))        # by itself the host looks once a minute
            told.clear()
        self.assertEqual(host.end(), 0)

    def transact(self, function):
        """Call a function with the service in a transaction of its own; return what it returns."""
        with self.database.db.transaction() as connection:
            return function(connection.root()[ROOT_NAME][DEFAULT_SERVICE])

    def test_a_server_that_hangs_is_left(self):
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            self.assertIs(leaveIfSilent(self.database.db.storage, 1, threading.Event()), True)
        finally:
            os.kill(self.process.pid, signal.SIGCONT)
        waitUntil(self.isWritten)

    def test_a_server_whose_machine_vanishes_is_noticed(self):
        connection = serverOf(self.database.db.storage).client.protocol.sm_protocol.transport.get_extra_info('socket')
        self.assertTrue(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        self.assertEqual(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), IDLE)

    def isWritten(self):
        """Write to the database; return whether that has succeeded."""
        try:
            with self.database.db.transaction() as connection:
                connection.root()['written'] = True
        except ClientDisconnected:              # the transaction began over the connection that was left
            return False
        return True


class TestRefused(TlsCase):

    def setUp(self):
        super().setUp()
        self.process = self.startServer()

    def open(self, **options):
        """Open the database for some seconds, which must fail; return the lines that the log has of this package."""
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs, self.assertRaises(ClientDisconnected):
            host, port = self.address.split(':')
            Database(lambda: DB(ClientStorage((host, int(port)), wait_timeout=3, **options)))
        return logs.output

    def test_a_certificate_of_another_authority(self):
        subprocess.run(STRANGER, cwd=self.directory, check=True, capture_output=True, timeout=PATIENCE)
        client = re.sub('/beta.example.org', '/beta', self.client)
        host = self.start('-m', 'lovely.remotetask', '-C', self.hostConfiguration(client), 'processor')
        self.assertEqual(host.popen.wait(PATIENCE), 1)
        host.close()
        self.assertIn('cannot open the database', host.said[-1])
        refused = [line for line in host.said if 'has refused a connection' in line]
        self.assertIn('alert unknown ca', refused[0])
        self.assertLess(len(refused), 7)                        # in five seconds
        self.assertIn('certificate verify failed', self.process.waitFor(REFUSED))

    def test_a_server_of_another_authority(self):
        client = self.client.replace(f'authenticate {self.directory}/authority.pem',
                                     f'authenticate {self.directory}/beta.example.org.pem')
        host = self.start('-m', 'lovely.remotetask', '-C', self.hostConfiguration(client), 'processor')
        self.assertEqual(host.popen.wait(PATIENCE), 1)
        host.close()
        reason = 'the certificate of the database server zeo.example.org is not accepted: '
        self.assertRegex(host.said[-1], f'^remotetask: cannot open the database ZEO {self.address}: {reason}')
        self.assertIn(f'WARNING lovely.remotetask {reason}', ''.join(host.said))

    def test_no_certificate(self):
        context = ssl.create_default_context(cafile=f'{self.directory}/authority.pem')
        lines = self.open(ssl=context, ssl_server_hostname='zeo.example.org')
        self.assertLess(len(lines), 5)                          # in three seconds
        self.assertIn('alert certificate required', lines[0])
        self.assertIn('did not return a certificate', self.process.waitFor(REFUSED))

    def test_no_TLS(self):
        self.addCleanup(setattr, zeo, 'GREETING_TIME', zeo.GREETING_TIME)
        zeo.GREETING_TIME = 0.1
        line, = self.open()
        self.assertIn(f'{self.address} accepts a connection and says nothing: it hangs, or it wants TLS (<ssl>)', line)


class TestHandshake(unittest.TestCase):
    """A handshake that fails, without a network."""

    def test_a_server_without_tls(self):
        section = types.SimpleNamespace(**dict.fromkeys(('certificate', 'key', 'authenticate', 'password_function')),
                                        check_hostname=True, server_hostname='zeo.example.org')
        context, name = clientContext(section)
        incoming = ssl.MemoryBIO()
        incoming.write(b'\0\0\0\2Z5')
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs, self.assertRaises(ssl.SSLError):
            context.wrap_bio(incoming, ssl.MemoryBIO(), server_hostname=name).do_handshake()
        self.assertIn('the database server zeo.example.org gets no connection by TLS: ', logs.output[0])
        self.assertIn(lastComplaint(), logs.output[0])


class TestUnreachable(unittest.TestCase):

    def test_why(self):
        free, missing = ('127.0.0.1', freePort()), '/nowhere/zeo.sock'
        reason = f'{zeo.describeServer(free)}: Connection refused, {missing}: No such file or directory, ' \
                 'no.such.host.invalid:8100: '
        found = zeo.whyUnreachable([free, missing, ('no.such.host.invalid', 8100)])
        self.assertEqual(found[:len(reason)], reason)
        self.assertGreater(len(found), len(reason))
        self.assertEqual(zeo.whyUnreachable([missing]), 'No such file or directory')
        self.assertIsNone(zeo.whyUnreachable([]))
        with socket.create_server(('127.0.0.1', 0)) as server:
            self.assertIsNone(zeo.whyUnreachable([free, server.getsockname()]))


class TestAccepting(unittest.TestCase):
    """Something that takes the place of a database server, as a proxy does."""

    def test_one_that_ends_each_connection_is_asked_again_after_a_pause(self):
        self.enterContext(unittest.mock.patch.object(zeo, 'REFUSED_PAUSE', 0.25))
        with socket.create_server(('127.0.0.1', 0)) as server:
            moments = []
            ended = threading.Thread(target=self.accept, args=(server, moments))
            ended.start()
            with self.assertLogs('lovely.remotetask', 'WARNING') as logs, self.assertRaises(ClientDisconnected):
                Database(lambda: DB(ClientStorage(server.getsockname(), wait_timeout=2.5)))
            server.shutdown(socket.SHUT_RDWR)
            ended.join(PATIENCE)
        self.assertGreater(len(moments), 1)
        for before, after in itertools.pairwise(moments):
            self.assertGreaterEqual(after - before, zeo.REFUSED_PAUSE)
        self.assertIn('has refused a connection: it gave no reason', logs.output[0])

    def test_an_application_that_has_opened_it_by_itself_pauses_too(self):
        own, = zeo.Protocol.__bases__
        self.enterContext(unittest.mock.patch('ZEO.asyncio.client.Protocol', own))
        with temporaryZEO() as process:
            db = process.database()
            notifierOf(db)
            process.kill()
            with socket.create_server(process.address) as server:
                moments = []
                for _ in range(2):
                    connection, _ = server.accept()
                    moments.append(time.monotonic())
                    connection.close()
            db.close()
        self.assertGreaterEqual(moments[1] - moments[0], zeo.REFUSED_PAUSE)

    def test_a_heartbeat_does_not_fail_before_the_greeting(self):
        beats = threading.Semaphore(0)

        class Hasty(zeo.Protocol):
            def __init__(self, *arguments, **options):
                super().__init__(*arguments, **{**options, 'heartbeat_interval': 0.01})

            def heartbeat(self, write=True):
                super().heartbeat(write)
                beats.release()

        self.enterContext(unittest.mock.patch('ZEO.asyncio.client.Protocol', Hasty))
        with socket.create_server(('127.0.0.1', 0)) as server, self.assertNoLogs('asyncio', 'ERROR'):
            storage = ClientStorage(server.getsockname(), wait=False)
            self.addCleanup(storage.close)
            for _ in range(3):
                self.assertTrue(beats.acquire(timeout=PATIENCE))

    @staticmethod
    def accept(server, moments):
        """Accept connections, note when, and end them, until the socket is closed."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                moments.append(time.monotonic())
                connection.close()


class TestFiles(TlsCase):
    """A file that is missing, or does not fit, is named."""

    def test_of_a_client(self):
        for text, reason in self.mistakes(self.client, 'beta.example.org'):
            with self.subTest(reason), self.assertRaises(ConfigurationError) as raised:
                settings.load(self.hostConfiguration(text))
            self.assertIn(reason, str(raised.exception))
            self.assertRegex(str(raised.exception), r'^\S+host.conf, line \d+: [^\n]+$')

    def test_of_the_server(self):
        for text, reason in self.mistakes(self.server, 'zeo.example.org'):
            with self.subTest(reason):
                server = self.start('-m', 'lovely.remotetask.runzeo', '-C', self.write('zeo.conf', text))
                self.assertEqual(server.popen.wait(PATIENCE), 2)
                server.close()
                self.assertIn(reason, ''.join(server.said))

    def test_a_key_that_everybody_can_read(self):
        key = f'{self.directory}/beta.example.org.key'
        os.chmod(key, 0o640)
        with self.assertNoLogs('lovely.remotetask', 'WARNING'):
            settings.load(self.hostConfiguration(self.client))
        os.chmod(key, 0o644)
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            settings.load(self.hostConfiguration(self.client))
        self.assertIn(f'all users of this machine can read the private key {key}: "chmod o= {key}"', logs.output[0])
        os.chmod(f'{self.directory}/beta.example.org.pem', 0o644)       # a certificate may be read
        with self.assertNoLogs('lovely.remotetask', 'WARNING'), self.assertRaises(ConfigurationError):
            settings.load(self.hostConfiguration(self.client.replace(f'key {key}', '')))

    def mistakes(self, text, name):
        """Yield texts with a mistake, each with what is said of it."""
        other = 'beta.example.org' if name.startswith('zeo') else 'zeo.example.org'
        files = self.directory
        for key, wrong in ('certificate', f'{name}.pem'), ('key', f'{name}.key'), ('authenticate', 'authority.pem'):
            yield text.replace(f'{key} {files}/{wrong}', f'{key} {files}/none'), \
                f'{key} {files}/none: No such file or directory'
        yield text.replace(f'key {files}/{name}.key', f'key {files}/{other}.key'), \
            f'cannot use certificate {files}/{name}.pem, key {files}/{other}.key, ' \
            f'authenticate {files}/authority.pem: KEY_VALUES_MISMATCH'
        yield text.replace(f'key {files}/{name}.key', ''), \
            f'cannot use certificate {files}/{name}.pem, authenticate {files}/authority.pem: a certificate or a ' \
            'private key is missing there'
        subprocess.run(['openssl', 'pkey', '-in', f'{name}.key', '-aes256', '-passout', 'pass:x', '-out', 'secret.key'],
                       cwd=files, check=True, timeout=PATIENCE)
        yield text.replace(f'key {files}/{name}.key', f'key {files}/secret.key'), \
            'the key has a password: give one without'
        yield text.replace('</ssl>', '  password-function nothing.passwords\n</ssl>')\
            .replace(f'key {files}/{name}.key', f'key {files}/secret.key'), "No module named 'nothing'"


if __name__ == '__main__':
    unittest.main()
