"""Lines of the log that say of which run they are."""
# SPDX-License-Identifier: ZPL-2.1
import asyncio
import io
import logging
import unittest

from lovely.remotetask.common.logs import LoggedRun
from lovely.remotetask.common.logs import RunFilter
from lovely.remotetask.common.logs import tellRuns
from lovely.remotetask.storage.transitions import Claim
from processorcase import ProcessorCase


CLAIM = Claim(12, 0, 2, 'encode', None, request='r-1')

log = logging.getLogger('films')


class LogCase(unittest.TestCase):

    def handle(self, format='%(levelname)s %(message)s'):
        """Return a stream to which a handler of the root logger writes that tells the runs."""
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter(format))
        tellRuns(handler)
        tellRuns(handler)
        logging.root.addHandler(handler)
        self.addCleanup(logging.root.removeHandler, handler)
        return stream


class TestLines(LogCase):

    def setUp(self):
        self.stream = self.handle()
        self.plain = io.StringIO()
        other = logging.StreamHandler(self.plain)
        logging.root.addHandler(other)
        self.addCleanup(logging.root.removeHandler, other)

    def test_prefix(self):
        with LoggedRun(CLAIM, 'alpha', ('site1', 'Films')):
            log.warning('%d frames', 7)
            log.warning('job 12 (encode, request r-1) failed: no space')
        log.warning('outside')
        self.assertEqual(self.stream.getvalue(), 'WARNING job 12 (encode, request r-1): 7 frames\n'
                         'WARNING job 12 (encode, request r-1) failed: no space\nWARNING outside\n')
        self.assertEqual(self.plain.getvalue().splitlines()[0], '7 frames')      # a handler of somebody else

    def test_traceback(self):
        with LoggedRun(CLAIM, 'alpha', ()):
            try:
                raise OSError('no space')
            except OSError:
                log.exception('it failed')
        first, *others = self.stream.getvalue().splitlines()
        self.assertEqual(first, 'ERROR job 12 (encode, request r-1): it failed')
        self.assertEqual((others[0], others[-1]), ('Traceback (most recent call last):', 'OSError: no space'))

    def test_other_threads_of_the_task(self):
        async def work():
            log.warning('in the loop')
            await asyncio.to_thread(log.warning, 'in a thread')

        with LoggedRun(CLAIM, 'alpha', ()):
            asyncio.run(work())
        self.assertEqual(self.stream.getvalue().count('job 12 (encode, request r-1): in '), 2)

    def test_a_formatter_that_shows_attributes(self):
        class Fields(logging.Formatter):
            hasFields = True

        handler = logging.StreamHandler()
        handler.setFormatter(formatter := Fields())
        tellRuns(handler)
        self.assertIs(handler.formatter, formatter)
        self.assertEqual(len(handler.filters), 1)

    def test_a_record_about_another_job(self):
        record = logging.makeLogRecord({'msg': 'added', 'job': 13})
        with LoggedRun(CLAIM, 'alpha', ()):
            RunFilter().filter(record)
        self.assertEqual((record.job, hasattr(record, 'attempt')), (13, False))

    def test_attributes(self):
        record = logging.makeLogRecord({'msg': 'x', 'request': 'theirs'})
        self.assertTrue(RunFilter().filter(record))
        self.assertFalse(hasattr(record, 'job'))
        with LoggedRun(CLAIM, 'alpha', ('site1', 'Films')):
            self.assertTrue(RunFilter().filter(record))
        self.assertEqual((record.job, record.task, record.attempt, record.request, record.service, record.host),
                         (12, 'encode', 2, 'theirs', '/site1/Films', 'alpha'))


class TestHost(LogCase, ProcessorCase):

    level = 2

    def test_what_a_task_logs(self):
        stream = self.handle('%(job)s %(host)s %(message)s')
        self.provide('encode', lambda input: log.warning('encoding %s', input))
        self.start(name='alpha')
        jobid = self.add('encode', 'film', request='r-7')
        self.statuses(jobid)
        self.assertEqual(stream.getvalue(), f'{jobid} alpha job {jobid} (encode, request r-7): encoding film\n')


if __name__ == '__main__':
    unittest.main()
