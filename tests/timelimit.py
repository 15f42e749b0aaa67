"""A time limit for each test: one that hangs names itself and fails, and the others follow.

`bin/test` calls `start` before the test runner.
"""
# SPDX-License-Identifier: ZPL-2.1
import faulthandler
import signal
import sys

from zope.testrunner.layer import UnitTests


#: Seconds that a test may take; the longest takes a minute on an idle machine of two cores.
LIMIT = 300.0

#: By how much longer the whole run waits for a test that goes on in spite of it: then it ends.
FACTOR = 1.5


class TimeIsUp(BaseException):
    """The test takes longer than it may.  No `Exception`, of which a loop of the test could make nothing."""


def start(limit=LIMIT):
    """Have each test of this process end after so many seconds.

    The runner calls `testSetUp` and `testTearDown` of a test's layer, and all tests that name none are of one.
    """
    def begin():
        signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, limit)
        # For code that does not come back to the interpreter: all threads are shown, and the run fails.
        faulthandler.dump_traceback_later(limit * FACTOR, exit=True, file=sys.__stderr__)

    def end(number, frame):
        faulthandler.dump_traceback(file=sys.__stderr__)
        raise TimeIsUp(f'the test took longer than {limit:g} seconds')

    def leave():
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()

    UnitTests.testSetUp, UnitTests.testTearDown = staticmethod(begin), staticmethod(leave)
