"""The access log: one line for each request, in Apache's combined format and a bit more."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import logging
import re
import time
from email.utils import formatdate

from lovely.remotetask.common.logs import about


logger = logging.getLogger('lovely.remotetask.access')

#: Characters that are logged of each thing that a client sent.
TEXT_SIZE = 1000

_MONTHS = 'Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec'.split()
# Characters that could break a line or a field of it, or that a terminal would obey.
_UNSAFE = re.compile(r'[^ !#-\[\]-~]')


@functools.lru_cache(maxsize=1)
def dates(second):
    """Return a time, whole UTC seconds, as in the header Date and as in the log."""
    now = time.gmtime(second)
    return (formatdate(second, usegmt=True),
            time.strftime(f'%d/{_MONTHS[now.tm_mon - 1]}/%Y:%H:%M:%S +0000', now))


def _safe(text):
    return _UNSAFE.sub(_escape, text[:TEXT_SIZE])


def _escape(found):
    character = found[0]
    return '\\' + character if character in '"\\' else character.encode('unicode_escape').decode('ascii')


def log(address, user, requestLine, status, size, headers, call, requestId, reason=None):
    """Write a line: address - user [time] "request line" status bytes "referer" "user agent" call id "reason".

    address -- the client's, text.
    user -- the user that it claims to be; None for none.
    requestLine -- as it came.
    status -- of the answer, an int.
    size -- of its body, in bytes.
    headers -- a mapping of names in lower case.
    call -- the XML-RPC method, with a colon and the fault's code if there was a fault; '-' if it is not known.
    requestId -- text; '-' if it has none.
    reason -- why the request was refused, a sentence; None if it was not.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    line = (f'{address} - {_safe(user).replace(" ", "_") if user else "-"} [{dates(int(time.time()))[1]}] '
            f'"{_safe(requestLine)}" {status} {size} "{_safe(headers.get("referer", "-"))}" '
            f'"{_safe(headers.get("user-agent", "-"))}" {call} {requestId}')
    logger.info('%s', line if reason is None else f'{line} "{_safe(reason)}"',
                extra=about('request.answered', address=address, user=user, status=status,
                            request=None if requestId == '-' else requestId))
