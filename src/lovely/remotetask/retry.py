"""Retry decisions, as values that the caller carries out.  No sleep, no clock, no database."""
# SPDX-License-Identifier: ZPL-2.1
from dataclasses import dataclass
from dataclasses import fields
from typing import Any

from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import isNumber
from lovely.remotetask.common.checks import isWhole
from lovely.remotetask.common.checks import shown
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import Retry
from lovely.remotetask.errors import TaskError


YEAR = 366 * 86400.0

#: The most runs that a policy can ask for, an int of XML-RPC.
MOST_ATTEMPTS = 2 ** 31 - 1


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and after which pauses, a failing job is retried.  A job can store its own policy.

    attempts -- the number of runs, including the first one and runs whose host ended.
    base -- seconds before the second run; each further pause is `factor` times as long, up to `cap` seconds.
    jitter -- the fraction, from 0 to 1, by which a pause may be shortened at random, so that jobs that failed together
    do not run again together.
    retryOn, neverRetryOn -- tuples of exception classes: an error is retried if it is an instance of the first, and not
    of the second.

    Raise `ValueError` that names the field for a value out of range.
    """

    attempts: int = 4
    base: float = 0.1
    factor: float = 2.0
    cap: float = 3600.0
    jitter: float = 0.5
    retryOn: tuple[type[BaseException], ...] = (BaseException,)
    neverRetryOn: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        check('attempts', self.attempts, isWhole(self.attempts, 1, MOST_ATTEMPTS),
              f'a number from 1 to {MOST_ATTEMPTS}')
        for name, low, high in (('base', 0, YEAR), ('factor', 1, 1000), ('cap', 0, YEAR), ('jitter', 0, 1)):
            value = getattr(self, name)
            check(name, value, isNumber(value, low, high), f'a number from {low} to {high}')
        for name in ('retryOn', 'neverRetryOn'):
            classes = getattr(self, name)
            if not isinstance(classes, tuple) or not all(isinstance(one, type) and issubclass(one, BaseException)
                                                         for one in classes):
                raise ValueError(f'{name}: {shown(classes)} is not a tuple of exception classes')

    def decide(self, attempt: int, error: BaseException, draw: float = 0.0) -> float | None:
        """Return the seconds to wait before the next run, or None to give up.

        attempt -- how many runs have been made, 1 after the first.
        error -- the exception of the last one.  `TaskError` and `InvalidInput` are final; `Retry` asks for another run
        whatever the classes say, and may say when.
        draw -- a random number from 0 to 1: how much of the jitter to use.

        >>> policy = RetryPolicy(attempts=3, base=1, neverRetryOn=(KeyError,))
        >>> [policy.decide(attempt, OSError()) for attempt in (1, 2, 3)]
        [1.0, 2.0, None]
        >>> policy.decide(1, OSError(), draw=1)
        0.5
        >>> policy.decide(1, TaskError('no such film')) is None, policy.decide(1, KeyError('film')) is None
        (True, True)
        >>> policy.decide(1, Retry(after=60, reason='the film is being uploaded'))
        60
        """
        if attempt >= self.attempts:
            return None
        if isinstance(error, Retry):
            if error.after is not None:
                return error.after
        elif isinstance(error, (TaskError, InvalidInput) + self.neverRetryOn) or not isinstance(error, self.retryOn):
            return None
        try:
            pause = min(self.cap, self.base * float(self.factor) ** (attempt - 1))
        except OverflowError:
            pause = self.cap
        return pause * (1 - self.jitter * draw)


#: What applies to a task that does not say otherwise: three more runs, as the first releases of this package had.
DEFAULT = RetryPolicy()


def asPolicy(value: Any) -> RetryPolicy | None:
    """Return the `RetryPolicy` that is meant by one, or by a dict of some of its fields; None for None.

    >>> asPolicy({'attempts': 3, 'base': 60}) == RetryPolicy(attempts=3, base=60)
    True
    >>> asPolicy({'atempts': 3})
    Traceback (most recent call last):
    ...
    ValueError: there is no field 'atempts'; there are attempts, base, factor, cap, jitter, retryOn, ...

    Raise `ValueError` that names the field for a value that will not do.
    """
    if value is None or isinstance(value, RetryPolicy):
        return value
    if not isinstance(value, dict):
        raise ValueError(f'{shown(value)} is neither a RetryPolicy nor a dict of its fields')
    names = [field.name for field in fields(RetryPolicy)]
    for name in value:
        if name not in names:
            raise ValueError(f'there is no field {shown(name)}; there are {", ".join(names)}')
    given: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in value.items()}
    return RetryPolicy(**given)
