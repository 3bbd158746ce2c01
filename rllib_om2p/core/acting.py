"""Acting with trained agents outside RLlib's env runners: load their modules, ask for actions.

Knows RLModules and arrays; nothing of environments or learners.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from torch import Tensor

from rllib_om2p.core.checkpoint import read_config, read_marker, standing
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.exported import exported_config, exported_modules
from rllib_om2p.core.rl_module import ACTION_MASK, NOISE, OBSERVATIONS
from rllib_om2p.core.shared_noise import team_noise
from rllib_om2p.export.folder import is_exported


def module_path(checkpoint: str | Path, agent_id: str) -> Path:
    """Return where an algorithm's checkpoint holds an agent's module.

    `RLModule.from_checkpoint` accepts it. Loading executes code (it is a pickle): trust it first.
    """
    root = standing(checkpoint).resolve()
    return root / COMPONENT_LEARNER_GROUP / COMPONENT_LEARNER / COMPONENT_RL_MODULE / agent_id


def load_modules(checkpoint: str | Path) -> dict[str, RLModule]:
    """Return every agent's module, in the dataset's order; needs neither data nor learners.

    Args:
        checkpoint: Of an algorithm (loading executes code: trust it first), or an exported folder
            (loading executes none).

    Raises:
        ValueError: Neither of them, or a half-written or damaged one.
    """
    if is_exported(checkpoint):
        return exported_modules(checkpoint)
    marker = read_marker(checkpoint)
    while True:
        modules = {
            agent_id: RLModule.from_checkpoint(module_path(checkpoint, agent_id))
            for agent_id in marker["agent_ids"]
        }
        # A run that goes on may have put a newer checkpoint here between two agents.
        before, marker = marker, read_marker(checkpoint)
        if marker == before:
            return modules


def load_config(checkpoint: str | Path) -> OfflineConfig:
    """Return the config to play a checkpoint or an exported folder with; see `load_modules`."""
    return exported_config(checkpoint) if is_exported(checkpoint) else read_config(checkpoint)


class JointPolicy:
    """All agents' modules as one function of observations; each sees only its own.

    A call is a step: agents whose team shares its noise (core/shared_noise.py) are asked together.

    Args:
        modules: By agent id.
        seed: Of the policies' noise; None leaves it to torch's global generator.
    """

    def __init__(self, modules: Mapping[str, RLModule], *, seed: int | None = None) -> None:
        """Keep the modules and seed the noise."""
        self.modules = dict(modules)
        if seed is not None:
            torch.manual_seed(seed)

    def __call__(self, obs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Return each agent's actions.

        Args:
            obs: By agent, (O,) or a batch (B, O); with legal actions as {"observations": (B, O),
                "action_mask": (B, A)}.

        Returns:
            By agent, (A,) or (B, A) float32; discrete ones () or (B,) int64.
        """
        actions: dict[str, NDArray[Any]] = {}
        noise: dict[str, Tensor] | None = None
        for agent_id, agent_obs in obs.items():
            parts = agent_obs if isinstance(agent_obs, Mapping) else {OBSERVATIONS: agent_obs}
            tensors = {k: torch.from_numpy(np.asarray(v, np.float32)) for k, v in parts.items()}
            is_batch = tensors[OBSERVATIONS].ndim == 2
            batch = tensors if is_batch else {k: v[None] for k, v in tensors.items()}
            if noise is None:
                noise = team_noise(self.modules, len(batch[OBSERVATIONS]))
            module_batch = {Columns.OBS: batch if ACTION_MASK in batch else batch[OBSERVATIONS]}
            if agent_id in noise:
                module_batch[NOISE] = noise[agent_id]
            output = self.modules[agent_id].forward_inference(module_batch)
            chosen = output[Columns.ACTIONS].numpy()
            actions[agent_id] = chosen if is_batch else chosen[0]
        return actions
