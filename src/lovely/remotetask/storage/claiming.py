"""How a host takes jobs out of the queues: each function notes the claims in a ledger, and commits nothing."""
# SPDX-License-Identifier: ZPL-2.1
import itertools

from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.storage.ready import fetch
from lovely.remotetask.storage.ready import oldestShard
from lovely.remotetask.storage.ready import place
from lovely.remotetask.storage.ready import shardOf
from lovely.remotetask.storage.ready import strand
from lovely.remotetask.storage.ready import unstrand
from lovely.remotetask.storage.shards import SHARDS
from lovely.remotetask.storage.transitions import claimOn
from lovely.remotetask.storage.transitions import endBroken


#: The most ids that one transaction takes out of the queues in vain: of jobs that are gone, broken, or for other hosts.
IN_VAIN = 1000


def declined(service, most, isLeft):
    """Return the ids of all ready jobs, a tuple; an empty one if there are more than `most`, or one is not left.

    isLeft -- called with the name of a task: whether a host leaves its jobs to other hosts.
    """
    jobids = list(itertools.islice(itertools.chain.from_iterable(shard.ready for shard in service.shards), most + 1))
    if len(jobids) > most:
        return ()
    jobs = [job for _, job in fetch(service, jobids)]
    areLeft = all(job is not None and not isinstance(job, BrokenJob) and isLeft(job.task) for job in jobs)
    return tuple(jobids) if areLeft else ()


class Allowance:
    """How many more ids a transaction may take out of the queues in vain."""

    def __init__(self, left=IN_VAIN):
        self.left = left

    @property
    def isSpent(self):
        """Whether the search has ended before the queues did: there may be more to claim."""
        return self.left <= 0


def claimStranded(service, count, now, lacks, ledger=None):
    """Claim up to `count` stranded jobs that this host can run; return a list of `Claim`s.

    The other arguments are those of `claim`.
    """
    claims = []
    for task, jobids in service.stranded.items():
        if len(claims) < count and jobids and not lacks(task):
            for jobid, job in fetch(service, list(itertools.islice(jobids, count - len(claims)))):
                unstrand(service, jobid)
                if job is not None and not isinstance(job, BrokenJob):
                    place(service, job)
                claims += _claim(service, job, now, ledger, lacks)
    return claims


def claim(service, count, start, now, ledger=None, skip=0, lacks=lambda name: None, allowance=None):
    """Claim up to `count` jobs and return a list of `Claim`s and the number of the shard to go on with.

    now -- UTC seconds.
    start -- the number of the shard to begin with.  The jobs of one shard come in the order of the queue, and each
    shard has its turn.
    ledger -- where the claims are noted; default: in the ledger of the job's shard.
    skip -- how many ids are passed over first; see `ReadyQueue.pull`.
    lacks -- a function that returns why this host cannot run the task of a name; see `tasks.lacking`.
    allowance -- the `Allowance` for ids of jobs that cannot be claimed; they do not count.
    """
    claims, allowance = [], Allowance() if allowance is None else allowance
    while len(claims) < count and not allowance.isSpent:
        pulled, start = _pull(service, count - len(claims), start, skip)
        found = []
        for _, job in fetch(service, pulled):
            found += _claim(service, job, now, ledger, lacks)
        claims += found
        allowance.left -= len(pulled) - len(found)
        if len(found) == len(pulled):
            break
    return claims, start


def _pull(service, count, start, skip):
    """Take up to `count` ids out of the queues, for `claim`; return them, and where to go on."""
    pulled = []
    for number in range(start, start + SHARDS):
        if len(pulled) >= count:
            start = number
            break
        shard = service.shards[number % SHARDS]
        if shard.ready:
            jobids = shard.ready.pull(count - len(pulled), skip)
            skip = 0 if pulled or jobids else skip - len(shard.ready)
            pulled += jobids
    return pulled, start % SHARDS


def claimOldest(service, now, ledger=None, lacks=lambda name: None, allowance=None):
    """Claim the job that was added first; return a list of one `Claim`, or of none.

    The arguments are as for `claim`; without an allowance the queues are looked through to their end.
    """
    def pulled():
        shard = oldestShard(service)
        return [] if shard is None else service.shards[shard].ready.pull()

    return _claimOne(service, pulled, now, ledger, lacks, allowance)


def claimSuspect(service, now, ledger=None, lacks=lambda name: None, allowance=None, skip=0):
    """Claim the next suspect; return a list of one `Claim`, or of none.

    skip -- how many suspects are left to other hosts, if there are more.  The other arguments are as for `claimOldest`.
    """
    def pulled():
        suspects = service.suspects
        return suspects.pull(1, skip % max(1, len(suspects)) if skip else 0)

    return _claimOne(service, pulled, now, ledger, lacks, allowance)


def _claimOne(service, pull, now, ledger, lacks, allowance):
    """Claim the first job that can be claimed of those whose ids `pull` returns, one at a time."""
    while (allowance is None or not allowance.isSpent) and (jobids := pull()):
        (_, job), = fetch(service, jobids)
        if claims := _claim(service, job, now, ledger, lacks):
            return claims
        if allowance is not None:
            allowance.left -= 1
    return []


def _claim(service, job, now, ledger, lacks):
    if isinstance(job, BrokenJob):
        endBroken(service, job, now, waited=True)
    elif job is not None:
        claim = claimOn(job)
        if job.row.status not in (QUEUED, CRONJOB):
            return []
        if reason := lacks(claim.task):
            strand(service, job, reason)
            return []
        (shardOf(service, job.id).ledger if ledger is None else ledger).claim(claim.jobid, claim.run)
        return [claim]
    return []
