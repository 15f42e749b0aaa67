"""Claiming and running a job in the caller's own thread and transaction."""
# SPDX-License-Identifier: ZPL-2.1
import functools

from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import WrongState
from lovely.remotetask.execution.run import execute
from lovely.remotetask.execution.tasks import lacking
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import transitions


def claimNext(service, now, jobid=None, tasks=None):
    """Return the `Claim` on the next job, or None; or the one that `claimNextJob` made on the job of this id.

    now -- UTC seconds.
    tasks -- names of tasks: the job is of one of these; see `tasks.takes`.  Default: of any.

    Raise `errors.WrongState` for the id of a job that has not been claimed.
    """
    if jobid is not None:
        job = service.jobs[jobid]
        if isinstance(job, BrokenJob) or jobid not in ready.shardOf(service, jobid).ledger.claimed:
            raise WrongState(jobid, service.getStatus(jobid), 'process')
        return transitions.claimOn(job)
    _schedule(service, now)
    lacks = functools.partial(lacking, service, 'this process', patterns=tasks)
    chosen = {} if tasks is None else {'lacks': lacks}      # without patterns any job is taken, even one that will fail
    claims = (claiming.claimSuspects(service, now, **chosen) or claiming.claimStranded(service, 1, now, lacks)
              or claiming.claimOldest(service, now, **chosen))
    return claims[0] if claims else None


def processNext(service, now, jobid=None):
    """Claim a job, run it, and record what came of it, in the caller's transaction; return whether there was one.

    The arguments, and what is raised, are those of `claimNext`.
    """
    claim = claimNext(service, now, jobid)
    if claim is not None:
        _run(service, claim, now)
    return claim is not None


def _run(service, claim, now):
    manager = None if service._p_jar is None else service._p_jar.transaction_manager
    before = manager and manager.get()
    savepoint = before and before.savepoint(optimistic=True)
    outcome = execute(service, claim, lambda: now)
    if manager is not None and manager.get() is not before:
        _claimAgain(service, claim, now)
    elif outcome.status != COMPLETED and savepoint is not None and savepoint.valid:
        savepoint.rollback()
    transitions.acknowledge(service, ready.shardOf(service, claim.jobid).ledger, outcome, now)


def processAll(service, now, tasks=None):
    """Process jobs until there is none to claim; the arguments are those of `claimNext`.

    Raise `RemoteTaskError` when a job comes a second time for the same run.  That happens when a task ends the caller's
    transaction, and with it what is on record of the jobs before.
    """
    seen = set()
    while (claim := claimNext(service, now, tasks=tasks)) is not None:
        if (claim.jobid, claim.run, claim.attempt) in seen:
            raise RemoteTaskError(f'{claim.label} would run again and again: a task has ended the transaction that the '
                                  'jobs are processed in; commit after each one, by processNext, or let a processing '
                                  'host run them')
        seen.add((claim.jobid, claim.run, claim.attempt))
        _run(service, claim, now)


def _claimAgain(service, claim, now):
    """Renew a claim whose task ended the transaction in which it was made: otherwise its job would run for ever."""
    _schedule(service, now)
    shard = ready.shardOf(service, claim.jobid)
    if ready.dequeue(service, claim.jobid):
        shard.ledger.claim(claim.jobid, claim.run)


def _schedule(service, now):
    while scheduling.tick(service, now):
        pass
