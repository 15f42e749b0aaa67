"""Backup and restore, by the commands of operating.txt: of a database server that is in use; and packing."""
# SPDX-License-Identifier: ZPL-2.1
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from zope.component import provideUtility
from zope.component import testing

import lovely.remotetask
from lovely.remotetask.application import getService
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import PATIENCE
from lovely.remotetask.testing import temporaryZEO


DOCUMENT = pathlib.Path(lovely.remotetask.__file__).parent / 'documents' / 'operating.txt'

#: Bytes of an input, which are in a blob then; and seconds between two jobs.
SIZE, PAUSE = 100_000, 0.05


def commands(title, document=DOCUMENT):
    """Return the lists of commands in a section of a document."""
    section = document.read_text().partition(f'\n{title}\n---')[2].partition('\n\n\n')[0]
    return [re.sub('(?m)^    ', '', block) for block in re.findall('::\n\n((?:    .*\n)+)', section)]


def environment(**variables):
    """Return the environment for commands that find the same packages as this process."""
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(map(os.path.abspath, sys.path)), **variables}


class TestBackup(unittest.TestCase):

    level = 2

    def setUp(self):
        self.addCleanup(testing.tearDown)
        provideUtility(SimpleTask(len), name='size')
        self.directory = self.enterContext(tempfile.TemporaryDirectory())
        self.data = os.path.join(self.directory, 'var', 'zeo')
        os.makedirs(self.data)

    def run_(self, script):
        """Run commands as the document has them, with the program of this Python; supervisor is the test itself."""
        script = script.replace('bin/repozo', f'{sys.executable} -m ZODB.scripts.repozo')
        script = script.replace('bin/supervisor', ': ')
        subprocess.run(['sh', '-e', '-c', script], cwd=self.directory, env=environment(), check=True)

    def add(self, db):
        with db.transaction() as connection:
            jobid = getService(connection).add('size', b'x' * SIZE)
        self.jobids.append(jobid)               # now it is committed

    def test_the_commands_of_the_document(self):
        backup, restore = commands('Backup and restore')
        self.jobids = []
        with temporaryZEO(self.data) as zeo:
            db = zeo.database()
            install(db)
            loads = self.load(db)
            for _ in range(2):                              # all of it, and then what has been added
                next(loads)
                before = [*self.jobids]
                self.run_(backup)
                second = int(time.time())
                while int(time.time()) == second:           # repozo names what it writes by the second
                    next(loads)
            loads.close()
            self.add(db)
            with db.transaction() as connection:            # they run after the backup, and again after the restore
                getService(connection).process()
                self.assertEqual(getService(connection).getStatus(before[0]), 'completed')
            lost = self.jobids[-1]
        kinds = {path.suffix for path in pathlib.Path(self.directory, 'backup', 'database').iterdir()}
        self.assertLessEqual({'.fs', '.deltafs'}, kinds)
        self.run_(restore)
        self.assertEqual(os.stat(self.data).st_mode & 0o77, 0)
        with temporaryZEO(self.data) as zeo, zeo.database().transaction() as connection:
            service = getService(connection)
            self.assertEqual(service.getStatus(before[0]), 'queued')
            with self.assertRaises(UnknownJob):
                service.getStatus(lost)
            service.process()
            there = [jobid for jobid in self.jobids if jobid in service.jobs]
            self.assertLessEqual(set(before), set(there))
            self.assertEqual({service.getResult(jobid) for jobid in there}, {SIZE})

    def load(self, db):
        """Add jobs in a thread, one after the other; each `next` waits until some more have come."""
        stop, more = threading.Event(), threading.Semaphore(0)

        def work():
            while not stop.wait(PAUSE):
                self.add(db)
                more.release()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            while True:
                for _ in range(5):
                    self.assertTrue(more.acquire(timeout=PATIENCE))
                yield
        finally:
            stop.set()
            thread.join()


class TestPacking(unittest.TestCase):

    level = 2

    def setUp(self):
        self.directory = self.enterContext(tempfile.TemporaryDirectory())
        self.server = self.enterContext(temporaryZEO(self.directory))
        self.db = self.server.database()
        install(self.db)
        self.path = pathlib.Path(self.directory, 'etc')
        self.path.mkdir()
        (self.path / 'processor-1.conf').write_text(self.server.config)

    def grow(self):
        """Write data that is replaced, and return the size of the database."""
        for number in range(10):
            with self.db.transaction() as connection:
                connection.root()['data'] = f'{number}' * 50_000
        return self.size()

    def size(self):
        return os.path.getsize(os.path.join(self.directory, 'Data.fs'))

    def run_(self, command):
        """Run a command of the document, with this Python, at the server."""
        programs = {'bin/remotetask': 'lovely.remotetask', 'bin/zeopack': 'ZEO.scripts.zeopack'}
        for name, module in programs.items():
            command = command.replace(name, f'{sys.executable} -m {module}')
        command = command.replace('127.0.0.1:8100', '%s:%d' % self.server.address)
        subprocess.run(['sh', '-e', '-c', command], cwd=self.directory, env=environment(), check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def test_the_commands_of_the_document(self):
        (block,) = commands('Packing')
        for command in block.splitlines():
            with self.subTest(command):
                before = self.grow()
                self.run_(command)                              # nothing is a day old
                self.assertGreater(self.size(), before * 0.9)
                self.run_(command.replace('--days 1', '--days 0'))
                self.assertLess(self.size(), before / 3)
                self.assertTrue(os.path.exists(os.path.join(self.directory, 'Data.fs.old')))


if __name__ == '__main__':
    unittest.main()
