"""Who runs under a ledger's name, whether that process is still alive, and taking over from one that is not."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import os
import pathlib
import socket
import uuid

from lovely.remotetask.errors import HostDied
from lovely.remotetask.execute import policyOf
from lovely.remotetask.execute import queryTask
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.job import Failure
from lovely.remotetask.ledger import ALONE
from lovely.remotetask.ledger import ONCE
from lovely.remotetask.lifecycle import Outcome
from lovely.remotetask.lifecycle import Recorded
from lovely.remotetask.lifecycle import charge
from lovely.remotetask.lifecycle import giveBack
from lovely.remotetask.lifecycle import holds
from lovely.remotetask.lifecycle import settle


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
    """Say whether the owner of a ledger has ended: True, False, or None when it ran on another machine."""
    if owner is None:
        return True
    if owner['machine'] != _machine():
        return None
    return _startOf(owner['pid']) != owner['started']


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
    """Judges ledgers by this process's own monotonic clock: no two hosts' clocks are ever compared.

    A process of this machine that has ended is dead at once; else its lease has to be over.

    lease -- seconds for which the ledger of a living host may stay unchanged.
    """

    def __init__(self, lease):
        self.lease = lease
        self._seen = {}

    def isDead(self, name, ledger, now):
        """Say whether the owner of a ledger is dead, as far as is known by now.

        name -- of the ledger.
        now -- seconds of the monotonic clock.
        """
        serial = ledger._p_serial
        before = self._seen.get(name)
        if before is None or before[0] != serial:
            before = self._seen[name] = serial, now
        # A process that is stopped, or hangs, is there and silent.
        return bool(isGone(ledger.owner)) or now - before[1] > self.lease


def rescue(service, name, now):
    """Return the jobs that a dead host has claimed to their queues; return how many there were.

    name -- of its ledger.
    now -- UTC seconds.

    One of them may be the reason why the host is dead.  Those that were being run, as far as that is on record, have
    used up an attempt: all of them, or, if there was a suspect among them, it alone.  Of the others nobody knows, so
    they become suspects: they are run one at a time, their start on record, until the culprit is found.  A job that
    must not be begun twice ends.
    """
    ledger = service.ledgers[name]
    started = ledger.started or {}
    culprit = next((jobid for jobid, mark in started.items() if mark == ALONE), None)
    jobids = list(ledger.claimed.keys())
    for jobid in jobids:
        mark = started.get(jobid)
        if mark == ONCE or mark is not None and culprit in (None, jobid):
            _interrupted(service, ledger, jobid, mark, HostDied(name), now)
        else:
            giveBack(service, ledger, jobid, now, suspect=culprit is None)
    return len(jobids)


def _interrupted(service, ledger, jobid, mark, error, now):
    """Charge a job for the run that its host's end has ended."""
    job, claim = service.jobs.get(jobid), Recorded(jobid, ledger.claimed[jobid])
    if holds(job, claim):
        once = mark == ONCE
        failure = Failure(now, f'{error}; it is not run again, because it must not run twice' if once else str(error),
                          '', error.host)
        if once or job.attempt + 1 >= policyOf(job, queryTask(service, job.task)).attempts:
            settle(service, ledger, Outcome(jobid, claim.run, ERROR, job.started, now, failure=failure), now)
            return
        charge(job, failure)
    giveBack(service, ledger, jobid, now, suspect=mark == ALONE)


def interrupt(service, name, jobid, unstarted, now):
    """Give a claim back whose host stops in good order: no attempt is charged, but what must not run twice ends."""
    ledger = service.ledgers[name]
    if not unstarted and ledger.started.get(jobid) == ONCE:
        _interrupted(service, ledger, jobid, ONCE, HostDied(name), now)
    else:
        giveBack(service, ledger, jobid, now, started=not unstarted)
