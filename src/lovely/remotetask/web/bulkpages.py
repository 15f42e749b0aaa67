"""All jobs that fit a filter: how many they are, the question whether that is meant, and the job that does it."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.execution.bulk import VERBS
from lovely.remotetask.execution.bulk import meant
from lovely.remotetask.filters import Filter
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.storage.search import LARGEST
from lovely.remotetask.storage.search import search
from lovely.remotetask.web.rendering import Page


#: Jobs that are looked at to count those that fit.
LOOKED_AT = 20_000

#: From how many jobs on their number has to be typed.
TYPED = 100


def countFitting(service, filter, most=LOOKED_AT):
    """Return how many jobs fit a filter, and whether these are all: no more than `most` are looked at."""
    if filter == Filter(filter.statuses):
        counts = service.countJobs()
        return sum(counts[status] for status in filter.statuses or STATUSES), True
    count, looked, after = 0, 0, None
    while looked < most:
        found = search(service, filter, after, LARGEST, min(5000, most - looked))
        count, looked, after = count + len(found.jobs), looked + found.looked, found.cursor
        if after is None:
            return count, True
    return count, False


def bulk(context, mistake=''):
    """Return the page that asks whether it is meant.

    mistake -- why the answer will not do.
    """
    context.allow('clean')
    get = context.field if context.form else context.parameter
    verb, text = get('verb'), get('filter').strip()
    if verb not in VERBS:
        raise ValueError(f'verb: {verb[:20]!r} is none of {", ".join(VERBS)}')
    filter = meant(verb, text, context.now)
    count, isWhole = (0, True) if filter is None else countFitting(context.service, filter)
    return Page('bulk', 'All jobs that fit', {'verb': verb, 'text': text, 'count': count, 'isWhole': isWhole,
                                              'isTyped': count > TYPED, 'mistake': mistake}, 400 if mistake else 200)


def hasConfirmed(count, typed):
    """Return whether what was typed, a text, confirms that so many jobs are meant, a text as well."""
    if not (count.isascii() and count.isdigit() and len(count) < 12):
        return False
    return int(count) <= TYPED or typed.strip().replace('\u202f', '') == count
