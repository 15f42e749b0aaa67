"""Who changed what: read from the database's own history, so that nothing need be written for it."""
# SPDX-License-Identifier: ZPL-2.1
from typing import NamedTuple

from ZEO.Exceptions import ServerException
from ZODB.POSException import UndoError

from lovely.remotetask.database import notes
from lovely.remotetask.database.postgresql import transactionsOf
from lovely.remotetask.database.sites import whereIs
from lovely.remotetask.database.storages import postgresqlOf
from lovely.remotetask.web.rendering import Page


#: Transactions of the history that are looked at for one page, and rows of it at the most.
LOOKED_AT, ROWS = 2000, 200

#: What the exception says that `undoInfo` raises while the database is packed.
PACKED = 'disabled for database maintenance'

#: What can be chosen in place of a verb: all that users did.
USERS = 'users'

#: The verb of what busy hosts write many times a second: it is shown only when it is asked for.
FREQUENT = 'claim'

#: The verbs that the form offers: what users do, and what hosts and programs do.
VERBS = ('add', 'cancel', 'retry', 'start', 'run', 'remove', 'bulk', 'addSchedule', 'schedule', 'activate',
         'deactivate', 'reschedule', 'askStack', 'upload', 'pause', 'resume', 'import', 'complete', 'commit',
         'rescue', FREQUENT, 'startHost', 'stopHost', 'pack', 'upgrade', 'install', 'addService', 'removeService')


class Wanted(NamedTuple):
    """Which changes are to be shown."""

    user: str           # a name; '' for any
    verb: str           # or USERS, or '' for all but FREQUENT
    job: int | None     # the id of a job; None for any

    def fits(self, act):
        """Return whether a `notes.Act` is one of them."""
        isVerb = (bool(act.by) if self.verb == USERS else act.verb == self.verb if self.verb else act.verb != FREQUENT)
        return isVerb and self.user in ('', act.by) and (self.job is None or act.concerns(self.job))


class Change(NamedTuple):
    """Something that was done, as a row of the page has it."""

    time: float                 # UTC seconds
    user: str
    verb: str
    job: int | None             # the id of the job, if it was one
    what: str                   # what it was done to
    host: str


def changes(context):
    """Return the page of changes, the newest first."""
    context.allow('getStatistics')
    wanted = Wanted(context.parameter('user').strip(), context.parameter('verb'), _number(context.parameter('job')))
    first = _number(context.parameter('after')) or 0
    db, path = context.connection.db(), whereIs(context.service)
    entries, isPacked = _entries(db, first) if context.keepsHistory else ([], False)
    looked, found = 0, []
    for entry in entries:
        if len(found) >= ROWS:
            break
        looked += 1
        if entry['time'] <= context.now:
            found += _changesIn(entry, path, wanted)
    isMore = looked < len(entries) or len(entries) == LOOKED_AT
    return Page('changes', 'Changes', {
        'changes': found, 'looked': looked, 'more': first + looked if isMore else None,
        'last': entries[looked - 1]['time'] if looked else None, 'wanted': wanted, 'verbs': VERBS, 'users': USERS,
        'isPacked': isPacked}, 503 if isPacked else 200)


def _entries(db, first):
    """Return entries of the database's history, the newest first, and whether it tells none because it is packed."""
    last, postgresql = first + LOOKED_AT, postgresqlOf(db)
    try:
        if postgresql is not None:
            return transactionsOf(postgresql.connmanager, first, last), False
        return db.undoInfo(first, last), False
    except (UndoError, ServerException) as error:       # ZEO's server tells its clients of an exception in the second
        if PACKED not in str(error):
            raise
        return [], True


def _number(text):
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None


def _changesIn(entry, path, wanted):
    """Return the `Change`s that an entry of the database's history tells of, of the service at a path, or of none."""
    user = _text(entry['user_name']).removeprefix('/').strip()
    acts, more = notes.read(_text(entry['description']), user)
    acts = [act for act in acts if act.path in ('', path)]
    found = [_changeOf(entry['time'], act) for act in acts if wanted.fits(act)]
    if found and more:
        found[-1] = found[-1]._replace(what=f'{found[-1].what}, and {more} more that the note has no room for')
    return found


def _changeOf(time, act):
    jobid = act.jobids[0][0] if act.count == 1 and act.jobids and act.jobids[0] else None
    parts = [act.about, act.attempt is not None and f'attempt {act.attempt}', act.job and f'for job {act.job}']
    if act.count is not None and jobid is None:
        parts = [f'{act.count} {"job" if act.count == 1 else "jobs"}', _rangesOf(act.jobids), *parts]
    return Change(time, act.by, act.verb, jobid, ' '.join(filter(None, parts)), act.on)


def _rangesOf(ranges):
    return ', '.join(str(ids[0]) if len(ids) == 1 else f'{ids[0]} to {ids[-1]}' for ids in ranges if ids)


def _text(value):
    return value.decode('utf-8', 'replace') if isinstance(value, bytes) else value
