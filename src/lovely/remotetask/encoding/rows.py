"""How a job is written: a row of bytes.  Pure: no database."""
# SPDX-License-Identifier: ZPL-2.1
import io
import pickle
import zlib
from typing import NamedTuple

from ZODB.broken import Broken

from lovely.remotetask.encoding.plain import ATOMS
from lovely.remotetask.encoding.plain import NotPlain
from lovely.remotetask.encoding.plain import plainCopy


#: Bytes of one value in a row; a larger one has a record of its own.
VALUE_LIMIT = 1024

#: Those of a row's fields that hold a value of any size; see `encode`.
VALUES = ('input', 'output', 'errors')

#: What stands in a row for a value that has a record of its own.
BESIDE = True

# The newest that all supported Pythons read.
_PROTOCOL = 5

# Bytes of a row's checksum.
_CHECKSUM = 4


class Row(NamedTuple):
    """What is stored of a job.  These fields, in this order, are the file format.

    What is new goes into `more`: older releases keep what they do not know there, and take a longer row for damaged.
    """

    writes: int             # how often it was written, so that it never returns to old bytes: the database would merge
    #                         that with a change that knows only the first of the two
    kind: str
    task: str
    created: float
    status: str
    run: int = 0
    failedAttempts: int = 0
    host: int = 0           # where its last run was: the number of the host, see `index.Hosts`; 0 for none
    started: float | None = None
    completed: float | None = None
    error: str | None = None
    input: bytes | bool | None = None       # encoded, or BESIDE
    output: bytes | bool | None = None
    errors: bytes | bool | None = None
    more: dict | None = None                # what few jobs have


_INDEX = {name: index for index, name in enumerate(Row._fields)}
_WRITES = 0xFFFF


class Encoded(bytes):
    """A value as it stands in a row: a pickle."""

    __slots__ = ()


def encode(value):
    """Return the `Encoded` value; None for one that needs a record of its own: it is not plain data, or too large."""
    try:
        encoded = Encoded(pickle.dumps(plainCopy(value), _PROTOCOL))
    except NotPlain:
        return None
    return encoded if len(encoded) <= VALUE_LIMIT else None


class _Unpickler(pickle.Unpickler):

    def find_class(self, module, name):
        """Return the class, or one that stands for it where it is missing."""
        try:
            return super().find_class(module, name)
        except Exception:               # to import a module can fail with anything
            return type(name, (Broken,), {'__module__': module})


def encodeObject(value):
    """Return the bytes for an object that refers to classes."""
    return pickle.dumps(value, _PROTOCOL)


def decodeObject(encoded):
    """Return the object; a class that is missing here is replaced by one that stands for it."""
    return _Unpickler(io.BytesIO(encoded)).load()


def decode(encoded):
    """Return the value that was encoded; a new one each time."""
    return pickle.loads(encoded)


def pack(row):
    """Return the bytes that are stored for a `Row`: a checksum and a pickle."""
    data = pickle.dumps(tuple(row), _PROTOCOL)
    return zlib.crc32(data).to_bytes(_CHECKSUM, 'big') + data


def unpack(data):
    """Return the `Row` that bytes stand for.  Raise `ValueError` when they stand for none.

    Damaged bytes are not unpickled: the values in a row are pickles, too, and their damage would show only later.
    """
    pickled = data[_CHECKSUM:]
    if zlib.crc32(pickled).to_bytes(_CHECKSUM, 'big') != data[:_CHECKSUM]:
        raise ValueError('the bytes are damaged')
    try:
        values = pickle.loads(pickled)
        kinds = tuple(map(type, values))
    except Exception as error:
        raise ValueError(f'{type(error).__name__}: {error}') from error
    if type(values) is not tuple or kinds not in _seen:
        _check(values, kinds)
        _seen.add(kinds)
    return Row._make(values)


_NUMBER, _NONE = (int, float), (type(None),)
_KINDS = ((int,), (str,), (str,), _NUMBER, (str,), (int,), (int,), (int,),
          _NUMBER + _NONE, _NUMBER + _NONE, (str, *_NONE), *[(bytes, bool, *_NONE)] * len(VALUES), (dict, *_NONE))

# The types of the values of rows that were right: there are few kinds of rows.
_seen = set()


def _check(values, kinds):
    if type(values) is not tuple or len(values) != len(_KINDS):
        raise ValueError('the bytes stand for no row')
    for name, value, kind, allowed in zip(Row._fields, values, kinds, _KINDS):
        if kind not in allowed:
            raise ValueError(f'{name} is {value!r:.60}')


def fitting(name, value):
    """Return a value as that field of a row can hold it.  Raise `ValueError` for one that it cannot hold."""
    allowed = _KINDS[_INDEX[name]]
    if type(value) not in allowed:
        value = exact(value)
        if type(value) not in allowed:
            raise ValueError(f'{name} is {value!r:.60}')
    return value


def exact(value):
    """Return a text or a number that is of a subclass, as a member of a `StrEnum`, as what it is a subclass of.

    It is stored without its class, which other processes may not have; so are those in tuples.
    """
    if type(value) is tuple:
        return tuple(map(exact, value))
    if type(value) not in ATOMS:
        for base, convert in (str, str.__str__), (float, float.__float__), (int, int.__int__):
            if isinstance(value, base):
                return convert(value)
    return value


def changed(row, changes):
    """Return a `Row` with some fields changed, written once more; the same when it has these values already.

    changes -- name -> value; a name that is no field goes into the dict `more`, without None.

    Raise `ValueError` for a value that a field cannot hold.
    """
    new = list(row)
    for name, value in changes.items():
        index = _INDEX.get(name)
        if index is not None:
            new[index] = value if type(value) in _KINDS[index] else fitting(name, value)
            continue
        more = dict(new[-1] or ())
        if value is None:
            more.pop(name, None)
        else:
            more[name] = exact(value)
        new[-1] = more or None
    if tuple(new) == row:
        return row
    new[0] = new[0] + 1 & _WRITES
    return Row._make(new)


def written(row):
    """Return the `Row` with its count of writes one up."""
    return row._replace(writes=row.writes + 1 & _WRITES)


class LooseRow:
    """Holds the row of a job that is in no database: see `pages.Pages`."""

    jar = None

    def __init__(self):
        self._page, self._values = {}, {}

    def page(self, jobid):
        """Return a mapping of id to bytes."""
        return self._page

    def value(self, name, jobid):
        """Return the value of that name."""
        return self._values[name]

    def putValue(self, name, jobid, value):
        """Store the value of that name."""
        self._values[name] = value
