"""The PettingZoo environments against the papers' recorded transitions."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

from rllib_om2p import envs
from tests.envs.recorded import PREY_TASKS, TASKS, RecordedPrey, recorded

NAME = "mpe/simple_spread"


def _put(world: Any, agent_pos: Any, agent_vel: Any, landmark_pos: Any) -> None:
    for agent, position, velocity in zip(world.agents, agent_pos, agent_vel, strict=True):
        agent.state.p_pos, agent.state.p_vel = position.copy(), velocity.copy()
    for landmark, position in zip(world.landmarks, landmark_pos, strict=True):
        landmark.state.p_pos = position.copy()


def _actions(env: Any, value: float = 0.0) -> dict[str, Any]:
    return {agent: np.full(2, value, np.float32) for agent in env.agents}


def _replay(task: str, episode: int) -> dict[str, Any]:
    """Play the actions of a recorded episode and return what was recorded of it, anew."""
    record, played = recorded(task), collections.defaultdict(list)
    prey = RecordedPrey(task, [episode]) if task in PREY_TASKS else None
    env = envs.make(f"mpe/{task}", prey=prey)
    scenario, world = env.unwrapped.scenario, env.unwrapped.world
    env.reset()
    start = (record[key][episode, 0] for key in ("agent_pos", "agent_vel"))
    _put(world, *start, record["landmark_pos"][episode])
    for actions in record["actions"][episode]:
        by_agent = dict(zip(env.possible_agents, actions, strict=True))
        obs, rewards, terminateds, truncateds, _ = env.step(by_agent)
        exact = [scenario.observation(agent, world) for agent in world.agents]
        played["agent_pos"].append([agent.state.p_pos for agent in world.agents])
        played["agent_vel"].append([agent.state.p_vel for agent in world.agents])
        played["obs"].append(exact[:3])
        played["given"].append([obs[agent] for agent in env.possible_agents])
        played["rewards"].append([rewards[agent] for agent in env.possible_agents])
        played["ends"].append((any(terminateds.values()), all(truncateds.values())))
        if prey:
            played["prey_obs"].append(exact[3])
            played["prey_reward"].append(scenario.reward(world.agents[3], world))
    if prey:
        np.testing.assert_allclose(
            np.concatenate(prey.seen), record["prey_obs"][episode, :-1], atol=1e-9
        )
    return played


@pytest.mark.parametrize("task", TASKS)
def test_recorded_episodes_are_reproduced_to_1e_9(task: str) -> None:
    record = recorded(task)
    for episode in range(len(record["actions"])):
        played = _replay(task, episode)
        given, ends = played.pop("given"), played.pop("ends")
        assert set(played) == set(record) - {"actions", "prey_action", "landmark_pos"}
        for key, values in played.items():
            expected = record[key][episode, -25:]
            np.testing.assert_allclose(values, expected, atol=1e-9, err_msg=key)
        np.testing.assert_array_equal(given, np.float32(played["obs"]))
        assert ends == [(False, False)] * 24 + [(False, True)]


@pytest.mark.parametrize("task", PREY_TASKS)
def test_prey_is_part_of_the_environment_and_no_agent(task: str) -> None:
    env = envs.make(f"mpe/{task}")
    obs, _ = env.reset(seed=0)
    world = env.unwrapped.world
    assert [agent.name for agent in world.agents] == [*env.possible_agents, "prey"]
    assert [*obs] == env.possible_agents == env.agents == ["agent_0", "agent_1", "agent_2"]
    before = world.agents[3].state.p_pos
    _, rewards, *_ = env.step(_actions(env))
    assert [*rewards] == env.possible_agents
    assert np.abs(world.agents[3].state.p_pos - before).max() > 1e-3
    state = env.unwrapped.state()
    assert env.unwrapped.state_space.shape == state.shape == (3 * len(obs["agent_0"]),)


def test_prey_eats_for_a_reward_that_the_recordings_do_not_show() -> None:
    env = envs.make("mpe/simple_world")
    env.reset(seed=0)
    world, scenario = env.unwrapped.world, env.unwrapped.scenario
    prey, food = world.agents[3], world.food
    for predator in world.agents[:3]:
        predator.state.p_pos = np.array([-0.8, 0.0])
    for index, place in enumerate(([0.0, 0.0], [0.0, 0.4])):
        food[index].state.p_pos = np.array(place)
    rewards = {}
    for height in (0.074, 0.076):
        prey.state.p_pos = np.array([0.0, height])
        # 0.1 x the predators' distances, and 0.05 x that of the nearest food.
        others = 0.3 * np.hypot(0.8, height) + 0.05 * height
        rewards[height] = scenario.reward(prey, world) - others
    assert rewards == {0.074: pytest.approx(2.0), 0.076: pytest.approx(0.0)}


def _stock(task: str) -> Any:
    from mpe2 import simple_spread_v3, simple_tag_v3, simple_world_comm_v3

    if task == "simple_spread":
        return simple_spread_v3.parallel_env(continuous_actions=True)
    if task == "simple_tag":
        return simple_tag_v3.parallel_env(continuous_actions=True)
    return simple_world_comm_v3.parallel_env(num_good=1, num_adversaries=3, continuous_actions=True)


@pytest.mark.parametrize("task", TASKS)
def test_mpe2_dynamics_are_those_of_stock_mpe2(task: str) -> None:
    generator = np.random.default_rng(0)
    forces = generator.uniform(-1, 1, (25, 4, 2))
    prey_forces = iter(forces[:, 3:])
    prey = (lambda obs: next(prey_forces)) if task in PREY_TASKS else None
    ours, stock = envs.make(f"mpe/{task}", dynamics="mpe2", prey=prey), _stock(task)
    papers = envs.make(f"mpe/{task}", prey=lambda obs: obs[:, :2]) if prey else envs.make(NAME)
    for env in (ours, stock, papers):
        env.reset(seed=4)
    for step in forces:
        ours.step(dict(zip(ours.agents, step, strict=False)))
        papers.step(dict(zip(papers.agents, step, strict=False)))
        # mpe2's continuous action: nothing, left, right, down, up; a leader also speaks.
        five = np.stack(
            [0 * step[:, 0], *(np.maximum(s * step[:, i], 0) for i in (0, 1) for s in (-1, 1))],
            axis=1,
        )
        actions = {}
        for agent, action in zip(stock.agents, five, strict=False):
            actions[agent] = np.zeros(stock.action_space(agent).shape, np.float32)
            actions[agent][:5] = action
        stock.step(actions)
        for mine, theirs in zip(
            ours.unwrapped.world.entities, stock.unwrapped.world.entities, strict=True
        ):
            np.testing.assert_allclose(mine.state.p_pos, theirs.state.p_pos, atol=1e-6)
            np.testing.assert_allclose(mine.state.p_vel, theirs.state.p_vel, atol=1e-6)
    moved = [np.array([a.state.p_pos for a in e.unwrapped.world.agents]) for e in (ours, papers)]
    assert np.abs(moved[0] - moved[1]).max() > 0.1


def test_unknown_dynamics_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dynamics must be one of \('papers', 'mpe2'\), got 'x'"):
        envs.make(NAME, dynamics="x")


def test_unwrapped_is_the_mpe2_environment_with_its_world() -> None:
    from mpe2._mpe_utils.simple_env import SimpleEnv

    env = envs.make(NAME)
    env.reset(seed=3)
    assert isinstance(env.unwrapped, SimpleEnv)
    assert [agent.name for agent in env.unwrapped.world.agents] == env.possible_agents


@pytest.mark.parametrize("task", TASKS)
def test_pettingzoo_accepts_the_interface(task: str) -> None:
    parallel_api_test(envs.make(f"mpe/{task}"), num_cycles=60)
    parallel_seed_test(lambda: envs.make(f"mpe/{task}"), num_cycles=60)


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


@pytest.mark.parametrize("task", TASKS)
def test_render_shows_the_agents_without_a_display(
    monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    env = envs.make(f"mpe/{task}", render_mode="rgb_array")
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
        return (env.render() == 50).all(axis=-1)  # their grey; they are drawn over larger agents

    before = landmarks()
    for _ in range(2):
        env.step(_actions(env, 1.0))
    np.testing.assert_array_equal(landmarks(), before)
    assert before.any()
    assert len(env.unwrapped.world.landmarks) == 3
    env.close()


def test_who_is_in_a_forest_is_drawn_on_top_of_it() -> None:
    env = envs.make("mpe/simple_world", render_mode="rgb_array")
    env.reset(seed=0)
    world = env.unwrapped.world
    prey_color = tuple((world.agents[3].color * 200).astype(int))
    for entity in world.entities:
        entity.state.p_pos = np.array([-1.0, -1.0])
    for entity in (world.forests[0], world.agents[3]):
        entity.state.p_pos = np.zeros(2)
    frame = env.render()
    env.close()
    assert tuple(frame[350, 350]) == prey_color
    # Radii 0.045 and 0.3 at 0.9 x 350 / 1.3 pixels per unit.
    assert tuple(frame[350, 350 + 15]) == tuple((world.forests[0].color * 200).astype(int))
