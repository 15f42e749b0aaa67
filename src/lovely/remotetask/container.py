"""Jobs and their ids, over the shards of a service."""
# SPDX-License-Identifier: ZPL-2.1
import random

from BTrees.IOBTree import IOBTree
from persistent import Persistent
from zope.interface import implementer

from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.interfaces import IJobs
from lovely.remotetask.ledger import Ledger
from lovely.remotetask.readyqueue import ReadyQueue


SHARDS = 16
BITS = 27           # an id has 31 bits, an int of XML-RPC; the upper four say in which shard it is


class Shard(Persistent):
    """A part of the jobs, and which of these are ready; the ledger is for what no processing host did."""

    def __init__(self):
        self.jobs = IOBTree()
        self.ready = ReadyQueue()
        self.ledger = Ledger()


def newId(shards, candidate=None):
    """Return an id that is not in use: `candidate` if it is free, else a random one."""
    while candidate is None or not 0 < candidate < SHARDS << BITS or candidate in shards[candidate >> BITS].jobs:
        candidate = random.randrange(1, SHARDS << BITS)
    return candidate


@implementer(IJobs)
class Jobs:
    """One mapping over all shards: see `IJobs`.  It stores nothing itself."""

    def __init__(self, shards):
        self._shards = shards

    def __getitem__(self, jobid):
        job = self.get(jobid)
        if job is None:
            raise UnknownJob(jobid)
        return job

    def get(self, jobid, default=None):
        if not isinstance(jobid, int) or isinstance(jobid, bool) or not 0 < jobid < SHARDS << BITS:
            return default
        return self._shards[jobid >> BITS].jobs.get(jobid, default)

    def __contains__(self, jobid):
        return self.get(jobid) is not None

    def __len__(self):
        return sum(len(shard.jobs) for shard in self._shards)

    def __iter__(self):
        return self.keys()

    def keys(self, min=None, max=None):
        for shard in self._shards:
            yield from shard.jobs.keys(min, max)

    def values(self, min=None, max=None):
        for shard in self._shards:
            yield from shard.jobs.values(min, max)

    def items(self, min=None, max=None):
        for shard in self._shards:
            yield from shard.jobs.items(min, max)
