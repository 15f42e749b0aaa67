"""The task service: a few lines for each verb, over the packages below."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import importlib
import itertools
import random
import sys
import time
import weakref
from collections.abc import Iterable
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

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
from lovely.remotetask.common import tracing
from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import isSpan
from lovely.remotetask.common.checks import isTime
from lovely.remotetask.common.checks import isWhole
from lovely.remotetask.common.checks import shown
from lovely.remotetask.common.release import release

# These are part of the public face of this module: documents and ZCML name them here.
from lovely.remotetask.config.autostart import getAutostartServiceNames  # noqa: F401
from lovely.remotetask.config.bootstrap import StartRemoteTasksEvent  # noqa: F401
from lovely.remotetask.config.bootstrap import bootStrapSubscriber  # noqa: F401
from lovely.remotetask.database import notes
from lovely.remotetask.database import storedfiles
from lovely.remotetask.database.notifications import announceServices
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import checkedRoot
from lovely.remotetask.database.sites import pathOf
from lovely.remotetask.database.transactions import transact
from lovely.remotetask.database.zopeapp import Item
from lovely.remotetask.database.zopeapp import isApplication
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import WrongGeneration
from lovely.remotetask.errors import WrongState
from lovely.remotetask.execution import bulk
from lovely.remotetask.execution import started
from lovely.remotetask.execution.control import Control
from lovely.remotetask.execution.control import current
from lovely.remotetask.execution.rescue import rescue
from lovely.remotetask.execution.tasks import AddableTasks
from lovely.remotetask.execution.tasks import checkJob
from lovely.remotetask.execution.tasks import findTasks
from lovely.remotetask.execution.tasks import takes
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
from lovely.remotetask.storage import generations
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import queries
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import stacks
from lovely.remotetask.storage import tallies
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.arguments import NewJob
from lovely.remotetask.storage.arguments import checkedOptions
from lovely.remotetask.storage.arguments import checkRange
from lovely.remotetask.storage.arguments import checkRequest
from lovely.remotetask.storage.arguments import checkSelection
from lovely.remotetask.storage.arguments import naming
from lovely.remotetask.storage.arguments import newJob
from lovely.remotetask.storage.arguments import present
from lovely.remotetask.storage.index import Hosts
from lovely.remotetask.storage.index import Keys
from lovely.remotetask.storage.index import StatusIndex
from lovely.remotetask.storage.index import partsOf
from lovely.remotetask.storage.queue import ReadyQueue
from lovely.remotetask.storage.shards import SHARDS
from lovely.remotetask.storage.shards import Jobs
from lovely.remotetask.storage.shards import Shard
from lovely.remotetask.storage.shards import newId
from lovely.remotetask.storage.timetable import Timetable


#: The ids that one writer gives count up from a random start: so they are close together, and far from those of
#: others.  They count on when the service is loaded anew.  Connection -> oid of the service -> the next id.
_nextIds: Any = weakref.WeakKeyDictionary()

#: What each service has stored of its own; those of releases up to 0.5 had other things.
STORED = ('shards', 'suspects', 'schedule', 'ledgers', 'index', 'keys', 'hosts', 'stranded', 'uploads')

#: The name of the service that `install` makes.
DEFAULT_SERVICE = 'TaskService'

#: How often `install` tries: other processes of a new deployment may do the same at the same time.
INSTALLS = 10


@implementer(ITaskService)
class TaskService(Item, Contained, Persistent):
    """See `ITaskService`."""

    taskInterface = ITask
    ownTasks: Mapping[str, Any] = MappingProxyType({})
    processorFactory: Any = None
    processorArguments = {'waitTime': 1.0}
    paused = False
    generation = needs = 0  # see `storage.generations`; releases up to 0.5 did not say
    release = ''            # the one that made the service, or upgraded it
    storedAs = None         # the id of the object, once it is loaded; that of the original in a copy until `settleCopy`

    _v_nextid = None        # before the service is in a database; see `_nextIds`
    _v_cancelling = None    # the number of the shard whose ledger has what this connection cancels; None for any one
    _v_transaction = None   # where the hook of `_wake` has been added last

    def __init__(self):
        self.shards = tuple(Shard() for _ in range(SHARDS))
        self.suspects = ReadyQueue()            # ready, but few are claimed at a time: see `rescue`
        self.schedule = Timetable()
        self.ledgers = OOBTree()
        self.index = StatusIndex()
        self.keys = Keys()
        self.hosts = Hosts()
        self.stranded = OOBTree()               # see `ready.strand`
        self.uploads = OOBTree()                # (name of a user, or '', and id) -> `uploads.Upload`
        self.generation = self.needs = generations.GENERATION
        self.release = release()

    # This release must not work with data of a generation that it does not know.  No caller can forget to check that:
    # what is in STORED is then out of reach.

    def __setstate__(self, state):
        """Load the service, paused if it is a copy; set aside what this release must not work with."""
        super().__setstate__(state)
        if self.isCopy:
            self.paused = True
        if not generations.isFit(self):
            self._v_aside = {name: self.__dict__.pop(name) for name in STORED if name in self.__dict__}

    def __getstate__(self):
        """Return what is to be stored, and with it what was set aside, and the id that it is first stored by."""
        state = {**super().__getstate__(), **self.__dict__.get('_v_aside', {})}
        if self._p_oid is not None:
            state.setdefault('storedAs', self._p_oid)
        return state

    @property
    def isCopy(self) -> bool:
        """Whether it was copied or imported, and not settled since: the original runs the same jobs."""
        return self.storedAs not in (None, self._p_oid)

    def settleCopy(self, now: float, isImported: bool = False) -> None:
        """Make a copy a service of its own: pause it, and take its jobs from the hosts, which run the original's.

        isImported -- whether it is a copy in any case: one from another database may have the id of its original.

        Nothing is done with one that is no copy.
        """
        if not (self.isCopy or isImported):
            return
        del self.storedAs
        self.paused = True
        for name, ledger in self.ledgers.items():
            if ledger.owner is not None:
                rescue(self, name, now)

    def reachAll(self):
        """Bring back what was set aside, until the service is loaded again: an upgrade works with it."""
        self._p_activate()
        self.__dict__.update(self.__dict__.pop('_v_aside', {}))

    def __getattr__(self, name):
        """Raise `WrongGeneration` when that is something which each service has, but which was set aside here."""
        if name in STORED:
            self.checkGeneration()
        raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')

    @property
    def jobs(self) -> Jobs:
        """See `ITaskService`."""
        return Jobs(self.shards)

    def getAvailableTasks(self) -> dict[str, Any]:
        """See `ITaskService`."""
        return dict(findTasks(self))

    # Adding

    def add(self, task: str, input: Any = None, startLater: bool = False, now: float | None = None,
            retryPolicy: RetryPolicy | dict[str, Any] | None = None, timeLimit: float | None = None,
            key: str | None = None, request: str | None = None) -> int:
        """See `ITaskService`."""
        new, now = NewJob(task, input, startLater, retryPolicy, timeLimit, key), present(now)
        checkRequest(request)
        new = self._checkedNew(new, AddableTasks(self))
        with tracing.sending(task, self.__name__) as sending:
            jobid = self._add(new, self._inputOf(new), now, request, sending.traceparent)
            sending.added([jobid])
        return jobid

    def addMany(self, jobs: Iterable[dict[str, Any]], now: float | None = None,
                request: str | None = None) -> list[int]:
        """See `ITaskService`."""
        news: list[NewJob] = []
        tasks, now = AddableTasks(self), present(now)
        checkRequest(request)
        check('jobs', jobs, hasattr(jobs, '__iter__'), 'a list of dicts')
        with naming(lambda: f'jobs[{len(news)}]'):
            for job in jobs:
                news.append(self._checkedNew(newJob(job), tasks))       # noqa: PERF401 - its length is the place
        inputs: list[Any] = []
        with naming(lambda: f'jobs[{len(inputs)}]'):
            for new in news:
                inputs.append(self._inputOf(new))                       # noqa: PERF401
        names = {new.task for new in news}
        with tracing.sending(names.pop() if len(names) == 1 else None, self.__name__) as sending:
            jobids = [self._add(new, input, now, request, sending.traceparent) for new, input in zip(news, inputs)]
            sending.added(jobids)
        return jobids

    def addBulk(self, verb: str, filter: str, expected: int, user: str, now: float | None = None) -> int:
        """See `ITaskService`."""
        now = present(now)
        check('verb', verb, verb in bulk.VERBS, f'one of {", ".join(bulk.VERBS)}')
        bulk.meant(self, verb, filter, now)
        check('expected', expected, isWhole(expected, 0, sys.maxsize), 'a number of jobs, 0 or more')
        input = {'verb': verb, 'filter': filter, 'now': now, 'expected': expected, 'user': user}
        return self._add(NewJob(bulk.NAME, input), self._toStore(input), now, None)

    def countBulk(self, verb: str, filter: str, now: float | None = None) -> tuple[int, bool]:
        """See `ITaskService`."""
        return bulk.count(self, verb, filter, present(now))

    def _checkedNew(self, new, tasks):
        """Return a `NewJob` that can be added; raise what `add` raises."""
        checkJob(tasks, new.task, new.input)
        return checkedOptions(new)

    def _jobOf(self, new):
        """Return the id of the job that was added before with the same task and key, or None."""
        if new.key is None:
            return None
        jobid = self.keys.get(new.task, new.key)
        return jobid if jobid is not None and jobid in ready.shardOf(self, jobid).pages else None

    def _inputOf(self, new):
        """Return the input as it is to be stored; nothing when there is such a job already."""
        return self._toStore(new.input) if self._jobOf(new) is None else None

    def _add(self, new, input, now, request, traceparent=None):
        """Add a job that has been checked; return its id."""
        jobid = self._jobOf(new)
        if jobid is not None:
            return jobid
        job = Job(self._newId(), new.task, input, now, STARTLATER if new.startLater else QUEUED, new.retryPolicy,
                  timeLimit=new.timeLimit, request=request, traceparent=traceparent)
        self._store(job)
        if new.key is not None:
            self.keys.put(new.task, new.key, job.id)
        if new.startLater:
            ready.place(self, job)
        else:
            self._enqueue(job)
        transitions.tellJob(self, 'job.added', job)
        return job.id

    def addCronJob(self, task: str, input: Any = None, minute: Iterable[int] = (), hour: Iterable[int] = (),
                   dayOfMonth: Iterable[int] = (), month: Iterable[int] = (), dayOfWeek: Iterable[int] = (),
                   delay: float | None = None, *, now: float | None = None, request: str | None = None,
                   **options: Any) -> int:
        """See `ITaskService`."""
        now = present(now)
        checkRequest(request)
        checkJob(AddableTasks(self), task, input)
        job = CronJob(self._newId(), task, None, minute, hour, dayOfMonth, month, dayOfWeek, delay, now, **options)
        self._checkSchedule(job, now)
        job.input = self._toStore(input)
        if request is not None:
            job.request = request
        with tracing.sending(task, self.__name__) as sending:
            if sending.traceparent is not None:
                job.traceparent = sending.traceparent
            sending.added([job.id])
        self._store(job)
        ready.place(self, job)
        self.schedule.inbox.put(job.id)
        self._wake()
        transitions.tellJob(self, 'schedule.added', job)
        return job.id

    def _toStore(self, input):
        try:
            return storedfiles.toStore(input, self._p_jar, tries=self._p_jar is not None)
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
        """Choose the next id at random, not after the last one, and another ledger for what is cancelled."""
        self._v_nextid = self._v_cancelling = None
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
            txn.addAfterCommitHook(self._committed, (notifierOf(self._p_jar.db()),))

    def _committed(self, success, notifier):
        self._v_transaction = None
        if success:
            notifier.notify()
        else:
            self._goElsewhere()             # somebody writes the same places

    def startJob(self, jobid: int, now: float | None = None) -> bool:
        """See `ITaskService`."""
        job, now = self.jobs[jobid], present(now)
        if job.status != STARTLATER:
            return False
        job.change(status=QUEUED, readySince=now)
        ready.place(self, job)
        self._enqueue(job)
        return True

    def reschedule(self, jobid: int, now: float | None = None) -> None:
        """See `ITaskService`."""
        job = self._scheduled(jobid, 'reschedule')
        self._checkSchedule(job, present(now))
        job.due = None
        if job.pending and job.status == DELAYED:
            # It was a cron job, of which a run is queued or going on: that run is not wanted now.
            ready.dequeue(self, jobid)
            ready.shardOf(self, jobid).ledger.release(jobid)
            job.pending, job.askedFor = False, None
            job.run += 1
        if not job.pending:
            job.calledFor = None        # forget the missed times of either schedule
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

    def runNow(self, jobid: int, now: float | None = None) -> int:
        """See `ITaskService`."""
        job, now = self.jobs[jobid], present(now)
        if job.status not in (CRONJOB, DELAYED) and (job.status != QUEUED or job.retryAt is None):
            raise WrongState(jobid, self.getStatus(jobid), 'run')
        queued = scheduling.runNow(self, job, now)
        if queued is None:
            raise WrongState(jobid, 'queued or running already', 'run')
        self._wake()
        return queued

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
        waited = bool(partsOf(job))
        ledger = transitions.claimant(self, job)
        if ledger is None:
            ready.dequeue(self, jobid)
        else:                               # it stays known where and since when it has been running
            began = ledger.beganAt(jobid)
            job.change(host=ledger.number, started=job.started if began is None else began)
        ready.shardOf(self, jobid).ledger.release(jobid)
        job.status, job.due = CANCELLED, None
        self._enterCancelled(job, now)
        if waited:
            ready.place(self, job)
        self._wake()
        transitions.tellJob(self, 'job.cancelled', job)

    def _enterCancelled(self, job, now):
        """Enter the end of a job in the ledger of a random shard, so that callers who cancel at the same time write
        different ones.
        """
        if self._v_cancelling is None:
            self._v_cancelling = random.randrange(SHARDS)
        ledger = self.shards[self._v_cancelling].ledger
        transitions.finish(job, ledger, CANCELLED, now)
        tallies.countCancelled(ledger, job.task)

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

    def retry(self, jobid: int, now: float | None = None) -> None:
        """See `ITaskService`."""
        job, now = self.jobs[jobid], present(now)
        if job.status != ERROR or isinstance(job, BrokenJob):
            raise WrongState(jobid, self.getStatus(jobid), 'retry')
        cleanup.reopen(self, job, now)
        self._wake()

    def retryFailed(self, task: str | None = None, limit: int | None = None, before: float | None = None,
                    now: float | None = None) -> int:
        """See `ITaskService`."""
        now = present(now)
        check('task', task, isinstance(task, (str, type(None))), 'the name of a task')
        checkSelection(limit, before)
        count = 0
        for job in itertools.islice(cleanup.failed(self, task, before), limit and min(limit, sys.maxsize)):
            cleanup.reopen(self, job, now)
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
        part = storedfiles.part(self.jobs[jobid].stored('output'), start, size)
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

    def askStack(self, jobid: int, now: float | None = None) -> None:
        """See `ITaskService`."""
        stacks.ask(self, self.jobs[jobid], present(now))
        self._wake()

    def getStack(self, jobid: int) -> stacks.Stack | None:
        """See `ITaskService`."""
        self.jobs[jobid]
        return stacks.find(self, jobid)

    def getRun(self, jobid: int) -> queries.Place:
        """See `ITaskService`."""
        return queries.placeOf(self, self.jobs[jobid])

    def hasJobsWaiting(self, now: float | None = None) -> bool:
        """See `ITaskService`."""
        return ready.isWaiting(self) or scheduling.isDue(self, present(now))

    def getJobs(self, status: str | None = None, start: int = 0, size: int = 100, task: str | None = None,
                since: float | None = None) -> list[Any]:
        """See `ITaskService`."""
        if status is not None and status not in STATUSES:
            raise ValueError(f'status: {shown(status)} is none of {", ".join(STATUSES)}')
        checkRange(start, size)
        check('task', task, isinstance(task, (str, type(None))), 'the name of a task')
        check('since', since, since is None or isTime(since), 'a time in UTC seconds')
        return queries.listed(self, status, start, size, task, since)

    def countJobs(self) -> dict[str, int]:
        """See `ITaskService`."""
        return queries.counts(self)

    def getSchedules(self, start: int = 0, size: int = 100, task: str | None = None) -> list[queries.Schedule]:
        """See `ITaskService`."""
        checkRange(start, size)
        check('task', task, isinstance(task, (str, type(None))), 'the name of a task')
        return queries.schedules(self, start, size, task)

    def getStatistics(self, now: float | None = None, window: float = queries.WINDOW_TIME) -> dict[str, Any]:
        """See `ITaskService`."""
        check('window', window, isSpan(window), 'a number of seconds above 0')
        found = queries.statistics(self, present(now), window)
        return {**found, 'unclaimable': queries.unclaimable(self, found['hosts'], takes)}

    def getTaskStatistics(self) -> dict[str, tallies.Tally]:
        """See `ITaskService`."""
        return tallies.tallies(ready.ledgers(self))

    def checkGeneration(self):
        """Raise `WrongGeneration` when this release must not work with the service."""
        if (fault := generations.fault(self)) is not None:
            raise WrongGeneration(fault)

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
        # In a transaction of its own: that of the task shows the database as it was when the task began.
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
        from lovely.remotetask.execution.inline import processAll
        processAll(self, present(now))

    # Processing by hosts

    def pause(self) -> None:
        """See `ITaskService`."""
        self.checkGeneration()
        if not self.paused:
            self.paused = True
            self._wake()

    def resume(self) -> None:
        """See `ITaskService`."""
        self.checkGeneration()
        self.settleCopy(time.time())
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
        db, path = self._p_jar.db(), pathOf(self)
        factory = self.processorFactory or queryUtility(IProcessorFactory) or _defaultFactory()
        started.start(started.keyOf(self), lambda: factory(db, path, **self.processorArguments))

    def stopProcessing(self) -> None:
        """See `ITaskService`."""
        started.stop(started.keyOf(self))

    def isProcessing(self) -> bool:
        """See `ITaskService`."""
        return started.running(started.keyOf(self)) is not None


def _defaultFactory():
    """Return the factory for processes without ZCML; it is imported here, so that others need not load it."""
    return importlib.import_module('lovely.remotetask.processor').SimpleProcessor


def install(db):
    """Make the root folder, its site manager and the default service in a `ZODB.DB` that has none of these.

    A root folder with a site manager stays as it is, even without a service: the default one may have been removed.
    A folder without one is made a site, with the default service.  In a database of Zope nothing is made: what is
    there, and who may use it, is for Zope's people to say.

    Raise `RemoteTaskError` when the root folder is an object of a class that is not installed here.
    """
    manager = transaction.TransactionManager(explicit=True)
    with contextlib.closing(db.open(manager)) as connection:
        transact(manager, lambda: _install(connection), INSTALLS)


def _install(connection):
    folder = checkedRoot(connection)
    if isApplication(folder):
        return
    if folder is None:
        folder = connection.root()[ROOT_NAME] = rootFolder()
    if not ISite.providedBy(folder):
        folder.setSiteManager(LocalSiteManager(folder))
        _addDefault(folder)
        announceServices(connection)
    notes.write(connection.transaction_manager.get(), [notes.Act('install', path=f'/{DEFAULT_SERVICE}')])


def _addDefault(folder):
    """Make the default service in a new root folder."""
    service = folder[DEFAULT_SERVICE] = TaskService()
    for name in ('', DEFAULT_SERVICE):
        folder.getSiteManager().registerUtility(service, ITaskService, name)
