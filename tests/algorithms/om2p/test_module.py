"""The agent's module: one pass, several jumps, the best of several candidates."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch

from rllib_om2p.algorithms.om2p.networks import OM2PModule

OBS_DIM, ACTION_DIM, BATCH = 4, 2, 8


def make_module(action_space: gym.Space | None = None, **settings: object) -> OM2PModule:
    torch.manual_seed(0)
    config = {
        "actor_hidden": (16,),
        "critic_hidden": (16,),
        "num_critics": 2,
        "actor_layer_norm": False,
        "critic_layer_norm": True,
        "form": "paper",
        "sampling_steps": 1,
        "best_of_n": 1,
    }
    return OM2PModule(
        observation_space=gym.spaces.Box(-np.inf, np.inf, (OBS_DIM,), np.float32),
        action_space=action_space or gym.spaces.Box(-2.0, 4.0, (ACTION_DIM,), np.float32),
        model_config=config | settings,
    )


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def velocity(module: OM2PModule, obs: torch.Tensor, z: torch.Tensor, r: float, t: float):
    times = [torch.full((1, len(z), 1), value) for value in (r, t)]
    return module.actor(obs[None], z[None], *times)[0]


def test_action_is_noise_plus_average_velocity_in_the_agents_own_units():
    module = make_module()
    module.obs_mean.fill_(1.0)
    module.obs_std.fill_(2.0)
    obs, noise = normal(BATCH, OBS_DIM), normal(BATCH, ACTION_DIM)
    actions = module.forward_inference({"obs": obs, "noise": noise})["actions"]
    normalised = (noise + velocity(module, (obs - 1) / 2, noise, 0.0, 1.0)).clamp(-1, 1)
    torch.testing.assert_close(actions, -2 + (normalised + 1) * 3)


def test_sampling_steps_jump_in_equal_parts():
    module = make_module(sampling_steps=2)
    obs, noise = normal(BATCH, OBS_DIM), normal(BATCH, ACTION_DIM)
    half = noise + velocity(module, obs, noise, 0.0, 0.5) / 2
    end = (half + velocity(module, obs, half, 0.5, 1.0) / 2).clamp(-1, 1)
    actions = module.forward_inference({"obs": obs, "noise": noise})["actions"]
    torch.testing.assert_close(actions, -2 + (end + 1) * 3)


def test_best_of_n_takes_each_observations_most_valued_candidate():
    module, num = make_module(best_of_n=5), 5
    obs, noise = normal(BATCH, OBS_DIM), normal(BATCH, num, ACTION_DIM)
    chosen = module.act(obs[None], noise)[0]
    for row in range(BATCH):
        same = obs[row].expand(num, -1)
        candidates = (noise[row] + velocity(module, same, noise[row], 0.0, 1.0)).clamp(-1, 1)
        values = module.critic(same[None], candidates[None]).mean(0)[0]
        torch.testing.assert_close(chosen[row], candidates[values.argmax()])


def test_best_of_n_takes_the_most_valued_of_the_candidates_legal_actions():
    num, num_actions = 5, 4
    module = make_module(gym.spaces.Discrete(num_actions), best_of_n=num)
    obs, noise = normal(BATCH, OBS_DIM), normal(BATCH, num, num_actions)
    mask = torch.ones(BATCH, num_actions)
    for row in range(BATCH):  # another two are legal in the next row
        mask[row, [row % num_actions, (row + 1) % num_actions]] = 0
    batch = {"obs": {"observations": obs, "action_mask": mask}, "noise": noise}
    chosen = module.forward_inference(batch)["actions"]
    for row in range(BATCH):
        values = {}
        for start in noise[row]:
            point = start + velocity(module, obs[[row]], start[None], 0.0, 1.0)[0]
            action = max(mask[row].nonzero()[:, 0].tolist(), key=point.tolist().__getitem__)
            corner = torch.full((num_actions,), -1.0)
            corner[action] = 1.0
            values[action] = module.critic(obs[None, [row]], corner[None, None]).mean().item()
        assert chosen[row] == max(values, key=values.get)


def test_fresh_noise_makes_different_actions_and_a_seed_repeats_them():
    module, obs = make_module(), torch.zeros(BATCH, OBS_DIM)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(module.forward_inference({"obs": obs})["actions"])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_one_step_policy_carries_no_critic():
    names = [name for name, _ in make_module().named_parameters()]
    assert names
    assert not any("critic" in name for name in names)
