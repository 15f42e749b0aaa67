"""The narrative documents: README.txt and those of the package, run as doctests."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import doctest
import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import unittest

import transaction
import zope.component.hooks
import zope.component.testing
from ZODB.DB import DB
from ZODB.DemoStorage import DemoStorage

import lovely.remotetask
from instance import Instance
from lovely.remotetask import retry
from lovely.remotetask.config import products
from lovely.remotetask.database import notes
from lovely.remotetask.execution import started
from lovely.remotetask.schedules import calendar
from lovely.remotetask.schedules import crontab
from lovely.remotetask.schedules import misfire
from lovely.remotetask.schedules import zones
from lovely.remotetask.testing import temporaryZEO


FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
DOCUMENTS = pathlib.Path(lovely.remotetask.__file__).parent / 'documents'
#: Those that start servers, or measure.
WITH_SERVERS = ('access.txt', 'client.txt', 'performance.txt', 'postgresql.txt', 'pyramid.txt', 'testing.txt',
                'xmlrpc.txt', 'zope.txt')
README = pathlib.Path(__file__).parent.parent / 'README.txt'


class Log(logging.Handler):
    """Keeps what is logged, until it is taken."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(f'{record.levelname} {record.getMessage()}')

    def take(self):
        lines, self.lines = self.lines, []
        return '\n'.join(lines)


class InZope:
    """What `zope.txt` calls: an instance in a directory of its own."""

    def __init__(self, stack):
        self._stack = stack
        zeo = stack.enter_context(temporaryZEO())
        directory = os.path.realpath(stack.enter_context(tempfile.TemporaryDirectory(prefix='remotetask-')))
        self._instance = stack.enter_context(contextlib.closing(Instance(zeo, directory)))
        self._server = '%s:%d' % zeo.address
        self.configure, self.start, self.stop = self._instance.configure, self._instance.start, self._instance.close

    def write(self, name, text):
        self._instance.write(name, textwrap.dedent(text).strip().replace('{server}', self._server) + '\n')

    def zconsole(self, text):
        code, said = self._instance.console(text)
        if code:
            raise AssertionError(said)
        return '\n'.join(line for line in said.splitlines() if line.startswith('(')) or None

    def page(self, path):
        status, body = self._instance.get(path)
        if status != 200:
            raise AssertionError((status, body))
        return body

    def process(self, command, *arguments):
        made = self._instance.process('-m', 'lovely.remotetask.cli.main', *arguments)
        return self._stack.enter_context(contextlib.closing(made))

    def wait(self, jobid):
        print(*json.loads(self._instance.script(f"""
            import transaction
            from lovely.remotetask.application import getService
            from lovely.remotetask.testing import waitForJobs
            service = getService(app, '/magazine/tasks')
            waitForJobs(service, [{jobid}], 100)
            print('>>> ' + json.dumps(json.dumps([service.getStatus({jobid}), service.getResult({jobid})])))
            """)))


def setUp(test):
    zope.component.testing.setUp()
    log, db = Log(), DB(DemoStorage())
    logger = logging.getLogger('lovely.remotetask')
    logger.addHandler(log)
    test.level, test.propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    test.log = log
    test.path = [*sys.path]             # a site definition adds its directory
    test.globs.update(log=log, db=db)
    test.stack = contextlib.ExitStack()
    if test.name == 'zope.txt':
        instance = InZope(test.stack)
        test.globs.update((name, getattr(instance, name)) for name in (
            'configure', 'page', 'process', 'start', 'stop', 'wait', 'write', 'zconsole'))


def tearDown(test):
    test.stack.close()
    started.stopAll()
    logger = logging.getLogger('lovely.remotetask')
    logger.removeHandler(test.log)
    logger.setLevel(test.level)
    logger.propagate = test.propagate
    sys.path[:] = test.path
    transaction.abort()
    zope.component.hooks.setSite(None)
    products.setProductConfigurations({})
    zope.component.testing.tearDown()


class TestPages(unittest.TestCase):

    def test_sphinx_finds_nothing_wrong(self):
        with tempfile.TemporaryDirectory() as directory:
            pages = pathlib.Path(directory) / 'pages'
            options = '-W', '--keep-going', '-q', '-d', directory + '/cache'
            made = subprocess.run(
                [sys.executable, '-m', 'sphinx', *options, DOCUMENTS, pages],
                env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(os.path.abspath, sys.path))}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            self.assertEqual((made.returncode, made.stdout), (0, ''))
            for path in DOCUMENTS.glob('*.txt'):
                self.assertTrue((pages / path.name).with_suffix('.html').exists(), path)
            self.assertIn('claimNextJob', (pages / 'api.html').read_text('utf-8'))
            self.assertRegex((pages / 'readme.html').read_text('utf-8'), '<a [^>]*href="tasks.html"[^>]*><code')


def load_tests(loader, tests, pattern):
    for path in (README, *sorted(DOCUMENTS.glob('*.txt'))):
        suite = doctest.DocFileSuite(str(path), module_relative=False, setUp=setUp, tearDown=tearDown,
                                     optionflags=FLAGS, encoding='utf-8')
        suite.level = 2 if path.name in WITH_SERVERS else 1
        tests.addTest(suite)
    for module in (calendar, crontab, misfire, notes, retry, zones):
        tests.addTest(doctest.DocTestSuite(module, optionflags=FLAGS))
    return tests


if __name__ == '__main__':
    unittest.main()
