"""Durable remote tasks on the ZODB: jobs that commit with your data, no broker to run."""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.service import TaskService

__all__ = ['TaskService']
