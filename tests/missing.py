"""A package with a class of services, which is missing later on, as on a host where it is not installed."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import sys
import types

from ZODB.DB import DB
from zope.interface.interface import InterfaceClass

from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.service import TaskService


@contextlib.contextmanager
def package():
    """Give the module `gone`, with a class of services and an interface of such; afterwards it is missing."""
    module = sys.modules['gone'] = types.ModuleType('gone')
    module.Special = type('Special', (TaskService,), {'__module__': 'gone'})
    module.ISpecial = InterfaceClass('ISpecial', (ITaskService,), __module__='gone')
    try:
        yield module
    finally:
        del sys.modules['gone']


def add(root, module, provided=ITaskService):
    """Add a service `special` of the package, a module, to the root folder."""
    root['special'] = module.Special()
    root.getSiteManager().registerUtility(root['special'], provided, 'special')


def addTo(db):
    """Add such a service to a database; its class is missing when this returns."""
    with package() as module, DB(db.storage).transaction() as connection:      # no cache of `db` has the class
        add(connection.root()['Application'], module)
    db.cacheMinimize()
