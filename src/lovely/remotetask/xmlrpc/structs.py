"""Structs of XML-RPC: jobs as remote callers see them, and options of jobs that they add."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask import interfaces
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.storedfiles import LARGE
from lovely.remotetask.database.storedfiles import StoredFile
from lovely.remotetask.database.storedfiles import valueOf
from lovely.remotetask.job import SCHEDULE
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.schedules.fields import RANGES
from lovely.remotetask.storage.queries import placeOf
from lovely.remotetask.storage.queries import scheduleOf
from lovely.remotetask.xmlrpc.faults import BadArguments
from lovely.remotetask.xmlrpc.faults import ResultTooLarge
from lovely.remotetask.xmlrpc.results import plain


#: Fields of a job that a listing has, besides its status.
SUMMARY = ('id', 'task', 'created', 'started', 'completed')

#: Fields of a job that are sent as they are.
FIELDS = SUMMARY + ('failedAttempts', 'error', 'retryAt', 'timeLimit', 'schedule', 'request')

#: Those of a cron job besides.
CRON_FIELDS = SCHEDULE + ('eitherDay', 'scheduledFor', 'calledFor', 'lastJob')

#: What a caller can say of a job's retry policy; which exceptions it is for can only be said in Python.
POLICY = ('attempts', 'base', 'factor', 'cap', 'jitter')

#: Options of a job that is added.
OPTIONS = ('key', 'timeLimit', 'retryPolicy', 'uploads')


def summaryOf(service, job):
    """Return the struct of a job in a listing, a dict."""
    place, scheduled = placeOf(service, job), {}
    if job.status in (interfaces.CRONJOB, interfaces.DELAYED):
        schedule = scheduleOf(service, job)
        scheduled = {'scheduledFor': job.scheduledFor, 'outcome': schedule.outcome, 'failures': schedule.failures}
    status = interfaces.PROCESSING if place.isRunning and job.status == interfaces.QUEUED else job.status
    return {**{name: getattr(job, name) for name in SUMMARY}, 'status': status, 'host': place.host,
            'started': place.started, **scheduled}


def detailsOf(service, job):
    """Return the struct with all fields of a job, a dict."""
    details = {name: getattr(job, name) for name in FIELDS}
    details.update(
        summaryOf(service, job), key=service.keys.of(job.id),
        progress=progressOf(service, job.id), input=_small(job, 'input'), output=_small(job, 'output'),
        retryPolicy=job.retryPolicy and {name: getattr(job.retryPolicy, name) for name in POLICY},
        errors=[{'time': failure.time, 'message': failure.message, 'host': failure.host,
                 'traceback': failure.traceback} for failure in job.errors])
    if interfaces.ICronJob.providedBy(job):
        details.update((name, getattr(job, name)) for name in CRON_FIELDS)
        details['history'] = [run._asdict() for run in job.history]
    return details


def scheduleStruct(schedule):
    """Return the struct of a `queries.Schedule`, a dict."""
    job, last = schedule.job, schedule.last
    return {'id': job.id, 'task': job.task, 'status': job.status, 'created': job.created,
            **{name: getattr(job, name) for name in CRON_FIELDS},
            'failures': schedule.failures, 'outcome': schedule.outcome, 'reason': schedule.reason,
            **{name: last and getattr(last, name) for name in ('started', 'completed', 'error')}}


def progressOf(service, jobid):
    """Return how far the run of a job is, as a dict; None when nothing is known."""
    progress = service.getProgress(jobid)
    return progress and dict(zip(('fraction', 'message'), progress))


def _small(job, name):
    """Return the 'input' or 'output' of a job as it is sent; None for one that is large, or cannot be loaded."""
    try:
        stored = job.stored(name)
        if isinstance(stored, StoredFile) and stored.size > LARGE:      # not to be loaded to see that
            return None
        return plain(valueOf(stored), LARGE)
    except ResultTooLarge:
        return None
    except Exception as error:
        if isDatabaseError(error):
            raise
        return None


def readOptions(options):
    """Return the arguments of `ITaskService.add` that the struct of options of a job stands for, and its uploads.

    Raise `BadArguments`; values out of range are left to the service.
    """
    refuseOthers('option', options, OPTIONS)
    if options.get('retryPolicy') is None:
        return dict(options)
    return {**options, 'retryPolicy': _readPolicy(options['retryPolicy'])}


def readJob(struct):
    """Return an item of `ITaskService.addMany`, and its uploads, for the struct of a job.  Raise `BadArguments`."""
    refuseOthers('member', struct, ('task', 'input', 'startLater') + OPTIONS)
    task, startLater = struct.get('task'), struct.get('startLater')
    if type(task) is not str:
        raise BadArguments('task: a string is needed')
    if type(startLater) not in (bool, type(None)):
        raise BadArguments('startLater: a boolean is needed')
    options = {name: struct[name] for name in OPTIONS if name in struct}
    return {'task': task, 'input': struct.get('input'), 'startLater': bool(startLater), **readOptions(options)}


def _readPolicy(struct):
    if type(struct) is not dict:
        raise BadArguments('retryPolicy: a struct is needed')
    refuseOthers('member of retryPolicy', struct, POLICY)
    try:
        return RetryPolicy(**struct)
    except ValueError as error:
        raise BadArguments(f'retryPolicy: {error}') from error


def readSchedule(struct):
    """Return arguments of `ITaskService.updateCronJob` for the struct of changes.  Raise `BadArguments`."""
    refuseOthers('change', struct, SCHEDULE)
    return {name: tuple(value) if name in RANGES and type(value) is list else value for name, value in struct.items()}


def figuresOf(tally):
    """Return the struct for a `tallies.Tally`."""
    struct = {name: count if count < 2 ** 31 else float(count) for name, count in tally.outcomes.items()}
    for name, durations in (('Run', tally.run), ('Wait', tally.wait)):
        struct |= {f'{name.lower()}Seconds': durations.seconds, f'mean{name}': durations.mean,
                   f'p95{name}': durations.quantile(0.95)}
    return {**struct, 'failureRate': tally.failureRate}


def refuseOthers(kind, given, names):
    """Raise `BadArguments` when a name is given that is none of the names of this kind."""
    for name in given:
        if name not in names:
            raise BadArguments(f'there is no {kind} {name[:40]!r}; there are {", ".join(names)}')
