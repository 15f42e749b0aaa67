"""What callers and tasks have said, as lines of a log: short, and without anything that could pass for another line.

And of which run a line is: `LoggedRun` says so for the thread that does the run, `RunFilter` notes it on the record.
"""
# SPDX-License-Identifier: ZPL-2.1
import contextvars
import copy
import logging
import traceback

from lovely.remotetask.common.checks import cut


#: Characters at the most of a text, and of a traceback.
TEXT_SIZE, TRACEBACK_SIZE = 1000, 20_000

_run = contextvars.ContextVar('run', default=None)


def line(text):
    """Return a text as it stands in a line of a log: cut, and with escapes for what cannot be printed."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode()
                   for c in cut(text, TEXT_SIZE))


def block(text):
    """Return a traceback as it stands in a log: its last lines, with escapes for what cannot be printed."""
    return '\n'.join(map(line, text[-TRACEBACK_SIZE:].splitlines()))


def logError(log, message, *arguments, error, level=logging.ERROR):
    """Log an exception with its traceback; of a traceback with a very long message in it only the end.

    log -- a logger.
    message, arguments -- as for `log.error`.
    level -- of `logging`.
    """
    text = ''.join(traceback.format_exception(error))
    if len(text) <= TRACEBACK_SIZE:
        log.log(level, message, *arguments, exc_info=error)
    else:
        log.log(level, f'{message}\n...%s', *arguments, text[-TRACEBACK_SIZE:])  # noqa: G004


class LoggedRun:
    """While entered, what this thread logs is of a run; also what it logs by `asyncio.to_thread`.

    claim -- what is run: it has `jobid`, `task`, `attempt`, `request` and `label`.
    host -- the name of the processing host.
    servicePath -- of the service, a tuple of names.
    """

    __slots__ = ('_token', 'claim', 'host', 'servicePath')

    def __init__(self, claim, host, servicePath):
        self.claim, self.host, self.servicePath = claim, host, servicePath

    def __enter__(self):
        self._token = _run.set(self)
        return self

    def __exit__(self, *error):
        _run.reset(self._token)

    @property
    def fields(self):
        """What a record of the run has as attributes, a dict."""
        claim = self.claim
        return {'job': claim.jobid, 'task': claim.task, 'attempt': claim.attempt + 1, 'request': claim.request,
                'service': '/' + '/'.join(self.servicePath), 'host': self.host}


class RunFilter(logging.Filter):
    """Notes on each record of a thread that does a run what `LoggedRun.fields` says, and passes all records."""

    def filter(self, record):
        """See `logging.Filter`.  What the record has already stays, and one about another job stays as it is."""
        run = _run.get()
        if run is not None and 'job' not in record.__dict__:
            for name, value in run.fields.items():
                record.__dict__.setdefault(name, value)
        return True


class RunFormatter(logging.Formatter):
    """Has the lines of a run begin with job, task and request, unless they do.

    formatter -- makes the rest of the line.
    """

    def __init__(self, formatter):
        super().__init__()
        self.formatter = formatter

    def format(self, record):
        """See `logging.Formatter`.  Other handlers have the record as it is."""
        run = _run.get()
        if run is not None and not (message := record.getMessage()).startswith(label := run.claim.label):
            record = copy.copy(record)
            record.msg, record.args = f'{label}: {message}', None
        return self.formatter.format(record)


def tellRuns(handler):
    """Have a handler of `logging` tell of which run a line is.  Twice is fine.

    A formatter whose attribute `hasFields` is true shows the attributes of records: its messages stay as they are.
    """
    if any(isinstance(one, RunFilter) for one in handler.filters):
        return
    handler.addFilter(RunFilter())
    formatter = handler.formatter or logging.Formatter()
    if not getattr(formatter, 'hasFields', False):
        handler.setFormatter(RunFormatter(formatter))
