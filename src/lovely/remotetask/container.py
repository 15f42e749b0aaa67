"""Jobs and their ids, over the shards of a service."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import random
import threading

from BTrees.IOBTree import IOBTree
from persistent import Persistent
from ZODB.broken import Broken
from zope.interface import implementer

from lovely.remotetask.checks import EARLIEST
from lovely.remotetask.checks import LATEST
from lovely.remotetask.checks import isPause
from lovely.remotetask.checks import isSpan
from lovely.remotetask.checks import isTime
from lovely.remotetask.checks import isWhole
from lovely.remotetask.checks import shown
from lovely.remotetask.cron import RANGES
from lovely.remotetask.database import isDatabaseError
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import PROCESSING
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.interfaces import IJobs
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.job import CronJob
from lovely.remotetask.job import Failure
from lovely.remotetask.job import Job
from lovely.remotetask.job import Run
from lovely.remotetask.ledger import MICROSECONDS
from lovely.remotetask.ledger import Ledger
from lovely.remotetask.logs import line
from lovely.remotetask.misfire import ONCE
from lovely.remotetask.misfire import SKIP
from lovely.remotetask.readyqueue import ReadyQueue
from lovely.remotetask.retry import RetryPolicy


log = logging.getLogger('lovely.remotetask')

SHARDS = 16
BITS = 27           # an id has 31 bits, an int of XML-RPC; the upper four say in which shard it is

#: Broken records that a process names in its log.
TOLD = 1000


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


# Records that are not whole

def _orNone(isRight):
    return lambda value: value is None or isRight(value)


def _isA(*types):
    return lambda value: isinstance(value, types)


def _isCount(value):
    return isWhole(value, 0, 2 ** 31 - 1)


def _tupleOf(isRight):
    return lambda value: type(value) is tuple and all(map(isRight, value))


def _isOfRange(low, high):
    return lambda value: isWhole(value, low, high)


#: What the attributes of a job's record have to be that our code relies on.  What a record has not is at its default.
RIGHT = {
    'task': _isA(str),
    'created': isTime,
    'status': lambda value: isinstance(value, str) and value in STATUSES and value != PROCESSING,
    'error': _orNone(_isA(str)),
    'errors': _tupleOf(_isA(Failure)),
    'attempt': _isCount,
    'run': _isCount,
    'due': _orNone(_isOfRange(EARLIEST * MICROSECONDS, LATEST * MICROSECONDS)),
    **dict.fromkeys(('started', 'completed', 'retryAt', 'calledFor', 'madeUpTo'), _orNone(isTime)),
    **dict.fromkeys(('schedule', 'lastJob'), _orNone(_isCount)),
    **dict.fromkeys(('suspect', 'stranded', 'eitherDay', 'newJobs', 'overlap', 'active', 'pending'), _isA(bool)),
    **dict.fromkeys(('request', 'crontab', 'timeZone'), _orNone(_isA(str))),
    'timeLimit': _orNone(isSpan),
    'delay': _orNone(isPause),
    'retryPolicy': _orNone(_isA(RetryPolicy)),
    'misfire': lambda value: value in (ONCE, SKIP) if isinstance(value, str) else _isCount(value) and value > 0,
    'history': _tupleOf(_isA(Run)),
    **{name: _tupleOf(_isOfRange(*limits)) for name, limits in RANGES.items()},
}


def _faultOf(jobid, job):
    """Return what is wrong with the record of a job, in a few words; None when it is whole."""
    if isinstance(job, Broken):
        return f'there is no class {type(job).__module__}.{type(job).__name__}'
    if not isinstance(job, Job):
        return f'what is stored is no job, but an object of the class {type(job).__name__}'
    record = vars(job)
    for name in 'id', 'task', 'created':
        if name not in record:
            return f'its record has no {name}'
    if record['id'] != jobid:
        return f'its record is that of the job {shown(record["id"])}'
    for name, value in record.items():
        isRight = RIGHT.get(name)
        if isRight is not None and not isRight(value):
            return f'its record has {shown(value)} as {name}'
    if job.status in (CRONJOB, DELAYED) and not isinstance(job, CronJob):
        return f'its record is {job.status}, and has no schedule'
    if job.status in FINAL and job.completed is None and not isinstance(job, BrokenJob):
        return f'its record is {job.status}, and has no time of its end'
    return None


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

_told = set()           # what has been said of broken records in this process


def _tell(reason):
    """Log what is wrong with a record, once; after many records no more."""
    if reason not in _told and len(_told) < TOLD:
        _told.add(reason)
        log.error('%s', reason)
        if len(_told) == TOLD:
            log.error('%d jobs could not be loaded; no more are named until this process is started anew', TOLD)


def readable(jobid, job):
    """Return the job, or a `BrokenJob` in its place when its record cannot be loaded or is not whole.

    This is the one check of what is stored of a job: all that reads jobs comes by here.  Raise what the database
    raises when it is the database that fails.
    """
    try:
        if job._p_changed is None:              # it is not in memory
            with _quiet:
                job._p_activate()
        fault = _faultOf(jobid, job)
    except Exception as error:
        if isDatabaseError(error):
            raise
        cause = error.__cause__ or error        # newer releases of ZODB say StateLoadError, and no more
        fault = line(f'{type(cause).__name__}: {cause}')
    if fault is None:
        return job
    reason = f'job {jobid} cannot be loaded: {fault}'
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
