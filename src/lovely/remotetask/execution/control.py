"""What a running task and its host tell one another: how far it is, and that it is to end."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import sys
import threading
import traceback

from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import isNumber
from lovely.remotetask.errors import RemoteTaskError


#: Calls of a stack that are told, the innermost ones.
MOST_CALLS = 200

_current = threading.local()


class Interrupted(RemoteTaskError):
    """The run was told to end before it was done; its outcome does not matter any more, or is decided elsewhere."""


class Control:
    """Of one run of one job.  The task's thread and the host's may use it at the same time.

    jobid -- the id of the job.
    onProgress -- called without arguments after each report of progress; default: nothing happens.
    """

    def __init__(self, jobid, onProgress=None):
        self.jobid = jobid
        self.reason = None              # why the run is to end, a sentence; None as long as it may go on
        self.watched = False            # whether the run can be told to end
        self.progress = None            # the last report: fraction from 0 to 1 or None, and a message
        self.examine = None             # called with an exception of the task before it is dealt with: a debugger
        self._onProgress = onProgress
        self.thread = None              # the number of the thread that does the run
        self._lock = threading.Lock()
        self._stoppers, self._lookers = [], []

    def end(self, reason):
        """Tell the run to end; the first reason counts.  Called by the host, in a thread of its own."""
        with self._lock:
            if self.reason is not None:
                return
            self.reason = reason
            stoppers = list(self._stoppers)
        for stop in stoppers:
            stop()

    @contextlib.contextmanager
    def stoppedBy(self, stop, look=None):
        """While entered, have `stop` called once, in another thread, when the run is told to end.

        look -- called with a function, in another thread, when somebody asks where the run is: it calls that function
            with a text, at once or later.  None for where the thread is.

        Raise `Interrupted` when it has been already, and at the exit when it was told so meanwhile.
        """
        with self._lock:
            self.watched = True
            if self.reason is None:
                self._stoppers.append(stop)
        self.check()
        self._lookers.append(look)
        try:
            yield
        finally:
            self._lookers.pop()
            with self._lock:
                self._stoppers.remove(stop)
        self.check()

    def look(self, answer):
        """Find out where the run is right now; called by the host, in a thread of its own.

        answer -- called with a text, here or later in any thread.
        """
        look = next(iter(self._lookers[-1:]), None)
        if look is not None:
            look(answer)
        else:
            answer(stackOf(sys._current_frames().get(self.thread)))

    def check(self):
        """Raise `Interrupted` when the run is to end."""
        self.watched = True
        if self.reason is not None:
            raise Interrupted(self.reason)

    def report(self, fraction, message=''):
        """Report how far the run is: a number from 0 to 1, or None if nobody knows, and a text.  Raise `ValueError`."""
        check('progress', fraction, fraction is None or isNumber(fraction, 0, 1), 'a number from 0 to 1')
        check('message', message, isinstance(message, str), 'a text')
        self.progress = None if fraction is None else float(fraction), message[:1000]
        if self._onProgress is not None:
            self._onProgress()


def stackOf(frame):
    """Return the stack of a thread as text, the innermost call last: files, lines, functions, no values.

    frame -- its innermost one; None when it has ended.
    """
    if frame is None:
        return 'the run has just ended'
    calls = traceback.StackSummary.extract(traceback.walk_stack(frame), limit=MOST_CALLS)
    calls.reverse()
    return ''.join(calls.format())


def current():
    """Return the `Control` of the run that this thread does; None if it does none."""
    return getattr(_current, 'control', None)


@contextlib.contextmanager
def running(control):
    """While entered, this thread does the run of that `Control`."""
    _current.control, control.thread = control, threading.get_ident()
    try:
        yield control
    finally:
        _current.control = control.thread = None
