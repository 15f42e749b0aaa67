"""The pages: markup and secrets, forged requests, users and their roles."""
# SPDX-License-Identifier: ZPL-2.1
import html.parser
import pathlib
import re
import unittest
import unittest.mock
import urllib.parse
import urllib.request

import webob
from zope.component import provideAdapter
from zope.component import provideUtility
from zope.configuration import xmlconfig

from lovely.remotetask.common import masking
from lovely.remotetask.common.masking import HIDDEN
from lovely.remotetask.common.masking import isSecret
from lovely.remotetask.database.storedfiles import LARGE
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.interfaces import IJob
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.storage.hosts import identity
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.task import TaskError
from lovely.remotetask.web.actions import VERBS
from lovely.remotetask.web.application import application
from lovely.remotetask.web.interfaces import IJobDetail
from lovely.remotetask.xmlrpc.access import Principal
from lovely.remotetask.xmlrpc.access import Unauthorized
from webcase import MARKUP
from webcase import NOW
from webcase import USERS
from webcase import IFilm
from webcase import WebCase


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

    def test_parameters_are_no_arguments(self):
        for query in 'path=1', 'self=1', 'query=1':
            self.get(f'/jobs?{query}')
            self.assertIn('/jobs?', self.post('pause', back=f'/jobs?sort=oldest&{query}').headers['Location'])
        # What is not ours is not repeated in each link.
        self.assertNotIn('strange', self.get('/jobs?strange=1&sort=oldest').text)
        self.get('/jobs?filter=' + '%F0%9F%98%80' * 1000)
        self.get('/jobs?' + '&'.join(f'p{number}=1' for number in range(5000)), status=414)

    def test_where_it_is_mounted_is_no_other_host(self):
        for name in '/', '//', '//x', '/x/', '/x"><b>/':
            for path, status in ('/', 200), ('/jobs', 200), ('/nowhere', 404):
                with self.subTest(name, path=path):
                    request = self.request(path)
                    request.environ['SCRIPT_NAME'] = name
                    page = request.get_response(self.application)
                    self.assertEqual(page.status_int, status)
                    for link in re.findall(r'(?:href|action|src)="([^"#]*)"', page.text):
                        self.assertRegex(link, r'^/(?!/)[^"<]*$')
                        self.assertNotIn('//', link)

    def test_half_a_character(self):
        jobid = self.do('add', 'echo', {'a\ud800': 'b\udfff'}, now=NOW)
        for path in '/jobs', f'/jobs/{jobid}':
            self.assertIn('b\\udfff', self.get(path).text)

    def test_names_of_tasks(self):
        names = ['a.b', '%', '%2F', 'a%20b', 'ü/é', '?', '#', 'a?b#c', 'a\nb', '<b>', '日本', 'a;b&c', '/first',
                 'last/', 'a//b', 'x' * 300]
        for name in names:
            provideUtility(SimpleTask(str), name=name)
            self.do('add', name, now=NOW)
        links = {link.replace('&amp;', '&') for link in re.findall('href="(/tasks/[^"]+)"', self.get('/tasks').text)}
        self.assertEqual(len(links), len(names) + 4)
        jobs = re.findall(r'href="(/jobs/\d+)"', self.get('/jobs').text)
        again = {re.search('href="(/tasks/[^"]+)"', self.get(job).text)[1].replace('&amp;', '&') for job in jobs}
        self.assertLessEqual(again, links)
        self.assertEqual(len(again), len(names))
        for link in links:
            self.assertIn('Add a job', self.get(link).text)
            back = urllib.parse.urlsplit(link).path
            self.assertIn(back.partition('/tasks/')[2], self.post('pause', back=back).headers['Location'])

    def test_many_tasks(self):
        for number in range(1000):
            provideUtility(SimpleTask(str), name=f'task {number}')
        with self.service() as service:
            service.addMany([{'task': 'echo', 'input': {f'field{number}': number for number in range(10)}}] * 300, NOW)
        with unittest.mock.patch.object(masking, 'isSecret', side_effect=isSecret) as asked:
            self.assertIn('No jobs.', self.get('/jobs?filter=nothing').text)
        self.assertEqual(asked.call_count, 10)                  # once for each name, not for each task

    def test_a_page_never_leads_elsewhere(self):
        jobid = self.do('add', 'echo', now=NOW)
        for back in ('//evil.example/', 'http://evil.example/', '/\\evil.example', '/\tevil', '', 'jobs',
                     '/x\r\nSet-Cookie: a'):
            with self.subTest(back):
                self.do('add', 'echo', now=NOW)
                response = self.post('cancel', jobid=str(jobid), back=back) if back == '//evil.example/' else \
                    self.post('pause', back=back)
                parts = urllib.parse.urlsplit(response.location)
                self.assertEqual((parts.scheme, parts.netloc, parts.path), ('', '', '/'))
                self.assertNotIn('Set-Cookie', response.headers)
        for back in '/%2fevil.example/', '/%2f%2fevil.example', '/%5cevil.example':
            with self.subTest(back):
                self.assertRegex(self.post('pause', back=back).location, r'\A/(evil|%5Cevil)')


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

    def test_they_are_hidden_wherever_they_are_told(self):
        def tell(service, jobid, input):
            if not input['fails']:
                return {'said': f'my {input["password"]}', input['password']: 1, 'blob': input['url']}
            service.setProgress(jobid, None, f'with {input["password"]}')
            raise (ValueError if 'isOdd' in input else TaskError)(f'not {input["password"]} at {input["url"]}')
        provideUtility(tell, ITask, name='tell')
        provideAdapter(lambda job: f'for {job.input["password"]}', [IJob], IJobDetail, name='detailed')
        provideUtility(SimpleTask(str), name='detailed')
        provideUtility(SimpleTask(lambda input: f'a text with {input["password"]}'), name='text')
        secrets = {'password': 'Geheimnis', 'url': 'ftp://ann:Geheimnis@host/', 'fails': True}
        with self.service() as service:
            jobids = [service.add('tell', {**secrets, 'fails': fails, 'isOdd': True}, now=NOW,
                                  retryPolicy=RetryPolicy(attempts=1)) for fails in (True, False)]
            jobids.append(service.addCronJob('tell', secrets, now=NOW))
            jobids += [service.add(task, secrets, key='of Geheimnis', now=NOW) for task in ('detailed', 'text')]
            service.process(NOW)
            service.process(NOW + 60)                   # when the schedule runs
            running = service.add('tell', secrets, now=NOW)
            service.claimNextJob(NOW)
            service.setProgress(running, 0.5, 'with Geheimnis')
            ledger = service.ledgers['one'] = Ledger()
            ledger.owner = identity(threads=1, lease=60.0, since=NOW)
            ledger.claim(running, 0)
            ledger.progress[running] = (0.5, 'with Geheimnis')
        for path in '/', '/jobs', '/schedules', '/hosts', *(f'/jobs/{jobid}' for jobid in (*jobids, running)):
            with self.subTest(path):
                page = self.get(path).text
                self.assertNotIn('Geheimnis', page)
                self.assertIn(HIDDEN, page)
        self.assertIn(f'ValueError: not {HIDDEN} at ftp://ann:{HIDDEN}@host/', self.get(f'/jobs/{jobids[0]}').text)
        self.assertEqual(self.get(f'/jobs/{jobids[-1]}/output').text, f'a text with {HIDDEN}')

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
        with self.service() as service:
            bulk = service.addBulk('cancel', '', 0, 'ann', NOW)
        for verb in 'cancel', 'cancelMany':
            self.post(verb, 'sue', status=403, jobid=str(bulk), jobs=str(bulk))
        self.assertEqual(self.do('getStatus', bulk), 'queued')
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
            self.get(f'/jobs/{jobid}/output', 'films', status=404)
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
            return Principal(environ['REMOTE_USER'], frozenset(('view',)))

        self.application = application(self.db, identify=identify, clock=lambda: NOW)
        self.assertNotIn('WWW-Authenticate', self.get('/', status=401).headers)
        request = webob.Request.blank('/', environ={'REMOTE_USER': 'zoe', 'REMOTE_ADDR': '192.0.2.1'})
        self.assertIn('user zoe', request.get_response(self.application).text)
        with self.assertRaises(ValueError):
            application(self.db, self.directory + '/users', identify=identify)
        with self.assertRaises(ConfigurationError):
            application(self.db, self.directory + '/none')


if __name__ == '__main__':
    unittest.main()
