"""Several learners train one policy: equal gradients, weights and counts, each episode once."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rllib_om2p import OM2P, Algorithm, OM2PConfig
from rllib_om2p.core.learner import OfflineLearner
from rllib_om2p.core.ranks import LearnerDiedError
from tests.small_data import write_random

pytestmark = pytest.mark.usefixtures("ray_cluster")

BATCH = 48  # no other axis of the batch or its draws is as long


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_random(Path(tmp_path_factory.mktemp("data")) / "set"))


def make_config(dataset: str, *, seed: int | None = 1, **training: object) -> OM2PConfig:
    settings = {
        "actor_hidden": (16, 16),
        "critic_hidden": (16, 16),
        "train_batch_size": BATCH,
        "num_updates_per_iteration": 4,
        "eta": 0.3,
    }
    return (
        OM2PConfig()
        .offline_data(input_=dataset)
        .training(**settings | training)
        .debugging(seed=seed, log_level="ERROR")
    )


def local_learner(config: OM2PConfig) -> OfflineLearner:
    config.validate()
    learner = config.build_learner()
    assert isinstance(learner, OfflineLearner)
    return learner


@pytest.fixture(scope="module", params=["own", "vdn"])
def pair(dataset: str, request: pytest.FixtureRequest) -> Iterator[Algorithm]:
    """Two learners, with each agent's own critic or the team's."""
    algo = make_config(dataset, critic=request.param).learners(num_learners=2).build_algo()
    yield algo
    algo.stop()


def on_ranks(algo: Algorithm, function: Any, **kwargs: Any) -> list[Any]:
    return [r.get() for r in algo.learner_group.foreach_learner(function, **kwargs)]


def test_two_halves_of_a_batch_give_the_gradients_of_the_whole(pair, dataset):
    whole = local_learner(make_config(dataset, critic=pair.config.critic))
    generator = torch.Generator().manual_seed(5)
    sample = whole._table.sample(BATCH, generator)
    batch = whole._layout.view(*sample)

    def halves(learner, phase_index, sample, draws):
        first, size = learner._learner_index * BATCH // 2, BATCH // 2

        def half(value):
            if isinstance(value, tuple):
                parts = [half(part) for part in value]
                return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
            if value is None:
                return None
            return value.narrow(value.shape.index(BATCH), first, size)

        phase = learner._phases[phase_index]
        batch = learner._layout.view(*half(sample))
        gradients, _ = learner._phase_update.gradients(phase, batch, half(draws))
        return gradients

    for index, phase in enumerate(whole._phases):
        draws = phase.draw(batch, generator)
        expected, _ = whole._phase_update.gradients(phase, batch, draws)
        ranks = on_ranks(pair, halves, phase_index=index, sample=sample, draws=draws)
        differences = []
        for one, other, reference in zip(*ranks, expected, strict=True):
            assert torch.equal(one, other)
            assert reference.norm() > 0
            differences.append(float((one - reference).norm() / reference.norm()))
        print(f"{pair.config.critic} critic, {phase.name} phase: {max(differences):.1e}")
        assert max(differences) <= 1e-6


def test_every_episode_is_on_one_rank_and_batches_are_shares(pair, dataset):
    def first_column(learner):
        rows = learner._table._rows[learner._table._valid, 0]
        return sorted(rows.tolist()), learner._batch_size

    (one, share), (other, other_share) = on_ranks(pair, first_column)
    assert share == other_share == BATCH // 2
    everything = local_learner(make_config(dataset))._table
    expected = sorted(everything._rows[everything._valid, 0].tolist())
    assert sorted(one + other) == pytest.approx(expected)
    assert not set(one) & set(other)


def test_ranks_draw_their_own_batches_and_noise(pair):
    noise, other_noise = on_ranks(pair, lambda x: torch.rand(4, generator=x._generator))
    assert not torch.equal(noise, other_noise)


def test_without_a_seed_runs_differ(dataset):
    one, other = (local_learner(make_config(dataset, seed=None)) for _ in range(2))
    assert one._generator.initial_seed() != other._generator.initial_seed()
    parameter = one._phases[0].parameters()[0]
    assert not torch.equal(parameter, other._phases[0].parameters()[0])


def test_unequal_shards_without_a_seed_make_equally_many_updates_on_equal_weights(tmp_path):
    # Thirteen row groups of one episode: six against seven. The budget holds six, so that one rank
    # has a rolling window, the other its whole shard.
    path = str(write_random(tmp_path / "set", num_episodes=13, num_steps=40, rows_per_group=41))
    probe = local_learner(make_config(path))
    row_bytes = probe._layout.width * 4 + 8
    config = make_config(path, seed=None, num_updates_per_iteration=30).learners(num_learners=2)
    config.offline_data(table_memory_budget=6 * 41 * row_bytes)
    algo = config.build_algo()
    result = algo.train()["learners"]["__all_modules__"]

    def look(learner):
        sums = [value.double().sum().item() for value in learner._networks.state_dict().values()]
        return learner._table.is_window, learner._num_updates, sums, learner._seed

    (window, updates, sums, seed), (other_window, other_updates, other_sums, other_seed) = on_ranks(
        algo, look
    )
    algo.stop()
    assert (window, other_window) == (False, True)
    assert updates == other_updates == 30
    assert seed == other_seed
    assert result["num_updates_lifetime"] == 30
    assert result["num_env_steps_trained_lifetime"] == 30 * BATCH
    assert sums == other_sums


def test_ranks_that_came_apart_stop_at_the_checkpoint_and_at_the_next_call(pair, tmp_path):
    path = pair.save_to_path(tmp_path / "good")

    def spoil(learner):
        if learner._learner_index == 1:
            with torch.no_grad():
                learner._phases[0].parameters()[0].add_(1e-3)

    on_ranks(pair, spoil)
    with pytest.raises(RuntimeError, match="hold different parameters after checkpoint"):
        pair.save_to_path(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    with pytest.raises(RuntimeError, match="hold different parameters after update"):
        pair.train()
    pair.restore_from_path(path)
    pair.train()


@pytest.fixture
def remote(dataset: str) -> Iterator[Algorithm]:
    algo = make_config(dataset).learners(num_learners=1).build_algo()
    yield algo
    algo.stop()


def test_a_remote_learner_that_cannot_write_leaves_the_checkpoint_before(remote, tmp_path):
    remote.train()
    path = Path(remote.save_to_path(tmp_path / "checkpoint"))
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def fill_the_disk(learner):
        def fail(*args, **kwargs):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        learner.save_to_path = fail

    def forget(learner):
        learner.save_to_path = lambda *args, **kwargs: None

    def die(learner):
        learner.save_to_path = lambda *args, **kwargs: os._exit(1)

    for spoil, error, text in (
        (fill_the_disk, OSError, "No space left.*is intact. Make room"),
        (forget, OSError, "the learner's state did not come to .*folder that all nodes share"),
        (die, LearnerDiedError, "learner 0 of 1 died"),
    ):
        on_ranks(remote, spoil)
        with pytest.raises(error, match=text):
            remote.save_to_path(path)
        assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
        assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]


def test_remote_learners_that_cannot_be_restored_say_so(dataset, remote, tmp_path):
    path = remote.save_to_path(tmp_path / "checkpoint")
    # Of the four CPUs the pair holds two and `remote` one.
    other = make_config(dataset, critic_hidden=(8, 8)).learners(num_learners=1).build_algo()
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.restore_from_path(path)
    other.stop()
    shutil.rmtree(Path(path) / "learner_group" / "learner")
    with pytest.raises(ValueError, match="holds no learner's state"):
        remote.restore_from_path(path)
    assert time.monotonic() - start < 60


def test_a_rank_that_cannot_be_built_stops_the_others(tmp_path):
    # Three episodes of 20 steps: the shards hold 40 and 20 transitions, a share is 24.
    path = str(write_random(tmp_path / "set", num_episodes=3, num_steps=20, rows_per_group=21))
    with pytest.raises(Exception, match="larger than this learner's table of 20 transitions"):
        make_config(path).learners(num_learners=2).build_algo()


def test_evaluation_runners_that_do_not_fit_beside_the_learners_fail_at_once(dataset):
    config = make_config(dataset).evaluation(evaluation_interval=1, evaluation_num_env_runners=9)
    with pytest.raises(RuntimeError, match=r"9 evaluation env runners need 9 CPU.*or use fewer"):
        config.build_algo()
    config.evaluation(evaluation_num_env_runners=3).learners(num_learners=2)
    both = r"2 learners and 3 evaluation env runners need 5 CPU.*free of 4"
    with pytest.raises(RuntimeError, match=both):
        config.build_algo()
    config.learners(num_learners=0).env_runners(num_gpus_per_env_runner=33)
    with pytest.raises(RuntimeError, match=r"3 evaluation env runners need 99 GPU"):
        config.build_algo()


def test_learners_ask_ray_for_their_gpus(dataset):
    config = make_config(dataset).learners(num_learners=2, num_gpus_per_learner=1)
    with pytest.raises(RuntimeError, match="2 learners need 2 GPU, but the cluster has 0 free"):
        config.build_algo()
    bundles = OM2P.default_resource_request(config.copy(copy_frozen=False)).bundles
    assert sum(bundle.get("GPU", 0) for bundle in bundles) == 2


@pytest.mark.slow
def test_four_learners_train_like_one_on_the_same_data(dataset):
    algo = make_config(dataset, num_updates_per_iteration=300).learners(num_learners=4).build_algo()
    single = make_config(dataset, num_updates_per_iteration=300).build_algo()
    four = algo.train()["learners"]
    one = single.train()["learners"]
    for agent in ("walker", "arm_10", "arm_2"):
        assert four[agent]["bc_loss"] == pytest.approx(one[agent]["bc_loss"], rel=0.1)
    seeds = on_ranks(algo, lambda learner: learner._generator.initial_seed())
    assert seeds == [2, 3, 4, 5]
    algo.stop()
    single.stop()
