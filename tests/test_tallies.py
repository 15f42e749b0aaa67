"""What is counted of the runs of each task: exactly, once, whatever becomes of hosts."""
# SPDX-License-Identifier: ZPL-2.1
import bisect
import pickle
import unittest

import zope.component.testing
from ZODB.POSException import ConflictError
from zope.component import provideUtility

from lovely.remotetask.common.counts import BOUNDS
from lovely.remotetask.errors import Retry
from lovely.remotetask.errors import TaskError
from lovely.remotetask.execution import rescue
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import tallies
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.ledger import LONG
from lovely.remotetask.storage.ledger import ONCE
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.task import SimpleTask
from processorcase import PATH
from processorcase import ProcessorCase
from processorcase import claimOne
from waits import waitUntil


def outcomes(service, task='echo'):
    """Return what is counted of a task, without zeros."""
    return {name: count for name, count in service.getTaskStatistics()[task].outcomes.items() if count}


class TestDurations(unittest.TestCase):

    def setUp(self):
        self.ledger = Ledger()

    def entered(self, *durations):
        """Return the `Durations` of runs of these seconds."""
        tallies.enter(self.ledger, [('echo', COMPLETED, 0.0, seconds) for seconds in durations])
        return tallies.tallies([self.ledger])['echo'].run

    def test_classes(self):
        found = self.entered(0.005, 0.0051, 7200.0, 7200.1, 86400.0)
        self.assertEqual((found.classes[0], found.classes[1], found.classes[-2], found.classes[-1]), (1, 1, 1, 2))
        self.assertEqual((found.count, found.seconds), (5, 100800.1101))
        self.assertAlmostEqual(found.mean, 20160.02202)
        self.assertEqual(self.entered(1e9).count, 6)

    def test_clocks_that_go_back(self):
        found = self.entered(-5.0, 1.0)
        self.assertEqual((found.classes[0], found.seconds), (1, 1.0))

    def test_quantiles(self):
        self.assertIsNone(tallies.Durations(0.0, (0,) * 17).quantile(0.95))
        found = self.entered(*[0.04] * 90, *[2.0] * 10)
        self.assertAlmostEqual(found.quantile(0.45), 0.0375)        # half of the class from 25 to 50 ms
        self.assertAlmostEqual(found.quantile(0.95), 1.75)
        self.assertEqual(self.entered(*[1e5] * 1000).quantile(0.95), 7200.0)
        classes = [0] * len(found.classes)
        classes[bisect.bisect_left(BOUNDS, 61)] = 1
        self.assertEqual(tallies.Durations(61.0, tuple(classes)).quantile(0.95), 61)    # not 288, near its class's end
        classes[0] = 99
        self.assertEqual(tallies.Durations(61.2, tuple(classes)).quantile(1), 61.2)
        self.assertLess(tallies.Durations(61.2, tuple(classes)).quantile(0.95), 0.005)

    def test_several_tasks_at_once(self):
        tallies.enter(self.ledger, [('b', COMPLETED, 1, 2), ('a', ERROR, 3, 4), ('b', QUEUED, 5, 6)])
        found = tallies.tallies([self.ledger, self.ledger])
        self.assertEqual(list(found), ['a', 'b'])
        self.assertEqual((found['a'].outcomes['error'], found['a'].failureRate), (2, 1.0))
        self.assertEqual((found['b'].outcomes['completed'], found['b'].outcomes['retried']), (2, 2))
        self.assertEqual((found['b'].wait.seconds, found['b'].run.seconds, found['b'].failureRate), (12.0, 16.0, 0.0))


class TestSize(unittest.TestCase):

    def test_the_record_is_bounded_and_nothing_is_lost(self):
        ledger, most = Ledger(), 0
        for task in (f'a task with a long name, number {number:03}' for number in range(300)):
            tallies.enter(ledger, [(task, COMPLETED, 1e4, 0.1 * number) for number in range(100)])
            tallies.count(ledger, task, tallies.LOST)
            most = max(most, len(pickle.dumps(ledger.tasks, 3)))
        self.assertLess(most, 2000)
        found = tallies.tallies([ledger])
        self.assertEqual((len(found), found['other'].run.count), (tallies.NAMED + 1, 10000))
        self.assertEqual(sum(tally.run.count for tally in found.values()), 30000)
        self.assertEqual(sum(tally.outcomes['lost'] for tally in found.values()), 300)
        self.assertAlmostEqual(sum(tally.run.seconds for tally in found.values()), 300 * 495)

    def test_a_task_that_is_known_is_never_counted_as_another(self):
        ledger = Ledger()
        for _ in range(2):
            for number in range(tallies.NAMED):
                tallies.count(ledger, str(number), ERROR)
        self.assertEqual({tally.outcomes['error'] for tally in tallies.tallies([ledger]).values()}, {2})


class ServiceCase(unittest.TestCase):
    """A service outside any database, and a ledger of a host."""

    def setUp(self):
        self.addCleanup(zope.component.testing.tearDown)
        self.error = None
        provideUtility(SimpleTask(self.run_), name='echo')
        self.service = TaskService()
        self.ledger = self.service.ledgers['host'] = Ledger()

    def run_(self, input):
        if self.error is not None:
            raise self.error
        return input

    def tally(self):
        return self.service.getTaskStatistics()['echo']


class TestService(ServiceCase):

    def test_nothing_has_run(self):
        self.service.add('echo')
        self.assertEqual(self.service.getTaskStatistics(), {})

    def test_outcomes(self):
        self.service.add('echo', now=0)
        self.service.process(3)
        self.error = TaskError('no')
        failed = self.service.add('echo', now=10)
        self.service.process(11)
        self.service.cancel(self.service.add('echo', now=20), 25)
        self.assertEqual(outcomes(self.service), {'completed': 1, 'error': 1, 'cancelled': 1})
        self.assertEqual((self.tally().wait.seconds, self.tally().wait.count, self.tally().failureRate), (4.0, 2, 0.5))
        self.service.clean()
        self.assertNotIn(failed, self.service.jobs)
        self.assertEqual(outcomes(self.service), {'completed': 1, 'error': 1, 'cancelled': 1})

    def test_a_pause_before_another_attempt_is_no_waiting(self):
        self.error = Retry(100)
        self.service.add('echo', now=0)
        self.service.process(2)
        self.error = None
        self.service.process(110)
        self.assertEqual(outcomes(self.service), {'completed': 1, 'retried': 1})
        self.assertEqual((self.tally().wait.seconds, self.tally().run.count), (2 + 8, 2))

    def test_what_is_started_by_hand_waits_from_then_on(self):
        jobid = self.service.add('echo', startLater=True, now=0)
        self.service.startJob(jobid, 1000)
        self.assertEqual(self.service.getStatistics(1001)['oldestWaiting'], 1000)
        self.error = TaskError('no')
        self.service.process(1003)
        self.error = None
        for retry in (lambda: self.service.retry(jobid, 5000), lambda: self.service.retryFailed(now=5000)):
            self.assertEqual(self.service.getStatus(jobid), 'error')
            retry()
            self.assertEqual(self.service.getStatistics(5001)['oldestWaiting'], 5000)
            self.error = TaskError('no')
            self.service.process(5004)
        self.assertEqual((self.tally().wait.seconds, outcomes(self.service)), (3 + 4 + 4, {'error': 3}))

    def test_runs_of_a_cron_job(self):
        jobid = self.service.addCronJob('echo', minute=(0,), now=1)
        self.service.process(1)
        self.service.process(3602)
        self.error = TaskError('no')
        self.service.process(7203)
        self.service.runNow(jobid, 7300)
        self.service.process(7304)
        self.assertEqual((outcomes(self.service), self.tally().wait.seconds),
                         ({'completed': 1, 'error': 2}, 2 + 3 + 4))

    def test_a_job_that_is_broken(self):
        jobid = self.service.add('echo')
        pages = ready.shardOf(self.service, jobid).pages
        pages.page(jobid)[jobid] = b'no row'
        with self.assertLogs('lovely.remotetask', 'ERROR'):
            self.service.process(1)
        self.assertEqual(outcomes(self.service, 'other'), {'error': 1})


class TestHosts(ServiceCase):

    def claimed(self, mark=None, **arguments):
        self.service.add('echo', now=1, **arguments)
        claim, = claiming.claim(self.service, 1, 0, 2, self.ledger)[0]
        if mark is not None:
            self.ledger.mark(claim.jobid, mark, 2)
        return claim

    def outcome(self, claim, status=COMPLETED):
        return transitions.Outcome(claim.jobid, claim.run, status, 3.0, 5.0)

    def test_a_report_that_comes_twice(self):
        claim = self.claimed()
        for _ in range(2):          # the answer to the first commit was lost
            transitions.acknowledge(self.service, self.ledger, self.outcome(claim), 6)
        self.assertEqual((outcomes(self.service), self.tally().run.seconds), ({'completed': 1}, 2.0))

    def test_a_lost_host(self):
        self.claimed(), self.claimed(LONG), self.claimed(ONCE)
        cancelled = self.claimed()
        self.service.cancel(cancelled.jobid, 3)
        rescue.rescue(self.service, 'host', 7)
        rescue.rescue(self.service, 'host', 7)
        self.assertEqual(outcomes(self.service), {'error': 1, 'cancelled': 1, 'lost': 3})
        self.assertEqual(self.tally().run.count, 0)

    def test_a_host_that_stops_in_good_order_loses_nothing(self):
        claim = self.claimed(LONG)
        rescue.interrupt(self.service, 'host', claim.jobid, False, 7)
        self.assertEqual(self.service.getTaskStatistics(), {})

    def test_a_host_that_ends_before_it_knows_of_what_its_task_has_committed(self):
        for after in (lambda claim: transitions.Recorded(claim.jobid, claim.run, outcome=self.outcome(claim)), None):
            claim = self.claimed()
            transitions.record(self.service, self.service.jobs[claim.jobid], self.outcome(claim))
            if after is None:
                rescue.rescue(self.service, 'host', 9)
            else:
                transitions.acknowledge(self.service, self.ledger, after(claim), 9)
        self.assertEqual((outcomes(self.service), self.tally().run.seconds, self.tally().wait.seconds),
                         ({'completed': 2}, 4.0, 4.0))

    def test_the_same_of_a_cron_job(self):
        jobid = self.service.addCronJob('echo', minute=(0,), now=1)
        self.service.process(1)
        for rescued, due in (False, 3600), (True, 7200):
            with self.subTest(rescued=rescued):
                for now in due - 1, due + 1:        # it looks at what has ended, and calls it when it is due
                    while scheduling.tick(self.service, now):
                        pass
                claim, = claiming.claim(self.service, 1, 0, due + 1, self.ledger)[0]
                outcome = transitions.Outcome(jobid, claim.run, COMPLETED, due + 2.0, due + 5.0)
                transitions.record(self.service, self.service.jobs[jobid], outcome)
                if rescued:
                    rescue.rescue(self.service, 'host', due + 9)
                else:
                    transitions.acknowledge(self.service, self.ledger, transitions.Recorded(
                        jobid, claim.run, outcome=outcome), due + 9)
        self.assertEqual((outcomes(self.service), self.tally().run.seconds, self.tally().wait.seconds),
                         ({'completed': 2}, 6.0, 4.0))


class TestDatabase(ProcessorCase):
    """A real host, whose commits count."""

    level = 2

    def test_with_what_the_task_writes_and_without(self):
        self.provide('echo', lambda input: input)
        self.provide('write', lambda service, jobid, input: service.data.update(input))
        self.provide('fail', lambda input: 1 / 0, retryPolicy={'attempts': 2, 'base': 0.0})
        self.start(name='host-1')
        jobids = [self.add(task, {'a': number}) for number in range(5) for task in ('echo', 'write')]
        self.statuses(*jobids, self.add('fail'))
        # The end of a task that writes is counted when its claim is closed.
        waitUntil(lambda: not self.left())
        found = self.service.getTaskStatistics()
        self.assertEqual((found['echo'].outcomes[COMPLETED], found['write'].outcomes[COMPLETED]), (5, 5))
        self.assertEqual(outcomes(self.service, 'fail'), {'error': 1, 'retried': 1})
        self.assertTrue(all(0 <= found[task].run.seconds < 20 and found[task].run.count == 5
                            and found[task].wait.count == 5 for task in ('echo', 'write')))

    def test_a_transaction_that_is_repeated_counts_once(self):
        self.provide('echo', lambda input: input)
        host = self.factory(self.db, PATH, name='host-1', clock=self.clock)
        host.cycle.attach()
        self.addCleanup(host.cycle.close)
        self.add('echo')
        claim = claimOne(host)
        outcome = transitions.Outcome(claim.jobid, claim.run, COMPLETED, 1.0, 2.0)
        self.hasBegun = self.writeLedger
        with self.assertRaises(ConflictError):
            host.cycle.iterate(Work([outcome]))
        self.hasBegun = lambda: None
        for _ in range(2):                                  # the second time as if the answer had been lost
            host.cycle.iterate(Work([outcome]))
        self.manager.begin()
        self.assertEqual(outcomes(self.service), {'completed': 1})

    hasBegun = staticmethod(lambda: None)

    def clock(self):
        self.hasBegun()
        return 3.0

    def writeLedger(self):
        with self.db.transaction() as connection:
            connection.root()['Application']['TaskService'].ledgers['host-1']._p_changed = True
