"""What an update refuses of the phases that an algorithm brings, by the phase's name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from rllib_om2p import OM2PConfig
from rllib_om2p.core.learner import OfflineLearner
from rllib_om2p.core.update import Update
from tests.small_data import write_random


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> OfflineLearner:
    dataset = write_random(Path(tmp_path_factory.mktemp("data")) / "set")
    config = OM2PConfig().offline_data(input_=str(dataset))
    config.training(actor_hidden=(8,), critic_hidden=(8,), train_batch_size=32).validate()
    built = config.build_learner()
    assert isinstance(built, OfflineLearner)
    return built


def make(learner: OfflineLearner, *phases: object) -> Update:
    return Update(
        learner._networks,
        phases,
        sample=learner._sample,
        generator=learner._generator,
        tau=0.1,
    )


def test_phases_of_one_name_are_refused(learner):
    critic, actor = learner._phases
    names = r"\['critic', 'actor', 'actor'\]"
    with pytest.raises(ValueError, match=f"different names, got {names}"):
        make(learner, critic, actor, actor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda losses, metrics: (losses.expand(32, 3), metrics), r"loss must .* got \(32, 3\)"),
        (lambda losses, metrics: (losses[:2], metrics), r"loss must .*\(3,\).* got \(2,\)"),
        (lambda losses, metrics: (losses, {"q": 1.0}), "q must be a tensor .* got float"),
        (lambda losses, metrics: (losses, {"q": torch.zeros(32)}), r"q must .* got \(32,\)"),
    ],
)
def test_a_loss_of_another_shape_is_refused(learner, change, message):
    _, actor = learner._phases
    broken = dataclasses.replace(actor, loss=lambda *given: change(*actor.loss(*given)))
    with pytest.raises(ValueError, match=f"phase 'actor': {message}"):
        make(learner, broken)(0)


def test_one_number_for_all_agents_is_a_loss(learner):
    _, actor = learner._phases
    joint = dataclasses.replace(actor, loss=lambda *given: (actor.loss(*given)[0].sum(), {}))
    (outcome,) = make(learner, joint)(0)
    assert outcome.losses.shape == ()


def test_a_network_that_the_loss_does_not_use_is_named_by_its_phase(learner):
    _, actor = learner._phases
    idle = dataclasses.replace(actor, trained=[*actor.trained, torch.nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="phase 'actor' trains a network that its loss does not"):
        make(learner, idle)(0)
