"""Contracts: what tasks, jobs, services and processors promise, and the statuses of a job."""
# SPDX-License-Identifier: ZPL-2.1
from zope.interface import Attribute
from zope.interface import Interface
from zope.schema import Bool
from zope.schema import Float
from zope.schema import Int
from zope.schema import TextLine

# They are part of the contract, and have a module of their own for clients, which need no contracts.
from lovely.remotetask.statuses import CANCELLED as CANCELLED
from lovely.remotetask.statuses import COMPLETED as COMPLETED
from lovely.remotetask.statuses import CRONJOB as CRONJOB
from lovely.remotetask.statuses import DELAYED as DELAYED
from lovely.remotetask.statuses import ERROR as ERROR
from lovely.remotetask.statuses import FINAL as FINAL
from lovely.remotetask.statuses import PROCESSING as PROCESSING
from lovely.remotetask.statuses import QUEUED as QUEUED
from lovely.remotetask.statuses import STARTLATER as STARTLATER
from lovely.remotetask.statuses import STATUSES as STATUSES


class ITask(Interface):
    """A callable that does the work of jobs; registered as a utility, under the name that jobs use."""

    inputSchema = Attribute(
        'An interface whose zope.schema fields describe the input, a dict with the names of the fields as keys. '
        'The plain `zope.interface.Interface` accepts anything.')
    outputSchema = Attribute('The same for what the task returns.')

    # A task may also have these attributes; a missing attribute, or None, means the default.  If one of them is out of
    # range, no job can be added for the task.
    #
    # retryPolicy -- a `retry.RetryPolicy`, or a dict of its fields; default: `retry.DEFAULT`.
    # timeLimit -- seconds that a run may take; default: None, no limit.  When the time is over, the run has failed and
    #     its later writes are refused; a program or a child process is stopped.
    # isolation -- 'thread', the default, or 'process': run in a child process, which has no database, but can be
    #     stopped, and does not affect other jobs when it crashes.
    # memoryLimit -- bytes that the child process may use; default: None, no limit.
    # atMostOnce -- if true, and the host ends during a run, the job ends in ERROR instead of running again.
    # mask -- more names of fields of the input and the result whose values the pages hide: a list of patterns of
    #     `fnmatch`.
    # missing -- a method that returns, as a text, what this host lacks to run the task, or None; the job then waits for
    #     a host that lacks nothing, just as when the task itself is missing.

    def __call__(service, jobid, input):
        """Do the work.

        service -- the `ITaskService` of the job, from the connection of the running thread.
        jobid -- the id of the job, an int.
        input -- a copy of the input given to `ITaskService.add`; the task may change it.

        Return the job's result: plain data, or anything that can be pickled, or a `files.File`.  The task's writes to
        the database are committed together with the job's completion, or not at all.
        Raise `errors.TaskError` to end the job in ERROR at once, or `errors.Retry` to request another run.  After any
        other exception, the retry policy decides; the job ends in ERROR when its attempts are used up.
        """


class ICheckedTask(ITask):
    """A task that checks its input before the job is added, in ways that an input schema cannot."""

    def checkInput(input):
        """Raise `errors.InvalidInput` if the task cannot work with this input."""


class IJob(Interface):
    """One request to run a task: the input, and the outcome."""

    id = Int(title='Id', description='From 1 to 2**31 - 1: an int of XML-RPC.', min=1, max=2**31 - 1)
    task = TextLine(title='Task', description='The name of the task.')
    status = TextLine(title='Status', description='The stored status: one of STATUSES, except PROCESSING.')
    input = Attribute('The argument of the task: plain data, or anything that can be pickled.  A `files.File` becomes '
                      'a `StoredFile`, with `open` and `size`.  A large value is stored in a blob, and read '
                      'from it at each access.')
    output = Attribute('What the task returned, in the same form; None before.')
    schedule = Attribute('The id of the `ICronJob` that added it; None if a caller did.')
    request = Attribute('The id of the HTTP request that added it, a short text; None if there was none.')
    traceparent = Attribute('The trace context, by W3C, of the span that added it; None if none was recorded.')
    error = Attribute('Why it ended in ERROR, as text; or why it waits: no host has its task, or the scheduler cannot '
                      'handle its schedule.  None otherwise.')
    errors = Attribute('The failures of its attempts, oldest first: a tuple of `job.Failure`.')
    failedAttempts = Int(title='Failed attempts', description='How many of its runs have failed since it was added, or '
                         'since the last call of `retry`: 0 when the first run succeeded, 2 when the third one did.')
    created = Float(title='Created', description='When it was added, in UTC seconds.')
    started = Float(title='Started', description='When its last run began, in UTC seconds; None before.',
                    required=False)
    completed = Float(title='Completed', description='When its last run ended, in UTC seconds; None before.',
                      required=False)


class ICronJob(IJob):
    """A job that runs at the times of a calendar, or once after a delay."""

    minute = Attribute('The minutes at which it runs, a tuple of 0..59; empty for any.')
    hour = Attribute('The hours, 0..23.')
    dayOfMonth = Attribute('The days of the month, 1..31.')
    month = Attribute('The months, 1..12.')
    dayOfWeek = Attribute('The days of the week, 0..6; 0 is Monday.')
    eitherDay = Bool(title='Either day', description='Whether a day matches if only one of the two day fields does.')
    crontab = TextLine(title='Crontab', description='The text that the fields were parsed from, or None.',
                       required=False)
    timeZone = TextLine(title='Time zone', description="The time zone of the fields, from the tz database, such as "
                        "'Europe/Berlin'; None for UTC.", required=False)
    delay = Attribute('Instead of fields: seconds to wait once, from 0 to ten years; with `newJobs`, the seconds '
                      'between two jobs, at least 0.1.  None for no delay.')
    misfire = Attribute("What to do about missed times: 'once': one run for all of them; 'skip': no run; a number N: "
                        "one run for each of the latest N.")
    newJobs = Bool(title='New jobs', description='Whether it adds a new job each time instead of running itself.')
    overlap = Bool(title='Overlap', description='With `newJobs`: whether to add a job while the last has not ended.')
    active = Bool(title='Active', description='Whether it runs at its times.  Call `reschedule` after a change.')
    scheduledFor = Attribute('The next time in UTC seconds; None before the scheduler has seen the job, while a run is '
                             'queued or running, and while it is not active.')
    calledFor = Attribute('The scheduled time of the queued or running run, or else of the last one.')
    history = Attribute('Its last runs, oldest first: a tuple of `job.Run`.')
    lastJob = Attribute('With `newJobs`: the id of the last job that it added; None before.')

    def update(hour=(), minute=(), dayOfMonth=(), month=(), dayOfWeek=(), delay=None, crontab=None, timeZone=None,
               misfire=None):
        """Change the schedule: fields, or a delay, or crontab text for `crontab.parseCrontab`.


        timeZone -- a name, such as 'UTC'; None leaves it unchanged.
        misfire -- see the attribute; None leaves it unchanged.

        Call `ITaskService.reschedule` afterwards.
        Raise `ValueError` for a value out of range, changing nothing.
        """

    def timeOfNextCall(now):
        """Return the next time after `now`, in UTC seconds; both are floats or ints.

        With a delay, this is `now + delay`; for an interval, a whole number of intervals after `calledFor`, in whole
        microseconds.  Return None if there is no such time in the next `calendar.YEARS` years.

        """


class IJobs(Interface):
    """All jobs of a service: a read-only mapping, ordered by id.

    Its values are views of stored jobs.  Setting an attribute of a view stores it at once; the next transaction shows
    changes that others committed.  Two views of a job are equal, but not the same object.  The view of a removed job
    has the values that it last read, and raises `errors.UnknownJob` when an attribute is set.
    """

    def __getitem__(jobid):
        """Return the `IJob`.  Raise `errors.UnknownJob`, a KeyError, if there is none."""

    def get(jobid, default=None):
        """Return the `IJob`, or `default`."""

    def __contains__(jobid):
        """Return whether there is such a job."""

    def __len__():
        """Return the number of jobs."""

    def __iter__():
        """Iterate over the ids, ascending."""

    def keys(min=None, max=None):
        """Iterate over the ids from `min` to `max`, both included, ascending."""

    def values(min=None, max=None):
        """Iterate over the jobs of these ids."""

    def items(min=None, max=None):
        """Iterate over the pairs of id and job."""


class ITaskService(Interface):
    """Accepts jobs, stores them and their outcomes, and starts their processing.

    Persistent.  The methods work in the caller's transaction and never commit it: a job exists if and only if the
    transaction that added it was committed.  They raise `ValueError` if `now` is not a time.
    """

    jobs = Attribute('All jobs: `IJobs`.')
    keys = Attribute('The idempotency keys: `keys.of(jobid)` is the key of a job, or None.')
    taskInterface = Attribute('The interface for which its tasks are registered as utilities: `ITask`.')
    ownTasks = Attribute('Tasks that the service brings itself, name -> `ITask`; they come before the registered ones. '
                         'Set it on a service to a mapping that can be stored, or override it in a subclass.')
    processorFactory = Attribute('The `IProcessorFactory` that `startProcessing` uses; None for the registered one, '
                                 'which is `processor.SimpleProcessor` unless the application registers another.')
    processorArguments = Attribute('A dict of keyword arguments for the factory.')

    def getAvailableTasks():
        """Return a dict of the available tasks: name -> `ITask`."""

    def add(task, input=None, startLater=False, now=None, retryPolicy=None, timeLimit=None, key=None, request=None):
        """Add a job and return its id.

        task -- the name of a registered task.
        input -- the task's argument: plain data, or anything that can be pickled, or a `files.File`; nested at most 200
            deep.
        startLater -- if true, the job waits, in STARTLATER, for `startJob`.
        now -- UTC seconds; default, here and below: the present.
        retryPolicy -- a `retry.RetryPolicy` for this job, or a dict of its fields; default: that of the task.
        timeLimit -- seconds that a run of this job may take, above 0; default: the limit of the task.
        key -- an idempotency key, a text of 1 to 200 characters.  As long as a job of the same task with this key
            exists, its id is returned and nothing is added.
        request -- the id of the HTTP request that adds the job, up to 100 characters; stored on the job and logged.

        Raise, changing nothing: `errors.UnknownTask` or `errors.InvalidInput`, both ValueErrors; `ValueError` that
        names the argument; `errors.TaskError` if a setting of the task is wrong.
        """

    def addMany(jobs, now=None, request=None):
        """Add many jobs, all or none; return a list of their ids, in the same order.

        jobs -- a list of dicts with the key task, and optionally input, startLater, retryPolicy, timeLimit, key.

        Raise what `add` raises, changing nothing.
        """

    def countBulk(verb, filter, now=None):
        """Return how many jobs `addBulk` would change, and whether these are all: the newest 20,000 are looked at.

        The arguments are those of `addBulk`.  Raise `ValueError` for another verb or filter.
        """

    def addBulk(verb, filter, expected, user, now=None):
        """Add a job that changes all jobs that fit a filter now, a part at a time; return its id.

        verb -- 'cancel', 'retry' or 'remove'; it skips jobs whose status does not allow that.
        filter -- a text: see `filters`.
        expected -- about how many jobs these are, for the progress.
        user -- the user who asked for it, a text for the notes of the transactions.

        Its result is a dict: changed, the number of jobs.  Raise `ValueError` for another verb, filter or number.
        """

    def addCronJob(task, input=None, minute=(), hour=(), dayOfMonth=(), month=(), dayOfWeek=(), delay=None, *,
                   now=None, request=None, **options):
        """Add an `ICronJob` and return its id.

        The fields are lists of numbers, as in `ICronJob`; an empty field, or None, always matches.  With a delay in
        seconds the job runs once, that long after the scheduler first saw it; 0 means at once.
        request -- as for `add`.
        options -- more attributes of `ICronJob`, by name: crontab, timeZone, misfire, newJobs, overlap, active.

        Raise what `add` raises, and `ValueError` for a schedule that is out of range or has no time at all.
        """

    def startJob(jobid, now=None):
        """Queue a job in STARTLATER and return True; return False for a job in another status."""

    def reschedule(jobid, now=None):
        """Make the scheduler read a cron or delayed job again.  Call it after a change of its schedule or of `active`.

        Times missed until now are forgotten.  If a cron job has become a delayed job, its queued or running run is
        dropped.

        Raise `errors.UnknownJob`, or `errors.WrongState` if it is neither a cron nor a delayed job.
        """

    def updateCronJob(jobid, now=None, **changes):
        """Change the schedule of a cron or delayed job, and make the scheduler read it again.

        changes -- attributes of `ICronJob`, by name: minute, hour, dayOfMonth, month, dayOfWeek, delay, crontab,
            timeZone, misfire, newJobs, overlap, active.  None stands for the default.  Other attributes stay, except
            that fields, a delay and a crontab replace each other as a whole.

        Raise, changing nothing, what `reschedule` raises, and `ValueError` for a schedule that is out of range or has
        no time at all.
        """

    def runNow(jobid, now=None):
        """Run a job at once, although it waits for a time; return the id of the job that runs.

        It is a cron or delayed job, or one that waits for its next attempt.  A schedule goes on as if nothing had
        happened, also one that is not active.  If it adds new jobs, the id is that of the new job.

        Raise `errors.UnknownJob`, or `errors.WrongState` when it is another job, or a run is queued or goes on.
        """

    def cancel(jobid, now=None):
        """Cancel a job that has not ended.  Cancelling it again has no effect.

        The result of a running job is discarded.  A job that cannot be loaded ends in ERROR.

        Raise `errors.UnknownJob`, or `errors.WrongState` if it has ended.
        """

    def clean(status=FINAL):
        """Remove the jobs in these statuses of FINAL.  Raise `ValueError` for another status, removing nothing."""

    def removeJobs(status=FINAL, limit=None, before=None):
        """Remove jobs in these statuses of FINAL; return how many.

        status -- a status, or a list of them; an empty list removes none.
        limit -- the greatest number to remove, the oldest first, 0 for none; default: all.  Remove many jobs in several
            transactions.
        before -- UTC seconds: remove only jobs that ended before; default: all.

        Raise `ValueError` for another status or a wrong number, removing nothing.
        """

    def retry(jobid, now=None):
        """Run a job that ended in ERROR again, with all its attempts.  It keeps its earlier failures.

        Raise `errors.UnknownJob`, or `errors.WrongState`.
        """

    def retryFailed(task=None, limit=None, before=None, now=None):
        """Retry the jobs in ERROR, of one task or of all; return how many.

        task -- the name of a task; default: any.
        limit, before -- as for `removeJobs`.

        Raise `ValueError` for a wrong value.
        """

    def getStatus(jobid):
        """Return the status, one of STATUSES.  Raise `errors.UnknownJob`."""

    def getResult(jobid):
        """Return what the task returned; None before that.  Raise `errors.UnknownJob`."""

    def getResultPart(jobid, start=0, size=2**20):
        """Return a part of a result that is a file, bytes, or text (in UTF-8), without loading the whole result.

        start, size -- in bytes, 0 or more; behind the end the part is empty.

        Raise `errors.UnknownJob`, `ValueError` for a wrong number, and `files.NoFile` if there is no such result.
        """

    def getError(jobid):
        """Return why the job failed, as text; the text 'None' if it did not: see `IJob.error` for None itself.

        Raise `errors.UnknownJob`.
        """

    def getProgress(jobid):
        """Return the progress that the running task reported: a pair of a fraction from 0 to 1, or None, and a text.

        XML-RPC has a struct of both instead.  Return None if the task has reported nothing or is not running.  Raise
        `errors.UnknownJob`.
        """

    def askStack(jobid, now=None):
        """Ask the processing host that runs a job where its run is right now; see `getStack`.

        The caller commits.  Raise `errors.UnknownJob`, and `errors.WrongState` for a job that no processing host has
        claimed.
        """

    def getStack(jobid):
        """Return where the run of a job was when `askStack` was called, a `storage.stacks.Stack`; None if nobody asked.

        It has `asked` and `answered`, UTC seconds, the second one None until the host has answered; and `text`: the
        stack of the thread or child process, or the process and path of a program.  It is kept for a minute.  Raise
        `errors.UnknownJob`.
        """

    def getRun(jobid):
        """Return where and since when a job runs, or where and when it ran last: a `queries.Place`.

        A job that was claimed less than a second ago, or has not begun yet, has no start.  Raise `errors.UnknownJob`.
        """

    def getJobs(status=None, start=0, size=100, task=None, since=None):
        """Return a list of jobs, newest first, in one status or in all.

        status -- one of STATUSES; default: any.
        start, size -- how many of the newest to leave out, and the greatest number to return.
        task -- only jobs of the task of that name; the newest 10,000 jobs are looked at for it.  Default: any.
        since -- UTC seconds: only jobs that ended since then, or, if they have not ended, were added since then.
            Of each queue the newest 10,000 jobs are looked at.

        Jobs that have ended are ordered by their end, and others by the time when they were added.  A job that is
        queued again has its place among the jobs beside it in the queue.
        The cost grows with `start` and `size`, and with the number of jobs being processed, but not with the number of
        stored jobs.

        Raise `ValueError` for another status, or a number that is not from 0 to 2**31 - 1.
        """

    def getSchedules(start=0, size=100, task=None):
        """Return the cron and delayed jobs and how they fare, a list of `queries.Schedule`, the newest first.

        start, size, task -- as for `getJobs`.

        Raise `ValueError` as `getJobs` does.
        """

    def countJobs():
        """Return a dict with the number of jobs in each of STATUSES.

        The cost grows with the number of jobs being processed, and with the length of the queues, in steps of 256 jobs.
        """

    def getStatistics(now=None, window=3600.0):
        """Return a dict of figures for monitoring.

        counts -- what `countJobs` returns.
        hosts -- what `getProcessingHosts` returns.
        oldestWaiting -- since when the longest waiting job could have run: when it was added, or else was due, was
            started by hand, or its next attempt was due; in UTC seconds, None if no job waits.  Jobs that wait for
            their next attempt do not count.
        throughput -- jobs per second that ended in COMPLETED or ERROR in the last minute; the last thousand jobs of
            each host are counted.
        longestRunning -- when the longest run that goes on began, in UTC seconds; None if none has taken a second.
        failures -- jobs that ended in ERROR in the last `window` seconds, and are still there, and runs of cron jobs
            that failed; of these the last day is known, and of each host up to 10,000 are counted.
        failing -- cron jobs whose last run failed, or the last job that they added.
        retrying, stranded -- jobs that wait for their next attempt, and for a host that can run them.
        unclaimable -- a dict: task -> how many of the stranded jobs name it, for each task that no living host takes.
        unscheduled -- jobs that the scheduler cannot handle; it tries them again each minute.
        nextTime -- the next time in the calendar of the scheduler, in UTC seconds; None if there is none.  When it is
            past, no scheduler is at work.
        paused -- whether processing is paused.

        Raise `ValueError` when `window` is no number of seconds above 0.
        """

    def getTaskStatistics():
        """Return a dict: name of a task -> how its runs fared since the service was made, a `tallies.Tally`.

        outcomes -- a dict of numbers: `completed`, `error` and `cancelled` jobs; `retried` runs, which failed and were
            tried again; `lost` claims, whose host was lost.  Each run of a cron job counts as a job.
        run -- how long runs took, also those that failed: a `tallies.Durations`, with `seconds` in all, `count`, `mean`
            and `quantile`.  Lost runs and runs of cancelled jobs are left out.
        wait -- the same for how long these jobs were ready before the run began.
        failureRate -- which part of the jobs ended in an error, from 0 to 1; None if no job has ended.

        The numbers are exact, whatever becomes of hosts, and never decrease; removed jobs stay in them.  A task is
        there from the end of its first run on.  More than 200 tasks of a host are counted together, as `other`, and so
        are jobs that cannot be loaded.
        The cost grows with the number of hosts and of tasks, but not with the number of jobs.
        """

    def isCancelled(jobid):
        """For the running task: return whether its job has been cancelled by now."""

    def setProgress(jobid, fraction, message=''):
        """For the running task: report its progress.  Others see it at once, but at most once per second.

        fraction -- a number from 0 to 1; None if it is unknown.
        message -- a text; the first 1000 characters are kept.

        Raise `ValueError`.
        """

    def hasJobsWaiting(now=None):
        """Return whether a job is ready to run, or due at `now` (UTC seconds; default: the present).  Write nothing.

        A job that the scheduler has not seen yet counts; a job that waits for a host with its task does not.
        """

    def claimNextJob(now=None):
        """Claim the next job and return its id, or None.  The job is then PROCESSING."""

    def processNext(now=None, jobid=None):
        """Run one job in the caller's thread and transaction; return whether there was one.

        now -- UTC seconds; default: the present.
        jobid -- the id that `claimNextJob` returned; default: claim the next job.
        """

    def process(now=None):
        """Run all jobs that are ready or due at `now`, in the caller's thread and transaction."""

    paused = Bool(title='Paused', description='Whether processing is paused on all hosts.')

    def pause():
        """Pause processing on all hosts, until `resume`.  Running jobs go on until they end."""

    def resume():
        """Resume processing on all hosts."""

    def getProcessingHosts(now=None):
        """Return a list of dicts, one for each living processor of the service.

        name -- of the processing host, as in `getRun`.
        machine, pid -- where it runs.
        threads -- how many jobs run there at a time; 0 if it only schedules.
        since -- when it was started, in UTC seconds.
        release -- of this package that it has, a text.
        jobs -- how many jobs it has claimed.
        tasks -- patterns of the names of the tasks that it takes, a list; None if it takes all.
        processing -- whether it takes jobs: it has threads, and the service is not paused.
        scheduling -- whether it is the scheduler.

        A host on another machine counts as living for one lease after its last heartbeat, by the clocks.
        """

    def startProcessing():
        """Start the service's processor in a daemon thread of this process.  The service must have been committed."""

    def stopProcessing():
        """Stop that thread, without waiting for it.  Do nothing if there is none."""

    def isProcessing():
        """Return whether `startProcessing` has started a thread of this process that processes this service's jobs.

        `getProcessingHosts` says whether any host does, in whatever process.  So does `isProcessing` of XML-RPC, of a
        `Client` and of the command line.
        """


class IProcessorFactory(Interface):
    """Makes the processor of a service; registered as a utility, it is used for all services that name no other."""

    def __call__(db, servicePath, **arguments):
        """Return an `IProcessor` that has not begun.

        db -- the `ZODB.DB`.
        servicePath -- names from the root folder down to the service, as `database.sites.pathOf` gives.
        arguments -- `ITaskService.processorArguments`.
        """


class IStartRemoteTasksEvent(Interface):
    """The services that the product configuration names are to be processed by threads of this process.

    Zope sends `IDatabaseOpenedWithRoot`, which does the same; other applications may send this one when they are
    ready: `zope.event.notify(StartRemoteTasksEvent(db))`.
    """

    database = Attribute('The `ZODB.DB`.')


class IProcessor(Interface):
    """Processes the jobs of one service.  A call runs until `stop`, usually in its own thread."""

    running = Bool(title='Running', description='Set it to False to stop after the running jobs.')
    waitTime = Float(title='Wait time', description='Seconds between two polls of an idle database, if it does not '
                     'report commits.')

    def __call__():
        """Process jobs until `running` is False.  No exception of a task or of the database ends it."""

    def stop(timeout=None):
        """Stop: claim no more jobs, let the running jobs end, and release the others.  Return whether it has ended.

        timeout -- the longest time to wait, in seconds; default: no limit.

        It may be called twice, or before the processor ran.
        """

    threads = Attribute('The threads that run jobs, a list.')
    maxThreads = Int(title='Threads at most', description='How many jobs run at a time.', min=0)

    def claimNextJob():
        """Claim the next job, commit the claim, and return its id; return None if there is none."""

    def processNext(jobid=None):
        """Process one job, by default the next one, and return whether there was one.

        jobid -- the id that `claimNextJob` returned.
        """

    def hasJobsWaiting():
        """Return whether a job is ready.  Write nothing."""
