"""Running jobs in tests: a clock that a test sets, running what is due, and waiting for jobs that others run."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import threading
import time

from transaction.interfaces import NoTransaction

from lovely.remotetask.database.freshness import catchUp
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.interfaces import FINAL


#: Seconds between two looks at jobs in a database that does not tell what others commit.
POLL_INTERVAL = 0.5


class Clock:
    """A clock that a test sets.  Called, it gives the time in seconds, as `time.time` does.

    It can be the argument `clock` of a processor, or give the time for `service.process(clock())`.
    """

    def __init__(self, now=0.0):
        self._now = now

    def __call__(self):
        """Return the time in UTC seconds."""
        return self._now

    def set(self, now):
        """Set the time, in UTC seconds."""
        self._now = now

    def advance(self, seconds):
        """Move on by so many seconds, and return the new time."""
        self._now += seconds
        return self._now


class TooManyJobs(AssertionError):
    """There were more jobs to run than expected; look for one that adds another of its kind each time."""


class JobFailed(AssertionError):
    """A run of a job has failed; the message has the traceback.

    jobid -- the id of the job.
    """

    def __init__(self, job, failure):
        """`failure` is the `Failure` on record for the `Job`."""
        super().__init__(f'job {job.id}, task {job.task!r}, has failed: {failure.message}\n{failure.traceback}')
        self.jobid = job.id


def runDueJobs(service, now=None, limit=1000, raising=False):
    """Run all jobs that are ready or due, those that they add included, in the caller's thread and transaction.

    service -- an `ITaskService`.
    now -- UTC seconds; default: the present.  It stands still meanwhile.
    limit -- how many jobs are to be expected at the most.

    raising -- whether the first run that fails raises `JobFailed`, an AssertionError, also if it would be repeated.

    Return the number of jobs that have run; a job that is to be run again at once counts each time.  Raise
    `TooManyJobs`, an AssertionError, when more than `limit` have run.
    """
    now = time.time() if now is None else now
    count = 0
    while _runNext(service, now) if raising else service.processNext(now):
        count += 1
        if count > limit:
            raise TooManyJobs(f'more than {limit} jobs have run: does a job add itself again?')
    return count


def _runNext(service, now):
    """Run the next job; return whether there was one, raise `JobFailed` if it has failed."""
    jobid = service.claimNextJob(now)
    if jobid is None:
        return False
    before = service.jobs[jobid].errors
    service.processNext(now, jobid)
    job = service.jobs.get(jobid)               # it may have removed itself
    if job is not None and job.errors and job.errors != before:
        raise JobFailed(job, job.errors[-1])
    return True


def waitForJobs(service, jobids, timeout=20.0):
    """Wait until other threads or processes have brought all these jobs to their end.

    service -- an `ITaskService` from an open connection.  This begins a new transaction in it: commit first, above all
        the jobs themselves.
    jobids -- their ids.
    timeout -- seconds.

    Another client of the database server may have committed the jobs, or their retry, a moment ago.

    Return the list of the statuses, in the order of the ids.  Raise `TimeoutError` that names the jobs which have
    not ended, `errors.UnknownJob`, `errors.RemoteTaskError` for a service that is in no database, and what ZEO raises
    if its server does not answer.
    """
    if service._p_jar is None:
        raise RemoteTaskError('the service is in no database, so nobody else can run its jobs: use runDueJobs')
    jobids, until = list(jobids), time.monotonic() + timeout
    db, manager, wakeup = service._p_jar.db(), service._p_jar.transaction_manager, threading.Event()
    catchUp(db)
    notifier = notifierOf(db)
    notifier.subscribe(wakeup)
    try:
        while True:
            with contextlib.suppress(NoTransaction):        # a manager in explicit mode insists on one
                manager.abort()
            manager.begin()
            statuses = [service.getStatus(jobid) for jobid in jobids]
            if all(status in FINAL for status in statuses):
                return statuses
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f'after {timeout:g} seconds have not ended: ' + ', '.join(
                    f'job {jobid} ({status})' for jobid, status in zip(jobids, statuses) if status not in FINAL))
            wakeup.wait(min(left, POLL_INTERVAL))
            wakeup.clear()
    finally:
        notifier.unsubscribe(wakeup)
