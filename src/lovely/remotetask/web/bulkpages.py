"""Changing all jobs that fit a filter: their number, and the question whether all of them are meant."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.execution.bulk import refuseSecrets
from lovely.remotetask.filters import parseFilter
from lovely.remotetask.web.rendering import Page
from lovely.remotetask.xmlrpc.calls import TYPED


def bulk(context, mistake=''):
    """Return the page that asks whether it is meant.

    mistake -- why the answer will not do.
    """
    context.allow('clean')
    get = context.field if context.form else context.parameter
    verb, text = get('verb'), get('filter').strip()
    checkFilter(context, text)
    count, isWhole = context.service.countBulk(verb, text, context.now)
    return Page('bulk', 'All jobs that fit', {'verb': verb, 'text': text, 'count': count, 'isWhole': isWhole,
                                              'isTyped': count > TYPED, 'mistake': mistake}, 400 if mistake else 200)


def checkFilter(context, text):
    """Raise `ValueError` for a text that is no filter, or has the value of a field that these pages hide."""
    refuseSecrets(parseFilter(text, context.now), context.hidesAny())


def hasConfirmed(count, typed):
    """Return whether what was typed, a text, confirms that so many jobs are meant, a text as well."""
    if not (count.isascii() and count.isdigit() and len(count) < 12):
        return False
    return int(count) <= TYPED or typed.strip().replace('\u202f', '') == count
