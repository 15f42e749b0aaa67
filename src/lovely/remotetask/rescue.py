"""Who runs under a ledger's name, whether that process is still alive, and taking over from one that is not.

A *heartbeat* is a commit that writes the record of a host's ledger: the `Ledger` itself, not only the trees below it.
The owner of a ledger sees to it that there is one at least each third of its lease.

A host has *ended* when its process is gone, which only its own machine can see.  A host is *silent* when the record of
its ledger has not changed for a whole lease.  Three rules keep a living host from being rescued:

1.  An observer counts only time in which it could write itself: no two of its own commits are more than half a lease
    apart.  After a longer gap it begins to watch anew.  It does not matter where the gap comes from: the database was
    away, somebody else held the commit lock, the observer was stopped or slow.
    This is enough where a database serves waiting commits in turn: a heartbeat begins a third of a lease after the one
    before, and waits for half a lease at the most, or the observer would have waited for so long, too.
2.  A rescue writes the record of the ledger: it has no owner any more.  Of two transactions that write one record the
    database lets only one commit.  So a heartbeat that the observer has not seen yet refuses the rescue, and of two
    hosts that rescue a third one only one succeeds.
3.  A host that was rescued and lives finds its ledger without an owner.  It takes the ledger back, has the runs that it
    has lost end, and goes on with new claims.  What these runs still do is refused: their jobs have another run number.
"""
# SPDX-License-Identifier: ZPL-2.1
import functools
import os
import pathlib
import socket
import uuid

from lovely.remotetask.errors import HostDied
from lovely.remotetask.execute import policyOf
from lovely.remotetask.execute import queryTask
from lovely.remotetask.job import Failure
from lovely.remotetask.ledger import ALONE
from lovely.remotetask.ledger import ONCE
from lovely.remotetask.transitions import Recorded
from lovely.remotetask.transitions import giveBack
from lovely.remotetask.transitions import holds
from lovely.remotetask.transitions import interrupted


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
    UTC seconds.

    It also says on how many `cores` of the machine this process may run.
    """
    pid = os.getpid()
    return {'token': uuid.uuid4().hex, 'machine': _machine(), 'cores': _cores(), 'pid': pid,
            'started': _startOf(pid), **about}


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


def hosts(service, now):
    """Return what is known of the living processors of a service: see `ITaskService.getProcessingHosts`.

    now -- UTC seconds; of hosts on other machines only the clocks can tell whether they live.
    """
    found = []
    for name, ledger in service.ledgers.items():
        owner = ledger.owner
        if owner is None or isGone(owner):
            continue
        seen = ledger._p_mtime or now
        if isGone(owner) is None and now - seen > owner.get('lease', 30.0):
            continue
        threads = owner.get('threads', 1)
        found.append({'name': name, 'machine': owner['machine'].partition('/')[0], 'pid': owner['pid'],
                      'threads': threads, 'since': owner.get('since'), 'jobs': len(ledger.claimed),
                      'processing': bool(threads) and not service.paused,
                      'scheduling': service.schedule.keeper == name})
    return found


class Watch:
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


def rescue(service, name, now, silent=None):
    """Return the jobs that a lost host has claimed to their queues; return how many there were.

    name -- of its ledger, which has no owner then.
    now -- UTC seconds.
    silent -- seconds, of its lease: nothing was heard of it for so long; default: its process has ended.

    One of them may be the reason why the host was lost.  Those that were being run, as far as that is on record, have
    used up an attempt: all of them, or, if there was a suspect among them, it alone.  Of the others nobody knows, so
    they become suspects: they are run one at a time, their start on record, until the culprit is found.  A job that
    must not be begun twice ends.
    """
    ledger = service.ledgers[name]
    ledger.owner = None                 # even where it was None: who rescues writes the record of the ledger
    started = ledger.started
    culprit = next((jobid for jobid, mark in started.items() if mark == ALONE), None)
    jobids = list(ledger.claimed.keys())
    for jobid in jobids:
        mark = started.get(jobid)
        if mark == ONCE or mark is not None and culprit in (None, jobid):
            _interrupted(service, ledger, jobid, mark, HostDied(name, silent), now)
        else:
            giveBack(service, ledger, jobid, now, suspect=culprit is None)
    return len(jobids)


def _interrupted(service, ledger, jobid, mark, error, now):
    """Charge a job for the run that its host's end has ended, if it still waits for that run."""
    job, claim = service.jobs.get(jobid), Recorded(jobid, ledger.claimed[jobid])
    if holds(job, claim):
        once = mark == ONCE
        failure = Failure(now, f'{error}; it is not run again, because it must not run twice' if once else str(error),
                          '', error.host)
        attempts = 0 if once else policyOf(job, queryTask(service, job.task)).attempts
        interrupted(service, ledger, job, failure, attempts, now, suspect=mark == ALONE)
    else:
        giveBack(service, ledger, jobid, now)


def interrupt(service, name, jobid, unstarted, now):
    """Give a claim back whose host stops in good order: no attempt is charged, but what must not run twice ends."""
    ledger = service.ledgers[name]
    if not unstarted and ledger.started.get(jobid) == ONCE:
        _interrupted(service, ledger, jobid, ONCE, HostDied(name), now)
    else:
        giveBack(service, ledger, jobid, now, started=not unstarted)
