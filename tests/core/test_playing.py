"""Playing with RLlib's env runner: which start states, and pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from gymnasium import spaces
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

from rllib_om2p import OM2PConfig, envs
from rllib_om2p.behaviour import make_dataset
from rllib_om2p.core import playing
from rllib_om2p.core.environments import (
    check_action_box,
    dataset_settings,
    describe_spaces,
    require_environment,
)
from rllib_om2p.core.playing import _check_agents, _make_runner, _sample, render_episodes
from rllib_om2p.envs.prey import own_prey_file, save_prey
from tests.small_data import write_random, write_spread

NAME = "mpe/simple_spread"


@pytest.fixture
def runner(tmp_path):
    config = OM2PConfig().offline_data(input_=str(write_spread(tmp_path / "set")))
    config.training(actor_hidden=(8,), critic_hidden=(8,)).debugging(seed=3, log_level="ERROR")
    config.validate()
    runner = _make_runner(config, NAME, seed=40)
    yield runner
    runner.stop()


def test_episode_k_starts_where_seed_plus_k_starts_however_they_are_asked_for(runner):
    episodes = runner.sample(num_episodes=2) + runner.sample(num_episodes=1)
    reference = envs.make(NAME)
    for number, episode in enumerate(episodes):
        expected, _ = reference.reset(seed=40 + number)
        for agent, obs in episode.get_observations(0).items():
            np.testing.assert_array_equal(obs, expected[agent])


def test_film_shows_every_state_of_every_episode(runner):
    modules = {agent: runner.module[agent] for agent in envs.info(NAME).agent_ids}
    film = render_episodes(modules, NAME, [5, 6])
    assert film.steps == 2 * list(range(26))
    assert film.episodes == 26 * [1] + 26 * [2]
    assert film.returns[0] == film.returns[26] == 0
    assert len(film.frames) == 52
    assert not np.array_equal(film.frames[0], film.frames[26])


def test_film_counts_the_teams_return_as_the_dataset_does(runner):
    modules = {agent: runner.module[agent] for agent in envs.info(NAME).agent_ids}
    spec = dataclasses.replace(runner.config.dataset_spec, team_return="sum")
    means, sums = (render_episodes(modules, NAME, [5], spec=s).returns for s in (None, spec))
    np.testing.assert_allclose(sums, 3 * np.array(means), rtol=1e-6)


def test_film_of_a_long_episode_skips_steps_but_not_the_last(runner, monkeypatch):
    monkeypatch.setattr(playing, "MAX_FRAMES", 10)
    modules = {agent: runner.module[agent] for agent in envs.info(NAME).agent_ids}
    film = render_episodes(modules, NAME, [5], max_cycles=22)
    assert film.steps == [0, 3, 6, 9, 12, 15, 18, 21, 22]
    assert len(film.frames) == len(film.returns) == 9


class Lottery(MultiAgentEnv):
    """One step whose observation is the seed's and nothing else."""

    def __init__(self, config):
        super().__init__()
        self.possible_agents = self.agents = ["a"]
        self.observation_spaces = {"a": spaces.Box(-9, 9, (1,), np.float32)}
        self.action_spaces = {"a": spaces.Box(-1, 1, (1,), np.float32)}

    def reset(self, *, seed=None, options=None):
        self.drawn = np.random.default_rng(seed).normal(size=1).astype(np.float32)
        return {"a": self.drawn}, {}

    def step(self, action_dict):
        reward = float(self.drawn[0])
        return {"a": self.drawn}, {"a": reward}, {"__all__": True}, {"__all__": False}, {}


def config_of(directory):
    write_random(directory, (("a", 1, 1),))
    config = OM2PConfig().offline_data(input_=str(directory))
    return config.training(actor_hidden=(8,), critic_hidden=(8,)).debugging(log_level="ERROR")


def test_episode_k_of_any_registered_environment_starts_at_seed_plus_k(tmp_path):
    register_env("lottery", Lottery)
    config = config_of(tmp_path / "set")
    config.validate()
    runner = _make_runner(config, "lottery", seed=7)
    for seed in (7, 8, 9):
        (episode,) = _sample(runner, "lottery", 20, seed)
        drawn = np.random.default_rng(seed).normal()
        assert episode.get_return() == pytest.approx(drawn)
    runner.stop()


def test_an_environment_that_nobody_registered_is_refused_with_near_names(tmp_path):
    with pytest.raises(ValueError, match=r"did you mean mpe/simple_spread.*register_env"):
        require_environment("mpe/simple_spred")
    config = config_of(tmp_path / "set").environment("nowhere")
    with pytest.raises(ValueError, match=r"'nowhere'.*register_env"):
        config.evaluation(evaluation_interval=1).validate()


def _foreign_prey(folder):
    """Write a prey that stands still and a dataset of it; return both files' places."""
    still = {f"fc{i}.weight": np.zeros(s) for i, s in ((1, (8, 14)), (2, (8, 8)), (3, (2, 8)))}
    still |= {f"fc{i}.bias": np.zeros(size) for i, size in ((1, 8), (2, 8), (3, 2))}
    file = folder / "still.safetensors"
    save_prey(file, still, {})
    return file, make_dataset("mpe/simple_tag", "random", out=folder / "set", steps=50, prey=file)


def test_evaluation_asks_for_the_prey_of_the_data(tmp_path):
    file, data = _foreign_prey(tmp_path)
    spec = OM2PConfig().offline_data(input_=str(data)).dataset_spec
    with pytest.raises(ValueError, match=r"prey of still\.safetensors .*--prey FILE"):
        dataset_settings(spec)
    with pytest.raises(ValueError, match=r"is not the prey of the data, still\.safetensors"):
        dataset_settings(spec, own_prey_file("mpe/simple_tag"))
    env = envs.make("mpe/simple_tag", **dataset_settings(spec, file))
    np.testing.assert_array_equal(env.unwrapped.prey(np.ones((1, 14))), 0.0)
    config = OM2PConfig().offline_data(input_=str(data)).evaluation(evaluation_interval=1)
    with pytest.raises(ValueError, match="say where that file lies"):
        config.validate()


def test_actions_that_the_environment_does_not_take_are_refused_and_a_part_of_them_warned_of(
    caplog,
):
    unit = spaces.Box(-1.0, 1.0, (2,))
    check_action_box("a", unit, unit)
    check_action_box("a", unit, spaces.Box(-np.inf, np.inf, (2,)))
    check_action_box("a", spaces.Discrete(2), spaces.Discrete(2))
    for low, high in ((100.1, 101.1), (295.65, 298.15), (1000.0, 1000.1)):
        check_action_box("a", spaces.Box(low, high, (2,)), spaces.Box(low, high, (2,), np.float64))
    assert not caplog.records
    with pytest.raises(
        ValueError, match=r"'a': the data's actions lie in \[-1, 1\], the env.* \[0,"
    ):
        check_action_box("a", unit, spaces.Box(0.0, 10.0, (2,)))
    check_action_box("a", unit, spaces.Box(np.float32([-2, -1]), np.float32([2, 1])))
    (record,) = caplog.records
    assert (
        "lie in [-1, 1], a part of the environment's [-2.0, -1.0] to [2.0, 1.0]" in record.message
    )


def test_discrete_actions_must_begin_where_the_datas_do():
    view = spaces.Box(-1.0, 1.0, (2,))
    shifted = describe_spaces(view, spaces.Discrete(2, start=3))
    assert (
        shifted == "obs (2,), action one of 2 from 3" != describe_spaces(view, spaces.Discrete(2))
    )


class Wider(Lottery):
    def __init__(self, config):
        super().__init__(config)
        self.action_spaces = {"a": spaces.Box(0, 9, (1,), np.float32)}


def test_playing_in_another_box_is_refused(tmp_path):
    register_env("wider", Wider)
    config = config_of(tmp_path / "set")
    config.validate()
    runner = _make_runner(config, "wider", seed=0)
    with pytest.raises(
        ValueError, match=r"actions lie in \[-2, 1\], the environment takes \[0, 9\]"
    ):
        _check_agents(config.dataset_spec, "wider", runner)
    runner.stop()
