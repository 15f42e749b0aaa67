"""How often a host looks at all others: the more there are, the rarer."""
# SPDX-License-Identifier: ZPL-2.1
import unittest

from lovely.remotetask.processing.iteration import View
from lovely.remotetask.processing.ownership import POLL_INTERVAL
from lovely.remotetask.processing.peers import CROWD
from lovely.remotetask.processing.peers import IDLE_SURVEY
from lovely.remotetask.processing.peers import SURVEY
from lovely.remotetask.processing.peers import Peers
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage.ledger import Ledger
from processorcase import ProcessorCase


NAME = 'last'
NOW = 1_700_000_000.0
#: Seconds for which the hosts may be silent: longer than a test goes on by its own clock.
LEASE = 1e6


class TestSurveys(ProcessorCase):

    def setUp(self):
        super().setUp()
        self.provide('count', len)
        self.peers = Peers(LEASE, mayBeScheduler=False)
        self.service.ledgers[NAME] = Ledger()
        self.service.ledgers[NAME].owner = hosts.identity(threads=1)

    def gather(self, count):
        """Have so many other hosts, which live."""
        for number in range(len(self.service.ledgers) - 1, count):
            ledger = self.service.ledgers[f'host-{number:03}'] = Ledger()
            ledger.owner = hosts.identity(threads=1)
        self.manager.commit()

    def looks(self, moment, isBusy=False):
        """Return whether the host looks at the others at a moment, in seconds, and how many it finds then."""
        before = self.peers.survey
        self.peers.look(View(self.service, self.service.ledgers[NAME], NAME, 1, NOW, moment), isBusy)
        return self.peers.survey is not before, self.peers.survey.running

    def intervals(self, moment):
        """Return after how many seconds the host looks again: when it is busy, when jobs wait, and when none do."""
        found = []
        for isBusy, jobs, interval in (True, 0, POLL_INTERVAL), (False, 1, SURVEY), (False, 0, IDLE_SURVEY):
            jobids = [self.service.add('count', 'abc') for _ in range(jobs)]
            self.assertTrue(self.looks(moment, isBusy)[0])
            factor = 1
            while not self.looks(moment + factor * interval * 0.99, isBusy)[0]:
                self.assertTrue(factor < 8)
                factor *= 2
            found.append(factor / 2)            # at 0.99 times this it did not look, at 0.99 times twice this it did
            moment += 1000 * interval
            for jobid in jobids:
                self.service.cancel(jobid)
        return found

    def test_few_hosts_look_often(self):
        for count in 1, CROWD:
            self.gather(count)
            with self.subTest(count):
                self.peers = Peers(LEASE, mayBeScheduler=False)
                self.assertEqual(self.intervals(0.0), [1, 1, 1])

    def test_many_look_as_much_rarer_as_they_are_more(self):
        for times in 2, 4:
            self.gather(times * CROWD)
            with self.subTest(times):
                self.peers = Peers(LEASE, mayBeScheduler=False)
                self.assertEqual(self.intervals(0.0), [times] * 3)

    def test_those_that_are_left_look_often_again(self):
        self.gather(4 * CROWD)
        self.assertEqual(self.looks(0.0), (True, 4 * CROWD))
        for ledger in self.service.ledgers.values():
            ledger.owner = None
        self.assertEqual(self.looks(3.9 * IDLE_SURVEY), (False, 4 * CROWD))
        self.assertEqual(self.looks(4 * IDLE_SURVEY), (True, 0))
        self.assertEqual(self.looks(5 * IDLE_SURVEY), (True, 0))


if __name__ == '__main__':
    unittest.main()
