"""Which hosts live: judged by their processes on this machine, and by their last heartbeats elsewhere."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import os
import pathlib
import socket
import uuid

from lovely.remotetask.common.release import release


#: What is known of the owner of a ledger.
ALIVE, SILENT, ENDED = 'alive', 'silent', 'ended'


@functools.cache
def _machine():
    """Return what tells this machine, its boot and its process namespace from all others, as text."""
    parts = [socket.gethostname()]
    try:
        parts += [pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip(),
                  str(os.stat('/proc/self/ns/pid').st_ino)]
    except OSError:
        pass                # not Linux
    return '/'.join(parts)


def _cores():
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1              # not Linux


# Why not psutil (7.2): its `create_time` is counted from the boot time by the clock, so it moves when the clock is set,
# and a living host would be taken for another process.  What does not move is private there, and by its own words not
# reliable on all systems.  It knows nothing of boots and namespaces.  Without /proc this process still sees that
# another one is gone; only where its number was given to a new process it takes the lease to notice.

def _startOf(pid):
    """Return when a process was started, in the kernel's units; None when it is gone, '' when nobody can tell."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    try:
        with open(f'/proc/{pid}/stat') as stat:
            fields = stat.read().rpartition(')')[2].split()
    except OSError:
        return ''
    return None if fields[0] in 'ZX' else fields[19]       # a zombie runs nothing


def identity(**about):
    """Return a dict that tells one processor of this process from all others, for `Ledger.owner`.

    about -- what others may want to know of it besides: `threads`, how many run jobs; `lease`, in seconds; `since`, in
    UTC seconds; `generation`, the newest of stored data that it knows; `tasks`, patterns of the tasks that it takes, a
    tuple, if it does not take all.

    It also says on how many `cores` of the machine this process may run, and which `release` of the package it has.
    """
    pid = os.getpid()
    return {'token': uuid.uuid4().hex, 'machine': _machine(), 'cores': _cores(), 'pid': pid,
            'started': _startOf(pid), 'release': release(), **about}


def isGone(owner):
    """Return whether the owner of a ledger has ended: True, False, or None when this process cannot tell.

    It cannot tell of a host on another machine, nor of one whose entry in /proc is hidden from it.
    """
    if owner is None:
        return True
    if owner['machine'] != _machine():
        return None
    start = _startOf(owner['pid'])
    if start is None or start == owner['started']:
        return start is None
    return None if '' in (start, owner['started']) else True


def freeName(service, names):
    """Return the first of these names of ledgers that no host has which may live; None when each is taken."""
    ledgers = service.ledgers
    return next((name for name in names if name not in ledgers or isGone(ledgers[name].owner)), None)


def livingHosts(service, now):
    """Return what is known of the living processors of a service: see `ITaskService.getProcessingHosts`.

    now -- UTC seconds; of hosts on other machines only the clocks can tell whether they live.
    """
    found = []
    for name, ledger in service.ledgers.items():
        owner = ledger.owner
        gone = isGone(owner)
        if gone or gone is None and now - (ledger._p_mtime or now) > owner.get('lease', 30.0):
            continue
        threads = owner.get('threads', 1)
        found.append({'name': name, 'machine': owner['machine'].partition('/')[0], 'pid': owner['pid'],
                      'threads': threads, 'since': owner.get('since'), 'release': owner.get('release'),
                      'jobs': len(ledger.claimed),
                      'tasks': list(owner['tasks']) if 'tasks' in owner else None,
                      'processing': bool(threads) and not service.paused,
                      'scheduling': service.schedule.scheduler == name})
    return found


class LivenessMonitor:
    """Judges the owners of ledgers by this process's own monotonic clock: no two hosts' clocks are ever compared.

    lease -- seconds for which the ledger of a living host may stay unchanged; a host that has a longer lease gets that.
    """

    def __init__(self, lease):
        self.lease = lease
        self._seen = {}                                 # name -> serial of the ledger, and when it was seen first
        self._since = self._wrote = float('-inf')       # between these this process could write all the time

    def wrote(self, now):
        """Note that a commit of this process has succeeded.

        now -- seconds of the monotonic clock, after the commit.
        """
        if now - self._wrote > self.lease / 2:
            self._since = now
        self._wrote = now

    def leaseOf(self, owner):
        """Return for how many seconds the owner of a ledger, not None, may be silent."""
        return max(self.lease, owner.get('lease', self.lease))

    def stateOf(self, name, ledger, now):
        """Return what is known by now of the owner of a ledger: ALIVE, SILENT or ENDED.

        name -- of the ledger.
        now -- seconds of the monotonic clock.
        """
        owner = ledger.owner            # loads the record: until then it has the serial of a state that may be old
        serial = ledger._p_serial
        seen = self._seen.get(name)
        if seen is None or seen[0] != serial:
            seen = self._seen[name] = serial, now
        if isGone(owner):
            return ENDED
        # A process that is stopped, or hangs, is there and silent.
        silence = self._wrote - max(self._since, seen[1])
        return SILENT if silence > self.leaseOf(owner) else ALIVE
