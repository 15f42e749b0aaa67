"""The users file: its format, its mistakes, its changes while it is used, and the commands that write it."""
# SPDX-License-Identifier: ZPL-2.1
import base64
import io
import os
import pty
import re
import resource
import select
import stat
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock
from concurrent.futures import ThreadPoolExecutor

from lovely.remotetask.client import Client
from lovely.remotetask.config import users
from lovely.remotetask.config.users import User
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import RemoteTaskError
from test_cli import PATIENCE
from test_cli import CommandTestCase
from test_cli import environment
from test_cli import start


#: Passwords and their hashes, of the lowest cost that a file may have.
PASSWORD = 'correct horse'
HASH = '{BCRYPT}$2b$10$6m.E7ySO/rPY/F9C5PoqjeW13WjHQd53iB3gcUEpi7Ky40R4ktjMW'
OTHER_PASSWORD = 'battery stäple: ☃'
OTHER_HASH = '{BCRYPT}$2b$10$Cq2nu4zAFRLs8X8jCaycpOyk22/TAd07UpB1sL5j7yPXUZkTUH6Hq'


class FileCase(unittest.TestCase):
    """Has a path for a users file, in a directory of its own."""

    def setUp(self):
        self.directory = os.path.realpath(self.enterContext(tempfile.TemporaryDirectory()))
        self.path = os.path.join(self.directory, 'users')

    def write(self, text):
        """Write the file in place."""
        with open(self.path, 'wb') as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text if isinstance(text, bytes) else text.encode('utf-8'))

    def read(self):
        with open(self.path, encoding='utf-8') as file:
            return file.read()


class TestFormat(FileCase):

    def test_users(self):
        self.write('# name:hash:role:tasks:services\n'
                   '\n'
                   f'ann:{HASH}:manage:*:*\r\n'
                   f'  bö-b : {OTHER_HASH} : view : avi2*, m?v : /site1/*,/ \n')
        self.assertEqual(users.readUsers(self.path), {
            'ann': User('ann', HASH, 'manage', ('*',), ('*',)),
            'bö-b': User('bö-b', OTHER_HASH, 'view', ('avi2*', 'm?v'), ('/site1/*', '/'))})

    def test_empty(self):
        for text in '', '\n', '# nobody\n':
            self.write(text)
            self.assertEqual(users.readUsers(self.path), {})

    def test_mistakes(self):
        for line, reason in (
                ('ann', 'five fields, name:hash:role:tasks:services, and not 1'),
                (f'ann:{HASH}:view:*', 'five fields'),
                (f'ann:{HASH}:view:*:*:', 'not 6'),
                (f':{HASH}:view:*:*', "'' is not a name"),
                (f'a b:{HASH}:view:*:*', "'a b' is not a name"),
                (f'a\x1bb:{HASH}:view:*:*', r"'a\x1bb' is not a name"),
                (f'{"x" * 101}:{HASH}:view:*:*', 'is not a name'),
                (f'ann:{HASH}:root:*:*', "'root' is not a role: write one of view, submit, manage"),
                (f'ann:{HASH}::*:*', "'' is not a role"),
                # What is missing never means all.
                (f'ann:{HASH}:view::*', "'' is not a pattern"),
                (f'ann:{HASH}:view:*:', "'' is not a pattern"),
                (f'ann:{HASH}:view:a,,b:*', "'' is not a pattern"),
                (f'ann:{HASH}:view:a\tb:*', r"'a\tb' is not a pattern"),
                (f'first:{HASH}:view:*:*', "there is a user 'first' above")):
            with self.subTest(line):
                self.write(f'first:{HASH}:view:*:*\n\n{line}\n')
                with self.assertRaises(ConfigurationError) as caught:
                    users.readUsers(self.path)
                self.assertTrue(str(caught.exception).startswith(f'{self.path}, line 3: '), caught.exception)
                self.assertIn(reason, str(caught.exception))

    def test_passwords_are_no_hashes(self):
        for secret in ('secret', '{PLAIN}secret', '{SSHA}secret', '{BCRYPT}secret', HASH + 'x', HASH[:-1],
                       HASH.replace('$10$', '$04$'), HASH.replace('$10$', '$31$'), ''):
            with self.subTest(secret):
                self.write(f'ann:{secret}:view:*:*\n')
                with self.assertRaisesRegex(ConfigurationError, 'line 1: the second field is no hash') as caught:
                    users.readUsers(self.path)
                self.assertNotIn('secret', str(caught.exception))

    def test_unreadable(self):
        with self.assertRaisesRegex(ConfigurationError, 'users: cannot read the users file: No such file'):
            users.readUsers(self.path)
        self.write(f'ann:{HASH}:view:*:*\n# '.encode() + b'\xe9\n')
        with self.assertRaisesRegex(ConfigurationError, 'users, line 2: the file is not encoded in UTF-8'):
            users.readUsers(self.path)

    def test_open_file(self):
        self.write('')
        with self.assertNoLogs('lovely.remotetask', 'WARNING'):
            users.readUsers(self.path)
        for mode in 0o640, 0o604:
            os.chmod(self.path, mode)
            with self.assertLogs('lovely.remotetask', 'WARNING') as logged:
                users.readUsers(self.path)
            self.assertIn('chmod 600', logged.output[0])


class TestUsers(FileCase):

    level = 2

    def setUp(self):
        super().setUp()
        self.write(f'ann:{HASH}:manage:*:*\nbob:{OTHER_HASH}:view:*:*\n')
        self.users = users.Users(self.path)
        self.ann, self.bob = users.readUsers(self.path).values()

    def test_verify(self):
        self.assertEqual(self.users.verify('ann', PASSWORD, 0), self.ann)
        self.assertEqual(self.users.verify('bob', OTHER_PASSWORD, 0), self.bob)
        for name, password in (('ann', OTHER_PASSWORD), ('bob', PASSWORD), ('ann', ''), ('ann', PASSWORD + ' '),
                               ('ann', PASSWORD[:-1]), ('ann', 'x' * 100), ('ann', HASH), ('ann', '\0'),
                               ('carl', PASSWORD), ('', ''), ('Ann', PASSWORD), ('ann ', PASSWORD)):
            with self.subTest(name=name, password=password):
                self.assertIsNone(self.users.verify(name, password, 0))
                self.assertIsNone(self.users.recall(name, password, 0))

    def test_unknown_names_take_their_time(self):
        def effort(name):
            before = time.thread_time()
            self.assertIsNone(self.users.verify(name, 'wrong', 0))
            return time.thread_time() - before

        self.assertGreater(effort('carl'), effort('ann') / 10)      # and not a thousandth

    def test_recall(self):
        self.assertIsNone(self.users.recall('ann', PASSWORD, 0))
        self.users.verify('ann', PASSWORD, 0)
        last = users.REMEMBERED - 1
        self.assertEqual(self.users.recall('ann', PASSWORD, last), self.ann)
        self.assertIsNone(self.users.recall('ann', OTHER_PASSWORD, last))
        self.assertIsNone(self.users.recall('bob', OTHER_PASSWORD, last))
        # Each use counts.
        self.assertEqual(self.users.recall('ann', PASSWORD, 2 * last), self.ann)
        self.assertIsNone(self.users.recall('ann', PASSWORD, 2 * last + users.REMEMBERED))
        self.users.verify('ann', OTHER_PASSWORD, 3 * last)
        self.assertIsNone(self.users.recall('ann', OTHER_PASSWORD, 3 * last))

    def test_nobody(self):
        self.write('')
        self.assertIsNone(users.Users(self.path).verify('ann', PASSWORD, 0))

    def test_changes(self):
        self.users.verify('ann', PASSWORD, 0)
        self.users.verify('bob', OTHER_PASSWORD, 0)
        self.write(f'bob:{OTHER_HASH}:submit:*:*\n')
        self.assertIsNone(self.users.recall('ann', PASSWORD, 0))
        self.assertIsNone(self.users.verify('ann', PASSWORD, 0))
        self.assertEqual(self.users.recall('bob', OTHER_PASSWORD, 0).role, 'submit')
        users.removeUser(self.path, 'bob')
        self.assertIsNone(self.users.recall('bob', OTHER_PASSWORD, 0))
        self.assertIsNone(self.users.verify('bob', OTHER_PASSWORD, 0))
        users.addUser(self.path, self.bob)
        self.assertEqual(self.users.verify('bob', OTHER_PASSWORD, 0), self.bob)

    def test_a_change_concerns_one_user(self):
        self.users.verify('ann', PASSWORD, 0)
        self.users.verify('bob', OTHER_PASSWORD, 0)
        for change in (lambda: users.addUser(self.path, User('carl', HASH, 'view')),
                       lambda: users.addUser(self.path, User('carl', OTHER_HASH, 'manage'), replace=True),
                       lambda: users.removeUser(self.path, 'carl'),
                       lambda: self.write(f'# moved\nann:{HASH}:manage:*:*\n\nbob:{OTHER_HASH}:view:*:*\n')):
            change()
            self.assertEqual(self.users.recall('ann', PASSWORD, 1), self.ann)
            self.assertEqual(self.users.recall('bob', OTHER_PASSWORD, 1), self.bob)
        for limits in ('view',), ('manage', ('a*',)), ('manage', ('a*',), ('/',)):
            ann = User('ann', HASH, *limits)
            users.addUser(self.path, ann, replace=True)
            self.assertEqual(self.users.recall('ann', PASSWORD, 1), ann)
        users.addUser(self.path, User('ann', OTHER_HASH, 'manage'), replace=True)
        self.assertIsNone(self.users.recall('ann', PASSWORD, 1))
        self.assertIsNone(self.users.verify('ann', PASSWORD, 1))
        self.assertEqual(self.users.verify('ann', OTHER_PASSWORD, 1).name, 'ann')
        self.assertEqual(self.users.recall('bob', OTHER_PASSWORD, 1), self.bob)

    def test_changes_while_a_password_is_hashed(self):
        def replace(hash):
            users.addUser(self.path, User('ann', hash, 'view'), replace=True)
        for change, expected in ((lambda: users.removeUser(self.path, 'ann'), None),
                                 (lambda: replace(OTHER_HASH), None), (lambda: replace(HASH), 'view')):
            users.addUser(self.path, User('ann', HASH, 'manage'), replace=True)
            self.users.verify('bob', OTHER_PASSWORD, 0)             # the file has been read
            checkPassword = users._hashing.checkPassword

            def checked(hash, password):
                change()
                return checkPassword(hash, password)
            with unittest.mock.patch.object(users._hashing, 'checkPassword', checked):
                found = self.users.verify('ann', PASSWORD, 0)
            self.assertEqual(found and found.role, expected)
            self.assertEqual(self.users.recall('ann', PASSWORD, 0), found)

    def test_memory_is_bounded(self):
        names = [f'u{number}' for number in range(10)]
        for number, name in enumerate(names):
            self.write(f'{name}:{HASH}:view:*:*\n')
            self.assertEqual(self.users.verify(name, PASSWORD, number * users.REMEMBERED).name, name)
        self.assertEqual(list(self.users._proofs), names[-1:])

    def test_broken_later(self):
        for change in (lambda: self.write(f'carl:{HASH}:view:*:*\nann:\n'), lambda: os.unlink(self.path),
                       lambda: os.mkdir(self.path)):
            with self.assertLogs('lovely.remotetask', 'ERROR') as logged:
                change()
                for _ in range(3):
                    self.assertEqual(self.users.verify('ann', PASSWORD, 0), self.ann)
            self.assertEqual(len(logged.output), 1)
            self.assertIn(f'the users stay as they were: {self.path}', logged.output[0])
            self.assertIsNone(self.users.verify('carl', PASSWORD, 0))
        os.rmdir(self.path)
        self.write(f'carl:{HASH}:view:*:*\n')
        self.assertIsNone(self.users.verify('ann', PASSWORD, 0))
        self.assertEqual(self.users.verify('carl', PASSWORD, 0).name, 'carl')

    def test_what_cannot_be_read_is_tried_again(self):
        """A change that is met when there are too many open files counts afterwards, although it is no other then."""
        self.users.verify('ann', PASSWORD, 0)
        users.removeUser(self.path, 'ann')
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with self.assertLogs('lovely.remotetask', 'ERROR') as logged:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            self.assertEqual([self.users.recall('ann', PASSWORD, 0) for _ in range(3)], [self.ann] * 3)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.assertEqual(len(logged.output), 1)
        self.assertIn('Too many open files', logged.output[0])
        self.assertIsNone(self.users.recall('ann', PASSWORD, 0))

    def test_broken_at_first(self):
        self.write('ann\n')
        with self.assertRaisesRegex(ConfigurationError, 'users, line 1: '):
            users.Users(self.path)
        with self.assertRaisesRegex(ConfigurationError, 'nowhere: cannot read'):
            users.Users(os.path.join(self.directory, 'nowhere'))


class TestWriting(FileCase):

    level = 2

    def test_hashes(self):
        for password in 'x' * 8, 'ä' * 36:
            hash = users.hashPassword(password)
            self.write(f'ann:{hash}:view:*:*\n')
            self.assertEqual(users.Users(self.path).verify('ann', password, 0).hash, hash)
        for password in '', 'x' * 7, 'x' * 73, 'ä' * 37, 'xxxx\nxxxx', 'xxxx\0xxxx':
            with self.assertRaisesRegex(ValueError, '8 to 72 bytes'):
                users.hashPassword(password)

    def test_new_file(self):
        ann = User('ann', HASH, 'submit', ('a*', 'b'), ('/site1/*',))
        users.addUser(self.path, ann)
        self.assertEqual(self.read(), f'# name:hash:role:tasks:services\nann:{HASH}:submit:a*,b:/site1/*\n')
        self.assertEqual(users.readUsers(self.path), {'ann': ann})
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        self.assertEqual(os.listdir(self.directory), ['users'])

    def test_other_lines_are_kept(self):
        self.write(f'# ann was here\n\nbob : {HASH}:view : *:*\n  # end')
        users.addUser(self.path, User('ann', HASH, 'view'))
        self.assertEqual(self.read(), f'# ann was here\n\nbob : {HASH}:view : *:*\n  # end\nann:{HASH}:view:*:*\n')
        users.addUser(self.path, User('bob', HASH, 'manage'), replace=True)
        self.assertEqual(self.read(), f'# ann was here\n\nbob:{HASH}:manage:*:*\n  # end\nann:{HASH}:view:*:*\n')
        users.removeUser(self.path, 'bob')
        self.assertEqual(self.read(), f'# ann was here\n\n  # end\nann:{HASH}:view:*:*\n')

    def test_refusals(self):
        self.write(f'ann:{HASH}:view:*:*\n')
        before = os.stat(self.path)
        for user in (User('a:b', HASH, 'view'), User('', HASH, 'view'), User('#a', HASH, 'view'),
                     User('bob', HASH, 'root'), User('bob', HASH, 'view', ('a,b',)),
                     User('bob', HASH, 'view', ('a:b',)), User('bob', HASH, 'view', (' a',)),
                     User('bob', HASH, 'view', ('*',), ('a\nb',))):
            with self.subTest(user), self.assertRaises(ValueError):
                users.addUser(self.path, user)
        with self.assertRaisesRegex(RemoteTaskError, 'there is a user ann already'):
            users.addUser(self.path, User('ann', HASH, 'manage'))
        with self.assertRaisesRegex(RemoteTaskError, 'there is no user bob'):
            users.removeUser(self.path, 'bob')
        with self.assertRaisesRegex(ConfigurationError, 'cannot write the users file: No such file'):
            users.addUser(os.path.join(self.directory, 'nowhere', 'users'), User('ann', HASH, 'view'))
        self.assertEqual(os.stat(self.path), before)
        self.write('broken\n')
        with self.assertRaisesRegex(ConfigurationError, 'line 1: a line has five fields'):
            users.addUser(self.path, User('ann', HASH, 'view'))
        self.assertEqual(self.read(), 'broken\n')

    def test_many_writers(self):
        names = [f'user{number}' for number in range(20)]
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda name: users.addUser(self.path, User(name, HASH, 'view')), names))
        self.assertEqual(sorted(users.readUsers(self.path)), sorted(names))

    def test_links(self):
        self.write('# here\n')
        link = os.path.join(self.directory, 'link')
        os.symlink(self.path, link)
        users.addUser(link, User('ann', HASH, 'view'))
        self.assertTrue(os.path.islink(link))
        self.assertEqual(self.read(), f'# here\nann:{HASH}:view:*:*\n')

    @unittest.skipIf(os.getuid(), 'only root can give files away')
    def test_owner_is_kept(self):
        self.write('')
        os.chown(self.path, 1234, 2345)
        users.addUser(self.path, User('ann', HASH, 'view'))
        status = os.stat(self.path)
        self.assertEqual((status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)), (1234, 2345, 0o600))


class TestCommands(FileCase):
    """The program, in processes of its own."""

    level = 2

    def remotetask(self, *arguments, password=''):
        """Run a command; return its exit code, standard and error output."""
        process = start(*arguments, stdin=subprocess.PIPE, cwd=self.directory)
        output, errors = process.communicate(password, PATIENCE)
        return process.returncode, output, errors

    def test_story(self):
        with open(os.path.join(self.directory, 'remotetask.conf'), 'w') as file:
            file.write('<frontend>\nusers users\n</frontend>\n<zodb>\n<mappingstorage/>\n</zodb>\n')
        configured = '-C', 'remotetask.conf', 'user'
        self.assertEqual(self.remotetask(*configured, 'add', 'ann', password=f'{PASSWORD}\n'), (0, '', ''))
        limits = '--task', 'avi*', '--task', 'm?', '--service', '/site1/*'
        self.assertEqual(self.remotetask(*configured, 'add', 'films', '--role', 'submit', *limits,
                                         password=OTHER_PASSWORD), (0, '', ''))
        self.assertEqual(self.remotetask('user', 'list', '--file', 'users'), (0, (
            'NAME   ROLE    TASKS    SERVICES\n'
            'ann    view    *        *\n'
            'films  submit  avi*,m?  /site1/*\n'), ''))
        found = users.Users(self.path)
        self.assertEqual(found.verify('ann', PASSWORD, 0).role, 'view')
        self.assertEqual(found.verify('films', OTHER_PASSWORD, 0).tasks, ('avi*', 'm?'))
        self.assertEqual(self.remotetask(*configured, 'add', 'ann', '--role', 'manage', '--replace',
                                         password=OTHER_PASSWORD), (0, '', ''))
        self.assertIsNone(found.verify('ann', PASSWORD, 0))
        self.assertEqual(found.verify('ann', OTHER_PASSWORD, 0).role, 'manage')
        self.assertEqual(self.remotetask(*configured, 'remove', 'ann'), (0, '', ''))
        self.assertIsNone(found.verify('ann', OTHER_PASSWORD, 0))
        self.assertEqual(self.remotetask(*configured, 'remove', 'ann'), (
            1, '', 'remotetask: there is no user ann\n'))
        self.assertEqual(sorted(os.listdir(self.directory)), ['remotetask.conf', 'users'])

    def test_terminal(self):
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        process = subprocess.Popen(
            [sys.executable, '-m', 'lovely.remotetask.cli.main', 'user', 'add', 'ann', '--file', self.path],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment(), start_new_session=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        os.close(theirs)
        shown = ''
        for answer, again in (PASSWORD, OTHER_PASSWORD), (PASSWORD, PASSWORD):
            shown += self.readUntil(ours, 'Password: ')
            os.write(ours, f'{answer}\n'.encode())
            shown += self.readUntil(ours, 'confirmation: ')
            os.write(ours, f'{again}\n'.encode())
        self.assertEqual(process.wait(PATIENCE), 0)
        self.assertEqual(re.findall('[A-Z][a-z ]+:', shown), [
            'Password:', 'Repeat for confirmation:', 'Error:', 'Password:', 'Repeat for confirmation:'])
        self.assertNotIn(PASSWORD, shown)
        self.assertEqual(users.Users(self.path).verify('ann', PASSWORD, 0).name, 'ann')

    def readUntil(self, terminal, end):
        """Return what a terminal shows, up to the end."""
        shown = ''
        while not shown.endswith(end):
            self.assertTrue(select.select([terminal], [], [], PATIENCE)[0], shown)
            shown += os.read(terminal, 1).decode()
        return shown


class TestUsage(FileCase, CommandTestCase):
    """Mistakes, told in this process."""

    def type(self, data):
        """Put bytes on the standard input."""
        self.addCleanup(setattr, sys, 'stdin', sys.stdin)
        sys.stdin = io.TextIOWrapper(io.BytesIO(data), 'utf-8')

    def test_usage(self):
        file = '--file', self.path
        self.fails(2, 'give --file, or a configuration', 'user', 'list')
        self.fails(2, 'cannot read the users file', 'user', 'list', *file)
        self.fails(2, "'a:b' is not a name", 'user', 'add', 'a:b', *file)
        self.fails(2, "'root'", 'user', 'add', 'ann', '--role', 'root', *file)
        self.fails(2, "'' is not a pattern", 'user', 'add', 'ann', '--task', '', *file)
        for typed, reason in ((b'', '8 to 72 bytes'), (b'short\r\nline\n', '8 to 72 bytes'),
                              (b'not \xe4 text\n', 'not encoded in UTF-8')):
            self.type(typed)
            self.fails(2, reason, 'user', 'add', 'ann', *file)
        self.assertEqual(os.listdir(self.directory), [])
        code, output, errors = self.remotetask('user')
        self.assertEqual((code, output), (2, ''))
        self.assertIn('Usage: remotetask user', errors)
        users.addUser(self.path, User('ann', HASH, 'view'))
        self.type(PASSWORD.encode())
        self.fails(1, 'there is a user ann already', 'user', 'add', 'ann', *file)

    def done(self, *arguments):
        self.assertEqual(self.remotetask('user', *arguments, '--file', self.path), (0, '', ''))

    def test_password(self):
        before = User('ann', HASH, 'submit', ('a*', 'b'), ('/site1/*',))
        users.addUser(self.path, User('bob', HASH, 'view'))
        users.addUser(self.path, before)
        self.type(OTHER_PASSWORD.encode())
        self.done('password', 'ann')
        found = users.Users(self.path)
        self.assertIsNone(found.verify('ann', PASSWORD, 0))
        self.assertEqual(found.verify('ann', OTHER_PASSWORD, 0)._replace(hash=HASH), before)
        self.assertEqual(users.readUsers(self.path)['bob'], User('bob', HASH, 'view'))
        secret = self.secret(f'{PASSWORD}\n')
        self.done('password', 'ann', '--password-file', secret)
        self.assertEqual(users.Users(self.path).verify('ann', PASSWORD, 0).role, 'submit')
        text = self.read()
        os.chmod(secret, 0o640)
        for code, reason, *arguments in ((1, 'there is no user eve', 'eve'),
                                         (2, 'chmod 600 it', 'ann', '--password-file', secret)):
            self.fails(code, reason, 'user', 'password', *arguments, '--file', self.path)
        self.type(b'short')
        self.fails(2, '8 to 72 bytes', 'user', 'password', 'ann', '--file', self.path)
        self.assertEqual(self.read(), text)

    def secret(self, text):
        """Write a file that only we may read; return its path."""
        path = os.path.join(self.directory, 'secret')
        with open(path, 'w', opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(text)
        return path

    def test_change(self):
        users.addUser(self.path, User('ann', HASH, 'view', ('a*',), ('/site1/*',)))
        for arguments, expected in (
                (['--role', 'manage'], User('ann', HASH, 'manage', ('a*',), ('/site1/*',))),
                (['--task', 'b', '--task', 'c?'], User('ann', HASH, 'manage', ('b', 'c?'), ('/site1/*',))),
                (['--all-services', '--role', 'submit'], User('ann', HASH, 'submit', ('b', 'c?'))),
                (['--all-tasks', '--service', '/'], User('ann', HASH, 'submit', ('*',), ('/',)))):
            with self.subTest(arguments):
                self.done('change', 'ann', *arguments)
                self.assertEqual(users.readUsers(self.path), {'ann': expected})
        text = self.read()
        for code, reason, *arguments in ((1, 'there is no user eve', 'eve', '--role', 'view'),
                                         (2, 'say what to change', 'ann'),
                                         (2, 'exclude each other', 'ann', '--task', 'a', '--all-tasks'),
                                         (2, 'exclude each other', 'ann', '--service', 'a', '--all-services'),
                                         (2, "'a,b' is not a pattern", 'ann', '--role', 'view', '--task', 'a,b'),
                                         (2, "'root'", 'ann', '--role', 'root')):
            self.fails(code, reason, 'user', 'change', *arguments, '--file', self.path)
        self.assertEqual(self.read(), text)

    def test_password_file_of_a_client(self):
        self.addCleanup(os.environ.pop, 'REMOTETASK_PASSWORD_FILE', None)

        def headerFor(url):
            with Client(url) as client:
                return client._connections._headers.get('Authorization')

        def basic(text):
            return 'Basic ' + base64.b64encode(text.encode()).decode()

        os.environ['REMOTETASK_PASSWORD_FILE'] = secret = self.secret(f'{OTHER_PASSWORD}:\r\nmore')
        for user, expected in (('ann@', basic(f'ann:{OTHER_PASSWORD}:')), ('ann:pw@', basic('ann:pw')), ('', None),
                               ('ann:@', basic('ann:'))):
            with self.subTest(user):
                self.assertEqual(headerFor(f'http://{user}127.0.0.1:1/'), expected)
        for text, mode, reason in (('', 0o600, 'no password in its first line'), (PASSWORD, 0o640, 'chmod 600 it'),
                                   (PASSWORD, 0o604, 'chmod 600 it'), ('x' * 1025, 0o600, 'more than 1024 bytes')):
            with self.subTest(reason, mode=mode):
                self.secret(text)
                os.chmod(secret, mode)
                self.fails(2, reason, 'tasks', '--url', 'http://ann@127.0.0.1:1/')
                os.chmod(secret, 0o600)
        os.environ['REMOTETASK_PASSWORD_FILE'] = self.directory + '/missing'
        self.fails(2, 'cannot read the password file', 'tasks', '--url', 'http://ann@127.0.0.1:1/')
        self.assertEqual(headerFor('http://ann:pw@127.0.0.1:1/'), basic('ann:pw'))


if __name__ == '__main__':
    unittest.main()
