"""Time zones: those that this machine knows, by their names in the tz database."""
# SPDX-License-Identifier: ZPL-2.1
import datetime
import threading
import time
import zoneinfo

from lovely.remotetask.common.checks import shown


#: Names in the tz database's directory that are no time zones, or not the same one on each machine.
NO_ZONES = frozenset(('Factory', 'localtime', 'posixrules'))

#: Seconds before the names of the time zones are read again for a name that is not among them.
ZONES_AGE = 60.0


class _Zones:
    """The names of the time zones that this machine knows, as last read from its disk."""

    def __init__(self):
        self._names, self._read, self._lock = frozenset(), None, threading.Lock()

    def __contains__(self, name):
        """Return whether there is such a zone.  Another look at the disk is made once in ZONES_AGE seconds."""
        if name in self._names:
            return True
        with self._lock:
            if self._read is None or time.monotonic() - self._read >= ZONES_AGE:
                self._names = frozenset(zoneinfo.available_timezones()) - NO_ZONES
                self._read = time.monotonic()
        return name in self._names

    @property
    def isEmpty(self):
        """Whether no zone was found; after a look."""
        return not self._names


_zones = _Zones()


def checkTimeZone(name):
    """Return the name of a time zone, or None for UTC; raise `ValueError` when there is no such zone.

    Zones are those of the tz database: see `zoneinfo.available_timezones`.  Names that mean another zone on each
    machine, such as 'localtime', are none.

    >>> checkTimeZone('Europe/Berlin')
    'Europe/Berlin'
    >>> checkTimeZone('UTC') is None
    True
    """
    zoneOf(name)
    return None if name == 'UTC' else name


def zoneOf(name):
    """Return the `datetime.tzinfo` of a zone; None is UTC.  Raise `ValueError` when this machine does not know it."""
    if name is None or isinstance(name, str) and name == 'UTC':
        return datetime.timezone.utc
    if isinstance(name, str) and name in _zones:
        try:
            return zoneinfo.ZoneInfo(name)
        except (ValueError, KeyError, OSError):     # the file is gone, or cannot be read
            pass
    if _zones.isEmpty:
        raise ValueError(f'timeZone: {shown(name)} is not known, as no time zone is: this machine has no tz database')
    raise ValueError(f"timeZone: {shown(name)} is not a time zone such as 'Europe/Berlin'")
