"""The life of a processor, as several threads see it."""
# SPDX-License-Identifier: ZPL-2.1
import unittest

from lovely.remotetask.processing.lifecycle import Lifecycle


class TestLifecycle(unittest.TestCase):

    def setUp(self):
        self.now = 100.0
        self.lifecycle = Lifecycle(lambda: self.now)

    def seen(self):
        lifecycle = self.lifecycle
        return lifecycle.isRunning, lifecycle.stopRequested.is_set(), lifecycle.ended.is_set(), lifecycle.remaining

    def test_from_the_beginning_to_the_end(self):
        self.assertEqual(self.seen(), (False, False, True, None))
        self.lifecycle.begin()
        self.assertEqual(self.seen(), (True, False, False, None))
        self.lifecycle.requestStop(5)
        self.assertEqual(self.seen(), (False, True, False, 5))
        self.lifecycle.end()
        self.assertEqual(self.seen(), (False, True, True, 5))

    def test_the_time_to_stop(self):
        self.lifecycle.begin()
        self.assertFalse(self.lifecycle.isLate)
        self.lifecycle.requestStop(5)
        self.now += 4.9
        self.assertFalse(self.lifecycle.isLate)
        self.now += 0.2
        self.assertTrue(self.lifecycle.isLate)

    def test_as_long_as_it_takes(self):
        self.lifecycle.begin()
        self.lifecycle.requestStop()
        self.now += 1e9
        self.assertFalse(self.lifecycle.isLate)

    def test_the_last_word_counts(self):
        self.lifecycle.begin()
        self.lifecycle.requestStop()
        self.lifecycle.requestStop(1)
        self.assertEqual(self.lifecycle.remaining, 1)

    def test_an_earlier_stop_is_no_limit(self):
        self.lifecycle.requestStop(0)
        self.assertTrue(self.lifecycle.isLate)
        self.lifecycle.begin()
        self.assertFalse(self.lifecycle.isLate)
        self.lifecycle.halt()           # it ends by itself
        self.assertEqual(self.seen(), (False, False, False, None))


if __name__ == '__main__':
    unittest.main()
