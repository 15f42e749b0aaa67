"""Requests that nobody would write, and values that nobody would send, by the thousand: always a proper answer.

The tests run some hundred examples each, the same ones each time.  REMOTETASK_FUZZ=20000 in the environment makes it so
many, and others each time; a fifth of it where each is a commit or a connection.
"""
# SPDX-License-Identifier: ZPL-2.1
import collections
import dataclasses
import enum
import functools
import gc
import http.client
import itertools
import logging
import math
import os
import random
import re
import statistics
import threading
import tracemalloc
import unittest
import xmlrpc.client
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from decimal import Decimal
from fractions import Fraction
from html import escape

from hypothesis import HealthCheck
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from zope.component import provideUtility

from lovely.remotetask import interfaces
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import findService
from lovely.remotetask.processor import SimpleProcessor
from lovely.remotetask.service import DEFAULT_SERVICE
from lovely.remotetask.service import install
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.xmlrpc import faults
from lovely.remotetask.xmlrpc.calls import CRON_OPTIONS
from lovely.remotetask.xmlrpc.calls import METHODS
from lovely.remotetask.xmlrpc.calls import NESTING
from lovely.remotetask.xmlrpc.faults import ParseError
from lovely.remotetask.xmlrpc.parser import parseCall
from lovely.remotetask.xmlrpc.results import CYCLIC
from lovely.remotetask.xmlrpc.results import TOO_DEEP
from lovely.remotetask.xmlrpc.results import dumpResponse
from servercase import ServerCase
from waits import PATIENCE


LONG = 'REMOTETASK_FUZZ' in os.environ
EXAMPLES = int(os.environ.get('REMOTETASK_FUZZ', 200))

fuzz = settings(max_examples=EXAMPLES, derandomize=not LONG, database=None, deadline=None, print_blob=LONG,
                report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
# What commits to the database, or connects.
slowFuzz = settings(fuzz, max_examples=max(100, EXAMPLES // 5))

CODES = {entry.code for entry in faults.TABLE}
# What callers must not be told, unless it is their own words.
INTERNAL = re.compile(r'Traceback|File "|\w+\.py\b|<class |\bat 0x|\b\w+(?:Error|Exception|Warning)\b|lovely\.')
# Of Python's types those that a call is made of.
PLAIN = {type(None), bool, int, float, str, bytes, datetime, Decimal, list, dict}


# Values and calls

CHARACTERS = st.characters(exclude_categories=('Cs', 'Cc'), exclude_characters='\ufffe\uffff',
                           include_characters='\t\n\r\x7f\x85\x9f')
TEXTS = st.text(CHARACTERS, max_size=20) | st.sampled_from([']]>', '<![CDATA[', '&amp;', ' ', '\r\n', '\U0010ffff'])
MOMENTS = st.datetimes().map(lambda moment: moment.replace(microsecond=0, fold=0))
WIRE_LEAVES = (st.none() | st.booleans() | st.integers(-2 ** 31, 2 ** 31 - 1) | TEXTS | st.binary(max_size=40) | MOMENTS
               | st.floats(allow_nan=False, allow_infinity=False))


def nestings(leaves):
    return st.recursive(leaves, lambda members: st.lists(members, max_size=4)
                        | st.dictionaries(TEXTS, members, max_size=4), max_leaves=12)


WIRE_VALUES = nestings(WIRE_LEAVES)


class Marshaller(xmlrpc.client.Marshaller):
    """Writes all ints of 64 bits, and carriage returns."""

    def dump_long(self, value, write):
        tag = 'int' if -2 ** 31 <= value < 2 ** 31 else 'i8'
        write(f'<value><{tag}>{value}</{tag}></value>')

    dispatch = {**xmlrpc.client.Marshaller.dispatch, int: dump_long}


def written(name, values):
    """Return the text of a call."""
    parameters = Marshaller('utf-8', True).dumps(tuple(values)).replace('\r', '&#13;')
    return (f'<?xml version="1.0"?>\n<methodCall>\n<methodName>{escape(name)}</methodName>\n{parameters}'
            '</methodCall>\n')


NAMES = st.sampled_from(sorted(METHODS))
CALLS = st.builds(written, NAMES, st.lists(WIRE_VALUES, max_size=3))


# Calls that are damaged

TAGS = ('methodCall', 'methodName', 'params', 'param', 'value', 'array', 'data', 'struct', 'member', 'name', 'int',
        'i1', 'i4', 'i8', 'boolean', 'double', 'string', 'base64', 'dateTime.iso8601', 'nil', 'ex:nil', 'fault',
        'methodResponse', 'float', 'bigdecimal', 'x:int', 'Int')
PIECES = (
    *(f'<{tag}>' for tag in TAGS), *(f'</{tag}>' for tag in TAGS), *(f'<{tag}/>' for tag in TAGS),
    '<value><int>1</int></value>', '<param><value>x</value></param>', '<params/>', '<value/>' * 3000,
    '<string xml:space="preserve" a="&lt;">', '<int xmlns="urn:x" xmlns:y="urn:y">', '<y:int>', '<a b="c" b="c">',
    '<' + 'x' * 70000 + '>', '<![CDATA[', ']]>', '<![CDATA[<int>]]>', '<!-- -- -->', '<!-- x -->', '<!--', '<?x y?>',
    '<?xml version="1.1"?>', '<?xml version="1.0" encoding="utf-16"?>', '<?xml version="1.0" standalone="yes"?>',
    '<!DOCTYPE methodCall>', '<!DOCTYPE m [<!ENTITY a "a"><!ENTITY b "&a;&a;">]>',
    '<!DOCTYPE m SYSTEM "file:///dev/zero">', '<!ENTITY x "y">', '&amp;', '&x;', '&a;', '&#0;', '&#13;', '&#xD800;',
    '&#xFFFE;', '&#x110000;', '&#99999999999;', '&', '<', '>', '"', '\x00', '\x0b', '\x1b', '\ud800',
    '\udfff', '\ufffe', '\ufeff', '\u0661', '\u2028',
    'é', '\U0001f600', ' ', '\r\n', '0', '-', '1' * 400, '9' * 5000, '1e999', '1e-999', 'NaN', '-0', '0x1', '1_0', '+1',
    '99999999999999999999', '20240230T00:00:00', '00000101T00:00:00', '20240101T23:59:60',
    '2024-01-01T23:59:59.5+01:00', '20240101T000000Z', '00010101T00:00:00+23:59', '99991231T23:59:59-23:59',
    'A===', '=', 'AA==AA==')
DECLARED = ('utf-8', 'UTF8', 'utf-16', 'UTF-16BE', 'utf-32', 'iso-8859-1', 'us-ascii', 'utf-7', 'idna', 'punycode',
            'base64', 'zlib', 'rot13', 'cp037', 'shift_jis', 'unicode_escape', 'undefined', 'x' * 500, '')
ENCODINGS = ('utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32', 'iso-8859-1', 'cp037', 'utf-7')
TOKEN = re.compile(r'<[^>]*>|&[^;]*;|[^<&]+|[<&]')


@st.composite
def damaged(draw):
    """A call that was well until things happened to it, as bytes."""
    tokens = TOKEN.findall(draw(CALLS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(tokens) - 1))
        other = draw(st.integers(0, len(tokens) - 1))
        what = draw(st.sampled_from((
            'drop', 'repeat', 'swap', 'truncate', 'insert', 'insert', 'replace', 'nest', 'text')))
        if what == 'drop':
            tokens[at:at + 1] = ['']
        elif what == 'repeat':
            tokens[at:at + 1] = [tokens[at]] * draw(st.sampled_from((2, 3, 1000)))
        elif what == 'swap':
            tokens[at], tokens[other] = tokens[other], tokens[at]
        elif what == 'truncate':
            del tokens[max(1, at):]
        elif what == 'insert':
            tokens.insert(at, draw(st.sampled_from(PIECES)))
        elif what == 'replace':
            tokens[at] = draw(st.sampled_from(PIECES))
        elif what == 'nest':
            opening, closing = draw(st.sampled_from((
                ('<value><array><data>', '</data></array></value>'),
                ('<value><struct><member><name>x</name>', '</member></struct></value>'), ('<x>', '</x>'))))
            depth = draw(st.sampled_from((1, NESTING - 1, NESTING, NESTING + 1, 2000)))
            tokens[at:other + 1] = [opening * depth, *tokens[at:other + 1], closing * depth]
        else:
            tokens.insert(at, draw(st.text(max_size=10)))
    text = ''.join(tokens)
    if draw(st.booleans()):
        declared = draw(st.sampled_from(DECLARED))
        text = text.replace('<?xml version="1.0"?>', f'<?xml version="1.0" encoding="{declared}"?>')
    encoding = draw(st.sampled_from(('utf-8',) * 8 + ENCODINGS))
    data = text.encode(encoding, 'replace' if encoding in ('iso-8859-1', 'cp037') else 'surrogatepass')
    return draw(mangled(data)) if draw(st.integers(0, 3)) == 0 else data


@st.composite
def mangled(draw, data):
    """The bytes with some of them gone, and others put in."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.sampled_from((0, 1, 2, 10, len(data))))
        data = data[:start] + draw(st.binary(max_size=4)) + data[end:]
    return data


def element(tag, content):
    return f'<{tag}>{"".join(content)}</{tag}>'


#: Well-formed documents of the right elements in the wrong places.
TREES = st.recursive(
    st.sampled_from(('', ' ', '1', 'x', '\n', 'add', '2147483648', 'AAAA', '20240101T00:00:00')),
    lambda members: st.builds(element, st.sampled_from(TAGS), st.lists(members, max_size=4)), max_leaves=20)
DOCUMENTS = st.builds(lambda *content: element('methodCall', content), TREES, TREES) | st.builds(
    lambda name, content: f'<methodCall><methodName>{name}</methodName><params>{content}</params></methodCall>',
    NAMES, TREES | st.lists(st.builds('<param><value>{}</value></param>'.format, TREES), max_size=3).map(''.join))

BODIES = damaged() | st.binary(max_size=200) | DOCUMENTS.map(str.encode)


# Calls that are well-formed, with arguments of all kinds

MEMBERS = st.sampled_from((
    *CRON_OPTIONS, 'task', 'input', 'startLater', 'key', 'timeLimit', 'retryPolicy', 'attempts', 'base',
    'factor', 'cap', 'jitter', 'minute', 'hour', 'dayOfMonth', 'month', 'dayOfWeek', 'delay', 'status', 'id',
    '__class__'))
ODDITIES = st.sampled_from((
    'echo', 'nope', 'UTC', 'Europe/Berlin', '../../etc/passwd', '/etc/passwd', 'Europe', '*/5 * * * *', '* * 30 2 *',
    '@daily', '1-99999999 * * * *', '*/0 * * * *', 'once', 'skip', True, 1, 0.5))
OPTIONS = st.recursive(
    WIRE_LEAVES | ODDITIES,
    lambda members: st.lists(members, max_size=3) | st.dictionaries(MEMBERS | TEXTS, members, max_size=4), max_leaves=6,
).filter(lambda value: isinstance(value, dict))
TYPED = {bool: st.booleans(), int: st.integers(-2 ** 63, 2 ** 63 - 1) | st.integers(-2, 70), str: TEXTS, dict: OPTIONS,
         float: st.floats(allow_nan=False, allow_infinity=False) | st.floats(-1, 100)}


def fitting(argument, jobid):
    """Return a strategy for what an argument of a method may be."""
    if argument.name == 'timeout':
        return st.just(0.0)                     # nobody is to wait
    if argument.name == 'jobid':
        return st.just(jobid) | st.just(jobid) | TYPED[int]
    if argument.name == 'task':
        return st.sampled_from(('echo', 'give', 'nope')) | TEXTS
    if argument.name == 'name':
        return NAMES | TEXTS
    if argument.name == 'status' and str in argument.types:
        return st.sampled_from(interfaces.STATUSES) | TEXTS
    if argument.name == 'status':
        return st.lists(st.sampled_from(interfaces.FINAL) | TEXTS, max_size=4)
    if argument.items:
        return st.lists(st.one_of([TYPED[item] for item in argument.items]), max_size=4)
    return st.one_of([TYPED.get(type_, WIRE_VALUES) for type_ in argument.types] or [WIRE_VALUES])


@st.composite
def calls(draw, jobid):
    """The name of a method, and arguments that it may take, or not."""
    name = draw(NAMES)
    method = METHODS[name]
    waits = any(argument.name == 'timeout' for argument in method.arguments)
    count = draw(st.integers(len(method.arguments) if waits else method.required, len(method.arguments)))
    values = [draw(fitting(argument, jobid)) for argument in method.arguments[:count]]
    whim = draw(st.integers(0, 9))
    if whim == 0:
        values.append(draw(WIRE_VALUES))
    elif whim == 1 and values and not waits:
        values.pop()
    elif whim == 2 and values:
        values[draw(st.integers(0, len(values) - 1 - waits))] = draw(WIRE_VALUES)
    return name, values


# What a task may return, with what the table of `results.plain` says comes of it

class Colour(enum.Enum):
    RED = 'red'


class Level(enum.IntEnum):
    LOW = 1


class Word(str, enum.Enum):
    YES = 'yes'


class Text(str):
    pass


class Number(int):
    pass


class Members(dict):
    pass


@dataclasses.dataclass
class Film:
    title: str


Point = collections.namedtuple('Point', 'x y')


def sendable(text):
    return ''.join(c if c in '\t\n\r' or ' ' <= c < '\ud800' or '\ue000' <= c < '\ufffe' or c > '\uffff' else '\ufffd'
                   for c in text)


def inUTC(moment):
    return moment.astimezone(timezone.utc).replace(tzinfo=None, microsecond=0, fold=0)


def pairs(strategy, conversion=None):
    """Return a strategy for pairs of a value and what becomes of it, by default itself."""
    return strategy.map(lambda value: (value, value if conversion is None else conversion(value)))


ZONES = st.timezones() | st.just(timezone.utc) | st.just(timezone(timedelta(hours=-5, minutes=-30)))
ATOMS = st.one_of(
    pairs(WIRE_LEAVES.filter(lambda value: not isinstance(value, datetime))),
    pairs(st.integers(2 ** 31), str), pairs(st.integers(max_value=-2 ** 31 - 1), str),
    pairs(st.text(), sendable), pairs(st.text().map(Text), sendable),
    pairs(st.sampled_from((math.nan, math.inf, -math.inf)), str),
    pairs(st.datetimes(), lambda moment: moment.replace(microsecond=0, fold=0)),
    pairs(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=ZONES), inUTC),
    pairs(st.dates(), lambda day: day.isoformat()), pairs(st.times(), lambda moment: moment.isoformat()),
    pairs(st.timedeltas(), timedelta.total_seconds), pairs(st.decimals(), str), pairs(st.uuids(), str))
STRANGERS = st.sampled_from((
    (Colour.RED, '<Colour object>'), (Level.LOW, 1), (Word.YES, 'yes'), (Number(7), 7),
    (Number(2 ** 99), str(2 ** 99)), (ValueError('no'), '<ValueError object>'), (Fraction(1, 2), '<Fraction object>'),
    (1j, '<complex object>'), (Film('M'), '<Film object>'), (Film, '<type object>'), (Ellipsis, '<ellipsis object>'),
    (len, '<builtin_function_or_method object>'), (Point(1, (2,)), [1, [2]]), (range(3), [0, 1, 2]),
    (Members(a=1), {'a': 1}), (collections.Counter('aab'), {'a': 2, 'b': 1}), (bytearray(b'a'), b'a')))
# Not to be stored either.
HOMELESS = st.sampled_from((
    (threading.Lock(), '<lock object>'), ((n for n in ()), '<generator object>'), (lambda: 1, '<function object>'),
    (memoryview(b'a'), '<memoryview object>')))


def containers(members):
    lists = st.lists(members, max_size=4).map(lambda given: ([pair[0] for pair in given], [pair[1] for pair in given]))
    structs = st.dictionaries(TEXTS, members, max_size=4).map(bothMembers)
    return st.one_of(
        lists, structs,
        *(lists.map(functools.partial(wrapped, class_)) for class_ in (tuple, collections.deque, PersistentList)),
        structs.map(functools.partial(wrapped, PersistentMapping)),
        st.sets(st.integers(-999, 999), max_size=5).map(lambda given: (given, sorted(given))),
        st.frozensets(TEXTS, max_size=5).map(lambda given: (given, sorted(given))),
        st.dictionaries(st.integers(-2 ** 40, 2 ** 40) | st.none(), members, max_size=4).map(bothMembers))


def bothMembers(given):
    """Return the pair for a dict of pairs."""
    return ({key: value for key, (value, _) in given.items()}, {str(key): sent for key, (_, sent) in given.items()})


def wrapped(class_, pair):
    return class_(pair[0]), pair[1]


STORABLE = st.recursive(ATOMS | STRANGERS, containers, max_leaves=10)
ANYTHING = st.recursive(ATOMS | STRANGERS | HOMELESS, containers, max_leaves=10)


# The tests

class TestParseCall(unittest.TestCase):

    level = 2

    @fuzz
    @given(BODIES, st.sampled_from((None,) * 8 + DECLARED))
    @example(b'', None)
    def test_calls_are_read_or_refused(self, data, charset):
        try:
            name, values = parseCall(data, charset)
        except ParseError as error:
            self.assertFalse(leaksOf(str(error), data))
            self.assertLess(len(str(error)), 400)
        else:
            self.assertIs(type(name), str)
            self.assertIs(type(values), tuple)
            self.assertPlain(list(values))

    def assertPlain(self, value):
        self.assertIn(type(value), PLAIN)
        if isinstance(value, dict):
            self.assertLessEqual({type(name) for name in value}, {str})
            value = list(value.values())
        if isinstance(value, list):
            for member in value:
                self.assertPlain(member)

    @fuzz
    @given(NAMES, st.lists(nestings(WIRE_LEAVES | st.integers(-2 ** 63, 2 ** 63 - 1)), max_size=4),
           st.sampled_from(('utf-8', 'utf-8-sig', 'utf-16')))
    def test_what_is_well_written_is_read_as_it_was(self, name, values, encoding):
        read = parseCall(written(name, values).encode(encoding))
        self.assertEqual(repr(read), repr((name, tuple(values))))           # 1 is no 1.0, nor True

    def test_reading_ends_with_what_is_refused(self):
        # So what is deep, or follows a declaration, costs nothing: the reader has not come to what is not well-formed.
        for start, sentence in (('<methodCall><methodName>m</methodName><params><param>'
                                 + '<value><array><data>' * 100000, f'more than {NESTING} deep'),
                                ('<!DOCTYPE x [' + '<!ENTITY x "x">' * 100000, 'document type declaration'),
                                ('<methodCall><value>' * 100000, '<value> is not allowed here')):
            with self.assertRaisesRegex(ParseError, sentence):
                parseCall((start + '<<<').encode())


class TestDumpResponse(unittest.TestCase):

    level = 2

    @fuzz
    @given(ANYTHING)
    def test_anything_is_sent_as_the_table_says(self, pair):
        value, expected = pair
        (received,), name = xmlrpc.client.loads(dumpResponse(value), use_builtin_types=True)
        self.assertEqual(repr(received), repr(expected))


class FuzzCase(ServerCase):
    """A server with a processor of its default service, and a client that keeps its connection."""

    def setUp(self):
        super().setUp()
        install(self.db)
        provideUtility(SimpleTask(lambda input: input), name='echo')
        provideUtility(SimpleTask(lambda input: self.given), name='give')
        self.given = None               # what the task 'give' returns
        self.processor = SimpleProcessor(self.db, (DEFAULT_SERVICE,))
        self.client = http.client.HTTPConnection(*self.frontend.address, timeout=PATIENCE)
        self.addCleanup(self.client.close)
        # The server is to have nothing to complain of either.
        self.complaints = []
        handler = logging.Handler(logging.ERROR)
        handler.emit = self.complaints.append
        logger = logging.getLogger('lovely.remotetask')
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)

    def resolve(self, connection, path):
        return findService(connection.root()[ROOT_NAME], path)

    def answer(self, body):
        """Return the answer to a body, bytes of XML."""
        self.client.request('POST', '/', body)
        response = self.client.getresponse()
        self.assertEqual((response.status, response.reason), (200, 'OK'))
        return response.read()

    def outcome(self, body):
        """Return the pair of what the server answers and None, or of None and the Fault, which is one of the table."""
        outcome = self.outcomeOf(self.answer(body), body)
        self.assertQuiet()
        return outcome

    def outcomeOf(self, answer, data):
        try:
            (result,), name = xmlrpc.client.loads(answer, use_builtin_types=True)
        except xmlrpc.client.Fault as fault:
            self.assertIn(fault.faultCode, CODES, fault)
            self.assertTrue(fault.faultString)
            self.assertFalse(leaksOf(fault.faultString, data), fault)
            return None, fault
        return result, None

    def assertQuiet(self):
        complaints, self.complaints[:] = list(self.complaints), ()
        self.assertEqual(complaints, [])

    def call(self, name, *values):
        """Return the result of a call; the fault fails the test."""
        result, fault = self.outcome(written(name, values).encode())
        self.assertIsNone(fault)
        return result


def leaksOf(sentence, data):
    """Return what of a sentence tells of the server's inside, and is not in the request, bytes."""
    own = data.replace(b'\x00', b'').decode('utf-8', 'replace')
    return [leak for leak in INTERNAL.findall(sentence) if leak not in own]


class TestServer(FuzzCase):

    level = 2

    @slowFuzz
    @given(BODIES)
    def test_any_body_is_answered(self, body):
        self.outcome(body)

    @slowFuzz
    @given(st.data())
    def test_any_call_is_answered(self, data):
        jobid = data.draw(st.sampled_from((self.queued, self.delayed, self.waiting, self.cancelled, self.completed)))()
        name, values = data.draw(calls(jobid))
        result, fault = self.outcome(written(name, values).encode())
        if fault is not None:
            self.assertNotIn(fault.faultCode, (faults.PARSE_ERROR, faults.UNKNOWN_SERVICE))

    def queued(self):
        return self.call('add', 'echo', 'x' * 100)

    def delayed(self):
        return self.call('addCronJob', 'echo', None, [], [], [], [], [], 60.0)

    def waiting(self):
        return self.call('add', 'echo', None, True)

    def cancelled(self):
        jobid = self.queued()
        self.call('cancel', jobid)
        return jobid

    def completed(self):
        jobid = self.queued()
        self.call('resume')                     # the last call may have been the other
        while self.processor.processNext():
            pass
        return jobid

    def test_nothing_grows(self):
        generator = random.Random(4)
        call = written('getStatus', [5]).encode()
        bodies = [call, written('nope', [{'a': [1]}]).encode(), b'', call[:-5]]
        for _ in range(200):
            at = generator.randrange(len(call))
            bodies.append(call[:at] + generator.choice(PIECES).encode('utf-8', 'surrogatepass') + call[at:])

        def run():
            for body in bodies:
                self.outcome(body)
            gc.collect()
            return len(gc.get_objects()), tracemalloc.get_traced_memory()[0], threading.active_count()

        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(2):              # what is made once and kept
            run()
        rounds = [run() for _ in range(6)]
        # What leaks grows in each round; a table of the interpreter that becomes larger, or a buffer in use, in one.
        objects, size, threads = (statistics.median(after - before for before, after in itertools.pairwise(values))
                                  for values in zip(*rounds))
        # One object in two calls, or 100 bytes in each, would be too much.
        self.assertLess(objects, len(bodies) / 2)
        self.assertLess(size, len(bodies) * 100)
        self.assertEqual(threads, 0)


class TestRoundTrips(FuzzCase):

    level = 2

    @slowFuzz
    @given(WIRE_VALUES)
    def test_what_a_client_sends_comes_back(self, value):
        jobid = self.call('add', 'echo', value)
        self.assertTrue(self.processor.processNext())
        self.assertEqual(self.call('getStatus', jobid), 'completed')
        self.assertEqual(repr(self.call('getResult', jobid)), repr(value))

    @slowFuzz
    @given(STORABLE)
    def test_what_a_task_returns_is_sent_as_the_table_says(self, pair):
        self.given, expected = pair
        jobid = self.call('add', 'give')
        self.assertTrue(self.processor.processNext())
        self.assertEqual(self.call('getStatus', jobid), 'completed', self.call('getError', jobid))
        self.assertEqual(repr(self.call('getResult', jobid)), repr(expected))

    @slowFuzz
    @given(HOMELESS)
    def test_what_cannot_be_stored_is_the_error_of_the_job(self, pair):
        self.given, _ = pair
        jobid = self.call('add', 'give')
        self.assertTrue(self.processor.processNext())
        complaints, self.complaints[:] = list(self.complaints), ()
        complaint, = complaints
        self.assertRegex(complaint.getMessage(), rf'\Ajob {jobid} \(give, request [^)]+\) failed: ')
        self.assertEqual(self.call('getStatus', jobid), 'error')
        self.assertIsNone(self.call('getResult', jobid))
        self.assertRegex(self.call('getError', jobid), '^what the task gives cannot be stored: ')

    def test_ints_of_64_bits_come_back_as_text(self):
        for value in (2 ** 31, -2 ** 31 - 1, 2 ** 63 - 1, -2 ** 63):
            jobid = self.call('add', 'echo', value)
            self.processor.processNext()
            self.assertEqual(self.call('getResult', jobid), str(value))

    def test_deep_and_cyclic_results(self):
        cyclic = [1]
        cyclic.append({'self': cyclic})
        deep = []
        for _ in range(NESTING):
            deep = [deep]
        for self.given, innermost in ((cyclic, CYCLIC), (deep, TOO_DEEP)):
            jobid = self.call('add', 'give')
            self.processor.processNext()
            self.assertIn(innermost, repr(self.call('getResult', jobid)))


# Raw HTTP

HEADERS = st.sampled_from((
    b'Host: x', b'Host: x\r\nHost: y', b'Content-Length: 0', b'Content-Length: 5', b'Content-Length: 99999999999',
    b'Content-Length: -1', b'Content-Length: 1e3', b'Content-Length: 5, 5', b'Content-Length:', b'Content-Length: \xb2',
    b'Content-Length: ' + b'9' * 5000, b'Transfer-Encoding: chunked', b'Transfer-Encoding: identity',
    b'Expect: 100-continue', b'Expect: x', b'Connection: close', b'Connection: keep-alive', b'Connection: \xff',
    b'Content-Encoding: gzip', b'Content-Encoding: br', b'Content-Encoding: \xe9', b'Content-Type: text/xml; charset=x',
    b'Accept-Encoding: gzip;q=x', b'Upgrade: websocket', b'Authorization: Basic !!!',
    b'Authorization: Basic ' + b'A' * 2000, b'X: ' + b'y' * 70000, b' folded', b'no colon', b': x', b'\x00: \x00',
    b'A: \rB: x', b'Accept: \x1b[31m', b'\r\n'.join(b'X%d: y' % n for n in range(150))))
TARGETS = st.sampled_from((b'/', b'/RPC2', b'*', b'', b'//', b'/../..', b'/%00', b'/%ff', b'/%', b'http://x/',
                           b'http://', b'/' + b'x' * 70000, b'/?x', b'/\xc3\xa9', b'/#', b'x y'))
VERBS = st.sampled_from((b'POST',) * 6 + (b'GET', b'HEAD', b'PUT', b'TRACE', b'post', b'', b'__class__', b'\x00'))
VERSIONS = st.sampled_from((b'HTTP/1.1',) * 4 + (b'HTTP/1.0', b'HTTP/2.0', b'HTTP/9' * 3000, b'HTTP/1.x', b'HTTP/-1.1',
                                                b'HTTP/\xb2', b''))
REQUEST_LINES = st.tuples(VERBS, TARGETS, VERSIONS).map(b' '.join)
STATUS = re.compile(rb'HTTP/1\.[01] ([0-9]{3}) [ -~]*\r\n')


@st.composite
def requests(draw):
    """The bytes of one or more requests, hardly one of them in order."""
    pieces = []
    for _ in range(draw(st.integers(1, 3))):
        body = draw(CALLS.map(str.encode) | st.binary(max_size=20))
        headers = draw(st.lists(HEADERS, max_size=4))
        if draw(st.booleans()):
            headers.append(b'Content-Length: %d' % len(body))
        pieces += [b'\r\n'.join([draw(REQUEST_LINES), *headers, b'', b'']), body]
    data = b''.join(pieces)
    return draw(mangled(data)) if draw(st.booleans()) else data


class TestRawHTTP(FuzzCase):

    level = 2

    @slowFuzz
    @given(requests() | st.binary(max_size=100))
    def test_any_request_is_answered_with_statuses(self, data):
        answer = self.send(data)
        while answer:
            match = STATUS.match(answer)
            self.assertIsNotNone(match, answer[:200])
            head, end, rest = answer.partition(b'\r\n\r\n')
            self.assertTrue(end, answer[:200])
            status = int(match[1])
            self.assertNotEqual(status, 500)
            length = re.search(rb'\r\nContent-Length: ([0-9]+)\r\n', head + b'\r\n')
            self.assertEqual(length is None, status == 100, head)
            size = int(length[1]) if length else 0
            body, answer = rest[:size], rest[size:]
            self.assertTrue(len(body) == size or not body and b'HEAD' in data, (head, body))
            if status == 200:
                self.outcomeOf(body, data)
            else:
                self.assertFalse(leaksOf(body.decode(), data))
        self.assertQuiet()


if __name__ == '__main__':
    unittest.main()
