"""The stored model: the ready queue's promise, schedules, contracts, names that are file format, and the rooms."""
# SPDX-License-Identifier: ZPL-2.1
import ast
import collections
import contextlib
import graphlib
import io
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

import transaction
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError
from zope.component import provideUtility
from zope.component import testing
from zope.interface.verify import verifyClass
from zope.interface.verify import verifyObject

import lovely.remotetask
from lovely.remotetask import interfaces
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.errors import WrongState
from lovely.remotetask.files import File
from lovely.remotetask.job import CronJob
from lovely.remotetask.job import Job
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.processor import SimpleProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import install
from lovely.remotetask.storage import queue as queues
from lovely.remotetask.storage import uploads
from lovely.remotetask.storage.queue import ReadyQueue
from lovely.remotetask.storage.shards import Jobs
from lovely.remotetask.task import SimpleTask


PACKAGE = pathlib.Path(lovely.remotetask.__file__).parent


class TestReadyQueue(unittest.TestCase):
    """Stories with several connections to one queue."""

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.db = DB(FileStorage(self.directory.name + '/Data.fs'))
        self.addCleanup(self.db.close)
        queue = ReadyQueue()
        queue.bucketSize = 3
        with self.db.transaction() as connection:
            connection.root()['queue'] = queue

    def user(self):
        """Return a user's transaction manager, begun, and the user's view of the queue."""
        manager = transaction.TransactionManager()
        connection = self.db.open(manager)
        self.addCleanup(connection.close)
        self.addCleanup(manager.abort)
        manager.begin()
        return manager, connection.root()['queue']

    def content(self):
        return list(self.user()[1])

    def put(self, *items):
        manager, queue = self.user()
        for item in items:
            queue.put(item)
        manager.commit()

    def pull(self, count):
        manager, queue = self.user()
        pulled = queue.pull(count)
        manager.commit()
        return pulled

    def test_order(self):
        self.put(*range(10))
        self.assertEqual(self.pull(4), [0, 1, 2, 3])
        self.put(10)
        self.assertEqual(self.pull(100), [4, 5, 6, 7, 8, 9, 10])
        self.assertEqual(self.pull(1), [])

    def test_puts_are_merged(self):
        (one, queue1), (two, queue2) = self.user(), self.user()
        queue1.put(1)
        queue2.put(2)
        one.commit()
        two.commit()
        self.assertEqual(self.content(), [1, 2])

    def test_put_and_last_pull_are_merged(self):
        self.put(1)
        (host, queue1), (client, queue2) = self.user(), self.user()
        self.assertEqual(queue1.pull(5), [1])
        queue2.put(2)
        host.commit()
        client.commit()
        self.assertEqual(self.content(), [2])

    def test_pulls_of_the_same_conflict(self):
        self.put(1, 2)
        (one, queue1), (two, queue2) = self.user(), self.user()
        self.assertEqual((queue1.pull(1), queue2.pull(1)), ([1], [1]))
        one.commit()
        with self.assertRaises(ConflictError):
            two.commit()

    def test_pulls_that_skip_are_merged(self):
        self.put(*range(3))
        (one, queue1), (two, queue2) = self.user(), self.user()
        self.assertEqual((queue1.pull(1), queue2.pull(1, skip=2)), ([0], [2]))
        one.commit()
        two.commit()
        self.assertEqual(self.content(), [1])

    def test_pulls_in_the_middle(self):
        self.put(*range(12))
        manager, queue = self.user()
        self.assertEqual(len(queue._buckets), 4)
        self.assertEqual(queue.pull(5, skip=2), [2, 3, 4, 5, 6])
        self.assertEqual(queue.pull(5, skip=7), [])
        manager.commit()
        self.assertEqual(self.content(), [0, 1, 7, 8, 9, 10, 11])
        self.assertEqual(len(self.user()[1]._buckets), 3)

    def test_no_put_into_a_bucket_dropped_in_the_middle(self):
        self.put(0, 1, 2, 3, 4)
        late, queue2 = self.user()
        self.assertEqual(len(queue2._buckets), 2)
        self.put(5, 6)                                      # the second bucket is full, there is a third
        manager, queue = self.user()
        self.assertEqual(queue.pull(3, skip=3), [3, 4, 5])
        manager.commit()
        queue2.put(7)                                       # into the second bucket, which is gone
        with self.assertRaises(ConflictError):
            late.commit()
        self.assertEqual(self.content(), [0, 1, 2, 6])

    def test_no_put_into_a_dropped_bucket(self):
        # P2 begins while the bucket is the last one and has room; P1 fills it and appends another; a host empties and
        # drops it.  Whatever P2 does with its old view must not commit.
        self.put(1, 2)
        late, queue2 = self.user()
        self.assertEqual(len(queue2._buckets), 1)
        len(queue2._buckets[0])                     # P2 has loaded the bucket
        self.put(3, 4)
        self.assertEqual(self.pull(3), [1, 2, 3])
        self.assertEqual(self.pull(1), [4])
        queue2.put(5)
        with self.assertRaises(ConflictError):
            late.commit()
        self.assertEqual(self.content(), [])

    def test_no_put_into_a_bucket_that_is_being_dropped(self):
        # The same race the other way round: the put commits first, so the host must fail, and not drop it.
        self.put(1, 2)
        late, queue2 = self.user()
        len(queue2._buckets[0])
        self.put(3, 4)
        host, queue = self.user()
        self.assertEqual(queue.pull(4), [1, 2, 3, 4])
        queue2.put(5)
        late.commit()
        with self.assertRaises(ConflictError):
            host.commit()
        self.assertEqual(sorted(self.content()), [1, 2, 3, 4, 5])

    def test_no_put_into_a_bucket_emptied_before(self):
        # It was emptied while it was the last one, and is dropped, untouched since, by somebody else.
        self.put(1, 2)
        late, queue2 = self.user()
        len(queue2._buckets[0])
        appender, queue1 = self.user()
        queue1.put(3)
        queue1.put(4)
        appender.commit()
        self.assertEqual(self.pull(3), [1, 2, 3])
        queue2.put(5)
        with self.assertRaises(ConflictError):
            late.commit()
        self.assertEqual(self.content(), [4])

    def test_no_pull_of_what_was_put_again(self):
        for run in 1, 2, 2 ** 40:
            with self.subTest(run=run):
                self.put(5)
                late, queue2 = self.user()
                self.assertEqual(queue2.pull(), [5])
                self.assertEqual(self.pull(1), [5])
                again, queue = self.user()
                queue.put(5, run)
                again.commit()
                with self.assertRaises(ConflictError):
                    late.commit()
                self.assertEqual(self.pull(2), [5])

    def test_what_is_put_back_comes_first(self):
        self.put(*range(8))
        manager, queue = self.user()
        for jobid, since in (13, 3000), (11, 1000), (14, 3000), (10, 1000), (12, 2000):
            queue.putBack(jobid, 2 ** 40 - jobid, since)
        manager.commit()
        manager, queue = self.user()
        self.assertEqual(list(queue), [10, 11, 12, 13, 14, *range(8)])
        self.assertEqual(list(reversed(queue)), list(queue)[::-1])
        self.assertEqual((len(queue), bool(queue), list(queue.lengths())), (13, True, [3, 2, 3, 3, 2]))
        self.assertEqual(queue.pull(2, skip=1), [11, 12])
        self.assertEqual(queue.pull(3, skip=2), [14, 0, 1])
        self.assertEqual(queue.pull(2, skip=3), [3, 4])
        self.assertTrue(queue.remove(13))
        self.assertEqual(queue.pull(10), [10, 2, 5, 6, 7])
        self.assertEqual((queue.pull(1), bool(queue), len(queue._head)), ([], False, 1))

    def test_what_is_put_back_at_the_same_time_is_merged(self):
        self.put(0)
        users = [self.user() for _ in range(3)]
        for number, (_, queue) in enumerate(users):
            queue.putBack(10 - number, 0, 1000 - number)
        (client, queue1), (host, queue2) = self.user(), self.user()
        queue1.put(1)
        self.assertEqual(queue2.pull(), [0])
        for manager, _ in (*users, (client, queue1), (host, queue2)):
            manager.commit()
        self.assertEqual(self.content(), [8, 9, 10, 1])

    def test_nothing_is_put_back_into_a_dropped_bucket(self):
        putBack, queue = self.user()
        queue.putBack(1, 0, 1)
        putBack.commit()
        late, queue2 = self.user()
        self.assertEqual(len(queue2._head[0]), 1)                   # it has loaded the bucket
        manager, queue = self.user()
        for jobid in 2, 3, 4:
            queue.putBack(jobid, 0, jobid)
        manager.commit()
        self.assertEqual(self.pull(3), [1, 2, 3])
        queue2.putBack(5, 0, 5)
        with self.assertRaises(ConflictError):
            late.commit()
        self.assertEqual(self.content(), [4])

    def test_entries_of_runs_are_ids(self):
        manager, queue = self.user()
        for jobid, run in (2 ** 31 - 1, 0), (2 ** 31 - 2, 7), (0, 1), (3, 0), (1, 2 ** 33):
            queue.put(jobid, run)
        manager.commit()
        manager, queue = self.user()
        self.assertEqual(list(queue), [2 ** 31 - 1, 2 ** 31 - 2, 0, 3, 1])
        self.assertEqual(list(reversed(queue)), [1, 3, 0, 2 ** 31 - 2, 2 ** 31 - 1])
        self.assertTrue(queue.remove(1) and queue.remove(2 ** 31 - 2))
        self.assertEqual(queue.pull(3), [2 ** 31 - 1, 0, 3])

    def test_remove(self):
        self.put(*range(8))
        manager, queue = self.user()
        self.assertTrue(queue.remove(4))
        self.assertFalse(queue.remove(99))
        manager.commit()
        self.assertEqual(self.pull(8), [0, 1, 2, 3, 5, 6, 7])

    def test_many_are_removed_one_after_the_other(self):
        # Each search would look through a half of the 100 buckets.
        for jobids in range(1000), range(999, -1, -1):
            queue = ReadyQueue()
            queue.bucketSize = 10
            for jobid in range(1000):
                queue.put(jobid)
            with unittest.mock.patch.object(queues, '_idsOf', wraps=queues._idsOf) as look:
                for jobid in jobids:
                    self.assertTrue(queue.remove(jobid))
            self.assertLess(look.call_count, 7000)
            self.assertFalse(queue)


class TestSchedules(unittest.TestCase):

    def times(self, start, count=1, **fields):
        job, found = CronJob(1, 'echo', (), **fields), []
        for _ in range(count):
            start = job.timeOfNextCall(start)
            found.append(time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(start)))
        return found

    def test_fields(self):
        day = 86400
        for fields, start, expected in (
                ({'minute': (0, 10)}, 0, ['1970-01-01 00:10:00', '1970-01-01 01:00:00']),
                ({'hour': (2, 13)}, 0, ['1970-01-01 02:00:00', '1970-01-01 13:00:00', '1970-01-02 02:00:00']),
                ({'month': (1, 5, 12)}, 0, ['1970-05-01 00:00:00', '1970-12-01 00:00:00', '1971-01-01 00:00:00']),
                ({'dayOfWeek': (0, 2, 4, 5)}, 0, ['1970-01-02 00:00:00', '1970-01-03 00:00:00',
                                                  '1970-01-05 00:00:00', '1970-01-07 00:00:00']),
                ({'dayOfMonth': (1, 12, 21, 30)}, 0, ['1970-01-12 00:00:00', '1970-01-21 00:00:00',
                                                      '1970-01-30 00:00:00', '1970-02-01 00:00:00']),
                ({'minute': (10,), 'dayOfMonth': (1, 12, 21, 30)}, 0, ['1970-01-01 00:10:00', '1970-01-01 01:10:00']),
                ({'minute': (10,), 'hour': (4,), 'dayOfMonth': (1, 12, 21, 30)}, 600,
                 ['1970-01-01 04:10:00', '1970-01-12 04:10:00']),
                ({'dayOfMonth': (29,), 'month': (2,)}, 0, ['1972-02-29 00:00:00', '1976-02-29 00:00:00']),
                ({'dayOfMonth': (31,)}, 30 * day, ['1970-03-31 00:00:00', '1970-05-31 00:00:00']),
                ({}, 61.5, ['1970-01-01 00:02:00', '1970-01-01 00:03:00'])):
            with self.subTest(fields=fields):
                self.assertEqual(self.times(start, len(expected), **fields), expected)

    def test_delay(self):
        job = CronJob(1, 'echo', (), delay=10)
        self.assertEqual((job.timeOfNextCall(0), job.timeOfNextCall(1), job.status), (10, 11, 'delayed'))

    def test_values_out_of_range(self):
        job = CronJob(1, 'echo', (), minute=(5,))
        for fields in ({'minute': (60,)}, {'hour': (24,)}, {'dayOfMonth': (0,)}, {'month': (13,)}, {'dayOfWeek': (7,)},
                       {'minute': '5'}, {'hour': (True,)}, {'delay': -1}, {'delay': '10'}, {'minute': 5}):
            with self.subTest(fields=fields), self.assertRaisesRegex(ValueError, next(iter(fields))):
                job.update(**fields)
            self.assertEqual(job.minute, (5,))


class TestService(unittest.TestCase):
    """A service outside any database."""

    def setUp(self):
        self.addCleanup(forgetAll)
        provide('echo', lambda input: input)
        self.service = TaskService()

    def test_unknown_jobs(self):
        for jobid in (1, 0, -1, 2 ** 31, 'x', None, True):
            for verb in ('getStatus', 'getResult', 'getError', 'cancel', 'startJob', 'reschedule'):
                with self.assertRaises(UnknownJob):
                    getattr(self.service, verb)(jobid)

    def test_cancel_in_each_state(self):
        queued = self.service.add('echo')
        self.service.cancel(queued)
        self.service.cancel(queued)
        self.assertFalse(self.service.hasJobsWaiting())
        done = self.service.add('echo')
        self.service.process()
        with self.assertRaises(WrongState):
            self.service.cancel(done)
        for arguments in ({'delay': 5}, {'minute': (1,)}):
            jobid = self.service.addCronJob('echo', **arguments)
            self.service.process(0)
            self.service.cancel(jobid)
            self.service.process(7200)
            self.assertEqual((self.service.getStatus(jobid), self.service.getResult(jobid)), ('cancelled', None))
        claimed = self.service.add('echo')
        self.assertEqual(self.service.claimNextJob(), claimed)
        self.assertEqual(self.service.getStatus(claimed), 'processing')
        self.service.cancel(claimed)
        self.assertEqual(self.service.getStatus(claimed), 'cancelled')
        with self.assertRaises(WrongState):
            self.service.processNext(jobid=claimed)

    def test_retries(self):
        runs = []

        def fail(input):
            runs.append(input)
            raise OSError('the disk is full')

        provide('fail', fail)
        jobid = self.service.add('fail')
        with self.assertLogs('lovely.remotetask', 'WARNING') as logged:
            for now in (0, 10, 20, 30, 40):
                self.service.process(now)
                if now < 30:
                    self.assertEqual(self.service.getStatus(jobid), 'queued')
        self.assertEqual((len(runs), self.service.getStatus(jobid)), (4, 'error'))
        self.assertEqual(self.service.getError(jobid), 'OSError: the disk is full')
        self.assertEqual([record.levelname for record in logged.records], ['WARNING'] * 3 + ['ERROR'])
        self.assertEqual([failure.time for failure in self.service.jobs[jobid].errors], [0, 10, 20, 30])

    def test_failing_cron_job_stays_scheduled(self):
        provide('fail', lambda input: 1 / 0)
        jobid = self.service.addCronJob('fail', minute=(0,))
        with self.assertLogs('lovely.remotetask', 'ERROR'):
            for now in range(0, 7300, 100):
                self.service.process(now)
        job = self.service.jobs[jobid]
        self.assertEqual((job.status, job.error), ('cronjob', 'ZeroDivisionError: division by zero'))
        provide('fail', lambda input: 'well')
        for now in (10800, 10900):
            self.service.process(now)
        self.assertEqual((job.status, job.error, job.output), ('cronjob', None, 'well'))

    def test_clean_refuses_waiting_jobs(self):
        jobid = self.service.add('echo')
        with self.assertRaisesRegex(ValueError, 'queued'):
            self.service.clean(['error', 'queued'])
        self.service.clean('error')
        self.assertIn(jobid, self.service.jobs)

    def test_representation(self):
        self.assertEqual(repr(Job(7, 'echo', {})), '<Job 7>')

    def test_starting_needs_a_database(self):
        with self.assertRaisesRegex(Exception, 'committed'):
            self.service.startProcessing()


class TestContracts(unittest.TestCase):

    def test_contracts(self):
        for contract, factory, obj in (
                (interfaces.ITaskService, TaskService, TaskService()), (interfaces.IJob, Job, Job(1, 'echo', {})),
                (interfaces.ICronJob, CronJob, CronJob(1, 'echo', {})), (interfaces.IJobs, Jobs, TaskService().jobs),
                (interfaces.ITask, SimpleTask, SimpleTask(len)),
                (interfaces.IProcessor, SimpleProcessor, SimpleProcessor(None, ('a',))),
                (interfaces.IProcessor, MultiProcessor, MultiProcessor(None, ('a',)))):
            with self.subTest(contract=contract):
                self.assertTrue(verifyClass(contract, factory, tentative=True))
                self.assertTrue(verifyObject(contract, obj))

    def test_stored_names(self):
        # These names are in the databases of users.
        directory = self.enterContext(tempfile.TemporaryDirectory())
        storage = FileStorage(f'{directory}/Data.fs', blob_dir=f'{directory}/blobs')
        with contextlib.closing(DB(storage)) as db:
            install(db)
            provide('echo', lambda input: input)
            manager = transaction.TransactionManager()
            with contextlib.closing(db.open(manager)) as connection, manager:
                service = connection.root()['Application']['TaskService']
                service.processorFactory = MultiProcessor
                inputs = ('small', 'x' * 2000, 'x' * 100_000, b'x' * 100_000, File(io.BytesIO(b'a file')))
                for key, input in enumerate(inputs):
                    service.add('echo', input, key=str(key), startLater=key == 3, retryPolicy=RetryPolicy(3))
                service.addCronJob('echo', minute=[0], now=0)
                service.addCronJob('echo', delay=10, now=0)
                service.processNext()
                uploads.append(service, None, uploads.begin(service, None, 0), 0, b'a part', 0)
            found = storedNames(storage)
        self.assertEqual(found, set('''
            database.storedfiles.StoredFile interfaces.ITaskService processor.MultiProcessor retry.RetryPolicy
            service.TaskService storage.index.Hosts storage.index.Keys storage.index.StatusIndex
            storage.ledger.ShardLedger storage.pages.Pages storage.pages.StoredValue storage.queue.ReadyQueue
            storage.shards.Shard storage.timetable.Seen storage.timetable.Timetable storage.uploads.Upload
            '''.split()))

    def test_jobs_never_merge(self):
        self.assertFalse(hasattr(Job(1, 'echo', {}), '_p_resolveConflict'))


#: From the bottom up: a room, a module or a package, knows only those above it here.
ROOMS = '''
    common statuses interfaces errors events filters schedules encoding files database retry job functions options
    task demo storage execution config runzeo service processing processor application m01 p01
    xmlrpc web client testing bench skeleton cli
    __init__ __main__ documents
'''.split()


class TestRooms(unittest.TestCase):

    level = 2

    def test_imports_point_down(self):
        inside = collections.defaultdict(dict)
        for path in sorted(PACKAGE.rglob('*.py')):
            parts = path.relative_to(PACKAGE).with_suffix('').parts
            room, module = parts[0], '.'.join(parts).removesuffix('.__init__')
            for imported in importsOf(path):
                other = imported.partition('.')[0]
                with self.subTest(module=module, imports=imported):
                    self.assertLessEqual(ROOMS.index(other), ROOMS.index(room))
                if other == room:
                    inside[room].setdefault(module, set()).add(imported)
        self.assertEqual({path.stem for path in PACKAGE.iterdir() if path.suffix in ('.py', '') and path.stem[0] != '.'}
                         - {'__pycache__', 'py'}, set(ROOMS))
        for room, graph in inside.items():
            with self.subTest(room=room):
                list(graphlib.TopologicalSorter(graph).static_order())          # raises when there is a circle

    def test_a_stored_service_loads_nothing_that_runs_jobs(self):
        # Unpickling one imports its class: a front end and the tools of ZEO need no threads and no child processes.
        program = ('import sys, lovely.remotetask.service\n'
                   'print([name for name in sorted(sys.modules) if name.startswith(("lovely.remotetask.processing",'
                   '"lovely.remotetask.processor", "lovely.remotetask.execution.run",'
                   '"lovely.remotetask.execution.child", "multiprocessing"))])')
        done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
        self.assertEqual((done.stdout, done.stderr), ('[]\n', ''))


def importsOf(path):
    """Return the modules of the package that a module imports, in functions too, by their names below the package."""
    prefix, found = 'lovely.remotetask.', set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module + '.').startswith(prefix):
            names = [f'{node.module}.{alias.name}' for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith(prefix)]
        else:
            continue
        for name in names:
            parts = name[len(prefix):].split('.')
            while parts and not PACKAGE.joinpath(*parts).with_suffix('.py').exists():
                if PACKAGE.joinpath(*parts, '__init__.py').exists():
                    break
                parts.pop()
            found.add('.'.join(parts) or '__init__')
    return found


def storedNames(storage):
    """Return the classes and functions of the package that the records of a storage name, below the package.

    Rows are pickles within pickles, in another protocol: so the bytes are searched.
    """
    pattern = re.compile(rb'lovely[.]remotetask[.]([a-z_.]+)[^a-zA-Z_]{1,4}([a-zA-Z_]+)')
    return {b'.'.join(names).decode() for txn in storage.iterator() for record in txn
            for names in pattern.findall(record.data)}


def provide(name, function):
    """Register a function as a task."""
    provideUtility(SimpleTask(function), name=name)


def forgetAll():
    """Forget all registrations."""
    testing.tearDown()


if __name__ == '__main__':
    unittest.main()
