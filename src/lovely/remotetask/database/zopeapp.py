"""Zope and Plone: their application object, containers, requests and configuration, as far as they concern a service.

Nothing here imports Zope before somebody else has: who has loaded the application object of Zope has its classes.
"""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import sys
import traceback

import transaction
from zope.component import adapter
from zope.lifecycleevent.interfaces import IObjectMovedEvent

from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.interfaces import ITaskService


log = logging.getLogger('lovely.remotetask')

#: The key of the application object in the database's root object.
APPLICATION = 'Application'


def isApplication(obj):
    """Return whether an object is the application object of Zope; `obj` is any object."""
    module = sys.modules.get('OFS.Application')
    return module is not None and isinstance(obj, module.Application)


def isContainer(obj):
    """Return whether an object is a folder of Zope, or the application object; `obj` is any object."""
    module = sys.modules.get('OFS.interfaces')
    return module is not None and module.IObjectManager.providedBy(obj)


def isRunning():
    """Return whether Zope has been imported into this process, as its ZCML does."""
    return 'Products.Five' in sys.modules


def productConfiguration(name):
    """Return what Zope's configuration file says in `<product-config NAME>`: a dict of texts, or None.

    name -- of the package; ZConfig writes it in lower case.
    """
    module = sys.modules.get('App.config')
    if module is None:
        return None
    products = getattr(module.getConfiguration(), 'product_config', None) or {}
    return products.get(name.lower())


def checkDatabase():
    """Raise `ConfigurationError` when Zope is starting with a database whose root folder is not its application object.

    Zope itself would fail a moment later, with an AttributeError.
    """
    db = getattr(sys.modules.get('Zope2'), 'DB', None)
    if db is None:
        return
    with db.transaction() as connection:
        root = connection.root().get(APPLICATION)
        if root is not None and not isApplication(root):
            raise ConfigurationError(f'Zope cannot use this database, whose root folder is a '
                                     f'{type(root).__module__}.{type(root).__name__} and not its application object: '
                                     f'it was made by lovely.remotetask on its own; give Zope another one')


# Products

@contextlib.contextmanager
def products(db):
    """Import the products of Zope, as Zope does before it loads its ZCML, and initialize them afterwards.

    db -- the `ZODB.DB`; nothing is done when it is none of Zope's.  Nothing is written to it.

    Raise `ConfigurationError` that names one of them that cannot be imported or initialized: Zope would not start.
    """
    connection = db.open(transaction.TransactionManager())
    try:
        app = connection.root().get(APPLICATION)
        if not isApplication(app):
            yield
            return
        from OFS.Application import import_products
        from OFS.Application import install_products
        from Zope2.App.schema import configure_vocabulary_registry
        with _explained('imported'):
            import_products()                   # the directive `five:loadProducts` knows those that were imported
        yield
        configure_vocabulary_registry()
        with _explained('initialized'):
            install_products(app)
    finally:
        connection.transaction_manager.abort()
        connection.close()


@contextlib.contextmanager
def _explained(what):
    """Raise `ConfigurationError` when the block fails with a product, which cannot be `what` then."""
    try:
        yield
    except Exception as error:
        log.debug('cannot use the products', exc_info=True)
        product = next(filter(None, (_productIn(frame) for frame, _ in traceback.walk_tb(error.__traceback__))), None)
        raise ConfigurationError(f'{product or "a product"} of Zope cannot be {what}: {type(error).__name__}: {error}'
                                 ) from error


def _productIn(frame):
    """Return the name of the product that Zope is at in a frame of the stack; None if it is at none there."""
    if frame.f_globals.get('__name__') != 'OFS.Application':
        return None
    name, module = frame.f_locals.get('product_name'), frame.f_locals.get('module')
    return f'the product {name}' if name else module and f'the package {module.__name__}'


# The application object

def rootOf(connection):
    """Return the application object of a connection of a database of Zope, or whatever is the root folder there.

    Within a request the application object is wrapped in it, so that `REQUEST` can be acquired.
    """
    root = connection.root()[APPLICATION]
    if not isApplication(root):
        return root
    from zope.globalrequest import getRequest
    from ZPublisher.BaseRequest import RequestContainer
    request = getRequest()
    return root if request is None else root.__of__(RequestContainer(REQUEST=request))


def enter(connection):
    """Give the thread what code of Zope expects, as `zconsole run` does: a request, and the rights of the system user.

    connection -- of the database; nothing is done when it is none of Zope's.

    Return what gives the thread back what it had before, a callable; None when nothing was done.
    """
    app = connection.root()[APPLICATION]
    if not isApplication(app):
        return None
    from AccessControl.SecurityManagement import getSecurityManager
    from AccessControl.SecurityManagement import newSecurityManager
    from AccessControl.SecurityManagement import setSecurityManager
    from AccessControl.users import system
    from Testing.makerequest import makerequest
    from zope.globalrequest import getRequest
    from zope.globalrequest import setRequest
    before, manager = getRequest(), getSecurityManager()
    app = makerequest(app)
    request = app.REQUEST
    request['PARENTS'] = [app]
    setRequest(request)
    newSecurityManager(None, system)

    def leave():
        try:
            request.close()                     # which tells whoever has subscribed to the end of requests
        except Exception:
            log.exception('a request could not be ended in order')
        setRequest(before)
        setSecurityManager(manager)

    return leave


# A service in a container

class Item:
    """What Zope's containers ask of the objects in them.

    A service is no object of Zope: it is stored the same way with and without Zope.  It knows its place by the path,
    not by a reference to the container: to copy or export the container would take the whole site along.
    """

    #: For the lists of the management interface, which show what a Manager may see.
    __roles__ = ('Manager',)

    meta_type = 'Task Service'
    title = ''
    zmi_icon = 'fas fa-tasks'
    meta_type__roles__ = title__roles__ = zmi_icon__roles__ = wl_isLocked__roles__ = None

    #: The names from the application object down to the service; None when it is in no container of Zope.
    zopePath = None

    @property
    def __parent__(self):
        """The folder that the service is in, wrapped as usual if it is one of Zope; None when it is in none."""
        if self.zopePath is None:
            return self.__dict__.get('__parent__')
        return _parentAt(self, self.zopePath)

    @__parent__.setter
    def __parent__(self, parent):
        self.zopePath = None
        self.__dict__['__parent__'] = parent

    def __of__(self, container):
        """Return the service as it is; a `BTreeFolder2`, as the site of Plone is one, asks its objects for that."""
        return self

    def __bobo_traverse__(self, request, name):
        """Raise `KeyError`: nobody, not even a Manager, calls its methods by a URL."""
        raise KeyError(name)

    def getId(self):
        """Return the name of the service in its container."""
        return self.__name__

    def getPhysicalPath(self):
        """Return the names from the application object down, after an empty one.

        Raise `RemoteTaskError` when the service is not where it was put.
        """
        if self.zopePath is None or _parentAt(self, self.zopePath) is None:
            raise RemoteTaskError('the task service is in no container of Zope, or was moved without an event; '
                                  'add it by _setObject, with the ZCML of lovely.remotetask loaded')
        return ('', *self.zopePath)

    def title_or_id(self):
        """Return the name of the service in its container."""
        return self.__name__

    title_and_id = title_or_id

    def wl_isLocked(self):
        """Return False: it cannot be locked by WebDAV."""
        return False

    def cb_isCopyable(self):
        """Return False: a copy would run the same jobs again."""
        return False

    def cb_isMoveable(self):
        """Return False: processing hosts know the service by its path."""
        return False

    def manage_fixupOwnershipAfterAdd(self):
        """Do nothing: it has no owner."""

    def _cleanupCopy(self, copy, container):
        """Return the copy of the service, which has been made with a folder above it."""
        return copy


def _parentAt(service, path):
    """Return the container that has the service at the end of `path`, names from the application object; else None."""
    connection = service._p_jar
    if connection is None or not isApplication(connection.root().get(APPLICATION)):
        return None
    parent = rootOf(connection)
    try:
        for name in path[:-1]:
            parent = parent[name]
        found = parent[path[-1]]
    except (AttributeError, KeyError, TypeError):
        return None
    return parent if found is service else None


def wrapped(service):
    """Return a service as a task of Zope expects it: it acquires from the folder that it is in.

    A service that is in no container of Zope is returned as it is.
    """
    if getattr(service, 'zopePath', None) is None or (parent := service.__parent__) is None:
        return service
    from Acquisition import ImplicitAcquisitionWrapper
    return ImplicitAcquisitionWrapper(service, parent)


@adapter(ITaskService, IObjectMovedEvent)
def placed(service, event):
    """Note where a service is, when it or a folder above it was added to a container of Zope, or moved."""
    parent = event.newParent
    if parent is None or not isContainer(parent):
        return
    place(service, parent, event.newName, event.object is service)


def place(service, parent, name, isItself=True):
    """Note that a service, or a folder above it, is in a container of Zope.

    parent -- the container, wrapped as far as the application object.
    name -- its name there.
    isItself -- whether that is the service, and no folder above it.
    """
    root = parent.getPhysicalRoot() if hasattr(parent, 'getPhysicalRoot') else None
    if root is None or root._p_jar is None:
        return                                  # not wrapped: where it is cannot be told
    if service._p_jar is None:
        root._p_jar.add(service)
    above = (*parent.getPhysicalPath()[1:], name)
    before = service.zopePath or ()
    paths = [above] if isItself else [(*above, *before[start:]) for start in range(1, len(before))]
    for path in paths:
        if path != service.zopePath and _parentAt(service, path) is not None:
            service.__name__, service.zopePath = path[-1], path
            return
