"""Schedules: fields, crontab text, time zones; and all of it compared with a search minute by minute."""
# SPDX-License-Identifier: ZPL-2.1
import datetime
import itertools
import random
import unittest
import zoneinfo
from unittest import mock

from lovely.remotetask.schedules import cron


UTC = datetime.timezone.utc
MINUTE = datetime.timedelta(minutes=1)

#: Zone -> days of 24 hours, in UTC, around which its clocks change.
CHANGES = {
    'Europe/Berlin': ('2024-03-31', '2024-10-27'),
    'America/New_York': ('2024-03-10', '2024-11-03'),
    'Australia/Lord_Howe': ('2024-04-06', '2024-10-05'),            # by 30 minutes
    'Pacific/Apia': ('2011-04-02', '2011-09-24', '2011-12-30'),     # there was no 30 December
    'America/St_Johns': ('2006-04-02', '2006-10-29'),               # at 00:01: the day before comes again
    'America/Sao_Paulo': ('2018-02-18', '2018-11-04'),              # at 00:00: a day without midnight
}


def seconds(text):
    """Return the UTC seconds of a time in ISO format; without an offset it is in UTC."""
    moment = datetime.datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def times(start, count, **fields):
    """Return the next times in ISO format without seconds, local ones with their offset."""
    zone = zoneinfo.ZoneInfo(fields['timeZone']) if fields.get('timeZone') else None
    now, found = seconds(start), []
    for _ in range(count):
        now = cron.nextTime(now, **fields)
        moment = datetime.datetime.fromtimestamp(now, zone or UTC)
        found.append((moment if zone else moment.replace(tzinfo=None)).isoformat(' ', 'minutes'))
    return found


class TestFields(unittest.TestCase):

    def test_examples_of_the_first_documents(self):
        for fields, start, expected in (
                ({'minute': (0, 10)}, '1970-01-01 00:00', ['1970-01-01 00:10', '1970-01-01 01:00']),
                ({'hour': (2, 13)}, '1970-01-01 00:00', ['1970-01-01 02:00', '1970-01-01 13:00']),
                ({'month': (1, 5, 12)}, '1970-01-01 00:00', ['1970-05-01 00:00', '1970-12-01 00:00']),
                ({'dayOfWeek': (0, 2, 4, 5)}, '1970-01-01 00:00', ['1970-01-02 00:00', '1970-01-03 00:00',
                                                                   '1970-01-05 00:00', '1970-01-07 00:00']),
                ({'dayOfMonth': (1, 12, 21, 30)}, '1970-01-01 00:00', ['1970-01-12 00:00', '1970-01-21 00:00']),
                ({'dayOfMonth': (1, 12, 21, 30)}, '1970-01-13 00:00', ['1970-01-21 00:00']),
                ({'minute': (10,), 'dayOfMonth': (1, 12, 21, 30)}, '1970-01-01 00:00',
                 ['1970-01-01 00:10', '1970-01-01 01:10']),
                ({'minute': (10,), 'hour': (4,), 'dayOfMonth': (1, 12, 21, 30)}, '1970-01-01 00:00',
                 ['1970-01-01 04:10']),
                ({'minute': (10,), 'hour': (4,), 'dayOfMonth': (1, 12, 21, 30)}, '1970-01-01 00:10',
                 ['1970-01-01 04:10', '1970-01-12 04:10'])):
            with self.subTest(fields=fields):
                self.assertEqual(times(start, len(expected), **fields), expected)

    def test_lengths_of_months(self):
        for fields, start, expected in (
                ({'dayOfMonth': (31,)}, '2023-01-31', ['2023-03-31 00:00', '2023-05-31 00:00', '2023-07-31 00:00',
                                                       '2023-08-31 00:00', '2023-10-31 00:00', '2023-12-31 00:00']),
                ({'dayOfMonth': (29,), 'month': (2,)}, '1896-02-28', ['1896-02-29 00:00', '1904-02-29 00:00']),
                ({'dayOfMonth': (29,), 'month': (2,)}, '2096-02-29', ['2104-02-29 00:00']),
                ({'dayOfMonth': (29,), 'month': (2,), 'dayOfWeek': (0,)}, '2000-01-01', ['2016-02-29 00:00',
                                                                                         '2044-02-29 00:00']),
                ({'dayOfMonth': (29,), 'month': (2,), 'dayOfWeek': (0,)}, '2072-03-01', ['2112-02-29 00:00'])):
            with self.subTest(fields=fields):
                self.assertEqual(times(start, len(expected), **fields), expected)

    def test_never(self):
        for timeZone in (None, 'Europe/Berlin'):
            for fields in ({'dayOfMonth': (30,), 'month': (2,)}, {'dayOfMonth': (31,), 'month': (2, 4, 6, 9, 11)},
                           {'dayOfMonth': (30, 31), 'month': (2,), 'dayOfWeek': (0,), 'hour': (3,)}):
                with self.subTest(fields=fields, timeZone=timeZone):
                    self.assertIsNone(cron.nextTime(0, timeZone=timeZone, **fields))

    def test_ends_of_the_calendar(self):
        for timeZone in (None, 'Pacific/Kiritimati', 'Pacific/Pago_Pago'):
            for now in (1e15, -1e15, seconds('9999-12-31 23:58'), seconds('0001-01-01')):
                with self.subTest(now=now, timeZone=timeZone):
                    self.assertIsNone(cron.nextTime(now, timeZone=timeZone))
        self.assertIsNone(cron.nextTime(seconds('9998-12-31'), month=(12,)))

    def test_now(self):
        for now, expected in ((0, 60), (59.9, 60), (60, 120), (-1, 0), (-0.5, 0), (-60, 0), (-61, -60)):
            with self.subTest(now=now):
                self.assertEqual(cron.nextTime(now), expected)
                self.assertIsInstance(cron.nextTime(now), int)

    def test_either_day(self):
        fields = {'dayOfMonth': (13,), 'dayOfWeek': (4,)}
        self.assertEqual(times('2024-09-01', 2, **fields), ['2024-09-13 00:00', '2024-12-13 00:00'])
        self.assertEqual(times('2024-10-05', 3, eitherDay=True, **fields),
                         ['2024-10-11 00:00', '2024-10-13 00:00', '2024-10-18 00:00'])
        self.assertEqual(times('2024-09-20', 2, eitherDay=True, month=(9, 12), **fields),
                         ['2024-09-27 00:00', '2024-12-06 00:00'])
        self.assertEqual(times('2024-09-01', 2, eitherDay=True, dayOfWeek=(4,)),
                         ['2024-09-06 00:00', '2024-09-13 00:00'])


    def test_values_of_fields(self):
        for values in ((), [], None, set(), range(0), iter(())):
            self.assertEqual(cron.checkFields(minute=values), {'minute': ()})
        self.assertEqual(cron.checkFields(minute=(value for value in (5, 0, 5))), {'minute': (0, 5)})
        for values, sentence in (
                (0, 'minute: a list of numbers from 0 to 59 is needed, not 0'),
                (False, 'minute: a list of numbers from 0 to 59 is needed, not False'),
                ('5', "a list of numbers from 0 to 59 is needed, not '5'"), (b'5', 'a list of numbers'),
                ({5: 5}, 'a list of numbers'), (bytearray(b'5'), 'a list of numbers'),
                ([True], 'minute: True is not a number from 0 to 59'), ([5.0], 'minute: 5.0 is not a number'),
                ([None], 'minute: None is not a number'), ([float('nan')], 'minute: nan is not a number'),
                ([10 ** 5000], 'minute: <int> is not a number'), ([60], 'minute: 60 is not'), ([-1], '-1 is not'),
                ([5] * 1001, 'minute: the list has more than 1000 values'),
                (itertools.repeat(5), 'minute: the list has more than 1000 values')):
            with self.subTest(values=str(type(values))), self.assertRaises(ValueError) as caught:
                cron.checkFields(minute=values)
            self.assertIn(sentence, str(caught.exception))

    def test_delays(self):
        for delay in (None, 0, 0.0, 1e-9, 3.3, cron.LONGEST):
            self.assertEqual(cron.checkDelay(delay), delay)
        for delay in (True, False, '5', b'5', [5], -1, -1e-9, float('nan'), float('inf'), -float('inf'), 10 ** 5000,
                      1e9):
            with self.subTest(type=type(delay)), self.assertRaisesRegex(ValueError, '^delay: .* is not a number of s'):
                cron.checkDelay(delay)
        self.assertEqual(cron.checkDelay(0.1, isInterval=True), 0.1)
        for delay in (0, 1e-9, 0.099):
            with self.assertRaisesRegex(ValueError, '^delay: .* too short .* the shortest interval is 0.1 seconds$'):
                cron.checkDelay(delay, isInterval=True)

    def test_no_number(self):
        for now in (float('inf'), -float('inf'), float('nan')):
            self.assertIsNone(cron.nextTime(now))


class TestTimeZones(unittest.TestCase):

    level = 2

    def test_names(self):
        for name in (None, 'UTC'):
            self.assertIsNone(cron.checkTimeZone(name))
        for name in ('Europe/Berlin', 'America/Argentina/Buenos_Aires', 'Etc/GMT+5'):
            self.assertEqual(cron.checkTimeZone(name), name)

    def test_bad_names(self):
        sentence = "^timeZone: .* is not a time zone such as 'Europe/Berlin'$"
        for name in ('', 'localtime', 'posixrules', 'Factory', 'right/UTC', 'right/Europe/Berlin',
                     'posix/Europe/Berlin', 'europe/berlin', 'utc', 10 ** 5000,
                     'Europe/Bonn', 'Europe', 'Europe/', '.', '..', '../passwd', '/etc/passwd', 'tzdata.zi', ' ',
                     'a\0b', '\udcff', 'x' * 5000, 'a/' * 3000, 'Europe/Berlin ', b'UTC', 1, 0, True, ('UTC',), [], {}):
            with self.subTest(name=name):
                for call in (cron.checkTimeZone, lambda name: cron.nextTime(0, timeZone=name)):
                    with self.assertRaisesRegex(ValueError, sentence):
                        call(name)
        with self.assertRaises(ValueError) as caught:
            cron.checkTimeZone('Europe/Bonn')
        self.assertEqual(str(caught.exception), "timeZone: 'Europe/Bonn' is not a time zone such as 'Europe/Berlin'")

    def test_zones_that_cannot_be_read(self):
        for error in (PermissionError(), IsADirectoryError(), zoneinfo.ZoneInfoNotFoundError('no database')):
            with self.subTest(error=error), mock.patch('zoneinfo.ZoneInfo', side_effect=error):
                with self.assertRaisesRegex(ValueError, "'Europe/Berlin' is not a time zone"):
                    cron.checkTimeZone('Europe/Berlin')

    def test_zones_are_read_again(self):
        # One look at the disk for many bad names; and a zone that has come there later is found.
        zones, names = cron._Zones(), {'Europe/Berlin'}
        with mock.patch('zoneinfo.available_timezones', side_effect=lambda: set(names)) as look:
            with mock.patch('time.monotonic', side_effect=lambda: now):
                now = 10.0
                self.assertIn('Europe/Berlin', zones)
                for number in range(100):
                    self.assertNotIn(f'Mars/{number}', zones)
                names.add('Mars/Base')
                self.assertEqual((look.call_count, 'Mars/Base' in zones), (1, False))
                now += cron.ZONES_AGE
                self.assertEqual(('Mars/Base' in zones, look.call_count), (True, 2))
                now += cron.ZONES_AGE
                self.assertEqual(('Europe/Berlin' in zones, look.call_count), (True, 2))

    def test_fields_are_local(self):
        self.assertEqual(times('2024-01-15', 1, hour=(2,), timeZone='Europe/Berlin'), ['2024-01-15 02:00+01:00'])
        self.assertEqual(times('2024-07-15', 1, hour=(2,), timeZone='Europe/Berlin'), ['2024-07-16 02:00+02:00'])
        self.assertEqual(times('2024-07-15 12:00', 1, dayOfWeek=(1,), timeZone='Pacific/Auckland'),
                         ['2024-07-23 00:00+12:00'])
        self.assertEqual(times('2024-07-15', 1, minute=(0,), timeZone='Asia/Kathmandu'), ['2024-07-15 06:00+05:45'])

    def test_clock_goes_forward(self):
        for zone, start, fields, expected in (
                ('Europe/Berlin', '2024-03-30 12:00', {'hour': (2,), 'minute': (30,)},
                 ['2024-03-31 03:30+02:00', '2024-04-01 02:30+02:00']),
                ('Europe/Berlin', '2024-03-30 12:00', {'hour': (2, 3), 'minute': (30,)},
                 ['2024-03-31 03:30+02:00', '2024-04-01 02:30+02:00']),
                ('Europe/Berlin', '2024-03-30 23:30', {'minute': (30,)},
                 ['2024-03-31 01:30+01:00', '2024-03-31 03:30+02:00']),
                ('Europe/Berlin', '2024-03-30 23:30', {'minute': (30,), 'hour': tuple(range(24))},
                 ['2024-03-31 01:30+01:00', '2024-03-31 03:30+02:00']),
                ('Australia/Lord_Howe', '2024-10-05 12:00', {'hour': (2,), 'minute': (0, 15, 45)},
                 ['2024-10-06 02:30+11:00', '2024-10-06 02:45+11:00', '2024-10-07 02:00+11:00']),
                ('Australia/Lord_Howe', '2024-10-05 14:15', {'minute': (15,)},
                 ['2024-10-06 01:15+10:30', '2024-10-06 03:15+11:00']),
                ('America/Sao_Paulo', '2018-11-03 12:00', {'dayOfWeek': (6,)},
                 ['2018-11-04 01:00-02:00', '2018-11-11 00:00-02:00']),
                ('Pacific/Apia', '2011-12-29 12:00', {'hour': (2,)},
                 ['2011-12-31 02:00+14:00', '2012-01-01 02:00+14:00']),
                ('Pacific/Apia', '2011-12-29 12:00', {'dayOfMonth': (30,), 'hour': (23,)},
                 ['2011-12-31 23:00+14:00', '2012-01-30 23:00+14:00']),
                ('Pacific/Apia', '2011-12-31 08:30', {'dayOfMonth': (30,), 'hour': (23,)},
                 ['2011-12-31 23:00+14:00']),
                ('Pacific/Apia', '2011-12-29 12:00', {'dayOfMonth': (30, 31), 'minute': (0,), 'hour': tuple(range(24))},
                 ['2011-12-31 00:00+14:00', '2011-12-31 01:00+14:00'])):
            with self.subTest(zone=zone, fields=fields):
                self.assertEqual(times(start, len(expected), timeZone=zone, **fields), expected)

    def test_clock_goes_back(self):
        for zone, start, fields, expected in (
                ('Europe/Berlin', '2024-10-26 12:00', {'hour': (2,), 'minute': (30,)},
                 ['2024-10-27 02:30+02:00', '2024-10-28 02:30+01:00']),
                ('Europe/Berlin', '2024-10-26 23:30', {'minute': (30,)},
                 ['2024-10-27 02:30+02:00', '2024-10-27 02:30+01:00', '2024-10-27 03:30+01:00']),
                ('Europe/Berlin', '2024-10-27 00:00', {'minute': (30,), 'hour': tuple(range(23))},
                 ['2024-10-27 02:30+02:00', '2024-10-27 03:30+01:00']),
                ('Europe/Berlin', '2024-10-27 00:45', {'minute': (0, 50)},
                 ['2024-10-27 02:50+02:00', '2024-10-27 02:00+01:00', '2024-10-27 02:50+01:00']),
                ('Australia/Lord_Howe', '2024-04-06 14:40', {'minute': (45,)},
                 ['2024-04-07 01:45+11:00', '2024-04-07 01:45+10:30', '2024-04-07 02:45+10:30']),
                ('America/St_Johns', '2006-10-29 02:20', {'minute': (0, 30)},
                 ['2006-10-29 00:00-02:30', '2006-10-28 23:30-03:30', '2006-10-29 00:00-03:30']),
                ('America/St_Johns', '2006-10-29 02:20', {'dayOfWeek': (5,), 'minute': (30,), 'hour': tuple(range(24))},
                 ['2006-10-28 23:30-03:30', '2006-11-04 00:30-03:30'])):
            with self.subTest(zone=zone, fields=fields):
                self.assertEqual(times(start, len(expected), timeZone=zone, **fields), expected)

    def test_elapsed_time(self):
        for zone, day in (('Europe/Berlin', '2024-03-30'), ('Europe/Berlin', '2024-10-26'),
                          ('Pacific/Apia', '2011-12-29')):
            now = seconds(day)
            for _ in range(2 * 24 * 6):
                self.assertEqual(cron.nextTime(now, minute=tuple(range(0, 60, 10)), timeZone=zone), now + 600)
                now += 600


    def test_what_comes_more_often_than_hourly_does_not_pause(self):
        # The longest pause around the change of the clocks, in minutes.
        for zone, days in {**CHANGES, 'America/Havana': ('2024-03-10', '2024-11-03')}.items():
            for day in days:
                for text, most in (('*/2 18-23,0-6 * * *', 2), ('0,30 20-23,0-5 * * *', 30), ('*/10 0-23 * * *', 10),
                                   ('7,17 22-23,0-4 * * *', 80 if zone == 'Australia/Lord_Howe' else 50)):
                    fields = cron.parseCrontab(text)
                    now, pauses = seconds(day), []
                    while now < seconds(day) + 86400 + 43200:
                        time = cron.nextTime(now, timeZone=zone, **fields)
                        self.assertGreater(time, now)
                        pauses.append((time - now) / 60)
                        now = time
                    with self.subTest(zone=zone, day=day, text=text):
                        # Those of a day, when it is not to come, apart; there was no 30 December 2011 in Apia.
                        self.assertLessEqual(max(pause for pause in pauses[1:] if pause < 600), most)
                        self.assertLess(sum(pause >= 600 for pause in pauses), 5)

    def test_in_autumn(self):
        for zone, start, text, expected in (
                ('Europe/Berlin', '2024-10-27 00:45', '*/20 18-23,0-6 * * *',
                 ['02:00+01:00', '02:20+01:00', '02:40+01:00', '03:00+01:00']),
                ('Europe/Berlin', '2024-10-27 00:45', '*/20 0-2 * * *',
                 ['02:00+01:00', '02:20+01:00', '02:40+01:00', '00:00+01:00']),
                ('Europe/Berlin', '2024-10-27 00:45', '*/20 2-3 * * *', ['02:00+01:00', '02:20+01:00']),
                ('Europe/Berlin', '2024-10-26 23:50', '0,30 2 * * *', ['02:00+02:00', '02:30+02:00', '02:00+01:00']),
                ('Europe/Berlin', '2024-10-26 23:50', '30 0-6 * * *', ['02:30+02:00', '03:30+01:00']),
                ('Australia/Lord_Howe', '2024-04-06 14:25', '*/15 0-3 * * *',
                 ['01:30+11:00', '01:45+11:00', '01:30+10:30', '01:45+10:30', '02:00+10:30']),
                ('Australia/Lord_Howe', '2024-04-06 14:25', '*/15 1 * * *',
                 ['01:30+11:00', '01:45+11:00', '01:00+10:30']),
                ('America/Sao_Paulo', '2018-02-18 01:50', '*/30 22-23 * * *',
                 ['23:00-03:00', '23:30-03:00', '22:00-03:00'])):
            found = times(start, len(expected), timeZone=zone, **cron.parseCrontab(text))
            with self.subTest(zone=zone, text=text):
                self.assertEqual([time.split()[1] for time in found], expected)


class TestCrontab(unittest.TestCase):

    def test_texts(self):
        minutes, hours, days = tuple(range(60)), tuple(range(24)), tuple(range(1, 32))
        for text, *expected in (
                ('* * * * *', (), (), (), (), (), False),
                ('0 * * * *', (0,), (), (), (), (), False),
                ('*/10 * * * *', (0, 10, 20, 30, 40, 50), (), (), (), (), False),
                ('10-30/5,59 * * * *', (10, 15, 20, 25, 30, 59), (), (), (), (), False),
                ('5/15 * * * *', (5, 20, 35, 50), (), (), (), (), False),
                ('*/60 */24 * * *', (0,), (0,), (), (), (), False),
                ('0-59 0-23 1-31 1-12 *', (), (), (), (), (), False),
                ('* 0-23 * * *', (), (), (), (), (), False),
                ('* 2 * * *', minutes, (2,), (), (), (), False),
                ('0 * * * mon', (0,), hours, (), (), (0,), False),
                ('* * 1 * *', minutes, hours, (1,), (), (), False),
                ('0 0 * 3 *', (0,), (0,), days, (3,), (), False),
                ('* * * 3 *', minutes, hours, days, (3,), (), False),
                ('0 0 * 3 mon', (0,), (0,), days, (3,), (0,), False),
                ('0 0 * JAN,dec-Dec *', (0,), (0,), days, (1, 12), (), False),
                ('0 0 * feb-jun/2 *', (0,), (0,), days, (2, 4, 6), (), False),
                ('0 0 * * 0', (0,), (0,), (), (), (6,), False),
                ('0 0 * * 7', (0,), (0,), (), (), (6,), False),
                ('0 0 * * 0,7', (0,), (0,), (), (), (6,), False),
                ('0 0 * * Sun-tue', (0,), (0,), (), (), (0, 1, 6), False),
                ('0 0 * * sat-sun', (0,), (0,), (), (), (5, 6), False),
                ('0 0 * * 6-0', (0,), (0,), (), (), (5, 6), False),
                ('0 0 * * sun-sun', (0,), (0,), (), (), (6,), False),
                ('0 0 * * 5-7', (0,), (0,), (), (), (4, 5, 6), False),
                ('0 0 * * 1-5', (0,), (0,), (), (), (0, 1, 2, 3, 4), False),
                ('0 0 * * 5/2', (0,), (0,), (), (), (4, 6), False),
                ('0 0 * * 0-6', (0,), (0,), (), (), (), False),
                ('0 0 * * 1-7', (0,), (0,), (), (), (), False),
                ('30 4 1,15 * 5', (30,), (4,), (1, 15), (), (4,), True),
                ('0 0 1-31 * mon', (0,), (0,), days, (), (0,), True),
                ('0 0 13 * 0-6', (0,), (0,), (13,), (), (0, 1, 2, 3, 4, 5, 6), True),
                ('0 0 */10 * mon', (0,), (0,), (1, 11, 21, 31), (), (0,), False),
                ('0 0 13 * */2', (0,), (0,), (13,), (), (1, 3, 5, 6), False),
                (' 007\t0  1 \n 1 * \n', (7,), (0,), (1,), (1,), (), False),
                ('@hourly', (0,), (), (), (), (), False),
                ('@daily', (0,), (0,), (), (), (), False),
                (' @Midnight ', (0,), (0,), (), (), (), False),
                ('@weekly', (0,), (0,), (), (), (6,), False),
                ('@monthly', (0,), (0,), (1,), (), (), False),
                ('@yearly', (0,), (0,), (1,), (1,), (), False),
                ('@annually', (0,), (0,), (1,), (1,), (), False)):
            with self.subTest(text=text):
                names = ('minute', 'hour', 'dayOfMonth', 'month', 'dayOfWeek', 'eitherDay')
                found = cron.parseCrontab(text)
                self.assertEqual(found, dict(zip(names, expected)))
                self.assertIs(type(found['eitherDay']), bool)

    def test_bad_texts(self):
        for text, message in (
                ('61 * * * *', "crontab: 'minute' field '61': 61 is not from 0 to 59"),
                ('* 24 * * *', "crontab: 'hour' field '24': 24 is not from 0 to 23"),
                ('* * 0 * *', "crontab: 'dayOfMonth' field '0': 0 is not from 1 to 31"),
                ('* * * 1,13 *', "crontab: 'month' field '1,13': 13 is not from 1 to 12"),
                ('* * * * 8', "crontab: 'dayOfWeek' field '8': 8 is not from 0 to 7"),
                ('1-60 * * * *', '60 is not from 0 to 59'),
                ('? * * * *', "'minute' field '?': '?' is not a number from 0 to 59"),
                ('* * L * *', "'dayOfMonth' field 'L': 'L' is not a number from 1 to 31"),
                ('* * 15W * *', "'dayOfMonth' field '15W': '15W' is not a number from 1 to 31"),
                ('* * * * 5#2', "'dayOfWeek' field '5#2': '5#2' is not a number from 0 to 7, or one of sun mon tue"),
                ('* * * foo *', "'foo' is not a number from 1 to 12, or one of jan feb mar"),
                ('* * * monday *', "'monday' is not a number"),
                ('* mon * * *', "'mon' is not a number from 0 to 23"),
                ('*/0 * * * *', "'minute' field '*/0': the step '0' is not a number from 1 to 60"),
                ('*/61 * * * *', "the step '61' is not a number from 1 to 60"),
                ('*/ * * * *', "the step '' is not a number"),
                ('*/5/5 * * * *', "the step '5/5' is not a number"),
                ('* * * */feb *', "the step 'feb' is not a number"),
                ('30-10 * * * *', "'minute' field '30-10': the range 30-10 goes backwards"),
                ('* * * * fri-mon', 'the range fri-mon goes backwards'),
                ('* * * dec-jan *', 'the range dec-jan goes backwards'),
                ('-5 * * * *', "'' is not a number"),
                ('5- * * * *', "'' is not a number"),
                ('1-2-3 * * * *', "'2-3' is not a number"),
                ('1,,2 * * * *', "'' is not a number"),
                (', * * * *', "'' is not a number"),
                ('** * * * *', "'**' is not a number"),
                ('*-5 * * * *', "'*' is not a number"),
                ('+5 * * * *', "'+5' is not a number"),
                ('1_0 * * * *', "'1_0' is not a number"),
                ('1.5 * * * *', "'1.5' is not a number"),
                ('٣ * * * *', "'٣' is not a number"),
                ('² * * * *', "'²' is not a number"),
                ('9' * 900 + ' * * * *', f"{'9' * 20} is not from 0 to 59"),
                ('*/' + '9' * 900 + ' * * * *', f"the step '{'9' * 19} is not a number from 1 to 60"),
                ('0-' + '9' * 900 + ' * * * *', f"{'9' * 20} is not from 0 to 59"),
                ('', 'five fields are needed, minute, hour, dayOfMonth, month, dayOfWeek, not 0'),
                ('* * * *', 'five fields are needed, minute, hour, dayOfMonth, month, dayOfWeek, not 4'),
                ('* * * * * *', 'not 6'),
                ('@reboot', "'@reboot' is refused: it is no time"),
                ('@often', "'@often' is none of @hourly, @daily"),
                ('@every 5m', "'@every 5m': @every is not taken here; give the delay in seconds, and the option "),
                ('CRON_TZ=Europe/Berlin 0 3 * * *', "give the option timeZone, as 'Europe/Berlin', and only the five"),
                ('TZ="Asia/Tokyo" 0 3 * * *', "TZ= is not taken here; give the option timeZone, as 'Asia/Tokyo'"),
                ('TZ=UTC', "give the option timeZone, as 'UTC'"),
                ('SHELL=/bin/sh 0 3 * * *', 'variables are not taken here; give only the five fields'),
                ('0 0 3 * * *', "hour, dayOfMonth, month, dayOfWeek, not 6; seconds and years are not known here"),
                ('0 0 3 ? * MON-FRI 2025', 'not 7; seconds and years are not known here'),
                ('1, 2 * * * *', 'not 6; seconds and years are not known here, and a list has no spaces'),
                ('0 3 * * * root', "a user or a command, as 'root', is not taken here: the job runs its task; give "
                                   "only the five fields"),
                ('0 3 * * * /usr/bin/backup --all', "a user or a command, as '/usr/bin/backup'"),
                ('0 3 * * mon root /usr/bin/backup', "a user or a command, as 'root'"),
                ('@daily backup', "a user or a command, as 'backup', is not taken here: the job runs its task; give "
                                  "only the short form"),
                ('0 3 * * * # nightly', 'comments are not taken here; give only the five fields'),
                ('# nightly', 'comments are not taken here'),
                ('@daily # nightly', 'comments are not taken here'),
                ('0 3 * * *\n0 4 * * *', 'it has several lines; add a schedule for each'),
                ('0' * 1000 + ' * * * *', 'the text has 1008 characters; 1000 are allowed'),
                ('@', 'is none of @hourly'),
                (None, 'a text is needed, not None'),
                (b'* * * * *', 'a text is needed'),
                (5, 'a text is needed, not 5'),
                (['*'] * 5, 'a text is needed')):
            with self.subTest(text=text if len(repr(text)) < 50 else len(text)):
                with self.assertRaises(ValueError) as caught:
                    cron.parseCrontab(text)
                self.assertIn(message, str(caught.exception))
                self.assertLess(len(str(caught.exception)), 250)

    def test_next_times(self):
        for text, start, expected in (
                ('* 2 * * *', '2024-01-01 02:58', ['2024-01-01 02:59', '2024-01-02 02:00']),
                ('0 * * * mon', '2024-01-01 22:00', ['2024-01-01 23:00', '2024-01-08 00:00']),
                ('0 0 * 3 *', '2024-03-30', ['2024-03-31 00:00', '2025-03-01 00:00']),
                ('*/20 9-10 * * mon-fri', '2024-01-05 10:20', ['2024-01-05 10:40', '2024-01-08 09:00']),
                ('30 4 1,15 * fri', '2024-01-01 12:00', ['2024-01-05 04:30', '2024-01-12 04:30', '2024-01-15 04:30']),
                ('0 0 */10 * mon', '2024-01-01 12:00', ['2024-03-11 00:00', '2024-04-01 00:00']),
                ('0 0 13 * 0-6', '2024-01-01', ['2024-01-02 00:00', '2024-01-03 00:00']),
                ('0 12 29 2 *', '2024-03-01', ['2028-02-29 12:00']),
                ('@weekly', '2024-01-01', ['2024-01-07 00:00', '2024-01-14 00:00']),
                ('@yearly', '2024-01-01', ['2025-01-01 00:00'])):
            with self.subTest(text=text):
                self.assertEqual(times(start, len(expected), **cron.parseCrontab(text)), expected)
        self.assertIsNone(cron.nextTime(0, **cron.parseCrontab('0 0 30 feb *')))
        self.assertEqual(times('2024-10-26 23:00', 4, timeZone='Europe/Berlin', **cron.parseCrontab('@hourly')),
                         ['2024-10-27 02:00+02:00', '2024-10-27 02:00+01:00', '2024-10-27 03:00+01:00',
                          '2024-10-27 04:00+01:00'])


class Clock:
    """What the clocks of a zone show in each minute of some days, told without any arithmetic of offsets."""

    def __init__(self, timeZone, start, end):
        """Both are UTC seconds."""
        shown, zone = {}, zoneinfo.ZoneInfo(timeZone)
        for now in range(start, end, 60):
            shown.setdefault(datetime.datetime.fromtimestamp(now, zone).replace(tzinfo=None), []).append(now)
        #: Local time, when it is shown, when a job of that time is to run
        self.minutes, local, end, late = [], min(shown), max(shown), 0
        while local <= end:
            late = 0 if local in shown else late + 60
            if not late:
                last = shown[local][-1]
            self.minutes.append((local, shown.get(local, ()), last + late if late else shown[local][0]))
            local += MINUTE

    def times(self, fields):
        """Return all times at which the fields fit, sorted."""
        minute, hour, dayOfMonth, month, dayOfWeek = wanted(fields)
        either = fields.get('eitherDay') and fields.get('dayOfMonth') and fields.get('dayOfWeek')
        found = set()
        for local, instants, run in self.minutes:
            if local.minute in minute and local.hour in hour and local.month in month:
                days = local.day in dayOfMonth, local.weekday() in dayOfWeek
                if any(days) if either else all(days):
                    often = len(minute) > 1 and any((local.hour + step) % 24 in hour for step in (1, -1))
                    found.update(instants if len(hour) == 24 else [run, *instants] if often else [run])
        return sorted(found)


def wanted(fields):
    """Return the values of all fields, in the order of `cron.RANGES`, written out."""
    minute, hour, dayOfMonth, month, dayOfWeek = (fields.get(name) for name in cron.RANGES)
    if month and not (dayOfMonth or dayOfWeek or hour or minute):
        dayOfMonth = [1]
    if (month or dayOfMonth or dayOfWeek) and not (hour or minute):
        hour = [0]
    if (month or dayOfMonth or dayOfWeek or hour) and not minute:
        minute = [0]
    return (set(minute or range(60)), set(hour or range(24)), set(dayOfMonth or range(1, 32)),
            set(month or range(1, 13)), set(dayOfWeek or range(7)))


def drawFields(draw, day):
    """Draw some fields at random, of which some fit on that day."""
    fields = {}
    for name, today in (('minute', None), ('hour', None), ('dayOfMonth', day.day), ('month', day.month),
                        ('dayOfWeek', day.weekday())):
        low, high = cron.RANGES[name]
        if draw.random() < 0.45:
            values = set(draw.sample(range(low, high + 1), draw.choice((1, 2, 5))))
            if today is not None and draw.random() < 0.8:
                values.add(today)
            fields[name] = tuple(sorted(values))
    if draw.random() < 0.2:
        fields['hour'] = tuple(range(24))
    elif draw.random() < 0.4:                       # where the clocks change
        fields['hour'] = tuple(sorted({*fields.get('hour', ()), *draw.sample((0, 1, 2, 3, 23), 2)}))
    if draw.random() < 0.3:                         # more often than hourly, from one hour to another
        first = draw.choice((22, 23, 0, 1, 2))
        fields['hour'] = tuple(sorted((first + count) % 24 for count in range(draw.randrange(2, 9))))
        fields['minute'] = tuple(range(draw.randrange(20), 60, draw.choice((2, 15, 30))))
    if draw.random() < 0.5:
        fields['eitherDay'] = True
    return fields


class TestMinuteByMinute(unittest.TestCase):
    """The answers are those of a naive search."""

    level = 2

    def compare(self, clock, start, end, timeZone, fields, draw, count):
        """Compare the answers of some moments between `start` and `end`, and return how many times there were."""
        expected = clock.times(fields)
        for now in [start - 60, *(draw.randrange(start, end) for _ in range(count)), *expected[:3]]:
            answer = next((time for time in expected if time >= now // 60 * 60 + 60), None)
            found = cron.nextTime(now, timeZone=timeZone, **fields)
            with self.subTest(now=now, timeZone=timeZone, fields=fields):
                if answer is not None and answer < end:
                    self.assertEqual(found, answer)
                else:
                    self.assertTrue(found is None or found >= end, found)
        return len(expected)

    def test_utc(self):
        draw, compared = random.Random(1970), 0
        for day in ('1969-12-20', '2024-02-20', '2100-02-20'):
            start = seconds(day)
            end = start + 20 * 86400
            clock = Clock('UTC', start, end)
            for _ in range(12):
                fields = drawFields(draw, datetime.datetime.fromisoformat(day))
                compared += self.compare(clock, start, end, None, fields, draw, 10)
        self.assertGreater(compared, 1000)

    def test_time_zones(self):
        draw, compared = random.Random(2011), 0
        for timeZone, days in CHANGES.items():
            for day in days:
                start, end = seconds(day) - 86400, seconds(day) + 2 * 86400
                clock = Clock(timeZone, start - 2 * 86400, end + 2 * 86400)
                for _ in range(10):
                    fields = drawFields(draw, datetime.datetime.fromisoformat(day))
                    compared += self.compare(clock, start, end, timeZone, fields, draw, 12)
        self.assertGreater(compared, 1000)


if __name__ == '__main__':
    unittest.main()
