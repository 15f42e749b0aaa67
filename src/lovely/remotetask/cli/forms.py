"""The forms of a site that `init` writes: which files each of them has, and what stands in these."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import importlib
import importlib.resources
import os
import string
from typing import NamedTuple

from lovely.remotetask.cli.pages import arePagesInstalled
from lovely.remotetask.common.process import ownerName


#: The directory of the data, which is made as well.
DATA = 'var'

WITHOUT = 'They are not installed: pip install "lovely.remotetask[web]", and take away the # signs below.'

_WEB = """\
# Pages to look at jobs, and to operate them.
<web>
  address 127.0.0.1:{port}
</web>"""

_HEALTH = """\
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s \\
    CMD ["remotetask", "-C", "remotetask.conf", "health", "--ready"]
"""

_DATABASE = """\
%import {package}
<zodb>
  # What each connection keeps in memory: objects and bytes.
  cache-size 2000
  cache-size-bytes 10MB
{storage}
</zodb>"""

_ZEO = """\
  <clientstorage>
    server {database}
    wait-timeout 30
    cache-size 5MB
{blobs}
  </clientstorage>"""

#: Of processes on the machine of the database server, and of those elsewhere.
_SHARED_BLOBS = """\
    # The directory of the database server: nothing is copied.
    blob-dir {directory}/var/zeo/blobs
    shared-blob-dir yes"""
_OWN_BLOBS = """\
    # Large inputs, results and files: those that were used last.  The directory of the database server is not here.
    blob-dir {directory}/var/blobs
    shared-blob-dir no
    blob-cache-size 1GB"""

_POSTGRESQL = """\
  <relstorage>
    # The same for all processes of a database.
    keep-history true
    # RelStorage's own cache would grow without end; see "Memory" in postgresql.txt.
    cache-local-mb 0
    # Large inputs, results and files: those that were used last.
    blob-dir {directory}/var/blobs
    blob-cache-size 1GB
    <postgresql>
      driver psycopg2
      dsn {database}
    </postgresql>
  </relstorage>"""


class File(NamedTuple):
    """A file of a form."""

    purpose: str
    template: str               # its name in the skeleton
    values: dict                # what stands in the template for `${name}`, beside what all files have


class Form(NamedTuple):
    """What a directory gets."""

    files: dict                 # name -> `File`
    commands: tuple             # words that start each of its processes, after the program and its option -C


_TASKS = {
    'site.zcml': File('says which tasks there are', 'site.zcml', {}),
    'tasks.py': File('declares a first one, greet', 'tasks.py', {}),
}

#: The words that start a process, and what it is.
_COMMANDS = {
    'frontend': ('frontend.conf frontend', 'the front end'),
    'web': ('frontend.conf web', 'the pages'),
    'host': ('host.conf processor', 'a processing host'),
}

#: The unit of the database server.
_DATABASE_UNIT = 'remotetask-zeo'


def single():
    """Return the `Form` of a site whose front end, pages, processing host and database are one process."""
    health = _HEALTH if arePagesInstalled() else ''
    return Form({
        **_TASKS,
        'remotetask.conf': File('says where data, front end and processing host are', 'remotetask.conf', {}),
        'remotetask.service': _unit('remotetask', 'all in one process', 'remotetask.conf serve'),
        'Dockerfile': File('makes an image of the site', 'Dockerfile', {'health': health}),
        'compose.yaml': File('runs the image', 'compose.yaml', {}),
    }, ('remotetask.conf serve',))


def split(directory, database, server):
    """Return the `Form` of a site with a process for each part, all on this machine.

    directory -- its path.
    database -- where the database server of the site is to listen, 'host:port'; or a PostgreSQL server that is there,
        as `isPostgreSQL` takes it.
    server -- the words that start a database server, but for its options.
    """
    section = {'database': databaseSection(directory, database, areBlobsShared=True)}
    names = 'frontend', *(['web'] if arePagesInstalled() else []), 'host'
    after = 'postgresql.service' if isPostgreSQL(database) else f'{_DATABASE_UNIT}.service'
    units = dict(_processUnit(name, after) for name in names)
    return Form({
        **_TASKS,
        **({} if isPostgreSQL(database) else _databaseServer(database, server)),
        'frontend.conf': File('says where front end and pages are', 'frontend.conf', section),
        'host.conf': File('is for the processing host', 'host.conf', section),
        **units,
    }, tuple(_COMMANDS[name][0] for name in names))


def host(directory, database):
    """Return the `Form` of a processing host alone; for the arguments see `split`, but the database server is there."""
    section = {'database': databaseSection(directory, database, areBlobsShared=False)}
    return Form({
        **_TASKS,
        'host.conf': File('says where the database is', 'host.conf', section),
        **dict([_processUnit('host')]),
    }, (_COMMANDS['host'][0],))


def _processUnit(name, after=''):
    """Return the name and the `File` of the unit of a process; `after` is the unit of its database on this machine."""
    command, what = _COMMANDS[name]
    return f'remotetask-{name}.service', _unit(f'remotetask-{name}', what, command, after)


def _databaseServer(address, words):
    """Return the files of a database server that listens at `address`; `words` start it."""
    # ZEO would be ended by SIGHUP.
    unit = _unit(_DATABASE_UNIT, 'the database server', 'zeo.conf', reload='USR2',
                 program=unitCommand(words))
    return {'zeo.conf': File('says where the database server is, and its data', 'zeo.conf', {'address': address}),
            f'{_DATABASE_UNIT}.service': unit}


def _unit(name, what, command, after='', reload='HUP', **program):
    """Return the `File` of a unit."""
    return File(f'a unit of systemd: {what}', 'unit.service', {
        'unit': name, 'what': what, 'start': command, 'after': f' {after}' if after else '', 'reload': reload,
        **program})


def unitCommand(words):
    """Return the words of a command as a unit has them; none has a quote, a backslash or a dollar sign."""
    return ' '.join(f'"{word}"' if ' ' in word else word for word in (word.replace('%', '%%') for word in words))


def isPostgreSQL(database):
    """Return whether a text names a PostgreSQL server, as libpq takes it, and no database server (ZEO)."""
    return '=' in database or database.startswith(('postgresql://', 'postgres://'))


def parametersOf(database):
    """Return what a text says of a PostgreSQL server, as libpq takes it: name of a parameter -> value.

    Raise `ValueError` for what libpq does not take, and where it is not installed.
    """
    try:
        return _libpq().parse_dsn(database)
    except ImportError:
        raise ValueError('for PostgreSQL install lovely.remotetask[postgresql] first') from None
    except Exception as error:                          # psycopg2.ProgrammingError
        raise ValueError(str(error).strip()) from error


def _libpq():
    """Return the module that reads and writes texts for libpq; raise `ImportError`."""
    return importlib.import_module('psycopg2.extensions')


def databaseSection(directory, database, areBlobsShared):
    """Return the section <zodb>; for the arguments see `split`.

    areBlobsShared -- whether the process is on the machine of the database server, and uses its directory of blobs.
    """
    if isPostgreSQL(database):
        # RelStorage adds others to keywords and values, and knows no URLs.
        keywords = _libpq().make_dsn(**parametersOf(database))
        storage = _POSTGRESQL.format(directory=directory, database=keywords.replace('$', '$$'))
        return _DATABASE.format(package='relstorage', storage=storage)
    blobs = (_SHARED_BLOBS if areBlobsShared else _OWN_BLOBS).format(directory=directory)
    return _DATABASE.format(package='ZEO', storage=_ZEO.format(database=database, blobs=blobs))


def webSection(port):
    """Return the section of the pages at a port, as a comment where they are not installed."""
    first, *section = _WEB.format(port=port).splitlines()
    if not arePagesInstalled():
        section = [f'# {WITHOUT}', *(f'# {line}' for line in section)]
    return '\n'.join([first, *section])


def write(form, directory, values):
    """Write the files of a `Form`, all or none; raise `OSError`.

    values -- what stands in all of them for `${name}`: a dict.
    """
    os.makedirs(directory, exist_ok=True)
    # Jobs may carry anything: the data is nobody else's business.
    for name in DATA, *([os.path.join(DATA, 'zeo')] if 'zeo.conf' in form.files else []):
        os.makedirs(os.path.join(directory, name), mode=0o700, exist_ok=True)
    values, made = {'directory': directory, 'user': ownerName(), **values}, []
    try:
        for name, file in form.files.items():
            template = importlib.resources.files('lovely.remotetask') / 'skeleton' / file.template
            text = string.Template(template.read_text('utf-8')).substitute({**values, **file.values})
            path = os.path.join(directory, name)
            with open(path, 'x', encoding='utf-8') as opened:
                made.append(path)
                opened.write(text)
    except OSError:
        for path in made:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise

