"""Several machines: a database server with TLS, a front end, three hosts and an application; each link is cut.

The machines are real network namespaces.  One host has another time than the rest, and one is behind a firewall that
translates its address.  The judge of the exam checks the promises.
"""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import functools
import hashlib
import io
import os
import socket
import ssl
import tempfile
import time
import unittest
import xmlrpc.client

import trustme
from ZODB.DB import DB
from ZODB.POSException import POSError
from zope.component import provideUtility
from zope.component import testing

from deployment import configurationOf
from exam import tasks
from exam.deployment import LEASE
from exam.deployment import Deployment
from exam.deployment import Program
from exam.deployment import opened
from exam.deployment import serviceOf
from exam.judge import judge
from exam.load import Load
from exam.load import Order
from exam.scenarios.clocks import clockLibrary
from exam.scenarios.clocks import move
from exam.trial import Scenario
from exam.trial import Trial
from lovely.remotetask import client
from lovely.remotetask.config.users import User
from lovely.remotetask.config.users import addUser
from lovely.remotetask.config.users import hashPassword
from lovely.remotetask.database.opening import Database
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.service import install
from lovely.remotetask.testing import TemporaryZEO
from lovely.remotetask.xmlrpc import faults
from machines import ImpossibleHere
from machines import network
from waits import PATIENCE


#: Seconds that a call of an application may take; those that a front end waits for its database, and a busy machine.
TIMEOUT, DEADLINE, LATE = 2, 1, 10

#: Jobs a second, and how many there may be.
RATE, ORDERS = 15, 4000

#: Seconds by which the clock of a host is wrong.  With a day, the host would drop what applications have just sent.
AHEAD = 3600

PASSWORD = 'a password for tests'

#: What the file has that is sent with a job of the task `digest`.
FILM = b'film' * 50_000

#: Tasks of which applications also add jobs in the database: name -> class.
DIRECT = {'plain': tasks.Plain, 'effect': tasks.Effect}

#: What an application is told while a link is cut; all else is a mistake.
AWAY = (client.NoAnswer, client.NotConnected, client.ConnectionBroken, faults.DatabaseUnavailable,
        faults.OutcomeUnknown, POSError)

# The database server, with less patience than usual: a machine that is cut off while it commits keeps all others from
# that until the server gives up its connection.
RUNZEO = """\
from lovely.remotetask import runzeo
from lovely.remotetask.common import keepalive
keepalive._OPTIONS = (('TCP_KEEPIDLE', 2), ('TCP_KEEPINTVL', 1), ('TCP_KEEPCNT', 2))
runzeo.VANISHED = 4
runzeo.main()
"""

TLS = """\
  <ssl>
    certificate {directory}/{name}.pem
    authenticate {directory}/authority.pem
  </ssl>
"""


class SafeZEO(TemporaryZEO):
    """A database server on a machine, with TLS for clients that have a certificate and blobs of their own."""

    program = '-c', RUNZEO

    def __init__(self, directory, machine):
        super().__init__(directory)
        self._machine, self.address = machine, (machine.address, 8100)
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(f'{directory}/authority.pem')
        for name, identity in ('server', machine.address), ('client', 'client.example.org'):
            issued = self.authority.issue_cert(identity)
            issued.private_key_and_cert_chain_pem.write_to_path(f'{directory}/{name}.pem')

    def configOf(self, name):
        """Return the text of the `<zodb>` section of a process."""
        shared = f'blob-dir {self.directory}/blobs\n    shared-blob-dir yes'
        assert shared in self.config
        return self.config.replace(shared, f'blob-dir {self.directory}/{name}.blobs\n    shared-blob-dir no')

    def _fill(self, template, address):
        end = '</zeo>' if '</zeo>' in template else '</clientstorage>'
        name = 'server' if '</zeo>' in template else 'client'
        return super()._fill(template.replace(end, TLS.format(directory='{directory}', name=name) + end), address)

    def start(self):
        """Start the server on its machine."""
        self._machine.run(super().start)

    def storage(self, machine=None, **options):
        """Return a new `ClientStorage`.

        machine -- where its process would be; default: that of the server.
        """
        context = ssl.create_default_context(cafile=f'{self.directory}/authority.pem')
        context.load_cert_chain(f'{self.directory}/client.pem')
        options.setdefault('blob_dir', f'{self.directory}/{(machine or self._machine).name}.blobs')
        return (machine or self._machine).run(super().storage, ssl=context, shared_blob_dir=False, **options)


class MachineProgram(Program):
    """A process on a machine."""

    def __init__(self, machine, *arguments):
        super().__init__(*arguments)
        self.machine = machine

    def start(self):
        """Start it there."""
        self.machine.run(super().start)


class Machines(Deployment):
    """A deployment of which each process has a machine."""

    def __init__(self, server, machines):
        self._machines = {machine.name: machine for machine in machines}
        addUser(os.path.join(server.directory, 'users'), User('app', hashPassword(PASSWORD), 'submit'))
        super().__init__(server, len(machines) - 1)

    def _program(self, name, command):
        machine = self._machines[name]
        keys = [f'users {self.directory}/users', f'certificate {self.directory}/frontend.pem', f'deadline {DEADLINE}s']
        text = configurationOf(self.directory, self.server.configOf(name), name, '\n'.join(keys),
                               f'threads 2\nlease {LEASE}s')
        self.server.authority.issue_cert(self._machines['frontend'].address) \
            .private_key_and_cert_chain_pem.write_to_path(f'{self.directory}/frontend.pem')
        path = self._write(f'{name}.conf', text.replace('127.0.0.1:0', f'{machine.address}:8443'))
        return MachineProgram(machine, name, ['-C', path, command], self.directory)

    @property
    def url(self):
        """The URL of the front end, with the user."""
        return f'https://app:{PASSWORD.replace(" ", "%20")}@{self._machines["frontend"].address}:8443/'

    def client(self):
        """Return a `Client` of the front end."""
        return client.Client(self.url, TIMEOUT, self.trust())

    def trust(self):
        """Return a context of TLS that trusts the front end."""
        return ssl.create_default_context(cafile=f'{self.directory}/authority.pem')


class KeyedLoad(Load):
    """Applications that add each job with a key, by the front end or in the database, again until they have its id.

    database -- the `Database` of those that need no front end.
    told -- what they were told instead, exceptions.
    """

    def __init__(self, database, *arguments):
        super().__init__(*arguments)
        self.database, self.told = database, collections.deque()

    def enter(self, order):
        """Return a number for an order."""
        with self._lock:
            number = next(self._numbers)
        self.orders[number] = order
        return number

    def add(self, order):
        """Add a job for the order; return its id."""
        number = self.enter(order)
        arguments = order.task, dict(order.input, number=number), f'order {number}'
        try:
            if order.task in DIRECT and number % 2:
                return self._insist(self._addToDatabase, number, *arguments)
            with self.deployment.client() as application:
                return self._insist(functools.partial(self._addByFrontend, application), number, *arguments)
        except Exception as error:
            self.errors.append(f'order {number}: {type(error).__name__}: {error}')

    def _addByFrontend(self, application, task, input, key):
        if task == 'digest':
            input = dict(input, file=client.File(io.BytesIO(FILM), 'film.avi'))
        return application.add(task, input, key=key)

    def _addToDatabase(self, task, input, key):
        with self.database.db.transaction() as connection:
            return serviceOf(connection.root()).add(task, input, key=key)

    def _insist(self, add, number, *arguments):
        until = None
        while True:
            try:
                jobid = add(*arguments)
                self.accepted[jobid] = number
                return jobid
            except AWAY as error:
                self.told.append(error)
                if self._over.is_set() and (until := until or time.monotonic() + PATIENCE) < time.monotonic():
                    raise


def wrongDigests(service):
    """Return what is wrong with the results of the jobs that have had a file, as texts."""
    return [f'job {jobid} has read another file' for jobid, job in service.jobs.items()
            if job.task == 'digest' and job.status == COMPLETED and job.output != hashlib.sha256(FILM).hexdigest()]


def anything(rng):
    """Return an order of any kind, half of them with an effect in the database."""
    task = rng.choice(['effect', 'effect', 'effect', 'plain', 'once', 'digest'])
    return Order(task, {'seconds': rng.choice([0, 0, 0.05, rng.uniform(0, LEASE / 2)])})


class MachinesTest(unittest.TestCase):

    level = 2

    def setUp(self):
        self.network, self.database, self.front, *self.hosts, self.application = network(
            self, 'database', 'frontend', 'host-1', 'host-2', 'host-3', 'application')
        self.hidden = self.hide(self.hosts[0])
        directory = os.path.realpath(self.enterContext(tempfile.TemporaryDirectory()))
        self.server = self.enterContext(contextlib.closing(SafeZEO(directory, self.database)))
        self.server.start()
        self.db = self.server.database()
        install(self.db)
        with opened(self.db) as root:
            tasks.prepare(root, ORDERS, root._p_jar.transaction_manager.commit)
        self.deployment = Machines(self.server, [self.front, *self.hosts])
        self.addCleanup(self.deployment.close)
        self.moveClock(self.deployment.hosts[1])
        self.deployment.restore()
        self.load = KeyedLoad(self.openDatabase(), self.deployment, anything, 'machines', ORDERS, RATE)
        self.trial = Trial(Scenario('machines', None), self.deployment, self.load, 'machines', 60)
        self.trial.check = wrongDigests

    def hide(self, machine):
        """Put a machine behind a firewall that translates its address, where there can be one; return whether it is."""
        try:
            self.network.hide(machine)
        except ImpossibleHere:
            return False
        return True

    def checkConnections(self):
        """Check that nothing connects to a host, and nothing could connect to the hidden one."""
        self.assertEqual([host.listeners() for host in self.hosts], [[]] * 3)
        peers = self.database.peers()
        self.assertIn(self.hosts[1].address, peers)
        if self.hidden:
            self.assertNotIn(self.hosts[0].address, peers)
            with self.assertRaises(TimeoutError):
                self.application.run(socket.create_connection, (self.hosts[0].address, 1), 0.5)

    def moveClock(self, host):
        """Have a host, that runs not yet, have another time than all others; where there is a C compiler."""
        library = clockLibrary(self.deployment.directory)
        if library is not None:
            host.environment = {'LD_PRELOAD': library, 'EXAM_CLOCK': f'{self.deployment.directory}/clock'}
            move(host, AHEAD)

    def openDatabase(self):
        """Return a `Database` of the application's machine, whose process has tasks."""
        self.addCleanup(testing.tearDown)
        for name, task in DIRECT.items():
            provideUtility(task(), ITask, name)
        database = self.application.run(Database, lambda: DB(self.server.storage(self.application)))
        self.addCleanup(database.close)
        return database

    def wait(self, condition, what):
        """Wait until the condition is true."""
        self.assertTrue(self.trial.waitUntil(condition, PATIENCE), f'waited in vain for {what}\n'
                        f'{self.trial.story}\n{self.deployment.logs}')

    def claims(self, host):
        """Return the ids of the jobs that a host has claimed."""
        with opened(self.db) as root:
            return set(serviceOf(root).ledgers[host.name].claimed)

    def goesOn(self):
        """Wait until jobs are accepted and each host runs some."""
        accepted = len(self.load.accepted)
        self.wait(lambda: len(self.load.accepted) > accepted + 10, 'new jobs')
        rows = len(self.deployment.trace)
        pids = {host.pid for host in self.deployment.hosts}
        self.wait(lambda: {pid for _, _, pid, _ in self.deployment.trace[rows:]} == pids, 'all hosts')

    @contextlib.contextmanager
    def cut(self, *machines):
        """Cut a link for longer than the lease; in the end all goes on by itself."""
        self.load.told.clear()
        self.trial.fault(f'cut: {" - ".join(machine.name for machine in machines)}')
        self.network.cut(*machines)
        began = time.monotonic()
        yield
        time.sleep(max(0, began + 1.2 * LEASE - time.monotonic()))
        self.network.heal()
        self.trial.tell('healed')
        self.goesOn()
        self.trial.tell('all goes on')

    def answer(self):
        """Return the code of the fault that an application meets, None for none; this may not take long."""
        with xmlrpc.client.ServerProxy(self.deployment.url, context=self.deployment.trust()) as server:
            began = time.monotonic()
            try:
                server.add('plain', {})
                return None
            except xmlrpc.client.Fault as fault:
                return fault.faultCode
            finally:
                self.assertLess(time.monotonic() - began, DEADLINE + LATE)

    def loseAnswer(self):
        """Have the answer to a call of an application be lost; it adds its job again, and the judge sees one."""
        order = Order('effect', {'seconds': 0})
        number = self.load.enter(order)
        with self.deployment.client() as application:
            application.getAvailableTasks()                     # over a connection that is kept
            self.network.lose(self.front, self.application)
            with self.assertRaises(client.NoAnswer):
                application.add('effect', dict(order.input, number=number), key='lost')
            self.network.heal()
            self.load.accepted[application.add('effect', dict(order.input, number=number), key='lost')] = number

    def test_each_link_is_cut_for_longer_than_the_lease(self):
        self.application.run(self.load.start)
        self.addCleanup(self.load.stop)
        self.addCleanup(self.network.heal)
        self.goesOn()
        self.checkConnections()
        with self.cut(self.application, self.front):
            self.wait(lambda: self.load.told, 'an application that is told')
        self.application.run(self.loseAnswer)
        with self.cut(self.application, self.database):
            pass
        with self.cut(self.front, self.database):
            self.wait(lambda: self.application.run(self.answer) == faults.DATABASE_UNAVAILABLE, 'the front end')
        for machine, host in zip(self.hosts, self.deployment.hosts, strict=True):
            self.wait(lambda: self.claims(host), 'a claim')
            with self.cut(machine, self.database):
                # Only those who take its jobs over can take them from its ledger.
                self.wait(lambda: not self.claims(host), f'those who take over the jobs of {host.name}')
        self.load.stop()
        verdict = judge(self.trial)
        self.assertEqual(verdict.violations, [], verdict.report)


if __name__ == '__main__':
    unittest.main()
