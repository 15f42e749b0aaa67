"""A processing host alone, as host.cfg makes it; and logrotate."""
# SPDX-License-Identifier: ZPL-2.1
import configparser
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import unittest
import xmlrpc.client

import lovely.remotetask
from deployment import PATIENCE
from deployment import DeploymentCase
from lovely.remotetask.testing import Process
from waits import waitUntil


LOGROTATE = shutil.which('logrotate', path=os.environ.get('PATH', '') + ':/usr/sbin')
DOCUMENTS = pathlib.Path(lovely.remotetask.__file__).parent / 'documents'
DEPLOYING, OPERATING = DOCUMENTS / 'deploying.txt', DOCUMENTS / 'operating.txt'
ROOT = pathlib.Path(__file__).parent.parent

def eggs():
    """Return the directory of the eggs that buildout has installed here; None where it has not."""
    installed = configparser.ConfigParser(interpolation=None, strict=False, delimiters='=')
    installed.read(ROOT / '.installed.cfg')
    found = {section['eggs-directory'] for section in installed.values() if 'eggs-directory' in section}
    return pathlib.Path(found.pop()).parent.parent if found else None        # without what is for this Python


def buildoutProgram():
    """Return the path of the program."""
    return os.path.join(os.path.dirname(sys.executable), 'buildout')


@unittest.skipUnless(eggs(), 'the tests were not made by buildout')
class TestBuildoutOfHost(DeploymentCase):

    level = 2

    hostNames = ()
    handlers = {'double': 'double'}
    tasks = 'def double(input):\n    return input * 2\n'

    def buildout(self, text):
        """Make the files of a deployment in a directory of its own, and return its path."""
        directory = self.directory / 'elsewhere'
        directory.mkdir()
        for path in ROOT.glob('*.cfg'):
            if path.name != 'deployment.cfg':
                shutil.copy(path, directory)
        (directory / 'deployment.cfg').write_text(text)
        # The package is here already, so it needs no program for it.
        options = f'buildout:eggs-directory={eggs()}', 'buildout:develop='
        parts = 'directories', 'host.conf', 'supervisord.conf'
        done = subprocess.run([buildoutProgram(), '-q', *options, 'install', *parts],
                              cwd=directory, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual((done.returncode, done.stdout), (0, ''))
        return directory

    def test_large_values_go_to_it(self):
        text = DEPLOYING.read_text().partition('With buildout,')[2].partition('::\n\n')[2].partition('\n\n')[0]
        for old, new in (('zeo.example.org:8100', '%s:%d' % self.server.address),
                         ('/srv/films/site.zcml', f'{self.directory}/site.zcml')):
            self.assertIn(old, text)
            text = text.replace(old, new)
        directory = self.buildout(textwrap.dedent(text))
        supervisor = configparser.ConfigParser(interpolation=None)
        supervisor.read(directory / 'etc' / 'supervisord.conf')
        self.assertEqual([name for name in supervisor if name.startswith('program:')], ['program:host'])
        words = supervisor['program:host']['command'].split()
        self.assertEqual(words[0], str(directory / 'bin' / 'remotetask'))
        host = self.start('-m', 'lovely.remotetask', *words[1:])
        self.processes.append(host)
        host.waitFor('ready')
        with xmlrpc.client.ServerProxy(self.url, allow_none=True) as service:
            jobid = service.add('double', 'x' * 1_000_000)
            self.assertEqual(service.waitFor([jobid], PATIENCE), ['completed'])
            self.assertEqual(service.getResult(jobid), 'x' * 2_000_000)
            self.assertEqual(service.getJob(jobid)['host'], socket.gethostname())
        self.assertGreater(sum(path.stat().st_size for path in (directory / 'var').rglob('*.blob')), 1_000_000)
        self.assertEqual(host.end(), 0)


@unittest.skipUnless(eggs(), 'the tests were not made by buildout')
class TestDirectoryOfBuildout(unittest.TestCase):

    level = 2

    def test_that_scripts_cannot_name(self):
        for name in 'my films', 'a%b':
            directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / name
            directory.mkdir()
            for path in ROOT.glob('*.cfg'):
                shutil.copy(path, directory)
            done = subprocess.run([buildoutProgram(), '-q', 'install', 'directories'], cwd=directory, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            with self.subTest(name):
                self.assertEqual(done.returncode, 1)
                self.assertIn('move this directory to a path without blanks or special characters', done.stdout)
                self.assertFalse((directory / 'etc').exists())


@unittest.skipUnless(LOGROTATE, 'logrotate is not installed')
class TestLogrotate(unittest.TestCase):
    """The configuration of operating.txt."""

    level = 2

    def test_it(self):
        directory = pathlib.Path(os.path.realpath(self.enterContext(tempfile.TemporaryDirectory())))
        logs = directory / 'log'
        logs.mkdir(0o700)
        (directory / 'site.conf').write_text(
            f'<frontend>\naddress 0\n</frontend>\n'
            f'<eventlog>\n<logfile>\npath {logs}/site.log\n</logfile>\n</eventlog>\n')
        server = Process(['-m', 'lovely.remotetask', '-C', 'site.conf', 'serve'], str(directory))
        self.addCleanup(server.close)
        server.waitFor('ready')
        text = re.search(r'    /srv/.*\{\n(?: {4}.*\n)+', OPERATING.read_text())[0]
        text = text.replace('/srv/remotetask/var/log', str(logs))
        command, = re.findall('systemctl reload .*', text)
        (directory / 'logrotate.conf').write_text(text.replace(command, f'kill -HUP {server.pid}'))
        subprocess.run([LOGROTATE, '--force', '--state', directory / 'state', directory / 'logrotate.conf'], check=True)
        log = logs / 'site.log'
        waitUntil(lambda: log.exists() and 'reopened the log' in log.read_text(), 'a new log',
                  lambda: str([path.read_text() for path in logs.iterdir()]))
        self.assertEqual(server.end(), 0)
        self.assertIn('has started', (logs / 'site.log.1').read_text())
        self.assertIn('stopping', (logs / 'site.log').read_text())


if __name__ == '__main__':
    unittest.main()
