"""What every variant of the update computes on: sizes, one batch, the random draws of one update.

The variants share nothing else, so that the per-agent loop can serve as an independent oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """Sizes of the benchmark problem; by default the paper's networks on Cooperative Navigation."""

    num_agents: int = 3
    obs_dim: int = 18
    action_dim: int = 2
    hidden: tuple[int, ...] = (512, 512, 512, 512)
    batch_size: int = 256
    num_critics: int = 2


@dataclass(frozen=True)
class Settings:
    """Hyperparameters of the update."""

    gamma: float = 0.99
    tau: float = 0.005
    eta: float = 0.1
    lr: float = 3e-4
    finite_difference_step: float = 3e-3


class Batch(NamedTuple):
    """One minibatch, (G, B, F) or (G, B)."""

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    next_obs: Tensor
    terminateds: Tensor


class Draws(NamedTuple):
    """Randomness of one update: uniforms (2, G, B, 1) for the times, and three noises (G, B, A)."""

    uniforms: Tensor
    path_noise: Tensor
    action_noise: Tensor
    next_noise: Tensor


def make_batch(
    sizes: Sizes, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Batch:
    """Return a random batch of the given sizes."""
    shape = (sizes.num_agents, sizes.batch_size)
    normal = lambda *size: torch.randn(*size, generator=generator, dtype=dtype)  # noqa: E731
    return Batch(
        obs=normal(*shape, sizes.obs_dim),
        actions=normal(*shape, sizes.action_dim).clamp(-1, 1),
        rewards=normal(*shape),
        next_obs=normal(*shape, sizes.obs_dim),
        terminateds=(torch.rand(*shape, generator=generator) < 0.04).to(dtype),
    )


def draw(sizes: Sizes, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Draws:
    """Return the random numbers of one update."""
    shape = (sizes.num_agents, sizes.batch_size)
    noise = torch.randn(3, *shape, sizes.action_dim, generator=generator, dtype=dtype)
    uniforms = torch.rand(2, *shape, 1, generator=generator, dtype=dtype)
    return Draws(uniforms, *noise.unbind(0))
