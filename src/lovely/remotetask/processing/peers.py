"""The other hosts of a service: whether they live, who takes over from those that do not, how many run jobs."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.common.checks import counted
from lovely.remotetask.common.logs import about
from lovely.remotetask.execution import rescue
from lovely.remotetask.processing.iteration import Message
from lovely.remotetask.processing.load_sharing import Survey
from lovely.remotetask.processing.ownership import POLL_INTERVAL
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import ready


#: Seconds between two surveys of an idle host: when jobs wait, and when there are none.  Among more than CROWD hosts it
#: is as much longer: a survey looks at all of them.
SURVEY, IDLE_SURVEY, CROWD = 2.0, 60.0, 16

#: How many living hosts each one watches: those that come after it, by name.  A death is noticed late only if so many
#: hosts that watch each other die at once.
WATCHED = 3

#: Seconds between two times that a scheduler gives its role to another host, because of jobs that it cannot handle.
HANDOVER = 60.0


class Peers:
    """Watches the other hosts of a service.

    What it keeps are observations: they hold whatever becomes of the transaction in which they were made.  The thread
    that keeps the ledger makes them.  Other threads read `survey` only: an immutable value, which is replaced as a
    whole.

    lease -- seconds for which a host may be silent.
    mayBeScheduler -- whether this host takes the role of the scheduler when nobody has it.
    """

    def __init__(self, lease, mayBeScheduler):
        self.lease, self.mayBeScheduler = lease, mayBeScheduler
        self.survey = Survey()
        self._liveness = hosts.LivenessMonitor(lease)
        self._watchedAt = self._surveyedAt = float('-inf')      # by the monotonic clock
        self._hasWritten = False    # whether the last `watch` has changed anything in its transaction
        self._compared = set()      # names of hosts whose other lease the log knows, and with it, whose generation
        self._neighbours = []       # owners of those watched on this machine, whose end can be seen at once

    def wrote(self, moment):
        """Note that a commit of this host has succeeded; see `LivenessMonitor.wrote`."""
        self._liveness.wrote(moment)

    @property
    def _interval(self):
        return min(POLL_INTERVAL, self.lease / 4)

    def watch(self, view):
        """If it is time, see whether the next hosts live; queue the jobs of those that do not, and take the schedule.

        view -- the `View` of the transaction.

        Return what the log says when that is committed, a list of `Message`s; and the `rescue.Ended`s of hosts that are
        lost.

        Each host is watched by some, and none by all: many idle hosts cost little.
        """
        if view.moment - self._watchedAt < self._interval:
            return [], []
        self._watchedAt, self._neighbours, alive, self._hasWritten = view.moment, [], 0, False
        messages, ends = [], []
        for name, ledger in self._others(view):
            state = self._liveness.stateOf(name, ledger, view.moment)
            if state == hosts.ALIVE:
                alive += 1
                messages += self._compareLeases(view.name, name, ledger.owner)
                messages += self._compareGenerations(view, name, ledger.owner)
                if hosts.isGone(ledger.owner) is False:
                    self._neighbours.append(ledger.owner)
                if alive == WATCHED:
                    break
            elif ledger.claimed or view.service.schedule.scheduler == name:
                message, ended = self._takeOver(view, name, ledger, state)
                messages.append(message)
                ends += ended
                self._hasWritten = True
        if self.mayBeScheduler and view.service.schedule.scheduler is None:
            view.service.schedule.scheduler, self._hasWritten = view.name, True
        return messages, ends

    def _compareLeases(self, ours, name, owner):
        """Return what the log says, once, when another host has another lease; else nothing."""
        lease = owner.get('lease', self.lease)
        isByHand = not owner.get('threads', 1) and not owner.get('schedule', True)
        if lease == self.lease or isByHand or name in self._compared:
            return []
        self._compared.add(name)
        return [Message(
            'processing host %s has a lease of %g s, but %s one of %g s: give all hosts of a database the same',
            (name, lease, ours, self.lease), about('host.otherLease', host=name))]

    def _compareGenerations(self, view, name, owner):
        """Return what the log says, once, when the release of another host knows another generation; else nothing."""
        ours, told = view.ledger.owner, (name, owner.get('generation'))
        if told[1] == ours.get('generation') or told in self._compared:
            return []
        self._compared.add(told)
        return [Message(
            'processing host %s has release %s, which knows generation %s of stored data, but %s has %s, which knows '
            '%s: do not upgrade the data before all hosts have the same',
            (name, owner.get('release'), told[1], view.name, ours.get('release'), ours.get('generation')),
            about('host.otherGeneration', host=name))]

    def noteFailure(self):
        """Note that the transaction of the last `watch` has failed: what that has changed is to be done again."""
        if self._hasWritten:
            self._watchedAt = float('-inf')

    def _others(self, view):
        """Yield names and ledgers of the other hosts, those that come after this one first."""
        names = list(view.service.ledgers)
        place = names.index(view.name)
        for name in names[place + 1:] + names[:place]:
            yield name, view.service.ledgers[name]

    def _takeOver(self, view, name, ledger, state):
        """Queue the jobs of a host that has ended or is silent; return what the log says, and the `rescue.Ended`s."""
        lease = self._liveness.leaseOf(ledger.owner) if state == hosts.SILENT else None
        rescued = rescue.rescue(view.service, name, view.now, lease)
        if view.service.schedule.scheduler == name:
            view.service.schedule.scheduler = None
        what = 'has ended' if lease is None else f'was silent for more than {lease:g} s'
        message = Message('processing host %s %s: %s takes over its jobs (%d)',
                          (name, what, view.name, rescued.claims), about('host.lost', host=name, jobs=rescued.claims))
        return message, rescued.ends

    def look(self, view, isBusy):
        """If it is time, make another `survey`.

        isBusy -- whether this host has claims.
        """
        interval = self._interval if isBusy else SURVEY if ready.isWaiting(view.service) else IDLE_SURVEY
        if view.moment - self._surveyedAt < interval * max(1, self.survey.running / CROWD):
            return
        self._surveyedAt, ledgers = view.moment, view.service.ledgers
        tasks = (view.ledger.owner or {}).get('tasks')          # nothing is left to a host that takes others
        alive = {name: ledger.owner.get('tasks') for name, ledger in ledgers.items() if name != view.name
                 and self._liveness.stateOf(name, ledger, view.moment) == hosts.ALIVE
                 and ledger.owner.get('threads', 1)}
        running = [name for name in alive if alive[name] == tasks]
        self.survey = Survey(len(running), sum(bool(ledgers[name].claimed) for name in running),
                             tuple(name for name in running if name < view.name),
                             frozenset(patterns for patterns in alive.values() if patterns != tasks))

    def handOver(self, view):
        """Make another living host the scheduler, if there is one that may be: this one cannot handle some jobs.

        Return what the log says when that is committed: a list of lines with their arguments.
        """
        for name, ledger in self._others(view):
            if self._liveness.stateOf(name, ledger, view.moment) == hosts.ALIVE \
                    and ledger.owner.get('schedule', True):
                view.service.schedule.scheduler = name
                return [Message('%s becomes the scheduler: %s cannot handle %s',
                                (name, view.name, counted(len(view.service.schedule.aside), 'job')),
                                about('schedule.handed', host=name))]
        return []

    @property
    def hasNeighbours(self):
        """Whether hosts on this machine are watched by this one."""
        return bool(self._neighbours)

    def hasNeighbourEnded(self):
        """Return whether one of them has ended; then the next `watch` sees to it.  This needs no transaction."""
        if not any(map(hosts.isGone, self._neighbours)):
            return False
        self._watchedAt = float('-inf')
        return True
