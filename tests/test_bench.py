"""The command bench: it measures all, shows it, and leaves nothing behind.  No test looks at how fast anything is."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import unittest

from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

from lovely.remotetask.bench import measures
from lovely.remotetask.bench import report
from lovely.remotetask.bench import stage
from lovely.remotetask.cli import bench
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.sites import ROOT_NAME
from lovely.remotetask.testing import temporaryZEO
from zope.component.testing import PlacelessSetup


#: Seconds for a whole run, on a slow machine.
PATIENCE = 300

EMBEDDED = """\
<zodb>
  <filestorage>
    path {directory}/Data.fs
  </filestorage>
</zodb>
"""

# Of every run, wherever; `{}` is for what differs between the two kinds of database.
EVERYWHERE = {
    'add, 1 client', 'add, 3 clients', 'add, 3 clients: conflicts', 'bulk add', 'drain, 1 host',
    'drain, 1 host: in the middle', 'drain, 1 host: conflicts', 'drain, 1 host: written', 'latency, p50',
    'latency, p95', 'latency, p99', 'XML-RPC add, 8 clients', 'XML-RPC add, 32 clients',
    'XML-RPC getStatus, 8 clients', 'XML-RPC getResult, 8 clients', 'write many objects, 1 host',
    'write many objects, 1 host: conflicts', 'busy threads, 2 hosts', 'idle, processor time', 'idle, commits'}
ONE_OBJECT = {'write one object, {}', 'write one object, {}: conflicts', 'write one object, {}: longest pause'}
OF_TWO_HOSTS = {name.replace('1 host', '2 hosts') for name in EVERYWHERE if '1 host' in name}
MEMORY = {'memory, frontend', 'memory, this process'}

#: What may be 0 in a short run: conflicts, and what is finer than the clock.
MAY_BE_ZERO = ('conflicts', 'idle')


class CommandTest(unittest.TestCase):

    def setUp(self):
        closing = contextlib.ExitStack()
        self.addCleanup(closing.close)
        self.directory = os.path.realpath(closing.enter_context(tempfile.TemporaryDirectory()))
        self.json = os.path.join(self.directory, 'run.json')

    def start(self, *arguments):
        """Start the program, in the directory of the test."""
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        return subprocess.Popen(
            [sys.executable, '-m', 'lovely.remotetask.cli.main', *arguments], cwd=self.directory, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=path, COLUMNS='120'))

    def bench(self, *arguments, configuration=None, code=0):
        """Run the command, and return its standard output, or that of errors if it has to fail."""
        before = () if configuration is None else ('-C', configuration)
        with self.start(*before, 'bench', *arguments) as process:
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
            names = {name for name in names if not name.startswith('memory')}
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
            self.assertEqual([name for name in root if name.startswith(stage.FOLDER)], [])
            self.assertEqual(len(root['TaskService'].jobs), 0)

    def test_database_server(self):
        with temporaryZEO() as server:
            output = self.bench('--jobs', '200', '--clients', '3', '--repeat', '1', '--behind', '100', '--seconds',
                                '0.001', '--payload', '20', '--json', self.json,
                                configuration=self.configure(server.config))
            names = EVERYWHERE | OF_TWO_HOSTS | {name.format('2 hosts') for name in ONE_OBJECT} | MEMORY
            self.checkRun(output, names | {'memory, processing host'})
            self.assertEqual(self.read()['parameters']['hosts'], [1, 2])
            self.checkClean(server.database())

    def test_embedded_database(self):
        output = self.bench('--jobs', '200', '--clients', '3', '--repeat', '1', '--json', self.json,
                            configuration=self.configure(EMBEDDED.format(directory=self.directory)))
        self.checkRun(output, EVERYWHERE | {name.format('1 host') for name in ONE_OBJECT} | MEMORY)
        self.assertIn('threads of it', output)
        db = DB(FileStorage(os.path.join(self.directory, 'Data.fs')))
        self.addCleanup(db.close)
        self.checkClean(db)

    def test_nothing_configured_and_compared(self):
        arguments = '--zeo', '--only', 'bulk', '--jobs', '20', '--json', self.json
        self.bench(*arguments)
        self.assertEqual(set(self.read()['results']), {'bulk add'})
        self.assertEqual(len(self.read()['results']['bulk add']['all']), 3)
        output = self.bench(*arguments, '--compare', self.json)
        self.assertIn('before', output)
        self.assertIn('ratio', output)

    def test_refusals(self):
        path = self.configure('<zodb>\n  <mappingstorage/>\n</zodb>\n')
        self.assertIn('in memory', self.bench(configuration=path, code=2))
        self.assertIn('--zeo is for', self.bench('--zeo', configuration=path, code=2))
        self.assertIn('No such file', self.bench('--compare', 'nowhere.json', code=2))
        self.assertIn('from 1 to 64', self.bench('--hosts', '0', code=2))


class HostTest(PlacelessSetup, unittest.TestCase):
    """A host that dies is noticed, and what it has said is told."""

    def test_host_that_dies(self):
        with stage.stage(stage.Settings(jobs=20), zeo=True) as place:
            place.hosts(1)
            place.add([('bench-sleep', {'seconds': 60})])
            timer = threading.Timer(1, place._hosts[0].popen.kill)
            timer.start()
            self.addCleanup(timer.join)
            with self.assertRaisesRegex(stage.BenchError, 'host-1 has ended with exit code -9') as caught:
                place.waitFor(lambda service: False)
            self.assertIn('processing as host-1', caught.exception.log)


class ConfigurationTest(unittest.TestCase):

    def text(self, content):
        with tempfile.NamedTemporaryFile('w') as file:
            file.write(content)
            file.flush()
            return stage._databaseText(file.name)

    def test_database_section(self):
        self.assertEqual(self.text('%import ZEO\nsite-definition x\n<zodb main>\n  a\n</zodb>\n<frontend/>\n'),
                         '%import ZEO\n<zodb main>\n  a\n</zodb>')
        self.assertEqual(self.text('<frontend/>\n'), '')

    def test_included(self):
        with self.assertRaisesRegex(ConfigurationError, 'has to be in this file'):
            self.text('%include other.conf\n')


class ReportTest(unittest.TestCase):

    def run_(self, value=10.0):
        results = measures.Results()
        for each in value, 2 * value, 9 * value:
            results.add(measures.Value('bulk add', each, 'jobs/s', measures.HIGHER))
        results.add(measures.Value('latency, p50', 1 / value, 'ms', measures.LOWER))
        return report.asDict(results, stage.Settings(), 'a database', False, '1.0', now=0)

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
        self.assertEqual(bench.NAMES, tuple(measures.MEASURES))


if __name__ == '__main__':
    unittest.main()
