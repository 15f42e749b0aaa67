"""Parses the XML of a call, and refuses what is no call or unclear; see `types.txt`."""
# SPDX-License-Identifier: ZPL-2.1
import codecs
import math
import re
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from xml.parsers import expat
from xmlrpc.client import Unmarshaller

from lovely.remotetask.xmlrpc.calls import NESTING
from lovely.remotetask.xmlrpc.faults import ParseError


_DOUBLE = re.compile(r'[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?')
_INT = re.compile(r'[+-]?[0-9]{1,20}')
# Digits of a number of any size, and of its exponent.
_DIGITS = 400
_LARGE_INT = re.compile(rf'[+-]?[0-9]{{1,{_DIGITS}}}')
_DECIMAL = re.compile(r'[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?')
# ISO 8601, basic and extended: a date, a time to the second, perhaps a fraction and the offset from UTC.
_DATETIME = re.compile(
    r'([0-9]{4})(-?)([0-9]{2})\2([0-9]{2})T([0-9]{2})(:?)([0-9]{2})\6([0-9]{2})(?:[.,]([0-9]{1,9}))?'
    r'(Z|[+-][0-9]{2}(?::?[0-9]{2})?)?')
_BASE64 = re.compile(r'[A-Za-z0-9+/\s]*(=\s*){0,2}')
_METHOD_NAME = re.compile(r'[A-Za-z0-9_.:/]{1,255}')
_BLANK = ' \t\r\n'

#: The encodings that a request may have.  Encodings such as UTF-7 are left out: they hide markup from programs that do
#: not know them.
ENCODINGS = ('utf-8', 'utf-16', 'utf-16le', 'utf-16be', 'us-ascii',
             *(f'iso-8859-{number}' for number in range(1, 17) if number != 12),
             *(f'windows-{number}' for number in range(1250, 1259)),
             'koi8-r', 'koi8-u', 'big5', 'euc-jp', 'euc-kr', 'gb2312', 'gbk', 'gb18030', 'shift_jis')
_ALIASES = {'utf8': 'utf-8', 'latin1': 'iso-8859-1', 'ascii': 'us-ascii'}
# Those that the parser knows by itself, and by these names; the others are decoded first.
_OF_THE_PARSER = ('utf-8', 'utf-16', 'utf-16le', 'utf-16be', 'us-ascii', 'iso-8859-1')
# UTF-32 before UTF-16, with which it begins as well.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, 'utf-8'), (codecs.BOM_UTF32_LE, 'utf-32'), (codecs.BOM_UTF32_BE, 'utf-32'),
    (codecs.BOM_UTF16_LE, 'utf-16le'), (codecs.BOM_UTF16_BE, 'utf-16be'))
_DECLARATION = re.compile(rb"""<\?xml\s[^>]*?\sencoding\s*=\s*["']([^"'>]*)""")
# Bytes in which a declaration is looked for.
_DECLARATION_SIZE = 1024


def _checkInt(text):
    text = text.strip(_BLANK)
    if not _INT.fullmatch(text) or not -2 ** 63 <= int(text) < 2 ** 63:
        raise ValueError('an integer of up to 64 bits was expected')
    return text


def _checkLargeInt(text):
    text = text.strip(_BLANK)
    # A conversion takes longer than linear.
    if not _LARGE_INT.fullmatch(text):
        raise ValueError(f'an integer of up to {_DIGITS} digits was expected')
    return text


def _checkDouble(text):
    text = text.strip(_BLANK)
    # They are enough for '%f' of the largest one; a conversion takes longer than linear.
    if len(text) > _DIGITS or not _DOUBLE.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError('a finite decimal number was expected')
    return text


def _checkDecimal(text):
    text = text.strip(_BLANK)
    if len(text) > _DIGITS or not _DECIMAL.fullmatch(text):
        raise ValueError('a decimal number was expected')
    return text


def _checkBoolean(text):
    text = text.strip(_BLANK)
    if text not in ('0', '1'):
        raise ValueError('0 or 1 was expected')
    return text


def _parseDatetime(text):
    found = _DATETIME.fullmatch(text.strip(_BLANK))
    if not found:
        raise ValueError('YYYYMMDDTHH:MM:SS or YYYY-MM-DDTHH:MM:SS was expected')
    year, _, month, day, hour, _, minute, second, fraction, zone = found.groups()
    moment = datetime(*map(int, (year, month, day, hour, minute, second)), int((fraction or '0').ljust(6, '0')[:6]))
    if zone is None:
        return moment
    if zone == 'Z':
        return moment.replace(tzinfo=timezone.utc)
    minutes = int(zone[-2:]) if len(zone) > 3 else 0
    if minutes > 59:
        raise ValueError('an offset has up to 59 minutes')
    offset = timedelta(hours=int(zone[1:3]), minutes=minutes)
    return moment.replace(tzinfo=timezone(-offset if zone[0] == '-' else offset)).astimezone(timezone.utc)


def _checkBase64(text):
    if not _BASE64.fullmatch(text):
        raise ValueError('base64 was expected')
    return text


def _checkNil(text):
    if text.strip(_BLANK):
        raise ValueError('nothing was expected')
    return text


def _checkMethodName(text):
    text = text.strip(_BLANK)
    if not _METHOD_NAME.fullmatch(text):
        raise ValueError('up to 255 letters, digits, underscores, dots, colons and slashes were expected')
    return text


# Elements that hold text, and what makes sure that it is what the element says.
_LEAVES = {
    'methodName': _checkMethodName,
    'name': str,
    'string': str,
    'i1': _checkInt,
    'i2': _checkInt,
    'i4': _checkInt,
    'int': _checkInt,
    'i8': _checkInt,
    'biginteger': _checkLargeInt,
    'bigdecimal': _checkDecimal,
    'boolean': _checkBoolean,
    'double': _checkDouble,
    'float': _checkDouble,
    'dateTime.iso8601': None,               # see `_parseDatetime`
    'base64': _checkBase64,
    'nil': _checkNil,
}
_TYPES = frozenset(_LEAVES) - {'methodName', 'name'} | {'array', 'struct'}
# What may follow within an element: its state -> the tags of elements that may come next -> its state then.  An element
# begins in the state that has its name.
_GRAMMAR = {
    '': {'methodCall': 'end'},                                                  # the document
    'methodCall': {'methodName': 'methodCall params', 'params': 'methodCall methodName'},
    'methodCall params': {'params': 'end'},
    'methodCall methodName': {'methodName': 'end'},
    'params': {'param': 'params', 'value': 'params'},                           # values also without <param>
    'param': {'value': 'end'},
    'value': dict.fromkeys(_TYPES, 'end'),
    'array': {'data': 'end', 'value': 'array values'},                          # and without <data>
    'array values': {'value': 'array values'},
    'data': {'value': 'data'},
    'struct': {'member': 'struct'},
    'member': {'name': 'member value'},
    'member value': {'value': 'end'},
}
# State -> the tag of an element that is missing if this is the last one.
_MISSING = {'methodCall': 'methodName', 'methodCall methodName': 'methodName', 'param': 'value', 'member': 'name',
            'member value': 'value'}
_KNOWN = frozenset((*_LEAVES, *_GRAMMAR, 'methodResponse', 'fault'))
#: Elements within each other: those of `NESTING` arrays or structs, and twice as many that nobody knows.
DEPTH = 10 * NESTING


class _Element:
    """An element that is being read, and its state in the grammar."""

    __slots__ = 'tag', 'state'

    def __init__(self, tag):
        self.tag = self.state = tag


class _CallReader:
    """Feeds the standard library's `Unmarshaller` only with elements and texts that have been checked.

    The `Unmarshaller` takes any elements in any order and ints of any size, and may raise any exception.  So this class
    checks each element and text first.  It refuses a call only if something of it would be lost, or its meaning is
    unclear; `types.txt` says what is refused.
    """

    def __init__(self):
        self._target = Unmarshaller(use_builtin_types=True)
        self._target.xml(None, None)            # text arrives decoded
        # From the document in: an `_Element`, and whether it is known.  One that is not counts as that around it.
        self._open = [(_Element(''), True)]
        self._text = []
        self._nesting = 0

    def read(self, data, encoding):
        parser = expat.ParserCreate(encoding)   # which then takes the place of what the document declares
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.Parse(data, True)
        if self._open[0][0].state == '':
            raise ParseError('a <methodCall> is expected')
        return self._target.getmethodname(), self._target.close()

    def _doctype(self, *declaration):
        # XML-RPC has no use for a DTD, and without one there are no entities to expand.
        raise ParseError('a document type declaration is not allowed in a call')

    def _start(self, tag, attributes):
        if self._text:
            self._endText()
        element = self._open[-1][0]
        name = _localName(tag) if ':' in tag else tag
        if name not in _KNOWN:
            self._startUnknown(tag, element)
            return
        state = _GRAMMAR.get(element.state, {}).get(name)
        if state is None:
            _refuse(tag, element)
        element.state = state
        if name in ('array', 'struct'):
            self._nesting += 1
            if self._nesting > NESTING:
                raise ParseError(f'arrays and structs are nested more than {NESTING} deep')
        self._open.append((_Element(name), True))
        self._target.start(name, attributes)

    def _startUnknown(self, tag, element):
        """Begin an extension of a client: what it wraps is read, what else it says is not."""
        if element.tag == 'value' or element.tag in _LEAVES:
            _refuse(tag, element)
        if len(self._open) > DEPTH:
            raise ParseError(f'elements are nested more than {DEPTH} deep')
        self._open.append((element, False))

    def _end(self, tag):
        element, isKnown = self._open[-1]
        if not isKnown:
            self._text.clear()
        elif element.tag in _LEAVES:
            self._endLeaf(element.tag)
        else:
            self._endNode(element)
        self._open.pop()

    def _endLeaf(self, tag):
        text = self._takeText()
        try:
            if tag == 'dateTime.iso8601':
                self._target.append(_parseDatetime(text))       # the target knows but one form of them
                return
            self._target.data(_LEAVES[tag](text))
        except (ValueError, OverflowError) as error:
            raise ParseError(f'the element <{tag}> holds {text[:40]!r}: {error}') from error
        try:
            self._target.end(tag)
        except ValueError as error:             # not all of base64 is complete
            raise ParseError(f'the element <{tag}> holds {text[:40]!r}, which is no such value') from error

    def _endNode(self, element):
        tag, state = element.tag, element.state
        if state == 'value':                    # text without a type is a string
            self._target.data(self._takeText())
        elif self._text:
            self._endText()
        if state in _MISSING:
            raise ParseError(f'an element <{_MISSING[state]}> is missing in <{tag}>')
        if tag in ('array', 'struct'):
            self._nesting -= 1
        self._target.end(tag)

    def _takeText(self):
        text = ''.join(self._text)
        self._text.clear()
        return text

    def _endText(self):
        """Refuse text that stands beside elements, where it would be lost, except in an element that nobody knows."""
        element, isKnown = self._open[-1]
        text = self._takeText().strip(_BLANK)
        if text and isKnown:
            raise ParseError(f'the text {text[:40]!r} is not allowed here in <{element.tag}>')


def _refuse(tag, element):
    within = f'in <{element.tag}>' if element.tag else 'as the document, a <methodCall> is expected'
    raise ParseError(f'the element <{tag[:40]}> is not allowed here {within}')


def _localName(tag):
    """Return the name of an element without the prefix that extensions have, as Apache's `ex:`."""
    name = tag.rpartition(':')[2]
    return 'dateTime.iso8601' if name == 'dateTime' else name


def encodingOf(data, charset=None):
    """Return the encoding of an XML document, a text in lower case, in the order of RFC 7303.

    data -- the document, bytes.
    charset -- the parameter of that name of its media type, None if there is none.

    A byte order mark comes first, then the charset, then what the document declares, then UTF-8.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return encoding
    if charset is not None:
        return charset.lower()
    if data.startswith((b'<\0', b'\0<')):
        return 'utf-16le' if data[1] == 0 else 'utf-16be'
    declared = _DECLARATION.match(data[:_DECLARATION_SIZE])
    return declared[1].decode('latin-1').lower() if declared else 'utf-8'


def parseCall(data, charset=None):
    """Return the method's name and the tuple of arguments of a call.

    data -- the body of the request, bytes.
    charset -- the parameter of that name of its Content-Type, None if there is none.

    Arguments are None, bool, int, float, str, bytes, datetime, Decimal, list and dict with text keys.  A datetime is in
    UTC if its text says the offset from that, else it has no time zone.  The extensions nil, i8 and those of Apache are
    understood; ints have up to 64 bits, doubles are finite.  Of struct members of the same name the last counts.

    Raise `ParseError` for anything else.
    """
    # Blank lines before the declaration, which XML does not allow, come of programs that print a bit too early.
    stripped = data.lstrip(_BLANK.encode())
    if stripped.startswith(b'<') and stripped[1:2] != b'\0':      # no UTF-16
        data = stripped
    encoding = encodingOf(data, charset)
    encoding = _ALIASES.get(encoding, encoding)
    if encoding not in ENCODINGS:
        raise ParseError(f'the encoding {encoding[:40]!r} is not supported: use utf-8, or another one that xmlrpc.txt '
                         f'names')
    try:
        if encoding not in _OF_THE_PARSER:
            data, encoding = data.decode(encoding).encode(), 'utf-8'
        return _CallReader().read(data, encoding)
    except UnicodeError as error:
        raise ParseError(f'the request is not text in {encoding}') from error
    except expat.ExpatError as error:
        raise ParseError(f'the request is not well-formed XML in {encoding}: {expat.ErrorString(error.code)}, '
                         f'line {error.lineno}, column {error.offset}') from error
