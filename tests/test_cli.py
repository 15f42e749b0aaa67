"""The command line: clients against a small XML-RPC server, servers as the processes that users start."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import datetime
import itertools
import json
import os
import pathlib
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
import xmlrpc.client
from unittest import mock
from xmlrpc.server import SimpleXMLRPCRequestHandler
from xmlrpc.server import SimpleXMLRPCServer

import ZEO
from click.shell_completion import BashComplete
from click.testing import CliRunner

from commands import runCommand
from lovely.remotetask.cli import main
from lovely.remotetask.cli import services
from lovely.remotetask.cli import users
from lovely.remotetask.cli.words import COMMANDS
from lovely.remotetask.testing.ports import freePort
from lovely.remotetask.xmlrpc import faults
from waits import PATIENCE
from waits import waitUntil


OPERATING = pathlib.Path(users.__file__).parent.parent / 'documents' / 'operating.txt'


def environment(**more):
    """Return the environment for a process that finds the same packages as this one, and no configuration."""
    result = {name: value for name, value in os.environ.items() if not name.startswith('REMOTETASK_')}
    return dict(result, PYTHONPATH=os.pathsep.join(os.path.abspath(path) for path in sys.path), **more)


def start(*arguments, **options):
    """Start the program in a process of its own."""
    options.setdefault('env', environment())
    # Tests may run in the background of a shell, where SIGINT is ignored, also by all children.
    options.setdefault('preexec_fn', lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    options.setdefault('stdout', subprocess.PIPE)
    options.setdefault('stderr', subprocess.PIPE)
    return subprocess.Popen([sys.executable, '-m', 'lovely.remotetask.cli.main', *arguments], text=True,
                            **options)


class CommandTestCase(unittest.TestCase):

    url = None

    def remotetask(self, *arguments):
        """Run a command in this process; return exit code, standard and error output."""
        return runCommand(*arguments[:1], *(['--url', self.url] if self.url else []), *arguments[1:])

    def fails(self, code, message, *arguments):
        """Run a command that fails with this code and one line with this message, below the id of a job it adds."""
        result = self.remotetask(*arguments)
        self.assertEqual(result[:2], (code, ''), result)
        self.assertRegex(result[2], r'\A(job \d+\n)?remotetask: [^\n]+\n\Z')
        self.assertIn(message, result[2])


class HelpTest(unittest.TestCase):

    def test_the_program(self):
        result = CliRunner().invoke(main.remotetask, ['--help'])
        self.assertEqual(result.exit_code, 0)
        for name, command in main.remotetask.commands.items():
            (self.assertNotIn if command.hidden else self.assertIn)(f'\n  {name} ', result.output)
        self.assertIn('REMOTETASK_CONFIG', result.output)
        self.assertIn('$ remotetask serve', result.output)

    def test_completion(self):
        shell = BashComplete(main.remotetask, {}, 'remotetask', '_REMOTETASK_COMPLETE')
        self.assertIn('complete -o nosort -F', shell.source())
        for arguments, incomplete, names in ([], 'serv', ['serve', 'service']), (['service'], 'a', ['add']), (
                ['jobs'], '--st', ['--status', '--start']):
            self.assertEqual([each.value for each in shell.get_completions(arguments, incomplete)], names)

    def test_every_command(self):
        self.assertEqual({name for name, command in main.remotetask.commands.items() if not command.hidden}, {
            'init', 'serve', 'frontend', 'processor', 'scheduler', 'web', 'health', 'pack', 'tasks', 'add', 'add-many',
            'start', 'schedule', 'status', 'job', 'progress', 'stack', 'result', 'error', 'retry', 'cancel', 'remove',
            'clean', 'jobs', 'statistics', 'pause', 'resume', 'is-processing', 'bench', 'user', 'schedules', 'run-now',
            'run-here', 'check', 'service', 'export', 'import', 'upgrade'})
        for name, command in main.remotetask.commands.items():
            with self.subTest(name):
                result = CliRunner().invoke(main.remotetask, [name, '-h'])
                self.assertEqual(result.exit_code, 0)
                self.assertIn(f'Usage: remotetask {name}', result.output)
                self.assertIn('Example', result.output)
                self.assertIn('$ remotetask', result.output)
                for parameter in command.params:
                    if parameter.param_type_name == 'option':
                        self.assertTrue(parameter.help, parameter.name)
                # A first sentence that fits the list of commands.
                self.assertNotIn('...', command.get_short_help_str(60))

    def test_the_examples_are_commands(self):
        for command in (main.remotetask, *main.remotetask.commands.values(), *users.user.commands.values(),
                        *services.service.commands.values()):
            examples = re.findall(r'\$ remotetask (.*)', command.help)
            self.assertTrue(examples, command.name)
            for example in examples:
                words = itertools.takewhile(lambda word: not word.startswith('<'), shlex.split(example))
                result = CliRunner().invoke(main.remotetask, [*words, '--help'])
                self.assertEqual(result.exit_code, 0, example)

    def test_version(self):
        result = CliRunner().invoke(main.remotetask, ['--version'])
        self.assertEqual(result.exit_code, 0)
        self.assertRegex(result.output, r'\Alovely\.remotetask \S+\n\Z')


class ProgramTest(unittest.TestCase):

    level = 2

    def said(self, *arguments, **more):
        """Return what the package says as a program."""
        return subprocess.run([sys.executable, '-m', 'lovely.remotetask', *arguments], env=environment(**more),
                              text=True, check=True, stdout=subprocess.PIPE, timeout=PATIENCE).stdout

    def test_the_package_is_the_program(self):
        self.assertRegex(self.said('--version'), r'\Alovely\.remotetask \S+\n\Z')
        self.assertIn('Usage: remotetask schedule ', self.said('schedule', '--help'))

    def test_completion_in_shells(self):
        for shell in 'bash', 'zsh', 'fish':
            script = self.said(_REMOTETASK_COMPLETE=f'{shell}_source')
            self.assertIn(f'_REMOTETASK_COMPLETE={shell}_complete', script)
            # The document says how it is switched on.
            self.assertIn(f'_REMOTETASK_COMPLETE={shell}_source remotetask', OPERATING.read_text())
        for words, found in (('remotetask in', ['init']), ('remotetask add --ti', ['--timeout', '--time-limit'])):
            said = self.said(_REMOTETASK_COMPLETE='bash_complete', COMP_WORDS=words, COMP_CWORD=str(words.count(' ')))
            self.assertEqual(said.splitlines(), [f'plain,{name}' for name in found])
        said = self.said(_REMOTETASK_COMPLETE='bash_complete', COMP_WORDS='remotetask -C rem', COMP_CWORD='2')
        self.assertEqual(said, 'file,rem\n')


class UsageTest(CommandTestCase):

    def test_no_command(self):
        code, output, errors = self.remotetask()
        self.assertEqual((code, output), (2, ''))
        self.assertIn('Usage: remotetask', errors)

    def test_wrong_usage(self):
        self.fails(2, "'nonsense'", 'nonsense')
        self.fails(2, "'--nonsense'", '--nonsense')
        self.fails(2, "Missing argument 'TASK' (see remotetask add --help)", 'add')
        self.fails(2, 'unexpected extra argument', 'tasks', 'x')
        for text in ('x', '0', '-', str(2**31), '9' * 100, '٣'):
            self.fails(2, f"Invalid value for 'ID': {text!r} is not a job id", 'status', text)
        self.fails(2, '--timeout needs --wait', 'add', 'echo', '--timeout', '1')
        self.fails(2, 'exclude each other', 'add', 'echo', '--wait', '--later')
        self.fails(2, "'soon' is not a time", 'add', 'echo', '--wait', '--timeout', 'soon')
        self.fails(2, "'nan' is not a time", 'add', 'echo', '--wait', '--timeout', 'nan')
        self.fails(2, "'--status'", 'jobs', '--status', 'unknown')
        self.fails(2, "'--size'", 'jobs', '--size', '0')

    def test_words_of_other_systems(self):
        for word, ours in COMMANDS.items():
            with self.subTest(word):
                self.assertNotIn(word, main.remotetask.commands)
                command = [*ours.removesuffix(' --filter').split(), '--help']
                self.assertEqual(CliRunner().invoke(main.remotetask, command).exit_code, 0)
                self.fails(2, f"No such command '{word}'; here it is: remotetask {ours} (see remotetask --help)", word)
        self.fails(2, "No such command 'worker' (see remotetask service --help)", 'service', 'worker')
        self.fails(2, "'-C' goes before the command: remotetask -C FILE serve (see", 'serve', '-C', 'films.conf')
        self.fails(2, "'--config' goes before the command: remotetask -C FILE service list (see", 'service', 'list',
                   '--config', 'films.conf')
        self.fails(2, "No such option '--countdown'; to run it later, or again and again: remotetask schedule (see",
                   'add', 'echo', '--countdown', '10')
        self.fails(2, "No such option '--delay' (see remotetask jobs --help)", 'jobs', '--delay', '5')

    def test_no_database_is_made_by_who_works_on_one(self):
        directory = self.enterContext(tempfile.TemporaryDirectory())
        self.enterContext(contextlib.chdir(directory))
        for arguments in (('service', 'list'), ('service', 'add', '/Films'), ('upgrade', '--check'), ('pack',),
                          ('export', '-'), ('import', '-'), ('run-here', '1')):
            with self.subTest(arguments):
                self.fails(2, 'var/Data.fs, and no configuration file was given: name it, as in', *arguments)
        self.assertEqual(os.listdir(directory), [])

    def test_urls(self):
        for url in ('nonsense', 'ftp://localhost/', 'http://', 'http://localhost:x/', 'http://localhost:99999/',
                    'http://a b/', 'http://local\nhost/', 'http://[::1/', 'http://höst/'):
            with self.subTest(url):
                self.fails(2, 'is not a URL', 'tasks', '--url', url)

    def test_urls_of_configuration_files(self):
        def fails(code, message, command, text):
            path = pathlib.Path(directory, 'remotetask.conf')
            path.write_text(text)
            result = runCommand('-C', path, command)
            self.assertEqual(result[:2], (code, ''))
            self.assertIn(message, result[2])

        directory = self.enterContext(tempfile.TemporaryDirectory())
        for address, host in (('127.0.0.1', '127.0.0.1'), ('0.0.0.0', '127.0.0.1'), ('[::]', '[::1]')):
            address = f'{address}:{(port := freePort())}'
            fails(3, f'http://{host}:{port}/: cannot connect', 'tasks', f'<frontend>\n address {address}\n</frontend>')
            fails(1, f'http://{host}:{port}/live: ', 'health', f'<web>\n address {address}\n</web>')
        fails(3, f'https://127.0.0.1:{port}/: cannot connect', 'tasks',
              f'<frontend>\n address {port}\n certificate x\n</frontend>')
        for command, code in (('tasks', 2), ('check', 3)):
            fails(code, 'remotetask.conf takes any free port: give its --url', command,
                  '<frontend>\n address 0\n</frontend>')
            fails(code, 'remotetask.conf, line 1: ', command, '<nonsense>')

    def test_no_json(self):
        self.fails(2, 'not JSON: line 2 column 7: Expecting value', 'add', 'echo', '{"a": 1,\n "b": x}')
        self.fails(2, 'not JSON: line 1 column 1', 'add', 'echo', '')
        self.fails(2, 'NaN is not JSON', 'add', 'echo', '[NaN]')
        self.fails(2, '32 bits', 'add', 'echo', '[2147483648]')
        self.fails(2, 'nested too deeply', 'add', 'echo', '[' * 20000 + ']' * 20000)


class Jobs(SimpleXMLRPCServer):
    """The methods of a frontend, for jobs that do as their tasks are called."""

    def __init__(self):
        super().__init__(('127.0.0.1', 0), logRequests=False, allow_none=True, use_builtin_types=True)
        self.added = {}
        self.calls = []
        self.asked, self.over = threading.Event(), threading.Event()
        self.left = 0                       # jobs to clean
        for function in (self.getAvailableTasks, self.add, self.addMany, self.startJob, self.cancel, self.getStatus,
                         self.getResult, self.getError, self.getJob, self.getJobs, self.getStatistics,
                         self.getTaskStatistics, self.getProgress, self.waitFor, self.cleanSome, self.addCronJob):
            self.register_function(function)

    def _dispatch(self, method, params):
        self.calls.append((method, *params))
        return super()._dispatch(method, params)

    def getAvailableTasks(self):
        return ['echo', 'twi\x9b1mce']

    def add(self, task, input, startLater, options):
        if task == 'unknown':
            raise xmlrpc.client.Fault(faults.UNKNOWN_TASK, "task 'unknown' is not registered")
        if task == 'busy':
            raise xmlrpc.client.Fault(faults.DATABASE_UNAVAILABLE, 'try again')
        jobid = len(self.added) + 1
        self.added[jobid] = [task, input, 'start later' if startLater else 'queued']
        return jobid

    def addMany(self, jobs):
        return [self.add(job['task'], job.get('input'), job.get('startLater', False), {}) for job in jobs]

    def addCronJob(self, task, input, *schedule):
        return 7

    def _find(self, jobid):
        if jobid not in self.added:
            raise xmlrpc.client.Fault(faults.UNKNOWN_JOB, f'there is no job {jobid}')
        return self.added[jobid]

    def startJob(self, jobid):
        job = self._find(jobid)
        ready, job[2] = job[2] == 'start later', 'queued'
        return ready

    def cancel(self, jobid):
        self._find(jobid)[2] = 'cancelled'
        return True

    def getStatus(self, jobid):
        job = self._find(jobid)
        shown = job[2]
        # Each time that it is looked at, a job has come further.
        if shown == 'queued':
            job[2] = 'processing'
        elif shown == 'processing' and job[0] != 'endless':
            job[2] = {'fail': 'error', 'cancel': 'cancelled'}.get(job[0], 'completed')
        self.asked.set()
        return shown

    def waitFor(self, jobids, timeout, any):
        [jobid] = jobids
        while (status := self.getStatus(jobid)) not in ('completed', 'error', 'cancelled'):
            if status == 'processing' and self.added[jobid][0] == 'endless':
                self.over.wait(timeout)
                break
        return [status]

    def getProgress(self, jobid):
        return {'fraction': 0.25, 'message': 'first\x9bpass'} if self._find(jobid)[2] == 'processing' else None

    def cleanSome(self, status, limit):
        removed = min(limit, self.left)
        self.left -= removed
        return removed

    def getResult(self, jobid):
        task, input, status = self._find(jobid)
        if status != 'completed' or task == 'nothing':
            return None
        if task == 'large':
            raise xmlrpc.client.Fault(faults.RESULT_TOO_LARGE, str(faults.ResultTooLarge(5)))
        if task == 'special':
            return {'bytes': b'\x00\xff', 'time': datetime.datetime(2024, 2, 29, 12, 30, 1), 'text': 'ünï'}
        return input

    def getError(self, jobid):
        return 'the disk\nis \x9b1mfull' if self._find(jobid)[0] == 'fail' else 'None'

    def getJobs(self, status, start, size, task=None, since=None, filter=None, after=None):
        rows = [{'id': 1392637175, 'task': 'echo', 'status': 'completed', 'created': 1709209801.5,
                 'started': 1709209802.0, 'completed': 1709209803.9, 'host': 'alpha-1'},
                {'id': 7, 'task': 'a rather long name', 'status': 'queued', 'created': 0.0, 'started': None,
                 'completed': None, 'host': None}]
        found = [row for row in rows if status in (None, row['status'])]
        return {'jobs': found[start:start + size], 'total': len(found),
                'counts': {'queued': 1, 'completed': 1, 'error': 0}, 'looked': 2, 'cursor': None if after else '17-4',
                'cut': False}

    def getJob(self, jobid):
        self._find(jobid)
        return {'id': jobid, 'task': 'echo\x9b', 'created': 0.0, 'started': None, 'input': ['ü', b'x']}

    def getTaskStatistics(self, task=None):
        never = dict.fromkeys(('meanRun', 'p95Run', 'meanWait', 'p95Wait', 'failureRate'))
        return {'echo\x9b': {'completed': 1508, 'error': 2, 'cancelled': 0, 'retried': 11, 'lost': 2.0 ** 32,
                             'failureRate': 0.0013, 'meanRun': 0.25, 'p95Run': 61.0, 'meanWait': 0.0, 'p95Wait': 0.005},
                'fail': {'completed': 0, 'error': 0, 'cancelled': 1, 'retried': 0, 'lost': 0, **never}}

    def getStatistics(self, window=3600):
        host = {'name': 'one', 'machine': 'alpha', 'pid': 1, 'threads': 4, 'since': 0.0, 'jobs': 3, 'processing': True,
                'scheduling': True}
        return {'counts': {'processing': 3, 'queued': 12}, 'hosts': [host, dict(host, processing=False)],
                'oldestWaiting': 1709209801.5, 'throughput': 12.44, 'paused': True,
                'longestRunning': None, 'failures': 2, 'failing': 1, 'unclaimable': {'echo\x9b': 1, 'big': 2}}


class ClientTestCase(CommandTestCase):

    def setUp(self):
        self.server = Jobs()
        self.addCleanup(self.server.server_close)
        thread = threading.Thread(target=self.server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.server.shutdown)
        self.addCleanup(self.server.over.set)
        self.url = 'http://{}:{}/'.format(*self.server.server_address)


class ClientTest(ClientTestCase):

    level = 2

    def test_tasks(self):
        self.assertEqual(self.remotetask('tasks'), (0, 'echo\ntwi 1mce\n', ''))
        code, output, errors = self.remotetask('tasks', '--statistics')
        self.assertEqual([line.split() for line in output.splitlines()], [
            ['task', 'completed', 'error', 'cancelled', 'retried', 'lost', 'failed', 'run', 'p95', 'wait', 'p95'],
            ['echo', '1508', '2', '0', '11', '4294967296', '0.1', '%', '0.25s', '1m01s', '0.00s', '0.01s'],
            ['fail', '0', '0', '1', '0', '0', '-', '-', '-', '-', '-']])
        code, output, errors = self.remotetask('tasks', '--statistics', '--json')
        self.assertEqual((code, json.loads(output), errors), (0, self.server.getTaskStatistics(), ''))
        self.fails(2, '--json is for --statistics', 'tasks', '--json')

    def test_add(self):
        self.assertEqual(self.remotetask('add', 'echo'), (0, '1\n', ''))
        self.assertEqual(self.remotetask('add', 'echo', '{"a": [1, 2.5, null, true, "ü"]}'), (0, '2\n', ''))
        self.assertEqual(self.remotetask('add', 'echo', '1', '--later'), (0, '3\n', ''))
        self.assertEqual([call[:-1] for call in self.server.calls], [
            ('add', 'echo', None, False), ('add', 'echo', {'a': [1, 2.5, None, True, 'ü']}, False),
            ('add', 'echo', 1, True)])
        self.assertTrue(all(len(options['key']) == 36 for *_, options in self.server.calls))
        self.remotetask('add', 'echo', '--key', 'order 7', '--time-limit', '1.5m')
        self.assertEqual(self.server.calls[-1][-1], {'key': 'order 7', 'timeLimit': 90.0})

    def test_add_many(self):
        lines = ['{"task": "echo", "input": "ü"}\n', '{"task": "echo", "startLater": true, "key": "order 7"}\n']
        with self.subTest('from a file'), tempfile.NamedTemporaryFile('w', encoding='utf-8') as file:
            file.writelines(lines * 501)
            file.flush()
            self.assertEqual(self.remotetask('add-many', file.name),
                             (0, ''.join(f'{jobid}\n' for jobid in range(1, 1003)), ''))
            self.assertEqual([len(jobs) for name, jobs in self.server.calls], [1000, 2])
            (name, (first, second, *_)), _ = self.server.calls
            self.assertEqual((first['task'], first['input'], len(first['key'])), ('echo', 'ü', 36))
            self.assertEqual(second, {'task': 'echo', 'startLater': True, 'key': 'order 7'})
        for line, message in (('x', "line 3: not JSON: line 1 column 1"), ('[]', 'line 3: not an object with a "task"'),
                              ('{}', 'line 3: not an object with a "task"'), ('[2147483648]', 'line 3: an integer')):
            with self.subTest(line), tempfile.NamedTemporaryFile('w', encoding='utf-8') as file:
                file.writelines([*lines, line])
                file.flush()
                self.fails(2, message, 'add-many', file.name)
        self.assertEqual(len(self.server.calls), 2)
        with tempfile.NamedTemporaryFile('w', encoding='utf-8') as file:
            file.write('{"task": "echo"}\n' * 1500 + '{"task": "unknown"}\n')
            file.flush()
            code, output, errors = self.remotetask('add-many', file.name)
        self.assertEqual((code, len(output.splitlines())), (2, 1000))
        self.assertEqual(errors, "remotetask: line 1501: task 'unknown' is not registered\n")

    def test_refused(self):
        self.fails(2, "task 'unknown' is not registered", 'add', 'unknown')
        self.fails(1, 'try again', 'add', 'busy', '--answer-timeout', '50ms')
        for command in 'status', 'result', 'error', 'cancel', 'start':
            with self.subTest(command):
                self.fails(1, 'there is no job 99', command, '99')

    def test_wait(self):
        self.assertEqual(self.remotetask('add', 'echo', '{"hello": "world"}', '--wait'),
                         (0, '{"hello": "world"}\n', 'job 1\n'))
        self.assertEqual([name for name, *arguments in self.server.calls], ['add', 'waitFor', 'getResult'])
        self.assertEqual(self.remotetask('add', 'nothing', '--wait', '--timeout', '60s'), (0, 'null\n', 'job 2\n'))

    def test_wait_in_vain(self):
        self.fails(4, 'job 1 failed: the disk is 1mfull', 'add', 'fail', '--wait')
        self.fails(1, 'job 2 was cancelled', 'add', 'cancel', '--wait')
        self.fails(1, 'job 3 is still processing after 0.1 seconds', 'add', 'endless', '--wait', '--timeout', '100ms')

    def test_status(self):
        self.remotetask('add', 'echo')
        self.assertEqual(self.remotetask('status', '1'), (0, 'queued\n', ''))

    def test_result(self):
        self.remotetask('add', 'special', '--wait')
        code, output, errors = self.remotetask('result', '1')
        self.assertEqual((code, errors), (0, ''))
        self.assertIn('ünï', output)
        self.assertEqual(json.loads(output), {'bytes': 'AP8=', 'time': '2024-02-29T12:30:01', 'text': 'ünï'})

    def test_result_that_is_too_large_for_an_answer(self):
        self.fails(1, 'job 1 was added, but: the result is larger than 5 bytes, ', 'add', 'large', '--wait')
        self.fails(1, 'in parts, and so does: remotetask result ID --output FILE\n', 'result', '1')

    def test_result_that_a_terminal_would_obey(self):
        code, output, errors = self.remotetask('add', 'echo', '"\\u009b1m\\ud83d\\ude00"', '--wait')
        self.assertEqual((code, output, errors), (0, '"\\u009b1m\\ud83d\\ude00"\n', 'job 1\n'))

    def test_result_of_jobs_without_one(self):
        self.remotetask('add', 'nothing', '--wait')
        self.assertEqual(self.remotetask('result', '1'), (0, 'null\n', ''))
        self.remotetask('add', 'fail', '--wait')
        self.fails(4, 'job 2 failed: the disk is 1mfull', 'result', '2')
        self.remotetask('add', 'echo', '--later')
        self.fails(1, 'job 3 is start later: it has no result yet', 'result', '3')

    def test_error(self):
        self.remotetask('add', 'fail')
        self.remotetask('add', 'echo')
        self.assertEqual(self.remotetask('error', '1'), (0, 'the disk\nis  1mfull\n', ''))
        self.assertEqual(self.remotetask('error', '2'), (0, 'None\n', ''))

    def test_start(self):
        self.remotetask('add', 'echo', '--later')
        self.assertEqual(self.remotetask('start', '1'), (0, '', ''))
        self.fails(1, 'job 1 is queued: cannot start it', 'start', '1')

    def test_schedule(self):
        self.assertEqual(self.remotetask('schedule', 'echo', '1', '--crontab', '0 8 * * mon', '--time-zone',
                                         'Europe/Berlin', '--misfire', '3'), (0, '7\n', ''))
        self.remotetask('schedule', 'echo', '--delay', '1.5m', '--new-jobs', '--overlap')
        self.assertEqual(self.server.calls, [
            ('addCronJob', 'echo', 1, [], [], [], [], [], None,
             {'misfire': 3, 'newJobs': False, 'overlap': False, 'crontab': '0 8 * * mon', 'timeZone': 'Europe/Berlin'}),
            ('addCronJob', 'echo', None, [], [], [], [], [], 90.0,
             {'misfire': 'once', 'newJobs': True, 'overlap': True})])
        self.fails(2, 'either --crontab or --delay', 'schedule', 'echo')
        self.fails(2, 'either --crontab or --delay', 'schedule', 'echo', '--delay', '1', '--crontab', '* * * * *')

    def test_cancel(self):
        self.remotetask('add', 'echo')
        self.assertEqual(self.remotetask('cancel', '1'), (0, '', ''))
        self.assertEqual(self.remotetask('status', '1'), (0, 'cancelled\n', ''))

    def test_jobs(self):
        self.assertEqual(self.remotetask('jobs'), (0, '''\
id          task                status     added       started     took   host
1392637175  echo                completed  2024-02-29  2024-02-29  1.90s  alpha-1
7           a rather long name  queued     1970-01-01  -           -      -

2 of 2 jobs; in all: 1 queued, 1 completed
''', ''))
        code, output, errors = self.remotetask('jobs', '--status', 'completed', '--size', '5', '--start', '1')
        self.assertEqual(output, 'id  task  status  added  started  took  host\n\n'
                                 '0 of 1 job; in all: 1 queued, 1 completed\n')
        self.assertEqual(self.server.calls, [('getJobs', None, 0, 20),
                                             ('getJobs', 'completed', 1, 5)])

    def test_jobs_by_a_filter(self):
        output = self.remotetask('jobs', 'task:echo since:1h', '--size', '5')[1]
        self.assertTrue(output.endswith('\n2 jobs found, looked at 2 of 2; go on with --after 17-4\n'), output)
        output = self.remotetask('jobs', '', '--after', '17-4')[1]
        self.assertTrue(output.endswith('\n2 jobs found, looked at 2 of 2\n'), output)
        self.assertEqual(self.server.calls, [('getJobs', None, 0, 5, None, None, 'task:echo since:1h'),
                                             ('getJobs', None, 0, 20, None, None, '', '17-4')])
        self.fails(2, '--after needs a filter', 'jobs', '--after', '17-4')
        for option, value in (('--status', 'error'), ('--start', '5'), ('--task', 'echo'), ('--since', '1h')):
            with self.subTest(option):
                self.fails(2, 'a filter excludes --status, --start, --task and --since', 'jobs', 'x', option, value)

    def test_job(self):
        self.remotetask('add', 'echo')
        self.assertEqual(self.remotetask('job', '1'), (0, '''\
id       1
task     echo
created  1970-01-01 00:00:00
input    ["ü", "eA=="]
''', ''))

    def test_statistics(self):
        self.assertEqual(self.remotetask('statistics'), (0, '''\
jobs             12 queued, 3 processing
oldest waiting   2024-02-29 12:30:01
longest running  -
failed lately    2 in the last hour, 1 failing schedule
throughput       12.44 jobs per second
unclaimable      2 jobs of big, 1 job of echo
hosts            1 of 2 processing, paused
''', ''))
        code, output, errors = self.remotetask('statistics', '--json')
        self.assertEqual((code, json.loads(output), errors), (0, self.server.getStatistics(), ''))

    def test_progress(self):
        self.remotetask('add', 'endless')
        self.fails(1, 'job 1 is queued: nothing is known of its progress', 'progress', '1')
        self.assertEqual(self.remotetask('progress', '1'), (0, '25%  first pass\n', ''))

    def test_clean(self):
        self.server.left = 1234
        self.assertEqual(self.remotetask('clean', '--status', 'error'), (0, '1234\n', ''))
        self.assertEqual(self.server.calls, [('cleanSome', ['error'], 500)] * 3)

    def test_the_path_of_the_url_names_the_service(self):
        paths = []

        class Handler(SimpleXMLRPCRequestHandler):
            rpc_paths = ()

            def do_POST(self):
                paths.append(self.path)
                super().do_POST()

        self.server.RequestHandlerClass = Handler
        for path in '', '/', '/site1/films':
            code, output, errors = self.remotetask('tasks', '--url', self.url.rstrip('/') + path)
            self.assertEqual((code, errors), (0, ''))
        self.assertEqual(paths, ['/', '/', '/site1/films'])

    def test_where_the_url_comes_from(self):
        directory = self.enterContext(tempfile.TemporaryDirectory())
        paths = [os.path.join(directory, name) for name in ('ours.conf', 'other.conf')]
        for path, port in zip(paths, (self.server.server_address[1], freePort())):
            pathlib.Path(path).write_text(f'<frontend>\n address {port}\n</frontend>\n')
        ours, other = paths
        for variables, *arguments, code in (
                ({}, '-C', ours, 'tasks', 0),
                ({'REMOTETASK_CONFIG': ours}, 'tasks', 0),
                ({'REMOTETASK_CONFIG': ours}, '-C', other, 'tasks', 3),
                ({'REMOTETASK_URL': self.url}, '-C', other, 'tasks', 3),
                ({'REMOTETASK_URL': self.url, 'REMOTETASK_CONFIG': other}, 'tasks', 0),
                ({}, '-C', other, 'tasks', '--url', self.url, 0)):
            with self.subTest(variables=variables, arguments=arguments), mock.patch.dict(os.environ, variables):
                self.assertEqual(runCommand(*arguments)[0], code)

    def test_another_process(self):
        process = start('add', 'echo', '-', '--wait', env=environment(REMOTETASK_URL=self.url), stdin=subprocess.PIPE)
        output, errors = process.communicate('["from standard input"]', timeout=PATIENCE)
        self.assertEqual((process.returncode, output, errors), (0, '["from standard input"]\n', 'job 1\n'))

    def test_another_process_fails(self):
        process = start('add', 'fail', '--wait', '--url', self.url)
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, output), (4, ''))
        self.assertRegex(errors, r'\Ajob 1\nremotetask: job 1 failed: [^\n]+\n\Z')

    def test_terminal_without_unicode(self):
        process = start('add', 'echo', '"\\u20ac"', '--wait',
                        env=environment(REMOTETASK_URL=self.url, PYTHONIOENCODING='ascii'))
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, output, errors), (0, '"\\u20ac"\n', 'job 1\n'))

    def test_interrupted(self):
        process = start('add', 'endless', '--wait', '--url', self.url)
        self.assertTrue(self.server.asked.wait(PATIENCE))
        process.send_signal(2)
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, output), (130, ''))
        self.assertIn('remotetask: job 1 goes on\n', errors)
        self.assertNotIn('Traceback', errors)

    def test_closed_pipe(self):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            process = subprocess.run([sys.executable, '-m', 'lovely.remotetask.cli.main', 'jobs', '--url', self.url],
                                     env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True,
                                     timeout=PATIENCE)
        finally:
            os.close(writer)
        self.assertEqual((process.returncode, process.stderr), (1, ''))


class TerminalTest(ClientTestCase):
    """What is drawn on a terminal."""

    level = 2

    def startOnTerminal(self, *arguments):
        """Start a command whose standard error output is a terminal; return the process and the terminal, a file."""
        terminal, end = pty.openpty()
        process = start(*arguments, '--url', self.url, stderr=end, env=environment(TERM='xterm', COLUMNS='100'))
        os.close(end)
        file = open(terminal, 'rb', 0)
        for cleanup in file.close, process.stdout.close, process.wait, process.kill:
            self.addCleanup(cleanup)
        return process, file

    def readUntil(self, terminal, *texts):
        """Return what is drawn until all of these have been."""
        drawn = b''
        while not all(text.encode() in drawn for text in texts):
            drawn += terminal.read(65536)           # an OSError when the process has ended
        return drawn

    def test_wait(self):
        process, terminal = self.startOnTerminal('add', 'endless', '"done"', '--wait')
        drawn = self.readUntil(terminal, 'job 1: first pass', '25%', '━━━')
        self.assertNotIn(b'\x9b', drawn)
        self.server.added[1][2] = 'completed'
        self.assertEqual(process.communicate(timeout=PATIENCE)[0], '"done"\n')
        self.assertEqual(process.returncode, 0)

    def test_wait_in_vain(self):
        process, terminal = self.startOnTerminal('add', 'endless', '--wait', '--timeout', '1200ms')
        self.readUntil(terminal, 'remotetask: job 1 is still processing after 1.2 seconds')
        self.assertEqual(process.wait(PATIENCE), 1)

    def test_clean(self):
        self.server.left = 1234
        process, terminal = self.startOnTerminal('clean')
        self.readUntil(terminal, 'removing', '1234 jobs')
        self.assertEqual(process.communicate(timeout=PATIENCE)[0], '1234\n')

    def test_no_terminal(self):
        process = start('add', 'endless', '--wait', '--url', self.url, '--timeout', '600ms')
        self.assertEqual(process.communicate(timeout=PATIENCE),
                         ('', 'job 1\nremotetask: job 1 is still processing after 0.6 seconds\n'))


class BadServerTest(CommandTestCase):
    """What else may be at the other end."""

    def answering(self, *answers):
        """Have a server that answers requests with these bytes, one after the other, then the last again and again.

        None stands for no answer.
        """
        answers = list(answers)
        listener = socket.create_server(('127.0.0.1', 0))
        self.addCleanup(listener.close)
        self.url = f'http://user:secret@127.0.0.1:{listener.getsockname()[1]}/'
        self.requests = []
        ended = threading.Event()

        def serve():
            with contextlib.suppress(OSError):              # closed at the end of the test
                while True:
                    connection, address = listener.accept()
                    with connection:
                        data = received = connection.recv(65536)
                        while received and not data.startswith(b'\x16') and b'</methodCall>' not in data:  # \x16: TLS
                            received = connection.recv(65536)
                            data += received
                        self.requests.append(data)
                        answer = answers.pop(0) if len(answers) > 1 else answers[0]
                        if answer is None:
                            ended.wait(PATIENCE)
                        else:
                            connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        self.addCleanup(thread.join)
        # Closing a listener does not wake who accepts; a shutdown does.
        self.addCleanup(listener.shutdown, socket.SHUT_RDWR)
        self.addCleanup(ended.set)

    def http(self, body):
        return b'HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n%s' % (len(body), body)

    def test_nobody(self):
        port = freePort()
        self.fails(3, f'http://127.0.0.1:{port}/: cannot connect: Connection refused; is the front end running?',
                   'tasks', '--url', f'http://127.0.0.1:{port}')
        self.fails(3, 'cannot connect', 'tasks', '--url', 'http://nowhere.invalid/')
        self.fails(3, 'cannot connect', 'tasks', '--url', f'http://{"x" * 70}.invalid/')

    def test_monitoring(self):
        """An answer that nobody gets is critical, whatever stands in the way."""
        def fault(code):
            return self.http(xmlrpc.client.dumps(xmlrpc.client.Fault(code, 'no'), methodresponse=True).encode())

        for level, answer in ((2, None), (2, b''), (2, fault(faults.DATABASE_UNAVAILABLE)), (2, fault(faults.STOPPING)),
                              (2, fault(faults.WRONG_GENERATION)), (3, fault(faults.NOT_ALLOWED)),
                              (2, b'HTTP/1.1 504 No\r\nContent-Length: 0\r\n\r\n'),
                              (3, b'HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n')):
            with self.subTest(answer):
                self.answering(answer)
                code, output, errors = self.remotetask('check', '--answer-timeout', '200ms')
                self.assertEqual((code, errors), (level, ''), output)
                self.assertRegex(output, r'\A(CRITICAL|UNKNOWN) - [^\n]+\n\Z')
        with mock.patch.dict(os.environ, {'REMOTETASK_PASSWORD_FILE': '/nowhere/password'}):
            self.fails(3, 'REMOTETASK_PASSWORD_FILE', 'check', '--url', self.url.replace(':secret', ''))

    def test_silence(self):
        self.answering(None)
        self.fails(1, 'did not answer within 0.2 seconds', 'tasks', '--answer-timeout', '200ms')

    def test_http_status(self):
        self.answering(b'HTTP/1.1 404 Not\x1bFound\r\nContent-Length: 0\r\n\r\n')
        self.fails(1, '/ answers with HTTP status 404 Not', 'tasks')
        self.assertIn(b'Authorization: Basic dXNlcjpzZWNyZXQ=', self.requests[0])
        self.answering(b'HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n')
        self.fails(1, '405 Method Not Allowed; the URL must be that of the front end, not of the pages', 'tasks')

    def test_the_password_is_not_shown(self):
        self.answering(b'HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n')
        code, output, errors = self.remotetask('tasks')
        self.assertIn('401 Unauthorized; there is no such user, or the password in the URL is wrong', errors)
        self.assertNotIn('secret', errors)
        code, output, errors = self.remotetask('tasks', '--url', self.url.replace('user:secret@', ''))
        self.assertIn('401 Unauthorized; put user and password into the URL, http://USER:PASSWORD@HOST/', errors)

    def test_broken_connection(self):
        self.answering(b'')
        self.fails(1, 'the connection broke', 'add', 'echo', '--answer-timeout', '200ms')
        bodies = {request.partition(b'\r\n\r\n')[2] for request in self.requests}
        self.assertEqual(len(bodies), 1)                    # all with the same key
        self.requests.clear()
        self.fails(1, 'the connection broke', 'cancel', '1')
        self.assertEqual(len(self.requests), 1)

    def test_cut_off(self):
        self.answering(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n<?xml')
        self.fails(1, 'the connection broke', 'tasks', '--answer-timeout', '200ms')

    def test_not_http(self):
        self.answering(b'SSH-2.0-server\r\n')
        self.fails(1, 'does not answer in HTTP: SSH-2.0-server', 'tasks')

    def test_not_xmlrpc(self):
        for body in (b'<html><p>Hello</html>', b'<html/>', b'', b'plain',
                     b'<methodResponse><params><param><value><int>x</int></value></param></params></methodResponse>'):
            with self.subTest(body):
                self.answering(self.http(body))
                self.fails(1, 'does not answer in XML-RPC', 'tasks')

    def test_lost_while_waiting(self):
        five = b'<methodResponse><params><param><value><int>5</int></value></param></params></methodResponse>'
        self.answering(self.http(five), b'')
        self.fails(1, 'job 5 was added, but: http://127.0.0.1:', 'add', 'echo', '--wait', '--answer-timeout', '200ms',
                   '--timeout', '100ms')

    def test_tls_with_a_server_that_has_none(self):
        self.answering(b'')
        self.fails(3, 'if the front end does not speak TLS, the URL begins with http://', 'tasks', '--url',
                   self.url.replace('http:', 'https:'))


class ServerTestCase(CommandTestCase):
    """Starts servers in processes of their own, with a directory for all they write."""

    def setUp(self):
        self.directory = os.path.realpath(self.enterContext(tempfile.TemporaryDirectory()))

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, 'w') as file:
            file.write(text)
        return path

    def start(self, command, text='', name='remotetask.conf', frontend=''):
        """Start a server with this configuration, and this of its frontend; the log goes to a file."""
        path = self.write(name, f'<eventlog>\n<logfile>\npath {self.directory}/{name}.log\n</logfile>\n</eventlog>\n'
                                f'<frontend>\naddress 0\n{frontend}</frontend>\n{text}')
        process = start('-C', path, command, cwd=self.directory,
                        env=environment(PYTHONUNBUFFERED=''))      # what it prints has to come all the same
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def untilReady(self, process):
        """Return what a server prints up to 'ready'; remember its URL."""
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip('\n'))
            if line.startswith('listening on '):
                self.url = line.split()[-1]
            if line == 'ready\n':
                return lines
        self.fail(f'the server ended: {lines} {process.stderr.read()}')

    def stop(self, process, number=15):
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, errors), (0, ''))
        self.assertRegex(output, r'\A(stopped; \d+ jobs? given back\n)?\Z')

    def awaitFile(self, name, text=''):
        """Wait until another process has written a file with this text."""
        path = os.path.join(self.directory, name)
        waitUntil(lambda: os.path.exists(path) and text in pathlib.Path(path).read_text(), f'{text!r} in {path}')

    def awaitStatus(self, jobid, status):
        waitUntil(lambda: self.remotetask('status', jobid)[1].strip() == status, f'job {jobid} in status {status}',
                  lambda: self.remotetask('status', jobid)[1])

    def refuses(self, code, message, *arguments):
        """Start a server that can't; it ends with this code and one line with this message."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, code, errors)
        self.assertNotIn('ready', output)
        self.assertRegex(errors, r'\Aremotetask: [^\n]+\n\Z')
        self.assertIn(message, errors)

    def zeo(self):
        """Start a database server and return the configuration of its clients."""
        (host, port), stop = ZEO.server(port=('127.0.0.1', 0))
        self.addCleanup(stop)
        return f'<zodb>\n<zeoclient>\nserver {host}:{port}\n</zeoclient>\n</zodb>\n'

    def processorSection(self, name, more=''):
        return f'<processor>\nname {name}\nthreads 2\nwait-time 100ms\n{more}</processor>\n'


class ServeTest(ServerTestCase):

    level = 2

    def test_serve(self):
        process = self.start('serve', self.processorSection('one'))
        lines = self.untilReady(process)
        self.assertRegex(lines[0], r'\Alovely\.remotetask \S+\Z')
        self.assertEqual(lines[1:3], [f'data: FileStorage {self.directory}/var/Data.fs', 'tasks: echo'])
        self.assertRegex(lines[3], r'\Alistening on http://127\.0\.0\.1:[1-9][0-9]*/\Z')
        self.assertEqual(lines[4:], ['processing as one with 2 threads', 'ready'])
        self.assertEqual(self.remotetask('tasks'), (0, 'echo\n', ''))
        self.assertEqual(self.remotetask('add', 'echo', '{"hello": "wörld"}', '--wait', '--timeout', '60s')[:2],
                         (0, '{"hello": "wörld"}\n'))
        self.fails(2, "task 'nonsense' is not registered", 'add', 'nonsense')
        code, output, errors = self.remotetask('jobs', '--status', 'completed')
        self.assertEqual((code, errors), (0, ''))
        self.assertEqual(len(output.splitlines()), 4)
        self.stop(process)
        self.fails(3, 'cannot connect', 'tasks')

    def test_jobs_outlive_the_process(self):
        process = self.start('serve')
        self.untilReady(process)
        jobid = self.remotetask('add', 'echo', '"kept"', '--later')[1].strip()
        self.stop(process, 2)
        process = self.start('serve')
        self.untilReady(process)
        self.assertEqual(self.remotetask('status', jobid), (0, 'start later\n', ''))
        self.assertEqual(self.remotetask('start', jobid), (0, '', ''))
        self.stop(process)

    def test_second_signal_ends_at_once(self):
        self.write('blocking.py', 'import time\n\n\ndef block(input):\n    open("running", "w").close()\n'
                                  '    time.sleep(3600)\n')
        self.write('site.zcml', '<configure xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">\n'
                                '<remotetask:task name="block" handler="blocking.block"/>\n</configure>\n')
        process = self.start('serve', 'site-definition site.zcml\n<processor>\ngrace-period 1h\n</processor>\n')
        self.assertIn('tasks: block', self.untilReady(process))
        jobid = self.remotetask('add', 'block')[1].strip()
        self.awaitFile('running')
        self.assertEqual(self.remotetask('status', jobid), (0, 'processing\n', ''))
        process.send_signal(2)
        self.awaitFile('remotetask.conf.log', 'stopping')
        process.send_signal(2)
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, output, errors), (130, '', ''))

    def test_database_in_use(self):
        process = self.start('serve')
        self.untilReady(process)
        self.refuses(1, f'FileStorage {self.directory}/var/Data.fs is in use by another process', 'serve', '',
                     'second.conf')
        self.stop(process)

    def test_address_in_use(self):
        with socket.create_server(('127.0.0.1', 0)) as listener:
            address = f'127.0.0.1:{listener.getsockname()[1]}'
            path = self.write('taken.conf', f'<frontend>\naddress {address}\n</frontend>\n')
            process = start('-C', path, 'serve', cwd=self.directory)
            output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 1)
        self.assertNotIn('ready', output)
        self.assertRegex(errors.splitlines()[-1], rf'\Aremotetask: .*cannot listen .*{address}.*in use')
        self.assertNotIn('Traceback', errors)

    def test_database_server_away(self):
        port = freePort()
        self.refuses(1, f'cannot open the database ZEO 127.0.0.1:{port}: Connection refused\n', 'processor',
                     f'%import ZEO\n<zodb>\n<clientstorage>\nserver {port}\nwait-timeout 1\n</clientstorage>\n'
                     '</zodb>\n')

    def test_stopped_while_starting(self):
        # A server that takes connections and says nothing: the start waits for it.
        with socket.create_server(('127.0.0.1', 0)) as listener:
            port = listener.getsockname()[1]
            process = self.start('processor', f'<zodb>\n<zeoclient>\nserver {port}\n</zeoclient>\n</zodb>\n')
            connection, address = listener.accept()
            with connection:
                process.send_signal(15)
                output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, errors), (0, ''))
        self.assertNotIn('ready', output)

    def test_mistakes(self):
        self.refuses(2, 'remotetask.conf, line 9: ', 'serve', 'nonsense x\n')
        self.write('site.zcml', '<configure>\n<nonsense/>\n</configure>\n')
        self.refuses(2, f'{self.directory}/site.zcml', 'serve', 'site-definition site.zcml\n')
        process = start('-C', 'nowhere.conf', 'serve', cwd=self.directory)
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, output), (2, ''))
        self.assertEqual(errors, f'remotetask: {self.directory}/nowhere.conf: cannot read the configuration file: '
                                 'No such file or directory\n')

    def test_autostart_that_fits_nothing(self):
        self.refuses(1, "autostart 'nowhere@nothing' fits none", 'serve',
                     '<product-config lovely.remotetask>\nautostart nowhere@nothing\n</product-config>\n')


class ManyProcessesTest(ServerTestCase):

    level = 2

    def test_frontend_and_processor(self):
        database = self.zeo()
        frontend = self.start('frontend', database, 'frontend.conf')
        lines = self.untilReady(frontend)
        self.assertTrue(any(line.startswith('listening on ') for line in lines), lines)
        self.assertFalse(any(line.startswith('processing ') for line in lines), lines)
        processor = self.start('processor', database + self.processorSection('one'), 'processor.conf')
        lines = self.untilReady(processor)
        self.assertIn('processing as one with 2 threads', lines)
        self.assertFalse(any(line.startswith('listening ') for line in lines), lines)
        self.assertEqual(self.remotetask('add', 'echo', '[1, 2]', '--wait', '--timeout', '60s')[:2], (0, '[1, 2]\n'))
        self.stop(frontend)
        self.stop(processor)

    def test_steering(self):
        database = self.zeo()
        frontend = self.start('frontend', database, 'frontend.conf')
        self.untilReady(frontend)
        self.assertEqual(self.remotetask('is-processing'),
                         (1, 'host  machine  pid  threads  jobs  since  release  state\n',
                          'remotetask: no host is processing the service\n'))
        scheduler = self.start('scheduler', database + self.processorSection('one'), 'scheduler.conf')
        self.assertEqual(self.untilReady(scheduler)[-2:], ['scheduling as one-scheduler', 'ready'])
        self.fails_(1, 'is-processing')
        processor = self.start('processor', database + '<processor>\nname one\nschedule off\n</processor>\n',
                               'processor.conf')
        self.untilReady(processor)
        code, output, errors = self.remotetask('is-processing')
        rows = [(line.split()[0], line.split()[2], line.split()[3], line.split(maxsplit=7)[-1])
                for line in output.splitlines()[1:]]
        self.assertEqual((code, errors, sorted(rows)), (0, '', [
            ('one', str(processor.pid), '4', 'processing'), ('one-scheduler', str(scheduler.pid), '0', 'scheduling')]))
        jobid = self.remotetask('schedule', 'echo', '"late"', '--delay', '50ms')[1].strip()
        self.awaitStatus(jobid, 'completed')
        self.assertEqual(self.remotetask('pause'), (0, '', ''))
        self.assertEqual(self.fails_(1, 'is-processing')[1].count('waiting'), 1)
        jobid = self.remotetask('add', 'echo')[1].strip()
        late = self.remotetask('schedule', 'echo', '--delay', '50ms')[1].strip()
        self.awaitStatus(late, 'queued')                    # the scheduler goes on; nobody takes what it queues
        self.assertEqual(self.remotetask('status', jobid), (0, 'queued\n', ''))
        self.assertEqual(self.remotetask('resume'), (0, '', ''))
        self.awaitStatus(jobid, 'completed')
        self.awaitStatus(late, 'completed')
        for command, processing in ('stop-processing', 0), ('start-processing', 1):         # the older names
            self.assertEqual(self.remotetask(command), (0, '', ''))
            self.assertEqual(self.remotetask('is-processing')[0], 1 - processing)
        for process in frontend, scheduler, processor:
            self.stop(process)

    def fails_(self, code, *arguments):
        result = self.remotetask(*arguments)
        self.assertEqual(result[0], code, result)
        return result

    def test_name_taken(self):
        database = self.zeo()
        first = self.start('processor', database + self.processorSection('one'), 'first.conf')
        self.untilReady(first)
        self.refuses(1, "a processing host named 'one' is already running", 'processor',
                     database + self.processorSection('one'), 'second.conf')
        self.stop(first)


if __name__ == '__main__':
    unittest.main()
