"""A client's connection, and the things that one can wait for from it."""
# SPDX-License-Identifier: ZPL-2.1
import selectors
import ssl
import time
from http import HTTPStatus

from lovely.remotetask.xmlrpc.chunked import ChunkedDecoder
from lovely.remotetask.xmlrpc.head import Refusal
from lovely.remotetask.xmlrpc.head import endOfHead


#: What is read at a time, in bytes, so that memory is taken only as something really arrives.
CHUNK_SIZE = 64 * 1024

#: Bytes of a body above which it takes its turn; see `Limits.largeBodies`.
LARGE_BODY = 256 * 1024

#: Bytes of a body above which it is taken apart in a thread of its own: 8 KiB take a few milliseconds.
LONG_BODY = 8 * 1024

# What is read at a time of a client that waits for an answer: of its next requests as little as possible.
_SIP_SIZE = 4096

# What is read at a time of a body in chunks: each can have one byte, and there are others to look at.
_CHUNKED_SIZE = 16 * 1024

# How often something is sent before others have their turn; TLS sends 16 KiB at a time.
_SENDINGS = 64


class Connection:
    """A socket, plain or of TLS, and what has come over it and is not used yet.

    At any time it belongs to one thread.
    """

    def __init__(self, socket):
        self.socket = socket
        socket.settimeout(0)                    # nobody waits for a client but the lot
        #: What has come, a bytearray.
        self.buffer = bytearray()
        #: Whether the client sends no more.
        self.ended = False
        #: What a selector has to wait for: TLS may have to write to be able to read.
        self.events = selectors.EVENT_READ

    def fileno(self):
        return self.socket.fileno()

    def close(self):
        """End the connection, and forget what has come."""
        self.socket.close()
        self.buffer.clear()

    def receive(self, size=CHUNK_SIZE):
        """Add what has come to the buffer; return whether there was anything, even the end.

        size -- bytes, about the most that is read.

        Raise OSError when the connection is broken.
        """
        try:
            data = self.socket.recv(size)
            # What TLS has decrypted already is nothing that a selector would tell of.
            if data and isinstance(self.socket, ssl.SSLSocket) and (pending := self.socket.pending()):
                data += self.socket.recv(pending)
        except ssl.SSLWantWriteError:
            self.events = selectors.EVENT_WRITE
            return False
        except (BlockingIOError, ssl.SSLWantReadError):
            self.events = selectors.EVENT_READ
            return False
        self.events = selectors.EVENT_READ
        self.buffer += data
        self.ended = not data
        return True

    def shakeHands(self):
        """Go on with the handshake of TLS as far as the client has; return whether it is over.  Raise OSError."""
        try:
            self.socket.do_handshake()
        except ssl.SSLWantWriteError:
            self.events = selectors.EVENT_WRITE
            return False
        except ssl.SSLWantReadError:
            self.events = selectors.EVENT_READ
            return False
        self.events = selectors.EVENT_READ
        return True

    def take(self, size):
        """Return so many bytes of the buffer, and forget them."""
        data = bytes(memoryview(self.buffer)[:size])
        del self.buffer[:size]
        return data

    def send(self, data):
        """Send what the client takes at once of the data; return how many bytes.  Raise OSError as `receive` does."""
        try:
            return self.socket.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            self.events = selectors.EVENT_WRITE
        except ssl.SSLWantReadError:
            self.events = selectors.EVENT_READ
        return 0


class Need:
    """Something that a conversation waits for, until a deadline."""

    #: Whether it is the client that is waited for.
    isRequest = True
    #: Whether an answer is owed to it, or being sent.
    isAnswer = False
    #: Whether a call is worked on when it is met, and not before.
    isCall = False
    #: Whether it may take long to go on when it is met: that is for another thread than the one that waits for all.
    isEffort = False
    #: Whether it takes a turn to go on when it is met; see `Limits.largeBodies`.
    isLarge = False
    #: Whether the client has said something that is worth an answer.
    hasBegun = False
    #: Whether it is met, and not the client is waited for.
    _isPutOff = False

    def __init__(self, deadline):
        """`deadline` is by time.monotonic."""
        self.deadline = deadline

    def look(self, connection):
        """Do what can be done now; return whether anything may have changed.  Raise OSError for a broken connection."""
        return connection.receive()

    def isMet(self, connection):
        """Say whether there is nothing more to wait for; called when something may have changed, and at first."""
        raise NotImplementedError

    def held(self, connection):
        """Return how many bytes are kept in the memory for it."""
        return len(connection.buffer)

    def putOff(self, seconds):
        """It is met, and gets so many seconds more until somebody has time for it."""
        self._isPutOff = True
        self.deadline = time.monotonic() + seconds

    @property
    def refusal(self):
        """The `head.Refusal` for a client that is late, or was put off; None if it is to hear nothing."""
        if self._isPutOff:
            kind = 'large requests' if self.isLarge else 'requests'
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f'There are too many {kind} at a time', ('Retry-After', '1'))
        return Refusal(HTTPStatus.REQUEST_TIMEOUT, 'The request did not come in time') if self.hasBegun else None


class Handshake(Need):
    """That a handshake of TLS can go on, which takes a lot of arithmetic."""

    isEffort = True
    _canGoOn = False

    def look(self, connection):
        self._canGoOn = True
        return True

    def isMet(self, connection):
        return self._canGoOn


class NextHead(Need):
    """The next request, up to its body; `length` is where that begins, None if the head did not come completely."""

    length = None

    def __init__(self, idleTime, requestTime, size):
        """idleTime -- seconds until the first byte.
        requestTime -- seconds from the first byte on.
        size -- bytes that a head may have.
        """
        super().__init__(time.monotonic() + idleTime)
        self._requestTime, self._most = requestTime, size
        self._seen = 0

    def isMet(self, connection):
        buffer = connection.buffer
        if not self.hasBegun:
            if buffer.startswith(b'\r\n'):      # some clients end the request before with one too many
                del buffer[:2]
            if buffer:
                self.hasBegun = True
                self.deadline = time.monotonic() + self._requestTime
        self.length = endOfHead(buffer, self._seen)
        self._seen = len(buffer)
        return self.length is not None or len(buffer) > self._most or connection.ended


class Body(Need):
    """That many bytes; fewer if the client ends before."""

    isCall = hasBegun = True

    def __init__(self, deadline, length, isLarge):
        """`isLarge` says whether it takes one of the turns for large bodies."""
        super().__init__(deadline)
        self.length, self.isLarge = length, isLarge
        self.isEffort = isLarge or length > LONG_BODY

    def isMet(self, connection):
        return len(connection.buffer) >= self.length or connection.ended

    def take(self, connection):
        """Return the body, bytes, once the need is met; raise `head.Refusal`."""
        if len(connection.buffer) < self.length:
            raise Refusal(HTTPStatus.BAD_REQUEST, 'The body is shorter than its Content-Length')
        return connection.take(self.length)


class ChunkedBody(Need):
    """A body whose length nobody has told before: it comes in chunks."""

    isCall = hasBegun = True
    _isComplete = False
    _refusal = None

    def __init__(self, deadline, limit, isCompressed):
        """limit -- bytes of the body at most.
        isCompressed -- whether it takes one of the turns for large bodies in any case.
        """
        super().__init__(deadline)
        self._decoder = ChunkedDecoder(limit)
        self._isCompressed = isCompressed

    @property
    def isLarge(self):
        return self._isCompressed or len(self._decoder.body) > LARGE_BODY

    @property
    def isEffort(self):
        return self._isCompressed or len(self._decoder.body) > LONG_BODY

    def look(self, connection):
        return connection.receive(size=_CHUNKED_SIZE)

    def isMet(self, connection):
        if not self._isComplete and self._refusal is None:
            try:
                self._isComplete = self._decoder.decode(connection.buffer)
            except Refusal as refusal:
                self._refusal = refusal
        return self._isComplete or self._refusal is not None or connection.ended

    def held(self, connection):
        return len(connection.buffer) + len(self._decoder.body)

    def take(self, connection):
        """Return the body, bytes, once the need is met; raise `head.Refusal`."""
        if self._refusal is not None:
            raise self._refusal
        if not self._isComplete:
            raise Refusal(HTTPStatus.BAD_REQUEST, 'The body ends before its last chunk')
        body, self._decoder.body = bytes(self._decoder.body), bytearray()
        return body


class End(Need):
    """The end of a connection that has been told so; what comes until then is thrown away."""

    def __init__(self, deadline, allowance):
        """`allowance` is how many bytes are put up with."""
        super().__init__(deadline)
        self._allowance = allowance

    def isMet(self, connection):
        self._allowance -= len(connection.buffer)
        connection.buffer.clear()
        return connection.ended or self._allowance < 0


class Taken(Need):
    """That the client takes an answer."""

    isAnswer = True

    def __init__(self, deadline, data):
        """`data` is the answer, bytes."""
        super().__init__(deadline)
        self._data, self._sent = memoryview(data), 0

    @property
    def left(self):
        """How many bytes of it are not sent yet."""
        return len(self._data) - self._sent

    def look(self, connection):
        return True

    def isMet(self, connection):
        for _ in range(_SENDINGS):
            if not self.left:
                return True
            sent = connection.send(self._data[self._sent:])
            if not sent:
                break
            self._sent += sent
        return not self.left

    def held(self, connection):
        return len(connection.buffer) + self.left


class Proof(Need):
    """That a password can be proved to be right, which takes a lot of arithmetic."""

    isAnswer = isEffort = True

    def isMet(self, connection):
        return True


class Outcome(Need):
    """The end of a call in the database."""

    isRequest = False
    isAnswer = True

    def __init__(self, call):
        """`call` is a `gateway.Call`."""
        super().__init__(call.deadline)
        self.call = call

    def isMet(self, connection):
        return self.call.hasEnded


class Jobs(Need):
    """The end of jobs; or that of a client which does not wait for that any more."""

    isRequest = False
    #: Whether it is time to look at them.
    isOver = False

    def __init__(self, deadline, path, jobids, any):
        """path -- the service's.
        jobids -- the ids.
        any -- whether one of them is enough.
        """
        super().__init__(deadline)
        self.path, self.jobids, self.any = path, jobids, any

    def look(self, connection):
        return connection.receive(size=_SIP_SIZE)

    def isMet(self, connection):
        return self.isOver or connection.ended
