"""Database servers that are killed, hang, or wait for a client."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import time

import psycopg2

from exam.orders import committing
from exam.trial import POLL_INTERVAL
from exam.trial import RATE
from exam.trial import scenario
from lovely.remotetask.testing import Process


@scenario(alive=True, storage='zeo')
def zeo(trial):
    """The database server is killed and started again."""
    while trial.goesOn:
        trial.wait(1, 3)
        trial.killServer()


@scenario(alive=True)
def hang(trial):
    """The database server hangs, in a long trial at times for so long that all leave it."""
    while trial.goesOn:
        trial.wait(0.5, 2)
        if trial.seconds > 30 and trial.rng.random() < 0.1:
            trial.hangServer(10, 15)
        else:
            trial.hangServer()


@scenario(storage='postgresql', uncharged=True)
def postgres(trial):
    """PostgreSQL is restarted, crashes, and its backends are killed or terminated: nobody is charged for it."""
    server = trial.deployment.server
    faults = {'is restarted': server.restart, 'crashes': lambda: server.restart('immediate'),
              'has a backend killed': lambda: server.killBackend(trial.rng.choice(server.backends())),
              'terminates all backends': server.terminateBackends}
    while trial.goesOn:
        trial.wait(0.5, 3)
        fault = trial.rng.choice(list(faults))
        trial.fault(f'PostgreSQL {fault}')
        faults[fault]()
    # After the loss of a backend it refuses all connections until it has recovered; who judges connects once.
    if not trial.waitUntil(lambda: answers(server), 60):
        trial.violations.append('PostgreSQL does not come back')


def answers(server):
    """Return whether a PostgreSQL accepts connections."""
    try:
        server.backends()
    except psycopg2.OperationalError:
        return False
    return True


@scenario(rate=RATE / 3, work=committing, once=True, uncharged=True, alive=True, storage='zeo')
def stalled(trial):
    """A client stalls after its vote, longer than the lease, again and again, and so do tasks: all hosts live."""
    client = Process(['-m', 'exam.staller', *map(str, trial.deployment.server.address), trial.seed],
                     trial.deployment.directory)
    with contextlib.closing(client):
        while trial.goesOn:
            time.sleep(POLL_INTERVAL)
        trial.faults += len(client.said)
        for line in client.said:
            trial.tell(line.rstrip())
        if client.popen.poll() is not None:
            trial.violations.append('the client that stalls has ended')
