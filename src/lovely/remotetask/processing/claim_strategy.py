"""The claim strategy: how many jobs a host claims, where in the queues it finds them, what it leaves to other hosts.

Nothing here reads a clock, a database or a random number: values come in, a decision goes out.

Without a strategy each job would be claimed by every host with a free thread, and all but one of them would meet a
conflict; and many hosts would keep the database busy with what a few could do.
"""
# SPDX-License-Identifier: ZPL-2.1
import math
from dataclasses import dataclass
from dataclasses import field

from lovely.remotetask.processing.load_sharing import WARM
from lovely.remotetask.processing.load_sharing import Capacity
from lovely.remotetask.processing.load_sharing import Survey
from lovely.remotetask.storage.shards import SHARDS


#: A host claims work for so many seconds of its threads, so that a commit does not leave them idle; up to the second
#: number if commits take long, as over a slow network; and at most so many jobs.
STORE, LARGEST_STORE, MOST = 0.1, 1.0, 1000

#: After a conflict a host passes over fewer ids of a queue than that.
SKIP = 128

#: A busy host leaves at least so many ids to each host of higher priority.
PLACE = 64

#: A host claims what hosts of higher priority could have claimed after so many seconds for each of them.
PATIENCE = 0.2

#: Of so many iterations that fail in a row the last one claims nothing.
CLAIMING = 4

#: A host leaves jobs of tasks that it does not take for so many seconds to hosts that do, if there are so few of them.
LEFT, FEW = 1.0, 16

#: An idle host waits n * n times the first number of seconds for n hosts of higher priority that have a free thread,
#: and never longer than the second.
HEAD_START, LONGEST_HEAD_START = 0.01, 0.5


@dataclass(frozen=True)
class Position:
    """Where in the queues the next claim begins."""

    shard: int = 0
    skip: int = 0       # ids that are passed over, because of a conflict


@dataclass(frozen=True)
class Yielding:
    """Since when a host has left what waits to the same hosts, by the monotonic clock; None when it does not."""

    since: float | None = None
    serials: tuple = ()         # of their ledgers: they change when one of the hosts does something


@dataclass(frozen=True)
class Leaving:
    """All jobs that wait, if a host leaves them to hosts that take other tasks; and since when, by the monotonic clock.
    """

    since: float | None = None
    jobids: tuple = ()

    @property
    def until(self):
        """When it leaves them no longer; None when it does not leave any."""
        return None if self.since is None else self.since + LEFT


@dataclass(frozen=True)
class Situation:
    """What a host knows when it is about to claim."""

    want: int                           # jobs that it would claim if it were alone
    threads: int
    held: int = 0                       # claims in its ledger
    isIdle: bool = True                 # whether it has nothing in flight
    isQuick: bool = False               # whether it is on record that its jobs are short
    survey: Survey = field(default_factory=Survey)
    capacity: Capacity = field(default_factory=Capacity)  # of the hosts of higher priority
    position: Position = field(default_factory=Position)
    yielding: Yielding = field(default_factory=Yielding)
    moment: float = 0.0                 # seconds of the monotonic clock

    @property
    def isShared(self):
        """Whether others count: after a conflict there are some, even if this host has heard of none yet."""
        return self.want > 0 and bool(self.survey.running or self.position.skip)

    @property
    def sharers(self):
        """How many hosts have a share, with this one.  In short jobs idle hosts have none."""
        return (self.survey.working if self.isQuick else self.survey.running) + 1

    @property
    def stride(self):
        """How many ids lie between the places at which two busy hosts claim."""
        return max(self.want, PLACE)


@dataclass(frozen=True)
class Decision:
    """What a host does about the jobs that wait."""

    count: int                          # jobs to claim at the most
    position: Position                  # where to begin
    freeBefore: int | None = None       # hosts of higher priority that have a free thread; None for unknown
    isSpared: bool = False              # whether these do what there is, so that this host may sleep
    yielding: Yielding = field(default_factory=Yielding)
    isCut: bool = False                 # whether so many of the ids that were taken are not for it that it left off
    leaving: Leaving = field(default_factory=Leaving)


def store(durations):
    """Return for how many seconds of its threads a host claims work.

    durations -- seconds that the last iterations took which have written; the shortest counts, others met a mishap.

    While one iteration claims, the threads run what the one before has claimed.
    """
    return min(LARGEST_STORE, max(STORE, 2 * min(durations, default=0.0)))


def isFar(durations):
    """Return whether a host is so far from its database server that it claims ahead; see `store`."""
    return store(durations) > STORE


def demand(threads, unwanted, duration, claimed, isOrdered=False, store=STORE):
    """Return how many more jobs keep the threads busy for `store` seconds; 0 or less for none.

    threads -- that run jobs.
    unwanted -- how many of these run something whose outcome is not wanted any more.
    duration -- seconds that a job takes; None for unknown.
    claimed -- jobs that the host has claimed already.
    isOrdered -- whether jobs run strictly in order: then none is claimed before its time.
    """
    free = threads - unwanted
    if duration is not None and not isOrdered:
        free = int(min(MOST, free * max(1, store / max(duration, 1e-6))))
    return free - claimed


def mayClaim(failures):
    """Return whether a host claims after so many failures in a row.

    Most likely others claim the same jobs.  Now and then it claims none, so that its reports get through, and the
    others hear of it.
    """
    return failures % CLAIMING < CLAIMING - 1


def headStart(freeBefore):
    """Return the seconds that an idle host waits for so many hosts of higher priority that have a free thread."""
    return min(HEAD_START * freeBefore ** 2, LONGEST_HEAD_START)


def elsewhere(draw):
    """Return a random `Position`: after a conflict another host is at work where this one was.

    draw -- returns a random number below its argument, as `random.randrange` does.
    """
    return Position(draw(SHARDS), draw(SKIP))


def horizon(situation):
    """Return up to how many waiting jobs have to be counted for `decide`."""
    if situation.capacity.jobs == math.inf:
        return 1
    return situation.capacity.jobs + (situation.stride + situation.held) * situation.sharers


def decide(situation, waiting=0):
    """Return the `Decision` of a host.

    waiting -- jobs that wait, counted up to the `horizon`; it matters only if the situation `isShared`.
    """
    if not situation.isShared:
        return Decision(max(0, situation.want), situation.position, yielding=situation.yielding)
    left, yielding = leave(situation, waiting)
    freeBefore = len(situation.capacity.serials) if waiting else None
    if left >= waiting > 0:
        isSpared = situation.capacity.isQuick and situation.survey.rank >= WARM and situation.isIdle
        return Decision(0, Position(situation.position.shard), freeBefore, isSpared, yielding)
    count = min(situation.want, share(situation, waiting))
    # Busy hosts claim at different places, so that they meet no conflict.
    place = situation.position.skip + (situation.stride * situation.survey.rank if situation.held else 0)
    skip = left + place % max(1, waiting - left - count + 1)
    return Decision(max(0, count), Position(situation.position.shard, skip), freeBefore, False, yielding)


def leaveToOthers(leaving, jobids, moment):
    """Return the `Leaving` that follows: without a job when the host must put the jobs aside, out of the queues.

    To put them aside at once would cost the hosts that take them a conflict, and a commit more for each job.  But none
    of these may be free, and then others need not look at the jobs again and again.

    leaving -- the last one.
    jobids -- of all jobs that wait, if they are few, and living hosts take their tasks; else none.
    moment -- seconds of the monotonic clock.
    """
    if not jobids:
        return Leaving()
    if leaving.jobids != jobids:
        return Leaving(moment, jobids)
    return leaving if moment < leaving.until else Leaving()


def share(situation, waiting):
    """Return how many jobs a host may claim: its threads have something to do, and beyond that it takes a fair share.
    """
    fair = -(-(waiting + situation.held) // situation.sharers)
    return max(situation.threads, fair) - situation.held


def leave(situation, waiting):
    """Return how many waiting jobs are left to the hosts of higher priority, and the `Yielding` from now on."""
    capacity, yielding, moment = situation.capacity, situation.yielding, situation.moment
    if not waiting or waiting > capacity.jobs:
        yielding = Yielding()
    elif yielding.since is None or yielding.serials != capacity.serials:
        yielding = Yielding(moment, capacity.serials)
    elif moment - yielding.since > PATIENCE * len(capacity.serials):        # and none of them has done anything since
        return 0, yielding
    return min(capacity.jobs, waiting), yielding
