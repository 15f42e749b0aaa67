"""Behind nginx: the configuration that `deploying.txt` shows, run as it is but for ports, paths and a time."""
# SPDX-License-Identifier: ZPL-2.1
import http.client
import io
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import tempfile
import unittest
import urllib.parse
import xmlrpc.client

import trustme

import lovely.remotetask
from accesscase import AccessCase
from accesscase import basic
from lovely.remotetask import client as clientModule
from lovely.remotetask.client import Client
from lovely.remotetask.client import File
from lovely.remotetask.client import HttpError
from lovely.remotetask.config.users import Users
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.testing import Process
from lovely.remotetask.testing.ports import freePort
from lovely.remotetask.xmlrpc.access import Authenticator
from lovely.remotetask.xmlrpc.server import Frontend
from servercase import CALL
from servercase import WAIT
from test_users import HASH
from test_users import PASSWORD
from threads import inThread
from waits import waitUntil


NGINX = shutil.which('nginx', path=os.environ.get('PATH', '') + ':/usr/sbin:/usr/local/sbin')
DOCUMENT = pathlib.Path(lovely.remotetask.__file__).parent / 'documents' / 'deploying.txt'

FORM = {'Content-Type': 'application/x-www-form-urlencoded'}

#: What is around it.
CONFIGURATION = '''\
daemon off;
master_process off;
pid nginx.pid;
error_log errors;
events {}
http {
    access_log log;
    client_body_temp_path bodies;
    proxy_temp_path answers;
    fastcgi_temp_path unused;
    uwsgi_temp_path unused;
    scgi_temp_path unused;
%s
}
'''


def documented():
    """Return the configuration in the document."""
    text = DOCUMENT.read_text('utf-8').partition('of nginx; the tests run it::\n\n')[2]
    return re.match(r'(?:    .*\n|\n)+', text)[0]


@unittest.skipUnless(NGINX, 'nginx is not installed')
class NginxCase(unittest.TestCase):
    """Can start nginx, with a certificate that is known to `trust`."""

    changes = {}            # of the configuration: text -> what takes its place

    def prepareProxy(self):
        """Make what is in the directory of nginx."""
        self.directory = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        authority = trustme.CA()
        self.trust = ssl.create_default_context()
        authority.configure_trust(self.trust)
        leaf = authority.issue_cert('127.0.0.1')
        leaf.cert_chain_pems[0].write_to_path(self.directory / 'certificate.pem')
        leaf.private_key_pem.write_to_path(self.directory / 'key.pem')

    def startProxy(self, frontend, pages='127.0.0.1:9'):
        """Start nginx before a front end and pages at these addresses."""
        # It does not tell which port it has got, so a free one has to be known before; somebody else may be faster.
        nginx = None
        while nginx is None or nginx.poll() is not None and 'Address already in use' in self.text('errors'):
            nginx = self.tryToStartProxy(frontend, pages)
            waitUntil(lambda: self.text('nginx.pid') or nginx.poll() is not None)
        self.assertIsNone(nginx.poll(), self.text('errors'))

    def tryToStartProxy(self, frontend, pages):
        self.port = freePort()
        text = documented()
        addresses = {'127.0.0.1:8080': frontend, '127.0.0.1:8081': pages, 'listen 443': f'listen 127.0.0.1:{self.port}'}
        for old, new in {**addresses, **self.changes}.items():
            self.assertIn(old, text)
            text = text.replace(old, new)
        (self.directory / 'nginx.conf').write_text(CONFIGURATION % text)
        (self.directory / 'errors').unlink(missing_ok=True)
        nginx = subprocess.Popen(
            [NGINX, '-p', str(self.directory), '-c', 'nginx.conf', '-e', 'errors'], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(nginx.wait, WAIT)
        self.addCleanup(nginx.terminate)
        return nginx

    def text(self, name):
        """Return what a file of nginx says."""
        path = self.directory / name
        return path.read_text() if path.exists() else ''

    def clientOf(self, name, timeout=WAIT):
        client = Client(f'https://{name}:{PASSWORD.replace(" ", "%20")}@127.0.0.1:{self.port}/', timeout, self.trust)
        self.addCleanup(client.close)
        return client


class ProxyCase(NginxCase, AccessCase):
    """nginx, a front end with users behind it, and a client of nginx."""

    def setUp(self):
        super().setUp()
        self.prepareProxy()
        self.startProxy('%s:%d' % self.frontend.address)
        self.client = self.clientOf('ann')

    def process(self):
        """Run all jobs."""
        with self.db.transaction() as connection:
            connection.root()['/'].process()

    def request(self, body, **headers):
        """Return the status and the body of the answer to a POST request, over a connection of its own."""
        connection = http.client.HTTPSConnection('127.0.0.1', self.port, timeout=WAIT, context=self.trust)
        self.addCleanup(connection.close)
        headers = {name.replace('_', '-'): value for name, value in headers.items()}
        connection.request('POST', '/', body, {'Authorization': basic('ann', PASSWORD), **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()


class TestProxy(ProxyCase):

    level = 2

    def test_calls(self):
        jobid = self.client.add('echo', 'x' * 7_000_000)        # nginx itself takes no more than 1 MB
        self.process()
        self.assertEqual((self.client.getStatus(jobid), self.client.getResult(jobid)), ('completed', 7_000_000))
        with self.assertRaises(HttpError) as caught:
            self.client.add('echo', 'x' * 9_000_000)
        self.assertEqual(caught.exception.status, 413)
        with self.assertLogs('lovely.remotetask', 'WARNING'), self.assertRaises(HttpError) as caught:
            self.clientOf('nobody').getAvailableTasks()
        self.assertEqual(caught.exception.status, 401)

    def test_connections_are_kept(self):
        before = self.frontend.statistics()['accepted']
        for _ in range(20):
            self.client.getAvailableTasks()
        self.assertEqual(self.frontend.statistics()['accepted'] - before, 1)

    def test_what_is_said_of_the_client_is_not_looked_at(self):
        with self.assertLogs('lovely.remotetask.access', 'INFO') as logged:
            self.assertEqual(self.request(CALL, X_Forwarded_For='192.0.2.1', Forwarded='for=192.0.2.1')[0], 200)
        self.assertIn('access:127.0.0.1 - ann ', logged.output[0])

    def test_who_has_logged_in_is_not_held_up_by_others_behind_the_proxy(self):
        self.client.getAvailableTasks()
        with self.assertLogs('lovely.remotetask', 'WARNING'):
            statuses = [self.request(CALL, Authorization=basic(f'u{number % 30}', 'wrong'))[0] for number in range(60)]
            self.assertEqual(set(statuses), {401, 429})
            self.assertEqual(self.request(CALL, Authorization=basic('vic', PASSWORD))[0], 429)
        self.assertEqual(self.client.getAvailableTasks(), ['echo', 'square'])

    def test_a_frontend_that_is_started_again(self):
        self.client.getAvailableTasks()
        address = self.frontend.address
        self.assertTrue(self.frontend.stop(WAIT))
        self.assertEqual(self.request(CALL)[0], 502)
        adding, outcome = inThread(self.client.add, 'echo', 1)
        self.waitUntil(lambda: self.text('log').count(' 502 ') > 2)             # it has been told so as well
        self.frontend = Frontend(address, self.gateway, self.limits, authenticator=Authenticator(Users(self.path)))
        self.addCleanup(self.frontend.stop, WAIT)
        inThread(self.frontend.serveForever)
        adding.join(WAIT)
        self.assertEqual(self.client.getStatus(outcome[0]), 'queued')
        self.assertEqual(self.client.getStatistics()['counts']['queued'], 1)


class TestSite(NginxCase):
    """A site as users start it, behind nginx: calls, a wait, a file, pages, a button."""

    level = 2

    def setUp(self):
        self.prepareProxy()
        path = self.directory / 'users'
        path.write_text(f'ann:{HASH}:manage:*:*\n')
        path.chmod(0o600)
        section = DOCUMENT.read_text('utf-8').partition('if their section says so::\n\n')[2]
        web = re.match('(?: {4}.*\n)+', section)[0]
        self.assertIn('address 127.0.0.1:8081', web)
        (self.directory / 'site.conf').write_text(
            '<frontend>\naddress 0\nusers users\n</frontend>\n' + web.replace('127.0.0.1:8081', '0'))
        site = Process(['-m', 'lovely.remotetask', '-C', 'site.conf', 'serve'], str(self.directory))
        self.addCleanup(site.close)
        frontend = site.waitFor('listening on http://')
        pages = site.waitFor('pages: http://')
        self.assertTrue(pages.endswith('/pages/'))
        site.waitFor('ready')
        self.startProxy(frontend.strip('/'), pages.partition('/')[0])

    def page(self, path, body=None, **headers):
        """Return status, headers and text of a page."""
        connection = http.client.HTTPSConnection('127.0.0.1', self.port, timeout=WAIT, context=self.trust)
        self.addCleanup(connection.close)
        connection.request('GET' if body is None else 'POST', path, body,
                           {'Authorization': basic('ann', PASSWORD), **headers})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()

    def test_it(self):
        client = self.clientOf('ann')
        adding, outcome = inThread(client.wait, client.add('echo', 'Metropolis'))
        adding.join(WAIT)
        self.assertEqual(outcome, ['Metropolis'])
        jobid = client.add('echo', {'film': 'Nosferatu', 'source': File(io.BytesIO(b'x' * 3_000_000))})
        self.assertEqual(client.wait(jobid, WAIT)['film'], 'Nosferatu')
        status, _, text = self.page('/pages/jobs')
        self.assertEqual((status, 'Nosferatu' in text), (200, True))
        self.assertEqual({link.partition('/')[0] + '/' + link.split('/')[1]
                          for link in re.findall('(?:href|src|action)="([^"#]+)"', text)}, {'/pages'})
        token = re.search('name="token" value="([^"]+)"', text)[1]
        form = urllib.parse.urlencode({'token': token, 'jobid': jobid, 'back': '/jobs'})
        status, headers, _ = self.page('/pages/do/remove', form, Origin=f'https://127.0.0.1:{self.port}', **FORM)
        self.assertEqual((status, headers['Location'].partition('?')[0]), (303, '/pages/jobs'))
        with self.assertRaises(UnknownJob):
            client.getStatus(jobid)
        self.assertEqual(self.page('/pages/do/pause', form, Origin='https://127.0.0.1', **FORM)[0], 403)
        self.assertEqual(self.page('/pages/', Authorization='')[0], 401)


class TestSilence(ProxyCase):
    """A proxy that bears silence for a second."""

    level = 2

    changes = {'proxy_read_timeout 60s': 'proxy_read_timeout 1s'}

    def test_waiting_in_steps(self):
        self.addCleanup(setattr, clientModule, 'WAIT_STEP', clientModule.WAIT_STEP)
        clientModule.WAIT_STEP = 0.2
        jobids = [self.client.add('echo', 'x' * number) for number in range(3)]
        waits = [inThread(self.client.waitFor, jobids, WAIT), inThread(self.client.wait, jobids[2]),
                 inThread(lambda: dict(self.client.results(jobids)))]
        # Who asks for more than the proxy bears is cut off; those who ask in steps do not notice.
        with self.assertLogs('lovely.remotetask.access', 'INFO') as logged:
            status, _ = self.request(xmlrpc.client.dumps((jobids, WAIT), 'waitFor').encode())
            self.assertEqual(status, 504)
            self.waitUntil(lambda: sum(' waitFor ' in line for line in logged.output) > 10)     # they are answered
        self.process()
        for thread, _ in waits:
            thread.join(WAIT)
        (statuses,), (result,), (results,) = (outcome for _, outcome in waits)
        self.assertEqual((statuses, result), (['completed'] * 3, 2))
        self.assertEqual([results[jobid].result for jobid in jobids], [0, 1, 2])


class TestChunks(ProxyCase):
    """A proxy that passes on a body as it comes."""

    level = 2

    changes = {'proxy_http_version 1.1;': 'proxy_http_version 1.1; proxy_request_buffering off;'}

    def test_bodies_in_chunks(self):
        call = xmlrpc.client.dumps(('echo', 'x' * 1_000_000), 'add').encode()
        pieces = (call[start:start + 1000] for start in range(0, len(call), 1000))
        status, answer = self.request(pieces)
        (jobid,), _ = xmlrpc.client.loads(answer)
        self.process()
        self.assertEqual(self.client.getResult(jobid), 1_000_000)
        self.assertEqual(self.request(iter([b'x' * 1_000_000] * 9))[0], 413)
        self.assertEqual(self.client.getStatus(jobid), 'completed')


if __name__ == '__main__':
    unittest.main()
