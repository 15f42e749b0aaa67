"""Which tasks there are, and how each asks to be run."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import fnmatch
import logging

from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import cut
from lovely.remotetask.common.checks import isSpan
from lovely.remotetask.common.logs import logError
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.sites import missingClass
from lovely.remotetask.database.sites import siteManager
from lovely.remotetask.errors import REASON_SIZE
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.execution import bulk
from lovely.remotetask.execution.messages import messageOf
from lovely.remotetask.options import PROCESS
from lovely.remotetask.options import THREAD
from lovely.remotetask.options import whatIsWrong
from lovely.remotetask.retry import DEFAULT
from lovely.remotetask.retry import asPolicy
from lovely.remotetask.storage.ready import Declined
from lovely.remotetask.task import checkInput


log = logging.getLogger('lovely.remotetask')


#: Tasks of this package: name -> task.  Nobody can add a job for one by its name; see `ITaskService.addBulk`.
OWN = {bulk.NAME: bulk.TASK}


def findTasks(service):
    """Return the tasks that jobs of the service can name: name -> task.  Its own tasks come first."""
    return collections.ChainMap(service.ownTasks, dict(siteManager(service).getUtilitiesFor(service.taskInterface)))


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
    if (task := service.ownTasks.get(name)) is not None:
        return task
    return siteManager(service).queryUtility(service.taskInterface, name=name)


class AddableTasks(dict):
    """The tasks that jobs of a service can be added for, each looked up and checked when it is first asked for.

    `tasks[name]` raises `UnknownTask`, and `TaskError` for a task that cannot be run.
    """

    def __init__(self, service):
        self.service = service

    def __missing__(self, name):
        task = None if name in OWN else queryTask(self.service, name)
        if task is None:
            raise UnknownTask(name, findTasks(self.service))
        checkTask(name, task)
        self[name] = task
        return task


def takes(patterns, name):
    """Return whether a task's name fits one of the patterns, texts in which `*` stands for anything; None fits all."""
    # A name may have a bracket or a question mark, which stand for more in a pattern.
    return patterns is None or name in patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def checkPatterns(patterns):
    """Raise `ValueError` when these are no patterns for `takes`: a list of texts that are not empty, one at least."""
    isRight = (isinstance(patterns, (list, tuple)) and patterns
               and all(isinstance(pattern, str) and pattern.strip() for pattern in patterns))
    check('tasks', patterns, isRight, 'a list of names of tasks')


def lacking(service, host, name, patterns=None):
    """Return why a host, the one of this process, cannot run tasks of this name, as text; None when it can.

    host -- its name, for the text.
    patterns -- what it is limited to, see `takes`.
    """
    if not takes(patterns, name):
        return Declined(f'{host} does not take the task {name!r}')
    task = queryTask(service, name)
    what = f'the task {name!r}' if task is None else missingOf(name, task)
    return f'{host} lacks {what}' if what else None


def missingOf(name, task):
    """Return what this host lacks to run a task, as text, or None.

    If the task's own `missing` raises, that is a mistake in the task, and must not hold up other jobs.
    """
    missing = getattr(task, 'missing', None)
    try:
        return missingClass(task) if missing is None else missing()
    except Exception as error:
        if isDatabaseError(error):
            raise
        return f'what {name!r} needs, which its method missing cannot say: {messageOf(error)}'


def policyOf(job, task):
    """Return the `RetryPolicy` for a job or a claim: its own, or its task's, or the default.  `task` may be None."""
    if job.retryPolicy is not None:
        return job.retryPolicy
    try:
        return asPolicy(getattr(task, 'retryPolicy', None)) or DEFAULT
    except ValueError:                          # `checkTask` says so
        return DEFAULT


def limitOf(claim, task):
    """Return the time limit for a claim in seconds, its own or its task's, or None.  `task` may be None."""
    if claim.timeLimit is not None:
        return claim.timeLimit
    limit = getattr(task, 'timeLimit', None)
    return limit if isSpan(limit) else None


def checkTask(name, task):
    """Raise `TaskError` when a task asks for what nobody can give it; `name` is what it is registered as."""
    if (wrong := whatIsWrong(task)) is not None:
        raise TaskError(f'the task {name!r} cannot be run: {wrong}')


def checkJob(tasks, name, input):
    """Raise what forbids to add a job: `UnknownTask`, `TaskError`, or `InvalidInput`.

    tasks -- the `AddableTasks` of the service.
    name -- what the task is registered as.

    Any other exception of its schema's constraints, or of its own `checkInput`, is a mistake in these, not the
    caller's: it is logged, and `TaskError` says so.
    """
    if not isinstance(name, str):
        raise UnknownTask(name, findTasks(tasks.service))
    task = tasks[name]
    try:
        checkInput(task, input)
    except RemoteTaskError:
        raise
    except Exception as error:
        if isDatabaseError(error):
            raise
        logError(log, 'the task %r cannot check an input', name, error=error)
        raise TaskError(f'the task {name!r} cannot check this input: {cut(messageOf(error), REASON_SIZE)}') from error


def isIsolated(task):
    """Return whether a task asks to run in a child process, which keeps its time limit itself."""
    return getattr(task, 'isolation', THREAD) == PROCESS
