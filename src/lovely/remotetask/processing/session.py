"""A connection to the database of one owner, its transactions begun explicitly: what keeps a ledger has one."""
# SPDX-License-Identifier: ZPL-2.1
import logging

import transaction

from lovely.remotetask.database import notes
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import atPath
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.database.transactions import transact
from lovely.remotetask.database.transactions import tryAbort


log = logging.getLogger('lovely.remotetask')


class Session:
    """Opens its connection when it is needed, and another one when that cannot be used any more.

    One thread at a time uses it.

    db -- a `ZODB.DB`.
    path -- the path of the service, a tuple of names.
    """

    def __init__(self, db, path):
        self.db, self.path = db, path
        self.manager = transaction.TransactionManager(explicit=True)
        self.connection = None
        self.oid = None         # of the service, once it is not at the path any more

    def open(self):
        """Open the connection if there is none.  Raise what the database raises."""
        if self.connection is None:
            self.connection = self.db.open(self.manager)

    def service(self):
        """Return the service, as the current transaction sees it."""
        if self.oid is not None:
            return self.connection.get(self.oid)
        return atPath(self.connection.root()[ROOT_NAME], self.path)

    def begin(self):
        """Begin a transaction; return the service as it sees it."""
        self.open()
        self.manager.begin()
        return self.service()

    def transact(self, function, attempts=1):
        """Return what a function makes of the service, in a transaction; see `transactions.transact`."""
        self.open()
        return transact(self.manager, lambda: function(self.service()), attempts)

    def note(self, verb, host='', **values):
        """Note in the transaction what is done in it, of the service.

        verb, values -- of the `notes.Act`.
        host -- the name of the processing host that does it.
        """
        notes.write(self.manager.get(), [notes.Act(verb, on=host, path=pathText(self.path), **values)])

    def tryAbort(self):
        """End a transaction that has failed.  Leave the connection to itself if it may still have the changes."""
        if not tryAbort(self.manager):
            self._replace()

    def _replace(self):
        self.manager, self.connection = transaction.TransactionManager(explicit=True), None

    def close(self, name):
        """Close the connection.  Twice is fine.

        name -- of the processing host, for the log.
        """
        connection, self.connection = self.connection, None
        if connection is None:
            return
        tryAbort(self.manager)
        try:
            connection.close()
        except Exception as error:          # it refuses to with changes that could not be aborted, too
            self._replace()
            log.warning('processing host %s: its connection to the database is given up: %s', name, error)


def once(db, path, function, attempts, name):
    """Return what a function makes of a service, in a transaction of its own, over a session that is closed then.

    The arguments are those of `Session`, `Session.transact` and `Session.close`.
    """
    session = Session(db, path)
    try:
        return session.transact(function, attempts)
    finally:
        session.close(name)
