"""The values of one iteration of the claim loop: the work that goes in, the result that comes out."""
# SPDX-License-Identifier: ZPL-2.1
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import NamedTuple

from lovely.remotetask.processing.claim_strategy import Leaving
from lovely.remotetask.processing.claim_strategy import Position
from lovely.remotetask.processing.claim_strategy import Yielding


@dataclass(frozen=True)
class Snapshot:
    """What the runs in flight have to put on record or to ask, at one moment."""

    long: Sequence = ()         # pairs of token and seconds, of runs that have been going on for a while
    progress: Sequence = ()     # pairs of token and progress: a pair of a fraction or None, and a text
    watched: Sequence = ()      # tokens, pairs of id and run, of jobs that may have been cancelled
    stacks: Sequence = ()       # pairs of id and text, of runs that somebody has asked for


@dataclass(frozen=True)
class Work:
    """What an iteration does, besides looking after the other hosts and the schedule."""

    reports: Sequence = ()              # `Outcome`s, `Recorded`s and `Returned`s to acknowledge
    want: int = 0                       # jobs to claim at the most
    threads: int | None = None          # that run jobs, for the record; None for those that the host began with
    duration: float | None = None       # seconds that a job takes lately, for the record; None for unknown
    busyFor: float = 0.0                # for how many seconds all threads have been busy with the same jobs
    snapshot: Snapshot = field(default_factory=Snapshot)
    expected: Sequence = ()             # ids of records that are needed if there is something to claim
    isFar: bool = False                 # whether iterations take long lately, as those of a host that is far away do


@dataclass(frozen=True)
class View:
    """The transaction of an iteration: what it sees, and when it began."""

    service: Any
    ledger: Any
    name: str           # of the ledger
    threads: int        # that run jobs
    now: float          # UTC seconds
    moment: float       # seconds of the monotonic clock


@dataclass(frozen=True)
class State:
    """What an iteration leaves to the next one, once it is committed."""

    nextTime: float | None = None       # UTC seconds at which something becomes due; None for never
    paused: bool = False                # whether the service's processing is paused: nothing is claimed
    interest: Any = None                # ids of the objects whose changes wake this host; None for any
    isQuick: bool = False               # whether others may leave jobs to this host because its jobs are short
    isSpared: bool = False              # whether hosts of higher priority do what there is
    freeBefore: int = 0                 # how many of those had a free thread when jobs were seen to wait
    position: Position = field(default_factory=Position)
    yielding: Yielding = field(default_factory=Yielding)
    slowerSince: float | None = None    # see `load_sharing.Publication`
    isScheduler: bool = False           # whether this host was the scheduler
    handedAt: float = float('-inf')     # when it gave that role to another host, by the monotonic clock
    hasMore: bool = False               # whether it left off among jobs that are not for it: there may be more to claim
    leaving: Leaving = field(default_factory=Leaving)


class Message(NamedTuple):
    """A warning for the log, of what the transaction has done."""

    text: str
    arguments: tuple
    extra: dict         # see `logs.about`


@dataclass(frozen=True)
class Result:
    """What an iteration has done."""

    state: State
    claims: list                # `Claim`s to run
    unwanted: list              # those of `Snapshot.watched` whose runs are not wanted any more
    lost: list                  # pairs of id and run, of the claims that were found to be lost
    outcomes: Sequence = ()     # the `Outcome`s of runs that are on their jobs now
    returned: Sequence = ()     # ids of the jobs that have been given back to their queues
    rescued: Sequence = ()      # the `rescue.Ended`s of other hosts, which are lost
    asked: Sequence = ()        # ids of jobs of which somebody wants to know where their runs are
    isReclaimed: bool = False   # whether others took this host for silent and rescued its jobs, before
    messages: Sequence = ()     # `Message`s
    beatAt: float | None = None     # when the heartbeat was written, by the monotonic clock; None if nothing was

    @property
    def isWritten(self):
        """Whether there was something to commit."""
        return self.beatAt is not None
