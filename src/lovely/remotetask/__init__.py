"""Durable remote tasks on the ZODB: jobs that commit with your data, no broker to run."""
# SPDX-License-Identifier: ZPL-2.1

__all__ = ['TaskService']


def __getattr__(name):
    """Import the service when it is asked for: a child process that runs a task needs no database."""
    if name == 'TaskService':
        from lovely.remotetask.service import TaskService
        return TaskService
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
