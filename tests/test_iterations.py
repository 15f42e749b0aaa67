"""Iterations of the claim loop: what one changes, and what a conflict leaves as it was."""
# SPDX-License-Identifier: ZPL-2.1
import dataclasses
import socket
import unittest

from ZODB.POSException import ConflictError

from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.processing.cycle import Cycle
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processing.ownership import LeaseLost
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import transitions
from processorcase import PATH
from processorcase import ProcessorCase


class TestIterations(ProcessorCase):
    """An iteration of the claim loop changes what the host knows if it is committed, and else nothing."""

    def setUp(self):
        super().setUp()
        self.provide('double', lambda input: 2 * input)
        self.meanwhile = []                 # what others do during the next iteration
        self.cycle = Cycle(self.db, PATH, 'a', clock=self.clock, monotonic=lambda: 100.0)
        self.addCleanup(self.cycle.close)
        self.cycle.attach()

    def clock(self):
        if self.meanwhile:
            self.manager.begin()
            self.meanwhile.pop()()
            self.manager.commit()
        return 1000.0

    def test_a_conflict_changes_nothing(self):
        jobid, later = self.add('double', 1), self.add('double', 2)
        claim, = self.cycle.iterate(Work(want=1)).claims
        self.assertEqual(claim.jobid, jobid)
        before, claims = self.cycle.state, dict(self.cycle.openClaims)
        self.assertEqual(claims, {jobid: 0})
        self.meanwhile.append(lambda: (self.service.jobs[jobid].touch(), self.service.pause()))
        work = Work([transitions.Outcome(jobid, 0, COMPLETED, 1.0, 2.0, 2)], 1, duration=0.001)
        with self.assertRaises(ConflictError):
            self.cycle.iterate(work)
        self.assertEqual(dataclasses.replace(self.cycle.state, position=before.position), before)
        self.assertEqual(self.cycle.openClaims, claims)
        result = self.cycle.iterate(work)                           # the same reports again
        self.assertEqual((result.claims, self.cycle.openClaims), ([], {}))
        self.assertIs(self.cycle.state, result.state)
        self.assertTrue(result.state.paused and result.state.isQuick)
        self.assertEqual(self.statuses(jobid), [COMPLETED])
        self.manager.begin()
        self.assertEqual(self.service.getStatus(later), QUEUED)

    def test_jobs_are_loaded_in_advance_where_commits_take_long(self):
        asked = []
        self.cycle.leave(set())
        cycle = Cycle(self.db, PATH, 'b', clock=self.clock, prefetch=asked.append)
        self.addCleanup(cycle.close)
        cycle.attach()
        self.add('double', 1)
        self.assertEqual(len(cycle.iterate(Work(want=1)).claims), 1)
        self.assertEqual(asked, [])
        jobid = self.add('double', 1)
        self.assertEqual(len(cycle.iterate(Work(want=1, isFar=True)).claims), 1)
        self.assertEqual(asked, [[ready.shardOf(self.service, jobid).pages.directory._p_oid,
                                  ready.shardOf(self.service, jobid).pages.page(jobid)._p_oid]])

    def test_after_a_conflict_it_goes_elsewhere(self):
        positions = set()
        for _ in range(20):
            jobid = self.add('double', 1)
            self.assertEqual(len(self.cycle.iterate(Work(want=1)).claims), 1)
            self.meanwhile.append(self.service.jobs[jobid].touch)
            with self.assertRaises(ConflictError):
                self.cycle.iterate(Work([transitions.Outcome(jobid, 0, COMPLETED, 1.0, 2.0, 2)]))
            positions.add(self.cycle.state.position)
            self.cycle.iterate(Work([transitions.Outcome(jobid, 0, COMPLETED, 1.0, 2.0, 2)]))
            self.assertEqual(self.cycle.state.position.skip, 0)
        self.assertGreater(len(positions), 1)

    def test_a_ledger_that_has_another_owner(self):
        self.manager.begin()
        self.service.ledgers['a'].owner = hosts.identity()
        self.manager.commit()
        before = self.db.lastTransaction()
        with self.assertRaises(LeaseLost):
            self.cycle.iterate(Work(want=1))
        self.assertEqual(self.db.lastTransaction(), before)

    def test_two_hosts_without_a_name_begin_at_the_same_time(self):
        others = []

        def clock():
            if begun and not others:
                others.append(None)                         # once
                others[0] = Cycle(self.db, PATH)
                self.addCleanup(others[0].close)
                others[0].attach()
            return 1000.0

        begun = []
        cycle = Cycle(self.db, PATH, clock=clock)
        self.addCleanup(cycle.close)
        begun.append(True)
        cycle.attach()
        self.assertEqual([each.name for each in (*others, cycle)],
                         [f'{socket.gethostname()}-{number}' for number in (1, 2)])


if __name__ == '__main__':
    unittest.main()
