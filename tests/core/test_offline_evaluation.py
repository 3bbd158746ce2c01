"""Held-out episodes: not trained on, and the source of evaluation/fqe_return in the results."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback

from rllib_om2p import OfflineDataset, OM2PConfig
from rllib_om2p.core.fqe import policy_actions
from rllib_om2p.core.held_out import HeldOut
from rllib_om2p.core.shared_noise import team_noise
from tests.small_data import write_random, write_spread

SMALL = {"actor_hidden": (8,), "critic_hidden": (8,), "train_batch_size": 32}
QUICK = {"hidden": (8,), "num_updates": 5}


def make_config(dataset: Path, holdout_fraction: float = 0.25) -> OM2PConfig:
    config = OM2PConfig().offline_data(input_=str(dataset), holdout_fraction=holdout_fraction)
    return config.training(**SMALL, num_updates_per_iteration=2).debugging(seed=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(Path(tmp_path_factory.mktemp("data")) / "set")


def test_table_holds_every_episode_but_the_held_out(dataset):
    config = make_config(dataset).offline_data(normalize_observations=False)
    config.validate()
    learner = config.build_learner()
    kept, held_out = OfflineDataset.open(str(dataset)).split(0.25)
    assert learner._table.num_transitions == kept.num_transitions
    column = learner._layout.sections["obs"].start
    first = learner._layout.agents[0].name
    values = set(learner._table._rows[:, column].tolist())
    for part, inside in ((kept, True), (held_out, False)):
        for episode in part.episodes():
            assert set(episode.obs[first][:, 0].tolist()) <= values or not inside
            assert inside or not set(episode.obs[first][:, 0].tolist()) & values


def test_estimate_is_in_the_results_without_any_environment(dataset):
    config = make_config(dataset).evaluation(offline_evaluation_interval=2, fqe=QUICK)
    algo = config.build_algo()
    first, second = algo.train(), algo.train()
    assert algo.eval_env_runner_group is None
    algo.stop()
    assert "evaluation" not in first
    found = second["evaluation"]
    assert np.isfinite(found["fqe_return"])
    assert found["fqe_return_lower"] < found["fqe_return"]


@pytest.mark.parametrize(("max_steps", "num_episodes"), [(96, 9), (41, 4), (100, 10)])
def test_of_many_held_out_episodes_some_are_used(dataset, max_steps, num_episodes):
    """Ten of ten steps are held out."""
    settings = {**QUICK, "max_steps": max_steps}
    config = make_config(dataset).evaluation(offline_evaluation_interval=1, fqe=settings)
    algo = config.build_algo()
    assert np.isfinite(algo.evaluate_offline()["fqe_return"])
    assert len(algo._held_out.starts) == num_episodes
    algo.stop()


def test_policies_that_share_their_noise_are_asked_together(dataset):
    config = make_config(dataset).training(shared_noise=True)
    algo = config.evaluation(offline_evaluation_interval=1, fqe=QUICK).build_algo()
    assert np.isfinite(algo.train()["evaluation"]["fqe_return"])
    modules = {agent: algo.get_module(agent) for agent in config.dataset_spec.agent_ids}
    held_out = HeldOut.of(OfflineDataset.open(str(dataset)).split(0.25)[1])
    (answers,) = policy_actions(modules, held_out, 1, 5)
    algo.stop()
    torch.manual_seed(5)
    noise = team_noise(modules, len(held_out.alive))
    assert torch.equal(noise["arm_2"], noise["walker"][:, :1])
    asked = {"obs": held_out.obs["arm_2"], "noise": noise["arm_2"]}
    # The box is [-2, 1].
    expected = (modules["arm_2"].forward_inference(asked)["actions"] + 0.5) / 1.5
    torch.testing.assert_close(answers[:, 3:], expected * held_out.alive[:, 2:])


@pytest.mark.usefixtures("ray_cluster")
def test_estimate_stands_beside_what_was_played(tmp_path):
    config = make_config(write_spread(tmp_path / "set", num_episodes=20))
    config.evaluation(evaluation_interval=1, evaluation_duration=1)
    algo = config.evaluation(offline_evaluation_interval=1, fqe=QUICK).build_algo()
    result = algo.train()["evaluation"]
    algo.stop()
    assert {"team_return_mean", "normalized_score", "fqe_return"} <= set(result)


class Watching(RLlibCallback):
    """Notes what evaluations' callbacks are given, and adds to it."""

    def __init__(self) -> None:
        self.seen: dict[str, set[str]] = {}

    def on_evaluate_offline_start(self, **kwargs):
        self.seen["start"] = set(kwargs)

    def on_evaluate_offline_end(self, *, evaluation_metrics, **kwargs):
        self.seen["offline"] = set(evaluation_metrics)
        evaluation_metrics["mine"] = 1.0

    def on_evaluate_end(self, *, evaluation_metrics, **kwargs):
        self.seen["played"] = set(evaluation_metrics)
        evaluation_metrics["mine_too"] = evaluation_metrics["team_return_mean"]


@pytest.mark.usefixtures("ray_cluster")
def test_callbacks_see_whole_results_and_may_add_to_them(tmp_path):
    called = []
    config = make_config(write_spread(tmp_path / "set", num_episodes=20)).callbacks(
        Watching, on_evaluate_offline_end=lambda **kwargs: called.append(kwargs)
    )
    config.evaluation(evaluation_interval=1, evaluation_duration=1)
    algo = config.evaluation(offline_evaluation_interval=1, fqe=QUICK).build_algo()
    result = algo.train()["evaluation"]
    seen = next(c for c in algo.callbacks if isinstance(c, Watching)).seen
    algo.stop()
    assert seen["start"] == {"algorithm", "metrics_logger"}
    assert seen["offline"] == {"fqe_return", "fqe_return_lower"}
    assert seen["played"] >= {"team_return_mean", "normalized_score"}
    assert result["mine"] == 1.0
    assert result["mine_too"] == result["team_return_mean"]
    assert called[0]["evaluation_metrics"]["mine"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.offline_data(holdout_fraction=0.0), "set .offline_data.holdout_fraction=0.1"),
        (lambda c: c.offline_data(holdout_fraction=1.0), r"holdout_fraction must be in \[0, 1\)"),
        (lambda c: c.evaluation(fqe={"updates": 5}), r"fqe=...\) takes .*'num_updates'"),
        (lambda c: c.evaluation(fqe={"num_updates": 0}), "num_updates must be a whole number from"),
        (lambda c: c.evaluation(fqe={"hidden": 64}), "hidden must be whole numbers from 1, got 64"),
        (lambda c: c.evaluation(fqe={"warm_up": 5}), "warm_up must be a number from 0 to 1, got 5"),
        (lambda c: c.evaluation(fqe={"pessimism": -2.0}), "pessimism must be a number from 0 to"),
        (lambda c: c.evaluation(offline_evaluation_type="pdis"), "must be 'fqe', got 'pdis'"),
        (lambda c: c.evaluation(num_offline_eval_runners=1), "num_offline_eval_runners must be 0"),
        (lambda c: c.offline_data(teams={"a": ["walker"], "b": ["arm_2", "arm_10"]}), "one team"),
    ],
)
def test_setting_without_a_meaning_is_an_error(dataset, change, message):
    config = make_config(dataset).evaluation(offline_evaluation_interval=1)
    with pytest.raises(ValueError, match=message):
        change(config).validate()


def _of_rllibs_offline_evaluation():
    names = inspect.signature(AlgorithmConfig.evaluation).parameters
    used = {"offline_evaluation_interval", "offline_evaluation_type", "num_offline_eval_runners"}
    return sorted({n for n in names if "offline" in n or "ope_" in n} - used)


@pytest.mark.parametrize("name", _of_rllibs_offline_evaluation())
def test_settings_of_rllibs_own_offline_evaluation_are_refused(dataset, name):
    with pytest.raises(ValueError, match=rf"evaluation\({name}=...\) belongs to RLlib's"):
        make_config(dataset).evaluation(**{name: 1})
