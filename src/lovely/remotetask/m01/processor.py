"""The remote processor: stored factories, jobs by name, and scheduler items, over two task services."""
# SPDX-License-Identifier: ZPL-2.1
import datetime
import logging
import os
from collections.abc import Mapping
from types import MappingProxyType

from BTrees.OOBTree import OOBTree
from persistent import Persistent
from ZODB.broken import Broken
from zope.container.contained import Contained
from zope.interface import Interface
from zope.interface import implementer

from lovely.remotetask.common.checks import check
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.notifications import announceServices
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.errors import WrongState
from lovely.remotetask.execution.inline import claimNext
from lovely.remotetask.execution.inline import processAll
from lovely.remotetask.execution.messages import messageOf
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import PROCESSING
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.m01.interfaces import IJob
from lovely.remotetask.m01.interfaces import IRemoteProcessor
from lovely.remotetask.m01.job import UTC
from lovely.remotetask.m01.job import FactoryTask
from lovely.remotetask.m01.job import Job
from lovely.remotetask.m01.job import JobFailed
from lovely.remotetask.m01.job import secondsOf
from lovely.remotetask.m01.job import timeOf
from lovely.remotetask.m01.scheduler import SchedulerItems
from lovely.remotetask.m01.worker import SchedulerWorker
from lovely.remotetask.m01.worker import SimpleJobWorker
from lovely.remotetask.m01.worker import namesOf
from lovely.remotetask.m01.worker import start
from lovely.remotetask.m01.worker import startedAt
from lovely.remotetask.m01.worker import stop
from lovely.remotetask.options import whatIsWrong
from lovely.remotetask.retry import MOST_ATTEMPTS
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.schedules.fields import LONGEST
from lovely.remotetask.service import TaskService


log = logging.getLogger('m01.remote')


@implementer(ITask)
class ScheduleTask:
    """Adds the jobs of all scheduler items that are due."""

    inputSchema = outputSchema = Interface
    retryPolicy = RetryPolicy(attempts=MOST_ATTEMPTS, base=1, cap=60)

    def __call__(self, service, jobid, input):
        """See `ITask`."""
        service._waking = None          # it is the job that is running now
        processor, callTime = service.__parent__, _present(None)
        processor.scheduler.lookAgain(callTime)
        while processor.scheduleNextJob(callTime) is not None:          # each item once: this is one transaction
            pass
        service.arrange()


class FactoryService(TaskService):
    """Has the jobs of a remote processor, its `__parent__`; its own tasks are the factories of that."""

    @property
    def ownTasks(self):
        """See `ITaskService`."""
        return FactoryTasks(self.__parent__._jobFactories)


class ScheduleService(TaskService):
    """Wakes the scheduler of a remote processor, its `__parent__`: by one delayed job, due when the next item is."""

    ownTasks = MappingProxyType({'schedule': ScheduleTask()})

    _waking = None          # the id of that job

    def arrange(self):
        """Make the job due when the next item is.  Call this when that may have changed."""
        nextTime = self.__parent__._scheduler.nextTime()
        if nextTime is None:
            return
        delay = min(max(0.0, (nextTime - _present(None)).total_seconds()), LONGEST)
        job = None if self._waking is None else self.jobs.get(self._waking)
        if job is not None and job.status == DELAYED and not isinstance(job, BrokenJob):
            self.updateCronJob(job.id, delay=delay)
        else:
            self.removeJobs()
            self._waking = self.addCronJob('schedule', delay=delay)


class FactoryTasks(Mapping):
    """The factories, as tasks: name -> `FactoryTask`."""

    def __init__(self, factories):
        self._factories = factories

    def __getitem__(self, name):
        return FactoryTask(self._factories[name])

    def __iter__(self):
        return iter(self._factories)

    def __len__(self):
        return len(self._factories)


class Jobs(Mapping):
    """The jobs of a remote processor: id, a text -> job."""

    def __init__(self, processor):
        self._processor = processor

    def __getitem__(self, jobid):
        service = self._processor.service
        record = service.jobs[self._processor._number(jobid)]
        return self._processor._factoryOf(record).bound(service, record, record.input)

    def __iter__(self):
        return map(str, self._processor.service.jobs)

    def __len__(self):
        return len(self._processor.service.jobs)


@implementer(IRemoteProcessor)
class RemoteProcessor(Persistent, Contained):
    """See `IRemoteProcessor`."""

    jobClass = Job
    jobWorkerFactory = SimpleJobWorker
    jobWorkerArguments = {'jobQuery': None, 'waitTime': 1.0, 'maxThreads': os.cpu_count() or 1}
    schedulerWorkerFactory = SchedulerWorker
    schedulerWorkerArguments = {'waitTime': 1.0}

    def __init__(self):
        self._jobFactories = OOBTree()
        self._scheduler = SchedulerItems()
        self._scheduler.__parent__ = self
        self.service, self.schedules = FactoryService(), ScheduleService()
        self.service.__parent__, self.service.__name__ = self, 'service'
        self.schedules.__parent__, self.schedules.__name__ = self, 'schedules'

    def __getitem__(self, name):
        """Return one of the two services, for whoever comes by its path."""
        if name in ('service', 'schedules'):
            return getattr(self, name)
        raise KeyError(name)

    def __delitem__(self, name):
        """Take the remote processor out of its folder: without its services it is of no use."""
        if name not in ('service', 'schedules'):
            raise KeyError(name)
        del self.__parent__[self.__name__]

    def __repr__(self):
        return f'<{type(self).__name__} {self.__name__!r}>'

    @property
    def _jobs(self):
        return Jobs(self)

    jobs = _jobs
    jobFactories = property(lambda self: self._jobFactories)
    scheduler = property(lambda self: self._scheduler)

    # Jobs

    def addJobFactory(self, name, job):
        """See `IRemoteProcessor`."""
        check('name', name, isinstance(name, str) and name != '', 'a name')
        check('job', job, IJob.providedBy(job), 'a job: an instance of a class of jobs')
        if wrong := whatIsWrong(FactoryTask(job)):
            raise ValueError(f'job: it could not be run: {wrong}')
        job.jobName = name
        self._jobFactories[name] = job

    def getJobFactory(self, name):
        """See `IRemoteProcessor`."""
        return self._jobFactories.get(name)

    def _factoryOf(self, record):
        """Return the factory of a job, or what stands for one that was removed, or whose class is missing here."""
        found = self._jobFactories.get(record.task)
        if found is None or isinstance(found, Broken):
            found = self.jobClass()
            found.jobName = record.task
        return found

    def addJob(self, name, input=None):
        """See `IRemoteProcessor`."""
        return self._addJob(name, input)

    def _addJob(self, name, input):
        factory = self._jobFactories.get(name) if isinstance(name, str) else None
        if factory is None:
            raise UnknownTask(name, self._jobFactories)
        if missing := FactoryTask(factory).missing():
            raise TaskError(f'the factory {name!r} cannot be loaded: this process lacks {missing}')
        return str(self.service.add(name, factory.input if input is None else input))

    def _number(self, jobid):
        """Return the service's own id."""
        try:
            return int(jobid)
        except (TypeError, ValueError):
            raise UnknownJob(jobid) from None

    def getJobStatus(self, jobid):
        """See `IRemoteProcessor`."""
        return self.service.getStatus(self._number(jobid))

    def getJobResult(self, jobid):
        """See `IRemoteProcessor`."""
        return self.service.getResult(self._number(jobid))

    def getJobErrors(self, jobid):
        """See `IRemoteProcessor`."""
        return self._jobs[jobid].errors

    def cancelJob(self, jobid):
        """See `IRemoteProcessor`."""
        try:
            self.service.cancel(self._number(jobid))
        except (UnknownJob, WrongState):
            pass

    def removeJobs(self, stati=None):
        """See `IRemoteProcessor`."""
        stati = FINAL if stati is None else (stati,) if isinstance(stati, str) else tuple(stati)
        for status in stati:
            if status not in FINAL:
                raise ValueError(f'only jobs that are {", ".join(FINAL)} can be removed, not {status!r}')
        counts = {status: self.service.removeJobs([status]) for status in sorted(set(stati))}
        return {status: count for status, count in counts.items() if count}

    # Processing by hand

    def pullNextJob(self, jobQuery=None, callTime=None):
        """See `IRemoteProcessor`."""
        claim = claimNext(self.service, secondsOf(_present(callTime)), tasks=namesOf(jobQuery))
        return None if claim is None else self._jobs[str(claim.jobid)]

    def processNextJob(self, jobQuery=None, callTime=None):
        """See `IRemoteProcessor`."""
        job = self.pullNextJob(jobQuery, callTime)
        if job is None:
            return False
        self._process(job.id, callTime)
        job = self._jobs[job.id]
        if job.status == QUEUED and job.errors:
            raise JobFailed(job.errors[-1])
        return True

    def processJob(self, jobid, callTime=None):
        """See `IRemoteProcessor`."""
        status = self.getJobStatus(jobid)
        if status != PROCESSING:
            raise TypeError(f'job {jobid} is {status}: only one that pullNextJob has given can be processed')
        self._process(jobid, callTime)

    def _process(self, jobid, callTime):
        self.service.processNext(secondsOf(_present(callTime)), self._number(jobid))

    def processJobs(self, jobQuery=None, callTime=None):
        """See `IRemoteProcessor`."""
        processAll(self.service, secondsOf(_present(callTime)), namesOf(jobQuery))

    # Scheduling by hand

    def addScheduler(self, item):
        """See `IRemoteProcessor`."""
        name = self._scheduler.add(item)
        self.schedules.arrange()
        return name

    def scheduleNextJob(self, callTime=None):
        """See `IRemoteProcessor`."""
        callTime = _present(callTime)
        while (item := self._scheduler.pullNextSchedulerItem(callTime)) is not None:
            try:
                return self._addJob(item.jobName, item.input)
            except Exception as error:          # the others are not to wait for this one
                if isDatabaseError(error):
                    raise
                log.error('%r adds no job: %s', item, error if isinstance(error, ValueError) else messageOf(error))
        return None

    def reScheduleItem(self, item, callTime=None):
        """See `IRemoteProcessor`."""
        item.schedule(_present(callTime))
        self.schedules.arrange()

    def reScheduleItems(self, callTime=None):
        """See `IRemoteProcessor`."""
        callTime = _present(callTime)
        for item in self._scheduler.loaded():
            item.schedule(callTime)
        self.schedules.arrange()

    # In threads

    @property
    def workerName(self):
        """The name of the worker's thread."""
        return f'{self.__name__ or "root"}-worker'

    @property
    def schedulerName(self):
        """The name of the scheduler's thread."""
        return f'{self.__name__ or "root"}-scheduler'

    @property
    def isProcessing(self):
        """See `IRemoteProcessor`."""
        return self.processorStartTime is not None

    @property
    def isScheduling(self):
        """See `IRemoteProcessor`."""
        return self.schedulerStartTime is not None

    @property
    def processorStartTime(self):
        """See `IRemoteProcessor`."""
        return startedAt(self, 'worker')

    @property
    def schedulerStartTime(self):
        """See `IRemoteProcessor`."""
        return startedAt(self, 'scheduler')

    def startProcessor(self):
        """See `IRemoteProcessor`."""
        start(self, 'worker', self.workerName, self.jobWorkerFactory, self.jobWorkerArguments)

    def stopProcessor(self):
        """See `IRemoteProcessor`."""
        stop(self, 'worker', self.workerName)

    def startScheduler(self):
        """See `IRemoteProcessor`."""
        start(self, 'scheduler', self.schedulerName, self.schedulerWorkerFactory, self.schedulerWorkerArguments)

    def stopScheduler(self):
        """See `IRemoteProcessor`."""
        stop(self, 'scheduler', self.schedulerName)


def _present(callTime):
    """Return a `datetime`; `callTime` may be one, or UTC seconds, or None for the present."""
    if isinstance(callTime, (int, float)):
        return timeOf(callTime)
    secondsOf(callTime)                     # raises `ValueError` for what is no time
    return datetime.datetime.now(UTC) if callTime is None else callTime


def addProcessor(site, name, processor):
    """Put a remote processor into a site, and register its service there by the same name.

    So the front end, the command line and the processing hosts find it as they find any service.
    `application.removeService` removes it.

    site -- a folder that is a site.

    Raise, with nothing changed, `ValueError` for what is no remote processor, and what the folder raises for the name.
    """
    check('processor', processor, IRemoteProcessor.providedBy(processor), 'a remote processor')
    site[name] = processor
    site.getSiteManager().registerUtility(processor.service, ITaskService, name)
    announceServices(site._p_jar)
