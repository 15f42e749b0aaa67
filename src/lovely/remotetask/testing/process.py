"""A process of this Python whose output a test reads."""
# SPDX-License-Identifier: ZPL-2.1
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from types import MappingProxyType


#: Seconds until a test fails that waits for something which takes a few on an idle machine: a busy one gets more.
PATIENCE = 120.0


class Process:
    """A process of this Python, with the same packages, whose output is read as it comes.

    arguments -- of the interpreter, texts: '-m', 'lovely.remotetask.cli.main', 'serve'
    directory -- the path of the one where it runs; modules there can be imported.
    environment -- variables that it has besides those of this process, or instead of them: a dict.
    """

    def __init__(self, arguments, directory, environment=MappingProxyType({})):
        path = [directory, *(os.path.abspath(entry) for entry in sys.path)]
        self.arguments = arguments
        self.popen = subprocess.Popen(
            [sys.executable, '-u', *arguments], cwd=directory, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={**os.environ, 'PYTHONPATH': os.pathsep.join(path), **environment})
        self.pid = self.popen.pid
        self.said = []                  # all lines until now, of both its outputs
        self._lines = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.popen.stdout:
            self.said.append(line)
            self._lines.put(line.rstrip('\n'))
        self._lines.put(None)

    def waitFor(self, beginning, timeout=PATIENCE):
        """Return the rest of the next line that begins so.

        timeout -- seconds.

        Raise an AssertionError with all that the process has said when there comes none.
        """
        until = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0, until - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f'{self.arguments} did not say {beginning!r}:\n' + ''.join(self.said))
            if line.startswith(beginning):
                return line[len(beginning):]

    def end(self, number=signal.SIGTERM):
        """Send the signal, wait for the end and return the exit code, negative for a signal.

        Raise `subprocess.TimeoutExpired` when it does not end within PATIENCE seconds.
        """
        self.popen.send_signal(number)
        code = self.popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def close(self):
        """Kill it if it still runs, and let go of all that belongs to it.  Twice is fine."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._reader.join(PATIENCE)
        self.popen.stdout.close()
