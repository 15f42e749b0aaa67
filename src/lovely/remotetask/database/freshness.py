"""Looking once more before a call is refused: another process may have committed a moment ago what it needs."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask import errors
from lovely.remotetask.database.storages import clientOf
from lovely.remotetask.database.storedfiles import WrongPart


#: What a call is refused by because of the state of the database.
BY_STATE = (errors.UnknownJob, errors.UnknownService, errors.UnknownUpload, errors.TooManyUploads, errors.WrongState,
            WrongPart)


def mayBePremature(db, refusal):
    """Return whether a call might not have been refused if this process knew of all commits.

    The server of ZEO tells its clients of a commit when it also tells the one that has made it.  All other storages
    look when a transaction begins.

    db -- the `ZODB.DB`.
    refusal -- the exception, or None.
    """
    return (type(refusal) in BY_STATE or type(getattr(refusal, '__cause__', None)) in BY_STATE) \
        and clientOf(db) is not None


def catchUp(db):
    """Wait until transactions that begin now see all that was committed before this call.

    A client of ZEO that has asked the server has heard of all commits when it gets the answer.  Raise what ZEO raises
    if the server does not answer.

    db -- a `ZODB.DB` that has a client of ZEO.
    """
    clientOf(db).ping()


def fresh(db, function):
    """Return what a function does in a transaction of its own.  If that is refused, `catchUp` and call it once more.

    db -- a `ZODB.DB`.
    """
    try:
        return function()
    except errors.RemoteTaskError as error:
        if not mayBePremature(db, error):
            raise
    catchUp(db)
    return function()
