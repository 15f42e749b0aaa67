"""Secrets in the input of a job, hidden from users with the role `view`, wherever they appear.

A user who may submit jobs sees them, as he could make a task tell them anyway.
"""
# SPDX-License-Identifier: ZPL-2.1
from lovely.remotetask.common.masking import hidesOf
from lovely.remotetask.common.masking import masked
from lovely.remotetask.common.masking import secretsOf
from lovely.remotetask.execution.tasks import queryTask
from lovely.remotetask.storage.search import inputOf


#: Methods that answer with what a job says, and those that answer with what several jobs say.
OF_ONE, OF_MANY = ('getJob', 'getResult', 'getError', 'getProgress'), ('getSchedules',)

#: Of a job's struct, what does not come from its input, its task or whoever added it.
PLAIN = ('id', 'task', 'status', 'host', 'request', 'timeZone', 'crontab')


def withoutSecrets(service, name, arguments, answer):
    """Return the answer of a method without the secrets of the jobs that it is about.

    name -- of the method.
    arguments -- of the call.
    answer -- what its function has returned, not yet converted.
    """
    if name in OF_ONE:
        return _hidden(service, service.jobs[arguments[0]], answer)
    if name in OF_MANY:
        return {**answer, 'schedules': [_hidden(service, service.jobs[each['id']], each)
                                        for each in answer['schedules']]}
    return answer


def _hidden(service, job, answer):
    hides = hidesOf(queryTask(service, job.task))
    secrets = secretsOf((inputOf(job), answer), hides)
    if isinstance(answer, dict):
        plain = {name: answer[name] for name in PLAIN if name in answer}
        return {**masked(answer, hides, secrets), **plain}
    return masked(answer, hides, secrets)
