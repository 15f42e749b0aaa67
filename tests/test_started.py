"""Processors of a process: those that are being started while the database hangs."""
# SPDX-License-Identifier: ZPL-2.1
import threading
from unittest import mock

from ZODB.Connection import TransactionMetaData

from lovely.remotetask.execution import started
from lovely.remotetask.processor import MultiProcessor
from processorcase import PATH
from processorcase import ProcessorCase
from threads import inThread
from waits import PATIENCE


class TestHangingDatabase(ProcessorCase):
    """Somebody else commits for ever: a start waits for that, as a processor takes its ledger by a commit."""

    def setUp(self):
        super().setUp()
        self.key = started.keyOf(self.service)
        self.addCleanup(started.stopAll, self.db)

    def hang(self):
        txn = TransactionMetaData()
        self.db.storage.tpc_begin(txn)
        return lambda: self.db.storage.tpc_abort(txn)

    def starting(self):
        """Have a processor started in a thread; return it, and what `inThread` returns, while that waits."""
        made = []
        isMade = threading.Event()

        def make():
            made.append(MultiProcessor(self.db, PATH, name='host'))
            isMade.set()
            return made[0]
        start = inThread(started.start, self.key, make)
        self.assertTrue(isMade.wait(PATIENCE))
        return made[0], *start

    def check(self, stop, *arguments, returns):
        goOn = self.hang()
        try:
            processor, starts, outcome = self.starting()
            stops, result = inThread(stop, *arguments)
            stops.join(PATIENCE)
            self.assertEqual(result, [returns])
            self.assertTrue(starts.is_alive())
        finally:
            goOn()
        starts.join(PATIENCE)
        self.assertEqual((outcome, processor.running), ([None], False))
        self.assertIsNone(started.running(self.key))

    def noteWait(self, event):
        """Return an event that is set when somebody waits for an event."""
        isAwaited, wait = threading.Event(), event.wait
        event.wait = lambda timeout: isAwaited.set() or wait(timeout)
        return isAwaited

    def test_stopping_all_does_not_wait_for_ever(self):
        self.check(started.stopAll, self.db, returns=None)

    def test_stopping_it_does_not_wait_for_ever(self):
        self.check(started.stop, self.key, returns=True)

    def test_all_are_stopped_after_a_start_that_goes_on(self):
        goOn = self.hang()
        processor, starts, outcome = self.starting()
        waits = self.noteWait(started._starting[self.key])
        with mock.patch.object(started, 'EXIT_TIME', PATIENCE):
            closes, _ = inThread(started.stopAll, self.db)
            self.assertTrue(waits.wait(PATIENCE))
            self.assertTrue(closes.is_alive())
            goOn()
            closes.join(PATIENCE)
        self.assertFalse(processor.running)         # the database can be closed
        starts.join(PATIENCE)
        self.assertEqual(outcome, [None])

    def test_it_is_started_once(self):
        goOn = self.hang()
        try:
            processor, starts, outcome = self.starting()
            self.assertIsNone(started.start(self.key, lambda: self.fail('a second one')))
        finally:
            goOn()
        starts.join(PATIENCE)
        self.assertEqual(outcome, [processor])
        self.assertIs(started.running(self.key), processor)

    def test_one_that_cannot_start_can_be_started_again(self):
        with self.assertRaises(ZeroDivisionError):
            started.start(self.key, lambda: 1 / 0)
        self.assertIsNotNone(started.start(self.key, lambda: MultiProcessor(self.db, PATH)))
