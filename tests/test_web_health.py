"""The pages: health, metrics, charts, and the server."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import itertools
import json
import pathlib
import re
import socket
import subprocess
import sys
import threading
import unittest
import unittest.mock
import urllib.parse
import urllib.request
from types import SimpleNamespace

import zope.component.testing
from prometheus_client.parser import text_string_to_metric_families
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import StorageError
from zope.component import provideUtility

from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.pages import startPages
from lovely.remotetask.config.settings import defaultWeb
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.service import install
from lovely.remotetask.storage import scheduling
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.web import metrics
from lovely.remotetask.web.application import application
from lovely.remotetask.web.charts import Counter
from lovely.remotetask.web.health import Readiness
from lovely.remotetask.web.server import Server
from lovely.remotetask.web.server import checkReach
from lovely.remotetask.xmlrpc.access import Authenticator
from webcase import NOW
from webcase import USERS
from webcase import WebCase


class TestHealth(WebCase):

    def test_live_and_ready(self):
        self.assertEqual(self.get('/live').json, {'problem': None})
        self.assertEqual(self.get('/ready').json, {'problem': None})

    def test_live_never_asks_the_database(self):
        with unittest.mock.patch.object(self.db, 'open', side_effect=AssertionError):
            self.get('/live')

    def test_a_database_that_fails(self):
        with unittest.mock.patch.object(self.db, 'open', side_effect=StorageError('away')):
            with self.assertLogs('lovely.remotetask', 'WARNING'):
                response = self.get('/ready', status=503)
        self.assertEqual(response.json, {'problem': 'the database fails: StorageError'})

    def test_a_database_that_does_not_answer(self):
        """One look goes on, whoever asks, and nobody waits for long."""
        opened, goOn, open = [], threading.Event(), self.db.open

        def openLater(*arguments):
            opened.append(None)
            goOn.wait(60)
            return open(*arguments)

        readiness = Readiness(self.db, patience=0.05)
        with unittest.mock.patch.object(self.db, 'open', openLater):
            for _ in range(3):
                self.assertEqual(readiness.problem(), 'the database does not answer')
            self.assertEqual(len(opened), 1)
            goOn.set()
            patient = Readiness(self.db, patience=60)
            self.assertIsNone(patient.problem())
            for thread in threading.enumerate():
                if thread.name == 'remotetask-ready':
                    thread.join(60)

    def test_a_database_that_hangs_holds_up_the_pages_only(self):
        goOn, waiting, open = threading.Event(), threading.Semaphore(0), self.db.open

        def openLater(*arguments):
            waiting.release()
            goOn.wait(60)
            return open(*arguments)

        self.application = application(self.db, clock=lambda: NOW, concurrent=2)
        threads = [threading.Thread(target=self.get, args=('/jobs',)) for _ in range(2)]
        with unittest.mock.patch.object(self.db, 'open', openLater):
            for thread in threads:
                thread.start()
                self.assertTrue(waiting.acquire(timeout=60))
            self.assertIn('too many requests', self.get('/jobs', status=503).text)
            self.get('/live')
            self.get('/static/pages.css')
            goOn.set()
            for thread in threads:
                thread.join(60)
        self.get('/jobs')

    def test_no_service(self):
        with self.db.transaction() as connection:
            del connection.root()['Application']
        with self.assertLogs('lovely.remotetask', 'ERROR'):
            self.assertEqual(self.get('/ready', status=503).json['problem'], 'there is no task service in the database')

    def test_data_of_another_release(self):
        with self.service() as service:
            service.generation = 99
        self.assertIn('another release', self.get('/ready', status=503).json['problem'])


class TestMetrics(WebCase):

    users = USERS

    def metrics(self, user='bob'):
        """Return the metrics: name -> labels -> value, as Prometheus reads them."""
        found = {}
        for family in text_string_to_metric_families(self.get('/metrics', user).text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return found

    def test_what_the_database_says(self):
        with self.service() as service:
            service.addMany([{'task': 'fail'}] * 3, NOW - 50)
            service.process(NOW - 40)
            service.add('echo', now=NOW - 30)
            service.addCronJob('echo', delay=5, now=NOW - 100)
            scheduling.tick(service, NOW - 100)
        found = self.metrics()
        here = frozenset({('service', '/')})
        self.assertEqual(found['remotetask_jobs'][here | {('status', 'error')}], 3)
        self.assertEqual(len(found['remotetask_jobs']), len(STATUSES))
        for name, value in (('oldest_ready_seconds', 30), ('schedules_late_seconds', 95), ('paused', 0), ('hosts', 0),
                            ('jobs_per_second', 0.05)):
            self.assertAlmostEqual(found['remotetask_' + name][here], value, 6, name)
        self.assertGreater(found['remotetask_database_bytes'][frozenset()], 0)

    def test_what_this_process_counts(self):
        self.get('/', 'eve', status=401)
        self.get('/', status=401)
        self.get('/', 'bob')
        found = self.metrics()
        self.assertEqual(found['remotetask_logins_refused_total'], {frozenset(): 2})
        self.assertEqual(found['remotetask_page_requests_total'], {
            frozenset({('code', '401')}): 2, frozenset({('code', '200')}): 1})

    def test_who_may_read_them(self):
        self.get('/metrics', status=401)
        self.get('/metrics', 'films', status=403)

    def test_the_alerts_use_names_that_there_are(self):
        text = (pathlib.Path(metrics.__file__).parent / 'alerts.yaml').read_text()
        used = set(re.findall(r'remotetask_([a-z_]+)', text))
        self.assertLessEqual(used, {*metrics.GAUGES, *metrics.DATABASE_GAUGES})
        self.assertGreater(len(used), 5)
        labels = {'service', 'instance', *itertools.chain(*(labels for _, labels in metrics.GAUGES.values()))}
        self.assertLessEqual(set(re.findall(r'\$labels\.([a-z_]+)', text)), labels)

    def test_the_dashboard_uses_names_that_there_are(self):
        dashboard = json.loads((pathlib.Path(metrics.__file__).parent / 'grafana.json').read_text())
        used = set(re.findall(r'remotetask_([a-z_]+)', json.dumps([panel['targets'] for panel in dashboard['panels']])))
        self.assertEqual(used, {*metrics.GAUGES, *metrics.DATABASE_GAUGES})


class TestCharts(unittest.TestCase):

    def setUp(self):
        self.addCleanup(zope.component.testing.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='echo')
        self.db = DB(MappingStorage())
        self.addCleanup(self.db.close)
        install(self.db)

    def test_bins(self):
        counter = Counter()
        with self.db.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            for moment in 1000, 1010, 1300, 4000:
                service.add('echo', now=moment)
                service.process(moment)
        with self.db.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            bins = counter.bins(service, 4000, 60, 60)
            self.assertEqual(len(bins), 60)
            self.assertEqual({one.start: one.completed for one in bins if one.completed}, {960: 2, 1260: 1, 3960: 1})
            service.removeJobs()
            again = counter.bins(service, 4000, 60, 60)
        # What is past is not counted again; the last bins are.
        self.assertEqual([one.completed for one in again][:-3], [one.completed for one in bins][:-3])
        self.assertEqual(again[-1].completed, 0)


class TestWithoutTheExtra(unittest.TestCase):
    """WebOb, Chameleon and waitress need not be installed."""

    def start(self, path, web, isAsked=False):
        configuration = SimpleNamespace(path=path, web=web, frontend=SimpleNamespace(users=None))
        with unittest.mock.patch.dict(sys.modules, {'lovely.remotetask.web.application': None}), \
                contextlib.ExitStack() as closing:
            return startPages(configuration, None, closing, None, None if isAsked else Authenticator())

    def test_what_is_said(self):
        self.assertIn('no pages: not installed: pip install', self.start(None, defaultWeb()))
        self.assertIsNone(self.start('remotetask.conf', None))
        for options in ('remotetask.conf', defaultWeb()), (None, defaultWeb(), True), ('remotetask.conf', None, True):
            with self.subTest(options), self.assertRaisesRegex(CommandFailure, 'the pages are not installed: pip inst'):
                self.start(*options)

    def test_nothing_else_needs_it(self):
        program = ('import sys\n'
                   'sys.modules.update(dict.fromkeys(("webob", "chameleon", "waitress", "prometheus_client")))\n'
                   'import lovely.remotetask.cli.main')
        done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ''))


class TestServer(unittest.TestCase):
    """The real server."""

    def start(self, answer):
        server = Server(answer, ('127.0.0.1', 0), 2)
        self.addCleanup(server.stop, 5)
        server.start()
        return server

    def test_it_answers_until_it_is_stopped(self):
        def answer(environ, start_response):
            start_response('200 OK', [('Content-Length', '2')])
            return [b'hi']

        server = self.start(answer)
        url = 'http://{}:{}/x?y'.format(*server.address)
        with self.assertLogs('lovely.remotetask.access', 'INFO') as logged:
            with urllib.request.urlopen(url, timeout=30) as response:
                self.assertEqual(response.read(), b'hi')
        self.assertIn('"GET /x?y" 200 2', logged.output[0])
        self.assertTrue(server.stop(30))
        self.assertTrue(server.stop(30))
        with self.assertRaises(OSError):
            socket.create_connection(server.address, timeout=30)

    def test_a_slow_request_ends_in_peace(self):
        begun, goOn = threading.Event(), threading.Event()

        def answer(environ, start_response):
            begun.set()
            goOn.wait(60)
            start_response('200 OK', [('Content-Length', '2')])
            return [b'hi']

        server, found = self.start(answer), []
        thread = threading.Thread(target=lambda: found.append(
            urllib.request.urlopen('http://{}:{}/'.format(*server.address), timeout=60).read()))
        thread.start()
        self.assertTrue(begun.wait(60))
        goOn.set()
        thread.join(60)
        self.assertEqual(found, [b'hi'])
        self.assertTrue(server.stop(30))

    def test_where_it_will_not_listen(self):
        def answer(environ, start_response):
            raise AssertionError

        for hasUsers, reason in (False, 'without users they answer only this machine'), (True, 'speak no TLS'):
            with self.assertRaisesRegex(ConfigurationError, f'open to other machines at 0.0.0.0:0.*{reason}'):
                checkReach(('0.0.0.0', 0), hasUsers)
            checkReach(('127.0.0.1', 0), hasUsers)
        with self.assertRaisesRegex(ConfigurationError, 'Address already in use'):
            Server(answer, self.start(answer).address, 1)


if __name__ == '__main__':
    unittest.main()
