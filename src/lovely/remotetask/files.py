"""Files to be handed over: what a task returns, or what a job is added with; `storedfiles` stores them."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import BinaryIO
from typing import Self

from lovely.remotetask.encoding.plain import PLAIN_DEPTH
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import TaskError


#: Bytes that are copied at a time, or that a part of a file has, and characters that are encoded.
CHUNK = 1024 * 1024


class Unreadable(TaskError):
    """A file that is to be handed over cannot be read; see that it is there until then."""

    def __init__(self, path: str, reason: str | None) -> None:
        """`reason` is what is wrong with it."""
        super().__init__(f'the file {path} cannot be read: {reason}')
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)


class NotStorable(TaskError):
    """The value is nested too deeply to be stored, or cannot be pickled; hand over a file, or plain data."""

    def __init__(self, reason: str) -> None:
        """`reason` is a sentence about the value."""
        super().__init__(f'the value cannot be stored: {reason}')
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason,)


class NoFile(RemoteTaskError, TypeError):
    """The job has no result that can be read in parts: ask for the whole one, when there is one."""

    def __init__(self, jobid: int, status: str) -> None:
        super().__init__(f'job {jobid} is {status} and has no result that can be read in parts: that has to be a file, '
                         f'bytes or text')
        self.jobid, self.status = jobid, status


class File:
    """A file to be handed over without being loaded: what a task returns, or what a job is added with.

    source -- the path of a file, or a binary file object, which counts from where it stands now.
    move -- true to give it away: the file at the path is gone then, and over one file system it is not even copied; the
        file object is closed.

    It is copied when the job is added or the task has returned, not before, and not in the task: open a file in the
    task if it will be gone when the task returns: `File(open(path, 'rb'))`.
    """

    def __init__(self, source: str | bytes | os.PathLike[str] | BinaryIO, move: bool = False) -> None:
        if isinstance(source, (str, bytes, os.PathLike)):
            source = os.path.abspath(os.fsdecode(source))
        elif isinstance(source, io.TextIOBase) or not hasattr(source, 'read'):
            raise TypeError(f'{source!r} is neither a path nor a binary file object')
        self._source, self._move = source, move
        self._start = source.tell() if not isinstance(source, str) and _isSeekable(source) else None

    @property
    def path(self) -> str | None:
        """The path, or None."""
        return self._source if isinstance(self._source, str) else None

    @property
    def size(self) -> int:
        """The bytes that it has now."""
        with self.open() as file:
            start = file.tell()
            return file.seek(0, os.SEEK_END) - start

    def open(self) -> Any:
        """Return a binary file object to read from.  Raise `Unreadable`."""
        if not isinstance(self._source, str):
            if self._start is not None:
                self._source.seek(self._start)          # it may have been read by an attempt before
            return _Lent(self._source)
        try:
            if not stat.S_ISREG(os.stat(self._source).st_mode):
                raise Unreadable(self._source, 'it is no regular file')
            return open(self._source, 'rb')
        except OSError as error:
            raise Unreadable(self._source, error.strerror) from error

    def _fill(self, stored: Any) -> None:
        """Fill a new `StoredFile`, with its blob if it has one."""
        if self._move and self.path is not None and stored.blob is not None:
            self.open().close()
            stored.take(self.path)
            return
        with self.open() as source:
            stored.write(lambda target: shutil.copyfileobj(source, target, CHUNK))
        self.giveAway()

    def giveAway(self) -> None:
        """Remove the file, or close the file object, if it is to be moved: it has been copied."""
        if self._move:
            os.remove(self._source) if isinstance(self._source, str) else self._source.close()


def _isSeekable(file: Any) -> bool:
    return getattr(file, 'seekable', lambda: False)()


class _Lent:
    """A file object that its owner closes."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def close(self) -> None:
        """Do nothing."""


def exchanged(value: Any, wanted: type, function: Callable[[Any], Any], depth: int = PLAIN_DEPTH) -> Any:
    """Return the value with what the function makes of each instance of a class in it; itself when there is none.

    value -- plain containers are looked into, no deeper than `depth`.
    wanted -- the class; instances of its subclasses stay as they are.
    """
    kind = type(value)
    if kind is wanted:
        return function(value)
    if depth and kind in (list, tuple):
        members = [exchanged(item, wanted, function, depth - 1) for item in value]
        return value if all(new is old for new, old in zip(members, value)) else kind(members)
    if depth and kind is dict:
        items = {key: exchanged(item, wanted, function, depth - 1) for key, item in value.items()}
        return value if all(items[key] is item for key, item in value.items()) else items
    return value


@contextlib.contextmanager
def copied(file: Any, name: str = 'file') -> Iterator[str]:
    """Copy a file for the time of the context, whose value is the path of the copy.

    file -- a `File`, or a `StoredFile`.
    name -- of the copy, which has a directory of its own.
    """
    with tempfile.TemporaryDirectory(prefix='remotetask-', ignore_cleanup_errors=True) as directory:
        path = os.path.join(directory, name)
        with file.open() as source, open(path, 'xb') as target:
            shutil.copyfileobj(source, target, CHUNK)
        yield path
