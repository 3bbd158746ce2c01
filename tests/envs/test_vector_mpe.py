"""The vectorised simulator against the recordings and against PettingZoo."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from rllib_om2p import envs
from rllib_om2p.envs.rollout import evaluate_policy, rollout
from rllib_om2p.envs.vector_mpe import VECTOR_TASKS, VectorMPE
from tests.envs.recorded import PREY_TASKS, TASKS, RecordedPrey, recorded

NAME = "mpe/simple_spread"


def _pettingzoo_episode(name: str, seed: int, actions: Any) -> tuple[Any, Any]:
    env = envs.make(name)
    obs, _ = env.reset(seed=seed)
    all_obs, all_rewards = [[*obs.values()]], []
    for step in actions:
        obs, rewards, *_ = env.step(dict(zip(env.possible_agents, step, strict=True)))
        all_obs.append([*obs.values()])
        all_rewards.append([*rewards.values()])
    return np.array(all_obs), np.array(all_rewards)


def _towards_the_others(obs: Any) -> Any:
    """Act towards the other agents: the offsets end before 4 silent numbers or what prey show."""
    last = obs.shape[-1] - {18: 4, 16: 2, 24: 4}[obs.shape[-1]]
    return np.clip(obs[..., last - 4 : last - 2] + obs[..., last - 2 : last], -1.0, 1.0)


@pytest.mark.parametrize("task", TASKS)
def test_recorded_episodes_are_reproduced_to_1e_9(task: str) -> None:
    record = recorded(task)
    prey = RecordedPrey(task) if task in PREY_TASKS else None
    pos, vel, obs = (record[key] for key in ("agent_pos", "agent_vel", "obs"))
    worlds = VectorMPE(f"mpe/{task}", len(pos), prey=prey, dtype=np.float64)
    start = worlds.set_state(pos[:, 0], vel[:, 0], record["landmark_pos"])
    np.testing.assert_allclose(start, obs[:, 0])
    for step in range(record["actions"].shape[1]):
        result = worlds.step(record["actions"][:, step])
        np.testing.assert_allclose(result.obs, obs[:, step + 1], atol=1e-9)
        np.testing.assert_allclose(result.rewards, record["rewards"][:, step], atol=1e-9)
        if prey:
            np.testing.assert_allclose(prey.seen[step], record["prey_obs"][:, step], atol=1e-9)
            rewards = worlds.prey_rewards()
            np.testing.assert_allclose(rewards, record["prey_reward"][:, step], atol=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_seeds_give_the_start_states_and_episodes_of_pettingzoo(task: str) -> None:
    name, seeds = f"mpe/{task}", [7, 0, 123_456_789]
    # Agents run into each other, so that contact forces, penalties and touches occur.
    episodes = rollout(name, _towards_the_others, seeds=seeds)
    for index, seed in enumerate(seeds):
        obs, rewards = _pettingzoo_episode(name, seed, episodes.actions[index])
        np.testing.assert_array_equal(episodes.obs[index, 0], obs[0])
        np.testing.assert_allclose(episodes.obs[index], obs, atol=1e-6)
        np.testing.assert_allclose(episodes.rewards[index], rewards, atol=1e-6)
    if task == "simple_spread":
        assert (episodes.rewards < episodes.rewards.max(axis=2, keepdims=True) - 4).any()
    else:
        assert episodes.rewards.max() > 3


def test_food_rewards_the_prey_as_in_pettingzoo() -> None:
    env = envs.make("mpe/simple_world")
    worlds = VectorMPE("mpe/simple_world", 1)
    world, scenario = env.unwrapped.world, env.unwrapped.scenario
    for seed in range(3):
        env.reset(seed=seed)
        worlds.reset([seed])
        world.agents[3].state.p_pos = world.food[seed % 2].state.p_pos + 0.05
        worlds.set_state(
            np.array([[agent.state.p_pos for agent in world.agents]]),
            np.zeros((1, 4, 2)),
            np.array([[landmark.state.p_pos for landmark in world.landmarks]]),
        )
        expected = scenario.reward(world.agents[3], world)
        np.testing.assert_allclose(worlds.prey_rewards(), [expected], atol=1e-12)


@pytest.mark.parametrize("name", [*VECTOR_TASKS])
def test_registry_states_the_dimensions_of_the_simulator(name: str) -> None:
    info = envs.info(name)
    worlds = VectorMPE(name, 2)
    obs = worlds.reset()
    step = worlds.step(np.zeros((2, len(info.agents), 2)))
    assert info.agent_ids == worlds.agents == tuple(envs.make(name).possible_agents)
    assert {agent.obs_dim for agent in info.agents} == {obs.shape[2]}
    assert step.obs.shape == obs.shape
    assert step.obs.dtype == np.float32
    assert step.rewards.shape == (2, len(info.agents))


def test_unseeded_starts_are_uniform_and_repeat_with_the_simulators_seed() -> None:
    first, same, other = (VectorMPE(NAME, 2_000, seed=seed) for seed in (1, 1, 2))
    starts = [worlds.reset() for worlds in (first, same, other)]
    np.testing.assert_array_equal(starts[0], starts[1])
    assert (starts[0] != starts[2]).any()
    positions = starts[0][..., 2:4]
    # Uniform on [-1, 1]: mean 0 and variance 1/3, within five standard errors of 12,000 draws.
    assert abs(positions.mean()) < 5 * np.sqrt(1 / 3 / 12_000)
    assert abs(positions.var() - 1 / 3) < 5 * np.sqrt(4 / 45 / 12_000)
    assert (first.reset() != starts[0]).any()


def test_evaluation_does_not_depend_on_how_many_worlds_run_together() -> None:
    seeds = range(10)
    together = evaluate_policy(NAME, _towards_the_others, seeds)
    apart = evaluate_policy(NAME, _towards_the_others, seeds, max_worlds=3)
    np.testing.assert_array_equal(together, apart)
    assert together.shape == (10,)


@pytest.mark.parametrize("task", TASKS)
def test_uniform_random_policy_returns_what_the_papers_report(task: str) -> None:
    generator, name = np.random.default_rng(0), f"mpe/{task}"
    returns = evaluate_policy(
        name, lambda obs: generator.uniform(-1, 1, (*obs.shape[:2], 2)), range(2_000)
    )
    assert returns.mean() == pytest.approx(envs.info(name).references["random"], rel=0.05, abs=1.5)


def test_wrong_shapes_are_refused_with_both_shapes() -> None:
    worlds = VectorMPE(NAME, 4)
    worlds.reset()
    with pytest.raises(ValueError, match=r"\(4, 3, 2\), got \(4, 2\)"):
        worlds.step(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="Expected 4 seeds"):
        worlds.reset([1, 2])
    with pytest.raises(ValueError, match="No vectorised simulator for 'mpe/other'"):
        VectorMPE("mpe/other", 1)
    with pytest.raises(ValueError, match="papers' dynamics only, got dynamics='mpe2'; use envs"):
        VectorMPE(NAME, 1, dynamics="mpe2")
    with pytest.raises(ValueError, match="no prey in SimpleSpread"):
        worlds.observe_prey()
    with pytest.raises(ValueError, match="seeds is empty"):
        rollout(NAME, _towards_the_others, seeds=[])


@pytest.mark.benchmark
@pytest.mark.parametrize("name", [*VECTOR_TASKS])
def test_256_worlds_make_300_thousand_joint_steps_per_second(name: str) -> None:
    worlds = VectorMPE(name, 256)
    worlds.reset()
    actions = np.zeros((256, 3, 2), np.float32)
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(400):
            worlds.step(actions)
        rates.append(400 * 256 / (time.perf_counter() - start))
    print(f"joint steps per second: {max(rates):,.0f}")
    assert max(rates) >= 300_000
