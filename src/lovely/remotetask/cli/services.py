"""The commands that make, list and remove task services: they work on the database of the configuration file."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import functools

import click
import transaction
from zope.component.interfaces import ISite
from zope.site.folder import Folder

from lovely.remotetask.application import addService
from lovely.remotetask.application import removeService
from lovely.remotetask.cli.failure import BAD_INPUT
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.failure import oneLine
from lovely.remotetask.cli.site import makeRoot
from lovely.remotetask.cli.site import opened
from lovely.remotetask.cli.tables import Column
from lovely.remotetask.cli.tables import printTable
from lovely.remotetask.common.process import osUser
from lovely.remotetask.config.autostart import EVERYWHERE
from lovely.remotetask.config.autostart import matching
from lovely.remotetask.config.autostart import unusable
from lovely.remotetask.config.autostart import urlPath
from lovely.remotetask.database import notes
from lovely.remotetask.database import zopeapp
from lovely.remotetask.database.sites import localServices
from lovely.remotetask.database.transactions import transact
from lovely.remotetask.service import DEFAULT_SERVICE
from lovely.remotetask.statuses import FINAL


#: How often a command tries again when another process has written the same.
ATTEMPTS = 10

_COLUMNS = Column('PATH', 8), Column('JOBS'), Column('HOSTS')


@click.group(invoke_without_command=True)
@click.pass_context
def service(context):
    """Make, list and remove task services.

    PATH is that of URLs: /Films is a service of the root folder, /site1/Films one of the site "site1".  The database
    has to be one for many processes, such as ZEO, or not in use.  Running servers take up a new service by themselves.

    \b
    Example:
      $ remotetask -C remotetask.conf service add /Films
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(BAD_INPUT)


def _command(name):
    """Return what makes a command of that name of a function of an open connection, in a transaction of its own."""

    def decorate(function):
        @service.command(name)
        @click.pass_obj
        @functools.wraps(function)
        def command(configurationPath, **arguments):
            def noted(connection, manager):
                said = function(connection, **arguments)
                notes.write(manager.get(), [notes.Act(f'{name}Service', path=arguments.get('path', ''))], osUser())
                return said

            with opened(configurationPath) as db:
                makeRoot(db)
                manager = transaction.TransactionManager(explicit=True)
                with contextlib.closing(db.open(manager)) as connection:
                    try:
                        said = transact(manager, lambda: noted(connection, manager), ATTEMPTS)
                    except (ValueError, TypeError) as error:
                        raise CommandFailure(str(error), BAD_INPUT) from error
            said()

        return command

    return decorate


@_command('add')
@click.argument('path')
@click.option('--site', 'makesSite', is_flag=True,
              help='Make the folder of the service a site, and make the folder, when they are missing.')
def add(connection, path, makesSite):
    """Make a task service at PATH.

    A service that is there already stays as it is.  /TaskService is the default service, at / as well.  In a database
    of Zope, the folder must be there.

    \b
    Examples:
      $ remotetask -C remotetask.conf service add /Films
      $ remotetask -C remotetask.conf service add /site1/Films --site
    """
    *folders, name = _split(path)
    folder = zopeapp.rootOf(connection)
    for one in folders:
        folder = _folderIn(folder, one, makesSite)
    if not ISite.providedBy(folder) and not makesSite:
        raise ValueError(f'/{"/".join(folders)} is no site; --site makes it one')
    addService(folder, name, '' if _isDefault(folder, folders, name) else name)
    return lambda: click.echo(f'service /{"/".join((*folders, name))}')


def _isDefault(folder, folders, name):
    """Return whether a new service is the default one, at / as well: that is made by the first server, but may be gone.
    """
    services = localServices(folder) if ISite.providedBy(folder) else {}
    return not folders and name == DEFAULT_SERVICE and name not in folder and '' not in services


def _split(path):
    """Return the names in a path as a tuple; raise `ValueError` for a path that no server would process."""
    names = path.removeprefix('/').split('/')
    if not path.startswith('/') or not all(names) or len(names) > 2 or any(name.startswith('+') for name in names):
        raise ValueError(f'PATH: {path!r} is neither /SERVICE nor /SITE/SERVICE')
    return tuple(names)


def _folderIn(folder, name, makes):
    """Return the folder of that name in another one; make it if it is missing and that is asked for."""
    there = folder.get(name)
    if there is None:
        if zopeapp.isContainer(folder):
            raise ValueError(f'there is no folder /{name}; make it in Zope')
        if not makes:
            raise ValueError(f'there is no folder /{name}; --site makes it')
        there = folder[name] = Folder()
        there = folder[name]
    if not zopeapp.isContainer(there) and not hasattr(there, 'setSiteManager'):
        raise ValueError(f'/{name} is no folder that can be a site')
    return there


@_command('list')
def show(connection):
    """Print the task services: path, jobs that have not ended, processing hosts.

    These are the services of the root folder and of the sites in it, as servers process them.  Below the table is why
    some of them cannot be used here.

    \b
    Example:
      $ remotetask -C remotetask.conf service list
      PATH          JOBS  HOSTS
      /TaskService  12    alpha, beta
      /site1/Films  0     -
    """
    reasons = unusable(connection)
    rows = [[path, '-', '-'] for path in reasons]
    for site, name, one in matching(connection, EVERYWHERE):
        path = urlPath(site, name)
        if path in reasons:
            continue
        left = sum(count for status, count in one.countJobs().items() if status not in FINAL)
        hosts = ', '.join(sorted(host['name'] for host in one.getProcessingHosts())) or '-'
        rows.append([path, str(left), hosts])
    return lambda: _print(sorted(rows), reasons)


def _print(rows, reasons):
    printTable(_COLUMNS, rows)
    for reason in reasons.values():
        click.echo(oneLine(reason))


@_command('remove')
@click.argument('path')
@click.option('--force', is_flag=True,
              help='Remove it even if it has jobs that have not ended; those that run are told to end.')
def remove(connection, path, force):
    """Remove the task service at PATH, with all its jobs.

    It refuses to while the service has jobs that have not ended.  Processing hosts let go of it by themselves.  The
    site that the service was in stays.

    \b
    Example:
      $ remotetask -C remotetask.conf service remove /site1/Films
    """
    _split(path)
    removeService(zopeapp.rootOf(connection), path, force)
    return lambda: click.echo(f'removed {path}')


COMMANDS = (service,)
