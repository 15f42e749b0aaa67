"""What callers and tasks have said, as lines of a log: short, and without anything that could pass for another line."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import traceback

from lovely.remotetask.common.checks import cut


#: Characters at the most of a text, and of a traceback.
TEXT_SIZE, TRACEBACK_SIZE = 1000, 20_000


def about(event, **fields):
    """Return the argument `extra` of a call of a logger: what lines of JSON have besides the message.

    event -- a fixed word for what has happened, as 'job.failed'.
    fields -- of FIELDS; None for what is not known.
    """
    return {'event': event, **{name: value for name, value in fields.items() if value is not None}}


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
