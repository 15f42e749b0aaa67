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
    """The base class of all exceptions of this package."""

    def __str__(self) -> str:                  # KeyError's own would show the repr of the message
        return str(self.args[0]) if self.args else ''

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what copies and pickles make it of: its attributes.  They do not call `__init__`."""
        return _remade, (type(self), self.args), vars(self)


def _remade(kind: type[RemoteTaskError], args: tuple[Any, ...]) -> RemoteTaskError:
    error = kind.__new__(kind, *args)
    error.args = args                           # `OSError.__new__` leaves these to `__init__`
    return error


class InvalidInput(RemoteTaskError, ValueError):
    """The input does not fit the task; correct the named field, and add the job again."""

    def __init__(self, field: str, reason: str) -> None:
        """`field` is the name of the wrong field ('' for the whole input), `reason` a sentence about it."""
        reason = cut(reason, REASON_SIZE)
        super().__init__(f'input: {reason}' if field == '' else f'input field {shown(field)}: {reason}')
        self.field, self.reason = field, reason


class UnknownTask(RemoteTaskError, ValueError):
    """No task of that name is registered here; use one of those in `available`."""

    def __init__(self, name: Any, available: Iterable[str]) -> None:
        """`name` is the requested name, `available` are the registered names."""
        self.name, self.available = name, sorted(available)
        super().__init__(f'task {shown(name)} is not registered; the registered tasks are: '
                         f'{", ".join(self.available) or "none"}')


class UnknownJob(RemoteTaskError, KeyError):
    """There is no job with that id: it was never added, or it was removed."""

    def __init__(self, jobid: Any) -> None:
        super().__init__(f'there is no job {shown(jobid)}')
        self.jobid = jobid


class UnknownService(RemoteTaskError, LookupError):
    """No task service is registered at that path; check the site and the service's name."""

    def __init__(self, path: Any, reason: str = '') -> None:
        """`reason` says why the object at the path cannot be used; '' if there is none."""
        super().__init__(f'there is no task service at {shown(path, PATH_SIZE)}{reason and f": {reason}"}')
        self.path = path


class UnknownUpload(RemoteTaskError, LookupError):
    """There is no upload with that id: it is another user's, a job has taken it, or it was dropped; send it again."""

    def __init__(self, upload: Any) -> None:
        super().__init__(f'there is no upload {shown(upload)}: a job has taken it, or it was dropped, or it waited for '
                         f'a job for too long')
        self.upload = upload


class TooManyUploads(RemoteTaskError):
    """There is no room for another file, or for more of one; drop uploads that no job will take."""


class WrongState(RemoteTaskError, ValueError):
    """The status of the job does not allow this; check the status first."""

    def __init__(self, jobid: int, status: str, action: str) -> None:
        """`action` is a verb that names the refused action."""
        super().__init__(f'job {jobid} is {status}: cannot {action} it')
        self.jobid, self.status, self.action = jobid, status, action


class TaskError(RemoteTaskError):
    """Raised by a task to end its job in `error` at once, without a retry; the job keeps the message."""


class Retry(RemoteTaskError):
    """Raised by a task to request another run after a given time; like any failure, it uses up an attempt."""

    def __init__(self, after: float | None = None, reason: str = 'the task asks for another run') -> None:
        """`after` is in seconds, None for the pause of the retry policy; the job keeps `reason`."""
        check('after', after, after is None or isPause(after), 'a number of seconds')
        super().__init__(reason)
        self.after, self.reason = after, reason


class TimeLimitExceeded(RemoteTaskError):
    """The run took longer than its time limit; raise the limit of the task or the job, or give it less work."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f'the run took longer than its time limit of {seconds:g} s')
        self.seconds = seconds


class HostDied(RemoteTaskError):
    """The processing host ended or fell silent while it ran the job.

    The job uses up an attempt, because it may be the cause.

    host -- the name of the host.
    silent -- the lease in seconds, without a heartbeat; None if the process has ended.
    """

    def __init__(self, host: str, silent: float | None = None) -> None:
        if silent is None:
            super().__init__(f'the processing host {host} ended while the job was running')
        else:
            super().__init__(f'the processing host {host} was silent for more than {silent:g} s while the '
                             'job was running: it hung or was stopped, or its database was away, or a task kept the '
                             "GIL (a task with isolation='process' does not)")
        self.host, self.silent = host, silent


class NameTaken(RemoteTaskError):
    """A processing host with this name is running; choose another name, or stop that host first."""

    def __init__(self, name: str, owner: str) -> None:
        super().__init__(f'a processing host named {name!r} is already running ({owner}); give this one another name')
        self.name, self.owner = name, owner


class WrongGeneration(RemoteTaskError):
    """This release must not work with the stored data of the service; the message names the command or the release."""


class ConfigurationError(RemoteTaskError):
    """The configuration is wrong; the message says where and how."""
