"""Calls the function of a task: with the input alone, or with service, job id and input."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any


def takesInput(function: Callable[..., Any]) -> bool:
    """Return whether a function takes the input alone; otherwise it takes service, job id and input.

    function -- any callable.  One that could be called in both ways takes the input; so does one that does not tell,
        as some built-in functions.

    Raise `ValueError` when it can be called in neither way, or would not return the result but something to await.
    """
    if not callable(function):
        raise ValueError(f'{nameOf(function)} cannot be called')
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ValueError(f'{nameOf(function)} is asynchronous; a task is a plain function, which may call asyncio.run')
    try:
        signature = inspect.signature(function)
    except ValueError:
        return True
    try:
        signature.bind(None)
        return True
    except TypeError as error:
        reason = error
    try:
        signature.bind(None, None, None)
        return False
    except TypeError:
        raise ValueError(f'{nameOf(function)} can be called neither with the input alone ({reason}) nor with service, '
                         'jobid and input') from None


def nameOf(value: Any) -> str:
    """Return what a message calls a function, a class or another object: not by its repr, which may be large or secret.
    """
    name = getattr(value, '__qualname__', None)
    return name if isinstance(name, str) else f'an object of {type(value).__qualname__}'


def callTask(task: Callable[..., Any], service: Any, jobid: int, input: Any) -> Any:
    """Call a task as its kind wants it, and return the result.

    task -- an `ITask`, or a plain function that was registered as one and may take the input alone.
    service, jobid, input -- see `ITask`.
    """
    if type(task) is FunctionType and _takesInput(task):
        return task(input)
    return task(service, jobid, input)


_takesInput = functools.lru_cache(1000)(takesInput)
