"""Processing in the threads of an application: from the event that its database is open, as the product configuration
says.
"""
# SPDX-License-Identifier: ZPL-2.1
import functools
import logging

from zope.component import adapter
from zope.interface import implementer
from zope.processlifetime import IDatabaseOpenedWithRoot

from lovely.remotetask.common.logs import about
from lovely.remotetask.config.autostart import getAutostartServiceNames
from lovely.remotetask.config.servicewatch import ServiceWatch
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.database.sites import whereIs
from lovely.remotetask.execution import started
from lovely.remotetask.interfaces import IStartRemoteTasksEvent


log = logging.getLogger('lovely.remotetask')


@implementer(IStartRemoteTasksEvent)
class StartRemoteTasksEvent:
    """See `IStartRemoteTasksEvent`."""

    def __init__(self, database):
        """`database` is a `ZODB.DB`."""
        self.database = database


@adapter(IDatabaseOpenedWithRoot)
def bootStrapSubscriber(event):
    """Process the services that the product configuration names, in threads of this process.

    A service that is made later is processed from then on; one that is removed is let go of.

    event -- an `IDatabaseOpenedWithRoot`, as Zope sends it, or an `IStartRemoteTasksEvent`.

    Raise `ConfigurationError` when the product configuration has a mistake.
    """
    patterns = getAutostartServiceNames()
    log.info('handling event IStartRemoteTasksEvent')
    key = event.database, None, 'autostart'
    started.stop(key)
    if patterns:
        watch = ServiceWatch(event.database, patterns, _begin, functools.partial(_end, event.database))
        watch.look()
        started.start(key, lambda: watch)


def _begin(found, service):
    service.startProcessing()
    log.info('service %s on site %s started', found.name, found.site,
             extra=about('host.started', service=whereIs(service)))


def _end(db, found):
    if started.stop((db, found.oid, None)):
        log.info('service %s on site %s stopped', found.name, found.site,
                 extra=about('host.stopped', service=pathText(found.path)))
