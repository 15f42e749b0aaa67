"""Jobs as they are stored: the task, its input, and the outcome."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import operator
from typing import NamedTuple

from zope.interface import implementer

from lovely.remotetask.database import storedfiles
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.encoding import rows
from lovely.remotetask.encoding.plain import ownCopy
from lovely.remotetask.encoding.rowcheck import CRON_JOB
from lovely.remotetask.encoding.rowcheck import JOB
from lovely.remotetask.encoding.rowcheck import Run
from lovely.remotetask.encoding.rowcheck import faultOf
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import ICronJob
from lovely.remotetask.interfaces import IJob
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.schedules.calendar import nextBeat
from lovely.remotetask.schedules.calendar import nextTime
from lovely.remotetask.schedules.crontab import parseCrontab
from lovely.remotetask.schedules.fields import RANGES
from lovely.remotetask.schedules.fields import checkDelay
from lovely.remotetask.schedules.fields import checkFields
from lovely.remotetask.schedules.misfire import ONCE
from lovely.remotetask.schedules.misfire import STEP
from lovely.remotetask.schedules.misfire import checkMisfire
from lovely.remotetask.schedules.misfire import decide
from lovely.remotetask.schedules.zones import checkTimeZone


#: The attributes that say when a cron job runs, and all those of its schedule.
WHEN = (*RANGES, 'delay', 'crontab')
SCHEDULE = (*WHEN, 'timeZone', 'misfire', 'newJobs', 'overlap', 'active')

#: Calls of a schedule that are kept on it, the latest ones.
KEPT_RUNS = 10


class Failure(NamedTuple):
    """One attempt that failed.  Stored as a tuple in `Job.errors`: new fields go to the end, with a default.

    What a newer release has at the end is left out here, and lost when the errors are written.
    """

    time: float             # UTC seconds
    message: str
    traceback: str = ''
    host: str = ''          # the name of the processing host

    def __str__(self):
        return self.message


def field(name):
    """Return the property for a field of the row; see `rows.Row`."""
    get = operator.attrgetter(name)
    return property(lambda self: get(self.row), lambda self, value: self.change(**{name: value}))


class _More(property):
    """See `more`."""

    toRow = None            # converts a value to what the row has


def more(name, default=None, read=None, write=None):
    """Return the property for an attribute that few jobs have: None and the default are not stored.

    read, write -- convert the stored value to that of the attribute, and back; None for as it is.
    """
    def get(self):
        stored = (self.row.more or {}).get(name)
        return default if stored is None else stored if read is None else read(stored)

    def toRow(value):
        return None if value is None or value == default else value if write is None else write(value)

    found = _More(get, lambda self, value: self.change(**{name: toRow(value)}))
    found.toRow = toRow
    return found


def _policyOf(value):
    return value if isinstance(value, RetryPolicy) else None


def _encoded(value):
    """Return what a row stores for a value, an `Encoded` or any other: bytes, None, or BESIDE."""
    if value is None:
        return None
    encoded = value if isinstance(value, rows.Encoded) else rows.encode(value)
    return rows.BESIDE if encoded is None else bytes(encoded)


@implementer(IJob)
class Job:
    """See `IJob`.  A view of the row of the job: an attribute that is set here is written there at once.

    A view holds nothing, so that it is always as fresh as the row.  Two views of one job are equal.  Setting an
    attribute of a removed job raises `errors.UnknownJob`.
    """

    # The database refuses the second of two transactions that write the same row: so a host that was given up cannot
    # overwrite what its successor did.

    __slots__ = 'id', '_pages', '_page', '_data', '_row'

    kind = JOB

    def __init__(self, id, task, input, created=0.0, status=QUEUED, retryPolicy=None, **more):
        """Make a new job, which is in no database.

        created -- UTC seconds.
        more -- timeLimit, request, traceparent; None for what it does not have.
        """
        self.id, self._pages, self._data = id, rows.LooseRow(), None
        self._page = self._pages.page(id)
        encoded = _encoded(input)
        if encoded is rows.BESIDE:
            self._pages.putValue('input', id, input)
        if retryPolicy is not None:
            more['retryPolicy'] = rows.encodeObject(retryPolicy)
        more = {name: rows.exact(value) for name, value in more.items() if value is not None}
        self._write(rows.Row(0, self.kind, rows.fitting('task', task), rows.fitting('created', created), status,
                             input=encoded, more=more or None))

    @classmethod
    def at(cls, pages, id, page, data):
        """Return the job with an id, maybe a `CronJob`.  Raise `ValueError` for bytes that are no whole row.

        pages, page -- the `Pages`, and the one of them that the job is in.
        data -- its bytes.
        """
        row = rows.unpack(data)
        if fault := faultOf(row):
            raise ValueError(fault)
        job = object.__new__(KINDS[row.kind])
        job.id, job._pages, job._page, job._data, job._row = id, pages, page, data, row
        return job

    task, created, status = field('task'), field('created'), field('status')
    started, completed, error = field('started'), field('completed'), field('error')
    failedAttempts = field('failedAttempts')
    host = field('host')            # the number of the host of its last run; 0 for none
    run = field('run')              # how many claims on it have ended without ending the job: part of a claim's token
    due = more('due')               # its key in the calendar, in microseconds; an entry with another is stale
    retryAt = more('retryAt')       # UTC seconds: do not run it before, whatever else is said
    readySince = more('readySince')     # UTC seconds; None: since it was added.  Stale while it waits for a time
    schedule = more('schedule')     # id of the cron job that added it
    stranded = more('stranded', False)      # whether it waits for a host that has its task: see `ready.strand`
    #: 0, unless a host ended after it had claimed this job.  Else how many suspects may run together, with this one.
    suspect = more('suspect', 0)
    timeLimit = more('timeLimit')           # its own time limit in seconds; None for that of its task
    request = more('request')               # the id of the HTTP request that added it
    traceparent = more('traceparent')       # the trace context of the span that added it, if that was recorded
    # Its own `RetryPolicy`; None for that of its task, also when it is of a class that is missing here.
    retryPolicy = more('retryPolicy', read=lambda encoded: _policyOf(rows.decodeObject(encoded)),
                       write=rows.encodeObject)

    @property
    def row(self):
        """The `rows.Row`, as it is now; of a job that was removed as it was last seen."""
        data = self._page.get(self.id)
        if data is not self._data and data is not None:
            self._row, self._data = rows.unpack(data), data
        return self._row

    def _write(self, row):
        if self._data is not None and self.id not in self._page:
            raise UnknownJob(self.id)           # it was removed meanwhile, and must not come back
        self._data, self._row = rows.pack(row), row
        self._page[self.id] = self._data

    def assign(self, **values):
        """Set several attributes by one write, to the values that they are to have here."""
        makers = {name: getattr(getattr(type(self), name), 'toRow', None) for name in values}
        self.change(**{name: value if makers[name] is None else makers[name](value) for name, value in values.items()})

    def change(self, **changes):
        """Set several attributes by one write, to what the row has of them; none if they have these values."""
        row = self.row
        new = rows.changed(row, changes)
        if new is not row:
            self._write(new)

    def touch(self):
        """Write the row as it is: then this transaction fails if another one writes the job at the same time."""
        self._write(rows.written(self.row))

    def store(self, pages):
        """Store the job in the `Pages`, where it becomes part of the transaction."""
        loose, self._pages = self._pages, pages
        self._page = pages.put(self.id, self._data)
        for name in rows.VALUES:
            if getattr(self._row, name) is rows.BESIDE:
                pages.putValue(name, self.id, storedfiles.toStore(loose.value(name, self.id), pages.jar))

    def stored(self, name):
        """Return 'input', 'output' or 'errors' as it is stored: the value, or the `StoredFile` that holds it."""
        encoded = getattr(self.row, name)
        if encoded is None:
            return None
        return self._pages.value(name, self.id) if encoded is rows.BESIDE else rows.decode(encoded)

    def put(self, name, value):
        """Store a value, an `Encoded` or any other, beside the row if it is large; return what the row stores for it.

        A value comes as `storedfiles.toStore` has given it.
        """
        encoded = _encoded(value)
        if encoded is rows.BESIDE:
            # First the row: if that meets a conflict, nothing of the value, such as its blob, has been stored.
            self.touch()
            self._pages.putValue(name, self.id, value)
        return encoded

    @property
    def input(self):
        """See `IJob`."""
        return storedfiles.valueOf(self.stored('input'))

    @input.setter
    def input(self, value):
        jar = self._pages.jar
        self.change(input=self.put('input', value if jar is None else storedfiles.toStore(value, jar)))

    def inputFor(self, encoded):
        """Return the input for a run, which may change it.

        encoded -- what the row stores for it.
        """
        if encoded is rows.BESIDE:
            return storedfiles.valueOf(ownCopy(self.stored('input')))
        return None if encoded is None else rows.decode(encoded)

    @property
    def output(self):
        """See `IJob`."""
        return storedfiles.valueOf(self.stored('output'))

    @output.setter
    def output(self, value):
        self.change(output=self.put('output', value))

    @property
    def errors(self):
        """See `IJob`.  If they cannot be loaded, a `Failure` says so instead, so that the job can go on."""
        try:
            failures = storedfiles.valueOf(self.stored('errors')) or ()
            return tuple(Failure(*failure[:len(Failure._fields)]) for failure in failures)
        except Exception as error:
            if isDatabaseError(error):
                raise
            return Failure(self.created, f'earlier errors cannot be loaded: {type(error).__name__}: {error}'),

    @errors.setter
    def errors(self, failures):
        self.change(errors=self.put('errors', [tuple(failure) for failure in failures] or None))

    def timeOfNextRun(self, now):
        """Return when the scheduler shall queue it, in UTC seconds; None for never."""
        if self.retryAt is None or self.completed is None:
            return self.retryAt
        # The clock of the host where it failed may have been ahead: the pause is what counts.
        return min(self.retryAt, now + max(0.0, self.retryAt - self.completed))

    def __eq__(self, other):
        return isinstance(other, Job) and (self.id, self._pages) == (other.id, other._pages)

    def __hash__(self):
        return hash(self.id)

    def __repr__(self):
        return f'<{type(self).__name__} {self.id}>'


class BrokenJob(Job):
    """Stands for a job that cannot be loaded: one in ERROR, of which nothing else is known.  Never stored."""

    __slots__ = ()

    def __init__(self, id, error):
        """`error` says why it cannot be loaded."""
        super().__init__(id, '', None, status=ERROR)
        self.error = error


@implementer(ICronJob)
class CronJob(Job):
    """See `ICronJob`."""

    __slots__ = ()

    kind = CRON_JOB

    minute, hour, dayOfMonth = more('minute', ()), more('hour', ()), more('dayOfMonth', ())
    month, dayOfWeek, eitherDay = more('month', ()), more('dayOfWeek', ()), more('eitherDay', False)
    delay, crontab, timeZone = more('delay'), more('crontab'), more('timeZone')
    misfire, newJobs, overlap = more('misfire', ONCE), more('newJobs', False), more('overlap', False)
    active = more('active', True)
    pending = more('pending', False)        # whether a run is queued or goes on; only then it is not in the calendar
    calledFor = more('calledFor')
    askedFor = more('askedFor')     # UTC seconds: when somebody asked for the run that is queued or goes on
    madeUpTo = more('madeUpTo')     # UTC seconds: which of its missed times until then are made up for is decided
    history = more('history', (), read=lambda runs: tuple(Run(*run[:len(Run._fields)]) for run in runs),
                   write=lambda runs: tuple(tuple(run) for run in runs))
    lastJob = more('lastJob')               # id of the last job that it added

    def __init__(self, id, task, input, minute=(), hour=(), dayOfMonth=(), month=(), dayOfWeek=(), delay=None,
                 created=0.0, *, newJobs=False, overlap=False, active=True, **schedule):
        """The fields are those of `fields.RANGES`, `delay` is in seconds, `created` in UTC seconds; see `update`."""
        super().__init__(id, task, input, created, CRONJOB)
        for name, value in (('newJobs', newJobs), ('overlap', overlap), ('active', active)):
            if not isinstance(value, bool):
                raise ValueError(f'{name}: {value!r} is not a bool')
        if overlap and not newJobs:
            raise ValueError('overlap: only a schedule that adds new jobs can have several of them at a time')
        self.assign(newJobs=newJobs, overlap=overlap, active=active)
        self.update(hour, minute, dayOfMonth, month, dayOfWeek, delay, **schedule)

    def update(self, hour=(), minute=(), dayOfMonth=(), month=(), dayOfWeek=(), delay=None, crontab=None,
               timeZone=None, misfire=None):
        """See `ICronJob`."""
        fields = checkFields(hour=hour, minute=minute, dayOfMonth=dayOfMonth, month=month, dayOfWeek=dayOfWeek)
        fields['eitherDay'] = False
        if crontab is not None:
            if any(fields.values()):
                raise ValueError('crontab: give either the text or fields, not both')
            fields = parseCrontab(crontab)
        delay = checkDelay(delay, isInterval=self.newJobs)
        if delay is not None and (crontab is not None or any(fields.values())):
            raise ValueError('delay: give either a delay or a calendar, not both')
        new = dict(fields, delay=delay, crontab=crontab,
                   timeZone=self.timeZone if timeZone is None else checkTimeZone(timeZone),
                   misfire=self.misfire if misfire is None else checkMisfire(misfire))
        if delay is not None and not self.newJobs and new['misfire'] != ONCE:
            raise ValueError('misfire: a delayed job runs once, however late')
        if self.status in (CRONJOB, DELAYED):
            new['status'] = DELAYED if delay is not None and not self.newJobs else CRONJOB
        self.assign(**new)

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
            schedule.update(dict.fromkeys(RANGES, ()), **(dict.fromkeys(('crontab', 'delay')) if given else {}))
        schedule = {name: value for name, value in {**schedule, **changes}.items() if value is not None}
        return CronJob(self.id, self.task, None, created=self.created, **schedule)

    def adopt(self, other):
        """Take over the schedule of another job; the service does not know yet, as after `update`."""
        self.assign(**{name: getattr(other, name) for name in (*SCHEDULE, 'eitherDay', 'status')})

    @property
    def scheduledFor(self):
        """The next call in UTC seconds, or None; see `ICronJob`."""
        return None if self.due is None else self.due / 1e6

    @property
    def isFailing(self):
        """Whether it runs itself, and its last run failed.  With `newJobs` this is False: its jobs say how they ended.
        """
        return bool(self.history) and self.history[-1].status == ERROR

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
            return nextTime(now, self.minute, self.hour, self.dayOfMonth, self.month, self.dayOfWeek, self.eitherDay,
                            self.timeZone)
        if beat is None or not self.newJobs:
            return now + self.delay
        return nextBeat(beat, self.delay, now)          # however late its calls are met

    def timeOfNextRun(self, now):
        """See `Job`: a retry, or else the next call that is not met yet."""
        if self.retryAt is not None:
            return super().timeOfNextRun(now)
        if self.pending or not self.active or self.status == QUEUED:
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


#: What a row says of its kind -> the class.
KINDS = {JOB: Job, CRON_JOB: CronJob}
