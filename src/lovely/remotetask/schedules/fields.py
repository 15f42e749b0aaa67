"""The fields of a schedule: their ranges, and checks of what is given for them.  Monday is 0."""
# SPDX-License-Identifier: ZPL-2.1
import itertools

from lovely.remotetask.common.checks import shown


#: Field -> lowest and highest value.  Monday is 0, as in `time.gmtime` and the first documents of this package.
RANGES = {'minute': (0, 59), 'hour': (0, 23), 'dayOfMonth': (1, 31), 'month': (1, 12), 'dayOfWeek': (0, 6)}

#: Seconds of a one-time delay and of an interval at the most: ten years; and of an interval at the least.
LONGEST, SHORTEST_INTERVAL = 10 * 366 * 86400, 0.1

#: Values in a list for a field at the most.
LIST_LENGTH = 1000


def allOf(name):
    """Return all values of a field."""
    low, high = RANGES[name]
    return range(low, high + 1)


def checkFields(**fields):
    """Return the given fields with sorted tuples of ints as values.  None stands for an empty field.

    Raise `ValueError` that names the field when a value is not an int, out of the range of RANGES, or not in a list.
    """
    checked = {}
    for name, values in fields.items():
        low, high = RANGES[name]
        if values is None:
            values = ()
        if isinstance(values, (str, bytes, bytearray, dict)) or not hasattr(values, '__iter__'):
            raise ValueError(f'{name}: a list of numbers from {low} to {high} is needed, not {shown(values)}')
        values = tuple(itertools.islice(values, LIST_LENGTH + 1))
        if len(values) > LIST_LENGTH:
            raise ValueError(f'{name}: the list has more than {LIST_LENGTH} values')
        for value in values:
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f'{name}: {shown(value)} is not a number from {low} to {high}')
        checked[name] = tuple(sorted(set(values)))
    return checked


def checkDelay(delay, isInterval=False):
    """Return the delay in seconds, or None for none; 0 means at once.

    isInterval -- whether the delay comes again and again; then it is SHORTEST_INTERVAL or more.

    Raise `ValueError` when the delay is not a number from 0 to LONGEST, or too short for an interval.
    """
    if delay is None:
        return None
    if isinstance(delay, bool) or not isinstance(delay, (int, float)) or not 0 <= delay <= LONGEST:
        raise ValueError(f'delay: {shown(delay)} is not a number of seconds from 0 to {LONGEST} (ten years)')
    if isInterval and delay < SHORTEST_INTERVAL:
        raise ValueError(f'delay: {shown(delay)} is too short for a schedule that adds new jobs; the shortest interval '
                         f'is {SHORTEST_INTERVAL} seconds')
    return delay
