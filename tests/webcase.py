"""What the tests of the pages share: a database, tasks, users, a clock, and browsers."""
# SPDX-License-Identifier: ZPL-2.1
import base64
import contextlib
import os
import tempfile
import unittest
import unittest.mock

import webob
import zope.component.testing
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zope.component import provideUtility
from zope.interface import Interface
from zope.schema import Bool
from zope.schema import Choice
from zope.schema import Dict
from zope.schema import Float
from zope.schema import Int
from zope.schema import Password
from zope.schema import Text
from zope.schema import TextLine

from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.task import TaskError
from lovely.remotetask.web.application import application
from lovely.remotetask.xmlrpc.access import Principal
from test_users import HASH
from test_users import OTHER_HASH
from test_users import OTHER_PASSWORD
from test_users import PASSWORD


NOW = 1_780_000_000.0
#: What would run if it were not escaped, in text, in attributes, and in a script.
MARKUP = '''</title><script>alert(1)</script><img src=x onerror="alert(1)">"'><b>'''

USERS = f'''
ann:{HASH}:manage:*:*
sue:{HASH}:submit:*:*
bob:{OTHER_HASH}:view:*:*
films:{OTHER_HASH}:manage:film*:*
'''
PASSWORDS = {'ann': PASSWORD, 'sue': PASSWORD, 'bob': OTHER_PASSWORD, 'films': OTHER_PASSWORD}


class ServiceCase(unittest.TestCase):
    """Has a database `db` with a service."""

    @contextlib.contextmanager
    def service(self):
        """Give the service, and commit what is done to it."""
        with self.db.transaction() as connection:
            yield connection.root()['Application']['TaskService']

    def do(self, name, *arguments, **options):
        """Call a method of the service, and return what it returns."""
        with self.service() as service:
            return getattr(service, name)(*arguments, **options)


class IFilm(Interface):
    """What a film needs."""

    title = TextLine(title='Title')
    year = Int(title='Year', required=False, min=1888)
    rate = Float(title='Rate', required=False)
    isMute = Bool(title='Mute', default=True)
    kind = Choice(title='Kind', values=('drama', 'comedy'), required=False)
    about = Text(title='About', required=False)
    password = Password(title='Password', required=False)
    pin2 = Password(title='Second password', required=False)
    more = Dict(title='More', required=False)


class WebCase(ServiceCase):
    """A database, tasks, users, a clock, and browsers."""

    users = None

    def setUp(self):
        self.addCleanup(zope.component.testing.tearDown)
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.db = DB(FileStorage(self.directory + '/Data.fs', blob_dir=self.directory + '/blobs'))
        self.addCleanup(self.db.close)
        install(self.db)
        for name, task in (('echo', SimpleTask(lambda input: input)), ('fail', SimpleTask(self.fail_)),
                           ('film', SimpleTask(lambda input: input, IFilm)), ('a/b c', SimpleTask(str))):
            provideUtility(task, name=name)
        self.now = NOW
        users = None
        if self.users:
            users = self.directory + '/users'
            with open(os.open(users, os.O_WRONLY | os.O_CREAT, 0o600), 'w', encoding='utf-8') as file:
                file.write(self.users)
        self.application = application(self.db, users, clock=lambda: self.now)

    def fail_(self, input):
        raise TaskError('as asked')

    def request(self, path, user=None, form=None, **headers):
        """Return a request as a browser of this machine sends it; names of headers have _ for -."""
        request = webob.Request.blank(path, POST=form, environ={'REMOTE_ADDR': '127.0.0.1'})
        if user is not None:
            pair = f'{user}:{PASSWORDS.get(user, "wrong password")}'.encode()
            request.headers['Authorization'] = 'Basic ' + base64.b64encode(pair).decode()
        if form is not None:
            request.headers['Sec-Fetch-Site'] = 'same-origin'
            request.headers['Origin'] = 'http://localhost'
        for name, value in headers.items():
            name = name.replace('_', '-')
            if value is None:
                request.headers.pop(name, None)
            else:
                request.headers[name] = value
        return request

    def get(self, path, user=None, status=200, **headers):
        """Return the response to a request for a page."""
        response = self.request(path, user, **headers).get_response(self.application)
        self.assertEqual(response.status_int, status, response.text)
        return response

    def token(self, user=None):
        return self.application.guard.tokenOf(Principal(user, frozenset()))

    def post(self, button, user=None, status=303, form=None, query='', **fields):
        """Return the response to pressing a button."""
        form = {'token': self.token(user), **fields} if form is None else form
        response = self.request(f'/do/{button}{query}', user, form).get_response(self.application)
        self.assertEqual(response.status_int, status, response.text)
        return response

    def status(self, jobid):
        return self.do('getStatus', jobid)
