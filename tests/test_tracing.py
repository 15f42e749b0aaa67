"""Traces, with the SDK of OpenTelemetry: spans of jobs that are added and run, and what is stored of them."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import http.client
import unittest
import xmlrpc.client
from unittest import mock

import zope.component.testing
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from ZODB.DB import DB
from ZODB.MappingStorage import MappingStorage
from zope.component import provideUtility

from lovely.remotetask.errors import TaskError
from lovely.remotetask.errors import UnknownTask
from lovely.remotetask.execution.command import CommandTask
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from test_client import FrontendCase


TRACE, SPAN = '0af7651916cd43dd8448eb211c80319c', 'b7ad6b7169203331'
CALLER = f'00-{TRACE}-{SPAN}-01'


@contextlib.contextmanager
def recording(sampler=ALWAYS_ON):
    """Record the spans of this process; give what they are exported to."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=sampler)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # A process sets one provider and keeps it; the tests of other modules are to have none.
    with mock.patch.object(trace, '_TRACER_PROVIDER', provider):
        yield exporter
    provider.shutdown()


def textOf(context):
    return f'00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}'


class TestSpans(unittest.TestCase):

    def setUp(self):
        self.addCleanup(zope.component.testing.tearDown)
        self.fails = 0
        provideUtility(SimpleTask(self.run_, retryPolicy={'attempts': 2, 'base': 0}), name='encode')
        provideUtility(SimpleTask(lambda input: input), name='echo')
        self.db = DB(MappingStorage())
        self.addCleanup(self.db.close)
        install(self.db)
        connection = self.db.open()
        self.addCleanup(connection.close)
        self.addCleanup(connection.transaction_manager.abort)
        self.service = connection.root()['Application']['TaskService']

    def run_(self, input):
        if self.fails:
            self.fails -= 1
            raise ValueError('no such film')
        return input

    def test_a_run_is_linked_to_the_adding(self):
        with recording() as exporter:
            jobid = self.service.add('encode', 'x', request='r1')
            self.service.process()
        send, process = exporter.get_finished_spans()
        self.assertEqual((send.name, send.kind), ('send encode', trace.SpanKind.PRODUCER))
        self.assertEqual(dict(send.attributes), {
            'messaging.system': 'lovely.remotetask', 'messaging.destination.name': 'TaskService',
            'messaging.operation.name': 'send', 'messaging.operation.type': 'send', 'remotetask.task': 'encode',
            'messaging.message.id': str(jobid)})
        self.assertEqual(self.service.jobs[jobid].traceparent, textOf(send.context))
        self.assertEqual((process.name, process.kind), ('process encode', trace.SpanKind.CONSUMER))
        self.assertIsNone(process.parent)
        self.assertEqual([link.context.span_id for link in process.links], [send.context.span_id])
        self.assertNotEqual(process.context.trace_id, send.context.trace_id)
        self.assertEqual(process.status.status_code, trace.StatusCode.UNSET)
        self.assertEqual({name: process.attributes[name] for name in (
            'remotetask.attempt', 'remotetask.request', 'messaging.message.id', 'messaging.operation.name')}, {
                'remotetask.attempt': 1, 'remotetask.request': 'r1', 'messaging.message.id': str(jobid),
                'messaging.operation.name': 'process'})

    def test_each_attempt_has_a_span(self):
        self.fails = 1
        with recording() as exporter:
            self.service.add('encode', now=0)
            self.service.process(0)
            self.service.process(1)
        failed, completed = exporter.get_finished_spans()[1:]
        self.assertEqual([span.attributes['remotetask.attempt'] for span in (failed, completed)], [1, 2])
        self.assertEqual(failed.attributes['error.type'], 'ValueError')
        self.assertEqual(failed.status.status_code, trace.StatusCode.ERROR)
        self.assertEqual(failed.events[0].attributes['exception.message'], 'no such film')
        self.assertNotIn('error.type', completed.attributes)

    def test_it_is_a_part_of_the_application_s_trace(self):
        with recording() as exporter, trace.get_tracer('shop').start_as_current_span('order'):
            self.service.add('encode')
        send, order = exporter.get_finished_spans()
        self.assertEqual(send.parent.span_id, order.context.span_id)

    def test_many_jobs_have_one_span(self):
        with recording() as exporter:
            first, second = self.service.addMany([{'task': 'encode'}, {'task': 'encode'}])
            self.service.addMany([{'task': 'encode'}, {'task': 'echo'}])
        same, different = exporter.get_finished_spans()
        self.assertEqual((same.name, same.attributes['messaging.batch.message_count']), ('send encode', 2))
        self.assertEqual(different.name, 'send')
        self.assertEqual({self.service.jobs[jobid].traceparent for jobid in (first, second)}, {textOf(same.context)})

    def test_what_is_refused_has_no_span(self):
        with recording() as exporter:
            with self.assertRaises(UnknownTask):
                self.service.add('encoed')
        self.assertEqual(exporter.get_finished_spans(), ())

    def test_nothing_is_stored_where_nothing_is_recorded(self):
        with recording(ALWAYS_OFF) as exporter:
            jobs = [self.service.add('encode')]
            self.service.process()
        jobs.append(self.service.add('encode'))         # and without a provider
        self.service.process()
        self.assertEqual([self.service.jobs[jobid].row.more for jobid in jobs], [None, None])
        self.assertEqual(exporter.get_finished_spans(), ())

    def test_jobs_of_a_schedule_are_linked_to_its_adding(self):
        with recording() as exporter:
            self.service.addCronJob('encode', minute=(0,), newJobs=True, now=0)
            self.service.process(0)
            self.service.process(3600)
        send, process = exporter.get_finished_spans()
        self.assertEqual([link.context.span_id for link in process.links], [send.context.span_id])

    def test_what_a_task_does_is_a_part_of_its_run(self):
        provideUtility(SimpleTask(lambda service, jobid, input: service.add('echo')), name='parent')
        provideUtility(CommandTask('printenv TRACEPARENT'), name='program')
        with recording() as exporter:
            self.service.add('parent')
            printed = self.service.add('program')
            self.service.process()
        spans = {span.name: span for span in exporter.get_finished_spans()}
        self.assertEqual(spans['send echo'].parent.span_id, spans['process parent'].context.span_id)
        self.assertEqual(self.service.getResult(printed)['output'].strip(), textOf(spans['process program'].context))

    def test_a_task_error_is_an_error(self):
        provideUtility(SimpleTask(self.refuse), name='refuse')
        with recording() as exporter:
            self.service.add('refuse')
            self.service.process()
        self.assertEqual(exporter.get_finished_spans()[1].attributes['error.type'], 'TaskError')

    def refuse(self, input):
        raise TaskError('as asked')


class TestCalls(FrontendCase):
    """The trace context comes by a header of the call."""

    level = 2

    def add(self, traceparent):
        """Add a job by a call with that header; return its trace context."""
        connection = http.client.HTTPConnection(*self.frontend.address)
        self.addCleanup(connection.close)
        connection.request('POST', '/', xmlrpc.client.dumps(('echo', 1), 'add'),
                           {'Content-Type': 'text/xml', 'traceparent': traceparent})
        (jobid,), _ = xmlrpc.client.loads(connection.getresponse().read())
        with self.db.transaction() as db:
            return db.root()['/'].jobs[jobid].traceparent

    def test_it_is_passed_on(self):
        """A front end that records nothing does not end the trace of one who does."""
        self.assertEqual(self.add(CALLER), CALLER)

    def test_one_that_is_not_recorded_or_no_context_at_all(self):
        for text in (f'00-{TRACE}-{SPAN}-00', f'01-{TRACE}-{SPAN}-01', f'00-{"0" * 32}-{SPAN}-01',
                     f'00-{TRACE}-{"0" * 16}-01', f'00-{TRACE.upper()}-{SPAN}-01', f'{CALLER}, {CALLER}', CALLER * 100,
                     '<script>', ''):
            with self.subTest(text=text[:40]):
                self.assertIsNone(self.add(text))

    def test_a_front_end_that_records(self):
        with recording() as exporter:
            stored = self.add(CALLER)
        send, = exporter.get_finished_spans()
        self.assertEqual((f'{send.context.trace_id:032x}', f'{send.parent.span_id:016x}'), (TRACE, SPAN))
        self.assertEqual(stored, textOf(send.context))

    def test_the_client_sends_it(self):
        with recording() as exporter:
            with trace.get_tracer('shop').start_as_current_span('order'):
                jobid = self.client.add('echo', 1)
            self.process()
        send, order, process = exporter.get_finished_spans()
        self.assertEqual(send.parent.span_id, order.context.span_id)
        self.assertEqual((send.name, process.links[0].context.span_id), ('send echo', send.context.span_id))
        self.assertEqual(process.attributes['messaging.message.id'], str(jobid))
