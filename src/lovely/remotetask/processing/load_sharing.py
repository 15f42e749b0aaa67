"""Load sharing: what the ledgers say of the hosts that share a service, and how much these do without help."""
# SPDX-License-Identifier: ZPL-2.1
import math
from dataclasses import dataclass


#: So many hosts of higher priority let this one sleep while they do what there is: they most likely get the next job.
WARM = 2

#: A job is short when it takes at most so many seconds: sharing short jobs costs more than the jobs.
SHORT = 0.008

#: Short jobs per second that one host does at the most, and that all do together: as all write to one database, more
#: hosts would not do more.
RATE, ENOUGH = 2000, 4000

#: Cores of its machine that a host takes when it does short jobs at RATE, with what the database and those who add the
#: jobs do for them.
TAKEN = 2

#: A host keeps short jobs for so many seconds of its time to itself; when more wait, others help.
AT_ONCE = 0.25

#: A host publishes after SLOWER seconds that its jobs take longer; at once, if its jobs were short and no thread has
#: finished one for HELD_UP seconds.
SLOWER, HELD_UP = 2.0, 0.25


#: Of the hosts of higher priority so many are looked at before each claim, the first ones, and so many of all others.
FIRST, SAMPLE = 8, 8


@dataclass(frozen=True)
class Survey:
    """The other hosts that run jobs of the service."""

    running: int = 0                    # how many live
    working: int = 0                    # how many of these had claims
    before: tuple[str, ...] = ()        # names of those of higher priority: that come before this one
    patterns: frozenset = frozenset()   # of the tasks of each host that takes others than this one; None for all

    @property
    def rank(self):
        """How many hosts have a higher priority: those get a job first."""
        return len(self.before)

    @property
    def sample(self):
        """Names of hosts of higher priority that stand for all of them, each with the number that it stands for.

        A claim that looked at hundreds of hosts would cost each of them, and the database server, more than the job.
        """
        first, others = self.before[:FIRST], self.before[FIRST:]
        chosen = others[::max(1, -(-len(others) // SAMPLE))]
        return [*((name, 1) for name in first), *((name, len(others) / len(chosen)) for name in chosen)]


@dataclass(frozen=True)
class Capacity:
    """What some hosts do as quickly without help."""

    jobs: float = 0             # waiting jobs; infinity for all
    serials: tuple = ()         # of the ledgers of those that do them
    isQuick: bool = False       # whether one of them does short jobs


def rateOf(owner):
    """Return how many jobs per second the owner of a ledger does, as far as is on record; 0 when they are not short.

    owner -- see `Ledger.owner`.
    """
    duration = owner.get('duration', math.inf)
    return min(RATE, owner.get('threads', 1) / max(duration, 1e-6)) if duration <= SHORT else 0


def capacityOf(ledgers, asking):
    """Return the `Capacity` of the owners of some ledgers.

    ledgers -- pairs of a ledger, and the number of ledgers like it that it stands for.
    asking -- the owner who may help them; it cannot help those on its own machine when no core is left there.
    """
    jobs, isQuick, expected, near, serials = 0.0, False, 0.0, 0.0, []
    for ledger, number in ledgers:
        owner, claimed = ledger.owner or {'threads': 0}, len(ledger.claimed)
        can, threads = rateOf(owner), owner.get('threads', 1)       # 0 when it has ended, or is about to
        # A host of which nothing is known yet will be as quick as others are.
        rate = number * (RATE if claimed and 'duration' not in owner else can)
        expected += rate
        near += rate * (owner.get('machine') == asking['machine'])
        free = max(threads, int(can * AT_ONCE)) - claimed
        if free > 0 or can:
            jobs, isQuick = jobs + number * max(0, free), isQuick or can > 0
            serials.append(ledger._p_serial)
    isEnough = isQuick and (expected >= ENOUGH or near >= RATE * asking['cores'] / TAKEN)
    return Capacity(math.inf if isEnough else round(jobs), tuple(serials), isQuick)


@dataclass(frozen=True)
class Publication:
    """Whether a host puts on record how long its jobs take."""

    isDue: bool = False
    slowerSince: float | None = None    # since when jobs take twice as long as is on record, by the monotonic clock


def publication(owner, duration, busyFor, isWritten, moment, slowerSince):
    """Return the `Publication` of the average duration of a host's jobs.

    That jobs take longer may have a reason that passes, like others at work on this machine: it is published late, so
    that it does not call still more hosts to work here.  When no job ends for a while others help at once.

    owner -- see `Ledger.owner`.
    duration -- seconds that a job takes; None for unknown.
    busyFor -- for how many seconds all threads have been busy with the same jobs.
    isWritten -- whether the ledger is written in any case.
    moment -- seconds of the monotonic clock.
    slowerSince -- that of the last `Publication`.
    """
    if duration is None:
        return Publication(False, slowerSince)
    published = owner.get('duration', math.inf)
    if duration < 2 * published:
        slowerSince = None
    elif slowerSince is None:
        slowerSince = moment
    isSlower = slowerSince is not None and moment - slowerSince > SLOWER
    isDue = isWritten and (isSlower or duration < published / 2) or busyFor >= HELD_UP and rateOf(owner) > 0
    return Publication(isDue, slowerSince)
