"""The defaults that the papers have, or that the READMEs of the algorithms decide on.

A comparison of algorithms starts from these: another value here is another baseline.
"""

from __future__ import annotations

from typing import Any

import pytest

from rllib_om2p.algorithms import ALGORITHMS
from rllib_om2p.algorithms.bc.policies import NUM_STEPS

# OM2P section 7.1 and table 4, which all others take over where nothing else is said.
FAMILY: dict[str, Any] = {
    "train_batch_size": 256,
    "lr": 3e-4,
    "gamma": 0.99,
    "tau": 0.005,
    "grad_clip": None,
    "actor_hidden": (512,) * 4,
    "actor_layer_norm": False,
    "bootstrap_at_truncation": True,
    "precision": "float32",
}
CRITICS: dict[str, Any] = {
    "critic": "own",
    "num_critics": 2,
    "critic_hidden": (512,) * 4,
    "critic_layer_norm": True,
    "target_aggregate": "mean",
    "conservative_weight": 0.0,
    "num_sampled_actions": 10,
    "sample_noise": 0.2,
}
TWINS = CRITICS | {"target_aggregate": "min", "target_noise_clip": 0.5}
UNSMOOTHED = {"target_noise": 0.0, "policy_delay": 1, "conservative_weight": 1.0}
FLOW_Q = {"alpha": 10.0, "flow_steps": 10}

DEFAULTS: dict[str, dict[str, Any]] = {
    "OM2P": CRITICS
    | {
        "eta": 0.1,
        "bc_weight": 1.0,
        "derivative": "finite_difference",
        "finite_difference_step": 3e-3,
        "xi": (-0.5, 0.0, 0.0, 0.0),
        "instant_fraction": 0.0,
        "sampling_steps": 1,
        "form": "paper",
        # Options, each off.
        "normalize_q": False,
        "value_from": "noise",
        "advantage_temperature": None,
        "best_of_n": 1,
        "critic_loss": "td",
        "expectile": 0.7,
        "adaptive_eta": None,
        "adaptive_loss_power": 0.0,
        "adaptive_loss_constant": 1e-3,
        "shared_noise": False,
    },
    "VGM2P": CRITICS
    | {
        "critic": "vdn",
        "train_batch_size": 64,
        "gamma": 0.995,
        "omega": 3.0,
        "guidance": "advantage",
        "guide_others": True,
        "num_baseline_actions": 1,
        "share_parameters": False,
        "derivative": "tangent",
    },
    "BC": {"policy": "deterministic", "sampling_steps": None},
    "MATD3BC": TWINS | {"alpha": 2.5, "target_noise": 0.2, "policy_delay": 2},
    "MACQL": TWINS | UNSMOOTHED,
    "OMAR": TWINS
    | UNSMOOTHED
    | {
        "coefficient": 1.0,
        "num_rounds": 3,
        "num_candidates": 10,
        "initial_std": 2.0,
        "num_elites": None,
    },
    "MAFQL": CRITICS | FLOW_Q | {"normalize_q": False},
    "MACFlow": CRITICS
    | FLOW_Q
    | {"critic": "vdn", "mixer": "mean", "normalize_q": True, "gamma": 0.995},
    "MASfBC": CRITICS
    | {
        "diffusion_steps": 15,
        "num_candidates": 16,
        "alpha": 10.0,
        "acting_candidates": 32,
        "acting_alpha": 100.0,
    },
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_defaults_are_the_documented_ones(name):
    config = ALGORITHMS[name][1]()
    wanted = FAMILY | DEFAULTS[name]
    assert {key: getattr(config, key) for key in wanted} == wanted


def test_cloned_policies_take_the_documented_steps_from_noise_to_action():
    assert NUM_STEPS == {"flow": 10, "diffusion": 15, "mean_flow": 1}
