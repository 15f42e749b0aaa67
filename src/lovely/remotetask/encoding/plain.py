"""Copies of plain data, which share nothing with a database connection."""
# SPDX-License-Identifier: ZPL-2.1
import copyreg
import datetime
import itertools
import zoneinfo


#: Levels of nesting that plain data may have: what is deeper is stored as an object.
PLAIN_DEPTH = 50

#: Levels of nesting that any value may have.  A pickler calls itself for each level, twice for an object.  How often it
#: can differs between Pythons: even the lowest number, 1000 calls of a thread, leaves room for the caller.
NESTING = 200

ATOMS = frozenset((str, int, float, bool, bytes, type(None), complex, datetime.date, datetime.timedelta))
#: Types that are plain as well, unless their time zone is of an application's class, which may hold anything.
MOMENTS = frozenset((datetime.datetime, datetime.time))
CONTAINERS = frozenset((list, dict, tuple, set, frozenset))
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


class TooDeep(ValueError):
    """The value is nested more deeply than can be stored."""


def holdsObjects(value):
    """Return whether a value holds objects; raise `TooDeep` for one that is nested more than `NESTING` deep.

    A level is a list, dict, tuple or set, or an object that is stored with its attributes.  A part that was met before
    does not count again: a value that contains itself is as deep as its parts.
    """
    met, levels, found = set(), [iter((value,))], False
    while levels:
        for item in levels[-1]:
            if type(item) in ATOMS or id(item) in met:
                continue
            found = found or type(item) not in CONTAINERS
            members = _membersOf(item)
            if members is not None:
                if len(levels) > NESTING:
                    raise TooDeep(f'it is nested more than {NESTING} deep')
                met.add(id(item))
                levels.append(members)
                break
        else:
            levels.pop()
    return found


def _membersOf(value):
    """Return an iterator over what a pickler stores below a value; None for a value that has no such parts."""
    kind = type(value)
    for base in (list, tuple, set, frozenset):
        if issubclass(kind, base):
            return base.__iter__(value)
    if issubclass(kind, dict):
        return itertools.chain(dict.keys(value), dict.values(value))
    if (issubclass(kind, type) or kind in copyreg.dispatch_table or kind.__reduce__ is not object.__reduce__
            or kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__getstate__ is not object.__getstate__):
        return None                     # it says itself what is stored of it, as a persistent object and a class do
    attributes = getattr(value, '__dict__', None)
    return iter(list(attributes.values())) if type(attributes) is dict else None


def ownCopy(value):
    """Return a copy of plain data, and anything else as it is."""
    try:
        return plainCopy(value)
    except NotPlain:
        return value
