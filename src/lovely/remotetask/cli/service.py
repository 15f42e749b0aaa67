"""The client commands about a service as a whole: its tasks, its jobs, how it does, where it is processed."""
# SPDX-License-Identifier: ZPL-2.1
import time

import click

from lovely.remotetask.cli import calling
from lovely.remotetask.cli.check import unclaimable
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.failure import oneLine
from lovely.remotetask.cli.output import asJson
from lovely.remotetask.cli.output import asTime
from lovely.remotetask.cli.output import bars
from lovely.remotetask.cli.output import printPairs
from lovely.remotetask.cli.tables import Column
from lovely.remotetask.cli.tables import duration
from lovely.remotetask.cli.tables import printTable
from lovely.remotetask.cli.tables import shortTime
from lovely.remotetask.common.checks import counted
from lovely.remotetask.statuses import CRONJOB
from lovely.remotetask.statuses import DELAYED
from lovely.remotetask.statuses import FINAL
from lovely.remotetask.statuses import PROCESSING
from lovely.remotetask.statuses import STATUSES
from lovely.remotetask.xmlrpc.calls import BATCH
from lovely.remotetask.xmlrpc.calls import LISTING_SIZE


_JOB_COLUMNS = (Column('id'), Column('task', 8), Column('status'), Column('added', dispensable=4),
                Column('started', dispensable=1), Column('took', dispensable=2), Column('host', 6, 3))
_SCHEDULE_COLUMNS = (Column('id'), Column('task', 8), Column('status', dispensable=3), Column('next', dispensable=1),
                     Column('outcome'), Column('failures', dispensable=2))
#: Jobs that the service looks at for those of one task.
LOOKED_AT = 10_000

_OUTCOMES = 'completed', 'error', 'cancelled', 'retried', 'lost'
_TASK_COLUMNS = (Column('task', 8), Column('completed'), Column('error'), Column('cancelled', dispensable=6),
                 Column('retried', dispensable=5), Column('lost', dispensable=4), Column('failed', dispensable=1),
                 Column('run'), Column('p95', dispensable=2), Column('wait', dispensable=3),
                 Column('p95', dispensable=3))
_HOST_COLUMNS = (Column('host', 8), Column('machine', 6, 4), Column('pid', dispensable=2),
                 Column('threads', dispensable=5), Column('jobs', dispensable=1), Column('since', dispensable=3),
                 Column('release', dispensable=4), Column('state', 10))


@calling.command
@click.option('--statistics', 'isAsked', is_flag=True,
              help='Print how the runs of each task that has run fared, since the service was made.')
@click.option('--json', 'raw', is_flag=True, help='With --statistics: print the JSON that the front end returns.')
def tasks(client, isAsked, raw):
    """Print the names of the tasks, one per line.

    With --statistics, the columns are: jobs that were completed, ended in an error, and were cancelled; runs that
    failed and were tried again; claims that were lost with their host; which part of the jobs failed; how long a run
    took on average, and how long 95 of 100 took at most; the same for how long jobs were ready before.

    \b
    Examples:
      $ remotetask tasks
      echo
      $ remotetask tasks --statistics
      task  completed  error  cancelled  retried  lost  failed  run    p95    wait   p95
      echo  1508       2      0          11       0     0.1 %   0.25s  0.90s  0.01s  0.02s
    """
    if raw and not isAsked:
        raise click.UsageError('--json is for --statistics')
    if not isAsked:
        for name in client.getAvailableTasks():
            click.echo(oneLine(name))
        return
    found = client.getTaskStatistics()
    if raw:
        click.echo(asJson(found))
        return
    printTable(_TASK_COLUMNS, [_taskRow(name, figures) for name, figures in found.items()])


def _taskRow(name, figures):
    rate = figures['failureRate']
    return [oneLine(name), *(f'{figures[outcome]:.0f}' for outcome in _OUTCOMES),
            '-' if rate is None else f'{100 * rate:.1f} %',
            *(duration(figures[each]) for each in ('meanRun', 'p95Run', 'meanWait', 'p95Wait'))]


@calling.command
@click.argument('filter', metavar='[FILTER]', required=False)
@click.option('--after', metavar='CURSOR', help='With a filter: go on where the last listing said that there is more.')
@click.option('--status', type=click.Choice(STATUSES), metavar='STATUS',
              help=f'Only jobs in this status: {", ".join(STATUSES)}.')
@click.option('--task', metavar='NAME', help='Only jobs of this task; the newest 10,000 are looked at.')
@click.option('--since', metavar='TIME', type=calling.Since(),
              help='Only jobs that ended, or have not ended and were added, since then: 90m (ago), or in UTC '
                   '2026-05-01 or 2026-05-01T12:00.')
@click.option('--size', type=click.IntRange(1, LISTING_SIZE), default=20, show_default=True,
              help='How many jobs to list.')
@click.option('--start', type=click.IntRange(0, 2**31 - 1), default=0, show_default=True,
              help='How many of the newest jobs to leave out.')
@click.option('--json', 'raw', is_flag=True, help='Print JSON, as the front end gives it.')
def jobs(client, filter, after, status, task, since, size, start, raw):
    """List the jobs, newest first; times are UTC.

    The columns: when it was added, when its last run began, how long that took or has been going on, and on which host.
    Those of schedules are next time, outcome of the last run, and failures.  The last line counts all jobs, including
    those not listed.

    A filter has terms that must all fit: status:, task: and host: with wildcards, since: and before: with 30s, 5m, 1h,
    2d or a date, id:, schedule:, input.NAME:, and words.

    \b
    Examples:
      $ remotetask jobs
      $ remotetask jobs --status error --size 100
      $ remotetask jobs --status 'start later'
      $ remotetask jobs --task avi2flv --since 2h --json
      $ remotetask jobs 'status:error task:avi2* since:1h input.film:Metropolis'
    """
    if after is not None and filter is None:
        raise click.UsageError('--after needs a filter; "" is for all jobs')
    if filter is not None and (start or (status, task, since) != (None, None, None)):
        raise click.UsageError('a filter excludes --status, --start, --task and --since: write status:error, and go on '
                               'with --after')
    listing = client.getJobs(status, start, size, task, since, filter, after)
    if raw:
        click.echo(asJson(listing))
        return
    if status in (CRONJOB, DELAYED):
        printTable(_SCHEDULE_COLUMNS, [[str(job['id']), oneLine(job['task']), oneLine(job['status']),
                                        shortTime(job['scheduledFor']), oneLine(job['outcome'] or '-'),
                                        str(job['failures'])] for job in listing['jobs']])
    else:
        printTable(_JOB_COLUMNS, [_jobRow(job) for job in listing['jobs']])
    click.echo('\n' + (_summary(listing, task) if filter is None else _found(listing)))


def _summary(listing, task):
    if task is not None:
        return (f'{counted(len(listing["jobs"]), "job")}; the newest {LOOKED_AT} jobs of all tasks were looked at, '
                '"remotetask tasks --statistics" has the numbers of each task')
    count = counted(len(listing['jobs']), 'job') if listing['total'] is None else (
        f'{len(listing["jobs"])} of {counted(listing["total"], "job")}')
    return f'{count}; in all: {_counts(listing["counts"])}'


def _found(listing):
    more = f'; go on with --after {oneLine(listing["cursor"])}' if listing['cursor'] else ''
    return f'{counted(len(listing["jobs"]), "job")} found, looked at {listing["looked"]} of {listing["total"]}{more}'


def _jobRow(job):
    isRunning = job['status'] == PROCESSING
    end = time.time() if isRunning else job['completed']
    spent = None if job['started'] is None or end is None else end - job['started']
    return [str(job['id']), oneLine(job['task']), oneLine(job['status']), shortTime(job['created']),
            shortTime(job['started']), duration(spent), oneLine(job['host'] or '-')]


@calling.command
@click.option('--json', 'raw', is_flag=True, help='Print the JSON that the front end returns.')
def statistics(client, raw):
    """Print counts, throughput and hosts; times are UTC.

    A job is unclaimable when no living host takes its task.

    \b
    Example:
      $ remotetask statistics
      jobs             4 processing, 1508 completed, 2 error
      oldest waiting   -
      longest running  2026-05-01 12:00:00
      failed lately    2 in the last hour, 0 failing schedules
      throughput       12.44 jobs per second
      unclaimable      3 jobs of avi2flv
      hosts            2 of 2 processing
    """
    found = client.getStatistics()
    if raw:
        click.echo(asJson(found))
        return
    hosts = found['hosts']
    processing = sum(host['processing'] for host in hosts)
    printPairs([
        ('jobs', _counts(found['counts'])),
        ('oldest waiting', asTime(found['oldestWaiting'])),
        ('longest running', asTime(found['longestRunning'])),
        ('failed lately', f'{found["failures"]} in the last hour, {counted(found["failing"], "failing schedule")}'),
        ('throughput', f'{found["throughput"]:.2f} jobs per second'),
        ('unclaimable', unclaimable(found) or '-'),
        ('hosts', f'{processing} of {len(hosts)} processing' + (', paused' if found['paused'] else '')),
    ])


def _counts(counts):
    """Return text for a dict of numbers of jobs by status."""
    return ', '.join(f'{counts[status]} {status}' for status in STATUSES if counts.get(status)) or 'none'


@calling.command
@click.option('--status', 'statuses', type=click.Choice(FINAL), multiple=True,
              help='Only jobs in this status; can be repeated.  Default: all jobs that have ended.')
def clean(client, statuses):
    """Remove jobs that have ended; print how many.

    \b
    Examples:
      $ remotetask clean
      1520
      $ remotetask clean --status completed --status cancelled
      1498
    """
    removed = 0
    with bars('{task.completed:.0f} jobs') as shown:
        bar = shown.add_task('removing', total=None)
        while True:
            step = client.cleanSome(statuses or FINAL)
            removed += step
            shown.update(bar, completed=removed)
            if step < BATCH:
                break
    click.echo(removed)


@calling.command
def pause(client):
    """Pause processing on all hosts.

    Running jobs go on until they end.  The pause lasts until resume, even over restarts.


    \b
    Example:
      $ remotetask pause
    """
    client.pause()


@calling.command
def resume(client):
    """Resume processing after pause.


    \b
    Example:
      $ remotetask resume
    """
    client.resume()


@calling.command
def isProcessing(client):
    """List the processing hosts.

    The exit code is 1 if no host takes jobs, for example during a pause.

    \b
    Example:
      $ remotetask is-processing
      host         machine  pid    threads  jobs  since     release  state
      processor-1  alpha    12001  4        4     12:00:00  1.0      processing
      processor-2  beta     3712   4        0     12:00:05  1.0      processing, scheduling
    """
    rows = []
    hosts = client.getProcessingHosts()
    for host in hosts:
        doing = [word for word in ('processing', 'scheduling') if host[word]]
        rows.append([oneLine(host['name']), oneLine(host['machine']), str(host['pid']), str(host['threads']),
                     str(host['jobs']), shortTime(host['since']), oneLine(host.get('release') or '-'),
                     ', '.join(doing) or 'waiting'])
    printTable(_HOST_COLUMNS, rows)
    if not any(host['processing'] for host in hosts):
        raise CommandFailure('no host is processing the service')


#: Not in the list of commands: the names that two of them had before.
ALIASES = (calling.alias(pause, 'stop-processing'), calling.alias(resume, 'start-processing'))
COMMANDS = (tasks, jobs, statistics, clean, pause, resume, isProcessing, *ALIASES)
