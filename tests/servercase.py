"""A front end on a free port, and how the tests speak with it."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import http.client
import os
import shutil
import socket
import tempfile
import threading
import unittest
import xmlrpc.client

import ZODB
from ZODB.FileStorage import FileStorage
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask import errors
from lovely.remotetask.config.limits import Limits
from lovely.remotetask.service import TaskService
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.xmlrpc.gateway import Gateway
from lovely.remotetask.xmlrpc.server import Frontend
from threads import inThread
from waits import PATIENCE
from waits import waitUntil


WAIT = PATIENCE

CALL = xmlrpc.client.dumps((), 'getAvailableTasks').encode()


class ServerCase(unittest.TestCase):
    """A frontend on a free port: '/' and '/site1/Tasks' have a service each."""

    limits = Limits(requestTime=WAIT, idleTime=WAIT)
    deadline = WAIT

    def setUp(self):
        self.addCleanup(testing.tearDown)
        for name in 'square', 'echo':
            provideUtility(SimpleTask(len), name=name)
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        self.storage = FileStorage(os.path.join(directory, 'data.fs'))
        self.db = ZODB.DB(self.storage)
        self.addCleanup(self.db.close)
        self.services = {}
        with self.db.transaction() as connection:
            connection.root()['/'] = TaskService()
            connection.root()['/site1/Täsks'] = TaskService()
        self.gateway = Gateway(self.db, self.resolve, deadline=self.deadline)
        self.gateway.start()
        self.addCleanup(self.gateway.stop, WAIT)
        self.frontend = self.makeFrontend()
        self.serving, _ = inThread(self.frontend.serveForever)
        self.addCleanup(self.frontend.stop, WAIT)

    def makeFrontend(self):
        return Frontend(('127.0.0.1', 0), self.gateway, self.limits)

    def resolve(self, connection, path):
        if path in self.services:
            return self.services[path]
        try:
            return connection.root()[path]
        except KeyError:
            raise errors.UnknownService(path) from None

    def addSlow(self, status):
        """Have a service at '/slow' whose `getStatus` waits; return the events that it has begun, and that it may end.

        status -- what it returns.
        """
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)

        class Slow:
            def getStatus(self, jobid):
                begun.set()
                go.wait(WAIT)
                return status
        self.services['/slow'] = Slow()
        return begun, go

    def proxy(self, path='/'):
        host, port = self.frontend.address
        proxy = xmlrpc.client.ServerProxy(f'http://{host}:{port}{path}', allow_none=True, use_builtin_types=True)
        self.addCleanup(proxy('close'))
        return proxy

    def socket(self):
        """Return a connected socket."""
        connection = socket.create_connection(self.frontend.address, WAIT)
        self.addCleanup(connection.close)
        return connection

    def send(self, data):
        """Send bytes over a new connection, end it and return all that comes back."""
        connection = self.socket()
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return self.receive(connection)

    def receive(self, connection):
        """Return all that comes until the other side ends the connection, in whichever way."""
        pieces = []
        with contextlib.suppress(ConnectionError):
            while True:
                piece = connection.recv(65536)
                if not piece:
                    break
                pieces.append(piece)
        return b''.join(pieces)

    def post(self, body, path='/', **headers):
        """Return the status, headers and body of the answer to a POST request."""
        connection = http.client.HTTPConnection(*self.frontend.address, timeout=WAIT)
        try:
            connection.request('POST', path, body, {name.replace('_', '-'): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    waitUntil = staticmethod(waitUntil)

    def assertFault(self, code, sentence, function, *arguments):
        with self.assertRaises(xmlrpc.client.Fault) as caught:
            function(*arguments)
        self.assertEqual(caught.exception.faultCode, code)
        self.assertRegex(caught.exception.faultString, sentence)

    def assertServing(self):
        self.assertEqual(self.proxy().getAvailableTasks(), ['echo', 'square'])
