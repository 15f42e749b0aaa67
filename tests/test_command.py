"""Programs as tasks: the template, the values, the paths, and the run with its limits; with real programs."""
# SPDX-License-Identifier: ZPL-2.1
import io
import json
import os
import select
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import unittest
from unittest import mock

import zope.schema
from zope.interface.verify import verifyObject

from lovely.remotetask.database.storedfiles import toStore
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import TaskError
from lovely.remotetask.execution import command
from lovely.remotetask.execution.command import CommandTask
from lovely.remotetask.execution.control import Control
from lovely.remotetask.execution.control import Interrupted
from lovely.remotetask.execution.control import running
from lovely.remotetask.files import File
from lovely.remotetask.interfaces import ICheckedTask


def python(code, *words):
    """Return a template that runs Python code with these words, which may hold fields."""
    literal = shlex.quote(f'import json, os, sys, subprocess; {code}').replace('{', '{{').replace('}', '}}')
    return ' '.join([shlex.quote(sys.executable), '-c', literal, *words])


ARGUMENTS = 'print(json.dumps(sys.argv[1:]))'


def arguments(words, input, **kw):
    """Return the arguments that a program gets from the words of a template and an input."""
    return json.loads(CommandTask(python(ARGUMENTS, *words), **kw)(None, 1, input)['output'])


class TestTemplate(unittest.TestCase):

    level = 2

    def test_interface(self):
        verifyObject(ICheckedTask, CommandTask('echo {a}'))

    def test_repr(self):
        self.assertEqual(repr(CommandTask('ffmpeg -i {source}')), "<CommandTask 'ffmpeg -i {source}'>")

    def test_fields_in_order_without_repetition(self):
        task = CommandTask('convert {source} {size}x{size} {target}')
        self.assertEqual(task.fields, ('source', 'size', 'target'))
        self.assertEqual(zope.schema.getFieldNamesInOrder(task.inputSchema), ['source', 'size', 'target'])

    def test_a_word_stays_one_argument(self):
        for value in ('a b', 'a"b', "a'b", 'a\nb', 'a; rm -rf *', '$HOME `id` $(id)', '{b}', '{{', '\\', '', ' ', '*',
                      'ä€😀', '-rf', '--', '>x', '|x', '%s', '\t\x1b'):
            with self.subTest(value=value):
                self.assertEqual(arguments(['{a}', 'x{a}y', '{b}'], {'a': value, 'b': 'B'}),
                                 [value, f'x{value}y', 'B'])

    def test_substitution_is_done_once(self):
        self.assertEqual(arguments(['{a}{b}'], {'a': '{b}', 'b': '{a}'}), ['{b}{a}'])

    def test_quotes_group_and_braces_are_doubled(self):
        self.assertEqual(arguments(['"x {a} {{y}}"', "''", '{{a}}'], {'a': '1'}), ['x 1 {y}', '', '{a}'])

    def test_numbers(self):
        self.assertEqual(arguments(['{a}', '{b}', '{c}'], {'a': 5, 'b': -0.5, 'c': 2 ** 70}),
                         ['5', '-0.5', str(2 ** 70)])

    def test_bad_templates(self):
        for template, reason in (
                ('', 'the command is empty'),
                ('  ', 'the command is empty'),
                ('"" x', 'the program is empty'),
                ('{a} x', 'the program itself cannot be a field'),
                ('x{a} y', 'the program itself cannot be a field'),
                ('bin/x {a}', 'absolute path'),
                ('x {a', "in '{a': expected '}'"),
                ('x a}', "in 'a}': Single '}'"),
                ('x {', "in '{'"),
                ('x {}', 'a field is {name}'),
                ('x {0}', 'a field is {name}'),
                ('x {a.b}', 'a field is {name}'),
                ('x {a[0]}', 'a field is {name}'),
                ('x {a!r}', 'a field is {name}'),
                ('x {a:>3}', 'a field is {name}'),
                ('x {a:{b}}', 'a field is {name}'),
                ('x {a-b}', 'a field is {name}'),
                ('x {_a}', 'a field is {name}'),
                ('x "{ a }"', 'a field is {name}'),
                ('x "a', 'No closing quotation'),
                ('x \0', 'NUL'),
                (['x'], 'must be one text, not list'),
                (None, 'must be one text, not NoneType')):
            with self.subTest(template=template):
                with self.assertRaises(ValueError) as caught:
                    CommandTask(template)
                self.assertIn(reason, str(caught.exception))

    def test_bad_result(self):
        with self.assertRaisesRegex(ValueError, "the result is to be 'report' or 'file', not 'all'"):
            CommandTask('echo', result='all')

    def test_bad_arguments(self):
        for kw, reason in (
                ({'text': ['a', 'c']}, "text names 'c'"),
                ({'text': 'a c'}, "text names 'c'"),
                ({'files': 'a c'}, "files names 'c'"),
                ({'timeout': 0}, 'more than 0'),
                ({'timeout': -1}, 'more than 0'),
                ({'timeout': float('nan')}, 'more than 0'),
                ({'directory': ''}, 'the directory is empty')):
            with self.subTest(kw=kw):
                with self.assertRaises(ValueError) as caught:
                    CommandTask('x {a}', **kw)
                self.assertIn(reason, str(caught.exception))

    def test_an_absolute_path_before_a_path(self):
        for template in ('x /data/{a}', 'x --out=/data/{a}', 'x file:/{a}'):
            with self.subTest(template=template):
                with self.assertRaises(ValueError) as caught:
                    CommandTask(template, directory='.')
                self.assertIn('would lead out of the directory', str(caught.exception))
                CommandTask(template, directory='.', text='a')
                CommandTask(template)


class TestFiles(unittest.TestCase):
    """Inputs with files: the program gets copies."""

    file = File(io.BytesIO(b'film'))

    def refuses(self, task, input, field, reason):
        with self.assertRaises(InvalidInput) as caught:
            task.checkInput(input)
        self.assertEqual((caught.exception.field, caught.exception.reason), (field, reason))

    def test_fields_that_have_to_be_files(self):
        task = CommandTask('cat {a} {b}', directory='/tmp', files='a')
        self.assertEqual((task.files, task.paths), ({'a'}, {'b'}))
        for value in '/etc/passwd', 'a', 5, b'film':
            self.refuses(task, {'a': value, 'b': 'b'}, 'a', 'must be a file')
        task.checkInput({'a': self.file, 'b': self.file})
        self.refuses(task, {'a': self.file, 'b': '../b'}, 'b', 'leads out of the directory of the command')

    def test_the_path_leads_to_the_copy_and_nowhere_else(self):
        task = CommandTask('cat {a}{b}')
        self.refuses(task, {'a': self.file, 'b': '/../../etc/passwd'}, 'a',
                     "is a file, and stands beside another field in the command 'cat {a}{b}'")
        task = CommandTask('cat {a}{b}', directory='/tmp')
        for input, field in (({'a': self.file, 'b': 'b'}, 'a'), ({'a': 'a', 'b': self.file}, 'b')):
            self.refuses(task, input, field, "is a file, and stands beside another field in the command 'cat {a}{b}'")
        for template in 'cat {a}/{b}', 'cat -x={a}-{b}':
            with self.assertRaisesRegex(InvalidInput, 'stands beside another field'):
                CommandTask(template).checkInput({'a': self.file, 'b': 'b'})
        CommandTask('cat -i={a}:{b} -j{a}').checkInput({'a': self.file, 'b': 'b'})

    def test_what_the_program_gets(self):
        for directory in None, '/tmp':
            task = CommandTask("sh -c 'pwd; cat $0; cat ${{1#--in=}}; echo $0' {a} --in={b}", directory, files='a b')
            output = task(None, 1, {'a': self.file, 'b': File(io.BytesIO(b' and sound '))})['output']
            where, _, rest = output.partition('\n')
            self.assertEqual(where == '/tmp', directory == '/tmp')
            self.assertRegex(rest, r'\Afilm and sound /.*/remotetask-[^/]+/a\n\Z')
            self.assertFalse(os.path.exists(rest.split()[-1]))

    def test_a_refused_input_copies_nothing(self):
        task = CommandTask('cat {a} {b}', directory='/tmp')
        with mock.patch('lovely.remotetask.execution.command.copied', side_effect=AssertionError('copied')):
            with self.assertRaisesRegex(TaskError, 'leads out'):
                task(None, 1, {'a': self.file, 'b': '../b'})


class InputTestCase(unittest.TestCase):

    def refused(self, task, input, field, reason):
        """The frontend refuses the input, and so does the processing host, before anything runs."""
        with self.assertRaises(InvalidInput) as caught:
            task.checkInput(input)
        self.assertEqual(caught.exception.field, field)
        self.assertIn(reason, caught.exception.reason)
        with self.assertRaises(TaskError) as caught:
            task(None, 1, input)
        self.assertIn(reason, str(caught.exception))


class TestInput(InputTestCase):

    task = CommandTask(python('sys.exit("has run")', '{a}', '{b}'))

    def test_fields(self):
        self.refused(self.task, None, '', 'a dict')
        self.refused(self.task, ['a', 'b'], '', 'a dict')
        self.refused(self.task, {}, 'a', 'missing')
        self.refused(self.task, {'a': 'x'}, 'b', 'missing')
        self.refused(self.task, {'a': 'x', 'b': None}, 'b', 'missing')
        self.refused(self.task, {'a': 'x', 'b': 'y', 'c': 'z'}, 'c', 'no such field')

    def test_values(self):
        for value in (True, False, [], {}, b'x', object()):
            self.refused(self.task, {'a': 'x', 'b': value}, 'b', f'not {type(value).__name__}')
        for value in (float('nan'), float('inf'), float('-inf')):
            self.refused(self.task, {'a': 'x', 'b': value}, 'b', 'finite')
        self.refused(self.task, {'a': 'x\0y', 'b': ''}, 'a', 'NUL')
        for value in ('\ud800', '\udc80', 'x\udfffy'):
            self.refused(self.task, {'a': value, 'b': ''}, 'a', 'surrogate')

    def test_length(self):
        limit = command.VALUE_LIMIT
        self.task.checkInput({'a': 'x' * limit, 'b': ''})
        self.refused(self.task, {'a': 'x' * (limit + 1), 'b': ''}, 'a', str(limit))
        self.refused(self.task, {'a': '€' * (limit // 3 + 1), 'b': ''}, 'a', str(limit))

    def test_an_enormous_number(self):
        if hasattr(sys, 'get_int_max_str_digits'):
            self.refused(self.task, {'a': 1 << 100_000, 'b': ''}, 'a', 'digits')
        else:
            self.assertIsNone(self.task.checkInput({'a': 1 << 100_000, 'b': ''}))

    def test_a_command_without_fields(self):
        task = CommandTask('echo hello')
        for input in (None, {}):
            self.assertIsNone(task.checkInput(input))
            self.assertEqual(task(None, 1, input)['output'], 'hello\n')
        for input in ({'a': 1}, [], 0, 'x'):
            self.refused(task, input, '', 'no fields')


class TestPaths(InputTestCase):

    level = 2

    def setUp(self):
        self.top = os.path.realpath(self.enterContext(tempfile.TemporaryDirectory()))
        self.directory = os.path.join(self.top, 'media')
        os.mkdir(self.directory)
        os.mkdir(os.path.join(self.directory, 'sub'))
        with open(os.path.join(self.top, 'secret'), 'w') as secret:
            secret.write('secret')
        self.task = CommandTask('cat {a}', directory=self.directory)

    def link(self, name, target):
        os.symlink(target, os.path.join(self.directory, name))

    def given(self, words, input, **kw):
        return arguments(words, input, directory=self.directory, **kw)

    def test_it_runs_in_the_directory(self):
        with open(os.path.join(self.directory, 'sub', 'x'), 'w') as file:
            file.write('content')
        self.assertEqual(self.task(None, 1, {'a': 'sub/x'})['output'], 'content')
        self.assertEqual(self.task(None, 1, {'a': 'sub/../sub/./x'})['output'], 'content')
        self.assertEqual(CommandTask('pwd', directory=self.directory)(None, 1, None)['output'], self.directory + '\n')

    def test_a_relative_directory_is_taken_from_where_it_was_given(self):
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.top)
        task = CommandTask('pwd', directory='media')
        os.chdir(here)
        self.assertEqual(task(None, 1, None)['output'], self.directory + '\n')

    def test_lexical(self):
        for path, reason in (
                ('', 'empty'),
                ('/etc/passwd', 'absolute'),
                (os.path.join(self.directory, 'x'), 'absolute'),
                ('//x', 'absolute'),
                ('.', 'itself'),
                ('./', 'itself'),
                ('sub/..', 'itself'),
                ('..', 'leads out'),
                ('../secret', 'leads out'),
                ('../media/x', 'leads out'),
                ('sub/../../secret', 'leads out'),
                ('missing/../../secret', 'leads out'),
                ('./../secret', 'leads out'),
                ('sub/../../media/sub', 'leads out')):
            self.refused(self.task, {'a': path}, 'a', reason)

    def test_names_that_only_look_so(self):
        for name in ('...', '..x', '.hidden', 'a..b', 'a b', 'ä', 'x/'):
            self.assertEqual(self.given(['{a}'], {'a': name}), [name])

    def test_symbolic_links(self):
        self.link('file', '../secret')
        self.link('absolute', '/etc/passwd')
        self.link('up', '..')
        self.link('twice', 'up')
        self.link('nothing', '../not-there-yet')
        self.link('self', '.')
        self.link('sub/up', '../..')
        for path in ('file', 'absolute', 'up', 'up/secret', 'twice/secret', 'nothing', 'nothing/x', 'up/new/file',
                     'sub/up/secret', 'self/up/secret', 'self', 'up/media', 'sub/../up/secret'):
            self.refused(self.task, {'a': path}, 'a', 'symbolic link')

    def test_dot_dot_behind_a_symbolic_link_is_where_the_system_goes(self):
        os.makedirs(os.path.join(self.top, 'other', 'deep'))
        self.link('far', '../other/deep')
        self.refused(self.task, {'a': 'far/../secret'}, 'a', 'symbolic link')

    def test_symbolic_links_inside_are_fine(self):
        self.link('inside', 'sub')
        self.link('back', 'sub/../sub')
        self.link('around', '../media/sub')
        for path in ('inside', 'inside/new', 'back/x', 'around/x'):
            self.assertEqual(self.given(['{a}'], {'a': path}), [path])

    def test_the_directory_may_be_a_symbolic_link(self):
        os.symlink('media', os.path.join(self.top, 'alias'))
        task = CommandTask(python(ARGUMENTS, '{a}'), directory=os.path.join(self.top, 'alias'))
        self.assertEqual(task(None, 1, {'a': 'new'})['output'], '["new"]\n')
        self.refused(task, {'a': '../secret'}, 'a', 'leads out')

    def test_a_sibling_with_the_same_beginning(self):
        os.mkdir(self.directory + '-2')
        self.link('sibling', '../media-2')
        self.refused(self.task, {'a': 'sibling/x'}, 'a', 'symbolic link')

    def test_looks_like_something_else(self):
        for name in ('-rf', '--help', '-', 'concat:a|b', 'file:a', 'x:y/z', ':x', '@list', '|id', '+x', '%d', ' x', '~',
                     'a=b', '~root/x', '*', '\n'):
            self.assertEqual(self.given(['{a}', 'i={a}'], {'a': name}), [f'./{name}', f'i=./{name}'])
        for name in ('sub/a:b', 'sub/-x', 'x-y', './-x', 'a%d'):
            self.assertEqual(self.given(['{a}'], {'a': name}), [name])

    def test_a_protocol_with_an_absolute_path(self):
        self.assertEqual(self.given(['{a}'], {'a': 'file:/etc/passwd'}), ['./file:/etc/passwd'])
        self.refused(self.task, {'a': 'file:/../../secret'}, 'a', 'leads out')

    def test_text_and_numbers_are_no_paths(self):
        self.assertEqual(self.given(['{a}', '{b}', 's={n}:{m}'],
                                    {'a': '-x', 'b': '/etc/x:../..', 'n': -1, 'm': 2.5}, text=['a', 'b']),
                         ['-x', '/etc/x:../..', 's=-1:2.5'])

    def test_what_the_template_makes_of_a_path(self):
        self.link('x.png', '/etc/passwd')
        self.link('sub/y', '/etc/passwd')
        self.link('5', '/etc/passwd')
        for word in ('{a}.png', '--out={a}.png', '-o{a}.png', 'file:{a}.png,z'):
            task = CommandTask(f'cat {word}', directory=self.directory)
            self.refused(task, {'a': 'x'}, 'a', 'symbolic link')
            self.assertIsNone(task.checkInput({'a': 'z'}))
        self.refused(CommandTask('cat sub/{a}', directory=self.directory), {'a': 'y'}, 'a', 'symbolic link')
        self.refused(CommandTask('cat {b}/{a}', directory=self.directory), {'a': 'y', 'b': 'sub'}, 'b', 'symbolic link')
        self.refused(CommandTask('cat {b}{a}', directory=self.directory), {'a': './y', 'b': 'sub/'}, 'b', 'symbolic')
        self.refused(CommandTask('cat {b}{a}', directory=self.directory), {'a': 'x/../y', 'b': 'sub/'}, 'b', 'symbolic')
        self.refused(self.task, {'a': 5}, 'a', 'symbolic link')

    def test_the_host_looks_again(self):
        os.rmdir(os.path.join(self.directory, 'sub'))
        self.assertIsNone(self.task.checkInput({'a': 'sub/secret'}))
        self.link('sub', '..')
        with self.assertRaises(TaskError) as caught:
            self.task(None, 1, {'a': 'sub/secret'})
        self.assertIn('symbolic link', str(caught.exception))

    def test_the_frontend_needs_no_directory(self):
        task = CommandTask('cat {a}', directory=os.path.join(self.top, 'missing'))
        self.assertIsNone(task.checkInput({'a': 'x/y'}))
        with self.assertRaises(InvalidInput):
            task.checkInput({'a': '../y'})
        with self.assertRaises(TaskError) as caught:
            task(None, 1, {'a': 'x'})
        self.assertIn('missing', str(caught.exception))
        self.assertIn('does not exist on this processing host', str(caught.exception))

    def test_without_a_directory_it_runs_in_a_temporary_one(self):
        task = CommandTask(python('open("x", "w"); os.mkdir("y"); print(os.listdir(), os.getcwd())'))
        places = set()
        for _ in range(2):
            output = task(None, 1, None)['output']
            self.assertIn("'x'", output)
            places.add(output.split()[-1])
        self.assertEqual(len(places), 2)
        for place in places:
            self.assertFalse(os.path.exists(place))
            self.assertNotEqual(place, os.getcwd())


class TestRun(unittest.TestCase):

    level = 2

    def setUp(self):
        self.directory = self.enterContext(tempfile.TemporaryDirectory())

    def failed(self, template, input=None, **kw):
        with self.assertRaises(TaskError) as caught:
            CommandTask(template, **kw)(None, 1, input)
        return str(caught.exception)

    def test_result(self):
        result = CommandTask(python('print("out"); print("err", file=sys.stderr)'))(None, 1, None)
        self.assertEqual(sorted(result), ['duration', 'error', 'output', 'status'])
        self.assertIs(type(result['status']), int)
        self.assertEqual((result['status'], result['output'], result['error']), (0, 'out\n', 'err\n'))
        self.assertIs(type(result['duration']), float)
        self.assertGreater(result['duration'], 0)

    def test_nothing_to_read(self):
        self.assertEqual(CommandTask('cat')(None, 1, None)['output'], '')

    def test_the_environment_is_passed_on(self):
        os.environ['REMOTETASK_TEST'] = 'x y'
        self.addCleanup(os.environ.pop, 'REMOTETASK_TEST')
        self.assertEqual(CommandTask('printenv REMOTETASK_TEST')(None, 1, None)['output'], 'x y\n')

    def test_exit_status(self):
        self.assertEqual(self.failed('sh -c "echo out; echo alas >&2; exit 3"'), 'sh exited with status 3: alas')
        self.assertEqual(self.failed('sh -c "echo out; exit 3"'), 'sh exited with status 3: out')
        self.assertEqual(self.failed('false'), 'false exited with status 1')

    def test_only_the_end_of_what_it_said(self):
        error = self.failed(python('print("x" * 100_000, "the end", file=sys.stderr); sys.exit(1)'))
        self.assertTrue(error.endswith(' the end'))
        self.assertLess(len(error), command.KEPT + 200)

    def test_signal(self):
        self.assertEqual(self.failed('sh -c "echo alas >&2; kill -KILL $$"'), 'sh was killed by SIGKILL: alas')
        if hasattr(signal, 'SIGRTMIN'):
            number = signal.SIGRTMIN + 1
            self.assertEqual(self.failed(f'sh -c "kill -{number} $$"'), f'sh was killed by signal {number}')

    def test_characters(self):
        result = CommandTask(python(r'sys.stdout.buffer.write(b"a\x00\x1b\t\xff\xc3\xa4\r\nb\rc\x9b\xef\xbf\xbe\n")'))
        self.assertEqual(result(None, 1, None)['output'], 'a\ufffd\ufffd\t\ufffdä\nb\nc\ufffd\ufffd\n')
        self.assertEqual(self.failed(python(r'sys.stderr.write("a\x00b"); sys.exit(1)')).split(': ')[1], 'a\ufffdb')

    def test_program_not_found(self):
        task = CommandTask('no-such-program-here {a}')
        self.assertIsNone(task.checkInput({'a': 'x'}))
        with self.assertRaises(TaskError) as caught:
            task(None, 1, {'a': 'x'})
        self.assertIn("'no-such-program-here' was not found", str(caught.exception))
        self.assertIn("'/no/such/program' was not found", self.failed('/no/such/program'))

    def test_program_that_cannot_be_started(self):
        path = os.path.join(self.directory, 'script')
        with open(path, 'w') as script:
            script.write('#!/no/such/interpreter\n')
        self.assertIn('was not found', self.failed(path))           # not executable
        os.chmod(path, stat.S_IRWXU)
        self.assertIn('cannot be started', self.failed(path))

    def test_a_relative_path_entry_is_not_searched_in_the_directory(self):
        path = os.path.join(self.directory, 'evil-tool')
        with open(path, 'w') as script:
            script.write('#!/bin/sh\necho evil\n')
        os.chmod(path, stat.S_IRWXU)
        self.addCleanup(os.environ.__setitem__, 'PATH', os.environ['PATH'])
        os.environ['PATH'] = '.:' + os.environ['PATH']
        self.assertIn('was not found', self.failed('evil-tool', directory=self.directory))

    def test_too_many_arguments(self):
        self.assertIn("'echo' cannot be started",
                      self.failed('echo ' + ' '.join(['{a}' * 5] * 100), {'a': 'x' * command.VALUE_LIMIT}))

    def test_much_output_takes_little_memory(self):
        task = CommandTask('sh -c "head -c 200000000 /dev/zero; echo end; head -c 100000000 /dev/zero >&2"')
        tracemalloc.start()
        try:
            result = task(None, 1, None)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 2_000_000)
        self.assertEqual(result['output'], '\ufffd' * (command.KEPT - 4) + 'end\n')
        self.assertEqual(result['error'], '\ufffd' * command.KEPT)

    def test_the_output_as_a_file(self):
        task = CommandTask('sh -c "head -c {size} /dev/zero; echo end; echo alas >&2"', result='file')
        tracemalloc.start()
        try:
            result = task(None, 1, {'size': 20_000_000})
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 2_000_000)
        self.assertEqual(result.size, 20_000_004)
        with result.open() as file:
            self.assertEqual(file.read(3), b'\0\0\0')
            file.seek(-5, os.SEEK_END)
            self.assertEqual(file.read(), b'\0end\n')
        toStore(result, None)                               # closes it

    def test_failed_with_the_output_in_a_file(self):
        self.assertEqual(self.failed('sh -c "echo out; echo alas >&2; exit 3"', result='file'),
                         'sh exited with status 3: alas')
        self.assertEqual(self.failed('sh -c "echo out; exit 3"', result='file'), 'sh exited with status 3')

    def timedOut(self, script):
        """Have a time limit end a shell script, and return the error and what was written to descriptor `fifo`.

        The limit is raised until the script had the time to say that it is ready.
        """
        for limit in (0.5, 2, 8, 32):
            fifo = os.path.join(self.directory, f'fifo-{limit}')
            os.mkfifo(fifo)
            with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), 'rb') as reader:
                error = self.failed('sh -c {script} sh {fifo}'.replace('{script}', shlex.quote(script)),
                                    {'fifo': fifo}, timeout=limit)
                os.set_blocking(reader.fileno(), True)
                said = reader.read()                # until all that had it open are dead
            self.assertIn(f'sh reached its time limit of {limit:g} s', error)
            if b'ready' in said:
                return error, said
        self.fail('the program did not start in time')

    # The grandchildren say "late" before they end by themselves: a test of a limit that does not work fails, it does
    # not hang.

    def test_time_limit(self):
        error, said = self.timedOut('exec 3> $1; echo alas >&2; echo ready >&3; sleep 60; echo late >&3')
        self.assertTrue(error.endswith(': alas'), error)
        self.assertEqual(said, b'ready\n')

    def test_time_limit_lets_the_program_end_by_itself(self):
        error, said = self.timedOut(
            "exec 3> $1; trap 'echo cleaned >&3; echo bye >&2; exit' TERM; echo ready >&3; sleep 60 & wait")
        self.assertTrue(error.endswith(': bye'), error)
        self.assertEqual(said, b'ready\ncleaned\n')

    def test_time_limit_ends_grandchildren(self):
        error, said = self.timedOut(
            "exec 3> $1; sh -c 'sh -c \"echo ready >&3; sleep 60; echo late >&3\" & wait' & wait")
        self.assertEqual(said, b'ready\n')

    def test_time_limit_ends_who_ignores_sigterm(self):
        error, said = self.timedOut("trap '' TERM; exec 3> $1; sh -c 'echo ready >&3; sleep 60; echo late >&3'; exit 0")
        self.assertEqual(said, b'ready\n')

    def test_time_limit_of_a_program_with_closed_output(self):
        error, said = self.timedOut('exec 3> $1 >&- 2>&-; echo ready >&3; sleep 60; echo late >&3')
        self.assertEqual(said, b'ready\n')

    def test_no_time_limit(self):
        self.assertEqual(CommandTask('echo x', timeout=float('inf'))(None, 1, None)['output'], 'x\n')
        self.assertEqual(CommandTask('sh -c "exec >&- 2>&-; exit"', timeout=float('inf'))(None, 1, None)['status'], 0)

    def test_children_end_with_the_program(self):
        fifo = os.path.join(self.directory, 'fifo')
        os.mkfifo(fifo)
        script = "exec 3> $1; (echo ready >&3; sleep 60; echo late >&3) & echo done"
        with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), 'rb') as reader:
            result = CommandTask(f'sh -c {shlex.quote(script)} sh {{fifo}}')(None, 1, {'fifo': fifo})
            os.set_blocking(reader.fileno(), True)
            self.assertNotIn(b'late', reader.read())
        self.assertEqual(result['output'], 'done\n')

    def test_who_leaves_the_group_and_holds_the_pipes_does_not_hang_the_job(self):
        # It stays until we close our end.
        listener = socket.create_server(('127.0.0.1', 0))
        self.addCleanup(listener.close)
        listener.settimeout(60)
        escape = ('import os, socket, sys; s = socket.create_connection(("127.0.0.1", int(sys.argv[1]))); '
                  's.sendall(b"x"); s.recv(1)')
        task = CommandTask(python(
            f'subprocess.Popen([sys.executable, "-c", {escape!r}, sys.argv[1]], start_new_session=True); '
            f'print("done", flush=True); os._exit(0)', '{port}'))
        result = task(None, 1, {'port': listener.getsockname()[1]})
        self.assertEqual((result['status'], result['output']), (0, 'done\n'))
        held, _ = listener.accept()
        with held:
            self.assertEqual(held.recv(1), b'x')            # it is alive and still has the pipes

    def test_no_descriptor_is_left_open(self):
        def count():
            return len(os.listdir('/dev/fd'))
        CommandTask('echo x')(None, 1, None)
        before = count()
        for _ in range(3):
            CommandTask('echo x')(None, 1, None)
            self.failed('false')
            self.failed('sh -c "sleep 60"', timeout=0.1)
            self.failed('false', result='file')
        self.assertLessEqual(count(), before)

    # Ended from outside.  A script says who it is as soon as it runs, and has a child that would say "late".

    ended = {
        'by itself': 'exec 3> $1; sh -c "sleep 60; echo late >&3" & echo $$ $! >&3; wait',
        'by force': "trap '' TERM; exec 3> $1; sh -c 'sleep 60; echo late >&3' & echo $$ $! >&3; wait; wait"}

    def told(self, script):
        """Return a template that runs the script with a pipe, and the end of the pipe to read from, unbuffered."""
        fifo = os.path.join(self.directory, f'fifo-{script}')
        os.mkfifo(fifo)
        reader = open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), 'rb', buffering=0)
        self.addCleanup(reader.close)
        return f'sh -c {shlex.quote(self.ended[script])} sh {shlex.quote(fifo)}', reader

    def heard(self, reader):
        """Wait for the program to say who it is."""
        self.assertTrue(select.select([reader], [], [], 60)[0], 'the program did not start in time')
        self.assertEqual(len(reader.read(100).split()), 2)

    def assertEnd(self, reader):
        """Program and child end within moments: nobody has the pipe any more."""
        self.assertTrue(select.select([reader], [], [], 30)[0], 'the program or its child lives')
        self.assertEqual(reader.read(100), b'')

    def test_told_to_end(self):
        for script in self.ended:
            template, reader = self.told(script)
            control = Control(1)

            def end():
                self.heard(reader)
                control.end('cancelled')

            thread = threading.Thread(target=end)
            thread.start()
            with self.subTest(script=script), running(control), self.assertRaises(Interrupted) as caught:
                CommandTask(template)(None, 1, None)
            thread.join()
            self.assertEqual(str(caught.exception), 'cancelled')
            self.assertEnd(reader)

    def test_told_to_end_before(self):
        control = Control(1)
        control.end('cancelled')
        with running(control), self.assertRaises(Interrupted):
            CommandTask('sleep 60')(None, 1, None)

    def test_not_told_to_end(self):
        with running(Control(1)):
            self.assertEqual(CommandTask('echo x')(None, 1, None)['output'], 'x\n')

    def test_the_host_is_killed(self):
        """Two programs of one host: neither holds what the other waits for."""
        told = [self.told(script) for script in self.ended]
        code = ('import sys, threading\n'
                'from lovely.remotetask.execution.command import CommandTask\n'
                'for template in sys.argv[1:]:\n'
                '    threading.Thread(target=CommandTask(template), args=(None, 1, None)).start()')
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(os.path.abspath, sys.path))}
        host = subprocess.Popen([sys.executable, '-c', code, *(template for template, _ in told)], env=environment)
        try:
            for _, reader in told:
                self.heard(reader)
        finally:
            host.kill()
            host.wait()
        for _, reader in told:
            self.assertEnd(reader)

    def test_the_guardian_is_killed(self):
        fifo = os.path.join(self.directory, 'fifo')
        os.mkfifo(fifo)
        # Once it has told the host whom it guards; then it closes its standard output.
        script = 'exec 3> $1; while [ -e /proc/$PPID/fd/1 ]; do :; done; kill -KILL $PPID; sleep 60; echo late >&3'
        with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), 'rb', buffering=0) as reader:
            self.assertIn('sh was killed by SIGKILL', self.failed(f'sh -c "{script}" sh {{fifo}}', {'fifo': fifo}))
            self.assertEnd(reader)

    @unittest.skipUnless(os.path.exists('/proc/self/status'), 'reads the state of a process from /proc')
    def test_no_signal_is_ignored_or_blocked(self):
        # But for what the tests themselves were started with, as by nohup.
        status = CommandTask('cat /proc/self/status')(None, 1, None)['output']
        states = dict(line.split(':\t', 1) for line in status.splitlines())
        with open('/proc/self/status') as file:
            ours = dict(line.rstrip('\n').split(':\t', 1) for line in file if ':\t' in line)
        byPython = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
        for state in 'SigIgn', 'SigBlk':
            inherited = int(ours[state], 16) & 0x7fffffff & ~byPython           # others are the C library's own
            self.assertEqual(int(states[state], 16) & 0x7fffffff & ~inherited, 0, state)


if __name__ == '__main__':
    unittest.main()
