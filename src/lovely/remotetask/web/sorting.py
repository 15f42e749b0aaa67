"""Orders of the list of jobs: by an index, for all jobs; or by sorting the newest ones, and the page says how many.

An index has the jobs of each status in the order of their end or, as long as they have not ended, of their addition.
So all jobs, a million as well, can be listed by that time, by status, and by end, at the cost of a page.  Nothing has
all jobs by their addition, start or next run: then the newest `SORTED` that fit are put in order, the page says that,
and links to the next ones.
"""
# SPDX-License-Identifier: ZPL-2.1
import re
import time
from typing import NamedTuple

from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.storage.ledger import microseconds
from lovely.remotetask.storage.search import LOOKED_AT
from lovely.remotetask.storage.search import Found
from lovely.remotetask.storage.search import search


#: How many jobs are sorted where no index helps, and seconds that are spent on finding them.
SORTED, PATIENCE = 1000, 0.5

#: What the URL has as sort: a name, with - before it for the largest, the last or the newest first.
NEWEST, OLDEST = '', 'oldest'
STATUS, ENDED = 'status', 'ended'

#: Names of orders that no index has -> the attribute of a job.
TIMES = {'added': 'created', 'started': 'started', 'next': 'scheduledFor'}

#: How the columns of the list of jobs, and of the schedules, are sorted by the first click.
JOBS, SCHEDULES = (STATUS, '-added', '-started', '-ended'), ('next',)

_KEY = re.compile(r'(?P<moment>none|[0-9]{1,18})-(?P<jobid>[0-9]{1,10})')
_PLACE = re.compile(r'(?P<group>[0-7])(?:,(?P<cursor>\S+))?')


class Listing(NamedTuple):
    """A page of jobs in an order."""

    found: Found                # its cursor is where the next page begins
    sorted: int | None          # of how many jobs the order is, the newest that fit; None for all
    older: str | None           # the cursor where the next so many begin; None where there are none


def parseSort(text, columns):
    """Return what a URL has as sort, if that is an order of these columns; raise `ValueError` if it is none."""
    if text in (NEWEST, OLDEST) or text.removeprefix('-') in {column.removeprefix('-') for column in columns}:
        return text
    raise ValueError(f'sort: {text[:40]!r} is none of {OLDEST}, {", ".join(columns)}')


def listed(service, filter, sort, after, within, size, **options):
    """Return the `Listing` of the jobs that fit a filter.

    filter -- a `filters.Filter`.
    sort -- see `parseSort`.
    after -- the cursor of the page before; None for the first page.
    within -- the `older` of a listing: what is put in order begins there; None for the newest.
    size -- of the page.
    options -- of `search`: isWanted, hides, patience.

    Raise `ValueError` for a cursor that is none.
    """
    name, isDown = sort.removeprefix('-'), sort.startswith('-')
    if name in TIMES:
        return _inOrder(service, filter, TIMES[name], isDown, after, within, size, options)
    if name == STATUS:
        groups = [(status,) for status in STATUSES if status in (filter.statuses or STATUSES)]
        return _inGroups(service, filter, groups[::-1] if isDown else groups, (), after, size, options)
    if name == ENDED:
        groups = [tuple(status for status in filter.statuses or STATUSES if (status in FINAL) is isFinal)
                  for isFinal in (True, False)]
        return _inGroups(service, filter, groups, () if isDown else groups[:1], after, size, options)
    return Listing(search(service, filter, after, size, oldest=sort == OLDEST, **options), None, None)


def _inGroups(service, filter, groups, oldest, after, size, options):
    """Return the `Listing` of some groups of statuses, one after the other.

    groups -- tuples of statuses.
    oldest -- those of them that have the oldest first.
    """
    number, cursor = _placeOf(after, len(groups))
    options, until = dict(options), time.monotonic() + options.get('patience', 0)
    jobs, looked = [], 0
    while number < len(groups):
        if groups[number]:
            found = search(service, filter._replace(statuses=groups[number]), cursor, size - len(jobs),
                           LOOKED_AT - looked, oldest=groups[number] in oldest, **options)
            jobs, looked = jobs + found.jobs, looked + found.looked
            if found.cursor is not None:
                return Listing(Found(jobs, f'{number},{found.cursor}', looked, found.isCut), None, None)
        number, cursor = number + 1, None
        if number < len(groups) and (len(jobs) == size or looked == LOOKED_AT):
            return Listing(Found(jobs, str(number), looked, len(jobs) < size), None, None)
        if 'patience' in options:
            options['patience'] = max(0.0, until - time.monotonic())
    return Listing(Found(jobs, None, looked, False), None, None)


def _placeOf(after, groups):
    """Return the number of a group, and the cursor within it, for the cursor of a listing of groups."""
    if after is None:
        return 0, None
    match = _PLACE.fullmatch(after)
    if match is None or int(match['group']) >= groups:
        raise ValueError(f'cursor: {after[:40]!r} is none')
    return int(match['group']), match['cursor']


def _inOrder(service, filter, attribute, isDown, after, within, size, options):
    """Return the `Listing` of the newest jobs that fit, by an attribute; those that have none come last."""
    last = None if after is None else _keyOf(after, isDown)
    found = search(service, filter, within, SORTED, **{**options, 'patience': PATIENCE})
    ordered = sorted((_key(getattr(job, attribute, None), job.id, isDown), job) for job in found.jobs)
    rest = ordered if last is None else [pair for pair in ordered if pair[0] > last]
    page, cursor = rest[:size], None
    if len(rest) > size:
        (isMissing, moment, jobid), _ = page[-1]
        cursor = f'{"none" if isMissing else abs(moment)}-{abs(jobid)}'
    isWhole = found.cursor is None and within is None
    return Listing(Found([job for _, job in page], cursor, found.looked, False), None if isWhole else len(ordered),
                   found.cursor)


def _key(time, jobid, isDown):
    """Return what a job is sorted by, for a time in UTC seconds or None."""
    sign = -1 if isDown else 1
    return (True, 0, sign * jobid) if time is None else (False, sign * microseconds(time), sign * jobid)


def _keyOf(after, isDown):
    """Return the same for the cursor of a listing by time."""
    match = _KEY.fullmatch(after)
    if match is None:
        raise ValueError(f'cursor: {after[:40]!r} is none')
    sign, moment = -1 if isDown else 1, match['moment']
    return moment == 'none', 0 if moment == 'none' else sign * int(moment), sign * int(match['jobid'])
