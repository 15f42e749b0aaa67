"""Packing a database, so that it stays small: who packs it, and when."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import threading
import time

import transaction
from ZODB.POSException import ConflictError

from lovely.remotetask.common.logs import about
from lovely.remotetask.database import notes
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.storages import postgresqlOf


log = logging.getLogger('lovely.remotetask')

#: Under which key of the root object it stands when a database was packed last, in UTC seconds.
PACKED = 'lovely.remotetask.packed'

#: Bytes that a database has at the most which has just been made; and objects, as far as PostgreSQL knows their number,
#: which it estimates now and then.  Its size tells nothing: one without any object has 8 MB.
NEW, NEW_OBJECTS = 100_000, 1000

#: Seconds between two looks at whether it is time to pack.
CHECK_INTERVAL = 60.0


def claimPack(db, now, interval):
    """Return whether the caller should pack the database now, and note that it does.

    Of several processes that ask at the same time only one gets True.  Raise what the database raises.

    now -- UTC seconds.
    interval -- seconds between two packs.
    """
    manager = transaction.TransactionManager(explicit=True)
    with contextlib.closing(db.open(manager)) as connection:
        try:
            with manager as txn:
                last = connection.root().get(PACKED)
                if last is not None and last <= now < last + interval:
                    return False
                connection.root()[PACKED] = now
                notes.write(txn, [notes.Act('pack')])
                return last is not None or not _isNew(db)           # there is nothing in a new one to be packed
        except ConflictError:                               # another process has been told so
            return False


def _isNew(db):
    return db.getSize() <= NEW if postgresqlOf(db) is None else db.objectCount() <= NEW_OBJECTS


class Packer:
    """Packs a database again and again, in a thread of its own.

    db -- a `ZODB.DB`.
    interval -- seconds between two packs, whoever does them.
    keep -- seconds for which old states of objects are kept.
    """

    def __init__(self, db, interval, keep, clock=time.time):
        self._db, self._interval, self._keep, self._clock = db, interval, keep, clock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name='remotetask-packer', daemon=True)

    def start(self):
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout=None):
        """Ask it to end, and wait for that, `timeout` seconds at most, because a pack may take long.  Twice is fine."""
        self._stopped.set()
        self._thread.join(timeout)

    def _run(self):
        while True:
            try:
                now = self._clock()
                if claimPack(self._db, now, self._interval):
                    pack(self._db, now - self._keep)
            except Exception as error:          # no error ends the thread
                if isDatabaseError(error):
                    log.debug('the database is away: it will be packed later', exc_info=True)
                else:
                    log.exception('the database could not be packed')
            if self._stopped.wait(min(CHECK_INTERVAL, self._interval)):
                return


def pack(db, before):
    """Pack a database, and log that; an error is logged, too, and None is returned instead of the seconds it took.

    before -- UTC seconds: what was replaced or removed before is thrown away.
    """
    started = time.monotonic()
    try:
        size = db.getSize()
        db.pack(before)
        spent = time.monotonic() - started
        log.info('packed the database in %.1f s: from %d to %d bytes', spent, size, db.getSize(),
                 extra=about('database.packed', duration=spent))
        return spent
    except Exception:                   # it is tried again after the interval
        log.exception('the database could not be packed')
        return None
