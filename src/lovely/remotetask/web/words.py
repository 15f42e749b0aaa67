"""Schedules in words, and why a job waits.  Pure."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import STARTLATER
from lovely.remotetask.web.formats import asSpan


_DAYS = ('Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday')
_MONTHS = ('January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September', 'October', 'November',
           'December')

#: What is counted of a task: name -> what it is called.
OUTCOMES = (('completed', 'Completed'), ('error', 'Ended in an error'), ('cancelled', 'Cancelled'),
            ('retried', 'Runs that failed and were tried again'), ('lost', 'Lost with a host'))


def ofSchedule(job):
    """Return in words when a cron job or a delayed job runs.

    job -- an `ICronJob`.

    >>> from lovely.remotetask.job import CronJob
    >>> ofSchedule(CronJob(1, 'echo', None, minute=(0, 30), hour=(8,), dayOfWeek=(0, 1, 2, 3, 4)))
    'at 08:00 and 08:30, Monday to Friday, UTC'
    >>> ofSchedule(CronJob(1, 'echo', None, minute=tuple(range(0, 60, 5)), hour=(8, 9, 10)))
    'every 5 minutes of the hours 8 to 10, UTC'
    >>> ofSchedule(CronJob(1, 'echo', None, delay=90, newJobs=True))
    'every 1 min 30 s'
    """
    if job.delay is not None:
        return ('every ' if job.newJobs else 'once, after ') + asSpan(job.delay)
    parts = [_times(job.minute, job.hour)]
    days = [text for text in (_list(job.dayOfMonth, 'the {}.'.format), _list(job.dayOfWeek, _DAYS.__getitem__)) if text]
    if days:
        parts.append((' or ' if job.eitherDay else ', if it is also ').join(days))
    if job.month:
        parts.append('in ' + _list(job.month, lambda month: _MONTHS[month - 1]))
    return ', '.join(parts) + f', {job.timeZone or "UTC"}'


def _times(minute, hour):
    if not minute and not hour:
        return 'every minute'
    if not minute:
        return f'every minute of the hours {_list(hour, str)}'
    step = _step(minute, 60)
    if not hour:
        return f'every {step} minutes' if step else f'at minute {_list(minute, str)} of every hour'
    if len(minute) * len(hour) <= 6:
        return 'at ' + _joined([f'{each:02}:{one:02}' for each in sorted(hour) for one in sorted(minute)])
    often = f'every {step} minutes' if step else f'at minute {_list(minute, str)}'
    return f'{often} of the hours {_list(hour, str)}'


def _step(values, end):
    """Return by how much the values count from 0 up to the end; None when they do not."""
    values = sorted(values)
    if len(values) < 3 or end % len(values):
        return None
    step = end // len(values)
    return step if values == list(range(0, end, step)) else None


def _list(values, name):
    """Return values in words: 'Monday to Friday', '1 to 3 and 7'; '' for none."""
    runs = []
    for value in sorted(set(values)):
        if runs and runs[-1][-1] == value - 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    parts = []
    for run in runs:
        parts += [f'{name(run[0])} to {name(run[-1])}'] if len(run) > 2 else [name(value) for value in run]
    return _joined(parts)


def _joined(parts):
    return parts[0] if len(parts) == 1 else ', '.join(parts[:-1]) + ' and ' + parts[-1] if parts else ''


def whyItWaits(job, status, isPaused, hosts, now):
    """Return why a job does not run yet, as a sentence; '' when it does not wait.

    job -- an `IJob`.
    status -- what `ITaskService.getStatus` says.
    isPaused -- whether processing of the service is paused.
    hosts -- how many living hosts run jobs.
    now -- UTC seconds.
    """
    if status == STARTLATER:
        return 'It waits for somebody to start it.'
    if status in (CRONJOB, DELAYED):
        return 'Its schedule is paused.' if not job.active else ''
    if status != QUEUED:
        return ''
    if job.error:
        return f'It {job.error}.'
    if job.retryAt is not None and job.retryAt > now:
        return f'It failed, and waits for its next attempt, in {asSpan(job.retryAt - now)}.'
    if isPaused:
        return 'Processing is paused.'
    if not hosts:
        return 'No host processes the service.'
    if job.suspect:
        return 'A host ended while it had this job: such jobs run alone, or a few at a time.'
    return 'It waits for its turn.'
