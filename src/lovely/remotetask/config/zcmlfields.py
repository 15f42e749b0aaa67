"""The types of attributes in ZCML: they convert a text, and say what is wrong with it in words."""
# SPDX-License-Identifier: ZPL-2.1
import re
import traceback

from ZConfig.datatypes import stock_datatypes
from zope.configuration.fields import Bool
from zope.configuration.fields import GlobalInterface
from zope.configuration.fields import GlobalObject
from zope.configuration.fields import PythonIdentifier
from zope.configuration.fields import Tokens
from zope.interface import implementer
from zope.schema import Choice
from zope.schema import Float
from zope.schema import Int
from zope.schema import TextLine
from zope.schema import ValidationError
from zope.schema.interfaces import IFromUnicode
from zope.schema.interfaces import InvalidDottedName
from zope.schema.interfaces import NotAnInterface

from lovely.remotetask.common.checks import shown
from lovely.remotetask.config.sections import pauseSeconds
from lovely.remotetask.config.sections import seconds


@implementer(IFromUnicode)
class Seconds(Float):
    """A time in seconds, written as in the configuration file: `90`, `1.5s`, `10m`, `2h`, `1d`."""

    def fromUnicode(self, value):
        """Return the seconds as a float above 0; raise `ValidationError`."""
        return _converted(self, value, seconds)


@implementer(IFromUnicode)
class Pause(Float):
    """A time in seconds, written in the same way, that may be 0."""

    def fromUnicode(self, value):
        """Return the seconds as a float of 0 or more; raise `ValidationError`."""
        return _converted(self, value, pauseSeconds)


@implementer(IFromUnicode)
class Bytes(Int):
    """A size in bytes, written as in the configuration file: `65536`, `64KB`, `512MB`, `2GB`."""

    def fromUnicode(self, value):
        """Return the number of bytes; raise `ValidationError`."""
        return _converted(self, value, _bytes)


@implementer(IFromUnicode)
class Count(Int):
    """A whole number from `min` to `max`."""

    def fromUnicode(self, value):
        """Return it as an int; raise `ValidationError`."""
        return _converted(self, value, _whole)


@implementer(IFromUnicode)
class Number(Float):
    """A number from `min` to `max`."""

    def fromUnicode(self, value):
        """Return it as a float; raise `ValidationError`."""
        return _converted(self, value, _number)


@implementer(IFromUnicode)
class YesNo(Bool):
    """Whether something is so: `yes` or `no`, `true` or `false`."""

    def fromUnicode(self, value):
        """Return it as a bool; raise `ValidationError`."""
        try:
            return super().fromUnicode(value)
        except ValidationError:
            raise _refusal(self, value, f'{shown(value)} is neither yes nor no') from None


@implementer(IFromUnicode)
class OneOf(Choice):
    """One of some texts."""

    def fromUnicode(self, value):
        """Return it; raise `ValidationError`."""
        values = [term.value for term in self.vocabulary]
        if value not in values:
            raise _refusal(self, value, f'{shown(value)} is not {" or ".join(map(repr, values))}')
        return value


@implementer(IFromUnicode)
class Name(TextLine):
    """A text of one line that is not empty."""

    def fromUnicode(self, value):
        """Return it; raise `ValidationError`."""
        if not value.strip():
            raise _refusal(self, value, 'it is empty')
        return super().fromUnicode(value)


@implementer(IFromUnicode)
class FieldName(PythonIdentifier):
    """The name of a field: a Python identifier."""

    def fromUnicode(self, value):
        """Return it; raise `ValidationError`."""
        if not value.isidentifier():
            raise _refusal(self, value, f'{shown(value)} is not the name of a field')
        return value


@implementer(IFromUnicode)
class Words(Tokens):
    """Some of them, with spaces between."""

    def fromUnicode(self, value):
        """Return a list of them; raise `ValidationError`."""
        one = self.value_type.bind(self.context)
        return [one.fromUnicode(word) for word in value.split()]


@implementer(IFromUnicode)
class Global(GlobalObject):
    """What a module has by a dotted name."""

    def fromUnicode(self, value):
        """Return it; raise `ValidationError`, also for whatever its module raises when it is imported."""
        return _resolved(self, value, super().fromUnicode)


@implementer(IFromUnicode)
class Schema(GlobalInterface):
    """An interface, by its dotted name."""

    def fromUnicode(self, value):
        """Return it; raise `ValidationError`, also for whatever its module raises when it is imported."""
        return _resolved(self, value, super().fromUnicode)


def _resolved(field, name, resolve):
    try:
        return resolve(name)
    except ValidationError as error:
        raise _refusal(field, name, _whyNothing(error, name)) from error
    except Exception as error:
        raise _refusal(field, name, whyNoImport(error)) from error


def _whyNothing(error, name):
    """Return why zope.configuration takes a dotted name for nothing, as text."""
    if isinstance(error, InvalidDottedName):
        return f'{shown(name)} is not a dotted name'
    if isinstance(error, NotAnInterface):
        return f'{name} is not an interface'
    said = str(error.args[0]) if error.args else type(error).__name__
    if missing := re.search("Couldn't import ([^,]*),", said):
        return noModule(missing[1])
    if missing := re.search('Module (.*) has no global (.*)', said):
        return f'the module {missing[1]} has no {missing[2]!r}'
    return said


def noModule(name):
    """Return the sentence for a module that is not there."""
    return (f'there is no module {name!r}; modules are looked for beside the site definition, and where Python finds '
            'them (PYTHONPATH)')


def whyNoImport(error):
    """Return why a module could not be imported, with the file and line, as text; `error` is what came up."""
    said = f'{type(error).__name__}: {error}' if str(error) else type(error).__name__
    if isinstance(error, SyntaxError):
        return f'{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}'
    # The innermost module that was being imported, not what it called.
    places = [frame for frame in traceback.extract_tb(error.__traceback__)
              if frame.name == '<module>' and not frame.filename.startswith('<')]
    return f'{places[-1].filename}, line {places[-1].lineno}: {said}' if places else said


def _converted(field, text, convert):
    try:
        value = convert(text.strip())
        field.validate(value)
    except ValidationError as error:
        raise _refusal(field, text, _range(field, text)) from error
    except ValueError as error:
        raise _refusal(field, text, str(error)) from None
    return value


def _range(field, text):
    if field.max is None:
        return f'{shown(text)} is less than {field.min}'
    return f'{shown(text)} is not from {field.min} to {field.max}'


def _refusal(field, value, reason):
    return ValidationError(reason).with_field_and_value(field, value)


def _bytes(text):
    try:
        return stock_datatypes['byte-size'](text)
    except ValueError:
        raise ValueError(f'{text!r} is not a size: write a number with a unit (KB, MB, GB), as in 512MB') from None


def _whole(text):
    try:
        return int(text)
    except ValueError:
        raise ValueError(f'{shown(text)} is not a whole number') from None


def _number(text):
    try:
        return float(text)
    except ValueError:
        raise ValueError(f'{shown(text)} is not a number') from None
