"""The head of an HTTP/1.1 response."""
# SPDX-License-Identifier: ZPL-2.1
import time

from lovely.remotetask.xmlrpc import accesslog


def responseHead(status, type, length, requestId, headers):
    """Return the head of a response, bytes, with the empty line at its end.

    status -- an `HTTPStatus`.
    type -- the media type of the body, which is in UTF-8.
    length -- of the body, in bytes.
    requestId -- text that finds the request in the log.
    headers -- pairs of name and value to be sent as well.
    """
    lines = [f'HTTP/1.1 {status.value} {status.phrase}', 'Server: lovely.remotetask',        # and not which Python
             f'Date: {accesslog.dates(int(time.time()))[0]}', f'X-Request-ID: {requestId}',
             f'Content-Type: {type}; charset=utf-8', f'Content-Length: {length}']
    lines += (f'{name}: {value}' for name, value in headers)
    return '\r\n'.join([*lines, '', '']).encode('ascii')
