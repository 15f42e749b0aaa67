"""The client commands about a service as a whole: its tasks, its jobs, how it does, where it is processed."""
# SPDX-License-Identifier: ZPL-2.1
import click

from lovely.remotetask.cli import calling
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.failure import oneLine
from lovely.remotetask.cli.output import asJson
from lovely.remotetask.cli.output import asTime
from lovely.remotetask.cli.output import bars
from lovely.remotetask.cli.output import printTable
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.xmlrpc.methods import BATCH
from lovely.remotetask.xmlrpc.methods import LISTING_SIZE


@calling.command
def tasks(client):
    """Print the names of the tasks, one a line.

    \b
    Example:
      $ remotetask tasks
      echo
    """
    for name in client.getAvailableTasks():
        click.echo(oneLine(name))


@calling.command
@click.argument('filter', metavar='[FILTER]', required=False)
@click.option('--after', metavar='CURSOR', help='With a filter: go on where the last listing said that there is more.')
@click.option('--status', type=click.Choice(STATUSES), metavar='STATUS',
              help=f'Only jobs in this status: {", ".join(STATUSES)}.')
@click.option('--size', type=click.IntRange(1, LISTING_SIZE), default=20, show_default=True,
              help='How many jobs to list.')
@click.option('--start', type=click.IntRange(0, 2**31 - 1), default=0, show_default=True,
              help='How many of the newest jobs to leave out.')
def jobs(client, filter, after, status, size, start):
    """List the jobs, newest first; times are UTC.

    The last line says how many there are, listed or not.  A filter has terms that all have to fit: status:, task: and
    host: with wildcards, since: and before: with 30s, 5m, 1h, 2d or a date, id:, schedule:, input.NAME:, and words.

    \b
    Examples:
      $ remotetask jobs
      $ remotetask jobs --status error --size 100
      $ remotetask jobs --status 'start later'
      $ remotetask jobs 'status:error task:avi2* since:1h input.film:Metropolis'
    """
    if after is not None and filter is None:
        raise click.UsageError('--after needs a filter; "" is for all jobs')
    if filter is not None and (status is not None or start):
        raise click.UsageError('a filter excludes --status and --start: write status:error, and go on with --after')
    listing = client.getJobs(status, start, size, filter, after)
    rows = [('id', 'task', 'status', 'created', 'started', 'completed')]
    rows += ((str(job['id']), oneLine(job['task']), oneLine(job['status']),
              *(asTime(job[name]) for name in ('created', 'started', 'completed'))) for job in listing['jobs'])
    printTable(rows)
    if filter is not None:
        more = f'; go on with --after {oneLine(listing["cursor"])}' if listing['cursor'] else ''
        click.echo(f'\n{len(listing["jobs"])} jobs fit, looked at {listing["looked"]} of {listing["total"]}{more}')
        return
    click.echo(f'\n{len(listing["jobs"])} of {listing["total"]} jobs; in all: {_counts(listing["counts"])}')


@calling.command
@click.option('--json', 'raw', is_flag=True, help='Print JSON, as the frontend gives it.')
def statistics(client, raw):
    """Print how the service does; times are UTC.

    \b
    Example:
      $ remotetask statistics
      jobs            4 processing, 1508 completed, 2 error
      oldest waiting  -
      throughput      12.44 jobs per second
      hosts           2 of 2 processing
    """
    found = client.getStatistics()
    if raw:
        click.echo(asJson(found))
        return
    hosts = found['hosts']
    processing = sum(host['processing'] for host in hosts)
    printTable([
        ('jobs', _counts(found['counts'])),
        ('oldest waiting', asTime(found['oldestWaiting'])),
        ('throughput', f'{found["throughput"]:.2f} jobs per second'),
        ('hosts', f'{processing} of {len(hosts)} processing' + (', paused' if found['paused'] else '')),
    ])


def _counts(counts):
    """Return text for a dict of numbers of jobs by status."""
    return ', '.join(f'{counts[status]} {status}' for status in STATUSES if counts.get(status)) or 'none'


@calling.command
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
def startProcessing(client):
    """Have the processing hosts take jobs again.

    After stop-processing.

    \b
    Example:
      $ remotetask start-processing
    """
    client.startProcessing()


@calling.command
def stopProcessing(client):
    """Have the processing hosts take no more jobs.

    Jobs that are running end.  It lasts until start-processing, over restarts, too.

    \b
    Example:
      $ remotetask stop-processing
    """
    client.stopProcessing()


@calling.command
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
    hosts = client.getProcessingHosts()
    for host in hosts:
        doing = [word for word in ('processing', 'scheduling') if host[word]]
        rows.append((oneLine(host['name']), oneLine(host['machine']), str(host['pid']), str(host['threads']),
                     str(host['jobs']), asTime(host['since']), ', '.join(doing) or 'waiting'))
    printTable(rows)
    if not any(host['processing'] for host in hosts):
        raise CommandFailure('the service is not processed anywhere')


COMMANDS = (tasks, jobs, statistics, clean, startProcessing, stopProcessing, isProcessing)
