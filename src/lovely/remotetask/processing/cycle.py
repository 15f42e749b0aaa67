"""The claim loop's transaction: each iteration settles what has ended, queues what is due, and claims what comes next.
"""
# SPDX-License-Identifier: ZPL-2.1
import dataclasses
import functools
import logging
import random
import time
from typing import NamedTuple

from ZODB.POSException import ConflictError

from lovely.remotetask.common.checks import counted
from lovely.remotetask.common.counts import counts
from lovely.remotetask.common.logs import about
from lovely.remotetask.errors import UnknownService
from lovely.remotetask.execution.tasks import lacking
from lovely.remotetask.execution.tasks import queryTask
from lovely.remotetask.execution.tasks import takes
from lovely.remotetask.processing.claim_strategy import FEW
from lovely.remotetask.processing.claim_strategy import Decision
from lovely.remotetask.processing.claim_strategy import Leaving
from lovely.remotetask.processing.claim_strategy import Position
from lovely.remotetask.processing.claim_strategy import Situation
from lovely.remotetask.processing.claim_strategy import decide
from lovely.remotetask.processing.claim_strategy import elsewhere
from lovely.remotetask.processing.claim_strategy import horizon
from lovely.remotetask.processing.claim_strategy import leaveToOthers
from lovely.remotetask.processing.fence import touched
from lovely.remotetask.processing.iteration import Result
from lovely.remotetask.processing.iteration import State
from lovely.remotetask.processing.iteration import View
from lovely.remotetask.processing.load_sharing import capacityOf
from lovely.remotetask.processing.load_sharing import publication
from lovely.remotetask.processing.load_sharing import rateOf
from lovely.remotetask.processing.ownership import LeaseLost
from lovely.remotetask.processing.ownership import Ownership
from lovely.remotetask.processing.ownership import ServiceRemoved
from lovely.remotetask.processing.peers import HANDOVER
from lovely.remotetask.processing.peers import Peers
from lovely.remotetask.processing.session import Session
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import cleanup
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import preloading
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import stacks
from lovely.remotetask.storage import tallies
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage import uploads
from lovely.remotetask.storage.claiming import TOGETHER
from lovely.remotetask.storage.generations import GENERATION
from lovely.remotetask.storage.ledger import LONG
from lovely.remotetask.storage.ledger import ONCE
from lovely.remotetask.storage.ledger import SUSPECT
from lovely.remotetask.storage.shards import SHARDS


log = logging.getLogger('lovely.remotetask')

#: Jobs that one transaction removes.
CLEANED = 200


class Scheduling(NamedTuple):
    """What an iteration has done about the schedule."""

    isScheduler: bool       # whether this host was the scheduler
    hasMore: bool           # whether more is due than was queued
    handedAt: float         # see `State.handedAt`
    messages: list          # for the log: lines with their arguments


class Cycle:
    """Keeps one ledger, in a connection of its own.

    One thread uses it, the one that keeps the ledger; before that thread starts, the one that starts it.  Other threads
    read `name`, which does not change once the ledger is taken, and the two values `state` and `peers.survey`, which
    are immutable and replaced as a whole.

    An iteration is one transaction.  Its steps work on a `View`; what they find out goes into a `Result`, whose `state`
    takes the place of the last one when the transaction is committed.  Attributes that the steps change themselves are
    observations, which hold whatever becomes of the transaction.

    db -- a `ZODB.DB`; over ZEO best one that no task uses.
    path -- the path of the service, a tuple of names.
    name -- the name of the ledger; None for one made of the machine's name and a number.
    lease -- seconds after which a silent host is taken for lost by those on other machines.
    threads -- how many threads run jobs, for the record; 0 for a host that only schedules.
    schedule -- whether this host may become the scheduler.
    ordered -- whether jobs are claimed in the order in which they were added, whatever their shards.
    tasks -- patterns of the names of tasks that this host takes, see `tasks.takes`; None for all.
    prefetch -- called with the ids of the records that those who run the claims will load; None for nobody.
    """

    def __init__(self, db, path, name=None, lease=30.0, threads=1, schedule=True, ordered=False,
                 clock=time.time, monotonic=time.monotonic, tasks=None, prefetch=None):
        self.lease, self.threads, self.ordered, self.clock, self.monotonic = lease, threads, ordered, clock, monotonic
        self._prefetch = prefetch
        self._tasks = None if tasks is None else tuple(tasks)
        limits = {} if tasks is None else {'tasks': self._tasks}
        owner = hosts.identity(threads=threads, lease=lease, since=clock(), schedule=schedule,
                               generation=GENERATION, **limits)
        self.ownership = Ownership(name, owner, lease)
        self.peers = Peers(lease, schedule)
        self.session = Session(db, path)
        self.state = State(position=Position(random.randrange(SHARDS)))
        self._oid = None                # of the service whose ledger it is: another one may come to its path
        self.openClaims = {}            # id -> run, of the claims that this process knows of
        self._beatenAt = monotonic()    # when the last heartbeat was written
        self._isReclaimed = False       # whether the ledger was taken back, and that has not been dealt with
        self._isContended = False       # whether the last iteration failed because of what others have written
        self._isInDoubt = False         # whether the outcome of a commit is unknown

    @property
    def name(self):
        """The name of the ledger; None before it is taken when none was given."""
        return self.ownership.name

    @property
    def db(self):
        """The `ZODB.DB` that the ledger is kept in."""
        return self.session.db

    @property
    def owner(self):
        """What the ledger says of its owner at first; see `Ledger.owner`."""
        return self.ownership.owner

    @property
    def nextBeat(self):
        """When the next heartbeat is due, by the monotonic clock."""
        return self._beatenAt + self.lease / 3

    def attach(self):
        """Take over the ledger of this name, and return what its last owner left to the queues.

        Return the `rescue.Ended`s of what that one ran.  Raise `NameTaken` when a living host has it, and
        `WrongGeneration` when this release must not work with the service.
        """
        self.session.oid = None
        try:
            self.session.transact(self._warmUp)
            ends = self.ownership.take(self.session, self.clock, self.monotonic)
            self._oid = self.session.transact(lambda service: service._p_oid)
        except BaseException:
            self.close()        # a database can't be closed while a connection is open outside of a transaction
            raise
        self._noteCommit(self.monotonic())
        return ends

    def _warmUp(self, service):
        """Load what the first iteration needs: one object after the other would take long if the server is far away."""
        preloading.preload(service)
        queryTask(service, '')                  # its site may have tasks of its own

    def iterate(self, work):
        """Do one transaction; return its `Result`.

        work -- the `Work`.

        Raise what the database raises, having changed nothing that is known of; then the same reports must come
        again.  Raise `LeaseLost` when the ledger is somebody else's.

        When others have taken this host for silent and rescued its jobs it goes on: the claims that it has lost are in
        the result.  Raise `ServiceRemoved` when there is no such service any more.
        """
        if self._isContended and self.monotonic() >= self.nextBeat:
            self._beat()
        try:
            result = self._inTransaction(work)
        except BaseException as error:
            self._noteFailure(error)
            raise
        self._apply(work, result)
        return result

    def _inTransaction(self, work):
        """Do the steps of an iteration and commit them; return the `Result`."""
        view = self._begin(work)
        lost = self._checkOwner(view)
        published = self._publish(view, work)
        outcomes = self._report(view, work)
        returned = self._returned(view, work)
        unwanted = self._unwanted(view, work.snapshot)
        messages, rescued = self._watchPeers(view)
        scheduled = self._schedule(view)
        asked = stacks.attend(view.ledger, work.snapshot.stacks, view.now)
        claims, decision = self._claim(view, work)
        claims += self._adopt(view, work, claims)
        self._mark(view, claims)
        self._announce(view, work, claims)
        state = self._stateAfter(view, published, scheduled, decision)
        beatAt = self._commit(view, [one for one in messages if one.extra['event'] == 'host.lost'])
        return Result(state, claims, unwanted, lost, outcomes, returned, rescued, asked, self._isReclaimed,
                      messages + scheduled.messages, beatAt)

    # The steps

    def _service(self):
        """Begin a transaction; return the service as it sees it.  Raise `ServiceRemoved`."""
        try:
            service = self.session.begin()
        except UnknownService:
            raise ServiceRemoved(self.session.path) from None
        if service._p_oid != self._oid:
            raise ServiceRemoved(self.session.path)
        return service

    def _begin(self, work):
        """Begin a transaction; return its `View`."""
        service = self._service()
        if work.expected and work.want > 0 and not self.state.freeBefore:       # most likely it is this host's job
            self.session.connection.prefetch(work.expected)
        threads = self.threads if work.threads is None else work.threads
        return View(service, service.ledgers[self.name], self.name, threads, self.clock(), self.monotonic())

    def _checkOwner(self, view):
        """Make sure that the ledger is this host's; return the claims that it has lost, pairs of id and run."""
        self._isReclaimed = self.ownership.check(view.ledger, view.threads) or self._isReclaimed
        if not self._isReclaimed:
            return []
        return [(jobid, run) for jobid, run in self.openClaims.items() if view.ledger.claimed.get(jobid) != run]

    def _publish(self, view, work):
        """Put on record how long a job takes, if that has changed much; return the `Publication`."""
        owner = view.ledger.owner
        published = publication(owner, work.duration, work.busyFor, bool(work.reports or work.snapshot.long),
                                view.moment, self.state.slowerSince)
        if published.isDue:
            view.ledger.owner = dict(owner, duration=work.duration)
            if rateOf(owner) and not rateOf(view.ledger.owner):
                view.service._p_changed = True          # wakes those that this host has spared
        return published

    def _report(self, view, work):
        """Settle what has ended, and put on record what runs; return the `Outcome`s that are on their jobs."""
        ends = []
        outcomes = [transitions.acknowledge(view.service, view.ledger, report, view.now, ends)
                    for report in work.reports]
        tallies.enter(view.ledger, ends)
        for (jobid, run), seconds in work.snapshot.long:
            if view.ledger.claimed.get(jobid) == run:
                view.ledger.mark(jobid, LONG, view.now - seconds)
        for (jobid, run), progress in work.snapshot.progress:
            if view.ledger.claimed.get(jobid) == run:
                view.ledger.progress[jobid] = progress
        found = [outcome for outcome in outcomes if outcome is not None]
        if len(found) < len(outcomes):
            counts.add('late_outcomes', number=sum(outcome is None and isinstance(report, transitions.Outcome)
                                                   for report, outcome in zip(work.reports, outcomes)))
        return found

    def _returned(self, view, work):
        """Return the ids of the jobs that have been given back; others have ended meanwhile, and their claims as well.
        """
        return [report.jobid for report in work.reports if isinstance(report, transitions.Returned)
                and transitions.holds(view.service.jobs.get(report.jobid), report)]

    def _unwanted(self, view, snapshot):
        """Return those of the watched runs that are not wanted any more."""
        return [(jobid, run) for jobid, run in snapshot.watched if view.ledger.claimed.get(jobid) != run
                or not transitions.holds(view.service.jobs.get(jobid), transitions.Recorded(jobid, run))]

    def _watchPeers(self, view):
        """Look after the other hosts, as often as that is due; return what `Peers.watch` returns."""
        watched = self.peers.watch(view)
        self.peers.look(view, bool(self.openClaims))
        return watched

    def _schedule(self, view):
        """As the scheduler, queue what is due; return a `Scheduling`."""
        schedule, handedAt, messages = view.service.schedule, self.state.handedAt, []
        isScheduler = schedule.scheduler == view.name
        if self.state.isScheduler and not isScheduler:
            handedAt = view.moment
        hasMore = isScheduler and scheduling.tick(view.service, view.now, patience=scheduling.ENOUGH,
                                                  monotonic=self.monotonic)
        if isScheduler and schedule.aside and view.moment - handedAt >= HANDOVER:
            messages = self.peers.handOver(view)
        return Scheduling(isScheduler, hasMore, handedAt, messages)

    def _claim(self, view, work):
        """Claim jobs; return a list of `Claim`s, and the `Decision` with the position to go on at."""
        want = 0 if view.service.paused else work.want
        if want <= 0:
            return [], self._decisionOf(Position(self.state.position.shard))
        lacks = functools.cache(functools.partial(lacking, view.service, view.name, patterns=self._tasks))
        allowance = claiming.Allowance()
        group = self._group(view, want)
        claims = self._claimSuspects(view, lacks, allowance, group)
        claims += claiming.claimStranded(view.service, want - len(claims), view.now, lacks, view.ledger, group)
        if (leaving := self._leaveToOthers(view)).jobids:
            return claims, dataclasses.replace(self._decisionOf(self.state.position), leaving=leaving)
        if self.ordered:
            claims = claims or claiming.claimOldest(view.service, view.now, view.ledger, lacks, allowance)
            return claims, dataclasses.replace(self._decisionOf(Position()), isCut=allowance.isSpent)
        decision = self._decide(view, want - len(claims))
        found, shard = claiming.claim(view.service, decision.count, decision.position.shard, view.now, view.ledger,
                                      decision.position.skip, lacks, allowance)
        return claims + found, dataclasses.replace(decision, position=Position(shard), isCut=allowance.isSpent)

    def _decisionOf(self, position):
        return Decision(0, position, yielding=self.state.yielding)

    def _leaveToOthers(self, view):
        """Return the `Leaving` of a host that does not take all tasks."""
        others = self.peers.survey.patterns
        if self._tasks is None or not others:
            return Leaving()
        isLeft = functools.cache(lambda task: not takes(self._tasks, task)
                                 and any(takes(patterns, task) for patterns in others))
        return leaveToOthers(self.state.leaving, claiming.declined(view.service, FEW, isLeft), view.moment)

    def _group(self, view, want):
        """Return the `claiming.Group` that the next suspects join: one without room while this host runs others.

        If these end the host, one of few has done it.  Runs that go on after their jobs were cancelled do not count.
        """
        jobs, claimed = view.service.jobs, view.ledger.claimed
        suspects = [transitions.Recorded(jobid, claimed[jobid]) for jobid, mark in view.ledger.started.items()
                    if mark == SUSPECT]
        if any(transitions.holds(jobs.get(suspect.jobid), suspect) for suspect in suspects):
            return claiming.Group(0)
        return claiming.Group(1 if self.ordered else want)

    def _claimSuspects(self, view, lacks, allowance, group):
        """Claim suspects from a part of their queue that other hosts leave to this one."""
        skip = 0 if self.ordered else self.state.position.skip + TOGETHER * self.peers.survey.rank
        return claiming.claimSuspects(view.service, view.now, view.ledger, lacks, allowance, group, skip)

    def _decide(self, view, want):
        """Return the `Decision` of the claim strategy."""
        state, survey, ledgers = self.state, self.peers.survey, view.service.ledgers
        situation = Situation(want, view.threads, held=len(view.ledger.claimed), isIdle=not self.openClaims,
                              isQuick=state.isQuick, survey=survey, position=state.position, yielding=state.yielding,
                              moment=view.moment)
        if not situation.isShared:
            return decide(situation)
        capacity = capacityOf([(ledgers[name], number) for name, number in survey.sample], self.owner)
        situation = dataclasses.replace(situation, capacity=capacity)
        return decide(situation, ready.waiting(view.service, horizon(situation)))

    def _adopt(self, view, work, claims):
        """If the outcome of a commit is unknown, return the claims in the ledger that this process does not know of.

        Those whose jobs have been brought forward by others meanwhile are closed.
        """
        if not self._isInDoubt:
            return []
        # Not the jobs: what it does not know of may be the next run of a job of which it knows the one before.
        known = {*self.openClaims.items(), *((one.jobid, one.run) for one in (*claims, *work.reports))}
        adopted = []
        for unknown in [transitions.Recorded(*item) for item in view.ledger.claimed.items() if item not in known]:
            job = view.service.jobs.get(unknown.jobid)
            if transitions.holds(job, unknown):
                adopted.append(transitions.claimOn(job))
            else:
                transitions.acknowledge(view.service, view.ledger, unknown, view.now)
        return adopted

    def _mark(self, view, claims):
        """Put on record, before they are begun, the claims on suspects and on what must not be begun twice."""
        once = functools.cache(lambda name: getattr(queryTask(view.service, name), 'atMostOnce', False))
        for claim in claims:
            if once(claim.task):
                view.ledger.mark(claim.jobid, ONCE)
            elif claim.suspect:
                view.ledger.mark(claim.jobid, SUSPECT)

    def _announce(self, view, work, claims):
        """Have those who run the claims load the jobs while these are committed, if that takes long.

        Else they load them no later, and most of what is asked for here would be loaded twice.
        """
        if claims and work.isFar and self._prefetch is not None:
            self._prefetch(preloading.unchanged(view.service, [claim.jobid for claim in claims]))

    def _stateAfter(self, view, published, scheduled, decision):
        """Return the `State` that follows, if this is committed."""
        service, freeBefore = view.service, decision.freeBefore
        if freeBefore is None:
            freeBefore = min(self.state.freeBefore, self.peers.survey.rank)
        nextTime = None
        if scheduled.isScheduler:
            nextTime = view.now if scheduled.hasMore else service.schedule.nextTime()
        return State(nextTime, service.paused, ready.interest(service, view.ledger, not decision.isSpared),
                     bool(rateOf(view.ledger.owner)), decision.isSpared, freeBefore, decision.position,
                     decision.yielding, published.slowerSince, scheduled.isScheduler, scheduled.handedAt,
                     decision.isCut, decision.leaving)

    def _commit(self, view, rescues):
        """Commit if anything has changed; return the moment of the heartbeat in it, or None.

        rescues -- the `Message`s about hosts that were rescued.
        """
        if not touched(self.session.manager.get()) and not self._isInDoubt and view.moment < self.nextBeat:
            self.session.manager.abort()
            return None
        # Each commit writes this record.  So of one whose outcome is unknown, and the next one, which did not see it,
        # only one succeeds: the server may finish the first one late.
        view.ledger._p_changed = True
        for message in rescues:
            self.session.note('rescue', self.name, about=message.extra['host'])
        if not rescues:
            self.session.note('claim', self.name)
        began = self.monotonic()
        self.session.manager.commit()
        counts.observe('commit_seconds', 'cycle', seconds=self.monotonic() - began)
        return view.moment

    # What follows

    def _apply(self, work, result):
        """Take over a result that is committed."""
        if result.isWritten:
            self._noteCommit(result.beatAt)
        for text, arguments, extra in result.messages:
            log.warning(text, *arguments, extra=extra)
        if result.isReclaimed:
            log.warning('processing host %s was silent for its lease of %g s, as others saw it: they run the %s that '
                        'it had claimed, and it goes on with others', self.name, self.lease,
                        counted(len(result.lost), 'job'),
                        extra=about('host.silent', host=self.name, jobs=len(result.lost)))
        self.state = result.state
        self._isReclaimed = self._isContended = self._isInDoubt = False
        for jobid, run in [*((report.jobid, report.run) for report in work.reports), *result.lost]:
            if self.openClaims.get(jobid) == run:           # else it is of a run that was over before
                del self.openClaims[jobid]
        self.openClaims.update((claim.jobid, claim.run) for claim in result.claims)

    def _noteCommit(self, beatAt):
        """Note that a commit has succeeded, with a heartbeat of that moment of the monotonic clock."""
        self._beatenAt = beatAt
        self.peers.wrote(self.monotonic())

    def _noteFailure(self, error):
        """End a transaction that has failed, and note what that says about the next one."""
        self.session.tryAbort()
        self.peers.noteFailure()
        # Most likely another host has claimed the same jobs: go elsewhere, in the queues and in each of them.
        self.state = dataclasses.replace(self.state, position=elsewhere(random.randrange))
        # A conflict is certain; of a connection that broke, nobody knows what it still brought to the server.
        self._isContended = isinstance(error, ConflictError)
        if not isinstance(error, (LeaseLost, ServiceRemoved)):
            counts.add('conflicts' if self._isContended else 'database_failures', 'cycle')
        self._isInDoubt = self._isInDoubt or not isinstance(error, (ConflictError, LeaseLost, ServiceRemoved))

    # Transactions of their own

    def _beat(self):
        """Write the heartbeat and nothing else, so that it cannot conflict with anything but a rescue."""
        moment = self.monotonic()
        try:
            ledger = self._service().ledgers[self.name]
            self._isReclaimed = self.ownership.check(ledger) or self._isReclaimed
            ledger._p_changed = True
            self.session.note('claim', self.name)
            self.session.manager.commit()
        except BaseException:
            self.session.tryAbort()
            raise
        self._noteCommit(moment)

    def clean(self, keep):
        """Remove some of the jobs that ended long ago, and old uploads, in a transaction of its own; return how many.

        keep -- status -> seconds for which jobs in it are kept.

        Each host sees to what it has brought to an end itself, and the scheduler to what nobody else sees to.
        """
        try:
            service, removed, now = self._service(), 0, self.clock()
            ledgers = [service.ledgers[self.name]]
            if service.schedule.scheduler == self.name:
                ledgers += (shard.ledger for shard in service.shards)
                ledgers += (ledger for ledger in service.ledgers.values() if hosts.isGone(ledger.owner))
                removed += uploads.expire(service, now, CLEANED)
            for ledger in ledgers:
                for status, seconds in keep.items():
                    removed += cleanup.cleanLedger(service, ledger, [status], CLEANED - removed, now - seconds)
            if removed:
                self.session.note('remove', self.name, count=removed)
                self.session.manager.commit()
            else:
                self.session.manager.abort()
            return removed
        except BaseException:
            self.session.tryAbort()
            raise

    def leave(self, unstarted=()):
        """Give back all claims, those on the ids of `unstarted` as such, and give up the ledger.

        Return what was done, a `rescue.Rescued`.
        """
        rescued = self.ownership.giveUp(self.session, unstarted, self.clock)
        self.openClaims.clear()
        return rescued

    def letGo(self, unstarted=()):
        """Do what `leave` does where the service is not at its path any more.  It may be at another one."""
        self.session.oid = self._oid
        return self.leave(unstarted)

    def close(self):
        """Close the connection."""
        self.session.close(self.name)
