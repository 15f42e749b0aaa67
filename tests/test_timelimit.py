"""The time limit of the tests, on a run of its own with tests that hang."""
# SPDX-License-Identifier: ZPL-2.1
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

import timelimit
from waits import PATIENCE


HERE = pathlib.Path(__file__).parent

HANGING = '''
import signal
import threading
import unittest


class Hanging(unittest.TestCase):

    def test_a_waiting_one(self):
        threading.Event().wait()

    def test_b_stubborn_one(self):
        while True:
            try:
                threading.Event().wait()
            except Exception:
                pass

    def test_c_quick_one(self):
        pass


class Deaf(unittest.TestCase):

    def test_one_that_no_signal_reaches(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        threading.Event().wait()
'''


class TestLimit(unittest.TestCase):

    level = 2

    def run_(self, pattern, factor=timelimit.FACTOR):
        """Run the tests above whose names fit, with a limit; return the status and what was written."""
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, 'test_hanging.py').write_text(HANGING)
            code = (f'import timelimit, zope.testrunner; timelimit.FACTOR = {factor}; timelimit.start(0.5); '
                    f'zope.testrunner.run(["--path", {directory!r}, "--tests-pattern", "^test_", "-t", {pattern!r}])')
            ended = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, timeout=PATIENCE, cwd=directory,
                                   env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(HERE), *sys.path])})
        return ended.returncode, ended.stdout

    def test_one_that_hangs_names_itself_and_fails(self):
        status, said = self.run_('Hanging', factor=100)      # a busy machine is slow to begin with the next one
        self.assertEqual(status, 1, said)
        for name in 'test_a_waiting_one', 'test_b_stubborn_one':
            self.assertIn(f'Error in test {name} ', said)
        self.assertIn('the test took longer than 0.5 seconds', said)
        self.assertIn('Ran 3 tests with 0 failures, 2 errors', said)

    def test_one_that_cannot_be_ended_ends_the_run(self):
        status, said = self.run_('Deaf')
        self.assertEqual(status, 1, said)
        self.assertIn('Timeout (0:00:00.75', said)
        self.assertIn('in test_one_that_no_signal_reaches', said)

    def test_this_run_has_one(self):
        # `bin/test` has started it: what buildout makes must not forget that.
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        self.assertGreater(left, 0)


if __name__ == '__main__':
    unittest.main()
