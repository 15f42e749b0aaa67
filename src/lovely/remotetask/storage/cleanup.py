"""Jobs that have ended: found, run again, removed.  Functions that commit nothing."""
# SPDX-License-Identifier: ZPL-2.1
import itertools
import math

from lovely.remotetask.errors import WrongState
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.storage.ledger import MICROSECONDS
from lovely.remotetask.storage.ledger import microseconds
from lovely.remotetask.storage.ready import enqueue
from lovely.remotetask.storage.ready import fetch
from lovely.remotetask.storage.ready import ledgers
from lovely.remotetask.storage.ready import shardOf


def forget(service, ledger, status, entries):
    """Take entries, pairs of time in microseconds and id, out of what a ledger has of a final status.

    The number of entries is kept elsewhere: a busy host writes its ledger all the time, and this must not conflict with
    it.
    """
    finished = ledger.finished[status]
    for key, _ in entries:
        del finished[key]
    if entries:
        shardOf(service, entries[0][1]).ledger.count(status, -len(entries))


def _latest(before):
    """Return the last key in a ledger of what ended before a time in UTC seconds; None for any."""
    return None if before is None else math.ceil(before * MICROSECONDS) - 1


def failed(service, task=None, before=None):
    """Yield the jobs in ERROR, of a task or all, that ended before a time in UTC seconds, or ever; they may be changed.
    """
    latest = _latest(before)
    for ledger in ledgers(service):
        jobids = list(ledger.finished[ERROR].values(max=latest))
        for start in range(0, len(jobids), 100):
            for _, job in fetch(service, jobids[start:start + 100]):
                if job is not None and not isinstance(job, BrokenJob) and task in (None, job.task):
                    yield job


def reopen(service, job, now):
    """Queue a job that ended in ERROR again, with all its attempts; what went wrong stays on it.

    now -- UTC seconds.
    """
    key = microseconds(job.completed)
    for ledger in ledgers(service):
        if ledger.finished[ERROR].get(key) == job.id:
            forget(service, ledger, ERROR, [(key, job.id)])
    job.change(status=QUEUED, error=None, completed=None, failedAttempts=0, run=job.run + 1, readySince=now)
    enqueue(service, job)


def clean(service, statuses, limit, before=None):
    """Remove up to `limit` jobs in final statuses, the oldest of each ledger first; return how many.

    before -- UTC seconds: only those that ended before; default: all.
    """
    removed = 0
    for ledger in ledgers(service):
        removed += cleanLedger(service, ledger, statuses, limit - removed, before)
        if removed >= limit:
            break
    return removed


def cleanLedger(service, ledger, statuses, limit, before=None):
    """Do what `clean` does for what one ledger has."""
    removed, latest = 0, _latest(before)
    for status in statuses:
        entries = list(itertools.islice(ledger.finished[status].items(max=latest), limit - removed))
        for _, jobid in entries:
            _drop(service, jobid)
        forget(service, ledger, status, entries)
        removed += len(entries)
    return removed


def _drop(service, jobid):
    for gone in shardOf(service, jobid).pages.remove(jobid):
        service.keys.remove(gone)
        if gone != jobid:
            service.index.remove(gone)


def remove(service, job):
    """Remove a job in a final status.

    Raise `WrongState` for another, and for one whose end its host has not acknowledged yet.
    """
    if job.status not in FINAL or job.completed is None:
        raise WrongState(job.id, job.status, 'remove')
    key = microseconds(job.completed)
    for ledger in ledgers(service):
        if ledger.finished[job.status].get(key) == job.id:
            forget(service, ledger, job.status, [(key, job.id)])
            _drop(service, job.id)
            return
    raise WrongState(job.id, job.status, 'remove')
