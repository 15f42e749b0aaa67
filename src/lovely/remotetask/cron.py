"""Schedule arithmetic: when the fields of a calendar say so next.  Pure: no clock, no database."""
# SPDX-License-Identifier: ZPL-2.1
import calendar
import datetime


#: Field -> lowest and highest value.  Monday is 0, as in `time.gmtime` and the first documents of this package.
RANGES = {'minute': (0, 59), 'hour': (0, 23), 'dayOfMonth': (1, 31), 'month': (1, 12), 'dayOfWeek': (0, 6)}

#: How far ahead a fitting time is looked for: 29 February of a given weekday can be 40 years away.
YEARS = 41

#: Counted from by hand: `time.gmtime` ends where the platform's time_t does.
EPOCH = datetime.datetime(1970, 1, 1)


def checkFields(**fields):
    """Return the given fields with sorted tuples of ints as values.

    Raise `ValueError` that names the field when a value is not an int, out of the range of RANGES, or not in a list.
    """
    checked = {}
    for name, values in fields.items():
        low, high = RANGES[name]
        if isinstance(values, (str, bytes)) or not hasattr(values, '__iter__'):
            raise ValueError(f'{name}: a list of numbers from {low} to {high} is needed, not {values!r}')
        for value in (values := tuple(values)):
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f'{name}: {value!r} is not a number from {low} to {high}')
        checked[name] = tuple(sorted(set(values)))
    return checked


def checkDelay(delay):
    """Return the delay in seconds, or None for none; raise `ValueError` when it is no positive number or too large."""
    if delay is None or delay == 0 and not isinstance(delay, bool):
        return None
    if isinstance(delay, bool) or not isinstance(delay, (int, float)) or not 0 < delay <= 10 * 366 * 86400:
        raise ValueError(f'delay: {delay!r} is not a number of seconds, up to ten years')
    return delay


def nextTime(now, minute=(), hour=(), dayOfMonth=(), month=(), dayOfWeek=()):
    """Return the first time after `now` at which all given fields fit; None when there is none in YEARS years.

    now -- UTC seconds, an int or float.
    minute, hour, dayOfMonth, month, dayOfWeek -- see RANGES; an empty field fits always.  Units smaller than the
    smallest given field start at their lowest value: `hour=(2,)` is 02:00, `month=(5,)` is 1 May, 00:00.
    Without any field every full minute fits.

    >>> nextTime(0, hour=(2, 13)) / 3600
    2.0
    >>> nextTime(2 * 3600, hour=(2, 13)) / 3600
    13.0
    >>> nextTime(0, month=(2,), dayOfMonth=(30,)) is None
    True
    """
    days = dayOfMonth
    if not minute and (hour or days or month or dayOfWeek):
        minute = (0,)
        if not hour and (days or month or dayOfWeek):
            hour = (0,)
            if not days and not dayOfWeek:
                days = (1,)
    times = [(h, m) for h in hour or range(24) for m in minute or range(60)]
    earliest = int(now // 60) * 60 + 60
    first = EPOCH + datetime.timedelta(seconds=earliest)
    for count in range(YEARS * 12):
        y, m = first.year + (first.month - 1 + count) // 12, (first.month - 1 + count) % 12 + 1
        if month and m not in month:
            continue
        for day in days or range(1, 32):
            if count == 0 and day < first.day or day > calendar.monthrange(y, m)[1]:
                continue
            if dayOfWeek and calendar.weekday(y, m, day) not in dayOfWeek:
                continue
            midnight = calendar.timegm((y, m, day, 0, 0, 0))
            for h, minutes in times:
                if (candidate := midnight + h * 3600 + minutes * 60) >= earliest:
                    return candidate
    return None

