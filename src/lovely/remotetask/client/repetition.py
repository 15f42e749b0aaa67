"""Calls of a front end by the names of its methods: which of them are repeated when something goes wrong, and when."""
# SPDX-License-Identifier: ZPL-2.1
import itertools
import random
import ssl
import time
from typing import Any
from typing import Self

from lovely.remotetask import errors
from lovely.remotetask.client.transport import ConnectionBroken
from lovely.remotetask.client.transport import ConnectionPool
from lovely.remotetask.client.transport import HttpError
from lovely.remotetask.client.transport import NoAnswer
from lovely.remotetask.client.transport import NotConnected
from lovely.remotetask.client.transport import RemoteFault
from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import isSpan
from lovely.remotetask.xmlrpc import faults
from lovely.remotetask.xmlrpc.calls import METHODS
from lovely.remotetask.xmlrpc.wire import dumpCall
from lovely.remotetask.xmlrpc.wire import misfit


#: Seconds that a call may take, all its repetitions included.
TIMEOUT = 60.0

#: Seconds before a call is repeated: the first time, the longest, and the growth.
FIRST_PAUSE, LONGEST_PAUSE, PAUSE_GROWTH = 0.1, 2.0, 2

#: How often a call is repeated when its connection breaks and no front end has ever answered.
STRANGE = 3

# Faults that say that nothing was changed.
_NOTHING_CHANGED = (faults.DATABASE_UNAVAILABLE, faults.STOPPING, faults.WRONG_GENERATION)
# HTTP statuses of a server that has not looked at the request yet, and of a proxy that does not know what became of it.
_TOO_BUSY, _NO_ANSWER = (429, 503), (502, 504)


def pauseAfter(error: Exception, attempt: int, repeatable: bool, answered: bool) -> float | None:
    """Return the seconds to wait before a failed call is repeated; None if it must not be.

    error -- an exception.
    attempt -- how often the call has been made before, 0 at first.
    repeatable -- whether it may be carried out twice.
    answered -- whether a front end has ever answered there.
    """
    pause = min(FIRST_PAUSE * PAUSE_GROWTH ** min(attempt, 100), LONGEST_PAUSE)     # a power may not overflow
    if isinstance(error, ConnectionBroken):
        # Most likely the connection was kept too long; or the other side is no front end, or only one of us speaks TLS.
        return (pause if attempt else 0) if repeatable and (answered or attempt < STRANGE) else None
    if isinstance(error, NotConnected):
        return pause if error.refused and (answered or attempt) else None
    if isinstance(error, HttpError) and error.status in _TOO_BUSY:
        return max(pause, error.retryAfter or 0)
    if isinstance(error, HttpError) and error.status in _NO_ANSWER:
        return pause if repeatable else None
    if isinstance(error, RemoteFault) and (
            error.code in _NOTHING_CHANGED or repeatable and error.code == faults.OUTCOME_UNKNOWN):
        return pause
    return None


def needed(method: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of a call without the last ones that are None and may be left out.

    A front end of an older release may not know them, and does not need them.
    """
    count = len(arguments)
    required = METHODS[method].required if method in METHODS else count
    while count > required and arguments[count - 1] is None:
        count -= 1
    return arguments[:count]


def bodyOf(method: str, arguments: tuple[Any, ...]) -> bytes:
    """Return the body of the request for a call.  Raise `BadArguments` that names what XML-RPC cannot carry."""
    try:
        return dumpCall(method, arguments)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        names = [argument.name for argument in METHODS[method].arguments] if method in METHODS else []
        names += [f'argument {number}' for number in range(len(names) + 1, len(arguments) + 1)]
        reason = next(filter(None, map(misfit, arguments, names)), error)
        raise faults.BadArguments(f'{method}: the arguments cannot be sent: {reason}') from error


class RepeatingClient:
    """Calls the methods of a front end by their names, for any number of threads.

    It keeps its connections open until `close`; as a context manager it closes them at the end of the block.

    A call that has changed nothing is repeated, with growing pauses, as long as `timeout` allows: when the front end is
    too busy (HTTP 429 and 503, after the time that it asks for), about to stop, without its database, or of a release
    that cannot work with the stored data.  When nobody listens at the address, a call is repeated if the front end has
    answered before; otherwise the error is raised at once.

    When the connection breaks, or the front end or a proxy before it (HTTP 502 and 504) does not know the outcome, only
    calls that are harmless twice are repeated, such as those that only read (`isRepeatable` in the table of
    `xmlrpc.calls`).  All other calls are sent once, over a new connection: the server may close a kept one just when it
    is used again.

    If no front end has ever answered, a call whose connection breaks is repeated only a few times.

    All methods but `close` raise:

    `RemoteFault`, and with it the class of `errors` or `xmlrpc.faults` that belongs to the fault's code;
    `NotAuthorized` and other `HttpError`;
    `NotConnected`, `ConnectionBroken`, `NoAnswer`, `BadAnswer`;
    `xmlrpc.faults.BadArguments` for what XML-RPC cannot carry.

    All of them are `errors.RemoteTaskError`.  None tells the password.
    """

    def __init__(self, url: str, timeout: float = TIMEOUT, context: ssl.SSLContext | None = None) -> None:
        """Nothing is connected yet.

        url -- of the front end, http or https; its path names the service, as in http://127.0.0.1:8080/site1/films.
            A user and a password may stand before the host: https://USER:PASSWORD@HOST/.  If there is a user
            without a password, the password is the first line of the file that `transport.PASSWORD_FILE` names in the
            environment; it is read now.
        timeout -- seconds that a call may take, repetitions included.
        context -- an `ssl.SSLContext` for https; default: one that trusts whom the system trusts.

        Raise `ValueError` for what is no URL, or no time above 0, or a password file that is of no use.
        """
        check('timeout', timeout, isSpan(timeout), 'a number of seconds above 0')
        self._connections = ConnectionPool(url, context)
        self.timeout = timeout

    @property
    def url(self) -> str:
        """The URL without user, password and query."""
        return self._connections.url

    def close(self) -> None:
        """Close the connections, and refuse all calls from now on."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what the method of that name answers; raise what all methods of the class do.

        arguments -- of what XML-RPC can carry.
        """
        return self._call(method, arguments, method in METHODS and METHODS[method].isRepeatable)

    def _call(self, method: str, arguments: tuple[Any, ...], repeatable: bool, more: float = 0.0) -> Any:
        """Return what the method answers.

        repeatable -- whether it may be carried out twice.
        more -- seconds that it may take above `timeout`.
        """
        body = bodyOf(method, needed(method, arguments))
        seconds = self.timeout + more
        until, before = time.monotonic() + seconds, None
        for attempt in itertools.count():
            try:
                return self._connections.post(body, seconds, until, fresh=attempt > 0 or not repeatable)
            except NoAnswer as error:
                raise error if before is None else NoAnswer(self.url, seconds, before) from before
            except errors.RemoteTaskError as error:
                pause = pauseAfter(error, attempt, repeatable, self._connections.answered)
                if pause is None:
                    raise
                pause *= random.uniform(1, 1.5)             # not all who were sent away come back together
                if time.monotonic() + pause >= until:
                    raise
                before = error
            time.sleep(pause)
