"""The pages: who sees what, what buttons do, forged requests, markup and secrets, times gone by."""
# SPDX-License-Identifier: ZPL-2.1
import base64
import contextlib
import doctest
import html.parser
import itertools
import json
import os
import pathlib
import re
import socket
import tempfile
import threading
import time
import unittest
import unittest.mock
import urllib.parse
import urllib.request

import webob
import zope.component.testing
from persistent.TimeStamp import TimeStamp
from prometheus_client.parser import text_string_to_metric_families
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import StorageError
from zope.component import provideAdapter
from zope.component import provideUtility
from zope.configuration import xmlconfig
from zope.interface import Interface
from zope.interface import implementer
from zope.schema import Bool
from zope.schema import Choice
from zope.schema import Dict
from zope.schema import Float
from zope.schema import Int
from zope.schema import Password
from zope.schema import Text
from zope.schema import TextLine

from lovely.remotetask.common.masking import HIDDEN
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.execution import bulk
from lovely.remotetask.execution.bulk import TASK
from lovely.remotetask.files import LARGE
from lovely.remotetask.filters import parseFilter
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.interfaces import IJob
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import install
from lovely.remotetask.storage import scheduling
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.task import TaskError
from lovely.remotetask.testing import waitForJobs
from lovely.remotetask.web import auditpages
from lovely.remotetask.web import bulkpages
from lovely.remotetask.web import formats
from lovely.remotetask.web import forms
from lovely.remotetask.web import jobpages
from lovely.remotetask.web import metrics
from lovely.remotetask.web import scheduleforms
from lovely.remotetask.web import words
from lovely.remotetask.web.actions import VERBS
from lovely.remotetask.web.application import application
from lovely.remotetask.web.charts import Counter
from lovely.remotetask.web.health import Readiness
from lovely.remotetask.web.interfaces import IJobDetail
from lovely.remotetask.web.server import Server
from lovely.remotetask.web.server import checkReach
from lovely.remotetask.xmlrpc.access import Caller
from lovely.remotetask.xmlrpc.access import Unauthorized
from test_users import HASH
from test_users import OTHER_HASH
from test_users import OTHER_PASSWORD
from test_users import PASSWORD


NOW = 1_780_000_000.0
#: What would run if it were not escaped, in text, in attributes, and in a script.
MARKUP = '''</title><script>alert(1)</script><img src=x onerror="alert(1)">"'><b>'''

USERS = f'''
ann:{HASH}:manage:*:*
sue:{HASH}:submit:*:*
bob:{OTHER_HASH}:view:*:*
films:{OTHER_HASH}:manage:film*:*
'''
PASSWORDS = {'ann': PASSWORD, 'sue': PASSWORD, 'bob': OTHER_PASSWORD, 'films': OTHER_PASSWORD}


class IFilm(Interface):
    """What a film needs."""

    title = TextLine(title='Title')
    year = Int(title='Year', required=False, min=1888)
    rate = Float(title='Rate', required=False)
    isMute = Bool(title='Mute', default=True)
    kind = Choice(title='Kind', values=('drama', 'comedy'), required=False)
    about = Text(title='About', required=False)
    password = Password(title='Password', required=False)
    pin2 = Password(title='Second password', required=False)
    more = Dict(title='More', required=False)


class WebCase(unittest.TestCase):
    """A database, tasks, users, a clock, and browsers."""

    users = None

    def setUp(self):
        self.addCleanup(zope.component.testing.tearDown)
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.db = DB(FileStorage(self.directory + '/Data.fs', blob_dir=self.directory + '/blobs'))
        self.addCleanup(self.db.close)
        install(self.db)
        for name, task in (('echo', SimpleTask(lambda input: input)), ('fail', SimpleTask(self.fail_)),
                           ('film', SimpleTask(lambda input: input, IFilm)), ('a/b c', SimpleTask(str))):
            provideUtility(task, name=name)
        self.now = NOW
        users = None
        if self.users:
            users = self.directory + '/users'
            with open(os.open(users, os.O_WRONLY | os.O_CREAT, 0o600), 'w', encoding='utf-8') as file:
                file.write(self.users)
        self.application = application(self.db, users, clock=lambda: self.now)

    def fail_(self, input):
        raise TaskError('as asked')

    @contextlib.contextmanager
    def service(self):
        """Give the service, and commit what is done to it."""
        with self.db.transaction() as connection:
            yield connection.root()['Application']['TaskService']

    def do(self, name, *arguments, **options):
        """Call a method of the service, and return what it returns."""
        with self.service() as service:
            return getattr(service, name)(*arguments, **options)

    def request(self, path, user=None, form=None, **headers):
        """Return a request as a browser of this machine sends it; names of headers have _ for -."""
        request = webob.Request.blank(path, POST=form, environ={'REMOTE_ADDR': '127.0.0.1'})
        if user is not None:
            pair = f'{user}:{PASSWORDS.get(user, "wrong password")}'.encode()
            request.headers['Authorization'] = 'Basic ' + base64.b64encode(pair).decode()
        if form is not None:
            request.headers['Sec-Fetch-Site'] = 'same-origin'
            request.headers['Origin'] = 'http://localhost'
        for name, value in headers.items():
            name = name.replace('_', '-')
            if value is None:
                request.headers.pop(name, None)
            else:
                request.headers[name] = value
        return request

    def get(self, path, user=None, status=200, **headers):
        """Return the response to a request for a page."""
        response = self.request(path, user, **headers).get_response(self.application)
        self.assertEqual(response.status_int, status, response.text)
        return response

    def token(self, user=None):
        return self.application.guard.tokenOf(Caller(user, frozenset()))

    def post(self, button, user=None, status=303, form=None, query='', **fields):
        """Return the response to pressing a button."""
        form = {'token': self.token(user), **fields} if form is None else form
        response = self.request(f'/do/{button}{query}', user, form).get_response(self.application)
        self.assertEqual(response.status_int, status, response.text)
        return response

    def status(self, jobid):
        return self.do('getStatus', jobid)


class TestPages(WebCase):

    def add(self):
        """Add a job in each status, and return their ids: status -> id."""
        with self.service() as service:
            jobids = {'completed': service.add('echo', {'film': 'Metropolis'}, now=NOW - 300),
                      'error': service.add('fail', now=NOW - 200)}
            service.process(NOW - 100)
            jobids['processing'] = service.add('echo', now=NOW - 80)
            service.claimNextJob(NOW - 70)
            jobids['queued'] = service.add('echo', now=NOW - 60)
            jobids['cancelled'] = service.add('echo', now=NOW - 50)
            service.cancel(jobids['cancelled'], NOW - 40)
            jobids['start later'] = service.add('echo', startLater=True, now=NOW - 30)
            jobids['cronjob'] = service.addCronJob('echo', crontab='0 8 * * mon-fri', now=NOW - 20)
            jobids['delayed'] = service.addCronJob('echo', delay=90, now=NOW - 10)
        return jobids

    def test_they_say_what_there_is(self):
        jobids = self.add()
        self.assertEqual({status: self.status(jobid) for status, jobid in jobids.items()}, dict(zip(jobids, jobids)))
        overview = self.get('/').text
        for status in STATUSES:
            self.assertRegex(overview, rf'<span class="number">1</span> <span class="status [a-z-]+">{status}</span>')
        self.assertIn('No host processes this service.', overview)
        self.assertIn('<strong>1</strong> completed, <strong>1</strong> failed', overview)
        listed = self.get('/jobs')
        self.assertEqual(set(map(int, re.findall(r'<tr id="job-(\d+)"', listed.text))), set(jobids.values()))
        for status, jobid in jobids.items():
            with self.subTest(status):
                page = self.get(f'/jobs/{jobid}').text
                self.assertIn(f'>{status}</span>', page)
                found = re.findall(r'<tr id="job-(\d+)"', self.get(f'/jobs?filter=status:"{status}"').text)
                self.assertEqual(found, [str(jobid)])
        self.assertIn('at 08:00, Monday to Friday, UTC', self.get('/schedules').text)
        self.assertIn('as asked', self.get(f'/jobs/{jobids["error"]}').text)

    def test_each_page_is_whole(self):
        jobid = self.add()['error']
        for path in '/', '/jobs', f'/jobs/{jobid}', '/schedules', '/tasks', '/tasks/echo', '/tasks/a/b%20c', \
                '/hosts', '/bulk?verb=cancel&filter=task:echo':
            with self.subTest(path):
                response = self.get(path)
                self.assertEqual(response.content_type, 'text/html')
                self.assertTrue(response.text.startswith('<!DOCTYPE html>'), response.text[:50])
                self.assertEqual(response.text.count('<h1>'), 1)
                self.assertNotRegex(response.text, r'<script(?! defer src)|\son[a-z]+=|\sstyle=|javascript:|https?://')
                self.assertIn("default-src 'none'; script-src 'self'", response.headers['Content-Security-Policy'])
                ids = re.findall(r'\sid="([^"]*)"', response.text)
                self.assertEqual(len(ids), len(set(ids)), ids)
                for name in re.findall(r'aria-(?:labelledby|describedby)="([^"]*)"', response.text):
                    self.assertIn(name, ids)

    def test_what_is_not_there(self):
        for path, status in (('/nowhere', 404), ('/jobs/77', 404), ('/jobs/x', 404), ('/tasks/none', 404),
                             ('/jobs/', 404), ('/static/none.css', 404), ('/static/..%2Fserver.py', 404),
                             ('/?service=/none', 404), ('/jobs?filter=state:x', 400), ('/jobs?after=x', 400),
                             ('/schedules?after=x', 400), ('/do/cancel', 405), ('/do/none', 404), ('/%ff', 400),
                             ('/?at=soon', 400), ('/?at=2999-01-01', 400), ('/jobs/99999999999', 404)):
            with self.subTest(path):
                self.assertNotIn('Traceback', self.get(path, status=status).text)
        self.assertEqual(self.request('/', form={}).get_response(self.application).status_int, 405)
        self.assertEqual(webob.Request.blank('/', method='PUT').get_response(self.application).status_int, 405)

    def test_the_first_page_is_small(self):
        with self.service() as service:
            service.addMany([{'task': 'echo', 'input': {'number': number}} for number in range(60)], NOW)
        sizes = [len(self.get(path).body) for path in ('/jobs', '/static/pages.css', '/static/pages.js')]
        self.assertLess(sum(sizes), 60 * 1024, sizes)

    def test_files_are_kept_by_browsers(self):
        page = self.get('/').text
        for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
            response = self.get(path)
            self.assertIn('immutable', response.headers['Cache-Control'])
            self.assertEqual(self.get(path, status=304, If_None_Match=response.headers['ETag']).body, b'')

    def test_head(self):
        request = self.request('/jobs')
        request.method = 'HEAD'
        response = request.get_response(self.application)
        self.assertEqual((response.status_int, response.body), (200, b''))

    def test_under_a_prefix(self):
        jobid = self.do('add', 'echo')
        request = self.request('/jobs')
        request.script_name = '/tools/remote tasks'
        page = request.get_response(self.application).text
        links = re.findall(r'(?:href|src|action|formaction)="([^"#]+)"', page)
        self.assertGreater(len(links), 15)
        for link in links:
            self.assertTrue(link.startswith('/tools/remote%20tasks/'), link)
        self.assertIn(f'"/tools/remote%20tasks/jobs/{jobid}"', page)
        request = self.request('/do/cancel', form={'token': self.token(), 'jobid': str(jobid), 'back': '/jobs?size=20'})
        request.script_name = '/tools'
        response = request.get_response(self.application)
        self.assertEqual(response.location, 'http://localhost/tools/jobs?size=20&said=cancel')

    def test_nothing_new_costs_nothing(self):
        response = self.get('/jobs')
        tag = response.headers['ETag']
        with unittest.mock.patch.object(self.db, 'open', side_effect=AssertionError):
            self.assertEqual(self.get('/jobs', status=304, If_None_Match=tag).body, b'')
        self.do('add', 'echo', now=NOW)
        self.assertIn('echo', self.get('/jobs', If_None_Match=tag).text)
        self.now += 60                          # durations on the page are another
        self.get('/jobs', If_None_Match=self.get('/jobs').headers['ETag'], status=304)
        self.get('/jobs', If_None_Match=tag)

    def test_pages_of_a_list(self):
        with self.service() as service:
            jobids = service.addMany([{'task': 'echo'}] * 120, NOW)
        seen, path = [], '/jobs?size=50'
        while path:
            page = self.get(path).text
            seen += map(int, re.findall(r'<tr id="job-(\d+)"', page))
            found = re.search(r'rel="next" href="([^"]+)"', page)
            path = found and found[1].replace('&amp;', '&')
            self.do('add', 'echo', now=NOW + len(seen))
        self.assertEqual((len(seen), set(seen)), (120, set(jobids)))

    def test_a_walk_that_was_cut_says_so(self):
        with self.service() as service:
            service.addMany([{'task': 'echo'}] * 5001, NOW)
        with unittest.mock.patch.object(jobpages, 'PATIENCE', 1e6):
            page = self.get('/jobs?filter=task:fail').text
        self.assertIn('Looked at 5\u202f000 of 5\u202f001 jobs', re.sub(r'\s+(?=of|jobs)', ' ', page))
        self.assertIn('Go on looking', page)

    def test_as_it_was(self):
        jobid = self.do('add', 'echo', 'long ago')
        then = TimeStamp(self.db.lastTransaction()).timeTime() + 0.000001
        at = urllib.parse.quote(f'{formats.asMachineTime(then)[:-1]}.{round(then % 1 * 1e6):06}')
        self.do('cancel', jobid)
        self.do('removeJobs')
        self.now = time.time() + 5
        self.get(f'/jobs/{jobid}', status=404)
        page = self.get(f'/jobs/{jobid}?at={at}').text
        self.assertIn('long ago', page)
        self.assertIn('As it was at', page)
        self.assertNotIn('<button data-ask', page)
        self.assertIn(f'/jobs?at={at}', self.get(f'/?at={at}').text)
        self.get('/?at=2001-01-01', status=404)

    def test_progress_and_hosts(self):
        with self.service() as service:
            jobid = service.add('echo', now=NOW)
            service.claimNextJob(NOW)
            service.setProgress(jobid, 0.25, 'first <b>pass')
        page = self.get(f'/jobs/{jobid}').text
        self.assertIn('<progress max="1" value="0.25"', page)
        self.assertIn('25%', page)
        self.assertIn('first &lt;b>pass', page.replace('&gt;', '>'))

    def test_late_schedules(self):
        with self.service() as service:
            jobid = service.addCronJob('echo', minute=(0,), now=NOW)
            scheduling.tick(service, NOW)
        self.assertNotIn('Late schedules', self.get('/').text)
        self.now += 7200
        self.assertIn('Late schedules', self.get('/').text)
        self.assertRegex(self.get('/schedules').text, rf'id="job-{jobid}"[\s\S]*late: ')

    def test_another_service(self):
        with self.db.transaction() as connection:
            folder = connection.root()['Application']
            other = folder['other'] = TaskService()
            folder.getSiteManager().registerUtility(other, ITaskService, 'other')
            jobid = other.add('echo', 'elsewhere', now=NOW)
        self.assertIn('?service=%2Fother', self.get('/').text)
        self.assertNotIn('?service=%2FTaskService', self.get('/').text)
        self.assertNotIn(str(jobid), self.get('/jobs').text)
        page = self.get('/jobs?service=/other').text
        self.assertIn(f'/jobs/{jobid}?service=%2Fother', page)
        self.post('cancel', jobid=str(jobid), query='?service=/other')
        with self.db.transaction() as connection:
            self.assertEqual(connection.root()['Application']['other'].getStatus(jobid), 'cancelled')

    def test_details_of_a_task(self):
        @implementer(IJobDetail)
        class Detail:
            def __init__(self, job):
                self.job = job

            def __str__(self):
                return f'film <b>{self.job.input}'

        provideAdapter(Detail, (IJob,), IJobDetail, name='echo')
        self.do('add', 'echo', 'M', now=NOW)
        self.assertIn('film &lt;b&gt;M', self.get('/jobs').text)


class Elements(html.parser.HTMLParser):
    """The elements of a page, as a browser understands them: pairs of name and dict of attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


class TestEscaping(WebCase):

    def assertHarmless(self, text):
        """Fail if an element or attribute comes from MARKUP."""
        found = Elements(text).found
        self.assertIn('main', dict(found))
        for tag, attributes in found:
            self.assertNotIn(tag, ('img', 'b'))
            self.assertTrue(tag != 'script' or set(attributes) == {'defer', 'src'}, attributes)
            for name in attributes:
                self.assertTrue(name[:2] != 'on' and name.replace('-', '').isalnum(), name)

    def test_markup_is_text(self):
        provideUtility(SimpleTask(self.fail_, IFilm), name=MARKUP)

        def raiseMarkup(input):
            raise TaskError(MARKUP)

        provideUtility(SimpleTask(raiseMarkup), name='x' + MARKUP)
        with self.service() as service:
            jobids = [service.add('echo', {MARKUP: [MARKUP, {'a': MARKUP}]}, now=NOW, key=MARKUP, request=MARKUP),
                      service.add('x' + MARKUP, MARKUP, now=NOW)]
            service.process(NOW)
            jobids.append(service.add('x' + MARKUP, MARKUP, now=NOW))
            service.claimNextJob(NOW)
            service.setProgress(jobids[-1], 0.5, MARKUP)
            jobids.append(service.addCronJob('x' + MARKUP, MARKUP, minute=(1,), now=NOW))
        quoted = urllib.parse.quote(MARKUP, safe='')
        paths = ['/', '/jobs', '/schedules', '/tasks', '/hosts', f'/tasks/{quoted}', f'/jobs?filter={quoted}',
                 f'/jobs?filter=x&size={quoted}&other={quoted}&said={quoted}', *(f'/jobs/{jobid}' for jobid in jobids)]
        shown = 0
        for path in paths:
            with self.subTest(path[:40]):
                response = self.request(path).get_response(self.application)
                self.assertIn(response.status_int, (200, 400))
                self.assertHarmless(response.text)
                shown += '&lt;script' in response.text
        self.assertGreaterEqual(shown, 9)
        for path in f'/{quoted}', f'/tasks/y{quoted}', f'/?service={quoted}', f'/?at={quoted}':
            with self.subTest(path[:40]):
                page = self.request(path).get_response(self.application)
                self.assertGreaterEqual(page.status_int, 400)
                self.assertHarmless(page.text)

    def test_a_page_never_leads_elsewhere(self):
        jobid = self.do('add', 'echo', now=NOW)
        for back in ('//evil.example/', 'http://evil.example/', '/\\evil.example', '/\tevil', '', 'jobs',
                     '/x\r\nSet-Cookie: a'):
            with self.subTest(back):
                self.do('add', 'echo', now=NOW)
                response = self.post('cancel', jobid=str(jobid), back=back) if back == '//evil.example/' else \
                    self.post('pause', back=back)
                parts = urllib.parse.urlsplit(response.location)
                self.assertEqual((parts.netloc, parts.path), ('localhost', '/'))
                self.assertNotIn('Set-Cookie', response.headers)


class TestSecrets(WebCase):

    def test_they_are_hidden(self):
        with self.service() as service:
            secrets = {'user': 'u', 'dbPassword': 'Geheim', 'deep': [{'api_key': 'Geheim'}]}
            jobids = [service.add('echo', secrets, now=NOW),
                      service.add('film', {'title': 'M', 'isMute': True, 'pin2': 'Geheim'}, now=NOW)]
            service.process(NOW)
            jobids.append(service.addCronJob('echo', {'token': 'Geheim'}, minute=(1,), now=NOW))
        for path in '/jobs', '/schedules', *(f'/jobs/{jobid}' for jobid in jobids):
            with self.subTest(path):
                page = self.get(path).text
                self.assertNotIn('Geheim', page)
        for jobid in jobids:
            self.assertIn(HIDDEN, self.get(f'/jobs/{jobid}').text)
        for text in 'Geheim', 'input.dbPassword:Geheim', 'input.pin2:*':
            self.assertNotIn('<tr id', self.get(f'/jobs?filter={text}').text)

    def test_more_of_them(self):
        jobid = self.do('add', 'echo', {'iban': 'DE00'}, now=NOW)
        self.assertIn('DE00', self.get(f'/jobs/{jobid}').text)
        self.application = application(self.db, mask=('IB*',), clock=lambda: NOW)
        self.assertNotIn('DE00', self.get(f'/jobs/{jobid}').text)
        self.assertNotIn('DE00', self.get('/jobs').text)

    def test_those_of_one_task(self):
        xmlconfig.string('''
            <configure xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask">
              <include package="lovely.remotetask" file="meta.zcml" />
              <remotetask:task name="pay" handler="lovely.remotetask.demo.echo" mask="iban b?c" />
            </configure>''')
        value = {'iban': 'DE00', 'bic': 'XXDE', 'sum': '17.50'}
        for task, hidden in ('pay', True), ('echo', False):
            page = self.get(f'/jobs/{self.do("add", task, value, now=NOW)}').text
            self.assertEqual(('DE00' in page, 'XXDE' in page, '17.50' in page), (not hidden, not hidden, True), task)
        for text in 'DE00', 'input.iban:DE00':          # also of other tasks: names are the same everywhere
            self.assertNotIn('<tr id', self.get(f'/jobs?filter={text}').text)

    def test_large_values_are_not_loaded(self):
        jobid = self.do('add', 'echo', 'x' * (LARGE + 1), now=NOW)
        self.assertIn('too large to be shown', self.get(f'/jobs/{jobid}').text)


class TestButtons(WebCase):

    def test_jobs(self):
        jobid = self.do('add', 'echo', startLater=True, now=NOW)
        response = self.post('start', jobid=str(jobid), back=f'/jobs/{jobid}')
        self.assertIn('The job was started.', self.get(response.location.removeprefix('http://localhost')).text)
        self.assertEqual(self.status(jobid), 'queued')
        self.post('cancel', jobid=str(jobid))
        self.assertEqual(self.status(jobid), 'cancelled')
        failed = self.do('add', 'fail', now=NOW)
        self.do('process', NOW)
        self.post('retry', jobid=str(failed))
        self.assertEqual(self.status(failed), 'queued')
        self.post('remove', jobid=str(jobid))
        self.get(f'/jobs/{jobid}', status=404)
        for verb in 'remove', 'retry', 'start', 'run', 'schedule':
            with self.subTest(verb):
                self.assertIn('Nothing was changed', self.post(verb, jobid=str(failed), status=409).text)
        for verb in VERBS:
            if verb in ('cancel', 'retry', 'start', 'remove', 'run', 'activate', 'deactivate', 'schedule'):
                for other in '77', 'x', '', '9' * 30:
                    with self.subTest(verb=verb, jobid=other):
                        self.post(verb, jobid=other, status=404)

    def test_selected_jobs(self):
        with self.service() as service:
            jobids = service.addMany([{'task': 'fail'}] * 3, NOW)
            service.process(NOW)
            waiting = service.addMany([{'task': 'echo'}] * 2, NOW)
        form = [('token', self.token()), *(('jobs', str(jobid)) for jobid in (*jobids[:2], *waiting, 77))]
        back = [('back', '/jobs?filter=task:fail')]
        for verb, count, status in (('retryMany', 2, 'queued'), ('cancelMany', 4, 'cancelled')):
            with self.subTest(verb):
                location = self.post(verb, form=form + back).location
                self.assertTrue(location.endswith(f'/jobs?filter=task%3Afail&said={verb}&count={count}'), location)
                self.assertEqual(self.status(jobids[0]), status)
        self.assertIn('Jobs cancelled: 4.', self.get(location.removeprefix('http://localhost')).text)
        self.post('removeMany', form=form)
        self.assertEqual(self.do('countJobs')['cancelled'], 0)
        self.assertEqual(self.status(jobids[2]), 'error')
        self.assertIn('said=none', self.post('cancelMany').location)

    def test_the_service(self):
        self.post('pause')
        with self.service() as service:
            self.assertTrue(service.paused)
        self.assertIn('Processing is paused.', self.get('/').text)
        self.post('resume')
        with self.service() as service:
            self.assertFalse(service.paused)

    def test_a_job_by_a_form(self):
        response = self.post('add', task='echo', input='{"a": [1, null]}')
        jobid = int(re.search(r'/jobs/(\d+)', response.location)[1])
        with self.service() as service:
            self.assertEqual(service.jobs[jobid].input, {'a': [1, None]})
        fields = {'input.title': 'M', 'input.year': '1931', 'input.rate': '', 'input.kind': 'drama',
                  'input.about': 'a\r\nb', 'input.password': 'pw', 'input.more': '{}'}
        response = self.post('add', task='film', startLater='on', **fields)
        jobid = int(re.search(r'/jobs/(\d+)', response.location)[1])
        with self.service() as service:
            self.assertEqual(service.jobs[jobid].input, {
                'title': 'M', 'year': 1931, 'isMute': False, 'kind': 'drama', 'about': 'a\nb', 'password': 'pw',
                'more': {}})
            self.assertEqual(service.getStatus(jobid), 'start later')
        before = self.do('countJobs')
        for task, sent, mistake in (
                ('echo', {'input': '{'}, 'It is not JSON'), ('echo', {'input': ''}, 'It is not JSON'),
                ('echo', {'input': 'NaN'}, 'NaN is not a value of JSON'),
                ('echo', {'input': '[' * 100_000}, 'It is nested too deeply'),
                ('film', {}, 'Something is needed here'),
                ('film', {**fields, 'input.year': 'x'}, 'is not a whole number'),
                ('film', {**fields, 'input.year': '1800'}, 'Value is too small'),
                ('film', {**fields, 'input.rate': 'x'}, 'is not a number'),
                ('film', {**fields, 'input.kind': 'x'}, 'Choose one of the list')):
            with self.subTest(task=task, sent=str(sent)[:50]):
                page = self.post('add', task=task, status=400, **sent).text
                self.assertIn(mistake, page)
                if 'input.about' in sent:
                    self.assertIn('value="M"', page)
                    self.assertNotIn('value="pw"', page)
        self.post('add', task='none', status=404)
        self.assertEqual(self.do('countJobs'), before)

    def test_schedules(self):
        response = self.post('addSchedule', task='echo', input='"x"', crontab='*/5 8 * * *', timeZone='Europe/Berlin',
                             newJobs='on', active='on')
        jobid = int(re.search(r'/jobs/(\d+)', response.location)[1])
        with self.service() as service:
            job = service.jobs[jobid]
            self.assertEqual((job.crontab, job.timeZone, job.newJobs, job.active, job.input),
                             ('*/5 8 * * *', 'Europe/Berlin', True, True, 'x'))
        self.post('schedule', jobid=str(jobid), minute='0 30', dayOfMonth='*', active='on')
        with self.service() as service:
            job = service.jobs[jobid]
            self.assertEqual((job.minute, job.dayOfMonth, job.crontab, job.newJobs),
                             ((0, 30), tuple(range(1, 32)), None, False))
        self.post('deactivate', jobid=str(jobid))
        with self.service() as service:
            self.assertFalse(service.jobs[jobid].active)
        self.assertIn('paused', self.get('/schedules').text)
        self.post('activate', jobid=str(jobid))
        for fields, mistake in (({'minute': 'x'}, "minute: 'x' is not a whole number"),
                                ({'minute': '60'}, 'minute'),
                                ({'crontab': 'x'}, 'crontab'),
                                ({'crontab': '* * * * *', 'delay': '5s'}, 'give only one'),
                                ({'delay': 'soon'}, 'delay'), ({'month': '2', 'dayOfMonth': '30'}, 'no time at all'),
                                ({'timeZone': 'Nowhere'}, 'Nowhere'), ({'misfire': 'often'}, 'misfire')):
            with self.subTest(fields):
                for verb, more in ('schedule', {'jobid': str(jobid)}), ('addSchedule', {'task': 'echo'}):
                    page = self.post(verb, status=400, **fields, **more).text
                    self.assertRegex(page, 'class="mistake" role="alert">[^<]*' + mistake)
                    self.assertIn(f'value="{next(iter(fields.values()))}"', page)
        with self.service() as service:
            self.assertEqual(service.jobs[jobid].minute, (0, 30))
        response = self.post('run', jobid=str(jobid))
        added = int(re.search(r'/jobs/(\d+)', response.location)[1])
        with self.service() as service:
            self.assertEqual((service.jobs[added].input, service.jobs[added].schedule, service.getStatus(added)),
                             ('x', jobid, 'queued'))

    def test_who_did_what_is_in_the_database(self):
        jobid = self.do('add', 'echo', now=NOW)
        with self.assertLogs('lovely.remotetask', 'INFO') as logged:
            self.post('cancel', jobid=str(jobid))
        self.assertIn(f"user 'anybody' at 127.0.0.1: 'cancel job {jobid} echo' in '/'", ' '.join(logged.output))
        last = self.db.undoInfo(0, 1)[0]
        self.assertEqual(last['description'], f'remotetask cancel job {jobid} echo in /')
        self.assertEqual(last['user_name'], '/ anybody')

    def test_conflicts_are_tried_again(self):
        jobid = self.do('add', 'echo', now=NOW)
        original, calls = VERBS['cancel'].function, []

        def cancel(context):
            done = original(context)
            calls.append(None)
            if len(calls) < 3:
                with self.service() as service:
                    service.jobs[jobid].touch()
            return done

        VERBS['cancel'] = VERBS['cancel']._replace(function=cancel)
        try:
            self.post('cancel', jobid=str(jobid))
        finally:
            VERBS['cancel'] = VERBS['cancel']._replace(function=original)
        self.assertEqual((len(calls), self.status(jobid)), (3, 'cancelled'))


class TestBulk(WebCase):

    def bulk(self, verb, filter, status=303, **fields):
        """Ask for it, confirm it, and run the job; return its id."""
        response = self.post('bulk', verb=verb, filter=filter, status=status, **fields)
        if status != 303:
            return response
        return int(re.search(r'/jobs/(\d+)', response.location)[1])

    def run_(self, jobid):
        """Run a job as a processing host does, and return what it gave."""
        with self.service() as service:
            task, input = TASK, service.jobs[jobid].input
            service.cancel(jobid, NOW)              # it is run here instead
        with self.service() as service:
            with unittest.mock.patch.object(TaskService, 'isCancelled', lambda self, jobid: False):
                return task(service, jobid, input)

    def test_all_that_fit(self):
        with self.service() as service:
            service.addMany([{'task': 'fail'}] * 450, NOW - 10)
            service.process(NOW - 5)
            waiting = service.addMany([{'task': 'echo'}] * 5, NOW - 10)
        page = self.get('/bulk?verb=retry&filter=task:fail').text
        self.assertRegex(page, r'<strong>450</strong> jobs that failed\s+fit <code>task:fail</code>')
        self.assertIn('Type 450 to confirm it', page)
        for typed in '', '45', '4500':
            page = self.bulk('retry', 'task:fail', 400, expected='450', typed=typed).text
            self.assertIn('Type 450, the number of jobs', page)
        jobid = self.bulk('retry', 'task:fail', expected='450', typed='450')
        self.assertIn('remotetask.bulk', self.get(f'/jobs/{jobid}').text)
        later = self.do('add', 'fail', now=NOW + 5)
        self.assertEqual(self.run_(jobid), {'changed': 450})
        self.assertEqual(self.do('countJobs')['queued'], 456)
        notes = [entry['description'] for entry in self.db.undoInfo(0, 20)]
        self.assertIn(f'remotetask retry 200 jobs for job {jobid}: task:fail', notes)
        jobid = self.bulk('cancel', 'status:queued task:fail', expected='50')
        self.assertEqual(self.run_(jobid), {'changed': 450})
        self.assertEqual(self.status(later), 'queued')
        self.now += 60
        jobid = self.bulk('remove', 'task:fail', expected='1')
        self.assertEqual(self.run_(jobid)['changed'], 450)
        counts = self.do('countJobs')
        self.assertEqual((counts['queued'], counts['cancelled']), (6, 3))
        self.assertEqual({self.status(jobid) for jobid in waiting}, {'queued'})

    def test_a_real_host_runs_it(self):
        with self.service() as service:
            service.addMany([{'task': 'echo', 'startLater': True}] * 300, NOW)
        self.now = time.time()
        jobid = self.bulk('cancel', 'status:start-later', expected='5')
        processor = MultiProcessor(self.db, ('TaskService',), name='one', waitTime=0.1)
        processor.start()
        self.addCleanup(processor.stop, 30)
        with self.db.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            self.assertEqual(waitForJobs(service, [jobid], 60), ['completed'])
            self.assertEqual(service.getResult(jobid), {'changed': 300})
            self.assertEqual(service.countJobs()['cancelled'], 300)
            connection.transaction_manager.abort()
        self.assertIn('<tr id', self.get('/jobs?filter=host:one').text)
        self.assertIn('>one<', self.get(f'/jobs/{jobid}').text)
        hosts = self.get('/hosts').text
        self.assertIn('<h2>one</h2>', hosts)
        self.assertIn('>one<', self.get('/').text)

    def test_conflicts_make_it_go_in_smaller_steps(self):
        with self.service() as service:
            jobids = service.addMany([{'task': 'echo', 'startLater': True}] * 30, NOW)
        jobid, sizes, original = self.bulk('cancel', 'status:start-later', expected='30'), [], bulk.doChunk

        def doChunk(service, own, input, after, size):
            chunk = original(service, own, input, after, size)
            sizes.append(size)
            if len(sizes) < 4:
                with self.service() as other:
                    other.jobs[jobids[-1]].touch()
            return chunk

        with unittest.mock.patch.object(bulk, 'doChunk', doChunk):
            self.assertEqual(self.run_(jobid), {'changed': 30})
        self.assertEqual(sizes[:4], [200, 100, 50, 25])

    def test_it_can_be_called_off(self):
        self.do('addMany', [{'task': 'echo'}] * 5, NOW)
        jobid = self.bulk('cancel', 'task:echo', expected='5')
        self.post('cancel', jobid=str(jobid))
        with self.service() as service:
            self.assertEqual(TASK(service, jobid, service.jobs[jobid].input), {'changed': 0})

    def test_nobody_else_can_add_it(self):
        for add in (lambda service: service.add('remotetask.bulk', {}),
                    lambda service: service.addMany([{'task': 'remotetask.bulk'}]),
                    lambda service: service.addCronJob('remotetask.bulk', {}, delay=5)):
            with self.assertRaises(UnknownTask), self.service() as service:
                add(service)
        self.post('add', task='remotetask.bulk', status=404)
        self.bulk('explode', '', 400, expected='1')
        jobid = self.bulk('retry', 'status:queued', expected='0')
        self.assertEqual(self.run_(jobid), {'changed': 0})
        self.bulk('cancel', 'state:x', 400, expected='1')
        for expected in '', 'x', '-1', '9' * 20:
            self.bulk('cancel', '', 400, expected=expected)
        self.get('/bulk?verb=explode', status=400)
        self.get('/bulk?verb=cancel&filter=state:x', status=400)

    def test_counting_has_an_end(self):
        with self.service() as service:
            service.addMany([{'task': 'echo'}] * 30, NOW)
        with self.service() as service:
            self.assertEqual(bulkpages.countFitting(service, parseFilter('task:echo', NOW), 20), (20, False))
            self.assertEqual(bulkpages.countFitting(service, parseFilter('task:echo', NOW), 40), (30, True))
            self.assertEqual(bulkpages.countFitting(service, parseFilter('status:queued', NOW), 1), (30, True))


class TestAudit(WebCase):

    users = USERS

    def test_who_did_what(self):
        jobid = self.do('add', 'echo', now=NOW)
        self.post('cancel', 'sue', jobid=str(jobid))
        self.post('pause', 'ann')
        self.now = time.time() + 60
        page = self.get('/audit', 'bob').text
        rows = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', page)
        self.assertEqual(rows, [('ann', 'pause in /'), ('sue', f'cancel job {jobid} echo in /')])
        self.assertNotIn('Go on looking', page)
        self.get('/audit', 'films', status=403)
        self.now = NOW
        self.assertIn('No changes by users.', self.get('/audit', 'bob').text)

    def test_of_many_transactions(self):
        self.post('pause', 'ann')
        for _ in range(5):
            self.do('add', 'echo', now=NOW)
        self.now = time.time() + 60
        with unittest.mock.patch.object(auditpages, 'LOOKED_AT', 3):
            page = self.get('/audit', 'bob').text
            self.assertNotIn('<th scope="row">ann', page)
            more = re.search(r'rel="next" href="([^"]+)"', page)[1]
            self.assertIn('<th scope="row">ann', self.get(more, 'bob').text)


class TestForgery(WebCase):

    def test_what_is_refused(self):
        jobid = self.do('add', 'echo', now=NOW)
        good = {'token': self.token(), 'jobid': str(jobid)}
        for form, headers, status in (
                ({'jobid': str(jobid)}, {}, 403), ({**good, 'token': 'x'}, {}, 403), ({**good, 'token': 'ä'}, {}, 403),
                (good, {'Sec_Fetch_Site': 'cross-site'}, 403), (good, {'Sec_Fetch_Site': 'same-site'}, 403),
                (good, {'Sec_Fetch_Site': 'none'}, 403), (good, {'Origin': 'http://evil.example'}, 403),
                (good, {'Origin': 'null'}, 403), (good, {'Origin': 'http://localhost:81'}, 403),
                (good, {'Origin': 'http://localhost.evil.example'}, 403), (good, {'Origin': 'http://['}, 403),
                (good, {'Sec_Fetch_Site': None, 'Origin': None}, 403), (good, {'Host': 'evil.example'}, 403),
                (good, {'Content_Type': 'text/plain'}, 415), (good, {'Content_Type': 'application/json'}, 415),
                (good, {'Content_Length': '2000000'}, 413)):
            with self.subTest(form=form, headers=headers):
                response = self.request('/do/cancel', None, form, **headers).get_response(self.application)
                self.assertEqual(response.status_int, status, response.text)
                self.assertEqual(self.status(jobid), 'queued')
        for headers in {'Sec_Fetch_Site': None}, {'Origin': None}, {}:
            response = self.request('/do/cancel', None, good, **headers).get_response(self.application)
            self.assertEqual(response.status_int, 303, headers)

    def test_no_change_without_a_post(self):
        jobid = self.do('add', 'echo', now=NOW)
        for method in 'GET', 'HEAD', 'PUT', 'DELETE':
            for verb in VERBS:
                request = self.request(f'/do/{verb}?jobid={jobid}&jobs={jobid}&token={self.token()}')
                request.method = method
                self.assertEqual(request.get_response(self.application).status_int, 405)
        self.assertEqual(self.status(jobid), 'queued')

    def test_only_this_machine_without_users(self):
        for environ, headers in (({'REMOTE_ADDR': '192.0.2.1'}, {}), ({'REMOTE_ADDR': ''}, {}),
                                 ({}, {'Host': 'evil.example'}),
                                 ({}, {'Host': 'localhost.evil.example'}), ({}, {'X-Forwarded-For': '192.0.2.1'}),
                                 ({}, {'Forwarded': 'for=192.0.2.1'}), ({}, {'Host': 'x@y@z:['})):
            with self.subTest(environ=environ, headers=headers):
                request = webob.Request.blank('/', environ={'REMOTE_ADDR': '127.0.0.1', **environ}, headers=headers)
                self.assertEqual(request.get_response(self.application).status_int, 403)
        for environ, headers in (({'REMOTE_ADDR': '::1'}, {'Host': '[::1]:8081'}),
                                 ({'REMOTE_ADDR': '::ffff:127.0.0.1'}, {}),
                                 ({'REMOTE_ADDR': '127.0.0.2'}, {'Host': '127.0.0.1:8081'})):
            with self.subTest(environ=environ, headers=headers):
                request = webob.Request.blank('/', environ=environ, headers=headers)
                self.assertEqual(request.get_response(self.application).status_int, 200)


class TestUsers(WebCase):

    users = USERS

    def test_who_are_you(self):
        response = self.get('/', status=401)
        self.assertTrue(response.headers['WWW-Authenticate'].startswith('Basic realm='))
        self.get('/', 'ann')
        self.get('/', 'eve', status=401)
        for path in '/jobs', '/jobs/1', '/nowhere', '/do/cancel':
            self.assertNotIn('ETag', self.get(path, status=401).headers)
        self.get('/static/pages.css')

    def test_passwords_cannot_be_tried_fast(self):
        statuses = [self.request('/', 'eve').get_response(self.application).status_int for _ in range(8)]
        self.assertEqual(statuses[:3], [401] * 3)
        self.assertIn(429, statuses)
        self.get('/', 'ann')

    def test_a_user_that_is_gone_is_out_at_once(self):
        self.get('/', 'bob')
        path = self.directory + '/users'
        text = pathlib.Path(path).read_text()
        pathlib.Path(path).write_text(''.join(line for line in text.splitlines(True) if not line.startswith('bob')))
        self.get('/', 'bob', status=401)

    def test_roles(self):
        """Try each verb as each user: what he may not do changes nothing, and has no button."""
        with self.service() as service:
            jobid = service.add('echo', now=NOW)
            ended = service.add('fail', now=NOW)
            service.process(NOW)
            later = service.add('echo', startLater=True, now=NOW)
            cron = service.addCronJob('echo', minute=(1,), now=NOW)
        fields = {'jobid': str(cron), 'jobs': str(jobid), 'task': 'echo', 'input': '1', 'crontab': '* * * * *'}
        view, submit = dict.fromkeys(VERBS, 403), {}
        for verb in VERBS:
            submit[verb] = 403 if verb in ('remove', 'removeMany', 'bulk', 'pause', 'resume') else None
        for user, expected in ('bob', view), ('sue', submit):
            for verb, status in expected.items():
                if status == 403:
                    with self.subTest(user=user, verb=verb):
                        before = self.db.lastTransaction()
                        self.post(verb, user, status=403, **fields)
                        self.assertEqual(self.db.lastTransaction(), before)
        for path in '/', '/jobs', f'/jobs/{ended}', f'/jobs/{later}', f'/jobs/{cron}', '/schedules', '/tasks/echo':
            with self.subTest(path):
                self.assertNotIn('action="/do/', re.sub(r'<form method="post" action="/do/cancelMany">', '',
                                                        self.get(path, 'bob').text))
                allowed = set(re.findall(r'action="/do/([A-Za-z]+)', self.get(path, 'sue').text))
                self.assertFalse(allowed & {'remove', 'removeMany', 'pause', 'resume'}, allowed)
        self.post('start', 'sue', jobid=str(later))
        self.post('pause', 'ann')
        self.assertEqual(self.db.undoInfo(0, 1)[0]['user_name'], '/ ann')

    def test_a_token_is_for_one_user(self):
        jobid = self.do('add', 'echo', now=NOW)
        self.post('cancel', 'ann', status=403, form={'token': self.token('sue'), 'jobid': str(jobid)})
        self.post('cancel', 'ann', form={'token': self.token('ann'), 'jobid': str(jobid)})

    def test_tasks_of_others_are_unknown(self):
        with self.service() as service:
            mine = service.add('film', {'title': 'M', 'isMute': True}, now=NOW)
            other = service.add('echo', 'Not Mine', now=NOW)
            cron = service.addCronJob('echo', 'Not Mine', minute=(1,), now=NOW)
        for path in '/', '/jobs', '/jobs?filter=mine', '/schedules', '/tasks', '/hosts':
            with self.subTest(path):
                page = self.get(path, 'films').text
                for text in str(other), str(cron), 'Not Mine', '>echo<':
                    self.assertNotIn(text, page)
        self.assertIn(str(mine), self.get('/jobs', 'films').text)
        for jobid in other, cron:
            self.get(f'/jobs/{jobid}', 'films', status=404)
            for verb in 'cancel', 'retry', 'remove', 'start', 'run', 'deactivate', 'schedule':
                with self.subTest(verb):
                    self.post(verb, 'films', status=404, jobid=str(jobid))
        self.get('/tasks/echo', 'films', status=404)
        self.post('add', 'films', status=404, task='echo', input='1')
        self.post('addSchedule', 'films', status=403, task='echo', input='1', delay='1h')
        self.post('pause', 'films', status=403)
        self.post('cancelMany', 'films', form={'token': self.token('films'), 'jobs': str(other)})
        self.assertEqual(self.status(other), 'queued')
        self.post('cancel', 'films', jobid=str(mine))

    def test_the_same_page_is_another_for_another_user(self):
        tags = {user: self.get('/jobs', user).headers['ETag'] for user in ('ann', 'bob')}
        self.assertNotEqual(tags['ann'], tags['bob'])
        self.get('/jobs', 'bob', If_None_Match=tags['ann'])

    def test_who_logs_in_elsewhere(self):
        def identify(environ):
            if environ.get('REMOTE_USER') is None:
                raise Unauthorized('log in first')
            return Caller(environ['REMOTE_USER'], frozenset(('view',)))

        self.application = application(self.db, identify=identify, clock=lambda: NOW)
        self.assertNotIn('WWW-Authenticate', self.get('/', status=401).headers)
        request = webob.Request.blank('/', environ={'REMOTE_USER': 'zoe', 'REMOTE_ADDR': '192.0.2.1'})
        self.assertIn('user zoe', request.get_response(self.application).text)
        with self.assertRaises(ValueError):
            application(self.db, self.directory + '/users', identify=identify)
        with self.assertRaises(ConfigurationError):
            application(self.db, self.directory + '/none')


class TestHealth(WebCase):

    def test_live_and_ready(self):
        self.assertEqual(self.get('/live').json, {'problem': None})
        self.assertEqual(self.get('/ready').json, {'problem': None})

    def test_live_never_asks_the_database(self):
        with unittest.mock.patch.object(self.db, 'open', side_effect=AssertionError):
            self.get('/live')

    def test_a_database_that_fails(self):
        with unittest.mock.patch.object(self.db, 'open', side_effect=StorageError('away')):
            with self.assertLogs('lovely.remotetask', 'WARNING'):
                response = self.get('/ready', status=503)
        self.assertEqual(response.json, {'problem': 'the database fails: StorageError'})

    def test_a_database_that_does_not_answer(self):
        """One look goes on, whoever asks, and nobody waits for long."""
        opened, goOn, open = [], threading.Event(), self.db.open

        def openLater(*arguments):
            opened.append(None)
            goOn.wait(60)
            return open(*arguments)

        readiness = Readiness(self.db, patience=0.05)
        with unittest.mock.patch.object(self.db, 'open', openLater):
            for _ in range(3):
                self.assertEqual(readiness.problem(), 'the database does not answer')
            self.assertEqual(len(opened), 1)
            goOn.set()
            patient = Readiness(self.db, patience=60)
            self.assertIsNone(patient.problem())

    def test_no_service(self):
        with self.db.transaction() as connection:
            del connection.root()['Application']
        with self.assertLogs('lovely.remotetask', 'ERROR'):
            self.assertEqual(self.get('/ready', status=503).json['problem'], 'there is no task service in the database')

    def test_data_of_another_release(self):
        with self.service() as service:
            service.generation = 99
        self.assertIn('another release', self.get('/ready', status=503).json['problem'])


class TestMetrics(WebCase):

    users = USERS

    def metrics(self, user='bob'):
        """Return the metrics: name -> labels -> value, as Prometheus reads them."""
        found = {}
        for family in text_string_to_metric_families(self.get('/metrics', user).text):
            for sample in family.samples:
                found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return found

    def test_what_the_database_says(self):
        with self.service() as service:
            service.addMany([{'task': 'fail'}] * 3, NOW - 50)
            service.process(NOW - 40)
            service.add('echo', now=NOW - 30)
            service.addCronJob('echo', delay=5, now=NOW - 100)
            scheduling.tick(service, NOW - 100)
        found = self.metrics()
        here = frozenset({('service', '/')})
        self.assertEqual(found['remotetask_jobs'][here | {('status', 'error')}], 3)
        self.assertEqual(len(found['remotetask_jobs']), len(STATUSES))
        for name, value in (('oldest_ready_seconds', 30), ('schedules_late_seconds', 95), ('paused', 0), ('hosts', 0),
                            ('jobs_per_second', 0.05)):
            self.assertAlmostEqual(found['remotetask_' + name][here], value, 6, name)
        self.assertGreater(found['remotetask_database_bytes'][frozenset()], 0)

    def test_what_this_process_counts(self):
        self.get('/', 'eve', status=401)
        self.get('/', status=401)
        self.get('/', 'bob')
        found = self.metrics()
        self.assertEqual(found['remotetask_logins_refused_total'], {frozenset(): 2})
        self.assertEqual(found['remotetask_page_requests_total'], {
            frozenset({('code', '401')}): 2, frozenset({('code', '200')}): 1})

    def test_who_may_read_them(self):
        self.get('/metrics', status=401)
        self.get('/metrics', 'films', status=403)

    def test_the_alerts_use_names_that_there_are(self):
        text = (pathlib.Path(metrics.__file__).parent / 'alerts.yaml').read_text()
        used = set(re.findall(r'remotetask_([a-z_]+)', text))
        self.assertLessEqual(used, {*metrics.GAUGES, *metrics.DATABASE_GAUGES})
        self.assertGreater(len(used), 5)
        labels = {'service', 'instance', *itertools.chain(*(labels for _, labels in metrics.GAUGES.values()))}
        self.assertLessEqual(set(re.findall(r'\$labels\.([a-z_]+)', text)), labels)

    def test_the_dashboard_uses_names_that_there_are(self):
        dashboard = json.loads((pathlib.Path(metrics.__file__).parent / 'grafana.json').read_text())
        used = set(re.findall(r'remotetask_([a-z_]+)', json.dumps([panel['targets'] for panel in dashboard['panels']])))
        self.assertEqual(used, {*metrics.GAUGES, *metrics.DATABASE_GAUGES})


class TestCharts(unittest.TestCase):

    def setUp(self):
        self.addCleanup(zope.component.testing.tearDown)
        provideUtility(SimpleTask(lambda input: input), name='echo')
        self.db = DB(MappingStorage())
        self.addCleanup(self.db.close)
        install(self.db)

    def test_bins(self):
        counter = Counter()
        with self.db.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            for moment in 1000, 1010, 1300, 4000:
                service.add('echo', now=moment)
                service.process(moment)
        with self.db.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            bins = counter.bins(service, 4000, 60, 60)
            self.assertEqual(len(bins), 60)
            self.assertEqual({one.start: one.completed for one in bins if one.completed}, {960: 2, 1260: 1, 3960: 1})
            service.removeJobs()
            again = counter.bins(service, 4000, 60, 60)
        # What is past is not counted again; the last bins are.
        self.assertEqual([one.completed for one in again][:-3], [one.completed for one in bins][:-3])
        self.assertEqual(again[-1].completed, 0)


class TestServer(unittest.TestCase):
    """The real server."""

    def start(self, answer):
        server = Server(answer, ('127.0.0.1', 0), 2)
        self.addCleanup(server.stop, 5)
        server.start()
        return server

    def test_it_answers_until_it_is_stopped(self):
        def answer(environ, start_response):
            start_response('200 OK', [('Content-Length', '2')])
            return [b'hi']

        server = self.start(answer)
        url = 'http://{}:{}/x?y'.format(*server.address)
        with self.assertLogs('lovely.remotetask.access', 'INFO') as logged:
            with urllib.request.urlopen(url, timeout=30) as response:
                self.assertEqual(response.read(), b'hi')
        self.assertIn('"GET /x?y" 200 2', logged.output[0])
        self.assertTrue(server.stop(30))
        self.assertTrue(server.stop(30))
        with self.assertRaises(OSError):
            socket.create_connection(server.address, timeout=30)

    def test_a_slow_request_ends_in_peace(self):
        begun, goOn = threading.Event(), threading.Event()

        def answer(environ, start_response):
            begun.set()
            goOn.wait(60)
            start_response('200 OK', [('Content-Length', '2')])
            return [b'hi']

        server, found = self.start(answer), []
        thread = threading.Thread(target=lambda: found.append(
            urllib.request.urlopen('http://{}:{}/'.format(*server.address), timeout=60).read()))
        thread.start()
        self.assertTrue(begun.wait(60))
        goOn.set()
        thread.join(60)
        self.assertEqual(found, [b'hi'])
        self.assertTrue(server.stop(30))

    def test_where_it_will_not_listen(self):
        def answer(environ, start_response):
            raise AssertionError

        for hasUsers, reason in (False, 'without users they answer only this machine'), (True, 'speak no TLS'):
            with self.assertRaisesRegex(ConfigurationError, f'open to other machines at 0.0.0.0:0.*{reason}'):
                checkReach(('0.0.0.0', 0), hasUsers)
            checkReach(('127.0.0.1', 0), hasUsers)
        with self.assertRaisesRegex(ConfigurationError, 'Address already in use'):
            Server(answer, self.start(answer).address, 1)


class TestWords(unittest.TestCase):

    def test_forms_keep_what_they_do_not_know(self):
        task = SimpleTask(str, IFilm)
        kinds = {control.name.partition('.')[2]: control.kind for control in forms.formOf(task).controls}
        self.assertEqual(kinds, {'title': 'line', 'year': 'number', 'rate': 'number', 'isMute': 'flag',
                                 'kind': 'choice',
                                 'about': 'text', 'password': 'secret', 'pin2': 'secret', 'more': 'json'})

    def test_trees_are_cut(self):
        tree = formats.treeOf([list(range(1000))] * 1000)
        count, nodes = 0, [tree]
        while nodes:
            node = nodes.pop()
            count += 1
            nodes += node.nodes
        self.assertLess(count, 2 * formats.NODES)
        deep = []
        for _ in range(150):
            deep = [deep]
        self.assertEqual(str(formats.treeOf(deep)).count('Node('), formats.DEPTH + 1)
        self.assertEqual(formats.treeOf(10 ** 5000).text, '<int>')


def load_tests(loader, tests, pattern):
    for module in (formats, words, scheduleforms):
        tests.addTest(doctest.DocTestSuite(module, optionflags=doctest.NORMALIZE_WHITESPACE))
    return tests


if __name__ == '__main__':
    unittest.main()
