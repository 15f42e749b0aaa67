"""What a thread that runs jobs does: one run after the other, each until its end is on record or known."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import random
import time
from typing import Any
from typing import NamedTuple

import transaction
from transaction.interfaces import TransientError
from ZODB.POSException import ConflictError
from zope.component.hooks import getSite
from zope.component.hooks import setSite

from lovely.remotetask.common.counts import counts
from lovely.remotetask.common.logs import LoggedRun
from lovely.remotetask.common.logs import line
from lovely.remotetask.database import notes
from lovely.remotetask.database import zopeapp
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.sites import atPath
from lovely.remotetask.database.sites import nearestSite
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.database.transactions import lastSeen
from lovely.remotetask.encoding.rows import encode
from lovely.remotetask.errors import TaskError
from lovely.remotetask.execution.control import Interrupted
from lovely.remotetask.execution.control import current
from lovely.remotetask.execution.messages import messageOf
from lovely.remotetask.execution.run import execute
from lovely.remotetask.execution.run import failed
from lovely.remotetask.execution.tasks import isIsolated
from lovely.remotetask.execution.tasks import limitOf
from lovely.remotetask.execution.tasks import policyOf
from lovely.remotetask.execution.tasks import queryTask
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.options import whatIsWrong
from lovely.remotetask.processing.fence import Fence
from lovely.remotetask.processing.fence import actOf
from lovely.remotetask.processing.fence import confirm
from lovely.remotetask.processing.fence import marked
from lovely.remotetask.processing.fence import touched
from lovely.remotetask.storage import preloading
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.transitions import Outcome
from lovely.remotetask.storage.transitions import Recorded


log = logging.getLogger('lovely.remotetask')

#: Seconds of the pause after the first conflict or failure of the database, and the longest one.
PAUSE, LONGEST_PAUSE = 0.01, 2.0

#: After so many failures of the database in a row a line of the log says so.
TOLD_FAILURES = frozenset(10 ** power for power in range(1, 7))

#: How many failures a conflict counts as when this host already serializes the task: another host caused it.
FAR = 3

#: Seconds after which a transaction is too old for another run: not every storage tells at once what was committed.
FRESH = 0.01


def pause(failures, draw):
    """Return the seconds to wait after so many failures of the database in a row."""
    return min(LONGEST_PAUSE, PAUSE * 2 ** min(failures, 20)) * (0.5 + draw / 2)


class Repeat(TransientError):
    """Raised to repeat a transaction: one of its data managers, or the database, says that it should be tried again."""


class View(NamedTuple):
    """A transaction in which nothing has been changed, so that the next run can take it as well."""

    txn: Any
    service: Any            # from the thread's connection
    site: Any               # that of the service
    tid: bytes | None       # the last transaction that was seen when this one began, see `lastSeen`
    began: float            # by the monotonic clock
    tasks: dict             # name -> task, of those that have been looked up and can be run


class Worker:
    """Runs the jobs of one service in one thread, the one that makes it.

    Runs that come one after the other, and change nothing in the database, take one transaction, as long as nothing
    was committed since it began: a new one would show the same.  In Zope each run has a transaction of its own, like
    each request: code of Zope keeps things on the request.
    """

    def __init__(self, servicePath, client, name, clock, monotonic, mayWait, wake, isSerialized):
        """Open nothing yet.

        servicePath -- a tuple of names from the root folder down to the service.
        client -- the `ThreadConnection` to the database of the tasks.
        name -- of the processing host.
        clock, monotonic -- return UTC seconds, and seconds of the monotonic clock.
        mayWait -- returns whether a run may still wait for the database; else it is given up.
        wake -- called when a run has a time limit.
        isSerialized -- called with the name of a task; see `InFlight.isSerialized`.
        """
        self.servicePath, self.name, self.clock, self.monotonic = servicePath, name, clock, monotonic
        self._client, self._mayWait, self._wake, self._isSerialized = client, mayWait, wake, isSerialized
        self._service = pathText(servicePath)       # for the log
        self._fence = Fence(servicePath)
        self._view = self._leave = None

    @property
    def isOpen(self):
        """Whether it has a connection."""
        return self._client.connection is not None

    def warmUp(self):
        """Open the connection, and load what all jobs need, before the first one comes; if that can be done now."""
        try:
            service = self._begin(self._client.open()).service
            preloading.preloadPages(service)
            queryTask(service, '')              # its site may have tasks of its own
        except Exception:                       # the first run meets it, too
            log.debug('processing host %s cannot load in advance', self.name, exc_info=True)
        self.tryAbort()

    def tryAbort(self):
        """End the transaction of the last run."""
        self._view = None
        self._fence.open()
        setSite(None)
        self._client.tryAbort()
        if self._leave is not None:
            leave, self._leave = self._leave, None
            leave()

    def close(self):
        """End the transaction and give the connection back."""
        self.tryAbort()
        self._client.close()
        self._fence.close()

    def run(self, claim, isStale=False, execution=None):
        """Run a job until its end is on record or known; return an `Outcome` or `Recorded`.

        claim -- the `Claim` on it.
        isStale -- whether the claim has to be checked first: the job may have been cancelled.
        execution -- the `Execution` where its time limit, retry policy and conflicts are noted; None for nowhere.
        """
        with LoggedRun(claim, self.name, self.servicePath):
            return self._repeat(claim, isStale, execution)

    def _repeat(self, claim, isStale, execution):
        """See `run`."""
        failures = 0
        while True:
            try:
                report = self._try(claim, isStale, execution, failures)
                if self._view is None:
                    self.tryAbort()
                return report
            except Exception as error:
                self.tryAbort()
                if not isDatabaseError(error):
                    return failed(claim, error, self.clock(), self.clock(), self.name, service=self._service)
                failures += 1
                isConflict = isinstance(error, ConflictError)
                counts.add('conflicts' if isConflict else 'database_failures', 'task')
                if execution is not None and isConflict:
                    execution.countConflict()
                    if self._isSerialized(claim.task):
                        failures = max(failures, FAR)       # another host is writing: let it write several times
                self._tellRepeated(claim, failures, error)
            except BaseException:
                self.tryAbort()
                raise
            isStale = True
            if not self._mayWait():
                return Recorded(claim.jobid, claim.run - 1)         # no claim has this number: nothing is entered
            wait = pause(failures, random.random())
            counts.add('database_wait_seconds', 'task', number=wait)
            time.sleep(wait)

    def _tellRepeated(self, claim, failures, error):
        control = current()
        if control is not None and control.reason is not None:
            log.info('%s was ended: %s; after that it met %s', claim.label, control.reason, line(messageOf(error)),
                     extra=self._about(claim, 'job.interrupted'))
        elif failures in TOLD_FAILURES:
            log.warning('%s waits for the database, which has failed %d times: %s', claim.label, failures,
                        line(messageOf(error)), extra=self._about(claim, 'database.away'))
        else:
            log.debug('%s is repeated: %s', claim.label, messageOf(error), extra=self._about(claim, 'job.repeated'))

    def _about(self, claim, event):
        return claim.about(event, service=self._service, host=self.name)

    def _try(self, claim, isStale, execution, failures):
        """Run a job once; the caller ends the transaction unless `_view` is kept for the next run.  See `run`.

        failures -- how often this has met errors of the database; those are raised.
        """
        connection = self._client.open()
        if execution is not None:
            self._awaitTransaction(connection, execution.tid)
            execution.begin(execution.began if failures else self.monotonic(), self._client.isCold)
            self._client.isCold = False
        view = self._view
        if view is None or not self._isCurrent(view, connection, execution):
            view = self._begin(connection)
        self._view = None                       # until this run has left everything as it was
        if isStale and not transitions.holds(view.service.jobs.get(claim.jobid), claim):
            return self._recorded(connection, claim)            # cancelled, or somebody else's by now
        if execution is not None and execution.policy is None:
            execution.setRules(*self._rules(view, claim))
            if execution.limit is not None:
                self._wake()                    # the host is to look in time
        self._fence.guard(connection, claim, self.name)
        report = self._attempt(connection, view, claim)
        if isinstance(report, Outcome) and report.status == COMPLETED and transaction.get() is view.txn \
                and not marked(view.txn) and self._leave is None:
            self._view = view
        return report

    def _isCurrent(self, view, connection, execution):
        """Return whether a new transaction would show the same as this `View`."""
        # Not every storage tells at once what was committed: what is older than the claim may not know the job.
        return execution is not None and view.tid == lastSeen(connection.db()) \
            and view.began >= execution.added and self.monotonic() - view.began <= FRESH

    def _begin(self, connection):
        self._fence.open()
        transaction.abort()                     # first of all: what is asked next may be newer, but not older
        tid = lastSeen(connection.db())
        txn = transaction.begin()
        self._leave = zopeapp.enter(connection)
        service = atPath(zopeapp.rootOf(connection), self.servicePath)
        return View(txn, service, nearestSite(service), tid, self.monotonic(), {})

    def _rules(self, view, claim):
        """Return the retry policy and the time limit of a claim."""
        task = view.tasks.get(claim.task)
        if task is None:
            task = queryTask(view.service, claim.task)
            if task is not None and whatIsWrong(task) is None:
                view.tasks[claim.task] = task
        return policyOf(claim, task), None if isIsolated(task) else limitOf(claim, task)

    def _awaitTransaction(self, connection, tid):
        """Wait until the tasks' database has seen what the ledger's has, or the time to stop is over.

        Of two clients of one server one may be some tenths of a millisecond behind, or, after an outage, seconds.
        """
        wait = 0.0001
        while tid and connection.db().lastTransaction() < tid and self._mayWait():
            time.sleep(wait)
            wait = min(2 * wait, 0.02)

    def _attempt(self, connection, view, claim):
        service, txn = view.service, view.txn
        if getSite() is not view.site:
            setSite(view.site)
        outcome = execute(service, claim, self.clock, self.name, task=view.tasks.get(claim.task))
        if self._client.isLost and outcome.status == COMPLETED:
            error = TaskError('the task closed the connection of its service: nothing of it can be stored')
            return failed(claim, error, outcome.started, outcome.ended, self.name, service=self._service)
        last = transaction.get()
        if last is not txn:
            log.warning('%s: the task ended the transaction itself; what it committed stays even if the job is run '
                        'again, what it aborted is gone', claim.label, extra=self._about(claim, 'job.committed'))
        elif last.isDoomed() and outcome.status == COMPLETED:
            error = TaskError('the task doomed its transaction: nothing of it can be stored')
            return failed(claim, error, outcome.started, outcome.ended, self.name, service=self._service)
        if outcome.status != COMPLETED:
            return outcome
        output = encode(outcome.output)
        if output is not None:
            outcome = outcome._replace(output=output)
            # A commit of the task itself may have ended the job, and the claim loop may not have seen that yet.
            if not touched(last) and (last is txn or transitions.holds(service.jobs.get(claim.jobid), claim)):
                return outcome
        return self._complete(connection, service, claim, outcome)

    def _complete(self, connection, service, claim, outcome):
        """Commit what the task wrote, together with the outcome, or with what the task itself did to its job.

        A task may cancel its own job, or change its schedule so that this run is over: that counts then, and not the
        output.
        """
        job, told = service.jobs.get(claim.jobid), None
        isHeld = transitions.holds(job, claim)
        if isHeld:
            told = outcome._replace(output=None)
            transitions.record(service, job, outcome, service.hosts.numberOf(self.name))
        else:
            try:
                confirm(connection, self.servicePath, claim)
            except Interrupted as error:
                log.info('%s was ended: %s', claim.label, error, extra=self._about(claim, 'job.interrupted'))
                return self._recorded(connection, claim)
        self._fence.open()
        notes.write(transaction.get(), [actOf('complete' if isHeld else 'commit', self.servicePath, claim, self.name)])
        began = self.monotonic()
        try:
            transaction.commit()
            counts.observe('commit_seconds', 'task', seconds=self.monotonic() - began)
        except Exception as error:
            if isDatabaseError(error) or transaction.get().isRetryableError(error):
                raise Repeat(messageOf(error)) from error
            # The result, or something that the task stored, cannot be pickled; or another database refuses it.
            final = TaskError(f'what the task gives cannot be stored: {messageOf(error)}')
            final.__cause__ = error
            return failed(claim, final, outcome.started, outcome.ended, self.name, service=self._service)
        return self._recorded(connection, claim, told)

    def _recorded(self, connection, claim, outcome=None):
        # The ledger's client has to see as much before the claim is closed.
        tid = connection.db().lastTransaction() if self._client.isSeparate else b''
        return Recorded(claim.jobid, claim.run, tid, outcome)
