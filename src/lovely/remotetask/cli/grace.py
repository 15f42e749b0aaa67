"""The time that a process has to stop in."""
# SPDX-License-Identifier: ZPL-2.1
import time


class GracePeriod:
    """The time in which everything stops together; it begins when `left` is first called."""

    def __init__(self, seconds):
        """`seconds` are a float, 0 or more."""
        self.seconds = seconds
        self._end = None

    def end(self):
        """End it now."""
        self._end = time.monotonic()

    def left(self):
        """Return the seconds that are left, 0 at least."""
        if self._end is None:
            self._end = time.monotonic() + self.seconds
        return max(0.0, self._end - time.monotonic())
