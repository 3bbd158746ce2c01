"""Small datasets for tests: random team episodes of any shape, and Cooperative Navigation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rllib_om2p import envs
from rllib_om2p.data.schema import AgentSpec, DatasetSpec
from rllib_om2p.data.writer import DatasetWriter
from rllib_om2p.envs.rollout import rollout

UNEQUAL = (("walker", 4, 2), ("arm_10", 3, 1), ("arm_2", 3, 1))

# A sample of the project's, whose prey is an agent that wants the opposite, and its two sides.
PREDATORS_AND_PREY = Path("datasets/samples/mpe-simple_tag-medium-prey-agent").resolve()
TEAMS = {"predators": ["agent_0", "agent_1", "agent_2"], "prey": ["prey"]}


def write_random(
    directory: Path,
    agents: Sequence[tuple[str, int, int]] = UNEQUAL,
    *,
    num_episodes: int = 40,
    num_steps: int = 10,
    rows_per_group: int = 110,
    rows_per_file: int = 100_000,
    seed: int = 0,
    terminate: bool = True,
    boxes: Mapping[str, tuple[float, float]] | None = None,
    **spec_fields: Any,
) -> Path:
    """Write episodes of random numbers; every second one ends for good, the others in time."""
    rng = np.random.default_rng(seed)
    ends_of = {name: (-2.0, 1.0) for name, *_ in agents} | dict(boxes or {})
    specs = tuple(
        AgentSpec.box(name, obs_dim, action_dim, low=ends_of[name][0], high=ends_of[name][1])
        for name, obs_dim, action_dim in agents
    )
    fields = {"dataset_id": f"random-{seed}", "time_limit": num_steps} | spec_fields
    ends = np.zeros((num_episodes, num_steps), bool)
    if terminate:
        ends[::2, -1] = True
    shape = (num_episodes, num_steps)
    with DatasetWriter(
        directory,
        DatasetSpec(agents=specs, **fields),
        rows_per_group=rows_per_group,
        rows_per_file=rows_per_file,
    ) as writer:
        writer.write_batch(
            obs={
                a.name: rng.normal(3.0, 2.0, (num_episodes, num_steps + 1, a.obs_dim)).astype("f4")
                for a in specs
            },
            actions={
                a.name: rng.uniform(*ends_of[a.name], (*shape, a.action_dim)).astype("f4")
                for a in specs
            },
            rewards={a.name: rng.normal(-1.0, 5.0, shape).astype("f4") for a in specs},
            terminateds={a.name: ends for a in specs},
            truncated=~ends[:, -1],
        )
    return directory


def write_discrete(
    directory: Path, *, num_episodes: int = 20, num_steps: int = 8, seed: int = 0
) -> Path:
    """Write episodes of two agents with 4 masked actions, one of which leaves, and one in a box.

    picker_0 leaves after half of the steps; every second episode ends for good, the others in time.
    """
    rng = np.random.default_rng(seed)
    pickers, half = ("picker_1", "picker_0"), num_steps // 2
    spec = DatasetSpec(
        dataset_id=f"discrete-{seed}",
        agents=(
            AgentSpec.discrete("picker_1", 3, 4),
            AgentSpec.box("crane", 3, 2),
            AgentSpec.discrete("picker_0", 3, 4),
        ),
        time_limit=num_steps,
        has_action_masks=True,
        has_alive=True,
    )
    shape = (num_episodes, num_steps)
    masks = {name: rng.random((num_episodes, num_steps + 1, 4)) < 0.6 for name in pickers}
    for mask in masks.values():
        mask[..., 2] = True  # one action is always legal
    alive = {name: np.ones((num_episodes, num_steps + 1), bool) for name in spec.agent_ids}
    alive["picker_0"][:, half:] = False
    ends = {name: np.zeros(shape, bool) for name in spec.agent_ids}
    for name in ("picker_1", "crane"):
        ends[name][::2, -1] = True
    ends["picker_0"][:, half - 1] = True
    actions: dict[str, Any] = {
        name: (mask[:, :-1] * rng.random((*shape, 4))).argmax(-1) for name, mask in masks.items()
    }
    actions["crane"] = rng.uniform(-1, 1, (*shape, 2)).astype("f4")
    obs = {
        n: rng.normal(size=(num_episodes, num_steps + 1, 3)).astype("f4") for n in spec.agent_ids
    }
    rewards = {n: rng.normal(size=shape).astype("f4") for n in spec.agent_ids}
    for values in (obs, rewards, actions):
        values["picker_0"][:, half:] = 0
    with DatasetWriter(directory, spec, rows_per_group=5 * (num_steps + 1)) as writer:
        writer.write_batch(
            obs=obs,
            actions=actions,
            rewards=rewards,
            terminateds=ends,
            truncated=~ends["crane"][:, -1],
            action_masks=masks,
            alive=alive,
        )
    return directory


def write_spread(directory: Path, *, num_episodes: int = 120, seed: int = 0) -> Path:
    """Write episodes of a uniformly random team on mpe/simple_spread."""
    rng = np.random.default_rng(seed)
    info = envs.info("mpe/simple_spread")
    episodes = rollout(
        info.name,
        lambda obs: rng.uniform(-1.0, 1.0, (*obs.shape[:2], 2)),
        seeds=range(seed, seed + num_episodes),
    )
    spec = DatasetSpec(
        dataset_id=f"simple_spread-random-{seed}",
        env=info.name,
        agents=tuple(
            AgentSpec(a.name, a.obs_dim, a.action_dim, a.action_low, a.action_high)
            for a in info.agents
        ),
        team_return=info.team_return,
        time_limit=info.time_limit,
        references=dict(info.references),
    )
    position = {agent: index for index, agent in enumerate(info.agent_ids)}
    with DatasetWriter(directory, spec, rows_per_group=26 * 30) as writer:
        writer.write_batch(
            obs={a: episodes.obs[:, :, i] for a, i in position.items()},
            actions={a: episodes.actions[:, :, i] for a, i in position.items()},
            rewards={a: episodes.rewards[:, :, i].astype("f4") for a, i in position.items()},
            terminateds={a: np.zeros((num_episodes, info.time_limit), bool) for a in position},
            truncated=np.ones(num_episodes, bool),
        )
    return directory
