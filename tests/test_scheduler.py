"""Which host is the scheduler, what it does, and what it lacks: with real processes."""
# SPDX-License-Identifier: ZPL-2.1
import os
import signal
import subprocess
import sys
import tempfile
import threading
import unittest

from zope.component import provideUtility

from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.processor import Scheduler
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import ready
from lovely.remotetask.task import SimpleTask
from zeocase import PATIENCE
from zeocase import ZEOCase


class TestScheduler(ZEOCase):

    level = 2

    def test_only_schedules(self):
        ran = []
        provideUtility(SimpleTask(ran.append), name='note')
        scheduler = self.start(Scheduler, 'scheduler')
        self.until(lambda: self.service.schedule.scheduler == 'scheduler')
        self.service.addCronJob('note', 'a', delay=0.01)
        self.manager.commit()
        self.until(lambda: ready.waiting(self.service) == 1)
        self.assertEqual((ran, scheduler.threads), ([], []))
        self.start(MultiProcessor, 'host', schedule=False)
        self.until(lambda: not ready.waiting(self.service))
        self.until(lambda: [job.status for job in self.service.jobs.values()] == ['completed'])
        self.assertEqual((ran, self.service.schedule.scheduler), (['a'], 'scheduler'))
        hosts = {host['name']: host for host in self.service.getProcessingHosts()}
        self.assertEqual({name: (host['threads'], host['processing'], host['scheduling'], host['pid'])
                          for name, host in hosts.items()},
                         {'scheduler': (0, False, True, os.getpid()), 'host': (5, True, False, os.getpid())})

    def test_hosts_that_do_not_schedule(self):
        provideUtility(SimpleTask(len), name='note')
        self.start(MultiProcessor, 'host', schedule=False)
        jobid = self.service.addCronJob('note', 'a', delay=0.01)
        other = self.service.add('note', 'b')
        self.manager.commit()
        self.until(lambda: self.service.getStatus(other) == 'completed')
        self.assertEqual((self.service.getStatus(jobid), self.service.schedule.scheduler), ('delayed', None))

    def test_pause_and_resume(self):
        go = threading.Event()
        self.addCleanup(go.set)
        provideUtility(SimpleTask(lambda input: go.wait(PATIENCE)), name='wait')
        self.start(MultiProcessor, 'host', maxThreads=2)
        running = [self.service.add('wait') for _ in range(2)]
        self.manager.commit()
        self.until(lambda: all(self.service.getStatus(jobid) == 'processing' for jobid in running))
        waiting = self.commit(lambda service: service.pause() or service.add('wait'))
        go.set()
        self.until(lambda: all(self.service.getStatus(jobid) == 'completed' for jobid in running))
        self.assertEqual(self.service.getStatus(waiting), 'queued')
        self.assertFalse(any(host['processing'] for host in self.service.getProcessingHosts()))
        self.commit(lambda service: service.resume())
        self.until(lambda: self.service.getStatus(waiting) == 'completed')

    def test_a_paused_host_returns_what_it_has_in_store(self):
        begun, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)
        provideUtility(SimpleTask(lambda input: input and (begun.set(), go.wait(PATIENCE))), name='wait')
        processor = self.start(MultiProcessor, 'host', maxThreads=1)
        quick = [self.service.add('wait') for _ in range(50)]       # it learns that the jobs are short
        self.manager.commit()
        self.until(lambda: all(self.service.getStatus(jobid) == 'completed' for jobid in quick))
        jobids = [self.service.add('wait', True) for _ in range(20)]
        self.manager.commit()
        self.assertTrue(begun.wait(PATIENCE))
        claimed = self.service.ledgers['host'].claimed
        self.until(lambda: len(claimed) > 1)
        self.commit(lambda service: service.pause())
        self.until(lambda: len(claimed) == 1)
        self.assertEqual(ready.waiting(self.service), 19)
        go.set()
        self.commit(lambda service: service.resume())
        self.until(lambda: all(self.service.getStatus(jobid) == 'completed' for jobid in jobids))
        self.assertEqual({self.service.jobs[jobid].run for jobid in jobids}, {0})          # none was begun twice
        self.assertTrue(processor.running)

    def test_many_delayed_jobs(self):
        # They move in batches that follow one another at once.
        provideUtility(SimpleTask(len), name='note')
        for _ in range(10):
            for _ in range(500):
                self.service.addCronJob('note', 'a', delay=100000)
            self.manager.commit()
        last = self.service.addCronJob('note', 'a', delay=0.01)
        self.manager.commit()
        self.start(MultiProcessor, 'host')
        self.until(lambda: self.service.getStatus(last) == 'completed')
        self.until(lambda: len(self.service.schedule.entries) == 5000)


#: A scheduler that dies when it has moved what is due, before it can commit that; once, if FILE is not there.
DYING = '''\
import os, signal, sys
from lovely.remotetask import processor
from lovely.remotetask.storage import ready, scheduling
from ZEO import DB

tick = scheduling.tick

def dyingTick(service, now, **options):
    before = ready.waiting(service)
    more = tick(service, now, **options)
    if ready.waiting(service) > before:
        os.kill(os.getpid(), signal.SIGKILL)
    return more

if sys.argv[3] == 'dies':
    scheduling.tick = dyingTick
db = DB(('127.0.0.1', int(sys.argv[1])), wait_timeout=30)
one = processor.Scheduler(db, ('TaskService',), name=sys.argv[2], lease=2.0)
one.start()
print('ready', flush=True)
one.thread.join()
'''


class TestTwoSchedulers(ZEOCase):

    level = 2

    def scheduler(self, name, way):
        path = [os.path.abspath(entry) for entry in sys.path]
        process = subprocess.Popen([sys.executable, '-c', DYING, str(self.zeo.address[1]), name, way],
                                   env=dict(os.environ, PYTHONPATH=os.pathsep.join(path)), stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b'ready\n')
        return process

    def test_one_is_killed_mid_tick(self):
        ran = []
        provideUtility(SimpleTask(ran.append), name='note')
        first = self.scheduler('first', 'dies')
        self.until(lambda: self.service.schedule.scheduler == 'first')
        second = self.scheduler('second', 'lives')
        self.start(MultiProcessor, 'host', schedule=False)
        jobids = [self.service.addCronJob('note', number, delay=0.3) for number in range(50)]
        repeated = self.service.addCronJob('note', 'again', delay=0.5, newJobs=True, overlap=True)
        self.manager.commit()
        self.assertEqual(first.wait(PATIENCE), -signal.SIGKILL)
        self.until(lambda: all(self.service.getStatus(jobid) == 'completed' for jobid in jobids))
        self.assertEqual(self.service.schedule.scheduler, 'second')
        self.until(lambda: len(self.service.jobs[repeated].history) >= 3)
        self.commit(lambda service: service.cancel(repeated))
        self.until(lambda: not ready.waiting(self.service) and not self.service.ledgers['host'].claimed)
        self.assertEqual(sorted(number for number in ran if number != 'again'), list(range(50)))
        history = self.service.jobs[repeated].history
        self.assertEqual(len({run.calledFor for run in history}), len(history))
        self.assertEqual(ran.count('again'), len(history))
        second.send_signal(signal.SIGKILL)


#: A processing host of this name, with the task `note`, which appends its input to a file, unless it is to lack it.
HOST = """\
import sys
from lovely.remotetask import processor
from lovely.remotetask.execution.command import CommandTask
from lovely.remotetask.task import SimpleTask
from ZEO import DB
from zope.component import provideUtility

def note(input):
    with open(sys.argv[4], 'a') as file:
        print(sys.argv[2], input, file=file)

provideUtility(CommandTask('the-program'), name='program')
if sys.argv[3] == 'has':
    provideUtility(SimpleTask(note), name='note')
db = DB(('127.0.0.1', int(sys.argv[1])), wait_timeout=30)
one = processor.MultiProcessor(db, ('TaskService',), name=sys.argv[2], lease=4.0, maxThreads=2)
one.start()
print('ready', flush=True)
one.thread.join()
"""


class TestWhatAHostLacks(ZEOCase):
    """Time zones, tasks and programs that one host has, and another one has not."""

    def setUp(self):
        super().setUp()
        self.directory = self.enterContext(tempfile.TemporaryDirectory())
        self.notes = os.path.join(self.directory, 'notes')
        provideUtility(SimpleTask(len), name='note')            # for who adds jobs
        provideUtility(SimpleTask(len), name='program')

    def host(self, name, has='has', **environment):
        path = [os.path.abspath(entry) for entry in sys.path if 'tzdata' not in entry]
        process = subprocess.Popen([sys.executable, '-c', HOST, str(self.zeo.address[1]), name, has, self.notes],
                                   env={**os.environ, 'PYTHONPATH': os.pathsep.join(path), **environment},
                                   stdout=subprocess.PIPE)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b'ready\n')
        return process

    def job(self, *arguments, **options):
        jobid = self.service.add(*arguments, **options)
        self.manager.commit()
        return jobid

    def test_a_zone_that_the_scheduler_lacks(self):
        self.host('a', PYTHONTZPATH='')
        self.until(lambda: self.service.schedule.scheduler == 'a')
        jobid = self.service.addCronJob('note', 'x', hour=(2,), timeZone='Europe/Berlin')
        other = self.service.addCronJob('note', 'y', delay=0.2, newJobs=True)
        self.manager.commit()
        error = self.until(lambda: self.service.jobs[jobid].error)
        self.assertIn("the scheduler a cannot handle it: timeZone: 'Europe/Berlin' is not known", error)
        self.until(lambda: len(self.service.jobs[other].history) > 2)            # the others go on
        self.assertEqual((self.service.schedule.scheduler, self.service.getStatus(jobid)), ('a', 'cronjob'))
        before = self.service.jobs[other].lastJob
        self.host('b')                                                          # another host comes that knows it
        self.until(lambda: self.service.jobs[jobid].scheduledFor)
        self.assertEqual((self.service.schedule.scheduler, self.service.jobs[jobid].error), ('b', None))
        self.assertFalse(self.service.schedule.aside)
        self.until(lambda: self.service.jobs[other].lastJob != before)

    def test_a_scheduler_gives_its_role_up_at_once(self):
        self.host('b', PYTHONTZPATH='')
        self.until(lambda: self.service.schedule.scheduler == 'b')
        self.host('a')
        jobid = self.service.addCronJob('note', 'x', hour=(2,), timeZone='Europe/Berlin')
        self.manager.commit()
        self.until(lambda: self.service.jobs[jobid].scheduledFor)
        self.assertEqual(self.service.schedule.scheduler, 'a')

    def test_a_task_that_one_host_lacks(self):
        self.host('a', 'lacks')                                 # which is the first to take jobs
        jobid = self.job('note', 1)
        error = self.until(lambda: self.service.jobs[jobid].error)
        self.assertEqual(error, "waits for a processing host that can run it: a lacks the task 'note'")
        self.assertEqual(self.service.getStatus(jobid), 'queued')
        self.assertEqual((self.service.countJobs()['queued'], [job.id for job in self.service.getJobs('queued')]),
                         (1, [jobid]))
        cancelled, schedule = self.job('note', 2), self.service.addCronJob('note', 3, delay=0)
        self.manager.commit()
        self.until(lambda: self.service.jobs[cancelled].error and self.service.jobs[schedule].error)
        self.service.cancel(cancelled)
        self.manager.commit()
        self.assertEqual((self.service.countJobs()['queued'], self.service.getStatistics()['oldestWaiting']),
                         (2, self.service.jobs[jobid].created))
        self.host('b')
        jobids = [jobid, schedule, *(self.job('note', number) for number in range(20))]
        self.until(lambda: all(self.service.getStatus(jobid) == 'completed' for jobid in jobids))
        self.assertEqual({(job.failedAttempts, job.error) for job in map(self.service.jobs.get, jobids)}, {(0, None)})
        self.assertEqual((self.service.countJobs()['queued'], [*map(list, self.service.stranded.values())]), (0, [[]]))
        with open(self.notes) as notes:
            self.assertEqual(sorted(notes), sorted(f'b {number}\n' for number in (1, 3, *range(20))))

    def test_a_program_that_comes_later(self):
        self.host('a', PATH=self.directory)
        jobid = self.job('program', {})
        self.assertIn("a lacks the program 'the-program'", self.until(lambda: self.service.jobs[jobid].error))
        path = os.path.join(self.directory, 'the-program')
        with open(path, 'w') as file:
            file.write('#!/bin/sh\necho here\n')
        os.chmod(path, 0o700)
        self.until(lambda: self.service.getStatus(jobid) == 'completed')         # without another host
        self.assertEqual(self.service.getResult(jobid)['output'], 'here\n')
        self.assertEqual((self.service.jobs[jobid].failedAttempts, self.service.jobs[jobid].error), (0, None))

    def test_by_hand(self):
        # A job that a host has set aside is run by hand, where that can be done.
        service = TaskService()
        jobids = [service.add('note', text) for text in ('a', 'ab', 'abc')]
        with self.assertLogs('lovely.remotetask', 'WARNING') as logged:
            self.assertEqual(claiming.claim(service, 3, 0, 0, lacks=lambda name: f'a lacks {name}')[0], [])
        self.assertEqual((len(logged.records), service.getStatus(jobids[0])), (1, 'queued'))
        self.assertFalse(ready.isWaiting(service))
        service.process()
        self.assertEqual([service.getResult(jobid) for jobid in jobids], [1, 2, 3])
        self.assertEqual({service.getError(jobid) for jobid in jobids}, {'None'})


if __name__ == '__main__':
    unittest.main()
