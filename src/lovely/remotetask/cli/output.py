"""What the client commands print: tables, JSON, times, and bars on a terminal."""
# SPDX-License-Identifier: ZPL-2.1
import base64
import contextlib
import functools
import itertools
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

from lovely.remotetask import errors
from lovely.remotetask.cli.failure import oneLine
from lovely.remotetask.cli.tables import SHOWN
from lovely.remotetask.cli.tables import Column
from lovely.remotetask.cli.tables import duration
from lovely.remotetask.cli.tables import isTerminal
from lovely.remotetask.cli.tables import printTable
from lovely.remotetask.cli.tables import shortTime
from lovely.remotetask.cli.tables import shown
from lovely.remotetask.client import JobCancelled
from lovely.remotetask.client import JobFailed
from lovely.remotetask.client import StillRunning
from lovely.remotetask.statuses import CANCELLED
from lovely.remotetask.statuses import CRONJOB
from lovely.remotetask.statuses import DELAYED
from lovely.remotetask.statuses import ERROR
from lovely.remotetask.statuses import FINAL
from lovely.remotetask.statuses import QUEUED


# Members of a job that are times.
_TIMES = ('created', 'started', 'completed', 'retryAt', 'scheduledFor', 'calledFor')

_RUNS = (Column('called for'), Column('job', dispensable=2), Column('status'), Column('started', dispensable=3),
         Column('took', dispensable=1), Column('error', 10))
_FAILURES = (Column('failed'), Column('host', 6, 1), Column('message', 10))

#: Seconds of waiting for a job after which a line says that no host processes it.
NOBODY = 3.0

#: Seconds between two looks at the progress of that job.
POLL_INTERVAL = 0.5


def printPairs(pairs):
    """Print pairs of a name and a text, in two columns."""
    size = max((len(name) for name, _ in pairs), default=0)
    for name, text in pairs:
        click.echo(f'{name.ljust(size)}  {text}')


def printJob(job):
    """Print a struct of `getJob`; what is empty is left out, what are many structs is a table below."""
    tables = {name: job.get(name) for name in ('history', 'errors')}
    pairs = []
    for name, value in job.items():
        if name in tables or value is None or value in ('', [], {}) or value is False and name != 'active':
            continue
        text = asTime(value) if name in _TIMES else value if isinstance(value, str) else asJson(value)
        pairs.append((oneLine(name), shown(oneLine(text), f'remotetask job {job["id"]} --json')))
    printPairs(pairs)
    if tables['history']:
        click.echo()
        printTable(_RUNS, [[shortTime(run['calledFor']), str(run['jobid']), oneLine(run['status'] or '-'),
                            shortTime(run['started']), _spent(run), oneLine(run['error'] or '')]
                           for run in tables['history']])
    if tables['errors']:
        click.echo()
        printTable(_FAILURES, [[shortTime(failure['time']), oneLine(failure['host'] or '-'),
                                oneLine(failure['message'])] for failure in tables['errors']])


def _spent(run):
    return duration(None if None in (run['started'], run['completed']) else run['completed'] - run['started'])


def printResult(jobid, value):
    """Print a result as JSON; on a terminal, of a large one, how large it is, and how to get it."""
    command = f'remotetask result {jobid} --output FILE'
    if isinstance(value, bytes) and len(value) > SHOWN and isTerminal():
        click.echo(f'({len(value)} bytes; {command})')
    elif isinstance(value, str):
        click.echo(shown(asJson(value), command))
    else:
        click.echo(shown(asJson(value), f'remotetask result {jobid} | less'))


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


def waitShowing(client, jobid, timeout, isResultWanted=True):
    """Return the result of a job when it has ended; raise what `client.wait` does.

    On a terminal a bar shows how far the job is.  When no host processes the service that is said after NOBODY seconds.

    isResultWanted -- False to return None, for a result that is large.
    """
    until = float('inf') if timeout is None else time.monotonic() + timeout
    wait = client.wait if isResultWanted else functools.partial(_waitForEnd, client)
    with bars(TaskProgressColumn(), TimeElapsedColumn()) as shown:
        if shown.disable:
            return _waitQuietly(client, wait, jobid, until, timeout)
        bar = shown.add_task(f'job {jobid}', total=None)
        tellAt = time.monotonic() + NOBODY
        while True:
            try:
                return wait(jobid, max(0.0, min(POLL_INTERVAL, until - time.monotonic())))
            except StillRunning as error:
                if time.monotonic() >= until:
                    raise StillRunning(error.statuses, timeout) from None
                description = error.statuses[jobid]
            if time.monotonic() >= tellAt:
                tellAt = float('inf')
                _tellIfNobody(client, description)
            progress = client.getProgress(jobid) or {'fraction': None, 'message': ''}
            shown.update(bar, description=f'job {jobid}: {oneLine(progress["message"]) or description}',
                         total=None if progress['fraction'] is None else 1, completed=progress['fraction'] or 0)


def _waitQuietly(client, wait, jobid, until, timeout):
    for step in itertools.chain([NOBODY], itertools.repeat(float('inf'))):
        try:
            return wait(jobid, max(0.0, min(step, until - time.monotonic())))
        except StillRunning as error:
            if time.monotonic() >= until:
                raise StillRunning(error.statuses, timeout) from None
            if step == NOBODY:
                _tellIfNobody(client, error.statuses[jobid])
    raise AssertionError('not reached')


def _waitForEnd(client, jobid, timeout):
    """Wait as `client.wait` does, and leave the result where it is."""
    [status] = client.waitFor([jobid], timeout)
    if status is None:
        raise errors.UnknownJob(jobid)
    if status not in FINAL:
        raise StillRunning({jobid: status}, timeout)
    if status == ERROR:
        raise JobFailed(jobid, client.getError(jobid))
    if status == CANCELLED:
        raise JobCancelled(jobid)


def _tellIfNobody(client, status):
    """Print a line when a job waits and no host processes the service."""
    if status not in (QUEUED, DELAYED, CRONJOB):
        return
    with contextlib.suppress(errors.RemoteTaskError):           # the user may not ask that
        hosts = client.getProcessingHosts()
        if not any(host['processing'] for host in hosts):
            paused = 'it is paused' if any(host['threads'] for host in hosts) else 'start a processor'
            click.echo(f'remotetask: no host is processing the service: {paused}; the job waits', err=True)
