"""Where services live: sites, paths, and finding a service by either."""
# SPDX-License-Identifier: ZPL-2.1
from ZODB.broken import Broken
from ZODB.POSException import POSKeyError
from ZODB.POSException import StateLoadError
from zope.component import getGlobalSiteManager
from zope.component.interfaces import ISite
from zope.interface.interfaces import IInterface

from lovely.remotetask.database import zopeapp
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import UnknownService
from lovely.remotetask.interfaces import ITaskService


#: The key of the root folder in the database's root object, as in every Zope database.
ROOT_NAME = zopeapp.APPLICATION

#: How Zope's paths spell the step from a site to its site manager.
SITE_MANAGER = '++etc++site'


def checkedRoot(connection):
    """Return the root folder of a database, None when there is none; `connection` is an open one.

    Raise `RemoteTaskError` when it is an object of a class that is not installed here.
    """
    root = connection.root().get(ROOT_NAME)
    if isinstance(root, Broken):
        kind = type(root)
        raise RemoteTaskError(f'the database was made by another application: its root folder is a '
                              f'{kind.__module__}.{kind.__name__}, and there is no such class here; install the '
                              f'packages of that application (Zope, say) beside lovely.remotetask')
    return root


def nearestSite(obj):
    """Return the site that `obj` is in, or is; None when it is in none."""
    while obj is not None and not ISite.providedBy(obj):
        obj = getattr(obj, '__parent__', None)
    return obj


def siteManager(obj):
    """Return the component registry for `obj`: that of its nearest site, or the global one."""
    site = nearestSite(obj)
    return getGlobalSiteManager() if site is None else site.getSiteManager()


def pathOf(obj):
    """Return the names from the root folder down to `obj`, as a tuple.

    Raise `RemoteTaskError` for a service in a container of Zope that is not where it was put.
    """
    if getattr(obj, 'zopePath', None) is not None:
        return tuple(obj.getPhysicalPath()[1:])
    path = []
    while obj is not None and getattr(obj, '__name__', None):
        path.append(obj.__name__)
        obj = getattr(obj, '__parent__', None)
    return tuple(reversed(path))


def pathText(path):
    """Return a path, a tuple of names, as a text."""
    return '/' + '/'.join(path)


def whereIs(service):
    """Return the path of a service as a text, for people."""
    try:
        return pathText(pathOf(service))
    except RemoteTaskError:                     # somebody has moved it in Zope: it works all the same
        return f'/{service.__name__}'


def atPath(root, path):
    """Return the object below `root` to which `path`, a tuple of names, leads; raise `UnknownService` if to none."""
    obj = root
    for name in path:
        try:
            obj = obj.getSiteManager() if name == SITE_MANAGER else obj[name]
        except POSKeyError:             # a KeyError, too; but the object is missing that the name leads to
            raise
        except (AttributeError, KeyError, TypeError, LookupError):
            raise UnknownService('/' + '/'.join(path)) from None
    return obj


def localServices(site):
    """Return the task services that are registered in the site itself, not acquired: name -> service.

    Those that were taken out of their folder, and have stayed registered, are none.
    """
    return {name: service for name, service in registeredServices(site) if not isGone(service)}


def brokenServices(site):
    """Return what is registered in the site as a task service, but is of a class that this process lacks."""
    return {name: service for name, service in registeredServices(site) if missingClass(service) is not None}


def registeredServices(site):
    """Yield what is registered in a site as a task service, wherever it is: pairs of name and object.

    Raise `RemoteTaskError` for one with an interface that this process lacks: Zope can read none of that site then.
    """
    for registration in site.getSiteManager().registeredUtilities():
        if not IInterface.providedBy(registration.provided):
            kind = registration.provided
            raise RemoteTaskError(f'the site {pathText(pathOf(site))} has something registered for the interface '
                                  f'{kind.__module__}.{kind.__name__}, which is missing here: install the package that '
                                  'has it')
        if registration.provided.isOrExtends(ITaskService):
            yield registration.name, registration.component


def missingClass(loaded):
    """Return the class of an object from the database, as text, if this process lacks it; else None."""
    kind = type(loaded)
    return f'the class {kind.__module__}.{kind.__name__}' if isinstance(loaded, Broken) else None


def loadFault(loaded):
    """Return why this process cannot use an object from the database, a sentence, if it lacks its class; else None."""
    missing = missingClass(loaded)
    return None if missing is None else f'{missing} is missing here: install the package that has it'


def isGone(service):
    """Return whether a service is no longer in its folder: nobody would process its jobs."""
    if getattr(service, 'zopePath', None) is not None:
        return service.__parent__ is None
    return nearestSite(service) is None


def findService(root, path):
    """Return the service that the path of a URL names; raise `UnknownService` when there is none.

    root -- the root folder.
    path -- '/' for the root's default service; else the names of the folders down to a site, and last the name that
    a service is registered by in that site itself: '/site1/TestTaskService1'.
    """
    *folders, name = path.strip('/').split('/')
    try:
        site = atPath(root, folders)
        service = _registered(site, name)
        if (fault := loadFault(service)) is None:
            return localServices(site)[name] if service is None or isGone(service) else service
    except (KeyError, AttributeError, LookupError):     # LookupError: a folder that is no site has no site manager
        raise UnknownService(path) from None
    raise UnknownService(path, fault)


def _registered(site, name):
    """Return the task service that is registered by a name in a site, or None.

    That is far cheaper than to look at all registrations.  Raise `RemoteTaskError` as `registeredServices` does.
    """
    try:
        return site.getSiteManager().utilities.registered((), ITaskService, name)
    except StateLoadError:
        for _ in registeredServices(site):          # raises what names the interface that is missing
            pass
        raise
