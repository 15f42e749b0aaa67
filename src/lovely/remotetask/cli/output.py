"""What the client commands print: tables, JSON, times, and bars on a terminal."""
# SPDX-License-Identifier: ZPL-2.1
import base64
import json
import sys
import time
from datetime import datetime
from datetime import timezone

import click
from rich.console import Console
from rich.progress import BarColumn
from rich.progress import Progress
from rich.progress import TaskProgressColumn
from rich.progress import TextColumn
from rich.progress import TimeElapsedColumn

from lovely.remotetask.cli.failure import oneLine
from lovely.remotetask.client import StillRunning


#: Seconds between two looks at the progress of a job that is waited for.
LOOK = 0.5


def printTable(rows):
    """Print rows of texts, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        click.echo('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def asJson(value):
    """Return JSON for what XML-RPC gives, on one line: bytes in base64, times in ISO 8601."""
    text = json.dumps(value, default=_plain, ensure_ascii=False)
    encoding = (getattr(sys.stdout, 'encoding', None) or 'utf-8').lower().replace('-', '')
    if encoding != 'utf8' or not text.isprintable():
        # A terminal could not show it, or would obey it.  With these characters escaped it is still the same JSON.
        text = json.dumps(value, default=_plain)
    return text


def _plain(value):
    if isinstance(value, bytes):
        return base64.b64encode(value).decode('ascii')
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f'{type(value).__name__} has no form in JSON')


def asTime(moment):
    """Return UTC seconds as a date and a time, None as a dash."""
    if moment is None:
        return '-'
    return datetime.fromtimestamp(moment, timezone.utc).strftime('%Y-%m-%d %H:%M:%S')


def bars(*columns):
    """Return the `rich.progress.Progress` for bars with these columns: on a terminal, and gone at the end."""
    console = Console(stderr=True)
    # No markup: what a task says is shown as it is.
    return Progress(TextColumn('{task.description}', markup=False), BarColumn(), *columns, console=console,
                    transient=True, disable=not console.is_terminal)


def waitShowing(client, jobid, timeout):
    """Return the result of a job when it has ended; raise what `client.wait` does.

    On a terminal a bar shows how far the job is.
    """
    with bars(TaskProgressColumn(), TimeElapsedColumn()) as shown:
        if shown.disable:
            return client.wait(jobid, timeout)
        bar = shown.add_task(f'job {jobid}', total=None)
        until = float('inf') if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return client.wait(jobid, max(0.0, min(LOOK, until - time.monotonic())))
            except StillRunning as error:
                if time.monotonic() >= until:
                    raise StillRunning(error.statuses, timeout) from None
                description = error.statuses[jobid]
            progress = client.getProgress(jobid) or {'fraction': None, 'message': ''}
            shown.update(bar, description=f'job {jobid}: {oneLine(progress["message"]) or description}',
                         total=None if progress['fraction'] is None else 1, completed=progress['fraction'] or 0)
