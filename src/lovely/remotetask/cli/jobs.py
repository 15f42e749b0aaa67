"""The client commands about jobs: adding, waiting, looking, changing."""
# SPDX-License-Identifier: ZPL-2.1
import os
import re
import sys
import time

import click

from lovely.remotetask import errors
from lovely.remotetask.cli import bulk
from lovely.remotetask.cli import calling
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.failure import harmless
from lovely.remotetask.cli.failure import oneLine
from lovely.remotetask.cli.output import asJson
from lovely.remotetask.cli.output import asTime
from lovely.remotetask.cli.output import printJob
from lovely.remotetask.cli.output import printResult
from lovely.remotetask.cli.output import waitShowing
from lovely.remotetask.client import JobCancelled
from lovely.remotetask.client import JobFailed
from lovely.remotetask.client import StillRunning
from lovely.remotetask.config.sections import pauseSeconds
from lovely.remotetask.statuses import CANCELLED
from lovely.remotetask.statuses import COMPLETED
from lovely.remotetask.statuses import CRONJOB
from lovely.remotetask.statuses import ERROR
from lovely.remotetask.statuses import PROCESSING
from lovely.remotetask.xmlrpc.calls import LISTING_SIZE


@calling.command
@click.argument('task')
@click.argument('input', metavar='[JSON]', type=calling.Json(), required=False)
@click.option('--file', 'files', metavar='NAME=PATH', type=calling.FileAt(), multiple=True,
              help='Send this file as the field NAME of the input, or without "NAME=" as the whole input.  NAME may be '
                   'film.source or films.0, as in filters.  The PATH - is the standard input.  Can be repeated.')
@click.option('--wait', is_flag=True,
              help='Wait until the job has ended, and print its result as JSON instead of its id.')
@click.option('--timeout', metavar='TIME', type=calling.Seconds(pauseSeconds),
              help='With --wait: stop waiting after this time, for example 20s or 1.5m; without a unit in seconds; 0 '
                   'means at once.  The job goes on.  Default: no limit.')
@click.option('--output', metavar='FILE', type=click.Path(dir_okay=False, writable=True, allow_dash=True),
              help='With --wait: write the result into this file, as "remotetask result --output" does.')
@click.option('--later', is_flag=True, help='Do not start the job; "remotetask start ID" does.')
@click.option('--key', metavar='TEXT',
              help='Add no job if a job of TASK with this key exists; print the id, or the result, of that one.')
@click.option('--time-limit', metavar='TIME', type=calling.Seconds(),
              help='How long a run of the job may take.  Default: the limit of the task.')
def add(client, task, input, files, wait, timeout, output, later, key, time_limit):
    """Add a job for TASK and print its id.

    JSON is the input of the task.  The default is null; - reads the input from the standard input.  With --wait, the id
    is printed on the standard error output, and a terminal shows the progress of the job.

    \b
    Examples:
      $ remotetask add echo '{"hello": "world"}'
      1392637175
      $ remotetask add echo '[1, 2]' --wait --timeout 10s
      [1, 2]
      $ remotetask add echo - < input.json
      $ remotetask add avi2flv --file source=film.avi --wait --output film.flv
      $ remotetask add echo --key 'order 7' --time-limit 5m

    \b
    Exit codes with --wait:
      1    no result in time, or the job was cancelled
      4    the job ended in an error, which is printed on the standard error output
    """
    if later and wait:
        raise click.UsageError('--wait and --later exclude each other: the job would never start')
    for name, value in (('--timeout', timeout), ('--output', output)):
        if value is not None and not wait:
            raise click.UsageError(f'{name} needs --wait')
    jobid = client.add(task, calling.withFiles(input, files), later, key, time_limit)
    if not wait:
        click.echo(jobid)
        return
    click.echo(f'job {jobid}', err=True)
    try:
        if output is None:
            printResult(jobid, waitShowing(client, jobid, timeout))
        else:
            waitShowing(client, jobid, timeout, isResultWanted=False)
            _writeResult(client, jobid, output)
    except KeyboardInterrupt:
        click.echo(f'\nremotetask: job {jobid} goes on', err=True)
        raise
    except (JobFailed, JobCancelled, StillRunning):
        raise
    except errors.RemoteTaskError as error:
        # Whatever happened, the job is there, and nobody has seen its id.
        failure = calling.failureOf(error)
        raise CommandFailure(f'job {jobid} was added, but: {failure.message}', failure.exit_code) from error


@calling.command
@click.argument('file', type=click.File(encoding='utf-8'))
def addMany(client, file):
    """Add a job for each line of FILE; print their ids.

    Each line is a JSON object with "task", and optionally "input", "startLater", "key", "timeLimit" in seconds and
    "retryPolicy".  The file - is the standard input.  If a line is not such an object, nothing is added.  Lines are
    then added in batches of 1000, each all or nothing.

    \b
    Example:
      $ remotetask add-many - <<< '{"task": "echo", "input": 1, "key": "order 7"}'
      1392637175
    """
    jobs = []
    for number, line in enumerate(file, 1):
        try:
            job = calling.parseJson(line)
            if not isinstance(job, dict) or 'task' not in job:
                raise ValueError('not an object with a "task"')
        except ValueError as error:
            raise click.BadParameter(f'line {number}: {error}', param_hint="'FILE'") from error
        jobs.append(job)
    for start in range(0, len(jobs), LISTING_SIZE):
        step = jobs[start:start + LISTING_SIZE]
        try:
            jobids = client.addMany(step)
        except errors.RemoteTaskError as error:
            failure = calling.failureOf(error)
            place, message = _lineOf(step, error, failure.message)
            where = f'line {start + 1 + place}' if place is not None else f'lines {start + 1} to {start + len(step)}'
            raise CommandFailure(f'{where}: {message}', failure.exit_code) from error
        click.echo('\n'.join(map(str, jobids)))


def _lineOf(jobs, error, message):
    """Return the index of the job that was refused, None if nobody knows, and the message without it."""
    if isinstance(error, errors.UnknownTask):
        name = message.partition("task '")[2].partition("' is not registered")[0]
        return next((place for place, job in enumerate(jobs) if job['task'] == name), None), message
    found = re.search(r'^(?:addMany: )?jobs\[(\d+)\]: | \(jobs\[(\d+)\]\)$', message)
    if found is None:
        return None, message
    return int(found[1] or found[2]), message[:found.start()] + message[found.end():]


@calling.command
@calling.jobid
def start(client, jobid):
    """Start the job ID that was added with --later.

    \b
    Example:
      $ remotetask start 1392637175
    """
    if not client.startJob(jobid):
        raise CommandFailure(f'job {jobid} is {client.getStatus(jobid)}: cannot start it')


@calling.command
@calling.jobid
def status(client, jobid):
    """Print the status of the job ID.

    It is one of: queued, processing, completed, error, cancelled, delayed, cronjob, start later.

    \b
    Example:
      $ remotetask status 1392637175
      completed
    """
    click.echo(oneLine(client.getStatus(jobid)))


@calling.command
@calling.jobid
@click.option('--json', 'raw', is_flag=True, help='Print JSON, as the front end gives it.')
def job(client, jobid, raw):
    """Print everything about the job ID.

    Empty fields are left out.  Times are UTC.  Values other than texts and times are JSON.

    \b
    Example:
      $ remotetask job 1392637175
      id         1392637175
      task       echo
      status     completed
      host       processor-1
      created    2026-05-01 12:00:00
    """
    found = client.getJob(jobid)
    if raw:
        click.echo(asJson(found))
    else:
        printJob(found)


@calling.command
@calling.jobid
def progress(client, jobid):
    """Print the progress of the running job ID.

    \b
    Example:
      $ remotetask progress 1392637175
      25 %  first pass
    """
    progress = client.getProgress(jobid)
    if progress is None:
        raise CommandFailure(f'job {jobid} is {client.getStatus(jobid)}: nothing is known of its progress')
    fraction = '' if progress['fraction'] is None else f'{progress["fraction"]:.0%}  '
    click.echo(fraction + oneLine(progress['message']))


@calling.command
@calling.jobid
@click.option('--patience', metavar='TIME', type=calling.Seconds(), default='10s', show_default=True,
              help='How long to wait for the host.')
def stack(client, jobid, patience):
    """Print where the running job ID is right now.

    These are files, lines and functions, the innermost call last, but no values.  Of a task in a child process, its
    process comes first; of a program, only its process and path are known.  The host answers within a second, unless
    the child process is in a call that is not of Python.

    \b
    Example:
      $ remotetask stack 1392637175
      ...
        File "/srv/films/tasks.py", line 12, in convert
          time.sleep(60)
    """
    client.askStack(jobid)
    until = time.monotonic() + patience
    while (answer := client.getStack(jobid)) is None or answer['answered'] is None:
        if client.getStatus(jobid) != PROCESSING:
            raise CommandFailure(f'job {jobid} is {client.getStatus(jobid)} now')
        if time.monotonic() > until:
            raise CommandFailure(f'the host of job {jobid} does not answer')
        time.sleep(0.1)
    click.echo(harmless(answer['text']))


@calling.command
@calling.jobid
@click.option('--output', metavar='FILE', type=click.Path(dir_okay=False, writable=True, allow_dash=True),
              help='Write a result that is a file, bytes or text to this file, unchanged and of any size; - is the '
                   'standard output.')
def result(client, jobid, output):
    """Print the result of the job ID as JSON.

    Bytes are printed in base64, times in ISO 8601.  Without a result, the exit code is 4 if the job ended in an error,
    and 1 if it was cancelled or has not ended.

    \b
    Examples:
      $ remotetask result 1392637175
      {"hello": "world"}
      $ remotetask result 1392637178 --output film.avi
    """
    if output is not None:
        _writeResult(client, jobid, output)
        return
    output = client.getResult(jobid)
    if output is None:                  # which may also mean that there is none yet
        _printEnding(client, jobid, client.getStatus(jobid))
    else:
        printResult(jobid, output)


@calling.command
@calling.jobid
@click.option('--traceback', is_flag=True, help='Print what went wrong in each attempt, with its traceback.')
def error(client, jobid, traceback):
    """Print why the job ID failed, or None.

    \b
    Examples:
      $ remotetask error 1392637175
      None
      $ remotetask error 1392637178 --traceback
    """
    if not traceback:
        click.echo(harmless(client.getError(jobid)))
        return
    failures = client.getJob(jobid)['errors']
    for failure in failures:
        host = f' on {oneLine(failure["host"])}' if failure['host'] else ''
        click.echo(f'{asTime(failure["time"])}{host}: {oneLine(failure["message"])}')
        for line in failure['traceback'].splitlines():
            click.echo(f'  {harmless(line)}')
    if not failures:
        click.echo('None')


@calling.command
@click.argument('jobid', metavar='[ID]', type=calling.ID, required=False)
@bulk.options
def cancel(client, jobid, filter, yes, wait, timeout):
    """Cancel the job ID, or all that fit a filter.

    A waiting job will not start.  The result of a running job is discarded.

    \b
    Examples:
      $ remotetask cancel 1392637175
      $ remotetask cancel --filter 'task:avi2* before:1d' --wait
      12431 jobs to cancel
      Type 12431 to cancel them all: 12431
      12431
    """
    bulk.checkOne(filter, jobid is not None, yes or wait or timeout is not None, 'give an ID, or --filter')
    if filter is None:
        client.cancel(jobid)
    else:
        bulk.changeAll(client, 'cancel', filter, yes, wait, timeout)


@calling.command
@bulk.options
def remove(client, filter, yes, wait, timeout):
    """Remove all jobs that fit a filter and have ended.

    "remotetask clean" removes all that have ended, without a filter.

    \b
    Example:
      $ remotetask remove --filter 'status:completed task:avi2* before:30d' --yes
      1392637175
    """
    bulk.checkOne(filter, 0, False, 'give --filter; "" is for all jobs that have ended')
    bulk.changeAll(client, 'remove', filter, yes, wait, timeout)


@calling.command
@click.argument('jobid', metavar='[ID]', type=calling.ID, required=False)
@bulk.options
@click.option('--all', 'every', is_flag=True, help='All jobs that ended in an error.')
@click.option('--task', metavar='NAME', help='All such jobs of this task.')
def retry(client, jobid, every, task, filter, yes, wait, timeout):
    """Retry jobs that ended in an error; print how many.

    With --filter a job of its own does it; without --wait its id is printed.

    \b
    Examples:
      $ remotetask retry 1392637175
      1
      $ remotetask retry --task avi2flv
      12
      $ remotetask retry --filter 'task:avi2* since:1h "no space left"' --wait
      12 jobs to retry
      12
    """
    bulk.checkOne(filter, (jobid is not None) + every + (task is not None), yes or wait or timeout is not None,
                  'give an ID, or --all, or --task, or --filter')
    if filter is not None:
        bulk.changeAll(client, 'retry', filter, yes, wait, timeout)
    elif jobid is None:
        click.echo(client.retryFailed(task))
    else:
        client.retry(jobid)
        click.echo(1)


COMMANDS = (add, addMany, start, status, job, progress, stack, result, error, cancel, retry, remove)


def _writeResult(client, jobid, path):
    """Write the result into a file, which is there when it is complete, or to the standard output."""
    status = client.getStatus(jobid)
    if status in (ERROR, CANCELLED):
        _printEnding(client, jobid, status)             # raises
    if path == '-':
        client.save(jobid, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    aside = f'{path}.part'
    try:
        with open(aside, 'wb') as file:
            client.save(jobid, file)
        os.replace(aside, path)
    except errors.RemoteTaskError:                      # of which some are OSErrors too
        raise
    except OSError as error:
        raise CommandFailure(f'cannot write {path}: {error.strerror}') from error
    finally:
        if os.path.exists(aside):
            os.remove(aside)


def _printEnding(client, jobid, status):
    """Print the result of a job in that status; raise a `RemoteTaskError` or `CommandFailure` when there is none."""
    if status == CRONJOB and client.getJob(jobid).get('outcome') == ERROR:
        raise JobFailed(jobid, client.getError(jobid))
    if status in (COMPLETED, CRONJOB):
        printResult(jobid, client.getResult(jobid))
    elif status == ERROR:
        raise JobFailed(jobid, client.getError(jobid))
    elif status == CANCELLED:
        raise JobCancelled(jobid)
    else:
        raise CommandFailure(f'job {jobid} is {status}: it has no result yet')
