"""What the buttons do: each verb is a function that works in the caller's transaction, and does not commit it."""
# SPDX-License-Identifier: ZPL-2.1
from collections.abc import Callable
from typing import NamedTuple

from lovely.remotetask.database import notes
from lovely.remotetask.database.notes import Act
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.errors import WrongState
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.storage import cleanup
from lovely.remotetask.web import bulkpages
from lovely.remotetask.web import forms
from lovely.remotetask.web import jobpages
from lovely.remotetask.web import servicepages
from lovely.remotetask.web.scheduleforms import FLAGS
from lovely.remotetask.web.scheduleforms import TEXTS
from lovely.remotetask.web.scheduleforms import readSchedule


#: Jobs that can be selected on a page.
SELECTED = 1000


class Done(NamedTuple):
    """What a verb has done."""

    act: Act                    # for the log, and for the note of the transaction
    said: str                   # what the next page says: a key of `rendering.SAID`
    path: str | None = None     # of the next page; None for the one where the button is
    count: int | None = None    # how many jobs it was


class Verb(NamedTuple):
    """What a button does."""

    method: str                 # the method of XML-RPC whose role is needed
    function: Callable          # called with the `context.Context`; returns `Done`, or a `Page` that says what is wrong


def _job(context):
    job = context.job(context.field('jobid'))
    context.caller.checkChange(job)
    return job


def _act(verb, job):
    return Act(verb, (job.id,), job.task)


# One job

def cancel(context):
    """Cancel a job."""
    job = _job(context)
    context.service.cancel(job.id, context.now)
    return Done(_act('cancel', job), 'cancel')


def retry(context):
    """Queue a job that failed again."""
    job = _job(context)
    context.service.retry(job.id, context.now)
    return Done(_act('retry', job), 'retry')


def start(context):
    """Start a job that waits for that."""
    job = _job(context)
    if not context.service.startJob(job.id, context.now):
        raise WrongState(job.id, context.service.getStatus(job.id), 'start')
    return Done(_act('start', job), 'start')


def remove(context):
    """Remove a job that has ended."""
    job = _job(context)
    act = _act('remove', job)
    cleanup.remove(context.service, job)
    return Done(act, 'remove', '/jobs')


# Selected jobs

def _many(context, verb, isMeant, function):
    """Do something with the selected jobs for which it is meant; others may have changed since the page was made."""
    jobids = context.form.get('jobs', [])[:SELECTED]
    if not jobids:
        return Done(Act(verb, count=0), 'none')
    changed = []
    for jobid in jobids:
        try:
            job = context.job(jobid)
        except UnknownJob:
            continue
        if isMeant(job):
            context.caller.checkChange(job)
            changed.append(job.id)
            function(job)
    return Done(Act(verb, tuple(changed)), f'{verb}Many', count=len(changed))


def cancelMany(context):
    """Cancel the selected jobs that have not ended."""
    return _many(context, 'cancel', lambda job: job.status not in FINAL,
                 lambda job: context.service.cancel(job.id, context.now))


def retryMany(context):
    """Queue those of the selected jobs again that failed."""
    return _many(context, 'retry', lambda job: jobpages.rowOf(context, job).canRetry,
                 lambda job: context.service.retry(job.id, context.now))


def removeMany(context):
    """Remove the selected jobs that have ended."""
    return _many(context, 'remove', lambda job: jobpages.rowOf(context, job).canRemove,
                 lambda job: cleanup.remove(context.service, job))


# Adding

def add(context):
    """Add a job with the input of a form."""
    service, name = context.service, context.field('task')
    available = {found: task for found, task in service.getAvailableTasks().items() if context.wants(found)}
    if name not in available:
        raise UnknownTask(name, available)
    context.allow('add', name)
    form, input = forms.filledIn(available[name], context.form)
    if not form.hasMistakes:
        try:
            jobid = service.add(name, input, context.field('startLater') == 'on', context.now)
            return Done(_act('add', service.jobs[jobid]), 'add', f'/jobs/{jobid}')
        except InvalidInput as error:
            form = forms.withMistake(form, error.field, error.reason)
    return servicepages.task(context, name, form)


def run(context):
    """Run a job now that waits for a time: a schedule, or a job that waits for its next attempt."""
    job = _job(context)
    jobid = context.service.runNow(job.id, context.now)
    return Done(Act('run', (jobid,), job.task), 'run', f'/jobs/{jobid}')


# Schedules

def activate(context):
    """Resume a schedule that was paused."""
    return _setActive(context, True, 'activate')


def deactivate(context):
    """Pause a schedule."""
    return _setActive(context, False, 'deactivate')


def _setActive(context, isActive, verb):
    job = _job(context)
    context.service.updateCronJob(job.id, context.now, active=isActive)
    return Done(_act(verb, job), verb)


def schedule(context):
    """Change a schedule as its form says."""
    job = _job(context)
    try:
        context.service.updateCronJob(job.id, context.now, **readSchedule(context.form))
    except WrongState:
        raise
    except ValueError as error:
        return jobpages.job(context, str(job.id), _sent(context), str(error))
    return Done(_act('schedule', job), 'schedule')


def addSchedule(context):
    """Add a schedule with the task, the input and the times of a form."""
    service, name = context.service, context.field('task')
    context.allow('add', name)
    try:
        input = forms.valueOf(forms.Control('input', 'json', 'Input'), context.field('input') or 'null', None)
        jobid = service.addCronJob(name, input, now=context.now, **readSchedule(context.form))
    except (ValueError, forms.Mistake) as error:
        page = jobpages.schedules(context)
        values = {**page.values, 'text': {**_sent(context), 'task': name}, 'mistake': str(error),
                  'input': context.field('input')}
        return page._replace(values=values, status=400)
    return Done(_act('addSchedule', service.jobs[jobid]), 'addSchedule', f'/jobs/{jobid}')


def _sent(context):
    return {name: context.field(name) for name in (*TEXTS, *FLAGS)}


# All jobs that fit a filter

def bulk(context):
    """Add a job that changes all jobs that fit a filter."""
    context.allow('clean')
    verb, text = context.field('verb'), context.field('filter').strip()
    if not bulkpages.hasConfirmed(context.field('expected'), context.field('typed')):
        return bulkpages.bulk(context, f'Type {context.field("expected")[:12]}, the number of jobs, to confirm it.')
    bulkpages.checkFilter(context, text)
    jobid = context.service.addBulk(verb, text, int(context.field('expected')), context.caller.name or notes.ANYBODY,
                                    context.now)
    return Done(Act('bulk', (jobid,), f'{verb} {text}'.rstrip()), 'bulk', f'/jobs/{jobid}')


# Where it is

def stack(context):
    """Ask where the run of a job is right now."""
    job = _job(context)
    context.service.askStack(job.id, context.now)
    return Done(_act('askStack', job), 'stack', f'/jobs/{job.id}')


# The service

def pause(context):
    """Pause the service on all hosts."""
    context.allow('pause')
    context.service.pause()
    return Done(Act('pause'), 'pause')


def resume(context):
    """Resume the service on all hosts."""
    context.allow('resume')
    context.service.resume()
    return Done(Act('resume'), 'resume')


VERBS = {
    'cancel': Verb('cancel', cancel),
    'retry': Verb('retry', retry),
    'start': Verb('startJob', start),
    'remove': Verb('clean', remove),
    'cancelMany': Verb('cancel', cancelMany),
    'retryMany': Verb('retry', retryMany),
    'removeMany': Verb('clean', removeMany),
    'add': Verb('add', add),
    'run': Verb('runNow', run),
    'activate': Verb('updateCronJob', activate),
    'deactivate': Verb('updateCronJob', deactivate),
    'schedule': Verb('updateCronJob', schedule),
    'addSchedule': Verb('addCronJob', addSchedule),
    'bulk': Verb('clean', bulk),
    'stack': Verb('askStack', stack),
    'pause': Verb('pause', pause),
    'resume': Verb('resume', resume),
}


def carryOut(context, name):
    """Do what a verb says, if the caller may; return `Done`, or a `Page`.

    Raise `xmlrpc.faults.NotAllowed`, `errors.UnknownJob`, `errors.WrongState`, or what the service raises.
    """
    verb = VERBS[name]
    context.allowRole(verb.method)
    return verb.function(context)
