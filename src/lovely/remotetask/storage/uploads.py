"""Uploads: files that are sent in parts, before a job takes them.  Functions that commit nothing.

Each part is a blob of its own, and comes in a transaction of its own: to append to one blob would copy it each time.
"""
# SPDX-License-Identifier: ZPL-2.1
import itertools
import secrets

from BTrees.LOBTree import LOBTree
from persistent import Persistent

from lovely.remotetask.database import storedfiles
from lovely.remotetask.errors import TooManyUploads
from lovely.remotetask.errors import UnknownUpload
from lovely.remotetask.files import CHUNK


GB = 1024 ** 3

#: The most uploads that wait for their jobs, and the most bytes of these, for one user and for all together.
USER_UPLOADS, USER_SIZE = 100, 20 * GB
ALL_UPLOADS, ALL_SIZE = 1000, 100 * GB

#: Seconds after its last part for which an upload waits for its job.
KEPT = 24 * 3600.0

# Greater than any id.
_END = '\U0010ffff'


class Upload(Persistent):
    """A file that is being sent.

    parts -- where each part begins, in bytes -> what `storedfiles.newPart` has returned.
    size -- of all of them, in bytes.
    expected -- how many bytes are to come in all; None if that was not said.
    touched -- when the last part came, in UTC seconds.
    """

    def __init__(self, now, expected=None):
        self.parts, self.size, self.expected, self.touched = LOBTree(), 0, expected, now


def begin(service, user, now, size=None):
    """Begin an upload, and return its id, a text that cannot be guessed.

    user -- the name of the user to whom it belongs; None where there are no users.
    now -- UTC seconds.
    size -- bytes that are to come, if that is known: no more are taken then, and no job takes it before they are there.

    Raise `TooManyUploads`.
    """
    _checkRoom(service, user, 1, size or 0)
    upload = secrets.token_hex(16)
    service.uploads[user or '', upload] = Upload(now, size)
    return upload


def find(service, user, upload):
    """Return the `Upload` with an id; raise `UnknownUpload`, also for that of another user."""
    found = service.uploads.get((user or '', upload))
    if found is None:
        raise UnknownUpload(upload)
    return found


def append(service, user, upload, start, data, now):
    """Add a part to an upload, and return how many bytes have come.  The part that came last may come again.

    start -- where it begins, in bytes.
    data -- the bytes, of which there may be `CHUNK`.

    Raise `UnknownUpload`, `TooManyUploads`, `ValueError` for a wrong size, and `storedfiles.WrongPart` for a part that
    is not the next one.
    """
    found = find(service, user, upload)
    if not 0 < len(data) <= CHUNK:
        raise ValueError(f'data: a part has 1 to {CHUNK} bytes, not {len(data)}')
    if start != found.size:
        part = found.parts.get(start)
        if part is None or storedfiles.partAsFile(part).read() != data:
            raise storedfiles.WrongPart(f'start: the next part begins at {found.size}, not at {start}, where '
                                        f'{"nothing" if part is None else "another part"} has come')
        return found.size
    if found.expected is not None and start + len(data) > found.expected:
        raise ValueError(f'data: the upload may have {found.expected} bytes, as was said when it began')
    _checkRoom(service, user, 0, len(data))
    found.parts[start] = storedfiles.newPart(data, service._p_jar)
    found.size, found.touched = start + len(data), now
    return found.size


def fileOf(upload):
    """Return the `StoredFile` of an `Upload`; raise `storedfiles.WrongPart` when not all of it has come."""
    if upload.expected not in (None, upload.size):
        raise storedfiles.WrongPart(f'uploads: {upload.size} bytes have come of one that is to have {upload.expected}')
    return storedfiles.ofParts(upload.parts, upload.size)


def drop(service, user, upload):
    """Forget an upload; return whether there was one of this user."""
    return service.uploads.pop((user or '', upload), None) is not None


def expire(service, now, limit):
    """Drop uploads that no job has taken for too long, `limit` at most; return how many."""
    old = (key for key, upload in service.uploads.items() if upload.touched < now - KEPT)
    keys = list(itertools.islice(old, limit))
    for key in keys:
        del service.uploads[key]
    return len(keys)


def _checkRoom(service, user, count, size):
    """Raise `TooManyUploads` if there is no room for so many uploads more, and bytes."""
    mine = service.uploads.values((user or '',), (user or '', _END))
    for whose, uploads, most, mostBytes in (('one user', mine, USER_UPLOADS, USER_SIZE),
                                            ('all users', service.uploads.values(), ALL_UPLOADS, ALL_SIZE)):
        sizes = [upload.size for upload in uploads]
        if len(sizes) + count > most:
            raise TooManyUploads(f'{len(sizes)} uploads wait for their jobs; {whose} may have {most}')
        if sum(sizes) + size > mostBytes:
            raise TooManyUploads(f'uploads with {sum(sizes)} bytes wait for their jobs, and there are {size} more; '
                                 f'{whose} may have {mostBytes}')
