"""Helpers for tests of applications: a service with stubbed tasks, a clock, functions that run jobs, database servers.
"""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.testing.jobs import Clock
from lovely.remotetask.testing.jobs import JobFailed
from lovely.remotetask.testing.jobs import TooManyJobs
from lovely.remotetask.testing.jobs import runDueJobs
from lovely.remotetask.testing.jobs import waitForJobs
from lovely.remotetask.testing.postgresql import TemporaryPostgreSQL
from lovely.remotetask.testing.postgresql import temporaryPostgreSQL
from lovely.remotetask.testing.process import PATIENCE
from lovely.remotetask.testing.process import Process
from lovely.remotetask.testing.stub import ITaskStub
from lovely.remotetask.testing.stub import TaskServiceStub
from lovely.remotetask.testing.zeo import TemporaryZEO
from lovely.remotetask.testing.zeo import temporaryZEO


__all__ = [
    'PATIENCE',
    'Clock',
    'ITaskStub',
    'JobFailed',
    'Process',
    'TaskServiceStub',
    'TemporaryPostgreSQL',
    'TemporaryZEO',
    'TooManyJobs',
    'runDueJobs',
    'temporaryPostgreSQL',
    'temporaryZEO',
    'waitForJobs',
]
