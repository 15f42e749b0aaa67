"""The directives that register tasks, and site definitions: what works, and what is said when it does not."""
# SPDX-License-Identifier: ZPL-2.1
import dataclasses
import os
import tempfile
import unittest

import transaction
import zope.component.event  # noqa: F401  makes `notify` reach the subscribers
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage
from zope.component import getSiteManager
from zope.component import queryUtility
from zope.configuration.config import ConfigurationMachine
from zope.event import notify
from zope.interface import Interface
from zope.interface import implementer
from zope.interface import provider
from zope.interface.registry import Components
from zope.processlifetime import DatabaseOpenedWithRoot
from zope.schema import Int

from lovely.remotetask.config.products import setProductConfigurations
from lovely.remotetask.config.zcml import loadSite
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.execution import started
from lovely.remotetask.execution.command import CommandTask
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.retry import DEFAULT
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import StartRemoteTasksEvent
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask


class INumbers(Interface):
    """An input, or a result."""

    number = Int()


def double(input):
    return {'number': 2 * input['number']}


def threeArguments(service, jobid, input):
    return [service, jobid, input]


def twoArguments(jobid, input):
    """It is no task."""


@provider(ITask)
def declared(service, jobid, input):
    return jobid


@implementer(ITask)
class Task:

    inputSchema = outputSchema = Interface

    def __call__(self, service, jobid, input):
        return 'of a class'


class NoTask:
    pass


@implementer(ITask)
class NeedsAnArgument(Task):

    def __init__(self, argument):
        self.argument = argument


task = Task()

nameless = lambda input: input  # noqa: E731  no name that an import would find


class Nameless(Task):

    def __init__(self):
        self.function = nameless


isolated = Nameless()
isolated.isolation = 'process'


SITE = '''<configure
  xmlns="http://namespaces.zope.org/zope"
  xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">
%s
</configure>
'''


class SiteTestCase(unittest.TestCase):

    def setUp(self):
        # A registry of our own instead of the global one.
        self.registry = Components('test')
        previous = getSiteManager.sethook(lambda context=None: self.registry)
        self.addCleanup(getSiteManager.sethook, previous)
        self.directory = os.path.realpath(self.enterContext(tempfile.TemporaryDirectory()))
        self.path = os.path.join(self.directory, 'site.zcml')

    def write(self, name, body):
        path = os.path.join(self.directory, name)
        with open(path, 'w', encoding='utf-8') as file:
            file.write(SITE % body if '<configure' not in body else body)
        return path

    def load(self, body):
        return loadSite(self.write('site.zcml', body.replace('HERE', __name__)))

    def failed(self, body, line, *reasons):
        """Loading says file, line and reason, without a traceback."""
        with self.assertRaises(ConfigurationError) as caught:
            self.load(body)
        text = str(caught.exception)
        self.assertIn(f'{self.path}, line {line}', text)
        for reason in reasons:
            self.assertIn(reason, text)
        self.assertNotIn('Traceback', text)
        return text


class TestTask(SiteTestCase):

    def test_function(self):
        self.load('<remotetask:task name="double" handler="HERE.double" />')
        task = queryUtility(ITask, 'double')
        self.assertIsInstance(task, SimpleTask)
        self.assertEqual(task(None, 1, {'number': 2}), {'number': 4})
        self.assertIs(task.inputSchema, Interface)
        self.assertIs(task.outputSchema, Interface)

    def test_schemas(self):
        self.load('<remotetask:task name="double" handler="HERE.double" inputSchema="HERE.INumbers" />'
                  '<remotetask:task name="out" handler="HERE.double" outputSchema="HERE.INumbers" />')
        self.assertEqual((queryUtility(ITask, 'double').inputSchema, queryUtility(ITask, 'double').outputSchema),
                         (INumbers, Interface))
        self.assertEqual((queryUtility(ITask, 'out').inputSchema, queryUtility(ITask, 'out').outputSchema),
                         (Interface, INumbers))

    def test_a_task_is_registered_as_it_is(self):
        self.load('<remotetask:task name="object" handler="HERE.task" />'
                  '<remotetask:task name="function" handler="HERE.declared" />')
        self.assertIs(queryUtility(ITask, 'object'), task)
        self.assertIs(queryUtility(ITask, 'function'), declared)

    def test_a_class_is_instantiated(self):
        self.load('<remotetask:task name="class" handler="HERE.Task" />')
        self.assertIs(type(queryUtility(ITask, 'class')), Task)

    def test_a_builtin_function(self):
        self.load('<remotetask:task name="length" handler="builtins.len" />')
        self.assertEqual(queryUtility(ITask, 'length')(None, 1, 'abc'), 3)

    def test_wrong_handlers(self):
        for handler, reason in (('HERE.twoArguments', 'can be called neither with the input alone'),
                                ('HERE.NoTask', 'NoTask is neither a function'),
                                ('HERE.SITE', 'an object of str is neither a function'),
                                ('os.environ', 'an object of _Environ is neither a function'),
                                ('HERE.nothing', 'nothing'),
                                ('no.such.module', 'no.such'),
                                ('not a name', 'not a name'),
                                ('*', 'neither a function'),
                                ('HERE.NeedsAnArgument', 'argument')):
            with self.subTest(handler=handler):
                text = self.failed(f'\n<remotetask:task name="x" handler="{handler}" />', 5,
                                   reason.replace('HERE', __name__))
                self.assertNotIn('/bin', text)              # os.environ: its contents are not for the log
        self.assertIsNone(queryUtility(ITask, 'x'))

    def test_schemas_are_for_functions(self):
        for handler in ('task', 'Task'):
            self.failed(f'<remotetask:task name="x" handler="HERE.{handler}" inputSchema="HERE.INumbers" />', 4,
                        'schemas of its own')
        self.failed('<remotetask:task name="x" handler="HERE.double" inputSchema="HERE.double" />', 4, 'inputSchema')

    def test_attributes(self):
        self.failed('<remotetask:task handler="HERE.double" />', 4, "the attribute 'name' is missing")
        self.failed('<remotetask:task name="" handler="HERE.double" />', 4, "Invalid value for 'name'")
        self.failed('<remotetask:task name="x" />', 4, "the attribute 'handler' is missing")
        self.failed('<remotetask:task name="x" handler="HERE.double" schema="HERE.INumbers" />', 4, "'schema'")


class TestRunOptions(SiteTestCase):

    def made(self, attributes, handler='HERE.double'):
        self.load(f'<remotetask:task name="x" handler="{handler}" {attributes} />')
        return queryUtility(ITask, 'x')

    def test_none(self):
        for handler in 'HERE.double', 'HERE.Task':
            self.assertFalse({'isolation', 'memoryLimit', 'timeLimit', 'atMostOnce', 'retryPolicy'}
                             & set(vars(self.made('', handler))))

    def test_limits(self):
        made = self.made('isolation="process" memoryLimit="512MB" timeLimit="10m" atMostOnce="yes"')
        self.assertEqual((made.isolation, made.memoryLimit, made.timeLimit, made.atMostOnce),
                         ('process', 512 << 20, 600.0, True))
        made = self.made('isolation="thread" timeLimit="1.5" atMostOnce="false"', 'HERE.Task')
        self.assertEqual((made.isolation, made.timeLimit, made.atMostOnce), ('thread', 1.5, False))

    def test_retries(self):
        policy = self.made('attempts="7" retryBase="1s" retryCap="1h" retryFactor="3" retryJitter="0.25" '
                           'retryOn="OSError builtins.LookupError" neverRetryOn="KeyError"').retryPolicy
        self.assertEqual(policy, RetryPolicy(7, 1.0, 3.0, 3600.0, 0.25, (OSError, LookupError), (KeyError,)))
        self.assertEqual(self.made('attempts="1"', 'HERE.Task').retryPolicy, dataclasses.replace(DEFAULT, attempts=1))
        # At once, and after no exception at all: not what an attribute means that is left out.
        self.assertEqual(self.made('retryBase="0" retryCap="0s" retryJitter="0" retryOn=""').retryPolicy,
                         dataclasses.replace(DEFAULT, base=0, cap=0, jitter=0, retryOn=()))

    def test_commands(self):
        self.load('<remotetask:command name="x" command="true" atMostOnce="yes" attempts="2" />')
        made = queryUtility(ITask, 'x')
        self.assertEqual((made.atMostOnce, made.retryPolicy.attempts), (True, 2))
        for attribute in 'isolation="process"', 'memoryLimit="1GB"', 'timeLimit="1s"':
            self.failed(f'<remotetask:command name="x" command="true" {attribute} />', 4, attribute.split('=')[0])

    def test_bad_values(self):
        for attributes, reason in (
                ('isolation="container"', "'isolation'"),
                ('isolation="process" memoryLimit="much"', "'much' is not a size"),
                ('isolation="process" memoryLimit="0"', "'memoryLimit'"),
                ('memoryLimit="1GB"', "isolation='process'"),
                ('isolation="thread" memoryLimit="1GB"', "isolation='process'"),
                ('timeLimit="0"', "'0' is not a time above 0"),
                ('retryBase="-1"', "'-1' is not a time"),
                ('retryFactor="nan"', 'factor: nan'),
                ('retryJitter="nan"', 'jitter: nan'),
                ('attempts=""', "'attempts'"),
                ('atMostOnce="perhaps"', "'atMostOnce'"),
                ('attempts="0"', "'attempts'"),
                ('retryBase="soon"', "'retryBase'"),
                ('retryFactor="0.5"', 'factor: 0.5'),
                ('retryJitter="2"', "'retryJitter'"),
                ('retryOn="no.such.Error"', "'retryOn'"),
                ('retryOn="HERE.Task"', 'retryOn')):
            with self.subTest(attributes=attributes):
                self.failed(f'\n<remotetask:task name="x" handler="HERE.double" {attributes} />', 5, reason)

    def test_what_cannot_run_in_a_process(self):
        for handler in 'HERE.nameless', 'HERE.Nameless', 'HERE.isolated':
            isolation = '' if handler == 'HERE.isolated' else 'isolation="process"'
            self.failed(f'<remotetask:task name="x" handler="{handler}" {isolation} />', 4,
                        'cannot run in a child process')

    def test_a_task_that_is_registered_as_it_is(self):
        for attributes in 'isolation="thread"', 'timeLimit="1s"', 'atMostOnce="yes"', 'attempts="2"':
            for handler in 'HERE.task', 'HERE.declared':
                self.failed(f'<remotetask:task name="x" handler="{handler}" {attributes} />', 4, 'of its own')


class TestCommand(SiteTestCase):

    def command(self, attributes):
        self.load(f'<remotetask:command name="x" {attributes} />')
        task = queryUtility(ITask, 'x')
        self.assertIsInstance(task, CommandTask)
        return task

    def test_defaults(self):
        task = self.command('command="echo {a} {b}"')
        self.assertEqual((task.command, task.directory, task.paths, task.timeout),
                         ('echo {a} {b}', None, frozenset(), 3600.0))
        self.assertEqual(task(None, 1, {'a': 'x y', 'b': 2})['output'], 'x y 2\n')

    def test_lines(self):
        self.assertEqual(self.command('command="echo {a}\n   {b}"').fields, ('a', 'b'))

    def test_directory_is_relative_to_the_file(self):
        self.assertEqual(self.command('command="x" directory="../media"').directory,
                         os.path.join(os.path.dirname(self.directory), 'media'))
        self.assertEqual(self.command('command="x" directory="/data"').directory, '/data')

    def test_text(self):
        task = self.command('command="x {a} {b} {c} {d}" directory="." text="a\n c"')
        self.assertEqual(task.paths, {'b', 'd'})

    def test_files(self):
        task = self.command('command="x {a} {b} {c}" directory="." text="a" files="b"')
        self.assertEqual((task.paths, task.files), ({'c'}, {'b'}))

    def test_result(self):
        self.assertEqual(self.command('command="x"').result, 'report')
        self.assertEqual(self.command('command="x" result="file"').result, 'file')

    def test_timeout(self):
        for text, seconds in (('90', 90), ('90s', 90), ('1.5s', 1.5), (' 10m ', 600), ('2h', 7200), ('1d', 86400),
                              ('2H', 7200)):
            with self.subTest(text=text):
                timeout = self.command(f'command="x" timeout="{text}"').timeout
                self.assertEqual(timeout, seconds)
                self.assertIs(type(timeout), float)

    def test_bad_values(self):
        for attributes, reasons in (
                ('', ["the attribute 'command' is missing"]),
                ('command=""', ['the command is empty']),
                ('command="x {a"', ["command 'x {a'"]),
                ('command="x {a.b}"', ['a field is {name}']),
                ('command="{a}"', ['the program itself cannot be a field']),
                ('command="x {a}" text="b"', ["text names 'b'"]),
                ('command="x {a}" text="a,b"', ["'text'", 'a,b']),
                ('command="x {a}" files="b"', ["files names 'b'"]),
                ('command="x" result="all"', ["'result'", 'all']),
                ('command="x" timeout="soon"', ["'timeout'", "'soon' is not a time"]),
                ('command="x" timeout="1w"', ["'timeout'", "'1w' is not a time"]),
                ('command="x" timeout=""', ["'timeout'", "'' is not a time"]),
                ('command="x" timeout="0"', ["'0' is not a time above 0"]),
                ('command="x" timeout="-5m"', ["'-5m' is not a time"])):
            with self.subTest(attributes=attributes):
                self.failed(f'\n\n<remotetask:command name="x" {attributes} />', 6, *reasons)


class TestConflicts(SiteTestCase):

    def test_the_plain_directive(self):
        self.load(f'<utility provides="{ITask.__identifier__}" name="x" component="HERE.task" />')
        self.assertIs(queryUtility(ITask, 'x'), task)

    def test_a_name_is_taken_once(self):
        ours = '<remotetask:task name="x" handler="HERE.double" />'
        command = '<remotetask:command name="x" command="true" />'
        plain = f'<utility provides="{ITask.__identifier__}" name="x" component="HERE.task" />'
        for first, second in ((ours, ours), (ours, command), (ours, plain), (plain, ours), (command, plain)):
            with self.subTest(first=first, second=second):
                text = self.failed(f'{first}\n{second}', 4, 'Conflict', "'x'")
                self.assertIn(f'{self.path}, line 5', text)
                self.assertIsNone(queryUtility(ITask, 'x'))

    def test_a_name_in_two_included_files(self):
        one = self.write('one.zcml', '<remotetask:command name="x" command="true" />')
        two = self.write('two.zcml', '\n<remotetask:command name="x" command="false" />')
        with self.assertRaises(ConfigurationError) as caught:
            self.load('<include file="one.zcml" /><include file="two.zcml" />')
        self.assertIn(f'{one}, line 4', str(caught.exception))
        self.assertIn(f'{two}, line 5', str(caught.exception))

    def test_the_including_file_wins(self):
        self.load('<include package="lovely.remotetask" />\n<remotetask:task name="echo" handler="HERE.double" />')
        self.assertIs(queryUtility(ITask, 'echo').func, double)


class TestAutostart(SiteTestCase):

    def test_including_the_package_is_enough(self):
        db = DB(MappingStorage())
        self.addCleanup(db.close)
        install(db)
        self.addCleanup(setProductConfigurations, {})
        setProductConfigurations({'lovely.remotetask': {'autostart': '@TaskService'}})
        self.load('<include package="lovely.remotetask" />')
        connection = db.open()
        self.addCleanup(connection.close)
        self.addCleanup(transaction.abort)
        service = connection.root()['Application']['TaskService']
        self.assertIs(service.isProcessing(), False)
        self.addCleanup(started.stopAll)
        for event in DatabaseOpenedWithRoot(db), StartRemoteTasksEvent(db):
            with self.assertLogs('lovely.remotetask', 'INFO') as logged:
                notify(event)
            self.assertIs(service.isProcessing(), True)
            self.assertEqual([record.getMessage() for record in logged.records],
                             ['handling event IStartRemoteTasksEvent', 'service TaskService on site root started'])
            service.stopProcessing()
            self.assertIs(service.isProcessing(), False)

    def test_the_transaction_is_the_callers(self):
        db = DB(MappingStorage())
        self.addCleanup(db.close)
        connection = db.open()
        self.addCleanup(connection.close)
        self.addCleanup(transaction.abort)
        self.addCleanup(setProductConfigurations, {})
        self.load('<include package="lovely.remotetask" />')
        self.addCleanup(started.stopAll)
        connection.root()['x'] = 1
        for patterns in '', '*@*':              # there is no root folder, either
            setProductConfigurations({'lovely.remotetask': {'autostart': patterns}})
            with self.assertLogs('lovely.remotetask', 'INFO') as logged:
                notify(DatabaseOpenedWithRoot(db))
        self.assertEqual(logged.records[-1].getMessage(), 'there is no root folder Application in the database')
        self.assertEqual(connection.root()['x'], 1)


class TestLoadSite(SiteTestCase):

    def test_package(self):
        context = self.load('<include package="lovely.remotetask" />')
        self.assertEqual(queryUtility(ITask, 'echo')(None, 1, {'a': [1]}), {'a': [1]})
        self.assertIsInstance(context, ConfigurationMachine)

    def test_twice(self):
        for _ in range(2):
            self.load('<include package="lovely.remotetask" />')
        self.assertIsNotNone(queryUtility(ITask, 'echo'))

    def test_a_relative_path(self):
        self.write('site.zcml', '<remotetask:command name="x" command="x" directory="media" />')
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        loadSite('site.zcml')
        self.assertEqual(queryUtility(ITask, 'x').directory, os.path.join(self.directory, 'media'))

    def test_missing_file(self):
        with self.assertRaises(ConfigurationError) as caught:
            loadSite(self.path)
        self.assertEqual(str(caught.exception), f'{self.path}: No such file or directory')

    def test_a_directory(self):
        with self.assertRaises(ConfigurationError) as caught:
            loadSite(self.directory)
        self.assertIn(self.directory, str(caught.exception))

    def test_bad_xml(self):
        self.failed('<configure>\n  <configure>\n', 3, 'not well-formed XML')
        self.failed('<remotetask:task name="x>', 5, 'not well-formed XML')
        self.failed('<other:task />', 4, 'not well-formed XML', 'prefix')
        with self.assertRaises(ConfigurationError) as caught:
            self.load('<configure\n>')
        self.assertIn(self.path, str(caught.exception))
        open(self.path, 'w').close()
        with self.assertRaises(ConfigurationError) as caught:
            loadSite(self.path)
        self.assertIn(self.path, str(caught.exception))

    def test_bad_encoding(self):
        with open(self.path, 'wb') as file:
            file.write((SITE % '<!-- X -->').encode().replace(b'X', b'\xff'))
        with self.assertRaises(ConfigurationError) as caught:
            loadSite(self.path)
        self.assertIn(self.path, str(caught.exception))

    def test_unknown_directive(self):
        self.failed('<remotetask:tusk name="x" />', 4, "there is no directive 'tusk'; did you mean 'task'?  The")
        self.failed('<tusk name="x" />', 4, "there is no directive 'tusk' in the namespace 'http://namespaces.zope.org/")

    def test_missing_includes(self):
        self.failed('<include file="missing.zcml" />', 4, os.path.join(self.directory, 'missing.zcml'))
        self.failed('<include package="no.such.package" />', 4, 'no.such.package'.split('.')[0])

    def test_errors_of_included_files(self):
        inner = self.write('inner.zcml', '\n\n<remotetask:command name="x" command="x {a" />')
        middle = self.write('middle.zcml', '\n<include file="inner.zcml" />')
        text = self.failed('<include file="middle.zcml" />', 4, "command 'x {a'")
        lines = text.splitlines()
        self.assertTrue(lines[0].startswith(f"{inner}, line 6: command 'x {{a'"), text)
        self.assertEqual(lines[1:], [f'    included by {middle}, line 5', f'    included by {self.path}, line 4'])

        self.write('inner.zcml', '\n\n<remotetask:command name="x" command="x" timeout="x" />')
        lines = self.failed('<include file="middle.zcml" />', 4, "'x' is not a time").splitlines()
        self.assertTrue(lines[0].startswith(f"{inner}, line 6: Invalid value for 'timeout'"), lines)
        self.assertEqual(lines[1:], [f'    included by {middle}, line 5', f'    included by {self.path}, line 4'])

        self.write('inner.zcml', '<configure>\n<')
        lines = self.failed('<include file="middle.zcml" />', 4, 'not well-formed XML').splitlines()
        self.assertTrue(lines[0].startswith(f'{inner}, line 2: '), lines)
        self.assertEqual(lines[1:], [f'    included by {middle}, line 5', f'    included by {self.path}, line 4'])

    def test_the_cause_is_kept(self):
        with self.assertRaises(ConfigurationError) as caught:
            self.load('<remotetask:command name="x" command="" />')
        self.assertIsNotNone(caught.exception.__cause__)


if __name__ == '__main__':
    unittest.main()
