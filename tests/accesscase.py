"""A front end with users, and the header that tells it who calls."""
# SPDX-License-Identifier: ZPL-2.1
import base64
import os
import shutil
import tempfile
import xmlrpc.client

from lovely.remotetask.config.users import Users
from lovely.remotetask.xmlrpc import faults
from lovely.remotetask.xmlrpc.access import Authenticator
from lovely.remotetask.xmlrpc.access import Throttle
from lovely.remotetask.xmlrpc.server import Frontend
from servercase import ServerCase
from test_users import HASH
from test_users import OTHER_HASH
from test_users import PASSWORD


USERS = f'''\
ann:{HASH}:manage:*:*
sue:{HASH}:submit:*:*
vic:{HASH}:view:*:*
films:{HASH}:submit:ec*:*
site:{HASH}:manage:*:/site1/*
other:{OTHER_HASH}:manage:ech?,squ[ab]re,none:/,/site1/*
'''


def basic(name, password):
    """Return the header Authorization."""
    return 'Basic ' + base64.b64encode(f'{name}:{password}'.encode()).decode()


def parked(directory, text=USERS):
    """Write a users file into a directory and return its path."""
    path = os.path.join(directory, 'users')
    with open(path, 'w', encoding='utf-8', opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
    return path


class AccessCase(ServerCase):
    """A frontend with users."""

    def makeFrontend(self):
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        self.path, self.throttle = parked(directory), Throttle()
        authenticator = Authenticator(Users(self.path), self.throttle)
        return Frontend(('127.0.0.1', 0), self.gateway, self.limits, authenticator=authenticator)

    def as_(self, name, password=PASSWORD, path='/'):
        """Return a proxy of a user."""
        host, port = self.frontend.address
        user = f'{name}:{"".join(f"%{byte:02x}" for byte in password.encode())}'
        proxy = xmlrpc.client.ServerProxy(f'http://{user}@{host}:{port}{path}', allow_none=True)
        self.addCleanup(proxy('close'))
        return proxy

    def assertRefused(self, function, *arguments, reason=''):
        with self.assertLogs('lovely.remotetask', 'WARNING') as logged:
            self.assertFault(faults.NOT_ALLOWED, reason, function, *arguments)
        self.assertEqual(len(logged.output), 1)
        self.assertRegex(logged.output[0], f'refused 127.0.0.1, user .*{reason}')
