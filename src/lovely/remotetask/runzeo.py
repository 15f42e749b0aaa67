"""The database server: ZEO's `runzeo`, with connections that end when the machine of a client has vanished.

`python -m lovely.remotetask.runzeo` and `bin/runzeo` take the arguments of ZEO's `runzeo`.
"""
# SPDX-License-Identifier: ZPL-2.1
# ruff: noqa: E402
from lovely.remotetask.common.process import openStandardDescriptors


# First of all: to import some libraries opens files, with newer releases of libffi even `ctypes`.
openStandardDescriptors()

import ZEO.asyncio.server
import ZEO.runzeo
import ZEO.zconfig

from lovely.remotetask.common.keepalive import VANISHED
from lovely.remotetask.common.keepalive import keepAlive
from lovely.remotetask.common.process import keepFilesPrivate
from lovely.remotetask.common.process import resetSignals
from lovely.remotetask.database.tls import newServerLoop
from lovely.remotetask.database.tls import serverContext


class Protocol(ZEO.asyncio.server.ServerProtocol):
    """A connection of a client.

    A client that has voted keeps all others from committing until its connection ends.
    """

    def connection_made(self, transport):
        """See `asyncio.Protocol`."""
        keepAlive(transport.get_extra_info('socket'), VANISHED)
        super().connection_made(transport)


def main(arguments=None):
    """Run the server until it is asked to stop.

    arguments -- of the command line, a list of texts; default: those of the process.
    """
    resetSignals()
    keepFilesPrivate()
    ZEO.asyncio.server.ServerProtocol = Protocol
    # With uvloop, which ZEO takes where that is installed, it would tell its clients of commits out of order.
    ZEO.asyncio.server.new_event_loop = newServerLoop
    ZEO.zconfig.server_ssl = serverContext          # the schema of its configuration names it
    ZEO.runzeo.main(arguments)


if __name__ == '__main__':
    main()
