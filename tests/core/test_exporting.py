"""Export and back: the same actions to the last bit, for every algorithm's modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rllib_om2p import OM2PConfig
from rllib_om2p.algorithms import ALGORITHMS
from rllib_om2p.core.acting import JointPolicy, load_config, load_modules
from rllib_om2p.core.exported import module_classes
from rllib_om2p.core.exporting import agent_policy, export_checkpoint
from rllib_om2p.core.playing import play_checkpoint
from rllib_om2p.core.rl_module import AgentModule
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.export.folder import DESCRIPTION, TeamPolicy, read_team, write_team
from tests.small_data import write_discrete, write_random, write_spread

SMALL = {"actor_hidden": (16, 16), "critic_hidden": (16, 16), "train_batch_size": 32}


@pytest.fixture(scope="module")
def spread_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = Path(tmp_path_factory.mktemp("spread"))
    config = OM2PConfig().offline_data(input_=str(write_spread(root / "set", num_episodes=10)))
    algo = config.training(**SMALL, best_of_n=3, num_updates_per_iteration=2).build_algo()
    algo.train()
    path = algo.save_to_path(root / "checkpoint")
    algo.stop()
    return path


@pytest.fixture(scope="module")
def exported(spread_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_checkpoint(spread_checkpoint, tmp_path_factory.mktemp("out") / "policy")


def observations(dataset: OfflineDataset) -> dict[str, Any]:
    """Return what the agents of the first episode saw, with their legal actions where there are."""
    episode = next(iter(dataset.episodes()))
    masks = episode.action_masks or {}
    return {
        agent: {"observations": obs.copy(), "action_mask": masks[agent]}
        if agent in masks
        else obs.copy()
        for agent, obs in episode.obs.items()
    }


@pytest.mark.parametrize("actions", ["box", "discrete"])
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_exported_modules_act_bit_equally(name, actions, tmp_path):
    config = ALGORITHMS[name][1]()
    if actions == "discrete" and not config.supports_discrete:
        pytest.skip(f"{name} has no discrete actions")
    write = {"box": write_random, "discrete": write_discrete}[actions]
    config.offline_data(input_=str(write(tmp_path / "set"))).debugging(seed=3)
    config.training(**{k: v for k, v in SMALL.items() if hasattr(config, k)}).validate()
    learner = config.build_learner()
    learner.update(num_updates=2)
    spec = config.dataset_spec
    modules = {agent: learner.module[agent].unwrapped() for agent in spec.agent_ids}
    team = TeamPolicy(
        algorithm=name,
        agents=tuple(agent_policy(agent, module) for agent, module in modules.items()),
        dataset={"id": spec.dataset_id, "fingerprint": None, "spec": spec.to_dict()},
        environment={"name": None, "kwargs": {}},
    )
    again = load_modules(write_team(team, tmp_path / "policy"))
    assert list(again) == list(spec.agent_ids)
    obs = observations(OfflineDataset.open(config.input_))
    before, after = (JointPolicy(m, seed=1)(obs) for m in (modules, again))
    for agent in obs:
        assert type(again[agent]) is type(modules[agent])
        np.testing.assert_array_equal(before[agent], after[agent])
        if isinstance(obs[agent], dict):
            rows = np.arange(len(after[agent]))
            assert obs[agent]["action_mask"][rows, after[agent]].all()


def test_playing_an_exported_folder_gives_the_checkpoints_returns(spread_checkpoint, exported):
    before, after = (play_checkpoint(p, num_episodes=3) for p in (spread_checkpoint, exported))
    np.testing.assert_array_equal(before.team_returns, after.team_returns)
    assert before.to_dict() == after.to_dict()


def test_the_settings_that_training_played_in_go_along(tmp_path):
    config = OM2PConfig().offline_data(input_=str(write_spread(tmp_path / "set", num_episodes=10)))
    config.environment("mpe/simple_spread", env_config={"max_cycles": 40, "first_seed": 3})
    algo = config.training(**SMALL).build_algo()
    checkpoint = algo.save_to_path(tmp_path / "checkpoint")
    algo.stop()
    exported = export_checkpoint(checkpoint, tmp_path / "policy")
    assert read_team(exported).environment["kwargs"] == {"max_cycles": 40}
    before, after = (play_checkpoint(path, num_episodes=2) for path in (checkpoint, exported))
    assert before.to_dict() == after.to_dict()
    assert before.normalised is None


def test_settings_that_cannot_be_described_are_left_out_and_said(tmp_path, caplog):
    config = OM2PConfig().offline_data(input_=str(write_spread(tmp_path / "set", num_episodes=10)))
    config.environment("my_own", env_config={"pay": len, "scale": 2.0})
    algo = config.training(**SMALL).build_algo()
    checkpoint = algo.save_to_path(tmp_path / "checkpoint")
    algo.stop()
    exported = export_checkpoint(checkpoint, tmp_path / "policy")
    assert read_team(exported).environment == {"name": "my_own", "kwargs": {"scale": 2.0}}
    assert "the environment's settings ['pay'] are left out" in caplog.text


def test_folder_says_where_the_policies_come_from(spread_checkpoint, exported):
    team, spec = read_team(exported), load_config(spread_checkpoint).dataset_spec
    assert team.algorithm == "OM2P"
    assert team.dataset["id"] == spec.dataset_id
    assert len(team.dataset["fingerprint"]) == 64
    assert team.environment["name"] == "mpe/simple_spread"
    assert team.packages["ray"]
    assert load_config(exported).dataset_spec == spec


def test_reading_an_exported_folder_unpickles_nothing(exported, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "numpy.load"):
        monkeypatch.setattr(name, refuse)
    assert list(load_modules(exported)) == ["agent_0", "agent_1", "agent_2"]
    assert load_config(exported).env == "mpe/simple_spread"


def test_class_from_elsewhere_is_refused_without_an_import(exported, tmp_path):
    team = read_team(exported)
    agent = team.agents[0]
    object.__setattr__(agent, "module_class", "os.system")
    folder = write_team(team, tmp_path / "policy")
    with pytest.raises(ValueError, match=r"'os.system', which is not one of this package.*OM2PM"):
        load_modules(folder)


def test_weights_of_another_shape_are_refused(exported, tmp_path):
    team = read_team(exported)
    weights = team.agents[0].weights
    name = next(name for name in weights if "." in name)  # a network's, not a buffer
    weights[name] = torch.zeros(3)
    with pytest.raises(ValueError, match="weights of agent 'agent_0' do not fit its OM2PModule"):
        load_modules(write_team(team, tmp_path / "policy"))


def test_exporting_an_exported_folder_is_refused(exported, tmp_path):
    with pytest.raises(ValueError, match="exported already"):
        export_checkpoint(exported, tmp_path / "again")


def test_only_the_packages_modules_can_be_named():
    class Stranger(AgentModule):
        pass

    classes = module_classes()
    assert "OM2PModule" in classes
    assert "Stranger" not in classes
    assert all(cls.__module__.startswith("rllib_om2p.") for cls in classes.values())


def test_description_is_for_people_too(exported):
    description = json.loads((exported / DESCRIPTION).read_text())
    (first, *_) = description["agents"]
    assert first["id"] == "agent_0"
    assert first["observation_space"]["shape"] == [18]
    assert first["action_space"]["low"] == [-1.0, -1.0]
