"""Changing all jobs that fit a filter: the options of the commands that can, and what these do then."""
# SPDX-License-Identifier: ZPL-2.1
import sys

import click

from lovely.remotetask.cli import calling
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.output import waitShowing
from lovely.remotetask.common.checks import counted
from lovely.remotetask.config.sections import pauseSeconds
from lovely.remotetask.xmlrpc.calls import TYPED


def options(function):
    """Add the options of a command that changes all jobs that fit a filter."""
    for option in (
            click.option('--timeout', metavar='TIME', type=calling.Seconds(pauseSeconds),
                         help='With --wait: stop waiting after this time.  The job that does it goes on.'),
            click.option('--wait', is_flag=True,
                         help='With --filter: wait until all are changed, and print how many instead of the id.'),
            click.option('--yes', is_flag=True, help=f'With --filter: do not ask, though more than {TYPED} jobs fit.'),
            click.option('--filter', metavar='FILTER',
                         help='All jobs that fit, written as for "remotetask jobs"; "" is for all.  A job of its own '
                              'changes them; its id is printed.')):
        function = option(function)
    return function


def changeAll(client, verb, filter, yes, wait, timeout):
    """Count the jobs that fit, ask whether they are meant, and have a job change them."""
    if timeout is not None and not wait:
        raise click.UsageError('--timeout needs --wait')
    found = client.countBulk(verb, filter)
    count = found['count']
    click.echo(f'{counted(count, "job")}{"" if found["whole"] else " or more"} to {verb}', err=True)
    if count == 0 and found['whole']:
        if wait:
            click.echo(0)
        return
    if count > TYPED and not yes:
        if not sys.stdin.isatty():
            raise click.UsageError('give --yes: nobody can be asked at the standard input')
        if click.prompt(f'Type {count} to {verb} them all', default='', show_default=False, err=True) != str(count):
            raise CommandFailure('nothing was changed')
    jobid = client.addBulk(verb, filter, count)
    if not wait:
        click.echo(jobid)
        return
    click.echo(f'job {jobid}', err=True)
    try:
        click.echo(waitShowing(client, jobid, timeout)['changed'])
    except KeyboardInterrupt:
        click.echo(f'\nremotetask: job {jobid} goes on', err=True)
        raise


def checkOne(filter, others, isBulk, message):
    """Raise `click.UsageError` unless the caller says in exactly one way which jobs are meant.

    filter -- of --filter; None without.
    others -- how many other ways are used.
    isBulk -- whether an option is given that belongs to --filter.
    """
    if (filter is not None) + others != 1:
        raise click.UsageError(message)
    if isBulk and filter is None:
        raise click.UsageError('--yes, --wait and --timeout need --filter')
