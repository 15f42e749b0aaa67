"""The client: against a front end, and against servers that break off, are busy, or are something else."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import copy
import datetime
import io
import json
import os
import pickle
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import traceback
import unittest
import xmlrpc.client

import trustme
from zope.component import provideUtility

from lovely.remotetask import client as clientModule
from lovely.remotetask import errors
from lovely.remotetask import files
from lovely.remotetask.client import BadAnswer
from lovely.remotetask.client import Client
from lovely.remotetask.client import ConnectionBroken
from lovely.remotetask.client import HttpError
from lovely.remotetask.client import JobCancelled
from lovely.remotetask.client import JobFailed
from lovely.remotetask.client import NoAnswer
from lovely.remotetask.client import NotAuthorized
from lovely.remotetask.client import NotConnected
from lovely.remotetask.client import Outcome
from lovely.remotetask.client import RemoteFault
from lovely.remotetask.client import StillRunning
from lovely.remotetask.client import repetition
from lovely.remotetask.client import transport
from lovely.remotetask.client.repetition import pauseAfter
from lovely.remotetask.client.transport import remoteFault
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.task import TaskError
from lovely.remotetask.testing.ports import freePort
from lovely.remotetask.xmlrpc import faults
from lovely.remotetask.xmlrpc.calls import PART_SIZE
from lovely.remotetask.xmlrpc.results import dumpResponse
from lovely.remotetask.xmlrpc.server import Frontend
from lovely.remotetask.xmlrpc.wire import dumpFault
from servercase import WAIT
from servercase import ServerCase
from test_cli import environment
from threads import inThread


def echo(input):
    """Give back the input."""
    return input


def fail(input):
    """Fail for good."""
    raise TaskError('no such film')


def repeat(input):
    """Return bytes, as many as are asked for."""
    return b'\x00\xff' * (input // 2)


class FrontendCase(ServerCase):
    """A front end, a service with tasks, and a client."""

    def setUp(self):
        super().setUp()
        for task in echo, fail, repeat:
            provideUtility(SimpleTask(task), name=task.__name__)
        self.client = self.makeClient()

    def makeClient(self, path='/', **arguments):
        host, port = self.frontend.address
        client = Client(f'http://{host}:{port}{path}', **{'timeout': WAIT, **arguments})
        self.addCleanup(client.close)
        return client

    def process(self):
        """Run all jobs."""
        with self.db.transaction() as connection:
            connection.root()['/'].process()


class TestCalls(FrontendCase):

    level = 2

    def test_a_job_and_its_result(self):
        jobid = self.client.add('echo', {'film': ['Metropolis', 1927, 2.5, True, None, b'\x00']})
        self.assertEqual(self.client.getStatus(jobid), 'queued')
        self.assertTrue(self.client.hasJobsWaiting())
        self.assertIsNone(self.client.getResult(jobid))
        self.process()
        self.assertEqual(self.client.getStatus(jobid), 'completed')
        self.assertEqual(self.client.getResult(jobid), {'film': ['Metropolis', 1927, 2.5, True, None, b'\x00']})
        self.assertEqual(self.client.getError(jobid), 'None')
        self.assertIsNone(self.client.getProgress(jobid))
        self.assertEqual(self.client.clean(), 1)

    def test_text_arrives_as_it_is(self):
        for text in ('', 'ä\r\n\tb\rc', ']]> & <b> "', '\U0001f600 \u20ac', datetime.datetime(2024, 2, 29, 12, 30)):
            jobid = self.client.add('echo', text)
            self.process()
            self.assertEqual(self.client.getResult(jobid), text)

    def test_later_and_again(self):
        jobid = self.client.add('fail', startLater=True)
        self.assertEqual(self.client.getStatus(jobid), 'start later')
        self.assertIs(self.client.startJob(jobid), True)
        self.assertIs(self.client.startJob(jobid), False)
        self.process()
        self.assertEqual(self.client.getError(jobid), 'no such film')
        self.assertIs(self.client.retry(jobid), True)
        self.process()
        self.assertEqual(self.client.retryFailed('echo'), 0)
        self.assertEqual(self.client.retryFailed(), 1)
        self.assertIs(self.client.cancel(jobid), True)
        self.assertEqual(self.client.cleanSome(['completed']), 0)
        self.assertEqual(self.client.cleanSome(), 1)

    def test_cron_jobs(self):
        jobid = self.client.addCronJob('echo', minute=(10, 13), misfire='skip', timeZone='Europe/Berlin')
        self.assertEqual(self.client.getStatus(jobid), 'cronjob')
        jobid = self.client.addCronJob('echo', delay=3600)
        self.assertEqual(self.client.getStatus(jobid), 'delayed')

    def test_changed_cron_jobs(self):
        jobid = self.client.addCronJob('echo', minute=(10, 13))
        self.assertIs(self.client.updateCronJob(jobid, minute=[5], misfire='skip'), True)
        self.assertIs(self.client.reschedule(jobid), True)
        with self.db.transaction() as connection:
            job = connection.root()['/'].jobs[jobid]
            self.assertEqual((tuple(job.minute), job.misfire), ((5,), 'skip'))
        with self.assertRaises(errors.UnknownJob):
            self.client.updateCronJob(1, minute=[5])

    def test_the_service(self):
        self.assertEqual(self.client.getAvailableTasks(), ['echo', 'fail', 'repeat', 'square'])
        self.assertEqual(self.client.getProcessingHosts(), [])
        self.assertIs(self.client.isProcessing(), False)
        self.assertIs(self.client.pause(), True)
        self.assertIs(self.client.resume(), True)
        self.assertIn('getResult(int jobid)', self.client.call('system.methodHelp', 'getResult'))

    def test_the_same_key_adds_nothing(self):
        jobid = self.client.add('echo', 1, key='order 7')
        self.assertEqual(self.client.add('echo', 1, key='order 7'), jobid)
        self.assertNotEqual(self.client.add('echo', 1), self.client.add('echo', 1))

    def test_many_jobs(self):
        first, second, third = self.client.addMany([
            {'task': 'echo', 'input': 1, 'key': 'a'}, {'task': 'echo', 'key': None, 'startLater': True},
            {'task': 'echo'}])
        self.assertEqual(len({first, second, third}), 3)
        self.assertEqual(self.client.addMany([{'task': 'echo', 'input': 1, 'key': 'a'}]), [first])
        self.assertEqual(self.client.getStatus(second), 'start later')
        with self.assertRaises(errors.UnknownTask):
            self.client.addMany([{'task': 'echo'}, {'task': 'ehco'}])
        self.assertEqual(self.client.getJobs()['total'], 3)

    def test_listings(self):
        jobid = self.client.add('echo', timeLimit=60.0, retryPolicy={'attempts': 2})
        self.client.add('echo', startLater=True)
        listing = self.client.getJobs('queued', 0, 10)
        self.assertEqual([job['id'] for job in listing['jobs']], [jobid])
        self.assertEqual(listing['counts']['start later'], 1)
        job = self.client.getJob(jobid)
        self.assertEqual((job['id'], job['task'], job['status'], job['timeLimit']), (jobid, 'echo', 'queued', 60.0))
        self.assertEqual(self.client.getStatistics()['counts']['queued'], 1)

    def test_filters(self):
        jobids = self.client.addMany({'task': 'echo', 'input': {'number': number}} for number in range(5))
        found = self.client.getJobs(filter='task:ec* input.number:[1-3]', size=2)
        self.assertEqual([job['id'] for job in found['jobs']], jobids[3:1:-1])
        found = self.client.getJobs(filter='task:ec* input.number:[1-3]', size=2, after=found['cursor'])
        self.assertEqual(([job['id'] for job in found['jobs']], found['cursor']), ([jobids[1]], None))
        for options in ({'filter': 'x:', 'after': 'y'}, {'filter': 'since:x'}, {'status': 'error', 'filter': ''},
                        {'start': 1, 'filter': ''}, {'size': 0, 'filter': ''}, {'task': 'echo', 'filter': ''},
                        {'since': 1.0, 'filter': ''}):
            with self.subTest(options), self.assertRaisesRegex(faults.BadArguments, 'getJobs: '):
                self.client.getJobs(**options)

    def test_large_results_come_in_parts(self):
        for size in 2 * PART_SIZE, 2 * PART_SIZE + 10, 10, 0:
            jobid = self.client.add('repeat', size)
            self.process()
            self.assertEqual(self.client.getFile(jobid), repeat(size))
            file = io.BytesIO()
            self.assertEqual(self.client.save(jobid, file), size)
            self.assertEqual(file.getvalue(), repeat(size))

    def test_no_file(self):
        jobid = self.client.add('echo', [1])
        with self.assertRaisesRegex(errors.RemoteTaskError, str(jobid)):
            self.client.getFile(jobid)

    def test_another_service(self):
        client = self.makeClient('/site1/T%C3%A4sks')
        jobid = client.add('echo')
        self.assertEqual(client.getStatus(jobid), 'queued')
        with self.assertRaises(errors.UnknownJob):
            self.client.getStatus(jobid)
        with self.assertRaises(errors.UnknownService):
            self.makeClient('/nowhere').getStatus(jobid)

    def test_faults_are_the_exceptions_of_the_package(self):
        with self.assertRaisesRegex(errors.UnknownJob, r'\Athere is no job 7\Z') as caught:
            self.client.getStatus(7)
        self.assertIsInstance(caught.exception, RemoteFault)
        self.assertIsInstance(caught.exception, KeyError)
        self.assertEqual(caught.exception.code, faults.UNKNOWN_JOB)
        with self.assertRaisesRegex(errors.UnknownTask, "task 'ehco' is not registered"):
            self.client.add('ehco')
        jobid = self.client.add('echo')
        with self.assertRaisesRegex(errors.WrongState, f'job {jobid} is queued: cannot retry it'):
            self.client.retry(jobid)
        with self.assertRaisesRegex(faults.BadArguments, 'unheardOf'):
            self.client.addCronJob('echo', delay=1, unheardOf=True)
        for minute in 5, '5':
            with self.assertRaisesRegex(faults.BadArguments, f'minute: {minute!r} is not a list of whole numbers'):
                self.client.addCronJob('echo', minute=minute)
        with self.assertRaises(faults.UnknownMethod):
            self.client.call('unheardOf')

    def test_what_cannot_be_sent(self):
        cyclic = []
        cyclic.append(cyclic)
        for input in 2 ** 31, object(), {1: 2}, '\ud800', cyclic:
            with self.assertRaisesRegex(faults.BadArguments, r'\Aadd: the arguments cannot be sent: '):
                self.client.add('echo', input)
        for input, said in ((['\x00'], r"input\[0\] is '\\x00', which"), (float('-inf'), 'input is -inf, which'),
                            ({'b': float('nan')}, r"input\['b'\] is nan, which"),
                            ({'\x00': 1}, r"input: the key is '\\x00', which")):
            with self.subTest(input), self.assertRaisesRegex(faults.BadArguments, said):
                self.client.add('echo', input)
        with self.db.transaction() as connection:
            self.assertEqual(len(connection.root()['/'].jobs), 0)

    def test_many_threads(self):
        def addAndLook():
            return [self.client.getStatus(self.client.add('echo', number)) for number in range(10)]

        calls = [inThread(addAndLook) for _ in range(8)]
        for thread, outcome in calls:
            thread.join(WAIT)
            self.assertEqual(outcome, [['queued'] * 10])
        with self.db.transaction() as connection:
            self.assertEqual(len(connection.root()['/'].jobs), 80)

    def test_closed(self):
        with self.makeClient() as client:
            client.getAvailableTasks()
        with self.assertRaisesRegex(errors.RemoteTaskError, 'has been closed'):
            client.getAvailableTasks()
        self.assertTrue(self.frontend.stop(WAIT))       # nothing is left that it would wait for

    def test_frontend_that_is_started_again(self):
        jobid = self.client.add('echo')
        self.assertTrue(self.frontend.stop(WAIT))
        with self.assertRaisesRegex(NotConnected, 'cannot connect: Connection refused'):
            self.makeClient().getStatus(jobid)          # who has never been answered is told at once
        thread, outcome = inThread(self.client.cancel, jobid)
        self.frontend = Frontend(self.frontend.address, self.gateway, self.limits)
        serving, _ = inThread(self.frontend.serveForever)
        self.addCleanup(serving.join, WAIT)
        self.addCleanup(self.frontend.stop, WAIT)
        thread.join(WAIT)
        self.assertEqual(outcome, [True])


class TestWaiting(FrontendCase):

    level = 2

    def test_the_result(self):
        jobid = self.client.add('echo', 'done')
        thread, outcome = inThread(self.client.wait, jobid)
        self.process()
        thread.join(WAIT)
        self.assertEqual(outcome, ['done'])
        self.assertEqual(self.client.waitFor([jobid]), ['completed'])

    def test_no_result(self):
        failing, cancelled = self.client.add('fail'), self.client.add('echo')
        self.client.cancel(cancelled)
        self.process()
        with self.assertRaisesRegex(JobFailed, f'job {failing} failed: no such film') as caught:
            self.client.wait(failing)
        self.assertEqual((caught.exception.jobid, caught.exception.reason), (failing, 'no such film'))
        with self.assertRaises(JobCancelled):
            self.client.wait(cancelled)
        with self.assertRaises(errors.UnknownJob):
            self.client.wait(1)

    def test_not_in_time(self):
        jobid = self.client.add('echo', startLater=True)
        with self.assertRaisesRegex(StillRunning, f'job {jobid} is still start later after 0.01 seconds') as caught:
            self.client.wait(jobid, 0.01)
        self.assertEqual(caught.exception.statuses, {jobid: 'start later'})
        self.assertIsInstance(caught.exception, TimeoutError)

    def test_removed_meanwhile(self):
        jobid = self.client.add('echo')
        waiting, outcome = inThread(self.client.wait, jobid)
        with self.db.transaction() as connection:
            connection.root()['/'].process()
            connection.root()['/'].clean()
        waiting.join(WAIT)
        self.assertIsInstance(outcome[0], errors.UnknownJob)

    def test_waiting_in_steps(self):
        """No call is silent for longer than a proxy bears, however long somebody waits; the outcome is the same."""
        self.addCleanup(setattr, clientModule, 'WAIT_STEP', clientModule.WAIT_STEP)
        self.assertLess(clientModule.WAIT_STEP, 30)
        clientModule.WAIT_STEP = 0.05
        first, second, third = (self.client.add('echo', number) for number in range(3))
        self.assertEqual(self.client.waitFor([first, second], 0.2), ['queued', 'queued'])
        thread, outcome = inThread(self.client.waitFor, [third, first, second, first], WAIT)
        anyThread, anyOutcome = inThread(self.client.waitFor, [second, third], WAIT, True)
        with self.assertLogs('lovely.remotetask.access', 'INFO') as logged:
            self.waitUntil(lambda: len(logged.output) > 10)                     # they ask again and again
        self.assertEqual(outcome + anyOutcome, [])
        self.client.cancel(third)
        anyThread.join(WAIT)
        self.assertEqual(anyOutcome, [['queued', 'cancelled']])
        self.client.cleanSome(['cancelled'])                                    # one is removed, and no error
        self.process()
        thread.join(WAIT)
        self.assertEqual(outcome, [[None, 'completed', 'completed', 'completed']])
        for jobids in [third], [first, third]:
            with self.assertRaises(errors.UnknownJob):
                self.client.waitFor(jobids, WAIT, True)
        waiting = self.client.add('echo', startLater=True)
        for timeout in -1, float('nan'):
            with self.assertRaisesRegex(faults.BadArguments, '^timeout: '):
                self.client.waitFor([first], timeout)
            with self.assertRaisesRegex(faults.BadArguments, '^timeout: '):
                self.client.wait(waiting, timeout)
        self.assertEqual(self.client.waitFor([], WAIT), [])
        self.assertEqual(self.client.waitFor([first], float('inf')), ['completed'])

    def test_results_as_they_end(self):
        first, second, failing = self.client.add('echo', 1), self.client.add('echo', 2), self.client.add('fail')
        self.client.cancel(second)
        results = self.client.results([first, second, failing, first, 7])
        ended = dict(next(results) for _ in range(2))
        self.assertEqual(set(ended), {second, 7})
        self.assertEqual(ended[second].status, 'cancelled')
        self.assertIsInstance(ended[second].error, JobCancelled)
        self.assertIsInstance(ended[7].error, errors.UnknownJob)
        self.process()
        ended = dict(results)
        self.assertEqual(ended[first], Outcome('completed', 1))
        self.assertIsInstance(ended[failing].error, JobFailed)

    def test_more_jobs_than_one_call_takes(self):
        jobids = [jobid for start in range(0, 2100, 700)
                  for jobid in self.client.addMany([{'task': 'echo', 'input': start}] * 700)]
        with self.assertRaisesRegex(StillRunning, 'and so are 2099 more'):
            dict(self.client.results(jobids, 0))
        self.client.cancel(jobids[-1])
        self.assertEqual(next(self.client.results(jobids))[0], jobids[-1])


#: A program on a machine that has nothing but the client: it prints what calls give, if it is told of a front end,
#: and the modules that were imported.
THIN = """
import json, sys
from lovely.remotetask.client import Client, JobFailed
from lovely.remotetask.errors import UnknownJob, UnknownTask
said = []
if sys.argv[1:]:
    url, ended, failed, binary = sys.argv[1], *map(int, sys.argv[2:])
    with Client(url) as client:
        said.append(client.getStatus(client.add('echo', [1, None, 'two'])))
        said.append(client.wait(ended))
        said.append(client.waitFor([ended, failed], 0))
        said.append(len(client.getFile(binary)))
        for call in (lambda: client.wait(failed)), (lambda: client.add('nope')), (lambda: client.getStatus(1)):
            try:
                call()
            except (JobFailed, UnknownTask, UnknownJob) as error:
                said.append(str(error))
json.dump([said, sorted(sys.modules)], sys.stdout)
"""


class TestThinClient(FrontendCase):
    """A client needs no database, so it imports none."""

    level = 2

    #: What it is made without: libraries, and packages of `zope`.
    WITHOUT = frozenset(('BTrees', 'persistent', 'transaction', 'ZConfig', 'ZEO', 'ZODB', 'zc', 'zodbpickle', 'zope'))

    def run_(self, *arguments, program=THIN):
        """Run a program; return what it got, and which of the names it has imported that it should do without."""
        ended = subprocess.run([sys.executable, '-c', program, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}, timeout=WAIT, check=True)
        said, modules = json.loads(ended.stdout)
        self.assertIn('lovely.remotetask.xmlrpc.calls', modules)
        # The interpreter itself may make the namespaces "zc" and "zope", which are empty.
        return said, [name for name in modules if name.partition('.')[0] in self.WITHOUT and name not in ('zc', 'zope')]

    def test_what_is_imported(self):
        self.assertEqual(self.run_(), ([], []))

    def test_calls(self):
        ended, failed, binary = self.client.add('echo', 'film'), self.client.add('fail'), self.client.add('repeat', 10)
        self.process()
        said, imported = self.run_(self.client.url, ended, failed, binary)
        self.assertEqual(said, [
            'queued', 'film', ['completed', 'error'], 10, f'job {failed} failed: no such film',
            "task 'nope' is not registered; the registered tasks are: echo, fail, repeat, square",
            'there is no job 1'])
        self.assertEqual(imported, [])

    def test_it_would_be_seen(self):
        program = THIN.replace('import json, sys', 'import json, sys, lovely.remotetask.interfaces')
        _, imported = self.run_(program=program)
        self.assertIn('zope.interface', imported)


#: A program for a network of its own: it calls off a job, and the network goes before there is an answer.
VANISHING = """
import fcntl, socket, struct, threading
from test_client import Script
from lovely.remotetask.client import transport
from lovely.remotetask.common import keepalive
from lovely.remotetask.client import Client, ConnectionBroken

def switch(flags):
    with socket.socket() as any:
        fcntl.ioctl(any, 0x8914, struct.pack('16sh14x', b'lo', flags))      # SIOCSIFFLAGS

switch(1)
keepalive._OPTIONS = [(name, 1) for name, _ in keepalive._OPTIONS]
transport.CONFIRM_TIME = 1
server = Script([[None]])
with Client(server.url, 1000) as client:
    waiting = threading.Thread(target=lambda: (server.arrived.wait(), switch(0)))
    waiting.start()
    try:
        client.cancel(1)
    except ConnectionBroken as error:
        print('broke:', error.__cause__.strerror)
    waiting.join()
switch(1)
server.close()
"""


@unittest.skipUnless(sys.platform == 'linux', 'only Linux tells of the timers of connections')
class TestSilentNetwork(FrontendCase):

    level = 2

    def test_both_ends_ask_for_the_other(self):
        self.client.getAvailableTasks()
        port = f':{self.frontend.address[1]:04X}'

        def timers():
            with open('/proc/net/tcp') as file:
                entries = [line.split() for line in file if port in line]
            return [entry[5][:2] for entry in entries if entry[3] == '01']      # of those that are established
        self.waitUntil(lambda: timers() == ['02'] * 2)                          # both are about to be kept alive

    def test_a_network_that_vanishes_is_noticed(self):
        command = ['unshare', '-rn']
        if not shutil.which('unshare') or subprocess.run([*command, 'true'], stderr=subprocess.DEVNULL).returncode:
            self.skipTest('no network of its own can be had here')
        ended = subprocess.run([*command, sys.executable, '-c', VANISHING], env=environment(), encoding='utf-8',
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=2 * WAIT)
        self.assertEqual(ended.stdout, 'broke: Connection timed out\n')


class Script:
    """A server that answers as it is told: a list for each connection, of the answers to its requests, bytes.

    None stands for no answer.  At the end of its list a connection is closed; behind the last one come no more.
    """

    def __init__(self, connections, context=None):
        """`context` is the `ssl.SSLContext` to serve https."""
        self._context = context
        self.requests = []                  # pairs of the number of the connection and the body
        self.arrived = threading.Event()    # one of them
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.url = f'http{"s" if context else ""}://user:secret@127.0.0.1:{self._listener.getsockname()[1]}/'
        self._ended = threading.Event()
        self._thread, _ = inThread(self._serve, connections)

    def _serve(self, connections):
        with self._listener:
            for number, answers in enumerate(connections):
                connection, address = self._listener.accept()
                if self._context is not None:
                    try:
                        connection = self._context.wrap_socket(connection, server_side=True)
                    except OSError:         # a client who does not trust it
                        continue
                with connection, connection.makefile('rb') as file:
                    for answer in answers:
                        body = self._readRequest(file)
                        if body is None:
                            break
                        self.requests.append((number, body))
                        self.arrived.set()
                        if answer is None:
                            self._ended.wait(WAIT)
                        elif callable(answer):
                            answer(connection, self._ended)
                        else:
                            connection.sendall(answer)

    def _readRequest(self, file):
        length, line = None, file.readline()
        while line.strip():
            name, _, value = line.partition(b':')
            length = int(value) if name.lower() == b'content-length' else length
            line = file.readline()
        return None if length is None else file.read(length)

    def close(self):
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(WAIT)


def http(body, status='200 OK', *headers):
    """Return an answer of HTTP."""
    return '\r\n'.join((f'HTTP/1.1 {status}', f'Content-Length: {len(body)}', *headers, '', '')).encode() + body


def ok(value):
    """Return the answer with that value."""
    return http(dumpResponse(value))


def fault(code):
    """Return the answer with that fault."""
    return http(dumpFault(code, 'it is so'))


class ScriptCase(unittest.TestCase):

    def script(self, *connections, timeout=WAIT):
        """Have a server behave so and return a client of it."""
        self.server = Script(connections)
        self.addCleanup(self.server.close)
        client = Client(self.server.url, timeout)
        self.addCleanup(client.close)
        return client

    @property
    def connections(self):
        """For each request that came, the number of its connection."""
        return [number for number, body in self.server.requests]

    @property
    def bodies(self):
        return [body for number, body in self.server.requests]


class TestRepetition(ScriptCase):

    level = 2

    def test_connections_are_kept(self):
        client = self.script([ok('queued'), ok('completed'), ok(5), ok([5])])
        self.assertEqual([client.getStatus(1), client.getStatus(1), client.add('echo'), client.addMany([])],
                         ['queued', 'completed', 5, [5]])
        self.assertEqual(self.connections, [0] * 4)

    def test_connection_that_was_kept_too_long(self):
        client = self.script([ok('queued')], [ok('completed')])
        client.getStatus(1)
        self.assertEqual(client.getStatus(1), 'completed')
        self.assertEqual(self.connections, [0, 1])

    def test_connection_that_somebody_forgot(self):
        """What is in between may forget a silent connection, without a word to anybody: it is not used again."""
        self.addCleanup(setattr, transport, 'IDLE_TIME', transport.IDLE_TIME)
        client = self.script([ok('queued'), None], [ok('completed')])
        self.assertEqual(client.getStatus(1), 'queued')
        transport.IDLE_TIME = 0                 # as if that was long ago
        self.assertEqual(client.getStatus(1), 'completed')
        self.assertEqual(self.connections, [0, 1])

    def test_connections_that_are_not_needed_are_closed(self):
        self.addCleanup(setattr, transport, 'IDLE_TIME', transport.IDLE_TIME)
        transport.IDLE_TIME = 0
        client = self.script([ok('queued')], [ok('completed')])
        client.getStatus(1)
        client.getStatus(1)
        self.assertEqual(client._connections.idleConnections, 0)

    def test_proxies_without_an_answer(self):
        for status in '502 Bad Gateway', '504 Gateway Timeout':
            proxy = http(b'<html></html>', status)
            client = self.script([proxy], [proxy], [ok('completed')])
            self.assertEqual(client.getStatus(1), 'completed')
            client = self.script([proxy], [ok(5)])
            self.assertEqual(client.add('echo'), 5)
            self.assertEqual(len(set(self.bodies)), 1)
            client = self.script([proxy], [ok(True)])
            with self.assertRaisesRegex(HttpError, status):
                client.cancel(1)                    # whether it was carried out is unknown
            self.assertEqual(len(self.server.requests), 1)

    def test_what_breaks_off_and_only_looks(self):
        cut = ok('completed')[:-5]
        client = self.script([b''], [cut], [cut[:40]], [ok('completed')])
        self.assertEqual(client.getStatus(1), 'completed')
        self.assertEqual(self.connections, [0, 1, 2, 3])

    def test_adding_is_repeated_with_its_key(self):
        for given in None, 'my own':
            client = self.script([b''], [fault(faults.OUTCOME_UNKNOWN), b''], [ok(5)])
            self.assertEqual(client.add('echo', 1, key=given), 5)
            self.assertEqual(self.connections[0], 0)
            self.assertEqual(len(set(self.bodies)), 1)
            (task, input, later, options), method = xmlrpc.client.loads(self.bodies[0])
            self.assertEqual((method, task, input, later, list(options)), ('add', 'echo', 1, False, ['key']))
            self.assertTrue(options['key'] == given if given else len(options['key']) == 36)

    def test_adding_many_is_repeated_with_their_keys(self):
        client = self.script([b''], [ok([5, 6])])
        self.assertEqual(client.addMany([{'task': 'echo'}, {'task': 'echo', 'key': 'mine'}]), [5, 6])
        self.assertEqual(len(set(self.bodies)), 1)
        [[first, second]], _ = xmlrpc.client.loads(self.bodies[0])
        self.assertEqual((len(first['key']), second['key']), (36, 'mine'))

    def test_other_writes_are_sent_once(self):
        client = self.script([b''], [ok(True)])
        with self.assertRaisesRegex(ConnectionBroken, r'\Ahttp://127\.0\.0\.1:[0-9]+/: the connection broke: '):
            client.cancel(1)
        self.assertEqual(len(self.server.requests), 1)
        client = self.script([fault(faults.OUTCOME_UNKNOWN)], [ok(True)])
        with self.assertRaisesRegex(faults.OutcomeUnknown, 'it is so'):
            client.cancel(1)
        self.assertEqual(len(self.server.requests), 1)

    def test_other_writes_take_a_new_connection(self):
        client = self.script([ok('queued'), ok(False)], [ok(True), ok('queued')])
        client.getStatus(1)
        self.assertIs(client.cancel(1), True)
        client.getStatus(1)
        self.assertEqual(self.connections, [0, 1, 1])

    def test_all_is_repeated_that_changed_nothing(self):
        busy = http(b'', '503 Service Unavailable', 'Retry-After: 0', 'Connection: close')
        throttled = http(b'later', '429 Too Many Requests')
        client = self.script([busy], [throttled], [fault(faults.DATABASE_UNAVAILABLE)], [fault(faults.STOPPING)],
                             [fault(faults.WRONG_GENERATION)], [ok(True)])
        self.assertIs(client.cancel(1), True)
        self.assertEqual(self.connections, [0, 1, 2, 3, 4, 5])

    def test_not_beyond_the_time(self):
        busy = http(b'', '503 Service Unavailable', 'Retry-After: 1000', 'Connection: close')
        client = self.script([busy])
        with self.assertRaisesRegex(HttpError, 'answers with HTTP status 503 Service Unavailable') as caught:
            client.getStatus(1)
        self.assertEqual((caught.exception.status, caught.exception.retryAfter), (503, 1000))
        client = self.script([fault(faults.STOPPING)], timeout=0.05)
        with self.assertRaises(faults.Stopping):
            client.getStatus(1)

    def test_other_faults_are_not_repeated(self):
        for code in faults.INTERNAL_ERROR, faults.UNKNOWN_JOB, 4711:
            client = self.script([fault(code)])
            with self.assertRaisesRegex(RemoteFault, r'\Ait is so\Z') as caught:
                client.getStatus(1)
            self.assertEqual(caught.exception.code, code)

    def test_silence(self):
        client = self.script([None], timeout=0.05)
        with self.assertRaisesRegex(NoAnswer, 'did not answer within 0.05 seconds'):
            client.getStatus(1)

    def test_silence_after_an_answer(self):
        # The reason is what the front end has said.
        client = self.script([fault(faults.DATABASE_UNAVAILABLE)], [None], timeout=3.0)
        with self.assertRaisesRegex(NoAnswer, 'did not answer within 3 seconds; before that: it is so'):
            client.getStatus(1)

    def test_answer_that_drips(self):
        client = self.script([b'HTTP/1.1 200 OK\r\n\r\n<methodResponse>', None], timeout=0.05)
        with self.assertRaises((NoAnswer, ConnectionBroken)):
            client.getStatus(1)

    def test_headers_that_drip(self):
        def drip(connection, ended):
            with contextlib.suppress(OSError):
                connection.sendall(b'HTTP/1.1 200 OK\r\n')
                while not ended.wait(0.02):
                    connection.sendall(b'X: a\r\n')             # more than 100 of them would be a `BadAnswer`

        client = self.script([drip], timeout=0.1)
        with self.assertRaises(NoAnswer):
            client.getStatus(1)

    def test_a_process_that_is_forked_takes_a_connection_of_its_own(self):
        client = self.script([ok('queued'), ok('processing')], [ok('completed')])
        client.getStatus(1)
        reading, writing = os.pipe()
        with client._connections._lock:         # as a thread may hold it that is not in the child
            child = os.fork()
            if not child:
                os.write(writing, client.getStatus(1).encode())
                os._exit(0)
        self.addCleanup(os.waitpid, child, 0)
        self.addCleanup(os.kill, child, signal.SIGKILL)
        self.addCleanup(os.close, reading)
        os.close(writing)
        self.assertEqual(client.getStatus(1), 'processing')
        self.assertTrue(select.select([reading], [], [], WAIT)[0], 'the child hangs')
        self.assertEqual(os.read(reading, 100), b'completed')

    def test_waiting_has_its_own_time(self):
        client = self.script([ok(['queued'])], timeout=WAIT)
        self.assertEqual(client.waitFor([1], 5, any=True), ['queued'])
        self.assertEqual(xmlrpc.client.loads(self.bodies[0]), (([1], 5.0, True), 'waitFor'))

    def test_long_waits_are_bounded(self):
        client = self.script([ok(['queued'])] * 4)                  # it does not wait at all
        self.assertEqual(client.waitFor([1], 3.5 * clientModule.WAIT_STEP), ['queued'])
        self.assertEqual([xmlrpc.client.loads(body)[0][1] for body in self.bodies],
                         [clientModule.WAIT_STEP] * 3 + [clientModule.WAIT_STEP / 2])

    def test_pauses(self):
        busy = HttpError('', 503, 'Busy', 5)
        self.assertEqual([pauseAfter(busy, 0, False, True), pauseAfter(HttpError('', 429, ''), 10 ** 6, False, True)],
                         [5, repetition.LONGEST_PAUSE])
        self.assertEqual(pauseAfter(HttpError('', 503, 'Busy', 0), 1, True, True), 0.2)
        broken, refused = ConnectionBroken('', ''), NotConnected('', '', refused=True)
        self.assertEqual([pauseAfter(broken, 0, True, True), pauseAfter(broken, 0, False, True)], [0, None])
        self.assertEqual([pauseAfter(broken, 2, True, False), pauseAfter(broken, 3, True, False)], [0.4, None])
        self.assertEqual(pauseAfter(broken, 9, True, True), repetition.LONGEST_PAUSE)
        self.assertEqual([pauseAfter(refused, 0, False, True), pauseAfter(refused, 0, True, False)], [0.1, None])
        self.assertEqual(pauseAfter(refused, 1, True, False), 0.2)          # there was one that broke off
        self.assertIsNone(pauseAfter(NotConnected('', 'no such host'), 0, True, True))
        self.assertIsNone(pauseAfter(NoAnswer('', 60), 0, True, True))


class TestOtherServers(ScriptCase):

    def test_users(self):
        client = self.script([http(b'who?', '401 Unauthorized')], [http(b'no', '403 Forbidden')])
        with self.assertRaisesRegex(NotAuthorized, 'HTTP status 401 Unauthorized') as caught:
            client.cancel(1)
        self.assertNotIn('secret', ''.join(traceback.format_exception(caught.exception)))
        self.assertNotIn('user', client.url)
        with self.assertRaisesRegex(HttpError, 'HTTP status 403 Forbidden') as caught:
            client.cancel(1)
        self.assertNotIsInstance(caught.exception, NotAuthorized)

    def test_no_http(self):
        client = self.script([b'SSH-2.0-server\r\n'])
        with self.assertRaisesRegex(BadAnswer, 'does not answer in HTTP: SSH-2.0-server'):
            client.getStatus(1)

    def test_no_xml_rpc(self):
        def response(inner):
            return b'<methodResponse>' + inner + b'</methodResponse>'

        def value(text):
            return response(b'<params><param><value>' + text + b'</value></param></params>')

        for body in (b'', b'plain', b'<html><p>Hello</html>', b'<html/>', response(b''), response(b'<params/>'),
                     value(b'<int>x</int>'), value(b'<dateTime.iso8601>now</dateTime.iso8601>'),
                     value(b'<base64>x</base64>'), value(b'<data/>'), value(b'<double>1e</double>'),
                     value(b'<struct><member><name>x</name></member></struct>'),
                     response(b'<params>' + 2 * b'<param><value>x</value></param>' + b'</params>'),
                     response(b'<fault><value>x</value></fault>'), response(b'<fault/>'),
                     response(b'<fault><value><struct><member><name>faultCode</name><value>x</value></member>'
                              b'<member><name>faultString</name><value>x</value></member></struct></value></fault>'),
                     dumpResponse('x')[:-5], b'\xff'):
            with self.subTest(body):
                client = self.script([http(body)])
                with self.assertRaisesRegex(BadAnswer, 'does not answer in XML-RPC: '):
                    client.getStatus(1)

    def test_more_than_an_answer_may_be(self):
        self.addCleanup(setattr, transport, 'ANSWER_SIZE', transport.ANSWER_SIZE)
        transport.ANSWER_SIZE = 1000
        endless = b'HTTP/1.1 200 OK\r\n\r\n<methodResponse>' + b' ' * 2000
        client = self.script([endless])
        with self.assertRaisesRegex(BadAnswer, 'more than 1000 bytes'):
            client.getStatus(1)

    def test_answers_without_length(self):
        plain = b'HTTP/1.0 200 OK\r\n\r\n' + dumpResponse('queued')
        chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n' % (
            len(dumpResponse('queued')), dumpResponse('queued'))
        client = self.script([plain], [chunked, ok('completed')])
        self.assertEqual([client.getStatus(1), client.getStatus(1), client.getStatus(1)],
                         ['queued', 'queued', 'completed'])
        self.assertEqual(self.connections, [0, 1, 1])

    def test_nobody(self):
        port = freePort()
        for url, reason in ((f'http://127.0.0.1:{port}', 'Connection refused'), ('http://nowhere.invalid/', '.'),
                            (f'http://{"x" * 70}.invalid/', '.')):
            with Client(url) as client, self.assertRaisesRegex(NotConnected, f'cannot connect: {reason}'):
                client.add('echo')

    def test_no_tls(self):
        client = self.script([])
        with Client(client.url.replace('http:', 'https:'), timeout=WAIT) as client:
            with self.assertRaises(NotConnected):
                client.getStatus(1)

    def test_tls(self):
        authority = trustme.CA()
        serving, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
        authority.issue_cert('127.0.0.1').configure_cert(serving)
        authority.configure_trust(trusting)
        self.server = Script([[], [ok('queued'), ok('completed')]], serving)
        self.addCleanup(self.server.close)
        with Client(self.server.url, WAIT) as client:
            with self.assertRaisesRegex(NotConnected, 'cannot connect: .*certificate verify failed'):
                client.getStatus(1)
        with Client(self.server.url, WAIT, trusting) as client:
            self.assertEqual([client.getStatus(1), client.getStatus(1)], ['queued', 'completed'])
        self.assertEqual(self.connections, [1, 1])

    def test_urls(self):
        for url in ('nonsense', 'ftp://localhost/', 'http://', 'http://localhost:x/', 'http://localhost:99999/',
                    'http://a b/', 'http://local\nhost/', 'http://[::1/', 'http://höst/',
                    'ftp://user:secret@localhost/?secret'):
            with self.subTest(url), self.assertRaisesRegex(ValueError, 'is not a URL such as') as caught:
                Client(url)
            self.assertNotIn('secret', str(caught.exception))


class TestRemoteFault(unittest.TestCase):

    def test_every_code(self):
        for entry in faults.TABLE:
            with self.subTest(entry.exception):
                error = remoteFault(entry.code, 'it is so')
                kinds = [other.exception for other in faults.TABLE if other.code == entry.code]
                self.assertIsInstance(error, kinds[0])
                self.assertIsInstance(error, RemoteFault)
                self.assertEqual((str(error), error.code), ('it is so', entry.code))
                copy = pickle.loads(pickle.dumps(error))
                self.assertEqual((type(copy), str(copy), copy.code), (type(error), str(error), error.code))

    def test_all_exceptions_can_be_pickled_and_copied(self):
        """So a pool of processes can raise them, and they can be stored."""
        made = [errors.RemoteTaskError('text'), errors.InvalidInput('field', 'is wrong'), errors.UnknownTask('a', 'b'),
                errors.UnknownJob(5), errors.UnknownService('/a'), errors.WrongState(5, 'error', 'cancel'),
                TaskError('no film'), errors.Retry(5, 'later'), errors.TimeLimitExceeded(5), errors.HostDied('a', 30),
                errors.NameTaken('a', 'pid 1'), errors.ConfigurationError('line 1'), errors.WrongGeneration('it is so'),
                errors.UnknownUpload('a1'), errors.TooManyUploads('there are 100 uploads'), JobFailed(5, 'no film'),
                JobCancelled(5), StillRunning({5: 'queued'}, 1.5), NotConnected('http://a', 'refused', True),
                ConnectionBroken('http://a', 'reset'), NoAnswer('http://a', 60, OSError()),
                BadAnswer('http://a', 'HTTP', 'x'),
                HttpError('http://a', 503, 'Busy', 5.0), NotAuthorized('http://a', 401, 'Unauthorized'),
                remoteFault(faults.UNKNOWN_JOB, 'there is no job 5'), faults.BadArguments('add: it is so'),
                faults.ResultTooLarge(5), faults.UnknownMethod('ad'), faults.Stopping(), faults.OutcomeUnknown(),
                faults.DatabaseUnavailable(), faults.WrongArity('add: it is so'), faults.ParseError('it is so'),
                faults.WrongType('add: it is so'), faults.NotAllowed('it is so'), files.NoFile(5, 'queued')]
        classes = {one for module in (errors, clientModule, faults) for one in vars(module).values()
                   if isinstance(one, type) and issubclass(one, errors.RemoteTaskError)}
        self.assertEqual({one for one in classes if one not in map(type, made)} - {RemoteFault}, set())
        for error in made:
            for again in pickle.loads(pickle.dumps(error)), copy.copy(error):
                with self.subTest(error=error):
                    self.assertEqual((type(again), str(again), again.args, vars(again)),
                                     (type(error), str(error), error.args, vars(error)))

    def test_unknown_code(self):
        self.assertIs(type(remoteFault(4711, 'it is so')), RemoteFault)


if __name__ == '__main__':
    unittest.main()
