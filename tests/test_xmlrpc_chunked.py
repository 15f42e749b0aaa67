"""Bodies in chunks, taken apart without a connection: read as RFC 9112 says, or refused."""
# SPDX-License-Identifier: ZPL-2.1
import unittest
import weakref

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from lovely.remotetask.xmlrpc.chunked import EXTRA_SIZE
from lovely.remotetask.xmlrpc.chunked import LINE_SIZE
from lovely.remotetask.xmlrpc.chunked import ChunkedDecoder
from lovely.remotetask.xmlrpc.head import Refusal


LIMIT = 100
NEXT = b'POST / HTTP/1.1\r\n'       # what follows a body


def decode(data, limit=LIMIT, step=None):
    """Return what is decoded of the data, whether that is all, and what is left; `step` bytes arrive at a time."""
    decoder, buffer, isComplete = ChunkedDecoder(limit), bytearray(), False
    for start in range(0, len(data), step or len(data) or 1):
        buffer += data[start:start + (step or len(data))]
        if not isComplete:
            isComplete = decoder.decode(buffer)
    return bytes(decoder.body), isComplete, bytes(buffer)


class TestChunkedDecoder(unittest.TestCase):

    def assertRefused(self, status, data, **more):
        for step in None, 1:
            with self.subTest(data[:60], step=step), self.assertRaises(Refusal) as caught:
                decode(data, step=step, **more)
            self.assertEqual(caught.exception.status, status)

    def test_bodies(self):
        for data, body in ((b'0\r\n\r\n', b''), (b'5\r\nhello\r\n0\r\n\r\n', b'hello'),
                           (b'1\r\nh\r\n04\r\nello\r\n000\r\n\r\n', b'hello'),
                           (b'A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n', b'01234567890123456789a'),
                           (b'2\r\n\r\n\r\n0\r\n\r\n', b'\r\n'),
                           (b'5;a\r\nhello\r\n0 \t; a=b;c="d\xe9;"\r\n\r\n', b'hello'),
                           (b'5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 70\r\n\r\n', b'hello')):
            for step in None, 1, 2, 3:
                self.assertEqual(decode(data + NEXT, step=step), (body, True, NEXT), data)
                for end in range(len(data)):
                    self.assertFalse(decode(data[:end], step=step)[1])

    def test_malformed(self):
        for line in (b'', b' 5', b'5 ', b'+5', b'-5', b'0x5', b'5_0', b'g', b'5h', b'\xb2', b'0' * 17, b';a', b'5,5',
                     b'5\n', b'5;a\nb', b'5;a\rb', b'5;\x00', b'5;\x7f', b'5\x00'):
            self.assertRefused(400, line + b'\r\nhello\r\n0\r\n\r\n')
        for data in (b'5\nhello\n0\n\n', b'5\r\nhello0\r\n\r\n', b'5\r\nhello\n0\r\n\r\n', b'5\r\nhello\r0\r\n\r\n',
                     b'5\r\nhello!\r\n0\r\n\r\n', b'5\r\nhell\r\n0\r\n\r\n', b'0\r\nX\r\n\r\n', b'0\r\nX : y\r\n\r\n',
                     b'0\r\n folded\r\n\r\n', b'0\r\nX: \x00\r\n\r\n', b'0\r\nX: y\nZ: a\r\n\r\n'):
            self.assertRefused(400, data + NEXT + b'\r\n')

    def test_limits(self):
        chunk = b'%x\r\n%s\r\n'
        self.assertEqual(decode(chunk % (60, b'x' * 60) + chunk % (40, b'y' * 40) + b'0\r\n\r\n')[1], True)
        self.assertRefused(413, b'65\r\n')                                      # before any of it has come
        self.assertRefused(413, chunk % (60, b'x' * 60) + b'29\r\n')
        self.assertRefused(413, b'ffffffffffffffff\r\n')
        extension = b';' + b'x' * (LINE_SIZE - 2)
        self.assertEqual(decode(b'1%s\r\nx\r\n0\r\n\r\n' % extension)[1], True)
        self.assertRefused(400, b'1%sx\r\n' % extension)
        self.assertRefused(400, b'1;' + b'x' * 10_000)                          # nor does it wait for the end
        self.assertRefused(400, b'0\r\nX: ' + b'x' * 10_000)
        self.assertRefused(431, (b'1%s\r\nx\r\n' % extension) * (EXTRA_SIZE // LINE_SIZE + 2))
        self.assertRefused(431, b'0\r\n' + b'X: y\r\n' * EXTRA_SIZE)

    def test_the_body_goes_with_the_decoder(self):
        """And not when the garbage is collected some time: there can be many large ones."""
        for data in b'', b'5\r\nhel', b'5\r\nhello', b'5\r\nhello\r\n0\r\n', b'0\r\n\r\n':
            decoder = ChunkedDecoder(LIMIT)
            decoder.decode(bytearray(data))
            reference = weakref.ref(decoder)
            del decoder
            self.assertIsNone(reference(), data)

    def test_many_small_chunks(self):
        size = 100_000
        self.assertEqual(decode(b'1\r\nx\r\n' * size + b'0\r\n\r\n', size), (b'x' * size, True, b''))

    @settings(deadline=None, derandomize=True)
    @given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.integers(1, 50))
    def test_any_pieces(self, chunks, step):
        data = b''.join(b'%x\r\n%s\r\n' % (len(chunk), chunk) for chunk in chunks) + b'0\r\n\r\n'
        self.assertEqual(decode(data + NEXT, 3000, step), (b''.join(chunks), True, NEXT))

    @settings(deadline=None, derandomize=True)
    @given(st.lists(st.sampled_from([b'0', b'5', b'a', b';', b'\r\n', b'\r', b'\n', b' ', b'hello', b'X: y', b'\x00'])))
    def test_any_bytes_are_read_the_same_however_they_arrive(self, pieces):
        def outcome(step):
            try:
                return decode(b''.join(pieces) + b'\r\n\r\n', step=step)
            except Refusal as refusal:
                return refusal.status
        self.assertEqual(outcome(1), outcome(None))


if __name__ == '__main__':
    unittest.main()
