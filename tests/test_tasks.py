"""Tasks as they are declared in Python and found by ZCML: functions, options, modules, and jobs added by a task."""
# SPDX-License-Identifier: ZPL-2.1
import dataclasses
import functools
import importlib
import inspect
import os
import pathlib
import pickle
import re
import sys
import tempfile
import unittest

import transaction
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage
from zope.component import getSiteManager
from zope.component import hooks
from zope.component import provideUtility
from zope.component import queryUtility
from zope.component.testing import PlacelessSetup
from zope.configuration import xmlconfig
from zope.configuration.exceptions import ConfigurationError as ZCMLError
from zope.interface import Interface
from zope.interface import implementer
from zope.interface import invariant
from zope.interface.interfaces import ComponentLookupError
from zope.interface.registry import Components
from zope.interface.verify import verifyObject
from zope.schema import Int
from zope.schema import getFieldNames

import lovely.remotetask
from lovely.remotetask.config import zcml
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.execution.child import runInChild
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.options import NAMES
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import install
from lovely.remotetask.task import DeclaredTask
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.task import declaredIn
from lovely.remotetask.task import task


class IFilm(Interface):
    """An input whose rate is looked at by somebody who forgot that it may be missing."""

    rate = Int(required=False)

    @invariant
    def isEven(film):
        if film.rate % 2:
            raise ValueError('odd')


def alone(input):
    return ['alone', input]


def withService(service, jobid, input):
    return [type(service).__name__, jobid, input]


def withDefaults(input, scale=2, mode='x'):
    return [input, scale, mode]


class Callable:

    def __call__(self, service, jobid, input):
        return ['callable', jobid, input]

    def method(self, input):
        return ['method', input]


async def asynchronous(input):
    return input


async def generator(input):
    yield input


@task(isolation='process', timeLimit=50)
def doubled(input):
    """Return twice the input."""
    return 2 * input


@task('with a service', isolation='process')
def numbered(service, jobid, input):
    return withService(service, jobid, input)


def plain(input):
    return ['plain', input]


byHand = task('by hand', isolation='process')(plain)


#: Option -> values that will do, and others with the reason.
OPTIONS = {
    'inputSchema': ((IFilm, Interface), ((None, 'None is not an interface'), (IFilm.names, 'is not an interface'))),
    'outputSchema': ((IFilm,), ((None, 'None is not an interface'), ({}, '{} is not an interface'))),
    'retryPolicy': (
        (RetryPolicy(attempts=3), {'attempts': 3, 'neverRetryOn': [KeyError]}, {}),
        ((3, '3 is not a RetryPolicy or a dict'), ({'atempts': 3}, "there is no field 'atempts'; there are attempts, "),
         ({'attempts': 0}, 'attempts: 0 is not'), ({'retryOn': ['OSError']}, 'is not a tuple of exception classes'))),
    'timeLimit': ((0.5, 3), ((0, '0 is not a number of seconds'), ('3', "'3' is not"), (True, 'True is not'))),
    'isolation': (('thread', 'process'), (('prcess', "'prcess' is not 'thread' or 'process'"),)),
    'memoryLimit': ((1,), ((0, '0 is not a number of bytes'), ('1GB', "'1GB' is not"))),
    'atMostOnce': ((True, False), ((1, '1 is not True or False'), ('no', "'no' is not"))),
}


class TestFunctions(PlacelessSetup, unittest.TestCase):

    def test_one_argument_or_three(self):
        thing = Callable()
        for function, result in (
                (alone, ['alone', 5]), (withService, ['str', 1, 5]), (withDefaults, [5, 2, 'x']), (abs, 5),
                (thing, ['callable', 1, 5]), (thing.method, ['method', 5]), (functools.partial(alone), ['alone', 5]),
                (lambda *arguments: [*arguments], [5])):
            with self.subTest(function):
                self.assertEqual(SimpleTask(function)('service', 1, 5), result)

    def test_a_function_that_is_registered_as_it_is(self):
        service = TaskService()
        for function, result in ((alone, 'alone'), (withService, 'TaskService')):
            provideUtility(function, ITask, 'x')
            jobid = service.add('x', 5)
            service.process()
            self.assertEqual(service.getResult(jobid)[0], result)
            self.assertEqual(service.getResult(jobid)[-1], 5)

    def test_what_cannot_be_called(self):
        for function, reason in (
                (None, 'an object of NoneType cannot be called'),
                (lambda: None, 'neither with the input alone (too many positional arguments) nor with'),
                (lambda service, input: None, "(missing a required argument: 'input')"),
                (lambda input, *, mode: None, "(missing a required argument: 'mode')"),
                (asynchronous, 'asynchronous is asynchronous'), (generator, 'generator is asynchronous')):
            with self.subTest(reason):
                with self.assertRaises(ValueError) as caught:
                    SimpleTask(function)
                self.assertIn(reason, str(caught.exception))
                provideUtility(function, ITask, 'x')
                if callable(function):
                    with self.assertRaises(TaskError) as caught:
                        TaskService().add('x')
                    self.assertIn(reason, str(caught.exception))


class TestOptions(PlacelessSetup, unittest.TestCase):

    def test_all_are_tried(self):
        self.assertEqual(list(OPTIONS), list(NAMES))

    def made(self, **options):
        """Return what is made with these options, in each of the ways."""
        more = {'isolation': 'process'} if 'memoryLimit' in options else {}
        yield SimpleTask(alone, **more, **options)
        yield task('x', **more, **options)(alone)
        yield task(**more)(alone).having(**options)

    def test_right_ones(self):
        for name, (values, _) in OPTIONS.items():
            for value in values:
                for one in self.made(**{name: value}):
                    with self.subTest(name, value=value):
                        if type(value) is dict:
                            value = RetryPolicy(**{key: tuple(item) if type(item) is list else item
                                                   for key, item in value.items()})
                        self.assertEqual(getattr(one, name), value)

    def test_none_is_the_default(self):
        for name in set(OPTIONS) - {'inputSchema', 'outputSchema'}:
            self.assertNotIn(name, vars(SimpleTask(alone, **{name: None})))
        self.assertEqual((SimpleTask(alone).inputSchema, task(alone).outputSchema), (Interface, Interface))

    def test_wrong_ones(self):
        for name, (_, values) in OPTIONS.items():
            for value, reason in values:
                with self.subTest(name, value=value):
                    option = {name: value}
                    for make in (lambda: SimpleTask(alone, **option), lambda: task(**option)(alone),
                                 lambda: task(alone).having(**option)):
                        with self.assertRaises(ValueError) as caught:
                            make()
                        self.assertTrue(str(caught.exception).startswith(f'{name}: '), caught.exception)
                        self.assertIn(reason, str(caught.exception))

    def test_a_task_of_ones_own_with_wrong_ones(self):
        service = TaskService()
        for name, (right, wrong) in OPTIONS.items():
            for value, reason in ((value, None) for value in right):
                provideUtility(self.own(name, value), ITask, 'own')
                with self.subTest(name, value=value):
                    self.assertIsNotNone(service.add('own', {'rate': 2}))
            for value, reason in wrong:
                provideUtility(self.own(name, value), ITask, 'own')
                with self.subTest(name, value=value):
                    with self.assertRaisesRegex(TaskError, f"the task 'own' cannot be run: its {name}, ") as caught:
                        service.add('own', {'rate': 2})
                    self.assertIn(reason.partition(' is not')[2], str(caught.exception))

    def own(self, name, value):
        made = SimpleTask(alone)
        setattr(made, name, value)
        return made

    def test_names_that_are_none(self):
        for name, meant in (('timeLimt', "did you mean 'timeLimit'?"), ('time_limit', "did you mean 'timeLimit'?"),
                            ('retrypolicy', "did you mean 'retryPolicy'?"), ('colour', 'The options are inputS')):
            for make in SimpleTask, lambda function, **options: task(**options)(function):
                with self.assertRaises(TypeError) as caught:
                    make(alone, **{name: 3})
                self.assertIn(f'there is no option {name!r}', str(caught.exception))
                self.assertIn(meant, str(caught.exception))

    def test_a_memory_limit_needs_a_process(self):
        for options in {}, {'isolation': 'thread'}:
            self.assertRaisesRegex(ValueError, "memoryLimit: .* needs isolation='process'", SimpleTask, alone,
                                   memoryLimit=1, **options)

    def test_a_dict_is_a_policy_everywhere(self):
        policy = {'attempts': 2, 'base': 0}
        provideUtility(SimpleTask(lambda input: 1 / 0, retryPolicy=policy), ITask, 'declared')
        provideUtility(self.own('retryPolicy', policy), ITask, 'own')
        queryUtility(ITask, 'own').func = lambda input: 1 / 0
        provideUtility(SimpleTask(lambda input: 1 / 0), ITask, 'plain')
        service = TaskService()
        jobids = [service.add('declared', now=0), service.add('own', now=0),
                  service.add('plain', now=0, retryPolicy=policy),
                  *service.addMany([{'task': 'plain', 'retryPolicy': policy}], now=0)]
        for now in range(5):
            service.process(now)
        for jobid in jobids:
            self.assertEqual((service.getStatus(jobid), len(service.jobs[jobid].errors)), ('error', 2))
        for wrong in {'atempts': 3}, {'attempts': 0}, 3:
            before = len(service.jobs)
            self.assertRaisesRegex(ValueError, 'retryPolicy: ', service.add, 'plain', retryPolicy=wrong)
            self.assertRaisesRegex(ValueError, r'jobs\[0\]: retryPolicy: ', service.addMany,
                                   [{'task': 'plain', 'retryPolicy': wrong}])
            self.assertEqual(len(service.jobs), before)

    def test_a_check_that_fails_is_the_tasks_fault(self):
        @implementer(ITask)
        class Careless:
            inputSchema = outputSchema = Interface

            def checkInput(self, input):
                input['film'].upper()

            def __call__(self, service, jobid, input):
                """Return nothing."""

        provideUtility(Careless(), ITask, 'careless')
        provideUtility(SimpleTask(alone, inputSchema=IFilm), ITask, 'film')
        service = TaskService()
        for name, input, reason in (('careless', {}, "KeyError: 'film'"), ('film', {}, 'TypeError: unsupported')):
            with (self.assertRaisesRegex(TaskError, f"the task '{name}' cannot check this input: {reason}"),
                  self.assertLogs('lovely.remotetask', 'ERROR') as logged):
                service.add(name, input)
            self.assertIn('Traceback', logged.output[0])
        self.assertEqual(len(service.jobs), 0)


class TestDeclaring(PlacelessSetup, unittest.TestCase):

    def test_it_is_a_task_and_still_the_function(self):
        self.assertTrue(verifyObject(ITask, doubled))
        self.assertIsInstance(doubled, DeclaredTask)
        self.assertEqual((doubled.name, doubled.timeLimit, doubled(4), doubled(None, 1, 4), doubled(None, 1, input=4)),
                         ('doubled', 50, 8, 8, 8))
        self.assertEqual((doubled.__doc__, doubled.__module__, list(inspect.signature(doubled).parameters)),
                         ('Return twice the input.', __name__, ['input']))
        self.assertEqual(numbered.name, 'with a service')

    def test_without_brackets(self):
        @task
        def some(input):
            return input
        self.assertEqual((type(some), some.name, some(3)), (DeclaredTask, 'some', 3))

    def test_names(self):
        for name in '', 5, 'x' * 201, ['x']:
            self.assertRaisesRegex(ValueError, 'name: .* is not a text of 1 to 200 characters', task(name), alone)
        self.assertEqual(task('x' * 200)(alone).name, 'x' * 200)

    def test_only_functions(self):
        for thing in Callable, Callable(), 5, doubled:
            self.assertRaisesRegex(ValueError, 'is not a function', task('x'), thing)

    def test_having(self):
        other = doubled.having(timeLimit=7, atMostOnce=True)
        self.assertEqual((other.name, other.timeLimit, other.isolation, other.atMostOnce),
                         ('doubled', 7, 'process', True))
        self.assertEqual((doubled.timeLimit, hasattr(doubled, 'atMostOnce')), (50, False))

    def test_pickles_name_the_function(self):
        self.assertIs(pickle.loads(pickle.dumps(doubled)), doubled)
        self.assertIs(pickle.loads(pickle.dumps(byHand)), plain)


class TestAdd(PlacelessSetup, unittest.TestCase):

    def setUp(self):
        super().setUp()
        db = DB(MappingStorage())
        self.addCleanup(db.close)
        install(db)
        connection = db.open()
        self.addCleanup(connection.close)
        self.addCleanup(transaction.abort)
        self.root = connection.root()['Application']
        self.service = self.root['TaskService']
        provideUtility(doubled, ITask, doubled.name)
        hooks.setHooks()
        self.addCleanup(hooks.resetHooks)
        self.addCleanup(hooks.setSite, None)

    def test_the_service_of_the_site(self):
        hooks.setSite(self.root)
        jobid = doubled.add(5, key='order 7', timeLimit=3)
        self.assertEqual(doubled.add(5, key='order 7'), jobid)
        job = self.service.jobs[jobid]
        self.assertEqual((job.task, job.input, job.timeLimit, job.status), ('doubled', 5, 3, 'queued'))

    def test_a_service_that_is_given(self):
        jobid = doubled.add(5, self.service, startLater=True)
        self.assertEqual(self.service.getStatus(jobid), 'start later')
        other = TaskService()
        self.assertEqual(other.jobs[doubled.add(service=other)].input, None)

    def test_what_add_refuses(self):
        with self.assertRaisesRegex(ComponentLookupError, "the task 'doubled' knows no task service"):
            doubled.add(5)
        hooks.setSite(self.root)
        with self.assertRaisesRegex(UnknownTask, "task 'with a service' is not registered"):
            numbered.add(5)
        with self.assertRaisesRegex(TypeError, 'timeLimt'):
            doubled.add(5, timeLimt=3)
        film = task('film', inputSchema=IFilm)(alone)
        provideUtility(film, ITask, 'film')
        with self.assertRaises(InvalidInput):
            film.add({'rate': 'fast'})
        self.assertEqual(len(self.service.jobs), 0)


SITE = '''<configure
  xmlns="http://namespaces.zope.org/zope"
  xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">
%s
</configure>
'''

FILMS = '''from lovely.remotetask.task import task

@task(timeLimit=60)
def resize(input):
    return 'resized ' + input

@task('cut', retryPolicy={'attempts': 1})
def cutFilm(service, jobid, input):
    return jobid

@task(isolation='process')
def upper(input):
    return input.upper()
'''


class ModuleTestCase(unittest.TestCase):
    """With a directory for a site definition and modules of names that no other test has."""

    counter = 0

    def setUp(self):
        self.registry = Components('test')
        previous = getSiteManager.sethook(lambda context=None: self.registry)
        self.addCleanup(getSiteManager.sethook, previous)
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(os.path.realpath(directory.name))
        self.path, self.modules = [*sys.path], set(sys.modules)
        self.addCleanup(self.forget)
        importlib.invalidate_caches()

    def forget(self):
        sys.path[:] = self.path
        for name in set(sys.modules) - self.modules:
            if name.startswith('films_of_a_test'):
                del sys.modules[name]

    def module(self, text, name=None):
        """Write a module beside the site definition and return its name."""
        ModuleTestCase.counter += 1
        name = name or f'films_of_a_test_{ModuleTestCase.counter}'
        (self.directory / f'{name}.py').write_text(text)
        return name

    def load(self, *directives):
        (self.directory / 'site.zcml').write_text(SITE % '\n'.join(directives))
        return zcml.loadSite(self.directory / 'site.zcml')

    def failed(self, line, reason, *directives):
        """Loading says file, line and reason, and no names of exceptions that are not for users."""
        with self.assertRaises(ConfigurationError) as caught:
            self.load(*directives)
        text = str(caught.exception)
        self.assertIn(f'{self.directory}/site.zcml, line {line}', text)
        self.assertIn(reason, text)
        self.assertNotRegex(text, r'zope\.|Traceback|Validation|NotSatisfied|Invalid[A-Z]|Required|TooS|TooB|Wrong')
        return text


class TestModules(ModuleTestCase):

    def test_all_tasks_of_a_module_beside_the_file(self):
        name = self.module(FILMS)
        self.load(f'<remotetask:tasks module="{name}" />')
        self.assertEqual({name for name, _ in self.registry.getUtilitiesFor(ITask)}, {'resize', 'cut', 'upper'})
        found = queryUtility(ITask, 'resize')
        self.assertIs(found, sys.modules[name].resize)
        self.assertEqual((found(None, 1, 'a'), queryUtility(ITask, 'cut').retryPolicy.attempts), ('resized a', 1))

    def test_a_package_and_its_modules(self):
        name = self.module('from lovely.remotetask.demo import echo\n')     # for a name
        package = self.directory / f'{name}_package'
        package.mkdir()
        (package / 'one.py').write_text('from lovely.remotetask.task import task\n@task\ndef one(input): pass\n')
        (package / '__init__.py').write_text(f'from {package.name}.one import one\nfrom test_tasks import doubled\n')
        self.load(f'<remotetask:tasks module="{package.name}" />')
        self.assertEqual([name for name, _ in self.registry.getUtilitiesFor(ITask)], ['one'])
        self.assertEqual([one.name for one in declaredIn(sys.modules[f'{package.name}.one'])], ['one'])

    def test_relative_to_a_package(self):
        self.load('<include package="lovely.remotetask" />')
        self.failed(5, "'.demo' begins with a dot", '', '<remotetask:tasks module=".demo" />')
        self.failed(5, 'lovely.remotetask.demo (', '',
                    '<configure package="lovely.remotetask"><remotetask:tasks module=".demo" /></configure>')

    def test_a_handler_beside_the_file(self):
        name = self.module(FILMS)
        self.load(f'<remotetask:task name="small" handler="{name}.resize" timeLimit="5s" attempts="2" />',
                  f'<remotetask:task name="big" handler="{name}.resize" />')
        small = queryUtility(ITask, 'small')
        self.assertEqual((small.timeLimit, small.retryPolicy.attempts, small(None, 1, 'a')), (5.0, 2, 'resized a'))
        self.assertIs(queryUtility(ITask, 'big'), sys.modules[name].resize)
        self.assertEqual(queryUtility(ITask, 'big').timeLimit, 60)

    def test_what_is_wrong_in_the_module(self):
        begin = 'from lovely.remotetask.task import task\n'
        for text, line, reason in (
                (begin + '@task(timeLimt=3)\ndef f(input): pass', 2, "there is no option 'timeLimt'; did you mean"),
                (begin + '\n@task(inputSchema=None)\ndef f(input): pass', 3, 'inputSchema: None is not an interface'),
                (begin + '@task\ndef f(one, two): pass', 2, 'f can be called neither'),
                (begin + '@task\ndef f(input): pass\n@task\ndef f(input): pass', 4,
                 "the name 'f' is taken by the task in line 2"),
                (begin + '@task\ndef f(input): pass\n@task("f")\ndef g(input): pass', 4, "the name 'f' is taken"),
                ('\n\ndef f(input) pass', 3, 'SyntaxError'),
                ('\nimport no_such_library', 2, "No module named 'no_such_library'"),
                ('def f(): return 1 / 0\n\nf()', 3, 'ZeroDivisionError')):
            with self.subTest(reason):
                name = self.module(text)
                for directive in (f'<remotetask:tasks module="{name}" />',
                                  f'<remotetask:task name="x" handler="{name}.f" />'):
                    said = self.failed(5, reason, '', directive)
                    self.assertIn(f'{self.directory}/{name}.py, line {line}: ', said)

    def test_no_module_and_no_task(self):
        name = self.module('x = 5')
        for module, reason in (('no_such_films', "there is no module 'no_such_films'; modules are looked for beside"),
                               (name, 'declares no task: write @task before a function, after "from lovely'),
                               ('', 'it is empty'), ('a b', "'a b' is not the dotted name of a module")):
            self.failed(4, reason, f'<remotetask:tasks module="{module}" />')
        self.failed(4, "there is no attribute 'modul'; did you mean 'module'?", f'<remotetask:tasks modul="{name}" />')
        self.failed(4, "the attribute 'module' is missing", '<remotetask:tasks />')

    def test_a_module_of_python_is_not_replaced(self):
        name = self.module(FILMS, 'colorsys')
        self.failed(4, f'give {self.directory}/{name}.py another name', f'<remotetask:tasks module="{name}" />')

    def test_a_name_that_is_taken(self):
        name = self.module(FILMS)
        with self.assertRaises(ConfigurationError) as caught:
            self.load(f'<remotetask:tasks module="{name}" />',
                      f'<remotetask:task name="cut" handler="{name}.resize" />')
        for line in 4, 5:
            self.assertIn(f'{self.directory}/site.zcml, line {line}', str(caught.exception))

    def test_declared_again(self):
        name = self.module(FILMS)
        sys.path.append(str(self.directory))
        module = importlib.import_module(name)
        (self.directory / f'{name}.py').write_text('\n\n' + FILMS)
        importlib.reload(module)
        self.assertEqual([one.name for one in declaredIn(module)], ['cut', 'resize', 'upper'])

    def test_a_directory_of_a_package_is_left_alone(self):
        zcml.loadSite(pathlib.Path(lovely.remotetask.__file__).parent / 'configure.zcml')
        self.assertNotIn(str(pathlib.Path(lovely.remotetask.__file__).parent), sys.path)


class TestChildProcesses(ModuleTestCase):

    level = 2

    def test_one_argument_or_three(self):
        for function, result in ((alone, ['alone', 5]), (withService, ['ChildService', 1, 5]),
                                 (doubled, 10), (numbered, ['ChildService', 1, 5]), (byHand, ['plain', 5]),
                                 (doubled.having(timeLimit=40), 10)):
            with self.subTest(function):
                self.assertEqual(runInChild(function, 1, 5), result)

    def test_a_module_beside_the_file(self):
        name = self.module(FILMS)
        self.load(f'<remotetask:tasks module="{name}" />')
        self.assertEqual(runInChild(queryUtility(ITask, 'upper'), 1, 'film'), 'FILM')


class TestAttributes(ModuleTestCase):
    """What is said of wrong attributes."""

    def test_values(self):
        for attributes, reason in (
                ('handlr="HERE"', "there is no attribute 'handlr'; did you mean 'handler'?"),
                ('handler="HERE" time_limit="3"', "no attribute 'time_limit'; did you mean 'timeLimit'?"),
                ('handler="HERE" colour="red"', "'colour'.  The attributes are name, handler, inputSchema, "),
                ('handler="HERE" isolation="prcess"', "'prcess' is not 'thread' or 'process'"),
                ('handler="HERE" attempts="three"', "'three' is not a whole number"),
                ('handler="HERE" attempts="0"', "'0' is less than 1"),
                ('handler="HERE" retryFactor="much"', "'much' is not a number"),
                ('handler="HERE" retryJitter="2"', "'2' is not from 0.0 to 1.0"),
                ('handler="HERE" atMostOnce="perhaps"', "'perhaps' is neither yes nor no"),
                ('handler="HERE" retryOn="Oops"', "there is no module 'Oops'"),
                ('handler="HERE" retryOn="test_tasks.Oops"', "the module test_tasks has no 'Oops'"),
                ('handler="HERE" inputSchema="test_tasks.alone"', 'test_tasks.alone is not an interface'),
                ('handler="test_tasks.alne"', "the module test_tasks has no 'alne'"),
                ('handler="not a name"', "'not a name' is not a dotted name"),
                ('handler="no_such_films.resize"', "there is no module 'no_such_films'")):
            with self.subTest(attributes):
                self.failed(4, reason, f'<remotetask:task name="x" {attributes.replace("HERE", "test_tasks.alone")} />')
        for attributes, reason in (('comand="ls"', "there is no attribute 'comand'; did you mean 'command'?"),
                                   ('command="ls" result="all"', "'all' is not 'report' or 'file'"),
                                   ('command="ls" text="a,b"', "'a,b' is not the name of a field")):
            with self.subTest(attributes):
                self.failed(4, reason, f'<remotetask:command name="x" {attributes} />')

    def test_an_application_that_loads_its_own_files_is_told_the_same(self):
        context = xmlconfig.file('meta.zcml', lovely.remotetask)
        with self.assertRaisesRegex(ZCMLError, "there is no attribute 'handlr'; did you mean 'handler'?"):
            xmlconfig.string(SITE % '<remotetask:task name="x" handlr="test_tasks.alone" />', context)
        context = xmlconfig.file('meta.zcml', lovely.remotetask)
        xmlconfig.string(SITE % '<remotetask:tasks module="test_tasks" />', context)
        self.assertIs(queryUtility(ITask, 'doubled'), doubled)

    def test_a_wrong_task_object_is_refused_where_it_stands(self):
        name = self.module('from lovely.remotetask.task import SimpleTask\n'
                           'wrong = SimpleTask(len)\n'
                           'wrong.timeLimit = -1\n')
        self.failed(4, "its timeLimit, -1, is not", f'<remotetask:task name="x" handler="{name}.wrong" />')

    def test_options_are_spelt_as_in_python(self):
        self.assertLessEqual(set(NAMES) - {'retryPolicy'}, set(getFieldNames(zcml.ITaskDirective)))

    def test_meta_knows_all_attributes(self):
        for name in 'Task', 'Tasks', 'Command':
            schema, lenient = getattr(zcml, f'I{name}Directive'), getattr(zcml, f'I{name}Attributes')
            self.assertEqual(getFieldNames(schema), getFieldNames(lenient))


class TestReference(unittest.TestCase):
    """tasks.txt tells of each option and each attribute once."""

    def setUp(self):
        self.text = (pathlib.Path(lovely.remotetask.__file__).parent / 'documents' / 'tasks.txt').read_text()

    def told(self, text):
        """Return the terms of all definitions, and what stands in the first two columns of tables."""
        terms = re.findall(r'^(``\w+``(?:, ``\w+``)*)\n {4}\S', text, re.MULTILINE)
        rows = re.findall(r'^``(\w+)`` +``(\w+)`` ', text, re.MULTILINE)
        return [name for term in terms for name in re.findall(r'\w+', term)], rows

    def test_options(self):
        told, rows = self.told(self.text)
        self.assertEqual(sorted(told), sorted({*NAMES, *(
            name for schema in (zcml.ITaskDirective, zcml.ITasksDirective, zcml.ICommandDirective)
            for name in getFieldNames(schema) if name not in dict(map(reversed, rows)))}))
        self.assertEqual({attribute: field for field, attribute in rows}, zcml._POLICY)
        self.assertEqual([field for field, _ in rows], [field.name for field in dataclasses.fields(RetryPolicy)])

    def test_attributes_stand_below_their_directive(self):
        parts = re.split(r'^``<remotetask:(\w+)>``$', self.text.partition('\nMistakes\n')[0], flags=re.MULTILINE)
        for directive, text in zip(parts[1::2], parts[2::2]):
            schema = getattr(zcml, f'I{directive.capitalize()}Directive')
            told, _ = self.told(text)
            self.assertLessEqual(set(told), set(getFieldNames(schema)))
        self.assertEqual(parts[1::2], ['tasks', 'task', 'command'])


if __name__ == '__main__':
    unittest.main()
