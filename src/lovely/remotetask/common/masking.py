"""Secrets, such as passwords: known by the names of their fields, and hidden wherever values are shown."""
# SPDX-License-Identifier: ZPL-2.1
import fnmatch
import functools
import itertools
import json
import re
import urllib.parse
from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set

import zope.schema
from zope.interface import Interface


#: What stands in the place of a value that is hidden.
HIDDEN = '•••'

#: Words that make a name one of a secret.
WORDS = frozenset('''
    auth authorization cookie credential credentials passphrase passwd password pin private pwd secret secrets token
    tokens
'''.split())
#: Pairs of words that do so side by side.
PAIRS = frozenset(('api key', 'access key', 'private key', 'secret key', 'session key', 'session id', 'pass word'))

#: Nested values that are looked into at the most.
DEPTH = 200

#: The fewest characters of a secret that is hidden within texts: a shorter one would hide half of each.  One of fewer
#: than WITHIN is hidden only where it is a word of its own.
SHORTEST, WITHIN = 4, 8

#: Secrets of one job that are hidden within texts, and characters of a text that may be JSON, at the most.
MOST, JSON_SIZE = 1000, 100_000

_URL = re.compile(r"""(?<=://)(?P<user>[^\s/:@"'<>]*):(?P<password>[^\s/"'<>]+)@""")

_WORD = re.compile(r'[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+')


def isSecret(name, patterns=()):
    """Return whether a name, as of a field, says that its value is a secret.

    patterns -- more names, patterns of `fnmatch`, whose case does not count.

    >>> [name for name in ('password', 'userPassword', 'API_KEY', 'tokens', 'keyboard', 'key', 'pass-word')
    ...  if isSecret(name)]
    ['password', 'userPassword', 'API_KEY', 'tokens', 'pass-word']
    """
    words = [word.lower() for word in _WORD.findall(name)]
    return (not WORDS.isdisjoint(words) or any(' '.join(pair) in PAIRS for pair in itertools.pairwise(words))
            or ''.join(words) in WORDS or any(fnmatch.fnmatchcase(name.lower(), each.lower()) for each in patterns))


def secretFields(task):
    """Return the names of those fields of a task's schemas that are passwords, a set; `task` may be None."""
    return {name for attribute in ('inputSchema', 'outputSchema')
            for name, field in zope.schema.getFields(getattr(task, attribute, None) or Interface).items()
            if isinstance(field, zope.schema.Password)}


def hidesOf(task, patterns=()):
    """Return a function that says of the name of a field whether its value is hidden, for jobs of a task.

    task -- may be None.
    patterns -- more names, as for `isSecret`.
    """
    secrets, patterns = secretFields(task), (*patterns, *(getattr(task, 'mask', None) or ()))
    return lambda name: name in secrets or isSecret(name, patterns)


def hidesOfAny(tasks, patterns=()):
    """Return a function that says of the name of a field whether its value is hidden, for jobs of some task or other.

    tasks -- a function that returns the tasks; it is called when a name is first asked about.
    patterns -- more names, as for `isSecret`.
    """
    @functools.cache
    def known():
        found = list(tasks())
        return (set().union(*map(secretFields, found)),
                {*patterns, *itertools.chain.from_iterable(getattr(task, 'mask', None) or () for task in found)})

    @functools.cache
    def hides(name):
        secrets, more = known()
        return name in secrets or isSecret(name, more)
    return hides


class Secrets:
    """Texts that are hidden wherever they appear, as in a message or a traceback."""

    def __init__(self, texts=()):
        """`texts` -- those that are too short or too many are left out: see SHORTEST and MOST."""
        forms = {form for text in itertools.islice(texts, MOST) for form in _formsOf(text) if len(form) >= SHORTEST}
        self._forms = sorted(forms, key=lambda form: (-len(form), form))

    @functools.cached_property
    def _pattern(self):
        return re.compile('|'.join(map(_patternOf, self._forms)))

    def hide(self, text):
        """Return a text without the secrets, and without the passwords of URLs."""
        if any(form in text for form in self._forms):           # else no pattern need be made
            text = self._pattern.sub(HIDDEN, text)
        return _URL.sub(rf'\g<user>:{HIDDEN}@', self._withoutEnd(text))

    def _withoutEnd(self, text):
        """Return a text that was cut without the beginning of a secret that stands at its end."""
        body = text.removesuffix('...')
        if body == text:
            return text
        for form in self._forms:
            place = body.find(form[:SHORTEST], max(0, len(body) - len(form)))
            while place >= 0:
                if form.startswith(body[place:]):
                    return body[:place] + HIDDEN + '...'
                place = body.find(form[:SHORTEST], place + 1)
        return text


#: Hides nothing but the passwords of URLs.
NOTHING = Secrets()


def _formsOf(text):
    """Yield the ways in which a text is written within others; of one with several lines each long one as well."""
    for part in (text, *(text.splitlines() if '\n' in text else ())):
        part = part.strip()
        if part == text.strip() or len(part) >= WITHIN:
            yield from (part, repr(part)[1:-1], json.dumps(part)[1:-1], urllib.parse.quote(part, ''),
                        urllib.parse.quote_plus(part))


def _patternOf(form):
    # A short secret may be a part of other words, which do not tell it.
    return re.escape(form) if len(form) >= WITHIN else rf'(?<![^\W_]){re.escape(form)}(?![^\W_])'


def secretsOf(value, hides):
    """Return the `Secrets` that a value, as the input of a job, has in the fields that are hidden.

    hides -- as for `masked`.
    """
    return Secrets(dict.fromkeys(_secretTexts(value, hides, False, {}, DEPTH)))


def _secretTexts(value, hides, isHidden, seen, depth):
    """Yield the texts and numbers, as texts, that are hidden in a value.

    isHidden -- whether the whole value is.
    seen -- what has been looked into: pairs of id and isHidden -> the value, which keeps its id as long as it is here.
    """
    if depth == 0 or (id(value), isHidden) in seen:
        return
    if isinstance(value, str):
        if isHidden:
            yield value
        elif (data := _dataIn(value)) is not None:
            yield from _secretTexts(data, hides, False, {}, depth - 1)
        else:
            yield from (urllib.parse.unquote(match['password']) for match in _URL.finditer(value))
        return
    if _isNumber(value):
        yield from [str(value)] if isHidden else ()
        return
    seen[id(value), isHidden] = value
    if isinstance(value, (Sequence, Set)) and not isinstance(value, (bytes, bytearray)):
        for item in value:
            yield from _secretTexts(item, hides, isHidden, seen, depth - 1)
        return
    for name, item in (value if isinstance(value, Mapping) else getattr(value, '__dict__', {})).items():
        isAlso = isHidden or isinstance(name, str) and hides(name)
        yield from _secretTexts(item, hides, isAlso, seen, depth - 1)


def _isNumber(value):
    """Return whether a value is a number that can be a secret, and be written out."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 10 ** 100


def _dataIn(text):
    """Return the dict or list that a text has as JSON; None for any other text."""
    if text.lstrip()[:1] not in ('{', '[') or len(text) > JSON_SIZE:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def masked(value, hides, secrets=NOTHING):
    """Return a value in which what is hidden is replaced by HIDDEN; lists and dicts are copied.

    hides -- called with the name of a dict's item, a text; it says whether to hide the item's value.
    secrets -- `Secrets` that are hidden in texts and numbers.

    >>> masked({'user': 'ann', 'login': [{'password': 'x'}]}, isSecret)
    {'user': 'ann', 'login': [{'password': '•••'}]}
    >>> masked('user:geheim', isSecret, secretsOf({'password': 'geheim'}, isSecret))
    'user:•••'
    """
    return _masked(value, hides, secrets, {}, DEPTH)


def _masked(value, hides, secrets, done, depth):
    """`done` -- id of a list or dict -> that, which keeps its id, and what replaces it; HIDDEN within itself."""
    if depth == 0:
        return HIDDEN
    if isinstance(value, str):
        return _maskedText(value, hides, secrets, depth)
    if value is None or isinstance(value, (bool, bytes, bytearray)):
        return value
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, Mapping):
        done[id(value)] = value, HIDDEN
        found = {secrets.hide(name) if isinstance(name, str) else name:
                 HIDDEN if isinstance(name, str) and hides(name) else _masked(item, hides, secrets, done, depth - 1)
                 for name, item in value.items()}
    elif isinstance(value, (Sequence, Set)):
        done[id(value)] = value, HIDDEN
        found = [_masked(item, hides, secrets, done, depth - 1) for item in value]
        found = tuple(found) if type(value) is tuple else found
    else:
        return _maskedLeaf(value, secrets)
    done[id(value)] = value, found
    return found


def _maskedLeaf(value, secrets):
    """Return a number or an object, or the text of one that would tell a secret."""
    if secrets is NOTHING or isinstance(value, (int, float)) and not _isNumber(value):
        return value
    try:
        text = str(value)
    except Exception:                           # of somebody's own class
        return value
    hidden = secrets.hide(text)
    return hidden if hidden != text and (hidden == HIDDEN or not _isNumber(value)) else value


def _maskedText(text, hides, secrets, depth):
    data = _dataIn(text)
    if data is not None:
        found = _masked(data, hides, secrets, {}, depth - 1)
        if found != data:
            return json.dumps(found, ensure_ascii=False)
    return secrets.hide(text)
