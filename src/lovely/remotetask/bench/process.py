"""Processes: a client of the bench, and what Linux knows of the memory and the processor time of any process."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import json
import os
import re
import subprocess
import sys
import time

from lovely.remotetask.bench.settings import BenchError


#: Lines of a log that are shown when its process has died.
SHOWN = 20


class Client:
    """A process of `lovely.remotetask.bench.client`."""

    def __init__(self):
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(os.path.abspath, sys.path)))
        # Not of the terminal's group: a Ctrl-C is for us, who then end it.
        self._popen = subprocess.Popen([sys.executable, '-m', 'lovely.remotetask.bench.client'], text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       env=environment, start_new_session=True)
        self.pid = self._popen.pid

    def send(self, text):
        """Send a line."""
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.write(text + '\n')
            self._popen.stdin.flush()

    def answer(self):
        """Return the next answer, a dict.  Raise `BenchError` when there is none, or when it tells an error."""
        line = self._popen.stdout.readline()
        if not line:
            raise BenchError('a client process has ended', endOf(self._popen.stderr.read()))
        answer = json.loads(line)
        if 'error' in answer:
            raise BenchError(f'a client met {answer["error"]}')
        return answer

    def close(self):
        """End it."""
        self._popen.kill()
        self._popen.wait()
        for pipe in self._popen.stdin, self._popen.stdout, self._popen.stderr:
            with contextlib.suppress(OSError):
                pipe.close()


def peakMemory(pid):
    """Return the most bytes of memory that a process has had; 0 where there is no /proc."""
    match = re.search(r'^VmHWM:\s*([0-9]+) kB', contentOf(f'/proc/{pid}/status'), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def processorTime(pid):
    """Return the seconds of processor time that a process has taken, its ended threads included; 0 if it has ended."""
    # Its clock, as clock_getcpuclockid() in C gives it: /proc/PID/stat counts in hundredths of a second only.
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:                             # the process has ended
        return 0.0


def endedTime(pid):
    """Return the processor time of a process's ended children, in seconds; 0 if the process itself has ended."""
    fields = contentOf(f'/proc/{pid}/stat').rpartition(')')[2].split()
    return sum(map(int, fields[13:15])) / os.sysconf('SC_CLK_TCK')


def contentOf(path):
    """Return the text of a file; '' when it cannot be read."""
    try:
        with open(path, errors='replace') as file:
            return file.read()
    except OSError:
        return ''


def endOf(text):
    """Return the last `SHOWN` lines of a text."""
    return ''.join(line + '\n' for line in text.splitlines()[-SHOWN:])
