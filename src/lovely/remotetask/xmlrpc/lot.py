"""The parking lot: one thread that holds all connections which have nothing complete to say."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import heapq
import itertools
import logging
import selectors
import socket
import threading
import time
from collections import deque
from http import HTTPStatus

from lovely.remotetask.xmlrpc.connection import CHUNK_SIZE
from lovely.remotetask.xmlrpc.head import Refusal


logger = logging.getLogger('lovely.remotetask')

# Entries of the heap above which those are removed that mean nothing any more.
_STALE = 1000


class Lot:
    """Waits, for all that park there, for what they need, and hands them on.

    A guest is an object with a `connection`, a `connection.Connection`, and a `need`, a `connection.Need`; its `stay`,
    a number, is given here each time that it parks.  A client that is slow, or waits for jobs, so takes a socket and no
    thread.  Nothing here waits for a client.
    """

    def __init__(self, host):
        """`host` has `limits`, `server.Limits`, and the following methods.

        They do not wait for anything and are called in the thread of the lot: `resume(guest)`, its need is met or its
        time is over; `turnAway(guest, refusal)`, it has to go, for the reason in the `head.Refusal`, or None when it
        has said nothing or the connection is broken.
        """
        self._host = host
        self._selector = selectors.DefaultSelector()
        self._requests = {}                     # guests that are waited for, the oldest first -> bytes held for each
        self._waiting = set()                   # guests that wait for jobs
        self._ready = deque()                   # guests with a large body that wait for a turn
        self._turns = host.limits.largeBodies
        self._held = 0                          # bytes that have come and wait for more
        self._deadlines = []                    # heap of deadline, number, guest and its stay; see `_isValid`
        self._numbers = itertools.count()
        self._orders = deque()                  # from other threads: pairs of function and arguments
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._stopped = self._closed = False
        self._thread = threading.Thread(target=self._run, name='remotetask-lot', daemon=True)

    # For all threads

    def start(self):
        """Start to look at the guests."""
        self._thread.start()

    def stop(self):
        """Turn away all guests, and those that come later at once, but for those that have an answer to take.

        Those that wait for jobs are resumed.
        """
        self._order(self._stop)

    def close(self):
        """End the thread, when there are no guests any more and none will come.  Twice, or before `start`, is fine."""
        if self._thread.is_alive():
            self._order(self._close)
            self._thread.join()
        self._selector.close()
        self._bell.close()
        self._rope.close()

    def park(self, guest):
        """Take a guest, which belongs to the lot from now on."""
        self._order(self._park, guest)

    def wake(self, guest, need):
        """Resume a guest that waits for jobs, if it still has this need."""
        self._order(self._wake, guest, need)

    def giveTurn(self):
        """Take back the turn for large bodies that a guest had when it was resumed."""
        self._order(self._giveTurn)

    def sendOneAway(self):
        """Turn away the guest that sends a request, if there is one, and has had the most time to be done with it."""
        self._order(self._sendOneAway)

    @property
    def waiting(self):
        """How many guests wait for jobs."""
        return len(self._waiting)

    def _order(self, function, *arguments):
        self._orders.append((function, arguments))
        with contextlib.suppress(OSError):      # it has been rung often enough, or there is nobody any more
            self._rope.send(b'x')

    # In the thread of the lot

    def _run(self):
        while not self._closed:
            for key, _ in self._selector.select(self._patience()):
                if key.data is None:
                    self._bell.recv(CHUNK_SIZE)
                elif self._isHere(key.data):    # it may have had to go for one of the others
                    self._look(key.data)
            while self._orders:
                function, arguments = self._orders.popleft()
                function(*arguments)
            self._expire(time.monotonic())

    def _patience(self):
        return max(0, self._deadlines[0][0] - time.monotonic()) if self._deadlines else None

    def _isHere(self, guest):
        return guest in self._requests or guest in self._waiting

    def _park(self, guest):
        if guest.need.isRequest:
            self._requests[guest] = 0
        else:
            self._waiting.add(guest)
        guest.stay = next(self._numbers)
        if self._stopped and not guest.need.isAnswer:
            self._dismiss(guest)
            return
        self._noteDeadline(guest)
        self._look(guest, isNew=True)

    def _leave(self, guest):
        self._ignore(guest)
        self._held -= self._requests.pop(guest, 0)
        self._waiting.discard(guest)

    def _ignore(self, guest):
        with contextlib.suppress(KeyError):
            self._selector.unregister(guest.connection)

    def _look(self, guest, isNew=False):
        try:
            if isNew or guest.need.look(guest.connection):
                self._check(guest)
            else:
                self._listen(guest)
        except (OSError, ValueError) as error:          # ValueError: TLS that has ended
            logger.debug('a connection broke: %s', error)
            self._turnAway(guest)

    def _check(self, guest):
        """Resume the guest if its need is met; else note what has changed."""
        need, connection = guest.need, guest.connection
        deadline = need.deadline
        if need.isMet(connection):
            self._resumeInTurn(guest)
            return
        if need.deadline != deadline:
            self._noteDeadline(guest)
        if need.isRequest or not connection.buffer:
            self._listen(guest)
        else:                                   # it asks on while it waits for jobs: no more of that for now
            self._ignore(guest)
        if need.isRequest:
            held = need.held(connection)
            self._held += held - self._requests[guest]
            self._requests[guest] = held
            self._makeRoom()

    def _listen(self, guest):
        connection = guest.connection
        key = self._selector.get_map().get(connection)
        if key is None:
            self._selector.register(connection, connection.events, guest)
        elif key.events != connection.events:
            self._selector.modify(connection, connection.events, guest)

    def _resumeInTurn(self, guest):
        need = guest.need
        if need.isLarge:
            if not self._turns:
                self._ignore(guest)
                need.waitForTurn(self._host.limits.requestTime)
                self._noteDeadline(guest)
                self._ready.append((guest, need))
                return
            self._turns -= 1
        self._resume(guest)

    def _resume(self, guest):
        self._leave(guest)
        self._host.resume(guest)

    def _turnAway(self, guest, refusal=None):
        self._leave(guest)
        self._host.turnAway(guest, refusal)

    def _makeRoom(self):
        # Whoever has had the most time to be done with it goes first.
        limits = self._host.limits
        if len(self._requests) > limits.silent:
            self._sendOneAway()
        if self._held > limits.bodySize * limits.largeBodies:
            average = self._held / len(self._requests)
            self._sendAway(next(guest for guest, held in self._requests.items() if held >= average),
                           'There are too many large requests')

    def _sendOneAway(self):
        if self._requests:
            self._sendAway(next(iter(self._requests)), 'There are too many connections')

    def _sendAway(self, guest, reason):
        self._turnAway(guest, guest.need.hasBegun and Refusal(
            HTTPStatus.SERVICE_UNAVAILABLE, reason, ('Retry-After', '1')) or None)

    def _giveTurn(self):
        self._turns += 1
        while self._ready and self._turns:
            guest, need = self._ready.popleft()
            if guest in self._requests and guest.need is need:
                self._resumeInTurn(guest)

    def _wake(self, guest, need):
        if guest in self._waiting and guest.need is need:
            self._resume(guest)

    def _stop(self):
        self._stopped = True
        for guest in [*self._requests, *self._waiting]:
            if not guest.need.isAnswer:
                self._dismiss(guest)

    def _dismiss(self, guest):
        if guest.need.isRequest:
            self._sendAway(guest, 'The frontend is stopping')
        else:
            self._resume(guest)

    def _close(self):
        self._closed = True

    # Deadlines

    def _noteDeadline(self, guest):
        heapq.heappush(self._deadlines, (guest.need.deadline, next(self._numbers), guest, guest.stay))
        if len(self._deadlines) > _STALE + 4 * (len(self._requests) + len(self._waiting)):
            self._deadlines = [entry for entry in self._deadlines if self._isValid(*entry)]
            heapq.heapify(self._deadlines)

    def _isValid(self, deadline, number, guest, stay):
        return self._isHere(guest) and guest.stay == stay and guest.need.deadline == deadline

    def _expire(self, now):
        while self._deadlines and self._deadlines[0][0] <= now:
            entry = heapq.heappop(self._deadlines)
            if not self._isValid(*entry):
                continue
            guest = entry[2]
            if guest.need.isRequest:
                self._turnAway(guest, guest.need.refusal)
            else:
                self._resume(guest)
