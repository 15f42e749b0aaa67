"""A database server that is killed and comes back, one that hangs, and processes that stop meanwhile."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import http.client
import os
import queue
import shutil
import signal
import threading
import time
import unittest
import uuid
import xmlrpc.client
from concurrent.futures import ThreadPoolExecutor

import transaction
from BTrees.OOBTree import OOBTree
from ZEO.ClientStorage import ClientStorage
from ZEO.Exceptions import ClientDisconnected
from ZODB.DB import DB
from ZODB.POSException import ConflictError

from deployment import PATIENCE
from deployment import DeploymentCase
from lovely.remotetask.database.failures import DatabaseReplaced
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.opening import Database
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import findService
from lovely.remotetask.service import install
from lovely.remotetask.testing import TemporaryZEO
from lovely.remotetask.testing import temporaryZEO
from lovely.remotetask.testing.ports import freePort
from lovely.remotetask.xmlrpc.faults import DATABASE_UNAVAILABLE
from lovely.remotetask.xmlrpc.faults import OUTCOME_UNKNOWN
from lovely.remotetask.xmlrpc.faults import STOPPING
from waits import waitUntil


#: Seconds between two looks, and two calls of a client.
PAUSE = 0.05

#: Seconds that the frontend waits for the database, and that its answer may take on a busy machine.
DEADLINE, LATE = 2, 20

#: Seconds in which all is well again once the server is back: 5 are promised, a busy machine gets more, but fewer than
#: the 30 after which a client gives up a call by itself.
RECOVERY = 25

# The count and the end of the job are committed together: a job that is run again counts once.
TASKS = """\
from zope.interface import Interface, implementer
from lovely.remotetask.interfaces import ITask


@implementer(ITask)
class Count:

    inputSchema = outputSchema = Interface

    def __call__(self, service, jobid, input):
        service.counts[jobid] = service.counts.get(jobid, 0) + 1
        return input
"""


class CountingCase(DeploymentCase):
    """A deployment whose task counts its runs."""

    handlers = {'count': 'Count'}
    tasks = TASKS
    frontendKeys = f'deadline {DEADLINE}s'
    processorKeys = 'threads 2\ngrace-period 1s'

    def prepareDatabase(self):
        self.added = set()                      # ids
        self.db = self.server.database()
        install(self.db)
        with self.db.transaction() as connection:
            self.service(connection).counts = OOBTree()

    def service(self, connection):
        return findService(connection.root()[ROOT_NAME], '/')

    def look(self, function):
        """Return what the function makes of the service, as the database has it; also when connections were lost."""
        for attempt in range(10):
            manager = transaction.TransactionManager()
            try:
                connection = self.db.open(manager)
                try:
                    return function(self.service(connection))
                finally:
                    manager.abort()
                    connection.close()
            except Exception as error:
                if not isDatabaseError(error) or attempt == 9:
                    raise
            time.sleep(PAUSE * 2 ** attempt)

    def call(self, method, *arguments):
        """Call a method of the service, and return its result or fault code; it must not take long."""
        began = time.monotonic()
        try:
            with xmlrpc.client.ServerProxy(self.url, allow_none=True) as server:
                return True, getattr(server, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            return False, fault.faultCode
        finally:
            self.assertLess(time.monotonic() - began, DEADLINE + LATE)

    def add(self, input):
        """Add a job and return its id.

        The deadline of the front end is short.  A commit on a busy disk may take longer, so the call is repeated.
        """
        options = {'key': str(uuid.uuid4())}

        def tryToAdd():
            succeeded, value = self.call('add', 'count', input, False, options)
            self.assertTrue(succeeded or value in (DATABASE_UNAVAILABLE, OUTCOME_UNKNOWN), value)
            return succeeded and value

        jobid = self.waitUntil(tryToAdd, f'the addition of {input}')
        self.added.add(jobid)
        return jobid

    def waitForAll(self, patience=PATIENCE):
        """Wait until there is nothing left to do; return id -> input, of all jobs, which must have run once each."""
        def left(service):
            jobs = [(jobid, job.status) for jobid, job in service.jobs.items() if job.status != 'completed']
            jobs += [(jobid, 'unknown') for jobid in self.added if jobid not in service.jobs]
            return jobs, [list(ledger.claimed.items()) for ledger in service.ledgers.values() if ledger.claimed]
        waitUntil(lambda: self.look(left) == ([], []), 'the end of jobs and claims',
                  lambda: f'{self.look(left)}\n{self.said()}', patience)
        jobs = self.look(lambda service: {jobid: job.input for jobid, job in service.jobs.items()})
        self.assertEqual(self.look(lambda service: dict(service.counts)), dict.fromkeys(jobs, 1))
        self.assertIs(self.look(lambda service: service.hasJobsWaiting()), False)
        return jobs

    def checkUnderLoad(self, faults):
        """Add jobs from several threads while the functions are called one after the other; check all jobs."""
        accepted, unknown, failures, over = {}, set(), [], threading.Event()

        def load(client):
            number = 0
            while not over.wait(PAUSE):
                input = [client, number]
                succeeded, value = self.call('add', 'count', input)
                if succeeded:
                    accepted[value] = input
                elif value == OUTCOME_UNKNOWN:
                    unknown.add(tuple(input))   # not to be repeated: it is looked for at the end
                elif value == DATABASE_UNAVAILABLE:
                    continue                    # nothing was changed: the same again
                else:
                    failures.append(value)
                number += 1

        with ThreadPoolExecutor(4) as threads:
            clients = [threads.submit(load, client) for client in range(4)]
            try:
                for fault in faults:
                    count = len(accepted)
                    self.waitUntil(lambda: len(accepted) > count + 40, 'some jobs', RECOVERY)
                    fault()
                count = len(accepted)
                self.waitUntil(lambda: len(accepted) > count + 40, 'some jobs', RECOVERY)
            finally:
                over.set()
        for client in clients:
            client.result()
        self.assertEqual(failures, [])
        jobs = self.waitForAll()
        self.assertEqual({jobid: jobs.get(jobid) for jobid in accepted}, accepted)
        others = sorted(tuple(input) for jobid, input in jobs.items() if jobid not in accepted)
        self.assertEqual(others, sorted(set(others)))
        self.assertLessEqual(set(others), unknown)


class AwayTest(CountingCase):

    level = 2

    def setUp(self):
        super().setUp()
        self.addCleanup(self.server.goOn)       # before the server ends: who is stopped cannot

    def test_a_server_that_is_killed_and_started_again_under_load(self):
        def crash():
            self.server.kill()
            self.server.start()

        self.checkUnderLoad([crash] * 3)

    def test_a_server_that_hangs(self):
        jobids = [self.add(number) for number in range(40)]
        self.waitForAll()                       # so the frontend has not seen them since they were run
        for number in range(40):
            self.add(number)
        self.server.hang()
        with ThreadPoolExecutor(40) as threads:
            # All clients are answered, and those who come again at once.
            for _ in range(3):
                self.assertEqual(set(threads.map(lambda jobid: self.call('getStatus', jobid), jobids)),
                                 {(False, DATABASE_UNAVAILABLE)})
            began = time.monotonic()
            answers = set(threads.map(lambda jobid: self.call('add', 'count', 'while it hangs'), jobids))
            self.assertLessEqual(answers, {(False, DATABASE_UNAVAILABLE), (False, OUTCOME_UNKNOWN)})
            self.assertLess(time.monotonic() - began, DEADLINE + LATE)
        # The connections are given up: two of each host, the one of the frontend.
        self.waitUntil(lambda: self.said().count('has not answered for') >= 5, 'the watchdogs')
        self.server.goOn()
        self.waitUntil(lambda: self.call('getStatus', jobids[0]) == (True, 'completed'), 'a read', RECOVERY)
        self.waitUntil(lambda: self.call('add', 'count', 'after it')[0], 'a write', RECOVERY)
        self.waitForAll(RECOVERY)

    def test_processes_stop_without_a_server(self):
        for number in range(40):
            self.add(number)
        self.server.kill()
        self.checkStop()
        self.server.start()

    def test_processes_stop_while_the_server_hangs(self):
        for number in range(40):
            self.add(number)
        self.server.hang()
        self.checkStop()

    def checkStop(self):
        for process in self.processes:
            process.popen.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.popen.wait(RECOVERY)
            self.assertEqual(process.popen.returncode, 0, ''.join(process.said))
        # The libraries log what they could not load, with tracebacks; of our own there is none.
        ours = [line for line in self.said().splitlines()
                if any(part in line for part in ('ERROR lovely.remotetask', 'NoTransaction', 'Exception in thread'))]
        self.assertEqual(ours, [], self.said())


class MonitoringTest(CountingCase):

    level = 2
    hostNames = ()

    def test_it_does_not_trust_the_cache(self):
        for _ in range(2):
            self.assertTrue(self.call('getStatistics')[0])
        self.server.kill()
        self.assertEqual(self.call('getStatistics'), (False, DATABASE_UNAVAILABLE))
        self.server.start()
        self.waitUntil(lambda: self.call('getStatistics')[0], 'an answer', RECOVERY)


class SecondServerTest(CountingCase):
    """Clients that know two addresses of one database, of which each has a server at times."""

    level = 2

    def prepareDatabase(self):
        self.second = TemporaryZEO(self.server.directory)
        self.second.address = '127.0.0.1', freePort()
        self.addCleanup(self.second.close)
        super().prepareDatabase()
        self.db.close()
        self.db = DB(ClientStorage([self.server.address, self.second.address], wait_timeout=PATIENCE))
        self.addCleanup(self.db.close)

    def databaseOf(self, name):
        """Return the text of a `<zodb>` section with both addresses."""
        first, second = (f'server {host}:{port}' for host, port in (self.server.address, self.second.address))
        return self.server.config.replace(first, f'{first}\n    {second}')

    def test_they_take_over_from_each_other_under_load(self):
        with self.assertRaises(AssertionError):
            self.second.start()                 # the first one has the file
        servers = [self.server, self.second]

        def takeOver():
            servers[0].kill()
            servers.reverse()
            servers[0].start()

        self.checkUnderLoad([takeOver] * 2)
        self.assertEqual([process.popen.poll() for process in self.processes], [None] * 3, self.said())


class ReplacedTest(CountingCase):
    """A server that comes back with a database in which the last transactions are missing."""

    level = 2

    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.directory, 'Data.fs')

    def copy(self):
        """Return the path of a copy of the database as it is now."""
        self.waitForAll()
        return shutil.copy(self.path, self.path + '.old')

    def replace(self, path, whileAway=None):
        """Have the server come back with the file at the path instead of its own, None for a new one.

        whileAway -- called while the server is back, and the processes have not noticed that yet.
        """
        for process in self.processes:
            process.popen.send_signal(signal.SIGSTOP)
        self.server.kill()
        os.remove(self.path)
        for name in 'index', 'lock', 'tmp':
            with contextlib.suppress(FileNotFoundError):
                os.remove(f'{self.path}.{name}')
        if path is not None:
            shutil.move(path, self.path)
        self.server.start()
        if whileAway is not None:
            whileAway()
        for process in self.processes:
            process.popen.send_signal(signal.SIGCONT)

    def checkEnd(self, jobid):
        """Check that all processes end and say why, and that meanwhile the front end says nothing else of a job."""
        answers = set()

        def ask():
            try:
                answers.add(self.call('getStatus', jobid))
            except (OSError, http.client.HTTPException):
                pass
            except xmlrpc.client.ProtocolError as error:        # the front end stops between the head and the body
                self.assertEqual(error.errcode, 503)
            return self.frontend.popen.poll() is not None
        self.waitUntil(ask, 'the end of the front end')
        self.assertLessEqual(answers, {(True, 'completed'), (False, DATABASE_UNAVAILABLE), (False, STOPPING)})
        for process in self.processes:
            self.assertEqual(process.popen.wait(PATIENCE), 1, ''.join(process.said))
            process.close()
            said = ''.join(process.said)
            self.assertRegex(said, 'failed: the database server .* lacks the last transaction that this process')

    def checkStart(self):
        """Check that all goes well after a new start; return id -> input of all jobs."""
        self.added.clear()
        self.db = self.server.database()
        self.frontend = self.remotetask('frontend', 'frontend')
        self.hosts = [self.remotetask(name, 'processor') for name in ('host-1', 'host-2')]
        self.processes = [self.frontend, *self.hosts]
        self.url = self.frontend.waitFor('listening on ')
        jobid = self.add('afterwards')
        jobs = self.waitForAll()
        self.assertIn(jobid, jobs)
        return jobs

    def commit(self):
        """Commit something, as a client that has never seen another state."""
        with contextlib.closing(self.server.database()) as database, database.transaction() as connection:
            connection.root()['other'] = 1

    def prepare(self):
        """Have a copy of the database, and jobs that are not in it; return the copy's path and the id of such a job."""
        self.add('before')
        path = self.copy()
        jobid = [self.add(number) for number in range(3)][-1]
        self.waitForAll()
        return path, jobid

    def test_an_older_copy(self):
        path, jobid = self.prepare()
        self.replace(path)
        self.checkEnd(jobid)
        self.assertEqual(sorted(self.checkStart().values()), ['afterwards', 'before'])

    def test_an_older_copy_to_which_others_have_committed_since(self):
        path, jobid = self.prepare()
        self.replace(path, self.commit)
        self.checkEnd(jobid)
        self.assertEqual(sorted(self.checkStart().values()), ['afterwards', 'before'])

    def test_an_empty_database(self):
        path, jobid = self.prepare()
        self.replace(None)
        self.checkEnd(jobid)

    def test_another_database_that_is_newer(self):
        path, jobid = self.prepare()
        self.replace(None, self.commit)
        self.checkEnd(jobid)

    def test_the_same_database_to_which_others_have_committed(self):
        _, jobid = self.prepare()
        path = self.copy()
        self.replace(path, self.commit)
        self.db = self.server.database()
        self.waitUntil(lambda: self.call('add', 'count', 'afterwards')[0], 'an answer', RECOVERY)
        self.assertEqual(sorted(map(str, self.waitForAll().values())), ['0', '1', '2', 'afterwards', 'before'])
        self.assertEqual([process.popen.poll() for process in self.processes], [None] * 3)


class LostTransactionTest(unittest.TestCase):
    """A client, and a server that comes back without its last transaction."""

    level = 2

    def setUp(self):
        self.server = self.enterContext(temporaryZEO())
        self.failures = queue.SimpleQueue()
        self.database = Database(self.server.database, self.failures.put)
        self.addCleanup(self.database.close)
        self.other = self.server.database()
        self.write(self.database.db, 'first')
        self.path = os.path.join(self.server.directory, 'Data.fs')

    def write(self, db, key):
        self.read(db, lambda root: root.__setitem__(key, 1) or True)

    def loseWhat(self, db, key):
        """Have a key written by a client, seen by the other one, and lost by the server."""
        shutil.copy(self.path, self.path + '.old')
        self.write(db, key)
        for client in self.database.db, self.other:
            self.read(client, lambda root: key in root)
        self.server.kill()
        os.remove(self.path + '.index')
        shutil.move(self.path + '.old', self.path)
        self.server.start()

    def read(self, db, condition):
        """Return the keys of the root object as soon as a condition of it is true."""
        def look():
            with contextlib.suppress(ClientDisconnected, ConflictError), db.transaction() as connection:
                return condition(root := connection.root()) and set(root)
        return waitUntil(look)

    def test_what_another_client_has_written_last_can_be_lost_in_a_crash(self):
        self.loseWhat(self.other, 'second')
        self.assertEqual(self.read(self.database.db, lambda root: 'second' not in root), {'first'})
        self.write(self.database.db, 'third')
        self.assertEqual(self.read(self.server.database(), bool), {'first', 'third'})
        self.assertTrue(self.failures.empty())

    def test_what_this_client_has_written_cannot(self):
        self.loseWhat(self.database.db, 'second')
        self.assertIsInstance(self.failures.get(timeout=PATIENCE), DatabaseReplaced)

    def test_more_than_the_last_one_cannot(self):
        shutil.copy(self.path, self.path + '.old')
        self.write(self.other, 'second')
        self.read(self.database.db, lambda root: 'second' in root)
        self.write(self.other, 'third')
        self.read(self.database.db, lambda root: 'third' in root)
        self.server.kill()
        os.remove(self.path + '.index')
        shutil.move(self.path + '.old', self.path)
        self.server.start()
        self.assertIsInstance(self.failures.get(timeout=PATIENCE), DatabaseReplaced)


if __name__ == '__main__':
    unittest.main()
