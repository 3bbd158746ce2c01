"""The Parquet contract: what a dataset of team episodes says about itself, and its columns.

Knows pyarrow types only; reading, writing and learning happen elsewhere.

One row is one joint transition. The rows of an episode are contiguous, numbered by `step` from 0,
and never straddle files or row groups. FINAL ROW: each episode ends with one extra row
(`valid = false`, actions and rewards zero, flags false) that holds the observation after the last
action, so the next observation of a row is the observation of the row below it and is stored once.
`terminated_AGENT` says that an agent's episode ended for good at that step; `truncated` stands on
the last acting row of an episode that was stopped from outside, for example by a time limit.
ABSENT AGENTS: where `alive_AGENT` is false the agent is not there; it has not come yet or has left.
It does nothing and earns nothing: its action is zero (the point of its box nearest to zero where
the box leaves zero out), its reward and `terminated` are zero. Its observation is zero and its mask
allows action 0 only, but for the first row after it left, which holds what it saw last: the next
observation of its last step. Who plays to the end of an episode is alive in the final row.

Axes: T acting steps of an episode, E episodes, R rows, O observation, A action, S state features.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rllib_om2p.team_return import TEAM_RETURNS, TeamReturn, team_reward

SCHEMA_VERSION = 1
VERSION_KEY = b"rllib_om2p.schema_version"
SPEC_KEY = b"rllib_om2p.spec"
CONTENT_KEY = b"rllib_om2p.content_sha256"
CARD_NAME = "dataset_card.json"

ColumnKind = Literal[
    "episode_id",
    "step",
    "obs",
    "action",
    "reward",
    "terminated",
    "truncated",
    "valid",
    "state",
    "action_mask",
    "alive",
    "behaviour_id",
]
FloatArray: TypeAlias = npt.NDArray[np.float32]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
AnyArray: TypeAlias = npt.NDArray[Any]


class DataError(ValueError):
    """A dataset or an episode breaks the contract; the text names the place and the remedy."""


class StorageError(DataError):
    """A file could not be reached; it may well be whole."""


# What RLlib does not take in a module's id (core/rl_module/__init__.py:33, 2.60.0).
_FORBIDDEN = frozenset('<>:"/\\|?')


def _make_whole(spec: Any, *names: str) -> None:
    """Turn whole numbers of any kind, such as gymnasium's, into Python's, which JSON knows."""
    for name in names:
        value = getattr(spec, name)
        if value is not None:
            try:
                object.__setattr__(spec, name, operator.index(value))
            except TypeError as error:
                raise DataError(f"{name} must be a whole number, got {value!r}.") from error


@dataclass(frozen=True)
class AgentSpec:
    """What one agent sees and does.

    Args:
        name: The agent's id, part of its column names.
        obs_dim: Length of the (flat) observation.
        action_dim: Length of the action vector; for discrete actions the number of actions, since
            they are handed out one-hot.
        action_low: Lower end of the action box, one number per action feature.
        action_high: Upper end of the action box.
        num_actions: Number of discrete actions, None when actions are continuous.
    """

    name: str
    obs_dim: int
    action_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    num_actions: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "action_low", tuple(float(x) for x in self.action_low))
        object.__setattr__(self, "action_high", tuple(float(x) for x in self.action_high))
        _make_whole(self, "obs_dim", "action_dim", "num_actions")
        if not self.name or _FORBIDDEN & set(self.name) or self.name[-1] in " .":
            raise DataError(
                f"An agent's name becomes that of a module and of a folder, got {self.name!r}; "
                f"choose one without any of {' '.join(sorted(_FORBIDDEN))} and without a dot or a "
                "space at its end."
            )
        if self.obs_dim < 1 or self.action_dim < 1:
            raise DataError(
                f"Agent {self.name}: obs_dim and action_dim must be at least 1, got "
                f"{self.obs_dim} and {self.action_dim}."
            )
        if len(self.action_low) != self.action_dim or len(self.action_high) != self.action_dim:
            raise DataError(
                f"Agent {self.name}: the action box must have {self.action_dim} lower and upper "
                f"ends (action_dim), got {len(self.action_low)} and {len(self.action_high)}."
            )
        for low, high in zip(self.action_low, self.action_high, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise DataError(
                    f"Agent {self.name}: the action box must be finite with low < high, got "
                    f"[{low}, {high}]; rescale the actions to a finite box."
                )
        if self.num_actions is not None and self.num_actions != self.action_dim:
            raise DataError(
                f"Agent {self.name}: action_dim must equal num_actions = {self.num_actions} "
                f"(discrete actions are handed out one-hot), got {self.action_dim}."
            )

    @classmethod
    def box(
        cls,
        name: str,
        obs_dim: int,
        action_dim: int,
        *,
        low: float = -1.0,
        high: float = 1.0,
    ) -> AgentSpec:
        """Return an agent whose action features all lie in [low, high]."""
        return cls(name, obs_dim, action_dim, (low,) * action_dim, (high,) * action_dim)

    @classmethod
    def discrete(cls, name: str, obs_dim: int, num_actions: int) -> AgentSpec:
        """Return an agent with actions 0 .. num_actions - 1, one-hot in the unit box."""
        zeros, ones = (0.0,) * num_actions, (1.0,) * num_actions
        return cls(name, obs_dim, num_actions, zeros, ones, num_actions)


# What a DatasetSpec says of where its rows come from and of their scale, not of what they are.
PROVENANCE = ("behaviour", "seeds", "references", "mixture", "package_versions", "parents")


@dataclass(frozen=True)
class DatasetSpec:
    """What a dataset says about itself; stored in every file.

    Args:
        dataset_id: Name of the dataset, for example "mpe/simple_spread/medium".
        quality: How good the behaviour was, for example "medium".
        env: Name under which the environment can be made, None if there is none.
        env_kwargs: Keyword arguments of the environment.
        agents: The agents in their order, which holds everywhere.
        team_return: How the agents' rewards form the team's return.
        time_limit: Steps after which the environment truncates an episode.
        state_dim: Length of the global state, None if there is none.
        behaviour: Who acted: algorithm, hyperparameters, checkpoint hash, noise, frozen opponents.
        seeds: The seeds that made the data.
        references: {"random": float, "expert": float, "source": str} for normalised scores, or {}.
        mixture: Fractions of the parts of a mixed dataset, or {}.
        package_versions: Versions of the packages that made the data.
        parents: Ids of the datasets that this one was made from.
        has_action_masks: Whether there are columns with the legal discrete actions.
        has_alive: Whether there are columns that say which agents are present.
        has_behaviour_id: Whether there is a column that says which policy acted.
    """

    dataset_id: str
    agents: tuple[AgentSpec, ...]
    quality: str = ""
    env: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    team_return: TeamReturn = "mean over agents"
    time_limit: int | None = None
    state_dim: int | None = None
    behaviour: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, Any] = field(default_factory=dict)
    references: dict[str, Any] = field(default_factory=dict)
    mixture: dict[str, Any] = field(default_factory=dict)
    package_versions: dict[str, str] = field(default_factory=dict)
    parents: list[str] = field(default_factory=list)
    has_action_masks: bool = False
    has_alive: bool = False
    has_behaviour_id: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "agents", tuple(self.agents))
        _make_whole(self, "time_limit", "state_dim")
        for name in ("env_kwargs", "behaviour", "seeds", "references", "mixture", "parents"):
            object.__setattr__(self, name, self._plain(name))
        if not self.agents:
            raise DataError("A dataset needs at least one agent, got none.")
        if len(set(self.agent_ids)) != len(self.agents):
            raise DataError(f"Agents must have different names, got {list(self.agent_ids)}.")
        if self.team_return not in TEAM_RETURNS:
            raise DataError(f"team_return must be one of {TEAM_RETURNS}, got {self.team_return!r}.")
        if self.state_dim is not None and self.state_dim < 1:
            raise DataError(f"state_dim must be at least 1 or None, got {self.state_dim}.")
        if self.has_action_masks and not any(agent.num_actions for agent in self.agents):
            raise DataError("Action masks belong to discrete actions, but no agent has any.")

    def _plain(self, name: str) -> Any:
        """Return a field as JSON gives it back, so that a stored spec equals its original."""
        try:
            return json.loads(json.dumps(getattr(self, name), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{name} of {self.dataset_id} must hold plain JSON values (text, finite numbers, "
                f"booleans, lists, dicts): {error}."
            ) from error

    @property
    def agent_ids(self) -> tuple[str, ...]:
        """The agents' names in their order."""
        return tuple(agent.name for agent in self.agents)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain JSON types."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """Return the spec as JSON text that depends on nothing but its values."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def identity(self) -> str:
        """Return what the rows mean to a reader as JSON text: the spec without PROVENANCE."""
        said = self.to_dict()
        return json.dumps({k: said[k] for k in said if k not in PROVENANCE}, sort_keys=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DatasetSpec:
        """Rebuild a spec; unknown versions and fields are refused.

        Raises:
            DataError: The version is unknown, or fields are missing or unknown.
        """
        values = dict(values)
        version = values.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise DataError(
                f"schema version {version!r} is unknown, this package reads {SCHEMA_VERSION}; "
                "update the package or write the dataset again."
            )
        try:
            agents = tuple(AgentSpec(**agent) for agent in values.pop("agents"))
            return cls(agents=agents, **values)
        except (KeyError, TypeError) as error:
            raise DataError(f"the spec has missing or unknown fields: {error}.") from error

    @classmethod
    def from_json(cls, text: str | bytes) -> DatasetSpec:
        """Rebuild a spec from `to_json`."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise DataError(f"the spec is not JSON: {error}.") from error
        if not isinstance(values, dict):
            raise DataError(f"the spec must be a JSON object, got {type(values).__name__}.")
        return cls.from_dict(values)


class Column(NamedTuple):
    """One column of the contract.

    Args:
        name: Column name, for example "obs_agent_0".
        kind: What it holds.
        agent: Whose it is, None for columns of the whole team.
        width: Number of float32 features when packed (one-hot for discrete actions).
        type: Arrow type in the file.
    """

    name: str
    kind: ColumnKind
    agent: AgentSpec | None
    width: int
    type: pa.DataType


def _vector(element: pa.DataType, size: int) -> pa.DataType:
    return pa.list_(pa.field("element", element, nullable=False), size)


def _agent_columns(spec: DatasetSpec, agent: AgentSpec) -> list[Column]:
    name, floats = agent.name, pa.float32()
    discrete = agent.num_actions is not None
    action_type = pa.int64() if discrete else _vector(floats, agent.action_dim)
    columns = [
        Column(f"obs_{name}", "obs", agent, agent.obs_dim, _vector(floats, agent.obs_dim)),
        Column(f"action_{name}", "action", agent, agent.action_dim, action_type),
        Column(f"reward_{name}", "reward", agent, 1, floats),
        Column(f"terminated_{name}", "terminated", agent, 1, pa.bool_()),
    ]
    if spec.has_action_masks and discrete:
        mask = _vector(pa.bool_(), agent.action_dim)
        columns.append(Column(f"action_mask_{name}", "action_mask", agent, agent.action_dim, mask))
    if spec.has_alive:
        columns.append(Column(f"alive_{name}", "alive", agent, 1, pa.bool_()))
    return columns


def contract_columns(spec: DatasetSpec) -> dict[str, Column]:
    """Return every column that a dataset with this spec has, by name and in file order.

    Raises:
        DataError: Agent names make two columns share a name.
    """
    columns = [
        Column("episode_id", "episode_id", None, 1, pa.int64()),
        Column("step", "step", None, 1, pa.int32()),
    ]
    for agent in spec.agents:
        columns += _agent_columns(spec, agent)
    columns += [
        Column("truncated", "truncated", None, 1, pa.bool_()),
        Column("valid", "valid", None, 1, pa.bool_()),
    ]
    if spec.state_dim is not None:
        state_type = _vector(pa.float32(), spec.state_dim)
        columns.append(Column("state", "state", None, spec.state_dim, state_type))
    if spec.has_behaviour_id:
        columns.append(Column("behaviour_id", "behaviour_id", None, 1, pa.int32()))
    by_name = {column.name: column for column in columns}
    if len(by_name) != len(columns):
        names = [column.name for column in columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"Agent names make columns {twice} appear twice; rename the agents.")
    return by_name


def arrow_schema(spec: DatasetSpec) -> pa.Schema:
    """Return the Arrow schema of every file, with version and spec as metadata.

    No column holds nulls. See the module text for the meaning of the rows.
    """
    fields = [
        pa.field(column.name, column.type, nullable=False)
        for column in contract_columns(spec).values()
    ]
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode(), SPEC_KEY: spec.to_json().encode()}
    return pa.schema(fields, metadata=metadata)


def team_rewards(
    spec: DatasetSpec, rewards: Mapping[str, AnyArray], members: Collection[str] | None = None
) -> npt.NDArray[np.float64]:
    """Return the team's reward or return from the agents' (same shape, float64).

    Args:
        spec: Names the agents and how their rewards form the team's.
        rewards: By agent, of one shape.
        members: The agents of the team; all if None.
    """
    names = [name for name in spec.agent_ids if members is None or name in members]
    stacked = np.stack([np.asarray(rewards[name], np.float64) for name in names])
    return team_reward(stacked, spec.team_return, axis=0)


@dataclass(frozen=True, eq=False)
class Episode:
    """One team episode of T steps.

    Args:
        obs: Per agent (T + 1, O) float32, the last row is the final observation.
        actions: Per agent (T, A) float32, or (T,) int64 when discrete.
        rewards: Per agent (T,) float32.
        terminateds: Per agent (T,) bool: the agent's episode ended for good at this step.
        truncated: Whether the episode was stopped from outside (time limit) after its last step.
        state: (T + 1, S) float32 global state, None if the dataset has none.
        action_masks: Per discrete agent (T + 1, A) bool, True where an action is legal.
        alive: Per agent (T + 1,) bool, True while the agent is present.
        behaviour_id: Which policy acted.
        episode_id: Its number in the dataset; given by the writer.
    """

    obs: dict[str, FloatArray]
    actions: dict[str, AnyArray]
    rewards: dict[str, FloatArray]
    terminateds: dict[str, BoolArray]
    truncated: bool
    state: FloatArray | None = None
    action_masks: dict[str, BoolArray] | None = None
    alive: dict[str, BoolArray] | None = None
    behaviour_id: int | None = None
    episode_id: int | None = None

    def __len__(self) -> int:
        for arrays in (self.rewards, self.actions, self.terminateds):
            for array in arrays.values():
                return len(array)
        return max((len(array) - 1 for array in self.obs.values()), default=0)
