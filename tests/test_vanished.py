"""A machine that vanishes with the lock that all commits need: real network namespaces, and a cable that is cut."""
# SPDX-License-Identifier: ZPL-2.1
import tempfile
import unittest

from lovely.remotetask.common.keepalive import VANISHED
from lovely.remotetask.testing import Process
from machines import network
from waits import PATIENCE


PORT = 9000

# A client that commits; or one that votes, and then neither finishes nor ends.
COMMIT = """\
import sys, time, transaction
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
        if sys.argv[3] == 'stall':
            time.sleep(3600)


connection = DB(ClientStorage((sys.argv[1], int(sys.argv[2])))).open()
print('connected')
connection.root()[sys.argv[3]] = 1
transaction.get().join(Last())
print('commits')
transaction.commit()
print('committed')
"""


class VanishedTest(unittest.TestCase):

    level = 2

    def setUp(self):
        self.network, self.here, self.there = network(self, 'here', 'there')
        self.directory = self.enterContext(tempfile.TemporaryDirectory())
        self.server = self.start(self.here, '-m', 'lovely.remotetask.runzeo', '-a', f'{self.here.address}:{PORT}',
                                 '-f', f'{self.directory}/Data.fs')

    def start(self, machine, *arguments):
        process = machine.run(Process, arguments, self.directory)
        self.addCleanup(process.close)
        return process

    def client(self, machine, name):
        client = self.start(machine, '-c', COMMIT, self.here.address, str(PORT), name)
        client.waitFor('connected')
        return client

    def test_a_client_that_vanishes_after_its_vote(self):
        vanishing = self.client(self.there, 'stall')
        vanishing.waitFor('voted')
        other = self.client(self.here, 'other')
        other.waitFor('commits')
        # It would have to wait for ever.
        with self.assertRaises(AssertionError):
            other.waitFor('committed', 1)
        self.network.cut(self.there)
        other.waitFor('committed', VANISHED + PATIENCE)
        self.assertIsNone(vanishing.popen.poll())


if __name__ == '__main__':
    unittest.main()
