"""The command that runs one job in its own process."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import pdb  # noqa: T100 -- it is what the option is for
import traceback

import click

from lovely.remotetask.cli import calling
from lovely.remotetask.cli import local
from lovely.remotetask.cli.burst import opened
from lovely.remotetask.cli.failure import JOB_FAILED
from lovely.remotetask.cli.failure import CommandFailure
from lovely.remotetask.cli.output import printResult
from lovely.remotetask.common.process import keepFilesPrivate
from lovely.remotetask.common.process import osUser
from lovely.remotetask.config.autostart import servicePaths
from lovely.remotetask.config.zcml import loadSiteOf
from lovely.remotetask.database.storedfiles import valueOf
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.processing.hand_run import HandRun
from lovely.remotetask.statuses import COMPLETED
from lovely.remotetask.statuses import CRONJOB
from lovely.remotetask.statuses import ERROR
from lovely.remotetask.xmlrpc.calls import RESULT_SIZE
from lovely.remotetask.xmlrpc.results import plain


@click.command('run-here')
@calling.jobid
@click.option('--pdb', 'debugs', is_flag=True,
              help='Enter the debugger where the task fails.  A task that asks for a process of its own runs in this '
                   'one then.')
@click.pass_obj
def runHere(configurationPath, jobid, debugs):
    """Run the job ID in this process, and print its result.

    Whatever it waits for, it is run now; also one that ended in an error.  It is a run as any other: other hosts leave
    the job alone meanwhile, the outcome is stored, and what the policy says follows a failure.  It has no time limit.
    The database has to be one for many processes, such as ZEO, or not in use.

    \b
    Examples:
      $ remotetask -C remotetask.conf run-here 1392637175
      {"hello": "world"}
      $ remotetask -C remotetask.conf run-here 1392637178 --pdb

    \b
    Exit codes:
      4    the job failed; it is told on the standard error output
    """
    keepFilesPrivate()
    configuration = local.loadExisting(configurationPath)
    configuration.setUpLogging()
    with contextlib.closing(local.openDatabase(configuration)) as database:
        loadSiteOf(database.db, configuration.siteDefinition)
        path = _serviceOf(database.db, jobid)
        ran = HandRun(database.db, path, _debug if debugs else None, user=osUser()).run(jobid)
        with opened(database.db, path) as service:
            _printOutcome(service, service.jobs[ran])


def _debug(error):
    """Print the traceback of an exception, and enter the debugger where it was raised."""
    traceback.print_exception(error)
    pdb.post_mortem(error.__traceback__)


def _serviceOf(db, jobid):
    """Return the path of the service that has a job."""
    for path in servicePaths(db, [local.DEFAULT_AUTOSTART]):
        with opened(db, path) as service:
            if jobid in service.jobs:
                return path
    raise UnknownJob(jobid)


def _printOutcome(service, job):
    last = job.history[-1] if job.status == CRONJOB and job.history else None
    status = job.status if last is None else last.status
    if status == COMPLETED or job.status == CRONJOB and status != ERROR:
        printResult(job.id, plain(valueOf(job.stored('output')), RESULT_SIZE))
        return
    reason = job.error if job.error is not None or not job.errors else job.errors[-1].message
    if status == ERROR:
        raise CommandFailure(f'job {job.id} failed: {reason}', JOB_FAILED)
    raise CommandFailure(f'job {job.id} is {service.getStatus(job.id)}: {reason or "its outcome is not wanted"}',
                         JOB_FAILED)


COMMANDS = (runHere,)
