"""Jobs as they are stored: a task that was asked for, what with, and what became of it."""
# SPDX-License-Identifier: ZPL-2.1
from typing import NamedTuple

from persistent import Persistent
from zope.interface import implementer

from lovely.remotetask import cron
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import ICronJob
from lovely.remotetask.interfaces import IJob


class Failure(NamedTuple):
    """One attempt that failed.  Stored in `Job.errors`: new fields go to the end, with a default."""

    time: float             # UTC seconds
    message: str
    traceback: str = ''
    host: str = ''          # the name of the processing host

    def __str__(self):
        return self.message


@implementer(IJob)
class Job(Persistent):
    """See `IJob`.  What is at its default is not stored: a waiting job is a short record."""

    # No _p_resolveConflict, ever: of two transactions that write a job the second must fail.  That is what keeps a
    # host that was given up from overwriting what its successor did.

    status = QUEUED
    output = error = started = completed = None
    errors = ()
    attempt = 0
    run = 0                 # how many claims on it have ended without ending the job: part of a claim's token
    due = None              # its key in the timetable's calendar, in microseconds; an entry with another key is stale
    retryAt = None          # UTC seconds: do not run it before, whatever else is said

    def __init__(self, id, task, input, created=0.0):
        """`created` is in UTC seconds."""
        self.id, self.task, self.input, self.created = id, task, input, created

    def timeOfNextRun(self, now):
        """Return when the scheduler shall queue it, in UTC seconds; None for never."""
        return self.retryAt

    def __repr__(self):
        return f'<{type(self).__name__} {self.id}>'


@implementer(ICronJob)
class CronJob(Job):
    """See `ICronJob`."""

    minute = hour = dayOfMonth = month = dayOfWeek = ()
    delay = None
    status = CRONJOB

    def __init__(self, id, task, input, minute=(), hour=(), dayOfMonth=(), month=(), dayOfWeek=(), delay=None,
                 created=0.0):
        """The fields are those of `cron.RANGES`, `delay` is in seconds, `created` in UTC seconds."""
        super().__init__(id, task, input, created)
        self.update(hour, minute, dayOfMonth, month, dayOfWeek, delay)
        if self.delay is not None:
            self.status = DELAYED

    def update(self, hour=(), minute=(), dayOfMonth=(), month=(), dayOfWeek=(), delay=None):
        """See `ICronJob`."""
        fields = cron.checkFields(hour=hour, minute=minute, dayOfMonth=dayOfMonth, month=month, dayOfWeek=dayOfWeek)
        delay = cron.checkDelay(delay)
        for name, values in fields.items():
            setattr(self, name, values)
        self.delay = delay

    @property
    def scheduledFor(self):
        """The next call in UTC seconds, or None; see `ICronJob`."""
        return None if self.due is None else self.due / 1e6

    def timeOfNextCall(self, now):
        """See `ICronJob`."""
        if self.delay is not None:
            return now + self.delay
        return cron.nextTime(now, self.minute, self.hour, self.dayOfMonth, self.month, self.dayOfWeek)

    def timeOfNextRun(self, now):
        """See `Job`: a retry, or else the next call."""
        return self.timeOfNextCall(now) if self.retryAt is None else self.retryAt
