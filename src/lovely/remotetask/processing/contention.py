"""Contention: which tasks are serialized, run one at a time by a host, because their runs conflict with each other."""
# SPDX-License-Identifier: ZPL-2.1


#: A task is serialized when the moving average of its conflicts per run exceeds this; LAST_WEIGHT is the weight of the
#: last run.
CONFLICT_RATE, LAST_WEIGHT = 0.3, 0.1

#: For how many runs a task is serialized, before it is tried without.
SERIALIZED_RUNS = 100


class Contention:
    """Counts the conflicts of runs.  Whoever has it guards it: it has no lock.

    serialized -- name of a serialized task -> how many of its runs still are: to be read only.
    """

    def __init__(self):
        self._rates = {}                # name of a task that has met conflicts -> how many in a run, lately
        self.serialized = {}

    @property
    def isKnown(self):
        """Whether any task has met conflicts lately."""
        return bool(self._rates or self.serialized)

    def count(self, task, conflicts):
        """Note how many conflicts a run of a task has met."""
        if task in self.serialized:
            self.serialized[task] -= 1
            if not self.serialized[task]:
                del self.serialized[task]
                self._rates[task] = CONFLICT_RATE           # the next conflict is enough
            return
        rate = self._rates.get(task, 0) * (1 - LAST_WEIGHT) + conflicts * LAST_WEIGHT
        self._rates[task] = rate
        if rate > CONFLICT_RATE:
            self.serialized[task] = SERIALIZED_RUNS
        if rate > CONFLICT_RATE or rate < CONFLICT_RATE / 100:
            del self._rates[task]
