"""Losses and metrics of the updates of one call, kept on the device until the call ends.

Appending costs no operation on the device; everything is read once per call. Knows phases and the
agents' names, nothing of how the numbers came about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rllib_om2p.core.phases import Phase

TEAM = "team"
# A mean loss beyond it is finite, and no policy comes of it.
RUNAWAY = 1e12


class Divergence(NamedTuple):
    """The first loss that was not finite; ordered by when it happened.

    Attributes:
        update: Number of the update.
        order: Position of the phase in the update.
        message: For people: phase, agent, update, and what to do.
    """

    update: int
    order: int
    message: str


class History:
    """What the phases returned, update by update.

    Args:
        phases: In the order in which they run.
        agent_ids: In the order of the groups; the axis of all per-agent tensors.
        remedy: What helps against a loss that diverges, as a clause.
    """

    def __init__(self, phases: Sequence[Phase], agent_ids: Sequence[str], remedy: str) -> None:
        self._phases = tuple(phases)
        self._agent_ids = tuple(agent_ids)
        self._remedy = remedy
        self._losses: dict[str, list[Tensor]] = {phase.name: [] for phase in phases}
        self._metrics: dict[str, list[dict[str, Tensor]]] = {phase.name: [] for phase in phases}

    def add(self, phase: Phase, losses: Tensor, metrics: dict[str, Tensor]) -> None:
        """Keep what a phase returned, each tensor (N,) per agent or () for the team."""
        self._losses[phase.name].append(losses.detach())
        self._metrics[phase.name].append(metrics)

    def divergence(self, first_update: int) -> Divergence | None:
        """Return which loss was the first to be NaN or infinite, None if all were finite.

        Args:
            first_update: Number of the update before which this history began.
        """
        found = []
        for order, phase in enumerate(self._phases):
            if not self._losses[phase.name]:
                continue
            losses = torch.stack(self._losses[phase.name])
            bad = (~torch.isfinite(losses)).reshape(len(losses), -1).nonzero()
            if len(bad):
                row, agent = bad[0].tolist()
                # The phase's first update at or after `first_update`.
                start = -(-first_update // phase.period) * phase.period
                name = TEAM if losses.ndim == 1 else self._agent_ids[agent]
                found.append((start + row * phase.period, order, phase.name, name))
        if not found:
            return None
        update, order, phase_name, agent_id = min(found)
        return Divergence(
            update,
            order,
            _stopped(f"the {phase_name} loss of {_whose(agent_id)}", update, self._remedy),
        )

    def means(self) -> Iterator[tuple[str | None, str, float]]:
        """Yield (agent id or None for the team, name, mean over the updates) of every number."""
        for phase in self._phases:
            if not self._losses[phase.name]:
                continue
            columns = {f"{phase.name}_loss": torch.stack(self._losses[phase.name])}
            for key in self._metrics[phase.name][0]:
                columns[key] = torch.stack([m[key] for m in self._metrics[phase.name]])
            for key, column in columns.items():
                means = column.float().mean(0).reshape(-1).tolist()
                names = [None] if column.ndim == 1 else self._agent_ids
                for name, mean in zip(names, means, strict=True):
                    yield name, key, mean


def weights_divergence(update: int, remedy: str) -> Divergence:
    """Return that weights became NaN or infinite, by an update whose losses were finite.

    Args:
        update: Number of updates so far.
        remedy: As `History` has it.
    """
    return Divergence(update, 0, _stopped("a network's weights", update, remedy))


def _stopped(what: str, update: int, remedy: str) -> str:
    return (
        f"{what} became non-finite at update {update}. Training has stopped and these weights will "
        f"not be saved; the last checkpoint is intact. {remedy}, or check the dataset with "
        "`rllib-om2p audit`."
    )


def runaway(agent_id: str | None, name: str, mean: float, remedy: str) -> str | None:
    """Return what to say of a mean that is finite but beyond reason; None if it is not.

    Args:
        agent_id: None for the team.
        name: Of the number; only losses count.
        mean: As `History.means` has it.
        remedy: As `History` has it.
    """
    if not name.endswith("_loss") or abs(mean) <= RUNAWAY:
        return None
    whose = _whose(TEAM if agent_id is None else agent_id)
    return f"the {name.removesuffix('_loss')} loss of {whose} has grown to {mean:.0e}. {remedy}."


def _whose(agent_id: str) -> str:
    return "the team" if agent_id == TEAM else f"agent {agent_id!r}"
