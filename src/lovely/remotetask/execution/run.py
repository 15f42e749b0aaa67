"""One run of a job: call its task, look at what it gives, and decide what follows."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import random
import traceback

from ZODB.broken import Broken

from lovely.remotetask.common import tracing
from lovely.remotetask.common.logs import line
from lovely.remotetask.common.logs import logError
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.sites import whereIs
from lovely.remotetask.database.storedfiles import portable
from lovely.remotetask.database.storedfiles import toStore
from lovely.remotetask.database.zopeapp import wrapped
from lovely.remotetask.encoding.rows import decode
from lovely.remotetask.errors import Retry
from lovely.remotetask.errors import TaskError
from lovely.remotetask.execution.child import runInChild
from lovely.remotetask.execution.control import Interrupted
from lovely.remotetask.execution.control import current
from lovely.remotetask.execution.messages import messageOf
from lovely.remotetask.execution.tasks import checkTask
from lovely.remotetask.execution.tasks import findTask
from lovely.remotetask.execution.tasks import isIsolated
from lovely.remotetask.execution.tasks import limitOf
from lovely.remotetask.execution.tasks import policyOf
from lovely.remotetask.functions import callTask
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.job import Failure
from lovely.remotetask.retry import DEFAULT
from lovely.remotetask.storage.transitions import Outcome
from lovely.remotetask.task import checkOutput


log = logging.getLogger('lovely.remotetask')

#: Characters of a traceback that are kept on the job, the last ones.
KEPT_TRACEBACK = 4000


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


def execute(service, claim, clock, host='', draw=random.random, task=None):
    """Run one claimed job and return its `Outcome`.

    service -- from the connection of the running thread.
    claim -- the `Claim`.
    clock -- returns UTC seconds.
    host -- the name of the processing host, for the record.
    draw -- returns random numbers from 0 to 1.
    task -- its task, which has been checked; None: it has to be looked up and checked.

    The output is as it is to be stored: what is large has been written to a blob in the current transaction.
    No task can make this raise; conflicts and other errors of the database are raised, for the run to be repeated.
    """
    if not tracing.isRecording():
        return _execute(service, claim, clock, host, draw, task)
    with tracing.processing(claim, service.__name__, host):
        return _execute(service, claim, clock, host, draw, task)


def _execute(service, claim, clock, host, draw, task):
    started, examine = clock(), getattr(current(), 'examine', None)
    try:
        if task is None:
            task = findTask(service, claim.task)
            checkTask(claim.task, task)
        input = inputOf(service, claim)
        if isIsolated(task) and examine is None:
            with contextlib.ExitStack() as copies:
                output = runInChild(task, claim.jobid, portable(input, copies), current(), limitOf(claim, task),
                                    getattr(task, 'memoryLimit', None), claim.label,
                                    claim.about('job.said', service=whereIs(service), host=host))
        else:
            output = callTask(task, wrapped(service), claim.jobid, input)
        checkOutput(task, output)
        output = toStore(output, service._p_jar)
    except Interrupted as error:
        log.info('%s was ended: %s', claim.label, error,
                 extra=claim.about('job.interrupted', service=whereIs(service), host=host))
        return Outcome(claim.jobid, claim.run, ERROR, started, clock(), failure=Failure(clock(), str(error), '', host))
    except (Exception, SystemExit) as error:
        if isDatabaseError(error):
            raise
        if examine is not None:
            examine(error)
        tracing.noteError(error)
        return failed(claim, error, started, clock(), host, policyOf(claim, task), draw(), whereIs(service))
    return Outcome(claim.jobid, claim.run, COMPLETED, started, clock(), output)


def _nameOf(kind):
    return f'{kind.__module__}.{kind.__name__}'


def failed(claim, error, started, ended, host, policy=None, draw=0.0, service=None):
    """Return the `Outcome` of a run that ended with an exception, and log it.

    If the run was told to end, nobody wants its outcome any more, and its error may come from that, as when its
    database was closed: so it is logged as no failure.
    """
    pause = (DEFAULT if policy is None else policy).decide(claim.attempt, error, draw)
    control = current()
    message = messageOf(error)
    said = line(message)
    event = 'job.interrupted' if control is not None and control.reason is not None else \
        'job.failed' if pause is None else 'job.retried'
    extra = claim.about(event, service=service, host=host, duration=max(0.0, ended - started), error=said)
    if control is not None and control.reason is not None:
        log.info('%s was ended: %s; after that it met %s', claim.label, control.reason, said, extra=extra)
        log.debug('%s', claim.label, exc_info=error, extra=extra)
    else:
        # The level ERROR is for jobs that are lost, not for runs that will be retried.
        level, what = ((logging.ERROR, 'failed') if pause is None else
                       (logging.WARNING, f'failed, and runs again in {pause:.2f} s'))
        if isinstance(error, (TaskError, Retry)):           # on purpose: only the job keeps the traceback
            log.log(level, '%s %s: %s', claim.label, what, said, extra=extra)
        else:
            logError(log, '%s %s: %s', claim.label, what, said, error=error, level=level, extra=extra)
    text = ''.join(traceback.format_exception(error))[-KEPT_TRACEBACK:]
    failure = Failure(ended, message[:KEPT_TRACEBACK], text, host)
    if pause is None:
        return Outcome(claim.jobid, claim.run, ERROR, started, ended, failure=failure)
    return Outcome(claim.jobid, claim.run, QUEUED, started, ended, failure=failure, retryAt=ended + pause)
