"""Backup and restore, by the commands of operating.txt: of a database server that is in use."""
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


def commands():
    """Return the two lists of commands in the document: to back up, and to restore."""
    section = DOCUMENT.read_text().partition('\nBackup and restore\n')[2].partition('\n\n\n')[0]
    return [re.sub('(?m)^    ', '', block) for block in re.findall('::\n\n((?:    .*\n)+)', section)]


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
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(os.path.abspath, sys.path)))
        subprocess.run(['sh', '-e', '-c', script], cwd=self.directory, env=environment, check=True)

    def add(self, db):
        with db.transaction() as connection:
            jobid = getService(connection).add('size', b'x' * SIZE)
        self.jobids.append(jobid)               # now it is committed

    def test_the_commands_of_the_document(self):
        backup, restore = commands()
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


if __name__ == '__main__':
    unittest.main()
