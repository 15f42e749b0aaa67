"""Notes of transactions: written by all that commits, and read back."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import os
import random
import re
import socket
import time
import unittest
import unittest.mock

import transaction
from zope.component import provideUtility

from lovely.remotetask.common.process import osUser
from lovely.remotetask.database import notes
from lovely.remotetask.database.notes import Act
from lovely.remotetask.database.packing import claimPack
from lovely.remotetask.database.sites import findService
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.processing.cycle import Cycle
from lovely.remotetask.processing.hand_run import HandRun
from lovely.remotetask.processing.iteration import Work
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.testing import waitForJobs
from lovely.remotetask.web import changepages
from lovely.remotetask.xmlrpc.acts import ACTS
from lovely.remotetask.xmlrpc.acts import actsOf
from lovely.remotetask.xmlrpc.calls import METHODS
from lovely.remotetask.xmlrpc.committing import Committer
from lovely.remotetask.xmlrpc.pending import Call
from lovely.remotetask.xmlrpc.signature import REPEATS
from lovely.remotetask.xmlrpc.signature import WRITES
from test_rescue import endedProcess
from test_services import DatabaseCase
from waits import PATIENCE
from webcase import MARKUP
from webcase import NOW
from webcase import WebCase


PATH = 'TaskService',


#: Texts that somebody could choose as a name to pass for something else.
AWKWARD = ('echo', 'a task', 'x; remove job 5', '"', '\\', '\\"; cancel job 1 "', 'in', 'by', 'job', 'jobs', '(+7)',
           'a (+7)', '<script>', 'größe', '日本語', '\udcff', 'a\nremotetask cancel job 3', '\u202e', '5 jobs', '17',
           '...', "it's", '', 'x' * 10_000, '"' * 10_000, '\\' * 10_000, 'ä' * 10_000, '\n' * 10_000,
           '\U0001f600' * 10_000)


def noted(acts, user='', description=None):
    """Return a transaction with a note, and maybe one of somebody else before."""
    txn = transaction.TransactionManager().begin()
    if description is not None:
        txn.note(description)
    notes.write(txn, acts, user)
    return txn


class TestWriting(unittest.TestCase):

    def test_what_was_done_stands_in_the_note_and_the_user_beside_it(self):
        txn = noted([Act('cancel', (17,), 'echo', path='/TaskService')], 'ann')
        self.assertEqual((txn.description, txn.user), ('remotetask cancel job 17 echo in /TaskService', '/ ann'))

    def test_acts_that_are_alike_are_one_sentence(self):
        acts = [Act('add', (jobid,), 'echo', by='ann', path='/S') for jobid in (19, 17, 18, 23)]
        self.assertEqual(notes.noteOf(acts), 'remotetask add 4 jobs 17-19,23 echo in /S')

    def test_several_users_are_told_apart(self):
        acts = [Act('add', (1,), 'echo', by='bob', path='/S'), Act('add', (2,), 'echo', by='ann', path='/S'),
                Act('pause', path='/S')]
        txn = noted(acts)
        self.assertEqual(txn.description,
                         'remotetask add job 1 echo by bob in /S; add job 2 echo by ann in /S; pause in /S')
        self.assertEqual(txn.user, '/ ann, bob')

    def test_what_does_not_fit_is_counted(self):
        acts = [Act('add', (number, number + 500), f'task{number}') for number in range(300)]
        note = notes.noteOf(acts)
        self.assertLessEqual(len(note.encode()), notes.SIZE)
        read, more = notes.read(note)
        self.assertEqual(sum(act.count for act in read) + more, 600)
        self.assertGreater(len(read), 10)

    def test_the_note_of_a_task_stays_before_ours(self):
        txn = noted([Act('complete', (1,), 'shop')], description='sold\na book')
        self.assertEqual(txn.description, 'sold\na book\nremotetask complete job 1 shop')
        self.assertEqual([act.verb for act in notes.read(txn.description)[0]], ['complete'])

    def test_the_user_that_a_task_has_set_stays(self):
        txn = transaction.TransactionManager().begin()
        txn.setUser('theirs')
        notes.write(txn, [Act('pause', by='ann')])
        self.assertEqual(txn.user, '/ theirs')

    def test_a_note_for_which_there_is_no_room_is_left_out(self):
        # Storages refuse the commit of a longer one.
        self.assertEqual(len(noted([Act('pause')], description='x' * 65530).description), 65530)

    def test_nothing_done_is_no_note(self):
        txn = noted([])
        self.assertEqual((txn.description, txn.user), ('', ''))


class TestReading(unittest.TestCase):

    def test_all_that_is_written_is_read(self):
        act = Act('complete', (17,), 'a task', 1, 3, 'ann', 'alpha', 5, '/site one/S')
        (read,), more = notes.read(notes.PREFIX + notes.sentenceOf(act))
        self.assertEqual(read._replace(jobids=(17,)), act)
        self.assertTrue(read.concerns(17) and read.concerns(5) and not read.concerns(18))
        self.assertEqual(more, 0)

    def test_the_user_of_the_transaction_is_that_of_acts_without(self):
        read, _ = notes.read('remotetask pause in /S; cancel job 5 by bob', 'ann')
        self.assertEqual([act.by for act in read], ['ann', 'bob'])

    def test_no_name_passes_for_anything_else(self):
        for name in AWKWARD:
            for field in 'about', 'on', 'by', 'path':
                act = Act('add', (7,), count=1)._replace(**{field: name})
                with self.subTest(field=field, name=name[:20]):
                    text = notes.PREFIX + notes.sentenceOf(act)
                    (read,), more = notes.read(text)
                    self.assertLessEqual(len(text.encode()), notes.SIZE)
                    self.assertEqual((read._replace(**{field: ''}, jobids=(7,)), more),
                                     (act._replace(**{field: ''}), 0))
                    if name.isprintable() and len(name) < 20:
                        self.assertEqual(getattr(read, field), name)

    def test_a_note_is_never_longer_than_said_and_fits_into_a_database(self):
        for name in AWKWARD:
            act = Act('deactivate', tuple(range(0, 2 ** 32, 2 ** 22 - 1)), name, None, 2 ** 31, name, name, None, name)
            with self.subTest(name=name[:20]):
                for acts in [act], [act._replace(jobids=(n,)) for n in range(9)], [act, act._replace(by='ann')]:
                    txn = noted(acts)
                    self.assertLessEqual(len(txn.description.encode()), notes.SIZE)
                    self.assertLessEqual(len(txn.user.encode()), notes.USER_SIZE + 2)

    def test_what_others_write_is_no_act_and_does_no_harm(self):
        self.assertEqual(notes.read('Added a page\nby remotetask add job 5'), ([], 0))
        draw = random.Random(5)
        pieces = ['remotetask ', 'add', 'job', 'jobs', '17', '17-19', '-', ',', ';', '"', '\\', '(+5)', 'by', 'in', ' ',
                  '\n', '9' * 5000, '²', 'x', '(+', '...', 'attempt', 'for']
        for _ in range(3000):
            text = 'remotetask ' + ''.join(draw.choices(pieces, k=draw.randrange(12)))
            acts, more = notes.read(text)
            self.assertGreaterEqual(more, 0)
            for act in acts:
                act.concerns(5)


class HistoryCase(WebCase):
    """A service, and what the history of its database says."""

    def history(self):
        """Return users and notes of all transactions, the oldest first, without ids."""
        entries = self.db.undoInfo(0, 1000)[::-1]
        return [(entry['user_name'], re.sub('[0-9]{3,}', 'N', entry['description'])) for entry in entries]

    def noted(self):
        """Return the notes since the last call, without ids."""
        history = [note for _, note in self.history()]
        self.seen, seen = len(history), getattr(self, 'seen', 0)
        return history[seen:]


def write(service):
    """Write something, as a task does."""
    root = service._p_jar.root()
    root['written'] = root.get('written', 0) + 1


class TestCalls(HistoryCase):
    """The commits of the front end."""

    def call(self, name, arguments, service):
        return getattr(service, name)(*arguments)

    def commit(self, *calls):
        """Carry out calls, tuples of user, method and arguments, in one transaction; return their results."""
        committer = Committer(self.db, lambda connection, path: findService(connection.root()['Application'], path), 3,
                              lambda: None)
        self.addCleanup(committer.close)
        writes = []
        for user, name, *arguments in calls:
            function = functools.partial(self.call, name, arguments)
            writes.append(Call('/', function, lambda result: result, 0, 0, actsOf(name, arguments, user)))
        committer.acknowledge(writes)
        return [call.result() for call in writes]

    def test_every_method_that_writes_says_what_it_has_done(self):
        self.assertEqual({name for name, method in METHODS.items() if method.access in (WRITES, REPEATS)}, set(ACTS))

    def test_each_call(self):
        self.noted()
        first, = self.commit(('ann', 'add', 'echo', 1))
        self.commit(('ann', 'addMany', [{'task': 'echo'}, {'task': 'a/b c'}, {'task': 'echo'}]))
        waiting, = self.commit(('ann', 'add', 'echo', 1, True))
        self.commit(('ann', 'startJob', waiting))
        schedule, = self.commit(('ann', 'addCronJob', 'echo', None, [0]))
        self.commit(('ann', 'reschedule', schedule))
        self.commit(('ann', 'runNow', schedule))
        self.commit(('ann', 'cancel', first))
        self.commit(('ann', 'pause'))
        self.commit(('ann', 'resume'))
        self.assertEqual(self.noted(), [
            'remotetask add job N echo in /TaskService',
            'remotetask add 2 jobs N,N echo in /TaskService; add job N "a/b c" in /TaskService',
            'remotetask add job N echo in /TaskService', 'remotetask start job N echo in /TaskService',
            'remotetask addSchedule job N echo in /TaskService', 'remotetask reschedule job N echo in /TaskService',
            'remotetask run job N echo in /TaskService', 'remotetask cancel job N echo in /TaskService',
            'remotetask pause in /TaskService', 'remotetask resume in /TaskService'])
        self.assertEqual({user for user, _ in self.history()[-10:]}, {'/ ann'})

    def test_several_users_in_one_commit(self):
        jobid = self.do('add', 'echo')
        self.noted()
        first, *_ = self.commit(('ann', 'add', 'echo'), (None, 'cancel', jobid), ('ann', 'add', 'echo'),
                                ('größe', 'pause'))
        self.assertEqual(self.noted(), [
            'remotetask add 2 jobs N-N echo by ann in /TaskService; cancel job N echo by anybody in /TaskService; '
            'pause by größe in /TaskService'])
        self.assertEqual(self.history()[-1][0], '/ ann, anybody, größe')
        self.now = time.time() + 60
        for query, count in (
                ('user=gr%C3%B6%C3%9Fe', 1), (f'job={jobid}', 1), (f'job={first}&user=ann', 1), ('user=x', 0),
                ('verb=add', 1), ('verb=add&user=anybody', 0), ('verb=users', 3), ('job=x', 4),
                ('job=5&verb=' + 'x' * 999, 0)):
            with self.subTest(query):
                self.assertEqual(self.get(f'/changes?{query}').text.count('<th scope="row">'), count)

    def test_a_call_that_was_refused_has_done_nothing(self):
        self.noted()
        with self.assertRaises(UnknownJob):
            self.commit(('ann', 'add', 'echo'), ('bob', 'cancel', 5))
        self.assertEqual(self.noted(), ['remotetask add job N echo in /TaskService'])


class TestHosts(HistoryCase):
    """The commits of processing hosts."""

    def setUp(self):
        super().setUp()
        for task in self.writing, self.steps, self.telling:
            provideUtility(SimpleTask(task), name=task.__name__)

    def writing(self, service, jobid, input):
        """Write something."""
        write(service)

    def steps(self, service, jobid, input):
        """Write something in two transactions."""
        write(service)
        transaction.commit()
        write(service)

    def telling(self, service, jobid, input):
        """Write something, and leave a note of its own."""
        write(service)
        transaction.get().note('written')
        transaction.get().setUser('them')

    def run_(self, *names):
        """Run a job of each of these tasks on a host, and wait until it has stopped."""
        jobids = [self.do('add', name) for name in names]
        self.noted()
        processor = MultiProcessor(self.db, PATH, name='alpha', waitTime=0.1, maxThreads=1)
        processor.start()
        try:
            with self.db.transaction() as connection:
                waitForJobs(findService(connection.root()['Application'], '/'), jobids, 60)
        finally:
            self.assertTrue(processor.stop(PATIENCE))
        return [note for note in self.noted() if note != 'remotetask claim on alpha in /TaskService']

    def test_the_commit_that_completes_a_job_is_marked(self):
        self.assertEqual(self.run_('writing'), [
            'remotetask startHost on alpha in /TaskService',
            'remotetask complete job N writing attempt 1 on alpha in /TaskService',
            'remotetask stopHost on alpha in /TaskService'])

    def test_commits_of_the_task_itself_and_its_own_note(self):
        self.assertEqual(self.run_('steps', 'telling', 'echo')[1:-1], [
            'remotetask commit job N steps attempt 1 on alpha in /TaskService',
            'remotetask complete job N steps attempt 1 on alpha in /TaskService',
            'written\nremotetask complete job N telling attempt 1 on alpha in /TaskService'])
        self.assertIn('/ them', [user for user, note in self.history() if note.startswith('written')])

    def test_all_else_that_a_host_commits(self):
        with self.service() as service:
            ledger = service.ledgers['gone'] = Ledger()
            ledger.owner = dict(hosts.identity(), pid=endedProcess())
            service.schedule.scheduler = 'gone'
            jobid = service.add('echo')
            service.cancel(jobid)
        cycle = Cycle(self.db, PATH, 'alpha')
        self.addCleanup(cycle.close)
        self.noted()
        cycle.attach()
        cycle.iterate(Work())
        cycle.clean({'cancelled': -10})
        cycle._beat()
        cycle.leave()
        self.assertEqual(self.noted(), [
            'remotetask startHost on alpha in /TaskService', 'remotetask rescue gone on alpha in /TaskService',
            'remotetask remove 1 job on alpha in /TaskService', 'remotetask claim on alpha in /TaskService',
            'remotetask stopHost on alpha in /TaskService'])
        claimPack(self.db, NOW, 60)
        self.assertEqual(self.noted(), ['remotetask pack'])
        self.now = time.time() + 60
        page = self.get('/changes').text
        for verb in 'pack', 'rescue', 'startHost':
            self.assertIn(f'<td>{verb}</td>', page)
        self.assertNotIn('<td>claim</td>', page)
        self.assertIn('<td>claim</td>', self.get('/changes?verb=claim').text)

    def test_a_job_that_is_run_by_hand(self):
        jobid = self.do('add', 'writing')
        self.noted()
        HandRun(self.db, PATH, user='os:ann').run(jobid)
        name = re.sub('[0-9]{3,}', 'N', f'{socket.gethostname()}-by-hand-1')
        self.assertEqual([note for note in self.noted() if ' claim ' not in note], [
            f'remotetask run job N writing on {name} in /TaskService',
            f'remotetask complete job N writing attempt 1 on {name} in /TaskService',
            f'remotetask stopHost on {name} in /TaskService'])
        self.assertIn('/ os:ann', [user for user, note in self.history()])

    def test_an_application_has_its_own_note(self):
        self.noted()
        self.do('add', 'echo')
        self.assertEqual(self.noted(), [''])

    def test_hostile_names_on_the_page(self):
        with self.service() as service:
            notes.write(service._p_jar.transaction_manager.get(),
                        [Act('add', (5,), MARKUP, on=MARKUP, by=MARKUP, path='/TaskService')])
            write(service)
        self.now = time.time() + 60
        page = self.get('/changes').text
        self.assertNotIn('<script>alert', page)
        self.assertNotIn('<img', page)
        self.assertIn('&lt;/title&gt;&lt;script&gt;', page)

    def test_a_page_has_so_many_rows_and_goes_on(self):
        with self.service() as service:
            acts = [Act('add', (number,), f't{number}', path='/TaskService') for number in range(9)]
            notes.write(service._p_jar.transaction_manager.get(), acts)
            write(service)
        self.do('add', 'echo')
        for _ in range(3):
            with self.service() as service:
                notes.write(service._p_jar.transaction_manager.get(), [Act('pause', path='/TaskService')])
                write(service)
        self.now = time.time() + 60
        with unittest.mock.patch.object(changepages, 'ROWS', 2):
            page = self.get('/changes').text
            self.assertEqual(page.count('<td>pause</td>'), 2)
            page = self.get(re.search('rel="next" href="([^"]+)"', page)[1].replace('&amp;', '&')).text
            self.assertEqual((page.count('<td>pause</td>'), page.count('<td>add</td>')), (1, 9))


class TestCommands(DatabaseCase):
    """The commits of the command line."""

    def test_services_and_imports(self):
        self.remotetask('service', 'add', '/Films')
        self.remotetask('service', 'remove', '/Films')
        lines = os.path.join(self.directory, 'jobs')
        with open(lines, 'w') as file:
            file.write('{"id": 5, "task": "echo", "status": "queued", "created": 1.0}\n')
        self.assertEqual(self.remotetask('import', lines)[0], 0)
        history = self.inDatabase(lambda connection: connection.db().undoInfo(0, 20))[::-1]
        found = [(entry['user_name'], entry['description']) for entry in history]
        self.assertEqual([pair for pair in found if 'remotetask' in pair[1]], [
            ('', 'remotetask install in /TaskService'), (f'/ {osUser()}', 'remotetask addService in /Films'),
            (f'/ {osUser()}', 'remotetask removeService in /Films'),
            (f'/ {osUser()}', 'remotetask import job 5 in /TaskService')])


if __name__ == '__main__':
    unittest.main()
