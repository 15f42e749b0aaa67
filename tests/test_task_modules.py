"""Tasks as ZCML finds them: modules, attributes, what is said of mistakes, and the reference of all that."""
# SPDX-License-Identifier: ZPL-2.1
import dataclasses
import importlib
import os
import pathlib
import re
import sys
import tempfile
import unittest

from zope.component import getSiteManager
from zope.component import queryUtility
from zope.configuration import xmlconfig
from zope.configuration.exceptions import ConfigurationError as ZCMLError
from zope.interface.registry import Components
from zope.schema import getFieldNames

import lovely.remotetask
from lovely.remotetask.config import zcml
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.execution.child import runInChild
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.options import NAMES
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.task import declaredIn
from test_tasks import alone
from test_tasks import byHand
from test_tasks import doubled
from test_tasks import numbered
from test_tasks import withService


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
                (begin + 'from test_tasks import logged\n@task\n@logged\ndef f(input): pass\n\n'
                 '@task\n@logged\ndef f(input): pass', 7, "the name 'f' is taken by the task in line 3"),
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

    def test_a_class_with_options_of_its_own(self):
        self.load('<remotetask:task name="x" handler="test_tasks.Isolated" memoryLimit="1GB" />')
        made = queryUtility(ITask, 'x')
        self.assertEqual((made.isolation, made.memoryLimit), ('process', 1 << 30))

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
