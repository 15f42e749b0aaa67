"""The task service: a few lines for each verb, over the rooms below."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import importlib
import itertools
import math
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any
from typing import NamedTuple

import transaction
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from zope.component import queryUtility
from zope.component.interfaces import ISite
from zope.container.contained import Contained
from zope.interface import implementer
from zope.site import LocalSiteManager
from zope.site.folder import rootFolder

from lovely.remotetask import files
from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import cut
from lovely.remotetask.common.checks import isSpan
from lovely.remotetask.common.checks import isText
from lovely.remotetask.common.checks import isTime
from lovely.remotetask.common.checks import isWhole
from lovely.remotetask.common.checks import shown

# Both are part of the public face of this module: documents and ZCML name them here.
from lovely.remotetask.config.autostart import bootStrapSubscriber  # noqa: F401
from lovely.remotetask.config.autostart import getAutostartServiceNames  # noqa: F401
from lovely.remotetask.database.notifications import hubOf
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import localServices
from lovely.remotetask.database.sites import pathOf
from lovely.remotetask.errors import REASON_SIZE
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.errors import WrongState
from lovely.remotetask.execution import bulk
from lovely.remotetask.execution.control import Control
from lovely.remotetask.execution.control import current
from lovely.remotetask.execution.tasks import checkTask
from lovely.remotetask.execution.tasks import findTasks
from lovely.remotetask.filters import parseFilter
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import PROCESSING
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import STARTLATER
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.interfaces import IProcessorFactory
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.job import CronJob
from lovely.remotetask.job import Job
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.storage import cleanup
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import queries
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.evolve import GENERATION
from lovely.remotetask.storage.index import Keys
from lovely.remotetask.storage.index import Register
from lovely.remotetask.storage.index import partsOf
from lovely.remotetask.storage.queue import ReadyQueue
from lovely.remotetask.storage.shards import BITS
from lovely.remotetask.storage.shards import SHARDS
from lovely.remotetask.storage.shards import Jobs
from lovely.remotetask.storage.shards import Shard
from lovely.remotetask.storage.shards import newId
from lovely.remotetask.storage.timetable import Timetable
from lovely.remotetask.task import checkInput


#: What `startProcessing` has started in this process: (database, oid of the service) -> processor.
_running: dict[Any, Any] = {}
_runningLock = threading.Lock()

#: The ids of a writer's jobs count up from a random start: so they lie side by side, and apart from those of others.
#: They count on when the service is loaded anew.  Connection -> oid of the service -> the next id.
_nextIds: Any = weakref.WeakKeyDictionary()

#: Seconds that `stopProcessing` waits for a thread that has nothing to do any more.
STOP_TIME = 1.0

#: The name of the service that `install` makes.
DEFAULT_SERVICE = 'TaskService'

#: Characters at the most of an idempotency key, and of the id of an HTTP request.
KEY_LENGTH, REQUEST_LENGTH = 200, 100


class NewJob(NamedTuple):
    """A job that is to be added: see `ITaskService.add`."""

    task: str
    input: Any = None
    startLater: bool = False
    retryPolicy: RetryPolicy | None = None
    timeLimit: float | None = None
    key: str | None = None


def newJob(job):
    """Return the `NewJob` for a dict; raise `ValueError`."""
    if not isinstance(job, dict) or 'task' not in job or not job.keys() <= set(NewJob._fields):
        raise ValueError(f'a dict is needed, with the key task, and no others than {", ".join(NewJob._fields)}')
    return NewJob(**job)


@contextlib.contextmanager
def naming(place):
    """Have a refusal of one job of many say which it is; the others of our family name what is wrong themselves."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(error.field, f'{cut(error.reason, REASON_SIZE - 50)} ({place})') from error
    except RemoteTaskError:
        raise
    except ValueError as error:
        raise ValueError(f'{place}: {error}') from error


def present(now):
    """Return `now`, or what the clock says if it is None; in UTC seconds.  Raise `ValueError` for what is no time."""
    if now is None:
        return time.time()
    check('now', now, isTime(now), 'a time in UTC seconds')
    return now


def checkOptions(new):
    """Raise `ValueError` that names what a job cannot be added with, of all but its task and input."""
    check('startLater', new.startLater, isinstance(new.startLater, bool), 'a bool')
    check('retryPolicy', new.retryPolicy, isinstance(new.retryPolicy, (RetryPolicy, type(None))), 'a RetryPolicy')
    check('timeLimit', new.timeLimit, new.timeLimit is None or isSpan(new.timeLimit), 'a number of seconds above 0')
    check('key', new.key, new.key is None or isText(new.key, KEY_LENGTH), f'a text of 1 to {KEY_LENGTH} characters')


def checkRequest(request):
    """Raise `ValueError` when that is no id of an HTTP request; None is for none."""
    check('request', request, request is None or isText(request, REQUEST_LENGTH),
          f'a text of 1 to {REQUEST_LENGTH} characters')


def checkSelection(limit, before):
    """Raise `ValueError` when these do not say which of the jobs that have ended are meant; None is for all."""
    check('limit', limit, limit is None or isWhole(limit, 0, math.inf), 'a number of jobs, 0 or more')
    check('before', before, before is None or isTime(before), 'a time in UTC seconds')


@implementer(ITaskService)
class TaskService(Contained, Persistent):
    """See `ITaskService`."""

    taskInterface = ITask
    processorFactory: Any = None
    processorArguments = {'waitTime': 1.0}
    paused = False
    generation = 1          # of what is stored: the first releases did not say

    _v_nextid = None        # before the service is in a database; see `_nextIds`
    _v_transaction = None   # where the hook of `_wake` has been added last

    def __init__(self):
        self.shards = tuple(Shard() for _ in range(SHARDS))
        self.suspects = ReadyQueue()            # ready, but run where it can be noticed when they end their host
        self.schedule = Timetable()
        self.ledgers = OOBTree()
        self.register = Register()
        self.keys = Keys()
        self.stranded = OOBTree()               # see `ready.strand`
        self.generation = GENERATION

    @property
    def jobs(self) -> Jobs:
        """See `ITaskService`."""
        return Jobs(self.shards)

    def getAvailableTasks(self) -> dict[str, Any]:
        """See `ITaskService`."""
        return findTasks(self)

    # Adding

    def add(self, task: str, input: Any = None, startLater: bool = False, now: float | None = None,
            retryPolicy: RetryPolicy | None = None, timeLimit: float | None = None, key: str | None = None,
            request: str | None = None) -> int:
        """See `ITaskService`."""
        new, now = NewJob(task, input, startLater, retryPolicy, timeLimit, key), present(now)
        checkRequest(request)
        self._checkNew(new, findTasks(self))
        return self._add(new, self._inputOf(new), now, request)

    def addMany(self, jobs: Iterable[dict[str, Any]], now: float | None = None,
                request: str | None = None) -> list[int]:
        """See `ITaskService`."""
        tasks, news, now = findTasks(self), [], present(now)
        checkRequest(request)
        check('jobs', jobs, hasattr(jobs, '__iter__'), 'a list of dicts')
        for number, job in enumerate(jobs):
            with naming(f'jobs[{number}]'):
                new = newJob(job)
                self._checkNew(new, tasks)
            news.append(new)
        inputs = [self._inputOf(new) for new in news]
        return [self._add(new, input, now, request) for new, input in zip(news, inputs)]

    def addBulk(self, verb: str, filter: str, expected: int, user: str, now: float | None = None) -> int:
        """See `ITaskService`."""
        now = present(now)
        check('verb', verb, verb in bulk.VERBS, f'one of {", ".join(bulk.VERBS)}')
        parseFilter(filter, now)
        input = {'verb': verb, 'filter': filter, 'now': now, 'expected': expected, 'user': user}
        return self._add(NewJob(bulk.NAME, input), self._toStore(input), now, None)

    def _checkNew(self, new, tasks):
        self._check(new.task, new.input, tasks)
        checkOptions(new)
        if new.key is not None:
            self.checkGeneration()

    def _jobOf(self, new):
        """Return the id of the job that was added before with the same task and key, or None."""
        if new.key is None:
            return None
        jobid = self.keys.get(new.task, new.key)
        return jobid if jobid is not None and jobid in ready.shardOf(self, jobid).pages else None

    def _inputOf(self, new):
        """Return the input as it is to be stored; nothing when there is such a job already."""
        return self._toStore(new.input) if self._jobOf(new) is None else None

    def _add(self, new, input, now, request):
        """Add a job that has been checked; return its id."""
        jobid = self._jobOf(new)
        if jobid is not None:
            return jobid
        job = Job(self._newId(), new.task, input, now, STARTLATER if new.startLater else QUEUED)
        for name, value in (('retryPolicy', new.retryPolicy), ('timeLimit', new.timeLimit), ('request', request)):
            if value is not None:
                setattr(job, name, value)
        self._store(job)
        if new.key is not None:
            self.keys.put(new.task, new.key, job.id)
        if new.startLater:
            ready.place(self, job)
        else:
            self._enqueue(job)
        return job.id

    def addCronJob(self, task: str, input: Any = None, minute: Iterable[int] = (), hour: Iterable[int] = (),
                   dayOfMonth: Iterable[int] = (), month: Iterable[int] = (), dayOfWeek: Iterable[int] = (),
                   delay: float | None = None, *, now: float | None = None, request: str | None = None,
                   **options: Any) -> int:
        """See `ITaskService`."""
        now = present(now)
        checkRequest(request)
        self._check(task, input, findTasks(self))
        job = CronJob(self._newId(), task, None, minute, hour, dayOfMonth, month, dayOfWeek, delay, now, **options)
        self._checkSchedule(job, now)
        job.input = self._toStore(input)
        if request is not None:
            job.request = request
        self._store(job)
        ready.place(self, job)
        self.schedule.inbox.put(job.id)
        self._wake()
        return job.id

    def _check(self, name, input, tasks):
        if not isinstance(name, str) or name not in tasks:
            raise UnknownTask(name, tasks)
        checkTask(name, tasks[name])
        checkInput(tasks[name], input)

    def _toStore(self, input):
        try:
            return files.toStore(input, self._p_jar)
        except (files.Unreadable, files.NotStorable) as error:
            raise InvalidInput('', str(error)) from error

    def _checkSchedule(self, job, now):
        if job.timeOfNextCall(now) is None:
            raise ValueError('the schedule has no time at all: no month of the given ones has such a day')

    def _newId(self):
        nextIds = {} if self._p_jar is None else _nextIds.setdefault(self._p_jar, {})
        jobid = newId(self.shards, nextIds.get(self._p_oid, self._v_nextid))
        nextIds[self._p_oid] = self._v_nextid = jobid + 1
        return jobid

    def _goElsewhere(self):
        """Have the next job not follow on the last one."""
        self._v_nextid = None
        if self._p_jar is not None:
            _nextIds.get(self._p_jar, {}).pop(self._p_oid, None)

    def _store(self, job):
        job.store(ready.shardOf(self, job.id).pages)
        return job

    def _enqueue(self, job):
        ready.enqueue(self, job)
        self._wake()

    def _wake(self):
        """Wake the processors of this process when the transaction is committed."""
        if self._p_jar is None:
            return
        txn = self._p_jar.transaction_manager.get()
        if self._v_transaction is not txn:
            self._v_transaction = txn
            txn.addAfterCommitHook(self._committed, (hubOf(self._p_jar.db()),))

    def _committed(self, success, hub):
        self._v_transaction = None
        if success:
            hub.ring()
        else:
            self._goElsewhere()             # somebody writes the same places

    def startJob(self, jobid: int) -> bool:
        """See `ITaskService`."""
        job = self.jobs[jobid]
        if job.status != STARTLATER:
            return False
        job.status = QUEUED
        ready.place(self, job)
        self._enqueue(job)
        return True

    def reschedule(self, jobid: int, now: float | None = None) -> None:
        """See `ITaskService`."""
        job = self._scheduled(jobid, 'reschedule')
        self._checkSchedule(job, present(now))
        job.due = None
        if job.pending and job.status == DELAYED:
            # It was a cron job, of which a run is queued or going on: that is not what is wanted now.
            ready.dequeue(self, jobid)
            job.pending = False
            job.run += 1
        if not job.pending:
            job.calledFor = None        # what the old schedule missed, or the new one would have, is past
        ready.place(self, job)
        self.schedule.inbox.put(jobid)
        self._wake()

    def updateCronJob(self, jobid: int, now: float | None = None, **changes: Any) -> None:
        """See `ITaskService`."""
        job = self._scheduled(jobid, 'change')
        changed = job.changed(**changes)
        self._checkSchedule(changed, present(now))
        job.adopt(changed)
        self.reschedule(jobid, now)

    def _scheduled(self, jobid, action):
        job = self.jobs[jobid]
        if job.status not in (CRONJOB, DELAYED):
            raise WrongState(jobid, self.getStatus(jobid), action)
        return job

    # Ending

    def cancel(self, jobid: int, now: float | None = None) -> None:
        """See `ITaskService`."""
        job, now = self.jobs[jobid], present(now)
        if job.status == CANCELLED or isinstance(job, BrokenJob) and transitions.endBroken(self, job, now):
            return
        if job.status in FINAL:
            raise WrongState(jobid, job.status, 'cancel')
        shard = ready.shardOf(self, jobid)
        waited = bool(partsOf(job))
        ready.dequeue(self, jobid)
        shard.ledger.release(jobid)
        job.status, job.due = CANCELLED, None
        transitions.finish(job, shard.ledger, CANCELLED, now)
        if waited:
            ready.place(self, job)

    def clean(self, status: Iterable[str] = FINAL) -> None:
        """See `ITaskService`."""
        self.removeJobs(status)

    def removeJobs(self, status: Iterable[str] = FINAL, limit: int | None = None, before: float | None = None) -> int:
        """See `ITaskService`."""
        check('status', status, hasattr(status, '__iter__'), 'a list of statuses')
        status = [status] if isinstance(status, str) else list(status)
        for one in status:
            if one not in FINAL:
                raise ValueError(f'status: only jobs that are {", ".join(FINAL)} can be removed, not {shown(one)}')
        checkSelection(limit, before)
        limit = sys.maxsize if limit is None else min(limit, sys.maxsize)
        return cleanup.clean(self, set(status), limit, before)

    def retry(self, jobid: int) -> None:
        """See `ITaskService`."""
        job = self.jobs[jobid]
        if job.status != ERROR or isinstance(job, BrokenJob):
            raise WrongState(jobid, self.getStatus(jobid), 'retry')
        cleanup.reopen(self, job)
        self._wake()

    def retryFailed(self, task: str | None = None, limit: int | None = None, before: float | None = None) -> int:
        """See `ITaskService`."""
        check('task', task, isinstance(task, (str, type(None))), 'the name of a task')
        checkSelection(limit, before)
        count = 0
        for job in itertools.islice(cleanup.failed(self, task, before), limit and min(limit, sys.maxsize)):
            cleanup.reopen(self, job)
            count += 1
        if count:
            self._wake()
        return count

    # Asking

    def getStatus(self, jobid: int) -> str:
        """See `ITaskService`."""
        job = self.jobs[jobid]
        if job.status == QUEUED and transitions.claimed(self, job):
            return PROCESSING
        return job.status

    def getResult(self, jobid: int) -> Any:
        """See `ITaskService`."""
        return self.jobs[jobid].output

    def getResultPart(self, jobid: int, start: int = 0, size: int = files.CHUNK) -> bytes:
        """See `ITaskService`."""
        for name, value in (('start', start), ('size', size)):
            check(name, value, isWhole(value, 0, sys.maxsize), 'a number of bytes, 0 or more')
        part = files.part(self.jobs[jobid].stored('output'), start, size)
        if part is None:
            raise files.NoFile(jobid, self.getStatus(jobid))
        return part

    def getError(self, jobid: int) -> str:
        """See `ITaskService`."""
        return str(self.jobs[jobid].error)

    def getProgress(self, jobid: int) -> tuple[float | None, str] | None:
        """See `ITaskService`."""
        self.jobs[jobid]
        return transitions.progress(self, jobid)

    def hasJobsWaiting(self, now: float | None = None) -> bool:
        """See `ITaskService`."""
        return ready.isWaiting(self) or scheduling.isDue(self, present(now))

    def getJobs(self, status: str | None = None, start: int = 0, size: int = 100) -> list[Any]:
        """See `ITaskService`."""
        if status is not None and status not in STATUSES:
            raise ValueError(f'status: {shown(status)} is none of {", ".join(STATUSES)}')
        for name, value in (('start', start), ('size', size)):
            check(name, value, isWhole(value, 0, (SHARDS << BITS) - 1), f'a number from 0 to {(SHARDS << BITS) - 1}')
        self.checkGeneration()
        return queries.listed(self, status, start, size)

    def countJobs(self) -> dict[str, int]:
        """See `ITaskService`."""
        self.checkGeneration()
        return queries.counts(self)

    def getStatistics(self, now: float | None = None) -> dict[str, Any]:
        """See `ITaskService`."""
        self.checkGeneration()
        return queries.statistics(self, present(now))

    def checkGeneration(self):
        """Raise `RemoteTaskError` when the data is that of another release."""
        if self.generation != GENERATION:
            raise RemoteTaskError('the data of the service is that of another release: see '
                                  'lovely.remotetask.storage.evolve')

    # For tasks that are running

    def isCancelled(self, jobid: int) -> bool:
        """See `ITaskService`."""
        control = current()
        if control is not None and control.jobid == jobid:
            control.watched = True
            if control.reason is not None:
                return True
        if self._p_jar is None or self._p_oid is None:
            return self.jobs[jobid].status == CANCELLED
        # As things are now: the transaction of the task sees them as they were at its beginning.
        with self._p_jar.db().transaction() as connection:
            return connection.get(self._p_oid).jobs[jobid].status == CANCELLED

    def setProgress(self, jobid: int, fraction: float | None, message: str = '') -> None:
        """See `ITaskService`."""
        control = current()
        if control is not None and control.jobid == jobid:
            control.report(fraction, message)
        else:
            control = Control(jobid)
            control.report(fraction, message)
            reported: Any = control.progress
            transitions.setProgress(self, jobid, *reported)

    # Processing in the caller's thread

    def claimNextJob(self, now: float | None = None) -> int | None:
        """See `ITaskService`."""
        from lovely.remotetask.execution.inline import claimNext
        claim = claimNext(self, present(now))
        return claim and claim.jobid

    def processNext(self, now: float | None = None, jobid: int | None = None) -> bool:
        """See `ITaskService`."""
        # A process that only adds jobs loads nothing that runs them.
        from lovely.remotetask.execution.inline import processNext
        return processNext(self, present(now), jobid)

    def process(self, now: float | None = None) -> None:
        """See `ITaskService`."""
        while self.processNext(now):
            pass

    # Processing by hosts

    def pause(self) -> None:
        """See `ITaskService`."""
        if not self.paused:
            self.paused = True
            self._wake()

    def resume(self) -> None:
        """See `ITaskService`."""
        if self.paused:
            self.paused = False
            self._wake()

    def getProcessingHosts(self, now: float | None = None) -> list[Any]:
        """See `ITaskService`."""
        return hosts.livingHosts(self, present(now))

    # Processing in a thread

    def startProcessing(self) -> None:
        """See `ITaskService`."""
        if self._p_jar is None or self._p_oid is None:
            raise RemoteTaskError('the service must be committed to a database before it can be processed')
        db = self._p_jar.db()
        with _runningLock:
            before = _running.get((db, self._p_oid))
            if before is not None and before.running:
                return
            factory = self.processorFactory or queryUtility(IProcessorFactory) or _defaultFactory()
            processor = factory(db, pathOf(self), **self.processorArguments)
            processor.start()
            _running[db, self._p_oid] = processor

    def stopProcessing(self) -> None:
        """See `ITaskService`."""
        if self._p_jar is None:
            return
        with _runningLock:
            processor = _running.pop((self._p_jar.db(), self._p_oid), None)
        if processor is not None:
            processor.stop(wait=STOP_TIME)

    def isProcessing(self) -> bool:
        """See `ITaskService`."""
        if self._p_jar is None:
            return False
        processor = _running.get((self._p_jar.db(), self._p_oid))
        return processor is not None and processor.running


def _defaultFactory():
    """Return what makes processors where no ZCML has been read, which registers it: threads are not loaded before."""
    return importlib.import_module('lovely.remotetask.processor').SimpleProcessor


def install(db):
    """Make the root folder, its site manager and the default service, whatever of these is missing in the `ZODB.DB`."""
    manager = transaction.TransactionManager(explicit=True)
    for attempt in manager.attempts(10):        # other processes of a new deployment may do the same now
        with attempt, contextlib.closing(db.open(manager)) as connection:
            root = connection.root()
            if ROOT_NAME not in root:
                root[ROOT_NAME] = rootFolder()
            folder = root[ROOT_NAME]
            if not ISite.providedBy(folder):
                folder.setSiteManager(LocalSiteManager(folder))
            if not localServices(folder):
                service = folder[DEFAULT_SERVICE] = TaskService()
                for name in ('', DEFAULT_SERVICE):
                    folder.getSiteManager().registerUtility(service, ITaskService, name)
            manager.commit()
            manager.begin()
