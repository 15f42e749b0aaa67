"""Bodies of HTTP/1.1 requests in chunks: read strictly, as RFC 9112 section 7.1 says, or refused."""
# SPDX-License-Identifier: ZPL-2.1
import re
from http import HTTPStatus

from lovely.remotetask.xmlrpc.head import HEADER
from lovely.remotetask.xmlrpc.head import HTTPException
from lovely.remotetask.xmlrpc.head import bodyTooLarge


#: Bytes of the line before a chunk, or of a trailer.
LINE_SIZE = 4096
#: Bytes of chunk extensions and trailers in one body.  They are read over: nobody here knows any.
EXTRA_SIZE = 16 * 1024

# As in `head`, nothing is guessed: a line ends with CR LF, a size has digits and nothing else, not even a blank.
_CHUNK_LINE = re.compile(rb'([0-9A-Fa-f]{1,16})([ \t]*;[\t -~\x80-\xff]*)?')
_LINE_END = b'\r\n'


def _malformed(reason):
    return HTTPException(HTTPStatus.BAD_REQUEST, reason)


class ChunkedDecoder:
    """Extracts a body from the bytes that arrive; does no input or output itself."""

    def __init__(self, limit):
        """`limit` is how many bytes the body may have."""
        self._limit = limit
        #: The body, as far as it has come, a bytearray.
        self.body = bytearray()
        # A function and no method of this object, which would refer to itself then: the body has to go at once.
        self._step = ChunkedDecoder._readChunkLine
        self._left = 0              # bytes of the current chunk that have not come
        self._extra = 0             # bytes of extensions and trailers so far

    def decode(self, buffer):
        """Remove the bytes of the body from a bytearray; return whether the body is complete then.

        What follows a complete body stays in the buffer.  Raise `head.HTTPException` for what is malformed or too
        large.
        """
        position = 0
        try:
            while self._step is not None:
                end = self._step(self, buffer, position)
                if end is None:
                    return False
                position = end
            return True
        finally:
            del buffer[:position]

    # The steps: each returns the position behind what it has used, or None if that has not come yet.

    def _readChunkLine(self, buffer, position):
        line = self._line(buffer, position)
        if line is None:
            return None
        found = _CHUNK_LINE.fullmatch(line)
        if not found:
            raise _malformed('The size of a chunk is malformed')
        self._count(len(found[2] or b''))
        self._left = int(found[1], 16)
        if len(self.body) + self._left > self._limit:
            raise bodyTooLarge(self._limit)
        self._step = ChunkedDecoder._readData if self._left else ChunkedDecoder._readTrailer
        return position + len(line) + len(_LINE_END)

    def _readData(self, buffer, position):
        data = buffer[position:position + self._left]
        self.body += data
        self._left -= len(data)
        if not self._left:
            self._step = ChunkedDecoder._readDataEnd
        return position + len(data) if data else None

    def _readDataEnd(self, buffer, position):
        end = buffer[position:position + len(_LINE_END)]
        if not _LINE_END.startswith(end):
            raise _malformed('A chunk is longer than its size')
        if end != _LINE_END:
            return None
        self._step = ChunkedDecoder._readChunkLine
        return position + len(_LINE_END)

    def _readTrailer(self, buffer, position):
        line = self._line(buffer, position)
        if line is None:
            return None
        if not line:
            self._step = None
        elif HEADER.fullmatch(line.decode('latin-1')):
            self._count(len(line))
        else:
            raise _malformed('A trailer is malformed')
        return position + len(line) + len(_LINE_END)

    def _line(self, buffer, position):
        end = buffer.find(_LINE_END, position, position + LINE_SIZE + len(_LINE_END))
        if end >= 0:
            return bytes(buffer[position:end])
        if len(buffer) - position >= LINE_SIZE + len(_LINE_END):
            raise _malformed(f'The line of a chunk may have {LINE_SIZE} bytes')
        return None

    def _count(self, size):
        self._extra += size
        if self._extra > EXTRA_SIZE:
            raise HTTPException(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                          f'Chunk extensions and trailers may have {EXTRA_SIZE} bytes')
