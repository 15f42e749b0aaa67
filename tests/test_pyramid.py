"""The pages mounted in an application of Pyramid, which is a process of its own."""
# SPDX-License-Identifier: ZPL-2.1
import os
import re
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.parse
import urllib.request

from waits import PATIENCE


#: What pages.txt shows, and a server for it.
PROGRAM = '''
import sys
from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.wsgi import wsgiapp2
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from lovely.remotetask.config.settings import DEFAULT_SITE
from lovely.remotetask.config.zcml import loadSite
from lovely.remotetask.service import install
from lovely.remotetask.web.application import application
from lovely.remotetask.web.server import Server

db = DB(FileStorage(sys.argv[1]))
install(db)
loadSite(DEFAULT_SITE)

with Configurator() as config:
    config.add_route('tasks', '/admin/tasks*subpath')
    config.add_view(wsgiapp2(application(db)), route_name='tasks')
    config.add_route('home', '/')
    config.add_view(lambda request: Response('home'), route_name='home')
    app = config.make_wsgi_app()

server = Server(app, ('127.0.0.1', 0), 2)
server.start()
print('http://{}:{}'.format(*server.address), flush=True)
sys.stdin.read()
server.stop(10)
db.close()
'''


class TestPyramid(unittest.TestCase):

    level = 2

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        path = os.pathsep.join(map(os.path.abspath, sys.path))
        self.process = subprocess.Popen(
            [sys.executable, '-c', PROGRAM, directory.name + '/Data.fs'], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**os.environ, 'PYTHONPATH': path})
        self.addCleanup(self.process.stdout.close)
        self.addCleanup(self.process.wait, PATIENCE)
        self.addCleanup(self.process.stdin.close)
        self.url = self.process.stdout.readline().strip()
        self.assertTrue(self.url, 'the application has ended')

    def open(self, path, **form):
        """Return the URL that answers in the end, and its text; with a form it is sent."""
        data = urllib.parse.urlencode(form).encode() if form else None
        request = urllib.request.Request(self.url + path, data, {'Origin': self.url} if form else {})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.url.removeprefix(self.url), answer.read().decode()

    def test_the_pages_are_a_part_of_it(self):
        self.assertEqual(self.open('/')[1], 'home')
        for path in '/admin/tasks', '/admin/tasks/', '/admin/tasks/jobs', '/admin/tasks/tasks/echo':
            with self.subTest(path):
                page = self.open(path)[1]
                links = re.findall(r'(?:href|src|action)="([^"#]+)"', page)
                self.assertGreater(len(links), 5)
                for link in links:
                    self.assertTrue(link.startswith('/admin/tasks/'), link)
                for link in re.findall(r'(?:href|src)="([^"#]+static[^"]+)"', page):
                    self.assertGreater(len(self.open(link)[1]), 50)
        token = re.search(r'name="token" value="([^"]+)"', page)[1]
        path, page = self.open('/admin/tasks/do/add', token=token, task='echo', input='"from Pyramid"')
        self.assertRegex(path, r'\A/admin/tasks/jobs/[0-9]+\?said=add\Z')
        self.assertIn('from Pyramid', page)
        with self.assertRaises(urllib.error.HTTPError) as caught:
            self.open('/admin/tasks/nowhere')
        self.assertEqual(caught.exception.code, 404)


if __name__ == '__main__':
    unittest.main()
