"""Contracts: what tasks, jobs, services and processors promise, and the statuses of a job."""
# SPDX-License-Identifier: ZPL-2.1
from zope.interface import Attribute
from zope.interface import Interface
from zope.schema import Bool
from zope.schema import Float
from zope.schema import Int
from zope.schema import TextLine


#: It waits for a processing host; also while it waits for its next attempt after a failure.
QUEUED = 'queued'
#: A processing host has claimed it.  Never stored on the job: the host's ledger says so.
PROCESSING = 'processing'
#: Somebody called it off before it ended; an outcome that arrives later is thrown away.
CANCELLED = 'cancelled'
#: Its task failed, for the last time; the job's `error` says how.
ERROR = 'error'
#: Its task returned; the job's `output` is what.
COMPLETED = 'completed'
#: It runs once, when its delay is over; the scheduler then queues it.
DELAYED = 'delayed'
#: It runs again and again, at the times of its schedule, and keeps this status.
CRONJOB = 'cronjob'
#: It has been added but not started: `ITaskService.startJob` queues it.
STARTLATER = 'start later'

STATUSES = (QUEUED, PROCESSING, CANCELLED, ERROR, COMPLETED, DELAYED, CRONJOB, STARTLATER)

#: Nothing happens to a job in one of these any more; `ITaskService.clean` removes it.
FINAL = (CANCELLED, ERROR, COMPLETED)


class ITask(Interface):
    """Work that jobs can ask for: a callable, registered as a utility under the name that jobs call it by."""

    inputSchema = Attribute(
        'An interface whose zope.schema fields describe the input, a dict with the names of the fields as keys. '
        'The plain `zope.interface.Interface` accepts anything.')
    outputSchema = Attribute('The same for what the task returns.')

    # A task may have these besides; what it does not have, or has as None, is at its default.  A job cannot be added
    # for a task of which one of the first four is out of range.
    #
    # retryPolicy -- a `retry.RetryPolicy`; default: `retry.DEFAULT`.
    # timeLimit -- seconds that a run may take; default: None, any time.  When it is over the run has failed, and what
    #     it still does is refused; a program or a child process is ended.
    # isolation -- 'thread', the default, or 'process': to run in a child process, which has no database, but can be
    #     ended, and crash, alone.
    # memoryLimit -- bytes that the child process may use; default: None, as many as there are.
    # missing -- a method that returns what this host lacks to run the task, as a text, or None; the job then waits for
    #     a host that lacks nothing, as it does when the task itself is missing.
    # mask -- more names of fields of the input and the output whose values pages hide, patterns of `fnmatch`: a tuple.
    # atMostOnce -- true to have the job end in ERROR, instead of being run again, when its host ends during a run.

    def __call__(service, jobid, input):
        """Do the work.

        service -- the `ITaskService` of the job, from the connection of the running thread.
        jobid -- the id of the job, an int.
        input -- what was given to `ITaskService.add`; a copy, free to be changed.

        Return the job's result: plain data, or anything that can be pickled, or a `files.File`.  What is
        written to the database in here is committed together with the job's completion, or not at all.
        Raise `errors.TaskError` to end the job in ERROR at once, `errors.Retry` to have it run again; any other
        exception is retried by the retry policy, and ends in ERROR when its attempts are used up.
        """


class ICheckedTask(ITask):
    """A task that looks at its input before the job is added, beyond what an input schema can say."""

    def checkInput(input):
        """Raise `errors.InvalidInput` when the task cannot work with this input; return nothing otherwise."""


class IJob(Interface):
    """A task that was asked for: what with, and what became of it."""

    id = Int(title='Id', description='From 1 to 2**31 - 1: an int of XML-RPC.', min=1, max=2**31 - 1)
    task = TextLine(title='Task', description='The name of the task.')
    status = TextLine(title='Status', description='The stored status: any of STATUSES but PROCESSING.')
    input = Attribute('The argument of the task: plain data, or whatever can be pickled.  Of a `files.File` this is a '
                      '`files.StoredFile`, with `open` and `size`.  What is large is stored in a blob, and read from '
                      'there each time that it is asked for.')
    output = Attribute('What the task returned, in the same way; None before.')
    schedule = Attribute('The id of the `ICronJob` that added it; None when a caller did.')
    request = Attribute('The id of the HTTP request that added it, a short text; None when there was none.')
    error = Attribute('Why it ended in ERROR, as text; or why it waits: no host has its task, or the scheduler cannot '
                      'handle its schedule.  None otherwise.')
    errors = Attribute('What went wrong in each attempt, oldest first: a tuple of `job.Failure`.')
    attempt = Int(title='Attempt', description='How many attempts have been used up.')
    created = Float(title='Created', description='When it was added, in UTC seconds.')
    started = Float(title='Started', description='When its last run began, in UTC seconds; None before.',
                    required=False)
    completed = Float(title='Completed', description='When its last run ended, in UTC seconds; None before.',
                      required=False)


class ICronJob(IJob):
    """A job that runs when the fields of a calendar say so, or once after a delay."""

    minute = Attribute('The minutes it runs at, a tuple of 0..59; empty for any.')
    hour = Attribute('The hours, 0..23.')
    dayOfMonth = Attribute('The days of the month, 1..31.')
    month = Attribute('The months, 1..12.')
    dayOfWeek = Attribute('The days of the week, 0..6; 0 is Monday.')
    eitherDay = Bool(title='Either day', description='Whether a day fits when either of its two fields does.')
    crontab = TextLine(title='Crontab', description='The text that the fields were made of; None otherwise.',
                       required=False)
    timeZone = TextLine(title='Time zone', description="What the fields are in, one of the tz database, as "
                        "'Europe/Berlin'; None for UTC.", required=False)
    delay = Attribute('Seconds to wait instead, once, 0 to ten years; with `newJobs` between one job and the next, '
                      'then 0.1 at the least.  None for none.')
    misfire = Attribute("What becomes of the times that came while nothing ran: 'once', one run for all of them; "
                        "'skip', none; a number, a run for each, the latest ones if there are more.")
    newJobs = Bool(title='New jobs', description='Whether it adds a new job at each time instead of running itself.')
    overlap = Bool(title='Overlap', description='With `newJobs`: whether one is added while the last has not ended.')
    active = Bool(title='Active', description='False to have it wait until that is changed; then `reschedule`.')
    scheduledFor = Attribute('The next call in UTC seconds; None as long as the scheduler has not seen the job, while '
                             'a run of it is queued or going on, and when it is not active.')
    calledFor = Attribute('The time, by the schedule, of the run that is queued or going on, or else was the last.')
    history = Attribute('Its last runs, oldest first: a tuple of `job.Run`.')
    lastJob = Attribute('With `newJobs`: the id of the last job that it added; None before.')

    def update(hour=(), minute=(), dayOfMonth=(), month=(), dayOfWeek=(), delay=None, crontab=None, timeZone=None,
               misfire=None):
        """Change the schedule: fields, or a delay, or crontab text as `cron.parseCrontab` takes.

        timeZone -- a name; 'UTC'; None to leave it as it is.
        misfire -- see the attribute; None to leave it as it is.

        Raise `ValueError` for a value out of range, changing nothing.
        The service does not know yet: call `ITaskService.reschedule` afterwards.
        """

    def timeOfNextCall(now):
        """Return the first time after `now` that fits, in UTC seconds; both are floats or ints.

        With a delay that is `now + delay`, or for an interval the next of its beats after `calledFor`, in whole
        microseconds.  None when no time of the next `cron.YEARS` years fits.
        """


class IJobs(Interface):
    """All jobs of a service, by id: a mapping that reads, ordered by id.

    What it gives is a view of what is stored: what is set on it is stored at once, and what others commit is seen with
    the next transaction.  Two views of a job are equal, and not the same object.  Of a job that was removed a view says
    what it has seen last, and raises `errors.UnknownJob` when something is set on it.
    """

    def __getitem__(jobid):
        """Return the `IJob`; raise `errors.UnknownJob`, a KeyError, when there is none."""

    def get(jobid, default=None):
        """Return the `IJob`, or `default`."""

    def __contains__(jobid):
        """Say whether there is such a job."""

    def __len__():
        """Count the jobs."""

    def __iter__():
        """Iterate over the ids, ascending."""

    def keys(min=None, max=None):
        """Iterate over the ids from `min` to `max`, both included, ascending."""

    def values(min=None, max=None):
        """Iterate over the jobs of these ids."""

    def items(min=None, max=None):
        """Iterate over the pairs of id and job."""


class ITaskService(Interface):
    """Takes jobs, knows what became of them, and can have them processed.

    Persistent.  The methods work in the caller's transaction and never commit it: a job exists if and only if the
    transaction that added it was committed.  For `now` they raise `ValueError` if it is no time.
    """

    jobs = Attribute('All jobs: `IJobs`.')
    keys = Attribute('The idempotency keys: `keys.of(jobid)` is the one that a job was added with, or None.')
    taskInterface = Attribute('The interface that its tasks are registered as utilities for: `ITask`.')
    processorFactory = Attribute('The `IProcessorFactory` that `startProcessing` uses; None for the registered one, '
                                 'which is `processor.SimpleProcessor` unless the application registers another.')
    processorArguments = Attribute('A dict of keyword arguments for the factory.')

    def getAvailableTasks():
        """Return a dict of the tasks that jobs can name: name -> `ITask`."""

    def add(task, input=None, startLater=False, now=None, retryPolicy=None, timeLimit=None, key=None, request=None):
        """Add a job and return its id.

        task -- the name of a registered task.
        input -- the task's argument: plain data, or whatever can be pickled, or a `files.File`; nested 200 deep at the
            most.
        startLater -- true to have it wait, in STARTLATER, for `startJob`.
        now -- UTC seconds; default, here and below: the present.
        retryPolicy -- a `retry.RetryPolicy` for this job; default: that of the task.
        timeLimit -- seconds that a run of this job may take, above 0; default: those of the task.
        key -- an idempotency key, a text of 1 to 200 characters: as long as there is a job of the same task that was
            added with it, its id is returned, and nothing is added.
        request -- the id of the HTTP request that asks for this, up to 100 characters, for the job and the log.

        Raise `errors.UnknownTask`, `errors.InvalidInput`, both ValueErrors, `ValueError` that names the argument, or
        `errors.TaskError` when the task itself is not in order, and change nothing.
        """

    def addMany(jobs, now=None, request=None):
        """Add many jobs, all or none; return a list of their ids, in the same order.

        jobs -- a list of dicts with the key task, and maybe input, startLater, retryPolicy, timeLimit, key.

        Raises what `add` raises, and changes nothing then.
        """

    def addBulk(verb, filter, expected, user, now=None):
        """Add a job that does something with all jobs that fit a filter now, a part at a time; return its id.

        verb -- 'cancel', 'retry' or 'remove'; jobs that it cannot be done with are left as they are.
        filter -- a text: see `filters`.
        expected -- about how many jobs these are, for the progress.
        user -- who wants it, a text: it is in the notes of the transactions.

        Its result is a dict: changed, the number of jobs.  Raise `ValueError` for another verb or filter.
        """

    def addCronJob(task, input=None, minute=(), hour=(), dayOfMonth=(), month=(), dayOfWeek=(), delay=None, *,
                   now=None, request=None, **options):
        """Add an `ICronJob` and return its id.

        The fields are those of the job, lists of numbers; an empty one, or None, fits always.  With a delay in seconds
        it runs once, that long after the scheduler first saw it; 0 means at once.
        request -- as for `add`.
        options -- more attributes of `ICronJob`, by name: crontab, timeZone, misfire, newJobs, overlap, active.

        Raises what `add` raises, and `ValueError` for a schedule out of range or without any time.
        """

    def startJob(jobid):
        """Queue a job that waits in STARTLATER.  Return False when it is in another status, else True."""

    def reschedule(jobid, now=None):
        """Have the scheduler look again at a cron or delayed job whose schedule was changed, or made active or not.

        What it missed until now is forgotten.  If a cron job has become a delayed one, a run of it that is queued or
        going on is not wanted any more.

        Raise `errors.UnknownJob`, or `errors.WrongState` when it is neither.
        """

    def updateCronJob(jobid, now=None, **changes):
        """Change some of what the schedule of a cron or delayed job says, and have the scheduler look at it again.

        changes -- attributes of `ICronJob`, by name: minute, hour, dayOfMonth, month, dayOfWeek, delay, crontab,
            timeZone, misfire, newJobs, overlap, active.  The others stay; but fields, a delay and a crontab replace
            each other as a whole.  None is the default of an attribute.

        Raise what `reschedule` raises, and `ValueError` for a schedule out of range or without any time, changing
        nothing.
        """

    def cancel(jobid, now=None):
        """Call a job off, whatever it waits for.  A cancelled job stays so.

        Of a job that is being processed the outcome is thrown away.  One that cannot be loaded ends in ERROR.  Raise
        `errors.UnknownJob`, or `errors.WrongState` when it has ended already.
        """

    def clean(status=FINAL):
        """Remove the jobs in these statuses, any of FINAL.  Raise `ValueError` for another one, removing nothing."""

    def removeJobs(status=FINAL, limit=None, before=None):
        """Remove jobs in these statuses, any of FINAL; return how many.

        status -- one, or a list of them; an empty one is for none.
        limit -- how many at the most, the oldest first, 0 for none; default: all.  Many are best removed in several
            transactions.
        before -- UTC seconds: only those that ended before; default: all.

        Raise `ValueError` for another status, or for what is no such number, removing nothing.
        """

    def retry(jobid):
        """Have a job that ended in ERROR run again, with all its attempts; what went wrong stays on it.

        Raise `errors.UnknownJob`, or `errors.WrongState`.
        """

    def retryFailed(task=None, limit=None, before=None):
        """Do that with all jobs in ERROR, those of one task or of all; return how many.

        task -- the name of a task; default: any.
        limit, before -- as for `removeJobs`.

        Raise `ValueError` for another value.
        """

    def getStatus(jobid):
        """Return the status, one of STATUSES.  Raise `errors.UnknownJob`."""

    def getResult(jobid):
        """Return what the task returned; None as long as it has not.  Raise `errors.UnknownJob`."""

    def getResultPart(jobid, start=0, size=2**20):
        """Return some bytes of a result that is a file, bytes, or text (then in UTF-8), without loading all of it.

        start, size -- in bytes, 0 or more; behind the end there are none.

        Raise `errors.UnknownJob`, `ValueError` for another number, and `files.NoFile` for any other result or none.
        """

    def getError(jobid):
        """Return why the job failed, as text; 'None' when it did not.  Raise `errors.UnknownJob`."""

    def getProgress(jobid):
        """Return what the running task has said of how far it is: a fraction from 0 to 1 or None, and a text.

        None when it has said nothing, and when it does not run.  Raise `errors.UnknownJob`.
        """

    def getJobs(status=None, start=0, size=100):
        """Return a list of jobs, newest first, those in one status or all.

        status -- one of STATUSES; default: any.
        start, size -- how many of the newest to leave out, and how many to return at the most.

        The newest is the one whose end, or, as long as it has not ended, whose addition was last.  One that is queued
        again stands by those that are queued next to it.
        What this costs grows with `start` and `size`, and with the number of jobs that are being processed, but not
        with the number of stored jobs.

        Raise `ValueError` for another status, or a number that is not 0 to 2**31 - 1.
        """

    def countJobs():
        """Return a dict of how many jobs there are in each of STATUSES.

        What this costs grows with the number of jobs that are being processed, and with the length of the queues, which
        are counted by 256 jobs.
        """

    def getStatistics(now=None):
        """Return a dict that says how the service fares.

        counts -- what `countJobs` returns.
        hosts -- what `getProcessingHosts` returns.
        oldestWaiting -- when the job that waits longest was added, or, if it is a scheduled one, should have been run;
            in UTC seconds, None when none waits.  Those that wait for their next attempt do not count.
        throughput -- how many jobs per second were completed or failed for good in the last minute; of each host the
            last thousand are looked at.
        paused -- whether processing is paused.
        """

    def isCancelled(jobid):
        """For the running task: say whether its job has been cancelled, as things are now."""

    def setProgress(jobid, fraction, message=''):
        """For the running task: say how far it is.  Others see that at once, though only once a second.

        fraction -- a number from 0 to 1; None when nobody knows.
        message -- a text, of which 1000 characters are kept.

        Raise `ValueError`.
        """

    def hasJobsWaiting(now=None):
        """Return whether a job is ready to run, or due at `now` (UTC seconds; default: the present).  Write nothing.

        A job that the scheduler has not seen yet counts; one that waits for a host which has its task does not.
        """

    def claimNextJob(now=None):
        """Take the next job out of the queue and return its id, or None.  It is PROCESSING from then on."""

    def processNext(now=None, jobid=None):
        """Run one job in the caller's thread and transaction; return whether there was one.

        now -- UTC seconds; default: the present.
        jobid -- the id of a job that `claimNextJob` gave; default: claim the next one.
        """

    def process(now=None):
        """Run all jobs that are ready or due at `now`, in the caller's thread and transaction."""

    paused = Bool(title='Paused', description='Whether processing is paused, everywhere.')

    def pause():
        """Have all processors of all hosts claim nothing more until `resume`; what is running ends."""

    def resume():
        """Have them go on."""

    def getProcessingHosts(now=None):
        """Return a list of dicts, one for each living processor: where the service is processed.

        name -- of the processing host.
        machine, pid -- where it runs.
        threads -- how many jobs run there at a time; 0 for one that only schedules.
        since -- when it was started, in UTC seconds.
        jobs -- how many jobs it has claimed.
        processing -- whether it takes jobs: it has threads, and the service is not paused.
        scheduling -- whether it is the scheduler.

        A host on another machine counts as living for its lease since it was last heard of, by the clocks.
        """

    def startProcessing():
        """Start the service's processor in a daemon thread of this process.  The service must have been committed."""

    def stopProcessing():
        """Have that thread stop; return at once.  Harmless when none runs."""

    def isProcessing():
        """Say whether this process has a thread that processes this service's jobs."""


class IProcessorFactory(Interface):
    """Makes the processor of a service; registered as a utility, it makes those of all services that name no other."""

    def __call__(db, servicePath, **arguments):
        """Return an `IProcessor` that has not begun.

        db -- the `ZODB.DB`.
        servicePath -- names from the root folder down to the service, as `database.sites.pathOf` gives.
        arguments -- `ITaskService.processorArguments`.
        """


class IProcessor(Interface):
    """Processes the jobs of one service.  Called, it runs until `stop`, usually in a thread of its own."""

    running = Bool(title='Running', description='Set to False to have it stop after the running jobs.')
    waitTime = Float(title='Wait time', description='Seconds between two looks at an idle database that wakes nobody.')

    def __call__():
        """Process jobs until `running` is False.  No exception of a task or of the database ends it."""

    def stop(timeout=None):
        """Have it stop and wait for it, `timeout` seconds at most (default: as long as it takes).

        Claims nothing more; lets the running jobs end; gives the others back.  Return whether it has ended.
        Twice, or before it ran, is fine.
        """

    threads = Attribute('The threads that run jobs, a list.')
    maxThreads = Int(title='Threads at most', description='How many jobs run at a time.', min=0)

    def claimNextJob():
        """Take the next job, commit that, and return its id; None when there is none."""

    def processNext(jobid=None):
        """Process one job, by default the next one; return whether there was one.

        jobid -- what `claimNextJob` gave.
        """

    def hasJobsWaiting():
        """Say whether a job is ready.  Writes nothing."""
