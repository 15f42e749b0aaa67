"""Transactions that are tried again: how often, and after which pauses."""
# SPDX-License-Identifier: ZPL-2.1
import unittest
from unittest import mock

from transaction import TransactionManager
from transaction.interfaces import NoTransaction
from ZODB.POSException import ConflictError

from lovely.remotetask.database.transactions import LONGEST_PAUSE
from lovely.remotetask.database.transactions import PAUSE
from lovely.remotetask.database.transactions import pauseAfter
from lovely.remotetask.database.transactions import transact


class TestPauses(unittest.TestCase):

    def test_they_grow_and_differ(self):
        for failures in (*range(1, 12), 40, 10 ** 6):
            pauses = {pauseAfter(failures) for _ in range(200)}
            middle = min(LONGEST_PAUSE, PAUSE * 2 ** min(failures - 1, 20))
            with self.subTest(failures):
                self.assertGreaterEqual(min(pauses), middle / 2)
                self.assertLessEqual(max(pauses), middle * 1.5)
                self.assertGreater(max(pauses) - min(pauses), middle / 2)


class TestTransact(unittest.TestCase):

    def setUp(self):
        self.manager, self.calls = TransactionManager(explicit=True), []
        self.sleep = self.enterContext(mock.patch('time.sleep'))

    def failing(self, *errors):
        """Return a function that raises these, one each time, and then returns how often it was called."""
        def function():
            self.calls.append(self.manager.get())
            if len(self.calls) <= len(errors):
                raise errors[len(self.calls) - 1]
            return len(self.calls)
        return function

    def assertEnded(self):
        with self.assertRaises(NoTransaction):
            self.manager.get()
        self.assertEqual(len(set(map(id, self.calls))), len(self.calls))

    def test_a_conflict(self):
        self.assertEqual(transact(self.manager, self.failing(ConflictError(), ConflictError()), 3), 3)
        self.assertEqual(self.sleep.call_count, 2)
        self.assertEnded()

    def test_too_many_conflicts(self):
        for attempts in 1, 3:
            self.calls.clear()
            self.sleep.reset_mock()
            with self.subTest(attempts), self.assertRaises(ConflictError):
                transact(self.manager, self.failing(*[ConflictError()] * 5), attempts)
            self.assertEqual((len(self.calls), self.sleep.call_count), (attempts, attempts - 1))
            self.assertEnded()

    def test_what_is_no_conflict(self):
        for error in ValueError('wrong'), KeyboardInterrupt():
            self.calls.clear()
            with self.subTest(error), self.assertRaises(type(error)):
                transact(self.manager, self.failing(error), 5)
            self.assertEqual(len(self.calls), 1)
            self.sleep.assert_not_called()
            self.assertEnded()


if __name__ == '__main__':
    unittest.main()
