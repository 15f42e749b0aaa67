"""TCP connections whose other end vanishes without a word: the system asks for it now and then."""
# SPDX-License-Identifier: ZPL-2.1
import socket


#: Seconds of silence after which the other end is asked, between two questions, and how many may stay without answer.
IDLE, INTERVAL, COUNT = 15, 5, 3

# Not every system has all of them.
_OPTIONS = (('TCP_KEEPIDLE', IDLE), ('TCP_KEEPINTVL', INTERVAL), ('TCP_KEEPCNT', COUNT))


def keepAlive(connection):
    """Have a connection break, with `TimeoutError`, when the other end has not been heard of for half a minute.

    connection -- a socket of TCP.

    The questions also keep firewalls and address translation from forgetting a connection that is only waiting.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
    for name, value in _OPTIONS:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
