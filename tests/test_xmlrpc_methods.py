"""The table of methods: what is taken, what is refused before anything is touched, what is given."""
# SPDX-License-Identifier: ZPL-2.1
import time
import unittest
from datetime import datetime

from zope.component import provideUtility
from zope.component import testing

from lovely.remotetask import errors
from lovely.remotetask import interfaces
from lovely.remotetask.job import Run
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import tallies
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.xmlrpc import calls
from lovely.remotetask.xmlrpc import methods
from lovely.remotetask.xmlrpc import signature
from lovely.remotetask.xmlrpc.dispatcher import Dispatcher
from lovely.remotetask.xmlrpc.faults import BadArguments
from lovely.remotetask.xmlrpc.faults import UnknownMethod
from lovely.remotetask.xmlrpc.results import plain


def call(service, name, *values):
    """Call a method as the server does."""
    method, arguments = calls.prepare(name, values)
    function = Dispatcher(None, None).funcs[name]
    if method.access == signature.NO_SERVICE:
        return plain(function(*arguments))
    if method.access == signature.REPEATS:
        return function(service, calls.BATCH, time.time(), *arguments)
    return plain(function(service, *arguments))


class TestArguments(unittest.TestCase):

    def assertRefused(self, name, values, sentence):
        with self.assertRaises(BadArguments) as caught:
            calls.prepare(name, values)
        self.assertEqual(str(caught.exception), sentence)

    def test_number(self):
        self.assertRefused('add', (), 'add: the arguments are (task, input, startLater, options), of which the '
                                      'first 1 are required; 0 were given')
        self.assertRefused('add', ('a', 1, True, {}, 1),
                           'add: the arguments are (task, input, startLater, options), of which the first 1 are '
                           'required; 5 were given')
        self.assertRefused('hasJobsWaiting', (1,),
                           'hasJobsWaiting: the arguments are (), of which the first 0 are required; 1 were given')

    def test_types(self):
        for value, given in ((True, 'boolean'), (1.0, 'double'), ('1', 'string'), (None, 'nil'), ([1], 'array'),
                             ({}, 'struct'), (b'', 'base64'), (datetime.now(), 'dateTime.iso8601')):
            for name in ('startJob', 'cancel', 'getStatus', 'getResult', 'getError'):
                self.assertRefused(name, (value,), f'{name}: the argument jobid is to be int, {given} was given')
        self.assertRefused('add', (1,), 'add: the argument task is to be string, int was given')
        self.assertRefused('add', ('a', 1, 1), 'add: the argument startLater is to be boolean, int was given')
        self.assertRefused('addCronJob', ('a', None, 5),
                           'addCronJob: the argument minute is to be array, int was given')
        self.assertRefused('addCronJob', ('a', None, [5, True]),
                           'addCronJob: the argument minute is to be an array of int, boolean was given')
        self.assertRefused('addCronJob', ('a',) + (None,) * 6 + ('x',),
                           'addCronJob: the argument delay is to be double or int, string was given')
        self.assertRefused('clean', (['error', 1],),
                           'clean: the argument status is to be an array of string, int was given')

    def test_defaults(self):
        for values in (('a',), ('a', None), ('a', None, None)):
            method, arguments = calls.prepare('add', values)
            self.assertEqual(arguments, ['a', None, False, {}])
        method, arguments = calls.prepare('addCronJob', ('a', 1, [0], None, [1]))
        self.assertEqual(arguments, ['a', 1, [0], (), [1], (), (), None, {}])

    def test_unknown_methods(self):
        for name in ('', 'nope', 'Add', 'add.__globals__', '__class__', 'system.multicall', 'getStatus.', 'x' * 10000):
            with self.assertRaises(UnknownMethod) as caught:
                calls.prepare(name, ())
            self.assertLess(len(str(caught.exception)), 400)


class TestMethods(unittest.TestCase):

    def setUp(self):
        self.addCleanup(testing.tearDown)
        for name in 'square', 'echo':
            provideUtility(SimpleTask(len), name=name)
        self.service = TaskService()

    def test_get_available_tasks(self):
        self.assertEqual(call(self.service, 'getAvailableTasks'), ['echo', 'square'])

    def test_life_of_a_job(self):
        jobid = call(self.service, 'add', 'echo', {'a': [1, None]}, True)
        self.assertEqual(self.service.jobs[jobid].input, {'a': [1, None]})
        self.assertEqual(call(self.service, 'getStatus', jobid), 'start later')
        self.assertIs(call(self.service, 'hasJobsWaiting'), False)
        self.assertIs(call(self.service, 'startJob', jobid), True)
        self.assertIs(call(self.service, 'startJob', jobid), False)
        self.assertIs(call(self.service, 'hasJobsWaiting'), True)
        self.assertIs(call(self.service, 'getResult', jobid), None)
        self.assertEqual(call(self.service, 'getError', jobid), 'None')
        self.assertIs(call(self.service, 'cancel', jobid), True)
        self.assertEqual(call(self.service, 'getStatus', jobid), 'cancelled')
        ended = call(self.service, 'add', 'echo', 'x')
        self.service.process()
        with self.assertRaises(errors.WrongState):
            call(self.service, 'cancel', ended)

    def test_result_and_error(self):
        jobid = call(self.service, 'add', 'echo')
        self.service.jobs[jobid].output = {1: (2 ** 40, object())}
        self.service.jobs[jobid].error = 'it broke'
        self.assertEqual(call(self.service, 'getResult', jobid), {'1': ['1099511627776', '<object object>']})
        self.assertEqual(call(self.service, 'getError', jobid), 'it broke')

    def test_unknown_task(self):
        for name in ('add', 'addCronJob'):
            with self.assertRaises(errors.UnknownTask):
                call(self.service, name, 'nope')

    def test_unknown_jobs(self):
        for jobid in (1, 0, -1, 2 ** 31 - 1, 2 ** 31, -2 ** 63, 2 ** 63 - 1):
            for name in ('startJob', 'cancel', 'getStatus', 'getResult', 'getError'):
                with self.assertRaises(errors.UnknownJob):
                    call(self.service, name, jobid)

    def test_add_cron_job(self):
        jobid = call(self.service, 'addCronJob', 'echo', 'x', [0, 30], [3], None, [2], [0])
        job = self.service.jobs[jobid]
        self.assertEqual((job.minute, job.hour, job.dayOfMonth, job.month, job.dayOfWeek, job.delay, job.input),
                         ((0, 30), (3,), (), (2,), (0,), None, 'x'))
        jobid = call(self.service, 'addCronJob', 'echo', None, None, None, None, None, None, 1.5)
        self.assertEqual((self.service.jobs[jobid].delay, call(self.service, 'getStatus', jobid)), (1.5, 'delayed'))
        jobid = call(self.service, 'addCronJob', 'echo', None, [], [], [], [], [], None, {
            'crontab': '0 8 * * 1', 'timeZone': 'Europe/Berlin', 'misfire': 7, 'newJobs': True, 'overlap': True,
            'active': False})
        job = self.service.jobs[jobid]
        self.assertEqual((job.hour, job.dayOfWeek, job.timeZone, job.misfire, job.newJobs, job.overlap, job.active),
                         ((8,), (0,), 'Europe/Berlin', 7, True, True, False))
        for arguments, reason in (
                ((None, [61]), 'minute'), ((None, [], [], [], [], [], None, {'nonsense': 1}), "no option 'nonsense'"),
                ((None, [], [], [], [], [], None, {'misfire': 'x'}), 'misfire'),
                ((None, [], [], [], [], [], None, {'crontab': 5}), 'crontab'),
                ((None, [], [], [2], [30]), 'month'), ((None, [], [], [30], [2]), 'no time at all')):
            with self.subTest(reason=reason), self.assertRaisesRegex(BadArguments, 'addCronJob: .*' + reason):
                call(self.service, 'addCronJob', 'echo', *arguments)

    def test_clean_some(self):
        for _ in range(5):
            call(self.service, 'cancel', call(self.service, 'add', 'echo'))
        self.assertEqual([call(self.service, 'cleanSome', None, 2) for _ in range(4)], [2, 2, 1, 0])
        for limit in (0, 1001):
            with self.assertRaisesRegex(BadArguments, 'limit'):
                call(self.service, 'cleanSome', ['error'], limit)

    def test_retry(self):
        jobids = [call(self.service, 'add', 'echo', 5) for _ in range(3)]      # an int has no length
        self.service.process(0)
        for now in range(1, 100, 20):
            self.service.process(now)
        with self.assertRaises(errors.WrongState):
            call(self.service, 'retry', call(self.service, 'add', 'echo', 'x'))
        self.assertIs(call(self.service, 'retry', jobids[0]), True)
        self.assertEqual(call(self.service, 'getStatus', jobids[0]), 'queued')
        self.assertEqual(call(self.service, 'retryFailed', 'square'), 0)
        self.assertEqual(call(self.service, 'retryFailed', 'echo'), 2)
        self.assertEqual(call(self.service, 'retryFailed'), 0)

    def test_bulk(self):
        for number in range(3):
            call(self.service, 'add', 'echo', str(number))
        self.assertEqual(call(self.service, 'countBulk', 'cancel', 'task:echo'), {'count': 3, 'whole': True})
        self.assertEqual(call(self.service, 'countBulk', 'remove', ''), {'count': 0, 'whole': True})
        _, arguments = calls.prepare('addBulk', ['cancel', 'input.a:b'])
        job = self.service.jobs[methods.addBulk(self.service, *arguments, None)]
        self.assertEqual((job.task, job.input['user'], job.input['expected']), ('remotetask.bulk', 'anybody', 0))
        job = self.service.jobs[methods.addBulk(self.service, 'cancel', '', 7, 'ann')]
        self.assertEqual((job.input['user'], job.input['expected']), ('ann', 7))
        provideUtility(SimpleTask(str, mask=['iban']), name='pay')
        before = len(self.service.jobs)
        for verb, filter, expected, reason in (('delete', '', None, 'verb: '), ('retry', 'state:x', None, 'filter: '),
                                               ('retry', 'input.password:x', None, 'filter: password is a secret'),
                                               ('retry', 'input.iban:x', None, 'filter: iban is a secret'),
                                               ('retry', 'input.iban:x', 7, 'filter: iban is a secret'),
                                               ('retry', '', -1, 'expected: ')):
            with self.subTest(reason), self.assertRaisesRegex(BadArguments, 'addBulk: ' + reason):
                methods.addBulk(self.service, verb, filter, expected, None)
        self.assertEqual(len(self.service.jobs), before)

    def test_get_progress(self):
        seen = []

        def work(service, jobid, input):
            service.setProgress(jobid, input, 'half')
            seen.append(call(service, 'getProgress', jobid))

        provideUtility(work, interfaces.ITask, name='work')
        jobid = call(self.service, 'add', 'work', 0.5)
        call(self.service, 'add', 'work', None)
        self.assertIsNone(call(self.service, 'getProgress', jobid))
        self.service.process()
        self.assertEqual(sorted(seen, key=str), [{'fraction': 0.5, 'message': 'half'},
                                                 {'fraction': None, 'message': 'half'}])
        self.assertIsNone(call(self.service, 'getProgress', jobid))

    def test_steering(self):
        for name, paused in (('pause', True), ('pause', True), ('resume', False),
                             ('stopProcessing', True), ('startProcessing', False)):
            self.assertIs(call(self.service, name), True)
            self.assertIs(self.service.paused, paused)
        self.assertIs(call(self.service, 'isProcessing'), False)
        self.assertEqual(call(self.service, 'getProcessingHosts'), [])

    def test_clean(self):
        cancelled = call(self.service, 'add', 'echo')
        call(self.service, 'cancel', cancelled)
        queued = call(self.service, 'add', 'echo')
        self.assertEqual(call(self.service, 'clean', ['error', 'completed']), 0)
        self.assertIn(cancelled, self.service.jobs)
        with self.assertRaisesRegex(BadArguments, "'queued' is none of cancelled, error, completed"):
            call(self.service, 'clean', ['cancelled', 'queued'])
        self.assertIn(cancelled, self.service.jobs)
        self.assertEqual(call(self.service, 'clean'), 1)
        self.assertEqual(list(self.service.jobs), [queued])

    def test_add_options(self):
        options = {'key': 'a', 'timeLimit': 5, 'retryPolicy': {'attempts': 2, 'base': 1.5, 'factor': 3, 'cap': 60.0,
                                                               'jitter': 0}}
        jobid = call(self.service, 'add', 'echo', 1, False, options)
        job = self.service.jobs[jobid]
        self.assertEqual((job.timeLimit, job.retryPolicy),
                         (5, RetryPolicy(attempts=2, base=1.5, factor=3, cap=60.0, jitter=0)))
        self.assertEqual(call(self.service, 'add', 'echo', 1, None, {'key': 'a'}), jobid)
        call(self.service, 'add', 'echo', None, None, dict.fromkeys(options))
        self.assertNotEqual(call(self.service, 'add', 'square', 1, None, {'key': 'a'}), jobid)
        before = len(self.service.jobs)
        for options, reason in (
                ({'nonsense': 1}, "no option 'nonsense'"), ({'now': 1}, "no option 'now'"), ({'key': 5}, 'key'),
                ({'request': 'x'}, 'no option'), ({'key': 'x' * 201}, 'key'), ({'timeLimit': '5'}, 'timeLimit'),
                ({'timeLimit': 0}, 'timeLimit'), ({'retryPolicy': 5}, 'retryPolicy: a struct'),
                ({'retryPolicy': {'attempts': 0}}, 'retryPolicy: attempts'),
                ({'retryPolicy': {'attempts': None}}, 'retryPolicy: attempts'),
                ({'retryPolicy': {'retryOn': []}}, "retryPolicy 'retryOn'")):
            with self.subTest(reason=reason), self.assertRaisesRegex(BadArguments, 'add: .*' + reason):
                call(self.service, 'add', 'echo', 1, None, options)
        self.assertEqual(len(self.service.jobs), before)

    def test_add_many(self):
        jobids = call(self.service, 'addMany', [
            {'task': 'echo', 'input': 1}, {'task': 'square', 'startLater': True, 'key': 'a', 'timeLimit': 1.5,
                                           'retryPolicy': {'attempts': 1}},
            {'task': 'echo', 'input': None, 'startLater': None, 'key': None, 'timeLimit': None, 'retryPolicy': None}])
        jobs = [self.service.jobs[jobid] for jobid in jobids]
        self.assertEqual([(job.task, job.input, job.status) for job in jobs],
                         [('echo', 1, 'queued'), ('square', None, 'start later'), ('echo', None, 'queued')])
        self.assertEqual((jobs[1].timeLimit, jobs[1].retryPolicy), (1.5, RetryPolicy(attempts=1)))
        self.assertEqual(call(self.service, 'addMany', []), [])
        before = len(self.service.jobs)
        for struct, reason in (({}, 'task'), ({'task': 5}, 'task'), ({'task': 'echo', 'startLater': 1}, 'startLater'),
                               ({'task': 'echo', 'x': 1}, "no member 'x'"), ({'task': 'echo', 'now': 1}, 'no member'),
                               ({'task': 'echo', 'retryPolicy': {'cap': -1}}, 'retryPolicy: cap'),
                               ({'task': 'echo', 'key': ''}, 'key'),
                               ({'task': 'echo', 'timeLimit': True}, 'timeLimit')):
            with self.subTest(struct=struct), self.assertRaisesRegex(BadArguments, r'addMany: jobs\[1\]: .*' + reason):
                call(self.service, 'addMany', [{'task': 'echo'}, struct])
        with self.assertRaises(errors.UnknownTask):
            call(self.service, 'addMany', [{'task': 'echo'}, {'task': 'nope'}])
        with self.assertRaisesRegex(BadArguments, '1000 jobs can be added at a time, 1001 were given'):
            call(self.service, 'addMany', [{'task': 'echo'}] * 1001)
        self.assertEqual(len(self.service.jobs), before)
        self.assertEqual(len(set(call(self.service, 'addMany', [{'task': 'echo'}] * 1000))), 1000)

    def test_update_cron_job(self):
        jobid = call(self.service, 'addCronJob', 'echo', None, [5], [2])
        self.assertIs(call(self.service, 'updateCronJob', jobid, {'hour': [3, 4], 'active': False}), True)
        job = self.service.jobs[jobid]
        self.assertEqual((job.minute, job.hour, job.active), ((5,), (3, 4), False))
        self.assertIs(call(self.service, 'reschedule', jobid), True)
        for changes, reason in (({'nonsense': 1}, "no change 'nonsense'"), ({'hour': 5}, 'hour'),
                                ({'hour': ['x']}, 'hour'), ({'input': 5}, "no change 'input'"),
                                ({'month': [2], 'dayOfMonth': [30]}, 'no time')):
            with self.subTest(changes=changes), self.assertRaisesRegex(BadArguments, 'updateCronJob: .*' + reason):
                call(self.service, 'updateCronJob', jobid, changes)
        self.assertEqual((job.minute, job.hour, job.active), ((5,), (3, 4), False))
        queued = call(self.service, 'add', 'echo')
        for name, arguments in (('updateCronJob', ({},)), ('reschedule', ())):
            with self.assertRaises(errors.WrongState):
                call(self.service, name, queued, *arguments)
            with self.assertRaises(errors.UnknownJob):
                call(self.service, name, 1, *arguments)

    def test_requests(self):
        jobids = [methods.add(self.service, 'echo', None, False, {}, request='r'),
                  *methods.addMany(self.service, [{'task': 'echo'}], request='r'),
                  methods.addCronJob(self.service, 'echo', None, (), (), (), (), (), None, {}, request='r')]
        self.assertEqual({self.service.jobs[jobid].request for jobid in jobids}, {'r'})
        self.assertEqual({name for name, method in calls.METHODS.items() if method.traced},
                         {'add', 'addMany', 'addCronJob'})
        self.assertEqual({name for name, method in calls.METHODS.items() if method.takesUser},
                         {'add', 'addMany', 'addCronJob', 'addUpload', 'putUpload', 'dropUpload', 'addBulk'})

    def test_get_job(self):
        provideUtility(SimpleTask(lambda input: 1 / 0), name='square')
        jobid = self.service.add('square', {'a': (1,)}, now=5.0, key='a', request='r', timeLimit=7,
                                 retryPolicy=RetryPolicy(attempts=3, base=10, jitter=0))
        self.service.process(6.0)
        self.assertEqual(call(self.service, 'getJob', jobid), {
            'id': jobid, 'task': 'square', 'status': 'queued', 'created': 5.0, 'started': 6.0, 'completed': 6.0,
            'host': None, 'failedAttempts': 1, 'error': None, 'retryAt': 16.0, 'timeLimit': 7, 'schedule': None,
            'request': 'r', 'key': 'a', 'progress': None, 'input': {'a': [1]}, 'output': None, 'errors': [
                {'time': 6.0, 'message': 'ZeroDivisionError: division by zero', 'host': '',
                 'traceback': self.service.jobs[jobid].errors[0].traceback}],
            'retryPolicy': {'attempts': 3, 'base': 10, 'factor': 2.0, 'cap': 3600.0, 'jitter': 0}})
        for value, shown in (('x' * 1000, 'x' * 1000), ('x' * 65537, None)):
            jobid = self.service.add('echo', value)
            self.service.jobs[jobid].output = value
            job = call(self.service, 'getJob', jobid)
            self.assertEqual((job['input'], job['output'], job['key'], job['retryPolicy']), (shown, shown, None, None))
        with self.assertRaises(errors.UnknownJob):
            call(self.service, 'getJob', 1)

    def test_get_job_of_a_schedule(self):
        jobid = self.service.addCronJob('echo', 'x', crontab='0 2 * * mon', timeZone='Europe/Berlin', now=0.0)
        job = self.service.jobs[jobid]
        job.history = job.historyWith(Run(3600.0, jobid, 'completed', 3601.0, 3602.0))
        job = call(self.service, 'getJob', jobid)
        self.assertEqual((job['crontab'], job['hour'], job['minute'], job['dayOfWeek'], job['month'], job['timeZone']),
                         ('0 2 * * mon', [2], [0], [0], [], 'Europe/Berlin'))
        self.assertEqual(job['history'], [{'calledFor': 3600.0, 'jobid': jobid, 'status': 'completed',
                                           'started': 3601.0, 'completed': 3602.0, 'error': None}])
        for name in job:
            self.assertIn(name, methods.getJob.__doc__ + methods.addCronJob.__doc__)

    def test_get_jobs(self):
        ids = [self.service.add('echo', n, now=n + 1.0) for n in range(10)]
        for jobid in ids[:5]:
            self.service.cancel(jobid, jobid % 1000)
        self.service.jobs[ids[9]].started = 20.5

        def listed(*arguments):
            return [job['id'] for job in call(self.service, 'getJobs', *arguments)['jobs']]
        newest = ids[::-1]
        self.assertEqual(listed('queued'), newest[:5])
        self.assertEqual(listed('queued', 1, 2), newest[1:3])
        self.assertEqual(sorted(listed()), sorted(ids))
        self.assertEqual(sorted(listed('cancelled')), sorted(ids[:5]))
        self.assertEqual(len(listed(None, 8, 3)), 2)
        for arguments in ((None, 100, 3), (None, 2 ** 31 - 1, 3), (None, 0, 0), ('error', 0, 10)):
            self.assertEqual(listed(*arguments), [])
        self.assertEqual(call(self.service, 'getJobs', 'queued', 0, 1), {
            'jobs': [{'id': ids[9], 'task': 'echo', 'status': 'queued', 'created': 10.0, 'started': 20.5,
                      'completed': None, 'host': None}],
            'total': 5, 'counts': {**dict.fromkeys(interfaces.STATUSES, 0), 'queued': 5, 'cancelled': 5}})
        self.assertEqual(call(self.service, 'getJobs')['total'], 10)
        self.service.claimNextJob()
        self.assertEqual([job['status'] for job in call(self.service, 'getJobs', 'processing')['jobs']], ['processing'])
        for arguments in ((None, -1), (None, 2 ** 40), (None, 0, -1), (None, 0, 1001), ('nope',), (0, 10)):
            with self.assertRaisesRegex(BadArguments, 'getJobs: '):
                listed(*arguments)

    def test_get_statistics(self):
        self.service.add('echo', now=5.0)
        statistics = call(self.service, 'getStatistics')
        self.assertEqual(statistics, {
            'counts': {**dict.fromkeys(interfaces.STATUSES, 0), 'queued': 1}, 'hosts': [], 'oldestWaiting': 5.0,
            'throughput': 0.0, 'paused': False, 'failures': 0, 'failing': 0, 'longestRunning': None, 'nextTime': None,
            'retrying': 0, 'stranded': 0, 'unclaimable': {}, 'unscheduled': 0})
        for window in 0, -1.5, float('nan'):
            with self.assertRaisesRegex(BadArguments, 'getStatistics: window'):
                call(self.service, 'getStatistics', window)

    def test_get_task_statistics(self):
        self.service.add('echo', [], now=5.0)
        self.service.process(7.0)
        self.service.cancel(self.service.add('square', now=5.0), 8.0)
        found = call(self.service, 'getTaskStatistics')
        self.assertEqual(found['echo'], {
            'completed': 1, 'error': 0, 'cancelled': 0, 'retried': 0, 'lost': 0, 'failureRate': 0.0,
            'runSeconds': 0.0, 'meanRun': 0.0, 'p95Run': 0.0, 'waitSeconds': 2.0, 'meanWait': 2.0,
            'p95Wait': 2.0})
        self.assertEqual((found['square']['cancelled'], found['square']['meanRun'], found['square']['failureRate']),
                         (1, None, None))
        self.assertEqual(list(call(self.service, 'getTaskStatistics', 'square')), ['square'])
        self.assertEqual(call(self.service, 'getTaskStatistics', 'none'), {})

    def test_counts_that_are_no_ints_of_xmlrpc(self):
        ledger = self.service.shards[0].ledger
        tallies.count(ledger, 'echo', 'lost')
        ledger.tasks['echo'] = [2 ** 31 * number for number in ledger.tasks['echo']]
        self.assertIs(type(call(self.service, 'getTaskStatistics')['echo']['lost']), float)


class TestIntrospection(unittest.TestCase):

    def test_list_methods(self):
        names = call(None, 'system.listMethods')
        self.assertEqual(names, sorted(names))
        self.assertEqual(names, call(None, 'listMethods'))
        self.assertLessEqual({'add', 'getStatus', 'getResult', 'getError', 'cancel', 'getAvailableTasks'}, set(names))
        self.assertNotIn('system.multicall', names)

    def test_nothing_else_is_registered(self):
        dispatcher = Dispatcher(None, None)
        self.assertEqual(set(dispatcher.funcs), set(calls.METHODS))
        self.assertIsNone(dispatcher.instance)          # no name with dots leads anywhere

    def test_method_help(self):
        for name in call(None, 'listMethods'):
            text = call(None, 'methodHelp', name)
            self.assertRegex(text, r'\A(system\.)?' + name.replace('system.', '') + r'\(.*\n')
            for argument in calls.METHODS[name].arguments:
                self.assertRegex(text, rf'\b{argument.name}\b')
        with self.assertRaises(UnknownMethod):
            call(None, 'system.methodHelp', 'nope')

    def test_method_signature(self):
        self.assertEqual(call(None, 'system.methodSignature', 'add'), [
            ['int', 'string'], ['int', 'string', 'mixed'], ['int', 'string', 'mixed', 'boolean'],
            ['int', 'string', 'mixed', 'boolean', 'struct']])
        self.assertEqual(call(None, 'methodSignature', 'getStatus'), [['string', 'int']])
        for name in call(None, 'listMethods'):
            self.assertEqual(call(None, 'system.methodSignature', name)[-1][1:],
                             [argument.typeName for argument in calls.METHODS[name].arguments])
        with self.assertRaises(UnknownMethod):
            call(None, 'system.methodSignature', 'nope')

    def test_older_names(self):
        older = {name: method.alias for name, method in calls.METHODS.items() if method.alias is not None}
        self.assertEqual(older, {'stopProcessing': 'pause', 'startProcessing': 'resume'})
        for name, newer in older.items():
            self.assertEqual(calls.METHODS[name]._replace(alias=None), calls.METHODS[newer])
            self.assertIn(f'The older name of {newer}.', call(None, 'system.methodHelp', name))

    def test_each_method_has_a_function(self):
        self.assertEqual(set(methods.FUNCTIONS), {
            name for name, method in calls.METHODS.items() if method.access != signature.NO_SERVICE})

    def test_what_may_be_repeated(self):
        once = {name for name, method in calls.METHODS.items() if not method.isRepeatable}
        self.assertEqual(once, {
            'add', 'addMany', 'addCronJob', 'updateCronJob', 'reschedule', 'runNow', 'startJob', 'cancel', 'clean',
            'cleanSome', 'retry', 'retryFailed', 'addBulk', 'askStack', 'pause', 'resume', 'stopProcessing',
            'startProcessing', 'addUpload', 'putUpload', 'dropUpload'})

    def test_every_method_is_in_the_contract(self):
        names = {name for name, method in calls.METHODS.items()
                 if method.access != signature.NO_SERVICE and method.alias is None}
        remote = {'getJob', 'getRelease', 'cleanSome', 'waitFor', 'addUpload', 'putUpload', 'dropUpload'}
        self.assertEqual(names - remote - set(interfaces.ITaskService), set())


if __name__ == '__main__':
    unittest.main()
