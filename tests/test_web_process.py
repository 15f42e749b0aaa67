"""The pages as users start them: within serve, as a process of their own over ZEO, asked by remotetask health."""
# SPDX-License-Identifier: ZPL-2.1
import base64
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

from ZODB.DB import DB

from lovely.remotetask.cli.grace import GracePeriod
from lovely.remotetask.cli.pages import startPages
from lovely.remotetask.client import Client
from lovely.remotetask.config.settings import load
from lovely.remotetask.config.users import Users
from lovely.remotetask.database.sites import findService
from lovely.remotetask.service import install
from lovely.remotetask.testing.ports import freePort
from lovely.remotetask.xmlrpc.access import PAIR_LIMIT
from lovely.remotetask.xmlrpc.access import Authenticator
from lovely.remotetask.xmlrpc.gateway import Gateway
from test_cli import PATIENCE
from test_cli import ServerTestCase
from test_cli import environment
from test_users import HASH
from test_users import PASSWORD
from waits import waitUntil


WEB = '<web>\naddress 0\n</web>\n'


class WebProcessCase(ServerTestCase):

    def pages(self, lines):
        """Return the URL of the pages that a server has printed."""
        found = [line.removeprefix('pages: ') for line in lines if line.startswith('pages: ')]
        self.assertEqual(len(found), 1, lines)
        return found[0]

    def read(self, url, **headers):
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.read().decode()

    def health(self, *arguments):
        """Run the command; return exit code, standard and error output."""
        done = subprocess.run([sys.executable, '-m', 'lovely.remotetask.cli.main', *arguments], text=True,
                              capture_output=True, env=environment(), timeout=PATIENCE)
        return done.returncode, done.stdout, done.stderr


class TestServe(WebProcessCase):

    level = 2

    def test_pages_beside_the_frontend(self):
        process = self.start('serve', WEB + self.processorSection('one'))
        url = self.pages(self.untilReady(process))
        with Client(self.url) as client:
            jobid = client.add('echo', {'film': 'Metropolis'})
            client.wait(jobid, PATIENCE)
        self.assertIn('Metropolis', self.read(f'{url}jobs/{jobid}'))
        self.assertIn('>one<', self.read(url))
        self.assertIn('remotetask_hosts{service="/"} 1.0', self.read(f'{url}metrics'))
        for arguments, said in ((), 'alive\n'), (('--ready',), 'ready\n'):
            self.assertEqual(self.health('health', '--url', url, *arguments), (0, said, ''))
        self.stop(process)
        code, output, errors = self.health('health', '--url', url)
        self.assertEqual((code, output), (1, ''))
        self.assertRegex(errors, r'\Aremotetask: no answer from http://127\.0\.0\.1:[0-9]+/live: [^\n]+\n\Z')

    def test_none_are_wanted(self):
        lines = self.untilReady(self.start('serve', self.processorSection('one')))
        self.assertEqual([line for line in lines if 'pages' in line], [])

    def test_the_address_is_taken(self):
        with socket.create_server(('127.0.0.1', 0)) as taken:
            port = taken.getsockname()[1]
            self.refuses(1, f'the pages cannot listen at 127.0.0.1:{port}: Address already in use', 'serve',
                         f'<web>\naddress {port}\n</web>\n')

    def test_others_can_reach_it(self):
        self.refuses(2, 'the pages would be open to other machines at 0.0.0.0:0', 'serve',
                     '<web>\naddress 0.0.0.0:0\n</web>\n')

    def test_the_users_are_those_of_the_frontend(self):
        self.write('users', f'ann:{HASH}:view:*:*\n')
        os.chmod(os.path.join(self.directory, 'users'), 0o600)
        process = self.start('serve', WEB, frontend='users users\n')
        url = self.pages(self.untilReady(process))
        with self.assertRaises(urllib.error.HTTPError) as caught:
            self.read(url)
        self.assertEqual(caught.exception.code, 401)


class TestMetrics(WebProcessCase):

    level = 2

    def metrics(self, lines):
        """Return what a server tells at the address that it has printed."""
        found = [line.removeprefix('metrics: ') for line in lines if line.startswith('metrics: ')]
        self.assertEqual(len(found), 1, lines)
        return lambda: self.read(found[0])

    def test_a_front_end_and_a_host(self):
        database = self.zeo()
        frontend = self.metrics(self.untilReady(self.start('frontend', database, 'frontend.conf',
                                                           frontend='metrics-address 0\n')))
        host = self.metrics(self.untilReady(self.start('processor', database + self.processorSection(
            'one', 'metrics-address 0\n'), 'processor.conf')))
        with Client(self.url) as client:
            jobid = client.add('echo', 'Metropolis')
            client.wait(jobid, PATIENCE)
            self.assertEqual(client.getTaskStatistics()['echo']['completed'], 1)
        told = frontend()
        for line in ('remotetask_xmlrpc_requests_total{code="ok",method="add"} 1.0',
                     'remotetask_xmlrpc_jobs_added_total{service="/",task="echo"} 1.0',
                     'remotetask_commit_seconds_count{where="frontend"} 1.0'):
            self.assertIn(line, told)
        self.assertRegex(host(), r'remotetask_commit_seconds_count{where="cycle"} [2-9]')

    def test_the_address_is_taken_or_open(self):
        with socket.create_server(('127.0.0.1', 0)) as taken:
            port = taken.getsockname()[1]
            self.refuses(1, f'the metrics cannot listen at 127.0.0.1:{port}: Address already in use', 'serve',
                         self.processorSection('one', f'metrics-address {port}\n'))
        self.refuses(2, 'the metrics would be open to other machines at 0.0.0.0:0, and speak no TLS: listen on '
                        '127.0.0.1, or add "allow-insecure on" to <processor>', 'serve',
                     self.processorSection('one', 'metrics-address 0.0.0.0:0\n'))


class TestThrottle(unittest.TestCase):

    def test_wrong_passwords_are_counted_together(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        site = pathlib.Path(directory.name)
        for name in 'users', 'others':
            with open(os.open(site / name, os.O_WRONLY | os.O_CREAT, 0o600), 'w') as file:
                file.write(f'ann:{HASH}:view:*:*\n')
        for users, tries in ('', PAIR_LIMIT + 6), ('users others\n', PAIR_LIMIT + 6), ('', 0):
            (site / 'remotetask.conf').write_text(
                '<zodb>\n<mappingstorage>\n</mappingstorage>\n</zodb>\n<frontend>\nusers users\n</frontend>\n'
                f'<web>\naddress 0\n{users}</web>\n')
            configuration = load(site / 'remotetask.conf')
            authenticator = Authenticator(Users(configuration.frontend.users))
            for _ in range(tries):                      # at the front end
                authenticator.throttle.failed('127.0.0.1', 'ann', time.monotonic())
            with self.subTest(users, tries=tries), contextlib.ExitStack() as closing:
                db = closing.enter_context(contextlib.closing(DB(None)))
                install(db)
                said = startPages(configuration, db, closing, GracePeriod(5.0), authenticator)
                request = urllib.request.Request(said.removeprefix('pages: '), headers={
                    'Authorization': 'Basic ' + base64.b64encode(f'ann:{PASSWORD}'.encode()).decode()})
                if tries == 0:
                    urllib.request.urlopen(request, timeout=PATIENCE).close()
                    continue
                with self.assertRaises(urllib.error.HTTPError) as caught:
                    urllib.request.urlopen(request, timeout=PATIENCE)
                self.assertEqual(caught.exception.code, 429)


class TestFrontend(unittest.TestCase):
    """The pages of a front end that reads, and does not commit."""

    def test_it_is_not_ready_until_it_commits_again(self):
        letGo = threading.Event()
        site = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (site / 'remotetask.conf').write_text('<zodb>\n<mappingstorage>\n</mappingstorage>\n</zodb>\n' + WEB)
        configuration = load(site / 'remotetask.conf')
        with contextlib.ExitStack() as closing:
            db = closing.enter_context(contextlib.closing(DB(None)))
            install(db)
            gateway = Gateway(db, lambda connection, path: findService(connection.root()['Application'], path), 0.1)
            gateway.start()
            closing.callback(gateway.stop)
            closing.callback(letGo.set)
            url = startPages(configuration, db, closing, GracePeriod(5.0), None, gateway).removeprefix('pages: ')
            self.assertEqual(self.problem(url), None)
            gateway.write('/', lambda service: letGo.wait(PATIENCE))
            gateway.flush()
            waitUntil(lambda: self.problem(url) is not None)
            self.assertRegex(self.problem(url), 'a commit of calls has been going on for [0-9]+ seconds')
            with urllib.request.urlopen(f'{url}metrics', timeout=PATIENCE) as answer:
                told = answer.read().decode()
            self.assertIn('remotetask_ready 0.0', told)
            self.assertIn('remotetask_hosts{', told)            # the database can be read
            letGo.set()
            waitUntil(lambda: self.problem(url) is None)

    def problem(self, url):
        try:
            with urllib.request.urlopen(f'{url}ready', timeout=PATIENCE) as answer:
                return json.load(answer)['problem']
        except urllib.error.HTTPError as error:
            self.assertEqual(error.code, 503)
            return json.load(error)['problem']


class TestWeb(WebProcessCase):

    level = 2

    def test_a_process_of_its_own(self):
        database = self.zeoProcess()
        self.untilReady(self.start('frontend', database, 'frontend.conf'))
        web = self.start('web', database + WEB, 'web.conf')
        url = self.pages(self.untilReady(web))
        with Client(self.url) as client:
            jobid = client.add('echo', 'over ZEO', startLater=True)
        waitUntil(lambda: f'"/jobs/{jobid}"' in self.read(f'{url}jobs'))      # it hears of commits a moment later
        page = self.read(f'{url}jobs/{jobid}')
        token = page.partition('name="token" value="')[2].partition('"')[0]
        request = urllib.request.Request(f'{url}do/start', f'token={token}&jobid={jobid}'.encode(),
                                         {'Origin': url.rstrip('/')})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            self.assertIn('The job was started.', answer.read().decode())
        with Client(self.url) as client:
            self.assertEqual(client.getStatus(jobid), 'queued')
        self.assertRegex(self.read(f'{url}changes?verb=start'), f'<td>start</td><td><a [^>]*>job {jobid}</a> echo</td>')
        self.stop(web)

    def test_a_database_that_is_away(self):
        database = self.zeoProcess()
        web = self.start('web', database + WEB, 'web.conf')
        url = self.pages(self.untilReady(web))
        self.assertEqual(self.health('health', '--ready', '--url', url)[0], 0)
        self.server.kill()
        self.server.wait()
        # What was seen before is told for a second.
        code, output, errors = waitUntil(lambda: (said := self.health('health', '--ready', '--url', url))[0] and said)
        self.assertEqual((code, output), (1, ''))
        self.assertRegex(errors, r'\Aremotetask: not ready: the database [^\n]+\n\Z')
        self.assertEqual(self.health('health', '--url', url), (0, 'alive\n', ''))

    def zeoProcess(self):
        """Start a database server that can be killed, and return the configuration of its clients."""
        port = freePort()
        self.server = subprocess.Popen(
            [sys.executable, '-m', 'lovely.remotetask.runzeo', '-a', f'127.0.0.1:{port}', '-f',
             os.path.join(self.directory, 'zeo.fs')], env=environment(), cwd=self.directory,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(self.server.wait)
        self.addCleanup(self.server.kill)
        return f'<zodb>\n<zeoclient>\nserver 127.0.0.1:{port}\n</zeoclient>\n</zodb>\n'

    def test_who_is_asked(self):
        self.write('users', f'ann:{HASH}:view:*:*\n')
        os.chmod(os.path.join(self.directory, 'users'), 0o600)
        web = self.start('web', '<web>\naddress 0\nusers users\n</web>\n', 'web.conf')
        url = self.pages(self.untilReady(web))
        with self.assertRaises(urllib.error.HTTPError) as caught:
            self.read(url)
        self.assertEqual(caught.exception.code, 401)
        pair = base64.b64encode(f'ann:{PASSWORD}'.encode()).decode()
        self.assertIn('user ann', self.read(url, Authorization=f'Basic {pair}'))
        self.assertEqual(self.health('health', '--url', url)[0], 0)

    def test_health_of_what_is_no_page(self):
        self.assertEqual(self.health('health', '--url', 'ftp://x/')[0], 2)
        self.assertEqual(self.health('health', '--url', 'http://')[0], 1)


if __name__ == '__main__':
    unittest.main()
