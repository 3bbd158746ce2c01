"""Names, their facts, and RLlib's view of them."""

from __future__ import annotations

import dataclasses
import inspect
import math
import subprocess
import sys
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from pettingzoo import ParallelEnv

from rllib_om2p import envs
from rllib_om2p.envs import prey
from rllib_om2p.envs.entries import ENTRIES
from rllib_om2p.envs.prey import cite_prey, own_prey_file
from rllib_om2p.envs.rollout import rollout

NAME = "mpe/simple_spread"
CHEETAH = "mamujoco/2x3-HalfCheetah"
FORAGING = "lbf/Foraging-8x8-3p-2f"
PARTICLES = (NAME, "mpe/simple_tag", "mpe/simple_world")


@pytest.mark.parametrize("function", [envs.make, envs.info])
def test_unknown_name_lists_near_ones(function: Any) -> None:
    with pytest.raises(ValueError, match=r"'mpe/simple_sprad'; did you mean mpe/simple_spread\?"):
        function("mpe/simple_sprad")
    with pytest.raises(ValueError, match=r"'pong'; known: \['mpe/simple_spread', 'mpe/simple_tag'"):
        function("pong")


_EXTRAS = {"mamujoco": "gymnasium_robotics", "lbf": "lbforaging"}
_SETTINGS = [
    *((name, {}) for name in envs.names()),
    (NAME, {"continuous_actions": False}),
    ("mpe/simple_tag", {"prey": "agent"}),
    ("mpe/simple_world", {"prey": "agent", "continuous_actions": False}),
    ("mamujoco/6x1-HalfCheetah", {"observations": "local"}),
    (NAME, {"max_cycles": 7}),
    ("mamujoco/2x3-HalfCheetah", {"max_episode_steps": 7}),
    ("lbf/Foraging-8x8-3p-2f", {"max_episode_steps": 7}),
]


@pytest.mark.parametrize(("name", "settings"), _SETTINGS)
def test_info_agrees_with_the_environment(name: str, settings: dict[str, Any]) -> None:
    family = name.partition("/")[0]
    if family in _EXTRAS:
        pytest.importorskip(_EXTRAS[family], reason=f"needs rllib-om2p[{family}]")
    info, env = envs.info(name, **settings), envs.make(name, **settings)
    env.reset(seed=0)
    assert list(info.agent_ids) == env.possible_agents
    idle: dict[str, Any] = {}
    for agent in info.agents:
        seen, acts = env.observation_space(agent.name), env.action_space(agent.name)
        if info.has_action_masks:
            assert seen["action_mask"] == gym.spaces.Box(0, 1, (agent.action_dim,), np.int8)
            seen = seen["observations"]
        assert seen.shape == (agent.obs_dim,)
        assert len(agent.action_low) == len(agent.action_high) == agent.action_dim
        if agent.num_actions is None:
            assert (tuple(acts.low), tuple(acts.high)) == (agent.action_low, agent.action_high)
            idle[agent.name] = np.zeros(agent.action_dim, np.float32)
        else:
            assert acts == gym.spaces.Discrete(agent.num_actions)
            assert agent.num_actions == agent.action_dim
            idle[agent.name] = 0
    steps = 0
    while env.agents:
        env.step(idle)
        steps += 1
    assert steps == info.time_limit or (info.can_terminate and steps < info.time_limit)
    has_papers_limit = info.time_limit == envs.info(name).time_limit
    assert bool(info.references) == (has_papers_limit and settings.get("prey") != "agent")


def test_settings_that_an_environment_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mpe/simple_spread has no prey='agent'; leave it out"):
        envs.info(NAME, prey="agent")
    with pytest.raises(ValueError, match=r"mpe/simple_tag has no observations='full'"):
        envs.info("mpe/simple_tag", observations="full")
    with pytest.raises(ValueError, match=r"no dynamic='mpe2'; leave it out, or did you mean dyna"):
        envs.info(NAME, dynamic="mpe2")
    with pytest.raises(ValueError, match=r"no first_seed=3; leave it out, or known: \['contin"):
        envs.info(NAME, first_seed=3)
    with pytest.raises(ValueError, match=r"no players=4; .* 'penalty'"):
        envs.info(FORAGING, players=4)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (NAME, {"render_mode": "rgb_array", "dynamic_rescaling": False, "prey": None}),
        (NAME, {"dynamics": "papers", "max_cycles": 25}),
        (CHEETAH, {"width": 64, "camera_id": 0, "frame_skip": 5, "ctrl_cost_weight": 0.1}),
        ("mamujoco/3x1-Hopper", {"healthy_z_range": [0.7, math.inf]}),  # as a card has it
        (FORAGING, {"penalty": 0.0, "sight": 8, "force_coop": False, "field_size": [8, 8]}),
        ("lbf/Foraging-8x8-2p-2f-coop", {"force_coop": True}),
    ],
)
def test_defaults_and_drawing_change_nothing_that_is_known(
    name: str, settings: dict[str, Any]
) -> None:
    assert envs.info(name, **settings) == envs.info(name)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mpe/simple_tag", {"dynamics": "mpe2"}),
        ("mpe/simple_tag", {"prey": lambda obs: obs[:, :2]}),
        ("mpe/simple_tag", {"prey": {"source": "other.pt", "sha256": "0"}}),
        (CHEETAH, {"ctrl_cost_weight": 0.5}),
        ("mamujoco/3x1-Hopper", {"terminate_when_unhealthy": False}),
        ("mamujoco/2x4-Ant", {"contact_cost_weight": 0.0}),
        (FORAGING, {"penalty": 1.0}),
        (FORAGING, {"sight": 2}),
    ],
)
def test_settings_that_change_returns_leave_no_references(
    name: str, settings: dict[str, Any]
) -> None:
    expected = dataclasses.replace(envs.info(name), references={})
    assert envs.info(name, **settings) == expected != envs.info(name)


def test_the_papers_prey_and_our_own_keep_the_references() -> None:
    own = cite_prey("mpe/simple_tag", None)
    papers = {"source": "prey.pt", "sha256": prey._PUBLISHED_SHA256["mpe/simple_tag"]}
    for source in (None, own, papers, own_prey_file("mpe/simple_tag")):
        assert envs.info("mpe/simple_tag", prey=source) == envs.info("mpe/simple_tag")


@pytest.mark.parametrize("name", [CHEETAH, "mamujoco/3x1-Hopper", "mamujoco/2x4-Ant", FORAGING])
def test_default_settings_are_those_of_the_simulator(name: str) -> None:
    family = name.partition("/")[0]
    pytest.importorskip(_EXTRAS[family], reason=f"needs rllib-om2p[{family}]")
    if family == "lbf":
        made: Any = envs.make(name).simulator
    else:
        made = envs.make(name).unwrapped.single_agent_env.unwrapped
    signature = inspect.signature(type(made).__init__).parameters
    # Those of a task of level-based foraging are in its name.
    defaults = {
        key: parameter.default
        for key, parameter in signature.items()
        if parameter.default is not inspect.Parameter.empty
    }
    scale = ENTRIES[name].scale
    assert scale.keys() <= signature.keys()
    assert {k: v for k, v in scale.items() if k in defaults} == {
        k: v for k, v in defaults.items() if k in scale
    }


def test_team_reward_follows_the_convention() -> None:
    import dataclasses

    rewards = np.array([[1.0, 2.0, 6.0]])
    info = envs.info(NAME)
    expected = {"mean over agents": 3.0, "agent 0": 1.0, "sum": 9.0}
    for convention, value in expected.items():
        other = dataclasses.replace(info, team_return=convention)  # type: ignore[arg-type]
        np.testing.assert_array_equal(other.team_rewards(rewards), [value])
    with pytest.raises(ValueError, match=r"must be \(\.\.\., 3\)"):
        info.team_rewards(rewards.T)


def test_names_and_facts_need_no_simulator() -> None:
    code = (
        "import sys; from rllib_om2p import envs; envs.info('mpe/simple_spread');"
        "assert not {'mpe2', 'pettingzoo', 'pygame'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _rllib_env(name: str = NAME, **kwargs: Any) -> Any:
    from ray.tune.registry import ENV_CREATOR, _global_registry

    envs.register()
    return _global_registry.get(ENV_CREATOR, name)(kwargs)


@pytest.mark.parametrize("name", PARTICLES)
def test_rllib_env_has_ordered_agents_and_a_space_for_each(name: str) -> None:
    env = _rllib_env(name)
    (obs_dim,) = {agent.obs_dim for agent in envs.info(name).agents}
    assert env.possible_agents == ["agent_0", "agent_1", "agent_2"]
    assert list(env.observation_spaces) == list(env.action_spaces) == env.possible_agents
    for agent in env.possible_agents:
        assert env.get_observation_space(agent).shape == (obs_dim,)
        assert env.get_action_space(agent) == gym.spaces.Box(-1.0, 1.0, (2,), np.float32)


class OneArrives(ParallelEnv):
    """At the time limit of two steps "a" has just arrived and "b" has not."""

    metadata: ClassVar[dict[str, Any]] = {"name": "one_arrives"}

    def __init__(self) -> None:
        self.possible_agents, self.agents = ["a", "b"], []

    def observation_space(self, agent: str) -> gym.spaces.Box:
        return gym.spaces.Box(-1, 1, (1,), np.float32)

    def action_space(self, agent: str) -> gym.spaces.Discrete:
        return gym.spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.step_number = ["a", "b"], 0
        return dict.fromkeys("ab", np.zeros(1)), {"a": {}, "b": {}}

    def step(self, actions: Any) -> Any:
        self.step_number += 1
        is_last = self.step_number == 2
        self.agents = [] if is_last else self.agents
        rewards, infos = {"a": 1.0, "b": 0.0}, {"a": {}, "b": {}}
        terminateds, truncateds = {"a": is_last, "b": False}, {"a": False, "b": is_last}
        return dict.fromkeys("ab", np.zeros(1)), rewards, terminateds, truncateds, infos


def test_rllib_env_is_over_when_agents_end_in_different_ways() -> None:
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
    from ray.tune.registry import register_env

    from rllib_om2p.envs.rllib_env import RLlibParallelEnv

    env = RLlibParallelEnv(OneArrives())
    env.reset()
    *_, terminateds, truncateds, _ = env.step({"a": 0, "b": 0})
    assert not any({**terminateds, **truncateds}.values())
    *_, terminateds, truncateds, _ = env.step({"a": 0, "b": 0})
    assert terminateds == {"a": True, "b": False, "__all__": False}
    assert truncateds == {"a": False, "b": True, "__all__": True}
    config = PPOConfig().multi_agent(
        policies={"a", "b"}, policy_mapping_fn=lambda name, *_, **__: name
    )
    register_env("one_arrives", lambda _: RLlibParallelEnv(OneArrives()))
    config.environment("one_arrives").env_runners(num_env_runners=0)
    runner = MultiAgentEnvRunner(config=config)
    episodes = runner.sample(num_episodes=2, random_actions=True)
    assert [len(episode) for episode in episodes] == [2, 2]
    assert all(episode.agent_episodes["a"].is_terminated for episode in episodes)


def test_rllib_env_plays_the_pettingzoo_episode_and_says_when_all_is_over() -> None:
    env, reference = _rllib_env(), envs.make(NAME)
    obs, _ = env.reset(seed=5)
    expected, _ = reference.reset(seed=5)
    for step in range(25):
        assert list(obs) == env.possible_agents
        for agent, value in obs.items():
            assert value.dtype == np.float32
            np.testing.assert_array_equal(value, expected[agent])
        actions = {agent: np.full(2, 0.5, np.float32) for agent in obs}
        obs, rewards, terminateds, truncateds, _ = env.step(actions)
        expected, expected_rewards, *_ = reference.step(actions)
        assert rewards == expected_rewards
        assert terminateds["__all__"] is False
        assert truncateds["__all__"] is (step == 24)
    assert env.agents == []


def test_rllib_env_passes_settings_on_and_renders() -> None:
    env = _rllib_env(render_mode="rgb_array", max_cycles=1)
    env.reset(seed=0)
    assert env.render().shape == (700, 700, 3)
    *_, truncateds, _ = env.step({agent: np.zeros(2) for agent in env.agents})
    assert truncateds["__all__"] is True
    with pytest.raises(TypeError, match="no_such_setting"):
        _rllib_env(no_such_setting=1)


def test_rllib_env_with_a_first_seed_counts_resets_that_bring_no_seed() -> None:
    env, reference = _rllib_env(first_seed=40), envs.make(NAME)
    for own_seed, expected_seed in [(None, 40), (7, 7), (None, 41), (None, 42)]:
        obs, _ = env.reset(seed=own_seed)
        expected, _ = reference.reset(seed=expected_seed)
        for agent, value in obs.items():
            np.testing.assert_array_equal(value, expected[agent])


@pytest.mark.parametrize("name", PARTICLES)
def test_rllib_env_runner_plays_what_the_vectorised_simulator_plays(name: str) -> None:
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner

    envs.register()
    config = (
        PPOConfig()
        .environment(name, env_config={"first_seed": 40}, disable_env_checking=True)
        .multi_agent(policies={"shared"}, policy_mapping_fn=lambda agent, *_, **__: "shared")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=1)
    )
    runner = MultiAgentEnvRunner(config=config)
    episodes = runner.sample(num_episodes=3, random_actions=True)
    runner.stop()
    agents = envs.info(name).agent_ids
    acted = [[e.agent_episodes[a].get_actions() for a in agents] for e in episodes]
    steps = iter(np.array(acted).transpose(2, 0, 1, 3))
    expected = rollout(name, lambda obs: next(steps), seeds=[40, 41, 42])
    for episode, obs, rewards in zip(episodes, expected.obs, expected.rewards, strict=True):
        assert episode.is_truncated
        assert sorted(episode.agent_ids) == sorted(agents)
        for index, agent in enumerate(agents):
            played = episode.agent_episodes[agent]
            np.testing.assert_allclose(played.get_observations(), obs[:, index], atol=1e-6)
            np.testing.assert_allclose(played.get_rewards(), rewards[:, index], atol=1e-6)
