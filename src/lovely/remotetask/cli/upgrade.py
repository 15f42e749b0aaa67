"""The command that brings stored data to the generation of this release, and says before what it will do."""
# SPDX-License-Identifier: ZPL-2.1
import time

import click

from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.failure import oneLine
from lovely.remotetask.cli.site import opened
from lovely.remotetask.common.process import osUser
from lovely.remotetask.common.release import release
from lovely.remotetask.config.autostart import EVERYWHERE
from lovely.remotetask.config.autostart import broken
from lovely.remotetask.config.autostart import matching
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import atPath
from lovely.remotetask.database.sites import missingClass
from lovely.remotetask.database.sites import pathOf
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.errors import UnknownService
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.storage import generations
from lovely.remotetask.storage.generations import GENERATION
from lovely.remotetask.storage.generations import PATIENCE


@click.command()
@click.argument('paths', metavar='[PATH]...', nargs=-1)
@click.option('--check', 'isCheck', is_flag=True,
              help='Only say what will be done; exit code 1 if there is anything to do, or nothing can be done.')
@click.pass_obj
def upgrade(configurationPath, paths, isCheck):
    """Bring the stored data to the generation of this release.

    Call it when all processes have this release, and you do not want to go back to the one before.  It is about the
    task services of the root folder and of the sites in it, or those at each PATH, as messages name them.

    No server does it by itself; one whose release cannot work with the data does not start.  What is done is said
    first, and which processing hosts must be stopped for it.  Nothing is done before these have stopped.  Interrupted,
    it goes on with the next call.

    The database has to be one for many processes, such as ZEO, or not in use.

    \b
    Examples:
      $ remotetask -C remotetask.conf upgrade --check
      /TaskService: generation 1, to be upgraded to 2
        1 -> 2: each upload has its user; releases below generation 2 cannot work with it any more
        stop these processing hosts first: alpha (1.0), beta (1.0)
      $ remotetask -C remotetask.conf upgrade
    """
    with opened(configurationPath) as db:
        plans = _plansOf(db, paths)
        if not plans:
            click.echo('there is no task service: nothing to do')
        for plan in plans:
            click.echo('\n  '.join(map(oneLine, _linesOf(plan))))
        isWrong = any(plan.fault is not None for plan in plans)
        if isCheck:
            return int(isWrong or any(plan.steps for plan in plans))
        if any(plan.hosts for plan in plans):
            raise CommandFailure('nothing was upgraded: there are hosts to be stopped first')
        for plan in plans:
            if plan.steps:
                generations.upgrade(db, plan.path, time.time, osUser(), PATIENCE)
                click.echo(oneLine(f'{pathText(plan.path)} is of generation {GENERATION} now'))
    return int(isWrong)


def _plansOf(db, paths):
    """Return the `generations.Plan`s of the services at some paths, of all for none.  Raise `UnknownService`."""
    with db.transaction() as connection:
        services = {names: atPath(connection.root().get(ROOT_NAME), names) for names in map(_namesIn, paths)}
        if not paths:
            found = matching(connection, EVERYWHERE, lambda *arguments: None)
            services = {**broken(connection, EVERYWHERE), **{pathOf(service): service for _, _, service in found}}
        for names, service in services.items():
            if not ITaskService.providedBy(service) and missingClass(service) is None:
                raise UnknownService(pathText(names))
        return [generations.planOf(service, names, time.time()) for names, service in sorted(services.items())]


def _namesIn(path):
    return tuple(path.strip('/').split('/'))


def _linesOf(plan):
    """Return what is said of a plan, a list of lines, of which the first one is the heading of the others."""
    where = pathText(plan.path)
    if plan.fault is not None:
        return [f'{where}: nothing can be done: {plan.fault}']
    if not plan.steps:
        return [f'{where}: generation {plan.generation}, which this release, {release()}, works with: nothing to do']
    lines = [f'{where}: generation {plan.generation}, to be upgraded to {GENERATION}']
    for number, step in enumerate(plan.steps, plan.generation):
        others = f'; releases below generation {step.needs} cannot work with it any more' if step.needs > number else ''
        lines.append(f'{number} -> {number + 1}: {step.text}{others}')
    if plan.hosts:
        lines.append(f'stop these processing hosts first: {generations.named(plan.hosts)}')
    return lines


COMMANDS = (upgrade,)
