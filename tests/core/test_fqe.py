"""Fitted Q evaluation against returns that are known in closed form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from rllib_om2p.core.fqe import FQESettings, fqe_return, policy_actions
from rllib_om2p.core.held_out import HeldOut
from rllib_om2p.core.rl_module import AgentModule
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import AgentSpec, DatasetSpec, Episode
from rllib_om2p.data.writer import DatasetWriter
from tests.small_data import write_discrete

QUICK = FQESettings(hidden=(64, 64), num_updates=600, num_action_samples=1)
STEPS = 5
# The box [0, 2]; 1 is its middle.
BOX = {"low": 0.0, "high": 2.0}


class Constant(AgentModule):
    """Always the same action, given in [-1, 1]."""

    def build_networks(self) -> None:
        self.action = torch.nn.Parameter(torch.tensor([[[self.model_config["action"]]]]))

    def act(self, obs, noise, action_mask=None):
        return self.action.expand(1, obs.shape[1], 1)


def constant(action: float) -> Constant:
    """Return a policy that does `action`, in [0, 2]."""
    return Constant(
        observation_space=gym.spaces.Box(-np.inf, np.inf, (1,)),
        action_space=gym.spaces.Box(0.0, 2.0, (1,)),
        model_config={"action": action - 1.0},
    )


def write_drift(directory: Path, *, num_episodes: int = 600) -> HeldOut:
    """Write uniform actions where "left" moves the state s' = s + a and the team earns s + b."""
    rng = np.random.default_rng(0)
    agents = (AgentSpec.box("left", 1, 1, **BOX), AgentSpec.box("right", 1, 1, **BOX))
    spec = DatasetSpec("drift", agents, team_return="sum", time_limit=STEPS)
    a, b = rng.uniform(0, 2, (2, num_episodes, STEPS))
    start = rng.normal(size=(num_episodes, 1))
    states = np.concatenate([start, start + a.cumsum(1)], 1)
    with DatasetWriter(directory, spec) as writer:
        writer.write_batch(
            obs={name: states[..., None].astype("f4") for name in ("left", "right")},
            actions={"left": a[..., None].astype("f4"), "right": b[..., None].astype("f4")},
            rewards={"left": states[:, :-1].astype("f4"), "right": b.astype("f4")},
            terminateds={name: np.zeros(a.shape, bool) for name in ("left", "right")},
            truncated=np.ones(num_episodes, bool),
        )
    return HeldOut.of(OfflineDataset.open(str(directory)))


@pytest.fixture(scope="module")
def drift(tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    return write_drift(Path(tmp_path_factory.mktemp("data")) / "drift")


@pytest.mark.parametrize(("left", "right"), [(1.4, 0.6), (0.6, 1.4)])
def test_estimate_is_the_known_return_of_policies_unlike_the_data(drift, left, right):
    """R = sum_t (s_0 + t a + b) over 5 steps; the data's actions are 1 on average."""
    estimate = fqe_return({"left": constant(left), "right": constant(right)}, drift, QUICK).mean
    start = float(drift.obs["left"][drift.starts].mean())
    known = STEPS * start + left * STEPS * (STEPS - 1) / 2 + right * STEPS
    # The two returns are 4 apart, and 2 from the data's.
    assert estimate == pytest.approx(known, abs=0.5)


def test_critics_disagree_about_what_nobody_did(drift):
    """The data's actions lie in [0, 2], 1 on average; a corner of the box is seldom near."""

    def spread(action: float) -> float:
        found = fqe_return({"left": constant(action), "right": constant(action)}, drift, QUICK)
        return found.mean - found.lower

    assert 0 < spread(1.0) < spread(2.0)


def test_pessimism_counts_standard_deviations(drift):
    modules = {"left": constant(1.5), "right": constant(0.5)}
    settings = FQESettings(hidden=(8,), num_updates=20, pessimism=1.0)
    one = fqe_return(modules, drift, settings)
    three = fqe_return(modules, drift, replace(settings, pessimism=3.0))
    assert one.mean == three.mean
    assert three.mean - three.lower == pytest.approx(3 * (one.mean - one.lower), rel=1e-4)


def test_estimate_is_the_same_in_every_call_and_leaves_the_generator_alone(drift):
    modules = {"left": constant(0.5), "right": constant(0.5)}
    settings = FQESettings(hidden=(8,), num_updates=20)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = fqe_return(modules, drift, settings)
    assert torch.equal(torch.rand(1), expected)
    assert fqe_return(modules, drift, settings) == first


def write_paid_steps(directory: Path, lengths: list[int]) -> HeldOut:
    """Write episodes that pay 2 for every step and end for good, long before their time limit.

    The final observation is the first again, so that going on from it is worth as much.
    """
    spec = DatasetSpec("paid", (AgentSpec.box("left", 1, 1, **BOX),), time_limit=30)
    with DatasetWriter(directory, spec) as writer:
        for length in lengths:
            ends = np.zeros(length, bool)
            ends[-1] = True
            writer.write_episode(
                Episode(
                    obs={"left": (np.arange(length + 1) % length - length)[:, None].astype("f4")},
                    actions={"left": np.ones((length, 1), "f4")},
                    rewards={"left": np.full(length, 2, "f4")},
                    terminateds={"left": ends},
                    truncated=False,
                )
            )
    return HeldOut.of(OfflineDataset.open(str(directory)))


@pytest.mark.parametrize("look_ahead", [100, 10], ids=["undiscounted", "discounted and scaled"])
def test_recorded_end_is_the_end_of_the_value(tmp_path, look_ahead):
    """Of episodes of 10 steps at 2 each, the return is 20 whatever the discount."""
    held_out = write_paid_steps(tmp_path / "set", [10] * 30)
    settings = FQESettings(hidden=(32,), num_updates=300, look_ahead=look_ahead)
    estimate = fqe_return({"left": constant(1.0)}, held_out, settings)
    assert estimate.mean == pytest.approx(20, rel=0.05)


def test_episodes_of_different_lengths_keep_their_own_ends(tmp_path):
    held_out = write_paid_steps(tmp_path / "set", [2, 6] * 30)
    assert held_out.mean_length == 4.0
    assert held_out.is_last.nonzero()[:2, 0].tolist() == [1, 8]
    assert held_out.starts[:3].tolist() == [0, 3, 10]
    assert held_out.returns_to_go(0.5)[:3].tolist() == [3.0, 2.0, 0.0]
    settings = FQESettings(hidden=(32,), num_updates=300)
    assert fqe_return({"left": constant(1.0)}, held_out, settings).mean == pytest.approx(8, abs=0.3)


class Uniform(AgentModule):
    """Every legal discrete action alike, or a uniform point of the box."""

    def build_networks(self) -> None:
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def act(self, obs, noise, action_mask=None):
        return torch.rand(1, obs.shape[1], self.action_dim) * 2 - 1


def test_discrete_actions_are_legal_and_those_of_absent_agents_nothing(tmp_path):
    dataset = OfflineDataset.open(str(write_discrete(tmp_path / "set")))
    held_out = HeldOut.of(dataset)
    modules = {}
    for agent in dataset.spec.agents:
        obs = gym.spaces.Box(-np.inf, np.inf, (agent.obs_dim,))
        box = gym.spaces.Box(-1.0, 1.0, (agent.action_dim,))
        modules[agent.name] = Uniform(
            observation_space=obs,
            action_space=gym.spaces.Discrete(4) if agent.num_actions else box,
            model_config={},
        )
    answers = policy_actions(modules, held_out, num_samples=3, seed=0)
    assert answers.shape == (3, len(held_out.obs["crane"]), 4 + 2 + 4)
    assert not torch.equal(answers[0], answers[1])
    first, last = answers[..., :4], answers[..., 6:]
    chosen = first.argmax(-1)
    assert held_out.masks["picker_1"].bool().expand(3, -1, -1).gather(2, chosen[..., None]).all()
    assert torch.equal(first.sort(-1).values[0, 0], torch.tensor([-1.0, -1.0, -1.0, 1.0]))
    absent = held_out.alive[:, 2] == 0
    assert absent.any()
    assert not last[:, absent].any()
    assert last[:, ~absent].any(-1).all()
    recorded = held_out.actions[held_out.acting]
    assert (recorded[:, :4].sum(1) == -2).all()
    estimate = fqe_return(modules, held_out, FQESettings(hidden=(8,), num_updates=10))
    assert np.isfinite(estimate).all()
