"""Hosts and front ends that are killed, stopped, ended and upgraded."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import time

from exam.deployment import LEASE
from exam.deployment import opened
from exam.deployment import serviceOf
from exam.orders import short
from exam.trial import RESCUE
from exam.trial import scenario


@scenario()
def kill(trial):
    """One host after the other is killed, and started again under its name."""
    while trial.goesOn:
        trial.wait(0.3, 1)
        trial.kill(trial.drawHost())
        trial.deployment.mend()


@scenario(work=short, once=True, uncharged=True, alive=True)
def rolling(trial):
    """All hosts are asked to end, one after the other, and started again: nobody notices."""
    while trial.goesOn:
        for host in trial.deployment.hosts:
            trial.terminate(host)
            trial.waitUntil(lambda: host.ready, 30)


@scenario(alive=True, storage='zeo')
def upgrade(trial):
    """Hosts, front end and database server go over to the checkout that is beside, one by one, and back again."""
    tree = None
    while trial.goesOn:
        tree = trial.beside if tree is None else None
        programs = [*trial.deployment.programs, None]
        trial.rng.shuffle(programs)
        for program in programs:
            trial.wait(0.1, 1)
            if program is None:
                trial.moveServer(tree)
            else:
                trial.move(program, tree)


@scenario()
def stopped(trial):
    """A host is stopped beyond its lease: the others do its jobs, and when it goes on it changes nothing."""
    with contextlib.closing(trial.deployment.server.database()) as database:
        def claims(host):
            with opened(database) as root:
                return len(serviceOf(root).ledgers[host.name].claimed)

        while trial.goesOn:
            trial.wait(0.5, 1)
            host = trial.drawHost()
            with trial.stopped(host):
                time.sleep(LEASE)
                before = database.lastTransaction()
                if not trial.waitUntil(lambda: not claims(host), (RESCUE - 1) * LEASE):
                    if database.lastTransaction() == before:
                        # It holds the commit lock of the server: that is ZEO's, and nobody can take it away.
                        trial.tell('nothing was committed meanwhile')
                    else:
                        trial.violations.append(f'{host.name} was stopped for {RESCUE} leases, and {claims(host)} jobs '
                                                f'still wait for it')
            trial.waitUntil(lambda: not trial.goesOn, trial.rng.uniform(0, LEASE))


@scenario(alive=True)
def frontend(trial):
    """The front end is killed and started again: what it has accepted is there."""
    while trial.goesOn:
        trial.wait(0.5, 1.5)
        trial.kill(trial.deployment.frontend)
        trial.waitUntil(lambda: trial.deployment.frontend.ready, 30)


@scenario()
def mixed(trial):
    """Anything happens."""
    while trial.goesOn:
        trial.wait(0.2, 1)
        trial.rng.choice([lambda: trial.kill(trial.drawHost()), lambda: trial.terminate(trial.drawHost()),
                           trial.stopOne, lambda: trial.kill(trial.deployment.frontend), trial.killServer,
                           trial.hangServer, trial.cancelOne])()
        trial.deployment.mend()
