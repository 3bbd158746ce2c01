"""Acting with trained agents outside RLlib's env runners: load their modules, ask for actions.

Knows RLModules and arrays; nothing of environments or learners.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_om2p.core.checkpoint import read_marker


def module_path(checkpoint: str | Path, agent_id: str) -> Path:
    """Return where an algorithm's checkpoint holds an agent's module.

    `RLModule.from_checkpoint` accepts it. Loading executes code (it is a pickle): trust it first.
    """
    root = Path(checkpoint).expanduser().resolve()
    return root / COMPONENT_LEARNER_GROUP / COMPONENT_LEARNER / COMPONENT_RL_MODULE / agent_id


def load_modules(checkpoint: str | Path) -> dict[str, RLModule]:
    """Return every agent's module, in the dataset's order; needs neither data nor learners.

    Raises:
        ValueError: No checkpoint, or a half-written one.
    """
    agent_ids = read_marker(checkpoint)["agent_ids"]
    return {
        agent_id: RLModule.from_checkpoint(module_path(checkpoint, agent_id))
        for agent_id in agent_ids
    }


class JointPolicy:
    """All agents' modules as one function of observations; each sees only its own.

    Args:
        modules: By agent id.
        seed: Of the policies' noise; None leaves it to torch's global generator.
    """

    def __init__(self, modules: Mapping[str, RLModule], *, seed: int | None = None) -> None:
        """Keep the modules and seed the noise."""
        self.modules = dict(modules)
        if seed is not None:
            torch.manual_seed(seed)

    def __call__(self, obs: Mapping[str, NDArray[np.floating]]) -> dict[str, NDArray[np.float32]]:
        """Return each agent's actions, (A,) for observations (O,) or (B, A) for (B, O)."""
        actions = {}
        for agent_id, agent_obs in obs.items():
            tensor = torch.from_numpy(np.asarray(agent_obs, np.float32))
            batch = tensor if tensor.ndim == 2 else tensor[None]
            output = self.modules[agent_id].forward_inference({Columns.OBS: batch})
            chosen = output[Columns.ACTIONS].numpy()
            actions[agent_id] = chosen if tensor.ndim == 2 else chosen[0]
        return actions
