"""Evaluation asks the agents in the dataset's order, in every process."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from rllib_om2p.core.agent_order import InAgentOrder
from tests.small_data import write_spread

ROOT = Path(__file__).parents[2]

# An evaluation as Algorithm.evaluate() makes it with a local env runner; weights of one seed.
PROGRAM = """
import sys
import torch
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from rllib_om2p import OM2PConfig
config = OM2PConfig().offline_data(input_=sys.argv[1]).debugging(seed=3, log_level="ERROR")
config.training(actor_hidden=(8,), critic_hidden=(8,)).evaluation(evaluation_interval=1)
config.validate()
runner = MultiAgentEnvRunner(config=config.get_evaluation_config_object())
for index in range(3):
    torch.manual_seed(index)
    for parameter in runner.module[f"agent_{index}"].parameters():
        torch.nn.init.normal_(parameter)
torch.manual_seed(0)
episodes = runner.sample(num_episodes=2)
print([episode.get_return() for episode in episodes])
"""


def test_batches_come_in_the_order_of_the_agents():
    names = [f"agent_{k}" for k in range(10)]
    shuffled = random.Random(0).sample(names, 10)
    ordered = InAgentOrder(names)(batch={name: name for name in shuffled})
    assert list(ordered) == names


@pytest.mark.timeout(240)
def test_a_seed_gives_the_same_evaluation_in_every_process(tmp_path):
    data = str(write_spread(tmp_path / "set", num_episodes=4))
    returns = []
    # These two order the set of three agents differently.
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, data],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        returns.append(done.stdout.splitlines()[-1])
    assert returns[0] == returns[1]
