"""What this process counts of what it does, for metrics; needs nothing that shows them."""
# SPDX-License-Identifier: ZPL-2.1
import bisect
import threading


#: Seconds: the upper bounds of the classes that durations are counted in; one more class is for what takes longer.
BOUNDS = (.005, .01, .025, .05, .1, .25, .5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)

#: The most sets of labels of one name; later ones are counted together, under this label.
MOST, OTHER = 500, 'other'

#: Name -> what it is, and its labels.
COUNTERS = {
    'xmlrpc_requests': ('Calls that were answered, by method and fault ("ok" for none)', ('method', 'code')),
    'xmlrpc_refusals': ('Requests that were refused before there was a call, by status of HTTP', ('status',)),
    'xmlrpc_jobs_added': ('Jobs that calls added; a call that is repeated with its key counts again',
                          ('service', 'task')),
    'logins_refused': ('Requests with a wrong password, or none', ('at',)),
    'page_requests': ('Requests for pages that were answered, by status of HTTP', ('code',)),
    'conflicts': ('Transactions that were repeated, because others had written the same', ('where',)),
    'database_failures': ('Transactions that were repeated, because the database failed', ('where',)),
    'database_wait_seconds': ('Pauses before such repetitions', ('where',)),
    'late_outcomes': ('Runs whose outcome was refused, because the job was not theirs any more', ()),
}
#: The same of durations.
DURATIONS = {
    'xmlrpc_request_seconds': ('How long calls took, from the last byte of the request on', ('method',)),
    'commit_seconds': ('How long commits took', ('where',)),
}

_WHERE = (('frontend',), ('cycle',), ('task',))
#: Labels that exist from the beginning, at 0: nobody would see the first increase of a series that begins with 1.
INITIAL = {'logins_refused': (('xmlrpc',), ('pages',), ('metrics',)), 'conflicts': _WHERE, 'database_failures': _WHERE,
           'database_wait_seconds': _WHERE, 'late_outcomes': ((),)}


class Counts:
    """Numbers and durations by name and labels, which any thread adds to.

    Each addition takes a lock: code that counts many times a second sums up first.
    """

    def __init__(self):
        self._lock = threading.Lock()           # guards the two that follow
        self._numbers = {name: dict.fromkeys(INITIAL.get(name, ()), 0) for name in COUNTERS}    # -> labels -> number
        self._durations = {name: {} for name in DURATIONS}      # name -> labels -> [seconds, number in each class]

    def add(self, name, *labels, number=1):
        """Add to one of COUNTERS."""
        with self._lock:
            series = self._numbers[name]
            labels = self._bounded(series, labels)
            series[labels] = series.get(labels, 0) + number

    def observe(self, name, *labels, seconds):
        """Count a duration, of DURATIONS."""
        with self._lock:
            series = self._durations[name]
            labels = self._bounded(series, labels)
            if labels not in series:
                series[labels] = [0.0, [0] * (len(BOUNDS) + 1)]
            entry = series[labels]
            entry[0] += seconds
            entry[1][bisect.bisect_left(BOUNDS, seconds)] += 1

    def _bounded(self, series, labels):
        return labels if labels in series or len(series) < MOST else (OTHER,) * len(labels)

    def numbers(self):
        """Return name -> labels -> number."""
        with self._lock:
            return {name: dict(series) for name, series in self._numbers.items()}

    def durations(self):
        """Return name -> labels -> pair of the seconds in all, and how many there were in each class."""
        with self._lock:
            return {name: {labels: (seconds, tuple(classes)) for labels, (seconds, classes) in series.items()}
                    for name, series in self._durations.items()}


#: Those of this process.
counts = Counts()
