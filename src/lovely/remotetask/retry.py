"""Retry decisions, as values: whoever asked carries them out.  No sleep, no clock, no database."""
# SPDX-License-Identifier: ZPL-2.1
from dataclasses import dataclass

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
    """How often a failing job is tried again, and after what time.  Stored on jobs that have one of their own.

    attempts -- runs in all, the first one included; also those that ended because their host did.
    base -- seconds before the second run; each further pause is `factor` times as long, up to `cap` seconds.
    jitter -- by how large a part of itself a pause may be shortened, 0 to 1, so that jobs that failed together do not
    come back together.
    retryOn, neverRetryOn -- tuples of exception classes: an error is retried when it is one of the first and none of
    the second.

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
