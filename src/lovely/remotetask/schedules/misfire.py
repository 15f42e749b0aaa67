"""Misfire decisions, as values: which missed times of a schedule are made up for.  Pure."""
# SPDX-License-Identifier: ZPL-2.1


#: Run once for all times that were missed.
ONCE = 'once'
#: Do not run for a time that was missed.
SKIP = 'skip'

#: The most runs that are made up for.
MOST = 1000

#: Seconds between two times of a calendar, at the least.
STEP = 60.0

#: Seconds by which a run may be late before its time counts as missed.
GRACE = 60.0


def checkMisfire(policy):
    """Return the policy; raise `ValueError` when it is none: ONCE, SKIP or a number of runs from 1 to MOST."""
    if policy in (ONCE, SKIP) if isinstance(policy, str) else type(policy) is int and 1 <= policy <= MOST:
        return policy
    raise ValueError(f'misfire: {policy!r} is none of {ONCE!r}, {SKIP!r} and a number of runs from 1 to {MOST}')


def decide(policy, due, now, following, step=STEP):
    """Return the time to run for when the time `due` is met at `now`, None for no run; all in UTC seconds.

    policy -- see `checkMisfire`.  With a number this is the first of so many latest times; the others come after it.
    following -- a callable that returns the first time after a moment, or None.
    step -- seconds between two times, at the least.

    >>> hourly = lambda time: (time // 3600 + 1) * 3600
    >>> [decide(policy, 3600, 9 * 3600, hourly) for policy in (ONCE, SKIP, 2)]
    [3600, None, 28800.0]
    >>> decide(SKIP, 3600, 3601, hourly)
    3600
    """
    if policy == ONCE:
        return due
    if policy == SKIP:
        return None if now - due > GRACE else due
    return _firstOfLatest(policy, due, now, following, step)


def _firstOfLatest(count, due, now, following, step):
    """Return the first of the latest `count` times from `due` up to `now`; `due` if there are fewer.

    There may be millions: those after `start` are counted, up to twice as many as needed.  `start` moves back by ever
    longer spans until there are enough times after it.  If there are too many then, it moves by halves between `early`
    and `late`, after which there are too many and too few: until there are enough, or these are `count` steps apart.
    """
    start, early, late = now - step * count, None, now
    while True:
        times = _times(due, start, now, following, 2 * count + 1)
        if len(times) > 2 * count and late - start > step * count:
            early, start = start, (start + late) / 2
        elif len(times) >= count or start < due:
            return times[-count:][0]
        else:
            late, start = start, 2 * start - now if early is None else (early + start) / 2


def _times(due, start, now, following, most):
    """Return the times after `start`, from `due` up to `now`, the first `most` of them."""
    times = [due] if start < due else []
    time = following(max(due, start))
    while time is not None and time <= now and len(times) < most:
        times.append(time)
        time = following(time)
    return times
