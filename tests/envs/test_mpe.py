"""The PettingZoo environments against the papers' recorded transitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

from rllib_om2p import envs

RECORDED = Path(__file__).parents[1] / "fixtures" / "mpe_transitions.npz"
NAME = "mpe/simple_spread"


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    with np.load(RECORDED) as file:
        return {key.split("/")[1]: file[key] for key in file if key.startswith("simple_spread/")}


def _put(world: Any, agent_pos: Any, agent_vel: Any, landmark_pos: Any) -> None:
    for agent, position, velocity in zip(world.agents, agent_pos, agent_vel, strict=True):
        agent.state.p_pos, agent.state.p_vel = position.copy(), velocity.copy()
    for landmark, position in zip(world.landmarks, landmark_pos, strict=True):
        landmark.state.p_pos = position.copy()


def _actions(env: Any, value: float = 0.0) -> dict[str, Any]:
    return {agent: np.full(2, value, np.float32) for agent in env.agents}


def test_recorded_episodes_are_reproduced_to_1e_9(recorded: dict[str, Any]) -> None:
    env = envs.make(NAME)
    inner = env.unwrapped
    for episode in range(len(recorded["actions"])):
        env.reset()
        _put(
            inner.world,
            recorded["agent_pos"][episode, 0],
            recorded["agent_vel"][episode, 0],
            recorded["landmark_pos"][episode],
        )
        for step, actions in enumerate(recorded["actions"][episode]):
            by_agent = dict(zip(env.possible_agents, actions, strict=True))
            obs, rewards, terminateds, truncateds, _ = env.step(by_agent)
            exact = [inner.scenario.observation(agent, inner.world) for agent in inner.world.agents]
            np.testing.assert_allclose(exact, recorded["obs"][episode, step + 1], atol=1e-9)
            np.testing.assert_array_equal([*obs.values()], np.float32(exact))
            np.testing.assert_allclose(
                [rewards[agent] for agent in env.possible_agents],
                recorded["rewards"][episode, step],
                atol=1e-9,
            )
            assert not any(terminateds.values())
            assert all(truncateds.values()) == (step == 24)


def test_unwrapped_is_the_mpe2_environment_with_its_world() -> None:
    from mpe2._mpe_utils.simple_env import SimpleEnv

    env = envs.make(NAME)
    env.reset(seed=3)
    assert isinstance(env.unwrapped, SimpleEnv)
    assert [agent.name for agent in env.unwrapped.world.agents] == env.possible_agents


def test_pettingzoo_accepts_the_interface() -> None:
    parallel_api_test(envs.make(NAME), num_cycles=60)
    parallel_seed_test(lambda: envs.make(NAME))


def test_episode_is_truncated_and_never_terminated_at_a_chosen_limit() -> None:
    env = envs.make(NAME, max_cycles=3)
    env.reset(seed=0)
    ends = []
    while env.agents:
        *_, terminateds, truncateds, _ = env.step(_actions(env))
        ends.append((any(terminateds.values()), all(truncateds.values())))
    assert ends == [(False, False), (False, False), (False, True)]


def test_force_beyond_the_box_acts_as_the_box_bound() -> None:
    velocities = []
    for size in (1.0, 7.0):
        env = envs.make(NAME)
        env.reset(seed=0)
        env.step(_actions(env, size))
        velocities.append([agent.state.p_vel for agent in env.unwrapped.world.agents])
    np.testing.assert_array_equal(velocities[0], velocities[1])
    assert np.abs(velocities[0]).max() > 0.4


def test_action_that_is_not_finite_is_refused_by_agent() -> None:
    env = envs.make(NAME)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"agent_1 must be 2 finite numbers"):
        env.step({**_actions(env), "agent_1": np.array([np.nan, 0.0])})


def test_missing_agent_is_refused() -> None:
    env = envs.make(NAME)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"one action for each of .*agent_2.* got \['agent_0'\]"):
        env.step({"agent_0": np.zeros(2)})


def test_render_shows_the_agents_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    env = envs.make(NAME, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    for _ in range(5):
        env.step(_actions(env, 1.0))
    second = env.render()
    env.close()
    assert first.shape == (700, 700, 3)
    assert first.dtype == np.uint8
    assert (first != 255).any()
    assert (first != second).any()


def test_camera_stands_still_while_agents_move() -> None:
    env = envs.make(NAME, render_mode="rgb_array")
    env.reset(seed=0)

    def landmarks() -> np.ndarray:
        return (env.render() == 50).all(axis=-1)  # their grey; they are drawn over the agents

    before = landmarks()
    for _ in range(2):
        env.step(_actions(env, 1.0))
    np.testing.assert_array_equal(landmarks(), before)
    assert before.any()
    assert len(env.unwrapped.world.landmarks) == 3
    env.close()
