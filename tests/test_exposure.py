"""An address that others can reach needs users and TLS: the check, and the processes that users start."""
# SPDX-License-Identifier: ZPL-2.1
import json
import os
import re
import subprocess
import tempfile
import unittest

import trustme

from accesscase import parked
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.xmlrpc.access import checkExposure
from test_cli import PATIENCE
from test_cli import environment
from test_cli import start
from test_users import PASSWORD


class TestExposure(unittest.TestCase):

    def test_addresses(self):
        for host in '127.0.0.1', '127.1.2.3', '::1', 'localhost', '::ffff:127.0.0.1':
            checkExposure((host, 80), False, False)
        for host in '', '0.0.0.0', '::', '192.0.2.1', '2001:db8::1', 'no.such.host.invalid', 'x' * 300:
            with self.subTest(host):
                checkExposure((host, 80), True, True)
                for given, message in (((False, False), 'add users and certificate to <frontend>'),
                                       ((True, False), 'add certificate to'), ((False, True), 'add users to')):
                    with self.assertRaises(ConfigurationError) as caught:
                        checkExposure((host, 80), *given)
                    self.assertIn(message, str(caught.exception))
                    self.assertIn(f'{host}:80', str(caught.exception))
                    self.assertIn('allow-insecure on', str(caught.exception))


CONFIGURATION = '''
<zodb>
  <mappingstorage/>
</zodb>
<frontend>
  address {address}
  {more}
</frontend>
'''


class TestProcesses(unittest.TestCase):
    """The server and the clients as users start them."""

    level = 2

    def setUp(self):
        self.directory = os.path.realpath(self.enterContext(tempfile.TemporaryDirectory()))
        parked(self.directory)
        self.authority = trustme.CA()
        leaf = self.authority.issue_cert('127.0.0.1', 'localhost')
        leaf.cert_chain_pems[0].write_to_path(self.file('certificate.pem'))
        leaf.private_key_pem.write_to_path(self.file('key.pem'))
        self.authority.cert_pem.write_to_path(self.file('authority.pem'))

    def file(self, name):
        return os.path.join(self.directory, name)

    def serve(self, address, *more):
        """Start a frontend; return the process."""
        with open(self.file('remotetask.conf'), 'w') as file:
            file.write(CONFIGURATION.format(address=address, more='\n  '.join(more)))
        process = start('-C', self.file('remotetask.conf'), 'serve')
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def urlOf(self, process):
        """Wait until a frontend is ready; return its URL, and have its log read from then on."""
        for line in process.stdout:
            if line.startswith('listening on '):
                url = line.split()[-1]
            if line == 'ready\n':
                return url
        self.fail(process.stderr.read())

    def remotetask(self, *arguments, **more):
        process = start(*arguments, env=environment(**more), stdin=subprocess.DEVNULL)
        output, errors = process.communicate(timeout=PATIENCE)
        return process.returncode, output, errors

    def test_open(self):
        for address, more, message in (
                ('0.0.0.0:0', (), 'add users and certificate to <frontend>'),
                ('[::]:0', ('users users',), 'add certificate to <frontend>'),
                ('127.0.0.1:0', ('users nowhere',), 'nowhere: cannot read the users file'),
                ('127.0.0.1:0', ('certificate key.pem',), 'cannot use the certificate')):
            with self.subTest(address, more=more):
                process = self.serve(address, *more)
                output, errors = process.communicate(timeout=PATIENCE)
                self.assertEqual(process.returncode, 2)
                self.assertNotIn('ready', output)
                self.assertIn(message, errors.splitlines()[-1])

    def test_allowed(self):
        process = self.serve('0.0.0.0:0', 'allow-insecure on')
        self.assertRegex(self.urlOf(process), 'http://0.0.0.0:[0-9]+/')

    def test_story(self):
        process = self.serve('0.0.0.0:0', 'users users', 'certificate certificate.pem', 'key key.pem')
        port = re.fullmatch('https://0.0.0.0:([0-9]+)/\n?', self.urlOf(process))[1]
        trust = {'SSL_CERT_FILE': self.file('authority.pem')}
        password = PASSWORD.replace(' ', '%20')
        url = f'https://sue:{password}@localhost:{port}/'
        code, output, errors = self.remotetask('add', '--url', url, 'echo', '[1]', '--wait', **trust)
        self.assertEqual((code, json.loads(output)), (0, [1]))
        self.assertRegex(errors, r'\Ajob \d+\n\Z')
        code, output, errors = self.remotetask('pause', '--url', url, **trust)
        self.assertEqual((code, output), (1, ''))
        self.assertIn('needs the role manage', errors)
        for wrong, message in (
                (f'https://localhost:{port}/', '401 Unauthorized; put user and password into the URL, https://USER:'),
                (f'https://sue:x@localhost:{port}/', '401 Unauthorized; there is no such user, or the password'),
                (f'https://sue:{password}@127.0.0.2:{port}/', 'the certificate is for another host'),
                (f'http://sue:{password}@localhost:{port}/', 'if the front end speaks TLS, the URL begins with https')):
            code, output, errors = self.remotetask('tasks', '--url', wrong, **trust)
            self.assertNotEqual(code, 0)
            self.assertIn(message, errors)
            self.assertNotIn(password, errors)
        code, output, errors = self.remotetask('tasks', '--url', url)
        self.assertEqual((code, output), (3, ''))
        self.assertIn('name its file in the environment: SSL_CERT_FILE=FILE', errors)


if __name__ == '__main__':
    unittest.main()
