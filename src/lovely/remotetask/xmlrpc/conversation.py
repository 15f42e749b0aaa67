"""What is said over one connection: requests are read, refused or answered."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import secrets
import socket
import time
import zlib
from http import HTTPStatus
from xmlrpc.client import gzip_decode
from xmlrpc.server import SimpleXMLRPCRequestHandler

from lovely.remotetask.xmlrpc import accesslog
from lovely.remotetask.xmlrpc.access import Throttled
from lovely.remotetask.xmlrpc.access import Unauthorized
from lovely.remotetask.xmlrpc.connection import LARGE_BODY
from lovely.remotetask.xmlrpc.connection import Body
from lovely.remotetask.xmlrpc.connection import ChunkedBody
from lovely.remotetask.xmlrpc.connection import End
from lovely.remotetask.xmlrpc.connection import Handshake
from lovely.remotetask.xmlrpc.connection import NextHead
from lovely.remotetask.xmlrpc.connection import Proof
from lovely.remotetask.xmlrpc.connection import Taken
from lovely.remotetask.xmlrpc.head import LINE_SIZE
from lovely.remotetask.xmlrpc.head import Headers
from lovely.remotetask.xmlrpc.head import Refusal
from lovely.remotetask.xmlrpc.head import parseHead


logger = logging.getLogger('lovely.remotetask')

_COMMANDS = ('GET', 'HEAD', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'CONNECT')


class RequestHandler(SimpleXMLRPCRequestHandler):
    """Reads the requests of one connection within the limits of its server, and answers them.

    It has no thread of its own: `proceed` goes on until something has not come yet, which is its `need` then.  So a
    client can be slow, idle, or wait for its jobs, and there can be many of them.
    """

    need = None             # a `connection.Need`
    hasTurn = False         # for a large body; the lot gives it
    alarm = None            # the lot's
    caller = None           # an `access.Caller`, once it is known who sent the request

    def __init__(self, connection, address, server):
        """connection -- a `connection.Connection`.
        address -- the client's, as the socket gives it.
        server -- the `server.Frontend`.
        """
        # The base class would answer all requests before it returns from here.
        self.connection, self.client_address, self.server = connection, address, server
        self.close_connection = False
        self._conversation = self._converse()
        self._forget()

    def proceed(self, error=None):
        """Go on, now that the need is met or its time is over; return the next `need`, or None at the end.

        error -- raised where the need came up.

        Raise OSError when the connection is broken.
        """
        self.need = None
        try:
            self.need = next(self._conversation) if error is None else self._conversation.throw(error)
        except StopIteration:
            pass
        return self.need

    def turnAway(self, refusal):
        """Answer with a `head.Refusal`, as far as that is possible without waiting for the client."""
        self._readRequestLine()
        with contextlib.suppress(OSError, ValueError):
            self.connection.send(self._refusal(refusal))
            self.connection.socket.shutdown(socket.SHUT_WR)
            self.connection.receive()           # what is not read would make the answer a reset

    def close(self):
        """End the conversation, wherever it is, and the connection; let go of all that was said."""
        self._conversation.close()
        self.connection.close()
        self.need = None

    # The conversation, a generator of needs

    def _converse(self):
        limits = self.server.limits
        if self.server.tls is not None:
            deadline, isOver = time.monotonic() + limits.requestTime, False
            while not isOver:
                yield Handshake(deadline)
                isOver = self.connection.shakeHands()
        idleTime = limits.requestTime           # until the first byte of the first request
        for number in range(1, limits.requests + 1):
            self._forget()
            head = NextHead(idleTime, limits.requestTime, limits.headSize)
            yield head
            if not head.hasBegun or self.connection.ended and head.length is None:
                return
            self._isLast = number == limits.requests
            try:
                self._takeHead(head.length)
                yield from self._answer(head.deadline)
            except Refusal as refusal:
                yield from self._send(self._refusal(refusal))
                break
            if self.head.isLast:
                return
            idleTime = limits.idleTime
        # A client that sends first and reads then would be reset when we closed on data unread, and not see the answer.
        self.connection.socket.shutdown(socket.SHUT_WR)
        yield End(time.monotonic() + limits.requestTime, 2 * limits.bodySize)

    def _forget(self):
        # What the log is to know of a request: nothing yet.
        self.requestId = secrets.token_hex(6)
        self.requestline, self.command, self.headers = '', '', Headers()
        self.caller = None

    def _readRequestLine(self):
        self.requestline = self.requestline or (
            bytes(self.connection.buffer[:LINE_SIZE + 2]).partition(b'\r\n')[0].decode('latin-1'))

    def _takeHead(self, length):
        limits = self.server.limits
        self._readRequestLine()
        if len(self.requestline) > LINE_SIZE:
            raise Refusal(HTTPStatus.REQUEST_URI_TOO_LONG, f'The request line may have {LINE_SIZE} bytes')
        if length is None or length > limits.headSize:
            raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f'The headers may have {limits.headSize} bytes')
        self.raw_requestline = self.connection.take(length)
        try:
            self.parse_request()
        finally:
            self.raw_requestline = b''

    def parse_request(self):
        """Take the head of the request, which is in `raw_requestline`, apart; raise `Refusal`."""
        self.head = head = parseHead(self.raw_requestline, self.server.limits.headers)
        self.command, self.path, self.headers = head.command, head.path, head.headers
        self.request_version = 'HTTP/%d.%d' % head.version
        self.close_connection = head.isLast or self._isLast

    def _answer(self, deadline):
        if self.command in _COMMANDS:
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, 'XML-RPC calls are POST requests', ('Allow', 'POST'))
        if self.command != 'POST':
            raise Refusal(HTTPStatus.NOT_IMPLEMENTED, 'XML-RPC calls are POST requests')
        doorkeeper = self.server.doorkeeper
        if not self._identify(doorkeeper.recall):
            yield Proof(deadline)
            self._identify(doorkeeper.identify)
        limit = self.server.limits.bodySize
        length, charset = self.head.bodyLength(limit), self.head.charset
        isCompressed = 'content-encoding' in self.headers
        if self.head.expectsContinue:
            yield from self._send(b'HTTP/1.1 100 Continue\r\n\r\n')
        body = (ChunkedBody(deadline, limit, isCompressed) if length is None
                else Body(deadline, length, length > LARGE_BODY or isCompressed))
        yield body
        try:
            # In no variable here: who waits for jobs is not to keep it.
            response, call = yield from self.server.answer(
                self.decode_request_content(body.take(self.connection)), charset, self.path, self.requestId,
                self.caller)
        finally:
            self.server.giveTurn(self)
        self._log(HTTPStatus.OK, response, call)
        yield from self._send(self._head(HTTPStatus.OK, 'text/xml', response) + response)

    def _identify(self, way):
        """Find out who sent the request, in one way of the `access.Doorkeeper`; return whether that is known then.

        Raise `Refusal`.
        """
        try:
            self.caller = way(self.headers.get('authorization'), self.client_address[0])
            return self.caller is not None
        except Unauthorized as error:
            raise Refusal(HTTPStatus.UNAUTHORIZED, str(error),
                          ('WWW-Authenticate', 'Basic realm="lovely.remotetask"')) from None
        except Throttled as error:
            raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, str(error), ('Retry-After', str(error.retryAfter))) from None

    def decode_request_content(self, data):
        """Return the body as it was before it was compressed; raise `Refusal`."""
        encoding = self.headers.get('content-encoding', 'identity').lower()
        if encoding == 'identity':
            return data
        if encoding != 'gzip':
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, 'The Content-Encoding may be gzip or identity',
                          ('Accept-Encoding', 'gzip, identity'))
        limit = self.server.limits.bodySize
        try:
            return gzip_decode(data, limit)
        except (ValueError, EOFError, OSError, zlib.error):
            raise Refusal(HTTPStatus.BAD_REQUEST, f'The body is no gzip data, or exceeds {limit} bytes') from None

    # Answers

    def _refusal(self, refusal):
        self.close_connection = True
        self.server.noteRefusal(refusal)
        body = f'{refusal.reason}.\n'.encode()
        self._log(refusal.status, body, '-', refusal.reason)
        head = self._head(refusal.status, 'text/plain', body, *refusal.headers)
        return head if self.command == 'HEAD' else head + body

    def _head(self, status, type, body, *headers):
        """Return what stands before the body of an answer, bytes."""
        lines = [f'HTTP/1.1 {status.value} {status.phrase}', f'Server: {self.version_string()}',
                 f'Date: {accesslog.dates(int(time.time()))[0]}', f'X-Request-ID: {self.requestId}',
                 f'Content-Type: {type}; charset=utf-8', f'Content-Length: {len(body)}']
        if self.close_connection:
            lines.append('Connection: close')
        elif self.head.version == (1, 0):
            lines.append('Connection: keep-alive')
        lines += (f'{name}: {value}' for name, value in headers)
        return '\r\n'.join([*lines, '', '']).encode('ascii')

    def _send(self, data):
        answer = Taken(time.monotonic() + self.server.limits.answerTime, data)
        if not answer.isMet(self.connection):
            yield answer

    def version_string(self):
        return 'lovely.remotetask'              # and not which Python

    def _log(self, status, body, call, reason=None):
        accesslog.log(self.client_address[0], self.caller and self.caller.name, self.requestline, status.value,
                      len(body), self.headers, call, self.requestId, reason)
