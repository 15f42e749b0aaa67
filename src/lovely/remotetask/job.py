"""Jobs as they are stored: a task that was asked for, what with, and what became of it."""
# SPDX-License-Identifier: ZPL-2.1
import functools
from typing import NamedTuple

from persistent import Persistent
from zope.interface import implementer

from lovely.remotetask import cron
from lovely.remotetask import files
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import ICronJob
from lovely.remotetask.interfaces import IJob
from lovely.remotetask.misfire import ONCE
from lovely.remotetask.misfire import STEP
from lovely.remotetask.misfire import checkMisfire
from lovely.remotetask.misfire import decide


#: What says when a cron job runs, and all that can be said of its schedule.
WHEN = (*cron.RANGES, 'delay', 'crontab')
SCHEDULE = (*WHEN, 'timeZone', 'misfire', 'newJobs', 'overlap', 'active')

#: Calls of a schedule that are kept on it, the latest ones.
KEPT_RUNS = 10


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
    error = started = completed = None
    errors = ()
    attempt = 0
    run = 0                 # how many claims on it have ended without ending the job: part of a claim's token
    due = None              # its key in the timetable's calendar, in microseconds; an entry with another key is stale
    retryAt = None          # UTC seconds: do not run it before, whatever else is said
    schedule = None         # id of the cron job that added it
    stranded = False        # whether it waits for a host that has its task: see `lifecycle.strand`
    suspect = False         # whether a host ended after it had claimed this job: it is run where that can be noticed
    retryPolicy = None      # its own `RetryPolicy`; None for that of its task
    timeLimit = None        # its own time limit in seconds; None for that of its task
    request = None          # the id of the HTTP request that added it

    def __init__(self, id, task, input, created=0.0):
        """`created` is in UTC seconds."""
        self.id, self.task, self.input, self.created = id, task, input, created

    @property
    def input(self):
        """See `IJob`."""
        return files.valueOf(self.stored('input'))

    @input.setter
    def input(self, value):
        vars(self)['input'] = value if self._p_jar is None else files.toStore(value, self._p_jar)

    @property
    def output(self):
        """See `IJob`."""
        return files.valueOf(self.stored('output'))

    @output.setter
    def output(self, value):            # which is as `files.toStore` has given it: `execute` sees to that
        vars(self)['output'] = value

    def stored(self, name):
        """Return what stands in the record for 'input' or 'output': the value, or the `StoredFile` that holds it."""
        return vars(self).get(name)

    def timeOfNextRun(self, now):
        """Return when the scheduler shall queue it, in UTC seconds; None for never."""
        if self.retryAt is None or self.completed is None:
            return self.retryAt
        # The clock of the host where it failed may have been ahead: the pause is what counts.
        return min(self.retryAt, now + max(0.0, self.retryAt - self.completed))

    def __repr__(self):
        return f'<{type(self).__name__} {self.id}>'


class BrokenJob(Job):
    """Stands for a job that cannot be loaded: one in ERROR, of which nothing else is known.  Never stored."""

    status = ERROR

    def __init__(self, id, error):
        """`error` says why it cannot be loaded."""
        super().__init__(id, '', None)
        self.error = error

    def _p_deactivate(self):
        """Do nothing."""


class Run(NamedTuple):
    """One call of a schedule.  Stored in `CronJob.history`: new fields go to the end, with a default."""

    calledFor: float | None         # the time of the call by the schedule, UTC seconds
    jobid: int                      # the job that was run: the cron job itself, or the one that it added
    status: str | None = None       # how the run ended; None when the added job is to say
    started: float | None = None    # UTC seconds
    completed: float | None = None
    error: str | None = None


@implementer(ICronJob)
class CronJob(Job):
    """See `ICronJob`."""

    minute = hour = dayOfMonth = month = dayOfWeek = ()
    eitherDay = False
    delay = crontab = timeZone = None
    misfire = ONCE
    newJobs = overlap = False
    active = True
    status = CRONJOB
    pending = False         # whether a run of it is queued or going on; only then it has no place in the calendar
    calledFor = None
    madeUpTo = None         # UTC seconds: of its times until then it is decided which are made up for
    history = ()
    lastJob = None          # id of the last job that it added

    def __init__(self, id, task, input, minute=(), hour=(), dayOfMonth=(), month=(), dayOfWeek=(), delay=None,
                 created=0.0, *, newJobs=False, overlap=False, active=True, **schedule):
        """The fields are those of `cron.RANGES`, `delay` is in seconds, `created` in UTC seconds; see `update`."""
        super().__init__(id, task, input, created)
        for name, value in (('newJobs', newJobs), ('overlap', overlap), ('active', active)):
            if not isinstance(value, bool):
                raise ValueError(f'{name}: {value!r} is not a bool')
            if value != getattr(type(self), name):
                setattr(self, name, value)
        if overlap and not newJobs:
            raise ValueError('overlap: only a schedule that adds new jobs can have several of them at a time')
        self.update(hour, minute, dayOfMonth, month, dayOfWeek, delay, **schedule)

    def update(self, hour=(), minute=(), dayOfMonth=(), month=(), dayOfWeek=(), delay=None, crontab=None,
               timeZone=None, misfire=None):
        """See `ICronJob`."""
        fields = cron.checkFields(hour=hour, minute=minute, dayOfMonth=dayOfMonth, month=month, dayOfWeek=dayOfWeek)
        fields['eitherDay'] = False
        if crontab is not None:
            if any(fields.values()):
                raise ValueError('crontab: give either the text or fields, not both')
            fields = cron.parseCrontab(crontab)
        delay = cron.checkDelay(delay, isInterval=self.newJobs)
        if delay is not None and (crontab is not None or any(fields.values())):
            raise ValueError('delay: give either a delay or a calendar, not both')
        new = dict(fields, delay=delay, crontab=crontab,
                   timeZone=self.timeZone if timeZone is None else cron.checkTimeZone(timeZone),
                   misfire=self.misfire if misfire is None else checkMisfire(misfire))
        if delay is not None and not self.newJobs and new['misfire'] != ONCE:
            raise ValueError('misfire: a delayed job runs once, however late')
        for name, value in new.items():
            if value != getattr(self, name):
                setattr(self, name, value)
        if self.status in (CRONJOB, DELAYED):
            self.status = DELAYED if delay is not None and not self.newJobs else CRONJOB

    def changed(self, **changes):
        """Return another job, of this id but not in a database, whose schedule is this one with some changes.

        changes -- see `ITaskService.updateCronJob`.

        Raise `ValueError` for a value out of range, or a name that is none.
        """
        if not changes.keys() <= set(SCHEDULE):
            raise ValueError(f'there is no {min(changes.keys() - set(SCHEDULE))[:40]!r} in a schedule; there are '
                             f'{", ".join(SCHEDULE)}')
        schedule = {name: getattr(self, name) for name in SCHEDULE}
        given = changes.keys() & set(WHEN)
        if self.crontab is not None or given & {'crontab', 'delay'} or given and self.delay is not None:
            # The fields are only what the text stands for; one kind of schedule replaces another as a whole.
            schedule.update(dict.fromkeys(cron.RANGES, ()), **(dict.fromkeys(('crontab', 'delay')) if given else {}))
        return CronJob(self.id, self.task, None, created=self.created, **{**schedule, **changes})

    def adopt(self, other):
        """Take over the schedule of another job; the service does not know yet, as after `update`."""
        for name in (*SCHEDULE, 'eitherDay', 'status'):
            if getattr(other, name) != getattr(self, name):
                setattr(self, name, getattr(other, name))

    @property
    def scheduledFor(self):
        """The next call in UTC seconds, or None; see `ICronJob`."""
        return None if self.due is None else self.due / 1e6

    @property
    def isInterval(self):
        """Whether it adds a new job each time that its delay is over."""
        return self.newJobs and self.delay is not None

    def timeOfNextCall(self, now, beat=None):
        """See `ICronJob`.

        beat -- of an interval: one of its times, in UTC seconds; default: that of its last call.
        """
        beat = self.calledFor if beat is None else beat
        if self.delay is None:
            return cron.nextTime(now, self.minute, self.hour, self.dayOfMonth, self.month, self.dayOfWeek,
                                 self.eitherDay, self.timeZone)
        if beat is None or not self.newJobs:
            return now + self.delay
        return cron.nextBeat(beat, self.delay, now)     # however late its calls are met

    def timeOfNextRun(self, now):
        """See `Job`: a retry, or else the next call that is not met yet."""
        if self.retryAt is not None:
            return super().timeOfNextRun(now)
        if self.pending or not self.active:
            return None
        # A schedule that makes up for missed times goes on after its last call.  If that is ahead, the clock has been
        # set back: a calendar calls no time twice, but an interval goes on with its beat.
        if self.calledFor is None or self.isInterval and self.calledFor > now + self.delay:
            return self.timeOfNextCall(now)
        return self.timeOfNextCall(self.calledFor if self.catchesUp else max(now, self.calledFor))

    def timeToRunFor(self, due, now):
        """Return for which of its times a schedule runs when `due` is met at `now`; None for none; in UTC seconds."""
        if self.isMadeUpFor(due, now):
            return due
        return decide(self.misfire, due, now, functools.partial(self.timeOfNextCall, beat=due),
                      self.delay if self.isInterval else STEP)

    def isMadeUpFor(self, due, now):
        """Return whether it is decided already that it runs for its time `due`, which it missed; in UTC seconds."""
        return self.catchesUp and self.madeUpTo is not None and due <= self.madeUpTo <= now

    @property
    def catchesUp(self):
        """Whether it makes up for each of the times that it missed, up to a number."""
        return isinstance(self.misfire, int)

    def historyWith(self, run):
        """Return the history with another `Run`."""
        return (self.history + (run,))[-KEPT_RUNS:]
