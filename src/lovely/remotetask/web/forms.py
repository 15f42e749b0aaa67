"""Forms made from the input schema of a task, and the input that a form was filled in with.  Pure."""
# SPDX-License-Identifier: ZPL-2.1
import json
from decimal import Decimal
from decimal import InvalidOperation
from typing import Any
from typing import NamedTuple

import zope.schema
from zope.interface import Interface
from zope.schema import interfaces as kinds

from lovely.remotetask.common.checks import cut
from lovely.remotetask.common.checks import shown


#: The prefix of names of fields of the input in a form, so that they differ from our own fields.
PREFIX = 'input.'

#: The name of the field for the whole input, of a task that takes anything.
WHOLE = 'input'

#: The most values that a form offers to choose from; otherwise the user types one.
CHOICES = 200


class Mistake(Exception):
    """A text that is no value of its field; the message says what is needed."""


class Control(NamedTuple):
    """A field of a form."""

    name: str                   # in the form
    kind: str                   # 'line', 'text', 'number', 'flag', 'choice', 'secret' or 'json'
    title: str
    description: str = ''
    isRequired: bool = False
    value: str = ''             # what it is filled in with; of a flag 'on' or ''
    choices: tuple = ()         # of pairs of text and title
    mistake: str = ''           # why the value will not do


class Form(NamedTuple):
    """A form, and what it was filled in with."""

    controls: list
    mistake: str = ''           # of the input as a whole

    @property
    def hasMistakes(self):
        """Whether it cannot be carried out."""
        return bool(self.mistake or any(control.mistake for control in self.controls))


def formOf(task):
    """Return the empty `Form` for the input of a task, with the defaults of its schema."""
    fields = _fields(task)
    if not fields:
        description = 'As JSON: a text in quotation marks, a number, {"name": "value"}, or null for none.'
        return Form([Control(WHOLE, 'json', 'Input', description, value='null')])
    return Form([_control(name, field) for name, field in fields])


def _fields(task):
    return zope.schema.getFieldsInOrder(getattr(task, 'inputSchema', None) or Interface)


def _control(name, field):
    kind, choices = kindOf(field), ()
    if kind == 'choice':
        choices = tuple((_termText(term), term.title or str(term.token)) for term in field.vocabulary)
    return Control(PREFIX + name, kind, field.title or name, field.description, field.required and kind != 'flag',
                   _defaultText(kind, field.default), choices)


def _defaultText(kind, default):
    if kind == 'flag':
        return 'on' if default else ''
    if default is None or kind == 'secret':
        return ''
    return json.dumps(default, default=str) if kind == 'json' else str(default)


def kindOf(field):
    """Return the kind of the `Control` for a field of a schema."""
    if kinds.IPassword.providedBy(field):
        return 'secret'
    if kinds.IBool.providedBy(field):
        return 'flag'
    if kinds.IChoice.providedBy(field):
        vocabulary = field.vocabulary
        isShort = vocabulary is not None and hasattr(vocabulary, '__len__') and len(vocabulary) <= CHOICES
        return 'choice' if isShort else 'json'
    for interface, kind in ((kinds.IInt, 'number'), (kinds.IFloat, 'number'), (kinds.IDecimal, 'number'),
                            (kinds.ITextLine, 'line'), (kinds.IText, 'text')):
        if interface.providedBy(field):
            return kind
    return 'json'


def _termText(term):
    return str(term.token)


def filledIn(task, sent):
    """Return the `Form` as it was filled in, and the input, None if there are mistakes.

    task -- an `ITask`.
    sent -- name -> list of texts.

    Whether the values fit the schema is not checked here.
    """
    form, fields = formOf(task), dict(_fields(task))
    controls, values = [], {}
    for control in form.controls:
        text = sent.get(control.name, [''])[0]
        text = text.replace('\r\n', '\n')
        control = control._replace(value='' if control.kind == 'secret' else text)
        try:
            values[control.name] = valueOf(control, text, fields.get(control.name.removeprefix(PREFIX)))
        except Mistake as mistake:
            control = control._replace(mistake=str(mistake))
        controls.append(control)
    form = Form(controls)
    if form.hasMistakes:
        return form, None
    if not fields:
        return form, values[WHOLE]
    return form, {name.removeprefix(PREFIX): value for name, value in values.items() if value is not None}


def valueOf(control, text, field):
    """Return the value that a text stands for in a `Control`; None for none.  Raise `Mistake`.

    field -- the one of the schema; None for the whole input.
    """
    if control.kind == 'flag':
        return text == 'on'
    if not text.strip() and (control.kind != 'json' or field is not None):
        if control.isRequired:
            raise Mistake('Something is needed here.')
        return None
    if control.kind == 'number':
        return _number(text.strip(), field)
    if control.kind == 'choice':
        for term in field.vocabulary:
            if _termText(term) == text:
                return term.value
        raise Mistake('Choose one of the list.')
    if control.kind == 'json':
        return _json(text)
    return text


def _number(text, field):
    if kinds.IInt.providedBy(field):
        digits = text.removeprefix('-').removeprefix('+')
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 100):
            raise Mistake(f'{shown(text, 40)} is not a whole number.')
        return int(text)
    convert = Decimal if kinds.IDecimal.providedBy(field) else float
    try:
        return convert(text[:100])
    except (ValueError, InvalidOperation):
        raise Mistake(f'{shown(text, 40)} is not a number.') from None


def _json(text) -> Any:
    try:
        return json.loads(text, parse_constant=_refuseConstant)
    except RecursionError:
        raise Mistake('It is nested too deeply.') from None
    except ValueError as error:
        raise Mistake(f'It is not JSON: {cut(str(error), 200)}.') from None


def _refuseConstant(name):
    raise ValueError(f'{name} is not a value of JSON')


def withMistake(form, field, reason):
    """Return a `Form` that says what is wrong with the input.

    field -- the name of the schema's field; '' for the input as a whole.
    """
    names = [control.name for control in form.controls]
    if PREFIX + field not in names:
        return form._replace(mistake=reason)
    return form._replace(controls=[control._replace(mistake=reason) if control.name == PREFIX + field else control
                                   for control in form.controls])
