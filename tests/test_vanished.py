"""A machine that vanishes with the lock that all commits need: real network namespaces, and a cable that is cut."""
# SPDX-License-Identifier: ZPL-2.1
import os
import shutil
import subprocess
import tempfile
import unittest

from lovely.remotetask.common.keepalive import VANISHED
from lovely.remotetask.testing import Process


#: Seconds after which something that should have happened long ago makes a test fail.
PATIENCE = 60

#: Addresses for tests and examples (RFC 5737), in namespaces that nobody else sees.
SERVER, CLIENT, PORT = '192.0.2.1', '192.0.2.2', 9000

# What each process begins with: it enters its namespace.
ENTER = """\
import ctypes, os, sys
descriptor = os.open(f'/run/netns/{sys.argv[1]}', os.O_RDONLY)
if ctypes.CDLL(None).setns(descriptor, 0x40000000):         # CLONE_NEWNET
    sys.exit('there is no way into the namespace')
"""

RUNZEO = ENTER + """\
from lovely.remotetask.runzeo import main
main(sys.argv[2:])
"""

# A client that commits; or one that votes, and then neither finishes nor ends.
COMMIT = ENTER + """\
import time, transaction
from ZEO.ClientStorage import ClientStorage
from ZODB.DB import DB


class Last:
    def sortKey(self):
        return '~'
    def tpc_begin(self, transaction):
        pass
    commit = abort = tpc_finish = tpc_abort = tpc_begin
    def tpc_vote(self, transaction):
        print('voted')
        if sys.argv[4] == 'stall':
            time.sleep(3600)


connection = DB(ClientStorage((sys.argv[2], int(sys.argv[3])))).open()
print('connected')
connection.root()[sys.argv[4]] = 1
transaction.get().join(Last())
print('commits')
transaction.commit()
print('committed')
"""


class VanishedTest(unittest.TestCase):

    level = 2

    def setUp(self):
        if os.getuid() or shutil.which('ip') is None:
            self.skipTest('network namespaces need root and the program ip (package iproute2)')
        self.here, self.there = (f'remotetask-{os.getpid()}-{name}' for name in ('here', 'there'))
        for namespace in self.here, self.there:
            if (made := self.ip('netns', 'add', namespace)).returncode:
                self.skipTest(f'network namespaces are not possible here: {made.stdout}')
            self.addCleanup(self.ip, 'netns', 'delete', namespace)
        made = self.ip('link', 'add', 'cable', 'netns', self.here, 'type', 'veth', 'peer', 'cable', 'netns', self.there)
        if made.returncode:
            self.skipTest(f'a cable between network namespaces is not possible here: {made.stdout}')
        for namespace, address in (self.here, SERVER), (self.there, CLIENT):
            for arguments in (['address', 'add', f'{address}/30', 'dev', 'cable'], ['link', 'set', 'cable', 'up'],
                              ['link', 'set', 'lo', 'up']):
                self.assertEqual(self.ip('-n', namespace, *arguments).returncode, 0, arguments)
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.server = self.start(RUNZEO, self.here, '-a', f'{SERVER}:{PORT}', '-f', f'{self.directory}/Data.fs')

    def ip(self, *arguments):
        return subprocess.run(['ip', *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def start(self, code, namespace, *arguments):
        process = Process(['-c', code, namespace, *arguments], self.directory)
        self.addCleanup(process.close)
        return process

    def client(self, namespace, name):
        client = self.start(COMMIT, namespace, SERVER, str(PORT), name)
        client.waitFor('connected')
        return client

    def cut(self):
        """Have the client's machine vanish: what it sends comes to nobody, and nobody says so."""
        self.assertEqual(self.ip('-n', self.there, 'route', 'add', 'blackhole', f'{SERVER}/32').returncode, 0)

    def test_a_client_that_vanishes_after_its_vote(self):
        vanishing = self.client(self.there, 'stall')
        vanishing.waitFor('voted')
        other = self.client(self.here, 'other')
        other.waitFor('commits')
        # It would have to wait for ever.
        with self.assertRaises(AssertionError):
            other.waitFor('committed', 1)
        self.cut()
        other.waitFor('committed', VANISHED + PATIENCE)
        self.assertIsNone(vanishing.popen.poll())


if __name__ == '__main__':
    unittest.main()
