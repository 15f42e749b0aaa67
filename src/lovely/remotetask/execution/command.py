"""Tasks made of programs: a command with places for the fields of the input, run without a shell."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import errno
import math
import os
import re
import shlex
import shutil
import string
import subprocess
import tempfile
import time

from zope.interface import Interface
from zope.interface import implementer
from zope.interface.interface import InterfaceClass
from zope.schema import Field

from lovely.remotetask.common import tracing
from lovely.remotetask.common.checks import isSpan
from lovely.remotetask.common.checks import shown
from lovely.remotetask.database.storedfiles import StoredFile
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import TaskError
from lovely.remotetask.execution.control import current
from lovely.remotetask.execution.group import Group
from lovely.remotetask.execution.group import signalName
from lovely.remotetask.files import File
from lovely.remotetask.files import copied
from lovely.remotetask.interfaces import ICheckedTask
from lovely.remotetask.task import checkFields


#: The longest value, in bytes.
VALUE_LIMIT = 32 * 1024
#: How much of the end of a program's output is kept, in bytes.
KEPT = 4096
#: What a job's result may be: how the program ended, or all of its output.
REPORT, FILE = 'report', 'file'
#: Seconds to go on reading after the program's end, when something that left its process group holds the pipes open.
DRAIN = 1.0

_SEPARATOR = re.compile('([=:,])')
_SURROGATE = re.compile('[\ud800-\udfff]')
_PLAIN = re.compile(r'[\w.][^/:=]*(/|\Z)')      # no option, no protocol, no assignment, no other first character
_NOT_IN_XML = re.compile('[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')
_PASSING = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)     # the host is short of something right now


@implementer(ICheckedTask)
class CommandTask:
    """A task that runs a program and returns how it ended.

    command -- the program and its arguments, one text, split once as a shell would (quotes group, nothing expands).
        `{field}` stands for a value of the input, `{{` and `}}` for braces.  Each word stays one argument whatever the
        values contain.  The program is found on PATH, or named by an absolute path.
    directory -- where the program runs.  With it, every field not named in `text` is a path relative to and inside of
        it; a path that looks like an option, protocol or assignment gets a `./` before it.  Where `=`, `:` or `,`
        stands in the template a path ends, or another begins.  Without a directory all fields are plain text and the
        program runs in a fresh temporary directory, removed afterwards.
    text -- names of the fields that are no paths: an iterable, or one text with spaces between.  They are passed as
        they are, so one that begins with `-` may be taken for an option: write `-- {field}` or `--option={field}`
        where that matters.
    files -- names of the fields that have to be files; others may be.  In the template nothing but literal text may
        stand beside one, up to the next `=`, `:`, `,` or blank.
    timeout -- seconds that the program may run; `float('inf')` for any.
    result -- 'report', the default, or 'file'.

    The input is a dict whose keys are exactly the fields, its values texts, finite numbers or files (see `files.File`).
    Of a file the program gets a copy, which is removed afterwards: the field stands for its path, whatever the
    directory is.  The result is a dict, the report: `status`, the exit status 0; `duration` in seconds; `output` and
    `error`, the ends of what the program wrote.  Or it is a file: all that the program wrote to its standard output,
    never in memory.  Any other exit, death by a signal, and the time limit raise `TaskError`: a program is not run
    again by itself.  It ends, with all that it started, when its job is cancelled and when its processing host dies.

    Raise `ValueError` that says what is wrong with the template or another argument.
    """

    outputSchema = Interface

    def __init__(self, command, directory=None, text=(), timeout=3600.0, result=REPORT, files=()):
        words = _parse(command)
        fields = dict.fromkeys(field for word in words for segment in word for _, field in segment if field)
        text, files = (_named(option, names, fields, command) for option, names in (('text', text), ('files', files)))
        if not (isSpan(timeout) or timeout == math.inf):
            raise ValueError(f'the timeout must be more than 0 seconds, not {shown(timeout)}')
        if directory is not None and not directory:
            raise ValueError('the directory is empty')
        if result not in (REPORT, FILE):
            raise ValueError(f'the result is to be {REPORT!r} or {FILE!r}, not {result!r}')
        self.command, self.timeout, self.result = command, timeout, result
        self.directory = None if directory is None else os.path.abspath(directory)
        self.program = _program(words[0], command)
        self.words, self.fields = words[1:], tuple(fields)
        self.files = files
        self.paths = frozenset() if directory is None else frozenset(fields) - text - files
        for segment in (segment for word in words for segment in word):
            if any(field in self.paths for _, field in segment) and os.path.isabs(segment[0][0]):
                raise ValueError(f'command {command!r}: the path field after {segment[0][0]!r} would lead out of the '
                                 f'directory; name it in text if it is no path')
        self.inputSchema = InterfaceClass(
            'ICommandInput', (Interface,), {field: Field(title=field) for field in fields},
            __doc__=f'The input of {command}', __module__=__name__)

    def __repr__(self):
        return f'<{type(self).__name__} {self.command!r}>'

    def checkInput(self, input):
        """Raise `InvalidInput` when the input does not fit; see `ICheckedTask`.

        Symbolic links are looked at where the directory exists, and always again just before the program runs.
        """
        self._arguments(input)

    def missing(self):
        """Return what this host lacks to run the program, as text, or None; see `ITask`."""
        if shutil.which(self.program) is None:
            return f'the program {self.program!r} (it is not on the PATH, or not executable)'
        if self.directory is not None and not os.path.isdir(self.directory):
            return f'the directory {self.directory!r} of {self.program}'
        return None

    def __call__(self, service, jobid, input):
        """Run the program and return how it ended; see the class."""
        if (executable := shutil.which(self.program)) is None:
            raise TaskError(f'the program {self.program!r} was not found on this processing host (not on its PATH, '
                            f'or not executable)')
        if self.directory is not None and not os.path.isdir(self.directory):
            raise TaskError(f'the directory {self.directory!r} of {self.program} does not exist on this '
                            f'processing host')
        # A race remains: a user of this host who may write into the directory can put a symbolic link there between
        # this check and the program's own look.  A client cannot, as it only names files.
        try:
            arguments = self._arguments(input)
        except InvalidInput as error:
            raise TaskError(str(error)) from error
        executable = os.path.abspath(executable)        # a relative PATH entry is not relative to the directory
        with contextlib.ExitStack() as stack:
            copies = {field: stack.enter_context(copied(input[field], field)) for field in self._files(input)}
            if copies:
                arguments = self._arguments(input, copies)
            directory = self.directory or stack.enter_context(
                tempfile.TemporaryDirectory(prefix='remotetask-', ignore_cleanup_errors=True))
            return self._run(executable, arguments, directory)

    def _files(self, input):
        """Return the fields that have a file in this input."""
        return [field for field in self.fields if isinstance(input[field], (File, StoredFile))]

    def _arguments(self, input, copies=None):
        """Return the arguments for this input, the program not among them; raise `InvalidInput`.

        copies -- field that has a file -> the path of its copy; None as long as there are none.
        """
        if not self.fields and input not in (None, {}):
            raise InvalidInput('', 'this command has no fields')
        checkFields(self.inputSchema, input)
        copies = dict.fromkeys(self._files(input), '') if copies is None else copies
        for field in self.fields:
            if field in self.files and field not in copies:
                raise InvalidInput(field, 'must be a file')
        values = {field: copies[field] if field in copies else _asText(field, input[field]) for field in self.fields}
        for field in self.fields:
            # A number gets no prefix (`scale=-1:720`), but is checked: it may be the name of a link all the same.
            if field in self.paths and isinstance(input[field], str):
                if not values[field]:
                    raise InvalidInput(field, 'is an empty path')
                if not _PLAIN.match(values[field]):
                    _checkPath(self.directory, field, values[field])
                    values[field] = './' + values[field]
        return [''.join(self._fill(segment, values, copies) for segment in word) for word in self.words]

    def _fill(self, segment, values, copies):
        """Return the text of a segment; check all in it that the program may take for a path."""
        fields = [field for _, field in segment if field]
        if files := [field for field in fields if field in copies]:
            if len(fields) > 1:                 # which could lead from the copy to any other file
                raise InvalidInput(files[0], f'is a file, and stands beside another field in the command '
                                             f'{self.command!r}')
            return ''.join(literal + values.get(field, '') for literal, field in segment)
        filled, starts = '', []
        for literal, field in segment:
            filled += literal
            if field in self.paths:
                starts.append((field, len(filled)))
            filled += values.get(field, '')
        for field, start in starts:
            # `{name}.png`, `-I{name}` and `out/{name}`: not only the value, also what the template makes of it.
            for path in dict.fromkeys((values[field], filled[start:], filled)):
                _checkPath(self.directory, field, path)
        return filled

    def _run(self, executable, arguments, directory):
        target = tempfile.TemporaryFile() if self.result == FILE else None
        try:
            report = self._report(_execute(executable, [self.program, *arguments], directory, self.timeout, target))
        except BaseException:
            if target is not None:
                target.close()
            raise
        if target is None:
            return report
        target.seek(0)
        return File(target, move=True)

    def _report(self, run):
        if run['expired']:
            raise TaskError(_message(f'{self.program} reached its time limit of {self.timeout:g} s', run))
        if run['status'] < 0:
            raise TaskError(_message(f'{self.program} was killed by {signalName(-run["status"])}', run))
        if run['status'] > 0:
            raise TaskError(_message(f'{self.program} exited with status {run["status"]}', run))
        return {key: run[key] for key in ('status', 'duration', 'output', 'error')}


# The template

def _named(option, names, fields, command):
    """Return the names of fields that an option has, as a set; raise `ValueError` for others."""
    names = frozenset(names.split() if isinstance(names, str) else names)
    if unknown := sorted(names.difference(fields)):
        raise ValueError(f'{option} names {", ".join(map(repr, unknown))}, which the command {command!r} does not have')
    return names


def _parse(command):
    """Return the words of the template, each a list of segments, each a list of (literal text, field or None)."""
    if not isinstance(command, str):
        raise ValueError(f'the command must be one text, not {type(command).__name__}')
    if '\0' in command or _SURROGATE.search(command):
        raise ValueError(f'command {command!r}: has a NUL character or half a surrogate pair')
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f'command {command!r}: {error}') from error
    if not words:
        raise ValueError('the command is empty')
    return [_parseWord(word, command) for word in words]


def _parseWord(word, command):
    segments = [[]]
    try:
        for literal, field, spec, conversion in string.Formatter().parse(word):
            # Pieces with an odd index are separators: segments of their own.
            for index, piece in enumerate(_SEPARATOR.split(literal)):
                if index % 2:
                    segments += [[(piece, None)], []]
                elif piece:
                    segments[-1].append((piece, None))
            if field is None:
                continue
            if spec or conversion or not field.isidentifier() or field.startswith('_'):
                raise ValueError('a field is {name} and nothing more, an identifier without an underscore before it')
            segments[-1].append(('', field))
    except ValueError as error:
        raise ValueError(f'command {command!r}: in {word!r}: {error} (a literal brace is written twice)') from error
    return segments


def _program(word, command):
    if any(field for segment in word for _, field in segment):
        raise ValueError(f'command {command!r}: the program itself cannot be a field')
    program = ''.join(literal for segment in word for literal, _ in segment)
    if not program:
        raise ValueError(f'command {command!r}: the program is empty')
    if '/' in program and not os.path.isabs(program):
        raise ValueError(f'command {command!r}: name the program by an absolute path, or as it is found on PATH')
    return program


# The values

def _asText(field, value):
    """Return the argument for a value; raise `InvalidInput` when no argument can be made of it."""
    if type(value) not in (str, int, float):        # exact: a bool is an int, a subclass may say anything
        raise InvalidInput(field, f'must be a text, a number or a file, not {type(value).__name__}')
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(field, 'must be a finite number')
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError as error:                     # an int of thousands of digits
        raise InvalidInput(field, str(error)) from error
    if '\0' in text:
        raise InvalidInput(field, 'has a NUL character')
    if _SURROGATE.search(text):
        raise InvalidInput(field, 'has half a surrogate pair, which is no character')
    try:
        size = len(os.fsencode(text))
    except UnicodeEncodeError as error:
        raise InvalidInput(field, f'has a character that {error.encoding}, the encoding here, lacks') from error
    if size > VALUE_LIMIT:
        raise InvalidInput(field, f'is {size} bytes long; the limit is {VALUE_LIMIT}')
    return text


def _checkPath(directory, field, path):
    """Raise `InvalidInput` unless the path leads to something inside of the directory, whether it exists or not."""
    if os.path.isabs(path):
        raise InvalidInput(field, 'is an absolute path; it must be relative to the directory of the command')
    normal = os.path.normpath(path)
    if normal == '.':
        raise InvalidInput(field, 'is the directory of the command itself, not something in it')
    if normal.split('/')[0] == '..':
        raise InvalidInput(field, 'leads out of the directory of the command')
    root = os.path.realpath(directory)
    real = os.path.realpath(os.path.join(root, path))
    if real == root or os.path.commonpath([root, real]) != root:
        raise InvalidInput(field, 'leads out of the directory of the command by a symbolic link')


# The run

class _End:
    """The end of what comes out of a pipe, if there is a pipe; the rest is read and forgotten."""

    def __init__(self, group, pipe):
        self.group, self.kept = group, b''
        if pipe is not None:
            group.watch(pipe, self.read)

    def read(self, pipe):
        if data := os.read(pipe.fileno(), 64 * 1024):
            self.kept = (self.kept + data)[-KEPT:]
        else:
            self.group.ignore(pipe)


def _execute(executable, arguments, directory, timeout, target=None):
    """Run a program and return how it ended: status (negative: a signal's number), expired, duration, output, error.

    target -- the file that gets the output, of which nothing is returned then.

    Raise `Interrupted` when the job's processing host says that it is to end.
    """
    started, control = time.monotonic(), current()
    try:
        with (Group(executable, arguments, cwd=directory, stdout=target or subprocess.PIPE,
                    stderr=subprocess.PIPE, env=_environment()) as group,
              contextlib.nullcontext() if control is None else control.stoppedBy(group.end, group.describe)):
            ends = [_End(group, pipe) for pipe in (group.process.stdout, group.process.stderr)]
            expired = not group.run(timeout)
            duration = time.monotonic() - started
            group.drain(DRAIN)
    except OSError as error:
        if error.errno in _PASSING:                 # to be tried again
            raise
        raise TaskError(f'the program {arguments[0]!r} cannot be started: {error.strerror}') from error
    output, error = (_readable(end.kept) for end in ends)
    return {'status': group.status, 'expired': expired, 'duration': duration, 'output': output, 'error': error}


def _environment():
    """Return the environment of a program; None for ours.  A span that is recorded is in it, as its parent."""
    traceparent = tracing.injected()
    return None if traceparent is None else {**os.environ, 'TRACEPARENT': traceparent}


def _readable(data):
    """Return bytes as text that XML can carry, with newlines of one kind."""
    text = data.decode('utf-8', 'replace').replace('\r\n', '\n').replace('\r', '\n')
    return _NOT_IN_XML.sub('\ufffd', text)


def _message(text, run):
    said = run['error'].strip() or run['output'].strip()
    return f'{text}: {said}' if said else text
