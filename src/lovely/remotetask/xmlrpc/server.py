"""XML-RPC over HTTP: the standard library's server, with limits on what a client can take of it."""
# SPDX-License-Identifier: ZPL-2.1
import dataclasses
import errno
import functools
import logging
import socket
import threading
import time
from collections import Counter
from http import HTTPStatus
from xmlrpc.server import SimpleXMLRPCServer

from lovely.remotetask import errors
from lovely.remotetask.keepalive import keepAlive
from lovely.remotetask.logs import logError
from lovely.remotetask.xmlrpc import methods
from lovely.remotetask.xmlrpc.access import PROOFS
from lovely.remotetask.xmlrpc.access import Doorkeeper
from lovely.remotetask.xmlrpc.connection import Body
from lovely.remotetask.xmlrpc.connection import ChunkedBody
from lovely.remotetask.xmlrpc.connection import Connection
from lovely.remotetask.xmlrpc.connection import Handshake
from lovely.remotetask.xmlrpc.connection import Jobs
from lovely.remotetask.xmlrpc.connection import Outcome
from lovely.remotetask.xmlrpc.connection import Proof
from lovely.remotetask.xmlrpc.conversation import RequestHandler
from lovely.remotetask.xmlrpc.crew import Crew
from lovely.remotetask.xmlrpc.faults import INTERNAL_ERROR
from lovely.remotetask.xmlrpc.faults import DatabaseUnavailable
from lovely.remotetask.xmlrpc.faults import Stopping
from lovely.remotetask.xmlrpc.faults import faultFor
from lovely.remotetask.xmlrpc.head import Refusal
from lovely.remotetask.xmlrpc.lot import Lot
from lovely.remotetask.xmlrpc.waiting import Wait
from lovely.remotetask.xmlrpc.wire import dumpFault
from lovely.remotetask.xmlrpc.wire import dumpResponse
from lovely.remotetask.xmlrpc.wire import parseCall


logger = logging.getLogger('lovely.remotetask')

#: Threads that take long bodies apart, and those that make the handshakes of TLS: one can do about as much as many, and
#: of many the one that speaks with the clients would seldom have its turn.
THREADS, GREETERS = 4, 2

# Seconds between two looks of the thread that accepts connections at whether it is to stop.
_STOP_LOOK = 0.05

# Seconds until another file can be expected to be open.
_PAUSE = 0.05


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a client can take of the frontend.  Raises `errors.ConfigurationError` for values that are not positive."""

    #: Requests that are worked on at a time; the next one waits for a second, and is told 503 then.
    connections: int = 200
    #: Callers of waitFor at a time, who take no thread; the next one is told 503.
    waiting: int = 5000
    #: Other connections at a time: idle ones, and those whose request has not come completely.  When there is one
    #: more, the one that has been so for the longest time is ended.
    silent: int = 2000
    #: Requests that are answered over one connection.
    requests: int = 10_000
    #: Bytes of a request's head; more are refused with 431.
    headSize: int = 64 * 1024
    #: Headers of a request; more are refused with 431.
    headers: int = 100
    #: Bytes of a request's body, also after decompression; a larger one is refused with 413.
    bodySize: int = 8 * 1024 * 1024
    #: Bodies above 256 KiB that are worked on at a time; the others wait.  So many of the full size is also what all
    #: requests that have not come completely may hold; whose has come for the longest time is ended if it is more.
    largeBodies: int = 8
    #: Seconds from the first byte of a request to its last, however it drips.
    requestTime: float = 20.0
    #: Seconds that a connection may be silent between two requests.  Longer than proxies keep them (60 seconds): if it
    #: were the front end that ends one, a proxy could just be using it.
    idleTime: float = 75.0
    #: Seconds that a client may take to accept an answer.
    answerTime: float = 60.0
    #: Seconds that a request waits when as many are worked on as may be; then it is refused with 503.
    permitTime: float = 1.0

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise errors.ConfigurationError(f'the limit {name} of the frontend must be positive, not {value}')


class Frontend(SimpleXMLRPCServer):
    """Answers XML-RPC calls for the task services of a database.

    The path of a call's URL names the service.  What can be called is in `methods.METHODS`, and nothing else: no
    function or instance is ever registered with the base classes.

    The thread of the parking lot speaks with all clients, whatever takes but a moment; what takes longer is done by the
    threads of the gateway or of a crew.
    """

    request_queue_size = 1024

    def __init__(self, address, gateway, limits=Limits(), tls=None, doorkeeper=None):
        """Listen; calls are answered once `serveForever` runs.

        address -- the pair of host ('' for all of IPv4, '::' for all) and port (0 for any that is free).
        gateway -- the `gateway.Gateway`; whoever made it starts and stops it.
        limits -- what a client can take.
        tls -- a `tls.Certificate`; None for plain HTTP.
        doorkeeper -- an `access.Doorkeeper`; None for one that lets everybody do everything.

        Raise `errors.ConfigurationError` when that cannot be listened at.
        """
        self.gateway = gateway
        self.limits = limits
        self.tls = tls
        self.doorkeeper = doorkeeper or Doorkeeper()
        self._changed = threading.Condition()       # guards the three that follow
        self._connections = set()                   # the `RequestHandler` of each
        self._serving = False
        self._stopped = False
        self._refused = Counter()
        calls = Crew('remotetask-call', THREADS)
        self._crews = {Body: calls, ChunkedBody: calls, Handshake: Crew('remotetask-greeter', GREETERS),
                       Proof: Crew('remotetask-prover', PROOFS)}
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
        self._lot = Lot(self)

    @property
    def address(self):
        """The pair of host and port that it listens at."""
        return self.server_address[:2]

    def serveForever(self):
        """Answer calls until `stop`.  Raise RuntimeError when that cannot go on."""
        with self._changed:
            if self._stopped:
                return
            self._serving = True
            self._lot.start()
        try:
            self.serve_forever(_STOP_LOOK)
        except RuntimeError:                    # nobody speaks with the clients any more
            for handler in list(self._connections):
                self.end(handler)
            raise

    def stop(self, timeout=None):
        """Take no more connections and calls, and wait for the answers under way, `timeout` seconds at most.

        Who waits for jobs is told that the frontend stops.  To be called from another thread than runs `serveForever`.
        Return whether all connections have ended.  Twice, or before `serveForever`, is fine.
        """
        with self._changed:
            self._stopped = True
            serving = self._serving
        if serving:
            self.shutdown()
        self.server_close()
        if serving:
            self._lot.stop()
        with self._changed:
            ended = self._changed.wait_for(lambda: not self._connections, timeout)
        if ended:
            self._lot.close()
            for crew in self._crews.values():
                crew.stop()
        return ended

    def statistics(self):
        """Return what there is at the moment, and what was refused, as a dict; from any thread.

        connections -- int, that are open.
        calls -- int, that are worked on, see `Limits.connections`; those that wait for jobs do not count.
        longCalls -- int, those of them that have a long body.
        waitingRequests -- int, that have come, and wait because as many are worked on as may be.
        waitingForJobs -- int, calls of waitFor that wait.
        bytesHeld -- int, of requests that have not come completely, and of answers that are not taken yet.
        refused -- dict, the reason -> how many requests were refused for it.
        """
        return {**self._lot.statistics(), 'connections': len(self._connections), 'refused': dict(self._refused)}

    def noteRefusal(self, refusal):
        """Count a `head.Refusal`."""
        self._refused[refusal.reason.partition(':')[0]] += 1

    # What the base classes call

    def get_request(self):
        try:
            connection, address = super().get_request()
            if self.tls is not None:
                connection = self.tls.wrap(connection)
            return connection, address
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._lot.sendOneAway()
                time.sleep(_PAUSE)
            raise

    def process_request(self, request, client_address):
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        keepAlive(request)
        handler = RequestHandler(Connection(request), client_address, self)
        handler.proceed()
        with self._changed:
            self._connections.add(handler)
        self._lot.park(handler)

    def service_actions(self):
        if not self._lot.isAlive and not self._stopped:
            raise RuntimeError('the thread that speaks with the clients has ended; the log says why')

    # What the lot calls

    def goOn(self, handler):
        """Go on with a conversation whose need is met, or its time is over; return whether it has another one."""
        need, error = handler.need, None
        if isinstance(need, Jobs):
            if handler.connection.ended:        # nobody waits any more
                return False
            self.gateway.forget(need.wait)
            error = Stopping() if self._stopped else None
        if not self._proceed(handler, error):
            return False
        need = handler.need
        if isinstance(need, Jobs):
            need.wait = Wait(need.path, need.jobids, need.any, functools.partial(self._wake, handler, need))
            self.gateway.watch(need.wait)
            self.giveTurn(handler)
        elif isinstance(need, Outcome):
            need.call.listen(functools.partial(self._lot.wake, handler, need))
        return True

    def hand(self, handler):
        """Have a conversation go on in another thread."""
        self._crews[type(handler.need)].put(lambda: self._lot.takeBack(handler, self.goOn(handler)))

    def turnAway(self, handler, refusal):
        """End a connection, with a `Refusal` if it is not None, without waiting for the client."""
        if refusal is not None:
            handler.turnAway(refusal)
        self.end(handler)

    def end(self, handler):
        """End a conversation and its connection."""
        if isinstance(handler.need, Jobs):
            self.gateway.forget(handler.need.wait)
        self.giveTurn(handler)
        handler.close()
        with self._changed:
            self._connections.discard(handler)
            self._changed.notify_all()

    def pulse(self):
        """Have the calls run that have come together; see `Gateway.pulse`."""
        return self.gateway.pulse()

    # In any thread

    def _proceed(self, handler, error=None):
        """Go on with a conversation; return whether it has a need then.  Else it has come to its end."""
        try:
            return handler.proceed(error) is not None
        except OSError as error:                # a client that goes or stalls is none of our failures
            logger.debug('connection of %s ended: %s', handler.address_string(), error)
        except Exception:
            logger.exception('a connection of %s failed', handler.address_string())
        except BaseException as error:          # somebody wants to end the thread, which is not his
            logger.debug('connection of %s ended: %r', handler.address_string(), error)
        return False

    def _wake(self, handler, need):
        need.isOver = True                      # should it not have come to the lot yet
        self._lot.wake(handler, need)

    def giveTurn(self, handler):
        """Take back the turn for large bodies from a conversation, if it has it."""
        if handler.hasTurn:
            handler.hasTurn = False
            self._lot.giveTurn()

    # Calls

    def answer(self, data, charset, path, requestId, caller):
        """Answer a call: a generator of needs, which returns bytes of XML, and a summary of the call for the log.

        data -- the body of the request, bytes.
        charset -- the parameter of that name, None if the request has none.
        path -- the service's, decoded.
        requestId -- text.
        caller -- the `access.Caller`.

        An exception is answered with its fault, but for a `Refusal`; what is no `Exception`, as SystemExit, is not
        caught.
        """
        name = '-'
        try:
            name, values = parseCall(data, charset)
            del data                            # it can be large, and the call take long
            return (yield from self._dispatch(name, values, path, requestId, caller)), name
        except Refusal:
            raise
        except Exception as error:
            code, sentence = faultFor(error, requestId)
            if code == INTERNAL_ERROR:
                logError(logger, 'request %s failed', requestId, error=error)
            return dumpFault(code, sentence), f'{name}:{code}'

    def _dispatch(self, name, values, path, requestId, caller):
        method, arguments = methods.prepare(name, values)
        caller.check(name, method, path, arguments)
        function = functools.partial(method.function, request=requestId) if method.traced else method.function
        if method.access == methods.NO_SERVICE:
            return dumpResponse(function(*arguments))
        function = caller.guarded(method, arguments, function)
        if method.access == methods.REPEATS:
            return dumpResponse((yield from self._repeat(function, arguments, path)))
        if method.access == methods.WAITS:
            return (yield from self._wait(function, arguments, path))
        run = self.gateway.write if method.access == methods.WRITES else self.gateway.read
        return (yield from self._outcome(run(path, lambda service: function(service, *arguments), dumpResponse)))

    def _outcome(self, call):
        """Wait for a `gateway.Call`; return its result, or raise its exception."""
        while not call.hasEnded:
            yield Outcome(call)
            if not call.hasEnded and time.monotonic() >= call.deadline:
                self.gateway.giveUp(call)
        return call.result()

    def _repeat(self, function, arguments, path):
        done, before = 0, time.time()
        while True:
            step = yield from self._outcome(self.gateway.write(
                path, lambda service: function(service, methods.BATCH, before, *arguments)))
            done += step
            if step < methods.BATCH:
                return done

    def _wait(self, function, arguments, path):
        jobids, timeout, any = arguments
        deadline = time.monotonic() + timeout

        def form(statuses):
            isLast = methods.areOver(statuses, any) or time.monotonic() >= deadline
            return dumpResponse(statuses) if isLast else None
        answer = yield from self._outcome(self.gateway.read(path, lambda service: function(service, *arguments), form))
        while answer is None:
            if self._lot.waiting >= self.limits.waiting or not self.gateway.canWatch(len(jobids)):
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, 'There are too many callers that wait for jobs',
                              ('Retry-After', '1'))
            yield Jobs(deadline, path, jobids, any)
            if self.gateway.isSilent:           # not one after the other is to find that out
                raise DatabaseUnavailable()
            answer = yield from self._outcome(self.gateway.read(
                path, lambda service: methods.statusesOf(service, jobids), form))
        return answer
