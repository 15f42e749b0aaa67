"""The client commands about schedules: adding, changing, looking, running one now."""
# SPDX-License-Identifier: ZPL-2.1
import click

from lovely.remotetask.cli import calling
from lovely.remotetask.cli.failure import oneLine
from lovely.remotetask.cli.output import asJson
from lovely.remotetask.cli.tables import Column
from lovely.remotetask.cli.tables import duration
from lovely.remotetask.cli.tables import printTable
from lovely.remotetask.cli.tables import shortTime
from lovely.remotetask.xmlrpc.calls import LISTING_SIZE


#: Options of `schedule` that are for one that is there already; with none of them it adds one.
_ACTIONS = ('update', 'pause', 'resume')

_DAYS = ('mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun')

_COLUMNS = (Column('id'), Column('task', 8), Column('schedule', 9, 1), Column('next', dispensable=2),
            Column('last', dispensable=4), Column('outcome'), Column('failures', dispensable=3),
            Column('state', dispensable=5))


@calling.command
@click.argument('task', required=False)
@click.argument('input', metavar='[JSON]', type=calling.Json(), required=False)
@click.option('--crontab', metavar='TEXT', help="When it runs, as in a crontab: '*/10 2 * * mon-fri'.")
@click.option('--time-zone', metavar='NAME', help="What the crontab's times are in, as Europe/Berlin.  Default: UTC.")
@click.option('--delay', metavar='TIME', type=calling.Seconds(),
              help='Instead of a crontab: run once, after this time, as 20s or 1.5h; with --new-jobs every so often.')
@click.option('--misfire', metavar='POLICY',
              help='What becomes of times that came while nothing ran: once (the default), one run for all of them; '
                   'skip, none; a number N, one run for each, up to N.')
@click.option('--new-jobs/--no-new-jobs', default=None,
              help='Whether it adds a new job at each time, instead of running itself again (the default).')
@click.option('--overlap/--no-overlap', default=None,
              help='With --new-jobs: whether it adds one even if the last has not ended.  Default: no.')
@click.option('--update', metavar='ID', type=calling.ID, help='Add none, but change what is given of the schedule ID.')
@click.option('--pause', metavar='ID', type=calling.ID, help='Add none, but have the schedule ID wait.')
@click.option('--resume', metavar='ID', type=calling.ID, help='Have the schedule ID, which was paused, go on.')
def schedule(client, task, input, update, pause, resume, **options):
    """Add a schedule for TASK, or change one; print its id.

    JSON is the input of the task, as for add.  With --update the options that are given change the schedule, and the
    others stay; a crontab and a delay replace each other.  What was missed until then is forgotten.

    \b
    Examples:
      $ remotetask schedule echo '"good morning"' --crontab '0 8 * * mon-fri' --time-zone Europe/Berlin
      1392637176
      $ remotetask schedule echo '"and later"' --delay 10m
      1392637177
      $ remotetask schedule --update 1392637176 --crontab '30 8 * * mon-fri'
      1392637176
      $ remotetask schedule --pause 1392637176
      1392637176
    """
    actions = [name for name, jobid in zip(_ACTIONS, (update, pause, resume)) if jobid is not None]
    changes = _options(**options)
    if len(actions) > 1 or actions and task is not None:
        raise click.UsageError('give either a TASK, or one of --update, --pause and --resume')
    if update is not None:
        if not changes:
            raise click.UsageError('--update needs what is to be changed: --crontab, --delay or another option')
        client.updateCronJob(update, **changes)
    elif actions:
        if changes:
            raise click.UsageError(f'--{actions[0]} goes with no other option')
        client.updateCronJob(pause or resume, active=resume is not None)
    else:
        if task is None:
            raise click.UsageError("Missing argument 'TASK'")
        if ('crontab' in changes) == ('delay' in changes):
            raise click.UsageError('give either --crontab or --delay')
        changes = {'misfire': 'once', 'newJobs': False, 'overlap': False, **changes}
        delay = changes.pop('delay', None)
        click.echo(client.addCronJob(task, input, delay=delay, **changes))
        return
    click.echo(update or pause or resume)


def _options(crontab, time_zone, delay, misfire, new_jobs, overlap):
    """Return those options of `updateCronJob` that are given."""
    if misfire is not None and misfire.isdecimal():
        misfire = int(misfire[:9])
    options = {'crontab': crontab, 'timeZone': time_zone, 'delay': delay, 'misfire': misfire, 'newJobs': new_jobs,
               'overlap': overlap}
    return {name: value for name, value in options.items() if value is not None}


@calling.command
@click.option('--task', metavar='NAME', help='Only schedules of this task.')
@click.option('--size', type=click.IntRange(1, LISTING_SIZE), default=100, show_default=True,
              help='How many schedules to list.')
@click.option('--start', type=click.IntRange(0, 2**31 - 1), default=0, show_default=True,
              help='How many of the newest to leave out.')
@click.option('--json', 'raw', is_flag=True, help='Print JSON, as the front end gives it.')
def schedules(client, task, size, start, raw):
    """List the schedules, newest first; times are UTC.

    The columns: when it runs next and has run last, how its last run ended, how many of its last runs have failed one
    after the other (10 also stands for more), and whether it is paused, or
    stuck: then the last lines say why.

    \b
    Examples:
      $ remotetask schedules
      $ remotetask schedules --task echo --json
    """
    found = client.getSchedules(task, start, size)
    if raw:
        click.echo(asJson(found))
        return
    printTable(_COLUMNS, [[
        str(each['id']), oneLine(each['task']), oneLine(describe(each)), shortTime(each['scheduledFor']),
        shortTime(each['started']), oneLine(each['outcome'] or '-'), str(each['failures']), _stateOf(each),
    ] for each in found['schedules']])
    for each in found['schedules']:
        if each['reason']:
            click.echo(f'{each["id"]} {oneLine(each["reason"])}')


def describe(schedule):
    """Return in few characters when a schedule runs; it is a struct of `getSchedules`."""
    if schedule['delay'] is not None:
        return f'{"every" if schedule["newJobs"] else "once after"} {duration(schedule["delay"])}'
    days = [_DAYS[day] for day in schedule['dayOfWeek']]
    fields = [schedule[name] for name in ('minute', 'hour', 'dayOfMonth', 'month')] + [days]
    text = schedule['crontab'] or ' '.join(','.join(map(str, field)) or '*' for field in fields)
    return text if schedule['timeZone'] in (None, 'UTC') else f'{text} {schedule["timeZone"]}'


def _stateOf(schedule):
    if schedule['reason']:
        return 'stuck'
    return 'active' if schedule['active'] else 'paused'


@calling.command
@calling.jobid
def runNow(client, jobid):
    """Run the job ID at once; print the id of what runs.

    ID is a schedule, which goes on as if nothing had happened, also one that is paused; or a delayed job, or one that
    waits for its next attempt.  A schedule that adds new jobs adds one, whose id is printed.

    \b
    Example:
      $ remotetask run-now 1392637176
      1392637176
    """
    click.echo(client.runNow(jobid))


COMMANDS = (schedule, schedules, runNow)
