"""The streaming core: interruptions, full disks, memory, places, packages and mistakes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest

from rllib_om2p import envs
from rllib_om2p.data.importers.known import TASKS, find_quality, find_task
from rllib_om2p.data.importers.locate import COPY_NAME, _without_secrets
from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.stream import SOURCES, import_dataset
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import DataError
from rllib_om2p.data.writer import WRITING_NAME
from tests.data.importers.layouts import (
    assert_equal,
    make_teams,
    read_back,
    write_omar,
    write_omiga,
    write_vault,
)

ROWS_PER_FILE = 130


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def run_program(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


KILLED = f"""
import os, sys
from pathlib import Path
from rllib_om2p.data.importers import stream
stream.SECONDS_BETWEEN_LINES = 0
source, path, out = sys.argv[1:]
def progress(line):
    if (Path(out) / ".writing" / "part-00002.parquet").exists():
        os.kill(os.getpid(), 9)
stream.import_dataset(source, path, out=out, rows_per_file={ROWS_PER_FILE}, progress=progress)
"""


def make_source(source: str, folder: Path) -> Path:
    lengths = np.random.default_rng(0).integers(2, 30, size=60)
    teams = make_teams(list(lengths), shared_reward=True)
    if source == "omar":
        return write_omar(folder / "set", teams)
    if source == "omiga":
        return write_omiga(folder / "set.hdf5", teams)
    return write_vault(folder / "set", [teams[:30], teams[:30]])


@pytest.mark.parametrize("source", ["omar", "omiga", "og-marl"])
def test_killed_import_goes_on_and_its_bytes_equal_an_unbroken_ones(tmp_path, source):
    path, out = make_source(source, tmp_path), tmp_path / "out"
    assert run_program(KILLED, source, path, out).returncode == -9
    with pytest.raises(DataError, match="half-written"):
        OfflineDataset.open(str(out))
    lines: list[str] = []
    import_dataset(source, path, out=out, rows_per_file=ROWS_PER_FILE, progress=lines.append)
    assert any("going on after" in line for line in lines)
    import_dataset(source, path, out=tmp_path / "unbroken", rows_per_file=ROWS_PER_FILE)
    assert contents(out) == contents(tmp_path / "unbroken")
    assert len(contents(out)) > 4
    assert not (out / WRITING_NAME).exists()


def test_changed_source_is_not_continued(tmp_path):
    path, out = make_source("omar", tmp_path), tmp_path / "out"
    assert run_program(KILLED, "omar", path, out).returncode == -9
    rewards = np.load(path / "rews_0.npy")
    np.save(path / "rews_0.npy", rewards + 1)
    lines: list[str] = []
    import_dataset("omar", path, out=out, progress=lines.append)
    assert not any("going on" in line for line in lines)
    recorded = np.concatenate([e.rewards["agent_0"] for e in read_back(out)])
    np.testing.assert_array_equal(recorded, rewards + 1)


FULL = f"""
import resource, sys
from rllib_om2p.data.importers.stream import import_dataset
from rllib_om2p.data.schema import DataError
path, out = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    import_dataset("omar", path, out=out, rows_per_file={ROWS_PER_FILE})
except DataError as error:
    print(error)
"""


def test_full_disk_leaves_nothing_half_written_and_says_what_to_do(tmp_path):
    path, out = make_source("omar", tmp_path), tmp_path / "out"
    done = run_program(FULL, path, out)
    assert f"No space is left for {out}" in done.stdout
    assert "make room and give the same command again" in done.stdout
    assert "Traceback" not in done.stderr
    assert list(out.glob("**/*.parquet")) == []
    with pytest.raises(DataError, match="holds no dataset"):
        OfflineDataset.open(str(out))
    import_dataset("omar", path, out=out)
    assert OfflineDataset.open(str(out)).num_episodes == 60


MEASURED = """
import sys
from rllib_om2p.benchmark.memory import peak_mib
from rllib_om2p.data.importers.stream import import_dataset
import_dataset("omar", sys.argv[1], out=sys.argv[2])
# Not getrusage: its peak is at least that of the process that started this one.
print(int(peak_mib()))
"""


@pytest.mark.slow
def test_set_larger_than_the_memory_bound_streams_through(tmp_path):
    """645 MB of float64, at most 400 MB resident, of which the libraries take 150."""
    rows, repeats = 50_000, 12
    rng = np.random.default_rng(0)
    folder = tmp_path / "simple_spread" / "expert"
    folder.mkdir(parents=True)
    for i in range(3):
        obs = rng.normal(size=(rows, 18))
        next_obs = np.roll(obs, -1, axis=0)
        next_obs[24::25] += 1.0
        parts = {
            "obs": obs,
            "next_obs": next_obs,
            "acs": rng.uniform(-1, 1, (rows, 2)),
            "rews": rng.normal(size=(rows, 1)),
            "dones": np.zeros((rows, 1)),
        }
        for name, array in parts.items():
            shape = (rows * repeats, array.shape[1])
            path = folder / f"{name}_{i}.npy"
            file = np.lib.format.open_memmap(path, "w+", array.dtype, shape)
            for start in range(0, len(file), rows):
                file[start : start + rows] = array
            file.flush()
    size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    done = run_program(MEASURED, folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 400 < size
    assert OfflineDataset.open(str(tmp_path / "out")).num_transitions == rows * repeats


def test_copy_from_a_uri_is_imported_and_removed(tmp_path):
    import fsspec

    teams = make_teams([5, 5])
    folder = write_omar(tmp_path / "set", teams)
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/sets/robots/medium", recursive=True)
    lines: list[str] = []
    found = import_dataset(
        "omar", "memory://sets/robots/medium", out=tmp_path / "out", progress=lines.append
    )
    assert any("copying /sets/robots/medium/obs_0.npy" in line for line in lines)
    for episode, team in zip(read_back(tmp_path / "out"), teams, strict=True):
        assert_equal(episode, team)
    assert found.spec.quality == "medium"
    assert not (tmp_path / "out" / COPY_NAME).exists()


def put(folder: Path, uri: str) -> str:
    """Make a folder what the memory file system holds at a URI."""
    import fsspec

    memory, root = fsspec.core.url_to_fs(uri)
    if memory.exists(root):
        memory.rm(root, recursive=True)
    memory.put(str(folder), root, recursive=True)
    return uri


def interrupt(line: str) -> None:
    if "looking for the ends of episodes" in line:
        raise KeyboardInterrupt


def assert_rewards_are_those_of(out: Path, teams: list) -> None:
    for episode, team in zip(read_back(out), teams, strict=True):
        np.testing.assert_array_equal(episode.rewards["agent_0"], team.rewards[0])


def test_copies_of_another_uri_are_never_taken_for_those_of_this_one(tmp_path):
    out, teams = tmp_path / "out", {}
    for number, quality in enumerate(("medium", "expert")):
        teams[quality] = make_teams([5, 5], seed=number)
        folder = write_omar(tmp_path / quality, teams[quality])
        put(folder, f"memory://sets/pair/{quality}/seed_0_data")
    with pytest.raises(KeyboardInterrupt):
        import_dataset("omar", "memory://sets/pair/medium/seed_0_data", out=out, progress=interrupt)
    assert (out / COPY_NAME).exists()
    import_dataset("omar", "memory://sets/pair/expert/seed_0_data", out=out)
    assert_rewards_are_those_of(out, teams["expert"])


def test_copies_are_used_again_only_while_the_source_stays_as_it_was(tmp_path):
    first, second = make_teams([5, 5], seed=0), make_teams([5, 5], seed=1)
    uri, out, lines = "memory://sets/changing", tmp_path / "out", []
    put(write_omar(tmp_path / "first", first), uri)
    for _ in range(2):
        lines.clear()
        with pytest.raises(KeyboardInterrupt):
            import_dataset(
                "omar", uri, out=out, progress=lambda line: (lines.append(line), interrupt(line))
            )
    assert not any(line.startswith("copying") for line in lines)
    put(write_omar(tmp_path / "second", second), uri)
    import_dataset("omar", uri, out=out)
    assert_rewards_are_those_of(out, second)


def test_files_that_left_the_source_leave_the_copy(tmp_path):
    teams = make_teams([5])
    uri, out = "memory://sets/shrinking", tmp_path / "out"
    for seed in (0, 1):
        write_omar(tmp_path / "set" / f"seed_{seed}_data", teams)
    put(tmp_path / "set", uri)
    with pytest.raises(KeyboardInterrupt):
        import_dataset("omar", uri, out=out, progress=interrupt)
    shutil.rmtree(tmp_path / "set" / "seed_1_data")
    put(tmp_path / "set", uri)
    import_dataset("omar", uri, out=out)
    assert len(read_back(out)) == 1


def test_task_quality_and_parents_are_those_of_the_uri_not_of_out(tmp_path):
    folder = write_omar(tmp_path / "set", make_teams([25], [(18, 2)] * 3))
    uri = put(folder, "memory://sets/simple_spread/medium/seed_0_data")
    out = tmp_path / "simple_tag-expert"
    spec = import_dataset("omar", uri, out=out).spec
    assert (spec.env, spec.quality, spec.time_limit) == ("mpe/simple_spread", "medium", 25)
    assert len(spec.parents) == 15
    assert spec.parents[0].startswith(f"omar:{uri}/obs_0.npy sha256:")


def test_out_does_not_name_the_task_of_a_uri(tmp_path):
    folder = write_omar(tmp_path / "set", make_teams([25], [(18, 2)] * 3))
    uri = put(folder, "memory://sets/nameless")
    spec = import_dataset("omar", uri, out=tmp_path / "simple_spread-medium").spec
    assert (spec.env, spec.quality, spec.time_limit) == (None, "", None)


def test_parent_of_a_single_file_of_a_uri_is_its_uri(tmp_path):
    import fsspec

    file = write_omiga(tmp_path / "set.hdf5", make_teams([5], shared_reward=True))
    fsspec.filesystem("memory").put_file(str(file), "/sets/single/set.hdf5")
    spec = import_dataset("omiga", "memory://sets/single/set.hdf5", out=tmp_path / "out").spec
    assert [parent.split()[0] for parent in spec.parents] == ["omiga:memory://sets/single/set.hdf5"]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:secret@host/medium/set?signature=secret", "https://host/medium/set"),
        ("zip://medium::ftp://me:secret@host/set.zip", "zip://medium::ftp://host/set.zip"),
        ("https://secret@host/set/", "https://host/set"),
        ("abfs://container@account.dfs.core.windows.net/set", None),
        ("hf://datasets/someone/set@main/medium", None),
    ],
)
def test_card_shows_no_login_and_no_query_of_a_uri(uri, shown):
    assert _without_secrets(uri) == (shown or uri)


def test_names_that_lead_out_of_the_copy_are_refused(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(write_omar(tmp_path / "set", make_teams([5]))), "/sets/evil", recursive=True)
    evil = "/sets/evil/../../../../outside.npy"
    memory.store[evil] = type(memory.store["/sets/evil/obs_0.npy"])(memory, evil, b"evil")
    try:
        with pytest.raises(
            DataError, match=r"holds '/sets/evil/\.\./.*outside\.npy', whose '\.\.'"
        ):
            import_dataset("omar", "memory://sets/evil", out=tmp_path / "a" / "b" / "out")
    finally:
        del memory.store[evil]
    assert list(tmp_path.rglob("outside.npy")) == []


def test_a_second_copy_to_the_same_place_is_refused_naming_the_first(tmp_path):
    import fsspec

    folder = write_omar(tmp_path / "set", make_teams([5, 5]))
    fsspec.filesystem("memory").put(str(folder), "/sets/twice/medium", recursive=True)
    out, refused = tmp_path / "out", []

    def copy_again(line: str) -> None:
        if line.startswith("copying") and not refused:
            with pytest.raises(DataError, match=rf"process {os.getpid()} on .* copies .*wait"):
                import_dataset("omar", "memory://sets/twice/medium", out=out)
            refused.append(line)

    import_dataset("omar", "memory://sets/twice/medium", out=out, progress=copy_again)
    assert refused
    assert OfflineDataset.open(str(out)).num_episodes == 2
    assert not (out / COPY_NAME).exists()


def test_file_uris_are_imported_from_where_they_are(tmp_path):
    folder = write_omar(tmp_path / "dätä mit raum", make_teams([5, 5]))
    for number, uri in enumerate((folder.as_uri(), f"file://localhost{folder}")):
        import_dataset("omar", uri, out=tmp_path / f"out-{number}")
        assert OfflineDataset.open(tmp_path / f"out-{number}").num_episodes == 2


def test_empty_and_unknown_uris_are_named(tmp_path):
    with pytest.raises(DataError, match=r"memory://nothing/here does not exist or is empty"):
        import_dataset("omar", "memory://nothing/here", out=tmp_path / "out")
    with pytest.raises(DataError, match="no file system is known for quux://"):
        import_dataset("omar", "quux://nothing", out=tmp_path / "out")


@pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is not None, reason="huggingface_hub is installed"
)
def test_missing_package_of_a_uri_is_named(tmp_path):
    with pytest.raises(DataError, match="hf:// needs the package huggingface_hub; install it with"):
        import_dataset("omar", "hf://datasets/someone/something", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "package"), [("omiga", "h5py"), ("minari", "h5py"), ("og-marl", "tensorstore")]
)
def test_missing_package_of_a_format_names_the_extra(tmp_path, monkeypatch, source, package):
    name = f"rllib_om2p.data.importers.{source.replace('-', '_')}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"needs the package {package}.*'rllib-om2p\[import\]'"):
        import_dataset(source, tmp_path, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "words"),
    [("omarr", "did you mean omar"), ("OG_MARL", "did you mean og-marl"), ("zip", "known: omar")],
)
def test_unknown_source_lists_near_ones(tmp_path, source, words):
    with pytest.raises(DataError, match=f"No source is called '{source}'.*{words}"):
        import_dataset(source, tmp_path, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"time_limit": 0}, "--time-limit must be at least 1 step, got 0"),
        ({"num_actions": 1}, "--num-actions must be at least 2, got 1"),
        ({"obs_dims": (3, 0)}, "--obs-dims must be positive"),
        ({"action_low": 1.0}, "--action-low must lie below"),
        ({"agents": ("0", "0")}, "--agents must name each agent once"),
        ({"actuators": (0, 2)}, "--actuators must be an order of 0"),
        ({"team_return": "best"}, "--team-return must be one of"),
        ({"at_limit": "ignored"}, "--at-limit must be one of"),
    ],
)
def test_options_are_validated(options, words):
    with pytest.raises(DataError, match=words):
        ImportOptions(**options)


def test_option_that_a_source_would_ignore_is_refused(tmp_path):
    with pytest.raises(DataError, match="minari has no use for --at-limit and --obs-dims"):
        import_dataset(
            "minari",
            tmp_path,
            out=tmp_path / "out",
            options=ImportOptions(at_limit="terminated", obs_dims=(3,)),
        )


def test_unknown_agents_and_environments_list_what_there_is(tmp_path):
    folder = write_omar(tmp_path / "set", make_teams([5]))
    with pytest.raises(
        DataError, match=r"--agents names '2', but .* holds \['agent_0', 'agent_1'\]"
    ):
        import_dataset("omar", folder, out=tmp_path / "out", options=ImportOptions(agents=("2",)))
    with pytest.raises(
        DataError, match=r"--env knows no 'mpe/simple_tagg'; did you mean mpe/simple_"
    ):
        import_dataset(
            "omar", folder, out=tmp_path / "out", options=ImportOptions(env="mpe/simple_tagg")
        )


def test_dataset_that_is_there_is_replaced_only_on_demand(tmp_path):
    first = write_omar(tmp_path / "first", make_teams([5]))
    second = write_omar(tmp_path / "second", make_teams([4], seed=1))
    import_dataset("omar", first, out=tmp_path / "out")
    with pytest.raises(DataError, match="already holds a dataset.*--overwrite"):
        import_dataset("omar", second, out=tmp_path / "out")
    import_dataset("omar", second, out=tmp_path / "out", overwrite=True)
    assert [len(episode) for episode in read_back(tmp_path / "out")] == [4]


def test_archives_are_to_be_unpacked(tmp_path):
    (tmp_path / "set.zip").touch()
    with pytest.raises(DataError, match="set.zip is an archive; unpack it"):
        import_dataset("og-marl", tmp_path / "set.zip", out=tmp_path / "out")


def test_an_archive_behind_a_uri_is_refused_before_it_is_copied(tmp_path):
    with fsspec.open("memory://archives/set.tgz", "wb") as file:
        file.write(b"large")
    with pytest.raises(DataError, match="set.tgz is an archive; unpack it"):
        import_dataset("og-marl", "memory://archives/set.tgz", out=tmp_path / "out")
    assert not (tmp_path / "out" / ".source").exists()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.env)
def test_known_tasks_are_those_of_the_registry(task):
    info = envs.info(task.env)
    assert len(info.agents) == task.num_agents
    assert {agent.obs_dim for agent in info.agents} <= set(task.obs_dims)
    assert {agent.action_dim for agent in info.agents} == {task.action_dim}
    assert (info.time_limit, info.team_return) == (task.time_limit, task.team_return)
    for name, value in task.references.items():
        if name != "source":
            assert info.references[name] == value


@pytest.mark.parametrize(
    ("path", "env", "quality"),
    [
        ("omar/simple_tag/medium-replay/seed_0_data", "mpe/simple_tag", "medium-replay"),
        ("vaults/omar/simple_world.vlt/Medium-Replay", "mpe/simple_world", "medium-replay"),
        ("HalfCheetah-v2/expert", "mamujoco/2x3-HalfCheetah", "expert"),
        ("omiga/2halfcheetah.vlt/Medium", "mamujoco/2x3-HalfCheetah", "medium"),
        ("HalfCheetah-v2-6x1-medium_expert.hdf5", "mamujoco/6x1-HalfCheetah", "medium-expert"),
        ("vaults/6halfcheetah.vlt/Expert", "mamujoco/6x1-HalfCheetah", "expert"),
        ("Ant-v2-2x4-random.hdf5", "mamujoco/2x4-Ant", "random"),
        ("hopper/3x1/medium", "mamujoco/3x1-Hopper", "medium"),
        ("giant/robots", None, ""),
    ],
)
def test_public_names_are_recognised(path, env, quality):
    task = find_task(None, path)
    assert (None if task is None else task.env) == env
    assert find_quality(path) == quality


def test_every_source_has_a_module_that_names_its_options():
    for source in SOURCES:
        module = importlib.import_module(f"rllib_om2p.data.importers.{source.replace('-', '_')}")
        assert set(module.OPTIONS) <= set(ImportOptions.__dataclass_fields__)
