"""What can be called: the names of the methods, their arguments, access and limits.

The server, clients and the command line share this table.  It needs no database, and has no functions: those are in
`methods`.
"""
# SPDX-License-Identifier: ZPL-2.1
from types import MappingProxyType

from lovely.remotetask.statuses import FINAL
from lovely.remotetask.xmlrpc.faults import UnknownMethod
from lovely.remotetask.xmlrpc.signature import NO_SERVICE
from lovely.remotetask.xmlrpc.signature import READS
from lovely.remotetask.xmlrpc.signature import REPEATS
from lovely.remotetask.xmlrpc.signature import WAITS
from lovely.remotetask.xmlrpc.signature import WRITES
from lovely.remotetask.xmlrpc.signature import Argument
from lovely.remotetask.xmlrpc.signature import Method


#: Jobs that one transaction removes or starts again.
BATCH = 500

#: From this many jobs on, people must type their number to confirm that they mean all jobs that fit a filter.
TYPED = 100

#: Jobs that one call of `getJobs` gives at most, and one of `addMany` adds.
LISTING_SIZE = 1000

#: Bytes of a result that one call of `getResultPart` gives at most, and of a file that one of `putUpload` brings.
PART_SIZE = 1024 * 1024

#: Jobs that one call of `waitFor` waits for at most, and seconds.
WAITING_SIZE = 1000
WAITING_TIME = 3600

#: Seconds in which `getStatistics` counts failures if nothing else is said.
WINDOW_TIME = 3600.0

#: The deepest nesting of arrays and structs, in both directions.  Pickling fails at some 500 on old Pythons.
NESTING = 64
#: Bytes that a result may come to, text and markup; see `results.plain`.
RESULT_SIZE = 32 * 1024 * 1024
#: Characters of a fault's sentence.
SENTENCE_SIZE = 2000

#: Members of the last argument of `addCronJob`.
CRON_OPTIONS = ('active', 'crontab', 'misfire', 'newJobs', 'overlap', 'timeZone', 'uploads')

_TASK = Argument('task', (str,))
_INPUT = Argument('input', (), None)
_JOBID = Argument('jobid', (int,))
_NAME = Argument('name', (str,))
_UPLOAD = Argument('upload', (str,))
_VERB, _FILTER = Argument('verb', (str,)), Argument('filter', (str,))
_OPTIONS = Argument('options', (dict,), MappingProxyType({}))


def _calendarField(name):
    return Argument(name, (list,), (), (int,))


METHODS = {
    'getAvailableTasks': Method(READS, 'array'),
    'add': Method(WRITES, 'int', (_TASK, _INPUT, Argument('startLater', (bool,), False), _OPTIONS),
                  role='submit', traced=True, takesUser=True),
    'addMany': Method(WRITES, 'array', (Argument('jobs', (list,), items=(dict,)),),
                      role='submit', traced=True, takesUser=True),
    'addCronJob': Method(WRITES, 'int', (
        _TASK, _INPUT, _calendarField('minute'), _calendarField('hour'), _calendarField('dayOfMonth'),
        _calendarField('month'), _calendarField('dayOfWeek'), Argument('delay', (float, int), None),
        _OPTIONS), role='submit', traced=True, takesUser=True),
    'addUpload': Method(WRITES, 'string', (_TASK, Argument('size', (float, int), None)), role='submit', takesUser=True),
    'putUpload': Method(WRITES, 'double', (_UPLOAD, Argument('start', (float, int)), Argument('data', (bytes,))),
                        role='submit', takesUser=True),
    'dropUpload': Method(WRITES, 'boolean', (_UPLOAD,), role='submit', takesUser=True),
    'updateCronJob': Method(WRITES, 'boolean', (_JOBID, Argument('changes', (dict,))), role='submit'),
    'reschedule': Method(WRITES, 'boolean', (_JOBID,), role='submit'),
    'runNow': Method(WRITES, 'int', (_JOBID,), role='submit'),
    'startJob': Method(WRITES, 'boolean', (_JOBID,), role='submit'),
    'cancel': Method(WRITES, 'boolean', (_JOBID,), role='submit'),
    'clean': Method(REPEATS, 'int', (Argument('status', (list,), FINAL, (str,)),), role='manage'),
    'cleanSome': Method(WRITES, 'int', (Argument('status', (list,), FINAL, (str,)), Argument('limit', (int,), BATCH)),
                        role='manage'),
    'retry': Method(WRITES, 'boolean', (_JOBID,), role='submit'),
    'retryFailed': Method(REPEATS, 'int', (Argument('task', (str,), None),), role='manage'),
    'countBulk': Method(READS, 'struct', (_VERB, _FILTER)),
    'addBulk': Method(WRITES, 'int', (_VERB, _FILTER, Argument('expected', (int,), None)), role='manage',
                      takesUser=True),
    'getProgress': Method(READS, 'struct', (_JOBID,)),
    'askStack': Method(WRITES, 'boolean', (_JOBID,), role='manage'),
    'getStack': Method(READS, 'struct', (_JOBID,), role='manage'),
    'getStatus': Method(READS, 'string', (_JOBID,)),
    'waitFor': Method(WAITS, 'array', (
        Argument('jobids', (list,), items=(int,)), Argument('timeout', (float, int), 30),
        Argument('any', (bool,), False))),
    'getResult': Method(READS, 'mixed', (_JOBID,)),
    'getResultPart': Method(READS, 'base64', (
        _JOBID, Argument('start', (float, int), 0), Argument('size', (int,), PART_SIZE))),
    'getError': Method(READS, 'string', (_JOBID,)),
    'hasJobsWaiting': Method(READS, 'boolean'),
    'pause': Method(WRITES, 'boolean', role='manage'),
    'resume': Method(WRITES, 'boolean', role='manage'),
    'isProcessing': Method(READS, 'boolean'),
    'getProcessingHosts': Method(READS, 'array'),
    'getRelease': Method(READS, 'string'),
    'getJob': Method(READS, 'struct', (_JOBID,)),
    'getJobs': Method(READS, 'struct', (
        Argument('status', (str,), None), Argument('start', (int,), 0), Argument('size', (int,), 100),
        Argument('task', (str,), None), Argument('since', (float, int), None), Argument('filter', (str,), None),
        Argument('after', (str,), None))),
    'getSchedules': Method(READS, 'struct', (
        Argument('task', (str,), None), Argument('start', (int,), 0), Argument('size', (int,), 100))),
    'getStatistics': Method(READS, 'struct', (Argument('window', (float, int), WINDOW_TIME),)),
    'getTaskStatistics': Method(READS, 'struct', (Argument('task', (str,), None),)),
    # Of the front end itself.
    'listMethods': Method(NO_SERVICE, 'array'),
    'methodHelp': Method(NO_SERVICE, 'string', (_NAME,)),
    'methodSignature': Method(NO_SERVICE, 'array', (_NAME,)),
}
# The names of the specification; the bare ones are what older clients of this service call.
METHODS.update({f'system.{name}': METHODS[name] for name in ('listMethods', 'methodHelp', 'methodSignature')})
# Older names.  Methods of `ITaskService` that are called so start and stop a thread of one process.
METHODS.update({alias: METHODS[name]._replace(alias=name)
                for alias, name in (('stopProcessing', 'pause'), ('startProcessing', 'resume'))})


def find(name):
    """Return the `Method` of that name; raise `UnknownMethod`."""
    try:
        return METHODS[name]
    except KeyError:
        raise UnknownMethod(name[:255]) from None


def prepare(name, values):
    """Return the `Method` of that name and the list of arguments for its function, checked; touches nothing.

    name -- the name in the call, text.
    values -- the arguments in the call, as `parser.parseCall` gives them.

    Raise `UnknownMethod` or `BadArguments`.
    """
    method = find(name)
    return method, method.check(name, values)
