"""Releases beside each other: real processes of this one, and of copies of it that pretend to be another release."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
import xmlrpc.client

import lovely.remotetask
from deployment import PATIENCE
from deployment import DeploymentCase
from deployment import configurationOf
from lovely.remotetask.client import Client
from lovely.remotetask.common.release import release
from lovely.remotetask.testing import Process
from lovely.remotetask.xmlrpc import faults


SOURCE = pathlib.Path(lovely.remotetask.__file__).parent

#: What makes a copy need another generation, and exclude older releases.
NEXT_GENERATION = """
GENERATION = OLDEST = 2
STEPS[1] = Step('nothing but a number', 2, lambda service: True)
PATIENCE = 0
"""

#: The same, in six parts.  The one that a file names hangs as long as that is there.
IN_PARTS = """
import pathlib

def _doPart(service):
    service.parts = getattr(service, 'parts', 0) + 1
    print('part', service.parts, flush=True)
    while pathlib.Path('hangs').exists() and pathlib.Path('hangs').read_text() == str(service.parts):
        time.sleep(0.01)
    return service.parts == 6

GENERATION = OLDEST = 2
STEPS[1] = Step('in parts', 2, _doPart)
PATIENCE = 0
"""

TASKS = """
import os

def note(input):
    descriptor = os.open('trace', os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f'{input} {os.environ["REMOTETASK_TREE"]}\\n'.encode())
    os.close(descriptor)
"""


def copyOf(directory, version, changes):
    """Make a copy of the package that says another version; return the directory to be imported from.

    directory -- an existing one.
    version -- a text.
    changes -- path of a module -> what is added at its end, or a pair of what is replaced and what by.
    """
    tree = pathlib.Path(directory) / version
    package = tree / 'lovely' / 'remotetask'
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns('documents'))
    (about := tree / 'lovely.remotetask.dist-info').mkdir()
    (about / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: lovely.remotetask\nVersion: {version}\n')
    for name, change in changes.items():
        path, text = package / name, (package / name).read_text()
        if isinstance(change, str):
            path.write_text(text + change)
        else:
            if change[0] not in text:
                raise AssertionError(f'{name} has no {change[0]!r}')
            path.write_text(text.replace(*change))
    return str(tree)


class UpgradeCase(DeploymentCase):
    """A front end and the host `alpha` of this release.

    version, changes -- of the copy: see `copyOf`.
    """

    level = 2
    hostNames = 'alpha',
    handlers, tasks = {'note': 'note'}, TASKS
    version, changes = '9.1', {}

    def setUp(self):
        self.tree = copyOf(self.enterContext(tempfile.TemporaryDirectory()), self.version, self.changes)
        self.added = 0
        super().setUp()

    def environmentOf(self, tree):
        path = [str(self.directory), *(os.path.abspath(entry) for entry in sys.path)]
        return {'PYTHONPATH': os.pathsep.join([tree, *path] if tree else path),
                'REMOTETASK_TREE': pathlib.Path(tree).name if tree else 'this'}

    def start(self, *arguments, tree=None):
        process = Process(arguments, str(self.directory), self.environmentOf(tree))
        self.addCleanup(process.close)
        return process

    def startOther(self, name, command):
        """Start a process of the copy; return it."""
        path = self.configure(name)
        return self.start('-m', 'lovely.remotetask.cli.main', '-C', path, command, tree=self.tree)

    def configure(self, name):
        """Write the configuration file of a process; return its path."""
        return self.write(f'{name}.conf', configurationOf(self.directory, self.databaseOf(name), name))

    def ends(self, process):
        """Wait until a process has ended by itself; return its exit code and what it has said."""
        code = process.popen.wait(PATIENCE)
        process._reader.join(PATIENCE)
        return code, ''.join(process.said)

    def add(self, count, *urls):
        """Add jobs, by each of the front ends in turn; return their ids."""
        jobids = []
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(url)) for url in urls]
            for number in range(count):
                jobids.append(clients[number % len(clients)].add('note', self.added))
                self.added += 1
        return jobids

    def trees(self):
        """Return how many jobs were run by each tree; fail if a job was not run once."""
        rows = [line.split() for line in (self.directory / 'trace').read_text().splitlines()]
        self.assertEqual(sorted(int(number) for number, _ in rows), list(range(self.added)))
        return collections.Counter(tree for _, tree in rows)

    def await_(self, jobids, url):
        with Client(url) as client:
            self.assertEqual(set(client.waitFor(jobids, PATIENCE)), {'completed'})


class TestSameGeneration(UpgradeCase):

    changes = {
        # What a newer release may have: another method, another argument, and more that it tells.
        'xmlrpc/calls.py': ("Argument('after', (str,), None)))", "Argument('after', (str,), None),\n"
                            "        Argument('novelty', (str,), None)))"),
        'xmlrpc/methods.py': ('filter, after):\n', 'filter, after, novelty=None):\n'),
        'client/__init__.py': ('task, since, filter, after)\n', "task, since, filter, after, None)\n\n"
                               "    def getNovelty(self):\n        return self.call('getNovelty')\n"),
        'storage/hosts.py': ("'release': owner.get('release'),", "'release': owner.get('release'), 'novelty': 'new',"),
    }

    def test_they_run_beside_each_other_and_back(self):
        beta, frontend = self.startOther('beta', 'processor'), self.startOther('frontend-2', 'frontend')
        urls = self.url, frontend.waitFor('listening on ')
        for process in beta, frontend:
            process.waitFor('ready')
        self.checkClients(*urls)
        self.await_(self.add(20, *urls), self.url)
        alpha = self.hosts[0]
        for restart in self.startOther, self.remotetask:            # up, and down again
            jobids = self.add(6, *urls)
            self.assertEqual(alpha.end(), 0)
            jobids += self.add(6, *urls)
            alpha = restart('alpha', 'processor')
            alpha.waitFor('ready')
            self.await_(jobids, urls[1])
        self.assertEqual(set(self.trees()), {'this', '9.1'})
        self.assertNotIn('knows generation', self.server.said + ''.join(alpha.said + beta.said))

    def checkClients(self, older, newer):
        """Talk to a front end of this release, and one of the newer one, from clients of both."""
        with Client(older) as here, Client(newer) as there:
            self.assertEqual((here.getRelease(), there.getRelease()), (release(), '9.1'))
            for client in here, there:
                self.assertEqual({host['name']: host['release'] for host in client.getProcessingHosts()},
                                 {'alpha': release(), 'beta': '9.1'})
            self.assertEqual(there.getProcessingHosts()[0]['novelty'], 'new')
            self.assertEqual(here.getJobs()['jobs'], there.getJobs()['jobs'])
            with self.assertRaisesRegex(faults.BadArguments, "there is no option 'novelty'; there are key, timeLimit,"):
                here.call('add', 'note', 1, False, {'novelty': 1})
        program = ('from lovely.remotetask.client import Client\n'
                   f'client = Client({older!r})\n'
                   'print(client.getJobs()["total"])\n'
                   'client.getNovelty()\n')
        done = subprocess.run([sys.executable, '-c', program], env={**os.environ, **self.environmentOf(self.tree)},
                              capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual(done.stdout, '0\n', done.stderr)
        self.assertIn("there is no method 'getNovelty'; system.listMethods names those there are", done.stderr)


class TestNextGeneration(UpgradeCase):

    version, changes = '9.2', {'storage/generations.py': NEXT_GENERATION}

    def test_first_it_is_refused_and_then_the_older_one(self):
        code, said = self.ends(self.startOther('beta', 'serve'))
        self.assertEqual(code, 1)
        self.assertIn('remotetask: the task service /TaskService is of generation 1, and this release, 9.2, needs 2: '
                      '"remotetask upgrade --check" says what will be done about that\n', said)
        self.assertNotIn('listening', said)
        self.await_(self.add(10, self.url), self.url)               # nobody has noticed
        path = self.configure('beta')
        code, said = self.upgrade(path)
        self.assertEqual(code, 1)
        self.assertIn(f'stop these processing hosts first: alpha ({release()})\n', said)
        with Client(self.url) as client:
            client.pause()
            left = self.add(10, self.url)
            self.assertEqual(self.hosts[0].end(), 0)
            self.assertEqual(self.upgrade(path)[0], 0)
        self.checkOlder()
        beta, frontend = self.startOther('beta', 'processor'), self.startOther('frontend-2', 'frontend')
        url = frontend.waitFor('listening on ')
        with Client(url) as client:
            client.resume()
        self.await_(left + self.add(5, url), url)
        self.assertEqual(self.trees(), {'this': 10, '9.2': 15})
        self.assertEqual(beta.end(), 0)

    def upgrade(self, path):
        """Call the command of the copy; return its exit code and what it says."""
        done = subprocess.run([sys.executable, '-m', 'lovely.remotetask', '-C', path, 'upgrade'], text=True,
                              cwd=self.directory, env={**os.environ, **self.environmentOf(self.tree)},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE)
        return done.returncode, done.stdout

    def checkOlder(self):
        """See that this release refuses the data: the front end that runs, and a host that is to start."""
        said = (f'the task service /TaskService is of generation 2, which this release, {release()}, cannot work with: '
                f'install lovely.remotetask 9.2 or a newer one')
        with xmlrpc.client.ServerProxy(self.url) as proxy, self.assertRaises(xmlrpc.client.Fault) as caught:
            proxy.add('note', 0)
        self.assertEqual((caught.exception.faultCode, caught.exception.faultString), (faults.WRONG_GENERATION, said))
        code, told = self.ends(self.remotetask('alpha', 'processor'))
        self.assertEqual(code, 1)
        self.assertIn(f'remotetask: {said}\n', told)


class TestKilledUpgrade(UpgradeCase):

    hostNames = ()
    version, changes = '9.3', {'storage/generations.py': IN_PARTS}

    def upgrade(self):
        """Start the command of the copy; return the process."""
        path = self.configure('beta')
        return self.start('-m', 'lovely.remotetask', '-C', path, 'upgrade', tree=self.tree)

    def test_it_goes_on_where_it_was(self):
        jobids = self.add(10, self.url)
        self.write('hangs', '3')
        process = self.upgrade()
        process.waitFor('part 3')
        process.popen.kill()
        self.ends(process)
        code, said = self.ends(self.startOther('beta', 'processor'))    # which does not work with what is half done
        self.assertEqual(code, 1)
        self.assertIn('is of generation 1, and this release, 9.3, needs 2: "remotetask upgrade --check" says', said)
        (self.directory / 'hangs').unlink()
        code, said = self.ends(self.upgrade())
        self.assertEqual((code, [line for line in said.splitlines() if line.startswith('part')]),
                         (0, ['part 3', 'part 4', 'part 5', 'part 6']))     # what was committed is not done again
        frontend, host = self.startOther('frontend-2', 'frontend'), self.startOther('beta', 'processor')
        self.await_(jobids, frontend.waitFor('listening on '))
        self.assertEqual(self.trees(), {'9.3': 10})
        self.assertEqual(host.end(), 0)


if __name__ == '__main__':
    unittest.main()
