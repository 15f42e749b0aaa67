"""TCP connections whose other end vanishes without a word: the system asks for it now and then."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import socket


#: Seconds of silence after which the other end is asked, between two questions, and how many may stay without answer.
IDLE, INTERVAL, COUNT = 15, 5, 3

#: Seconds after which a connection ends whose other end has vanished.
VANISHED = IDLE + INTERVAL * COUNT

# Not every system has all of them.
_OPTIONS = (('TCP_KEEPIDLE', IDLE), ('TCP_KEEPINTVL', INTERVAL), ('TCP_KEEPCNT', COUNT))


def keepAlive(connection, unconfirmed=None):
    """Make a connection break, with `TimeoutError`, when the other end has not been heard of for VANISHED seconds.

    connection -- a socket; one that is not of TCP is left alone.
    unconfirmed -- seconds that what was sent may stay unconfirmed, where the system can count them; default: as long
        as the system has it, which may be many minutes.

    The questions also keep firewalls and address translation from forgetting a connection that is only waiting.
    """
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    options = _OPTIONS if unconfirmed is None else (*_OPTIONS, ('TCP_USER_TIMEOUT', int(1000 * unconfirmed)))
    with contextlib.suppress(OSError):          # it has ended already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
        for name, value in options:
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
