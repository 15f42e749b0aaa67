"""Where runs are right now: questions of callers, and the answers of the hosts that have the runs.

A question stands in a tree of its own below the host's ledger: to ask writes neither the ledger, which would pass for a
heartbeat, nor the job.  The commit wakes that host alone, and its claim loop answers in its next transactions.
"""
# SPDX-License-Identifier: ZPL-2.1
import operator
from typing import NamedTuple

from lovely.remotetask.errors import WrongState
from lovely.remotetask.storage.ready import ledgers
from lovely.remotetask.storage.transitions import claimant


#: Seconds for which a question and its answer are kept, and how many of them a host has at the most.
KEPT, MOST = 60.0, 20

#: Bytes of an answer at the most.
SIZE = 64 * 1024


class Stack(NamedTuple):
    """What is known of where a run is.  Stored as a tuple: new fields go to the end, and an answer by an older release
    drops them.
    """

    asked: float                # UTC seconds
    answered: float | None      # UTC seconds; None as long as the host has not answered
    text: str                   # '' then


def ask(service, job, now):
    """Ask where the run of a job is; `now` is UTC seconds.

    Raise `WrongState` for a job that is not being run by a processing host.
    """
    ledger = claimant(service, job)
    if ledger is None:
        raise WrongState(job.id, service.getStatus(job.id), 'look into')
    if ledger.questions is None or ledger.owner is None or not ledger.owner.get('threads'):
        raise WrongState(job.id, 'being run by a process that cannot be asked', 'look into')
    there = ledger.questions.get(job.id)
    if there is not None and there[1] is None and 0 <= now - there[0] < KEPT:
        return
    for jobid, _ in sorted(ledger.questions.items(), key=lambda item: item[1][0])[:-MOST + 1]:
        del ledger.questions[jobid]
    ledger.questions[job.id] = tuple(Stack(now, None, ''))


def find(service, jobid):
    """Return the `Stack` of a job that somebody has asked for last, or None: another host may have run it before."""
    found = [ledger.questions[jobid] for ledger in ledgers(service)
             if ledger.questions is not None and jobid in ledger.questions]
    last = max(found, key=operator.itemgetter(0), default=None)
    return None if last is None else Stack(*last[:len(Stack._fields)])


def attend(ledger, answers, now):
    """Answer questions, forget old ones, and return the ids of the jobs that others ask for; for the ledger's owner.

    answers -- pairs of the id of a job and a text.
    now -- UTC seconds.
    """
    questions = ledger.questions
    if not questions:
        return []
    for jobid, text in answers:
        if jobid in questions:
            text = text.encode('utf-8', 'backslashreplace')[-SIZE:].decode('utf-8', 'ignore')
            questions[jobid] = questions[jobid][0], now, text
    for jobid, (asked, answered, *_) in list(questions.items()):
        if abs(now - (asked if answered is None else answered)) > KEPT:
            del questions[jobid]
    return [jobid for jobid, (_, answered, *_) in questions.items() if answered is None]
