"""The head of a request: taken apart as the standards say, or refused."""
# SPDX-License-Identifier: ZPL-2.1
import unittest

from lovely.remotetask.xmlrpc.head import Refusal
from lovely.remotetask.xmlrpc.head import endOfHead
from lovely.remotetask.xmlrpc.head import parseHead


MOST = 10       # headers


def parse(requestLine, *headers):
    return parseHead('\r\n'.join((requestLine, *headers, '', '')).encode('latin-1'), MOST)


class TestHead(unittest.TestCase):

    def assertRefused(self, status, function, *arguments):
        with self.assertRaises(Refusal) as caught:
            function(*arguments)
        self.assertEqual(caught.exception.status, status, arguments)

    def test_headers(self):
        head = parse('POST /a HTTP/1.1', 'Host:x', 'X-A: \t a  b\t ', 'x-a:', 'X-a: \xe9', "!#$%&'*+.^_`|~-1: y")
        self.assertEqual((head.command, head.target, head.version), ('POST', '/a', (1, 1)))
        self.assertEqual(head.headers, {'host': 'x', 'x-a': 'a  b, , \xe9', "!#$%&'*+.^_`|~-1": 'y'})

    def test_malformed_headers(self):
        for header in (' X: y', '\tX: y', 'X : y', 'X', '', ': y', 'X\xe9: y', 'X: \x00', 'X: \r', 'X: \n', 'X: \x7f',
                       'X:\x0b', 'X\r: y', '"X": y'):
            self.assertRefused(400, parse, 'POST / HTTP/1.1', 'Host: x', header)
            self.assertRefused(400, parse, 'POST / HTTP/1.1', header, 'Host: x')
        self.assertRefused(431, parse, 'POST / HTTP/1.1', *['Host: x'] * 11)

    def test_request_lines(self):
        for line in ('', 'POST', 'POST /', 'POST  / HTTP/1.1', 'POST / HTTP/1.1 ', ' POST / HTTP/1.1',
                     'POST\t/ HTTP/1.1', 'P(ST / HTTP/1.1', 'POST /\x7f HTTP/1.1', 'POST /\xe9 HTTP/1.1',
                     'POST / HTTP/1', 'POST / HTTP/1.10',
                     'POST / HTTP/11', 'POST / http/1.1', 'POST / HTTP/\xb9.1', 'POST * HTTP/1.1', 'POST a HTTP/1.1',
                     'POST /#a HTTP/1.1', 'POST ftp://x/ HTTP/1.1', 'POST http:///a HTTP/1.1', 'POST ?a HTTP/1.1'):
            self.assertRefused(400, parse, line, 'Host: x')
        for version in '0.9', '2.0', '9.9':
            self.assertRefused(505, parse, f'POST / HTTP/{version}', 'Host: x')
        self.assertEqual(parse('POST / HTTP/1.9', 'Host: x').version, (1, 1))
        head = parse('OPTIONS * HTTP/1.1', 'Host: x')
        self.assertEqual((head.target, head.path), ('*', '*'))

    def test_one_host(self):
        self.assertRefused(400, parse, 'POST / HTTP/1.1')
        self.assertRefused(400, parse, 'POST / HTTP/1.1', 'Host: x', 'Host: x')
        self.assertRefused(400, parse, 'POST / HTTP/1.0', 'Host: x', 'Host: y')
        parse('POST / HTTP/1.0')

    def test_paths(self):
        for target, path in (('/', '/'), ('/RPC2', '/'), ('/RPC2?a=b', '/'), ('/RPC2/', '/RPC2/'), ('/%52PC2', '/RPC2'),
                             ('/a/%C3%A4?b#', None), ('/a/%C3%A4?b', '/a/ä'), ('http://x', '/'),
                             ('HTTPS://x:1/a', '/a'),
                             ('http://x?a', '/'), ('//x/a', '//x/a'), ('/%2e%2e', '/..')):
            if path is None:
                self.assertRefused(400, parse, f'POST {target} HTTP/1.1', 'Host: x')
            else:
                self.assertEqual(parse(f'POST {target} HTTP/1.1', 'Host: x').path, path)

    def test_connections(self):
        for version, header, isLast in (('1', '', False), ('1', 'close', True), ('1', 'keep-alive, CLOSE ', True),
                                        ('1', 'closed', False), ('0', '', True), ('0', 'Keep-Alive', False),
                                        ('0', 'keep-alive,close', True)):
            head = parse(f'POST / HTTP/1.{version}', 'Host: x', f'Connection: {header}')
            self.assertIs(head.isLast, isLast, (version, header))

    def test_expectations(self):
        def expects(version, *headers):
            return parse(f'POST / HTTP/1.{version}', 'Host: x', *headers).expectsContinue
        self.assertIs(expects(1), False)
        self.assertIs(expects(1, 'Expect: 100-Continue'), True)
        self.assertIs(expects(0, 'Expect: 100-continue'), False)
        self.assertRefused(417, expects, 1, 'Expect: 100-continue', 'Expect: more')

    def test_lengths(self):
        def length(*headers):
            return parse('POST / HTTP/1.1', 'Host: x', *headers).bodyLength(100)
        self.assertEqual(length('Content-Length: 0'), 0)
        self.assertEqual(length('content-length: 0100 '), 100)
        self.assertRefused(411, length)
        self.assertRefused(413, length, 'Content-Length: 101')
        self.assertRefused(400, length, 'Content-Length: 1', 'Content-Length: 1')
        for text in '', '-1', '+1', '1.0', '1_0', '0x1', '1 1', '1,1', '\xb2', '9' * 19:
            self.assertRefused(400, length, f'Content-Length: {text}')

    def test_chunks(self):
        def length(*headers, requestLine='POST / HTTP/1.1'):
            return parse(requestLine, 'Host: x', *headers).bodyLength(100)
        for coding in 'chunked', ' Chunked\t', 'CHUNKED':
            self.assertIsNone(length(f'Transfer-Encoding:{coding}'))
        for coding in ('gzip', 'identity', 'gzip, chunked', 'xchunked', 'chunkedx', 'chunked;q=1', '"chunked"',
                       'chun ked', 'trailers'):
            self.assertRefused(501, length, f'Transfer-Encoding: {coding}')
        for coding in '', ',', ',chunked', 'chunked,', 'chunked, chunked', 'chunked, gzip', 'chunked, identity':
            self.assertRefused(400, length, f'Transfer-Encoding: {coding}')
        self.assertRefused(400, length, 'Transfer-Encoding: chunked', 'Transfer-Encoding: chunked')
        self.assertRefused(501, length, 'Transfer-Encoding: gzip', 'Transfer-Encoding: chunked')
        for coding in 'chunked', 'identity', '':
            self.assertRefused(400, length, 'Content-Length: 5', f'Transfer-Encoding: {coding}')
            self.assertRefused(400, length, f'Transfer-Encoding: {coding}', 'Content-Length: 0')
        self.assertRefused(400, lambda: length('Transfer-Encoding: chunked', requestLine='POST / HTTP/1.0'))

    def test_charset(self):
        def charset(*values):
            return parse('POST / HTTP/1.1', 'Host: x', *(f'Content-Type: {value}' for value in values)).charset
        self.assertIsNone(charset())
        for value, expected in (
                ('text/xml', None), ('', None), ('text/xml;', None), ('text/xml; charset=UTF-8', 'utf-8'),
                ('text/xml;CHARSET=utf-8', 'utf-8'), ('text/xml ;\tcharset = utf-8 ', 'utf-8'),
                ('text/xml; charset="utf-8"', 'utf-8'), (r'text/xml; charset="u\tf-8" ; a=b', 'utf-8'),
                ('text/xml; a="; charset=koi8-r"; charset=utf-8', 'utf-8'),
                ('text/xml; a=b; charset=utf-8; c', 'utf-8'),
                ('text/xml; a; charset=utf-8', 'utf-8'), ('text/xml; charset=utf-8; Charset="UTF-8"', 'utf-8'),
                ('text/plain;charset=utf-8', 'utf-8'), ('text/xml; xcharset=utf-8', None),
                # What is no name of a charset is none that is supported.
                ('text/xml; charset=', ''), ('text/xml; charset=""', ''), ('text/xml; charset="utf-8', ''),
                ("text/xml; charset='utf-8'", "'utf-8'")):
            self.assertEqual(charset(value), expected, value)
        self.assertEqual(charset('text/xml; charset=utf-8', 'text/xml'), 'utf-8, text/xml')
        with self.assertRaises(Refusal):
            charset('text/xml; charset=utf-8; charset=koi8-r')

    def test_end_of_head(self):
        data = b'POST / HTTP/1.1\r\nHost: x\r\n\r\nbody\r\n\r\n'
        end = data.index(b'body')
        for length in range(len(data) + 1):
            for start in range(min(length, end) + 1):
                # What has been looked at before did not have an end.
                if start < end:
                    self.assertEqual(endOfHead(data[:length], start), end if length >= end else None)
        self.assertIsNone(endOfHead(b'POST / HTTP/1.1\n\n', 0))

    def test_effort_is_linear(self):
        parse('POST / HTTP/1.1', 'Host: x', 'X: ' + ' ' * 2_000_000 + 'y')      # would take hours
        parse('POST /' + '?' * 2_000_000 + ' HTTP/1.1', 'Host: x')
        for value in ';' * 500_000, ';a="' * 500_000, '; "' + r'\"' * 500_000, ';a=b' + ' ' * 2_000_000 + '"':
            self.assertIsNone(parse('POST / HTTP/1.1', 'Host: x', f'Content-Type: {value}').charset)


if __name__ == '__main__':
    unittest.main()
