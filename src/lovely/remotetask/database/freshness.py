"""Tries a refused call once more: another process may have committed a moment ago what it needs."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask import errors
from lovely.remotetask.database.storages import clientOf
from lovely.remotetask.database.storedfiles import WrongPart
from lovely.remotetask.files import NoFile


#: Exceptions that refuse a call because of the state of the database.  A plain `ValueError` may be about stored data as
#: well: about a schedule that a change does not fit, for example.
BY_STATE = (errors.UnknownJob, errors.UnknownService, errors.UnknownTask, errors.UnknownUpload, errors.TooManyUploads,
            errors.WrongState, errors.WrongGeneration, NoFile, WrongPart, ValueError)

#: Exceptions about the arguments of a call alone, whatever their cause is; some of them have been logged.
BY_ARGUMENTS = errors.InvalidInput, errors.TaskError

#: How many exceptions of which one was made from the next are looked at: whoever wrote a task may have made a circle.
CAUSES = 5


def mayBeBehind(db):
    """Return whether this process may not have heard yet of what another one has committed to a `ZODB.DB`.

    The server of ZEO tells its clients of a commit when it also tells the one that has made it.  All other storages
    look when a transaction begins.
    """
    return clientOf(db) is not None


def isByState(refusal):
    """Return whether a refusal, an exception, or one that it was made from, is because of the state of the database.

    Subclasses do not count: `xmlrpc.access.OthersJob` has been logged.
    """
    for _ in range(CAUSES):
        if refusal is None or isinstance(refusal, BY_ARGUMENTS):
            return False
        if type(refusal) in BY_STATE:
            return True
        refusal = refusal.__cause__
    return False


def catchUp(db):
    """Wait until transactions that begin now see all that was committed before this call.

    A client of ZEO that has asked the server has heard of all commits when it gets the answer.  Raise what ZEO raises
    if the server does not answer.

    db -- a `ZODB.DB`.
    """
    if (client := clientOf(db)) is not None:
        client.ping()


def fresh(db, function):
    """Return what a function does in a transaction of its own.  If that is refused, `catchUp` and call it once more.

    db -- a `ZODB.DB`.
    """
    try:
        return function()
    except errors.RemoteTaskError as error:
        if not (mayBeBehind(db) and isByState(error)):
            raise
    catchUp(db)
    return function()
