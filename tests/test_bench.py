"""The command bench: it measures all, shows it, and leaves nothing behind.  No test looks at how fast anything is."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import importlib.util
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zope.component.testing import PlacelessSetup

import lovely.remotetask
from lovely.remotetask.bench import measures
from lovely.remotetask.bench import report
from lovely.remotetask.bench.directory import databaseText
from lovely.remotetask.bench.pages import PAGES
from lovely.remotetask.bench.process import processorTime
from lovely.remotetask.bench.settings import FOLDER
from lovely.remotetask.bench.settings import BenchError
from lovely.remotetask.bench.settings import Settings
from lovely.remotetask.bench.stage import stage
from lovely.remotetask.cli import bench
from lovely.remotetask.database.opening import closeDatabase
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.testing import temporaryZEO


#: Seconds for a whole run, on a slow machine.
PATIENCE = 300

EMBEDDED = """\
<zodb>
  <filestorage>
    path {directory}/Data.fs
  </filestorage>
</zodb>
"""

def costs(*names):
    """Return the names of what is stored while these are measured."""
    return {f'{name}: {what} stored' for name in names for what in ('records', 'bytes')}


def spent(names, *kinds):
    """Return the names of the processor time that these kinds of processes take while something is measured."""
    return {f'{name}: processor time, {kind}' for name in names for kind in kinds}


CALLS = {'XML-RPC add, 8 clients', 'XML-RPC add, 32 clients', 'XML-RPC getStatus, 8 clients',
         'XML-RPC getResult, 8 clients'}
ADDS, DRAIN = {'add, 1 client', 'add, 3 clients'}, {'drain, 1 host', 'leave to other hosts'}

# Of every run, wherever; `{}` is for what differs between the two kinds of database.
EVERYWHERE = CALLS | ADDS | DRAIN | spent(CALLS, 'frontend', 'clients') | costs('bulk add', *ADDS, *DRAIN) | {
    'add, 3 clients: conflicts', 'bulk add', 'bulk add: processor time, this process', 'drain, 1 host: in the middle',
    'drain, 1 host: conflicts', 'latency, p50', 'latency, p95', 'latency, p99', 'write many objects, 1 host',
    'write many objects, 1 host: conflicts', 'busy threads, 2 hosts', 'idle, processor time', 'idle, commits'}
SERVED = spent(ADDS, 'clients') | spent(DRAIN, 'hosts')
EMBEDDED_ONLY = spent(ADDS | DRAIN, 'this process')
OF_MOST_HOSTS = {'write one object, {}', 'write one object, {}: conflicts', 'write one object, {}: longest pause',
                 'add and run, 3 clients, {}', 'add and run, 3 clients, {}: conflicts'}
OF_TWO_HOSTS = {name.replace('1 host', '2 hosts') for name in EVERYWHERE | SERVED if '1 host' in name}
MEMORY = {'memory, frontend', 'memory, this process'}

#: What may be 0 in a short run: conflicts, and what is finer than the clock.
MAY_BE_ZERO = ('conflicts', 'idle')


class CommandTest(unittest.TestCase):

    level = 2

    def setUp(self):
        closing = contextlib.ExitStack()
        self.addCleanup(closing.close)
        self.directory = os.path.realpath(closing.enter_context(tempfile.TemporaryDirectory()))
        self.json = os.path.join(self.directory, 'run.json')

    def start(self, *arguments, **environment):
        """Start the program, in the directory of the test, with more variables of the environment."""
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        return subprocess.Popen(
            [sys.executable, '-m', 'lovely.remotetask.cli.main', *arguments], cwd=self.directory, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=dict(os.environ, PYTHONPATH=path, COLUMNS='120', **environment))

    def bench(self, *arguments, configuration=None, code=0, **environment):
        """Run the command, and return its standard output, or that of errors if it has to fail."""
        before = () if configuration is None else ('-C', configuration)
        with self.start(*before, 'bench', *arguments, **environment) as process:
            output, errors = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, code, errors)
        return errors if code else output

    def configure(self, text):
        path = os.path.join(self.directory, 'remotetask.conf')
        with open(path, 'w') as file:
            file.write(text)
        return path

    def read(self):
        with open(self.json) as file:
            return json.load(file)

    def checkRun(self, output, names):
        """Check what was measured: all, and nothing that cannot be."""
        run = self.read()
        if sys.platform != 'linux':
            names = {name for name in names if not name.startswith('memory') and ': processor time' not in name}
        self.assertEqual(set(run['results']), names)
        for name, entry in run['results'].items():
            with self.subTest(name):
                self.assertIn(name, output)
                self.assertIn(entry['better'], ('higher', 'lower'))
                self.assertTrue(entry['unit'])
                self.assertIn(entry['value'], entry['all'])
                if any(word in name for word in MAY_BE_ZERO):
                    self.assertGreaterEqual(entry['value'], 0)
                else:
                    self.assertGreater(entry['value'], 0)

    def checkClean(self, db):
        """Check that there is no folder of the bench, and no job."""
        with db.transaction() as connection:
            root = connection.root()[ROOT_NAME]
            self.assertEqual([name for name in root if name.startswith(FOLDER)], [])
            self.assertEqual(len(root['TaskService'].jobs), 0)

    def test_database_server(self):
        with temporaryZEO() as server:
            output = self.bench('--jobs', '200', '--clients', '3', '--repeat', '1', '--behind', '100', '--seconds',
                                '0.001', '--payload', '20', '--json', self.json,
                                configuration=self.configure(server.config))
            names = EVERYWHERE | SERVED | OF_TWO_HOSTS | {name.format('2 hosts') for name in OF_MOST_HOSTS} | MEMORY
            self.checkRun(output, names | {'memory, processing host'})
            self.assertEqual(self.read()['parameters']['hosts'], [1, 2])
            self.checkClean(server.database())

    def test_embedded_database(self):
        output = self.bench('--jobs', '200', '--clients', '3', '--repeat', '1', '--json', self.json,
                            configuration=self.configure(EMBEDDED.format(directory=self.directory)))
        self.checkRun(output, EVERYWHERE | EMBEDDED_ONLY | {name.format('1 host') for name in OF_MOST_HOSTS} | MEMORY)
        self.assertIn('threads of it', output)
        db = DB(FileStorage(os.path.join(self.directory, 'Data.fs')))
        self.addCleanup(db.close)
        self.checkClean(db)

    def test_pages(self):
        output = self.bench('--jobs', '30', '--repeat', '1', '--only', 'pages', '--json', self.json)
        self.checkRun(output, {f'page, {title}: {state}' for title in PAGES for state in ('cold', 'warm')})

    def test_nothing_configured_and_compared(self):
        arguments = '--zeo', '--only', 'bulk', '--jobs', '20', '--json', self.json
        # A configuration file of the environment gives way to what the command line says.
        output = self.bench(*arguments, REMOTETASK_CONFIG='nowhere.conf')
        self.checkRun(output, {'bulk add', *costs('bulk add'), *spent(['bulk add'], 'this process', 'server')})
        self.assertEqual(len(self.read()['results']['bulk add']['all']), 3)
        output = self.bench(*arguments, '--compare', self.json)
        self.assertIn('before', output)
        self.assertIn('ratio', output)

    def test_refusals(self):
        path = self.configure('<zodb>\n  <mappingstorage/>\n</zodb>\n')
        self.assertIn('in memory', self.bench(configuration=path, code=2))
        for name in '--zeo', '--postgresql':
            self.assertIn(f'{name} is for', self.bench(name, configuration=path, code=2))
        self.assertIn('No such file', self.bench('--compare', 'nowhere.json', code=2))
        self.assertIn('from 1 to 64', self.bench('--hosts', '0', code=2))
        self.assertIn('--against is for', self.bench('--against', self.directory, configuration=path, code=2))
        self.assertIn('one of them', self.bench('--against', self.directory, '--compare', path, code=2))
        self.assertIn('memory', self.bench('--against', self.directory, '--only', 'memory', code=2))
        self.assertIn('does not exist', self.bench('--against', 'nowhere', code=2))
        self.assertIn('no checkout', self.bench('--against', self.directory, code=2))

    def checkout(self, measure):
        """Make another checkout, one whose measure "bulk" is what the text says, and return its path."""
        path = os.path.join(self.directory, 'other')
        package = os.path.join(path, 'src', 'lovely', 'remotetask')
        shutil.copytree(os.path.dirname(lovely.remotetask.__file__), package)
        with open(os.path.join(package, 'bench', 'measures.py'), 'a') as file:
            file.write(f'\n\ndef bulk(stage):\n    {measure}\n\n\nMEASURES["bulk"] = bulk\n')
        return path

    def against(self, measure):
        return '--only', 'bulk', '--jobs', '20', '--json', self.json, '--against', self.checkout(measure)

    def test_against_another_checkout(self):
        arguments = self.against('yield Value("bulk add", 0.5, "jobs/s", HIGHER)')
        output = self.bench('--zeo', *arguments, REMOTETASK_CONFIG='nowhere.conf')
        self.assertRegex(output, r'other .* median .* ratio')
        self.assertRegex(output, r'bulk add +│ +0\.5 │')
        self.checkRun(output, {'bulk add', *costs('bulk add'), *spent(['bulk add'], 'this process', 'server')})
        other, this = self.read()['other'], self.read()
        self.assertEqual(list(other['results']), ['bulk add'])
        self.assertEqual(other['results']['bulk add']['all'], [0.5] * 3)
        self.assertEqual(len(this['results']['bulk add']['all']), 3)
        self.assertNotIn(0.5, this['results']['bulk add']['all'])
        self.assertEqual([run['parameters']['repeat'] for run in (this, other)], [3, 3])

    def test_other_checkout_that_fails(self):
        errors = self.bench(*self.against('raise RuntimeError("no bulk there")'), code=1)
        self.assertIn('no bulk there', errors)
        self.assertIn(f'{self.directory}/other cannot be measured', errors)

    def test_other_checkout_is_ended(self):
        fifo = os.path.join(self.directory, 'fifo')
        os.mkfifo(fifo)
        with self.start('bench', *self.against(f'with open({fifo!r}, "w"): time.sleep({PATIENCE})')) as process:
            self.addCleanup(process.kill)
            with open(fifo, 'rb', buffering=0) as file:         # returns when the other one is measured
                process.terminate()
                _, errors = process.communicate(timeout=PATIENCE)
                self.assertEqual((process.returncode, errors.strip()), (130, ''))
                self.assertEqual(select.select([file], [], [], PATIENCE)[0], [file])
                self.assertEqual(file.read(), b'')              # its process has ended


class CostTest(PlacelessSetup, unittest.TestCase):

    level = 2

    def mark(self, root):
        root['mark'] = root.get('mark', 0) + 1

    def checkCost(self, place, root):
        """Check what is counted; `root` gives a context manager with the root of the same database."""
        with root() as mapping:
            self.mark(mapping)
        with place.cost() as nothing:
            pass
        self.assertEqual((nothing.records, nothing.size), (0, 0))
        with place.cost() as once, root() as mapping:
            self.mark(mapping)
        with place.cost() as twice:
            for _ in range(2):
                with root() as mapping:
                    self.mark(mapping)
        self.assertEqual((once.records, twice.records), (1, 2))
        self.assertEqual(twice.size, 2 * once.size)
        self.assertGreater(once.size, 10)

    @staticmethod
    def rootOf(db):
        @contextlib.contextmanager
        def root():
            with db.transaction() as connection:
                yield connection.root()
        return root

    def test_records_stored_in_an_embedded_database(self):
        with stage(Settings(jobs=20)) as place:
            self.checkCost(place, self.rootOf(place.database.db))

    def test_records_stored_by_another_client(self):
        for server in 'zeo', 'postgresql':
            with self.subTest(server=server), stage(Settings(jobs=20), server=server) as place:
                db = place.server.database()
                self.addCleanup(closeDatabase, db)
                self.checkCost(place, self.rootOf(db))
                self.assertTrue(place.database.tells)
                self.assertGreater(place.processorTimes()['server'], 0)

    def test_records_that_this_client_has_not_heard_of(self):
        with stage(Settings(jobs=20), server='zeo') as place:
            heard, root = place.database.db.lastTransaction(), self.rootOf(place.database.db)
            place.database.db.lastTransaction = lambda: heard            # as if the server's message were on its way
            with root() as mapping:
                self.mark(mapping)
            with place.cost() as cost:
                pass
        self.assertEqual(cost.records, 0)

    @unittest.skipUnless(sys.platform == 'linux', 'needs Linux')
    def test_processor_time(self):
        before = time.process_time()
        mine = processorTime(os.getpid())
        self.assertTrue(before <= mine <= time.process_time())
        code = 'import time\nwhile time.process_time() < 0.2: pass\nprint(time.process_time(), flush=True)\ninput()'
        with subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            taken = float(process.stdout.readline())
            self.assertGreaterEqual(processorTime(process.pid), taken)
            process.communicate(b'\n')
        self.assertEqual(processorTime(process.pid), 0)

    @unittest.skipUnless(sys.platform == 'linux', 'needs Linux')
    def test_processes_that_count(self):
        with stage(Settings(jobs=20), server='zeo') as place:
            self.assertEqual(set(place.processorTimes()), {'this process', 'server'})
            place.hosts(1)
            self.assertEqual(set(place.processorTimes()), {'hosts', 'server'})
            with place.clients(2):
                self.assertEqual(set(place.processorTimes()), {'hosts', 'clients', 'server'})
            place.url()
            self.assertEqual(set(place.processorTimes()), {'frontend', 'server'})


class HostTest(PlacelessSetup, unittest.TestCase):
    """A host that dies is noticed, and what it has said is told."""

    level = 2

    def test_host_that_dies(self):
        with stage(Settings(jobs=20), server='zeo') as place:
            place.hosts(1)
            place.database.add([('bench-sleep', {'seconds': 60})])
            timer = threading.Timer(1, place._hosts[0].popen.kill)
            timer.start()
            self.addCleanup(timer.join)
            with self.assertRaisesRegex(BenchError, 'host-1 has ended with exit code -9') as caught:
                place.database.waitFor(lambda service: False)
            self.assertIn('processing as host-1', caught.exception.log)


class ConfigurationTest(unittest.TestCase):

    level = 2

    def text(self, content):
        with tempfile.NamedTemporaryFile('w') as file:
            file.write(content)
            file.flush()
            return databaseText(file.name)

    def test_database_section(self):
        self.assertEqual(self.text('%import ZEO\nsite-definition x\n<zodb main>\n  a\n</zodb>\n<frontend/>\n'),
                         '%import ZEO\n<zodb main>\n  a\n</zodb>')
        self.assertEqual(self.text('<frontend/>\n'), '')

    def test_included(self):
        with self.assertRaisesRegex(ConfigurationError, 'has to be in this file'):
            self.text('%include other.conf\n')


class ReportTest(unittest.TestCase):

    level = 2

    def run_(self, value=10.0):
        results = measures.Results()
        for each in value, 2 * value, 9 * value:
            results.add(measures.Value('bulk add', each, 'jobs/s', measures.HIGHER))
        results.add(measures.Value('latency, p50', 1 / value, 'ms', measures.LOWER))
        return report.asDict(results, Settings(), 'a database', False, '1.0', now=0)

    def test_medians(self):
        run = self.run_()
        self.assertEqual(run['results']['bulk add'],
                         {'value': 20.0, 'unit': 'jobs/s', 'better': 'higher', 'all': [10.0, 20.0, 90.0]})
        self.assertEqual(run['date'], '1970-01-01T00:00:00Z')
        self.assertEqual(run['parameters']['hosts'], (1, 2))

    def test_ratio(self):
        old, new = self.run_()['results'], self.run_(20.0)['results']
        self.assertEqual(report.ratio(old['bulk add'], new['bulk add']), 2)
        self.assertEqual(report.ratio(old['latency, p50'], new['latency, p50']), 0.5)
        self.assertIsNone(report.ratio(None, new['bulk add']))
        self.assertIsNone(report.ratio({'value': 0}, new['bulk add']))

    def test_table(self):
        file = io.StringIO()
        report.show(self.run_(20.0), self.run_(), file)
        self.assertRegex(file.getvalue(), r'bulk add +│ +20 │ +40 │ jobs/s │ +20 - 180 │ +2\.00')

    def test_written_and_read(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, 'run.json')
            report.write(path, self.run_())
            self.assertEqual(report.read(path)['results'], self.run_()['results'])
            with open(path, 'w') as file:
                file.write('[]')
            with self.assertRaisesRegex(ConfigurationError, 'was not written by'):
                report.read(path)

    @unittest.skipUnless(importlib.util.find_spec('matplotlib'), 'needs matplotlib')
    def test_picture(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, 'run.png')
            report.plot(path, self.run_(), self.run_(20.0))
            with open(path, 'rb') as file:
                self.assertEqual(file.read(4), b'\x89PNG')
            with self.assertRaisesRegex(RemoteTaskError, 'cannot be written'):
                report.plot(os.path.join(directory, 'run.unknown'), self.run_())

    @unittest.skipIf(importlib.util.find_spec('matplotlib'), 'matplotlib is there')
    def test_no_picture(self):
        with self.assertRaisesRegex(RemoteTaskError, r'lovely\.remotetask\[plot\]'):
            report.plot('run.png', self.run_())

    def test_names(self):
        self.assertEqual((bench.NAMES, bench.ASKED), (tuple(measures.MEASURES), measures.ASKED))


if __name__ == '__main__':
    unittest.main()
