"""A long time in which nothing happens but work."""
# SPDX-License-Identifier: ZPL-2.1
from exam.growth import LONG
from exam.growth import Growth
from exam.load import call
from exam.orders import steady
from exam.trial import scenario


#: Looks at the processes in a trial, but not more often than each second.
LOOKS = 600

#: Jobs that have ended are soon removed, and the database is packed: then nothing has a reason to grow.  The lease is
#: longer than that of other scenarios, which lose hosts: on a busy machine, that one is over while PostgreSQL packs.
KEYS = """\
lease 30s
keep-completed 30s
keep-error 30s
keep-cancelled 30s
pack-interval 1m
pack-keep 30s
"""


@scenario(hosts=2, rate=20, work=steady, processor=KEYS, kept=False, alive=True)
def soak(trial):
    """Nothing happens but work: in ten minutes and more neither processes nor the database grow."""
    schedule = call(trial.deployment.url, 'addCronJob', 'plain', {'seconds': 0.01}, [], [], [], [], [], 2,
                    {'newJobs': True})
    growth = Growth()
    while trial.goesOn:
        growth.look(trial.deployment)
        pause = max(1, trial.seconds / LOOKS)
        trial.wait(pause, pause)
    call(trial.deployment.url, 'cancel', schedule)
    trial.figures += growth.figures
    if trial.seconds >= LONG:
        trial.violations += growth.violations
