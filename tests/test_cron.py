"""Schedules: fields, crontab text, time zones; and all of it compared with a search minute by minute."""
# SPDX-License-Identifier: ZPL-2.1
import datetime
import random
import unittest
import zoneinfo
from unittest import mock

from lovely.remotetask import cron


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


class TestTimeZones(unittest.TestCase):

    def test_names(self):
        for name in (None, '', 'UTC'):
            self.assertIsNone(cron.checkTimeZone(name))
        for name in ('Europe/Berlin', 'America/Argentina/Buenos_Aires', 'Etc/GMT+5'):
            self.assertEqual(cron.checkTimeZone(name), name)

    def test_bad_names(self):
        sentence = "^timeZone: .* is not a time zone such as 'Europe/Berlin'$"
        for name in ('Europe/Bonn', 'Europe', 'Europe/', '.', '..', '../passwd', '/etc/passwd', 'tzdata.zi', ' ',
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
                ('9' * 100000 + ' * * * *', f"{'9' * 20} is not from 0 to 59"),
                ('*/' + '9' * 100000 + ' * * * *', f"the step '{'9' * 19} is not a number from 1 to 60"),
                ('0-' + '9' * 100000 + ' * * * *', f"{'9' * 20} is not from 0 to 59"),
                ('', 'five fields are needed, minute, hour, dayOfMonth, month, dayOfWeek, not 0'),
                ('* * * *', 'five fields are needed, minute, hour, dayOfMonth, month, dayOfWeek, not 4'),
                ('* * * * * *', 'not 6'),
                ('@reboot', "'@reboot' is refused: it is no time"),
                ('@every 5m', "'@every 5m' is none of @hourly, @daily"),
                ('@', 'is none of @hourly'),
                (None, 'a text is needed, not None'),
                (b'* * * * *', 'a text is needed'),
                (5, 'a text is needed, not 5'),
                (['*'] * 5, 'a text is needed')):
            with self.subTest(text=text if len(repr(text)) < 50 else len(text)):
                with self.assertRaises(ValueError) as caught:
                    cron.parseCrontab(text)
                self.assertIn(message, str(caught.exception))
                self.assertLess(len(str(caught.exception)), 220)

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
                    found.update([run] if len(hour) < 24 else instants)
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
    if draw.random() < 0.5:
        fields['eitherDay'] = True
    return fields


class TestMinuteByMinute(unittest.TestCase):
    """The answers are those of a naive search."""

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
