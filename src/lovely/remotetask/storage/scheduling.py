"""What becomes due: jobs move from the inbox to the calendar, and from there into the queues.  Nothing is committed."""
# SPDX-License-Identifier: ZPL-2.1
import itertools
import logging
import math
import time

from lovely.remotetask.common.checks import counted
from lovely.remotetask.common.logs import about
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.sites import whereIs
from lovely.remotetask.encoding.plain import ownCopy
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.job import Job
from lovely.remotetask.job import Run
from lovely.remotetask.storage.index import RETRY
from lovely.remotetask.storage.ledger import MICROSECONDS
from lovely.remotetask.storage.ledger import microseconds
from lovely.remotetask.storage.ready import enqueue
from lovely.remotetask.storage.ready import fetch
from lovely.remotetask.storage.ready import place
from lovely.remotetask.storage.ready import shardOf
from lovely.remotetask.storage.shards import newId
from lovely.remotetask.storage.timetable import SET_BACK
from lovely.remotetask.storage.transitions import endBroken
from lovely.remotetask.storage.transitions import tell


log = logging.getLogger('lovely.remotetask')

#: The most ids that the scheduler moves in one transaction, and in one step; and the seconds after which a processing
#: host leaves the rest to the next transaction, as claims and heartbeats wait for this one.
LIMIT, CHUNK, ENOUGH = 1000, 100, 0.2

#: Seconds after which a schedule is late: the log tells of it.
LATE = 60.0

#: Parts of the index that wait for a time.
LOOKED_AT = CRONJOB, DELAYED, RETRY


def tick(service, now, limit=LIMIT, patience=math.inf, monotonic=time.monotonic):
    """Move ids from the inbox to the calendar, and what is due at `now` (UTC seconds) into the queues.

    limit -- of each how many at the most.
    patience -- after how many seconds, by the clock `monotonic`, it leaves the rest to the next one; CHUNK of each are
        moved in any case.

    Return whether there may be more to move.
    """
    late = []
    hasMore = _move(service, now, limit, late, monotonic() + patience, monotonic)
    if late:
        path = whereIs(service)
        tell(service, log, logging.WARNING, '%s of %s came late, the first one by %.0f s',
             counted(len(late), 'schedule'), path, max(late),
             extra=about('schedule.late', service=path, jobs=len(late), wait=max(late)))
    return hasMore


def _move(service, now, limit, late, until, monotonic):
    """See `tick`; put the seconds of those that are LATE into that list."""
    timetable = service.schedule
    _retryAside(service, timetable.asideToTry(now, CHUNK), now)
    hasMore = _lookAgain(service, now) or timetable.isTryingAside
    while limit > 0:
        moved = _enterChunk(service, now) + _callChunk(service, now, late)
        if not moved:
            return hasMore
        if timetable.seen.latest is None or now >= timetable.seen.latest + 1:
            timetable.seen.latest = now
        if monotonic() > until:
            break
        limit -= moved
    return True


def _enterChunk(service, now):
    """Move a chunk of the inbox to the calendar; return how many ids have left the inbox."""
    inbox = service.schedule.inbox
    moved = inbox.pull(CHUNK) if inbox else []
    for _, job in fetch(service, moved):
        if isinstance(job, BrokenJob):
            endBroken(service, job, now)
        elif isScheduled(job):
            _enter(service, job, now)
    return len(moved)


def _callChunk(service, now, late):
    """Queue a chunk of the jobs that are due; return how many entries have left the calendar."""
    due = service.schedule.takeDue(now, CHUNK)
    for (key, _), (_, job) in zip(due, fetch(service, [jobid for _, jobid in due])):
        if isinstance(job, BrokenJob):
            endBroken(service, job, now)
        elif isScheduled(job) and job.due == key:
            if job.retryAt is None and getattr(job, 'active', True) and now - key / MICROSECONDS > LATE:
                late.append(now - key / MICROSECONDS)
            _call(service, job, now)
    return len(due)


def isScheduled(job):
    """Return whether a job (None: it is gone) may wait for a time."""
    return job is not None and job.status in (QUEUED, DELAYED, CRONJOB)


def isDue(service, now):
    """Return whether `tick` would queue a job at `now` (UTC seconds)."""
    timetable = service.schedule
    for jobids in _chunks(timetable.inbox):
        for _, job in fetch(service, jobids):
            if isScheduled(job) and _isDueIn(job, now):
                return True
    for entries in _chunks(timetable.due(now)):
        for (key, _), (_, job) in zip(entries, fetch(service, [jobid for _, jobid in entries])):
            if isScheduled(job) and job.due == key:
                return True
    return False


def _isDueIn(job, now):
    """Return whether a job of the inbox is due at `now`; one that cannot be handled is not."""
    try:
        key = _keyOf(job, now)
    except Exception as error:
        if isDatabaseError(error):
            raise
        return False
    return key is not None and key <= now * MICROSECONDS


def _chunks(iterable):
    iterator = iter(iterable)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk


def _setAside(service, job, error):
    """Set a job aside that the scheduler cannot handle: the others go on.

    The step that failed has changed nothing yet; if it was a call, the job's `due` says for which time.  A time zone
    that this machine does not know may be known to the next scheduler.  Raise what is the database's.
    """
    if isDatabaseError(error):
        raise error
    if service.schedule.aside.insert(job.id) or job.error is None:
        scheduler = f' {service.schedule.scheduler}' if service.schedule.scheduler else ''
        reason = str(error) if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'
        job.error = (f'waits, because the scheduler{scheduler} cannot handle it: {reason}; it is tried again each '
                     f'minute, by each scheduler, and by reschedule')
        log.error('job %d (%s) %s', job.id, job.task, job.error, exc_info=not isinstance(error, ValueError),
                  extra=about('schedule.failed', job=job.id, task=job.task, service=whereIs(service)))


def _takeBack(service, job):
    """Note that a job can be handled."""
    if job.id in service.schedule.aside:
        service.schedule.aside.remove(job.id)
        job.error = None
        log.info('job %d (%s) is scheduled again', job.id, job.task,
                 extra=about('schedule.resumed', job=job.id, task=job.task, service=whereIs(service)))


def _retryAside(service, jobids, now):
    """Try jobs again that are set aside."""
    for jobid, job in fetch(service, jobids):
        if isinstance(job, BrokenJob):
            endBroken(service, job, now)
        elif not isScheduled(job):
            service.schedule.aside.remove(jobid)
        elif job.due is None:
            _enter(service, job, now)
        else:
            _call(service, job, now)


def _lookAgain(service, now):
    """If the clock has been set back, bring forward what is due too late by that; return whether there may be more."""
    seen = service.schedule.seen
    if seen.latest is not None and now < seen.latest - SET_BACK:
        log.warning('the clock has been set back by %.0f s: all jobs that wait for a time are looked at again',
                    seen.latest - now)
        seen.latest, seen.part, seen.entry = now, 0, None
    if seen.part is None:
        return False
    entries = service.index.entries(LOOKED_AT[seen.part])
    entries = list(itertools.islice(entries if seen.entry is None else entries.keys(seen.entry), CHUNK))
    for jobid, job in fetch(service, [jobid for _, jobid in entries]):
        if isScheduled(job) and job.due is not None and jobid not in service.schedule.aside:
            _bringForward(service, job, now)
    if len(entries) == CHUNK:
        seen.entry = entries[-1]
    else:
        seen.part, seen.entry = (seen.part + 1, None) if seen.part + 1 < len(LOOKED_AT) else (None, None)
    return seen.part is not None


def _keyOf(job, now):
    """Return the key of a job in the calendar, its next time in microseconds, or None.  Raise whatever happens."""
    when = job.timeOfNextRun(now)
    return None if when is None else microseconds(when)


def _keyOrAside(service, job, now):
    """Return whether the scheduler can handle a job, and the job's key in the calendar; set it aside if not."""
    try:
        return True, _keyOf(job, now)
    except Exception as error:
        _setAside(service, job, error)
        job.due = None                  # an entry of the calendar is stale now
        return False, None


def _bringForward(service, job, now):
    _, key = _keyOrAside(service, job, now)
    if key is not None and key < job.due:
        service.schedule.enter(key, job.id)
        job.due = key


def _enter(service, job, now):
    """Enter a job in the calendar for its next time."""
    isHandled, key = _keyOrAside(service, job, now)
    if not isHandled:
        return
    _takeBack(service, job)
    if key is not None:
        service.schedule.enter(key, job.id)
    if job.due != key:
        job.due = key
    else:
        job.touch()                     # a transaction that takes an id out of the inbox must see the job as it is


def _call(service, job, now):
    """Do what a job waits for: its time has come."""
    due = job.due / MICROSECONDS
    if job.retryAt is not None:
        job.change(due=None, retryAt=None)
        _queue(service, job, due)
    elif job.status != CRONJOB:
        job.change(calledFor=due, status=QUEUED, due=None)
        _queue(service, job, due)
    elif not job.active:
        job.due = None
    else:
        try:
            when = job.timeToRunFor(due, now)
            added = None if when is None else _newJob(service, job, when, now)
        except Exception as error:
            _setAside(service, job, error)
            return
        _takeBack(service, job)
        if job.catchesUp and not job.isMadeUpFor(due, now):
            job.madeUpTo = now
        job.due, job.calledFor = None, due if when is None else when
        if when is not None and not job.newJobs:
            _queue(service, job, due)
            return
        if added is not None:
            _add(service, job, *added)
        _enter(service, job, now)


def runNow(service, job, now):
    """Queue a job that waits for a time at once; its schedule goes on as it would have.

    job -- in CRONJOB or DELAYED, or one that waits for its next attempt.
    now -- UTC seconds.

    Return the id of the job that runs: of a schedule that adds jobs that of the new one; None when one of its runs has
    not ended, and no other may be beside it.
    """
    if job.status == CRONJOB and job.newJobs:
        added = _newJob(service, job, now, now)
        if added is None:
            return None
        _add(service, job, *added)
        return added[0].id
    if job.status == CRONJOB and job.pending and job.retryAt is None:
        return None
    if job.status == DELAYED:
        job.calledFor, job.status = now, QUEUED
    elif job.retryAt is None:
        job.askedFor = now
    job.change(due=None, retryAt=None)          # an entry of the calendar is stale now
    _queue(service, job, now)
    return job.id


def _queue(service, job, since):
    job.change(readySince=since, **({'pending': True} if job.status == CRONJOB else {}))
    place(service, job)
    enqueue(service, job)


def _newJob(service, schedule, when, now):
    """Return the job that a schedule adds for its time `when`, and its history then.

    None for no job, because the last one that it added has not ended.
    """
    if not schedule.newJobs:
        return None
    last = None if schedule.lastJob is None else service.jobs.get(schedule.lastJob)
    if last is not None and last.status not in FINAL and not schedule.overlap:
        return None
    job = Job(newId(service.shards), schedule.task, ownCopy(schedule.stored('input')), now)
    job.change(schedule=schedule.id, traceparent=schedule.traceparent)
    return job, schedule.historyWith(Run(when, job.id))


def _add(service, schedule, job, history):
    job.store(shardOf(service, job.id).pages)
    schedule.change(lastJob=job.id)
    schedule.history = history
    enqueue(service, job)
