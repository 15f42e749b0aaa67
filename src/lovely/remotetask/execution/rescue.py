"""Taking over the jobs of a host that is lost.  `storage.hosts` judges whether it is.

A *heartbeat* is a commit that writes the record of a host's ledger: the `Ledger` itself, not only the trees below it.
The owner of a ledger sees to it that there is one at least each third of its lease.

A host has *ended* when its process is gone, which only its own machine can see.  A host is *silent* when the record of
its ledger has not changed for a whole lease.  Three rules keep a living host from being rescued:

1.  An observer counts only time in which it could write itself: no two of its own commits are more than half a lease
    apart.  After a longer gap it begins to watch anew.  It does not matter where the gap comes from: the database was
    away, somebody else held the commit lock, the observer was stopped or slow.
    This is enough where a database serves waiting commits in turn: a heartbeat begins a third of a lease after the one
    before, and waits for half a lease at the most, or the observer would have waited for so long, too.
2.  A rescue writes the record of the ledger: it has no owner any more.  Of two transactions that write one record the
    database lets only one commit.  So a heartbeat that the observer has not seen yet refuses the rescue, and of two
    hosts that rescue a third one only one succeeds.
3.  A host that was rescued and lives finds its ledger without an owner.  It takes the ledger back, has the runs that it
    has lost end, and goes on with new claims.  What these runs still do is refused: their jobs have another run number.
"""
# SPDX-License-Identifier: ZPL-2.1
from typing import NamedTuple

from lovely.remotetask.errors import HostDied
from lovely.remotetask.execution.tasks import policyOf
from lovely.remotetask.execution.tasks import queryTask
from lovely.remotetask.job import Failure
from lovely.remotetask.storage.ledger import LONG
from lovely.remotetask.storage.ledger import ONCE
from lovely.remotetask.storage.ledger import SUSPECT
from lovely.remotetask.storage.tallies import LOST
from lovely.remotetask.storage.tallies import count
from lovely.remotetask.storage.transitions import Claim
from lovely.remotetask.storage.transitions import Outcome
from lovely.remotetask.storage.transitions import Recorded
from lovely.remotetask.storage.transitions import claimOn
from lovely.remotetask.storage.transitions import holds
from lovely.remotetask.storage.transitions import interrupted
from lovely.remotetask.storage.transitions import release


#: Suspects run in groups: as small ones as this many groups allow.
GROUPS = 32


class Ended(NamedTuple):
    """A run that its host's end has ended, for subscribers."""

    claim: Claim
    outcome: Outcome


class Rescued(NamedTuple):
    """What was done about the claims of a host."""

    claims: int = 0     # how many there were
    ends: tuple = ()    # an `Ended` for each run that is known to have begun
    returned: frozenset = frozenset()       # ids of the jobs that a host which stops has given back to their queues


def rescue(service, name, now, silent=None):
    """Return the jobs that a lost host has claimed to their queues; return what was done, a `Rescued`.

    name -- of its ledger, which has no owner then.
    now -- UTC seconds.
    silent -- seconds, of its lease: nothing was heard of it for so long; default: its process has ended.

    One of them may be the reason why the host was lost.  Those that were being run, as far as that is on record, have
    used up an attempt: all of them, or, if there was a single suspect among them, it alone.  Those of a group of
    suspects have not: they are run one at a time.  Of others nobody knows, or of those that ran beside suspects, so
    they become suspects: they are run in small groups, on record before they begin.  So each job that ends its hosts
    runs without other suspects at last.  A job that must not be begun twice ends.
    """
    ledger = service.ledgers[name]
    ledger.owner = None                 # even where it was None: who rescues writes the record of the ledger
    marks, jobids, ends = dict(ledger.started), list(ledger.claimed.keys()), []
    charged, suspects = _judge(jobids, marks)
    for jobid in jobids:
        mark = marks.get(jobid)
        if mark == ONCE or jobid in charged:
            ends += _interrupted(service, ledger, jobid, mark, HostDied(name, silent), now)
        else:
            job = service.jobs.get(jobid)
            if holds(job, Recorded(jobid, ledger.claimed[jobid])):
                count(ledger, job.task, LOST)
            release(service, ledger, jobid, now, suspect=suspects.get(jobid, 0))
    return Rescued(len(jobids), tuple(ends))


def _judge(jobids, marks):
    """Return which of the jobs of a lost host have used up an attempt, a set of ids, and which are suspects: a dict of
    id to what `Job.suspect` is to be.

    marks -- see `Ledger.started`.
    """
    group = {jobid for jobid in jobids if marks.get(jobid) == SUSPECT}
    long = {jobid for jobid in jobids if marks.get(jobid) == LONG}
    unknown = [jobid for jobid in jobids if jobid not in marks or group and jobid in long]
    suspects = dict.fromkeys(unknown, -(-len(unknown) // GROUPS))
    if len(group) > 1:
        return set(), {**suspects, **dict.fromkeys(group, 1)}
    return group or long, suspects


def _interrupted(service, ledger, jobid, mark, error, now):
    """Charge a job for the run that its host's end has ended, if it still waits for that run; yield the `Ended`."""
    job, token = service.jobs.get(jobid), Recorded(jobid, ledger.claimed[jobid])
    if holds(job, token):
        once, claim = mark == ONCE, claimOn(job)
        failure = Failure(now, f'{error}; it is not run again, because it must not run twice' if once else str(error),
                          '', error.host)
        attempts = 0 if once else policyOf(job, queryTask(service, job.task)).attempts
        yield Ended(claim, interrupted(service, ledger, job, failure, attempts, now, suspect=int(mark == SUSPECT)))
    else:
        release(service, ledger, jobid, now)


def interrupt(service, name, jobid, unstarted, now):
    """Give a claim back whose host stops in good order: no attempt is charged, but what must not run twice ends.

    Return whether it is in its queue, and a list with the `Ended` of what must not run twice.
    """
    ledger = service.ledgers[name]
    if not unstarted and ledger.started.get(jobid) == ONCE:
        return False, list(_interrupted(service, ledger, jobid, ONCE, HostDied(name), now))
    return release(service, ledger, jobid, now, started=not unstarted), []
