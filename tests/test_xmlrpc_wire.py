"""XML-RPC calls that are read, and refused; values that can be sent, whatever they are."""
# SPDX-License-Identifier: ZPL-2.1
import collections
import enum
import random
import threading
import unittest
import uuid
import xmlrpc.client
from datetime import date
from datetime import datetime
from datetime import time
from datetime import timedelta
from datetime import timezone
from datetime import tzinfo
from decimal import Decimal
from zoneinfo import ZoneInfo

from BTrees.OOBTree import OOBTree
from BTrees.OOBTree import OOTreeSet
from persistent.list import PersistentList
from persistent.mapping import PersistentMapping
from ZODB.POSException import ReadConflictError

from lovely.remotetask.xmlrpc.faults import ParseError
from lovely.remotetask.xmlrpc.faults import ResultTooLarge
from lovely.remotetask.xmlrpc.wire import CYCLIC
from lovely.remotetask.xmlrpc.wire import NESTING
from lovely.remotetask.xmlrpc.wire import SENTENCE_SIZE
from lovely.remotetask.xmlrpc.wire import TOO_DEEP
from lovely.remotetask.xmlrpc.wire import dumpCall
from lovely.remotetask.xmlrpc.wire import dumpFault
from lovely.remotetask.xmlrpc.wire import dumpResponse
from lovely.remotetask.xmlrpc.wire import parseCall
from lovely.remotetask.xmlrpc.wire import plain


def call(value, method='m'):
    """Return a call with one argument, which is given as XML."""
    return (f'<?xml version="1.0"?><methodCall><methodName>{method}</methodName>'
            f'<params><param><value>{value}</value></param></params></methodCall>').encode()


def nested(depth, opening='<array><data><value>', closing='</value></data></array>', innermost='x'):
    return opening * depth + innermost + closing * depth


class TestParseCall(unittest.TestCase):

    def assertRefused(self, data, sentence='', charset=None):
        with self.assertRaisesRegex(ParseError, sentence) as caught:
            parseCall(data, charset)
        self.assertNotRegex(str(caught.exception), 'Traceback|Error|0x[0-9a-f]{6}|\\.py')

    def test_what_the_standard_library_writes_is_read(self):
        values = (None, True, False, 0, -2 ** 31, 2 ** 31 - 1, 1.5, -1e300, '', 'é\n<&>]]>\U0001f600', b'\x00\xff', b'',
                  datetime(2024, 2, 29, 23, 59, 58), [], [1, [2, [None]]], {}, {'': {'a': [1]}, 'b<': 'c'})
        data = xmlrpc.client.dumps(values, 'system.listMethods', allow_none=True)
        self.assertEqual(parseCall(data.encode()), ('system.listMethods', values))

    def test_types_are_built_in(self):
        name, values = parseCall(call('<base64>AA==</base64>'))
        self.assertIs(type(values[0]), bytes)
        name, values = parseCall(call('<dateTime.iso8601>20240229T10:11:12</dateTime.iso8601>'))
        self.assertIs(type(values[0]), datetime)

    def test_value_without_type_is_text(self):
        for xml, expected in (('', ''), ('abc', 'abc'), (' a ', ' a '), ('<!-- c -->a<![CDATA[<b>]]>', 'a<b>'),
                              ('\n  <int> 1 </int>\n', 1), ('<string/>', '')):
            self.assertEqual(parseCall(call(xml)), ('m', (expected,)), xml)

    def test_extensions(self):
        for xml, expected in (('<i8>-9223372036854775808</i8>', -2 ** 63), ('<ex:i8>1</ex:i8>', 1), ('<ex:nil/>', None),
                              ('<nil></nil>', None), ('<i1>-128</i1>', -128), ('<i2>32767</i2>', 32767)):
            self.assertEqual(parseCall(call(xml)), ('m', (expected,)), xml)

    def test_what_the_standard_library_understands_is_read(self):
        """Calls of real clients that are not quite as the specification says: nothing of them is lost, or unclear."""
        begin, end = '<methodCall><methodName>m</methodName>', '</methodCall>'
        for xml, expected in (
                (f'{begin}<params><value>a</value><value><int>1</int></value></params>{end}', ('a', 1)),
                (f'{begin}<params><param><value>a</value></param><value>b</value></params>{end}', ('a', 'b')),
                (f'<methodCall><params><value>a</value></params><methodName>m</methodName>{end}', ('a',)),
                (f'\r\n\n <?xml version="1.0"?>{begin}{end}', ()),
                (f'<envelope><body>{begin}{end}</body></envelope>', ()),
                (f'<methodCall><id>7</id><methodName>\n m </methodName>{end}', ()),
                (f'{begin}<params><x a="b"><param><y><value>a</value></y></param></x></params>{end}', ('a',)),
                ('<x:methodCall xmlns:x="urn:x"><x:methodName>m</x:methodName></x:methodCall>', ())):
            self.assertEqual(parseCall(xml.encode()), ('m', expected), xml)
            self.assertEqual(xmlrpc.client.loads(xml.strip())[0], expected, xml)
        member = '<member><name>a</name><value>1</value></member>'
        for xml, expected in (
                ('<array><value>1</value><value/></array>', ['1', '']), ('<array/>', []), ('<struct/>', {}),
                ('<array><x><data><value>1</value></data></x></array>', ['1']),
                (f'<struct><x>{member}</x><y>extra</y></struct>', {'a': '1'}),
                ('<struct><member><x/><name>a</name><x><value>1</value></x></member></struct>', {'a': '1'}),
                ('<i4>9007199254740993</i4>', 9007199254740993), ('<int>-2147483649</int>', -2147483649),
                ('<ex:i1>128</ex:i1>', 128), ('<ex:i2>1</ex:i2>', 1), ('<ex:float>1.5</ex:float>', 1.5),
                ('<ex:biginteger>%s</ex:biginteger>' % ('9' * 400), 10 ** 400 - 1),
                ('<ex:bigdecimal>1.10</ex:bigdecimal>', Decimal('1.10')), ('<x:int>1</x:int>', 1),
                ('<float>-2.5e3</float>', -2500.0)):
            self.assertEqual(parseCall(call(xml)), ('m', (expected,)), xml)
            self.assertEqual(xmlrpc.client.loads(call(xml))[0], (expected,), xml)

    def test_what_the_client_writes_is_read(self):
        values = (None, True, 0, 1.5, 'é<&>]]>\r\n', b'\x00\xff', [], {'a': [1]}, datetime(2024, 2, 29, 23, 59, 58),
                  datetime(2024, 2, 29, 23, 59, 58, 5), datetime(1, 1, 1), datetime.max,
                  datetime(2024, 2, 29, 23, 59, 58, tzinfo=timezone.utc))
        self.assertEqual(parseCall(dumpCall('system.x', values)), ('system.x', values))
        self.assertEqual(parseCall(dumpCall('a', ())), ('a', ()))
        berlin = datetime(2024, 7, 1, 12, 0, 0, 250, ZoneInfo('Europe/Berlin'))
        [value] = parseCall(dumpCall('a', (berlin,)))[1]
        self.assertEqual((value, value.tzinfo), (berlin, timezone.utc))
        plainly = datetime(2024, 2, 29, 23, 59, 58)                     # as the standard library writes it
        self.assertEqual(xmlrpc.client.loads(dumpCall('a', (plainly,)), use_builtin_types=True), ((plainly,), 'a'))
        for value in object(), 2 ** 31, {1: 2}, datetime.min.replace(tzinfo=timezone(timedelta(hours=1))):
            with self.assertRaises((TypeError, OverflowError)):
                dumpCall('a', (value,))

    def test_params_can_be_left_out(self):
        self.assertEqual(parseCall(b'<methodCall><methodName>m</methodName></methodCall>'), ('m', ()))
        self.assertEqual(parseCall(b'<methodCall><methodName>m</methodName><params/></methodCall>'), ('m', ()))

    def test_encodings(self):
        xml = call('<string>é</string>').decode().replace('?>', ' encoding="ENCODING"?>')
        for encoding in ('utf-8', 'UTF-8', 'iso-8859-1', 'utf-16', 'windows-1252', 'latin1', 'utf8', 'ISO-8859-15',
                         'gb18030'):
            data = xml.replace('ENCODING', encoding).encode(encoding)
            self.assertEqual(parseCall(data), ('m', ('é',)), encoding)
        for encoding in ('no-such', 'utf-7', 'idna', 'base64', 'hz', 'cp037', 'unicode_escape', 'utf-32', ''):
            self.assertRefused(xml.replace('ENCODING', encoding).encode(), f"encoding '{encoding}' is not supported")
            self.assertRefused(xml.replace('ENCODING', 'utf-8').encode(), 'is not supported', encoding)
        for encoding, text in ('koi8-r', 'Привет'), ('windows-1251', 'Привет'), ('shift_jis', '日本'), ('gb2312', '中文'):  # noqa: E501
            data = xml.replace('ENCODING', encoding).replace('é', text).encode(encoding)
            self.assertEqual(parseCall(data), ('m', (text,)), encoding)
        self.assertRefused(xml.replace('ENCODING', 'shift_jis').encode('utf-8') + b'\x81', 'not text in shift_jis')
        self.assertRefused(xml.replace('ENCODING', 'us-ascii').encode(), 'not well-formed XML in us-ascii')
        self.assertRefused(xml.replace('ENCODING', 'utf-8').encode('iso-8859-1'), 'not well-formed XML in utf-8')

    def test_what_says_the_encoding(self):
        """RFC 7303: a byte order mark comes before the charset, that before the declaration, that before UTF-8."""
        for written, charset, declared, read in (
                ('utf-8', None, None, 'é'), ('utf-8', None, 'UTF-8', 'é'), ('iso-8859-1', None, 'iso-8859-1', 'é'),
                ('utf-16', None, 'iso-8859-1', 'é'), ('utf-16le', None, None, 'é'), ('utf-16be', None, 'utf-16', 'é'),
                ('iso-8859-1', None, None, None), ('iso-8859-1', None, 'utf-8', None),
                ('utf-8', None, 'koi8-r', 'ц╘'), ('utf-8', None, 'utf-7', None),
                # The charset counts, whatever is declared.
                ('utf-8', 'utf-8', 'iso-8859-1', 'é'), ('utf-8', 'UTF-8', 'koi8-r', 'é'),
                ('utf-8', 'iso-8859-1', 'utf-8', 'Ã©'), ('iso-8859-1', 'ISO-8859-1', 'utf-8', 'é'),
                ('iso-8859-1', 'iso-8859-1', None, 'é'), ('utf-16le', 'utf-16le', 'utf-8', 'é'),
                ('utf-16be', 'utf-16', 'utf-8', 'é'), ('utf-8', 'us-ascii', 'utf-8', None),
                ('utf-8', 'utf-16', None, None), ('utf-8', 'koi8-r', 'utf-8', 'ц╘'),
                ('utf-8', 'utf-7', 'utf-8', None), ('utf-8', '', 'utf-8', None),
                # A byte order mark counts, whatever the others say.
                ('utf-8-sig', None, None, 'é'), ('utf-8-sig', 'iso-8859-1', 'us-ascii', 'é'),
                ('utf-8-sig', 'windows-1252', None, 'é'), ('utf-8-sig', 'koi8-r', None, 'é'),
                ('utf-16', 'utf-8', 'utf-8', 'é'), ('utf-16', 'utf-16be', 'utf-8', 'é'),
                ('utf-32', None, None, None), ('utf-32', 'utf-16', None, None)):
            xml = call('<string>é</string>').decode()
            if declared is not None:
                xml = xml.replace('?>', f' encoding="{declared}"?>')
            with self.subTest(written=written, charset=charset, declared=declared):
                if read is None:
                    self.assertRefused(xml.encode(written), 'not supported|not well-formed', charset)
                else:
                    self.assertEqual(parseCall(xml.encode(written), charset), ('m', (read,)))
        self.assertRefused(call('x'), "'utf-7' is not supported: use utf-8, or another one that", 'utf-7')
        euro = call('<string>€</string>').decode().encode('windows-1252')
        self.assertEqual(parseCall(euro, 'windows-1252')[1], ('€',))
        self.assertEqual(parseCall(euro, 'iso-8859-1')[1], ('\x80',))

    def test_moments(self):
        utc = timezone.utc
        for text, expected in (
                # The specification, and Python, Ruby, PHP, Go, .NET, Java.
                ('20261125T10:00:00', datetime(2026, 11, 25, 10)),
                (' 20261125T10:00:00\n', datetime(2026, 11, 25, 10)),
                # Perl, WordPress; JavaScript, Java and .NET with options of their libraries; others.
                ('20261125T10:00:00Z', datetime(2026, 11, 25, 10, tzinfo=utc)),
                ('20261125T100000', datetime(2026, 11, 25, 10)),
                ('20261125T100000-0330', datetime(2026, 11, 25, 13, 30, tzinfo=utc)),
                ('2026-11-25T10:00:00', datetime(2026, 11, 25, 10)),
                ('2026-11-25T10:00:00.123Z', datetime(2026, 11, 25, 10, microsecond=123000, tzinfo=utc)),
                ('2026-11-25T10:00:00,5', datetime(2026, 11, 25, 10, microsecond=500000)),
                ('2026-11-25T10:00:00.1234567+01:00', datetime(2026, 11, 25, 9, microsecond=123456, tzinfo=utc)),
                ('2026-11-25T10:00:00.999999999-00:00', datetime(2026, 11, 25, 10, microsecond=999999, tzinfo=utc)),
                ('2026-11-25T00:30:00+01', datetime(2026, 11, 24, 23, 30, tzinfo=utc)),
                ('20261231T23:59:59-23:59', datetime(2027, 1, 1, 23, 58, 59, tzinfo=utc)),
                ('00010101T00:00:00', datetime(1, 1, 1)), ('9999-12-31T23:59:59.999999', datetime.max)):
            for tag in 'dateTime.iso8601', 'ex:dateTime':
                [value] = parseCall(call(f'<{tag}>{text}</{tag}>'))[1]
                self.assertEqual((value, value.tzinfo), (expected, expected.tzinfo), text)
        self.assertEqual(parseCall(call('<array><data><value><dateTime.iso8601>20261125T10:00:00</dateTime.iso8601>'
                                        '</value><value>x</value></data></array>'))[1],
                         ([datetime(2026, 11, 25, 10), 'x'],))

    def test_doctype_is_refused(self):
        bomb = ('<!DOCTYPE b [<!ENTITY a0 "ha">'
                + ''.join(f'<!ENTITY a{n} "&a{n - 1};&a{n - 1};">' for n in range(1, 40)) + ']>')
        for doctype in ('<!DOCTYPE methodCall>', '<!DOCTYPE m SYSTEM "file:///etc/passwd">',
                        '<!DOCTYPE m [<!ENTITY x "y">]>', '<!DOCTYPE m [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
                        '<!DOCTYPE m [<!ENTITY % x SYSTEM "http://localhost/">%x;]>', bomb):
            data = call('<string>&x;</string>').replace(b'<methodCall', doctype.encode() + b'<methodCall')
            self.assertRefused(data, 'document type declaration')
        self.assertRefused(call('&x;'), 'undefined entity')

    def test_nesting_is_limited(self):
        name, values = parseCall(call(nested(NESTING)))
        value = values[0]
        for level in range(NESTING):
            [value] = value
        self.assertEqual(value, 'x')
        for depth in (NESTING + 1, 100000):
            self.assertRefused(call(nested(depth)), f'more than {NESTING} deep')
        struct = nested(NESTING, '<struct><member><name>n</name><value>', '</value></member></struct>',
                        '<array><data/></array>')
        self.assertRefused(call(struct), f'more than {NESTING} deep')

    def test_other_documents_are_refused(self):
        self.assertRefused(dumpFault(1, 'x'), '<methodResponse> is not allowed')
        self.assertRefused(dumpResponse(1), '<methodResponse> is not allowed')
        self.assertRefused(b'<methodCall><methodName>m</methodName><fault><value>1</value></fault></methodCall>',
                           '<fault> is not allowed here in <methodCall>')
        self.assertRefused(b'<html/>', 'a <methodCall> is expected')
        for data in (b'', b' ', b'{"jsonrpc": "2.0"}', b'\x00', b'<methodCall>', call('x') + call('x'), call('\x00'),
                     call('&#0;'), call('&#xD800;'), b'\xff\xfe\x00', call('a')[:-3], call('<int>1</string>')):
            self.assertRefused(data, 'not well-formed')

    def test_structure_is_checked(self):
        member = '<member><name>a</name><value>1</value></member>'
        parseCall(call(f'<struct>{member}</struct>'))
        for value, sentence in (
                ('<what>1</what>', '<what>'),
                ('<int>1</int><int>2</int>', '<int>'),
                ('x<int>1</int>', "'x' is not allowed here in <value>"),
                ('<int>1</int>x', "'x' is not allowed here in <value>"),
                ('<array><data/><data/></array>', '<data>'),
                ('<array><data>x</data></array>', "'x' is not allowed here in <data>"),
                ('<array><data><int>1</int></data></array>', '<int>'),
                ('<struct><value>1</value></struct>', '<value>'),
                ('<struct><member><name>a</name></member></struct>', '<value> is missing in <member>'),
                ('<struct><member><value>1</value></member></struct>', '<value>'),
                ('<struct><member/></struct>', '<name> is missing in <member>'),
                (f'<struct>{member[:-9]}<value>1</value></member></struct>', '<value>'),
                ('<struct><member><name><int>1</int></name></member></struct>', '<int>'),
                ('<string><b>1</b></string>', '<b>'),
                ('<array><data/><value>1</value></array>', '<value>'),
                ('<array><value>1</value><data/></array>', '<data>'),
                ('<array><x>text</x>y</array>', "'y' is not allowed here in <array>"),
                ('<what><int>1</int></what>', '<what>'),
                ('<array><data>' + '<x>' * 700, 'nested more than 640 deep'),
                ('<methodName>x</methodName>', '<methodName>'),
                ('<name>x</name>', '<name>'),
                ('<fault/>', '<fault>'),
                ):
            self.assertRefused(call(value), sentence)
        for xml in (b'<methodCall/>', b'<methodCall><params/></methodCall>',
                    b'<methodCall><methodName>m</methodName><methodName>n</methodName></methodCall>',
                    b'<methodCall><methodName>m</methodName><params><int>1</int></params></methodCall>',
                    b'<methodCall><methodName>m</methodName><params><param><value/><value/></param></params>'
                    b'</methodCall>',
                    b'<x><methodCall><methodName>m</methodName></methodCall><methodCall/></x>',
                    b'<methodCall><methodName>m</methodName><params><param/></params></methodCall>',
                    b'<methodCall><methodName>m</methodName><params/><params/></methodCall>',
                    b'<methodCall>m</methodCall>'):
            self.assertRefused(xml)

    def test_values_are_checked(self):
        for tag, texts in {
                'int': ('', 'x', '1.0', '1_0', '0x1', '--1', '\u0661', '9223372036854775808', '9' * 5000),
                'i4': ('9' * 20,), 'biginteger': ('', 'x', '9' * 401, '1.0'),
                'bigdecimal': ('', 'NaN', '1' * 401, '1e1000', '1_0'), 'float': ('inf',),
                'i8': ('9223372036854775808', '-9223372036854775809'),
                'boolean': ('', '2', 'true', '-1'),
                'double': ('', 'nan', 'inf', '-Infinity', '1e999', '1_0.0', '1,5', 'x', '.', '1e', '1' * 401),
                'dateTime.iso8601': (
                    '', 'x', '20241301T00:00:00', '20240230T00:00:00', '20240101T25:00:00', '20240101T24:00:00',
                    '20240101T00:60:00', '20161231T23:59:60', '00000101T00:00:00', '2024-0101T00:00:00',
                    '202401-01T00:00:00', '20240101T00:0000', '20240101T0000:00', '20240101 00:00:00',
                    '20240101t00:00:00', '20240101T00:00:00z', '20240101T00:00', '20240101', '2024-W01-1T00:00:00',
                    '20240101T00:00:00.', '20240101T00:00:00.1234567890', '20240101T00:00:00 Z',
                    '20240101T00:00:00+1', '20240101T00:00:00+24:00', '20240101T00:00:00+00:60',
                    '20240101T00:00:00+01:00:00', '00010101T00:00:00+00:01', '99991231T23:59:59-00:01',
                    '\u0662\u0660\u0662\u06640101T00:00:00', '-20240101T00:00:00', '1704067200', 'now'),
                'base64': ('A', 'AAA', '====', 'A*==', '\u00e9', 'AA==AA=='),
                'nil': ('x',),
                }.items():
            for text in texts:
                self.assertRefused(call(f'<{tag}>{text}</{tag}>'), f'the element <{tag}> holds')

    def test_method_names(self):
        self.assertEqual(parseCall(call('x', 'system.a_b:c/D9'))[0], 'system.a_b:c/D9')
        for name in ('', ' ', 'a b', 'é', '__class__()', 'x' * 256, '&lt;'):
            self.assertRefused(call('x', name), 'the element <methodName> holds')

    def test_sentences_are_short(self):
        long = 'x' * 100000
        for value in (f'<{long}/>', f'<int>{long}</int>', f'{long}<int>1</int>'):
            with self.assertRaises(ParseError) as caught:
                parseCall(call(value))
            self.assertLess(len(str(caught.exception)), 200)

    def test_damaged_calls_are_read_or_refused(self):
        generator = random.Random(1)
        intact = xmlrpc.client.dumps(([1, {'a': b'x'}, None, 1.5, datetime(2024, 1, 1), True],), 'm', allow_none=True)
        pieces = ['<', '>', '/', '&', '<value>', '</value>', '<fault>', '<nil/>', '<data>', '\x00', '\udc80', 'é', ' ']
        outcomes = collections.Counter()
        for _ in range(3000):
            text = intact
            for _ in range(generator.randrange(1, 4)):
                start = generator.randrange(len(text))
                end = start + generator.choice((0, 0, 1, 5, 20))
                text = text[:start] + generator.choice(pieces) + text[end:]
            try:
                parseCall(text.encode('utf-8', 'surrogatepass'))
            except ParseError:
                outcomes['refused'] += 1
            else:
                outcomes['read'] += 1
        self.assertGreater(outcomes['refused'], 0)
        self.assertGreater(outcomes['read'], 0)


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    def __str__(self):
        raise RuntimeError('boom')


class Number(int):
    def __int__(self):
        raise RuntimeError('boom')


class Listing(list):
    def __iter__(self):
        raise RuntimeError('boom')


class Endless(collections.abc.Sequence):
    def __getitem__(self, index):
        return index

    def __len__(self):
        return 3


class Members(dict):
    def items(self):
        return [1]


class Unreachable(list):
    def __iter__(self):
        raise ReadConflictError()


class Liar:
    @property
    def __class__(self):
        raise RuntimeError('boom')


class Meta(type):
    @property
    def __name__(cls):
        raise RuntimeError('boom')


class Disguised(metaclass=Meta):
    pass


class Equal(type):
    def __eq__(cls, other):         # alone: classes of it are no keys
        return cls is other


class Odd(metaclass=Equal):
    pass


class BrokenZone(tzinfo):
    def utcoffset(self, moment):
        raise RuntimeError('boom')


def sent(value):
    """Return what a client of the standard library makes of the response that carries a value."""
    (result,), method = xmlrpc.client.loads(dumpResponse(value), use_builtin_types=True)
    return result


class TestPlain(unittest.TestCase):

    def test_table(self):
        east = timezone(timedelta(hours=2))
        for value, expected in (
                (None, None), (True, True), (0, 0), (2 ** 31 - 1, 2 ** 31 - 1), (-2 ** 31, -2 ** 31),
                (2 ** 31, '2147483648'), (-2 ** 31 - 1, '-2147483649'), (16 ** 5000, hex(16 ** 5000)),
                (1.5, 1.5), (float('nan'), 'nan'), (float('inf'), 'inf'), (float('-inf'), '-inf'),
                ('é\t\n\r<&>]]>\U0001f600', 'é\t\n\r<&>]]>\U0001f600'),
                ('\x00a\x0b\x1f\ud800\udfff\ufffe\uffff\x7f', '\ufffda' + '\ufffd' * 6 + '\x7f'),
                (b'\x00', b'\x00'), (bytearray(b'ab'), b'ab'),
                (datetime(2024, 1, 2, 3, 4, 5, 678), datetime(2024, 1, 2, 3, 4, 5)),
                (datetime(2024, 1, 1, 1, 0, tzinfo=east), datetime(2023, 12, 31, 23, 0)),
                (datetime(1, 1, 1), datetime(1, 1, 1)),
                (datetime(1, 1, 1, tzinfo=east), '<datetime object>'),          # before the first year in UTC
                (datetime(2024, 1, 1, tzinfo=BrokenZone()), '<datetime object>'),
                (date(2024, 2, 29), '2024-02-29'), (time(1, 2, 3, 4), '01:02:03.000004'),
                (timedelta(minutes=1.5), 90.0), (Decimal('1.10'), '1.10'), (Decimal('NaN'), 'NaN'),
                (uuid.UUID(int=1), '00000000-0000-0000-0000-000000000001'),
                ((1, (2,)), [1, [2]]), (range(3), [0, 1, 2]), (collections.deque([1]), [1]),
                ({3, 1, 2}, [1, 2, 3]), (frozenset('b'), ['b']), ({b'b', b'a'}, [b'a', b'b']),
                ({1: 'a', None: 'b', (1, 'x'): 'c', 1.5: 'd', b'k': 'e', False: 'f'},
                 {'1': 'a', 'None': 'b', "[1, 'x']": 'c', '1.5': 'd', "b'k'": 'e', 'False': 'f'}),
                ({datetime(2024, 1, 1): 1, date(2024, 1, 1): 2, 2 ** 40: 3, 'a\x00': 4},
                 {'2024-01-01T00:00:00': 1, '2024-01-01': 2, '1099511627776': 3, 'a\ufffd': 4}),
                ({1: 'a', '1': 'b', '\x00': 'c', '\x01': 'd'}, {'1': 'a', '1 (2)': 'b', '\ufffd': 'c',
                                                                '\ufffd (4)': 'd'}),
                (PersistentList([1]), [1]), (PersistentMapping(a=1), {'a': 1}), (OOBTree({'b': 1, 'a': 2}),
                                                                                {'a': 2, 'b': 1}),
                (OOTreeSet([2, 1]), [1, 2]),
                (collections.OrderedDict(a=1), {'a': 1}), (collections.namedtuple('P', 'x')(1), [1]),
                (Colour.RED, '<Colour object>'), (Level.LOW, 1), (Text('a'), 'a'), (Number(3), 3),
                (object(), '<object object>'), (Colour, '<EnumType object>'),
                (len, '<builtin_function_or_method object>'),
                (ValueError('secret'), '<ValueError object>'), ((n for n in ()), '<generator object>'),
                (threading.Lock(), '<lock object>'), (memoryview(b'a'), '<memoryview object>'),
                (1j, '<complex object>'),
                (Listing([1]), '<Listing object>'), (Members(), '<Members object>'), (Liar(), '<Liar object>'),
                (Disguised(), '<Disguised object>'), (Odd(), '<Odd object>'),
                (type('a\x0bb', (), {})(), '<a\ufffdb object>')):
            if expected == '<EnumType object>':
                expected = f'<{type(Colour).__name__} object>'      # another name before Python 3.11
            with self.subTest(value=repr(expected)[:50]):
                self.assertEqual(plain(value), expected)
                self.assertIs(type(plain(value)), type(expected))
                self.assertEqual(sent(value), expected)

    def test_mixed_set_keeps_its_members(self):
        self.assertCountEqual(plain({1, 'a', None, 2.5}), [1, 'a', None, 2.5])

    def test_nesting(self):
        value = innermost = []
        for _ in range(5000):
            value = [value]
        result = sent(value)
        for _ in range(NESTING):
            [result] = result
        self.assertEqual(result, TOO_DEEP)
        value = innermost
        for _ in range(NESTING - 1):
            value = {'a': value}
        self.assertEqual(sent(value), value)

    def test_cycles(self):
        value = [1]
        value.append({'self': value, 'again': [2]})
        self.assertEqual(sent(value), [1, {'self': CYCLIC, 'again': [2]}])

    def test_same_object_twice_is_no_cycle(self):
        shared = [1]
        self.assertEqual(plain([shared, shared]), [[1], [1]])

    def test_size_is_limited(self):
        doubled = []
        for _ in range(60):
            doubled = [doubled, doubled]
        for value in (doubled, 'x' * 1001, [b'x' * 501] * 2, {'x' * 600: 'x' * 401}, [None] * 32, range(10 ** 12),
                      Endless()):
            with self.assertRaisesRegex(ResultTooLarge, 'larger than 1000 bytes'):
                plain(value, 1000)
        for value in ('x' * 1000, [None] * 31):
            self.assertEqual(plain(value, 1000), value)
        with self.assertRaises(ResultTooLarge):
            dumpResponse(doubled)

    def test_errors_of_the_database_pass(self):
        with self.assertRaises(ReadConflictError):
            plain({'a': Unreachable()})

    def test_conversion_is_idempotent_and_sendable(self):
        generator = random.Random(2)
        leaves = [None, True, 1, 2 ** 40, 1.5, float('nan'), 'a\x00\ud800\r', b'\x00', datetime.now(timezone.utc),
                  date.max, Decimal(1), object(), Colour.RED, Text('x'), Liar(), Disguised(), timedelta(1), 10 ** 5000]
        keys = ['a', 1, '1', None, b'k', (1, 2), '\x00', '\x01', date.max, 1.5, frozenset('ab')]

        def anything(depth):
            kind = generator.randrange(8) if depth else 0
            members = [anything(depth - 1) for _ in range(generator.randrange(4))] if kind > 2 else []
            if kind == 3:
                return tuple(members)
            if kind == 4:
                return PersistentList(members)
            if kind > 4:
                return dict(zip(generator.sample(keys, len(members)), members))
            return members if kind > 2 else generator.choice(leaves)

        for _ in range(500):
            value = anything(6)
            converted = plain(value)
            self.assertEqual(plain(converted), converted)
            self.assertEqual(sent(value), converted)

    def test_every_character_can_be_sent(self):
        text = ''.join(map(chr, range(0x110000)))
        self.assertEqual(sent(text), plain(text))
        self.assertEqual(len(plain(text)), len(text))


class TestDumpFault(unittest.TestCase):

    def test_client_raises_it(self):
        for code, sentence in ((103, 'there is no job 5'), (-32700, 'é <&>'), (1, '')):
            with self.assertRaises(xmlrpc.client.Fault) as caught:
                xmlrpc.client.loads(dumpFault(code, sentence))
            self.assertEqual((caught.exception.faultCode, caught.exception.faultString), (code, sentence))

    def test_sentence_is_made_sendable(self):
        with self.assertRaises(xmlrpc.client.Fault) as caught:
            xmlrpc.client.loads(dumpFault(1, '\x00\ud800' + 'x' * 100000))
        self.assertEqual(caught.exception.faultString, '\ufffd\ufffd' + 'x' * (SENTENCE_SIZE - 2))


if __name__ == '__main__':
    unittest.main()
