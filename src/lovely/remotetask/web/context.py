"""What a page is made from: the request, the caller, the service, the time, and the URLs of other pages."""
# SPDX-License-Identifier: ZPL-2.1
import contextlib
import urllib.parse
from typing import Any
from typing import NamedTuple

from lovely.remotetask import filters
from lovely.remotetask.common.masking import hidesOf
from lovely.remotetask.common.masking import masked
from lovely.remotetask.common.masking import secretsOf
from lovely.remotetask.config.autostart import EVERYWHERE
from lovely.remotetask.config.autostart import matching
from lovely.remotetask.config.autostart import unusable
from lovely.remotetask.config.autostart import urlPath
from lovely.remotetask.database.sites import ROOT_NAME
from lovely.remotetask.database.sites import findService
from lovely.remotetask.errors import UnknownJob
from lovely.remotetask.errors import UnknownService
from lovely.remotetask.execution.tasks import queryTask
from lovely.remotetask.storage import generations
from lovely.remotetask.storage.search import hidesIn
from lovely.remotetask.storage.search import inputOf
from lovely.remotetask.xmlrpc.calls import METHODS
from lovely.remotetask.xmlrpc.signature import Argument


#: The path of the default service.
DEFAULT = '/'

#: Parameters of URLs that links and forms of a page repeat; all but those that say what a button has done.
KEPT = frozenset(('service', 'at', 'filter', 'size', 'sort', 'after', 'within', 'verb'))

_JOBID = Argument('jobid', (int,))


def mountPoint(request):
    """Return where the pages are, a text to put before paths: some servers end SCRIPT_NAME by a slash.

    Two slashes at its beginning would lead to another host.
    """
    name = request.script_name.strip('/')
    return f'/{name}' if name else ''


class Context(NamedTuple):
    """What a page is made from."""

    request: Any                # `webob.Request`
    form: dict                  # of a POST: name -> list of texts
    caller: Any                 # `xmlrpc.access.Principal`
    connection: Any             # of the database; of a page as of an earlier time as it was then
    path: str                   # of the service
    now: float                  # UTC seconds: the present, or the time that the page is of
    at: str | None              # that time as the URL has it; None for the present
    application: Any            # `application.Application`

    @property
    def service(self):
        """The `ITaskService`; raise `errors.UnknownService`."""
        root = self.connection.root().get(ROOT_NAME)
        if root is None:
            raise UnknownService(self.path)
        return findService(root, self.path)

    @property
    def keepsHistory(self):
        """Whether the database keeps what was replaced or removed, and who did that."""
        return self.connection.db().supportsUndo()

    # Who may do what

    def allow(self, methodName, *arguments):
        """Raise `xmlrpc.faults.NotAllowed`, and log it, if the caller may not call this method of XML-RPC.

        arguments -- of the method.
        """
        method = METHODS[methodName]
        values = [*arguments, *(argument.default for argument in method.arguments[len(arguments):])]
        self.caller.check(methodName, method, self.path, values)

    def allowRole(self, methodName):
        """Raise the same if the caller's role does not allow this method, or he may not use the service.

        Which tasks he may know of is checked where they are known: see `wants` and `job`.
        """
        method = METHODS[methodName]
        self.caller.check(methodName, method._replace(arguments=(_JOBID,)), self.path, [0])

    def may(self, methodName):
        """Return whether the caller's role allows this method of XML-RPC, and the page is of the present."""
        return self.at is None and METHODS[methodName].role in self.caller.roles

    def wants(self, task):
        """Return whether the caller may know of jobs of a task."""
        return self.caller.tasks is None or any(filters.fits(task, pattern) for pattern in self.caller.tasks)

    @property
    def isLimited(self):
        """Whether the caller may know of the jobs of some tasks only."""
        return self.caller.tasks is not None

    def job(self, text):
        """Return the `IJob` whose id is a text; raise `errors.UnknownJob`, also for one of a task of others."""
        jobid = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else text
        job = self.service.jobs[jobid]
        if not self.wants(job.task):
            raise UnknownJob(jobid)
        return job

    def services(self):
        """Return the paths of the services that this process can work with and the caller may see, sorted."""
        root, found = self.connection.root().get(ROOT_NAME), {}
        with contextlib.suppress(UnknownService):
            found[findService(root, DEFAULT)._p_oid] = DEFAULT
        for site, name, service in matching(self.connection, EVERYWHERE, lambda *arguments: None):
            path = urlPath(site, name)
            found[service._p_oid] = min(path, found.get(service._p_oid, path), key=len)
            if generations.fault(service) is not None:
                del found[service._p_oid]
        return sorted(filter(self._sees, found.values()))

    def unusable(self):
        """Return why this process cannot work with other services that the caller may see: path -> a sentence."""
        return {path: reason for path, reason in sorted(unusable(self.connection).items()) if self._sees(path)}

    def _sees(self, path):
        """Return whether the caller may see a service."""
        patterns = self.caller.services
        return patterns is None or any(filters.fits(path, pattern) for pattern in patterns)

    # What is shown

    def hides(self, task):
        """Return a function that says of the name of a field whether its value is hidden, for jobs of a task."""
        return hidesOf(task, self.application.mask)

    def shownValue(self, job, value):
        """Return an input or output of a job, without its secrets."""
        return masked(value, self._hides(job), secretsOf((inputOf(job), value), self._hides(job)))

    def shownText(self, job, text):
        """Return a text of a job, such as its error, without the secrets of its input; '' for none."""
        return self.secretsOf(job).hide(text) if text else ''

    def secretsOf(self, job):
        """Return the `masking.Secrets` of a job's input."""
        return secretsOf(inputOf(job), self._hides(job))

    def _hides(self, job):
        return self.hides(queryTask(self.service, job.task))

    def hidesAny(self):
        """Return a function that says whether the field of a name is hidden in jobs of any task."""
        return hidesIn(self.service, self.application.mask)

    # Other pages

    def parameter(self, name, default=''):
        """Return a parameter of the URL, a text."""
        return self.request.GET.get(name, default)

    def field(self, name, default=''):
        """Return a field of the form that was sent, a text."""
        return self.form.get(name, [default])[0]

    def url(self, path, /, **query):
        """Return the URL of another page: of the same service, and of the same time, with these parameters.

        path -- below the application, beginning with a slash.
        query -- None leaves a parameter out.
        """
        pairs = {**({} if self.path == DEFAULT else {'service': self.path}),
                 **({} if self.at is None else {'at': self.at}), **query}
        pairs = {name: value for name, value in pairs.items() if value not in (None, '')}
        return self._quoted(path) + ('?' + urllib.parse.urlencode(pairs) if pairs else '')

    def file(self, name, version):
        """Return the URL of a file that belongs to all pages; `version` is a text that changes with it."""
        return f'{self._quoted("/static/" + name)}?{version}'

    def _quoted(self, path):
        # Two slashes at its beginning would lead to another host.
        return urllib.parse.quote(f'{mountPoint(self.request)}/{path.lstrip("/")}', safe="/!$&'()*+,;=:@")

    def here(self, /, **query):
        """Return the URL of this page, with some parameters changed; None leaves one out."""
        return self.url(self.request.path_info, **{**self.kept, **query})

    @property
    def kept(self):
        """The parameters of the URL that this page's own links and forms repeat: name -> text."""
        return {name: value for name, value in self.request.GET.items() if name in KEPT}

    @property
    def place(self):
        """Path and parameters of this page below the application: where a button leads back to."""
        query = '?' + urllib.parse.urlencode(self.kept) if self.kept else ''
        return urllib.parse.quote(self.request.path_info) + query
