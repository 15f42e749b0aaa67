"""The scenarios: what happens to a deployment under load."""
# SPDX-License-Identifier: ZPL-2.1
from exam.scenarios import clocks
from exam.scenarios import hosts
from exam.scenarios import jobs
from exam.scenarios import schedules
from exam.scenarios import servers
from exam.scenarios import soak
from exam.trial import SCENARIOS


__all__ = ['SCENARIOS', 'clocks', 'hosts', 'jobs', 'schedules', 'servers', 'soak']
