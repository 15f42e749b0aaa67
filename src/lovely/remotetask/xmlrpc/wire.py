"""Plain data to XML: calls, responses and faults, as the standard library writes them, and safely."""
# SPDX-License-Identifier: ZPL-2.1
import re
from datetime import datetime
from datetime import timezone
from xmlrpc.client import Fault
from xmlrpc.client import Marshaller
from xmlrpc.client import dumps
from xmlrpc.client import escape

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
    """Keeps the moment that a datetime means: the standard library leaves out its zone and what is below a second."""

    dispatch = dict(Marshaller.dispatch)

    def dump_datetime(self, value, write):
        zone = ''
        if value.utcoffset() is not None:
            value, zone = value.astimezone(timezone.utc).replace(tzinfo=None), 'Z'
        text = value.replace(tzinfo=None).isoformat().replace('-', '', 2)
        write(f'<value><dateTime.iso8601>{text}{zone}</dateTime.iso8601></value>\n')

    dispatch[datetime] = dump_datetime


def dumpCall(method, arguments):
    """Return the request that calls a method, as bytes of UTF-8.

    method -- its name.
    arguments -- a tuple.

    Raise `TypeError`, `ValueError`, `OverflowError` or `RecursionError` for what XML-RPC cannot carry.
    """
    params = _CallMarshaller('utf-8', allow_none=True).dumps(arguments)
    return _encode(f"<?xml version='1.0'?>\n<methodCall>\n<methodName>{escape(method)}</methodName>\n{params}"
                   '</methodCall>\n')


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
