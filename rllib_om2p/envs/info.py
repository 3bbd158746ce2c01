"""What is known of an environment without making it; must not know simulators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from rllib_om2p.team_return import TeamReturn, team_reward


@dataclass(frozen=True)
class AgentInfo:
    """One learned agent: its name, its observation and its actions.

    Attributes:
        name: Its id.
        obs_dim: Length of its observation.
        action_dim: Length of its action vector; the number of actions if they are discrete.
        action_low: Lower ends of the box; zeros if discrete, as `data.schema.AgentSpec` has them.
        action_high: Upper ends of the box; ones if discrete.
        num_actions: How many discrete actions there are, None if they are continuous.
    """

    name: str
    obs_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    num_actions: int | None = None

    @classmethod
    def box(cls, name: str, obs_dim: int, action_dim: int) -> AgentInfo:
        """Return an agent whose action features all lie in [-1, 1]."""
        return cls(name, obs_dim, action_dim, (-1.0,) * action_dim, (1.0,) * action_dim)

    @classmethod
    def discrete(cls, name: str, obs_dim: int, num_actions: int) -> AgentInfo:
        """Return an agent with the actions 0 .. num_actions - 1."""
        zeros, ones = (0.0,) * num_actions, (1.0,) * num_actions
        return cls(name, obs_dim, num_actions, zeros, ones, num_actions)


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
        has_action_masks: Whether the agents are told which actions are legal: each observation
            then is {"observations": (O,) float32, "action_mask": (A,) int8, 1 where legal}.
    """

    name: str
    agents: tuple[AgentInfo, ...]
    team_return: TeamReturn
    time_limit: int
    references: Mapping[str, float | str]
    state_dim: int | None = None
    can_terminate: bool = False
    has_action_masks: bool = False

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
        return team_reward(rewards, self.team_return, axis=-1)
