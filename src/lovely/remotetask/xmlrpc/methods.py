"""The table of methods that can be called: what each does, takes and gives."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import time
from types import MappingProxyType

from lovely.remotetask import errors
from lovely.remotetask import interfaces
from lovely.remotetask.files import StoredFile
from lovely.remotetask.filters import parseFilter
from lovely.remotetask.storage.search import search
from lovely.remotetask.xmlrpc.faults import BadArguments
from lovely.remotetask.xmlrpc.faults import ResultTooLarge
from lovely.remotetask.xmlrpc.faults import UnknownMethod
from lovely.remotetask.xmlrpc.signature import NO_SERVICE
from lovely.remotetask.xmlrpc.signature import READS
from lovely.remotetask.xmlrpc.signature import REPEATS
from lovely.remotetask.xmlrpc.signature import WAITS
from lovely.remotetask.xmlrpc.signature import WRITES
from lovely.remotetask.xmlrpc.signature import Argument
from lovely.remotetask.xmlrpc.signature import Method
from lovely.remotetask.xmlrpc.structs import detailsOf
from lovely.remotetask.xmlrpc.structs import progressOf
from lovely.remotetask.xmlrpc.structs import readJob
from lovely.remotetask.xmlrpc.structs import readOptions
from lovely.remotetask.xmlrpc.structs import readSchedule
from lovely.remotetask.xmlrpc.structs import refuseOthers
from lovely.remotetask.xmlrpc.structs import summaryOf
from lovely.remotetask.xmlrpc.wire import RESULT_SIZE


#: Jobs that one transaction removes or starts again.
BATCH = 500

#: Jobs that one call of `getJobs` gives at most, and one of `addMany` adds.
LISTING_SIZE = 1000

#: Bytes of a result that one call of `getResultPart` gives at most.
PART_SIZE = 1024 * 1024

#: Jobs that one call of `waitFor` waits for at most, and seconds.
WAITING_SIZE = 1000
WAITING_TIME = 3600


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


@contextlib.contextmanager
def _refusing(method):
    """Make a `ValueError`, the contract's word for what makes no sense, a refusal of the method's arguments."""
    try:
        yield
    except BadArguments as error:
        raise BadArguments(f'{method}: {error}') from error
    except errors.RemoteTaskError:
        raise
    except ValueError as error:
        raise BadArguments(f'{method}: {error}') from error


def add(service, task, input, startLater, options, request=None):
    """add(string task, mixed input=nil, boolean startLater=false, struct options={}) -> int

    Add a job that calls the task with the input, and return its id.  With startLater true it waits for startJob.
    The options are: string key, of 1 to 200 characters: as long as there is a job of the task that was added with it,
    its id is returned and nothing is added, so that a call can be repeated; double timeLimit, the seconds that a run
    may take; struct retryPolicy, with any of int attempts (runs in all), double base (seconds before the second run),
    factor (how much longer each further pause is), cap (seconds that a pause has at most), jitter (0 to 1: how large a
    part of a pause is random).
    Faults: unknown task, invalid input, bad arguments for other options.
    """
    with _refusing('add'):
        return service.add(task, input, startLater, request=request, **readOptions(options))


def addMany(service, jobs, request=None):
    """addMany(array jobs) -> array of int

    Add up to 1000 jobs, all or none, and return their ids in the same order.  Each is a struct with string task, and
    maybe mixed input, boolean startLater, string key, double timeLimit, struct retryPolicy: see add.
    Faults: those of add.
    """
    if len(jobs) > LISTING_SIZE:
        raise BadArguments(f'addMany: {LISTING_SIZE} jobs can be added at a time, {len(jobs)} were given')
    with _refusing('addMany'):
        return service.addMany([_readNumbered(number, struct) for number, struct in enumerate(jobs)], request=request)


def _readNumbered(number, struct):
    with _refusing(f'jobs[{number}]'):
        return readJob(struct)


#: Members of the last argument of `addCronJob`.
CRON_OPTIONS = ('active', 'crontab', 'misfire', 'newJobs', 'overlap', 'timeZone')


def addCronJob(service, task, input, minute, hour, dayOfMonth, month, dayOfWeek, delay, options,
               request=None):
    """addCronJob(string task, mixed input=nil, array minute=[], array hour=[], array dayOfMonth=[], array month=[],
                  array dayOfWeek=[], double delay=nil, struct options={}) -> int

    Add a job that runs whenever the calendar fits, and return its id.  The arrays hold ints, and an empty one fits
    always; dayOfWeek 0 is Monday.  With a delay, in seconds, it runs once, that much later; 0 is at once.
    The options are: string crontab, as '*/10 2 * * mon-fri', instead of the arrays; string timeZone, as
    'Europe/Berlin', default 'UTC'; misfire, what to do about times that came while nothing ran: 'once', the default,
    'skip', or a number of runs at most; boolean newJobs, whether it adds a new job at each time (with a delay of 0.1
    or more: again and again) instead of running itself; boolean overlap, whether it adds one while the last has not
    ended; boolean active, default true.
    Faults: unknown task, invalid input, bad arguments for a schedule that is out of range or never fits.
    """
    with _refusing('addCronJob'):
        refuseOthers('option', options, CRON_OPTIONS)
        return service.addCronJob(task, input, tuple(minute), tuple(hour), tuple(dayOfMonth), tuple(month),
                                  tuple(dayOfWeek), delay, request=request, **options)


def updateCronJob(service, jobid, changes):
    """updateCronJob(int jobid, struct changes) -> boolean

    Change some of what the schedule of a cron or delayed job says; what it missed until now is forgotten.  The changes
    are arguments and options of addCronJob: minute, hour, dayOfMonth, month, dayOfWeek, delay, crontab, timeZone,
    misfire, newJobs, overlap, active.  The others stay as they are; but the fields of the calendar, a delay and a
    crontab replace each other as a whole.  Nil is the default.  Always true.
    Faults: unknown job, wrong state for any other job, bad arguments for a schedule that is out of range or never fits.
    """
    with _refusing('updateCronJob'):
        service.updateCronJob(jobid, **readSchedule(changes))
    return True


def reschedule(service, jobid):
    """reschedule(int jobid) -> boolean

    Have the scheduler look again at a cron or delayed job; what it missed until now is forgotten.  Always true.
    Faults: unknown job, wrong state for any other job.
    """
    with _refusing('reschedule'):
        service.reschedule(jobid)
    return True


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
    return progressOf(service, jobid)


def getStatus(service, jobid):
    """getStatus(int jobid) -> string

    One of: queued, processing, cancelled, error, completed, delayed, cronjob, start later.
    Faults: unknown job.
    """
    return service.getStatus(jobid)


def waitFor(service, jobids, timeout, any):
    """waitFor(array of int jobids, double timeout=30, boolean any=false) -> array of string

    Wait until all the jobs have ended, or with any true until one of them has, timeout seconds at most; return their
    statuses then, in the order of the ids: nil for a job that was removed meanwhile.  Up to 1000 ids, and 0 to 3600
    seconds; what is in between may cut calls that are silent for long, often after 60 seconds: ask again instead.  A
    client that closes its side of the connection waits no longer.
    Faults: unknown job, bad arguments for too many ids or another timeout.
    """
    if len(jobids) > WAITING_SIZE:
        raise BadArguments(f'waitFor: there may be {WAITING_SIZE} jobids, {len(jobids)} were given')
    if not 0 <= timeout <= WAITING_TIME:
        raise BadArguments(f'waitFor: timeout must be 0 to {WAITING_TIME}')
    return [service.getStatus(jobid) for jobid in jobids]


def statusesOf(service, jobids):
    """Return the statuses that `waitFor` answers with in the end."""
    return [service.getStatus(jobid) if jobid in service.jobs else None for jobid in jobids]


def areOver(statuses, any):
    """Say whether `waitFor` has nothing more to wait for."""
    ended = [status is None or status in interfaces.FINAL for status in statuses]
    return all(ended) or any and True in ended


def getResult(service, jobid):
    """getResult(int jobid) -> mixed

    What the task returned; nil as long as it has not.  A file arrives as base64, and what XML-RPC cannot carry as the
    nearest thing that it can.
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


def getJob(service, jobid):
    """getJob(int jobid) -> struct

    What is known of a job.  Times are double, in seconds since 1970 UTC; what does not apply is nil.  The members are:
    int id, string task, string status, mixed input, mixed output, string error, array errors (what went wrong in its
    last attempts: structs of double time, string message, string host), int attempt (how many have been used up),
    double created, started, completed (of its last run), retryAt (when it is tried again), double timeLimit, struct
    retryPolicy, int schedule (the id of the cron job that added it), string request (the id of the request that added
    it), string key, struct progress (see getProgress).
    An input or output above 65536 bytes is nil: getResult and getResultPart give the output.
    A cron job has besides: what can be changed with updateCronJob, and boolean eitherDay, double scheduledFor (its next
    call), double calledFor (the last one), int lastJob (that it added), array history (its last runs: structs of double
    calledFor, int jobid, string status, double started, double completed, string error).
    Faults: unknown job.
    """
    return detailsOf(service, service.jobs[jobid])


def getJobs(service, status, start, size, filter, after):
    """getJobs(string status=nil, int start=0, int size=100, string filter=nil, string after=nil) -> struct

    The jobs, newest first: those from start (0 is the newest) on, size of them, at most 1000; only those in the status,
    if one is given.  The newest is the one that ended last, or, as long as it has not ended, was added last.
    The members are: array jobs, whose structs have id, task, status, and created, started, completed in seconds since
    1970 UTC as double, nil when it has not happened; int total, how many there are in all; and struct counts, how many
    there are in each status.
    With a filter, as 'status:error task:avi2* since:1h input.film:Metropolis', only those that fit are given.  Then the
    answer has besides: string cursor, with which as after the next call goes on where this one ended, nil when there is
    no more; int looked, how many jobs were looked at; boolean cut, whether that was enough before there were size that
    fit.  The total is still that of all jobs; status and start have to be left out, and size is 1 at least.
    Faults: bad arguments for another status, start, size, filter or cursor.
    """
    if not 0 <= size <= LISTING_SIZE:
        raise BadArguments(f'getJobs: size must be 0 to {LISTING_SIZE}')
    if filter is not None or after is not None:
        return _searched(service, status, start, size, filter or '', after)
    if status is not None:
        _checkStatuses('getJobs', [status], interfaces.STATUSES)
    counts = service.countJobs()
    total = sum(counts.values()) if status is None else counts[status]
    with _refusing('getJobs'):
        jobs = service.getJobs(status, start, size if start < total else 0)     # nobody has to walk to the end of all
    return {'jobs': [summaryOf(service, job) for job in jobs], 'total': total, 'counts': counts}


def _searched(service, status, start, size, filter, after):
    if status is not None or start:
        raise BadArguments('getJobs: with a filter neither status nor start can be given; write status:error, and go '
                           'on with the cursor of the last answer')
    with _refusing('getJobs'):
        found = search(service, parseFilter(filter, time.time()), after, size)
    counts = service.countJobs()
    return {'jobs': [summaryOf(service, job) for job in found.jobs], 'total': sum(counts.values()), 'counts': counts,
            'cursor': found.cursor, 'looked': found.looked, 'cut': found.isCut}


def getStatistics(service):
    """getStatistics() -> struct

    How the service fares.  The members are: struct counts, how many jobs there are in each status; array hosts, see
    getProcessingHosts; double oldestWaiting, when the job that waits longest was added or, by its schedule, should have
    been run, in seconds since 1970 UTC, nil when none waits; double throughput, how many jobs per second were completed
    or failed for good in the last minute; boolean paused, whether processing is stopped.
    """
    return service.getStatistics()


_TASK = Argument('task', (str,))
_INPUT = Argument('input', (), None)
_JOBID = Argument('jobid', (int,))
_NAME = Argument('name', (str,))
_OPTIONS = Argument('options', (dict,), MappingProxyType({}))


def _calendarField(name):
    return Argument(name, (list,), (), (int,))


METHODS = {
    'getAvailableTasks': Method(getAvailableTasks, READS, 'array'),
    'add': Method(add, WRITES, 'int', (_TASK, _INPUT, Argument('startLater', (bool,), False), _OPTIONS),
                  role='submit', traced=True),
    'addMany': Method(addMany, WRITES, 'array', (Argument('jobs', (list,), items=(dict,)),),
                      role='submit', traced=True),
    'addCronJob': Method(addCronJob, WRITES, 'int', (
        _TASK, _INPUT, _calendarField('minute'), _calendarField('hour'), _calendarField('dayOfMonth'),
        _calendarField('month'), _calendarField('dayOfWeek'), Argument('delay', (float, int), None),
        _OPTIONS), role='submit', traced=True),
    'updateCronJob': Method(updateCronJob, WRITES, 'boolean', (_JOBID, Argument('changes', (dict,))), role='submit'),
    'reschedule': Method(reschedule, WRITES, 'boolean', (_JOBID,), role='submit'),
    'startJob': Method(startJob, WRITES, 'boolean', (_JOBID,), role='submit'),
    'cancel': Method(cancel, WRITES, 'boolean', (_JOBID,), role='submit'),
    'clean': Method(clean, REPEATS, 'int', (Argument('status', (list,), interfaces.FINAL, (str,)),), role='manage'),
    'cleanSome': Method(cleanSome, WRITES, 'int', (Argument('status', (list,), interfaces.FINAL, (str,)),
                                                   Argument('limit', (int,), BATCH)), role='manage'),
    'retry': Method(retry, WRITES, 'boolean', (_JOBID,), role='submit'),
    'retryFailed': Method(retryFailed, REPEATS, 'int', (Argument('task', (str,), None),), role='manage'),
    'getProgress': Method(getProgress, READS, 'struct', (_JOBID,)),
    'getStatus': Method(getStatus, READS, 'string', (_JOBID,)),
    'waitFor': Method(waitFor, WAITS, 'array', (
        Argument('jobids', (list,), items=(int,)), Argument('timeout', (float, int), 30),
        Argument('any', (bool,), False))),
    'getResult': Method(getResult, READS, 'mixed', (_JOBID,)),
    'getResultPart': Method(getResultPart, READS, 'base64', (
        _JOBID, Argument('start', (float, int), 0), Argument('size', (int,), PART_SIZE))),
    'getError': Method(getError, READS, 'string', (_JOBID,)),
    'hasJobsWaiting': Method(hasJobsWaiting, READS, 'boolean'),
    'startProcessing': Method(startProcessing, WRITES, 'boolean', role='manage'),
    'stopProcessing': Method(stopProcessing, WRITES, 'boolean', role='manage'),
    'isProcessing': Method(isProcessing, READS, 'boolean'),
    'getProcessingHosts': Method(getProcessingHosts, READS, 'array'),
    'getJob': Method(getJob, READS, 'struct', (_JOBID,)),
    'getJobs': Method(getJobs, READS, 'struct', (
        Argument('status', (str,), None), Argument('start', (int,), 0), Argument('size', (int,), 100),
        Argument('filter', (str,), None), Argument('after', (str,), None))),
    'getStatistics': Method(getStatistics, READS, 'struct'),
    # Their functions are those of the dispatcher.
    'listMethods': Method(None, NO_SERVICE, 'array'),
    'methodHelp': Method(None, NO_SERVICE, 'string', (_NAME,)),
    'methodSignature': Method(None, NO_SERVICE, 'array', (_NAME,)),
}
# The names of the specification; the bare ones are what older clients of this service call.
METHODS.update({f'system.{name}': METHODS[name] for name in ('listMethods', 'methodHelp', 'methodSignature')})


def find(name):
    """Return the `Method` of that name; raise `UnknownMethod`."""
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
    method = find(name)
    return method, method.check(name, values)
