"""Ruff and mypy find nothing; what they look for is in pyproject.toml."""
# SPDX-License-Identifier: ZPL-2.1
import inspect
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import unittest

from zope.interface.interfaces import IMethod

from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.service import TaskService


ROOT = pathlib.Path(__file__).parent.parent
# Where the command in README.txt installs it.
RUFF = [shutil.which('ruff', path=sysconfig.get_path('scripts')) or 'ruff', 'check', '--output-format', 'concise',
        '--no-cache']
# As a module it is found on the path of this process, wherever buildout has put it.
MYPY = [sys.executable, '-m', 'mypy']


class LintCase(unittest.TestCase):

    def run_(self, *command):
        """Run a command where the configuration is; return its status and what it wrote."""
        ended = subprocess.run([*command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), 'NO_COLOR': '1'})
        return ended.returncode, ended.stdout

    def written(self, text):
        """Return the path of a module with that text, which is gone after the test."""
        path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()), 'written.py')
        path.write_text(text)
        return path


class TestRuff(LintCase):

    level = 2

    def test_it_finds_nothing(self):
        status, said = self.run_(*RUFF, '.')
        self.assertEqual(status, 0, said)

    def test_it_would_find_something(self):
        path = self.written('import os, sys\n')
        status, said = self.run_(*RUFF, '--config', 'pyproject.toml', str(path))
        self.assertEqual(status, 1, said)
        for rule in 'E401', 'F401', 'I001':
            self.assertIn(rule, said)


#: Words of before, and what stands for them.
RETIRED = {
    'bell': 'wakeup', 'crew': 'thread pool', 'deposed': 'LeaseLost', 'doorkeeper': 'authenticator',
    'giveBack': 'release', 'hub': 'notifier', 'hubOf': 'notifierOf', 'keeper': 'scheduler', 'lender': 'client',
    'luck': 'draw, rng', 'roster': 'in flight', 'upkeep': 'packing', 'witness': 'vote sentinel',
}


class TestWords(unittest.TestCase):

    def test_retired_words_do_not_come_back(self):
        word = re.compile(rf'\b_?({"|".join(RETIRED)})s?\b', re.IGNORECASE)
        for path in (*ROOT.glob('src/**/*.py'), *ROOT.glob('tests/**/*.py')):
            if path.name == 'test_lint.py':
                continue
            for number, line in enumerate(path.read_text('utf-8').splitlines(), 1):
                found = word.search(line)
                if found:
                    with self.subTest(path=str(path.relative_to(ROOT)), line=number):
                        known = {key.lower(): value for key, value in RETIRED.items()}
                        self.fail(f'{found[0]}: say {known[found[1].lower()]}')


class TestMypy(LintCase):

    level = 2

    def setUp(self):
        directory = self.enterContext(tempfile.TemporaryDirectory())
        self.cache = f'--cache-dir={directory}'

    def test_it_finds_nothing(self):
        status, said = self.run_(*MYPY, self.cache)
        self.assertEqual(status, 0, said)
        self.assertIn('15 source files', said)

    def test_it_would_find_something(self):
        path = self.written("from lovely.remotetask.client import Client\n"
                            "Client('http://localhost/').add(1)\n"
                            "def untyped(value):\n    return value\n")
        status, said = self.run_(*MYPY, self.cache, str(path))
        self.assertEqual(status, 1, said)
        for rule in '[arg-type]', '[no-untyped-def]':
            self.assertIn(rule, said)

    def test_all_methods_of_the_service_have_types(self):
        for name, attribute in ITaskService.namesAndDescriptions(all=True):
            if not IMethod.providedBy(attribute):
                continue
            with self.subTest(name):
                signature = inspect.signature(getattr(TaskService, name))
                self.assertIsNot(signature.return_annotation, inspect.Signature.empty)
                for parameter in list(signature.parameters.values())[1:]:
                    self.assertIsNot(parameter.annotation, inspect.Parameter.empty, parameter.name)


if __name__ == '__main__':
    unittest.main()
