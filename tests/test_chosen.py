"""Configs of the comparison's methods by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from rllib_om2p import BCConfig, OM2PConfig
from tests.small_data import write_random
from tuned_configs.chosen import chosen_config
from tuned_configs.suites.choices import read_choices
from tuned_configs.suites.comparisons import cpu


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_random(Path(tmp_path_factory.mktemp("data")) / "set"))


@pytest.mark.parametrize("method", [method.name for method in cpu().methods])
def test_every_method_of_the_comparison_has_a_config_that_holds(method, dataset):
    config = chosen_config(method, "mpe/simple_tag", "medium", width=32, num_updates=100)
    config.offline_data(input_=dataset).validate()
    assert tuple(config.actor_hidden) == (32, 32)
    assert config.lr == [[0, 1e-2], [100, 1e-4]]
    for name, value in read_choices().get(method, {}).get("medium", {}).items():
        assert getattr(config, name) == value


def test_settings_of_method_task_and_quality_are_there():
    config = chosen_config("OM2P-path-VDN", "mamujoco/2x3-HalfCheetah", "expert")
    assert isinstance(config, OM2PConfig)
    assert (config.critic, config.value_from, config.eta) == ("vdn", "path", 0.3)
    assert (config.gamma, config.tau) == (0.99, 0.005)
    cloning = chosen_config("BC-mean-flow", "mpe/simple_spread", "of-our-own")
    assert isinstance(cloning, BCConfig)
    assert cloning.policy == "mean_flow"


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no method 'PPO'; there are BC, BC-gaussian"):
        chosen_config("PPO", "mpe/simple_spread", "medium")
    with pytest.raises(ValueError, match="no task 'chess'; there are mpe/simple_spread"):
        chosen_config("OM2P", "chess", "medium")
