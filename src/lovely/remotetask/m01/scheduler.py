"""Scheduler items: when a job of a remote processor is to be added."""
# SPDX-License-Identifier: ZPL-2.1
import datetime
import logging
from collections.abc import Mapping

from BTrees.OOBTree import OOBTree
from persistent import Persistent
from ZODB.broken import Broken
from zope.component import adapter
from zope.interface import implementer
from zope.lifecycleevent.interfaces import IObjectModifiedEvent

from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import isNumber
from lovely.remotetask.m01.interfaces import ICron
from lovely.remotetask.m01.interfaces import IDelay
from lovely.remotetask.m01.interfaces import ISchedulerItem
from lovely.remotetask.m01.interfaces import ISchedulerItems
from lovely.remotetask.m01.job import secondsOf
from lovely.remotetask.m01.job import timeOf
from lovely.remotetask.schedules.calendar import nextTime
from lovely.remotetask.schedules.fields import LONGEST
from lovely.remotetask.schedules.fields import RANGES
from lovely.remotetask.schedules.fields import checkDelay
from lovely.remotetask.schedules.fields import checkFields
from lovely.remotetask.storage.timetable import SET_BACK


log = logging.getLogger('m01.remote')


class SchedulerItem(Persistent):
    """See `ISchedulerItem`.

    data, fields -- a dict of attributes, and more of them.
    """

    __parent__ = __name__ = None
    jobName = input = nextCallTime = retryTime = None
    title = description = ''
    active, retryDelay = False, 300
    _pulledAt = None            # when it was pulled last, if `nextCallTime` comes from that

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
            if self._pulledAt is not None:
                self._pulledAt = None
        elif name == 'retryDelay':
            check(name, value, isNumber(value, 0, LONGEST), f'a number of seconds from 0 to {LONGEST}')
        elif name == 'jobName':
            check(name, value, value is None or isinstance(value, str), 'the name of a factory')
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
        try:
            self.advance(callTime)
        except Exception:                   # of somebody's own class; the other items are not to wait for this one
            log.exception('%r has no time any more', self)
            self.nextCallTime = None
        self._pulledAt = callTime

    def isAhead(self, callTime):
        """Return whether it was pulled at a time that has yet to come: the clock has been set back."""
        return self._pulledAt is not None and self._pulledAt > callTime + datetime.timedelta(seconds=SET_BACK)

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
        check('item', item, isinstance(item, SchedulerItem), 'a scheduler item')
        if item.__parent__ is not None:
            raise ValueError(f'item: {item!r} belongs to a remote processor already')
        self._last += 1
        item.__parent__, item.__name__ = self, str(self._last)
        self._items[item.__name__] = item
        if item.nextCallTime is None:
            item.schedule(datetime.datetime.now(datetime.timezone.utc))
        return item.__name__

    def remove(self, name):
        """See `ISchedulerItems`."""
        item = self._items.pop(name)
        if not isinstance(item, Broken):
            item.__parent__ = item.__name__ = None

    def loaded(self):
        """Yield the items without those whose class is missing here."""
        return (item for item in self.values() if not isinstance(item, Broken))

    def lookAgain(self, callTime):
        """Compute the next calls anew if the clock has been set back."""
        for item in self.loaded():
            if item.isAhead(callTime):
                item.schedule(callTime)

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
        waiting = (item for item in self.loaded() if item.dueTime is not None)
        return min(waiting, key=lambda item: (item.dueTime, item.__name__), default=None)
