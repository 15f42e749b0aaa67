"""ZCML: the directives that register tasks, and the loading of a site definition."""
# SPDX-License-Identifier: ZPL-2.1
import dataclasses
import inspect
import os
import re

import zope.component
from ZConfig.datatypes import stock_datatypes
from zope.component.zcml import utility
from zope.configuration import xmlconfig
from zope.configuration.config import ConfigurationConflictError
from zope.configuration.config import ConfigurationMachine
from zope.configuration.exceptions import ConfigurationError as ZCMLError
from zope.configuration.exceptions import ConfigurationWrapperError
from zope.configuration.fields import Bool
from zope.configuration.fields import GlobalInterface
from zope.configuration.fields import GlobalObject
from zope.configuration.fields import Path
from zope.configuration.fields import PythonIdentifier
from zope.configuration.fields import Tokens
from zope.interface import Interface
from zope.interface import implementer
from zope.schema import Choice
from zope.schema import Float
from zope.schema import Int
from zope.schema import Text
from zope.schema import TextLine
from zope.schema import ValidationError
from zope.schema.interfaces import IFromUnicode

import lovely.remotetask
from lovely.remotetask.config.settings import pauseSeconds
from lovely.remotetask.config.settings import seconds
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.execution.child import checkIsolated
from lovely.remotetask.execution.command import FILE
from lovely.remotetask.execution.command import REPORT
from lovely.remotetask.execution.command import CommandTask
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.retry import DEFAULT
from lovely.remotetask.task import SimpleTask


_PLACE = re.compile(r'File "([^"]*)", line (\d+)[-.\d]*')
#: Names before a sentence that says it all: of our own exceptions, and the private module of zope.schema's.
_EXCEPTION = re.compile(r'^(?:zope\.schema\._bootstrapinterfaces\.)?(?:(?:ValidationError|ValueError): )?')


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


def _converted(field, text, convert):
    try:
        value = convert(text.strip())
    except ValueError as error:
        raise ValidationError(str(error)).with_field_and_value(field, text) from None
    field.validate(value)
    return value


def _bytes(text):
    try:
        return stock_datatypes['byte-size'](text)
    except ValueError:
        raise ValueError(f'{text!r} is not a size: write a number with a unit (KB, MB, GB), as in 512MB') from None


class IRunOptions(Interface):
    """What follows when a run of a task fails, or its host does; see `retry.RetryPolicy`."""

    at_most_once = Bool(
        title='At most once', required=False,
        description='Whether a job whose host died is given up, instead of run again.')
    attempts = Int(
        title='Attempts', required=False, min=1,
        description='How many runs a failing job gets in all.')
    retry_base = Pause(
        title='Retry base', required=False,
        description='The pause before the second run; 0 for at once.')
    retry_factor = Float(
        title='Retry factor', required=False,
        description='How many times as long each further pause is.')
    retry_cap = Pause(
        title='Retry cap', required=False,
        description='The longest pause; 0 for none at all.')
    retry_jitter = Float(
        title='Retry jitter', required=False, min=0.0, max=1.0,
        description='By how large a part of itself a pause may be shortened at random.')
    retry_on = Tokens(
        title='Retry on', required=False, value_type=GlobalObject(),
        description='The dotted names of the exceptions after which a job runs again; default: any.')
    never_retry_on = Tokens(
        title='Never retry on', required=False, value_type=GlobalObject(),
        description='Those of them after which it does not.')
    mask = Tokens(
        title='Mask', required=False, value_type=TextLine(),
        description='More names of fields of inputs and results that pages hide, with wildcards.')


#: Attributes of `IRunOptions` -> fields of `RetryPolicy`.
_POLICY = {'attempts': 'attempts', 'retry_base': 'base', 'retry_factor': 'factor', 'retry_cap': 'cap',
           'retry_jitter': 'jitter', 'retry_on': 'retryOn', 'never_retry_on': 'neverRetryOn'}
#: Attributes of the directives -> attributes of a task.
_ATTRIBUTES = {'isolation': 'isolation', 'memory_limit': 'memoryLimit', 'time_limit': 'timeLimit',
               'at_most_once': 'atMostOnce', 'mask': 'mask'}


class ITaskDirective(IRunOptions):
    """Offer a Python function or an ITask under a name."""

    name = TextLine(title='Name', description='What jobs call the task by.', min_length=1)
    handler = GlobalObject(
        title='Handler',
        description='The dotted name of a function that takes the input and returns the result, of an object that '
                    'provides ITask, or of a class that implements ITask and is called without arguments.')
    input_schema = GlobalInterface(
        title='Input schema', required=False,
        description='An interface whose fields the input has to fit; for functions, an ITask has its own.')
    output_schema = GlobalInterface(
        title='Output schema', required=False,
        description='An interface whose fields the result has to fit; for functions, an ITask has its own.')
    isolation = Choice(
        title='Isolation', required=False, values=('thread', 'process'),
        description='Where it runs: in a thread of the processing host, or in a process that is started for each run.')
    memory_limit = Bytes(
        title='Memory limit', required=False, min=1,
        description='The address space that this process may use, as 512MB.')
    time_limit = Seconds(
        title='Time limit', required=False,
        description='How long a run may take.')


class ICommandDirective(IRunOptions):
    """Offer a program under a name; the values mean what they mean for `command.CommandTask`."""

    name = TextLine(title='Name', description='What jobs call the task by.', min_length=1)
    command = Text(title='Command', description='The program and its arguments, with {field} for the input\'s values.')
    directory = Path(
        title='Directory', required=False,
        description='Where the program runs and all fields but those in `text` are paths; relative to the ZCML file.')
    text = Tokens(
        title='Text', required=False, value_type=PythonIdentifier(),
        description='The fields that are no paths.')
    timeout = Seconds(
        title='Timeout', required=False, default=3600.0,
        description='How long the program may run: seconds, or with a unit as 90s, 10m, 2h.')
    result = Choice(
        title='Result', required=False, default=REPORT, values=(REPORT, FILE),
        description='What the job gives: a report with the end of the output, or all of the output as a file.')


def task(_context, name, handler, input_schema=None, output_schema=None, **options):
    """Register a task made of Python code; see `ITaskDirective`."""
    schemas = {key: schema for key, schema in (('inputSchema', input_schema), ('outputSchema', output_schema))
               if schema is not None}
    attributes = _attributes(options)
    isClass = inspect.isclass(handler)
    if ITask.implementedBy(handler) if isClass else ITask.providedBy(handler):
        if schemas:
            raise ValueError(f'{_dotted(handler)} is an ITask and has schemas of its own; none can be given here')
        if attributes and not isClass:
            raise ValueError(f'{_dotted(handler)} is registered as it is and has {", ".join(sorted(attributes))} of '
                             f'its own; none can be given here')
        made = handler() if isClass else handler
    else:
        _checkFunction(handler, isClass)
        made = SimpleTask(handler, **schemas)
    _set(made, attributes)
    if getattr(made, 'isolation', None) == 'process':
        checkIsolated(made)
    elif 'memoryLimit' in attributes:
        raise ValueError('memory_limit is for a process of its own: it needs isolation="process"')
    # The discriminator of the plain directive: whoever takes a name twice, by whatever directive, is told so.
    utility(_context, provides=ITask, name=name, component=made)


def command(_context, name, command, directory=None, text=(), timeout=3600.0, result=REPORT, **options):
    """Register a task made of a program; see `ICommandDirective`."""
    made = CommandTask(command, directory, text, timeout, result)
    _set(made, _attributes(options))
    utility(_context, provides=ITask, name=name, component=made)


def _attributes(options):
    """Return the attributes of a task that the options of a directive stand for."""
    attributes = {_ATTRIBUTES[key]: value for key, value in options.items() if key in _ATTRIBUTES}
    policy = {_POLICY[key]: tuple(value) if isinstance(value, list) else value      # zope.configuration makes lists
              for key, value in options.items() if key in _POLICY}
    if policy:
        attributes['retryPolicy'] = dataclasses.replace(DEFAULT, **policy)
    return attributes


def _set(task, attributes):
    for name, value in attributes.items():
        setattr(task, name, value)


def loadSite(path):
    """Execute a ZCML file as a site definition and return its configuration context.

    path -- of the file.  It need not include any meta.zcml: the directives of zope.component and ours are known.

    Raise `errors.ConfigurationError` that says in which file and line, and why.
    """
    path = os.path.abspath(path)
    context = ConfigurationMachine()
    xmlconfig.registerCommonDirectives(context)
    try:
        xmlconfig.include(context, 'meta.zcml', zope.component)
        xmlconfig.include(context, 'meta.zcml', lovely.remotetask)
        xmlconfig.include(context, path)
        context.execute_actions()
    except OSError as error:
        raise ConfigurationError(f'{path}: {error.strerror or error}') from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f'{path}: {error}') from error
    except ZCMLError as error:
        raise ConfigurationError(_explain(error)) from error
    return context


def _checkFunction(handler, isClass):
    if isClass or not callable(handler):
        raise ValueError(f'{_dotted(handler)} is neither a function that takes the input, nor does it provide or '
                         f'implement {ITask.__identifier__}')
    try:
        inspect.signature(handler).bind(None)
    except TypeError as error:
        raise ValueError(f'{_dotted(handler)} cannot be called with the input alone: {error}') from error
    except ValueError:                              # some built-in functions do not tell
        pass


def _dotted(handler):
    # Not the repr: what somebody names by mistake may be large, or secret.
    name = getattr(handler, '__qualname__', None)
    return name if isinstance(name, str) else f'an object of {type(handler).__qualname__}'


def _explain(error):
    """Return an error of zope.configuration as text: file, line and reason, then which files included that one."""
    if isinstance(error, ConfigurationConflictError):
        return _PLACE.sub(r'\1, line \2', str(error))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    places = [_PLACE.sub(r'\1, line \2', line) for line in lines if _PLACE.match(line)]
    reasons = [_EXCEPTION.sub('', line) for line in lines if not _PLACE.match(line)]
    # zope.configuration puts the outermost file first; but a wrapped exception has its own file before all others.
    places.reverse()
    if isinstance(error, xmlconfig.ZopeSAXParseException):
        cause = error.evalue
        places.insert(0, f'{cause.getSystemId()}, line {cause.getLineNumber()}')
        reasons = [f'this is not well-formed XML: {cause.getMessage()}']
    elif isinstance(error, ConfigurationWrapperError) and places:
        places.insert(0, places.pop())
    return '\n    included by '.join([': '.join(places[:1] + reasons), *places[1:]])
