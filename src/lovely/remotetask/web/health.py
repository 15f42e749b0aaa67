"""Whether the process lives, and whether it can do its work: for supervisors, and for load balancers."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import threading
import time

import transaction

from lovely.remotetask.config.autostart import matching
from lovely.remotetask.errors import RemoteTaskError


log = logging.getLogger('lovely.remotetask')

#: Seconds that a look at the database may take, and for which it is good.
PATIENCE, FRESH = 2.0, 1.0


class Readiness:
    """Looks at the database, in a thread of its own: however many ask, one look goes on at a time."""

    def __init__(self, db, patience=PATIENCE):
        """Look at nothing yet.

        db -- the `ZODB.DB`.
        patience -- seconds that a look may take.
        """
        self._db, self._patience = db, patience
        self._changed = threading.Condition()       # guards what follows
        self._isLooking = False
        self._seen, self._problem = float('-inf'), 'nobody has looked yet'

    def problem(self):
        """Return why the process cannot work now, a sentence; None if it can.  It takes `patience` seconds at the most.
        """
        until = time.monotonic() + self._patience
        with self._changed:
            if time.monotonic() - self._seen > FRESH:
                began = time.monotonic()
                self._begin()
                while self._seen < began and time.monotonic() < until:
                    self._changed.wait(until - time.monotonic())
                if self._seen < began:
                    return 'the database does not answer'
            return self._problem

    def _begin(self):
        if not self._isLooking:
            self._isLooking = True
            threading.Thread(target=self._look, name='remotetask-ready', daemon=True).start()

    def _look(self):
        try:
            problem = lookAt(self._db)
        except RemoteTaskError as error:
            problem = str(error)
        except Exception as error:              # each kind of storage has errors of its own
            log.warning('not ready: %s: %s', type(error).__name__, error)
            problem = f'the database fails: {type(error).__name__}'
        with self._changed:
            self._seen, self._problem, self._isLooking = time.monotonic(), problem, False
            self._changed.notify_all()


def lookAt(db):
    """Return what keeps the services of a database from being used, a sentence; None for nothing."""
    if (ping := getattr(db.storage, 'ping', None)) is not None:
        ping()                      # of ZEO; what follows may be answered by its cache
    manager = transaction.TransactionManager(explicit=True)
    with contextlib.closing(db.open(manager)) as connection:
        manager.begin()
        try:
            services = [service for _, _, service in matching(connection, ['*@*'])]
            if not services:
                return 'there is no task service in the database'
            for service in services:
                service.checkGeneration()
        finally:
            manager.abort()
    return None
