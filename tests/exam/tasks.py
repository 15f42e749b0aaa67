"""What the jobs of the exam do: count in the database, write a line to a file, fail, or end their host."""
# SPDX-License-Identifier: ZPL-2.1
import ctypes
import hashlib
import os
import time

import transaction
from BTrees.IOBTree import IOBTree
from persistent import Persistent
from zope.interface import Interface
from zope.interface import implementer

from lovely.remotetask.errors import Retry
from lovely.remotetask.interfaces import ITask


#: Keys of the root object: number of an order -> `Counter`; id of a job that a schedule added -> `Counter`; one
#: `Counter` that many jobs write.
ORDERS, TICKS, SHARED = 'exam.orders', 'exam.ticks', 'exam.shared'

#: Counters made in a transaction: there can be millions.
AT_ONCE = 10_000

#: The file that all processes append to, in the directory where they run.
TRACE = 'trace'

#: What a line of it begins with: a run has begun; its outside effect has happened.
BEGUN, EFFECT = 'begun', 'effect'


class Counter(Persistent):
    """How often a job has had its effect."""

    value = 0


def prepare(root, orders, commit):
    """Make the counters, and `commit` them.  Each order finds its own, so that two of them never conflict."""
    root[ORDERS], root[TICKS], root[SHARED] = IOBTree(), IOBTree(), Counter()
    for number in range(orders):
        root[ORDERS][number] = Counter()
        if not number % AT_ONCE:
            commit()
    commit()


def trace(word, jobid):
    """Append a line by one write: lines of many processes do not mix."""
    descriptor = os.open(TRACE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f'{word} {jobid} {os.getpid()} {time.time():.3f}\n'.encode())
    finally:
        os.close(descriptor)


@implementer(ITask)
class Task:
    """The base of the tasks.  The input is a struct; `seconds` in it says how long a run takes."""

    inputSchema = outputSchema = Interface

    def __call__(self, service, jobid, input):
        """Leave a trace before and after the work."""
        trace(BEGUN, jobid)
        time.sleep(input.get('seconds', 0))
        self.work(service, jobid, input)
        trace(EFFECT, jobid)
        return input.get('payload')

    def work(self, service, jobid, input):
        """Do nothing else."""


class Plain(Task):
    """Writes nothing to the database, so that its outcome is committed by the ledger's thread."""


class Effect(Task):
    """Counts for the order whose `number` the input has."""

    def work(self, service, jobid, input):
        """Count."""
        service._p_jar.root()[ORDERS][input['number']].value += 1


class Digest(Effect):
    """Counts, and gives the SHA-256 of the `file` in the input, as text."""

    def __call__(self, service, jobid, input):
        """Leave the traces of any task."""
        super().__call__(service, jobid, input)
        digest = hashlib.sha256()
        with input['file'].open() as file:
            while part := file.read(65536):
                digest.update(part)
        return digest.hexdigest()


class Fails(Effect):
    """Fails in its first `failures` attempts, after it has counted: a failure must take that back."""

    def work(self, service, jobid, input):
        """Count, and perhaps fail."""
        super().work(service, jobid, input)
        if service.jobs[jobid].failedAttempts < input['failures']:
            raise RuntimeError('fails as it was asked to')


class Ends(Effect):
    """Counts, and cancels its own job; where the input has `commits`, it commits that by itself."""

    def work(self, service, jobid, input):
        """Count and cancel."""
        super().work(service, jobid, input)
        service.cancel(jobid)
        if input.get('commits'):
            transaction.commit()


class Again(Effect):
    """Asks for another run in its first `failures` attempts, after it has counted."""

    def work(self, service, jobid, input):
        """Count, and perhaps ask for another run."""
        super().work(service, jobid, input)
        if service.jobs[jobid].failedAttempts < input['failures']:
            raise Retry(after=0.05)


class Conflict(Effect):
    """Counts for its order, and writes what others of its kind write."""

    def work(self, service, jobid, input):
        """Count twice."""
        super().work(service, jobid, input)
        service._p_jar.root()[SHARED].value += 1


class SlowVote:
    """A data manager that takes its time to vote.

    seconds -- how long that takes.
    sortKey -- its place among all data managers: '!' is before the database, whose client waits then; '~' is after it,
        and all others wait that want to commit.
    """

    def __init__(self, manager, seconds, sortKey):
        self.transaction_manager, self._seconds, self._sortKey = manager, seconds, sortKey

    def sortKey(self):
        """Return its place."""
        return self._sortKey

    def tpc_vote(self, txn):
        """Wait."""
        time.sleep(self._seconds)

    def abort(self, txn):
        """Do nothing."""

    tpc_begin = commit = tpc_finish = tpc_abort = abort


class SlowCommit(Effect):
    """Counts for its order, in a commit that takes `vote` seconds; `key` is for `SlowVote`."""

    def work(self, service, jobid, input):
        """Count."""
        super().work(service, jobid, input)
        transaction.get().join(SlowVote(transaction.manager, input['vote'], input['key']))


class Tick(Task):
    """Counts for its own id."""

    def work(self, service, jobid, input):
        """Count."""
        service._p_jar.root()[TICKS].setdefault(jobid, Counter()).value += 1


class Poison(Task):
    """Ends its process: by `exit`, or by a `crash` of the interpreter."""

    def work(self, service, jobid, input):
        """Never return."""
        if input['by'] == 'crash':
            ctypes.string_at(0)
        os._exit(1)
