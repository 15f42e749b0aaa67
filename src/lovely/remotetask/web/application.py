"""The WSGI application: which path leads where, and what each answer has in common."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import json
import logging
import math
import re
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import NamedTuple

import transaction
import webob
from persistent.TimeStamp import TimeStamp
from transaction.interfaces import TransientError
from ZODB.POSException import POSKeyError

from lovely.remotetask import errors
from lovely.remotetask.common.checks import cut
from lovely.remotetask.common.counts import counts
from lovely.remotetask.common.logs import about
from lovely.remotetask.database import notes
from lovely.remotetask.database.failures import isDatabaseError
from lovely.remotetask.database.freshness import catchUp
from lovely.remotetask.database.freshness import fresh
from lovely.remotetask.database.sites import whereIs
from lovely.remotetask.database.transactions import lastTransaction
from lovely.remotetask.database.transactions import openedAt
from lovely.remotetask.database.transactions import transact
from lovely.remotetask.files import NoFile
from lovely.remotetask.filters import parseTime
from lovely.remotetask.web import actions
from lovely.remotetask.web import bulkpages
from lovely.remotetask.web import changepages
from lovely.remotetask.web import jobpages
from lovely.remotetask.web import metrics
from lovely.remotetask.web import processmetrics
from lovely.remotetask.web import servicepages
from lovely.remotetask.web.charts import Counter
from lovely.remotetask.web.context import DEFAULT
from lovely.remotetask.web.context import Context
from lovely.remotetask.web.context import mountPoint
from lovely.remotetask.web.health import Readiness
from lovely.remotetask.web.rendering import STATIC
from lovely.remotetask.web.rendering import Page
from lovely.remotetask.web.rendering import render
from lovely.remotetask.web.rendering import renderRefusal
from lovely.remotetask.web.rendering import static
from lovely.remotetask.web.security import HEADERS
from lovely.remotetask.web.security import Forged
from lovely.remotetask.web.security import Guard
from lovely.remotetask.web.security import NotLocal
from lovely.remotetask.xmlrpc.access import Throttled
from lovely.remotetask.xmlrpc.access import Unauthorized
from lovely.remotetask.xmlrpc.calls import METHODS
from lovely.remotetask.xmlrpc.faults import NotAllowed


log = logging.getLogger('lovely.remotetask')

#: Bytes of a form, and fields in it, at the most.
FORM_SIZE, FORM_FIELDS = 1024 * 1024, 2000

#: Characters of a URL's query at the most: a filter of any characters fits in.
QUERY_SIZE = 16 * 1024

#: Seconds for which a page stays as it is while nothing is committed: durations on it are at most that old.
STALE = 30

#: How often a change is tried when it meets conflicts.
ATTEMPTS = 10

#: Requests that use the database at the same time, by default; and seconds that another one waits for its turn.
CONCURRENT, PERMIT_TIME = 8, 1.0


class Refused(errors.RemoteTaskError):
    """The pages refuse a request; the message says why."""

    def __init__(self, status, message):
        """`status` is of HTTP."""
        super().__init__(message)
        self.status = status


class _NotDone(Exception):
    """A verb has changed nothing: its form has a mistake, which `response` tells."""

    def __init__(self, response):
        """`response` is a `webob.Response`."""
        super().__init__()
        self.response = response


class Route(NamedTuple):
    """A path and what answers it."""

    pattern: re.Pattern
    view: Callable              # called with the `Context` and the pattern's groups, texts; returns a `Page`, or a
    #                             `webob.Response`


ROUTES = [Route(re.compile(pattern, re.DOTALL), view) for pattern, view in (
    (r'/', servicepages.overview),
    (r'/jobs', jobpages.jobs),
    (r'/jobs/([0-9]{1,10})', jobpages.job),
    (r'/jobs/([0-9]{1,10})/output', jobpages.output),
    (r'/schedules', jobpages.schedules),
    (r'/tasks', servicepages.tasks),
    (r'/tasks/(.+)', servicepages.task),
    (r'/hosts', servicepages.hosts),
    (r'/bulk', bulkpages.bulk),
    (r'/changes', changepages.changes),
)]

_ACTION = re.compile(r'/do/([A-Za-z]+)')
_STATIC = re.compile(r'/static/([a-z.]+)')

#: Exceptions, the status of HTTP that they stand for, and the title of the page that says so.
REFUSALS = (
    (Unauthorized, 401, 'Who are you?'),
    (Throttled, 429, 'Too many passwords'),
    (NotLocal, 403, 'Not from there'),
    (Forged, 403, 'Nothing was changed'),
    (NotAllowed, 403, 'Not allowed'),
    ((errors.UnknownJob, errors.UnknownTask, errors.UnknownService, NoFile), 404, 'Not found'),
    (errors.WrongState, 409, 'Nothing was changed'),
    (errors.WrongGeneration, 503, 'Not with this release'),
    (errors.RemoteTaskError, 400, 'That makes no sense'),
)


class Application:
    """The pages of all task services of a database, as a WSGI callable: see `application`."""

    def __init__(self, db, guard, mask, clock, concurrent):
        """Change the database only by the verbs of `actions`.

        db -- the `ZODB.DB`.
        guard -- a `security.Guard`.
        mask -- more names of secrets, patterns of `fnmatch`.
        clock -- returns UTC seconds.
        concurrent -- how many requests may use the database at the same time.
        """
        self._permits = threading.BoundedSemaphore(concurrent)
        self.db, self.guard, self.mask, self.clock = db, guard, tuple(mask), clock
        self.counter, self.readiness = Counter(), Readiness(db)
        db.setPoolSize(db.getPoolSize() + concurrent)

    def __call__(self, environ, start_response):
        """Answer a request, as WSGI has it."""
        request = webob.Request(environ)
        try:
            response = self._answer(request)
        except Exception as error:
            response = self._refusal(request, error)
        for name, value in HEADERS:
            response.headers[name] = value
        response.headers.setdefault('Cache-Control', 'no-store')
        counts.add('page_requests', str(response.status_int))
        if response.location is not None:
            # webob would put "http://" before it, which is wrong behind a proxy that speaks TLS.
            start_response(response.status, response.headerlist)
            return response.app_iter
        return response(environ, start_response)

    def _answer(self, request):
        if len(request.query_string) > QUERY_SIZE:
            raise Refused(414, f'what follows the ? has more than {QUERY_SIZE} characters')
        try:
            path = request.path_info or '/'
            request.GET.items()
        except UnicodeDecodeError:
            raise Refused(400, 'the URL is not encoded in UTF-8') from None
        if request.method not in ('GET', 'HEAD', 'POST'):
            raise Refused(405, f'there is no {cut(request.method, 20)} here')
        if request.method != 'POST':
            if (match := _STATIC.fullmatch(path)) is not None:
                return _static(match[1])
            if path in ('/live', '/ready'):
                return self._health(request, path)
        # Requests that wait for a database that hangs must leave threads that answer whether the server lives.
        if not self._permits.acquire(timeout=PERMIT_TIME):
            raise Refused(503, 'too many requests are being answered, or the database does not answer: try again')
        try:
            caller = self.guard.callerOf(request)
            request.environ['remotetask.user'] = caller.name        # for logs
            return self._answerTo(caller, request, path)
        finally:
            self._permits.release()

    def _answerTo(self, caller, request, path):
        if (match := _ACTION.fullmatch(path)) is not None and match[1] in actions.VERBS:
            if request.method != 'POST':
                raise Refused(405, 'this is done by a button only')
            return self._change(request, caller, match[1])
        if path == '/metrics' and request.method != 'POST':
            return self._metrics(request, caller)
        for route in ROUTES:
            match = route.pattern.fullmatch(path)
            if match is not None:
                if request.method == 'POST':
                    raise Refused(405, 'this page takes no form')
                return self._show(request, caller, route.view, match.groups())
        raise Refused(404, 'there is no such page')

    # For machines

    def _health(self, request, path):
        """Return whether this process lives, or whether it can do its work; anybody may know that, but no names."""
        if path == '/live':
            found = {'problem': None}
        else:
            seen = self.readiness.seen()
            seen = seen._replace(problem=seen.problem or self.readiness.own())
            found = seen.told(self.guard.isAtHome(request))
        return webob.Response(json.dumps(found), content_type='application/json', charset='utf-8',
                              status=200 if found['problem'] is None else 503)

    def _metrics(self, request, caller):
        seen, found = self.readiness.seen(), []
        if seen.problem is None or seen.unusable:       # otherwise at most a cache would answer
            found = self._databaseMetrics(request, caller)
        elif METHODS['getStatistics'].role not in caller.roles or caller.tasks is not None:
            raise Refused(403, 'the metrics are of all tasks')
        isReady = seen.problem is None and self.readiness.own() is None
        text = metrics.textOf([metrics.readiness(isReady), *found, *processmetrics.families()])
        return webob.Response(text, headerlist=[('Content-Type', metrics.CONTENT_TYPE)])

    def _databaseMetrics(self, request, caller):
        now = self.clock()
        with self._reading(None) as connection:
            context = Context(request, {}, caller, connection, DEFAULT, now, None, self)
            services = [(path, context._replace(path=path)) for path in context.services()]
            for _, one in services:
                one.allow('getStatistics')
            return metrics.families(connection, [(path, one.service) for path, one in services], now,
                                    context.unusable())

    # Pages

    def _show(self, request, caller, view, arguments):
        now, at = self.clock(), request.GET.get('at') or None
        moment = None if at is None else parseTime(at)
        if at is not None and (moment is None or moment > now):
            raise Refused(400, f'at: {cut(at, 40)!r} is no time that was, as 2026-05-01T12:30 in UTC')
        if at is not None and not self.db.supportsUndo():
            raise Refused(400, 'at: this database keeps no history')
        age = int(now // STALE) if moment is None else 'at'
        tag = f'{lastTransaction(self.db).hex()}-{age}-{self.guard.tagOf(caller)}'
        if tag in request.if_none_match and 'If-None-Match' in request.headers:
            response = webob.Response(status=304)
        else:
            def make():
                with self._reading(moment) as connection:
                    context = Context(request, {}, caller, connection, _servicePath(request.GET), moment or now, at,
                                      self)
                    return _made(view, context, arguments)
            try:
                response = fresh(self.db, make)
            except (errors.WrongGeneration, errors.UnknownService) as error:
                return self._refusal(request, error, self._services(request, caller))
        response.etag = tag
        response.headers['Cache-Control'] = 'private, no-cache'
        response.headers['Vary'] = 'Authorization, Cookie'
        return response

    def _services(self, request, caller):
        """Return the pages of the services that work and that the caller may see: path -> URL."""
        with self._reading(None) as connection:
            context = Context(request, {}, caller, connection, DEFAULT, self.clock(), None, self)
            return {path: context.url('/', service=None if path == DEFAULT else path) for path in context.services()}

    @contextlib.contextmanager
    def _reading(self, moment):
        """Give a connection to look at: of the database as it is, or as it was at a time in UTC seconds."""
        manager = transaction.TransactionManager(explicit=True)
        with contextlib.ExitStack() as stack:
            if moment is None:
                connection = stack.enter_context(contextlib.closing(self.db.open(manager)))
            else:
                try:
                    connection = stack.enter_context(openedAt(self.db, manager, _timestamp(moment)))
                except ValueError:
                    raise Refused(400, 'at: the database has no state of that time yet') from None
            manager.begin()
            try:
                yield connection
            finally:
                manager.abort()

    # Changes

    def _change(self, request, caller, verb):
        form = _form(request)
        self.guard.checkChange(request, caller, form.get('token', [None])[0])
        manager = transaction.TransactionManager(explicit=True)
        catchUp(self.db)                # some verbs leave out jobs whose status does not fit, and refuse nothing
        with contextlib.closing(self.db.open(manager)) as connection:
            context = Context(request, form, caller, connection, _servicePath(request.GET), self.clock(), None, self)
            try:
                done = transact(manager, lambda: self._carryOut(context, verb, manager), ATTEMPTS)
            except _NotDone as error:
                return error.response
        log.info('user %s at %s: %s in %s', ascii(caller.name or notes.ANYBODY), caller.address or '-',
                 ascii(notes.sentenceOf(done.act)), ascii(context.path),
                 extra=about('change.made', user=caller.name or notes.ANYBODY, address=caller.address))
        return webob.Response(status=303, location=self._next(context, done))

    def _carryOut(self, context, verb, manager):
        """Do what a verb says, in the transaction of `manager`; return `actions.Done`, or raise `_NotDone`."""
        with _refusing(None):
            done = actions.carryOut(context, verb)
        if isinstance(done, Page):
            raise _NotDone(webob.Response(render(done, context), status=done.status))
        path = whereIs(context.service)
        notes.write(manager.get(), [done.act._replace(path=path)], context.caller.name or notes.ANYBODY)
        return done

    def _next(self, context, done):
        """Return the URL of the page that is shown after a change: the one where the button was, or another."""
        query = {'said': done.said, 'count': done.count}
        back = context.field('back')
        if done.path is None and re.fullmatch(r'/(?![/\\])[\x21-\x7e]*', back) and '\\' not in back:
            parts = urllib.parse.urlsplit(back)
            query = {**dict(urllib.parse.parse_qsl(parts.query)), **query}
            return context.url(urllib.parse.unquote(parts.path), **query)
        return context.url(done.path or '/', **query)

    # What goes wrong

    def _refusal(self, request, error, services=None):
        """Return the response for an exception.

        services -- to look at instead: path -> URL.
        """
        status, title, message = 500, 'Something went wrong', 'The log of the process that serves this page says more.'
        if isinstance(error, Refused):
            title = 'Not found' if error.status == 404 else 'Not like that'
            status, message = error.status, str(error)
        elif isDatabaseError(error) or isinstance(error, TransientError):
            status, title, message = 503, 'Try again', 'The database does not answer, or was too busy.'
            log.warning('a page could not be made: %s: %s', type(error).__name__, error)
        else:
            for family, *found in REFUSALS:
                if isinstance(error, family):
                    status, title, message = *found, str(error)
                    break
            else:
                log.error('a page could not be made', exc_info=error)
        if isinstance(error, (Unauthorized, Throttled)):
            counts.add('logins_refused', 'pages')
        response = webob.Response(renderRefusal(title, message, mountPoint(request) + '/', services or {}),
                                  status=status)
        if status == 401 and self.guard.asksForPassword:
            response.headers['WWW-Authenticate'] = 'Basic realm="remote tasks", charset="UTF-8"'
        if status == 405:
            response.headers['Allow'] = 'GET, HEAD, POST'
        if isinstance(error, Throttled):
            response.headers['Retry-After'] = str(math.ceil(error.retryAfter))
        return response


def application(db, users=None, *, identify=None, mask=(), clock=time.time, concurrent=CONCURRENT):
    """Return the pages of all task services of a database, as a WSGI callable.

    It honours SCRIPT_NAME: an application can mount it anywhere.

    db -- the `ZODB.DB`.
    users -- the path of a users file, as "remotetask user add" makes it, a `config.users.Users`, or the
        `xmlrpc.access.Authenticator` of a front end in this process: who may do what.  Users say who they are by HTTP
        Basic authentication.
    identify -- instead, of an application with a log-in of its own: called with the WSGI environ, it returns a
        `xmlrpc.access.Principal`, or raises `xmlrpc.access.Unauthorized`.
    mask -- more names of fields whose values are hidden, patterns of `fnmatch`; those of passwords and tokens are.
    clock -- returns UTC seconds.
    concurrent -- how many requests may use the database at the same time, less than the server has threads: then
        /live is answered also when the database hangs.

    With neither users nor identify only requests from this machine are answered, and may do everything.

    Raise `errors.ConfigurationError` for a users file that cannot be read or has a mistake.
    """
    return Application(db, Guard(users, identify), mask, clock, concurrent)


def _made(view, context, arguments):
    """Return the response that a view makes for a `Context` and its arguments."""
    with _refusing(context.at):
        page = view(context, *arguments)
    return webob.Response(render(page, context), status=page.status) if isinstance(page, Page) else page


@contextlib.contextmanager
def _refusing(at):
    """Turn exceptions of a view or a verb about wrong values into `Refused`.

    at -- the time that the page is of, as the URL has it; None for the present.
    """
    try:
        yield
    except errors.RemoteTaskError:
        raise
    except ValueError as error:
        raise Refused(400, str(error)) from error
    except POSKeyError:
        if at is None:
            raise
        raise Refused(404, 'at: of that time there is nothing in the database any more, or nothing yet') from None


def _servicePath(query):
    return '/' + query.get('service', DEFAULT).strip('/')


def _timestamp(moment):
    """Return the id that a transaction at a time in UTC seconds would have."""
    year, month, day, hour, minute, *_ = time.gmtime(moment)
    return TimeStamp(year, month, day, hour, minute, moment % 60).raw()


def _form(request):
    """Return the fields of the form of a request: name -> list of texts.  Raise `Refused`."""
    if request.content_type != 'application/x-www-form-urlencoded':
        raise Refused(415, 'a form is needed, as a page of ours has it')
    if request.content_length is None or request.content_length > FORM_SIZE:
        raise Refused(413, f'a form has {FORM_SIZE} bytes at the most, and says how many')
    body = request.body_file.read(request.content_length)
    try:
        return urllib.parse.parse_qs(body.decode('utf-8'), keep_blank_values=True, errors='strict',
                                     max_num_fields=FORM_FIELDS)
    except ValueError:
        raise Refused(400, 'the form cannot be read, or has too many fields') from None


def _static(name):
    if name not in STATIC:
        raise Refused(404, 'there is no such file')
    content, version = static(name)
    response = webob.Response(body=content, content_type=STATIC[name], charset='utf-8', etag=version,
                              conditional_response=True)
    response.headers['Cache-Control'] = 'public, max-age=31536000, immutable'
    return response
