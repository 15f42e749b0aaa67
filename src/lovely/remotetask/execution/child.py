"""One run of a task in a child process: started, talked to, limited, ended."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import functools
import logging
import os
import pickle
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback

from lovely.remotetask.common.process import openStandardDescriptors
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import TimeLimitExceeded
from lovely.remotetask.execution.control import Control
from lovely.remotetask.execution.control import running
from lovely.remotetask.execution.control import stackOf
from lovely.remotetask.execution.group import GRACE
from lovely.remotetask.execution.group import Group
from lovely.remotetask.execution.group import signalName
from lovely.remotetask.execution.relay import Relay
from lovely.remotetask.execution.relay import Sender
from lovely.remotetask.functions import callTask


log = logging.getLogger('lovely.remotetask')

#: Seconds to wait for the output of processes that the task left behind, where nobody can end them.
DRAIN = 1.0

_LENGTH = struct.Struct('!Q')           # stands before each pickle, in both directions
_CHUNK = 256 * 1024


class ChildDied(RemoteTaskError):
    """The child process ended before the task did; what the task had done by then is not known."""

    def __init__(self, status):
        """`status` is the exit status, or less than 0: the number of a signal."""
        self.status = status
        super().__init__(f'the child process was killed by {signalName(-status)}' if status < 0 else
                         f'the child process ended with exit status {status} before the task had returned')


class ForeignError(RemoteTaskError):
    """An exception of the task that cannot leave the child process; its type and message are what is left of it."""


class RemoteTraceback(Exception):
    """The traceback that an exception had in the child process; it is the `__cause__` of that exception here."""

    def __str__(self):
        return f'in the child process:\n\n{self.args[0]}'


# In the host

def checkIsolated(task):
    """Raise `ValueError` when the task cannot be handed to a child process."""
    try:
        pickle.loads(pickle.dumps(task))
    except Exception as error:
        raise ValueError(f'{task!r} cannot run in a child process, which has to import it: {error}; use a function or '
                         f'class at the top of a module') from error


def runInChild(task, jobid, input, control=None, timeLimit=None, memoryLimit=None, label=None, extra=None):
    """Call a task in a new Python process; return what it returned, or raise what it raised.

    task -- an `ITask` that can be pickled: by the name of its function or class, which the child imports.  It is
        called with a `ChildService`, as the child has no database, and finds its `Control` by `control.current`.
    jobid, input -- of the job.
    control -- the `Control` of the run: it gets the progress, and its `end` ends the child.
    timeLimit -- seconds; None for any.
    memoryLimit -- bytes of address space, as counted by RLIMIT_AS: the interpreter, its libraries and mapped files are
        among them; None for any.  Beyond it the task gets a `MemoryError`.

    label -- how each line of the log begins that the task logs, or prints, at the level INFO; None to have it print to
        where this process does, as it also does when lines of that level are not logged.
    extra -- what these lines have besides: see `logs.about`.

    The task reads nothing from its standard input.  When it has returned, all
    processes that it started are killed; when this process dies, so are it and they.

    An exception has its type, and the traceback of the child as its `__cause__`; one that cannot be pickled is raised
    as `ForeignError`.  Further raise `TaskError` when task, input or result cannot be pickled, `TimeLimitExceeded`,
    `ChildDied`, and `control.Interrupted`.
    """
    try:
        checkIsolated(task)
    except ValueError as error:
        raise TaskError(str(error)) from error
    try:
        request = _framed((task, jobid, input))
    except Exception as error:
        raise TaskError(f'the input cannot be handed to a child process: {error}') from error
    openStandardDescriptors()           # or the sockets might be among them
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            relay = None if label is None else Relay(label, extra)
            takesPrints = relay is not None and log.isEnabledFor(logging.INFO)
            pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE} if takesPrints else {}
            group = Group(sys.executable, _command(theirs.fileno(), memoryLimit, relay and log.getEffectiveLevel()),
                          [theirs.fileno()], **pipes)
        with group, contextlib.ExitStack() as stack:
            talk = _Talk(group, ours, request, control, relay)
            if control is not None:
                stack.enter_context(control.stoppedBy(group.end, talk.look))
            if takesPrints:
                relay.watch(group, group.process.stdout, group.process.stderr)
            expired = not group.run(float('inf') if timeLimit is None else timeLimit)
            while talk.go(ours):                    # what is still in the socket's buffer
                pass
            if takesPrints:
                group.drain(DRAIN)
                relay.close()
    if talk.outcome is None:
        raise TimeLimitExceeded(timeLimit) if expired else ChildDied(group.status)
    result, error = talk.outcome
    if error is not None:
        raise error
    return result


def _command(descriptor, memoryLimit, level):
    """Return the words that start the child."""
    # Our sys.path, and not in the environment: programs that the task runs may be Python of another version.
    path = [os.path.abspath(place) for place in sys.path]
    return [sys.executable, '-c', f'import sys; sys.path[:] = {path!r}; from lovely.remotetask.execution import child; '
                                  f'child.main({descriptor}, {memoryLimit!r}, {level!r})']


class _Talk:
    """The host's side of the conversation: the request goes out, messages come in."""

    def __init__(self, group, connection, request, control, relay):
        self._relay = relay
        self.outcome = None             # the pair of result and exception, one of them None
        self._group, self._control = group, control
        self._request, self._received, self._isOpen = memoryview(request), bytearray(), True
        self._canAsk, self._answer = False, None        # whether the child tells where it is; whom that is for
        connection.setblocking(False)
        group.watch(connection, self.go, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def go(self, connection):
        """Write and read what can be written and read now; return whether there may be more to read."""
        if self._request:
            self._write(connection)
        if not self._isOpen:
            return False
        try:
            data = connection.recv(_CHUNK)
        except BlockingIOError:
            return False
        except ConnectionResetError:                # it died before it had read the request
            data = b''
        if not data:
            self._isOpen = False
            self._group.ignore(connection)
            return False
        self._received += data
        while message := _unframed(self._received):
            if not self._group.ending:              # the answer to a requested end does not count
                getattr(self, '_' + message[0])(*message[1:])
        return True

    def _write(self, connection):
        try:
            self._request = self._request[connection.send(self._request[:_CHUNK]):]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._request = None
        if not self._request:                       # from now on, wait for something to read only
            self._group.ignore(connection)
            self._group.watch(connection, self.go)

    def look(self, answer):
        """See `Control.stoppedBy`.  Nothing comes as long as the child is in a call that is not of Python."""
        if self._canAsk:
            self._answer = answer
            self._group.ask()
        else:
            self._group.describe(answer)

    def _ready(self):
        self._canAsk = True

    def _stack(self, text):
        answer, self._answer = self._answer, None
        if answer is not None:
            self._group.describe(lambda process: answer(f'{process}\n{text}'))

    def _progress(self, fraction, message):
        if self._control is not None:
            self._control.report(fraction, message)

    def _log(self, *record):
        if self._relay is not None:
            self._relay.logged(*record)

    def _result(self, data):
        try:
            self.outcome = pickle.loads(data), None
        except Exception as error:
            self.outcome = None, TaskError(f'the result cannot be unpickled: {type(error).__name__}: {error}')

    def _error(self, data, summary, text):
        try:
            error = pickle.loads(data)
        except Exception:                           # its module is known in the child only; or there is no data
            error = ForeignError(summary)
        error.__cause__ = RemoteTraceback(text)
        self.outcome = None, error


# In the child

class ChildService:
    """What a task in a child process gets in place of the service."""

    def __init__(self, control):
        self._control = control

    def isCancelled(self, jobid):
        """Return False: the child of a cancelled job is ended, it need not ask."""
        return False

    def setProgress(self, jobid, fraction, message=''):
        """Report how far the run is; see `Control.report`."""
        self._control.report(fraction, message)

    def __getattr__(self, name):
        raise AttributeError(f'a task that runs in a child process has no database: of the service it has isCancelled '
                             f'and setProgress, not {name}')


def main(descriptor, memoryLimit, level=None):
    """Do the run that is asked for on a socket, and answer there.

    descriptor -- of the socket.
    memoryLimit -- bytes, or None.
    level -- of `logging`: the host logs what is logged here from this level on; None if it logs nothing of it.
    """
    with socket.socket(fileno=descriptor) as connection:
        connection.set_inheritable(False)
        lock = threading.Lock()

        def send(*message):
            data = _framed(message)
            with lock:                              # threads of the task may report progress at the same time
                connection.sendall(data)

        def tellStack(number, frame):
            if lock.acquire(blocking=False):        # else it is telling something anyway
                try:
                    with contextlib.suppress(Exception):        # the task, which this interrupts, is not to get it
                        connection.sendall(_framed(('stack', stackOf(frame))))
                finally:
                    lock.release()

        if level is not None:
            logging.basicConfig(level=level, handlers=[Sender(functools.partial(send, 'log'))])
            sys.stdout.reconfigure(line_buffering=True)     # what is printed stands where it belongs in the log
        try:
            with _limited(memoryLimit), _asked(tellStack, send):
                result = _call(connection, send)
            answer = 'result', _pickled(result)
        except (Exception, SystemExit) as error:
            answer = 'error', *_described(error)
        send(*answer)
    # Do what is to be done at exit, but do not wait for a thread that the task left behind.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, GRACE)


@contextlib.contextmanager
def _asked(tell, send):
    """While entered, SIGQUIT is the question where this process is; it is ignored after that."""
    signal.signal(signal.SIGQUIT, tell)
    send('ready')
    try:
        yield
    finally:
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)


@contextlib.contextmanager
def _limited(bytes):
    """While entered, the address space of this process is limited; what an error needs to be told is had again then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if bytes is not None:
        limit = bytes if hard == resource.RLIM_INFINITY else min(bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _call(connection, send):
    """Read the request, and return what the task returns."""
    size, = _LENGTH.unpack(_read(connection, _LENGTH.size))
    data = _read(connection, size)
    try:
        task, jobid, input = pickle.loads(data)
    except MemoryError:
        raise
    except Exception as error:
        raise TaskError(f'the child process cannot load the task or its input: {type(error).__name__}: '
                        f'{error}') from error
    del data
    control = Control(jobid, onProgress=lambda: send('progress', *control.progress))
    with running(control):
        return callTask(task, ChildService(control), jobid, input)


def _read(connection, size):
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError('the host has closed the connection')
        view = view[count:]
    return data


def _pickled(result):
    try:
        return pickle.dumps(result)
    except Exception as error:
        raise TaskError(f'the task returned something that cannot leave the child process: {error}') from error


def _described(error):
    """Return what the host needs of an exception: a pickle or None, a line, and the traceback."""
    name = type(error).__name__
    return (next(_pickles(error), None), f'{name}: {error}' if str(error) else name,
            ''.join(traceback.format_exception(error)))


def _pickles(error):
    """Yield pickles that are the same exception again when they are loaded."""
    for form in error, _Plain(error):
        with contextlib.suppress(Exception):
            data = pickle.dumps(form)
            copy = pickle.loads(data)
            if type(copy) is type(error) and str(copy) == str(error):
                yield data


class _Plain:
    """Is pickled as an exception made without its `__init__`, which may want other arguments than it passed on."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        return _make, (type(self.error), self.error.args, vars(self.error))


def _make(kind, args, attributes):
    error = kind.__new__(kind, *args)
    vars(error).update(attributes)
    return error


# In both

def _framed(message):
    data = pickle.dumps(message)
    return _LENGTH.pack(len(data)) + data


def _unframed(received):
    """Take the first message off the bytes received, and return it; None while it is not complete."""
    if len(received) < _LENGTH.size:
        return None
    end = _LENGTH.size + _LENGTH.unpack_from(received)[0]
    if len(received) < end:
        return None
    message = pickle.loads(received[_LENGTH.size:end])
    del received[:end]
    return message
