"""The table of methods that can be called: what each does, takes and gives."""
# SPDX-License-Identifier: ZPL-2.1
import heapq
from types import MappingProxyType

from lovely.remotetask import errors
from lovely.remotetask import interfaces
from lovely.remotetask.files import StoredFile
from lovely.remotetask.xmlrpc.faults import BadArguments
from lovely.remotetask.xmlrpc.faults import ResultTooLarge
from lovely.remotetask.xmlrpc.faults import UnknownMethod
from lovely.remotetask.xmlrpc.signature import NO_SERVICE
from lovely.remotetask.xmlrpc.signature import READS
from lovely.remotetask.xmlrpc.signature import REPEATS
from lovely.remotetask.xmlrpc.signature import WRITES
from lovely.remotetask.xmlrpc.signature import Argument
from lovely.remotetask.xmlrpc.signature import Method
from lovely.remotetask.xmlrpc.wire import RESULT_SIZE


#: Jobs that one transaction removes or starts again.
BATCH = 500

#: Jobs that one call of `getJobs` gives at most.
LISTING_SIZE = 1000

#: Bytes of a result that one call of `getResultPart` gives at most.
PART_SIZE = 1024 * 1024


def _checkStatuses(method, given, allowed):
    for status in given:
        if status not in allowed:
            raise BadArguments(f'{method}: {status[:40]!r} is none of {", ".join(allowed)}')
    return tuple(given)


def getAvailableTasks(service):
    """getAvailableTasks() -> array of string

    The names of the tasks that jobs can ask for, sorted.
    """
    return sorted(service.getAvailableTasks())


def add(service, task, input, startLater):
    """add(string task, mixed input=nil, boolean startLater=false) -> int

    Add a job that calls the task with the input, and return its id.  With startLater true it waits for startJob.
    Faults: unknown task, invalid input.
    """
    return service.add(task, input, startLater=startLater)


#: Members of the last argument of `addCronJob`.
CRON_OPTIONS = ('active', 'crontab', 'misfire', 'newJobs', 'overlap', 'timeZone')


def addCronJob(service, task, input, minute, hour, dayOfMonth, month, dayOfWeek, delay, options):
    """addCronJob(string task, mixed input=nil, array minute=[], array hour=[], array dayOfMonth=[], array month=[],
                  array dayOfWeek=[], double delay=nil, struct options={}) -> int

    Add a job that runs whenever the calendar fits, and return its id.  The arrays hold ints, and an empty one fits
    always; dayOfWeek 0 is Monday.  With a delay, in seconds, it runs once, that much later.
    The options are: string crontab, as '*/10 2 * * mon-fri', instead of the arrays; string timeZone, as
    'Europe/Berlin', default 'UTC'; misfire, what to do about times that came while nothing ran: 'once', the default,
    'skip', or a number of runs at most; boolean newJobs, whether it adds a new job at each time (with a delay: again
    and again) instead of running itself; boolean overlap, whether it adds one while the last has not ended; boolean
    active, default true.
    Faults: unknown task, invalid input, bad arguments for a schedule that is out of range or never fits.
    """
    for name in options:
        if name not in CRON_OPTIONS:
            raise BadArguments(f'addCronJob: there is no option {name[:40]!r}; there are {", ".join(CRON_OPTIONS)}')
    try:
        return service.addCronJob(task, input, tuple(minute), tuple(hour), tuple(dayOfMonth), tuple(month),
                                  tuple(dayOfWeek), delay, **options)
    except errors.RemoteTaskError:
        raise
    except ValueError as error:         # the contract's word for a schedule that makes no sense
        raise BadArguments(f'addCronJob: {error}') from error


def startJob(service, jobid):
    """startJob(int jobid) -> boolean

    Queue a job that was added with startLater.  False when it is in another status.
    Faults: unknown job.
    """
    return service.startJob(jobid)


def cancel(service, jobid):
    """cancel(int jobid) -> boolean

    Call a job off, whatever it waits for; the outcome of a running one is thrown away.  Always true.
    Faults: unknown job, wrong state for one that has ended.
    """
    service.cancel(jobid)
    return True


def clean(service, limit, before, status):
    """clean(array status=['cancelled', 'error', 'completed']) -> int

    Remove the jobs in these statuses, strings, and return how many.  Many are removed in several transactions.
    Faults: bad arguments for another status.
    """
    return service.removeJobs(_checkStatuses('clean', status, interfaces.FINAL), limit, before)


def cleanSome(service, status, limit):
    """cleanSome(array status=['cancelled', 'error', 'completed'], int limit=500) -> int

    Remove some of the jobs in these statuses, the oldest first, up to the limit, which is 1 to 1000; return how many.
    Call it until it returns less.
    Faults: bad arguments for another status or limit.
    """
    if not 1 <= limit <= LISTING_SIZE:
        raise BadArguments(f'cleanSome: limit must be 1 to {LISTING_SIZE}')
    return service.removeJobs(_checkStatuses('cleanSome', status, interfaces.FINAL), limit)


def retry(service, jobid):
    """retry(int jobid) -> boolean

    Have a job that ended in an error run again; what went wrong stays on it.  Always true.
    Faults: unknown job, wrong state for one in another status.
    """
    service.retry(jobid)
    return True


def retryFailed(service, limit, before, task):
    """retryFailed(string task=nil) -> int

    Have all jobs that ended in an error run again, those of one task or all, and return how many.
    """
    return service.retryFailed(task, limit, before)


def getProgress(service, jobid):
    """getProgress(int jobid) -> struct

    What the running task has said of how far it is: double fraction, from 0 to 1, or nil if nobody knows; and string
    message.  Nil when it has said nothing, or does not run.
    Faults: unknown job.
    """
    progress = service.getProgress(jobid)
    return progress and dict(zip(('fraction', 'message'), progress))


def getStatus(service, jobid):
    """getStatus(int jobid) -> string

    One of: queued, processing, cancelled, error, completed, delayed, cronjob, start later.
    Faults: unknown job.
    """
    return service.getStatus(jobid)


def getResult(service, jobid):
    """getResult(int jobid) -> mixed

    What the task returned; nil as long as it has not.  A file arrives as base64, what XML-RPC cannot carry as text.
    Faults: unknown job, result too large.
    """
    stored = service.jobs[jobid].stored('output')
    if isinstance(stored, StoredFile) and stored.size > RESULT_SIZE:    # not to be loaded to see that
        raise ResultTooLarge(RESULT_SIZE)
    return service.getResult(jobid)


def getResultPart(service, jobid, start, size):
    """getResultPart(int jobid, double start=0, int size=1048576) -> base64

    A part of a result that is a file, binary or text (in UTF-8): the bytes from start on, up to size of them, which is
    1 to 1048576; less at its end, and nothing behind it.  The start is a whole number, int or double.
    Faults: unknown job, bad arguments for another start or size, refused for any other result or none.
    """
    if not 0 <= start < 2**53 or start != int(start):
        raise BadArguments('getResultPart: start must be a whole number, and not negative')
    if not 1 <= size <= PART_SIZE:
        raise BadArguments(f'getResultPart: size must be 1 to {PART_SIZE}')
    return service.getResultPart(jobid, int(start), size)


def getError(service, jobid):
    """getError(int jobid) -> string

    Why the job failed; 'None' when it did not.
    Faults: unknown job.
    """
    return str(service.getError(jobid))


def hasJobsWaiting(service):
    """hasJobsWaiting() -> boolean

    Whether a job is ready to run or due.
    """
    return bool(service.hasJobsWaiting())


def startProcessing(service):
    """startProcessing() -> boolean

    Have all processing hosts take jobs of the service, after stopProcessing.  Always true.
    """
    service.resume()
    return True


def stopProcessing(service):
    """stopProcessing() -> boolean

    Have all processing hosts take no more jobs of the service, until startProcessing; running ones end.  Always true.
    """
    service.pause()
    return True


def isProcessing(service):
    """isProcessing() -> boolean

    Whether any processing host takes jobs of the service.
    """
    return any(host['processing'] for host in service.getProcessingHosts())


def getProcessingHosts(service):
    """getProcessingHosts() -> array of struct

    Where the service is processed, one struct for each living host.  The members are: string name, string machine, int
    pid, int threads (how many jobs it runs at a time; 0 if it only schedules), double since (when it was started, in
    seconds since 1970 UTC), int jobs (how many it has claimed), boolean processing (whether it takes jobs), boolean
    scheduling (whether it is the one that queues what is due).
    """
    return service.getProcessingHosts()


def _currentStatus(service, job):
    # Only a queued job can be shown as another: the rest saves the look into the ledgers.
    return service.getStatus(job.id) if job.status == interfaces.QUEUED else job.status


def _ages(service, status):
    for job in service.jobs.values():
        if status is None or _currentStatus(service, job) == status:
            yield job.created, job.id
        job._p_deactivate()             # a listing must not fill the memory with all jobs there are


def getJobs(service, start, size, status):
    """getJobs(int start=0, int size=100, string status=nil) -> array of struct

    The jobs, newest first: those from start (0 is the newest) on, size of them, at most 1000; only those in the status,
    if one is given.  The members are id, task, status, and created, started, completed in seconds since 1970 UTC as
    double, nil when it has not happened.  Looks at every job of the service.
    """
    if start < 0 or not 0 <= size <= LISTING_SIZE:
        raise BadArguments(f'getJobs: start must not be negative, and size be 0 to {LISTING_SIZE}')
    if status is not None:
        _checkStatuses('getJobs', [status], interfaces.STATUSES)
    newest = heapq.nlargest(start + size, _ages(service, status))[start:]
    jobs = [service.jobs[jobid] for created, jobid in newest]
    return [{'id': job.id, 'task': job.task, 'status': _currentStatus(service, job),
             'created': job.created, 'started': job.started, 'completed': job.completed} for job in jobs]


def listMethods():
    """system.listMethods() -> array of string

    The names of all methods, sorted.
    """
    return sorted(METHODS)


def methodHelp(name):
    """system.methodHelp(string name) -> string

    What a method does, takes and gives.
    Faults: unknown method.
    """
    return _find(name).help


def methodSignature(name):
    """system.methodSignature(string name) -> array of array of string

    For each number of arguments that the method takes, the types of what it returns and of the arguments.
    Faults: unknown method.
    """
    return _find(name).signatures


_TASK = Argument('task', (str,))
_INPUT = Argument('input', (), None)
_JOBID = Argument('jobid', (int,))
_NAME = Argument('name', (str,))


def _calendarField(name):
    return Argument(name, (list,), (), (int,))


METHODS = {
    'getAvailableTasks': Method(getAvailableTasks, READS, 'array'),
    'add': Method(add, WRITES, 'int', (_TASK, _INPUT, Argument('startLater', (bool,), False))),
    'addCronJob': Method(addCronJob, WRITES, 'int', (
        _TASK, _INPUT, _calendarField('minute'), _calendarField('hour'), _calendarField('dayOfMonth'),
        _calendarField('month'), _calendarField('dayOfWeek'), Argument('delay', (float, int), None),
        Argument('options', (dict,), MappingProxyType({})))),
    'startJob': Method(startJob, WRITES, 'boolean', (_JOBID,)),
    'cancel': Method(cancel, WRITES, 'boolean', (_JOBID,)),
    'clean': Method(clean, REPEATS, 'int', (Argument('status', (list,), interfaces.FINAL, (str,)),)),
    'cleanSome': Method(cleanSome, WRITES, 'int', (Argument('status', (list,), interfaces.FINAL, (str,)),
                                                   Argument('limit', (int,), BATCH))),
    'retry': Method(retry, WRITES, 'boolean', (_JOBID,)),
    'retryFailed': Method(retryFailed, REPEATS, 'int', (Argument('task', (str,), None),)),
    'getProgress': Method(getProgress, READS, 'struct', (_JOBID,)),
    'getStatus': Method(getStatus, READS, 'string', (_JOBID,)),
    'getResult': Method(getResult, READS, 'mixed', (_JOBID,)),
    'getResultPart': Method(getResultPart, READS, 'base64', (
        _JOBID, Argument('start', (float, int), 0), Argument('size', (int,), PART_SIZE))),
    'getError': Method(getError, READS, 'string', (_JOBID,)),
    'hasJobsWaiting': Method(hasJobsWaiting, READS, 'boolean'),
    'startProcessing': Method(startProcessing, WRITES, 'boolean'),
    'stopProcessing': Method(stopProcessing, WRITES, 'boolean'),
    'isProcessing': Method(isProcessing, READS, 'boolean'),
    'getProcessingHosts': Method(getProcessingHosts, READS, 'array'),
    'getJobs': Method(getJobs, READS, 'array', (
        Argument('start', (int,), 0), Argument('size', (int,), 100), Argument('status', (str,), None))),
    'listMethods': Method(listMethods, NO_SERVICE, 'array'),
    'methodHelp': Method(methodHelp, NO_SERVICE, 'string', (_NAME,)),
    'methodSignature': Method(methodSignature, NO_SERVICE, 'array', (_NAME,)),
}
# The names of the specification; the bare ones are what older clients of this service call.
METHODS.update({f'system.{name}': METHODS[name] for name in ('listMethods', 'methodHelp', 'methodSignature')})


def _find(name):
    try:
        return METHODS[name]
    except KeyError:
        raise UnknownMethod(name[:255]) from None


def prepare(name, values):
    """Return the `Method` of that name and the list of arguments for its function, checked; touches nothing.

    name -- the name in the call, text.
    values -- the arguments in the call, as `wire.parseCall` gives them.

    Raise `UnknownMethod` or `BadArguments`.
    """
    method = _find(name)
    return method, method.check(name, values)
