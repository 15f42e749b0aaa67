"""Which services are processed from the start: `site@service` patterns."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging

import transaction
from zope.component import getGlobalSiteManager
from zope.component.interfaces import ISite

from lovely.remotetask.config.products import PRODUCT
from lovely.remotetask.config.products import checkProduct
from lovely.remotetask.config.products import productConfiguration
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import brokenServices
from lovely.remotetask.database.sites import checkedRoot
from lovely.remotetask.database.sites import isGone
from lovely.remotetask.database.sites import loadFault
from lovely.remotetask.database.sites import pathOf
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.database.sites import registeredServices
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.storage import generations


log = logging.getLogger('lovely.remotetask')

#: The patterns that all services fit.
EVERYWHERE = ('*@*',)


def getAutostartServiceNames():
    """Return the patterns of the product configuration: `site@service`, either of them '*', no site for the root.

    Raise `ConfigurationError` that names a key which is unknown.
    """
    settings = productConfiguration(PRODUCT) or {}
    try:
        checkProduct(PRODUCT, settings)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return splitPatterns(settings.get('autostart', ''))


def splitPatterns(text):
    """Return the patterns in a text that separates them by commas."""
    return [name.strip() for name in text.split(',') if name.strip()]


def sitesOf(root):
    """Return the name and the site of the root ('root') and of each site directly in it."""
    sites = [('root', root)] if ISite.providedBy(root) else []
    return sites + [(name, site) for name, site in root.items() if ISite.providedBy(site)]


def _services(name, site, connection, tell):
    """Return the services of a site, pairs of name and service; log which ones are not where they were put.

    The root has those that are registered globally and are of this database, as well.
    """
    services = {}
    for found, service in registeredServices(site) if ISite.providedBy(site) else ():
        if not isGone(service):
            services[found] = service
        elif getattr(service, 'zopePath', None) is not None:
            tell(logging.WARNING, 'service %s on site %s is not in the folder that it was put into: it is left alone',
                 found, name)
    if name == 'root':
        for found, service in getGlobalSiteManager().getUtilitiesFor(ITaskService):
            jar = getattr(service, '_p_jar', None)
            if jar is not None and jar.db() is connection.db() and not isGone(service) and len(pathOf(service)) == 1:
                services.setdefault(found, connection.get(service._p_oid))
    return sorted(services.items(), reverse=True)


def matching(connection, patterns, tell=log.log):
    """Yield (name of the site, name of the service, service) for what the patterns fit, and log what they do not.

    connection -- an open connection of the database; its root folder is at ROOT_NAME.
    patterns -- a list of texts, see `getAutostartServiceNames`.  A site's pattern does not fit what it acquires.
    tell -- called as `log.log` with what the patterns do not fit.
    """
    root, found = checkedRoot(connection), set()
    if root is None:
        tell(logging.ERROR, 'there is no root folder %s in the database', ROOT_NAME)
        return
    for pattern in patterns:
        siteName, _, serviceName = pattern.rpartition('@')
        sites = _sitesThatFit(root, siteName)
        if sites is None:
            tell(logging.ERROR, 'site %s not found', siteName)
            continue
        fitting = [(name, registered, service) for name, site in sites
                   for registered, service in _services(name, site, connection, tell)
                   if serviceName in ('*', registered)]
        for name, registered, service in fitting:
            if service._p_oid not in found:             # registered under several names, or fitted before
                found.add(service._p_oid)
                yield name, registered, service
        if not fitting:
            _tellNone(pattern, tell)


def _sitesThatFit(root, pattern):
    """Return pairs of name and site that the pattern of a site fits; None if it is a name that no site has."""
    if pattern == '*':
        return sitesOf(root) if ISite.providedBy(root) else [('root', root), *sitesOf(root)]
    if not pattern:
        return [('root', root)]
    return [(pattern, root[pattern])] if pattern in root and ISite.providedBy(root[pattern]) else None


def _tellNone(pattern, tell):
    siteName, _, serviceName = pattern.rpartition('@')
    if '*' in (siteName, serviceName):
        tell(logging.WARNING, 'no services started by directive %s', pattern)
    else:
        tell(logging.ERROR, 'service %s on site %s not found', serviceName, siteName or 'root')


def broken(connection, patterns):
    """Return those services that patterns fit and whose class this process lacks: path, a tuple of names -> object.

    The path is that of URLs, as far as such an object tells it.  For the arguments see `matching`, which leaves them
    out.
    """
    root = checkedRoot(connection)
    pairs = [pattern.rpartition('@')[::2] for pattern in patterns]
    return {(*pathOf(site), name): service
            for siteName, site in (() if root is None else sitesOf(root))
            for name, service in brokenServices(site).items()
            if any(one in ('*', siteName, '' if siteName == 'root' else None) and other in ('*', name)
                   for one, other in pairs)}


def unusable(connection):
    """Return why this process cannot work with some of the services of a database: path of the URL -> a sentence."""
    found = {pathText(path): f'the task service {pathText(path)} cannot be used: {loadFault(service)}'
             for path, service in broken(connection, EVERYWHERE).items()}
    for site, name, service in matching(connection, EVERYWHERE, lambda *arguments: None):
        if (fault := generations.fault(service)) is not None:
            found[urlPath(site, name)] = fault
    return found


def urlPath(site, name):
    """Return the path of the URL of a service; for the arguments see `matching`."""
    return f'/{name}' if site == 'root' else f'/{site}/{name}'


def servicePaths(db, patterns, tell=log.log):
    """Return the paths (tuples of names) of the services that the patterns fit; for `tell` see `matching`."""
    with _opened(db) as connection:
        return [pathOf(service) for _, _, service in matching(connection, patterns, tell)]


@contextlib.contextmanager
def _opened(db):
    """Give a connection to look at, without touching the caller's transaction."""
    manager = transaction.TransactionManager(explicit=True)
    manager.begin()
    with contextlib.closing(db.open(manager)) as connection:
        try:
            yield connection
        finally:
            manager.abort()
