"""Speed of writing and reading one million joint steps; run alone on an idle machine."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import AgentSpec, DatasetSpec
from rllib_om2p.data.writer import DatasetWriter

pytestmark = pytest.mark.benchmark

NUM_STEPS = 1_000_000


def test_a_million_steps_are_written_and_read_in_seconds(tmp_path):
    names = [f"agent_{i}" for i in range(3)]
    spec = DatasetSpec("test/speed", tuple(AgentSpec.box(name, 18, 2) for name in names))
    rng = np.random.default_rng(0)
    episodes, steps = 4000, 25
    obs = {n: rng.normal(size=(episodes, steps + 1, 18)).astype(np.float32) for n in names}
    actions = {n: rng.uniform(-1, 1, (episodes, steps, 2)).astype(np.float32) for n in names}
    rewards = {n: rng.normal(size=(episodes, steps)).astype(np.float32) for n in names}
    ends = {n: np.zeros((episodes, steps), bool) for n in names}
    start = time.perf_counter()
    with DatasetWriter(tmp_path, spec) as writer:
        for _ in range(NUM_STEPS // (episodes * steps)):
            writer.write_batch(obs, actions, rewards, ends, truncated=np.ones(episodes, bool))
    write_seconds = time.perf_counter() - start
    dataset = OfflineDataset.open(str(tmp_path))
    columns = [f"{k}_{n}" for n in names for k in ("obs", "action", "reward", "terminated")]
    start = time.perf_counter()
    read = sum(int(block.valid.sum()) for block in dataset.blocks(columns, use_ray=False))
    read_seconds = time.perf_counter() - start
    print(f"\nwrite {NUM_STEPS / write_seconds:.0f}/s, read {NUM_STEPS / read_seconds:.0f}/s")
    assert read == NUM_STEPS
    assert write_seconds < 60
    assert read_seconds < 10
