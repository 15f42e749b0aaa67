"""Runs commands in the process of the tests, which they leave as it was."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import io
import logging
import os

from lovely.remotetask.cli import main


@contextlib.contextmanager
def unchangedProcess():
    """Undo what a command does to its process: the umask that it sets, and where and what it logs."""
    os.umask(umask := os.umask(0o077))
    loggers = [logging.root, *(each for each in logging.root.manager.loggerDict.values()
                               if isinstance(each, logging.Logger))]
    before = {logger: (list(logger.handlers), logger.level) for logger in loggers}
    try:
        yield
    finally:
        os.umask(umask)
        for logger, (handlers, level) in before.items():
            logger.setLevel(level)
            for handler in set(logger.handlers).difference(handlers):
                logger.removeHandler(handler)
                handler.close()


def runCommand(*arguments):
    """Run the command `remotetask`; return its exit code, and what it prints on the standard and the error output."""
    output, errors = io.StringIO(), io.StringIO()
    with unchangedProcess(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = main.run(list(map(str, arguments)))
    return code, output.getvalue(), errors.getvalue()
