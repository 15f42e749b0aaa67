"""The command `init`: a directory with all that a site needs to begin, or a processing host on another machine."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys

import click

from lovely.remotetask.cli import forms
from lovely.remotetask.cli.failure import BAD_INPUT
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.pages import arePagesInstalled
from lovely.remotetask.config.sections import address as toAddress


#: Characters that some of the files, the programs that read them, or a shell would take for something else.
_SPECIAL = re.compile(r'''[\s$%#"'\\<>&|;{}()\[\]*?:!`]''')
#: Characters in the path of a program that `forms.unitCommand` cannot write.
_SPECIAL_IN_UNIT = re.compile(r'''[$"'\\]''')
#: What systemd hides from a process that has a /tmp of its own.
_TEMPORARY = '/tmp/', '/var/tmp/'
#: The module of the database server, and what ends with 0 where Python finds it.
_RUNZEO = 'lovely.remotetask.runzeo'
_FIND = f"""
import importlib.util, sys
try:
    sys.exit(importlib.util.find_spec({_RUNZEO!r}) is None)
except ImportError:
    sys.exit(1)
"""
PORT = 8080
#: Where the database server of a site listens.
DATABASE = '127.0.0.1:8100'
#: Characters of the name of a host that comes from that of the machine.
_NAME_LENGTH = 60


@click.command()
@click.argument('directory', metavar='DIR', type=click.Path())
@click.option('--port', type=click.IntRange(1, 65535), default=PORT, show_default=True,
              help='Where the front end of the site listens, at 127.0.0.1; its pages listen at the next port.')
@click.option('--split', is_flag=True, help='A process for each part: database server, front end, pages and '
                                            'processing host.')
@click.option('--host', is_flag=True, help='A processing host alone, for another machine than that of the database.')
@click.option('--database', metavar='ADDRESS',
              help='The database, with --host or --split: HOST:PORT of a database server (ZEO), or PostgreSQL as libpq '
                   f'takes it, postgresql://... or "host=...".  Default of --split: ZEO at {DATABASE}.')
@click.option('--name', help='The name of the processing host, with --host or --split.  No two hosts of a database '
                             'share a name.  Default: that of the machine and of the directory.')
def init(directory, port, split, host, database, name):
    """Write a site to start from into the directory DIR.

    It is made if it is missing.  Nothing in it is overwritten.

    \b
    Examples:
      $ remotetask init films
      $ remotetask init films --host --database zeo.example.org:8100
    """
    directory = os.path.realpath(directory)
    _checkOptions(split, host, database, name)
    _checkDatabase(database)
    if split:
        _checkPorts(port, database or DATABASE)
    if host:
        form = forms.host(directory, database)
    else:
        form = forms.split(directory, database or DATABASE, _databaseServer()) if split else forms.single()
    _checkDirectory(directory, form)
    _checkPrograms()
    if 'zeo.conf' in form.files:
        _checkDatabaseServer()
    try:
        forms.write(form, directory, _valuesOf(directory, port, name))
    except OSError as error:
        raise CommandFailure(f'cannot write {error.filename}: {error.strerror}') from error
    click.echo('\n'.join(_told(directory, form, port, isHost=host)))


def _valuesOf(directory, port, name):
    """Return what stands in the files for `${name}`, whatever the form is; the arguments are those of the command."""
    program, *rest = _program()
    paths = directory, os.path.abspath(program), sys.executable
    return {'hasOwnTmp': 'no' if any(map(_isTemporary, paths)) else 'yes',
            'port': port, 'name': (name or _nameFor(directory)).replace('$', '$$'),      # a $ starts a substitution
            'web': forms.webSection(_pagesPort(port)), 'extra': '[web]' if arePagesInstalled() else '',
            'python': '{}.{}'.format(*sys.version_info),
            'program': forms.unitCommand([os.path.abspath(program), *rest])}


def _checkOptions(split, host, database, name):
    """Raise `click.UsageError` for options that do not fit each other."""
    if split and host:
        raise click.UsageError('give --split or --host, not both')
    if host and database is None:
        raise click.UsageError('--host needs --database: HOST:PORT of the database server')
    for option, value in ('--database', database), ('--name', name):
        if value is not None and not (split or host):
            raise click.UsageError(f'{option} goes with --host or --split: in one process is all, also the database')
    if name is not None and (not name.strip() or not name.isprintable()):
        raise click.BadParameter(f'{name!r} is not a name: give printable characters', param_hint="'--name'")


def _checkDatabase(database):
    """Raise `click.BadParameter` for an address that is none, or a password that would be open to others."""
    if database is None:
        return
    hint = {'param_hint': "'--database'"}
    said = {}
    if forms.isPostgreSQL(database):
        try:
            said = forms.parametersOf(database)
        except ValueError as error:
            raise click.BadParameter(str(error), **hint) from error
    if not ''.join([database, *said.values()]).isprintable():
        raise click.BadParameter(f'{database!r} has characters that are not printable', **hint)
    if any('password' in name for name in said):
        raise click.BadParameter('the password belongs in ~/.pgpass, not in a configuration file', **hint)
    if said:
        return
    try:
        # Always with a host: without one ZEO listens on all interfaces, while this package means the machine itself.
        if toAddress(database)[1] and database.rpartition(':')[0]:
            return
    except ValueError:
        pass
    raise click.BadParameter(f'{database!r} is not the address of a database server: write HOST:PORT, or for '
                             'PostgreSQL postgresql://HOST/NAME', **hint)


def _checkPorts(port, database):
    """Raise `click.UsageError` when two servers of a site would listen at the same port.

    port -- of the front end.
    database -- see `forms.split`.
    """
    if forms.isPostgreSQL(database):
        return
    for what, taken in ('the front end', port), ('the pages', _pagesPort(port)):
        if taken == toAddress(database)[1]:
            raise click.UsageError(f'{what} and the database server would both listen at port {taken}: give another '
                                   '--port, or --database')


def _nameFor(directory):
    """Return a name for a processing host in that directory: no other one on any machine has it."""
    return f'{socket.gethostname()}-{os.path.basename(directory)}'[:_NAME_LENGTH]


def _checkDirectory(directory, form):
    """Raise `CommandFailure` when a site cannot be in that directory, or something is there already."""
    if (special := _special(directory, _SPECIAL)) is not None:
        raise CommandFailure(f'the path {directory} has a character, {special!r}, that configuration files or shells '
                             'read otherwise; take another one', BAD_INPUT)
    if os.path.lexists(directory) and not os.path.isdir(directory):
        raise CommandFailure(f'{directory} is not a directory', BAD_INPUT)
    if os.path.exists(os.path.join(directory, '__init__.py')):
        raise CommandFailure(f'{directory} is a Python package; a site has a directory of its own', BAD_INPUT)
    if there := [name for name in form.files if os.path.lexists(os.path.join(directory, name))]:
        raise CommandFailure(f'{directory} has {", ".join(there)} already; nothing was written', BAD_INPUT)


def _isTemporary(path):
    """Return whether a process with a /tmp of its own would not find a path."""
    return path.startswith(_TEMPORARY)


def _checkPrograms():
    """Raise `CommandFailure` when a unit cannot start this program, or the database server, from where it is."""
    for program in os.path.abspath(_program()[0]), sys.executable:
        if (special := _special(program, _SPECIAL_IN_UNIT)) is not None:
            raise CommandFailure(f'the path of the program {program} has a character, {special!r}, that systemd reads '
                                 'otherwise; install the package elsewhere', BAD_INPUT)


def _checkDatabaseServer():
    """Raise `CommandFailure` when the command that starts the database server would not find this package."""
    if _databaseServer()[0] == sys.executable and subprocess.run([sys.executable, '-c', _FIND], check=False).returncode:
        raise CommandFailure(f'{sys.executable} does not find {_RUNZEO}, so nothing could start the database server: '
                             'in a clone, run ".venv/bin/buildout install remotetask" first, which makes bin/runzeo',
                             BAD_INPUT)


def _special(path, special):
    """Return the first character of a path that fits a pattern, or that is not printable; None for none."""
    return next((character for character in path if special.match(character) or not character.isprintable()), None)


def _pagesPort(port):
    """Return the port of the pages for that of the front end: the next one."""
    return port + 1 if port < 65535 else port - 1


def _program():
    """Return the words that start this program, in this environment."""
    program = sys.argv[0]
    if os.path.basename(program) == 'remotetask' and os.access(program, os.X_OK):
        return [program]
    return [sys.executable, '-m', 'lovely.remotetask']


def _told(directory, form, port, isHost):
    """Return the lines that are printed: what was made, and the commands that come next, to be pasted."""
    program = _typedProgram()
    width = max(map(len, form.files))
    return [
        f'{directory} has now', '',
        *(f'    {name:{width}}  {file.purpose}' for name, file in form.files.items()), '',
        'Start it:' if len(form.commands) == 1 else 'Start each of these, in a terminal of its own or by its unit:', '',
        *_starts(directory, form, program), '',
        *(_hostTold() if isHost else _siteTold(program, port))]


def _databaseServer():
    """Return the words that start the database server, but for its options."""
    # The Python of a buildout does not find the package: its programs say where it is.  The program that pip puts there
    # is ZEO's own.
    program = os.path.join(os.path.dirname(os.path.abspath(_program()[0])), 'runzeo')
    with contextlib.suppress(OSError, ValueError), open(program, encoding='utf-8') as script:
        if _RUNZEO in script.read():
            return [program]
    return [sys.executable, '-m', _RUNZEO]


def _typedProgram():
    """Return what a user types for this program, a text."""
    words = _program()
    found = shutil.which('remotetask')
    if found is not None and os.path.exists(words[0]) and os.path.samefile(found, words[0]):
        words = ['remotetask']
    return shlex.join([os.path.abspath(words[0]) if os.sep in words[0] else words[0], *words[1:]])


def _starts(directory, form, program):
    """Return the lines that start the processes."""
    server = [f'    {shlex.join(_databaseServer())} -C {directory}/zeo.conf'] if 'zeo.conf' in form.files else []
    return [*server, *(f'    {program} -C {directory}/{command}' for command in form.commands)]


def _siteTold(program, port):
    url = '' if port == PORT else f' --url http://127.0.0.1:{port}/'
    return [
        'Then, in another terminal, add a job and get its result:', '',
        f"""    {program} add greet '{{"name": "World"}}' --wait{url}""", '',
        *([f'Look at it in a browser: http://127.0.0.1:{_pagesPort(port)}/', ''] if arePagesInstalled() else []),
        'Declare tasks of your own in tasks.py, and start it again.']


def _hostTold():
    return ['Before that, put the site.zcml and the modules of the site in place of site.zcml and tasks.py: the host',
            'runs the tasks that they declare.']


COMMANDS = (init,)
