"""One job that somebody runs by hand: the job is claimed in a ledger, whose heartbeat goes on meanwhile."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import socket
import threading
import time

from lovely.remotetask.database import notes
from lovely.remotetask.database.connections import SharedClient
from lovely.remotetask.database.connections import ThreadConnection
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import WrongState
from lovely.remotetask.execution import rescue
from lovely.remotetask.execution.control import Control
from lovely.remotetask.execution.control import running
from lovely.remotetask.execution.tasks import lacking
from lovely.remotetask.execution.tasks import queryTask
from lovely.remotetask.processing.ownership import ATTEMPTS
from lovely.remotetask.processing.session import once
from lovely.remotetask.processing.worker import Worker
from lovely.remotetask.statuses import CRONJOB
from lovely.remotetask.statuses import DELAYED
from lovely.remotetask.statuses import ERROR
from lovely.remotetask.statuses import QUEUED
from lovely.remotetask.statuses import STARTLATER
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.generations import GENERATION
from lovely.remotetask.storage.ledger import LONG
from lovely.remotetask.storage.ledger import ONCE
from lovely.remotetask.storage.ledger import Ledger


log = logging.getLogger('lovely.remotetask')

#: Seconds between two looks at whether the run is still wanted.
CHECK_INTERVAL = 1.0

#: Seconds after which a host on another machine may take this one for lost when it is silent.
LEASE = 30.0

#: Runs by hand that may go on at a time on a machine.
MOST = 100

#: Connections that the thread and the one beside it use.
_CONNECTIONS = 4


class HandRun:
    """Runs one job in the thread that calls this, as a processing host of its own would.

    Others see where the job runs.  When the process is killed the job is rescued, as that of any host.

    db -- the `ZODB.DB`.
    path -- of the service, a tuple of names.
    examine -- called with an exception of the task, before it is dealt with; None for nothing.  With it a task that
        asks for a process of its own is run in this one.
    user -- who runs it, for the note of the transaction.
    clock, monotonic -- return UTC seconds, and seconds of the monotonic clock.
    """

    def __init__(self, db, path, examine=None, clock=time.time, monotonic=time.monotonic, user=''):
        self.db, self.path, self.clock, self.monotonic, self.user = db, path, clock, monotonic, user
        self.name = None                # of the ledger
        self._examine, self._control = examine, None
        self._owner = hosts.identity(threads=0, lease=LEASE, since=clock(), schedule=False, generation=GENERATION)
        self._beaten = monotonic()      # when the last heartbeat was written
        self._ended = threading.Event()

    def run(self, jobid):
        """Run a job that has not ended, or that ended in ERROR, now, whatever it waits for.

        Return the id of the job that was run, which is a new one for a schedule that adds jobs.  How the run went is
        on the job then.  It has no time limit.

        Raise `errors.UnknownJob`, `errors.WrongState` for a job that has ended otherwise or is being run, and
        `errors.RemoteTaskError` when this process lacks its task.
        """
        claim = self._transact(lambda service: self._take(service, jobid))
        self._control = Control(claim.jobid)
        self._control.examine = self._examine
        thread = threading.Thread(target=self._keepAlive, args=(claim,), name='remotetask-by-hand', daemon=True)
        thread.start()
        worker = Worker(self.path, ThreadConnection(SharedClient(self.db), _CONNECTIONS), self.name, self.clock,
                        self.monotonic, lambda: not self._ended.is_set(), lambda: None, lambda task: False)
        report = None
        try:
            with running(self._control):
                report = worker.run(claim)
        finally:
            self._ended.set()
            thread.join()
            worker.close()
            self._transact(lambda service: self._leave(service, claim, report))
        return claim.jobid

    def _transact(self, function):
        """Return what the function makes of the service, in a transaction of its own."""
        return once(self.db, self.path, function, ATTEMPTS, self.name)

    def _take(self, service, jobid):
        """Take a free ledger, and claim the job there; return the `Claim`."""
        now = self.clock()
        jobid = _prepare(service, jobid, now)
        if not ready.dequeue(service, jobid):
            raise WrongState(jobid, 'queued or running already', 'run')
        job = service.jobs[jobid]
        if reason := lacking(service, 'this process', job.task):
            raise RemoteTaskError(f'job {jobid} cannot be run here: {reason}')
        self.name = _freeName(service)
        ledger = service.ledgers.get(self.name)
        if ledger is None:
            ledger = service.ledgers[self.name] = Ledger()
        else:
            rescue.rescue(service, self.name, now)          # the last process of this name may have been killed
        ledger.owner, ledger.number = self._owner, service.hosts.add(self.name)
        ready.place(service, job)
        ledger.claim(jobid, job.run)
        isOnce = getattr(queryTask(service, job.task), 'atMostOnce', False)
        ledger.mark(jobid, ONCE if isOnce else LONG, now)
        self._note(service, notes.Act('run', (jobid,), job.task), self.user)
        return transitions.claimOn(job)

    def _leave(self, service, claim, report):
        """Enter the end of the run, or give the job back when it has none, and give up the ledger."""
        ledger = service.ledgers[self.name]
        if ledger.owner is None or ledger.owner['token'] != self._owner['token']:
            return                                          # somebody has rescued it
        if report is None:
            rescue.interrupt(service, self.name, claim.jobid, False, self.clock())
        else:
            transitions.acknowledge(service, ledger, report, self.clock())
        ledger.owner = None
        self._note(service, notes.Act('stopHost'))

    def _keepAlive(self, claim):
        """Write the heartbeat, and have the run end when it is not wanted any more."""
        while not self._ended.wait(CHECK_INTERVAL):
            try:
                moment = self.monotonic()
                isWanted, hasBeaten = self._transact(lambda service: self._look(service, claim))
                if not isWanted:
                    self._control.end('the job has been cancelled, or is run elsewhere')
                    return
                self._beaten = moment if hasBeaten else self._beaten
            except Exception:                               # the database may be away: it is tried again
                log.debug('%s: no heartbeat could be written', self.name, exc_info=True)

    def _look(self, service, claim):
        """Write the heartbeat when it is time; return whether the run is still wanted, and whether that was written."""
        ledger = service.ledgers[self.name]
        if ledger.owner is None or ledger.owner['token'] != self._owner['token']:
            return False, False
        isTime = self.monotonic() - self._beaten >= LEASE / 3
        if isTime:
            ledger._p_changed = True
        progress = self._control.progress
        if progress is not None and ledger.progress.get(claim.jobid) != progress:
            ledger.progress[claim.jobid] = progress
        self._note(service, notes.Act('claim'))
        return transitions.holds(service.jobs.get(claim.jobid), claim), isTime

    def _note(self, service, act, user=''):
        act = act._replace(on=self.name, path=pathText(self.path))
        notes.write(service._p_jar.transaction_manager.get(), [act], user)


def _prepare(service, jobid, now):
    """Queue a job, whatever it has waited for; return the id of the job that is queued."""
    job = service.jobs[jobid]
    if transitions.claimed(service, job):
        raise WrongState(jobid, 'being run', 'run')
    if job.status == STARTLATER:
        service.startJob(jobid, now)
    elif job.status == ERROR:
        service.retry(jobid, now)
    elif job.status == DELAYED or job.retryAt is not None or job.status == CRONJOB and not job.pending:
        return service.runNow(jobid, now)
    elif job.status not in (QUEUED, CRONJOB):
        raise WrongState(jobid, job.status, 'run')
    return jobid


def _freeName(service):
    """Return a name that no living process has; it is used again, so that there are not many."""
    name = hosts.freeName(service, (f'{socket.gethostname()}-by-hand-{number}' for number in range(1, MOST + 1)))
    if name is not None:
        return name
    raise RemoteTaskError(f'{MOST} jobs are run by hand on this machine already')
