"""Tables and times on a terminal: they fit its width, and have colours there unless nobody wants any."""
# SPDX-License-Identifier: ZPL-2.1
import os
import shutil
import sys
import time
from datetime import datetime
from datetime import timezone
from typing import NamedTuple

import click

from lovely.remotetask.common.checks import cut


#: The colours of statuses, and of what else stands in a table.
COLOURS = {'completed': 'green', 'error': 'red', 'processing': 'cyan', 'cancelled': 'yellow', 'stuck': 'red',
           'paused': 'yellow'}

#: Characters of a value that a terminal shows at the most.
SHOWN = 2000

_GAP = '  '


class Column(NamedTuple):
    """A column of a table."""

    title: str
    least: int = 0          # characters that are left of a cell when there is little room; 0: it is never cut
    dispensable: int = 0    # how soon the column is left out when there is no room: the highest first; 0: never


def isTerminal():
    """Return whether the standard output is a terminal."""
    return sys.stdout.isatty()


def width():
    """Return the characters of a line of the terminal; None when the output is none: nothing is cut then."""
    return shutil.get_terminal_size().columns if isTerminal() else None


def hasColours():
    """Return whether the output is to have colours: on a terminal, unless NO_COLOR or a dumb one says no."""
    return isTerminal() and not os.environ.get('NO_COLOR') and os.environ.get('TERM') != 'dumb'


def printTable(columns, rows):
    """Print a table with a line of titles.

    columns -- `Column`s.
    rows -- lists of texts, one for each column.
    """
    for line in fitted(columns, rows, width()):
        click.echo(line if hasColours() else click.unstyle(line))


def fitted(columns, rows, room):
    """Return the lines of a table, styled; `room` is the number of characters of a line, None for any."""
    columns, rows = list(columns), [list(row) for row in rows]
    widths = [max(map(len, cells)) for cells in zip([column.title for column in columns], *rows)]
    while room is not None and _total(widths) > room:
        if not _shrink(columns, widths, room):
            last = max(range(len(columns)), key=lambda index: columns[index].dispensable)
            if not columns[last].dispensable:
                break
            for cells in (columns, widths, *rows):
                del cells[last]
    titles = _GAP.join(_cell(column.title, size) for column, size in zip(columns, widths))
    return [click.style(titles.rstrip(), bold=True), *(_line(row, widths) for row in rows)]


def _total(widths):
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _shrink(columns, widths, room):
    """Take what is too much from the widest columns that may be cut; return whether it fits then."""
    excess = _total(widths) - room
    sizes = list(widths)
    for _ in range(excess):
        able = [index for index, column in enumerate(columns) if column.least and sizes[index] > column.least]
        if not able:
            return False
        sizes[max(able, key=sizes.__getitem__)] -= 1
    widths[:] = sizes
    return True


def _line(row, widths):
    cells = [click.style(_cell(text, size), fg=COLOURS.get(text)) for text, size in zip(row, widths)]
    # Invisible characters at the end would wrap the line.
    line = _GAP.join([*cells[:-1], click.style(cut(row[-1], widths[-1]), fg=COLOURS.get(row[-1]))])
    return line if row[-1] else _GAP.join(cells[:-1]).rstrip()


def _cell(text, size):
    return cut(text, size).ljust(size)


def shortTime(moment, now=None):
    """Return a time, in UTC seconds, in few characters: of the day only the time, then the day, then the date."""
    if moment is None:
        return '-'
    now = time.time() if now is None else now
    then, today = (datetime.fromtimestamp(each, timezone.utc) for each in (moment, now))
    if then.date() == today.date():
        return then.strftime('%H:%M:%S')
    return then.strftime('%m-%d %H:%M' if abs(now - moment) < 300 * 86400 else '%Y-%m-%d')


def duration(seconds):
    """Return a number of seconds in up to six characters, as 0.25s, 12s, 3m05s, 2h10m, 3d04h; None as a dash."""
    if seconds is None:
        return '-'
    seconds = max(0.0, seconds)
    if seconds < 9.995:
        return f'{seconds:.2f}s'
    whole = round(seconds)
    for size, name, part, small in ((60, 's', 1, ''), (3600, 'm', 60, 's'), (86400, 'h', 3600, 'm')):
        if whole < size:
            return f'{whole}s' if not small else f'{whole // part}{name}{whole % part * 60 // part:02d}{small}'
    return f'{whole // 86400}d{whole % 86400 // 3600:02d}h'


def shown(text, command):
    """Return a text; for one that would flood a terminal, return its size and the command that prints it."""
    if len(text) <= SHOWN or not isTerminal():
        return text
    return f'({len(text)} characters; {command})'
