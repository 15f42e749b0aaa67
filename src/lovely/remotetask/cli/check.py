"""The client command for monitoring systems: one line, and an exit code, as Nagios and its successors take them."""
# SPDX-License-Identifier: ZPL-2.1
import time

import click

from lovely.remotetask import errors
from lovely.remotetask.cli import calling
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.failure import oneLine
from lovely.remotetask.cli.tables import duration
from lovely.remotetask.client import ConnectionBroken
from lovely.remotetask.client import HttpError
from lovely.remotetask.client import NoAnswer
from lovely.remotetask.client import NotConnected
from lovely.remotetask.common.checks import counted
from lovely.remotetask.common.checks import cut
from lovely.remotetask.statuses import CRONJOB
from lovely.remotetask.statuses import DELAYED
from lovely.remotetask.statuses import ERROR
from lovely.remotetask.statuses import PROCESSING
from lovely.remotetask.statuses import QUEUED
from lovely.remotetask.xmlrpc import faults


#: The greatest number of tasks that are named when no host takes them.
TOLD_TASKS = 5

#: Exceptions of a front end that does not answer, or has no database that it can work with.
_AWAY = (NotConnected, ConnectionBroken, NoAnswer, faults.DatabaseUnavailable, faults.Stopping, errors.WrongGeneration)

OK, WARNING, CRITICAL, UNKNOWN = range(4)
NAMES = ('OK', 'WARNING', 'CRITICAL', 'UNKNOWN')


class Levels(click.ParamType):
    """Two limits, such as 5m,30m: the values from which it is a warning, and critical.  A dash stands for never.

    read -- makes a number of a text, or raises `ValueError`.
    """

    name = 'levels'

    def __init__(self, read):
        self._read = read

    def convert(self, value, parameter, context):
        if not isinstance(value, str):
            return value
        words = [word.strip() for word in value.split(',')]
        try:
            if len(words) > 2:
                raise ValueError(f'{value!r} has more than two parts')
            levels = [float('inf') if word == '-' else self._read(word) for word in words]
        except ValueError as error:
            self.fail(f'{error} (as in 5m,30m: WARNING, CRITICAL; - for never)', parameter, context)
        if len(levels) == 2 and levels[1] < levels[0]:
            self.fail(f'{value!r}: what is critical is less than what is a warning', parameter, context)
        return (*levels, float('inf'))[:2]


def _count(text):
    if not text.isdecimal() or len(text) > 9:
        raise ValueError(f'{text!r} is not a number')
    return int(text)


class _Check(click.Command):
    """To monitoring systems wrong usage is UNKNOWN; 2 would be CRITICAL."""

    def make_context(self, *arguments, **options):
        try:
            return super().make_context(*arguments, **options)
        except click.UsageError as error:
            error.exit_code = UNKNOWN
            raise

    def invoke(self, context):
        """Do what the command does."""
        try:
            return super().invoke(context)
        except click.ClickException as error:       # of the URL or the password
            error.exit_code = UNKNOWN
            raise
        except errors.ConfigurationError as error:
            raise CommandFailure(str(error), UNKNOWN) from error


def _levels(name, default, read, text):
    return click.option(name, metavar='W[,C]', type=Levels(read), default=default, show_default=True, help=text)


@calling.commandOf(_Check, '20s')
@_levels('--waiting', '5m,30m', calling.seconds, 'How long a job that is ready has been waiting.')
@_levels('--running', '-', calling.seconds, 'How long a run has been going on.')
@_levels('--failures', '1,10', _count, 'How many jobs, and runs of cron jobs, have failed in the window.')
@click.option('--window', metavar='TIME', type=calling.Seconds(), default='1h', show_default=True,
              help='The time in which failures count, a day at the most.')
@_levels('--late', '1m,10m', calling.seconds, 'How late a schedule is: then no scheduler is at work.')
def check(client, waiting, running, failures, window, late):
    """Check the service for a monitoring system.

    Each limit is a pair: from the first value on it is a WARNING, from the second on CRITICAL.  A service that no host
    processes, or a front end that does not answer or has no database to work with, is CRITICAL; a service that is
    paused, or has a schedule that cannot be handled, or a job that no host can run, is a WARNING.

    \b
    Example:
      $ remotetask check --waiting 5m,30m --failures 1,10 --window 1h
      OK - 2 hosts, 0 waiting, 4 running, 0 failures in 1h00m | hosts=2 waiting=0 ...

    \b
    Exit codes:
      0    OK
      1    WARNING
      2    CRITICAL
      3    UNKNOWN: wrong usage, or the front end refuses to answer
    """
    try:
        found = client.getStatistics(window)
    except errors.RemoteTaskError as error:
        _end(CRITICAL if _isAway(error) else UNKNOWN, oneLine(cut(str(error), 500)))
    problems = findings(found, time.time(), waiting, running, failures, late)
    level = max((level for level, _ in problems), default=OK)
    problems.sort(key=lambda problem: -problem[0])
    counts = found['counts']
    summary = (f'{counted(_processing(found), "host")}, {counts[QUEUED]} waiting, {counts[PROCESSING]} running, '
               f'{counted(found["failures"], "failure")} in {duration(window)}')
    text = '; '.join(text for _, text in problems) or summary
    _end(level, f'{text} | {_performance(found)}')


def _isAway(error):
    """Return whether an error means that nobody gets an answer, and not this user, or at this URL, alone."""
    return isinstance(error, _AWAY) or isinstance(error, HttpError) and error.status >= 500


def _end(level, text):
    """Print what monitoring systems read, on the standard output, and end with their exit code."""
    click.echo(f'{NAMES[level]} - {text}')
    click.get_current_context().exit(level)


def findings(found, now, waiting, running, failures, late):
    """Return a list of pairs of level and text: what is wrong with a service.

    found -- what `getStatistics` returns.
    now -- UTC seconds.
    waiting, running, failures, late -- pairs of the values from which on it is a WARNING, and CRITICAL; all but the
        failures are in seconds.
    """
    problems = []

    def look(value, levels, text):
        level = sum(value >= each for each in levels)
        if level:
            problems.append((level, text))

    scheduled = found['counts'][CRONJOB] + found['counts'][DELAYED]
    if found['paused']:
        problems.append((WARNING, 'the service is paused'))
    elif not _processing(found):
        problems.append((CRITICAL, 'no host processes the service'))
    if scheduled and not any(host['scheduling'] for host in found['hosts']):
        problems.append((WARNING, f'no host looks at the {counted(scheduled, "schedule")}'))
    for name, levels, text in (('oldestWaiting', waiting, 'a job has been waiting for {}'),
                               ('longestRunning', running, 'a job has been running for {}'),
                               ('nextTime', late, 'a schedule is late by {}')):
        if found[name] is not None:
            look(now - found[name], levels, text.format(duration(now - found[name])))
    look(found['failures'], failures, counted(found['failures'], 'failure'))
    for name, noun, text in (('failing', 'cron job', 'the last run of {} failed'),
                             ('unscheduled', 'schedule', 'cannot handle {}')):
        if found[name]:
            problems.append((WARNING, text.format(counted(found[name], noun))))
    return problems + [(WARNING, text) for text in _stranded(found)]


def _stranded(found):
    """Yield what is wrong with jobs that wait for a host: nobody takes their task, or nobody can run it."""
    left = found['stranded'] - sum(found['unclaimable'].values())
    if left:
        yield f'no host can run {counted(left, "job")}'
    if found['unclaimable']:
        yield f'no host takes {unclaimable(found)}'


def unclaimable(found):
    """Return in a line which tasks no living host takes, and how many jobs wait for that: '3 jobs of echo'.

    found -- what `getStatistics` returns.
    """
    tasks = sorted(found['unclaimable'].items())
    more = [f'{len(tasks) - TOLD_TASKS} more tasks'] if len(tasks) > TOLD_TASKS else []
    return ', '.join([f'{counted(count, "job")} of {cut(oneLine(task), 40)}' for task, count in tasks[:TOLD_TASKS]]
                     + more)


def _processing(found):
    return sum(host['processing'] for host in found['hosts'])


def _performance(found):
    """Return what monitoring systems draw."""
    counts = found['counts']
    values = {'hosts': _processing(found), 'waiting': counts[QUEUED], 'running': counts[PROCESSING],
              'errors': counts[ERROR], 'failures': found['failures'], 'retrying': found['retrying'],
              'throughput': f'{found["throughput"]:.2f}'}
    return ' '.join(f'{name}={value}' for name, value in values.items())


COMMANDS = (check,)
