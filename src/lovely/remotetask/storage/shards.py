"""Jobs and their ids, over the shards of a service."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import random
import threading

from persistent import Persistent
from zope.interface import implementer

from lovely.remotetask.common.logs import line
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.interfaces import IJobs
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.job import Job
from lovely.remotetask.storage.ledger import ShardLedger
from lovely.remotetask.storage.pages import Pages
from lovely.remotetask.storage.queue import ReadyQueue


log = logging.getLogger('lovely.remotetask')

SHARDS = 16
BITS = 27           # an id has 31 bits, an int of XML-RPC; the upper four say in which shard it is

#: The most broken jobs that a process names in its log.
TOLD = 1000


class Shard(Persistent):
    """A part of the jobs, and which of these are ready; its ledger is for changes that no processing host made."""

    def __init__(self):
        self.pages = Pages()
        self.ready = ReadyQueue()
        self.ledger = ShardLedger()


def newId(shards, candidate=None):
    """Return an id that is not in use: `candidate` if it is free, else a random one."""
    while candidate is None or not 0 < candidate < SHARDS << BITS or candidate in shards[candidate >> BITS].pages:
        candidate = random.randrange(1, SHARDS << BITS)
    return candidate


# Jobs that cannot be loaded

class _Quiet(threading.local):
    """A filter for the logs of ZODB: while this is entered, a thread does not log that a record cannot be loaded.

    ZODB would do that, with a traceback, at each look.
    """

    isOn = False

    def __enter__(self):
        self.isOn = True

    def __exit__(self, *exception):
        self.isOn = False

    def filter(self, record):
        """Return whether a line is to be logged."""
        return not (self.isOn and record.exc_info and not isDatabaseError(record.exc_info[1]))


_quiet = _Quiet()
for _name in 'ZODB.Connection', 'ZODB.serialize':
    logging.getLogger(_name).addFilter(_quiet)

_told = set()           # what has been said of broken jobs in this process


def _tell(reason):
    """Log what is wrong with a job, once; after many jobs no more."""
    if reason not in _told and len(_told) < TOLD:
        _told.add(reason)
        log.error('%s', reason)
        if len(_told) == TOLD:
            log.error('%d jobs could not be loaded; no more are named until this process is started anew', TOLD)


def readable(pages, jobid):
    """Return the job of an id, None if there is none, or a `BrokenJob` in its place when its row is not whole.

    All code that reads jobs calls this: nothing else checks stored rows.  Raise errors of the database itself.
    """
    page = pages.page(jobid)
    if page is None:
        return None
    try:
        if page._p_changed is None:             # it is not in memory
            with _quiet:
                page._p_activate()
        data = page.get(jobid)
        return None if data is None else Job.at(pages, jobid, page, data)
    except Exception as error:
        if isDatabaseError(error):
            raise
        cause = error.__cause__ or error        # newer releases of ZODB say StateLoadError, and no more
        fault = str(error) if isinstance(error, ValueError) else f'{type(cause).__name__}: {cause}'
    reason = f'job {jobid} cannot be loaded: {line(fault)}'
    _tell(reason)
    return BrokenJob(jobid, reason)


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
        job = readable(self._shards[jobid >> BITS].pages, jobid)
        return default if job is None else job

    def __contains__(self, jobid):
        return self.get(jobid) is not None

    def __len__(self):
        return sum(len(shard.pages) for shard in self._shards)

    def __iter__(self):
        return self.keys()

    def keys(self, min=None, max=None):
        for shard in self._shards:
            yield from shard.pages.keys(min, max)

    def values(self, min=None, max=None):
        for _, job in self.items(min, max):
            yield job

    def items(self, min=None, max=None):
        for shard in self._shards:
            for jobid in shard.pages.keys(min, max):
                yield jobid, readable(shard.pages, jobid)
