"""The text of a crontab, as crontab(5) has it: what fields it stands for."""
# SPDX-License-Identifier: ZPL-2.1
import itertools
import re

from lovely.remotetask.common.checks import shown
from lovely.remotetask.schedules.fields import RANGES
from lovely.remotetask.schedules.fields import allOf
from lovely.remotetask.schedules.fields import checkFields


#: Characters of the text at the most.
CRONTAB_LENGTH = 1000

#: How crontab text counts: as RANGES, but 0 and 7 are both Sunday.
CRONTAB_RANGES = {**RANGES, 'dayOfWeek': (0, 7)}

#: Names in crontab text; the first of them stands for the lowest value.
NAMES = {'month': ('jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'),
         'dayOfWeek': ('sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat')}

MACROS = {'@hourly': '0 * * * *', '@daily': '0 0 * * *', '@midnight': '0 0 * * *', '@weekly': '0 0 * * 0',
          '@monthly': '0 0 1 * *', '@yearly': '0 0 1 1 *', '@annually': '0 0 1 1 *'}

#: What can be a field of a crontab, also in the dialects of others.
_FIELD = re.compile(r'[0-9*?/,LW#~-]+|(?:[0-9*/,-]*\b(?:%s)\b[0-9*/,-]*)+'
                    % '|'.join(itertools.chain(*NAMES.values())), re.IGNORECASE | re.ASCII)


def parseCrontab(text):
    """Return the fields that the text of a crontab stands for, and `eitherDay`: arguments of `nextTime`.

    The text has five fields, or is one of MACROS.  A field is a list of numbers or names, ranges, and steps, as
    crontab(5) of Vixie cron and cronie says; `5/15` is 5 to the end by 15.  A range must not go backwards, but as in
    cronie it may end with Sunday: `sat-sun`.  What other programs have added (`?`, `L`, `W`, `#`) is refused.

    If neither day field begins with `*`, a day fits when either of them does, else when both do: the rule of POSIX,
    in the reading of crontab(5), where `*/2` begins with `*`.

    `*` is () where a field that is empty fits always, and all values where it would be at its lowest value.

    >>> parseCrontab('30 4 1,15 * fri')
    {'minute': (30,), 'hour': (4,), 'dayOfMonth': (1, 15), 'month': (), 'dayOfWeek': (4,), 'eitherDay': True}
    >>> parseCrontab('@daily')
    {'minute': (0,), 'hour': (0,), 'dayOfMonth': (), 'month': (), 'dayOfWeek': (), 'eitherDay': False}
    >>> parseCrontab('61 * * * *')
    Traceback (most recent call last):
    ...
    ValueError: crontab: 'minute' field '61': 61 is not from 0 to 59
    """
    texts = splitCrontab(text)
    fields = {name: parseField(name, part) for name, part in texts.items()}
    fields['dayOfWeek'] = {(day - 1) % 7 for day in fields['dayOfWeek']}
    eitherDay = not texts['dayOfMonth'].startswith('*') and not texts['dayOfWeek'].startswith('*')
    for name, values in fields.items():
        if len(values) == len(allOf(name)) and not (eitherDay and name in ('dayOfMonth', 'dayOfWeek')):
            fields[name] = ()
    for name, larger in (('dayOfMonth', ('month',)),
                         ('hour', ('dayOfMonth', 'dayOfWeek', 'month')),
                         ('minute', ('hour', 'dayOfMonth', 'dayOfWeek', 'month'))):
        if not fields[name] and any(fields[unit] for unit in larger):
            fields[name] = allOf(name)
    return {**checkFields(**fields), 'eitherDay': eitherDay}


def splitCrontab(text):
    """Return the texts of the five fields by their names; macros are replaced.

    Raise `ValueError`; for what is often found in a crontab beside the fields, the message says what to do instead.
    """
    if not isinstance(text, str):
        raise ValueError(f'crontab: a text is needed, not {shown(text)}')
    if len(text) > CRONTAB_LENGTH:
        raise ValueError(f'crontab: the text has {len(text)} characters; {CRONTAB_LENGTH} are allowed')
    parts = text.split()
    first = parts[0].lower() if parts else ''
    if reason := _misplaced(text, parts, first):
        raise ValueError(f'crontab: {text!r:.60}: {reason}')
    if first.startswith('@') and first not in MACROS:
        raise ValueError(f"crontab: {text!r:.60} is none of {', '.join(MACROS)}")
    if first in MACROS:
        parts = MACROS[first].split()
    if len(parts) != len(RANGES):
        raise ValueError(f"crontab: five fields are needed, {', '.join(RANGES)}, not {len(parts)}: {text!r:.60}")
    return dict(zip(RANGES, parts))


def _misplaced(text, parts, first):
    """Return what a text has that belongs elsewhere, and where, as a sentence; None when there is no such thing."""
    name, equals, value = (parts[0] if parts else '').partition('=')
    if equals and name.upper() in ('CRON_TZ', 'TZ'):
        zone = value.strip('\'"') or 'Europe/Berlin'
        return f'{name}= is not taken here; give the option timeZone, as {shown(zone)}, and only the five fields'
    if equals:
        return 'variables are not taken here; give only the five fields'
    if first == '@reboot':
        return "'@reboot' is refused: it is no time, and jobs outlive the processes that run them"
    if first == '@every':
        return '@every is not taken here; give the delay in seconds, and the option newJobs, instead of a crontab'
    if any(part.startswith('#') for part in parts):
        return 'comments are not taken here; give only the five fields'
    length = 1 if first in MACROS else len(RANGES)
    if len(parts) <= length:
        return None
    if len(text.strip().splitlines()) > 1:
        return 'it has several lines; add a schedule for each'
    if first not in MACROS and len(parts) <= 7 and all(map(_FIELD.fullmatch, parts)):
        return (f'five fields are needed, {", ".join(RANGES)}, not {len(parts)}; seconds and years are not known here, '
                f'and a list has no spaces')
    return (f'a user or a command, as {shown(parts[length])}, is not taken here: the job runs its task; give only the '
            f'{"short form" if first in MACROS else "five fields"}')


def parseField(name, text):
    """Return the set of numbers that the text of a field stands for, counted as in CRONTAB_RANGES."""
    try:
        return {value for part in text.split(',') for value in parseRange(name, part)}
    except ValueError as error:
        raise ValueError(f'crontab: {name!r} field {text!r:.60}: {error}') from None


def parseRange(name, text):
    """Return the numbers of one part of a list: a number, a range or `*`, each maybe with a step."""
    low, high = CRONTAB_RANGES[name]
    span, slash, step = text.partition('/')
    first, dash, last = span.partition('-')
    if span == '*':
        start, end = low, high
    else:
        start = parseValue(name, first)
        end = parseValue(name, last) if dash else high if slash else start
    if name == 'dayOfWeek' and start > end == 0:
        end = 7
    if start > end:
        raise ValueError(f'the range {span} goes backwards')
    by = parseNumber(step) if slash else 1
    if by is None or not 1 <= by <= high - low + 1:
        raise ValueError(f'the step {step!r:.20} is not a number from 1 to {high - low + 1}')
    return range(start, end + 1, by)


def parseValue(name, text):
    """Return the number of a name or number of a field."""
    low, high = CRONTAB_RANGES[name]
    names = NAMES.get(name, ())
    if text.lower() in names:
        return low + names.index(text.lower())
    if (number := parseNumber(text)) is None:
        raise ValueError(f"{text!r:.20} is not a number from {low} to {high}{', or one of ' * bool(names)}"
                         + ' '.join(names))
    if not low <= number <= high:
        raise ValueError(f'{text:.20} is not from {low} to {high}')
    return number


def parseNumber(text):
    """Return the number that decimal digits stand for, or None.  One of many digits is cut: it is too large still."""
    return int(text.lstrip('0')[:9] or '0') if text.isascii() and text.isdigit() else None
