"""VGM2P learns what is known to be best: bandits, two modes, discrete choices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rllib_om2p.algorithms.vgm2p import VGM2PConfig
from rllib_om2p.algorithms.vgm2p.networks import without_label
from rllib_om2p.ops.mean_flow import one_step_action
from tests.algorithms.toys import (
    AGENTS,
    BANDIT_OPTIMA,
    BEST_CHOICE,
    BETTER_MODE,
    NUM_ACTIONS,
    OBS_DIM,
    SMALL,
    bandit_dataset,
    discrete_dataset,
    mode_shares,
    sample,
    train,
    two_mode_dataset,
)


def train_on(dataset, num_updates, **settings):
    config = VGM2PConfig().offline_data(input_=dataset).training(**SMALL | settings)
    return train(config, num_updates)


@pytest.mark.parametrize("share_parameters", [False, True])
def test_bandits_actions_gather_at_each_agents_optimum(tmp_path, share_parameters):
    """The data are uniform, with a standard deviation of 0.58."""
    dataset = bandit_dataset(tmp_path / "bandit")
    learner = train_on(dataset, 500, share_parameters=share_parameters)
    for agent in AGENTS:
        actions = sample(learner, agent)
        assert actions.mean() == pytest.approx(BANDIT_OPTIMA[agent], abs=0.25)
        assert actions.std() < 0.3


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance": "advantage"},
        {"guidance": "advantage", "guide_others": False},
        {"guidance": "advantage", "share_parameters": True},
        {"guidance": "label_dropout", "omega": 2.0, "label_dropout": 0.5},
    ],
    ids=["advantage", "others-free", "shared", "label_dropout"],
)
def test_two_modes_become_the_better_one(tmp_path, settings):
    learner = train_on(two_mode_dataset(tmp_path / "modes"), 200, **settings)
    for index, agent in enumerate(AGENTS):
        on_better_side = sample(learner, agent) * BETTER_MODE[agent] > 0
        assert on_better_side.mean() > 0.95
        if settings["guidance"] == "label_dropout":
            # Without a label the policy is that of all data, which know both modes.
            assert 0.25 < (sample_without_label(learner, index) > 0).mean() < 0.75


def sample_without_label(learner, index, num_samples=1000):
    generator = torch.Generator().manual_seed(0)
    obs = without_label(torch.randn(2, num_samples, OBS_DIM, generator=generator))
    noise = torch.randn(2, num_samples, 1, generator=generator)
    actor = learner._networks.actors[0]
    actions = one_step_action(lambda z, r, t: actor(obs, z, r, t), noise)
    return actions[index, :, 0].detach().numpy()


@pytest.mark.parametrize("share_parameters", [False, True])
def test_discrete_agents_choose_the_better_of_the_datas_actions(tmp_path, share_parameters):
    dataset = discrete_dataset(tmp_path / "choices")
    learner = train_on(dataset, 150, share_parameters=share_parameters)
    for agent in AGENTS:
        counts = np.bincount(sample(learner, agent), minlength=NUM_ACTIONS)
        assert counts[BEST_CHOICE[agent]] > 0.95 * counts.sum()


@pytest.mark.slow
def test_guiding_the_others_can_diverge(tmp_path):
    dataset, losses = two_mode_dataset(tmp_path / "modes"), {}
    for guide_others in (True, False):
        num_updates = 500 if guide_others else 2000  # the first diverges, the second converges
        learner = train_on(
            dataset, num_updates, omega=10.0, guide_others=guide_others, actor_hidden=(64, 64, 64)
        )
        metrics = learner.update(num_updates=10)
        losses[guide_others] = [metrics[agent]["actor_loss"].peek() for agent in AGENTS]
    for agent, with_others, without in zip(AGENTS, losses[True], losses[False], strict=True):
        assert with_others > 100 * without
        near_better = mode_shares(sample(learner, agent))[0 if BETTER_MODE[agent] > 0 else 1]
        assert near_better > 0.9
