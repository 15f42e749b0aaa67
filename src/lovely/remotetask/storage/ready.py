"""Where jobs wait: queues of ids over the shards of a service, and jobs that no host can run yet.

Functions over a service's parts.  Each works in the caller's transaction and commits nothing.
"""
# SPDX-License-Identifier: ZPL-2.1
import itertools
import logging

from BTrees.IIBTree import IITreeSet

from lovely.remotetask.common.logs import about
from lovely.remotetask.database.sites import whereIs
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.storage.ledger import microseconds
from lovely.remotetask.storage.pages import PAGE_BITS
from lovely.remotetask.storage.shards import BITS


log = logging.getLogger('lovely.remotetask')


def shardOf(service, jobid):
    """Return the shard that the job with this id belongs to."""
    return service.shards[jobid >> BITS]


def readySince(row):
    """Return since when a job can be run, in UTC seconds: since it was added, if nothing else is on its row.

    A job that waited for a time, for its next attempt or for somebody is ready from the end of that on.
    """
    return row.created if row.more is None else row.more.get('readySince', row.created)


def enqueue(service, job):
    """Make a job ready to be claimed, for the run that it has the number of now."""
    _queueOf(service, job).put(job.id, job.run)


def putBack(service, job):
    """Make a job ready again that was claimed, for the run that it has the number of now: it comes before all others.

    Of those that were put back, the one that has been ready for longest comes first.
    """
    _queueOf(service, job).putBack(job.id, job.run, microseconds(readySince(job.row)))


def _queueOf(service, job):
    return service.suspects if job.suspect else shardOf(service, job.id).ready


def dequeue(service, jobid):
    """Take a job out of the queue, whichever it is in; return whether it was in one."""
    return shardOf(service, jobid).ready.remove(jobid) or service.suspects.remove(jobid) or unstrand(service, jobid)


class Declined(str):
    """Why a host does not take a job that it could run: it is limited to other tasks."""

    __slots__ = ()


def strand(service, job, reason):
    """Strand a ready job: keep it out of the queues until a host takes it that has what its task needs.

    reason -- a text, for people; see `tasks.lacking`.
    """
    if job.task not in service.stranded:
        service.stranded[job.task] = IITreeSet()
    isFirst = not service.stranded[job.task]
    service.stranded[job.task].insert(job.id)
    job.change(stranded=True, error=f'waits for a processing host that can run it: {reason}')
    place(service, job)
    service._p_changed = True               # wakes the other hosts
    level = logging.WARNING if isFirst and not isinstance(reason, Declined) else logging.DEBUG
    log.log(level, 'job %d (%s) %s', job.id, job.task, job.error,
            extra=about('job.stranded', job=job.id, task=job.task, service=whereIs(service)))


def unstrand(service, jobid):
    """Take a job out of those that are stranded; return whether it was one of them."""
    for jobids in service.stranded.values():
        if jobid in jobids:
            jobids.remove(jobid)
            job = service.jobs.get(jobid)
            if job is not None and not isinstance(job, BrokenJob):
                job.change(stranded=None, error=None)
            return True
    return False


def place(service, job):
    """Update the status index.  Call this whenever a job enters or leaves one of the statuses in `index.PARTS`."""
    service.index.place(job)


def queues(service):
    """Return all queues of ids that are ready to be claimed."""
    return service.suspects, *(shard.ready for shard in service.shards)


def close(service):
    """Close all queues: a transaction that adds a job, and does not see this, conflicts with it."""
    for queue in (*queues(service), service.schedule.inbox):
        queue.close()


def isWaiting(service):
    """Return whether an id is ready to be claimed."""
    return any(queues(service))


def waiting(service, most=None):
    """Count the ids that are ready to be claimed, up to `most`: a long queue need not be loaded to be known as long.

    Without `most` a database server is asked for all that is not in memory at once.
    """
    if most is None and service._p_jar is not None:
        service._p_jar.prefetch([bucket for queue in queues(service) for bucket in queue.unloaded()])
    count = 0
    for queue in queues(service):
        for length in queue.lengths():
            count += length
            if most is not None and count >= most:
                return most
    return count


def interest(service, ledger, claims=True):
    """Return the ids of the objects one of which is written whenever there is something new for the owner of a ledger.

    Those are the ends of the queues, the objects that say whether and where the service is processed, and those that a
    cancellation writes.  None when some of them have no ids yet.

    claims -- whether the owner is to look for jobs to claim; else without the queues that these are in.
    """
    queued = [service.schedule.inbox, *(queues(service) if claims else ())]
    objects = [service, service.schedule, ledger, *queued, *(end for queue in queued for end in queue.ends),
               *(shard.ledger.cancellations for shard in service.shards)]
    if ledger.questions is not None:
        objects.append(ledger.questions)
    oids = {each._p_oid for each in objects}
    return None if None in oids else oids


def fetch(service, jobids):
    """Return pairs of id and job, or None for one that is gone; a database server is asked for all at once."""
    if service._p_jar is not None and len(jobids) > 1:
        found = {jobid >> PAGE_BITS: jobid for jobid in jobids}.values()
        pages = [shardOf(service, jobid).pages.page(jobid) for jobid in found]
        service._p_jar.prefetch([page for page in pages if page is not None and page._p_changed is None])
    jobs = service.jobs
    return [(jobid, jobs.get(jobid)) for jobid in jobids]


def oldestShard(service):
    """Return the number of the shard whose first id is that of the job that was added first; None: all are empty."""
    firsts = {jobid: number for number, shard in enumerate(service.shards)
              for jobid in itertools.islice(shard.ready, 1)}
    ages = [(0 if job is None else job.created, jobid) for jobid, job in fetch(service, list(firsts))]
    return firsts[min(ages)[1]] if ages else None


def ledgers(service):
    """Yield all ledgers: those of the shards, then those of the processing hosts."""
    for shard in service.shards:
        yield shard.ledger
    yield from service.ledgers.values()
