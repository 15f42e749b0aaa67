"""What processes take while a trial goes on, and whether it grows."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import statistics
from typing import NamedTuple

import psutil


#: Seconds that a trial has to last: in a shorter one caches fill, and that is no growth.
LONG = 600


class Allowance(NamedTuple):
    """How much more than before something may be in the end."""

    share: float        # of what it was before
    amount: float       # in its own unit


#: By quantity, with its unit.
ALLOWANCES = {
    'memory in MiB': Allowance(0.05, 5),
    # Each of the many processes of PostgreSQL opens the files of more tables, up to a limit of its own.
    'descriptors': Allowance(0.05, 8),
    'threads': Allowance(0, 3),
    'database in MiB': Allowance(0.2, 10),
}


def taken(pids):
    """Return what processes take together: memory that they share with no other one, descriptors and threads.

    pids -- their ids; one that has ended meanwhile counts for nothing.
    """
    total = collections.Counter({'memory in MiB': 0, 'descriptors': 0, 'threads': 0})
    for pid in pids:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                total.update({'memory in MiB': process.memory_full_info().uss / 2**20,
                              'descriptors': process.num_fds(), 'threads': process.num_threads()})
        except psutil.NoSuchProcess:
            pass
    return total


def middles(values):
    """Return the medians of the second and of the last third of some values; the first third is the warm-up."""
    third = len(values) // 3
    return statistics.median(values[third:-third]), statistics.median(values[-third:])


def hasGrown(before, after, allowance):
    """Return whether a quantity has grown by more than an `Allowance`."""
    return after > before * (1 + allowance.share) + allowance.amount


class Growth:
    """What was seen of the processes of a deployment and of its database, look by look."""

    def __init__(self):
        self._seen = collections.defaultdict(list)      # name, quantity -> values, oldest first

    def look(self, deployment):
        """Note what each program takes now, and how large the database is."""
        pids = {program.name: [program.pid] for program in deployment.programs if program.running}
        for name, processes in {**pids, 'database server': deployment.server.pids}.items():
            self.note(name, taken(processes))
        self.note('database server', {'database in MiB': deployment.server.size / 2**20})

    def note(self, name, quantities):
        """Note quantities of one program: a dict with keys of `ALLOWANCES`."""
        for quantity, value in quantities.items():
            self._seen[name, quantity].append(value)

    @property
    def figures(self):
        """What each program took after the warm-up and in the end, as a list of texts."""
        return [f'{name}: {quantity} {before:.0f} -> {after:.0f}' for name, quantity, before, after in self._middles()]

    @property
    def violations(self):
        """What has grown, as a list of texts."""
        return [f'{name} grows: {quantity} {before:.1f} -> {after:.1f}'
                for name, quantity, before, after in self._middles()
                if hasGrown(before, after, ALLOWANCES[quantity])]

    def _middles(self):
        return [(name, quantity, *middles(values)) for (name, quantity), values in self._seen.items()
                if len(values) >= 3]
