"""One run of a job: find its task, call it, look at what it gives, and decide what follows."""
# SPDX-License-Identifier: ZPL-2.1
import datetime
import logging
import random
import traceback

from zope.component import getGlobalSiteManager

from lovely.remotetask.database import isDatabaseError
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.job import Failure
from lovely.remotetask.lifecycle import Outcome
from lovely.remotetask.retry import DEFAULT
from lovely.remotetask.sites import siteManager
from lovely.remotetask.task import checkOutput


log = logging.getLogger('lovely.remotetask')

#: Characters of a traceback that are kept on the job, the last ones.
KEPT_TRACEBACK = 4000

#: Levels of nesting that plain data may have; pickling deeper data exhausts Python's stack.
PLAIN_DEPTH = 50

ATOMS = frozenset((str, int, float, bool, bytes, type(None), complex, datetime.datetime, datetime.date,
                   datetime.time, datetime.timedelta))


class NotPlain(ValueError):
    """The value holds something else than plain data."""


def plainCopy(value, depth=PLAIN_DEPTH):
    """Return a copy of plain data: of atoms, and of dicts, lists, tuples and sets of plain data.

    Raise `NotPlain` for anything else.  What this returns can be pickled, and shares nothing with a connection.
    """
    kind = type(value)
    if kind in ATOMS:
        return value
    if depth:
        if kind is dict:
            return {plainCopy(key, depth - 1): plainCopy(item, depth - 1) for key, item in value.items()}
        if kind in (list, tuple, set, frozenset):
            return kind([plainCopy(item, depth - 1) for item in value])
    raise NotPlain(f'{kind.__name__} is no plain data')


def findTasks(service):
    """Return the tasks that jobs of the service can name: name -> task."""
    return dict(siteManager(service).getUtilitiesFor(ITask))


def findTask(service, name):
    """Return the task of that name, or raise `UnknownTask`."""
    sm = getGlobalSiteManager() if service is None else siteManager(service)
    task = sm.queryUtility(ITask, name=name)
    if task is None:
        raise UnknownTask(name, findTasks(service))
    return task


def execute(service, claim, input, clock, host='', luck=random.random):
    """Run one claimed job and return its `Outcome`.

    service -- from the connection of the running thread.
    claim -- the `Claim`; `input` is a copy of its input, for the task to keep.
    clock -- returns UTC seconds.
    host -- the name of the processing host, for the record.
    luck -- returns random numbers from 0 to 1.

    No task can make this raise; conflicts and other errors of the database are raised, for the run to be repeated.
    """
    started, task = clock(), None
    try:
        task = findTask(service, claim.task)
        output = task(service, claim.jobid, input)
        checkOutput(task, output)
    except (Exception, SystemExit) as error:
        if isDatabaseError(error):
            raise
        return failed(claim, error, started, clock(), host, getattr(task, 'retryPolicy', None), luck())
    return Outcome(claim.jobid, claim.run, COMPLETED, started, clock(), output)


def failed(claim, error, started, ended, host, policy=None, luck=0.0):
    """Return the `Outcome` of a run that ended with an exception, and log it."""
    pause = (policy or DEFAULT).decide(claim.attempt + 1, error, luck)
    if isinstance(error, TaskError):
        message = str(error)
        log.info('job %d (%s) failed: %s', claim.jobid, claim.task, message)
    else:
        message = f'{type(error).__name__}: {error}' if str(error) else type(error).__name__
        log.error('Caught a generic exception, preventing thread from crashing\njob %d (%s), %s: %s', claim.jobid,
                  claim.task, 'given up' if pause is None else f'runs again in {pause:.2f} s', message, exc_info=error)
    text = ''.join(traceback.format_exception(error))[-KEPT_TRACEBACK:]
    failure = Failure(ended, message[:KEPT_TRACEBACK], text, host)
    if pause is None:
        return Outcome(claim.jobid, claim.run, ERROR, started, ended, failure=failure)
    return Outcome(claim.jobid, claim.run, QUEUED, started, ended, failure=failure, retryAt=ended + pause)
