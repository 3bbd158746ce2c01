"""The project's own prey: the differentiable simulator and the self-play that trains it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_om2p.behaviour.prey import PreyRecipe, SelfPlay, make_prey
from rllib_om2p.behaviour.prey_simulator import State, TorchPursuit
from rllib_om2p.envs.prey import PREY_OBS_DIMS, load_prey
from rllib_om2p.envs.rollout import evaluate_policy, rollout
from rllib_om2p.envs.vector_mpe import VectorMPE
from tests.envs.recorded import PREY_TASKS, recorded

TAG = "mpe/simple_tag"
SMALL = PreyRecipe(num_iterations=2, num_worlds=4)


@pytest.mark.parametrize("task", PREY_TASKS)
def test_simulator_reproduces_the_recordings_to_1e_9(task: str) -> None:
    record = {key: torch.tensor(value) for key, value in recorded(task).items()}
    simulator = TorchPursuit(f"mpe/{task}", dtype=torch.float64)
    positions = torch.cat((record["agent_pos"][:, 0], record["landmark_pos"]), dim=1)
    state = State(positions, record["agent_vel"][:, 0])
    for step in range(25):
        seen = simulator.observe(state)
        torch.testing.assert_close(seen.predators, record["obs"][:, step], atol=1e-9, rtol=0)
        torch.testing.assert_close(seen.prey, record["prey_obs"][:, step], atol=1e-9, rtol=0)
        actions = (record["actions"][:, step], record["prey_action"][:, step, None])
        state = simulator.step(state, torch.cat(actions, dim=1))
        velocities = record["agent_vel"][:, step + 1]
        torch.testing.assert_close(state.velocities, velocities, atol=1e-9, rtol=0)


def test_gradient_through_contacts_equals_finite_differences() -> None:
    simulator = TorchPursuit(TAG, dtype=torch.float64)
    state = simulator.start(np.random.default_rng(0), 1)
    # A predator touches the prey and an obstacle, another is out of reach.
    positions = state.positions.clone()
    positions[0, 3] = positions[0, 0] + torch.tensor([0.08, 0.05])
    positions[0, 4] = positions[0, 0] - torch.tensor([0.2, 0.1])
    actions = torch.rand(1, 4, 2, dtype=torch.float64, requires_grad=True)

    def distances_after_three_steps(actions: torch.Tensor) -> torch.Tensor:
        reached = State(positions, state.velocities)
        for _ in range(3):
            reached = simulator.step(reached, actions)
        return simulator.prey_distances(reached.positions)

    assert torch.autograd.gradcheck(distances_after_three_steps, (actions,))


@pytest.mark.parametrize("env", PREY_OBS_DIMS)
def test_same_seed_writes_the_same_bytes_and_another_seed_does_not(
    tmp_path: Path, env: str
) -> None:
    written = [
        make_prey(env, tmp_path / folder, seed=seed, settings=SMALL).read_bytes()
        for folder, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_written_prey_is_the_trained_network(tmp_path: Path) -> None:
    file = make_prey(TAG, tmp_path, seed=3, settings=SMALL)
    play = SelfPlay(TAG, SMALL, seed=3)
    for _ in range(SMALL.num_iterations):
        play.iterate()
    obs = np.random.default_rng(0).normal(size=(20, 14)).astype(np.float32)
    with torch.no_grad():
        expected = torch.tanh(play.prey(torch.from_numpy(obs))).numpy()
    prey = load_prey(TAG, file)
    assert prey is not None
    np.testing.assert_allclose(prey(obs), expected, atol=1e-6)


def test_each_side_follows_the_gradient_of_its_own_reward_alone() -> None:
    play, twin = (SelfPlay(TAG, SMALL, seed=0) for _ in range(2))
    play.iterate()
    rewards = twin._play()
    for name in ("predators", "prey"):
        parameters = [*getattr(twin, name).parameters()]
        reward = getattr(rewards, name)
        expected = torch.autograd.grad(-reward, parameters, retain_graph=True)
        direction = torch.cat([gradient.reshape(-1) for gradient in expected])
        followed = [parameter.grad.reshape(-1) for parameter in getattr(play, name).parameters()]
        # What is followed is clipped to length 1.
        torch.testing.assert_close(
            torch.cat(followed), direction / direction.norm(), atol=1e-5, rtol=1e-3
        )


def _offsets(obs: np.ndarray) -> np.ndarray:
    """Return the prey's offset; it and the prey's velocity end the observation."""
    end = obs.shape[-1] - {16: 2, 24: 4}[obs.shape[-1]]
    return obs[..., end - 2 : end]


def _chase(obs: np.ndarray) -> np.ndarray:
    """Run straight at the prey."""
    offsets = _offsets(obs)
    return offsets / np.linalg.norm(offsets, axis=-1, keepdims=True)


@pytest.mark.parametrize("env", PREY_OBS_DIMS)
def test_shipped_prey_flees_and_stays_in_the_arena(env: str) -> None:
    seeds = range(300)
    caught = evaluate_policy(env, _chase, seeds).mean()
    standing = evaluate_policy(env, _chase, seeds, prey=lambda obs: np.zeros((len(obs), 2))).mean()
    assert caught < 0.85 * standing
    worlds = VectorMPE(env, 300)
    obs = worlds.reset(seeds)
    for _ in range(25):
        obs, _ = worlds.step(_chase(obs))
    # An unpunished prey is 2 away by then.
    positions = obs[:, 0, 2:4] + _offsets(obs)[:, 0]
    assert np.median(np.abs(positions).max(axis=-1)) < 1.2


def test_unknown_environment_has_no_prey_recipe(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No prey recipe for 'mpe/simple_spread'; .*simple_tag"):
        make_prey("mpe/simple_spread", tmp_path)


def test_prey_acts_in_every_rollout_of_its_environment() -> None:
    seen = []

    def prey(obs: np.ndarray) -> np.ndarray:
        seen.append(obs.shape)
        return np.zeros((len(obs), 2))

    rollout(TAG, _chase, seeds=range(5), prey=prey, max_worlds=3)
    assert seen == [(3, 14)] * 25 + [(2, 14)] * 25
