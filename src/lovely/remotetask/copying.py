"""Copies of plain data, which share nothing with a database connection."""
# SPDX-License-Identifier: ZPL-2.1
import copyreg
import datetime
import zoneinfo


#: Levels of nesting that plain data may have; pickling deeper data exhausts Python's stack.
PLAIN_DEPTH = 50

ATOMS = frozenset((str, int, float, bool, bytes, type(None), complex, datetime.date, datetime.timedelta))
#: Those that are plain as well unless their time zone is somebody's own class, of which nobody knows what it holds.
MOMENTS = frozenset((datetime.datetime, datetime.time))
ZONES = frozenset((type(None), datetime.timezone))


def _reduceZone(zone):
    _, (key, _) = zone.__reduce__()         # raises for one that has no key
    return type(zone), (key,)


# The pickler of the database cannot store the class method that these are made of otherwise.
copyreg.pickle(zoneinfo.ZoneInfo, _reduceZone)


class NotPlain(ValueError):
    """The value holds something else than plain data."""


def plainCopy(value, depth=PLAIN_DEPTH):
    """Return a copy of plain data: of atoms, and of dicts, lists, tuples and sets of plain data.

    Raise `NotPlain` for anything else.  What this returns can be pickled, and shares nothing with a connection.
    """
    kind = type(value)
    if kind in ATOMS or kind in MOMENTS and type(value.tzinfo) in ZONES:
        return value
    if depth:
        if kind is dict:
            return {plainCopy(key, depth - 1): plainCopy(item, depth - 1) for key, item in value.items()}
        if kind in (list, tuple, set, frozenset):
            return kind([plainCopy(item, depth - 1) for item in value])
    raise NotPlain(f'{kind.__name__} is no plain data')


def ownCopy(value):
    """Return a copy of plain data, and anything else as it is."""
    try:
        return plainCopy(value)
    except NotPlain:
        return value
