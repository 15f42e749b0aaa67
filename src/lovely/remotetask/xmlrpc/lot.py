"""The parking lot: one thread that holds all connections, and goes on with those who can."""
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

# Guests that wait for the database as long as those who have waited for jobs may join them: a job can have thousands.
_WOKEN = 64

# Calls with a long body that are worked on at a time: they take long in the database as well.
_HEAVY = 16

# Entries of the heap above which those are removed that mean nothing any more.
_STALE = 1000


class Lot:
    """Waits, for all that park there, for what they need, and goes on with them then, or hands them on.

    A guest is an object with a `connection`, a `connection.Connection`, and a `need`, a `connection.Need`; its `alarm`
    and `hasTurn`, None and False at first, are set here.  A client that is slow, or waits for jobs, so takes a socket
    and no thread.  Nothing here waits for a client, nor for the database.
    """

    def __init__(self, host):
        """`host` has `limits`, `server.Limits`, and the following methods.

        They do not wait for anything and are called in the thread of the lot.  `goOn(guest)`: its need is met, or its
        time is over; return whether it has another one.  `hand(guest)`: the same for another thread, as it may take
        long; `takeBack` follows.  `end(guest)`: it has no need any more.  `turnAway(guest, refusal)`: it has to go, for
        the reason in the `head.Refusal`, or None when it has said nothing or the connection is broken.  `pulse()`:
        called after each round of guests; return the seconds after which it is to be called again, or None.
        """
        self._host = host
        self._selector = selectors.DefaultSelector()
        self._requests = {}                     # guests that are waited for, the oldest first -> bytes held for each
        self._waiting = set()                   # guests that wait for jobs
        self._calling = set()                   # guests that wait for the database
        self._heavy = set()                     # guests with a call that is long, from when they are handed on
        self._woken = deque()                   # those of whose jobs something is to be seen, or whose time is over
        self._next = deque()                    # guests that can go on
        self._ready = deque()                   # guests with a large body that wait for a turn
        self._queue = deque()                   # guests with a call that wait for room
        self._heavyQueue = deque()              # the same for those whose call is long
        self._turns = host.limits.largeBodies
        self._held = 0                          # bytes that have come and wait for more
        self._alarms = []                       # heap of time, number and guest; not later than its deadline
        self._numbers = itertools.count()
        self._orders = deque()                  # from other threads: pairs of function and arguments
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._rung = False                      # whether there is something in the bell
        self._pulse = None                      # seconds until the host wants to be called again
        self._stopped = self._closed = False
        self._thread = threading.Thread(target=self._run, name='remotetask-lot', daemon=True)

    # For all threads

    def start(self):
        """Start to look at the guests."""
        self._thread.start()

    def stop(self):
        """Turn away all guests, and those that come later at once, but for those to whom an answer is owed.

        Those that wait for jobs go on.
        """
        self._order(self._stop)

    def close(self):
        """End the thread, when there are no guests any more and none will come.  Twice, or before `start`, is fine."""
        if self.isAlive:
            self._order(self._close)
            self._thread.join()
        self._selector.close()
        self._bell.close()
        self._rope.close()

    def park(self, guest):
        """Take a guest, which belongs to the lot from now on."""
        self._order(self._park, guest)

    def takeBack(self, guest, goesOn):
        """Take a guest back that was handed on; `goesOn` says whether it has another need."""
        self._order(self._takeBack, guest, goesOn)

    def wake(self, guest, need):
        """Go on with a guest that waits for jobs or the database, if it still has this need."""
        self._order(self._wake, guest, need)

    def giveTurn(self):
        """Take back the turn for large bodies that a guest had when it was resumed."""
        self._order(self._giveTurn)

    def sendOneAway(self):
        """Turn away the guest that sends a request, if there is one, and has had the most time to be done with it."""
        self._order(self._sendOneAway)

    @property
    def isAlive(self):
        """Whether the guests are looked at."""
        return self._thread.is_alive()

    @property
    def waiting(self):
        """How many guests wait for jobs."""
        return len(self._waiting)

    def statistics(self):
        """Return what `Frontend.statistics` says of the guests."""
        queued = [entry for queue in (self._queue, self._heavyQueue, self._ready) for entry in list(queue)]
        return {'calls': len(self._calling) + len(self._next), 'longCalls': len(self._heavy),
                'waitingRequests': sum(guest.need is need for guest, need in queued),
                'waitingForJobs': len(self._waiting), 'bytesHeld': self._held}

    def _order(self, function, *arguments):
        self._orders.append((function, arguments))
        if not self._rung and threading.get_ident() != self._thread.ident:
            self._rung = True
            with contextlib.suppress(OSError):  # there is nobody any more
                self._rope.send(b'x')

    # In the thread of the lot

    def _run(self):
        try:
            while not self._closed:
                self._round()
        except Exception:
            logger.exception('the frontend cannot go on')

    def _round(self):
        for key, _ in self._selector.select(self._patience()):
            if key.data is None:
                self._bell.recv(CHUNK_SIZE)
                self._rung = False
            elif self._isHere(key.data):    # it may have had to go for one of the others
                self._look(key.data)
        while self._orders:
            function, arguments = self._orders.popleft()
            function(*arguments)
        self._expire(time.monotonic())
        # A head, and then its body; whoever has said more than that comes after the others.
        for _ in range(2 * len(self._next)):
            if self._next:
                guest = self._next.popleft()
                self._takeBack(guest, self._host.goOn(guest))
        while self._queue and not self._isFull(False):
            self._takeOn(self._queue)
        while self._heavyQueue and not self._isFull(True):
            self._takeOn(self._heavyQueue)
        while self._woken and len(self._calling) + len(self._next) < _WOKEN:
            self._takeOn(self._woken)
        self._pulse = self._host.pulse()

    def _patience(self):
        if self._next or self._orders:
            return 0
        patience = max(0, self._alarms[0][0] - time.monotonic()) if self._alarms else None
        return patience if self._pulse is None else self._pulse if patience is None else min(self._pulse, patience)

    def _isHere(self, guest):
        return guest in self._requests or guest in self._waiting or guest in self._calling

    @staticmethod
    def _isCalling(guest):
        """Say whether it is the database that a guest waits for."""
        return guest.need.isAnswer and not guest.need.isRequest

    def _park(self, guest):
        need = guest.need
        if need.isRequest:
            self._requests[guest] = 0
        else:
            (self._calling if self._isCalling(guest) else self._waiting).add(guest)
        if self._stopped and not need.isAnswer:
            self._dismiss(guest)
        else:
            self._look(guest, isNew=True)

    def _takeBack(self, guest, goesOn):
        # First, as it may be handed on at once: with its next request, or the body of this one.
        if not (goesOn and self._isCalling(guest)):
            self._heavy.discard(guest)
        if goesOn:
            self._park(guest)
        else:
            self._ignore(guest)
            guest.alarm = None
            self._host.end(guest)

    def _leave(self, guest):
        self._held -= self._requests.pop(guest, 0)
        self._waiting.discard(guest)
        self._calling.discard(guest)

    def _ignore(self, guest):
        with contextlib.suppress(KeyError):
            self._selector.unregister(guest.connection)

    def _look(self, guest, isNew=False):
        try:
            if isNew:
                self._check(guest, isNew)
            elif guest in self._calling:        # it asks on, or goes: for later
                self._ignore(guest)
            elif guest.need.look(guest.connection):
                self._check(guest)
            else:
                self._listen(guest)
        except (OSError, ValueError) as error:          # ValueError: TLS that has ended
            logger.debug('a connection broke: %s', error)
            self._turnAway(guest)
        except Exception:                       # the other guests have nothing to do with it
            logger.exception('a connection failed')
            self._turnAway(guest)

    def _check(self, guest, isNew=False):
        """Go on with the guest if its need is met; else note what has changed."""
        need, connection = guest.need, guest.connection
        deadline = need.deadline
        if need.isMet(connection):
            queue = self._heavyQueue if need.isEffort else self._queue
            if need.isCall and (queue or self._isFull(need.isEffort)):
                self._putOff(guest, queue, self._host.limits.permitTime)
            else:
                self._resumeInTurn(guest)
            return
        if isNew or need.deadline != deadline:
            self._noteDeadline(guest)
        if guest in self._calling:
            return
        if need.isRequest or not connection.buffer:
            self._listen(guest)
        else:                                   # it asks on while it waits for jobs: no more of that for now
            self._ignore(guest)
        if need.isRequest:
            self._hold(guest)

    def _hold(self, guest):
        held = guest.need.held(guest.connection)
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

    def _isFull(self, isEffort):
        """Say whether there are as many calls under way as there may be; of those that are long there may be few."""
        limit = self._host.limits.connections
        if isEffort and len(self._heavy) >= min(limit, _HEAVY):
            return True
        return len(self._calling) + len(self._next) >= limit

    def _putOff(self, guest, queue, seconds):
        """Have a guest, whose need is met, wait in a queue for so long at the most."""
        self._ignore(guest)
        guest.need.putOff(seconds)
        self._noteDeadline(guest)
        queue.append((guest, guest.need))
        self._hold(guest)

    def _takeOn(self, queue):
        """Go on with the first one in a queue, if it is still there."""
        guest, need = queue.popleft()
        if self._isHere(guest) and guest.need is need:
            self._resumeInTurn(guest)

    def _resumeInTurn(self, guest):
        need = guest.need
        if need.isLarge:
            if not self._turns:
                self._putOff(guest, self._ready, self._host.limits.requestTime)
                return
            self._turns -= 1
            guest.hasTurn = True
        self._resume(guest)

    def _resume(self, guest):
        self._leave(guest)
        if guest.need.isEffort:
            self._ignore(guest)
            if guest.need.isCall:
                self._heavy.add(guest)
            self._host.hand(guest)
        else:
            self._next.append(guest)

    def _turnAway(self, guest, refusal=None):
        self._heavy.discard(guest)
        self._leave(guest)
        self._ignore(guest)
        guest.alarm = None
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
            self._takeOn(self._ready)

    def _wake(self, guest, need):
        if guest.need is not need:
            return
        if guest in self._calling:
            self._resume(guest)
        elif guest in self._waiting:
            self._woken.append((guest, need))

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
        """See to it that the guest is looked at by its deadline: earlier does no harm, and one entry serves many needs.
        """
        deadline = guest.need.deadline
        if guest.alarm is not None and guest.alarm <= deadline:
            return
        guest.alarm = deadline
        heapq.heappush(self._alarms, (deadline, next(self._numbers), guest))
        if len(self._alarms) > _STALE + 4 * (len(self._requests) + len(self._waiting) + len(self._calling)):
            self._alarms = [entry for entry in self._alarms if entry[2].alarm == entry[0]]
            heapq.heapify(self._alarms)

    def _expire(self, now):
        while self._alarms and self._alarms[0][0] <= now:
            alarm, _, guest = heapq.heappop(self._alarms)
            if guest.alarm != alarm:            # there was an earlier one, or it has gone
                continue
            guest.alarm = None
            if not self._isHere(guest):
                continue
            if guest.need.deadline > now:
                self._noteDeadline(guest)
            elif guest.need.isRequest:
                self._turnAway(guest, guest.need.refusal)
            else:
                self._wake(guest, guest.need)
