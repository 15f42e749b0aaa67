"""Ports for servers of tests."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import random
import socket


#: Below the range from which systems give ports to connections, and to servers that ask for any.
PORTS = range(10_000, 32_000)


def freePort():
    """Return a TCP port of 127.0.0.1 that is free now.

    The system gives it to nobody by chance, so most likely it stays free until a server takes it.  Raise `OSError` when
    all that were tried are taken.
    """
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(('127.0.0.1', port))
            return port
    raise OSError('no free port was found')
