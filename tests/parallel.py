"""Tests side by side: with ``bin/test -j N`` each module of tests has a process of its own, N at a time.

zope.testrunner gives each layer a process.  So each module becomes a layer.  `bin/test` calls `start` first.
"""
# SPDX-License-Identifier: ZPL-2.1
import os
import sys
import unittest

from zope.testrunner.layer import UnitTests


class ModuleLayer:
    """A layer for the tests of one module that name no other.  It is a `UnitTests`, so the time limit holds for them.
    """

    __bases__ = (UnitTests,)
    __module__ = __name__

    def __init__(self, name):
        self.__name__ = name


class Loader(unittest.TestLoader):
    """Puts the tests of each module into a layer."""

    def loadTestsFromModule(self, module, *, pattern=None):
        """See `unittest.TestLoader`."""
        suite = super().loadTestsFromModule(module, pattern=pattern)
        suite.layer = ModuleLayer(module.__name__)
        return suite


def start(arguments):
    """Split the tests of this run if its arguments have ``-j``."""
    if not any(argument.startswith('-j') for argument in arguments):
        return
    unittest.defaultTestLoader = Loader()
    if '--resume-layer' in arguments:                   # this is the process of one layer
        prefix, _, name = arguments[arguments.index('--resume-layer') + 1].partition('.')
        module = name if prefix == __name__ else prefix
        if module.startswith('test_'):                  # else several modules may have tests of the layer
            sys.argv += ['-m', f'^{module}$']
        # The runner tells the first process the numbers by the standard error.  What tests and their children write
        # there would be taken for them.
        sys.stderr = os.fdopen(os.dup(2), 'w')
        os.dup2(1, 2)
