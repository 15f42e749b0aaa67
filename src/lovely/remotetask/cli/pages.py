"""Starting the pages and metrics, where the extra of the package that they need is installed."""
# SPDX-License-Identifier: ZPL-2.1
import importlib.util

from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.urls import urlOf
from lovely.remotetask.config.settings import defaultWeb
from lovely.remotetask.config.users import Users
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.xmlrpc.access import Authenticator


#: Threads besides those that can wait for the database: they answer whether the process lives.
MORE_THREADS = 2

#: Requests for the metrics of a process without pages that are answered at a time.
METRICS_THREADS = 2

#: Modules of other packages that the pages need.
NEEDED = 'chameleon', 'prometheus_client', 'waitress', 'webob'

#: What is said where the extra is not installed.
MISSING = 'not installed: pip install "lovely.remotetask[web]"'


def arePagesInstalled():
    """Return whether the pages can be started: whether the extra of the package is there."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDED)


def startPages(configuration, db, closing, grace, authenticator, gateway=None):
    """Start the pages, and return what is to be said of them, a line; None when there are to be none.

    configuration -- the `config.settings.Configuration`.
    db -- the `ZODB.DB`.
    closing -- an `ExitStack` for what has to be stopped.
    grace -- its `left()` is how many seconds that may take.
    authenticator -- the `Authenticator` of the front end in this process, with which they count wrong passwords.  None
        without a front end: then the user asked for the pages by the command; else by <web>, or without a configuration
        file not at all: then they may be missing.
    gateway -- the `Gateway` of the front end in this process: /ready says when it does not commit.

    Raise `CommandFailure` when they cannot be started, or `ConfigurationError`.
    """
    isAsked = authenticator is None
    settings = configuration.web or (defaultWeb() if isAsked else None)
    if settings is None:
        return None
    isNeeded = isAsked or configuration.path is not None
    try:
        from lovely.remotetask.web.application import application
        from lovely.remotetask.web.server import Server
        from lovely.remotetask.web.server import checkReach
    except ModuleNotFoundError as error:
        if isNeeded:
            raise CommandFailure(f'the pages are {MISSING} ({error})') from error
        return f'no pages: {MISSING}'
    users = settings.users or configuration.frontend.users
    if not settings.allowInsecure:
        checkReach(settings.address, users is not None)
    pages = application(db, _whoAsks(users, configuration.frontend.users, authenticator), mask=settings.mask,
                        concurrent=settings.threads)
    if gateway is not None:
        pages.readiness.own = lambda: gateway.problem
    try:
        server = Server(pages, settings.address, settings.threads + MORE_THREADS, path=settings.path)
    except ConfigurationError as error:
        if isNeeded:
            raise CommandFailure(str(error)) from error
        return f'no pages: {error}'
    closing.callback(lambda: server.stop(grace.left()))
    server.start()
    return f'pages: {urlOf(server.address)}{settings.path[1:]}{"/" if settings.path else ""}'


def _whoAsks(users, others, authenticator):
    """Return what `web.application.application` takes as users; None for nobody.

    users, others -- the paths of the users files of the pages, and of the front end.
    authenticator -- that of the front end; None without one.
    """
    if users is None or authenticator is None:
        return users
    return authenticator if users == others else Authenticator(Users(users), authenticator.throttle)


def startMetrics(section, settings, users, closing, grace):
    """Start to answer /metrics where the configuration says so; return what is to be said of it, a line, or None.

    section -- the name of the section that says so.
    settings -- its settings.
    users -- the path of the users file, or None.
    closing, grace -- as for `startPages`.

    Raise `CommandFailure` when they cannot be started, or `ConfigurationError`.
    """
    if settings.metricsAddress is None:
        return None
    try:
        from lovely.remotetask.web.processmetrics import ProcessMetrics
        from lovely.remotetask.web.processmetrics import checkReach
        from lovely.remotetask.web.server import Server
    except ModuleNotFoundError as error:
        raise CommandFailure(f'<{section}> has a metrics-address, and the metrics are {MISSING} ({error})') from error
    if not settings.allowInsecure:
        checkReach(settings.metricsAddress, users is not None, section)
    try:
        server = Server(ProcessMetrics(users), settings.metricsAddress, METRICS_THREADS, 'the metrics')
    except ConfigurationError as error:
        raise CommandFailure(str(error)) from error
    closing.callback(lambda: server.stop(grace.left()))
    server.start()
    return f'metrics: {urlOf(server.address)}metrics'
