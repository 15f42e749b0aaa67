"""A first-in-first-out queue of ids that many processes write: large, and cheap at any length."""
# SPDX-License-Identifier: ZPL-2.1
from persistent import Persistent
from zc.queue import Queue


#: An id has so many bits; what an entry has above them says of which run of the job it is.
ID_BITS = 31

_IDS = (1 << ID_BITS) - 1


class ReadyQueue(Persistent):
    """Ids in buckets: `zc.queue.Queue` objects of some 256 ids, which a plain ZEO server merges.

    A put writes the last bucket, a pull the first ones, or some that come after them.  This object itself is
    written only when a bucket is appended or dropped, once in `bucketSize` puts or pulls.

    **No put is ever lost.**  One process may find the last bucket full and append another; a host may then empty the
    old bucket and drop it; a third process, whose snapshot is older than both, may put an id into the dropped bucket.
    Each commit alone is legal.  `zc.queue.BucketQueue` refuses most of these merges, but also harmless ones on every
    queue that is almost empty.  Here instead *whoever drops a bucket closes it in the same transaction*: a closed
    bucket has one more attribute, and `zc.queue` merges no two states that differ in anything but their items.  So
    every put and the drop both write the bucket, and of two that do not know of each other one fails.  The last
    bucket is never dropped, so a put and a pull that meet there are merged.

    **No pull takes an entry for an earlier one.**  One process may look at the queue and be slow; meanwhile another
    pulls an id, runs the job, and puts the id here again.  To `zc.queue` that would look as if nothing had happened,
    and it would merge the pull of the slow one.  So *an entry is of one run of a job*: the id with the number of the
    run above it, and the first pull can only fail.  tests/test_model.py plays both.

    **What is given back comes first.**  It was at the head before it was claimed, but nothing can be merged that is put
    there: `zc.queue` adds at the end.  So it goes into buckets of its own, the *head*, in any order, and each entry
    says since when its job has been ready.  A pull takes the oldest first.  Many hosts that stop at the same time
    give back as they would put, and do not conflict.  The head is as long as what hosts had claimed: not long.
    """

    bucketSize = 256

    def __init__(self):
        self._buckets = (Queue(),)
        #: Buckets of tuples: since when the job has been ready, in microseconds, its id, and the number of the run
        self._head = (Queue(),)

    @property
    def ends(self):
        """The buckets that the next put and the next `putBack` write, unless they append another."""
        return self._buckets[-1], self._head[-1]

    def put(self, jobid, run=0):
        """Append an id, for the run of this number (see `Job.run`).  Concurrent puts of different ids are merged."""
        buckets = _put(self._buckets, run << ID_BITS | jobid, self.bucketSize)
        if buckets is not self._buckets:
            self._buckets = buckets

    def putBack(self, jobid, run, since):
        """Put an id, for the run of this number, before all that were put, and among those put back by its age.

        since -- when its job became ready, in microseconds.
        """
        head = _put(self._head, (since, jobid, run), self.bucketSize)
        if head is not self._head:
            self._head = head

    def pull(self, count=1, skip=0):
        """Remove and return up to `count` ids as a list: the first ones, or those behind the first `skip`.

        Pulls of different ids are merged, those of the same ids conflict.  So of several that pull at the same time
        each one had better skip what the others may want.
        """
        passed = sum(map(len, self._head))
        pulled = self._pullHead(count, skip) if passed else []
        if len(pulled) < count:
            pulled += self._pull(count - len(pulled), max(0, skip - passed))
        return pulled

    def _pullHead(self, count, skip):
        pulled = self._sortedHead()[skip:skip + count]
        wanted, emptied = set(pulled), []
        for bucket in self._head:
            for entry in wanted.intersection(bucket):
                bucket.pull(list(bucket).index(entry))
            if not bucket:
                emptied.append(bucket)
        self._drop('_head', emptied)
        return list(map(_idOf, pulled))

    def _sortedHead(self):
        return sorted(entry for bucket in self._head for entry in bucket)

    def _pull(self, count, skip):
        pulled, emptied = [], []
        for bucket in self._buckets:
            if len(pulled) >= count:
                break
            while len(bucket) > skip and len(pulled) < count:
                pulled.append(_idOf(bucket.pull(skip)))
            if pulled:
                skip = 0
            else:
                skip -= len(bucket)
            if not bucket:
                emptied.append(bucket)
        self._drop('_buckets', emptied)
        return pulled

    def _drop(self, name, emptied):
        """Drop empty buckets, but never the last one, from the tuple of this name."""
        buckets = getattr(self, name)
        emptied = [bucket for bucket in emptied if bucket is not buckets[-1]]
        if emptied:
            for bucket in emptied:
                bucket.closed = True
            setattr(self, name, tuple(bucket for bucket in buckets if bucket not in emptied))

    def close(self):
        """Refuse later puts: a put of a transaction that does not see this conflicts with it."""
        for bucket in self.ends:
            bucket.closed = True

    def remove(self, jobid):
        """Remove an id; return whether it was there.  Looks through all buckets, and writes one.

        A database server is asked at once for all that are not in memory.  Callers that remove many ids go from one job
        to the next: so the search begins where the last one ended.
        """
        if self._p_jar is not None:
            self._p_jar.prefetch(self.unloaded())
        buckets = self._head + self._buckets
        last = min(getattr(self, '_v_removedAt', 0), len(buckets))
        for place in (*range(last, len(buckets)), *reversed(range(last))):
            jobids = _idsOf(buckets[place])
            if jobid in jobids:
                buckets[place].pull(jobids.index(jobid))
                self._v_removedAt = place
                return True
        return False

    def __iter__(self):
        yield from map(_idOf, self._sortedHead())
        for bucket in self._buckets:
            yield from _idsOf(bucket)

    def __reversed__(self):
        for bucket in reversed(self._buckets):
            yield from reversed(_idsOf(bucket))
        yield from map(_idOf, reversed(self._sortedHead()))

    def lengths(self):
        """Yield the lengths of the buckets; one that is not asked for is not loaded."""
        for bucket in self._head + self._buckets:
            yield len(bucket)

    def unloaded(self):
        """Return the buckets that are not in memory."""
        return [bucket for bucket in self._head + self._buckets if bucket._p_changed is None]

    def __len__(self):
        return sum(self.lengths())

    def __bool__(self):
        return any(self.lengths())

    def __repr__(self):
        return f'<{type(self).__name__} of {len(self)}>'


def _put(buckets, entry, size):
    """Put an entry into the last one of some buckets; return these, with another one if that was full."""
    if len(buckets[-1]) >= size:
        buckets += (Queue(),)
    buckets[-1].put(entry)
    return buckets


def _idOf(entry):
    """Return the id of an entry, of whichever kind."""
    return entry[1] if type(entry) is tuple else entry & _IDS


def _idsOf(bucket):
    """Return a list of the ids of the entries of a bucket.  Queues are long: what is done for each one is done in C."""
    entries = list(bucket)
    isHead = bool(entries) and type(entries[0]) is tuple
    return [entry[1] for entry in entries] if isHead else [entry & _IDS for entry in entries]
