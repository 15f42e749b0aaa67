"""How commands fail: with one line of text and an exit code."""
# SPDX-License-Identifier: ZPL-2.1
import click


FAILURE = 1
BAD_INPUT = 2
CANNOT_CONNECT = 3
JOB_FAILED = 4
INTERRUPTED = 130                       # as shells have it: 128 and the number of SIGINT


class CommandFailure(click.ClickException):
    """A command can't do what it was asked for; the message says why."""

    def __init__(self, message, code=FAILURE):
        """`message` is a sentence without a full stop; `code` becomes the exit code of the program."""
        super().__init__(message)
        self.exit_code = code


def harmless(text):
    """Return `text`, with a space for each character that a terminal would obey; line breaks stay."""
    return ''.join(c if c.isprintable() or c == '\n' else ' ' for c in text)


def oneLine(text):
    """Return `text` on one line, without anything that a terminal would obey."""
    return ' '.join(harmless(text).split())
