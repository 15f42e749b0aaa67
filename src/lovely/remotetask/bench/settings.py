"""What is to be measured, the numbers that all of the bench shares, and its exception."""
# SPDX-License-Identifier: ZPL-2.1
from dataclasses import dataclass

from lovely.remotetask.errors import RemoteTaskError


#: Jobs that are added in one transaction, by a bulk add.
BATCH = 500

#: Threads of a processing host.
THREADS = 4

#: Seconds between two looks at a database that says when something was committed, and at one that does not.
CHECK_INTERVAL, POLL_INTERVAL = 0.5, 0.005

#: The name of the bench's service in its folder, and how those folders begin.
SERVICE, FOLDER = 'bench', 'remotetask-bench-'


class BenchError(RemoteTaskError):
    """The measurement failed.  `log` is the end of the log of the process that is to blame, or ''."""

    def __init__(self, message, log=''):
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Settings:
    """What is to be measured, and how much of it."""

    jobs: int = 5000
    clients: int = 8
    #: Numbers of processing hosts.
    hosts: tuple = (1, 2)
    #: Bytes of text in each input, and so in each result.
    payload: int = 0
    #: Seconds that a job takes where jobs per second are measured.
    seconds: float = 0.0
    #: Jobs that wait behind those that are measured.
    behind: int = 0
    #: How often each is measured.
    repeat: int = 3

    @property
    def some(self):
        """A tenth of the jobs, at least 20: for measures in which each job takes longer."""
        return max(20, self.jobs // 10)

    @property
    def job(self):
        """The pair of the name of a task and an input that stands for all jobs."""
        input = {'seconds': self.seconds} if self.seconds else {}
        if self.payload:
            input['payload'] = 'x' * self.payload
        return 'bench-sleep' if self.seconds else 'bench-noop', input

    def rounds(self):
        """Return what to repeat a measurement over."""
        return range(self.repeat)
