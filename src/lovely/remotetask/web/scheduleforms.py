"""The form of a schedule: texts of its fields, and the arguments that they stand for.  Pure."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.common.checks import shown
from lovely.remotetask.config.sections import pauseSeconds
from lovely.remotetask.schedules.fields import RANGES


#: Fields of the calendar, and what they are called.
CALENDAR = {'minute': 'Minute, 0 to 59', 'hour': 'Hour, 0 to 23', 'dayOfMonth': 'Day of month, 1 to 31',
            'month': 'Month, 1 to 12', 'dayOfWeek': 'Day of week, 0 to 6; 0 is Monday'}

#: What is yes or no.
FLAGS = {'newJobs': 'Add a new job at each time', 'overlap': 'Also while the last one has not ended',
         'active': 'Active'}

#: The other fields, which are texts.
TEXTS = (*CALENDAR, 'crontab', 'delay', 'timeZone', 'misfire')


def readSchedule(sent):
    """Return the arguments of `ITaskService.updateCronJob` that a form stands for: all that a schedule says.

    sent -- name -> list of texts; of a flag, 'on'.

    Raise `ValueError` that names the field; values out of range are left to the service.
    """
    text = {name: sent.get(name, [''])[0].strip() for name in (*TEXTS, *FLAGS)}
    found = {name: text[name] == 'on' for name in FLAGS}
    calendar = {name: readNumbers(name, text[name]) for name in CALENDAR}
    given = [name for name, isGiven in (('crontab', text['crontab']), ('delay', text['delay']),
                                        ('the five fields', any(calendar.values()))) if isGiven]
    if len(given) > 1:
        raise ValueError(f'schedule: give only one of {" and ".join(given)}')
    if text['crontab']:
        found['crontab'] = text['crontab']
    elif text['delay']:
        try:
            found['delay'] = pauseSeconds(text['delay'])
        except ValueError as error:
            raise ValueError(f'delay: {error}') from None
    else:
        found.update(calendar)
    found['timeZone'] = text['timeZone'] or 'UTC'
    found['misfire'] = int(text['misfire'][:9]) if text['misfire'].isdecimal() else text['misfire'] or 'once'
    return found


def fieldOf(mistake):
    """Return the name of the field that a mistake is about; None when it is about no single one.

    >>> fieldOf('hour: 24 is not a number from 0 to 23'), fieldOf('the schedule has no time at all')
    ('hour', None)
    """
    name, colon, _ = mistake.partition(': ')
    return name if colon and name in TEXTS else None


def writeNumbers(name, numbers):
    """Return the text of a field of the calendar: see `readNumbers`.

    >>> writeNumbers('hour', (8, 12)), writeNumbers('hour', tuple(range(24)))
    ('8 12', '*')
    """
    low, high = RANGES[name]
    return '*' if set(numbers) == set(range(low, high + 1)) else ' '.join(map(str, numbers))


def readNumbers(name, text):
    """Return the numbers of a field of the calendar, a tuple: they are divided by spaces; none is for any.

    >>> readNumbers('hour', '8 12'), readNumbers('hour', ''), len(readNumbers('dayOfMonth', '*'))
    ((8, 12), (), 31)
    """
    if text == '*':
        low, high = RANGES[name]
        return tuple(range(low, high + 1))
    parts = text.split()
    for part in parts:
        if not (part.isascii() and part.isdigit() and len(part) < 5):
            raise ValueError(f'{name}: {shown(part, 20)} is not a whole number; write some, divided by spaces')
    return tuple(map(int, parts))
