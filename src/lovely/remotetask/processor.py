"""Processors: the threads that keep a service's ledger and run its jobs."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import logging
import threading
import time

import transaction
from zope.interface import implementer
from zope.interface import provider

from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import isPause
from lovely.remotetask.common.checks import isSpan
from lovely.remotetask.common.checks import isWhole
from lovely.remotetask.common.logs import about
from lovely.remotetask.database.connections import SharedClient
from lovely.remotetask.database.connections import ThreadConnection
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.database.storages import clientOf
from lovely.remotetask.database.storages import lacksBlobs
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import WrongGeneration
from lovely.remotetask.execution.inline import claimNext
from lovely.remotetask.execution.tasks import checkPatterns
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import IProcessor
from lovely.remotetask.interfaces import IProcessorFactory
from lovely.remotetask.processing.claim_loop import ClaimLoop
from lovely.remotetask.processing.claim_loop import Settings
from lovely.remotetask.processing.cycle import Cycle
from lovely.remotetask.processing.fence import touched
from lovely.remotetask.processing.in_flight import InFlight
from lovely.remotetask.processing.lifecycle import Lifecycle
from lovely.remotetask.processing.load_sharing import WARM
from lovely.remotetask.processing.notices import Notices
from lovely.remotetask.processing.ownership import ATTEMPTS
from lovely.remotetask.processing.ownership import LeaseLost
from lovely.remotetask.processing.ownership import ServiceRemoved
from lovely.remotetask.processing.session import once
from lovely.remotetask.processing.wakeup import Wakeup
from lovely.remotetask.processing.worker import Worker
from lovely.remotetask.processing.worker_pool import LAST_JOIN
from lovely.remotetask.processing.worker_pool import WorkerPool
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import transitions


log = logging.getLogger('lovely.remotetask')

#: The most threads that run jobs.
MOST_THREADS = 1000

#: Seconds that `stop` allows for giving jobs back, which is a commit, when its time is over.
GIVE_BACK = 2

#: Seconds for which the first releases slept when they had started a thread.  Nothing sleeps here; the name stays for
#: programs that set it.
THREAD_STARTUP_WAIT = 0.05


@implementer(IProcessor)
@provider(IProcessorFactory)
class MultiProcessor:
    """Processes the jobs of one service in several threads: see `IProcessor`.

    One thread, the one that calls this, keeps the ledger (see `processing.claim_loop`); `maxThreads` others run jobs
    (see `processing.worker_pool`).  What they share is in an `InFlight` and a `Lifecycle`, each with a lock of its own.

    A job that does not write to the database gives its outcome to the claim loop, which commits many together.  One
    that does is completed in its own transaction: what it wrote and its completion are committed together or not at
    all.

    db -- the `ZODB.DB`.
    servicePath -- names from the root folder down to the service, as `sites.pathOf` gives.
    waitTime -- seconds between two looks at an idle database; 0 for as few as make sense.
    maxThreads -- how many jobs run at a time; 0 for none.
    name -- the name of the processing host, kept over restarts; None for one that is free on this machine.
    lease -- seconds after which it may be taken for lost when it is silent.
    schedule -- whether it may become the scheduler, which one processor at a time is.
    keep -- final status -> seconds for which jobs in it are kept; one that is not there: for ever.
    taskClient -- a `SharedClient` of the database that the tasks see (see `Database.taskClient`); default: of `db`.
    tasks -- names of the tasks that it takes, in which `*` stands for anything; None for all.  It leaves the jobs of
        others to other hosts.

    Raise `ValueError` that names the argument for a value out of range.
    """

    ordered = False
    threadName = 'remotetasks'

    def __init__(self, db, servicePath, waitTime=1.0, maxThreads=5, name=None, lease=30.0, schedule=True, keep=None,
                 taskClient=None, tasks=None, clock=time.time, monotonic=time.monotonic):
        check('waitTime', waitTime, isPause(waitTime), 'a number of seconds, 0 or more')
        check('maxThreads', maxThreads, isWhole(maxThreads, 0, MOST_THREADS), f'a number from 0 to {MOST_THREADS}')
        check('name', name, name is None or isinstance(name, str) and name != '', 'a name')
        check('lease', lease, isSpan(lease), 'a number of seconds above 0')
        for status, seconds in {} if keep is None else keep.items():
            check('keep', status, status in FINAL, f'one of {", ".join(FINAL)}')
            check(f'keep {status}', seconds, isPause(seconds), 'a number of seconds, 0 or more')
        self.db, self.servicePath, self.clock, self.monotonic = db, tuple(servicePath), clock, monotonic
        self.thread, self.isServiceRemoved = None, False
        if tasks is not None:
            checkPatterns(tasks)
        self._tasks = tasks
        self._taskClient = SharedClient(db) if taskClient is None else taskClient
        self._settings = Settings(waitTime, maxThreads, {} if keep is None else dict(keep), self.ordered,
                                  self._taskClient.isSeparate)
        self._lifecycle = Lifecycle(monotonic)
        self._wakeup = Wakeup()
        self.inFlight = InFlight(self._wake, monotonic)
        self.cycle = Cycle(db, self.servicePath, name, lease, maxThreads, schedule, self.ordered, clock, monotonic,
                           tasks, self._taskClient.prefetch if self._taskClient.isSeparate else None)
        self._notices = Notices(self.servicePath, clock)
        self._pool = WorkerPool(self.inFlight, self._worker, self._mayRest, self._notices, clock)
        self.loop = ClaimLoop(self.cycle, self.inFlight, self._lifecycle, self._pool, self._notices, self._wakeup,
                              self._settings, clock, monotonic)

    @property
    def name(self):
        """The name of the ledger; None before the start when none was given."""
        return self.cycle.name

    @property
    def waitTime(self):
        """See `IProcessor`."""
        return self._settings.waitTime

    @property
    def maxThreads(self):
        """See `IProcessor`."""
        return self._settings.threads

    @property
    def keep(self):
        """Final status -> seconds for which jobs in it are kept."""
        return self._settings.keep

    @property
    def threads(self):
        """See `IProcessor`."""
        return self._pool.threads

    @property
    def running(self):
        """See `IProcessor`."""
        return self._lifecycle.isRunning

    @running.setter
    def running(self, running):
        if running:
            raise ValueError('running can be set to False only: a processor is started by start()')
        self._lifecycle.halt()
        self._wake()

    @property
    def isStopping(self):
        """Whether `stop` has asked for the end."""
        return self._lifecycle.stopRequested.is_set()

    @property
    def givenBack(self):
        """How many jobs the last stop has given back to their queues."""
        return self.loop.givenBack

    # Starting and stopping

    def start(self):
        """Start a daemon thread that calls this; return when the ledger is taken.  Raise `NameTaken`."""
        self._attach()
        self.thread = threading.Thread(target=self._process, name='.'.join((self.threadName,) + self.servicePath),
                                       daemon=True)
        try:
            self.thread.start()
        except RuntimeError:                    # there are as many threads as may be: another try is to find nothing
            with contextlib.suppress(Exception):
                self.cycle.leave()
            self._close()
            raise

    def __call__(self):
        """See `IProcessor`."""
        self._attach()
        self._process()

    def stop(self, timeout=None, wait=None):
        """See `IProcessor`.

        wait -- seconds to wait here, while the jobs go on until `timeout`; default: until it has ended.
        """
        self._lifecycle.requestStop(timeout)
        self._wake()
        if wait is None and timeout is not None:
            wait = timeout + GIVE_BACK
        hasEnded = self._lifecycle.ended.wait(wait)
        if not hasEnded and self._lifecycle.isLate:
            self._giveUp()                      # its thread may be waiting for a database that is away
        return hasEnded

    def _giveUp(self):
        """Tell the runs that still go on to end, and begin none; what they do, or meet, counts no more."""
        self.inFlight.giveUp('the processing host stops')

    def _attach(self):
        notifierOf(self.db).subscribe(self._wakeup)
        self._notices.rescued(self.cycle.attach())
        self._lifecycle.begin()
        client = clientOf(self.db)
        if client is not None and lacksBlobs(client):       # only in an application: `Database` refuses it
            log.warning('processing host %s: the client of the database server has no directory for blobs (blob_dir): '
                        'jobs with a large input wait here for ever', self.name)

    def _process(self):
        try:
            self._pool.start('.'.join(('remotetask-thread', *self.servicePath, str(number + 1)))
                             for number in range(self.maxThreads))
            self.loop.run()
        except (LeaseLost, WrongGeneration) as error:
            log.error('processing host %s stops: %s', self.name, error, extra=self._about('host.failed'))
        except ServiceRemoved as error:
            self.isServiceRemoved = True
            log.info('processing host %s lets go: %s', self.name, error, extra=self._about('host.letGo'))
            self._giveUp()
            with contextlib.suppress(Exception):        # what is left of the service may be packed away
                self.cycle.letGo(self.inFlight.withdrawUnstarted())
        except Exception:
            log.exception('processing host %s stops', self.name, extra=self._about('host.failed'))
            self._giveUp()
            with contextlib.suppress(Exception):        # else others see that it is gone
                self.cycle.leave(self.inFlight.withdrawUnstarted())
        finally:
            self._close()

    def _close(self):
        self._lifecycle.halt()
        isIdle = self.inFlight.isIdle
        self.inFlight.close()
        self._giveUp()
        self._pool.join(LAST_JOIN if isIdle else 0.1)
        self._notices.close()
        notifierOf(self.db).unsubscribe(self._wakeup)
        self.cycle.close()
        self._lifecycle.end()

    def _about(self, event):
        return about(event, service=pathText(self.servicePath), host=self.name)

    def _wake(self):
        """Wake the claim loop.  Any thread may call this."""
        if not self._wakeup.is_set():           # which is cheaper
            self._wakeup.set()

    # For the threads that run jobs

    def _worker(self):
        return Worker(self.servicePath, ThreadConnection(self._taskClient, 2 * self.maxThreads + 4), self.name,
                      self.clock, self.monotonic, self._mayWait, self._wake, self.inFlight.isSerialized)

    def _mayWait(self):
        """Return whether a run may still wait for the database."""
        return not self.inFlight.isClosed and not self._lifecycle.isLate

    def _mayRest(self):
        """Return whether a thread without work gives its client of the database back: others get the next job."""
        return self._taskClient.isSeparate and self.cycle.peers.survey.rank >= WARM

    # By hand

    def processNext(self, jobid=None):
        """See `IProcessor`.  It works in the caller's thread, whose current transaction must have no changes."""
        if touched(transaction.get()):
            raise RemoteTaskError('the current transaction has changes: commit or abort it before a job is processed')
        claim = self._once(lambda service: claimNext(service, self.clock(), jobid, self._tasks))
        if claim is None:
            return False
        with contextlib.closing(self._worker()) as worker:
            report = worker.run(claim)
        self._once(lambda service: transitions.acknowledge(service, ready.shardOf(service, claim.jobid).ledger, report,
                                                      self.clock()))
        return True

    def claimNextJob(self):
        """Claim the next job, commit that, and return its id; None when there is none."""
        claim = self._once(lambda service: claimNext(service, self.clock(), tasks=self._tasks))
        return claim and claim.jobid

    def hasJobsWaiting(self):
        """See `IProcessor`."""
        return self._once(lambda service: service.hasJobsWaiting(self.clock()))

    def _once(self, function):
        """Return what the function makes of the service, in a transaction of its own."""
        return once(self.db, self.servicePath, function, ATTEMPTS, self.name)


class Scheduler(MultiProcessor):
    """Runs no jobs, but queues them when they are due, if it becomes the scheduler."""

    threadName = 'remotetasks-scheduler'

    def __init__(self, db, servicePath, waitTime=1.0, **arguments):
        """The arguments are those of `MultiProcessor`, without `maxThreads`."""
        super().__init__(db, servicePath, waitTime, maxThreads=0, **arguments)


class SimpleProcessor(MultiProcessor):
    """Processes the jobs of one service one at a time, in the order in which they were added.

    Jobs that a host with other `tasks` has left to it come first, in the order of their ids.
    """

    ordered = True

    def __init__(self, db, servicePath, waitTime=1.0, **arguments):
        """The arguments are those of `MultiProcessor`, without `maxThreads`."""
        super().__init__(db, servicePath, waitTime, maxThreads=1, **arguments)
