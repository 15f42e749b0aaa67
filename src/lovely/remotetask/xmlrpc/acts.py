"""Acts of calls, for the notes of their transactions."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.database import notes
from lovely.remotetask.database.notes import Act
from lovely.remotetask.database.sites import whereIs


def _added(service, arguments, result):
    return [('add', (result,), arguments[0])]


def _addedMany(service, arguments, result):
    jobids = {}
    for struct, jobid in zip(arguments[0], result):
        jobids.setdefault(struct['task'], []).append(jobid)
    return [('add', tuple(ids), task) for task, ids in jobids.items()]


def _onService(verb):
    return lambda service, arguments, result: [(verb,)]


def _onJob(verb):
    """Return a function that makes the act of a call whose first argument is the id of a job."""
    return lambda service, arguments, result: [(verb, (arguments[0],), service.jobs[arguments[0]].task)]


def _onSome(verb):
    """Return a function that makes the act of a call whose result is a number of jobs."""
    return lambda service, arguments, result: [(verb, (), '', result)] if result else []


#: The name of a method that writes -> a function that takes the service, the arguments of a call and its result, and
#: returns the first fields of `Act`s.
ACTS = {
    'add': _added,
    'addMany': _addedMany,
    'addCronJob': lambda service, arguments, result: [('addSchedule', (result,), arguments[0])],
    'updateCronJob': _onJob('schedule'),
    'reschedule': _onJob('reschedule'),
    'runNow': _onJob('run'),
    'startJob': _onJob('start'),
    'cancel': _onJob('cancel'),
    'askStack': _onJob('askStack'),
    'retry': _onJob('retry'),
    'clean': _onSome('remove'),
    'cleanSome': _onSome('remove'),
    'retryFailed': _onSome('retry'),
    'addBulk': lambda service, arguments, result: [
        ('bulk', (result,), f'{arguments[0]} {arguments[1]}'.rstrip())],
    'pause': _onService('pause'),
    'stopProcessing': _onService('pause'),
    'resume': _onService('resume'),
    'startProcessing': _onService('resume'),
    **dict.fromkeys(('addUpload', 'putUpload', 'dropUpload'), _onService('upload')),
}


def actsOf(name, arguments, user):
    """Return a function that takes the service and the result of a call, and returns a list of `Act`s.

    name -- of the method.
    arguments -- those of the call, checked.
    user -- the name of who calls; None if nobody was asked.
    """
    made, by = ACTS[name], notes.ANYBODY if user is None else user

    def acts(service, result):
        path = whereIs(service)
        return [Act(*done, by=by, path=path) for done in made(service, arguments, result)]

    return acts
