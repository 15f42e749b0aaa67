"""Retry decisions, as values: whoever asked carries them out.  No sleep, no clock, no database."""
# SPDX-License-Identifier: ZPL-2.1
from dataclasses import dataclass

from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import TaskError


@dataclass(frozen=True)
class RetryPolicy:
    """How often a failing job is tried again, and after what time.

    attempts -- runs in all, the first one included.
    base -- seconds before the second run; each further pause is `factor` times as long, up to `cap` seconds.
    jitter -- by how large a part of itself a pause may be shortened, 0 to 1, so that jobs that failed together do not
    come back together.
    """

    attempts: int = 4
    base: float = 0.1
    factor: float = 2.0
    cap: float = 3600.0
    jitter: float = 0.5

    def decide(self, attempt, error, luck=0.0):
        """Return the seconds to wait before the next run, or None to give up.

        attempt -- how many runs have been made, 1 after the first.
        error -- the exception of the last one.  `TaskError` and `InvalidInput` are final.
        luck -- a random number from 0 to 1: how much of the jitter to use.

        >>> policy = RetryPolicy(attempts=3, base=1)
        >>> [policy.decide(attempt, OSError()) for attempt in (1, 2, 3)]
        [1.0, 2.0, None]
        >>> policy.decide(1, OSError(), luck=1)
        0.5
        >>> policy.decide(1, TaskError('no such film')) is None
        True
        """
        if attempt >= self.attempts or isinstance(error, (TaskError, InvalidInput)):
            return None
        pause = min(self.cap, self.base * self.factor ** (attempt - 1))
        return pause * (1 - self.jitter * luck)


#: What applies to a task that does not say otherwise: three more runs, as the first releases of this package had.
DEFAULT = RetryPolicy()
