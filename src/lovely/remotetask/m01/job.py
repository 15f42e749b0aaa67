"""Jobs of a remote processor: a class whose instances do the work, as a task of the service."""
# SPDX-License-Identifier: ZPL-2.1
import copy
import datetime
import re

from persistent import Persistent
from zope.interface import Interface
from zope.interface import implementer

from lovely.remotetask.database.sites import missingClass
from lovely.remotetask.encoding.plain import ownCopy
from lovely.remotetask.errors import RemoteTaskError
from lovely.remotetask.errors import TaskError
from lovely.remotetask.interfaces import COMPLETED
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.m01.interfaces import IJob


UTC = datetime.timezone.utc


class RemoteException(TaskError):
    """Raised by a job to end in error at once; its message is kept."""


class JobFailed(RemoteTaskError):
    """A job that was processed by hand has failed, and will be run again.  Commit the transaction, which notes that.

    error -- the `JobError`.
    """

    def __init__(self, error):
        super().__init__(str(error))
        self.error = error


def timeOf(seconds):
    """Return the `datetime` of a time in UTC seconds; None for None."""
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds, UTC)


def secondsOf(time):
    """Return the UTC seconds of a `datetime`; None for None.  Raise `ValueError` for one without a time zone."""
    if time is None:
        return None
    if not isinstance(time, datetime.datetime) or time.tzinfo is None:
        raise ValueError(f'{time!r} is no datetime with a time zone')
    return time.timestamp()


class JobError(str):
    """A run that failed, as a line of text: the time in brackets, and what the exception says.

    created -- a `datetime`.
    message -- what the exception says.
    traceback -- the end of its traceback, a text.
    """

    def __new__(cls, failure):
        """Make it of a `lovely.remotetask.job.Failure`."""
        created, message = timeOf(failure.time), failure.message
        # The service puts the name of the class before the message of any exception that is not a `TaskError`.
        if re.search(rf'^([\w.]+\.)?{re.escape(message.partition(chr(10))[0])}', failure.traceback, re.MULTILINE):
            message = message.partition(': ')[2] or message         # some say nothing but what they are
        self = super().__new__(cls, f'[{created.isoformat(timespec="microseconds")}] {message}')
        self.created, self.message, self.traceback = created, message, failure.traceback
        return self

    def __reduce__(self):
        return _remade, (type(self), str(self)), vars(self)


def _remade(kind, text):
    """Return the copy of a `JobError`, before it has its attributes."""
    return str.__new__(kind, text)


@implementer(IJob)
class Job(Persistent):
    """See `IJob`.  Subclass it with a `__call__`.

    An instance that `addJobFactory` has stored is a factory.  A job is a copy of it, bound to what the service has
    stored of the job: what `__call__` sets on itself is not stored.

    data -- a dict of attributes.
    """

    jobName = input = None
    maxRetries, retryDelay = 3, 10
    inputSchema = outputSchema = Interface

    _v_service = _v_record = None

    def __init__(self, data=None):
        for name, value in (data or {}).items():
            setattr(self, name, value)

    def __call__(self, remoteProcessor):
        """See `IJob`."""
        raise NotImplementedError(f'{type(self).__name__} has no __call__')

    def bound(self, service, record, input):
        """Return a copy of this factory as a job: with that input, unless it is None, and all else from the record.

        record -- the `lovely.remotetask.job.Job` of the service.
        """
        job = copy.copy(self)
        for name, value in vars(job).items():           # a list of the factory is not to be changed by a job
            setattr(job, name, ownCopy(value))
        job.jobName = record.task                       # the factory may have several names
        job._v_service, job._v_record = service, record
        if input is not None:
            job.input = input
        return job

    @property
    def retryPolicy(self):
        """The retry policy of its jobs, a dict: whoever asks for it says what is wrong with it."""
        return {'attempts': self.maxRetries, 'base': self.retryDelay, 'factor': 1, 'cap': self.retryDelay, 'jitter': 0}

    id = property(lambda self: None if self._v_record is None else str(self._v_record.id))
    __name__ = id
    status = property(lambda self: self._v_record and self._v_service.getStatus(self._v_record.id))
    output = property(lambda self: self._v_record and self._v_record.output)
    errors = property(lambda self: [JobError(failure) for failure in self._v_record.errors] if self._v_record else [])
    retryCounter = property(lambda self: self._v_record.failedAttempts if self._v_record else 0)
    created = property(lambda self: self._v_record and timeOf(self._v_record.created))
    queued = created
    started = property(lambda self: self._v_record and timeOf(self._v_record.started))

    @property
    def completed(self):
        """See `IJob`."""
        if self._v_record is None or self._v_record.status != COMPLETED:
            return None
        return timeOf(self._v_record.completed)

    @property
    def retryTime(self):
        """See `IJob`."""
        return self._v_record and timeOf(self._v_record.retryAt)

    @retryTime.setter
    def retryTime(self, time):
        if self._v_record is None or self._v_record.retryAt is None:
            raise ValueError('only a job that waits for another run has a retryTime')
        self._v_record.retryAt = 0.0 if time is None else secondsOf(time)        # without one nobody would queue it
        self._v_service.schedule.inbox.put(self._v_record.id)

    def __repr__(self):
        name = '' if self._v_record is None else f' {self.id}'
        return f'<{type(self).__name__} {self.jobName!r}{name}>'


@implementer(ITask)
class FactoryTask:
    """A factory as the task of its name.  It can be made of any object: an unusable one is reported when a job is to
    run.

    service -- from the connection of the running thread; its `__parent__` is the remote processor.
    """

    def __init__(self, factory):
        self.factory, self.retryPolicy = factory, getattr(factory, 'retryPolicy', None)
        self.inputSchema = getattr(factory, 'inputSchema', Interface)
        self.outputSchema = getattr(factory, 'outputSchema', Interface)

    def missing(self):
        """Return the class that is missing here, as text, or None.  See `interfaces.ITask`."""
        return missingClass(self.factory)

    def __call__(self, service, jobid, input):
        """Return what the job makes of its input."""
        if missing := self.missing():
            raise TaskError(f'the factory cannot be loaded: this process lacks {missing}')
        return self.factory.bound(service, service.jobs[jobid], input)(service.__parent__)
