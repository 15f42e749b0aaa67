"""The family of exceptions: the docstring says what to do, the attributes what happened."""
# SPDX-License-Identifier: ZPL-2.1
from collections.abc import Iterable
from typing import Any

from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import cut
from lovely.remotetask.common.checks import isPause
from lovely.remotetask.common.checks import shown


#: Characters at the most of what is said of an input, and of a path that a message shows.
REASON_SIZE, PATH_SIZE = 1000, 200


class RemoteTaskError(Exception):
    """Whatever this package refuses or fails to do; catch this to catch all of them."""

    def __str__(self) -> str:                  # KeyError's own would show the repr of the message
        return str(self.args[0]) if self.args else ''


class InvalidInput(RemoteTaskError, ValueError):
    """The input does not fit the task; correct the named field and add the job again."""

    def __init__(self, field: str, reason: str) -> None:
        """`field` is the name of the offending field ('' for the input as a whole), `reason` a sentence about it."""
        reason = cut(reason, REASON_SIZE)
        super().__init__(f'input: {reason}' if field == '' else f'input field {shown(field)}: {reason}')
        self.field, self.reason = field, reason


class UnknownTask(RemoteTaskError, ValueError):
    """No task of that name is registered here; use one of those in `available`."""

    def __init__(self, name: Any, available: Iterable[str]) -> None:
        """`name` is what was asked for, `available` the names that are registered."""
        self.name, self.available = name, sorted(available)
        super().__init__(f'task {shown(name)} is not registered; the registered tasks are: '
                         f'{", ".join(self.available) or "none"}')


class UnknownJob(RemoteTaskError, KeyError):
    """There is no job with that id: it was never added, or has been cleaned away."""

    def __init__(self, jobid: Any) -> None:
        super().__init__(f'there is no job {shown(jobid)}')
        self.jobid = jobid


class UnknownService(RemoteTaskError, LookupError):
    """No task service is registered at that path; check the site and the service's name."""

    def __init__(self, path: Any) -> None:
        super().__init__(f'there is no task service at {shown(path, PATH_SIZE)}')
        self.path = path


class WrongState(RemoteTaskError, ValueError):
    """The job is in a state that does not allow this; look at its status first."""

    def __init__(self, jobid: int, status: str, action: str) -> None:
        """`action` is a verb: what was to be done with the job."""
        super().__init__(f'job {jobid} is {status}: cannot {action} it')
        self.jobid, self.status, self.action = jobid, status, action


class TaskError(RemoteTaskError):
    """Raised by a task to end its job in `error` at once, without a retry; the message is kept on the job."""


class Retry(RemoteTaskError):
    """Raised by a task to have its job run again, after a time of its choice; it uses up an attempt as any failure."""

    def __init__(self, after: float | None = None, reason: str = 'the task asks for another run') -> None:
        """`after` is in seconds, None for what the retry policy says; `reason` is kept on the job."""
        check('after', after, after is None or isPause(after), 'a number of seconds')
        super().__init__(reason)
        self.after, self.reason = after, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.after, self.reason)


class TimeLimitExceeded(RemoteTaskError):
    """The run took longer than its time limit; give the task or the job a longer one, or less to do."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f'the run took longer than its time limit of {seconds:g} s')
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seconds,)


class HostDied(RemoteTaskError):
    """The processing host was lost while it ran the job; an attempt is used up, because the job may be the reason.

    host -- its name.
    silent -- None when its process has ended; else seconds, of its lease, for which nothing was heard of it.
    """

    def __init__(self, host: str, silent: float | None = None) -> None:
        if silent is None:
            super().__init__(f'the processing host {host} ended while the job was running')
        else:
            super().__init__(f'the processing host {host} was silent for more than {silent:g} s while the '
                             'job was running: it hung or was stopped, or its database was away, or a task kept the '
                             "GIL (a task with isolation='process' does not)")
        self.host, self.silent = host, silent

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.host, self.silent)


class NameTaken(RemoteTaskError):
    """A processing host of this name is alive; give this one another name, or stop the other first."""

    def __init__(self, name: str, owner: str) -> None:
        super().__init__(f'a processing host named {name!r} is already running ({owner}); give this one another name')
        self.name, self.owner = name, owner


class ConfigurationError(RemoteTaskError):
    """The configuration is wrong; the message says where and how."""
