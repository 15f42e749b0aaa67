"""What a processing host tells of its runs: events of `zope.event`, for error trackers and the like.

A host notifies subscribers in a thread of its own, outside of any transaction and site, one event after the other, in
the order in which things happened.  What an event tells is committed.  An event comes once or, when the host is killed
or a commit's answer is lost, not at all.  A subscriber that raises is logged, and changes nothing for the job.

The runs of a host that is lost are told by the host that takes over, to its own subscribers: `JobRetried` or
`JobFailed`, with the lost host's name and `HostDied` as the error.  Of a job that the lost host had just claimed, or
run for less than about a second, nobody knows whether it had begun: it is queued again, and nothing is told.

Subscribe by `zope.component.provideHandler`, in ZCML by `<subscriber />`, or by `zope.event.subscribers`.
"""
# SPDX-License-Identifier: ZPL-2.1
from dataclasses import dataclass

from zope.interface import Attribute
from zope.interface import Interface
from zope.interface import implementer


class IJobEvent(Interface):
    """Something has happened to a run of a job."""

    jobid = Attribute('The id of the job, an int.')
    task = Attribute('The name of the task, a text.')
    attempt = Attribute('Which attempt it is, an int: 1 plus the number of runs that have failed before.')
    host = Attribute('The name of the processing host, a text.')
    servicePath = Attribute('The path of the task service, a tuple of names from the root folder down.')
    request = Attribute('The id of the HTTP request that added the job, a text; None if there was none.')
    started = Attribute('When the run began, in UTC seconds.')


class IJobStarted(IJobEvent):
    """A thread has begun with a job that the host has claimed.

    If the job was cancelled in the same moment, the task is not called, and no other event follows.
    """


class IRunEnded(IJobEvent):
    """A run has ended, and its end is on the job."""

    duration = Attribute('How long the run took, in seconds.')


class IJobCompleted(IRunEnded):
    """The job is completed, or one run of a cron job is."""


class IRunFailed(IRunEnded):
    """A run has failed."""

    error = Attribute('What went wrong, a text, as `getError` has it.')
    traceback = Attribute('The end of the traceback, a text; empty if there is none.')


class IJobFailed(IRunFailed):
    """The job has ended in an error and will not be retried, or one run of a cron job has."""


class IJobRetried(IRunFailed):
    """A run has failed, and the job will be run again."""

    retryAt = Attribute('When it will be run again at the earliest, in UTC seconds.')


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """What all events have; see `IJobEvent`."""

    jobid: int
    task: str
    attempt: int
    host: str
    servicePath: tuple[str, ...]
    request: str | None
    started: float


@implementer(IJobStarted)
@dataclass(frozen=True, kw_only=True)
class JobStarted(JobEvent):
    """See `IJobStarted`."""


@dataclass(frozen=True, kw_only=True)
class RunEnded(JobEvent):
    """What the events about an end have; see `IRunEnded`."""

    duration: float


@dataclass(frozen=True, kw_only=True)
class RunFailed(RunEnded):
    """What the events about a failure have; see `IRunFailed`."""

    error: str
    traceback: str


@implementer(IJobCompleted)
@dataclass(frozen=True, kw_only=True)
class JobCompleted(RunEnded):
    """See `IJobCompleted`."""


@implementer(IJobFailed)
@dataclass(frozen=True, kw_only=True)
class JobFailed(RunFailed):
    """See `IJobFailed`."""


@implementer(IJobRetried)
@dataclass(frozen=True, kw_only=True)
class JobRetried(RunFailed):
    """See `IJobRetried`."""

    retryAt: float
