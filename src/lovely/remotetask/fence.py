"""The fence: no transaction of a run is committed once its job has been given to another host, or has ended."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib

import transaction

from lovely.remotetask import lifecycle
from lovely.remotetask.control import Interrupted
from lovely.remotetask.sites import ROOT_NAME
from lovely.remotetask.sites import atPath


def confirm(connection, servicePath, claim):
    """Have the current transaction of a connection fail at its commit unless the job still waits for this very run.

    connection -- of the thread that runs the job.
    servicePath -- a tuple of names from the root folder down to the service.
    claim -- the `Claim` on the job.

    What the transaction itself has done to the job does not count: a task may cancel its own job.

    Raise `Interrupted` when it is known already that the job does not wait for this run.
    """
    job = _job(connection, servicePath, claim)
    if not lifecycle.holds(job, claim):
        # The transaction may have done that: look at what is committed.
        manager = transaction.TransactionManager(explicit=True)
        with contextlib.closing(connection.db().open(manager)) as other, manager:
            job = _job(other, servicePath, claim)
            if not lifecycle.holds(job, claim):
                raise Interrupted('the job has been cancelled, or is run elsewhere')
            job = connection.get(job._p_oid)
    job._p_activate()                   # `readCurrent` passes over an object without its state
    connection.readCurrent(job)


def _job(connection, servicePath, claim):
    return atPath(connection.root()[ROOT_NAME], servicePath).jobs.get(claim.jobid)


class Fence:
    """Guards the commits of one run, also those that the task makes itself.

    It is a synchronizer of the thread's transaction manager, and joins each transaction that has something to commit.
    So a run costs nothing that commits nothing.
    """

    def __init__(self, connection, servicePath, claim):
        """For the arguments see `confirm`."""
        self._arguments = connection, servicePath, claim
        self._isOpen = False

    def open(self):
        """Let the next commit pass: it writes the job."""
        self._isOpen = True

    def __enter__(self):
        transaction.manager.registerSynch(self)
        return self

    def __exit__(self, *exception):
        transaction.manager.unregisterSynch(self)

    # ISynchronizer

    def newTransaction(self, txn):
        """Do nothing."""

    def beforeCompletion(self, txn):
        """Join a transaction that is about to be committed or aborted."""
        if txn._resources and not self._isOpen:         # there is no public way to ask for these
            txn.join(self)

    afterCompletion = newTransaction

    # IDataManager

    def sortKey(self):
        """Return what puts it behind all others: they have begun when it refuses the commit, and can abort."""
        return '\U0010ffff'

    def tpc_begin(self, txn):
        """Refuse the commit if the run is none any more: see `confirm`."""
        confirm(*self._arguments)

    commit = tpc_vote = tpc_finish = tpc_abort = abort = newTransaction
