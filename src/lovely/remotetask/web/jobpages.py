"""Pages of jobs: the list by filter, one job, the schedules."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
from typing import Any
from typing import NamedTuple

import webob

from lovely.remotetask.database import storedfiles
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.sites import siteManager
from lovely.remotetask.database.storedfiles import LARGE
from lovely.remotetask.database.storedfiles import StoredFile
from lovely.remotetask.database.storedfiles import valueOf
from lovely.remotetask.execution.tasks import limitOf
from lovely.remotetask.execution.tasks import policyOf
from lovely.remotetask.filters import parseFilter
from lovely.remotetask.filters import quoted
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import PROCESSING
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import ICronJob
from lovely.remotetask.job import SCHEDULE
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.schedules.fields import RANGES
from lovely.remotetask.storage.search import Found
from lovely.remotetask.storage.search import hostOf
from lovely.remotetask.web import formats
from lovely.remotetask.web import sorting
from lovely.remotetask.web import words
from lovely.remotetask.web.interfaces import IJobDetail
from lovely.remotetask.web.rendering import Page
from lovely.remotetask.web.scheduleforms import writeNumbers
from lovely.remotetask.web.servicepages import LATE


#: How many rows a page can have; the first is the default.
SIZES = (50, 20, 100, 200)

#: Seconds that a page spends on jobs that do not fit.
PATIENCE = 0.04

#: Bytes of an output that a browser gets.
DOWNLOAD = 16 * 1024 * 1024

#: Characters of a detail in a list.
DETAIL = 120


class Row(NamedTuple):
    """A job in a list."""

    job: Any
    status: str
    started: float | None       # when its last run began, or the one that goes on, in UTC seconds; None: nobody knows
    ended: float | None         # when, in UTC seconds; None for a job that goes on, though a run of it may have ended
    detail: str
    seconds: float | None       # that its last run took, or the one that goes on has taken
    canCancel: bool
    canRetry: bool
    canRemove: bool


def statusOf(service, job):
    """Return the status of a job; only a queued one can be another than what is stored."""
    return service.getStatus(job.id) if job.status == QUEUED else job.status


def rowOf(context, job):
    """Return the `Row` of a job."""
    status = statusOf(context.service, job)
    isBroken = isinstance(job, BrokenJob)
    started = context.service.getRun(job.id).started if status == PROCESSING else job.started
    seconds = _spent(context, job, status, started)
    ended = job.completed if status in FINAL else None
    return Row(job, status, started, ended, detailOf(context, job), seconds, status not in FINAL,
               status == 'error' and not isBroken, status in FINAL and not isBroken)


def _spent(context, job, status, started):
    """Return how many seconds the last run of a job took, or the one that goes on has taken; None when nobody knows."""
    if status == PROCESSING:
        return None if started is None else max(0.0, context.now - started)
    return None if started is None or job.completed is None else job.completed - started


def detailOf(context, job):
    """Return the detail of a job in a list, a text: what its task's adapter says, or why it failed, or its input.
    """
    if job.task:
        found = siteManager(context.service).queryAdapter(job, IJobDetail, name=job.task)
        if found is not None:
            return context.shownText(job, str(found))[:DETAIL]
    if ICronJob.providedBy(job):
        return words.ofSchedule(job)
    if job.error:
        return context.shownText(job, job.error)[:DETAIL]
    value = shownPart(context, job, 'input')
    return '' if value.tree is None or value.value is None else formats.brief(value.value, DETAIL)


class Part(NamedTuple):
    """An input or output, as it is shown."""

    value: Any
    tree: Any                   # `formats.Node`; None for one that is not shown
    note: str                   # why it is not shown, or how large it is


def shownPart(context, job, name):
    """Return the `Part` for the 'input' or 'output' of a job."""
    try:
        stored = job.stored(name)
        if isinstance(stored, StoredFile):
            size = formats.asSize(stored.size)
            if stored.size > LARGE:
                return Part(None, None, f'{size}, too large to be shown')
            value, note = valueOf(stored), size
        else:
            value, note = stored, ''
        value = context.shownValue(job, value)
        return Part(value, formats.treeOf(value), note)
    except Exception as error:
        if isDatabaseError(error):
            raise
        return Part(None, None, f'it cannot be loaded: {type(error).__name__}')


def _allowListing(context):
    # A user who is limited to some tasks may not call getJobs; here the jobs of other tasks are left out.
    context.allow('getAvailableTasks' if context.isLimited else 'getJobs')


def jobs(context):
    """Return the page of the jobs that fit a filter."""
    _allowListing(context)
    service, text, mistake = context.service, context.parameter('filter').strip(), ''
    size = context.parameter('size')
    size = int(size) if size in map(str, SIZES) else SIZES[0]
    counts = None if context.isLimited else service.countJobs()
    filter, sort, listing = None, sorting.NEWEST, sorting.Listing(Found([], None, 0, False), None, None)
    try:
        filter = parseFilter(text, context.now)
        sort = sorting.parseSort(context.parameter('sort'), sorting.JOBS)
        listing = _listed(context, filter, sort, size, hides=context.hidesAny(), patience=PATIENCE)
    except ValueError as error:
        mistake = str(error)
    found = listing.found
    total = counts and sum(count for status, count in counts.items()
                           if filter is None or status in (filter.statuses or counts))
    return Page('jobs', 'Jobs', {
        'text': text, 'mistake': mistake, 'counts': counts, 'found': found, 'size': size, 'sizes': SIZES,
        'total': total,
        'rows': [rowOf(context, job) for job in found.jobs], 'statusFilters': _statusFilters(context, text),
        'columns': _columns(sorting.JOBS, sort), 'sort': sort, 'listing': listing,
        'isIndexed': filter is None or filter.isIndexed,
        'isFirst': not context.parameter('after') and not context.parameter('within')},
        400 if mistake else 200)


def _listed(context, filter, sort, size, **options):
    """Return the `sorting.Listing` that the parameters of the URL are for."""
    return sorting.listed(context.service, filter, sort, context.parameter('after') or None,
                          context.parameter('within') or None, size,
                          isWanted=context.wants if context.isLimited else None, **options)


class Column(NamedTuple):
    """The head of a column by which a list can be sorted."""

    direction: str | None       # what it is sorted by now: 'ascending' or 'descending'; None if it is not
    next: str                   # what the URL has as sort after a click


def _columns(columns, sort):
    """Return name -> `Column`.

    columns, sort -- see `sorting`.
    """
    found = {}
    for first in columns:
        name = first.removeprefix('-')
        isDown = sort.startswith('-')
        other = name if isDown else f'-{name}'
        isOn = sort.removeprefix('-') == name
        found[name] = Column(('descending' if isDown else 'ascending') if isOn else None, other if isOn else first)
    return found


def _statusFilters(context, text):
    """Return a function of a status: the filter with that status in place of the one it has."""
    rest = ' '.join(term for term in text.split() if not term.startswith('status:')) if '"' not in text else ''
    return lambda status: ' '.join(filter(None, (status and quoted('status', status.replace(' ', '-')), rest)))


def schedules(context):
    """Return the page of the schedules: cron jobs and delayed jobs."""
    _allowListing(context)
    service = context.service
    sort = sorting.parseSort(context.parameter('sort'), sorting.SCHEDULES)
    listing = _listed(context, parseFilter(f'status:{CRONJOB},{DELAYED}', context.now), sort, SIZES[0])
    found = listing.found
    late = {job.id for job in found.jobs if job.due is not None and job.scheduledFor < context.now - LATE}
    tasks = sorted(name for name in service.getAvailableTasks() if context.wants(name))
    return Page('schedules', 'Schedules', {'found': found, 'late': late, 'tasks': tasks, 'text': {}, 'mistake': '',
                                           'input': 'null', 'listing': listing, 'sort': sort,
                                           'columns': _columns(sorting.SCHEDULES, sort)})


def output(context, jobid):
    """Return the response with a job's output that is a file, bytes or text, to be kept as a file."""
    one = context.job(jobid)
    context.allow('getResultPart', one.id)
    content = context.service.getResultPart(one.id, 0, DOWNLOAD + 1)
    if len(content) > DOWNLOAD:
        raise ValueError(f'the output has more than {formats.asSize(DOWNLOAD)}: '
                         f'remotetask result {one.id} --output FILE gets it')
    with contextlib.suppress(UnicodeDecodeError):           # else it is no text
        content = context.secretsOf(one).hide(content.decode()).encode()
    response = webob.Response(body=content, content_type='application/octet-stream')
    response.headers['Content-Disposition'] = f'attachment; filename="job-{one.id}"'
    return response


class Moment(NamedTuple):
    """Something that happened to a job, or will."""

    what: str
    time: float                 # UTC seconds
    since: float | None         # seconds after what happened before
    host: str = ''
    text: str = ''


def job(context, jobid, text=None, mistake=''):
    """Return the page of a job.

    jobid -- a text.
    text -- name -> text, of the form of its schedule that was sent and has a mistake.
    mistake -- what is wrong with it.
    """
    one = context.job(jobid)
    context.allow('getJob', one.id)
    service = context.service
    status = statusOf(service, one)
    threads = sum(host['threads'] for host in service.getProcessingHosts(context.now))
    task = service.getAvailableTasks().get(one.task)
    isSchedule = ICronJob.providedBy(one)
    return Page('job', f'Job {one.id}', {
        'job': one, 'status': status, 'row': rowOf(context, one), 'moments': momentsOf(one, service.getRun(one.id)),
        'clean': context.secretsOf(one).hide,
        'host': hostOf(service, one), 'progress': service.getProgress(one.id), 'key': service.keys.of(one.id) or '',
        'why': words.whyItWaits(one, status, service.paused, threads, context.now),
        'isRunning': status == PROCESSING, 'input': shownPart(context, one, 'input'),
        'output': shownPart(context, one, 'output'), 'isFile': _isFile(one),
        'policy': policyOf(one, task), 'limit': limitOf(one, task),
        'isSchedule': isSchedule and status in (CRONJOB, DELAYED), 'history': one.history[::-1] if isSchedule else (),
        'text': text or (scheduleText(one) if isSchedule else {}), 'mistake': mistake,
        'stack': service.getStack(one.id) if context.may('getStack') else None,
        'isKnown': task is not None}, 400 if mistake else 200)


def _isFile(job):
    """Return whether a job's output can be kept as a file."""
    try:
        return storedfiles.part(job.stored('output'), 0, 1) is not None
    except Exception as error:
        if isDatabaseError(error):
            raise
        return False


def scheduleText(job):
    """Return what the form of a schedule is filled in with: name -> text."""
    return {name: writeNumbers(name, value) if name in RANGES and job.crontab is None
            else '' if name in RANGES or value is None or value is False else 'on' if value is True
            else f'{value:g}' if isinstance(value, float) else str(value)
            for name, value in ((name, getattr(job, name)) for name in SCHEDULE)}


def momentsOf(job, place):
    """Return what happened to a job, a list of `Moment`s, the oldest first.

    place -- the `queries.Place` of its run.
    """
    found = [('added', job.created, '', '')]
    attempts = job.errors
    number = max(0, job.failedAttempts - len(attempts))
    found += [(f'attempt {number + index} failed', failure.time, failure.host, failure.message)
              for index, failure in enumerate(attempts, 1)]
    if place.isRunning and place.started is not None:
        found.append(('this run began', place.started, place.host or '', ''))
    elif job.started is not None:
        found.append(('last run began', job.started, place.host or '', ''))
    if job.completed is not None and job.status not in FINAL:
        found.append(('last run ended', job.completed, '', ''))
    found.sort(key=lambda moment: moment[1])
    if job.completed is not None and job.status in FINAL:
        found.append((f'ended: {job.status}', job.completed, '', ''))       # its last failure is told a moment later
    for what, name in ('next attempt', 'retryAt'), ('next run', 'scheduledFor'):
        if job.status not in FINAL and getattr(job, name, None) is not None:
            found.append((what, getattr(job, name), '', ''))
    moments = []
    for what, time, host, text in found:
        moments.append(Moment(what, time, None if not moments else time - moments[-1].time, host, text))
    return moments
