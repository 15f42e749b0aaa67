"""Plain data to XML: calls, responses and faults, as the standard library writes them, and safely."""
# SPDX-License-Identifier: ZPL-2.1
import math
import re
from datetime import datetime
from datetime import timezone
from xmlrpc.client import WRAPPERS
from xmlrpc.client import Fault
from xmlrpc.client import Marshaller
from xmlrpc.client import dumps
from xmlrpc.client import escape

from lovely.remotetask.common.checks import shown
from lovely.remotetask.xmlrpc.calls import NESTING
from lovely.remotetask.xmlrpc.calls import SENTENCE_SIZE


# All that XML 1.0 cannot carry: most control characters, halves of surrogate pairs, two that are no characters.
_UNSENDABLE = re.compile('[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')


def isSendable(text):
    """Return whether XML can carry a text as it is."""
    return text.isprintable() or not _UNSENDABLE.search(text)


def sendable(text):
    """Return a text, with U+FFFD for what XML cannot carry."""
    return _UNSENDABLE.sub('\N{REPLACEMENT CHARACTER}', str.__str__(text))


def _encode(text):
    # A parser turns a carriage return into a line feed unless it is written as a reference.
    return text.replace('\r', '&#13;').encode('utf-8')


class _CallMarshaller(Marshaller):
    """Loses nothing of a value that it takes.

    It keeps the moment that a datetime means: the standard library leaves out its zone and what is below a second.  It
    refuses objects, as open files, of which the standard library would send the attributes instead.  And it refuses
    what no front end could read: numbers that are not finite, and characters that XML cannot carry.
    """

    dispatch = dict(Marshaller.dispatch)

    def dump_datetime(self, value, write):
        zone = ''
        if value.utcoffset() is not None:
            value, zone = value.astimezone(timezone.utc).replace(tzinfo=None), 'Z'
        text = value.replace(tzinfo=None).isoformat().replace('-', '', 2)
        write(f'<value><dateTime.iso8601>{text}{zone}</dateTime.iso8601></value>\n')

    dispatch[datetime] = dump_datetime

    def dump_double(self, value, write):
        if not math.isfinite(value):
            raise ValueError('the number is not finite')
        super().dump_double(value, write)

    dispatch[float] = dump_double

    def dump_unicode(self, value, write):
        if not isSendable(value):
            raise ValueError('the text has a character that XML cannot carry')
        super().dump_unicode(value, write)

    dispatch[str] = dump_unicode

    def dump_struct(self, value, write):
        if not all(isSendable(key) for key in value if isinstance(key, str)):
            raise ValueError('a key has a character that XML cannot carry')
        super().dump_struct(value, write)

    dispatch[dict] = dump_struct

    def dump_instance(self, value, write):
        if type(value) not in WRAPPERS:
            raise TypeError(f'cannot marshal {type(value)} objects')
        super().dump_instance(value, write)

    dispatch['_arbitrary_instance'] = dump_instance


def dumpCall(method, arguments):
    """Return the request that calls a method, as bytes of UTF-8.

    method -- its name.
    arguments -- a tuple.

    Raise `TypeError`, `ValueError`, `OverflowError` or `RecursionError` for what XML-RPC cannot carry.
    """
    params = _CallMarshaller('utf-8', allow_none=True).dumps(arguments)
    return _encode(f"<?xml version='1.0'?>\n<methodCall>\n<methodName>{escape(method)}</methodName>\n{params}"
                   '</methodCall>\n')


def misfit(value, place, depth=NESTING):
    """Return what of a value cannot be sent: a sentence that names its place; None if all of it can.

    value -- an argument of a call.
    place -- what it is called.
    """
    kind = type(value)
    if kind not in (dict, list, tuple):
        return _misfitOf(value, place)
    if not depth:
        return f'{place} is nested more than {NESTING} deep'
    for key, item in value.items() if kind is dict else enumerate(value):
        if kind is dict and type(key) is not str:
            return f'{place}: the key {shown(key)} is no str'
        if kind is dict and not isSendable(key):
            return f'{place}: the key is {shown(key)}, which XML-RPC cannot carry'
        if (found := misfit(item, f'{place}[{shown(key)}]', depth - 1)) is not None:
            return found
    return None


def _misfitOf(value, place):
    """Return a sentence about a value that is no container, or None."""
    try:
        _encode(_CallMarshaller('utf-8', allow_none=True).dumps((value,)))
        return None
    except OverflowError:
        return f'{place} is {shown(value)}, and an int of XML-RPC has 32 bits'
    except Exception:
        what = shown(value) if isinstance(value, (str, float)) else f'of the type {type(value).__name__}'
        hint = '; hand over File(...) of lovely.remotetask.client' if hasattr(value, 'read') else ''
        return f'{place} is {what}, which XML-RPC cannot carry{hint}'


def dumpPlain(value):
    """Return the response that carries a value, as bytes of UTF-8.

    value -- what `results.plain` returns.
    """
    return _encode(dumps((value,), methodresponse=True, allow_none=True))


def dumpFault(code, sentence):
    """Return the response that carries a fault, as bytes of UTF-8.

    code -- an int of 32 bits.
    sentence -- text, cut at `SENTENCE_SIZE` characters.
    """
    return _encode(dumps(Fault(code, sendable(sentence)[:SENTENCE_SIZE])))
