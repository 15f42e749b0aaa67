"""Schedules that come and go while hosts are killed."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import os
import time
import xmlrpc.client

from exam.deployment import LEASE
from exam.deployment import opened
from exam.deployment import serviceOf
from exam.load import Unchanged
from exam.load import Unknown
from exam.load import call
from exam.orders import short
from exam.trial import RATE
from exam.trial import RESCUE
from exam.trial import scenario
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED


#: MiB of memory that a host may come to use, with all its libraries.
LARGE = 300

#: Seconds after which a schedule of one second must have added a job again, whatever happens.
STANDSTILL = RESCUE * LEASE


@scenario(rate=RATE / 4, work=short)
def cron(trial):
    """Schedules add jobs while the scheduler is killed again and again: each time adds one job."""
    schedules = [call(trial.deployment.url, 'addCronJob', 'tick', {'seconds': seconds}, [], [], [], [], [], delay,
                      {'newJobs': True, 'overlap': True}) for seconds, delay in ((0.01, 0.7), (0.5, 1.1))]
    times = collections.defaultdict(set)        # schedule, time -> ids
    with contextlib.closing(trial.deployment.server.database()) as database:
        def observe():
            """Note the jobs that were added: a schedule remembers the last ones only.  Return the scheduler."""
            with opened(database) as root:
                service = serviceOf(root)
                for jobid in schedules:
                    for added in service.jobs[jobid].history:
                        times[jobid, added.calledFor].add(added.jobid)
                return next((host for host in trial.deployment.hosts if host.name == service.schedule.scheduler), None)

        while trial.goesOn:
            trial.wait(0.5, 1.5)
            scheduler = observe()
            if scheduler is not None and scheduler.running:
                trial.kill(scheduler)
        for jobid in schedules:
            call(trial.deployment.url, 'cancel', jobid)
        observe()

    def check(service):
        violations = [f'the schedule {jobid} has for {when} the jobs {added}'
                      for (jobid, when), added in times.items() if len(added) != 1]
        called = collections.Counter(jobid for added in times.values() for jobid in added)
        violations += [f'job {jobid} was added for {count} times' for jobid, count in called.items() if count != 1]
        added = {job.id for job in service.jobs.values() if job.schedule is not None}
        if added != set(called):
            violations.append(f'jobs without a time: {added - set(called)}; times without a job: '
                              f'{set(called) - added}')
        if not all(any(jobid == schedule for jobid, when in times) for schedule in schedules):
            violations.append('a schedule has added nothing')
        return violations

    trial.check = check


class Schedules:
    """Schedules of a trial, what they have added, and whether they go on.

    trial -- the `Trial`.
    database -- the `ZODB.DB` to look at.
    """

    def __init__(self, trial, database):
        self.trial, self.database, self.url = trial, database, trial.deployment.url
        self.times = collections.defaultdict(set)       # schedule, time -> ids of the jobs added
        self.jobids = []
        self.heart = self.add(delay=1.0, newJobs=True, overlap=True)        # it has to go on
        self._beats, self._beaten = 0, time.monotonic()

    def add(self, delay=None, **options):
        """Add a schedule and return its id; None when nobody knows whether it was added."""
        try:
            jobid = call(self.url, 'addCronJob', 'tick', {'seconds': 0.01}, [], [], [], [], [], delay, options)
        except (Unchanged, Unknown):
            return None
        self.jobids.append(jobid)
        return jobid

    def change(self, method, *arguments):
        """Call a method for one of the schedules, but not the one that has to go on."""
        jobids = [jobid for jobid in self.jobids if jobid != self.heart]
        if jobids:
            with contextlib.suppress(Unchanged, Unknown, xmlrpc.client.Fault):      # it has ended, or is no schedule
                call(self.url, method, self.trial.rng.choice(jobids), *arguments)

    def observe(self):
        """Note the jobs that were added, how the heart beats, and what memory the hosts use."""
        with opened(self.database) as root:
            service = serviceOf(root)
            for jobid, job in service.jobs.items():
                for run in getattr(job, 'history', ()):
                    if job.newJobs:
                        self.times[jobid, run.calledFor].add(run.jobid)
            beats = len([jobid for jobid, _ in self.times if jobid == self.heart])
        if beats > self._beats:
            self._beats, self._beaten = beats, time.monotonic()
        elif time.monotonic() - self._beaten > STANDSTILL:
            self.trial.violations.append(f'no schedule has added a job for {STANDSTILL} s')
            self._beaten = time.monotonic()
        for host in self.trial.deployment.hosts:
            memory = memoryOf(host.pid) if host.running else 0
            if memory > LARGE:
                self.trial.violations.append(f'{host.name} uses {memory:.0f} MiB')

    def end(self):
        """Wait until the schedule that has to go on has added two jobs at least, and cancel all schedules."""
        self.trial.waitUntil(lambda: self.observe() or self._beats >= 2, STANDSTILL)
        with opened(self.database) as root:
            jobids = [jobid for jobid, job in serviceOf(root).jobs.items() if job.status in (CRONJOB, DELAYED)]
        for jobid in jobids:
            with contextlib.suppress(xmlrpc.client.Fault):
                call(self.url, 'cancel', jobid)
        self.observe()

    def check(self, service):
        """Return what is wrong, as a list of texts."""
        wrong = [f'the schedule {jobid} has for {when} the jobs {added}'
                 for (jobid, when), added in self.times.items() if len(added) != 1]
        called = collections.Counter(jobid for added in self.times.values() for jobid in added)
        wrong += [f'job {jobid} was added for {count} times' for jobid, count in called.items() if count != 1]
        return wrong + [f'{self._beats} beats of the schedule that has to go on'] * (self._beats < 2)


def memoryOf(pid):
    """Return how much memory a process uses, in MiB."""
    try:
        with open(f'/proc/{pid}/statm') as file:
            return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20
    except OSError:
        return 0


def drawSchedule(rng):
    """Return options of a schedule of any kind, some of which are refused."""
    options = {'newJobs': rng.random() < 0.8}
    if rng.random() < 0.6:
        options['delay'] = rng.choice([1e-9, 0.1, 0.1, 0.3, 0.7, 1.1, 3.3, rng.uniform(0.1, 5)])
    else:
        options['crontab'] = rng.choice(['* * * * *', '*/2 18-23,0-6 * * *', '0 3 29 2 *', '@hourly'])
        options['timeZone'] = rng.choice(['Europe/Berlin', 'Australia/Lord_Howe', 'UTC', 'localtime'])
    if options['newJobs']:
        options['overlap'] = rng.random() < 0.5
        options['misfire'] = rng.choice(['once', 'skip', 1, 3, 1000])
    return options


@scenario(rate=RATE / 4, work=short)
def schedules(trial):
    """Schedules of any kind come and go while hosts are killed: each time adds one job, nothing hangs or grows."""
    with contextlib.closing(trial.deployment.server.database()) as database:
        schedules = Schedules(trial, database)
        while trial.goesOn:
            trial.wait(0.1, 0.5)
            schedules.observe()
            draw = trial.rng.random()
            if draw < 0.1 and len(schedules.jobids) < 20:
                with contextlib.suppress(xmlrpc.client.Fault):
                    schedules.add(**drawSchedule(trial.rng))
            elif draw < 0.4:
                schedules.change(*trial.rng.choice([('cancel',), ('reschedule',), (
                    'updateCronJob', {'delay': trial.rng.uniform(0.1, 2)}), ('updateCronJob', {'active': True})]))
            elif draw < 0.5:
                trial.kill(trial.drawHost())
        schedules.end()
    trial.check = schedules.check
