"""One gradient update: a batch, every phase that is due, the targets.

Knows phases, not what they compute, and nothing of RLlib or of where batches come from. On a GPU it
queues work and waits for none of it: nothing here reads a tensor's value.
"""

from __future__ import annotations

import copy
import os
import shutil
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rllib_om2p.core.agent_groups import JointBatch
from rllib_om2p.core.phases import Networks, Phase
from rllib_om2p.ops.bellman import polyak_update

# One batch size, one graph. tanh-GELU runs some sixty times per update: written with exp it makes a
# compiled update 8 % faster in float32 and 14 % in bfloat16 than the vector library's tanh.
COMPILE_SETTINGS: dict[str, Any] = {
    "dynamic": False,
    "fullgraph": True,
    "options": {"cpp.use_decompose_tanh": True},
}


class Outcome(NamedTuple):
    """What a phase returned: losses and metrics, each (N,) per agent or () for all."""

    phase: Phase
    losses: Tensor
    metrics: dict[str, Tensor]


class Update:
    """The update that an algorithm's phases describe.

    Args:
        networks: The algorithm's networks, on their device.
        phases: In the order in which they run.
        sample: Returns a batch.
        generator: Source of the phases' draws, on the networks' device.
        tau: Rate of the target networks.
        grad_clip: Largest gradient norm of each network; None for no limit.
        mean_over_ranks: Averages gradients over the learners; None for a single one.
        torch_compile: Compile the losses.
        bfloat16: Compute products in bfloat16.

    Attributes:
        phases: As given.
    """

    def __init__(
        self,
        networks: Networks,
        phases: Sequence[Phase],
        *,
        sample: Callable[[], JointBatch],
        generator: torch.Generator,
        tau: float,
        grad_clip: float | None = None,
        mean_over_ranks: Callable[[list[Tensor]], list[Tensor]] | None = None,
        torch_compile: bool = False,
        bfloat16: bool = False,
    ) -> None:
        self.phases = tuple(phases)
        names = [phase.name for phase in phases]
        if len(set(names)) < len(names):
            raise ValueError(f"phases must have different names, got {names}.")
        self._sample, self._generator = sample, generator
        self._tau, self._grad_clip = tau, grad_clip
        self._mean_over_ranks = mean_over_ranks
        self._targets, self._sources = networks.target_pairs()
        self._parameters = {phase.name: phase.parameters() for phase in phases}
        self._frozen = {
            name: [p for p in networks.parameters() if not any(p is q for q in trained)]
            for name, trained in self._parameters.items()
        }
        self._device_type = generator.device.type
        if torch_compile and self._device_type == "cpu":
            _require_compiler()
        self._losses = {
            phase.name: self._prepared(phase, torch_compile, bfloat16) for phase in phases
        }
        # On a GPU the rate is a tensor, so that a recorded step follows its schedule.
        on_gpu = self._device_type == "cuda"
        self._learning_rate = 0.0
        self._optimizers = {
            name: torch.optim.Adam(
                parameters,
                lr=torch.zeros((), device=generator.device) if on_gpu else 0.0,
                fused=True,
                capturable=on_gpu,
            )
            for name, parameters in self._parameters.items()
        }
        for optimizer in self._optimizers.values():
            # Each would warn that `capturable` costs time without a graph; fused it does not.
            optimizer._warned_capturable_if_run_uncaptured = True

    def __call__(self, number: int) -> list[Outcome]:
        """Run update `number`, counted from 0, and return what its phases gave."""
        return self.run(self.due(number))

    def due(self, number: int) -> tuple[Phase, ...]:
        """Return the phases of update `number`."""
        return tuple(phase for phase in self.phases if number % phase.period == 0)

    def run(self, due: Sequence[Phase]) -> list[Outcome]:
        """Sample a batch, run the given phases on it and move the targets."""
        batch = self._sample()
        outcomes = [self._run_phase(phase, batch) for phase in due]
        if self._targets:
            polyak_update(self._targets, self._sources, self._tau)
        return outcomes

    def gradients(
        self, phase: Phase, batch: JointBatch, draws: Any
    ) -> tuple[list[Tensor], Outcome]:
        """Return a phase's gradients, averaged over the learners, and what its loss gave."""
        if len(self.phases) > 1:
            # A compiled backward computes the gradients of all that asks for one, wanted or not.
            for parameter in self._frozen[phase.name]:
                parameter.requires_grad_(False)
            for parameter in self._parameters[phase.name]:
                parameter.requires_grad_(True)
        losses, metrics = self._losses[phase.name](batch, draws)
        _check_shapes(phase, batch, losses, metrics)
        try:
            gradients = list(torch.autograd.grad(losses.sum(), self._parameters[phase.name]))
        except RuntimeError as error:
            if "appears to not have been used" not in str(error):
                raise
            raise ValueError(
                f"phase {phase.name!r} trains a network that its loss does not use; leave it out "
                f"of `trained`: {error}"
            ) from error
        if self._mean_over_ranks is not None:
            gradients = self._mean_over_ranks(gradients)
        return gradients, Outcome(phase, losses.detach(), metrics)

    def set_learning_rate(self, value: float) -> None:
        """Set every phase's learning rate."""
        if value == self._learning_rate:
            return
        self._learning_rate = value
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(value)
                else:
                    group["lr"] = value

    def optimizer_states(self) -> dict[str, Any]:
        """Return every phase's optimiser state by the phase's name, on the CPU."""
        return {
            name: on_cpu(optimizer.state_dict()) for name, optimizer in self._optimizers.items()
        }

    def load_optimizer_states(self, states: dict[str, Any]) -> None:
        """Restore what `optimizer_states` returned, on whatever device that was."""
        for name, saved in states.items():
            optimizer = self._optimizers[name]
            settings = [
                {key: value for key, value in group.items() if key != "params"}
                for group in optimizer.param_groups
            ]
            # Adam keeps the tensors that it is given, and takes over the other device's settings.
            optimizer.load_state_dict(copy.deepcopy(saved))
            for group, own in zip(optimizer.param_groups, settings, strict=True):
                group.update(own)

    def _run_phase(self, phase: Phase, batch: JointBatch) -> Outcome:
        gradients, outcome = self.gradients(phase, batch, phase.draw(batch, self._generator))
        if self._grad_clip is not None:
            start = 0
            for stack in phase.trained:
                end = start + len(list(stack.parameters()))
                clip_per_network(gradients[start:end], self._grad_clip)
                start = end
        for parameter, gradient in zip(self._parameters[phase.name], gradients, strict=True):
            parameter.grad = gradient
        self._optimizers[phase.name].step()
        return outcome

    def _prepared(self, phase: Phase, torch_compile: bool, bfloat16: bool) -> Any:
        loss: Any = phase.loss
        if torch_compile:
            loss = torch.compile(_own_code(loss), **COMPILE_SETTINGS)
        if bfloat16:
            # Older torch remembers casts made without a gradient, and weights would lack theirs.
            autocast = torch.autocast(self._device_type, dtype=torch.bfloat16, cache_enabled=False)
            loss = autocast(loss)
        return loss


def _check_shapes(
    phase: Phase, batch: JointBatch, losses: Tensor, metrics: Mapping[str, Tensor]
) -> None:
    """Refuse what a phase's loss returned unless it is as `Phase.loss` says; costs no wait.

    Raises:
        ValueError: The text names the phase, and the metric.
    """
    num_agents = sum(len(group.obs) for group in batch.groups)
    for name, value in (("loss", losses), *metrics.items()):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if shape not in ((), (num_agents,)):
            raise ValueError(
                f"phase {phase.name!r}: {name} must be a tensor of shape ({num_agents},), one "
                f"number per agent, or (), one for all; got {shape}."
            )


def _require_compiler() -> None:
    """Say what is missing before the first update, whose error would be the compiler's.

    Raises:
        RuntimeError: There is no C++ compiler, or no headers of Python.
    """
    compiler = os.environ.get("CXX", "g++")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    missing = []
    if shutil.which(compiler) is None:
        missing.append(f"the compiler {compiler!r}")
    if not headers.is_file():
        missing.append(f"Python's headers ({headers})")
    if missing:
        raise RuntimeError(
            f"torch_compile=True needs {' and '.join(missing)} on this machine; install them (on "
            "Debian g++ and python3-dev), name a compiler in CXX, or set torch_compile=False."
        )


def _own_code(loss: Any) -> Any:
    """Return a loss as a function whose code is no other's.

    PyTorch keeps what it compiled with a function's code, for eight different settings at most.
    Losses are called through one function of its own, so that all learners of a process, one after
    the other in Tune, would share the eight: the ninth would fail.
    """

    def call(batch: JointBatch, draws: Any) -> Any:
        return loss(batch, draws)

    call.__code__ = call.__code__.replace()
    return call


def on_cpu(value: Any) -> Any:
    """Return nested dicts and lists with every tensor on the CPU, to be loaded on any device."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: on_cpu(item) for key, item in value.items()}
    if isinstance(value, list):
        return [on_cpu(item) for item in value]
    return value


def clip_per_network(gradients: list[Tensor], max_norm: float) -> None:
    """Scale one stack's gradients in place so that no network of it has a norm above `max_norm`.

    The leading axis of every gradient is over networks (agents, or critics times agents); each
    network is clipped on its own, as if it were trained alone.
    """
    squares = torch.stack([gradient.square().flatten(1).sum(1) for gradient in gradients])
    norm = squares.sum(0).sqrt()
    scale = (max_norm / (norm + torch.finfo(norm.dtype).tiny)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))
