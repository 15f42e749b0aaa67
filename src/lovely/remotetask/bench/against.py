"""Two checkouts measured in turns, so that whatever else the machine does slows down both."""
# SPDX-License-Identifier: ZPL-2.1
import dataclasses
import os
import subprocess
import sys
import tempfile

from lovely.remotetask.bench import report
from lovely.remotetask.bench.measures import Results
from lovely.remotetask.bench.measures import Value
from lovely.remotetask.bench.settings import FOLDER
from lovely.remotetask.bench.settings import BenchError
from lovely.remotetask.errors import ConfigurationError


class _Side:
    """One of the two: a package, which is measured with its own command bench, and what was measured."""

    def __init__(self, title, *sources):
        """`sources` are the paths of directories in which packages are looked for first."""
        self.title, self._results, self._run = title, Results(), None
        self._environment = dict(os.environ, PYTHONPATH=os.pathsep.join([*sources, *map(os.path.abspath, sys.path)]))
        self._environment.pop('REMOTETASK_CONFIG', None)

    def python(self, arguments, directory):
        """Run a Python with this package to its end; return its exit code, its standard output, and its errors."""
        # In a process group of its own: Ctrl-C comes to us alone, and we make it clean up.
        with subprocess.Popen([sys.executable, *arguments], cwd=directory, text=True, env=self._environment,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
            try:
                output, errors = process.communicate()
            except BaseException:
                process.terminate()
                process.communicate()
                raise
        return process.returncode, output, errors

    def measure(self, arguments, directory):
        """Measure something; raise `BenchError` when that fails."""
        path = os.path.join(directory, 'run.json')
        code, _, errors = self.python(['-m', 'lovely.remotetask.cli.main', 'bench', '--json', path, *arguments],
                                      directory)
        if code:
            raise BenchError(f'{self.title} cannot be measured', errors)
        self._run = report.read(path)
        os.remove(path)
        for name, entry in self._run['results'].items():
            self._results.add(Value(name, entry['value'], entry['unit'], entry['better']))

    def asDict(self, settings):
        """Return all that was measured, as `report.asDict` does."""
        return {**self._run, 'parameters': dataclasses.asdict(settings), 'results': self._results.asDict()}


def run(checkout, settings, names, server, tell=lambda title, done: None):
    """Measure the package of this process and another one in turns, on temporary databases.

    Each measure is made in new processes of this Python with the same other packages: here, there, then the next one,
    and all of that `settings.repeat` times.

    checkout -- the path of the directory that has the other package in its `src`.
    settings -- `settings.Settings`.
    names -- of `measures.MEASURES`.
    server -- which server the databases have, see `stage.stage`.
    tell -- called before each one begins, with what is measured and the part of all that is done, from 0 to 1.

    Return both runs, this one and the other.  Raise `ConfigurationError` when the checkout has no package, and
    `BenchError` when one of the two cannot be measured.
    """
    source = os.path.join(os.path.abspath(checkout), 'src')
    sides = _Side('this checkout'), _Side(checkout, source)
    turns = [(name, side) for _ in settings.rounds() for name in names for side in sides]
    parameters = {**dataclasses.asdict(settings), 'hosts': ','.join(map(str, settings.hosts)), 'repeat': 1}
    arguments = [*([f'--{server}'] if server else []), *(f'--{name}={value}' for name, value in parameters.items())]
    with tempfile.TemporaryDirectory(prefix=FOLDER) as directory:
        _check(sides[1], source, directory)
        for number, (name, side) in enumerate(turns):
            tell(f'{name}, {side.title}', number / len(turns))
            side.measure([*arguments, '--only', name], directory)
    return [side.asDict(settings) for side in sides]


def _check(side, source, directory):
    """Raise `ConfigurationError` unless the package is found below a directory: two measures of one would look fine."""
    code, found, _ = side.python(['-c', 'import lovely.remotetask; print(lovely.remotetask.__file__)'], directory)
    expected = os.path.join(source, 'lovely', 'remotetask', '__init__.py')
    if code or os.path.realpath(found.rstrip('\n')) != os.path.realpath(expected):
        raise ConfigurationError(f'{side.title} is no checkout that can be measured: Python does not find the package '
                                 f'as {expected}')
