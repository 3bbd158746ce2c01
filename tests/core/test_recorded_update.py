"""A replayed update against the same update run as usual; all but the CUDA graph on any machine."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rllib_om2p import OM2PConfig
from rllib_om2p.core.learner import OfflineLearner
from rllib_om2p.core.recorded_update import WARM_UPS, RecordedUpdate
from rllib_om2p.core.update import Outcome, Update
from tests.small_data import write_random


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_random(Path(tmp_path_factory.mktemp("data")) / "set"))


def make_learner(dataset: str, **training: object) -> OfflineLearner:
    sizes = {"actor_hidden": (16,), "critic_hidden": (16,), "train_batch_size": 32, "eta": 0.3}
    config = OM2PConfig().offline_data(input_=dataset).training(**sizes | training)
    config.debugging(seed=0).validate()
    learner = config.build_learner()
    assert isinstance(learner, OfflineLearner)
    return learner


def delayed_update(learner: OfflineLearner) -> Update:
    """The learner's update, with its second phase on every other one only."""
    first, second = learner._phases
    return Update(
        learner._networks,
        [first, dataclasses.replace(second, period=2)],
        sample=learner._sample,
        generator=learner._generator,
        tau=0.1,
        grad_clip=0.5,
    )


class Repeats:
    """Repeats the work by doing it again, into one tensor, as a CUDA graph does."""

    def __init__(self) -> None:
        self.num_warm_ups = 0
        self.num_recorded = 0
        self.num_replayed = 0

    def warm_up(self, work: Callable[[], list[Outcome]]) -> list[Outcome]:
        self.num_warm_ups += 1
        return work()

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.num_recorded += 1
        buffer: list[Tensor] = []

        def replay() -> Tensor:
            self.num_replayed += 1
            result = work()
            if not buffer:
                buffer.append(torch.empty_like(result))
            return buffer[0].copy_(result)

        return replay


def test_replayed_updates_give_the_numbers_of_usual_ones(dataset):
    usual, replayed = make_learner(dataset), make_learner(dataset)
    one, recorder = delayed_update(usual), Repeats()
    other = RecordedUpdate(delayed_update(replayed), recorder)
    kept: tuple[list[Outcome], list[Outcome]] = ([], [])
    for number in range(12):
        for update in (one, other._update):
            update.set_learning_rate(1e-3 / (number + 1))
        kept[0].extend(one(number))
        kept[1].extend(other(number))
    # Critic and actor on even updates, the critic alone on odd ones.
    assert recorder.num_warm_ups == 2 * WARM_UPS
    assert recorder.num_recorded == 2
    assert recorder.num_replayed == 12 - 2 * WARM_UPS
    for (phase, losses, metrics), (other_phase, other_losses, other_metrics) in zip(
        *kept, strict=True
    ):
        assert phase.name == other_phase.name
        assert torch.equal(losses, other_losses)
        assert metrics.keys() == other_metrics.keys()
        for name, value in metrics.items():
            assert torch.equal(value, other_metrics[name])
    weights = replayed._networks.state_dict()
    for name, value in usual._networks.state_dict().items():
        assert torch.equal(value, weights[name])


def test_forgotten_recordings_are_made_anew_after_warm_ups(dataset):
    """A restored optimiser may be empty: it must allocate its state before it is recorded."""
    recorder = Repeats()
    update = RecordedUpdate(make_learner(dataset)._phase_update, recorder)
    for number in range(WARM_UPS + 2):
        update(number)
    update.forget()
    for number in range(WARM_UPS):
        update(number)
        assert (recorder.num_warm_ups, recorder.num_recorded) == (WARM_UPS + number + 1, 1)
    update(WARM_UPS)
    assert recorder.num_recorded == 2


def test_cuda_graph_warns_where_there_is_no_device_and_trains_as_usual(dataset, caplog):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with caplog.at_level(logging.WARNING):
        learner = make_learner(dataset, cuda_graph=True)
    assert "cuda_graph=True has no effect" in caplog.text
    assert "no CUDA device" in caplog.text
    usual = make_learner(dataset)
    for each in (learner, usual):
        each.update(num_updates=3)
    weights = learner._networks.state_dict()
    for name, value in usual._networks.state_dict().items():
        assert torch.equal(value, weights[name])


def on_gpu(dataset: str, **training: object) -> OfflineLearner:
    sizes = {"actor_hidden": (16,), "critic_hidden": (16,), "train_batch_size": 32, "eta": 0.3}
    config = OM2PConfig().offline_data(input_=dataset).training(**sizes | training)
    config.debugging(seed=0).learners(num_learners=0, num_gpus_per_learner=1)
    config.validate()
    learner = config.build_learner()
    assert isinstance(learner, OfflineLearner)
    assert learner._device.type == "cuda"
    return learner


@pytest.mark.gpu
@pytest.mark.usefixtures("ray_cluster")
def test_cuda_graph_gives_the_numbers_of_usual_updates_and_survives_a_restore(dataset):
    schedule = [[0, 1e-3], [40, 1e-4]]
    usual, recorded = on_gpu(dataset, lr=schedule), on_gpu(dataset, lr=schedule, cuda_graph=True)
    for learner in (usual, recorded):
        learner.update(num_updates=20)
        state = learner.get_state()
        learner.update(num_updates=5)
        learner.set_state(state)
        learner.update(num_updates=20)
    weights = recorded._networks.state_dict()
    for name, value in usual._networks.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.usefixtures("ray_cluster")
def test_updates_on_a_gpu_wait_for_nothing(dataset):
    learner = on_gpu(dataset)
    learner.update(num_updates=2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(3):
            learner._phase_update(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
