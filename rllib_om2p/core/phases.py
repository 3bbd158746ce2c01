"""What an algorithm is to the learner: networks, and an ordered list of phases.

A phase is one loss on some parameters. It is split in two so that the loss is a pure function:
`draw` takes everything random from the learner's generator, `loss` is deterministic and can be
compiled, captured or tested with hand-made numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rllib_om2p.core.agent_groups import JointBatch


class Networks(nn.Module):
    """All networks of an algorithm, stacked over the agents of each group."""

    def policy_stacks(self) -> Sequence[Mapping[str, nn.Module]]:
        """Return, for each group, the stacks that the agents' RLModules are views of."""
        raise TypeError(f"{type(self).__name__} must define policy_stacks().")

    def target_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return (targets, sources): parameters of target networks and what they follow."""
        return [], []

    @torch.no_grad()
    def reset_targets(self) -> None:
        """Make the target networks equal to what they follow, as they are at first."""
        for target, source in zip(*self.target_pairs(), strict=True):
            target.copy_(source)


@dataclass(frozen=True)
class Phase:
    """One loss, one optimiser.

    Attributes:
        name: Appears in metrics, error messages and checkpoints.
        trained: The stacks that the loss trains; gradients flow through others, but change none.
        draw: `(batch, generator) -> draws`, all the loss's randomness: tensors, and None for what
            there is none of, in tuples that may hold tuples.
        loss: `(batch, draws) -> (losses, metrics)`. The losses are one per agent, (N,) in the order
            of the groups, or one for the team, (); their sum is minimised. Metrics are tensors of
            the same two shapes.
        period: The phase runs on every `period`-th update.
    """

    name: str
    trained: Sequence[nn.Module]
    draw: Callable[[JointBatch, torch.Generator], Any]
    loss: Callable[[JointBatch, Any], tuple[Tensor, dict[str, Tensor]]]
    period: int = 1

    def parameters(self) -> list[nn.Parameter]:
        """Return the trained parameters, stack by stack."""
        return [parameter for stack in self.trained for parameter in stack.parameters()]
