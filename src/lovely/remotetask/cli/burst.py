"""Processing until nothing is left to do."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import threading
import time

import transaction

from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import atPath
from lovely.remotetask.errors import UnknownService
from lovely.remotetask.statuses import ERROR
from lovely.remotetask.storage.ledger import microseconds


log = logging.getLogger('lovely.remotetask')


@contextlib.contextmanager
def opened(db, path):
    """Give a service to look at."""
    manager = transaction.TransactionManager(explicit=True)
    manager.begin()
    with contextlib.closing(db.open(manager)) as connection:
        try:
            yield atPath(connection.root()[ROOT_NAME], path)
        finally:
            manager.abort()


class Burst:
    """Has a process that processes jobs stop as soon as there are none left.

    db -- the `ZODB.DB`.
    processors -- those of this process, which have been started.
    end -- called with None when there is nothing left to do, or with an exception when that cannot be known.
    """

    #: Seconds between two looks.
    POLL_INTERVAL = 0.1

    def __init__(self, db, processors, end):
        self._db, self._processors, self._end, self._began = db, processors, end, time.time()
        self.failures = None            # how many jobs ended in an error, and runs failed; None until it is known
        self._thread = threading.Thread(target=self._watch, name='remotetask-burst', daemon=True)

    def start(self):
        """Start to watch."""
        self._thread.start()

    def _watch(self):
        pause = threading.Event()
        while all(processor.running for processor in self._there()):
            try:
                there = self._there()
                if not any(map(self._isLeft, there)):
                    self.failures = sum(map(self._failuresOf, there))
                    self._end(None)
                    return
            except UnknownService:
                pass                    # it was removed: its processor sees that in a moment
            except Exception as error:
                if not isDatabaseError(error):
                    log.exception('nobody knows whether something is left to do')
                    self._end(error)
                    return
                # The processors wait for the database, too.
            pause.wait(self.POLL_INTERVAL)

    def _there(self):
        return [processor for processor in self._processors if not processor.isServiceRemoved]

    def _isLeft(self, processor):
        with opened(self._db, processor.servicePath) as service:
            return bool(service.ledgers[processor.name].claimed) or not service.paused and service.hasJobsWaiting()

    def _failuresOf(self, processor):
        since = microseconds(self._began)
        with opened(self._db, processor.servicePath) as service:
            ledger = service.ledgers[processor.name]
            return len(ledger.finished[ERROR].keys(since)) + len(ledger.failedRuns.keys(since))
