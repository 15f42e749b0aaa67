"""The pages: what they show, at any time, and what that costs."""
# SPDX-License-Identifier: ZPL-2.1
import doctest
import io
import re
import time
import unittest
import unittest.mock
import urllib.parse
import urllib.request

import webob
from persistent.TimeStamp import TimeStamp
from ZODB.FileStorage import FileStorage
from zope.component import provideAdapter
from zope.component import provideUtility
from zope.interface import implementer

from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.files import File
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import QUEUED
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.interfaces import IJob
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.job import Job
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import ready
from lovely.remotetask.storage import scheduling
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.ledger import LONG
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.web import formats
from lovely.remotetask.web import forms
from lovely.remotetask.web import jobpages
from lovely.remotetask.web import pipeline
from lovely.remotetask.web import scheduleforms
from lovely.remotetask.web import sorting
from lovely.remotetask.web import words
from lovely.remotetask.web.interfaces import IJobDetail
from webcase import NOW
from webcase import IFilm
from webcase import WebCase


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

    def test_how_the_runs_of_tasks_fared(self):
        with self.service() as service:
            service.addMany([{'task': 'fail'}] * 3 + [{'task': 'echo'}], NOW - 20)
            service.process(NOW - 18)
        page = self.get('/tasks').text
        self.assertIn('has not run yet', page)
        self.assertRegex(page, r'(?s)/tasks/fail">.*?>0</td><td class="number">3</td><td class="number">100.0 %</td>\s*'
                               r'<td class="number">0 ms, 0 ms</td><td class="number">2 s, 2.4 s</td>')
        self.assertIn('<dt>Waiting before</dt><dd>2 s on average, up to 2.4 s for 95 of 100</dd>',
                      self.get('/tasks/fail').text)
        self.assertIn('It has not run yet.', self.get('/tasks/film').text)

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
        self.assertEqual(response.location, '/tools/jobs?size=20&said=cancel')

    def test_before_another_application(self):
        def other(environ, start_response):
            return webob.Response(f'other {environ["SCRIPT_NAME"]} {environ["PATH_INFO"]}')(environ, start_response)
        with unittest.mock.patch.object(pipeline, 'DATABASE', self.db, create=True):
            both = pipeline.pages(other, {}, '/a/b', db=f'{pipeline.__name__}:DATABASE')
            for path, expected in (('/a/b', '<h1>Overview</h1>'), ('/a/b/', 'href="/x/a/b/jobs"'),
                                   ('/a/b/tasks', 'Tasks'),
                                   ('/a/bc', 'other /x /a/bc'), ('/', 'other /x /'), ('/a', 'other /x /a')):
                with self.subTest(path):
                    request = webob.Request.blank(path, environ={'REMOTE_ADDR': '127.0.0.1', 'SCRIPT_NAME': '/x'})
                    self.assertIn(expected, request.get_response(both).text)
        for wrong in ({'path': 'x'}, {'path': '/'}, {'path': '/x/'}, {'path': '/x', 'db': 'Zope2'},
                      {'path': '/x', 'db': 'os;x:DB'}):
            with self.subTest(wrong), self.assertRaises(ConfigurationError):
                pipeline.pages(other, {}, **wrong)

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

    def test_an_output_is_kept_as_a_file(self):
        provideUtility(SimpleTask(lambda input: File(io.BytesIO(b'<b>' * input)) if input else {'a': 1}), name='film')
        with self.service() as service:
            jobids = [service.add('film', size, now=NOW) for size in (3, 0, 50_000)]
            service.process(NOW)
        response = self.get(f'/jobs/{jobids[0]}/output')
        self.assertEqual((response.body, response.content_type, response.headers['X-Content-Type-Options']),
                         (b'<b>' * 3, 'application/octet-stream', 'nosniff'))
        self.assertTrue(response.headers['Content-Disposition'].startswith('attachment'))
        for jobid, isFile in zip(jobids, (True, False, True)):
            self.assertEqual(f'/jobs/{jobid}/output"' in self.get(f'/jobs/{jobid}').text, isFile)
        self.assertEqual(len(self.get(f'/jobs/{jobids[2]}/output').body), 150_000)
        self.get(f'/jobs/{jobids[1]}/output', status=404)
        self.get('/jobs/77/output', status=404)
        self.assertIn('<h1>Not found</h1>', self.get('/nowhere', status=404).text)
        with unittest.mock.patch.object(jobpages, 'DOWNLOAD', 100):
            self.assertIn('--output FILE', self.get(f'/jobs/{jobids[2]}/output', status=400).text)

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

    def listed(self, path):
        """Return the ids of all rows of a list, page by page, and the last page."""
        seen = []
        for _ in range(1000):
            page = self.get(path).text
            seen += map(int, re.findall(r'<tr id="job-(\d+)"', page))
            found = re.search(r'rel="next" href="([^"]+)"', page)
            if found is None:
                return seen, page
            path = found[1].replace('&amp;', '&')
        self.fail('there is no last page')

    def test_a_list_is_sorted_by_a_column(self):
        with self.service() as service:
            for number in range(60):
                service.add(('echo', 'fail')[number % 2], now=NOW + number % 7)
            for number in range(40):
                service.processNext(NOW + 100 + number)
            service.cancel(service.getJobs(QUEUED, 0, 1)[0].id, NOW + 300)
            service.addCronJob('echo', now=NOW, delay=60)
            service.addCronJob('echo', now=NOW, crontab='0 8 * * *')
            jobs = [service.jobs[jobid] for jobid in service.jobs]

        def ended(job):
            return job.completed if job.status in FINAL else None
        patience = unittest.mock.patch.object(sorting, 'PATIENCE', 1e6)
        patience.start()
        self.addCleanup(patience.stop)
        for name, value in (('status', lambda job: STATUSES.index(job.status)), ('added', lambda job: job.created),
                            ('started', lambda job: job.started), ('ended', ended)):
            for isDown in False, True:
                with self.subTest(name, isDown=isDown), self.service() as service:
                    seen, page = self.listed(f'/jobs?size=20&sort={"-" if isDown else ""}{name}')
                    self.assertEqual(sorted(seen), sorted(job.id for job in jobs))
                    values = [value(service.jobs[jobid]) for jobid in seen]
                    there = [each for each in values if each is not None]
                    self.assertEqual(values, sorted(there, reverse=isDown) + [None] * (len(values) - len(there)))
                    direction = 'descending' if isDown else 'ascending'
                    self.assertRegex(page, f'aria-sort="{direction}"><a href="[^"]*sort={"" if isDown else "-"}{name}')
                    self.assertEqual(page.count('aria-sort'), 1)
                    self.assertNotIn('are sorted', page)            # all of them are
        self.assertEqual(sorted(self.listed('/jobs?size=20&sort=oldest')[0]), sorted(seen))

    def test_what_is_not_sorted_is_told(self):
        with self.service() as service:
            for number in range(25):
                service.add('echo', now=NOW - number)
            service.process(NOW)
        with unittest.mock.patch.object(sorting, 'SORTED', 10):
            page = self.get('/jobs?sort=-added').text
            self.assertIn('<strong>Only 10 jobs are sorted</strong>, the newest that fit', page)
            seen, steps = [], 0
            while page is not None:
                found = list(map(int, re.findall(r'<tr id="job-(\d+)"', page)))
                with self.service() as service:
                    created = [service.jobs[jobid].created for jobid in found]
                self.assertEqual(created, sorted(created, reverse=True))
                seen, steps = seen + found, steps + 1
                more = re.search(r'href="([^"]+)">Sort older ones', page)
                page = more and self.get(more[1].replace('&amp;', '&')).text
        self.assertEqual((len(seen), len(set(seen)), steps), (25, 25, 3))

    def test_a_sort_that_is_none(self):
        for query in ('sort=task', 'sort=-oldest', 'sort=<b>', 'sort=status&after=9', 'sort=status&after=1,x',
                      'sort=added&after=1-x', 'sort=added&within=1-x', 'sort=ended&after=2',
                      'sort=oldest&after=none-1'):
            with self.subTest(query):
                self.assertRegex(self.get(f'/jobs?{query}', status=400).text, 'role="alert">(sort|cursor): ')
        self.get('/schedules?sort=added', status=400)

    def test_schedules_are_sorted_by_their_next_run(self):
        with self.service() as service:
            jobids = [service.addCronJob('echo', now=NOW, delay=100 + number * 7 % 30) for number in range(60)]
            jobids.append(service.addCronJob('echo', now=NOW, crontab='0 8 * * *', active=False))
            service.processNext(NOW)
            times = [service.jobs[jobid].scheduledFor for jobid in jobids]
            times = sorted(each for each in times if each is not None) + [None] * times.count(None)
        seen, _ = self.listed('/schedules?sort=next')
        with self.service() as service:
            self.assertEqual([service.jobs[jobid].scheduledFor for jobid in seen], times)

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

    def test_since_when_a_job_runs(self):
        with self.service() as service:
            jobid = service.add('echo', now=NOW - 100)
            service.claimNextJob(NOW - 90)
            ledger = transitions.claimant(service, service.jobs[jobid])
            ledger.mark(jobid, LONG, NOW - 75)
        page = self.get('/jobs').text
        self.assertIn('1 min 15 s', page)
        self.assertRegex(page, r'tableStart"><time datetime="[0-9T:-]+Z">\d\d:\d\d:\d\d</time>')
        self.assertIn('this run began', self.get(f'/jobs/{jobid}').text)
        with self.service() as service:
            service.processNext(NOW, jobid)
            self.assertEqual(service.getStatus(jobid), 'completed')
        self.assertNotIn('this run began', self.get(f'/jobs/{jobid}').text)

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


class TestCost(WebCase):
    """What a page loads is the same however many jobs are stored."""

    def addEnded(self, count):
        """Add jobs that have ended within a day, as a host writes them."""
        with self.service() as service:
            ledger = service.ledgers.setdefault('one', Ledger())
            for number in range(count):
                job = Job(service._newId(), 'echo', {'number': number}, NOW - 80_000)
                status = 'error' if number % 10 == 0 else 'completed'
                end = ledger.finish(job.id, status, NOW - 70_000 * (count - number) / count)
                job.change(status=status, started=end - 1, completed=end)
                job.store(ready.shardOf(service, job.id).pages)
            service.addMany([{'task': 'echo'}] * count, NOW - 10)

    def loads(self, path):
        """Return how many records a process loads that has made the page before, and lost what it knew."""
        self.get(path)
        self.db.cacheMinimize()
        original, loaded = FileStorage.loadBefore, []

        def loadBefore(storage, oid, tid):
            loaded.append(oid)
            return original(storage, oid, tid)

        with unittest.mock.patch.object(FileStorage, 'loadBefore', loadBefore):
            self.get(path)
        return len(loaded)

    def test_constant(self):
        paths = '/jobs', '/jobs?filter=status:error', '/jobs?filter=status:queued', '/schedules', '/tasks', '/hosts'
        self.addEnded(1000)
        few = {path: self.loads(path) for path in paths}
        self.addEnded(9000)
        for path in paths:
            with self.subTest(path):
                self.assertLess(self.loads(path), 1.5 * few[path] + 20)


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
