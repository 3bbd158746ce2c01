"""What all methods of a comparison share: tasks, networks, learning rate, batches, horizon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rllib_om2p.benchmark.suite import Task

QUALITIES = ("medium-replay", "medium", "medium-expert", "expert")

# Episodes of 25 steps.
_PARTICLES = {"gamma": 0.95, "tau": 0.01}
# Episodes of 1000 steps; a simulator that plays one after the other.
_ROBOTS = {"gamma": 0.99, "tau": 0.005}

SPREAD = Task("mpe/simple_spread", QUALITIES, 500, 100, _PARTICLES)
TAG = Task("mpe/simple_tag", QUALITIES, 500, 100, _PARTICLES)
WORLD = Task("mpe/simple_world", QUALITIES, 500, 100, _PARTICLES)
CHEETAH = Task("mamujoco/2x3-HalfCheetah", QUALITIES, 50, 10, _ROBOTS)
TASKS = (SPREAD, TAG, WORLD, CHEETAH)


def cpu_settings(width: int, num_updates: int, *, lr: float = 1e-2) -> dict[str, Any]:
    """Return two hidden layers of a width, batches of 256, and a learning rate that falls.

    Small networks and few updates want a large rate: with 1e-3 flow and mean-flow policies have not
    learned to clone the expert after 4000 updates, with 1e-2 they have (RESULTS.md, suite "rates").
    """
    return {
        "actor_hidden": (width, width),
        "critic_hidden": (width, width),
        "train_batch_size": 256,
        "lr": falling(lr, num_updates),
    }


def falling(lr: float, num_updates: int) -> Sequence[Sequence[float]]:
    """Return a learning rate that falls to a hundredth."""
    return [[0, lr], [num_updates, 0.01 * lr]]
