"""Parses filters, the texts by which pages, commands and calls find jobs.  Pure.

A filter is a text of terms that all have to fit, divided by spaces; what has a space in it stands in double quotes::

    status:error,cancelled task:avi2* since:1h host:processor-* input.film:Metropolis "no such file"

status -- one or more of `interfaces.STATUSES`, divided by commas; `start-later` will do for "start later".
task, host -- a pattern of `fnmatch`, in which upper and lower case differ; the host is the one that ran the job last.
since, before -- how long ago (30s, 5m, 1h, 2d, 1w), or a date, or a date and a time in UTC, as 2026-05-01T12:30.  What
    counts is when a job ended or, as long as it has not ended, was added.
input.NAME -- a pattern for a field of the input; input.film.title is a field of a field, input.films.0 an item of a
    list.
id, schedule -- of the job, and of the cron job that added it.
Any other word -- a part of the id, the task, the input or the error; upper and lower case are the same.
"""
# SPDX-License-Identifier: ZPL-2.1
import fnmatch
import re
from datetime import datetime
from datetime import timezone
from typing import NamedTuple

from lovely.remotetask.common.checks import isTime
from lovely.remotetask.common.checks import shown
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import STARTLATER
from lovely.remotetask.interfaces import STATUSES


#: Characters of a filter, and its terms, at the most.
LENGTH, TERMS = 1000, 20

#: What can stand before a colon, besides `input.NAME`.
KEYS = ('status', 'task', 'host', 'since', 'before', 'id', 'schedule')

INPUT = 'input.'

_TERM = re.compile(r'\s*(?:(?P<key>[A-Za-z]+(?:\.[^\s:"]+)?):)?(?:"(?P<quoted>[^"]*)"|(?P<plain>[^\s"]+))(?=\s|$)')
_AGE = re.compile(r'(?P<number>[0-9]{1,9}(?:\.[0-9]{1,9})?)(?P<unit>[smhdw])')
_SECONDS = {'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 7 * 86400}
_DATES = ('%Y-%m-%d', '%Y-%m-%dT%H:%M', '%Y-%m-%dT%H:%M:%S', '%Y-%m-%dT%H:%M:%S.%f', '%Y-%m-%d %H:%M',
          '%Y-%m-%d %H:%M:%S')


class Filter(NamedTuple):
    """The conditions of a filter; those that it does not have are None or empty."""

    statuses: tuple = ()            # empty for any
    task: str | None = None         # pattern
    host: str | None = None         # pattern
    since: float | None = None      # UTC seconds
    before: float | None = None     # UTC seconds
    jobid: int | None = None
    schedule: int | None = None
    fields: tuple = ()              # of pairs: the names on the way to a field of the input, and a pattern
    words: tuple = ()               # in lower case

    @property
    def isIndexed(self):
        """Whether indexes alone find the jobs that fit: then no other job is looked at.

        Queues have an order of their own, not that of time.
        """
        if (self.since, self.before) != (None, None) and QUEUED in (self.statuses or STATUSES):
            return False
        return self == Filter(self.statuses, since=self.since, before=self.before, jobid=self.jobid)


def parseFilter(text, now):
    """Return the `Filter` that a text stands for; the empty text is for all jobs.

    now -- UTC seconds, for what is so long ago.

    Raise `ValueError` that says which term is wrong, and what is right.

    >>> parseFilter('status:error task:avi2* input.film:Metropolis', 0)[:2]
    (('error',), 'avi2*')
    >>> parseFilter('id:x', 0)
    Traceback (most recent call last):
    ...
    ValueError: filter: id: 'x' is not the id of a job
    """
    if len(text) > LENGTH:
        raise ValueError(f'filter: it has {len(text)} characters, {LENGTH} are the most')
    found = {}
    for key, value in _terms(text):
        if not value:
            raise ValueError(f'filter: there is nothing behind {key}:' if key else 'filter: "" is no word')
        if key is None:
            found.setdefault('words', []).append(value.lower())
        elif key.startswith(INPUT):
            found.setdefault('fields', []).append((tuple(key.removeprefix(INPUT).split('.')), value))
        else:
            name, value = _READERS[key](key, value, now)
            if name in found:
                raise ValueError(f'filter: {key}: stands there twice')
            found[name] = value
    since, before = found.get('since'), found.get('before')
    if since is not None and before is not None and since >= before:
        raise ValueError('filter: since: is not earlier than before:')
    return Filter(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})


def _terms(text):
    """Yield pairs of key, None for a word, and value; raise ValueError."""
    position, count = 0, 0
    while text[position:].strip():
        match = _TERM.match(text, position)
        if match is None:
            raise ValueError(f'filter: {shown(text[position:].strip(), 40)}: a quotation mark is missing, or stands '
                             'within a word')
        key, position, count = match['key'], match.end(), count + 1
        if key is not None and not (key in KEYS or key.startswith(INPUT)):
            raise ValueError(f'filter: there is no {shown(key + ":", 40)}; there are '
                             f'{", ".join(name + ":" for name in KEYS)}, {INPUT}NAME:'
                             ' (a word with a colon stands in quotation marks)')
        if count > TERMS:
            raise ValueError(f'filter: it has more than {TERMS} terms')
        value = match['plain'] if match['quoted'] is None else match['quoted']
        yield (value[:-1], '') if key is None and value[:-1] in KEYS and value[-1] == ':' else (key, value)


# Readers: called with key, value and UTC seconds; they return the name in `Filter` and what it is there.

def _readStatuses(key, value, now):
    statuses = [STARTLATER if part == STARTLATER.replace(' ', '-') else part for part in value.split(',')]
    for status in statuses:
        if status not in STATUSES:
            raise ValueError(f'filter: status: {shown(status, 40)} is none of '
                             f'{", ".join(STATUSES).replace(STARTLATER, STARTLATER.replace(" ", "-"))}')
    return 'statuses', tuple(dict.fromkeys(statuses))


def _readPattern(key, value, now):
    return key, value


def _readTime(key, value, now):
    if (match := _AGE.fullmatch(value)) is not None:
        moment = now - float(match['number']) * _SECONDS[match['unit']]
    else:
        moment = parseTime(value)
    if moment is None or not isTime(moment):
        raise ValueError(f'filter: {key}: {shown(value, 40)} is no time; write how long ago, as 30s, 5m, 1h, 2d or 1w, '
                         'or in UTC 2026-05-01 or 2026-05-01T12:30')
    return key, moment


def _readId(key, value, now):
    if not (value.isascii() and value.isdigit() and 0 < int(value[:11]) < 2 ** 31):
        raise ValueError(f'filter: {key}: {shown(value, 40)} is not the id of a job')
    return {'id': 'jobid'}.get(key, key), int(value)


_READERS = {'status': _readStatuses, 'task': _readPattern, 'host': _readPattern, 'since': _readTime,
            'before': _readTime, 'id': _readId, 'schedule': _readId}


def parseTime(text):
    """Return UTC seconds for a date, or a date and a time, in UTC; None for any other text.

    >>> parseTime('2026-05-01T12:30') - parseTime('2026-05-01')
    45000.0
    """
    for form in _DATES:
        try:
            return datetime.strptime(text.removesuffix('Z'), form).replace(tzinfo=timezone.utc).timestamp()
        except ValueError:
            continue
    return None


def quoted(key, value):
    """Return the term for a key and a value, as a filter has it.

    >>> quoted('task', 'make a film'), quoted('task', 'echo')
    ('task:"make a film"', 'task:echo')
    """
    return f'{key}:"{value}"' if re.search(r'\s', value) else f'{key}:{value}'


# Values that fit

def fits(text, pattern):
    """Return whether a text fits a pattern of `fnmatch`; None for the pattern is for any text."""
    return pattern is None or fnmatch.fnmatchcase(text, pattern)


def valueAt(value, path):
    """Return pairs of whether there is something at a path of names, and what.

    >>> valueAt({'films': [{'title': 'Metropolis'}]}, ('films', '0', 'title'))
    (True, 'Metropolis')
    >>> valueAt({'films': []}, ('films', '0'))
    (False, None)
    """
    for name in path:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, (list, tuple)) and name.isascii() and name.isdigit() and int(name[:9]) < len(value):
            value = value[int(name[:9])]
        else:
            return False, None
    return True, value


def asText(value):
    """Return the text of a value that a pattern has to fit: that of JSON for what JSON has, without quotation marks."""
    if isinstance(value, str):
        return value
    return {True: 'true', False: 'false', None: 'null'}[value] if value is None or isinstance(value, bool) \
        else str(value)
