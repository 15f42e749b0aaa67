"""Numbers for Prometheus from the counters and indexes of the database: all processes tell the same.

Nothing here scans jobs.  Labels are bounded: no id, no key, no user; only numbers about hosts have hosts as labels.
What one process counts of itself is in `processmetrics`, under other names.
"""
# SPDX-License-Identifier: ZPL-2.1
import itertools
import logging

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from lovely.remotetask.common.counts import BOUNDS
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.packing import PACKED
from lovely.remotetask.interfaces import FINAL
from lovely.remotetask.storage.ready import fetch
from lovely.remotetask.storage.tallies import LOST
from lovely.remotetask.storage.tallies import RETRIED


log = logging.getLogger('lovely.remotetask')

#: The type of what `text` returns.
CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

#: Entries of the calendar that are looked at for how late it is; those of changed schedules are stale.
LOOKED_AT = 100

#: Name -> what it is, and its labels besides the service.
GAUGES = {
    'service_usable': ('Whether the process that is asked can work with the service; all else is left out if not', ()),
    'jobs': ('How many jobs there are', ('status',)),
    'oldest_ready_seconds': ('For how long the job waits that waits longest, retries left out; 0 when none waits', ()),
    'longest_running_seconds': ('For how long the oldest run has been going on; 0 when none is known', ()),
    'jobs_stranded': ('How many jobs no host can run that has looked at them', ()),
    'jobs_per_second': ('How many jobs were completed or failed for good in the last minute, each second', ()),
    'schedules_late_seconds': ('By how much the schedule is late that is latest; 0 when none is', ()),
    'paused': ('Whether processing is paused', ()),
    'hosts': ('How many processing hosts live', ()),
    'host_threads': ('How many jobs a host can run at a time', ('host',)),
    'host_busy': ('How many of these have a job', ('host',)),
    'host_info': ('Which release a host has: always 1', ('host', 'release')),
    'host_heartbeat_age_seconds': ('How long ago a host has written its ledger', ('host',)),
}
#: The same of what concerns the database as a whole.
DATABASE_GAUGES = {
    'database_bytes': 'How large the database is',
    'last_pack_seconds': 'How long ago the database was packed by one of our processes',
}
#: The same of the process that is asked.
PROCESS_GAUGES = {
    'ready': 'Whether the pages can do their work, as /ready says; without their database they tell nothing of it',
}
#: What the database counts, exactly and for ever: see `ITaskService.getTaskStatistics`.
TASK_COUNTERS = {
    'jobs_finished': ('Jobs that ended, and runs of cron jobs', ('task', 'status')),
    'runs_retried': ('Runs that failed and were tried again', ('task',)),
    'runs_lost': ('Claims that were lost with their host', ('task',)),
}
#: The same of durations.
TASK_DURATIONS = {
    'job_run_seconds': ('How long runs took', ('task',)),
    'job_wait_seconds': ('For how long jobs were ready before their runs', ('task',)),
}
PREFIX = 'remotetask_'


def textOf(families):
    """Return what Prometheus reads, bytes, for metric families."""
    return generate_latest(_Families(families))


class _Families:
    """Has metric families as a registry has them."""

    def __init__(self, found):
        self._found = found

    def collect(self):
        return self._found


def families(connection, services, now, unusable):
    """Return the metric families of a database.

    connection -- of the database.
    services -- of it, pairs of path and `ITaskService`.
    now -- UTC seconds.
    unusable -- paths of those that this process cannot work with.
    """
    gauges = {name: GaugeMetricFamily(PREFIX + name, text, labels=('service', *labels))
              for name, (text, labels) in GAUGES.items()}
    usable, tasks = dict.fromkeys(unusable, 0.0), []
    for path, service in services:
        try:
            rows, tallies = list(measured(service, now)), service.getTaskStatistics()
        except Exception as error:              # what a damaged record leads to is open
            if isDatabaseError(error):
                raise
            log.exception('the task service %s cannot be measured', path)
            usable[path] = 0.0
            continue
        usable[path] = 1.0
        tasks.append((path, tallies))
        for name, labels, value in rows:
            gauges[name].add_metric((path, *labels), value)
    for path, value in usable.items():
        gauges['service_usable'].add_metric((path,), value)
    db, last = connection.db(), connection.root().get(PACKED)
    values = {'database_bytes': db.getSize(), 'last_pack_seconds': None if last is None else max(0.0, now - last)}
    found = [*gauges.values(), *taskFamilies(tasks)]
    found += [GaugeMetricFamily(PREFIX + name, DATABASE_GAUGES[name], value=value)
              for name, value in values.items() if value is not None]
    return found


def readiness(isReady):
    """Return the metric family that says whether the pages can do their work."""
    return GaugeMetricFamily(PREFIX + 'ready', PROCESS_GAUGES['ready'], value=float(isReady))


def taskFamilies(services):
    """Return the metric families of the tasks of services.

    services -- pairs of path and what `ITaskService.getTaskStatistics` returns.
    """
    counters = {name: CounterMetricFamily(PREFIX + name, text, labels=('service', *labels))
                for name, (text, labels) in TASK_COUNTERS.items()}
    durations = {name: HistogramMetricFamily(PREFIX + name, text, labels=('service', *labels))
                 for name, (text, labels) in TASK_DURATIONS.items()}
    for path, tallies in services:
        for task, tally in tallies.items():
            for status in FINAL:
                counters['jobs_finished'].add_metric((path, task, status), tally.outcomes[status])
            counters['runs_retried'].add_metric((path, task), tally.outcomes[RETRIED])
            counters['runs_lost'].add_metric((path, task), tally.outcomes[LOST])
            for name, found in (('job_run_seconds', tally.run), ('job_wait_seconds', tally.wait)):
                durations[name].add_metric((path, task), buckets(found.classes), found.seconds)
    return [*counters.values(), *durations.values()]


def buckets(classes):
    """Return the buckets of a histogram for Prometheus: pairs of an upper bound, and the number of all values up to it.

    classes -- how many there were in each class of `counts.BOUNDS`, and above the last one.
    """
    return list(zip([*map(floatToGoString, BOUNDS), '+Inf'], itertools.accumulate(classes)))


def measured(service, now):
    """Yield what is known of a service: name of the gauge, labels, and value."""
    statistics = service.getStatistics(now)
    for status, count in statistics['counts'].items():
        yield 'jobs', (status,), count
    for name, since in ('oldest_ready_seconds', 'oldestWaiting'), ('longest_running_seconds', 'longestRunning'):
        yield name, (), 0.0 if statistics[since] is None else max(0.0, now - statistics[since])
    yield 'jobs_stranded', (), statistics['stranded']
    yield 'jobs_per_second', (), statistics['throughput']
    yield 'schedules_late_seconds', (), lateness(service, now)
    yield 'paused', (), float(statistics['paused'])
    hosts = statistics['hosts']
    yield 'hosts', (), len(hosts)
    for host in hosts:
        seen = service.ledgers[host['name']]._p_mtime
        yield 'host_threads', (host['name'],), host['threads']
        yield 'host_busy', (host['name'],), min(host['jobs'], host['threads'])
        yield 'host_info', (host['name'], host['release'] or ''), 1.0
        yield 'host_heartbeat_age_seconds', (host['name'],), 0.0 if seen is None else max(0.0, now - seen)


def lateness(service, now):
    """Return by how many seconds the latest schedule is late; 0.0 when none is."""
    entries = list(itertools.islice(service.schedule.due(now), LOOKED_AT))
    for (due, _), (_, job) in zip(entries, fetch(service, [jobid for _, jobid in entries])):
        if job is not None and job.due == due:
            return max(0.0, now - due / 1e6)
    return 0.0
