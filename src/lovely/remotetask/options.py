"""The options of a task: their names, the values that they may have, and the messages for other ones."""
# SPDX-License-Identifier: ZPL-2.1
import difflib
import sys
from collections.abc import Callable
from collections.abc import Iterable
from types import FunctionType
from typing import Any
from typing import Literal
from typing import TypedDict

from zope.interface import Interface
from zope.interface.interface import InterfaceClass

from lovely.remotetask.common.checks import isSpan
from lovely.remotetask.common.checks import isWhole
from lovely.remotetask.common.checks import shown
from lovely.remotetask.functions import takesInput
from lovely.remotetask.retry import RetryPolicy
from lovely.remotetask.retry import asPolicy


#: Where a task asks to be run, by its option `isolation`: in a thread of the host, or in a process of its own.
THREAD, PROCESS = 'thread', 'process'


class RunOptions(TypedDict, total=False):
    """How a task is run.  What is left out, or None, is at its default; `tasks.txt` tells of each option."""

    #: What follows when a run fails: a `RetryPolicy`, or a dict of its fields.
    retryPolicy: RetryPolicy | dict[str, Any] | None
    #: Seconds that a run may take, above 0.
    timeLimit: float | None
    #: Whether it runs in a thread of the processing host, or in a process that is started for each run.
    isolation: Literal['thread', 'process'] | None
    #: Bytes of address space that this process may use, above 0.
    memoryLimit: int | None
    #: Whether a job whose host died is given up, instead of run again.
    atMostOnce: bool | None
    #: More names of fields of inputs and results that the pages hide: patterns of `fnmatch`.
    mask: tuple[str, ...] | list[str] | None


class Options(RunOptions, total=False):
    """What a declaration of a task can say."""

    #: Interfaces whose fields the input and the result have to fit; see `ITask`.
    inputSchema: Any
    outputSchema: Any


def _areTexts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) and one.strip() for one in value)


def _isPolicy(value: Any) -> bool:
    return isinstance(value, RetryPolicy) or (isinstance(value, dict) and asPolicy(value) is not None)


#: Option -> a function that says whether a value is right, and what is expected; None stands for the default.
_RUN: dict[str, tuple[Callable[[Any], bool], str]] = {
    'retryPolicy': (_isPolicy, 'a RetryPolicy or a dict of its fields'),
    'timeLimit': (isSpan, 'a number of seconds above 0'),
    'isolation': (lambda value: value in (THREAD, PROCESS), f'{THREAD!r} or {PROCESS!r}'),
    'memoryLimit': (lambda value: isWhole(value, 1, sys.maxsize), 'a number of bytes above 0'),
    'atMostOnce': (lambda value: isinstance(value, bool), 'True or False'),
    'mask': (_areTexts, 'a list of names of fields'),
}
_SCHEMAS = ('inputSchema', 'outputSchema')
#: The names of all options, in the order in which they are told.
NAMES = (*_SCHEMAS, *_RUN)


def readOptions(given: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes that a task gets by these options; a policy that was a dict is a `RetryPolicy`.

    Raise `TypeError` for a name that is no option, `ValueError` that names the option for a value that will not do.
    """
    for name in given:
        if name not in NAMES:
            raise TypeError(noSuch('option', name, NAMES))
    options = {name: value for name, value in given.items() if value is not None or name in _SCHEMAS}
    for name, value in options.items():
        if (reason := _refusal(name, value)) is not None:
            raise ValueError(f'{name}: {shown(value)} {reason}')
    if options.get('memoryLimit') is not None and options.get('isolation') != PROCESS:
        raise ValueError(f'memoryLimit: it is for a process of its own, and needs isolation={PROCESS!r}')
    if 'retryPolicy' in options:
        options['retryPolicy'] = asPolicy(options['retryPolicy'])
    return options


def whatIsWrong(task: Any) -> str | None:
    """Return why a task cannot be run, as text: how it is called, or which of its attributes will not do; or None."""
    if isinstance(task, FunctionType):
        try:
            takesInput(task)
        except ValueError as error:
            return str(error)
    for name in _SCHEMAS:
        value = getattr(task, name, Interface)
        if value is not Interface and (reason := _refusal(name, value)) is not None:
            return f'its {name}, {shown(value)}, {reason}'
    for name in _RUN:
        value = getattr(task, name, None)
        if value is not None and (reason := _refusal(name, value)) is not None:
            return f'its {name}, {shown(value)}, {reason}'
    return None


def _refusal(name: str, value: Any) -> str | None:
    """Return what is wrong with the value of an option, a predicate; None when nothing is."""
    if name in _SCHEMAS:
        return None if isinstance(value, InterfaceClass) else 'is not an interface'
    isRight, expected = _RUN[name]
    try:
        return None if isRight(value) else f'is not {expected}'
    except ValueError as error:                 # of a policy: it says which field
        return f'will not do: {error}'


def noSuch(kind: str, name: str, names: Iterable[str]) -> str:
    """Return the sentence for a name that is none.

    kind -- what it is taken for: 'option', 'attribute'.
    names -- those that there are.
    """
    names = list(names)
    near = difflib.get_close_matches(name.replace('_', '').lower(), [one.lower() for one in names], 1)
    meant = f'; did you mean {next(one for one in names if one.lower() == near[0])!r}?' if near else '.'
    return f'there is no {kind} {shown(name)}{meant}  The {kind}s are {", ".join(names)}'
