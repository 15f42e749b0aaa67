"""Posting calls to a front end: connections that are kept, time-outs, and what goes wrong, as exceptions."""
# SPDX-License-Identifier: ZPL-2.1
import base64
import contextlib
import functools
import http.client
import io
import os
import socket
import ssl
import threading
import time
import urllib.parse
import weakref
import xmlrpc.client
from typing import Any
from xml.parsers.expat import ExpatError

from lovely.remotetask import errors
from lovely.remotetask.common import tracing
from lovely.remotetask.common.keepalive import keepAlive
from lovely.remotetask.common.passwordfile import readPassword
from lovely.remotetask.xmlrpc import faults


#: The variable of the environment that names a file with the password.
PASSWORD_FILE = 'REMOTETASK_PASSWORD_FILE'
#: Bytes of an answer at most: the largest result that a front end gives, with each character written as an entity.
ANSWER_SIZE = 256 * 1024 * 1024
#: Seconds for which a connection that is not in use is kept: later on, a proxy or a firewall may have forgotten it.
IDLE_TIME = 30.0
#: Seconds after which a connection breaks whose other end does not confirm that it has got what was sent.
CONFIRM_TIME = 30.0
# What is read at a time.
_CHUNK_SIZE = 64 * 1024
# Bytes that are read of the reason for a refusal.
_SENTENCE_SIZE = 1000

# What xmlrpc.client raises for an answer that is not XML-RPC.
_NO_XMLRPC = (xmlrpc.client.Error, ExpatError, ValueError, LookupError, TypeError, ArithmeticError)


class RemoteFault(errors.RemoteTaskError):
    """The front end refused a call, or could not carry it out.

    For a fault code of `xmlrpc.faults`, the exception is also an instance of the class that the code stands for, so
    that `except errors.UnknownJob` works.  It has the message and `code`, but not the other attributes of that class.
    """

    def __init__(self, code: int, sentence: str) -> None:
        """`code` is the fault's, an int, `sentence` what the front end says."""
        Exception.__init__(self, sentence)      # those of the other classes make a sentence themselves
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return remoteFault, (self.code, str(self))


def _faultClass(exception: type[BaseException]) -> type[RemoteFault]:
    return type(exception.__name__, (RemoteFault, exception), {'__doc__': exception.__doc__})


# The first row of a code in the table tells the class.
_FAULTS = {entry.code: _faultClass(entry.exception) for entry in reversed(faults.TABLE)}


def remoteFault(code: int, sentence: str) -> RemoteFault:
    """Return the exception for a fault, a `RemoteFault`."""
    return _FAULTS.get(code, RemoteFault)(code, sentence)


class NotConnected(errors.RemoteTaskError):
    """There is no connection to be had, so nothing was sent; check the URL, and whether the front end is running."""

    def __init__(self, url: str, reason: str, refused: bool = False) -> None:
        """`refused` says whether nobody listens there, as when a front end is just being started again."""
        super().__init__(f'{url}: cannot connect: {reason}')
        self.refused = refused


class ConnectionBroken(errors.RemoteTaskError):
    """The connection ended before the answer did: whether the call was carried out is unknown."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f'{url}: the connection broke: {reason}')


class NoAnswer(errors.RemoteTaskError, TimeoutError):
    """No answer came in time: whether the call was carried out is unknown."""

    def __init__(self, url: str, seconds: float, before: Exception | None = None) -> None:
        """`before` is why the call was repeated."""
        reason = '' if before is None else f'; before that: {before}'
        super().__init__(f'{url} did not answer within {seconds:g} seconds{reason}')


class BadAnswer(errors.RemoteTaskError):
    """What answers is no XML-RPC server; check the URL."""

    def __init__(self, url: str, protocol: str, reason: str) -> None:
        super().__init__(f'{url} does not answer in {protocol}: {reason}')


class HttpError(errors.RemoteTaskError):
    """The request was refused before the call in it was read; `status` is the number of HTTP.

    502 and 504 are of a proxy that got no answer from the front end: whether the call was carried out is unknown.
    """

    def __init__(self, url: str, status: int, reason: str, retryAfter: float | None = None, said: str = '') -> None:
        """Make one.

        retryAfter -- the number of seconds after which the server wants to see it again; None: it does not say.
        said -- what a front end says of its reasons, a sentence or nothing.
        """
        super().__init__(f'{url} answers with HTTP status {status} {reason}{said and ": "}{said}')
        self.status, self.retryAfter = status, retryAfter


class NotAuthorized(HttpError):
    """The front end knows no such user, or the password is wrong.

    Both stand in the URL, before the host, unless the password is in the file that `PASSWORD_FILE` names.
    """


def _left(until: float) -> float:
    """Return the seconds until then, by time.monotonic; raise `TimeoutError` when there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError()
    return left


def _reason(error: BaseException) -> str:
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__


def _retryAfter(response: http.client.HTTPResponse) -> float | None:
    value = response.getheader('Retry-After') or ''
    return float(value) if value.isascii() and value.isdecimal() and len(value) < 9 else None


def _sentence(response: http.client.HTTPResponse) -> str:
    """Return why a front end refuses a request, if it says so."""
    if response.getheader('X-Request-ID') is None or response.status == 401:        # of which more is known here
        return ''
    try:
        text = response.read(_SENTENCE_SIZE).decode('utf-8').strip().rstrip('.')
    except (OSError, http.client.HTTPException, ValueError):
        return ''
    return text if text.isprintable() else ''


def _credentials(user: str) -> bytes:
    """Return user and password of a URL, or with the password from the file if the URL has none; raise ValueError."""
    path = os.environ.get(PASSWORD_FILE)
    credentials = urllib.parse.unquote_to_bytes(user)
    if ':' in user or not path:
        return credentials
    try:
        return credentials + b':' + readPassword(path).encode('utf-8')
    except ValueError as error:
        raise ValueError(f'{PASSWORD_FILE}: {error}') from error


class _Reader(io.RawIOBase):
    """Reads what comes over a socket until a time, by time.monotonic, however slowly it comes."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock, self._file, self._until = sock, sock.makefile('rb', buffering=0), until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._until))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer that must arrive by a given time."""

    def __init__(self, sock: socket.socket, until: float, **arguments: Any) -> None:
        super().__init__(sock, **arguments)
        self.fp.close()
        self.fp = io.BufferedReader(_Reader(sock, until))


# The pools of this process.
_pools: weakref.WeakSet['ConnectionPool'] = weakref.WeakSet()


def _leaveToParent() -> None:
    """Give the connections up in a process that was forked: the other process goes on with them."""
    for pool in list(_pools):
        pool.forget()


os.register_at_fork(after_in_child=_leaveToParent)


class ConnectionPool:
    """Where requests go: posts them over connections that are kept, one for each thread that is waiting."""

    def __init__(self, url: str, context: ssl.SSLContext | None) -> None:
        try:
            parts = urllib.parse.urlsplit(url)
            valid = parts.scheme in ('http', 'https') and parts.hostname and parts.port != 0
        except ValueError:                      # no number for a port
            valid = False
        if not valid or not url.isascii() or not url.isprintable() or ' ' in url:
            raise ValueError(f'{url.rpartition("@")[2].partition("?")[0]!r} is not a URL such as '
                             f'http://127.0.0.1:8080/')
        user, _, host = parts.netloc.rpartition('@')
        # For messages: a password is not for the screen, nor is what may be in a query.
        self.url = urllib.parse.urlunsplit((parts.scheme, host, parts.path or '/', '', ''))
        self.answered = False                   # whether it ever has
        self._target = urllib.parse.urlunsplit(('', '', parts.path or '/', parts.query, ''))
        self._headers = {'Content-Type': 'text/xml', 'User-Agent': 'lovely.remotetask'}
        if user:
            self._headers['Authorization'] = f'Basic {base64.b64encode(_credentials(user)).decode("ascii")}'
        self._address = parts.hostname or '', parts.port
        self._context = None if parts.scheme == 'http' else context or ssl.create_default_context()
        self._lock = threading.Lock()           # guards the two that follow
        # A connection, and when it was used last; the latest is at the end.
        self._idle: list[tuple[http.client.HTTPConnection, float]] = []
        self._closed = False
        _pools.add(self)

    def forget(self) -> None:
        """Give up the connections, in a process that was forked: no thread of it has the lock."""
        self._lock = threading.Lock()
        while self._idle:
            self._idle.pop()[0].close()         # the other process has it open

    @property
    def idleConnections(self) -> int:
        """How many connections are kept that are not in use."""
        return len(self._idle)

    def close(self) -> None:
        """Close the connections; those that are in use when they are not any more."""
        with self._lock:
            self._closed = True
            connections, self._idle = self._idle, []
        for connection, _ in connections:
            connection.close()

    def post(self, body: bytes, seconds: float, until: float, fresh: bool) -> Any:
        """Send the body of a request, bytes, and return the value that its answer carries.

        seconds, until -- how long the whole may take: for messages, and by time.monotonic.
        fresh -- whether it must be a new connection: one that was kept may be closed by the server just when it is
            used again.
        """
        with self._lock:
            if self._closed:
                raise errors.RemoteTaskError('the client has been closed')
            connection, used = self._idle.pop() if self._idle else (self._makeConnection(), time.monotonic())
        try:
            if fresh or time.monotonic() - used >= IDLE_TIME:
                connection.close()              # it opens itself again
            answer = self._exchange(connection, body, until)
        except TimeoutError:
            connection.close()
            raise NoAnswer(self.url, seconds) from None
        except BaseException:
            connection.close()
            raise
        self._putBack(connection)
        return self._value(answer)

    def _makeConnection(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(*self._address)
        return http.client.HTTPSConnection(*self._address, context=self._context)

    def _putBack(self, connection: http.client.HTTPConnection) -> None:
        now, leaving = time.monotonic(), []
        with self._lock:
            self._idle.append((connection, now))
            while self._idle and (self._closed or now - self._idle[0][1] >= IDLE_TIME):
                leaving.append(self._idle.pop(0)[0])
        for connection in leaving:
            connection.close()

    def _exchange(self, connection: http.client.HTTPConnection, body: bytes, until: float) -> Any:
        """Return the `xmlrpc.client.Unmarshaller` that has seen the answer; raise `TimeoutError`."""
        if connection.sock is None:
            self._connect(connection, until)
        sock = connection.sock
        try:
            sock.settimeout(_left(until))
            with contextlib.suppress(ConnectionError):      # a server that refuses a request may not read it to its end
                traceparent = tracing.injected()
                headers = self._headers if traceparent is None else {**self._headers, 'traceparent': traceparent}
                connection.request('POST', self._target, body, headers)
            connection.response_class = functools.partial(_Response, until=until)   # type: ignore[assignment]
            response = connection.getresponse()
            self.answered = True
            if response.status == 200:
                return self._read(response)
        except BadAnswer:
            raise
        except TimeoutError as error:
            if error.errno is None:
                raise
            # The system has given up: the other machine has gone, or what is in between has forgotten the connection.
            raise ConnectionBroken(self.url, _reason(error)) from error
        except (ConnectionError, http.client.IncompleteRead) as error:
            raise ConnectionBroken(self.url, _reason(error)) from error
        except http.client.HTTPException as error:
            raise BadAnswer(self.url, 'HTTP', _reason(error)) from error
        except OSError as error:
            raise ConnectionBroken(self.url, _reason(error)) from error
        kind = NotAuthorized if response.status == 401 else HttpError
        raise kind(self.url, response.status, response.reason, _retryAfter(response), _sentence(response))

    def _connect(self, connection: http.client.HTTPConnection, until: float) -> None:
        connection.timeout = _left(until)
        try:
            connection.connect()
        except (OSError, UnicodeError) as error:            # UnicodeError: a name that can't be one of a host
            raise NotConnected(self.url, _reason(error), isinstance(error, ConnectionRefusedError)) from error
        keepAlive(connection.sock, CONFIRM_TIME)

    def _read(self, response: http.client.HTTPResponse) -> Any:
        parser, unmarshaller = xmlrpc.client.getparser(use_builtin_types=True)
        allowed, length = ANSWER_SIZE, response.length      # None for one that is not announced
        try:
            while length != 0:
                chunk = response.read1(min(length or _CHUNK_SIZE, _CHUNK_SIZE))
                if not chunk:
                    break
                allowed -= len(chunk)
                if allowed < 0:
                    raise BadAnswer(self.url, 'XML-RPC', f'more than {ANSWER_SIZE} bytes')
                if length is not None:
                    length -= len(chunk)
                parser.feed(chunk)
            if length:
                raise http.client.IncompleteRead(b'', length)
            response.close()                    # older Pythons wait for more otherwise
            parser.close()
        except _NO_XMLRPC as error:
            raise BadAnswer(self.url, 'XML-RPC', _reason(error)) from error
        return unmarshaller

    def _value(self, answer: Any) -> Any:
        try:
            [value] = answer.close()
        except xmlrpc.client.Fault as fault:
            if type(fault.faultCode) is int and type(fault.faultString) is str:
                raise remoteFault(fault.faultCode, fault.faultString) from None
            raise BadAnswer(self.url, 'XML-RPC', 'a fault without code or text') from fault
        except _NO_XMLRPC as error:
            raise BadAnswer(self.url, 'XML-RPC', _reason(error)) from error
        return value
