"""The order of the queues when claims are given back, and those who cancel jobs at the same time."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import unittest.mock

import transaction
from BTrees.LLBTree import LLBTree
from ZODB.POSException import ConflictError
from zope.component import provideUtility

from lovely.remotetask.execution import rescue
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import PROCESSING
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import tallies
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.claiming import TOGETHER
from lovely.remotetask.storage.ledger import LONG
from lovely.remotetask.storage.ledger import MICROSECONDS
from lovely.remotetask.storage.ledger import ONCE
from lovely.remotetask.storage.ledger import SUSPECT
from lovely.remotetask.storage.ledger import ShardLedger
from lovely.remotetask.storage.shards import BITS
from lovely.remotetask.storage.transitions import Recorded
from lovely.remotetask.storage.transitions import Returned
from processorcase import PATH
from processorcase import ProcessorCase
from waits import PATIENCE


class OrderCase(ProcessorCase):
    """Hosts that have ledgers, and no threads."""

    def setUp(self):
        super().setUp()
        self.provide('echo', lambda input: input)

    def host(self, name):
        host = MultiProcessor(self.db, PATH, waitTime=30.0, name=name, schedule=False)
        host.cycle.attach()
        self.addCleanup(host.cycle.close)
        return host

    def addMany(self, count, now=0.0, task='echo'):
        """Return the ids of new jobs of one shard."""
        jobids = self.service.addMany([{'task': task}] * count, now=now)
        self.manager.commit()
        self.assertEqual({jobid >> BITS for jobid in jobids}, {jobids[0] >> BITS})
        return jobids

    def claim(self, host, count, shard, mark=None):
        """Return the ids of so many jobs that a host claims: the first ones of the queue of a shard."""
        def claim(service):
            ledger = service.ledgers[host.name]
            claims, _ = claiming.claim(service, count, shard, 0.0, ledger)
            for each in claims if mark is not None else ():
                ledger.mark(each.jobid, mark, 0.0)
            return [each.jobid for each in claims]

        return host.cycle.session.transact(claim)

    def queue(self, jobids):
        """Return the ids in the queue of the shard that these are in."""
        self.manager.begin()
        return list(self.service.shards[jobids[0] >> BITS].ready)


class TestGivenBack(OrderCase):

    def test_by_hosts_that_stop_one_after_the_other(self):
        jobids = self.addMany(10)
        hosts = [self.host(name) for name in 'abc']
        claimed = [self.claim(host, 2, jobids[0] >> BITS) for host in hosts]
        later = self.addMany(2, now=1.0)
        for number in 1, 2, 0:
            hosts[number].cycle.leave(claimed[number][1:])          # its first one has begun
        self.assertEqual(self.queue(jobids), jobids + [jobid for jobid in later if jobid >> BITS == jobids[0] >> BITS])
        self.assertEqual([self.service.jobs[jobid].run for jobid in jobids[:7]], [1, 0, 1, 0, 1, 0, 0])
        self.assertEqual(self.claim(self.host('d'), 7, jobids[0] >> BITS), jobids[:7])

    def test_many_hosts_stop_at_the_same_time(self):
        jobids = self.addMany(300)
        hosts = [self.host(f'host-{number}') for number in range(20)]
        claimed = [self.claim(host, 10, jobids[0] >> BITS) for host in hosts]
        # All begin to stop before the first one has done it.
        for host, unstarted in zip(hosts, claimed):
            service = host.cycle.session.begin()
            host.cycle.ownership._giveUp(service, unstarted, 0.0)
        for host in hosts[::-1]:
            host.cycle.session.manager.commit()                     # and nobody conflicts
        self.assertEqual(self.queue(jobids), jobids)
        self.assertEqual(self.left(), jobids)

    def test_beside_a_claim(self):
        jobids = self.addMany(4)
        one, two = self.host('one'), self.host('two')
        self.claim(one, 2, jobids[0] >> BITS)
        one.cycle.ownership._giveUp(one.cycle.session.begin(), jobids[:2], 0.0)
        self.assertEqual(self.claim(two, 1, jobids[0] >> BITS), jobids[2:3])
        one.cycle.session.manager.commit()
        self.assertEqual(self.queue(jobids), [jobids[0], jobids[1], jobids[3]])

    def test_what_has_waited_for_a_time(self):
        late, early = self.addMany(2)
        for jobid, since in (late, 20.0), (early, 10.0):
            self.service.jobs[jobid].readySince = since
        self.manager.commit()
        host = self.host('host')
        self.claim(host, 2, late >> BITS)
        host.cycle.leave()
        self.assertEqual(self.queue([late]), [early, late])

    def test_what_no_thread_has_taken(self):
        jobids, host = self.addMany(4), self.host('host')
        self.claim(host, 3, jobids[0] >> BITS)
        host.cycle.iterate(Work([Returned(jobids[2], 0), Returned(jobids[1], 0, isLast=True)]))
        self.assertEqual(self.queue(jobids), [jobids[2], jobids[3], jobids[1]])

    def test_by_a_rescue(self):
        jobids, gone = self.addMany(5), self.host('gone')
        begun = self.claim(gone, 1, jobids[0] >> BITS, mark=LONG)
        self.claim(gone, 2, jobids[0] >> BITS)
        self.manager.begin()
        rescue.rescue(self.service, 'gone', 100.0)
        self.manager.commit()
        self.assertEqual(self.queue(jobids), begun + jobids[3:])
        self.assertEqual(list(self.service.suspects), jobids[1:3])

    def test_by_a_rescue_beside_a_suspect(self):
        jobids, gone = self.addMany(4), self.host('gone')
        self.claim(gone, 1, jobids[0] >> BITS, mark=SUSPECT)
        self.claim(gone, 2, jobids[0] >> BITS)
        self.manager.begin()
        rescue.rescue(self.service, 'gone', 100.0)
        self.manager.commit()
        self.assertEqual((list(self.service.suspects), self.queue(jobids)), (jobids[:3], jobids[3:]))

    def test_others_are_woken(self):
        jobids, host, other = self.addMany(2), self.host('host'), self.host('other')
        self.claim(host, 1, jobids[0] >> BITS)
        interest = other.cycle.iterate(Work()).state.interest
        service = host.cycle.session.begin()
        host.cycle.ownership._giveUp(service, (), 0.0)
        written = {each._p_oid for each in service._p_jar._registered_objects}
        host.cycle.session.manager.commit()
        self.assertTrue(interest & written)

    def test_what_has_not_begun_in_the_grace_period(self):
        jobids, host = self.addMany(5), self.host('host')
        claimed = self.claim(host, 4, jobids[0] >> BITS)
        host.inFlight.add([transitions.claimOn(self.service.jobs[jobid]) for jobid in claimed], b'')
        execution, _ = host.inFlight.acquire(host.inFlight.newQueue())
        host._lifecycle.begin()
        host._lifecycle.requestStop(PATIENCE)
        self.assertFalse(host.loop._leaveIfDone())
        host.loop.iterate()
        self.assertEqual(self.queue(jobids), jobids[1:])            # others may begin it, while the first one runs
        self.assertEqual(self.service.getStatus(jobids[0]), PROCESSING)
        host.inFlight.end(execution, transitions.Outcome(jobids[0], 0, COMPLETED, 1.0, 2.0))
        host.loop.iterate()
        self.assertTrue(host.loop._leaveIfDone())
        self.assertEqual((host.givenBack, self.queue(jobids)), (3, jobids[1:]))
        self.assertEqual({self.service.jobs[jobid].run for jobid in jobids}, {0})

    def test_what_is_not_run_again(self):
        jobids, host = self.addMany(8), self.host('host')
        claimed = self.claim(host, 7, jobids[0] >> BITS)
        host.inFlight.add([transitions.claimOn(self.service.jobs[jobid]) for jobid in claimed], b'')
        for _ in range(3):
            host.inFlight.acquire(host.inFlight.newQueue())
        once, cancelled, again, early, *waiting = claimed
        host.cycle.session.transact(lambda service: service.ledgers['host'].mark(once, ONCE))
        host._lifecycle.begin()
        host._lifecycle.requestStop(PATIENCE)
        self.assertFalse(host.loop._leaveIfDone())                  # those that have not begun are to be given back
        self.manager.begin()
        for jobid in cancelled, early:                              # and there are runs that do not end
            self.service.cancel(jobid)
        self.manager.commit()
        host.loop.iterate()
        host._lifecycle.requestStop(0)
        with self.assertLogs('lovely.remotetask', 'WARNING') as logged:
            self.assertTrue(host.loop._leaveIfDone())
        self.assertEqual([record.getMessage() for record in logged.records if record.event == 'host.gaveBack'],
                         ['processing host host: the time to stop is over, it gives back 1 job to be run again: '
                          f'{again}'])
        self.assertEqual((host.givenBack, self.queue(jobids)), (4, [again, *waiting, jobids[-1]]))
        self.assertEqual(self.service.getStatus(once), ERROR)

    def test_a_claim_that_is_to_be_given_back_when_the_host_leaves(self):
        # It is not run any more, and that is not on record; it is none that its host's end has interrupted.
        self.provide('once', lambda input: input, atMostOnce=True)
        jobid, = self.addMany(1, task='once')
        host = self.host('host')
        self.claim(host, 1, jobid >> BITS, mark=ONCE)
        host.loop.reports = [Returned(jobid, 0)]
        host._lifecycle.begin()
        host._lifecycle.requestStop(0)
        self.assertTrue(host.loop._leaveIfDone())
        self.assertEqual((self.queue([jobid]), self.service.jobs[jobid].run), ([jobid], 0))


class TestSuspects(OrderCase):

    def claimSuspects(self, host, view):
        return host.cycle._claimSuspects(view, lambda task: None, claiming.Allowance(), claiming.Group(9))

    def test_who_keeps_the_order_claims_one_at_a_time(self):
        gone, host = self.host('gone'), self.host('host')
        jobids = self.addMany(2 * rescue.GROUPS)
        self.claim(gone, len(jobids), jobids[0] >> BITS)
        self.manager.begin()
        rescue.rescue(self.service, 'gone', 100.0)
        self.manager.commit()
        host.cycle.ordered = True
        self.assertEqual([claim.suspect for claim in host.cycle.iterate(Work(want=5)).claims], [2])

    def test_several_hosts_claim_at_the_same_time(self):
        gone, hosts = self.host('gone'), [self.host(name) for name in 'abc']
        jobids = self.addMany(4 * TOGETHER)
        self.claim(gone, 3 * TOGETHER, jobids[0] >> BITS)
        self.manager.begin()
        rescue.rescue(self.service, 'gone', 100.0)
        self.manager.commit()
        for _ in range(2):
            self.manager.begin()
            found, suspects = [], list(self.service.suspects)
            for host in hosts:
                view = host.cycle._begin(Work())
                host.cycle.peers.look(view, False)
                found.append([claim.jobid for claim in self.claimSuspects(host, view)])
            for host in hosts:
                host.cycle.session.manager.commit()                 # and nobody conflicts
            self.assertEqual(found, [suspects[place:place + 3] for place in range(0, 3 * TOGETHER - 9, TOGETHER)])
        self.manager.begin()
        while self.service.suspects:                                # the last host has its turn when there are few
            view = hosts[-1].cycle._begin(Work())
            self.assertTrue(self.claimSuspects(hosts[-1], view))
            hosts[-1].cycle.session.manager.commit()
            self.manager.begin()


class TestCancelling(OrderCase):

    def users(self, count):
        """Give transaction managers, each with its view of the service, all of the same moment."""
        for _ in range(count):
            manager = transaction.TransactionManager()
            connection = self.db.open(manager)
            self.addCleanup(connection.close)
            self.addCleanup(manager.abort)
            manager.begin()
            yield manager, connection.root()['Application']['TaskService']

    def test_at_the_same_time(self):
        jobids = self.addMany(40)
        self.claim(self.host('host'), 20, jobids[0] >> BITS)
        self.service._v_cancelling = 3
        self.service.cancel(jobids.pop())                           # the first one of a task makes its counter
        self.manager.commit()
        users = list(self.users(len(jobids)))
        for (_, service), jobid in zip(users, jobids):
            service._v_cancelling = 3                               # all in the same ledger
            service.cancel(jobid)
        for manager, _ in users:
            manager.commit()
        self.manager.begin()
        self.assertEqual(self.service.countJobs()[CANCELLED], 40)
        self.assertEqual(self.service.getTaskStatistics()['echo'].outcomes[CANCELLED], 40)
        self.assertEqual(len(self.service.getJobs(CANCELLED)), 40)

    def test_each_connection_has_a_ledger_of_its_own(self):
        jobids = self.addMany(60)
        for (manager, service), jobid in zip(self.users(30), jobids):
            service.cancel(jobid)
            service.cancel(jobids[-1 - jobids.index(jobid)])
            manager.commit()
        self.manager.begin()
        sizes = [shard.ledger.tally[CANCELLED] for shard in self.service.shards]
        self.assertEqual((sum(sizes), {size % 2 for size in sizes}), (60, {0}))
        self.assertGreater(sum(map(bool, sizes)), 4)

    def test_beside_removals(self):
        jobids = self.addMany(60)
        shard = jobids[0] >> BITS
        self.service._v_cancelling = shard ^ 1
        for jobid in jobids[:10]:
            self.service.cancel(jobid)
        self.manager.commit()
        (one, removing), (two, cancelling) = self.users(2)
        self.assertEqual(removing.removeJobs(CANCELLED, limit=3), 3)
        cancelling._v_cancelling = shard                            # where it is counted that they are gone
        cancelling.cancel(jobids[-1])                               # which is on another page
        two.commit()
        one.commit()
        self.manager.begin()
        self.assertEqual(self.service.countJobs()[CANCELLED], 10 + 1 - 3)

    def test_a_running_job_and_a_long_queue(self):
        jobids = self.addMany(600)
        running, = self.claim(self.host('host'), 1, jobids[0] >> BITS)
        (manager, service), = self.users(1)
        service.cancel(running)
        queue = service.shards[running >> BITS].ready
        self.assertEqual(len(queue.unloaded()), 1 + 600 // queue.bucketSize + 1)        # it was not looked for there
        manager.commit()

    def test_what_is_given_back_at_the_same_time(self):
        # To the one the job is claimed, to the other not cancelled: one of the two must look once more.
        jobids, host = self.addMany(2), self.host('host')
        claimed = self.claim(host, 2, jobids[0] >> BITS)
        (manager, user), = self.users(1)
        user.cancel(jobids[0])
        host.cycle.ownership._giveUp(host.cycle.session.begin(), claimed, 0.0)
        manager.commit()
        with self.assertRaises(ConflictError):
            host.cycle.session.manager.commit()
        host.cycle.session.tryAbort()
        host.cycle.leave(claimed)
        self.assertEqual((self.queue(jobids), self.service.countJobs()[QUEUED]), (jobids[1:], 1))

    def test_at_the_end_of_a_long_queue(self):
        queue = self.service.shards[0].ready
        for jobid in range(20 * queue.bucketSize):
            queue.put(jobid)
        self.manager.commit()
        self.connection.cacheMinimize()
        asked = []
        with unittest.mock.patch.object(self.connection, 'prefetch', asked.append):
            self.assertTrue(queue.remove(20 * queue.bucketSize - 1))
        self.assertEqual([len(buckets) for buckets in asked], [21])         # at once: the server may be far away
        self.assertEqual(sum(bool(bucket._p_changed) for bucket in queue._buckets), 1)

    def test_many_at_the_same_moment(self):
        # Each has a place of its own in the ledger; to look for it must not take the longer the more there are.
        class Counting(LLBTree):
            looks = 0

            def __contains__(self, key):
                self.looks += 1
                return super().__contains__(key)

            def keys(self, *bounds):
                for key in super().keys(*bounds):
                    self.looks += 1
                    yield key

        ledger = ShardLedger()
        tree = ledger.finished[CANCELLED] = Counting()
        ends = [ledger.finish(jobid, CANCELLED, 5.0) for jobid in range(2000)]
        self.assertEqual(ends, [(5 * MICROSECONDS + number) / MICROSECONDS for number in range(2000)])
        self.assertLess(tree.looks, 2000 * 30)
        self.assertEqual(ledger.finish(2000, CANCELLED, 4.999999), 4.999999)

    def test_the_host_hears_of_it(self):
        jobids, host = self.addMany(2), self.host('host')
        self.claim(host, 1, jobids[0] >> BITS)
        interest = host.cycle.iterate(Work()).state.interest
        for number in range(16):
            with self.subTest(number=number):
                self.manager.begin()
                self.service._v_cancelling = number
                self.service.cancel(jobids[0])
                self.assertTrue(interest & {each._p_oid for each in self.connection._registered_objects})
                self.manager.abort()

    def test_a_task_that_commits_that_itself(self):
        def end(service, jobid, input):
            service.cancel(jobid)
            transaction.commit()

        provideUtility(end, ITask, name='end')
        jobid, = self.addMany(1, task='end')
        host = self.host('host')
        claim, = host.cycle.iterate(Work(want=1)).claims
        with contextlib.closing(host._worker()) as worker, self.assertLogs('lovely.remotetask', 'WARNING'):
            report = worker.run(claim)
        # The claim loop need not find that out, by a conflict.
        self.assertIsInstance(report, Recorded)
        host.cycle.iterate(Work([report]))
        self.manager.begin()
        self.assertEqual((self.service.getStatus(jobid), self.left()), (CANCELLED, []))

    def test_many_tasks(self):
        ledger = ShardLedger()
        for number in range(tallies.NAMED + 10):
            tallies.countCancelled(ledger, f'task {number}')
            tallies.countCancelled(ledger, 'task 0')
        found = tallies.tallies([ledger, ledger])
        self.assertEqual(len(found), tallies.NAMED + 1)
        self.assertEqual(found['task 0'].outcomes[CANCELLED], 2 * (tallies.NAMED + 11))
        self.assertEqual(sum(tally.outcomes[CANCELLED] for tally in found.values()), 4 * (tallies.NAMED + 10))
