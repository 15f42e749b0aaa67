"""Processors that run in threads of this process, next to the application: started, stopped, ended in good order.

They end before the process does, and before their database is closed, as Zope closes it: what has not begun goes back
to its queue at once then.  A process that is forked has none of them, as it has none of the threads.
"""
# SPDX-License-Identifier: ZPL-2.1
import atexit
import functools
import os
import threading
import time
import weakref


#: Seconds that running jobs have when the process ends, or closes its database.
EXIT_TIME = 5.0

#: Seconds that `stop` waits for a thread that has nothing to do any more.
STOP_TIME = 1.0

# What has been started: key -> processor; and what is being started: key -> an event that is set when that start has
# ended.  The first part of a key is the database.  The lock guards both; no thread waits while it holds the lock.
_running, _starting = {}, {}
_lock = threading.Lock()

# The databases that are not closed before their processors have stopped.
_watched = weakref.WeakSet()


def _forget():
    """Forget all, in a process that was forked; the lock may have been held by a thread that is not here."""
    global _lock
    _lock = threading.Lock()
    _running.clear()
    _starting.clear()


os.register_at_fork(after_in_child=_forget)


def keyOf(obj, kind=None):
    """Return the key for what processes a stored object; None for one that is in no database.

    kind -- tells several processors of one object from each other.
    """
    return None if obj._p_jar is None or obj._p_oid is None else (obj._p_jar.db(), obj._p_oid, kind)


def start(key, make):
    """Start a processor and return it; None when there is one, or when it was stopped before it had started.

    key -- see `keyOf`.
    make -- a callable that returns an `IProcessor` with a method `start`.

    Raise what `make` and that method raise.
    """
    with _lock:
        if key in _starting or running(key) is not None:
            return None
        this = _starting[key] = threading.Event()
        _stopAtExit()
        _stopBeforeClose(key[0])
    try:
        try:
            processor = make()
            processor.start()                   # this takes as long as the database takes
        except BaseException:
            _endStart(key, this, None)
            raise
        if _endStart(key, this, processor):
            return processor
        processor.stop(EXIT_TIME)
        return None
    finally:
        this.set()


def _endStart(key, this, processor):
    """Note that a start has ended; return whether it is wanted still: `stop` and `stopAll` may have come before.

    key, this -- see `_starting`.
    processor -- is registered if it is wanted; None for a start that has failed.
    """
    with _lock:
        if _starting.get(key) is not this:
            return False
        del _starting[key]
        if processor is not None:
            _running[key] = processor
        return True


def stop(key):
    """Stop a processor, and return whether there was one: it claims nothing more, while running jobs go on.

    One that is being started is stopped as soon as it has started; this waits for that for STOP_TIME.
    """
    with _lock:
        start = _starting.pop(key, None)
        processor = _running.pop(key, None)
    if start is not None:
        start.wait(STOP_TIME)
    if processor is not None:
        processor.stop(wait=STOP_TIME)
    return start is not None or processor is not None


def running(key):
    """Return the processor that runs for a key, or None."""
    processor = _running.get(key)
    return processor if processor is not None and processor.running else None


@functools.cache
def _stopAtExit():
    atexit.register(stopAll)


def _stopBeforeClose(db):
    def close():
        stopAll(db)
        closeDatabase()

    if db not in _watched:
        _watched.add(db)
        closeDatabase, db.close = db.close, close


def stopAll(db=None):
    """Stop the processors of this process, or of one `ZODB.DB`, with EXIT_TIME for all of them together.

    Those that are being started are stopped as soon as they have started, and that is waited for within the same time.
    """
    end, starts = time.monotonic() + EXIT_TIME, []
    while processors := _taken(db, starts):     # what follows the services may have started another one
        for processor in processors:
            processor.stop(EXIT_TIME, wait=0)   # all claim nothing more, while the first is waited for
        for processor in processors:
            processor.stop(max(0.0, end - time.monotonic()))
    for start in starts:
        start.wait(max(0.0, end - time.monotonic()))


def _taken(db, starts):
    """Return the running processors of a `ZODB.DB`, or all if that is None; they are registered no more.

    starts -- a list, to which the events of those that are being started are added.
    """
    with _lock:
        starts += [_starting.pop(key) for key in list(_starting) if db in (None, key[0])]
        keys = [key for key in _running if db in (None, key[0])]
        return [processor for processor in map(_running.pop, keys) if processor.running]
