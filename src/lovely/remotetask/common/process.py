"""What a process inherits from its parent, and how this package sets it right: see operating.txt."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import errno
import logging
import os
import pwd
import resource
import signal
import sys


log = logging.getLogger('lovely.remotetask')

#: The signals that process 1 passes on to the process that does the work.
PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

# What was inherited and has been changed, for the programs that tasks start; None where it has not been changed.
_umask = None
_files = None

# How many files have been asked for; from the beginning about what a process has open anyway.
_needed = 200


def openStandardDescriptors():
    """Open /dev/null as standard input, output and error output where these are closed.

    Otherwise the next file that is opened takes the place of one of them: whatever is written to the "standard error
    output" may then end up in a database.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is taken, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for descriptor, name, mode in ((0, 'stdin', 'r'), (1, 'stdout', 'w'), (2, 'stderr', 'w')):
        if getattr(sys, name) is None:          # so Python says that it was closed
            stream = open(descriptor, mode, encoding='utf-8', errors='backslashreplace', closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f'__{name}__', stream)


def discard(stream):
    """Make a text stream of the process write to /dev/null from now on, as when nobody reads it any more."""
    with contextlib.suppress(OSError):          # it is no file at all
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)


def resetSignals():
    """Block no signal, and do not ignore the end of children, which would hide their exit status.

    To be called in the main thread, before others start.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def keepFilesPrivate():
    """Let no other user than this process's read or write what it creates from now on."""
    global _umask
    inherited = os.umask(0o077)
    if _umask is None:
        _umask = inherited


def programUmask():
    """Return the umask for the programs that tasks start, the inherited one; -1 if it is still that of the process."""
    return -1 if _umask is None else _umask


def allowFiles(count, purpose):
    """Let this process have more files open, as far as the system does; log a warning when that is not enough.

    count -- how many are needed besides those that were asked for before.
    purpose -- what they are for, in the words of the warning.
    """
    global _files, _needed
    _needed += count
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _needed:
        return
    allowed = _needed if hard == resource.RLIM_INFINITY else min(_needed, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if _files is None:
            _files = soft
    if allowed < _needed:
        log.warning('the process may have %d files open and may need %d, %d of them for %s: raise the hard limit '
                    '(ulimit -Hn, LimitNOFILE=)', allowed, _needed, count, purpose)


def programFiles():
    """Return how many files the programs that tasks start may have open, the inherited limit; None if it is unchanged.
    """
    return _files


def reapAsProcessOne():
    """As process 1 of a container, go on in a child process; in any other process do nothing.

    The parent waits for all children.  The system gives it those of processes that have ended, and they would stay
    zombies if nobody waited for them.  The process that runs tasks must not do that itself: it would take the exit
    status of a child that a task waits for.  It passes signals on to the child process, and ends as that does.

    To be called before other threads start.
    """
    if os.getpid() != 1:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    inherited = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)     # what comes now waits for the handlers
    child = os.fork()
    if not child:
        _ownTheTerminal()
        signal.pthread_sigmask(signal.SIG_SETMASK, inherited)
        return

    def passOn(number, frame):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in PASSED_ON:
        signal.signal(number, passOn)
    signal.pthread_sigmask(signal.SIG_SETMASK, inherited)
    pid = status = None
    while pid != child:
        pid, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _ownTheTerminal():
    """Make Ctrl-C at the terminal reach this process alone, and not once more by process 1."""
    os.setpgid(0, 0)
    previous = signal.signal(signal.SIGTTOU, signal.SIG_IGN)            # or asking for the terminal would stop us
    with contextlib.suppress(OSError):                                  # there is no terminal
        os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, previous)


def hasTerminal():
    """Return whether the process has a controlling terminal, one whose end it is told of by SIGHUP."""
    try:
        os.close(os.open('/dev/tty', os.O_RDONLY | os.O_NOCTTY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)              # it may be there: nothing was seen
    return True


def ownerName():
    """Return the name of the user of this process, or his number when he has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:                            # as in some containers
        return str(os.getuid())


def osUser():
    """Return who runs this process, for the note of a transaction: 'os:ann', which no user of the front end is called.
    """
    return f'os:{ownerName()}'
