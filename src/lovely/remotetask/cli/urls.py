"""URLs of servers, by their addresses and configuration files."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.cli.failure import BAD_INPUT
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.config.settings import load


#: The front end of the default configuration.
DEFAULT_URL = 'http://127.0.0.1:8080/'

# Addresses for all interfaces of a machine -> one at which the machine reaches itself.
_LOOPBACK = {'0.0.0.0': '127.0.0.1', '::': '::1'}


def urlOf(address, scheme='http'):
    """Return the URL of a server at an address, a pair of host and port."""
    host, port = address
    return f'{scheme}://[{host}]:{port}/' if ':' in host else f'{scheme}://{host}:{port}/'


def localURL(address, scheme='http'):
    """Return the URL at which this machine reaches a server of its own, for the address at which the server listens."""
    host, port = address
    return urlOf((_LOOPBACK.get(host, host), port), scheme)


def frontendURL(path):
    """Return the URL of the front end that a configuration file is for.

    path -- of the file; None for the default configuration.

    Raise `ConfigurationError` for a mistake in the file, `CommandFailure` when it leaves the port open.
    """
    if path is None:
        return DEFAULT_URL
    frontend = load(path).frontend
    if not frontend.address[1]:
        raise CommandFailure(f'the front end of {path} takes any free port: give its --url', BAD_INPUT)
    return localURL(frontend.address, 'https' if frontend.certificate else 'http')
