"""Which jobs there are, how many, and how they fare: the answers cost the same however many jobs are stored."""
# SPDX-License-Identifier: ZPL-2.1
import heapq
import itertools
import math
from collections import deque
from typing import Any
from typing import NamedTuple

from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import PROCESSING
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import STARTLATER
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.job import Run
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage.index import FAILING
from lovely.remotetask.storage.index import PENDING
from lovely.remotetask.storage.index import RETRY
from lovely.remotetask.storage.index import entryOf
from lovely.remotetask.storage.ledger import MICROSECONDS
from lovely.remotetask.storage.ledger import microseconds
from lovely.remotetask.storage.ready import fetch
from lovely.remotetask.storage.ready import ledgers
from lovely.remotetask.storage.ready import queues
from lovely.remotetask.storage.ready import readySince
from lovely.remotetask.storage.ready import waiting
from lovely.remotetask.storage.transitions import claimant


#: Jobs of a queue that are looked at together: a newer one among them does not wait for an older one to be listed.
WINDOW = 16

#: What counts as lately for the throughput, in seconds, and how many ended jobs of a ledger are looked at for it.
LATELY, ENOUGH = 60.0, 1000

#: Seconds in which failures are counted, and how many of a ledger are counted at the most.
WINDOW_TIME, FAILURES = 3600.0, 10_000

#: How many jobs are looked at for those of one task at the most, and how many together.
LOOKED_AT, CHUNK = 10_000, 100


class Place(NamedTuple):
    """Where a job runs, or ran last."""

    host: str | None            # the name of the processing host; None for none, or when nothing is known
    started: float | None       # when that run began, in UTC seconds; None when it has not, or is not on record yet
    isRunning: bool             # whether it goes on, or is claimed


def placeOf(service, job):
    """Return the `Place` of a job."""
    ledger = claimant(service, job) if job.status in (QUEUED, CRONJOB) else None
    if ledger is None:
        return Place(service.hosts.nameOf(job.host), job.started, False)
    return Place(service.hosts.nameOf(ledger.number), ledger.beganAt(job.id), True)


def listed(service, status, start, size, task=None, since=None):
    """Return a list of jobs, newest first: see `ITaskService.getJobs`."""
    oldest = -math.inf if since is None else since * MICROSECONDS
    newest = heapq.merge(*(source for one in (STATUSES if status is None else [status])
                           for source in _sources(service, one, oldest)), reverse=True)
    if task is not None:
        newest = _ofTask(service, itertools.islice(newest, LOOKED_AT), task)
    page = [jobid for _, jobid in itertools.islice(newest, start, start + size)]
    return [job for _, job in fetch(service, page) if job is not None]


def _ofTask(service, entries, task):
    while chunk := list(itertools.islice(entries, CHUNK)):
        jobs = fetch(service, [jobid for _, jobid in chunk])
        yield from (entry for entry, (_, job) in zip(chunk, jobs) if job is not None and job.task == task)


class Schedule(NamedTuple):
    """A cron or delayed job, and how its runs fare.  Jobs that it added and that were removed are left out."""

    job: Any
    last: Run | None            # the last of its runs, or of the jobs that it added, that has ended
    reason: str | None          # why it waits, when a scheduler cannot handle it, or no host can run it
    failures: int               # how many of the latest ones have failed, one after the other; up to `job.KEPT_RUNS`

    @property
    def outcome(self):
        """The status of the last run."""
        return self.last and self.last.status


def scheduleOf(service, job):
    """Return the `Schedule` of a cron or delayed job."""
    ended = [run for run in (_resolved(service, run) for run in reversed(job.history)) if run.status in FINAL]
    failures = itertools.takewhile(lambda run: run.status == ERROR, ended)
    isStuck = job.stranded or job.id in service.schedule.aside
    return Schedule(job, next(iter(ended), None), job.error if isStuck else None, len(list(failures)))


def _resolved(service, run):
    """Return a run with what the job that was added for it says of its end."""
    if run.status is not None:
        return run
    job = service.jobs.get(run.jobid)
    return run if job is None else Run(run.calledFor, run.jobid, job.status, job.started, job.completed, job.error)


def schedules(service, start, size, task=None):
    """Return a list of `Schedule`, newest first: see `ITaskService.getSchedules`."""
    newest = heapq.merge(*(_entered(service.index.entries(part)) for part in (CRONJOB, DELAYED)), reverse=True)
    if task is not None:
        newest = _ofTask(service, itertools.islice(newest, LOOKED_AT), task)
    page = [jobid for _, jobid in itertools.islice(newest, start, start + size)]
    return [scheduleOf(service, job) for _, job in fetch(service, page)
            if job is not None and not isinstance(job, BrokenJob)]


def _sources(service, status, oldest):
    """Return iterables of what stands for the jobs in a status: of pairs of microseconds and id, the newest first.

    oldest -- microseconds: none that is older.  Queues have an order of their own: LOOKED_AT of each are looked at.
    """
    if status != QUEUED:
        return [itertools.takewhile(lambda entry: entry[0] >= oldest, source) for source in _exact(service, status)]
    waiting = itertools.takewhile(lambda entry: entry[0] >= oldest, _entered(service.index.entries(RETRY)))
    return [*(_queued(service, queue, oldest) for queue in queues(service)), waiting]


def _exact(service, status):
    """Return the iterables for any status but QUEUED, all of whose entries have the time that counts."""
    if status in FINAL:
        sources = [_ended(ledger.finished[status]) for ledger in ledgers(service)]
        if status == COMPLETED:
            sources.append(sorted(((microseconds(job.completed), job.id) for job in _claimed(service)
                                   if job.status == COMPLETED), reverse=True))
        return sources
    if status == PROCESSING:
        return [sorted((entryOf(job) for job in _claimed(service) if job.status == QUEUED), reverse=True)]
    return [_entered(service.index.entries(status))]


def _backwards(tree, before):
    """Yield the keys of a BTree from the last to the first; `before` gives the largest key that is less than one."""
    try:
        key = tree.maxKey()
        while True:
            yield key
            key = tree.maxKey(before(key))
    except ValueError:          # there is none
        return


def _times(finished):
    return _backwards(finished, lambda key: key - 1)


def _ended(finished):
    return ((key, finished[key]) for key in _times(finished))


def _entered(entries):
    return _backwards(entries, lambda entry: (entry[0], entry[1] - 1))


def _claimed(service):
    """Return the jobs that are claimed, also those that were cancelled, or completed by a transaction of their own: the
    claims on these are closed by the next one of their host, which enters completed ones in its ledger.
    """
    runs = [claim for ledger in ledgers(service) for claim in ledger.claimed.items()]
    jobs = fetch(service, [jobid for jobid, _ in runs])
    return [job for (_, job), (_, run) in zip(jobs, runs) if job is not None and job.run == run]


def _queued(service, queue, oldest):
    """Yield what stands for the queued jobs of a queue, the last one first; for `oldest` see `_sources`.

    A job that is queued again is behind newer ones.  For the merge with other queues it counts as what it stands by.
    """
    entries = entriesOf(service, reversed(queue))
    if oldest != -math.inf:
        entries = (entry for entry in itertools.islice(entries, LOOKED_AT) if entry[0] >= oldest)
    window = deque(itertools.islice(entries, WINDOW))
    while window:
        yield max(window)[0], window.popleft()[1]
        window.extend(itertools.islice(entries, 1))


def entriesOf(service, jobids):
    """Yield what stands for the queued jobs with these ids, in their order: see `entryOf`."""
    while chunk := list(itertools.islice(jobids, WINDOW)):
        for _, job in fetch(service, chunk):
            if job is not None and (job.status == QUEUED or isinstance(job, BrokenJob)):
                yield entryOf(job)


def counts(service):
    """Return how many jobs there are in each status: see `ITaskService.countJobs`."""
    index, claimed = service.index, [job.status for job in _claimed(service)]
    found = {status: sum(ledger.tally[status] for ledger in ledgers(service)) for status in FINAL}
    found.update((status, index.count(status)) for status in (STARTLATER, DELAYED, CRONJOB))
    found[PROCESSING] = claimed.count(QUEUED)
    found[COMPLETED] += claimed.count(COMPLETED)
    schedules = index.count(PENDING) - claimed.count(CRONJOB)        # which are in the queues
    found[QUEUED] = waiting(service) - schedules + index.count(RETRY)
    return {status: found[status] for status in STATUSES}


def statistics(service, now, window):
    """Return how the service fares: see `ITaskService.getStatistics`."""
    index, stranded = service.index, sum(map(len, service.stranded.values()))
    longest = min((ledger.beganAt(jobid) for ledger in ledgers(service) for jobid in ledger.began), default=None)
    return {'counts': counts(service), 'hosts': hosts.livingHosts(service, now),
            'oldestWaiting': _oldestWaiting(service), 'longestRunning': longest,
            'throughput': _throughput(service, now), 'failures': _failures(service, now - window),
            'retrying': _retrying(service, stranded), 'stranded': stranded,
            'failing': index.count(FAILING), 'unscheduled': len(service.schedule.aside),
            'nextTime': service.schedule.earliest, 'paused': service.paused}


def _retrying(service, stranded):
    """Return how many jobs wait for their next attempt.

    stranded -- how many jobs are stranded; except for cron jobs, they are in the same part of the index.
    """
    cronJobs = service.index.entries(CRONJOB) if stranded else ()
    inOther = sum(any(jobid in jobids for jobids in service.stranded.values()) for _, jobid in cronJobs)
    return service.index.count(RETRY) - (stranded - inOther)


def unclaimable(service, found, takes):
    """Return a dict: task -> how many of its jobs are stranded, for each task that no living host takes.

    found -- the living hosts, as `hosts.livingHosts` gives them.
    takes -- see `tasks.takes`.
    """
    patterns = [host['tasks'] for host in found if host['threads']]
    return {task: len(jobids) for task, jobids in service.stranded.items()
            if jobids and not any(takes(each, task) for each in patterns)}


def _failures(service, since):
    """Return how many jobs ended in ERROR since then, in UTC seconds, and runs of cron jobs failed."""
    start = microseconds(since)
    return sum(len(list(itertools.islice(tree.keys(start), FAILURES))) for ledger in ledgers(service)
               for tree in (ledger.finished[ERROR], ledger.failedRuns))


def _oldestWaiting(service):
    """Return since when the first jobs of the queues wait, in UTC seconds; None when there are none."""
    times = []
    for queue in queues(service):
        jobs = (job for jobid in queue for _, job in fetch(service, [jobid]))
        first = next((job for job in jobs if job is not None and not isinstance(job, BrokenJob)), None)
        if first is not None:
            times.append(readySince(first.row))
    for jobids in service.stranded.values():
        jobs = fetch(service, list(itertools.islice(jobids, ENOUGH)))
        times += (readySince(job.row) for _, job in jobs if job is not None and not isinstance(job, BrokenJob))
    return min(times, default=None)


def _throughput(service, now):
    """Return how many jobs per second have come to an end lately."""
    since, rate = (now - LATELY) * MICROSECONDS, 0.0
    for ledger in ledgers(service):
        for status in COMPLETED, ERROR:
            ends = itertools.takewhile(lambda key: key > since, _times(ledger.finished[status]))
            ends = list(itertools.islice(ends, ENOUGH))
            span = LATELY if len(ends) < ENOUGH else max(now - ends[-1] / MICROSECONDS, 0.001)
            rate += len(ends) / span
    return rate
