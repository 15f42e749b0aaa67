"""The statuses of a job: what each means, and which are final.  Needs nothing, so that a thin client has them."""
# SPDX-License-Identifier: ZPL-2.1
from collections.abc import Iterable


#: It waits for a processing host; also while it waits for its next attempt after a failure.
QUEUED = 'queued'
#: A processing host has claimed it.  Never stored on the job: the host's ledger says so.
PROCESSING = 'processing'
#: Somebody called it off before it ended; an outcome that arrives later is thrown away.
CANCELLED = 'cancelled'
#: Its task failed, for the last time; the job's `error` says how.
ERROR = 'error'
#: Its task returned; the job's `output` is what.
COMPLETED = 'completed'
#: It runs once, when its delay is over; the scheduler then queues it.
DELAYED = 'delayed'
#: It runs again and again, at the times of its schedule, and keeps this status.
CRONJOB = 'cronjob'
#: It has been added but not started: `ITaskService.startJob` queues it.
STARTLATER = 'start later'

STATUSES = (QUEUED, PROCESSING, CANCELLED, ERROR, COMPLETED, DELAYED, CRONJOB, STARTLATER)

#: Nothing happens to a job in one of these any more; `ITaskService.clean` removes it.
FINAL = (CANCELLED, ERROR, COMPLETED)


def areFinal(statuses: Iterable[str | None], any: bool) -> bool:
    """Return whether jobs in these statuses are final; None stands for a removed job, which is.

    any -- whether one final job is enough; otherwise all must be final.
    """
    final = [status is None or status in FINAL for status in statuses]
    return all(final) or any and True in final
