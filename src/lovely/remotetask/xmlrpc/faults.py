"""The faults that callers get: one table of exceptions and codes."""
# SPDX-License-Identifier: ZPL-2.1
from typing import NamedTuple

from lovely.remotetask import errors


class ParseError(errors.RemoteTaskError, ValueError):
    """The request is not an XML-RPC call; correct the client that wrote it."""


class UnknownMethod(errors.RemoteTaskError, LookupError):
    """There is no such method; `system.listMethods` names those there are."""

    def __init__(self, name):
        super().__init__(f'there is no method {name!r}; system.listMethods names those there are')
        self.name = name


class BadArguments(errors.RemoteTaskError, ValueError):
    """The method takes other arguments; the message says which, `system.methodHelp` says more."""


class WrongArity(BadArguments):
    """The method takes more arguments, or fewer; the message names them."""


class WrongType(BadArguments):
    """An argument is to be of another type; the message says which one, and of what type."""


class ResultTooLarge(errors.RemoteTaskError):
    """The answer would be larger than the front end sends; `getResultPart` gives a file, bytes or text in parts."""

    def __init__(self, limit):
        """`limit` is the largest size, in bytes."""
        super().__init__(f'the result is larger than {limit} bytes, the most that is sent; getResultPart '
                         f'gives a file, bytes or text in parts')
        self.limit = limit


class NotAllowed(errors.RemoteTaskError):
    """The user may not make this call; the message says what he lacks."""


class DatabaseUnavailable(errors.RemoteTaskError):
    """The database failed or did not answer; nothing was changed, so the call can be repeated."""

    def __init__(self):
        super().__init__('the database is not available and nothing was changed: try again')


class OutcomeUnknown(errors.RemoteTaskError):
    """Nobody knows whether the change was committed; look into the database before the call is repeated."""

    def __init__(self):
        super().__init__('the database did not answer, so it is unknown whether the call was carried out: '
                         'look before you repeat it')


class Stopping(errors.RemoteTaskError):
    """The front end is not running, or about to stop; nothing was changed, call again later."""

    def __init__(self):
        super().__init__('the front end is stopping and nothing was changed: try again later')


class Entry(NamedTuple):
    """A row of the table."""

    code: int
    exception: type


PARSE_ERROR = -32700            # the four numbers are those of the specification of fault code interoperability
UNKNOWN_METHOD = -32601
BAD_ARGUMENTS = -32602
INTERNAL_ERROR = -32603
REFUSED = 100
UNKNOWN_SERVICE = 101
UNKNOWN_TASK = 102
UNKNOWN_JOB = 103
WRONG_STATE = 104
INVALID_INPUT = 105
TASK_ERROR = 106
RESULT_TOO_LARGE = 107
NAME_TAKEN = 108
CONFIGURATION_ERROR = 109
RETRY = 110
HOST_DIED = 111
TIME_LIMIT = 112
WRONG_ARITY = 114
WRONG_TYPE = 115
UNKNOWN_UPLOAD = 116
TOO_MANY_UPLOADS = 117
NOT_ALLOWED = 120
DATABASE_UNAVAILABLE = 201
OUTCOME_UNKNOWN = 202
STOPPING = 203
WRONG_GENERATION = 204

#: The first class of an exception's method resolution order that is found here decides.  The messages of our own family
#: are written for callers; those of all others are not, and stay here.  `faults.txt` tells callers of each code.
TABLE = (
    Entry(PARSE_ERROR, ParseError),
    Entry(UNKNOWN_METHOD, UnknownMethod),
    Entry(BAD_ARGUMENTS, BadArguments),
    Entry(WRONG_ARITY, WrongArity),
    Entry(WRONG_TYPE, WrongType),
    Entry(REFUSED, errors.RemoteTaskError),
    Entry(UNKNOWN_SERVICE, errors.UnknownService),
    Entry(UNKNOWN_TASK, errors.UnknownTask),
    Entry(UNKNOWN_JOB, errors.UnknownJob),
    Entry(WRONG_STATE, errors.WrongState),
    Entry(INVALID_INPUT, errors.InvalidInput),
    Entry(TASK_ERROR, errors.TaskError),
    Entry(RESULT_TOO_LARGE, ResultTooLarge),
    Entry(NAME_TAKEN, errors.NameTaken),
    Entry(CONFIGURATION_ERROR, errors.ConfigurationError),
    Entry(RETRY, errors.Retry),
    Entry(HOST_DIED, errors.HostDied),
    Entry(TIME_LIMIT, errors.TimeLimitExceeded),
    Entry(UNKNOWN_UPLOAD, errors.UnknownUpload),
    Entry(TOO_MANY_UPLOADS, errors.TooManyUploads),
    Entry(NOT_ALLOWED, NotAllowed),
    Entry(DATABASE_UNAVAILABLE, DatabaseUnavailable),
    Entry(OUTCOME_UNKNOWN, OutcomeUnknown),
    Entry(STOPPING, Stopping),
    Entry(WRONG_GENERATION, errors.WrongGeneration),
)

_BY_CLASS = {entry.exception: entry for entry in TABLE}


def faultFor(exception, requestId):
    """Return the fault code and the sentence that tell a caller about an exception.

    exception -- any exception.
    requestId -- a text that finds the request in the log; the sentence names it when it says nothing else.

    What is not in the table is an INTERNAL_ERROR: its sentence is constant except for the id, and the caller of this
    function must log the exception.
    """
    for class_ in type(exception).__mro__:
        entry = _BY_CLASS.get(class_)
        if entry is not None:
            return entry.code, str(exception)
    return INTERNAL_ERROR, f'internal error; the log of the front end has the details under the request id {requestId}'
