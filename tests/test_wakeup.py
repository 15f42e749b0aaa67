"""No wake-up is lost: what is committed while somebody looks has them look once more, without a pause.

Polling would hide a lost wake-up: it costs some seconds then, and the result is the same.  So the pauses between two
looks are longer here than a test takes, and looks are counted.
"""
# SPDX-License-Identifier: ZPL-2.1
import threading
import unittest

from zc.zlibstorage import ZlibStorage
from ZODB.DB import DB
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask.database.notifications import CommitNotifier
from lovely.remotetask.database.notifications import notifierOf
from lovely.remotetask.database.opening import Database
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import findService
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import install
from lovely.remotetask.storage.ready import shardOf
from lovely.remotetask.storage.shards import BITS
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import temporaryZEO
from lovely.remotetask.xmlrpc import waiting
from processorcase import PATH
from servers import PostgreSQL
from servers import emptyPostgreSQL
from test_xmlrpc_gateway import GatewayCase
from waits import PATIENCE
from waits import waitUntil


#: Seconds between two looks when nothing is heard.
NEVER = 3600.0


class WakeupCase(unittest.TestCase):
    """Two clients of a database server: `own` is the one that hears of the commits of `other`."""

    temporaryServer = staticmethod(temporaryZEO)

    def setUp(self):
        self.addCleanup(testing.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='echo')
        self.server = self.enterContext(self.temporaryServer())
        self.other = self.open()
        install(self.other)
        self.own = self.open()

    def open(self):
        """Return a new `ZODB.DB`, as soon as it hears of the commits of others."""
        database, heard = Database(self.openOnce), threading.Event()
        self.addCleanup(database.close)
        notifierOf(database.db).subscribe(heard)
        while not notifierOf(database.db).hearsOthers:
            self.assertTrue(heard.wait(PATIENCE))
            heard.clear()
        return database.db

    def openOnce(self):
        return self.server.database()

    def commit(self, change):
        """Call `change` with the service in a transaction of the other client; return what it returns."""
        with self.other.transaction() as connection:
            return change(findService(connection.root()[ROOT_NAME], '/'))

    def heard(self, change):
        """Do what `commit` does, and wait until the notifier of the own client has told everybody of it."""
        notifier, heard = notifierOf(self.own), threading.Event()
        notifier.subscribe(heard)
        result = self.commit(change)
        self.assertTrue(heard.wait(PATIENCE))
        notifier.unsubscribe(heard)                  # has the notifier's lock: so it has told everybody
        return result


class TestWatcher(WakeupCase):

    def setUp(self):
        super().setUp()
        self.addCleanup(setattr, waiting, 'POLL_INTERVAL', waiting.POLL_INTERVAL)
        waiting.POLL_INTERVAL = NEVER
        self.looks, self.looked, self.during = 0, threading.Semaphore(0), []
        self.watcher = waiting.JobWatcher(self.own, self.resolve)
        self.watcher.start()
        self.addCleanup(lambda: self.assertTrue(self.watcher.stop(PATIENCE)))
        self.jobids = [self.commit(self.add)]
        while len(self.jobids) < 3:             # each on a page of its own
            jobid = self.commit(self.add)
            pages = self.commit(lambda service: [shardOf(service, each).pages.page(each)._p_oid
                                                 for each in (*self.jobids, jobid)])
            if len(set(pages)) == len(pages):
                self.jobids.append(jobid)

    @staticmethod
    def add(service):
        return service.add('echo')

    def resolve(self, connection, path):
        """Return the service, after something that happens in the middle of a look."""
        self.looks += 1
        if self.during:
            self.during.pop(0)()
        self.looked.release()
        return findService(connection.root()[ROOT_NAME], path)

    def wait(self, *jobids):
        """Wait for jobs, and until the watcher has looked at them; return an event, set once they have ended."""
        ended = threading.Event()
        self.watcher.watch(waiting.Wait('/', jobids, False, ended.set))
        self.assertTrue(self.looked.acquire(timeout=PATIENCE))
        return ended

    def cancel(self, jobid):
        return lambda service: service.cancel(jobid)

    def test_a_commit_to_a_job_that_is_looked_at_for_the_first_time(self):
        first, second, _ = self.jobids
        self.wait(first)                        # from now on other pages are of no interest
        self.during.append(lambda: self.heard(self.cancel(second)))
        ended = self.wait(second)               # the look shows what was before
        self.assertTrue(ended.wait(PATIENCE))
        self.assertEqual(self.looks, 3)

    def test_a_commit_to_a_known_job_during_a_look(self):
        first, second, _ = self.jobids
        events, committed = [self.wait(first), self.wait(second)], threading.Event()

        def cancel():
            committed.wait(PATIENCE)            # the watcher may hear of it sooner than who commits
            self.heard(self.cancel(first))

        self.during.append(cancel)
        self.heard(self.cancel(second))
        committed.set()
        for event in events:
            self.assertTrue(event.wait(PATIENCE))
        self.assertEqual(self.looks, 4)

    def test_commits_of_no_interest(self):
        first, second, _ = self.jobids
        ended = self.wait(first)
        for _ in range(3):
            self.heard(self.add)
        self.heard(self.cancel(second))
        self.heard(self.cancel(first))
        self.assertTrue(ended.wait(PATIENCE))
        self.assertEqual(self.looks, 2)

    def test_what_a_failed_look_was_to_look_at(self):
        def fail():
            raise OSError('the first look fails')

        first, second, _ = self.jobids
        events = [self.wait(first), self.wait(second)]
        self.during.append(fail)
        with self.assertLogs('lovely.remotetask', 'WARNING'):
            self.heard(self.cancel(first))
            waitUntil(lambda: not self.during and self.watcher.isAway)
        self.heard(self.cancel(second))
        for event in events:
            self.assertTrue(event.wait(PATIENCE))

    def test_notes_at_any_moment(self):
        for moment in 'before', 'after':
            with self.subTest(moment):
                notifier, wakeup = CommitNotifier(), Interrupted()
                notifier.subscribe(wakeup)
                wakeup.take()
                wakeup.interest = {b'1'}
                setattr(wakeup, moment, lambda: notifier.notify(oids=[b'1']))
                taken = wakeup.take()
                self.assertTrue(wakeup.is_set() or taken == {b'1'})


class Interrupted(waiting.Wakeup):
    """A wakeup with which something else happens just before, or just after it is cleared."""

    @staticmethod
    def before():
        pass

    after = before

    def clear(self):
        self.before()
        super().clear()
        self.after()


class TestHost(WakeupCase):

    def setUp(self):
        super().setUp()
        self.during, self.turns = [], threading.Semaphore(0)
        self.host = MultiProcessor(self.own, PATH, waitTime=NEVER, maxThreads=1, name='host', lease=4 * NEVER,
                                   schedule=False)
        self.host.cycle.clock = self.clock

    def start(self):
        """Start the host, of a service that is paused, and wait until its first turn has ended."""
        self.commit(lambda service: service.pause())
        self.host.start()
        self.addCleanup(lambda: self.assertTrue(self.host.stop(PATIENCE)))
        waitUntil(lambda: self.host.cycle.state.interest is not None)

    def clock(self):
        """Return a time, after something that happens in the middle of a turn."""
        if self.during:
            self.during.pop(0)()
        else:
            self.turns.release()
        return 1000.0

    def test_a_job_that_is_added_during_a_turn(self):
        self.start()
        jobids, ended = [], threading.Event()
        notifierOf(self.other).subscribe(ended)
        self.during.append(lambda: jobids.append(self.heard(lambda service: service.add('echo', 1))))
        self.heard(lambda service: service.resume())
        while not jobids or self.commit(lambda service: service.getStatus(jobids[0])) != 'completed':
            self.assertTrue(ended.wait(PATIENCE))
            ended.clear()

    def test_a_commit_to_what_was_of_no_interest_before(self):
        jobids = self.commit(lambda service: service.addMany([{'task': 'echo', 'startLater': True}] * 1000))
        first, *others = [jobid for jobid in jobids if jobid >> BITS == jobids[0] >> BITS]
        self.start()
        probe, committed, started = threading.Event(), threading.Event(), threading.Event()
        probe.interest = self.host.cycle.state.interest

        def start():
            self.assertTrue(committed.wait(PATIENCE))       # the host may hear of it sooner than who commits
            notifierOf(self.own).subscribe(probe)
            self.heard(lambda service: service.startJob(first))
            self.turns = threading.Semaphore(0)
            started.set()

        self.during.append(start)
        # They need another end of their queue, which is written from then on.
        self.heard(lambda service: [service.startJob(jobid) for jobid in others])
        committed.set()
        self.assertTrue(started.wait(PATIENCE))
        self.assertTrue(self.turns.acquire(timeout=PATIENCE))
        self.assertFalse(probe.is_set())


class PostgreSQLMixin:
    """The same with PostgreSQL."""

    level = 2
    layer = PostgreSQL
    temporaryServer = staticmethod(emptyPostgreSQL)


class TestWatcherOfPostgreSQL(PostgreSQLMixin, TestWatcher):
    pass


class TestHostOfPostgreSQL(PostgreSQLMixin, TestHost):
    pass


class TestWatcherOfWrapped(TestWatcher):
    """The same with storages that compress records."""

    level = 2

    def openOnce(self):
        return DB(ZlibStorage(self.server.storage()))


class TestGateway(GatewayCase):

    def test_a_write_of_this_process(self):
        # A file storage tells nobody of a commit.
        heard = threading.Event()
        notifierOf(self.db).subscribe(heard)
        self.makeGateway().write('/', lambda jobs: jobs.update({1: 'one'}))
        self.assertTrue(heard.wait(PATIENCE))


if __name__ == '__main__':
    unittest.main()
