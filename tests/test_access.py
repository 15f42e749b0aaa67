"""Who may call: roles, limits, waits after failures, TLS; over sockets, and with the processes that users start."""
# SPDX-License-Identifier: ZPL-2.1
import base64
import contextlib
import dataclasses
import http.client
import json
import logging
import os
import pathlib
import re
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import unittest
import xmlrpc.client
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import trustme
from cryptography.hazmat.primitives import serialization
from zope.component import provideUtility

from lovely.remotetask.config.limits import Limits
from lovely.remotetask.config.users import ROLES
from lovely.remotetask.config.users import Users
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.job import Job
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
from lovely.remotetask.xmlrpc.access import checkExposure
from lovely.remotetask.xmlrpc.server import Frontend
from lovely.remotetask.xmlrpc.tls import Certificate
from test_cli import PATIENCE
from test_cli import environment
from test_cli import start
from test_users import HASH
from test_users import OTHER_HASH
from test_users import OTHER_PASSWORD
from test_users import PASSWORD
from test_xmlrpc_gateway import inThread
from test_xmlrpc_server import CALL
from test_xmlrpc_server import WAIT
from test_xmlrpc_server import ServerCase


USERS = f'''\
ann:{HASH}:manage:*:*
sue:{HASH}:submit:*:*
vic:{HASH}:view:*:*
films:{HASH}:submit:ec*:*
site:{HASH}:manage:*:/site1/*
other:{OTHER_HASH}:manage:ech?,squ[ab]re,none:/,/site1/*
'''


def basic(name, password):
    """Return the header Authorization."""
    return 'Basic ' + base64.b64encode(f'{name}:{password}'.encode()).decode()


def parked(directory, text=USERS):
    """Write a users file into a directory and return its path."""
    path = os.path.join(directory, 'users')
    with open(path, 'w', encoding='utf-8', opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
    return path


class TestThrottle(unittest.TestCase):

    def setUp(self):
        self.throttle = Throttle()

    def fail(self, count, address='192.0.2.1', name='ann', now=0.0):
        for _ in range(count):
            self.throttle.failed(address, name, now)

    def wait(self, address='192.0.2.1', name='ann', now=0.0):
        return self.throttle.wait(address, name, now)

    def test_waits_grow(self):
        self.assertEqual(self.wait(), 0)
        waits = []
        for _ in range(12):
            self.fail(1)
            waits.append(self.wait())
        self.assertEqual(waits, [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60])
        self.assertEqual(self.wait(now=59.5), 0.5)
        self.assertEqual(self.wait(now=60), 0)

    def test_others_are_not_held_up(self):
        self.fail(10)
        self.assertEqual(self.wait(name='bob'), 0)
        self.assertEqual(self.wait(address='192.0.2.2'), 0)

    def test_addresses(self):
        for number in range(22):
            self.fail(1, name=str(number))
        self.assertEqual(self.wait(name='new'), 4)
        self.assertEqual(self.wait(name='new', address='192.0.2.2'), 0)

    def test_names(self):
        for number in range(22):
            self.fail(1, address=f'192.0.2.{number}')
        self.assertEqual(self.wait(address='198.51.100.1'), 4)
        self.assertEqual(self.wait(address='198.51.100.1', name='bob'), 0)

    def test_who_has_logged_in(self):
        self.throttle.succeeded('192.0.2.1', 'ann')
        for number in range(100):
            self.fail(1, address=f'192.0.2.{number + 2}')       # the name is attacked
            self.fail(1, name=str(number))                      # and so it is from this address
        self.assertEqual(self.wait(), 0)
        self.assertEqual(self.wait(name='bob'), 60)
        self.fail(4)
        self.assertEqual(self.wait(), 2)
        self.throttle.succeeded('192.0.2.1', 'ann')
        self.assertEqual(self.wait(), 0)

    def test_failures_are_forgiven(self):
        self.fail(5)
        self.assertEqual(self.wait(), 4)
        self.fail(1, now=60)                                    # two were forgiven
        self.assertEqual(self.wait(now=60), 2)
        self.fail(1, now=1000)
        self.assertEqual(self.wait(now=1000), 0)

    def test_a_client_with_an_old_password(self):
        # It tries as often as it may, for a day.  Nobody else at its address has to wait, ever.
        now = 0.0
        while now < 86400:
            self.fail(1, now=now)
            now += max(0.1, self.wait(now=now))
            self.assertEqual(self.wait(name='bob', now=now), 0)
            self.assertEqual(self.wait(address='192.0.2.2', now=now), 0)

    def test_networks(self):
        self.fail(5, '2001:db8:0:1::1')
        for address, wait in (('2001:db8:0:1:ffff::2', 4), ('2001:db8:0:2::1', 0), ('2001:db8:0:1::1%lo', 4)):
            self.assertEqual(self.wait(address), wait)
        self.fail(5, '::ffff:192.0.2.9')
        self.assertEqual(self.wait('192.0.2.9'), 4)
        self.assertEqual(self.wait('::ffff:192.0.2.8'), 0)

    def test_memory_is_bounded(self):
        throttle = Throttle(size=10)
        for number in range(1000):
            throttle.failed(f'2001:db8:0:{number:x}::1', f'{number}' * 1000, 0)
            throttle.succeeded('192.0.2.1', str(number))
        self.assertEqual(throttle.statistics(), {'counted': 10, 'proven': 10})

    def test_long_names_are_cut(self):
        for _ in range(5):
            self.throttle.failed('192.0.2.1', 'x' * 100 + 'yz', 0)
        self.assertEqual(self.wait('192.0.2.1', 'x' * 100 + 'y'), 4)
        self.assertEqual(self.wait('192.0.2.1', 'x' * 99), 0)


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

    waitUntil = ServerCase.waitUntil

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


class AccessCase(ServerCase):
    """A frontend with users."""

    def makeFrontend(self):
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        self.path, self.throttle = parked(directory), Throttle()
        authenticator = Authenticator(Users(self.path), self.throttle)
        return Frontend(('127.0.0.1', 0), self.gateway, self.limits, authenticator=authenticator)

    def as_(self, name, password=PASSWORD, path='/'):
        """Return a proxy of a user."""
        host, port = self.frontend.address
        user = f'{name}:{"".join(f"%{byte:02x}" for byte in password.encode())}'
        proxy = xmlrpc.client.ServerProxy(f'http://{user}@{host}:{port}{path}', allow_none=True)
        self.addCleanup(proxy('close'))
        return proxy

    def assertRefused(self, function, *arguments, reason=''):
        with self.assertLogs('lovely.remotetask', 'WARNING') as logged:
            self.assertFault(faults.NOT_ALLOWED, reason, function, *arguments)
        self.assertEqual(len(logged.output), 1)
        self.assertRegex(logged.output[0], f'refused 127.0.0.1, user .*{reason}')


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


class TlsCase(AccessCase):
    """A frontend with users and TLS."""

    def makeFrontend(self):
        self.authority = trustme.CA()
        self.client = ssl.create_default_context()
        self.authority.configure_trust(self.client)
        frontend = super().makeFrontend()
        self.pem = os.path.join(os.path.dirname(self.path), 'certificate.pem')
        self.certify(self.pem)
        frontend.tls = Certificate(self.pem)
        return frontend

    def certify(self, path):
        self.authority.issue_cert('127.0.0.1').private_key_and_cert_chain_pem.write_to_path(path)

    def connect(self):
        """Return a TLS connection, with the handshake done."""
        return self.client.wrap_socket(self.socket(), server_hostname='127.0.0.1')

    def over(self, connection):
        """Send a call over a TLS connection and return the status."""
        connection.sendall(b'POST / HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n' % (
            basic('ann', PASSWORD).encode(), len(CALL)) + CALL)
        response = http.client.HTTPResponse(connection)
        response.begin()
        response.read()
        return response.status

    def assertServing(self):
        with self.connect() as connection:
            self.assertEqual(self.over(connection), 200)


class TestTls(TlsCase):

    level = 2

    def test_calls(self):
        host, port = self.frontend.address
        password = ''.join(f'%{byte:02x}' for byte in PASSWORD.encode())
        with xmlrpc.client.ServerProxy(f'https://ann:{password}@{host}:{port}/', context=self.client,
                                       allow_none=True) as proxy:
            jobid = proxy.add('echo', 'x' * 300000)
            self.assertEqual(proxy.getStatus(jobid), 'queued')
            self.assertEqual(proxy.waitFor([jobid], 0), ['queued'])
        with xmlrpc.client.ServerProxy(f'https://{host}:{port}/', context=self.client) as proxy:
            with self.assertLogs('lovely.remotetask', 'WARNING'), self.assertRaises(xmlrpc.client.ProtocolError) as no:
                proxy.getStatus(jobid)
        self.assertEqual(no.exception.errcode, 401)

    def test_connection_is_kept(self):
        with self.connect() as connection:
            self.assertEqual([self.over(connection) for _ in range(3)], [200] * 3)
            self.assertGreaterEqual(connection.version(), 'TLSv1.2')

    def test_rude_clients(self):
        with self.assertNoLogs('lovely.remotetask', 'INFO'):
            for data in (b'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx', b'', os.urandom(500),
                         b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'):         # a ClientHello's beginning
                with contextlib.suppress(OSError):
                    self.assertNotIn(b'200', self.send(data))
            for data in b'', b'\x16\x03\x01':
                connection = self.socket()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))     # a reset
                connection.sendall(data)
                connection.close()
            with self.socket() as distrustful, self.assertRaises(ssl.SSLCertVerificationError):
                ssl.create_default_context().wrap_socket(distrustful, server_hostname='127.0.0.1')
        with self.connect() as connection:              # ends without a word, in the middle of a request
            connection.sendall(b'POST / HTTP/1.1\r\n')
            os.close(connection.detach())
        self.assertServing()

    def test_renewal(self):
        def serial():
            with self.connect() as connection:
                return connection.getpeercert()['serialNumber']

        first = serial()
        with self.connect() as kept:
            self.certify(self.pem + '.new')
            os.replace(self.pem + '.new', self.pem)
            second = serial()
            self.assertNotEqual(second, first)
            self.assertEqual(self.over(kept), 200)
        pathlib.Path(self.pem).write_text('broken')
        with self.assertLogs('lovely.remotetask', 'ERROR') as logged:
            self.assertEqual([serial(), serial()], [second] * 2)
        self.assertEqual(len(logged.output), 1)
        self.assertIn('the certificate stays as it was', logged.output[0])

    def test_renewal_that_cannot_be_read_is_tried_again(self):
        self.assertServing()                            # it has the files that it needs
        certificate = Certificate(self.pem)
        contexts = []

        def look():
            contexts.append(certificate.context())
        self.certify(self.pem + '.new')
        os.replace(self.pem + '.new', self.pem)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        with self.assertLogs('lovely.remotetask', 'ERROR') as logged:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            for _ in range(3):
                look()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        self.assertEqual(len(logged.output), 1)
        self.assertIn('the certificate stays as it was', logged.output[0])
        look()
        self.assertEqual([context is contexts[0] for context in contexts], [True, True, True, False])

    def test_stop(self):
        with self.connect() as idle, self.socket() as silent:
            self.assertEqual(self.over(idle), 200)
            self.assertTrue(self.frontend.stop(WAIT))
            self.assertEqual(self.receive(silent), b'')


class TestIdleOverTls(TlsCase):

    level = 2

    limits = Limits(silentTLS=2, requestTime=WAIT, idleTime=WAIT)

    def test_the_oldest_goes(self):
        first, second = self.connect(), self.connect()
        self.addCleanup(first.close)
        self.addCleanup(second.close)
        stalled = [self.socket() for _ in range(3)]             # shake no hands
        self.assertEqual(self.receive(stalled[0]), b'')
        self.assertEqual([self.over(connection) for connection in (first, second)], [200, 200])
        with self.connect() as third:
            self.assertEqual(self.receive(first), b'')
            self.assertEqual([self.over(connection) for connection in (second, third)], [200, 200])


class TestSlowOverTls(TlsCase):
    """Clients of TLS that take their time, or leave in the middle."""

    limits = Limits(requestTime=WAIT, idleTime=WAIT, silentTLS=3, answerTime=3600)

    def makeFrontend(self):
        frontend = super().makeFrontend()
        frontend.authenticator = Authenticator()
        return frontend

    def connect(self):
        connection = socket.socket()
        self.addCleanup(connection.close)
        connection.settimeout(WAIT)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.connect(self.frontend.address)
        return self.client.wrap_socket(connection, server_hostname='127.0.0.1')

    def ask(self, connection, method, path, *lines):
        body = xmlrpc.client.dumps((1,), method).encode()
        head = '\r\n'.join([f'POST {path} HTTP/1.1', 'Host: x', f'Content-Length: {len(body)}', *lines, '', ''])
        connection.sendall(head.encode() + body)

    def askForLarge(self, *lines):
        """Return a connection whose client has not taken all of the response, which is large."""
        class Large:
            jobs = {1: Job(1, 'large', None)}

            def getResult(self, jobid):
                return b'x' * 20_000_000
        self.services['/large'] = Large()
        connection = self.connect()
        self.ask(connection, 'getResult', '/large', *lines)
        self.waitUntil(lambda: self.frontend.statistics()['bytesHeld'])
        return connection

    def waitForTheEnd(self):
        self.waitUntil(lambda: not self.frontend.statistics()['connections'])
        self.assertEqual(self.frontend.statistics()['bytesHeld'], 0)

    def test_all_of_the_last_response(self):
        connection = self.askForLarge('Connection: close')
        head, _, body = self.receive(connection).partition(b'\r\n\r\n')
        self.assertEqual(len(body), int(re.search(b'Content-Length: ([0-9]+)', head)[1]))
        connection.close()
        self.waitForTheEnd()

    def test_who_reads_nothing(self):
        self.frontend.limits = dataclasses.replace(self.limits, answerTime=0.3)
        for lines in (), ('Connection: close',):
            for leaves in False, True:
                connection = self.askForLarge(*lines)
                if leaves:
                    connection = socket.socket(fileno=connection.detach())
                    connection.shutdown(socket.SHUT_WR)
                self.waitForTheEnd()
                connection.close()

    def test_who_leaves_while_it_is_not_read_from(self):
        begun, go = self.addSlow('slow')
        self.frontend.limits = dataclasses.replace(self.limits, answerTime=0.3)
        connection = self.connect()
        self.ask(connection, 'getStatus', '/slow', 'Connection: close')
        self.assertTrue(begun.wait(WAIT))
        connection.sendall(b'x' * 100_000)              # far more than is read in advance
        with socket.socket(fileno=connection.detach()) as connection:
            connection.shutdown(socket.SHUT_WR)
            go.set()
            self.waitForTheEnd()

    def test_who_says_no_goodbye(self):
        connections = [self.connect() for _ in range(10)]
        self.waitUntil(lambda: self.frontend.statistics()['accepted'] == 10)
        self.waitUntil(lambda: self.frontend.statistics()['connections'] == 3)
        for connection in connections:
            connection.close()

    def test_response_under_way_is_given_before_it_stops(self):
        # Of so much the system takes only a part before the client reads.
        begun, go = self.addSlow('x' * 16_000_000)
        with self.connect() as connection:
            self.ask(connection, 'getStatus', '/slow')
            self.assertTrue(begun.wait(WAIT))
            reading, response = inThread(self.receive, connection)
            stopping, outcome = inThread(self.frontend.stop, WAIT)
            self.waitUntil(lambda: self.frontend.isStopping)
            go.set()
            reading.join(WAIT)
            stopping.join(WAIT)
        self.assertTrue(b'x' * 16_000_000 in response[0])
        self.assertEqual(outcome, [True])

    def test_who_says_no_goodbye_when_it_stops(self):
        begun, go = self.addSlow('slow')
        first, second = self.connect(), self.connect()
        self.ask(first, 'getStatus', '/', 'Connection: close')
        self.assertIn(b'no job', self.receive(first))
        self.ask(second, 'getStatus', '/slow', 'Connection: close')
        self.assertTrue(begun.wait(WAIT))
        stopping, outcome = inThread(self.frontend.stop, WAIT)
        self.waitUntil(lambda: self.frontend.isStopping)
        go.set()
        self.assertIn(b'slow', self.receive(second))
        stopping.join(WAIT)
        self.assertEqual(outcome, [True])
        self.assertEqual(self.frontend.statistics()['connections'], 0)
        first.close()
        second.close()


class TestStalledHandshakes(TlsCase):

    level = 2

    limits = Limits(requestTime=0.3, idleTime=WAIT)

    def test_stalled(self):
        for data in b'', b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03':
            connection = self.socket()
            connection.sendall(data)
            self.assertNotIn(b'200', self.receive(connection))


class TestPlainPort(ServerCase):

    level = 2

    limits = Limits(requestTime=0.3, idleTime=WAIT)

    def test_tls_client(self):
        context = ssl.create_default_context()
        with self.assertRaises(OSError), context.wrap_socket(self.socket(), server_hostname='127.0.0.1'):
            pass
        self.assertServing()


class TestCertificate(unittest.TestCase):

    def test_files(self):
        directory = self.enterContext(tempfile.TemporaryDirectory())
        certificate, key, other, encrypted = (os.path.join(directory, name) for name in 'ckoe')
        leaf = trustme.CA().issue_cert('127.0.0.1')
        leaf.cert_chain_pems[0].write_to_path(certificate)
        leaf.private_key_pem.write_to_path(key)
        trustme.CA().issue_cert('127.0.0.1').private_key_pem.write_to_path(other)
        loaded = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
        with open(encrypted, 'wb') as file:
            file.write(loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                            serialization.BestAvailableEncryption(b'secret')))
        self.assertEqual(Certificate(certificate, key).context().minimum_version, ssl.TLSVersion.TLSv1_2)
        for paths in ((certificate,), (certificate, other), (certificate, encrypted), (key,), (directory,),
                      (certificate, certificate + 'x')):
            with self.subTest(paths), self.assertRaises(ConfigurationError) as caught:
                Certificate(*paths)
            self.assertRegex(str(caught.exception), f'cannot use the certificate {paths[0]} with the key .*: .')
        with self.assertRaisesRegex(ConfigurationError, 'the key has a password: give one without'):
            Certificate(certificate, encrypted)
        os.chmod(key, 0o604)
        with self.assertLogs('lovely.remotetask', 'WARNING') as logs:
            Certificate(certificate, key)
        self.assertIn(f'all users of this machine can read the private key {key}', logs.output[0])


class TestExposure(unittest.TestCase):

    def test_addresses(self):
        for host in '127.0.0.1', '127.1.2.3', '::1', 'localhost', '::ffff:127.0.0.1':
            checkExposure((host, 80), False, False)
        for host in '', '0.0.0.0', '::', '192.0.2.1', '2001:db8::1', 'no.such.host.invalid', 'x' * 300:
            with self.subTest(host):
                checkExposure((host, 80), True, True)
                for given, message in (((False, False), 'add users and certificate to <frontend>'),
                                       ((True, False), 'add certificate to'), ((False, True), 'add users to')):
                    with self.assertRaises(ConfigurationError) as caught:
                        checkExposure((host, 80), *given)
                    self.assertIn(message, str(caught.exception))
                    self.assertIn(f'{host}:80', str(caught.exception))
                    self.assertIn('allow-insecure on', str(caught.exception))


CONFIGURATION = '''
<zodb>
  <mappingstorage/>
</zodb>
<frontend>
  address {address}
  {more}
</frontend>
'''


class TestProcesses(unittest.TestCase):
    """The server and the clients as users start them."""

    level = 2

    def setUp(self):
        self.directory = os.path.realpath(self.enterContext(tempfile.TemporaryDirectory()))
        parked(self.directory)
        self.authority = trustme.CA()
        leaf = self.authority.issue_cert('127.0.0.1', 'localhost')
        leaf.cert_chain_pems[0].write_to_path(self.file('certificate.pem'))
        leaf.private_key_pem.write_to_path(self.file('key.pem'))
        self.authority.cert_pem.write_to_path(self.file('authority.pem'))

    def file(self, name):
        return os.path.join(self.directory, name)

    def serve(self, address, *more):
        """Start a frontend; return the process."""
        with open(self.file('remotetask.conf'), 'w') as file:
            file.write(CONFIGURATION.format(address=address, more='\n  '.join(more)))
        process = start('-C', self.file('remotetask.conf'), 'serve')
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def urlOf(self, process):
        """Wait until a frontend is ready; return its URL, and have its log read from then on."""
        for line in process.stdout:
            if line.startswith('listening on '):
                url = line.split()[-1]
            if line == 'ready\n':
                return url
        self.fail(process.stderr.read())

    def remotetask(self, *arguments, **more):
        process = start(*arguments, env=environment(**more), stdin=subprocess.DEVNULL)
        output, errors = process.communicate(timeout=PATIENCE)
        return process.returncode, output, errors

    def test_open(self):
        for address, more, message in (
                ('0.0.0.0:0', (), 'add users and certificate to <frontend>'),
                ('[::]:0', ('users users',), 'add certificate to <frontend>'),
                ('127.0.0.1:0', ('users nowhere',), 'nowhere: cannot read the users file'),
                ('127.0.0.1:0', ('certificate key.pem',), 'cannot use the certificate')):
            with self.subTest(address, more=more):
                process = self.serve(address, *more)
                output, errors = process.communicate(timeout=PATIENCE)
                self.assertEqual(process.returncode, 2)
                self.assertNotIn('ready', output)
                self.assertIn(message, errors.splitlines()[-1])

    def test_allowed(self):
        process = self.serve('0.0.0.0:0', 'allow-insecure on')
        self.assertRegex(self.urlOf(process), 'http://0.0.0.0:[0-9]+/')

    def test_story(self):
        process = self.serve('0.0.0.0:0', 'users users', 'certificate certificate.pem', 'key key.pem')
        port = re.fullmatch('https://0.0.0.0:([0-9]+)/\n?', self.urlOf(process))[1]
        trust = {'SSL_CERT_FILE': self.file('authority.pem')}
        password = PASSWORD.replace(' ', '%20')
        url = f'https://sue:{password}@localhost:{port}/'
        code, output, errors = self.remotetask('add', '--url', url, 'echo', '[1]', '--wait', **trust)
        self.assertEqual((code, json.loads(output)), (0, [1]))
        self.assertRegex(errors, r'\Ajob \d+\n\Z')
        code, output, errors = self.remotetask('pause', '--url', url, **trust)
        self.assertEqual((code, output), (1, ''))
        self.assertIn('needs the role manage', errors)
        for wrong, message in (
                (f'https://localhost:{port}/', '401 Unauthorized; put user and password into the URL, https://USER:'),
                (f'https://sue:x@localhost:{port}/', '401 Unauthorized; there is no such user, or the password'),
                (f'https://sue:{password}@127.0.0.2:{port}/', 'the certificate is for another host'),
                (f'http://sue:{password}@localhost:{port}/', 'if the front end speaks TLS, the URL begins with https')):
            code, output, errors = self.remotetask('tasks', '--url', wrong, **trust)
            self.assertNotEqual(code, 0)
            self.assertIn(message, errors)
            self.assertNotIn(password, errors)
        code, output, errors = self.remotetask('tasks', '--url', url)
        self.assertEqual((code, output), (3, ''))
        self.assertIn('name its file in the environment: SSL_CERT_FILE=FILE', errors)


if __name__ == '__main__':
    unittest.main()
