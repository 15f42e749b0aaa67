"""The pages: health, metrics, charts, and the server."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import itertools
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
import unittest.mock
import urllib.parse
import urllib.request
from types import SimpleNamespace

import webob
import zope.component.testing
from prometheus_client.parser import text_string_to_metric_families
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage
from ZODB.mvccadapter import MVCCAdapterInstance
from ZODB.POSException import POSKeyError
from ZODB.POSException import StorageError
from zope.component import provideUtility

import missing
from lovely.remotetask.application import addService
from lovely.remotetask.application import getService
from lovely.remotetask.application import removeService
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.pages import startMetrics
from lovely.remotetask.cli.pages import startPages
from lovely.remotetask.common.counts import COUNTERS
from lovely.remotetask.common.counts import DURATIONS
from lovely.remotetask.common.counts import MOST
from lovely.remotetask.common.counts import Counts
from lovely.remotetask.common.counts import counts
from lovely.remotetask.common.release import release
from lovely.remotetask.config.settings import defaultWeb
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.service import install
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage.ledger import LONG
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.web import charts
from lovely.remotetask.web import metrics
from lovely.remotetask.web.application import application
from lovely.remotetask.web.charts import Counter
from lovely.remotetask.web.health import Readiness
from lovely.remotetask.web.processmetrics import ProcessMetrics
from lovely.remotetask.web.server import Server
from lovely.remotetask.web.server import checkReach
from lovely.remotetask.xmlrpc import counting
from lovely.remotetask.xmlrpc.access import Authenticator
from waits import PATIENCE
from webcase import NOW
from webcase import USERS
from webcase import WebCase


#: All there is: tables of name -> what it is, and its labels.
TABLES = metrics.GAUGES, metrics.TASK_COUNTERS, metrics.TASK_DURATIONS, COUNTERS, DURATIONS

#: The rules for Prometheus, and the path of the program that checks them, None where it is not installed.
ALERTS, PROMTOOL = pathlib.Path(metrics.__file__).parent / 'alerts.yaml', shutil.which('promtool')


#: A program in which the server of the pages accepts a connection when no file is left, and later some are.
WITHOUT_FILES = '''
import logging, os, queue, resource, socket
from logging.handlers import QueueHandler
from lovely.remotetask.web.server import Server

def answer(environ, start_response):
    start_response('200 OK', [('Content-Length', '2')])
    return [b'hi']

logging.getLogger().addHandler(QueueHandler(said := queue.Queue()))
server, client, files = Server(answer, ('127.0.0.1', 0), 1), socket.socket(), []
server.start()
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
try:
    while True:
        files.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    client.connect(server.address)
print(said.get().getMessage())
for file in files:
    os.close(file)
client.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
found = client.makefile('rb').read()
while not said.empty():
    print(said.get().getMessage())
print(found[-2:])
server.stop()
'''


class TestHealth(WebCase):

    def test_live_and_ready(self):
        self.assertEqual(self.get('/live').json, {'problem': None})
        self.assertEqual(self.get('/ready').json, {'problem': None, 'unusable': 0, 'reasons': {}})

    def test_live_never_asks_the_database(self):
        with unittest.mock.patch.object(self.db, 'open', side_effect=AssertionError):
            self.get('/live')

    def test_a_database_that_fails(self):
        with unittest.mock.patch.object(self.db, 'open', side_effect=StorageError('away')):
            with self.assertLogs('lovely.remotetask', 'WARNING'):
                response = self.get('/ready', status=503)
        self.assertEqual(response.json, {'problem': 'the database fails: StorageError', 'unusable': 0, 'reasons': {}})

    def test_a_database_that_does_not_answer(self):
        """One look goes on, whoever asks, and nobody waits for long."""
        opened, isOpening, goOn, open = [], threading.Event(), threading.Event(), self.db.open

        def openLater(*arguments):
            opened.append(None)
            isOpening.set()
            goOn.wait(PATIENCE)
            return open(*arguments)

        readiness = Readiness(self.db, patience=0.05)
        with unittest.mock.patch.object(self.db, 'open', openLater):
            for _ in range(3):
                self.assertEqual(readiness.seen().problem, 'the database does not answer')
            self.assertTrue(isOpening.wait(PATIENCE))
            self.assertEqual(len(opened), 1)
            goOn.set()
            patient = Readiness(self.db, patience=PATIENCE)
            self.assertIsNone(patient.seen().problem)
            for thread in threading.enumerate():
                if thread.name == 'remotetask-ready':
                    thread.join(PATIENCE)

    def test_a_database_that_hangs_holds_up_the_pages_only(self):
        goOn, waiting, open = threading.Event(), threading.Semaphore(0), self.db.open

        def openLater(*arguments):
            waiting.release()
            goOn.wait(PATIENCE)
            return open(*arguments)

        self.application = application(self.db, clock=lambda: NOW, concurrent=2)
        threads = [threading.Thread(target=self.get, args=('/jobs',)) for _ in range(2)]
        with unittest.mock.patch.object(self.db, 'open', openLater):
            for thread in threads:
                thread.start()
                self.assertTrue(waiting.acquire(timeout=PATIENCE))
            self.assertIn('too many requests', self.get('/jobs', status=503).text)
            self.get('/live')
            self.get('/static/pages.css')
            goOn.set()
            for thread in threads:
                thread.join(PATIENCE)
        self.get('/jobs')

    def test_no_service(self):
        with self.db.transaction() as connection:
            del connection.root()['Application']
        self.assertEqual(self.get('/ready', status=503).json['problem'], 'there is no task service in the database')

    def test_data_of_another_release(self):
        with self.service() as service:
            service.generation, service.needs, service.release = 99, 99, '9.9'
        self.db.cacheMinimize()
        self.assertIn('install lovely.remotetask 9.9 or a newer one', self.get('/ready', status=503).json['problem'])
        for path in '/', '/jobs', '/hosts':
            self.assertIn('install lovely.remotetask 9.9 or a newer one', self.get(path, status=503).text)
        self.get('/live')


class TestUnusable(WebCase):
    """Of several services one is of another release, and the class of one is missing: the others are shown."""

    def setUp(self):
        super().setUp()
        missing.addTo(self.db)
        with self.db.transaction() as connection:
            addService(connection.root()['Application'], 'Films', 'Films').add('echo')

    def makeDefaultNewer(self):
        with self.service() as service:
            service.generation, service.needs, service.release = 99, 99, '9.9'
        self.db.cacheMinimize()

    def usable(self):
        """Return what the metrics say: path -> whether the service can be used."""
        return {sample.labels['service']: sample.value
                for family in text_string_to_metric_families(self.get('/metrics').text)
                for sample in family.samples if sample.name == 'remotetask_service_usable'}

    def test_metrics(self):
        self.assertEqual(self.usable(), {'/': 1, '/Films': 1, '/special': 0})
        self.makeDefaultNewer()
        self.assertEqual(self.usable(), {'/TaskService': 0, '/Films': 1, '/special': 0})
        text = self.get('/metrics').text
        self.assertIn('remotetask_jobs{service="/Films",status="queued"} 1.0\n', text)
        self.assertNotIn('remotetask_jobs{service="/TaskService"', text)

    def test_metrics_of_a_damaged_service(self):
        with self.db.transaction() as connection:
            oid = getService(connection, '/Films').shards[0]._p_oid
        self.db.cacheMinimize()
        load = MVCCAdapterInstance.load

        def loadOthers(storage, found):
            if found == oid:
                raise POSKeyError(found)
            return load(storage, found)

        with unittest.mock.patch.object(MVCCAdapterInstance, 'load', loadOthers):
            with self.assertLogs('lovely.remotetask', 'ERROR') as caught:
                self.assertEqual(self.usable(), {'/': 1, '/Films': 0, '/special': 0})
        self.assertIn('the task service /Films cannot be measured', caught.output[0])

    def test_health(self):
        reason = 'the task service /special cannot be used: the class gone.Special is missing here: install the ' \
                 'package that has it'
        self.assertEqual(self.get('/ready').json, {'problem': None, 'unusable': 1, 'reasons': {'/special': reason}})
        self.makeDefaultNewer()
        self.assertEqual(list(Readiness(self.db).seen().unusable), ['/special', '/TaskService'])
        with self.db.transaction() as connection:
            removeService(connection.root()['Application'], '/Films', force=True)
        seen = Readiness(self.db).seen()
        self.assertEqual((seen.problem, seen.detail),
                         ('no task service can be used', '; '.join(seen.unusable.values())))

    def test_nobody_is_told_names_without_a_password(self):
        """Not from another machine, through no proxy, and nobody where there are users."""
        self.checkUnnamed({'problem': None, 'unusable': 1})
        with self.db.transaction() as connection:
            for path in '/Films', '/TaskService':
                removeService(connection.root()['Application'], path, force=True)
        self.checkUnnamed({'problem': 'no task service can be used', 'unusable': 1})
        with missing.package() as module, DB(self.db.storage).transaction() as connection:
            root = connection.root()['Application']
            root.getSiteManager().registerUtility(root['special'], module.ISpecial, 'more')
        self.db.cacheMinimize()
        self.assertIn('gone.ISpecial', Readiness(self.db).seen().detail)
        self.checkUnnamed({'problem': 'the task services cannot be looked at', 'unusable': 0})

    def checkUnnamed(self, told):
        open, asking = application(self.db), application(self.db, self.usersPath())
        for application_, environ in ((open, {'REMOTE_ADDR': '192.0.2.1'}), (asking, {'REMOTE_ADDR': '127.0.0.1'}),
                                      (open, {'REMOTE_ADDR': '127.0.0.1', 'HTTP_X_FORWARDED_FOR': '192.0.2.1'})):
            with self.subTest(**environ):
                response = webob.Request.blank('/ready', environ=environ).get_response(application_)
                self.assertEqual(response.json, told)

    def usersPath(self):
        path = self.directory + '/users'
        pathlib.Path(path).write_text(USERS)
        os.chmod(path, 0o600)
        return path

    def test_pages(self):
        overview = self.get('/').text
        self.assertIn('the class gone.Special is missing here', overview)
        self.assertIn('<a href="/?service=%2FFilms">/Films</a>', overview)
        self.assertNotIn('%2Fspecial', overview)
        self.assertIn('the class gone.Special is missing here', self.get('/?service=/special', status=404).text)
        self.makeDefaultNewer()
        for path in '/', '/jobs', '/jobs?service=/special':
            with self.subTest(path):
                said = self.get(path, status=404 if 'special' in path else 503).text
                self.assertIn('<a href="/?service=%2FFilms">/Films</a>', said)
        self.assertIn('is of generation 99', self.get('/?service=/Films').text)


class TestMetrics(WebCase):

    users = USERS

    def metrics(self, user='bob'):
        """Return the metrics: name -> labels -> value, as Prometheus reads them."""
        found = {}
        for family in text_string_to_metric_families(self.get('/metrics', user).text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return found

    def test_each_is_told_once(self):
        names = [family.name for family in text_string_to_metric_families(self.get('/metrics', 'bob').text)]
        self.assertEqual(len(names), len(set(names)))
        self.assertIn('remotetask_build_info', names)

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

    def test_runs_that_go_on_and_jobs_that_no_host_can_run(self):
        with self.service() as service:
            jobids = [service.add('echo', now=NOW - 90) for _ in range(5)]
            ledger = service.ledgers['alpha'] = Ledger()
            for jobid, began in zip(jobids, (NOW - 20, NOW - 40, None)):
                ready.dequeue(service, jobid)
                ledger.claim(jobid, 1)
                ledger.mark(jobid, LONG, began)
            for jobid in jobids[3:]:
                ready.dequeue(service, jobid)
                ready.strand(service, service.jobs[jobid], 'no reason')
        found = self.metrics()
        here = frozenset({('service', '/')})
        self.assertEqual(found['remotetask_longest_running_seconds'][here], 40)
        self.assertEqual(found['remotetask_jobs_stranded'][here], 2)

    def test_without_the_database(self):
        self.assertEqual(self.metrics()['remotetask_ready'], {frozenset(): 1})
        with unittest.mock.patch.object(self.db, 'open', side_effect=StorageError('away')), \
                unittest.mock.patch('lovely.remotetask.web.health.FRESH', -1.0), \
                self.assertLogs('lovely.remotetask', 'WARNING'):
            found = self.metrics()
            self.get('/metrics', 'films', status=403)
        self.assertEqual(found['remotetask_ready'], {frozenset(): 0})
        self.assertIn('process_resident_memory_bytes', found)
        self.assertNotIn('remotetask_jobs', found)

    def test_the_release_of_each_host(self):
        with self.service() as service:
            for name, about in ('alpha', {}), ('beta', {'release': '9.9'}):
                service.ledgers[name] = Ledger()
                service.ledgers[name].owner = hosts.identity(threads=2, **about)
        found = self.metrics()['remotetask_host_info']
        self.assertEqual({tuple(sorted(dict(labels).items())): value for labels, value in found.items()}, {
            (('host', name), ('release', one), ('service', '/')): 1.0
            for name, one in (('alpha', release()), ('beta', '9.9'))})
        self.assertIn('<dt>Release</dt><dd>9.9</dd>', self.get('/hosts', 'bob').text)

    def test_what_is_counted_of_tasks(self):
        with self.service() as service:
            service.addMany([{'task': 'fail'}] * 3 + [{'task': 'echo'}], NOW - 50)
            service.process(NOW - 40)
        found = self.metrics()
        fail, echo = ({('service', '/'), ('task', task)} for task in ('fail', 'echo'))
        self.assertEqual(found['remotetask_jobs_finished_total'][frozenset({*fail, ('status', 'error')})], 3)
        self.assertEqual(found['remotetask_jobs_finished_total'][frozenset({*echo, ('status', 'completed')})], 1)
        self.assertEqual(found['remotetask_runs_lost_total'][frozenset(fail)], 0)
        self.assertEqual(found['remotetask_job_wait_seconds_sum'][frozenset(fail)], 30)
        self.assertEqual(found['remotetask_job_wait_seconds_count'][frozenset(fail)], 3)
        waits = {dict(labels)['le']: value for labels, value in found['remotetask_job_wait_seconds_bucket'].items()
                 if fail < labels}
        self.assertEqual((len(waits), waits['5.0'], waits['10.0'], waits['+Inf']), (17, 0, 3, 3))

    def test_what_this_process_counts(self):
        before = self.metrics()
        self.get('/', 'eve', status=401)
        self.get('/', status=401)
        self.get('/', 'bob')
        counts.add('conflicts', 'task', number=2)
        found = self.metrics()

        def more(name, label, value):
            labels = frozenset({(label, value)})
            return found[name][labels] - before.get(name, {}).get(labels, 0)
        self.assertEqual(more('remotetask_logins_refused_total', 'at', 'pages'), 2)
        self.assertEqual(more('remotetask_page_requests_total', 'code', '401'), 2)
        self.assertEqual(more('remotetask_page_requests_total', 'code', '200'), 2)       # the metrics, and the page
        self.assertEqual(more('remotetask_conflicts_total', 'where', 'task'), 2)
        self.assertGreater(found['process_resident_memory_bytes'][frozenset()], 0)

    def test_who_may_read_them(self):
        self.get('/metrics', status=401)
        self.get('/metrics', 'films', status=403)

    def test_the_alerts_use_names_that_there_are(self):
        text = ALERTS.read_text()
        used = set(re.findall(r'remotetask_([a-z_]+)', text))
        self.assertLessEqual(used, self.names())
        self.assertGreater(len(used), 5)
        labels = {'service', 'instance', *itertools.chain(*(labels for table in TABLES
                                                            for _, labels in table.values()))}
        self.assertLessEqual(set(re.findall(r'\$labels\.([a-z_]+)', text)), labels)

    @unittest.skipUnless(PROMTOOL, 'needs promtool')
    def test_the_rules_of_the_alerts_are_right(self):
        checked = subprocess.run([PROMTOOL, 'check', 'rules', ALERTS], capture_output=True, text=True)
        self.assertEqual(checked.returncode, 0, checked.stderr)

    @unittest.skipUnless(PROMTOOL, 'needs promtool')
    def test_the_alert_of_a_host_without_a_database(self):
        """One of its transactions fails each 31 seconds."""
        def alerts(isTold, values, at):
            found = [{'exp_labels': {'severity': 'page', 'instance': 'alpha', 'where': 'cycle'},
                      'exp_annotations': {'summary': 'The database fails alpha'}}] if isTold else []
            series = 'remotetask_database_failures_total{instance="alpha", where="cycle"}'
            return {'interval': '31s', 'input_series': [{'series': series, 'values': values}],
                    'alert_rule_test': [{'eval_time': at, 'alertname': 'RemoteTaskDatabaseFails',
                                         'exp_alerts': found}]}
        tests = {'rule_files': [str(ALERTS)], 'evaluation_interval': '30s', 'tests': [
            alerts(True, '0x10 0+1x20', '14m'), alerts(False, '0x10 1x40', '14m'), alerts(False, '0x60', '14m')]}
        with tempfile.NamedTemporaryFile('w', suffix='.json') as file:
            json.dump(tests, file)
            file.flush()
            checked = subprocess.run([PROMTOOL, 'test', 'rules', file.name], capture_output=True, text=True)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_the_dashboard_uses_names_that_there_are(self):
        dashboard = json.loads((pathlib.Path(metrics.__file__).parent / 'grafana.json').read_text())
        used = set(re.findall(r'remotetask_([a-z_]+)', json.dumps([panel['targets'] for panel in dashboard['panels']])))
        self.assertLessEqual(used, self.names())
        # Each is there, a histogram in one of its parts.
        shown = {re.sub('_(total|sum|count|bucket)$', '', name) for name in used}
        self.assertEqual(shown, {*itertools.chain(*TABLES), *metrics.DATABASE_GAUGES, *metrics.PROCESS_GAUGES})

    def names(self):
        """Return the names of all series."""
        found = {*metrics.GAUGES, *metrics.DATABASE_GAUGES, *metrics.PROCESS_GAUGES,
                 *(f'{name}_total' for name in metrics.TASK_COUNTERS),
                 *(f'{name}_total' for name in COUNTERS)}
        return found | {f'{name}_{part}' for name in (*metrics.TASK_DURATIONS, *DURATIONS)
                        for part in ('sum', 'count', 'bucket')}

    def test_no_two_processes_tell_the_same(self):
        names = [*itertools.chain(*TABLES), *metrics.DATABASE_GAUGES]
        self.assertEqual(len(names), len(set(names)))


class TestCounts(unittest.TestCase):
    """What a process counts of itself."""

    def test_labels_are_bounded(self):
        counted = Counts()
        for number in range(MOST + 100):
            counted.add('xmlrpc_jobs_added', '/', f'task {number}')
            counted.observe('commit_seconds', f'place {number}', seconds=0.3)
        counted.add('xmlrpc_jobs_added', '/', 'task 7', number=5)
        numbers, durations = counted.numbers()['xmlrpc_jobs_added'], counted.durations()['commit_seconds']
        self.assertEqual((len(numbers), numbers['other', 'other'], numbers['/', 'task 7']), (MOST + 1, 100, 6))
        self.assertEqual((len(durations), sum(durations['other',][1])), (MOST + 1, 100))

    def test_what_is_told_before_anything_has_happened(self):
        self.assertEqual(Counts().numbers()['late_outcomes'], {(): 0})
        self.assertEqual(Counts().numbers()['conflicts'], {('frontend',): 0, ('cycle',): 0, ('task',): 0})

    def test_threads_lose_nothing(self):
        counted = Counts()

        def count():
            for _ in range(2000):
                counted.add('late_outcomes')
                counted.observe('commit_seconds', 'task', seconds=0.25)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(counted.numbers()['late_outcomes'], {(): 8000})
        self.assertEqual(counted.durations()['commit_seconds']['task',], (2000.0, (0,) * 5 + (8000,) + (0,) * 11))

    def test_what_a_call_counts(self):
        before = counts.numbers()
        for summary in 'add', 'add:3', 'evil:name:-32601', '-:-32700':
            counting.noteCall(summary, 0.01)
        counting.noteAdded('/', 'addMany', [[{'task': 'echo'}, {'task': 'echo'}, {'task': 'fail'}]])
        counting.noteAdded('/', 'add', ['echo', None])
        counting.noteAdded('/', 'cancel', [17])
        after = counts.numbers()
        more = {name: {labels: number - before[name].get(labels, 0) for labels, number in series.items()
                       if number != before[name].get(labels, 0)} for name, series in after.items()}
        self.assertEqual(more['xmlrpc_requests'], {('add', 'ok'): 1, ('add', '3'): 1, ('other', '-32601'): 1,
                                                   ('other', '-32700'): 1})
        self.assertEqual(more['xmlrpc_jobs_added'], {('/', 'echo'): 3, ('/', 'fail'): 1})


class TestProcessMetrics(WebCase):
    """The metrics of a process that has no pages."""

    users = USERS

    def setUp(self):
        super().setUp()
        self.application = ProcessMetrics(self.directory + '/users')

    def test_what_they_tell(self):
        response = self.get('/metrics', 'bob')
        self.assertEqual(response.headers['Content-Type'], 'text/plain; version=0.0.4; charset=utf-8')
        found = {family.name for family in text_string_to_metric_families(response.text)}
        self.assertLessEqual({'remotetask_' + name for name in (*COUNTERS, *DURATIONS)}, found)
        self.assertLessEqual({'process_cpu_seconds', 'remotetask_build_info'}, found)
        self.assertFalse({name for name in found if name.startswith('remotetask_job')})

    def test_who_may_read_them(self):
        self.assertIn('WWW-Authenticate', self.get('/metrics', status=401).headers)
        self.get('/metrics', 'eve', status=401)
        self.get('/metrics', 'films', status=403)
        self.get('/', 'bob', status=404)
        self.assertEqual(self.request('/metrics', 'bob', form={}).get_response(self.application).status_int, 405)
        self.application = ProcessMetrics()
        self.get('/metrics')
        self.get('/metrics', X_Forwarded_For='192.0.2.1', status=403)


class TestCharts(unittest.TestCase):

    def setUp(self):
        self.addCleanup(zope.component.testing.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='echo')
        self.db = DB(MappingStorage())
        self.addCleanup(self.db.close)
        install(self.db)

    def test_bins(self):
        counter = Counter(monotonic=lambda: 0.0)
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

    def test_bins_without_time(self):
        """The last bin is counted in any case; those that there was no time for are counted by the next pages."""
        counter = Counter(monotonic=iter(range(1000)).__next__)
        with self.db.transaction() as connection:
            bins = counter.bins(connection.root()['Application']['TaskService'], 4000, 60, 3)
        self.assertEqual([one is None for one in bins], [True, True, False])

    def test_a_busy_quarter_is_counted_a_part_at_a_time(self):
        counter = Counter(monotonic=itertools.count().__next__)
        with self.db.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            for moment in 900, 960, 1500, 1790:
                service.add('echo', now=moment)
                service.process(moment)
        with self.db.transaction() as connection, unittest.mock.patch.object(charts, 'ENOUGH', 8):
            service = connection.root()['Application']['TaskService']
            found = [charts.chart(counter.bins(service, 2600, 900, 2), 900) for _ in range(10)]
        self.assertEqual([chart.isWhole for chart in found[:2]], [False, False])
        self.assertTrue(found[-1].isWhole)
        self.assertEqual((found[0].completed, found[-1].completed), (0, 4))


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

    def test_a_host_whose_metrics_are_wanted(self):
        settings = SimpleNamespace(metricsAddress=None, allowInsecure=False)
        self.assertIsNone(startMetrics('processor', settings, None, None, None))
        settings.metricsAddress = '127.0.0.1', 0
        with unittest.mock.patch.dict(sys.modules, {'lovely.remotetask.web.processmetrics': None}), \
                self.assertRaisesRegex(CommandFailure, '^<processor> has a metrics-address, and the metrics are not '
                                                       'installed: pip install "lovely.remotetask.web."'):
            startMetrics('processor', settings, None, None, None)

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
        self.addCleanup(server.stop, PATIENCE)
        server.start()
        return server

    def test_it_answers_until_it_is_stopped(self):
        def answer(environ, start_response):
            start_response('200 OK', [('Content-Length', '2')])
            return [b'hi']

        server = self.start(answer)
        url = 'http://{}:{}/x?y'.format(*server.address)
        with self.assertLogs('lovely.remotetask.access', 'INFO') as logged:
            with urllib.request.urlopen(url, timeout=PATIENCE) as response:
                self.assertEqual(response.read(), b'hi')
        self.assertIn('"GET /x?y" 200 2', logged.output[0])
        self.assertTrue(server.stop(PATIENCE))
        self.assertTrue(server.stop(PATIENCE))
        with self.assertRaises(OSError):
            socket.create_connection(server.address, timeout=PATIENCE)

    def test_a_slow_request_ends_in_peace(self):
        begun, goOn = threading.Event(), threading.Event()

        def answer(environ, start_response):
            begun.set()
            goOn.wait(PATIENCE)
            start_response('200 OK', [('Content-Length', '2')])
            return [b'hi']

        server, found = self.start(answer), []
        thread = threading.Thread(target=lambda: found.append(
            urllib.request.urlopen('http://{}:{}/'.format(*server.address), timeout=PATIENCE).read()))
        thread.start()
        self.assertTrue(begun.wait(PATIENCE))
        goOn.set()
        thread.join(PATIENCE)
        self.assertEqual(found, [b'hi'])
        self.assertTrue(server.stop(PATIENCE))

    def test_without_another_file_it_says_so_once_and_goes_on(self):
        done = subprocess.run([sys.executable, '-c', WITHOUT_FILES], capture_output=True, text=True, timeout=PATIENCE,
                              env=dict(os.environ, PYTHONPATH=os.pathsep.join(map(os.path.abspath, sys.path))))
        self.assertEqual(done.stdout.splitlines(), ['the pages cannot accept connections: Too many open files',
                                                    "b'hi'"], done.stderr)

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
