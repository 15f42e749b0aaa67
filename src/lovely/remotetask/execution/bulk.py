"""Doing something with all jobs that fit a filter, however many: a task of our own, in small transactions."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import time
from collections.abc import Callable
from typing import NamedTuple

import transaction
from transaction.interfaces import TransientError
from zope.interface import Interface
from zope.interface import implementer

from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import counted
from lovely.remotetask.database import notes
from lovely.remotetask.database.sites import whereIs
from lovely.remotetask.database.transactions import pauseAfter
from lovely.remotetask.filters import Filter
from lovely.remotetask.filters import parseFilter
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.job import BrokenJob
from lovely.remotetask.storage import cleanup
from lovely.remotetask.storage.ledger import microseconds
from lovely.remotetask.storage.search import LARGEST
from lovely.remotetask.storage.search import hidesIn
from lovely.remotetask.storage.search import search


#: The name of the task.  Callers cannot add a job for it by this name.
NAME = 'remotetask.bulk'

#: Jobs that one transaction changes, and looks at, at the most; after a conflict the next one changes half as many.
CHUNK, LOOKED_AT = 200, 5000

#: Jobs that are looked at to count those that fit.
COUNTED = 20_000

#: Conflicts in a row after which the run has failed; the job's retry policy then says what becomes of it.
ATTEMPTS = 30

#: How often it goes through all that fit: once, and once more to see that nothing was left, unless the clock is set
#: back, when jobs that it retried fail again.
PASSES = 20


class Verb(NamedTuple):
    """What can be done with many jobs."""

    statuses: tuple             # of jobs that it can be done with
    function: Callable          # called with service, job and UTC seconds


VERBS = {
    'cancel': Verb(tuple(status for status in STATUSES if status not in FINAL),
                   lambda service, job, now: service.cancel(job.id, now)),
    'retry': Verb((ERROR,), lambda service, job, now: service.retry(job.id, now)),
    'remove': Verb(FINAL, lambda service, job, now: cleanup.remove(service, job)),
}


def meant(service, verb, text, now):
    """Return the `Filter` for the jobs that fit a text, and that a verb of VERBS can be done with; None if none can.

    now -- UTC seconds.

    Raise `ValueError` for a text that is no filter, or has a secret.
    """
    filter = parseFilter(text, now)
    refuseSecrets(filter, hidesIn(service))
    statuses = tuple(status for status in filter.statuses or STATUSES if status in VERBS[verb].statuses)
    return filter._replace(statuses=statuses) if statuses else None


def refuseSecrets(filter, hides):
    """Raise `ValueError` when a filter has the value of a secret: no job is found by it, and notes and logs have it.

    hides -- as for `search`.
    """
    for path, _ in filter.fields:
        if any(map(hides, path)):
            raise ValueError(f'filter: {".".join(path)} is a secret: no job is found by it')


def count(service, verb, text, now):
    """Return how many jobs fit a text, and can be changed by a verb; and whether these are all.

    No more than COUNTED jobs are looked at.  Arguments, and what is raised, as for `meant`.
    """
    check('verb', verb, verb in VERBS, f'one of {", ".join(VERBS)}')
    filter = meant(service, verb, text, now)
    if filter is None:
        return 0, True
    if filter == Filter(filter.statuses):
        counts = service.countJobs()
        return sum(counts[status] for status in filter.statuses), True
    found, looked, after = 0, 0, None
    while looked < COUNTED:
        page = search(service, filter, after, LARGEST, min(LOOKED_AT, COUNTED - looked))
        found, looked, after = found + len(page.jobs), looked + page.looked, page.cursor
        if after is None:
            return found, True
    return found, False


class Chunk(NamedTuple):
    """What one transaction has done."""

    after: str | None           # the cursor of the next one; None when there is none
    jobids: tuple               # of the jobs that were changed


@implementer(ITask)
class BulkTask:
    """Cancels, retries or removes all jobs that fit a filter, and were there when the job was added."""

    inputSchema = outputSchema = Interface

    def __call__(self, service, jobid, input):
        """Return a dict of how many jobs were changed.

        input -- a dict: verb, of VERBS; filter, a text; now, of its addition, in UTC seconds; expected, about how many
            jobs fit; user, who wants it.

        What is done is committed by and by: a run that is repeated goes on with what is left.
        """
        manager, changed = transaction.TransactionManager(explicit=True), 0
        with contextlib.closing(service._p_jar.db().open(manager)) as connection:
            # Queued jobs change their order while others leave the queue: it is over when nothing more is found.
            for _ in range(PASSES):
                before = changed
                for count in changes(service, connection, jobid, input):
                    changed += count
                    expected = max(input['expected'], changed)
                    service.setProgress(jobid, changed / expected if expected else None,
                                        f'{input["verb"]}: {changed} of about {counted(expected, "job")}')
                if changed == before:
                    break
        return {'changed': changed}


def changes(service, connection, own, input):
    """Go once through all jobs that are meant; yield how many each transaction has changed.

    service -- of the running task.
    connection -- to the same database, for the changes.
    own -- the id of the job that does it: when that is cancelled it ends.
    input -- see `BulkTask`.
    """
    manager, after = connection.transaction_manager, f'{microseconds(input["now"]) + 1}-0'
    path = whereIs(service)
    size, failures = CHUNK, 0
    while after is not None and not service.isCancelled(own):
        manager.begin()
        try:
            chunk = doChunk(connection.get(service._p_oid), own, input, after, size)
            act = notes.Act(input['verb'], chunk.jobids, input['filter'], job=own, path=path)
            notes.write(manager.get(), [act], input['user'])
            manager.commit()
        except TransientError:
            manager.abort()
            size, failures = max(1, size // 2), failures + 1
            if failures == ATTEMPTS:
                raise
            time.sleep(pauseAfter(failures))
            continue
        except BaseException:
            manager.abort()
            raise
        size, failures, after = min(CHUNK, 2 * size), 0, chunk.after
        yield len(chunk.jobids)


def doChunk(service, own, input, after, size):
    """Do it with the next jobs, in the caller's transaction; return what was done, a `Chunk`.

    own -- the id of the job that does it, which is left alone.
    input -- see `BulkTask`.
    after -- a cursor.
    size -- how many jobs at the most.
    """
    filter = meant(service, input['verb'], input['filter'], input['now'])
    if filter is None:
        return Chunk(None, ())
    found, changed = search(service, filter, after, size, LOOKED_AT), []
    for job in found.jobs:
        if job.id != own and job.created <= input['now'] and not isinstance(job, BrokenJob):
            VERBS[input['verb']].function(service, job, max(input['now'], job.created))
            changed.append(job.id)
    return Chunk(found.cursor, tuple(changed))


TASK = BulkTask()
