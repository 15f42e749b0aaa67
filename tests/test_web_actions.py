"""The pages: what buttons do, with one job and with all that fit a filter, and who has pressed them."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import re
import threading
import time
import unittest
import unittest.mock
from concurrent.futures import ThreadPoolExecutor

from ZEO.Exceptions import ClientDisconnected
from ZEO.Exceptions import ServerException

from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.execution import bulk
from lovely.remotetask.execution.bulk import TASK
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import TaskService
from lovely.remotetask.service import install
from lovely.remotetask.testing import temporaryZEO
from lovely.remotetask.testing import waitForJobs
from lovely.remotetask.web import changepages
from lovely.remotetask.web.actions import VERBS
from lovely.remotetask.web.application import application
from servers import holdBack
from waits import PATIENCE
from webcase import NOW
from webcase import USERS
from webcase import WebCase


class TestButtons(WebCase):

    def test_jobs(self):
        jobid = self.do('add', 'echo', startLater=True, now=NOW)
        response = self.post('start', jobid=str(jobid), back=f'/jobs/{jobid}')
        self.assertIn('The job was started.', self.get(response.location).text)
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
        self.assertIn('Jobs cancelled: 4.', self.get(location).text)
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
        self.assertRegex(self.get(f'/jobs/{jobid}').text, r'name="dayOfMonth" value="\*"')
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
                    self.assertRegex(page, 'class="mistake" role="alert" id="s-mistake">[^<]*' + mistake)
                    wrong = re.findall(r'name="(\w+)" aria-invalid="true" aria-describedby="s-mistake"', page)
                    self.assertEqual(wrong, [] if len(fields) > 1 else list(fields))
                    self.assertIn(f'value="{next(iter(fields.values()))}"', page)
        with self.service() as service:
            self.assertEqual(service.jobs[jobid].minute, (0, 30))

    def test_a_schedule_runs_now(self):
        jobid = self.do('addCronJob', 'echo', 'x', hour=[8], now=NOW)
        self.assertIn(f'/jobs/{jobid}?', self.post('run', jobid=str(jobid)).location)
        with self.service() as service:
            self.assertTrue(service.jobs[jobid].pending)
        self.post('run', jobid=str(jobid), status=409)
        jobid = self.do('addCronJob', 'echo', 'x', hour=[8], newJobs=True, now=NOW)
        added = int(re.search(r'/jobs/(\d+)', self.post('run', jobid=str(jobid)).location)[1])
        with self.service() as service:
            self.assertEqual((service.jobs[added].input, service.jobs[added].schedule, service.getStatus(added)),
                             ('x', jobid, 'queued'))
        self.post('run', jobid=str(self.do('add', 'echo')), status=409)

    def test_who_did_what_is_in_the_database(self):
        jobid = self.do('add', 'echo', now=NOW)
        with self.assertLogs('lovely.remotetask', 'INFO') as logged:
            self.post('cancel', jobid=str(jobid))
        self.assertIn(f"user 'anybody' at 127.0.0.1: 'cancel job {jobid} echo' in '/'", ' '.join(logged.output))
        last = self.db.undoInfo(0, 1)[0]
        self.assertEqual(last['description'], f'remotetask cancel job {jobid} echo in /TaskService')
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
        notes = ' '.join(entry['description'] for entry in self.db.undoInfo(0, 20))
        self.assertRegex(notes, f'remotetask retry 200 jobs [-0-9,.]+ task:fail for {jobid} in /TaskService')
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
        self.addCleanup(processor.stop, PATIENCE)
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

    def test_no_filter_has_what_the_pages_hide(self):
        self.do('add', 'echo', {'iban': 'DE12'}, now=NOW)
        self.application.mask = ('iban',)
        self.get('/bulk?verb=cancel&filter=input.iban:D*', status=400)
        page = self.bulk('cancel', 'input.iban:D*', 400, expected='1').text
        self.assertIn('filter: iban is a secret: no job is found by it', page)
        for expected in '', 'x', '-1', '9' * 20:
            self.bulk('cancel', '', 400, expected=expected)
        self.get('/bulk?verb=explode', status=400)
        self.get('/bulk?verb=cancel&filter=state:x', status=400)

    def test_counting_has_an_end(self):
        with self.service() as service:
            service.addMany([{'task': 'echo'}] * 30, NOW)
        with self.service() as service:
            for most, text, expected in ((20, 'task:echo', (20, False)), (40, 'task:echo', (30, True)),
                                         (1, 'status:queued', (30, True)), (1, 'status:error', (0, True))):
                with unittest.mock.patch.object(bulk, 'COUNTED', most):
                    self.assertEqual(service.countBulk('cancel', text, NOW), expected)


class TestAudit(WebCase):

    users = USERS

    def rows(self, page):
        """Return user, verb and what it was done to, of each row."""
        rows = re.findall(r'</time></th><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>', page)
        return [(user, verb, re.sub('<[^>]*>', '', what).strip()) for user, verb, what in rows]

    def test_who_did_what(self):
        jobid = self.do('add', 'echo', now=NOW)
        self.post('cancel', 'sue', jobid=str(jobid))
        self.post('pause', 'ann')
        self.now = time.time() + 60
        page = self.get('/changes', 'bob').text
        self.assertEqual(self.rows(page)[:2], [('ann', 'pause', ''), ('sue', 'cancel', f'job {jobid} echo')])
        self.assertNotIn('Go on looking', page)
        self.get('/changes', 'films', status=403)
        self.now = NOW
        self.assertIn('No such changes.', self.get('/changes', 'bob').text)

    def test_of_many_transactions(self):
        self.post('pause', 'ann')
        for _ in range(5):
            self.do('add', 'echo', now=NOW)
        self.now = time.time() + 60
        with unittest.mock.patch.object(changepages, 'LOOKED_AT', 3):
            page = self.get('/changes', 'bob').text
            self.assertNotIn('<td>ann</td>', page)
            more = re.search(r'rel="next" href="([^"]+)"', page)[1]
            self.assertIn('<td>ann</td>', self.get(more, 'bob').text)

    def test_while_the_database_is_packed(self):
        packs, goOn = threading.Event(), threading.Event()
        self.addCleanup(goOn.set)

        def pack(storage, references, stop, gc):
            packs.set()
            goOn.wait(PATIENCE)

        self.post('pause', 'ann')
        with unittest.mock.patch.object(self.db.storage, 'packer', pack), ThreadPoolExecutor(1) as threads:
            packing = threads.submit(self.db.pack)
            self.assertTrue(packs.wait(PATIENCE))
            page = self.get('/changes', 'bob', status=503).text
            self.assertIn('is being packed', page)
            self.assertNotIn('No such changes', page)
            goOn.set()
            packing.result(PATIENCE)
        self.now = time.time() + 60
        self.assertIn('<td>ann</td>', self.get('/changes', 'bob').text)

    def test_while_a_database_server_packs(self):
        for error, status, text in (
                (ServerException('ZODB.POSException.UndoError', {'_reason': 'Undo is currently disabled for database '
                                                                            'maintenance.<p>', '_oid': None}),
                 503, 'is being packed'),
                (ClientDisconnected('no server'), 503, 'The database does not answer')):
            with self.subTest(text), unittest.mock.patch.object(self.db, 'undoInfo', side_effect=error), \
                    self.assertNoLogs('lovely.remotetask', 'ERROR'):
                self.assertIn(text, self.get('/changes', 'bob', status=status).text)


class TestBehind(WebCase):
    """Pages whose process has not heard yet of what another one has just committed."""

    level = 2

    def test_a_job_that_another_process_has_changed(self):
        server = self.enterContext(temporaryZEO())
        other, self.db = (self.enterContext(contextlib.closing(server.database())) for _ in range(2))
        install(self.db)
        self.application = application(self.db, clock=lambda: NOW)
        self.get('/jobs')
        holdBack(self, self.db)
        with other.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            jobid = service.add('echo', startLater=True, now=NOW)
        self.get(f'/jobs/{jobid}')
        holdBack(self, self.db)
        with other.transaction() as connection:
            connection.root()['Application']['TaskService'].cancel(jobid, NOW)
        self.post('remove', jobid=str(jobid))
        self.get(f'/jobs/{jobid}', status=404)
        token = self.token()
        holdBack(self, self.db)
        with other.transaction() as connection:
            service = connection.root()['Application']['TaskService']
            jobid = service.add('echo', startLater=True, now=NOW)
        location = self.post('cancelMany', form=[('token', token), ('jobs', str(jobid))]).location
        self.assertIn('said=cancelMany&count=1', location)


if __name__ == '__main__':
    unittest.main()
