"""The process between a host and a program: when the host is gone, it ends the program and all that this started.

A script that `group` starts with `-I -S`: it imports little, to be there in ten milliseconds.  Its standard input is a
pipe that only the host holds the other end of.
"""
# SPDX-License-Identifier: ZPL-2.1
import _signal
import _thread
import os
import select
import sys


_QUIT, _TERM, _KILL = 3, 15, 9          # the same everywhere; the module `signal` takes as long as all the rest


def main(report, grace, signals, handles, files, executable, *arguments):
    """Run a program, and report on a pipe, in lines of a word and a number: pid and status, or the errno of its start.

    report -- the descriptor of that pipe.
    grace -- seconds from SIGTERM to SIGKILL.
    signals -- numbers of those that the program neither ignores nor handles at first; it blocks none.
    handles -- descriptors that are the program's only.
    files -- how many files the program may have open; '' for as many as this process.
    executable, arguments -- of the program; arguments[0] is its name.
    """
    report = int(report)
    os.set_inheritable(report, False)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)        # if it were ignored, nobody would get the exit status
    _openOutputs()
    if files:
        _limitFiles(int(files))
    try:
        # A group of its own: what it signals to all of its group does not reach us.
        group = os.posix_spawn(
            executable, arguments, os.environ, setpgroup=0, setsigmask=(),
            setsigdef=[int(number) for number in signals.split()],
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)])
    except OSError as error:
        os.write(report, b'errno %d\n' % error.errno)
        return
    try:
        os.write(report, b'pid %d\n' % group)
        _thread.start_new_thread(_obey, (group, float(grace)))
        for handle in (1, 2, *map(int, handles.split())):
            os.close(handle)
        _, status = os.waitpid(group, 0)
    finally:
        # Its children go with it.  As long as one of them lives the number of the group is not given to anybody else.
        _send(group, _KILL)
    os.write(report, b'status %d\n' % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _openOutputs():
    """Open /dev/null as those of the two standard outputs that are closed: in the host they may be any other file."""
    for descriptor in (1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_WRONLY), True)      # takes the lowest free number


def _limitFiles(count):
    import resource  # seldom needed
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _obey(group, grace):
    """Wait for the host's word: ? sends the program SIGQUIT, a dot asks the group to end, the end of the pipe ends it.
    """
    while (word := os.read(0, 1)) == b'?':
        try:
            os.kill(group, _QUIT)
        except OSError:
            pass
    if word:
        _send(group, _TERM)
        select.select([0], [], [], grace)
    _send(group, _KILL)


def _send(group, number):
    try:
        os.killpg(group, number)
    except OSError:                     # nobody is left, or only what took another user's rights
        pass


if __name__ == '__main__':
    main(*sys.argv[1:])
