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


#: The most suspects that run at the same time on one host.
TOGETHER = 32

#: The most stranded suspects of a task that a claim passes over, to get at other stranded jobs.
PASSED = 100

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


class Group:
    """Counts the suspects that a host claims to run at the same time.

    most -- how many there may be, if none of them asks for fewer: see `Job.suspect`.
    """

    def __init__(self, most):
        self.most, self.size = min(most, TOGETHER), 0

    @property
    def room(self):
        """How many more may join it."""
        return self.most - self.size

    def admits(self, job):
        """Return whether a job may be claimed besides these: one that is no suspect, or is gone (None), always may."""
        return job is None or not job.suspect or self.size < min(self.most, job.suspect)

    def join(self, claims):
        """Count those of some `Claim`s that are on suspects."""
        for claim in claims:
            if claim.suspect:
                self.size, self.most = self.size + 1, min(self.most, claim.suspect)


class Allowance:
    """How many more ids a transaction may take out of the queues in vain."""

    def __init__(self, left=IN_VAIN):
        self.left = left

    @property
    def isSpent(self):
        """Whether the search has ended before the queues did: there may be more to claim."""
        return self.left <= 0


def claimStranded(service, count, now, lacks, ledger=None, group=None):
    """Claim up to `count` stranded jobs that this host can run; return a list of `Claim`s.

    group -- the `Group` that suspects among them join; those that it does not admit stay where they are.  Default: one
        of a single suspect.  The other arguments are those of `claim`.
    """
    claims, group = [], Group(1) if group is None else group
    for jobid, job in _stranded(service, count, lacks):
        if len(claims) >= count:
            break
        if group.admits(job):
            unstrand(service, jobid)
            if job is not None and not isinstance(job, BrokenJob):
                place(service, job)
            found = _claim(service, job, now, ledger, lacks)
            group.join(found)
            claims += found
    return claims


def _stranded(service, count, lacks):
    """Yield pairs of id and job, or None, of jobs that are stranded: of each task the first ones.

    count -- how many are wanted, and fetched at once.
    """
    for task, jobids in service.stranded.items():
        if count > 0 and jobids and not lacks(task):
            waiting = iter(list(itertools.islice(jobids, count + PASSED)))
            while chunk := list(itertools.islice(waiting, count)):
                yield from fetch(service, chunk)


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
    while (allowance is None or not allowance.isSpent) and (shard := oldestShard(service)) is not None:
        (_, job), = fetch(service, service.shards[shard].ready.pull())
        if claims := _claim(service, job, now, ledger, lacks):
            return claims
        if allowance is not None:
            allowance.left -= 1
    return []


def claimSuspects(service, now, ledger=None, lacks=lambda name: None, allowance=None, group=None, skip=0):
    """Claim the next suspects; return a list of `Claim`s.

    group -- the `Group` that they join; default: one of a single suspect.
    skip -- how many suspects are left to other hosts, if there are more.
    The other arguments are as for `claimOldest`.
    """
    claims, group, suspects = [], Group(1) if group is None else group, service.suspects
    while not claims and group.room > 0 and (allowance is None or not allowance.isSpent) and suspects:
        place = skip % len(suspects) if skip else 0
        jobs = fetch(service, list(itertools.islice(suspects, place, place + group.room)))
        looked = 0
        for _, job in itertools.takewhile(lambda item: group.admits(item[1]), jobs):
            found = _claim(service, job, now, ledger, lacks)
            group.join(found)
            claims += found
            looked += 1
        suspects.pull(looked, place)
        if allowance is not None:
            allowance.left -= looked - len(claims)
    return claims


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
