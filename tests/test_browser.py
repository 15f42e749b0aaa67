"""The pages in a real browser: Chromium, as Debian has it, driven by Playwright; and axe-core, which finds barriers."""
# SPDX-License-Identifier: ZPL-2.1
import os
import pathlib
import re
import shutil
import tempfile
import threading
import unittest

import axe_playwright_python
import zope.component.testing
from playwright.sync_api import expect
from playwright.sync_api import sync_playwright
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from zope.component import provideUtility

from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.task import TaskError
from lovely.remotetask.testing import waitForJobs
from lovely.remotetask.web.application import application
from lovely.remotetask.web.server import Server
from waits import PATIENCE
from waits import waitUntil
from webcase import MARKUP
from webcase import PASSWORDS
from webcase import USERS
from webcase import IFilm
from webcase import ServiceCase


AXE = pathlib.Path(axe_playwright_python.__file__).parent / 'axe.min.js'

#: Milliseconds, for the browser.
LONG = 1000 * PATIENCE

#: What a page has to be good for: colours, and width and height in pixels.
DESK, PHONE = {'width': 1200, 'height': 900}, {'width': 390, 'height': 844}

#: Where pictures of the pages are kept; nowhere by default.
PICTURES = os.environ.get('REMOTETASK_PICTURES')


def chromium():
    """Return the path of the browser; raise AssertionError that says how it is installed."""
    for name in 'chromium', 'chromium-browser', 'google-chrome':
        path = shutil.which(name)
        if path is not None:
            return path
    raise AssertionError('there is no Chromium: apt-get install chromium')


class Wait(SimpleTask):
    """Says how far it is, and waits for an event."""

    def __init__(self, event):
        super().__init__(str)
        self.event = event

    def __call__(self, service, jobid, input):
        service.setProgress(jobid, 0.25, 'first reel')
        self.event.wait(PATIENCE)
        return input


class BrowserCase(ServiceCase):
    """A browser, and pages of a service that one host processes."""

    level = 2
    users = None

    def setUp(self):
        self.addCleanup(zope.component.testing.tearDown)
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.db = DB(FileStorage(directory.name + '/Data.fs', blob_dir=directory.name + '/blobs'))
        self.addCleanup(self.db.close)
        install(self.db)
        self.goOn = threading.Event()
        self.addCleanup(self.goOn.set)
        for name, task in (('echo', SimpleTask(lambda input: input)), ('fail', SimpleTask(self.fail_)),
                           ('film', SimpleTask(lambda input: input, IFilm)), ('wait', Wait(self.goOn))):
            provideUtility(task, name=name)
        users = None
        if self.users:
            users = directory.name + '/users'
            with open(os.open(users, os.O_WRONLY | os.O_CREAT, 0o600), 'w', encoding='utf-8') as file:
                file.write(self.users)
        server = Server(application(self.db, users), ('127.0.0.1', 0), 4)
        self.addCleanup(server.stop, PATIENCE)
        server.start()
        self.url = 'http://{}:{}'.format(*server.address)
        self.complaints = []
        playwright = sync_playwright().start()
        self.addCleanup(playwright.stop)
        # Without a sandbox of its own the browser runs as root, too; the pages are ours.
        self.browser = playwright.chromium.launch(executable_path=chromium(), args=['--no-sandbox'])
        self.addCleanup(self.browser.close)

    def fail_(self, input):
        raise TaskError('there is no film Metropole')

    def process(self):
        """Have a host process the service until the end of the test."""
        processor = MultiProcessor(self.db, ('TaskService',), name='processor-1', waitTime=0.1, maxThreads=2)
        processor.start()
        self.addCleanup(processor.stop, PATIENCE)
        self.addCleanup(self.goOn.set)

    def open(self, path, answer=True, **options):
        """Return a page in a browser of its own.

        answer -- what is answered to questions: yes or no.
        options -- of Playwright's `new_context`.
        """
        options.setdefault('viewport', DESK)
        context = self.browser.new_context(**options)
        self.addCleanup(context.close)
        context.set_default_timeout(LONG)
        page = context.new_page()
        page.on('console', lambda message: message.type == 'error' and self.complaints.append(message.text))
        page.on('pageerror', lambda error: self.complaints.append(str(error)))
        page.on('dialog', lambda dialog: dialog.accept() if answer else dialog.dismiss())
        page.goto(self.url + path)
        return page

    def fill(self):
        """Have jobs of all kinds; return the ids of one that failed, and of a schedule."""
        with self.service() as service:
            ended = [service.add('echo', {'film': f'Metropolis {number}', 'password': 'x'}) for number in range(8)]
            failed = service.add('fail', {'film': 'Metropole'})
            schedule = service.addCronJob('echo', 'good morning', crontab='0 8 * * mon-fri', timeZone='Europe/Berlin')
            service.addCronJob('echo', delay=3600)
            service.add('echo', startLater=True)
        self.process()
        with self.db.transaction() as connection:
            waitForJobs(connection.root()['Application']['TaskService'], [*ended, failed], PATIENCE)
            connection.transaction_manager.abort()
        running = self.do('add', 'wait', 'x')
        waitUntil(lambda: self.do('getProgress', running))      # it tells of its progress once a second
        return failed, schedule

    def barriers(self, page, rules):
        """Return what axe-core has found; `rules` is its argument, in JavaScript."""
        # The page forbids all scripts but its own; this one comes from outside, as a browser's own tools do.
        page.evaluate(AXE.read_text())
        found = page.evaluate(f'axe.run({rules})')
        return [(violation['id'], [node['html'][:200] for node in violation['nodes']][:3])
                for violation in found['violations']]

    def pictures(self, paths):
        """Keep pictures for the documents, where that is wanted: `pages-NAME.png`, of the upper part of pages."""
        if PICTURES:
            page = self.open('/', viewport={'width': 1200, 'height': 760})
            for name, path in paths.items():
                page.goto(self.url + path)
                page.screenshot(path=os.path.join(PICTURES, f'pages-{name}.png'))

    def picture(self, page, name):
        """Keep a picture of a page, where that is wanted."""
        if PICTURES:
            page.screenshot(path=os.path.join(PICTURES, f'{name}.png'), full_page=True)


class TestEveryPage(BrowserCase):

    def test_markup_does_nothing(self):
        def raiseMarkup(input):
            raise TaskError(MARKUP)

        provideUtility(SimpleTask(raiseMarkup), name=MARKUP)
        with self.service() as service:
            jobid = service.add(MARKUP, {MARKUP: MARKUP}, key=MARKUP, request=MARKUP)
            service.process()
        asked = []
        for path in '/', '/jobs', f'/jobs/{jobid}', '/tasks':
            page = self.open(path)
            page.on('dialog', lambda dialog: asked.append(dialog.message))
            page.wait_for_load_state('networkidle')
            self.assertEqual(page.locator('main img, main b, main script').count(), 0)
        self.assertEqual((asked, self.complaints), ([], []))

    def test_nobody_is_kept_out(self):
        failed, schedule = self.fill()
        paths = {'overview': '/', 'jobs': '/jobs', 'filter': '/jobs?filter=state:x', 'job': f'/jobs/{failed}',
                 'schedule': f'/jobs/{schedule}', 'schedules': '/schedules', 'tasks': '/tasks', 'task': '/tasks/film',
                 'hosts': '/hosts', 'changes': '/changes', 'bulk': '/bulk?verb=cancel&filter=task:echo',
                 'nowhere': '/nowhere'}
        self.pictures({name: paths[name] for name in ('overview', 'jobs', 'job', 'task')})
        self.do('pause')
        # On a phone all stands one below the other; in the dark only the colours are others.
        for colours, size, rules in ('light', DESK, '{}'), ('dark', DESK, "{runOnly: ['color-contrast']}"), \
                ('light', PHONE, None):
            page = self.open('/', viewport=size, color_scheme=colours)
            for name, path in paths.items():
                with self.subTest(name, colours=colours, width=size['width']):
                    page.goto(self.url + path)
                    self.picture(page, f'{name}-{colours}-{size["width"]}')
                    self.assertLessEqual(page.evaluate('document.documentElement.scrollWidth'), size['width'])
                    if rules is not None:
                        self.assertEqual(self.barriers(page, rules), [])
        # The two that are asked for on purpose say so in the console.
        self.assertEqual([text for text in self.complaints if '400' not in text and '404' not in text], [])


class TestButtons(BrowserCase):

    def assertSaid(self, page, text):
        expect(page.locator('.said')).to_have_text(text)

    def test_one_job(self):
        jobid = self.do('add', 'fail', startLater=True)
        page = self.open(f'/jobs/{jobid}')
        page.get_by_role('button', name='Start').click()
        self.assertSaid(page, 'The job was started.')
        self.do('process')
        page.reload()
        page.get_by_role('button', name='Retry').click()
        self.assertSaid(page, 'The job runs again.')
        self.assertEqual(self.do('getStatus', jobid), 'queued')
        page.get_by_role('button', name='Cancel').click()
        self.assertSaid(page, 'The job was cancelled.')
        page.get_by_role('button', name='Remove').click()
        self.assertSaid(page, 'The job was removed.')
        self.assertEqual(self.do('countJobs')['cancelled'], 0)
        self.assertEqual(self.complaints, [])

    def test_who_says_no_changes_nothing(self):
        jobid = self.do('add', 'echo')
        page = self.open(f'/jobs/{jobid}', answer=False)
        page.get_by_role('button', name='Cancel').click()
        self.assertEqual(self.do('getStatus', jobid), 'queued')

    def test_selected_jobs(self):
        jobids = self.do('addMany', [{'task': 'echo'}] * 4)
        page = self.open('/jobs?filter=status:queued')
        page.get_by_label(f'select job {jobids[0]}').check()
        page.get_by_role('button', name='Cancel').click()
        self.assertSaid(page, 'Jobs cancelled: 1.')
        self.assertIn('filter=status', page.url)
        page.get_by_label('select all jobs of this page').check()
        page.get_by_role('button', name='Cancel').click()
        self.assertSaid(page, 'Jobs cancelled: 3.')
        page.goto(self.url + '/jobs')
        page.get_by_role('button', name='Retry').click()
        self.assertSaid(page, 'No jobs were selected.')
        page.get_by_label('select all jobs of this page').check()
        page.get_by_role('button', name='Remove').click()
        self.assertSaid(page, 'Jobs removed: 4.')

    def test_a_column_sorts(self):
        self.fill()
        page = self.open('/jobs')
        status = page.locator('thead .tableStatus')
        for direction, first, last in ('ascending', 'processing', 'start later'), ('descending', 'start later', \
                                                                                   'processing'):
            status.locator('a').click()
            expect(status).to_have_attribute('aria-sort', direction)
            expect(page.locator('tbody .tableStatus').first).to_have_text(first)
            expect(page.locator('tbody .tableStatus').last).to_have_text(last)
            self.assertEqual(self.barriers(page, '{}'), [])
        page.locator('thead .tableEnd a').click()
        expect(page.locator('thead [aria-sort]')).to_have_text('Ended ▼')

    def test_all_that_fit(self):
        self.do('addMany', [{'task': 'echo', 'startLater': True}] * 150)
        self.process()
        page = self.open('/jobs?filter=status:start-later')
        page.get_by_label('All jobs that fit the filter:').select_option('cancel')
        page.get_by_role('button', name='Go on').click()
        page.get_by_label('Type 150 to confirm it').fill('15')
        page.get_by_role('button', name='Cancel them all').click()
        expect(page.get_by_role('alert')).to_contain_text('Type 150')
        page.get_by_label('Type 150 to confirm it').fill('150')
        page.get_by_role('button', name='Cancel them all').click()
        expect(page.locator('#r-job .status')).to_have_text('completed', timeout=LONG)     # by itself
        expect(page.locator('#r-output')).to_contain_text('changed: 150')
        self.assertEqual(self.do('countJobs')['cancelled'], 150)

    def test_the_service(self):
        page = self.open('/')
        page.get_by_role('button', name='Pause processing').click()
        self.assertSaid(page, 'Processing is paused: running jobs end, and no more are taken.')
        page.get_by_role('button', name='Resume processing').click()
        self.assertSaid(page, 'Processing goes on.')
        with self.service() as service:
            self.assertFalse(service.paused)

    def test_a_form_of_a_schema(self):
        page = self.open('/tasks/film')
        page.get_by_label('Title').fill('Metropolis')
        page.get_by_label('Year').fill('1800')
        page.get_by_label('Kind').select_option('drama')
        page.get_by_label('Password', exact=True).fill('secret')
        page.get_by_label('Start it later').check()
        page.get_by_role('button', name='Add').click()
        expect(page.locator('.field .mistake')).to_contain_text('Value is too small')
        page.get_by_label('Year').fill('1927')
        page.get_by_label('Password', exact=True).fill('secret')
        page.get_by_role('button', name='Add').click()
        self.assertSaid(page, 'The job was added.')
        expect(page.locator('main')).to_contain_text('title: Metropolis')
        self.assertNotIn('secret', page.content())

    def test_schedules(self):
        page = self.open('/schedules')
        page.get_by_label('Task').select_option('echo')
        page.get_by_label('Crontab').fill('every day')
        page.get_by_role('button', name='Add').click()
        expect(page.get_by_role('alert')).to_contain_text('crontab')
        page.get_by_label('Crontab').fill('0 8 * * mon-fri')
        page.get_by_role('button', name='Add').click()
        self.assertSaid(page, 'The schedule was added.')
        page.get_by_label('Crontab').fill('30 9 * * *')
        page.get_by_role('button', name='Apply').click()
        self.assertSaid(page, 'The schedule was changed.')
        expect(page.locator('#r-job')).to_contain_text('at 09:30, UTC')
        page.get_by_role('button', name='Pause').click()
        self.assertSaid(page, 'The schedule is paused.')
        page.get_by_role('button', name='Resume').click()
        self.assertSaid(page, 'The schedule is active.')
        page.get_by_role('button', name='Run now').click()
        self.assertSaid(page, 'It runs now.')

    def test_without_javascript(self):
        jobids = self.do('addMany', [{'task': 'echo'}] * 2 + [{'task': 'fail'}])
        page = self.open('/jobs', java_script_enabled=False)
        page.get_by_label('Filter', exact=True).fill('task:fail')
        page.get_by_role('button', name='Show').click()
        expect(page.locator('tbody tr')).to_have_count(1)
        page.get_by_label(f'select job {jobids[2]}').check()
        page.get_by_role('button', name='Cancel').click()
        self.assertSaid(page, 'Jobs cancelled: 1.')


class TestLive(BrowserCase):

    def test_a_page_keeps_up(self):
        jobids = self.do('addMany', [{'task': 'echo'}] * 3)
        page, statuses = self.open('/jobs'), []
        page.on('response', lambda response: statuses.append(response.status))
        page.get_by_label(f'select job {jobids[0]}').check()
        page.locator(f'#job-{jobids[1]} a').focus()
        page.get_by_label('Filter', exact=True).evaluate('input => { input.value = "task:e" }')
        added = self.do('add', 'echo')
        expect(page.locator(f'#job-{added}')).to_be_visible()
        # What the user was about stays as it was.
        self.assertTrue(page.get_by_label(f'select job {jobids[0]}').is_checked())
        self.assertEqual(page.evaluate('document.activeElement.textContent'), str(jobids[1]))
        self.assertEqual(page.get_by_label('Filter', exact=True).input_value(), 'task:e')
        with page.expect_response(lambda response: response.status == 304):
            pass                                    # nothing new was committed
        page.get_by_role('button', name='Stop updating').click()
        page.wait_for_load_state('networkidle')
        statuses.clear()
        later = self.do('add', 'echo')
        page.get_by_role('button', name='Update by itself').click()
        expect(page.locator(f'#job-{later}')).to_be_visible()
        self.assertEqual(self.complaints, [])

    def test_a_server_that_is_away_is_told(self):
        page = self.open('/')
        page.context.set_offline(True)
        expect(page.locator('#live')).to_contain_text('The server does not answer.')
        page.context.set_offline(False)
        expect(page.locator('#live')).not_to_contain_text('The server does not answer.')

    def test_keys(self):
        jobids = self.do('addMany', [{'task': 'echo'}] * 3)
        page = self.open('/')
        page.keyboard.press('g')
        page.keyboard.press('j')
        page.wait_for_url('**/jobs')
        for key in 'j', 'j', 'k':
            page.keyboard.press(key)
        self.assertIn(page.evaluate('document.activeElement.textContent'), [str(jobid) for jobid in jobids])
        page.keyboard.press('/')
        self.assertEqual(page.evaluate('document.activeElement.id'), 'filter')
        page.keyboard.type('gs task:none')
        page.keyboard.press('Enter')
        page.wait_for_url(re.compile('filter=gs'))


class TestTwoUsers(BrowserCase):

    users = USERS

    def open(self, path, user, **options):
        return super().open(path, http_credentials={'username': user, 'password': PASSWORDS[user]}, **options)

    def test_two_roles(self):
        jobid = self.do('add', 'echo')
        reader, manager = self.open(f'/jobs/{jobid}', 'bob'), self.open(f'/jobs/{jobid}', 'ann')
        expect(reader.locator('header')).to_contain_text('user bob')
        self.assertEqual(reader.locator('main button').count(), 0)
        manager.get_by_role('button', name='Cancel').click()
        expect(manager.locator('.said')).to_have_text('The job was cancelled.')
        expect(reader.locator('#r-job .status')).to_have_text('cancelled')          # by itself
        # The reader sends what the manager's page would send.
        forged = '''token => Promise.all([token, ''].map(async token =>
            (await fetch('/do/pause', {method: 'POST', body: new URLSearchParams({token})})).status))'''
        statuses = reader.evaluate(forged, manager.locator('input[name=token]').first.input_value())
        self.assertEqual(statuses, [403, 403])
        with self.service() as service:
            self.assertFalse(service.paused)


if __name__ == '__main__':
    unittest.main()
