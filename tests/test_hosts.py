"""Several processing hosts on one service: claims, neighbours that end, names, late hosts, stopping."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import socket
import subprocess
import sys
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

import transaction
from ZEO.ClientStorage import ClientStorage
from ZEO.Exceptions import ClientDisconnected
from ZODB.DB import DB
from ZODB.POSException import ConflictError
from zope.component import provideUtility

from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.errors import NameTaken
from lovely.remotetask.execution import rescue
from lovely.remotetask.execution.run import failed
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.job import Failure
from lovely.remotetask.processing.claim_strategy import CLAIMING
from lovely.remotetask.processing.cycle import Cycle
from lovely.remotetask.processing.iteration import Snapshot
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import install
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.storage.shards import BITS
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import temporaryZEO
from processorcase import PATH
from processorcase import HostCase
from test_connections import Relay
from threads import inThread
from waits import PATIENCE
from waits import waitUntil


class Cable(Relay):
    """Breaks in the middle of a commit: the client is told so at once, the server gets the last message later.

    cuts -- an event: it breaks when the next commit ends.
    voted -- an event: the client votes about the next one, over another connection.
    goesOn -- an event: the server gets the message.
    """

    #: What the client says when it votes, and in that last message.
    vote, finish = b'vote', b'tpc_finish'

    def __init__(self, server):
        self.cuts, self.voted, self.goesOn = threading.Event(), threading.Event(), threading.Event()
        super().__init__(server)

    def _pass(self, source, target, isHeld):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.cuts.is_set() and self.finish in data:
                    self.cuts.clear()
                    self.voted.clear()
                    source.shutdown(socket.SHUT_RDWR)
                    self.goesOn.wait()
                    target.sendall(data)
                    return
                target.sendall(data)
                if self.vote in data and not self.cuts.is_set():
                    self.voted.set()
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.goesOn.set()
        super().close()


def finishLate(case, db, cable, clients, error):
    """Let the server finish a commit of a host late, and check that the host then knows of all that it has claimed.

    db -- a `ZODB.DB`, and `clients` another one, over the `Cable`.
    error -- what a host raises whose connection has broken.
    """
    provideUtility(SimpleTask(len), name='echo')
    cycle = Cycle(clients, PATH, 'a')
    case.addCleanup(cycle.close)
    cycle.attach()
    cycle.iterate(Work())
    with db.transaction() as connection:
        jobid = connection.root()['Application']['TaskService'].add('echo')
    if isinstance(clients.storage, ClientStorage):
        clients.storage.ping()
    cable.cuts.set()
    with case.assertLogs(), case.assertRaises(error):
        cycle.iterate(Work(want=1))
    thread, outcome = inThread(cycle.iterate, Work())
    case.assertTrue(cable.voted.wait(PATIENCE))
    cable.goesOn.set()
    thread.join(PATIENCE)
    case.assertIsInstance(outcome[0], ConflictError)
    case.assertEqual([claim.jobid for claim in cycle.iterate(Work()).claims], [jobid])


class TestHosts(HostCase):

    level = 2

    def test_many_hosts_begin_at_the_same_time(self):
        server = self.enterContext(temporaryZEO())
        dbs = [self.enterContext(contextlib.closing(server.database())) for _ in range(24)]
        install(dbs[0])
        cycles = [Cycle(db, PATH, name=f'many-{number}') for number, db in enumerate(dbs)]
        barrier = threading.Barrier(len(cycles))

        def attach(cycle):
            self.addCleanup(cycle.close)
            barrier.wait(PATIENCE)
            cycle.attach()
            return cycle.owner['token']

        with ThreadPoolExecutor(len(cycles)) as threads:
            tokens = list(threads.map(attach, cycles))
        dbs[0].storage.ping()
        with dbs[0].transaction() as connection:
            ledgers = connection.root()['Application']['TaskService'].ledgers
            self.assertEqual([ledgers[cycle.name].owner['token'] for cycle in cycles], tokens)
            self.assertEqual(len({ledgers[cycle.name].number for cycle in cycles}), len(cycles))

    def test_a_claim_on_what_has_run_meanwhile(self):
        # One host looks at the queue, and is slow.  Another runs the job meanwhile, which fails and is queued again:
        # the slow one must not take that entry with what it knows, which would be a claim on the run that is over.
        self.provide('double', lambda input: 2 * input)
        self.service.ledgers.update({name: Ledger() for name in 'ab'})
        jobid, now = self.add('double', 1), 1000.0
        slow = transaction.TransactionManager()
        connection = self.db.open(slow)
        self.addCleanup(connection.close)
        self.addCleanup(slow.abort)
        slow.begin()
        service = connection.root()['Application']['TaskService']
        claims, _ = claiming.claim(service, 1, 0, now, service.ledgers['a'])
        self.assertEqual(len(claims), 1)

        ledger = self.service.ledgers['b']
        (claim,), _ = claiming.claim(self.service, 1, 0, now, ledger)
        self.manager.commit()
        failure = transitions.Outcome(jobid, claim.run, QUEUED, now, now, failure=Failure(now, ''), retryAt=now + 1)
        transitions.acknowledge(self.service, ledger, failure, now)
        self.manager.commit()
        scheduling.tick(self.service, now)
        scheduling.tick(self.service, now + 1)
        self.manager.commit()
        self.assertEqual(self.left(), [jobid])
        with self.assertRaises(ConflictError):
            slow.commit()
        self.start()
        self.assertEqual(self.statuses(jobid), ['completed'])

    def test_what_the_inbox_has_again(self):
        # The same with who moves ids from the inbox to the calendar: one means a schedule that is not active yet.
        self.provide('double', lambda input: 2 * input)
        jobid = self.service.addCronJob('double', 1, minute=(0,), active=False, now=0)
        self.manager.commit()
        slow = transaction.TransactionManager()
        connection = self.db.open(slow)
        self.addCleanup(connection.close)
        self.addCleanup(slow.abort)
        slow.begin()
        scheduling.tick(connection.root()['Application']['TaskService'], 10.0)
        self.manager.begin()
        scheduling.tick(self.service, 10.0)
        self.manager.commit()
        self.service.updateCronJob(jobid, now=20.0, active=True)
        self.manager.commit()
        with self.assertRaises(ConflictError):
            slow.commit()
        self.manager.begin()
        scheduling.tick(self.service, 30.0)
        self.assertEqual(self.service.schedule.nextTime(), 3600.0)

    def test_claims_that_nobody_knows_of(self):
        # The answer to a commit was lost, the process goes on: it runs what it has claimed, if that is wanted still.
        self.provide('double', lambda input: 2 * input)
        jobids = [self.add('double', number) for number in range(3)]
        cycle = self.attached('a')
        self.assertEqual(len(cycle.iterate(Work(want=3)).claims), 3)
        cycle.openClaims.clear()
        cycle._isInDoubt = True
        self.manager.begin()
        self.service.cancel(jobids[1])
        self.manager.commit()
        self.assertEqual([claim.jobid for claim in cycle.iterate(Work(want=3)).claims], [jobids[0], jobids[2]])
        self.manager.begin()
        self.assertEqual(list(self.service.ledgers['a'].claimed), [jobids[0], jobids[2]])

    def test_the_next_run_of_a_job_that_nobody_knows_of(self):
        # One commit has put a failed run on record and claimed the next one, because it came late; its answer was lost.
        self.provide('double', lambda input: 2 * input)
        jobid = self.add('double', 1)
        cycle = self.attached('a')
        claim, = cycle.iterate(Work(want=1)).claims
        report = failed(claim, ValueError('once'), 1.0, 2.0, 'a', RetryPolicy(attempts=3, base=0))
        manager = cycle.session.manager
        commit = manager.commit

        def loseAnswer():
            commit()
            raise ClientDisconnected('Connection lost')

        manager.commit = loseAnswer
        with self.assertRaises(ClientDisconnected):
            cycle.iterate(Work([report], want=1))
        manager.commit = commit
        self.manager.begin()
        self.assertEqual(dict(self.service.ledgers['a'].claimed), {jobid: claim.run + 1})
        result = cycle.iterate(Work([report], want=1))
        self.assertEqual([(found.jobid, found.run) for found in result.claims], [(jobid, claim.run + 1)])
        self.assertEqual(cycle.openClaims, {jobid: claim.run + 1})
        self.manager.begin()
        self.assertEqual(dict(self.service.ledgers['a'].claimed), {jobid: claim.run + 1})

    def test_a_commit_that_the_server_finishes_late(self):
        # The last message of a commit is still under way when the connection has broken, and the client has another.
        server = self.enterContext(temporaryZEO())
        db = self.enterContext(contextlib.closing(server.database()))
        install(db)
        cable = self.enterContext(contextlib.closing(Cable(server.address)))
        clients = self.enterContext(contextlib.closing(DB(ClientStorage(cable.address, wait_timeout=PATIENCE))))
        finishLate(self, db, cable, clients, ClientDisconnected)

    def test_a_run_that_is_over_on_record_and_goes_on(self):
        # Somebody has changed the schedule, and the host has claimed the next run: it has its own marks and progress.
        self.provide('double', lambda input: 2 * input)
        jobid = self.service.addCronJob('double', 1, minute=(0,), now=1000.0)
        self.service.runNow(jobid)
        self.manager.commit()
        cycle = self.attached('a')
        late, = cycle.iterate(Work(want=1)).claims
        snapshot = Snapshot([((jobid, late.run), 5.0)], [((jobid, late.run), (0.5, 'late'))])
        cycle.iterate(Work(snapshot=snapshot))
        self.manager.begin()
        self.assertEqual(self.service.getProgress(jobid), (0.5, 'late'))
        self.service.updateCronJob(jobid, minute=(), delay=0)
        self.manager.commit()
        claim, = cycle.iterate(Work(want=1)).claims
        self.assertEqual(claim.run, late.run + 1)
        cycle.iterate(Work(snapshot=snapshot))
        self.manager.begin()
        ledger = self.service.ledgers['a']
        self.assertEqual((self.service.getProgress(jobid), dict(ledger.started), dict(ledger.began)), (None, {}, {}))
        self.service.setProgress(jobid, 0.25)
        self.assertEqual(dict(ledger.progress), {jobid: (0.25, '')})

    def test_a_run_that_goes_on_elsewhere(self):
        self.provide('double', lambda input: 2 * input)
        jobid = self.service.addCronJob('double', 1, minute=(0,), now=1000.0)
        self.service.runNow(jobid)
        self.manager.commit()
        first, second = self.attached('a'), self.attached('b')
        late, = first.iterate(Work(want=1)).claims
        first.iterate(Work(snapshot=Snapshot(progress=[((jobid, late.run), (0.5, 'late'))])))
        self.manager.begin()
        self.service.updateCronJob(jobid, minute=(), delay=0)
        self.manager.commit()
        first.iterate(Work())                           # it is the scheduler
        self.assertEqual(len(second.iterate(Work(want=1)).claims), 1)
        self.manager.begin()
        self.assertIsNone(self.service.getProgress(jobid))
        self.service.setProgress(jobid, 0.25)
        self.assertEqual(self.service.getProgress(jobid), (0.25, ''))
        self.assertEqual(dict(self.service.ledgers['a'].progress), {jobid: (0.5, 'late')})

    def test_two_hosts_share(self):
        ran = []
        self.provide('note', ran.append)
        self.start(name='a')
        self.start(name='b')
        jobids = [self.service.add('note', number) for number in range(500)]
        self.manager.commit()
        self.statuses(*jobids)
        self.assertEqual(sorted(ran), list(range(500)))

    def test_each_host_watches_the_next_ones(self):
        names = 'abcdefgh'
        cycles = {name: self.attached(name, threads=int(name in 'fgh')) for name in names}
        gone = subprocess.Popen([sys.executable, '-c', ''])
        gone.wait()
        self.provide('double', lambda input: 2 * input)
        for name in 'fgh':
            self.add('double', 1)
            # Those before have no thread free any more.
            self.assertEqual(len(cycles[name].iterate(Work(want=1)).claims), 1)
            self.manager.begin()
            self.service.ledgers[name].owner = dict(self.service.ledgers[name].owner, pid=gone.pid)
            self.manager.commit()

        def claims():
            self.manager.begin()
            return {name: len(ledger.claimed) for name, ledger in self.service.ledgers.items() if ledger.claimed}

        for name in 'ab':
            cycles[name].iterate(Work())
            self.assertEqual(claims(), {'f': 1, 'g': 1, 'h': 1})    # the next three live
        cycles['c'].iterate(Work())                                 # d, e, and, behind the dead, a
        self.assertEqual(claims(), {})

    def test_a_dead_scheduler_is_followed(self):
        cycles = {name: self.attached(name, schedule=name != 'b') for name in 'abcdefg'}
        gone = subprocess.Popen([sys.executable, '-c', ''])
        gone.wait()
        cycles['e'].iterate(Work())
        self.manager.begin()
        self.assertEqual(self.service.schedule.scheduler, 'e')
        self.service.ledgers['e'].owner = dict(self.service.ledgers['e'].owner, pid=gone.pid)
        self.manager.commit()
        for name, scheduler in (('a', 'e'), ('b', None), ('a', 'a')):  # b sees it, but is not to schedule
            cycles[name].iterate(Work())
            self.manager.begin()
            self.assertEqual(self.service.schedule.scheduler, scheduler)

    def test_only_what_matters_wakes(self):
        with contextlib.ExitStack() as stack:
            zeo = stack.enter_context(temporaryZEO())
            db = stack.enter_context(contextlib.closing(DB(zeo.storage())))
            install(db)
            other = stack.enter_context(contextlib.closing(DB(zeo.storage())))      # now: it is to see the service
            cycle = stack.enter_context(contextlib.closing(Cycle(other, PATH, 'a')))
            cycle.attach()
            cycle.iterate(Work())
            wakeup, all = threading.Event(), threading.Event()
            wakeup.interest = cycle.state.interest
            for each in wakeup, all:
                notifierOf(other).subscribe(each)

            def rings(change):
                wakeup.clear()
                all.clear()
                with db.transaction() as connection:
                    change(connection.root()['Application']['TaskService'])
                self.assertTrue(all.wait(PATIENCE))
                return wakeup.is_set()

            self.provide('double', lambda input: 2 * input)
            jobids = []
            for change in (lambda service: service.ledgers.update({'b': Ledger()}),
                           lambda service: service.ledgers['b'].claim(1, 0),
                           lambda service: jobids.append(service.add('double', startLater=True))):
                self.assertFalse(rings(change))
            for change in (lambda service: jobids.append(service.add('double')),
                           lambda service: service.startJob(jobids[0]),
                           lambda service: service.addCronJob('double', delay=5)):
                self.assertTrue(rings(change))
            seen = threading.Event()
            notifierOf(db).subscribe(seen)
            claims = cycle.iterate(Work(want=2)).claims
            self.assertEqual({claim.jobid for claim in claims}, set(jobids))
            wakeup.interest = cycle.state.interest
            self.assertTrue(seen.wait(PATIENCE))
            for change in (lambda service: service.cancel(jobids[0]),           # writes no queue
                           lambda service: service.pause()):
                self.assertTrue(rings(change))

    def test_after_many_conflicts_a_turn_claims_nothing(self):
        self.provide('double', lambda input: 2 * input)
        jobid = self.add('double', 1)
        processor = MultiProcessor(self.db, PATH)
        processor._attach()
        self.addCleanup(processor.cycle.close)
        for failures, claimed in ((CLAIMING - 1, {}), (2 * CLAIMING - 1, {}), (CLAIMING, {jobid: 0})):
            processor._wakeup.clear()
            processor.loop.failures = failures
            processor.loop.iterate()
            self.assertEqual(processor.cycle.openClaims, claimed)
            self.assertEqual(processor._wakeup.is_set(), not claimed)     # it goes on at once

    def test_what_is_claimed_is_run_whatever_is_asked_meanwhile(self):
        """The stack of a run cannot be told: the loader of its module gives no source."""
        class Loader:
            def get_source(self, name):
                raise ValueError('I have none')

        begun, goOn = threading.Event(), threading.Event()
        names = {'__name__': 'generated', '__loader__': Loader(), 'begun': begun, 'goOn': goOn}
        exec(compile('def wait(input):\n    begun.set()\n    goOn.wait()', 'generated.py', 'exec'), names)
        self.provide('wait', names['wait'])
        self.provide('echo', lambda input: input)
        self.start(maxThreads=2)
        self.addCleanup(goOn.set)
        waiting = self.add('wait')
        self.assertTrue(begun.wait(PATIENCE))
        self.manager.begin()
        self.service.askStack(waiting)
        self.assertEqual(self.statuses(self.add('echo')), ['completed'])        # claimed with the question
        waitUntil(lambda: self.manager.begin() and self.service.getStack(waiting).answered)
        self.assertEqual(self.service.getStack(waiting).text,
                         'it cannot be told where the run is: ValueError: I have none')

    def test_the_end_of_a_neighbour_is_seen_at_once(self):
        self.provide('double', lambda input: 2 * input)
        neighbour = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
        self.addCleanup(neighbour.stdin.close)
        self.addCleanup(neighbour.wait)
        self.addCleanup(neighbour.kill)
        jobid = self.add('double', 1)
        ledger = self.service.ledgers['b'] = Ledger()
        ledger.owner = dict(hosts.identity(), pid=neighbour.pid, started=hosts._startOf(neighbour.pid))
        self.assertTrue(self.service.shards[jobid >> BITS].ready.remove(jobid))
        ledger.claim(jobid, 0)
        self.manager.commit()
        cycle = Cycle(self.db, PATH, 'c', monotonic=lambda: 1.0)
        self.addCleanup(cycle.close)
        cycle.attach()
        cycle.iterate(Work())
        self.assertTrue(cycle.peers.hasNeighbours)
        self.assertFalse(cycle.peers.hasNeighbourEnded())
        processor = self.start(name='a', lease=1000)        # without a look it would do nothing for 30 seconds
        waitUntil(lambda: processor.cycle.peers.hasNeighbours)
        neighbour.kill()
        self.assertEqual(self.statuses(jobid), ['completed'])
        self.assertTrue(cycle.peers.hasNeighbourEnded())
        neighbour.wait()

    def test_name_of_a_living_host(self):
        processor = self.start(name='a')
        with self.assertRaises(NameTaken):
            self.factory(self.db, PATH, name='a').start()
        self.assertTrue(processor.stop(PATIENCE))
        self.start(name='a')

    def test_unnamed_hosts(self):
        self.assertNotEqual(self.start().name, self.start().name)

    def test_jobs_of_a_dead_host(self):
        # A host of this machine that was killed with claims: a process that is no more.
        dead = subprocess.Popen([sys.executable, '-c', ''])
        dead.wait()
        self.provide('echo', lambda input: input)
        jobids = [self.add('echo', number) for number in range(10)]
        ledger = self.service.ledgers['dead'] = Ledger()
        ledger.owner = dict(hosts.identity(), pid=dead.pid)
        for jobid in jobids:
            self.assertTrue(self.service.shards[jobid >> BITS].ready.remove(jobid))
            ledger.claim(jobid, 0)
        self.manager.commit()
        self.assertEqual({self.service.getStatus(jobid) for jobid in jobids}, {'processing'})
        self.start()
        self.assertEqual(set(self.statuses(*jobids)), {'completed'})
        self.assertEqual(self.left(), [])

    def test_late_host_changes_nothing(self):
        # Another host takes the job while its task runs; what the task wrote, and its outcome, must vanish.
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)

        def write(service, jobid, input):
            service.data['runs'] = service.data.get('runs', 0) + 1
            if not begun.is_set():
                begun.set()
                go.wait(PATIENCE)

        provideUtility(write, ITask, name='write')
        self.start(name='late', maxThreads=1)
        jobid = self.add('write')
        self.assertTrue(begun.wait(PATIENCE))
        self.manager.begin()
        rescue.rescue(self.service, 'late', 0)
        self.manager.commit()
        self.start(name='other', maxThreads=1)
        self.assertEqual(self.statuses(jobid), ['completed'])
        go.set()
        self.provide('echo', lambda input: input)
        self.statuses(*[self.add('echo') for _ in range(20)])
        self.assertEqual((dict(self.service.data), self.service.jobs[jobid].run), ({'runs': 1}, 1))

    def test_it_ends_when_running_is_set_to_false(self):
        processor = self.start(waitTime=1000, lease=10000)
        waitUntil(lambda: processor._wakeup.interest is not None)   # then it waits, for long if nobody wakes it
        with self.assertRaises(ValueError):
            processor.running = True
        self.assertTrue(processor.running)
        processor.running = False
        processor.thread.join(PATIENCE)
        self.assertFalse(processor.thread.is_alive() or processor.running or processor.isStopping)
        self.manager.begin()
        self.assertIsNone(self.service.ledgers[processor.name].owner)

    def test_stop_gives_back(self):
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)
        self.provide('wait', lambda input: (begun.set(), go.wait(PATIENCE), None)[-1])
        processor = self.start(maxThreads=1)
        jobids = [self.add('wait') for _ in range(3)]
        self.assertTrue(begun.wait(PATIENCE))
        self.assertTrue(processor.stop(0))
        self.assertEqual(sorted(self.left()), sorted(jobids))
        self.assertEqual({self.service.getStatus(jobid) for jobid in jobids}, {'queued'})
        go.set()
        self.start()
        self.assertEqual(set(self.statuses(*jobids)), {'completed'})


if __name__ == '__main__':
    unittest.main()
