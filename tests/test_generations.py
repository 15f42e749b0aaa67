"""Stored data and code of different generations: who refuses what, what an upgrade does, and what is kept untouched."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import os
import pathlib
import sys
import tempfile
import threading
import types
import unittest
from unittest import mock

import transaction
from persistent import Persistent
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zope.site.folder import Folder

import missing
from commands import runCommand
from lovely.remotetask.encoding import rows
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import WrongGeneration
from lovely.remotetask.job import Failure
from lovely.remotetask.job import Run
from lovely.remotetask.processing.hand_run import HandRun
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import STORED
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import install
from lovely.remotetask.storage import generations
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage import stacks
from lovely.remotetask.storage.generations import Step
from lovely.remotetask.storage.ledger import Ledger
from processorcase import PATH
from processorcase import ProcessorCase
from waits import PATIENCE


def now():
    """Return some time in UTC seconds."""
    return 1_700_000_000.0


class GenerationCase(ProcessorCase):

    def setUp(self):
        super().setUp()
        self.provide('count', len)
        self.jobid = self.add('count', 'abc')

    def become(self, generation, oldest=1, steps=()):
        """Have this process be of a release that knows another generation; what is loaded is loaded anew."""
        for name, value in (('GENERATION', generation), ('OLDEST', oldest), ('STEPS', dict(enumerate(steps, 1)))):
            self.enterContext(mock.patch.object(generations, name, value))
        self.manager.abort()
        self.connection.cacheMinimize()

    def outdate(self):
        """Have the service be of a generation that this release must not work with."""
        self.service.generation, self.service.needs, self.service.release = 3, 2, '9.9'
        self.manager.commit()
        self.connection.cacheMinimize()

    def numbers(self):
        """Return what the service has of its generation."""
        self.manager.begin()
        return self.service.generation, self.service.needs

    def first(self, service):
        """Do a third of the work."""
        service.data['parts'] = service.data.get('parts', 0) + 1
        return service.data['parts'] == 3

    def second(self, service):
        """Do what the first step was needed for."""
        service.data['second'] = service.data['parts']
        return True


class TestRefusal(GenerationCase):
    """A service that was upgraded beyond this release."""

    said = (r'^the task service /TaskService is of generation 3, which this release, \S+, cannot work with: '
            r'install lovely.remotetask 9.9 or a newer one$')

    def test_each_verb_is_refused(self):
        self.outdate()
        before = self.db.lastTransaction()
        for verb in (lambda: self.service.add('count', 1), lambda: self.service.addMany([{'task': 'count'}]),
                     lambda: self.service.addCronJob('count', delay=1), lambda: self.service.cancel(self.jobid),
                     lambda: self.service.getStatus(self.jobid), self.service.getJobs, self.service.getStatistics,
                     self.service.removeJobs, self.service.pause, self.service.resume, self.service.process,
                     self.service.getProcessingHosts, self.service.startProcessing,
                     lambda: HandRun(self.db, PATH).run(self.jobid)):
            with self.assertRaisesRegex(WrongGeneration, self.said):
                verb()
        self.manager.commit()
        self.assertEqual(self.db.lastTransaction(), before)

    def test_a_host_does_not_start(self):
        self.outdate()
        before = self.db.lastTransaction()
        with self.assertRaisesRegex(WrongGeneration, self.said):
            MultiProcessor(self.db, PATH, name='host').start()
        self.assertEqual(self.db.lastTransaction(), before)

    def test_a_host_that_runs_stops(self):
        processor = MultiProcessor(self.db, PATH, name='host')
        self.manager.abort()
        processor.start()
        self.addCleanup(processor.stop, PATIENCE)
        self.statuses(self.jobid)
        with self.assertLogs('lovely.remotetask', 'ERROR') as logged:
            self.outdate()
            processor.thread.join(PATIENCE)
        self.assertFalse(processor.thread.is_alive())
        self.assertIn('processing host host stops: the task service /TaskService is of generation 3', logged.output[0])

    def test_nothing_is_lost_when_the_service_is_written(self):
        self.outdate()
        self.service.paused = True
        self.service.unknown = 'of a newer release'
        self.manager.commit()
        self.connection.cacheMinimize()
        self.become(3)
        self.assertEqual(set(STORED) - self.service.__getstate__().keys(), set())
        self.assertEqual(self.service.jobs[self.jobid].task, 'count')
        self.assertEqual((self.service.paused, self.service.unknown), (True, 'of a newer release'))

    def test_what_older_releases_may_ignore(self):
        self.service.generation, self.service.release = 3, '9.9'
        self.manager.commit()
        self.connection.cacheMinimize()
        self.start()
        self.assertEqual(self.statuses(self.jobid), ['completed'])
        self.assertEqual(self.numbers(), (3, 1))

    def test_damaged_numbers(self):
        for name in 'generation', 'needs':
            for number in None, 'abc', True, 1.0, float('nan'), -1, [1]:
                with self.subTest(name, number=number):
                    setattr(self.service, name, number)
                    self.manager.commit()
                    self.connection.cacheMinimize()
                    with self.assertRaisesRegex(WrongGeneration, '^the task service /TaskService is damaged: [^\n]+ '
                                                                 'are no generations; put back a backup$'):
                        self.service.getJobs()
                    with self.assertRaisesRegex(WrongGeneration, 'is damaged'):
                        generations.upgrade(self.db, PATH, now, patience=0)
                    setattr(self.service, name, 1)
                    self.manager.commit()
        self.connection.cacheMinimize()
        self.assertEqual(len(self.service.getJobs()), 1)

    def test_data_that_are_too_old_for_this_release(self):
        self.become(3, oldest=2)
        with self.assertRaisesRegex(WrongGeneration, r'^the task service /TaskService is of generation 1, and this '
                                                     r'release, \S+, needs 2: "remotetask upgrade --check" says what '
                                                     r'will be done about that$'):
            self.start()
        self.assertEqual(self.numbers(), (1, 1))


class TestUpgrade(GenerationCase):
    """Two steps; the first of them in three parts, after which older releases cannot work with the data."""

    def setUp(self):
        super().setUp()
        self.steps = Step('counts the parts', 2, self.first), Step('does the rest', 2, self.second)

    def test_it_can_be_interrupted(self):
        self.become(3, 3, self.steps)
        manager = transaction.TransactionManager(explicit=True)
        with contextlib.closing(self.db.open(manager)) as connection:
            for expected in ({}, (1, 2)), ({'parts': 1}, (1, 2)):
                generations._part(manager, connection, PATH, now, '')
                self.manager.begin()
                self.assertEqual((dict(self.data), self.numbers()), expected)
        with self.assertRaisesRegex(WrongGeneration, 'remotetask upgrade --check'):
            self.service.getJobs()
        for isDone in True, False:
            self.assertIs(generations.upgrade(self.db, PATH, now, patience=0), isDone)
            self.manager.begin()
            self.assertEqual((dict(self.data), self.numbers()), ({'parts': 3, 'second': 3}, (3, 2)))
        self.assertEqual(len(self.service.getJobs()), 1)
        self.start()
        self.assertEqual(self.statuses(self.jobid), ['completed'])

    def test_one_that_goes_on_waits_for_transactions_of_older_releases_as_well(self):
        """Whoever has excluded these may have been killed before their time was over."""
        self.become(3, 3, self.steps)
        manager = transaction.TransactionManager(explicit=True)
        with contextlib.closing(self.db.open(manager)) as connection:
            generations._part(manager, connection, PATH, now, '')
        waits = []

        def sleep(seconds):
            self.manager.begin()
            waits.append((seconds, dict(self.data)))

        with mock.patch('time.sleep', sleep):
            self.assertTrue(generations.upgrade(self.db, PATH, now, patience=7))
            self.assertFalse(generations.upgrade(self.db, PATH, now, patience=7))
        self.assertEqual(waits, [(7, {})])

    def test_two_at_once(self):
        self.become(3, 3, self.steps)
        self.manager.abort()
        meet, outcomes = threading.Barrier(2), []

        def upgrade():
            meet.wait(PATIENCE)
            outcomes.append(generations.upgrade(self.db, PATH, now, patience=0))

        threads = [threading.Thread(target=upgrade) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(len(outcomes), 2)
        self.manager.begin()
        self.assertEqual((dict(self.data), self.numbers()), ({'parts': 3, 'second': 3}, (3, 2)))

    def test_hosts_of_older_releases_have_to_be_stopped_before(self):
        processor = self.start(name='alpha')
        self.statuses(self.jobid)
        self.become(3, 1, self.steps)
        before = self.numbers()
        with self.assertRaisesRegex(RemoteTaskError, r'^stop these processing hosts of /TaskService first, which '
                                                     r'cannot work with it after the upgrade: alpha \(\S+\)$'):
            generations.upgrade(self.db, PATH, now, patience=0)
        self.assertEqual((dict(self.data), self.numbers()), ({}, before))
        processor.stop(PATIENCE)
        self.assertTrue(generations.upgrade(self.db, PATH, now, patience=0))

    def test_hosts_go_on_beside_an_upgrade_that_they_may_ignore(self):
        self.start(name='alpha')
        self.become(3, 1, [step._replace(needs=1) for step in self.steps])
        self.assertTrue(generations.upgrade(self.db, PATH, now, patience=0))
        self.assertEqual(self.numbers(), (3, 1))
        jobid = self.add('count', 'abc')
        self.assertEqual(self.statuses(jobid), ['completed'])

    def test_a_conflict_on_the_way(self):
        self.become(2, 1, self.steps[:1])
        conflicts = [self.add]

        def first(service):
            while conflicts:
                conflicts.pop()
                self.data['parts'] = 1
                self.manager.commit()
            return self.first(service)

        generations.STEPS[1] = self.steps[0]._replace(do=first)
        self.assertTrue(generations.upgrade(self.db, PATH, now, patience=0))
        self.manager.begin()
        self.assertEqual((dict(self.data), self.numbers()), ({'parts': 3}, (2, 2)))

    def test_data_that_are_older_than_the_steps(self):
        self.become(3, 3)
        with self.assertRaisesRegex(WrongGeneration, 'upgrade it with an older release first'):
            generations.upgrade(self.db, PATH, now)
        self.assertEqual(self.numbers(), (1, 1))

    def test_data_of_a_newer_release(self):
        self.outdate()
        with self.assertRaisesRegex(WrongGeneration, 'install lovely.remotetask 9.9'):
            generations.upgrade(self.db, PATH, now, patience=0)


class TestCommand(unittest.TestCase):

    def setUp(self):
        self.directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.directory / 'remotetask.conf').write_text(
            f'<zodb>\n<filestorage>\npath {self.directory}/Data.fs\n</filestorage>\n</zodb>\n')
        self.change(lambda service: None)

    def change(self, change):
        """Change the service, made if need be; return what comes of that."""
        db = DB(FileStorage(str(self.directory / 'Data.fs')))
        install(db)
        with contextlib.closing(db), db.transaction() as connection:
            return change(connection.root()['Application']['TaskService'])

    def run_(self, *arguments):
        """Run the command; return its exit code and what it prints."""
        code, output, errors = runCommand('-C', self.directory / 'remotetask.conf', *arguments)
        return code, output + errors

    def become(self, do=lambda service: True):
        """Be of a release that needs another generation."""
        for name, value in (('GENERATION', 2), ('OLDEST', 2), ('STEPS', {1: Step('adds a part', 2, do)})):
            self.enterContext(mock.patch.object(generations, name, value))
        self.enterContext(mock.patch('lovely.remotetask.cli.upgrade.GENERATION', 2))
        self.enterContext(mock.patch('lovely.remotetask.cli.upgrade.PATIENCE', 0))

    def test_nothing_to_do(self):
        for options in ('--check',), ():
            code, said = self.run_('upgrade', *options)
            self.assertEqual(code, 0, said)
            self.assertRegex(said, r'^/TaskService: generation 1, which this release, \S+, works with: nothing to do$')

    def test_first_it_says_what_it_will_do(self):
        self.become()
        plan = ('/TaskService: generation 1, to be upgraded to 2\n'
                '  1 -> 2: adds a part; releases below generation 2 cannot work with it any more\n')
        for _ in range(2):
            self.assertEqual(self.run_('upgrade', '--check'), (1, plan))
        self.assertEqual(self.change(lambda service: (service.generation, service.needs)), (1, 1))
        self.assertEqual(self.run_('upgrade'), (0, plan + '/TaskService is of generation 2 now\n'))
        self.assertEqual(self.run_('upgrade', '--check')[0], 0)
        self.assertEqual(self.change(lambda service: (service.generation, service.needs)), (2, 2))

    def test_some_services(self):
        def add(service):
            folder = service.__parent__['deep'] = Folder()
            folder['films'] = TaskService()

        self.change(add)
        self.become()
        self.assertNotIn('films', self.run_('upgrade', '--check')[1])
        code, said = self.run_('upgrade', '/deep/films')
        self.assertEqual((code, said.splitlines()[-1]), (0, '/deep/films is of generation 2 now'))
        self.assertEqual(self.change(lambda service: (service.generation, service.__parent__['deep']['films'].needs)),
                         (1, 2))
        for path in '/nowhere', '/deep', '/':
            self.assertEqual(self.run_('upgrade', path), (1, f"remotetask: there is no task service at '{path}'\n"))

    def test_hosts_that_live(self):
        def take(service):
            service.ledgers['alpha'] = Ledger()
            service.ledgers['alpha'].owner = hosts.identity(threads=1, release='0.9')

        self.change(take)
        self.become()
        for options in ('--check',), ():
            code, said = self.run_('upgrade', *options)
            self.assertEqual(code, 1)
            self.assertIn('\n  stop these processing hosts first: alpha (0.9)\n', said)
        self.assertIn('remotetask: nothing was upgraded: there are hosts to be stopped first\n', said)

    def test_a_database_that_cannot_be_written(self):
        configuration = self.directory / 'remotetask.conf'
        configuration.write_text(configuration.read_text().replace('path', 'read-only true\npath'))
        self.become()
        self.assertEqual(self.run_('upgrade', '--check')[0], 1)
        code, said = self.run_('upgrade')
        self.assertEqual((code, said.splitlines()[2:]), (1, ['remotetask: the database is read-only']))
        FileStorage(str(self.directory / 'Data.fs'), create=True).close()       # an empty one does not even open
        self.assertEqual(self.run_('upgrade'), (1, 'remotetask: the database is read-only\n'))

    def test_a_service_whose_class_is_missing(self):
        with missing.package() as module:
            self.change(lambda service: missing.add(service.__parent__, module))
        for options in ('--check',), ('/special',), ():
            with self.subTest(options):
                code, said = self.run_('upgrade', *options)
                self.assertEqual(code, 1)
                self.assertIn('/special: nothing can be done: the class gone.Special is missing here: install', said)

    def test_a_newer_service(self):
        def change(service):
            service.generation, service.needs, service.release = 3, 2, '9.9'

        self.change(change)
        for options in ('--check',), ():
            code, said = self.run_('upgrade', *options)
            self.assertEqual(code, 1)
            self.assertIn('/TaskService: nothing can be done: the task service /TaskService is of generation 3', said)


class TestWhatIsKept(GenerationCase):
    """What a newer release has added, and this one does not know."""

    def test_on_a_job(self):
        self.manager.begin()
        self.service.jobs[self.jobid].change(novelty=b'something new')
        self.manager.commit()
        self.start()
        self.assertEqual(self.statuses(self.jobid), ['completed'])
        self.manager.begin()
        self.assertEqual(self.service.jobs[self.jobid].row.more['novelty'], b'something new')

    def test_on_a_host(self):
        self.start(name='host')
        self.statuses(self.jobid)
        self.manager.begin()
        ledger = self.service.ledgers['host']
        ledger.novelty = [1, 2]
        ledger.owner = dict(ledger.owner, novelty=3)
        self.manager.commit()
        self.assertEqual(self.statuses(self.add('count', 'abc')), ['completed'])
        self.manager.begin()
        self.assertEqual((ledger.novelty, ledger.owner['novelty']), ([1, 2], 3))

    def test_objects_of_unknown_classes(self):
        module = sys.modules['gone'] = types.ModuleType('gone')
        self.addCleanup(sys.modules.pop, 'gone', None)
        module.Strange = type('Strange', (Persistent,), {'__module__': 'gone'})
        module.Plain = type('Plain', (), {'__module__': 'gone'})
        for record in self.service, self.service.shards[0], self.service.schedule:
            record.novelty, record.plain = module.Strange(), module.Plain()
            record.novelty.value = record.plain.value = 5
        self.manager.commit()
        self.connection.close()
        del sys.modules['gone']
        other = DB(self.db.storage)                         # no cache has the classes
        self.connection = other.open(self.manager)
        service = self.connection.root()['Application']['TaskService']
        for record in service, service.shards[0], service.schedule:
            record.change = 1
        self.manager.commit()
        sys.modules['gone'] = module
        third = DB(self.db.storage).open(self.manager).root()['Application']['TaskService']
        for record in third, third.shards[0], third.schedule:
            self.assertEqual((type(record.novelty), record.novelty.value), (module.Strange, 5))
            self.assertEqual((type(record.plain), record.plain.value, record.change), (module.Plain, 5, 1))
        self.manager.abort()

    def test_longer_tuples(self):
        jobid = self.service.addCronJob('count', 'abc', delay=1000.0)
        job = self.service.jobs[jobid]
        job.change(history=((1.0, 5, 'completed', 1.0, 2.0, None, 'novelty'),),
                   errors=job.put('errors', [(1.0, 'wrong', '', 'host', 'novelty')]))
        self.assertEqual(job.history, (Run(1.0, 5, 'completed', 1.0, 2.0),))
        self.assertEqual(job.errors, (Failure(1.0, 'wrong', '', 'host'),))
        self.assertEqual(self.service.getStatus(jobid), 'delayed')

    def test_a_longer_question(self):
        self.start(name='host')
        self.statuses(self.jobid)
        self.manager.begin()
        ledger = self.service.ledgers['host']
        ledger.questions[self.jobid] = now(), now(), 'here', 'novelty'
        self.assertEqual(stacks.find(self.service, self.jobid), stacks.Stack(now(), now(), 'here'))
        self.assertEqual(stacks.attend(ledger, [], now()), [])
        self.manager.abort()

    def test_a_longer_row_is_refused(self):
        """So nobody may write one: what is new goes into `more`."""
        row = rows.Row(0, 'job', 'count', 1.0, 'queued')
        with self.assertRaises(ValueError):
            rows.unpack(rows.pack((*row, 'novelty')))


class TestConflictResolution(unittest.TestCase):

    def test_the_database_server_needs_none_of_our_classes(self):
        """It may have another release of this package, or none: it merges what is of libraries alone."""
        folder = pathlib.Path(os.path.dirname(generations.__file__)).parent
        self.assertEqual([path.name for path in folder.rglob('*.py') if '_p_resolveConflict' in path.read_text()], [])


if __name__ == '__main__':
    unittest.main()
