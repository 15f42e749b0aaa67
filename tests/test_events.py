"""Events of runs: what subscribers are told by a real processing host, and what they cannot do to it."""
# SPDX-License-Identifier: ZPL-2.1
import queue
import sys
import threading
import time
import unittest
import unittest.mock

import transaction
import zope.event
from zope.component import provideHandler
from zope.component.hooks import getSite
from zope.interface.verify import verifyObject

from lovely.remotetask import events
from lovely.remotetask.errors import TaskError
from lovely.remotetask.processing import notices
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage.ledger import LONG
from lovely.remotetask.storage.ledger import ONCE
from lovely.remotetask.storage.ledger import Ledger
from processorcase import PATH
from processorcase import ProcessorCase
from test_rescue import endedProcess
from threads import noMoreThreads
from waits import PATIENCE


class TestEvents(ProcessorCase):

    level = 2

    def subscribe(self, interface=events.IJobEvent):
        """Return a queue with the events that come from now on."""
        told = queue.Queue()
        provideHandler(told.put, [interface])
        return told

    def kinds(self, told, count):
        """Return the next events, as pairs of the class's name and the id of the job."""
        found = [told.get(timeout=PATIENCE) for _ in range(count)]
        return [(type(event).__name__, event.jobid) for event in found]

    def test_completed(self):
        self.provide('echo', lambda input: input)
        self.provide('write', lambda service, jobid, input: service.data.update(input))
        told = self.subscribe()
        host = self.start(name='host-1')
        before = time.time()
        for task in 'echo', 'write':
            with self.subTest(task):
                jobid = self.add(task, {'a': 1})
                started, completed = told.get(timeout=PATIENCE), told.get(timeout=PATIENCE)
                self.assertTrue(before <= started.started <= completed.started <= time.time())
                self.assertTrue(0 <= completed.duration <= time.time() - before)
                common = {'jobid': jobid, 'task': task, 'attempt': 1, 'host': host.name, 'servicePath': PATH,
                          'request': None}
                self.assertEqual(started, events.JobStarted(**common, started=started.started))
                self.assertEqual(completed, events.JobCompleted(**common, started=completed.started,
                                                                duration=completed.duration))
                self.assertTrue(verifyObject(events.IJobStarted, started))
                self.assertTrue(verifyObject(events.IJobCompleted, completed))
        self.assertTrue(told.empty())

    def test_failed(self):
        def fail(input):
            raise OSError('no space')

        self.provide('fail', fail, retryPolicy=RetryPolicy(attempts=2, base=0.01, jitter=0))
        told = self.subscribe(events.IRunFailed)
        self.start()
        jobid = self.add('fail')
        retried, failed = told.get(timeout=PATIENCE), told.get(timeout=PATIENCE)
        self.assertEqual((type(retried), type(failed)), (events.JobRetried, events.JobFailed))
        self.assertEqual([(each.jobid, each.task, each.attempt, each.error) for each in (retried, failed)],
                         [(jobid, 'fail', number, 'OSError: no space') for number in (1, 2)])
        for event in retried, failed:
            self.assertIn("raise OSError('no space')", event.traceback)
        self.assertAlmostEqual(retried.retryAt, retried.started + retried.duration + 0.01, places=3)
        self.assertTrue(verifyObject(events.IJobRetried, retried))
        self.assertTrue(verifyObject(events.IJobFailed, failed))

    def test_what_is_told_is_committed(self):
        def look(event):
            with self.db.transaction() as connection:
                status = connection.root()['Application']['TaskService'].getStatus(event.jobid)
            seen.put((type(event).__name__, status, getSite(), list(transaction.get()._resources)))

        def fail(input):
            raise TaskError('no')

        seen = queue.Queue()
        self.provide('echo', lambda input: input)
        self.provide('write', lambda service, jobid, input: service.data.update(a=1))
        self.provide('fail', fail)
        provideHandler(look, [events.IRunEnded])
        self.start()
        for task, expected in ('echo', 'JobCompleted'), ('write', 'JobCompleted'), ('fail', 'JobFailed'):
            self.add(task)
            self.assertEqual(seen.get(timeout=PATIENCE), (
                expected, 'completed' if expected == 'JobCompleted' else 'error', None, []))

    def test_time_limit(self):
        release = threading.Event()
        self.addCleanup(release.set)
        self.provide('slow', lambda input: release.wait(PATIENCE), timeLimit=0.05,
                     retryPolicy=RetryPolicy(attempts=1))
        told = self.subscribe()
        self.start()
        jobid = self.add('slow')
        self.assertEqual(told.get(timeout=PATIENCE).jobid, jobid)
        failed = told.get(timeout=PATIENCE)
        self.assertEqual((type(failed), failed.jobid), (events.JobFailed, jobid))
        self.assertIn('time limit', failed.error)
        release.set()                           # the end of the run itself is refused, and not told
        self.provide('echo', lambda input: input)
        other = self.add('echo')
        self.assertEqual(self.kinds(told, 2), [('JobStarted', other), ('JobCompleted', other)])

    def test_cancelled(self):
        begun, release = threading.Event(), threading.Event()
        self.addCleanup(release.set)

        def slow(input):
            begun.set()
            release.wait(PATIENCE)

        self.provide('slow', slow)
        self.provide('echo', lambda input: input)
        told = self.subscribe()
        self.start(maxThreads=1)
        jobid = self.add('slow')
        self.assertTrue(begun.wait(PATIENCE))
        for attempt in self.manager.attempts(5):
            with attempt:
                self.service.cancel(jobid)
        release.set()
        other = self.add('echo')
        self.assertEqual(self.kinds(told, 3), [('JobStarted', jobid), ('JobStarted', other), ('JobCompleted', other)])

    def lost(self, name, *marks):
        """Return the ids of jobs that a host of that name was running when it was killed, one for each mark."""
        ledger = self.service.ledgers[name] = Ledger()
        ledger.owner = {**hosts.identity(), 'pid': endedProcess()}
        ledger.number = self.service.hosts.add(name)
        jobids = []
        for mark in marks:
            jobids.append(self.service.add('echo'))
            claim, = claiming.claim(self.service, 1, 0, 0, ledger)[0]
            ledger.mark(claim.jobid, mark, 1000.0)
        self.manager.commit()
        return jobids

    def test_a_lost_host(self):
        self.provide('echo', lambda input: input)
        told, (retried, failed) = self.subscribe(events.IRunFailed), self.lost('gone', LONG, ONCE)
        for name in 'other', 'gone':                    # somebody else takes over, or it starts anew itself
            with self.subTest(name):
                host = self.start(name=name)
                found = {event.jobid: event for event in (told.get(timeout=PATIENCE), told.get(timeout=PATIENCE))}
                self.assertEqual([type(found[jobid]) for jobid in (retried, failed)],
                                 [events.JobRetried, events.JobFailed])
                for event in found.values():
                    self.assertEqual((event.task, event.attempt, event.host, event.started, event.servicePath),
                                     ('echo', 1, 'gone', 1000.0, PATH))
                    self.assertIn('the processing host gone ended while the job was running', event.error)
                    self.assertGreater(event.duration, 1e6)
                self.assertEqual(self.statuses(retried, failed), ['completed', 'error'])
                self.assertTrue(told.empty())
                host.stop(PATIENCE)
                self.manager.begin()
                retried, failed = self.lost('gone', LONG, ONCE)

    def test_what_must_not_run_twice_when_the_host_stops(self):
        begun, release = threading.Event(), threading.Event()
        self.addCleanup(release.set)

        def slow(input):
            begun.set()
            release.wait(PATIENCE)

        self.provide('slow', slow, atMostOnce=True)
        told, host = self.subscribe(events.IRunEnded), self.start(name='host-1')
        jobid = self.add('slow')
        self.assertTrue(begun.wait(PATIENCE))
        host.stop(0)
        event = told.get(timeout=PATIENCE)
        self.assertEqual((type(event), event.jobid, event.host), (events.JobFailed, jobid, 'host-1'))

    def test_a_subscriber_that_fails(self):
        def fail(event):
            raise ValueError('I failed')

        self.provide('echo', lambda input: input)
        provideHandler(fail, [events.IJobStarted])
        told = self.subscribe(events.IJobCompleted)
        with self.assertLogs('lovely.remotetask', 'ERROR') as logged:
            self.start()
            jobids = []
            for _ in range(2):
                jobids.append(self.add('echo'))
                self.assertEqual(told.get(timeout=PATIENCE).jobid, jobids[-1])
        self.assertEqual([record.getMessage() for record in logged.records],
                         [f'a subscriber to JobStarted failed, of job {jobid}' for jobid in jobids])
        self.assertEqual(self.statuses(*jobids), ['completed', 'completed'])

    def test_a_subscriber_that_would_end_the_thread(self):
        self.provide('echo', lambda input: input)
        provideHandler(lambda event: sys.exit(1), [events.IJobStarted])
        told = self.subscribe(events.IJobCompleted)
        self.start()
        for _ in range(2):
            jobid = self.add('echo')
            self.assertEqual(told.get(timeout=PATIENCE).jobid, jobid)

    def test_without_room_for_a_thread_events_wait(self):
        self.provide('echo', lambda input: input)
        self.start()
        self.assertEqual(self.statuses(self.add('echo')), ['completed'])        # the threads that run jobs are there
        told = self.subscribe()
        with noMoreThreads(), self.assertLogs('lovely.remotetask', 'ERROR') as logged:
            jobids = [self.add('echo')]
            self.assertEqual(self.statuses(*jobids), ['completed'])
        self.assertEqual(logged.records[0].getMessage(), "events wait: can't start new thread")
        jobids.append(self.add('echo'))
        self.assertEqual(self.kinds(told, 4), [(kind, jobid) for jobid in jobids
                                               for kind in ('JobStarted', 'JobCompleted')])

    def test_a_slow_subscriber_holds_up_nobody(self):
        begun, release = threading.Event(), threading.Event()
        self.addCleanup(release.set)
        self.enterContext(unittest.mock.patch.object(notices, 'WAITING_EVENTS', 3))
        self.provide('echo', lambda input: input)

        def wait(event):
            begun.set()
            release.wait(PATIENCE)

        provideHandler(wait, [events.IJobEvent])
        host = self.start()
        with self.assertLogs('lovely.remotetask', 'ERROR') as logged:
            jobids = [self.add('echo')]
            self.assertTrue(begun.wait(PATIENCE))
            jobids += [self.add('echo') for _ in range(9)]
            self.assertEqual(set(self.statuses(*jobids)), {'completed'})
            self.assertTrue(host.stop(PATIENCE))
        release.set()
        host._notices._thread.join(PATIENCE)            # else it tells the next test the events that are left
        self.assertEqual([record.getMessage() for record in logged.records], [
            'events are dropped: their subscribers are too slow, 3 are waiting',
            'the host stops, and does not wait for subscribers: 4 events may not reach them'])

    def test_a_stop_waits_for_the_last_events(self):
        self.provide('echo', lambda input: input)
        told = self.subscribe()
        host = self.start()
        jobid = self.add('echo')
        self.statuses(jobid)
        self.assertTrue(host.stop(PATIENCE))
        self.assertEqual([(type(each).__name__, each.jobid) for each in told.queue],
                         [('JobStarted', jobid), ('JobCompleted', jobid)])

    def test_nobody_subscribes(self):
        self.provide('echo', lambda input: input)
        self.assertFalse(notices.isHeard(events.JobStarted))
        told = self.subscribe(events.IJobFailed)
        host = self.start()
        self.statuses(self.add('echo'))
        self.assertTrue(host.stop(PATIENCE))
        self.assertIsNone(host._notices._thread)
        self.assertEqual(host._notices._claims, {})
        self.assertTrue(told.empty())

    def test_subscribers_without_a_registry(self):
        told = queue.Queue()
        zope.event.subscribers.append(told.put)
        self.addCleanup(zope.event.subscribers.remove, told.put)
        self.provide('echo', lambda input: input)
        self.start()
        jobid = self.add('echo')
        self.assertEqual(self.kinds(told, 2), [('JobStarted', jobid), ('JobCompleted', jobid)])


if __name__ == '__main__':
    unittest.main()
