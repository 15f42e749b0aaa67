"""XML-RPC over HTTP: the standard library's server, with limits on what a client can take of it."""
# SPDX-License-Identifier: ZPL-2.1
import dataclasses
import functools
import http.client
import io
import logging
import re
import secrets
import socket
import sys
import threading
import time
import zlib
from http import HTTPStatus
from socketserver import ThreadingMixIn
from urllib.parse import unquote
from xmlrpc.client import gzip_decode
from xmlrpc.server import SimpleXMLRPCRequestHandler
from xmlrpc.server import SimpleXMLRPCServer

from lovely.remotetask import errors
from lovely.remotetask.xmlrpc import methods
from lovely.remotetask.xmlrpc.faults import INTERNAL_ERROR
from lovely.remotetask.xmlrpc.faults import faultFor
from lovely.remotetask.xmlrpc.wire import dumpFault
from lovely.remotetask.xmlrpc.wire import dumpResponse
from lovely.remotetask.xmlrpc.wire import parseCall


logger = logging.getLogger('lovely.remotetask')
accessLogger = logging.getLogger('lovely.remotetask.access')

# A request line and the headers after it, in bytes; the standard library limits each line to half of it.
_HEAD_SIZE = 128 * 1024
# What is read at a time, so that memory is taken only as a body really arrives.
_CHUNK_SIZE = 64 * 1024
# A body that is larger takes its turn; see `Limits.largeBodies`.
_LARGE_BODY = 256 * 1024

_LENGTH = re.compile('[0-9]{1,18}')
# A URL as proxies send it, with all before the path.
_ORIGIN = re.compile('https?://[^/?]*', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a client can take of the frontend.  Raises `errors.ConfigurationError` for values that are not positive."""

    #: Connections at a time; the next one is told 503.  Each has a thread.
    connections: int = 200
    #: Bytes of a request's body, also after decompression; a larger one is refused with 413.
    bodySize: int = 8 * 1024 * 1024
    #: Bodies above 256 KiB that are read and worked on at a time; the others wait.  With bodySize it bounds the memory.
    largeBodies: int = 8
    #: Seconds from the first byte of a request to its last, however it drips.
    requestTime: float = 20.0
    #: Seconds that a connection may be silent between two requests.
    idleTime: float = 60.0
    #: Seconds that a client may take to accept an answer.
    answerTime: float = 60.0

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise errors.ConfigurationError(f'the limit {name} of the frontend must be positive, not {value}')


class _Inbox(io.RawIOBase):
    """Reads a socket until a deadline, and so many bytes.

    A socket's own time-out starts again with every byte that comes, so it does not hold against a client that drips.
    """

    def __init__(self, connection):
        self._connection = connection
        self.deadline = 0           # by time.monotonic
        self.allowance = 0          # bytes

    def readable(self):
        return True

    def readinto(self, buffer):
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError('the request did not come in time')
        if self.allowance <= 0:
            raise http.client.LineTooLong('header')         # the standard library answers it with 431
        self._connection.settimeout(left)
        count = self._connection.recv_into(memoryview(buffer)[:self.allowance])
        self.allowance -= count
        return count


class _Outbox(io.BufferedIOBase):
    """Collects an answer, and sends it in one piece: headers and body in one packet, one deadline for all."""

    def __init__(self, connection, seconds):
        self._connection, self._seconds = connection, seconds
        self._pieces = []

    def writable(self):
        return True

    def write(self, data):
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self):
        if self._pieces:
            data = b''.join(self._pieces)
            self._pieces.clear()
            self._connection.settimeout(self._seconds)
            self._connection.sendall(data)          # the time-out is for all of it


class RequestHandler(SimpleXMLRPCRequestHandler):
    """Reads the requests of one connection within the limits of its server, and answers them."""

    protocol_version = 'HTTP/1.1'
    default_request_version = 'HTTP/1.0'        # a request line that says nothing is answered with a status, too
    _summary = '-'                  # of the call, for the log

    def setup(self):
        self.connection = self.request
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self._inbox = _Inbox(self.connection)
        self.rfile = io.BufferedReader(self._inbox)
        self.wfile = _Outbox(self.connection, self.server.limits.answerTime)
        self._firstByte = self.server.limits.requestTime

    def handle(self):
        try:
            super().handle()
            self.wfile.flush()
        except OSError as error:        # a client that goes or stalls is none of our failures
            logger.debug('connection of %s ended: %s', self.address_string(), error)

    def finish(self):
        self.rfile.close()
        self.wfile.close()

    def handle_one_request(self):
        limits = self.server.limits
        self._inbox.allowance = _HEAD_SIZE
        self._inbox.deadline = time.monotonic() + self._firstByte
        self._firstByte = limits.idleTime               # from the second request on
        self.close_connection = True                    # should the next line fail
        if not self.rfile.peek(1):
            return
        self._inbox.deadline = time.monotonic() + limits.requestTime
        self._summary = '-'
        super().handle_one_request()

    def handle_expect_100(self):
        if self._announcedLength() is None:             # has been refused, before the body is sent
            return False
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def do_POST(self):
        length = self._announcedLength()
        if length is None:
            return
        compressed = 'content-encoding' in self.headers
        if not compressed and length <= _LARGE_BODY:
            self._answer(length)
            return
        if not self.server.largeBodies.acquire(timeout=self.server.limits.requestTime):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, 'Too many large requests at a time', ('Retry-After', '1'))
            return
        try:
            self._inbox.deadline = time.monotonic() + self.server.limits.requestTime
            self._answer(length)
        finally:
            self.server.largeBodies.release()

    def _notAllowed(self):
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, 'XML-RPC calls are POST requests', ('Allow', 'POST'))

    do_GET = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _notAllowed

    def _announcedLength(self):
        """Return the length of the body in bytes, or None if the request has been refused for it."""
        if 'transfer-encoding' in self.headers:
            return self._refuse(HTTPStatus.NOT_IMPLEMENTED, 'Transfer-Encoding is not supported, send Content-Length')
        lengths = self.headers.get_all('content-length', ())
        if not lengths:
            return self._refuse(HTTPStatus.LENGTH_REQUIRED, 'A Content-Length is required')
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0].strip()):
            return self._refuse(HTTPStatus.BAD_REQUEST, 'The Content-Length is not one number')
        if int(lengths[0]) > self.server.limits.bodySize:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                                f'The body may have {self.server.limits.bodySize} bytes')
        return int(lengths[0])

    def _answer(self, length):
        body = self._readBody(length)
        if body is not None:
            body = self.decode_request_content(body)
        if body is None:
            return
        response, self._summary = self.server.answer(body, self._servicePath())
        self.send_response(HTTPStatus.OK)
        self.send_header('Content-Type', 'text/xml; charset=utf-8')
        self.send_header('Content-Length', str(len(response)))
        self.end_headers()
        self.wfile.write(response)

    def _readBody(self, length):
        """Return that many bytes, or None when the client stops before."""
        # What was read along with the headers was allowed for then.
        self._inbox.allowance = length
        chunks = []
        while length:
            chunk = self.rfile.read1(min(length, _CHUNK_SIZE))
            if not chunk:
                self.close_connection = True
                return None
            chunks.append(chunk)
            length -= len(chunk)
        return b''.join(chunks)

    def decode_request_content(self, data):
        """Return the body as it was before it was compressed, or None if the request has been refused for it."""
        encoding = self.headers.get('content-encoding', 'identity').strip().lower()
        if encoding == 'identity':
            return data
        if encoding != 'gzip':
            return self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, 'The Content-Encoding may be gzip or identity',
                                ('Accept-Encoding', 'gzip, identity'))
        limit = self.server.limits.bodySize
        try:
            return gzip_decode(data, limit)
        except (ValueError, EOFError, OSError, zlib.error):
            return self._refuse(HTTPStatus.BAD_REQUEST, f'The body is no gzip data, or exceeds {limit} bytes')

    def _servicePath(self):
        """Return the path of the URL, decoded; '/' for the usual XML-RPC path too."""
        path = unquote(_ORIGIN.sub('', self.path, 1).partition('?')[0])
        return '/' if path in ('', '/RPC2') else path

    def send_error(self, code, message=None, explain=None):
        self._refuse(code, HTTPStatus(code).phrase)     # and not what the request was

    def _refuse(self, status, sentence, *headers):
        """Answer with an error and end the connection; return None."""
        body = f'{sentence}.\n'.encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header('Connection', 'close')
        self.send_header('Content-Type', 'text/plain; charset=utf-8')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)
        self.wfile.flush()
        self._readToTheEnd()

    def _readToTheEnd(self):
        # A client that sends first and reads then would be reset when we closed on data unread, and not see the answer.
        self._inbox.allowance = 2 * self.server.limits.bodySize
        self.connection.shutdown(socket.SHUT_WR)
        while self._inbox.allowance and self.rfile.read1(_CHUNK_SIZE):
            pass

    def version_string(self):
        return 'lovely.remotetask'              # and not which Python

    def log_request(self, code='-', size='-'):
        accessLogger.info('%s %r %d %s', self.address_string(), self.requestline, code, self._summary)

    def log_message(self, format, *args):
        # What a client sent may be in it: no line breaks or terminal controls of its own.
        accessLogger.info('%s %s', self.address_string(), (format % args).encode('unicode_escape').decode('ascii'))


class Frontend(ThreadingMixIn, SimpleXMLRPCServer):
    """Answers XML-RPC calls for the task services of a database.

    The path of a call's URL names the service.  What can be called is in `methods.METHODS`, and nothing else: no
    function or instance is ever registered with the base classes.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, gateway, limits=Limits()):
        """Listen; calls are answered once `serveForever` runs.

        address -- the pair of host ('' for all of IPv4, '::' for all) and port (0 for any that is free).
        gateway -- the `gateway.Gateway`; whoever made it starts and stops it.
        limits -- what a client can take.

        Raise `errors.ConfigurationError` when that cannot be listened at.
        """
        self.gateway = gateway
        self.limits = limits
        self.largeBodies = threading.BoundedSemaphore(limits.largeBodies)
        self._changed = threading.Condition()       # guards the three that follow
        self._connections = set()
        self._serving = False
        self._stopped = False
        host, port = address
        try:
            if not 0 <= port <= 65535:          # the resolver would take the rest of a division
                raise OverflowError('a port is a number from 0 to 65535')
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            # A name may have both kinds of addresses, and a machine be without the newer.
            self.address_family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
            super().__init__(address, RequestHandler, logRequests=False, allow_none=True, use_builtin_types=True)
        except (OSError, OverflowError, UnicodeError) as error:
            reason = getattr(error, 'strerror', None) or error
            raise errors.ConfigurationError(f'the frontend cannot listen at {host}:{port}: {reason}') from error

    @property
    def address(self):
        """The pair of host and port that it listens at."""
        return self.server_address[:2]

    def serveForever(self):
        """Answer calls until `stop`."""
        with self._changed:
            if self._stopped:
                return
            self._serving = True
        self.serve_forever()

    def stop(self, timeout=None):
        """Take no more connections and calls, and wait for the answers under way, `timeout` seconds at most.

        To be called from another thread than runs `serveForever`.  Return whether all connections have ended.  Twice,
        or before `serveForever`, is fine.
        """
        with self._changed:
            self._stopped = True
            serving = self._serving
        if serving:
            self.shutdown()
        self.server_close()
        with self._changed:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RD)     # for its thread, the client has gone
                except OSError:                             # it has
                    pass
            return self._changed.wait_for(lambda: not self._connections, timeout)

    # What the base classes call

    def process_request(self, request, client_address):
        with self._changed:
            full = len(self._connections) >= self.limits.connections
            if not full:
                self._connections.add(request)
        if full:
            self._turnAway(request)
        else:
            super().process_request(request, client_address)

    def close_request(self, request):
        super().close_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def _turnAway(self, request):
        # In the thread that accepts, so nothing is waited for.  What has come is read: data unread would make the
        # answer a reset.
        logger.warning('there are %d connections already: turned one away', self.limits.connections)
        request.setblocking(False)
        try:
            request.sendall(b'HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n'
                            b'Content-Length: 0\r\n\r\n')
            request.shutdown(socket.SHUT_WR)
            request.recv(_CHUNK_SIZE)
        except OSError:
            pass
        self.shutdown_request(request)

    def handle_error(self, request, client_address):
        logger.error('a connection of %s failed', client_address[0], exc_info=sys.exc_info())

    def _marshaled_dispatch(self, data, dispatch_method=None, path='/'):
        return self.answer(data, path)[0]

    def answer(self, data, path):
        """Return the response to a call, bytes of XML, and a summary of it for the log.

        data -- the body of the request, bytes.
        path -- the service's, decoded.

        An exception is answered with its fault; what is no `Exception`, as SystemExit, is not caught.
        """
        requestId = secrets.token_hex(6)
        name = '-'
        try:
            name, values = parseCall(data)
            return dumpResponse(self._dispatch(name, values, path, requestId)), name
        except Exception as error:
            code, sentence = faultFor(error, requestId)
            if code == INTERNAL_ERROR:
                logger.exception('request %s failed', requestId)
            return dumpFault(code, sentence), f'{name} fault {code}'

    def _dispatch(self, name, values, path='/', requestId=None):
        method, arguments = methods.prepare(name, values)
        function = functools.partial(method.function, request=requestId) if method.traced else method.function
        if method.access == methods.NO_SERVICE:
            return function(*arguments)
        if method.access == methods.REPEATS:
            return self._repeat(function, arguments, path)
        run = self.gateway.write if method.access == methods.WRITES else self.gateway.read
        return run(path, lambda service: function(service, *arguments))

    def _repeat(self, function, arguments, path):
        done, before = 0, time.time()
        while True:
            step = self.gateway.write(path, lambda service: function(service, methods.BATCH, before, *arguments))
            done += step
            if step < methods.BATCH:
                return done
