"""Playing with RLlib's env runner: which start states, and pictures."""

from __future__ import annotations

import numpy as np
import pytest

from rllib_om2p import OM2PConfig, envs
from rllib_om2p.core.playing import _make_runner, render_episodes
from tests.small_data import write_spread

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
