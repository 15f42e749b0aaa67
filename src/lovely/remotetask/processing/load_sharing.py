"""Who does what waits: what processors that share a service leave to each other, by what is on record of them."""
# SPDX-License-Identifier: ZPL-2.1
import math
from typing import NamedTuple


#: Seconds after which a processor claims what others before it could have claimed, but did not; for each of these.
PATIENCE = 0.2

#: So many processors come before one that may sleep while those do what there is: they are likely to get the next job.
WARM = 2

#: Seconds that a job takes at the most for which it is short: what it takes to share such jobs is more than the jobs.
SHORT = 0.008

#: Short jobs per second that a processor does at the most; and that all together do: with more processors it would not
#: be more, as all write to one database.
RATE, ENOUGH = 2000, 4000

#: So many cores of its machine are taken by a processor that does short jobs at that rate, with what the database and
#: those who add the jobs do for them.
TAKEN = 2

#: Seconds for which a processor may be busy with short jobs that wait, before others are to help it.
AT_ONCE = 0.25

#: Seconds for which jobs must have taken longer before others hear of it.  But when, where jobs were short, no thread
#: has got on for so many, others hear at once.
SLOWER, HELD_UP = 2.0, 0.25


def rateOf(owner):
    """Return how many jobs per second the owner of a ledger does, as far as is on record; 0 when they are not short.

    owner -- see `Ledger.owner`.
    """
    pace = owner.get('pace', math.inf)
    return min(RATE, owner.get('threads', 1) / max(pace, 1e-6)) if pace <= SHORT else 0


class Room(NamedTuple):
    """What some processors do as quickly without the help of others."""

    jobs: float         # so many that wait; infinity for all
    serials: list       # of the ledgers of those that do them
    isQuick: bool       # whether one of them does short jobs


def roomOf(ledgers, asking):
    """Return the `Room` of the owners of some ledgers.

    asking -- the owner who may help them; on the machine of some it can't when no core is left.
    """
    jobs, isQuick, expected, near, serials = 0, False, 0.0, 0.0, []
    for ledger in ledgers:
        owner, claimed = ledger.owner or {'threads': 0}, len(ledger.claimed)
        can, threads = rateOf(owner), owner.get('threads', 1)       # 0 when it has ended, or is about to
        # Those of which nothing is known yet will be as quick as others are.
        rate = RATE if claimed and 'pace' not in owner else can
        expected += rate
        near += rate * (owner.get('machine') == asking['machine'])
        free = max(threads, int(can * AT_ONCE)) - claimed
        if free > 0 or can:
            jobs, isQuick = jobs + max(0, free), isQuick or can > 0
            serials.append(ledger._p_serial)
    isEnough = isQuick and (expected >= ENOUGH or near >= RATE * asking['cores'] / TAKEN)
    return Room(math.inf if isEnough else jobs, serials, isQuick)


class Precedence:
    """How long a processor leaves jobs to those that come before it.

    Else each job would be claimed by all that have a free thread, and all but one of them meet a conflict; and many
    would keep the database busy with what a few could do.
    """

    def __init__(self):
        self._since = self._serials = None

    def leave(self, room, waiting, moment):
        """Return how many of the `waiting` jobs are left to those that have a `Room`.

        moment -- seconds of the monotonic clock.
        """
        if not waiting or waiting > room.jobs:
            self._since = None
        elif self._since is None or self._serials != room.serials:
            self._since, self._serials = moment, room.serials
        elif moment - self._since > PATIENCE * len(room.serials):       # and none of them has done anything since
            return 0
        return min(room.jobs, waiting)


class Pace:
    """When it is put on record how long the jobs of a processor take."""

    def __init__(self):
        self._slower = None

    def isToTell(self, owner, pace, busy, writes, moment):
        """Say whether the record is to be changed.

        That jobs take longer may have a reason that passes, like others at work on this machine: those must not be
        the more for it.  But when nothing ends for a while, others are to help at once.

        owner -- see `Ledger.owner`.
        pace -- seconds that a job takes; None for unknown.
        busy -- for how many seconds all threads have been busy with the same jobs.
        writes -- whether the ledger is written in any case.
        moment -- seconds of the monotonic clock.
        """
        if pace is None:
            return False
        told = owner.get('pace', math.inf)
        if pace < 2 * told:
            self._slower = None
        elif self._slower is None:
            self._slower = moment
        isSlower = self._slower is not None and moment - self._slower > SLOWER
        return writes and (isSlower or pace < told / 2) or busy >= HELD_UP and rateOf(owner) > 0
