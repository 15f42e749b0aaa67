"""The commands for the users file: they work on the file, and a running frontend sees what they change."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import sys

import click

from lovely.remotetask.cli.failure import BAD_INPUT
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.tables import Column
from lovely.remotetask.cli.tables import printTable
from lovely.remotetask.common.passwordfile import readPassword
from lovely.remotetask.config.settings import load
from lovely.remotetask.config.users import ROLES
from lovely.remotetask.config.users import User
from lovely.remotetask.config.users import addUser
from lovely.remotetask.config.users import changeUser
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
    change at once.  Clients put the user and the password into the URL, or the password into the file that
    REMOTETASK_PASSWORD_FILE names.

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


_passwordFile = click.option('--password-file', metavar='FILE',
                             help='A file whose first line is the password; only you may read it.')


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
              help='Replace the user of that name, with all that is said of it.')
@_passwordFile
def add(path, name, role, tasks, services, replace, password_file):
    """Add the user NAME, and ask for a password.

    Without a terminal, the password is the first line of the standard input.  It must have 8 to 72 bytes.  To change a
    user, see "user password" and "user change".

    \b
    Examples:
      $ remotetask -C remotetask.conf user add ann --role manage
      $ remotetask user add films --file users --role submit --task 'avi2*' < password
    """
    user = User(name, '', role, tasks, services)
    checkUser(user)                     # before the password is typed
    addUser(path, user._replace(hash=hashPassword(_password(password_file))), replace)


@_command('password')
@click.argument('name')
@_passwordFile
def password(path, name, password_file):
    """Change the password of the user NAME, and nothing else.

    It asks for the password.  Without a terminal, the password is the first line of the standard input.  It must have 8
    to 72 bytes.

    \b
    Examples:
      $ remotetask -C remotetask.conf user password ann
      $ remotetask user password films --file users --password-file new-password
    """
    if name not in readUsers(path):     # before the password is typed
        raise CommandFailure(f'there is no user {name}')
    changeUser(path, name, hash=hashPassword(_password(password_file)))


@_command('change')
@click.argument('name')
@click.option('--role', type=click.Choice(ROLES), help='The new role, as in "user add".')
@click.option('--task', 'tasks', metavar='PATTERN', multiple=True,
              help='From now on only jobs of tasks whose names match; can be repeated.')
@click.option('--all-tasks', is_flag=True, help='From now on jobs of all tasks.')
@click.option('--service', 'services', metavar='PATTERN', multiple=True,
              help='From now on only task services whose paths match; can be repeated.')
@click.option('--all-services', is_flag=True, help='From now on all task services.')
def change(path, name, role, tasks, all_tasks, services, all_services):
    """Change the role, the tasks or the services of the user NAME.

    What is not given stays as it is; so does the password, for which there is "user password".

    \b
    Examples:
      $ remotetask -C remotetask.conf user change ann --role submit
      $ remotetask -C remotetask.conf user change films --task 'avi2*' --task mp4 --all-services
    """
    for option, patterns, isLifted in ('task', tasks, all_tasks), ('service', services, all_services):
        if patterns and isLifted:
            raise click.UsageError(f'--{option} and --all-{option}s exclude each other')
    changes = {'role': role, 'tasks': ('*',) if all_tasks else tasks, 'services': ('*',) if all_services else services}
    changes = {field: value for field, value in changes.items() if value}
    if not changes:
        raise click.UsageError('say what to change: --role, --task, --all-tasks, --service or --all-services; for the '
                               'password there is "user password"')
    changeUser(path, name, **changes)


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


def _password(path):
    """Return a password, from the file at the path if there is one; raise ValueError."""
    if path is not None:
        return readPassword(path)
    if sys.stdin.isatty():
        return click.prompt('Password', hide_input=True, confirmation_prompt=True)
    line = sys.stdin.buffer.readline()
    try:
        return line.removesuffix(b'\n').removesuffix(b'\r').decode('utf-8')
    except UnicodeDecodeError:
        raise ValueError('the password is not encoded in UTF-8') from None
