"""Values and retry policies as JSON has them: what `transfer` writes and reads.  Nothing here imports a module."""
# SPDX-License-Identifier: ZPL-2.1
import base64
import binascii
import io
import math
import sys
from dataclasses import fields

from lovely.remotetask.common.checks import shown
from lovely.remotetask.database.storedfiles import FILE
from lovely.remotetask.database.storedfiles import StoredFile
from lovely.remotetask.encoding.plain import PLAIN_DEPTH
from lovely.remotetask.files import File
from lovely.remotetask.retry import RetryPolicy


#: What JSON lacks is a dict with one of these keys: Base64 of bytes and of a file; a list of the members, or of pairs.
BYTES, FILE_KEY, TUPLE, DICT = '$bytes', '$file', '$tuple', '$dict'

#: The largest int, in bits: what Python reads from a text without more ado.
INT_BITS = 10_000

_CLASSES = 'retryOn', 'neverRetryOn'


class NotPortable(ValueError):
    """JSON cannot carry the value; the message says what is in the way, and where."""


def toJSON(stored, limit):
    """Return what JSON has for a value, the input of a job as it is stored.

    limit -- bytes that each file, bytes or text may have.

    Raise `NotPortable` for what is no plain data, or too large.
    """
    if isinstance(stored, StoredFile):
        _checkSize('input', stored.size, limit)
        return _toJSON(stored.value, 'input', limit, PLAIN_DEPTH)
    return _toJSON(stored, 'input', limit, PLAIN_DEPTH)


def _toJSON(value, place, limit, depth):
    kind = type(value)
    if value is None or kind is bool or kind is int and value.bit_length() <= INT_BITS:
        return value
    if kind is float and math.isfinite(value):
        return value
    if kind is str or kind is bytes:
        _checkSize(place, len(value), limit)
        return value if kind is str else {BYTES: _base64(value)}
    if kind is StoredFile and value.kind == FILE:
        _checkSize(place, value.size, limit)
        return {FILE_KEY: _base64(value.read())}
    if kind not in (list, tuple, dict):
        raise NotPortable(f'{place}: {shown(value)} is nothing that JSON has')
    if not depth:
        raise NotPortable(f'{place} is nested more than {PLAIN_DEPTH} deep')
    if kind is dict:
        return _dictToJSON(value, place, limit, depth - 1)
    members = [_toJSON(item, f'{place}[{index}]', limit, depth - 1) for index, item in enumerate(value)]
    return members if kind is list else {TUPLE: members}


def _dictToJSON(value, place, limit, depth):
    items = [(key, _toJSON(item, f'{place}[{shown(key)}]', limit, depth)) for key, item in value.items()]
    if all(type(key) is str and not key.startswith('$') for key in value):
        return dict(items)
    return {DICT: [[_toJSON(key, f'a key of {place}', limit, depth), item] for key, item in items]}


def _checkSize(place, size, limit):
    if size > limit:
        raise NotPortable(f'{place} has {size} bytes, and the limit is {limit}')


def _base64(data):
    return base64.b64encode(data).decode('ascii')


def fromJSON(data, depth=2 * PLAIN_DEPTH):
    """Return the value that `toJSON` has made this of, with a `File` for each file.  Raise `ValueError` for others."""
    if not depth:
        raise ValueError(f'input: it is nested more than {2 * PLAIN_DEPTH} deep')
    if isinstance(data, list):
        return [fromJSON(item, depth - 1) for item in data]
    if not isinstance(data, dict):
        return data
    special = [key for key in data if key.startswith('$')]
    if not special:
        return {key: fromJSON(item, depth - 1) for key, item in data.items()}
    kind, inside = special[0], data[special[0]]
    if len(data) == 1 and kind in (BYTES, FILE_KEY) and isinstance(inside, str):
        content = _bytesOf(inside)
        return content if kind == BYTES else File(io.BytesIO(content))
    if len(data) == 1 and kind == TUPLE and isinstance(inside, list):
        return tuple(fromJSON(item, depth - 1) for item in inside)
    if len(data) == 1 and kind == DICT and isinstance(inside, list):
        return _dictFromJSON(inside, depth - 1)
    raise ValueError(f'input: {shown(data)} stands for no value')


def _dictFromJSON(pairs, depth):
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError(f'input: {shown(pairs)} is no list of pairs')
    try:
        return {fromJSON(key, depth): fromJSON(item, depth) for key, item in pairs}
    except TypeError as error:
        raise ValueError(f'input: a key cannot be hashed: {error}') from error


def _bytesOf(text):
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f'input: {shown(text)} is not in Base64') from error


def policyToJSON(policy):
    """Return the dict for a `RetryPolicy`: the fields that differ from the default; a class as 'module:name'.

    Raise `NotPortable` for one of an application's class.
    """
    if type(policy) is not RetryPolicy:
        raise NotPortable(f'retryPolicy: {shown(policy)} is of a class of its own')
    values = {field.name: getattr(policy, field.name) for field in fields(policy)
              if getattr(policy, field.name) != field.default}
    for name in values.keys() & set(_CLASSES):
        values[name] = [f'{one.__module__}:{one.__qualname__}' for one in values[name]]
    return values


def policyFromJSON(data):
    """Return the dict of fields that `policyToJSON` has made this of.

    Only classes of modules that are loaded are found: a file must not have modules imported.

    Raise `ValueError` that names the class that is not there.
    """
    if not isinstance(data, dict):
        raise ValueError(f'retryPolicy: {shown(data)} is no dict')
    values = dict(data)
    for name in values.keys() & set(_CLASSES):
        if not isinstance(values[name], list):
            raise ValueError(f'retryPolicy: {name}: {shown(values[name])} is no list')
        values[name] = tuple(_classOf(one) for one in values[name])
    return values


def _classOf(text):
    module, _, name = text.partition(':') if isinstance(text, str) else ('', '', '')
    found = sys.modules.get(module)
    for part in name.split('.'):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise ValueError(f'retryPolicy: there is no class {shown(text)} among the modules that are loaded here')
    return found
