"""Tells subscribers about the runs of a host, in a thread of its own, so that no other thread waits for a subscriber.
"""
# SPDX-License-Identifier: ZPL-2.1
import logging
import queue
import threading

import transaction
import zope.event
from zope.component import getGlobalSiteManager
from zope.component.event import dispatch
from zope.interface import implementedBy

from lovely.remotetask.common.checks import counted
from lovely.remotetask.common.logs import jobLog
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.events import JobCompleted
from lovely.remotetask.events import JobFailed
from lovely.remotetask.events import JobRetried
from lovely.remotetask.events import JobStarted
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import QUEUED


log = logging.getLogger('lovely.remotetask')

#: The most events that wait for slow subscribers; further ones are dropped, and that is logged.
WAITING_EVENTS = 10000

#: Seconds that subscribers have for the last events when the host stops: less than `processor.GIVE_BACK`.
LAST_EVENTS = 1.5


def isHeard(kind):
    """Return whether somebody subscribes to events of a class."""
    if any(subscriber is not dispatch for subscriber in zope.event.subscribers):
        return True
    return bool(getGlobalSiteManager().adapters.subscriptions([implementedBy(kind)], None))


class Notices:
    """Makes events of what the threads of a host report, if somebody subscribes.

    `_lock` guards `_thread`, `_isClosed` and `_dropped`.  `_claims` belongs to the thread that keeps the ledger.  That
    thread replaces `_heard` as a whole, once for many jobs: to ask for subscribers takes longer than an empty job.

    servicePath -- of the service, a tuple of names.
    clock -- returns UTC seconds.
    """

    def __init__(self, servicePath, clock):
        self._servicePath, self._service, self._clock = servicePath, pathText(servicePath), clock
        self._heard = frozenset()       # the classes of events that somebody subscribes to
        self._claims = {}               # (id, run) -> `Claim`, of those that have not been settled
        self._events = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread = None             # that notifies; made when there is something to tell
        self._isClosed = False
        self._dropped = 0

    # For the thread that runs a job

    def started(self, claim, host):
        """Tell that a run begins: of this `Claim`, on the host of that name."""
        if jobLog.isEnabledFor(logging.INFO):
            jobLog.info('%s started', claim.label, extra=claim.about('job.started', service=self._service, host=host))
        if JobStarted in self._heard:
            self._put(self._event(JobStarted, claim, host, self._clock()))

    # For the thread that keeps the ledger

    def claimed(self, claims):
        """Note the `Claim`s that have been committed, whose ends will be told; before they are run."""
        if claims:
            self._listen()
        for claim in claims:
            self._claims[claim.jobid, claim.run] = claim

    def settled(self, tokens, outcomes, host):
        """Tell the ends of runs, and forget the claims that are closed.

        tokens -- pairs of id and run, of all claims that have been closed.
        outcomes -- the `Outcome`s that have been committed.
        host -- the name of this host.
        """
        if not tokens:
            return
        self._listen()
        closed = {token: self._claims.pop(token, None) for token in tokens}
        for outcome in outcomes:
            claim = closed.get((outcome.jobid, outcome.run))
            if claim is not None:
                self._ended(claim, outcome, host)

    def rescued(self, ends):
        """Tell the ends, `rescue.Ended`s that are committed, of runs whose host was lost, or has to stop."""
        if ends:
            self._listen()
        for claim, outcome in ends:
            self._ended(claim, outcome, outcome.failure.host)

    def _listen(self):
        self._heard = frozenset(filter(isHeard, (JobStarted, JobCompleted, JobRetried, JobFailed)))

    def _ended(self, claim, outcome, host):
        if outcome.status == COMPLETED and jobLog.isEnabledFor(logging.INFO):
            duration = max(0.0, outcome.ended - outcome.started)
            jobLog.info('%s completed in %.3f s', claim.label, duration,
                        extra=claim.about('job.completed', service=self._service, host=host, duration=duration))
        kind = {COMPLETED: JobCompleted, QUEUED: JobRetried}.get(outcome.status, JobFailed)
        if kind not in self._heard:
            return
        more = {'duration': max(0.0, outcome.ended - outcome.started)}
        if outcome.failure is not None:
            more.update(error=outcome.failure.message, traceback=outcome.failure.traceback or '')
        if kind is JobRetried:
            more['retryAt'] = outcome.retryAt
        self._put(self._event(kind, claim, host, outcome.started, **more))

    def _event(self, kind, claim, host, started, **more):
        return kind(jobid=claim.jobid, task=claim.task, attempt=claim.attempt, host=host,
                    servicePath=self._servicePath, request=claim.request, started=started, **more)

    def _put(self, event):
        with self._lock:
            if self._isClosed:
                return
            if self._events.qsize() < WAITING_EVENTS:
                self._events.put(event)
                self._start()
                return
            self._dropped += 1
            isFirst = self._dropped == 1
        if isFirst:
            log.error('events are dropped: their subscribers are too slow, %d are waiting', WAITING_EVENTS)

    def _start(self):
        """Start the thread, if there is none; when that cannot be done, the next event tries again."""
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._notify, name='remotetask-events', daemon=True)
        try:
            thread.start()
        except RuntimeError as error:       # there are as many as may be; that is no error of the run
            log.error('events wait: %s', error)
        else:
            self._thread = thread

    def close(self, timeout=LAST_EVENTS):
        """Tell what is left, for `timeout` seconds at the most, and take no more."""
        with self._lock:
            self._isClosed, thread = True, self._thread
        if thread is None:
            return
        self._events.put(None)
        thread.join(timeout)
        if thread.is_alive():               # the event that is being told counts, the None at the end does not
            log.error('the host stops, and does not wait for subscribers: %s may not reach them',
                      counted(self._events.qsize(), 'event'))

    # The thread that notifies

    def _notify(self):
        while (event := self._events.get()) is not None:
            try:
                try:
                    zope.event.notify(event)
                finally:
                    transaction.abort()     # if the subscriber has left one
            except BaseException:           # such as SystemExit: nothing ends the thread
                log.exception('a subscriber to %s failed, of job %d', type(event).__name__, event.jobid)
