"""From the XML of a call to the XML of its response: the standard library's dispatcher, awaited."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import logging
import time
from xmlrpc.server import SimpleXMLRPCDispatcher

from transaction.interfaces import TransientError
from ZODB.POSException import StorageError

from lovely.remotetask.common import tracing
from lovely.remotetask.common.logs import logError
from lovely.remotetask.statuses import areFinal
from lovely.remotetask.xmlrpc import calls
from lovely.remotetask.xmlrpc import counting
from lovely.remotetask.xmlrpc import methods
from lovely.remotetask.xmlrpc.acts import actsOf
from lovely.remotetask.xmlrpc.faults import INTERNAL_ERROR
from lovely.remotetask.xmlrpc.faults import DatabaseUnavailable
from lovely.remotetask.xmlrpc.faults import faultFor
from lovely.remotetask.xmlrpc.head import HTTPException
from lovely.remotetask.xmlrpc.results import dumpResponse
from lovely.remotetask.xmlrpc.secrets import withoutSecrets
from lovely.remotetask.xmlrpc.signature import NO_SERVICE
from lovely.remotetask.xmlrpc.signature import REPEATS
from lovely.remotetask.xmlrpc.signature import WAITS
from lovely.remotetask.xmlrpc.signature import WRITES
from lovely.remotetask.xmlrpc.wire import dumpFault


logger = logging.getLogger('lovely.remotetask')


def faultOf(error, requestId):
    """Return the fault code and the sentence for an exception, as `faults.faultFor`, also for those of the database."""
    return faultFor(DatabaseUnavailable() if isinstance(error, (TransientError, StorageError)) else error, requestId)


class Dispatcher(SimpleXMLRPCDispatcher):
    """Calls the functions of `methods.FUNCTIONS`, which are registered here, and nothing else.

    The base class has the table, calls the functions by their names, and answers what is asked of the table.  No
    instance is registered: so no name with dots leads from one object to another.  `system.multicall` is not
    registered: what a user may do, how much is worked on at a time and how much is answered is limited for each call.
    """

    def __init__(self, gateway, result):
        """gateway -- the `gateway.Gateway`.
        result -- a coroutine function: called with a `gateway.Call`, it waits for it and returns its result.
        """
        super().__init__(allow_none=True, encoding='utf-8', use_builtin_types=True)
        self._gateway, self._result = gateway, result
        self.register_introspection_functions()
        for name in calls.METHODS:
            # The introspection functions are also known without "system.", as older clients call them.
            self.register_function(
                methods.FUNCTIONS.get(name) or self.funcs[f'system.{name.removeprefix("system.")}'], name)

    # What is asked of the table

    def system_listMethods(self):
        """system.listMethods() -> array of string

        The names of all methods, sorted.
        """
        return super().system_listMethods()

    def system_methodHelp(self, name):
        """system.methodHelp(string name) -> string

        What a method does, takes and gives.
        Faults: unknown method.
        """
        calls.find(name)
        return super().system_methodHelp(name)

    def system_methodSignature(self, name):
        """system.methodSignature(string name) -> array of array of string

        For each number of arguments that the method takes, the types of what it returns and of the arguments.
        Faults: unknown method.
        """
        return calls.find(name).signatures    # the base class knows of none

    # Calls

    async def respond(self, request, data, charset):
        """Carry out a call; return its response, bytes of XML, and a summary of the call for the log.

        request -- has `requestId`, `traceparent`, `path` and `principal`, and the methods `parse` and `waitForJobs` of
            `handler.RequestHandler`.
        data -- the body of the request, bytes.
        charset -- the parameter of that name of its media type, None if it has none.

        This takes the place of `_marshaled_dispatch`.  That one has to have the result when it returns: each call that
        waits for the database, or for jobs, would take a thread.  It reads whatever `xmlrpc.client.loads` makes of the
        data, and tells clients the class and message of any exception.  Here an exception is answered with its fault,
        but for a `head.HTTPException`; what is no `Exception`, as SystemExit, is not caught.
        """
        name = '-'
        try:
            parsed = request.parse(data, charset)
            del data                            # it can be large, and the call take long
            name, values = parsed if isinstance(parsed, tuple) else await parsed
            return await self._respond(request, name, values), name
        except HTTPException:
            raise
        except Exception as error:
            code, sentence = faultOf(error, request.requestId)
            if code == INTERNAL_ERROR:
                logError(logger, 'request %s failed', request.requestId, error=error)
            return dumpFault(code, sentence), f'{name}:{code}'

    async def _respond(self, request, name, values):
        method, arguments = calls.prepare(name, values)
        request.principal.check(name, method, request.path, arguments)
        if method.access == NO_SERVICE:
            return dumpResponse(self._dispatch(name, arguments))

        def dispatch(service, *given):
            answer = self._dispatch(name, (service, *given))
            return answer if request.principal.seesSecrets else withoutSecrets(service, name, given, answer)
        function = request.principal.guarded(method, arguments, dispatch)
        if method.access == WAITS:
            return await self._wait(request, function, arguments)
        if method.access == REPEATS:
            return dumpResponse(await self._repeat(request, name, function, arguments))
        if method.traced:
            arguments.append(request.requestId)
        if method.takesUser:
            arguments.append(request.principal.name)
        call = functools.partial(self._call, function, arguments, request.traceparent if method.traced else None)
        if method.access == WRITES:
            run = self._gateway.write(request.path, call, dumpResponse,
                                      actsOf(name, arguments, request.principal.name))
        else:
            run = self._gateway.read(request.path, call, dumpResponse)
        response = await self._result(run)
        counting.noteAdded(request.path, name, arguments)
        return response

    @staticmethod
    def _call(function, arguments, traceparent, service):
        with tracing.calledWith(traceparent):
            return function(service, *arguments)


    async def _repeat(self, request, name, function, arguments):
        """Call the function in one transaction after another until it does less than it might; return the sum."""
        done, before = 0, time.time()
        acts = actsOf(name, arguments, request.principal.name)
        while True:
            step = await self._result(self._gateway.write(
                request.path, lambda service: function(service, calls.BATCH, before, *arguments), acts=acts))
            done += step
            if step < calls.BATCH:
                return done

    async def _wait(self, request, function, arguments):
        """Ask for the statuses of jobs until they have ended, or the time is over; return the response."""
        jobids, timeout, any = arguments
        deadline = time.monotonic() + timeout

        def serialize(statuses):
            isLast = areFinal(statuses, any) or time.monotonic() >= deadline
            return dumpResponse(statuses) if isLast else None
        response = await self._result(self._gateway.read(
            request.path, lambda service: function(service, *arguments), serialize))
        while response is None:
            async with await request.waitForJobs(jobids, any, deadline - time.monotonic()):
                if self._gateway.isSilent:      # not one after the other is to find that out
                    raise DatabaseUnavailable()
                response = await self._result(self._gateway.read(
                    request.path, functools.partial(methods.statusesOf, jobids=jobids), serialize))
        return response
