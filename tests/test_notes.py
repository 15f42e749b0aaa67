"""Notes of transactions: written by all that commits, and read back."""
# SPDX-License-Identifier: ZPL-2.1
import random
import unittest

import transaction

from lovely.remotetask.database import notes
from lovely.remotetask.database.notes import Act


#: Texts that somebody could choose as a name to pass for something else.
AWKWARD = ('echo', 'a task', 'x; remove job 5', '"', '\\', '\\"; cancel job 1 "', 'in', 'by', 'job', 'jobs', '(+7)', 'a (+7)',
           '<script>', 'größe', '日本語', '\udcff', 'a\nremotetask cancel job 3', '\u202e', '5 jobs', '17', '...', "it's", '',
           'x' * 10_000, '"' * 10_000, '\\' * 10_000, 'ä' * 10_000, '\n' * 10_000, '\U0001f600' * 10_000)


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
        self.assertEqual(txn.description, 'remotetask add job 1 echo by bob in /S; add job 2 echo by ann in /S; pause in /S')
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
                    self.assertEqual((read._replace(**{field: ''}, jobids=(7,)), more), (act._replace(**{field: ''}), 0))
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
        pieces = ['remotetask ', 'add', 'job', 'jobs', '17', '17-19', '-', ',', ';', '"', '\\', '(+5)', 'by', 'in', ' ', '  ',
                  '\n', '9' * 5000, '²', 'x', '(+', '...', 'attempt', 'for']
        for _ in range(3000):
            text = 'remotetask ' + ''.join(draw.choices(pieces, k=draw.randrange(12)))
            acts, more = notes.read(text)
            self.assertGreaterEqual(more, 0)
            for act in acts:
                act.concerns(5)
