"""The distributions: what is in them, that they work, and that an index takes them."""
# SPDX-License-Identifier: ZPL-2.1
import atexit
import configparser
import email
import functools
import importlib.metadata
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile

from packaging.specifiers import SpecifierSet
from readme_renderer import rst

from lovely.remotetask.cli.forms import single


ROOT = pathlib.Path(__file__).parent.parent
#: What buildout, venv and the tests make at the top level.
MADE = ('.git', '.venv', 'bin', 'build', 'deployment.cfg', 'develop-eggs', 'dist', 'eggs', 'etc', 'htmlcov', 'parts',
        'var')

# Python before 3.11.4 has no filters.
SAFELY = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}

BUILD = '''
import sys
from setuptools import build_meta
target = sys.argv[1]                    # setuptools puts other words there
build_meta.build_sdist(target)
build_meta.build_wheel(target)
'''


def leftOut(directory, names):
    """Return the names in a directory of the repository that git does not know, for `shutil.copytree`."""
    made = shutil.ignore_patterns('__pycache__', '*.py[cod]', '*.egg-info', '.*cache', '.coverage*')(directory, names)
    isTop = pathlib.Path(directory) == ROOT
    return {*made, *(name for name in names if isTop and (name in MADE or name.startswith(('.installed', '.mr.'))))}


def run(command, directory, path=()):
    """Run a program with the packages of this process; return what it said.  `path` comes before them."""
    path = os.pathsep.join(os.path.abspath(place) for place in (*path, *sys.path))
    environment = {name: value for name, value in os.environ.items() if not name.startswith('REMOTETASK_')}
    ended = subprocess.run(command, cwd=directory, env=dict(environment, PYTHONPATH=path), text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if ended.returncode:
        raise AssertionError(ended.stdout)
    return ended.stdout


class TestPins(unittest.TestCase):

    def test_each_release_takes_the_oldest_python(self):
        # An index gives an older Python no release that asks for a later one: Debian 12 has 3.11.2.
        pins = configparser.ConfigParser()
        pins.read(ROOT / 'versions.cfg')
        asked = {distribution.name: distribution.metadata['Requires-Python'] for distribution in
                 importlib.metadata.distributions() if distribution.name.lower() in pins['versions']}
        self.assertGreater(len(asked), 50)
        self.assertEqual({name: text for name, text in asked.items() if '3.11.0' not in SpecifierSet(text or '')}, {})


class TestBuildout(unittest.TestCase):

    level = 2

    def test_each_run_reads_the_settings_of_the_deployment(self):
        # A plain run must not make files for another database than the one before.
        directory = self.copy()
        deployment = directory / 'deployment.cfg'
        deployment.write_text('[deployment]\nvar = /srv/films\n')
        for options in (), ('-c', 'zope5.cfg'):
            with self.subTest(options):
                self.assertEqual(self.query(directory, 'deployment:var', options).splitlines()[-1], '/srv/films')
        self.assertEqual(self.query(directory, 'deployment:database'), '${zeo:database}\n')
        deployment.write_text('[buildout]\nextends = postgresql.cfg\n[deployment]\npostgresql = dbname=films\n')
        self.assertEqual([self.query(directory, f'deployment:{key}') for key in ('database', 'postgresql')],
                         ['${postgresql:database}\n', 'dbname=films\n'])

    def test_the_database_and_its_clients_take_more_lines(self):
        directory = self.copy()
        for key, more in ('zeo.conf:inline', 'more'), ('zeo:database', 'client-more'):
            with self.subTest(key):
                self.assertIn(f'${{deployment:database-{more}}}', self.query(directory, key))
        # The client's may be the same as the server's.
        (directory / 'deployment.cfg').write_text('[deployment]\ndatabase-more =\n  <ssl>\n  </ssl>\n'
                                                  'database-client-more = ${:database-more}\n')
        self.assertEqual(self.query(directory, 'deployment:database-more').splitlines()[-2:], ['<ssl>', '</ssl>'])

    def copy(self):
        """Return a directory with the configuration files."""
        directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        for path in ROOT.glob('*.cfg'):
            shutil.copy(path, directory)
        (directory / 'deployment.cfg').unlink(missing_ok=True)
        return directory

    def query(self, directory, key, options=()):
        """Return what buildout has as the value of a key."""
        buildout = os.path.join(os.path.dirname(sys.executable), 'buildout')
        return run([buildout, *options, 'query', key], directory)


class Distributions:
    """What is built of a copy of the repository, as setuptools writes beside the sources."""

    def __init__(self):
        directory = pathlib.Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        sources = directory / 'sources'
        shutil.copytree(ROOT, sources, ignore=leftOut, symlinks=True)
        self.files = {str(path.relative_to(sources)) for path in sources.rglob('*') if not path.is_dir()}
        run([sys.executable, '-c', BUILD, directory / 'dist'], sources)
        self.sdist, = (directory / 'dist').glob('*.tar.gz')
        self.wheel, = (directory / 'dist').glob('*.whl')


#: They are built once; the test runner knows nothing of `setUpClass`.
built = functools.cache(Distributions)


class TestDistributions(unittest.TestCase):

    level = 2

    def setUp(self):
        self.files, self.sdist, self.wheel = built().files, built().sdist, built().wheel
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(os.path.realpath(directory.name))

    def descriptions(self):
        """Yield the metadata of the distributions, as an index reads them."""
        with tarfile.open(self.sdist) as archive:
            name, = (name for name in archive.getnames() if name.count('/') == 1 and name.endswith('/PKG-INFO'))
            yield email.message_from_bytes(archive.extractfile(name).read())
        with zipfile.ZipFile(self.wheel) as archive:
            name, = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
            yield email.message_from_bytes(archive.read(name))

    def test_an_index_can_render_the_description(self):
        for metadata in self.descriptions():
            self.assertEqual(metadata['Description-Content-Type'], 'text/x-rst')
            text = metadata.get_payload(decode=True).decode('utf-8')
            said = io.StringIO()
            html = rst.render(text, said)
            self.assertEqual(said.getvalue(), '')
            for title in 'Your first task', '1.0 (unreleased)':
                self.assertIn(title, html)
            # Commands are to be pasted: outside of a literal block two hyphens become a dash.
            self.assertEqual((html.count('venv --clear'), html.count('\u2013')), (2, 0))

    def test_a_bad_description_would_be_noticed(self):
        said = io.StringIO()
        self.assertIsNone(rst.render('Title\n=====\n\n.. no-such-directive::\n\nDeep\n----\n\n`broken', said))
        self.assertIn('no-such-directive', said.getvalue())

    def test_the_source_distribution_is_all_there_is(self):
        with tarfile.open(self.sdist) as archive:
            names = {name.partition('/')[2] for name in archive.getnames() if not archive.getmember(name).isdir()}
        self.assertEqual(self.files - names, set())
        more = {name for name in names - self.files if '.egg-info/' not in name}
        self.assertEqual(more, {'PKG-INFO', 'setup.cfg'})

    def test_the_wheel_has_what_is_needed_and_no_more(self):
        with zipfile.ZipFile(self.wheel) as archive:
            names = set(archive.namelist())
        ours = {name[len('src/'):] for name in self.files if name.startswith('src/')}
        self.assertEqual({name for name in names if '.dist-info/' not in name}, ours)
        self.assertIn('lovely/remotetask/documents/pages-jobs.png', names)

    def test_init_of_an_installed_package(self):
        installed = self.directory / 'installed'
        with zipfile.ZipFile(self.wheel) as archive:
            archive.extractall(installed)
        command = [sys.executable, '-m', 'lovely.remotetask', 'init', 'films']
        run(command, self.directory, path=[installed])
        self.assertEqual({path.name for path in (self.directory / 'films').iterdir()}, {*single().files, 'var'})
        where = 'import lovely.remotetask; print(lovely.remotetask.__file__)'
        self.assertTrue(run([sys.executable, '-c', where], self.directory, path=[installed])
                        .startswith(f'{installed}/'))

    def test_the_tests_of_the_source_distribution_run(self):
        with tarfile.open(self.sdist) as archive:
            archive.extractall(self.directory / 'unpacked', **SAFELY)
        root, = (self.directory / 'unpacked').iterdir()
        command = [sys.executable, '-m', 'zope.testrunner', '--path', 'tests', '--tests-pattern', '^test_', '-m',
                   '^test_(cron|tasks|documents)$', '-t', 'test_cron', '-t', 'test_tasks', '-t', 'README.txt']
        said = run(command, root, path=[root / 'src', root / 'tests'])
        self.assertRegex(said, r'Ran [0-9]{2,} tests with 0 failures, 0 errors and 0 skipped')


if __name__ == '__main__':
    unittest.main()
