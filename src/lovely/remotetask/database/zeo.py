"""A ZEO server that refuses connections, that hangs, or that has another database than before."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import random
import socket
import threading

import ZEO.asyncio.client
from persistent.timestamp import TimeStamp
from ZEO.Exceptions import ClientDisconnected
from ZODB.utils import z64

from lovely.remotetask.common.internals import serverOf
from lovely.remotetask.common.internals import tellMissing
from lovely.remotetask.common.keepalive import VANISHED
from lovely.remotetask.common.keepalive import keepAlive
from lovely.remotetask.database.complaints import complain
from lovely.remotetask.database.failures import AWAY
from lovely.remotetask.database.failures import DatabaseReplaced


log = logging.getLogger('lovely.remotetask')


#: Seconds between two pings of a ZEO server, and after which one that does not answer is taken to hang.  All its
#: clients wait while it resolves a large conflict or writes to a slow disk: that must not look like hanging.
PING_INTERVAL = 2.0
ANSWER_TIME = 10

#: Seconds that a ZEO server has to answer before its client is closed.
CLOSE_TIME = 2

#: Seconds before a connection is tried again that the server has refused, up to half as much more.
REFUSED_PAUSE = 1.0

#: Seconds for which a server is looked for that ZEO has not reached.
REACH_TIME = 2.0

#: Seconds after which the log says that a server accepts a connection and says nothing.
GREETING_TIME = 5


def describeServer(address):
    """Return the address of a ZEO server as text; `address` is as ZEO has it."""
    if isinstance(address, str):                # a Unix domain socket
        return address
    host, port = address
    return f'[{host}]:{port}' if ':' in host else f'{host}:{port}'


def whyUnreachable(addresses):
    """Return why nothing can be reached at the addresses of ZEO servers, a text; None if something can.

    addresses -- as ZEO has them, one or more.
    """
    reasons = {}
    for address in addresses:
        try:
            _connect(address)
            return None
        except OSError as error:
            reasons[describeServer(address)] = error.strerror or str(error)
    if len(reasons) == 1:
        return next(iter(reasons.values()))
    return ', '.join(f'{server}: {reason}' for server, reason in reasons.items()) or None


def _connect(address):
    if isinstance(address, str):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(REACH_TIME)
            connection.connect(address)
    else:
        socket.create_connection((address[0] or '127.0.0.1', address[1]), REACH_TIME).close()


# ZEO's client connects anew at once, and says nothing, if the server ends a connection before it is of use.  A proxy
# whose server is down does that, and a server with TLS 1.3 that does not accept the certificate of the client.

class Protocol(ZEO.asyncio.client.Protocol):
    """A connection to a ZEO server.  The system asks now and then whether the server's machine is there.

    If the server ends it before it is of use, the log says why, and the next one is made after a pause.
    """

    def connection_made(self, transport):
        """See `asyncio.Protocol`."""
        keepAlive(transport.get_extra_info('socket'), VANISHED)
        self._complaint = self.loop.call_later(
            GREETING_TIME, complain, 'the database server %s accepts a connection and says nothing: it hangs, or it '
            'wants TLS (<ssl>)', describeServer(self.addr))
        super().connection_made(transport)

    def finish_connection(self, protocol_version):
        """Take the greeting of the server."""
        self._complaint.cancel()
        super().finish_connection(protocol_version)

    def heartbeat(self, write=True):
        """Tell the server that this is there, as ZEO does, but not before its greeting: ZEO would fail then."""
        super().heartbeat(write and hasattr(self, 'heartbeat_bytes'))

    def connection_lost(self, exc):
        """See `asyncio.Protocol`."""
        self._complaint.cancel()
        client = self.client
        isRefused = not self.closed and client.protocol is not self
        if isRefused:
            complain('the database server %s has refused a connection: %s', describeServer(self.addr),
                     exc or 'it gave no reason')
            self.close(exc)                     # else ZEO connects anew at once
        super().connection_lost(exc)
        if isRefused:
            self.loop.call_later(REFUSED_PAUSE * random.uniform(1, 1.5), self._connectAnew, client)

    def _connectAnew(self, client):
        """Take this connection's place by a new one, if the client still has no server."""
        if not client.closed and self in client.protocols:
            client.protocols[client.protocols.index(self)] = type(self)(
                self.loop, self.addr, client, self.storage_key, client.read_only, self.connect_poll,
                self.heartbeat_interval, self.ssl, self.ssl_server_hostname)


def useProtocol():
    """Have all ZEO clients of this process that are made from now on use `Protocol`."""
    ZEO.asyncio.client.Protocol = Protocol


# ZEO's client waits for an answer as long as it takes: nothing but the end of the connection ends that.

def leaveIfSilent(storage, seconds, stopped):
    """End the connection to a ZEO server that does not answer; return whether that was done.

    ZEO tells its callers then, and connects anew, as if the network had ended it.

    seconds -- how long an answer may take, a whole number.
    stopped -- a `threading.Event` that ends the waiting.
    """
    def abort():
        protocol = server.client and server.client.protocol
        if protocol is not None:
            protocol.sm_protocol.transport.abort()

    server = serverOf(storage)
    if server is None:
        return False
    try:
        if server.loop.is_closed():         # so is the storage: ZEO would drop the call, which Python warns of
            return False
        # A call that the server's loop answers.  `storage.ping()` would wait for that, and before for a connection.
        answer = server.call('ping', wait=False, timeout=0)
        # Second by second, so that those do not count in which this process itself was stopped.
        for _ in range(seconds):
            if stopped.is_set() or _ended(answer, 1):
                return False
        server.loop.call_soon_threadsafe(abort)
        _ended(answer, 1)                   # ZEO reports errors that nobody has asked for
        return True
    except AttributeError as error:
        tellMissing(f'in ClientStorage, {error.name}', 'a database server that hangs is not noticed')
        return False
    except Exception:                       # closed meanwhile
        log.debug('a database server cannot be watched', exc_info=True)
        return False


def _ended(answer, timeout):
    try:
        answer.result(timeout)
    except TimeoutError:
        return False
    except ClientDisconnected:
        pass
    return True


class Watchdog:
    """Leaves a ZEO server that hangs, in a thread of its own.

    What waits for the server fails with `ClientDisconnected` then, and is tried again as after a crash of the server.
    """

    def __init__(self, storage, interval=PING_INTERVAL, answerTime=ANSWER_TIME):
        """Start to watch.

        storage -- a `ClientStorage`.
        interval, answerTime -- see `PING_INTERVAL` and `ANSWER_TIME`, seconds; the second is a whole number.
        """
        self._storage, self._interval, self._answerTime = storage, interval, answerTime
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name='remotetask-watchdog', daemon=True)
        self._thread.start()

    def stop(self):
        """Watch no longer.  Twice is fine."""
        self._stopped.set()
        self._thread.join()

    def _watch(self):
        while not self._stopped.wait(self._interval):
            if leaveIfSilent(self._storage, self._answerTime, self._stopped):
                log.warning('the database server %s has not answered for %d seconds: connecting to it anew',
                            self._storage.getName(), self._answerTime)


# After a reconnection ZEO's client keeps what it has in store, but for what the server says has changed since.  That is
# wrong when the server has another history: a backup was put in place, say.  ZEO notices only a server that is behind.

def guard(storage, fail):
    """Make a ZEO client check, at each reconnection, whether the server has the transaction that it has seen last.

    A server that has not is never used: `fail` is called with `DatabaseReplaced`, in ZEO's I/O thread.

    storage -- a `ClientStorage`, connected.
    """
    server = serverOf(storage)
    if server is None:
        return
    client = server.client
    register, invalidateTransaction = client.register, client.invalidateTransaction
    told = before = None                        # the last transaction of another client, and the one before it

    def noteAndInvalidate(tid, oids):
        nonlocal told, before
        told, before = tid, storage.lastTransaction()
        invalidateTransaction(tid, oids)

    async def checkAndRegister(protocol, serverTid):
        seen = storage.lastTransaction()
        if not await _hasTransaction(protocol, serverTid, seen):
            # A server tells of a transaction just before it writes that it is complete: a crash may come in between.
            if seen != told or not await _hasTransaction(protocol, serverTid, before):
                protocol.close()                # and the client connects no more
                fail(DatabaseReplaced(storage.getName()))
                return
            client.cache.clear()
        await register(protocol, serverTid)

    client.register, client.invalidateTransaction = checkAndRegister, noteAndInvalidate


async def _hasTransaction(protocol, serverTid, tid):
    """Return whether a ZEO server has a transaction, as far as can be told; False when that was too long ago.

    protocol -- the connection to the server.
    serverTid -- the id of its last transaction.
    tid -- the id of the transaction.
    """
    if tid is None or tid in (z64, serverTid):
        return True
    if serverTid is None or not 0 <= TimeStamp(serverTid).timeTime() - TimeStamp(tid).timeTime() <= AWAY:
        return False
    try:
        iterator = await protocol.server_call('iterator_start', tid, tid)
        return await protocol.server_call('iterator_next', iterator) is not None
    except Exception:                           # the connection is lost, or the storage has no iterator
        log.debug('a database server cannot be checked', exc_info=True)
        return True
