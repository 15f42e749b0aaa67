"""The command `exam`: runs scenarios for as long as one likes, and prints a table of what came of them."""
# SPDX-License-Identifier: ZPL-2.1
import argparse
import os
import random
import sys

from exam.running import run
from exam.scenarios import SCENARIOS
from exam.storages import STORAGES


HEADINGS = 'scenario', 'jobs', 'faults', 'longest rescue', 'repeated outside effects', 'violations'


def table(verdicts):
    """Return a table of `Verdict`s, as text."""
    rows = [HEADINGS] + [(verdict.scenario, verdict.jobs, verdict.faults, f'{verdict.rescue:.2f} s', verdict.repeats,
                          len(verdict.violations)) for verdict in verdicts]
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(HEADINGS))]
    return '\n'.join(f'{name:<{widths[0]}}  ' + '  '.join(f'{value:>{width}}' for value, width in zip(row, widths[1:]))
                     for name, *row in rows)


def main(arguments=None):
    """Run the command and return its exit code: 1 when something was violated."""
    parser = argparse.ArgumentParser(prog='exam', description='Run real processes under load and faults, and check '
                                     'that every accepted job has one end and its effect once.')
    parser.add_argument('--minutes', type=float, default=1, help='for each scenario; default: 1')
    parser.add_argument('--seed', help='repeats the faults of an earlier run; default: a new one')
    parser.add_argument('--scenario', action='append', choices=SCENARIOS, metavar='NAME',
                        help=f'can be repeated; default: all of {", ".join(SCENARIOS)}')
    parser.add_argument('--storage', choices=STORAGES, default='zeo', help='what the scenarios run on, but for those '
                        'that need the other one; default: zeo')
    parser.add_argument('--beside', metavar='DIRECTORY', help='another checkout with its own bin/, to which the '
                        'scenario upgrade goes over and back; default: this one, so that all is restarted only')
    options = parser.parse_args(arguments)
    beside = options.beside and os.path.abspath(options.beside)
    if beside and not all(os.path.exists(os.path.join(beside, 'bin', name)) for name in ('remotetask', 'runzeo')):
        parser.error(f'--beside: there is no bin/remotetask and bin/runzeo in {beside}')
    seed = options.seed or str(random.randrange(1_000_000))
    print(f'seed {seed}', flush=True)
    verdicts = []
    for name in options.scenario or SCENARIOS:
        print(f'{name}: {SCENARIOS[name].run.__doc__}', flush=True)
        verdicts.append(run(name, seed, options.minutes * 60, options.storage, beside))
        for figure in verdicts[-1].figures:
            print(f'  {figure}', flush=True)
        if verdicts[-1].violations:
            print(verdicts[-1].report, flush=True)
    print(table(verdicts))
    return int(any(verdict.violations for verdict in verdicts))


if __name__ == '__main__':
    sys.exit(main())
