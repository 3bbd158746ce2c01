"""A trained team as a folder of two files that load without executing code.

    DIR/policy.safetensors   every agent's weights and constants, as AGENT/PARAMETER
    DIR/policy.json          what they are: see `TeamPolicy`

Knows names, tensors and JSON; nothing of modules, which the caller builds from the description.
Both files are hashed, so that damage and mixed-up files are found. A hash is no signature: it does
not tell who wrote the folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rllib_om2p.disk import local_path
from rllib_om2p.export.spaces import space_from_json, space_to_json

DESCRIPTION = "policy.json"
WEIGHTS = "policy.safetensors"
FORMAT = "rllib-om2p policy"
VERSION = 1
MAX_DESCRIPTION_BYTES = 16 * 2**20


@dataclass(frozen=True, eq=False)
class AgentPolicy:
    """One agent's policy.

    Attributes:
        agent_id: As in the dataset.
        module_class: Name of the RLModule class.
        model_config: What the class builds its networks from; plain JSON values.
        observation_space, action_space: The agent's.
        weights: Parameters and buffers by name.
    """

    agent_id: str
    module_class: str
    model_config: Mapping[str, Any]
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    weights: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class TeamPolicy:
    """A whole team's policies and where they come from.

    Attributes:
        algorithm: The algorithm that trained them.
        agents: In the dataset's order.
        dataset: {"id", "fingerprint", "spec"}: the dataset's name, the hash of what it holds (None
            if unknown) and its description.
        environment: {"name", "kwargs"} of the environment to play in; the name may be None.
        training: What is known of the run, such as {"training_iteration": 10}.
        packages: Versions of the packages that exported.
        teams: The agents of each team by its name, where there are several; else empty.
    """

    algorithm: str
    agents: tuple[AgentPolicy, ...]
    dataset: Mapping[str, Any]
    environment: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    teams: Mapping[str, list[str]] = field(default_factory=dict)


def is_exported(path: str | Path) -> bool:
    """Return whether a folder holds an exported team, whole or damaged."""
    folder = Path(path).expanduser()
    return (folder / DESCRIPTION).exists() or (folder / WEIGHTS).exists()


def write_team(team: TeamPolicy, path: str | Path) -> Path:
    """Write a team; the folder appears whole or not at all.

    Returns:
        The absolute path of the folder.

    Raises:
        ValueError: The folder is there already, or a value has no place in JSON.
    """
    target = local_path(path).resolve()
    if target.exists():
        raise ValueError(f"{str(path)!r} exists already; choose another folder or remove it.")
    # The tensors of a shared stack are views of one memory, which safetensors refuses.
    tensors = {
        f"{agent.agent_id}/{name}": value.detach().cpu().contiguous().clone()
        for agent in team.agents
        for name, value in agent.weights.items()
    }
    weights = save(tensors)
    description = _describe(team) | {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    text = json.dumps(description | {"sha256": _digest(description)}, indent=1) + "\n"

    building = target.parent / f".{target.name}.writing-{uuid.uuid4().hex[:8]}"
    building.mkdir(parents=True)
    try:
        (building / WEIGHTS).write_bytes(weights)
        (building / DESCRIPTION).write_text(text, encoding="utf-8")
        building.rename(target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return target


def read_team(path: str | Path) -> TeamPolicy:
    """Read and check a team; executes nothing from the folder.

    Raises:
        ValueError: A file is missing, damaged, changed or of a version that is not known.
    """
    folder = Path(path).expanduser()
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(
                f"{str(path)!r} is no whole exported policy: {name} is missing; copy the folder "
                "again, or make it with `rllib-om2p export`."
            )
    description = _read_description(folder / DESCRIPTION)
    data = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(data).hexdigest() != description["weights_sha256"]:
        raise ValueError(
            f"{folder / WEIGHTS} is not the file that {DESCRIPTION} was written with (sha256 "
            "differs): it is damaged, changed or of another export; export again."
        )
    try:
        return _team(description, load(data))
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is not a safetensors file: {error}.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / DESCRIPTION} is damaged: {error!r}; export again.") from error


def _describe(team: TeamPolicy) -> dict[str, Any]:
    agents = [
        {
            "id": agent.agent_id,
            "module_class": agent.module_class,
            "model_config": dict(agent.model_config),
            "observation_space": space_to_json(agent.observation_space),
            "action_space": space_to_json(agent.action_space),
        }
        for agent in team.agents
    ]
    description = {
        "format": FORMAT,
        "version": VERSION,
        "algorithm": team.algorithm,
        "agents": agents,
        "environment": dict(team.environment),
        "dataset": dict(team.dataset),
        "training": dict(team.training),
        "packages": dict(team.packages),
        "teams": dict(team.teams),
    }
    try:
        # As it will be read: tuples become lists before the digest is taken.
        plain: dict[str, Any] = json.loads(json.dumps(description, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the team cannot be described in JSON ({error}); model_config and the environment's "
            "settings must hold text, finite numbers, booleans, lists and dicts."
        ) from error
    return plain


def _read_description(file: Path) -> dict[str, Any]:
    if file.stat().st_size > MAX_DESCRIPTION_BYTES:
        raise ValueError(f"{file} has more than {MAX_DESCRIPTION_BYTES} bytes; it is none of ours.")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}; export again.") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError(
            f"{file} does not describe an exported policy; expected format {FORMAT!r}."
        )
    if description.get("version") != VERSION:
        raise ValueError(
            f"{file} has version {description.get('version')!r}, this package reads {VERSION}; "
            "update the package or export again."
        )
    stated = description.pop("sha256", None)
    if stated != _digest(description):
        raise ValueError(f"{file} was changed after it was written (sha256 differs); export again.")
    return description


def _team(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TeamPolicy:
    weights: dict[str, dict[str, Tensor]] = {agent["id"]: {} for agent in description["agents"]}
    for key, tensor in tensors.items():
        agent_id, _, name = key.rpartition("/")
        weights[agent_id][name] = tensor
    agents = tuple(
        AgentPolicy(
            agent_id=agent["id"],
            module_class=agent["module_class"],
            model_config=agent["model_config"],
            observation_space=space_from_json(agent["observation_space"]),
            action_space=space_from_json(agent["action_space"]),
            weights=weights[agent["id"]],
        )
        for agent in description["agents"]
    )
    names = ("algorithm", "dataset", "environment", "training", "packages")
    teams = description.get("teams", {})  # older folders have none
    return TeamPolicy(agents=agents, teams=teams, **{name: description[name] for name in names})


def _digest(description: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
