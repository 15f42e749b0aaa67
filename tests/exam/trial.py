"""The frame of scenarios: how one is described, and what it works with while it goes on."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import random
import signal
import time
import xmlrpc.client
from collections.abc import Callable
from typing import NamedTuple

from exam.deployment import LEASE
from exam.deployment import PATIENCE
from exam.deployment import programOf
from exam.load import Unchanged
from exam.load import Unknown
from exam.load import call
from exam.orders import anything
from lovely.remotetask.xmlrpc.faults import WRONG_STATE


#: Jobs a second.
RATE = 60

#: Seconds between two looks at the database, or at processes that may have ended.
POLL_INTERVAL = 0.1

#: How many leases a rescue may take: the machine may be slow, but not for ever.
RESCUE = 8


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
    storage: str | None = None  # which of `storages.STORAGES` it needs; None for any
    processor: str = ''         # more keys for the configuration of hosts
    kept: bool = True           # hosts remove no job that has ended


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
        self.figures = []               # what is told of a trial besides its faults, texts
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

    def stopOne(self):
        """Stop a host that is drawn by chance, for a random time of up to two leases."""
        with self.stopped(self.drawHost()):
            self.wait(0.5, LEASE * 2)

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
