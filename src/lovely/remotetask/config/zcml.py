"""ZCML: the directives that register tasks, and the loading of a site definition."""
# SPDX-License-Identifier: ZPL-2.1
import copy
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys

import zope.component
from zope.component.zcml import utility
from zope.configuration import xmlconfig
from zope.configuration.config import ConfigurationConflictError
from zope.configuration.config import ConfigurationMachine
from zope.configuration.exceptions import ConfigurationError as ZCMLError
from zope.configuration.exceptions import ConfigurationWrapperError
from zope.configuration.fields import Path
from zope.interface import Interface
from zope.interface.interface import InterfaceClass
from zope.schema import Text
from zope.schema import getFields

import lovely.remotetask
from lovely.remotetask.common.checks import shown
from lovely.remotetask.config.zcmlfields import Bytes
from lovely.remotetask.config.zcmlfields import Count
from lovely.remotetask.config.zcmlfields import FieldName
from lovely.remotetask.config.zcmlfields import Global
from lovely.remotetask.config.zcmlfields import Name
from lovely.remotetask.config.zcmlfields import Number
from lovely.remotetask.config.zcmlfields import OneOf
from lovely.remotetask.config.zcmlfields import Pause
from lovely.remotetask.config.zcmlfields import Schema
from lovely.remotetask.config.zcmlfields import Seconds
from lovely.remotetask.config.zcmlfields import Words
from lovely.remotetask.config.zcmlfields import YesNo
from lovely.remotetask.config.zcmlfields import noModule
from lovely.remotetask.config.zcmlfields import whyNoImport
from lovely.remotetask.database.zopeapp import checkDatabase
from lovely.remotetask.database.zopeapp import products
from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.execution.child import checkIsolated
from lovely.remotetask.execution.command import FILE
from lovely.remotetask.execution.command import REPORT
from lovely.remotetask.execution.command import CommandTask
from lovely.remotetask.functions import nameOf
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.options import PROCESS
from lovely.remotetask.options import THREAD
from lovely.remotetask.options import noSuch
from lovely.remotetask.options import readOptions
from lovely.remotetask.options import whatIsWrong
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.task import DeclaredTask
from lovely.remotetask.task import SimpleTask
from lovely.remotetask.task import declaredIn


_PLACE = re.compile(r'File "([^"]*)", line (\d+)[-.\d]*')
#: Names before a sentence that says it all: of our own exceptions, and the private module of zope.schema's.
_EXCEPTION = re.compile(r'^(?:zope\.schema\._bootstrapinterfaces\.)?(?:(?:ValidationError|ValueError): )?')

#: What zope.configuration says of a directive that it does not know: its namespace and its name.
_UNKNOWN = re.compile(r"^\('Unknown directive', (?P<namespace>'[^']*'|None), '(?P<name>[^']*)'\)$")
#: The directives of meta.zcml that site definitions use.
NAMESPACE, DIRECTIVES = 'http://namespaces.lovelysystems.com/remotetask', ('tasks', 'task', 'command')


class IRetryOptions(Interface):
    """What follows when a run of a task fails, or its host does; see `retry.RetryPolicy`."""

    atMostOnce = YesNo(
        title='At most once', required=False,
        description='Whether a job whose host died is given up, instead of run again.')
    attempts = Count(
        title='Attempts', required=False, min=1,
        description='How many runs a failing job gets in all.')
    retryBase = Pause(
        title='Retry base', required=False,
        description='The pause before the second run; 0 for at once.')
    retryFactor = Number(
        title='Retry factor', required=False,
        description='How many times as long each further pause is.')
    retryCap = Pause(
        title='Retry cap', required=False,
        description='The longest pause; 0 for none at all.')
    retryJitter = Number(
        title='Retry jitter', required=False, min=0.0, max=1.0,
        description='By how large a part of itself a pause may be shortened at random.')
    retryOn = Words(
        title='Retry on', required=False, value_type=Global(),
        description='The dotted names of the exceptions after which a job runs again; default: any.')
    neverRetryOn = Words(
        title='Never retry on', required=False, value_type=Global(),
        description='Those of them after which it does not.')


#: Attributes of `IRetryOptions` -> fields of `RetryPolicy`.
_POLICY = {'attempts': 'attempts', 'retryBase': 'base', 'retryFactor': 'factor', 'retryCap': 'cap',
           'retryJitter': 'jitter', 'retryOn': 'retryOn', 'neverRetryOn': 'neverRetryOn'}


class IRunOptions(IRetryOptions):
    """What functions and programs have in common."""

    mask = Words(
        title='Mask', required=False, value_type=Name(),
        description='More names of fields of inputs and results that the pages hide; they may have wildcards.')


class ITaskDirective(IRunOptions):
    """Offer a Python function or an ITask under a name."""

    name = Name(title='Name', description='What jobs call the task by.')
    handler = Global(
        title='Handler',
        description='The dotted name of a function that takes the input, or service, job id and input, and returns the '
                    'result; of an object that provides ITask; or of a class that implements ITask and is called '
                    'without arguments.')
    inputSchema = Schema(
        title='Input schema', required=False,
        description='An interface whose fields the input has to fit; for functions, an ITask has its own.')
    outputSchema = Schema(
        title='Output schema', required=False,
        description='An interface whose fields the result has to fit; for functions, an ITask has its own.')
    timeLimit = Seconds(
        title='Time limit', required=False,
        description='How long a run may take.')
    isolation = OneOf(
        title='Isolation', required=False, values=(THREAD, PROCESS),
        description='Where it runs: in a thread of the processing host, or in a process that is started for each run.')
    memoryLimit = Bytes(
        title='Memory limit', required=False, min=1,
        description='The address space that this process may use, as 512MB.')


class ITasksDirective(Interface):
    """Offer all tasks that a module declares, by the decorator `task.task`."""

    module = Name(
        title='Module',
        description='The dotted name of the module, or of a package that imports them from modules in it.')


class ICommandDirective(IRunOptions):
    """Offer a program under a name; the values mean what they mean for `command.CommandTask`."""

    name = Name(title='Name', description='What jobs call the task by.')
    command = Text(title='Command', description='The program and its arguments, with {field} for the input\'s values.')
    directory = Path(
        title='Directory', required=False,
        description='Where the program runs and all fields but those in `text` are paths; relative to the ZCML file.')
    text = Words(
        title='Text', required=False, value_type=FieldName(),
        description='The fields that are no paths.')
    files = Words(
        title='Files', required=False, value_type=FieldName(),
        description='The fields that have to be files, as clients send them.')
    timeout = Seconds(
        title='Timeout', required=False, default=3600.0,
        description='How long the program may run: seconds, or with a unit as 90s, 10m, 2h.')
    result = OneOf(
        title='Result', required=False, default=REPORT, values=(REPORT, FILE),
        description='What the job gives: a report with the end of the output, or all of the output as a file.')


def _lenient(schema):
    """Return a schema that takes any attribute, and needs none.

    zope.configuration would say of `handlr="..."` that `handler` is missing.  A directive with this schema gets what
    was written, and says itself what there is: see `_directive`.
    """
    fields = {}
    for name, field in getFields(schema).items():
        fields[name] = field = copy.copy(field)
        field.required, field.interface = False, None
    made = InterfaceClass(schema.__name__, (Interface,), fields, schema.__doc__, __name__)
    made.setTaggedValue('keyword_arguments', True)
    return made


#: What meta.zcml names: the directives' schemas, with errors of our own.
ITaskAttributes, ITasksAttributes, ICommandAttributes = map(
    _lenient, (ITaskDirective, ITasksDirective, ICommandDirective))


def _directive(schema):
    """Make a directive raise `ValueError` for attributes that are missing, or not in its schema."""
    fields = getFields(schema)

    def decorate(handler):
        @functools.wraps(handler)
        def checked(_context, **attributes):
            for name in attributes:
                if name not in fields:
                    raise ValueError(noSuch('attribute', name, fields))
            for name, field in fields.items():
                if field.required and name not in attributes:
                    raise ValueError(f'the attribute {name!r} is missing')
            return handler(_context, **attributes)
        return checked
    return decorate


@_directive(ITaskDirective)
def task(_context, name, handler, **attributes):
    """Register a task made of Python code; see `ITaskDirective`."""
    options = _options(attributes)
    made = _made(handler, options)
    if (wrong := whatIsWrong(made)) is not None:
        raise ValueError(f'{nameOf(handler)} cannot be run: {wrong}')
    _register(_context, name, made)


def _made(handler, options):
    """Return the task that a handler is, or makes, with these options."""
    if isinstance(handler, DeclaredTask):
        return handler.having(**options) if options else handler
    isClass = inspect.isclass(handler)
    if not (ITask.implementedBy(handler) if isClass else ITask.providedBy(handler)):
        if isClass or not callable(handler):
            raise ValueError(f'{nameOf(handler)} is neither a function nor a task: it does not provide or implement '
                             f'{ITask.__identifier__}')
        return SimpleTask(handler, **options)
    if {'inputSchema', 'outputSchema'} & set(options):
        raise ValueError(f'{nameOf(handler)} is an ITask and has schemas of its own; none can be given here')
    if not isClass:
        if options:
            raise ValueError(f'{nameOf(handler)} is registered as it is and has {", ".join(sorted(options))} of its '
                             f'own; none can be given here')
        return handler
    made = handler()
    if options:                                 # beside those that the class has
        for name, value in readOptions({'isolation': getattr(made, 'isolation', None), **options}).items():
            setattr(made, name, value)
    return made


@_directive(ITasksDirective)
def tasks(_context, module):
    """Register the tasks that a module declares; see `ITasksDirective`."""
    found = _module(_context, module.strip())
    if not (declared := declaredIn(found)):
        raise ValueError(f'the module {found.__name__} ({_fileOf(found)}) declares no task: write @task before a '
                         f'function, after "from {declaredIn.__module__} import task"')
    for one in declared:
        _register(_context, one.name, one)


def _module(context, name):
    """Return a module by its dotted name, relative to the package of the ZCML file if it begins with a dot."""
    if not re.fullmatch(r'\.*\w+(\.\w+)*', name):
        raise ValueError(f'{shown(name)} is not the dotted name of a module')
    package = getattr(context.package, '__name__', None)
    if name.startswith('.') and package is None:
        raise ValueError(f'{name!r} begins with a dot, but the file belongs to no package: <configure package="...">')
    name = importlib.util.resolve_name(name, package)
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f'{name}.'.startswith(f'{error.name}.'):
            raise ValueError(whyNoImport(error)) from error
        raise ValueError(noModule(name)) from error
    except Exception as error:
        raise ValueError(whyNoImport(error)) from error
    beside, there = os.path.realpath(context.path(f'{name}.py')), _fileOf(found)
    if os.path.exists(beside) and there is not None and os.path.realpath(there) != beside and _isOnPath(beside):
        raise ValueError(f'the module {name} is {there}; give {beside} another name')
    return found


def _isOnPath(path):
    """Return whether Python looks for modules in the directory of a file."""
    return os.path.dirname(path) in map(os.path.realpath, sys.path)


def _fileOf(module):
    return getattr(module, '__file__', None)


@_directive(ICommandDirective)
def command(_context, name, command, directory=None, text=(), timeout=3600.0, result=REPORT, files=(), **attributes):
    """Register a task made of a program; see `ICommandDirective`."""
    made = CommandTask(command, directory, text, timeout, result, files)
    for option, value in readOptions(_options(attributes)).items():
        setattr(made, option, value)
    _register(_context, name, made)


def checkZope(_context):
    """Refuse to start Zope with a database that is not its own; for `configure.zcml`."""
    _context.action(discriminator=('remotetask:checkZope',), callable=checkDatabase)


def _register(context, name, made):
    if getattr(made, 'isolation', THREAD) == PROCESS:
        checkIsolated(made)
    # The discriminator of the plain directive: whoever takes a name twice, by whatever directive, is told so.
    utility(context, provides=ITask, name=name, component=made)


def _options(attributes):
    """Return the options of a task that the attributes of a directive stand for."""
    attributes = {key: tuple(value) if isinstance(value, list) else value           # zope.configuration makes lists
                  for key, value in attributes.items()}
    policy = {_POLICY[key]: value for key, value in attributes.items() if key in _POLICY}
    options = {key: value for key, value in attributes.items() if key not in _POLICY}
    if policy:
        options['retryPolicy'] = RetryPolicy(**policy)
    return options


def loadSiteOf(db, path):
    """Execute a ZCML file, as `loadSite` does; if the database is one of Zope, do with products what Zope does.

    db -- the `ZODB.DB`.
    """
    with products(db):
        return loadSite(path)


def loadSite(path):
    """Execute a ZCML file as a site definition and return its configuration context.

    path -- of the file.  It need not include any meta.zcml: the directives of zope.component and ours are known.
        Modules in its directory can be imported from then on, by this process and by child processes.

    Raise `errors.ConfigurationError` that says in which file and line, and why.
    """
    path = os.path.abspath(path)
    _findModulesIn(os.path.dirname(path))
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


def placeOf(info):
    """Return the file and line of a directive, as text; '' for what was registered otherwise.

    info -- what the registration of a utility has as its `info`.
    """
    return f'{info.file}, line {info.line}' if isinstance(info, xmlconfig.ParserInfo) else ''


def _findModulesIn(directory):
    """Let Python find the modules in a directory, after all others: they replace none of Python or a library.

    A directory of a package is left alone; its modules are found as those of the package.
    """
    if directory not in sys.path and not os.path.exists(os.path.join(directory, '__init__.py')):
        sys.path.append(directory)
        importlib.invalidate_caches()


def _explain(error):
    """Return an error of zope.configuration as text: file, line and reason, then which files included that one."""
    if isinstance(error, ConfigurationConflictError):
        return _PLACE.sub(r'\1, line \2', str(error))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    places = [_PLACE.sub(r'\1, line \2', line) for line in lines if _PLACE.match(line)]
    reasons = [_UNKNOWN.sub(_unknown, _EXCEPTION.sub('', line)) for line in lines if not _PLACE.match(line)]
    # zope.configuration puts the outermost file first; but a wrapped exception has its own file before all others.
    places.reverse()
    if isinstance(error, xmlconfig.ZopeSAXParseException):
        cause = error.evalue
        places.insert(0, f'{cause.getSystemId()}, line {cause.getLineNumber()}')
        reasons = [f'this is not well-formed XML: {cause.getMessage()}']
    elif isinstance(error, ConfigurationWrapperError) and places:
        places.insert(0, places.pop())
    return '\n    included by '.join([': '.join(places[:1] + reasons), *places[1:]])


def _unknown(match):
    """Return the sentence for an unknown directive; `match` is of `_UNKNOWN`."""
    namespace, name = match['namespace'].strip("'"), match['name']
    if namespace == NAMESPACE:
        return noSuch('directive', name, DIRECTIVES)
    return f'there is no directive {name!r} in the namespace {namespace!r}; an <include> may be missing before it'
