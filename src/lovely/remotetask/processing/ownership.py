"""Owning a ledger: a host takes one under a name that no living host has, keeps it, and gives it up at its end."""
# SPDX-License-Identifier: ZPL-2.1
import logging
import socket
import time

from BTrees.IOBTree import IOBTree

from lovely.remotetask.errors import NameTaken
from lovely.remotetask.execution import rescue
from lovely.remotetask.storage import hosts
from lovely.remotetask.storage.ledger import Ledger


log = logging.getLogger('lovely.remotetask')

#: Seconds between two looks at whether a host of the same name is heard of.
POLL_INTERVAL = 0.3

#: Transactions that may fail by conflicts before the cause is looked for elsewhere: half a minute, for a hundred hosts
#: that start at the same time.
ATTEMPTS = 40


class LeaseLost(Exception):
    """The ledger has another owner now: this host was taken for lost.  It must stop and write nothing."""


class ServiceRemoved(Exception):
    """The service is not at its path any more, or another one is: the host must let go of it."""

    def __init__(self, path):
        super().__init__(f'the task service /{"/".join(path)} was removed')


class Ownership:
    """The claim of one host on one ledger.  It belongs to the thread that keeps the ledger.

    name -- the name of the ledger; None for one made of the machine's name and a number, once it is taken.
    owner -- what `hosts.identity` gives.
    lease -- seconds for which the owner may be silent.
    """

    def __init__(self, name, owner, lease):
        self.name, self.owner, self.lease = name, owner, lease

    def take(self, session, clock, monotonic):
        """Take over the ledger of this name, and return what its last owner left to the queues.

        session -- a `Session`.
        clock, monotonic -- return UTC seconds, and seconds of the monotonic clock.

        Return the `rescue.Ended`s of what the last owner ran.  Raise `NameTaken` when a living host has it.
        """
        silent = self._awaitSilence(session, monotonic)

        def take(service):
            name, ends = self._take(service, silent, clock())
            session.note('startHost', name)
            return name, ends

        self.name, ends = session.transact(take, ATTEMPTS)
        return ends

    def _take(self, service, silent, now):
        """Take the ledger; return its name, which is this host's once that is committed, and what `take` returns."""
        service.settleCopy(now)
        name = _freeName(service) if self.name is None else self.name
        ledger = service.ledgers.get(name)
        if ledger is None:
            ledger = service.ledgers[name] = Ledger()
        ledger.number = service.hosts.add(name)
        if ledger.questions is None:
            ledger.questions = IOBTree()
        else:
            ledger.questions.clear()
        seconds = self._checkName(ledger, silent)
        ends = rescue.rescue(service, name, now, seconds).ends
        ledger.owner = self.owner
        return name, ends

    def _checkName(self, ledger, silent):
        """Raise `NameTaken` if the ledger has an owner that may live; return the seconds of a silent one, or None.

        silent -- the serial of the ledger since which nothing was heard of its owner; see `_awaitSilence`.
        """
        owner = ledger.owner
        if owner is None or owner['token'] == self.owner['token']:
            return None
        gone = hosts.isGone(owner)
        if gone is False or gone is None and ledger._p_serial != silent:
            raise self._nameTaken(owner)
        return None if gone else self._patience(owner)

    def _nameTaken(self, owner):
        return NameTaken(self.name, f'on {owner["machine"].partition("/")[0]}, process {owner["pid"]}')

    def _patience(self, owner):
        """Return for how many seconds a heartbeat of an owner is waited for before its name is taken."""
        return owner.get('lease', self.lease) / 2 + 1

    def _awaitSilence(self, session, monotonic):
        """Wait for as long as a heartbeat may take, if a host of this name may live, which this machine cannot see.

        Return the serial of the ledger if nothing is heard of that host, or None if there is none.  Raise `NameTaken`
        if it is heard of.
        """
        until = heard = None
        while self.name is not None:
            owner, serial = session.transact(self._lastOwner)
            if owner is None or hosts.isGone(owner) is not None:
                return None
            if until is None:
                log.info('a processing host named %s may live on another machine: waiting whether it is heard of',
                         self.name)
                until, heard = monotonic() + self._patience(owner), serial
            if serial != heard:
                raise self._nameTaken(owner)
            if monotonic() > until:
                return heard
            time.sleep(POLL_INTERVAL)
        return None

    def _lastOwner(self, service):
        ledger = service.ledgers.get(self.name)
        return ledger and ledger.owner, ledger and ledger._p_serial         # in this order: it has to be loaded

    def check(self, ledger, threads=None):
        """Return whether the ledger had no owner and is taken back: others took this host for silent.

        threads -- how many threads run jobs, for the record; None to leave that as it is.

        Raise `LeaseLost` if it has another owner.
        """
        isReclaimed = ledger.owner is None
        owner = self.owner if isReclaimed else ledger.owner
        if owner['token'] != self.owner['token']:
            raise LeaseLost(f'{self.name!r} was taken over')
        if threads is not None and owner.get('threads') != threads:
            owner = dict(owner, threads=threads)
        if owner is not ledger.owner:
            ledger.owner = owner
        return isReclaimed

    def giveUp(self, session, unstarted, clock):
        """Give back all claims, those on the ids of `unstarted` as such, and the ledger, if it is still this host's.

        Return what was done, a `rescue.Rescued`.
        """
        def giveUp(service):
            session.note('stopHost', self.name)
            return self._giveUp(service, unstarted, clock())

        return session.transact(giveUp, ATTEMPTS)

    def _giveUp(self, service, unstarted, now):
        ledger = service.ledgers[self.name]
        if not ledger.owner or ledger.owner['token'] != self.owner['token']:
            return rescue.Rescued()
        jobids, ends, returned = list(ledger.claimed.keys()), [], set()
        for jobid in jobids:
            isReturned, ended = rescue.interrupt(service, self.name, jobid, jobid in unstarted, now)
            if isReturned:
                returned.add(jobid)
            ends += ended
        ledger.owner = None
        if service.schedule.scheduler == self.name:
            service.schedule.scheduler = None
        return rescue.Rescued(len(jobids), tuple(ends), frozenset(returned))


def _freeName(service):
    """Return the first name of this machine that no host has which may live."""
    numbers = range(1, len(service.ledgers) + 2)
    return hosts.freeName(service, (f'{socket.gethostname()}-{number}' for number in numbers))
