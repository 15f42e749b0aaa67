"""What an exception says, as text for people."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.errors import Retry
from lovely.remotetask.errors import TaskError


def messageOf(error):
    """Return what an exception says, as text; its class comes before that unless it is a `TaskError` or `Retry`."""
    try:
        text = str(error)
    except Exception:                           # of somebody's own class
        text = ''
    if isinstance(error, (TaskError, Retry)):
        return text
    return f'{type(error).__name__}: {text}' if text else type(error).__name__
