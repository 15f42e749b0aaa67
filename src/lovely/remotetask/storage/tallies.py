"""How the runs of each task fared: numbers that are part of a ledger's own record, and so cost no write of their own.

What is stored of a task is a list of ints: a number for each of `OUTCOMES`, the microseconds of all runs and of all
waits, then how many runs took as long as each of `BOUNDS` allows, and how many waits.  A newer release may add some at
the end, which this one leaves out.
"""
# SPDX-License-Identifier: ZPL-2.1
import bisect
import itertools
import math
import operator
from typing import NamedTuple

from BTrees.Length import Length
from BTrees.OOBTree import OOBTree

from lovely.remotetask.common.counts import BOUNDS
from lovely.remotetask.common.counts import OTHER
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.storage.ledger import MICROSECONDS


#: Outcomes that are no final status: a run that failed and is tried again; a claim that was lost with its host.
RETRIED, LOST = 'retried', 'lost'
OUTCOMES = (COMPLETED, ERROR, CANCELLED, RETRIED, LOST)

# What an `Outcome` can have as its status, in the order of OUTCOMES.
_STATUSES = (COMPLETED, ERROR, CANCELLED, QUEUED)

_CLASSES = len(BOUNDS) + 1

#: Tasks that a ledger tells apart; the others are counted as OTHER.
NAMED = 200

#: Tasks in the record of the ledger itself; when there are more, all go to a tree below it.
RECENT = 8

_RUN, _WAIT = len(OUTCOMES), len(OUTCOMES) + 1
_RUNS = _WAIT + 1
_WAITS = _RUNS + _CLASSES
_LENGTH = _WAITS + _CLASSES


class Durations(NamedTuple):
    """How long something took, many times."""

    seconds: float          # in all
    classes: tuple          # how many were up to each of BOUNDS and above the one before, and how many above the last

    @property
    def count(self):
        """How many there were."""
        return sum(self.classes)

    @property
    def mean(self):
        """The seconds of one; None when there was none."""
        return self.seconds / self.count if self.count else None

    def quantile(self, part):
        """Return the seconds that this part of them, from 0 to 1, did not exceed; None when there was none.

        It is an estimate: values are taken to be evenly spread within their class; above the last of BOUNDS it is that
        bound.  It never exceeds the sum of all, divided by the number of values that are at least as large.
        """
        rank, lower = part * self.count, 0.0
        most = self.seconds / max(1, self.count - math.ceil(rank) + 1)
        for upper, number in zip(BOUNDS, self.classes):
            if number and number >= rank:
                return min(lower + (upper - lower) * rank / number, max(lower, most))
            rank, lower = rank - number, upper
        return BOUNDS[-1] if self.count else None


class Tally(NamedTuple):
    """How the runs of one task fared since the service was made."""

    outcomes: dict          # of OUTCOMES -> how many
    run: Durations          # of the runs that came to an end
    wait: Durations         # from when such a run was ready to its begin

    @property
    def failureRate(self):
        """The part of the jobs in COMPLETED or ERROR that is in ERROR, from 0 to 1; None when there are none."""
        ended = self.outcomes[COMPLETED] + self.outcomes[ERROR]
        return self.outcomes[ERROR] / ended if ended else None


def enter(ledger, ends):
    """Count runs that have ended in a ledger.

    ends -- a list of tuples: task, status of the `transitions.Outcome`, and in seconds how long the job was ready
        before, and how long it ran.

    A host calls it once for all runs that ended between two of its commits; the loops over single runs are in C.
    """
    if not ends:
        return
    tasks, statuses, waits, runs = zip(*ends)
    if tasks.count(tasks[0]) == len(tasks):
        _enter(ledger, tasks[0], statuses, waits, runs)
        return
    for task, group in itertools.groupby(sorted(ends, key=_task), _task):
        _enter(ledger, task, *itertools.islice(zip(*group), 1, None))


_task = operator.itemgetter(0)


def _enter(ledger, task, statuses, waits, runs):
    numbers = _numbersOf(ledger, task)
    left = len(statuses)
    for index, status in enumerate(_STATUSES):
        found = statuses.count(status)
        numbers[index] += found
        left -= found
        if not left:
            break
    _enterDurations(numbers, _RUN, _RUNS, runs)
    _enterDurations(numbers, _WAIT, _WAITS, waits)


def _enterDurations(numbers, total, classes, seconds):
    """Add durations; `total` and `classes` are where their sum and the first of their classes are."""
    ordered = sorted(seconds)
    if ordered[0] < 0:                          # a clock was set back
        ordered = [max(0.0, each) for each in ordered]
    numbers[total] += round(sum(ordered) * MICROSECONDS)
    before = 0
    last = bisect.bisect_left(BOUNDS, ordered[-1])
    for index in range(bisect.bisect_left(BOUNDS, ordered[0]), last):
        until = bisect.bisect_right(ordered, BOUNDS[index], before)
        numbers[classes + index] += until - before
        before = until
    numbers[classes + last] += len(ordered) - before


def count(ledger, task, outcome):
    """Count one of OUTCOMES of which it is not known how long anything took."""
    _numbersOf(ledger, task)[OUTCOMES.index(outcome)] += 1


def countCancelled(ledger, task):
    """Count a job that was cancelled, in a `ShardLedger`: by an object that the database merges."""
    lengths = ledger.cancelled
    if task not in lengths:
        task = task if len(lengths) < NAMED else OTHER
        if task not in lengths:
            lengths[task] = Length()
    lengths[task].change(1)


def _numbersOf(ledger, task):
    """Return the list of numbers that is to be changed for a task, new ones if need be."""
    ledger._p_changed = True
    found = ledger.tasks.get(task)
    if found is None:
        task = _named(ledger, task)
        if task not in ledger.tasks:
            if len(ledger.tasks) == RECENT:
                _putAway(ledger)
            ledger.tasks[task] = [0] * _LENGTH
        found = ledger.tasks[task]
    return found


def _sum(one, other):
    return list(map(operator.add, one, other))


def _named(ledger, task):
    """Return the name under which a task is counted that is none of the recent ones."""
    older = ledger.olderTasks
    if older is None or task in older or len(older) + sum(each not in older for each in ledger.tasks) < NAMED:
        return task
    return OTHER


def _putAway(ledger):
    if ledger.olderTasks is None:
        ledger.olderTasks = OOBTree()
    older = ledger.olderTasks
    for task, numbers in ledger.tasks.items():
        older[task] = _sum(older[task], numbers) if task in older else numbers
    ledger.tasks = {}


def tallies(ledgers):
    """Return a dict: task -> `Tally`, the sum over these ledgers, sorted by name."""
    sums = {}
    for ledger in ledgers:
        for task, numbers in itertools.chain(ledger.tasks.items(), (ledger.olderTasks or {}).items()):
            sums[task] = _sum(sums[task], numbers) if task in sums else numbers
        for task, length in (ledger.cancelled or {}).items():
            sums[task] = _sum(sums.get(task, [0] * _LENGTH), _cancelled(length()))
    return {task: _tally(sums[task]) for task in sorted(sums)}


def _cancelled(jobs):
    """Return the numbers of so many jobs that were cancelled."""
    numbers = [0] * _LENGTH
    numbers[OUTCOMES.index(CANCELLED)] = jobs
    return numbers


def _tally(numbers):
    return Tally(dict(zip(OUTCOMES, numbers)), Durations(numbers[_RUN] / MICROSECONDS, tuple(numbers[_RUNS:_WAITS])),
                 Durations(numbers[_WAIT] / MICROSECONDS, tuple(numbers[_WAITS:_LENGTH])))
