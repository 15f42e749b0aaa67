"""The command bench: how fast this deployment is."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import signal

import click
from click.core import ParameterSource

from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.failure import harmless
from lovely.remotetask.cli.local import Number
from lovely.remotetask.common.release import release


#: The names that --only takes, in the order in which they are measured.
NAMES = ('add', 'bulk', 'drain', 'mixed', 'latency', 'xmlrpc', 'same', 'different', 'busy', 'idle', 'limited', 'pages',
         'memory')

#: Those that are measured only when they are named.
ASKED = ('pages',)


def _toCounts(context, parameter, values):
    """Convert the values of --hosts, numbers with commas between them, to a sorted tuple of ints."""
    try:
        counts = sorted({int(number) for value in values for number in value.split(',')})
    except ValueError:
        counts = [0]
    if counts and not 1 <= counts[0] <= counts[-1] <= 64:
        raise click.BadParameter('give numbers from 1 to 64, as in 1,2')
    return tuple(counts)


@click.command()
@click.option('--zeo', 'server', flag_value='zeo', help='Without -C: a temporary database server, not an embedded '
              'database.')
@click.option('--postgresql', 'server', flag_value='postgresql', help='Without -C: a temporary PostgreSQL.  Needs its '
              'programs, and the extra "postgresql".')
@click.option('--jobs', type=click.IntRange(min=20), default=5000, show_default=True,
              help='How many jobs are queued and drained; slower measures use a tenth of them.')
@click.option('--clients', type=click.IntRange(1, 64), default=8, show_default=True,
              help='How many clients add jobs in the database at the same time.')
@click.option('--hosts', multiple=True, default=('1,2',), callback=_toCounts, metavar='N,...',
              help='How many processing hosts drain a queue; each number is measured.  [default: 1,2]')
@click.option('--payload', type=click.IntRange(min=0), default=0, metavar='BYTES',
              help='The size of the input and of the result of each job.  [default: 0]')
@click.option('--seconds', type=Number(), default=0.0, metavar='SECONDS',
              help='How long a job takes.  [default: 0; for long jobs 0.5]')
@click.option('--behind', type=click.IntRange(min=0), default=0, metavar='N',
              help='How many more jobs wait in the queue, behind the measured ones.  [default: 0]')
@click.option('--repeat', type=click.IntRange(min=1), default=3, show_default=True,
              help='How often to repeat each measure; the median counts.')
@click.option('--only', multiple=True, type=click.Choice(NAMES),
              help='Run only this measure; can be repeated.  "pages" is measured only then.')
@click.option('--json', 'jsonPath', type=click.Path(dir_okay=False, writable=True), metavar='FILE',
              help='Write all values to a JSON file.')
@click.option('--compare', 'oldPath', type=click.Path(dir_okay=False), metavar='FILE',
              help='Print the ratios to values that --json saved.')
@click.option('--against', 'checkout', type=click.Path(exists=True, file_okay=False), metavar='DIRECTORY',
              help='Measure this checkout and another one in turns, and print the ratios.')
@click.option('--plot', 'plotPath', type=click.Path(dir_okay=False, writable=True), metavar='FILE',
              help='Draw a picture: .png, .svg or .pdf.  Needs matplotlib (the extra "plot").')
@click.pass_context
def bench(context, server, only, jsonPath, oldPath, checkout, plotPath, **parameters):
    """Measure how fast jobs are added and run.

    It uses the database of the configuration file, in a separate service that it removes at the end.  Without a
    configuration file, or with --zeo, --postgresql or --against, it uses a temporary database.  It starts the same
    processes as a deployment, and does not touch other services.  Measure on a quiet machine.  On a busy one, compare
    the processor time, or measure two checkouts in turns.

    \b
    Examples:
      $ remotetask bench --zeo
      $ remotetask bench --postgresql --only latency --only drain
      $ remotetask -C remotetask.conf bench --json before.json
      $ remotetask -C remotetask.conf bench --only drain --hosts 1,2,4 --compare before.json
      $ remotetask bench --zeo --only bulk --only drain --repeat 5 --against ../main
    """
    configurationPath, only = _chosen(context, server, only, oldPath, checkout)
    # Imported here: all other commands would wait for it, too.
    from lovely.remotetask.bench import report
    from lovely.remotetask.bench.settings import Settings

    before = None if oldPath is None else report.read(oldPath)
    if plotPath is not None:
        report.plotter()                        # now, not when all is measured
    settings = Settings(**parameters)
    with _interruptedByTerm():
        if checkout is None:
            label, run = 'before', _measured(settings, only, server, configurationPath)
            written = run
        else:
            label, (run, before) = 'other', _measuredInTurns(settings, only, server, checkout)
            written = {**run, 'other': before}
    report.show(run, before, label=label)
    if jsonPath is not None:
        try:
            report.write(jsonPath, written)
        except OSError as error:
            raise CommandFailure(f'{jsonPath}: {error.strerror}') from error
    if plotPath is not None:
        report.plot(plotPath, run, before, label)


def _chosen(context, server, only, oldPath, checkout):
    """Return the path of the configuration file or None, and the names of what to measure; for arguments see `bench`.

    Raise `click.UsageError` when options exclude each other.
    """
    configurationPath = context.obj
    if server is not None or checkout is not None:
        if context.parent.get_parameter_source('config') is ParameterSource.COMMANDLINE:
            raise click.UsageError(f'--{server or "against"} is for measuring without a configuration file')
        configurationPath = None                # that of the environment
    if checkout is None:
        return configurationPath, only
    if oldPath is not None:
        raise click.UsageError('--against and --compare both say what to compare with: give one of them')
    # The most memory of all measures together is that of one process, and here each measure has its own.
    only = [name for name in NAMES if name != 'memory' and (name in only if only else name not in ASKED)]
    if not only:
        raise click.UsageError('--against cannot measure memory')
    return configurationPath, only


def _measured(settings, only, server, configurationPath):
    """Measure this package, and return what `report.asDict` does."""
    from lovely.remotetask.bench import measures
    from lovely.remotetask.bench import report
    from lovely.remotetask.bench.stage import stage

    with _progress() as tell, stage(settings, configurationPath, server) as place:
        results = measures.run(place, only, tell)
    return report.asDict(results, settings, place.title, place.embedded, release())


def _measuredInTurns(settings, only, server, checkout):
    """Measure this package and another checkout in turns, and return both runs."""
    from lovely.remotetask.bench import against

    with _progress() as tell:
        return against.run(checkout, settings, only, server, tell)


@contextlib.contextmanager
def _progress():
    """Show a bar; give a function that moves it on, as `measures.run` takes it.

    Raise `CommandFailure` for a `BenchError`, after showing the log of the process that is to blame.
    """
    from rich.progress import TimeElapsedColumn

    from lovely.remotetask.bench.settings import BenchError
    from lovely.remotetask.cli.output import bars

    try:
        with bars(TimeElapsedColumn()) as shown:
            bar = shown.add_task('starting', total=1)
            yield lambda title, done: shown.update(bar, description=f'measuring: {title}', completed=done)
    except BenchError as error:
        if error.log:
            click.echo(harmless(error.log), err=True, nl=False)
        raise CommandFailure(str(error)) from error


@contextlib.contextmanager
def _interruptedByTerm():
    """Make SIGTERM do what Ctrl-C does, so that the bench cleans up then, too."""
    def interrupt(number, frame):
        raise KeyboardInterrupt()
    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:                          # not in the main thread: then nobody can
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


COMMANDS = (bench,)
