"""Converts values of Python to values that XML-RPC can carry, so that any result can be sent; see `types.txt`."""
# SPDX-License-Identifier: ZPL-2.1
import math
from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set
from datetime import date
from datetime import datetime
from datetime import time
from datetime import timedelta
from datetime import timezone
from decimal import Decimal
from uuid import UUID
from xmlrpc.client import MAXINT
from xmlrpc.client import MININT

from transaction.interfaces import TransientError
from ZODB.POSException import POSError

from lovely.remotetask.database.storedfiles import StoredFile
from lovely.remotetask.xmlrpc.calls import NESTING
from lovely.remotetask.xmlrpc.calls import RESULT_SIZE
from lovely.remotetask.xmlrpc.faults import ResultTooLarge
from lovely.remotetask.xmlrpc.wire import dumpPlain
from lovely.remotetask.xmlrpc.wire import isSendable
from lovely.remotetask.xmlrpc.wire import sendable


TOO_DEEP = '<nested too deeply>'
CYCLIC = '<contains itself>'

# Bytes that a value costs besides its text: about the length of its tags.
_VALUE_SIZE = 32

# Of a class as such: a metaclass may have its own ideas.
_nameOf = type.__dict__['__name__'].__get__


def _describe(value):
    return f'<{sendable(_nameOf(type(value)))[:100]} object>'


def _plainInt(value):
    value = int.__int__(value)
    if MININT <= value <= MAXINT:
        return value
    try:
        return str(value)
    except ValueError:          # Python refuses to write out more than 4300 digits
        return hex(value)


def _plainFloat(value):
    value = float.__float__(value)
    return value if math.isfinite(value) else str(value)


def _plainDatetime(value):
    if value.utcoffset() is not None:
        value = value.astimezone(timezone.utc)
    return datetime(value.year, value.month, value.day, value.hour, value.minute, value.second)


_LEAF_CONVERSIONS = {
    type(None): lambda value: None,
    bool: lambda value: value,
    int: _plainInt,
    float: _plainFloat,
    str: sendable,
    bytes: lambda value: b''.join([value]),
    bytearray: lambda value: b''.join([value]),
    datetime: _plainDatetime,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: timedelta.total_seconds,
    Decimal: Decimal.__str__,
    UUID: UUID.__str__,
}

# The database's own errors are not the value's: the caller repeats the call.  The rest ends the conversion as well.
_NOT_THE_VALUES = (TransientError, POSError, ResultTooLarge, MemoryError)


class _Conversion:
    """One call of `plain`: how many bytes may still be sent, and which containers are being converted."""

    def __init__(self, limit):
        self._limit = self._left = limit
        self._within = set()

    def _spend(self, size):
        self._left -= size
        if self._left < 0:
            raise ResultTooLarge(self._limit)

    def convert(self, value):
        class_ = type(value)            # not value.__class__, which an object can make up, or raise from
        try:
            conversion = _LEAF_CONVERSIONS.get(class_)
        except Exception:               # a metaclass that fails us
            conversion = _describe
        if conversion is not None:
            return self._leaf(value, conversion)
        if class_ is dict:
            return self._container(value, self._dict)
        if class_ is list or class_ is tuple:
            return self._container(value, self._array)
        if class_ is StoredFile:
            self._spend(value.size)
            return value.read()
        return self._convertOther(value, class_)

    def _convertOther(self, value, class_):
        """Return what becomes of a value of another type, which may be a subclass of those."""
        try:
            for base in class_.__mro__:
                if base in _LEAF_CONVERSIONS:
                    return self._leaf(value, _LEAF_CONVERSIONS[base])
            kind = next((kind for kind in (Mapping, Set, Sequence) if issubclass(class_, kind)), None)
        except _NOT_THE_VALUES:
            raise
        except Exception:               # a metaclass that fails us
            kind = None
        if kind is None or class_ is memoryview:
            return self._leaf(value, _describe)
        return self._container(value, {Mapping: self._struct, Set: self._sorted, Sequence: self._array}[kind])

    def _leaf(self, value, conversion):
        try:
            value = conversion(value)
        except _NOT_THE_VALUES:
            raise
        except Exception:               # a subclass or time zone that fails us
            value = _describe(value)
        self._spend(len(value) if isinstance(value, (str, bytes)) else 0)
        return value

    def _container(self, value, conversion):
        if id(value) in self._within:
            return CYCLIC
        if len(self._within) == NESTING:
            return TOO_DEEP
        self._within.add(id(value))
        try:
            return conversion(value)
        finally:
            self._within.remove(id(value))

    def _members(self, value, iterate):
        # A class of the task's own may fail to iterate, or never end to; what it gave is counted as it comes.
        members = []
        try:
            for member in iterate(value):
                self._spend(_VALUE_SIZE)
                members.append(member)
        except _NOT_THE_VALUES:
            raise
        except Exception:
            return None
        return members

    def _array(self, value):
        members = self._members(value, iter)
        if members is None:
            return _describe(value)
        return [self.convert(member) for member in members]

    def _sorted(self, value):
        array = self._array(value)
        try:
            return sorted(array) if isinstance(array, list) else array
        except TypeError:               # of mixed types
            return array

    def _dict(self, value):
        plainly = self._plainStruct(value)
        return self._struct(value) if plainly is None else plainly

    def _plainStruct(self, value):
        """Return a copy of a dict if nothing in it has to be converted, as in most that the front end makes, else None.
        """
        size = 0
        for name, member in value.items():
            class_ = type(member)
            if type(name) is not str or not isSendable(name):
                return None
            if class_ is str:
                if not isSendable(member):
                    return None
                size += len(member)
            elif not (member is None or class_ is bool or class_ is int and MININT <= member <= MAXINT
                      or class_ is float and math.isfinite(member)):
                return None
            size += _VALUE_SIZE + len(name)
        self._spend(size)
        return dict(value)

    def _struct(self, value):
        members = self._members(value, lambda mapping: ((key, value) for key, value in mapping.items()))
        if members is None:
            return _describe(value)
        struct = {}
        for key, member in members:
            name = self._name(key)
            while name in struct:       # 1 and '1': neither may hide the other
                name = f'{name} ({len(struct) + 1})'
            struct[name] = self.convert(member)
        return struct

    def _name(self, key):
        key = self.convert(key)
        if isinstance(key, datetime):
            return key.isoformat()
        return key if isinstance(key, str) else repr(key)


def plain(value, limit=RESULT_SIZE):
    """Return what XML-RPC can carry of a value, made of exactly the types of the right column; writes nothing.

    value -- anything.
    limit -- size in bytes, text and about 32 for each value.

    ================================================= ==========================================================
    a value (or one of a subclass)                    becomes
    ================================================= ==========================================================
    None, bool                                        itself
    int of 32 bits                                    int
    any other int                                     str of decimal digits; hexadecimal above 4300 of them
    float                                             float; str for 'nan', 'inf', '-inf'
    str                                               str; U+FFFD for what XML cannot carry: control characters
                                                      but tab, CR, LF; lone surrogates; U+FFFE and U+FFFF
    bytes, bytearray                                  bytes
    a file, a `StoredFile`                            bytes
    datetime                                          datetime without zone and microseconds; in UTC if it had a
                                                      zone
    date, time                                        str in ISO format
    timedelta                                         float, seconds
    Decimal, UUID                                     str
    list, tuple, any Sequence                         list
    set, frozenset, any Set                           list, sorted if the converted members can be
    dict, any Mapping                                 dict; a key that is no text becomes the text of its
                                                      conversion, with a number added if that is taken
    a container within itself                         the str in `CYCLIC`
    the 65th container within another                 the str in `TOO_DEEP`
    anything else, or what fails to be converted      str, '<Foo object>' for an instance of Foo
    ================================================= ==========================================================

    Raise `ResultTooLarge` for a value above the limit; the errors of a database that the value is loaded from pass.
    """
    return _Conversion(limit).convert(value)


def dumpResponse(value):
    """Return the response that carries `plain` of a value, as bytes of UTF-8.  Raise what that raises."""
    return dumpPlain(plain(value))
