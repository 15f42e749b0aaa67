"""The command `init`: a directory with all that a site needs to begin."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import importlib.resources
import os
import re
import shlex
import shutil
import string
import sys

import click

from lovely.remotetask.cli.failure import BAD_INPUT
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.pages import arePagesInstalled
from lovely.remotetask.common.process import ownerName


#: The files that are written, and what each is for.
FILES = {
    'site.zcml': 'says which tasks there are',
    'tasks.py': 'declares a first one, greet',
    'remotetask.conf': 'says where data, front end and processing host are',
    'remotetask.service': 'a unit of systemd',
    'Dockerfile': 'makes an image of the site',
    'compose.yaml': 'runs the image',
}
#: The directory of the database, which is made as well.
DATA = 'var'
#: What some of the files, or the programs that read them, would take for something else.
_SPECIAL = re.compile(r'''[\s$%#"'\\<>&|;{}()\[\]*?:]''')
PORT = 8080

#: The section of the pages, and what stands before it where they are not installed.
WEB = """\
# Pages to look at jobs, and to operate them.
<web>
  address 127.0.0.1:{port}
</web>"""
WITHOUT = 'They are not installed: pip install "lovely.remotetask[web]", and take away the # signs below.'


@click.command()
@click.argument('directory', metavar='DIR', type=click.Path())
@click.option('--port', type=click.IntRange(1, 65535), default=PORT, show_default=True,
              help='Where the front end of the site listens, at 127.0.0.1; its pages listen at the next port.')
def init(directory, port):
    """Write a site to start from into the directory DIR.

    It is made if it is missing.  Nothing in it is overwritten.

    \b
    Example:
      $ remotetask init films
    """
    directory = os.path.realpath(directory)
    _check(directory)
    try:
        _write(directory, {
            'directory': directory, 'port': port, 'user': ownerName(), 'web': _web(port),
            'extra': '[web]' if arePagesInstalled() else '',
            'command': ' '.join([os.path.abspath(_program()[0]), *_program()[1:]]),
            'python': '{}.{}'.format(*sys.version_info)})
    except OSError as error:
        raise CommandFailure(f'cannot write {error.filename}: {error.strerror}') from error
    click.echo(_told(directory, port))


def _check(directory):
    """Raise `CommandFailure` when a site cannot be in that directory, or something is there already."""
    if special := _SPECIAL.search(directory):
        raise CommandFailure(f'the path {directory} has a character, {special[0]!r}, that configuration files read '
                             'otherwise; take another one', BAD_INPUT)
    if os.path.lexists(directory) and not os.path.isdir(directory):
        raise CommandFailure(f'{directory} is not a directory', BAD_INPUT)
    if os.path.exists(os.path.join(directory, '__init__.py')):
        raise CommandFailure(f'{directory} is a Python package; a site has a directory of its own', BAD_INPUT)
    if there := [name for name in FILES if os.path.lexists(os.path.join(directory, name))]:
        raise CommandFailure(f'{directory} has {", ".join(there)} already; nothing was written', BAD_INPUT)


def _write(directory, values):
    """Write the files, all or none; raise `OSError`.

    values -- what stands in the files for `${name}`: a dict.
    """
    os.makedirs(directory, exist_ok=True)
    # Jobs may carry anything: the data is nobody else's business.
    os.makedirs(os.path.join(directory, DATA), mode=0o700, exist_ok=True)
    source, made = importlib.resources.files('lovely.remotetask') / 'skeleton', []
    try:
        for name in FILES:
            text = string.Template((source / name).read_text('utf-8')).substitute(values)
            path = os.path.join(directory, name)
            with open(path, 'x', encoding='utf-8') as file:
                made.append(path)
                file.write(text)
    except OSError:
        for path in made:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise


def _web(port):
    """Return the section of the pages, as a comment where they are not installed."""
    first, *section = WEB.format(port=_pagesPort(port)).splitlines()
    if not arePagesInstalled():
        section = [f'# {WITHOUT}', *(f'# {line}' for line in section)]
    return '\n'.join([first, *section])


def _pagesPort(port):
    """Return the port of the pages for that of the front end: the next one."""
    return port + 1 if port < 65535 else port - 1


def _program():
    """Return the words that start this program, in this environment."""
    program = sys.argv[0]
    if os.path.basename(program) == 'remotetask' and os.access(program, os.X_OK):
        return [program]
    return [sys.executable, '-m', 'lovely.remotetask']


def _told(directory, port):
    """Return what is printed: what was made, and the commands that come next, to be pasted."""
    words = _program()
    found = shutil.which('remotetask')
    if found is not None and os.path.exists(words[0]) and os.path.samefile(found, words[0]):
        words = ['remotetask']
    program = shlex.join([os.path.abspath(words[0]) if os.sep in words[0] else words[0], *words[1:]])
    url = '' if port == PORT else f' --url http://127.0.0.1:{port}/'
    width = max(map(len, FILES))
    return '\n'.join([
        f'{directory} has now', '',
        *(f'    {name:{width}}  {purpose}' for name, purpose in FILES.items()), '',
        'Start it:', '',
        f'    {program} -C {directory}/remotetask.conf serve', '',
        'Then, in another terminal, add a job and get its result:', '',
        f"""    {program} add greet '{{"name": "World"}}' --wait{url}""", '',
        *([f'Look at it in a browser: http://127.0.0.1:{_pagesPort(port)}/', ''] if arePagesInstalled() else []),
        'Declare tasks of your own in tasks.py, and start it again.'])


COMMANDS = (init,)
