"""Many small files, read as one large file, of which one at a time is open."""
# SPDX-License-Identifier: ZPL-2.1
import bisect
import io
import os
from collections.abc import Callable
from typing import Any
from typing import BinaryIO

from lovely.remotetask.files import CHUNK


def joined(parts: list[tuple[int, Callable[[], BinaryIO]]], size: int) -> BinaryIO:
    """Return a binary file object to read from.

    parts -- pairs of where a part begins, the first one at 0, and a function that opens it.
    size -- of all of them, in bytes.
    """
    return io.BufferedReader(_JoinedFile(parts, size), CHUNK)


class _JoinedFile(io.RawIOBase):
    """See `joined`."""

    def __init__(self, parts: list[tuple[int, Callable[[], BinaryIO]]], size: int) -> None:
        self._starts = [start for start, _ in parts]
        self._openers = [opener for _, opener in parts]
        self._size, self._position = size, 0
        self._opened: tuple[int, BinaryIO] | None = None        # the number of a part, and its file object

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f'there is nothing before the beginning of a file, at {base + offset}')
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size or not len(buffer):
            return 0
        number = bisect.bisect_right(self._starts, self._position) - 1
        file = self._open(number)
        file.seek(self._position - self._starts[number])
        data = file.read(len(buffer))
        if not data:
            raise OSError(f'the part of the file at {self._starts[number]} ends too early')
        buffer[:len(data)] = data
        self._position += len(data)
        return len(data)

    def _open(self, number: int) -> BinaryIO:
        if self._opened is None or self._opened[0] != number:
            self._closePart()
            self._opened = number, self._openers[number]()
        return self._opened[1]

    def _closePart(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened[1].close()

    def close(self) -> None:
        self._closePart()
        super().close()
