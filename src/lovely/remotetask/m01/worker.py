"""Workers of a remote processor: processors of its services, in threads with the names that m01.remote gives them."""
# SPDX-License-Identifier: ZPL-2.1
import logging
from collections.abc import Mapping

from lovely.remotetask.common.checks import check
from lovely.remotetask.database.sites import pathOf
from lovely.remotetask.execution import started
from lovely.remotetask.m01.job import timeOf
from lovely.remotetask.processor import MultiProcessor
from lovely.remotetask.processor import SimpleProcessor


log = logging.getLogger('m01.remote')

_TITLES = {'worker': 'Processor', 'scheduler': 'Scheduler'}


def namesOf(jobQuery):
    """Return the names of factories that a query of jobs asks for; None for all.

    Raise `ValueError` for any other attribute than jobName: the queue is no index of all attributes.
    """
    if not jobQuery:
        return None
    check('jobQuery', jobQuery, isinstance(jobQuery, Mapping), "a dict, as {'jobName': 'convert'}")
    if set(jobQuery) != {'jobName'}:
        raise ValueError(f'jobQuery: jobs can be chosen by jobName only, not by {", ".join(sorted(set(jobQuery)))}; '
                         'a remote processor of its own separates what else is to be kept apart')
    names = jobQuery['jobName']
    names = [names] if isinstance(names, str) else names
    areNames = isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names)
    check('jobQuery', jobQuery, areNames, 'a dict with the name of a factory, or a list of names')
    return tuple(names)


def _arguments(remoteProcessor, service):
    """Return the arguments of a processor of one of the services."""
    if remoteProcessor._p_jar is None or service._p_oid is None:
        raise ValueError('the remote processor must be committed to a database before it can be started')
    return remoteProcessor._p_jar.db(), pathOf(service)


class SimpleJobWorker(SimpleProcessor):
    """Processes one job at a time, in the order in which they were added.

    jobQuery -- see `IRemoteProcessor.pullNextJob`.
    waitTime -- seconds between two looks at a database that wakes nobody.
    maxThreads -- is for `MultiJobWorker`.
    """

    def __init__(self, remoteProcessor, jobQuery=None, waitTime=1.0, maxThreads=1):
        super().__init__(*_arguments(remoteProcessor, remoteProcessor.service), waitTime=waitTime,
                         tasks=namesOf(jobQuery))

    doProcessNextJob = SimpleProcessor.processNext


class MultiJobWorker(MultiProcessor):
    """Processes several jobs at a time; the arguments are those of `SimpleJobWorker`."""

    def __init__(self, remoteProcessor, jobQuery=None, waitTime=1.0, maxThreads=5):
        super().__init__(*_arguments(remoteProcessor, remoteProcessor.service), waitTime=waitTime,
                         maxThreads=maxThreads, tasks=namesOf(jobQuery))

    doProcessNextJob = MultiProcessor.processNext

    def doPullNextJob(self):
        """Claim the next job, commit that, and return its id, a text; None when there is none."""
        jobid = self.claimNextJob()
        return None if jobid is None else str(jobid)

    def doProcessJob(self, jobid):
        """Process a job that `doPullNextJob` has given."""
        return self.processNext(int(jobid))


class SchedulerWorker(SimpleProcessor):
    """Adds the jobs of the scheduler items when they are due.

    waitTime -- seconds between two looks at a database that wakes nobody.
    """

    def __init__(self, remoteProcessor, waitTime=1.0):
        super().__init__(*_arguments(remoteProcessor, remoteProcessor.schedules), waitTime=waitTime)

    doScheduleNextJob = SimpleProcessor.processNext


def start(remoteProcessor, kind, name, factory, arguments):
    """Start a worker in this process, and log that.  Nothing happens when it runs.

    kind -- 'worker' or 'scheduler'.
    name -- of its thread.
    factory, arguments -- what makes it of the remote processor, and keyword arguments for that.
    """
    _arguments(remoteProcessor, remoteProcessor.service)            # raises when it is in no database
    worker = started.start(started.keyOf(remoteProcessor, kind), lambda: factory(remoteProcessor, **arguments))
    if worker is not None:
        worker.thread.name = name
    log.info('%s %r %s', _TITLES[kind], name, 'already running' if worker is None else 'started')


def stop(remoteProcessor, kind, name):
    """Stop the worker of that kind, if it runs in this process, and log that."""
    if started.stop(started.keyOf(remoteProcessor, kind)):
        log.info('%s %r stopped', _TITLES[kind], name)


def startedAt(remoteProcessor, kind):
    """Return when the worker of that kind was started in this process, a `datetime`; None when it does not run."""
    worker = started.running(started.keyOf(remoteProcessor, kind))
    return None if worker is None else timeOf(worker.cycle.owner['since'])
