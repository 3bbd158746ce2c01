"""Robots' episodes, played in blocks, here or over Ray tasks, or taken from a replay buffer.

A block is the unit of work: its starts, its noise and the size of its batches depend on the plan
alone, so that any number of workers makes the same episodes, and an interrupted dataset goes on at
any block. Knows the simulator and the policies; must not know RLlib.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rllib_om2p.behaviour import policies
from rllib_om2p.behaviour.masac_networks import stochastic
from rllib_om2p.behaviour.masac_replay import StateEpisode
from rllib_om2p.behaviour.policies import Policy
from rllib_om2p.data.schema import Episode
from rllib_om2p.envs.mamujoco_worlds import MAMuJoCoWorlds

logger = logging.getLogger(__name__)

Array = NDArray[Any]

BLOCK = 25
"""Episodes that are played together; part of the recipe, since they share a noise stream."""


class Block(NamedTuple):
    """Episodes that are played together."""

    task: str
    settings: Mapping[str, Any]  # of the environment
    policies: Sequence[Policy | None]  # None: uniform actions
    ids: Array  # (N,) which policy acts in each episode
    starts: Array  # (N,) seeds of the start states
    noise_seed: Sequence[int]


class _Frame(NamedTuple):
    """One step of all worlds of a block."""

    states: Array
    obs: Mapping[str, Array]
    actions: Array
    rewards: Array
    live: Array
    terminateds: Array


def plan_blocks(
    task: str,
    settings: Mapping[str, Any],
    acting: Sequence[Policy | None],
    ids: Array,
    starts: Array,
    *,
    seed: Sequence[int],
) -> list[Block]:
    """Cut episodes into blocks; `ids` (E,) says who acts in each and `starts` (E,) from where."""
    return [
        Block(
            task,
            settings,
            acting,
            ids[first : first + BLOCK],
            starts[first : first + BLOCK],
            (*seed, number),
        )
        for number, first in enumerate(range(0, len(ids), BLOCK))
    ]


def play_blocks(blocks: Sequence[Block], workers: int = 0) -> Iterator[list[Episode]]:
    """Yield the episodes of each block in order.

    Args:
        blocks: What to play.
        workers: Ray tasks at a time; 0 plays in this process. A Ray that runs already is used,
            otherwise one is started for the time being.
    """
    if workers == 0 or not blocks:
        yield from map(play_block, blocks)
        return
    import ray

    own = not ray.is_initialized()
    if own:
        ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        task = ray.remote(num_cpus=1)(play_block)
        waiting, running = deque(blocks), deque[Any]()
        while waiting or running:
            # Results wait in the object store until their turn, hence not all at once.
            while waiting and len(running) < 2 * workers:
                running.append(task.remote(waiting.popleft()))
            yield ray.get(running.popleft())
    finally:
        if own:
            ray.shutdown()


def play_block(block: Block) -> list[Episode]:
    """Play the episodes of a block together and return them in order."""
    worlds = _worlds(block.task, len(block.ids), tuple(sorted(block.settings.items())))
    act = _mixed(block, len(worlds.actuators))
    states = worlds.reset(block.starts)
    frames = []
    with policies.one_torch_thread():
        while worlds.live.any():
            live, obs, actions = worlds.live.copy(), worlds.observations(), act(states)
            next_states, rewards, terminateds, _ = worlds.step(actions)
            frames.append(_Frame(states, obs, actions, rewards, live, terminateds))
            states = next_states
    return _cut(frames, worlds, block.ids)


def team_returns(blocks: Sequence[Block], workers: int = 0) -> Array:
    """Return the team's return of every episode of the blocks."""
    return np.array(
        [
            float(np.sum(next(iter(episode.rewards.values())), dtype=np.float64))
            for episodes in play_blocks(blocks, workers)
            for episode in episodes
        ]
    )


def replayed(
    task: str, episodes: Sequence[StateEpisode], settings: Mapping[str, Any]
) -> list[Episode]:
    """Return a replay buffer's episodes with the observations that their states gave.

    A Hopper's local velocities are those of its state, which stops at 10 in either direction.
    """
    worlds = _worlds(task, 1, tuple(sorted(settings.items())))
    return [
        _episode(
            worlds,
            worlds.observations_of(episode.states),
            episode.states,
            episode.actions,
            episode.rewards,
            terminated=episode.terminated,
        )
        for episode in episodes
    ]


@functools.lru_cache(maxsize=2)
def _worlds(task: str, count: int, settings: tuple[tuple[str, Any], ...]) -> MAMuJoCoWorlds:
    # Compiling the models takes longer than an episode of a small robot.
    return MAMuJoCoWorlds(task, count, **dict(settings))


def _mixed(block: Block, action_dim: int) -> Callable[[Array], Array]:
    """Return the joint action of every world, by the policy that acts there."""
    generator = np.random.default_rng(block.noise_seed)
    acting = [
        (None if policy is None else stochastic(policy.actor, generator), block.ids == index)
        for index, policy in enumerate(block.policies)
    ]

    def act(states: Array) -> Array:
        actions = np.empty((len(states), action_dim), np.float32)
        for policy, mine in acting:
            if policy is None:
                actions[mine] = generator.uniform(-1.0, 1.0, (mine.sum(), action_dim))
            elif mine.any():
                actions[mine] = policy(states[mine])
        return actions

    return act


def _cut(frames: Sequence[_Frame], worlds: MAMuJoCoWorlds, ids: Array) -> list[Episode]:
    """Return each world's episode, up to its end."""
    live = np.stack([frame.live for frame in frames])
    terminateds = np.stack([frame.terminateds for frame in frames])
    states = np.stack([*(frame.states for frame in frames), worlds.states])
    actions = np.stack([frame.actions for frame in frames])
    rewards = np.stack([frame.rewards for frame in frames])
    last = worlds.observations()
    obs = {a: np.stack([*(f.obs[a] for f in frames), last[a]]) for a in worlds.agents}
    episodes = []
    for world, behaviour_id in enumerate(ids):
        length = int(live[:, world].sum())
        episodes.append(
            _episode(
                worlds,
                {agent: values[: length + 1, world] for agent, values in obs.items()},
                states[: length + 1, world],
                actions[:length, world],
                rewards[:length, world],
                terminated=bool(terminateds[length - 1, world]),
                behaviour_id=int(behaviour_id),
            )
        )
    return episodes


def _episode(
    worlds: MAMuJoCoWorlds,
    obs: Mapping[str, Array],
    states: Array,
    actions: Array,
    rewards: Array,
    *,
    terminated: bool,
    behaviour_id: int | None = None,
) -> Episode:
    ends = np.zeros(len(rewards), bool)
    ends[-1] = terminated
    own = np.split(actions, len(worlds.agents), axis=1)
    shared = rewards.astype(np.float32)
    return Episode(
        obs=dict(obs),
        actions=dict(zip(worlds.agents, own, strict=True)),
        rewards=dict.fromkeys(worlds.agents, shared),
        terminateds=dict.fromkeys(worlds.agents, ends),
        truncated=not terminated,
        state=states,
        behaviour_id=behaviour_id,
    )
