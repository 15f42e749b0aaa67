"""The bridge from the event loop to the threads of the gateway: calls are awaited, and flushed when all have come."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import time
from collections import deque


# Seconds between two looks for calls whose time is over, while there are calls.
_CHECK_INTERVAL = 0.1


class Bridge:
    """Lets coroutines of an event loop await calls that the threads of a gateway carry out.

    `asyncio.wrap_future` would wake up the loop for each result, and set a timer for each call.  Here results that come
    together wake it up once, and one timer is for all.
    """

    def __init__(self, loop, gateway, fail):
        """loop -- the event loop; all methods but `wake` are for its thread.
        gateway -- the `gateway.Gateway`.
        fail -- called with an exception when the gateway cannot go on.
        """
        self._loop, self._gateway, self._fail = loop, gateway, fail
        self._done = deque()                    # futures of the loop that other threads are done with
        self._isWoken = False                   # whether the loop will look at them
        self._calls = set()                     # those of the gateway that are awaited
        self._timer = None                      # for the deadlines of these
        self._flushesSoon = False               # whether the next round of the loop flushes
        self._flush = None                      # the handle of a later flush

    async def result(self, call):
        """Wait for a `gateway.Call`; return its result, or raise its exception."""
        future = self._loop.create_future()
        call.waiter = future
        call.add_done_callback(self._end)
        self._calls.add(call)
        if self._timer is None:
            self._timer = self._loop.call_later(_CHECK_INTERVAL, self._giveUp)
        if not self._flushesSoon and self._gateway.needsFlush:
            # The calls of all requests that have come together are flushed together.
            self._flushesSoon = True
            self._loop.call_soon(self._flushCalls)
        try:
            await future
        finally:
            self._calls.discard(call)
        return call.result()

    def _end(self, call):
        self.wake(call.waiter)

    def wake(self, future):
        """Set the result of a future of the loop, if it is not done; for any thread."""
        self._done.append(future)
        if not self._isWoken:
            self._isWoken = True
            with contextlib.suppress(RuntimeError):     # the loop has ended, and nobody waits
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self):
        self._isWoken = False
        while self._done:
            future = self._done.popleft()
            if not future.done():
                future.set_result(None)

    def _giveUp(self):
        now = time.monotonic()
        try:
            for call in [call for call in self._calls if call.deadline <= now and not call.done()]:
                self._gateway.giveUp(call)
        finally:                                # whatever happens, the other calls have deadlines, too
            self._timer = self._loop.call_later(_CHECK_INTERVAL, self._giveUp) if self._calls else None

    def _flushCalls(self):
        self._flushesSoon = False
        if self._flush is not None:
            self._flush.cancel()
        try:
            seconds = self._gateway.flush()
        except Exception as error:
            self._fail(error)
            return
        self._flush = None if seconds is None else self._loop.call_later(seconds, self._flushCalls)
