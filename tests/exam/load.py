"""Clients that add jobs over XML-RPC, and remember what they were told."""
# SPDX-License-Identifier: ZPL-2.1
import http.client
import random
import threading
import xmlrpc.client
from typing import Any
from typing import NamedTuple

from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.xmlrpc import faults


#: Faults that say that nothing was changed.
UNCHANGED = (faults.DATABASE_UNAVAILABLE, faults.STOPPING, faults.WRONG_GENERATION)

#: Seconds before a call is repeated that has changed nothing.
PAUSE = 0.1


class Unchanged(Exception):
    """The call was not carried out: it can be repeated."""


class Unknown(Exception):
    """Nobody knows whether the call was carried out: it must not be repeated."""


class _Once(xmlrpc.client.Transport):
    """Sends a request once.  That of the standard library sends it again when the connection breaks: two jobs."""

    def request(self, host, handler, request_body, verbose=False):
        return self.single_request(host, handler, request_body, verbose)


def call(url, method, *arguments):
    """Call a method of the service; raise `Unchanged`, `Unknown`, or an `xmlrpc.client.Fault` that refuses it."""
    try:
        with xmlrpc.client.ServerProxy(url, transport=_Once(), allow_none=True) as server:
            return getattr(server, method)(*arguments)
    except xmlrpc.client.Fault as fault:
        if fault.faultCode in UNCHANGED:
            raise Unchanged() from fault
        if fault.faultCode == faults.OUTCOME_UNKNOWN:
            raise Unknown() from fault
        raise
    except ConnectionRefusedError as error:             # nothing was sent
        raise Unchanged() from error
    except (OSError, http.client.HTTPException) as error:
        raise Unknown() from error


class Order(NamedTuple):
    """A job that a client wants: what is to be added, and how it has to end."""

    task: str
    input: Any
    end: str = COMPLETED


class Load:
    """Threads that add one job after the other.

    deployment -- the `Deployment`.
    work -- a function of a `random.Random` that returns an `Order`; its number becomes part of its input.
    seed -- for the threads' random numbers.
    orders -- how many at the most.
    rate -- jobs a second, all threads together.
    """

    def __init__(self, deployment, work, seed, orders, rate, threads=4):
        self.deployment, self.work, self.pace = deployment, work, rate / threads
        self.orders = [None] * orders   # number -> `Order`, of those that were asked for
        self.accepted = {}              # id -> number
        self.refused = set()            # numbers of which the last word was that nothing was changed
        self.unknown = set()            # numbers of orders that may have been accepted
        self.errors = []                # what no answer should be
        self._numbers = iter(range(orders))
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(random.Random(f'{seed} {number}'),), daemon=True)
                         for number in range(threads)]

    def start(self):
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self):
        """End, when all calls have been answered."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def add(self, order):
        """Add a job for the order, repeating a call that has changed nothing; return its id, None if it has none."""
        with self._lock:
            number = next(self._numbers, None)
        if number is None:
            return None
        self.orders[number] = order
        while True:
            try:
                jobid = call(self.deployment.url, 'add', order.task, dict(order.input, number=number))
                self.accepted[jobid] = number
                return jobid
            except Unchanged:
                if self._over.wait(PAUSE):
                    self.refused.add(number)
                    return None
            except Unknown:
                self.unknown.add(number)
                return None
            except Exception as error:
                self.errors.append(f'order {number}: {type(error).__name__}: {error}')
                return None

    def _run(self, rng):
        while not self._over.wait(rng.expovariate(self.pace)):
            self.add(self.work(rng))
