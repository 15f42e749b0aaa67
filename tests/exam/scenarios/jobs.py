"""Jobs that are cancelled, cancel themselves, fail, or end their host."""
# SPDX-License-Identifier: ZPL-2.1
import time

from exam.load import Order
from exam.load import call
from exam.orders import ending
from exam.orders import short
from exam.orders import tiring
from exam.trial import POLL_INTERVAL
from exam.trial import scenario
from lovely.remotetask.interfaces import ERROR


#: Seconds between two poisonous jobs, on average.
POISON = 30


@scenario(alive=True)
def cancel(trial):
    """Jobs are cancelled, whatever happens to them at that moment."""
    while trial.goesOn:
        trial.wait(0, 0.08)
        trial.cancelOne()
    trial.tell(f'{len(trial.cancelled)} jobs were cancelled')


@scenario(uncharged=True, work=short)
def poison(trial):
    """Jobs that end their host: each ends in an error, and no other job is charged for it."""
    def add(by):
        jobid = trial.load.add(Order('poison', {'by': by}, ERROR))
        trial.fault(f'job {jobid} is poison: {by}')

    add('exit')
    add('crash')
    while trial.goesOn:
        trial.deployment.mend()
        time.sleep(POLL_INTERVAL)
        if trial.rng.random() < POLL_INTERVAL / POISON:
            add(trial.rng.choice(['exit', 'crash']))


@scenario(work=ending)
def own(trial):
    """Tasks cancel their own jobs, with and without a commit of their own, while hosts are killed and stopped."""
    while trial.goesOn:
        trial.wait(0.5, 2)
        trial.rng.choice([lambda: trial.kill(trial.drawHost()), trial.stopOne])()
        trial.deployment.mend()


@scenario(rate=1.2, work=tiring, once=True, uncharged=True, alive=True)
def retries(trial):
    """Jobs fail and are tried again, conflict and are cancelled, beside jobs longer than the lease: all hosts live."""
    schedule = call(trial.deployment.url, 'addCronJob', 'tick', {'seconds': 0.1}, [], [], [], [], [], 1.5,
                    {'newJobs': True, 'overlap': True})
    while trial.goesOn:
        trial.wait(1, 4)
        trial.cancelOne()
    call(trial.deployment.url, 'cancel', schedule)
    trial.tell(f'{len(trial.cancelled)} jobs were cancelled')
