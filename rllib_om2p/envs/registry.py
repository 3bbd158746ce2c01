"""Environments by name, for people (`make`), for RLlib (`register`) and for cards (`info`).

A name and its `EnvInfo` are known without any simulator installed; mpe2, PettingZoo and RLlib are
imported only when an environment is made or registered.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
        state_dim: Length of the global state that `state()` of the environment gives, if it does.
        can_terminate: Whether an episode can end before the time limit.
    """

    name: str
    agents: tuple[AgentInfo, ...]
    team_return: TeamReturn
    time_limit: int
    references: Mapping[str, float | str]
    state_dim: int | None = None
    can_terminate: bool = False

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
    # What is known when `observations` is given, where an environment has that setting.
    variants: Mapping[str, EnvInfo] = field(default_factory=dict)


def _create_mpe(task: str, **kwargs: Any) -> ParallelEnv:
    from rllib_om2p.envs.mpe import make_mpe

    return make_mpe(task, **kwargs)


def _create_mamujoco(task: str, **kwargs: Any) -> ParallelEnv:
    from rllib_om2p.envs.mamujoco import MAMuJoCo

    return MAMuJoCo(task, **kwargs)


def _mpe_agents(num_agents: int, obs_dim: int) -> tuple[AgentInfo, ...]:
    return tuple(
        AgentInfo(f"agent_{i}", obs_dim, 2, (-1.0, -1.0), (1.0, 1.0)) for i in range(num_agents)
    )


_PAPERS = "random and expert returns of the papers' datasets (OMAR, OM2P)"


def _mpe_entry(
    task: str, obs_dim: int, team_return: TeamReturn, references: Mapping[str, float]
) -> _Entry:
    info = EnvInfo(
        name=f"mpe/{task}",
        agents=_mpe_agents(3, obs_dim),
        team_return=team_return,
        time_limit=MAX_CYCLES,
        references={**references, "source": _PAPERS},
    )
    return _Entry(info, functools.partial(_create_mpe, task))


_MPE = (
    _mpe_entry("simple_spread", 18, "mean over agents", {"random": 159.8, "expert": 516.8}),
    # The predators' rewards are all alike.
    _mpe_entry("simple_tag", 16, "agent 0", {"random": -4.1, "expert": 185.6}),
    _mpe_entry("simple_world", 24, "agent 0", {"random": -6.8, "expert": 79.5}),
)


def _mamujoco_entry(
    task: str,
    *,
    state_dim: int,
    local: Sequence[int],
    full: int,
    action_dim: int,
    references: Mapping[str, float | str],
    papers: Literal["local", "full"] = "full",
) -> _Entry:
    """Describe a robot; `local` and `full` are the agents' observation sizes."""

    def describe(sizes: Sequence[int]) -> EnvInfo:
        low, high = (-1.0,) * action_dim, (1.0,) * action_dim
        return EnvInfo(
            name=f"mamujoco/{task}",
            agents=tuple(
                AgentInfo(f"agent_{i}", size, action_dim, low, high) for i, size in enumerate(sizes)
            ),
            # Every agent receives the robot's reward; a mean of equal numbers would be rounded.
            team_return="agent 0",
            time_limit=1000,
            references=references,
            state_dim=state_dim,
            can_terminate=not task.endswith("HalfCheetah"),
        )

    variants = {"local": describe(local), "full": describe([full] * len(local))}
    return _Entry(variants[papers], functools.partial(_create_mamujoco, task), variants)


def _omiga(random: float, expert: float) -> dict[str, float | str]:
    source = (
        "random: mean of 500 to 1000 episodes, measured here; "
        "expert: mean return of OMIGA's expert dataset (VGM2P)"
    )
    return {"random": random, "expert": expert, "source": source}


_MAMUJOCO = (
    _mamujoco_entry(
        "2x3-HalfCheetah",
        state_dim=17,
        local=(6, 6),
        full=19,
        action_dim=3,
        references={"random": -284.0, "expert": 3568.8, "source": _PAPERS},
        papers="local",
    ),
    _mamujoco_entry(
        "6x1-HalfCheetah",
        state_dim=17,
        local=(9, 9, 8, 9, 9, 8),
        full=23,
        action_dim=1,
        references=_omiga(-292.9, 2785.0),
    ),
    _mamujoco_entry(
        "3x1-Hopper",
        state_dim=11,
        local=(8, 9, 8),
        full=14,
        action_dim=1,
        references=_omiga(17.5, 2452.0),
    ),
    _mamujoco_entry(
        "2x4-Ant",
        state_dim=105,
        local=(63, 63),
        full=113,
        action_dim=4,
        references=_omiga(-49.4, 2055.0),
    ),
)

_ENTRIES: Mapping[str, _Entry] = {entry.info.name: entry for entry in (*_MPE, *_MAMUJOCO)}


def names() -> tuple[str, ...]:
    """Return the registered names."""
    return tuple(_ENTRIES)


def info(name: str, *, observations: str | None = None) -> EnvInfo:
    """Return what is known about an environment without making it.

    Args:
        name: A registered name.
        observations: As given to `make`, where the environment has that setting.

    Raises:
        ValueError: The name is not registered; the text lists near ones. Or it has no such
            observations.
    """
    entry = _entry(name)
    if observations is None:
        return entry.info
    if observations not in entry.variants:
        known = f"there are {[*entry.variants]}" if entry.variants else "leave it out"
        raise ValueError(f"{name} has no observations={observations!r}; {known}.")
    return entry.variants[observations]


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
        near: list[str] = []
        for similarity in (0.85, 0.4):  # a slip of the finger, else whatever is alike
            near = near or difflib.get_close_matches(str(name), _ENTRIES, n=3, cutoff=similarity)
        suggestion = f"did you mean {' or '.join(near)}?" if near else f"known: {[*_ENTRIES]}."
        raise ValueError(f"No environment is named {name!r}; {suggestion}")
    return _ENTRIES[name]
