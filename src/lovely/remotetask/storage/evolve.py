"""Stored data of older releases: brought up to date in steps of small transactions, which can be resumed."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging

import transaction

from lovely.remotetask.database import notes
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import atPath
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.errors import RemoteTaskError


log = logging.getLogger('lovely.remotetask')

#: The shape that this release writes; `TaskService.generation` says which one a service has.
GENERATION = 1

#: The first one that can be brought up to date; releases up to 0.5 did not write any.
FIRST = 1

#: How often a transaction is tried; other processes of a deployment may do the same at the same time.
ATTEMPTS = 10


def tooOld(service):
    """Return a `RemoteTaskError` about a service that a release of another design has made."""
    return RemoteTaskError(f'the task service {service.__name__!r} was made by lovely.remotetask 0.5 or older, whose '
                           f'jobs this release cannot read: remove the service, add a new one, and add again what '
                           f'still has to be done')


def evolve(db, path):
    """Bring the data of a service up to date; cheap when it is.

    db -- a `ZODB.DB`.
    path -- of the service, a tuple of names.

    Raise `errors.RemoteTaskError` when a newer release has written it, or one of 0.5 or before.
    """
    manager = transaction.TransactionManager(explicit=True)
    manager.begin()
    connection = db.open(manager)
    manager.abort()
    with contextlib.closing(connection):
        while _step(manager, connection, path):
            pass


def _step(manager, connection, path):
    """Do one transaction; return whether there is more to do."""
    for attempt in manager.attempts(ATTEMPTS):
        with attempt as txn:
            service = atPath(connection.root()[ROOT_NAME], path)
            generation = service.generation
            if generation < FIRST:
                raise tooOld(service)
            if generation > GENERATION:
                raise RemoteTaskError(f'the service at /{"/".join(path)} has been written by a newer release: its '
                                      f'generation is {generation}, this release knows {GENERATION}')
            if generation < GENERATION and STEPS[generation](service):
                service.generation = generation + 1
            notes.write(txn, [notes.Act('evolve', path=pathText(path))])
    if generation < GENERATION:
        log.info('service /%s: evolving from generation %d', '/'.join(path), generation)
    return generation < GENERATION


#: From which generation -> what brings a service's data to the next one.  A step is called with the service, does
#: a part of its work in one transaction, and returns whether it is done; it may be interrupted between two parts.
STEPS = {}
