"""Which tasks there are, and how each asks to be run."""
# SPDX-License-Identifier: ZPL-2.1
import sys

from lovely.remotetask.common.checks import isSpan
from lovely.remotetask.common.checks import isWhole
from lovely.remotetask.common.checks import shown
from lovely.remotetask.database.sites import siteManager
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.execution import bulk
from lovely.remotetask.retry import DEFAULT
from lovely.remotetask.retry import RetryPolicy


#: Where a task asks to be run, by its attribute `isolation`: in a thread of the host, or in a process of its own.
THREAD, PROCESS = 'thread', 'process'


#: Tasks of our own: name -> task.  No job can be added for one by its name.
OWN = {bulk.NAME: bulk.TASK}


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
    """Return the task of that name, also one of our own, or None."""
    if name in OWN:
        return OWN[name]
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
