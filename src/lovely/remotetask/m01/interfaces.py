"""The contracts of a remote processor, its jobs and its scheduler items."""
# SPDX-License-Identifier: ZPL-2.1
from zope.interface import Attribute
from zope.interface import Interface
from zope.schema import Bool
from zope.schema import Datetime
from zope.schema import Float
from zope.schema import Int
from zope.schema import List
from zope.schema import Text
from zope.schema import TextLine


class IJob(Interface):
    """A job.  A factory is a job as well: the prototype that is registered by a name.

    The attributes after `retryDelay` are only on jobs that were added, and read-only, except `retryTime`.  All times
    are `datetime` objects with the time zone UTC, or None as long as there is none.
    """

    jobName = Attribute('The name of its factory; None before it is registered.')
    input = Attribute('The input; that of the factory is the default.')
    maxRetries = Int(title='Runs', description='How many runs a job has that fails with any exception.', min=1)
    retryDelay = Int(title='Retry delay', description='Seconds between two runs.', min=0)
    id = Attribute('A text.')
    status = Attribute('One of queued, processing, cancelled, completed, error.')
    output = Attribute('What `__call__` has returned.')
    errors = Attribute('A list of `JobError`, one for each run that failed.')
    retryCounter = Attribute('How many runs have failed.')
    retryTime = Attribute('When it is due again after a failure; can be set, None stands for at once.')
    created = Attribute('When it was added.')
    queued = Attribute('The same.')
    started = Attribute('When its last run has begun, known when that has ended.')
    completed = Attribute('When it has ended with success.')

    def __call__(remoteProcessor):
        """Do the work, and return the output.

        Raise `RemoteException` to end the job in error; after any other exception it is run again.
        """


class ISchedulerItem(Interface):
    """Says when a job is to be added.  All times are `datetime` objects with the time zone UTC."""

    jobName = TextLine(title='Job name', description='The name of the factory.')
    title = TextLine(title='Title', required=False)
    description = Text(title='Description', required=False)
    input = Attribute('The input of the jobs; None for that of the factory.')
    active = Bool(title='Active', default=False)
    retryDelay = Int(title='Retry delay', description='Seconds before it is pulled again at the earliest.', min=0,
                     default=300)
    nextCallTime = Datetime(title='Next call', required=False)
    retryTime = Datetime(title='Not before', required=False)

    def getNextCallTime(callTime):
        """Return the stored time of the next call, or None; when that has come at `callTime`, store the one after it.

        An item that is not active has none.
        """


class IDelay(ISchedulerItem):
    """An item that comes again and again."""

    delay = Float(title='Delay', description='Seconds between two calls; 0 for none.', min=0.0, default=0.0)


class ICron(ISchedulerItem):
    """An item of the calendar, in UTC.  All lists that are not empty must fit."""

    minute = List(title='Minutes', value_type=Int(min=0, max=59))
    hour = List(title='Hours', value_type=Int(min=0, max=23))
    dayOfMonth = List(title='Days of the month', value_type=Int(min=1, max=31))
    month = List(title='Months', value_type=Int(min=1, max=12))
    dayOfWeek = List(title='Days of the week', description='Monday is 0.', value_type=Int(min=0, max=6))


class ISchedulerItems(Interface):
    """The scheduler items of a remote processor, a mapping: name -> `ISchedulerItem`."""

    def add(item):
        """Add an item, have it scheduled, and return its name.

        Raise `ValueError` for what is no item, or belongs to a remote processor already.
        """

    def remove(name):
        """Remove an item; raise `KeyError` when there is none of that name."""

    def pullNextSchedulerItem(callTime):
        """Return the item that has waited for the longest time, and note that it was pulled; None when none is due."""


class IRemoteProcessor(Interface):
    """Adds jobs by the names of stored factories, and has them processed and scheduled.

    The methods work in the caller's transaction and never commit it.  Ids are texts; `KeyError` is raised for an
    id of no job.  `callTime` is a `datetime` with a time zone; default: the present.
    """

    service = Attribute('The `ITaskService` that has the jobs.')
    jobs = Attribute('The jobs, a mapping: id -> `IJob`.')
    jobFactories = Attribute('The factories, a mapping: name -> `IJob`.')
    scheduler = Attribute('The `ISchedulerItems`.')

    def addJobFactory(name, job):
        """Register a job as the factory of that name; it replaces the one before.

        Raise `ValueError` for what is no name, no job, or a job that could not be run.
        """

    def getJobFactory(name):
        """Return the factory, or None."""

    def addJob(name, input=None):
        """Add a job, and return its id.

        Raise `ValueError` when there is no such factory, `errors.TaskError` when its class is missing here.
        """

    def getJobStatus(jobid):
        """Return the status."""

    def getJobResult(jobid):
        """Return the output; None before the job is completed."""

    def getJobErrors(jobid):
        """Return the list of the job's `JobError`s."""

    def cancelJob(jobid):
        """Cancel a job that has not ended.  Nothing happens for one that has, or for an id of no job."""

    def removeJobs(stati=None):
        """Remove jobs that have ended; return status -> how many, of those that there were.

        stati -- a status or a list of them, of cancelled, error, completed; default: all of these.

        Raise `ValueError` for any other, and remove nothing.
        """

    def pullNextJob(jobQuery=None, callTime=None):
        """Claim the next job that is due, and return it, or None.

        jobQuery -- {'jobName': name or list of names} for jobs of these only.
        """

    def processNextJob(jobQuery=None, callTime=None):
        """Process the next job; return whether there was one.

        Raise `JobFailed` when it has failed and will be run again.  The failure is on the job then: commit the
        transaction.
        """

    def processJob(jobid, callTime=None):
        """Process a job that `pullNextJob` has given; raise `TypeError` for one in another status."""

    def processJobs(jobQuery=None, callTime=None):
        """Process jobs until none is due; failures are on record only."""

    def addScheduler(item):
        """Add a scheduler item, and return its name."""

    def scheduleNextJob(callTime=None):
        """Add the job of the next item that is due; return its id, or None."""

    def reScheduleItem(item, callTime=None):
        """Forget when the item comes next, and compute it anew."""

    def reScheduleItems(callTime=None):
        """Do that for all items."""

    isProcessing = Attribute('Whether the worker runs in this process.')
    isScheduling = Attribute('Whether the scheduler runs in this process.')
    processorStartTime = Attribute('When the worker of this process was started; None when it is not running.')
    schedulerStartTime = Attribute('When the scheduler of this process was started; None when it is not running.')
    jobWorkerFactory = Attribute('Makes the worker: `SimpleJobWorker` or `MultiJobWorker`.')
    jobWorkerArguments = Attribute('A dict of keyword arguments for it.')
    schedulerWorkerFactory = Attribute('Makes the scheduler.')
    schedulerWorkerArguments = Attribute('A dict of keyword arguments for it.')

    def startProcessor():
        """Start the worker, in threads of this process.  Nothing happens when it runs."""

    def stopProcessor():
        """Stop it."""

    def startScheduler():
        """Start the scheduler, in threads of this process.  Nothing happens when it runs."""

    def stopScheduler():
        """Stop it."""
