"""What the programs do to Ray's switches, with real Rays in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rllib_om2p.core.console import quiet

START = """
from rllib_om2p.core.console import quiet, start_ray
quiet()
start_ray(num_cpus=1)
import ray
assert ray.is_initialized()
ray.shutdown()
print("started")
"""


def test_how_a_cluster_asks_for_its_token_is_left_to_ray(monkeypatch):
    """A token mode that we set would fail on every cluster that runs without one."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    quiet()
    assert "RAY_AUTH_MODE" not in os.environ


def without_a_home(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment | {"HOME": "/proc/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(180)
def test_a_local_ray_starts_quietly_without_a_home_directory():
    done = without_a_home("-c", START)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (done.stdout, done.stderr) == ("started\n", "")


@pytest.mark.timeout(180)
def test_workers_make_a_dataset_without_a_home_directory(tmp_path):
    pytest.importorskip("mujoco")
    request = ["mamujoco/3x1-Hopper", "random", "--steps", "50", "--workers", "1"]
    command = ["make-dataset", *request, "--out", str(tmp_path / "set")]
    done = without_a_home("-m", "rllib_om2p.cli", *command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "team return" in done.stdout
