"""TLS between a ZEO server and its clients: the section `<ssl>`, and why a client is refused."""
# SPDX-License-Identifier: ZPL-2.1
import contextvars
import logging
import os
import ssl

import ZEO.zconfig

from lovely.remotetask.common.internals import loopThatTells
from lovely.remotetask.common.keys import reasonOf
from lovely.remotetask.common.keys import refusePassword
from lovely.remotetask.common.keys import warnIfOpen
from lovely.remotetask.database.complaints import complain


log = logging.getLogger('lovely.remotetask')

#: The address, as asyncio has it, of the client whose handshake runs; None where it is not known.
_peer = contextvars.ContextVar('peer', default=None)

#: The keys of the section that name files.
_FILES = 'certificate', 'key', 'authenticate'


def clientContext(section):
    """Return the `ssl.SSLContext` of a client for its section `<ssl>`, and the name that the server must have, or None.

    Raise `ValueError` that names a file that is of no use: ZEO and ssl do not.
    """
    context, name = _checked(section, False)
    context.sslobject_class = ComplainingSSLObject
    return context, name


def serverContext(section):
    """Return the `ssl.SSLContext` of a server for its section `<ssl>`.  Raise `ValueError`, as `clientContext`."""
    context = _checked(section, True)
    context.sslobject_class = TellingSSLObject
    return context


def _checked(section, isServer):
    for key in _FILES:
        _checkFile(key, getattr(section, key))
    try:
        _checkPassword(section)
        context = ZEO.zconfig.ssl_config(section, isServer)
    # OSError: those of ssl as well; the others: of the function for the password.
    except (OSError, ValueError, ImportError, AttributeError, TypeError) as error:
        files = ', '.join(f'{key} {getattr(section, key)}' for key in _FILES if getattr(section, key) is not None)
        raise ValueError(f'cannot use {files}: {reasonOf(error)}') from error
    if section.certificate is not None:
        warnIfOpen(section.key or section.certificate)
    return context


def _checkFile(key, path):
    """Raise `ValueError` for a file that cannot be read; None, and a directory, are fine."""
    if path is None or os.path.isdir(path) or path == 'DYNAMIC':        # which ZEO takes for `authenticate`
        return
    try:
        open(path, 'rb').close()
    except OSError as error:
        raise ValueError(f'{key} {path}: {error.strerror}') from error


def _checkPassword(section):
    """Raise `ValueError` for a key whose password nobody gives."""
    if section.certificate is not None and not section.password_function:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(section.certificate, section.key, refusePassword)


class ComplainingSSLObject(ssl.SSLObject):
    """The client's end of a connection, which says why none comes about: ZEO tells the log at level INFO only."""

    def do_handshake(self):
        """See `ssl.SSLObject`."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLCertVerificationError as error:
            complain('the certificate of the database server %s is not accepted: %s', self.server_hostname,
                     error.verify_message)
            raise
        except ssl.SSLError as error:
            complain('the database server %s gets no connection by TLS: %s', self.server_hostname,
                     error.reason or error)
            raise


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
            log.warning('a client of the database at %s gets no connection: %s', _peerText(), error)
            # Now asyncio sends what is to be sent, and waits for the client to go, as long as for any handshake.
            raise ssl.SSLWantReadError() from error


def newServerLoop():
    """Return an event loop for a server: it notes whose handshake runs, for the log."""
    return loopThatTells(_peer.set)


def _peerText():
    peer = _peer.get()
    return f'{peer[0]} (port {peer[1]})' if isinstance(peer, tuple) else 'an unknown address'
