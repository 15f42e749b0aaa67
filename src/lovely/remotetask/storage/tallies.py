"""How the runs of each task fared: numbers that are part of a ledger's own record, and so cost no write of their own.

What is stored of a task is a tuple of ints: a number for each of `OUTCOMES`, the microseconds of all runs and of all
waits, then how many runs took as long as each of `BOUNDS` allows, and how many waits.
"""
# SPDX-License-Identifier: ZPL-2.1
import bisect
import itertools
import operator
from typing import NamedTuple

from BTrees.OOBTree import OOBTree

from lovely.remotetask.common.counts import BOUNDS
from lovely.remotetask.common.counts import OTHER
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.storage.ledger import MICROSECONDS


#: Besides a status in which a job ends: a run that failed, and is tried again; a claim that was lost with its host.
RETRIED, LOST = 'retried', 'lost'
OUTCOMES = (COMPLETED, ERROR, CANCELLED, RETRIED, LOST)

#: What else an `Outcome` can have as its status, in the order of OUTCOMES.
_FAILED = (ERROR, CANCELLED, QUEUED)

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

        Inside a class they are taken to be evenly spread; above the last of BOUNDS nothing is known but that.
        """
        rank, lower = part * self.count, 0.0
        for upper, number in zip(BOUNDS, self.classes):
            if number and number >= rank:
                return lower + (upper - lower) * rank / number
            rank, lower = rank - number, upper
        return BOUNDS[-1] if self.count else None


class Tally(NamedTuple):
    """How the runs of one task fared, ever since."""

    outcomes: dict          # of OUTCOMES -> how many
    run: Durations          # of the runs that came to an end
    wait: Durations         # from when such a run was ready to its begin

    @property
    def failureRate(self):
        """Which part of what was completed or ended in ERROR is the latter; None when there is neither."""
        ended = self.outcomes[COMPLETED] + self.outcomes[ERROR]
        return self.outcomes[ERROR] / ended if ended else None


def enter(ledger, ends):
    """Count runs that have ended in a ledger.

    ends -- a list of tuples: task, status of the `transitions.Outcome`, and in seconds how long the job was ready
        before, and how long it ran.
    """
    for task, group in itertools.groupby(sorted(ends, key=_task), _task):
        _, statuses, waits, runs = zip(*group)
        completed = statuses.count(COMPLETED)
        others = map(statuses.count, _FAILED) if completed < len(statuses) else (0,) * len(_FAILED)
        (run, runClasses), (wait, waitClasses) = _classify(runs), _classify(waits)
        _add(ledger, task, (completed, *others, 0, run, wait, *runClasses, *waitClasses))


_task = operator.itemgetter(0)


def _classify(seconds):
    """Return the sum of durations, in microseconds, and the number in each class; clocks that go back count as 0."""
    ordered, classes, before = sorted(seconds), [0] * _CLASSES, 0
    if ordered[0] < 0:
        ordered = [max(0.0, each) for each in ordered]
    for number, bound in enumerate(BOUNDS):
        until = bisect.bisect_right(ordered, bound, before)
        classes[number], before = until - before, until
        if until == len(ordered):
            break
    classes[-1] = len(ordered) - before
    return round(sum(ordered) * MICROSECONDS), classes


def count(ledger, task, outcome):
    """Count one of OUTCOMES of which it is not known how long anything took."""
    numbers = [0] * _LENGTH
    numbers[OUTCOMES.index(outcome)] = 1
    _add(ledger, task, tuple(numbers))


def _add(ledger, task, numbers):
    if task not in ledger.tasks:
        task = _named(ledger, task)
    before = ledger.tasks.get(task)
    ledger.tasks[task] = numbers if before is None else _sum(before, numbers)
    ledger._p_changed = True
    if len(ledger.tasks) > RECENT:
        _putAway(ledger)


def _sum(one, other):
    return tuple(map(operator.add, one, other))


def _named(ledger, task):
    """Return what a task is counted as that is none of the recent ones."""
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
    return {task: _tally(sums[task]) for task in sorted(sums)}


def _tally(numbers):
    return Tally(dict(zip(OUTCOMES, numbers)), Durations(numbers[_RUN] / MICROSECONDS, numbers[_RUNS:_WAITS]),
                 Durations(numbers[_WAIT] / MICROSECONDS, numbers[_WAITS:]))
