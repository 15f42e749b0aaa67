"""Stored data of older releases: brought up to date in steps of small transactions, which can be resumed."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import itertools
import logging

import transaction
from BTrees.IIBTree import IITreeSet
from BTrees.OOBTree import OOBTree
from BTrees.OOBTree import OOTreeSet

from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.lifecycle import fetch
from lovely.remotetask.lifecycle import ledgers
from lovely.remotetask.readyqueue import ReadyQueue
from lovely.remotetask.register import Keys
from lovely.remotetask.register import Register
from lovely.remotetask.sites import ROOT_NAME
from lovely.remotetask.sites import atPath
from lovely.remotetask.timetable import Seen


log = logging.getLogger('lovely.remotetask')

#: The shape that this release writes; `TaskService.generation` says which one a service has.
GENERATION = 4

#: Entries that one transaction moves, and jobs that it looks at.
BATCH = 1000

#: How often a transaction is tried; other processes of a deployment may do the same at the same time.
ATTEMPTS = 10


def evolve(db, path):
    """Bring the data of a service up to date; cheap when it is.

    db -- a `ZODB.DB`.
    path -- of the service, a tuple of names.

    Raise `errors.RemoteTaskError` when a newer release has written it.
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
        with attempt:
            service = atPath(connection.root()[ROOT_NAME], path)
            generation = service.generation
            if generation > GENERATION:
                raise RemoteTaskError(f'the service at /{"/".join(path)} has been written by a newer release: its '
                                      f'generation is {generation}, this release knows {GENERATION}')
            if generation < GENERATION and STEPS[generation](service):
                service.generation = generation + 1
    if generation < GENERATION:
        log.info('service /%s: evolving from generation %d', '/'.join(path), generation)
    return generation < GENERATION


def _calendarOfPairs(service):
    """Generation 1 had a calendar of unique times; since 2 it has pairs of time and id, ledgers know more, and suspects
    have a queue of their own.
    """
    timetable = service.schedule
    old = getattr(timetable, 'calendar', None)
    if old is not None:
        if timetable.entries == ():
            timetable.entries = OOTreeSet()
        for _ in range(min(BATCH, len(old))):
            due = old.minKey()
            timetable.entries.add((due, old.pop(due)))
        if old:
            return False
        del timetable.calendar
    for ledger in ledgers(service):
        ledger.upgrade()
    service.suspects = ReadyQueue()
    return True


def _jobsInRegister(service):
    """Since generation 3 jobs that wait for something else than their turn are in a register, and jobs may have keys.
    """
    register = service.register
    if register is None:
        service.register, service.keys = Register(), Keys()
        service.register.upTo = 0
        return False            # from now on who brings a job forward enters it as well: see `lifecycle.place`
    jobids = list(itertools.islice(service.jobs.keys(register.upTo + 1), BATCH))
    for _, job in fetch(service, jobids):
        if register.place(job):
            service._p_jar.readCurrent(job)         # it must not be brought forward at the same time
    if len(jobids) == BATCH:
        register.upTo = jobids[-1]
        return False
    del register.upTo
    return True


def _entriesOfRuns(service):
    """Since generation 4 the entries of queues are of runs, which older releases cannot read; older entries stay.  The
    timetable knows what its scheduler has set aside, and the service what no host could run.
    """
    service.schedule.aside, service.schedule.seen = IITreeSet(), Seen()
    service.stranded = OOBTree()
    return True


#: From which generation -> what brings a service's data to the next one.  A step does a part of its work, and returns
#: whether it is done; it may be interrupted between two parts.
STEPS = {1: _calendarOfPairs, 2: _jobsInRegister, 3: _entriesOfRuns}
