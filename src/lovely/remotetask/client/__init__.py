"""A client of the XML-RPC front end: it repeats what can be repeated safely, and raises faults as exceptions.

It needs no database and no configuration; ``client.txt`` shows how it is used.
"""
# SPDX-License-Identifier: ZPL-2.1
import math
import time
import uuid
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import BinaryIO

from lovely.remotetask import errors
from lovely.remotetask.client.outcomes import JobCancelled
from lovely.remotetask.client.outcomes import JobFailed
from lovely.remotetask.client.outcomes import Outcome
from lovely.remotetask.client.outcomes import StillRunning
from lovely.remotetask.client.repetition import RepeatingClient
from lovely.remotetask.client.sending import Sending
from lovely.remotetask.client.transport import BadAnswer
from lovely.remotetask.client.transport import ConnectionBroken
from lovely.remotetask.client.transport import HttpError
from lovely.remotetask.client.transport import NoAnswer
from lovely.remotetask.client.transport import NotAuthorized
from lovely.remotetask.client.transport import NotConnected
from lovely.remotetask.client.transport import RemoteFault
from lovely.remotetask.common.checks import LONGEST
from lovely.remotetask.common.checks import isNumber
from lovely.remotetask.common.checks import shown
from lovely.remotetask.files import File
from lovely.remotetask.statuses import CANCELLED
from lovely.remotetask.statuses import ERROR
from lovely.remotetask.statuses import FINAL
from lovely.remotetask.statuses import areFinal
from lovely.remotetask.xmlrpc import faults
from lovely.remotetask.xmlrpc.calls import BATCH
from lovely.remotetask.xmlrpc.calls import PART_SIZE
from lovely.remotetask.xmlrpc.calls import WAITING_SIZE


# All that goes wrong is part of the public face of this module, and so is what a caller hands over.
__all__ = ['BadAnswer', 'Client', 'ConnectionBroken', 'File', 'HttpError', 'JobCancelled', 'JobFailed', 'NoAnswer',
           'NotAuthorized', 'NotConnected', 'Outcome', 'RemoteFault', 'StillRunning']


#: Seconds that a front end is asked to wait at a time: proxies and firewalls cut what is silent for longer,
#: many after 60 seconds, some after 30.
WAIT_STEP = 25.0
#: The same where several calls of `waitFor` are needed to see all jobs.
SHORT_WAIT_STEP = 1.0


def _fieldOf(name: str, field: Any) -> list[Any]:
    """Return a field of a calendar as a list; raise `xmlrpc.faults.BadArguments` for what is none."""
    if isinstance(field, str) or not isinstance(field, Iterable):
        raise faults.BadArguments(f'{name}: {shown(field)} is not a list of whole numbers')
    return list(field)


def _waitingTime(timeout: float) -> float:
    """Return the most seconds to wait; raise `BadArguments` unless `timeout` is a number, 0 or more."""
    if not isNumber(timeout, 0, math.inf):
        raise faults.BadArguments(f'timeout: {shown(timeout)} is not a number of seconds, 0 or more')
    return min(timeout, LONGEST)


def _listOf(status: str | Iterable[str]) -> list[str]:
    """Return a list of statuses for one or for several."""
    return [status] if isinstance(status, str) else list(status)


def _keyOr(key: str | None) -> str:
    """Return the key of a job, a new one if there is none."""
    return str(uuid.uuid4()) if key is None else key


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


class Client(RepeatingClient):
    """The task service at a URL, for any number of threads.

    `RepeatingClient` says how it is made and closed, which calls are repeated, and what all methods raise.  `add` and
    `addMany` send a key with each job: the caller's, or a new one.  A key that was sent before adds nothing and returns
    the same id, so these calls are repeated as well.
    """

    # Adding jobs

    def add(self, task: str, input: Any = None, startLater: bool = False, key: str | None = None,
            timeLimit: float | None = None, retryPolicy: dict[str, Any] | None = None) -> int:
        """Add a job that calls the task with the input, and return its id.

        task -- its name.
        input -- of what XML-RPC can carry: None, bool, int of 32 bits, float, str, bytes, datetime, lists, dicts.
            A `File` may stand anywhere in it: it is sent before, in parts, and the task gets a file there.
        startLater -- whether it waits for `startJob`.
        key -- a text: as long as there is a job of the task that was added with it, its id is returned and no other is
            added.
        timeLimit -- seconds that a run may take.
        retryPolicy -- a dict of fields of `retry.RetryPolicy`.

        Raise `errors.UnknownTask`, `errors.InvalidInput`; for files also `files.Unreadable`, `errors.TooManyUploads`.
        """
        with Sending(self._repeated) as sending:
            input, uploads = sending.send(task, input)
            options = _given(key=_keyOr(key), timeLimit=timeLimit, retryPolicy=retryPolicy, uploads=uploads)
            return self._call('add', (task, input, startLater, options), True)

    def _repeated(self, method: str, *arguments: Any) -> Any:
        return self._call(method, arguments, True)

    def addMany(self, jobs: Iterable[dict[str, Any]]) -> list[int]:
        """Add jobs, all or none, and return the list of their ids.

        jobs -- dicts with the arguments of `add` by their names, at most 1000.

        Raise what `add` does.
        """
        jobs = list(jobs)
        for number, job in enumerate(jobs):
            if not isinstance(job, dict):
                raise faults.BadArguments(f'addMany: jobs[{number}]: a dict is needed, not {type(job).__name__}')
        with Sending(self._repeated) as sending:
            jobs = [dict(job, key=_keyOr(job.get('key'))) for job in jobs]
            for job in jobs:
                if 'input' in job:
                    job['input'], uploads = sending.send(job.get('task'), job['input'])
                    job.update(_given(uploads=uploads))
            return self._call('addMany', (jobs,), True)

    def addCronJob(self, task: str, input: Any = None, minute: Iterable[int] = (), hour: Iterable[int] = (),
                   dayOfMonth: Iterable[int] = (), month: Iterable[int] = (), dayOfWeek: Iterable[int] = (),
                   delay: float | None = None, **options: Any) -> int:
        """Add a job that runs whenever the calendar fits, and return its id.

        minute, hour, dayOfMonth, month, dayOfWeek -- ints; none of them: any.  dayOfWeek 0 is Monday.
        delay -- seconds after which it runs, once.
        options -- crontab, timeZone, misfire, newJobs, overlap, active, as `ITaskService.addCronJob` has them.

        Raise `errors.UnknownTask`, `errors.InvalidInput`, `xmlrpc.faults.BadArguments`.
        """
        fields = {'minute': minute, 'hour': hour, 'dayOfMonth': dayOfMonth, 'month': month, 'dayOfWeek': dayOfWeek}
        calendar = [_fieldOf(name, field) for name, field in fields.items()]
        with Sending(self._repeated) as sending:
            input, uploads = sending.send(task, input)
            options.update(_given(uploads=uploads))
            return self._call('addCronJob', (task, input, *calendar, delay, options), False)

    # Changing jobs; unless it is said otherwise they return True

    def runNow(self, jobid: int) -> int:
        """Run a job at once that waits for a time; return the id of the job that runs, which may be a new one.

        Raise `errors.UnknownJob`, and `errors.WrongState` for any other job, and for one that is queued or runs.
        """
        return self.call('runNow', jobid)

    def startJob(self, jobid: int) -> bool:
        """Queue a job that was added with `startLater`; return whether it was one.  Raise `errors.UnknownJob`."""
        return self.call('startJob', jobid)

    def cancel(self, jobid: int) -> bool:
        """Call a job off.  Raise `errors.UnknownJob`, and `errors.WrongState` for one that has ended."""
        return self.call('cancel', jobid)

    def retry(self, jobid: int) -> bool:
        """Run a job again that ended in an error.  Raise `errors.UnknownJob`, `errors.WrongState` for any other."""
        return self.call('retry', jobid)

    def retryFailed(self, task: str | None = None) -> int:
        """Run all jobs again that ended in an error, those of one task or all; return how many."""
        return self.call('retryFailed', task)

    def countBulk(self, verb: str, filter: str) -> dict[str, Any]:
        """Return how many jobs `addBulk` would change, a dict: `count`, and `whole`, whether these are all.

        Raise `xmlrpc.faults.BadArguments`.
        """
        return self.call('countBulk', verb, filter)

    def addBulk(self, verb: str, filter: str, expected: int | None = None) -> int:
        """Add a job that changes all jobs that fit a filter, and return its id.

        verb -- 'cancel', 'retry' or 'remove'.
        filter -- as that of `getJobs`; '' for all jobs.
        expected -- how many jobs that are, for its progress; None to count them.

        Raise `xmlrpc.faults.BadArguments`.
        """
        return self.call('addBulk', verb, filter, expected)

    def reschedule(self, jobid: int) -> bool:
        """Make the scheduler read a cron job's schedule again.  Raise `errors.UnknownJob`."""
        return self.call('reschedule', jobid)

    def updateCronJob(self, jobid: int, **changes: Any) -> bool:
        """Change the schedule of a cron job, by the names that `addCronJob` has.  Raise `errors.UnknownJob`."""
        return self.call('updateCronJob', jobid, changes)

    def clean(self, status: str | Iterable[str] = FINAL) -> int:
        """Remove the jobs in these statuses, of those that are final; return how many."""
        return self.call('clean', _listOf(status))

    def cleanSome(self, status: str | Iterable[str] = FINAL, limit: int = BATCH) -> int:
        """Remove the oldest jobs in these statuses, at most `limit`, 1 to 1000; return how many."""
        return self.call('cleanSome', _listOf(status), limit)

    # Looking at jobs

    def getJob(self, jobid: int) -> dict[str, Any]:
        """Return all fields of a job, a dict.  Raise `errors.UnknownJob`."""
        return self.call('getJob', jobid)

    def getJobs(self, status: str | None = None, start: int = 0, size: int = 100, task: str | None = None,
                since: float | None = None, filter: str | None = None, after: str | None = None) -> dict[str, Any]:
        """Return a dict: `jobs`, dicts, the newest first; `total`, how many there are; `counts`, the same by status.

        status -- only those.
        start, size -- which of them: 0 is the newest; at most 1000.
        task -- only those of this task; nothing is counted then.
        since -- only those that ended, or were added, since then, in UTC seconds; there is no `total` then.
        filter -- terms that the jobs must fit, such as 'status:error task:avi2* since:1h'; only `size` and `after` go
            with it.  The dict then also has: `cursor`, None when there is no more; `looked`, how many jobs were looked
            at; `cut`, whether the look ended before there were `size` that fit.
        after -- with a filter: the `cursor` of the last answer, to go on.
        """
        return self.call('getJobs', status, start, size, task, since, filter, after)

    def getSchedules(self, task: str | None = None, start: int = 0, size: int = 100) -> dict[str, Any]:
        """Return a dict: `schedules`, dicts, the newest first; `total`, how many there are, None with a task.

        task -- only those of this task.
        start, size -- as for `getJobs`.
        """
        return self.call('getSchedules', task, start, size)

    def getStatus(self, jobid: int) -> str:
        """Return the status of a job, one of `interfaces.STATUSES`.  Raise `errors.UnknownJob`."""
        return self.call('getStatus', jobid)

    def getResult(self, jobid: int) -> Any:
        """Return what the task returned; None as long as it has not.

        Raise `errors.UnknownJob`, and `xmlrpc.faults.ResultTooLarge` for what only `save` and `getParts` can get.
        """
        return self.call('getResult', jobid)

    def getError(self, jobid: int) -> str:
        """Return why a job failed, 'None' when it did not.  Raise `errors.UnknownJob`."""
        return self.call('getError', jobid)

    def getProgress(self, jobid: int) -> dict[str, Any] | None:
        """Return the progress that the running task reported; None if it has reported nothing.

        It is a dict: `fraction`, from 0 to 1 or None for unknown; `message`.  Raise `errors.UnknownJob`.
        """
        return self.call('getProgress', jobid)

    def askStack(self, jobid: int) -> bool:
        """Ask the host that runs a job where its run is right now; `getStack` has the answer a moment later.

        Return True.  Raise `errors.UnknownJob`, and `errors.WrongState` for a job that no host has claimed.
        """
        return self.call('askStack', jobid)

    def getStack(self, jobid: int) -> dict[str, Any] | None:
        """Return where the run of a job was when `askStack` was called; None if nobody asked in the last minute.

        It is a dict: `asked` and `answered`, UTC seconds, the second one None until the host has answered; `text`.
        Raise `errors.UnknownJob`.
        """
        return self.call('getStack', jobid)

    def hasJobsWaiting(self) -> bool:
        """Return whether a job is ready to run or due."""
        return self.call('hasJobsWaiting')

    # Files

    def getParts(self, jobid: int) -> Iterator[bytes]:
        """Yield a result that is a file, bytes or text (in UTF-8), as bytes: parts of it, one at least.

        Raise `errors.UnknownJob`, and `errors.RemoteTaskError` for any other result or none.
        """
        start, part = 0, None
        while part is None or len(part) == PART_SIZE:
            part = self.call('getResultPart', jobid, float(start), PART_SIZE)   # an int of XML-RPC ends at 2 GB
            start += len(part)
            yield part

    def getFile(self, jobid: int) -> bytes:
        """Return such a result as bytes.  Raise what `getParts` does."""
        return b''.join(self.getParts(jobid))

    def save(self, jobid: int, file: BinaryIO) -> int:
        """Write such a result to a binary file, however large it is; return its size.  Raise what `getParts` does."""
        return sum(map(file.write, self.getParts(jobid)))

    # Waiting

    def waitFor(self, jobids: Iterable[int], timeout: float = 30.0, any: bool = False) -> list[str | None]:
        """Wait until all of the jobs are final, and return a list of their statuses, None for a job that was removed.

        jobids -- at most 1000.
        timeout -- seconds, 0 or more; the statuses are returned then as they are.
        any -- whether one job that is final is enough.

        Raise `errors.UnknownJob`, and `xmlrpc.faults.BadArguments` for another timeout.
        """
        timeout = _waitingTime(timeout)
        jobids, until = list(jobids), time.monotonic() + timeout
        step = min(timeout, WAIT_STEP)
        found = dict(zip(jobids, self._waitStep(jobids, step, any)))
        left = timeout - step
        while left > 0 and not areFinal(found.values(), any):
            there = [jobid for jobid, status in found.items() if status is not None]
            step = min(left, WAIT_STEP)
            found.update(zip(there, self._statuses(there, step, any)))
            left = min(left - step, until - time.monotonic())
        return [found[jobid] for jobid in jobids]

    def _waitStep(self, jobids: list[int], seconds: float, any: bool) -> list[str | None]:
        return self._call('waitFor', (jobids, float(seconds), any), True, seconds)

    def wait(self, jobid: int, timeout: float | None = None) -> Any:
        """Wait until a job has ended and return its result.

        timeout -- seconds; 0: it is looked at once; None: as long as it takes.

        Raise `JobFailed`, `JobCancelled`; `StillRunning` when the time is over; `errors.UnknownJob`, also for one that
        is removed meanwhile; what `getResult` raises.
        """
        [(_, outcome)] = self.results([jobid], timeout)
        if outcome.error is not None:
            raise outcome.error
        return outcome.result

    def results(self, jobids: Iterable[int], timeout: float | None = None) -> Iterator[tuple[int, Outcome]]:
        """Yield pairs of the id and the `Outcome` of each of the jobs, as they end.

        jobids -- any number.
        timeout -- seconds for all of them; None: as long as it takes.

        Raise `StillRunning` when the time is over.
        """
        timeout = _waitingTime(math.inf if timeout is None else timeout)
        jobids = list(dict.fromkeys(jobids))
        until = time.monotonic() + timeout
        while jobids:
            step = WAIT_STEP if len(jobids) <= WAITING_SIZE else SHORT_WAIT_STEP
            running = {}
            for start in range(0, len(jobids), WAITING_SIZE):
                group = jobids[start:start + WAITING_SIZE]
                statuses = self._statuses(group, min(max(0.0, until - time.monotonic()), step), True)
                for jobid, status in zip(group, statuses):
                    if status is None or status in FINAL:
                        yield jobid, self._outcome(jobid, status)
                    else:
                        running[jobid] = status
            if running and time.monotonic() >= until:
                raise StillRunning(running, timeout)
            jobids = list(running)

    def _statuses(self, jobids: list[int], seconds: float, any: bool) -> list[str | None]:
        """Wait for jobs; return their statuses, None for one that there is not."""
        try:
            return self._waitStep(jobids, seconds, any)
        except errors.UnknownJob:               # and it says nothing of the others
            return [self._statusIfAny(jobid) for jobid in jobids]

    def _statusIfAny(self, jobid: int) -> str | None:
        try:
            return self.getStatus(jobid)
        except errors.UnknownJob:
            return None

    def _outcome(self, jobid: int, status: str | None) -> Outcome:
        if status is None:
            return Outcome(status, error=errors.UnknownJob(jobid))
        if status == CANCELLED:
            return Outcome(status, error=JobCancelled(jobid))
        try:
            if status == ERROR:
                return Outcome(status, error=JobFailed(jobid, self.getError(jobid)))
            return Outcome(status, self.getResult(jobid))
        except errors.UnknownJob as error:
            return Outcome(None, error=error)
        except faults.ResultTooLarge as error:
            return Outcome(status, error=error)

    # The service

    def getAvailableTasks(self) -> list[str]:
        """Return a list of the names of the tasks that jobs can ask for, sorted."""
        return self.call('getAvailableTasks')

    def getStatistics(self, window: float = 3600.0) -> dict[str, Any]:
        """Return figures about the service, a dict.

        window -- seconds in which failures are counted.

        `counts`, how many jobs there are by status; `hosts`, as `getProcessingHosts`; `oldestWaiting`, when the job
        was added that has waited longest, in UTC seconds, or None; `throughput`, jobs that ended per second lately;
        `paused`, whether `pause` was called; `longestRunning`, `failures`, `failing`, `retrying`, `stranded`,
        `unclaimable`, `unscheduled` and `nextTime` as `ITaskService.getStatistics` has them.
        """
        return self.call('getStatistics', window)

    def getTaskStatistics(self, task: str | None = None) -> dict[str, Any]:
        """Return how the runs of each task fared since the service was made: name -> dict.

        task -- the name of one; default: all that have run.

        `completed`, `error`, `cancelled`, `retried` and `lost` are numbers, as `ITaskService.getTaskStatistics` has
        them; `failureRate` is from 0 to 1; `runSeconds`, `meanRun`, `p95Run`, `waitSeconds`, `meanWait` and `p95Wait`
        are seconds.  What is not known is None.
        """
        return self.call('getTaskStatistics', task)

    def getProcessingHosts(self) -> list[dict[str, Any]]:
        """Return where the service is processed, a dict for each host: `name`, `machine`, `processing` and others."""
        return self.call('getProcessingHosts')

    def getRelease(self) -> str:
        """Return the release of the front end, as '1.0'."""
        return self.call('getRelease')

    def isProcessing(self) -> bool:
        """Return whether any host takes jobs of the service.

        In a process that has the database open, `ITaskService.isProcessing` is about the threads of that process.
        """
        return self.call('isProcessing')

    def pause(self) -> bool:
        """Pause the service on all hosts until `resume`; running jobs go on to their end.  Return True."""
        return self.call('pause')

    def resume(self) -> bool:
        """Resume the service on all hosts, after `pause`.  Return True."""
        return self.call('resume')
