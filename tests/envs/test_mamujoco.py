"""The robots against gymnasium's single-agent tasks, and as worlds for a batched policy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("mujoco", reason="needs pip install 'rllib-om2p[mamujoco]'")
pytest.importorskip("gymnasium_robotics", reason="needs pip install 'rllib-om2p[mamujoco]'")

from pettingzoo.test import parallel_api_test

from rllib_om2p import envs
from rllib_om2p.envs.mamujoco import full_observations
from rllib_om2p.envs.mamujoco_worlds import MAMuJoCoWorlds
from rllib_om2p.envs.worlds import evaluate_team, make_worlds

NAMES = [name for name in envs.names() if name.startswith("mamujoco/")]
# gymnasium's task and, per agent, the robot's actuators in the order of its actions.
SINGLE: dict[str, tuple[str, list[list[int]]]] = {
    "mamujoco/2x3-HalfCheetah": ("HalfCheetah-v5", [[0, 1, 2], [3, 4, 5]]),
    "mamujoco/6x1-HalfCheetah": ("HalfCheetah-v5", [[0], [1], [2], [3], [4], [5]]),
    "mamujoco/3x1-Hopper": ("Hopper-v5", [[0], [1], [2]]),
    "mamujoco/2x4-Ant": ("Ant-v5", [[2, 3, 4, 5], [6, 7, 0, 1]]),
}


def _random_actions(name: str, rng: np.random.Generator) -> dict[str, Any]:
    return {
        agent.name: rng.uniform(-1, 1, agent.action_dim).astype(np.float32)
        for agent in envs.info(name).agents
    }


@pytest.mark.parametrize(
    ("name", "local", "full"),
    [
        ("mamujoco/2x3-HalfCheetah", [6, 6], 19),
        ("mamujoco/6x1-HalfCheetah", [9, 9, 8, 9, 9, 8], 23),
        ("mamujoco/3x1-Hopper", [8, 9, 8], 14),
        ("mamujoco/2x4-Ant", [63, 63], 113),
    ],
)
def test_observations_have_the_papers_sizes(name: str, local: list[int], full: int) -> None:
    for observations, sizes in (("local", local), ("full", [full] * len(local))):
        env = envs.make(name, observations=observations)
        obs, _ = env.reset(seed=0)
        info = envs.info(name, observations=observations)
        assert [value.shape for value in obs.values()] == [(size,) for size in sizes]
        assert {value.dtype for value in obs.values()} == {np.dtype(np.float32)}
        assert [agent.obs_dim for agent in info.agents] == sizes
        assert list(obs) == list(info.agent_ids) == env.possible_agents
        assert env.state().shape == (info.state_dim,)
    papers = "local" if name == "mamujoco/2x3-HalfCheetah" else "full"
    assert envs.info(name) == envs.info(name, observations=papers)
    with pytest.raises(ValueError, match=r"no observations='some'; there are \['local', 'full'\]"):
        envs.info(name, observations="some")


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_the_single_agent_task(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, actuators = SINGLE[name]
    monkeypatch.chdir(tmp_path)  # gymnasium's robots make mujoco write MUJOCO_LOG.TXT
    env, single = envs.make(name), gym.make(task)
    env.reset(seed=3)
    state, _ = single.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(40):
        np.testing.assert_array_equal(env.state(), np.float32(state))
        actions = _random_actions(name, rng)
        joint = np.zeros(single.action_space.shape)
        for own, action in zip(actuators, actions.values(), strict=True):
            joint[own] = action
        state, reward, terminated, truncated, _ = single.step(joint)
        _, rewards, terminateds, truncateds, _ = env.step(actions)
        assert rewards == dict.fromkeys(rewards, reward)
        assert set(terminateds.values()) == {terminated}
        assert set(truncateds.values()) == {truncated}
        if terminated:
            break
    assert np.abs(state).max() > 0.5  # It moved.


def test_local_observations_of_the_cheetah_are_its_own_joints() -> None:
    env = envs.make("mamujoco/2x3-HalfCheetah")
    obs, _ = env.reset(seed=0)
    data = env.unwrapped.single_agent_env.unwrapped.data
    for agent, joints in (("agent_0", (5, 4, 3)), ("agent_1", (8, 7, 6))):
        expected = [value for j in joints for value in (data.qpos[j], data.qvel[j])]
        np.testing.assert_array_equal(obs[agent], np.float32(expected))


def test_full_observation_is_the_normalised_state_with_the_agents_number() -> None:
    state = np.array([1.0, -2.0, 5.0])
    obs = full_observations(state, num_agents=2)
    features = np.array([1.0, -2.0, 5.0, 0.0, 1.0])
    np.testing.assert_allclose(obs[1], (features - 1.0) / np.sqrt((0 + 9 + 16 + 1 + 0) / 5))
    many = full_observations(np.stack([state, 2 * state]), num_agents=2)
    np.testing.assert_array_equal(many[0], obs)
    # The Ant's contact forces begin with those of the world body, as they did in Ant-v2.
    ant = full_observations(np.arange(1.0, 106.0), num_agents=2)[0]
    zero = ant[27]
    np.testing.assert_array_equal(ant[27:33], zero)
    assert zero == ant[-1]
    assert ant[33] - ant[26] == pytest.approx(ant[1] - ant[0], rel=1e-4)


def test_time_limit_truncates_and_a_fall_terminates() -> None:
    cheetah = envs.make("mamujoco/2x3-HalfCheetah", max_episode_steps=5)
    cheetah.reset(seed=0)
    still = {"agent_0": np.zeros(3), "agent_1": np.zeros(3)}
    for step in range(5):
        assert cheetah.agents
        *_, terminateds, truncateds, _ = cheetah.step(still)
        assert set(terminateds.values()) == {False}
        assert set(truncateds.values()) == {step == 4}
    with pytest.raises(ValueError, match="the episode is over, call reset"):
        cheetah.step(still)
    hopper = envs.make("mamujoco/3x1-Hopper")
    hopper.reset(seed=0)
    steps = 0
    while hopper.agents:
        *_, terminateds, truncateds, _ = hopper.step({a: np.ones(1) for a in hopper.agents})
        steps += 1
    assert steps < 200
    assert (set(terminateds.values()), set(truncateds.values())) == ({True}, {False})


@pytest.mark.parametrize("name", ["mamujoco/2x3-HalfCheetah", "mamujoco/3x1-Hopper"])
def test_pettingzoo_finds_nothing_to_complain(name: str) -> None:
    parallel_api_test(envs.make(name), num_cycles=60)


def test_actions_are_checked_and_clipped() -> None:
    name = "mamujoco/3x1-Hopper"
    env, clipped = envs.make(name), envs.make(name)
    for one in (env, clipped):
        one.reset(seed=0)
    large = env.step({agent: np.array([7.0]) for agent in env.agents})
    unit = clipped.step({agent: np.array([1.0]) for agent in clipped.agents})
    assert large[1] == unit[1]
    for action in ([np.nan], [0.0, 0.0]):
        with pytest.raises(ValueError, match="action of agent_0 must be 1 finite numbers"):
            env.step({agent: np.array(action) for agent in env.agents})
    with pytest.raises(ValueError, match=r"Expected one action for each of .*'agent_2'\]"):
        env.step({"agent_0": np.zeros(1)})


@pytest.mark.parametrize("name", ["mamujoco/2x3-HalfCheetah", "mamujoco/2x4-Ant"])
@pytest.mark.parametrize("observations", ["local", "full"])
def test_worlds_step_as_the_environment_does(name: str, observations: str) -> None:
    task, rng = name.partition("/")[2], np.random.default_rng(0)
    worlds = MAMuJoCoWorlds(task, 2, observations=observations)
    reference = [envs.make(name, observations=observations) for _ in range(2)]
    worlds.reset([5, 6])
    for env, seed in zip(reference, (5, 6), strict=True):
        env.reset(seed=seed)
    for _ in range(10):
        actions = [_random_actions(name, rng) for _ in reference]
        states, rewards, *_ = worlds.step([np.concatenate([*a.values()]) for a in actions])
        obs, made_up = worlds.observations(), worlds.observations_of(states)
        for i, env in enumerate(reference):
            expected, earned, *_ = env.step(actions[i])
            assert rewards[i] == earned["agent_0"]
            np.testing.assert_array_equal(states[i], env.state())
            for agent in env.agents:
                np.testing.assert_array_equal(obs[agent][i], expected[agent])
                np.testing.assert_allclose(made_up[agent][i], expected[agent], atol=1e-6)


def test_worlds_go_on_from_a_snapshot_exactly() -> None:
    worlds, other = (MAMuJoCoWorlds("2x4-Ant", 1, max_episode_steps=9) for _ in range(2))
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (9, 1, 8))
    worlds.reset([3])
    other.reset([4])
    for action in actions[:4]:
        worlds.step(action)
    snapshot = worlds.snapshot()
    steps = [worlds.step(action) for action in actions[4:]]
    other.restore(snapshot)
    for action, expected in zip(actions[4:], steps, strict=True):
        for value, reference in zip(other.step(action), expected, strict=True):
            np.testing.assert_array_equal(value, reference)
    assert steps[-1].truncateds == [True]
    assert not worlds.live.any()
    after = worlds.step(actions[0])
    assert (after.rewards, after.truncateds) == ([0.0], [False])


def test_team_of_unequal_agents_is_evaluated_to_each_episodes_end() -> None:
    name, seeds = "mamujoco/3x1-Hopper", [11, 12, 13]
    info = envs.info(name, observations="local")

    def lean(obs: Any) -> Any:
        assert [obs[a.name].shape for a in info.agents] == [(3, a.obs_dim) for a in info.agents]
        return {agent: np.sign(value[:, :1]) for agent, value in obs.items()}

    returns = evaluate_team(name, lean, seeds, observations="local")
    for seed, together in zip(seeds, returns, strict=True):
        env, alone = envs.make(name, observations="local"), 0.0
        obs, _ = env.reset(seed=seed)
        while env.agents:
            actions = {agent: np.sign(value[:1]) for agent, value in obs.items()}
            obs, rewards, *_ = env.step(actions)
            alone += rewards["agent_0"]
        assert together == pytest.approx(alone, rel=1e-12)


def test_random_team_makes_what_is_known_of_the_hopper() -> None:
    rng = np.random.default_rng(0)

    def act(obs: Any) -> Any:
        return {agent: rng.uniform(-1, 1, (len(value), 1)) for agent, value in obs.items()}

    returns = evaluate_team("mamujoco/3x1-Hopper", act, range(60))
    error = returns.std() / np.sqrt(len(returns))
    assert abs(returns.mean() - envs.info("mamujoco/3x1-Hopper").references["random"]) < 4 * error


def test_worlds_need_one_seed_each() -> None:
    with pytest.raises(ValueError, match="Expected 2 seeds, one per world, got 1"):
        make_worlds("mamujoco/3x1-Hopper", 2).reset([0])
    with pytest.raises(ValueError, match=r"actions must be \(1, 3\), got \(1, 2\)"):
        MAMuJoCoWorlds("3x1-Hopper", 1).step(np.zeros((1, 2)))


def test_rllib_env_runner_plays_unequal_agents() -> None:
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

    envs.register()
    agents = {"agent_0", "agent_1", "agent_2"}
    config = (
        PPOConfig()
        .environment("mamujoco/3x1-Hopper", env_config={"observations": "local"})
        .multi_agent(policies=agents, policy_mapping_fn=lambda agent, *_, **__: agent)
        .env_runners(num_env_runners=0)
    )
    runner = MultiAgentEnvRunner(config=config)
    episode = runner.sample(num_episodes=1, random_actions=True)[0]
    runner.stop()
    assert episode.is_terminated
    assert episode.get_observations(-1)["agent_1"].shape == (9,)


def _in_new_process(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_frames_are_drawn_without_a_display(tmp_path: Any) -> None:
    code = (
        "from rllib_om2p import envs\n"
        "size = {'width': 64, 'height': 48}\n"
        "env = envs.make('mamujoco/2x3-HalfCheetah', render_mode='rgb_array', **size)\n"
        "env.reset(seed=0)\n"
        "frame = env.render()\n"
        "print(frame.shape, frame.std() > 1)\n"
    )
    drawn = _in_new_process(code)
    if "cannot draw here with MUJOCO_GL=" in drawn.stderr:
        assert "install libegl1" in drawn.stderr
        pytest.skip("this machine has neither EGL nor OSMesa, or no device for them")
    assert drawn.stdout.split("\n")[-2] == "(48, 64, 3) True", drawn.stderr


def test_without_graphics_libraries_a_robot_moves_and_drawing_says_what_is_missing() -> None:
    code = (
        "import ctypes.util\n"
        "ctypes.util.find_library = lambda name: None\n"
        "from rllib_om2p import envs\n"
        "env = envs.make('mamujoco/3x1-Hopper', render_mode='rgb_array')\n"
        "env.reset(seed=0)\n"
        "env.step({agent: [0.0] for agent in env.agents})\n"
        "print('moved')\n"
        "env.render()\n"
    )
    done = _in_new_process(code)
    assert done.stdout.split("\n")[-2] == "moved", done.stderr
    assert "cannot draw here with MUJOCO_GL='disabled'" in done.stderr
    assert "install libegl1" in done.stderr


def test_missing_extra_is_named() -> None:
    code = (
        "import sys\n"
        "sys.modules['mujoco'] = None\n"
        "from rllib_om2p import envs\n"
        "assert envs.info('mamujoco/2x4-Ant').state_dim == 105\n"
        "envs.make('mamujoco/2x4-Ant')\n"
    )
    failed = _in_new_process(code)
    assert failed.returncode == 1
    assert "pip install 'rllib-om2p[mamujoco]'" in failed.stderr
