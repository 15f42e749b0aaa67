"""TLS for the front end: a certificate that is read again when it was renewed."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import ssl

from lovely.remotetask.common.keys import reasonOf
from lovely.remotetask.common.keys import refusePassword
from lovely.remotetask.common.keys import warnIfOpen
from lovely.remotetask.config.users import fileSignature
from lovely.remotetask.errors import ConfigurationError


logger = logging.getLogger('lovely.remotetask')


class Certificate:
    """Makes the server's end of TLS connections, of version 1.2 or later."""

    def __init__(self, path, keyPath=None):
        """Read the files; raise `ConfigurationError`.

        path -- of a file in the format PEM: the certificate, and those that lead from it to a known authority.
        keyPath -- of the file with its private key, which is not encrypted; None if that stands in the same file.

        When they were changed they are read again.  Files that do not fit then, or cannot be read, change nothing; that
        is logged, once.  They are tried again: those that do not fit when they are changed, the others with the next
        connection.
        """
        self._paths = path, keyPath or path
        self._signatures = self._look()
        self._complaint = None                  # what was logged last of files that are of no use
        self._context = self._load()

    def _look(self):
        return [fileSignature(path) for path in self._paths]

    def _load(self):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(*self._paths, refusePassword)
            warnIfOpen(self._paths[1])
        except (OSError, ValueError) as error:
            raise ConfigurationError(f'cannot use the certificate {self._paths[0]} with the key {self._paths[1]}: '
                                     f'{reasonOf(error)}') from error
        return context

    def context(self):
        """Return the `ssl.SSLContext` for the next connection.  Only one thread may call this."""
        signatures = self._look()
        if signatures != self._signatures:
            try:
                self._context, self._signatures, self._complaint = self._load(), signatures, None
            except ConfigurationError as error:
                if isinstance(error.__cause__, (ssl.SSLError, ValueError)):
                    self._signatures = signatures
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    logger.error('the certificate stays as it was: %s', error)
        return self._context
