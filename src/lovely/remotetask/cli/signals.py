"""The signals that a server obeys; operating.txt says what each does."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback

from lovely.remotetask.common.process import hasTerminal
from lovely.remotetask.config.settings import reopenLogs


#: Seconds after which a terminal is looked at once more: the signal may come before the terminal has gone.
SETTLED = 1.0

#: The number of calls, the latest ones, that are shown of each thread.
SHOWN_CALLS = 100

#: Seconds that a step of the start may go on after a request to stop; then the process just ends, as nothing has begun.
LONGEST_STEP = 2.0

log = logging.getLogger('lovely.remotetask')

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_REOPENING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """The process was asked to stop before it was ready."""


class Signals:
    """Obeys the signals to a server, to the very end of the process.

    SIGINT and SIGTERM ask the process to stop, and end it at once when they come again.  SIGHUP, SIGUSR1 and SIGUSR2
    reopen the log files.  SIGHUP asks to stop when it comes because the terminal of the process is gone; unless it was
    ignored when the process started, as `nohup` does.  SIGQUIT writes to the standard error output what each thread is
    doing.
    """

    def __init__(self):
        """Obey from now on.  To be called in the main thread."""
        self._requests, self._received = queue.SimpleQueue(), queue.SimpleQueue()
        self._isStopping = False
        self._hasBegun = False
        # A handler of Python runs in the main thread, and only when that comes back from waiting for a lock, which it
        # may not do for an hour.  So the numbers of the signals come through a pipe, to a thread that waits for them.
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._obeysTerminal = hasTerminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        for target, name in (self._attend, 'remotetask-signals'), (self._work, 'remotetask-signals-work'):
            threading.Thread(target=target, name=name, daemon=True).start()
        for number in *_STOPPING, *_REOPENING, signal.SIGQUIT:
            signal.signal(number, lambda *ignored: None)

    def check(self):
        """Raise `Interrupted` if the process has been asked to stop.  To be called between the steps of its start.

        The signal itself interrupts no step, which may be in the middle of a commit.
        """
        if self._isStopping:
            self._hasBegun = True
            raise Interrupted()

    def begin(self):
        """Note that from now on there is something to stop in order.  Raise `Interrupted` as `check`."""
        self._hasBegun = True
        self.check()

    def wait(self):
        """Wait until the process is asked to stop; return None, or the exception that `fail` was called with."""
        return self._requests.get()

    def fail(self, error):
        """Ask the process to stop because of an exception in one of its threads; None for none."""
        self._requests.put(error)

    def _attend(self):
        """Obey each signal; leave to `_work` what may take a while."""
        while True:
            for number in os.read(self._reader, 1024):
                if number in _STOPPING:
                    self._stop(number)
                elif number == signal.SIGHUP and self._terminalIsGone():
                    if not self._isStopping:            # more than one comes when a terminal closes
                        self._stop(number)
                elif number in _REOPENING or number == signal.SIGQUIT:
                    self._received.put(number)

    def _stop(self, number):
        if self._isStopping:
            os._exit(128 + number)
        self._isStopping = True
        self._requests.put(None)
        self._received.put(number)

    def _terminalIsGone(self):
        return self._obeysTerminal and not hasTerminal()

    def _work(self):
        """Do what cannot wait for the main thread, which may be busy with starting or stopping everything."""
        while True:
            number = self._received.get()
            if number == signal.SIGQUIT:
                _writeStacks()
            elif self._isStopping and not self._hasBegun:
                self._endTheStart()
            elif number in _REOPENING:
                reopenLogs()
                if number == signal.SIGHUP and self._obeysTerminal:
                    time.sleep(SETTLED)
                    if self._terminalIsGone():
                        os.kill(os.getpid(), number)

    def _endTheStart(self):
        """End the process if it does not get on with its start, as when it waits for a database."""
        time.sleep(LONGEST_STEP)
        if not self._hasBegun:
            log.info('stopping')
            os._exit(0)


def _writeStacks():
    """Write to the standard error output what each thread is doing.

    Not by faulthandler.register: its handler reads the frames of running threads, which may end the process.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():
        lines.append(f'Thread {names.get(ident, ident)} (most recent call last):\n')
        lines.extend(traceback.format_stack(frame, SHOWN_CALLS))
    text = ''.join(lines).encode('utf-8', 'backslashreplace')
    with contextlib.suppress(OSError):          # there may be no standard error output
        while text:
            text = text[os.write(2, text):]
