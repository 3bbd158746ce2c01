"""The model-free recipe: repeatable, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rllib_om2p import envs
from rllib_om2p.behaviour import make_behaviour, policies
from rllib_om2p.behaviour.recipes import REPLAY_STEPS, MATD3Recipe, recipe
from rllib_om2p.behaviour.replay import Batch
from rllib_om2p.behaviour.training import MATD3, Training, replay_of

NAME = "mpe/simple_spread"
# Any return is within the tolerance, so that the first check ends the run: 800 steps, 400 learned.
SMALL = MATD3Recipe(
    targets={"medium": 120.0},
    tolerance=0.9,
    total_steps=1_600,
    buffer_steps=800,
    uniform_steps=400,
    check_every=800,
    check_episodes=20,
    batch_size=32,
)


def _batch(size: int = 8) -> Batch:
    generator = np.random.default_rng(0)
    obs, next_obs = generator.normal(size=(2, size, 3, 18)).astype(np.float32)
    actions = generator.uniform(-1, 1, (size, 3, 2)).astype(np.float32)
    return Batch(obs, actions, generator.normal(size=(size, 3)).astype(np.float32), next_obs)


def test_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    written = [
        make_behaviour(NAME, tmp_path / folder, seed=seed, settings=SMALL)["medium"].read_bytes()
        for folder, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_replay_is_what_the_run_of_the_policy_saw(tmp_path: Path) -> None:
    files = make_behaviour(NAME, tmp_path, seed=1, settings=SMALL)
    replay = replay_of(NAME, "medium", num_steps=800, seed=1, settings=SMALL)
    stored = policies.load_policy(files["medium"])
    assert policies.weights_hash(replay.policy.actor) == stored.metadata["weights_sha256"]
    assert replay.episodes.rewards.shape == (32, 25, 3)
    # The first 400 steps are uniform; the later ones were made by a policy and are not.
    sizes = np.abs(replay.episodes.actions)
    assert sizes[:16].mean() == pytest.approx(0.5, abs=0.02)
    assert abs(sizes[16:].mean() - 0.5) > 0.05


def test_target_out_of_reach_is_an_error_that_says_how_far_it_got(tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, targets={"medium": 1e6})
    with pytest.raises(ValueError, match=r"within 90% of {'medium': 1000000.0} in 1600 steps"):
        make_behaviour(NAME, tmp_path, settings=settings)
    assert list(tmp_path.iterdir()) == []


def test_unknown_environment_has_no_recipe() -> None:
    with pytest.raises(ValueError, match="No behaviour recipe for 'mpe/other'"):
        recipe("mpe/other")


def test_actor_and_targets_move_once_per_policy_delay() -> None:
    settings = dataclasses.replace(recipe(NAME), policy_delay=3, tau=1.0)
    learner = MATD3(NAME, settings, torch.Generator().manual_seed(0))
    actor = policies.weights_hash(learner.actor)
    target_critic = [p.clone() for p in learner.target_critic.parameters()]
    for _ in range(2):
        learner.update(_batch())
    assert policies.weights_hash(learner.actor) == actor
    assert all(map(torch.equal, target_critic, learner.target_critic.parameters()))
    learner.update(_batch())
    assert policies.weights_hash(learner.actor) != actor
    # With tau = 1 the targets are copies.
    assert policies.weights_hash(learner.target_actor) == policies.weights_hash(learner.actor)
    assert all(map(torch.equal, learner.critic.parameters(), learner.target_critic.parameters()))


def test_critic_learns_the_scaled_mean_reward_and_what_follows_at_every_transition() -> None:
    # The batch does not say where an episode ends: what follows is worth 3 everywhere.
    settings = dataclasses.replace(recipe(NAME), gamma=0.5, reward_scale=0.5, policy_delay=1_000)
    learner = MATD3(NAME, settings, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for net in (learner.target_critic.first, learner.target_critic.second):
            net[-1].weight.zero_()
            net[-1].bias.fill_(3.0)
    batch = _batch()
    for _ in range(400):
        learner.update(batch)
    with torch.no_grad():
        q = learner.critic(torch.from_numpy(batch.obs), torch.from_numpy(batch.actions))
    expected = torch.from_numpy(0.5 * batch.rewards.mean(axis=1) + 0.5 * 3.0)
    torch.testing.assert_close(q, expected.expand(2, -1), atol=0.02, rtol=0)


@pytest.mark.parametrize("env", [NAME, "mpe/simple_tag", "mpe/simple_world"])
def test_next_observation_at_the_time_limit_is_the_same_episodes(env: str) -> None:
    training = Training(env, seed=0, settings=SMALL)
    for _ in range(2):
        training.run_round()
    batch = training.buffer.sample(np.random.default_rng(0), 2_000)
    velocity, position = batch.next_obs[..., :2], batch.obs[..., 2:4]
    # Position moves with the new velocity; a start of the next episode would be anywhere.
    np.testing.assert_allclose(batch.next_obs[..., 2:4], position + 0.1 * velocity, atol=1e-6)


def test_run_leaves_its_curve(tmp_path: Path) -> None:
    files = make_behaviour(NAME, tmp_path, seed=1, settings=SMALL)
    curve = json.loads((tmp_path / "mpe-simple_spread-curve.json").read_text())
    policy = policies.load_policy(files["medium"])
    assert curve["joint_steps"] == [800]
    assert curve["team_return"] == [policy.metadata["measured"]["return"]]
    assert (curve["targets"], curve["seed"]) == ({"medium": 120.0}, 1)
    with Image.open(tmp_path / "mpe-simple_spread-curve.png") as picture:
        assert picture.size[0] > 500


def test_exploration_noise_anneals_per_step() -> None:
    settings = dataclasses.replace(
        SMALL, uniform_steps=0, noise_start=0.4, noise_end=0.1, noise_steps=1_200, num_worlds=16
    )
    training = Training(NAME, seed=0, settings=settings)
    obs = np.zeros((2_000, 3, 18), np.float32)
    with torch.no_grad():
        means = training.learner.actor(torch.from_numpy(obs)).numpy()
    for num_steps, expected in ((0, 0.4), (600, 0.25), (1_200, 0.1), (9_999, 0.1)):
        training.num_steps = num_steps
        explored = training._explore(obs)
        assert (explored - means).std() == pytest.approx(expected, rel=0.05)


def test_replay_of_a_run_that_is_early_goes_on_until_it_is_long_enough() -> None:
    settings = dataclasses.replace(SMALL, buffer_steps=1_600)
    replay = replay_of(NAME, "medium", num_steps=1_200, settings=settings)
    assert replay.policy.metadata["joint_steps"] == 1_600
    assert len(replay.episodes.rewards) == 64


def test_buffer_holds_whole_rounds_and_no_more_is_asked_of_it() -> None:
    settings = dataclasses.replace(SMALL, buffer_steps=1_000)  # of 400 steps each
    with pytest.raises(ValueError, match="holds 800 joint steps, got steps=1000"):
        replay_of(NAME, "medium", num_steps=1_000, settings=settings)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("env", "mean", "medium"),
    [(NAME, 204.0, 273.0), ("mpe/simple_tag", 4.0, 116.0), ("mpe/simple_world", 1.0, 66.0)],
)
def test_recipe_leaves_a_replay_with_the_papers_return(
    env: str, mean: float, medium: float
) -> None:
    num_steps = REPLAY_STEPS[env]
    replay = replay_of(env, "medium", num_steps=num_steps, seed=1)
    returns = envs.info(env).team_rewards(replay.episodes.rewards).sum(axis=1)
    newest = returns[-num_steps // 25 :]
    # Close to zero a relative distance says nothing.
    assert newest.mean() == pytest.approx(mean, rel=0.1, abs=4.0)
    assert replay.policy.metadata["measured"]["return"] == pytest.approx(medium, rel=0.1)
