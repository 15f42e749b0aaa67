"""Where runs are right now: asked for, and told by the hosts that have them."""
# SPDX-License-Identifier: ZPL-2.1
import os
import pathlib
import re
import shutil
import threading
import time
import unittest

from BTrees.IOBTree import IOBTree
from click.testing import CliRunner
from zope.component import provideUtility

from lovely.remotetask.cli import main
from lovely.remotetask.database.sites import findService
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.errors import WrongState
from lovely.remotetask.execution.command import CommandTask
from lovely.remotetask.execution.control import MOST_CALLS
from lovely.remotetask.execution.control import Control
from lovely.remotetask.execution.control import running
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import stacks
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.xmlrpc.gateway import Gateway
from lovely.remotetask.xmlrpc.server import Frontend
from test_rescue import RescueCase
from threads import inThread
from waits import PATIENCE
from waits import waitUntil
from webcase import WebCase


PATH = 'TaskService',
NOW = 1000.0


def sleeping(input):
    """Wait in a child process until it is ended; its input is a file that tells that it has begun."""
    secret = 'not to be seen'
    pathlib.Path(input).touch()
    time.sleep(PATIENCE)
    return secret


class TestQuestions(RescueCase):
    """What is on record, without a host."""

    def setUp(self):
        super().setUp()
        self.ledger.questions = IOBTree()
        self.ledger.owner = hosts.identity(threads=2)

    def ask(self, jobid, now=NOW):
        stacks.ask(self.service, self.service.jobs[jobid], now)

    def test_a_question_and_its_answer(self):
        jobid, = self.claimed(None)
        self.assertIsNone(self.service.getStack(jobid))
        self.service.askStack(jobid, NOW)
        self.assertEqual(self.service.getStack(jobid), (NOW, None, ''))
        self.assertEqual(stacks.attend(self.ledger, [], NOW), [jobid])
        self.assertEqual(stacks.attend(self.ledger, [(jobid, 'here'), (jobid + 1, 'nobody asks')], NOW + 1), [])
        self.assertEqual(self.service.getStack(jobid), (NOW, NOW + 1, 'here'))

    def test_to_ask_again_is_a_new_question_once_it_was_answered(self):
        jobid, = self.claimed(None)
        self.ask(jobid)
        self.ask(jobid, NOW + 5)
        self.assertEqual(self.service.getStack(jobid).asked, NOW)
        stacks.attend(self.ledger, [(jobid, 'here')], NOW + 6)
        self.ask(jobid, NOW + 7)
        self.assertEqual(self.service.getStack(jobid), (NOW + 7, None, ''))

    def test_the_question_to_the_host_that_has_the_run_now(self):
        jobid, = self.claimed(None)
        self.ask(jobid)
        stacks.attend(self.ledger, [(jobid, 'here')], NOW)
        self.rescue()
        other = self.service.ledgers['other'] = Ledger()
        other.owner, other.questions = hosts.identity(threads=2), IOBTree()
        claiming.claimSuspects(self.service, NOW, other)
        self.ask(jobid, NOW + 5)
        self.assertEqual(self.service.getStack(jobid), (NOW + 5, None, ''))

    def test_it_is_forgotten_after_a_minute(self):
        first, second = self.claimed(None, None)
        self.ask(first)
        stacks.attend(self.ledger, [(first, 'here')], NOW)
        self.ask(second, NOW + stacks.KEPT)
        self.assertEqual(stacks.attend(self.ledger, [], NOW + stacks.KEPT + 1), [second])
        self.assertIsNone(self.service.getStack(first))
        self.assertEqual(stacks.attend(self.ledger, [], NOW + 2 * stacks.KEPT + 1), [])
        self.assertEqual(len(self.ledger.questions), 0)

    def test_there_is_room_for_so_many(self):
        jobids = self.claimed(*[None] * (stacks.MOST + 5))
        for number, jobid in enumerate(jobids):
            self.ask(jobid, NOW + number)
        self.assertEqual(sorted(self.ledger.questions), sorted(jobids[5:]))

    def test_a_long_answer_is_cut_at_its_beginning(self):
        jobid, = self.claimed(None)
        self.ask(jobid)
        stacks.attend(self.ledger, [(jobid, 'ä' * stacks.SIZE + '\udcff the end')], NOW)
        text = self.service.getStack(jobid).text
        self.assertLessEqual(len(text.encode()), stacks.SIZE)
        self.assertTrue(text.endswith('\\udcff the end'))

    def test_who_cannot_be_asked(self):
        queued = self.service.add('echo')
        with self.assertRaisesRegex(WrongState, 'queued'):
            self.ask(queued)
        with self.assertRaises(UnknownJob):
            self.service.askStack(5)
        with self.assertRaises(UnknownJob):
            self.service.getStack(5)
        claiming.claim(self.service, 1, 0, 0, self.ledger)
        for owner in None, hosts.identity(threads=0):
            self.ledger.owner = owner
            with self.assertRaisesRegex(WrongState, 'a process that cannot be asked'):
                self.ask(queued)
        other = TaskService()
        other.ownTasks = {'echo': SimpleTask(len)}
        ledger = other.ledgers['old'] = Ledger()
        jobid = other.add('echo', 'x')
        claiming.claim(other, 1, 0, 0, ledger)
        with self.assertRaises(WrongState):
            other.askStack(jobid)
        self.assertIsNone(other.getStack(jobid))


class TestControl(unittest.TestCase):

    def test_a_deep_stack_has_its_innermost_calls(self):
        def deep(left):
            if left:
                deep(left - 1)
            else:
                control.look(texts.append)
        control, texts = Control(5), []
        control.look(texts.append)
        with running(control):
            deep(MOST_CALLS + 10)
        self.assertEqual(texts[0], 'the run has just ended')
        self.assertIn('in look', texts[1].splitlines()[-2])
        self.assertLess(len(texts[1]), 64 * 1024)
        with control.stoppedBy(lambda: None, lambda answer: answer('elsewhere')):
            control.look(texts.append)
        self.assertEqual(texts[2], 'elsewhere')


class TestHosts(WebCase):
    """With real hosts, threads, child processes and programs."""

    level = 2

    def setUp(self):
        super().setUp()
        self.begun, self.go = threading.Event(), threading.Event()
        provideUtility(SimpleTask(self.waiting), name='waiting')
        provideUtility(SimpleTask(sleeping, isolation='process'), name='sleeping')
        provideUtility(CommandTask('sleep {seconds}'), name='program')
        self.processor = MultiProcessor(self.db, PATH, name='alpha', waitTime=30.0)
        self.processor.start()
        self.addCleanup(lambda: self.assertTrue(self.processor.stop(PATIENCE)))
        self.addCleanup(self.go.set)            # before the processor stops
        self.now = time.time()

    def waiting(self, input):
        secret = 'not to be seen'
        self.begun.set()
        self.go.wait(PATIENCE)
        return secret

    def answer(self, jobid, ask=True):
        """Ask, and return the answer when there is one."""
        if ask:
            self.do('askStack', jobid)
        waitUntil(lambda: self.do('getStack', jobid).answered is not None)
        return self.do('getStack', jobid).text

    def end(self, jobid):
        self.do('cancel', jobid)
        waitUntil(lambda: not self.processor.inFlight.executions())

    def test_a_thread(self):
        jobid = self.do('add', 'waiting', 'a secret, too')
        self.assertTrue(self.begun.wait(PATIENCE))
        place = re.compile(r'File ".*test_stacks.py", line \d+, in waiting\n +self.go.wait\(PATIENCE\)')
        waitUntil(lambda: place.search(self.answer(jobid)))                 # before, it is on its way there
        self.assertNotIn('secret', self.answer(jobid))

    def test_a_child_process(self):
        path = self.directory + '/begun'
        jobid = self.do('add', 'sleeping', path)
        waitUntil(lambda: os.path.exists(path))
        for _ in range(2):
            place = re.compile(r'File ".*test_stacks.py", line \d+, in sleeping\n +time.sleep\(PATIENCE\)')
            waitUntil(lambda: place.search(self.answer(jobid)))             # before, it is on its way there
            self.assertRegex(self.answer(jobid), r'\Aprocess \d+: ')
            self.assertNotIn(path, self.answer(jobid))
        self.assertEqual(self.status(jobid), 'processing')
        self.end(jobid)

    def test_a_program(self):
        jobid = self.do('add', 'program', {'seconds': PATIENCE})
        waitUntil(lambda: self.status(jobid) == 'processing')
        waitUntil(lambda: re.match('process [0-9]', self.answer(jobid)))          # before, it is being started
        text = self.answer(jobid)
        self.assertRegex(text, rf'\Aprocess \d+: {shutil.which("sleep")}\Z')
        self.end(jobid)

    def test_a_job_that_waits_for_a_thread(self):
        jobids = [self.do('add', 'waiting') for _ in range(12)]
        self.assertTrue(self.begun.wait(PATIENCE))
        texts = [self.answer(jobid) for jobid in jobids if self.status(jobid) == 'processing']
        self.assertTrue(texts)

    def test_the_command(self):
        gateway = Gateway(self.db, lambda connection, path: findService(connection.root()['Application'], path))
        gateway.start()
        self.addCleanup(gateway.stop, PATIENCE)
        frontend = Frontend(('127.0.0.1', 0), gateway)
        inThread(frontend.serveForever)
        self.addCleanup(frontend.stop, PATIENCE)

        def stack(jobid):
            url = 'http://{}:{}/'.format(*frontend.address)
            return CliRunner().invoke(main.remotetask, ['stack', str(jobid), '--url', url], standalone_mode=False)
        jobid = self.do('add', 'waiting')
        self.assertTrue(self.begun.wait(PATIENCE))
        result = stack(jobid)
        self.assertRegex(result.output, r'\n  File ".*", line \d+, in waiting\n    \S.*\n')    # as Python indents it
        result = stack(self.do('add', 'echo', None, True))
        self.assertRegex(str(result.exception), 'is start later: cannot look into it')

    def test_pages(self):
        jobid = self.do('add', 'waiting')
        self.assertTrue(self.begun.wait(PATIENCE))
        self.now = time.time()
        self.assertIn('Where is it?', self.get(f'/jobs/{jobid}').text)
        self.assertIn('Where is it?', self.get('/hosts').text)
        self.assertIn(f'/jobs/{jobid}?', self.post('stack', jobid=str(jobid)).location)
        self.answer(jobid, ask=False)
        page = self.get(f'/jobs/{jobid}').text
        self.assertIn('Where it was', page)
        self.assertIn(', in waiting', page)
        queued = self.do('add', 'echo', None, True)
        self.assertNotIn('Where is it?', self.get(f'/jobs/{queued}').text)
        self.post('stack', jobid=str(queued), status=409)


if __name__ == '__main__':
    unittest.main()
