"""The head of an HTTP/1 request: read strictly, as RFC 9112 and RFC 9110 say, or refused."""
# SPDX-License-Identifier: ZPL-2.1
import re
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote


#: Bytes of a request line; a longer one is refused with 414.
LINE_SIZE = 16 * 1024

# An attacker can use two implementations that disagree about where a request ends, or what its headers are.  So nothing
# is guessed here: no line but with CR LF, no folded header, no blank before a colon.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rf'({_TOKEN}) ([!-~]+) HTTP/([0-9])\.([0-9])')
#: A line of the head, or a trailer: name and value.
HEADER = re.compile(rf'({_TOKEN}):([\t -~\x80-\xff]*)')
# A parameter of a media type; one that is malformed has no name.
_PARAMETER = re.compile(rf';(?:[ \t]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^;"]*))|[^;"]*)[ \t]*')
# The URL of a service, with all before the path as proxies send it.
_TARGET = re.compile(r'(?:https?://[^/?#]+(?=[/?]|\Z)|(?=/))([^?#]*)(?:\?[^#]*)?', re.IGNORECASE)
_LENGTH = re.compile('[0-9]{1,18}')
_HEAD_END = b'\r\n\r\n'


class HTTPException(Exception):
    """A request that is answered with an HTTP status other than 200, and no other is read from its connection."""

    def __init__(self, status, reason, *headers):
        """status -- an `HTTPStatus`.
        reason -- a sentence without its full stop, for the client and the access log.
        headers -- pairs of name and value to be sent as well.
        """
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


def bodyTooLarge(limit):
    """Return the `HTTPException` for a body of more bytes than the limit."""
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                         f'The body may have {limit} bytes (max-body-size); putUpload takes files in parts')


class Headers(dict):
    """Name in lower case -> value, text of the characters of Latin 1; of several with one name, joined by commas."""

    def words(self, name):
        """Return the set of the elements of a list, in lower case."""
        return {word.strip(' \t').lower() for word in self.get(name, '').split(',')} - {''}


class Head(NamedTuple):
    """What stands before the body of a request."""

    command: str
    target: str
    #: (1, 0) or (1, 1); later ones speak as the latter does.
    version: tuple
    headers: Headers

    @property
    def isLast(self):
        """Whether the connection is to end with the answer."""
        words = self.headers.words('connection')
        return 'close' in words or self.version == (1, 0) and 'keep-alive' not in words

    @property
    def expectsContinue(self):
        """Whether the client wants to hear that the body is welcome.

        Raise `HTTPException` if it expects anything else.
        """
        words = self.headers.words('expect')
        if words - {'100-continue'}:
            raise HTTPException(HTTPStatus.EXPECTATION_FAILED, 'The only expectation that is met is 100-continue')
        return bool(words) and self.version > (1, 0)

    @property
    def path(self):
        """The path of the URL, decoded; '/' for the usual XML-RPC path too, and '*' for the server as a whole."""
        if self.target == '*':
            return '*'
        path = _TARGET.fullmatch(self.target)[1]
        return '/' if path in ('', '/RPC2') else unquote(path)

    @property
    def charset(self):
        """The parameter charset of the Content-Type, in lower case; None without one.

        Raise `HTTPException` if there are several that differ.
        """
        content = self.headers.get('content-type', '')
        charsets, position = set(), content.find(';')
        while position >= 0 and (found := _PARAMETER.match(content, position)):
            name, quoted, plain = found.groups()
            if name and name.lower() == 'charset':
                charsets.add((plain.strip(' \t') if quoted is None else re.sub(r'\\(.)', r'\1', quoted)).lower())
            position = found.end()
        if len(charsets) > 1:
            raise HTTPException(HTTPStatus.BAD_REQUEST, 'The Content-Type has more than one charset')
        return charsets.pop() if charsets else None

    def bodyLength(self, limit):
        """Return the length of the body in bytes; None for one that comes in chunks.

        Raise `HTTPException` if it is not known, or above the limit.
        """
        length = self.headers.get('content-length')
        if 'transfer-encoding' in self.headers:
            self._checkCoding(length)
            return None
        if length is None:
            raise HTTPException(HTTPStatus.LENGTH_REQUIRED,
                                'A Content-Length or the Transfer-Encoding chunked is required')
        if not _LENGTH.fullmatch(length):
            raise HTTPException(HTTPStatus.BAD_REQUEST, 'The Content-Length is not one number')
        if int(length) > limit:
            raise bodyTooLarge(limit)
        return int(length)

    def _checkCoding(self, length):
        # Where two look at different ones of these headers, one sees a request where the other sees a body.
        if length is not None:
            raise HTTPException(HTTPStatus.BAD_REQUEST,
                                'There may be a Content-Length or a Transfer-Encoding, not both')
        if self.version == (1, 0):
            raise HTTPException(HTTPStatus.BAD_REQUEST, 'HTTP/1.0 has no Transfer-Encoding')
        *others, last = [coding.strip(' \t').lower() for coding in self.headers['transfer-encoding'].split(',')]
        if 'chunked' in others or '' in (*others, last):
            raise HTTPException(HTTPStatus.BAD_REQUEST, 'The Transfer-Encoding is malformed')
        if others or last != 'chunked':
            raise HTTPException(HTTPStatus.NOT_IMPLEMENTED, 'The only Transfer-Encoding that is supported is chunked')


def endOfHead(data, start):
    """Return where the body begins in the bytes of a request; None as long as the head is not complete.

    start -- bytes before it have been looked at.
    """
    found = data.find(_HEAD_END, max(0, start - len(_HEAD_END) + 1))
    return None if found < 0 else found + len(_HEAD_END)


def parseHead(data, most):
    """Return the `Head` of a request.

    data -- bytes, up to and with the empty line.
    most -- how many headers there may be.

    Raise `HTTPException` for what is not HTTP/1, or not quite.
    """
    requestLine, *lines = data.decode('latin-1').split('\r\n')[:-2]
    found = _REQUEST_LINE.fullmatch(requestLine)
    if not found:
        raise HTTPException(HTTPStatus.BAD_REQUEST, 'The request line is malformed')
    command, target, major, minor = found.groups()
    if major != '1':
        raise HTTPException(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, 'The version of HTTP must be 1.1 or 1.0')
    if len(lines) > most:
        raise HTTPException(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f'There may be {most} headers')
    headers = Headers()
    for line in lines:
        found = HEADER.fullmatch(line)
        if not found:
            raise HTTPException(HTTPStatus.BAD_REQUEST, 'A header is malformed')
        name, value = found[1].lower(), found[2].strip(' \t')
        headers[name] = f'{headers[name]}, {value}' if name in headers else value
    version = (1, min(int(minor), 1))
    host = headers.get('host')
    if host is None and version == (1, 1) or host is not None and ',' in host:
        raise HTTPException(HTTPStatus.BAD_REQUEST, 'There must be one Host header')
    if not _TARGET.fullmatch(target) and (command, target) != ('OPTIONS', '*'):
        raise HTTPException(HTTPStatus.BAD_REQUEST, 'The target of the request is no URL of a service')
    return Head(command, target, version, headers)
