"""The commands for the users file: they work on the file, and a running frontend sees what they change."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import sys

import click

from lovely.remotetask.cli.failure import BAD_INPUT
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.tables import Column
from lovely.remotetask.cli.tables import printTable
from lovely.remotetask.config.settings import load
from lovely.remotetask.config.users import ROLES
from lovely.remotetask.config.users import User
from lovely.remotetask.config.users import addUser
from lovely.remotetask.config.users import checkUser
from lovely.remotetask.config.users import hashPassword
from lovely.remotetask.config.users import readUsers
from lovely.remotetask.config.users import removeUser


_COLUMNS = Column('NAME', 8), Column('ROLE'), Column('TASKS', 8), Column('SERVICES', 8)


@click.group(invoke_without_command=True)
@click.pass_context
def user(context):
    """Manage the users who may call the front end.

    The users file is --file, or "users" in the section <frontend> of the configuration.  A running front end sees a
    change at once.  Clients put the user and the password into the URL.

    \b
    Example:
      $ remotetask -C remotetask.conf user add ann --role manage
      $ remotetask jobs --url https://ann:PASSWORD@example.org:8080/
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(BAD_INPUT)


def _command(name):
    """Return what makes a command of that name of a function of the path of the users file."""

    def decorate(function):
        @user.command(name)
        @click.option('--file', metavar='FILE', help='The users file.  Default: the one that the configuration names.')
        @click.pass_obj
        @functools.wraps(function)
        def command(configurationPath, file, **arguments):
            path = file
            if path is None and configurationPath is not None:
                path = load(configurationPath).frontend.users
            if path is None:
                raise click.UsageError('there is no users file: give --file, or a configuration (-C) with "users FILE" '
                                       'in the section <frontend>')
            try:
                function(path, **arguments)
            except ValueError as error:
                raise CommandFailure(str(error), BAD_INPUT) from error

        return command

    return decorate


@_command('add')
@click.argument('name')
@click.option('--role', type=click.Choice(ROLES), default='view', show_default=True,
              help='view: look at jobs and their results; submit: also add, start, change, retry and cancel jobs; '
                   'manage: also act on many jobs at once, and pause and resume processing.')
@click.option('--task', 'tasks', metavar='PATTERN', multiple=True, default=('*',), show_default=True,
              help='Only jobs of tasks whose names match, for example avi2*; can be repeated.')
@click.option('--service', 'services', metavar='PATTERN', multiple=True, default=('*',), show_default=True,
              help='Only task services whose paths match, for example /site1/*; / is the default service; can be '
                   'repeated.')
@click.option('--replace', is_flag=True,
              help='Replace the user of that name, for example to change the password or the role.')
def add(path, name, role, tasks, services, replace):
    """Add the user NAME, and ask for a password.

    Without a terminal, the password is the first line of the standard input.  It must have 8 to 72 bytes.

    \b
    Examples:
      $ remotetask -C remotetask.conf user add ann --role manage
      $ remotetask user add films --file users --role submit --task 'avi2*' < password
    """
    user = User(name, '', role, tasks, services)
    checkUser(user)                     # before the password is typed
    addUser(path, user._replace(hash=hashPassword(_password())), replace)


@_command('remove')
@click.argument('name')
def remove(path, name):
    """Remove the user NAME.

    \b
    Example:
      $ remotetask -C remotetask.conf user remove ann
    """
    removeUser(path, name)


@_command('list')
def show(path):
    """Print the users: name, role, tasks, services.

    \b
    Example:
      $ remotetask -C remotetask.conf user list
      NAME   ROLE    TASKS  SERVICES
      ann    manage  *      *
      films  submit  avi2*  *
    """
    printTable(_COLUMNS, [[user.name, user.role, ','.join(user.tasks), ','.join(user.services)]
                          for user in readUsers(path).values()])


COMMANDS = (user,)


def _password():
    """Return a password; raise ValueError."""
    if sys.stdin.isatty():
        return click.prompt('Password', hide_input=True, confirmation_prompt=True)
    line = sys.stdin.buffer.readline()
    try:
        return line.removesuffix(b'\n').removesuffix(b'\r').decode('utf-8')
    except UnicodeDecodeError:
        raise ValueError('the password is not encoded in UTF-8') from None
