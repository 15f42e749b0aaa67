"""What servers and programs inherit, and the signals that they are sent; with real processes."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import fcntl
import io
import itertools
import logging
import os
import pathlib
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest

from lovely.remotetask.config import settings as config
from lovely.remotetask.testing.ports import freePort
from test_cli import PATIENCE
from test_cli import ServerTestCase
from test_cli import environment
from test_cli import start
from waits import waitUntil


SITE = '''<configure xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">
{}
</configure>
'''


class ProcessTestCase(ServerTestCase):

    def site(self, *directives):
        """Write a site definition and return the line of the configuration that names it."""
        return 'site-definition {}\n'.format(self.write('site.zcml', SITE.format('\n'.join(directives))))

    def log(self, name='remotetask.conf.log'):
        return pathlib.Path(self.directory, name).read_text()

    def launch(self, command, text='', name='remotetask.conf', prefix=(), **options):
        """Start a server as `start`, with other options of `subprocess.Popen`, and after other words."""
        path = self.write(name, f'<eventlog>\n<logfile>\npath {self.directory}/{name}.log\n</logfile>\n</eventlog>\n'
                                f'<frontend>\naddress 0\n</frontend>\n{text}')
        options = {'cwd': self.directory, 'env': environment(PYTHONUNBUFFERED=''), 'stdout': subprocess.PIPE,
                   'stderr': subprocess.PIPE, **options}
        process = subprocess.Popen([*prefix, sys.executable, '-m', 'lovely.remotetask.cli.main', '-C', path, command],
                                   text=True, **options)
        for stream in process.stdout, process.stderr:
            if stream is not None:
                self.addCleanup(stream.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def run_(self, task, input='null'):
        """Add a job, and return its result's JSON, or the line that says why there is none."""
        code, output, errors = self.remotetask('add', task, input, '--wait', '--timeout', '60s')
        return output if code == 0 else errors


class SignalsTest(ProcessTestCase):

    level = 2

    def assertReopens(self, process, name, number):
        log = pathlib.Path(self.directory, name)
        log.rename(log.with_suffix('.moved'))
        process.send_signal(number)
        self.awaitFile(name, 'reopened the log file')

    def test_log_files_are_reopened(self):
        database = self.zeo()
        for command in 'frontend', 'processor', 'scheduler':
            with self.subTest(command):
                process = self.start(command, database, f'{command}.conf')
                self.untilReady(process)
                for number in signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2:
                    self.assertReopens(process, f'{command}.conf.log', number)
                self.stop(process)
                self.assertIn('stopping', self.log(f'{command}.conf.log'))

    def test_signals_cost_no_job(self):
        # What was started before the signals ends after them, in one run.
        self.write('blocking.py', 'def block(input):\n    open("running", "a").write("x")\n'
                                  '    return open("release").read()\n')
        os.mkfifo(os.path.join(self.directory, 'release'))
        process = self.start('serve', self.site('<remotetask:task name="block" handler="blocking.block"/>'))
        self.untilReady(process)
        jobid = self.remotetask('add', 'block')[1].strip()
        self.awaitFile('running', 'x')
        for number in signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGHUP:
            self.assertReopens(process, 'remotetask.conf.log', signal.SIGHUP)
            process.send_signal(number)
        with open(os.path.join(self.directory, 'release'), 'w') as release:
            release.write('released')
        self.assertEqual(waitUntil(lambda: self.remotetask('result', jobid)[1], 'a result'), '"released"\n')
        self.stop(process)
        self.assertEqual(pathlib.Path(self.directory, 'running').read_text(), 'x')

    def test_stacks(self):
        process = self.start('serve')
        self.untilReady(process)
        process.send_signal(signal.SIGQUIT)
        # Whether the main thread waits yet or not.
        self.assertTrue(any(re.search('cli/local.py", line [0-9]+, in _run$', line) for line in
                            iter(process.stderr.readline, '')))
        # Straight after it: what interrupts the writing of the stacks is not forgotten.
        process.send_signal(signal.SIGQUIT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0)

    def test_stacks_of_busy_threads(self):
        # What reads the frames of running threads without the interpreter's lock crashes after some hundred signals.
        self.write('spinning.py', 'import os\n'
                                  'def deep(depth):\n    return depth and deep(depth - 1)\n'
                                  'def spin(input):\n    while not os.path.exists("release"):\n        deep(30)\n'
                                  '    return 1\n')
        process = self.start('serve', self.site('<remotetask:task name="spin" handler="spinning.spin"/>'))
        self.untilReady(process)
        jobids = [self.remotetask('add', 'spin')[1].strip() for i in range(4)]
        for i in range(1000):
            process.send_signal(signal.SIGQUIT)
            self.assertTrue(any('local.py"' in line and 'in _run' in line for line in
                                iter(process.stderr.readline, '')), process.poll())
        self.write('release', '')
        for jobid in jobids:
            self.assertEqual(waitUntil(lambda: self.remotetask('result', jobid)[1], 'a result'), '1\n')
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0)

    def test_the_main_thread_waits_for_a_lock(self):
        # Signals reach a process in whichever thread takes them; no handler runs in a main thread that waits.
        program = ('import signal, threading\n'
                   'from lovely.remotetask.cli.signals import Signals\n'
                   'Signals()\n'
                   'signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGQUIT, signal.SIGTERM))\n'
                   'print("ready", flush=True)\n'
                   'threading.Event().wait()\n')
        process = subprocess.Popen([sys.executable, '-c', program], env=environment(), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), 'ready\n')
        process.send_signal(signal.SIGQUIT)
        self.assertRegex(process.stderr.readline(), r'\AThread .* [(]most recent call last[)]:\n\Z')
        process.send_signal(signal.SIGTERM)             # its start is not over: it gets some seconds for a step of that
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_second_request(self):
        self.write('blocking.py', 'def block(input):\n    open("running", "a").write("x")\n'
                                  '    return open("release").read()\n')
        os.mkfifo(os.path.join(self.directory, 'release'))
        process = self.start('serve', self.site('<remotetask:task name="block" handler="blocking.block"/>')
                             + '<processor>\ngrace-period 1h\n</processor>\n')
        self.untilReady(process)
        self.remotetask('add', 'block')
        self.awaitFile('running', 'x')
        process.send_signal(signal.SIGTERM)
        self.awaitFile('remotetask.conf.log', 'stopping')
        # These are no request to stop: systemd sends SIGHUP after SIGTERM.
        for number in signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2:
            self.assertReopens(process, 'remotetask.conf.log', number)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 143)


    def test_the_start_is_not_interrupted(self):
        # But ends between two steps: one may be in the middle of a commit.
        self.write('impatient.py', 'import os\nos.kill(os.getpid(), 15)\nopen("finished", "w").close()\n'
                                   'from lovely.remotetask.demo import echo\n')
        process = self.start('serve', self.site('<remotetask:task name="echo" handler="impatient.echo"/>'))
        output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, errors), (0, ''))
        self.assertNotIn('listening', output)
        self.assertTrue(os.path.exists(os.path.join(self.directory, 'finished')))
        self.assertIn('stopping', self.log())


class TerminalTest(ProcessTestCase):
    """A terminal that is closed; each process has one as its controlling terminal."""

    level = 2

    def launchOnTerminal(self, *ignored, prefix=()):
        """Start a server whose session has a terminal of its own; return the process and our end of the terminal."""
        ours, theirs = pty.openpty()

        def prepare():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)        # the tests may have been started by nohup
            for number in ignored:
                signal.signal(number, signal.SIG_IGN)

        with open(theirs, 'rb'):
            process = self.launch('serve', prefix=prefix, stdin=theirs, stdout=theirs, stderr=theirs,
                                  preexec_fn=prepare)
        terminal = open(ours, 'rb', 0)
        self.addCleanup(terminal.close)
        printed = b''
        while b'ready' not in printed:
            printed += terminal.read(65536)
        self.url = re.search(rb'listening on (\S+)', printed)[1].decode()
        return process, terminal

    def test_closed(self):
        process, terminal = self.launchOnTerminal()
        terminal.close()
        self.assertEqual(process.wait(PATIENCE), 0)
        self.assertIn('stopping', self.log())

    def test_closed_after_nohup(self):
        process, terminal = self.launchOnTerminal(signal.SIGHUP)
        terminal.close()
        self.awaitFile('remotetask.conf.log', 'reopened the log file')
        self.assertEqual(self.run_('echo', '"alive"'), '"alive"\n')
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_still_there(self):
        process, terminal = self.launchOnTerminal()
        process.send_signal(signal.SIGHUP)
        self.awaitFile('remotetask.conf.log', 'reopened the log file')
        self.assertEqual(self.run_('echo', '"alive"'), '"alive"\n')
        self.assertIsNone(process.poll())
        self.assertNotIn('stopping', self.log())

    def test_the_shell_is_killed(self):
        # The signal comes before the terminal has gone.
        shell, terminal = self.launchOnTerminal(prefix=('/bin/sh', '-c', '"$@"; true', 'sh'))
        server = int(pathlib.Path(f'/proc/{shell.pid}/task/{shell.pid}/children').read_text())
        shell.kill()
        shell.wait()
        self.awaitFile('remotetask.conf.log', 'stopping')
        waitUntil(lambda: not os.path.exists(f'/proc/{server}'), 'the end of the server')


class DescriptorsTest(ProcessTestCase):

    level = 2

    def test_they_are_open_before_libraries_are_imported(self):
        """What a library opens when it is imported would be one of them otherwise."""
        code = ('import os, sys\n'
                'os.close(0)\n'
                'class Finder:\n'
                '    def find_spec(name, path=None, target=None):\n'
                '        if name.partition(".")[0] not in {*sys.stdlib_module_names, "lovely"} or name == "ctypes":\n'
                '            os.fstat(0)\n'
                '            seen.append(name)\n'
                'seen = []\n'
                'sys.meta_path.insert(0, Finder)\n'
                '__import__(sys.argv[1])\n'
                'assert seen\n')
        for module in 'lovely.remotetask.cli.main', 'lovely.remotetask.runzeo':
            with self.subTest(module=module):
                subprocess.run([sys.executable, '-c', code, module], check=True)

    def test_closed_descriptors(self):
        for closed in (0, 1, 2), (2,), (0,), (1, 2):
            with self.subTest(closed=closed):
                process = self.launch('serve', stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                      preexec_fn=lambda: list(map(os.close, closed)))
                self.awaitFile('var/Data.fs.lock')
                self.assertGreater(len(os.listdir(f'/proc/{process.pid}/fd')), 3)
                for number in closed:
                    self.assertEqual(os.readlink(f'/proc/{process.pid}/fd/{number}'), os.devnull)
                process.send_signal(signal.SIGTERM)
                self.assertEqual(process.wait(PATIENCE), 0)
                shutil.rmtree(os.path.join(self.directory, 'var'))

    def test_what_nobody_reads(self):
        # As with `remotetask serve | head -1`.
        process = self.launch('serve')
        process.stdout.readline()
        process.stdout.close()
        process.stderr.close()
        self.awaitFile('remotetask.conf.log', 'nothing more is printed')
        process.send_signal(signal.SIGUSR2)
        self.awaitFile('remotetask.conf.log', 'reopened the log file')
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_clients(self):
        for what, words, options, code, errors in (
                ('closed', ['--help'], {'preexec_fn': lambda: os.close(1)}, 0, ''),
                ('closed, with a mistake', ['nonsense'], {'preexec_fn': lambda: os.close(2)}, 2, ''),
                ('full', ['--help'], {'stdout': open('/dev/full', 'w')}, 1,
                 'remotetask: unexpected OSError: [Errno 28] No space left on device\n'),
                ('full, with a mistake', ['nonsense'], {'stderr': open('/dev/full', 'w')}, 2, None),
                ('all closed', ['nonsense'], {'preexec_fn': lambda: os.closerange(0, 3)}, 2, '')):
            with self.subTest(what):
                process = subprocess.run([sys.executable, '-m', 'lovely.remotetask.cli.main', *words],
                                         env=environment(PYTHONUNBUFFERED=''), text=True, timeout=PATIENCE,
                                         **{'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options})
                self.assertEqual((process.returncode, process.stderr), (code, errors))
                for file in options.values():
                    if isinstance(file, io.IOBase):
                        file.close()

    def test_an_application_with_a_file_in_their_place(self):
        # An application that did not open them has its database there; what a child process says is not for that.
        code = ('import os, sys\n'
                'os.open(os.devnull, os.O_RDONLY)\n'
                'database = open(sys.argv[1], "wb+", buffering=0)\n'
                'assert database.fileno() == 1\n'
                'from lovely.remotetask.execution.child import runInChild\n'
                'from lovely.remotetask.task import SimpleTask\n'
                'import test_process\n'
                'assert runInChild(SimpleTask(test_process.shout), 1, None) == 17\n')
        path = os.path.join(self.directory, 'database')
        subprocess.run([sys.executable, '-c', code, path], env=environment(), check=True, timeout=PATIENCE,
                       preexec_fn=lambda: os.closerange(0, 3))
        self.assertEqual(pathlib.Path(path).read_bytes(), b'')


def shout(input):
    """Write to the standard outputs, as C libraries and the interpreter do."""
    for descriptor in 1, 2:
        os.write(descriptor, b'no transaction')
    return 17


class InheritanceTest(ProcessTestCase):
    """What the programs of tasks get."""

    level = 2

    def setUp(self):
        super().setUp()
        self.programs = self.site(
            '<remotetask:command name="status" command="cat /proc/self/status"/>',
            '<remotetask:command name="files" command="ls -l /proc/self/fd"/>',
            '<remotetask:command name="limit" command="sh -c \'ulimit -n\'"/>',
            '<remotetask:command name="fail" command="sh -c \'exit 3\'"/>',
            '<remotetask:task name="child" handler="test_process.status" isolation="process"/>')

    def test_nothing_unusual(self):
        everything = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}

        def prepare():
            os.umask(0o002)
            for number in everything:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, everything)
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

        process = self.launch('serve', self.programs, preexec_fn=prepare)
        self.untilReady(process)
        for task in 'status', 'child':
            said = dict(line.split(':', 1) for line in self.run_(task).split(r'\n') if ':' in line)
            said = {name: text.replace(r'\t', '') for name, text in said.items()}
            self.assertEqual(said['Umask'], '0002')
            self.assertEqual(said['SigBlk'], '0' * 16)
            # The C library has 32 and 33 for itself, and Python ignores these.
            usual = {32, 33} if task == 'status' else {32, 33, signal.SIGPIPE, signal.SIGXFSZ}
            self.assertLessEqual({number + 1 for number in range(64) if int(said['SigIgn'], 16) >> number & 1}, usual)
        for what in 'database', 'socket', 'rt.log', 'Data.fs':
            self.assertNotIn(what, self.run_('files'))
        self.assertEqual(re.findall(r'(\d+) -> ', self.run_('files')), ['0', '1', '2', '3'])        # 3: the directory
        self.assertIn(r'"256\n"', self.run_('limit'))
        self.assertGreater(resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0], 256)
        self.assertIn('exited with status 3', self.run_('fail'))
        self.stop(process)

    def test_an_application_with_other_signals(self):
        # In an application they are its own affair; but no failure may pass for a success.
        code = ('import signal\n'
                'signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n'
                'signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n'
                'from lovely.remotetask.execution.command import CommandTask\n'
                'from lovely.remotetask.errors import TaskError\n'
                'print(CommandTask("grep SigBlk /proc/self/status")(None, 1, {})["output"], end="")\n'
                'try:\n'
                '    CommandTask("sh -c \'exit 3\'")(None, 1, {})\n'
                'except TaskError as error:\n'
                '    print(error)\n'
                'try:\n'
                '    CommandTask("sh -c \'kill -9 $PPID; sleep 60\'")(None, 1, {})\n'
                'except TaskError as error:\n'
                '    print(error)\n')
        output = subprocess.run([sys.executable, '-c', code], env=environment(), check=True, text=True,
                                stdout=subprocess.PIPE, timeout=PATIENCE).stdout
        self.assertEqual(output, 'SigBlk:\t0000000000000000\nsh exited with status 3\nsh was killed by SIGKILL\n')

    def test_what_is_missing(self):
        process = self.start('serve', self.site(
            '<remotetask:command name="program" command="no-such-program"/>',
            '<remotetask:command name="fail" command="sh -c \'exit 3\'"/>',
            '<remotetask:command name="directory" command="ls" directory="nowhere"/>'))
        self.untilReady(process)
        lines = pathlib.Path(self.directory, 'site.zcml').read_text().splitlines()
        first, = (number for number, line in enumerate(lines, 1) if 'no-such-program' in line)
        wait, site = 'wait for another host, this one lacks the', f'{self.directory}/site.zcml'
        self.assertEqual(re.findall('WARNING .* (.*, line [0-9]+: .*)', self.log()), [
            f"{site}, line {first + 2}: jobs of the task 'directory' {wait} directory '{self.directory}/nowhere' of ls",
            f"{site}, line {first}: jobs of the task 'program' {wait} program 'no-such-program' (it is not on the "
            "PATH, or not executable)"])
        self.assertIn('exited with status 3', self.run_('fail'))
        self.stop(process)


def status(input):
    """Return what the system says of this process."""
    return pathlib.Path('/proc/self/status').read_text()


class SurroundingsTest(ProcessTestCase):
    """Servers in the surroundings that service managers, containers and cron give them."""

    level = 2

    def test_surroundings(self):
        database = self.zeo()
        bare = {'PATH': os.environ['PATH'], 'PYTHONPATH': environment()['PYTHONPATH']}
        gone = tempfile.mkdtemp()

        def enterWhatIsGone():
            os.chdir(gone)
            os.rmdir(gone)

        def limitFiles():
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

        site = self.site('<remotetask:task name="echo" handler="lovely.remotetask.demo.echo" isolation="process"/>')
        for number, (what, command, options) in enumerate((
                ('nothing in the environment, no directory', 'serve', {'env': bare, 'preexec_fn': enterWhatIsGone}),
                ('a C locale, odd variables', 'frontend',
                 {'env': {**bare, 'LC_ALL': 'C', 'TZ': ':/no/such zone', 'TERM': 'nonsense', 'HOME': '/nonexistent',
                          'PYTHONOPTIMIZE': '2', 'PYTHONSAFEPATH': '1', 'PYTHONDEVMODE': '1', 'PYTHONHASHSEED': '0'}}),
                ('few files', 'frontend', {'preexec_fn': limitFiles}),
                ('no standard input, odd variables', 'processor',
                 {'env': {**bare, 'LANG': 'xx_YY.nonsense', 'PYTHONOPTIMIZE': '2', 'PYTHONDONTWRITEBYTECODE': '1'},
                  'preexec_fn': lambda: os.close(0)}),
                ('a full disk limit', 'serve',
                 {'preexec_fn': lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))}))):
            with self.subTest(what):
                storage = database if command != 'serve' else (
                    f'<zodb>\n<filestorage>\npath {self.directory}/Data{number}.fs\n</filestorage>\n</zodb>\n')
                process = self.launch(command, site + storage, f'{number}.conf', **options)
                self.untilReady(process)
                if command == 'serve':
                    self.assertEqual(self.run_('echo', '"\u00e9t\u00e9"'), '"\u00e9t\u00e9"\n')
                elif command == 'frontend':
                    self.assertEqual(self.remotetask('tasks'), (0, 'echo\n', ''))
                if what == 'few files':
                    self.assertRegex(self.log(f'{number}.conf.log'),
                                     r'may have 100 files open and may need 7\d{3}, .*max-connections, max-waiting')
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=PATIENCE)
                self.assertEqual(process.returncode, 0)

    def test_the_working_directory_is_gone(self):
        # Only what needs it says so.
        gone = tempfile.mkdtemp()

        def enterWhatIsGone():
            os.chdir(gone)
            os.rmdir(gone)

        process = subprocess.run([sys.executable, '-m', 'lovely.remotetask.cli.main', 'serve'], env=environment(),
                                 preexec_fn=enterWhatIsGone, text=True, capture_output=True, timeout=PATIENCE)
        self.assertEqual((process.returncode, process.stdout), (2, ''))
        self.assertRegex(process.stderr, r'\Aremotetask: .*working directory[^\n]*\n\Z')

    @unittest.skipUnless(os.getuid() == 0 and shutil.which('unshare'), 'needs root and unshare')
    def test_read_only(self):
        # Of a root file system that is read-only, with one directory that is not.
        script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro / && shift && exec "$@"'
        process = self.launch('serve', f'<zodb>\n<filestorage>\npath {self.directory}/Data.fs\n'
                              f'blob-dir {self.directory}/blobs\n</filestorage>\n</zodb>\n',
                              prefix=('unshare', '--mount', 'sh', '-c', script, 'sh', self.directory), cwd='/',
                              env=environment(TMPDIR='/nonexistent'))
        self.untilReady(process)
        self.assertEqual(self.run_('echo', '"alive"'), '"alive"\n')
        self.stop(process)


class PrivateFilesTest(ProcessTestCase):

    level = 2

    def test_what_a_server_writes(self):
        before = set(self.files())
        process = self.launch('serve', preexec_fn=lambda: os.umask(0))
        before.add(os.path.join(self.directory, 'remotetask.conf'))
        self.untilReady(process)
        self.assertEqual(self.run_('echo', '"{}"'.format('x' * 100_000)).count('x'), 100_000)       # in a blob
        self.assertReopens(process)
        pack = start('-C', os.path.join(self.directory, 'remotetask.conf'), 'pack', cwd=self.directory)
        pack.communicate(timeout=PATIENCE)
        self.stop(process)
        pack = self.launch('pack', preexec_fn=lambda: os.umask(0))
        pack.communicate(timeout=PATIENCE)
        self.assertEqual(pack.returncode, 0)
        self.assertPrivate(set(self.files()) - before, 'Data.fs', 'Data.fs.old', 'remotetask.conf.log')

    def test_what_a_database_server_writes(self):
        port = freePort()
        path = self.write('zeo.conf', f'<zeo>\naddress 127.0.0.1:{port}\n</zeo>\n<filestorage 1>\n'
                          f'path {self.directory}/Data.fs\nblob-dir {self.directory}/blobs\n</filestorage>\n'
                          f'<eventlog>\n<logfile>\npath {self.directory}/zeo.log\n</logfile>\n</eventlog>\n')
        before = set(self.files())

        def prepare():
            os.closerange(0, 3)
            os.umask(0)

        process = subprocess.Popen([sys.executable, '-m', 'lovely.remotetask.runzeo', '-C', path], env=environment(),
                                   preexec_fn=prepare)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.awaitFile('zeo.log', 'listening on')
        for number in range(3):
            self.assertEqual(os.readlink(f'/proc/{process.pid}/fd/{number}'), os.devnull)
        os.rename(os.path.join(self.directory, 'zeo.log'), os.path.join(self.directory, 'zeo.log.1'))
        process.send_signal(signal.SIGUSR2)
        self.awaitFile('zeo.log', 'reopened')
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 0)
        self.assertPrivate(set(self.files()) - before, 'Data.fs', 'zeo.log', 'zeo.log.1')

    def assertPrivate(self, paths, *names):
        """Check that these files are there, and that all are for their owner alone."""
        self.assertLessEqual(set(names), set(map(os.path.basename, paths)))
        for path in paths:
            self.assertEqual(os.stat(path).st_mode & 0o077, 0, path)

    def assertReopens(self, process):
        os.remove(os.path.join(self.directory, 'remotetask.conf.log'))
        process.send_signal(signal.SIGHUP)
        self.awaitFile('remotetask.conf.log', 'reopened')

    def files(self):
        for place, directories, files in os.walk(self.directory):
            for name in itertools.chain(directories, files):
                yield os.path.join(place, name)


@unittest.skipUnless(os.getuid() == 0 and shutil.which('unshare'), 'needs root and unshare')
class ProcessOneTest(ProcessTestCase):
    """As process 1 of a container."""

    level = 2

    def launchAlone(self, text=''):
        """Start a server as process 1; return the process that waits for it and its own number."""
        process = self.launch('serve', text, prefix=('unshare', '--pid', '--fork', '--kill-child', '--mount-proc'))
        self.untilReady(process)
        return process, self.children(process.pid)[0]

    def children(self, pid):
        with open(f'/proc/{pid}/task/{pid}/children') as file:
            return [int(word) for word in file.read().split()]

    def state(self, pid):
        with contextlib.suppress(FileNotFoundError):
            return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]

    def test_what_is_left_is_reaped(self):
        site = self.site(
            # Leaves a process behind, which leaves the group and ends after its parent.
            f'<remotetask:command name="leave" directory="{self.directory}" '
            'command="sh -c \'setsid sh -c &quot;echo $$ > left; read line &lt; release&quot; &amp; '
            'until test -s left; do :; done; exit 3\'"/>')
        os.mkfifo(os.path.join(self.directory, 'release'))
        process, one = self.launchAlone(site)
        worker, = self.children(one)
        # The exit status is the program's, and nobody else takes it.
        self.assertIn('exited with status 3', self.run_('leave'))
        left = waitUntil(lambda: [pid for pid in self.children(one) if pid != worker], 'a process that is left')
        with open(os.path.join(self.directory, 'release'), 'w') as release:
            release.write('\n')
        waitUntil(lambda: not any(map(self.state, left)), 'the end of what was left')
        self.assertEqual(self.children(one), [worker])
        os.kill(one, signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 0)
        self.assertIn('stopping', self.log())

    def test_signals(self):
        process, one = self.launchAlone()
        os.kill(one, signal.SIGHUP)
        self.awaitFile('remotetask.conf.log', 'reopened')
        os.kill(self.children(one)[0], signal.SIGKILL)
        self.assertEqual(process.wait(PATIENCE), 137)


class LogTest(unittest.TestCase):
    """Logs that are moved while threads write to them."""

    level = 2

    THREADS, MOVES = 4, 30

    def setUp(self):
        self.directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.logger = logging.getLogger('test_process')

    def configure(self, options=''):
        """Have a logger of our own write to a file."""
        path = self.directory / 'log' / 'rt.log'
        path.parent.mkdir()
        file = self.directory / 'remotetask.conf'
        file.write_text(f'<eventlog>\n</eventlog>\n<logger>\nname test_process\npropagate off\n<logfile>\npath {path}\n'
                        f'format %(message)s\n{options}\n</logfile>\n</logger>\n')
        configuration = config.load(str(file))
        root = list(logging.root.handlers)
        configuration.setUpLogging()
        for logger, before in (logging.root, root), (self.logger, []):
            for handler in set(logger.handlers).difference(before):
                self.addCleanup(handler.close)
                self.addCleanup(logger.removeHandler, handler)
        return path

    def test_no_line_is_lost(self):
        for options in '', 'max-size 2KB\nold-files 1000', 'delay true':
            with self.subTest(options):
                path = self.configure(options)
                stop, counts = threading.Event(), {}

                def write(name):
                    for number in itertools.count():
                        self.logger.error('line %s-%d', name, number)
                        if stop.is_set():
                            counts[name] = number + 1
                            return

                threads = [threading.Thread(target=write, args=(name,)) for name in range(self.THREADS)]
                for thread in threads:
                    thread.start()
                for number in range(self.MOVES):
                    # As logrotate does: under a name that old-files uses as well.
                    moved = path.with_name(f'moved.{number}')
                    while not path.exists():
                        time.sleep(0.001)
                    path.rename(moved)
                    config.reopenLogs()
                stop.set()
                for thread in threads:
                    thread.join()
                lines = [line for file in path.parent.iterdir() for line in file.read_text().splitlines()
                         if line.startswith('line ')]
                self.assertEqual(sorted(lines), sorted(f'line {name}-{number}' for name, count in counts.items()
                                                       for number in range(count)))
                self.doCleanups()
                self.setUp()

    def test_old_files_are_kept(self):
        # logrotate and `old-files` use the same names: nothing is rotated twice.
        path = self.configure('max-size 1MB\nold-files 1')
        self.logger.error('first')
        path.rename(path.with_name('rt.log.1'))
        config.reopenLogs()
        self.logger.error('second')
        self.assertEqual((path.with_name('rt.log.1').read_text(), path.read_text()), ('first\n', 'second\n'))

    def test_a_file_that_cannot_be_opened(self):
        path = self.configure()
        path.parent.rename(self.directory / 'moved')
        with self.assertLogs('lovely.remotetask', 'ERROR') as logged:
            config.reopenLogs()
        self.assertIn(f'{path} cannot be reopened, the log goes on in the old one: No such file', logged.output[0])
        self.logger.error('kept')
        self.assertEqual((self.directory / 'moved' / 'rt.log').read_text(), 'kept\n')

    def test_characters_that_a_file_cannot_have(self):
        path = self.configure('encoding ascii')
        self.logger.error('caf\u00e9 \udc80')
        config.reopenLogs()
        self.logger.error('\u20ac')
        self.assertEqual(path.read_text(), 'caf\\xe9 \\udc80\n\\u20ac\n')


if __name__ == '__main__':
    unittest.main()
