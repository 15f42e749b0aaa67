"""A task service whose tasks are stubs, for tests that are to run no real task."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.interfaces import ITask
from lovely.remotetask.service import TaskService


class ITaskStub(ITask):
    """A task that a `TaskServiceStub` has, and that stands for the task of the same name.

    Services that are no stubs find it as well, but prefer what is registered for `ITask`.
    """


class TaskServiceStub(TaskService):
    """A service whose tasks are utilities for `ITaskStub`, and which starts no threads; else see `ITaskService`.

    It needs no database.  Ids count from 1.  `startProcessing` and `stopProcessing` only change what `isProcessing`
    says, so that code which calls them can be tested, too; jobs run when the test calls `process` or `runDueJobs`.
    """

    taskInterface = ITaskStub

    _lastId = 0
    _processing = False

    def _newId(self):
        self._lastId += 1
        return self._lastId

    def startProcessing(self):
        """Make `isProcessing` return True."""
        self._processing = True

    def stopProcessing(self):
        """Make `isProcessing` return False."""
        self._processing = False

    def isProcessing(self):
        """Return True when `startProcessing` was called last."""
        return self._processing
