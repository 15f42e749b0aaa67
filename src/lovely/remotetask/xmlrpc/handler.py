"""The requests of one connection: read, refused or answered, by one coroutine from the first to the last."""
# SPDX-License-Identifier: ZPL-2.1
import asyncio
import functools
import logging
import secrets
from http import HTTPStatus

from lovely.remotetask.common.counts import counts
from lovely.remotetask.xmlrpc import accesslog
from lovely.remotetask.xmlrpc import counting
from lovely.remotetask.xmlrpc.access import Throttled
from lovely.remotetask.xmlrpc.access import Unauthorized
from lovely.remotetask.xmlrpc.body import parseEncoded
from lovely.remotetask.xmlrpc.chunked import ChunkedDecoder
from lovely.remotetask.xmlrpc.faults import Stopping
from lovely.remotetask.xmlrpc.head import LINE_SIZE
from lovely.remotetask.xmlrpc.head import Headers
from lovely.remotetask.xmlrpc.head import HTTPException
from lovely.remotetask.xmlrpc.head import endOfHead
from lovely.remotetask.xmlrpc.head import parseHead
from lovely.remotetask.xmlrpc.parser import parseCall
from lovely.remotetask.xmlrpc.permits import LARGE_BODY
from lovely.remotetask.xmlrpc.permits import LONG_BODY
from lovely.remotetask.xmlrpc.permits import RETRY_AFTER
from lovely.remotetask.xmlrpc.protocol import ADVANCE_SIZE
from lovely.remotetask.xmlrpc.protocol import CHUNK_SIZE
from lovely.remotetask.xmlrpc.protocol import Connection
from lovely.remotetask.xmlrpc.response import responseHead
from lovely.remotetask.xmlrpc.waiting import Wait


logger = logging.getLogger('lovely.remotetask')

# What is read at a time, in bytes: of a head, since what follows it may have to wait for long; and of a body in chunks,
# since each can have one byte, and there are other clients.
_PIECE_SIZE = 16 * 1024

# Seconds that clients have to take the end of their last responses when the front end stops.
_LAST_MOMENT = 1.0

_COMMANDS = ('GET', 'HEAD', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'CONNECT')


class RequestHandler(Connection):
    """Reads the requests of one connection within the limits of its server, and answers them.

    The dispatcher gets it as the request: `requestId`, `path`, `principal`, and a way to wait for jobs.
    """

    def __init__(self, frontend, address):
        """frontend -- the `server.Frontend`.
        address -- the client's, a text.
        """
        super().__init__(frontend.loop, frontend.connections.space)
        self.frontend, self.address = frontend, address
        self.task = None                # that of `_handle`
        self.isResponding = False       # whether a response waits to be taken by the client
        self._unsent = 0                # bytes of it that wait
        self._permits = []              # those that the request has
        self._decoder = None            # of a body that comes in chunks
        self._forget()

    def _forget(self):
        # What is known of a request: nothing yet.
        self.requestId = secrets.token_hex(6)
        self.requestLine, self.command, self.path, self.headers = '', '', '', Headers()
        self.principal = None              # an `access.Principal`
        self._hasBegun = False          # whether the client has said something that is worth a response
        self._requestEnd = 0.0          # when it has to have come, by the clock of the loop
        self._version, self._isLast = (1, 1), False

    @property
    def traceparent(self):
        """The trace context of the caller, as it was sent; None if there is none."""
        return self.headers.get('traceparent')

    @property
    def bytesHeld(self):
        """How many bytes of a request, or of a response that is not taken, are in memory."""
        decoded = 0 if self._decoder is None else len(self._decoder.body)
        return len(self.buffer) + decoded + self._unsent

    def end(self, reason):
        """End the connection at once; tell a client that has begun a request why.

        reason -- a sentence without its full stop.
        """
        logger.debug('connection of %s ended: %s', self.address, reason)
        if self._hasBegun and not self.isResponding:
            self._readRequestLine()
            try:
                self.write(self._refuse(HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, reason, RETRY_AFTER)))
            except ConnectionError as error:
                logger.debug('connection of %s ended: %s', self.address, error)
        self.task.cancel()

    # The connection, in one coroutine

    def connection_made(self, transport):
        super().connection_made(transport)
        self.task = self.loop.create_task(self._handle())
        self.task.add_done_callback(self._close)
        self.frontend.connections.add(self)

    def buffer_updated(self, size):
        super().buffer_updated(size)
        self.frontend.connections.noteBytes(self)

    def eof_received(self):
        if self in self.frontend.waiting and not self.buffer:
            self.task.cancel()
        return super().eof_received()

    def connection_lost(self, error):
        super().connection_lost(error)
        if self in self.frontend.waiting:
            self.task.cancel()
        self.frontend.connections.remove(self)

    def _close(self, task):
        # Not at the end of the coroutine: one that is cancelled before its first step never gets there.
        self._release()
        self.frontend.connections.doneWithClient(self)
        self.close(_LAST_MOMENT if self.frontend.isStopping else 0)
        self._decoder, self._unsent = None, 0

    async def _handle(self):
        try:
            await self._handleRequests()
        except OSError as error:                # a client that leaves or stalls is no failure of ours
            logger.debug('connection of %s ended: %s', self.address, error)
        except Exception:
            logger.exception('a connection of %s failed', self.address)
        except asyncio.CancelledError:
            raise
        except BaseException as error:          # of a service, which has nothing to end here: it would end the loop
            logger.debug('connection of %s ended: %r', self.address, error)

    async def _handleRequests(self):
        limits = self.frontend.limits
        idleTime = limits.requestTime           # until the first byte of the first request
        for number in range(1, limits.requests + 1):
            try:
                length = await self._receiveHead(idleTime)
                if length is None:
                    return
                await self._handleRequest(length, isLast=number == limits.requests)
            except HTTPException as error:
                self._release()
                await self._send(self._refuse(error))
                break
            if self._isLast and number < limits.requests:
                if not self.frontend.isStopping:
                    await self._finish()
                return
            self._forget()
            idleTime = self.frontend.limits.idleTime
            if self.buffer:                     # it sent another request at once: let the others come first
                await asyncio.sleep(0)
        await self._linger()

    async def _handleRequest(self, length, isLast):
        head = self._takeHead(length, isLast)
        await self._authenticate()
        bodyLength, charset = head.bodyLength(self.frontend.limits.bodySize), head.charset
        if head.expectsContinue:
            await self._send(b'HTTP/1.1 100 Continue\r\n\r\n')
        bodyLength = await self._receiveBody(bodyLength)
        isCompressed = 'content-encoding' in self.headers
        for permits, seconds in self.frontend.permits.needed(
                LARGE_BODY + 1 if isCompressed else bodyLength, self.frontend.limits):
            await permits.acquire(seconds)
            self._permits.append(permits)
        began = self.loop.time()
        try:
            response, call = await self.frontend.dispatcher.respond(self, self._takeBody(bodyLength), charset)
        finally:
            self._release()
        counting.noteCall(call, self.loop.time() - began)
        self._log(HTTPStatus.OK, response, call)
        response = self._responseHead(HTTPStatus.OK, 'text/xml', response) + response
        await self._send(response)

    # Reading

    async def _receiveHead(self, idleTime):
        """Return the length of the next request's head, as far as it has come; None if there is no other request.

        idleTime -- seconds until its first byte.
        """
        limits, buffer, seen = self.frontend.limits, self.buffer, 0
        self._requestEnd = self.loop.time() + idleTime
        if self.frontend.isStopping:
            raise ConnectionAbortedError('the front end is stopping')
        self.frontend.connections.waitForClient(self)
        while True:
            if not self._hasBegun:
                if buffer.startswith(b'\r\n'):          # some clients end the request before with one too many
                    del buffer[:2]
                if buffer and buffer != b'\r':
                    self._hasBegun, self._requestEnd = True, self.loop.time() + limits.requestTime
            length = endOfHead(buffer, seen)
            seen = len(buffer)
            if length is not None or seen > limits.headSize:
                return length or seen
            if self.hasEnded:
                return None
            await self._receive(min(limits.headSize, seen + _PIECE_SIZE))

    async def _receive(self, size):
        try:
            await self.receive(self._requestEnd, size)
        except TimeoutError:
            if not self._hasBegun:
                raise
            self._readRequestLine()
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, 'The request did not come in time') from None

    def _readRequestLine(self):
        self.requestLine = self.requestLine or (
            bytes(self.buffer[:LINE_SIZE + 2]).partition(b'\r\n')[0].decode('latin-1'))

    def _takeHead(self, length, isLast):
        limits = self.frontend.limits
        self._readRequestLine()
        if len(self.requestLine) > LINE_SIZE:
            raise HTTPException(HTTPStatus.REQUEST_URI_TOO_LONG, f'The request line may have {LINE_SIZE} bytes')
        if length > limits.headSize:
            raise HTTPException(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                                f'The headers may have {limits.headSize} bytes')
        head = parseHead(self.take(length), limits.headers)
        self.command, self.path, self.headers, self._version = head.command, head.path, head.headers, head.version
        self._isLast = head.isLast or isLast
        if head.command in _COMMANDS:
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, 'XML-RPC calls are POST requests', ('Allow', 'POST'))
        if head.command != 'POST':
            raise HTTPException(HTTPStatus.NOT_IMPLEMENTED, 'XML-RPC calls are POST requests')
        return head

    async def _authenticate(self):
        authenticator, arguments = self.frontend.authenticator, (self.headers.get('authorization'), self.address)
        try:
            self.principal = authenticator.cached(*arguments)
            if self.principal is None:          # a password has to be hashed, which takes long
                self.principal = await self.loop.run_in_executor(
                    self.frontend.hashers, authenticator.authenticate, *arguments)
        except Unauthorized as error:
            counts.add('logins_refused', 'xmlrpc')
            raise HTTPException(HTTPStatus.UNAUTHORIZED, str(error),
                                ('WWW-Authenticate', 'Basic realm="lovely.remotetask"')) from None
        except Throttled as error:
            counts.add('logins_refused', 'xmlrpc')
            raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, str(error),
                                ('Retry-After', str(error.retryAfter))) from None

    async def _receiveBody(self, length):
        """Wait until the body has come, and return how long it is.

        length -- of the body in bytes; None for one that comes in chunks.
        """
        if length is not None:
            while len(self.buffer) < length:
                if self.hasEnded:
                    raise HTTPException(HTTPStatus.BAD_REQUEST, 'The body is shorter than its Content-Length')
                await self._receive(length)
            return length
        self._decoder = ChunkedDecoder(self.frontend.limits.bodySize)
        while not self._decoder.decode(self.buffer):
            if self.hasEnded:
                raise HTTPException(HTTPStatus.BAD_REQUEST, 'The body ends before its last chunk')
            await self._receive(_PIECE_SIZE)
        return len(self._decoder.body)

    def _takeBody(self, length):
        self.frontend.connections.doneWithClient(self)
        self.readUpTo(ADVANCE_SIZE)
        if self._decoder is None:
            return self.take(length)
        body, self._decoder = bytes(self._decoder.body), None
        return body

    # For the dispatcher

    def parse(self, data, charset):
        """Return what `parser.parseCall` gives for a body, or a future of it if it is long.

        Raise `head.HTTPException`, or `faults.ParseError`.
        """
        encoding = self.headers.get('content-encoding', 'identity').lower()
        if encoding == 'identity' and len(data) <= LONG_BODY:
            return parseCall(data, charset)
        return self.loop.run_in_executor(
            self.frontend.parsers, parseEncoded, data, encoding, charset, self.frontend.limits.bodySize)

    async def waitForJobs(self, jobids, any, seconds):
        """Wait until it is time to look at jobs, without a permit; the client's end ends the coroutine.

        jobids -- the ids.
        any -- whether one of them is enough.
        seconds -- how long to wait at most, a float.

        Return an asynchronous context manager: in its context some can look at a time.  Raise `head.HTTPException` if
        too many wait, and `faults.Stopping`.
        """
        frontend, gateway = self.frontend, self.frontend.gateway
        if len(frontend.waiting) >= frontend.limits.waiting or not gateway.canWatch(len(jobids)):
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, 'There are too many callers that wait for jobs',
                                RETRY_AFTER)
        if self.transport.is_closing() or self.hasEnded and not self.buffer:
            self.task.cancel()                  # the client has gone: what follows waits for nothing
        self._release()
        ended = frontend.waiting[self] = self.loop.create_future()
        wait = Wait(self.path, jobids, any, functools.partial(frontend.bridge.wake, ended))
        timer = self.loop.call_later(seconds, frontend.bridge.wake, ended)
        gateway.watch(wait)
        try:
            if not frontend.isStopping:
                await ended
        finally:
            timer.cancel()
            gateway.forget(wait)
            del frontend.waiting[self]
        if frontend.isStopping:
            raise Stopping()
        return frontend.woken

    def _release(self):
        while self._permits:
            self._permits.pop().release()

    # Responses

    async def _send(self, data):
        deadline = self.loop.time() + self.frontend.limits.answerTime
        for position in range(0, len(data), CHUNK_SIZE):
            self.write(data[position:position + CHUNK_SIZE])
            if self.isWritingPaused:
                self._unsent = len(data) - position
                if self.isResponding:
                    self.frontend.connections.noteBytes(self)
                else:
                    self.isResponding = True
                    self.frontend.connections.waitForClient(self)
                await self.drain(deadline)
        self.isResponding, self._unsent = False, 0

    async def _finish(self):
        # The response is written, but asyncio's TLS may hold the end of it without saying so.
        self.isResponding = True
        self.frontend.connections.waitForClient(self)
        await self.finish(self.loop.time() + self.frontend.limits.answerTime)

    def _refuse(self, error):
        """Log and count a `head.HTTPException`; return the response, bytes."""
        self._isLast = True
        self.frontend.connections.noteRefusal(error)
        counts.add('xmlrpc_refusals', str(error.status.value))
        body = f'{error.reason}.\n'.encode()
        self._log(error.status, body, '-', error.reason)
        head = self._responseHead(error.status, 'text/plain', body, *error.headers)
        return head if self.command == 'HEAD' else head + body

    def _responseHead(self, status, type, body, *headers):
        if self._isLast:
            headers += ('Connection', 'close'),
        elif self._version == (1, 0):
            headers += ('Connection', 'keep-alive'),
        return responseHead(status, type, len(body), self.requestId, headers)

    def _log(self, status, body, call, reason=None):
        accesslog.log(self.address, self.principal and self.principal.name, self.requestLine, status.value, len(body),
                      self.headers, call, self.requestId, reason)

    async def _linger(self):
        """Read on for a while, and throw that away.

        A client that sends first and reads then would be reset when we closed on data unread, and not see the response.
        """
        limits = self.frontend.limits
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():      # not with TLS
            self.transport.write_eof()
        self._hasBegun, self._requestEnd = False, self.loop.time() + limits.requestTime
        self.frontend.connections.waitForClient(self)
        allowance = 2 * limits.bodySize
        while not self.hasEnded and allowance >= 0:
            allowance -= len(self.buffer)
            self.buffer.clear()
            await self._receive(CHUNK_SIZE)
