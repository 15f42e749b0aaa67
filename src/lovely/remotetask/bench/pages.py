"""How much processor time the pages take, and what is told to Prometheus: asked as a server asks them, without one."""
# SPDX-License-Identifier: ZPL-2.1
import statistics
import time
import urllib.parse

import webob

from lovely.remotetask.bench.settings import BenchError
from lovely.remotetask.web.application import application


#: How often each page is asked for when it is warm; the median counts.
WARM = 5

#: Title -> path; of a job and a task of the bench.
PAGES = {
    'overview': '/', 'jobs': '/jobs', 'jobs in error': '/jobs?filter=status:error',
    'jobs of a task': '/jobs?filter=task:{task}', 'jobs by a word': '/jobs?filter=nowhere', 'job': '/jobs/{jobid}',
    'schedules': '/schedules', 'tasks': '/tasks', 'task': '/tasks/{task}', 'hosts': '/hosts', 'changes': '/changes',
    'metrics': '/metrics',
}


def times(database, task):
    """Yield the title of each page, and the seconds of processor time that it takes cold and warm.

    Cold is with a new client of the database, which has nothing in memory, but not in a new process.

    database -- the `database.BenchDatabase`, with jobs that have ended.
    task -- the name of a task that there is.

    Raise `BenchError` when a page cannot be made.
    """
    jobid = database.change(_someId)
    paths = {title: path.format(task=task, jobid=jobid) for title, path in PAGES.items()}
    for path in paths.values():
        _get(application(database.db), database, path)          # each process compiles the templates once
    for title, path in paths.items():
        database.close()
        database.open()
        pages = application(database.db)
        cold = _get(pages, database, path)
        yield title, cold, statistics.median(_get(pages, database, path) for _ in range(WARM))


def _someId(service):
    for ledger in service.ledgers.values():
        for ended in ledger.finished.values():
            if ended:
                return ended[ended.maxKey()]
    raise BenchError('there is no job that has ended')


def _get(pages, database, path):
    """Return the seconds of processor time that a page takes."""
    service = urllib.parse.urlencode({'service': '/' + '/'.join(database.path)})
    request = webob.Request.blank(f'{path}{"&" if "?" in path else "?"}{service}',
                                  environ={'REMOTE_ADDR': '127.0.0.1'})
    began = time.process_time()
    response = request.get_response(pages)
    seconds = time.process_time() - began
    if response.status_int != 200:
        raise BenchError(f'the page {path} cannot be made: {response.status}', response.text[-2000:])
    return seconds
