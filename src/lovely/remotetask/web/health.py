"""Whether the process lives, and whether it can do its work: for supervisors, and for load balancers."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import threading
import time
from typing import NamedTuple

import transaction

from lovely.remotetask.config.autostart import EVERYWHERE
from lovely.remotetask.config.autostart import matching
from lovely.remotetask.config.autostart import unusable
from lovely.remotetask.config.autostart import urlPath
from lovely.remotetask.errors import RemoteTaskError


log = logging.getLogger('lovely.remotetask')

#: Seconds that a look at the database may take, and for which it is good.
PATIENCE, FRESH = 2.0, 1.0


class Seen(NamedTuple):
    """What a look at the database has shown."""

    problem: str | None         # why there is no work to be done now, for anybody; None when there is
    unusable: dict              # path of a service that this process cannot work with -> why not, a sentence
    detail: str = ''            # what more there is to the problem: it may have names of services, folders and classes

    def told(self, names):
        """Return this as plain data; `names` says whether the reader may know names of services."""
        if names:
            problem = f'{self.problem}: {self.detail}' if self.detail else self.problem
            return {'problem': problem, 'unusable': len(self.unusable), 'reasons': self.unusable}
        return {'problem': self.problem, 'unusable': len(self.unusable)}


class Readiness:
    """Looks at the database, in a thread of its own: however many ask, one look goes on at a time."""

    def __init__(self, db, patience=PATIENCE):
        """Look at nothing yet.

        db -- the `ZODB.DB`.
        patience -- seconds that a look may take.
        """
        self._db, self._patience = db, patience
        #: Returns why this process cannot do its work, whatever the database does, a sentence; None when it can.
        self.own = lambda: None
        self._changed = threading.Condition()       # guards what follows
        self._isLooking = False
        self._at, self._seen = float('-inf'), Seen('nobody has looked yet', {})

    def seen(self):
        """Return what is `Seen` now.  It takes `patience` seconds at the most."""
        until = time.monotonic() + self._patience
        with self._changed:
            if time.monotonic() - self._at > FRESH:
                began = time.monotonic()
                self._begin()
                while self._at < began and time.monotonic() < until:
                    self._changed.wait(until - time.monotonic())
                if self._at < began:
                    return Seen('the database does not answer', {})
            return self._seen

    def _begin(self):
        if not self._isLooking:
            threading.Thread(target=self._look, name='remotetask-ready', daemon=True).start()
            self._isLooking = True              # if there could be a thread: else the next who asks tries again

    def _look(self):
        try:
            seen = lookAt(self._db)
        except RemoteTaskError as error:
            seen = Seen('the task services cannot be looked at', {}, str(error))
        except BaseException as error:          # each kind of storage has errors of its own
            log.warning('not ready: %s: %s', type(error).__name__, error)
            seen = Seen(f'the database fails: {type(error).__name__}', {})
        with self._changed:
            self._at, self._seen, self._isLooking = time.monotonic(), seen, False
            self._changed.notify_all()


def lookAt(db):
    """Return what is `Seen` of a database: there is work to be done if one of its services can be used."""
    if (ping := getattr(db.storage, 'ping', None)) is not None:
        ping()                      # of ZEO; what follows may be answered by its cache
    manager = transaction.TransactionManager(explicit=True)
    with contextlib.closing(db.open(manager)) as connection:
        manager.begin()
        try:
            paths = {urlPath(site, name) for site, name, _ in matching(connection, EVERYWHERE, lambda *arguments: None)}
            reasons = unusable(connection)
        finally:
            manager.abort()
    if paths - reasons.keys():
        return Seen(None, reasons)
    if reasons:
        return Seen('no task service can be used', reasons, '; '.join(reasons.values()))
    return Seen('there is no task service in the database', {})
