"""Permits limit how many requests are worked on at a time, and how many long and large ones."""
# SPDX-License-Identifier: ZPL-2.1
import asyncio
from http import HTTPStatus

from lovely.remotetask.xmlrpc.head import HTTPException


#: Bytes of a body above which it needs a permit; see `Limits.largeBodies`.
LARGE_BODY = 256 * 1024

#: Bytes of a body above which it is parsed in another thread: 8 KiB take a few milliseconds.
LONG_BODY = 8 * 1024

#: Calls with a long body that are worked on at a time: they take long in the database as well.
LONG_CALLS = 16

#: The header of a refusal for which the client can come again.
RETRY_AFTER = 'Retry-After', '1'


class Permits:
    """A semaphore that counts its holders and waiters, and refuses a request that waits for too long.

    All methods belong to the thread of the event loop.
    """

    def __init__(self, count, kind):
        """count -- how many there are.
        kind -- what they are for, in the plural, for refusals.
        """
        self._semaphore = asyncio.Semaphore(count)
        self._kind = kind
        #: How many are taken, and how many requests wait for one.
        self.taken = self.waiting = 0

    async def acquire(self, seconds):
        """Take a permit; wait for so many seconds at most, a float, then raise `head.HTTPException`."""
        if self._semaphore.locked():
            self.waiting += 1
            try:
                async with asyncio.timeout(seconds):
                    await self._semaphore.acquire()
            except TimeoutError:
                raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, f'There are too many {self._kind} at a time',
                              RETRY_AFTER) from None
            finally:
                self.waiting -= 1
        else:
            await self._semaphore.acquire()     # at once
        self.taken += 1

    def release(self):
        """Give a permit back."""
        self.taken -= 1
        self._semaphore.release()


class RequestPermits:
    """The permits that requests need: each needs one, one with a long body another one, one with a large body a third.
    """

    def __init__(self, limits):
        """`limits` is a `limits.Limits`."""
        self._calls = Permits(limits.connections, 'requests')
        self._longCalls = Permits(min(limits.connections, LONG_CALLS), 'requests')
        self._largeBodies = Permits(limits.largeBodies, 'large requests')

    def needed(self, bodyLength, limits):
        """Return pairs of `Permits` and the seconds to wait for one; first those for which a request may wait long.

        So a request that waits holds no permit that others need.

        bodyLength -- of the request, in bytes.
        limits -- a `limits.Limits`, which has the times.
        """
        needed = [(self._calls, limits.permitTime)]
        if bodyLength > LONG_BODY:
            needed.insert(0, (self._longCalls, limits.permitTime))
        if bodyLength > LARGE_BODY:
            needed.insert(0, (self._largeBodies, limits.requestTime))
        return needed

    def statistics(self):
        """Return what `Frontend.statistics` says of permits; from any thread."""
        return {'calls': self._calls.taken, 'longCalls': self._longCalls.taken,
                'waitingRequests': self._calls.waiting + self._longCalls.waiting + self._largeBodies.waiting}
