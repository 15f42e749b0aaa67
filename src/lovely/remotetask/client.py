"""A client of the XML-RPC front end: it repeats what can be repeated safely, and raises faults as exceptions.

It needs no database and no configuration; ``client.txt`` shows how it is used.
"""
# SPDX-License-Identifier: ZPL-2.1
import itertools
import math
import random
import ssl
import time
import uuid
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import BinaryIO
from typing import NamedTuple
from typing import Self

from lovely.remotetask import errors
from lovely.remotetask.common.checks import LONGEST
from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import isNumber
from lovely.remotetask.common.checks import isSpan
from lovely.remotetask.common.checks import shown
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import FINAL

# All that goes wrong is part of the public face of this module.
from lovely.remotetask.transport import BadAnswer  # noqa: F401
from lovely.remotetask.transport import ConnectionBroken
from lovely.remotetask.transport import HttpError
from lovely.remotetask.transport import NoAnswer  # noqa: F401
from lovely.remotetask.transport import NotAuthorized  # noqa: F401
from lovely.remotetask.transport import NotConnected
from lovely.remotetask.transport import RemoteFault
from lovely.remotetask.transport import Server
from lovely.remotetask.xmlrpc import faults
from lovely.remotetask.xmlrpc.methods import BATCH
from lovely.remotetask.xmlrpc.methods import METHODS
from lovely.remotetask.xmlrpc.methods import PART_SIZE
from lovely.remotetask.xmlrpc.methods import WAITING_SIZE
from lovely.remotetask.xmlrpc.methods import areOver
from lovely.remotetask.xmlrpc.signature import REPEATS
from lovely.remotetask.xmlrpc.signature import WRITES
from lovely.remotetask.xmlrpc.wire import dumpCall


#: Seconds that a call may take, all its repetitions included.
TIMEOUT = 60.0

#: Seconds before a call is repeated: the first time, the longest, and the growth.
FIRST_PAUSE, LONGEST_PAUSE, PAUSE_GROWTH = 0.1, 2.0, 2

#: How often a call is repeated whose connection breaks where nobody has ever answered.
STRANGE = 3

#: Seconds that a front end is asked to wait at a time: proxies and firewalls cut what is silent for longer,
#: many after 60 seconds, some after 30.
WAIT_STEP = 25.0
#: The same where several calls of `waitFor` are needed to see all jobs.
SHORT_WAIT_STEP = 1.0

# Faults that say that nothing was changed.
_NOTHING_CHANGED = (faults.DATABASE_UNAVAILABLE, faults.STOPPING)
# HTTP statuses of a server that has not looked at the request yet, and of a proxy that does not know what became of it.
_TOO_BUSY, _NO_ANSWER = (429, 503), (502, 504)


# What goes wrong

class JobFailed(errors.RemoteTaskError):
    """The job that was waited for ended in an error."""

    def __init__(self, jobid: int, reason: str) -> None:
        super().__init__(f'job {jobid} failed: {reason}')
        self.jobid, self.reason = jobid, reason


class JobCancelled(errors.RemoteTaskError):
    """The job that was waited for was cancelled."""

    def __init__(self, jobid: int) -> None:
        super().__init__(f'job {jobid} was cancelled')
        self.jobid = jobid


class StillRunning(errors.RemoteTaskError, TimeoutError):
    """Jobs that were waited for have not ended in time; they go on."""

    def __init__(self, statuses: dict[int, str], seconds: float) -> None:
        """`statuses` is a dict of the ids and statuses of the jobs, `seconds` how long they were waited for."""
        (jobid, status), *others = statuses.items()
        also = f', and so {"is" if len(others) == 1 else "are"} {len(others)} more' if others else ''
        super().__init__(f'job {jobid} is still {status} after {seconds:g} seconds{also}')
        self.statuses = statuses


class Outcome(NamedTuple):
    """What became of a job."""

    status: str | None                  # None for a job that is not there (any more)
    result: Any = None                  # what the task returned
    error: Exception | None = None      # why there is no result: what `Client.wait` would have raised


# Repetition

def _onlyLooks(method: str) -> bool:
    """Whether the method changes nothing, so that it can be called twice."""
    return method in METHODS and METHODS[method].access not in (WRITES, REPEATS)


def pauseAfter(error: Exception, attempt: int, repeatable: bool, answered: bool) -> float | None:
    """Return the seconds after which a call is to be made again that ended so; None: it is not.

    error -- an exception.
    attempt -- how often the call has been made before, 0 at first.
    repeatable -- whether it may be carried out twice.
    answered -- whether a front end has ever answered there.
    """
    pause = min(FIRST_PAUSE * PAUSE_GROWTH ** min(attempt, 100), LONGEST_PAUSE)     # a power may not overflow
    if isinstance(error, ConnectionBroken):
        # Most likely a connection that was kept too long; or what is there is no front end, or has TLS, or has none.
        return (pause if attempt else 0) if repeatable and (answered or attempt < STRANGE) else None
    if isinstance(error, NotConnected):
        return pause if error.refused and (answered or attempt) else None
    if isinstance(error, HttpError) and error.status in _TOO_BUSY:
        return max(pause, error.retryAfter or 0)
    if isinstance(error, HttpError) and error.status in _NO_ANSWER:
        return pause if repeatable else None
    if isinstance(error, RemoteFault) and (
            error.code in _NOTHING_CHANGED or repeatable and error.code == faults.OUTCOME_UNKNOWN):
        return pause
    return None


def _checkTimeout(timeout: Any, isRight: bool, expected: str) -> None:
    if not isRight:
        raise faults.BadArguments(f'timeout: {shown(timeout)} is not {expected}')


def _waitingTime(timeout: float) -> float:
    """Return for how many seconds to wait at the most; raise `BadArguments` for what is no number of 0 or more."""
    _checkTimeout(timeout, isNumber(timeout, 0, math.inf), 'a number of seconds, 0 or more')
    return min(timeout, LONGEST)


def _listOf(status: str | Iterable[str]) -> list[str]:
    """Return a list of statuses for one or for several."""
    return [status] if isinstance(status, str) else list(status)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


class Client:
    """The task service at a URL, for any number of threads.

    It keeps its connections open until `close`; as a context manager it closes them at the end of the block.

    A call that meets a front end that is too busy (HTTP 429 and 503, after the time that it asks for), about to stop,
    or without its database is repeated, with growing pauses, as long as `timeout` allows, because nothing was
    changed.  So is one that nobody listens to, if the front end has answered before; else it is raised at once.
    When the connection breaks, or the front end itself or a proxy before it (HTTP 502 and 504) does not know the
    outcome, only what is harmless twice is repeated: methods that just look, and `add` and `addMany`, which send a key
    with each job, one of their own making unless the caller gives one: the same key again adds nothing, and gives the
    same id.  All other methods are sent once, over a new connection, as one that was kept may be closed by the other
    side just when it is used again.
    Where nobody has ever answered, a connection that breaks is met by a few more only.

    All methods but `close` raise:

    `RemoteFault`, and with it the class of `errors` or `xmlrpc.faults` that belongs to the fault's code;
    `NotAuthorized` and other `HttpError`;
    `NotConnected`, `ConnectionBroken`, `NoAnswer`, `BadAnswer`;
    `xmlrpc.faults.BadArguments` for what XML-RPC cannot carry.

    All of them are `errors.RemoteTaskError`.  None tells the password.
    """

    def __init__(self, url: str, timeout: float = TIMEOUT, context: ssl.SSLContext | None = None) -> None:
        """Nothing is connected yet.

        url -- of the front end, http or https; its path names the service, as in http://127.0.0.1:8080/site1/films.
            A user and a password may stand before the host: https://USER:PASSWORD@HOST/.
        timeout -- seconds that a call may take, repetitions included.
        context -- an `ssl.SSLContext` for https; default: one that trusts whom the system trusts.

        Raise `ValueError` for what is no URL, or no time above 0.
        """
        check('timeout', timeout, isSpan(timeout), 'a number of seconds above 0')
        self._server = Server(url, context)
        self.timeout = timeout

    @property
    def url(self) -> str:
        """The URL without user, password and query."""
        return self._server.url

    def close(self) -> None:
        """Close the connections, and refuse all calls from now on."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what the method of that name answers; for those of which there is none here."""
        return self._call(method, arguments, _onlyLooks(method))

    def _call(self, method: str, arguments: tuple[Any, ...], repeatable: bool, more: float = 0.0) -> Any:
        """Return what the method answers.

        repeatable -- whether it may be carried out twice.
        more -- seconds that it may take above `timeout`.
        """
        try:
            body = dumpCall(method, arguments)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise faults.BadArguments(f'{method}: the arguments cannot be sent: {error}') from error
        seconds = self.timeout + more
        until = time.monotonic() + seconds
        for attempt in itertools.count():
            try:
                return self._server.post(body, seconds, until, fresh=attempt > 0 or not repeatable)
            except errors.RemoteTaskError as error:
                pause = pauseAfter(error, attempt, repeatable, self._server.answered)
                if pause is None:
                    raise
                pause *= random.uniform(1, 1.5)             # not all who were sent away come back together
                if time.monotonic() + pause >= until:
                    raise
            time.sleep(pause)

    # Adding jobs

    def add(self, task: str, input: Any = None, startLater: bool = False, key: str | None = None,
            timeLimit: float | None = None, retryPolicy: dict[str, Any] | None = None) -> int:
        """Add a job that calls the task with the input, and return its id.

        task -- its name.
        input -- of what XML-RPC can carry: None, bool, int of 32 bits, float, str, bytes, datetime, lists, dicts.
        startLater -- whether it waits for `startJob`.
        key -- a text: as long as there is a job of the task that was added with it, its id is returned and no other is
            added.
        timeLimit -- seconds that a run may take.
        retryPolicy -- a dict of fields of `retry.RetryPolicy`.

        Raise `errors.UnknownTask`, `errors.InvalidInput`.
        """
        options = _given(key=str(uuid.uuid4()) if key is None else key, timeLimit=timeLimit, retryPolicy=retryPolicy)
        return self._call('add', (task, input, startLater, options), True)

    def addMany(self, jobs: Iterable[dict[str, Any]]) -> list[int]:
        """Add jobs, all or none, and return the list of their ids.

        jobs -- dicts with the arguments of `add` by their names, at most 1000.

        Raise what `add` does.
        """
        jobs = list(jobs)
        for number, job in enumerate(jobs):
            if not isinstance(job, dict):
                raise faults.BadArguments(f'addMany: jobs[{number}]: a dict is needed, not {type(job).__name__}')
        jobs = [dict(job, key=str(uuid.uuid4()) if job.get('key') is None else job['key']) for job in jobs]
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
        calendar = [list(field) for field in (minute, hour, dayOfMonth, month, dayOfWeek)]
        return self._call('addCronJob', (task, input, *calendar, delay, options), False)

    # Changing jobs; unless it is said otherwise they return True

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

    def reschedule(self, jobid: int) -> bool:
        """Look at a cron job's schedule again.  Raise `errors.UnknownJob`."""
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

    def getJobs(self, status: str | None = None, start: int = 0, size: int = 100, filter: str | None = None,
                after: str | None = None) -> dict[str, Any]:
        """Return a dict: `jobs`, dicts, the newest first; `total`, how many there are; `counts`, the same by status.

        status -- only those.
        start, size -- which of them: 0 is the newest; at most 1000.
        filter -- instead of `status` and `start`: what they have to fit, as 'status:error task:avi2* since:1h'.  Then
            there are besides: `cursor`, None when there is no more; `looked`, how many jobs were looked at; `cut`,
            whether that was enough before there were `size` that fit.
        after -- with a filter: the `cursor` of the last answer, to go on.
        """
        if filter is None and after is None:
            return self.call('getJobs', status, start, size)
        return self.call('getJobs', status, start, size, filter, after)

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
        """Return what the running task has said of how far it is, None for nothing.

        It is a dict: `fraction`, from 0 to 1 or None for unknown; `message`.  Raise `errors.UnknownJob`.
        """
        return self.call('getProgress', jobid)

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
        while left > 0 and not areOver(found.values(), any):
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

    def getStatistics(self) -> dict[str, Any]:
        """Return a dict of how the service does.

        `counts`, how many jobs there are by status; `hosts`, as `getProcessingHosts`; `oldestWaiting`, when the job
        was added that has waited longest, in UTC seconds, or None; `throughput`, jobs that ended per second lately;
        `paused`, whether `stopProcessing` was called.
        """
        return self.call('getStatistics')

    def getProcessingHosts(self) -> list[dict[str, Any]]:
        """Return where the service is processed, a dict for each host: `name`, `machine`, `processing` and others."""
        return self.call('getProcessingHosts')

    def isProcessing(self) -> bool:
        """Return whether any host takes jobs of the service."""
        return self.call('isProcessing')

    def startProcessing(self) -> bool:
        """Have all hosts take jobs of the service, after `stopProcessing`."""
        return self.call('startProcessing')

    def stopProcessing(self) -> bool:
        """Have all hosts take no more jobs of the service, until `startProcessing`; running ones end."""
        return self.call('stopProcessing')
