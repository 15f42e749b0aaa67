"""TLS between a ZEO server and its clients: the section `<ssl>`, and why a client is refused."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import os
import ssl

import ZEO.zconfig


log = logging.getLogger('lovely.remotetask')

#: The keys of the section that name files.
_FILES = 'certificate', 'key', 'authenticate'


def clientContext(section):
    """Return the `ssl.SSLContext` of a client for its section `<ssl>`, and the name that the server must have, or None.

    Raise `ValueError` that names a file that is of no use: ZEO and ssl do not.
    """
    return _checked(section, False)


def serverContext(section):
    """Return the `ssl.SSLContext` of a server for its section `<ssl>`.  Raise `ValueError`, as `clientContext`."""
    context = _checked(section, True)
    context.sslobject_class = TellingSSLObject
    return context


def _checked(section, isServer):
    for key in _FILES:
        _checkFile(key, getattr(section, key))
    try:
        return ZEO.zconfig.ssl_config(section, isServer)
    except OSError as error:                    # those of ssl as well
        files = ', '.join(f'{key} {getattr(section, key)}' for key in _FILES if getattr(section, key) is not None)
        reason = getattr(error, 'reason', None) or error.strerror or error
        raise ValueError(f'cannot use {files}: {reason}') from error


def _checkFile(key, path):
    """Raise `ValueError` for a file that cannot be read; None, and a directory, are fine."""
    if path is None or os.path.isdir(path) or path == 'DYNAMIC':        # which ZEO takes for `authenticate`
        return
    try:
        open(path, 'rb').close()
    except OSError as error:
        raise ValueError(f'{key} {path}: {error.strerror}') from error


class TellingSSLObject(ssl.SSLObject):
    """The server's end of a connection, which tells the log and the client why the client is refused.

    When a handshake fails, asyncio says nothing, and drops what OpenSSL has to say to the client.
    """

    _isRefused = False

    def do_handshake(self):
        """See `ssl.SSLObject`."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            if self._isRefused:
                raise
            self._isRefused = True
            log.warning('a client of the database gets no connection: %s', error)
            # Now asyncio sends what is to be sent, and waits for the client to go, as long as for any handshake.
            raise ssl.SSLWantReadError() from error
