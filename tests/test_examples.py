"""Every example runs, on small data; they share one Ray and what the earlier ones leave."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rllib_om2p.core.checkpoint import read_marker
from rllib_om2p.core.exporting import export_checkpoint
from rllib_om2p.core.playing import play_checkpoint
from rllib_om2p.data.reader import OfflineDataset
from tests.small_data import write_spread

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> str:
    # Large enough for the examples' batches of 256.
    return str(write_spread(Path(tmp_path_factory.mktemp("data")) / "spread"))


@pytest.fixture
def example(monkeypatch, capsys):
    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_there_is_a_test_for_every_example():
    places = [Path(__file__), Path(__file__).with_name("test_jobs.py")]
    tests = "".join(place.read_text(encoding="utf-8") for place in places)
    for file in EXAMPLES.glob("*.py"):
        assert re.search(rf'example\("{file.stem}"|[/"]{file.name}"', tests), file.name


def test_examples_are_short_and_say_how_to_run_them():
    for file in EXAMPLES.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert f"python examples/{file.name}" in text
        if file.name != "demo.py":
            assert len(text.splitlines()) <= 80


def test_make_dataset(example, tmp_path):
    shown = example("make_dataset", "--steps", "250", "--out", str(tmp_path / "set"))
    assert "10 episodes, 250 transitions" in shown
    assert "(26, 18) (25, 2)" in shown


def test_write_your_own_logs(example, tmp_path):
    shown = example("write_your_own_logs", "--episodes", "4", "--out", str(tmp_path / "logs"))
    assert "# my-logs" in shown
    assert OfflineDataset.open(str(tmp_path / "logs")).num_transitions == 100


@pytest.mark.timeout(240)
def test_record_and_train(example, tmp_path):
    small = ["--iterations", "2", "--steps", "200", "--runners", "1", "--updates", "3"]
    shown = example("record_and_train", "--out", str(tmp_path / "ppo"), *small)
    assert "PPO iteration 2: team return" in shown
    assert "recorded: 16 episodes" in shown
    assert "OM2P: team return" in shown
    spec = OfflineDataset.open(str(tmp_path / "ppo")).spec
    assert (spec.env, spec.behaviour["algorithm"]) == ("mpe/simple_spread", "PPO")


def test_your_own_environment(example, tmp_path):
    out = str(tmp_path / "meeting")
    shown = example("your_own_environment", "--episodes", "30", "--updates", "3", "--out", out)
    assert "30 random episodes, team return" in shown
    assert "after training: " in shown
    assert "meeting: team return" in shown
    assert OfflineDataset.open(out).spec.agent_ids == ("left", "right")


def test_your_own_algorithm(example, spread, tmp_path):
    out = tmp_path / "mine"
    shown = example("your_own_algorithm", spread, "--out", str(out), "--updates", "3")
    assert re.search(r"team return \d+\.\d", shown)
    policies = export_checkpoint(out, tmp_path / "policies")
    played = [play_checkpoint(path, num_episodes=1).mean for path in (out, policies)]
    assert played[0] == played[1]


def test_your_own_algorithm_is_built_as_tune_builds_it(spread):
    names = runpy.run_path(str(EXAMPLES / "your_own_algorithm.py"))
    cls = names["Weighted"]
    config = names["WeightedConfig"](algo_class=cls).offline_data(input_=spread)
    config.training(actor_hidden=(8,), critic_hidden=(8,), num_updates_per_iteration=2)
    settings = config.to_dict()  # all that a trial is given beside the class
    assert cls.default_resource_request(settings).required_resources == {"CPU": 1}
    algo = cls(config=settings)
    assert np.isfinite(algo.train()["learners"]["agent_0"]["weight"])
    assert type(algo.config) is names["WeightedConfig"]
    algo.stop()


def test_train_then_evaluate_and_act(example, spread, tmp_path):
    out = str(tmp_path / "run")
    small = ["--iterations", "1", "--updates", "3", "--episodes", "2"]
    assert "update 3: actor loss" in example("train", spread, "--out", out, *small)
    assert read_marker(out)["training_iteration"] == 1
    shown = example("evaluate_and_act", out, "--episodes", "2")
    assert "team return over 2 episodes" in shown
    assert "one episode by hand" in shown


def test_resume(example, spread, tmp_path):
    shown = example("resume", spread, "--updates", "3", "--out", str(tmp_path / "run"))
    assert "resumed at update 3" in shown
    assert "now at update 6" in shown
    assert "the same weights: True" in shown


def best_iteration(shown: str) -> int:
    """Return the iteration of the checkpoint that an example calls the best."""
    best = re.search(r"best: \S+ (\S+)", shown)
    assert best is not None
    return read_marker(best.group(1))["training_iteration"]


@pytest.mark.timeout(240)
def test_tune_grid(example, spread, tmp_path):
    small = ["--etas", "0.1", "0.3", "--iterations", "1", "--updates", "3", "--episodes", "2"]
    shown = example("tune_grid", spread, "--out", str(tmp_path / "tune"), *small)
    assert "eta 0.1: team return" in shown
    assert "eta 0.3: team return" in shown
    assert best_iteration(shown) == 1


@pytest.mark.timeout(240)
def test_tune_offline(example, spread, tmp_path):
    small = ["--etas", "0.0", "1.0", "--iterations", "1", "--updates", "3", "--fqe-updates", "5"]
    shown = example("tune_offline", spread, "--out", str(tmp_path / "tune"), *small)
    assert len(re.findall(r"eta \S+: expected return -?\d", shown)) == 2
    assert best_iteration(shown) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tune_asha(example, spread, tmp_path):
    small = ["--trials", "4", "--iterations", "3", "--updates", "3", "--episodes", "1"]
    shown = example("tune_asha", spread, "--out", str(tmp_path / "tune"), *small)
    ended = [int(n) for n in re.findall(r"lr \S+: (\d) iterations, team return", shown)]
    assert len(ended) == 4
    # By chance none is worse than those before it, and all go on to the end.
    assert max(ended) == 3
    assert set(ended) <= {1, 3}
    assert best_iteration(shown) >= 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tune_pbt(example, spread, tmp_path):
    small = ["--trials", "3", "--iterations", "4", "--every", "1", "--updates", "3"]
    shown = example("tune_pbt", spread, "--out", str(tmp_path / "tune"), *small, "--episodes", "1")
    assert len(re.findall(r"eta \S+, lr \S+ at the end: team return", shown)) == 3
    assert best_iteration(shown) == 4
    assert list((tmp_path / "tune").rglob("pbt_policy_*.txt"))  # an exchange took place


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tune_resume(example, spread, tmp_path):
    small = ["--etas", "0.1", "0.3", "--iterations", "2", "--updates", "3"]
    command = [spread, "--out", str(tmp_path / "search"), *small]
    first = example("tune_resume", *command)
    again = example("tune_resume", *command)
    for shown in (first, again):
        assert "eta 0.1: 2 iterations, 6 updates" in shown
        assert "eta 0.3: 2 iterations, 6 updates" in shown
    assert "going on with" not in first
    assert "going on with" in again


@pytest.mark.timeout(300)
def test_demo_leaves_a_report_with_pictures_and_says_nothing_else(tmp_path):
    out = tmp_path / "demo"
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--out", str(out), "--updates", "20"]
    command += ["--quality", "medium", "--steps", "2500", "--episodes", "2", "--methods"]
    command += ["BC-mean-flow"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""
    assert "making 2500 joint steps" in done.stdout
    assert "BC-mean-flow      update    20/20" in done.stdout
    assert "Look at" in done.stdout
    report = (out / "report.md").read_text()
    for part in (
        "| data |",
        "| BC (the same policy without critic) |",
        "learning_curve.png",
        "rollout.gif",
    ):
        assert part in report
    results = json.loads((out / "results.json").read_text())["results"]
    assert [result["policy"] for result in results] == [
        "data",
        "BC (the same policy without critic)",
    ]
    with Image.open(out / "rollout.gif") as film:
        assert film.n_frames == 3 * 26
    card = out / "data" / "simple_spread-medium" / "dataset_card.json"
    assert card.is_file()
