"""Who may call: authentication of users by HTTP Basic, what they may do, and how fast passwords can be tried.

After wrong passwords a client has to wait.  Failures are counted for the client's address, for the name, and for both
together.  Each count sinks by one in `FORGIVEN` seconds; from a limit on, the wait doubles with each failure, up to
`LONGEST_WAIT`.  So one client with an old password holds up neither others at its address, who may share it, nor the
same user elsewhere: the count for both together grows first, and keeps the other two low.  Where a user has logged in
before, from that address, only the failures of that name at that address count; and a password that was right within a
day is not asked about at all.  So nobody is locked out for good by failures of others, and users at work are not even
slowed down.  A request that comes too early is refused, and not counted.

A user who is limited to some tasks sees the jobs of these only: any other job is unknown to him.  Methods for jobs of
all tasks, such as `getJobs` or `clean`, are refused.
"""
# SPDX-License-Identifier: ZPL-2.1
import base64
import fnmatch
import ipaddress
import logging
import math
import os
import socket
import threading
import time
from collections import OrderedDict
from typing import NamedTuple

from lovely.remotetask import errors
from lovely.remotetask.common.logs import about
from lovely.remotetask.config.users import NAME_LENGTH
from lovely.remotetask.config.users import ROLES
from lovely.remotetask.execution.tasks import OWN
from lovely.remotetask.xmlrpc.faults import NotAllowed
from lovely.remotetask.xmlrpc.signature import NO_SERVICE


logger = logging.getLogger('lovely.remotetask')

#: How many failures in a short time cause no wait: of a name at an address; of an address; of a name.
PAIR_LIMIT, ADDRESS_LIMIT, NAME_LIMIT = 3, 20, 20
#: Seconds in which one failure is forgotten, and the longest wait in seconds.
FORGIVEN, LONGEST_WAIT = 30.0, 60.0
#: Counts that are kept; an attack from more addresses than that pushes out the oldest.
TABLE_SIZE = 10000
#: How many passwords are hashed at a time, so that processors have time for other work; and how many wait for that.
HASHES, QUEUE = max(1, (os.cpu_count() or 1) // 2), 32
#: Threads that `Authenticator.authenticate` can use: the last one refuses those that are too many.
PROOFS = HASHES + QUEUE + 1

#: The name of a user in a front end without users.
ANYBODY = 'anybody'

#: Methods without task or job that a user who is limited to some tasks may call: they tell of no job.
ABOUT_NO_JOB = frozenset(('getAvailableTasks', 'getProcessingHosts', 'getRelease', 'isProcessing', 'putUpload',
                          'dropUpload'))


class Unauthorized(errors.RemoteTaskError):
    """The request names no user, or the password is wrong."""


class Throttled(errors.RemoteTaskError):
    """Too many passwords were wrong, or are being checked; try again after `retryAfter` seconds, an int."""

    def __init__(self, retryAfter):
        super().__init__(f'too many passwords: try again in {retryAfter} s')
        self.retryAfter = retryAfter


class OthersJob(errors.UnknownJob):
    """The job is of a task that the caller must not know of.  That is logged; the caller is told that there is none."""


class Principal(NamedTuple):
    """Who calls, and what he may do."""

    name: str | None                # None: nobody was asked
    roles: frozenset                # of users.ROLES
    tasks: tuple | None = None      # patterns, None: all
    services: tuple | None = None   # patterns, None: all
    address: str = ''               # of the client, for the log

    @property
    def seesSecrets(self):
        """Whether the secrets in the inputs of jobs are not hidden from him."""
        return 'submit' in self.roles

    def check(self, methodName, method, path, arguments):
        """Raise `NotAllowed` for a call that this principal may not make; log that.

        methodName -- as it was called by.
        method -- its `signature.Method`.
        path -- of the service, decoded.
        arguments -- checked ones, of all the method's arguments.

        What jobs the ids stand for is not known here: see `guarded`.
        """
        if method.access == NO_SERVICE:
            return
        if method.role not in self.roles:
            self._refuse(f'{methodName} needs the role {method.role}')
        path = '/' + path.strip('/')            # as services are found
        if not _fits(path, self.services):
            self._refuse(f'you may not use the service {path[:100]!r}')
        if self.tasks is not None:
            self._checkTasks(methodName, _named(method, arguments))

    def _checkTasks(self, methodName, named):
        if named.keys() & {'jobid', 'jobids'} or methodName in ABOUT_NO_JOB:
            return
        tasks = [named.get('task')] if 'jobs' not in named else [job.get('task') for job in named['jobs']]
        for task in tasks:
            if task is None:
                self._refuse(f'{methodName} concerns the jobs of all tasks')
            if not isinstance(task, str) or not _fits(task, self.tasks):
                self._refuse(f'you may not use the task {str(task)[:100]!r}')

    def guarded(self, method, arguments, function):
        """Return a function like `function`, for a call that has been checked, to which other's jobs are unknown.

        method, arguments -- as for `check`.
        function -- called with the service and more; the one returned raises `OthersJob` instead, and logs it,
            if the arguments have the id of a job of a task that is not the principal's.  It raises `NotAllowed` for a
            change of a job that he may not change: see `checkChange`.
        """
        named = _named(method, arguments)
        jobids = [named['jobid']] if 'jobid' in named else named.get('jobids', ())
        changes = method.role != 'view' and 'manage' not in self.roles
        if not jobids or self.tasks is None and not changes:
            return function

        def guardedFunction(service, *rest):
            for jobid in jobids:
                job = service.jobs[jobid]
                if not _fits(job.task, self.tasks):
                    _logRefusal(self.address, self.name, f'the job {jobid} is of a task of others')
                    raise OthersJob(jobid)
                if changes:
                    self.checkChange(job)
            return function(service, *rest)

        return guardedFunction

    def checkChange(self, job):
        """Raise `NotAllowed`, and log it, for a job that does what only a manager may do, such as a change of many."""
        if job.task in OWN and 'manage' not in self.roles:
            self._refuse(f'to change the job {job.id} needs the role manage')

    def _refuse(self, reason):
        _logRefusal(self.address, self.name, reason)
        raise NotAllowed(reason)


def _named(method, arguments):
    return {argument.name: value for argument, value in zip(method.arguments, arguments)}


def _fits(text, patterns):
    return patterns is None or any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


def _logRefusal(address, name, reason, event='call.refused'):
    # A client can send any name: what a terminal or a reader of logs would obey is escaped.
    user = None if name is None else name[:NAME_LENGTH]
    logger.warning('refused %s, user %s: %s', address, '-' if user is None else ascii(user), reason,
                   extra=about(event, address=address, user=user))


# How fast passwords can be tried

def _parseAddress(text):
    address = ipaddress.ip_address(text)
    return getattr(address, 'ipv4_mapped', None) or address


def networkOf(address):
    """Return what counts as one client: an IPv4 address, or the upper half of an IPv6 address.

    address -- a text, as sockets give it.
    """
    parsed = _parseAddress(address)
    return str(parsed) if parsed.version == 4 else f'{int(parsed) >> 64:x}'


class Throttle:
    """Counts failures, and says how long to wait for them.  Takes a bounded amount of memory."""

    def __init__(self, size=TABLE_SIZE):
        """`size` is the number of counts, and also of places where users have logged in, that are kept."""
        self._size = size
        self._lock = threading.Lock()           # guards the two that follow
        self._counts = OrderedDict()            # key -> count and time of the last failure; the oldest first
        self._proven = OrderedDict()            # the keys of names at addresses where they have logged in -> None

    def statistics(self):
        """Return what is in memory as a dict of ints; from any thread.

        counted -- addresses, names, and pairs of them, of which failures are counted.
        proven -- pairs of address and name that have logged in.
        """
        return {'counted': len(self._counts), 'proven': len(self._proven)}

    def wait(self, address, name, now):
        """Return the seconds, a float, until a password may be tried; 0 for at once.

        address, name -- texts.
        now -- in seconds, of a clock that is always the same.
        """
        with self._lock:
            return max(self._waitFor(key, limit, now) for key, limit in self._keys(address, name))

    def failed(self, address, name, now):
        """Count a wrong password; arguments as for `wait`."""
        with self._lock:
            for key, _ in self._keys(address, name):
                self._counts[key] = 1 + self._count(key, now), now
                self._moveToEnd(self._counts, key)

    def succeeded(self, address, name):
        """Forget the failures of a name at an address, and that it may suffer from those of others."""
        with self._lock:
            pair = self._pair(address, name)
            self._counts.pop(pair, None)
            self._proven[pair] = None
            self._moveToEnd(self._proven, pair)

    def _moveToEnd(self, table, key):
        table.move_to_end(key)
        if len(table) > self._size:
            table.popitem(last=False)

    def _pair(self, address, name):
        return networkOf(address), name[:NAME_LENGTH]

    def _keys(self, address, name):
        """Return the pairs of key and limit that count."""
        pair = network, name = self._pair(address, name)
        if pair in self._proven:
            return [(pair, PAIR_LIMIT)]
        return [(pair, PAIR_LIMIT), ((network, None), ADDRESS_LIMIT), ((None, name), NAME_LIMIT)]

    def _count(self, key, now):
        count, last = self._counts.get(key, (0.0, now))
        return max(0.0, count - (now - last) / FORGIVEN)

    def _waitFor(self, key, limit, now):
        count, last = self._counts.get(key, (0.0, now))
        if count < limit:
            return 0.0
        return max(0.0, last + min(LONGEST_WAIT, 2.0 ** (count - limit)) - now)


class Authenticator:
    """Finds out who calls, by HTTP Basic authentication, or refuses the request."""

    def __init__(self, users=None, throttle=None):
        """Make an authenticator.

        users -- a `users.Users`; None to let everybody do everything.
        throttle -- the `Throttle` that counts failures, maybe that of another authenticator; None for a new one.
        """
        self._users = users
        self.throttle = throttle or Throttle()
        self._hashing = threading.BoundedSemaphore(HASHES)
        self._lock = threading.Lock()           # guards the two that follow
        self._checking = self._failed = 0       # passwords that are hashed or wait for it; those that were wrong

    def statistics(self):
        """Return what there is at the moment as a dict of ints; from any thread.

        checking -- passwords that are hashed, or wait for it: at most `HASHES` + `QUEUE`.
        failed -- passwords that were wrong, since the start.
        counted, proven -- see `Throttle.statistics`.
        """
        return {'checking': self._checking, 'failed': self._failed, **self.throttle.statistics()}

    def cached(self, authorization, address):
        """Return the `Principal` if that is quick; None if `authenticate` has to hash the password.

        The arguments, and what is raised, are those of `authenticate`.
        """
        return self._authenticate(authorization, address, lambda name, password: None)

    def authenticate(self, authorization, address):
        """Return the `Principal`.

        authorization -- the header of that name, None if the request has none.
        address -- of the client, a text.

        Raise `Unauthorized` or `Throttled`, and log that.
        """
        return self._authenticate(authorization, address,
                                  lambda name, password: self._verify(name, password, address))

    def _authenticate(self, authorization, address, verify):
        if self._users is None:
            return Principal(None, frozenset(ROLES), address=address)
        name = None
        try:
            name, password = _credentials(authorization)
            user = self._users.recall(name, password, time.monotonic()) or verify(name, password)
        except (Unauthorized, Throttled) as error:
            _logRefusal(address, name, str(error), 'login.refused')
            raise
        return user and Principal(user.name, frozenset(ROLES[:1 + ROLES.index(user.role)]), _limits(user.tasks),
                               _limits(user.services), address)

    def _verify(self, name, password, address):
        self._holdUp(name, address)
        with self._lock:
            if self._checking == HASHES + QUEUE:
                raise Throttled(1)
            self._checking += 1
        try:
            with self._hashing:
                # Several requests may have come with this password at a time: another one may have been answered
                # meanwhile.
                return self._users.recall(name, password, time.monotonic()) or self._hash(name, password, address)
        finally:
            with self._lock:
                self._checking -= 1

    def _hash(self, name, password, address):
        self._holdUp(name, address)
        user = self._users.verify(name, password, time.monotonic())
        if user is None:
            self.throttle.failed(address, name, time.monotonic())
            with self._lock:
                self._failed += 1
            raise Unauthorized('unknown user or wrong password')
        self.throttle.succeeded(address, name)
        return user

    def _holdUp(self, name, address):
        wait = self.throttle.wait(address, name, time.monotonic())
        if wait:
            raise Throttled(math.ceil(wait))


def _credentials(authorization):
    """Return name and password; raise `Unauthorized`."""
    if authorization is None:
        raise Unauthorized('a user and a password are required')
    scheme, _, encoded = authorization.strip().partition(' ')
    try:
        if scheme.lower() != 'basic':
            raise ValueError('another scheme')
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode('utf-8').partition(':')
        if not colon:
            raise ValueError('no password')
    except ValueError as error:             # of base64 and of UTF-8, too
        raise Unauthorized('the header Authorization is not of the scheme Basic') from error
    return name, password


def _limits(patterns):
    return None if '*' in patterns else patterns


# Where it is dangerous to listen

def checkExposure(address, hasUsers, hasCertificate):
    """Raise `errors.ConfigurationError` if other machines could reach a front end that is not protected.

    address -- the pair of host and port that it will listen at; names are looked up.
    hasUsers -- whether it asks for users.
    hasCertificate -- whether it speaks TLS.
    """
    missing = [key for key, given in (('users', hasUsers), ('certificate', hasCertificate)) if not given]
    if missing and not _isLoopback(address[0]):
        raise errors.ConfigurationError(
            f'the front end would be open to other machines at {address[0]}:{address[1]}: add {" and ".join(missing)} '
            'to <frontend>, or "allow-insecure on" if you want that, or listen on 127.0.0.1')


def _isLoopback(host):
    try:
        found = socket.getaddrinfo(host or None, None, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    return all(_parseAddress(info[4][0]).is_loopback for info in found)
