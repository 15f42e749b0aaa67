"""Jobs that fit a filter, in the order of time, page by page: found by indexes, and by looking at a bounded number of
jobs.
"""
# SPDX-License-Identifier: ZPL-2.1
import heapq
import itertools
import math
import re
import time
from collections import deque
from typing import Any
from typing import NamedTuple

from lovely.remotetask import filters
from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import isWhole
from lovely.remotetask.common.masking import hidesOfAny
from lovely.remotetask.common.masking import masked
from lovely.remotetask.common.masking import secretsOf
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.storedfiles import LARGE
from lovely.remotetask.database.storedfiles import StoredFile
from lovely.remotetask.database.storedfiles import valueOf
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import PROCESSING
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.storage import queries
from lovely.remotetask.storage.index import RETRY
from lovely.remotetask.storage.index import entryOf
from lovely.remotetask.storage.ledger import MICROSECONDS
from lovely.remotetask.storage.ledger import microseconds
from lovely.remotetask.storage.ready import fetch
from lovely.remotetask.storage.ready import queues


#: Jobs of one page, by default and at the most.
SIZE, LARGEST = 50, 1000

#: Jobs that are looked at for one page, by default and at the most.
LOOKED_AT, MOST_LOOKED_AT = 5000, 100_000

#: Jobs that are loaded together.
CHUNK = 64

#: The most queued jobs of one time that are sorted by their ids; jobs that were added together are in that order
#: anyway.
TIES = 1000

# Microseconds and an id; of as many digits as the keys of a ledger have.
_CURSOR = re.compile(r'(-?[0-9]{1,18})-([0-9]{1,10})')


class Found(NamedTuple):
    """A page of jobs that fit a filter."""

    jobs: list                  # `IJob`s, newest first, or oldest first
    cursor: str | None          # where the next page begins; None when there is none
    looked: int                 # how many jobs were looked at for this page
    isCut: bool                 # whether it ended because that was enough: there may be more that fit


class Source(NamedTuple):
    """Entries of some jobs: pairs of microseconds and id, the largest first, all below a cursor.

    Oldest first is newest first in a time that runs backwards: then both numbers of an entry are negative.
    """

    status: str
    host: str | None            # the host that ran them; None for none, or unknown
    entries: Any                # an iterator
    isExact: bool = True        # whether an entry has the time that counts; a queue only has its own order


def search(service, filter, after=None, size=SIZE, most=LOOKED_AT, isWanted=None, hides=None, patience=math.inf,
           oldest=False):
    """Return the next page of the jobs that fit a filter, a `Found`.

    The time that counts is when a job ended or, as long as it has not ended, was added.

    filter -- a `filters.Filter`.
    after -- the `cursor` of the page before; None for the first one.
    size -- of the page.
    most -- how many jobs to look at, at the most.
    isWanted -- called with the name of a task; returns whether its jobs may be found.  Default: all may.
    hides -- called with the name of a field; if it returns true, no job is found by the value of that field.  Default:
        those that jobs of some task of the service hide.
    patience -- after how many seconds it ends, too; CHUNK jobs are looked at in any case.
    oldest -- whether the oldest come first.

    Pages lose no job: each begins behind the last entry of the one before, whatever was added meanwhile.  (But of more
    than TIES jobs that were added at one time, and queued again since, some when others leave the queue meanwhile.)
    Raise `ValueError` for a cursor or a number that is none.
    """
    check('size', size, isWhole(size, 1, LARGEST), f'a number from 1 to {LARGEST}')
    check('most', most, isWhole(most, 1, MOST_LOOKED_AT), f'a number from 1 to {MOST_LOOKED_AT}')
    sign = -1 if oldest else 1
    below = parseCursor(after, sign)
    hides = hides or hidesIn(service)
    if filter.jobid is not None:
        return _one(service, filter, below, isWanted, hides)
    start = -math.inf if filter.since is None else math.ceil(filter.since * MICROSECONDS)
    end = math.inf if filter.before is None else math.ceil(filter.before * MICROSECONDS)
    # No id is 0: so it does not matter on which side an end is.
    first, last = ((-start, 0), (-end, 0)) if oldest else ((end, 0), (start, 0))
    entries = heapq.merge(*(_tagged(source, last) for source in _sources(service, filter, below, first, sign)),
                          key=lambda tagged: tagged[0], reverse=True)
    jobs, looked, last, until = [], 0, None, time.monotonic() + patience
    while looked < most and len(jobs) < size and (looked == 0 or time.monotonic() < until):
        chunk = list(itertools.islice(entries, min(CHUNK, most - looked)))
        if not chunk:
            return Found(jobs, None, looked, False)
        found = dict(fetch(service, [sign * jobid for (_, jobid), _ in chunk]))
        for (moment, jobid), source in chunk:
            looked, last, job = looked + 1, (sign * moment, sign * jobid), found[sign * jobid]
            isRight = job is not None and (source.isExact or _isWithin(job, filter))
            if isRight and fitsJob(service, job, source.host, filter, isWanted, hides):
                jobs.append(job)
                if len(jobs) == size:
                    break
    return Found(jobs, f'{last[0]}-{last[1]}', looked, len(jobs) < size)


def parseCursor(text, sign=1):
    """Return the pair that a cursor stands for: what comes next is below it.  Raise `ValueError` for another text.

    sign -- -1 where the oldest come first: see `Source`.
    """
    if text is None:
        return math.inf, 0
    match = _CURSOR.fullmatch(text)
    if match is None or int(match[2]) >= 2 ** 31:
        raise ValueError(f'cursor: {text[:40]!r} is none')
    return sign * int(match[1]), sign * int(match[2])


def hidesIn(service, patterns=()):
    """Return a function that says of the name of a field whether it is hidden in jobs of some task of a service.

    patterns -- more names, as for `masking.isSecret`.
    """
    return hidesOfAny(lambda: service.getAvailableTasks().values(), patterns)


def _one(service, filter, below, isWanted, hides):
    """Return the page for a filter that names a job."""
    job = service.jobs.get(filter.jobid) if below[0] == math.inf else None
    if job is None or not _isWithin(job, filter):
        return Found([], None, 0 if job is None else 1, False)
    status = service.getStatus(job.id)
    isRight = not filter.statuses or status in filter.statuses
    fit = isRight and fitsJob(service, job, None, filter, isWanted, hides)
    return Found([job] if fit else [], None, 1, False)


def _isWithin(job, filter):
    moment = job.completed if job.status in FINAL and job.completed is not None else job.created
    return (filter.since is None or moment >= filter.since) and (filter.before is None or moment < filter.before)


# Where jobs are found

def _tagged(source, last):
    isWithin = (lambda entry: entry >= last) if source.isExact else (lambda entry: True)
    return ((entry, source) for entry in itertools.takewhile(isWithin, source.entries))


def _sources(service, filter, cursor, first, sign):
    """Yield the `Source`s that may have jobs that fit: below a cursor and, where they are exact, below an entry."""
    below = min(cursor, first)
    for status in filter.statuses or STATUSES:
        if status in FINAL:
            yield from _ended(service, status, filter.host, below, sign)
        elif status == PROCESSING:
            yield from _claimed(service, QUEUED, status, filter.host, below, sign)
        elif status == QUEUED:
            for queue in queues(service):
                yield Source(status, None, (entry for entry in _queued(service, queue, sign) if entry < cursor), False)
            yield Source(status, None, _entered(service.index.entries(RETRY), below, sign))
        else:
            yield Source(status, None, _entered(service.index.entries(status), below, sign))


def _ended(service, status, host, below, sign):
    """Yield the sources of jobs that have ended, those of hosts whose names fit a pattern."""
    for name, ledger in service.ledgers.items():
        if filters.fits(name, host):
            yield Source(status, name, _times(ledger.finished[status], below, sign))
    for shard in service.shards:
        yield Source(status, None, _times(shard.ledger.finished[status], below, sign))
    if status == COMPLETED:
        yield from _claimed(service, COMPLETED, status, host, below, sign)


def _claimed(service, stored, status, host, below, sign):
    """Yield the sources of jobs that are claimed, and whose stored status is a certain one."""
    named = [(None, shard.ledger) for shard in service.shards] + list(service.ledgers.items())
    for name, ledger in named:
        if name is not None and not filters.fits(name, host):
            continue
        runs = dict(ledger.claimed.items())
        jobs = [job for jobid, job in fetch(service, list(runs))
                if job is not None and job.status == stored and job.run == runs[jobid]]
        entries = (_signed((microseconds(job.completed), job.id) if stored == COMPLETED else entryOf(job), sign)
                   for job in jobs)
        yield Source(status, name, iter(sorted((entry for entry in entries if entry < below), reverse=True)))


def _signed(entry, sign):
    return sign * entry[0], sign * entry[1]


def _times(finished, below, sign):
    """Yield the entries of a tree of time to id below a cursor, the largest first."""
    if sign < 0:
        start = {} if below[0] == math.inf else {'min': -below[0]}
        yield from (entry for key, jobid in finished.items(**start) if (entry := (-key, -jobid)) < below)
        return
    try:
        key = finished.maxKey() if below[0] == math.inf else finished.maxKey(below[0])
        while True:
            if (key, finished[key]) < below:
                yield key, finished[key]
            key = finished.maxKey(key - 1)
    except ValueError:          # there is none
        return


def _entered(entries, below, sign):
    """Yield the entries of a tree set below a cursor, the largest first."""
    if sign < 0:
        above = entries if below[0] == math.inf else entries.keys((-below[0], -below[1]))
        yield from ((-moment, -jobid) for moment, jobid in above)
        return
    try:
        entry = entries.maxKey() if below[0] == math.inf else entries.maxKey((below[0], below[1] - 1))
        while True:
            yield entry
            entry = entries.maxKey((entry[0], entry[1] - 1))
    except ValueError:
        return


def _queued(service, queue, sign):
    """Yield the entries of a queue, the largest first.

    A job that is queued again is behind newer ones: it counts as what it stands by, see `queries`.  Entries of one time
    come by their ids, TIES of them together, so that a cursor is exact.  Each is below the one before.
    """
    last = math.inf, 0
    for _, group in itertools.groupby(_falling(service, queue, sign), key=lambda entry: entry[0]):
        while some := list(itertools.islice(group, TIES)):
            for moment, jobid in sorted(some, reverse=True):
                moment = min(moment, last[0])
                last = (moment, jobid) if (moment, jobid) < last else (moment - 1, jobid)
                yield last


def _falling(service, queue, sign):
    jobids, latest = reversed(queue) if sign > 0 else iter(queue), math.inf
    entries = (_signed(entry, sign) for entry in queries.entriesOf(service, jobids))
    window = deque(itertools.islice(entries, queries.WINDOW))
    while window:
        latest = min(latest, max(window)[0])
        yield latest, window.popleft()[1]
        window.extend(itertools.islice(entries, 1))


def hostOf(service, job):
    """Return the name of the host that runs a job, or ran it last; None when nobody knows."""
    failures = job.errors
    return queries.placeOf(service, job).host or (failures[-1].host or None if failures else None)


# Whether a job fits

def fitsJob(service, job, host, filter, isWanted, hides):
    """Return whether a job, which has the right status and time, fits all else that a filter says.

    host -- the name of who runs it, or ran it last; None when that is not known from where it was found.

    The other arguments are those of `search`.
    """
    if isinstance(job, BrokenJob):
        return filter._replace(statuses=(), since=None, before=None) == filters.Filter() and isWanted is None
    return ((isWanted is None or isWanted(job.task)) and filters.fits(job.task, filter.task)
            and (filter.schedule is None or job.schedule == filter.schedule)
            and (filter.host is None or _fitsHost(host or hostOf(service, job), filter.host))
            and (not filter.fields and not filter.words or _fitsInput(job, filter, hides)))


def _fitsHost(host, pattern):
    return host is not None and filters.fits(host, pattern)


def _fitsInput(job, filter, hides):
    value = inputOf(job)
    for path, pattern in filter.fields:
        isThere, found = filters.valueAt(value, path)
        if not isThere or any(map(hides, path)) or not filters.fits(
                filters.asText(masked(found, hides, secretsOf(value, hides))), pattern):
            return False
    if not filter.words:
        return True
    secrets = secretsOf(value, hides)
    error = secrets.hide(job.error or '')
    text = ' '.join((str(job.id), job.task, error, repr(masked(value, hides, secrets)))).lower()
    return all(word in text for word in filter.words)


def inputOf(job):
    """Return the input of a job, to be looked at; None for one that is large, a file, or cannot be loaded."""
    try:
        stored = job.stored('input')
        if isinstance(stored, StoredFile) and stored.size > LARGE:
            return None
        return valueOf(stored)
    except Exception as error:
        if isDatabaseError(error):
            raise
        return None
