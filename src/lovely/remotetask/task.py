"""Tasks made of Python functions, and the check of an input or output against a schema."""
# SPDX-License-Identifier: ZPL-2.1
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import zope.schema
from zope.interface import Interface
from zope.interface import implementer
from zope.interface.exceptions import Invalid

from lovely.remotetask.common.checks import shown
from lovely.remotetask.errors import InvalidInput
from lovely.remotetask.errors import TaskError
from lovely.remotetask.interfaces import ITask


__all__ = ['SimpleTask', 'TaskError', 'checkFields', 'checkInput', 'checkOutput']


@implementer(ITask)
class SimpleTask:
    """A task that calls a function with the job's input, and nothing else.

    func -- a callable of one argument.
    inputSchema, outputSchema -- interfaces whose fields the input and the result have to fit; see `ITask`.
    """

    def __init__(self, func: Callable[[Any], Any], inputSchema: Any = Interface, outputSchema: Any = Interface) -> None:
        self.func = func
        self.inputSchema, self.outputSchema = inputSchema, outputSchema

    def __call__(self, service: Any, jobid: int, input: Any) -> Any:
        """Return what the function makes of the input."""
        return self.func(input)

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.func!r}>'


def checkFields(schema: Any, value: Any) -> None:
    """Raise `InvalidInput` that names the field when the dict `value` does not fit the fields of `schema`.

    A schema without fields accepts anything, dict or not.  Keys that are no fields are refused; a field that is not
    required may be missing or None.  The schema's invariants see the values as attributes.
    """
    fields = zope.schema.getFields(schema)
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
