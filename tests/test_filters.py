"""Filters of jobs: the grammar and its errors, what fits, and pages that lose nothing."""
# SPDX-License-Identifier: ZPL-2.1
import doctest
import fnmatch
import math
import random
import time
import unittest
from collections import UserDict
from datetime import datetime
from datetime import timezone

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies
from zope.component import provideUtility

from lovely.remotetask import filters
from lovely.remotetask.common import masking
from lovely.remotetask.common.masking import HIDDEN
from lovely.remotetask.common.masking import isSecret
from lovely.remotetask.common.masking import masked
from lovely.remotetask.common.masking import secretsOf
from lovely.remotetask.database.storedfiles import LARGE
from lovely.remotetask.execution.run import execute
from lovely.remotetask.filters import Filter
from lovely.remotetask.filters import parseFilter
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.service import TaskService
from lovely.remotetask.storage import claiming
from lovely.remotetask.storage import search
from lovely.remotetask.storage import transitions
from lovely.remotetask.storage.ledger import Ledger
from lovely.remotetask.storage.shards import BITS
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.task import TaskError
from test_listing import Tasks
from test_listing import Walk
from test_listing import ids


NOW = 1_780_000_000.0


class TestGrammar(unittest.TestCase):

    def test_terms(self):
        for text, expected in (
                ('', Filter()),
                ('  ', Filter()),
                ('status:error', Filter(('error',))),
                ('status:error,cancelled,error', Filter(('error', 'cancelled'))),
                ('status:start-later', Filter(('start later',))),
                ('status:"start later"', Filter(('start later',))),
                ('task:avi2* host:p-?', Filter(task='avi2*', host='p-?')),
                ('since:1h before:90s', Filter(since=NOW - 3600, before=NOW - 90)),
                ('since:1.5d', Filter(since=NOW - 129600)),
                ('since:2026-05-01', Filter(since=1777593600.0)),
                ('since:2026-05-01T12:30 before:2026-05-01T12:30:01Z', Filter(since=1777638600.0, before=1777638601.0)),
                ('before:"2026-05-01 12:30"', Filter(before=1777638600.0)),
                ('id:7 schedule:8', Filter(jobid=7, schedule=8)),
                ('input.film:Metropolis input.a.0.b:"x y"',
                 Filter(fields=((('film',), 'Metropolis'), (('a', '0', 'b'), 'x y')))),
                ('No "such File" http', Filter(words=('no', 'such file', 'http'))),
                ('"a:b"', Filter(words=('a:b',)))):
            with self.subTest(text):
                self.assertEqual(parseFilter(text, NOW), expected)

    def test_mistakes(self):
        for text, reason in (
                ('state:error', "there is no 'state:'; there are status:, task:, host:, since:, before:, id:, "
                                'schedule:, input.NAME:'),
                ('status:done', "status: 'done' is none of queued, processing"),
                ('status:', 'there is nothing behind status:'),
                ('status:""', 'there is nothing behind status:'),
                ('task:a task:b', 'task: stands there twice'),
                ('since:yesterday', "since: 'yesterday' is no time; write how long ago"),
                ('since:2026-02-30', "is no time"),
                ('since:999999999w', "is no time"),
                ('since:1h before:2h', 'since: is not earlier than before:'),
                ('id:0', "id: '0' is not the id of a job"),
                ('id:99999999999', 'is not the id of a job'),
                ('id:²', 'is not the id of a job'),
                ('"a', 'a quotation mark is missing'),
                ('a"b', 'a quotation mark is missing, or stands within a word'),
                ('x ' * 21, 'it has more than 20 terms'),
                ('x' * 1001, 'it has 1001 characters, 1000 are the most')):
            with self.subTest(text[:20]):
                with self.assertRaises(ValueError) as caught:
                    parseFilter(text, NOW)
                self.assertIn(reason, str(caught.exception))
                self.assertTrue(str(caught.exception).startswith('filter: '))

    @given(strategies.text(strategies.sampled_from('ab:."\\ *[?]-0919\t\nä²') | strategies.characters(), max_size=40))
    @settings(max_examples=300, deadline=None)
    def test_any_text(self, text):
        try:
            found = parseFilter(text, NOW)
        except ValueError as error:
            self.assertTrue(str(error).startswith('filter: '), error)
        else:
            self.assertIsInstance(found, Filter)

    def test_indexed(self):
        for text, isIndexed in (('', True), ('status:error since:1h before:1m', True), ('id:1', True),
                                ('since:1h', False), ('status:queued before:1h', False),
                                ('task:echo', False), ('x', False), ('input.a:1', False), ('host:a', False)):
            with self.subTest(text):
                self.assertEqual(parseFilter(text, NOW).isIndexed, isIndexed)


class TestMasking(unittest.TestCase):

    def test_names(self):
        for name in 'password', 'dbPassword', 'PASSWORD', 'api_key', 'x-api-key', 'authToken', 'Authorization':
            self.assertTrue(isSecret(name), name)
        for name in 'keyboard', 'passenger', 'film', 'monkey', 'tokenizer', 'key', '':
            self.assertFalse(isSecret(name), name)
        self.assertTrue(isSecret('iban', ('IBA?',)))

    def test_values(self):
        value = {'a': [{'token': {'deep': 1}}, ('x', {'password': 1})], 1: 2}
        self.assertEqual(masked(value, isSecret), {'a': [{'token': HIDDEN}, ('x', {'password': HIDDEN})], 1: 2})
        deep = []
        for _ in range(300):
            deep = [deep]
        self.assertIn(HIDDEN, str(masked(deep, isSecret)))


    def test_texts(self):
        key = 'line one of it\nline two of it\nx'
        for value, text, expected in (
                ({'password': 'geheim'}, "ValueError: geheim, or 'geheim'", "ValueError: ***, or '***'"),
                ({'password': 'geheim'}, 'geheimnis und ungeheim', 'geheimnis und ungeheim'),
                ({'password': 'Donaudampf'}, 'xDonaudampfx', 'x***x'),
                ({'password': 'a', 'pin': 12, 'token': ''}, 'a 12 banana', 'a 12 banana'),          # half of the text
                ({'pin': 123456}, 'pin 123456, number 1234567', 'pin ***, number 1234567'),
                ({'pin': 12.25, 'secret': True}, '12.25 True', '*** True'),
                ({'token': [{'a': 'first'}, 'second']}, 'first/second', '***/***'),
                ([{'x': ({'password': 'geheim'},)}], 'geheim', '***'),
                ({'url': 'http://ann:geheim@h/x'}, 'no geheim', 'no ***'),
                ({'url': 'http://ann:ge%20heim@h/x'}, 'ge heim', '***'),
                ({}, 'see postgresql://ann:a@h:5432/x', 'see postgresql://ann:***@h:5432/x'),
                ({}, 'http://h:80/a@b, mail ann@h', 'http://h:80/a@b, mail ann@h'),
                ('{"a": [{"password": "geheim"}]}', 'geheim', '***'),
                ({'data': '[{"password": "geheim"}]'}, 'geheim', '***'),
                ({'password': 'ge"h\'e\\im\n'}, repr('ge"h\'e\\im'), "'***'"),
                ({'password': 'ge heim&ü'}, '?p=ge+heim%26%C3%BC&q=ge%20heim%26%C3%BC', '?p=***&q=***'),
                ({'privateKey': key}, 'at: line two of it; x', 'at: ***; x'),
                ({'password': 'geheim'}, 'it was cut, gehe...', 'it was cut, ***...'),
                ({'password': '.*'}, 'anything', 'anything'),
                ({'password': '(((((('}, 'a ((((((', 'a ***')):
            with self.subTest(value, text=text):
                self.assertEqual(secretsOf(value, isSecret).hide(text), expected.replace('***', HIDDEN))

    def test_values_that_tell_a_secret(self):
        secrets = secretsOf({'password': 'geheim', 'pin': 123456}, isSecret)
        for value, expected in (
                (['geheim', {'geheim': 'x geheim'}], [HIDDEN, {HIDDEN: f'x {HIDDEN}'}]), (123456, HIDDEN), (1, 1),
                (b'geheim', b'geheim'), (None, None), ({'geheim'}, [HIDDEN]),
                ('{"password": "x", "a": 1}', f'{{"password": "{HIDDEN}", "a": 1}}'), ('{"a": 1}', '{"a": 1}'),
                (ValueError('geheim'), HIDDEN), (UserDict(password='x'), {'password': HIDDEN}), (12.5, 12.5),
                (math.inf, math.inf), (10 ** 5000, 10 ** 5000)):
            with self.subTest(type(value)):
                self.assertEqual(masked(value, isSecret, secrets), expected)

    def test_long_secrets_take_no_time(self):
        text = 'ab' * 20_000
        secrets = secretsOf({'password': [text + str(number) for number in range(5)]}, isSecret)
        begun = time.process_time()
        self.assertEqual(secrets.hide(f'x {text[:20_000]}...'), f'x {HIDDEN}...')
        self.assertLess(time.process_time() - begun, 5)             # it was minutes

    def test_what_contains_itself(self):
        value = [{'password': 'geheim'}]
        value += [value, value]
        self.assertEqual(masked(value, isSecret, secretsOf(value, isSecret)), [{'password': HIDDEN}, HIDDEN, HIDDEN])
        for _ in range(100):                        # each has the one before twice
            value = [value, value]
        self.assertEqual(secretsOf(value, isSecret).hide('geheim'), HIDDEN)
        self.assertIs(type(masked(value, isSecret)), list)


class SearchCase(Tasks):

    def find(self, text, **options):
        return search.search(self.service, parseFilter(text, 1000), **options)

    def assertFound(self, text, jobids, **options):
        self.assertEqual(ids(self.find(text, **options).jobs), jobids, text)


class TestSearch(SearchCase):

    def test_terms(self):
        service = self.service
        for name in 'films', 'song':
            provideUtility(SimpleTask(lambda input: input), name=name)
        first = service.add('films', {'film': 'Metropolis', 'year': 1927, 'tags': ['a', 'b'], 'mute': True}, now=100)
        second = service.add('song', {'film': 'M', 'password': 'Geheim'}, now=200)
        service.process(300)
        failed = service.add('fail', 'An Input', now=400)
        service.process(410)
        third = service.add('films', now=500)
        for text, expected in (
                ('', [third, failed, second, first]),
                ('status:completed', [second, first]),
                ('status:error,queued', [third, failed]),
                ('task:film*', [third, first]),
                ('task:film* status:completed', [first]),
                ('since:1970-01-01T00:06', [third, failed]),
                ('before:1970-01-01T00:06:50', [second, first]),
                ('since:1970-01-01T00:06:50 before:1970-01-01T00:06:51', [failed]),
                ('input.film:Metropolis', [first]),
                ('input.film:M*', [second, first]),
                ('input.year:1927', [first]),
                ('input.tags.1:b', [first]),
                ('input.tags.2:*', []),
                ('input.mute:true', [first]),
                ('input.film.title:*', []),
                ('metropolis', [first]),
                ('AS ASKED', [failed]),
                ('an "input"', [failed]),
                (f'id:{first}', [first]),
                (f'id:{first} task:song', []),
                (f'id:{first} status:queued', []),
                (f'id:{first} since:1970-01-01T00:06', []),
                ('id:77', [])):
            self.assertFound(text, expected)
        with self.subTest('secrets are not found by their values'):
            for text in 'geheim', 'input.password:Geheim', 'input.password:*':
                self.assertFound(text, [])
            self.assertFound('input.film:M', [], hides=lambda name: name == 'film')
        with self.subTest('nor where they are told'):
            def tell(input):
                raise TaskError(f'no {input["password"]}')
            provideUtility(SimpleTask(tell), name='tell')
            jobid = service.add('tell', {'password': 'Geheimnis'}, now=600)
            service.process(600)
            self.assertEqual(service.getError(jobid), 'no Geheimnis')
            self.assertFound(f'id:{jobid} geheimnis', [])
            self.assertFound(f'id:{jobid} no', [jobid])
        with self.subTest('those of some tasks'):
            self.assertFound('', [second], isWanted=lambda task: task == 'song')
            self.assertFound(f'id:{first}', [], isWanted=lambda task: task == 'song')

    def test_what_some_task_of_the_service_hides_is_not_found(self):
        provideUtility(SimpleTask(lambda input: input, mask=['iban']), name='pay')
        jobid = self.service.add('pay', {'iban': 'DE12', 'for': 'DE12', 'sum': 7}, now=0)
        for text in 'input.iban:DE12', 'input.iban:D*', 'de12', 'input.for:DE12':
            self.assertFound(text, [])
        self.assertFound('input.sum:7 pay', [jobid])

    def test_large_input(self):
        jobid = self.service.add('echo', {'text': 'x' * (LARGE + 1), 'film': 'M'}, now=0)
        self.assertFound('input.film:M', [jobid])               # in no database it is as it was given
        self.assertFound('task:echo', [jobid])

    def test_a_broken_job(self):
        jobid = self.service.add('echo', now=0)
        self.service.shards[jobid >> BITS].pages.put(jobid, b'no row')
        self.assertFound('', [jobid])
        for text in 'task:*', 'x', 'input.a:*', 'host:*':
            self.assertFound(text, [])

    def test_a_walk_has_an_end(self):
        jobids = [self.service.add('echo', number, now=number) for number in range(30)]
        found = self.find('task:none', most=10)
        self.assertEqual((found.jobs, found.looked, found.isCut), ([], 10, True))
        self.assertEqual(ids(self.find('', after=found.cursor, size=1).jobs), [jobids[19]])
        found = self.find('task:none', after=found.cursor, most=100)
        self.assertEqual(found, search.Found([], None, 20, False))
        for number in range(100):
            self.service.add('echo', number, now=100 + number)
        found = self.find('task:none', patience=0)
        self.assertEqual((found.jobs, found.looked, found.isCut), ([], search.CHUNK, True))

    def test_mistakes(self):
        for options, reason in (({'size': 0}, 'size: 0 is not a number from 1 to 1000'), ({'most': 0}, 'most: 0'),
                                ({'after': 'x'}, "cursor: 'x' is none"), ({'after': '1-'}, 'is none'),
                                ({'after': '9' * 20 + '-1'}, 'is none'), ({'after': '1-4294967296'}, 'is none')):
            with self.subTest(options), self.assertRaisesRegex(ValueError, reason):
                self.find('', **options)


class TestEachTerm(SearchCase):
    """Each term, on jobs in each status, against a look at each job."""

    def happen(self, seed):
        """Have a lot happen to jobs, some of it on hosts; return the service."""
        random.seed(seed)
        self.service = service = TaskService()
        walk = Walk(service, random.Random(seed))
        for _ in range(150):
            walk.step()
        policy = RetryPolicy(attempts=2, base=1000)
        for number in range(40):
            service.add(walk.task(), {'n': number}, now=walk.now + number % 9, retryPolicy=policy)
        now = walk.now + 100
        for name in 'alpha', 'beta':
            ledger = service.ledgers[name] = Ledger()
            ledger.number = service.hosts.add(name)
            claims, _ = claiming.claim(service, 15, 0, now, ledger)
            for claim in claims[:12]:
                transitions.acknowledge(service, ledger, execute(service, claim, lambda: now), now)
        return service

    def expected(self, service, terms):
        """Return the ids of the jobs that fit terms: pairs of a name and a value."""
        return sorted(job.id for job in (service.jobs[jobid] for jobid in service.jobs)
                      if all(self.fits(service, job, *term) for term in terms))

    def fits(self, service, job, name, value):
        ends = job.completed if job.status in FINAL else job.created
        return {'status': lambda: service.getStatus(job.id) == value,
                'task': lambda: fnmatch.fnmatchcase(job.task, value),
                'host': lambda: fnmatch.fnmatchcase(search.hostOf(service, job) or '', value)
                and search.hostOf(service, job) is not None,
                'since': lambda: ends >= value, 'before': lambda: ends < value,
                'input.n': lambda: isinstance(job.input, dict) and fnmatch.fnmatchcase(str(job.input['n']), value),
                'schedule': lambda: job.schedule == value, 'id': lambda: job.id == value,
                'word': lambda: value in (job.error or '')}[name]()

    def test_each(self):
        for seed in range(4):
            service = self.happen(seed)
            jobs = [service.jobs[jobid] for jobid in service.jobs]
            middle = sorted(job.created for job in jobs)[len(jobs) // 2]
            schedule = next((job.schedule for job in jobs if job.schedule is not None), 1)
            found = set()
            for status in STATUSES:
                for name, value in (('task', 'echo'), ('task', 'f*'), ('host', 'alpha'), ('host', 'b*'), ('host', '*'),
                                    ('since', middle), ('before', middle), ('input.n', '1*'), ('schedule', schedule),
                                    ('id', jobs[0].id), ('word', 'asked')):
                    text = value if name == 'word' else f'{name}:{self.written(name, value)}'
                    jobids = self.expected(service, [('status', status), (name, value)])
                    found.update((status, name) for _ in jobids)
                    with self.subTest(text, seed=seed, status=status):
                        listed = search.search(service, parseFilter(f'status:"{status}" {text}', 0), size=1000)
                        self.assertEqual(sorted(ids(listed.jobs)), jobids)
            for status in 'queued', 'processing', 'completed', 'error':
                self.assertIn((status, 'host'), found)

    def written(self, name, value):
        if name not in ('since', 'before'):
            return value
        return datetime.fromtimestamp(value, timezone.utc).strftime('%Y-%m-%dT%H:%M:%S.%f')

    def test_what_was_queued_again_hides_nothing(self):
        old = self.service.addMany([{'task': 'fail', 'retryPolicy': RetryPolicy(attempts=1)}] * 100, now=100)
        self.service.process(200)
        new = self.service.addMany([{'task': 'echo'}] * 100, now=10_000)
        self.service.retryFailed()
        self.assertEqual(sorted(ids(self.find('since:1970-01-01T01:00', size=1000).jobs)), sorted(new))
        self.assertEqual(sorted(ids(self.service.getJobs(None, 0, 1000, since=3600))), sorted(new))
        for status in '', 'status:queued':
            self.assertEqual(sorted(ids(self.find(f'{status} before:1970-01-01T01:00', size=1000).jobs)), sorted(old))


class TestPages(SearchCase):

    def pages(self, text, size, between=lambda: None, **options):
        """Return the ids of all pages; `between` is called after each."""
        jobids, after = [], None
        for _ in range(10_000):
            found = self.find(text, after=after, size=size, **options)
            jobids += ids(found.jobs)
            after = found.cursor
            if after is None:
                return jobids
            between()
        self.fail('there is no last page')

    def test_they_are_all_that_there_are(self):
        for seed in range(6):
            random.seed(seed)                   # ids are random
            self.service = TaskService()
            walk = Walk(self.service, random.Random(seed))
            for _ in range(250):
                walk.step()
            listed = self.service.getJobs(None, 0, 10_000)
            for size, most in (1, 100), (7, 3), (1000, 1000):
                for oldest in False, True:
                    with self.subTest(seed=seed, size=size, most=most, oldest=oldest):
                        self.assertEqual(sorted(self.pages('', size, most=most, oldest=oldest)), sorted(ids(listed)))
            for status in STATUSES:
                jobids = ids(self.service.getJobs(status, 0, 10_000))
                for oldest in False, True:
                    with self.subTest(seed=seed, status=status, oldest=oldest):
                        found = self.pages(f'status:"{status}"', 3, oldest=oldest)
                        self.assertEqual(sorted(found), sorted(jobids))
                        if status != 'queued':
                            self.assertEqual(found, jobids[::-1] if oldest else jobids)
            for text in 'before:1970-01-01T00:30', 'since:1970-01-01T00:25 before:1970-01-01T00:40':
                with self.subTest(text, seed=seed):
                    self.assertEqual(sorted(self.pages(text, 4, oldest=True)), sorted(self.pages(text, 4)))

    def test_many_of_one_time(self):
        jobids = []
        for _ in range(3):                      # each begins at another id
            self.service._goElsewhere()
            jobids += self.service.addMany([{'task': 'echo'}] * 400, now=100)
        for size in 7, 100, 1000:
            with self.subTest(size=size):
                self.assertEqual(sorted(self.pages('', size)), sorted(jobids))
                self.assertEqual(self.pages('', size, oldest=True), self.pages('', size)[::-1])

    def test_nothing_is_lost_or_doubled_while_jobs_come_and_go(self):
        for seed in range(6):
            random.seed(seed)
            draw = random.Random(seed)
            self.service = service = TaskService()
            # Many of one time, as `addMany` adds them: their order is that of the ids.
            jobids = service.addMany([{'task': draw.choice(('echo', 'fail'))}] * 120, now=100)
            service.claimNextJob(100)
            for _ in range(40):
                service.processNext(draw.choice((200, 300)))
            claimable = set(jobids)

            def between(service=service, draw=draw):
                service.add('echo', now=400)
                for _ in range(draw.randrange(3)):
                    service.claimNextJob(400)

            before = {status: set(ids(service.getJobs(status, 0, 10_000))) for status in STATUSES}
            seen = self.pages('', draw.randrange(1, 9), between)
            with self.subTest(seed=seed):
                self.assertEqual(len(seen), len(set(seen)))
                # What has ended is exact; of what waits only those may be missing that were claimed meanwhile, which
                # an earlier page would have had.
                ended = before['completed'] | before['error']
                self.assertLessEqual(ended, set(seen))
                gone = claimable - set(seen)
                self.assertTrue(all(service.getStatus(jobid) == 'processing' for jobid in gone), gone)


def load_tests(loader, tests, pattern):
    for module in (filters, masking):
        tests.addTest(doctest.DocTestSuite(module))
    return tests


if __name__ == '__main__':
    unittest.main()
