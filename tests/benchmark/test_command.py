"""The commands benchmark and report as a user calls them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rllib_om2p.benchmark.suite_lock import suite_lock
from rllib_om2p.cli import INTERRUPTED, USER_ERROR, main
from tests.small_data import write_spread

SUITE = """
from rllib_om2p.benchmark.suite import Method, Suite, Task

def suite():
    return Suite(
        name="tiny",
        title="two settings, one of them broken if asked",
        methods=[Method("A", "OM2P", {{"eta": 0.5}}), Method("B", "OM2P", {second})],
        tasks=[Task("mpe/simple_spread", ["medium"], 8, 4)],
        seeds=[0, 1],
        num_updates={num_updates},
        num_points=2,
        settings={{"actor_hidden": (8, 8), "critic_hidden": (8, 8), "train_batch_size": 32}},
    )
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with data; results go there too."""
    write_spread(tmp_path / "data/mpe/simple_spread/medium")
    return tmp_path


def command(place: Path, *, num_updates: int = 20, second: str = '{"critic": "vdn"}') -> list[str]:
    file = place / "tiny.py"
    file.write_text(SUITE.format(second=second, num_updates=num_updates))
    data, out = str(place / "data"), str(place / "results")
    return ["benchmark", str(file), "--data", data, "--out", out, "--workers", "1"]


def results(place: Path, pattern: str = "*-medium-*.json") -> dict[str, int]:
    """Names of result files and when each was written."""
    found = (place / "results/tiny").glob(pattern)
    return {file.name: file.stat().st_mtime_ns for file in found}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(240)
def test_chosen_part_of_a_suite_is_run_and_reported(place, capsys):
    before = dict(os.environ)
    assert main([*command(place), "--only", "A", "--seeds", "0"]) == 0
    changed = {name for name, value in os.environ.items() if before.get(name) != value}
    assert not {name for name in changed if "TUNE" in name or "AIR" in name}
    shown = capsys.readouterr().out
    assert "0 of 1 runs are done" in shown
    assert "[1/1] mpe/simple_spread/medium A seed 0: return " in shown
    assert list(results(place)) == ["mpe-simple_spread-medium-A-0.json"]
    page = place / "report.html"
    assert main(["report", str(place / "results/tiny"), "--out", str(page)]) == 0
    assert "1 of 4 runs are done" in page.read_text()
    assert "| medium | A |" in page.with_suffix(".md").read_text()


@pytest.mark.usefixtures("ray_cluster")
def test_suite_for_gpus_is_refused_on_a_machine_without(place, capsys):
    asked = command(place)
    file = place / "tiny.py"
    file.write_text(file.read_text().replace("seeds=", "gpus_per_cell=0.25, seeds="))
    assert main([*asked, "--seeds", "0"]) == USER_ERROR
    complaint = capsys.readouterr().err
    assert "needs 0.25 of a GPU and Ray sees 0 GPUs; run it on a machine with one" in complaint
    assert not results(place)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_failing_run_is_recorded_and_stops_no_other(place, capsys):
    # A learning rate at which the losses overflow.
    broken = command(place, second='{"lr": 1e30}')
    assert main(broken) == USER_ERROR
    captured = capsys.readouterr()
    assert "2 runs failed; their errors are in" in captured.err
    assert set(results(place)) == {f"mpe-simple_spread-medium-A-{seed}.json" for seed in (0, 1)}
    (error, _) = sorted((place / "results/tiny").glob("*.failed"))
    assert "became non-finite" in error.read_text()
    before = results(place)

    page = place / "report.html"
    assert main(["report", str(place / "results/tiny"), "--out", str(page)]) == 0
    assert "2 of 4 runs are done" in page.read_text()
    assert "became non-finite" in page.read_text()

    assert main([*broken, "--list"]) == 0
    assert "failed: mpe-simple_spread-medium-B-0" in capsys.readouterr().out
    assert main(command(place)) == 0  # mended: only what failed is run
    assert "2 of 4 runs are done" in capsys.readouterr().out
    assert len(results(place)) == 4
    assert {name: results(place)[name] for name in before} == before
    assert not list((place / "results/tiny").glob("*.failed"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_benchmark_goes_on_with_what_is_missing(place):
    arguments = [sys.executable, "-m", "rllib_om2p.cli", *command(place, num_updates=400)]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    process = subprocess.Popen(arguments, env=environment, start_new_session=True)
    try:
        while not results(place):
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    before = results(place)
    assert 1 <= len(before) < 4
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} of 4 runs are done" in done.stdout
    assert len(results(place)) == 4
    assert {name: results(place)[name] for name in before} == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_interrupted_benchmark_says_so_and_the_same_command_goes_on(place):
    arguments = [sys.executable, "-m", "rllib_om2p.cli", *command(place, num_updates=400)]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while not results(place):
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        shown, complaint = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == INTERRUPTED
    left = 4 - len(results(place))
    assert f"interrupted; {left} runs are left for the same command" in shown
    assert "time is up" not in shown
    assert "rllib-om2p: stopped." in complaint
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{4 - left} of 4 runs are done" in done.stdout
    assert len(results(place)) == 4


def test_while_another_benchmark_holds_the_folder_nothing_is_looked_at_or_written(place, capsys):
    folder = place / "results/tiny"
    with suite_lock(folder):
        (folder / "mpe-simple_spread-medium-A-0.json").write_text("half of a res")
        before = set(folder.iterdir())
        assert main(command(place)) == USER_ERROR
        assert f"another benchmark writes into {folder}: process {os.getpid()} on" in (
            capsys.readouterr().err
        )
        assert set(folder.iterdir()) == before


@pytest.mark.usefixtures("ray_cluster")
def test_when_time_is_up_nothing_is_begun(place, capsys):
    assert main([*command(place), "--max-minutes", "0"]) == 0
    assert "4 runs are left for the same command" in capsys.readouterr().out
    assert results(place) == {}


def test_mistakes_end_with_one_message(place, capsys):
    def fails(arguments: list[str]) -> str:
        assert main(arguments) == USER_ERROR
        return capsys.readouterr().err

    assert "there is no suite 'cpuu'" in fails(["benchmark", "cpuu", "--data", str(place)])
    tiny = command(place)
    assert "--only: suite 'tiny' has no ['C']" in fails([*tiny, "--only", "C"])
    assert "--datasets: suite 'tiny' has no ['random']" in fails([*tiny, "--datasets", "random"])
    assert "--workers must be at least 1, got 0" in fails([*tiny, "--workers", "0"])
    elsewhere = [*tiny[:3], str(place / "elsewhere"), *tiny[4:]]
    assert "make-dataset mpe/simple_spread medium" in fails(elsewhere)
    assert "there are no results" in fails(["report", str(place / "data")])
    assert not (place / "results").exists()
