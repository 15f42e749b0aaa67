"""A remote processor, as m01.remote has it, over the task service: job classes are stored, and are the tasks.

See `documents/m01.txt`; the names that differ are in `documents/migrating.txt`.
"""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.m01.job import Job
from lovely.remotetask.m01.job import JobError
from lovely.remotetask.m01.job import JobFailed
from lovely.remotetask.m01.job import RemoteException
from lovely.remotetask.m01.processor import RemoteProcessor
from lovely.remotetask.m01.processor import addProcessor
from lovely.remotetask.m01.scheduler import Cron
from lovely.remotetask.m01.scheduler import Delay
from lovely.remotetask.m01.worker import MultiJobWorker
from lovely.remotetask.m01.worker import SchedulerWorker
from lovely.remotetask.m01.worker import SimpleJobWorker


__all__ = ['Cron', 'Delay', 'Job', 'JobError', 'JobFailed', 'MultiJobWorker', 'RemoteException', 'RemoteProcessor',
           'SchedulerWorker', 'SimpleJobWorker', 'addProcessor']
