"""Who may call: users, their roles, and the tasks and services that they are limited to; over sockets."""
# SPDX-License-Identifier: ZPL-2.1
import base64
import contextlib
import http.client
import logging
import os
import socket
import tempfile
import threading
import time
import unittest
import xmlrpc.client
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from zope.component import provideUtility

from accesscase import AccessCase
from accesscase import basic
from accesscase import parked
from lovely.remotetask.config.users import ROLES
from lovely.remotetask.config.users import Users
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.xmlrpc import access
from lovely.remotetask.xmlrpc import calls
from lovely.remotetask.xmlrpc import faults
from lovely.remotetask.xmlrpc import methods
from lovely.remotetask.xmlrpc import signature
from lovely.remotetask.xmlrpc.access import Authenticator
from lovely.remotetask.xmlrpc.access import NotAllowed
from lovely.remotetask.xmlrpc.access import Principal
from lovely.remotetask.xmlrpc.access import Throttle
from lovely.remotetask.xmlrpc.access import Throttled
from lovely.remotetask.xmlrpc.access import Unauthorized
from servercase import CALL
from servercase import WAIT
from test_users import HASH
from test_users import OTHER_PASSWORD
from test_users import PASSWORD
from threads import inThread
from waits import waitUntil


class TestCaller(unittest.TestCase):

    def call(self, principal, name, *values, path='/'):
        """Check a call, as the server does."""
        method, arguments = calls.prepare(name, values)
        principal.check(name, method, path, arguments)
        return principal.guarded(method, arguments, methods.FUNCTIONS.get(name))

    def test_roles_of_methods(self):
        for name, method in calls.METHODS.items():
            with self.subTest(name):
                self.assertIn(method.role, ROLES)
                if method.access in (signature.WRITES, signature.REPEATS):
                    self.assertNotEqual(method.role, 'view')
                else:
                    self.assertEqual(method.role, 'manage' if name == 'getStack' else 'view')

    def test_every_method_of_a_limited_user(self):
        # What is new is refused until it names a task or a job, or was thought about.
        principal = Principal('films', frozenset(ROLES), ('film*',))
        allowed = set()
        for name, method in calls.METHODS.items():
            given = {'task': 'film', 'jobs': [{'task': 'film'}], 'jobid': 1, 'jobids': [1]}
            with self.subTest(name), contextlib.suppress(NotAllowed):
                principal.check(name, method, '/', [given.get(argument.name) for argument in method.arguments])
                allowed.add(name)
        refused = set(calls.METHODS) - allowed
        self.assertEqual(refused & {'addBulk', 'clean', 'cleanSome', 'countBulk', 'getStatistics', 'hasJobsWaiting',
                                    'pause', 'resume', 'startProcessing', 'stopProcessing'}, refused)
        for name in allowed:
            names = {argument.name for argument in calls.METHODS[name].arguments}
            self.assertTrue(names & {'task', 'jobs', 'jobid', 'jobids'} or name in access.ABOUT_NO_JOB
                            or calls.METHODS[name].access == signature.NO_SERVICE, name)

    def test_tasks(self):
        principal = Principal('films', frozenset(ROLES), ('film*', 'x'))
        self.call(principal, 'add', 'film')
        self.call(principal, 'addCronJob', 'x')
        self.call(principal, 'retryFailed', 'films')
        with self.assertLogs('lovely.remotetask', 'WARNING'):
            for name, values in (('add', ('Film',)), ('add', ('xx',)), ('addCronJob', ('echo',)),
                                 ('retryFailed', ('echo',)), ('retryFailed', ()), ('retryFailed', (None,))):
                with self.subTest(name, values=values), self.assertRaises(NotAllowed):
                    self.call(principal, name, *values)

    def test_what_a_manager_has_begun(self):
        # A change of many jobs is a job: who may not begin one may not run it again either.
        service = SimpleNamespace(jobs={1: SimpleNamespace(id=1, task='remotetask.bulk'),
                                        2: SimpleNamespace(id=2, task='echo')})
        for roles in (frozenset(ROLES), frozenset(('view', 'submit'))):
            principal = Principal('ann', roles)
            for name in 'retry', 'cancel', 'startJob', 'getJob', 'waitFor':
                method = calls.METHODS[name]
                for jobid in service.jobs:
                    with self.subTest(roles=sorted(roles), name=name, jobid=jobid), contextlib.ExitStack() as stack:
                        if jobid == 1 and method.role == 'submit' and 'manage' not in roles:
                            stack.enter_context(self.assertRaisesRegex(NotAllowed, 'needs the role manage'))
                            stack.enter_context(self.assertLogs('lovely.remotetask', 'WARNING'))
                        arguments = [[jobid], 1.0, False] if name == 'waitFor' else [jobid]
                        self.assertEqual(principal.guarded(method, arguments, lambda service: 'done')(service), 'done')

    def test_services(self):
        principal = Principal('site', frozenset(ROLES), None, ('/site1/*', '/two'))
        for path in '/site1/Tasks', '/site1/a/b', '//site1/Tasks/', '/two', '/two/':
            self.call(principal, 'getStatus', 1, path=path)
            self.call(principal, 'listMethods', path=path)
        with self.assertLogs('lovely.remotetask', 'WARNING'):
            for path in '/', '', '/site1', '/site1/', '/site11/Tasks', '/site2/Tasks', '/site2/../site1/Tasks', '/Two':
                with self.subTest(path), self.assertRaises(NotAllowed):
                    self.call(principal, 'getStatus', 1, path=path)
        self.call(principal, 'listMethods')


class SlowUsers(Users):
    """Users whose passwords take a while to be hashed: until `go` is set."""

    go = None

    def verify(self, name, password, now):
        if self.go is not None:
            self.go.wait(WAIT)
        return super().verify(name, password, now)


class TestAuthenticator(unittest.TestCase):

    waitUntil = staticmethod(waitUntil)

    level = 2

    def setUp(self):
        self.path = parked(self.enterContext(tempfile.TemporaryDirectory()))
        self.users, self.throttle = SlowUsers(self.path), Throttle()
        self.authenticator = Authenticator(self.users, self.throttle)

    def test_without_users(self):
        for header in None, 'nonsense', basic('ann', PASSWORD):
            self.assertEqual(Authenticator().authenticate(header, '192.0.2.1'), Principal(
                None, frozenset(ROLES), None, None, '192.0.2.1'))

    def test_principals(self):
        for name, password, roles, tasks, services in (
                ('ann', PASSWORD, ROLES, None, None),
                ('sue', PASSWORD, ('submit', 'view'), None, None),
                ('vic', PASSWORD, ('view',), None, None),
                ('other', OTHER_PASSWORD, ROLES, ('ech?', 'squ[ab]re', 'none'), ('/', '/site1/*'))):
            for _ in range(2):
                self.assertEqual(self.authenticator.authenticate(basic(name, password), '192.0.2.1'), Principal(
                    name, frozenset(roles), tasks, services, '192.0.2.1'))
        header = basic('ann', PASSWORD).replace('Basic ', 'bASIC   ') + ' '
        self.assertEqual(self.authenticator.authenticate(header, '192.0.2.1').name, 'ann')

    def test_other_headers(self):
        for header in (None, '', 'Basic', 'Basic !', 'Basic ' + base64.b64encode(b'ann').decode(), 'Bearer x',
                       basic('ann', PASSWORD)[:-3], basic('ann', PASSWORD).replace('Basic', 'Digest'), 'Basic é',
                       'Basic ' + base64.b64encode(b'ann:\xff').decode(),
                       basic('ann', PASSWORD) + ',' + basic('a', 'b')):
            with self.subTest(header), self.assertLogs('lovely.remotetask', 'WARNING') as logged:
                with self.assertRaises(Unauthorized):
                    self.authenticator.authenticate(header, '192.0.2.1')
                self.assertEqual(len(logged.output), 1)

    def test_log(self):
        with self.assertLogs('lovely.remotetask', 'WARNING') as logged:
            for name in 'ann', 'a\nb\x1b[2J', 'ä' * 10000:
                with self.assertRaises(Unauthorized):
                    self.authenticator.authenticate(basic(name, 'my secret'), '2001:db8::1')
        lines = [record.getMessage() for record in logged.records]
        self.assertEqual(lines[:2], ["refused 2001:db8::1, user 'ann': unknown user or wrong password",
                                     r"refused 2001:db8::1, user 'a\nb\x1b[2J': unknown user or wrong password"])
        self.assertRegex(lines[2], r"\Arefused 2001:db8::1, user '(\\xe4){100}': unknown user or wrong password\Z")
        self.assertNotIn('secret', str(lines))

    def test_many_at_once_with_one_right_password(self):
        with ThreadPoolExecutor(20) as pool:
            principals = pool.map(lambda _: self.authenticator.authenticate(basic('ann', PASSWORD), '192.0.2.1'),
                                  range(20))
        self.assertEqual([principal.name for principal in principals], ['ann'] * 20)

    def test_brute_force(self):
        """Many try at once, from one address and from many.  Who is at work is not held up; nobody gets in."""
        self.authenticator.authenticate(basic('ann', PASSWORD), '192.0.2.1')
        outcomes = []

        def attack(number):
            for name, address in ('vic', f'198.51.100.{number}'), (f'u{number}', '192.0.2.1'):
                try:
                    self.authenticator.authenticate(basic(name, f'guess {number}'), address)
                    outcomes.append('in')
                except (Unauthorized, Throttled) as error:
                    outcomes.append(type(error).__name__)

        with self.assertLogs('lovely.remotetask', 'WARNING') as logged:
            attackers = [threading.Thread(target=attack, args=(number,)) for number in range(60)]
            for thread in attackers:
                thread.start()
            for _ in range(100):
                self.assertEqual(self.authenticator.authenticate(basic('ann', PASSWORD), '192.0.2.1').name, 'ann')
            for thread in attackers:
                thread.join(WAIT)
        self.assertEqual(len(outcomes), 120)
        self.assertEqual(len(logged.records), 120)
        self.assertNotIn('in', outcomes)
        self.assertIn('Throttled', outcomes)
        # Neither the name nor the address has come much above its limit.
        self.assertLess(outcomes.count('Unauthorized'), 2 * access.NAME_LIMIT + 20)
        self.assertEqual(self.authenticator.authenticate(basic('ann', PASSWORD), '192.0.2.1').name, 'ann')

    def test_few_wait_for_a_hash(self):
        self.authenticator.authenticate(basic('ann', PASSWORD), '192.0.2.1')
        most, go = access.HASHES + access.QUEUE, threading.Event()
        self.addCleanup(go.set)
        self.users.go = go                      # from here on to hash takes until then
        with ThreadPoolExecutor(most) as pool:
            self.addCleanup(go.set)
            waiting = [pool.submit(self.authenticator.authenticate, basic('sue', PASSWORD), f'192.0.2.{number}')
                       for number in range(most)]
            self.waitUntil(lambda: self.authenticator.statistics()['checking'] == most)
            try:
                with self.assertLogs('lovely.remotetask', 'WARNING'), self.assertRaises(Throttled):
                    self.authenticator.authenticate(basic('vic', PASSWORD), '192.0.2.1')
                self.assertEqual(self.authenticator.authenticate(basic('ann', PASSWORD), '192.0.2.1').name, 'ann')
            finally:
                go.set()
            self.assertEqual({future.result(WAIT).name for future in waiting}, {'sue'})
        self.assertEqual(self.authenticator.statistics()['checking'], 0)
        for _ in range(2):
            self.assertEqual(self.authenticator.authenticate(basic('vic', PASSWORD), '192.0.2.1').name, 'vic')

    def test_retry_after(self):
        for _ in range(20):
            self.throttle.failed('192.0.2.1', 'ann', time.monotonic())
        with self.assertLogs('lovely.remotetask', 'WARNING') as logged, self.assertRaises(Throttled) as caught:
            self.authenticator.authenticate(basic('ann', PASSWORD), '192.0.2.1')
        self.assertIn(caught.exception.retryAfter, range(1, 61))
        self.assertIn(f'too many passwords: try again in {caught.exception.retryAfter} s', logged.output[0])


class TestServer(AccessCase):

    level = 2

    def test_who_may_only_look_sees_no_secrets(self):
        def tell(input):
            if input['fails']:
                raise TaskError(f'not {input["password"]}')
            return {'said': input['password']}
        provideUtility(SimpleTask(tell), name='tell')
        sue, vic = self.as_('sue'), self.as_('vic')
        jobids = [sue.add('tell', {'password': 'geheim', 'fails': fails}, False, {'key': f'geheim {fails}'})
                  for fails in (True, False)]
        schedule = sue.addCronJob('tell', {'password': 'geheim', 'fails': True})
        for seconds in 0, 60:
            with self.db.transaction() as connection:
                connection.root()['/'].process(time.time() + seconds)
        failed, ended = jobids
        for user, secret in (sue, 'geheim'), (vic, '•••'):
            self.assertEqual(user.getError(failed), f'not {secret}')
            self.assertEqual(user.getResult(ended), {'said': secret})
            job = user.getJob(failed)
            self.assertEqual((job['id'], job['task'], job['key']), (failed, 'tell', f'{secret} True'))
            self.assertEqual((job['input'], job['error']), ({'password': secret, 'fails': True}, f'not {secret}'))
            self.assertEqual('geheim' in str((job, user.getJob(ended), user.getJob(schedule))), user is sue)
            self.assertEqual('geheim' in str(user.getSchedules()), user is sue)
        self.assertEqual(vic.getJobs(None, 0, 10, None, None, 'geheim')['jobs'], [])

    def test_roles(self):
        ann, sue, vic = self.as_('ann'), self.as_('sue'), self.as_('vic')
        jobid = sue.add('echo', 1)
        self.assertEqual([user.getStatus(jobid) for user in (ann, sue, vic)], ['queued'] * 3)
        self.assertEqual(vic.getJobs()['total'], 1)
        self.assertRefused(vic.add, 'echo', 1, reason='add needs the role submit')
        self.assertRefused(vic.cancel, jobid, reason='cancel needs the role submit')
        self.assertRefused(sue.clean, reason='clean needs the role manage')
        self.assertRefused(sue.pause, reason='pause needs the role manage')
        self.assertTrue(sue.cancel(jobid))
        entry, = self.db.undoInfo(0, 1)
        self.assertEqual((entry['user_name'], entry['description']),
                         ('/ sue', f'remotetask cancel job {jobid} echo in /'))
        self.assertEqual(ann.clean(), 1)
        self.assertFault(faults.UNKNOWN_JOB, 'no job', vic.getStatus, jobid)

    def test_tasks(self):
        ann, films = self.as_('ann'), self.as_('films')
        theirs, ours = ann.add('square', 1), films.add('echo', 1)
        self.assertRefused(films.add, 'square', reason="you may not use the task 'square'")
        self.assertRefused(films.addCronJob, 'square', None, [1], reason="you may not use the task 'square'")
        self.assertRefused(films.getJobs, reason='getJobs concerns the jobs of all tasks')
        self.assertRefused(films.addMany, [{'task': 'echo'}, {'task': 'square'}], reason="not use the task 'square'")
        self.assertRefused(films.addMany, [{'task': 'echo'}, {}], reason='addMany concerns the jobs of all tasks')
        self.assertRefused(films.addMany, [{'task': ['echo']}], reason='you may not use the task')
        self.assertEqual(len(films.addMany([{'task': 'echo'}, {'task': 'echo'}])), 2)
        self.assertEqual(ann.getStatistics()['counts']['queued'], 4)
        # Nor does a key of theirs keep others from anything.
        mine = films.add('echo', 1, False, {'key': 'order 1'})
        self.assertNotIn(ann.add('square', 1, False, {'key': 'order 1'}), (mine, theirs))
        self.assertEqual(ann.addMany([{'task': 'echo', 'key': 'order 1'}]), [mine])
        self.assertEqual(films.getStatus(ours), 'queued')
        for function in films.getStatus, films.getResult, films.getError, films.cancel, films.getProgress, films.getJob:
            with self.assertLogs('lovely.remotetask', 'WARNING') as logged:
                self.assertFault(faults.UNKNOWN_JOB, f'\\A{UnknownJob(theirs)}\\Z', function, theirs)
            self.assertIn(f"user 'films': the job {theirs} is of a task of others", logged.output[0])
        self.assertEqual(ann.getStatus(theirs), 'queued')
        self.assertTrue(films.cancel(ours))
        self.assertEqual(films.waitFor([ours], 0), ['cancelled'])
        self.assertFault(faults.UNKNOWN_JOB, 'no job', films.waitFor, [ours, theirs], 0)
        self.assertEqual(films.getAvailableTasks(), ['echo', 'square'])

    def test_services(self):
        path = '/site1/T%C3%A4sks'
        jobid = self.as_('site', path=path).add('echo', 1)
        self.assertEqual(self.as_('other', OTHER_PASSWORD, path).getStatus(jobid), 'queued')
        site = self.as_('site')
        self.assertRefused(site.getStatus, jobid, reason="you may not use the service '/'")
        self.assertRefused(self.as_('site', path='/nowhere').getStatus, jobid, reason='/nowhere')
        self.assertIn('add', getattr(site, 'system.listMethods')())

    def test_introspection(self):
        for name in 'vic', 'films', 'site':
            proxy = self.as_(name)
            self.assertIn('add', proxy.listMethods())
            self.assertIn('startLater', proxy.system.methodHelp('add'))

    def test_unauthorized(self):
        for headers in {}, {'Authorization': basic('ann', 'wrong')}, {'Authorization': 'Bearer x'}:
            with self.assertLogs('lovely.remotetask', 'WARNING'):
                status, answer, body = self.post(CALL, **headers)
            self.assertEqual(status, 401)
            self.assertEqual(answer['WWW-Authenticate'], 'Basic realm="lovely.remotetask"')
            self.assertEqual(answer['Connection'], 'close')
            self.assertNotIn(b'echo', body)
        with self.assertLogs('lovely.remotetask', 'WARNING'), self.assertRaises(xmlrpc.client.ProtocolError) as caught:
            self.as_('ann', 'wrong').getAvailableTasks()
        self.assertEqual(caught.exception.errcode, 401)

    def test_before_the_body(self):
        with self.assertLogs('lovely.remotetask', 'WARNING'):
            for more in b'Content-Length: 8000000\r\n', b'Content-Length: 10\r\nExpect: 100-continue\r\n':
                connection = self.socket()
                connection.sendall(b'POST / HTTP/1.1\r\nHost: x\r\n' + more + b'\r\n')
                self.assertRegex(connection.recv(65536), b'^HTTP/1.1 401 ')
                connection.shutdown(socket.SHUT_WR)

    def test_throttled(self):
        ann = self.as_('ann')
        ann.getAvailableTasks()
        with self.assertLogs('lovely.remotetask', 'WARNING'):
            statuses = [self.post(CALL, Authorization=basic('vic', 'wrong'))[0] for _ in range(3)]
            self.assertEqual(statuses, [401] * 3)
            for _ in range(10):
                self.throttle.failed('127.0.0.1', 'vic', time.monotonic())
            status, headers, _ = self.post(CALL, Authorization=basic('vic', 'wrong'))
        self.assertEqual(status, 429)
        self.assertRegex(headers['Retry-After'], '^[0-9]+$')
        self.assertEqual(ann.getAvailableTasks(), ['echo', 'square'])
        self.assertEqual(self.as_('sue').getAvailableTasks(), ['echo', 'square'])

    def test_access_log(self):
        with self.assertLogs('lovely.remotetask.access', 'INFO') as logged:
            self.assertEqual(self.post(CALL, Authorization=basic('sue', PASSWORD))[0], 200)
            self.assertEqual(self.post(CALL)[0], 401)
        sue, nobody = (record.getMessage() for record in logged.records if record.name.endswith('access'))
        self.assertRegex(sue, r'\A127\.0\.0\.1 - sue \[')
        self.assertRegex(nobody, r'\A127\.0\.0\.1 - - \[')

    def test_what_is_said_of_the_address_is_not_looked_at(self):
        with self.assertLogs('lovely.remotetask', 'INFO') as logged:
            statuses = [self.post(CALL, Authorization=basic('vic', 'wrong'), X_Forwarded_For=f'192.0.2.{number}',
                                  Forwarded=f'for=192.0.2.{number}', X_Real_IP=f'192.0.2.{number}')[0]
                        for number in range(20)]
        self.assertIn(429, statuses)                            # they count as one client
        self.assertNotIn('192.0.2.', ''.join(logged.output))

    def test_each_request_is_asked_anew(self):
        connection = http.client.HTTPConnection(*self.frontend.address, timeout=WAIT)
        self.addCleanup(connection.close)
        for headers, status in (({'Authorization': basic('ann', PASSWORD)}, 200), ({}, 401)):
            connection.request('POST', '/', CALL, headers)
            response = connection.getresponse()
            response.read()
            self.assertEqual(response.status, status)

    def test_users_change(self):
        ann = self.as_('ann')
        self.assertEqual(ann.clean(), 0)
        os.replace(parked(tempfile.mkdtemp(dir=os.path.dirname(self.path)), f'ann:{HASH}:view:*:*\n'), self.path)
        self.assertRefused(ann.clean, reason='clean needs the role manage')
        self.assertEqual(ann.getAvailableTasks(), ['echo', 'square'])
        os.replace(parked(tempfile.mkdtemp(dir=os.path.dirname(self.path)), ''), self.path)
        with self.assertLogs('lovely.remotetask', 'WARNING'), self.assertRaises(xmlrpc.client.ProtocolError):
            ann.getAvailableTasks()

    def test_users_change_while_one_works_and_another_guesses(self):
        ann = self.as_('ann')
        ann.getAvailableTasks()
        over = threading.Event()
        self.addCleanup(over.set)

        def guess():
            statuses = []
            while not over.is_set():
                statuses.append(self.post(CALL, Authorization=basic('ann', f'guess {len(statuses)}'))[0])
            return statuses

        def write(ann):
            os.replace(parked(tempfile.mkdtemp(dir=os.path.dirname(self.path)), ann + ''.join(others)), self.path)
            others.append(f'u{len(others)}:{HASH}:view:*:*\n')

        others = []
        self.addCleanup(logging.disable, logging.NOTSET)
        logging.disable(logging.WARNING)
        thread, outcome = inThread(guess)
        self.waitUntil(lambda: self.post(CALL, Authorization=basic('ann', 'wrong'))[0] == 429)
        for _ in range(20):
            write(f'ann:{HASH}:manage:*:*\n')
            self.assertEqual(ann.getAvailableTasks(), ['echo', 'square'])
        self.assertEqual(ann.clean(), 0)
        write(f'ann:{HASH}:submit:*:*\n')                       # a changed role counts at once, and asks for nothing
        self.assertFault(faults.NOT_ALLOWED, 'clean needs the role manage', ann.clean)
        self.assertTrue(ann.add('echo'))
        write(f'ann:{HASH}:submit:squ*:*\n')
        self.assertFault(faults.NOT_ALLOWED, "you may not use the task 'echo'", ann.add, 'echo')
        write('')                                               # a removed user is out at once
        for _ in range(2):
            with self.assertRaises(xmlrpc.client.ProtocolError) as caught:
                ann.getAvailableTasks()
            self.assertIn(caught.exception.errcode, (401, 429))
        over.set()
        thread.join(WAIT)
        self.assertEqual(set(outcome[0]), {401, 429})

    def test_brute_force(self):
        ann = self.as_('ann')
        ann.getAvailableTasks()

        def attack(number):
            return self.post(CALL, Authorization=basic(('ann', 'vic', str(number))[number % 3], f'guess {number}'))[0]

        with self.assertLogs('lovely.remotetask', 'WARNING'), ThreadPoolExecutor(30) as pool:
            attacks = pool.map(attack, range(90))
            for _ in range(50):
                self.assertEqual(ann.getAvailableTasks(), ['echo', 'square'])
            statuses = list(attacks)
        self.assertEqual(set(statuses), {401, 429})
        self.assertLess(statuses.count(401), 2 * access.ADDRESS_LIMIT)


if __name__ == '__main__':
    unittest.main()
