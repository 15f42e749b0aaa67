"""What is measured: each measure is a generator over a `Stage`, and gives `Value`s, one of a name for each round."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import itertools
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import transaction

from lovely.remotetask.bench.client import addJobs
from lovely.remotetask.bench.database import completed
from lovely.remotetask.bench.settings import CHECK_INTERVAL
from lovely.remotetask.bench.settings import POLL_INTERVAL
from lovely.remotetask.bench.settings import THREADS
from lovely.remotetask.bench.settings import BenchError
from lovely.remotetask.bench.stage import Cost
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import atPath
from lovely.remotetask.database.transactions import lastTransaction
from lovely.remotetask.interfaces import FINAL


#: Seconds between two looks at hosts that drain a queue: they are not to be disturbed.
PAUSE = 0.02

#: Seconds that a job takes of those that keep all threads busy, and how many of these each thread gets.
LONG, ROUNDS = 0.5, 8

#: How many processing hosts share long jobs, or have nothing to do.
PAIR = 2

#: Seconds after which hosts count as idle, and for which they are then measured.
SETTLE, IDLE = 1.5, 5.0

#: Seconds after which the latency is known well enough.
ENOUGH = 15.0

#: Jobs that are added at once where there are to be many.
FILL = 20_000

#: Client processes that call a front end, and numbers of threads that these have together.
CALLERS, CALLER_THREADS = 2, (8, 32)

HIGHER, LOWER = 'higher', 'lower'


class Value(NamedTuple):
    """One value that was measured."""

    name: str
    value: float
    unit: str
    better: str             # HIGHER or LOWER


class Results:
    """All that was measured: name -> unit, what is better, and the values of all rounds."""

    def __init__(self):
        self.measured = {}

    def add(self, value):
        """Enter a `Value`."""
        entry = self.measured.setdefault(value.name, {'unit': value.unit, 'better': value.better, 'all': []})
        entry['all'].append(value.value)

    def asDict(self):
        """Return name -> value (the median), unit, better, all."""
        return {name: {'value': statistics.median(entry['all']), **entry} for name, entry in self.measured.items()}


def run(stage, names=(), tell=lambda title, done: None):
    """Measure, and return the `Results`.

    names -- of `MEASURES`; default: all but ASKED.
    tell -- called before each one begins, with what is measured and the part of all that is done, from 0 to 1.
    """
    results = Results()
    chosen = [name for name in MEASURES if (name in names if names else name not in ASKED)]
    stage.database.change(lambda service: service.pause())
    if stage.settings.behind and set(chosen) & set(QUEUED):
        tell(f'{stage.settings.behind} jobs behind', 0)
    if stage.settings.behind:
        stage.database.addBehind()
    parked = False
    for number, name in enumerate(chosen):
        tell(name, number / len(chosen))
        if not parked and name not in QUEUED:
            parked = True
            stage.hosts(0)
            stage.database.park()
        for value in MEASURES[name](stage):
            results.add(value)
    stage.stop()
    if not names or 'memory' in names:
        for kind, peak in sorted(stage.peaks.items()):
            if peak:
                results.add(Value(f'memory, {TITLES[kind]}', peak / 2**20, 'MiB', LOWER))
    return results


#: Kind of a process -> what it is called in the table.
TITLES = {'host': 'processing host', 'frontend': 'frontend', 'server': 'database server', 'bench': 'this process'}


def _count(number, what):
    return f'{number} {what}' if number == 1 else f'{number} {what}s'


# With jobs waiting behind

def adding(stage):
    """Jobs added in the database one by one, by one client and by several at the same time."""
    settings = stage.settings
    stage.hosts(0)
    for count in sorted({1, settings.clients}):
        share = max(10, 2 * settings.some // count)
        name = f'add, {_count(count, "client")}'
        with _adders(stage, count) as add:
            for _ in settings.rounds():
                seconds, conflicts, cost = add(share)
                yield Value(name, share * count / seconds, 'jobs/s', HIGHER)
                if count > 1:
                    yield Value(f'{name}: conflicts', conflicts / (share * count), 'per job', LOWER)
                yield from _spent(name, cost, share * count)
                yield from _stored(name, cost, share * count)


@contextlib.contextmanager
def _adders(stage, count):
    """Start so many clients; give a function that has each of them add a share of jobs, one by one.

    The function takes the number of jobs, and returns the seconds that this took, the conflicts, and the `Cost`.
    """
    def addInThreads(share):
        jobs = [stage.settings.job] * share
        with stage.cost() as cost, ThreadPoolExecutor(count) as pool:
            began = time.monotonic()
            conflicts = sum(pool.map(lambda _: addJobs(stage.database.db, stage.database.path, jobs), range(count)))
            seconds = time.monotonic() - began
        return seconds, conflicts, cost

    def addInProcesses(share):
        order = stage.addOrder([stage.settings.job] * share)
        seconds, answers, cost = stage.order(clients, [order] * count)
        return seconds, sum(answer['conflicts'] for answer in answers), cost

    if stage.embedded:
        yield addInThreads
    else:
        with stage.clients(count) as clients:
            yield addInProcesses


def _spent(name, cost, count, unit='job'):
    """Give the processor time of each kind of process, for one of so many jobs or calls."""
    for kind, seconds in sorted(cost.times.items()):
        yield Value(f'{name}: processor time, {kind}', 1e6 * seconds / count, f'us/{unit}', LOWER)


def _stored(name, cost, jobs):
    """Give the records that were stored, and their bytes, for one of so many jobs."""
    if cost.records is not None:
        yield Value(f'{name}: records stored', cost.records / jobs, 'per job', LOWER)
        yield Value(f'{name}: bytes stored', cost.size / jobs, 'bytes/job', LOWER)


def bulk(stage):
    """Jobs added many in a transaction."""
    stage.hosts(0)
    jobs = stage.settings.jobs
    for _ in stage.settings.rounds():
        with stage.cost() as cost:
            seconds = stage.database.add([stage.settings.job] * jobs)
        yield Value('bulk add', jobs / seconds, 'jobs/s', HIGHER)
        yield from _spent('bulk add', cost, jobs)
        yield from _stored('bulk add', cost, jobs)


def draining(stage):
    """A queue that hosts empty, from the moment when they may begin."""
    settings = stage.settings
    for count in (1,) if stage.embedded else settings.hosts:
        stage.hosts(count)
        name = f'drain, {_count(count, "host")}'
        for _ in settings.rounds():
            stage.database.add([settings.job] * settings.jobs)
            drained = _drain(stage, settings.jobs)
            yield Value(name, settings.jobs / drained.seconds, 'jobs/s', HIGHER)
            yield Value(f'{name}: in the middle', drained.middle, 'jobs/s', HIGHER)
            yield Value(f'{name}: conflicts', drained.conflicts / settings.jobs, 'per job', LOWER)
            yield from _spent(name, drained.cost, settings.jobs)
            yield from _stored(name, drained.cost, settings.jobs)


class _Drained(NamedTuple):
    seconds: float
    middle: float               # jobs per second, between a tenth and nine tenths of the jobs
    longest: float              # seconds without progress
    conflicts: int
    cost: Cost


def _drain(stage, jobs, pause=PAUSE):
    """Let the hosts go on until so many more jobs are completed, and stop them again."""
    start, conflicts, seen = stage.database.change(completed), stage.conflicts(), []

    def look(service):
        done = completed(service) - start
        if not seen or seen[-1][1] != done:
            seen.append((time.monotonic(), done))
        return done >= jobs

    with stage.cost() as cost:
        stage.database.resume()
        began = time.monotonic()
        stage.database.waitFor(look, pause)
    stage.database.pause()
    middle = [each for each in seen if 0.1 * jobs <= each[1] <= 0.9 * jobs]
    (first, fewer), (last, more) = (middle[0], middle[-1]) if len(middle) > 1 else ((began, 0), seen[-1])
    times = [began, *(moment for moment, _ in seen)]
    longest = max(later - earlier for earlier, later in itertools.pairwise(times))
    return _Drained(seen[-1][0] - began, (more - fewer) / (last - first), longest, stage.conflicts() - conflicts, cost)


# With empty queues

def mixed(stage):
    """Jobs added one by one by several clients while hosts run them, until all of them are completed."""
    settings = stage.settings
    hosts = 1 if stage.embedded else max(settings.hosts)
    stage.hosts(hosts)
    share = max(10, 2 * settings.some // settings.clients)
    jobs = share * settings.clients
    name = f'add and run, {_count(settings.clients, "client")}, {_count(hosts, "host")}'
    with _adders(stage, settings.clients) as add:
        stage.database.resume()
        for _ in settings.rounds():
            before, goal = stage.conflicts(), stage.database.change(completed) + jobs
            seconds, conflicts, _ = add(share)
            added = time.monotonic()
            stage.database.waitFor(lambda service, goal=goal: completed(service) >= goal)
            yield Value(name, jobs / (seconds + time.monotonic() - added), 'jobs/s', HIGHER)
            yield Value(f'{name}: conflicts', (conflicts + stage.conflicts() - before) / jobs, 'per job', LOWER)
        stage.database.pause()


def latency(stage):
    """One job at a time: from just before it is added until a client that waits for commits has its result."""
    stage.hosts(1)
    stage.database.resume()
    times, end = [], time.monotonic() + ENOUGH
    look = CHECK_INTERVAL if stage.database.tells else POLL_INTERVAL
    manager = transaction.TransactionManager(explicit=True)
    with stage.database.wakeup() as wakeup, contextlib.closing(stage.database.db.open(manager)) as connection:
        task, input = stage.settings.job
        for _ in range(min(300, stage.settings.jobs)):
            began = time.monotonic()
            if began > end:
                break
            for attempt in manager.attempts(10):
                with attempt:
                    jobid = atPath(connection.root()[ROOT_NAME], stage.database.path).add(task, input)
            while True:
                wakeup.clear()
                with manager:
                    service = atPath(connection.root()[ROOT_NAME], stage.database.path)
                    if service.jobs[jobid].status in FINAL:     # `getStatus` also looks for claims
                        service.getResult(jobid)
                        break
                if not wakeup.wait(look):
                    stage.check()
            times.append(time.monotonic() - began)
    stage.database.pause()
    times.sort()
    for percent in 50, 95, 99:
        yield Value(f'latency, p{percent}', 1000 * times[min(len(times) - 1, len(times) * percent // 100)], 'ms', LOWER)


def xmlrpc(stage):
    """Jobs added over XML-RPC, and questions for status and result."""
    task, input = stage.settings.job
    jobs = stage.settings.some
    stage.database.pause()
    known = stage.database.change(lambda service: _someIds(service, 100)) or _addSome(stage, 100)
    url = stage.url()
    with stage.clients(CALLERS) as clients:
        for name, method, threads, arguments in (
                *((f'XML-RPC add, {threads} clients', 'add', threads, [[task, input]] * jobs)
                  for threads in CALLER_THREADS),
                *((f'XML-RPC {method}, {CALLER_THREADS[0]} clients', method, CALLER_THREADS[0],
                   [[known[number % len(known)]] for number in range(2 * jobs)])
                  for method in ('getStatus', 'getResult'))):
            for _ in stage.settings.rounds():
                orders = [{'do': 'call', 'url': url, 'method': method, 'threads': threads // CALLERS,
                           'arguments': arguments[number::CALLERS]} for number in range(CALLERS)]
                seconds, _, cost = stage.order(clients, orders)
                yield Value(name, len(arguments) / seconds, 'calls/s', HIGHER)
                yield from _spent(name, cost, len(arguments), 'call')
    stage.hosts(0)
    stage.database.park()


def _someIds(service, count):
    ids = []
    for ledger in service.ledgers.values():
        for status in FINAL:
            ids += list(ledger.finished[status].values())[:count - len(ids)]
    return ids


def _addSome(stage, count):
    task, input = stage.settings.job
    return stage.database.change(lambda service: [service.add(task, input) for _ in range(count)])


def same(stage):
    """Jobs that all write the same object: each conflicts with all that run at the same time."""
    yield from _writing(stage, 'write one object', lambda number: 0, max(stage.settings.hosts), paced=True)


def different(stage):
    """Jobs that each write an object of their own."""
    for count in (1,) if stage.embedded else stage.settings.hosts:
        yield from _writing(stage, 'write many objects', lambda number: number, count)


def _writing(stage, name, target, hosts, paced=False):
    hosts = 1 if stage.embedded else hosts
    jobs = stage.settings.some
    stage.database.board(jobs)
    stage.hosts(hosts)
    name = f'{name}, {_count(hosts, "host")}'
    for _ in stage.settings.rounds():
        stage.database.add([('bench-write', {'number': target(number + 1)}) for number in range(jobs)])
        drained = _drain(stage, jobs)
        yield Value(name, jobs / drained.seconds, 'jobs/s', HIGHER)
        yield Value(f'{name}: conflicts', drained.conflicts / jobs, 'per job', LOWER)
        if paced:
            yield Value(f'{name}: longest pause', drained.longest, 's', LOWER)


def busy(stage):
    """Long jobs: the part of the time in which all threads of two hosts are busy, from first claim to last result."""
    stage.hosts(PAIR)
    seconds, threads = stage.settings.seconds or LONG, PAIR * THREADS
    jobs = ROUNDS * threads
    time.sleep(SETTLE)                          # they have to know of each other
    stage.database.add([('bench-sleep', {'seconds': seconds})] * jobs)
    drained = _drain(stage, jobs)
    yield Value(f'busy threads, {PAIR} hosts', 100 * jobs * seconds / (threads * drained.seconds), '%', HIGHER)


class _Counter:
    """A wakeup that counts how often it is rung."""

    def __init__(self):
        self.count = 0

    def set(self):
        self.count += 1


def idle(stage):
    """Hosts that may work and have nothing to do."""
    stage.hosts(PAIR)
    stage.database.resume()
    time.sleep(SETTLE)
    with stage.database.wakeup(_Counter) as counter:
        before, tid, began = stage.hostTimes(), lastTransaction(stage.database.db), time.monotonic()
        time.sleep(IDLE)
        stage.check()
        seconds = time.monotonic() - began
        yield Value('idle, processor time', 100 * (stage.hostTimes() - before) / seconds / PAIR, '% per host', LOWER)
        if stage.database.tells:
            commits = max(counter.count, lastTransaction(stage.database.db) != tid)
            yield Value('idle, commits', 60 * commits / seconds / PAIR, '/min per host', LOWER)
    stage.database.pause()


def limited(stage):
    """One job behind many that only other hosts take: what it costs a host to pass over these."""
    stage.hosts(1)
    jobs, name = stage.settings.jobs, 'leave to other hosts'
    for _ in stage.settings.rounds():
        stage.database.add([('bench-elsewhere', None)] * jobs)
        stage.database.add([stage.settings.job])                    # the ids of one client count on: it is the last
        drained = _drain(stage, 1)
        yield Value(name, jobs / drained.seconds, 'jobs/s', HIGHER)
        yield from _spent(name, drained.cost, jobs)
        yield from _stored(name, drained.cost, jobs)


def pages(stage):
    """The processor time of each page of the extra "web", and of the metrics, when all jobs have ended."""
    try:
        from lovely.remotetask.bench.pages import times
    except ModuleNotFoundError as error:
        raise BenchError('the pages cannot be measured: they are not installed: pip install "lovely.remotetask[web]" '
                         f'({error})') from error
    stage.hosts(1)
    missing = stage.settings.jobs - stage.database.change(completed)
    if missing > 0:
        for start in range(0, missing, FILL):
            stage.database.add([stage.settings.job] * min(FILL, missing - start))
        _drain(stage, missing)
    stage.hosts(0)
    for _ in stage.settings.rounds():
        for title, cold, warm in times(stage.database, stage.settings.job[0]):
            yield Value(f'page, {title}: cold', 1000 * cold, 'ms', LOWER)
            yield Value(f'page, {title}: warm', 1000 * warm, 'ms', LOWER)


def memory(stage):
    """The most memory that each kind of process has had, all measurements together; see `run`."""
    return ()


#: Name -> measure, in the order in which they are made.
MEASURES = {'add': adding, 'bulk': bulk, 'drain': draining, 'mixed': mixed, 'latency': latency, 'xmlrpc': xmlrpc,
            'same': same, 'different': different, 'busy': busy, 'idle': idle, 'limited': limited, 'pages': pages,
            'memory': memory}

#: Those that are made only when they are asked for.
ASKED = ('pages',)

#: Those that are made with jobs waiting behind.
QUEUED = ('add', 'bulk', 'drain')
