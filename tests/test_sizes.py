"""Sizes: whatever a caller or a task can have us store, keep in memory, answer or log is bounded."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import pathlib
import re
import unittest
import xmlrpc.client

from zope.component import provideUtility
from zope.component import testing
from zope.interface import Interface
from zope.interface import Invalid
from zope.interface import invariant
from zope.schema import Int
from zope.schema import TextLine

import lovely.remotetask
from lovely.remotetask import job
from lovely.remotetask.common import logs
from lovely.remotetask.common.checks import cut
from lovely.remotetask.common.checks import shown
from lovely.remotetask.config import users
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import TaskError
from lovely.remotetask.execution import run
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.arguments import KEY_LENGTH
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.xmlrpc import calls
from lovely.remotetask.xmlrpc import faults
from servercase import ServerCase


LONG = 'x' * 1_000_000

#: Characters that no message, log line or fault of these tests has.
MUCH = 5000


class INumber(Interface):
    number = Int(title='Number', required=False, max=9)
    text = TextLine(title='Text', required=False, max_length=5)

    @invariant
    def isRight(data):
        if data.number == 5:
            raise Invalid(LONG)


class Choosy(SimpleTask):
    """Refuses all input, at length."""

    error = TaskError

    def checkInput(self, input):
        """See `ICheckedTask`."""
        raise self.error(LONG + '\nanother line')


class TestJobs(unittest.TestCase):
    """What jobs can hold."""

    level = 2

    def setUp(self):
        self.addCleanup(testing.tearDown)
        self.service = TaskService()

    def provide(self, function):
        provideUtility(SimpleTask(function), name='task')

    def failing(self, error):
        def function(input):
            raise error
        self.provide(function)

    def test_errors(self):
        for error in TaskError(LONG), OSError(LONG), type('E' * 3000, (Exception,), {})(LONG):
            self.failing(error)
            jobid = self.service.add('task', retryPolicy=RetryPolicy(attempts=100, base=0), now=0)
            with self.assertLogs('lovely.remotetask') as logged:
                for number in range(30):
                    self.service.process(number)
            one = self.service.jobs[jobid]
            self.assertLessEqual(len(one.errors), transitions.KEPT_FAILURES)
            for failure in one.errors:
                self.assertLessEqual(len(failure.message), run.KEPT_TRACEBACK)
                self.assertLessEqual(len(failure.traceback), run.KEPT_TRACEBACK)
            for line in logged.output:
                self.assertLess(len(line), logs.TRACEBACK_SIZE + 2 * logs.TEXT_SIZE)
            if one.status == 'queued':
                self.service.cancel(jobid)
            self.assertLessEqual(len(self.service.getError(jobid)), run.KEPT_TRACEBACK)

    def test_a_usual_traceback_is_logged_in_full(self):
        self.failing(OSError('a disk'))
        self.service.add('task', now=0)
        with self.assertLogs('lovely.remotetask') as logged:
            self.service.process(0)
        self.assertIsInstance(logged.records[0].exc_info[1], OSError)

    def test_history(self):
        self.failing(TaskError(LONG))
        logging.getLogger('lovely.remotetask').addHandler(handler := logging.NullHandler())
        self.addCleanup(logging.getLogger('lovely.remotetask').removeHandler, handler)
        jobid = self.service.addCronJob('task', minute=(), now=0)
        for now in range(0, 30 * 60, 60):
            self.service.process(now)
        history = self.service.jobs[jobid].history
        self.assertEqual(len(history), job.KEPT_RUNS)
        self.assertLessEqual(max(len(run.error) for run in history), run.KEPT_TRACEBACK)

    def test_progress(self):
        def work(service, jobid, input):
            service.setProgress(jobid, 0.5, LONG)
        provideUtility(work, ITask, name='work')
        self.service.add('work', now=0)
        claimed = self.service.claimNextJob(0)
        self.service.setProgress(claimed, 0.25, LONG)           # from outside of the run
        self.assertEqual(self.service.getProgress(claimed), (0.25, 'x' * 1000))
        self.service.processNext(0, claimed)

    def test_inputs_that_are_refused(self):
        provideUtility(SimpleTask(len, inputSchema=INumber), name='number')
        for input in (LONG, {LONG: 1}, {'number': LONG}, {'number': 10 ** 5000}, {'text': LONG}, {'number': 5},
                      {'number': [LONG] * 3}, {10 ** 5000: 1}, {('x',) * 10 ** 5: 1}):
            with self.assertRaises(InvalidInput) as caught:
                self.service.add('number', input)
            self.assertLess(len(str(caught.exception)), 1200)
            with self.assertRaises(InvalidInput) as caught:
                self.service.addMany([{'task': 'number', 'input': input}])
            self.assertLess(len(str(caught.exception)), 1200)
            self.assertIn('(jobs[0])', str(caught.exception))
        self.assertEqual(len(self.service.jobs), 0)


class TestText(unittest.TestCase):

    def test_shown(self):
        class Odd:
            def __repr__(self):
                raise RuntimeError('no')

        for value, expected in ((0, '0'), ('', "''"), ('a\nb', r"'a\nb'"), (10 ** 5000, '<int>'), (Odd(), '<Odd>'),
                                ('x' * 99, "'" + 'x' * 56 + '...')):
            self.assertEqual(shown(value), expected)
        self.assertEqual([cut('x' * 10, 10), cut('x' * 11, 10)], ['x' * 10, 'x' * 7 + '...'])

    def test_line(self):
        for text, expected in (('plain \u20ac', 'plain \u20ac'), ('a\nERROR b\r\x1b[2J', r'a\nERROR b\r\x1b[2J'),
                               ('\ud800\u2028', r'\ud800\u2028')):
            self.assertEqual(logs.line(text), expected)
        self.assertEqual(len(logs.line(LONG)), logs.TEXT_SIZE)

    def test_a_task_cannot_write_lines_of_its_own(self):
        self.addCleanup(testing.tearDown)
        one = TaskService()

        def fail(input):
            raise TaskError('no\n2026-01-01 CRITICAL all is lost')
        provideUtility(SimpleTask(fail), name='fail')
        one.add('fail')
        with self.assertLogs('lovely.remotetask') as logged:
            one.process()
        self.assertNotIn('\n', logged.output[0])


class TestCalls(ServerCase):
    """What callers can send, over XML-RPC."""

    def setUp(self):
        super().setUp()
        provideUtility(Choosy(len), name='choosy')
        provideUtility(SimpleTask(len, inputSchema=INumber), name='number')
        self.lines = []
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(logging.Formatter().format(record))
        for name in 'lovely.remotetask', 'lovely.remotetask.access':
            logger = logging.getLogger(name)
            before = logger.level
            logger.setLevel(logging.INFO)
            self.addCleanup(logger.setLevel, before)
            logger.addHandler(handler)
            self.addCleanup(logger.removeHandler, handler)

    def refused(self, method, *arguments):
        """Call a method; return the fault."""
        with self.assertRaises(xmlrpc.client.Fault) as caught:
            getattr(self.proxy(), method)(*arguments)
        self.assertLessEqual(len(caught.exception.faultString), calls.SENTENCE_SIZE)
        return caught.exception

    def test_whatever_is_long(self):
        jobid = self.proxy().add('echo', 'x')
        for method, *arguments in (
                ('add', LONG), ('add', 'echo', None, False, {'key': LONG}), ('add', 'echo', None, False, {LONG: 1}),
                ('add', 'echo', None, False, {'retryPolicy': {LONG: 1}}), ('add', 'choosy'),
                ('add', 'number', {LONG: 1}),
                ('add', 'echo', None, False, {'retryPolicy': {'attempts': LONG}}), ('add', 'number', {'number': LONG}),
                ('add', 'echo', None, False, {'timeLimit': LONG}), ('add', 'number', {'number': 5}),
                ('add', 'echo', None, LONG), ('addMany', [{'task': LONG}]), ('addMany', [{LONG: 1}]),
                ('addMany', [{'task': 'echo'}] * 1001),
                ('addCronJob', 'echo', None, [5], [], [], [], [], None, {LONG: 1}),
                ('addCronJob', 'echo', None, [], [], [], [], [], None, {'timeZone': LONG}),
                ('addCronJob', 'echo', None, [], [], [], [], [], None, {'misfire': LONG}),
                ('updateCronJob', jobid, {LONG: 1}), ('clean', [LONG]), ('getJobs', LONG), ('getJobs', None, 0, 1001),
                ('waitFor', [jobid] * 1001), ('waitFor', [jobid], 3601), ('cleanSome', ['error'], 1001),
                ('getResultPart', jobid, 0, 1024 * 1024 + 1), ('system.methodHelp', LONG),
                ('system.methodSignature', LONG),
                ('x' * 300,), ('retryFailed', 5), ('add', {LONG: LONG}), ('cancel', LONG)):
            with self.subTest(method[:20], arguments=repr(arguments)[:60]):
                self.refused(method, *arguments)
        Choosy.error, before = KeyError, Choosy.error
        self.addCleanup(setattr, Choosy, 'error', before)
        self.assertEqual(self.refused('add', 'choosy').faultCode, faults.TASK_ERROR)
        self.assertEqual(self.proxy().getJobs()['total'], 1)
        self.assertGreater(len(self.lines), 10)
        self.assertLess(max(map(len, self.lines)), logs.TRACEBACK_SIZE + MUCH)
        self.assertLess(sorted(map(len, self.lines))[-2], MUCH)             # the one line has a traceback

    def test_nesting(self):
        value = []
        for _ in range(calls.NESTING + 1):
            value = [value]
        self.assertEqual(self.refused('add', 'echo', value).faultCode, faults.PARSE_ERROR)

    def test_what_is_logged_of_a_request(self):
        head = f'POST /{"x" * 9000} HTTP/1.1\r\nHost: x\r\nUser-Agent: {"x" * 9000}\r\nContent-Length: 0\r\n\r\n'
        self.send(head.encode())
        self.assertLess(max(map(len, self.lines)), MUCH)

    def test_paths(self):
        with self.assertRaises(xmlrpc.client.Fault) as caught:
            self.proxy('/' + 'x' * 9000).getAvailableTasks()
        self.assertLess(len(caught.exception.faultString), 300)


class TestDocument(unittest.TestCase):

    def test_the_table(self):
        # `xmlrpc.txt` tells callers of these.
        text = (pathlib.Path(lovely.remotetask.__file__).parent / 'documents' / 'xmlrpc.txt').read_text('utf-8')
        table = text.split('How much at the most')[1]
        rows = {name.strip(): int(number.replace(',', '')) for name, number in
                re.findall(r'^([a-z].*?)  +([0-9,]+)(?: |$)', table, re.MULTILINE)}
        self.assertEqual(rows, {
            'arrays and structs within each other': calls.NESTING,
            'jobs in a call of addMany': calls.LISTING_SIZE,
            'jobs in an answer of getJobs': calls.LISTING_SIZE,
            'jobs that a call of cleanSome removes': calls.LISTING_SIZE,
            'ids in a call of waitFor': calls.WAITING_SIZE,
            'seconds that it waits': calls.WAITING_TIME,
            'characters of a key': KEY_LENGTH,
            'characters of the name of a user': users.NAME_LENGTH,
            'characters of the message of a progress': 1000,
            'characters of an error, and of its traceback': run.KEPT_TRACEBACK,
            'errors that a job keeps, the latest ones': transitions.KEPT_FAILURES,
            'runs that a schedule keeps, the latest ones': job.KEPT_RUNS,
            'characters of the sentence of a fault': calls.SENTENCE_SIZE,
            'characters of a text in a line of the log': logs.TEXT_SIZE,
            'bytes of a part of a result': calls.PART_SIZE,
        })


if __name__ == '__main__':
    unittest.main()
