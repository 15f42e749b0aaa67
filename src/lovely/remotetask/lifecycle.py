"""How a job moves on: due, claimed, recorded, closed, given back.  Functions over a service's parts.

Each works in the caller's transaction and commits nothing.  A *claim* is a note in a ledger that does not write the
job; its token is the pair of job id and `Job.run`.  Whoever brings a job forward checks the token (`holds`) and writes
the job, and the database lets only one of two such transactions commit.
"""
# SPDX-License-Identifier: ZPL-2.1
import itertools
import logging
import math
import time
from typing import Any
from typing import NamedTuple

from BTrees.IIBTree import IITreeSet

from lovely.remotetask.container import BITS
from lovely.remotetask.container import SHARDS
from lovely.remotetask.container import newId
from lovely.remotetask.copying import ownCopy
from lovely.remotetask.database import isDatabaseError
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.job import Failure
from lovely.remotetask.job import Job
from lovely.remotetask.job import Run
from lovely.remotetask.ledger import MICROSECONDS
from lovely.remotetask.ledger import microseconds
from lovely.remotetask.logs import line
from lovely.remotetask.pages import PAGE_BITS
from lovely.remotetask.register import RETRY
from lovely.remotetask.retry import DEFAULT
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.timetable import SET_BACK


log = logging.getLogger('lovely.remotetask')

#: Ids that one transaction takes out of the queues in vain, because their jobs are gone or broken.
IN_VAIN = 1000

#: Failures that are kept on a job, the latest ones.
KEPT_FAILURES = 10

#: Ids that the scheduler moves in one transaction at the most, and together; and the seconds after which it leaves the
#: rest to the next one: claims and heartbeats wait for it.
LIMIT, CHUNK, ENOUGH = 1000, 100, 0.2

#: Parts of the register that wait for a time.
LOOKED_AT = CRONJOB, DELAYED, RETRY


class Claim(NamedTuple):
    """A job that somebody has taken to run it."""

    jobid: int
    run: int                # `Job.run` when it was claimed: with the id, the token
    attempt: int            # failed runs before
    task: str
    input: Any              # what the job's row has of it: it may have to be loaded from a record of its own
    suspect: bool = False   # whether a host ended after it had claimed the job
    retryPolicy: RetryPolicy | None = None
    timeLimit: float | None = None          # seconds
    request: str | None = None              # the id of the HTTP request that added the job

    @property
    def label(self):
        """What a line of the log calls the run."""
        request = '' if self.request is None else f', request {self.request}'
        return line(f'job {self.jobid} ({self.task}{request})')


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


class Recorded(NamedTuple):
    """A run whose end is on the job already, or does not matter any more: only the claim is left to close."""

    jobid: int
    run: int
    tid: bytes = b''        # the transaction that says so, or a later one: whoever closes the claim has to see it


def shardOf(service, jobid):
    """Return the shard that the job with this id belongs to."""
    return service.shards[jobid >> BITS]


def enqueue(service, job):
    """Make a job ready to be claimed, for the run that it has the number of now."""
    (service.suspects if job.suspect else shardOf(service, job.id).ready).put(job.id, job.run)


def dequeue(service, jobid):
    """Take a job out of the queue, whichever it is in; return whether it was in one."""
    return shardOf(service, jobid).ready.remove(jobid) or service.suspects.remove(jobid) or _unstrand(service, jobid)


def strand(service, job, reason):
    """Set a ready job aside because this host lacks what its task needs; the next host that has it takes the job.

    reason -- a text, for people; see `execute.lacking`.
    """
    if job.task not in service.stranded:
        service.stranded[job.task] = IITreeSet()
    isFirst = not service.stranded[job.task]
    service.stranded[job.task].insert(job.id)
    job.stranded, job.error = True, f'waits for a processing host that can run it: {reason}'
    place(service, job)
    service._p_changed = True               # wakes the other hosts
    log.log(logging.WARNING if isFirst else logging.DEBUG, 'job %d (%s) %s', job.id, job.task, job.error)


def _unstrand(service, jobid):
    """Take a job out of those that are stranded; return whether it was one of them."""
    for jobids in service.stranded.values():
        if jobid in jobids:
            jobids.remove(jobid)
            job = service.jobs.get(jobid)
            if job is not None and not isinstance(job, BrokenJob):
                job.stranded, job.error = False, None
            return True
    return False


def claimStranded(service, count, now, lacks, ledger=None):
    """Claim up to `count` stranded jobs that this host can run; return a list of `Claim`s.

    The other arguments are those of `claim`.
    """
    claims = []
    for task, jobids in service.stranded.items():
        if len(claims) < count and jobids and not lacks(task):
            for jobid, job in fetch(service, list(itertools.islice(jobids, count - len(claims)))):
                _unstrand(service, jobid)
                if isinstance(job, BrokenJob):
                    endBroken(service, job, now, waited=True)
                elif job is not None:
                    place(service, job)
                    claims += _claim(service, job, now, ledger, lacks)
    return claims


def place(service, job):
    """See to it that a job is found by its status; to be called when it comes to wait for something else than its turn,
    or does not any more.
    """
    service.register.place(job)


def queues(service):
    """Return all queues of ids that are ready to be claimed."""
    return service.suspects, *(shard.ready for shard in service.shards)


def isWaiting(service):
    """Say whether an id is ready to be claimed."""
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

    Those are the ends of the queues, what says whether and where the service is processed, and what cancels a job.
    None when some of them have no ids yet.

    claims -- whether the owner is to look for jobs to claim; else without the queues that these are in.
    """
    ends = [service.schedule.inbox, *(queues(service) if claims else ())]
    objects = [service, service.schedule, ledger, *ends, *(queue.last for queue in ends),
               *(shard.ledger for shard in service.shards)]
    oids = {each._p_oid for each in objects}
    return None if None in oids else oids


def tick(service, now, limit=LIMIT):  # noqa: C901
    """Move ids from the inbox to the calendar, and what is due at `now` (UTC seconds) into the queues.

    limit -- of each how many at the most; and no more when ENOUGH seconds are over.

    Return whether there may be more to move.
    """
    timetable, until = service.schedule, time.monotonic() + ENOUGH
    _retryAside(service, timetable.asideToTry(now, CHUNK), now)
    more = _lookAgain(service, now) or timetable.isTryingAside
    while limit > 0:
        moved = timetable.inbox.pull(CHUNK) if timetable.inbox else []
        for _, job in fetch(service, moved):
            if isinstance(job, BrokenJob):
                endBroken(service, job, now)
            elif isScheduled(job):
                _enter(service, job, now)
        due = timetable.takeDue(now, CHUNK)
        for (key, _), (_, job) in zip(due, fetch(service, [jobid for _, jobid in due])):
            if isinstance(job, BrokenJob):
                endBroken(service, job, now)
            elif isScheduled(job) and job.due == key:
                _call(service, job, now)
        if not moved and not due:
            return more
        if timetable.seen.latest is None or now >= timetable.seen.latest + 1:
            timetable.seen.latest = now
        if time.monotonic() > until:
            break
        limit -= len(moved) + len(due)
    return True


def isScheduled(job):
    """Return whether a job (None: it is gone) may wait for a time."""
    return job is not None and job.status in (QUEUED, DELAYED, CRONJOB)


def isDue(service, now):
    """Return whether `tick` would queue a job at `now` (UTC seconds)."""
    timetable = service.schedule
    for jobids in _chunks(timetable.inbox):
        for _, job in fetch(service, jobids):
            if isScheduled(job) and _isDueIn(job, now):
                return True
    for entries in _chunks(timetable.due(now)):
        for (key, _), (_, job) in zip(entries, fetch(service, [jobid for _, jobid in entries])):
            if isScheduled(job) and job.due == key:
                return True
    return False


def _isDueIn(job, now):
    """Return whether a job of the inbox is due at `now`; one that cannot be handled is not."""
    try:
        key = _keyOf(job, now)
    except Exception as error:
        if isDatabaseError(error):
            raise
        return False
    return key is not None and key <= now * MICROSECONDS


def _chunks(iterable):
    iterator = iter(iterable)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk


def fetch(service, jobids):
    """Return pairs of id and job, or None for one that is gone; a database server is asked for all at once."""
    if service._p_jar is not None and len(jobids) > 1:
        found = {jobid >> PAGE_BITS: jobid for jobid in jobids}.values()
        pages = [shardOf(service, jobid).pages.page(jobid) for jobid in found]
        service._p_jar.prefetch([page for page in pages if page is not None and page._p_changed is None])
    jobs = service.jobs
    return [(jobid, jobs.get(jobid)) for jobid in jobids]


def _setAside(service, job, error):
    """Set a job aside that the scheduler cannot handle: the others go on.

    The step that failed has changed nothing yet; if it was a call, the job's `due` says for which time.  A time zone
    that this machine does not know may be known to the next scheduler.  Raise what is the database's.
    """
    if isDatabaseError(error):
        raise error
    if service.schedule.aside.insert(job.id) or job.error is None:
        scheduler = f' {service.schedule.keeper}' if service.schedule.keeper else ''
        reason = str(error) if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'
        job.error = (f'waits, because the scheduler{scheduler} cannot handle it: {reason}; it is tried again each '
                     f'minute, by each scheduler, and by reschedule')
        log.error('job %d (%s) %s', job.id, job.task, job.error, exc_info=not isinstance(error, ValueError))


def _takeBack(service, job):
    """Note that a job can be handled."""
    if job.id in service.schedule.aside:
        service.schedule.aside.remove(job.id)
        job.error = None
        log.info('job %d (%s) is scheduled again', job.id, job.task)


def _retryAside(service, jobids, now):
    """Try jobs again that are set aside."""
    for jobid, job in fetch(service, jobids):
        if isinstance(job, BrokenJob):
            endBroken(service, job, now)
        elif not isScheduled(job):
            service.schedule.aside.remove(jobid)
        elif job.due is None:
            _enter(service, job, now)
        else:
            _call(service, job, now)


def _lookAgain(service, now):
    """If the clock has been set back, bring forward what is due too late by that; return whether there may be more."""
    seen = service.schedule.seen
    if seen.latest is not None and now < seen.latest - SET_BACK:
        log.warning('the clock has been set back by %.0f s: all jobs that wait for a time are looked at again',
                    seen.latest - now)
        seen.latest, seen.part, seen.entry = now, 0, None
    if seen.part is None:
        return False
    entries = list(itertools.islice(
        service.register.entries(LOOKED_AT[seen.part]).keys(seen.entry, excludemin=seen.entry is not None), CHUNK))
    for jobid, job in fetch(service, [jobid for _, jobid in entries]):
        if isScheduled(job) and job.due is not None and jobid not in service.schedule.aside:
            _bringForward(service, job, now)
    if len(entries) == CHUNK:
        seen.entry = entries[-1]
    else:
        seen.part, seen.entry = (seen.part + 1, None) if seen.part + 1 < len(LOOKED_AT) else (None, None)
    return seen.part is not None


def _keyOf(job, now):
    """Return the key of a job in the calendar, its next time in microseconds, or None.  Raise whatever happens."""
    when = job.timeOfNextRun(now)
    return None if when is None else round(when * MICROSECONDS)


def _bringForward(service, job, now):
    try:
        key = _keyOf(job, now)
    except Exception as error:
        _setAside(service, job, error)
        job.due = None                  # an entry of the calendar is stale now
        return
    if key is not None and key < job.due:
        service.schedule.enter(key, job.id)
        job.due = key


def _enter(service, job, now):
    """Enter a job in the calendar for its next time."""
    try:
        key = _keyOf(job, now)
    except Exception as error:
        _setAside(service, job, error)
        job.due = None                  # an entry of the calendar is stale now
        return
    _takeBack(service, job)
    if key is not None:
        service.schedule.enter(key, job.id)
    if job.due != key:
        job.due = key
    else:
        job.touch()                     # who takes an id out of the inbox must know the job as it is


def _call(service, job, now):
    """Do what a job waits for: its time has come."""
    due = job.due / MICROSECONDS
    if job.retryAt is not None:
        job.due = job.retryAt = None
        _queue(service, job)
    elif job.status != CRONJOB:
        job.calledFor, job.status, job.due = due, QUEUED, None
        _queue(service, job)
    elif not job.active:
        job.due = None
    else:
        try:
            when = job.timeToRunFor(due, now)
            added = None if when is None else _newJob(service, job, when, now)
        except Exception as error:
            _setAside(service, job, error)
            return
        _takeBack(service, job)
        if job.catchesUp and not job.isMadeUpFor(due, now):
            job.madeUpTo = now
        job.due, job.calledFor = None, due if when is None else when
        if when is not None and not job.newJobs:
            _queue(service, job)
            return
        if added is not None:
            _add(service, job, *added)
        _enter(service, job, now)


def _queue(service, job):
    if job.status == CRONJOB:
        job.pending = True
    place(service, job)
    enqueue(service, job)


def _newJob(service, schedule, when, now):
    """Return the job that a schedule adds for its time `when`, and its history then.

    None for no job, because the last one that it added has not ended.
    """
    if not schedule.newJobs:
        return None
    last = None if schedule.lastJob is None else service.jobs.get(schedule.lastJob)
    if last is not None and last.status not in FINAL and not schedule.overlap:
        return None
    job = Job(newId(service.shards), schedule.task, ownCopy(schedule.stored('input')), now)
    job.schedule = schedule.id
    return job, schedule.historyWith(Run(when, job.id))


def _add(service, schedule, job, history):
    job.store(shardOf(service, job.id).pages)
    schedule.change(lastJob=job.id)
    schedule.history = history
    enqueue(service, job)


def oldestShard(service):
    """Return the number of the shard whose first id is that of the job that was added first; None: all are empty."""
    oldest = None
    for number, shard in enumerate(service.shards):
        for jobid in shard.ready:
            (_, job), = fetch(service, [jobid])
            created = (job.created if job is not None else 0, jobid)
            if oldest is None or created < oldest[0]:
                oldest = created, number
            break
    return oldest and oldest[1]


def claim(service, count, start, now, ledger=None, skip=0, lacks=lambda name: None):
    """Claim up to `count` jobs and return a list of `Claim`s and the number of the shard to go on with.

    now -- UTC seconds.
    start -- the number of the shard to begin with.  The jobs of one shard come in the order of the queue, and each
    shard has its turn.
    ledger -- where the claims are noted; default: in the ledger of the job's shard.
    skip -- how many ids are passed over first; see `ReadyQueue.pull`.
    lacks -- a function that returns why this host cannot run the task of a name; see `execute.lacking`.

    Ids of jobs that are gone or broken do not count; up to `IN_VAIN` of them are looked at.
    """
    claims, vain = [], 0
    while len(claims) < count and vain < IN_VAIN:
        pulled, start = _pull(service, count - len(claims), start, skip)
        found = []
        for _, job in fetch(service, pulled):
            found += _claim(service, job, now, ledger, lacks)
        claims += found
        vain += len(pulled) - len(found)
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


def claimOldest(service, now, ledger=None, lacks=lambda name: None):
    """Claim the job that was added first; return a list of one `Claim`, or of none.  The arguments are as for `claim`.
    """
    claims = []
    while not claims and (shard := oldestShard(service)) is not None:
        for _, job in fetch(service, service.shards[shard].ready.pull()):
            claims += _claim(service, job, now, ledger, lacks)
    return claims


def claimSuspect(service, now, ledger=None, lacks=lambda name: None):
    """Claim the next suspect; return a list of one `Claim`, or of none.  The arguments are those of `claim`."""
    claims = []
    while not claims and service.suspects:
        (_, job), = fetch(service, service.suspects.pull())
        claims += _claim(service, job, now, ledger, lacks)
    return claims


def _claim(service, job, now, ledger, lacks):
    if isinstance(job, BrokenJob):
        endBroken(service, job, now, waited=True)
    elif job is not None and job.status in (QUEUED, CRONJOB):
        if reason := lacks(job.task):
            strand(service, job, reason)
            return []
        (shardOf(service, job.id).ledger if ledger is None else ledger).claim(job.id, job.run)
        return [claimOn(job)]
    return []


def claimOn(job):
    """Return the `Claim` for a job that a ledger says is claimed."""
    row = job.row
    if row.more is None:
        return Claim(job.id, row.run, row.attempt, row.task, row.input)
    return Claim(job.id, row.run, row.attempt, row.task, row.input, job.suspect, job.retryPolicy, job.timeLimit,
                 job.request)


def holds(job, claim):
    """Say whether the job (None: it is gone) still waits for the end of this very run."""
    if job is None:
        return False
    row = job.row
    return row.run == claim.run and row.status not in FINAL


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
    waited = service.register.remove(jobid) or waited
    for jobids in (service.schedule.aside, *service.stranded.values()):
        if jobid in jobids:
            jobids.remove(jobid)
    if waited:
        ledger.finish(jobid, ERROR, now)
    return waited


def finish(job, ledger, status, when):
    """Enter the end of a job in a ledger, at `when` in UTC seconds, and the time on the job: never before its start."""
    job.completed = ledger.finish(job.id, status, when if job.started is None else max(when, job.started))


def record(service, job, outcome):
    """Write an outcome on its job, which the claim must still hold, and see to what follows from it."""
    # In whole microseconds, as the time of the end will be; and the clock may have been set back meanwhile.
    started = None if outcome.started is None else microseconds(outcome.started) / MICROSECONDS
    ended = outcome.ended if started is None else max(outcome.ended, started)
    if outcome.failure is not None:
        charge(job, outcome.failure)
    changes = {'started': started, 'completed': ended, 'suspect': None}         # its host lives
    if outcome.status == QUEUED:
        changes['retryAt'] = outcome.retryAt
    else:
        changes['output'] = job.put('output', outcome.output)
        changes['error'] = outcome.failure and outcome.failure.message
        if job.status != CRONJOB:
            job.change(status=outcome.status, **changes)
            return
        changes['attempt'] = 0
        job.history = job.historyWith(Run(job.calledFor, job.id, outcome.status, started, ended, changes['error']))
    if job.status == CRONJOB:
        changes['pending'] = None
    job.change(run=job.run + 1, **changes)
    place(service, job)
    service.schedule.inbox.put(job.id)


def charge(job, failure):
    """Note a failed attempt on its job."""
    job.errors = (job.errors + (failure,))[-KEPT_FAILURES:]
    job.attempt += 1


def settle(service, ledger, report, now):
    """Enter the end of a claim, an `Outcome`, `Recorded` or `Returned`, in the ledger that holds it, and on the job.

    now -- UTC seconds.
    """
    if ledger.claimed.get(report.jobid) != report.run:
        return              # entered before: by a commit whose answer was lost, or by a rescuer
    job = service.jobs.get(report.jobid)
    if isinstance(report, Returned):
        giveBack(service, ledger, report.jobid, now, started=False)
        return
    if isinstance(report, Recorded) and holds(job, report):
        # The thread that ran it looked at other data than these.  It counts as a failure, so that it has an end.
        attempts = (job.retryPolicy or DEFAULT).attempts
        interrupted(service, ledger, job, Failure(now, 'the end of the run is not on record'), attempts, now)
        return
    ledger.release(report.jobid)
    if isinstance(job, BrokenJob):
        endBroken(service, job, now, waited=True)
    elif isinstance(report, Outcome) and holds(job, report):
        record(service, job, report)
        if job.status in FINAL:
            finish(job, ledger, job.status, job.completed)
    elif job is not None and job.run == report.run and job.status in FINAL and job.status != CANCELLED:
        ledger.finish(job.id, job.status, job.completed)        # whoever cancels enters that by himself


def interrupted(service, ledger, job, failure, attempts, now, suspect=False):
    """Charge a claimed job for a run that has come to no end, and queue it again or, after its last attempt, end it.

    failure -- the `Failure` to note.
    attempts -- how many runs the job has in all.
    suspect -- see `giveBack`.
    """
    if job.attempt + 1 >= attempts:
        started = now if job.started is None else job.started
        settle(service, ledger, Outcome(job.id, job.run, ERROR, started, now, failure=failure), now)
    else:
        charge(job, failure)
        giveBack(service, ledger, job.id, now, suspect=suspect)


def giveBack(service, ledger, jobid, now, started=True, suspect=False):
    """Return a claimed job to its queue without charging it an attempt.

    started -- whether it may be running: then its number of runs goes up, and what that run does is refused.
    suspect -- whether it may be the reason why its host ended.
    """
    run = ledger.claimed.get(jobid)
    if run is None:
        return
    job = service.jobs.get(jobid)
    if not holds(job, Recorded(jobid, run)):
        settle(service, ledger, Recorded(jobid, run), now)
        return
    ledger.release(jobid)
    if started:
        job.change(run=job.run + 1, suspect=suspect or None)
    enqueue(service, job)


def setProgress(service, jobid, fraction, message):
    """Note how far the run of a claimed job is; nothing happens to one that nobody has claimed."""
    for ledger in ledgers(service):
        if jobid in ledger.claimed:
            ledger.progress[jobid] = fraction, message


def ledgers(service):
    """Yield all ledgers: those of the shards, then those of the processing hosts."""
    for shard in service.shards:
        yield shard.ledger
    yield from service.ledgers.values()


def forget(service, ledger, status, entries):
    """Take entries, pairs of time in microseconds and id, out of what a ledger has of a final status.

    How many there are is counted elsewhere: a host that works writes its ledger all the time, and is not to conflict.
    """
    finished = ledger.finished[status]
    for key, _ in entries:
        del finished[key]
    if entries:
        shardOf(service, entries[0][1]).ledger.count(status, -len(entries))


def _latest(before):
    """Return the last key in a ledger of what ended before a time in UTC seconds; None for any."""
    return None if before is None else math.ceil(before * MICROSECONDS) - 1


def failed(service, task=None, before=None):
    """Yield the jobs in ERROR, of a task or all, that ended before a time in UTC seconds, or ever; they may be changed.
    """
    latest = _latest(before)
    for ledger in ledgers(service):
        jobids = list(ledger.finished[ERROR].values(max=latest))
        for start in range(0, len(jobids), 100):
            for _, job in fetch(service, jobids[start:start + 100]):
                if job is not None and not isinstance(job, BrokenJob) and task in (None, job.task):
                    yield job


def reopen(service, job):
    """Have a job that ended in ERROR run again, with all its attempts; what went wrong stays on it."""
    key = round(job.completed * MICROSECONDS)
    for ledger in ledgers(service):
        if ledger.finished[ERROR].get(key) == job.id:
            forget(service, ledger, ERROR, [(key, job.id)])
    job.change(status=QUEUED, error=None, completed=None, attempt=0, run=job.run + 1)
    enqueue(service, job)


def clean(service, statuses, limit, before=None):
    """Remove up to `limit` jobs in final statuses, the oldest of each ledger first; return how many.

    before -- UTC seconds: only those that ended before; default: all.
    """
    removed = 0
    for ledger in ledgers(service):
        removed += cleanLedger(service, ledger, statuses, limit - removed, before)
        if removed >= limit:
            break
    return removed


def cleanLedger(service, ledger, statuses, limit, before=None):
    """Do what `clean` does for what one ledger has."""
    removed, latest = 0, _latest(before)
    for status in statuses:
        entries = list(itertools.islice(ledger.finished[status].items(max=latest), limit - removed))
        for _, jobid in entries:
            for gone in shardOf(service, jobid).pages.remove(jobid):
                service.keys.remove(gone)
                if gone != jobid:
                    service.register.remove(gone)
        forget(service, ledger, status, entries)
        removed += len(entries)
    return removed


def claimed(service, job):
    """Say whether some ledger claims the job; the claim on an earlier run of it does not count."""
    if shardOf(service, job.id).ledger.claimed.get(job.id) == job.run:
        return True
    return any(ledger.claimed.get(job.id) == job.run for ledger in service.ledgers.values())


def progress(service, jobid):
    """Return how far the run of a job is, fraction and message; None when nothing is known."""
    for ledger in ledgers(service):
        if ledger.progress and jobid in ledger.progress:
            return ledger.progress[jobid]
    return None
