"""Numbers for Prometheus: what the counters and indexes of the database say, the same from whichever process tells it.

Nothing here scans jobs.  Labels are bounded: no id, no key, no user; hosts are labels of what concerns hosts only.
"""
# SPDX-License-Identifier: ZPL-2.1
import importlib.metadata
import itertools
import platform

from prometheus_client import CollectorRegistry
from prometheus_client import Counter
from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.core import InfoMetricFamily

from lovely.remotetask.database.packing import PACKED
from lovely.remotetask.storage.ready import fetch


#: The type of what `text` returns.
CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

#: Entries of the calendar that are looked at for how late it is; those of changed schedules are stale.
LOOKED_AT = 100

#: Name -> what it is, and its labels besides the service.
GAUGES = {
    'jobs': ('How many jobs there are', ('status',)),
    'oldest_ready_seconds': ('For how long the job waits that waits longest, retries left out; 0 when none waits', ()),
    'jobs_per_second': ('How many jobs were completed or failed for good in the last minute, each second', ()),
    'schedules_late_seconds': ('By how much the schedule is late that is latest; 0 when none is', ()),
    'paused': ('Whether processing is paused', ()),
    'hosts': ('How many processing hosts live', ()),
    'host_threads': ('How many jobs a host can run at a time', ('host',)),
    'host_busy': ('How many of these have a job', ('host',)),
    'host_heartbeat_age_seconds': ('How long ago a host has written its ledger', ('host',)),
}
#: The same of what concerns the database as a whole.
DATABASE_GAUGES = {
    'database_bytes': 'How large the database is',
    'last_pack_seconds': 'How long ago the database was packed by one of our processes',
}
#: What this process counts.
COUNTERS = {
    'page_requests': ('Requests for pages that were answered', ('code',)),
    'logins_refused': ('Requests for pages with a wrong password, or none', ()),
}
PREFIX = 'remotetask_'


class Metrics:
    """What is told of a database and its services, and what this process has counted."""

    def __init__(self):
        self._registry = CollectorRegistry()
        self._counters = {name: Counter(PREFIX + name, text, labels, registry=self._registry)
                          for name, (text, labels) in COUNTERS.items()}

    def count(self, name, *labels):
        """Count one more of `COUNTERS`."""
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc()

    def text(self, connection, services, now):
        """Return what Prometheus reads, bytes.

        connection -- of the database.
        services -- of it, pairs of path and `ITaskService`.
        now -- UTC seconds.
        """
        return generate_latest(_Families(families(connection, services, now))) + generate_latest(self._registry)


class _Families:
    """Has metric families as a registry has them."""

    def __init__(self, found):
        self._found = found

    def collect(self):
        return self._found


def families(connection, services, now):
    """Return the metric families of the database; arguments as for `Metrics.text`."""
    gauges = {name: GaugeMetricFamily(PREFIX + name, text, labels=('service', *labels))
              for name, (text, labels) in GAUGES.items()}
    for path, service in services:
        for name, labels, value in measured(service, now):
            gauges[name].add_metric((path, *labels), value)
    db, last = connection.db(), connection.root().get(PACKED)
    values = {'database_bytes': db.getSize(), 'last_pack_seconds': None if last is None else max(0.0, now - last)}
    found = list(gauges.values())
    found += [GaugeMetricFamily(PREFIX + name, DATABASE_GAUGES[name], value=value)
              for name, value in values.items() if value is not None]
    try:
        version = importlib.metadata.version('lovely.remotetask')
    except importlib.metadata.PackageNotFoundError:
        version = 'unreleased'
    build = {'version': version, 'python': platform.python_version()}
    return [*found, InfoMetricFamily(PREFIX + 'build', 'What runs here', value=build)]


def measured(service, now):
    """Yield what is known of a service: name of the gauge, labels, and value."""
    statistics = service.getStatistics(now)
    for status, count in statistics['counts'].items():
        yield 'jobs', (status,), count
    oldest = statistics['oldestWaiting']
    yield 'oldest_ready_seconds', (), 0.0 if oldest is None else max(0.0, now - oldest)
    yield 'jobs_per_second', (), statistics['throughput']
    yield 'schedules_late_seconds', (), lateness(service, now)
    yield 'paused', (), float(statistics['paused'])
    hosts = statistics['hosts']
    yield 'hosts', (), len(hosts)
    for host in hosts:
        seen = service.ledgers[host['name']]._p_mtime
        yield 'host_threads', (host['name'],), host['threads']
        yield 'host_busy', (host['name'],), min(host['jobs'], host['threads'])
        yield 'host_heartbeat_age_seconds', (host['name'],), 0.0 if seen is None else max(0.0, now - seen)


def lateness(service, now):
    """Return by how many seconds the latest schedule is late; 0.0 when none is."""
    entries = list(itertools.islice(service.schedule.due(now), LOOKED_AT))
    for (due, _), (_, job) in zip(entries, fetch(service, [jobid for _, jobid in entries])):
        if job is not None and job.due == due:
            return max(0.0, now - due / 1e6)
    return 0.0
