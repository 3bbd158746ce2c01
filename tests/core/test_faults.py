"""What happens when things break: real processes, killed and starved while they work."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from ray import tune

from rllib_om2p import OM2P, Algorithm, OM2PConfig
from rllib_om2p.cli import TERMINATED, USER_ERROR, main
from rllib_om2p.core.acting import load_modules
from rllib_om2p.core.checkpoint import MARKER, read_marker
from rllib_om2p.core.ranks import LearnerDiedError, call_learners
from rllib_om2p.data.schema import DataError
from tests.small_data import write_random, write_spread

pytestmark = pytest.mark.usefixtures("ray_cluster")

PER_ITERATION = 5


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_spread(Path(tmp_path_factory.mktemp("data")) / "spread")


def make_config(dataset: Path, **training: object) -> OM2PConfig:
    settings = {
        "actor_hidden": (16, 16),
        "critic_hidden": (16, 16),
        "train_batch_size": 32,
        "num_updates_per_iteration": PER_ITERATION,
    }
    return (
        OM2PConfig()
        .offline_data(input_=dataset)
        .training(**settings | training)
        .debugging(seed=1, log_level="ERROR")
    )


@contextlib.contextmanager
def built(config: OM2PConfig) -> Iterator[Algorithm]:
    """An algorithm, stopped whatever happens: the next test needs its processors."""
    algo = config.build_algo()
    try:
        yield algo
    finally:
        algo.stop()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


# --- env runners and learners ---------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_evaluation_goes_on_without_a_killed_env_runner_which_comes_back(spread):
    config = make_config(spread).evaluation(
        evaluation_interval=1, evaluation_duration=4, evaluation_num_env_runners=2
    )
    with built(config) as algo:
        group = algo.eval_env_runner_group
        pids = group.foreach_env_runner(lambda runner: os.getpid(), local_env_runner=False)
        kill(pids[0])
        evaluation = algo.train()["evaluation"]
        assert evaluation["env_runners"]["num_episodes"] == 4
        assert group.num_healthy_remote_workers() == 1
        deadline = time.monotonic() + 240  # a process starts slowly where others compute
        while not algo.restore_env_runners(group):
            assert time.monotonic() < deadline
        assert algo.train()["evaluation"]["env_runners"]["num_episodes"] == 4
        assert group.num_healthy_remote_workers() == 2
        again = group.foreach_env_runner(
            lambda runner: (os.getpid(), runner.module["agent_1"].get_state()),
            local_env_runner=False,
        )
        assert pids[1] in [pid for pid, _ in again]
        assert pids[0] not in [pid for pid, _ in again]
        own = algo.get_module("agent_1").get_state()
        for _, weights in again:
            assert all((weights[name] == own[name]).all() for name in own)


def test_a_killed_learner_ends_training_at_once_though_the_other_waits_for_it(spread):
    with built(make_config(spread).learners(num_learners=2)) as algo:
        algo.train()
        pids = call_learners(algo.learner_group, lambda learner: os.getpid())
        kill(pids[1])
        start = time.monotonic()
        with pytest.raises(
            LearnerDiedError, match=r"learner 1 of 2 died.*last checkpoint is intact"
        ):
            algo.train()
        assert time.monotonic() - start < 60


@pytest.mark.timeout(400)
def test_tune_resumes_a_trial_whose_learner_was_killed_and_counts_no_step_twice(spread, tmp_path):
    done = tmp_path / "killed"

    def kill_once(*, algorithm: Algorithm, result: dict[str, Any], **_: Any) -> None:
        if result["training_iteration"] == 2 and not done.exists():
            (pid,) = call_learners(algorithm.learner_group, lambda learner: os.getpid())
            done.write_text(str(pid))
            kill(pid)

    config = make_config(spread).learners(num_learners=1).callbacks(on_train_result=kill_once)
    tuner = tune.Tuner(
        OM2P,
        param_space=config,
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            name="trial",
            stop={"training_iteration": 4},
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    )
    (result,) = tuner.fit()
    assert done.exists()
    assert result.error is None
    lines = (Path(result.path) / "result.json").read_text().splitlines()
    counts = {}
    for line in map(json.loads, lines):
        learners = line["learners"]["__all_modules__"]
        counts[line["training_iteration"]] = (
            learners["num_updates_lifetime"],
            learners["num_env_steps_trained_lifetime"],
        )
    assert counts == {n: (PER_ITERATION * n, 32 * PER_ITERATION * n) for n in (1, 2, 3, 4)}
    with built(make_config(spread)) as whole:
        for _ in range(4):
            whole.train()
        expected = whole.get_module("agent_0").get_state()
    resumed = load_modules(result.checkpoint.path)["agent_0"].get_state()
    assert all((resumed[name] == expected[name]).all() for name in expected)


# --- data -----------------------------------------------------------------------------------------


def write_blocks(directory: Path) -> Path:
    """Ten files of one row group of four episodes, 44 rows."""
    return write_random(directory, rows_per_group=44, rows_per_file=44)


def windowed(path: Path, **settings: Any) -> OM2PConfig:
    config = make_config(path, num_updates_per_iteration=60)
    return config.offline_data(table_memory_budget=4 * 44 * 100, **settings)


def train_on(algo: Algorithm) -> dict[str, Any]:
    """Pass over the data more than once more and return the last learners' results."""
    for _ in range(3):
        result = algo.train()["learners"]["__all_modules__"]
    return result


def vanish(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def damage(file: Path) -> None:
    """Overwrite the pages of one column; footer and the episodes' columns stay readable."""
    row_group = pq.read_metadata(file).row_group(0)
    columns = [row_group.column(i) for i in range(row_group.num_columns)]
    (column,) = (c for c in columns if c.path_in_schema.startswith("obs_walker"))
    with file.open("r+b") as content:
        content.seek(column.data_page_offset + 20)
        content.write(b"\xff" * (column.total_compressed_size - 20))


@pytest.mark.parametrize("spoil", [vanish, cut, damage])
def test_a_file_that_breaks_while_the_window_rolls_is_named_or_skipped_and_counted(tmp_path, spoil):
    path = write_blocks(tmp_path / "set")
    strict = windowed(path).build_algo()
    lenient = windowed(path, on_corrupt="skip").build_algo()
    assert lenient.train()["learners"]["__all_modules__"]["num_row_groups_skipped"] == 0
    spoil(path / "part-00003.parquet")
    with pytest.raises(DataError, match=r"part-00003.parquet, row group 0"):
        train_on(strict)
    strict.stop()
    result = train_on(lenient)
    lenient.stop()
    assert result["num_row_groups_skipped"] == 1
    assert result["num_updates_lifetime"] == 240


def test_a_whole_table_skips_what_cannot_be_read(tmp_path):
    path = write_blocks(tmp_path / "set")
    for number in (3, 7):
        damage(path / f"part-0000{number}.parquet")
    with pytest.raises(DataError, match=r"part-0000[37].parquet, row group 0"):
        make_config(path).build_algo()
    algo = make_config(path).offline_data(on_corrupt="skip").build_algo()
    assert algo.learner_group._learner._table.num_transitions == 400 - 2 * 40
    assert algo.train()["learners"]["__all_modules__"]["num_row_groups_skipped"] == 2
    algo.stop()


def test_one_ranks_broken_file_ends_training_though_the_other_waits_for_it(tmp_path):
    path = write_blocks(tmp_path / "set")
    with built(windowed(path).learners(num_learners=2)) as algo:
        vanish(path / "part-00007.parquet")
        start = time.monotonic()
        with pytest.raises(DataError, match=r"part-00007.parquet, row group 0"):
            train_on(algo)
        assert time.monotonic() - start < 90


# --- a run from the command line ------------------------------------------------------------------


def command(dataset: Path, out: Path, updates: int, *options: str) -> list[str]:
    sizes = ["actor_hidden=16,16", "critic_hidden=16,16", "train_batch_size=32"]
    settings = ["--set", *sizes, f"num_updates_per_iteration={PER_ITERATION}"]
    return [
        *("train", str(dataset), "--out", str(out), "--updates", str(updates)),
        *("--eval-every", "0", *settings, *options),
    ]


def parameters(checkpoint: Path) -> torch.Tensor:
    modules = load_modules(checkpoint).values()
    return torch.cat([p.detach().reshape(-1) for m in modules for p in m.parameters()])


def num_lines(run: Path) -> int:
    file = run / "progress.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.fixture(scope="module")
def whole_run(spread: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of eight iterations."""
    out = Path(tmp_path_factory.mktemp("runs")) / "whole"
    assert main(command(spread, out, 8 * PER_ITERATION)) == 0
    return out


def test_sigterm_saves_and_the_resumed_run_equals_the_uninterrupted_one(
    spread, whole_run, tmp_path, capsys
):
    out = tmp_path / "run"

    def terminate() -> None:
        while num_lines(out) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    with pytest.raises(SystemExit) as ended:
        main(command(spread, out, 100_000 * PER_ITERATION))
    assert ended.value.code == TERMINATED
    assert "continue with --resume" in capsys.readouterr().out
    made = num_lines(out)
    assert read_marker(out / "checkpoint")["training_iteration"] == made
    total = (made + 1) * PER_ITERATION
    resume = ["--resume", str(out)]
    assert main(command(spread, out, total, *resume)) == 0
    if made + 1 > 8:
        expected = tmp_path / "expected"
        assert main(command(spread, expected, total)) == 0
    else:
        expected = whole_run
        if made + 1 < 8:
            assert main(command(spread, out, 8 * PER_ITERATION, *resume)) == 0
    assert torch.equal(parameters(out / "checkpoint"), parameters(expected / "checkpoint"))


def test_a_full_disk_ends_training_with_a_message_and_it_goes_on_from_the_checkpoint_before(
    spread, whole_run, tmp_path, capsys
):
    out = tmp_path / "run"
    assert main(command(spread, out, 4 * PER_ITERATION)) == 0
    before = parameters(out / "checkpoint")
    resume = command(spread, out, 8 * PER_ITERATION, "--resume", str(out))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    try:
        assert main(resume) == USER_ERROR
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the one that is there is intact" in capsys.readouterr().err
    assert torch.equal(parameters(out / "checkpoint"), before)
    assert main(resume) == 0
    assert num_lines(out) == 8
    assert torch.equal(parameters(out / "checkpoint"), parameters(whole_run / "checkpoint"))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_driver_killed_in_the_middle_of_a_checkpoint_leaves_the_one_before(spread, tmp_path):
    out = tmp_path / "run"
    program = [sys.executable, "-m", "rllib_om2p.cli", *command(spread, out, 10**6)]
    driver = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (out / "checkpoint").exists():
            assert driver.poll() is None
            time.sleep(0.01)
        while not list(out.glob(".checkpoint.writing-*/*")):
            pass
    finally:
        driver.kill()
        driver.wait()
    (half,) = out.glob(".checkpoint.writing-*")
    assert not (half / MARKER).exists()
    iteration = read_marker(out / "checkpoint")["training_iteration"]
    total = (iteration + 1) * PER_ITERATION
    assert main(command(spread, out, total, "--resume", str(out))) == 0
    assert not half.exists()
    assert main(command(spread, tmp_path / "expected", total)) == 0
    assert torch.equal(
        parameters(out / "checkpoint"), parameters(tmp_path / "expected" / "checkpoint")
    )
