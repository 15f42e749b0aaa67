"""A long and bad cable: a process that holds each packet of a TUN device for a while, and loses some.

The kernel gives it the packets that it routes to the device, and takes them back from there; so TCP at both ends is the
real one, with real retransmissions.  As a program: `distance.py DEVICE SECONDS LOSS SEED`.
"""
# SPDX-License-Identifier: ZPL-2.1
import collections
import fcntl
import os
import random
import select
import struct
import sys
import time


# Of <linux/if_tun.h>.
_TUNSETIFF, _TUN, _NO_INFORMATION = 0x400454CA, 0x0001, 0x1000

#: Bytes of the largest packet.
_PACKET = 65536

#: Packets that may be on their way; more are lost, as in any router.
_ROOM = 10_000


def openDevice(name):
    """Return the descriptor of a new TUN device, which is gone when that is closed.  Raise `OSError`."""
    descriptor = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack('16sH', name.encode(), _TUN | _NO_INFORMATION))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def carry(descriptor, seconds, loss, rng):
    """Give back each packet after some seconds, in order; never return.

    loss -- the share of the packets that are lost, 0 to 1.
    rng -- a `random.Random`.
    """
    onTheWay = collections.deque()              # pairs of the moment of arrival and the packet
    while True:
        wait = max(0.0, onTheWay[0][0] - time.monotonic()) if onTheWay else None
        if select.select([descriptor], [], [], wait)[0]:
            packet = os.read(descriptor, _PACKET)
            if len(onTheWay) < _ROOM and rng.random() >= loss:
                onTheWay.append((time.monotonic() + seconds, packet))
        while onTheWay and onTheWay[0][0] <= time.monotonic():
            os.write(descriptor, onTheWay.popleft()[1])


def main(device, seconds, loss, seed):
    """Carry the packets of a new device; say `ready` on standard output when it is there."""
    descriptor = openDevice(device)
    print('ready', flush=True)
    carry(descriptor, float(seconds), float(loss), random.Random(int(seed)))


if __name__ == '__main__':
    main(*sys.argv[1:])
