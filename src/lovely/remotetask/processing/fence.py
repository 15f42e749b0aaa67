"""The fence: no transaction of a run is committed once its job has been given to another host, or has ended."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib

import transaction
from transaction.interfaces import TransactionFailedError

from lovely.remotetask.common.internals import hasData
from lovely.remotetask.common.internals import resourcesOf
from lovely.remotetask.database import notes
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import atPath
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.execution.control import Interrupted
from lovely.remotetask.storage import transitions


def confirm(connection, servicePath, claim):
    """Make the current transaction of a connection fail at its commit unless the job still waits for this very run.

    connection -- of the thread that runs the job.
    servicePath -- a tuple of names from the root folder down to the service.
    claim -- the `Claim` on the job.

    What the transaction itself has done to the job does not count: a task may cancel its own job.

    Raise `Interrupted` when it is known already that the job does not wait for this run.
    """
    job = _job(connection, servicePath, claim)
    if transitions.holds(job, claim):
        job.touch()
        return
    # The transaction may have done that, and has written the job's row then: look at what is committed.
    manager = transaction.TransactionManager(explicit=True)
    with contextlib.closing(connection.db().open(manager)) as other, manager:
        if not transitions.holds(_job(other, servicePath, claim), claim):
            raise Interrupted('the job has been cancelled, or is run elsewhere')


def _job(connection, servicePath, claim):
    return atPath(connection.root()[ROOT_NAME], servicePath).jobs.get(claim.jobid)


def touched(txn):
    """Return whether anything would happen if the transaction were committed."""
    return bool(resourcesOf(txn) or [*txn.getBeforeCommitHooks()] or [*txn.getAfterCommitHooks()])


def marked(txn):
    """Return whether something was left on a transaction that another run would meet, or that waits for its abort."""
    return bool(txn.description or txn.user or txn.extension or hasData(txn)
                or [*txn.getBeforeAbortHooks()] or [*txn.getAfterAbortHooks()])


def actOf(verb, servicePath, claim, host):
    """Return the `notes.Act` of a transaction of a run.

    verb -- 'complete' for the one that has its outcome, 'commit' for any other.
    servicePath -- a tuple of names.
    claim -- the `Claim` on the job.
    host -- the name of the processing host.
    """
    return notes.Act(verb, (claim.jobid,), claim.task, attempt=claim.attempt, on=host,
                     path=pathText(servicePath))


class Fence:
    """Guards the commits of the runs of one thread, also those that a task makes itself.

    It is a synchronizer of the thread's transaction manager, and joins each transaction that writes to the connection.
    So a run costs nothing that writes nothing.
    """

    def __init__(self, servicePath):
        """`servicePath` is a tuple of names from the root folder down to the service."""
        self._servicePath = servicePath
        self._connection = self._claim = self._host = None
        transaction.manager.registerSynch(self)

    def guard(self, connection, claim, host=''):
        """Refuse the commits in the connection from now on, unless the `Claim` on the job still holds.

        host -- the name of the processing host, for the notes of commits.
        """
        self._connection, self._claim, self._host = connection, claim, host

    def open(self):
        """Let the commits pass from now on."""
        self._connection = self._claim = None

    def close(self):
        """Be done with the thread's transactions.  Twice is fine."""
        self.open()
        with contextlib.suppress(KeyError):
            transaction.manager.unregisterSynch(self)

    # ISynchronizer

    def newTransaction(self, txn):
        """Do nothing."""

    def beforeCompletion(self, txn):
        """Join a transaction that is about to be committed or aborted, and note whose it is."""
        if self._connection in resourcesOf(txn):
            with contextlib.suppress(TransactionFailedError):       # one that has failed can only be aborted
                txn.join(self)
                notes.write(txn, [actOf('commit', self._servicePath, self._claim, self._host)])

    afterCompletion = newTransaction

    # IDataManager

    def sortKey(self):
        """Return what puts it behind all others: they have begun when it refuses the commit, and can abort."""
        return '\U0010ffff'

    def tpc_begin(self, txn):
        """Refuse the commit if the run is none any more: see `confirm`."""
        confirm(self._connection, self._servicePath, self._claim)

    commit = tpc_vote = tpc_finish = tpc_abort = abort = newTransaction
