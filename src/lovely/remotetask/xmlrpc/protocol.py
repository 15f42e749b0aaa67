"""A client's connection, as an asyncio protocol: it receives and sends bytes, within time limits."""
# SPDX-License-Identifier: ZPL-2.1
import asyncio


#: Bytes that are read at a time, so that memory is taken only when data really arrive.
CHUNK_SIZE = 64 * 1024

#: Bytes that are read from a client that waits for a response: as few of its next requests as possible.
ADVANCE_SIZE = 4096


class Connection(asyncio.BufferedProtocol):
    """The bytes that have come over a connection and are not used yet, and the ways to wait for more and to send.

    One coroutine at a time waits here; all methods belong to the thread of the event loop.
    """

    def __init__(self, loop, space):
        """loop -- the event loop.
        space -- a memoryview of CHUNK_SIZE bytes, which all connections of the loop receive into.
        """
        self.loop, self._space = loop, space
        #: What has come, a bytearray.
        self.buffer = bytearray()
        #: Whether the client sends no more.
        self.hasEnded = False
        #: Whether both directions have ended.
        self.isLost = False
        self.transport = None
        self._readLimit = ADVANCE_SIZE          # bytes in the buffer above which the client has to wait
        self._isReadingPaused = False
        #: Whether the system does not take what was written.
        self.isWritingPaused = False
        self._waiter = None                     # the future of the coroutine that waits here
        self._deadline = 0.0                    # of the latter, by the clock of the loop
        self._timer, self._timerEnd = None, 0.0

    # What asyncio calls

    def connection_made(self, transport):
        self.transport = transport
        # Writing is paused as soon as the system does not take all.  (With a limit of 0, asyncio's transport of TLS
        # would pause, and never resume.)
        transport.set_write_buffer_limits(high=1, low=0)

    def get_buffer(self, sizehint):
        # The space serves all connections: what it gets is copied before anybody else can receive.
        wanted = self._readLimit + 1 - len(self.buffer)
        return self._space if wanted >= CHUNK_SIZE else self._space[:max(ADVANCE_SIZE, wanted)]

    def buffer_updated(self, size):
        self.buffer += self._space[:size]
        if len(self.buffer) > self._readLimit and not self._isReadingPaused:
            self._isReadingPaused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self):
        self.hasEnded = True
        self._wake()
        # It may go on to read, unless it speaks TLS, where asyncio ends both directions.
        return self.transport.get_extra_info('sslcontext') is None

    def connection_lost(self, error):
        self.hasEnded = self.isLost = True
        self.isWritingPaused = False
        if self._timer is not None:
            self._timer.cancel()
        self._wake()

    def pause_writing(self):
        self.isWritingPaused = True

    def resume_writing(self):
        self.isWritingPaused = False
        self._wake()

    # What waits

    async def receive(self, deadline, size):
        """Wait until more has come than there is in the buffer, or the end.

        deadline -- by the clock of the loop.
        size -- how many bytes are wanted in the buffer, about the most that is read.

        Raise `TimeoutError`.
        """
        self.readUpTo(size)
        await self._wait(deadline)

    def readUpTo(self, size):
        """Read no more while more than so many bytes are in the buffer."""
        self._readLimit = size
        if self._isReadingPaused and len(self.buffer) <= size:
            self._isReadingPaused = False
            self.transport.resume_reading()

    async def drain(self, deadline):
        """Wait until the client has taken what was written, apart from what the system keeps; or raise `TimeoutError`.

        deadline -- by the clock of the loop.
        """
        while self.isWritingPaused:
            await self._wait(deadline)

    async def finish(self, deadline):
        """End the connection when the client has taken what was written, or raise `TimeoutError`.

        deadline -- by the clock of the loop.
        """
        self.transport.close()
        while not self.isLost:
            await self._wait(deadline)

    def write(self, data):
        """Send bytes without waiting for the client.  Raise `ConnectionError`.

        With TLS, asyncio hands on all of the data, however much the system takes, and pauses at the next call only: so
        much data is to be written in pieces.
        """
        if self.transport.is_closing():         # the transports of uvloop would raise `RuntimeError`
            raise ConnectionAbortedError('the client has gone')
        self.transport.write(data)

    def take(self, size):
        """Return so many bytes of the buffer, and forget them."""
        data = bytes(memoryview(self.buffer)[:size])
        del self.buffer[:size]
        return data

    def close(self, seconds):
        """End the connection; the client has so many seconds to take what was written, and, with TLS, to say goodbye.
        """
        self.buffer.clear()                     # this object may live for a while
        if not self.transport.is_closing():     # asyncio's TLS could not be aborted after a second close
            self.transport.close()              # with TLS, that sends a close_notify
        self.loop.call_later(seconds, self.transport.abort)

    async def _wait(self, deadline):
        self._deadline = deadline
        # The timer is set once for many deadlines, and again if it comes too early: far cheaper than one for each.
        if self._timer is None or self._timerEnd > deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._startTimer()
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self):
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _startTimer(self):
        self._timerEnd = self._deadline
        self._timer = self.loop.call_at(self._timerEnd, self._expire)

    def _expire(self):
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self.loop.time() >= self._deadline:
            self._waiter.set_exception(TimeoutError('the client takes too long'))
        else:
            self._startTimer()
