"""Toy datasets whose right policies are known, and how tests train and sample on them.

Two agents of one shape act once per episode in [-1, 1]; observations are noise. Each agent has an
optimum of its own, so that a mix-up of agents or of their rewards shows, and a shared network must
tell them apart by identity. Settings for `SMALL` networks reach a few hundred updates per second.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.learner import OfflineLearner
from rllib_om2p.data.schema import AgentSpec, DatasetSpec
from rllib_om2p.data.writer import DatasetWriter

AGENTS = ("first", "second")
OBS_DIM = 2
# The action of the highest reward, -(a - optimum)^2.
BANDIT_OPTIMA = {"first": 0.4, "second": -0.5}
# Data sit near +MODE and -MODE alike; the higher reward is at one of them.
MODE, MODE_NOISE = 0.7, 0.07
BETTER_MODE = {"first": MODE, "second": -MODE}
# One policy's data sit this closely around the optimum; their rewards are noisy.
NARROW, REWARD_NOISE = 0.05, 0.5
# Of NUM_ACTIONS discrete ones the data choose two alike; the better one earns 1, all others 0.
NUM_ACTIONS = 4
CHOSEN = {"first": (0, 2), "second": (3, 1)}
BEST_CHOICE = {"first": 2, "second": 3}

SMALL: dict[str, Any] = {
    "actor_hidden": (32, 32),
    "critic_hidden": (32, 32),
    "train_batch_size": 128,
    "lr": 3e-3,
    "tau": 0.05,
}


def bandit_dataset(path: str | os.PathLike[str], *, num_episodes: int = 4000) -> str:
    """Write uniformly random actions with reward -(a - optimum)^2; see `BANDIT_OPTIMA`."""
    rng = np.random.default_rng(0)
    actions = {name: rng.uniform(-1, 1, num_episodes) for name in AGENTS}
    rewards = {name: -((a - BANDIT_OPTIMA[name]) ** 2) for name, a in actions.items()}
    return _write(path, rng, actions, rewards)


def opposed_dataset(path: str | os.PathLike[str], *, num_episodes: int = 4000) -> str:
    """Write a game of two sides: what one agent wins the other loses.

    The first earns (b - b*)^2 - (a - a*)^2 for its action a and the second's b; a* and b* are
    `BANDIT_OPTIMA`, each the best answer to whatever the other does.
    """
    rng = np.random.default_rng(4)
    actions = {name: rng.uniform(-1, 1, num_episodes) for name in AGENTS}
    first, second = ((actions[name] - BANDIT_OPTIMA[name]) ** 2 for name in AGENTS)
    rewards = {AGENTS[0]: second - first, AGENTS[1]: first - second}
    return _write(path, rng, actions, rewards)


def two_mode_dataset(path: str | os.PathLike[str], *, num_episodes: int = 4000) -> str:
    """Write actions near +-MODE, each half of the time, with reward -(a - better mode)^2."""
    rng = np.random.default_rng(1)
    actions = {
        name: MODE * rng.choice((-1, 1), num_episodes) + MODE_NOISE * rng.normal(size=num_episodes)
        for name in AGENTS
    }
    rewards = {name: -((a - BETTER_MODE[name]) ** 2) for name, a in actions.items()}
    return _write(path, rng, actions, rewards)


def narrow_dataset(path: str | os.PathLike[str], *, num_episodes: int = 4000) -> str:
    """Write one policy's actions near `BANDIT_OPTIMA`; elsewhere a critic can only imagine."""
    rng = np.random.default_rng(3)
    actions, rewards = {}, {}
    for name in AGENTS:
        deviation = NARROW * rng.normal(size=num_episodes)
        actions[name] = BANDIT_OPTIMA[name] + deviation
        rewards[name] = -(deviation**2) + REWARD_NOISE * rng.normal(size=num_episodes)
    return _write(path, rng, actions, rewards)


def discrete_dataset(path: str | os.PathLike[str], *, num_episodes: int = 4000) -> str:
    """Write choices of two of `NUM_ACTIONS` actions; reward 1 for the agent's `BEST_CHOICE`."""
    rng = np.random.default_rng(2)
    actions = {name: rng.choice(CHOSEN[name], num_episodes) for name in AGENTS}
    rewards = {name: (a == BEST_CHOICE[name]).astype("f8") for name, a in actions.items()}
    return _write(path, rng, actions, rewards)


def train(config: OfflineConfig, num_updates: int, *, seed: int = 0) -> OfflineLearner:
    """Return a learner after `num_updates` updates of a config that names its dataset."""
    config.debugging(seed=seed)
    config.validate()
    learner = config.build_learner()
    assert isinstance(learner, OfflineLearner)
    learner.update(num_updates=num_updates)
    return learner


def sample(
    learner: OfflineLearner, agent: str, num_samples: int = 1000, *, seed: int = 0
) -> NDArray[Any]:
    """Return an agent's actions at fresh observations, (num_samples,): its module's own answers."""
    torch.manual_seed(seed)
    obs = torch.randn(num_samples, OBS_DIM)
    actions: torch.Tensor = learner.module[agent].forward_inference({"obs": obs})["actions"]
    return actions.reshape(num_samples).numpy()


def mode_shares(actions: NDArray[Any]) -> tuple[float, float]:
    """Return which parts of the samples lie near +MODE and near -MODE, within 0.25."""
    return float(np.mean(abs(actions - MODE) < 0.25)), float(np.mean(abs(actions + MODE) < 0.25))


def _write(
    path: str | os.PathLike[str],
    rng: np.random.Generator,
    actions: dict[str, NDArray[Any]],
    rewards: dict[str, NDArray[Any]],
) -> str:
    is_discrete = actions[AGENTS[0]].dtype.kind == "i"
    agents = tuple(
        AgentSpec.discrete(name, OBS_DIM, NUM_ACTIONS)
        if is_discrete
        else AgentSpec.box(name, OBS_DIM, 1)
        for name in AGENTS
    )
    num_episodes = len(actions[AGENTS[0]])
    spec = DatasetSpec(dataset_id=os.path.basename(path), agents=agents, time_limit=1)
    with DatasetWriter(path, spec) as writer:
        writer.write_batch(
            obs={name: rng.normal(size=(num_episodes, 2, OBS_DIM)).astype("f4") for name in AGENTS},
            actions={
                name: a[:, None] if is_discrete else a.clip(-1, 1)[:, None, None].astype("f4")
                for name, a in actions.items()
            },
            rewards={name: r[:, None].astype("f4") for name, r in rewards.items()},
            terminateds={name: np.ones((num_episodes, 1), bool) for name in AGENTS},
            truncated=np.zeros(num_episodes, bool),
        )
    return os.fspath(path)
