"""What evaluations say of a team: by episodes, whoever was there, on the scale that is its own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.tune.registry import register_env

from rllib_om2p import OM2P, OM2PConfig
from rllib_om2p.algorithms.bc import BCConfig
from rllib_om2p.cli.playing import describe
from rllib_om2p.core.config import action_space, observation_space
from rllib_om2p.core.env_runner import (
    _NUM_EPISODES,
    _SUM,
    TEAM_RETURN_MEAN,
    episode_team_return,
    teams_returns,
)
from rllib_om2p.core.environments import scale_of
from rllib_om2p.core.exporting import export_checkpoint
from rllib_om2p.core.playing import play_checkpoint
from rllib_om2p.core.run import Run
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import AgentSpec, DatasetSpec
from rllib_om2p.evaluation.scores import number
from tests.small_data import PREDATORS_AND_PREY, TEAMS, write_random, write_spread

pytestmark = pytest.mark.usefixtures("ray_cluster")

STEPS = 3
REFERENCES = {"random": 0.0, "expert": 10.0, "source": "a test"}


class SometimesTwo(MultiAgentEnv):
    """Each agent earns 1 per step; in the episodes of `missing`, counted from 0, arm_2 is away."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        spec = OfflineDataset.open(config["data"]).spec
        self.possible_agents = [agent.name for agent in spec.agents]
        self.observation_spaces = {a.name: observation_space(spec, a) for a in spec.agents}
        self.action_spaces = {a.name: action_space(a) for a in spec.agents}
        self.missing, self.episode = config["missing"], -1
        self.agents = list(self.possible_agents)

    def reset(self, *, seed=None, options=None):
        self.episode, self.step_number = self.episode + 1, 0
        away = {"arm_2"} if self.episode in self.missing else set()
        self.agents = [agent for agent in self.possible_agents if agent not in away]
        return self._obs(), {}

    def step(self, action_dict):
        assert set(action_dict) == set(self.agents)
        self.step_number += 1
        done = self.step_number == STEPS
        rewards = dict.fromkeys(self.agents, 1.0)
        return self._obs(), rewards, {"__all__": done}, {"__all__": False}, {}

    def _obs(self):
        shapes = {agent: self.observation_spaces[agent].shape for agent in self.agents}
        return {agent: np.zeros(shape, np.float32) for agent, shape in shapes.items()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = Path(tmp_path_factory.mktemp("data")) / "set"
    register_env("sometimes_two", SometimesTwo)
    return str(write_random(folder, env="sometimes_two", references=REFERENCES))


def build(dataset: str, missing: list[int], **settings: Any) -> OM2P:
    config = OM2PConfig().offline_data(input_=dataset).debugging(seed=0, log_level="ERROR")
    config.training(actor_hidden=(8,), critic_hidden=(8,), train_batch_size=32)
    config.training(num_updates_per_iteration=2)
    config.environment("sometimes_two", env_config={"data": dataset, "missing": missing})
    config.evaluation(evaluation_interval=1, evaluation_duration=4, **settings)
    return config.build_algo()


@pytest.mark.parametrize(("missing", "num_present"), [([], 12), ([1, 3], 10), (range(99), 8)])
def test_the_teams_return_is_a_mean_over_episodes_whoever_was_there(dataset, missing, num_present):
    algo = build(dataset, list(missing))
    results = algo.train()["evaluation"]
    # "mean over agents": who is away earns nothing, and counts.
    assert results["team_return_mean"] == pytest.approx(STEPS * num_present / 12)
    assert results["env_runners"]["episode_return_mean"] == pytest.approx(STEPS * num_present / 4)
    algo.stop()


class Crowd(SometimesTwo):
    """With an agent that the dataset does not have."""

    def __init__(self, config):
        super().__init__(config)
        self.possible_agents = self.agents = [*self.possible_agents, "guest"]
        self.observation_spaces["guest"] = self.observation_spaces["walker"]
        self.action_spaces["guest"] = self.action_spaces["walker"]


def test_an_environment_with_agents_that_the_dataset_lacks_is_refused_when_it_is_built(dataset):
    register_env("crowd", Crowd)
    config = OM2PConfig().offline_data(input_=dataset).debugging(log_level="ERROR")
    config.training(actor_hidden=(8,), critic_hidden=(8,), train_batch_size=32)
    config.environment("crowd", env_config={"data": dataset, "missing": []})
    with pytest.raises(ValueError, match=r"'crowd' has the agents \['guest'\], which dataset"):
        config.evaluation(evaluation_interval=1).build_algo()


class PaidByRunner(SometimesTwo):
    """Each agent earns 1 per step in the first env runner, 100 in the second."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.pay = 100.0 ** (config.worker_index - 1)

    def step(self, action_dict):
        obs, rewards, *ends = super().step(action_dict)
        return obs, {agent: self.pay * reward for agent, reward in rewards.items()}, *ends


def test_episodes_count_alike_however_many_an_env_runner_played(dataset):
    """RLlib's own means are over env runners."""
    register_env("paid_by_runner", PaidByRunner)
    config = OM2PConfig().offline_data(input_=dataset).debugging(seed=0, log_level="ERROR")
    config.training(actor_hidden=(8,), critic_hidden=(8,), train_batch_size=32)
    config.training(num_updates_per_iteration=1)
    config.environment("paid_by_runner", env_config={"data": dataset, "missing": []})
    config.evaluation(evaluation_interval=1, evaluation_duration=3, evaluation_num_env_runners=2)
    algo = config.build_algo()
    for _ in range(2):  # and those of an earlier evaluation not at all
        results = algo.evaluate()
        assert results["env_runners"]["num_episodes"] == 3
        total = 3 * results["team_return_mean"] / STEPS
        assert total == pytest.approx(102) or total == pytest.approx(201)
    algo.stop()


def test_an_evaluation_in_which_no_episode_ended_has_no_return():
    runner, algorithm = MetricsLogger(), MetricsLogger(root=True)
    for value in (7.0, None, 3.0):  # once it was there RLlib's sum of nothing is NaN
        if value is not None:
            runner.log_value((_SUM, TEAM_RETURN_MEAN), value, reduce="sum")
            runner.log_value(_NUM_EPISODES, 2, reduce="sum")
        algorithm.aggregate([runner.reduce()])
        found = teams_returns(algorithm.reduce())
        assert found == ({} if value is None else {TEAM_RETURN_MEAN: value / 2})


def test_playing_a_checkpoint_counts_an_absent_agent_too(dataset, tmp_path):
    algo = build(dataset, [1, 3])
    path = algo.save_to_path(tmp_path / "checkpoint")
    algo.stop()
    played = play_checkpoint(path, num_episodes=1)
    assert played.team_returns.tolist() == [pytest.approx(STEPS)]


@pytest.mark.parametrize(
    ("convention", "members", "expected"),
    [
        ("mean over agents", None, 3.0),
        ("sum", None, 9.0),
        ("agent 0", None, 5.0),
        ("mean over agents", ["walker", "arm_2"], 2.5),
    ],
)
def test_a_teams_return_of_an_episode_by_hand(dataset, convention, members, expected):
    spec = dataclasses.replace(OfflineDataset.open(dataset).spec, team_return=convention)
    assert episode_team_return(spec, {"walker": 5.0, "arm_10": 4.0}, members) == expected


SPREAD_REFERENCES = {"random": 159.8, "expert": 516.8, "source": "papers"}


@pytest.mark.parametrize(
    ("env_kwargs", "env", "settings", "has_scale"),
    [
        ({}, "mpe/simple_spread", {}, True),
        ({}, "mpe/simple_spread", {"first_seed": 7, "max_cycles": 25}, True),
        ({}, "mpe/simple_spread", {"max_cycles": 50}, False),
        ({}, "mpe/simple_spread", {"dynamics": "mpe2"}, False),
        ({}, "mpe/simple_tag", {}, False),
        # What the dataset itself says is its own affair.
        ({"max_cycles": 50}, "mpe/simple_spread", {"max_cycles": 50, "first_seed": 1}, True),
    ],
)
def test_a_scale_belongs_to_an_environment_and_its_settings(env_kwargs, env, settings, has_scale):
    spec = DatasetSpec(
        dataset_id="a",
        agents=(AgentSpec.box("a", 1, 1),),
        env="mpe/simple_spread",
        env_kwargs=env_kwargs,
        references=SPREAD_REFERENCES,
    )
    assert (scale_of(spec, env, settings) is not None) == has_scale


def test_the_normalised_score_is_left_out_where_the_scale_is_another_ones(tmp_path):
    config = OM2PConfig().offline_data(input_=str(write_spread(tmp_path / "set")))
    config.training(actor_hidden=(8,), critic_hidden=(8,), num_updates_per_iteration=1)
    config.environment("mpe/simple_spread", env_config={"max_cycles": 5})
    algo = config.evaluation(evaluation_interval=1, evaluation_duration=1).build_algo()
    results = algo.train()["evaluation"]
    assert "team_return_mean" in results
    assert "normalized_score" not in results
    path = algo.save_to_path(tmp_path / "checkpoint")
    algo.stop()
    played = play_checkpoint(path, num_episodes=2)
    assert played.settings == {"max_cycles": 5}
    assert played.normalised is None


def test_weights_that_are_set_are_played_at_once_and_other_modules_are_refused(dataset):
    algo = build(dataset, [])
    algo.train()
    algo.evaluate()
    for set_weights in (
        algo.set_weights,
        lambda w: algo.set_state({"learner_group": {"learner": {"rl_module": w}}}),
    ):
        weights = algo.get_weights()
        changed = {agent: {k: 2 * v for k, v in own.items()} for agent, own in weights.items()}
        set_weights(changed)
        algo.evaluate()
        for agent, own in changed.items():
            # Constants of the dataset stay; they are no parameters.
            for name, played in algo.eval_env_runner.module[agent].named_parameters():
                np.testing.assert_allclose(played.detach(), own[name], rtol=1e-6)
    for call in (
        lambda: algo.add_module("extra", None),
        lambda: algo.remove_module("arm_2"),
    ):
        with pytest.raises(TypeError, match=r"the modules are the dataset's agents, \['walker'"):
            call()
    with pytest.raises(TypeError, match=r"get_module\(AGENT\)\.forward_inference"):
        algo.compute_single_action(np.zeros(4, np.float32), policy_id="walker")
    assert algo.train()["learners"]["__all_modules__"]["seed"] == 0
    algo.stop()


def test_an_algorithms_from_config_builds_no_other_one(dataset):
    with pytest.raises(ValueError, match=r"OM2P\.from_config got the config of BC"):
        OM2P.from_config(BCConfig().offline_data(input_=dataset))


def test_no_seed_draws_one_that_the_results_name_and_that_repeats_the_run(dataset):
    losses = []
    seed = None
    for _ in range(2):
        config = OM2PConfig().offline_data(input_=dataset).debugging(seed=seed)
        config.training(actor_hidden=(8,), critic_hidden=(8,), train_batch_size=32)
        algo = config.training(num_updates_per_iteration=2).build_algo()
        results = algo.train()["learners"]
        seed = int(results["__all_modules__"]["seed"])
        losses.append(results["walker"]["critic_loss"])
        algo.stop()
    assert losses[0] == losses[1]


def test_each_team_has_its_own_return_wherever_it_is_evaluated(tmp_path, capsys):
    config = OM2PConfig().offline_data(input_=str(PREDATORS_AND_PREY), teams=TEAMS)
    config.training(actor_hidden=(8,), critic_hidden=(8,), train_batch_size=32)
    config.training(num_updates_per_iteration=1)
    config.environment("mpe/simple_tag", env_config=config.dataset_spec.env_kwargs)
    config.evaluation(evaluation_interval=1, evaluation_duration=3)
    config.debugging(seed=0, log_level="ERROR")
    algo = config.build_algo()
    seen = []
    with Run(tmp_path / "run") as run:
        run.train(algo, 1, report=seen.append)
    results = algo.evaluate()
    algo.stop()
    # By "agent 0" each team's return is that of its first agent.
    assert config.dataset_spec.team_return == "agent 0"
    returns = results["env_runners"]["agent_episode_returns_mean"]
    assert results["team_return_mean/predators"] == pytest.approx(returns["agent_0"])
    assert results["team_return_mean/prey"] == pytest.approx(returns["prey"])
    assert returns["prey"] < 0  # far from the arena's middle it pays

    (iteration,) = seen
    line = json.loads((tmp_path / "run" / "progress.jsonl").read_text())
    assert iteration.team_returns.keys() == TEAMS.keys()
    assert iteration.team_returns["predators"] == iteration.team_return
    assert line["team_returns"] == iteration.team_returns

    played = play_checkpoint(run.checkpoint, num_episodes=3)
    for team, first in (("predators", "agent_0"), ("prey", "prey")):
        np.testing.assert_array_equal(played.returns_by_team[team], played.agent_returns[first])
        assert f"  {team:<12} {number(played.agent_returns[first].mean())}" in describe(played)
    assert played.to_dict()["team_return_means"]["prey"] == played.agent_returns["prey"].mean()
    folder = export_checkpoint(run.checkpoint, tmp_path / "policy")
    assert play_checkpoint(folder, num_episodes=3).to_dict() == played.to_dict()
