"""The scenarios: what happens to a deployment under load."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import xmlrpc.client
from collections.abc import Callable
from typing import NamedTuple

import psycopg2

from exam.deployment import LEASE
from exam.deployment import PATIENCE
from exam.deployment import deployment
from exam.deployment import opened
from exam.deployment import programOf
from exam.deployment import serviceOf
from exam.judge import judge
from exam.load import Load
from exam.load import Order
from exam.load import Unchanged
from exam.load import Unknown
from exam.load import call
from lovely.remotetask.interfaces import CANCELLED
from lovely.remotetask.interfaces import CRONJOB
from lovely.remotetask.interfaces import DELAYED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.testing import Process
from lovely.remotetask.testing import temporaryPostgreSQL
from lovely.remotetask.testing import temporaryZEO
from lovely.remotetask.xmlrpc.faults import WRONG_STATE


#: Jobs a second.
RATE = 60

#: Seconds between two looks at the database, or at processes that may have ended.
POLL_INTERVAL = 0.1

#: Seconds between two poisonous jobs, on average.
POISON = 30

#: How many leases a rescue may take: the machine may be slow, but not for ever.
RESCUE = 8


# Work

def short(rng):
    """Return an order of up to 50 ms that can't fail."""
    return Order(rng.choice(['effect', 'effect', 'plain']), {'seconds': rng.uniform(0, 0.05)})


def anything(rng):
    """Return an order of any kind: short and long, small and large, one that fails before it succeeds."""
    draw = rng.random()
    if draw < 0.05:
        return Order('fails', {'failures': rng.choice([1, 2])})
    if draw < 0.1:
        return Order('effect', {'seconds': 0.01, 'payload': 'x' * rng.randrange(20_000)})
    if draw < 0.2:
        return Order(rng.choice(['effect', 'plain']), {'seconds': rng.uniform(0.2, 0.6)})
    return short(rng)


def ending(rng):
    """Return an order whose task cancels its own job, or any other one."""
    if rng.random() < 0.5:
        return anything(rng)
    return Order('ends', {'seconds': rng.choice([0, 0, 0.01, 0.3]), 'commits': rng.random() < 0.5}, CANCELLED)


def tiring(rng):
    """Return an order that keeps hosts busy, of which few complete: one that fails often, is long, or conflicts."""
    draw = rng.random()
    if draw < 0.5:
        return Order('again', {'failures': rng.randrange(10, 50), 'seconds': rng.uniform(0.05, 0.5)})
    if draw < 0.8:
        return Order(rng.choice(['effect', 'plain']), {'seconds': rng.uniform(0.5, 4) * LEASE})
    return Order('conflict', {'seconds': rng.uniform(0, 0.3) * LEASE})


def committing(rng):
    """Return a short order, or at times one whose commit takes longer than the lease."""
    if rng.random() < 0.005:
        return Order('slow commit', {'vote': rng.uniform(0.5, 2) * LEASE, 'key': rng.choice('!~')})
    return anything(rng)


# The frame

class Scenario(NamedTuple):
    """A schedule of faults, and what is expected besides what is always so."""

    name: str
    run: Callable               # called with a `Trial`; it returns when the time is over
    hosts: int = 3
    work: Callable = anything
    rate: float = RATE
    once: bool = False          # no outside effect is repeated either
    uncharged: bool = False     # no attempt is charged but for what a task does
    alive: bool = False         # no host is lost, and none is said to be
    storage: str | None = None  # which of `STORAGES` it needs; None for any


#: A directory that is in memory, where the system has it.
MEMORY = '/dev/shm'


@contextlib.contextmanager
def fastPostgreSQL():
    """Run a PostgreSQL whose commits do not wait for a disk that others keep busy."""
    where = MEMORY if os.path.isdir(MEMORY) else None
    with temporaryPostgreSQL() as server, tempfile.TemporaryDirectory(prefix='remotetask-', dir=where) as directory:
        try:
            server.keepTemporaryTables(directory)
            yield server
        finally:
            server.close()


#: How to run the database server, by the name of the storage.
STORAGES = {'zeo': temporaryZEO, 'postgresql': fastPostgreSQL}


#: By name, in the order in which they are run.
SCENARIOS = {}


def scenario(**options):
    """Make a scenario of a function, under its name; the options are fields of `Scenario`."""
    def register(run):
        SCENARIOS[run.__name__] = Scenario(run.__name__, run, **options)
        return run
    return register


class Trial:
    """A scenario that goes on: what it works with, and what it has done."""

    def __init__(self, scenario, deployment, load, seed, seconds, beside=None):
        self.scenario, self.deployment, self.load, self.seed, self.seconds = scenario, deployment, load, seed, seconds
        self.beside = beside            # the path of another checkout; None for none
        self.rng = random.Random(seed)
        self.faults = 0
        self.story = []                 # what was done, as texts with times
        self.losses = []                # when a process was lost, in UTC seconds, and its id
        self.violations = []
        self.cancelled = set()          # ids that were cancelled, as the front end says
        self.maybeCancelled = set()     # ids of which it did not say so
        self.check = None               # a function of the service that returns a list of violations
        self._began = time.monotonic()

    @property
    def goesOn(self):
        """Whether there is time left."""
        return time.monotonic() < self._began + self.seconds

    def wait(self, least, most):
        """Wait for a random time, in seconds."""
        time.sleep(self.rng.uniform(least, most))

    def waitUntil(self, condition, timeout):
        """Wait until the condition is true, `timeout` seconds at most; return whether it is."""
        until = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > until:
                return False
            time.sleep(POLL_INTERVAL)
        return True

    def tell(self, text):
        """Enter what happens into the story."""
        self.story.append(f'{time.time():.3f} (+{time.monotonic() - self._began:.1f} s) {text}')

    def fault(self, text):
        """Enter a fault."""
        self.faults += 1
        self.tell(text)

    def drawHost(self):
        """Return a host by chance, as soon as another one is ready.

        Where starting takes longer than the time between two faults, nobody would be there for a rescue.
        """
        drawn = self.rng.choice(self.deployment.hosts)
        self.waitUntil(lambda: any(host.ready for host in self.deployment.hosts if host is not drawn), 30)
        return drawn

    # Faults

    def kill(self, program, least=0.0, most=0.5):
        """Kill a program, and start it again after a random time."""
        self.fault(f'{program.name} is killed, process {program.pid}')
        self.losses.append((time.time(), program.pid))
        program.end(signal.SIGKILL)
        self.wait(least, most)
        program.start()

    def terminate(self, program):
        """Ask a program to end, wait for that, and start it again."""
        self.fault(f'{program.name} is asked to end, process {program.pid}')
        program.end(signal.SIGTERM)
        program.start()

    def move(self, program, tree):
        """Ask a program to end, and start it from another checkout, or from this one if that refuses the data.

        tree -- the path of the checkout; None for this one.
        """
        program.tree = tree
        self.terminate(program)
        self.tell(f'{program.name} is started from {tree or "this checkout"}')
        if not self.waitUntil(lambda: program.ready or not program.running, PATIENCE):
            self.violations.append(f'{program.name} from {tree} does not start:\n{program.log}')
        if (refusal := program.refusal) is not None:
            self.tell(f'{program.name} from {tree} refuses the data: {refusal}')
            program.tree = None
            program.start()
            self.waitUntil(lambda: program.ready, PATIENCE)

    def moveServer(self, tree):
        """Kill the database server, and start it from another checkout; see `move`."""
        self.deployment.server.program = programOf(tree, 'runzeo', 'runzeo')
        self.killServer()

    @contextlib.contextmanager
    def stopped(self, program):
        """Stop a host and have it go on later."""
        self.fault(f'{program.name} is stopped, process {program.pid}')
        self.losses.append((time.time(), program.pid))
        program.signal(signal.SIGSTOP)
        yield
        program.signal(signal.SIGCONT)
        self.tell(f'{program.name} goes on')

    def killServer(self):
        """Kill the database server, and start it again after a random time."""
        self.fault('the database server is killed')
        self.deployment.server.kill()
        self.wait(0.1, 1)
        self.deployment.server.start()

    def hangServer(self, least=1.0, most=4.0):
        """Stop the database server, and have it go on after a random time."""
        self.fault('the database server hangs')
        self.deployment.server.hang()
        self.wait(least, most)
        self.deployment.server.goOn()

    def cancelOne(self):
        """Cancel a job, most often one of the latest, unless it has ended; note what the front end says."""
        jobids = list(self.load.accepted)
        if not jobids:
            return
        jobid = jobids[-min(len(jobids), 1 + int(self.rng.expovariate(0.2)))]
        try:
            call(self.deployment.url, 'cancel', jobid)
            self.cancelled.add(jobid)
            self.faults += 1
        except Unchanged:
            pass
        except Unknown:
            self.maybeCancelled.add(jobid)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != WRONG_STATE:
                raise


def run(name, seed, seconds, storage='zeo', beside=None):
    """Run a scenario and return the `Verdict`.

    seed -- a text; the same seed draws the same faults.
    seconds -- for how long there are load and faults.
    storage -- which of `STORAGES` the deployment has, unless the scenario needs another one.
    beside -- the path of another checkout with its own `bin`, for the scenario `upgrade`.
    """
    scenario = SCENARIOS[name]
    storage = scenario.storage or storage
    orders = int(scenario.rate * seconds * 1.1) + 100
    with deployment(scenario.hosts, orders, STORAGES[storage]) as made:
        clients = Load(made, scenario.work, seed, orders, scenario.rate)
        trial = Trial(scenario, made, clients, seed, seconds, beside)
        clients.start()
        try:
            scenario.run(trial)
            made.restore()
        except Exception:
            trial.violations.append(f'the scenario failed: {traceback.format_exc()}')
        finally:
            clients.stop()
        made.restore()
        return judge(trial)


# The scenarios

@scenario()
def kill(trial):
    """One host after the other is killed, and started again under its name."""
    while trial.goesOn:
        trial.wait(0.3, 1)
        trial.kill(trial.drawHost())
        trial.deployment.mend()


@scenario(work=short, once=True, uncharged=True, alive=True)
def rolling(trial):
    """All hosts are asked to end, one after the other, and started again: nobody notices."""
    while trial.goesOn:
        for host in trial.deployment.hosts:
            trial.terminate(host)
            trial.waitUntil(lambda: host.ready, 30)


@scenario(alive=True, storage='zeo')
def upgrade(trial):
    """Hosts, front end and database server go over to the checkout that is beside, one by one, and back again."""
    tree = None
    while trial.goesOn:
        tree = trial.beside if tree is None else None
        programs = [*trial.deployment.programs, None]
        trial.rng.shuffle(programs)
        for program in programs:
            trial.wait(0.1, 1)
            if program is None:
                trial.moveServer(tree)
            else:
                trial.move(program, tree)


@scenario()
def stopped(trial):
    """A host is stopped beyond its lease: the others do its jobs, and when it goes on it changes nothing."""
    with contextlib.closing(trial.deployment.server.database()) as database:
        def claims(host):
            with opened(database) as root:
                return len(serviceOf(root).ledgers[host.name].claimed)

        while trial.goesOn:
            trial.wait(0.5, 1)
            host = trial.drawHost()
            with trial.stopped(host):
                time.sleep(LEASE)
                before = database.lastTransaction()
                if not trial.waitUntil(lambda: not claims(host), (RESCUE - 1) * LEASE):
                    if database.lastTransaction() == before:
                        # It holds the commit lock of the server: that is ZEO's, and nobody can take it away.
                        trial.tell('nothing was committed meanwhile')
                    else:
                        trial.violations.append(f'{host.name} was stopped for {RESCUE} leases, and {claims(host)} jobs '
                                                f'still wait for it')
            trial.waitUntil(lambda: not trial.goesOn, trial.rng.uniform(0, LEASE))


@scenario(alive=True, storage='zeo')
def zeo(trial):
    """The database server is killed and started again."""
    while trial.goesOn:
        trial.wait(1, 3)
        trial.killServer()


@scenario(alive=True)
def hang(trial):
    """The database server hangs, in a long trial at times for so long that all leave it."""
    while trial.goesOn:
        trial.wait(0.5, 2)
        if trial.seconds > 30 and trial.rng.random() < 0.1:
            trial.hangServer(10, 15)
        else:
            trial.hangServer()


@scenario(storage='postgresql', uncharged=True)
def postgres(trial):
    """PostgreSQL is restarted, crashes, and its backends are killed or terminated: nobody is charged for it."""
    server = trial.deployment.server
    faults = {'is restarted': server.restart, 'crashes': lambda: server.restart('immediate'),
              'has a backend killed': lambda: server.killBackend(trial.rng.choice(server.backends())),
              'terminates all backends': server.terminateBackends}
    while trial.goesOn:
        trial.wait(0.5, 3)
        fault = trial.rng.choice(list(faults))
        trial.fault(f'PostgreSQL {fault}')
        faults[fault]()
    # After the loss of a backend it refuses all connections until it has recovered; who judges connects once.
    if not trial.waitUntil(lambda: answers(server), 60):
        trial.violations.append('PostgreSQL does not come back')


def answers(server):
    """Return whether a PostgreSQL accepts connections."""
    try:
        server.backends()
    except psycopg2.OperationalError:
        return False
    return True


@scenario(alive=True)
def frontend(trial):
    """The front end is killed and started again: what it has accepted is there."""
    while trial.goesOn:
        trial.wait(0.5, 1.5)
        trial.kill(trial.deployment.frontend)
        trial.waitUntil(lambda: trial.deployment.frontend.ready, 30)


@scenario()
def mixed(trial):
    """Anything happens."""
    def stop():
        with trial.stopped(trial.drawHost()):
            trial.wait(0.5, LEASE * 2)

    while trial.goesOn:
        trial.wait(0.2, 1)
        trial.rng.choice([lambda: trial.kill(trial.drawHost()), lambda: trial.terminate(trial.drawHost()), stop,
                           lambda: trial.kill(trial.deployment.frontend), trial.killServer, trial.hangServer,
                           trial.cancelOne])()
        trial.deployment.mend()


@scenario(alive=True)
def cancel(trial):
    """Jobs are cancelled, whatever happens to them at that moment."""
    while trial.goesOn:
        trial.wait(0, 0.08)
        trial.cancelOne()
    trial.tell(f'{len(trial.cancelled)} jobs were cancelled')


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


@scenario(uncharged=True, work=short)
def poison(trial):
    """Jobs that end their host: each ends in an error, and no other job is charged for it."""
    def add(by):
        jobid = trial.load.add(Order('poison', {'by': by}, ERROR))
        trial.fault(f'job {jobid} is poison: {by}')

    add('exit')
    add('crash')
    while trial.goesOn:
        trial.deployment.mend()
        time.sleep(POLL_INTERVAL)
        if trial.rng.random() < POLL_INTERVAL / POISON:
            add(trial.rng.choice(['exit', 'crash']))


@scenario(work=ending)
def own(trial):
    """Tasks cancel their own jobs, with and without a commit of their own, while hosts are killed and stopped."""
    def stop():
        with trial.stopped(trial.drawHost()):
            trial.wait(0.5, LEASE * 2)

    while trial.goesOn:
        trial.wait(0.5, 2)
        trial.rng.choice([lambda: trial.kill(trial.drawHost()), stop])()
        trial.deployment.mend()


@scenario(rate=1.2, work=tiring, once=True, uncharged=True, alive=True)
def retries(trial):
    """Jobs fail and are tried again, conflict and are cancelled, beside jobs longer than the lease: all hosts live."""
    schedule = call(trial.deployment.url, 'addCronJob', 'tick', {'seconds': 0.1}, [], [], [], [], [], 1.5,
                    {'newJobs': True, 'overlap': True})
    while trial.goesOn:
        trial.wait(1, 4)
        trial.cancelOne()
    call(trial.deployment.url, 'cancel', schedule)
    trial.tell(f'{len(trial.cancelled)} jobs were cancelled')


@scenario(rate=RATE / 3, work=committing, once=True, uncharged=True, alive=True, storage='zeo')
def stalled(trial):
    """A client stalls after its vote, longer than the lease, again and again, and so do tasks: all hosts live."""
    client = Process(['-m', 'exam.staller', *map(str, trial.deployment.server.address), trial.seed],
                     trial.deployment.directory)
    with contextlib.closing(client):
        while trial.goesOn:
            time.sleep(POLL_INTERVAL)
        trial.faults += len(client.said)
        for line in client.said:
            trial.tell(line.rstrip())
        if client.popen.poll() is not None:
            trial.violations.append('the client that stalls has ended')


#: MiB of memory that a host may come to use, with all its libraries.
LARGE = 300

#: Seconds after which a schedule of one second must have added a job again, whatever happens.
STANDSTILL = RESCUE * LEASE


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


#: A library that moves the clock of a process, not its monotonic one, by the seconds in a file.
CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long none, *moved;

static long ahead(void) {
    if (!moved) {
        int file = open(getenv("EXAM_CLOCK"), O_RDONLY);
        void *there = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
        moved = there == MAP_FAILED ? &none : there;
        close(file);
    }
    return *moved;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += ahead();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec time;
    int result = clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return result;
}

time_t time(time_t *now) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    if (now)
        *now = time.tv_sec;
    return time.tv_sec;
}
"""


def clockLibrary(directory):
    """Compile CLOCK in a directory and return its path; None when there is no C compiler."""
    source, library = (os.path.join(directory, name) for name in ('clock.c', 'clock.so'))
    with open(source, 'w') as file:
        file.write(CLOCK)
    compiler = shutil.which('cc') or shutil.which('gcc')
    if compiler is None:
        return None
    subprocess.run([compiler, '-shared', '-fPIC', '-O1', '-o', library, source], check=True)
    return library


@scenario(rate=RATE / 4, work=anything)
def clocks(trial):
    """The clocks of hosts jump, back and forth, by hours, days and years: nobody is taken for dead, all goes on."""
    deployment = trial.deployment
    library = clockLibrary(deployment.directory)
    if library is None:
        print('clocks: skipped, there is no C compiler', flush=True)
        return
    for host in deployment.hosts:
        path = os.path.join(deployment.directory, f'{host.name}.clock')
        host.environment = {'LD_PRELOAD': library, 'EXAM_CLOCK': path}
        move(host, 0)
        trial.terminate(host)
    deployment.restore()
    with contextlib.closing(deployment.server.database()) as database:
        schedules = Schedules(trial, database)
        for _ in range(4):
            schedules.add(delay=trial.rng.uniform(0.3, 3), newJobs=True, overlap=True)
        while trial.goesOn:
            trial.wait(0.5, 2)
            schedules.observe()
            seconds = trial.rng.choice([0, 0, 30, 3600, 86400, 366 * 86400, 3660 * 86400])
            seconds *= trial.rng.choice([1, -1])
            host = trial.drawHost()
            trial.fault(f'the clock of {host.name} is off by {seconds} s')
            move(host, seconds)
        for host in deployment.hosts:
            move(host, 0)
        schedules.end()
    trial.violations += [f'{host.name} has taken another host for dead' for host in deployment.hosts
                         if any('was silent' in line for line in host.process.said)]
    trial.check = lambda service: [text for text in schedules.check(service) if 'beats' in text]


def move(host, seconds):
    """Have the clock of a host, started with the library, be so many seconds ahead."""
    path = host.environment['EXAM_CLOCK']
    with open(path, 'r+b' if os.path.exists(path) else 'wb') as file:
        file.write(seconds.to_bytes(8, sys.byteorder, signed=True))
