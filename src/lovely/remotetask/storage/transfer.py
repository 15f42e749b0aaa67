"""Waiting jobs and schedules as dicts that JSON has, from one service into another.  Nothing is committed here."""
# SPDX-License-Identifier: ZPL-2.1
import itertools
from typing import Any
from typing import NamedTuple

from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import isTime
from lovely.remotetask.common.checks import isWhole
from lovely.remotetask.common.checks import shown
from lovely.remotetask.database import storedfiles
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.encoding.rowcheck import faultOf
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import STARTLATER
from lovely.remotetask.job import SCHEDULE
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.job import CronJob
from lovely.remotetask.job import Failure
from lovely.remotetask.job import Job
from lovely.remotetask.schedules.fields import RANGES
from lovely.remotetask.storage.arguments import NewJob
from lovely.remotetask.storage.arguments import checkedOptions
from lovely.remotetask.storage.arguments import checkRequest
from lovely.remotetask.storage.index import RETRY
from lovely.remotetask.storage.ledger import microseconds
from lovely.remotetask.storage.portable import NotPortable
from lovely.remotetask.storage.portable import fromJSON
from lovely.remotetask.storage.portable import policyFromJSON
from lovely.remotetask.storage.portable import policyToJSON
from lovely.remotetask.storage.portable import toJSON
from lovely.remotetask.storage.ready import enqueue
from lovely.remotetask.storage.ready import fetch
from lovely.remotetask.storage.ready import ledgers
from lovely.remotetask.storage.ready import place
from lovely.remotetask.storage.ready import queues
from lovely.remotetask.storage.ready import shardOf
from lovely.remotetask.storage.shards import BITS
from lovely.remotetask.storage.shards import SHARDS
from lovely.remotetask.storage.shards import newId
from lovely.remotetask.storage.transitions import KEPT_FAILURES
from lovely.remotetask.storage.transitions import claimed


#: Keys of the dict whose values are stored on the job as they are; schedules have some more.
PLAIN = 'timeLimit', 'request', 'failedAttempts', 'suspect', 'retryAt'
PLAIN_OF_SCHEDULE = 'calledFor', 'askedFor', 'madeUpTo', 'pending'

#: All that there may be in a dict.
NAMES = ('id', 'task', 'status', 'created', 'input', 'key', 'retryPolicy', 'errors', 'addedBy', 'isLatest', 'schedule',
         'scheduledFor', *PLAIN, *PLAIN_OF_SCHEDULE)

#: Jobs that are looked at together.
CHUNK = 100


class Exported(NamedTuple):
    """A waiting job, or a schedule, that is exported."""

    jobid: int
    entry: dict[str, Any] | None        # None when it cannot be exported
    reason: str | None = None           # why it cannot


class Imported(NamedTuple):
    """What became of an entry."""

    old: int
    new: int
    isSchedule: bool
    wasThere: bool = False              # whether nothing was added: a job of the same task and key was there


# Export

def exported(service, limit):
    """Yield `Exported` for each waiting job: first schedules, then the queues in their order, then all others.

    Jobs that are being run are none of these.

    limit -- bytes that each file, bytes or text of an input may have.
    """
    jobids = _waiting(service)
    while chunk := list(itertools.islice(jobids, CHUNK)):
        for (jobid, isQueue), (_, job) in zip(chunk, fetch(service, [jobid for jobid, _ in chunk])):
            if job is None or isQueue and job.status == CRONJOB:         # that is among the schedules
                continue
            try:
                yield Exported(jobid, _entryOf(service, job, limit))
            except NotPortable as error:
                yield Exported(jobid, None, str(error))
        if service._p_jar is not None:
            service._p_jar.cacheGC()


def _waiting(service):
    """Yield pairs of an id and whether it is from a queue."""
    for part in CRONJOB, DELAYED:
        yield from ((jobid, False) for _, jobid in service.index.entries(part))
    for queue in queues(service):
        yield from ((jobid, True) for jobid in queue)
    for part in STARTLATER, RETRY:
        yield from ((jobid, False) for _, jobid in service.index.entries(part))


def _entryOf(service, job, limit):
    """Return the dict for a job.  Raise `NotPortable` for one that JSON cannot carry."""
    if isinstance(job, BrokenJob):
        raise NotPortable(job.error)
    entry = {'id': job.id, 'task': job.task, 'status': job.status, 'created': job.created,
             'input': _inputOf(job, limit), 'key': service.keys.of(job.id), 'retryPolicy': _policyOf(job),
             'errors': [list(failure) for failure in job.errors] or None}
    entry.update((name, getattr(job, name) or None) for name in PLAIN)
    if isinstance(job, CronJob):
        entry.update((name, getattr(job, name) or None) for name in PLAIN_OF_SCHEDULE)
        entry['pending'] = job.pending and not claimed(service, job) or None
        entry['schedule'] = _scheduleOf(job)
        entry['scheduledFor'] = None if job.retryAt is not None else job.scheduledFor
    elif job.schedule is not None:
        schedule = service.jobs.get(job.schedule)
        entry['addedBy'] = job.schedule
        entry['isLatest'] = isinstance(schedule, CronJob) and schedule.lastJob == job.id or None
    return {name: value for name, value in entry.items() if value is not None}


def _inputOf(job, limit):
    try:
        return toJSON(job.stored('input'), limit)
    except NotPortable:
        raise
    except Exception as error:                  # a value whose class is missing here can raise anything
        if isDatabaseError(error):
            raise
        raise NotPortable(f'input: it cannot be loaded: {type(error).__name__}: {error}') from error


def _policyOf(job):
    if job.retryPolicy is None:
        if (job.row.more or {}).get('retryPolicy') is not None:
            raise NotPortable('retryPolicy: it is of a class that is missing here')
        return None
    return policyToJSON(job.retryPolicy)


def _scheduleOf(job):
    """Return the arguments that make the schedule of a `CronJob`, without those that are the default."""
    names = [name for name in SCHEDULE if job.crontab is None or name not in RANGES]
    values = {name: getattr(job, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
            if value not in (None, (), False) or name == 'active'}


# Import

def imported(service, entry, schedules, checkJob, now):
    """Add what an entry stands for to a service, with its id if this is free; return `Imported`.

    entry -- a dict as in `Exported`, as JSON has it; nobody has checked it.
    schedules -- id of a schedule that was imported before -> its id in this service.
    checkJob -- called with the name of the task and the input; raises what forbids to add such a job.
    now -- UTC seconds.

    Raise what `checkJob` does, and `ValueError` that names what is wrong; the caller must abort then.
    """
    _checkNames(entry)
    isSchedule = 'schedule' in entry
    policy = policyFromJSON(entry['retryPolicy']) if 'retryPolicy' in entry else None
    new = checkedOptions(NewJob(entry['task'], fromJSON(entry.get('input')), False, policy, entry.get('timeLimit'),
                                entry.get('key')))
    checkRequest(entry.get('request'))
    checkJob(new.task, new.input)
    there = None if new.key is None else service.keys.get(new.task, new.key)
    if there is not None and there in shardOf(service, there).pages:
        return Imported(entry['id'], there, False, True)
    jobid = _freeId(service, entry['id'])
    job = _scheduled(jobid, entry, now) if isSchedule else _plainJob(jobid, entry)
    _fill(job, entry, new)
    if not isSchedule and entry.get('addedBy') in schedules:
        job.schedule = schedules[entry['addedBy']]
    if fault := faultOf(job.row):
        raise ValueError(fault)
    if new.input is not None:
        job.input = storedfiles.toStore(new.input, service._p_jar)
    job.store(shardOf(service, jobid).pages)
    if new.key is not None:
        service.keys.put(new.task, new.key, jobid)
    _placed(service, job, entry)
    if job.schedule is not None and entry.get('isLatest'):
        service.jobs[job.schedule].lastJob = jobid
    return Imported(entry['id'], jobid, isSchedule)


def _checkNames(entry):
    if not isinstance(entry, dict):
        raise ValueError(f'{shown(entry)} is no dict')
    for name in entry:
        if name not in NAMES:
            raise ValueError(f'there is no field {shown(name)}; there are {", ".join(NAMES)}')
    for name in 'id', 'task', 'status', 'created':
        if name not in entry:
            raise ValueError(f'the field {name} is missing')
    check('id', entry['id'], isWhole(entry['id'], 1, (SHARDS << BITS) - 1), 'the id of a job')
    check('task', entry['task'], isinstance(entry['task'], str), 'the name of a task')
    check('created', entry['created'], isTime(entry['created']), 'a time in UTC seconds')
    check('addedBy', entry.get('addedBy'), isinstance(entry.get('addedBy'), (int, type(None))), 'the id of a job')
    when = entry.get('scheduledFor')
    check('scheduledFor', when, when is None or isTime(when), 'a time in UTC seconds')
    only = ('addedBy', 'isLatest') if 'schedule' in entry else ('scheduledFor', *PLAIN_OF_SCHEDULE)
    for name in only:
        if name in entry:
            raise ValueError(f'{name}: {"a schedule" if "schedule" in entry else "a job without schedule"} has none')


def _freeId(service, jobid):
    """Return the id, or a new one when it is taken; also by a run that goes on, of a job that was removed."""
    isTaken = any(jobid in ledger.claimed for ledger in ledgers(service))
    return newId(service.shards, None if isTaken else jobid)


def _plainJob(jobid, entry):
    allowed = (QUEUED,) if 'retryAt' in entry else (QUEUED, STARTLATER)
    check('status', entry['status'], entry['status'] in allowed, ' or '.join(allowed))
    return Job(jobid, entry['task'], None, entry['created'], entry['status'])


def _scheduled(jobid, entry, now):
    schedule = entry['schedule']
    if not isinstance(schedule, dict) or not schedule.keys() <= set(SCHEDULE):
        raise ValueError(f'schedule: a dict is needed, with no other keys than {", ".join(SCHEDULE)}')
    job = CronJob(jobid, entry['task'], None, created=entry['created'], **schedule)
    if job.timeOfNextCall(now) is None:
        raise ValueError('the schedule has no time at all: no month of the given ones has such a day')
    allowed = (DELAYED, QUEUED) if job.status == DELAYED else (CRONJOB,)
    check('status', entry['status'], entry['status'] in allowed, ' or '.join(allowed))
    job.status = entry['status']
    return job


def _fill(job, entry, new):
    """Set on a job what the entry says of it; `new` is the `NewJob` with what has been checked."""
    for name in (*PLAIN, *(PLAIN_OF_SCHEDULE if isinstance(job, CronJob) else ())):
        if name in entry:
            setattr(job, name, entry[name])
    job.retryPolicy = new.retryPolicy
    if entry.get('scheduledFor') is not None and job.active and not job.pending and job.retryAt is None:
        job.due = microseconds(entry['scheduledFor'])
    if 'errors' in entry:
        job.errors = _failures(entry['errors'])


def _failures(errors):
    """Return the `Failure`s that a list stands for, the last ones; raise `ValueError`."""
    isRight = isinstance(errors, list) and all(
        isinstance(one, list) and len(one) == len(Failure._fields) and isTime(one[0])
        and all(isinstance(text, str) for text in one[1:]) for one in errors)
    check('errors', errors, isRight, 'a list of lists of time, message, traceback and host')
    return [Failure(*one) for one in errors[-KEPT_FAILURES:]]


def _placed(service, job, entry):
    """Enter a job that was stored where it waits: in a queue, the inbox or the status index."""
    place(service, job)
    if job.status == STARTLATER:
        return
    if job.retryAt is None and (job.status == QUEUED or job.pending):
        enqueue(service, job)
    elif job.due is not None:
        service.schedule.enter(job.due, job.id)         # the inbox would begin a delay anew
        service.schedule._p_changed = True              # wakes the scheduler
    else:
        service.schedule.inbox.put(job.id)
