"""A job that ends each process which runs it, among many jobs that a host had claimed with it."""
# SPDX-License-Identifier: ZPL-2.1
import os
import signal
import subprocess
import sys

from zope.component import provideUtility

from lovely.remotetask.execution.rescue import GROUPS
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.task import SimpleTask
from zeocase import PATIENCE
from zeocase import ZEOCase


#: A processing host that `claims` all that there is, and is killed; that is killed by its task `poison` while it runs
#: what it has claimed with it; or that `lives`.
HOST = """\
import os, signal, sys, threading
from lovely.remotetask import processor
from lovely.remotetask.processing.cycle import Cycle
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.task import SimpleTask
from ZEO import DB
from zope.component import provideUtility

def die(input=None):
    os.kill(os.getpid(), signal.SIGKILL)

provideUtility(SimpleTask(die), name='poison')
go = threading.Event()
provideUtility(SimpleTask(lambda input: go.wait(30)), name='echo')
db, path = DB(('127.0.0.1', int(sys.argv[1])), wait_timeout=30), ('TaskService',)
if sys.argv[2] == 'claims':
    cycle = Cycle(db, path, 'host')
    cycle.attach()
    cycle.iterate(Work(want=1000))
    die()
if sys.argv[2] == 'lives':
    go.set()
one = processor.MultiProcessor(db, path, name='host', maxThreads=4)
one.start()
one.thread.join()
"""


class TestPoison(ZEOCase):

    level = 2

    def host(self, does):
        path = [os.path.abspath(entry) for entry in sys.path]
        process = subprocess.Popen([sys.executable, '-c', HOST, str(self.zeo.address[1]), does],
                                   env=dict(os.environ, PYTHONPATH=os.pathsep.join(path)))
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_it_alone_ends_in_error(self):
        for name in 'poison', 'echo':
            provideUtility(SimpleTask(len), name=name)          # for who adds jobs
        poison = self.service.add('poison', retryPolicy=RetryPolicy(attempts=1), now=1000.0)
        others = self.service.addMany([{'task': 'echo'}] * (4 * GROUPS), now=2000.0)
        self.manager.commit()
        self.assertEqual(self.host('claims').wait(PATIENCE), -signal.SIGKILL)
        self.until(lambda: len(self.service.ledgers['host'].claimed) == 4 * GROUPS + 1)
        for claims in 4, 1:                                     # its group, and then it without others
            self.assertEqual(self.host('runs').wait(PATIENCE), -signal.SIGKILL)
            self.until(lambda claims=claims: len(self.service.ledgers['host'].claimed) == claims)
        self.host('lives')
        self.until(lambda: {self.service.getStatus(jobid) for jobid in others} == {'completed'})
        self.assertEqual(self.service.getStatus(poison), 'error')
        self.assertFalse([jobid for jobid in others if self.service.jobs[jobid].errors])

    def test_beside_suspects(self):
        # It comes when others are suspects: it does not end its hosts again and again, at the expense of these.
        for name in 'poison', 'echo':
            provideUtility(SimpleTask(len), name=name)          # for who adds jobs
        policy = RetryPolicy(attempts=2)
        others = self.service.addMany([{'task': 'echo', 'retryPolicy': policy}] * 3, now=1000.0)
        self.manager.commit()
        self.assertEqual(self.host('claims').wait(PATIENCE), -signal.SIGKILL)
        poison = self.service.add('poison', retryPolicy=RetryPolicy(attempts=1), now=2000.0)
        self.manager.commit()
        self.assertEqual(self.host('runs').wait(PATIENCE), -signal.SIGKILL)         # with one of the suspects
        self.assertEqual(self.host('lives').wait(PATIENCE), -signal.SIGKILL)        # after these, without others
        self.host('lives')
        self.until(lambda: self.service.getStatus(poison) == 'error')
        self.assertEqual({self.service.getStatus(jobid) for jobid in others}, {'completed'})
        self.assertEqual(sum(len(self.service.jobs[jobid].errors) for jobid in others), 1)
