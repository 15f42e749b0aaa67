"""Traces by OpenTelemetry: a span where jobs are added, and one for each run, linked to it.

A process records spans when it has imported `opentelemetry` and has set a tracer provider; else nothing here costs
anything.  Names follow the conventions for messaging, as far as they fit jobs.
"""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import contextvars
import re
import sys


NAME = 'lovely.remotetask'

# https://www.w3.org/TR/trace-context/, version 00; its last byte has the flag "sampled".
_TRACEPARENT = re.compile('00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]([0-9a-f])')

_caller = contextvars.ContextVar('caller', default=None)


class Sending:
    """What becomes of jobs that are added: the trace context that they get."""

    def __init__(self, traceparent=None, span=None):
        """`traceparent` is a text of 55 characters, or None; `span` is that of the adding, or None."""
        self.traceparent, self._span = traceparent, span

    def added(self, jobids):
        """Tell the span what has been added."""
        if self._span is not None:
            if len(jobids) == 1:
                self._span.set_attribute('messaging.message.id', str(jobids[0]))
            else:
                self._span.set_attribute('messaging.batch.message_count', len(jobids))


@contextlib.contextmanager
def calledWith(traceparent):
    """Give jobs that are added in the block the trace context of a caller: the text of a header, or None."""
    token = _caller.set(traceparent if isSampled(traceparent) else None)
    try:
        yield
    finally:
        _caller.reset(token)


def isSampled(traceparent):
    """Return whether a text is a trace context of which spans are recorded."""
    match = traceparent is not None and _TRACEPARENT.fullmatch(traceparent)
    return bool(match and int(match[1], 16) & 1)


def isRecording():
    """Return whether this process may record spans."""
    return _api() is not None


def injected():
    """Return the trace context of the current span, a text; None when none is recorded."""
    api = _api()
    span = None if api is None else api.get_current_span()
    return _textOf(span) if span is not None and span.is_recording() else None


@contextlib.contextmanager
def sending(name, service):
    """Record the adding of jobs; give its `Sending`.

    name -- of their task; None for several.
    service -- the name of the service.
    """
    api, caller = _api(), _caller.get()
    if api is None:
        yield Sending(caller)
        return
    context = None                      # that of the current span
    if caller is not None and not api.get_current_span().get_span_context().is_valid:
        context = api.set_span_in_context(api.NonRecordingSpan(_spanContextOf(api, caller)))
    with _span(api, 'send', name, service, kind=api.SpanKind.PRODUCER, context=context) as span:
        yield Sending(_textOf(span) if span.is_recording() else None, span)


@contextlib.contextmanager
def processing(claim, service, host):
    """Record a run.

    claim -- the `Claim` on the job; its span is a trace of its own, which is linked to the one that added the job.
    service, host -- the names of the service and of the processing host.
    """
    api = _api()
    links = [] if claim.traceparent is None else [api.Link(_spanContextOf(api, claim.traceparent))]
    attributes = {'messaging.message.id': str(claim.jobid), 'remotetask.attempt': claim.attempt,
                  'remotetask.host': host}
    if claim.request is not None:
        attributes['remotetask.request'] = claim.request
    noParent = api.set_span_in_context(api.INVALID_SPAN)
    with _span(api, 'process', claim.task, service, kind=api.SpanKind.CONSUMER, context=noParent, links=links,
               more=attributes):
        yield


def noteError(error):
    """Note an exception on the span of the current run."""
    if (api := _api()) is not None:
        span = api.get_current_span()
        span.record_exception(error)
        span.set_status(api.Status(api.StatusCode.ERROR, f'{type(error).__name__}'))
        span.set_attribute('error.type', type(error).__qualname__)


def _api():
    """Return the module `opentelemetry.trace`; None when nobody has set a provider that records."""
    api = sys.modules.get('opentelemetry.trace')
    return None if api is None or isinstance(api.get_tracer_provider(), api.ProxyTracerProvider) else api


def _span(api, operation, name, service, *, kind, context, links=(), more=None):
    attributes = {'messaging.system': NAME, 'messaging.destination.name': service or '/',
                  'messaging.operation.name': operation, 'messaging.operation.type': operation, **(more or {})}
    if name is not None:
        attributes['remotetask.task'] = name
    return api.get_tracer(NAME).start_as_current_span(
        operation if name is None else f'{operation} {name}', context=context, kind=kind, attributes=attributes,
        links=links)


def _textOf(span):
    """Return the trace context of a span as text."""
    context = span.get_span_context()
    return f'00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}'


def _spanContextOf(api, traceparent):
    """Return the `SpanContext` that a text stands for."""
    _, trace, span, flags = traceparent.split('-')
    return api.SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=api.TraceFlags(int(flags, 16)))
