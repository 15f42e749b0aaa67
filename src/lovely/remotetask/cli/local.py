"""The server commands: frontend and processing host, each alone or both in one process."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import os
import sys
import threading
import time

import click
import zope.component
import zope.component.hooks
from zc.lockfile import LockError
from ZEO.Exceptions import ClientDisconnected
from ZODB.POSException import ReadOnlyError

from lovely.remotetask.cli.burst import Burst
from lovely.remotetask.cli.failure import BAD_INPUT
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.grace import GracePeriod
from lovely.remotetask.cli.hosts import Hosts
from lovely.remotetask.cli.pages import startMetrics
from lovely.remotetask.cli.pages import startPages
from lovely.remotetask.cli.signals import Interrupted
from lovely.remotetask.cli.signals import Signals
from lovely.remotetask.cli.urls import urlOf
from lovely.remotetask.common.checks import counted
from lovely.remotetask.common.checks import isNumber
from lovely.remotetask.common.process import allowFiles
from lovely.remotetask.common.process import discard
from lovely.remotetask.common.process import keepFilesPrivate
from lovely.remotetask.common.process import reapAsProcessOne
from lovely.remotetask.common.release import release
from lovely.remotetask.config.autostart import matching
from lovely.remotetask.config.autostart import servicePaths
from lovely.remotetask.config.autostart import splitPatterns
from lovely.remotetask.config.settings import defaultDatabase
from lovely.remotetask.config.settings import load
from lovely.remotetask.config.users import Users
from lovely.remotetask.config.zcml import loadSiteOf
from lovely.remotetask.config.zcml import placeOf
from lovely.remotetask.database.complaints import lastComplaint
from lovely.remotetask.database.failures import DatabaseReplaced
from lovely.remotetask.database.opening import Database
from lovely.remotetask.database.packing import Packer
from lovely.remotetask.database.packing import pack as packDatabase
from lovely.remotetask.database.postgresql import whyUnfit
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import checkedRoot
from lovely.remotetask.database.sites import findService
from lovely.remotetask.database.zeo import whyUnreachable
from lovely.remotetask.database.zopeapp import isRunning
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.processor import Scheduler
from lovely.remotetask.service import install
from lovely.remotetask.xmlrpc.access import Authenticator
from lovely.remotetask.xmlrpc.access import checkExposure
from lovely.remotetask.xmlrpc.gateway import Gateway
from lovely.remotetask.xmlrpc.server import Frontend
from lovely.remotetask.xmlrpc.tls import Certificate


log = logging.getLogger('lovely.remotetask')

#: Seconds after which a thread that computes, such as a task's, lets the thread go on that serves the clients.
SWITCH_INTERVAL = 0.001

#: About how many files a job has open while it runs a program or a child process.
FILES_PER_JOB = 10

#: The autostart directives of a configuration without any: all task services.
DEFAULT_AUTOSTART = '*@*'


class Number(click.FloatRange):
    """A number of 0 or more, up to a large one; click would take nan, which is in no range."""

    def __init__(self):
        super().__init__(0, 1e6)

    def convert(self, value, parameter, context):
        number = super().convert(value, parameter, context)
        if not isNumber(number, self.min, self.max):
            self.fail(f'{value!r} is not a number.', parameter, context)
        return number


# Commands

@click.command()
@click.pass_obj
def serve(configurationPath):
    """Serve XML-RPC and pages, and process jobs, in one process.

    Use this to start with, or if one process is enough.  Ctrl-C or SIGTERM stops it: it claims no more jobs, lets
    running jobs end, and releases the others.  A second Ctrl-C or SIGTERM ends it at once.

    \b
    Examples:
      $ remotetask serve
      $ remotetask -C remotetask.conf serve
    """
    _run(configurationPath, hasFrontend=True, hasProcessor=True, hasPages=True)


@click.command()
@click.pass_obj
def frontend(configurationPath):
    """Serve XML-RPC only; other processes run the jobs.

    The processes must share a database, such as ZEO or RelStorage.  Ctrl-C or SIGTERM stops it.

    \b
    Example:
      $ remotetask -C remotetask.conf frontend
    """
    _run(configurationPath, hasFrontend=True, hasProcessor=False)


@click.command()
@click.option('--until-empty', is_flag=True,
              help='Stop when no job is ready or due any more; exit code 1 when one ended in an error meanwhile.')
@click.pass_obj
def processor(configurationPath, until_empty):
    """Process jobs only; other processes accept them.

    The processes must share a database, such as ZEO or RelStorage.  Any number of processing hosts can run, each with
    its own name.  Ctrl-C or SIGTERM stops it: it lets running jobs end, and releases the others.  A second Ctrl-C or
    SIGTERM ends it at once.

    \b
    Example:
      $ remotetask -C remotetask.conf processor
      $ remotetask -C remotetask.conf processor --until-empty
    """
    _run(configurationPath, hasFrontend=False, hasProcessor=True, untilEmpty=until_empty)


@click.command()
@click.pass_obj
def scheduler(configurationPath):
    """Queue jobs when they are due; run no jobs.

    Usually one of the processing hosts is the scheduler of a service, and another takes over when it dies.  With
    "schedule off" in the configuration of the hosts, processes like this one are the schedulers.  Several of them can
    run, each with its own name: that of <processor>, followed by "-scheduler".  Ctrl-C or SIGTERM stops it.

    \b
    Example:
      $ remotetask -C remotetask.conf scheduler
    """
    _run(configurationPath, hasFrontend=False, hasProcessor=True, schedulesOnly=True)


@click.command()
@click.pass_obj
def web(configurationPath):
    """Serve pages only, to look at a service and to operate it.

    Needs a database for several processes: ZEO or RelStorage.  The section <web> says where the pages listen, and who
    may see them; the default is http://127.0.0.1:8081/.  Ctrl-C or SIGTERM stops it.

    \b
    Example:
      $ remotetask -C remotetask.conf web
    """
    _run(configurationPath, hasFrontend=False, hasProcessor=False, hasPages=True)


@click.command()
@click.option('--days', type=Number(), default=0.0, show_default=True,
              help='Keep replaced and removed data of the last N days.')
@click.pass_obj
def pack(configurationPath, days):
    """Pack the database, which makes its file smaller.

    Over ZEO or RelStorage, it can be in use at the same time.  A database of a single process can only be packed by
    that process: see "pack-interval" in the configuration.

    \b
    Example:
      $ remotetask -C remotetask.conf pack --days 1
    """
    keepFilesPrivate()
    configuration = loadExisting(configurationPath)
    setUpLogging(configuration)
    with contextlib.closing(openDatabase(configuration)) as database:
        before = database.db.getSize()
        if packDatabase(database.db, time.time() - days * 86400) is None:
            raise CommandFailure('the database could not be packed; the log says why')
        click.echo(f'{before} bytes before, {database.db.getSize()} bytes after')


COMMANDS = (serve, frontend, processor, scheduler, web, pack)


# Running

def _run(configurationPath, hasFrontend, hasProcessor, schedulesOnly=False, untilEmpty=False, hasPages=False):
    """Run the servers until the process is asked to stop."""
    reapAsProcessOne()
    keepFilesPrivate()
    signals, hosts, burst = Signals(), None, None
    with contextlib.ExitStack() as closing:
        try:
            configuration = load(configurationPath)
            grace = GracePeriod(configuration.processor.gracePeriod)
            database, hosts = _start(configuration, hasFrontend, hasProcessor, schedulesOnly, hasPages, signals,
                                     closing, grace)
            _say('ready')
            if untilEmpty:
                burst = Burst(database.db, hosts.processors, signals.fail)
                burst.start()
            elif hosts is not None:
                hosts.follow()
            error = signals.wait()
        except Interrupted:
            error = None
        log.info('stopping')
        if isinstance(error, DatabaseReplaced):
            grace.end()                                 # what jobs give cannot be stored
        if error is not None:
            raise CommandFailure(f'failed: {error}') from error
    if hosts is not None:
        givenBack = counted(hosts.givenBack, 'job')
        _say(f'stopped; {givenBack} given back')
        log.info('stopped; %s given back', givenBack)
    if burst is not None and burst.failures:
        raise CommandFailure(f'{counted(burst.failures, "job")} failed')


def _say(line):
    """Print a line; it is fine when nobody reads it."""
    try:
        click.echo(line)
    except OSError as error:
        discard(sys.stdout)
        log.info('nothing more is printed: the standard output is broken: %s', error)


def _start(configuration, hasFrontend, hasProcessor, schedulesOnly, hasPages, signals, closing, grace):
    """Start everything and say so; return the database, and the `Hosts`, or None when there are to be none.

    What has to be closed goes to `closing`, which does it in the opposite order.
    """
    configuration.setUpLogging()
    _say(f'lovely.remotetask {release()}')
    _say(f'data: {configuration.databaseDescription}')
    database = openDatabase(configuration, signals.fail)
    closing.callback(database.close)
    signals.check()
    loadSiteOf(database.db, configuration.siteDefinition)
    zope.component.hooks.setHooks()                     # for tasks: `getUtility` asks the site of the service first
    signals.check()
    _install(database.db)
    _checkGenerations(database.db)
    signals.begin()
    names = sorted(name for name, task in zope.component.getUtilitiesFor(ITask))
    _say(f'tasks: {", ".join(names) or "none"}')
    # The processors start after the front end, so that nothing has been claimed when its address is taken; and they
    # also stop after it: first no new jobs, then the end of the old ones.
    hosts = _hostsOf(configuration, database, schedulesOnly, signals) if hasProcessor else None
    if hosts is not None:
        closing.callback(hosts.stop, grace)
    if hasFrontend:
        # Beside processors it takes the client that their tasks take: `db` is for the ledgers then.
        front = _startFrontend(configuration, database.taskClient.acquire() if hasProcessor else database.db,
                               signals, closing, grace)
    if hasPages:
        said = startPages(configuration, database.db, closing, grace, *(front if hasFrontend else (None,)))
        if said is not None:
            _say(said)
    for section, isThere in ('frontend', hasFrontend), ('processor', hasProcessor and not schedulesOnly):
        said = startMetrics(section, getattr(configuration, section), configuration.frontend.users, closing,
                            grace) if isThere else None
        if said is not None:
            _say(said)
    if hasProcessor:
        _startHosts(configuration, hosts, schedulesOnly)
    if configuration.processor.packInterval is not None:
        packer = Packer(database.db, configuration.processor.packInterval, configuration.processor.packKeep)
        closing.callback(lambda: packer.stop(grace.left()))
        packer.start()
    return database, hosts


def _install(db):
    """Make what is missing in the database; but not the application object of Zope, which Zope makes itself."""
    if isRunning():
        with db.transaction() as connection:
            if checkedRoot(connection) is None:
                raise CommandFailure('the database is empty, and the site definition loads Zope: start Zope with this '
                                     'database first, which makes its application object, and add a task service')
    install(db)


def _checkGenerations(db):
    """Raise `WrongGeneration` when this release must not work with a service, before anything is done with any of them.

    Those of 0.5 are left to whoever asks for one: nothing can be done about them, and others may be beside them.
    """
    with db.transaction() as connection:
        for _, _, service in matching(connection, [DEFAULT_AUTOSTART], lambda *arguments: None):
            if service.generation:
                service.checkGeneration()


def setUpLogging(configuration):
    """Start to log as the configuration says, for a command that is no server: its connections are not worth a line."""
    configuration.setUpLogging()
    if (zeo := logging.getLogger('ZEO')).level == logging.NOTSET:
        zeo.setLevel(logging.WARNING)


def loadExisting(configurationPath):
    """Return the `Configuration` in a file, for a command that works on a database that is there.

    Raise `CommandFailure` without a file where no server has made the default database: this is the wrong directory,
    or the file was forgotten.  A database that is made here would look like one without jobs.
    """
    if configurationPath is None and not os.path.exists(defaultDatabase()):
        raise CommandFailure(f'there is no database {defaultDatabase()}, and no configuration file was given: name it, '
                             'as in "remotetask -C remotetask.conf ..."', BAD_INPUT)
    return load(configurationPath)


def openDatabase(configuration, *arguments):
    try:
        return Database(configuration.database.open, *arguments)
    except LockError as error:
        raise CommandFailure(f'{configuration.databaseDescription} is in use by another process; stop that one, '
                             'or let many share the data by ZEO or RelStorage') from error
    except (RemoteTaskError, ReadOnlyError):
        raise
    except Exception as error:                          # each kind of storage has errors of its own
        log.debug('cannot open the database', exc_info=True)
        reason = whyUnfit(error)
        if isinstance(error, ClientDisconnected):           # which says that it has waited for too long
            reason = lastComplaint() or whyUnreachable(configuration.databaseServers)
        raise CommandFailure(f'cannot open the database {configuration.databaseDescription}: '
                             f'{reason or f"{type(error).__name__}: {error}"}') from error


def _startFrontend(configuration, db, signals, closing, grace):
    """Start the front end; return its `Authenticator` and its `Gateway`."""
    settings = configuration.frontend
    sys.setswitchinterval(SWITCH_INTERVAL)
    if not settings.allowInsecure:
        checkExposure(settings.address, settings.users is not None, settings.certificate is not None)
    authenticator = Authenticator(None if settings.users is None else Users(settings.users))
    certificate = None if settings.certificate is None else Certificate(settings.certificate, settings.key)
    limits = settings.limits
    allowFiles(limits.connections + limits.waiting + limits.silent,
               'the connections of the front end (max-connections, max-waiting)')
    gateway = Gateway(db, lambda connection, path: findService(connection.root()[ROOT_NAME], path),
                      settings.deadline)
    try:
        server = Frontend(settings.address, gateway, limits, certificate, authenticator)
    except ConfigurationError as error:                 # the configuration is right: the address is taken, or gone
        raise CommandFailure(str(error)) from error
    closing.callback(lambda: gateway.stop(grace.left()))
    closing.callback(lambda: server.stop(grace.left()))
    gateway.start()

    def serveForever():
        try:
            server.serveForever()
        except Exception as error:
            log.exception('the front end failed')
            signals.fail(error)

    threading.Thread(target=serveForever, name='remotetask-frontend', daemon=True).start()
    _say(f'listening on {urlOf(server.address, "https" if certificate else "http")}')
    return authenticator, gateway


def _hostsOf(configuration, database, schedulesOnly, signals):
    """Return the `Hosts` of this process, not started; raise `CommandFailure` when they can have nothing to do."""
    settings, autostart = configuration.processor, _autostartOf(configuration)
    patterns = splitPatterns(autostart)
    if '*' not in autostart and not servicePaths(database.db, patterns, lambda *arguments: None):
        raise CommandFailure(f'there is no task service to process: autostart {autostart!r} fits none')
    if schedulesOnly:
        factory, arguments = Scheduler, {}
    else:
        factory, arguments = MultiProcessor, {'maxThreads': settings.threads, 'schedule': settings.schedule}

    def make(path, number):
        if not schedulesOnly:
            allowFiles(settings.threads * number * FILES_PER_JOB, 'the jobs that run (threads)')
        return factory(database.db, path, waitTime=settings.waitTime, name=_nameOf(settings, schedulesOnly),
                       lease=settings.lease, keep=settings.keep, taskClient=database.taskClient, tasks=settings.tasks,
                       **arguments)

    return Hosts(database.db, patterns, make, signals.fail)


def _autostartOf(configuration):
    return configuration.product('lovely.remotetask').get('autostart', DEFAULT_AUTOSTART)


def _nameOf(settings, schedulesOnly):
    return f'{settings.name}-scheduler' if schedulesOnly else settings.name


def _startHosts(configuration, hosts, schedulesOnly):
    settings = configuration.processor
    if not schedulesOnly:
        _warnOfWhatIsMissing()
    if not hosts.start():
        _say(f'no task service yet: autostart {_autostartOf(configuration)!r} fits none')
    name = _nameOf(settings, schedulesOnly)
    if schedulesOnly:
        _say(f'scheduling as {name}')
    else:
        _say(f'processing as {name} with {settings.threads} {"thread" if settings.threads == 1 else "threads"}')


def _warnOfWhatIsMissing():
    """Log what this host lacks to run some tasks, and where they are registered; their jobs wait for another host."""
    tasks = [registration for registration in zope.component.getGlobalSiteManager().registeredUtilities()
             if registration.provided.isOrExtends(ITask)]
    for registration in sorted(tasks, key=lambda registration: registration.name):
        missing = getattr(registration.component, 'missing', None)
        if missing is not None and (what := missing()) is not None:
            place = placeOf(registration.info)
            log.warning('%sjobs of the task %r wait for another host, this one lacks %s', place and f'{place}: ',
                        registration.name, what)
