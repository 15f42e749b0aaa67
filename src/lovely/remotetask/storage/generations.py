"""The generation of a service's data: which releases may work with it, and how it is upgraded to the next one.

Two numbers are stored in a service.  `generation` says what shape its data has.  `needs` is the least `GENERATION` of a
release that may work with the data.  So a release can add what older ones may ignore, and keep as it is: then it raises
`generation` alone.  Where older ones would do harm, it raises `needs` as well, and they refuse the service from the
commit of that on: see `TaskService.__setstate__`.

A release has two numbers as well: `GENERATION` and `OLDEST`.  As long as `OLDEST` is that of the release before, it
works with the data of that one as they are, writes nothing that this one could not read, and both can run beside each
other.  No data is upgraded before somebody asks for it: see `upgrade`.
"""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import transaction

from lovely.remotetask.common.checks import shown
from lovely.remotetask.common.logs import about
from lovely.remotetask.common.release import release
from lovely.remotetask.database import notes
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import atPath
from lovely.remotetask.database.sites import loadFault
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.database.sites import whereIs
from lovely.remotetask.database.transactions import transact
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import WrongGeneration
from lovely.remotetask.storage import hosts


log = logging.getLogger('lovely.remotetask')

#: The newest shape of data that this release knows: what it makes new services in.
GENERATION = 1

#: The oldest one that it works with as it is.
OLDEST = 1

#: The first one that there was; releases up to 0.5 did not write any.
FIRST = 1

#: Seconds to wait for transactions that older releases began before they were excluded.
PATIENCE = 5.0

#: What a transaction of an upgrade does, in the words of the log.
EXCLUDED, WORKED, UPGRADED = 'older releases cannot work with it any more', 'a part is done', 'it was upgraded'

#: How often a transaction is tried; other processes of a deployment may do the same at the same time.
ATTEMPTS = 10


class Step(NamedTuple):
    """Upgrades the data of a service from one generation to the next."""

    text: str           # what it does, for people
    needs: int          # the least GENERATION of a release that may work with the data from then on
    do: Callable        # called with the service, it does a part of the work in one transaction, and returns whether
    #                     all is done; it may be interrupted between two parts, and meets what others write meanwhile


#: From which generation -> the `Step` to the next one.
STEPS: dict[int, Step] = {}


def isFit(service):
    """Return whether this release may work with the data of a service; only looks at its two numbers."""
    return _areNumbers(service) and service.generation >= OLDEST and service.needs <= GENERATION


def _areNumbers(service):
    """Return whether what a service has as its two numbers are some."""
    return all(type(number) is int and number >= 0 for number in (service.generation, service.needs))


def fault(service):
    """Return why this release must not work with the data of a service, a sentence; None when it may."""
    if isFit(service):
        return None
    if not _areNumbers(service):
        return (f'the task service {whereIs(service)} is damaged: {shown(service.generation)} and '
                f'{shown(service.needs)} are no generations; put back a backup')
    if service.generation < FIRST:
        return (f'the task service {service.__name__!r} was made by lovely.remotetask 0.5 or older, whose jobs this '
                f'release cannot read: remove the service, add a new one, and add again what still has to be done')
    if service.needs > GENERATION:
        return (f'the task service {whereIs(service)} is of generation {service.generation}, which this release, '
                f'{release()}, cannot work with: install lovely.remotetask {service.release} or a newer one')
    return (f'the task service {whereIs(service)} is of generation {service.generation}, and this release, '
            f'{release()}, needs {OLDEST}: "remotetask upgrade --check" says what will be done about that')


class Plan(NamedTuple):
    """What an upgrade of a service will do."""

    path: tuple         # of the service, names
    generation: int     # of the service as it is
    steps: tuple        # the `Step`s, in their order
    hosts: tuple        # the living hosts that must stop before, as `hosts.livingHosts` has them
    fault: str | None   # why nothing can be done, a sentence


def planOf(service, path, now):
    """Return the `Plan` for a service; changes nothing.

    service -- what is at the path: a service, or an object of a class that this process lacks.
    path -- a tuple of names.
    now -- UTC seconds.
    """
    if (reason := loadFault(service)) is not None:
        return Plan(path, 0, (), (), reason)
    number, reason = service.generation, None
    if not _areNumbers(service) or number < FIRST or service.needs > GENERATION:
        reason = fault(service)
    elif any(each not in STEPS for each in range(number, GENERATION)):
        reason = (f'it is of generation {number}, from which this release, {release()}, has no way: upgrade it with an '
                  f'older release first')
    if reason is not None:
        return Plan(path, number, (), (), reason)
    service.reachAll()
    steps = tuple(STEPS[each] for each in range(number, GENERATION))
    needs = max((step.needs for step in steps), default=0)
    return Plan(path, number, steps, tuple(_hostsBelow(service, needs, now)), None)


def _hostsBelow(service, needs, now):
    """Return those living hosts, as `hosts.livingHosts` has them, that must not work with data that need so much."""
    return [host for host in hosts.livingHosts(service, now)
            if service.ledgers[host['name']].owner.get('generation', 0) < needs]


def named(hosts):
    """Return the names of hosts and their releases, for people; `hosts` are as `Plan.hosts`."""
    return ', '.join(f'{host["name"]} ({host["release"] or "of an unknown release"})' for host in hosts)


def upgrade(db, path, now, user='', patience=PATIENCE):
    """Bring the data of a service to the generation of this release; return whether there was something to do.

    db -- a `ZODB.DB`.
    path -- of the service, a tuple of names.
    now -- returns UTC seconds.
    user -- who has asked for it.
    patience -- seconds to wait for transactions that older releases began before they were excluded.

    Interrupted, it goes on where it was, after the same patience: whoever has excluded older releases may have been
    killed a moment ago.  Hosts whose release knows the new generation may run meanwhile.

    Raise `WrongGeneration` when this release cannot do it, and `RemoteTaskError` when hosts must be stopped before.
    """
    manager, done, hasWaited = transaction.TransactionManager(explicit=True), False, False
    with contextlib.closing(db.open(manager)) as connection:
        while (part := _part(manager, connection, path, now, user, hasWaited)) is not None:
            done, hasWaited = True, hasWaited or part == EXCLUDED
            if part == EXCLUDED:
                time.sleep(patience)
    return done


def _part(manager, connection, path, now, user, hasWaited=True):
    """Do one transaction; return what it has done, EXCLUDED, WORKED or UPGRADED, or None for nothing.

    hasWaited -- whether the transactions of older releases are over, if these were excluded.
    """
    def tryOnce():
        service = atPath(connection.root()[ROOT_NAME], path)
        plan = planOf(service, path, now())
        _checkPlan(plan)
        if not plan.steps:
            return None, service.generation
        if plan.generation < service.needs and not hasWaited:
            return EXCLUDED, service.generation             # by whoever was interrupted
        part = _do(service, plan.steps[0])
        notes.write(manager.get(), [notes.Act('upgrade', path=pathText(path))], user)
        return part, service.generation

    part, generation = transact(manager, tryOnce, ATTEMPTS)
    if part not in (None, WORKED):
        log.info('service %s: %s; it is of generation %d', pathText(path), part, generation,
                 extra=about('service.upgraded', service=pathText(path)))
    return part


def _checkPlan(plan):
    """Raise `WrongGeneration` or `RemoteTaskError` when what is planned cannot be done now."""
    if plan.fault is not None:
        raise WrongGeneration(plan.fault)
    if plan.hosts:
        raise RemoteTaskError(f'stop these processing hosts of {pathText(plan.path)} first, which cannot work with it '
                              f'after the upgrade: {named(plan.hosts)}')


def _do(service, step):
    """Do a part of a step in the current transaction; return what that was.

    First of all the releases that the step excludes are excluded, in a transaction of its own, so that they write
    nothing beside the work that follows.
    """
    if service.needs < step.needs:
        service.needs, service.release = step.needs, release()
        return EXCLUDED
    if not step.do(service):
        return WORKED
    service.generation, service.release = service.generation + 1, release()
    return UPGRADED
