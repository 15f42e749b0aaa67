"""Templates: what they are given besides a page's own values, and the files that belong to all pages."""
# SPDX-License-Identifier: ZPL-2.1
import functools
import hashlib
import pathlib
from typing import Any
from typing import NamedTuple

from chameleon import PageTemplateLoader

from lovely.remotetask.interfaces import STATUSES
from lovely.remotetask.web import formats
from lovely.remotetask.web import scheduleforms
from lovely.remotetask.web import words


HERE = pathlib.Path(__file__).parent

#: The files that pages refer to, and their types.
STATIC = {'icon.svg': 'image/svg+xml', 'pages.css': 'text/css', 'pages.js': 'text/javascript'}

#: What a page says after a change: the word in its URL -> a sentence, with the number of jobs in it.
SAID = {
    'cancel': 'The job was cancelled.',
    'retry': 'The job runs again.',
    'start': 'The job was started.',
    'remove': 'The job was removed.',
    'cancelMany': 'Jobs cancelled: {count}.',
    'retryMany': 'Jobs that run again: {count}.',
    'removeMany': 'Jobs removed: {count}.',
    'none': 'No jobs were selected.',
    'add': 'The job was added.',
    'run': 'It runs now.',
    'stack': 'The host was asked.',
    'pause': 'Processing is paused: running jobs end, and no more are taken.',
    'resume': 'Processing goes on.',
    'activate': 'The schedule is active.',
    'deactivate': 'The schedule is paused.',
    'schedule': 'The schedule was changed.',
    'addSchedule': 'The schedule was added.',
    'bulk': 'A job was added that does it, a part at a time; this is how far it is.',
}


class Page(NamedTuple):
    """What a view returns: a page to be made from a template."""

    template: str               # its name, without .pt
    title: str
    values: dict[str, Any]
    status: int = 200           # of HTTP


_load = PageTemplateLoader(str(HERE / 'templates'), '.pt', auto_reload=False)


@functools.cache
def static(name):
    """Return the bytes of a file of `STATIC`, and a text that changes with them."""
    content = (HERE / 'static' / name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:16]


def render(page, context):
    """Return the HTML of a `Page`, bytes.

    context -- the `context.Context` that it is for.
    """
    said = SAID.get(context.parameter('said')) if context.at is None else None
    count = context.parameter('count')
    count = count if count.isascii() and count.isdigit() and len(count) < 10 else '0'
    return _encoded(_load[page.template](
        macros=_load['macros'].macros, page=page, context=context, url=context.url, here=context.here,
        may=context.may, formats=formats, words=words, scheduleforms=scheduleforms, statuses=STATUSES,
        said=said and said.format(count=count), token=context.application.guard.tokenOf(context.caller),
        files={name: context.file(name, static(name)[1]) for name in STATIC},
        **page.values))


def _encoded(text):
    # A text of a job may hold halves of surrogate pairs, which UTF-8 cannot encode.
    return text.encode('utf-8', 'backslashreplace')


def renderRefusal(title, message, home, services):
    """Return the HTML, bytes, of a page that says why a request was refused; the caller may be unknown.

    home -- the URL of the first page.
    services -- to look at instead: path -> URL.
    """
    return _encoded(_load['refusal'](title=title, message=message, home=home, services=services))
