"""What became of jobs that a client has waited for: results, and why there is none, as exceptions."""
# SPDX-License-Identifier: ZPL-2.1
from typing import Any
from typing import NamedTuple

from lovely.remotetask import errors


class JobFailed(errors.RemoteTaskError):
    """The job that was waited for ended in an error."""

    def __init__(self, jobid: int, reason: str) -> None:
        super().__init__(f'job {jobid} failed: {reason}')
        self.jobid, self.reason = jobid, reason


class JobCancelled(errors.RemoteTaskError):
    """The job that was waited for was cancelled."""

    def __init__(self, jobid: int) -> None:
        super().__init__(f'job {jobid} was cancelled')
        self.jobid = jobid


class StillRunning(errors.RemoteTaskError, TimeoutError):
    """Jobs that were waited for have not ended in time; they go on."""

    def __init__(self, statuses: dict[int, str], seconds: float) -> None:
        """`statuses` is a dict of the ids and statuses of the jobs, `seconds` how long they were waited for."""
        (jobid, status), *others = statuses.items()
        also = f', and so {"is" if len(others) == 1 else "are"} {len(others)} more' if others else ''
        super().__init__(f'job {jobid} is still {status} after {seconds:g} seconds{also}')
        self.statuses = statuses


class Outcome(NamedTuple):
    """What became of a job."""

    status: str | None                  # None for a job that is not there (any more)
    result: Any = None                  # what the task returned
    error: Exception | None = None      # why there is no result: what `Client.wait` would have raised
