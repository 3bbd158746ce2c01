"""Jobs on a real cluster, which these tests start and stop themselves, and the Kubernetes manifest.

The cluster has folders and ports of its own; everything that is ended is ended by its process id.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from jsonschema import Draft202012Validator

from rllib_om2p import OM2P
from rllib_om2p.core.acting import load_modules
from rllib_om2p.core.checkpoint import read_marker
from tests.small_data import write_spread

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
RUNTIME_ENV = yaml.safe_load((DEPLOY / "runtime_env.yaml").read_text())
RAY_JOB = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())
RAY = Path(sys.executable).with_name("ray")

needs_cluster_extra = pytest.mark.skipif(
    importlib.util.find_spec("aiohttp_cors") is None, reason="needs pip install '.[cluster]'"
)


# --- on a cluster --------------------------------------------------------------------------------


class Cluster(NamedTuple):
    dashboard: str
    environment: dict[str, str]


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def processes_of(folder: Path) -> list[int]:
    """Return the processes that name the cluster's own folder in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # A short path: Ray's sockets are in it.
    folder = Path(tempfile.mkdtemp(prefix="om2p-ray-"))
    ports = {"port": free_port(), "dashboard-port": free_port()}
    # Ports with defaults would meet those of other clusters on the machine.
    ports |= dict.fromkeys(("dashboard-agent-listen-port", "metrics-export-port"), 0)
    ports |= {"ray-client-server-port": free_port()}
    command = [str(RAY), "start", "--head", "--block", f"--temp-dir={folder}", "--num-cpus=2"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
    # "python" on the cluster is the one that runs these tests.
    environment["PATH"] = f"{RAY.parent}{os.pathsep}{environment['PATH']}"
    environment.pop("RAY_ADDRESS", None)
    log = (folder / "start.log").open("w")
    head = subprocess.Popen(
        [*command, "--disable-usage-stats"],
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        deadline = time.monotonic() + 300
        jobs = [str(RAY), "job", "list", "--address", address]
        while subprocess.run(jobs, env=environment, capture_output=True).returncode:
            assert head.poll() is None, (folder / "start.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (folder / "start.log").read_text()[-3000:]
            time.sleep(1.0)
        yield Cluster(address, environment)
    finally:
        head.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(timeout=60)
        for process in processes_of(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def submit(cluster: Cluster, *command: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run `ray job submit` as a user does, from the repository's root."""
    options = ["--address", cluster.dashboard, "--runtime-env", "deploy/runtime_env.yaml"]
    return subprocess.run(
        [str(RAY), "job", "submit", *options, "--", *command],
        cwd=ROOT,
        env=cluster.environment,
        capture_output=True,
        text=True,
        **settings,
    )


@needs_cluster_extra
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_submitted_training_streams_its_log_and_leaves_a_checkpoint(cluster, tmp_path):
    data, out = write_spread(tmp_path / "set"), tmp_path / "run"
    small = ["--iterations", "2", "--updates", "3", "--episodes", "2"]
    done = submit(cluster, "python", "train.py", str(data), "--out", str(out), *small)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for line in ("update 3: actor loss", "update 6: actor loss", "saved:", "succeeded"):
        assert line in done.stdout
    # Outside of the cluster, in this process.
    assert read_marker(out)["training_iteration"] == 2
    assert list(load_modules(out)) == ["agent_0", "agent_1", "agent_2"]
    restored = OM2P.from_checkpoint(str(out))
    assert restored.num_updates == 6
    restored.stop()


@needs_cluster_extra
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_failing_job_says_why_and_ends_with_a_status(cluster, tmp_path):
    done = submit(cluster, "python", "train.py", str(tmp_path / "nowhere"))
    assert done.returncode != 0
    assert "DataError" in done.stdout
    assert "nowhere does not exist" in done.stdout
    assert "failed" in (done.stdout + done.stderr).lower()


@needs_cluster_extra
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_job_brings_its_code_and_no_data(cluster, tmp_path):
    """The example with the Python client; the package that runs is the one that was sent."""
    program = (
        "import pathlib, rllib_om2p, rllib_om2p.data.reader\n"
        "print('package in', rllib_om2p.__file__)\n"
        "sent = sorted(p.name for p in pathlib.Path.cwd().rglob('*'))\n"
        "print('sent', sent)\n"
        "raise SystemExit('wanted: no data')"
    )
    command = [sys.executable, "examples/submit_job.py", "--address", cluster.dashboard]
    done = subprocess.run(
        [*command, "--", "python", "-c", program],
        cwd=ROOT,
        env=cluster.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "runtime_resources/py_modules_files" in done.stdout
    assert "'train.py'" in done.stdout
    assert ".parquet" not in done.stdout
    assert "status: FAILED" in done.stdout
    assert "did not succeed" in done.stderr


def test_readme_names_the_files_that_the_slow_tests_run():
    readme = (ROOT / "README.md").read_text()
    assert "--runtime-env deploy/runtime_env.yaml" in readme
    assert "examples/submit_job.py" in readme


def test_runtime_env_sends_code_that_exists_and_leaves_data_out():
    assert (ROOT / RUNTIME_ENV["working_dir"] / "train.py").is_file()
    assert [(ROOT / path / "__init__.py").is_file() for path in RUNTIME_ENV["py_modules"]] == [True]
    assert "*.parquet" in RUNTIME_ENV["excludes"]
    folders = {f"{path.name}/" for path in (ROOT / "rllib_om2p").rglob("*") if path.is_dir()}
    assert not folders & set(RUNTIME_ENV["excludes"]) - {"__pycache__/"}


# --- on Kubernetes -------------------------------------------------------------------------------


def test_manifest_fits_the_schema():
    schema = yaml.safe_load((DEPLOY / "rayjob.schema.yaml").read_text())
    Draft202012Validator.check_schema(schema)
    errors = [
        f"{e.json_path}: {e.message}" for e in Draft202012Validator(schema).iter_errors(RAY_JOB)
    ]
    assert not errors


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("apiVersion",), "ray.io/v1alpha1"),
        (("spec", "submissionMode"), "Job"),
        (("spec", "rayClusterSpec", "headGroupSpec", "replicas"), 1),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "groupName"), ""),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 1),
    ],
)
def test_schema_finds_mistakes(path, value):
    schema = yaml.safe_load((DEPLOY / "rayjob.schema.yaml").read_text())
    wrong = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert not Draft202012Validator(schema).is_valid(wrong)


def pods(manifest: dict) -> dict[str, dict]:
    cluster = manifest["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"], **groups}


def test_volumes_that_are_mounted_exist_and_all_pods_share_one():
    for pod in pods(RAY_JOB).values():
        spec = pod["template"]["spec"]
        (container,) = spec["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
        assert "/shared" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_cluster_has_what_the_command_asks_for():
    import rllib_om2p.cli as cli

    words = RAY_JOB["spec"]["entrypoint"].split()
    assert words[:2] == ["rllib-om2p", "train"]
    options = cli.build_parser().parse_args(words[1:])
    settings = dict(pair.split("=") for pair in options.settings)
    groups = pods(RAY_JOB)

    def amount(group: str, resource: str) -> int:
        (container,) = groups[group]["template"]["spec"]["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        return groups[group].get("replicas", 1) * int(resources["limits"].get(resource, 0))

    wanted = options.num_learners * int(settings["num_gpus_per_learner"])
    assert amount("learners", "nvidia.com/gpu") == wanted
    assert amount("evaluation", "cpu") >= int(settings["evaluation_num_env_runners"])
    assert amount("evaluation", "nvidia.com/gpu") == 0


def test_manifest_names_the_supported_ray():
    pinned = (ROOT / "constraints.txt").read_text()
    assert f"\nray=={RAY_JOB['spec']['rayClusterSpec']['rayVersion']}\n" in pinned
