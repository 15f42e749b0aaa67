"""Writes of concurrent calls, committed in one transaction; each learns what became of it."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import logging
import time

from transaction import TransactionManager
from transaction.interfaces import TransientError

from lovely.remotetask import errors
from lovely.remotetask.common.checks import counted
from lovely.remotetask.common.counts import counts
from lovely.remotetask.database import notes
from lovely.remotetask.database.freshness import catchUp
from lovely.remotetask.database.freshness import isByState
from lovely.remotetask.database.freshness import mayBeBehind
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.xmlrpc.faults import DatabaseUnavailable
from lovely.remotetask.xmlrpc.faults import OutcomeUnknown
from lovely.remotetask.xmlrpc.session import Session


logger = logging.getLogger('lovely.remotetask')


class Withdrawn(TransientError):
    """A caller whose write is part of the transaction does not wait for it any more."""


class VoteSentinel:
    """A data manager that knows whether all others of its transaction have voted.

    A failure before that has changed nothing.  After it, the database may have committed although the commit raises:
    the connection can break before its answer comes.
    """

    allVoted = False

    def __init__(self, writes):
        """`writes` are those that the transaction carries out."""
        self._writes = writes

    def sortKey(self):
        return '\U0010ffff'             # so that it votes last

    def tpc_begin(self, transaction):
        pass

    commit = abort = tpc_finish = tpc_abort = tpc_begin

    def tpc_vote(self, transaction):
        # A caller who gave up was told that nothing was changed: so his write must not be committed.
        if not all([write.isWanted() for write in self._writes]):
            raise Withdrawn()
        self.allVoted = True


class Committer:
    """Carries out writes, all of one thread: a connection of its own lets a service count up its ids between them."""

    def __init__(self, db, resolve, attempts, answered):
        """Nothing is opened yet.

        db, resolve, attempts -- as for `gateway.Gateway`.
        answered -- called without arguments when the database has answered.
        """
        self._db, self._resolve, self._answered = db, resolve, answered
        self._session = Session(db, functools.partial(TransactionManager, explicit=True), attempts)

    def close(self):
        """Close the connection, if there is one."""
        self._session.close()

    def acknowledge(self, writes, isFirst=True):
        """Commit the writes together and end them; no error ends the writer.

        isFirst -- whether refusals may come from changes of others that this process has not heard of yet: then the
            refused writes are carried out once more.
        """
        if not writes:
            return
        try:
            outcomes = self._session.run(lambda: self._commit(writes, isFirst))
        except (DatabaseUnavailable, OutcomeUnknown) as error:
            self._session.close()
            logger.warning('the database failed %s: %r', counted(len(writes), 'call'), error.__cause__)
            for write in writes:
                write.end(None, error)
        except BaseException as error:
            # One of them made all fail: a transaction for each will show which.
            self._session.close()
            if len(writes) == 1:
                writes[0].end(None, error)
            else:
                for write in writes:
                    self.acknowledge([write], isFirst)
        else:
            self._answered()
            notifierOf(self._db).notify()               # not all storages tell of the commits of this process
            again, isPremature = [], isFirst and mayBeBehind(self._db)
            for write, result, refusal, byState in outcomes:
                if byState and isPremature:
                    again.append(write)
                else:
                    write.end(result, refusal)
            self.acknowledge(again, isFirst=False)

    def _commit(self, writes, isFirst):
        """Run the writes in one transaction; return a list of each write and what `_run` returns."""
        if not isFirst:
            catchUp(self._db)
        connection = self._session.open()
        manager = connection.transaction_manager
        writes = [write for write in writes if not write.cancelled()]
        sentinel, acts = VoteSentinel(writes), []
        try:
            manager.begin()
            outcomes = [(write, *self._run(connection, write, acts)) for write in writes]
            notes.write(manager.get(), acts)
            manager.get().join(sentinel)
            began = time.monotonic()
            manager.commit()
            counts.observe('commit_seconds', 'frontend', seconds=time.monotonic() - began)
        except BaseException as error:
            try:
                manager.abort()
            finally:                            # whatever the outcome: another try could add twice
                if sentinel.allVoted:
                    raise OutcomeUnknown() from error
            raise
        return outcomes

    def _run(self, connection, write, acts):
        """Run a write; return its result, its refusal or None, and whether the state of the database refuses it.

        A write that finds nothing to do returns False.  Its acts are added to the list.
        """
        try:
            service = self._resolve(connection, write.path)
            result = write.function(service)
        except errors.RemoteTaskError as refusal:
            return None, refusal, isByState(refusal)
        if write.acts is not None and result is not False:
            acts += write.acts(service, result)
        # Outside: a result that cannot be sent comes after the change.
        return write.serialize(result), None, result is False
