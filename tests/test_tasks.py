"""Tasks as they are declared in Python: functions, options, the decorator, and jobs added by a task."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import inspect
import pickle
import unittest

import transaction
from ZODB.broken import find_global
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage
from zope.component import hooks
from zope.component import provideUtility
from zope.component import queryUtility
from zope.component.testing import PlacelessSetup
from zope.interface import Interface
from zope.interface import implementer
from zope.interface import invariant
from zope.interface import provider
from zope.interface.interfaces import ComponentLookupError
from zope.interface.verify import verifyObject
from zope.schema import Int

from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.execution.tasks import lacking
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.options import NAMES
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import install
from lovely.remotetask.task import DeclaredTask
from lovely.remotetask.task import SimpleTask
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


def logged(function):
    """A decorator."""
    return functools.wraps(function)(lambda *arguments: ['logged', function(*arguments)])


class Callable:

    def __call__(self, service, jobid, input):
        return ['callable', jobid, input]

    def method(self, input):
        return ['method', input]


@implementer(ITask)
class Isolated:

    inputSchema = outputSchema = Interface
    isolation = 'process'

    def __call__(self, service, jobid, input):
        """Return nothing."""


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
    'mask': ((('iban', '*_pin'), ['iban'], ()), (('iban', "'iban' is not a list of names"), ((1,), 'is not a list'),
                                                 ([''], 'is not a list'))),
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
                (lambda input, *, mode: None, "argument: 'mode')"),        # "keyword-only" since Python 3.14
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

    def test_attributes_of_the_function_are_no_options(self):
        @provider(Interface)
        def some(input):
            return input
        some.timeLimit, some.name, some.inputSchema = -5, 'other', None
        declared = task(timeLimit=3)(some)
        self.assertEqual((declared.timeLimit, declared.name, declared.inputSchema), (3, 'some', Interface))
        self.assertTrue(ITask.providedBy(declared))

    def test_a_function_with_other_decorators(self):
        self.assertEqual(task(logged(alone))(None, 1, 5), ['logged', ['alone', 5]])
        self.assertEqual(task(logged(withService))('x', 1, 5), ['logged', ['str', 1, 5]])

    def test_within_functions_names_are_free(self):
        def one():
            @task
            def some(input):
                return 1
            return some

        def two():
            @task
            def some(input):
                return 2
            return some
        self.assertEqual((one()(None, 1, 0), two()(None, 1, 0)), (1, 2))

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

class TestLacking(unittest.TestCase):
    """What a host lacks holds up no job of another task, whatever becomes of the task that is asked."""

    def lacking(self, task):
        service = TaskService()
        service.ownTasks = {'film': task}
        return lacking(service, 'host', 'film')

    def test_a_task_that_lacks_nothing(self):
        self.assertIsNone(self.lacking(SimpleTask(alone)))

    def test_a_missing_that_fails(self):
        film = SimpleTask(alone)
        film.missing = lambda: 1 / 0
        self.assertIn("host lacks what 'film' needs, which its method missing cannot say: ZeroDivisionError",
                      self.lacking(film))

    def test_a_task_from_the_database_whose_class_is_gone(self):
        self.assertEqual(self.lacking(find_global('films', 'Film')()), 'host lacks the class films.Film')


if __name__ == '__main__':
    unittest.main()
