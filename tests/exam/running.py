"""A scenario from its start to its verdict."""
# SPDX-License-Identifier: ZPL-2.1
import traceback

from exam.deployment import deployment
from exam.judge import judge
from exam.load import Load
from exam.scenarios import SCENARIOS
from exam.storages import STORAGES
from exam.trial import Trial


def run(name, seed, seconds, storage='zeo', beside=None):
    """Run a scenario and return the `Verdict`.

    seed -- a text; the same seed draws the same faults.
    seconds -- for how long there are load and faults.
    storage -- which of `STORAGES` the deployment has, unless the scenario needs another one.
    beside -- the path of another checkout with its own `bin`, for the scenario `upgrade`.
    """
    scenario = SCENARIOS[name]
    storage = scenario.storage or storage
    orders = int(scenario.rate * seconds * 1.1) + 100
    with deployment(scenario.hosts, orders, STORAGES[storage], scenario.processor) as made:
        clients = Load(made, scenario.work, seed, orders, scenario.rate)
        trial = Trial(scenario, made, clients, seed, seconds, beside)
        clients.start()
        try:
            scenario.run(trial)
            made.restore()
        except Exception:
            trial.violations.append(f'the scenario failed: {traceback.format_exc()}')
        finally:
            clients.stop()
        made.restore()
        return judge(trial)
