"""The program of a client: adds jobs in the database, or calls a front end, and says how long it took.

It reads orders from its standard input and answers to its standard output, each a line of JSON.  An order is prepared,
answered by {"ready": true}, carried out when another line comes, and answered by what a method of `Orders` returns.
"""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import json
import re
import socket
import sys
import threading
import time
import urllib.parse
import xmlrpc.client

import transaction
from ZODB.POSException import ConflictError

from lovely.remotetask.config.settings import load
from lovely.remotetask.config.zcml import loadSite
from lovely.remotetask.database.opening import Database
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import atPath


_LENGTH = re.compile(rb'(?i)\r\ncontent-length: *([0-9]+)')

_CLOSE = re.compile(rb'(?i)\r\nconnection: *close')

#: Jobs that a client adds before it is measured.
WARM = 5


def addJobs(db, path, jobs, batch=1):
    """Add jobs and return how often a transaction was repeated because of a conflict.

    db -- a `ZODB.DB`.
    path -- of the service, names.
    jobs -- pairs of the name of a task and an input.
    batch -- how many are added in a transaction.
    """
    conflicts, manager = 0, transaction.TransactionManager(explicit=True)
    with contextlib.closing(db.open(manager)) as connection:
        for start in range(0, len(jobs), batch):
            while True:
                manager.begin()
                try:
                    service = atPath(connection.root()[ROOT_NAME], path)
                    for task, input in jobs[start:start + batch]:
                        service.add(task, input)
                    manager.commit()
                    break
                except ConflictError:
                    manager.abort()
                    conflicts += 1
                except BaseException:
                    manager.abort()
                    raise
    return conflicts


def _request(address, method, arguments):
    """Return the bytes of an HTTP request that calls a method; `address` is what `urlsplit` makes of a URL."""
    body = xmlrpc.client.dumps(tuple(arguments), method, allow_none=True).encode()
    head = f'POST {address.path or "/"} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: text/xml\r\n' \
           f'Content-Length: {len(body)}\r\n\r\n'
    return head.encode() + body


class Caller:
    """A connection to a front end that sends ready-made requests: the front end is to be measured, not the client.

    A client that parsed each answer would take as much processor time as the front end.
    """

    def __init__(self, address):
        """`address` is a pair of host and port."""
        self._address = address
        self._connect()

    def _connect(self):
        self._socket = socket.create_connection(self._address, timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, request):
        """Send a request and wait for the answer; raise `xmlrpc.client.Fault` when it is one, or another error."""
        self._socket.sendall(request)
        answer = b''
        while True:
            head, end, body = answer.partition(b'\r\n\r\n')
            if end and len(body) >= int(_LENGTH.search(head)[1]):
                break
            part = self._socket.recv(65536)
            if not part:
                raise ConnectionError(f'the front end has ended the connection, after {answer!r:.200}')
            answer += part
        if not head.startswith(b'HTTP/1.1 200 '):
            raise ConnectionError(head.decode('latin-1'))
        if b'<fault>' in body:
            xmlrpc.client.loads(body)
        if _CLOSE.search(head):             # each connection is good for so many requests
            self.close()
            self._connect()

    def close(self):
        """Close the connection."""
        self._socket.close()


class Orders:
    """The orders: each method prepares one, and returns a callable that carries it out and returns a dict."""

    def __init__(self):
        self._closing = contextlib.ExitStack()
        self._siteLoaded = False

    def add(self, configuration, path, jobs):
        """Add jobs in the database, one by one.

        configuration -- the path of a configuration file.
        """
        self._closing.close()
        settings = load(configuration)
        if not self._siteLoaded:
            loadSite(settings.siteDefinition)
            self._siteLoaded = True
        database = Database(settings.database.open)
        self._closing.callback(database.close)
        addJobs(database.db, path, jobs[:WARM])         # what a client loads once is not the cost of each job
        return lambda: {'conflicts': addJobs(database.db, path, jobs)}

    def call(self, url, method, arguments, threads):
        """Call a method once for each element of `arguments`, a list, in so many threads with a connection each."""
        self._closing.close()
        address = urllib.parse.urlsplit(url)
        requests = [_request(address, method, each) for each in arguments]
        callers = [Caller((address.hostname, address.port)) for _ in range(threads)]
        for caller in callers:
            self._closing.callback(caller.close)
            caller.call(_request(address, 'isProcessing', ()))          # for all that a first call takes
        errors = []

        def calls(caller, share):
            try:
                for request in share:
                    caller.call(request)
            except Exception as error:
                errors.append(f'{type(error).__name__}: {error}')

        def run():
            workers = [threading.Thread(target=calls, args=(caller, requests[number::threads]))
                       for number, caller in enumerate(callers)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            return {'error': errors[0]} if errors else {}

        return run


def main():
    """Carry out orders until the standard input ends."""
    orders = Orders()
    for line in sys.stdin:
        order = json.loads(line)
        run = getattr(orders, order.pop('do'))(**order)
        print(json.dumps({'ready': True}), flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        answer = run()
        print(json.dumps({'began': began, 'ended': time.monotonic(), **answer}), flush=True)


if __name__ == '__main__':
    main()
