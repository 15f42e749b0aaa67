"""A row of the table of methods: its arguments and their checks, and whether it writes."""
# SPDX-License-Identifier: ZPL-2.1
from datetime import datetime
from decimal import Decimal
from typing import Any
from typing import NamedTuple

from lovely.remotetask.xmlrpc.faults import WrongArity
from lovely.remotetask.xmlrpc.faults import WrongType


#: What a method does with the service: nothing (it gets none), look at it, change it, change it in many transactions,
#: wait for something there.
#: A function of the kind REPEATS is called until it has changed fewer jobs than it may; the answer is the sum.  Each
#: time it gets the number of jobs that it may change, and the time of the call in UTC seconds: it skips jobs that ended
#: later, so that it comes to an end.
NO_SERVICE, READS, WRITES, REPEATS, WAITS = 'no service', 'reads', 'writes', 'repeats', 'waits'

_REQUIRED = object()

# What XML-RPC calls the types that `parser.parseCall` gives.
_TYPE_NAMES = {
    type(None): 'nil',
    bool: 'boolean',
    int: 'int',
    float: 'double',
    str: 'string',
    bytes: 'base64',
    datetime: 'dateTime.iso8601',
    Decimal: 'bigdecimal',
    list: 'array',
    dict: 'struct',
}


class Argument(NamedTuple):
    """One argument of a method."""

    name: str
    types: tuple[type, ...]         # exactly these: True is no int
    default: Any = _REQUIRED        # what an argument that is left out, or nil, stands for
    items: tuple[type, ...] = ()    # what an array is made of

    @property
    def typeName(self):
        """The name of its type for introspection: 'mixed' for any."""
        return _TYPE_NAMES[self.types[0]] if self.types else 'mixed'

    def check(self, method, value):
        """Return the value, or what it stands for; raise `WrongType`."""
        if value is None and self.default is not _REQUIRED:
            return self.default
        if self.types and type(value) not in self.types:
            self._refuse(method, self.types, '', value)
        if self.items:
            for item in value:
                if type(item) not in self.items:
                    self._refuse(method, self.items, 'an array of ', item)
        return value

    def _refuse(self, method, types, within, value):
        expected = ' or '.join(_TYPE_NAMES[type_] for type_ in types)
        raise WrongType(f'{method}: the argument {self.name} is to be {within}{expected}, '
                        f'{_TYPE_NAMES[type(value)]} was given')


class Method(NamedTuple):
    """A row of the table."""

    access: str                     # NO_SERVICE, READS, WRITES, REPEATS or WAITS
    returns: str                    # the type's name
    arguments: tuple[Argument, ...] = ()
    role: str = 'view'              # of `users.ROLES`: who may call it
    traced: bool = False            # whether its function takes one argument more, the HTTP request's id
    takesUser: bool = False         # whether it takes one more, after that, the name of the user, None if there is none
    alias: str | None = None        # the name of the method that this is an older name of

    @property
    def isRepeatable(self):
        """Whether a call of it may be repeated when nobody knows what became of it, as it changes nothing."""
        return self.access in (NO_SERVICE, READS, WAITS)

    @property
    def signatures(self):
        """For each number of arguments that it takes, a list of the type returned and those of the arguments."""
        types = [self.returns] + [argument.typeName for argument in self.arguments]
        return [types[:1 + count] for count in range(self.required, len(self.arguments) + 1)]

    @property
    def required(self):
        """How many arguments cannot be left out."""
        return sum(argument.default is _REQUIRED for argument in self.arguments)

    def check(self, name, values):
        """Return the arguments, all of them, as a list; raise `WrongArity` or `WrongType`.

        name -- the name it was called by.
        values -- what was given, as `parser.parseCall` gives it.
        """
        if not self.required <= len(values) <= len(self.arguments):
            names = ', '.join(argument.name for argument in self.arguments)
            raise WrongArity(f'{name}: the arguments are ({names}), of which the first {self.required} are required; '
                             f'{len(values)} were given')
        values = list(values) + [None] * (len(self.arguments) - len(values))
        return [argument.check(name, value) for argument, value in zip(self.arguments, values)]
