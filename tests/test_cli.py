"""The command rllib-om2p as a user calls it, on small data and a local Ray."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rllib_om2p import MACQLConfig, OM2PConfig
from rllib_om2p.cli import DIVERGED, USER_ERROR, build_parser, main
from rllib_om2p.cli.common import checkpoint_path
from rllib_om2p.cli.training import _train_config
from rllib_om2p.core.acting import load_modules
from rllib_om2p.core.checkpoint import read_marker
from rllib_om2p.core.run import PLAN
from rllib_om2p.core.settings import apply_settings, parse_settings
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.writer import DatasetWriter
from rllib_om2p.envs.prey import own_prey_file
from tests.small_data import write_random, write_spread

SMALL = ["actor_hidden=16,16", "critic_hidden=16,16", "train_batch_size=64"]

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spread(Path(tmp_path_factory.mktemp("data")) / "spread")


def train(dataset: Path, out: Path, *options: str, updates: int = 10) -> int:
    settings = ["--set", *SMALL, "num_updates_per_iteration=5"]
    command = ["train", str(dataset), "--out", str(out), "--updates", str(updates)]
    return main([*command, "--eval-episodes", "2", *settings, *options])


@pytest.fixture(scope="module")
def run(spread: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations."""
    out = Path(tmp_path_factory.mktemp("runs")) / "run"
    assert train(spread, out) == 0
    return out


def progress(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]


def parameters(checkpoint: Path) -> torch.Tensor:
    modules = load_modules(checkpoint).values()
    return torch.cat([p.detach().reshape(-1) for m in modules for p in m.parameters()])


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that the user got wrong and return its one message."""
    assert main(arguments) == USER_ERROR
    error = capsys.readouterr().err
    assert error.startswith("rllib-om2p: ")
    assert "Traceback" not in error
    return error


def test_make_dataset_and_audit_show_what_is_there(tmp_path, capsys):
    out = tmp_path / "set"
    command = ["make-dataset", "mpe/simple_spread", "medium", "--steps", "500", "--out", str(out)]
    assert main(command) == 0
    assert "500 of 500 joint steps" in capsys.readouterr().out
    assert OfflineDataset.open(str(out)).num_transitions == 500
    assert main(["audit", str(out), "--out", str(tmp_path / "audit")]) == 0
    shown = capsys.readouterr().out
    assert "20 episodes, 500 joint steps" in shown
    assert (tmp_path / "audit" / "audit.md").read_text() in shown
    assert (tmp_path / "audit" / "returns.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_in_make_dataset_end_with_one_message(tmp_path, capsys):
    out = ["--out", str(tmp_path / "set")]
    wrong_env = ["make-dataset", "mpe/simple_sprad", "medium", *out]
    assert "did you mean mpe/simple_spread?" in fails(capsys, wrong_env)
    wrong_steps = ["make-dataset", "mpe/simple_spread", "medium", "--steps", "30", *out]
    assert "the next one is 50" in fails(capsys, wrong_steps)
    fraction = ["make-dataset", "mpe/simple_spread", "medium", "--expert-fraction", "0.5", *out]
    assert "belongs to medium-expert" in fails(capsys, fraction)
    prey = ["make-dataset", "mpe/simple_tag", "medium", "--prey", "absent.pt", *out]
    assert "no prey file 'absent.pt' for mpe/simple_tag" in fails(capsys, prey)
    assert not (tmp_path / "set").exists()


def test_mistakes_in_make_behaviour_end_with_one_message(tmp_path, capsys):
    out = ["--out", str(tmp_path / "policies")]
    assert "did you mean mamujoco/3x1-Hopper" in fails(
        capsys, ["make-behaviour", "mamujoco/3x1-hopper", *out]
    )
    in_parts = ["make-behaviour", "mpe/simple_spread", "--minutes", "5", *out]
    assert "trained in one go" in fails(capsys, in_parts)
    no_prey = ["make-behaviour", "mpe/simple_spread", "--prey", "prey.pt", *out]
    assert "mpe/simple_spread has no prey" in fails(capsys, no_prey)
    assert "No prey recipe for 'mpe/simple_spread'" in fails(
        capsys, ["make-prey", "mpe/simple_spread", *out]
    )
    assert not (tmp_path / "policies").exists()


def test_missing_dataset_is_one_message_unless_a_traceback_is_wanted(tmp_path, capsys):
    absent = str(tmp_path / "absent")
    assert "absent" in fails(capsys, ["audit", absent])
    assert "absent" in fails(capsys, ["train", absent, "--out", str(tmp_path / "run")])
    with pytest.raises(ValueError, match="absent"):
        main(["audit", absent, "--traceback"])


def test_train_leaves_checkpoint_progress_and_events(run):
    lines = progress(run)
    assert [line["num_updates"] for line in lines] == [5, 10]
    for line in lines:
        assert set(line["agent_metrics"]) == {"agent_0", "agent_1", "agent_2"}
        assert np.isfinite(line["metrics"]["actor_loss"])
        score = 100 * (line["team_return"] - 159.8) / (516.8 - 159.8)
        assert line["normalised"] == pytest.approx(score)
    assert read_marker(run / "checkpoint")["training_iteration"] == 2
    assert list(run.glob("events.out.tfevents.*"))


def test_train_prints_a_line_per_iteration(spread, tmp_path, capsys):
    assert train(spread, tmp_path / "run", "--eval-every", "2", "--algorithm", "OM2P") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("update")]
    assert len(lines) == 2
    assert lines[0].startswith("update  5/10  ")
    assert "critic" in lines[0]
    assert "return" not in lines[0]
    assert "normalised" in lines[1]


def test_directory_of_another_run_is_refused(spread, run, capsys):
    before = (run / "progress.jsonl").read_bytes()
    message = fails(capsys, ["train", str(spread), "--out", str(run)])
    assert "holds a run already" in message
    assert "--resume" in message
    assert (run / "progress.jsonl").read_bytes() == before


def test_resumed_run_ends_like_the_uninterrupted_one(spread, run, tmp_path):
    out = tmp_path / "run"
    assert train(spread, out, updates=5) == 0
    resume = ["--resume", str(out / "checkpoint"), "--updates", "10"]
    assert main(["train", str(spread), "--out", str(out), *resume]) == 0
    assert torch.equal(parameters(out / "checkpoint"), parameters(run / "checkpoint"))
    for resumed, whole in zip(progress(out), progress(run), strict=True):
        assert resumed["metrics"]["actor_loss"] == whole["metrics"]["actor_loss"]


def test_resumed_run_goes_on_to_its_own_total_and_then_has_nothing_to_do(
    spread, run, tmp_path, capsys
):
    """As when it was stopped beyond the default of --updates."""
    out = tmp_path / "run"
    assert train(spread, out, updates=5) == 0
    (out / PLAN).write_text((run / PLAN).read_text())
    resume = ["train", str(spread), "--out", str(out), "--resume", str(out)]
    assert main(resume) == 0
    assert torch.equal(parameters(out / "checkpoint"), parameters(run / "checkpoint"))
    for command, total in ((resume, 10), ([*resume, "--updates", "5"], 5)):
        message = fails(capsys, command)
        assert f"has made 10 updates of {total} in total; nothing is left to train" in message
        assert "raise the total with --updates" in message
    elsewhere = ["train", str(spread), "--out", str(tmp_path / "new"), "--resume", str(out)]
    assert "nothing is left to train" in fails(capsys, elsewhere)
    assert not (tmp_path / "new").exists()
    assert len(progress(out)) == 2


def test_resuming_what_is_not_there_yet_begins_it(spread, run, tmp_path, capsys):
    """As a job does that is tried again by one command."""
    out = tmp_path / "job"
    for updates, said in ((5, "nothing is saved in"), (10, "resumed at update 5")):
        assert train(spread, out, "--resume", str(out), updates=updates) == 0
        assert said in capsys.readouterr().out
    assert torch.equal(parameters(out / "checkpoint"), parameters(run / "checkpoint"))
    elsewhere = [
        "train",
        str(spread),
        "--out",
        str(tmp_path / "b"),
        "--resume",
        str(tmp_path / "c"),
    ]
    assert "is not a directory" in fails(capsys, elsewhere)


def test_resuming_says_that_the_seed_is_the_checkpoints(spread, run, tmp_path, capsys):
    resume = ["--resume", str(run), "--updates", "15", "--seed"]
    for seed in ("1", "2"):
        out = tmp_path / seed
        assert main(["train", str(spread), "--out", str(out), *resume, seed]) == 0
        assert "--seed does not change weights, batches and noise" in capsys.readouterr().out
    assert torch.equal(
        parameters(tmp_path / "1" / "checkpoint"), parameters(tmp_path / "2" / "checkpoint")
    )


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [
        ("--updates", "0", 1),
        ("--updates", "1e4", 1),
        ("--eval-episodes", "0", 1),
        ("--eval-every", "-1", 0),
        ("--num-learners", "-1", 0),
    ],
)
def test_numbers_that_mean_nothing_are_refused(option, value, least, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "DATASET", "--out", "DIR", option, value])
    assert ended.value.code == USER_ERROR
    said = f"argument {option}: must be a whole number of at least {least}, got '{value}'"
    assert said in capsys.readouterr().err


def test_start_states_of_negative_seeds_are_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "RUN", "--seed", "-1"])
    assert ended.value.code == USER_ERROR
    assert "--seed: must be a whole number of at least 0, got '-1'" in capsys.readouterr().err


def test_uris_are_no_folders_to_write_to(spread, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = ["make-dataset", "mpe/simple_spread", "medium", "--steps", "25", "--out", "s3://b/set"]
    assert "'s3://b/set' is a URI; give a path here" in fails(capsys, made)
    trained = ["train", str(spread), "--out", "s3://b/run"]
    assert "'s3://b/run' is a URI; give a path here" in fails(capsys, trained)
    assert "'s3://b/run' is a URI" in fails(capsys, ["evaluate", "s3://b/run"])
    assert list(tmp_path.iterdir()) == []


def test_what_to_do_next_can_be_pasted(tmp_path, capsys):
    out = tmp_path / "my data"
    command = ["make-dataset", "mpe/simple_spread", "medium", "--steps", "25", "--out", str(out)]
    assert main(command) == 0
    assert f"next: rllib-om2p audit '{out}', or rllib-om2p train '{out}' --out runs/NAME" in (
        capsys.readouterr().out
    )


def test_resuming_an_older_checkpoint_drops_the_lines_after_it(spread, run, tmp_path):
    out = tmp_path / "run"
    assert train(spread, out, updates=5) == 0
    (out / "checkpoint").rename(tmp_path / "older")
    shown = progress(out)
    ahead = [*shown, {**shown[0], "num_updates": 10, "team_return": -1.0}]
    half = '{"num_updates": 15, "met'
    text = "".join(json.dumps(line) + "\n" for line in ahead) + half
    (out / "progress.jsonl").write_text(text)
    resume = ["--resume", str(tmp_path / "older"), "--updates", "10"]
    assert main(["train", str(spread), "--out", str(out), *resume]) == 0
    assert [line["num_updates"] for line in progress(out)] == [5, 10]
    assert progress(out)[1]["team_return"] != -1.0


def test_resuming_keeps_evaluation_off(spread, tmp_path):
    out = tmp_path / "run"
    assert train(spread, out, "--eval-every", "0", updates=5) == 0
    resume = ["--resume", str(out), "--updates", "10"]
    assert main(["train", str(spread), "--out", str(out), *resume]) == 0
    assert [line["team_return"] for line in progress(out)] == [None, None]


def test_resuming_into_another_run_is_refused(spread, run, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(spread, out, "--eval-every", "0", "--seed", "1", updates=5) == 0
    before = parameters(out / "checkpoint")
    message = fails(capsys, ["train", str(spread), "--out", str(out), "--resume", str(run)])
    assert "holds a run already" in message
    assert torch.equal(parameters(out / "checkpoint"), before)
    assert len(progress(out)) == 1


def test_prey_is_that_of_the_datasets_environment(tmp_path, capsys):
    tag = write_random(tmp_path / "tag", env="mpe/simple_tag")
    absent = ["--prey", str(tmp_path / "absent.pt")]
    command = ["train", str(tag), "--out", str(tmp_path / "run"), *absent]
    for env in ([], ["--env", "mpe/simple_tag"]):
        assert "There is no prey file" in fails(capsys, [*command, *env])
    message = fails(capsys, [*command, "--env", "mpe/simple_spread"])
    assert "--prey belongs to the dataset's own environment, 'mpe/simple_tag'" in message
    nameless = write_random(tmp_path / "set")
    command = ["train", str(nameless), "--out", str(tmp_path / "run"), *absent]
    assert "--prey belongs to" in fails(capsys, command)


@pytest.mark.parametrize("env", [[], ["--env", "mpe/simple_tag"]])
def test_prey_plays_in_the_evaluations_of_training(tmp_path, env):
    tag = write_random(tmp_path / "tag", env="mpe/simple_tag")
    file = str(own_prey_file("mpe/simple_tag"))
    command = ["train", str(tag), "--out", str(tmp_path / "run"), "--prey", file, *env]
    config = _train_config(build_parser().parse_args(command))
    config.validate()
    assert (config.env, config.env_config) == ("mpe/simple_tag", {"prey": file})
    assert config.evaluation_interval == 1


def test_divergence_ends_the_run_and_keeps_the_last_checkpoint(spread, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(spread, out, updates=5) == 0
    before = parameters(out / "checkpoint")
    resume = ["--resume", str(out / "checkpoint"), "--updates", "20", "--set", "lr=1e30"]
    assert main(["train", str(spread), "--out", str(out), *resume]) == DIVERGED
    message = capsys.readouterr().err
    assert "became non-finite at update" in message
    assert "Traceback" not in message
    assert torch.equal(parameters(out / "checkpoint"), before)


def test_resuming_on_another_dataset_is_refused_by_name(run, tmp_path, capsys):
    other = write_spread(tmp_path / "other", seed=500)
    command = ["train", str(other), "--out", str(tmp_path / "run"), "--updates", "20"]
    message = fails(capsys, [*command, "--resume", str(run)])
    assert "simple_spread-random-500" in message


def test_dataset_without_environment_trains_and_is_not_evaluated(tmp_path, capsys):
    dataset = write_random(tmp_path / "set")
    assert train(dataset, tmp_path / "run", updates=5) == 0
    assert "return" not in capsys.readouterr().out
    checkpoint = str(tmp_path / "run")
    assert "names no environment" in fails(capsys, ["evaluate", checkpoint])
    message = fails(capsys, ["evaluate", checkpoint, "--env", "mpe/simple_spread"])
    assert "'walker': 'obs (4,), action (2,)'" in message
    assert "'agent_0': 'obs (18,), action (2,)'" in message
    assert "'pong'" in fails(capsys, ["evaluate", checkpoint, "--env", "pong"])


def test_evaluation_needs_no_dataset_and_repeats_with_its_seed(tmp_path, capsys):
    dataset, out = write_spread(tmp_path / "set"), tmp_path / "run"
    assert train(dataset, out, updates=5) == 0
    dataset.rename(tmp_path / "gone")
    records = []
    for number, seed in enumerate(["7", "7", "8"]):
        file = tmp_path / f"{number}.json"
        command = ["evaluate", str(out), "--episodes", "4", "--seed", seed, "--json", str(file)]
        assert main(command) == 0
        records.append(json.loads(file.read_text()))
    first, again, other = records
    assert first["team_returns"] == again["team_returns"]
    assert first["team_returns"] != other["team_returns"]
    assert len(first["team_returns"]) == 4
    mean = np.mean(first["team_returns"])
    assert mean == pytest.approx(np.mean(list(first["agent_return_means"].values())))
    assert first["interval"][0] < mean < first["interval"][1]
    assert f"team return  {mean:.1f}" in capsys.readouterr().out


def test_evaluation_draws_the_team(run, tmp_path):
    gif = tmp_path / "films" / "team.gif"
    assert main(["evaluate", str(run), "--episodes", "1", "--gif", str(gif)]) == 0
    with Image.open(gif) as film:
        assert film.n_frames == 3 * 26


def test_evaluation_draws_the_environment_that_it_plays(tmp_path):
    """Data that name no environment, in one whose settings come from training alone."""
    recorded = OfflineDataset.open("datasets/samples/mpe-simple_spread-medium-discrete")
    spec = dataclasses.replace(recorded.spec, env=None, env_kwargs={})
    with DatasetWriter(tmp_path / "set", spec) as writer:
        for episode in itertools.islice(recorded.episodes(), 4):
            writer.write_episode(episode)
    config = OM2PConfig().offline_data(input_=str(tmp_path / "set"))
    config.training(actor_hidden=(8,), critic_hidden=(8,), train_batch_size=32)
    settings = {"continuous_actions": False, "max_cycles": 9}
    config.environment("mpe/simple_spread", env_config=settings)
    algo = config.debugging(log_level="ERROR").build_algo()
    algo.save_to_path(tmp_path / "checkpoint")
    algo.stop()
    gif = tmp_path / "team.gif"
    command = ["evaluate", str(tmp_path / "checkpoint"), "--episodes", "1", "--gif", str(gif)]
    assert main(command) == 0
    with Image.open(gif) as film:
        assert film.n_frames == 3 * 10


def test_run_killed_between_two_moves_still_has_its_checkpoint(run, tmp_path):
    killed = tmp_path / "killed"
    shutil.copytree(run, killed)
    (killed / "checkpoint").rename(killed / ".checkpoint.old")
    assert checkpoint_path(str(killed)) == killed / "checkpoint"
    assert read_marker(killed / "checkpoint") == read_marker(run / "checkpoint")


def test_half_written_checkpoint_is_refused(tmp_path, capsys):
    (tmp_path / "half" / "learner_group").mkdir(parents=True)
    assert "was not written to its end" in fails(capsys, ["evaluate", str(tmp_path / "half")])


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("eta=0.3", 0.3),
        ("lr=1e-3", 1e-3),
        ("actor_hidden=64,64", (64, 64)),
        ("grad_clip=None", None),
        ("critic=vdn", "vdn"),
        ("torch_compile=true", True),
    ],
)
def test_settings_are_read_as_python_values(pair, value):
    (read,) = parse_settings([pair]).values()
    assert read == value
    assert type(read) is type(value)


def test_settings_go_to_the_method_that_knows_them():
    config = OM2PConfig()
    apply_settings(config, {"eta": 0.5, "grad_clip": 2.0, "table_memory_budget": 10**9})
    assert (config.eta, config.grad_clip, config.table_memory_budget) == (0.5, 2.0, 10**9)
    with pytest.raises(ValueError, match="no 'actor_hiden'; did you mean actor_hidden"):
        apply_settings(config, {"actor_hiden": (8,)})
    with pytest.raises(ValueError, match="NAME=VALUE"):
        parse_settings(["eta"])
    with pytest.raises(ValueError, match="alpha and conservative_weight are one setting"):
        apply_settings(MACQLConfig(), {"alpha": 2.0, "conservative_weight": 3.0})


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("actor_hidden=128", "actor_hidden must be a sequence of whole numbers, got 128; the defa"),
        ("actor_hidden=64,big", "a sequence of whole numbers, got '64,big'"),
        ("eta=big", "eta must be a number, got 'big'; the default is 0.1"),
        ("tau=None", "tau must be a number, got None"),
        ("lr=None", "lr must be a number or a sequence, got None"),
        ("num_updates_per_iteration=1e3", "must be a whole number, got 1000.0"),
        ("torch_compile=yes", "torch_compile must be True or False, got 'yes'"),
        ("grad_clip=big", "grad_clip must be a number, got 'big'; the default is None"),
        ("critic_loss=None", r"must be one of \('td', 'expectile'\), got None"),
        ("teams=a", "teams must be a dictionary, got 'a'"),
        ("num_learners=two", "num_learners must be a whole number, got 'two'"),
    ],
)
def test_settings_of_another_kind_are_refused_by_name(pair, message):
    with pytest.raises(ValueError, match=message):
        apply_settings(OM2PConfig(), parse_settings([pair]))


def test_settings_of_the_right_kind_are_taken():
    pairs = ["lr=(0,1e-3),(100,1e-4)", "eta=1", "actor_hidden=[8]", "advantage_temperature=None"]
    pairs += ["torch_compile=1", "num_cpus_per_learner=auto", "train_batch_size_per_learner=None"]
    config = OM2PConfig().learners(num_cpus_per_learner=2)
    config.training(advantage_temperature=0.5, train_batch_size_per_learner=64)
    apply_settings(config, parse_settings([*pairs, "evaluation_duration=auto"]))
    assert config.lr == ((0, 1e-3), (100, 1e-4))
    assert config.eta == 1
    assert list(config.actor_hidden) == [8]
    assert config.advantage_temperature is None
    assert config.torch_compile
    assert config.num_cpus_per_learner == config.evaluation_duration == "auto"
    assert config.train_batch_size_per_learner == config.train_batch_size


def test_a_setting_of_another_kind_ends_with_one_message(spread, tmp_path, capsys):
    command = ["train", str(spread), "--out", str(tmp_path / "run"), "--set"]
    for pair in ("num_updates_per_iteration=big", "lr=None"):
        assert f"{pair.partition('=')[0]} must be " in fails(capsys, [*command, pair])


def test_evaluation_is_set_by_options_or_settings_but_not_by_both(spread, tmp_path, capsys):
    base = ["train", str(spread), "--out", str(tmp_path / "run")]

    def configured(*options):
        config = _train_config(build_parser().parse_args([*base, *options]))
        return config.evaluation_interval, config.evaluation_duration

    assert configured() == (1, 20)
    assert configured("--eval-every", "3", "--eval-episodes", "5") == (3, 5)
    assert configured("--set", "evaluation_interval=10", "evaluation_duration=200") == (10, 200)
    assert configured("--set", "evaluation_interval=None") == (None, 20)
    for option, setting in (
        (["--eval-every", "3"], "evaluation_interval=10"),
        (["--eval-episodes", "5"], "evaluation_duration=10"),
    ):
        message = fails(capsys, [*base, *option, "--set", setting])
        assert f"{option[0]} and --set {setting.partition('=')[0]}=... say the same" in message


def test_settings_are_listed_with_the_algorithms_own_defaults(capsys):
    assert main(["settings", "VGM2P"]) == 0
    shown = capsys.readouterr().out
    assert "\n  omega = 3.0\n      " in shown
    assert "\n  gamma = 0.995\n" in shown
    assert "\n  critic = 'vdn'\n" in shown
    assert shown.index("omega =") < shown.index("critic =") < shown.index("teams =")
    assert "grad_clip = None" in shown
    assert "grad_clip_by" not in shown  # which configs refuse
    assert main(["settings", "PPO"]) == USER_ERROR
    assert "must be one of ['OM2P', " in capsys.readouterr().err


def test_help_answers_without_loading_torch_or_ray():
    code = (
        "import sys\nfrom rllib_om2p.cli import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'ray', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--resume" in done.stdout


def test_export_leaves_two_files_that_evaluate_plays_alike(run, tmp_path, capsys):
    out = tmp_path / "policy"
    assert main(["export", str(run), "--out", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == ["policy.json", "policy.safetensors"]
    scores = []
    for place in (run, out):
        file = tmp_path / f"{place.name}.json"
        command = ["evaluate", str(place), "--episodes", "2", "--json", str(file)]
        assert main([*command, "--gif", str(tmp_path / f"{place.name}.gif")]) == 0
        scores.append(json.loads(file.read_text())["team_returns"])
    assert scores[0] == scores[1]
    assert "exists already" in fails(capsys, ["export", str(run), "--out", str(out)])
    (out / "policy.json").unlink()
    assert "policy.json is missing" in fails(capsys, ["evaluate", str(out)])


def test_held_out_episodes_estimate_the_return_without_playing(spread, tmp_path, capsys):
    held_out = ["--set", "holdout_fraction=0.2", "offline_evaluation_interval=1"]
    quick = ["fqe={'hidden': (8,), 'num_updates': 5}"]
    assert train(spread, tmp_path / "run", *held_out, *quick, "--eval-every", "0") == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert "expected return " in line
    assert "  return " not in line
    assert all(row["fqe_return"] is not None for row in progress(tmp_path / "run"))
