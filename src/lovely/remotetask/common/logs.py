"""Lines of a log, as text and as JSON; texts of callers and tasks are cut and escaped, so none passes for another line.

`LoggedRun` says which run a thread does; `RunFilter` notes that on each record.
"""
# SPDX-License-Identifier: ZPL-2.1
import contextvars
import copy
import json
import logging
import math
import traceback
from datetime import datetime
from datetime import timezone

from lovely.remotetask.common.checks import cut


#: Characters at the most of a text, and of a traceback.
TEXT_SIZE, TRACEBACK_SIZE = 1000, 20_000

_run = contextvars.ContextVar('run', default=None)


#: What lines of JSON have besides the message: attributes of records, whoever has set them.
FIELDS = ('event', 'service', 'job', 'task', 'attempt', 'host', 'request', 'duration', 'wait', 'error', 'jobs', 'user',
          'address', 'status')

#: What becomes of each job.  These are many lines, which come only if the level of this logger is set to INFO.
jobLog = logging.getLogger('lovely.remotetask.jobs')
if jobLog.level == logging.NOTSET:
    jobLog.setLevel(logging.WARNING)


def about(event, **fields):
    """Return the argument `extra` for a call of a logger: what lines of JSON have besides the message.

    event -- a fixed word for what has happened, as 'job.failed'.
    fields -- of FIELDS; None for what is not known.
    """
    return {'event': event, **{name: value for name, value in fields.items() if value is not None}}


class JSONFormatter(logging.Formatter):
    """Makes each record one line of JSON.

    In a <logfile>: "formatter lovely.remotetask.common.logs.JSONFormatter".  The keys are time, level, logger, message;
    those of FIELDS that the record has; and traceback.
    """

    hasFields = True            # see `tellRuns`

    def format(self, record):
        """Return the line for a record: ASCII, without its end."""
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        values = {'time': moment.strftime('%Y-%m-%dT%H:%M:%S.%fZ'), 'level': record.levelname, 'logger': record.name,
                  'message': record.getMessage()}
        for name in FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                values[name] = _plain(value)
        below = getattr(record, 'traceback', None)
        if isinstance(below, str) and below:                # it stands below the message, for other formatters
            values['message'] = values['message'].partition('\n')[0]
        elif record.exc_info:
            below = self.formatException(record.exc_info)
        if below or record.stack_info:
            values['traceback'] = '\n'.join(filter(None, (below, record.stack_info)))[-TRACEBACK_SIZE:]
        return json.dumps(values)


def _plain(value):
    """Return a value of a record as JSON has it, whatever it is."""
    if isinstance(value, (bool, int)) or isinstance(value, float) and math.isfinite(value):
        return value
    try:
        return cut(str(value), TEXT_SIZE)
    except Exception:                                       # it is of somebody's own class
        return f'<{type(value).__name__}>'


def line(text):
    """Return a text as it stands in a line of a log: cut, and with escapes for what cannot be printed."""
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode()
                   for c in cut(text, TEXT_SIZE))


def block(text):
    """Return a traceback as it stands in a log: its last lines, with escapes for what cannot be printed."""
    return '\n'.join(map(line, text[-TRACEBACK_SIZE:].splitlines()))


def logError(log, message, *arguments, error, level=logging.ERROR, extra=None):
    """Log an exception with its traceback; of a traceback with a very long message in it only the end.

    log -- a logger.
    message, arguments -- as for `log.error`.
    level -- of `logging`.
    extra -- see `about`.
    """
    text = ''.join(traceback.format_exception(error))
    if len(text) <= TRACEBACK_SIZE:
        log.log(level, message, *arguments, exc_info=error, extra=extra)
    else:
        end = text[-TRACEBACK_SIZE:]
        log.log(level, f'{message}\n...%s', *arguments, end, extra={**(extra or {}), 'traceback': end})  # noqa: G004


class LoggedRun:
    """A context manager: what this thread logs in the block is of a run; also what it logs by `asyncio.to_thread`.

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
        return {'job': claim.jobid, 'task': claim.task, 'attempt': claim.attempt, 'request': claim.request,
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
    """Makes the lines of a run begin with job, task and request, unless they already do.

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
    """Make a handler of `logging` say which run a line is of.  Twice is fine.

    A formatter whose attribute `hasFields` is true shows the attributes of records: its messages stay as they are.
    """
    if any(isinstance(one, RunFilter) for one in handler.filters):
        return
    handler.addFilter(RunFilter())
    formatter = handler.formatter or logging.Formatter()
    if not getattr(formatter, 'hasFields', False):
        handler.setFormatter(RunFormatter(formatter))
