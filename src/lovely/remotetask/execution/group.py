"""A program with all that it starts: run, attended to, ended with its host.  See `guardian` for the other side."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time

from lovely.remotetask.common.process import openStandardDescriptors
from lovely.remotetask.common.process import programFiles
from lovely.remotetask.common.process import programUmask
from lovely.remotetask.execution import guardian


#: Seconds that a program has to end by itself after SIGTERM.
GRACE = 2.0
#: Seconds of one wait at most: what a selector can take.
_LONG = 86400.0
#: Those that can be handled, and so may have been inherited as ignored.
_SIGNALS = ' '.join(str(int(number)) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


class Group:
    """A program in a process group of its own, all of which ends when the program does, and when this process does.

    executable -- the absolute path of the program; `arguments` are its words, its name first.
    handles -- descriptors to pass on; the caller closes its own.
    options -- cwd, stdout and stderr, as for `subprocess.Popen`.  Standard input is empty.

    The program inherits the environment, but no other open file, no ignored or blocked signal, and the umask and the
    limit of open files that this process was started with.

    A context manager: after the exit nothing of it runs.  Raises `OSError`, here or in `follow`, when the program
    cannot be started.
    """

    def __init__(self, executable, arguments, handles=(), **options):
        self.status = None              # the exit status, or less than 0: a signal's number; None while it runs
        self.ending = False             # whether `end` was called
        self._said, self._lock, self._executable = b'', threading.Lock(), executable
        openStandardDescriptors()       # a pipe with such a number would be lost in the program
        with contextlib.ExitStack() as failed:
            self._selector = failed.enter_context(selectors.DefaultSelector())
            report, write = os.pipe()
            self._report = failed.enter_context(open(report, 'rb', buffering=0))
            self.watch(self._report, self._hear)
            try:
                self.process = subprocess.Popen(
                    [sys.executable, '-I', '-S', guardian.__file__, str(write), str(GRACE), _SIGNALS,
                     ' '.join(map(str, handles)), str(programFiles() or ''), executable, *arguments],
                    stdin=subprocess.PIPE, bufsize=0, start_new_session=True, umask=programUmask(),
                    pass_fds=(write, *handles), **options)
            finally:
                os.close(write)
            failed.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        with self._lock:
            self.process.stdin.close()
        with contextlib.suppress(OSError):          # that it could not be started has been said
            while self.status is None:
                self._hear(self._report)
        for resource in (self._selector, self._report, self.process.stdout, self.process.stderr):
            if resource is not None:
                resource.close()

    def watch(self, file, callback, events=selectors.EVENT_READ):
        """Let `follow` and `drain` call `callback(file)` whenever the file is ready for one of the events."""
        self._selector.register(file, events, callback)

    def ignore(self, file):
        """Watch that file no more."""
        self._selector.unregister(file)

    def end(self):
        """Send SIGTERM, and SIGKILL after GRACE.  May be called in any thread, twice, and after the end."""
        with self._lock:
            if not self.ending:
                self.ending = True
                with contextlib.suppress(BrokenPipeError, ValueError):
                    self.process.stdin.write(b'.')

    def describe(self, answer):
        """Call a function with a text that says which process runs which program.  May be called in any thread."""
        answer(f'process {self.pid or "-"}: {self._executable}')

    @property
    def pid(self):
        """The number of the program's process; None while that is not known."""
        return next((int(line[4:]) for line in self._said.splitlines() if line.startswith(b'pid ')), None)

    def ask(self):
        """Send SIGQUIT to the program, which must handle it.  May be called in any thread, and after the end."""
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):
            if not self.ending:
                self.process.stdin.write(b'?')

    def run(self, seconds):
        """Attend to the program until it has ended; end it after so many seconds, and then return False, else True."""
        if self.follow(seconds):
            return True
        self.end()
        self.follow(float('inf'))
        return False

    def follow(self, seconds):
        """Attend to the program until it has ended, and return True; or False after so many seconds."""
        until = time.monotonic() + seconds
        while self.status is None:
            if (left := until - time.monotonic()) <= 0:
                return False
            self._attend(left)
        return True

    def drain(self, seconds):
        """After the end: attend to what is still watched until nothing is, or so many seconds."""
        until = time.monotonic() + seconds
        while self._selector.get_map() and (left := until - time.monotonic()) > 0:
            self._attend(left)

    def _attend(self, seconds):
        for key, _ in self._selector.select(min(seconds, _LONG)):
            key.data(key.fileobj)

    def _hear(self, report):
        """Take what the guardian says; when it is gone, the program is."""
        if data := report.read(4096):
            self._said += data
            return
        self.ignore(report)
        said = {word: int(number) for word, number in map(bytes.split, self._said.splitlines())}
        # Where SIGCHLD is ignored the guardian's own status is unknown, and said to be 0; and no success is unknown.
        self.status = said.get(b'status', self.process.wait() or -signal.SIGKILL)
        if b'errno' in said:
            raise OSError(said[b'errno'], os.strerror(said[b'errno']))
        if b'status' not in said and b'pid' in said:            # somebody killed the guardian
            with contextlib.suppress(OSError):
                os.killpg(said[b'pid'], signal.SIGKILL)


def signalName(number):
    """Return the name of a signal as 'SIGKILL', or 'signal 35' when it has none of its own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f'signal {number}'
