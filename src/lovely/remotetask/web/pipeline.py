"""A filter of PasteDeploy: pages before another application in one process, for which Zope is the example."""
# SPDX-License-Identifier: ZPL-2.1
import threading
from importlib import import_module

from lovely.remotetask.errors import ConfigurationError
from lovely.remotetask.web.application import application


def pages(app, settings, path, users=None, mask='', db='Zope2:DB'):
    """Return a WSGI callable: pages for what is below a path, another application for everything else.

    The arguments are those that PasteDeploy gives to a `paste.filter_app_factory`; all but the first two are texts.

    app -- the other application.
    settings -- those of the file as a whole; not used.
    path -- where the pages are, as /remotetask.
    users -- the path of the users file; None for requests from this machine only.
    mask -- more names of fields whose values are hidden, divided by spaces.
    db -- module and name of the `ZODB.DB`, as 'Zope2:DB'; it is asked for by the first request.

    Raise `errors.ConfigurationError` for a path or a db that is none.
    """
    if not path.startswith('/') or path.endswith('/'):
        raise ConfigurationError(f'path: {path[:100]!r} is none; it begins with a slash, and does not end with one')
    if not all(name.isidentifier() for part in db.split(':') for name in part.split('.')) or db.count(':') != 1:
        raise ConfigurationError(f'db: {db[:100]!r} is not MODULE:NAME')
    return Pipeline(app, path, users, mask.split(), db)


class Pipeline:
    """See `pages`."""

    def __init__(self, app, path, users, mask, db):
        self._app, self._path, self._users, self._mask, self._db = app, path, users, mask, db
        self._lock, self._pages = threading.Lock(), None        # the first guards the second

    def __call__(self, environ, start_response):
        """Answer a request, as WSGI has it."""
        path = environ.get('PATH_INFO', '')
        if path != self._path and not path.startswith(self._path + '/'):
            return self._app(environ, start_response)
        environ = {**environ, 'SCRIPT_NAME': environ.get('SCRIPT_NAME', '') + self._path,
                   'PATH_INFO': path[len(self._path):]}
        return self._made()(environ, start_response)

    def _made(self):
        with self._lock:
            if self._pages is None:
                module, _, name = self._db.partition(':')
                self._pages = application(getattr(import_module(module), name), self._users, mask=self._mask)
            return self._pages
