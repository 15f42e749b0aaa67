"""Pages of rows: how many fit in one, values that stand beside, and users with connections of their own."""
# SPDX-License-Identifier: ZPL-2.1
import collections

import transaction
from hypothesis import HealthCheck
from hypothesis import settings
from ZODB.POSException import ConflictError

from lovely.remotetask.encoding.rows import VALUE_LIMIT
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import ERROR
from lovely.remotetask.job import Failure
from lovely.remotetask.job import Job
from lovely.remotetask.storage import cleanup
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.pages import PAGE_BITS
from lovely.remotetask.storage.transitions import Outcome


ROWS = 1 << PAGE_BITS

#: An output that has a record of its own.
LARGE = 'x' * (2 * VALUE_LIMIT)

#: How often Hypothesis tries: the same examples each time.
prove = settings(max_examples=100, derandomize=True, database=None, deadline=None,
                 suppress_health_check=list(HealthCheck))


class Point(collections.namedtuple('Point', 'x y')):
    """No plain data: an object of a class."""

    class Missed(Exception):
        """A class in a class, as many packages have them."""


class User:
    """Somebody with a connection of his own, who sees the service as it was when his transaction began."""

    def __init__(self, test, db):
        self.manager = transaction.TransactionManager()
        connection = db.open(self.manager)
        test.addCleanup(connection.close)
        test.addCleanup(self.manager.abort)
        self.connection = connection
        self.begin()

    def begin(self):
        self.manager.begin()
        return self

    def commit(self):
        """Return whether the transaction could be committed."""
        try:
            self.manager.commit()
        except ConflictError:
            self.manager.abort()
            return False
        return True

    @property
    def service(self):
        return self.connection.root()['Application']['TaskService']

    # On the jobs of a page, by their places in it

    base = ROWS

    @property
    def pages(self):
        return self.service.shards[0].pages

    def job(self, place):
        return self.service.jobs[self.base + place]

    def add(self, *places):
        for place in places:
            Job(self.base + place, 'echo', place).store(self.pages)

    def end(self, place, output='done', status=COMPLETED):
        """Write an outcome as a processing host does."""
        job = self.job(place)
        outcome = Outcome(job.id, job.run, status, 1.0, 2.0, output)
        if status == ERROR:
            outcome = outcome._replace(output=None, failure=Failure(2.0, 'no'))
        transitions.record(self.service, job, outcome)

    def rescue(self, place):
        """Write what a rescuer writes."""
        self.job(place).change(run=self.job(place).run + 1, suspect=1)

    def retry(self, place):
        cleanup.reopen(self.service, self.job(place), 0)

    def remove(self, *places):
        for place in places:
            self.pages.remove(self.base + place)

    def found(self):
        """Return place -> status, number of runs that ended without ending the job, output."""
        jobs = self.service.jobs.values(self.base, self.base + 4 * ROWS - 1)
        return {job.id - self.base: (job.status, job.run, job.output) for job in jobs}
