"""What must be true after a scenario: nothing is left, and every job has one end and its effect once."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import itertools
import threading
import time
from typing import NamedTuple

from exam import tasks
from exam.deployment import opened
from exam.deployment import serviceOf
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.processing.in_flight import LONG_AFTER


#: Seconds for what is left when the load has ended, besides as many as the load has lasted.
PATIENCE = 90

#: Seconds between two looks when nobody commits.
POLL_INTERVAL = 0.5

#: How many violations are told.
TOLD = 20


class Verdict(NamedTuple):
    """What came of a scenario."""

    scenario: str
    seed: str
    jobs: int               # that were judged
    faults: int             # that were met
    rescue: float           # seconds: the longest time from the loss of a host to the next run of a job that ran there
    repeats: int            # outside effects beyond one for each job
    violations: list        # texts
    figures: list           # what was measured besides, texts
    story: str              # faults and logs: what is to be read when there are violations

    @property
    def report(self):
        """Everything, as text."""
        return '\n'.join([f'scenario {self.scenario}, seed {self.seed}: {len(self.violations)} violations',
                          *self.violations[:TOLD], self.story])


def left(service):
    """Return what is still to be done, as a list of texts."""
    found = [f'shard {number}: {len(shard.ready)} ids are queued: {list(shard.ready)[:5]}'
             for number, shard in enumerate(service.shards) if shard.ready]
    found += [f'{name} claims {len(ledger.claimed)}: {list(ledger.claimed.items())[:5]}'
              for name, ledger in _ledgers(service) if ledger.claimed]
    if service.schedule.inbox:
        found.append(f'the inbox has {list(service.schedule.inbox)[:5]}')
    for due, jobid in service.schedule.entries:
        job = service.jobs.get(jobid)
        if job is not None and job.due == due:
            found.append(f'job {jobid} is due at {due / 1e6:.3f}, now it is {time.time():.3f}')
    return found


def _ledgers(service):
    return [*service.ledgers.items(), *((f'shard {number}', shard.ledger)
                                        for number, shard in enumerate(service.shards))]


def acknowledge(deployment, database, timeout):
    """Wait until nothing is left to be done, starting whatever ends; return `left` of the last look.

    timeout -- seconds.
    """
    wakeup, until = threading.Event(), time.monotonic() + timeout
    notifierOf(database).subscribe(wakeup)
    try:
        while True:
            wakeup.clear()
            deployment.mend()
            with opened(database) as root:
                found = left(serviceOf(root))
            if not found or time.monotonic() > until:
                return found
            wakeup.wait(POLL_INTERVAL)
    finally:
        notifierOf(database).unsubscribe(wakeup)


class Judge:
    """Looks at what a trial has left in the database and in the trace.

    trial -- the `scenarios.Trial`, its load ended and its deployment restored.
    """

    def __init__(self, trial):
        self.trial, self.load = trial, trial.load
        self.violations = [*trial.violations, *trial.load.errors]
        self.rows = collections.defaultdict(list)       # id -> word, process id and time of each line of the trace
        for word, jobid, *rest in trial.deployment.trace:
            self.rows[jobid].append((word, *rest))
        self.effects = collections.Counter({jobid: [word for word, *_ in rows].count(tasks.EFFECT)
                                            for jobid, rows in self.rows.items()})
        self.jobs = 0

    def judge(self, service, root):
        """Check everything; add what is wrong to the violations."""
        ends = self._ends(service)
        known, orders = set(), collections.Counter()
        for jobid, job in service.jobs.items():
            if job.status == CRONJOB or 'number' not in job.input and job.schedule is None:
                continue                                # a schedule
            known.add(jobid)
            if not len(known) % 1000:
                root._p_jar.cacheGC()                   # there can be millions
            if job.schedule is None:
                number = job.input['number']
                orders[number] += 1
                counter = root[tasks.ORDERS][number]
            else:
                counter = root[tasks.TICKS].get(jobid)
            value = 0 if counter is None else counter.value
            for wrong in self._wrong(job, value, ends.get(jobid, [])):
                self._violation(job, f'{wrong}; counter {value}, ends {ends.get(jobid)}')
        gone = set(self.load.accepted) - known
        self.jobs = len(known | gone)
        if self.trial.scenario.alive:
            self.violations += [f'no host was lost, but {line}' for program in self.trial.deployment.hosts
                                for line in program.rescues]
        if self.trial.scenario.kept:
            self.violations += [f'job {jobid} was accepted, and is not there' for jobid in gone]
        else:
            orders.update(self.load.accepted[jobid] for jobid in gone)
            self.violations += [f'job {jobid} was removed, and {wrong}'
                                for jobid in gone for wrong in self._wrongWhenRemoved(jobid, root)]
        self.violations += [f'order {number} has {count} jobs' for number, count in orders.items() if count > 1]
        self.violations += [f'order {number} was refused, and has a job' for number in self.load.refused & set(orders)]
        self.violations += [f'order {number} has no job, and counter {counter.value}'
                            for number, counter in root[tasks.ORDERS].items()
                            if number not in orders and counter.value]

    def _ends(self, service):
        """Return id -> list of the ends that the ledgers have on record; there is to be one."""
        ends = collections.defaultdict(list)
        recorded, counted = collections.Counter(), collections.Counter()
        for name, ledger in _ledgers(service):
            for status, finished in ledger.finished.items():
                for jobid in finished.values():
                    ends[jobid].append(status)
                # What is removed is taken from the count of another ledger.
                where = name if self.trial.scenario.kept else 'all ledgers together'
                recorded[where, status] += len(finished)
                counted[where, status] += ledger.tally[status]
        self.violations += [f'{where}: {recorded[where, status]} jobs are {status}, and {count} are counted'
                            for (where, status), count in counted.items() if count != recorded[where, status]]
        return ends

    def _wrong(self, job, value, ends):
        """Yield what is wrong with a job, as texts."""
        expected = self._expected(job)
        if job.status not in FINAL:
            yield 'has not ended, and nobody has it'
            return
        if job.status not in expected:
            yield f'ended {job.status}, not {" or ".join(expected)}'
        if ends != [job.status]:
            yield 'its end is not on record once'
        counts = job.task != 'plain' and job.status == (CANCELLED if job.task == 'ends' else COMPLETED)
        if value != counts:
            yield f'was to be counted {"once" if counts else "never"}'
        if job.status == COMPLETED and not self.effects[job.id]:
            yield 'has no outside effect'
        isOnce = job.task == 'once' or self.trial.scenario.once and job.task != 'conflict'
        if isOnce and self.effects[job.id] > 1:
            yield f'has {self.effects[job.id]} outside effects'
        failures = job.input.get('failures', 0)
        charged = job.failedAttempts
        if self.trial.scenario.uncharged and job.task != 'poison' and (
                charged > failures + self._ofLostHosts(job) or job.status == COMPLETED and charged < failures):
            yield f'failed {failures} times, and was charged {charged} attempts'

    def _wrongWhenRemoved(self, jobid, root):
        """Yield what is wrong with a job that has ended and was removed, as texts."""
        number = self.load.accepted[jobid]
        order, value = self.load.orders[number], root[tasks.ORDERS][number].value
        if value != (order.task != 'plain'):
            yield f'was counted {value} times, being {order.task}'
        if not self.effects[jobid]:
            yield 'has no outside effect'

    def _ofLostHosts(self, job):
        """Count the attempts that a job may be charged for hosts that were lost: its run was on record, being long.

        A short one takes long where the machine has too much to do.
        """
        begun = [when for word, _, when in self.rows[job.id] if word == tasks.BEGUN]
        return sum('the processing host ' in failure.message
                   and any(when + LONG_AFTER <= failure.time for when in begun) for failure in job.errors)

    def _expected(self, job):
        if job.id in self.trial.cancelled:
            return [CANCELLED]
        expected = [COMPLETED if job.schedule is not None else self.load.orders[job.input['number']].end]
        if job.task == 'once':
            expected.append(ERROR)              # its run was interrupted
        return expected + [CANCELLED] if job.id in self.trial.maybeCancelled else expected

    def _violation(self, job, wrong):
        rows = [f'{word} by {pid} at {when:.3f}' for word, pid, when in self.rows[job.id]]
        self.violations.append(f'job {job.id} ({job.task} {str(job.input)[:80]}) {wrong}: status {job.status}, run '
                               f'{job.run}, failed attempts {job.failedAttempts}, error {job.error}; trace: '
                               f'{", ".join(rows) or "none"}')

    @property
    def repeats(self):
        """How many outside effects there are beyond one for each job."""
        return sum(self.effects.values()) - len(self.effects)

    def rescue(self):
        """Return the longest time from the loss of a process to the next run of a job that ran there; in seconds."""
        # Of each job, the runs that were followed by another one: by process.
        followed = collections.defaultdict(list)
        for rows in self.rows.values():
            for (_, pid, began), (_, _, again) in itertools.pairwise(row for row in rows if row[0] == tasks.BEGUN):
                followed[pid].append((began, again))
        return max((again - lost for lost, pid in self.trial.losses for began, again in followed[pid]
                    if began < lost < again), default=0.0)


def judge(trial):
    """Wait for the end of all jobs, and return the `Verdict` on a trial."""
    with contextlib.closing(trial.deployment.server.database()) as database:
        unsettled = acknowledge(trial.deployment, database, PATIENCE + trial.seconds)
        judge = Judge(trial)
        judge.violations += [f'it does not come to an end: {text}' for text in unsettled]
        with opened(database) as root:
            judge.judge(serviceOf(root), root)
            if trial.check is not None:
                judge.violations += trial.check(serviceOf(root))
    story = '\n'.join(['what was done:', *(f'  {text}' for text in trial.story), trial.deployment.logs])
    return Verdict(trial.scenario.name, trial.seed, judge.jobs, trial.faults, judge.rescue(), judge.repeats,
                   judge.violations, trial.figures, story)
