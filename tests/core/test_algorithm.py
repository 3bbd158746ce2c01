"""The Algorithm on a real Ray: without an environment, with one, saved, restored and refused."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from ray import tune
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.tune.registry import get_trainable_cls

import rllib_om2p
from rllib_om2p import OM2P, Algorithm, OM2PConfig, envs
from rllib_om2p.algorithms.om2p.networks import OM2PModule
from rllib_om2p.core.acting import JointPolicy, load_modules, module_path
from rllib_om2p.core.checkpoint import MARKER, read_config, read_marker
from rllib_om2p.core.exporting import export_checkpoint
from rllib_om2p.core.learner import DivergenceError
from rllib_om2p.core.playing import play_checkpoint
from rllib_om2p.data.schema import DataError
from rllib_om2p.envs.worlds import evaluate_team
from tests.small_data import write_random, write_spread

pytestmark = pytest.mark.usefixtures("ray_cluster")

MODULES = "learner_group/learner/rl_module"


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_spread(Path(tmp_path_factory.mktemp("data")) / "spread"))


def make_config(dataset: str, **training: object) -> OM2PConfig:
    settings = {
        "actor_hidden": (16, 16),
        "critic_hidden": (16, 16),
        "train_batch_size": 64,
        "num_updates_per_iteration": 5,
    }
    return (
        OM2PConfig()
        .offline_data(input_=dataset)
        .training(**settings | training)
        .debugging(seed=1, log_level="ERROR")
    )


@pytest.fixture(scope="module")
def trained(spread: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OM2P, str]]:
    """An algorithm after two iterations, and its checkpoint."""
    algo = Algorithm.from_config(make_config(spread))
    algo.train()
    algo.train()
    path = algo.save_to_path(tmp_path_factory.mktemp("checkpoints") / "two")
    yield algo, path
    algo.stop()


def parameters(algo: Algorithm) -> list[torch.Tensor]:
    agents = algo.config.dataset_spec.agent_ids
    return [p.detach().clone() for a in agents for p in algo.get_module(a).parameters()]


def assert_same_parameters(one: Algorithm, other: Algorithm) -> None:
    for p, q in zip(parameters(one), parameters(other), strict=True):
        assert torch.equal(p, q)


def test_results_count_updates_and_name_every_agents_losses(spread):
    algo = make_config(spread, train_batch_size=32).build_algo()
    algo.train()
    learners = algo.train()["learners"]
    assert learners["__all_modules__"]["num_updates_lifetime"] == 10
    assert learners["__all_modules__"]["num_env_steps_trained_lifetime"] == 320
    for agent in ("agent_0", "agent_1", "agent_2"):
        assert np.isfinite(learners[agent]["actor_loss"])
        assert np.isfinite(learners[agent]["critic_loss"])
    algo.stop()


@pytest.mark.parametrize("num_learners", [0, 1])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(spread, tmp_path, num_learners):
    config = make_config(spread).learners(num_learners=num_learners)
    algo = config.build_algo()
    algo.train()
    path = algo.save_to_path(tmp_path / "checkpoint")
    algo.train()
    expected = parameters(algo)
    algo.stop()
    resumed = OM2P.from_checkpoint(path)
    assert resumed.iteration == 1
    resumed.train()
    for value, other in zip(parameters(resumed), expected, strict=True):
        assert torch.equal(value, other)
    learner_state = resumed.learner_group.get_state()["learner"]["training_state"]
    assert learner_state["num_updates"] == 10
    resumed.stop()


def test_two_learners_train_the_same_weights_on_halves_of_the_data(spread, tmp_path):
    algo = make_config(spread).learners(num_learners=2).build_algo()
    algo.train()

    def state(learner):
        values = [t.double().sum().item() for t in learner._networks.state_dict().values()]
        return learner._table.num_transitions, learner._batch_size, values

    (rows_0, batch_0, sums_0), (rows_1, batch_1, sums_1) = [
        result.get() for result in algo.learner_group.foreach_learner(state)
    ]
    assert rows_0 + rows_1 == 3000
    assert batch_0 == batch_1 == 32
    assert sums_0 == sums_1
    path = algo.save_to_path(tmp_path / "two")
    expected_next = algo.train()["learners"]["agent_0"]["actor_loss"]
    algo.restore_from_path(path)
    again = algo.train()["learners"]["agent_0"]["actor_loss"]
    assert again == expected_next
    algo.stop()


def test_one_diverging_learner_stops_all_and_names_its_agent(spread):
    algo = make_config(spread).learners(num_learners=2).build_algo()

    def spoil(learner):
        if learner._learner_index == 1:
            # agent_2's own reward, of every row.
            learner._table._rows[:, learner._layout.sections["reward"].stop - 1] = float("nan")

    algo.learner_group.foreach_learner(spoil)
    with pytest.raises(DivergenceError, match="critic loss of agent 'agent_2'.* at update 0"):
        algo.train()
    algo.stop()


def test_learners_that_do_not_fit_fail_at_once(spread):
    with pytest.raises(RuntimeError, match=r"9 learners need 9 CPU.*use fewer learners"):
        make_config(spread, train_batch_size=63).learners(num_learners=9).build_algo()


def test_more_learners_than_episodes_are_refused(tmp_path):
    path = str(write_random(tmp_path / "one", num_episodes=1, num_steps=80))
    with pytest.raises(Exception, match="cannot be split into 2 shards"):
        make_config(path).learners(num_learners=2).build_algo()


def test_evaluation_uses_the_datasets_environment_and_its_team_return(spread):
    config = make_config(spread).evaluation(evaluation_interval=1, evaluation_duration=4)
    algo = config.build_algo()
    result = algo.train()["evaluation"]
    per_agent = result["env_runners"]["agent_episode_returns_mean"]
    assert set(per_agent) == {"agent_0", "agent_1", "agent_2"}
    assert result["env_runners"]["num_episodes"] == 4
    assert result["team_return_mean"] == pytest.approx(np.mean([*per_agent.values()]))
    expected = 100 * (result["team_return_mean"] - 159.8) / (516.8 - 159.8)
    assert result["normalized_score"] == pytest.approx(expected)
    algo.stop()


def test_remote_evaluation_runner_acts_with_the_trained_weights(spread):
    config = make_config(spread).evaluation(
        evaluation_interval=1, evaluation_duration=2, evaluation_num_env_runners=1
    )
    algo = config.build_algo()
    algo.train()
    weights = algo.eval_env_runner_group.foreach_env_runner(
        lambda runner: runner.module["agent_1"].get_state(), local_env_runner=False
    )[0]
    own = algo.get_module("agent_1").get_state()
    assert set(own) == set(weights)
    for name, value in own.items():
        np.testing.assert_array_equal(weights[name], value)
    algo.stop()


@pytest.mark.parametrize("num_env_runners", [0, 1])
def test_evaluation_acts_with_the_earlier_weights_after_going_back(
    spread, tmp_path, num_env_runners
):
    config = make_config(spread).evaluation(
        evaluation_interval=1, evaluation_duration=1, evaluation_num_env_runners=num_env_runners
    )
    algo = config.build_algo()
    algo.train()
    expected, path, state = parameters(algo), algo.save_to_path(tmp_path / "one"), algo.get_state()

    def played_with() -> list[torch.Tensor]:
        agents = algo.config.dataset_spec.agent_ids
        [found] = algo.eval_env_runner_group.foreach_env_runner(
            lambda runner: [
                p.detach().clone() for a in agents for p in runner.module[a].parameters()
            ],
            local_env_runner=not num_env_runners,
        )
        return found

    for go_back in (
        lambda: algo.restore_from_path(path),
        lambda: algo.set_state(state),
        lambda: algo.restore_from_path(f"{path}/{MODULES}", component=MODULES),
    ):
        algo.train()
        assert not torch.equal(played_with()[0], expected[0])
        go_back()
        algo.evaluate()
        for value, other in zip(played_with(), expected, strict=True):
            assert torch.equal(value, other)
    algo.stop()


def test_modules_of_a_run_that_goes_on_are_of_one_checkpoint(spread, tmp_path, monkeypatch):
    algo = Algorithm.from_config(make_config(spread))
    path = algo.save_to_path(tmp_path / "run")
    load, loaded = RLModule.from_checkpoint, []

    def load_and_save(place):
        loaded.append(load(place))
        if len(loaded) == 1:
            algo.train()
            algo.save_to_path(path)
        return loaded[-1]

    monkeypatch.setattr(RLModule, "from_checkpoint", load_and_save)
    modules = load_modules(path)
    assert len(loaded) == 6
    for agent, module in modules.items():
        for value, now in zip(
            module.parameters(), algo.get_module(agent).parameters(), strict=True
        ):
            assert torch.equal(value, now)
    algo.stop()


def test_evaluation_that_was_not_asked_for_says_how_to_ask(trained):
    algo, _ = trained
    with pytest.raises(ValueError, match=r"evaluation_interval=.*evaluation_num_env_runners="):
        algo.evaluate()


def test_environment_with_other_agents_is_refused_naming_both(tmp_path):
    path = str(write_random(tmp_path / "set"))
    config = make_config(path).environment("mpe/simple_spread")
    with pytest.raises(ValueError, match=r"'walker'.*'random-0'.*'mpe/simple_spread'"):
        config.evaluation(evaluation_interval=1).build_algo()


def test_policy_of_a_checkpoint_acts_without_algorithm_or_data(trained):
    algo, path = trained
    modules = load_modules(path)
    assert list(modules) == ["agent_0", "agent_1", "agent_2"]
    env = envs.make("mpe/simple_spread")
    obs, _ = env.reset(seed=3)
    actions = JointPolicy(modules, seed=0)(obs)
    for agent, action in actions.items():
        assert env.action_space(agent).contains(action)
    again = JointPolicy({a: algo.get_module(a) for a in modules}, seed=0)(obs)
    np.testing.assert_array_equal(actions["agent_2"], again["agent_2"])
    one = RLModule.from_checkpoint(module_path(path, "agent_0"))
    output = one.forward_inference({"obs": torch.zeros(5, 18)})
    assert output["actions"].shape == (5, 2)


def test_env_runner_and_vectorised_simulator_agree_on_the_return(trained):
    """The same policy on 60 episodes each; returns have a standard deviation of about 60."""
    algo, _ = trained
    modules = {a: algo.get_module(a) for a in algo.config.dataset_spec.agent_ids}
    fast = evaluate_team("mpe/simple_spread", JointPolicy(modules), range(400))
    config = algo.config.copy(copy_frozen=False)
    config.evaluation(evaluation_interval=1, evaluation_duration=60)
    other = config.build_algo()
    other.learner_group.set_state(algo.learner_group.get_state())
    slow = other.evaluate()["team_return_mean"]
    other.stop()
    error = fast.std() * np.sqrt(1 / 400 + 1 / 60)
    assert abs(fast.mean() - slow) < 4 * error


def test_restoring_on_another_dataset_is_refused_by_name(trained, tmp_path):
    _, path = trained
    other = str(write_spread(tmp_path / "other", seed=500))
    algo = make_config(other).build_algo()
    own_mean = algo.get_module("agent_0").obs_mean.clone()
    before = copy.deepcopy(algo.get_module("agent_0").state_dict())
    root = SubTreeFileSystem(str(Path(path).parent), LocalFileSystem())
    named = r"'simple_spread-random-0'.*'simple_spread-random-500'"
    for place, filesystem in ((path, None), (Path(path).name, root)):
        with pytest.raises(ValueError, match=named):
            algo.restore_from_path(place, filesystem=filesystem)
    for name, value in algo.get_module("agent_0").state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was changed by what was refused"
    # What the message advises; the table is normalised by its own dataset's constants.
    algo.restore_from_path(f"{path}/{MODULES}", component=MODULES)
    assert_same_parameters(algo, trained[0])
    assert torch.equal(algo.get_module("agent_0").obs_mean, own_mean)
    algo.stop()


def test_checkpoint_of_another_algorithm_is_refused_by_name(trained, tmp_path):
    algo, path = trained
    marker = Path(path) / MARKER
    original = marker.read_text()
    marker.write_text(json.dumps(json.loads(original) | {"algorithm": "VGM2P"}))
    try:
        with pytest.raises(ValueError, match="checkpoint of VGM2P, not of OM2P"):
            algo.restore_from_path(path)
    finally:
        marker.write_text(original)


def test_half_written_checkpoint_is_refused(trained, tmp_path):
    algo, path = trained
    (tmp_path / "half" / "learner_group").mkdir(parents=True)
    with pytest.raises(ValueError, match="was not written to its end"):
        algo.restore_from_path(tmp_path / "half")
    with pytest.raises(ValueError, match="was not written to its end"):
        algo.restore_from_path(f"file://{tmp_path}/half")
    bucket = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    with pytest.raises(ValueError, match="was not written to its end"):
        algo.restore_from_path("half", filesystem=bucket)
    with pytest.raises(ValueError, match="is not a directory"):
        algo.restore_from_path(tmp_path / "absent")


def test_checkpoint_that_a_killed_writer_moved_aside_restores_and_stays_there(trained, tmp_path):
    algo, path = trained
    shutil.copytree(path, tmp_path / ".checkpoint.old")
    gone = tmp_path / "checkpoint"
    assert list(load_modules(gone)) == ["agent_0", "agent_1", "agent_2"]
    assert read_config(gone).algo_class is OM2P
    algo.restore_from_path(gone)
    assert [place.name for place in tmp_path.iterdir()] == [".checkpoint.old"]


def test_checkpoint_is_whole_wherever_it_is_saved(trained, tmp_path, monkeypatch):
    algo, _ = trained
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = tmp_path / "root"
    root.mkdir()
    bucket = SubTreeFileSystem(str(root), LocalFileSystem())
    for path, filesystem, folder in (
        (None, None, tmp_path),
        (tmp_path / "one", LocalFileSystem(), tmp_path),
        (f"file://{tmp_path}/two", None, tmp_path),
        ("bucket/three", bucket, root),
    ):
        saved = algo.save_to_path(path, filesystem=filesystem)
        algo.restore_from_path(saved, filesystem=filesystem)
        assert read_marker(folder / saved)["training_iteration"] == 2
        assert list(load_modules(folder / saved)) == ["agent_0", "agent_1", "agent_2"]
    algo.restore_from_path(f"file://{tmp_path}/two")


class OwnModule(OM2PModule):
    """A module that is not of the package."""


class OwnConfig(OM2PConfig):
    """A config whose algorithm has no class of its own."""

    def get_default_rl_module_spec(self):
        spec = super().get_default_rl_module_spec()
        spec.module_class = OwnModule
        return spec


def test_config_without_an_algorithm_of_its_own_is_read_back(spread, tmp_path):
    config = OwnConfig(algo_class=Algorithm).offline_data(input_=spread)
    algo = config.training(actor_hidden=(8,), critic_hidden=(8,)).build_algo()
    path = algo.save_to_path(tmp_path / "own")
    algo.stop()
    found = read_config(path)
    assert type(found) is OwnConfig
    assert found.algo_class is Algorithm
    assert found.actor_hidden == (8,)
    assert play_checkpoint(path, num_episodes=1).team_returns.shape == (1,)
    with pytest.raises(ValueError, match="is a OwnModule of .*only the modules of this package"):
        export_checkpoint(path, tmp_path / "exported")


def test_failure_while_saving_leaves_the_previous_checkpoint(trained, tmp_path, monkeypatch):
    algo, _ = trained
    target = tmp_path / "checkpoint"
    algo.save_to_path(target)
    before = sorted(p.relative_to(target) for p in target.rglob("*"))
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(
        type(algo.learner_group), "save_to_path", lambda *a, **k: (_ for _ in ()).throw(full)
    )
    with pytest.raises(OSError, match="No space left"):
        algo.save_to_path(target)
    assert sorted(p.relative_to(target) for p in target.rglob("*")) == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_tuner_runs_the_class_and_its_checkpoint_restores(spread, tmp_path):
    config = make_config(spread, eta=tune.grid_search([0.0, 0.3]))
    tuner = tune.Tuner(
        OM2P,
        param_space=config,
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            stop={"training_iteration": 1},
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    )
    results = tuner.fit()
    assert results.num_errors == 0
    assert {result.config["eta"] for result in results} == {0.0, 0.3}
    restored = OM2P.from_checkpoint(results[0].checkpoint.path)
    assert restored.iteration == 1
    restored.stop()


def test_register_gives_tune_the_algorithms_name():
    rllib_om2p.register()
    assert get_trainable_cls("OM2P") is OM2P


def test_training_needs_no_environment_package(spread):
    program = f"""
import sys
for name in ("mpe2", "pettingzoo", "mujoco"):
    sys.modules[name] = None
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
from rllib_om2p import Algorithm, OM2PConfig
config = OM2PConfig().offline_data(input_={spread!r})
config.training(actor_hidden=(8,), critic_hidden=(8,), num_updates_per_iteration=2)
algo = Algorithm.from_config(config)
print("loss", algo.train()["learners"]["agent_0"]["actor_loss"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "loss" in done.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"derivative": "finite_difference", "precision": "bfloat16"}, "tangent"),
        ({"finite_difference_step": 1e-5}, "at least 0.0001"),
        ({"eta": -1.0}, "eta and bc_weight must be at least 0"),
        ({"eta": 0.0, "bc_weight": 0.0}, "not both 0"),
        ({"critic": "qmix"}, "critic must be one of"),
        ({"derivative": "exact"}, "derivative must be one of"),
        ({"precision": "float16"}, "precision must be one of"),
        ({"xi": (1.0, 2.0)}, "xi must be 4 finite numbers"),
        ({"num_updates_per_iteration": 0}, "num_updates_per_iteration must be positive"),
        ({"instant_fraction": 1.5}, r"instant_fraction must be in \[0, 1\]"),
    ],
)
def test_settings_without_meaning_are_refused(spread, settings, message):
    with pytest.raises(ValueError, match=message):
        make_config(spread, **settings).validate()


PRODUCTS = """
import sys, torch
from rllib_om2p.core.matching import check_derivative
setting, value = sys.argv[1:]
if setting == "legacy":
    torch.set_float32_matmul_precision(value)
else:
    *path, name = setting.split(".")
    place = torch.backends
    for part in path:
        place = getattr(place, part)
    setattr(place, name, value)
check_derivative("tangent", 3e-3, "float32")
check_derivative("finite_difference", 3e-3, "float32")
"""


@pytest.mark.parametrize(
    ("setting", "value", "is_exact"),
    [
        ("legacy", "highest", True),
        ("legacy", "high", False),
        ("fp32_precision", "tf32", False),
        ("cuda.matmul.fp32_precision", "tf32", False),
        ("cuda.matmul.fp32_precision", "ieee", True),
        ("mkldnn.matmul.fp32_precision", "bf16", False),
        # Convolutions, of which there are none.
        ("cudnn.conv.fp32_precision", "tf32", True),
    ],
)
def test_finite_difference_is_refused_where_products_are_rounded(setting, value, is_exact):
    """In a process of its own: torch forgets no setting."""
    command = [sys.executable, "-c", PRODUCTS, setting, value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == is_exact, done.stderr
    if not is_exact:
        assert "ValueError" in done.stderr.splitlines()[-1]
        assert "tangent" in done.stderr.splitlines()[-1]


def test_missing_dataset_is_refused_with_the_way_to_make_one(tmp_path):
    with pytest.raises(ValueError, match="make-dataset"):
        OM2PConfig().validate()
    with pytest.raises(DataError, match="absent"):
        make_config(str(tmp_path / "absent")).validate()


def test_batch_that_does_not_divide_by_learners_is_refused(spread):
    with pytest.raises(ValueError, match="does not divide"):
        make_config(spread, train_batch_size=65).learners(num_learners=2).validate()


def test_relative_paths_become_absolute_and_uris_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def given(input_):
        return OM2PConfig().offline_data(input_=input_).input_

    assert given("data/set") == str(tmp_path / "data" / "set")
    assert given(Path("data/set")) == str(tmp_path / "data" / "set")
    assert given(["a/*.parquet", "/b"]) == [str(tmp_path / "a" / "*.parquet"), "/b"]
    assert given("s3://bucket/set") == "s3://bucket/set"


@pytest.mark.parametrize(
    "setting",
    [
        {"input_read_method": "read_json"},
        {"input_filesystem": "s3"},
        {"dataset_num_iters_per_learner": 1},
        {"output": "recorded"},
    ],
)
def test_settings_of_rllibs_own_reader_and_writer_are_refused(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))}=.* single-agent reader"):
        OM2PConfig().offline_data(input_="x", **setting)


def test_from_config_refuses_other_configs():
    from ray.rllib.algorithms.ppo import PPOConfig

    with pytest.raises(ValueError, match="PPOConfig"):
        Algorithm.from_config(PPOConfig())


def test_ray_is_the_local_one_of_this_module():
    assert ray.cluster_resources()["CPU"] == 4
