"""The commands that take waiting jobs and schedules out of a database, and into another one, as lines of JSON."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import functools
import json
import os
import sys
import tempfile
import time

import click
import transaction

from lovely.remotetask.cli.burst import opened as openedService
from lovely.remotetask.cli.failure import BAD_INPUT
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.failure import oneLine
from lovely.remotetask.cli.site import makeRoot
from lovely.remotetask.cli.site import opened
from lovely.remotetask.common.checks import counted
from lovely.remotetask.common.process import osUser
from lovely.remotetask.database import notes
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import atPath
from lovely.remotetask.database.sites import checkedRoot
from lovely.remotetask.database.sites import findService
from lovely.remotetask.database.sites import pathOf
from lovely.remotetask.database.sites import pathText
from lovely.remotetask.database.transactions import transact
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.execution.tasks import AddableTasks
from lovely.remotetask.execution.tasks import checkJob
from lovely.remotetask.storage import transfer
from lovely.remotetask.storage.ready import ledgers


#: The most lines that one transaction imports, and about how many bytes; and the most bytes of one line.
BATCH_LINES, BATCH_BYTES, LINE_BYTES = 1000, 64 * 1024 ** 2, 256 * 1024 ** 2

#: How often a batch is tried when other processes have written the same.
ATTEMPTS = 10

MEGABYTE = 1000_000

_service = click.option('--service', 'path', metavar='PATH', default='/', show_default=True,
                        help='The task service, as in URLs: /site1/Films; / is the default service.')


@click.command('export')
@click.argument('file')
@_service
@click.option('--limit', metavar='MB', type=click.FloatRange(0, 150), default=10.0, show_default=True,
              help='Leave out jobs with a file, bytes or a text above this size in their input.')
@click.option('--skip', is_flag=True, help='End with exit code 0 even if jobs had to be left out.')
@click.pass_obj
def exportJobs(configurationPath, file, path, limit, skip):
    """Write waiting jobs and schedules to FILE, as lines of JSON.

    FILE is a new file, or - for the standard output.  The jobs are as they were at one moment, and they stay in the
    database.  Jobs that are being run, or have ended, are not exported.  A job that JSON cannot carry is named on the
    standard error output and left out; the exit code is 1 then, unless --skip is given.

    \b
    Examples:
      $ remotetask -C remotetask.conf export jobs.jsonl
      $ remotetask -C remotetask.conf export - --service /site1/Films | gzip > jobs.gz
    """
    with opened(configurationPath) as db, _target(file) as write, openedService(db, _pathOf(db, path)) as service:
        running = sum(len(ledger.claimed) for ledger in ledgers(service))
        written = left = 0
        for jobid, entry, reason in transfer.exported(service, round(limit * MEGABYTE)):
            if entry is None:
                left += 1
                click.echo(oneLine(f'job {jobid} is left out: {reason}'), err=True)
            else:
                write(json.dumps(entry))
                written += 1
    click.echo(f'exported {counted(written, "job")}', err=True)
    if running:
        click.echo(f'not exported: {counted(running, "job")} being run', err=True)
    if left and not skip:
        raise CommandFailure(f'{counted(left, "job")} left out')


@contextlib.contextmanager
def _target(file):
    """Give what writes a line to a file, which is there when all went well, or to the standard output."""
    if file == '-':
        yield click.echo
        return
    if os.path.lexists(file):
        raise CommandFailure(f'{file} is there already', BAD_INPUT)
    try:
        with tempfile.NamedTemporaryFile('w', encoding='ascii', dir=os.path.dirname(file) or '.', delete=False) as new:
            try:
                yield lambda line: new.write(line + '\n')
                new.flush()
                os.fsync(new.fileno())
                os.rename(new.name, file)
            except BaseException:
                os.remove(new.name)
                raise
    except OSError as error:
        raise CommandFailure(f'{file} cannot be written: {error.strerror or error}') from error


def _pathOf(db, path):
    """Return the names down to the service that the path of a URL names; raise `UnknownService`."""
    with db.transaction() as connection:
        if checkedRoot(connection) is None:
            raise CommandFailure('there is no task service in the database: it is empty')
        return pathOf(findService(connection.root()[ROOT_NAME], path))


@click.command('import')
@click.argument('file')
@_service
@click.option('--from-line', 'first', metavar='N', type=click.IntRange(1), default=1, show_default=True,
              help='Begin with this line, where another import has ended.')
@click.pass_obj
def importJobs(configurationPath, file, path, first):
    """Add the jobs and schedules that "export" wrote to FILE.

    FILE is - for the standard input.  A job keeps its id if this is free; else a line says the old id and the new one.
    A job with a key that is there already is not added again.  Each 1000 lines are one transaction.  A mistake is
    named with its line: then nothing of that transaction is stored, and the message says where to go on.

    \b
    Examples:
      $ remotetask -C new.conf import jobs.jsonl
      1392637175 -> 1804289383
      $ gunzip < jobs.gz | remotetask -C new.conf import - --service /site1/Films
    """
    with opened(configurationPath) as db, _source(file) as source:
        makeRoot(db)
        servicePath, schedules, manager = _pathOf(db, path), {}, transaction.TransactionManager(explicit=True)
        count, there = 0, 0
        with contextlib.closing(db.open(manager)) as connection, _tellingWhere(first) as position:
            for batch in _batches(source, first):
                function = functools.partial(_importBatch, connection, servicePath, batch, schedules)
                for one in transact(manager, function, ATTEMPTS):
                    if one.isSchedule:
                        schedules[one.old] = one.new
                    there += one.wasThere
                    count += not one.wasThere
                    if one.old != one.new:
                        click.echo(f'{one.old} -> {one.new}')
                position.next = batch[-1][0] + 1
    click.echo(f'imported {counted(count, "job")}' + (f'; {counted(there, "job")} there already' if there else ''),
               err=True)


class _Position:
    """How far an import has come."""

    next = 0            # the number of the first line that is not known to be stored


@contextlib.contextmanager
def _tellingWhere(first):
    """Give the `_Position`; when the block fails, say where to go on.  `first` is the first line."""
    position = _Position()
    try:
        yield position
    except BaseException:
        if position.next > first:
            click.echo(f'all before line {position.next} is imported: go on with --from-line {position.next}', err=True)
        raise


@contextlib.contextmanager
def _source(file):
    if file == '-':
        yield sys.stdin.buffer
        return
    try:
        with open(file, 'rb') as source:
            yield source
    except OSError as error:
        raise CommandFailure(f'{file} cannot be read: {error.strerror or error}', BAD_INPUT) from error


def _batches(source, first):
    """Yield the batches of a binary file from a line on, lists of pairs of a number and a line as bytes."""
    number, size, batch = 0, 0, []
    while line := source.readline(LINE_BYTES + 1):
        number += 1
        if len(line) > LINE_BYTES:
            raise CommandFailure(f'line {number}: it has more than {LINE_BYTES} bytes', BAD_INPUT)
        if number < first or not line.strip():
            continue
        batch.append((number, line))
        size += len(line)
        if len(batch) == BATCH_LINES or size > BATCH_BYTES:
            yield batch
            size, batch = 0, []
    if batch:
        yield batch


def _importBatch(connection, path, batch, schedules):
    """Import a batch in the current transaction; return the `transfer.Imported`.  Raise `CommandFailure`."""
    service = atPath(connection.root()[ROOT_NAME], path)
    tasks, found, done, now = AddableTasks(service), dict(schedules), [], time.time()
    for number, line in batch:
        try:
            one = transfer.imported(service, _parsed(line), found, functools.partial(checkJob, tasks), now)
        except (ValueError, RemoteTaskError, RecursionError) as error:
            raise CommandFailure(f'line {number}: {error}', BAD_INPUT) from error
        if one.isSchedule:
            found[one.old] = one.new
        done.append(one)
    act = notes.Act('import', tuple(one.new for one in done if not one.wasThere), path=pathText(path))
    notes.write(connection.transaction_manager.get(), [act], osUser())
    return done


def _parsed(line):
    try:
        return json.loads(line, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise ValueError('it is not encoded in UTF-8') from error
    except json.JSONDecodeError as error:
        raise ValueError(f'it is no JSON: {error}') from error


def _refuse(name):
    raise ValueError(f'{name} is no JSON')


COMMANDS = (exportJobs, importJobs)
