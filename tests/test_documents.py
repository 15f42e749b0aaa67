"""The narrative documents: README.txt and those of the package, run as doctests."""
# SPDX-License-Identifier: ZPL-2.1
import doctest
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import transaction
import zope.component.hooks
import zope.component.testing
from ZODB.DB import DB
from ZODB.DemoStorage import DemoStorage

import lovely.remotetask
from lovely.remotetask import retry
from lovely.remotetask.config import settings as config
from lovely.remotetask.schedules import cron
from lovely.remotetask.schedules import misfire


FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
DOCUMENTS = pathlib.Path(lovely.remotetask.__file__).parent / 'documents'
#: Those that start servers, or measure.
WITH_SERVERS = ('client.txt', 'performance.txt', 'testing.txt', 'xmlrpc.txt')
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


def setUp(test):
    zope.component.testing.setUp()
    log, db = Log(), DB(DemoStorage())
    logger = logging.getLogger('lovely.remotetask')
    logger.addHandler(log)
    test.level, test.propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    test.log = log
    test.globs.update(log=log, db=db)


def tearDown(test):
    logger = logging.getLogger('lovely.remotetask')
    logger.removeHandler(test.log)
    logger.setLevel(test.level)
    logger.propagate = test.propagate
    transaction.abort()
    zope.component.hooks.setSite(None)
    config.setProductConfigurations({})
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


def load_tests(loader, tests, pattern):
    for path in (README, *sorted(DOCUMENTS.glob('*.txt'))):
        suite = doctest.DocFileSuite(str(path), module_relative=False, setUp=setUp, tearDown=tearDown,
                                     optionflags=FLAGS, encoding='utf-8')
        suite.level = 2 if path.name in WITH_SERVERS else 1
        tests.addTest(suite)
    for module in (cron, misfire, retry):
        tests.addTest(doctest.DocTestSuite(module, optionflags=FLAGS))
    return tests


if __name__ == '__main__':
    unittest.main()
