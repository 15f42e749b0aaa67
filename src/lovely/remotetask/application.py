"""What an application calls: it finds the task service of its database, adds one to a folder, or removes one."""
# SPDX-License-Identifier: ZPL-2.1
import sys
import time
from collections.abc import Callable
from typing import Any

from ZODB.interfaces import IConnection
from ZODB.utils import z64
from zope.component import getGlobalSiteManager
from zope.component.interfaces import ISite
from zope.site import LocalSiteManager

from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import isText
from lovely.remotetask.database import zopeapp
from lovely.remotetask.database.notifications import announceServices
from lovely.remotetask.database.sites import checkedRoot
from lovely.remotetask.database.sites import findService
from lovely.remotetask.database.sites import localServices
from lovely.remotetask.database.sites import nearestSite
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.service import DEFAULT_SERVICE
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage.ready import close


def getService(context: Any, path: str = '/') -> TaskService:
    """Return a task service of a database; a job that is added to it is part of the transaction.

    context -- a request of Pyramid (with pyramid_zodbconn), a `Connection` of ZODB, or any object that was loaded from
        the database, as a folder of Zope.
    path -- '/' for the root's default service; else the names of the folders down to a site, and last the name that
        a service is registered by in that site: '/site1/films'.

    Raise `UnknownService` when there is none at that path, `RemoteTaskError` when the database has no root folder, or
    one whose class is not installed, and `TypeError` when the context leads to no database.
    """
    root = checkedRoot(_connectionOf(context))
    if root is None:
        raise RemoteTaskError('the database has no root folder yet: lovely.remotetask.service.install(db) makes it, '
                              'and a task service in it')
    return findService(root, path)


def _connectionOf(context: Any) -> Any:
    if IConnection.providedBy(context):
        return context
    if IConnection.providedBy(jar := getattr(context, '_p_jar', None)):
        return jar
    pyramid, conn = sys.modules.get('pyramid.interfaces'), sys.modules.get('pyramid_zodbconn')
    if pyramid is not None and conn is not None and pyramid.IRequest.providedBy(context):
        return conn.get_connection(context)
    raise TypeError(f'a request of Pyramid with pyramid_zodbconn, a ZODB connection or an object from a database is '
                    f'needed, not {type(context).__name__}')


def addService(folder: Any, id: str = DEFAULT_SERVICE, name: str = '',
               factory: Callable[[], TaskService] = TaskService) -> TaskService:
    """Add a task service to a folder, and register it there as a local utility; return it.

    folder -- of Zope, wrapped as far as the application object, or of zope.site; one that is no site yet becomes one.
    id -- the name of the service in the folder.
    name -- what it is registered by; '' for the default of the site, which is registered by its id as well.
    factory -- called for a new service; tests may want a `testing.TaskServiceStub`.

    When this has been done before, the service that is there is returned.  The caller commits.

    Raise, with nothing changed, `ValueError` that names the argument when it is unfit, or something else has that id or
    is registered by that name; `TypeError` for what is no folder; and what the folder raises for an id that it refuses.
    """
    isZopes = zopeapp.isContainer(folder)
    if not isZopes and not hasattr(folder, 'setSiteManager'):
        raise TypeError(f'folder: a folder that can be a site is needed, not {type(folder).__name__}')
    check('id', id, isText(id, 200), 'a text of 1 to 200 characters')
    check('name', name, name == '' or isText(name, 200), 'a text of up to 200 characters')
    names = (name,) if name else ('', id)
    services = localServices(folder) if ISite.providedBy(folder) else {}
    there = folder.get(id)
    if there is not None and services.get(name) is not there:
        raise ValueError(f'id: there is another object {id!r} in the folder')
    if there is not None:
        return there
    for one in names:
        if one in services:
            raise ValueError(f'name: there is another task service that is registered by the name {one!r}')
    service = factory()
    folder[id] = service                        # first: the folder may refuse the id
    if not ISite.providedBy(folder):
        _makeSite(folder, isZopes)
    if isZopes:
        zopeapp.place(service, folder, id)      # also where the ZCML of this package is not loaded
    if service._p_jar is None and (jar := getattr(folder, '_p_jar', None)) is not None:
        jar.add(service)                        # its tasks can reach the database at once
    for one in names:
        folder.getSiteManager().registerUtility(service, ITaskService, one)
    announceServices(getattr(folder, '_p_jar', None))
    return service


def removeService(root: Any, path: str, force: bool = False) -> None:
    """Remove a task service with all its jobs; the caller commits.

    root -- the root folder of the database.
    path -- as for `getService`.
    force -- whether to remove it although it has jobs that have not ended.  Those that run are told to end.

    Processing hosts let go of it, when this is committed.

    Raise, with nothing changed, `UnknownService` when there is none at that path, and `RemoteTaskError` when the
    service is still needed.
    """
    service: Any = findService(root, path)
    if not force:
        left = sum(count for status, count in service.countJobs().items() if status not in FINAL)
        if left:
            raise RemoteTaskError(f'the task service at {path} has jobs that have not ended, {left} of them')
    parent = service.__parent__
    _retire(service, parent)
    del parent[service.__name__]


def retire(service: Any, event: Any) -> None:
    """Unregister a service that was removed from its folder, or with a folder above it, in Zope's pages for example.

    event -- the `IObjectRemovedEvent`.
    """
    _retire(service, event.oldParent)


def pauseCopy(service: Any, event: Any) -> None:
    """Pause a copy of a service, whose jobs would be run twice, and queue those again that hosts have claimed.

    These hosts run the jobs of the original, and know nothing of the copy.

    event -- the `IObjectAddedEvent` of the service, or of a folder above it: when it was copied, or imported from a
        file.  A service that is no copy stays as it is.
    """
    if isinstance(service, TaskService):
        # What is imported is loaded before it is committed.  In another database its original may have the same id.
        isImported = service.storedAs is not None and service._p_serial == z64
        service.settleCopy(time.time(), isImported)


def _retire(service: Any, parent: Any) -> None:
    """Unregister a service in the sites above it, beginning with a folder, its `parent`."""
    if isinstance(service, TaskService):
        close(service)          # what others add meanwhile is not to be lost with it
    site = nearestSite(parent)
    while site is not None:
        manager = site.getSiteManager()
        for registration in list(manager.registeredUtilities()):
            if registration.component is service:
                manager.unregisterUtility(service, registration.provided, registration.name)
        site = nearestSite(getattr(site, '__parent__', None))
    announceServices(service._p_jar)


def _makeSite(folder: Any, isZopes: bool) -> None:
    """Give a folder a site manager of its own, below that of the site that the folder is in."""
    above = nearestSite(getattr(folder, '__parent__', None))
    bases = (getGlobalSiteManager() if above is None else above.getSiteManager(),)
    if isZopes:
        from Products.Five.component import enableSite
        from zope.component.persistentregistry import PersistentComponents
        components = PersistentComponents('components')
        enableSite(folder)
    else:
        components = LocalSiteManager(folder)
    components.__bases__ = bases
    folder.setSiteManager(components)
