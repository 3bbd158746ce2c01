"""Agents that share their noise get it in training, in env runners and from JointPolicy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

from rllib_om2p import OM2PConfig
from rllib_om2p.core.acting import JointPolicy
from rllib_om2p.core.agent_groups import GroupBatch, JointBatch
from rllib_om2p.core.rl_module import AgentModule
from rllib_om2p.core.shared_noise import shared_normal
from tests.small_data import UNEQUAL, write_random

NAMES = [name for name, _, _ in UNEQUAL]
SIZES = {name: size for name, _, size in UNEQUAL}
TEAMS = (("walker", "arm_2"), ("arm_10",))
LOW, HIGH = -2.0, 1.0


class NoiseModule(AgentModule):
    """Acts by its noise, so that actions show it."""

    def build_networks(self) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def act(self, obs, noise, action_mask=None):
        return 0.01 * noise[None]


class NoiseConfig(OM2PConfig):
    """Makes NoiseModules that share their noise by team."""

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=NoiseModule, model_config={"shared_noise": TEAMS})


class Uneven(MultiAgentEnv):
    """Three agents of two shapes; arm_2 leaves after the second of four steps."""

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.possible_agents = self.agents = list(NAMES)
        inf = np.inf
        self.observation_spaces = {
            name: gym.spaces.Box(-inf, inf, (size,), np.float32) for name, size, _ in UNEQUAL
        }
        self.action_spaces = {
            name: gym.spaces.Box(LOW, HIGH, (size,), np.float32) for name, _, size in UNEQUAL
        }

    def observe(self) -> dict[str, np.ndarray]:
        return {
            name: np.zeros(space.shape, np.float32)
            for name, space in self.observation_spaces.items()
            if self.step_count <= 2 or name != "arm_2"
        }

    def reset(self, *, seed=None, options=None):
        self.step_count = 0
        return self.observe(), {}

    def step(self, actions):
        self.step_count += 1
        done = {"arm_2": self.step_count == 2, "__all__": self.step_count == 4}
        if self.step_count > 2:
            done.pop("arm_2")
        return self.observe(), dict.fromkeys(actions, 0.0), done, {"__all__": False}, {}


def make_modules() -> dict[str, NoiseModule]:
    env = Uneven()
    return {
        name: NoiseModule(
            observation_space=env.observation_spaces[name],
            action_space=env.action_spaces[name],
            model_config={"shared_noise": TEAMS},
        )
        for name in NAMES
    }


def noise_of(actions: Any) -> Any:
    """Return the noise that a NoiseModule's actions show."""
    return ((np.asarray(actions) - LOW) / (HIGH - LOW) * 2 - 1) / 0.01


def test_training_noise_is_a_teams_own_and_cut_to_each_agents_actions():
    def group(size: int, action_dim: int) -> GroupBatch:
        rest = torch.zeros(size, 5, 1)
        return GroupBatch(rest, torch.zeros(size, 5, action_dim), rest, rest[..., 0], rest[..., 0])

    batch = JointBatch((group(2, 3), group(2, 1)), torch.zeros(2, 5))
    wide, narrow = shared_normal(batch, [(0, 3), (1, 2)], torch.Generator().manual_seed(0))
    assert wide.shape == (2, 5, 3)
    assert torch.equal(narrow, torch.stack([wide[1, :, :1], wide[0, :, :1]]))
    assert not torch.equal(wide[0], wide[1])
    assert wide.flatten().unique().numel() == 30


def test_joint_policy_gives_a_team_one_noise_per_row_and_call():
    policy = JointPolicy(make_modules(), seed=0)
    obs = {name: np.zeros((50, size), np.float32) for name, size, _ in UNEQUAL}
    first, second = ({k: noise_of(a) for k, a in policy(obs).items()} for _ in range(2))
    np.testing.assert_allclose(first["walker"][:, :1], first["arm_2"], atol=1e-3)
    assert abs(first["arm_10"] - first["arm_2"]).max() > 0.1
    assert abs(first["walker"] - second["walker"]).max() > 0.1
    assert len(np.unique(first["walker"])) > 90


def test_a_module_alone_refuses_to_draw_noise_that_is_shared():
    module = make_modules()["walker"]
    with pytest.raises(ValueError, match="'walker', 'arm_2'.*'noise'"):
        module.forward_inference({"obs": torch.zeros(1, 4)})


@pytest.mark.parametrize("num_envs", [1, 3])
def test_env_runner_gives_a_team_one_noise_per_environment_and_step(tmp_path, num_envs):
    data = str(write_random(tmp_path / "set"))
    config = NoiseConfig().offline_data(input_=data).environment(Uneven).debugging(seed=0)
    config.env_runners(num_envs_per_env_runner=num_envs)
    config.validate()
    runner = MultiAgentEnvRunner(config=config)
    episodes = runner.sample(num_episodes=4)
    runner.stop()
    seen = set()
    for episode in episodes:
        actions = {n: noise_of(episode.agent_episodes[n].get_actions()) for n in NAMES}
        assert [len(actions[n]) for n in NAMES] == [4, 4, 2]
        np.testing.assert_allclose(actions["walker"][:2, :1], actions["arm_2"], atol=1e-3)
        assert abs(actions["arm_10"] - actions["walker"][:, :1]).min() > 1e-3
        seen |= {round(float(value), 4) for value in actions["walker"].ravel()}
    assert len(seen) == 4 * 4 * 2  # episodes, steps, features: no number occurs twice
