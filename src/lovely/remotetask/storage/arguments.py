"""Checks of what callers give a service, before anything is changed: new jobs, times, selections."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import math
import time
from typing import Any
from typing import NamedTuple

from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import cut
from lovely.remotetask.common.checks import isSpan
from lovely.remotetask.common.checks import isText
from lovely.remotetask.common.checks import isTime
from lovely.remotetask.common.checks import isWhole
from lovely.remotetask.errors import REASON_SIZE
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.retry import asPolicy
from lovely.remotetask.storage.shards import BITS
from lovely.remotetask.storage.shards import SHARDS


#: Characters at the most of an idempotency key, and of the id of an HTTP request.
KEY_LENGTH, REQUEST_LENGTH = 200, 100


class NewJob(NamedTuple):
    """A job that is to be added: see `ITaskService.add`."""

    task: str
    input: Any = None
    startLater: bool = False
    retryPolicy: RetryPolicy | dict[str, Any] | None = None
    timeLimit: float | None = None
    key: str | None = None


_NEW = frozenset(NewJob._fields)


def newJob(job):
    """Return the `NewJob` for a dict; raise `ValueError`."""
    if not isinstance(job, dict) or 'task' not in job or not job.keys() <= _NEW:
        raise ValueError(f'a dict is needed, with the key task, and no others than {", ".join(NewJob._fields)}')
    return NewJob(**job)


@contextlib.contextmanager
def naming(place):
    """Add the place to what refuses one job of many; the other errors of our family name it themselves.

    place -- a callable that returns the text.
    """
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(error.field, f'{cut(error.reason, REASON_SIZE - 50)} ({place()})') from error
    except RemoteTaskError:
        raise
    except ValueError as error:
        raise ValueError(f'{place()}: {error}') from error


def present(now):
    """Return `now`, or what the clock says if it is None; in UTC seconds.  Raise `ValueError` for what is no time."""
    if now is None:
        return time.time()
    check('now', now, isTime(now), 'a time in UTC seconds')
    return now


def checkedOptions(new):
    """Return the `NewJob` with its policy as a `RetryPolicy`, which may have been a dict of its fields.

    Raise `ValueError` that names a wrong option; the task and the input are not checked here.
    """
    check('startLater', new.startLater, isinstance(new.startLater, bool), 'a bool')
    check('timeLimit', new.timeLimit, new.timeLimit is None or isSpan(new.timeLimit), 'a number of seconds above 0')
    check('key', new.key, new.key is None or isText(new.key, KEY_LENGTH), f'a text of 1 to {KEY_LENGTH} characters')
    if new.retryPolicy is None:
        return new
    try:
        return new._replace(retryPolicy=asPolicy(new.retryPolicy))
    except ValueError as error:
        raise ValueError(f'retryPolicy: {error}') from error


def checkRange(start, size):
    """Raise `ValueError` when these do not say which part of a list is meant."""
    for name, value in (('start', start), ('size', size)):
        check(name, value, isWhole(value, 0, (SHARDS << BITS) - 1), f'a number from 0 to {(SHARDS << BITS) - 1}')


def checkRequest(request):
    """Raise `ValueError` when that is no id of an HTTP request; None is for none."""
    check('request', request, request is None or isText(request, REQUEST_LENGTH),
          f'a text of 1 to {REQUEST_LENGTH} characters')


def checkSelection(limit, before):
    """Raise `ValueError` when these do not say which of the jobs that have ended are meant; None is for all."""
    check('limit', limit, limit is None or isWhole(limit, 0, math.inf), 'a number of jobs, 0 or more')
    check('before', before, before is None or isTime(before), 'a time in UTC seconds')
