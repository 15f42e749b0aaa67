"""Scheduler items: when a job of a remote processor is to be added."""
# SPDX-License-Identifier: ZPL-2.1
import datetime
import logging
from collections.abc import Mapping

from BTrees.OOBTree import OOBTree
from persistent import Persistent
from zope.component import adapter
from zope.interface import implementer
from zope.lifecycleevent.interfaces import IObjectModifiedEvent

from lovely.remotetask.m01.interfaces import ICron
from lovely.remotetask.m01.interfaces import IDelay
from lovely.remotetask.m01.interfaces import ISchedulerItem
from lovely.remotetask.m01.interfaces import ISchedulerItems
from lovely.remotetask.m01.job import secondsOf
from lovely.remotetask.m01.job import timeOf
from lovely.remotetask.schedules.calendar import nextTime
from lovely.remotetask.schedules.fields import RANGES
from lovely.remotetask.schedules.fields import checkDelay
from lovely.remotetask.schedules.fields import checkFields


log = logging.getLogger('m01.remote')


class SchedulerItem(Persistent):
    """See `ISchedulerItem`.

    data, fields -- a dict of attributes, and more of them.
    """

    __parent__ = __name__ = None
    jobName = input = nextCallTime = retryTime = None
    title = description = ''
    active, retryDelay = False, 300

    #: What a dict may name.
    names = ('jobName', 'title', 'description', 'input', 'active', 'retryDelay', 'nextCallTime', 'retryTime')

    def __init__(self, data=None, **fields):
        fields = {**(data or {}), **fields}
        for name, value in fields.items():
            if name not in self.names:
                raise ValueError(f'there is no {name!r} in a {type(self).__name__}; there are {", ".join(self.names)}')
            setattr(self, name, value)

    def __setattr__(self, name, value):
        if name in ('nextCallTime', 'retryTime'):
            secondsOf(value)                # raises `ValueError` for what is no time
        super().__setattr__(name, value)

    def timeAfter(self, callTime):
        """Return the first time after `callTime`, or None; both are `datetime` objects."""
        raise NotImplementedError

    def getNextCallTime(self, callTime):
        """See `ISchedulerItem`."""
        return self.advance(callTime)

    def advance(self, callTime):
        """See `ISchedulerItem.getNextCallTime`; that of p01 is in seconds, so all else here calls this."""
        stored = self.nextCallTime
        if not self.active:
            following = stored = None
        elif stored is None or stored <= callTime:
            following = self.timeAfter(callTime)
        else:
            return stored
        if self.nextCallTime != following:
            self.nextCallTime = following
        return stored

    def schedule(self, callTime):
        """Forget when it comes next, and compute that anew."""
        self.nextCallTime = self.retryTime = None
        self.advance(callTime)

    def pulled(self, callTime):
        """Note that it was pulled."""
        self.retryTime = callTime + datetime.timedelta(seconds=self.retryDelay)
        self.advance(callTime)

    @property
    def dueTime(self):
        """When it may be pulled: the later of its next call and its `retryTime`; None when there is no next call."""
        if not self.active or self.nextCallTime is None:
            return None
        return self.nextCallTime if self.retryTime is None else max(self.nextCallTime, self.retryTime)

    def __repr__(self):
        return f'<{type(self).__name__} {self.__name__!r} for: {self.jobName!r}>'


@implementer(IDelay)
class Delay(SchedulerItem):
    """See `IDelay`."""

    delay = 0

    names = (*SchedulerItem.names, 'delay')

    def __setattr__(self, name, value):
        if name == 'delay' and value:
            checkDelay(value, isInterval=True)
        super().__setattr__(name, value)

    def timeAfter(self, callTime):
        """See `SchedulerItem`."""
        return callTime + datetime.timedelta(seconds=self.delay) if self.delay else None


@implementer(ICron)
class Cron(SchedulerItem):
    """See `ICron`.

    Unlike the original, it clears all units that are smaller than those that are given: what is to come in an hour
    comes at its first minute.
    """

    names = (*SchedulerItem.names, *RANGES)

    def __init__(self, data=None, **fields):
        super().__init__({**dict.fromkeys(RANGES, ()), **(data or {})}, **fields)

    def __setattr__(self, name, value):
        if name in RANGES:
            value = list(checkFields(**{name: value})[name])
        super().__setattr__(name, value)

    def timeAfter(self, callTime):
        """See `SchedulerItem`."""
        fields = {name: getattr(self, name) for name in RANGES}
        seconds = nextTime(secondsOf(callTime), **fields) if any(fields.values()) else None
        if seconds is None:
            log.warning('%r has no time', self)
        return timeOf(seconds)


@adapter(ISchedulerItem, IObjectModifiedEvent)
def reschedule(item, event):
    """Schedule an item anew that was changed, if it belongs to a remote processor."""
    processor = getattr(item.__parent__, '__parent__', None)
    if processor is not None:
        processor.reScheduleItem(item)


@implementer(ISchedulerItems)
class SchedulerItems(Persistent, Mapping):
    """See `ISchedulerItems`."""

    def __init__(self):
        self._items = OOBTree()
        self._last = 0

    def __getitem__(self, name):
        return self._items[name]

    def __iter__(self):
        return iter(self._items)

    def __len__(self):
        return len(self._items)

    def add(self, item):
        """See `ISchedulerItems`."""
        self._last += 1
        item.__parent__, item.__name__ = self, str(self._last)
        self._items[item.__name__] = item
        if item.nextCallTime is None:
            item.schedule(datetime.datetime.now(datetime.timezone.utc))
        return item.__name__

    def remove(self, name):
        """See `ISchedulerItems`."""
        del self._items[name]

    def pullNextSchedulerItem(self, callTime):
        """See `ISchedulerItems`."""
        item = self._next()
        if item is None or item.dueTime > callTime:
            return None
        item.pulled(callTime)
        return item

    def nextTime(self):
        """Return when an item may be pulled next, or None."""
        item = self._next()
        return item and item.dueTime

    def _next(self):
        """Return the item that is due first, or None."""
        waiting = (item for item in self.values() if item.dueTime is not None)
        return min(waiting, key=lambda item: (item.dueTime, item.__name__), default=None)
