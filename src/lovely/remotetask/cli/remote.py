"""The client commands: they talk to a frontend over XML-RPC, and need neither a database nor a configuration file."""
# SPDX-License-Identifier: ZPL-2.1
import base64
import functools
import http.client
import json
import os
import re
import sys
import time
import urllib.parse
import xmlrpc.client
from datetime import datetime
from datetime import timezone
from xml.parsers.expat import ExpatError

import click
import rich.console
import rich.progress

from lovely.remotetask.cli.failure import BAD_INPUT
from lovely.remotetask.cli.failure import CANNOT_CONNECT
from lovely.remotetask.cli.failure import JOB_FAILED
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.failure import harmless
from lovely.remotetask.cli.failure import oneLine
from lovely.remotetask.config import seconds
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.xmlrpc import faults
from lovely.remotetask.xmlrpc.methods import LISTING_SIZE
from lovely.remotetask.xmlrpc.methods import PART_SIZE


#: Jobs that are removed in one transaction.
CLEAN_STEP = 500

#: Seconds between two questions for the status of a job that is waited for: the first, the longest, and the growth.
FIRST_PAUSE, LONGEST_PAUSE, PAUSE_GROWTH = 0.05, 1.0, 1.5

# What the caller can correct by calling differently.
_BAD_INPUT_FAULTS = {faults.PARSE_ERROR, faults.BAD_ARGUMENTS, faults.UNKNOWN_TASK, faults.INVALID_INPUT}


# Calling

class _OnceTransport:
    """What makes a transport of `xmlrpc.client` connect where one can tell, and send every request once only."""

    timeout = None

    def make_connection(self, host):
        connection = super().make_connection(host)
        connection.timeout = self.timeout
        try:
            connection.connect()
        except (OSError, UnicodeError) as error:            # UnicodeError: a name that can't be one of a host
            raise CommandFailure(f'cannot connect: {_reason(error)}', CANNOT_CONNECT) from error
        return connection

    def request(self, host, handler, request_body, verbose=False):
        # The original sends it again when the connection breaks; but then the job might be added twice.
        return self.single_request(host, handler, request_body, verbose)


class _Transport(_OnceTransport, xmlrpc.client.Transport):
    """Over HTTP."""


class _SafeTransport(_OnceTransport, xmlrpc.client.SafeTransport):
    """Over HTTPS."""


class Client:
    """Calls the methods of a frontend; whatever may go wrong becomes a `CommandFailure`."""

    def __init__(self, url, timeout):
        """Nothing is connected yet.  Raise `click.BadParameter` for a `url` that is none.

        url -- of the frontend, http or https; it may hold a user and a password.
        timeout -- seconds to wait for a connection, and for an answer.
        """
        try:
            parts = urllib.parse.urlsplit(url)
            valid = parts.scheme in ('http', 'https') and parts.hostname and parts.port != 0
        except ValueError:                                  # no number for a port
            valid = False
        if not valid or not url.isascii() or not url.isprintable() or ' ' in url:
            raise click.BadParameter(f'{url!r} is not a URL such as http://127.0.0.1:8080/', param_hint="'--url'")
        # Without a path xmlrpc.client would take /RPC2.
        self.url = urllib.parse.urlunsplit(parts._replace(path=parts.path or '/', fragment=''))
        # For messages: a password is not for the screen.
        self.shownUrl = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition('@')[2], query='',
                                                               path=parts.path or '/', fragment=''))
        self.timeout = timeout
        self._transportFactory = _SafeTransport if parts.scheme == 'https' else _Transport

    def call(self, method, *arguments):
        """Return what the method answers; raise `CommandFailure`."""
        try:
            # A connection for each call: one that is kept may be closed by the frontend just when it is used again.
            transport = self._transportFactory(use_builtin_types=True)
            transport.timeout = self.timeout
            with xmlrpc.client.ServerProxy(self.url, transport, allow_none=True, use_builtin_types=True) as proxy:
                return getattr(proxy, method)(*arguments)
        except CommandFailure as failure:                   # could not connect
            raise CommandFailure(f'{self.shownUrl}: {failure.message}; is the frontend running?',
                                 failure.exit_code) from failure
        except xmlrpc.client.Fault as fault:
            code = BAD_INPUT if fault.faultCode in _BAD_INPUT_FAULTS else 1
            raise CommandFailure(fault.faultString, code) from fault
        except xmlrpc.client.ProtocolError as error:
            hint = '; put user and password into the URL, http://USER:PASSWORD@HOST/' if error.errcode == 401 else ''
            raise CommandFailure(f'{self.shownUrl} answers with HTTP status {error.errcode} {error.errmsg}{hint}'
                                 ) from error
        except TimeoutError as error:
            raise CommandFailure(f'{self.shownUrl} did not answer within {self.timeout:g} seconds') from error
        except (OSError, http.client.HTTPException) as error:
            raise CommandFailure(f'{self.shownUrl}: the connection broke: {_reason(error)}') from error
        except (xmlrpc.client.Error, ExpatError, ValueError, LookupError, TypeError) as error:
            raise CommandFailure(f'{self.shownUrl} does not answer in XML-RPC: {_reason(error)}') from error


def _reason(error):
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__


# Arguments

class _Seconds(click.ParamType):
    """A time, written as in the configuration file."""

    name = 'time'

    def convert(self, value, parameter, context):
        if not isinstance(value, str):
            return value
        try:
            return seconds(value)
        except ValueError as error:
            self.fail(str(error), parameter, context)


def _refuseConstant(name):
    raise ValueError(f'{name} is not JSON')


class _Json(click.ParamType):
    """JSON, or - for the standard input."""

    name = 'json'

    def convert(self, value, parameter, context):
        try:
            if value == '-':
                value = click.get_text_stream('stdin').read()
            data = json.loads(value, parse_constant=_refuseConstant)
            xmlrpc.client.dumps((data,), allow_none=True)
        except json.JSONDecodeError as error:
            self.fail(f'not JSON: line {error.lineno} column {error.colno}: {error.msg}', parameter, context)
        except OverflowError:
            self.fail('an integer has more than the 32 bits of XML-RPC: write it as a string', parameter, context)
        except RecursionError:
            self.fail('nested too deeply', parameter, context)
        except ValueError as error:
            self.fail(str(error), parameter, context)
        return data


def _command(function):
    """Make a command of a function of a `Client` and whatever else is declared by decorators below this one."""

    @click.command(re.sub('([A-Z])', r'-\1', function.__name__).lower())
    @click.option('--url', default='http://127.0.0.1:8080/', envvar='REMOTETASK_URL', show_default=True,
                  show_envvar=True,
                  help='Where the frontend is.  The path names the task service; a user and a password may stand '
                       'before the host, as in https://USER:PASSWORD@example.org/.')
    @click.option('--answer-timeout', metavar='TIME', type=_Seconds(), default='60s', show_default=True,
                  help='How long to wait for an answer of the frontend: 20s, 1.5m; without a unit in seconds.')
    @functools.wraps(function)
    def command(url, answer_timeout, **arguments):
        return function(Client(url, answer_timeout), **arguments)

    return command


_jobid = click.argument('jobid', metavar='ID', type=click.IntRange(1, 2**31 - 1))


# Commands

@_command
def tasks(client):
    """Print the names of the tasks, one a line.

    \b
    Example:
      $ remotetask tasks
      echo
    """
    for name in client.call('getAvailableTasks'):
        click.echo(oneLine(name))


@_command
@click.argument('task')
@click.argument('input', metavar='[JSON]', type=_Json(), required=False)
@click.option('--wait', is_flag=True,
              help='Wait until the job has ended, and print its result as JSON instead of its id.')
@click.option('--timeout', metavar='TIME', type=_Seconds(),
              help='With --wait: give up after this time, as in 20s or 1.5m; without a unit it is in seconds.  The job '
                   'goes on.  Default: wait as long as it takes.')
@click.option('--later', is_flag=True, help='Do not start the job; "remotetask start ID" does.')
def add(client, task, input, wait, timeout, later):
    """Add a job for TASK and print its id.

    JSON is the input of the task; none is null, and - reads it from the standard input.

    \b
    Examples:
      $ remotetask add echo '{"hello": "world"}'
      1392637175
      $ remotetask add echo '[1, 2]' --wait --timeout 10s
      [1, 2]
      $ remotetask add echo - < input.json

    \b
    Exit codes with --wait:
      1    no result in time, or the job was cancelled
      4    the job ended in an error; it is told on the standard error output
    """
    if later and wait:
        raise click.UsageError('--wait and --later exclude each other: the job would never start')
    if timeout is not None and not wait:
        raise click.UsageError('--timeout needs --wait')
    jobid = client.call('add', task, input, later)
    if not wait:
        click.echo(jobid)
        return
    try:
        ending = _waitFor(client, jobid, timeout)
        _printEnding(client, jobid, ending)
    except KeyboardInterrupt:
        click.echo(f'\nremotetask: job {jobid} goes on', err=True)
        raise
    except CommandFailure as failure:
        # Whatever happened, the job is there, and nobody has seen its id.
        if failure.message.startswith(f'job {jobid} '):
            raise
        raise CommandFailure(f'job {jobid} was added, but: {failure.message}', failure.exit_code) from failure


@_command
@_jobid
def start(client, jobid):
    """Start the job ID, which was added with --later.

    \b
    Example:
      $ remotetask start 1392637175
    """
    if not client.call('startJob', jobid):
        raise CommandFailure(f'job {jobid} is {client.call("getStatus", jobid)}: cannot start it')


@_command
@_jobid
def status(client, jobid):
    """Print the status of the job ID.

    It is one of: queued, processing, completed, error, cancelled, delayed, cronjob, start later.

    \b
    Example:
      $ remotetask status 1392637175
      completed
    """
    click.echo(oneLine(client.call('getStatus', jobid)))


@_command
@_jobid
@click.option('--output', metavar='FILE', type=click.Path(dir_okay=False, writable=True, allow_dash=True),
              help='Write a result that is a file, bytes or text into this file as it is, however large; - is the '
                   'standard output.')
def result(client, jobid, output):
    """Print the result of the job ID as JSON.

    Bytes are printed in base64, times in ISO 8601.  A job without a result is a failure: exit code 4 when it ended in
    an error, 1 when it has not ended or was cancelled.

    \b
    Examples:
      $ remotetask result 1392637175
      {"hello": "world"}
      $ remotetask result 1392637178 --output film.avi
    """
    if output is not None:
        _writeResult(client, jobid, output)
        return
    output = client.call('getResult', jobid)
    if output is None:                  # which may also mean that there is none yet
        _printEnding(client, jobid, client.call('getStatus', jobid))
    else:
        _printJson(output)


@_command
@_jobid
def error(client, jobid):
    """Print why the job ID failed; None when it did not.

    \b
    Example:
      $ remotetask error 1392637175
      None
    """
    click.echo(harmless(client.call('getError', jobid)))


@_command
@_jobid
def cancel(client, jobid):
    """Call the job ID off.

    It will not start; of one that is running, the outcome is thrown away.

    \b
    Example:
      $ remotetask cancel 1392637175
    """
    client.call('cancel', jobid)


@_command
@click.option('--status', type=click.Choice(STATUSES), metavar='STATUS',
              help=f'Only jobs in this status: {", ".join(STATUSES)}.')
@click.option('--size', type=click.IntRange(1, LISTING_SIZE), default=20, show_default=True,
              help='How many jobs to list.')
@click.option('--start', type=click.IntRange(0, 2**31 - 1), default=0, show_default=True,
              help='How many of the newest jobs to leave out.')
def jobs(client, status, size, start):
    """List the jobs, newest first; times are UTC.

    \b
    Examples:
      $ remotetask jobs
      $ remotetask jobs --status error --size 100
      $ remotetask jobs --status 'start later'
    """
    rows = [('id', 'task', 'status', 'created', 'started', 'completed')]
    for job in client.call('getJobs', status, start, size)['jobs']:
        rows.append((str(job['id']), oneLine(job['task']), oneLine(job['status']),
                     *(_time(job[name]) for name in ('created', 'started', 'completed'))))
    printTable(rows)


@_command
@click.argument('task')
@click.argument('input', metavar='[JSON]', type=_Json(), required=False)
@click.option('--crontab', metavar='TEXT', help="When it runs, as in a crontab: '*/10 2 * * mon-fri'.")
@click.option('--time-zone', metavar='NAME', help="What the crontab's times are in, as Europe/Berlin.  Default: UTC.")
@click.option('--delay', metavar='TIME', type=_Seconds(),
              help='Instead of a crontab: run once, after this time, as 20s or 1.5h; with --new-jobs every so often.')
@click.option('--misfire', metavar='POLICY', default='once', show_default=True,
              help='What becomes of times that came while nothing ran: once, one run for all of them; skip, none; a '
                   'number, a run for each, so many at most.')
@click.option('--new-jobs', is_flag=True, help='Add a new job at each time, instead of running this one again.')
@click.option('--overlap', is_flag=True, help='With --new-jobs: add one even if the last has not ended.')
def schedule(client, task, input, crontab, time_zone, delay, misfire, new_jobs, overlap):
    """Add a cron job or a delayed job for TASK; print its id.

    JSON is the input of the task, as for add.

    \b
    Examples:
      $ remotetask schedule echo '"good morning"' --crontab '0 8 * * mon-fri' --time-zone Europe/Berlin
      1392637176
      $ remotetask schedule echo '"and later"' --delay 10m
      1392637177
    """
    if (crontab is None) == (delay is None):
        raise click.UsageError('give either --crontab or --delay')
    options = {'misfire': int(misfire[:9]) if misfire.isdecimal() else misfire, 'newJobs': new_jobs, 'overlap': overlap}
    if crontab is not None:
        options['crontab'] = crontab
    if time_zone is not None:
        options['timeZone'] = time_zone
    click.echo(client.call('addCronJob', task, input, [], [], [], [], [], delay, options))


@_command
def startProcessing(client):
    """Have the processing hosts take jobs again.

    After stop-processing.

    \b
    Example:
      $ remotetask start-processing
    """
    client.call('startProcessing')


@_command
def stopProcessing(client):
    """Have the processing hosts take no more jobs.

    Jobs that are running end.  It lasts until start-processing, over restarts, too.

    \b
    Example:
      $ remotetask stop-processing
    """
    client.call('stopProcessing')


@_command
def isProcessing(client):
    """Say where jobs are processed; exit code 1 if nowhere.

    \b
    Example:
      $ remotetask is-processing
      host         machine  pid    threads  jobs  since
      processor-1  alpha    12001  4        4     2026-05-01 12:00:00  processing
      processor-2  beta     3712   4        0     2026-05-01 12:00:05  processing, scheduling
    """
    rows = [('host', 'machine', 'pid', 'threads', 'jobs', 'since', '')]
    hosts = client.call('getProcessingHosts')
    for host in hosts:
        doing = [word for word in ('processing', 'scheduling') if host[word]]
        rows.append((oneLine(host['name']), oneLine(host['machine']), str(host['pid']), str(host['threads']),
                     str(host['jobs']), _time(host['since']), ', '.join(doing) or 'waiting'))
    printTable(rows)
    if not any(host['processing'] for host in hosts):
        raise CommandFailure('the service is not processed anywhere')


@_command
@_jobid
def progress(client, jobid):
    """Print how far the running job ID is.

    \b
    Example:
      $ remotetask progress 1392637175
      25 %  first pass
    """
    progress = client.call('getProgress', jobid)
    if progress is None:
        raise CommandFailure(f'job {jobid} is {client.call("getStatus", jobid)}: nothing is known of its progress')
    fraction = '' if progress['fraction'] is None else f'{progress["fraction"]:.0%}  '
    click.echo(fraction + oneLine(progress['message']))


@_command
@click.argument('jobid', metavar='[ID]', type=click.IntRange(1, 2**31 - 1), required=False)
@click.option('--all', 'every', is_flag=True, help='All jobs that ended in an error.')
@click.option('--task', metavar='NAME', help='All such jobs of this task.')
def retry(client, jobid, every, task):
    """Run jobs again that ended in an error; print how many.

    \b
    Examples:
      $ remotetask retry 1392637175
      1
      $ remotetask retry --task avi2flv
      12
    """
    if (jobid is not None) + every + (task is not None) != 1:
        raise click.UsageError('give an ID, or --all, or --task')
    if jobid is None:
        click.echo(client.call('retryFailed', task))
    else:
        client.call('retry', jobid)
        click.echo(1)


@_command
@click.option('--status', 'statuses', type=click.Choice(FINAL), multiple=True,
              help='Only jobs in this status; may be given several times.  Default: all that have ended.')
def clean(client, statuses):
    """Remove jobs that have ended; print how many.

    \b
    Examples:
      $ remotetask clean
      1520
      $ remotetask clean --status completed --status cancelled
      1498
    """
    removed, console = 0, rich.console.Console(stderr=True)
    with rich.progress.Progress('[progress.description]{task.description}', rich.progress.BarColumn(),
                                '{task.completed:.0f} jobs', transient=True, console=console,
                                disable=not console.is_terminal) as shown:
        bar = shown.add_task('removing', total=None)
        while True:
            step = client.call('cleanSome', list(statuses or FINAL), CLEAN_STEP)
            removed += step
            shown.update(bar, completed=removed)
            if step < CLEAN_STEP:
                break
    click.echo(removed)


COMMANDS = (progress, retry, clean, tasks, add, start, schedule, status, result, error, cancel, jobs, startProcessing, stopProcessing,
            isProcessing)


# Parts of commands

def printTable(rows):
    """Print rows of texts, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        click.echo('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _waitFor(client, jobid, timeout):
    """Return the final status of the job; raise `CommandFailure` after `timeout` seconds, None for never."""
    started = time.monotonic()
    pause = FIRST_PAUSE
    while True:
        status = client.call('getStatus', jobid)
        if status in FINAL:
            return status
        if timeout is not None:
            remaining = started + timeout - time.monotonic()
            if remaining <= 0:
                raise CommandFailure(f'job {jobid} is still {status} after {timeout:g} seconds')
            pause = min(pause, remaining)
        time.sleep(pause)
        pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE)


def _writeResult(client, jobid, path):
    """Write the result into a file, which is there when it is complete, or to the standard output."""
    status = client.call('getStatus', jobid)
    if status in (ERROR, CANCELLED):
        _printEnding(client, jobid, status)             # raises
    parts = _parts(client, jobid)
    if path == '-':
        _write(parts, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    first = next(parts)                                 # before anything is written
    aside = f'{path}.part'
    try:
        with open(aside, 'wb') as file:
            file.write(first)
            _write(parts, file)
        os.replace(aside, path)
    except OSError as error:
        raise CommandFailure(f'cannot write {path}: {error.strerror}') from error
    finally:
        if os.path.exists(aside):
            os.remove(aside)


def _write(parts, file):
    for part in parts:
        file.write(part)


def _parts(client, jobid):
    """Yield the bytes of a result in parts, one at least."""
    start, part = 0, None
    while part is None or len(part) == PART_SIZE:
        part = client.call('getResultPart', jobid, float(start), PART_SIZE)     # an int of XML-RPC ends at 2 GB
        start += len(part)
        yield part


def _printEnding(client, jobid, status):
    """Print the result of a job in that status; raise `CommandFailure` when it can't have one."""
    if status in (COMPLETED, CRONJOB):
        _printJson(client.call('getResult', jobid))
    elif status == ERROR:
        raise CommandFailure(f'job {jobid} failed: {client.call("getError", jobid)}', JOB_FAILED)
    elif status == CANCELLED:
        raise CommandFailure(f'job {jobid} was cancelled')
    else:
        raise CommandFailure(f'job {jobid} is {status}: it has no result yet')


def _printJson(value):
    text = json.dumps(value, default=_plain, ensure_ascii=False)
    encoding = (getattr(sys.stdout, 'encoding', None) or 'utf-8').lower().replace('-', '')
    if encoding != 'utf8' or not text.isprintable():
        # A terminal could not show it, or would obey it.  With these characters escaped it is still the same JSON.
        text = json.dumps(value, default=_plain)
    click.echo(text)


def _plain(value):
    if isinstance(value, bytes):
        return base64.b64encode(value).decode('ascii')
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f'{type(value).__name__} has no form in JSON')


def _time(moment):
    if moment is None:
        return '-'
    return datetime.fromtimestamp(moment, timezone.utc).strftime('%Y-%m-%d %H:%M:%S')
