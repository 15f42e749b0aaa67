"""Zope itself: an instance and scripts of zconsole on a real ZEO, and a processing host beside them."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import json
import os
import re
import signal
import tempfile
import unittest
import urllib.parse
import urllib.request
import uuid

from zope.testrunner.layer import UnitTests

from instance import LONG
from instance import PROCESSOR_CONF
from instance import Instance
from lovely.remotetask.client import Client
from lovely.remotetask.service import install
from lovely.remotetask.testing import temporaryZEO


SITE_ZCML = """\
<configure xmlns="http://namespaces.zope.org/zope" xmlns:browser="http://namespaces.zope.org/browser"
    xmlns:meta="http://namespaces.zope.org/meta" xmlns:remotetask="http://namespaces.lovelysystems.com/remotetask"
    xmlns:five="http://namespaces.zope.org/five" xmlns:zcml="http://namespaces.zope.org/zcml">
  <include package="Products.Five" />
  <five:loadProducts file="meta.zcml" />
  <meta:redefinePermission from="zope2.Public" to="zope.Public" />
  <securityPolicy component="AccessControl.security.SecurityPolicy" />
  <include package="lovely.remotetask" />
  <remotetask:task name="take" handler="Products.goods.take" zcml:condition="have goods" />
  <remotetask:task name="look" handler="shop.look" />
  <remotetask:task name="order" handler="shop.order" />
  <remotetask:task name="late" handler="shop.late" />
  <remotetask:task name="meet" handler="shop.meet" />
  <browser:page for="*" name="shop" class="shop.Shop" permission="zope.Public" />
</configure>
"""

#: Begins a script: a folder with a service, of which a host runs a job.
RUNNING = """\
import time
import transaction
from OFS.Folder import Folder
from lovely.remotetask.application import addService
app._setObject('depot', Folder('depot'))
service = addService(app.depot, 'tasks')
jobid = service.add('late')
transaction.commit()
service.startProcessing()
while service.getStatus(jobid) != 'processing':
    time.sleep(0.01)
    transaction.begin()
"""

#: A product: Zope imports it before ZCML is loaded, and initializes it afterwards.
GOODS = """\
from zope.interface import provider
from lovely.remotetask.interfaces import ITask

before = []


def initialize(context):
    before.append('initialized')


@provider(ITask)
def take(service, jobid, input):
    return before
"""
GOODS_META = """\
<configure xmlns:meta="http://namespaces.zope.org/meta"><meta:provides feature="goods" /></configure>
"""

SHOP = '''\
"""A shop in Zope: what it sells is counted in the site, by tasks and by requests."""
import json
import threading

import transaction
from AccessControl import getSecurityManager
from Acquisition import aq_base
from Acquisition import aq_chain
from Acquisition import aq_parent
from OFS.Folder import Folder
from Products.Five.browser import BrowserView
from ZODB.POSException import ConflictError
from zope.component import getUtility
from zope.component.hooks import getSite
from zope.globalrequest import getRequest
from zope.interface import provider

from lovely.remotetask.errors import TaskError
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.testing import waitForJobs

conflicts, runs, begun, hasSold = [], [], threading.Event(), threading.Event()


@provider(ITask)
def look(service, jobid, input):
    site = getSite()
    return {'site': '/'.join(site.getPhysicalPath()), 'url': site.absolute_url(),
            'parent': '/'.join(aq_parent(service).getPhysicalPath()), 'acquired': service.till.getId(),
            'chain': [aq_base(one).__class__.__name__ for one in aq_chain(service)],
            'same': site.REQUEST is getRequest(), 'user': getSecurityManager().getUser().getUserName(),
            'utility': getUtility(ITaskService, input['name']) is aq_base(service),
            'traversed': site.unrestrictedTraverse('till').getId()}


@provider(ITask)
def order(service, jobid, input):
    till = aq_parent(service).till
    if input.get('conflict') and len(conflicts) < 2:
        conflicts.append(jobid)
        raise ConflictError('somebody else was faster')
    till.sold = getattr(till, 'sold', 0) + 1
    till[input['thing']] = Folder(input['thing'])
    if input.get('fail'):
        raise TaskError('out of stock')
    transaction.get().note('sold ' + input['thing'])
    return {'sold': till.sold, 'conflicts': len(conflicts)}


@provider(ITask)
def meet(service, jobid, input):
    """Sell something while a request does so, too; say how many runs that took."""
    till = aq_parent(service).till
    sold = getattr(till, 'sold', 0)
    runs.append(jobid)
    begun.set()
    hasSold.wait(100)
    till.sold = sold + 1
    return runs.count(jobid)


@provider(ITask)
def late(service, jobid, input):
    begun.set()
    threading.main_thread().join()
    return 'ended'


class Shop(BrowserView):

    def __call__(self, do, argument='', name=''):
        service = getUtility(ITaskService, name)
        self.request.response.setHeader('Content-Type', 'application/json')
        return json.dumps(getattr(self, do)(service, json.loads(argument or 'null')))

    def add(self, service, argument):
        begun.clear()
        hasSold.clear()
        return service.add(*argument)

    def addAndFail(self, service, argument):
        service.add(*argument)
        raise ValueError('the request fails')

    def sell(self, service, argument):
        """Sell something while the task `meet` does."""
        begun.wait(100)
        transaction.begin()
        till = self.context.till
        till.sold = getattr(till, 'sold', 0) + 1
        transaction.get().addAfterCommitHook(lambda success: hasSold.set())

    def begun(self, service, argument):
        begun.wait(100)
        return 'begun'

    def end(self, service, jobid):
        return [service.getStatus(jobid), service.getResult(jobid), service.getError(jobid)]

    def count(self, service, argument):
        return len(service.jobs)

    def till(self, service, argument):
        till = self.context.till
        return [getattr(till, 'sold', 0), sorted(till.objectIds())]

    def isProcessing(self, service, argument):
        return service.isProcessing()

    def wait(self, service, jobid):
        waitForJobs(service, [jobid], 100)
        return self.end(service, jobid)
'''

SETUP = """\
import transaction
from OFS.Folder import Folder
from Products.BTreeFolder2.BTreeFolder2 import BTreeFolder2
from lovely.remotetask.application import addService
app.acl_users.userFolderAddUser('admin', 'secret', ['Manager'], [])
app._setObject('till', Folder('till'))
addService(app, 'tasks')
app._setObject('films', BTreeFolder2('films'))
app.films._setObject('till', Folder('till'))
addService(app.films, 'encoder', 'Encoder')
transaction.commit()
"""


class Shop(Instance):
    """An instance with the shop."""

    def __init__(self, zeo, directory):
        super().__init__(zeo, directory)
        self.write('etc/site.zcml', SITE_ZCML)
        self.write('shop.py', SHOP)
        os.makedirs(os.path.join(directory, 'Products', 'goods'))
        self.write('Products/goods/__init__.py', GOODS)
        self.write('Products/goods/meta.zcml', GOODS_META)

    def shop(self, do, argument=None, site='', name=''):
        """Return what the view `shop` answers in a site, for the service that is registered by that name."""
        query = urllib.parse.urlencode({'do': do, 'argument': json.dumps(argument), 'name': name})
        status, body = self.get(f'{site}/@@shop?{query}')
        if status != 200:
            raise AssertionError((status, body))
        return json.loads(body)


class Layer:
    """What the tests of a class share: a database server, and an instance that uses it.

    Other layers cannot be used: the time limit of tests belongs to this one.
    """

    __bases__ = (UnitTests,)
    __module__ = __name__

    def __init__(self, name, product='', start=False, host=False):
        """`product` is for zope.conf; `start` and `host`: whether the server and a processing host run."""
        self.__name__, self._product, self._start, self._host = name, product, start, host

    def setUp(self):
        self.stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self.zeo = stack.enter_context(temporaryZEO())
            directory = os.path.realpath(stack.enter_context(tempfile.TemporaryDirectory(prefix='remotetask-')))
            self.zope = stack.enter_context(contextlib.closing(Shop(self.zeo, directory)))
            self.zope.script(SETUP)
            self.zope.configure(self._product)
            self.before = self.zope.script(LISTING)
            if self._start:
                self.zope.start()
            if self._host:
                self.host = stack.enter_context(contextlib.closing(self.zope.host()))
                self.host.waitFor('ready', LONG)
            self.stack = stack.pop_all()

    def tearDown(self):
        self.stack.close()


class ZopeCase(unittest.TestCase):
    """A test with the instance of its class's layer."""

    level = 2

    @property
    def zope(self):
        return self.layer.zope


class Jobs:
    """What is promised of jobs, whoever processes them."""

    def run_(self, *arguments, site='', name=''):
        """Add a job and return what became of it: status, result, error."""
        jobid = self.zope.shop('add', arguments, site, name)
        return self.zope.shop('wait', jobid, site, name)

    def test_task_sees_the_site(self):
        status, seen, _ = self.run_('look', {'name': ''})
        self.assertEqual((status, seen), ('completed', {
            'site': '', 'url': 'http://nohost', 'parent': '', 'acquired': 'till', 'same': True, 'utility': True,
            'chain': ['TaskService', 'Application', 'RequestContainer'], 'user': 'System Processes',
            'traversed': 'till'}))

    def test_task_of_a_site_below(self):
        status, seen, _ = self.run_('look', {'name': 'Encoder'}, site='/films', name='Encoder')
        self.assertEqual((status, seen), ('completed', {
            'site': '/films', 'url': 'http://nohost/films', 'parent': '/films', 'acquired': 'till', 'same': True,
            'utility': True, 'chain': ['TaskService', 'BTreeFolder2', 'Application', 'RequestContainer'],
            'user': 'System Processes', 'traversed': 'till'}))

    def test_task_writes_to_the_site(self):
        before, _ = self.zope.shop('till', site='/films')
        chair = uuid.uuid4().hex
        self.assertEqual(self.run_('order', {'thing': chair}, site='/films', name='Encoder')[0], 'completed')
        sold, things = self.zope.shop('till', site='/films')
        self.assertEqual((sold, chair in things), (before + 1, True))

    def test_task_of_a_product(self):
        """It was imported before its ZCML was loaded, and initialized."""
        self.assertEqual(self.run_('take'), ['completed', ['initialized'], 'None'])

    def test_conflict_is_repeated_and_no_failure(self):
        before, _ = self.zope.shop('till')
        status, result, error = self.run_('order', {'thing': uuid.uuid4().hex, 'conflict': True})
        self.assertEqual((status, result, error), ('completed', {'sold': before + 1, 'conflicts': 2}, 'None'))

    def test_failure_leaves_nothing(self):
        before = self.zope.shop('till')
        status, _, error = self.run_('order', {'thing': 'lamp', 'fail': True})
        self.assertEqual((status, error, self.zope.shop('till')), ('error', 'out of stock', before))


class TestInstance(Jobs, ZopeCase):
    """An instance that processes its jobs itself."""

    layer = Layer('instance', start=True, product="""
        <product-config lovely.remotetask>
          autostart @*, films@Encoder, none@*
        </product-config>
        """)

    def test_autostart(self):
        said = ''.join(self.zope.server.said)
        for line in ('handling event IStartRemoteTasksEvent', 'service tasks on site root started',
                     'service Encoder on site films started', 'site none not found'):
            self.assertIn('lovely.remotetask: ' + line + '\n', said)
        self.assertIs(self.zope.shop('isProcessing'), True)
        self.assertIs(self.zope.shop('isProcessing', site='/films', name='Encoder'), True)

    def test_job_is_part_of_the_request(self):
        before = self.zope.shop('count')
        query = urllib.parse.urlencode({'do': 'addAndFail', 'argument': '["look"]'})
        self.assertEqual(self.zope.get(f'/@@shop?{query}')[0], 500)
        self.assertEqual(self.zope.shop('count'), before)

    def test_task_and_request_write_the_same_object(self):
        """Whoever commits second meets a conflict; the task is run again, and neither is lost."""
        before, _ = self.zope.shop('till')
        jobid = self.zope.shop('add', ['meet'])
        self.zope.shop('sell')
        self.assertEqual(self.zope.shop('wait', jobid), ['completed', 2, 'None'])
        self.assertEqual(self.zope.shop('till')[0], before + 2)

    def test_pages_in_the_same_process(self):
        """A filter before the publisher, as pages.txt says: pages with the database that Zope has open."""
        jobid = self.zope.shop('add', ['look', {'name': ''}])
        self.zope.shop('wait', jobid)
        status, page = self.zope.get(f'/remotetask/jobs/{jobid}')
        self.assertEqual(status, 200)
        for text in 'System Processes', 'href="/remotetask/jobs"', '/remotetask/static/pages.css':
            self.assertIn(text, page)
        status, page = self.zope.get('/remotetask')
        self.assertIn('?service=%2Ffilms%2FEncoder', page)
        token = re.search('name="token" value="([^"]+)"', page)[1]
        request = urllib.request.Request(f'{self.zope.address}/remotetask/do/add', urllib.parse.urlencode(
            {'token': token, 'task': 'order', 'input': '{"thing": "table"}'}).encode(), {'Origin': self.zope.address})
        with urllib.request.urlopen(request, timeout=LONG) as answer:
            added = int(re.search('Job ([0-9]+)', answer.read().decode())[1])
        self.assertEqual(self.zope.shop('wait', added)[0], 'completed')
        self.assertEqual(self.zope.get('/remotetasks')[0], 404)              # of Zope

    def test_nobody_calls_it_by_a_url(self):
        before = self.zope.shop('count')
        self.assertEqual(self.zope.get('/tasks')[0], 401)
        for name in 'pause', 'add?task=look', 'jobs', 'getStatistics':
            for user in None, 'admin:secret':
                self.assertEqual(self.zope.get('/tasks/' + name, user)[0], 404, (name, user))
        self.assertEqual(self.zope.shop('count'), before)

    def test_listed_by_the_management_interface(self):
        status, page = self.zope.get('/manage_main', 'admin:secret')
        self.assertEqual(status, 200)
        self.assertEqual(page.count('<i title="Task Service" class="fas fa-tasks">'), 1)


class TestHost(Jobs, ZopeCase):
    """A processing host beside an instance that processes nothing."""

    layer = Layer('host', start=True, host=True)

    def test_a_product_that_fails(self):
        self.addCleanup(self.zope.write, 'Products/goods/__init__.py', GOODS)
        failing = GOODS.replace("'initialized'", '1 / 0')
        for text, reason in (('import nowhere', "imported: ModuleNotFoundError: No module named 'nowhere'"),
                             (failing, 'initialized: ZeroDivisionError: division by zero')):
            self.zope.write('Products/goods/__init__.py', text)
            code, said = self.zope.ended(self.zope.host())
            self.assertEqual(code, 2)
            self.assertIn(f'remotetask: the product goods of Zope cannot be {reason}\n', said)
            self.assertNotIn('Traceback', said)

    def test_it_makes_nothing(self):
        self.assertIs(self.zope.shop('isProcessing'), False)
        self.assertEqual(self.zope.script(LISTING), self.layer.before)

    def test_front_end(self):
        """A front end has the services of the sites by their paths."""
        frontend = self.zope.host(command='frontend')
        self.addCleanup(frontend.close)
        with Client(frontend.waitFor('listening on ', LONG)) as client:
            jobid = client.add('look', {'name': ''})
            self.assertEqual(client.waitFor([jobid], LONG), ['completed'])
        with Client(client.url + 'films/Encoder') as client:
            jobid = client.add('look', {'name': 'Encoder'})
            self.assertEqual(client.waitFor([jobid], LONG), ['completed'])
            self.assertEqual(client.getResult(jobid)['site'], '/films')
            jobid = client.add('order', {'thing': uuid.uuid4().hex})
            self.assertEqual(client.waitFor([jobid], LONG), ['completed'])
        status, page = self.zope.get('/Control_Panel/Database/main/manage_UndoForm', 'admin:secret')
        self.assertEqual(status, 200)
        for note in f'add job {jobid} order', f'complete job {jobid} order attempt 1 on host':
            self.assertIn(f'remotetask {note} in /films/encoder', ' '.join(page.split()))

    def test_it_tells_what_it_does(self):
        said = ''.join(self.layer.host.said)
        self.assertIn('tasks: echo, late, look, meet, order, take\n', said)
        self.assertIn('processing as host with', said)


#: What is in the application object and the folder `films`, with their attributes; of the till only that it is there.
LISTING = """\
def listing(folder):
    return [sorted(folder.objectIds()), sorted(folder.__dict__),
            sorted(one.name for one in folder.getSiteManager().registeredUtilities())]
print('>>> ' + json.dumps([listing(app), listing(app.films), sorted(app._p_jar.root())]))
"""


class TestSetup(ZopeCase):
    """How a service comes into a site, and what Zope's own containers do with it."""

    layer = Layer('setup')

    def command(self, *arguments):
        """Run a command on the database; return its exit code and what it says."""
        self.zope.write('host.conf', PROCESSOR_CONF.format(directory=self.zope.directory,
                                                           database=self.zope.zeo.config))
        return self.zope.ended(self.zope.process('-m', 'lovely.remotetask.cli.main', '-C', 'host.conf', *arguments))

    def test_by_the_command(self):
        code, said = self.command('service', 'add', '/cellar/Wine', '--site')
        self.assertEqual(code, 2, said)
        self.assertIn('there is no folder /cellar; make it in Zope', said)
        self.zope.script("""
            import transaction
            from OFS.Folder import Folder
            app._setObject('cellar', Folder('cellar'))
            transaction.commit()
            """)
        code, said = self.command('service', 'add', '/cellar/Wine')
        self.assertIn('/cellar is no site; --site makes it one', said)
        self.assertEqual(self.command('service', 'add', '/cellar/Wine', '--site')[0], 0)
        self.assertRegex(self.command('service', 'list')[1], r'(?m)^/cellar/Wine +0 +-')
        self.assertEqual(self.zope.script("""
            from lovely.remotetask.application import getService
            service = getService(app, '/cellar/Wine')
            print('>>>', json.dumps(['/'.join(service.getPhysicalPath()), app.cellar.objectIds()]))
            """), ['/cellar/Wine', ['Wine']])
        self.assertEqual(self.command('service', 'remove', '/cellar/Wine')[0], 0)
        self.assertNotIn('/cellar/Wine', self.command('service', 'list')[1])
        self.zope.script("""
            import transaction
            app._delObject('cellar')
            transaction.commit()
            """)

    def test_by_the_function(self):
        self.assertEqual(self.zope.script("""
            from lovely.remotetask.application import addService, getService
            from zope.component.hooks import setSite
            from zope.component import getUtility
            from lovely.remotetask.interfaces import ITaskService
            seen = ['/'.join(service.getPhysicalPath()) for service in (app.tasks, app.films.encoder)]
            setSite(app.films)
            seen += [getUtility(ITaskService, 'Encoder') is app.films.encoder, getUtility(ITaskService) is app.tasks]
            seen += [getService(app) is app.tasks, getService(app.films, '/films/Encoder') is app.films.encoder]
            seen += [addService(app, 'tasks') is app.tasks]
            for arguments in ('till',), ('other',):
                try:
                    addService(app, *arguments)
                except ValueError as error:
                    seen.append(str(error))
            seen += [app.hasObject('other')]
            from OFS.Folder import Folder
            from zope.component.interfaces import ISite
            app._setObject('plain', Folder('plain'))
            try:
                addService(app.plain, '_hidden')
            except Exception as error:
                seen += [type(error).__name__, ISite.providedBy(app.plain), len(app.plain)]
            print('>>> ' + json.dumps(seen))
            """), [
            '/tasks', '/films/encoder', True, True, True, True, True,
            "id: there is another object 'till' in the folder",
            "name: there is another task service that is registered by the name ''", False,
            'BadRequest', False, 0])

    def test_in_a_site_like_plones(self):
        """The component registry of Plone finds the service as well."""
        self.assertEqual(self.zope.script("""
            from five.localsitemanager import make_objectmanager_site
            from OFS.Folder import Folder
            from zope.component import getUtility
            from zope.component.hooks import setSite
            from lovely.remotetask.application import addService, getService
            from lovely.remotetask.interfaces import ITaskService
            app._setObject('plone', Folder('plone'))
            app.plone._setObject('till', Folder('till'))
            make_objectmanager_site(app.plone)
            manager = app.plone.getSiteManager()
            service = addService(app.plone, 'tasks')
            setSite(app.plone)
            jobid = getUtility(ITaskService).add('look', {'name': ''})
            service.process()
            print('>>> ' + json.dumps([
                type(manager.aq_base).__module__, app.plone.getSiteManager() == manager,
                getUtility(ITaskService) is service, getService(app, '/plone/tasks') is service,
                '/'.join(service.getPhysicalPath()), service.getResult(jobid)['site'], service.getError(jobid)]))
            """), ['five.localsitemanager.registry', True, True, True, '/plone/tasks', '/plone', 'None'])

    def test_by_the_way_of_zope(self):
        self.zope.script("""
            import transaction
            from OFS.Folder import Folder
            from lovely.remotetask import TaskService
            if app.hasObject('own'):
                app._delObject('own')
            app._setObject('own', Folder('own'))
            assert app.own._setObject('queue', TaskService()) == 'queue'
            transaction.commit()
            """)
        self.assertEqual(self.zope.script("""
            from Acquisition import aq_parent
            queue = app.own.queue
            seen = ['/'.join(queue.getPhysicalPath()), '/'.join(aq_parent(queue).getPhysicalPath()), queue.getId()]
            app.manage_renameObject('own', 'renamed')
            seen.append('/'.join(app.renamed.queue.getPhysicalPath()))
            app._setObject('deep', type(app.renamed.aq_base)('deep'))
            app.deep.manage_pasteObjects(app.manage_cutObjects(['renamed']))
            seen.append('/'.join(app.deep.renamed.queue.getPhysicalPath()))
            jobid = app.deep.renamed.queue.add('echo', 'works')
            app.deep.renamed.queue.process()
            seen.append(app.deep.renamed.queue.getResult(jobid))
            app.deep.manage_pasteObjects(app.deep.manage_copyObjects(['renamed']))
            copy = app.deep.copy_of_renamed.queue
            seen += ['/'.join(copy.getPhysicalPath()), copy is app.deep.renamed.queue]
            for method in app.deep.renamed.manage_copyObjects, app.deep.renamed.manage_cutObjects:
                try:
                    method(['queue'])
                except Exception as error:
                    seen.append(type(error).__name__)
            app.deep.renamed.manage_delObjects(['queue'])
            seen += [app.deep.renamed.objectIds(), queue.__parent__]
            print('>>> ' + json.dumps(seen))
            """), [
            '/own/queue', '/own', 'queue', '/renamed/queue', '/deep/renamed/queue', 'works',
            '/deep/copy_of_renamed/queue', False, 'CopyError', 'CopyError', [], None])

    def test_a_manager_removes_it(self):
        """Nobody finds it, and all others go on.  It can be added again, and the removal be undone."""
        self.assertEqual(self.zope.script("""
            import transaction
            from five.localsitemanager import make_objectmanager_site
            from OFS.Folder import Folder
            from lovely.remotetask import TaskService
            from lovely.remotetask.application import addService, getService
            from lovely.remotetask.config.autostart import servicePaths
            from lovely.remotetask.interfaces import ITaskService
            db, seen = app._p_jar.db(), []
            paths = lambda: ['/'.join(path) for path in servicePaths(db, ['*@*'])]
            app._setObject('barn', Folder('barn'))
            make_objectmanager_site(app.barn)
            jobid = addService(app.barn, 'tasks').add('echo', 'again')
            app._setObject('shed', Folder('shed'))
            app.shed._setObject('deep', TaskService())
            app.getSiteManager().registerUtility(app.shed.deep, ITaskService, 'deep')
            transaction.commit()
            seen.append(paths())
            app.barn.manage_delObjects(['tasks'])
            app.manage_delObjects(['shed'])
            transaction.commit()
            seen.append(paths())
            for path in '/barn/tasks', '/deep':
                try:
                    getService(app, path)
                except LookupError as error:
                    seen.append(str(error))
            db.undo(db.undoInfo(0, 1)[0]['id'])
            transaction.commit()
            seen += [paths(), app.barn.tasks.jobs[jobid].input]
            app.barn.manage_delObjects(['tasks'])
            seen.append(len(addService(app.barn, 'tasks').jobs))
            app.manage_delObjects(['barn', 'shed'])
            transaction.commit()
            print('>>> ' + json.dumps(seen))
            """), [['tasks', 'shed/deep', 'films/encoder', 'barn/tasks'], ['tasks', 'films/encoder'],
                   "there is no task service at '/barn/tasks'", "there is no task service at '/deep'",
                   ['tasks', 'shed/deep', 'films/encoder', 'barn/tasks'], 'again', 0])

    def test_one_that_is_not_where_it_was_put_keeps_no_other_from_being_processed(self):
        code, said = self.zope.console("""
            import logging
            import transaction
            from OFS.Folder import Folder
            from lovely.remotetask.application import addService
            from lovely.remotetask.config.autostart import servicePaths
            app._setObject('attic', Folder('attic'))
            addService(app.attic, 'tasks')
            app.attic._delObject('tasks', suppress_events=True)
            transaction.commit()
            logging.basicConfig(level=logging.WARNING)
            print(servicePaths(app._p_jar.db(), ['*@*']))
            app._delObject('attic')
            transaction.commit()
            """)
        self.assertEqual(code, 0, said)
        self.assertIn('service tasks on site attic is not in the folder that it was put into: it is left alone', said)
        self.assertIn("[('tasks',), ('films', 'encoder')]", said)

    def test_a_copy_is_paused_and_no_host_has_it(self):
        self.assertEqual(self.zope.script(RUNNING, """
            app.manage_pasteObjects(app.manage_copyObjects(['depot']))
            copy, owners = app.copy_of_depot.tasks, lambda service: [l.owner is None for l in service.ledgers.values()]
            print('>>> ' + json.dumps([copy.paused, owners(copy), copy.getStatus(jobid), list(copy.zopePath),
                                       service.paused, owners(service), service.getStatus(jobid)]))
            transaction.abort()
            service.stopProcessing()
            app.manage_delObjects(['depot'])
            transaction.commit()
            """), [True, [True], 'queued', ['copy_of_depot', 'tasks'], False, [False], 'processing'])

    def test_one_that_is_imported_is_paused_and_no_host_has_it(self):
        """From a file of an export, at its own path as well, where the original was deleted before."""
        self.assertEqual(self.zope.script(RUNNING, """
            seen = []
            transaction.abort()
            with open('depot.zexp', 'wb') as file:
                app._p_jar.exportFile(app.depot._p_oid, file)
            app._setObject('fence', Folder('fence'))

            def imported(folder, suppress):
                folder._importObjectFromFile('depot.zexp', verify=0, suppress_events=suppress)
                return folder.depot.tasks

            def told(one):
                one._p_jar.cacheMinimize()
                return [one.paused, [ledger.owner is None for ledger in one.ledgers.values()], one.getStatus(jobid)]
            seen.append(told(service))
            copy = imported(app.fence, False)
            transaction.commit()
            seen += [told(copy), copy.isCopy, list(copy.zopePath)]
            copy.resume()
            transaction.commit()
            seen += [told(copy)[0], told(service)[0]]
            app.fence.manage_delObjects(['depot'])
            seen.append(told(imported(app.fence, True))[0])
            transaction.abort()
            service.stopProcessing()
            app.manage_delObjects(['depot', 'fence'])
            seen.append(told(imported(app, False)))
            app.manage_delObjects(['depot'])
            transaction.commit()
            print('>>> ' + json.dumps(seen))
            """), [[False, [False], 'processing'], [True, [True], 'queued'], False, ['fence', 'depot', 'tasks'],
                   False, False, True, [True, [True], 'queued']])

    def test_export_takes_nothing_else_along(self):
        size, whole = self.zope.script("""
            import io
            def size(oid):
                file = io.BytesIO()
                app._p_jar.exportFile(oid, file)
                return b'OFS.Application' in file.getvalue(), file.getvalue().count(b'OFS')
            print('>>> ' + json.dumps([size(app.tasks._p_oid), size(app._p_oid)]))
            """)
        self.assertEqual((size, whole[0]), ([False, 0], True))


class TestMistakes(ZopeCase):
    """What is said when something does not fit."""

    layer = Layer('mistakes')

    def test_unknown_key(self):
        self.addCleanup(self.zope.configure, '')
        self.zope.configure('<product-config lovely.remotetask>\n  autostrat *@*\n</product-config>')
        code, said = self.zope.console('')
        self.assertEqual(code, 1)
        self.assertIn("<product-config lovely.remotetask>: 'autostrat' is not a known key; the known keys are: "
                      "autostart", said)

    def test_script_beside_autostart(self):
        """Where zope.conf has an autostart, scripts process as well; their end is in order."""
        self.addCleanup(self.zope.configure, '')
        self.zope.configure('<product-config lovely.remotetask>\n  autostart *@*\n</product-config>')
        jobid = self.zope.script("""
            import shop, transaction
            jobid = app.tasks.add('late')
            transaction.commit()
            shop.begun.wait(100)
            print('>>> ' + json.dumps(jobid))
            """)
        self.zope.configure('')
        self.assertEqual(self.zope.script(f"""
            job = app.tasks.jobs[{jobid}]
            print('>>> ' + json.dumps([job.status, job.output, len(job.errors), len(app.tasks.getProcessingHosts())]))
            """), ['completed', 'ended', 0, 0])

    def test_end_of_an_instance(self):
        """Zope closes its databases when it is interrupted: a job that runs goes back before that."""
        self.addCleanup(self.zope.configure, '')
        self.zope.configure('<product-config lovely.remotetask>\n  autostart *@*\n</product-config>')
        self.zope.start()
        self.addCleanup(self.zope.close)
        jobid = self.zope.shop('add', ['late'])
        self.assertEqual(self.zope.shop('begun'), 'begun')
        self.assertEqual(self.zope.server.end(signal.SIGINT), 0, self.zope.server.said)
        self.assertNotIn('Traceback', ''.join(self.zope.server.said))
        self.zope.configure('')
        self.assertEqual(self.zope.script(f"""
            job = app.tasks.jobs[{jobid}]
            print('>>> ' + json.dumps([job.status, len(job.errors)]))
            job.status == 'queued' and app.tasks.cancel({jobid})
            import transaction
            transaction.commit()
            """), ['queued', 0])

    def test_no_service(self):
        self.zope.script("""
            import transaction
            from lovely.remotetask.interfaces import ITaskService
            for site, name, id in (app, '', 'tasks'), (app, 'tasks', 'tasks'), (app.films, 'Encoder', 'encoder'):
                site.getSiteManager().unregisterUtility(site[id], ITaskService, name)
            transaction.commit()
            """)
        self.addCleanup(self.zope.script, """
            import transaction
            from lovely.remotetask.interfaces import ITaskService
            for site, name, id in (app, '', 'tasks'), (app, 'tasks', 'tasks'), (app.films, 'Encoder', 'encoder'):
                site.getSiteManager().registerUtility(site[id], ITaskService, name)
            transaction.commit()
            """)
        host = self.zope.host()
        self.addCleanup(host.close)
        host.waitFor("no task service yet: autostart '*@*' fits none", LONG)
        host.waitFor('ready', LONG)
        self.assertEqual(host.end(), 0)

    def test_without_zope(self):
        self.addCleanup(self.zope.write, 'etc/site.zcml', SITE_ZCML)
        self.zope.write('etc/site.zcml', '<configure xmlns="http://namespaces.zope.org/zope"/>')
        code, said = self.zope.ended(self.zope.host('-c', 'import sys; sys.modules["OFS"] = None\n'
                                                    'from lovely.remotetask.cli.main import main; main()'))
        self.assertEqual(code, 1)
        self.assertIn('the database was made by another application: its root folder is a OFS.Application.Application, '
                      'and there is no such class here', said)


class TestOthersDatabase(unittest.TestCase):
    """A database that Zope has not made."""

    level = 2

    def setUp(self):
        self.zeo = self.enterContext(temporaryZEO())
        directory = os.path.realpath(self.enterContext(tempfile.TemporaryDirectory(prefix='remotetask-')))
        self.zope = Shop(self.zeo, directory)

    def test_empty_one(self):
        code, said = self.zope.ended(self.zope.host())
        self.assertEqual(code, 1)
        self.assertIn('the database is empty, and the site definition loads Zope: start Zope with this database first',
                      said)
        self.assertIn('acl_users', self.zope.script("print('>>> ' + json.dumps(app.objectIds()))"))

    def test_ours(self):
        install(self.zeo.database())
        code, said = self.zope.console('')
        self.assertEqual(code, 1)
        self.assertIn('Zope cannot use this database, whose root folder is a zope.site.folder.Folder and not its '
                      'application object: it was made by lovely.remotetask on its own; give Zope another one', said)


if __name__ == '__main__':
    unittest.main()
