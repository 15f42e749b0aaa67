"""Where the rows of jobs are stored: in pages, with a record of its own for each value that is too large for a row."""
# SPDX-License-Identifier: ZPL-2.1
import logging

from BTrees.IOBTree import IOBTree
from BTrees.IOBTree import IOBucket
from persistent import Persistent

from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.encoding.rows import VALUES


log = logging.getLogger('lovely.remotetask')

#: The ids of the jobs in one page differ only in this many of their last bits.
PAGE_BITS = 4


class StoredValue(Persistent):
    """A value of a job that is too large for its row, or no plain data."""

    def __init__(self, value):
        self.value = value


class Pages(Persistent):
    """Rows by the ids of their jobs.

    A page is an `IOBucket`, and nothing but bytes is in it: then the database merges what several processes write to
    different rows of a page, and refuses the second of two that write the same one.  A page that is emptied is written
    as well as dropped, so that a row that somebody adds to it at the same time is not lost: one of the two fails.
    """

    def __init__(self):
        #: id >> PAGE_BITS -> `IOBucket` of id -> bytes
        self._pages = IOBTree()
        #: name -> `IOBTree` of id -> `StoredValue`
        self._values = {name: IOBTree() for name in VALUES}

    @property
    def jar(self):
        """The connection; None outside a database."""
        return self._p_jar

    @property
    def directory(self):
        """The stored object in which the pages are found."""
        return self._pages

    def page(self, jobid):
        """Return the page that an id belongs to; None when there is none."""
        return self._pages.get(jobid >> PAGE_BITS)

    def get(self, jobid):
        """Return the bytes for a job, or None."""
        page = self._pages.get(jobid >> PAGE_BITS)
        return None if page is None else page.get(jobid)

    def put(self, jobid, data):
        """Store the bytes for a job; return its page."""
        page = self._pages.get(jobid >> PAGE_BITS)
        if page is None:
            page = self._pages[jobid >> PAGE_BITS] = IOBucket()
        page[jobid] = data
        return page

    def remove(self, jobid):
        """Remove a job, if it is there; return the ids of all jobs that are gone then.

        A page that cannot be loaded is removed as a whole: then these are all ids that could be in it.
        """
        number = jobid >> PAGE_BITS
        page = self._pages.get(number)
        if page is None:
            return ()
        if not self.isReadable(page):
            gone = range(number << PAGE_BITS, number + 1 << PAGE_BITS)
        elif jobid in page:
            gone = (jobid,)
            del page[jobid]
        else:
            return ()
        if len(gone) > 1 or not page:
            del self._pages[number]
        for values in self._values.values():
            for each in gone:
                if each in values:
                    del values[each]
        return gone

    def value(self, name, jobid):
        """Return the value of a job that has a record of its own."""
        return self._values[name][jobid].value

    def putValue(self, name, jobid, value):
        """Store a value of a job in a record of its own."""
        stored = self._values[name].get(jobid)
        if stored is None or not self.isReadable(stored):       # one that cannot be loaded can be replaced
            self._values[name][jobid] = StoredValue(value)
        else:
            stored.value = value            # another object in its place could not be merged with its neighbours

    def keys(self, min=None, max=None):
        """Yield the ids in their order, from `min` to `max`."""
        first, last = min and min >> PAGE_BITS, max and max >> PAGE_BITS
        for page in self._pages.values(first, last):
            if self.isReadable(page):
                yield from page.keys(min, max)

    @staticmethod
    def isReadable(record):
        """Return whether a page or a value can be loaded.  Raise an error of the database itself."""
        try:
            record._p_activate()
        except Exception as error:
            if isDatabaseError(error):
                raise
            log.debug('a record cannot be loaded', exc_info=True)
            return False
        return True

    def __contains__(self, jobid):
        """Return whether the id is taken; in a page that cannot be loaded all are."""
        page = self._pages.get(jobid >> PAGE_BITS)
        return page is not None and (not self.isReadable(page) or jobid in page)

    def __len__(self):
        return sum(len(page) for page in self._pages.values() if self.isReadable(page))

    def clear(self):
        """Remove all jobs."""
        self._pages.clear()
        for values in self._values.values():
            values.clear()
