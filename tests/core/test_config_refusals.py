"""What a config refuses because it would have no effect, and what it takes from the dataset."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from ray import tune
from ray.tune.search.variant_generator import generate_variants

from rllib_om2p import OM2P, OM2PConfig
from tests.small_data import write_random

AGENTS = ["walker", "arm_10", "arm_2"]


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


def test_a_validated_config_and_its_copies_are_valid(dataset, tmp_path):
    config = make_config(dataset).evaluation(evaluation_interval=1)
    config.validate()
    config.validate()
    config.copy(copy_frozen=False).validate()
    config.get_evaluation_config_object().validate()
    OM2PConfig.from_dict(config.to_dict()).validate()
    OM2PConfig().update_from_dict(pickle.loads(pickle.dumps(config.get_state()))).validate()
    OM2P.default_resource_request(make_config(dataset))
    OM2P.default_resource_request(config.to_dict())
    other = write_random(tmp_path / "other", (("runner", 4, 2), ("jumper", 4, 2)))
    config.offline_data(input_=str(other)).validate()
    assert set(config.policies) == {"runner", "jumper"}
