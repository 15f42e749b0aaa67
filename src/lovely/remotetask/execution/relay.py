"""What a child process prints and logs, as lines of its host's log that begin with the job."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import os

from lovely.remotetask.common.logs import TRACEBACK_SIZE
from lovely.remotetask.common.logs import block
from lovely.remotetask.common.logs import line


log = logging.getLogger('lovely.remotetask')

#: Lines that are logged of one run at the most.
MOST_LINES = 10_000

#: Bytes after which a line is one even if it has no end.
LONGEST_LINE = 8192

_CHUNK = 64 * 1024


class Relay:
    """In the host: writes to the log what a run in a child process says.

    label -- what each line begins with: job, task and request.
    extra -- what each line has besides; see `logs.about`.
    """

    def __init__(self, label, extra=None):
        self._label, self._extra, self._left = label, extra or {}, MOST_LINES
        self._rest = {}                     # pipe -> the bytes of a line that has not ended

    def watch(self, group, *pipes):
        """Read from pipes of a `Group`, whenever there is something, until their other ends are closed."""
        for pipe in pipes:
            self._rest[pipe] = b''
            group.watch(pipe, lambda pipe: self._read(pipe) or group.ignore(pipe))

    def _read(self, pipe):
        """Log the lines that have come; return whether there may be more."""
        data = os.read(pipe.fileno(), _CHUNK)
        lines = (self._rest[pipe] + data).split(b'\n')
        while len(lines[-1]) >= LONGEST_LINE:
            lines[-1:] = lines[-1][:LONGEST_LINE], lines[-1][LONGEST_LINE:]
        self._rest[pipe] = lines.pop()
        for each in lines:
            self.printed(each)
        return bool(data)

    def close(self):
        """Log what has come without the end of its line."""
        for rest in self._rest.values():
            if rest:
                self.printed(rest)
        self._rest.clear()

    def printed(self, data):
        """Log a line, of bytes, that was printed."""
        text = data.decode('utf-8', 'backslashreplace').rstrip('\r')
        if text and self._may():
            log.info('%s: %s', self._label, line(text), extra=self._extra)

    def logged(self, name, level, message, traceback):
        """Log what was logged: by the logger of that name, with that level, and a traceback as text or ''."""
        logger = logging.getLogger(name)
        if not logger.isEnabledFor(level) or not self._may():
            return
        below = block(traceback)
        logger.log(level, '%s: %s%s', self._label, line(message), below and '\n' + below,
                   extra={**self._extra, 'traceback': below})

    def _may(self):
        self._left -= 1
        if self._left == 0:
            log.warning('%s: more than %d lines; no more of them are logged', self._label, MOST_LINES,
                        extra=self._extra)
        return self._left > 0


class Sender(logging.Handler):
    """In the child: a handler that has its host log the records.

    send -- called with the arguments of `Relay.logged`.
    """

    def __init__(self, send):
        super().__init__()
        self._send = send

    def emit(self, record):
        """Hand a record to the host.  What cannot be formatted is told as other handlers of `logging` tell it."""
        try:
            text = logging.Formatter().formatException(record.exc_info) if record.exc_info else ''
            self._send(record.name, record.levelno, record.getMessage(), text[-TRACEBACK_SIZE:])
        except Exception:
            self.handleError(record)
