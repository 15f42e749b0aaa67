"""Misfire decisions, as values: which of the times that a schedule missed are made up for.  Pure."""
# SPDX-License-Identifier: ZPL-2.1


#: Run once for all times that were missed.
ONCE = 'once'
#: Do not run for a time that was missed.
SKIP = 'skip'

#: The most runs that are made up for.
MOST = 1000

#: Seconds by which a run may be late before its time counts as missed: the step of a calendar.
GRACE = 60.0


def checkMisfire(policy):
    """Return the policy; raise `ValueError` when it is none: ONCE, SKIP or a number of runs from 1 to MOST."""
    if policy in (ONCE, SKIP) if isinstance(policy, str) else type(policy) is int and 1 <= policy <= MOST:
        return policy
    raise ValueError(f'misfire: {policy!r} is none of {ONCE!r}, {SKIP!r} and a number of runs from 1 to {MOST}')


def decide(policy, due, now, following):
    """Return the times to run for, oldest first, when the time `due` is met at `now`; both in UTC seconds.

    policy -- see `checkMisfire`.  A number asks for a run for each time up to `now`, the latest ones if they are more.
    following -- a callable that gives the time after one.

    >>> hourly = lambda time: (time // 3600 + 1) * 3600
    >>> [decide(policy, 3600, 9 * 3600, hourly) for policy in (ONCE, SKIP, 2)]
    [(3600,), (), (28800.0, 32400.0)]
    >>> decide(SKIP, 3600, 3601, hourly)
    (3600,)
    """
    if policy == ONCE:
        return (due,)
    if policy == SKIP:
        return () if now - due > GRACE else (due,)
    # There may be millions: look at ever longer spans before `now` until there are enough.
    span = GRACE * policy
    while True:
        start = now - span
        times = [due] if due > start else []
        time = following(max(due, start))
        while time is not None and time <= now:
            times.append(time)
            time = following(time)
        if len(times) >= policy or due > start:
            return tuple(times[-policy:])
        span *= 2
