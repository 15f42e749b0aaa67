"""A processing host alone, as host.cfg makes it, and what deploying.txt says of it."""
# SPDX-License-Identifier: ZPL-2.1
import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import unittest
import xmlrpc.client

from deployment import PATIENCE
from deployment import DeploymentCase


ROOT = pathlib.Path(__file__).parent.parent

#: What `deployment.cfg` of the other machine says.
HOST = """\
[buildout]
extends = host.cfg
[deployment]
database-address = {address}
site-definition = {site}
host-more = name beta
"""


def eggs():
    """Return the directory of the eggs that buildout has installed here; None where it has not."""
    installed = configparser.ConfigParser(interpolation=None, strict=False, delimiters='=')
    installed.read(ROOT / '.installed.cfg')
    found = {section['eggs-directory'] for section in installed.values() if 'eggs-directory' in section}
    return pathlib.Path(found.pop()).parent.parent if found else None        # without what is for this Python


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
        buildout = os.path.join(os.path.dirname(sys.executable), 'buildout')
        # The package is here already, so it needs no program for it.
        options = f'buildout:eggs-directory={eggs()}', 'buildout:develop='
        done = subprocess.run([buildout, '-q', *options, 'install', 'directories', 'host.conf', 'supervisord.conf'],
                              cwd=directory, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual((done.returncode, done.stdout), (0, ''))
        return directory

    def test_large_values_go_to_it(self):
        text = HOST.format(address='%s:%d' % self.server.address, site=self.directory / 'site.zcml')
        directory = self.buildout(text)
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
            self.assertEqual(service.getJob(jobid)['host'], 'beta')
        self.assertGreater(sum(path.stat().st_size for path in (directory / 'var').rglob('*.blob')), 1_000_000)
        self.assertEqual(host.end(), 0)


if __name__ == '__main__':
    unittest.main()
