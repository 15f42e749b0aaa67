"""A database that is kept small: retention, cleaning in small transactions, packing."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import os
import threading
import unittest
import xmlrpc.client

import transaction

from lovely.remotetask.database.packing import PACKED
from lovely.remotetask.database.packing import Packer
from lovely.remotetask.database.packing import claimPack
from lovely.remotetask.job import Job
from lovely.remotetask.processing.cycle import CLEANED
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import install
from lovely.remotetask.storage import ready
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.testing import Process
from lovely.remotetask.testing import temporaryZEO
from processorcase import PATH
from processorcase import ProcessorCase
from test_cli import ServerTestCase
from waits import PATIENCE
from waits import waitUntil


class TestRetention(ProcessorCase):

    def until(self, condition):
        waitUntil(lambda: self.manager.begin() and condition())

    def test_what_is_old_goes_by_itself(self):
        self.provide('echo', lambda input: input)
        for now in range(1000):
            self.service.add('echo', now=0)
        fresh = self.service.add('echo', startLater=True)
        self.service.process(1000)
        self.manager.commit()
        self.start(keep={'completed': 3600.0})
        self.until(lambda: list(self.service.jobs) == [fresh])
        self.assertEqual(sum(ledger.tally['completed'] for ledger in ready.ledgers(self.service)), 0)

    def test_only_what_is_to_go(self):
        self.provide('echo', lambda input: input)
        old, cancelled = self.service.add('echo'), self.service.add('echo')
        self.service.cancel(cancelled, now=5)
        self.service.process(5)
        gone = self.service.ledgers['gone'] = Ledger()          # a host that has been, with what it had done
        other = self.service.add('echo')
        self.service.process(6)
        ledger = self.service.shards[other >> 27].ledger
        (key, _), = [item for item in ledger.finished['completed'].items() if item[1] == other]
        del ledger.finished['completed'][key]
        gone.finished['completed'][key] = other
        self.manager.commit()
        self.start(keep={'completed': 10 * 365 * 86400.0, 'error': 0.1})
        for attempt in self.manager.attempts(10):               # the host may be removing jobs from the same page
            with attempt:
                young = self.service.add('echo')
        self.statuses(young)
        self.until(lambda: set(self.service.jobs) == {cancelled, young})
        self.assertNotIn(old, self.service.jobs)

    def test_a_few_at_a_time(self):
        self.provide('echo', lambda input: input)
        for _ in range(CLEANED + 50):
            self.service.add('echo')
        self.service.process(1)
        self.manager.commit()
        processor = MultiProcessor(self.db, PATH, name='host')
        processor.cycle.attach()
        self.addCleanup(processor.cycle.close)
        processor.cycle.iterate(Work())         # it comes to be the scheduler, who sees to what nobody else sees to
        self.assertEqual([processor.cycle.clean({'completed': 60.0}) for _ in range(3)], [CLEANED, 50, 0])


class TestPack(ProcessorCase):

    def test_one_of_several_packs(self):
        self.assertFalse(claimPack(self.db, 940, 60))           # it is new
        self.assertTrue(claimPack(self.db, 1000, 60))
        self.assertFalse(claimPack(self.db, 1059, 60))
        self.assertTrue(claimPack(self.db, 1060, 60))
        self.assertTrue(claimPack(self.db, 900, 60))            # the clock was wrong before
        self.manager.begin()
        self.assertEqual(self.connection.root()[PACKED], 900)

    def test_a_packed_database_is_smaller(self):
        for _ in range(100):
            self.service.data['x'] = os.urandom(10000)
            self.manager.commit()
        size = self.db.getSize()
        packed = threading.Event()

        class Handler(logging.Handler):
            def emit(self, record):
                packed.set()

        logger = logging.getLogger('lovely.remotetask')
        level = logger.level
        logger.addHandler(handler := Handler())
        logger.setLevel(logging.INFO)
        self.addCleanup(logger.setLevel, level)
        self.addCleanup(logger.removeHandler, handler)
        packer = Packer(self.db, 3600, 0)
        packer.start()
        self.assertTrue(packed.wait(PATIENCE))
        packer.stop(PATIENCE)
        self.assertLess(self.db.getSize(), size / 10)


class TestCommands(ServerTestCase):

    level = 2

    def test_clean_retry_and_pack(self):
        with temporaryZEO() as zeo:
            self.write('failing.py', 'def fail(input):\n    raise OSError("no")\n')
            self.write('site.zcml', '<configure xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">\n'
                                    '<include package="lovely.remotetask" />\n'
                                    '<remotetask:task name="fail" handler="failing.fail" attempts="1" />\n'
                                    '</configure>\n')
            text = 'site-definition site.zcml\n' + zeo.config
            frontend = self.start('frontend', text, 'frontend.conf')
            self.untilReady(frontend)
            processor = self.start('processor', text, 'processor.conf')
            self.untilReady(processor)
            failed = self.remotetask('add', 'fail')[1].strip()
            self.assertEqual(self.remotetask('add', 'echo', '1', '--wait')[0], 0)
            self.assertEqual(self.remotetask('add', 'fail', '--wait')[0], 4)
            proxy = xmlrpc.client.ServerProxy(self.url)
            self.addCleanup(proxy('close'))
            waitUntil(lambda: proxy.getStatus(int(failed)) == 'error')
            self.assertEqual(self.remotetask('retry', failed), (0, '1\n', ''))
            waitUntil(lambda: proxy.getStatus(int(failed)) == 'error')
            self.assertEqual(self.remotetask('retry', '--task', 'fail'), (0, '2\n', ''))
            self.fails(2, 'give an ID', 'retry', '--all', '--task', 'fail')
            self.fails(1, 'nothing is known of its progress', 'progress', failed)
            waitUntil(lambda: proxy.getStatus(int(failed)) == 'error')
            self.assertEqual(self.remotetask('clean', '--status', 'completed'), (0, '1\n', ''))
            pack = Process(['-m', 'lovely.remotetask.cli.main', '-C', os.path.join(self.directory, 'frontend.conf'),
                            'pack'], self.directory)
            self.addCleanup(pack.close)
            self.assertEqual(pack.popen.wait(PATIENCE), 0)
            self.assertRegex(''.join(pack.said), r'\d+ bytes before, \d+ bytes after')
            for process in frontend, processor:
                self.stop(process)

    def test_pack_of_a_database_in_use(self):
        process = self.start('serve')
        self.untilReady(process)
        self.refuses(1, 'is in use by another process', 'pack', '', 'second.conf')
        self.stop(process)


class TestCleaning(unittest.TestCase):

    level = 2

    def test_others_go_on_while_many_are_removed(self):
        # Over XML-RPC in transactions of some hundred; adds come between.
        with temporaryZEO() as zeo:
            db = zeo.database()
            install(db)
            manager = transaction.TransactionManager()
            connection = db.open(manager)
            service = connection.root()['Application']['TaskService']
            for _ in range(3000):
                service.cancel(service._store(Job(service._newId(), 'echo', None)).id)
            manager.commit()
            connection.close()
            frontend = Process(['-m', 'lovely.remotetask.cli.main', '-C', self.configuration(zeo), 'frontend'],
                               zeo.directory)
            self.addCleanup(frontend.close)
            url = frontend.waitFor('listening on ')
            added, done = [], threading.Event()

            def adding():
                with xmlrpc.client.ServerProxy(url) as proxy:
                    while not done.is_set():
                        added.append(proxy.add('echo', 'x'))

            thread = threading.Thread(target=adding)
            thread.start()
            try:
                with xmlrpc.client.ServerProxy(url) as proxy:
                    self.assertEqual(proxy.clean(), 3000)
            finally:
                done.set()
                thread.join()
            with zeo.database().transaction() as connection:    # `db` may not have been told of the last adds yet
                service = connection.root()['Application']['TaskService']
                self.assertEqual(set(service.jobs), set(added))
            self.assertGreater(len(added), 1)
            frontend.end()

    def configuration(self, zeo):
        path = os.path.join(zeo.directory, 'frontend.conf')
        with open(path, 'w') as file:
            file.write(f'{zeo.config}\n<frontend>\naddress 0\n</frontend>\n')
        return path


if __name__ == '__main__':
    unittest.main()
