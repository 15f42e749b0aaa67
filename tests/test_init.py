"""The command `init`: what it writes works, by the commands that it prints; and it overwrites nothing."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import io
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import urllib.request

from lovely.remotetask.cli import main
from lovely.remotetask.cli.init import FILES
from lovely.remotetask.client import Client
from lovely.remotetask.config.settings import load
from lovely.remotetask.testing import PATIENCE
from lovely.remotetask.testing.ports import freePort


def environment():
    """Return the environment for a process that finds the same packages as this one, and no configuration."""
    result = {name: value for name, value in os.environ.items() if not name.startswith('REMOTETASK_')}
    return dict(result, PYTHONPATH=os.pathsep.join(os.path.abspath(path) for path in sys.path), PYTHONUNBUFFERED='1')


def freePorts():
    """Return a port that is free, and the next one, which is that of the pages, as well."""
    for _ in range(100):
        port = freePort()
        with socket.socket() as other, contextlib.suppress(OSError):
            other.bind(('127.0.0.1', port + 1))
            return port
    raise AssertionError('no two free ports')


README = pathlib.Path(__file__).parent.parent / 'README.txt'


def ours(command):
    """Return a command of README.txt with this Python instead of a program that buildout has made."""
    return command.replace('bin/remotetask', f'{sys.executable} -m lovely.remotetask')


class InitTestCase(unittest.TestCase):

    level = 2

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(os.path.realpath(directory.name))
        self.site = self.directory / 'films'

    def init(self, *arguments):
        """Run the command; return its exit code, standard and error output."""
        ended = subprocess.run([sys.executable, '-m', 'lovely.remotetask', 'init', *map(str, arguments)], text=True,
                               cwd=self.directory, env=environment(), capture_output=True, timeout=PATIENCE)
        return ended.returncode, ended.stdout, ended.stderr

    def content(self):
        return {path.relative_to(self.directory): path.is_file() and path.read_text()
                for path in self.directory.rglob('*')}


class ServingTestCase(InitTestCase):

    def shell(self, script, **environment_):
        """Run lines that a user has pasted; return what they print."""
        return subprocess.run(['sh', '-euc', script], text=True, cwd=self.directory, check=True,
                              env={**environment(), **environment_}, stdout=subprocess.PIPE, timeout=PATIENCE).stdout

    def serve(self, command):
        """Start the server by the line that was printed; it has ended when the test has."""
        with open(self.directory / 'log', 'w') as log:
            process = subprocess.Popen(['sh', '-c', f'exec {command}'], text=True, cwd=self.directory,
                                       env=environment(), stdout=subprocess.PIPE, stderr=log)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertIn('ready\n', iter(process.stdout.readline, ''), (self.directory / 'log').read_text())
        return process


class TestSite(ServingTestCase):

    def test_what_is_printed_can_be_pasted(self):
        port = freePorts()
        code, said, errors = self.init('films', '--port', port)
        self.assertEqual((code, errors), (0, ''))
        serve, add = re.findall('^    (.* serve|.* add .*)$', said, re.MULTILINE)
        process = self.serve(serve)
        page = re.search('browser: (.*)', said)[1]
        with urllib.request.urlopen(page, timeout=PATIENCE) as answer:
            self.assertIn('Overview', answer.read().decode())
        self.assertEqual(self.shell(add), '"Hello, World!"\n')
        with Client(f'http://127.0.0.1:{port}/', PATIENCE) as client:
            # Its schema is known to the front end.
            with self.assertRaisesRegex(ValueError, "input field 'name': is missing"):
                client.add('greet', {})
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_a_task_of_ones_own_in_ten_lines(self):
        port = freePorts()
        self.init('films', '--port', port)
        (self.site / 'tasks.py').write_text(
            'import os\n'
            'from lovely.remotetask.task import task\n'
            '@task(isolation="process", retryPolicy={"attempts": 1})\n'
            'def resize(service, jobid, input):\n'
            '    service.setProgress(jobid, 0.5)\n'
            '    return [input["width"] // 2, os.getppid()]\n')
        process = self.serve(f'{sys.executable} -m lovely.remotetask -C {self.site}/remotetask.conf serve')
        with Client(f'http://127.0.0.1:{port}/', PATIENCE) as client:
            self.assertEqual(sorted(client.getAvailableTasks()), ['echo', 'resize'])
            half, parent = client.wait(client.add('resize', {'width': 640}), PATIENCE)
        self.assertEqual(half, 320)
        self.assertNotEqual(parent, os.getpid())
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_the_files(self):
        self.site.mkdir()
        (self.site / 'var').mkdir()                         # of a first try, with its data
        (self.site / 'notes.txt').write_text('mine')
        self.assertEqual(self.init(self.site)[0], 0)
        self.assertEqual({path.name for path in self.site.iterdir()}, {*FILES, 'var', 'notes.txt'})
        for name in FILES:
            self.assertNotIn('$', (self.site / name).read_text())
        configuration = load(self.site / 'remotetask.conf')
        self.assertEqual(configuration.siteDefinition, str(self.site / 'site.zcml'))
        self.assertEqual(configuration.databaseDescription, f'FileStorage {self.site}/var/Data.fs')
        self.assertEqual(configuration.frontend.address, ('127.0.0.1', 8080))
        self.assertEqual(configuration.web.address, ('127.0.0.1', 8081))
        self.assertIn('"lovely.remotetask[web]"', (self.site / 'Dockerfile').read_text())
        unit = (self.site / 'remotetask.service').read_text()
        self.assertIn(f'\nExecStart={sys.executable} -m lovely.remotetask -C {self.site}/remotetask.conf serve\n', unit)
        # systemd waits longer than the grace period of the server.
        self.assertLess(configuration.processor.gracePeriod, int(re.search('TimeoutStopSec=(.*)', unit)[1]))
        self.assertLess(configuration.processor.gracePeriod,
                        int(re.search('stop_grace_period: (.*)s', (self.site / 'compose.yaml').read_text())[1]))

    def test_without_the_pages(self):
        for name, modules in ('without', {'waitress': None}), ('with', {}):
            output = io.StringIO()
            with unittest.mock.patch.dict(sys.modules, modules), contextlib.redirect_stdout(output):
                code = main.run(['init', str(self.directory / name), '--port', '65535'])
            section = (self.directory / name / 'remotetask.conf').read_text()
            with self.subTest(name):
                self.assertEqual(code, 0)
                self.assertEqual(load(self.directory / name / 'remotetask.conf').web is None, bool(modules))
                self.assertIn('\n# <web>\n#   address 127.0.0.1:65534\n# </web>\n' if modules else '\n<web>\n', section)
                self.assertEqual('browser: http://127.0.0.1:65534/\n' in output.getvalue(), not modules)
                self.assertEqual('[web]"\n' in (self.directory / name / 'Dockerfile').read_text(), not modules)

    def test_the_data_is_nobody_elses_business(self):
        self.init('films')
        self.assertEqual(stat.S_IMODE((self.site / 'var').stat().st_mode), 0o700)


class TestReadme(ServingTestCase):
    """The section "Your first task" of README.txt does what it says, when it is pasted."""

    def test_it(self):
        section = re.search('\nYour first task\n=+\n(.*?)\n\n\n', README.read_text(), re.DOTALL)[1]
        blocks = re.findall(r'::\n\n((?:    .*\n|\n)+)', section)
        init, module, add, *_ = (re.sub('(?m)^    ', '', block) for block in blocks)
        port = freePorts()
        url = f'http://127.0.0.1:{port}/'
        said = self.shell(f'{ours(init.strip())} --port {port}')
        self.assertLessEqual(len(module.strip().splitlines()), 10)
        (self.site / 'tasks.py').write_text(module)
        process = self.serve(re.search('^    (.* serve)$', said, re.MULTILINE)[1])
        self.assertEqual(self.shell(ours(add), REMOTETASK_URL=url), '{"width": 320, "height": 240}\n')
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 0)


class TestRefusals(InitTestCase):

    def refused(self, reason, *arguments):
        before = self.content()
        code, said, errors = self.init(*arguments)
        self.assertEqual((code, said), (2, ''), errors)
        self.assertRegex(errors, r'\Aremotetask: [^\n]+\n\Z')
        self.assertIn(reason, errors)
        self.assertEqual(self.content(), before)

    def test_nothing_is_overwritten(self):
        self.init('films')
        self.refused(f'{self.site} has site.zcml, tasks.py, ', 'films')
        for name in FILES:
            if name != 'tasks.py':
                (self.site / name).unlink()
        (self.site / 'tasks.py').write_text('mine')
        self.refused(f'{self.site} has tasks.py already; nothing was written', 'films')
        (self.site / 'tasks.py').unlink()
        (self.site / 'tasks.py').symlink_to('nowhere')
        self.refused(f'{self.site} has tasks.py already', 'films')

    def test_no_place_for_a_site(self):
        self.site.write_text('')
        self.refused('is not a directory', 'films')
        self.refused('has a character', 'my films')
        self.refused('has a character', 'films$1')
        (self.directory / 'package').mkdir()
        (self.directory / 'package' / '__init__.py').write_text('')
        self.refused('is a Python package', 'package')
        self.refused('port', 'other', '--port', '0')

    def test_what_cannot_be_written(self):
        self.site.write_text('')
        code, said, errors = self.init('films/deeper')
        self.assertEqual((code, said), (1, ''))
        self.assertIn(f'cannot write {self.site}', errors)


if __name__ == '__main__':
    unittest.main()
