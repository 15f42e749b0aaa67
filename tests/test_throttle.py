"""How long clients wait after wrong passwords."""
# SPDX-License-Identifier: ZPL-2.1
import unittest

from lovely.remotetask.xmlrpc.access import Throttle


class TestThrottle(unittest.TestCase):

    def setUp(self):
        self.throttle = Throttle()

    def fail(self, count, address='192.0.2.1', name='ann', now=0.0):
        for _ in range(count):
            self.throttle.failed(address, name, now)

    def wait(self, address='192.0.2.1', name='ann', now=0.0):
        return self.throttle.wait(address, name, now)

    def test_waits_grow(self):
        self.assertEqual(self.wait(), 0)
        waits = []
        for _ in range(12):
            self.fail(1)
            waits.append(self.wait())
        self.assertEqual(waits, [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60])
        self.assertEqual(self.wait(now=59.5), 0.5)
        self.assertEqual(self.wait(now=60), 0)

    def test_others_are_not_held_up(self):
        self.fail(10)
        self.assertEqual(self.wait(name='bob'), 0)
        self.assertEqual(self.wait(address='192.0.2.2'), 0)

    def test_addresses(self):
        for number in range(22):
            self.fail(1, name=str(number))
        self.assertEqual(self.wait(name='new'), 4)
        self.assertEqual(self.wait(name='new', address='192.0.2.2'), 0)

    def test_names(self):
        for number in range(22):
            self.fail(1, address=f'192.0.2.{number}')
        self.assertEqual(self.wait(address='198.51.100.1'), 4)
        self.assertEqual(self.wait(address='198.51.100.1', name='bob'), 0)

    def test_who_has_logged_in(self):
        self.throttle.succeeded('192.0.2.1', 'ann')
        for number in range(100):
            self.fail(1, address=f'192.0.2.{number + 2}')       # the name is attacked
            self.fail(1, name=str(number))                      # and so it is from this address
        self.assertEqual(self.wait(), 0)
        self.assertEqual(self.wait(name='bob'), 60)
        self.fail(4)
        self.assertEqual(self.wait(), 2)
        self.throttle.succeeded('192.0.2.1', 'ann')
        self.assertEqual(self.wait(), 0)

    def test_failures_are_forgiven(self):
        self.fail(5)
        self.assertEqual(self.wait(), 4)
        self.fail(1, now=60)                                    # two were forgiven
        self.assertEqual(self.wait(now=60), 2)
        self.fail(1, now=1000)
        self.assertEqual(self.wait(now=1000), 0)

    def test_a_client_with_an_old_password(self):
        # It tries as often as it may, for a day.  Nobody else at its address has to wait, ever.
        now = 0.0
        while now < 86400:
            self.fail(1, now=now)
            now += max(0.1, self.wait(now=now))
            self.assertEqual(self.wait(name='bob', now=now), 0)
            self.assertEqual(self.wait(address='192.0.2.2', now=now), 0)

    def test_networks(self):
        self.fail(5, '2001:db8:0:1::1')
        for address, wait in (('2001:db8:0:1:ffff::2', 4), ('2001:db8:0:2::1', 0), ('2001:db8:0:1::1%lo', 4)):
            self.assertEqual(self.wait(address), wait)
        self.fail(5, '::ffff:192.0.2.9')
        self.assertEqual(self.wait('192.0.2.9'), 4)
        self.assertEqual(self.wait('::ffff:192.0.2.8'), 0)

    def test_memory_is_bounded(self):
        throttle = Throttle(size=10)
        for number in range(1000):
            throttle.failed(f'2001:db8:0:{number:x}::1', f'{number}' * 1000, 0)
            throttle.succeeded('192.0.2.1', str(number))
        self.assertEqual(throttle.statistics(), {'counted': 10, 'proven': 10})

    def test_long_names_are_cut(self):
        for _ in range(5):
            self.throttle.failed('192.0.2.1', 'x' * 100 + 'yz', 0)
        self.assertEqual(self.wait('192.0.2.1', 'x' * 100 + 'y'), 4)
        self.assertEqual(self.wait('192.0.2.1', 'x' * 99), 0)


if __name__ == '__main__':
    unittest.main()
