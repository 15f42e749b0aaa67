"""How a run ends: it is recorded on its job, charged as an attempt, or given back; and the values that describe a run.

Functions over a service's parts.  Each works in the caller's transaction and commits nothing.  A *claim* is a note in a
ledger that does not write the job; its token is the pair of job id and `Job.run`.  A transaction that changes the state
of a job checks the token (`holds`) and writes the job; of two such transactions the database lets only one commit.
"""
# SPDX-License-Identifier: ZPL-2.1
import logging
from typing import Any
from typing import NamedTuple

from lovely.remotetask.common.counts import OTHER
from lovely.remotetask.common.logs import about
from lovely.remotetask.common.logs import jobLog
from lovely.remotetask.common.logs import line
from lovely.remotetask.database.sites import whereIs
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.job import Failure
from lovely.remotetask.job import Run
from lovely.remotetask.retry import DEFAULT
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.storage.ledger import MICROSECONDS
from lovely.remotetask.storage.ledger import microseconds
from lovely.remotetask.storage.ready import dequeue
from lovely.remotetask.storage.ready import enqueue
from lovely.remotetask.storage.ready import place
from lovely.remotetask.storage.ready import putBack
from lovely.remotetask.storage.ready import readySince
from lovely.remotetask.storage.ready import shardOf
from lovely.remotetask.storage.tallies import LOST
from lovely.remotetask.storage.tallies import count
from lovely.remotetask.storage.tallies import enter


log = logging.getLogger('lovely.remotetask')

#: Failures that are kept on a job, the latest ones.
KEPT_FAILURES = 10


class Claim(NamedTuple):
    """A job that somebody has taken to run it."""

    jobid: int
    run: int                # `Job.run` when it was claimed: with the id, the token
    attempt: int            # the number of the run among those that can fail, from 1 on
    task: str
    input: Any              # what the job's row has of it: it may have to be loaded from a record of its own
    suspect: int = 0        # see `Job.suspect`
    retryPolicy: RetryPolicy | None = None
    timeLimit: float | None = None          # seconds
    request: str | None = None              # the id of the HTTP request that added the job
    traceparent: str | None = None          # the trace context of the span that added the job

    @property
    def label(self):
        """What a line of the log calls the run."""
        request = '' if self.request is None else f', request {self.request}'
        return line(f'job {self.jobid} ({self.task}{request})')

    def about(self, event, **more):
        """Return the argument `extra` for a line of the log about the run; see `logs.about`."""
        return about(event, job=self.jobid, task=self.task, attempt=self.attempt, request=self.request, **more)


class Outcome(NamedTuple):
    """What became of a run.  `output` is for COMPLETED; `failure` for ERROR, and for QUEUED: run it again."""

    jobid: int
    run: int
    status: str             # COMPLETED, ERROR or QUEUED
    started: float          # UTC seconds
    ended: float
    output: Any = None
    failure: Failure | None = None
    retryAt: float | None = None


class Returned(NamedTuple):
    """A claim on a job that has not been started and is not wanted any more."""

    jobid: int
    run: int
    isLast: bool = False    # whether it goes to the end of its queue: it would wait again here, and hold up others


class Recorded(NamedTuple):
    """A run whose end is on the job already, or does not matter any more: only the claim is left to close."""

    jobid: int
    run: int
    tid: bytes = b''        # the transaction that says so, or a later one: the one that closes the claim must see it
    outcome: Outcome | None = None          # what the run itself has committed, without the output


def claimOn(job):
    """Return the `Claim` for a job that a ledger says is claimed."""
    row = job.row
    if row.more is None:
        return Claim(job.id, row.run, row.failedAttempts + 1, row.task, row.input)
    return Claim(job.id, row.run, row.failedAttempts + 1, row.task, row.input, job.suspect, job.retryPolicy,
                 job.timeLimit, job.request, job.traceparent)


def holds(job, claim):
    """Return whether the job (None: it is gone) still waits for the end of this very run."""
    return _held(job, claim) is not None


def _held(job, claim):
    """Return the row of a job if it still waits for the end of this very run, else None."""
    if job is None:
        return None
    row = job.row
    return row if row.run == claim.run and row.status not in FINAL else None


def endBroken(service, job, now, waited=False):
    """End a `BrokenJob` that waits for something; return whether it did.

    It is taken out of where it waits, and from now on is one of those that ended in ERROR, to be removed as they are.
    What is stored of it stays until then.  The claim of a processing host is closed by that host.

    now -- UTC seconds.
    waited -- whether it was in a queue, or claimed, until the caller took it from there.
    """
    jobid = job.id
    if any(jobid in ledger.claimed for ledger in service.ledgers.values()):
        return False
    ledger = shardOf(service, jobid).ledger
    waited = waited or dequeue(service, jobid) or ledger.release(jobid)
    waited = service.index.remove(jobid) or waited
    for jobids in (service.schedule.aside, *service.stranded.values()):
        if jobid in jobids:
            jobids.remove(jobid)
    if waited:
        ledger.finish(jobid, ERROR, now)
        count(ledger, OTHER, ERROR)
    return waited


def finish(job, ledger, status, when):
    """Enter the end of a job in a ledger, at `when` in UTC seconds, and the time on the job: never before its start."""
    row = job.row
    completed = ledger.finish(job.id, status, when if row.started is None else max(when, row.started))
    if completed != row.completed:
        job.change(completed=completed)


def record(service, job, outcome, host=0):
    """Write an outcome on its job, which the claim must still hold, and see to what follows from it.

    host -- the number of the host where the run was; 0 for none.
    """
    # In whole microseconds, as a ledger has them; and the clock may have been set back meanwhile.
    started = None if outcome.started is None else microseconds(outcome.started) / MICROSECONDS
    ended = microseconds(outcome.ended) / MICROSECONDS
    ended = ended if started is None else max(ended, started)
    if outcome.failure is not None:
        charge(job, outcome.failure)
    changes = {'started': started, 'completed': ended, 'host': host}
    row = job.row
    if row.more is not None:
        changes['suspect'] = None                       # its host lives
    if outcome.status == QUEUED:
        changes['retryAt'] = outcome.retryAt
    else:
        changes['output'] = job.put('output', outcome.output)
        changes['error'] = outcome.failure and outcome.failure.message
        if row.status != CRONJOB:
            job.change(status=outcome.status, **changes)
            return
        changes['failedAttempts'] = 0
        calledFor = job.calledFor if job.askedFor is None else job.askedFor
        job.history = job.historyWith(Run(calledFor, job.id, outcome.status, started, ended, changes['error']))
        changes['askedFor'] = None
    if row.status == CRONJOB:
        changes['pending'] = None
    job.change(run=row.run + 1, **changes)
    place(service, job)
    service.schedule.inbox.put(job.id)


def charge(job, failure):
    """Note a failed attempt on its job."""
    job.errors = (job.errors + (failure,))[-KEPT_FAILURES:]
    job.failedAttempts += 1


def acknowledge(service, ledger, report, now, ends=None):
    """Enter the end of a claim, an `Outcome`, `Recorded` or `Returned`, in the ledger that holds it, and on the job.

    Return the `Outcome` that is on the job because of this very run, or None.

    now -- UTC seconds.
    ends -- a list, to which what is to be counted of the run is added: see `tallies.enter`.  Default: it is counted.
    """
    if ends is None:
        done = acknowledge(service, ledger, report, now, found := [])
        enter(ledger, found)
        return done
    if ledger.claimed.get(report.jobid) != report.run:
        # Entered before: by a commit whose answer was lost, or by a rescuer.
        return getattr(report, 'outcome', None)
    if isinstance(report, Returned):
        release(service, ledger, report.jobid, now, started=False, isLast=report.isLast)
        return None
    job = service.jobs.get(report.jobid)
    if isinstance(report, Recorded) and holds(job, report):
        # The thread that ran it saw other data than these.  Count a failure, so that the job ends at last.
        attempts = (job.retryPolicy or DEFAULT).attempts
        return interrupted(service, ledger, job, Failure(now, 'the end of the run is not on record'), attempts, now)
    ledger.release(report.jobid)
    if isinstance(job, BrokenJob):
        endBroken(service, job, now, waited=True)
    elif isinstance(report, Outcome) and (row := _held(job, report)) is not None:
        _note(ends, row, report.status, report.started, report.ended)
        record(service, job, report, ledger.number)
        row = job.row
        if row.status in FINAL:
            finish(job, ledger, row.status, row.completed)
        elif report.status == ERROR:
            ledger.failRun(job.id, report.ended)
        return report
    elif job is not None:
        _close(ledger, job, report, ends)
    return getattr(report, 'outcome', None)


def _note(ends, row, status, started, ended):
    """Add what `tallies.enter` takes of a run to a list; the row is that of its job."""
    if started is not None:
        since = row.created if row.more is None else readySince(row)        # each job comes by here
        ends.append((row.task, status, started - since, ended - started))


def _close(ledger, job, report, ends):
    """Enter the end of a run that is on its job already: by its own transaction, or because others ended the job."""
    outcome = getattr(report, 'outcome', None)
    if outcome is not None:
        _note(ends, job.row, outcome.status, outcome.started, outcome.ended)
    elif isinstance(report, Recorded) and job.status == CRONJOB and job.run == report.run + 1 and job.history:
        last = job.history[-1]              # its host ended before it could report
        _note(ends, job.row, last.status, last.started, last.completed)
    if job.run == report.run and job.status in FINAL and job.status != CANCELLED:
        if outcome is None:
            _note(ends, job.row, job.status, job.started, job.completed)
        # The caller who cancelled has entered that.  Others may have ended in the same microsecond: the job knows its
        # key.
        completed = ledger.finish(job.id, job.status, job.completed)
        if completed != job.completed:
            job.change(completed=completed)


def interrupted(service, ledger, job, failure, attempts, now, suspect=0):
    """Charge a claimed job for a run that has come to no end, and queue it again or, after its last attempt, end it.

    Return the `Outcome` of that run.

    failure -- the `Failure` to note.
    attempts -- how many runs the job has in all.
    suspect -- see `release`.
    """
    claim, began = claimOn(job), ledger.beganAt(job.id)
    more = {'service': whereIs(service), 'host': failure.host, 'error': line(failure.message)}
    count(ledger, job.task, LOST)
    if job.failedAttempts + 1 >= attempts:
        tell(service, log, logging.ERROR, '%s failed: %s', claim.label, more['error'],
             extra=claim.about('job.failed', **more))
        started = began if began is not None else now if job.started is None else job.started
        count(ledger, job.task, ERROR)
        outcome = Outcome(job.id, job.run, ERROR, started, now, failure=failure)
        acknowledge(service, ledger, outcome, now, ends=[])
    else:
        tell(service, log, logging.WARNING, '%s failed, and is queued again: %s', claim.label, more['error'],
             extra=claim.about('job.rescued', **more))
        started = now if began is None else began
        outcome = Outcome(job.id, job.run, QUEUED, started, now, failure=failure, retryAt=now)
        charge(job, failure)
        release(service, ledger, job.id, now, suspect=suspect)
    return outcome


def tell(service, logger, level, *message, extra):
    """Log a line when the transaction has been committed; without a database at once.

    message -- with its arguments.
    extra -- see `logs.about`.
    """
    if service._p_jar is None:
        logger.log(level, *message, extra=extra)
    else:
        service._p_jar.transaction_manager.get().addAfterCommitHook(
            lambda isCommitted: isCommitted and logger.log(level, *message, extra=extra))


def tellJob(service, event, job):
    """Log what has become of a job when the transaction has been committed, if anybody looks at such lines.

    event -- the word for it, as 'job.added', which is also what the line says.
    """
    if jobLog.isEnabledFor(logging.INFO):
        claim = claimOn(job)
        tell(service, jobLog, logging.INFO, '%s %s', claim.label, event.partition('.')[2],
             extra=about(event, job=job.id, task=job.task, request=job.request, service=whereIs(service)))


def release(service, ledger, jobid, now, started=True, suspect=0, isLast=False):
    """Return a claimed job to its queue, where it was before, without charging it an attempt; or close a claim on a
    run that nobody waits for any more.  Return whether the job is in its queue.

    started -- whether it may be running: then its number of runs goes up, and what that run does is refused.
    suspect -- see `Job.suspect`.
    isLast -- whether it goes to the end of the queue instead.
    """
    run = ledger.claimed.get(jobid)
    if run is None:
        return False
    job = service.jobs.get(jobid)
    if not holds(job, Recorded(jobid, run)):
        acknowledge(service, ledger, Recorded(jobid, run), now)
        return False
    ledger.release(jobid)
    if started:
        job.change(run=job.run + 1, suspect=suspect or None)
    else:
        job.touch()             # conflicts with its end, which sees a claim still, and would leave its id in the queue
    if isLast:
        enqueue(service, job)
    else:
        putBack(service, job)
    return True


def setProgress(service, jobid, fraction, message):
    """Note how far the run of a claimed job is; nothing happens to one that nobody has claimed."""
    job = service.jobs.get(jobid)
    ledger = None if job is None else claimant(service, job)
    if ledger is not None:
        ledger.progress[jobid] = fraction, message


def claimant(service, job):
    """Return the ledger that claims the job, or None; the claim on an earlier run of it does not count."""
    run = job.run
    return next((ledger for ledger in (shardOf(service, job.id).ledger, *service.ledgers.values())
                 if ledger.claimed.get(job.id) == run), None)


def claimed(service, job):
    """Return whether some ledger claims the job."""
    return claimant(service, job) is not None


def progress(service, jobid):
    """Return how far the run of a job is, fraction and message; None when nothing is known."""
    ledger = claimant(service, service.jobs[jobid])
    return None if ledger is None else ledger.progress.get(jobid)
