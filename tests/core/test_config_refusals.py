"""What a config refuses because it would have no effect, and what it takes from the dataset."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from ray import tune
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.tune.search.variant_generator import generate_variants
from torch.optim.lr_scheduler import ConstantLR

from rllib_om2p import OM2P, Algorithm, OM2PConfig
from rllib_om2p.algorithms import ALGORITHMS
from rllib_om2p.algorithms.om2p import OM2PModule
from rllib_om2p.core.config import OfflineConfig, _warn_once
from tests.small_data import write_random

AGENTS = ["walker", "arm_10", "arm_2"]
BOX = gym.spaces.Box(-5.0, 5.0, (2,))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    fields = {"env": "mpe/simple_spread", "env_kwargs": {"max_cycles": 10}}
    return str(write_random(Path(tmp_path_factory.mktemp("data")) / "set", **fields))


def make_config(dataset: str) -> OM2PConfig:
    return OM2PConfig().offline_data(input_=dataset)


def test_tune_chooses_among_datasets_as_they_were_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = str(tmp_path)

    def drawn(input_):
        config = OM2PConfig().offline_data(input_=input_)
        return [variant["input"] for _, variant in generate_variants(config.to_dict())]

    grid = tune.grid_search(["a", "s3://bucket/b", ["c", "/d"]])
    assert drawn(grid) == [f"{here}/a", "s3://bucket/b", [f"{here}/c", "/d"]]
    assert grid["grid_search"][0] == "a"
    choice = tune.choice([Path("a"), "b"])
    assert set(drawn(choice)) <= {f"{here}/a", f"{here}/b"}
    assert choice.categories == [Path("a"), "b"]
    assert drawn(tune.sample_from(lambda spec: "/a")) == ["/a"]


def test_only_tune_draws_from_a_search(dataset):
    with pytest.raises(ValueError, match="must be a path or a list of paths"):
        make_config(tune.choice([dataset, "other"])).validate()


@pytest.mark.parametrize(
    ("env", "given", "used"),
    [
        (None, {}, {"max_cycles": 10}),
        ("mpe/simple_spread", {}, {"max_cycles": 10}),
        ("mpe/simple_spread", {"first_seed": 3}, {"first_seed": 3, "max_cycles": 10}),
        ("mpe/simple_spread", {"max_cycles": 5}, {"max_cycles": 5}),
        ("mpe/simple_tag", {}, {}),
    ],
)
def test_the_datasets_environment_has_its_settings_unless_others_are_given(
    dataset, env, given, used
):
    config = make_config(dataset).environment(env, env_config=given)
    config.evaluation(evaluation_interval=1).validate()
    assert config.env == (env or "mpe/simple_spread")
    assert config.env_config == used


def test_the_datasets_own_spaces_may_be_given(dataset):
    config = make_config(dataset)
    config.validate()
    again = make_config(dataset).environment(
        observation_space=config.observation_space, action_space=config.action_space
    )
    again.validate()


def test_a_config_that_is_pointed_at_other_data_takes_theirs(dataset, tmp_path):
    fields = {"env": "mpe/simple_tag", "env_kwargs": {"max_cycles": 7}}
    others = [
        str(write_random(tmp_path / "plain", env="mpe/simple_spread")),
        str(write_random(tmp_path / "tag", (("wolf", 5, 2),), **fields)),
    ]
    config = make_config(dataset).evaluation(evaluation_interval=1)
    config.validate()
    for path, env, settings, agents in zip(
        [*others, dataset],
        ["mpe/simple_spread", "mpe/simple_tag", "mpe/simple_spread"],
        [{}, {"max_cycles": 7}, {"max_cycles": 10}],
        [AGENTS, ["wolf"], AGENTS],
        strict=True,
    ):
        config = config.copy(copy_frozen=False).offline_data(input_=path)
        config.validate()
        config.validate()
        assert (config.env, config.env_config) == (env, settings)
        assert sorted(config.observation_space) == sorted(config.policies) == sorted(agents)


def test_a_policy_without_a_matching_loss_needs_no_derivative(dataset):
    make_config(dataset).training(bc_weight=0.0, precision="bfloat16").validate()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"actor_hidden": 64}, "actor_hidden must be a sequence of whole numbers, got 64"),
        ({"actor_hidden": "64"}, "actor_hidden must be a sequence of whole numbers, got '64'"),
        ({"critic_hidden": (64.5,)}, "critic_hidden must be a sequence of whole numbers"),
        ({"critic_hidden": (64, 0)}, "critic_hidden must be sizes of at least 1"),
        ({"actor_hidden": (0,)}, "actor_hidden must be sizes of at least 1"),
        ({"eta": "0.3"}, "eta must be a number, got '0.3'; the default is 0.1"),
        ({"xi": 0.0}, "xi must be a sequence of numbers, got 0.0"),
        ({"torch_compile": "yes"}, "torch_compile must be True or False"),
    ],
)
def test_settings_of_another_kind_are_named(dataset, settings, message):
    with pytest.raises(ValueError, match=message):
        make_config(dataset).training(**settings).validate()


def test_nobody_is_sent_to_rllibs_old_stack(dataset):
    program = (
        "from rllib_om2p import OM2PConfig\n"
        f"OM2PConfig().offline_data(input_={dataset!r}).validate()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "API stack" not in done.stderr


def test_a_config_without_an_algorithm_says_how_to_have_one(dataset):
    class Mine(OfflineConfig):
        pass

    config = Mine().offline_data(input_=dataset)
    for build in (config.build_algo, config.validate, lambda: Algorithm.from_config(config)):
        with pytest.raises(ValueError, match=r"Mine names no Algorithm .* super\(\).__init__\("):
            build()


def test_what_was_set_stays_when_a_config_is_pointed_at_other_data(dataset, tmp_path):
    plain = str(write_random(tmp_path / "plain", env="mpe/simple_spread"))
    config = make_config(dataset).environment("mpe/simple_spread", env_config={"first_seed": 3})
    config.evaluation(evaluation_interval=1).validate()
    assert config.env_config == {"first_seed": 3, "max_cycles": 10}
    config.offline_data(input_=plain).validate()
    assert config.env_config == {"first_seed": 3}
    config.environment(env_config={"max_cycles": 6}).offline_data(input_=dataset).validate()
    assert config.env_config == {"first_seed": 3, "max_cycles": 6}


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("training", {"minibatch_size": 8}, r"minibatch_size=.*train_batch_size"),
        ("training", {"num_epochs": 3}, r"num_epochs=.*num_updates_per_iteration"),
        ("training", {"shuffle_batch_per_epoch": True}, "shuffle_batch_per_epoch=.*at random"),
        ("training", {"optimizer": {"lr": 1.0}}, "optimizer=.*Adam"),
        ("training", {"grad_clip_by": "value"}, "grad_clip_by=.*whole network"),
        ("training", {"grad_clip_by": "norm"}, "grad_clip_by=.*whole network"),
        ("rl_module", {"model_config": {"actor_hidden": (8,)}}, "model_config=.*actor_hidden"),
        ("training", {"model": {"fcnet_hiddens": [64]}}, r"training\(model=.*actor_hidden"),
        ("training", {"learner_connector": lambda *_: None}, "learner_connector="),
        ("learners", {"num_aggregator_actors_per_learner": 1}, "num_aggregator_actors"),
        ("env_runners", {"num_env_runners": 4}, "evaluation_num_env_runners"),
        ("env_runners", {"env_runner_cls": MultiAgentEnvRunner}, "derive from .*TeamEnvRunner"),
        ("learners", {"learner_class": TorchLearner}, "derive from .*OfflineLearner"),
        ("environment", {"normalize_actions": True}, "normalize_actions=True .*environment's unit"),
        ("environment", {"observation_space": BOX}, "observation_space=.*spaces of the dataset"),
        ("environment", {"action_space": BOX}, "action_space=.*spaces of the dataset"),
        ("reporting", {"min_sample_timesteps_per_iteration": 1}, "min_train_timesteps_per_"),
        ("reporting", {"log_gradients": True}, "log_gradients="),
        ("framework", {"torch_skip_nan_gradients": True}, "torch_skip_nan_gradients="),
        ("framework", {"torch_compile_learner": True}, r"training\(torch_compile=True\)"),
        ("framework", {"torch_ddp_kwargs": {"static_graph": True}}, "torch_ddp_kwargs="),
        ("framework", {"framework": "jax"}, "there is torch"),
        (
            "api_stack",
            {"enable_rl_module_and_learner": False, "enable_env_runner_and_connector_v2": False},
            "new API stack",
        ),
        ("experimental", {"_torch_lr_scheduler_classes": [ConstantLR]}, "lr takes a schedule"),
        ("experimental", {"_torch_grad_scaler_class": dict}, "no scaler"),
        ("multi_agent", {"count_steps_by": "agent_steps"}, "joint transitions"),
        (
            "multi_agent",
            {"algorithm_config_overrides_per_module": {"walker": OM2PConfig.overrides(lr=0.0)}},
            "train with the same settings",
        ),
        ("multi_agent", {"policies_to_train": ["walker"]}, r"policies_to_train=.*\['walker'\]"),
        ("multi_agent", {"policies_to_train": lambda agent, _: agent == "arm_2"}, r"\['arm_2'\]"),
        ("multi_agent", {"policies": {"shared"}}, r"policies=.*'walker'.*\['shared'\]"),
        ("multi_agent", {"policy_mapping_fn": lambda *_, **__: "walker"}, "policy_mapping_fn="),
        ("multi_agent", {"policy_mapping_fn": lambda _, episode: episode.id_}, "mapping_fn="),
    ],
)
def test_settings_without_effect_are_refused(dataset, method, settings, message):
    config = make_config(dataset)
    getattr(config, method)(**settings)
    with pytest.raises(ValueError, match=message):
        config.validate()


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("training", {"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1\.5"),
        ("training", {"gamma": -0.1}, "gamma must be in"),
        ("training", {"gamma": float("nan")}, "gamma must be in"),
        ("training", {"tau": 3.0}, r"tau must be in \(0, 1\], got 3\.0"),
        ("training", {"tau": 0.0}, "tau must be in"),
        ("training", {"lr": -1.0}, "lr must be at least 0.*got -1"),
        ("training", {"lr": float("nan")}, "lr must be at least 0"),
        ("training", {"lr": [[0, 1e-3], [10, -1e-3]]}, "lr must be at least 0, in a schedule"),
        ("training", {"grad_clip": -2.0}, "grad_clip must be positive, or None.*got -2"),
        ("training", {"grad_clip": 0.0}, "grad_clip must be positive"),
        ("offline_data", {"table_draws_per_transition": -1.0}, "must be positive, got -1"),
        ("training", {"eta": float("nan")}, "eta and bc_weight must be at least 0"),
        ("training", {"conservative_weight": float("nan")}, "at least 0, got nan"),
        ("training", {"tau": None}, r"tau must be a number, got None; the default is 0\.005"),
        ("training", {"lr": None}, "lr must not be None"),
        ("training", {"lr": [[0, 1e-3], [9, 1e-5], [5, 1e-4]]}, "must not decrease, got"),
        ("training", {"num_critics": 2.0}, r"num_critics must be a whole number, got 2\.0"),
        ("training", {"num_updates_per_iteration": 1e3}, "must be a whole number, got 1000"),
        ("training", {"train_batch_size": 10.5}, "train_batch_size must be a positive whole"),
        ("training", {"train_batch_size": None}, "train_batch_size must be a positive whole"),
        ("training", {"train_batch_size_per_learner": 0}, "per_learner must be a positive whole"),
        ("training", {"train_batch_size_per_learner": -5}, "got -5"),
    ],
)
def test_numbers_without_meaning_are_refused(dataset, method, settings, message):
    config = make_config(dataset)
    getattr(config, method)(**settings)
    with pytest.raises(ValueError, match=message):
        config.validate()


@pytest.mark.parametrize(
    "settings",
    [
        {"gamma": 0.0, "tau": 1.0, "lr": 0.0, "grad_clip": None},
        {"gamma": 1, "tau": 1, "lr": 0, "grad_clip": 1},
        {"lr": [[0, 1e-3], [10, 0.0]]},
        {"lr": [[0, 1e-3], [5, 1e-3], [5, 1e-4]]},
        {"train_batch_size": None, "train_batch_size_per_learner": 32},
        {"num_critics": np.int64(3), "eta": 1},
    ],
)
def test_numbers_at_the_ends_of_their_ranges_are_accepted(dataset, settings):
    make_config(dataset).training(**settings).validate()


@pytest.mark.parametrize(
    "settings",
    [
        {"policies_to_train": AGENTS},
        {"policies_to_train": lambda agent, batch: True},
        {"policies": set(AGENTS), "policy_mapping_fn": lambda agent, *_, **__: agent},
    ],
)
def test_settings_that_say_what_the_dataset_says_are_accepted(dataset, settings):
    make_config(dataset).multi_agent(**settings).validate()


def test_a_misspelt_setting_of_a_dictionary_is_refused(dataset):
    """As Tune hands them over: RLlib's update_from_dict takes any name."""
    config = make_config(dataset).update_from_dict({"etta": 0.3})
    with pytest.raises(ValueError, match=r"OM2PConfig knows no 'etta'; did you mean .*\beta\b"):
        config.validate()


def test_a_setting_that_only_a_method_of_ones_own_knows_is_none_too_many(dataset):
    class Mine(OM2PConfig):
        def training(self, *, my_weight=None, **kwargs):
            super().training(**kwargs)
            if my_weight is not None:
                self.my_weight = my_weight
            return self

    Mine().offline_data(input_=dataset).training(my_weight=2.0)._check_names()


def test_a_validated_config_and_its_copies_are_valid(dataset, tmp_path):
    config = make_config(dataset).evaluation(evaluation_interval=1)
    config.validate()
    config.validate()
    config.copy(copy_frozen=False).validate()
    config.get_evaluation_config_object().validate()
    OM2PConfig.from_dict(config.to_dict()).validate()
    OM2PConfig().update_from_dict(pickle.loads(pickle.dumps(config.get_state()))).validate()
    OM2PConfig.from_dict(config.serialize()).validate()
    OM2P.default_resource_request(make_config(dataset))
    OM2P.default_resource_request(config.to_dict())
    other = write_random(tmp_path / "other", (("runner", 4, 2), ("jumper", 4, 2)))
    config.offline_data(input_=str(other)).validate()
    assert set(config.policies) == {"runner", "jumper"}


@pytest.mark.parametrize("given", [("a", "b"), Path("a")])
def test_an_input_that_a_dict_brought_is_made_absolute_too(dataset, given, monkeypatch):
    folder = Path(dataset)
    monkeypatch.chdir(folder.parent)
    inputs = [folder.name] if isinstance(given, tuple) else Path(folder.name)
    config = make_config(dataset)
    config.update_from_dict({"input": tuple(inputs) if isinstance(given, tuple) else inputs})
    config.validate()
    assert config.input_ == ([dataset] if isinstance(given, tuple) else dataset)


def test_rllibs_idiom_for_evaluating_offline_algorithms_is_answered(dataset):
    config = make_config(dataset).evaluation(
        evaluation_interval=1, evaluation_config={"input": "sampler"}
    )
    with pytest.raises(ValueError, match="not needed: evaluation plays"):
        config.get_evaluation_config_object().validate()


@pytest.mark.parametrize(
    "setting",
    [
        {"off_policy_estimation_methods": {"is": {"type": "ImportanceSampling"}}},
        {"offline_eval_batch_size_per_runner": 32},
        {"offline_loss_for_module_fn": len},
    ],
)
def test_rllibs_evaluation_on_single_agent_episodes_is_refused(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))}=.*single-agent"):
        OM2PConfig().evaluation(**setting)


def test_a_module_spec_of_the_users_own_gets_the_networks_of_training(dataset):
    config = make_config(dataset).training(actor_hidden=(8, 8))
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=OM2PModule))
    config.validate()
    spec = config.get_multi_rl_module_spec()
    assert {s.model_config["actor_hidden"] for s in spec.rl_module_specs.values()} == {(8, 8)}
    assert set(spec.build().keys()) == set(AGENTS)


@pytest.mark.parametrize(
    ("algorithm", "settings", "needs"),
    [
        ("OM2P", {"num_sampled_actions": 3}, {"conservative_weight": 1.0}),
        ("OM2P", {"finite_difference_step": 0.01}, {"derivative": "finite_difference"}),
        ("OM2P", {"expectile": 0.9}, {"critic_loss": "expectile"}),
        ("OM2P", {"adaptive_eta_speed": 5.0}, {"adaptive_eta": 0.1}),
        ("OM2P", {"adaptive_loss_constant": 0.1}, {"adaptive_loss_power": 1.0}),
        ("VGM2P", {"label_dropout": 0.2}, {"guidance": "label_dropout"}),
        ("MATD3BC", {"target_noise_clip": 0.3}, {"target_noise": 0.2}),
        ("MACFlow", {"mixer": "sum"}, {"critic": "vdn"}),
        ("OM2P", {"critic": "vdn"}, {"eta": 0.1}),
        ("OM2P", {"value_from": "path"}, {"eta": 0.1}),
        ("OM2P", {"normalize_q": True}, {"eta": 0.1}),
        ("OM2P", {"xi": (0, 0, 0, 0)}, {"bc_weight": 1.0}),
        ("OM2P", {"xi": (0, 0, 0, 0)}, {"bc_weight": 0.0, "value_from": "path"}),
        ("OM2P", {"derivative": "none"}, {"bc_weight": 1.0}),
        ("OM2P", {"instant_fraction": 0.5}, {"bc_weight": 1.0}),
    ],
)
def test_a_changed_setting_that_does_nothing_is_said_once(
    algorithm, settings, needs, dataset, caplog
):
    _warn_once.cache_clear()
    (name,) = settings
    config = ALGORITHMS[algorithm][1]().offline_data(input_=dataset).training(**settings)
    off = {"derivative": "tangent", "target_noise": 0.0, "eta": 0.0, "bc_weight": 0.0}
    off |= {"critic": "own"} if algorithm == "MACFlow" else {}
    config.training(**{need: off[need] for need in needs if need in off})
    config.validate()
    config.validate()
    said = [r.message for r in caplog.records if "does nothing here" in r.message]
    assert len(said) == 1
    assert said[0].startswith(
        f"{name}={settings[name]!r} does nothing here; it needs {[*needs][0]}"
    )
    caplog.clear()
    config.training(**needs).validate()
    assert not [r for r in caplog.records if "does nothing here" in r.message]
