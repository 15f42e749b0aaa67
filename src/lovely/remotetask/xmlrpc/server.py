"""The server of the front end: listens, accepts connections, holds them to its limits, and stops in good order."""
# SPDX-License-Identifier: ZPL-2.1
import asyncio
import errno
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

from lovely.remotetask import errors
from lovely.remotetask.common.keepalive import keepAlive
from lovely.remotetask.config.limits import Limits
from lovely.remotetask.xmlrpc.access import PROOFS
from lovely.remotetask.xmlrpc.access import Authenticator
from lovely.remotetask.xmlrpc.bridge import Bridge
from lovely.remotetask.xmlrpc.connections import Connections
from lovely.remotetask.xmlrpc.dispatcher import Dispatcher
from lovely.remotetask.xmlrpc.handler import RequestHandler
from lovely.remotetask.xmlrpc.permits import RequestPermits


try:
    import uvloop
except ImportError:
    newEventLoop = asyncio.new_event_loop
else:
    newEventLoop = uvloop.new_event_loop


logger = logging.getLogger('lovely.remotetask')

# Threads that parse long bodies: the interpreter runs one at a time, and the event loop must have its share.
_PARSERS = 4

# The most callers that look at their ended jobs at a time: thousands may wait for one job.
_WOKEN = 64

# Connections that the system keeps until they are accepted.
_BACKLOG = 1024

# Seconds to wait after a connection could not be accepted: there may be no more files until another one is closed.
_PAUSE = 0.05


class Frontend:
    """Answers XML-RPC calls for the task services of a database.

    The path of a call's URL names the service.  What can be called is in `calls.METHODS`, and nothing else.

    An event loop, in the thread of `serveForever`, speaks with all clients: a coroutine of `handler.RequestHandler` for
    each connection.  What takes long is done by the threads of the gateway or of an executor.
    """

    def __init__(self, address, gateway, limits=Limits(), tls=None, authenticator=None):
        """Listen; calls are answered once `serveForever` runs.

        address -- the pair of host ('' for all of IPv4, '::' for all) and port (0 for any that is free).
        gateway -- the `gateway.Gateway`; whoever made it starts and stops it.
        limits -- what a client can take, a `limits.Limits`.
        tls -- a `tls.Certificate`; None for plain HTTP.
        authenticator -- an `access.Authenticator`; None for one that lets everybody do everything.

        Raise `errors.ConfigurationError` when that cannot be listened at.
        """
        self.gateway = gateway
        self.limits = limits
        self.tls = tls
        self.authenticator = authenticator or Authenticator()
        self._socket = _listen(*address)
        #: The pair of host and port that it listens at.
        self.address = self._socket.getsockname()[:2]
        self.isStopping = False
        self._lock = threading.Lock()           # guards `isStopping` and `loop`
        self.loop = None                        # once it serves
        self._ended = threading.Event()         # when it has served
        # All that follows is of the event loop's thread.
        self.permits = RequestPermits(limits)
        self.connections = Connections(self)
        self.waiting = {}                       # handlers that wait for jobs -> a future for the end of that
        self.woken = asyncio.Semaphore(_WOKEN)
        self._error = None                      # why it cannot go on

    def serveForever(self):
        """Answer calls until `stop`.  Raise RuntimeError when that cannot go on."""
        with self._lock:
            if self.isStopping:
                return
            self.loop = newEventLoop()
            self._end = self.loop.create_future()       # done when it is to stop, or cannot go on
        self.parsers = ThreadPoolExecutor(_PARSERS, 'remotetask-parser')
        self.hashers = ThreadPoolExecutor(PROOFS, 'remotetask-hasher')
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._serve())
        finally:
            self._socket.close()
            self.parsers.shutdown()
            self.hashers.shutdown()
            self._ended.set()

    def stop(self, timeout=None):
        """Take no more connections and calls, and wait for the responses under way, `timeout` seconds at most.

        Callers that wait for jobs are told that the front end stops.  Call it from another thread than the one that
        runs `serveForever`.  Return whether all connections have ended.  Twice, or before `serveForever`, is fine.
        """
        with self._lock:
            self.isStopping = True
        if self.loop is None:
            self._socket.close()
            return True
        try:
            self.loop.call_soon_threadsafe(self._stop)
        except RuntimeError:                    # it has stopped
            pass
        return self._ended.wait(timeout)

    def statistics(self):
        """Return what there is at the moment, and what was refused, as a dict; from any thread.

        accepted, connections -- int, connections that were made since the start, and that are open.
        calls -- int, that are worked on, see `Limits.connections`; those that wait for jobs do not count.
        longCalls -- int, those of them that have a long body.
        waitingRequests -- int, that have come, and wait because as many are worked on as may be.
        waitingForJobs -- int, calls of waitFor that wait.
        bytesHeld -- int, of requests that have not come completely, and of responses that are not taken yet.
        refused -- dict, the reason -> how many requests were refused for it.
        """
        return {**self.connections.statistics(), **self.permits.statistics(), 'waitingForJobs': len(self.waiting)}

    # The event loop

    async def _serve(self):
        self.loop.set_exception_handler(_logContext)
        self.bridge = Bridge(self.loop, self.gateway, self._fail)
        self.dispatcher = Dispatcher(self.gateway, self.bridge.result)
        accepting = self.loop.create_task(self._accept())
        accepting.add_done_callback(self._endAccepting)
        if self.isStopping:
            self._stop()
        try:
            await self._end
            accepting.cancel()
            await asyncio.wait([accepting])
            self._socket.close()
            self._dismiss()
            if self.connections.handlers:
                await asyncio.wait([handler.task for handler in self.connections.handlers])
        finally:
            accepting.cancel()
            await self.connections.close()
        if self._error is not None:
            raise RuntimeError('the front end cannot go on; the log says why') from self._error

    async def _accept(self):
        while True:
            try:
                client, address = await self.loop.sock_accept(self._socket)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self.connections.endOldest()
                await asyncio.sleep(_PAUSE)
                continue
            self.connections.addHandshake(self.loop.create_task(self._open(client, address[0])))
            await asyncio.sleep(0)              # many may come at once, and others have come before

    def _endAccepting(self, task):
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())

    async def _open(self, client, address):
        """Make a connection of an accepted socket; with TLS, that includes the handshake."""
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            keepAlive(client)
            tls = {} if self.tls is None else {
                'ssl': self.tls.context(), 'ssl_handshake_timeout': self.limits.requestTime,
                'ssl_shutdown_timeout': self.limits.answerTime}
            await self.loop.connect_accepted_socket(lambda: RequestHandler(self, address), client, **tls)
        except OSError as error:
            logger.debug('connection of %s ended: %s', address, error)

    def _stop(self):
        self.connections.isClosing = True
        if not self._end.done():
            self._end.set_result(None)

    def _fail(self, error):
        """End the server, and all connections, with an error."""
        logger.error('the front end cannot go on', exc_info=error)
        self._error = error
        self._stop()
        for handler in self.connections.handlers:
            handler.task.cancel()

    def _dismiss(self):
        """End the connections that are owed no response; wake those that wait for jobs."""
        self.connections.dismiss('The front end is stopping')
        for future in self.waiting.values():
            if not future.done():
                future.set_result(None)


def _listen(host, port):
    """Return a socket that listens; raise `errors.ConfigurationError`."""
    try:
        if not 0 <= port <= 65535:              # the resolver would take the rest of a division
            raise OverflowError('a port is a number from 0 to 65535')
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name may have both kinds of addresses, and a machine be without the newer.
        family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
        # All addresses of the newer kind are those of the older kind, too.
        isBoth = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        listening = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=isBoth)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise errors.ConfigurationError(f'the front end cannot listen on {host}:{port}: {reason}') from error
    listening.setblocking(False)
    return listening


def _logContext(loop, context):
    """Log what the event loop tells of; a client that leaves or stalls is no failure of ours."""
    error = context.get('exception')
    level = logging.DEBUG if error is None or isinstance(error, OSError) else logging.ERROR
    logger.log(level, '%s', context['message'], exc_info=error)
