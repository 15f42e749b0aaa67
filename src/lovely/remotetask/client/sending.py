"""Files that stand in inputs of jobs: sent in parts before their jobs are added, each part again until it has come."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from http import HTTPStatus
from types import TracebackType
from typing import Any
from typing import BinaryIO
from typing import Self

from lovely.remotetask import errors
from lovely.remotetask.client.repetition import bodyOf
from lovely.remotetask.client.transport import HttpError
from lovely.remotetask.client.transport import RemoteFault
from lovely.remotetask.files import File
from lovely.remotetask.files import Unreadable
from lovely.remotetask.files import exchanged
from lovely.remotetask.xmlrpc import faults
from lovely.remotetask.xmlrpc.calls import PART_SIZE


#: Bytes of the smallest part: a front end or a proxy that takes no request of that size is not worked with.
LEAST_PART_SIZE = 4 * 1024

# HTTP statuses for which a smaller part may come through: the request is too large, or was too slow.
_SMALLER = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT)


class Sending:
    """The files of the jobs that one call adds.

    A context manager: it drops what it has sent when the call is refused, and gives away the files that are to be moved
    when it is not.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        """`call` is called with the name of a method and its arguments; it repeats what fails."""
        self._call = call
        self._files: list[File] = []            # those that have been sent
        self._uploads: list[str] = []           # ids, also of those that have not come to their end
        self._sent: dict[int, str] = {}         # identity of a `File` -> the id of its upload
        self._partSize = PART_SIZE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        if error is None:
            for file in self._files:
                with contextlib.suppress(OSError):      # the jobs were added: the caller must get their ids
                    file.giveAway()
        elif _isRefusal(error):
            for upload in self._uploads:
                with contextlib.suppress(errors.RemoteTaskError):
                    self._call('dropUpload', upload)

    def send(self, task: Any, input: Any) -> tuple[Any, list[str] | None]:
        """Send the files in an input; return the input with an id in the place of each, and the list of these ids.

        task -- the name of the task that the job is for.

        A `File` that stands in several places, or jobs, is sent once.  The list is None if there is no file.  Raise
        what the methods of the client do, and `files.Unreadable`.
        """
        files: list[File] = []
        draft = exchanged(input, File, files.append)
        if not files:
            return input, None
        bodyOf('add', (task, draft))            # refuse what cannot be sent before any file is sent
        sizes = [_sizeOf(file) for file in files]                   # a missing file is noticed before any is sent
        for file, size in zip(files, sizes):
            if id(file) not in self._sent:
                self._sent[id(file)] = self._sendFile(task, file, size)
        uploads = [self._sent[id(file)] for file in files]
        return exchanged(input, File, lambda file: self._sent[id(file)]), list(dict.fromkeys(uploads))

    def _sendFile(self, task: Any, file: File, size: float | None) -> str:
        upload = self._call('addUpload', task, size)
        self._uploads.append(upload)
        with file.open() as source:
            start = 0
            for data in _dataOf(source, file):
                self._sendData(upload, start, data)
                start += len(data)
        self._files.append(file)
        return upload

    def _sendData(self, upload: str, start: int, data: bytes) -> None:
        """Send some bytes of a file, in smaller parts from now on if need be."""
        sent = 0
        while sent < len(data):
            part = data[sent:sent + self._partSize]
            try:
                self._call('putUpload', upload, float(start + sent), part)      # an int of XML-RPC ends at 2 GB
            except HttpError as error:
                if error.status not in _SMALLER or self._partSize <= LEAST_PART_SIZE:
                    raise
                self._partSize //= 2
            else:
                sent += len(part)


def _isRefusal(error: BaseException) -> bool:
    """Return whether a call failed while the front end answers: otherwise dropping an upload is slow, or fails."""
    if isinstance(error, RemoteFault):
        return not isinstance(error, (faults.OutcomeUnknown, faults.DatabaseUnavailable, faults.Stopping))
    return isinstance(error, (Unreadable, faults.BadArguments, KeyboardInterrupt))


def _sizeOf(file: File) -> float | None:
    """Return the bytes of a file; None for one whose size nobody knows, such as a pipe."""
    try:
        return float(file.size)
    except (OSError, AttributeError):
        return None


def _dataOf(source: BinaryIO, file: File) -> Iterator[bytes]:
    """Yield the bytes of a file, `PART_SIZE` at most at a time.  Raise `Unreadable`."""
    while True:
        try:
            data = source.read(PART_SIZE)
        except OSError as error:
            raise Unreadable(file.path or repr(source), error.strerror) from error
        if data is None:
            raise Unreadable(file.path or repr(source), 'it has nothing to be read yet')
        if not data:
            return
        yield data
