"""Every hyperparameter of every algorithm, set through its config, stands where it acts.

The table says where: a path from a phase's loss, the networks or an agent's module. A setting of a
config that no line covers fails here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from rllib_om2p.algorithms import ALGORITHMS
from rllib_om2p.algorithms.om2p.expectile import ExpectileCriticLoss
from rllib_om2p.algorithms.om2p.released import ReleasedMatching
from rllib_om2p.core.config import OfflineConfig
from rllib_om2p.core.generative import DiffusionModel, FlowModel
from rllib_om2p.core.learner import OfflineLearner
from rllib_om2p.core.settings import apply_settings, own_settings
from rllib_om2p.nets import mixers
from rllib_om2p.nets.sharing import SharedNet, without_sharing
from rllib_om2p.ops.times import time_table
from tests.small_data import UNEQUAL, write_random

AGENT = UNEQUAL[0][0]


class At(NamedTuple):
    """A setting's value, which is not the default, and the paths where it is found.

    With a path stands what is found there, if that is something else than the value.
    """

    value: Any
    places: tuple[str | tuple[str, Any], ...]


def at(value: Any, *places: str | tuple[str, Any]) -> At:
    return At(value, places)


Case = dict[str, At]

# Of the learner, its data and its update; tests/core has a test of each.
OF_THE_LEARNER = {
    "cuda_graph",
    "holdout_fraction",
    "num_updates_per_iteration",
    "on_corrupt",
    "precision",
    "share_table",
    "table_draws_per_transition",
    "table_memory_budget",
    "torch_compile",
}

ACTOR: Case = {
    "normalize_observations": at(False, "data.observations_are_normalised"),
    "standardize_rewards": at(False, "data.rewards_are_standardised"),
    "bootstrap_at_truncation": at(False, "data.bootstraps"),
    "tau": at(0.1, "update._tau"),
    "grad_clip": at(0.7, "update._grad_clip"),
    "train_batch_size": at(8, "batch_size"),
    "actor_hidden": at((8, 4), "actor_hidden", "model_config.actor_hidden"),
    "actor_layer_norm": at(True, "actor_net.mlp.layer_norm", "model_config.actor_layer_norm"),
}
PENALTY: Case = {
    "conservative_weight": at(0.3, "critic.weight"),
    "num_sampled_actions": at(4, "critic.num_actions"),
    "sample_noise": at(0.4, "critic.std"),
}
TEAMS = {"first": ["walker", "arm_2"], "second": ["arm_10"]}
MEMBERS = ((0, 2), (1,))
XI = (-0.2, 0.3, 0.0, 0.0)
UNIFORM = (0.0, 0.0, 0.0, 0.0)


def critics(
    loss: str = "critic.temporal", *others: str, critic: str = "vdn", aggregate: str = "min"
) -> Case:
    """Return the critics' settings, found in the temporal-difference loss and in other losses."""
    return {
        "gamma": at(0.9, f"{loss}.gamma"),
        "target_aggregate": at(aggregate, f"{loss}.aggregate"),
        "critic": at(critic, *(f"{place}.critic" for place in (loss, *others))),
        "teams": at(TEAMS, *((f"{place}.teams", MEMBERS) for place in (loss, *others))),
        "num_critics": at(3, "critic_net.num_critics"),
        "critic_hidden": at((6, 5), "critic_hidden"),
        "critic_layer_norm": at(False, "critic_net.mlp.layer_norm"),
    }


def exported() -> Case:
    """Return the critics' sizes where the agents' modules have a critic of their own."""
    sizes = {"num_critics": 3, "critic_hidden": (6, 5), "critic_layer_norm": False}
    return {name: at(value, f"model_config.{name}") for name, value in sizes.items()}


TWINS = {"critic": "vdn", "aggregate": "mean"}
SMOOTHED: Case = {
    "target_noise": at(0.3, "critic.temporal.next_actions.std"),
    "target_noise_clip": at(0.7, "critic.temporal.next_actions.clip"),
    "policy_delay": at(3, ("period", {"critic": 1, "actor": 3})),
}
FLOW_Q: Case = {
    "alpha": at(2.0, "actor.alpha"),
    "flow_steps": at(3, "actor.flow.num_steps"),
}
CONSERVATIVE = ACTOR | PENALTY | SMOOTHED | critics(**TWINS)

# By algorithm: sets of settings that go together.
CASES: dict[str, list[Case]] = {
    "OM2P": [
        ACTOR
        | PENALTY
        | critics("critic.temporal", "actor")
        | {
            "eta": at(0.3, "actor.eta"),
            "bc_weight": at(0.4, "actor.bc_weight"),
            "normalize_q": at(True, "actor.normalize_q"),
            "advantage_temperature": at(0.5, "actor.advantage_temperature"),
            "derivative": at("tangent", "actor.matching.derivative"),
            "finite_difference_step": at(1e-2, "actor.matching.step"),
            "xi": at(XI, ("actor.matching.time_table", time_table(XI))),
            "instant_fraction": at(0.25, "actor.matching.instant_fraction"),
            "sampling_steps": at(2, "networks.sampling_steps", "model_config.sampling_steps"),
            "best_of_n": at(4, "model_config.best_of_n", ("networks.export_critics", True)),
            "adaptive_loss_power": at(0.5, "actor.adaptive_power"),
            "adaptive_loss_constant": at(0.02, "actor.adaptive_constant"),
        },
        exported() | {"best_of_n": at(2, "model_config.best_of_n")},
        {
            "critic_loss": at("expectile", ("critic.__class__", ExpectileCriticLoss)),
            "expectile": at(0.8, "value.expectile"),
            "gamma": at(0.9, "critic.gamma"),
            "critic": at("vdn", "critic.critic", "value.critic"),
            "target_aggregate": at("min", "critic.aggregate", "value.aggregate"),
            "teams": at(TEAMS, ("critic.teams", MEMBERS), ("value.teams", MEMBERS)),
            "critic_hidden": at((6, 5), "value_hidden"),
            "critic_layer_norm": at(False, "networks.values.0.layer_norm"),
            "eta": at(0.3, "actor.eta", "networks.adaptive_eta._initial"),
            "adaptive_eta": at(0.2, "networks.adaptive_eta._delta"),
            "adaptive_eta_speed": at(5.0, "networks.adaptive_eta._speed"),
            "value_from": at("path", "actor.value_from"),
        },
        {
            "shared_noise": at(
                True,
                "actor.shared_noise",
                "critic.shared_noise",
                ("model_config.shared_noise", [[name for name, _, _ in UNEQUAL]]),
            )
        },
        {
            "form": at(
                "released",
                "networks.form",
                "model_config.form",
                ("actor.matching.__class__", ReleasedMatching),
            ),
            "derivative": at("none", "actor.matching.derivative"),
            "xi": at(UNIFORM, ("actor.matching.time_table", time_table(UNIFORM))),
        },
    ],
    "VGM2P": [
        ACTOR
        | PENALTY
        | critics(critic="own")
        | {
            "omega": at(5.0, "actor.omega"),
            "guidance": at("label_dropout", "actor.guidance"),
            "guide_others": at(False, "actor.guide_others"),
            "label_dropout": at(0.2, "actor.label_dropout"),
            "num_baseline_actions": at(3, "actor.num_baseline_actions"),
            "share_parameters": at(
                True,
                ("networks.actors.0.__class__", SharedNet),
                ("networks.critics.0.__class__", SharedNet),
                ("model_config.num_agents", len(UNEQUAL)),
            ),
            "derivative": at("finite_difference", "actor.matching.derivative"),
            "finite_difference_step": at(1e-2, "actor.matching.step"),
        }
    ],
    "BC": [
        ACTOR
        | {
            "policy": at("flow", ("bc.policies", [FlowModel(3)] * 2), "model_config.policy"),
            "sampling_steps": at(3, "bc.policies.1.num_steps", "module.policy.num_steps"),
            "teams": at(TEAMS),  # knows no team
        },
        {
            "policy": at("diffusion", ("bc.policies", [DiffusionModel(4)] * 2)),
            "sampling_steps": at(4, "bc.policies.1.num_steps", "module.policy.num_steps"),
        },
        {
            "policy": at("mean_flow", ("bc.policies.0.matching.derivative", "tangent")),
            "sampling_steps": at(2, "bc.policies.1.num_steps", "module.policy.num_steps"),
        },
    ],
    "MATD3BC": [
        ACTOR
        | PENALTY
        | SMOOTHED
        | critics("critic.temporal", "actor", **TWINS)
        | {"alpha": at(1.5, "actor.alpha")}
    ],
    "MACQL": [CONSERVATIVE, {"alpha": at(0.6, "critic.weight")}],
    "OMAR": [
        CONSERVATIVE
        | {
            "coefficient": at(0.7, "actor.coefficient"),
            "num_rounds": at(2, "actor.num_rounds"),
            "num_candidates": at(7, "actor.num_candidates"),
            "initial_std": at(1.5, "actor.std"),
            "num_elites": at(4, "actor.num_elites"),
        },
        {"alpha": at(0.6, "critic.weight")},
    ],
    "MAFQL": [
        ACTOR
        | PENALTY
        | critics("critic.temporal", "actor")
        | FLOW_Q
        | {"normalize_q": at(True, "actor.normalize_q")}
    ],
    "MACFlow": [
        ACTOR
        | PENALTY
        | critics("critic.temporal", "actor", critic="own")
        | FLOW_Q
        | {
            "normalize_q": at(False, "actor.normalize_q"),
            "mixer": at("sum", ("critic.temporal.mix", mixers.vdn)),
        }
    ],
    "MASfBC": [
        ACTOR
        | critics("critic")
        | {
            "diffusion_steps": at(4, "networks.diffusion.num_steps", "module.diffusion.num_steps"),
            "num_candidates": at(5, "critic.num_candidates"),
            "alpha": at(3.0, "critic.alpha"),
            "acting_candidates": at(6, "model_config.num_candidates"),
            "acting_alpha": at(20.0, "model_config.alpha"),
        },
        exported(),
    ],
}
# Whose critics are not penalised: a weight is refused.
WITHOUT_EFFECT = {"MASfBC": set(PENALTY)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_random(Path(tmp_path_factory.mktemp("data")) / "set"))


def build(config: OfflineConfig, dataset: str) -> OfflineLearner:
    config.offline_data(input_=dataset).validate()
    learner = config.build_learner()
    assert isinstance(learner, OfflineLearner)
    return learner


def hidden(mlp: Any) -> tuple[int, ...]:
    return tuple(bias.shape[-1] for bias in list(mlp.biases)[:-1])


def parts(learner: OfflineLearner) -> dict[str, Any]:
    """Return what the paths begin with."""
    networks, module = learner._networks, learner.module[AGENT].unwrapped()
    actor, rows = without_sharing(networks.actors[0]), learner._transform
    found = {phase.name: phase.loss for phase in learner._phases} | {
        "period": {phase.name: phase.period for phase in learner._phases},
        "data": {
            "observations_are_normalised": bool((rows.obs_std != 1).all()),
            "rewards_are_standardised": bool((rows.reward_std != 1).all()),
            "bootstraps": rows.bootstrap_at_truncation,
        },
        "update": learner._phase_update,
        "batch_size": learner._batch_size,
        "networks": networks,
        "module": module,
        "model_config": module.model_config,
        "actor_net": actor,
        "actor_hidden": hidden(actor.mlp),
    }
    if hasattr(networks, "critics"):
        critic = without_sharing(networks.critics[0])
        found |= {"critic_net": critic, "critic_hidden": hidden(critic.mlp)}
    if getattr(networks, "values", None):
        found["value_hidden"] = hidden(networks.values[0])
    return found


def find(thing: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(thing, Mapping):
            thing = thing[name]
        else:
            thing = thing[int(name)] if name.isdigit() else getattr(thing, name)
    return thing


def is_same(found: Any, wanted: Any) -> bool:
    same = torch.equal(found, wanted) if isinstance(wanted, torch.Tensor) else found == wanted
    return bool(same)


def small() -> dict[str, Any]:
    return {"actor_hidden": (4,), "critic_hidden": (4,), "train_batch_size": 4}


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, cases in CASES.items() for case in cases]
)
def test_setting_stands_where_it_acts(name, case, dataset):
    config, default = (ALGORITHMS[name][1]() for _ in range(2))
    sizes = {key: value for key, value in small().items() if hasattr(config, key)}
    apply_settings(config, sizes | {key: setting.value for key, setting in case.items()})
    found = parts(build(config, dataset))
    usual = [key for key, setting in case.items() if getattr(default, key) == setting.value]
    assert not usual, usual
    misplaced = []
    for key, (value, places) in case.items():
        for place in places:
            path, wanted = (place, value) if isinstance(place, str) else place
            if not is_same(find(found, path), wanted):
                misplaced.append(f"{key} at {path}")
    assert not misplaced, misplaced


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_setting_has_a_line_in_the_table(name):
    settings = set(own_settings(ALGORITHMS[name][1]()))
    assert settings >= OF_THE_LEARNER
    covered = {key for case in CASES[name] for key in case}
    missing = settings - covered - OF_THE_LEARNER - WITHOUT_EFFECT.get(name, set())
    assert not missing, missing


@pytest.mark.parametrize(("mixer", "mix"), [("mean", mixers.mean), ("sum", mixers.vdn)])
def test_mac_flows_mixer_makes_the_teams_value(mixer, mix, dataset):
    config = ALGORITHMS["MACFlow"][1]().training(mixer=mixer, **small())
    assert find(parts(build(config, dataset)), "critic.mix") is mix
