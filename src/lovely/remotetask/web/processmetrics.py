"""Numbers for Prometheus that a process has of itself, and the WSGI callable that serves them in one without pages.
"""
# SPDX-License-Identifier: ZPL-2.1
import platform

import webob
from prometheus_client import CollectorRegistry
from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.core import InfoMetricFamily

from lovely.remotetask.common.counts import COUNTERS
from lovely.remotetask.common.counts import DURATIONS
from lovely.remotetask.common.counts import counts
from lovely.remotetask.common.release import release
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.web.metrics import CONTENT_TYPE
from lovely.remotetask.web.metrics import PREFIX
from lovely.remotetask.web.metrics import buckets
from lovely.remotetask.web.metrics import textOf
from lovely.remotetask.web.security import HEADERS
from lovely.remotetask.web.security import Guard
from lovely.remotetask.web.security import NotLocal
from lovely.remotetask.xmlrpc.access import Throttled
from lovely.remotetask.xmlrpc.access import Unauthorized
from lovely.remotetask.xmlrpc.access import checkExposure


#: Memory, processor time and open files, as all exporters name them.
_process = ProcessCollector(registry=CollectorRegistry())


def families():
    """Return the metric families of this process."""
    build = {'version': release(), 'python': platform.python_version()}
    found = [InfoMetricFamily(PREFIX + 'build', 'What runs here', value=build), *_process.collect()]
    for name, series in counts.numbers().items():
        text, labels = COUNTERS[name]
        family = CounterMetricFamily(PREFIX + name, text, labels=labels)
        for values, number in series.items():
            family.add_metric(values, number)
        found.append(family)
    for name, series in counts.durations().items():
        text, labels = DURATIONS[name]
        family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
        for values, (seconds, classes) in series.items():
            family.add_metric(values, buckets(classes), seconds)
        found.append(family)
    return found


class ProcessMetrics:
    """Answers /metrics, and nothing else, as WSGI has it; it never asks the database."""

    def __init__(self, users=None):
        """Answer users who are not limited to some tasks or services; without users, answer this machine.

        users -- as for `application.application`.
        """
        self._guard = Guard(users, None)

    def __call__(self, environ, start_response):
        """Answer a request."""
        response = self._answer(webob.Request(environ))
        response.headers.update(HEADERS)
        response.headers['Cache-Control'] = 'no-store'
        return response(environ, start_response)

    def _answer(self, request):
        if request.path_info != '/metrics':
            return _refused(404, 'there is /metrics only')
        if request.method not in ('GET', 'HEAD'):
            return _refused(405, 'it can be read only')
        try:
            caller = self._guard.callerOf(request)
        except (Unauthorized, Throttled) as error:
            counts.add('logins_refused', 'metrics')
            response = _refused(401 if isinstance(error, Unauthorized) else 429, str(error))
            if isinstance(error, Unauthorized):
                response.headers['WWW-Authenticate'] = 'Basic realm="remote tasks", charset="UTF-8"'
            return response
        except NotLocal as error:
            return _refused(403, str(error))
        if caller.tasks is not None or caller.services is not None:
            return _refused(403, 'they are of all tasks and services')
        return webob.Response(textOf(families()), headerlist=[('Content-Type', CONTENT_TYPE)])


def _refused(status, sentence):
    return webob.Response(f'{sentence}\n', status=status, content_type='text/plain', charset='utf-8')


def checkReach(address, hasUsers, section):
    """Raise `ConfigurationError` if other machines could reach the metrics at an address, a pair of host and port.

    hasUsers -- whether they ask for users.
    section -- the name of the section that has the address.
    """
    try:
        checkExposure(address, hasUsers, hasCertificate=False)
    except ConfigurationError:
        raise ConfigurationError(
            f'the metrics would be open to other machines at {address[0]}:{address[1]}, and speak no TLS: listen on '
            f'127.0.0.1, or add "allow-insecure on" to <{section}>') from None
