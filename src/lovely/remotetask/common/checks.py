"""Checks of arguments, as values: whether a number, a time or a text is what we take for one, and how it is refused."""
# SPDX-License-Identifier: ZPL-2.1


#: UTC seconds from the beginning of the year 1 to the end of the year 9999: times that can be shown as dates.
EARLIEST, LATEST = -62_135_596_800, 253_402_300_799

#: Seconds that a time span has at the most, a hundred years: Python cannot wait three times as long.
LONGEST = 100 * 366 * 86400

#: Characters of a value that a message shows at the most.
SHOWN = 60


def shown(value, size=SHOWN):
    """Return the repr of a value as a message shows it: of `size` characters at the most, on one line, for any value.
    """
    try:
        text = repr(value)
    except Exception:                           # an int of thousands of digits; an object of somebody's own class
        text = f'<{type(value).__name__}>'
    return cut(text, size)


def cut(text, size):
    """Return a text of `size` characters at the most: the beginning of a longer one."""
    return text if len(text) <= size else f'{text[:size - 3]}...'


def counted(number, noun):
    """Return a number with its noun, as '1 job' and '2 jobs'."""
    return f'{number} {noun}{"" if number == 1 else "s"}'


def isNumber(value, low, high):
    """Return whether a value is an int or a float from `low` to `high`.  A bool is none, and nan is in no range."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def isWhole(value, low, high):
    """Return whether a value is an int from `low` to `high`."""
    return isinstance(value, int) and isNumber(value, low, high)


def isSpan(value):
    """Return whether a value is a number of seconds above 0."""
    return isNumber(value, 0, LONGEST) and value > 0


def isPause(value):
    """Return whether a value is a number of seconds, 0 or more."""
    return isNumber(value, 0, LONGEST)


def isTime(value):
    """Return whether a value is a time in UTC seconds."""
    return isNumber(value, EARLIEST, LATEST)


def isText(value, longest):
    """Return whether a value is a text of 1 to `longest` characters."""
    return isinstance(value, str) and 0 < len(value) <= longest


def check(name, value, isRight, expected):
    """Raise `ValueError` that names an argument, and shows its value, unless that is right.

    >>> check('now', 0, isTime(0), 'a time in UTC seconds')
    >>> check('now', '0', isTime('0'), 'a time in UTC seconds')
    Traceback (most recent call last):
    ...
    ValueError: now: '0' is not a time in UTC seconds
    """
    if not isRight:
        raise ValueError(f'{name}: {shown(value)} is not {expected}')
