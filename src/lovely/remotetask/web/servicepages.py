"""Pages of a service as a whole: the overview, its hosts, its tasks."""
# SPDX-License-Identifier: ZPL-2.1
import itertools
from typing import Any
from typing import NamedTuple

import zope.schema
from zope.interface import Interface

from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.execution.tasks import missingOf
from lovely.remotetask.execution.tasks import policyOf
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.storage.ready import fetch
from lovely.remotetask.web import charts
from lovely.remotetask.web import forms
from lovely.remotetask.web.rendering import Page


#: Jobs of a host that are listed, and schedules that are late, at the most.
LISTED = 50

#: Seconds after which a schedule that has not been called counts as late.
LATE = 60.0


class Claimed(NamedTuple):
    """A job that a host has taken."""

    job: Any
    isRunning: bool             # whether it is known to run, for a while or with some progress
    started: float | None       # when its run began, UTC seconds; None when it has not, or only just now
    progress: tuple | None      # fraction or None, message


class Host(NamedTuple):
    """A processing host."""

    about: dict                 # see `ITaskService.getProcessingHosts`
    lease: float | None         # seconds
    seen: float                 # when it wrote last, UTC seconds
    claims: list                # of `Claimed`, the running ones first
    more: int                   # claims that are not listed


def overview(context):
    """Return the page that says whether all is well."""
    service = context.service
    if context.isLimited:
        context.allow('getProcessingHosts')
        return Page('overview', 'Overview', {'statistics': None, 'hosts': hostsOf(context), 'late': [], 'charts': ()})
    context.allow('getStatistics')
    statistics, counter = service.getStatistics(context.now), context.application.counter
    drawn = [(title, charts.chart(counter.bins(service, context.now, *bins, keep=context.at is None), bins[0]))
             for title, bins in (('Last hour', charts.HOUR), ('Last day', charts.DAY))]
    return Page('overview', 'Overview', {'statistics': statistics, 'hosts': hostsOf(context), 'charts': drawn,
                                         'late': lateSchedules(context), 'services': context.services(),
                                         'unusable': context.unusable()})


def lateSchedules(context):
    """Return schedules that should have been called by now, up to LISTED."""
    service = context.service
    entries = list(itertools.islice(service.schedule.due(context.now - LATE), LISTED))
    found = fetch(service, [jobid for _, jobid in entries])
    return [job for (due, _), (_, job) in zip(entries, found)
            if job is not None and job.status in (CRONJOB, DELAYED) and job.due == due and context.wants(job.task)]


def hosts(context):
    """Return the page of the hosts, and what each of them runs."""
    context.allow('getProcessingHosts')
    return Page('hosts', 'Hosts', {'hosts': hostsOf(context)})


def hostsOf(context):
    """Return a list of `Host`s, those that live, by their names."""
    service, found = context.service, []
    for about in sorted(service.getProcessingHosts(context.now), key=lambda about: about['name']):
        ledger = service.ledgers[about['name']]
        jobids = sorted(ledger.claimed, key=lambda jobid: (jobid not in ledger.progress, jobid not in ledger.started))
        claims = [Claimed(job, jobid in ledger.started or jobid in ledger.progress, ledger.beganAt(jobid),
                          ledger.progress.get(jobid))
                  for jobid, job in fetch(service, jobids[:LISTED])
                  if job is not None and not isinstance(job, BrokenJob) and context.wants(job.task)]
        found.append(Host(about, (ledger.owner or {}).get('lease'), ledger._p_mtime or context.now, claims,
                          max(0, len(jobids) - LISTED)))
    return found


class Described(NamedTuple):
    """A task."""

    name: str
    summary: str                # the first line of its docstring
    fields: list                # names of the input's fields
    policy: Any                 # its `retry.RetryPolicy`
    timeLimit: float | None     # seconds
    isolation: str
    missing: str | None         # what this process lacks to run it


def describe(name, task):
    """Return what is `Described` of a task."""
    fields = zope.schema.getFieldNamesInOrder(getattr(task, 'inputSchema', None) or Interface)
    document = (getattr(task, 'func', None) or type(task)).__doc__ or ''
    return Described(name, document.strip().partition('\n')[0][:200], fields, policyOf(_NoJob, task),
                     getattr(task, 'timeLimit', None), getattr(task, 'isolation', None) or 'thread',
                     missingOf(name, task))


class _NoJob:
    """A job without a policy of its own."""

    retryPolicy = None


def tasks(context):
    """Return the page of all tasks."""
    context.allow('getAvailableTasks')
    found = sorted((name, task) for name, task in context.service.getAvailableTasks().items() if context.wants(name))
    return Page('tasks', 'Tasks', {'tasks': [describe(name, task) for name, task in found],
                                   'tallies': talliesOf(context)})


def talliesOf(context):
    """Return how the runs of those tasks fared that the caller may know of: name -> `tallies.Tally`."""
    return {name: tally for name, tally in context.service.getTaskStatistics().items() if context.wants(name)}


def task(context, name, form=None):
    """Return the page of a task, with the form that adds a job.

    form -- a `forms.Form` that was sent and has mistakes; None for a new one.
    """
    context.allow('getAvailableTasks')
    available = {found: task for found, task in context.service.getAvailableTasks().items() if context.wants(found)}
    if name not in available:
        raise UnknownTask(name, available)
    task = available[name]
    form = form or forms.formOf(task)
    return Page('task', f'Task {name}', {'task': describe(name, task), 'form': form,
                                          'tally': talliesOf(context).get(name)}, 400 if form.hasMistakes else 200)
