"""Waiting until something holds that no event tells of."""
# SPDX-License-Identifier: ZPL-2.1
import time

from lovely.remotetask.testing import PATIENCE


#: Seconds between two looks.
PAUSE = 0.01


def waitUntil(condition, what='a condition', said=str, patience=PATIENCE):
    """Return the value of a condition as soon as it is true.

    condition -- a function without arguments.
    what -- what a test waits for, a text.
    said -- returns a text that tells more, should that never come; called only then.
    patience -- in seconds.

    Raise `AssertionError` when that time is over.
    """
    until = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > until:
            raise AssertionError(f'in vain waited for {what}\n{said()}')
        time.sleep(PAUSE)
    return value
