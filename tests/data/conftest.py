"""Small datasets that the tests write, read and break for real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rllib_om2p.data.schema import AgentSpec, DatasetSpec, Episode
from rllib_om2p.data.writer import DatasetWriter

# Six episodes of 4 to 9 steps in row groups of about 20 rows and files of about 30.
LENGTHS = (4, 9, 5, 9, 7, 6)


class MakeEpisode(Protocol):
    def __call__(self, spec: DatasetSpec, length: int, seed: int = 0) -> Episode: ...


def _make_episode(spec: DatasetSpec, length: int, seed: int = 0) -> Episode:
    rng = np.random.default_rng(seed)

    def floats(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    def action(agent: AgentSpec) -> np.ndarray:
        if agent.num_actions is not None:
            return rng.integers(agent.num_actions, size=length)
        shape = (length, agent.action_dim)
        return rng.uniform(agent.action_low, agent.action_high, shape).astype(np.float32)

    discrete = [agent for agent in spec.agents if agent.num_actions is not None]
    return Episode(
        obs={agent.name: floats(length + 1, agent.obs_dim) for agent in spec.agents},
        actions={agent.name: action(agent) for agent in spec.agents},
        rewards={name: floats(length) for name in spec.agent_ids},
        terminateds={name: rng.random(length) < 0.2 for name in spec.agent_ids},
        truncated=bool(rng.random() < 0.5),
        state=floats(length + 1, spec.state_dim) if spec.state_dim is not None else None,
        action_masks={a.name: rng.random((length + 1, a.action_dim)) < 0.5 for a in discrete}
        if spec.has_action_masks
        else None,
        alive={name: rng.random(length + 1) < 0.5 for name in spec.agent_ids}
        if spec.has_alive
        else None,
        behaviour_id=int(rng.integers(100)) if spec.has_behaviour_id else None,
    )


@pytest.fixture(scope="session")
def make_episode() -> MakeEpisode:
    return _make_episode


@pytest.fixture(scope="session")
def spec() -> DatasetSpec:
    """Two unequal agents; agent_10 stands before agent_2 on purpose."""
    return DatasetSpec(
        dataset_id="test/pair/medium",
        quality="medium",
        agents=(
            AgentSpec.box("agent_10", 3, 2),
            AgentSpec("agent_2", 2, 2, (-2.0, 0.5), (3.0, 1.5)),
        ),
        references={"random": 0.0, "expert": 10.0, "source": "made up"},
        seeds={"behaviour": 1},
    )


@pytest.fixture(scope="session")
def rich_spec() -> DatasetSpec:
    """Every optional column, and discrete actions beside continuous ones."""
    return DatasetSpec(
        dataset_id="test/rich",
        agents=(AgentSpec.discrete("walker", 2, 4), AgentSpec.box("flyer", 4, 1)),
        team_return="sum",
        state_dim=3,
        has_action_masks=True,
        has_alive=True,
        has_behaviour_id=True,
    )


@pytest.fixture(scope="session")
def episodes(spec: DatasetSpec) -> list[Episode]:
    return [_make_episode(spec, length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write episodes into row groups of about 20 rows and files of about 30."""

    def write(
        spec: DatasetSpec, episodes: Sequence[Episode], name: str = "data", **settings: object
    ) -> Path:
        sizes = {"rows_per_group": 20, "rows_per_file": 30}
        with DatasetWriter(tmp_path / name, spec, **(sizes | settings)) as writer:
            for episode in episodes:
                writer.write_episode(episode)
        return tmp_path / name

    return write


@pytest.fixture
def dataset_path(
    write: Callable[..., Path], spec: DatasetSpec, episodes: Sequence[Episode]
) -> Path:
    return write(spec, episodes)


@pytest.fixture(scope="session")
def rewrite() -> Callable[[Path, Callable[[pa.Table], pa.Table]], None]:
    """Change the table in a Parquet file, one row group for all rows."""

    def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
        pq.write_table(change(pq.read_table(path)), path)

    return rewrite
