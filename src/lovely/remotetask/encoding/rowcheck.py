"""Checks of a job's row: a row that lacks what our code relies on stands for a broken job."""
# SPDX-License-Identifier: ZPL-2.1
from typing import NamedTuple

from lovely.remotetask.common.checks import EARLIEST
from lovely.remotetask.common.checks import LATEST
from lovely.remotetask.common.checks import isPause
from lovely.remotetask.common.checks import isSpan
from lovely.remotetask.common.checks import isTime
from lovely.remotetask.common.checks import isWhole
from lovely.remotetask.common.checks import shown
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import PROCESSING
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.schedules.fields import RANGES
from lovely.remotetask.schedules.misfire import ONCE
from lovely.remotetask.schedules.misfire import SKIP


#: What the row of a job says of its kind.
JOB, CRON_JOB = 'job', 'cron job'


class Run(NamedTuple):
    """One call of a schedule.  Stored as a tuple in `CronJob.history`: new fields go to the end, with a default.

    What a newer release has at the end is left out here, and lost when the history is written.
    """

    calledFor: float | None         # the time of the call by the schedule, UTC seconds
    jobid: int                      # the job that was run: the cron job itself, or the one that it added
    status: str | None = None       # how the run ended; None when the added job is to say
    started: float | None = None    # UTC seconds
    completed: float | None = None
    error: str | None = None


def _orNone(isRight):
    return lambda value: value is None or isRight(value)


def _isA(*types):
    return lambda value: type(value) in types


def _isOfRange(low, high):
    return lambda value: isWhole(value, low, high)


def _tupleOf(isRight):
    return lambda value: type(value) is tuple and all(map(isRight, value))


# The statuses that a row may have: PROCESSING is none, as the ledger says which jobs are being processed.
_STORED = frozenset(STATUSES) - {PROCESSING}

_isCount = _isOfRange(0, 2 ** 31 - 1)

#: What our code relies on in the fields of a row, and in its `more`.
RIGHT = {
    'kind': lambda value: value in (JOB, CRON_JOB),
    'created': isTime,
    'status': lambda value: value in _STORED,
    **dict.fromkeys(('run', 'failedAttempts', 'host'), _isCount),
    **dict.fromkeys(('started', 'completed'), _orNone(isTime)),
}
RIGHT_MORE = {
    'due': _isOfRange(EARLIEST * 1_000_000, LATEST * 1_000_000),
    **dict.fromkeys(('retryAt', 'readySince', 'calledFor', 'askedFor', 'madeUpTo'), isTime),
    **dict.fromkeys(('schedule', 'lastJob'), _isCount),
    **dict.fromkeys(('stranded', 'eitherDay', 'newJobs', 'overlap', 'active', 'pending'), _isA(bool)),
    **dict.fromkeys(('request', 'traceparent', 'crontab', 'timeZone'), _isA(str)),
    'suspect': _isOfRange(1, 2 ** 31 - 1),
    'timeLimit': isSpan,
    'delay': isPause,
    'retryPolicy': _isA(bytes),
    'misfire': lambda value: value in (ONCE, SKIP) if isinstance(value, str) else _isCount(value) and value > 0,
    'history': _tupleOf(lambda run: type(run) is tuple and len(run) >= 2),
    **{name: _tupleOf(_isOfRange(*limits)) for name, limits in RANGES.items()},
}


def faultOf(row):
    """Return what is wrong with a row, in a few words; None when it is whole."""
    # First the row of most jobs, quickly: that of each job that is claimed comes by here.
    if row.more or row.kind != JOB or row.status not in _STORED or not (
            EARLIEST <= row.created <= LATEST and 0 <= row.run < 2 ** 31 and 0 <= row.failedAttempts < 2 ** 31
            and 0 <= row.host < 2 ** 31
            and (row.started is None or EARLIEST <= row.started <= LATEST)
            and (row.completed is None or EARLIEST <= row.completed <= LATEST)):
        fields = [(name, getattr(row, name), isRight) for name, isRight in RIGHT.items()]
        fields += [(name, value, RIGHT_MORE[name]) for name, value in (row.more or {}).items() if name in RIGHT_MORE]
        for name, value, isRight in fields:
            if not isRight(value):
                return f'its row has {shown(value)} as {name}'
    if row.status in (CRONJOB, DELAYED) and row.kind != CRON_JOB:
        return f'its row is {row.status}, and has no schedule'
    if row.more and row.kind != CRON_JOB and 'due' in row.more and 'retryAt' not in row.more:
        return 'its row is in the calendar, and has no schedule'
    if row.status in FINAL and row.completed is None:
        return f'its row is {row.status}, and has no time of its end'
    return None
