"""The body of a request: unpacked and read."""
# SPDX-License-Identifier: ZPL-2.1
import zlib
from http import HTTPStatus
from xmlrpc.client import gzip_decode

from lovely.remotetask.xmlrpc.head import HTTPException
from lovely.remotetask.xmlrpc.parser import parseCall


def parseEncoded(data, encoding, charset, limit):
    """Return what `parser.parseCall` gives for a body.

    data -- the body, bytes.
    encoding -- its Content-Encoding, in lower case.
    charset -- the parameter of that name of its media type, None if it has none.
    limit -- how many bytes it may have when it is unpacked.

    Raise `head.HTTPException` for another encoding, or for what is not encoded so, and `faults.ParseError`.
    """
    if encoding == 'gzip':
        try:
            data = gzip_decode(data, limit)
        except (ValueError, EOFError, OSError, zlib.error):
            raise HTTPException(HTTPStatus.BAD_REQUEST,
                                f'The body is no gzip data, or exceeds {limit} bytes') from None
    elif encoding != 'identity':
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, 'The Content-Encoding may be gzip or identity',
                            ('Accept-Encoding', 'gzip, identity'))
    return parseCall(data, charset)
