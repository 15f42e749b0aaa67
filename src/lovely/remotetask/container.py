"""Jobs and their ids, over the shards of a service."""
# SPDX-License-Identifier: ZPL-2.1
import random

from BTrees.IOBTree import IOBTree
from persistent import Persistent
from ZODB.broken import Broken
from zope.interface import implementer

from lovely.remotetask.database import isDatabaseError
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.interfaces import IJobs
from lovely.remotetask.job import BrokenJob
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


def readable(jobid, job):
    """Return the job, or a `BrokenJob` in its place when what is stored of it cannot be loaded."""
    try:
        job._p_activate()
    except Exception as error:
        if isDatabaseError(error):
            raise
        return BrokenJob(jobid, f'job {jobid} cannot be loaded: {type(error).__name__}: {error}')
    if isinstance(job, Broken):
        kind = type(job)
        return BrokenJob(jobid, f'job {jobid} cannot be loaded: there is no class {kind.__module__}.{kind.__name__}')
    return job


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
        job = self._shards[jobid >> BITS].jobs.get(jobid)
        return default if job is None else readable(jobid, job)

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
        for _, job in self.items(min, max):
            yield job

    def items(self, min=None, max=None):
        for shard in self._shards:
            for jobid, job in shard.jobs.items(min, max):
                yield jobid, readable(jobid, job)
