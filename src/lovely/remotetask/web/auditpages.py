"""Who changed what: told by the database's own history, so nothing has to be written for it."""
# SPDX-License-Identifier: ZPL-2.1
from typing import NamedTuple

from lovely.remotetask.web.rendering import Page


#: Transactions of the history that are looked at for one page.
LOOKED_AT = 1000

PREFIX = 'remotetask '


class Change(NamedTuple):
    """A transaction that somebody has asked for."""

    time: float                 # UTC seconds
    user: str
    what: str


def changes(context):
    """Return the page of changes, the newest first."""
    context.allow('getStatistics')
    after = context.parameter('after')
    first = int(after) if after.isascii() and after.isdigit() and len(after) < 10 else 0
    db = context.connection.db()
    isKept = db.supportsUndo()
    entries = db.undoInfo(first, first + LOOKED_AT) if isKept else []
    place = f' in {context.path}'
    found = [change for change in map(_changeOf, entries)
             if change is not None and change.time <= context.now and _isOf(change.what, place)]
    more = first + LOOKED_AT if len(entries) == LOOKED_AT else None
    return Page('audit', 'Changes', {'changes': found, 'isKept': isKept, 'looked': len(entries), 'more': more,
                                     'last': entries[-1]['time'] if entries else None})


def _isOf(what, place):
    return what.endswith(place) or ' in /' not in what


def _changeOf(entry):
    """Return the `Change` for an entry of the database's history; None for what nobody has asked for."""
    what = _text(entry['description'])
    if not what.startswith(PREFIX):
        return None
    return Change(entry['time'], _text(entry['user_name']).removeprefix('/').strip(), what.removeprefix(PREFIX))


def _text(value):
    return value.decode('utf-8', 'replace') if isinstance(value, bytes) else value
