"""The configuration file: its defaults, all its keys, and every mistake with file and line."""
# SPDX-License-Identifier: ZPL-2.1
import dataclasses
import os
import pathlib
import re
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import unittest
import unittest.mock
import xml.etree.ElementTree

import transaction
import ZEO
from zope.app.appsetup import product as appsetup

import lovely.remotetask
from lovely.remotetask.cli.forms import databaseSection
from lovely.remotetask.config import products
from lovely.remotetask.config import sections
from lovely.remotetask.config import settings as config
from lovely.remotetask.config import web
from lovely.remotetask.config.limits import Limits
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.service import getAutostartServiceNames
from waits import PATIENCE


PACKAGE, ROOT = pathlib.Path(lovely.remotetask.__file__).parent, pathlib.Path(__file__).parent.parent

FULL = """\
# All there is.
%define root {root}
site-definition zcml/site.zcml

<zodb main>
  cache-size 1000
  <filestorage>
    path $root/Data.fs
    blob-dir $root/blobs
  </filestorage>
</zodb>

<frontend>
  address 0.0.0.0:9000
  max-body-size 512KB
  max-connections 7
  max-waiting 8
  request-timeout 1.5m
  idle-timeout 2h
  deadline 2.5s
  users users
  certificate /certificate.pem
  key ../key.pem
  allow-insecure on
  metrics-address 9464
</frontend>

<processor>
  name Host One
  threads 16
  lease 45
  wait-time 250ms
  grace-period 1d
  schedule off
  tasks avi2*,  echo
  keep-completed 30d
  keep-cancelled 1m
  pack-interval 1d
  pack-keep 2h
  metrics-address 0.0.0.0:9465
  allow-insecure on
</processor>

<eventlog>
  level debug
  <logfile>
    path $root/event.log
    format %(levelname)s %(message)s
  </logfile>
</eventlog>

<logger quiet>
  name ZEO
  level error
</logger>

<product-config lovely.remotetask>
  autostart site1@one, *@two
</product-config>

<product-config Another>
  Key some value
</product-config>
"""


class ConfigTestCase(unittest.TestCase):
    """Has a directory of its own, which is the current one, too."""

    def setUp(self):
        self.directory = os.path.realpath(self.enterContext(tempfile.TemporaryDirectory()))
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        self.addCleanup(products.setProductConfigurations, {})

    def write(self, text, name='remotetask.conf'):
        path = os.path.join(self.directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as file:
            file.write(text if isinstance(text, bytes) else text.encode('utf-8'))
        return path

    def load(self, text):
        return config.load(self.write(text))


class DefaultsTest(ConfigTestCase):

    def checkDefaults(self, configuration):
        self.assertEqual(configuration.siteDefinition,
                         os.path.join(os.path.dirname(os.path.abspath(lovely.remotetask.__file__)), 'configure.zcml'))
        self.assertEqual(configuration.frontend, sections.FrontendSettings(
            address=('127.0.0.1', 8080), limits=Limits(), deadline=10.0, users=None, certificate=None, key=None,
            allowInsecure=False, metricsAddress=None))
        self.assertEqual(configuration.processor, sections.ProcessorSettings(
            name=socket.gethostname(), threads=4, lease=30.0, waitTime=1.0, gracePeriod=20.0,
            schedule=True, tasks=None, keep={}, packInterval=None, packKeep=3600.0,
            metricsAddress=None, allowInsecure=False))
        self.assertEqual(configuration.product('lovely.remotetask'), {})
        self.assertEqual(configuration.databaseDescription, f'FileStorage {self.directory}/var/Data.fs')

    def test_no_file(self):
        configuration = config.load()
        self.assertIsNone(configuration.path)
        self.checkDefaults(configuration)

    def test_empty_file_and_sections(self):
        for text in '', '\ufeff# with a byte order mark', '<frontend/>\n<processor>\n</processor>':
            with self.subTest(text):
                self.checkDefaults(self.load(text))

    def test_the_default_database_is_made_for_the_owner_alone(self):
        configuration = config.load()
        self.assertEqual(stat.S_IMODE(os.stat('var').st_mode), 0o700)
        db = configuration.database.open()
        self.addCleanup(db.close)
        self.assertTrue(os.path.exists('var/Data.fs'))
        self.assertTrue(os.path.isdir('var/blobs'))

    def test_the_storage_can_be_opened_alone(self):
        storage = config.load().database.config.storage.open()
        self.addCleanup(storage.close)
        self.assertEqual(storage.getName(), os.path.join(self.directory, 'var', 'Data.fs'))

    def test_a_database_that_is_configured_makes_no_var(self):
        self.load('<zodb>\n<mappingstorage/>\n</zodb>')
        self.assertFalse(os.path.exists('var'))

    def test_strange_directory(self):
        os.mkdir('a $b c')
        os.chdir('a $b c')
        self.assertEqual(config.load().databaseDescription, f'FileStorage {self.directory}/a $b c/var/Data.fs')

    def test_var_that_cannot_be_made(self):
        self.write('', 'var')
        with self.assertRaises(ConfigurationError) as caught:
            config.load()
        self.assertIn(f'{self.directory}/var: cannot make the directory', str(caught.exception))


class FullTest(ConfigTestCase):

    def setUp(self):
        super().setUp()
        self.site = self.write('<configure/>', 'etc/zcml/site.zcml')
        self.root = os.path.join(self.directory, 'data')
        os.mkdir(self.root)
        self.path = self.write(FULL.format(root=self.root), 'etc/remotetask.conf')
        self.configuration = config.load('etc/remotetask.conf')

    def test_values(self):
        self.assertEqual(self.configuration.path, self.path)
        self.assertEqual(self.configuration.siteDefinition, self.site)
        self.assertEqual(self.configuration.frontend, sections.FrontendSettings(
            address=('0.0.0.0', 9000), deadline=2.5, users=os.path.join(self.directory, 'etc', 'users'),
            limits=Limits(bodySize=512 * 1024, connections=7, waiting=8, requestTime=90.0, idleTime=7200.0),
            certificate='/certificate.pem', key=os.path.join(self.directory, 'key.pem'), allowInsecure=True,
            metricsAddress=('127.0.0.1', 9464)))
        self.assertEqual(self.configuration.processor, sections.ProcessorSettings(
            name='Host One', threads=16, lease=45.0, waitTime=0.25, gracePeriod=86400.0,
            schedule=False, tasks=('avi2*', 'echo'), keep={'completed': 30 * 86400.0, 'cancelled': 60.0},
            packInterval=86400.0,
            packKeep=7200.0, metricsAddress=('0.0.0.0', 9465), allowInsecure=True))

    def test_database(self):
        self.assertEqual(self.configuration.databaseDescription, f'FileStorage {self.root}/Data.fs')
        db = self.configuration.database.open()
        self.addCleanup(db.close)
        self.assertEqual(db.getCacheSize(), 1000)
        self.assertEqual(db.database_name, 'main')

    def test_products(self):
        self.assertEqual(self.configuration.product('lovely.remotetask'), {'autostart': 'site1@one, *@two'})
        self.assertEqual(self.configuration.product('another'), {'key': 'some value'})
        self.assertEqual(self.configuration.product('Another'), {'key': 'some value'})
        self.assertEqual(self.configuration.product('unknown'), {})

    def test_products_are_registered(self):
        self.assertEqual(products.productConfiguration('lovely.remotetask'), {'autostart': 'site1@one, *@two'})
        self.assertIsNone(products.productConfiguration('unknown'))
        config.load()
        self.assertIsNone(products.productConfiguration('lovely.remotetask'))

    def test_frozen(self):
        with self.assertRaises(AttributeError):
            self.configuration.path = None
        with self.assertRaises(TypeError):
            self.configuration.products['x'] = {}
        self.configuration.product('another')['key'] = 'changed'
        self.assertEqual(self.configuration.product('another'), {'key': 'some value'})


class ProductsTest(ConfigTestCase):

    def test_unknown_key(self):
        with self.assertRaises(ConfigurationError) as caught:
            self.load('<product-config other>\n  autostrat *@*\n</product-config>\n'
                      '<product-config lovely.remotetask>\n  autostart *@*\n  autostrat *@*\n</product-config>\n')
        self.assertEqual(str(caught.exception), f"{self.directory}/remotetask.conf, line 7: <product-config "
                         "lovely.remotetask>: 'autostrat' is not a known key; the known keys are: autostart")
        self.assertIsNone(products.productConfiguration('other'))

    def test_settings_are_copied(self):
        settings = {'autostart': '*@*'}
        products.setProductConfigurations({'Lovely.RemoteTask': settings})
        settings.clear()
        self.assertEqual(products.productConfiguration('lovely.remotetask'), {'autostart': '*@*'})
        products.productConfiguration('lovely.remotetask').clear()
        self.assertEqual(products.productConfiguration('lovely.remotetask'), {'autostart': '*@*'})


class ProductConfig:
    """As a `<product-config>` section of a zope.conf."""

    def __init__(self, name, mapping):
        self.mapping, self.getSectionName = mapping, lambda: name


class AppsetupTest(ConfigTestCase):
    """What zope.app.appsetup knows comes first."""

    def setUp(self):
        super().setUp()
        self.addCleanup(appsetup.restoreConfiguration, appsetup.saveConfiguration())
        products.setProductConfigurations({'lovely.remotetask': {'autostart': '*@ours'}, 'another': {'key': 'ours'}})

    def test_theirs(self):
        appsetup.setProductConfigurations([ProductConfig(
            'lovely.remotetask',
            {'autostart': 'site1@TestTaskService1, site2@TestTaskService2,@RootTaskService'})])
        self.assertEqual(getAutostartServiceNames(),
                         ['site1@TestTaskService1', 'site2@TestTaskService2', '@RootTaskService'])
        self.assertEqual(products.productConfiguration('another'), {'key': 'ours'})
        appsetup.setProductConfigurations([])
        self.assertEqual(getAutostartServiceNames(), ['*@ours'])

    def test_empty_settings_are_settings(self):
        appsetup.setProductConfiguration('lovely.remotetask', {})
        self.assertEqual(getAutostartServiceNames(), [])

    def test_case(self):
        appsetup.setProductConfiguration('Lovely.RemoteTask', {'autostart': '*@theirs'})
        for name in 'lovely.remotetask', 'Lovely.RemoteTask':
            self.assertEqual(products.productConfiguration(name), {'autostart': '*@theirs'})
        appsetup.setProductConfiguration('lovely.remotetask', {'autostart': '*@exactly'})
        self.assertEqual(products.productConfiguration('lovely.remotetask'), {'autostart': '*@exactly'})

    def test_they_are_copied(self):
        appsetup.setProductConfiguration('lovely.remotetask', {'autostart': '*@theirs'})
        products.productConfiguration('lovely.remotetask').clear()
        self.assertEqual(getAutostartServiceNames(), ['*@theirs'])

    def test_without_the_package(self):
        program = ('import sys; sys.modules["zope.app.appsetup"] = None\n'
                   'from lovely.remotetask.config import products\n'
                   'from lovely.remotetask.service import getAutostartServiceNames\n'
                   'products.setProductConfigurations({"lovely.remotetask": {"autostart": "*@ours"}})\n'
                   'print(getAutostartServiceNames())\n')
        run = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True,
                             env=dict(os.environ, PYTHONPATH=os.pathsep.join(map(os.path.abspath, sys.path))))
        self.assertEqual(run.stdout, "['*@ours']\n", run.stderr)


class DatabaseTest(ConfigTestCase):

    def describe(self, section, before=''):
        return self.load(f'{before}\n<zodb>\n{section}\n</zodb>\n').databaseDescription

    def test_descriptions(self):
        self.assertEqual(self.describe('<filestorage>\npath Data.fs\n</filestorage>'),
                         f'FileStorage {self.directory}/Data.fs')
        self.assertEqual(self.describe('<blobstorage>\nblob-dir b\n<filestorage>\npath d\n</filestorage>\n'
                                       '</blobstorage>'),
                         f'FileStorage {self.directory}/d, blobs {self.directory}/b')
        self.assertEqual(self.describe('<zeoclient>\nserver 8100\nserver [::1]:8200\nserver /run/zeo.sock\n'
                                       '</zeoclient>'),
                         'ZEO 127.0.0.1:8100, [::1]:8200, /run/zeo.sock')
        self.assertEqual(self.describe('<clientstorage>\nserver zeo:8100\n</clientstorage>', '%import ZEO'),
                         'ZEO zeo:8100')
        self.assertEqual(self.describe('<mappingstorage/>'), 'MappingStorage, in memory')
        self.assertEqual(self.describe('<demostorage>\n<filestorage>\npath d\n</filestorage>\n</demostorage>'),
                         f'DemoStorage over FileStorage {self.directory}/d')
        self.assertEqual(self.describe('<demostorage/>'), 'DemoStorage over nothing')

    def test_storage_of_another_package(self):
        # What it says of itself may hold a password, so only its name is told.
        self.write('', 'storagepackage/__init__.py')
        self.write('<component>\n<import package="ZODB"/>\n<sectiontype name="otherstorage" implements="ZODB.storage" '
                   'datatype="ZODB.config.BaseConfig">\n<key name="dsn"/>\n</sectiontype>\n</component>',
                   'storagepackage/component.xml')
        sys.path.insert(0, self.directory)
        self.addCleanup(sys.modules.pop, 'storagepackage', None)
        self.addCleanup(sys.path.remove, self.directory)
        before = '%import storagepackage'
        self.assertEqual(self.describe('<otherstorage>\ndsn password=secret\n</otherstorage>', before), 'otherstorage')
        self.assertEqual(self.describe('<otherstorage main>\ndsn password=secret\n</otherstorage>', before),
                         'otherstorage main')

    def test_storages_open(self):
        for section in ('<filestorage>\npath one\nblob-dir b1\n</filestorage>',
                        '<blobstorage>\nblob-dir b2\n<filestorage>\npath two\n</filestorage>\n</blobstorage>'):
            with self.subTest(section):
                db = self.load(f'<zodb>\n{section}\n</zodb>').database.open()
                with db.transaction() as connection:
                    connection.root()['x'] = 1
                self.assertTrue(db.storage.isReadOnly() is False)
                db.close()

    def test_zeo(self):
        (host, port), stop = ZEO.server(port=('127.0.0.1', 0))
        self.addCleanup(stop)
        for before, kind in ('', 'zeoclient'), ('%import ZEO', 'clientstorage'):
            with self.subTest(kind):
                text = f'{before}\n<zodb>\n<{kind}>\nserver {host}:{port}\n</{kind}>\n</zodb>'
                db = self.load(text).database.open()
                self.addCleanup(db.close)
                manager = transaction.TransactionManager()
                connection = db.open(manager)
                connection.root()[kind] = True
                manager.commit()
                self.assertTrue(connection.root()[kind])
                connection.close()


class PostgreSQLSampleTest(ConfigTestCase):
    """The samples for PostgreSQL, in the buildout and in the document, can be read."""

    def check(self, text, start):
        text = textwrap.dedent(text[text.index(start):].split('</zodb>')[0].partition('\n')[2]) + '</zodb>\n'
        text = re.sub(r'\${([^}]*)}', lambda match: self.values[match[1]], text)
        self.assertIn('<postgresql>', text)
        self.assertIn('  cache-local-mb 0\n', text)         # RelStorage frees not all of its cache
        self.assertEqual(self.load(text).databaseDescription, 'relstorage')

    values = {'common:cache': 'cache-size 2000', 'deployment:keep-history': 'true', 'deployment:var': '/srv/var',
              'deployment:postgresql': "host='/var/run/postgresql' dbname='remotetask' user='remotetask'"}

    def test_buildout(self):
        self.check((ROOT / 'postgresql.cfg').read_text(), 'database =\n')
        self.assertIn(f"postgresql = {self.values['deployment:postgresql']}\n", (ROOT / 'postgresql.cfg').read_text())

    def test_document(self):
        self.check((PACKAGE / 'documents' / 'postgresql.txt').read_text(), 'section ``<zodb>``::')

    def test_init(self):
        text = databaseSection('/srv/films', 'dbname=films', areBlobsShared=False)
        self.check(f'# start\n{text}', '# start')


class ValuesTest(unittest.TestCase):

    def test_addresses(self):
        for text, expected in (('8080', ('127.0.0.1', 8080)), ('0', ('127.0.0.1', 0)), (':81', ('127.0.0.1', 81)),
                               ('0.0.0.0:80', ('0.0.0.0', 80)), ('[::]:80', ('::', 80)),
                               ('[::1]:65535', ('::1', 65535)),
                               ('localhost:1', ('localhost', 1)), ('tasks.example.org:99', ('tasks.example.org', 99))):
            with self.subTest(text):
                self.assertEqual(sections.address(text), expected)

    def test_no_addresses(self):
        for text in ('', 'localhost', '99999', 'localhost:65536', 'localhost:http', 'localhost:', '::1', '::1:80',
                     'a b:80', '*:80', '-1', 'localhost:-1', 'http://localhost:80', '²', '[::g]:80'):
            with self.subTest(text):
                with self.assertRaisesRegex(ValueError, 'is not an address'):
                    sections.address(text)

    def test_the_path_of_the_pages(self):
        for text, path in ('/pages', '/pages'), ('/tools/remote-tasks/', '/tools/remote-tasks'):
            self.assertEqual(web.path(text), path)
        for text in '', '/', 'pages', '//pages', '/a//b', '/a b', '/a?b', '/ä', '/%61', 'http://a/':
            with self.subTest(text), self.assertRaisesRegex(ValueError, 'is not a path'):
                web.path(text)

    def test_times(self):
        for text, expected in (('20', 20.0), ('20s', 20.0), ('20 S', 20.0), ('500ms', 0.5), ('.5', 0.5), ('1.5m', 90.0),
                               ('2h', 7200.0), ('1d', 86400.0)):
            with self.subTest(text):
                self.assertEqual(sections.seconds(text), expected)

    def test_no_times(self):
        for text in ('', 's', '0', '0ms', '-1', '1e3', 'nan', 'inf', '1w', '1m30s', '9' * 400):
            with self.subTest(text):
                with self.assertRaisesRegex(ValueError, 'is not a time'):
                    sections.seconds(text)

    def test_lease(self):
        self.assertEqual(sections.leaseSeconds('1000ms'), 1.0)
        with self.assertRaisesRegex(ValueError, 'at least 1s'):
            sections.leaseSeconds('999ms')

    def test_counts(self):
        self.assertEqual([sections.threadCount('1'), sections.threadCount('1000')], [1, 1000])
        self.assertEqual(sections.connectionCount('100000'), 100000)
        for text, reason in (('0', 'from 1 to 1000'), ('1001', 'from 1 to 1000'), ('-3', 'from 1 to 1000'),
                             ('9' * 9999, 'from 1 to 1000'), ('4.0', 'whole number'), ('four', 'whole number'),
                             ('', 'whole number'), ('1_0', 'whole number')):
            with self.subTest(text[:10]):
                with self.assertRaisesRegex(ValueError, reason):
                    sections.threadCount(text)

    def test_body_sizes(self):
        self.assertEqual([sections.bodySize(text) for text in ('1024', '1KB', '8 mb', '1GB')],
                         [1024, 1024, 8 * 1024**2, 1024**3])
        for text, reason in ('1023', 'out of range'), ('2GB', 'out of range'), ('8M', 'not a size'), ('', 'not a size'):
            with self.subTest(text):
                with self.assertRaisesRegex(ValueError, reason):
                    sections.bodySize(text)


class MistakesTest(ConfigTestCase):
    """Each message names the file, the line and the reason, on one line."""

    def check(self, text, line, reason, file=None):
        path = self.write(text)
        with self.assertRaises(ConfigurationError) as caught:
            config.load(path)
        message = str(caught.exception)
        self.assertEqual(message.partition(': ')[0], f'{file or path}, line {line}')
        self.assertIn(reason, message.partition(': ')[2])
        self.assertNotIn('\n', message)

    def test_syntax(self):
        self.check('\n<frontend\n', 2, 'malformed section start')
        self.check('\n\n<frontend>\n', 3, 'unclosed')
        self.check('<frontend>\n</processor>\n', 2, 'unbalanced')
        self.check('</frontend>\n', 1, 'unexpected section end')
        self.check('\n%nonsense x\n', 2, 'unknown directive')
        self.check('\nsite-definition $nowhere\n', 2, "'nowhere'")

    def test_names(self):
        self.check('\nsitedefinition x\n', 2, "'sitedefinition' is not a known key")
        self.check('\n<backend>\n</backend>\n', 2, "'backend'")
        self.check('<frontend>\nport 80\n</frontend>\n', 2, "'port' is not a known key")

    def test_values(self):
        for section, key, value in (
                ('frontend', 'address', 'nowhere'), ('frontend', 'max-body-size', '10'),
                ('frontend', 'max-connections', '0'), ('frontend', 'max-waiting', '0'),
                ('frontend', 'request-timeout', '0'), ('frontend', 'allow-insecure', 'perhaps'),
                ('frontend', 'idle-timeout', '-1s'), ('processor', 'threads', '1001'), ('processor', 'threads', 'x'),
                ('processor', 'lease', '0.5s'), ('processor', 'wait-time', '0ms'),
                ('processor', 'grace-period', 'soon'), ('processor', 'schedule', 'perhaps'),
                ('processor', 'keep-error', 'long'), ('processor', 'pack-interval', '0')):
            with self.subTest(key):
                self.check(f'\n<{section}>\n# here:\n{key} {value}\n</{section}>\n\n', 4, repr(value))
        self.check('<processor>\nname\n</processor>\n', 2, 'is not a name')
        self.check('<frontend>\nkey key.pem\n</frontend>\n', 3, 'a key, but no certificate')

    def test_repeated(self):
        self.check('<frontend/>\n<frontend/>\n', 2, 'too many')
        self.check('<processor>\nthreads 1\nthreads 2\n</processor>\n', 3, "'threads'")
        self.check('<zodb>\n<mappingstorage/>\n</zodb>\n<zodb two>\n<mappingstorage/>\n</zodb>\n', 6, 'too many')
        self.check('<product-config x/>\n<product-config X/>\n', 2, "'x'")
        self.check('<product-config x>\na 1\nA 2\n</product-config>\n', 3, "'A'")

    def test_product_without_a_name(self):
        self.check('\n<product-config>\n</product-config>\n', 2, 'must be named')

    def test_site_definition(self):
        self.check('\nsite-definition zcml/site.zcml\n\n', 2, f'there is no file {self.directory}/zcml/site.zcml')
        self.check('\nsite-definition\n\n', 2, "'' is not the path of a file")

    def test_database(self):
        self.check('<zodb>\n</zodb>\n', 2, 'there is no storage')
        self.check('<zodb>\n<blobstorage>\nblob-dir b\n</blobstorage>\n</zodb>\n', 4, 'there is no storage')
        self.check('<zodb>\n<filestorage>\n</filestorage>\n</zodb>\n', 3, "'path'")
        self.check('<zodb>\n<filestorage>\npath nowhere/Data.fs\n</filestorage>\n</zodb>\n', 3, 'does not exist')
        self.check('<zodb>\ncache-size many\n<mappingstorage/>\n</zodb>\n', 2,
                   "'many' is neither a whole number nor one of the words that this key knows")
        self.check('<eventlog>\nlevel infoo\n</eventlog>\n', 2, "'infoo' is neither a whole number nor one of")
        self.check('<zodb>\n<mappingstorage/>\nclass-factory nowhere.function\n</zodb>\n', 3,
                   "ModuleNotFoundError: No module named 'nowhere'")

    def test_log(self):
        self.check('<eventlog>\nlevel loud\n</eventlog>\n', 2, "'loud'")
        self.check('<eventlog>\n<logfile>\npath log\nformatter nowhere.Formatter\n</logfile>\n</eventlog>\n', 6,
                   "ModuleNotFoundError: No module named 'nowhere'")

    def test_import(self):
        self.check('\n%import nowhere\n', 2, "could not load package nowhere")
        # As where the extra is not installed.
        with unittest.mock.patch.dict(sys.modules, {'relstorage': None}):
            self.check('\n%import relstorage\n', 2, 'for PostgreSQL install lovely.remotetask[postgresql]')

    def test_include(self):
        self.check('\n%include other.conf\n', 2, f'{self.directory}/other.conf')
        other = self.write('\n\n<processor>\nthreads 0\n</processor>\n', 'other.conf')
        self.check('\n%include other.conf\n', 4, 'from 1 to 1000', file=other)

    def test_encoding(self):
        self.check(b'#\n# caf\xe9\n', 2, 'not encoded in UTF-8')

    def test_files_that_cannot_be_read(self):
        for path, reason in (os.path.join(self.directory, 'none.conf'), 'No such file'), (self.directory, 'directory'):
            with self.subTest(reason):
                with self.assertRaises(ConfigurationError) as caught:
                    config.load(path)
                self.assertIn(f'{path}: cannot read the configuration file', str(caught.exception))
                self.assertIn(reason, str(caught.exception))

    def test_strange_file_name(self):
        path = self.write('nonsense', 'a b#c%20ü.conf')
        with self.assertRaises(ConfigurationError) as caught:
            config.load(path)
        self.assertIn(f'{path}, line 1: ', str(caught.exception))

    def test_a_mistake_changes_no_products(self):
        products.setProductConfigurations({'x': {'a': '1'}})
        self.check('<product-config y/>\nnonsense\n', 2, 'nonsense')
        self.assertEqual(products.productConfiguration('x'), {'a': '1'})


class LoggingTest(ConfigTestCase):
    """In processes of their own, since the log is one for a process."""

    level = 2

    def run_(self, text, more=''):
        self.write(text)
        program = ('import logging\n'
                   'from lovely.remotetask.config import settings as config\n'
                   'from lovely.remotetask.errors import ConfigurationError\n'
                   'try:\n'
                   '    config.load("remotetask.conf").setUpLogging()\n'
                   'except ConfigurationError as error:\n'
                   '    print("refused:", error)\n'
                   'log = logging.getLogger("some.where")\n'
                   'log.debug("quiet")\n'
                   'log.info("loud")\n' + more)
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
        return subprocess.run([sys.executable, '-c', program], env=environment, capture_output=True, text=True,
                              timeout=PATIENCE, check=True)

    def test_default(self):
        done = self.run_('')
        self.assertIn('INFO some.where loud', done.stderr)
        self.assertNotIn('quiet', done.stderr)
        self.assertEqual(done.stdout, '')

    def test_lines_of_a_run(self):
        more = ('from lovely.remotetask.common.logs import LoggedRun\n'
                'from lovely.remotetask.storage.transitions import Claim\n'
                'with LoggedRun(Claim(12, 0, 1, "encode", None), "alpha", ()):\n'
                '    log.warning("slow")\n')
        self.assertIn('WARNING some.where job 12 (encode): slow', self.run_('', more).stderr)
        done = self.run_('<eventlog>\n<logfile>\npath STDOUT\nformat %(levelname)s %(message)s\n</logfile>\n'
                         '</eventlog>\n', more)
        self.assertEqual(done.stdout.splitlines(), ['INFO loud', 'WARNING job 12 (encode): slow'])

    def test_eventlog(self):
        done = self.run_('<eventlog>\nlevel debug\n<logfile>\npath event.log\nformat %(levelname)s %(message)s\n'
                         '</logfile>\n</eventlog>\n<logger>\nname some.where\nlevel info\n</logger>\n')
        self.assertEqual(done.stderr, '')
        with open('event.log') as file:
            self.assertEqual(file.read(), 'INFO loud\n')

    def test_single_logger_keeps_the_default(self):
        done = self.run_('<logger>\nname other\nlevel error\n</logger>\n')
        self.assertIn('INFO some.where loud', done.stderr)

    def test_log_file_that_cannot_be_opened(self):
        done = self.run_('<eventlog>\n<logfile>\npath nowhere/event.log\n</logfile>\n</eventlog>\n')
        self.assertIn(f'refused: {self.directory}/remotetask.conf: cannot log as configured', done.stdout)
        self.assertIn('nowhere/event.log', done.stdout)


class SchemaTest(unittest.TestCase):

    def test_everything_is_described(self):
        schema = xml.etree.ElementTree.parse(os.path.join(os.path.dirname(config.__file__), 'schema.xml'))
        described = 0
        for tag in 'key', 'section', 'multisection', 'sectiontype':
            for element in schema.iter(tag):
                text = element.findtext('description', '').strip()
                self.assertTrue(text, element.attrib)
                if element.get('default'):
                    self.assertIn(f'Default: {element.get("default")}.', text)
                described += 1
        self.assertGreater(described, 20)

    def test_the_defaults_of_limits_are_described(self):
        schema = xml.etree.ElementTree.parse(os.path.join(os.path.dirname(config.__file__), 'schema.xml'))
        names = {field.name for field in dataclasses.fields(Limits)}
        described = {}
        for key in schema.iter('key'):
            if key.get('attribute') in names:
                convert = getattr(sections, key.get('datatype').removeprefix('.'))
                default = re.search(r'Default: (\w+)\.', key.findtext('description'))[1]
                described[key.get('attribute')] = convert(default)
        self.assertEqual(set(described), {'bodySize', 'connections', 'waiting', 'requestTime', 'idleTime'})
        self.assertEqual(dataclasses.replace(Limits(), **described), Limits())


if __name__ == '__main__':
    unittest.main()
