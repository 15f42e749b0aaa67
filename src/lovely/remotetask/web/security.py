"""Who the caller is, whether a change comes from one of our own pages, and what browsers are told to refuse."""
# SPDX-License-Identifier: ZPL-2.1
import hmac
import ipaddress
import logging
import secrets
import urllib.parse

from lovely.remotetask.common.logs import about
from lovely.remotetask.config.users import NAME_LENGTH
from lovely.remotetask.config.users import Users
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.xmlrpc.access import Authenticator


log = logging.getLogger('lovely.remotetask')

#: What each answer says: nothing but our own files is loaded or run, nobody may frame a page, or guess types.
HEADERS = (
    ('Content-Security-Policy',
     "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
     "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"),
    ('X-Content-Type-Options', 'nosniff'),
    ('X-Frame-Options', 'DENY'),
    # With "no-referrer" browsers would send no origin with a form.
    ('Referrer-Policy', 'same-origin'),
    ('Cross-Origin-Opener-Policy', 'same-origin'),
    ('Cross-Origin-Resource-Policy', 'same-origin'),
)

#: Headers by which proxies say that they stand in front of us.
FORWARDED = ('HTTP_FORWARDED', 'HTTP_X_FORWARDED_FOR', 'HTTP_X_FORWARDED_HOST', 'HTTP_VIA', 'HTTP_X_REAL_IP')


class Forged(RemoteTaskError):
    """The change does not come from one of our own pages; load the page again, and press the button there."""


class NotLocal(RemoteTaskError):
    """Without users, only requests from this machine are answered; name a users file, or ask from this machine."""


class Guard:
    """Says who the caller is, and whether a change comes from him."""

    def __init__(self, users=None, identify=None):
        """Give one of the two, or none: then only requests from this machine are answered, and may do everything.

        users -- the path of a users file, a `config.users.Users`, or a `xmlrpc.access.Authenticator`.
        identify -- of an application with a log-in of its own: called with the WSGI environ, it returns a
            `xmlrpc.access.Principal`, or raises `xmlrpc.access.Unauthorized`.

        Raise `errors.ConfigurationError` for a file that cannot be read or has a mistake, ValueError for both.
        """
        if users is not None and identify is not None:
            raise ValueError('identify: give either this or users, not both')
        self._isOpen = users is None and identify is None
        if isinstance(users, str):
            users = Users(users)
        self._authenticator = users if isinstance(users, Authenticator) else Authenticator(users)
        self._identify = identify
        self._key = secrets.token_bytes(32)

    @property
    def asksForPassword(self):
        """Whether users have to say who they are, by HTTP Basic authentication."""
        return not self._isOpen and self._identify is None

    def isAtHome(self, request):
        """Return whether a `webob.Request` may see all without a password: there are no users, and it is local."""
        return self._isOpen and isLocal(request)

    def callerOf(self, request):
        """Return the `xmlrpc.access.Principal` of a `webob.Request`.

        Raise `xmlrpc.access.Unauthorized` or `xmlrpc.access.Throttled`, or `NotLocal`.
        """
        if self._identify is not None:
            return self._identify(request.environ)
        address = request.remote_addr or ''
        if self._isOpen and not isLocal(request):
            log.warning('refused %s: the pages have no users, and answer this machine only', address,
                        extra=about('login.refused', address=address))
            raise NotLocal('there are no users: the pages answer only requests from this machine, to localhost or '
                           '127.0.0.1, that come by no proxy')
        return self._authenticator.authenticate(request.headers.get('Authorization'), address)

    def tokenOf(self, caller):
        """Return the token that forms carry for this `Principal`, a text; it is good as long as this process lives."""
        return hmac.digest(self._key, repr(caller.name).encode(), 'sha256').hex()

    def tagOf(self, caller):
        """Return a text that differs for each `Principal` and his rights, and reveals nothing of them."""
        return hmac.digest(self._key, repr(caller).encode(), 'sha256').hex()[:16]

    def checkChange(self, request, caller, token):
        """Raise `Forged`, and log it, unless a change comes from one of our pages, as this caller has it.

        request -- the `webob.Request`, a POST.
        token -- what the form had as its token; None if there was none.
        """
        reason = None
        site, origin = request.headers.get('Sec-Fetch-Site'), request.headers.get('Origin')
        if site is not None and site != 'same-origin':
            reason = 'it comes from another site'
        elif origin is not None and not _isOwn(origin, request.headers.get('Host', '')):
            reason = 'it comes from another origin'
        elif site is None and origin is None:
            reason = 'it does not say where it comes from'
        elif token is None or not hmac.compare_digest(token.encode(), self.tokenOf(caller).encode()):
            reason = 'its token is not valid any more'
        if reason is not None:
            name = None if caller.name is None else caller.name[:NAME_LENGTH]
            log.warning('refused a change from %s, user %s: %s', request.remote_addr,
                        '-' if name is None else ascii(name), reason,
                        extra=about('change.refused', address=request.remote_addr, user=name))
            raise Forged(f'nothing was changed: {reason}.  Load the page again, and press the button there.')


def _isOwn(origin, host):
    try:
        parts = urllib.parse.urlsplit(origin)
    except ValueError:
        return False
    usual = {'http': ':80', 'https': ':443'}.get(parts.scheme)
    if usual is None or not host:
        return False
    return parts.netloc.lower().removesuffix(usual) == host.lower().removesuffix(usual)


def isLocal(request):
    """Return whether a request comes from this machine, by no proxy, and asks for this machine by a name of its own.

    The latter keeps others' pages out whose names were made to lead here, after they had been loaded.
    """
    try:
        host = urllib.parse.urlsplit('//' + request.headers.get('Host', '')).hostname or ''
        address = ipaddress.ip_address(request.remote_addr or '')
    except ValueError:
        return False
    address = getattr(address, 'ipv4_mapped', None) or address
    return address.is_loopback and (host == 'localhost' or _isLoopback(host)) \
        and not any(name in request.environ for name in FORWARDED)


def _isLoopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
