"""What was measured, for people and for programs: a table, JSON, a picture."""
# SPDX-License-Identifier: ZPL-2.1
import dataclasses
import json
import os
import platform
import time

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lovely.remotetask.bench.measures import HIGHER
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.errors import RemoteTaskError


#: What differs by less, up or down, is neither better nor worse: no two runs are the same.
NOISE = 0.05


def asDict(results, settings, title, embedded, version, now=None):
    """Return all that is to be kept of a run, for JSON.

    results -- a `measures.Results`.
    settings -- a `settings.Settings`.
    title -- says what the database was.
    embedded -- whether one process alone could open it.
    version -- of the package.
    now -- UTC seconds; default: the present.
    """
    return {'version': version, 'date': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(now)),
            'storage': title, 'embedded': embedded, 'python': platform.python_version(), 'cores': os.cpu_count(),
            'parameters': dataclasses.asdict(settings), 'results': results.asDict()}


def read(path):
    """Return what `write` has written; raise `ConfigurationError` when a file is something else."""
    try:
        with open(path, encoding='utf-8') as file:
            run = json.load(file)
        for entry in run['results'].values():
            entry['value'], entry['unit']
    except OSError as error:
        raise ConfigurationError(f'{path}: {error.strerror}') from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigurationError(f'{path} was not written by the option --json of bench') from error
    return run


def write(path, run):
    """Write a run, as `asDict` gives it, to a file of JSON."""
    with open(path, 'w', encoding='utf-8') as file:
        json.dump(run, file, indent=2)
        file.write('\n')


def ratio(old, new):
    """Return by what factor a value has changed; None where there is none: not measured then, or nothing."""
    return None if old is None or not old['value'] else new['value'] / old['value']


def show(run, before=None, file=None, label='before'):
    """Print a table of a run, and how it compares to the run `before`.

    file -- default: the standard output.
    label -- what `before` is called.
    """
    console = Console(file=file, highlight=False)
    table = Table(title=escape(f'{run["storage"]}: {_described(run)}'), title_justify='left')
    table.add_column('measured')
    if before is not None:
        table.add_column(label, justify='right')
    table.add_column('median', justify='right')
    table.add_column('unit')
    table.add_column('from - to', justify='right')
    if before is not None:
        table.add_column('ratio', justify='right')
    for name, entry in run['results'].items():
        low, high = min(entry['all']), max(entry['all'])
        spread = f'{number(low)} - {number(high)}' if len(entry['all']) > 1 else ''
        cells = [escape(name), number(entry['value']), entry['unit'], spread]
        if before is not None:
            old = before['results'].get(name)
            cells.insert(1, '' if old is None else number(old['value']))
            cells.append(_ratioCell(ratio(old, entry), entry['better']))
        table.add_row(*cells)
    console.print(table)
    if run['embedded']:
        console.print('One process alone can open this database: hosts and clients are threads of it, and the '
                      'front end of XML-RPC is "remotetask serve".')


def _described(run):
    parameters = run['parameters']
    text = f'{parameters["jobs"]} jobs of {parameters["seconds"]:g} s and {parameters["payload"]} bytes'
    if parameters['behind']:
        text += f', {parameters["behind"]} behind'
    return f'{text}; Python {run["python"]}, {run["cores"]} cores'


def number(value):
    """Return a number for reading: three figures that count, or all before the point."""
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'


def _ratioCell(factor, better):
    if factor is None:
        return ''
    text = f'{factor:.2f}'
    if abs(factor - 1) < NOISE:
        return text
    return f'[green]{text}[/]' if (factor > 1) == (better == HIGHER) else f'[red]{text}[/]'


def plotter():
    """Return the module that draws; raise `RemoteTaskError` where it is not installed."""
    try:
        import matplotlib
        matplotlib.use('Agg')
        from matplotlib import pyplot
    except ImportError as error:
        raise RemoteTaskError('--plot needs matplotlib: pip install "lovely.remotetask[plot]"') from error
    return pyplot


def plot(path, run, before=None, label='before'):
    """Draw a run, and the run `before` beside it, to a file whose name says its format: .png, .svg, .pdf.

    label -- what `before` is called.

    Each unit has a field of its own.  Raise `RemoteTaskError`.
    """
    pyplot, units = plotter(), {}
    for name, entry in run['results'].items():
        units.setdefault(entry['unit'], []).append((name, entry))
    heights = [len(entries) + 1 for entries in units.values()]
    figure, fields = pyplot.subplots(len(units), 1, squeeze=False, height_ratios=heights,
                                     figsize=(9, 0.35 * sum(heights) + 1), layout='constrained')
    for field, (unit, entries) in zip(fields[:, 0], units.items()):
        names, width = [name for name, _ in entries], 0.8 if before is None else 0.4
        bars = [('now', 0 if before is None else width / 2, [entry['value'] for _, entry in entries])]
        if before is not None:
            bars.append((label, -width / 2, [before['results'].get(name, {'value': 0})['value'] for name in names]))
        for title, shift, values in bars:
            drawn = field.barh([index + shift for index in range(len(names))], values, width, label=title)
            field.bar_label(drawn, [number(value) for value in values], padding=3)
        field.set_yticks(range(len(names)), names)
        field.invert_yaxis()
        field.margins(x=0.15)
        field.set_xlabel(unit)
    if before is not None:
        fields[0, 0].legend()
    figure.suptitle(f'{run["storage"]}\n{_described(run)}', fontsize='medium')
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise RemoteTaskError(f'the picture cannot be written to {path}: {error}') from error
    finally:
        pyplot.close(figure)
