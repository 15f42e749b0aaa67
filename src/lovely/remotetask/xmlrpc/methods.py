"""The methods that clients can call: a function for each row of the table in `calls`.

The docstrings are what `system.methodHelp` answers.
"""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import time

from lovely.remotetask import errors
from lovely.remotetask import interfaces
from lovely.remotetask.common.release import release
from lovely.remotetask.database.freshness import catchUp
from lovely.remotetask.database.storedfiles import StoredFile
from lovely.remotetask.filters import parseFilter
from lovely.remotetask.storage import uploads
from lovely.remotetask.storage.search import search
from lovely.remotetask.xmlrpc.access import ANYBODY
from lovely.remotetask.xmlrpc.calls import CRON_OPTIONS
from lovely.remotetask.xmlrpc.calls import LISTING_SIZE
from lovely.remotetask.xmlrpc.calls import PART_SIZE
from lovely.remotetask.xmlrpc.calls import RESULT_SIZE
from lovely.remotetask.xmlrpc.calls import WAITING_SIZE
from lovely.remotetask.xmlrpc.calls import WAITING_TIME
from lovely.remotetask.xmlrpc.faults import BadArguments
from lovely.remotetask.xmlrpc.faults import ResultTooLarge
from lovely.remotetask.xmlrpc.placing import Placing
from lovely.remotetask.xmlrpc.structs import detailsOf
from lovely.remotetask.xmlrpc.structs import figuresOf
from lovely.remotetask.xmlrpc.structs import progressOf
from lovely.remotetask.xmlrpc.structs import readJob
from lovely.remotetask.xmlrpc.structs import readOptions
from lovely.remotetask.xmlrpc.structs import readSchedule
from lovely.remotetask.xmlrpc.structs import refuseOthers
from lovely.remotetask.xmlrpc.structs import scheduleStruct
from lovely.remotetask.xmlrpc.structs import summaryOf


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
    """Turn a `ValueError`, by which the service refuses wrong values, into `BadArguments` of the method."""
    try:
        yield
    except BadArguments as error:
        raise BadArguments(f'{method}: {error}') from error
    except errors.RemoteTaskError:
        raise
    except ValueError as error:
        raise BadArguments(f'{method}: {error}') from error


def add(service, task, input, startLater, options, request=None, user=None):
    """add(string task, mixed input=nil, boolean startLater=false, struct options={}) -> int

    Add a job that calls the task with the input, and return its id.  With startLater true it waits for startJob.
    The options are: string key, of 1 to 200 characters: as long as there is a job of the task that was added with it,
    its id is returned and nothing is added, so that a call can be repeated; double timeLimit, the seconds that a run
    may take; struct retryPolicy, with any of int attempts (runs in all), double base (seconds before the second run),
    factor (how much longer each further pause is), cap (seconds that a pause has at most), jitter (0 to 1: how large a
    part of a pause is random); array uploads, ids of addUpload, each of which stands as a string somewhere in the
    input: the task gets the file there.
    Faults: unknown task, invalid input, bad arguments for other options, unknown upload.
    """
    with _refusing('add'):
        placing = Placing(service, user)
        job = placing.filled({'task': task, 'input': input, 'startLater': startLater, **readOptions(options)})
        jobid = service.add(request=request, **job)
        placing.end()
    return jobid


def addMany(service, jobs, request=None, user=None):
    """addMany(array jobs) -> array of int

    Add up to 1000 jobs, all or none, and return their ids in the same order.  Each is a struct with string task, and
    maybe mixed input, boolean startLater, string key, double timeLimit, struct retryPolicy, array uploads: see add.
    Faults: those of add.
    """
    if len(jobs) > LISTING_SIZE:
        raise BadArguments(f'addMany: {LISTING_SIZE} jobs can be added at a time, {len(jobs)} were given')
    with _refusing('addMany'):
        placing = Placing(service, user)
        jobids = service.addMany([_readNumbered(number, struct, placing) for number, struct in enumerate(jobs)],
                                 request=request)
        placing.end()
    return jobids


def _readNumbered(number, struct, placing):
    with _refusing(f'jobs[{number}]'):
        return placing.filled(readJob(struct))


def addCronJob(service, task, input, minute, hour, dayOfMonth, month, dayOfWeek, delay, options,
               request=None, user=None):
    """addCronJob(string task, mixed input=nil, array minute=[], array hour=[], array dayOfMonth=[], array month=[],
                  array dayOfWeek=[], double delay=nil, struct options={}) -> int

    Add a job that runs whenever the calendar fits, and return its id.  The arrays hold ints, and an empty one fits
    always; dayOfWeek 0 is Monday.  With a delay, in seconds, it runs once, that much later; 0 is at once.
    The options are: string crontab, as '*/10 2 * * mon-fri', instead of the arrays; string timeZone, as
    'Europe/Berlin', default 'UTC'; misfire, what to do about times that came while nothing ran: 'once', the default,
    'skip', or a number of runs at most; boolean newJobs, whether it adds a new job at each time (with a delay of 0.1
    or more: again and again) instead of running itself; boolean overlap, whether it adds one while the last has not
    ended; boolean active, default true; array uploads, see add.
    Faults: unknown task, invalid input, bad arguments for a schedule that is out of range or never fits, unknown
    upload.
    """
    with _refusing('addCronJob'):
        refuseOthers('option', options, CRON_OPTIONS)
        placing = Placing(service, user)
        job = placing.filled({'task': task, 'input': input, **options})
        jobid = service.addCronJob(minute=tuple(minute), hour=tuple(hour), dayOfMonth=tuple(dayOfMonth),
                                   month=tuple(month), dayOfWeek=tuple(dayOfWeek), delay=delay, request=request, **job)
        placing.end()
    return jobid


def addUpload(service, task, size, user=None):
    """addUpload(string task, double size=nil) -> string

    Begin to send a file for a job of the task; return the id of the upload, which putUpload and add take.  The size is
    the number of bytes that are to come, if that is known: then it is told at once whether there is room for them, and
    no job takes the file before all of them are there.  An upload belongs to the user who began it.  One that no job
    has taken within a day of its last part is dropped.
    Faults: unknown task, bad arguments for another size, too many uploads.
    """
    if size is not None:
        _checkBytes('addUpload', 'size', size)
    tasks = service.getAvailableTasks()
    if task not in tasks:
        raise errors.UnknownTask(task, tasks)
    return uploads.begin(service, user, time.time(), None if size is None else int(size))


def putUpload(service, upload, start, data, user=None):
    """putUpload(string upload, double start, base64 data) -> double

    Send the next part of a file, 1 to 1048576 bytes; return how many bytes have come.  It starts where the last one
    ended, the first one at 0; the start is a whole number, int or double.  A part that has come may come once more, so
    that the call can be repeated.
    Faults: unknown upload, bad arguments for another start or size, too many uploads.
    """
    _checkBytes('putUpload', 'start', start)
    with _refusing('putUpload'):
        return float(uploads.append(service, user, upload, int(start), data, time.time()))


def dropUpload(service, upload, user=None):
    """dropUpload(string upload) -> boolean

    Drop an upload that no job is going to take.  False when there is none with that id.
    """
    return uploads.drop(service, user, upload)


def _checkBytes(method, name, value):
    """Raise `BadArguments` unless the value is a number of bytes; it may be a double, as an int has only 32 bits."""
    if not 0 <= value < 2**53 or value != int(value):
        raise BadArguments(f'{method}: {name} must be a whole number, and not negative')


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


def runNow(service, jobid):
    """runNow(int jobid) -> int

    Run a cron or delayed job, or one that waits for its next attempt, at once; return the id of the job that runs: of
    a schedule that adds new jobs that of the new one.  A schedule goes on as if nothing had happened.
    Faults: unknown job, wrong state for any other job, and while a run is queued or goes on.
    """
    return service.runNow(jobid)


def getSchedules(service, task, start, size):
    """getSchedules(string task=nil, int start=0, int size=100) -> struct

    The cron and delayed jobs, newest first: those from start on, size of them, at most 1000; of one task or all.
    The members are: array schedules, and int total, how many there are in all, nil when a task is given.  A schedule is
    a struct of int id, string task, string status, double created; what can be changed with updateCronJob; boolean
    eitherDay, double scheduledFor (its next call), calledFor (the last one), int lastJob (that it added); string
    outcome (the status that its last run came to), double started, completed, string error (of that run), int failures
    (how many of its last runs failed one after the other, up to 10); and string reason: why it waits, when a scheduler
    cannot handle it, or no host can run it.  Times are in seconds since 1970 UTC; what does not apply is nil.
    Faults: bad arguments for another start or size.
    """
    if not 0 <= size <= LISTING_SIZE:
        raise BadArguments(f'getSchedules: size must be 0 to {LISTING_SIZE}')
    with _refusing('getSchedules'):
        schedules = service.getSchedules(start, size, task)
    counts = service.countJobs() if task is None else None
    return {'schedules': [scheduleStruct(schedule) for schedule in schedules],
            'total': counts and counts[interfaces.CRONJOB] + counts[interfaces.DELAYED]}


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


def countBulk(service, verb, filter):
    """countBulk(string verb, string filter) -> struct

    How many jobs addBulk would change: int count; and boolean whole: whether these are all.  If not, only the newest
    20,000 were looked at.
    Faults: bad arguments for a verb or a filter that is none.
    """
    with _refusing('countBulk'):
        count, isWhole = service.countBulk(verb, filter)
    return {'count': count, 'whole': isWhole}


def addBulk(service, verb, filter, expected, user):
    """addBulk(string verb, string filter, int expected=nil) -> int

    Add a job that cancels, retries or removes all jobs that fit a filter, and return its id.  The verb is 'cancel',
    'retry' or 'remove'; the filter as that of getJobs, '' for all jobs.  Only jobs that were there before it are
    changed, and of these only those that the verb can be done with: cancel those that have not ended, retry those in
    an error, remove those that have ended.  It works in small transactions, tells its progress, can be cancelled, and
    gives a struct of int changed.  Expected is how many jobs countBulk said, for the progress; nil counts them here.
    Faults: bad arguments for a verb, a filter or a number that is none.
    """
    with _refusing('addBulk'):
        if expected is None:
            expected, _ = service.countBulk(verb, filter)
        return service.addBulk(verb, filter, expected, user or ANYBODY)


def getProgress(service, jobid):
    """getProgress(int jobid) -> struct

    What the running task has said of how far it is: double fraction, from 0 to 1, or nil if nobody knows; and string
    message.  Nil when it has said nothing, or does not run.
    Faults: unknown job.
    """
    return progressOf(service, jobid)


def askStack(service, jobid):
    """askStack(int jobid) -> boolean

    Ask the processing host that runs a job where its run is right now; getStack has the answer a moment later.  Always
    true.
    Faults: unknown job, wrong state for a job that no processing host has claimed.
    """
    service.askStack(jobid)
    return True


def getStack(service, jobid):
    """getStack(int jobid) -> struct

    Where the run of a job was when askStack was called: double asked; double answered, nil as long as the host has not
    answered; string text: the stack of the thread or the child process, the innermost call last, with files, lines and
    functions, but no values; of a program its process and path.  Nil if nobody has asked in the last minute.
    Faults: unknown job.
    """
    stack = service.getStack(jobid)
    return stack and stack._asdict()


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
    _checkBytes('getResultPart', 'start', start)
    if not 1 <= size <= PART_SIZE:
        raise BadArguments(f'getResultPart: size must be 1 to {PART_SIZE}')
    return service.getResultPart(jobid, int(start), size)


def getError(service, jobid):
    """getError(int jobid) -> string

    Why the job failed; the string 'None' when it did not: getJob has nil for that in its member error.
    Faults: unknown job.
    """
    return str(service.getError(jobid))


def hasJobsWaiting(service):
    """hasJobsWaiting() -> boolean

    Whether a job is ready to run or due.
    """
    return bool(service.hasJobsWaiting())


def pause(service):
    """pause() -> boolean

    Have all processing hosts take no more jobs of the service, until resume; running ones end.  Always true.
    """
    service.pause()
    return True


def resume(service):
    """resume() -> boolean

    Have all processing hosts take jobs of the service, after pause.  Always true.
    """
    service.resume()
    return True


def stopProcessing(service):
    """stopProcessing() -> boolean

    The older name of pause.
    """
    return pause(service)


def startProcessing(service):
    """startProcessing() -> boolean

    The older name of resume.
    """
    return resume(service)


def isProcessing(service):
    """isProcessing() -> boolean

    Whether any processing host takes jobs of the service, in whatever process.
    """
    return any(host['processing'] for host in service.getProcessingHosts())


def getRelease(service):
    """getRelease() -> string

    The release of the front end, as '1.0'.
    """
    return release()


def getProcessingHosts(service):
    """getProcessingHosts() -> array of struct

    Where the service is processed, one struct for each living host.  The members are: string name, string machine, int
    pid, int threads (how many jobs it runs at a time; 0 if it only schedules), double since (when it was started, in
    seconds since 1970 UTC), string release (that it has), int jobs (how many it has claimed), array tasks (of string:
    patterns of the names of the tasks that it takes, nil for all), boolean processing (whether it takes jobs), boolean
    scheduling (whether it is the one that queues what is due).
    """
    return service.getProcessingHosts()


def getJob(service, jobid):
    """getJob(int jobid) -> struct

    What is known of a job.  Times are double, in seconds since 1970 UTC; what does not apply is nil.  The members are:
    int id, string task, string status, mixed input, mixed output, string error, array errors (what went wrong in its
    last attempts: structs of double time, string message, string host, string traceback), int failedAttempts (how
    many have failed since it was added or retried: 0 after a success at the first run), string host (where it runs, or
    ran last), double created, started, completed (of its last run; started is nil until a run has been going on for a
    second), retryAt (when it is tried again), double timeLimit, struct retryPolicy, int schedule (the id of the cron
    job that added it), string request (the id of the request that added it), string key, struct progress (see
    getProgress).
    An input or output above 65536 bytes is nil: getResult and getResultPart give the output.
    A cron job has besides: what can be changed with updateCronJob, and boolean eitherDay, double scheduledFor (its next
    call), double calledFor (the last one), int lastJob (that it added), array history (its last runs: structs of double
    calledFor, int jobid, string status, double started, double completed, string error), string outcome and int
    failures (see getSchedules).
    Faults: unknown job.
    """
    return detailsOf(service, service.jobs[jobid])


def getJobs(service, status, start, size, task, since, filter, after):
    """getJobs(string status=nil, int start=0, int size=100, string task=nil, double since=nil, string filter=nil,
    string after=nil) -> struct

    The jobs, newest first: those from start (0 is the newest) on, size of them, at most 1000; only those in the status,
    if one is given; only those of the task, for which the newest 10,000 are looked at; only those that ended since a
    time, or, if they have not ended, were added since then.  The newest is the one that ended last, or, as long as it
    has not ended, was added last.
    The members are: array jobs, whose structs have id, task, status, string host, and created, started, completed in
    seconds since 1970 UTC as double, nil when it has not happened (host and started are those of the run that goes on,
    or was last); int total, how many there are in all, nil with a task or since; and struct counts, how many there are
    in each status, nil with a task.  A cron or delayed job has besides: double scheduledFor (its next call), string
    outcome and int failures: see getSchedules.
    With a filter, as 'status:error task:avi2* since:1h input.film:Metropolis', only those that fit all its terms.  Then
    the answer has besides: string cursor, nil when there is no more, else the after of the next call, which goes on
    where this one ended; int looked, how many jobs were looked at; boolean cut, whether that ended before there were
    size that fit.  The total is that of all jobs; status, start, task and since must be left out, and size is 1 or
    more.
    Faults: bad arguments for another status, start, size, since, filter or after.
    """
    if not 0 <= size <= LISTING_SIZE:
        raise BadArguments(f'getJobs: size must be 0 to {LISTING_SIZE}')
    if filter is not None or after is not None:
        if start or (status, task, since) != (None, None, None):
            raise BadArguments('getJobs: a filter excludes status, start, task and since; write status:error, and go '
                               'on with the cursor of the last answer')
        return _searched(service, size, filter or '', after)
    if status is not None:
        _checkStatuses('getJobs', [status], interfaces.STATUSES)
    counts, total = service.countJobs() if task is None else None, None
    if task is None and since is None:
        total = sum(counts.values()) if status is None else counts[status]
        if start >= total:
            size = 0                                # nobody has to walk to the end of all
    with _refusing('getJobs'):
        jobs = service.getJobs(status, start, size, task, since)
    return {'jobs': [summaryOf(service, job) for job in jobs], 'total': total, 'counts': counts}


def _searched(service, size, filter, after):
    with _refusing('getJobs'):
        found = search(service, parseFilter(filter, time.time()), after, size)
    counts = service.countJobs()
    return {'jobs': [summaryOf(service, job) for job in found.jobs], 'total': sum(counts.values()), 'counts': counts,
            'cursor': found.cursor, 'looked': found.looked, 'cut': found.isCut}


def getStatistics(service, window):
    """getStatistics(double window=3600) -> struct

    How the service fares.  The members are: struct counts, how many jobs there are in each status; array hosts, see
    getProcessingHosts; double oldestWaiting, when the job that waits longest was added or, by its schedule, should have
    been run, in seconds since 1970 UTC, nil when none waits; double throughput, how many jobs per second were completed
    or failed for good in the last minute; boolean paused, whether processing is stopped; double longestRunning, when
    the run began that has been going on for longest; int failures, how many jobs ended in an error in the last seconds,
    as many as window says, and runs of cron jobs failed; int failing, how many cron jobs have a last run that failed;
    int retrying and stranded, how many jobs wait for their next attempt, and for a host that can run them; struct
    unclaimable, of the latter how many there are of each task that no living host takes; int unscheduled, how many jobs
    the scheduler cannot handle; double nextTime, when the scheduler has something to do next: if that is past no
    scheduler is at work.
    Faults: bad arguments for a window that is not above 0.
    """
    # A cache could tell that all is well for as long as the database server is away.
    if service._p_jar is not None:
        catchUp(service._p_jar.db())
    with _refusing('getStatistics'):
        return service.getStatistics(window=window)


def getTaskStatistics(service, task):
    """getTaskStatistics(string task=nil) -> struct

    How the runs of each task fared since the service was made, or those of one task.  It is a struct of structs by the
    names of tasks, of those that have run; their members are: int completed, error, cancelled, how many jobs ended so,
    each run of a cron job among them; int retried, how many runs failed and were tried again; int lost, how many claims
    were lost with their hosts; double failureRate, which part of the jobs ended in an error, from 0 to 1; double
    runSeconds, how long all runs took, meanRun and p95Run, how long one of them; double waitSeconds, meanWait and
    p95Wait, how long these jobs were ready before.  Of 95 in 100 neither took longer than p95Run and p95Wait, which are
    estimates; they, the means and failureRate are nil when there is nothing that they could be of.  A number that is
    no int of XML-RPC, from 2147483648 on, is a double.
    """
    found = service.getTaskStatistics()
    return {name: figuresOf(tally) for name, tally in found.items() if task in (None, name)}


#: The name of a method -> its function, which is called with the service and the checked arguments.  Those that need no
#: service are functions of the dispatcher.
FUNCTIONS = {function.__name__: function for function in (
    getAvailableTasks, add, addMany, addCronJob, addUpload, putUpload, dropUpload, updateCronJob, reschedule, runNow,
    startJob, cancel, clean, cleanSome, retry, retryFailed, countBulk, addBulk, getProgress, askStack, getStack,
    getStatus, waitFor, getResult, getResultPart, getError, hasJobsWaiting, pause, resume, stopProcessing,
    startProcessing, isProcessing, getProcessingHosts, getRelease, getJob, getJobs, getSchedules, getStatistics,
    getTaskStatistics)}
