"""Tests side by side, on a run of its own."""
# SPDX-License-Identifier: ZPL-2.1
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from waits import PATIENCE


HERE = pathlib.Path(__file__).parent

RUN = '''
import os
import sys
import parallel
import timelimit
import zope.testrunner
parallel.start(sys.argv)
timelimit.start(2.0)
directory = os.path.dirname(os.path.abspath(__file__))
if __name__ == '__main__':
    sys.exit(zope.testrunner.run(['--path', directory, '--tests-pattern', '^test_']))
'''

GOOD = '''
import sys
import unittest

class Good(unittest.TestCase):

    def test_its_process_has_no_other_module(self):
        self.assertFalse({'test_failing', 'test_hanging', 'test_dying'} & set(sys.modules))
'''
ONE = '''
import os
import threading
import unittest

class One(unittest.TestCase):

    def test_it(self):
        %s
'''
FAILING, HANGING, DYING = ONE % 'self.fail("as asked")', ONE % 'threading.Event().wait()', ONE % 'os._exit(0)'
LAYER = 'class Shared:\n\n    setUp = tearDown = staticmethod(lambda: None)\n'
SHARING = '''
import sharing
import unittest

class First(unittest.TestCase):

    layer = sharing.Shared

    def test_it(self):
        pass
'''
NOISY = ONE % 'os.system("echo 7 0 1 >&2; echo one of many >&2")'


class TestParallel(unittest.TestCase):

    level = 2

    def run_(self, **modules):
        """Run modules of tests side by side, name -> text; return the status and what was written."""
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, 'run.py').write_text(RUN)
            pathlib.Path(directory, 'sharing.py').write_text(LAYER)
            for name, text in modules.items():
                pathlib.Path(directory, f'test_{name}.py').write_text(text)
            ended = subprocess.run([sys.executable, 'run.py', '-j2'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, timeout=PATIENCE, cwd=directory,
                                   env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(HERE), *sys.path])})
        return ended.returncode, ended.stdout

    def test_all_are_run(self):
        status, said = self.run_(good=GOOD, other=GOOD.replace('Good', 'Other'))
        self.assertIn('Total: 2 tests, 0 failures, 0 errors and 0 skipped', said)
        self.assertEqual(status, 0)

    def test_a_layer_of_several_modules(self):
        status, said = self.run_(first=SHARING, second=SHARING.replace('First', 'Second'))
        self.assertIn('Total: 2 tests, 0 failures, 0 errors and 0 skipped', said)
        self.assertEqual(said.count('Set up sharing.Shared in'), 1)
        self.assertEqual(status, 0)

    def test_what_a_child_writes_does_not_count(self):
        status, said = self.run_(good=GOOD, noisy=NOISY)
        self.assertIn('Total: 2 tests, 0 failures, 0 errors and 0 skipped', said)
        self.assertIn('one of many', said)
        self.assertEqual(status, 0)

    def test_what_fails_is_shown(self):
        status, said = self.run_(good=GOOD, failing=FAILING, hanging=HANGING)
        self.assertIn('AssertionError: as asked', said)
        self.assertIn('TimeIsUp: the test took longer than 2 seconds', said)
        self.assertIn('Total: 3 tests, 1 failures, 1 errors and 0 skipped', said)
        self.assertEqual(status, 1)

    def test_a_process_that_dies_is_a_failure(self):
        status, said = self.run_(good=GOOD, dying=DYING)
        self.assertIn('Could not communicate with subprocess!', said)
        self.assertIn('Total: 1 tests, 0 failures, 1 errors and 0 skipped', said)
        self.assertEqual(status, 1)
