"""The users file: who may call a front end, by which password, and what for.

A line for each user, with five fields divided by colons; space around a field does not count::

    # name:hash:role:tasks:services
    ann:{BCRYPT}$2b$12$...:manage:*:*
    films:{BCRYPT}$2b$12$...:submit:avi2*, mp4:/site1/*

Empty lines and those that begin with # say nothing.

name -- up to 100 printable characters without spaces and colons.
hash -- of the password, as the scheme BCRYPT of `zope.password` makes it.
role -- view, submit or manage: `ROLES`.
tasks -- patterns for the names of the tasks whose jobs the user may add, see and change, divided by commas.
services -- the same for the paths of task services, as in URLs; the default service is /.

A pattern is one of `fnmatch`; upper and lower case differ.  A * also fits a slash, and a ? the comma or colon that a
field cannot hold.  A * alone fits all, and has to be written.
"""
# SPDX-License-Identifier: ZPL-2.1
import fcntl
import hmac
import logging
import os
import re
import secrets
import stat
import tempfile
import threading
from typing import NamedTuple

from zope.password.password import BCRYPTPasswordManager

from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import RemoteTaskError


logger = logging.getLogger('lovely.remotetask')

#: What users may do.  Each role may all that those before it may.  View: look at jobs and their results; submit: add
#: jobs, start, change, retry and cancel single ones; manage: what concerns many jobs, and processing itself.
ROLES = ('view', 'submit', 'manage')
#: Characters of a name at most.
NAME_LENGTH = 100
#: Bytes of a password, in UTF-8; bcrypt takes no more.
SHORTEST_PASSWORD, LONGEST_PASSWORD = 8, 72
#: Seconds after its last use for which a right password is not hashed again: a client that calls once a day must not
#: wait because somebody else guesses at its name.
REMEMBERED = 86400.0

_FIELDS = 'name:hash:role:tasks:services'
# The cost in it is a power of two, and limited so that a front end stays of use.
_HASH = re.compile(r'\{BCRYPT\}\$2[aby]\$1[0-4]\$[./A-Za-z0-9]{53}')
_hashing = BCRYPTPasswordManager()


class User(NamedTuple):
    """A line of the file."""

    name: str
    hash: str
    role: str
    tasks: tuple = ('*',)           # patterns
    services: tuple = ('*',)        # patterns


# Reading

def parseUsers(text, path):
    """Return the users in the text of a file: name -> `User`.  Raise `ConfigurationError` with the `path` and the line.
    """
    users = {}
    for number, line in enumerate(text.split('\n'), 1):
        try:
            user = _parseLine(line)
            if user is not None and user.name in users:
                raise ValueError(f'there is a user {user.name!r} above')
        except ValueError as error:
            raise ConfigurationError(f'{path}, line {number}: {error}') from None
        if user is not None:
            users[user.name] = user
    return users


def _parseLine(line):
    """Return the user of a line, or None if it has none; raise ValueError."""
    line = line.strip()
    if not line or line.startswith('#'):
        return None
    fields = [field.strip() for field in line.split(':')]
    if len(fields) != 5:
        raise ValueError(f'a line has five fields, {_FIELDS}, and not {len(fields)}')
    name, hash, role, tasks, services = fields
    if not _HASH.fullmatch(hash):               # and not what it is: it may be the password itself
        raise ValueError('the second field is no hash by BCRYPT; "remotetask user add" makes one')
    user = User(name, hash, role, splitPatterns(tasks), splitPatterns(services))
    checkUser(user)
    return user


def splitPatterns(text):
    """Return the patterns in a field, a tuple."""
    return tuple(pattern.strip() for pattern in text.split(','))


def checkUser(user):
    """Raise ValueError, with a sentence, for a `User` that a line cannot hold, whatever his hash."""
    name = user.name
    if not name or len(name) > NAME_LENGTH or not name.isprintable() or ' ' in name or ':' in name or name[0] == '#':
        raise ValueError(f'{name[:NAME_LENGTH]!r} is not a name: write up to {NAME_LENGTH} characters without spaces '
                         'and colons')
    if user.role not in ROLES:
        raise ValueError(f'{user.role!r} is not a role: write one of {", ".join(ROLES)}')
    for pattern in user.tasks + user.services:
        if not pattern or not pattern.isprintable() or ':' in pattern or ',' in pattern or pattern.strip() != pattern:
            raise ValueError(f'{pattern!r} is not a pattern: write some for tasks and for services, or * for all')


def readUsers(path):
    """Return the users in a file: name -> `User`.  Raise `ConfigurationError`."""
    return parseUsers(_readText(path), path)


def _readText(path):
    try:
        with open(path, 'rb') as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except OSError as error:
        raise ConfigurationError(f'{path}: cannot read the users file: {error.strerror}') from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning('%s is open to other users of this machine: chmod 600 it', path)
    try:
        return content.decode('utf-8')
    except UnicodeDecodeError as error:
        line = 1 + content.count(b'\n', 0, error.start)
        raise ConfigurationError(f'{path}, line {line}: the file is not encoded in UTF-8') from error


def fileSignature(path):
    """Return what is different when a file was changed or replaced; None when it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class _Proof(NamedTuple):
    """A password that was right."""

    hash: str               # the one that it fits
    digest: bytes           # of the password
    until: float            # how long it is remembered


class Users:
    """The users in a file, which is read again when it has changed.

    The hashes are slow on purpose, and every request brings its password along.  So one that was right is remembered
    as long as the user's hash stays the same, as a digest with a key that only this process has.  All else that is
    changed counts at once.
    """

    def __init__(self, path):
        """Read the file; raise `ConfigurationError`.

        A file that has gone, cannot be read or has a mistake later on changes nothing, and is logged as an error, once:
        those who were users before it stay so.  It is tried again: one with a mistake when it is changed, any other
        with the next request.
        """
        self._path = path
        self._key = secrets.token_bytes(32)
        self._reading = threading.Lock()
        self._signature = fileSignature(path)
        self._complaint = None      # what was logged last of a file that is of no use
        self._users = readUsers(path)
        self._proofs = {}           # name -> `_Proof`

    def _current(self):
        signature = fileSignature(self._path)
        if signature != self._signature:
            with self._reading:
                if signature != self._signature:
                    self._read(signature)
        return self._users

    def _read(self, signature):
        # The signature is that of before it is read, lest a change meanwhile is missed.
        try:
            self._users, self._signature, self._complaint = readUsers(self._path), signature, None
            logger.info('%s was read again', self._path)
        except ConfigurationError as error:
            if not isinstance(error.__cause__, OSError):
                self._signature = signature
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.error('the users stay as they were: %s', error)

    def recall(self, name, password, now):
        """Return the `User` if this very password was found to be right lately, else None.

        name, password -- texts.
        now -- in seconds, of a clock that is always the same.
        """
        user, proof = self._current().get(name), self._proofs.get(name)
        if (user is None or proof is None or proof.hash != user.hash or now >= proof.until
                or not hmac.compare_digest(proof.digest, self._digest(password))):
            return None
        self._proofs[name] = proof._replace(until=now + REMEMBERED)
        return user

    def verify(self, name, password, now):
        """Return the `User` if the password is right, else None; arguments as for `recall`.

        That takes much time, and as much for an unknown name.
        """
        users = self._current()
        user = users.get(name)
        hashed = user or next(iter(users.values()), None)
        isRight = hashed is not None and _hashing.checkPassword(hashed.hash.encode('ascii'), password)
        if user is None or not isRight:
            return None
        user = self._current().get(name)        # the file may have changed meanwhile
        if user is None or user.hash != hashed.hash:
            return None
        for other, proof in list(self._proofs.items()):
            if now >= proof.until:
                self._proofs.pop(other, None)
        self._proofs[name] = _Proof(user.hash, self._digest(password), now + REMEMBERED)
        return user

    def _digest(self, password):
        return hmac.digest(self._key, password.encode('utf-8'), 'sha256')


# Writing

def hashPassword(password):
    """Return the hash of a password, both texts.  Raise ValueError, with a sentence, for one that will not do."""
    size = len(password.encode('utf-8'))
    if not SHORTEST_PASSWORD <= size <= LONGEST_PASSWORD or not password.isprintable():
        raise ValueError(f'a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} bytes, all of printable characters')
    return _hashing.encodePassword(password).decode('ascii')


def addUser(path, user, replace=False):
    """Write a `User` into a file, which is made if it is missing.

    replace -- whether to take the place of a user of that name.

    Raise ValueError for what `checkUser` refuses, `RemoteTaskError` when there is such a user and it is not to be
    replaced, `ConfigurationError` when the file cannot be read or written or has a mistake.
    """
    checkUser(user)
    line = _lineOf(user)

    def add(lines, index):
        if index is None:
            return lines + [line]
        if not replace:
            raise RemoteTaskError(f'there is a user {user.name} already')
        return lines[:index] + [line] + lines[index + 1:]

    _edit(path, user.name, add)


def changeUser(path, name, **changes):
    """Change fields of the user of a name, and leave the others as they are.

    path -- of the users file.
    changes -- new values of `User.hash`, `role`, `tasks` or `services`.

    Raise ValueError for what `checkUser` refuses, `RemoteTaskError` if there is no such user, `ConfigurationError` as
    `addUser`.
    """
    def change(lines, index):
        if index is None:
            raise RemoteTaskError(f'there is no user {name}')
        user = _parseLine(lines[index])._replace(**changes)
        checkUser(user)
        return lines[:index] + [_lineOf(user)] + lines[index + 1:]

    _edit(path, name, change)


def removeUser(path, name):
    """Remove the user of a name from a file.

    Raise `RemoteTaskError` if there is none, `ConfigurationError` as `addUser`.
    """
    def remove(lines, index):
        if index is None:
            raise RemoteTaskError(f'there is no user {name}')
        return lines[:index] + lines[index + 1:]

    _edit(path, name, remove)


def _lineOf(user):
    return ':'.join((user.name, user.hash, user.role, ','.join(user.tasks), ','.join(user.services)))


def _edit(path, name, change):
    """Replace a file, as a whole or not at all.

    change -- called with the lines and the index of the one of the user `name`, None if there is none; it returns the
        new lines.
    """
    path = os.path.realpath(path)               # a link stays one
    directory = os.path.dirname(path)
    try:
        lock = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)    # released when it is closed
            text = _readText(path) if os.path.exists(path) else f'# {_FIELDS}\n'
            parseUsers(text, path)
            lines = text.removesuffix('\n').split('\n')
            names = [line.partition(':')[0].strip() for line in lines]
            _replace(path, '\n'.join(change(lines, names.index(name) if name in names else None)) + '\n')
        finally:
            os.close(lock)
    except OSError as error:
        raise ConfigurationError(f'{path}: cannot write the users file: {error.strerror}') from error


def _replace(path, text):
    """Write a file of mode 0600 that takes the place of the one at a path, and has its owner."""
    descriptor, temporary = tempfile.mkstemp(prefix='.users-', dir=os.path.dirname(path))
    try:
        with open(descriptor, 'w', encoding='utf-8') as file:
            if os.path.exists(path):            # the front end may run as another user than who edits its file
                old = os.stat(path)
                os.fchown(descriptor, old.st_uid, old.st_gid)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
