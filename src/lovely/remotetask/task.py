"""Tasks made of Python functions, and the check of an input or output against a schema."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import importlib
import inspect
from collections.abc import Callable
from operator import attrgetter
from types import FunctionType
from types import SimpleNamespace
from typing import Any
from typing import Unpack
from typing import overload

import zope.schema
from zope.interface import Interface
from zope.interface import implementer
from zope.interface.exceptions import Invalid
from zope.interface.interfaces import ComponentLookupError

from lovely.remotetask.common.checks import check
from lovely.remotetask.common.checks import isText
from lovely.remotetask.common.checks import shown
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import TaskError
from lovely.remotetask.functions import nameOf
from lovely.remotetask.functions import takesInput
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.interfaces import ITaskService
from lovely.remotetask.options import NAMES
from lovely.remotetask.options import Options
from lovely.remotetask.options import RunOptions
from lovely.remotetask.options import readOptions


__all__ = ['DeclaredTask', 'SimpleTask', 'TaskError', 'checkFields', 'checkInput', 'checkOutput', 'declaredIn', 'task']

#: Characters at the most of the name of a task that is declared.
NAME_LENGTH = 200


@implementer(ITask)
class SimpleTask:
    """A task that calls a function.

    func -- a callable that takes the job's input alone, or service, job id and input; see `ITask`.
    inputSchema, outputSchema -- interfaces whose fields the input and the result have to fit; see `ITask`.
    options -- see `options.RunOptions`.

    Raise `ValueError` for a function that can be called in neither way and for an option out of range, `TypeError` for
    an unknown option.
    """

    def __init__(self, func: Callable[..., Any], inputSchema: Any = Interface, outputSchema: Any = Interface,
                 **options: Unpack[RunOptions]) -> None:
        self.func = func
        self._takesInput = takesInput(func)
        vars(self).update(readOptions({'inputSchema': inputSchema, 'outputSchema': outputSchema, **options}))

    def __call__(self, service: Any, jobid: int, input: Any) -> Any:
        """Return what the function makes of the input."""
        return self.func(input) if self._takesInput else self.func(service, jobid, input)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.func!r}>'


class DeclaredTask(SimpleTask):
    """A function with the decorator `task`: a task that knows its name, and can add jobs.

    name -- what jobs call it by, a text.
    func, options -- see `SimpleTask`.

    Like the function it can be called with the input alone, and is found as an attribute of its module.
    """

    def __init__(self, name: str, func: Callable[..., Any], **options: Unpack[Options]) -> None:
        super().__init__(func, **options)
        functools.update_wrapper(self, func, updated=())        # attributes of the function are no options
        self.name = name

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function: with three arguments as `ITask` says, otherwise just with those given."""
        if len(arguments) + len(named) == 3:
            return super().__call__(*arguments, **named)
        return self.func(*arguments, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        return _imported, (self.func.__module__, self.func.__qualname__)

    def add(self, input: Any = None, service: Any = None, **options: Any) -> int:
        """Add a job for this task and return its id.

        input -- of the job.
        service -- the `ITaskService`; default: the one that is registered in the current site, or globally.
        options -- further arguments of `ITaskService.add`, by name: startLater, retryPolicy, timeLimit, key ...

        Raise what `ITaskService.add` raises, and `ComponentLookupError` when there is no service.
        """
        if service is None:
            from zope.component import queryUtility  # a child process, which imports this module, can do without
            service = queryUtility(ITaskService)
        if service is None:
            raise ComponentLookupError(f'the task {self.name!r} knows no task service to add a job to: there is none '
                                       'in the current site, nor a global one; set the site, or give service=...')
        return service.add(self.name, input, **options)

    def having(self, **options: Unpack[Options]) -> 'DeclaredTask':
        """Return a task of the same function with some options changed.  Raise what `SimpleTask` raises."""
        own = {name: value for name, value in vars(self).items() if name in NAMES}
        return DeclaredTask(self.name, self.func, **{**own, **options})


def _imported(module: str, name: str) -> Any:
    """Return the attribute of a module at a dotted name: for a child process, which needs the function and no options.
    """
    return attrgetter(name)(importlib.import_module(module))


@overload
def task(name: Callable[..., Any], /) -> DeclaredTask: ...


@overload
def task(name: str | None = None, **options: Unpack[Options]) -> Callable[[Callable[..., Any]], DeclaredTask]: ...


def task(name: Any = None, **options: Any) -> Any:
    """Declare a function as a task: a decorator.

    name -- what jobs call the task by, a text of 1 to 200 characters; default: the name of the function.
    options -- see `options.Options`; `tasks.txt` tells of each.

    The function takes the input alone, or service, job id and input.  Raise `ValueError` that names what is wrong with
    an option or the function, or when the module has declared a task of that name before; `TypeError` for what is no
    option.
    """
    if callable(name):
        return _declare(None, name, {})
    return functools.partial(_declare, name, options=options)


def _declare(name: Any, func: Any, options: dict[str, Any]) -> DeclaredTask:
    if not isinstance(func, FunctionType):
        raise ValueError(f'{nameOf(func)} is not a function: @task stands before one')
    name = func.__name__ if name is None else name
    check('name', name, isText(name, NAME_LENGTH), f'a text of 1 to {NAME_LENGTH} characters')
    made = DeclaredTask(name, func, **options)
    _record(made)
    return made


#: Where modules have declared tasks.  Name of the module -> what its present import is known by, and: name of a task
#: -> line.
_lines: dict[str, tuple[Any, dict[str, int]]] = {}


def _record(made: DeclaredTask) -> None:
    """Raise `ValueError` when this import of the module has declared a task of that name.

    In a shell, and within a function or class, it is fine to declare one again.
    """
    written = inspect.unwrap(made.func)             # below other decorators
    spec = getattr(written, '__globals__', {}).get('__spec__')
    if spec is None or '.' in written.__qualname__:
        return
    known, lines = _lines.get(made.__module__, (None, {}))
    if known is not spec:                           # imported for the first time, or anew
        _lines[made.__module__] = spec, (lines := {})
    line = written.__code__.co_firstlineno
    if lines.setdefault(made.name, line) != line:
        raise ValueError(f'the name {made.name!r} is taken by the task in line {lines[made.name]}')


def declaredIn(module: Any) -> list[DeclaredTask]:
    """Return the tasks that a module has declared, or that a package has imported from modules in it."""
    found = {id(value): value for value in vars(module).values() if isinstance(value, DeclaredTask)
             and f'{value.func.__module__}.'.startswith(f'{module.__name__}.')}
    return sorted(found.values(), key=lambda value: value.name)


def checkFields(schema: Any, value: Any) -> None:
    """Raise `InvalidInput` that names the field when the dict `value` does not fit the fields of `schema`.

    A schema without fields accepts anything, dict or not.  Keys that are no fields are refused; a field that is not
    required may be missing or None.  The schema's invariants see the values as attributes.
    """
    fields = {} if schema is Interface else zope.schema.getFields(schema)
    if not fields:
        return
    if not isinstance(value, dict):
        raise InvalidInput('', f'a dict with the keys {", ".join(sorted(fields))} is needed, '
                               f'not {type(value).__name__}')
    for name in value:
        if name not in fields:
            raise InvalidInput(name, f'there is no such field; the fields are {", ".join(sorted(fields))}')
    for name, field in fields.items():
        if field.required and value.get(name) is None:
            raise InvalidInput(name, 'is missing')
        try:
            field.bind(None).validate(value.get(name))
        except zope.schema.ValidationError as error:
            raise InvalidInput(name, _reason(error, value.get(name))) from error
    try:
        schema.validateInvariants(SimpleNamespace(**{name: value.get(name, field.default)
                                                     for name, field in fields.items()}))
    except Invalid as error:
        raise InvalidInput('', str(error)) from error


def _reason(error: Any, value: Any) -> str:
    return f'{(error.doc() or type(error).__name__).strip().rstrip(".")}: {shown(value)}'


def checkInput(task: Any, input: Any) -> None:
    """Raise `InvalidInput` when the task cannot work with this input: by its schema, and by its own `checkInput`."""
    checkFields(getattr(task, 'inputSchema', Interface), input)
    if (check := getattr(task, 'checkInput', None)) is not None:
        check(input)


def checkOutput(task: Any, output: Any) -> None:
    """Raise `TaskError` when what the task returned does not fit its output schema."""
    try:
        checkFields(getattr(task, 'outputSchema', Interface), output)
    except InvalidInput as error:
        raise TaskError(f'the task returned something that does not fit its output schema: '
                        f'{error.field or "result"}: {error.reason}') from error
