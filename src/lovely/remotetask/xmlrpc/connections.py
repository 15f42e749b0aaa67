"""The connections of all clients: which are waited for, how many bytes are held for them, and which must end when these
are too many.
"""
# SPDX-License-Identifier: ZPL-2.1
import asyncio
from collections import Counter

from lovely.remotetask.xmlrpc.protocol import CHUNK_SIZE


class Connections:
    """Knows all connections, and ends some when too many clients are silent, or too much is held for them.

    All methods but `statistics` belong to the thread of the event loop.
    """

    def __init__(self, frontend):
        """`frontend` has the `limits`, and `tls`, which is None for plain HTTP."""
        self._frontend = frontend
        #: The memory that they receive into.
        self.space = memoryview(bytearray(CHUNK_SIZE))
        self.handlers = set()                   # one for each connection
        self.isClosing = False                  # whether there is to be no other
        self._handshakes = {}                   # tasks that open a connection, the oldest first
        self._expecting = {}                    # handlers that wait for their clients, the oldest first -> bytes held
        self._held = 0                          # their sum
        self._accepted, self._refused = 0, Counter()
        self._allClosed = asyncio.Event()       # set when the last connection ends

    def statistics(self):
        """Return what `Frontend.statistics` says of connections; from any thread."""
        return {'accepted': self._accepted, 'connections': len(self.handlers), 'bytesHeld': self._held,
                'refused': dict(self._refused)}

    def addHandshake(self, task):
        """Note a task that opens a connection."""
        self._handshakes[task] = None
        task.add_done_callback(self.endHandshake)
        self._checkSilent()

    def endHandshake(self, task):
        """Forget such a task."""
        self._handshakes.pop(task, None)

    def add(self, handler):
        """Note a new connection."""
        self._accepted += 1
        self.handlers.add(handler)
        if self.isClosing:
            handler.task.cancel()

    def remove(self, handler):
        """Forget a connection that is closed."""
        self.handlers.discard(handler)
        if not self.handlers:
            self._allClosed.set()

    def waitForClient(self, handler):
        """Note that it is the client that is waited for, from now on."""
        self._held -= self._expecting.pop(handler, 0)
        self._expecting[handler] = 0            # the newest
        self.noteBytes(handler)
        self._checkSilent()

    def doneWithClient(self, handler):
        """Note that nothing has to come from the client for the moment."""
        self._held -= self._expecting.pop(handler, 0)

    def noteBytes(self, handler):
        """Note how many bytes are held for a client, if it is waited for; end one of them if that is too much."""
        before = self._expecting.get(handler)
        if before is None:
            return
        held = self._expecting[handler] = handler.bytesHeld
        self._held += held - before
        limits = self._frontend.limits
        if self._held > limits.bodySize * limits.largeBodies:
            average = self._held / len(self._expecting)
            self._endFor(next(one for one, held in self._expecting.items() if held >= average),
                         'There are too many large requests')

    def noteRefusal(self, error):
        """Count a `head.HTTPException`."""
        self._refused[error.reason.partition(':')[0]] += 1

    def _checkSilent(self):
        # Counted apart: clients that finish no handshake must not push out those that have.
        limits = self._frontend.limits
        limit = limits.silent if self._frontend.tls is None else limits.silentTLS
        if max(len(self._expecting), len(self._handshakes)) > limit:
            self.endOldest()

    def endOldest(self):
        """End the connection, of those whose clients are waited for, that has had the most time."""
        if len(self._handshakes) > len(self._expecting):
            task = next(iter(self._handshakes))
            self.endHandshake(task)
            task.cancel()
        elif self._expecting:
            self._endFor(next(iter(self._expecting)), 'There are too many connections')

    def _endFor(self, handler, reason):
        self.doneWithClient(handler)
        handler.end(reason)

    def dismiss(self, reason):
        """End the connections that are owed no response.

        reason -- a sentence without its full stop, for clients that have begun a request.
        """
        for task in self._handshakes:
            task.cancel()
        for handler in list(self._expecting):
            if not handler.isResponding:
                handler.end(reason)
            elif handler.transport.is_closing():
                handler.task.cancel()           # the client has its response, but for the end maybe

    async def close(self):
        """End what is left of the connections, and wait for that."""
        for task in [*self._handshakes, *(handler.task for handler in self.handlers)]:
            task.cancel()
        if self.handlers:
            self._allClosed.clear()
            await self._allClosed.wait()
