"""The command line for those who look after a service: tables, checks, schedules, tracebacks, runs by hand."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import sys
import termios
import threading
import time
import unittest
from unittest import mock

from ZODB.POSException import ConflictError
from zope.component import provideUtility

from commands import runCommand
from lovely.remotetask.cli import check
from lovely.remotetask.cli import main
from lovely.remotetask.cli import output
from lovely.remotetask.cli import schedules
from lovely.remotetask.cli import tables
from lovely.remotetask.cli.tables import Column
from lovely.remotetask.errors import TaskError
from lovely.remotetask.job import Failure
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import waitForJobs
from servercase import ServerCase
from test_cli import PATIENCE
from test_cli import ServerTestCase
from test_cli import environment
from test_cli import start


ANSI = re.compile(r'\x1b\[[0-9;]*m')


def fail(input):
    """Fail for good."""
    raise TaskError('no such\x9bfilm')


def crash(input):
    """Fail with a traceback."""
    return 1 / input


class TablesTest(unittest.TestCase):

    columns = (Column('id'), Column('task', 8), Column('added', dispensable=2), Column('host', 4, 1))
    rows = [['1392637175', 'a rather long name', '12:30:01', 'processor-1'], ['7', 'echo', '-', '-']]

    def fitted(self, room):
        return [ANSI.sub('', line) for line in tables.fitted(self.columns, self.rows, room)]

    def test_as_wide_as_need_be(self):
        self.assertEqual(self.fitted(None), [
            'id          task                added     host', '1392637175  a rather long name  12:30:01  processor-1',
            '7           echo                -         -'])
        self.assertEqual(self.fitted(80), self.fitted(None))

    def test_the_widest_are_cut_first(self):
        self.assertEqual(self.fitted(46)[1], '1392637175  a rather...  12:30:01  processor-1')

    def test_columns_are_left_out_when_that_is_not_enough(self):
        self.assertEqual(self.fitted(30)[0], 'id          task      host')
        self.assertEqual(self.fitted(20)[0], 'id          task')

    def test_it_fits_any_width(self):
        for room in range(20, 100):
            self.assertLessEqual(max(map(len, self.fitted(room))), room)

    def test_no_rows(self):
        self.rows = []
        self.assertEqual(self.fitted(40), ['id  task  added  host'])

    def test_times(self):
        now = 1709209801.5
        for moment, text in ((now - 1, '12:30:00'), (now - 86400, '02-28 12:30'), (now + 86400, '03-01 12:30'),
                             (0, '1970-01-01'), (None, '-')):
            self.assertEqual(tables.shortTime(moment, now), text)

    def test_durations(self):
        for seconds, text in ((None, '-'), (-1, '0.00s'), (0.254, '0.25s'), (9.99, '9.99s'), (9.999, '10s'),
                              (59.4, '59s'), (59.9, '1m00s'), (185, '3m05s'), (3600, '1h00m'), (7800, '2h10m'),
                              (86399.9, '1d00h'), (273600, '3d04h'), (1e9, '11574d01h')):
            self.assertEqual(tables.duration(seconds), text)


class FindingsTest(unittest.TestCase):

    def problems(self, **found):
        host = {'processing': True, 'scheduling': True}
        counts = dict.fromkeys(('queued', 'processing', 'error', 'cronjob', 'delayed'), 0)
        found = {'counts': {**counts, **found.pop('counts', {})}, 'hosts': [host], 'paused': False,
                 'oldestWaiting': None, 'longestRunning': None, 'nextTime': None, 'failures': 0, 'failing': 0,
                 'unscheduled': 0, 'stranded': 0, 'unclaimable': {}, **found}
        return check.findings(found, 1000.0, (300, 1800), (60, float('inf')), (1, 10), (60, 600))

    def test_nothing(self):
        self.assertEqual(self.problems(), [])
        self.assertEqual(self.problems(oldestWaiting=701, longestRunning=941, nextTime=2000.0), [])

    def test_each(self):
        idle = {'processing': False, 'scheduling': False}
        for found, expected in (
                ({'hosts': []}, (2, 'no host processes the service')),
                ({'hosts': [idle]}, (2, 'no host processes the service')),
                ({'paused': True, 'hosts': [idle]}, (1, 'the service is paused')),
                ({'counts': {'cronjob': 2, 'delayed': 1}, 'hosts': [dict(idle, processing=True)]},
                 (1, 'no host looks at the 3 schedules')),
                ({'oldestWaiting': 700}, (1, 'a job has been waiting for 5m00s')),
                ({'oldestWaiting': -800}, (2, 'a job has been waiting for 30m00s')),
                ({'longestRunning': -9e9}, (1, 'a job has been running for 104166d16h')),
                ({'nextTime': 940}, (1, 'a schedule is late by 1m00s')),
                ({'nextTime': 400}, (2, 'a schedule is late by 10m00s')),
                ({'failures': 1}, (1, '1 failure')), ({'failures': 10}, (2, '10 failures')),
                ({'failing': 3}, (1, 'the last run of 3 cron jobs failed')),
                ({'unscheduled': 3}, (1, 'cannot handle 3 schedules')),
                ({'stranded': 3}, (1, 'no host can run 3 jobs')),
                ({'stranded': 3, 'unclaimable': {'echo': 1, 'a\nb': 2}},
                 (1, 'no host takes 2 jobs of a b, 1 job of echo'))):
            with self.subTest(found):
                self.assertEqual(self.problems(**found), [expected])


class OperatorCase(ServerCase):
    """A real front end, and a service whose jobs run when the test says so."""

    level = 2

    def setUp(self):
        super().setUp()
        for name, function in (('echo', lambda input: input), ('fail', fail), ('crash', crash),
                               ('bytes', lambda input: b'x' * input)):
            provideUtility(SimpleTask(function), name=name)
        self.url = 'http://{}:{}/'.format(*self.frontend.address)

    def service(self, function):
        with self.db.transaction() as connection:
            return function(connection.root()['/'])

    def remotetask(self, *arguments):
        return runCommand(arguments[0], '--url', self.url, *arguments[1:])

    def done(self, *arguments):
        code, output, errors = self.remotetask(*arguments)
        self.assertEqual((code, errors), (0, ''))
        return output

    def processWhen(self, condition=lambda: True):
        """Have jobs processed in a thread, from when a condition is true to the end of the test."""
        stopped = threading.Event()

        def process():
            while not stopped.wait(0.02):
                with contextlib.suppress(ConflictError):
                    if condition():
                        self.service(lambda service: service.process())
        thread = threading.Thread(target=process, daemon=True)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(stopped.set)

    def onTerminal(self, *arguments, columns=80, **more):
        """Return what a command writes on a terminal of so many columns, and its exit code."""
        terminal, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
        env = environment(**{'TERM': 'xterm', **more})
        for name in ('NO_COLOR', 'COLUMNS', 'LINES'):
            if name not in more:
                env.pop(name, None)
        process = start(*arguments, '--url', self.url, stdout=end, stderr=end, env=env)
        os.close(end)
        written = b''
        with open(terminal, 'rb', 0) as file, contextlib.suppress(OSError):         # at the end
            while data := file.read(65536):
                written += data
        return written.decode().replace('\r\n', '\n'), process.wait(PATIENCE)


class ListsTest(OperatorCase):

    def test_jobs_of_a_task_since(self):
        now = time.time()
        old = self.service(lambda service: service.add('echo', now=now - 7200))
        new, other = self.service(lambda service: (service.add('echo'), service.add('crash', 1)))
        found = json.loads(self.done('jobs', '--task', 'echo', '--json'))
        self.assertEqual([job['id'] for job in found['jobs']], [new, old])
        self.assertEqual(len(json.loads(self.done('jobs', '--json'))['jobs']), 3)
        lines = self.done('jobs', '--task', 'echo', '--since', '1h').splitlines()
        self.assertEqual((lines[0].split(), lines[1].split()[0], lines[2:]), (
            ['id', 'task', 'status', 'added', 'started', 'took', 'host'], str(new), [
                '', '1 job; the newest 10000 jobs of all tasks were looked at, "remotetask tasks --statistics" has the '
                    'numbers of each task']))
        for since, count in (('2001-01-01', 3), (time.strftime('%Y-%m-%dT%H:%M', time.gmtime(now - 600)), 2),
                             ('10m', 2), ('3h', 3)):
            self.assertEqual(len(json.loads(self.done('jobs', '--json', '--since', since))['jobs']), count, since)
        code, _, errors = self.remotetask('jobs', '--since', 'yesterday')
        self.assertEqual(code, 2)
        self.assertIn("'yesterday' is neither how long ago", errors)

    def test_on_terminals(self):
        def addAll(service):
            for task in ('echo', 'a rather long name of a task', 'fail'):
                provideUtility(SimpleTask(fail if task == 'fail' else len), name=task)
                service.add(task, 'x')
            service.process()
        self.service(addAll)
        for columns, more in ((40, {}), (80, {'NO_COLOR': '1'})):
            text, code = self.onTerminal('jobs', columns=columns, **more)
            self.assertEqual(code, 0)
            lines = [ANSI.sub('', line) for line in text.splitlines() if 'in all' not in line]
            self.assertLessEqual(max(map(len, lines)), columns, lines)
            self.assertEqual([colour in text for colour in ('\x1b[31merror', '\x1b[32mcompleted', '\x1b[')],
                             [not more] * 3)
        self.assertIn('a rather long name of a task', self.done('jobs'))
        self.assertNotIn('\x1b', self.done('jobs'))

    def test_a_job(self):
        policy = RetryPolicy(attempts=2, base=1, jitter=0)
        jobid = self.service(lambda service: service.add('crash', 0, retryPolicy=policy))
        self.service(lambda service: service.process(time.time()))
        text = self.done('job', str(jobid))
        for name in ('completed ', 'retryAt', 'task', 'failedAttempts', 'input'):
            self.assertRegex(text, f'(?m)^{name}')
        for name in ('schedule', 'key', 'output', 'host  '):
            self.assertNotRegex(text, f'(?m)^{name}')
        self.assertRegex(text, r'(?m)^failed +host +message\n[\d:]+ +- +ZeroDivisionError: division by zero$')
        self.assertEqual(json.loads(self.done('job', str(jobid), '--json'))['failedAttempts'], 1)

    def test_a_schedule_with_its_history(self):
        jobid = self.service(lambda service: service.addCronJob('fail', crontab='* * * * *', now=0))
        for now in (1, 60, 120):
            self.service(lambda service, now=now: service.process(now))
        text = self.done('job', str(jobid))
        self.assertRegex(text, r'(?m)^called for +job +status +started +took +error$')
        rows = re.findall(fr'(?m)^1970-01-01 +{jobid} +error +1970-01-01 +0.00s +no such film$', text)
        self.assertEqual(len(rows), 2)
        self.assertNotIn('eitherDay', text)
        self.assertRegex(text, r'(?m)^active +true$')

    def test_tracebacks(self):
        jobid = self.service(lambda service: service.add('crash', 0, retryPolicy=RetryPolicy(attempts=1)))
        self.service(lambda service: service.process())
        self.assertEqual(self.done('error', str(jobid)), 'ZeroDivisionError: division by zero\n')
        lines = self.done('error', str(jobid), '--traceback').splitlines()
        self.assertRegex(lines[0], r'^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d: ZeroDivisionError: division by zero$')
        self.assertEqual((lines[1], lines[-1]),
                         ('  Traceback (most recent call last):', '  ZeroDivisionError: division by zero'))
        self.assertIn('    return 1 / input', '\n'.join(lines))
        self.service(lambda service: setattr(service.jobs[jobid], 'errors', (Failure(0, 'no space', '', 'alpha'),)))
        self.assertEqual(self.done('error', str(jobid), '--traceback'), '1970-01-01 00:00:00 on alpha: no space\n')
        jobid = self.service(lambda service: service.add('echo'))
        self.assertEqual(self.done('error', str(jobid), '--traceback'), 'None\n')


class BulkTest(OperatorCase):
    """All jobs that fit a filter."""

    def answered(self, text, *arguments):
        """Return the exit code and the output of a command on a terminal where somebody types a text when asked."""
        terminal, end = pty.openpty()
        process = start(*arguments, '--url', self.url, stdin=end, stderr=end, env=environment(TERM='xterm'))
        os.close(end)
        with open(terminal, 'r+b', 0) as file:
            seen = b''
            while b'them all: ' not in seen:
                seen += file.read(65536)
            file.write(text.encode() + b'\n')
            written = process.communicate(timeout=PATIENCE)[0]
        return process.returncode, written

    def test_their_number_is_typed(self):
        self.service(lambda service: service.addMany([{'task': 'echo', 'input': 'x'}] * 101))
        for answer in '10', '101':
            with self.subTest(answer):
                code, written = self.answered(answer, 'cancel', '--filter', 'task:echo')
                self.assertEqual((code, bool(written)), (int(answer != '101'), answer == '101'))
        job = self.service(lambda service: service.jobs[int(written)])
        self.assertEqual(job.task, 'remotetask.bulk')
        self.assertEqual(job.input, {**job.input, 'verb': 'cancel', 'filter': 'task:echo', 'expected': 101})

    def test_they_are_counted_first(self):
        self.service(lambda service: service.addMany([{'task': 'echo', 'input': 'x'}] * 101))
        for arguments in ('retry', '--filter', ''), ('retry', '--filter', 'task:film'), ('remove', '--filter', ''):
            self.assertEqual(self.remotetask(*arguments), (0, '', f'0 jobs to {arguments[0]}\n'))
        self.assertEqual(self.remotetask('retry', '--filter', '', '--wait'), (0, '0\n', '0 jobs to retry\n'))
        with open(os.devnull) as nothing, mock.patch.object(sys, 'stdin', nothing):
            code, output, errors = self.remotetask('cancel', '--filter', '')
        self.assertEqual((code, output), (2, ''))
        self.assertIn('give --yes: nobody can be asked', errors)
        code, output, errors = self.remotetask('cancel', '--filter', '', '--yes')
        self.assertEqual((code, errors), (0, '101 jobs to cancel\n'))
        self.assertEqual(self.service(lambda service: service.jobs[int(output)].task), 'remotetask.bulk')

    def test_a_host_changes_them(self):
        install(self.db)
        with self.db.transaction() as connection:
            service = connection.root()['/'] = connection.root()['Application']['TaskService']
            jobids = service.addMany([{'task': 'fail', 'retryPolicy': RetryPolicy(attempts=1)}] * 150)
            service.process()
        host = MultiProcessor(self.db, ('TaskService',), name='p-1', waitTime=0.05, maxThreads=2)
        host.start()
        self.addCleanup(host.stop, PATIENCE)
        found = self.remotetask('retry', '--filter', 'task:fail', '--yes', '--wait')
        self.assertEqual(found[:2], (0, '150\n'), found)
        with contextlib.closing(self.db.open()) as connection:
            waitForJobs(connection.root()['/'], jobids, 30)
            connection.transaction_manager.abort()
        found = self.remotetask('remove', '--filter', 'task:fail', '--yes', '--wait')
        self.assertEqual(found[:2], (0, '150\n'), found)
        self.assertEqual(self.service(lambda service: len(service.getJobs(None, 0, 200, 'fail'))), 0)

    def test_what_is_wrong(self):
        for arguments, reason in (
                (('cancel',), 'give an ID, or --filter'), (('cancel', '1', '--filter', ''), 'give an ID, or --filter'),
                (('retry', '--all', '--filter', ''), 'or --filter'), (('remove',), 'give --filter'),
                (('retry', '--all', '--yes'), 'need --filter'), (('cancel', '1', '--wait'), 'need --filter'),
                (('cancel', '--filter', '', '--timeout', '1s'), '--timeout needs --wait'),
                (('cancel', '--filter', 'state:x'), "there is no 'state:'")):
            with self.subTest(arguments):
                code, output, errors = self.remotetask(*arguments)
                self.assertEqual((code, output), (2, ''), errors)
                self.assertIn(reason, errors)


class LargeTest(OperatorCase):

    def setUp(self):
        super().setUp()
        self.processWhen()

    def test_on_a_terminal(self):
        text, code = self.onTerminal('add', 'bytes', '300000', '--wait')
        jobid = re.match(r'job (\d+)\n', text)[1]
        self.assertEqual(code, 0)
        self.assertIn(f'(300000 bytes; remotetask result {jobid} --output FILE)\n', text)
        self.assertLess(len(text), 5000)
        self.assertIn('(300000 bytes;', self.onTerminal('result', jobid, columns=200)[0])
        jobid = self.done('add', 'echo', json.dumps('y' * 5000)).strip()
        self.remotetask('add', 'echo', '--wait')
        self.assertEqual(self.onTerminal('result', jobid)[0],
                         f'(5002 characters; remotetask result {jobid} --output FILE)\n')
        self.assertIn(f'(5000 characters; remotetask job {jobid} --json)', self.onTerminal('job', jobid)[0])
        self.assertEqual(len(self.done('result', jobid)), 5003)

    def test_into_a_file(self):
        path = os.path.join(self.storage.getName() + '.result')
        code, text, errors = self.remotetask('add', 'bytes', '300000', '--wait', '--output', path)
        self.assertEqual((code, text), (0, ''))
        self.assertRegex(errors, r'\Ajob \d+\n\Z')
        with open(path, 'rb') as file:
            self.assertEqual(file.read(), b'x' * 300000)
        code, text, errors = self.remotetask('add', 'fail', '--wait', '--output', path)
        self.assertEqual((code, text), (4, ''))
        self.assertIn('failed: no such film', errors)
        self.assertEqual(os.path.getsize(path), 300000)
        code, text, errors = self.remotetask('add', 'echo', '--output', path)
        self.assertEqual((code, errors.splitlines()[0][:35]), (2, 'remotetask: --output needs --wait ('))


class NobodyTest(OperatorCase):

    def setUp(self):
        super().setUp()
        self.addCleanup(setattr, output, 'NOBODY', output.NOBODY)
        output.NOBODY = 0.05

    def test_nobody_processes(self):
        code, _, errors = self.remotetask('add', 'echo', '--wait', '--timeout', '300ms')
        self.assertEqual(code, 1)
        self.assertRegex(errors, r'(?s)\Ajob \d+\n.*no host is processing the service: start a processor; '
                                 r'the job waits\n.*is still queued after 0.3 seconds\n\Z')

    def test_a_job_that_ends_later(self):
        said, errors = io.StringIO(), io.StringIO()
        self.processWhen(lambda: 'no host' in errors.getvalue())
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            code = main.run(['add', '--url', self.url, 'echo', '1', '--wait'])
        self.assertEqual((code, said.getvalue()), (0, '1\n'))
        self.assertEqual(errors.getvalue().count('no host is processing'), 1)

    def test_it_is_not_said_of_a_quick_one(self):
        output.NOBODY = PATIENCE
        self.processWhen()
        self.assertRegex(self.remotetask('add', 'echo', '1', '--wait')[2], r'\Ajob \d+\n\Z')


class AddManyTest(OperatorCase):

    def test_the_line_is_named(self):
        path = self.storage.getName() + '.lines'
        good = '{"task": "echo"}\n'
        for line, message in (('{"task": "ehco"}', "line 3: task 'ehco' is not registered"),
                              ('{"task": "echo", "nonsense": 1}', 'line 3: there is no member'),
                              ('{"task": "echo", "timeLimit": -1}', 'line 3: timeLimit'),
                              ('{"task": "echo", "key": ""}', 'line 3: key')):
            with self.subTest(line):
                with open(path, 'w') as file:
                    file.write(good * 2 + line + '\n' + good)
                code, text, errors = self.remotetask('add-many', path)
                self.assertEqual((code, text), (2, ''), errors)
                self.assertIn(message, errors)


class SchedulesTest(OperatorCase):

    def test_story(self):
        jobid = self.done('schedule', 'fail', '--crontab', '0 8 * * mon-fri', '--time-zone', 'Europe/Berlin').strip()
        other = self.done('schedule', 'echo', '--delay', '90s', '--new-jobs').strip()
        self.service(lambda service: service.process())
        rows = {line.split()[0]: line for line in self.done('schedules').splitlines()[1:]}
        self.assertRegex(rows[jobid], r'fail +0 8 \* \* mon-fri Europe/Berlin +[\d:-]+( [\d:]+)? +- +- +0 +active$')
        self.assertRegex(rows[other], r'echo +every 1m30s ')
        self.assertEqual(self.done('schedules', '--task', 'echo').count('\n'), 2)
        self.assertEqual(self.done('run-now', jobid), jobid + '\n')
        code, _, errors = self.remotetask('run-now', jobid)
        self.assertEqual((code, 'queued or running already' in errors), (1, True))
        self.service(lambda service: service.process())
        self.service(lambda service: service.process())
        self.assertRegex(self.done('schedules', '--task', 'fail'), r' error +1 +active\n')
        code, text, errors = self.remotetask('result', jobid)
        self.assertEqual((code, text, errors), (4, '', f'remotetask: job {jobid} failed: no such film\n'))
        found, = json.loads(self.done('schedules', '--task', 'fail', '--json'))['schedules']
        self.assertEqual((found['outcome'], found['failures'], found['error']), ('error', 1, 'no such\x9bfilm'))
        self.assertRegex(self.done('jobs', '--status', 'cronjob'), rf'(?m)^{jobid} +fail +cronjob +.* error +1$')
        self.assertEqual(self.done('schedule', '--pause', jobid), jobid + '\n')
        self.service(lambda service: service.process())
        self.assertRegex(self.done('schedules', '--task', 'fail'), r' Europe/Berlin +- .*paused\n')
        self.assertEqual(self.done('schedule', '--resume', jobid), jobid + '\n')
        changes = '--crontab', '30 9 * * *', '--misfire', '4'
        self.assertEqual(self.done('schedule', '--update', jobid, *changes), jobid + '\n')
        job = json.loads(self.done('job', jobid, '--json'))
        self.assertEqual([job[name] for name in ('crontab', 'timeZone', 'misfire', 'active')],
                         ['30 9 * * *', 'Europe/Berlin', 4, True])
        self.assertEqual(self.done('schedule', '--update', other, '--no-new-jobs'), other + '\n')
        self.assertEqual(self.service(lambda service: service.getStatus(int(other))), 'delayed')

    def test_refused(self):
        jobid = self.done('schedule', 'echo', '--crontab', '* * * * *').strip()
        for arguments, message in ((('--update', jobid), '--update needs what is to be changed'),
                                   (('echo', '--update', jobid), 'either a TASK, or one of'),
                                   (('--pause', jobid, '--resume', jobid), 'either a TASK, or one of'),
                                   (('--pause', jobid, '--delay', '1s'), '--pause goes with no other option'),
                                   (('--delay', '1s'), "Missing argument 'TASK'"),
                                   (('echo',), 'either --crontab or --delay'),
                                   (('--update', jobid, '--crontab', 'x'), 'crontab'),
                                   (('--pause', 'x'), "'x' is not a job id")):
            with self.subTest(arguments):
                code, text, errors = self.remotetask('schedule', *arguments)
                self.assertEqual((code, text), (2, ''), errors)
                self.assertIn(message, errors)

    def test_how_schedules_are_described(self):
        schedule = {'delay': None, 'newJobs': False, 'crontab': None, 'timeZone': None, 'minute': [0, 30], 'hour': [],
                    'dayOfMonth': [], 'month': [1], 'dayOfWeek': [0, 6]}
        for changes, text in (({}, '0,30 * * 1 mon,sun'), ({'timeZone': 'UTC'}, '0,30 * * 1 mon,sun'),
                              ({'crontab': '0 2 * * mon', 'timeZone': 'Europe/Berlin'}, '0 2 * * mon Europe/Berlin'),
                              ({'delay': 90.0}, 'once after 1m30s'), ({'delay': 5.0, 'newJobs': True}, 'every 5.00s')):
            self.assertEqual(schedules.describe({**schedule, **changes}), text)


class CheckTest(OperatorCase):

    def test_levels(self):
        code, text, errors = self.remotetask('check')
        self.assertEqual((code, errors), (2, ''))
        self.assertRegex(text, r'\ACRITICAL - no host processes the service \| hosts=0 waiting=0 running=0 errors=0 ')
        self.service(lambda service: service.pause())
        self.assertEqual(self.remotetask('check')[:2], (
            1, 'WARNING - the service is paused | hosts=0 waiting=0 running=0 errors=0 failures=0 retrying=0 '
               'throughput=0.00\n'))
        self.service(lambda service: service.add('fail') and service.process())
        code, text, _ = self.remotetask('check')
        self.assertEqual((code, text.partition(' |')[0]), (1, 'WARNING - the service is paused; 1 failure'))
        self.assertEqual(self.remotetask('check', '--failures', '1,1')[0], 2)
        self.assertTrue(self.remotetask('check', '--failures', '-')[1].startswith('WARNING - the service is paused |'))
        self.assertTrue(self.remotetask('check', '--window', '1ms')[1].startswith('WARNING - the service is paused |'))

    def test_unknown(self):
        for arguments, message in ((('--failures', 'x'), "'x' is not a number"),
                                   (('--waiting', '5m,1m'), 'is less than'),
                                   (('--waiting', '1,2,3'), 'more than two parts'), (('--nonsense',), '--nonsense'),
                                   (('--url', 'nonsense'), 'is not a URL')):
            with self.subTest(arguments):
                code, text, errors = self.remotetask('check', *arguments)
                self.assertEqual((code, text), (3, ''))
                self.assertIn(message, errors)
        code, text, errors = self.remotetask('check', '--url', self.url + 'nowhere')
        self.assertEqual((code, errors), (3, ''))
        self.assertRegex(text, r'\AUNKNOWN - .*nowhere')
        code, text, errors = self.remotetask('check', '--url', 'http://nowhere.invalid/')
        self.assertEqual((code, errors), (2, ''))
        self.assertRegex(text, r'\ACRITICAL - .*cannot connect')


TASKS = '''
import logging, os, pathlib, time

HERE = pathlib.Path(__file__).parent

def fail(input):
    raise OSError('no')

def where(input):
    print('said')
    return os.getpid()

def wait(input):
    (HERE / 'begun').write_text('x')
    while not (HERE / 'go').exists():
        time.sleep(0.02)
    return input
'''

SITE = '''
<configure xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">
<include package="lovely.remotetask" />
<remotetask:task name="fail" handler="mytasks.fail" attempts="1" />
<remotetask:task name="where" handler="mytasks.where" />
<remotetask:task name="apart" handler="mytasks.where" isolation="process" />
<remotetask:task name="wait" handler="mytasks.wait" />
<remotetask:task name="wait apart" handler="mytasks.wait" isolation="process" />
</configure>
'''


class ProcessesTest(ServerTestCase):
    """Real servers, and commands in processes of their own."""

    level = 2

    def setUp(self):
        super().setUp()
        self.write('mytasks.py', TASKS)
        self.write('site.zcml', SITE)
        self.text = 'site-definition site.zcml\n' + self.zeo()
        self.frontend = self.start('frontend', self.text, 'frontend.conf')
        self.untilReady(self.frontend)

    def run_(self, *arguments, input=''):
        """Run a command of the configuration in a process of its own; return its exit code and outputs."""
        path = self.write('command.conf', f'<eventlog>\n<logfile>\npath {self.directory}/command.log\n</logfile>\n'
                                          f'</eventlog>\n{self.text}')
        process = start('-C', path, *arguments, cwd=self.directory, stdin=-1)
        output, errors = process.communicate(input, timeout=PATIENCE)
        return process.returncode, output, errors

    def added(self, *arguments):
        code, output, errors = self.remotetask('add', *arguments)
        self.assertEqual((code, errors), (0, ''))
        return output.strip()

    def job(self, jobid):
        return json.loads(self.remotetask('job', jobid, '--json')[1])

    def test_run_here(self):
        jobid = self.added('echo', '{"a": [1]}')
        self.assertEqual(self.run_('run-here', jobid), (0, '{"a": [1]}\n', ''))
        job = self.job(jobid)
        self.assertEqual((job['status'], job['host'].endswith('-by-hand-1')), ('completed', True))
        self.assertEqual(self.run_('run-here', jobid)[::2],
                         (1, f'remotetask: job {jobid} is completed: cannot run it\n'))
        self.assertEqual(self.run_('run-here', '7')[::2], (1, 'remotetask: there is no job 7\n'))
        later = self.added('echo', '"later"', '--later')
        self.assertEqual(self.run_('run-here', later), (0, '"later"\n', ''))
        failing = self.added('fail')
        for _ in range(2):                                  # the second time it is one that has ended
            self.assertEqual(self.run_('run-here', failing),
                             (4, '', f'remotetask: job {failing} failed: OSError: no\n'))
        self.assertEqual((self.job(failing)['status'], len(self.job(failing)['errors'])), ('error', 2))
        schedule = self.remotetask('schedule', 'echo', '"cron"', '--crontab', '0 8 * * *')[1].strip()
        self.assertEqual(self.run_('run-here', schedule), (0, '"cron"\n', ''))
        self.assertEqual([run['status'] for run in self.job(schedule)['history']], ['completed'])
        adding = self.remotetask('schedule', 'echo', '"new"', '--delay', '1h', '--new-jobs')[1].strip()
        self.assertEqual(self.run_('run-here', adding), (0, '"new"\n', ''))
        self.assertEqual(self.job(str(self.job(adding)['lastJob']))['status'], 'completed')

    def test_debugger(self):
        jobid = self.added('fail')
        code, output, errors = self.run_('run-here', jobid, '--pdb', input='p "in " + "fail"\nup\nq\n')
        self.assertEqual(code, 4)
        self.assertIn("'in fail'", output)
        self.assertIn('Traceback (most recent call last)', errors)
        isolated = self.added('apart')
        code, output, _ = self.run_('run-here', isolated, '--pdb')
        self.assertEqual((code, output.splitlines()[0]), (0, 'said'))           # in the process itself
        isolated = self.added('apart')
        code, output, _ = self.run_('run-here', isolated)
        self.assertEqual((code, len(output.splitlines())), (0, 1))
        self.awaitFile('command.log', f'INFO lovely.remotetask job {isolated} (apart, request ')
        self.awaitFile('command.log', '): said')

    def test_it_is_killed(self):
        jobid = self.added('wait', '1')
        path = self.write('hand.conf', self.text)
        process = start('-C', path, 'run-here', jobid, cwd=self.directory)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.stdout.close)
        self.awaitFile('begun')
        self.awaitStatus(jobid, 'processing')           # the front end may hear of it a little later
        job = self.job(jobid)
        self.assertEqual((job['status'], job['host'].endswith('-by-hand-1'), job['started'] > job['created']),
                         ('processing', True, True))
        self.assertEqual(self.run_('run-here', jobid)[::2],
                         (1, f'remotetask: job {jobid} is being run: cannot run it\n'))
        process.kill()
        process.wait(PATIENCE)
        os.remove(os.path.join(self.directory, 'begun'))
        processor = self.start('processor', self.text, 'processor.conf')
        self.untilReady(processor)
        self.awaitFile('begun')                             # the host has rescued it
        self.write('go', '')
        self.awaitStatus(jobid, 'completed')
        self.stop(processor)

    def test_it_is_cancelled(self):
        jobid = self.added('apart')
        self.remotetask('cancel', jobid)
        self.assertEqual(self.run_('run-here', jobid)[::2],
                         (1, f'remotetask: job {jobid} is cancelled: cannot run it\n'))
        jobid = self.added('wait apart')
        path = self.write('hand.conf', self.text)
        process = start('-C', path, 'run-here', jobid, cwd=self.directory)
        self.awaitFile('begun')
        self.assertEqual(self.remotetask('cancel', jobid), (0, '', ''))
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, output), (4, ''))
        self.assertTrue(errors.endswith(f'remotetask: job {jobid} is cancelled: its outcome is not wanted\n'), errors)

    def test_until_empty(self):
        jobids = [self.added('echo', str(number)) for number in range(20)]
        late = self.remotetask('schedule', 'echo', '--delay', '1h')[1].strip()
        code, output, errors = self.run_('processor', '--until-empty')
        self.assertEqual((code, errors, output.splitlines()[-2:]), (0, '', ['ready', 'stopped; 0 jobs given back']))
        self.assertEqual({self.job(jobid)['status'] for jobid in jobids}, {'completed'})
        self.assertEqual(self.job(late)['status'], 'delayed')
        self.added('fail')
        code, _, errors = self.run_('processor', '--until-empty')
        self.assertEqual((code, errors), (1, 'remotetask: 1 job failed\n'))
        self.assertEqual(self.run_('processor', '--until-empty')[0], 0)

    def test_what_is_given_back(self):
        jobid = self.added('wait')
        text = self.text + '<processor>\ngrace-period 100ms\n</processor>\n'
        processor = self.start('processor', text, 'processor.conf')
        self.untilReady(processor)
        self.awaitFile('begun')
        processor.terminate()
        output, errors = processor.communicate(timeout=PATIENCE)
        self.assertEqual((processor.returncode, output, errors), (0, 'stopped; 1 job given back\n', ''))
        self.assertEqual(self.job(jobid)['status'], 'queued')
        self.write('go', '')

    def test_check(self):
        processor = self.start('processor', self.text, 'processor.conf')
        self.untilReady(processor)
        code, output, errors = self.remotetask('check')
        self.assertEqual((code, errors), (0, ''))
        self.assertRegex(output, r'\AOK - 1 host, 0 waiting, 0 running, 0 failures in 1h00m \| hosts=1 ')
        self.stop(processor)

    def test_logs_of_failures(self):
        processor = self.start('processor', self.text, 'processor.conf')
        self.untilReady(processor)
        jobid = self.added('fail')
        self.awaitStatus(jobid, 'error')
        self.stop(processor)
        with open(os.path.join(self.directory, 'processor.conf.log')) as file:
            lines = file.read().splitlines()
        first = next(number for number, line in enumerate(lines) if ' ERROR ' in line)
        self.assertRegex(lines[first],
                         rf' ERROR lovely.remotetask job {jobid} \(fail, request \w+\) failed: OSError: no$')
        self.assertEqual(lines[first + 1], 'Traceback (most recent call last):')
        self.assertNotIn('ZODB.blob', '\n'.join(lines))


if __name__ == '__main__':
    unittest.main()
