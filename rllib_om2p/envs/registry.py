"""Environments by name, for people (`make`), for RLlib (`register`) and for cards (`info`).

A name and its `EnvInfo` are known without any simulator installed; mpe2, PettingZoo and RLlib are
imported only when an environment is made or registered.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from rllib_om2p.envs.paper_constants import MAX_CYCLES

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv
    from ray.rllib.env.multi_agent_env import MultiAgentEnv

TeamReturn = Literal["mean over agents", "agent 0", "sum"]


@dataclass(frozen=True)
class AgentInfo:
    """One learned agent: its name, its observation and its box of actions."""

    name: str
    obs_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]


@dataclass(frozen=True)
class EnvInfo:
    """What a dataset card and a comparison need to know about an environment.

    Attributes:
        name: The registered name.
        agents: The learned agents in their order.
        team_return: How the agents' rewards form one number per step.
        time_limit: Steps after which an episode is truncated.
        references: "random" and "expert" team returns and their "source".
    """

    name: str
    agents: tuple[AgentInfo, ...]
    team_return: TeamReturn
    time_limit: int
    references: Mapping[str, float | str]

    @property
    def agent_ids(self) -> tuple[str, ...]:
        """Names of the agents, in order."""
        return tuple(agent.name for agent in self.agents)

    def team_rewards(self, rewards: NDArray[Any]) -> NDArray[Any]:
        """Return one team reward, (...), from the agents' rewards, (..., agents)."""
        if rewards.shape[-1] != len(self.agents):
            raise ValueError(
                f"rewards must be (..., {len(self.agents)}), one per agent of {self.name}, got "
                f"{rewards.shape}."
            )
        if self.team_return == "agent 0":
            return rewards[..., 0]
        total = rewards.sum(axis=-1)
        return total / len(self.agents) if self.team_return == "mean over agents" else total


@dataclass(frozen=True)
class _Entry:
    info: EnvInfo
    create: Callable[..., ParallelEnv]


def _create_mpe(task: str, **kwargs: Any) -> ParallelEnv:
    from rllib_om2p.envs.mpe import make_mpe

    return make_mpe(task, **kwargs)


def _mpe_agents(num_agents: int, obs_dim: int) -> tuple[AgentInfo, ...]:
    return tuple(
        AgentInfo(f"agent_{i}", obs_dim, 2, (-1.0, -1.0), (1.0, 1.0)) for i in range(num_agents)
    )


_PAPERS = "random and expert returns of the papers' datasets (OMAR, OM2P)"

_ENTRIES: Mapping[str, _Entry] = {
    "mpe/simple_spread": _Entry(
        EnvInfo(
            name="mpe/simple_spread",
            agents=_mpe_agents(3, obs_dim=18),
            team_return="mean over agents",
            time_limit=MAX_CYCLES,
            references={"random": 159.8, "expert": 516.8, "source": _PAPERS},
        ),
        functools.partial(_create_mpe, "simple_spread"),
    ),
}


def names() -> tuple[str, ...]:
    """Return the registered names."""
    return tuple(_ENTRIES)


def info(name: str) -> EnvInfo:
    """Return what is known about an environment without making it.

    Raises:
        ValueError: The name is not registered; the text lists near ones.
    """
    return _entry(name).info


def make(name: str, **kwargs: Any) -> ParallelEnv:
    """Return a PettingZoo ParallelEnv; its `unwrapped` is the simulator's own environment.

    Args:
        name: A registered name, such as "mpe/simple_spread".
        kwargs: Passed to the environment, such as `render_mode="rgb_array"`.

    Raises:
        ValueError: The name is not registered; the text lists near ones.
    """
    return _entry(name).create(**kwargs)


def register() -> None:
    """Give RLlib every name, so that `config.environment(name, env_config=kwargs)` works.

    The key "first_seed" fixes the start states: the k-th reset without a seed of its own uses
    first_seed + k. All environments of one `env_config` start alike, so let one play at a time.
    """
    from ray.tune.registry import register_env

    for name in _ENTRIES:
        register_env(name, functools.partial(_create_for_rllib, name))


def _create_for_rllib(name: str, config: Mapping[str, Any]) -> MultiAgentEnv:
    from rllib_om2p.envs.rllib_env import RLlibParallelEnv

    settings = dict(config)
    first_seed = settings.pop("first_seed", None)
    return RLlibParallelEnv(make(name, **settings), first_seed=first_seed)


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        near = difflib.get_close_matches(str(name), _ENTRIES, n=3, cutoff=0.4)
        suggestion = f"did you mean {' or '.join(near)}?" if near else f"known: {[*_ENTRIES]}."
        raise ValueError(f"No environment is named {name!r}; {suggestion}")
    return _ENTRIES[name]
