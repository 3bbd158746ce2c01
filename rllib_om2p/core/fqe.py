"""Fitted Q evaluation: what a team would return, estimated from held-out episodes alone.

A critic Q(o, t, a) of all agents' observations o, the share t of the time limit that has passed
and all agents' actions a learns r + gamma Q(o', t', a') with a' drawn from the evaluated policies;
the estimate is Q at the episodes' first observations. Knows RLModules and episodes; nothing of
learners, environments or of how the policies were trained.

Units. The estimate is in those of the dataset's team return, which is undiscounted and ends with
the episode. So the recorded end of an episode, for good or in time, is the end of the value, time
is an input, and gamma is 1 up to `look_ahead` steps. Longer episodes need a discount: with
gamma = 1 - 1/look_ahead the discounted value of an episode of L steps (the recorded mean) is
multiplied by L / (1 + gamma + ... + gamma^(L-1)), which is exact where the reward per step does not
change along the episode.

How far to trust it. Where the policies do what nobody did, the critics extrapolate, mostly upwards.
Each member of the ensemble bootstraps from its own target alone, so that they come apart there, and
`lower`, some standard deviations below the mean, is what to choose policies by: measured in
tuned_configs/RESULTS.md.

Axes: R rows (steps and final observations), I inputs, S action samples, K critics, B batch,
N agents.

Source: fitted Q evaluation, Le et al. 2019, arXiv 1903.08738; as a criterion for choosing
hyperparameters, Paine et al. 2020, arXiv 2007.09055; ensembles with targets of their own,
Ghasemipour et al. 2022, arXiv 2205.13703.
"""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from torch import Tensor

from rllib_om2p.core.held_out import HeldOut, unit_actions
from rllib_om2p.core.rl_module import ACTION_MASK, NOISE, OBSERVATIONS
from rllib_om2p.core.shared_noise import team_noise
from rllib_om2p.data.schema import AgentSpec
from rllib_om2p.nets.critics import CriticEnsemble
from rllib_om2p.ops.bellman import polyak_update

# Rows that the policies answer at once: bounds the memory of wide networks.
ROWS_PER_PASS = 16_384


@dataclass(frozen=True)
class FQESettings:
    """How the critic is fitted; all values are ours.

    Attributes:
        hidden: Hidden layers of the critics.
        num_critics: Members of the ensemble.
        pessimism: Standard deviations, over the ensemble at the episodes' first observations, from
            the mean to the lower estimate.
        num_updates: Gradient updates. The first `warm_up` share of them learns the recorded
            returns, from which bootstrapping then departs.
        warm_up: Share of the updates, in [0, 1].
        batch_size: Steps per update.
        lr: Of Adam, falling to 0 along the updates.
        tau: Rate of the target critics.
        num_action_samples: Actions drawn from the policies at every observation.
        look_ahead: Steps up to which the value is undiscounted; see the module's text.
        max_steps: Held-out steps that are used, about; of more, some episodes are taken.
        seed: Of the critics' weights, the batches and the policies' noise.
    """

    hidden: tuple[int, ...] = (128, 128)
    num_critics: int = 5
    pessimism: float = 2.0
    num_updates: int = 1500
    warm_up: float = 0.25
    batch_size: int = 512
    lr: float = 3e-3
    tau: float = 0.05
    num_action_samples: int = 4
    look_ahead: int = 100
    max_steps: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: One has no meaning.
        """
        whole = (
            "num_critics",
            "num_updates",
            "batch_size",
            "num_action_samples",
            "look_ahead",
            "max_steps",
        )
        sizes = {name: [getattr(self, name)] for name in whole} | {"hidden": self.hidden}
        for name, values in sizes.items():
            is_list = isinstance(values, list | tuple)
            if not is_list or not all(_is_number(x, numbers.Integral) and x >= 1 for x in values):
                kind = "whole numbers" if name == "hidden" else "a whole number"
                raise ValueError(f"{name} must be {kind} from 1, got {getattr(self, name)!r}.")
        highest = {"warm_up": 1.0, "tau": 1.0, "lr": math.inf, "pessimism": math.inf}
        for name, high in highest.items():
            value = getattr(self, name)
            if not _is_number(value, numbers.Real) or not 0 <= value <= high:
                raise ValueError(f"{name} must be a number from 0 to {high:g}, got {value!r}.")


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


class Estimate(NamedTuple):
    """What a team is expected to return.

    Attributes:
        mean: Mean over the ensemble.
        lower: Below it by what the members disagree; to choose by.
    """

    mean: float
    lower: float


def fqe_return(
    modules: Mapping[str, RLModule], held_out: HeldOut, settings: FQESettings | None = None
) -> Estimate:
    """Return the estimated mean team return of the policies; the same in every call.

    Args:
        modules: By agent id.
        held_out: Episodes that the policies were not trained on.
        settings: How the critic is fitted.
    """
    settings = settings or FQESettings()
    gamma = 1.0
    if held_out.time_limit > settings.look_ahead:
        gamma = 1.0 - 1.0 / settings.look_ahead
    answers = policy_actions(modules, held_out, settings.num_action_samples, settings.seed)
    inputs = held_out.inputs
    critic = _fit(inputs, answers, held_out, settings, gamma)
    with torch.no_grad():
        first = inputs[held_out.starts].expand(len(answers), -1, -1).flatten(0, 1)
        values = critic(first, answers[:, held_out.starts].flatten(0, 1))
    length = torch.tensor(held_out.mean_length)
    scale = length / _annuity(length, gamma)
    mean, std = values.mean() * scale, values.std(0, correction=0).mean() * scale
    return Estimate(float(mean), float(mean - settings.pessimism * std))


@torch.no_grad()
def policy_actions(
    modules: Mapping[str, RLModule], held_out: HeldOut, num_samples: int, seed: int
) -> Tensor:
    """Return what the policies do at every row, in [-1, 1] and side by side, (S, R, A).

    The global generator, from which modules draw their noise, is as before afterwards.
    """
    samples = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        for _ in range(num_samples):
            noise = team_noise(modules, len(held_out.alive))
            answers = [
                _answers(modules[agent.name], agent, held_out, noise.get(agent.name))
                for agent in held_out.agents
            ]
            present = held_out.alive.unbind(1)
            samples.append(
                torch.cat([a * here[:, None] for a, here in zip(answers, present, strict=True)], 1)
            )
    return torch.stack(samples)


class _Values:
    """A critic ensemble in the units of returns.

    Args:
        networks: The ensemble, of one "agent": the team.
        mean, std: Of the returns to go, which the networks learn in standardised form.
    """

    def __init__(self, networks: CriticEnsemble, mean: Tensor, std: Tensor) -> None:
        self.networks, self.mean, self.std = networks, mean, std

    def __call__(self, inputs: Tensor, actions: Tensor) -> Tensor:
        """Return each member's values, (K, B), of (B, I) and (B, A)."""
        return self.mean + self.std * self.networks(inputs[None], actions[None])[:, 0]


def _fit(
    inputs: Tensor, answers: Tensor, held_out: HeldOut, settings: FQESettings, gamma: float
) -> _Values:
    generator = torch.Generator().manual_seed(settings.seed)
    recorded = held_out.returns_to_go(gamma)
    std, mean = torch.std_mean(recorded[held_out.acting], correction=0)
    networks = CriticEnsemble(
        1,
        settings.num_critics,
        inputs.shape[1],
        answers.shape[2],
        settings.hidden,
        generator=generator,
    )
    target = _Values(copy.deepcopy(networks), mean, std.clamp(min=1e-6))
    low, high = _bounds(held_out, gamma)
    sources, targets = list(networks.parameters()), list(target.networks.parameters())
    optimizer = torch.optim.Adam(sources, lr=settings.lr, fused=True)
    for update in range(settings.num_updates):
        picks = torch.randint(len(held_out.acting), (settings.batch_size,), generator=generator)
        sample = torch.randint(len(answers), (settings.batch_size,), generator=generator)
        rows = held_out.acting[picks]
        if update < settings.warm_up * settings.num_updates:
            goal = recorded[rows].expand(settings.num_critics, -1)
        else:
            with torch.no_grad():
                later = target(inputs[rows + 1], answers[sample, rows + 1])
            goal = held_out.rewards[rows] + gamma * torch.where(held_out.is_last[rows], 0.0, later)
            goal = goal.clamp(low[rows], high[rows])
        predicted = networks(inputs[None, rows], held_out.actions[None, rows])[:, 0]
        loss = ((predicted - (goal - target.mean) / target.std) ** 2).mean(1).sum()
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * (1.0 - update / settings.num_updates)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        polyak_update(targets, sources, settings.tau)
    return _Values(networks, target.mean, target.std)


def _bounds(held_out: HeldOut, gamma: float) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest value that the recorded rewards allow, each (R,).

    Without them an error at actions that nobody took can grow from update to update.
    """
    steps_left = _annuity((held_out.time_limit - held_out.steps).float(), gamma)
    rewards = held_out.rewards[held_out.acting]
    return rewards.min().clamp(max=0.0) * steps_left, rewards.max().clamp(min=0.0) * steps_left


def _annuity(num_steps: Tensor, gamma: float) -> Tensor:
    """Return 1 + gamma + ... over `num_steps` terms."""
    return num_steps if gamma == 1.0 else (1.0 - gamma**num_steps) / (1.0 - gamma)


def _answers(module: RLModule, agent: AgentSpec, held_out: HeldOut, noise: Tensor | None) -> Tensor:
    """Return one action of an agent at every row, in [-1, 1], (R, A), its noise drawn if None."""
    obs, mask = held_out.obs[agent.name], held_out.masks.get(agent.name)
    device = next(module.parameters()).device
    parts = []
    for start in range(0, len(obs), ROWS_PER_PASS):
        rows = slice(start, start + ROWS_PER_PASS)
        seen = obs[rows].to(device)
        batch = seen if mask is None else {OBSERVATIONS: seen, ACTION_MASK: mask[rows].to(device)}
        asked = {Columns.OBS: batch} | ({} if noise is None else {NOISE: noise[rows]})
        parts.append(module.forward_inference(asked)[Columns.ACTIONS].cpu())
    return unit_actions(agent, torch.cat(parts).numpy())
