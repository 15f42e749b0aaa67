"""Who is alive: heartbeats, silence, and what becomes of a host that was taken for silent and lives."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import subprocess
import sys
import threading
import unittest

import transaction
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError
from ZODB.utils import p64
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask.common.release import release
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.opening import Database
from lovely.remotetask.execution import rescue
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.job import Failure
from lovely.remotetask.processing.cycle import Cycle
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import install
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import ready
from lovely.remotetask.storage.generations import GENERATION
from lovely.remotetask.storage.ledger import LONG
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.storage.transitions import Outcome
from lovely.remotetask.storage.transitions import Recorded
from lovely.remotetask.storage.transitions import Returned
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import Clock
from lovely.remotetask.testing import temporaryZEO
from processorcase import PATH
from processorcase import ProcessorCase
from waits import PATIENCE
from waits import waitUntil


#: Seconds of the lease of the cycles here, whose clock the tests set.
LEASE = 30

#: Seconds of the lease of the processors here, which live in real time.
SHORT = 1.5


FAR = 'elsewhere/boot/1'


class AliveCase(ProcessorCase):
    """Cycles in a time that the test sets."""

    def setUp(self):
        super().setUp()
        self.now = Clock(1000.0)
        self.provide('echo', lambda input: input)

    def cycle(self, name, lease=LEASE, **arguments):
        cycle = Cycle(self.db, PATH, name, lease=lease, clock=self.now, monotonic=self.now, **arguments)
        self.addCleanup(cycle.close)
        cycle.attach()
        return cycle

    def silent(self, name, *marks):
        """Return the ids of jobs that a host of another machine has claimed, and has begun as the marks say."""
        self.manager.begin()
        ledger = self.service.ledgers[name] = Ledger()
        ledger.owner = dict(hosts.identity(lease=LEASE), machine=FAR)
        jobids = []
        for mark in marks:
            jobid = self.service.add('echo')
            self.assertTrue(ready.dequeue(self.service, jobid))
            ledger.claim(jobid, 0)
            if mark is not None:
                ledger.mark(jobid, mark)
            jobids.append(jobid)
        self.manager.commit()
        return jobids

    def turns(self, cycle, seconds, step=1):
        for _ in range(int(seconds / step)):
            self.now.advance(step)
            cycle.iterate(Work())

    def serial(self, name):
        self.manager.begin()
        self.service.ledgers[name].owner
        return self.service.ledgers[name]._p_serial

    def job(self, jobid):
        self.manager.begin()
        job = self.service.jobs[jobid]
        return job.run, job.failedAttempts, self.service.getStatus(jobid)


class TestHeartbeat(AliveCase):
    """A host is heard of at least each third of its lease, whatever it does."""

    level = 2

    def longestSilence(self, cycle, turn, seconds=200):
        """Return how long the ledger was not written at the most, in whole seconds, while `turn` does one each second.
        """
        serial, since, longest = self.serial(cycle.name), self.now(), 0
        for _ in range(seconds):
            self.now.advance(1)
            turn()
            longest = max(longest, self.now() - since)
            if self.serial(cycle.name) != serial:
                serial, since = self.serial(cycle.name), self.now()
        return longest

    def reporting(self, cycle, report):
        """Return a function that does a turn with the reports that `report` makes of the claims of the one before."""
        reports, count = [], []

        def turn():
            claims = cycle.iterate(Work(reports, 3)).claims
            reports[:] = filter(None, map(report, claims))
            count.append(len(reports))

        self.addCleanup(lambda: self.assertGreater(sum(count), 50))
        return turn

    def failed(self, claim):
        return Outcome(claim.jobid, claim.run, QUEUED, self.now(), self.now(), failure=Failure(self.now(), 'as asked'),
                       retryAt=self.now())

    def test_of_nothing(self):
        cycle = self.cycle('a')
        self.assertEqual(self.longestSilence(cycle, lambda: cycle.iterate(Work(want=1))), LEASE / 3)

    def test_of_jobs_that_are_tried_again(self):
        cycle, _ = self.cycle('a'), self.add('echo', retryPolicy=RetryPolicy(attempts=9999))
        self.assertLessEqual(self.longestSilence(cycle, self.reporting(cycle, self.failed)), LEASE / 3)

    def test_of_claims_that_are_given_back(self):
        cycle, _ = self.cycle('a'), self.add('echo')
        turn = self.reporting(cycle, lambda claim: Returned(claim.jobid, claim.run))
        self.assertLessEqual(self.longestSilence(cycle, turn), LEASE / 3)

    def test_of_jobs_that_are_cancelled(self):
        cycle, _ = self.cycle('a'), self.add('echo')

        def cancel(claim):
            self.manager.begin()
            self.service.cancel(claim.jobid)
            self.service.add('echo')
            self.manager.commit()
            return Recorded(claim.jobid, claim.run)

        self.assertLessEqual(self.longestSilence(cycle, self.reporting(cycle, cancel)), LEASE / 3)

    def test_of_schedules(self):
        cycle = self.cycle('a')
        for _ in range(60):                         # each minute; three a second are claimed
            self.service.addCronJob('echo', minute=tuple(range(60)), now=self.now())
        self.manager.commit()
        turn = self.reporting(
            cycle, lambda claim: Outcome(claim.jobid, claim.run, COMPLETED, self.now(), self.now(), None))
        self.assertEqual(self.longestSilence(cycle, turn), LEASE / 3)

    def test_of_turns_that_conflict(self):
        # Somebody always writes what a turn is about to write.
        jobid = self.add('echo')
        cycle = self.cycle('a')
        claim, = cycle.iterate(Work(want=1)).claims
        conflicts = []

        def clock():
            self.manager.begin()
            self.service.jobs[jobid].touch()
            self.manager.commit()
            return 0.0

        def turn():
            with self.assertRaises(ConflictError):
                cycle.iterate(Work([self.failed(claim)], 1))
            conflicts.append(1)

        cycle.clock = clock
        self.assertLessEqual(self.longestSilence(cycle, turn), LEASE / 3 + 1)
        self.assertEqual(len(conflicts), 200)
        cycle.clock = self.now
        cycle.iterate(Work([self.failed(claim)]))
        self.assertEqual(self.job(jobid)[:2], (1, 1))

    def test_no_more_is_written(self):
        cycle = self.cycle('a')
        cycle.iterate(Work())
        serials = set()
        for _ in range(60):
            self.now.advance(5)
            cycle.iterate(Work())
            serials.add(self.serial('a'))
            before = self.db.lastTransaction()
            cycle.iterate(Work())
            self.assertEqual(self.db.lastTransaction(), before)
        self.assertEqual(len(serials), 31)

    def test_a_processor_wakes_in_time(self):
        processor = MultiProcessor(self.db, PATH, waitTime=1000, lease=LEASE, monotonic=self.now, schedule=False)
        processor._attach()
        self.addCleanup(processor.cycle.close)
        processor.loop.iterate()
        seen = []
        for _ in range(10):
            self.now.advance(processor.loop.idleTime())
            processor.loop.iterate()
            processor.loop._clean()             # as `run` does, if there may be something to remove
            seen.append(self.now() - 1000)
        self.assertLessEqual({10, 20, 30}, set(seen))


class TestLeases(AliveCase):

    def test_different_ones_are_told_once(self):
        first, other = self.cycle('a', lease=30.0), self.cycle('b', lease=60.0)
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            for _ in range(3):
                first.iterate(Work())
                other.iterate(Work())
                self.now.advance(10)
        self.assertEqual([record.getMessage() for record in logs.records], [
            f'processing host {name} has a lease of {lease} s, but {us} one of {ours} s: give all hosts of a database '
            'the same' for name, lease, us, ours in (('b', 60, 'a', 30), ('a', 30, 'b', 60))])


class TestGenerations(AliveCase):

    def test_different_ones_are_told_once(self):
        first, other = self.cycle('a'), self.cycle('b')
        self.manager.begin()
        ledger = self.service.ledgers['b']
        ledger.owner = dict(ledger.owner, release='9.9', generation=99)
        self.manager.commit()
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            for _ in range(3):
                first.iterate(Work())
                other.iterate(Work())
                self.now.advance(10)
        mine = release()
        self.assertEqual([record.getMessage() for record in logs.records], [
            f'processing host {name} has release {its}, which knows generation {knows} of stored data, but {us} has '
            f'{ours}, which knows {we}: do not upgrade the data before all hosts have the same'
            for name, its, knows, us, ours, we in (('b', '9.9', 99, 'a', mine, GENERATION),
                                                   ('a', mine, GENERATION, 'b', '9.9', 99))])


class TestLiveness(AliveCase):
    """What an observer takes for silence."""

    def watch(self, lease=LEASE):
        watch = hosts.LivenessMonitor(lease)
        watch.wrote(self.now())
        return watch

    def states(self, watch, seconds, step=5):
        """Return what the watch says after each step in which it could write."""
        states = []
        for _ in range(int(seconds / step)):
            self.now.advance(step)
            watch.wrote(self.now())
            self.manager.begin()
            states.append(watch.stateOf('b', self.service.ledgers['b'], self.now()))
        return states

    def test_silent_for_more_than_a_lease(self):
        self.silent('b')
        watch = self.watch()
        watch.stateOf('b', self.service.ledgers['b'], self.now())
        self.assertEqual(self.states(watch, 40), [hosts.ALIVE] * 6 + [hosts.SILENT] * 2)
        self.service.ledgers['b']._p_changed = True
        self.manager.commit()
        self.assertEqual(self.states(watch, 40), [hosts.ALIVE] * 7 + [hosts.SILENT])

    def test_a_process_of_this_machine_that_is_silent(self):
        # Stopped, or hanging: its process is there, so that only its lease tells.
        self.silent('b')
        self.service.ledgers['b'].owner = hosts.identity(lease=LEASE)
        self.manager.commit()
        self.assertEqual(self.states(self.watch(), 60)[-1], hosts.SILENT)

    def test_time_in_which_the_observer_could_not_write(self):
        self.silent('b')
        watch = self.watch()
        self.assertEqual(set(self.states(watch, 30)), {hosts.ALIVE})
        self.now.advance(LEASE * 5)
        self.assertEqual(watch.stateOf('b', self.service.ledgers['b'], self.now()), hosts.ALIVE)
        watch.wrote(self.now())
        self.assertEqual(watch.stateOf('b', self.service.ledgers['b'], self.now()), hosts.ALIVE)
        self.assertEqual(self.states(watch, 35), [hosts.ALIVE] * 6 + [hosts.SILENT])
        self.assertEqual(set(self.states(watch, 1000, LEASE / 2 + 1)), {hosts.ALIVE})
        self.assertEqual(self.states(watch, 1000, LEASE / 2)[-1], hosts.SILENT)

    def test_the_longer_lease_counts(self):
        self.silent('b')
        for mine, others in ((LEASE, LEASE * 4), (LEASE * 4, LEASE)):
            self.service.ledgers['b'].owner = dict(hosts.identity(lease=others), machine=FAR)
            self.manager.commit()
            states = self.states(self.watch(mine), LEASE * 5)
            self.assertEqual(states.index(hosts.SILENT) * 5, LEASE * 4 + 5)

    def test_a_ledger_that_was_not_looked_at_meanwhile(self):
        # An object that is not in memory has the serial of the state that it had there.
        self.silent('b')
        watch = self.watch()
        self.states(watch, 5)
        for _ in range(20):
            self.now.advance(5)
            watch.wrote(self.now())
        with self.db.transaction() as connection:
            connection.root()['Application']['TaskService'].ledgers['b']._p_changed = True
        self.manager.begin()
        self.assertEqual(watch.stateOf('b', self.service.ledgers['b'], self.now()), hosts.ALIVE)

    def test_a_process_that_has_ended(self):
        gone = subprocess.Popen([sys.executable, '-c', ''])
        gone.wait()
        self.silent('b')
        self.service.ledgers['b'].owner = dict(hosts.identity(), pid=gone.pid)
        self.assertEqual(hosts.LivenessMonitor(LEASE).stateOf('b', self.service.ledgers['b'], 0), hosts.ENDED)

    def test_a_process_of_which_nothing_can_be_seen(self):
        # As of another user's where /proc is mounted with hidepid: when it was started cannot be read.
        owner = dict(hosts.identity(), started='')
        self.assertIsNone(hosts.isGone(owner))


class TestTaking(AliveCase):
    """Of a rescue and whatever else happens at the same time one thing happens."""

    def test_the_jobs_of_a_silent_host(self):
        running, waiting = self.silent('b', LONG, None)
        cycle = self.cycle('a')
        self.turns(cycle, 40)
        self.assertEqual(self.job(running), (0, 0, 'processing'))
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            self.turns(cycle, 5)
        lost, *said = [record.getMessage() for record in logs.records]
        self.assertTrue(lost.startswith(f'job {running} (echo) failed, and is queued again: the '), lost)
        self.assertEqual(said, ['processing host b was silent for more than 30 s: a takes over its jobs (2)'])
        self.assertEqual((self.job(running), self.job(waiting)), ((1, 1, 'queued'), (1, 0, 'queued')))
        self.assertRegex(self.service.jobs[running].errors[0].message, 'b was silent for more than 30 s while .* GIL')
        self.assertIsNone(self.service.ledgers['b'].owner)

    def test_the_jobs_of_a_host_that_has_ended(self):
        gone = subprocess.Popen([sys.executable, '-c', ''])
        gone.wait()
        running, = self.silent('b', LONG)
        self.service.ledgers['b'].owner = dict(hosts.identity(), pid=gone.pid)
        self.manager.commit()
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            self.cycle('a').iterate(Work())
        lost, *said = [record.getMessage() for record in logs.records]
        self.assertTrue(lost.startswith(f'job {running} (echo) failed, and is queued again: the '), lost)
        self.assertEqual(said, ['processing host b has ended: a takes over its jobs (1)'])
        self.assertEqual(self.job(running), (1, 1, 'queued'))
        self.assertEqual(self.service.jobs[running].errors[0].message,
                         'the processing host b ended while the job was running')

    def test_after_a_common_stall_nobody_is_rescued(self):
        cycles = [self.cycle(name) for name in 'abc']
        jobid = self.add('echo')
        claim, = cycles[0].iterate(Work(want=1)).claims
        with self.assertNoLogs('lovely.remotetask', 'WARNING'):
            for _ in range(3):
                for cycle in cycles * 2:
                    cycle.iterate(Work())
                self.now.advance(6 * LEASE)             # the turns of all lie back
            for stalled in cycles:                      # or one of them takes so long, and all others wait
                stalled.clock = lambda: self.now.advance(2 * LEASE)
                stalled.iterate(Work())
                stalled.clock = self.now
                for cycle in cycles * 2:
                    cycle.iterate(Work())
        self.assertEqual(self.job(jobid), (0, 0, 'processing'))

    def test_a_heartbeat_that_comes_between(self):
        # The observer looks at the database, the other is heard of, and only then the observer commits.
        victim, observer = self.cycle('a'), self.cycle('b')
        jobid = self.add('echo')
        claim, = victim.iterate(Work(want=1)).claims
        self.turns(observer, 40)

        def clock():
            victim.iterate(Work())
            return self.now()

        observer.clock = clock
        self.now.advance(1)
        with self.assertNoLogs('lovely.remotetask', 'WARNING'), self.assertRaises(ConflictError):
            observer.iterate(Work())
        observer.clock = self.now
        with self.assertNoLogs('lovely.remotetask', 'WARNING'):
            self.turns(observer, 5)
        self.assertEqual(self.job(jobid), (0, 0, 'processing'))
        result = victim.iterate(Work([Outcome(claim.jobid, claim.run, COMPLETED, 0.0, 1.0, None)]))
        self.assertEqual((self.job(jobid), result.lost), ((0, 0, 'completed'), []))

    def test_two_rescuers(self):
        jobid, = self.silent('c', LONG)
        first, second = self.cycle('a', schedule=False), self.cycle('b', schedule=False)
        for _ in range(40):
            self.now.advance(1)
            first.iterate(Work())
            second.iterate(Work())

        def clock():
            second.iterate(Work())
            return self.now()

        first.clock = clock
        self.now.advance(1)
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            with self.assertRaises(ConflictError):
                first.iterate(Work())
            first.clock = self.now
            self.turns(first, 5)
        lost, *said = [record.getMessage() for record in logs.records]
        self.assertTrue(lost.startswith(f'job {jobid} (echo) failed, and is queued again: the '), lost)
        self.assertEqual(said, ['processing host c was silent for more than 30 s: b takes over its jobs (1)'])
        self.assertEqual(self.job(jobid), (1, 1, 'queued'))

    def test_two_rescuers_of_a_host_without_jobs(self):
        # It is the scheduler that was lost: only the record of its ledger tells one rescue from another.
        self.silent('c')
        self.service.schedule.scheduler = 'c'
        self.manager.commit()
        first, second = self.cycle('a', schedule=False), self.cycle('b')
        for _ in range(40):
            self.now.advance(1)
            first.iterate(Work())
            second.iterate(Work())
        self.now.advance(1)
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            second.iterate(Work())
            first.iterate(Work())
        self.assertEqual(len(logs.records), 1)
        self.manager.begin()
        self.assertEqual(self.service.schedule.scheduler, 'b')

    def test_who_was_rescued_and_lives_goes_on(self):
        victim = self.cycle('b')
        jobids = [self.add('echo') for _ in range(3)]
        lost, other = victim.iterate(Work(want=2)).claims
        self.manager.begin()
        rescue.rescue(self.service, 'b', self.now(), LEASE)
        self.manager.commit()
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            late = Outcome(lost.jobid, lost.run, COMPLETED, 0.0, 1.0, 'late')
            result = victim.iterate(Work([late], 1))
        self.assertIn('they run the 2 jobs', logs.records[0].getMessage())
        self.assertIn('was silent for its lease of 30 s, as others saw it', logs.records[0].getMessage())
        self.assertEqual(set(result.lost), {(lost.jobid, lost.run), (other.jobid, other.run)})
        self.assertEqual(victim.openClaims, {result.claims[0].jobid: 1})
        self.assertEqual([self.job(jobid)[:2] for jobid in jobids], [(1, 0), (1, 0), (0, 0)])
        self.assertEqual(self.service.ledgers['b'].owner['token'], victim.owner['token'])
        self.assertEqual(victim.iterate(Work()).lost, [])


class TestScheduler(AliveCase):

    def test_it_takes_the_schedule_at_once_after_a_conflict(self):
        # Else nothing would be scheduled until the next look at the others: with ZEO, for five seconds.
        cycle = self.cycle('a')
        watchPeers = cycle._watchPeers

        def andSomebodyWrites(view):
            messages = watchPeers(view)
            self.manager.begin()
            self.service.schedule._p_changed = True
            self.manager.commit()
            return messages

        cycle._watchPeers = andSomebodyWrites
        self.assertRaises(ConflictError, cycle.iterate, Work())
        cycle._watchPeers = watchPeers
        cycle.iterate(Work())
        self.manager.begin()
        self.assertEqual(self.service.schedule.scheduler, 'a')


class TestLost(ProcessorCase):

    level = 2

    def test_runs_that_a_living_host_has_lost(self):
        begun, again, go = threading.Event(), threading.Event(), threading.Event()
        self.addCleanup(go.set)
        ends = []

        def write(service, jobid, input):
            service.data['runs'] = service.data.get('runs', 0) + 1
            if not begun.is_set():
                begun.set()
                pause = threading.Event()
                while not service.isCancelled(jobid):       # until it is told to end
                    pause.wait(0.01)
                ends.append('told')
                again.wait(PATIENCE)
            else:
                again.set()                                 # both runs are in this process now
                go.wait(PATIENCE)
                ends.append(service.isCancelled(jobid))

        provideUtility(write, ITask, name='write')
        self.provide('echo', lambda input: input)
        processor = self.start(name='late', maxThreads=2)
        jobid = self.add('write')
        self.assertTrue(begun.wait(PATIENCE))
        self.manager.begin()
        rescue.rescue(self.service, 'late', 0, LEASE)
        self.manager.commit()
        self.assertTrue(again.wait(PATIENCE))
        self.assertEqual(set(self.statuses(*[self.add('echo') for _ in range(10)])), {'completed'})    # by the first
        self.assertEqual(processor.inFlight.load(1).unwanted, 0)
        go.set()
        self.assertEqual(self.statuses(jobid), ['completed'])
        self.assertEqual((ends, dict(self.service.data), self.left()), (['told', False], {'runs': 1}, []))

    def test_a_thread_that_a_lost_run_keeps(self):
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)
        self.provide('wait', lambda input: (begun.set(), go.wait(PATIENCE))[1])
        processor = self.start(name='late', maxThreads=1)
        jobid = self.add('wait')
        self.assertTrue(begun.wait(PATIENCE))
        self.manager.begin()
        rescue.rescue(self.service, 'late', 0, LEASE)
        self.manager.commit()
        waitUntil(lambda: processor.inFlight.load(1).unwanted)
        self.assertEqual(self.left(), [jobid])          # it claims nothing that would wait
        self.assertEqual(processor.loop.demand(processor.inFlight.load(1)), 0)
        go.set()
        self.assertEqual(self.statuses(jobid), ['completed'])


class TestStalls(unittest.TestCase):
    """Two processors over a database server, and commits that take longer than their lease."""

    level = 2

    def setUp(self):
        self.addCleanup(testing.tearDown)
        self.zeo = self.enterContext(temporaryZEO())
        self.client = self.zeo.database()
        install(self.client)
        self.manager = transaction.TransactionManager()
        connection = self.client.open(self.manager)
        self.addCleanup(connection.close)
        self.addCleanup(self.manager.abort)
        self.service = connection.root()['Application']['TaskService']
        self.service.data = PersistentMapping()
        self.manager.commit()
        self.lines = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self.lines.append(record.getMessage())
        logging.getLogger('lovely.remotetask').addHandler(handler)
        self.addCleanup(logging.getLogger('lovely.remotetask').removeHandler, handler)
        self.hosts = []
        for name in 'ab':
            database = Database(self.zeo.database)
            self.addCleanup(database.close)
            self.hosts.append(MultiProcessor(database.db, PATH, name=name, lease=SHORT, maxThreads=2,
                                             taskClient=database.taskClient))

    def start(self):
        for host in self.hosts:
            host.start()
            self.addCleanup(host.stop, PATIENCE)

    def add(self, *arguments, **keywords):
        for attempt in self.manager.attempts(10):
            with attempt:
                jobid = self.service.add(*arguments, **keywords)
        return jobid

    def waitUntil(self, condition):
        wakeup = threading.Event()
        notifierOf(self.client).subscribe(wakeup)
        while True:
            self.manager.begin()
            if condition():
                return
            self.assertTrue(wakeup.wait(PATIENCE), self.lines)
            wakeup.clear()

    def statuses(self, *jobids):
        self.waitUntil(lambda: all(self.service.getStatus(jobid) in FINAL for jobid in jobids))
        return {self.service.getStatus(jobid) for jobid in jobids}

    def stall(self, seconds):
        """Have a client vote, and finish so many seconds later."""
        storage = self.zeo.storage()
        with contextlib.closing(storage):
            txn = TransactionMetaData()
            storage.tpc_begin(txn)
            storage.store(storage.new_oid(), p64(0), b'cbuiltins\ndict\n.}.', '', txn)
            storage.tpc_vote(txn)
            threading.Event().wait(seconds)
            storage.tpc_finish(txn)

    def heard(self):
        """Wait until each host has been heard of three times more."""
        serials = {name: set() for name in 'ab'}

        def isEnough():
            for name, seen in serials.items():
                ledger = self.service.ledgers[name]
                ledger.owner
                seen.add(ledger._p_serial)
            return all(len(seen) > 3 for seen in serials.values())

        self.waitUntil(isEnough)

    def check(self, *jobids):
        self.assertEqual(self.lines, [])
        for jobid in jobids:
            self.assertEqual((self.service.jobs[jobid].failedAttempts, self.service.jobs[jobid].run), (0, 0))

    def test_a_client_that_stalls_after_its_vote(self):
        begun, go = threading.Semaphore(0), threading.Event()
        self.addCleanup(go.set)
        provideUtility(SimpleTask(lambda input: (begun.release(), go.wait(PATIENCE))[1]), name='wait')
        jobids = [self.add('wait') for _ in range(4)]
        self.start()
        for _ in jobids:
            self.assertTrue(begun.acquire(timeout=PATIENCE))
        for leases in (1, 3):
            self.stall(leases * SHORT)
            self.heard()
        go.set()
        self.assertEqual(self.statuses(*jobids), {'completed'})
        self.check(*jobids)

    def test_a_task_whose_commit_takes_longer_than_the_lease(self):
        class Slow:
            """A data manager that votes late: before the database or after it."""

            transaction_manager = transaction.manager

            def __init__(self, key):
                self.sortKey = lambda: key
                self.abort = self.tpc_begin = self.commit = self.tpc_finish = self.tpc_abort = lambda txn: None

            def tpc_vote(self, txn):
                threading.Event().wait(2.5 * SHORT)

        def write(service, jobid, input):
            service.data[jobid] = service.data.get(jobid, 0) + 1
            transaction.get().join(Slow(input))

        provideUtility(write, ITask, name='write')
        provideUtility(SimpleTask(lambda input: input), name='echo')
        self.start()
        jobids = [self.add('write', key) for key in '~!']
        others = [self.add('echo') for _ in range(4)]
        self.assertEqual(self.statuses(*jobids, *others), {'completed'})
        self.heard()
        self.assertEqual(dict(self.service.data), dict.fromkeys(jobids, 1))
        self.assertEqual(self.lines, [])
        self.assertEqual({self.service.jobs[jobid].failedAttempts for jobid in jobids + others}, {0})

    def test_jobs_that_fail_again_and_again_beside_a_long_one(self):
        begun, go, pause = threading.Semaphore(0), threading.Event(), threading.Event()
        self.addCleanup(go.set)
        runs = []

        def fail(input):
            runs.append(1)
            if not go.is_set():
                pause.wait(0.05)
                raise RuntimeError('as asked')

        provideUtility(SimpleTask(lambda input: (begun.release(), go.wait(PATIENCE))[1]), name='wait')
        task = SimpleTask(fail)
        task.retryPolicy = RetryPolicy(attempts=9999, base=0.01, factor=1)
        provideUtility(task, name='fail')
        waiting = [self.add('wait') for _ in range(2)]
        self.start()
        for _ in waiting:
            self.assertTrue(begun.acquire(timeout=PATIENCE))
        with self.assertLogs('lovely.remotetask', 'WARNING'):
            failing = [self.add('fail') for _ in range(6)]
            for host in self.hosts:
                self.assertFalse(host._lifecycle.ended.wait(3 * SHORT))
            go.set()
            self.assertEqual(self.statuses(*waiting, *failing), {'completed'})
        self.assertGreater(len(runs), 20)
        self.assertEqual([line for line in self.lines if 'as asked' not in line], [])
        self.assertEqual({(self.service.jobs[jobid].failedAttempts, self.service.jobs[jobid].run) for jobid in waiting},
                         {(0, 0)})


if __name__ == '__main__':
    unittest.main()
