"""Files as they are stored: a value that is too large for a row or a record has a blob of its own."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import functools
import io
import os
import pickle
import weakref
from collections.abc import Callable
from typing import Any
from typing import BinaryIO

from persistent import Persistent
from persistent.wref import WeakRef
from ZODB.blob import Blob
from ZODB.blob import rename_or_copy_blob
from ZODB.interfaces import BlobError
from ZODB.interfaces import IBlobStorage
from ZODB.POSException import InvalidObjectReference
from ZODB.serialize import ObjectWriter
from ZODB.utils import mktemp

from lovely.remotetask.common.internals import storageOf
from lovely.remotetask.database.joinedfiles import joined
from lovely.remotetask.encoding.plain import NotPlain
from lovely.remotetask.encoding.plain import TooDeep
from lovely.remotetask.encoding.plain import holdsObjects
from lovely.remotetask.encoding.plain import plainCopy
from lovely.remotetask.files import CHUNK
from lovely.remotetask.files import File
from lovely.remotetask.files import NotStorable
from lovely.remotetask.files import copied
from lovely.remotetask.files import exchanged


#: Inputs and outputs above this size go to a blob: bytes, characters of text, and some bytes for each other value.
LARGE = 64 * 1024

#: What a value costs besides its text, in that count.
VALUE_SIZE = 4

#: What a `StoredFile` holds: a file, bytes, text in UTF-8, a pickle of plain data.  Part of the file format.
FILE, BYTES, TEXT, PICKLE = 'file', 'bytes', 'text', 'pickle'

# Of the pickles in blobs: the newest that all supported Pythons read.
_PROTOCOL = 5


class WrongPart(ValueError):
    """The part of a file is not the next one, or not all parts have come."""


class StoredFile(Persistent):
    """A file as it is stored; what a task gets, or a caller, where a `File` was handed over.

    size -- in bytes.
    """

    blob: Any = None        # the `Blob`; None where the database has no place for blobs, then `data` holds all of it
    data = b''
    parts: Any = None       # of one that came in parts, instead of these two; see `newPart`
    kind = FILE
    size = 0

    def open(self) -> BinaryIO:
        """Return a binary file object to read from; it outlives the transaction, once the job is committed."""
        if self.parts is not None:
            return joined([(start, _openerOf(part)) for start, part in self.parts.items()], self.size)
        if self.blob is None:
            return io.BytesIO(self.data)
        self.blob._p_activate()
        try:
            return self.blob.open('c')
        except BlobError:               # stored in this transaction
            return io.BufferedReader(self.blob.open('r'))

    def read(self, start: int = 0, size: int = -1) -> bytes:
        """Return `size` bytes from `start` on, or what there is; all by default."""
        if self.parts is not None:
            return self._readParts(start, self.size if size < 0 else min(self.size, start + size))
        with self.open() as file:
            file.seek(start)
            return file.read(size)

    def _readParts(self, start: int, end: int) -> bytes:
        if start >= end:
            return b''
        found = [partAsFile(part).read(max(0, start - begin), end - max(start, begin))
                 for begin, part in self.parts.items(self.parts.maxKey(start), end, excludemax=True)]
        return b''.join(found)

    def write(self, write: Callable[[Any], object]) -> None:
        """Let a function write the content, to a binary file object."""
        if self.blob is None:
            with io.BytesIO() as target:
                write(target)
                self.data = target.getvalue()
            self.size = len(self.data)
        else:
            with io.BufferedWriter(self.blob.open('w'), CHUNK) as target:
                write(target)
                self.size = target.tell()

    def take(self, path: str) -> None:
        """Move the file at a path here, as the content."""
        self.size = os.path.getsize(path)
        rename_or_copy_blob(path, self.blob._p_blob_uncommitted, chmod=False)

    @property
    def value(self) -> Any:
        """What was stored: bytes, text, plain data; of a file this itself."""
        if self.kind == FILE:
            return self
        if self.kind == BYTES:
            return self.read()
        if self.kind == TEXT:
            return self.read().decode('utf-8', 'surrogatepass')
        with self.open() as file:
            return pickle.load(file)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} of {self.size} bytes>'


def toStore(value: Any, jar: Any, tries: bool = False) -> Any:
    """Return what is to be stored of a job's input or output: the value itself, if it is not large.

    jar -- the connection of the job; None outside a database, where only a `File` is exchanged.
    tries -- whether to try if objects in it can be stored, lest the caller's commit fails.

    Large bytes, texts and plain data become a `StoredFile`, and so does each `File` in plain containers.  Where there
    is no place for blobs the data stay as they are.  Raise `Unreadable`, and `NotStorable` for what is nested too
    deeply, or cannot be pickled.
    """
    try:
        hasObjects = holdsObjects(value)
    except TooDeep as error:
        raise NotStorable(str(error)) from None
    kept = _exchanged(value, jar) if _isSpecial(value) else value
    if tries and hasObjects:
        _tryToPickle(kept, jar)
    return kept


class _Trial(ObjectWriter):
    """Pickles a value as the database will, without the objects in it that have records of their own.

    jar -- the connection of the job.
    """

    def __init__(self, jar: Any) -> None:
        super().__init__()
        self._jars = None, *jar.connections.values()

    def persistent_id(self, obj: Any) -> Any:
        """Return something for these objects; refuse one that only another transaction could store."""
        if not isinstance(obj, (Persistent, WeakRef)):
            return None
        if isinstance(obj, Persistent) and obj._p_jar not in self._jars:
            raise InvalidObjectReference(f'an object of the class {type(obj).__name__} is of another connection')
        return True


class _Tried:
    """Has a value as its state."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getstate__(self) -> Any:
        return self._value


def _tryToPickle(value: Any, jar: Any) -> None:
    try:
        _Trial(jar).serialize(_Tried(value))
    except Exception as error:          # of a class of the application's own, it may be anything
        raise NotStorable(f'{type(error).__name__}: {error}') from error


def _exchanged(value: Any, jar: Any) -> Any:
    """Return what `toStore` stores of a value that may be large, or have a `File` in it."""
    kept = exchanged(value, File, lambda file: _newFile(FILE, file._fill, jar))
    if kept is not value or not _takesBlobs(jar):
        return kept
    if type(value) is bytes:
        return _newFile(BYTES, lambda stored: stored.write(lambda target: target.write(value)), jar)
    if type(value) is str:
        return _newFile(TEXT, lambda stored: stored.write(lambda target: _encode(value, target)), jar)
    try:
        plainCopy(value)                # a reference to an object of the database must not become a copy of it
    except NotPlain:
        return value
    return _newFile(PICKLE, lambda stored: stored.write(lambda target: pickle.dump(value, target, _PROTOCOL)), jar)


def newPart(data: bytes, jar: Any) -> Any:
    """Return what is stored of a part of a file: a `Blob`, or a `StoredFile` where there is no place for blobs.

    jar -- the connection; None outside a database.
    """
    stored = _newFile(FILE, lambda stored: stored.write(lambda target: target.write(data)), jar)
    return stored if stored.blob is None else stored.blob


def partAsFile(part: Any, size: int = 0) -> StoredFile:
    """Return a `StoredFile` with what `newPart` has returned.

    size -- of the part, in bytes; for callers that ask the file for its size.
    """
    if isinstance(part, StoredFile):
        return part
    stored = StoredFile()
    stored.blob, stored.size = part, size
    return stored


def _openerOf(part: Any) -> Callable[[], BinaryIO]:
    """Return a function that opens a part, also when the transaction is over, once the job is committed.

    To load a `Blob` would fetch its file: so nothing is loaded before it is read.
    """
    if isinstance(part, StoredFile):
        return part.open
    return functools.partial(_openBlob, storageOf(part._p_jar), part._p_oid)


def _openBlob(storage: Any, oid: bytes) -> BinaryIO:
    _, serial = storage.load(oid)
    return storage.openCommittedBlobFile(oid, serial)


def ofParts(parts: Any, size: int) -> StoredFile:
    """Return the `StoredFile` of all the parts.

    parts -- an `LOBTree`: where each begins -> what `newPart` has returned.
    size -- of all of them, in bytes.
    """
    if len(parts) == 1:
        return partAsFile(parts[0], size)
    stored = StoredFile()
    if parts:
        stored.parts, stored.size = parts, size
    return stored


def valueOf(stored: Any) -> Any:
    """Return the value that `toStore` has made this of."""
    return stored.value if isinstance(stored, StoredFile) else stored


def portable(value: Any, stack: contextlib.ExitStack) -> Any:
    """Return the value as a process without the database can have it: with a `File` for each `StoredFile`.

    stack -- removes, at its end, copies that were made for this.
    """
    return exchanged(value, StoredFile, lambda stored: _unstored(stored, stack))


def part(stored: Any, start: int, size: int) -> bytes | None:
    """Return some bytes of a file, of bytes, or of text in UTF-8; None of anything else.

    stored -- what is stored of the output, see `Job.stored`.
    """
    if isinstance(stored, StoredFile) and stored.kind != PICKLE:
        return stored.read(start, size)
    if isinstance(stored, str):
        stored = stored.encode('utf-8', 'surrogatepass')
    return stored[start:start + size] if isinstance(stored, bytes) else None


def _isSpecial(value: Any) -> bool:
    """Return whether there is a `File` in a value, or the value may be large.  Cheap for both kinds of values."""
    left, waiting = LARGE, [value]
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if kind is str or kind is bytes:
            left -= len(item)
        elif kind is dict:
            if VALUE_SIZE * len(item) > left:
                return True
            waiting += item
            waiting += item.values()
        elif kind in (list, tuple, set, frozenset):
            if VALUE_SIZE * len(item) > left:
                return True
            waiting += item
        elif kind is File:
            return True
        left -= VALUE_SIZE
        if left < 0:
            return True
    return False


def _takesBlobs(jar: Any) -> bool:
    """Return whether there is a place for blobs in a connection's database."""
    storage: Any = None if jar is None else jar.db().storage
    if not IBlobStorage.providedBy(storage):
        return False
    try:
        return bool(storage.temporaryDirectory())
    except AttributeError:              # a ZEO client that was told no directory
        return False


def _newFile(kind: str, fill: Callable[[StoredFile], None], jar: Any) -> StoredFile:
    stored = StoredFile()
    stored.kind = kind
    if _takesBlobs(jar):
        stored.blob = _newBlob(jar.db().storage.temporaryDirectory())
    fill(stored)
    return stored


def _newBlob(directory: str) -> Blob:
    """Return a blob that is written in a directory, the storage's own, from where it need not be copied.

    The connection's `add` would see to that as well.  But then the blob would be stored before the job is, and when the
    job meets a conflict a FileStorage leaves behind what it has of the blob.  Found by way of its job it comes after.
    """
    blob = Blob()
    path = blob._p_blob_uncommitted = mktemp(dir=directory, prefix='BUC')
    weakref.finalize(blob, _remove, path)           # unless it has been committed, and moved
    return blob


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def _encode(text: str, target: BinaryIO) -> None:
    for start in range(0, len(text), CHUNK):
        target.write(text[start:start + CHUNK].encode('utf-8', 'surrogatepass'))


def _unstored(stored: StoredFile, stack: contextlib.ExitStack) -> File:
    if stored.parts is not None:
        return File(stack.enter_context(copied(stored)))
    if stored.blob is not None:
        stored.blob._p_activate()
        try:
            return File(stored.blob.committed())
        except BlobError:               # stored in this transaction
            pass
    return File(io.BytesIO(stored.read()))
