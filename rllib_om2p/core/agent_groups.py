"""Agents of equal shape as one stack: which columns become which (group, batch) tensors.

Knows nothing of losses or of RLlib. Agents with equal observation and action sizes form a group, in
the order of the dataset; each group's tensors are (G, B, feature) views of the sampled rows.

`core.transform` makes the rows of the table: observations normalised, actions in [-1, 1], rewards
standardised, with the teams' rewards and terminations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from rllib_om2p.data.schema import AgentSpec, DatasetSpec


@dataclass(frozen=True)
class AgentGroup:
    """Agents that share one stack of parameters.

    Attributes:
        agents: Their specs, in the dataset's order.
        positions: Their positions in the dataset's list of agents.
    """

    agents: tuple[AgentSpec, ...]
    positions: tuple[int, ...]

    @property
    def agent_ids(self) -> tuple[str, ...]:
        """The ids of the agents, in the order of the stack."""
        return tuple(agent.name for agent in self.agents)

    @property
    def obs_dim(self) -> int:
        """Observation size of each agent of the group."""
        return self.agents[0].obs_dim

    @property
    def action_dim(self) -> int:
        """Action size of each agent of the group (number of actions when discrete)."""
        return self.agents[0].action_dim

    @property
    def is_discrete(self) -> bool:
        """Whether the agents choose one of `action_dim` actions; as vectors these are one-hot."""
        return self.agents[0].num_actions is not None

    def identities(self, num_agents: int) -> Tensor:
        """Return each agent's one-hot position among all `num_agents` of the dataset, (G, N)."""
        return torch.eye(num_agents)[list(self.positions)]

    def __len__(self) -> int:
        """The number of agents in the group."""
        return len(self.agents)


def make_groups(spec: DatasetSpec) -> tuple[AgentGroup, ...]:
    """Return the groups of a dataset's agents, ordered by their first agent."""
    members: dict[tuple[int, int, bool], list[int]] = {}
    for position, agent in enumerate(spec.agents):
        shape = (agent.obs_dim, agent.action_dim, agent.num_actions is not None)
        members.setdefault(shape, []).append(position)
    return tuple(
        AgentGroup(tuple(spec.agents[p] for p in positions), tuple(positions))
        for positions in members.values()
    )


@dataclass(frozen=True)
class Team:
    """Agents whose rewards form one return and whose values a joint critic sums.

    Attributes:
        name: As the config calls it; "team" where all agents are one.
        agents: Where its members stand in the concatenation of the groups, in the dataset's order.
    """

    name: str
    agents: tuple[int, ...]


def make_teams(
    spec: DatasetSpec,
    groups: Sequence[AgentGroup],
    teams: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Team, ...]:
    """Return the teams that a config names, or all agents as one.

    Raises:
        ValueError: An agent is in no team or in two, a team is empty or names an unknown agent.
    """
    order = [name for group in groups for name in group.agent_ids]
    if teams is None:
        return (Team("team", tuple(order.index(name) for name in spec.agent_ids)),)
    named = [name for members in teams.values() for name in members]
    if sorted(named) != sorted(order) or not all(teams.values()):
        raise ValueError(
            f"teams must hold each agent of {list(spec.agent_ids)} once, got "
            f"{ {name: list(members) for name, members in teams.items()} }."
        )
    return tuple(
        Team(name, tuple(order.index(a) for a in spec.agent_ids if a in members))
        for name, members in teams.items()
    )


class GroupBatch(NamedTuple):
    """One group's part of a batch; G agents, B transitions.

    Attributes:
        obs: Normalised observations, (G, B, O).
        actions: Actions in [-1, 1], (G, B, A); discrete ones are 1 where chosen and -1 elsewhere.
        next_obs: Normalised next observations, (G, B, O).
        rewards: Each agent's own reward, standardised if the config says so, (G, B).
        terminateds: 1 where the agent's episode ended for good, (G, B).
        action_mask: 1 where a discrete action is legal, (G, B, A); None if the dataset has none.
        next_action_mask: The same at the next observation.
        alive: 1 where the agent is present, so that the transition is its own, (G, B); None if
            every agent always is.
        next_alive: The same at the next observation.
    """

    obs: Tensor
    actions: Tensor
    next_obs: Tensor
    rewards: Tensor
    terminateds: Tensor
    action_mask: Tensor | None = None
    next_action_mask: Tensor | None = None
    alive: Tensor | None = None
    next_alive: Tensor | None = None


class JointBatch(NamedTuple):
    """A batch of joint transitions; M teams, one unless the config names several.

    Attributes:
        groups: One entry per group.
        team_rewards: Each team's reward by the dataset's convention, standardised likewise, (M, B).
    """

    groups: tuple[GroupBatch, ...]
    team_rewards: Tensor

    @property
    def alive(self) -> Tensor | None:
        """Every agent's presence, (N, B); None if all always are."""
        parts = [group.alive for group in self.groups if group.alive is not None]
        return torch.cat(parts) if parts else None


@dataclass(frozen=True)
class RowLayout:
    """Where each quantity of a joint transition stands in a row of the table.

    A row holds, each ordered by group: observations, masks of legal actions and presence (where the
    dataset has them), actions, rewards, terminateds; then the teams' rewards. The first three are
    what the next row is read for.

    Attributes:
        spec: The dataset's description.
        groups: Its groups.
        teams: Who shares a return.
    """

    spec: DatasetSpec
    groups: tuple[AgentGroup, ...]
    teams: tuple[Team, ...]

    @classmethod
    def of(cls, spec: DatasetSpec, teams: Mapping[str, Sequence[str]] | None = None) -> RowLayout:
        """Return a dataset's layout."""
        groups = make_groups(spec)
        return cls(spec, groups, make_teams(spec, groups, teams))

    @cached_property
    def agents(self) -> tuple[AgentSpec, ...]:
        """All agents in the order of the groups."""
        return tuple(agent for group in self.groups for agent in group.agents)

    @property
    def team_agents(self) -> tuple[tuple[int, ...], ...]:
        """Each team's agents, as positions in the concatenation of the groups."""
        return tuple(team.agents for team in self.teams)

    @property
    def num_agents(self) -> int:
        """The number of agents."""
        return len(self.agents)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The dataset's columns in the order in which the reader must pack them."""
        kinds = {"obs": self.agents}
        if self.spec.has_action_masks:
            kinds["action_mask"] = tuple(a for a in self.agents if a.num_actions is not None)
        if self.spec.has_alive:
            kinds["alive"] = self.agents
        kinds |= dict.fromkeys(("action", "reward", "terminated"), self.agents)
        names = [f"{kind}_{agent.name}" for kind, agents in kinds.items() for agent in agents]
        return (*names, "truncated")

    @cached_property
    def sections(self) -> Mapping[str, slice]:
        """The columns of the table by what they hold."""
        actions = sum(agent.action_dim for agent in self.agents)
        masks = sum(agent.num_actions or 0 for agent in self.agents)
        widths = {
            "obs": sum(agent.obs_dim for agent in self.agents),
            "action_mask": masks if self.spec.has_action_masks else 0,
            "alive": self.num_agents if self.spec.has_alive else 0,
            "action": actions,
            "reward": self.num_agents,
            "terminated": self.num_agents,
            "team_reward": len(self.teams),
        }
        sections, start = {}, 0
        for name, width in widths.items():
            sections[name] = slice(start, start + width)
            start += width
        return sections

    @property
    def obs_width(self) -> int:
        """The number of leading columns that hold observations."""
        return self.sections["obs"].stop

    @property
    def observed_width(self) -> int:
        """The number of leading columns that hold what agents observe: the next row's matter."""
        return self.sections["alive"].stop

    @property
    def width(self) -> int:
        """The number of float32 columns of the table."""
        return self.sections["team_reward"].stop

    def view(self, rows: Tensor, next_observed: Tensor) -> JointBatch:
        """Return the batch that sampled rows mean, as views without copies.

        Args:
            rows: Rows of the table, (B, width).
            next_observed: The observed columns of the rows that follow, (B, observed_width).
        """
        now, after = _Cursor(self.sections, rows), _Cursor(self.sections, next_observed)
        has_masks, has_alive = self.spec.has_action_masks, self.spec.has_alive
        groups = []
        for group in self.groups:
            size, masked = len(group), has_masks and group.is_discrete
            groups.append(
                GroupBatch(
                    obs=now.vectors("obs", size, group.obs_dim),
                    actions=now.vectors("action", size, group.action_dim),
                    next_obs=after.vectors("obs", size, group.obs_dim),
                    rewards=now.scalars("reward", size),
                    terminateds=now.scalars("terminated", size),
                    action_mask=now.vectors("action_mask", size, group.action_dim)
                    if masked
                    else None,
                    next_action_mask=after.vectors("action_mask", size, group.action_dim)
                    if masked
                    else None,
                    alive=now.scalars("alive", size) if has_alive else None,
                    next_alive=after.scalars("alive", size) if has_alive else None,
                )
            )
        return JointBatch(tuple(groups), now.scalars("team_reward", len(self.teams)))


class _Cursor:
    """Hands out the columns of each section, group after group."""

    def __init__(self, sections: Mapping[str, slice], rows: Tensor) -> None:
        self._rows = rows
        self._next = {name: section.start for name, section in sections.items()}

    def vectors(self, section: str, size: int, dim: int) -> Tensor:
        """Return the next `size` agents' vectors, (size, B, dim)."""
        return self._take(section, size * dim).view(len(self._rows), size, dim).transpose(0, 1)

    def scalars(self, section: str, size: int) -> Tensor:
        """Return the next `size` agents' numbers, (size, B)."""
        return self._take(section, size).T

    def _take(self, section: str, width: int) -> Tensor:
        start = self._next[section]
        self._next[section] = start + width
        return self._rows[:, start : start + width]
