"""The command `init`: what it writes works, by the commands that it prints; and it overwrites nothing."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import urllib.parse
import urllib.request
import venv

import psycopg2
import psycopg2.extensions
import ZConfig
from zope.component import provideUtility
from zope.component import testing

from commands import runCommand
from lovely.remotetask.application import getService
from lovely.remotetask.cli.forms import databaseSection
from lovely.remotetask.cli.forms import single
from lovely.remotetask.client import Client
from lovely.remotetask.config.settings import load
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import PATIENCE
from lovely.remotetask.testing import Process
from lovely.remotetask.testing.ports import freePort
from servers import PostgreSQL
from servers import emptyPostgreSQL


def environment():
    """Return the environment for a process that finds the same packages as this one, and no configuration."""
    result = {name: value for name, value in os.environ.items() if not name.startswith('REMOTETASK_')}
    return dict(result, PYTHONPATH=os.pathsep.join(os.path.abspath(path) for path in sys.path), PYTHONUNBUFFERED='1')


def defaultGracePeriod():
    """Return how many seconds jobs have to end, where the configuration does not say it."""
    return load().processor.gracePeriod


def freePorts():
    """Return a port that is free, and the next one, which is that of the pages, as well."""
    for _ in range(100):
        port = freePort()
        with socket.socket() as other, contextlib.suppress(OSError):
            other.bind(('127.0.0.1', port + 1))
            return port
    raise AssertionError('no two free ports')


FILES = single().files
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

    def init(self, *arguments, program='test'):
        """Run the command, as the program of a path; return its exit code, standard and error output."""
        with contextlib.chdir(self.directory), unittest.mock.patch.object(sys, 'argv', [str(program)]):
            return runCommand('init', *arguments)

    def started(self, unit):
        """Return the command that a unit starts."""
        return re.search('^ExecStart=(.*)$', unit.read_text(), re.MULTILINE)[1]

    def content(self):
        return {path.relative_to(self.directory): path.is_file() and path.read_bytes()
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
        words = json.loads(re.search(r'HEALTHCHECK [^[]+ CMD (\[.*\])', (self.site / 'Dockerfile').read_text())[1])
        self.assertEqual(self.shell(f'cd films; {sys.executable} -m lovely.{" ".join(words)}'), 'ready\n')
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
        configuration = load(self.site / 'remotetask.conf')
        self.assertEqual(configuration.siteDefinition, str(self.site / 'site.zcml'))
        self.assertEqual(configuration.databaseDescription, f'FileStorage {self.site}/var/Data.fs')
        self.assertEqual(configuration.frontend.address, ('127.0.0.1', 8080))
        self.assertEqual(configuration.web.address, ('127.0.0.1', 8081))
        self.assertIn('"lovely.remotetask[web]"', (self.site / 'Dockerfile').read_text())
        self.assertEqual(self.started(self.site / 'remotetask.service'),
                         f'{sys.executable} -m lovely.remotetask -C {self.site}/remotetask.conf serve')
        self.assertLess(configuration.processor.gracePeriod,
                        int(re.search('stop_grace_period: (.*)s', (self.site / 'compose.yaml').read_text())[1]))

    def test_without_the_pages(self):
        for name, modules in ('without', {'waitress': None}), ('with', {}):
            with unittest.mock.patch.dict(sys.modules, modules):
                code, said, _ = self.init(name, '--port', '65535')
            section = (self.directory / name / 'remotetask.conf').read_text()
            with self.subTest(name):
                self.assertEqual(code, 0)
                self.assertEqual(load(self.directory / name / 'remotetask.conf').web is None, bool(modules))
                self.assertIn('\n# <web>\n#   address 127.0.0.1:65534\n# </web>\n' if modules else '\n<web>\n', section)
                self.assertEqual('browser: http://127.0.0.1:65534/\n' in said, not modules)
                self.assertEqual('[web]"\n' in (self.directory / name / 'Dockerfile').read_text(), not modules)

    def test_the_data_is_nobody_elses_business(self):
        self.init('films')
        self.assertEqual(stat.S_IMODE((self.site / 'var').stat().st_mode), 0o700)


class TestUnits(InitTestCase):

    def test_systemd_finds_nothing_wrong(self):
        forms = {(): 1, ('--split',): 4, ('--split', '--database', 'dbname=films'): 3,
                 ('--host', '--database', 'zeo.example.org:8100'): 1}
        for number, (options, count) in enumerate(forms.items()):
            site = self.directory / str(number)
            with self.subTest(options):
                self.assertEqual(self.init(site, *options)[0], 0)
                units = sorted(site.glob('*.service'))
                self.assertEqual(len(units), count)
                for unit in units:
                    text = unit.read_text()
                    self.assertIn(f'\n# A unit of systemd.  As root: systemctl enable --now {unit}\n', f'\n{text}')
                    # systemd waits longer than the grace period of a host.
                    self.assertLess(defaultGracePeriod(), int(re.search('TimeoutStopSec=(.*)', text)[1]))
                if shutil.which('systemd-analyze'):
                    verified = subprocess.run(['systemd-analyze', 'verify', '--man=no', *units], text=True,
                                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                    self.assertEqual((verified.returncode, verified.stdout), (0, ''))


class TestDatabaseServer(InitTestCase):
    """The command that starts the database server of a split site."""

    def setUp(self):
        super().setUp()
        self.program, self.runzeo = self.directory / 'bin' / 'remotetask', self.directory / 'bin' / 'runzeo'
        self.program.parent.mkdir()
        self.program.symlink_to('/bin/true')

    def server(self):
        """Return the words that a new site says before its configuration file; those of the unit are the same."""
        code, said, errors = self.init('films', '--split', program=self.program)
        self.assertEqual((code, errors), (0, ''))
        started = self.started(self.site / 'remotetask-zeo.service')
        self.assertIn(f'\n    {started}\n', said)
        return started.partition(' -C')[0]

    def test_that_of_buildout(self):
        self.runzeo.write_text('import lovely.remotetask.runzeo\n')
        self.assertEqual(self.server(), str(self.runzeo))

    def test_that_of_zeo_does_not_tell_why_it_refuses_clients(self):
        self.runzeo.write_text('from ZEO.runzeo import main\n')
        self.assertEqual(self.server(), f'{sys.executable} -m lovely.remotetask.runzeo')

    def test_none(self):
        venv.create(self.directory / 'empty', symlinks=True)
        python = self.directory / 'empty' / 'bin' / 'python'
        self.enterContext(unittest.mock.patch.dict(os.environ))
        os.environ.pop('PYTHONPATH', None)
        with unittest.mock.patch.object(sys, 'executable', str(python)):
            code, said, errors = self.init('films', '--split', program=self.program)
            self.assertEqual((code, said), (2, ''))
            self.assertRegex(errors, r'\Aremotetask: [^\n]+ run ".venv/bin/buildout install remotetask" [^\n]+\n\Z')
            self.assertFalse(self.site.exists())
            # In one process there is no database server to start.
            self.assertEqual(self.init('films', program=self.program)[0], 0)


class TestHost(InitTestCase):
    """The processes of a split site, and a host in a directory of its own, as on another machine."""

    def start(self, unit):
        """Start what a unit starts; return the `Process`."""
        process = Process([*self.started(unit).split()[1:]], str(self.directory))
        self.addCleanup(process.close)
        return process

    def test_large_values_go_to_a_host_elsewhere(self):
        database, port = f'127.0.0.1:{freePort()}', freePorts()
        self.assertEqual(self.init(self.site, '--split', '--database', database, '--port', port)[0], 0)
        other = self.directory / 'other'
        code, said, errors = self.init(other, '--host', '--database', database)
        self.assertEqual((code, errors), (0, ''))
        self.assertIn(f'\n    {self.started(other / "remotetask-host.service")}\n', said)
        names = 'zeo', 'frontend', 'web', 'host'                # all at a time, as when the machine starts
        processes = {name: self.start(self.site / f'remotetask-{name}.service') for name in names}
        for name in names[1:]:
            processes[name].waitFor('ready')
        with Client(f'http://127.0.0.1:{port}/', PATIENCE) as client:
            self.assertEqual(client.wait(client.add('greet', {'name': 'World'}), PATIENCE), 'Hello, World!')
            self.assertEqual(processes['host'].end(), 0)
            host = self.start(other / 'remotetask-host.service')
            host.waitFor('ready')
            name = 'x' * 1_000_000
            jobid = client.add('greet', {'name': name})
            self.assertEqual(client.wait(jobid, PATIENCE), f'Hello, {name}!')
            self.assertEqual(client.getJob(jobid)['host'], f'{socket.gethostname()}-other')
        # It has got the input of its own, and has the result that it sent.
        self.assertGreater(sum(path.stat().st_size for path in (other / 'var' / 'blobs').rglob('*.blob')), 1_000_000)
        for process in host, *(processes[name] for name in ('frontend', 'web', 'zeo')):
            self.assertEqual(process.end(), 0)

    def test_what_does_not_fit(self):
        for reason, *options in (
                ('not both', '--host', '--split'), ('needs --database', '--host'),
                ('--database goes with', '--database', 'zeo:8100'), ('--name goes with', '--name', 'beta'),
                ("'zeo' is not the address", '--host', '--database', 'zeo'),
                ("'zeo:0' is not the address", '--host', '--database', 'zeo:0'),
                ("':8100' is not the address", '--host', '--database', ':8100'),
                ("write HOST:PORT, or for PostgreSQL postgresql://HOST/NAME (see", '--host', '--database', '8100'),
                ("'http://zeo:8100' is not the address", '--host', '--database', 'http://zeo:8100'),
                ('the front end and the database server would both listen at port 8100', '--split', '--port', '8100'),
                ('the pages and the database server would both listen at port 8100', '--split', '--port', '8099'),
                ('both listen at port 8080', '--split', '--database', '[::1]:8080'),
                ('not printable', '--host', '--database', 'zeo:8100\n%import evil'),
                ('not printable', '--host', '--database', 'postgresql://db/films%0A%25import%20evil'),
                ('belongs in ~/.pgpass', '--host', '--database', "host=db password='secret'"),
                ('belongs in ~/.pgpass', '--host', '--database', 'postgresql://ann:secret@db/films'),
                ('belongs in ~/.pgpass', '--host', '--database', 'postgresql://ann:se@ret@[db/films'),
                ('belongs in ~/.pgpass', '--host', '--database', 'postgresql://db/films?pass%77ord=secret'),
                ('invalid connection option "hots"', '--host', '--database', 'hots=db dbname=films'),
                ('unterminated quoted string', '--split', '--database', "host='db dbname=films"),
                ('invalid URI query parameter: "hots"', '--host', '--database', 'postgresql://db/films?hots=db'),
                ('missing key/value separator', '--host', '--database', 'postgresql://db/films?sslmode'),
                ('looking for matching "]"', '--host', '--database', 'postgresql://[::1/films'),
                ('invalid percent-encoded token', '--host', '--database', 'postgresql://db/100%'),
                ("'postgresql://' is not the address", '--host', '--database', 'postgresql://'),
                ('is not a name', '--host', '--database', 'zeo:8100', '--name', 'be\nta')):
            with self.subTest(options):
                code, said, errors = self.init('films', *options)
                self.assertEqual((code, said), (2, ''))
                self.assertRegex(errors, r'\Aremotetask: [^\n]+\n\Z')
                self.assertIn(reason, errors)
                self.assertFalse(self.site.exists())


    def test_postgresql_needs_its_extra(self):
        with unittest.mock.patch.dict(sys.modules, {'psycopg2.extensions': None}):
            code, said, errors = self.init('films', '--host', '--database', 'postgresql://db/films')
            self.assertEqual((code, said), (2, ''))
            self.assertIn('for PostgreSQL install lovely.remotetask[postgresql]', errors)
            self.assertFalse(self.site.exists())
            self.assertEqual(self.init('films', '--host', '--database', 'zeo:8100')[0], 0)


class TestAddressOfPostgreSQL(unittest.TestCase):

    def test_it_becomes_keywords_to_which_others_can_be_added(self):
        for text in ('postgresql://db/films', 'postgres://remotetask@db.example.org:5433/films', 'postgresql:///films',
                    'postgresql://db', "postgresql://o'neil%5C@db/my%20films?sslmode=require&options=-c%20a%3Db+c",
                    'postgresql://ann@[::1]:5433/films', 'postgresql://one:1,two,[::2]:3/films',
                    'postgresql://one,two/films?target_session_attrs=read-write',
                    'postgresql://%2Fvar%2Frun/films', 'postgresql:///films?host=/tmp&port=5433',
                    'postgresql://db/films?ssl=true', 'postgresql://an?n@db/passwords', 'postgresql://ann@one@two/films',
                    'postgresql://db?user=ann@other', 'postgresql://db/%24HOME%23%27%5C%25%20',
                    "host='db' dbname=films", 'dbname=postgresql://db/films', 'service=films',
                    r"host = /tmp dbname='o\'neil \\ $HOME'"):
            with self.subTest(text):
                config, _ = ZConfig.loadConfigFile(
                    ZConfig.loadSchemaFile(io.StringIO('<schema><key name="dsn" /></schema>')),
                    io.StringIO(re.search('^ *dsn .*$', databaseSection('/films', text, True), re.MULTILINE)[0]))
                said = psycopg2.extensions.parse_dsn(f"{config.dsn} application_name='films'")
                self.assertEqual(said, {**psycopg2.extensions.parse_dsn(text), 'application_name': 'films'})


class TestHostOfPostgreSQL(InitTestCase):

    layer = PostgreSQL

    def test_it(self):
        self.addCleanup(testing.tearDown)
        provideUtility(SimpleTask(len), name='greet')           # which the host knows better
        server = self.enterContext(emptyPostgreSQL())
        dsn = re.search('dsn (.*)', server.config)[1]
        words = urllib.parse.urlencode(psycopg2.extensions.parse_dsn(dsn), quote_via=urllib.parse.quote)
        url = f'postgresql://?{words}'
        self.assertEqual(self.init(self.site, '--host', '--database', url, '--name', 'beta $1')[0], 0)
        db = server.database()
        install(db)
        with db.transaction() as connection:
            jobid = getService(connection).add('greet', {'name': 'x' * 1_000_000})
        host = Process(['-m', 'lovely.remotetask', '-C', str(self.site / 'host.conf'), 'processor', '--until-empty'],
                       str(self.directory))
        self.addCleanup(host.close)
        self.assertEqual(host.popen.wait(PATIENCE), 0)
        with db.transaction() as connection:
            service = getService(connection)
            self.assertEqual(len(service.getResult(jobid)), 1_000_008)
            self.assertEqual(service.getRun(jobid).host, 'beta $1')


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


class TestPaths(ServingTestCase):

    def test_other_than_ascii(self):
        port = freePorts()
        code, said, _ = self.init('fé-日本', '--port', port)
        self.assertEqual(code, 0)
        serve, add = re.findall('^    (.* serve|.* add .*)$', said, re.MULTILINE)
        # As under an init system, which knows of no language.
        process = self.serve(f'env -u LANG -u LC_ALL {serve}')
        self.assertEqual(self.shell(add), '"Hello, World!"\n')
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_below_tmp(self):
        for hidden, own in ((f'{self.directory}/',), 'no'), ((), 'yes'):
            with unittest.mock.patch('lovely.remotetask.cli.init._TEMPORARY', hidden):
                self.assertEqual(self.init(own, '--host', '--database', 'zeo:8100')[0], 0)
            self.assertIn(f'\nPrivateTmp={own}\n', (self.directory / own / 'remotetask-host.service').read_text())

    def test_a_program_with_a_blank(self):
        program = self.directory / 'my 100% program' / 'remotetask'
        program.parent.mkdir()
        program.symlink_to('/bin/true')
        code, said, _ = self.init('films', '--split', program=program)
        self.assertEqual(code, 0)
        self.shell('\n'.join(re.findall(f"^    ('{program}' .*)", said, re.MULTILINE)))
        unit = self.site / 'remotetask-frontend.service'
        self.assertEqual(self.started(unit).partition(' -C')[0], f'"{program}"'.replace('%', '%%'))
        if shutil.which('systemd-analyze'):
            verified = subprocess.run(['systemd-analyze', 'verify', '--man=no', unit], text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            self.assertEqual(verified.returncode, 0, verified.stdout)
            self.assertNotIn('ExecStart', verified.stdout)


class TestRefusals(InitTestCase):

    def refused(self, reason, *arguments, program='test'):
        before = self.content()
        code, said, errors = self.init(*arguments, program=program)
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
        for name in ('my films', 'films$1', 'films%n', 'a"b', "it's", 'a\\b', 'a`b', 'films!', 'a\tb', 'a\x07b',
                     'a\x7fb', 'a\u2028b', os.fsdecode(b'films\xff')):
            with self.subTest(name):
                self.refused('has a character', name)
        (self.directory / 'package').mkdir()
        (self.directory / 'package' / '__init__.py').write_text('')
        self.refused('is a Python package', 'package')
        self.refused('port', 'other', '--port', '0')

    def test_no_place_for_a_program(self):
        for name in 'a$b', "it's", 'a"b', 'a\\b', 'a\tb':
            program = self.directory / name / 'remotetask'
            program.parent.mkdir()
            program.symlink_to('/bin/true')
            with self.subTest(name):
                self.refused('install the package elsewhere', 'films', program=program)

    def test_what_cannot_be_written(self):
        self.site.write_text('')
        code, said, errors = self.init('films/deeper')
        self.assertEqual((code, said), (1, ''))
        self.assertIn(f'cannot write {self.site}', errors)


if __name__ == '__main__':
    unittest.main()
