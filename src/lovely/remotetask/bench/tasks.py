"""The tasks that are run to be measured."""
# SPDX-License-Identifier: ZPL-2.1
import time

from zope.interface import Interface
from zope.interface import implementer

from lovely.remotetask.interfaces import ITask


#: The attribute of the bench's folder with what the writing tasks write: number -> PersistentMapping; 0 is for all.
BOARD = 'board'


def noop(input):
    """Return the input."""
    return input


def sleep(input):
    """Take `input['seconds']`."""
    time.sleep(input['seconds'])
    return input


@implementer(ITask)
class Write:
    """Writes an object on the board, the one with the number `input['number']`."""

    inputSchema = outputSchema = Interface

    def __call__(self, service, jobid, input):
        """Count up, and return the new count."""
        note = getattr(service.__parent__, BOARD)[input['number']]
        note['count'] = note.get('count', 0) + 1
        return note['count']


write = Write()


@implementer(ITask)
class Elsewhere:
    """A task that no host of the measurement can run."""

    inputSchema = outputSchema = Interface

    def missing(self):
        """Return what every host lacks."""
        return 'another host'

    def __call__(self, service, jobid, input):
        raise NotImplementedError


elsewhere = Elsewhere()
