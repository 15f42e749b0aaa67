"""A remote processor as p01.remote has it: `addJob` registers a factory, `processJob` adds a job, times are numbers.

It is the one of `lovely.remotetask.m01` by other names; see `documents/migrating.txt`.
"""
# SPDX-License-Identifier: ZPL-2.1
import time

from lovely.remotetask import m01
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.m01.job import secondsOf
from lovely.remotetask.m01.job import timeOf


__all__ = ['Cron', 'Delay', 'Job', 'JobError', 'PackZODBJob', 'RemoteProcessor', 'RemoveCompletedJobsJob']


class JobError(m01.RemoteException):
    """Raised by a job to end in error at once; its message is kept."""


class Job(m01.Job):
    """See `m01.interfaces.IJob`.  A job that fails with any exception but `JobError` has four runs, without a pause."""

    maxRetries, retryDelay = 4, 0

    runCounter = property(lambda self: self.retryCounter)
    error = property(lambda self: self.errors[-1] if self.errors else None)


class _Item:
    """An item whose times are UTC seconds for its callers."""

    active, retryDelay = True, 0

    def getNextCallTime(self, callTime):
        """Return the stored time of the next call in UTC seconds, or None; if it has come, store the next one."""
        return _seconds(self.advance(timeOf(callTime)))


class Delay(_Item, m01.Delay):
    """An item that comes each `delay` seconds, first so long after `startTime`, in UTC seconds."""

    def __init__(self, jobName, delay=0, active=True, startTime=None):
        super().__init__(jobName=jobName, delay=delay, active=active)
        self.schedule(timeOf(time.time() if startTime is None else startTime))


class Cron(_Item, m01.Cron):
    """An item of the calendar, in UTC; the first time is after `startTime`, in UTC seconds."""

    def __init__(self, jobName, minute=None, hour=None, dayOfMonth=None, month=None, dayOfWeek=None, active=True,
                 startTime=None):
        super().__init__(jobName=jobName, minute=minute, hour=hour, dayOfMonth=dayOfMonth, month=month,
                         dayOfWeek=dayOfWeek, active=active)
        self.schedule(timeOf(time.time() if startTime is None else startTime))


class RemoteProcessor(m01.RemoteProcessor):
    """A remote processor whose worker and scheduler run together.

    What has no docstring of its own here is told in `m01.interfaces.IRemoteProcessor`.
    """

    jobClass = Job

    def addJob(self, name, job):
        """Register a job as the factory of that name."""
        self.addJobFactory(name, job)

    def processJob(self, name, input=None):
        """Add a job, and return its id; raise `ValueError` when there is no such factory."""
        return self._addJob(name, input)

    def getJobError(self, jobid):
        """Return what went wrong in the last run that failed, as text; 'None' when none has."""
        errors = self.getJobErrors(jobid)
        return errors[-1].message if errors else 'None'

    def removeJobs(self, stati=None):
        """Remove jobs that have ended: those in these statuses, by default in all."""
        super().removeJobs(stati)

    def startProcessor(self):
        """Start the worker and the scheduler, in threads of this process.  Nothing happens when they run."""
        super().startProcessor()
        self.startScheduler()

    def stopProcessor(self):
        """Stop both."""
        self.stopScheduler()
        super().stopProcessor()


class RemoveCompletedJobsJob(Job):
    """Removes the jobs that are completed."""

    def __call__(self, remoteProcessor):
        """Remove them."""
        remoteProcessor.removeJobs([COMPLETED])


class PackZODBJob(Job):
    """Packs the database of the remote processor; the input is for how many days old states are kept, or None for 0."""

    def __call__(self, remoteProcessor):
        """Pack it."""
        remoteProcessor._p_jar.db().pack(days=self.input or 0)


def _seconds(callTime):
    seconds = secondsOf(callTime)
    return seconds if seconds is None else int(seconds)
