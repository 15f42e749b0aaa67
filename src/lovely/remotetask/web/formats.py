"""How values look on a page: times, durations, sizes, and inputs and outputs as trees.  Pure; escapes nothing."""
# SPDX-License-Identifier: ZPL-2.1
import json
import math
from datetime import datetime
from datetime import timezone
from typing import Any
from typing import NamedTuple

from lovely.remotetask.common.checks import cut
from lovely.remotetask.common.checks import isTime
from lovely.remotetask.common.checks import shown


#: The most that is shown of a value: items of a dict or list, levels, nodes in all, and characters of a text.
ITEMS, DEPTH, NODES, CHARACTERS = 100, 12, 1000, 4000


def asTime(moment):
    """Return UTC seconds as a date and a time; '' for None.

    >>> asTime(0), asTime(None)
    ('1970-01-01 00:00:00', '')
    """
    if moment is None or not isTime(moment):
        return ''
    return datetime.fromtimestamp(moment, timezone.utc).strftime('%Y-%m-%d %H:%M:%S')


def asTimeAfter(start, moment):
    """Return UTC seconds as `asTime` does, without the date if `start`, beside which it stands, has the same.

    >>> asTimeAfter(0, 7), asTimeAfter(0, 86407), asTimeAfter(0, None)
    ('00:00:07', '1970-01-02 00:00:07', '')
    """
    date, _, time = asTime(moment).partition(' ')
    return time if asTime(start).startswith(f'{date} ') else asTime(moment)


def asMachineTime(moment):
    """Return UTC seconds as HTML has it in <time datetime>.

    >>> asMachineTime(0.25)
    '1970-01-01T00:00:00Z'
    """
    return asTime(moment).replace(' ', 'T') + 'Z'


def asSpan(seconds):
    """Return a number of seconds in words that are short; '' for None.

    >>> [asSpan(seconds) for seconds in (0.0042, 1.5, 59.96, 61, 3700, 200000, -2)]
    ['4 ms', '1.5 s', '60 s', '1 min 1 s', '1 h 1 min', '2 d 7 h', '0 ms']
    """
    if seconds is None:
        return ''
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f'{round(seconds * 1000)} ms'
    if seconds < 60:
        return f'{seconds:.1f}'.removesuffix('.0') + ' s'
    whole = math.floor(seconds)
    for unit, size, smaller, part in (('d', 86400, 'h', 3600), ('h', 3600, 'min', 60), ('min', 60, 's', 1)):
        if whole >= size:
            rest = whole % size // part
            return f'{whole // size} {unit}' + (f' {rest} {smaller}' if rest else '')
    raise AssertionError(seconds)


def asPercent(part):
    """Return a part, from 0 to 1, in percent; '' for None.

    >>> asPercent(0.0042), asPercent(None)
    ('0.4 %', '')
    """
    return '' if part is None else f'{100 * part:.1f} %'


def asMeanAndMost(durations):
    """Return the mean of `tallies.Durations`, and what 95 of 100 did not exceed; '' when there are none.

    >>> from lovely.remotetask.storage.tallies import Durations
    >>> asMeanAndMost(Durations(0.4, (0, 0, 0, 0, 10)))
    '40 ms, 98 ms'
    """
    return f'{asSpan(durations.mean)}, {asSpan(durations.quantile(0.95))}' if durations.count else ''


def asNumber(number):
    """Return an int with thin groups of three digits.

    >>> asNumber(1234567)
    '1\u202f234\u202f567'
    """
    return f'{number:,}'.replace(',', '\u202f')


def asSize(size):
    """Return a number of bytes with its unit.

    >>> asSize(999), asSize(1536), asSize(5 * 1024 ** 3)
    ('999 B', '1.5 KB', '5.0 GB')
    """
    if size < 1024:
        return f'{size} B'
    for unit in ('KB', 'MB', 'GB'):
        size /= 1024
        if size < 1024 or unit == 'GB':
            break
    return f'{size:.1f} {unit}'


def brief(value, size):
    """Return a value on one line, as JSON if possible, cut to so many characters.

    >>> brief({'film': 'M', 'year': None}, 20)
    '{"film": "M", "ye...'
    """
    try:
        return cut(json.dumps(value, ensure_ascii=False), size)
    except (TypeError, ValueError, RecursionError):
        return shown(value, size)


class Node(NamedTuple):
    """A part of a value."""

    name: str | None            # what it is called within its parent; None for the whole
    kind: str                   # 'dict', 'list', 'text', or 'atom'
    text: str                   # what is shown: of a dict or list how many items it has
    nodes: tuple = ()           # `Node`s within
    depth: int = 0


class _Budget:
    """How many nodes may still be made."""

    left = NODES


def treeOf(value, name=None, depth=0, budget=None):
    """Return the `Node` for a value, cut where it is too large to be shown.

    >>> treeOf({'film': 'M', 'year': 1931}).nodes[1][:3]
    ('year', 'atom', '1931')
    """
    budget = budget or _Budget()
    budget.left -= 1
    if isinstance(value, (dict, list, tuple)) and value and (depth >= DEPTH or budget.left <= 0):
        return Node(name, 'atom', '…', (), depth)
    if isinstance(value, dict):
        return Node(name, 'dict', _count(value, 'field'), _nodes(value.items(), len(value), depth, budget), depth)
    if isinstance(value, (list, tuple)):
        return Node(name, 'list', _count(value, 'item'), _nodes(enumerate(value), len(value), depth, budget), depth)
    return Node(name, *_leaf(value), (), depth)


def _count(value, noun):
    return f'{len(value)} {noun}' + ('' if len(value) == 1 else 's')


def _nodes(items, length, depth, budget):
    nodes = []
    for index, (name, item) in enumerate(items):
        if index == ITEMS or budget.left <= 0:
            nodes.append(Node('…', 'atom', f'{length - index} more', (), depth + 1))
            break
        nodes.append(treeOf(item, cut(name if isinstance(name, str) else repr(name), 200), depth + 1, budget))
    return tuple(nodes)


def _leaf(value: Any):
    if isinstance(value, str):
        return 'text', cut(value, CHARACTERS)
    if isinstance(value, (bytes, bytearray)):
        return 'atom', f'bytes, {asSize(len(value))}'
    try:
        text = json.dumps(value) if value is None or isinstance(value, (bool, int, float)) else str(value)
    except Exception:                           # an object of somebody's own class; an int of thousands of digits
        text = f'<{type(value).__name__}>'
    return 'atom', cut(text, CHARACTERS)
