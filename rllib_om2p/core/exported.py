"""RLModules and a config from an exported folder, without executing anything that it brings.

What classes it may name is fixed: the RLModules of this package.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import gymnasium as gym
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.policy.policy import PolicySpec
from ray.rllib.utils.annotations import override

from rllib_om2p.core.config import OfflineConfig, agent_is_module
from rllib_om2p.core.rl_module import AgentModule
from rllib_om2p.data.schema import DatasetSpec
from rllib_om2p.export.folder import AgentPolicy, TeamPolicy, read_team

# The algorithms stand above core. Importing them makes their modules subclasses that are known
# here; nothing else is ever imported by a name.
PACKAGE = "rllib_om2p"
ALGORITHMS = f"{PACKAGE}.algorithms"


def module_classes() -> dict[str, type[AgentModule]]:
    """Return the RLModule classes that an exported folder may name, by their names."""
    importlib.import_module(ALGORITHMS)
    found: dict[str, type[AgentModule]] = {}
    waiting = list(AgentModule.__subclasses__())
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if cls.__module__.startswith(f"{PACKAGE}."):
            assert found.setdefault(cls.__name__, cls) is cls, cls
    return found


def exported_modules(path: str | Path) -> dict[str, RLModule]:
    """Return the modules of an exported folder by agent id, in the dataset's order.

    Raises:
        ValueError: A damaged folder, a class that is not allowed, or weights that do not fit it.
    """
    modules = {}
    for agent in read_team(path).agents:
        module = _module_spec(agent).build()
        try:
            module.load_state_dict(agent.weights, strict=True)
        except RuntimeError as error:
            raise ValueError(
                f"the weights of agent {agent.agent_id!r} do not fit its {agent.module_class}: "
                f"{error}. Export again with this version of the package."
            ) from error
        modules[agent.agent_id] = module
    return modules


class ExportedConfig(OfflineConfig):
    """What RLlib's env runners build an exported team from; it cannot train.

    Args:
        team: From `read_team`.

    Raises:
        ValueError: A class that is not allowed.
    """

    def __init__(self, team: TeamPolicy) -> None:
        super().__init__()
        spec = DatasetSpec.from_dict(team.dataset["spec"])
        self._dataset_spec = (self.input_, spec.to_json())
        self.teams = {name: list(members) for name, members in team.teams.items()} or None
        self._modules = {agent.agent_id: _module_spec(agent) for agent in team.agents}
        spaces = {a.agent_id: (a.observation_space, a.action_space) for a in team.agents}
        self.observation_space = gym.spaces.Dict({k: obs for k, (obs, _) in spaces.items()})
        self.action_space = gym.spaces.Dict({k: action for k, (_, action) in spaces.items()})
        self.multi_agent(
            policies={
                k: PolicySpec(observation_space=obs, action_space=action)
                for k, (obs, action) in spaces.items()
            },
            policy_mapping_fn=agent_is_module,
        )
        if team.environment["name"] is not None:
            self.environment(team.environment["name"], env_config=team.environment["kwargs"])

    @override(OfflineConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the first agent's spec, which RLlib asks for settings of its connectors."""
        return next(iter(self._modules.values()))

    @override(OfflineConfig)
    def get_multi_rl_module_spec(self, **kwargs: Any) -> MultiRLModuleSpec:
        """Return the specs of the agents' modules, which nothing else decides."""
        return MultiRLModuleSpec(rl_module_specs=dict(self._modules))


def exported_config(path: str | Path) -> OfflineConfig:
    """Return the config to play an exported folder with.

    Raises:
        ValueError: A damaged folder, or a class that is not allowed.
    """
    return ExportedConfig(read_team(path))


def _module_spec(agent: AgentPolicy) -> RLModuleSpec:
    classes = module_classes()
    if agent.module_class not in classes:
        raise ValueError(
            f"agent {agent.agent_id!r} asks for module class {agent.module_class!r}, which is not "
            f"one of this package: {sorted(classes)}. Update the package, or take the policy from "
            "its checkpoint."
        )
    return RLModuleSpec(
        module_class=classes[agent.module_class],
        observation_space=agent.observation_space,
        action_space=agent.action_space,
        model_config=dict(agent.model_config),
    )
