"""Files: large inputs and outputs in blobs, streamed, over a file and over ZEO; how much memory that takes."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import gc
import hashlib
import io
import os
import pathlib
import pickle
import re
import tempfile
import threading
import unittest
import xmlrpc.client
from unittest import mock

import transaction
import zope.component.testing
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.serialize import referencesf
from zope.component import provideUtility
from zope.interface import Interface

from deployment import DeploymentCase
from lovely.remotetask import files
from lovely.remotetask.cli import main
from lovely.remotetask.database import storedfiles
from lovely.remotetask.database.storedfiles import LARGE
from lovely.remotetask.database.storedfiles import StoredFile
from lovely.remotetask.encoding.plain import NESTING
from lovely.remotetask.encoding.plain import TooDeep
from lovely.remotetask.encoding.plain import holdsObjects
from lovely.remotetask.encoding.rows import BESIDE
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.execution.inline import claimNext
from lovely.remotetask.files import File
from lovely.remotetask.files import NoFile
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import install
from lovely.remotetask.storage.shards import BITS
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import runDueJobs
from lovely.remotetask.testing import temporaryZEO
from lovely.remotetask.testing import waitForJobs
from lovely.remotetask.xmlrpc import calls
from lovely.remotetask.xmlrpc import methods
from lovely.remotetask.xmlrpc.calls import RESULT_SIZE
from lovely.remotetask.xmlrpc.faults import BadArguments
from lovely.remotetask.xmlrpc.faults import ResultTooLarge
from lovely.remotetask.xmlrpc.results import plain
from processorcase import ProcessorCase
from waits import PATIENCE
from waits import waitUntil


DATA = pathlib.Path(__file__).parent / 'data'
PATH = ('TaskService',)
MB = 1024 * 1024


def bytesOf(size, seed=0):
    """Return bytes that are not all alike."""
    return hashlib.shake_128(bytes([seed])).digest(4096) * (size // 4096) + b'.' * (size % 4096)


def openInput(file):
    """A task for a file: its size, and its first bytes."""
    with file.open() as opened:
        return [file.size, opened.read(4)]


def sizeInChild(file):
    """The same, as a task that can run in a child process."""
    with file.open() as opened:
        return [len(opened.read()), type(file).__name__]


class Holder:
    """An object that is stored with its attributes."""

    def __init__(self, held=None):
        self.held = held


class Secretive(Holder):
    """One that says itself what is stored of it."""

    def __getstate__(self):
        return {}


class Items(list):
    """A list of an application's own class."""


#: What makes a value one level deeper.
DEEPER = (lambda value: [value], lambda value: (value,), lambda value: {'key': value}, lambda value: Items([value]),
          lambda value: [None, 1, 'x', value], Holder)


def nested(deeper, levels, value=None):
    """Return a value nested so many levels deep."""
    for _ in range(levels):
        value = deeper(value)
    return value


def fileFromChild(path):
    """A task that writes a file, and hands it over."""
    with open(path, 'wb') as file:
        file.write(b'from the child')
    return File(path, move=True)


class TestWithoutBlobs(unittest.TestCase):
    """A service outside any database: as before, and a `File` works all the same."""

    level = 2

    def setUp(self):
        self.addCleanup(zope.component.testing.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='echo')
        provideUtility(SimpleTask(openInput), name='open')
        self.service = TaskService()

    def test_large_values_stay_in_the_record(self):
        for value in (bytesOf(MB), 'text' * LARGE, {'a': ['b' * MB]}):
            jobid = self.service.add('echo', value)
            self.service.process()
            job = self.service.jobs[jobid]
            self.assertEqual((job.input, job.output), (value, value))
            self.assertNotIsInstance(job.stored('output'), StoredFile)

    def test_a_file(self):
        jobid = self.service.add('open', File(io.BytesIO(b'0123456')))
        other = self.service.add('echo', {'x': [File(io.BytesIO(b'abc'))]})
        self.service.process()
        self.assertEqual(self.service.getResult(jobid), [7, b'0123'])
        self.assertEqual(self.service.getResult(other)['x'][0].read(), b'abc')

    def test_on_storages_that_take_none(self):
        with tempfile.TemporaryDirectory() as directory, temporaryZEO() as zeo:
            for storage in (FileStorage(directory + '/Data.fs'), zeo.storage(blob_dir=None, shared_blob_dir=False)):
                with contextlib.closing(DB(storage)) as db:
                    install(db)
                    with db.transaction() as connection:
                        service = connection.root()['Application']['TaskService']
                        jobids = service.add('echo', bytesOf(MB)), service.add('open', File(io.BytesIO(b'01234')))
                    processor = MultiProcessor(db, PATH)
                    self.assertTrue(processor.processNext() and processor.processNext())
                    with db.transaction() as connection:
                        service = connection.root()['Application']['TaskService']
                        self.assertEqual([service.getResult(jobid) for jobid in jobids], [bytesOf(MB), [5, b'0123']])
                        self.assertIs(type(service.jobs[jobids[0]].stored('output')), bytes)


class TestNesting(unittest.TestCase):
    """How deep a value may be is said by us: each Python's pickler goes another way down."""

    def test_the_limit(self):
        for deeper in DEEPER:
            holdsObjects(nested(deeper, NESTING))
            with self.assertRaisesRegex(TooDeep, f'more than {NESTING} deep'):
                holdsObjects(nested(deeper, NESTING + 1))
        key = nested(lambda value: (value,), NESTING)
        with self.assertRaises(TooDeep):
            holdsObjects({key: 1})
        with self.assertRaises(TooDeep):
            holdsObjects(nested(lambda value: frozenset([value]), NESTING + 1))

    def test_what_is_no_deeper(self):
        holdsObjects(Secretive(nested(DEEPER[0], 100000)))
        holdsObjects([File] * 1000)
        shared = nested(lambda value: [value, value], NESTING)          # 2 ** NESTING paths lead down
        holdsObjects(shared)
        circle = []
        circle.append(circle)
        holdsObjects(circle)

    def test_what_fits_can_be_pickled(self):
        def within(frames):
            return within(frames - 1) if frames else [pickle.dumps(nested(deeper, NESTING)) for deeper in DEEPER]

        within(300)                     # the caller's own calls count as well in some Pythons

    def test_inputs(self):
        self.addCleanup(zope.component.testing.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='echo')
        service = TaskService()
        fits, tooDeep = nested(DEEPER[0], NESTING), nested(DEEPER[2], 20000)
        jobid = service.add('echo', fits)
        schedule = service.addCronJob('echo', fits, minute=(1,))
        for add in (lambda: service.add('echo', tooDeep), lambda: service.addMany([{'task': 'echo', 'input': tooDeep}]),
                    lambda: service.addCronJob('echo', tooDeep, minute=(1,))):
            with self.assertRaisesRegex(InvalidInput, f'more than {NESTING} deep'):
                add()
        self.assertEqual(len(service.jobs), 2)
        service.process(0)
        self.assertEqual(service.getStatus(jobid), 'completed')
        self.assertTrue(service.jobs[schedule].input)


class TestFile(unittest.TestCase):

    def test_what_can_be_one(self):
        for source in (None, 5, io.StringIO('text')):
            with self.assertRaises(TypeError):
                File(source)

    def test_a_file_object_that_is_given_away_is_closed(self):
        for move in False, True:
            source = io.BytesIO(b'0123')
            self.assertEqual(storedfiles.toStore(File(source, move=move), None).read(), b'0123')
            self.assertEqual(source.closed, move)

    def test_a_file_object_counts_from_where_it_stands_each_time(self):
        source = io.BytesIO(b'0123456789')
        source.seek(4)
        file = File(source)
        for _ in range(2):
            self.assertEqual((file.size, file.open().read()), (6, b'456789'))
        with file.open():
            pass
        self.assertFalse(source.closed)

    def test_what_cannot_be_read(self):
        with tempfile.TemporaryDirectory() as directory:
            with self.assertRaisesRegex(files.Unreadable, 'no regular file'):
                File(directory).open()
            with self.assertRaisesRegex(files.Unreadable, 'file .*/gone cannot be read: No such file') as caught:
                File(directory + '/gone').open()
        self.assertEqual(str(pickle.loads(pickle.dumps(caught.exception))), str(caught.exception))

    def test_what_is_looked_at_closely(self):
        cyclic = []
        cyclic.append(cyclic)
        for value, expected in (
                (None, False), (5, False), ('x' * 1000, False), ({'a': [1, (2, 'x')]}, False),
                ('x' * (LARGE + 1), True), (b'x' * (LARGE + 1), True), ({'a': [b'x' * LARGE]}, True),
                (list(range(LARGE)), True),
                ([File(io.BytesIO())], True), (cyclic, True), (object(), False), (dict.fromkeys(range(LARGE)), True)):
            self.assertIs(storedfiles._isSpecial(value), expected)
        self.assertIs(storedfiles.toStore(cyclic, None), cyclic)


class BlobCase(ProcessorCase):
    """A service in a FileStorage with blobs."""

    def storageFactory(self, path):
        self.directory = pathlib.Path(path).parent
        return FileStorage(path, blob_dir=str(self.directory / 'blobs'))

    def setUp(self):
        super().setUp()
        self.provide('echo', lambda input: input)
        self.provide('open', openInput)

    def run1(self, *arguments, **keywords):
        """Add a job, have it run by a started processor, and return it."""
        jobid = self.add(*arguments, **keywords)
        waitForJobs(self.service, [jobid])
        return self.service.jobs[jobid]

    def write(self, name, data):
        path = self.directory / name
        path.write_bytes(data)
        return path

    def blobs(self):
        return sorted(path.stat().st_size for path in (self.directory / 'blobs').rglob('*.blob'))

    def leftovers(self):
        gc.collect()                    # a traceback may hold a blob that was not committed
        return list((self.directory / 'blobs' / 'tmp').iterdir())


class TestBlobs(BlobCase):

    level = 2

    def test_round_trips(self):
        self.start()
        before = (self.directory / 'Data.fs').stat().st_size
        for value, kind in ((bytesOf(20 * MB), 'bytes'), ('\u20ac\ud800\n' * 3 * MB, 'text'),
                            ({'a': [bytesOf(MB), 'b' * MB], 'c': (1, None)}, 'pickle'),
                            (list(range(100000)), 'pickle')):
            with self.subTest(kind=kind):
                job = self.run1('echo', value)
                self.assertEqual(job.status, 'completed', job.error)
                self.assertEqual([job.stored(name).kind for name in ('input', 'output')], [kind] * 2)
                self.assertTrue(job.input == value and job.output == value)
                self.assertTrue(self.service.getResult(job.id) == value)
        self.assertLess((self.directory / 'Data.fs').stat().st_size - before, 200000)
        self.assertEqual(len(self.blobs()), 8)
        self.assertEqual(self.leftovers(), [])

    def test_small_values_stay_in_the_row(self):
        self.start()
        for value in (None, b'x' * 1000, 'text', {'a': [1, 2]}):
            job = self.run1('echo', value)
            self.assertEqual((job.stored('input'), job.stored('output')), (value, value))
            self.assertNotIn(BESIDE, (job.row.input, job.row.output))
        self.assertEqual(self.blobs(), [])

    def test_files(self):
        self.start()
        path = self.write('film', bytesOf(5 * MB))
        for source in (path, str(path), open(path, 'rb')):
            job = self.run1('open', File(source))
            self.assertEqual((job.output, job.input.size), ([5 * MB, bytesOf(4096)[:4]], 5 * MB))
        source.close()
        with open(path, 'rb') as file:
            self.provide('film', lambda input: {'status': 0, 'film': File(file)})
            job = self.run1('film')
        self.assertEqual((job.output['status'], job.output['film'].size), (0, 5 * MB))
        with job.output['film'].open() as file:
            self.manager.commit()               # it may be read after the transaction
            self.assertEqual(file.read(), bytesOf(5 * MB))
        self.assertEqual(repr(job.output['film']), f'<StoredFile of {5 * MB} bytes>')
        # The input of another job, as it is: nothing is copied.
        self.assertEqual(self.run1('open', job.output['film']).output[0], 5 * MB)
        self.assertEqual(len(self.blobs()), 4)

    def test_a_file_that_is_moved(self):
        self.start()
        path = self.write('film', b'film')
        inode = path.stat().st_ino
        job = self.run1('open', File(path, move=True))
        self.assertEqual(job.output, [4, b'film'])
        self.assertFalse(path.exists())
        with job.input.open() as file:
            self.assertEqual(os.fstat(file.fileno()).st_ino, inode)
        self.assertEqual(len(self.blobs()), 1)

    def test_a_file_that_is_not_there(self):
        self.start()
        with self.assertRaisesRegex(InvalidInput, 'input: the file /nowhere/film cannot be read: No such file'):
            self.service.add('echo', File('/nowhere/film'))
        self.provide('lost', lambda input: File('/nowhere/film'))
        job = self.run1('lost')
        self.assertEqual((job.status, job.error, job.failedAttempts),
                         ('error', 'the file /nowhere/film cannot be read: No such file or directory', 1))

    def test_references_to_the_database_stay_references(self):
        self.start()
        provideUtility(_Data(), ITask, 'data')
        job = self.run1('data')
        self.assertIs(job.output[0], self.data)

    def test_retry_with_a_large_input(self):
        self.start()
        attempts = []

        def fail(input):
            attempts.append((len(input), hashlib.md5(input).digest()))
            if len(attempts) < 3:
                raise OSError('not yet')
            return input

        self.provide('fail', fail, retryPolicy=RetryPolicy(attempts=2, base=0.01, jitter=0))
        data = bytesOf(3 * MB)
        job = self.run1('fail', data)
        self.assertEqual((job.status, len(attempts), len(set(attempts))), ('error', 2, 1))
        self.service.retry(job.id)
        self.manager.commit()
        waitForJobs(self.service, [job.id])
        self.assertEqual((job.status, job.output == data), ('completed', True))

    def test_a_repeated_run_gives_its_file_once_more(self):
        path, runs = self.write('film', bytesOf(MB)), []
        shared = File(open(path, 'rb'))                         # read by the first attempt
        self.addCleanup(shared._source.close)

        class Film:
            inputSchema = outputSchema = Interface

            def __call__(task, service, jobid, input):
                service.data['runs'] = len(runs)
                runs.append(jobid)
                if len(runs) == 1:
                    with self.db.transaction() as connection:
                        connection.root()['Application']['TaskService'].data['other'] = True
                return shared

        provideUtility(Film(), ITask, 'film')
        self.start()
        job = self.run1('film')
        self.assertEqual((job.status, len(runs), job.output.size), ('completed', 2, MB))
        self.assertEqual(job.output.read(), bytesOf(MB))
        self.assertEqual((self.blobs(), self.leftovers()), ([MB], []))

    def test_the_result_of_a_cancelled_job_is_not_stored(self):
        begun, go = threading.Event(), threading.Event()

        def work(input):
            begun.set()
            go.wait(PATIENCE)
            return bytesOf(MB)

        self.provide('work', work)
        processor = self.start()
        jobid = self.add('work')
        self.assertTrue(begun.wait(PATIENCE))
        self.manager.begin()
        self.service.cancel(jobid)
        self.manager.commit()
        go.set()
        self.assertTrue(processor.stop(PATIENCE))
        self.assertEqual((self.blobs(), self.leftovers()), ([], []))

    def test_pack_removes_what_no_job_has(self):
        self.start()
        job = self.run1('echo', bytesOf(MB))
        self.assertEqual(self.blobs(), [MB, MB])
        self.service.clean()
        self.manager.commit()
        self.db.pack()
        self.assertEqual(self.blobs(), [])
        self.assertNotIn(job.id, self.service.jobs)

    def test_a_claim_carries_no_large_input(self):
        jobid = self.add('echo', bytesOf(MB))
        self.connection.cacheMinimize()
        claim = claimNext(self.service, 0)
        self.assertEqual(claim.jobid, jobid)
        self.assertIs(claim.input, BESIDE)

    def test_schedules(self):
        data = bytesOf(MB)
        jobid = self.service.addCronJob('echo', data, minute=(0,), now=0, newJobs=True)
        again = self.service.addCronJob('open', File(io.BytesIO(b'film')), minute=(0,), now=0)
        self.manager.commit()
        runDueJobs(self.service, 0)
        runDueJobs(self.service, 3600)
        schedule = self.service.jobs[jobid]
        new = self.service.jobs[schedule.lastJob]
        self.assertTrue(new.output == data)
        self.assertIs(new.stored('input'), schedule.stored('input'))
        self.assertEqual(self.service.getResult(again), [4, b'film'])
        schedule.input = bytesOf(MB, 1)
        self.assertTrue(schedule.input == bytesOf(MB, 1) and new.input == data)
        self.manager.commit()
        self.assertEqual(len(self.blobs()), 4)

    def test_in_the_transaction_of_the_caller(self):
        jobid = self.service.add('echo', bytesOf(MB))
        other = self.service.add('open', File(io.BytesIO(b'film')))
        self.provide('child', sizeInChild, isolation='process')
        child = self.service.add('child', File(io.BytesIO(b'film')))
        self.manager.get().savepoint()
        self.assertEqual(runDueJobs(self.service), 3)
        self.assertTrue(self.service.getResult(jobid) == bytesOf(MB))
        self.assertEqual(self.service.getResult(other), [4, b'film'])
        self.assertEqual(self.service.getResult(child), [4, 'File'])
        self.manager.commit()
        self.assertTrue(self.service.getResult(jobid) == bytesOf(MB))

    def test_child_processes(self):
        self.start()
        self.provide('size', sizeInChild, isolation='process')
        self.provide('film', fileFromChild, isolation='process')
        path = self.directory / 'new'
        first, second = self.run1('size', File(io.BytesIO(bytesOf(MB)))), self.run1('film', str(path))
        self.assertEqual((first.output, first.error), ([MB, 'File'], None))
        self.assertEqual((second.output.read(), path.exists()), (b'from the child', False))

    def test_records_are_small(self):
        jobid = self.add('echo', bytesOf(MB))
        job = self.service.jobs[jobid]
        pages = self.service.shards[jobid >> BITS].pages
        data, _ = self.connection._storage.load(pages.page(jobid)._p_oid)
        self.assertLess(len(data), 400)
        self.assertEqual(referencesf(data), [])
        data, _ = self.connection._storage.load(pages._values['input'][jobid]._p_oid)
        self.assertLess(len(data), 400)
        self.assertEqual(referencesf(data), [job.stored('input')._p_oid])


class _Data:
    inputSchema = outputSchema = Interface

    def __call__(self, service, jobid, input):
        return [service.data, 'x' * MB]


class TestMethods(BlobCase):
    """What the front end answers."""

    def setUp(self):
        super().setUp()
        self.provide('give', lambda input: {'text': '\u20ac' * LARGE, 'small': b'0123', 'file': File(io.BytesIO(
            bytesOf(3 * MB))), 'none': None, 'dict': {'a': 'x' * MB}, 'huge': File(io.BytesIO(bytes(RESULT_SIZE + 1)))
            }[input])

    def job(self, input):
        jobid = self.service.add('give', input)
        runDueJobs(self.service)
        self.manager.commit()
        return jobid

    def call(self, name, *values):
        _, arguments = calls.prepare(name, values)
        return plain(methods.FUNCTIONS[name](self.service, *arguments))

    def test_get_result(self):
        self.assertEqual(self.call('getResult', self.job('text')), '\u20ac' * LARGE)
        self.assertTrue(self.call('getResult', self.job('file')) == bytesOf(3 * MB))
        self.assertEqual(self.call('getResult', self.job('dict')), {'a': 'x' * MB})

    def test_too_large(self):
        jobid = self.job('huge')
        with mock.patch.object(StoredFile, 'open', side_effect=AssertionError('loaded')):
            with self.assertRaises(ResultTooLarge):
                self.call('getResult', jobid)
            with self.assertRaises(ResultTooLarge):
                plain([self.service.getResult(jobid)])
        self.assertEqual(self.call('getResultPart', jobid, float(RESULT_SIZE - 1)), b'\0\0')

    def test_parts(self):
        jobid = self.job('file')
        data = b''.join(self.call('getResultPart', jobid, start) for start in range(0, 4 * MB, MB))
        self.assertTrue(data == bytesOf(3 * MB))
        self.assertEqual(self.call('getResultPart', jobid, 4096, 10), bytesOf(MB)[:10])
        self.assertEqual(self.call('getResultPart', jobid, 2 ** 40), b'')
        self.assertEqual(self.call('getResultPart', self.job('small'), 1, 2), b'12')
        self.assertEqual(self.call('getResultPart', self.job('text'), 0, 3).decode(), '\u20ac')
        for input in ('none', 'dict'):
            with self.assertRaisesRegex(NoFile, 'is completed and has no result that can be read in parts'):
                self.call('getResultPart', self.job(input))
        with self.assertRaisesRegex(NoFile, 'is queued'):
            self.call('getResultPart', self.service.add('give', 'file'))
        for start, size in ((-1, 5), (0.5, 5), (float('inf'), 5), (0, 0), (0, MB + 1)):
            with self.assertRaises(BadArguments):
                self.call('getResultPart', jobid, start, size)


TASKS = """\
import hashlib
import os
import tempfile
import time

from lovely.remotetask.files import File

HERE = os.path.dirname(os.path.abspath(__file__))


def slow(input):
    open(os.path.join(HERE, 'begun'), 'w').close()
    while not os.path.exists(os.path.join(HERE, 'go')):
        time.sleep(0.01)
    return film(input)


def echo(input):
    return input


def measure(input):
    digest = hashlib.md5()
    with input.open() as file:
        while data := file.read(1024 * 1024):
            digest.update(data)
    return digest.hexdigest()


def film(input):
    file = tempfile.TemporaryFile()
    for _ in range(input):
        file.write(b'film' * 256 * 1024)
    file.seek(0)
    return File(file)
"""


def peakMemory(process):
    """Return the most memory that a process has used, in bytes."""
    return int(re.search(r'VmHWM:\s+(\d+) kB', pathlib.Path(f'/proc/{process.pid}/status').read_text())[1]) * 1024


@unittest.skipUnless(os.path.exists('/proc/self/status'), 'there is no /proc')
class TestProcesses(DeploymentCase):
    """A front end and a processing host, over ZEO."""

    level = 2

    shared = True
    hostNames = 'host',
    handlers = {name: name for name in ('echo', 'measure', 'film', 'slow')}
    tasks = TASKS
    frontendKeys = 'max-body-size 32MB'

    def setUp(self):
        self.addCleanup(zope.component.testing.tearDown)
        super().setUp()
        self.host, = self.hosts
        for name in 'echo', 'measure', 'film':
            provideUtility(SimpleTask(len), name=name)
        self.connection = self.server.database().open()
        self.addCleanup(self.connection.close)
        self.addCleanup(transaction.abort)
        self.service = self.connection.root()['Application']['TaskService']
        self.proxy = xmlrpc.client.ServerProxy(self.url, allow_none=True, use_builtin_types=True)
        self.addCleanup(self.proxy('close'))

    def databaseOf(self, name):
        database = super().databaseOf(name)
        if self.shared:
            return database
        database = database.replace('shared-blob-dir yes', '').replace(
            f'blob-dir {self.directory}/blobs', f'blob-dir {self.directory}/cache-{name}')
        self.assertIn('cache', database)
        return database

    def add(self, *arguments):
        jobid = self.service.add(*arguments)
        transaction.commit()
        return jobid

    def ended(self, jobid):
        # What the front end has committed comes a moment later.
        waitUntil(lambda: transaction.abort() or jobid in self.service.jobs)
        self.assertEqual(waitForJobs(self.service, [jobid], PATIENCE), ['completed'],
                         self.service.getError(jobid) + ''.join(self.host.said))
        return self.service.jobs[jobid]

    def test_round_trip(self):
        data = bytesOf(20 * MB)
        job = self.ended(self.add('echo', data))
        self.assertTrue(job.output == data)
        self.assertEqual(job.stored('output').kind, 'bytes')
        self.assertLess((self.directory / 'Data.fs').stat().st_size, 2 * MB)
        # Over XML-RPC.
        data = bytesOf(6 * MB, 1)
        job = self.ended(self.proxy.add('echo', data))
        self.assertEqual(job.stored('input').size, 6 * MB)
        self.assertTrue(self.proxy.getResult(job.id) == data)
        self.assertLess((self.directory / 'Data.fs').stat().st_size, 2 * MB)

    def test_the_result_of_a_cancelled_job_is_not_stored(self):
        jobid = self.proxy.add('slow', 5)
        path = self.directory / 'begun'
        waitUntil(path.exists)
        self.proxy.cancel(jobid)
        (self.directory / 'go').touch()
        self.assertEqual(self.host.end(), 0)
        self.assertEqual(list((self.directory / 'blobs').rglob('*.blob')), [])

    def test_memory(self):
        short = self.ended(self.proxy.add('film', 1))
        before = peakMemory(self.host), peakMemory(self.frontend)
        job = self.ended(self.proxy.add('film', 100))
        self.assertEqual(job.output.size, 100 * MB)
        other = self.add('measure', job.output)
        self.assertEqual(self.ended(other).output, hashlib.md5(b'film' * 25 * MB).hexdigest())
        with self.assertRaisesRegex(xmlrpc.client.Fault, '107'):
            self.proxy.getResult(job.id)
        path = self.directory / 'film.avi'
        self.assertEqual(main.run(['result', '--url', self.url, str(job.id), '--output', str(path)]), 0)
        self.assertEqual((path.stat().st_size, path.read_bytes()[-4:]), (100 * MB, b'film'))
        self.assertFalse(path.with_suffix('.avi.part').exists())
        # What is no file, and what cannot be written.
        for jobid, place in (self.ended(self.add('echo', {'a': 1})).id, 'new'), (job.id, 'nowhere/new'):
            with contextlib.redirect_stderr(io.StringIO()) as errors:
                self.assertEqual(main.run(['result', '--url', self.url, str(jobid), '--output',
                                           str(self.directory / place)]), 1)
            self.assertRegex(errors.getvalue(), 'no result that can be read in parts|cannot write .*: No such file')
            self.assertFalse((self.directory / place).exists())
        with tempfile.TemporaryFile('w+') as output, contextlib.redirect_stdout(output):
            self.assertEqual(main.run(['result', '--url', self.url, str(short.id), '--output', '-']), 0)
            self.assertEqual(output.seek(0, os.SEEK_END), MB)
        growth = [(peak - start) // MB for peak, start in
                  zip((peakMemory(self.host), peakMemory(self.frontend)), before)]
        self.assertLess(max(growth), 60, growth)
        if os.environ.get('SHOW_GROWTH'):
            print(f'growth in MB of host and front end: {growth}')


class TestProcessesWithCaches(TestProcesses):
    """The same when the blobs go over the network, into a cache of each process."""

    shared = False


if __name__ == '__main__':
    unittest.main()
