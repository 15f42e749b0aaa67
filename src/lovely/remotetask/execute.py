"""One run of a job: find its task, call it, look at what it gives, and decide what follows."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import random
import sys
import traceback

from ZODB.broken import Broken

from lovely.remotetask.checks import isSpan
from lovely.remotetask.checks import isWhole
from lovely.remotetask.checks import shown
from lovely.remotetask.child import runInChild
from lovely.remotetask.control import Interrupted
from lovely.remotetask.control import current
from lovely.remotetask.database import isDatabaseError
from lovely.remotetask.errors import Retry
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.files import portable
from lovely.remotetask.files import toStore
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.job import Failure
from lovely.remotetask.logs import line
from lovely.remotetask.logs import logError
from lovely.remotetask.retry import DEFAULT
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.rows import decode
from lovely.remotetask.sites import siteManager
from lovely.remotetask.task import checkOutput
from lovely.remotetask.transitions import Outcome


log = logging.getLogger('lovely.remotetask')

#: Where a task asks to be run, by its attribute `isolation`: in a thread of the host, or in a process of its own.
THREAD, PROCESS = 'thread', 'process'

#: Characters of a traceback that are kept on the job, the last ones.
KEPT_TRACEBACK = 4000


def findTasks(service):
    """Return the tasks that jobs of the service can name: name -> task."""
    return dict(siteManager(service).getUtilitiesFor(service.taskInterface))


def findTask(service, name):
    """Return the task of that name, or raise `UnknownTask`."""
    task = queryTask(service, name)
    if task is None:
        raise UnknownTask(name, findTasks(service))
    return task


def queryTask(service, name):
    """Return the task of that name, or None."""
    return siteManager(service).queryUtility(service.taskInterface, name=name)


def lacking(service, host, name):
    """Return why a host, the one of this process, cannot run tasks of this name, as text; None when it can.

    host -- its name, for the text.
    """
    task = queryTask(service, name)
    missing = getattr(task, 'missing', None)
    what = f'the task {name!r}' if task is None else missing and missing()
    return f'{host} lacks {what}' if what else None


def policyOf(job, task):
    """Return the `RetryPolicy` for a job or a claim: its own, or its task's, or the default.  `task` may be None."""
    if job.retryPolicy is not None:
        return job.retryPolicy
    policy = getattr(task, 'retryPolicy', None)
    return policy if isinstance(policy, RetryPolicy) else DEFAULT


def limitOf(claim, task):
    """Return the time limit for a claim in seconds, its own or its task's, or None.  `task` may be None."""
    if claim.timeLimit is not None:
        return claim.timeLimit
    limit = getattr(task, 'timeLimit', None)
    return limit if isSpan(limit) else None


#: Attribute of a task -> whether a value will do, and what is expected; None is for the default.
_ATTRIBUTES = {
    'retryPolicy': (lambda value: isinstance(value, RetryPolicy), 'a RetryPolicy'),
    'timeLimit': (isSpan, 'a number of seconds above 0'),
    'isolation': (lambda value: value in (THREAD, PROCESS), f'{THREAD!r} or {PROCESS!r}'),
    'memoryLimit': (lambda value: isWhole(value, 1, sys.maxsize), 'a number of bytes above 0'),
}


def checkTask(name, task):
    """Raise `TaskError` when a task asks for what nobody can give it; `name` is what it is registered as."""
    for attribute, (isRight, expected) in _ATTRIBUTES.items():
        value = getattr(task, attribute, None)
        if value is not None and not isRight(value):
            raise TaskError(f'the task {name!r} cannot be run: its {attribute}, {shown(value)}, is not {expected}')


def isIsolated(task):
    """Say whether a task asks to run in a child process, which keeps its time limit itself."""
    return getattr(task, 'isolation', THREAD) == PROCESS


def inputOf(service, claim):
    """Return the input of a claimed job, a copy for the task to keep.  Raise `TaskError` when it cannot be loaded."""
    try:
        if type(claim.input) is bytes:
            return decode(claim.input)
        input = service.jobs[claim.jobid].inputFor(claim.input)
    except Exception as error:
        if isDatabaseError(error):
            raise
        raise TaskError(f'the input cannot be loaded: {messageOf(error)}') from error
    if isinstance(input, Broken):
        raise TaskError(f'the input cannot be loaded: there is no class {_nameOf(type(input))}')
    return input


def execute(service, claim, clock, host='', luck=random.random, task=None):
    """Run one claimed job and return its `Outcome`.

    service -- from the connection of the running thread.
    claim -- the `Claim`.
    clock -- returns UTC seconds.
    host -- the name of the processing host, for the record.
    luck -- returns random numbers from 0 to 1.
    task -- its task; None: it has to be looked up.

    The output is as it is to be stored: what is large has been written to a blob in the current transaction.
    No task can make this raise; conflicts and other errors of the database are raised, for the run to be repeated.
    """
    started = clock()
    try:
        task = findTask(service, claim.task) if task is None else task
        checkTask(claim.task, task)
        input = inputOf(service, claim)
        if isIsolated(task):
            output = runInChild(task, claim.jobid, portable(input), current(), limitOf(claim, task),
                                getattr(task, 'memoryLimit', None))
        else:
            output = task(service, claim.jobid, input)
        checkOutput(task, output)
        output = toStore(output, service._p_jar)
    except Interrupted as error:
        log.info('%s was ended: %s', claim.label, error)
        return Outcome(claim.jobid, claim.run, ERROR, started, clock(), failure=Failure(clock(), str(error), '', host))
    except (Exception, SystemExit) as error:
        if isDatabaseError(error):
            raise
        return failed(claim, error, started, clock(), host, policyOf(claim, task), luck())
    return Outcome(claim.jobid, claim.run, COMPLETED, started, clock(), output)


def _nameOf(kind):
    return f'{kind.__module__}.{kind.__name__}'


def messageOf(error):
    """Return what an exception says, as text: that of our own family its sentence, any other its class as well."""
    try:
        text = str(error)
    except Exception:                           # of somebody's own class
        text = ''
    if isinstance(error, (TaskError, Retry)):
        return text
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def failed(claim, error, started, ended, host, policy=None, luck=0.0):
    """Return the `Outcome` of a run that ended with an exception, and log it.

    Of a run that was told to end nobody wants the outcome any more, and what it meets may come from just that: its
    database may have been closed.
    """
    pause = (DEFAULT if policy is None else policy).decide(claim.attempt + 1, error, luck)
    control = current()
    message = messageOf(error)
    said = line(message)
    if control is not None and control.reason is not None:
        log.info('%s was ended: %s; after that it met %s', claim.label, control.reason, said)
        log.debug('%s', claim.label, exc_info=error)
    elif isinstance(error, (TaskError, Retry)):
        log.info('%s %s: %s', claim.label,
                 'failed' if pause is None else f'runs again in {pause:.2f} s', said)
    else:
        logError(log, 'Caught a generic exception, preventing thread from crashing\n%s, %s: %s', claim.label,
                 'given up' if pause is None else f'runs again in {pause:.2f} s', said, error=error)
    text = ''.join(traceback.format_exception(error))[-KEPT_TRACEBACK:]
    failure = Failure(ended, message[:KEPT_TRACEBACK], text, host)
    if pause is None:
        return Outcome(claim.jobid, claim.run, ERROR, started, ended, failure=failure)
    return Outcome(claim.jobid, claim.run, QUEUED, started, ended, failure=failure, retryAt=ended + pause)
