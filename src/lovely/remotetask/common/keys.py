"""Private keys of TLS, in files: without a password, and for nobody else to read."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import os
import ssl
import stat


log = logging.getLogger('lovely.remotetask')


def refusePassword():
    """Raise `ValueError`: for `SSLContext.load_cert_chain`, which would ask for a password at the terminal."""
    raise ValueError('the key has a password: give one without')


def reasonOf(error):
    """Return why files are of no use for TLS, a text; `error` is of ssl, of the system or of `refusePassword`."""
    if isinstance(error, ssl.SSLError) and error.reason is None and 'PEM lib' in str(error):
        return 'a certificate or a private key is missing there'
    return str(getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error)


def warnIfOpen(path):
    """Warn the log if all users of the machine can read a private key; `path` is that of a file which can be read."""
    if os.stat(path).st_mode & stat.S_IROTH:
        log.warning('all users of this machine can read the private key %s: "chmod o= %s" ends that', path, path)
