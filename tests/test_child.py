"""Tasks in child processes: what comes back, how they are limited and ended; with real processes."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import unittest

from zope.interface import Interface
from zope.interface import implementer

from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import Retry
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import TimeLimitExceeded
from lovely.remotetask.execution import group
from lovely.remotetask.execution import relay
from lovely.remotetask.execution.child import ChildDied
from lovely.remotetask.execution.child import ForeignError
from lovely.remotetask.execution.child import checkIsolated
from lovely.remotetask.execution.child import runInChild
from lovely.remotetask.execution.control import Control
from lovely.remotetask.execution.control import Interrupted
from lovely.remotetask.execution.control import current
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.task import SimpleTask
from waits import PATIENCE


class Doubled(Exception):
    """Passes another argument on than it takes."""

    def __init__(self, name):
        super().__init__(f'no {name}')
        self.name = name


class Final(TaskError):

    def __init__(self, what, why):
        super().__init__(f'{what}: {why}')


class Unpicklable(Exception):

    def __init__(self, message):
        super().__init__(message)
        self.lock = threading.Lock()


# The tasks

def echo(input):
    return input


def raiseDoubled(input):
    raise Doubled('film')


def raiseLike(input):
    """Raise an exception that equals another, given as its class, arguments and attributes."""
    kind, args, attributes = input
    error = kind(*args) if kind.__module__ == 'builtins' else kind.__new__(kind, *args)
    vars(error).update(attributes)
    raise error


def raiseFinal(input):
    raise Final('film', 'is empty')


def raiseUnpicklable(input):
    raise Unpicklable('has a lock')


def returnUnpicklable(input):
    return threading.Lock()


def allocate(size):
    return len(bytearray(size))


def addressSpace(input):
    return resource.getrlimit(resource.RLIMIT_AS)[0]


def printMuch(input):
    print('printed' * 10000)
    print('printed', file=sys.stderr)
    return sys.stdin.read()


def say(input):
    """Print and log, as tasks do."""
    print('first\x9b line')
    print('x' * 20000)
    logging.getLogger('films').warning('the %s is low', 'disk')
    logging.getLogger('films').debug('not wanted')
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger('films').exception('no\nway')
    print('no end', end='', flush=True)
    print('on stderr', file=sys.stderr)
    return 'said'


def sayLow(input):
    logging.getLogger('films').info('not wanted')
    logging.getLogger('films').warning('the disk is low')


def sayMuch(count):
    for number in range(count):
        print(number)


def environment(input):
    return os.getpid(), os.getpgid(0), os.environ.get('PYTHONPATH'), sys.path


def reportAndWait(fifo):
    """Say who we are, with a child of ours, and stay."""
    with open(fifo, 'w') as file:
        other = subprocess.Popen(['sleep', '60'])
        print(os.getpid(), other.pid, file=file, flush=True)
        other.wait()
        print('late', file=file)


def ignoreAndWait(fifo):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    reportAndWait(fifo)


def leaveBehind(fifo):
    """Return, while a process and a thread of ours go on."""
    subprocess.Popen(['sh', '-c', 'echo ready > "$1"; exec sleep 60 > "$1"', 'sh', fifo])
    threading.Thread(target=time.sleep, args=(60,)).start()
    return 'done'


def killGuardian(input):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def progress(input):
    current().report(0.25, 'a quarter')
    threads = [threading.Thread(target=control.report, args=(0.5, 'x' * 900)) for control in [current()] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return current().jobid


@implementer(ITask)
class WithService:

    inputSchema = outputSchema = Interface

    def __call__(self, service, jobid, input):
        service.setProgress(jobid, 0.5, 'half')
        service.setProgress(jobid, None)
        try:
            service.add('echo')
        except AttributeError as error:
            return service.isCancelled(jobid), str(error)


def run(function, input=None, **options):
    return runInChild(SimpleTask(function), 7, input, **options)


class TestOutcome(unittest.TestCase):

    level = 2

    def test_result(self):
        self.assertEqual(run(echo, {'a': [1, 2.5, 'ä', None, b'x']}), {'a': [1, 2.5, 'ä', None, b'x']})

    def test_another_process(self):
        pid, leader, path, places = run(environment)
        self.assertNotEqual(pid, os.getpid())
        self.assertEqual(leader, pid)
        self.assertEqual(path, os.environ.get('PYTHONPATH'))
        self.assertEqual(places, [os.path.abspath(place) for place in sys.path])

    def test_much(self):
        data = os.urandom(1 << 20) * 20
        self.assertTrue(run(echo, data) == data)

    def test_prints_do_not_disturb(self):
        code = 'import test_child; print(repr(test_child.run(test_child.printMuch)))'
        done = subprocess.run([sys.executable, '-c', code], env=hostEnvironment(), input='input', text=True,
                              capture_output=True, timeout=PATIENCE)
        self.assertEqual((done.stdout, done.stderr), ('printed' * 10000 + "\n''\n", 'printed\n'))

    def test_what_is_said_is_in_the_log(self):
        with self.assertLogs(level='INFO') as logged:
            self.assertEqual(run(say, label='job 7 (say, request r)'), 'said')
        self.assertTrue(all(record.getMessage().startswith('job 7 (say, request r): ') for record in logged.records))
        found = {(record.name, record.levelname, record.getMessage()[24:]) for record in logged.records}
        own = 'lovely.remotetask'
        for record in ((own, 'INFO', 'first\\x9b line'), (own, 'INFO', 'no end'), (own, 'INFO', 'on stderr'),
                       ('films', 'WARNING', 'the disk is low')):
            self.assertIn(record, found)
        traceback, = (text for name, level, text in found if (name, level) == ('films', 'ERROR'))
        self.assertTrue(traceback.startswith('no\\nway\nTraceback (most recent call last):\n'), traceback)
        self.assertTrue(traceback.endswith('ZeroDivisionError: division by zero'), traceback)
        self.assertLess(max(len(record.getMessage()) for record in logged.records if record.name == own), 1100)
        self.assertEqual(logging.getLogger('films').level, logging.NOTSET)

    def test_much_that_is_said(self):
        with self.assertLogs(level='INFO') as logged:
            run(sayMuch, relay.MOST_LINES + 500, label='job 7')
        self.assertEqual(len(logged.records), relay.MOST_LINES)
        self.assertEqual(logged.records[-1].levelname, 'WARNING')

    def test_a_level_that_is_not_logged(self):
        with self.assertLogs(level='WARNING') as logged:
            logging.getLogger('x').warning('first')
            run(sayLow, label='job 7')
        self.assertEqual([text.partition('\n')[0] for text in logged.output],
                         ['WARNING:x:first', 'WARNING:films:job 7: the disk is low'])

    def test_exceptions(self):
        for error in (KeyError('film'), OSError(2, 'No such file'), ValueError(), SystemExit(3), TaskError('no'),
                      Retry(5, 'later'), InvalidInput('a', 'is missing'), TimeLimitExceeded(5),
                      UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'invalid')):
            with self.subTest(error=error), self.assertRaises(type(error)) as caught:
                run(raiseLike, (type(error), error.args, vars(error)))
            self.assertIs(type(caught.exception), type(error))
            self.assertEqual((str(caught.exception), vars(caught.exception)), (str(error), vars(error)))

    def test_exceptions_with_arguments_of_their_own(self):
        with self.assertRaises(Doubled) as caught:
            run(raiseDoubled)
        self.assertEqual((str(caught.exception), caught.exception.name), ('no film', 'film'))
        with self.assertRaises(Final) as caught:
            run(raiseFinal)
        self.assertEqual(str(caught.exception), 'film: is empty')

    def test_the_traceback_is_the_childs(self):
        with self.assertRaises(Final) as caught:
            run(raiseFinal)
        self.assertIn('in raiseFinal', ''.join(traceback.TracebackException.from_exception(caught.exception).format()))

    def test_an_exception_that_cannot_leave(self):
        with self.assertRaises(ForeignError) as caught:
            run(raiseUnpicklable)
        self.assertEqual(str(caught.exception), 'Unpicklable: has a lock')
        self.assertIn('in raiseUnpicklable', str(caught.exception.__cause__))

    def test_a_result_that_cannot_leave(self):
        with self.assertRaises(TaskError) as caught:
            run(returnUnpicklable)
        self.assertIn('returned something that cannot leave the child process', str(caught.exception))

    def test_what_cannot_enter(self):
        for function in (lambda input: input, threading.Lock().acquire):
            with self.assertRaises(ValueError) as caught:
                checkIsolated(SimpleTask(function))
            self.assertIn('cannot run in a child process', str(caught.exception))
            with self.assertRaises(TaskError) as caught:
                run(function)
            self.assertIn('cannot run in a child process', str(caught.exception))
        with self.assertRaises(TaskError) as caught:
            run(echo, threading.Lock())
        self.assertIn('the input cannot be handed', str(caught.exception))
        self.assertIsNone(checkIsolated(SimpleTask(echo)))
        self.assertIsNone(checkIsolated(WithService()))

    def test_what_the_child_does_not_find(self):
        code = ('import test_child\ndef f(input): pass\n'
                'try:\n    test_child.run(f)\nexcept test_child.TaskError as error:\n    print(error)')
        done = subprocess.run([sys.executable, '-c', code], env=hostEnvironment(), text=True, capture_output=True,
                              timeout=PATIENCE)
        self.assertIn('the child process cannot load the task or its input: AttributeError', done.stdout)

    def test_progress(self):
        seen = []
        control = Control(7, lambda: seen.append(control.progress))
        self.assertEqual(run(progress, control=control), 7)
        self.assertEqual(seen, [(0.25, 'a quarter')] + [(0.5, 'x' * 900)] * 8)

    def test_service(self):
        seen = []
        control = Control(7, lambda: seen.append(control.progress))
        isCancelled, text = runInChild(WithService(), 7, None, control)
        self.assertIs(isCancelled, False)
        self.assertIn('has no database', text)
        self.assertEqual(seen, [(0.5, 'half'), (None, '')])
        self.assertEqual(runInChild(WithService(), 7, None)[0], False)


class TestEnd(unittest.TestCase):

    level = 2

    def setUp(self):
        self.fifo = os.path.join(self.enterContext(tempfile.TemporaryDirectory()), 'fifo')
        os.mkfifo(self.fifo)

    @contextlib.contextmanager
    def reader(self):
        """The pipe that the children write to."""
        with open(os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK), 'rb', buffering=0) as reader:
            yield reader

    def line(self, reader):
        """Wait for something that they write."""
        self.assertTrue(select.select([reader], [], [], 60)[0], 'the child did not start in time')
        return reader.read(1000).decode()

    def assertEnd(self, reader):
        """All of them end within moments: nobody has the pipe any more."""
        deadline = time.monotonic() + PATIENCE
        rest = b''
        while select.select([reader], [], [], max(0, deadline - time.monotonic()))[0] and (data := reader.read(1000)):
            rest += data
        self.assertLess(time.monotonic(), deadline)
        self.assertNotIn(b'late', rest)

    def test_exit(self):
        with self.assertRaises(ChildDied) as caught:
            run(os._exit, 3)
        self.assertEqual(str(caught.exception),
                         'the child process ended with exit status 3 before the task had returned')
        self.assertNotIsInstance(caught.exception, TaskError)
        with self.assertRaises(ChildDied) as caught:
            run(os._exit, 0)
        self.assertIn('exit status 0', str(caught.exception))

    def test_signals(self):
        for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM, signal.SIGXCPU):
            with self.subTest(signal=number), self.assertRaises(ChildDied) as caught:
                run(signal.raise_signal, number)
            self.assertEqual(str(caught.exception), f'the child process was killed by {number.name}')

    def test_more_input_than_memory(self):
        with self.assertRaises(MemoryError):
            run(echo, bytes(20 << 20), memoryLimit=1 << 20)

    def test_memory_limit(self):
        self.assertEqual(run(addressSpace, memoryLimit=1 << 31), 1 << 31)
        self.assertEqual(run(addressSpace), resource.getrlimit(resource.RLIMIT_AS)[0])
        self.assertEqual(run(allocate, 1 << 20, memoryLimit=1 << 31), 1 << 20)
        with self.assertRaises(MemoryError) as caught:
            run(allocate, 1 << 32, memoryLimit=1 << 31)
        self.assertIn('in allocate', str(caught.exception.__cause__))

    def test_time_limit(self):
        for function in (reportAndWait, ignoreAndWait):
            for limit in (2, 8, 32):                # until the child had the time to say that it is there
                with self.reader() as reader:
                    with self.assertRaises(TimeLimitExceeded) as caught:
                        run(function, self.fifo, timeLimit=limit)
                    self.assertEqual(caught.exception.seconds, limit)
                    if said := select.select([reader], [], [], 0)[0] and reader.read(1000):
                        self.assertEnd(reader)
                        break
            self.assertTrue(said)

    def test_cancel(self):
        for function, least, most in ((reportAndWait, 0, 20), (ignoreAndWait, group.GRACE, 20)):
            control = Control(7)
            with self.reader() as reader, self.ending(control, reader) as ended:
                with self.assertRaises(Interrupted) as caught:
                    run(function, self.fifo, control=control)
                took = time.monotonic() - ended[0]
                self.assertEnd(reader)
            self.assertEqual(str(caught.exception), 'cancelled')
            self.assertTrue(least <= took < most, took)

    @contextlib.contextmanager
    def ending(self, control, reader):
        """Have another thread end the run as soon as its child is there."""
        ended = []

        def end():
            self.line(reader)
            ended.append(time.monotonic())
            control.end('cancelled')
            control.end('again')

        thread = threading.Thread(target=end)
        thread.start()
        yield ended
        thread.join()

    def test_cancelled_before(self):
        control = Control(7)
        control.end('cancelled')
        with self.assertRaises(Interrupted):
            run(echo, control=control)

    def test_what_the_task_leaves_behind(self):
        with self.reader() as reader:
            self.assertEqual(run(leaveBehind, self.fifo), 'done')
            self.assertEnd(reader)

    def test_the_guardian_is_killed(self):
        with self.assertRaises(ChildDied) as caught:
            run(killGuardian)
        self.assertEqual(caught.exception.status, -signal.SIGKILL)

    def test_several_at_a_time(self):
        results = {}
        threads = [threading.Thread(target=lambda number=number: results.update({number: run(echo, number)}))
                   for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(results, {number: number for number in range(4)})

    def test_no_descriptor_is_left_open(self):
        def count():
            return len(os.listdir('/dev/fd'))
        run(echo)
        before = count()
        for function, input in ((echo, 1), (os._exit, 3)):
            with contextlib.suppress(ChildDied):
                run(function, input)
        self.assertLessEqual(count(), before)

    def test_host_killed(self):
        """Two children of one host: neither holds what the other waits for."""
        code = ('import sys, test_child, threading\n'
                'for function in test_child.reportAndWait, test_child.ignoreAndWait:\n'
                '    threading.Thread(target=test_child.run, args=(function, sys.argv[1])).start()')
        with self.reader() as reader:
            host = subprocess.Popen([sys.executable, '-c', code, self.fifo], env=hostEnvironment())
            try:
                said = self.line(reader)
                while len(said.splitlines()) < 2:
                    said += self.line(reader)
            finally:
                host.kill()
                host.wait()
            self.assertEnd(reader)


def hostEnvironment():
    """Return the environment for a process that imports this module as we do."""
    return {**os.environ, 'PYTHONPATH': os.pathsep.join([os.path.dirname(__file__), *map(os.path.abspath, sys.path)])}


if __name__ == '__main__':
    unittest.main()
