"""A method of the comparison with what the search chose for it: where a run of your own may start.

    from tuned_configs.chosen import chosen_config

    config = chosen_config("OM2P-weighted-VDN", "mpe/simple_spread", "medium-expert")
    algo = config.offline_data(input_="data/simple_spread-medium-expert").build_algo()

The names are those of the tables in RESULTS.md, the networks and updates those of its small suite.
"""

from __future__ import annotations

from dataclasses import replace

from rllib_om2p.algorithms import ALGORITHMS
from rllib_om2p.benchmark.cells import settings_of
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.settings import apply_settings
from tuned_configs.suites.comparisons import NUM_UPDATES, WIDTH, cpu
from tuned_configs.suites.footing import cpu_settings


def chosen_config(
    name: str, env: str, quality: str, *, width: int = WIDTH, num_updates: int = NUM_UPDATES
) -> OfflineConfig:
    """Return the config that the suite "cpu" gives a method; it lacks data and a seed only.

    Args:
        name: Of the method.
        env: Of the suite's tasks.
        quality: Of the data; one that was not searched gets the method's first candidate.
        width: Of the networks' two hidden layers.
        num_updates: After which the learning rate has fallen to a hundredth.

    Raises:
        ValueError: The suite has no such method or task; the text lists them.
    """
    suite = replace(cpu(), settings=cpu_settings(width, num_updates))
    methods = {method.name: method for method in suite.methods}
    tasks = {task.env: task for task in suite.tasks}
    for what, wanted, there in (("method", name, methods), ("task", env, tasks)):
        if wanted not in there:
            raise ValueError(f"there is no {what} {wanted!r}; there are {', '.join(there)}.")
    method = methods[name]
    config = ALGORITHMS[method.algorithm][1]()
    apply_settings(config, settings_of(suite, tasks[env], method, quality, config))
    return config
