"""Notes of transactions: who did what, for the database's own history, and for those who read it.

A note has a sentence for each thing that was done, divided by semicolons, and at its end how many more there were::

    remotetask add 32 jobs 17-48 echo by ann in /TaskService; cancel job 5 "a task" by bob in /TaskService (+3)
    remotetask complete job 17 echo attempt 1 on alpha in /TaskService

First the verb, then the jobs and the name of their task, or something else in quotes, then words and what they say:
`attempt` of the run, `for` the id of the job that did it, `on` the processing host, `by` the user where a transaction
has several, `in` the path of the service.
"""
# SPDX-License-Identifier: ZPL-2.1
import functools
import itertools
import re
from typing import NamedTuple


#: What each note, or the line of it that is ours, begins with.
PREFIX = 'remotetask '

#: Bytes of a note of ours at the most, and of the users of a transaction.
SIZE, USER_SIZE = 500, 200

#: Bytes of the names in a note at the most: of a task or what else there is, of a host, a user, and a path.
_ABOUT_SIZE, _NAME_SIZE, _PATH_SIZE = 110, 50, 90

#: Characters of the ids of jobs at the most.
_IDS_SIZE = 80

#: Bytes of all notes of a transaction: storages keep their length in 16 bits.
_STORED_SIZE = 65535

#: The user of a transaction that somebody has asked for whose name nobody knows.
ANYBODY = 'anybody'

_KEYS = 'attempt', 'for', 'on', 'by', 'in'
_PLAIN = re.compile(r'(?!(?:jobs?|attempt|for|on|by|in)\Z)[\w./+@:*-]+')
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s;"]+|;|"')
_IDS = re.compile(r'[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*(?:,[.]{3})?')
_MORE = re.compile(r' \(\+([0-9]{1,9})\)\Z')


class Act(NamedTuple):
    """Something that was done."""

    verb: str                   # a word
    jobids: tuple = ()          # of the jobs that it was done to; in a note that was read they are ranges
    about: str = ''             # the name of their task, or what else there is to say
    count: int | None = None    # how many jobs it was; None for as many as there are ids
    attempt: int | None = None  # of the run
    by: str = ''                # the user
    on: str = ''                # the processing host
    job: int | None = None      # the id of the job that did it
    path: str = ''              # of the service, as '/TaskService'; '' for what is done to the whole database

    def concerns(self, jobid):
        """Return whether it was done to a job, or by it, as far as the note says; of a note that was read."""
        return jobid == self.job or any(jobid in ids for ids in self.jobids)


# Writing

def write(txn, acts, user=''):
    """Note in a transaction what is done in it.

    A note that somebody else has left there stays, and this is a line below it.  So does his user.

    txn -- the transaction, of the package `transaction`.
    acts -- a list of `Act`s; those that are alike but for their jobs become one sentence.
    user -- the name of who has asked for all of them; '' for what their `by` says, or for nobody, as for what a host
        does by itself.
    """
    text = noteOf(acts)
    there = len(txn.description.encode('utf-8', 'replace')) if txn.description else 0
    if text and there + len(text.encode()) < _STORED_SIZE:
        txn.note(text)
    user = user or ', '.join(sorted({act.by for act in acts if act.by}))
    if user and not txn.user:
        txn.setUser(_clipped(user, USER_SIZE))


def noteOf(acts):
    """Return the note for a list of `Act`s, of SIZE bytes at the most; '' for none."""
    merged = _merged(acts)
    severalUsers = len({act.by for act in merged}) > 1
    text, done = '', 0
    for act in merged:
        sentence = sentenceOf(act if severalUsers else act._replace(by=''))
        longer = f'{text}; {sentence}' if text else PREFIX + sentence
        if text and len(longer.encode()) > SIZE - len(' (+999999999)'):
            break
        text, done = longer, done + 1
    left = sum(act.count or len(act.jobids) or 1 for act in merged[done:])
    return f'{text} (+{left})' if left else text


def sentenceOf(act):
    """Return what an `Act` says, as a note has it."""
    return _sentenceOf(act) if act.jobids else _keptSentenceOf(act)


def _sentenceOf(act):
    parts = [act.verb, _labelOf(act.jobids, act.count)]
    if act.about:
        parts.append(_word(act.about, _ABOUT_SIZE))
    values = (act.attempt, act.job, act.on and _word(act.on, _NAME_SIZE), act.by and _word(act.by, _NAME_SIZE),
              act.path and _word(act.path, _PATH_SIZE))
    parts += (f'{key} {value}' for key, value in zip(_KEYS, values) if value not in (None, ''))
    return ' '.join(filter(None, parts))


# A host says the same of each of its claim cycles.
_keptSentenceOf = functools.lru_cache(256)(_sentenceOf)


def _labelOf(jobids, count):
    """Return some jobs as a note has them: 'job 17', '3 jobs 17-19'; '' for none.

    count -- how many they are; None for as many as there are ids.
    """
    count = len(jobids) or None if count is None else count
    if count is None:
        return ''
    if count == 1 and len(jobids) == 1:
        return f'job {jobids[0]}'
    return f'{count} {"job" if count == 1 else "jobs"} {_rangesOf(jobids)}'.rstrip()


def _merged(acts):
    """Return acts of which no two are alike but for their jobs, in the order in which they were done."""
    if len(acts) < 2:
        return acts
    found = {}
    for act in acts:
        found.setdefault((act.verb, *act[2:3], *act[4:]), []).append(act)
    return [_together(alike) if len(alike) > 1 else alike[0] for alike in found.values()]


def _together(acts):
    """Return one `Act` for several that are alike but for their jobs."""
    jobids = tuple(itertools.chain.from_iterable(act.jobids for act in acts))
    count = sum(len(act.jobids) if act.count is None else act.count for act in acts)
    return acts[0]._replace(jobids=jobids, count=count or None)


def _rangesOf(jobids):
    """Return ids in order, those next to each other as a range: '17-19,23'; the first ones of very many."""
    parts, size, ids = [], 0, sorted(set(jobids))
    while ids:
        length = 1
        while length < len(ids) and ids[length] == ids[0] + length:
            length += 1
        part = str(ids[0]) if length == 1 else f'{ids[0]}-{ids[length - 1]}'
        size += len(part) + 1
        if size > _IDS_SIZE - 4:
            parts.append('...')
            break
        parts.append(part)
        ids = ids[length:]
    return ','.join(parts)


@functools.lru_cache(1024)
def _word(text, size):
    """Return a text as a word of a note: in quotes unless it is a plain one."""
    clipped = _clipped(text, size)
    if clipped == text and _PLAIN.fullmatch(text):
        return text
    return '"' + _clipped(re.sub(r'(["\\])', r'\\\1', clipped), size, 2) + '"'


def _clipped(text, size, step=1):
    r"""Return a text of printable characters, of so many bytes of UTF-8 at the most; what cannot be printed is escaped.

    step -- 2 for a text with quotes and backslashes escaped, of which none is to be cut in two.

    >>> _clipped('a\nb\udcff', 20), _clipped('ä' * 9, 10)
    ('a\\nb\\udcff', 'ää...')
    """
    if not text.isprintable():
        text = ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in text[:size])
    if len(text) * 4 <= size or len(text.encode()) <= size:
        return text
    pieces = re.findall(r'\\?.' if step == 2 else '.', text[:size])
    kept, left = [], size - 3
    for piece in pieces:
        left -= len(piece.encode())
        if left < 0:
            break
        kept.append(piece)
    return ''.join(kept) + '...'


# Reading

def read(description, user=''):
    """Return the `Act`s that the note of a transaction says, and how many more there were.

    description -- the note, a text, whoever has written it; the lines that are not ours are left out.
    user -- that of the transaction: the `by` of acts that say no other.

    Nothing that stands in a note makes this raise.
    """
    acts, more = [], 0
    for line in description.split('\n'):
        if not line.startswith(PREFIX):
            continue
        match = _MORE.search(line)
        if match is not None:
            more += int(match[1])
            line = line[:match.start()]
        tokens = _TOKEN.findall(line.removeprefix(PREFIX))
        for isEnd, sentence in itertools.groupby(tokens, key=lambda token: token == ';'):
            if not isEnd:
                acts.append(_actOf(list(sentence), user))
    return acts, more


def _actOf(tokens, user):
    """Return the `Act` that the words of a sentence say."""
    act, words = Act(tokens[0], by=user), tokens[1:]
    if len(words) > 1 and words[0] == 'job' and words[1].isdecimal():
        act, words = act._replace(jobids=_idsOf(words[1]), count=1), words[2:]
    elif len(words) > 1 and words[1] in ('job', 'jobs') and words[0].isdecimal():
        ids = words[2] if len(words) > 2 and _IDS.fullmatch(words[2]) else ''
        act = act._replace(jobids=_idsOf(ids), count=_number(words[0]))
        words = words[3 if ids else 2:]
    if words and words[0] not in _KEYS:
        act, words = act._replace(about=_unquoted(words[0])), words[1:]
    for key, word in zip(words[::2], words[1::2]):
        if key in ('attempt', 'for'):
            act = act._replace(**{'job' if key == 'for' else key: _number(word)})
        elif key in _KEYS:
            act = act._replace(**{'path' if key == 'in' else key: _unquoted(word)})
    return act


def _idsOf(text):
    """Return the ranges that a text like '17-19,23' stands for."""
    ranges = []
    for part in filter(None, text.removesuffix(',...').split(',')):
        first, _, last = part.partition('-')
        ranges.append(range(_number(first) or 0, (_number(last or first) or 0) + 1))
    return tuple(ranges)


def _number(text):
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _unquoted(word):
    return re.sub(r'\\(["\\])', r'\1', word[1:-1]) if len(word) > 1 and word[0] == word[-1] == '"' else word
