"""From a checkpoint, which is a pickle, to an exported folder, which is not."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_om2p.core.acting import load_modules
from rllib_om2p.core.checkpoint import read_config, read_marker
from rllib_om2p.core.environments import card_settings
from rllib_om2p.core.exported import module_classes
from rllib_om2p.envs.registry import FIRST_SEED
from rllib_om2p.evaluation.provenance import versions
from rllib_om2p.export.folder import AgentPolicy, TeamPolicy, is_exported, write_team

logger = logging.getLogger(__name__)

PACKAGES = ("rllib-om2p", "ray", "torch", "gymnasium", "safetensors")


def export_checkpoint(checkpoint: str | Path, out: str | Path) -> Path:
    """Write the policies of a checkpoint as safetensors and JSON; return the folder.

    Args:
        checkpoint: Of `Algorithm.save_to_path`. Loading it executes code: trust it first.
        out: A folder that does not exist yet.

    Raises:
        ValueError: No whole checkpoint, `out` exists, or a module is not of this package.
    """
    if is_exported(checkpoint):
        raise ValueError(f"{str(checkpoint)!r} is exported already; copy the folder.")
    marker = read_marker(checkpoint)
    modules, config = load_modules(checkpoint), read_config(checkpoint)
    spec = config.dataset_spec
    env = config.env if isinstance(config.env, str) else spec.env
    settings = dict(config.env_config) if env == config.env else {}
    if env == spec.env:  # of the data what training left open, and the prey by its hash
        settings = spec.env_kwargs | settings
        settings |= {"prey": spec.env_kwargs["prey"]} if "prey" in spec.env_kwargs else {}
    kept = _describable(env, settings)
    if left_out := sorted(settings.keys() - kept.keys() - {FIRST_SEED}):
        logger.warning(
            "%s: the environment's settings %s are left out, they are not plain values or not "
            "here; whoever plays the export gives them again.",
            out,
            left_out,
        )
    team = TeamPolicy(
        algorithm=marker["algorithm"],
        agents=tuple(agent_policy(agent_id, module) for agent_id, module in modules.items()),
        dataset={
            "id": spec.dataset_id,
            "fingerprint": marker.get("dataset_fingerprint"),
            "spec": spec.to_dict(),
        },
        environment={"name": env, "kwargs": kept},
        training={"training_iteration": marker["training_iteration"]},
        packages=versions(PACKAGES),
        teams=dict(config.teams or {}),
    )
    return write_team(team, out)


def _describable(env: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of an environment's settings that others can be given, as JSON has them."""
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        try:
            cited = card_settings(env, {name: value})
            kept |= json.loads(json.dumps(cited, allow_nan=False))
        except (TypeError, ValueError):  # a function, or a prey's file that is elsewhere
            continue
    return kept


def agent_policy(agent_id: str, module: RLModule) -> AgentPolicy:
    """Return an agent's module as plain values.

    Raises:
        ValueError: The module is not of this package.
    """
    cls = type(module)
    if module_classes().get(cls.__name__) is not cls:
        raise ValueError(
            f"the module of agent {agent_id!r} is a {cls.__name__} of {cls.__module__}; only the "
            f"modules of this package can be exported: {sorted(module_classes())}."
        )
    return AgentPolicy(
        agent_id=agent_id,
        module_class=cls.__name__,
        model_config=module.model_config,
        observation_space=module.observation_space,
        action_space=module.action_space,
        weights=module.state_dict(),
    )
