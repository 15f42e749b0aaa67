"""Why no connection to a database server comes about: for the log, and for code that waits for one."""
# SPDX-License-Identifier: ZPL-2.1
import logging


log = logging.getLogger('lovely.remotetask')

#: The last warning, if there was one.
_last: list[str] = []


def complain(text, *arguments):
    """Warn the log of a server that cannot be used; the arguments are those of `Logger.warning`."""
    log.warning(text, *arguments)
    _last[:] = [text % arguments]


def lastComplaint():
    """Return what `complain` has said last in this process, a text; None if nothing."""
    return _last[0] if _last else None
