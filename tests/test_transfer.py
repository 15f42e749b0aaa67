"""Waiting jobs and schedules as lines of JSON: what is exported, how it is imported, and which lines are refused."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import fractions
import io
import json
import os
import pathlib
import sys
import time
import unittest
import unittest.mock
import xmlrpc.client

import transaction
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage
from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask.application import getService
from lovely.remotetask.cli import transfer as commands
from lovely.remotetask.errors import TaskError
from lovely.remotetask.files import File
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.job import SCHEDULE
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import install
from lovely.remotetask.storage import portable
from lovely.remotetask.storage import transfer
from lovely.remotetask.task import SimpleTask
from test_cli import PATIENCE
from test_cli import ServerTestCase
from test_cli import start
from test_services import DatabaseCase


NOW = 1_700_000_000.0
LIMIT = 1000


def echo(input):
    """Return the input."""
    return input


def fail(input):
    """Fail, to be run again."""
    raise OSError('away')


class TransferCase(unittest.TestCase):
    """Two databases, each with a service."""

    def setUp(self):
        testing.setUp()
        self.addCleanup(testing.tearDown)
        for function in echo, fail:
            provideUtility(SimpleTask(function), ITask, function.__name__)
        self.source, self.target = self.service(), self.service()

    def service(self):
        db = DB(MappingStorage())
        self.addCleanup(db.close)
        install(db)
        connection = db.open(transaction.TransactionManager())
        self.addCleanup(connection.close)
        self.addCleanup(connection.transaction_manager.abort)
        return getService(connection)

    def exported(self):
        self.source._p_jar.transaction_manager.commit()
        return list(transfer.exported(self.source, LIMIT))

    def entries(self):
        """Return what is exported, as it comes out of a file."""
        return [json.loads(json.dumps(one.entry)) for one in self.exported()]

    def importAll(self, entries, now=NOW):
        schedules, done = {}, []
        for entry in entries:
            one = transfer.imported(self.target, entry, schedules, lambda name, input: None, now)
            if one.isSchedule:
                schedules[one.old] = one.new
            done.append(one)
        self.target._p_jar.transaction_manager.commit()
        return done

    def moved(self):
        """Export and import everything; return the jobs of the target by id."""
        self.importAll(self.entries())
        return dict(self.target.jobs.items())


class TestJobs(TransferCase):

    def test_options(self):
        policy = RetryPolicy(attempts=7, base=2.0, retryOn=(OSError, TaskError))
        jobid = self.source.add('echo', {'a': [1, 2.5, None, True]}, now=NOW, retryPolicy=policy, timeLimit=60,
                                key='k', request='r')
        later = self.source.add('echo', 'x', startLater=True, now=NOW + 1)
        jobs = self.moved()
        self.assertEqual(set(jobs), {jobid, later})
        job = jobs[jobid]
        self.assertEqual((job.task, job.input, job.created, job.status, job.retryPolicy, job.timeLimit, job.request),
                         ('echo', {'a': [1, 2.5, None, True]}, NOW, 'queued', policy, 60, 'r'))
        self.assertEqual(self.target.keys.get('echo', 'k'), jobid)
        self.assertEqual(jobs[later].status, 'start later')
        self.target.process(NOW)
        self.assertEqual(self.target.getStatus(jobid), 'completed')
        self.assertTrue(self.target.startJob(later))
        self.target.process(NOW)
        self.assertEqual(self.target.getResult(later), 'x')

    def test_the_order_of_a_queue_stays(self):
        added = [self.source.add('echo', number, now=NOW) for number in range(300)]
        self.assertEqual([entry['id'] for entry in self.entries()], added)
        self.moved()
        self.assertEqual([self.target.claimNextJob(NOW) for _ in added], added)

    def test_what_has_ended_or_runs_is_left_out(self):
        self.source.add('echo', 1, now=NOW)
        self.source.process(NOW)
        self.source.add('echo', 2, now=NOW)
        self.source.claimNextJob(NOW)
        self.source.cancel(self.source.add('echo', 3, now=NOW))
        self.assertEqual(self.exported(), [])

    def test_a_job_that_waits_for_a_retry(self):
        jobid = self.source.add('fail', 1, now=NOW, retryPolicy={'base': 60, 'jitter': 0})
        self.source.process(NOW)
        self.assertEqual(self.source.jobs[jobid].retryAt, NOW + 60)
        job = self.moved()[jobid]
        self.assertEqual((job.status, job.retryAt, job.failedAttempts), ('queued', NOW + 60, 1))
        self.assertEqual([str(error) for error in job.errors], [str(self.source.jobs[jobid].errors[0])])
        self.target.process(NOW + 59)
        self.assertEqual(job.failedAttempts, 1)
        self.target.process(NOW + 61)
        self.assertEqual(job.failedAttempts, 2)

    def test_taken_ids(self):
        jobid = self.source.add('echo', 1, now=NOW)
        entries = self.entries()
        first, = self.importAll(entries)
        second, = self.importAll(entries)
        self.assertEqual((first.new, second.old), (jobid, jobid))
        self.assertNotEqual(second.new, jobid)
        self.assertEqual(len(self.target.jobs), 2)

    def test_an_id_that_a_removed_job_still_runs_under(self):
        jobid = self.source.add('echo', 1, now=NOW)
        entries = self.entries()
        self.target.shards[3].ledger.claim(jobid, 0)
        self.assertNotEqual(self.importAll(entries)[0].new, jobid)

    def test_a_key_that_is_there(self):
        self.source.add('echo', 1, now=NOW, key='k')
        there = self.target.add('echo', 2, now=NOW, key='k')
        done, = self.importAll(self.entries())
        self.assertEqual((done.new, done.wasThere, len(self.target.jobs)), (there, True, 1))


class TestSnapshot(TransferCase):

    def test_the_jobs_are_those_of_one_moment(self):
        added = [self.source.add('echo', number, now=NOW) for number in range(2 * transfer.CHUNK + 1)]
        self.source._p_jar.transaction_manager.commit()
        found = transfer.exported(self.source, LIMIT)
        first = next(found)
        with self.source._p_jar.db().transaction() as connection:
            service = getService(connection)
            for jobid in added:
                service.cancel(jobid)
            service.removeJobs()
            service.add('echo', 'later', now=NOW)
        self.assertEqual([first.jobid, *(one.jobid for one in found)], added)

    def test_the_memory_does_not_grow(self):
        jar = self.source._p_jar
        for number in range(3 * transfer.CHUNK):
            self.source.add('echo', ['x' * 900, 'y' * 900, number], now=NOW)        # each in a record of its own
        jar.transaction_manager.commit()
        jar.db().setCacheSize(10)
        jar.cacheMinimize()
        counts = [jar._cache.cache_non_ghost_count for one in transfer.exported(self.source, LIMIT)]
        self.assertEqual(len(counts), 3 * transfer.CHUNK)
        self.assertLess(max(counts[transfer.CHUNK:]), max(counts[:transfer.CHUNK]) + transfer.CHUNK // 2)


class TestSchedules(TransferCase):

    def test_each_kind(self):
        options = [{'minute': (0, 30), 'hour': (3,), 'timeZone': 'Europe/Vienna', 'misfire': 'skip'},
                   {'crontab': '*/5 * * * mon', 'newJobs': True, 'overlap': True, 'misfire': 3},
                   {'delay': 600, 'newJobs': True}, {'delay': 3600}, {'minute': (1,), 'active': False}]
        ids = [self.source.addCronJob('echo', number, now=NOW, **one) for number, one in enumerate(options)]
        self.source.process(NOW)
        jobs = self.moved()
        self.assertEqual(set(jobs), set(ids))
        for jobid in ids:
            before, after = self.source.jobs[jobid], jobs[jobid]
            for name in (*SCHEDULE, 'eitherDay', 'status', 'input', 'created', 'scheduledFor'):
                self.assertEqual(getattr(after, name), getattr(before, name), name)
        self.assertEqual(len(self.target.getSchedules()), 5)

    def test_a_delay_goes_on(self):
        jobid = self.source.addCronJob('echo', 1, delay=600, now=NOW)
        self.source.process(NOW)
        self.importAll(self.entries(), NOW + 500)
        self.target.process(NOW + 599)
        self.assertEqual(self.target.getStatus(jobid), 'delayed')
        self.target.process(NOW + 601)
        self.assertEqual(self.target.getStatus(jobid), 'completed')

    def test_one_that_no_scheduler_has_seen(self):
        jobid = self.source.addCronJob('echo', 1, delay=600, now=NOW)
        self.moved()
        self.target.process(NOW)
        self.assertEqual(self.target.jobs[jobid].scheduledFor, NOW + 600)

    def test_a_run_that_is_queued(self):
        jobid = self.source.addCronJob('echo', 1, minute=(0,), now=NOW)
        self.source.runNow(jobid, NOW)
        entry, = self.entries()
        self.assertTrue(entry['pending'])
        self.moved()
        self.target.process(NOW)
        job = self.target.jobs[jobid]
        self.assertEqual((len(job.history), job.pending), (1, False))

    def test_a_delayed_job_whose_time_has_come(self):
        jobid = self.source.addCronJob('echo', 1, delay=600, now=NOW)
        self.source.runNow(jobid, NOW)
        self.moved()
        self.target.process(NOW)
        self.assertEqual(self.target.getStatus(jobid), 'completed')

    def test_jobs_that_a_schedule_has_added(self):
        jobid = self.source.addCronJob('echo', 1, delay=60, newJobs=True, now=NOW)
        added = self.source.runNow(jobid, NOW)
        entries = self.entries()
        self.importAll(entries)
        self.assertEqual((self.target.jobs[added].schedule, self.target.jobs[jobid].lastJob), (jobid, added))
        schedule, job = self.importAll(entries)         # the ids are taken now
        self.assertEqual((self.target.jobs[job.new].schedule, self.target.jobs[schedule.new].lastJob),
                         (schedule.new, job.new))


class TestValues(TransferCase):

    def test_what_json_lacks(self):
        for value in (b'\0\xff', (1, (2, [])), {1: 'a', (2, b'x'): None}, {'$bytes': 1}, {'a': {'$x': b''}}, -0.0, [],
                      {}, '\ud800\u20ac', 2 ** 200, 'x' * LIMIT):
            with self.subTest(value=value):
                data = json.loads(json.dumps(portable.toJSON(value, LIMIT)))
                self.assertEqual(repr(portable.fromJSON(data)), repr(value))

    def test_files(self):
        jobid = self.source.add('echo', {'film': File(io.BytesIO(b'\0film'))}, now=NOW)
        self.assertEqual(self.moved()[jobid].input['film'].read(), b'\0film')

    def test_left_out(self):
        deep = []
        for _ in range(60):
            deep = [deep]
        for value, reason in ((float('nan'), "input['v']: nan is nothing that JSON has"),
                              ({1}, "input['v']: {1} is nothing that JSON has"),
                              (fractions.Fraction(1, 2), "input['v']: Fraction(1, 2) is nothing that JSON has"),
                              ([b'x' * (LIMIT + 1)], "input['v'][0] has 1001 bytes, and the limit is 1000"),
                              (File(io.BytesIO(b'x' * 1001)), "input['v'] has 1001 bytes, and the limit is 1000"),
                              (deep, 'is nested more than 50 deep')):
            with self.subTest(reason):
                jobid = self.source.add('echo', {'v': value}, now=NOW)
                one, = self.exported()
                self.assertEqual((one.jobid, one.entry), (jobid, None))
                self.assertIn(reason, one.reason)
                self.source.cancel(jobid)

    def test_a_policy_of_a_class_of_its_own(self):
        self.source.add('echo', 1, now=NOW, retryPolicy=Own())
        one, = self.exported()
        self.assertIn('retryPolicy', one.reason)

    def test_no_module_is_imported(self):
        self.assertNotIn('antigravity', sys.modules)
        for text in 'antigravity:x', 'builtins:nothing', 'builtins:len', 7, '', 'sys:modules.keys':
            with self.subTest(text), self.assertRaisesRegex(ValueError, 'there is no class'):
                portable.policyFromJSON({'retryOn': [text]})
        self.assertNotIn('antigravity', sys.modules)


class Own(RetryPolicy):
    """A policy that no file can carry."""


class TestRefused(TransferCase):

    good = {'id': 5, 'task': 'echo', 'status': 'queued', 'created': NOW, 'input': 1}
    cron = {**good, 'status': 'cronjob', 'schedule': {'minute': [0]}}

    def test_each_mistake(self):
        for base, change, message in (
                (self.good, {'x': 1}, "there is no field 'x'"), (self.good, {'id': 0}, 'id: 0 is not'),
                (self.good, {'id': True}, 'id: True'), (self.good, {'task': 5}, 'task: 5'),
                (self.good, {'created': 'now'}, "created: 'now'"), (self.good, {'status': 'completed'}, 'status'),
                (self.good, {'status': 'cronjob'}, 'status'), (self.good, {'status': []}, 'status'),
                (self.good, {'status': 'start later', 'retryAt': NOW}, 'status'),
                (self.good, {'failedAttempts': -1}, 'failedAttempts'),
                (self.good, {'failedAttempts': 'a'}, 'failedAttempts'),
                (self.good, {'retryAt': 'x'}, 'retryAt'), (self.good, {'suspect': True}, 'suspect'),
                (self.good, {'timeLimit': -1}, 'timeLimit'), (self.good, {'key': ''}, 'key'),
                (self.good, {'request': 5}, 'request'), (self.good, {'retryPolicy': []}, 'retryPolicy'),
                (self.good, {'retryPolicy': {'attempts': 0}}, 'retryPolicy: attempts'),
                (self.good, {'retryPolicy': {'retryOn': ['builtins:int']}}, 'retryOn'),
                (self.good, {'errors': [['x']]}, 'errors'), (self.good, {'input': {'$bytes': '!'}}, 'Base64'),
                (self.good, {'input': {'$what': 1}}, 'stands for no value'),
                (self.good, {'input': {'$dict': [[[], 1]]}}, 'a key cannot be hashed'),
                (self.good, {'addedBy': []}, 'addedBy'), (self.good, {'pending': True}, 'pending'),
                (self.good, {'schedule': None}, 'schedule'), (self.cron, {'schedule': {'x': 1}}, 'schedule'),
                (self.cron, {'schedule': {'minute': [60]}}, 'minute: 60'),
                (self.cron, {'schedule': {'month': [2], 'dayOfMonth': [30]}}, 'no time at all'),
                (self.cron, {'schedule': {'crontab': 5}}, 'crontab'), (self.cron, {'status': 'queued'}, 'status'),
                (self.cron, {'scheduledFor': 'x'}, 'scheduledFor'), (self.cron, {'isLatest': True}, 'isLatest')):
            with self.subTest(change), self.assertRaisesRegex(ValueError, message.replace('[', r'\[')):
                self.importAll([{**base, **change}])
            self.target._p_jar.transaction_manager.abort()
        for missing in 'id', 'task', 'status', 'created':
            with self.subTest(missing), self.assertRaisesRegex(ValueError, f'the field {missing} is missing'):
                self.importAll([{name: value for name, value in self.good.items() if name != missing}])
        with self.assertRaisesRegex(ValueError, 'is no dict'):
            self.importAll([[]])
        self.assertEqual(len(self.importAll([self.good, self.cron])), 2)


class TestCommands(DatabaseCase):
    """The commands, from one database into another."""

    def setUp(self):
        super().setUp()
        self.file = os.path.join(self.directory, 'jobs.jsonl')

    def addJobs(self, *inputs):
        provideUtility(SimpleTask(echo), ITask, 'echo')
        return self.inDatabase(lambda connection: [getService(connection).add('echo', input) for input in inputs])

    def elsewhere(self):
        self.configuration = self.configure('Other.fs')

    def lines(self):
        return pathlib.Path(self.file).read_text().splitlines()

    def test_there_and_back(self):
        ids = self.addJobs(1, {'x': b'y'})
        self.assertEqual(self.remotetask('export', self.file), (0, '', 'exported 2 jobs\n'))
        self.assertEqual(os.stat(self.file).st_mode & 0o777, 0o600)
        self.fails(2, 'is there already', 'export', self.file)
        code, output, errors = self.remotetask('export', '-')
        self.assertEqual(output.splitlines(), self.lines())
        self.elsewhere()
        self.assertEqual(self.remotetask('import', self.file), (0, '', 'imported 2 jobs\n'))
        code, output, errors = self.remotetask('import', self.file)
        self.assertEqual((code, errors), (0, 'imported 2 jobs\n'))
        for jobid in ids:
            self.assertRegex(output, rf'(?m)^{jobid} -> \d+$')
        self.assertEqual(len(self.remotetask('export', '-')[1].splitlines()), 4)

    def test_from_standard_input(self):
        self.addJobs(1)
        data = self.remotetask('export', '-')[1].encode()
        self.elsewhere()
        with unittest.mock.patch.object(sys, 'stdin', io.TextIOWrapper(io.BytesIO(data))):
            self.assertEqual(self.remotetask('import', '-')[0], 0)
        self.assertEqual(self.remotetask('export', '-')[1].encode(), data)

    def test_what_is_left_out_is_named(self):
        _, jobid = self.addJobs(1, {2})
        code, output, errors = self.remotetask('export', self.file)
        self.assertEqual(code, 1)
        self.assertIn(f'job {jobid} is left out: input: {{2}} is nothing that JSON has\n', errors)
        self.assertIn('remotetask: 1 job left out\n', errors)
        self.assertEqual(len(self.lines()), 1)
        self.assertEqual(self.remotetask('export', self.file + '2', '--skip')[0], 0)

    def test_a_wrong_line_changes_nothing(self):
        self.addJobs(1, 2)
        self.remotetask('export', self.file)
        self.elsewhere()
        good = self.lines()
        for wrong, message in (('{', 'line 2: it is no JSON'), ('{"id": NaN}', 'line 2: NaN is no JSON'),
                               ('[' * 100_000, 'line 2: '), ('[]', 'line 2: [] is no dict'),
                               (good[0].replace('echo', 'ohce'), "line 2: task 'ohce' is not registered")):
            with self.subTest(message):
                pathlib.Path(self.file).write_text('\n'.join((good[0], wrong, good[1])))
                self.fails(2, message, 'import', self.file)
                self.assertEqual(self.remotetask('export', '-')[1], '')

    def test_batches(self):
        self.addJobs(*range(5))
        self.remotetask('export', self.file)
        good = self.lines()
        pathlib.Path(self.file).write_text('\n'.join((*good[:3], '{}', good[4])))
        self.elsewhere()
        with unittest.mock.patch.object(commands, 'BATCH_LINES', 2):
            self.assertEqual(self.remotetask('import', self.file)[0], 2)
            self.assertEqual(self.remotetask('export', '-')[1].splitlines(), good[:2])
            pathlib.Path(self.file).write_text('\n'.join(good))
            self.assertEqual(self.remotetask('import', self.file, '--from-line', '3'), (0, '', 'imported 3 jobs\n'))
        self.assertEqual(self.remotetask('export', '-')[1].splitlines(), good)

    def test_an_import_that_ends_early_says_where_to_go_on(self):
        self.addJobs(*range(5))
        self.remotetask('export', self.file)
        good = self.lines()
        self.elsewhere()
        goOn = 'all before line 3 is imported: go on with --from-line 3'
        for wrong, message in ('{}', 'line 4: the field id is missing'), ('x' * 5000, 'line 4: it has more than'):
            with self.subTest(message), unittest.mock.patch.multiple(commands, BATCH_LINES=2, LINE_BYTES=4000):
                pathlib.Path(self.file).write_text('\n'.join((*good[:3], wrong, good[4])))
                code, output, errors = self.remotetask('import', self.file)
                self.assertEqual(code, 2)
                self.assertIn(message, errors)
                self.assertIn(goOn, errors)

    def test_files_and_services_that_are_not_there(self):
        self.fails(2, 'cannot be read: No such file', 'import', self.file)
        self.fails(1, 'it is empty', 'export', self.file)
        self.addJobs(1)
        self.fails(1, 'there is no task service', 'export', self.file, '--service', '/site1/Films')
        self.fails(1, 'cannot be written', 'export', os.path.join(self.directory, 'none', 'jobs'))
        with contextlib.suppress(FileNotFoundError):
            self.fail(os.stat(self.file))


class TestBesideServers(ServerTestCase):
    """The commands while a server has the database open, over ZEO."""

    level = 2

    def command(self, *arguments):
        """Run a command in a process of its own; return exit code, standard and error output."""
        process = start('-C', os.path.join(self.directory, 'remotetask.conf'), *arguments, cwd=self.directory)
        output, errors = process.communicate(timeout=PATIENCE)
        return process.returncode, output, errors

    def test_a_server_runs_what_is_imported(self):
        # It looks for jobs each minute: what is imported must wake it.
        server = self.start('serve', self.zeo() + '<processor>\nname alpha\nwait-time 60\n</processor>\n')
        self.untilReady(server)
        now = time.time()
        entries = [{'id': 5, 'task': 'echo', 'status': 'delayed', 'created': now, 'scheduledFor': now + 1,
                    'schedule': {'delay': 3600}},
                   {'id': 6, 'task': 'echo', 'status': 'queued', 'created': now, 'input': {'$tuple': [1]}}]
        with xmlrpc.client.ServerProxy(self.url) as proxy:
            for entry in entries:
                path = self.write('jobs', json.dumps(entry))
                self.assertEqual(self.command('import', path), (0, '', 'imported 1 job\n'))
                self.assertEqual(proxy.waitFor([entry['id']], 30.0, False), ['completed'])
        self.assertEqual(self.command('export', '-'), (0, '', 'exported 0 jobs\n'))
        self.assertEqual(self.command('service', 'list')[1].splitlines()[1].split(), ['/TaskService', '0', 'alpha'])
        self.stop(server)


if __name__ == '__main__':
    unittest.main()
