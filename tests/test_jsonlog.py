"""Lines of the log as JSON: what they have, and that inputs and results are not in them."""
# SPDX-License-Identifier: ZPL-2.1
import importlib.resources
import io
import json
import logging
import math
import os
import re
import tempfile
import time
import unittest

from zope.component import provideUtility

from accesscase import basic
from accesscase import parked
from lovely.remotetask.common import logs
from lovely.remotetask.common.logs import JSONFormatter
from lovely.remotetask.common.logs import about
from lovely.remotetask.common.logs import jobLog
from lovely.remotetask.common.logs import logError
from lovely.remotetask.config.settings import load
from lovely.remotetask.config.users import Users
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.execution import rescue
from lovely.remotetask.execution.relay import Relay
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage.ledger import LONG
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import waitForJobs
from lovely.remotetask.xmlrpc import accesslog
from lovely.remotetask.xmlrpc.access import Authenticator
from lovely.remotetask.xmlrpc.access import Unauthorized
from test_rescue import RescueCase
from waits import PATIENCE
from webcase import NOW
from webcase import WebCase


PATH = 'TaskService',

CONFIGURATION = '''
<eventlog>
  <logfile>
    path {path}
    formatter {formatter}
  </logfile>
</eventlog>
<logger>
  name lovely.remotetask.jobs
  level INFO
</logger>
'''


class LogCase(unittest.TestCase):
    """Has the lines of a logger as JSON."""

    def record(self, level=logging.INFO, of='lovely.remotetask'):
        """From now on keep what is logged, also the lines about each job."""
        self.stream = io.StringIO()
        handler, logger = logging.StreamHandler(self.stream), logging.getLogger(of)
        handler.setFormatter(JSONFormatter())
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)
        for each, new in (logger, level), (jobLog, level):
            self.addCleanup(each.setLevel, each.level)
            each.setLevel(new)
        return logger

    def lines(self):
        """Return the lines, each as a dict."""
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def events(self):
        """Return the events of the lines that have one."""
        return [line['event'] for line in self.lines() if 'event' in line]


class TestFormatter(LogCase):

    def setUp(self):
        self.logger = self.record(of='lovely.remotetask.test')

    def test_a_line(self):
        before = time.time()
        self.logger.warning('job %d failed', 17, extra=about('job.failed', job=17, task='echo', request=None))
        line, = self.lines()
        self.assertRegex(line.pop('time'), r'\A20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z')
        self.assertEqual(line, {'level': 'WARNING', 'logger': 'lovely.remotetask.test', 'message': 'job 17 failed',
                                'event': 'job.failed', 'job': 17, 'task': 'echo'})
        self.assertLess(time.time() - before, 60)

    def test_the_time_is_utc_with_microseconds(self):
        record = logging.makeLogRecord({'created': 1_780_000_000.25, 'msg': 'x'})
        self.assertEqual(json.loads(JSONFormatter().format(record))['time'], '2026-05-28T20:26:40.250000Z')

    def test_attributes_that_others_have_set(self):
        def mark(record):
            record.job, record.task, record.request, record.attempt = 5, 'echo', 'r1', 2
            record.service, record.host = '/TaskService', 'alpha'
            return True
        self.logger.addFilter(mark)
        self.addCleanup(self.logger.removeFilter, mark)
        self.logger.info('a line of a task')
        line, = self.lines()
        self.assertEqual([line[name] for name in ('job', 'task', 'request', 'attempt', 'service', 'host')],
                         [5, 'echo', 'r1', 2, '/TaskService', 'alpha'])

    def test_values_of_any_kind(self):
        class Hostile:
            def __str__(self):
                raise ValueError('no text')
        for value, expected in ((math.nan, 'nan'), (math.inf, 'inf'), (b'x', "b'x'"), (Hostile(), '<Hostile>'),
                                ('x' * 5000, 'x' * (logs.TEXT_SIZE - 3) + '...'), (True, True), (2 ** 70, 2 ** 70),
                                ({'a': 1}, "{'a': 1}"), ('\udcff', '\udcff')):
            with self.subTest(str(type(value))):
                self.stream.truncate(0)
                self.stream.seek(0)
                self.logger.info('x', extra={'error': value})
                line, = self.lines()
                self.assertEqual(line['error'], expected)

    def test_a_record_is_one_line_of_ascii(self):
        self.logger.info('one\ntwo\r\u2028\x85\x00größe \U0001f600')
        self.assertTrue(self.stream.getvalue().isascii())
        line, = self.lines()
        self.assertEqual(line['message'], 'one\ntwo\r\u2028\x85\x00größe \U0001f600')

    def test_a_traceback_is_one_text(self):
        for message in 'short', 'long' * 10_000:
            with self.subTest(message[:5]):
                self.stream.truncate(0)
                self.stream.seek(0)
                try:
                    raise ValueError(message)
                except ValueError as error:
                    logError(self.logger, 'it failed', error=error, extra=about('job.failed', job=1))
                line, = self.lines()
                self.assertEqual((line['message'], line['job']), ('it failed', 1))
                self.assertTrue(line['traceback'].rstrip().endswith(message[-100:]))
                self.assertLessEqual(len(line['traceback']), logs.TRACEBACK_SIZE)

    def test_lines_of_child_processes(self):
        relay = Relay('job 5 (echo)', about('job.said', job=5, task='echo', host='alpha'))
        relay.logged('lovely.remotetask.test.other', logging.WARNING, 'careful\nnow', 'Traceback\n  ValueError: x')
        line, = self.lines()
        self.assertEqual((line['message'], line['traceback'], line['job'], line['host'], line['logger'], line['event']),
                         ('job 5 (echo): careful\\nnow', 'Traceback\n  ValueError: x', 5, 'alpha',
                          'lovely.remotetask.test.other', 'job.said'))


class TestEvents(LogCase, WebCase):
    """What happens to jobs, with a real host."""

    users = None

    def setUp(self):
        super().setUp()
        self.failures = []
        provideUtility(SimpleTask(self.secretive), name='secretive')
        provideUtility(SimpleTask(self.once, retryPolicy=RetryPolicy(base=0)), name='once')

    def secretive(self, input):
        return {'answer': 'secret-output'}

    def once(self, input):
        if not self.failures:
            self.failures.append(1)
            raise OSError('away')

    def test_each_job(self):
        self.record()
        secretive, once, failing = (self.do('add', name, {'password': 'secret-input'}, request=f'r-{name}')
                                    for name in ('secretive', 'once', 'fail'))
        cancelled = self.do('add', 'echo', 'secret-input', True)
        self.do('cancel', cancelled)
        processor = MultiProcessor(self.db, PATH, name='alpha', waitTime=0.1)
        processor.start()
        try:
            with self.db.transaction() as connection:
                waitForJobs(connection.root()['Application']['TaskService'], [secretive, once, failing], 60)
        finally:
            self.assertTrue(processor.stop(PATIENCE))
        said = self.stream.getvalue()
        self.assertNotIn('secret-', said)
        found = {}
        for line in self.lines():
            if line.get('service') == '/TaskService' and 'job' in line:
                found.setdefault(line['job'], []).append(line)
        self.assertEqual({jobid: [line['event'] for line in lines] for jobid, lines in found.items()}, {
            secretive: ['job.added', 'job.started', 'job.completed'],
            once: ['job.added', 'job.started', 'job.retried', 'job.started', 'job.completed'],
            failing: ['job.added', 'job.started', 'job.failed'],
            cancelled: ['job.added', 'job.cancelled']})
        line = found[once][2]
        self.assertEqual((line['task'], line['attempt'], line['host'], line['request'], line['error'], line['level']),
                         ('once', 1, 'alpha', 'r-once', 'OSError: away', 'WARNING'))
        self.assertIn('OSError: away', line['traceback'])
        self.assertGreaterEqual(line['duration'], 0)
        self.assertEqual((found[once][4]['attempt'], found[failing][2]['level']), (2, 'ERROR'))
        self.assertGreaterEqual(found[secretive][2]['duration'], 0)

    def test_what_was_not_committed_did_not_happen(self):
        self.record()
        with self.assertRaises(ZeroDivisionError), self.service() as service:
            service.add('echo')
            raise ZeroDivisionError
        self.assertEqual(self.events(), [])

    def test_nobody_sees_lines_about_each_job_who_has_not_asked_for_them(self):
        self.record()
        jobLog.setLevel(logging.WARNING)
        self.do('add', 'echo')
        self.assertEqual(self.events(), [])

    def test_a_late_schedule(self):
        with self.service() as service:
            service.addCronJob('echo', None, hour=[8], now=NOW)
            service.addCronJob('echo', None, delay=3600, newJobs=True, now=NOW)
            scheduling.tick(service, NOW)
        self.record()
        with self.service() as service:
            scheduling.tick(service, NOW + 3605)
        self.assertEqual(self.events(), [])
        with self.service() as service:
            scheduling.tick(service, NOW + 86400 * 2)
        line, = self.lines()
        self.assertEqual((line['event'], line['jobs'], line['service'], line['level']),
                         ('schedule.late', 2, '/TaskService', 'WARNING'))
        self.assertGreater(line['wait'], 86400 - 3600)
        self.assertRegex(line['message'], '2 schedules of /TaskService came late, the first one by [0-9]+ s')

    def test_buttons(self):
        jobid = self.do('add', 'echo')
        self.record()
        self.post('cancel', jobid=str(jobid))
        line = self.lines()[-1]
        self.assertEqual((line['event'], line['user'], line['address']), ('change.made', 'anybody', '127.0.0.1'))


def chatty(input):
    """Say something, in a process of its own."""
    print('hello')
    logging.getLogger('films').warning('careful')


class TestChildren(LogCase, WebCase):

    level = 2
    users = None

    def test_what_a_child_process_says_is_of_the_job(self):
        provideUtility(SimpleTask(chatty, isolation='process'), name='chatty')
        jobid = self.do('add', 'chatty', request='r-1')
        self.record()
        logger = self.record(of='films')
        processor = MultiProcessor(self.db, PATH, name='alpha', waitTime=0.1)
        processor.start()
        try:
            with self.db.transaction() as connection:
                waitForJobs(connection.root()['Application']['TaskService'], [jobid], 60)
        finally:
            self.assertTrue(processor.stop(PATIENCE))
        line, = self.lines()
        self.assertEqual(line['logger'], logger.name)
        self.assertTrue(line['message'].endswith('(chatty, request r-1): careful'), line)
        self.assertEqual([line[name] for name in ('event', 'job', 'task', 'attempt', 'host', 'service', 'request')],
                         ['job.said', jobid, 'chatty', 1, 'alpha', '/TaskService', 'r-1'])


class TestOthers(LogCase, RescueCase):

    def test_a_job_of_a_lost_host(self):
        self.record()
        jobid, = self.claimed(LONG)
        rescue.rescue(self.service, 'gone', 100)
        line = self.lines()[-1]
        self.assertEqual((line['event'], line['job'], line['host'], line['attempt']), ('job.rescued', jobid, 'gone', 1))

    def test_what_is_answered(self):
        self.record()
        for requestId in '-', 'r-1':
            accesslog.log('192.0.2.1', 'ann', 'GET / HTTP/1.1', 200, 17, {}, '-', requestId)
        page, call = self.lines()
        self.assertEqual((page['event'], page['user'], call['request']), ('request.answered', 'ann', 'r-1'))
        self.assertNotIn('request', page)

    def test_a_login_that_is_refused(self):
        authenticator = Authenticator(Users(parked(self.enterContext(tempfile.TemporaryDirectory()))))
        self.record()
        with self.assertRaises(Unauthorized):
            authenticator.authenticate(basic('ann', 'secret-guess'), '192.0.2.1')
        line = self.lines()[-1]
        self.assertEqual((line['event'], line['user'], line['address']), ('login.refused', 'ann', '192.0.2.1'))
        self.assertNotIn('secret', self.stream.getvalue())


class TestConfiguration(unittest.TestCase):

    def setUp(self):
        self.directory = self.enterContext(tempfile.TemporaryDirectory())
        root, level = logging.getLogger(), logging.getLogger().level
        handlers = list(root.handlers)
        self.addCleanup(root.setLevel, level)
        self.addCleanup(setattr, root, 'handlers', handlers)
        self.addCleanup(setattr, jobLog, 'handlers', [])
        self.addCleanup(jobLog.setLevel, jobLog.level)

    def load(self, formatter):
        path = os.path.join(self.directory, 'remotetask.conf')
        with open(path, 'w') as file:
            file.write(CONFIGURATION.format(path=os.path.join(self.directory, 'log'), formatter=formatter))
        return load(path)

    def test_a_log_file(self):
        self.load('lovely.remotetask.common.logs.JSONFormatter').setUpLogging()
        jobLog.info('job %d added', 5, extra=about('job.added', job=5))
        logging.getLogger('other').warning('größe')
        for handler in logging.getLogger().handlers:
            handler.close()
        with open(os.path.join(self.directory, 'log')) as file:
            lines = [json.loads(line) for line in file]
        self.assertEqual([(line['logger'], line['message'], line.get('job')) for line in lines],
                         [('lovely.remotetask.jobs', 'job 5 added', 5), ('other', 'größe', None)])

    def test_a_misspelt_formatter(self):
        with self.assertRaisesRegex(ConfigurationError, r'remotetask.conf, line \d+: .*JSONFormater'):
            self.load('lovely.remotetask.common.logs.JSONFormater')

    def test_the_fields_are_told(self):
        text = importlib.resources.files('lovely.remotetask').joinpath('documents', 'operating.txt').read_text()
        for name in logs.FIELDS:
            self.assertTrue(f'``{name}``' in text, name)

    def test_the_events_are_told(self):
        package = importlib.resources.files('lovely.remotetask')
        kinds = '(?!host[.]conf)(?:job|schedule|host|database|login|call|request|change)'
        text = package.joinpath('documents', 'operating.txt').read_text()
        told = set(re.findall(rf'``({kinds}[.][a-zA-Z]+)``', text))
        used = {name for path in package.rglob('*.py')
                for name in re.findall(rf"'({kinds}[.][a-z][a-zA-Z]+)'", path.read_text())}
        self.assertEqual(told, used)


if __name__ == '__main__':
    unittest.main()
