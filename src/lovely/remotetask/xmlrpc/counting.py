"""What the front end counts of its calls."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.common.counts import OTHER
from lovely.remotetask.common.counts import counts
from lovely.remotetask.xmlrpc.calls import METHODS


def noteCall(summary, seconds):
    """Count a call that was answered.

    summary -- what `Dispatcher.respond` says of it: the name of the method, with a colon and a code if it had a fault.
    seconds -- how long it took.
    """
    name, _, code = summary.rpartition(':') if ':' in summary else (summary, '', 'ok')
    name = name if name in METHODS else OTHER
    counts.add('xmlrpc_requests', name, code)
    counts.observe('xmlrpc_request_seconds', name, seconds=seconds)


def noteAdded(path, name, arguments):
    """Count the jobs that a call has added.

    path -- of the service.
    name, arguments -- of the method; another one than `add` and `addMany` adds none.
    """
    if name == 'add':
        counts.add('xmlrpc_jobs_added', path, arguments[0])
    elif name == 'addMany':
        tasks = [job['task'] for job in arguments[0]]
        for task in set(tasks):
            counts.add('xmlrpc_jobs_added', path, task, number=tasks.count(task))
