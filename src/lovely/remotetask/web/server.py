"""The server of the pages in a process without another WSGI server: waitress, in a thread that can be stopped."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import socket
import threading

from waitress import wasyncore
from waitress.server import create_server

from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.web.application import FORM_SIZE
from lovely.remotetask.xmlrpc import accesslog
from lovely.remotetask.xmlrpc.access import checkExposure


log = logging.getLogger('lovely.remotetask')

#: Connections at a time, and seconds after which a silent one is closed.
CONNECTIONS, SILENCE = 200, 60

#: Seconds to wait after a connection could not be accepted: there may be no more files until another one is closed.
PAUSE = 0.1

#: Bytes of a request's head.
HEAD_SIZE = 64 * 1024

#: Paths that are asked for by machines all the time: they are not in the access log.
UNLOGGED = ('/live', '/ready', '/metrics')


class Server:
    """Listens from the beginning, answers from `start` on, until `stop`."""

    def __init__(self, application, address, threads, name='the pages', path=''):
        """Raise `ConfigurationError` when the address cannot be used.

        application -- a WSGI callable.
        address -- the pair of host and port; port 0 is any free one.
        threads -- how many requests are answered at the same time.
        name -- what it serves, for messages.
        path -- what a proxy has put before the paths of the application, '/pages' for example: its SCRIPT_NAME.
        """
        family = socket.AF_INET6 if ':' in address[0] else socket.AF_INET
        try:
            self._socket = socket.create_server(address, family=family)
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(f'{name} cannot listen at {address[0]}:{address[1]}: '
                                     f'{getattr(error, "strerror", None) or error}') from error
        self.address = self._socket.getsockname()[:2]
        self._map, self._stopping = {}, threading.Event()
        self._server = create_server(
            _logged(application), map=self._map, sockets=[self._socket], threads=threads, ident=None,
            connection_limit=CONNECTIONS, channel_timeout=SILENCE, max_request_header_size=HEAD_SIZE,
            max_request_body_size=FORM_SIZE, url_prefix=path,
            # These say that a proxy stands in front of us, which the application has to know.
            clear_untrusted_proxy_headers=False)
        self._name, self._canAccept, self._tryToAccept = name, True, self._server.accept
        self._server.accept = self._accept
        self._thread = threading.Thread(target=self._run, name='remotetask-pages', daemon=True)

    def start(self):
        """Begin to answer."""
        self._thread.start()

    def _run(self):
        while not self._stopping.is_set():
            try:
                wasyncore.loop(timeout=1.0, map=self._map, use_poll=True, count=1)
            except Exception:                   # no error ends the thread
                log.exception('%s had an error', self._name)
                self._stopping.wait(PAUSE)

    def _accept(self):
        """Accept a connection for waitress, which would try again at once, and log each try, when no file is left."""
        try:
            accepted, self._canAccept = self._tryToAccept(), True
            return accepted
        except OSError as error:
            if self._canAccept:
                log.warning('%s cannot accept connections: %s', self._name, error.strerror)
            self._canAccept = False
            self._stopping.wait(PAUSE)
            return None

    def stop(self, timeout=None):
        """Take no more requests, and wait up to `timeout` seconds for the end of those that are being answered.

        Return whether they have.  Twice, or before `start`, is fine.
        """
        if not self._stopping.is_set():
            self._stopping.set()
            self._server.pull_trigger()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=5 if timeout is None else min(5, timeout))
        wasyncore.close_all(self._map, ignore_all=True)
        return not self._thread.is_alive()


def checkReach(address, hasUsers):
    """Raise `ConfigurationError` if other machines could reach the pages at an address, a pair of host and port.

    hasUsers -- whether they ask for users.
    """
    try:
        checkExposure(address, hasUsers, hasCertificate=False)
    except ConfigurationError:
        raise ConfigurationError(
            f'the pages would be open to other machines at {address[0]}:{address[1]}, and speak no TLS: have a proxy '
            'with TLS in front of them at 127.0.0.1, or add "allow-insecure on" to <web>'
            + ('' if hasUsers else '; without users they answer only this machine')) from None


def _logged(application):
    """Return a WSGI callable that writes a line into the access log for each request."""
    def answer(environ, start_response):
        answered = []

        def start(status, headers, exc_info=None):
            answered[:] = status, dict(headers)
            return start_response(status, headers, exc_info)

        chunks = application(environ, start)
        if environ.get('PATH_INFO') not in UNLOGGED:
            status, headers = answered
            query = environ.get('QUERY_STRING', '')
            line = f'{environ["REQUEST_METHOD"]} {environ.get("PATH_INFO", "")}{"?" if query else ""}{query}'
            sent = {'referer': environ.get('HTTP_REFERER', '-'), 'user-agent': environ.get('HTTP_USER_AGENT', '-')}
            accesslog.log(environ.get('REMOTE_ADDR', '-'), environ.get('remotetask.user'), line, int(status[:3]),
                          int(headers.get('Content-Length') or 0), sent, '-', '-')
        return chunks

    return answer
