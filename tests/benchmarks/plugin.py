"""What training through the plugin costs beside the raw torch loop, and how fast tables sample.

The plugin's side is the learner that RLlib calls: table, draws, losses, optimisers, Polyak, finite
check and metrics. The raw loop computes on one fixed batch that is already there.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rllib_om2p import OM2PConfig
from rllib_om2p.core.learner import OfflineLearner
from rllib_om2p.core.table import Block, TransitionTable
from tests.benchmarks.measure import ratio, time_interleaved
from tests.benchmarks.problem import Sizes, draw, make_batch
from tests.benchmarks.stacked import StackedUpdate
from tests.small_data import write_random

UPDATES_PER_CALL = 10


def plugin(sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Time Learner.update against the raw loop, at the paper's size and at a CPU's."""
    small = dataclasses.replace(sizes, hidden=(128, 128))
    rows, ratios = [], {}
    for name, case in (("4x512", sizes), ("2x128", small)):
        with tempfile.TemporaryDirectory() as folder:
            learner = make_learner(case, Path(folder) / "set")
        timings = time_interleaved(
            {
                f"raw torch loop, {name}": _raw_loop(case),
                f"plugin, {name}": lambda learner=learner: learner.update(
                    num_updates=UPDATES_PER_CALL
                ),
            },
            rounds=rounds,
        )
        for variant, timing in timings.items():
            per_update = {k: v / UPDATES_PER_CALL for k, v in timing.summary.items()}
            rows.append({"variant": variant, **per_update})
        ratios[f"speed of plugin / raw loop, {name}"] = {
            "value": ratio(timings, f"raw torch loop, {name}", f"plugin, {name}"),
            "target": 0.9,
            "at_least": True,
        }
    return {"rows": rows, "ratios": ratios}


def table(sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Time uniform draws from a table of a million transitions."""
    num_rows, width = 1_040_000, sizes.num_agents * (sizes.obs_dim + sizes.action_dim + 2) + 2
    obs_width = sizes.num_agents * sizes.obs_dim
    valid = np.arange(num_rows) % 26 < 25

    def read_epoch(epoch: int, first: int) -> Iterator[Block]:
        yield Block(np.random.default_rng(0).random((num_rows, width), np.float32), valid)

    transitions = TransitionTable(
        read_epoch,
        num_blocks=1,
        max_block_rows=num_rows,
        num_rows=num_rows,
        width=width,
        observed_width=obs_width,
    )
    generator = torch.Generator().manual_seed(0)
    rows, best = [], 0.0
    for batch_size in (256, 1024):
        speeds = []
        for _ in range(rounds):
            start = time.process_time()
            for _ in range(200):
                transitions.sample(batch_size, generator)
            speeds.append(200 * batch_size / (time.process_time() - start))
        speed = float(np.median(speeds))
        best = max(best, speed)
        rows.append({"variant": f"batch {batch_size}", "million transitions/s": speed / 1e6})
    return {
        "rows": rows,
        "ratios": {
            "million transitions sampled per CPU second": {
                "value": {"cpu": best / 1e6},
                "target": 2.0,
                "at_least": True,
            }
        },
    }


def _raw_loop(sizes: Sizes) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    batch, update = make_batch(sizes, generator), StackedUpdate(sizes)

    def call() -> None:
        for _ in range(UPDATES_PER_CALL):
            update(batch, draw(sizes, generator))

    return call


def make_learner(
    sizes: Sizes, folder: Path, *, num_gpus: int = 0, **settings: object
) -> OfflineLearner:
    """Return the plugin's learner of the benchmark problem, with a dataset of random episodes."""
    agents = [(f"agent_{i}", sizes.obs_dim, sizes.action_dim) for i in range(sizes.num_agents)]
    path = write_random(folder, agents, num_episodes=400, num_steps=25, rows_per_group=2600)
    config = (
        OM2PConfig()
        .offline_data(input_=str(path))
        .training(
            actor_hidden=sizes.hidden,
            critic_hidden=sizes.hidden,
            num_critics=sizes.num_critics,
            train_batch_size=sizes.batch_size,
            derivative="tangent",
            **settings,
        )
        .learners(num_learners=0, num_gpus_per_learner=num_gpus)
        .debugging(seed=0)
    )
    config.validate()
    learner = config.build_learner()
    assert isinstance(learner, OfflineLearner)
    return learner
