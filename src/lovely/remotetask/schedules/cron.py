"""Schedule arithmetic: when the fields of a calendar say so next.  Pure: no clock, no database."""
# SPDX-License-Identifier: ZPL-2.1
import calendar
import datetime
import itertools
import math
import re
import threading
import time
import zoneinfo

from lovely.remotetask.common.checks import shown


#: Field -> lowest and highest value.  Monday is 0, as in `time.gmtime` and the first documents of this package.
RANGES = {'minute': (0, 59), 'hour': (0, 23), 'dayOfMonth': (1, 31), 'month': (1, 12), 'dayOfWeek': (0, 6)}

#: How far ahead a fitting time is looked for: 29 February of a given weekday can be 40 years away.
YEARS = 41

#: Seconds of a one-time delay and of an interval at the most: ten years; and of an interval at the least.
LONGEST, SHORTEST_INTERVAL = 10 * 366 * 86400, 0.1

#: Values in a list for a field, and characters of a crontab's text, at the most.
LIST_LENGTH, CRONTAB_LENGTH = 1000, 1000

#: Names in the tz database's directory that are no time zones, or not the same one on each machine.
NO_ZONES = frozenset(('Factory', 'localtime', 'posixrules'))

#: Seconds before the names of the time zones are read again for a name that is not among them.
ZONES_AGE = 60.0

#: Counted from by hand: `time.gmtime` ends where the platform's time_t does.
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)

DAY, SECOND = datetime.timedelta(days=1), datetime.timedelta(seconds=1)

#: How crontab text counts: as RANGES, but 0 and 7 are both Sunday.
CRONTAB_RANGES = {**RANGES, 'dayOfWeek': (0, 7)}

#: Names in crontab text; the first of them stands for the lowest value.
NAMES = {'month': ('jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'),
         'dayOfWeek': ('sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat')}

MACROS = {'@hourly': '0 * * * *', '@daily': '0 0 * * *', '@midnight': '0 0 * * *', '@weekly': '0 0 * * 0',
          '@monthly': '0 0 1 * *', '@yearly': '0 0 1 1 *', '@annually': '0 0 1 1 *'}


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


class _Zones:
    """The names of the time zones that this machine knows, as last read from its disk."""

    def __init__(self):
        self._names, self._read, self._lock = frozenset(), None, threading.Lock()

    def __contains__(self, name):
        """Return whether there is such a zone.  Another look at the disk is made once in ZONES_AGE seconds."""
        if name in self._names:
            return True
        with self._lock:
            if self._read is None or time.monotonic() - self._read >= ZONES_AGE:
                self._names = frozenset(zoneinfo.available_timezones()) - NO_ZONES
                self._read = time.monotonic()
        return name in self._names


    @property
    def isEmpty(self):
        """Whether no zone was found; after a look."""
        return not self._names


_zones = _Zones()


def checkTimeZone(name):
    """Return the name of a time zone, or None for UTC; raise `ValueError` when there is no such zone.

    Zones are those of the tz database: see `zoneinfo.available_timezones`.  Names that mean another zone on each
    machine, such as 'localtime', are none.

    >>> checkTimeZone('Europe/Berlin')
    'Europe/Berlin'
    >>> checkTimeZone('UTC') is None
    True
    """
    zoneOf(name)
    return None if name == 'UTC' else name


def zoneOf(name):
    """Return the `datetime.tzinfo` of a zone; None is UTC.  Raise `ValueError` when this machine does not know it."""
    if name is None or isinstance(name, str) and name == 'UTC':
        return datetime.timezone.utc
    if isinstance(name, str) and name in _zones:
        try:
            return zoneinfo.ZoneInfo(name)
        except (ValueError, KeyError, OSError):     # the file is gone, or cannot be read
            pass
    if _zones.isEmpty:
        raise ValueError(f'timeZone: {shown(name)} is not known, as no time zone is: this machine has no tz database')
    raise ValueError(f"timeZone: {shown(name)} is not a time zone such as 'Europe/Berlin'")


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


def allOf(name):
    """Return all values of a field."""
    low, high = RANGES[name]
    return range(low, high + 1)


#: What can be a field of a crontab, also in the dialects of others.
_FIELD = re.compile(r'[0-9*?/,LW#~-]+|(?:[0-9*/,-]*\b(?:%s)\b[0-9*/,-]*)+'
                    % '|'.join(itertools.chain(*NAMES.values())), re.IGNORECASE | re.ASCII)


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


# Why no library does this: cronsim 2.8 was compared, in 180,000 next times of 60,000 random crontabs in nine zones,
# most of them near a clock change.  All others were equal.  Near changes 3,526 differed, as cronsim does what Debian's
# cron does: all times in a gap become the first minute after it, and whether a field begins with `*` decides what goes
# by elapsed time.  368 answers were not later than the moment asked for, where the clock shows an hour twice: a
# scheduler would call such a job again and again.  What is left to take from it, walking over the days that fit, is
# hardly longer here than writing our fields as its text, and mostly takes less than half of the time in UTC.

def nextTime(now, minute=(), hour=(), dayOfMonth=(), month=(), dayOfWeek=(), eitherDay=False, timeZone=None):
    """Return the first time after `now` at which all given fields fit; None when there is none in YEARS years.

    now -- UTC seconds, an int or float; after an infinite one, or NaN, there is no time.
    minute, hour, dayOfMonth, month, dayOfWeek -- see RANGES; an empty field fits always.  Units smaller than the
    smallest given field start at their lowest value: `hour=(2,)` is 02:00, `month=(5,)` is 1 May, 00:00.
    Without any field every full minute fits.
    eitherDay -- where both dayOfMonth and dayOfWeek are given, one of them is enough.
    timeZone -- the fields are local times of the zone of this name; None is UTC.

    >>> nextTime(0, hour=(2, 13)) / 3600
    2.0
    >>> nextTime(2 * 3600, hour=(2, 13)) / 3600
    13.0
    >>> nextTime(0, month=(2,), dayOfMonth=(30,)) is None
    True

    When the clocks change, two rules hold.  Given hours, but not all 24, are times of the clock.  A time that the
    clock skips is read with the offset before the gap, so 02:30 is 03:30; one that it shows twice is the first of the
    two (RFC 5545, section 3.3.5).  A day that starts at 00:00 because only larger units are given counts as such.
    Without given hours the schedule goes by elapsed time, as jobs with the hour `*` do in Vixie cron, see cron(8):
    what the clock skips never comes, what it shows twice comes twice.  So a job for each full hour keeps its distance.
    The latter also holds for given hours where the schedule comes more often than hourly: if several minutes fit, and
    the hour before or after fits as well.  So a job for each ten minutes from 0:00 to 6:50 does not pause for an hour.

    >>> summer = 1711846800                     # 31 March 2024, 01:00 UTC: in Berlin the clock goes from 02:00 to 03:00
    >>> (nextTime(summer - 7200, minute=(30,), hour=(2,), timeZone='Europe/Berlin') - summer) / 60
    30.0
    >>> (nextTime(summer - 60, minute=(0,), timeZone='Europe/Berlin') - summer) / 60
    0.0
    """
    zone = None if timeZone is None else zoneOf(timeZone)
    if not math.isfinite(now):
        return None
    minutes, hours, days = completeTimes(minute, hour, dayOfMonth, month, dayOfWeek)
    earliest = int(now // 60) * 60 + 60
    try:
        # A time of the day before can be later than one of today: a time in a gap, or the second of two.
        start = (EPOCH + datetime.timedelta(seconds=earliest)).astimezone(zone or EPOCH.tzinfo).date() - DAY
    except OverflowError:                           # before the year 1, or after 9999
        return None
    best = None
    for day in fittingDays(start, days, month, dayOfWeek, eitherDay):
        found = firstOfDay(day, hours, minutes, earliest, zone)
        if best is not None:                        # for the same reason the day after the first one is looked at
            return best if found is None else min(best, found)
        best = found
    return best


def nextBeat(start, interval, now):
    """Return the first time after `now` that is a whole number of intervals away from `start`.

    start, now -- UTC seconds.
    interval -- seconds, SHORTEST_INTERVAL or more.

    It is counted in whole microseconds: adding floats need not move on, and drifts.

    >>> nextBeat(0.1, 0.7, 0.1), nextBeat(0.1, 0.7, 100), nextBeat(100, 0.7, 0.1)
    (0.8, 100.2, 0.6)
    """
    start, interval, moment = (round(seconds * 1_000_000) for seconds in (start, interval, now))
    beat = start + ((moment - start) // interval + 1) * interval
    # From the year 2255 on a float has no room for microseconds: the next beat may be `now`.
    return beat / 1_000_000 if beat / 1_000_000 > now else (beat + interval) / 1_000_000


def completeTimes(minute, hour, dayOfMonth, month, dayOfWeek):
    """Return minutes, hours and days of month: those below the smallest given field at their lowest value, or all."""
    if not minute and (hour or dayOfMonth or month or dayOfWeek):
        minute = (0,)
        if not hour and (dayOfMonth or month or dayOfWeek):
            hour = (0,)
            if not dayOfMonth and not dayOfWeek:
                dayOfMonth = (1,)
    return minute or allOf('minute'), hour or allOf('hour'), dayOfMonth


def fittingDays(start, dayOfMonth, month, dayOfWeek, eitherDay):
    """Yield the dates from `start` on that fit, in YEARS years and before the year 9999."""
    for count in range(start.month - 1, start.month - 1 + YEARS * 12):
        y, m = start.year + count // 12, count % 12 + 1
        if y >= datetime.MAXYEAR:
            return
        if month and m not in month:
            continue
        weekday, length = calendar.monthrange(y, m)
        for day in range(start.day if (y, m) == (start.year, start.month) else 1, length + 1):
            inMonth = not dayOfMonth or day in dayOfMonth
            inWeek = not dayOfWeek or (weekday + day - 1) % 7 in dayOfWeek
            if inMonth and inWeek or eitherDay and dayOfMonth and dayOfWeek and (inMonth or inWeek):
                yield datetime.date(y, m, day)


def firstOfDay(day, hours, minutes, earliest, zone):
    """Return the first of the day's times that is not before `earliest`, all in UTC seconds; or None."""
    midnight = (day.toordinal() - EPOCH.toordinal()) * 86400
    offsets = offsetsOfDay(day, zone)
    if len(offsets) > 1:
        return firstOfChange(day, hours, minutes, earliest, zone)
    offset, = offsets
    for h in hours:
        start = midnight - offset + h * 3600
        if start + 3540 >= earliest:
            for m in minutes:
                if start + m * 60 >= earliest:
                    return start + m * 60
    return None


def offsetsOfDay(day, zone):
    """Return the set of how many seconds the zone is ahead of UTC on that day."""
    if zone is None:
        return {0}
    return {offset for date in (day, day + DAY) for offset in offsetsOf(date, 0, 0, zone)}


def firstOfChange(day, hours, minutes, earliest, zone):
    """Do what `firstOfDay` does for a day on which the clocks change."""
    midnight = (day.toordinal() - EPOCH.toordinal()) * 86400
    low, high = min(offsetsOfDay(day, zone)), max(offsetsOfDay(day, zone))
    first = None
    for h in hours:
        start = midnight + h * 3600
        if start + 3540 - low < earliest or first is not None and start - high > first:
            continue                            # all of its times are too early, or too late
        for moment in timesOfChange(day, h, hours, minutes, zone):
            if moment >= earliest and (first is None or moment < first):
                first = moment
    return first


def timesOfChange(day, hour, hours, minutes, zone):
    """Yield the times of one hour of a day on which the clocks change, in UTC seconds and any order; see `nextTime`."""
    start = (day.toordinal() - EPOCH.toordinal()) * 86400 + hour * 3600
    byClock = len(hours) < 24
    for m in minutes:
        first, second = offsetsOf(day, hour, m, zone)
        if byClock or first >= second:          # else it is in a gap
            yield start + m * 60 - first
        if first > second and (not byClock or isOften(hour, hours, minutes)):       # the clock shows it twice
            yield start + m * 60 - second


def isOften(hour, hours, minutes):
    """Return whether a schedule comes more often than hourly around an hour that fits."""
    return len(minutes) > 1 and ((hour + 1) % 24 in hours or (hour - 1) % 24 in hours)


def offsetsOf(day, hour, minute, zone):
    """Return how many seconds a local time is ahead of UTC before and after a change that concerns it (PEP 495)."""
    local = datetime.datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
    return local.utcoffset() // SECOND, local.replace(fold=1).utcoffset() // SECOND
