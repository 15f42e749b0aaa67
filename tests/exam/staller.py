"""A client of the database that keeps others waiting: it votes, and finishes much later, again and again."""
# SPDX-License-Identifier: ZPL-2.1
import random
import sys
import time

from ZEO.ClientStorage import ClientStorage
from ZODB.Connection import TransactionMetaData
from ZODB.utils import z64

from exam.deployment import LEASE


def stall(storage, seconds):
    """Write an object that nobody refers to, so many seconds after the vote."""
    data, serial = storage.load(z64)
    txn = TransactionMetaData()
    storage.tpc_begin(txn)
    storage.store(storage.new_oid(), z64, data, '', txn)
    storage.tpc_vote(txn)
    time.sleep(seconds)
    storage.tpc_finish(txn)


def main(host, port, seed):
    """Stall until the process is ended, and say so each time."""
    rng, storage = random.Random(seed), ClientStorage((host, int(port)))
    while True:
        time.sleep(rng.uniform(0.2, 3) * LEASE)
        seconds = rng.uniform(0.5, 6) * LEASE
        stall(storage, seconds)
        print(f'{time.time():.3f} a client has stalled for {seconds:.1f} s', flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
