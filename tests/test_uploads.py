"""Files that callers send in parts before they add a job: over XML-RPC, by the client, by the command line."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import hashlib
import io
import os
import pathlib
import signal
import threading
import unittest
from unittest import mock
from urllib.parse import urlsplit

import transaction
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError
from zope.component import provideUtility
from zope.interface import Interface
from zope.schema import Int

from accesscase import AccessCase
from commands import runCommand
from deployment import DeploymentCase
from lovely.remotetask import errors
from lovely.remotetask.cli import main
from lovely.remotetask.client import Client
from lovely.remotetask.client import File
from lovely.remotetask.client import HttpError
from lovely.remotetask.client import sending
from lovely.remotetask.config.limits import Limits
from lovely.remotetask.database.joinedfiles import joined
from lovely.remotetask.database.storedfiles import StoredFile
from lovely.remotetask.execution.command import CommandTask
from lovely.remotetask.files import CHUNK
from lovely.remotetask.files import Unreadable
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.storage import uploads
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import runDueJobs
from lovely.remotetask.xmlrpc import calls
from lovely.remotetask.xmlrpc import faults
from lovely.remotetask.xmlrpc import methods
from lovely.remotetask.xmlrpc.faults import BadArguments
from lovely.remotetask.xmlrpc.results import plain
from servercase import WAIT
from servercase import ServerCase
from test_ffmpeg import SITE
from test_ffmpeg import makeFilm
from test_ffmpeg import probe
from test_files import PATH
from test_files import TASKS
from test_files import BlobCase
from test_files import bytesOf
from test_files import peakMemory
from test_files import sizeInChild
from waits import PATIENCE


class TestJoined(unittest.TestCase):
    """Many files, read as one."""

    def setUp(self):
        self.opened = []
        parts = []
        for data in b'01234', b'5', b'6789':
            parts.append((sum(len(part.getvalue()) for _, part in parts), io.BytesIO(data)))
        self.file = joined([(start, lambda part=part: self.open(part)) for start, part in parts], 10)

    def open(self, part):
        self.opened.append(io.BytesIO(part.getvalue()))
        return self.opened[-1]

    def test_reading(self):
        for start in range(12):
            for size in range(12):
                self.file.seek(start)
                self.assertEqual(self.file.read(size), b'0123456789'[start:start + size])
                self.assertEqual(self.file.tell(), max(start, min(10, start + size)))
        self.assertEqual((self.file.seek(-3, os.SEEK_END), self.file.read()), (7, b'789'))
        self.assertEqual((self.file.seek(-5, os.SEEK_CUR), self.file.readline()), (5, b'56789'))
        with self.assertRaises(ValueError):
            self.file.seek(-1)
        with self.assertRaises(io.UnsupportedOperation):
            self.file.write(b'x')

    def test_one_is_open_at_a_time(self):
        self.assertEqual(self.file.read(), b'0123456789')
        self.assertEqual([file.closed for file in self.opened], [True, True, False])
        self.file.close()
        self.assertTrue(self.opened[-1].closed)

    def test_a_part_that_lacks_bytes(self):
        with self.assertRaisesRegex(OSError, 'the part of the file at 0 ends too early'):
            joined([(0, lambda: io.BytesIO(b'ab'))], 5).read(5)


def lookAt(input):
    """A task for a file: its size, all of it, and a part that is read at another place."""
    with input['films'][0].open() as file:
        data = file.read()
        file.seek(2)
        return [input['films'][0].size, data, file.read(3)]


class IOddNumber(Interface):

    number = Int(min=1)


class UploadCase(BlobCase):
    """Calls the methods as the front end does, in a transaction each."""

    def setUp(self):
        super().setUp()
        self.provide('look', lookAt)
        self.provide('odd', len, inputSchema=IOddNumber)

    def call(self, name, *values, user='ann'):
        method, arguments = calls.prepare(name, values)
        arguments += [None] * method.traced + [user] * method.takesUser
        try:
            return plain(methods.FUNCTIONS[name](self.service, *arguments))
        finally:                        # as the gateway does, also after a refusal
            self.manager.commit()

    def upload(self, *parts, task='look', size=None, user='ann'):
        """Send the parts of a file; return the id of the upload."""
        upload, start = self.call('addUpload', task, size, user=user), 0
        for part in parts:
            start = self.call('putUpload', upload, start, part, user=user)
        return upload

    def addFilm(self, upload, user='ann', **options):
        return self.call('add', 'look', {'films': [upload, 'x']}, False, {'uploads': [upload], **options}, user=user)

    def resultOf(self, jobid):
        runDueJobs(self.service)
        self.manager.commit()
        self.assertEqual(self.service.getError(jobid), 'None')
        return self.service.getResult(jobid)


class TestUploads(UploadCase):

    def test_a_file_in_parts(self):
        jobid = self.addFilm(self.upload(b'0123', b'45', b'678'))
        film = self.service.jobs[jobid].input['films'][0]
        self.assertEqual((type(film), film.size, film.value), (StoredFile, 9, film))
        self.assertEqual(self.resultOf(jobid), [9, b'012345678', b'234'])
        self.assertEqual([film.read(*place) for place in ((0, 0), (3, 2), (5, 100), (4, 1), (9, 1), (100, 1), (2,))],
                         [b'', b'34', b'5678', b'4', b'', b'', b'2345678'])
        self.assertEqual((self.blobs(), self.leftovers(), len(self.service.uploads)), ([2, 3, 4], [], 0))
        # It can be the input of another job.
        self.assertEqual(self.resultOf(self.service.add('look', {'films': [film]}))[1], b'012345678')
        # With the jobs it goes.
        self.service.clean()
        self.manager.commit()
        self.db.pack()
        self.assertEqual(self.blobs(), [])

    def test_it_can_be_read_when_the_transaction_is_over(self):
        jobid = self.addFilm(self.upload(b'0123', b'45'))
        self.connection.cacheMinimize()
        film = self.service.jobs[jobid].input['films'][0]
        with film.open() as file:
            self.assertEqual([part._p_changed for part in film.parts.values()], [None, None])   # or got it
            self.manager.commit()
            self.connection.cacheMinimize()
            self.connection.close()
            self.assertEqual(file.read(), b'012345')
        self.connection = self.db.open(self.manager)

    def test_of_one_part_and_of_none(self):
        film = self.service.jobs[self.addFilm(self.upload(b'0123'))].input['films'][0]
        self.assertEqual((film.parts, film.size, film.read()), (None, 4, b'0123'))
        self.assertEqual(self.resultOf(self.addFilm(self.upload())), [0, b'', b''])

    def test_parts_come_in_order_and_may_come_again(self):
        upload = self.upload(b'0123', b'4567')
        for start, data in ((0, b'0123'), (4, b'4567'), (4.0, b'4567')):
            self.assertEqual(self.call('putUpload', upload, start, data), 8.0)
        for start, data in ((0, b'012x'), (0, b'012'), (0, b'01234'), (1, b'123'), (7, b'78'), (4, b'45678'), (9, b'x'),
                            (2 ** 52, b'x')):
            with self.assertRaisesRegex(BadArguments, f'putUpload: start: the next part begins at 8, not at {start},'):
                self.call('putUpload', upload, start, data)
        for start in -1, 0.5, 2.0 ** 53, float('inf'), float('nan'):
            with self.assertRaisesRegex(BadArguments, 'putUpload: start must be a whole number'):
                self.call('putUpload', upload, start, b'x')
        for data in b'', b'x' * (CHUNK + 1):
            with self.assertRaisesRegex(BadArguments, 'putUpload: data: a part has 1 to 1048576 bytes'):
                self.call('putUpload', upload, 8, data)
        self.assertEqual(self.resultOf(self.addFilm(upload))[1], b'01234567')

    def test_of_two_that_send_a_part_at_the_same_time_one_is_told_to_look_again(self):
        upload = self.upload(b'0123')
        manager = transaction.TransactionManager()
        with contextlib.closing(self.db.open(manager)) as connection:
            other = connection.root()['Application']['TaskService']
            uploads.append(other, 'ann', upload, 4, b'45', 1.0)
            self.call('putUpload', upload, 4, b'45')
            with self.assertRaises(ConflictError):
                manager.commit()
            manager.abort()
            self.assertEqual(uploads.append(other, 'ann', upload, 4, b'45', 1.0), 6)
            with self.assertRaisesRegex(ValueError, 'another part has come'):
                uploads.append(other, 'ann', upload, 4, b'xy', 1.0)
            manager.abort()

    def test_of_two_jobs_that_take_it_at_the_same_time_one_does(self):
        with mock.patch.multiple(uploads, USER_UPLOADS=1000):       # so that the tree has more buckets than one
            others = [self.upload() for _ in range(200)]
            upload = self.upload(b'0123')
        manager = transaction.TransactionManager()
        with contextlib.closing(self.db.open(manager)) as connection:
            other = connection.root()['Application']['TaskService']
            methods.add(other, 'look', {'films': [upload]}, False, {'uploads': [upload]}, user='ann')
            uploads.drop(other, 'ann', others[7])
            self.addFilm(upload)
            with self.assertRaises(ConflictError):
                manager.commit()
            manager.abort()
            with self.assertRaises(errors.UnknownUpload):
                methods.add(other, 'look', {'films': [upload]}, False, {'uploads': [upload]}, user='ann')

    def test_it_is_the_users(self):
        upload = self.upload(b'0123')
        for user in 'bob', None:
            with self.assertRaises(errors.UnknownUpload):
                self.call('putUpload', upload, 4, b'45', user=user)
            with self.assertRaises(errors.UnknownUpload):
                self.addFilm(upload, user=user)
            self.assertFalse(self.call('dropUpload', upload, user=user))
        self.assertEqual(self.call('putUpload', upload, 4, b'45'), 6.0)
        self.assertTrue(self.call('dropUpload', upload))
        self.assertFalse(self.call('dropUpload', upload))

    def test_one_that_is_not_complete(self):
        upload = self.upload(b'0123', size=6)
        with self.assertRaisesRegex(BadArguments, 'add: uploads: 4 bytes have come of one that is to have 6'):
            self.addFilm(upload)
        with self.assertRaisesRegex(BadArguments, 'the upload may have 6 bytes, as was said when it began'):
            self.call('putUpload', upload, 4, b'456')
        self.call('putUpload', upload, 4.0, b'45')
        self.assertEqual(self.resultOf(self.addFilm(upload))[1], b'012345')
        for size in -1, 0.5, 2.0 ** 53:
            with self.assertRaisesRegex(BadArguments, 'addUpload: size must be a whole number'):
                self.call('addUpload', 'look', size)

    def test_a_job_takes_it_and_no_other_gets_it(self):
        upload = self.upload(b'0123')
        self.addFilm(upload)
        with self.assertRaisesRegex(errors.UnknownUpload, f"there is no upload '{upload}': a job has taken it"):
            self.addFilm(upload)
        with self.assertRaises(errors.UnknownUpload):
            self.call('putUpload', upload, 4, b'4')
        # Jobs that are added together share it.
        upload = self.upload(b'01', b'23')
        job = {'task': 'look', 'input': {'films': [upload]}, 'uploads': [upload]}
        first, second = self.call('addMany', [job, job])
        self.assertIs(*(self.service.jobs[jobid].input['films'][0] for jobid in (first, second)))
        self.assertEqual([self.resultOf(jobid)[1] for jobid in (first, second)], [b'0123', b'0123'])

    def test_add_with_a_key_can_be_repeated(self):
        upload, other = self.upload(b'0123'), self.upload(b'4567')
        jobid = self.addFilm(upload, key='order 7')
        self.assertEqual(self.addFilm(upload, key='order 7'), jobid)
        job = {'task': 'look', 'input': {'films': [upload]}, 'uploads': [upload], 'key': 'order 7'}
        third, fourth = self.call('addMany', [job, {**job, 'key': 'order 8', 'input': {'films': [other]},
                                                    'uploads': [other]}])
        self.assertEqual((third, self.resultOf(fourth)[1]), (jobid, b'4567'))
        # What was sent for a job that is there already is of no use.
        self.assertEqual(self.addFilm(self.upload(b'89'), key='order 7'), jobid)
        self.assertEqual(len(self.service.uploads), 0)

    def test_an_add_that_is_refused_leaves_it(self):
        upload = self.upload(b'0123')
        options = {'uploads': [upload]}
        for name, input, given, kind, sentence in (
                ('odd', {'number': upload}, options, errors.InvalidInput, 'number'),
                ('nope', {'films': [upload]}, options, errors.UnknownTask, 'nope'),
                ('look', {'films': [upload]}, {**options, 'timeLimit': -1}, BadArguments, 'timeLimit'),
                ('look', {'films': ['other']}, options, BadArguments, f"uploads: '{upload}' does not stand in the inp"),
                ('look', {upload: 1}, options, BadArguments, 'does not stand in the input'),
                ('look', {'films': [upload]}, {'uploads': [upload, 'x']}, errors.UnknownUpload, "'x'"),
                ('look', {'films': [upload]}, {'uploads': upload}, BadArguments, 'an array of strings is needed'),
                ('look', {'films': [upload]}, {'uploads': {}}, BadArguments, 'an array of strings is needed'),
                ('look', {'films': [upload]}, {'uploads': ''}, BadArguments, 'an array of strings is needed'),
                ('look', {'films': [upload]}, {'uploads': False}, BadArguments, 'an array of strings is needed'),
                ('look', {'films': [upload]}, {'uploads': [[]]}, BadArguments, 'an array of strings is needed')):
            with self.assertRaisesRegex(kind, sentence):
                self.call('add', name, input, False, given)
            with self.assertRaisesRegex(kind, sentence):
                self.call('addMany', [{'task': 'look', 'input': {'films': [upload]}, 'uploads': [upload]},
                                      {'task': name, 'input': input, **given}])
        self.assertEqual(len(self.service.jobs), 0)
        self.assertEqual(self.resultOf(self.addFilm(upload))[1], b'0123')
        with self.assertRaises(errors.UnknownTask):
            self.call('addUpload', 'nope')

    def test_how_many_there_may_be(self):
        mine = [self.upload(b'0123') for _ in range(2)]
        others = self.upload(b'0123', user='bob')
        for names, limit, function in (
                ('USER_UPLOADS ALL_UPLOADS', '2 uploads wait for their jobs; one user may have 2', self.upload),
                ('ALL_UPLOADS', '3 uploads wait for their jobs; all users may have 2', self.upload),
                ('USER_SIZE ALL_SIZE', 'uploads with 8 bytes .* and there are 1 more; one user may have 2',
                 lambda: self.call('putUpload', mine[0], 4, b'4')),
                ('ALL_SIZE', 'with 12 bytes .* all users may have 2', lambda: self.call('putUpload', mine[0], 4, b'4')),
                ('ALL_SIZE', 'with 12 bytes .* all users may have 2', lambda: self.call('addUpload', 'look', 1))):
            with mock.patch.multiple(uploads, **dict.fromkeys(names.split(), 2)):
                with self.assertRaisesRegex(errors.TooManyUploads, limit):
                    function()
        with mock.patch.multiple(uploads, USER_UPLOADS=2, USER_SIZE=9):
            self.call('putUpload', others, 4, b'4', user='bob')
            self.call('putUpload', mine[0], 4, b'4')
            self.addFilm(mine[0])
            self.upload(b'0123')

    def uploadTwo(self):
        """Send two files; return the ids of the uploads, and a clock by which the first one is too old."""
        with mock.patch('time.time', return_value=1000.0):
            old = self.upload(b'0123')
        with mock.patch('time.time', return_value=1001.0):
            new = self.upload(b'0123')
        return old, new, lambda: 1000.5 + uploads.KEPT

    def test_a_host_drops_old_ones(self):
        _, new, clock = self.uploadTwo()
        self.start(clock=clock)
        self.statuses(self.add('echo'))         # it ends in the second pass of the host, and the first one looks
        self.assertEqual(list(self.service.uploads), [('ann', new)])

    def test_old_ones_are_dropped_by_the_scheduler(self):
        old, new, clock = self.uploadTwo()
        processor = MultiProcessor(self.db, PATH, clock=clock)
        processor.cycle.attach()
        self.addCleanup(processor.cycle.close)
        self.assertEqual(processor.cycle.clean({}), 0)
        processor.cycle.iterate(Work())         # it comes to be the scheduler
        self.assertEqual([processor.cycle.clean({}) for _ in range(2)], [1, 0])
        self.manager.begin()
        self.assertEqual(list(self.service.uploads), [('ann', new)])
        with self.assertRaises(errors.UnknownUpload):
            self.addFilm(old)

    def test_schedules(self):
        upload = self.upload(b'01', b'23')
        jobid = self.call('addCronJob', 'look', {'films': [upload]}, [], [], [], [], [], 60.0,
                          {'newJobs': True, 'uploads': [upload]})
        film = self.service.jobs[jobid].input['films'][0]
        self.assertEqual((film.read(), len(self.service.uploads)), (b'0123', 0))

    def test_child_processes(self):
        self.provide('size', sizeInChild, isolation='process')
        upload = self.upload(b'01', b'23', task='size')
        jobid = self.call('add', 'size', upload, False, {'uploads': [upload]})
        self.assertEqual(self.resultOf(jobid), [4, 'File'])

    def test_programs(self):
        program = CommandTask('sh -c "printf %s, $1; dirname $1; cat $1; echo more >> $1" sh {film}', result='file')
        provideUtility(program, ITask, 'program')
        for parts in (b'01', b'23'), (b'0123',), ():
            upload = self.upload(*parts, task='program')
            jobid = self.call('add', 'program', {'film': upload}, False, {'uploads': [upload]})
            path, _, rest = self.resultOf(jobid).read().decode().partition(',')
            self.assertEqual(rest, f'{os.path.dirname(path)}\n{b"".join(parts).decode()}')
            self.assertEqual((os.path.basename(path), os.path.exists(os.path.dirname(path))), ('film', False))
            self.assertEqual(self.service.jobs[jobid].input['film'].read(), b''.join(parts))


class TestUsers(AccessCase):
    """Uploads over HTTP, of users who are limited, or are not."""

    level = 2

    def test_users(self):
        provideUtility(SimpleTask(lambda input: input.read()), name='echo')
        ann, sue, films, vic = map(self.as_, ('ann', 'sue', 'films', 'vic'))
        upload = films.addUpload('echo')
        self.assertEqual(films.putUpload(upload, 0, b'0123'), 4.0)
        for user in ann, sue:
            self.assertFault(faults.UNKNOWN_UPLOAD, 'no upload', user.putUpload, upload, 4, b'4')
            self.assertFault(faults.UNKNOWN_UPLOAD, 'no upload', user.add, 'echo', upload, False, {'uploads': [upload]})
            self.assertFalse(user.dropUpload(upload))
        self.assertRefused(films.addUpload, 'square', reason="you may not use the task 'square'")
        for function, arguments in ((vic.addUpload, ('echo',)), (vic.putUpload, (upload, 4, b'4')),
                                    (vic.dropUpload, (upload,))):
            self.assertRefused(function, *arguments, reason='needs the role submit')
        jobid = films.add('echo', upload, False, {'uploads': [upload]})
        with self.db.transaction() as connection:
            connection.root()['/'].process()
        self.assertEqual(films.getResult(jobid).data, b'0123')


class TestUploadsWithoutBlobs(UploadCase):
    """Where there is no place for blobs the parts are records."""

    storageFactory = FileStorage

    def test_a_file_in_parts(self):
        jobid = self.addFilm(self.upload(b'0123', b'45', b'678'))
        self.assertEqual(self.resultOf(jobid), [9, b'012345678', b'234'])
        with self.service.jobs[jobid].input['films'][0].open() as file:
            self.manager.commit()
            self.assertEqual(file.read(), b'012345678')


def film(input):
    """A task for a film: all of it."""
    with input['film'].open() as file:
        return [input['title'], file.read()]


class ClientCase(ServerCase):
    """A front end that takes small requests only, and a client."""

    limits = Limits(requestTime=WAIT, idleTime=WAIT, bodySize=20_000)
    data = hashlib.shake_128(b'film').digest(100_000)

    def setUp(self):
        super().setUp()
        provideUtility(SimpleTask(film), name='film')
        self.client = self.makeClient()
        self.directory = pathlib.Path(self.storage.getName()).parent
        self.path = self.directory / 'film.avi'
        self.path.write_bytes(self.data)

    def makeClient(self):
        host, port = self.frontend.address
        client = Client(f'http://{host}:{port}/', WAIT)
        self.addCleanup(client.close)
        return client

    def resultOf(self, jobid):
        with self.db.transaction() as connection:
            connection.root()['/'].process()
        with self.db.transaction() as connection:
            return connection.root()['/'].getResult(jobid)

    def left(self):
        with self.db.transaction() as connection:
            return len(connection.root()['/'].uploads)


class TestClient(ClientCase):

    level = 2

    def test_files(self):
        position = io.BytesIO(b'xx' + self.data)
        position.seek(2)
        for file in File(self.path), File(str(self.path)), File(position), File(position):
            self.assertEqual(self.resultOf(self.client.add('film', {'title': 'x', 'film': file})), ['x', self.data])
        with open(self.path, 'rb') as opened:
            self.assertEqual(self.resultOf(self.client.add('film', {'title': 1, 'film': File(opened)})), [1, self.data])
            self.assertFalse(opened.closed)
        first, second = self.client.addMany(
            {'task': 'film', 'input': {'title': number, 'film': File(self.path)}, 'key': key}
            for number, key in enumerate((None, 'order 7')))
        self.assertEqual([self.resultOf(jobid) for jobid in (first, second)], [[0, self.data], [1, self.data]])
        # One that stands in several places is sent once.
        file = File(self.path)
        sendFile = sending.Sending._sendFile
        with mock.patch.object(sending.Sending, '_sendFile', autospec=True, side_effect=sendFile) as sent:
            jobids = self.client.addMany({'task': 'film', 'input': {'title': [file, number], 'film': file}}
                                         for number in range(5))
        self.assertEqual(sent.call_count, 1)
        provideUtility(SimpleTask(lambda input: input['title'][0] is input['film']), name='film')
        self.assertEqual([self.resultOf(jobid) for jobid in jobids], [True] * 5)
        provideUtility(SimpleTask(film), name='film')
        jobid = self.client.addCronJob('film', {'title': 'x', 'film': File(io.BytesIO(b'012'))}, delay=0)
        self.assertEqual(self.resultOf(jobid), ['x', b'012'])
        self.assertEqual(self.left(), 0)

    def test_a_pipe(self):
        reading, writing = os.pipe()

        def write():
            with open(writing, 'wb') as pipe:
                pipe.write(self.data)

        thread = threading.Thread(target=write)
        thread.start()
        with open(reading, 'rb') as pipe:
            self.assertEqual(self.resultOf(self.client.add('film', {'title': 1, 'film': File(pipe)})), [1, self.data])
        thread.join()

    def test_one_that_is_given_away(self):
        with self.assertRaises(errors.UnknownTask):
            self.client.add('nope', File(self.path, move=True))
        self.assertTrue(self.path.exists())
        self.client.add('film', File(self.path, move=True))
        self.assertFalse(self.path.exists())

    def test_what_is_refused_leaves_nothing(self):
        provideUtility(SimpleTask(film, inputSchema=IOddNumber), name='odd')
        file = File(self.path)
        for kind, sentence, task, input in (
                (errors.UnknownTask, 'nope', 'nope', file), (errors.InvalidInput, 'odd|dict', 'odd', [file]),
                (Unreadable, 'No such file', 'film', [file, File('/nowhere/film')]),
                (BadArguments, r"input\[1\]\['x'\] is of the type object", 'film', [file, {'x': object()}])):
            with self.assertRaisesRegex(kind, sentence):
                self.client.add(task, input)
            self.assertEqual(self.left(), 0)

    def test_a_file_that_changes_meanwhile(self):
        class Growing(io.BytesIO):
            def read(self, size=-1):
                data = super().read(size)
                return data and data + b'more'

        class Shrinking(io.BytesIO):
            def read(self, size=-1):
                return b''

        for source, sentence in ((Growing(b'012'), 'may have 3 bytes'),
                                 (Shrinking(b'012'), '0 bytes have come of one')):
            with self.assertRaisesRegex(BadArguments, sentence):
                self.client.add('film', File(source))
            self.assertEqual(self.left(), 0)

    def test_a_file_that_cannot_be_read_to_its_end(self):
        class Failing(io.BytesIO):
            def read(self, size=-1):
                if self.tell():
                    raise OSError(5, 'Input/output error')
                return super().read(10)

        with self.assertRaisesRegex(Unreadable, 'cannot be read: Input/output error'):
            self.client.add('film', File(Failing(self.data)))
        self.assertEqual(self.left(), 0)

    def test_a_front_end_that_takes_next_to_nothing(self):
        with mock.patch.object(sending, 'LEAST_PART_SIZE', 64 * 1024):
            with self.assertRaisesRegex(HttpError, r'413 [A-Z][A-Za-z ]+: The body may have 20000 bytes '
                                                   r'\(max-body-size\); putUpload takes files in parts\Z'):
                self.client.add('film', File(self.path))

    def test_what_would_be_taken_apart(self):
        class Film:
            def __init__(self):
                self.title = 'Metropolis'

        with open(self.path, 'rb') as opened:
            for value, place in (
                    ({'a': [1, opened]}, r"input\['a'\]\[1\] is of the type BufferedReader, .*; hand over File\(...\)"),
                    (Film(), 'input is of the type Film, which XML-RPC cannot carry'),
                    ((1, [Film()]), r'input\[1\]\[0\] is of the type Film'),
                    (ValueError('x'), 'input is of the type ValueError'), ({1: 2}, 'input: the key 1 is no str'),
                    ([2 ** 31], r'input\[0\] is 2147483648, and an int of XML-RPC has 32 bits'),
                    ({'a': '\ud800'}, r"input\['a'\] is '\\ud800'")):
                with self.assertRaisesRegex(BadArguments, r'\Aadd: the arguments cannot be sent: ' + place):
                    self.client.add('echo', value)
            with self.assertRaisesRegex(BadArguments, r"jobs\[0\]\['input'\] is of the type Buff"):
                self.client.addMany([{'task': 'echo', 'input': opened}])
            with self.assertRaisesRegex(BadArguments, r'getStatus: .* jobid is of the type File'):
                self.client.getStatus(File(opened))


class TestCommandLine(ClientCase):

    level = 2

    def run_(self, *arguments):
        """Run `remotetask add`; return the exit code, and what was printed."""
        code, output, errors = runCommand('add', '--url', self.client.url, *arguments)
        return code, output + errors

    def test_files(self):
        for arguments, title in (
                (('--file', f'film={self.path}', '{"title": 5}'), 5),
                (('{"title": null}', '--file', f'film={self.path}', '--key', 'x'), None)):
            code, printed = self.run_('film', *arguments)
            self.assertEqual((code, self.resultOf(int(printed))), (0, [title, self.data]))

    def test_places(self):
        provideUtility(SimpleTask(repr), name='show')
        for input, names, found in (
                ('null', ('',), '{}'), ('null', ('=',), '{}'), ('{"a": [1, null]}', ('a.1=',), '{{a: [1, {}]}}'),
                ('{"x": 1}', ('a.b=', 'c='), '{{x: 1, a: {{b: {}}}, c: {}}}')):
            options = [word for name in names for word in ('--file', f'{name}{self.path}')]
            code, printed = self.run_('show', input, *options)
            self.assertEqual(code, 0, printed)
            stored = '<StoredFile of 100000 bytes>'
            self.assertEqual(self.resultOf(int(printed)).replace("'", ''), found.format(stored, stored))

    def test_what_is_wrong(self):
        for arguments, sentence in (
                (('--file', 'film=/nowhere/film'), "'--file': the file /nowhere/film cannot be read: No such file"),
                (('--file', f'film={self.directory}'), 'no regular file'),
                (('5', '--file', str(self.path)), 'there is 5 already: name a place'),
                (('5', '--file', f'a={self.path}'), "there is no 'a' in 5"),
                (('[1]', '--file', f'1={self.path}'), "there is no item '1' in a list of 1"),
                (('{"a": 1}', '--file', f'a={self.path}'), 'there is 1 already: name a place'),
                (('--file', f'a={self.path}', '--file', f'a.b={self.path}'), "there is no 'b' in <")):
            code, printed = self.run_('film', *arguments)
            self.assertEqual(code, 2, printed)
            self.assertIn(sentence, printed)
        with self.db.transaction() as connection:
            self.assertEqual(len(connection.root()['/'].jobs), 0)


class Pausing(io.BytesIO):
    """A file that has something done before a certain part is read."""

    def __init__(self, data, part, function):
        super().__init__(data)
        self.part, self.function = part, function

    def read(self, size=-1):
        if self.tell() == self.part * CHUNK:
            self.function()
        return super().read(size)


@unittest.skipUnless(os.path.exists('/proc/self/status'), 'there is no /proc')
class TestProcesses(DeploymentCase):
    """A client without a database, a front end and a host with a cache of its own for blobs, a database server."""

    level = 2

    hostNames = 'host',
    handlers = {'measure': 'measure'}
    tasks = TASKS

    def prepareDatabase(self):
        site = SITE.read_text().replace('</configure>', '<remotetask:task name="measure" handler="tasks.measure" />\n'
                                                        '</configure>')
        self.write('site.zcml', site)

    def databaseOf(self, name):
        return super().databaseOf(name).replace('shared-blob-dir yes', '').replace(
            f'blob-dir {self.directory}/blobs', f'blob-dir {self.directory}/cache-{name}')

    def restart(self):
        """Kill the front end, and start one at the same address."""
        self.frontend.end(signal.SIGKILL)
        path = self.directory / 'frontend.conf'
        path.write_text(path.read_text().replace('address 127.0.0.1:0', f'address {urlsplit(self.url).netloc}'))
        self.start('-m', 'lovely.remotetask.cli.main', '-C', str(path), 'frontend').waitFor('ready')

    def test_from_another_machine(self):
        with Client(self.url, 60) as client:
            self.checkMemory(client)
            self.checkFirstExample()
            # A front end that is killed meanwhile, and started anew.
            data = bytesOf(5 * CHUNK + 5)
            jobid = client.add('measure', File(Pausing(data, 3, self.restart)))
            self.assertEqual(client.wait(jobid, PATIENCE), hashlib.md5(data).hexdigest())

    def checkMemory(self, client):
        """Send a file, and see that it is in nobody's memory."""
        client.wait(client.add('measure', File(io.BytesIO(bytesOf(3 * CHUNK)))), 60)
        processes = [self.frontend, *self.hosts, self.server]
        before = [peakMemory(process) for process in processes]
        path = self.directory / 'film'
        with open(path, 'wb') as file:
            for number in range(60):
                file.write(bytesOf(CHUNK, number))
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        self.assertEqual(client.wait(client.add('measure', File(path, move=True)), 60), digest)
        growth = [(peakMemory(process) - start) // CHUNK for process, start in zip(processes, before)]
        self.assertLess(max(growth), 30, growth)

    def checkFirstExample(self):
        film, flash = self.directory / 'film.avi', self.directory / 'film.flv'
        makeFilm(film)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = main.run(['add', '--url', self.url, 'avi2flv', '--file', f'source={film}',
                             '--wait', '--timeout', '60', '--output', str(flash)])
        self.assertEqual(code, 0, said.getvalue())
        self.assertEqual(probe(flash), ('flv', ['audio', 'video']))


if __name__ == '__main__':
    unittest.main()
