"""Which values are nobody's business, as passwords: told by their names, and hidden wherever values are shown."""
# SPDX-License-Identifier: ZPL-2.1
import fnmatch
import itertools
import re

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


def masked(value, hides, depth=DEPTH):
    """Return a value in which what is hidden is replaced by HIDDEN; lists and dicts are copied.

    hides -- called with the name of a dict's item, a text; it says whether to hide the item's value.

    >>> masked({'user': 'ann', 'login': [{'password': 'x'}]}, isSecret)
    {'user': 'ann', 'login': [{'password': '•••'}]}
    """
    if depth == 0:
        return HIDDEN
    if isinstance(value, dict):
        return {name: HIDDEN if isinstance(name, str) and hides(name) else masked(item, hides, depth - 1)
                for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(masked(item, hides, depth - 1) for item in value) if type(value) in (list, tuple) \
            else [masked(item, hides, depth - 1) for item in value]
    return value
