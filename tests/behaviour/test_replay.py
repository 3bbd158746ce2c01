"""The replay buffer against a plain list of transitions."""

from __future__ import annotations

from typing import Any

import numpy as np

from rllib_om2p.behaviour.replay import ReplayBuffer

STEPS, WORLDS, AGENTS, OBS = 4, 3, 2, 5


def _fill(buffer: ReplayBuffer, num_rounds: int, last_steps: int = STEPS) -> list[Any]:
    """Add rounds of unique numbers; return (obs, actions, rewards, next_obs) in order."""
    generator = np.random.default_rng(0)
    transitions = []
    for index in range(num_rounds):
        obs = generator.normal(size=(WORLDS, AGENTS, OBS)).astype(np.float32)
        buffer.start_round(obs)
        for _ in range(last_steps if index == num_rounds - 1 else STEPS):
            actions = generator.normal(size=(WORLDS, AGENTS, 2)).astype(np.float32)
            rewards = generator.normal(size=(WORLDS, AGENTS)).astype(np.float32)
            next_obs = generator.normal(size=(WORLDS, AGENTS, OBS)).astype(np.float32)
            buffer.add(actions, rewards, next_obs)
            transitions += list(zip(obs, actions, rewards, next_obs, strict=True))
            obs = next_obs
    return transitions


def _keys(transitions: Any) -> list[bytes]:
    return [b"".join(np.ascontiguousarray(x).tobytes() for x in one) for one in transitions]


def test_samples_are_uniform_over_exactly_the_transitions_held() -> None:
    # Five rounds into room for three; the present one has two of its four steps.
    buffer = ReplayBuffer(3, STEPS, WORLDS, obs_shape=(AGENTS, OBS))
    held = _keys(_fill(buffer, 5, last_steps=2))[2 * STEPS * WORLDS :]
    assert buffer.num_steps == len(held) == (2 * STEPS + 2) * WORLDS
    sampled = _keys(zip(*buffer.sample(np.random.default_rng(1), 30_000), strict=True))
    counts = {key: 0 for key in held}
    for key in sampled:
        counts[key] += 1
    expected = len(sampled) / len(held)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    # 29 degrees of freedom: 58.3 is passed once in a thousand.
    assert chi_square < 58.3


def test_episodes_are_the_newest_whole_ones_in_order() -> None:
    buffer = ReplayBuffer(3, STEPS, WORLDS, obs_shape=(AGENTS, OBS))
    transitions = _fill(buffer, 4)
    episodes = buffer.episodes()
    assert episodes.obs.shape == (3 * WORLDS, STEPS + 1, AGENTS, OBS)
    for index in range(3 * WORLDS):
        round_, world = divmod(index, WORLDS)
        for step in range(STEPS):
            obs, actions, rewards, next_obs = transitions[
                ((round_ + 1) * STEPS + step) * WORLDS + world
            ]
            np.testing.assert_array_equal(episodes.obs[index, step], obs)
            np.testing.assert_array_equal(episodes.actions[index, step], actions)
            np.testing.assert_array_equal(episodes.rewards[index, step], rewards)
            np.testing.assert_array_equal(episodes.obs[index, step + 1], next_obs)


def test_unfinished_episodes_are_left_out() -> None:
    buffer = ReplayBuffer(3, STEPS, WORLDS, obs_shape=(AGENTS, OBS))
    _fill(buffer, 2, last_steps=1)
    assert len(buffer.episodes().rewards) == WORLDS
