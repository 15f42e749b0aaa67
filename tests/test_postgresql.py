"""PostgreSQL that is restarted, and whose backends are killed or terminated, under front ends and hosts."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import datetime
import glob
import logging
import os
import queue
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import tracemalloc
import unittest
import unittest.mock
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import transaction
import webob
from persistent.mapping import PersistentMapping
from ZODB.config import databaseFromString
from ZODB.POSException import ConflictError
from ZODB.POSException import StorageError
from zope.component import provideUtility
from zope.component import testing as componentTesting

from lovely.remotetask.application import getService
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.local import openDatabase
from lovely.remotetask.config.settings import load
from lovely.remotetask.database import postgresql
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.opening import Database
from lovely.remotetask.database.opening import closeDatabase
from lovely.remotetask.database.packing import Packer
from lovely.remotetask.database.packing import claimPack
from lovely.remotetask.database.packing import pack
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import findService
from lovely.remotetask.database.storages import postgresqlOf
from lovely.remotetask.database.transactions import lastSeen
from lovely.remotetask.database.transactions import lastTransaction
from lovely.remotetask.database.transactions import openedAt
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import Process
from lovely.remotetask.testing import temporaryPostgreSQL
from lovely.remotetask.testing.postgresql import POSTGRESQL_PROGRAMS
from lovely.remotetask.web.application import application
from lovely.remotetask.xmlrpc import waiting
from lovely.remotetask.xmlrpc.faults import DatabaseUnavailable
from lovely.remotetask.xmlrpc.faults import OutcomeUnknown
from lovely.remotetask.xmlrpc.gateway import Gateway
from servers import PATIENCE
from servers import PostgreSQL
from servers import PostgreSQLCase
from servers import emptyPostgreSQL
from servers import replicatedPostgreSQL
from test_away import CountingCase
from test_backup import DOCUMENT
from test_backup import commands
from test_hosts import Cable
from test_hosts import finishLate
from threads import noMoreThreads


#: Where Debian and its kin have the pooler.
PGBOUNCER = '/usr/sbin/pgbouncer'

PGBOUNCER_INI = """\
[databases]
postgres = host={directory} user=remotetask
[pgbouncer]
listen_port = 6432
unix_socket_dir = {directory}
auth_type = any
pool_mode = {mode}
ignore_startup_parameters = options
"""

#: What a call may meet while the database is away.
EXPECTED = (DatabaseUnavailable, OutcomeUnknown)


class SocketCable(Cable):
    """One to a server at a Unix socket; `address` is where the client finds another one, in a new directory."""

    vote, finish = b'lock_objects_and_detect_conflicts', b'lock_and_choose_tid_and_move'

    def __init__(self, server, directory):
        self._path = os.path.join(directory, os.path.basename(server))
        super().__init__(server)

    def _listen(self):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._path)
        listener.listen()
        return listener

    def _connect(self):
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server)
        return server


class HostTest(PostgreSQLCase):

    level = 2

    def test_a_commit_that_the_server_finishes_late(self):
        self.addCleanup(componentTesting.tearDown)
        db = self.server.database()
        install(db)
        directory = self.enterContext(tempfile.TemporaryDirectory())
        cable = self.enterContext(contextlib.closing(SocketCable(f'{self.server._server}/.s.PGSQL.5432', directory)))
        clients = self.enterContext(contextlib.closing(databaseFromString(self.server._configFor(directory))))
        finishLate(self, db, cable, clients, psycopg2.OperationalError)


class ServerTest(PostgreSQLCase):

    level = 2

    def root(self, database):
        """Return the keys of the root object, as the database has them, as soon as it answers."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                with database.transaction() as connection:
                    return set(connection.root())
            except Exception:
                self.assertLess(time.monotonic(), until, self.server.said)

    def test_each_fault_leaves_the_data_and_a_server_that_answers(self):
        first, second = self.server.database(), self.server.database()
        with first.transaction() as connection:
            connection.root()['x'] = 1
        self.assertEqual(self.root(second), {'x'})
        for name, fault in self.faults.items():
            with self.subTest(name):
                backends = set(self.server.backends())
                self.assertTrue(backends)
                fault()
                self.assertEqual((self.root(first), self.root(second)), ({'x'}, {'x'}))
                self.assertFalse(backends & set(self.server.backends()))
        self.assertIn('ready to accept connections', self.server.said)

    def test_nothing_is_left_of_it(self):
        with temporaryPostgreSQL() as server:
            server.database()
            backend, = server.backends()[:1]
        self.assertFalse(server.isRunning)
        with self.assertRaises(FileNotFoundError):
            open(f'/proc/{backend}/stat').close()

    def test_a_server_that_does_not_start_says_why(self):
        self.server.stop()
        path = f'{self.server.directory}/server/data/postgresql.auto.conf'
        with open(path, 'w') as file:
            file.write('nonsense = 1\n')
        with self.assertRaisesRegex(AssertionError, 'nonsense'):
            self.server.start()
        os.remove(path)


class GatewayTest(PostgreSQLCase):

    level = 2

    def setUp(self):
        super().setUp()
        logging.getLogger('lovely.remotetask').addHandler(handler := logging.NullHandler())
        self.addCleanup(logging.getLogger('lovely.remotetask').removeHandler, handler)
        self.addCleanup(componentTesting.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='echo')
        self.db = self.server.database()
        install(self.db)
        self.gateway = Gateway(self.db, lambda connection, path: findService(connection.root()[ROOT_NAME], path))
        self.gateway.start()
        self.addCleanup(lambda: self.assertTrue(self.gateway.stop(PATIENCE)))

    def ask(self, call):
        """Return what a call results in; raise its exception."""
        done = threading.Event()
        call.add_done_callback(lambda call: done.set())
        self.gateway.flush()
        self.assertTrue(done.wait(PATIENCE))
        return call.result()

    def add(self, number):
        return self.ask(self.gateway.write('/', lambda service: service.add('echo', number, startLater=True)))

    def read(self):
        """Return id -> number of all jobs."""
        return self.ask(self.gateway.read('/', lambda service: [
            [jobid, job.input] for jobid, job in service.jobs.items()]))

    def test_callers_that_wait_while_no_thread_can_be_started_are_woken(self):
        """The first of them would start what hears of the commits of others."""
        jobid, woken = self.add(0), threading.Event()
        with noMoreThreads(), self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            self.gateway.watch(waiting.Wait('/', [jobid], False, woken.set))
            self.waitUntil(lambda: logs.records, 'a failed look')
        self.assertIn("jobs cannot be watched: RuntimeError: can't start new thread", logs.output[0])
        with self.server.database().transaction() as connection:
            findService(connection.root()[ROOT_NAME], '/').cancel(jobid)
        self.assertTrue(woken.wait(PATIENCE))
        self.waitUntil(lambda: notifierOf(self.db).hearsOthers, 'notifications')

    def test_calls_after_a_fault_succeed_at_the_first_try(self):
        jobs = [[self.add(0), 0]]
        for number, name in enumerate(('restart', 'crash', 'terminate'), 1):
            with self.subTest(name):
                self.assertEqual(sorted(self.read()), sorted(jobs))     # so both connections are open
                self.faults[name]()
                jobs.append([self.add(number), number])
                self.assertEqual(sorted(self.read()), sorted(jobs))

    def test_a_call_meets_no_other_fault_than_those_of_the_database(self):  # noqa: C901
        accepted, unknown, failures, over = {}, set(), [], threading.Event()

        def load(client):
            number = 0
            while not over.is_set():
                value = f'{client} {number}'
                try:
                    accepted[self.add(value)] = value
                except OutcomeUnknown:
                    unknown.add(value)
                except DatabaseUnavailable:
                    continue
                except BaseException as error:
                    failures.append(error)
                number += 1

        def look():
            while not over.is_set():
                try:
                    self.read()
                except EXPECTED:
                    pass
                except BaseException as error:
                    failures.append(error)

        threads = [threading.Thread(target=load, args=(client,)) for client in range(3)]
        threads += [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for name, fault in self.faults.items():
                for _ in range(2):
                    count = len(accepted)
                    self.waitUntil(lambda: len(accepted) > count + 10, f'calls before {name}')
                    fault()
            count = len(accepted)
            self.waitUntil(lambda: len(accepted) > count + 10, 'calls afterwards')
        finally:
            over.set()
            for thread in threads:
                thread.join()
        self.assertEqual(failures, [])
        jobs = dict(self.read())
        self.assertEqual({jobid: jobs.get(jobid) for jobid in accepted}, accepted)
        others = [value for jobid, value in jobs.items() if jobid not in accepted]
        self.assertEqual(sorted(others), sorted(set(others)))
        self.assertLessEqual(set(others), unknown)

    def test_while_the_server_is_away_calls_get_a_fault_and_then_succeed(self):
        self.add(0)
        self.read()
        self.server.stop()
        for _ in range(2):
            with self.assertRaises(DatabaseUnavailable):
                self.add(1)
            with self.assertRaises(DatabaseUnavailable):
                self.read()
        self.server.start()
        jobid = self.add(2)
        self.assertEqual(dict(self.read())[jobid], 2)
        self.assertEqual(len(self.read()), 2)

    def test_who_waits_for_a_job_is_woken_after_a_fault(self):
        for name, fault in self.faults.items():
            with self.subTest(name):
                jobid, woken = self.add(name), threading.Event()
                wait = waiting.Wait('/', [jobid], False, woken.set)
                self.gateway.watch(wait)
                self.waitUntil(lambda: self.gateway.statistics()['foundJobs'], 'a look at the job')
                fault()
                self.waitUntil(lambda: self.cancel(jobid), 'the end of the job')
                self.assertTrue(woken.wait(PATIENCE))
                self.waitUntil(lambda: not self.gateway.isSilent, 'the watcher')

    def cancel(self, jobid):
        with contextlib.suppress(*EXPECTED):
            self.ask(self.gateway.write('/', lambda service: service.cancel(jobid)))
            return True


class Wakeup(threading.Event):
    """Notes of what it is woken."""

    interest = ()

    def __init__(self):
        super().__init__()
        self.notes = queue.SimpleQueue()
        self.note = self.notes.put


class ListenerTest(PostgreSQLCase):
    """One process hears of the commits of others: `own` of those to `other`."""

    level = 2

    def setUp(self):
        super().setUp()
        self.other = self.server.database()
        with self.other.transaction() as connection:
            connection.root()['many'] = [PersistentMapping() for _ in range(5000)]
            connection.root()['one'] = connection.root()['many'][0]
        self.own, self.wakeup = self.server.database(), Wakeup()
        self.oid = self.commit(lambda root: root['one'])._p_oid
        self.notifier = notifierOf(self.own)

    def listen(self):
        """Begin to hear of commits to one object, and return when that is so."""
        self.notifier.subscribe(self.wakeup)
        self.assertIsNone(self.wakeup.notes.get(timeout=PATIENCE))
        self.assertTrue(self.notifier.hearsOthers)
        self.wakeup.interest = {self.oid}

    def commit(self, change, db=None):
        """Call `change` with the root object in a transaction of the other process; return what it returns."""
        with (db or self.other).transaction() as connection:
            return change(connection.root())

    def mark(self, root):
        root['one']['number'] = time.monotonic()

    def heard(self):
        """Return the next note, and that there is no second one."""
        note = self.wakeup.notes.get(timeout=PATIENCE)
        self.commit(self.mark)
        self.assertEqual(self.wakeup.notes.get(timeout=PATIENCE), {self.oid})
        return note

    def test_commits_of_others_to_an_object(self):
        self.listen()
        self.commit(self.mark)
        self.assertEqual(self.heard(), {self.oid})
        self.commit(lambda root: root['many'][1].update(number=1))     # of no interest
        self.commit(self.mark)
        self.assertEqual(self.heard(), {self.oid})

    def test_commits_without_history(self):
        self.server.clear()
        config = self.server.config.replace('<relstorage>', '<relstorage>\nkeep-history false')
        self.other, self.own = databaseFromString(config), databaseFromString(config)
        for db in self.other, self.own:
            self.addCleanup(closeDatabase, db)
        with self.other.transaction() as connection:
            connection.root()['one'] = PersistentMapping()
        self.oid, self.notifier = self.commit(lambda root: root['one'])._p_oid, notifierOf(self.own)
        self.test_a_commit_of_more_objects_than_a_notification_can_name(4000)
        self.assertEqual(self.heard(), {self.oid})

    def test_a_commit_of_more_objects_than_a_notification_can_name(self, count=5000):
        self.listen()
        self.commit(lambda root: root.update(more=[PersistentMapping() for _ in range(count)]))
        self.assertIsNone(self.wakeup.notes.get(timeout=PATIENCE))
        self.commit(self.mark)

    def test_commits_of_this_process_and_aborted_ones(self):
        self.listen()
        self.commit(self.mark, self.own)
        with contextlib.suppress(ZeroDivisionError), self.other.transaction() as connection:
            self.mark(connection.root())
            connection.add(PersistentMapping())
            raise ZeroDivisionError
        self.commit(self.mark)
        self.assertEqual(self.heard(), {self.oid})

    def test_faults(self):
        self.listen()
        for name, fault in {**self.faults, 'away': lambda: (self.server.stop(), self.server.start())}.items():
            with self.subTest(name), self.assertLogs('lovely.remotetask', 'INFO') as logs:
                fault()
                for _ in range(2):              # look at everything: nothing is heard, then something again
                    self.assertIsNone(self.wakeup.notes.get(timeout=PATIENCE))
                self.assertTrue(self.notifier.hearsOthers)
                self.assertEqual([record.levelname for record in logs.records], ['WARNING', 'INFO'])
                self.waitUntil(self.isAnswered, 'the other process')
                self.assertEqual(self.heard(), {self.oid})

    def isAnswered(self):
        with contextlib.suppress(psycopg2.Error, StorageError, ConflictError):
            self.commit(self.mark)
            return True

    def test_a_role_that_may_not_make_a_trigger(self):
        self.server._execute('CREATE ROLE guest LOGIN')
        self.addCleanup(self.server._execute, 'DROP OWNED BY guest; DROP ROLE guest')
        for table in 'ALL TABLES', 'ALL SEQUENCES':
            self.server._execute(f'GRANT ALL ON {table} IN SCHEMA public TO guest')
        config = self.server.config.replace('<relstorage>', '<relstorage>\ncreate-schema false')
        self.own = databaseFromString(config.replace("user='remotetask'", "user='guest'"))
        self.addCleanup(closeDatabase, self.own)
        self.notifier = notifierOf(self.own)
        with self.assertLogs('lovely.remotetask', 'INFO') as logs:
            self.notifier.subscribe(self.wakeup)
            self.waitUntil(lambda: logs.output, 'a warning')
            self.assertIn('InsufficientPrivilege', logs.output[0])
            self.assertFalse(self.notifier.hearsOthers)
            notifierOf(self.other).subscribe(mine := threading.Event())     # its role makes the trigger
            self.assertTrue(mine.wait(PATIENCE))
            self.assertIsNone(self.wakeup.notes.get(timeout=PATIENCE))
        self.wakeup.interest = {self.oid}
        self.commit(self.mark)
        self.assertEqual(self.heard(), {self.oid})
        self.assertEqual(len(logs.output), 2)

    def test_a_closed_database_is_not_listened_to(self):
        def listeners():
            return len(self.server._execute("SELECT pid FROM pg_stat_activity "
                                            "WHERE application_name LIKE 'remotetask%'"))

        self.listen()
        self.assertEqual(listeners(), 1)
        closeDatabase(self.own)
        self.waitUntil(lambda: not listeners(), 'the end of the connection')
        self.assertNotIn('remotetask-listener', [thread.name for thread in threading.enumerate()])

    def test_a_database_that_was_closed_by_the_application_is_not_listened_to_for_long(self):
        self.listen()
        self.own.close()
        self.commit(self.mark)
        self.waitUntil(lambda: 'remotetask-listener' not in [thread.name for thread in threading.enumerate()],
                       'the end of the thread')


class CostTest(PostgreSQLCase):
    """What a commit costs the server, and what it has to keep."""

    level = 2

    def test_the_last_transaction_is_that_of_others_and_no_transaction_is_left_open(self):
        first, second = self.server.database(), self.server.database()
        tids = []
        for number in range(3):
            with second.transaction() as connection:
                connection.root()['number'] = number
            with second.transaction() as connection:
                tids.append(connection.root()._p_serial)
            self.assertEqual(lastTransaction(first), tids[-1])
            manager = transaction.TransactionManager(explicit=True)
            with openedAt(first, manager, tids[-1]) as connection, manager:
                self.assertEqual(connection.root()['number'], number)
        self.assertIsNone(lastSeen(first))
        with self.assertRaises(ValueError):
            with openedAt(first, transaction.TransactionManager(explicit=True), b'\x7f' * 8):
                pass
        self.assertEqual(self.server._execute('SELECT query FROM pg_stat_activity WHERE xact_start IS NOT NULL '
                                              "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"), [])

    def test_a_commit_does_not_read_all_objects(self):
        for history, table in ('true', 'current_object'), ('false', 'object_state'):
            with self.subTest(history=history):
                self.server.clear()
                config = self.server.config.replace('<relstorage>', f'<relstorage>\nkeep-history {history}')
                first = databaseFromString(config)
                with first.transaction() as connection:
                    connection.root()['many'] = [PersistentMapping() for _ in range(5000)]
                wakeup = threading.Event()
                notifierOf(first).subscribe(wakeup)
                self.assertTrue(wakeup.wait(PATIENCE))
                closeDatabase(first)
                before, second = self.rowsRead(table), databaseFromString(config)
                for number in range(20):
                    with second.transaction() as connection:
                        connection.root()['number'] = number
                closeDatabase(second)
                self.waitUntil(lambda: not self.server.backends(), 'the end of the connections')   # which then count
                self.assertLess(self.rowsRead(table) - before, 5000)

    def rowsRead(self, table):
        (count,), = self.server._execute(f"SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = '{table}'")
        return count


class HangTest(PostgreSQLCase):
    """All processes of the server are stopped, as by a disk that hangs."""

    level = 2

    def setUp(self):
        super().setUp()
        self.enterContext(unittest.mock.patch.object(postgresql, 'ANSWER_TIME', 2))
        self.enterContext(unittest.mock.patch.object(postgresql, 'PING_INTERVAL', 0.1))
        self.enterContext(unittest.mock.patch.dict(postgresql.DEFAULTS, connect_timeout=2))
        self.addCleanup(self.server.goOn)
        late = threading.Timer(PATIENCE, self.server.goOn)      # a test that waits in vain fails then
        late.start()
        self.addCleanup(late.cancel)

    def open(self):
        """Return a database whose connections are watched, and a function that counts what is committed there."""
        db = self.server.database()
        notifierOf(db).subscribe(wakeup := threading.Event())
        self.assertTrue(wakeup.wait(PATIENCE))
        self.addCleanup(lambda: wakeup)             # else nobody would keep it

        def count():
            with db.transaction() as connection:
                root = connection.root()
                root['count'] = root.get('count', 0) + 1
                return root['count']

        self.waitUntil(lambda: self.tryCount(count), 'a commit')
        return db, count

    def test_who_waits_for_it_is_told_and_goes_on_when_it_goes_on(self):
        db, count = self.open()
        first = self.waitUntil(lambda: self.tryCount(count), 'a commit')
        with ThreadPoolExecutor(2) as threads:
            self.server.hang()
            with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
                calls = [threads.submit(count), threads.submit(lambda: db.open().root()['count'])]
                for call in calls:
                    self.assertTrue(isDatabaseError(call.exception(PATIENCE)), call)
            self.assertIn('has not answered for 2 seconds', logs.output[0])
            self.server.goOn()
            counted = self.waitUntil(lambda: self.tryCount(count), 'a commit')
            self.assertIn(counted - first, (1, 2))  # the one that was waited for in vain may have succeeded
            self.waitUntil(lambda: notifierOf(db).hearsOthers, 'notifications')

    def tryCount(self, count):
        with contextlib.suppress(psycopg2.Error, StorageError, ConflictError):
            return count()

    def test_a_database_is_closed_meanwhile(self):
        db, count = self.open()
        connection = db.open()
        connection.root()['count']                  # in a transaction, which is to be ended
        self.server.hang()
        began = time.monotonic()
        closeDatabase(db)
        self.assertLess(time.monotonic() - began, 10)

    def test_a_database_is_opened_meanwhile(self):
        self.server.database()                      # it has its tables
        self.server.hang()
        with self.assertRaisesRegex(psycopg2.OperationalError, 'timeout expired'):
            Database(lambda: databaseFromString(self.server.config)).close()
        self.assertNotIn('PGCONNECT_TIMEOUT', os.environ)

    def test_single_backends_that_hang(self):
        db, count = self.open()
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            for pid in self.backendsOf('RS: Load') + self.backendsOf('RS: Store'):
                os.kill(pid, signal.SIGSTOP)
            self.waitUntil(lambda: self.tryCount(count), 'a commit')
            self.assertRegex(logs.output[0], r'the process \d+ of PostgreSQL has not answered for 2 seconds, but')
        self.assertTrue(notifierOf(db).hearsOthers)

    def test_a_front_end_whose_callers_do_not_wait_for_jobs(self):
        """Nobody has subscribed to commits: what leaves a server that hangs is there from the beginning."""
        database = Database(lambda: databaseFromString(self.server.config))
        self.addCleanup(database.close)
        with database.db.transaction() as connection:
            connection.root()['/'] = PersistentMapping()
        gateway = Gateway(database.db, lambda connection, path: connection.root()[path], deadline=1)
        gateway.start()
        self.addCleanup(gateway.stop, PATIENCE)

        def write():
            call, ended = gateway.write('/', lambda service: service.update(x=1)), threading.Event()
            call.add_done_callback(lambda call: ended.set())
            gateway.flush()
            if not ended.wait(PATIENCE / 10):
                gateway.giveUp(call)
                return False
            with contextlib.suppress(*EXPECTED):
                call.result()
                return True

        self.waitUntil(write, 'a commit')
        with self.assertLogs('lovely.remotetask', 'WARNING'):
            for pid in self.backendsOf('RS: Load') + self.backendsOf('RS: Store'):
                os.kill(pid, signal.SIGSTOP)
            self.waitUntil(write, 'another commit')

    def test_statements_that_take_long(self):
        db, count = self.open()
        connection, cursor = postgresqlOf(db).connmanager.open_for_store()      # as a pack does
        with contextlib.closing(connection):
            cursor.execute('SELECT pg_sleep(4)')

    def backendsOf(self, name):
        """Return the process ids of those backends whose client has given itself a name."""
        return [pid for pid, in self.server._execute(f"SELECT pid FROM pg_stat_activity WHERE application_name = "
                                                     f"'{name}'")]

    def test_what_the_dsn_does_not_say(self):
        name, value = 'keepalives_idle', '77'
        config = self.server.config.replace("user=", f"{name}='{value}' options='-c work_mem=5MB' user=")
        db = databaseFromString(config)
        self.addCleanup(closeDatabase, db)
        connection, cursor = postgresqlOf(db).connmanager.open()
        with contextlib.closing(connection):
            self.assertNotIn('connect_timeout', connection.get_dsn_parameters())
        notifierOf(db)
        connection, cursor = postgresqlOf(db).connmanager.open()
        with contextlib.closing(connection):
            found = connection.get_dsn_parameters()
            self.assertEqual((found[name], found['connect_timeout'], found['tcp_user_timeout']), (value, '2', '30000'))
            cursor.execute('SHOW work_mem')
            self.assertEqual(cursor.fetchone(), ('5MB',))
            self.assertIn('tcp_keepalives_idle=15', found['options'])

    def settings(self, config, *names):
        """Return what the first connection to a database, and what the next one has for settings of the server."""
        database = Database(lambda: databaseFromString(config))
        with contextlib.closing(database):
            first = database.db.storage._load_connection.cursor
            connection, cursor = postgresqlOf(database.db).connmanager.open()
            with contextlib.closing(connection):
                return [[self.setting(each, name) for name in names] for each in (first, cursor)]

    def setting(self, cursor, name):
        cursor.execute(f'SHOW {name}')
        return cursor.fetchone()[0]

    def test_what_the_environment_and_a_service_say(self):
        with unittest.mock.patch.dict(os.environ, PGOPTIONS='-c work_mem=6MB', PGCONNECT_TIMEOUT='7'):
            _, found = self.settings(self.server.config, 'work_mem', 'idle_in_transaction_session_timeout')
            self.assertEqual(found, ['6MB', '0'])
            db = self.server.database()
            notifierOf(db)
            self.assertNotIn('connect_timeout', postgresqlOf(db).connmanager._dsn)
        service = os.path.join(self.server.directory, 'service.conf')
        with open(service, 'w') as file:
            file.write(f'[films]\nhost={self.server._server}\ndbname=postgres\nuser=remotetask\nconnect_timeout=7\n'
                       'options=-c work_mem=7MB\n')
        config = re.sub('dsn .*', "dsn service='films'", self.server.config)
        with unittest.mock.patch.dict(os.environ, PGSERVICEFILE=service):
            _, found = self.settings(config, 'work_mem', 'idle_in_transaction_session_timeout')
            self.assertEqual(found, ['7MB', '0'])
        self.assertNotIn('PGOPTIONS', os.environ)

    def test_a_transaction_may_be_idle_for_as_long_as_a_task_runs(self):
        name = 'idle_in_transaction_session_timeout'
        self.server._execute(f"ALTER ROLE remotetask SET {name} = '1s'")
        self.addCleanup(self.server._execute, f'ALTER ROLE remotetask RESET {name}')
        self.assertEqual(self.settings(self.server.config, name), [['0'], ['0']])
        config = self.server.config.replace("user=", f"options='-c {name}=5s' user=")
        self.assertEqual(self.settings(config, name), [['5s'], ['5s']])         # who says so means it


@unittest.skipUnless(os.path.exists(PGBOUNCER), f'PgBouncer is not installed, there is no {PGBOUNCER}')
class PoolerTest(PostgreSQLCase):
    """PgBouncer stands before the server."""

    level = 2

    def pool(self, mode):
        """Start a pooler in a mode; return the text of a `<zodb>` section to reach the database by it."""
        directory = self.server._server             # which belongs to the user of the server
        path = os.path.join(self.server.directory, 'pooler.ini')
        with open(path, 'w') as file:
            file.write(PGBOUNCER_INI.format(directory=directory, mode=mode))
        pooler = subprocess.Popen([PGBOUNCER, '-q', *(() if os.getuid() else ('-u', 'postgres')), path],
                                  stderr=subprocess.PIPE)
        self.addCleanup(pooler.communicate)
        self.addCleanup(pooler.terminate)
        self.waitUntil(lambda: self.isListening(os.path.join(directory, '.s.PGSQL.6432')), 'the pooler')
        return self.server.config.replace("dbname=", "port=6432 dbname=")

    def isListening(self, path):
        """Return whether the pooler accepts connections; the socket of the one before may be left."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            return True

    def test_in_session_mode_commits_are_heard(self):
        config = self.pool('session')
        own, other = (Database(lambda: databaseFromString(config)) for _ in range(2))
        for database in own, other:
            self.addCleanup(database.close)
        notifierOf(own.db).subscribe(wakeup := threading.Event())
        self.waitUntil(lambda: notifierOf(own.db).hearsOthers, 'notifications')
        wakeup.clear()
        with other.db.transaction() as connection:
            connection.root()['number'] = 1
        self.assertTrue(wakeup.wait(PATIENCE))

    def test_in_another_mode_a_process_says_so_and_does_not_start(self):
        config = self.pool('transaction')
        with self.assertRaisesRegex(ConfigurationError, 'pool_mode = session'):
            Database(lambda: databaseFromString(config)).close()

    def test_in_statement_mode_a_process_says_what_may_be_the_cause(self):
        path = os.path.join(self.server.directory, 'pooled.conf')
        with open(path, 'w') as file:
            file.write(self.pool('statement'))
        configuration = load(path)
        with self.assertRaisesRegex(CommandFailure, 'log says why; a pooler .* in statement mode: set pool_mode'):
            openDatabase(configuration).close()


class PagesTest(PostgreSQLCase):
    """What the pages show of an earlier time, and of what others have just committed."""

    level = 2

    def setUp(self):
        super().setUp()
        self.addCleanup(componentTesting.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='echo')

    def open(self, config):
        """Have a database with a service, and pages of it."""
        self.db = databaseFromString(config)
        self.addCleanup(closeDatabase, self.db)
        install(self.db)
        self.pages = application(self.db)

    def get(self, path, **headers):
        """Return the `webob.Response` to a browser of this machine."""
        return webob.Request.blank(path, environ={'REMOTE_ADDR': '127.0.0.1'}, headers=headers).get_response(self.pages)

    def add(self):
        """Have another process add a job."""
        with self.server.database().transaction() as connection:
            findService(connection.root()[ROOT_NAME], '/').add('echo')

    def test_with_history(self):
        self.open(self.server.config)
        tag = self.get('/jobs').headers['ETag']
        self.assertEqual(self.get('/jobs', **{'If-None-Match': tag}).status_code, 304)
        self.add()
        response = self.get('/jobs', **{'If-None-Match': tag})
        self.assertEqual(response.status_code, 200)
        self.assertIn('echo', response.text)
        self.assertIn('name="at"', response.text)
        at = f'{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%S.%f}'
        self.add()
        self.assertEqual(self.get('/jobs').text.count('id="job-'), 2)
        response = self.get(f'/jobs?at={at}')
        self.assertEqual((response.status_code, response.text.count('id="job-')), (200, 1), response.text)
        self.assertIn('<td>install</td>', self.get('/changes').text)

    def test_a_long_history(self, count=100_000):
        self.open(self.server.config)
        self.add()
        manager = postgresqlOf(self.db).connmanager
        entries = self.db.undoInfo(0, 100)
        self.assertGreater(len(entries), 1)
        for first in range(2):
            self.assertEqual([{key: entry[key] for key in ('time', 'user_name', 'description')}
                              for entry in entries[first:]], postgresql.transactionsOf(manager, first, 100))
        self.server._execute("INSERT INTO transaction (tid, packed, username, description) SELECT 100 + number, false, "
                             f"'', repeat('x', 200)::bytea FROM generate_series(1, {count}) AS number")
        self.get('/changes')                # what is loaded once is loaded
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.assertIn('<td>install</td>', self.get('/changes').text)
        taken = tracemalloc.get_traced_memory()[1]
        self.assertLess(taken, 100 * count, f'all {count} transactions were read')

    def test_without_history(self):
        self.open(self.server.config.replace('<relstorage>', '<relstorage>\nkeep-history false'))
        text = self.get('/').text
        self.assertIn('This database keeps no history', text)
        self.assertNotIn('name="at"', text)
        self.assertNotIn('/changes', text)
        self.assertEqual(self.get('/changes').text.count('This database keeps no history'), 1)
        response = self.get('/?at=2020-01-01')
        self.assertEqual(response.status_code, 400)
        self.assertIn('this database keeps no history', response.text)


class FirstStartTest(PostgreSQLCase):

    level = 2

    def test_ten_processes_that_find_an_empty_database(self):
        for history in 'true', 'false':
            with self.subTest(history):
                self.server.clear()
                config = self.server.config.replace('<relstorage>', f'<relstorage>\nkeep-history {history}')
                start, databases = threading.Barrier(10), []

                def open():
                    start.wait(PATIENCE)
                    databases.append(Database(lambda: databaseFromString(config)))

                with ThreadPoolExecutor(10) as threads:
                    for done in [threads.submit(open) for _ in range(10)]:
                        done.result()
                install(databases[0].db)
                for database in databases:
                    with database.db.transaction() as connection:
                        self.assertIn(ROOT_NAME, connection.root())
                    database.close()


class PackerTest(PostgreSQLCase):

    level = 2

    def test_what_a_pack_keeps(self):
        self.addCleanup(componentTesting.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='echo')
        for history in 'true', 'false':
            with self.subTest(history=history):
                self.server.clear()
                db = databaseFromString(self.server.config.replace('<relstorage>',
                                                                   f'<relstorage>\nkeep-history {history}'))
                self.addCleanup(closeDatabase, db)
                install(db)
                now = time.time()
                self.assertFalse(claimPack(db, now, 60))        # it is new
                self.assertTrue(claimPack(db, now + 60, 60))
                with db.transaction() as connection:
                    service = findService(connection.root()[ROOT_NAME], '/')
                    gone, there = (service.add('echo', text * 200_000, startLater=True) for text in 'xy')
                with db.transaction() as connection:
                    service = findService(connection.root()[ROOT_NAME], '/')
                    service.cancel(gone)
                    self.assertEqual(service.removeJobs(), 1)
                self.assertIsNotNone(pack(db, now - 3600))
                self.assertEqual(self.blobs(), 2)
                self.assertIsNotNone(pack(db, time.time()))
                self.assertEqual(self.blobs(), 1)
                with db.transaction() as connection:
                    service = findService(connection.root()[ROOT_NAME], '/')
                    self.assertEqual(service.jobs[there].input, 'y' * 200_000)
                closeDatabase(db)

    def blobs(self):
        (count,), = self.server._execute('SELECT count(*) FROM blob_chunk')
        return count

    def test_a_packer_outlives_faults(self):
        said = []

        class Handler(logging.Handler):
            def emit(self, record):
                said.append(record.getMessage())

        logger = logging.getLogger('lovely.remotetask')
        level = logger.level
        logger.addHandler(handler := Handler())
        logger.setLevel(logging.DEBUG)
        self.addCleanup(logger.setLevel, level)
        self.addCleanup(logger.removeHandler, handler)
        logger.propagate = False
        self.addCleanup(setattr, logger, 'propagate', True)
        packer = Packer(self.server.database(), 0.05, 0)
        packer.start()
        self.addCleanup(packer.stop, PATIENCE)
        for name, fault in self.faults.items():
            with self.subTest(name):
                del said[:]
                self.waitUntil(lambda: any('packed the database' in text for text in said), 'a pack')
                fault()
        self.server.stop()
        self.waitUntil(lambda: any('the database is away' in text for text in said), 'a look without a database')
        self.server.start()
        del said[:]
        self.waitUntil(lambda: any('packed the database' in text for text in said), 'a pack')


class ProcessesTest(CountingCase):
    """A front end and two hosts."""

    level = 2

    layer = PostgreSQL
    temporaryServer = staticmethod(emptyPostgreSQL)

    def test_restarts_and_ended_backends_under_load(self):
        """And a pack, and a host that is killed."""
        server = self.server

        def kill():
            server.killBackend(server.backends()[0])

        self.checkUnderLoad([self.db.pack, server.restart, kill, server.terminateBackends,
                             lambda: server.restart('immediate'), lambda: self.hosts[0].end(signal.SIGKILL),
                             self.db.pack])

    def test_jobs_go_on_after_an_idle_time_with_a_fault(self):
        server = self.server
        for fault in (server.restart, lambda: server.killBackend(server.backends()[0]), server.terminateBackends):
            text = 'before' * 20_000                # in a blob
            jobid = self.add(text)
            self.assertEqual(self.waitForAll()[jobid], text)
            fault()
            self.waitUntil(lambda: self.call('add', 'count', 'after')[0], 'an answer')
            self.waitForAll()
        for process in self.processes:
            self.assertEqual(process.end(signal.SIGTERM), 0, ''.join(process.said))


class FailOverTest(CountingCase):
    """The server dies under a front end and two hosts, and its standby takes its place."""

    level = 2
    temporaryServer = staticmethod(replicatedPostgreSQL)

    def databaseOf(self, name):
        return self.server.standby.config

    def prepareDatabase(self):
        super().prepareDatabase()
        self.db = databaseFromString(self.databaseOf(''))
        self.addCleanup(closeDatabase, self.db)

    def failOver(self):
        self.server.stop('immediate')
        self.server.standby.promote()

    def test_under_load(self):
        self.checkUnderLoad([self.failOver])
        for process in self.processes:
            self.assertEqual(process.end(signal.SIGTERM), 0, ''.join(process.said))


class BackupTest(PostgreSQLCase):
    """The commands of postgresql.txt."""

    level = 2

    def setUp(self):
        super().setUp()
        self.addCleanup(componentTesting.tearDown)
        provideUtility(SimpleTask(len), name='size')
        self.directory = self.enterContext(tempfile.TemporaryDirectory())
        self.run_('createdb --owner remotetask remotetask')
        self.addCleanup(self.run_, 'dropdb remotetask')

    def run_(self, script):
        programs = os.pathsep.join([*glob.glob(POSTGRESQL_PROGRAMS), os.environ['PATH']])
        environment = dict(os.environ, PATH=programs, PGHOST=self.server._server, PGUSER='remotetask')
        subprocess.run(['sh', '-e', '-c', script], cwd=self.directory, env=environment, check=True)

    @contextlib.contextmanager
    def database(self):
        """Give the database as a process of its own has it."""
        config = self.server.config.replace("dbname='postgres'", "dbname='remotetask'")
        db = databaseFromString(config.replace('/blobs\n', f'/blobs-{time.monotonic()}\n'))
        try:
            yield db
        finally:
            closeDatabase(db)

    def test_backup_and_restore(self):
        backup, restore = commands('Backup', DOCUMENT.with_name('postgresql.txt'))
        with self.database() as db:
            install(db)
            with db.transaction() as connection:
                jobid = getService(connection).add('size', b'x' * 1_000_000)       # in a blob
            self.run_(backup)
            with db.transaction() as connection:
                getService(connection).process()
                lost = getService(connection).add('size', b'')
        self.run_(restore)
        with self.database() as db, db.transaction() as connection:
            service = getService(connection)
            self.assertEqual(service.getStatus(jobid), 'queued')
            self.assertNotIn(lost, service.jobs)
            service.process()
            self.assertEqual(service.getResult(jobid), 1_000_000)


class StartTest(PostgreSQLCase):

    level = 2

    def test_a_process_that_finds_no_database_says_so(self):
        for command in 'frontend', 'processor':
            with self.subTest(command):
                path = f'{self.server.directory}/{command}.conf'
                with open(path, 'w') as file:
                    file.write(self.server.config)
                self.server.stop()
                process = Process(['-m', 'lovely.remotetask.cli.main', '-C', path, command], self.server.directory)
                self.addCleanup(process.close)
                self.assertEqual(process.popen.wait(PATIENCE), 1)
                process.close()
                self.assertIn('cannot open the database relstorage', process.said[-1])
                self.assertNotIn('Traceback', ''.join(process.said))


if __name__ == '__main__':
    unittest.main()
