"""Reads and writes through the gateway: together, alone, refused, in conflict, and without a database."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import os
import shutil
import sys
import tempfile
import threading
import time
import unittest

import transaction
import ZODB
from BTrees.IOBTree import IOBTree
from persistent.mapping import PersistentMapping
from ZODB.FileStorage import FileStorage
from ZODB.POSException import StorageTransactionError

from lovely.remotetask import errors
from lovely.remotetask.common.internals import serverOf
from lovely.remotetask.database.storedfiles import WrongPart
from lovely.remotetask.files import NoFile
from lovely.remotetask.testing import temporaryZEO
from lovely.remotetask.xmlrpc import gateway as gateways
from lovely.remotetask.xmlrpc.access import OthersJob
from lovely.remotetask.xmlrpc.calls import RESULT_SIZE
from lovely.remotetask.xmlrpc.faults import BadArguments
from lovely.remotetask.xmlrpc.faults import DatabaseUnavailable
from lovely.remotetask.xmlrpc.faults import OutcomeUnknown
from lovely.remotetask.xmlrpc.faults import ResultTooLarge
from lovely.remotetask.xmlrpc.faults import Stopping
from lovely.remotetask.xmlrpc.gateway import Gathering
from servers import holdBack
from threads import inThread
from waits import PATIENCE
from waits import waitUntil


WAIT = PATIENCE


class FailingStorage(FileStorage):
    """A file storage that can be told to fail in either phase of a commit."""

    voteError = finishError = None

    def tpc_vote(self, transaction):
        if self.voteError is not None:
            raise self.voteError
        return super().tpc_vote(transaction)

    def tpc_finish(self, transaction, f=None):
        tid = super().tpc_finish(transaction, f)
        if self.finishError is not None:
            raise self.finishError
        return tid


def resolve(connection, path):
    """Return the 'service' at a path: here just any persistent object of the root."""
    try:
        return connection.root()[path]
    except KeyError:
        raise errors.UnknownService(path) from None


def append(value):
    """Return a function for `Gateway.write` that stores a value under the next number and returns that."""
    def function(jobs):
        jobid = len(jobs) + 1
        jobs[jobid] = value
        return jobid
    return function


class Gateway(gateways.Gateway):
    """One whose calls are waited for, and give the result."""

    def read(self, path, function):
        return self.resultOf(super().read(path, function))

    def write(self, path, function):
        return self.resultOf(super().write(path, function))

    def resultOf(self, call):
        done = threading.Event()
        call.add_done_callback(lambda call: done.set())
        while not call.done():
            again, left = self.flush(), call.deadline - time.monotonic()
            if left > 0:
                done.wait(left if again is None else min(again, left))
            else:
                self.giveUp(call)
        return call.result()


class LogCase(unittest.TestCase):

    waitUntil = staticmethod(waitUntil)

    @contextlib.contextmanager
    def assertFailureLogged(self):
        with self.assertLogs(level='WARNING') as logs:      # of the root: the database has something to say as well
            yield
        self.assertRegex('\n'.join(logs.output), 'WARNING:lovely.remotetask:the database failed [0-9]+ calls?:')


class GatewayCase(LogCase):
    """A file storage with an empty tree at '/', and a gateway that can be held up."""

    def setUp(self):
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.storage = FailingStorage(os.path.join(self.directory, 'data.fs'))
        self.db = ZODB.DB(self.storage)
        self.addCleanup(self.db.close)
        with self.db.transaction() as connection:
            connection.root()['/'] = IOBTree()
        self.setUpCommits = self.countCommits()

    def makeGateway(self, **arguments):
        gateway = Gateway(self.db, resolve, **arguments)
        gateway.start()
        self.addCleanup(gateway.stop, WAIT)
        return gateway

    def holdUp(self, gateway):
        """Occupy the writer; return a function that lets it go and waits for the others, given as pairs."""
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)

        def function(jobs):
            begun.set()
            go.wait(WAIT)
        holding = inThread(gateway.write, '/', function)
        self.assertTrue(begun.wait(WAIT))

        def letGo(*others):
            go.set()
            for thread, outcome in (holding, *others):
                thread.join(WAIT)
                self.assertFalse(thread.is_alive())
            return [outcome[0] for thread, outcome in others]
        return letGo

    def waitForWrites(self, gateway, count):
        """Wait until that many writes wait for the writer."""
        self.waitUntil(lambda: gateway.statistics()['writes'] >= count)

    def stored(self):
        with self.db.transaction() as connection:
            return dict(connection.root()['/'])

    def countCommits(self):
        return sum(1 for record in self.storage.iterator())


class TestWrite(GatewayCase):

    def test_result_is_given_after_the_commit(self):
        gateway = self.makeGateway()
        self.assertEqual(gateway.write('/', append('a')), 1)
        self.assertEqual(self.stored(), {1: 'a'})

    def test_result_is_plain(self):
        self.assertEqual(self.makeGateway().write('/', lambda jobs: (jobs, 2 ** 40)), [{}, '1099511627776'])

    def test_concurrent_writes_share_commits(self):
        gateway = self.makeGateway()
        letGo = self.holdUp(gateway)
        others = [inThread(gateway.write, '/', append(n)) for n in range(40)]
        self.waitForWrites(gateway, 40)
        ids = letGo(*others)
        self.assertEqual(sorted(ids), list(range(1, 41)))
        self.assertEqual({jobid: n for n, jobid in enumerate(ids)}, self.stored())
        self.assertEqual(self.countCommits() - self.setUpCommits, 1)        # who held it up changed nothing

    def test_batch_is_bounded(self):
        gateway = self.makeGateway(batch=10)
        letGo = self.holdUp(gateway)
        others = [inThread(gateway.write, '/', append(n)) for n in range(40)]
        self.waitForWrites(gateway, 40)
        letGo(*others)
        self.assertEqual(len(self.stored()), 40)
        self.assertEqual(self.countCommits() - self.setUpCommits, 4)

    def expecting(self, seconds):
        """Return a gateway that waits for three writes, but for no longer than that."""
        gathering = Gathering(longest=seconds)
        gathering.note(3, seconds)
        return self.makeGateway(gathering=gathering)

    def test_as_many_as_lately_are_waited_for(self):
        gateway = self.expecting(WAIT)
        calls = [inThread(gateway.write, '/', append(0)), inThread(gateway.write, '/', append(1))]
        self.waitForWrites(gateway, 2)
        gateway.write('/', append(2))
        for thread, _ in calls:
            thread.join(WAIT)
        self.assertEqual(sorted(outcome for _, outcome in calls), [[1], [2]])
        self.assertEqual(self.countCommits() - self.setUpCommits, 1)
        self.assertTrue(gateway.stop(WAIT))
        self.assertEqual(gateway.gathering.expected, 3)

    def test_not_for_long(self):
        gateway = self.expecting(0.01)
        self.assertEqual([gateway.write('/', append(number)) for number in range(2)], [1, 2])
        self.assertTrue(gateway.stop(WAIT))
        self.assertEqual(gateway.gathering.expected, 1)

    def test_callers_that_give_up_while_more_are_waited_for_do_not_end_the_writer(self):
        gateway = self.expecting(WAIT)
        call = gateways.Gateway.write(gateway, '/', append('a'))
        gateway.flush()
        self.waitUntil(lambda: gateway._isGathering)
        gateway.giveUp(call)
        with gateway._changed:
            gateway.gathering.expected = 0              # as when the time to wait is over
            gateway._changed.notify_all()
        self.waitUntil(lambda: not gateway._isGathering)
        self.assertEqual(gateway.write('/', append('b')), 1)
        self.assertEqual(self.stored(), {1: 'b'})

    def test_callers_that_cannot_be_told_do_not_end_the_threads(self):
        gateway = self.makeGateway(readers=1)
        for begin in gateways.Gateway.write, gateways.Gateway.read:
            with self.subTest(begin.__name__), self.assertLogs('lovely.remotetask', 'ERROR') as logged:
                call = begin(gateway, '/', append('a'))
                call.add_done_callback(lambda call: sys.exit(1))
                gateway.flush()
                self.waitUntil(lambda: logged.records)
                self.assertEqual(logged.records[0].getMessage(), 'the front end failed 1 call')
                self.assertEqual(call.result(), 1 if begin is gateways.Gateway.write else 2)
        self.assertEqual(gateway.write('/', append('b')), 2)
        self.assertEqual(gateway.read('/', len), 2)
        self.assertIsNone(gateway.problem)

    def test_a_commit_that_takes_too_long_is_a_problem_until_it_ends(self):
        gateway = self.makeGateway(deadline=0.1)
        letGo = self.holdUp(gateway)
        self.waitUntil(lambda: gateway.problem)
        self.assertRegex(gateway.problem, 'a commit of calls has been going on for [0-9]+ seconds')
        letGo()
        self.waitUntil(lambda: gateway.problem is None)

    def test_who_stops_does_not_wait_for_more(self):
        gateway = self.expecting(1000)
        thread, outcome = inThread(gateway.write, '/', append(0))
        self.waitForWrites(gateway, 1)
        self.assertTrue(gateway.stop(WAIT))
        thread.join(WAIT)
        self.assertEqual(outcome, [1])

    def test_refusal_is_for_its_caller_alone(self):
        gateway = self.makeGateway()
        letGo = self.holdUp(gateway)

        def refuse(jobs):
            raise errors.InvalidInput('size', 'too small')
        others = [inThread(gateway.write, '/', append('a')), inThread(gateway.write, '/', refuse),
                  inThread(gateway.write, '/nowhere', append('b')), inThread(gateway.write, '/', append('c'))]
        self.waitForWrites(gateway, 4)
        results = letGo(*others)
        self.assertEqual([type(result) for result in results],
                         [int, errors.InvalidInput, errors.UnknownService, int])
        self.assertEqual(sorted(self.stored().values()), ['a', 'c'])
        self.assertEqual(self.countCommits() - self.setUpCommits, 1)

    def test_unexpected_error_is_for_its_caller_alone(self):
        gateway = self.makeGateway()
        letGo = self.holdUp(gateway)

        def writeAndFail(jobs):
            jobs[1000] = 'half'
            raise ZeroDivisionError()

        def writeTooMuch(jobs):
            jobs[1001] = 'unsent'
            return 'x' * (RESULT_SIZE + 1)

        def exit(jobs):
            jobs[1002] = 'half'
            raise SystemExit(3)

        def timeOut(jobs):
            raise TimeoutError('of its own')

        def unpicklable(jobs):
            jobs[1003] = threading.Lock()
        others = [inThread(gateway.write, '/', function) for function in (
            append('a'), writeAndFail, writeTooMuch, exit, timeOut, unpicklable, append('b'))]
        self.waitForWrites(gateway, len(others))
        results = letGo(*others)
        self.assertEqual([type(result) for result in results], [
            int, ZeroDivisionError, ResultTooLarge, SystemExit, TimeoutError, TypeError, int])
        self.assertEqual(sorted(self.stored().values()), ['a', 'b'])
        self.assertEqual(gateway.write('/', append('c')), 3)

    def test_conflict_is_tried_again(self):
        gateway = self.makeGateway()
        calls = []

        def function(jobs):
            calls.append(1)
            if len(calls) < 3:
                with self.db.transaction(note='meanwhile') as connection:
                    connection.root()['/'][7] = len(calls)
            jobs[7] = 'mine'
        gateway.write('/', function)
        self.assertEqual(len(calls), 3)
        self.assertEqual(self.stored(), {7: 'mine'})

    def test_conflicts_without_end(self):
        gateway = self.makeGateway(attempts=3)
        calls = []

        def function(jobs):
            calls.append(1)
            with self.db.transaction() as connection:
                connection.root()['/'][7] = len(calls)
            jobs[7] = 'mine'
        with self.assertRaises(DatabaseUnavailable), self.assertFailureLogged():
            gateway.write('/', function)
        self.assertEqual(len(calls), 3)
        self.assertEqual(self.stored(), {7: 3})
        self.assertEqual(gateway.write('/', append('b')), 2)

    def test_failure_before_the_second_phase_changes_nothing(self):
        gateway = self.makeGateway()
        for error in (StorageTransactionError('no'), OSError(28, 'No space left on device')):
            letGo = self.holdUp(gateway)
            others = [inThread(gateway.write, '/', append(n)) for n in range(3)]
            self.waitForWrites(gateway, 3)
            self.storage.voteError = error
            with self.assertFailureLogged():
                results = letGo(*others)
            self.storage.voteError = None
            self.assertEqual({type(result) for result in results}, {DatabaseUnavailable})
            self.assertEqual(self.stored(), {})
        self.assertEqual(gateway.write('/', append('a')), 1)

    def test_failure_in_the_second_phase_may_have_changed_all(self):
        gateway = self.makeGateway()
        letGo = self.holdUp(gateway)
        others = [inThread(gateway.write, '/', append(n)) for n in range(3)]
        self.waitForWrites(gateway, 3)
        self.storage.finishError = StorageTransactionError('the answer got lost')
        with self.assertFailureLogged():
            results = letGo(*others)
        self.storage.finishError = None
        self.assertEqual({type(result) for result in results}, {OutcomeUnknown})
        self.assertEqual(len(self.stored()), 3)         # once each: nothing was tried again
        self.assertEqual(gateway.write('/', append('a')), 4)

    def test_deadline(self):
        gateway = self.makeGateway(deadline=0.05)
        go = threading.Event()
        self.addCleanup(go.set)

        def slow(jobs):
            go.wait(WAIT)
            jobs[1] = 'slow'
        with self.assertRaises(DatabaseUnavailable):    # has begun, and will not be committed
            gateway.write('/', slow)
        with self.assertRaises(DatabaseUnavailable):    # has not begun
            gateway.write('/', append('waited'))
        self.assertEqual(gateway.statistics()['writes'], 0)
        go.set()
        self.assertTrue(gateway.stop(WAIT))
        self.assertEqual(self.stored(), {})

    def test_deadline_while_the_database_commits(self):
        gateway, commits, go = self.makeGateway(), threading.Event(), threading.Event()
        self.addCleanup(go.set)
        finish = self.storage.tpc_finish

        def slowFinish(*arguments):
            commits.set()
            go.wait(WAIT)
            return finish(*arguments)
        self.storage.tpc_finish = slowFinish
        call = gateways.Gateway.write(gateway, '/', append('a'))
        gateway.flush()
        self.assertTrue(commits.wait(WAIT))
        call.deadline = time.monotonic()
        call.last = call.deadline + 0.05
        with self.assertRaises(OutcomeUnknown):
            gateway.resultOf(call)
        go.set()
        self.assertTrue(gateway.stop(WAIT))
        self.assertEqual(len(self.stored()), 1)


class TestRead(GatewayCase):

    level = 2

    def test_result_is_plain(self):
        gateway = self.makeGateway()
        gateway.write('/', append((1, 2)))
        self.assertEqual(gateway.read('/', lambda jobs: jobs), {'1': [1, 2]})

    def test_changes_are_thrown_away(self):
        gateway = self.makeGateway()
        self.assertEqual(gateway.read('/', append('a')), 1)
        self.assertEqual(gateway.read('/', len), 0)
        self.assertEqual(self.countCommits(), self.setUpCommits)

    def test_sees_each_commit(self):
        gateway = self.makeGateway()
        for n in range(5):
            self.assertEqual(gateway.read('/', len), n)
            gateway.write('/', append(n))

    def test_exceptions_pass(self):
        gateway = self.makeGateway(readers=1)
        for function, error in ((lambda jobs: 1 / 0, ZeroDivisionError), (lambda jobs: exit(), SystemExit),
                                (lambda jobs: 'x' * (RESULT_SIZE + 1), ResultTooLarge)):
            with self.assertRaises(error):
                gateway.read('/', function)
        with self.assertRaises(errors.UnknownService):
            gateway.read('/nowhere', len)
        self.assertEqual(gateway.read('/', len), 0)     # the one place is free again

    def test_conflict_is_tried_again(self):
        gateway = self.makeGateway(attempts=3)
        calls = []

        def function(jobs):
            calls.append(1)
            if len(calls) % 3:
                raise transaction.interfaces.TransientError()
            return 'read'
        self.assertEqual(gateway.read('/', function), 'read')
        self.assertEqual(len(calls), 3)

        def conflict(jobs):
            calls.append(1)
            raise transaction.interfaces.TransientError()
        with self.assertRaises(DatabaseUnavailable):
            gateway.read('/', conflict)
        self.assertEqual(len(calls), 6)

    def test_readers_are_bounded(self):
        gateway = self.makeGateway(readers=2, deadline=0.05)
        begun, go = threading.Semaphore(0), threading.Event()
        self.addCleanup(go.set)

        def slow(jobs):
            begun.release()
            go.wait(WAIT)
            return 'read'
        slowOnes = [inThread(gateway.read, '/', slow) for n in range(2)]
        for _ in slowOnes:
            self.assertTrue(begun.acquire(timeout=WAIT))
        with self.assertRaises(DatabaseUnavailable):
            gateway.read('/', len)
        self.assertEqual(gateway.statistics()['reads'], 0)
        for thread, outcome in slowOnes:                # they are not waited for either
            thread.join(WAIT)
            self.assertEqual([type(result) for result in outcome], [DatabaseUnavailable])
        go.set()
        gateway.deadline = WAIT
        self.assertEqual(gateway.read('/', len), 0)

    def test_what_comes_together_is_for_one_reader(self):
        gateway = gateways.Gateway(self.db, resolve)
        gateway.start()
        self.addCleanup(gateway.stop, WAIT)
        self.waitUntil(lambda: gateway.statistics()['idleReaders'] == gateway.readers)
        done, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)
        calls = [gateway.read('/', lambda jobs: (go.wait(WAIT), threading.current_thread().name)[1]) for _ in range(20)]
        calls[-1].add_done_callback(lambda call: done.set())
        gateway.flush()
        self.assertEqual(gateway.statistics()['idleReaders'], gateway.readers - 1)
        go.set()
        self.assertTrue(done.wait(WAIT))
        self.assertEqual(len({call.result() for call in calls}), 1)
        self.assertIsNone(gateway.flush())

    def test_a_slow_read_holds_up_nobody(self):
        gateway = self.makeGateway(readers=2)
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)
        slow = inThread(gateway.read, '/', lambda jobs: (begun.set(), go.wait(WAIT), 'slow')[-1])
        self.assertTrue(begun.wait(WAIT))
        self.assertEqual(gateway.read('/', len), 0)
        go.set()
        slow[0].join(WAIT)
        self.assertEqual(slow[1], ['slow'])

    def test_a_call_that_is_given_up_ends_once(self):
        gateway = gateways.Gateway(self.db, resolve)
        with self.assertRaises(Stopping):
            gateway.read('/', len)
        gateway.start()
        calls, heard = [gateway.read('/', len), gateway.write('/', append('a'))], []
        for call in calls:
            call.add_done_callback(heard.append)
            gateway.giveUp(call)
            gateway.giveUp(call)
            call.end('late')
            with self.assertRaises(DatabaseUnavailable):
                call.result()
            call.add_done_callback(heard.append)
        self.assertEqual(heard, [calls[0]] * 2 + [calls[1]] * 2)
        gateway.flush()
        self.assertTrue(gateway.stop(WAIT))
        self.assertEqual(self.stored(), {})

    def test_callers_of_a_silent_database_wait_shortly(self):
        gateway = self.makeGateway(readers=1, deadline=0.05)
        go = threading.Event()
        self.addCleanup(go.set)
        with self.assertRaises(DatabaseUnavailable):
            gateway.read('/', lambda jobs: go.wait(WAIT) and 0)
        gateway.deadline = 100 * WAIT
        began = time.monotonic()
        with self.assertRaises(DatabaseUnavailable):
            gateway.read('/', len)
        self.assertLess(time.monotonic() - began, WAIT)
        go.set()
        gateway.write('/', append('a'))                 # the database has answered: there is time again
        self.assertEqual(gateway.timeout, gateway.deadline)


class TestLifecycle(GatewayCase):

    def test_only_a_running_gateway_takes_calls(self):
        gateway = Gateway(self.db, resolve)
        for _ in range(2):
            for call in (gateway.read, gateway.write):
                with self.assertRaises(Stopping):
                    call('/', len)
            self.assertTrue(gateway.stop(WAIT))
            self.assertTrue(gateway.stop(WAIT))
            gateway.start()
            gateway.start()
            self.assertEqual(gateway.write('/', len), gateway.read('/', len))
            self.assertTrue(gateway.stop(WAIT))

    def test_waiting_writes_are_done_before_it_stops(self):
        gateway = self.makeGateway()
        letGo = self.holdUp(gateway)
        others = [inThread(gateway.write, '/', append(n)) for n in range(5)]
        self.waitForWrites(gateway, 5)
        self.assertFalse(gateway.stop(0.01))
        with self.assertRaises(Stopping):
            gateway.write('/', append('late'))
        self.assertEqual(sorted(letGo(*others)), [1, 2, 3, 4, 5])
        self.assertTrue(gateway.stop(WAIT))
        self.assertEqual(sorted(self.stored().values()), [0, 1, 2, 3, 4])

    def test_connections_go_back_to_the_pool(self):
        gateway = self.makeGateway()
        gateway.write('/', append('a'))
        gateway.read('/', len)
        gateway.stop(WAIT)
        self.assertEqual([details['opened'] for details in self.db.connectionDebugInfo()], [None, None])


class TestOverZEO(LogCase):
    """A database server that goes and comes back."""

    level = 2

    def setUp(self):
        self.server = self.enterContext(temporaryZEO())
        with self.server.database().transaction() as connection:
            connection.root()['/'] = PersistentMapping()
            connection.root()['/unseen'] = PersistentMapping()
        self.db = ZODB.DB(self.server.storage(min_disconnect_poll=0.1, max_disconnect_poll=0.2))
        serverOf(self.db.storage).timeout = 1           # only now that it is connected
        self.addCleanup(self.db.close)

    def test_writer_outlives_the_server(self):
        gateway = Gateway(self.db, resolve, deadline=WAIT, attempts=2)
        gateway.start()
        self.addCleanup(gateway.stop, WAIT)

        def add(jobs):
            jobs[len(jobs)] = 'a'
            return len(jobs)
        self.assertEqual(gateway.write('/', add), 1)
        self.server.kill()
        for _ in range(2):
            with self.assertFailureLogged(), self.assertRaises(DatabaseUnavailable):
                gateway.write('/', add)
        with self.assertRaises(DatabaseUnavailable), self.assertLogs('ZODB', 'ERROR'):
            gateway.read('/unseen', len)                # which the client's cache does not hold
        self.server.start()
        waitUntil(self.db.storage.is_connected)
        self.assertEqual(gateway.write('/', add), 2)
        self.assertEqual(gateway.read('/unseen', len), 0)

    def test_who_is_refused_knows_of_all_commits(self):
        gateway = Gateway(self.db, resolve, deadline=WAIT, readers=1)
        gateway.start()
        self.addCleanup(gateway.stop, WAIT)
        other = self.server.database()
        self.addCleanup(other.close)
        refusals = (errors.UnknownJob(5), errors.WrongState(5, 'processing', 'remove'), errors.UnknownUpload('x'),
                    errors.UnknownTask('echo', ()), errors.TooManyUploads('100 uploads'),
                    errors.WrongGeneration('it is of generation 2'), NoFile(5, 'queued'), WrongPart('start: 0'),
                    ValueError('overlap: only a schedule that adds new jobs can have several of them at a time'))
        for call in (gateway.read, gateway.write):
            for number, refusal in enumerate(refusals):
                key = f'{call.__name__}-{number}'

                def function(jobs, refusal=refusal, key=key):
                    if key in jobs:
                        return jobs[key]
                    if isinstance(refusal, errors.RemoteTaskError):
                        raise refusal
                    try:
                        raise BadArguments(f'jobs[0]: {refusal}') from refusal
                    except BadArguments as error:
                        raise BadArguments(f'addMany: {error}') from error
                with self.subTest(key):
                    self.assertNotIn(key, call('/', lambda jobs: sorted(jobs)))     # cached from now on
                    holdBack(self, self.db)
                    with other.transaction() as connection:
                        connection.root()['/'][key] = 'there'
                    self.assertEqual(call('/', function), 'there')

    def test_a_write_that_finds_nothing_to_do_knows_of_all_commits(self):
        gateway = Gateway(self.db, resolve, deadline=WAIT)
        gateway.start()
        self.addCleanup(gateway.stop, WAIT)
        other = self.server.database()
        self.addCleanup(other.close)

        def start(jobs):
            return 'waits' in jobs and jobs.pop('waits')
        self.assertIs(gateway.write('/', start), False)
        holdBack(self, self.db)
        with other.transaction() as connection:
            connection.root()['/']['waits'] = True
        self.assertIs(gateway.write('/', start), True)

    def test_with_server_sync_each_read_knows_of_all_commits(self):
        db = self.enterContext(contextlib.closing(ZODB.DB(self.server.storage(server_sync=True))))
        gateway = Gateway(db, resolve, deadline=WAIT, readers=1)
        gateway.start()
        self.addCleanup(gateway.stop, WAIT)
        self.assertEqual(gateway.read('/', len), 0)
        go = holdBack(self, db)
        with self.db.transaction() as connection:
            connection.root()['/'][1] = 'there'
        thread, outcome = inThread(gateway.read, '/', len)
        self.waitUntil(lambda: outcome or not gateway.statistics()['idleReaders'])
        go.set()
        thread.join(WAIT)
        self.assertEqual(outcome, [1])

    def test_who_is_refused_all_the_same(self):
        gateway = Gateway(self.db, resolve, deadline=WAIT, readers=1)
        gateway.start()
        self.addCleanup(gateway.stop, WAIT)
        calls = []

        def function(refusal):
            def refuse(jobs):
                calls.append(refusal)
                raise refusal
            return refuse
        for call in (gateway.read, gateway.write):
            circular = errors.RemoteTaskError('of a task that raises what it has caught')
            circular.__cause__ = circular
            logged = errors.TaskError('the task cannot check this input')
            logged.__cause__ = ValueError('a mistake in the task')
            for refusal, times in ((errors.UnknownJob(5), 2), (errors.InvalidInput('size', 'too small'), 1),
                                   (OthersJob(5), 1), (logged, 1), (circular, 1)):
                calls.clear()
                with self.subTest(refusal, call=call), self.assertRaises(type(refusal)):
                    call('/', function(refusal))
                self.assertEqual(len(calls), times)
            with self.assertRaises(errors.UnknownService):
                call('/nowhere', len)


if __name__ == '__main__':
    unittest.main()
