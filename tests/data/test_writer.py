"""The writer: whole, repeatable, all or nothing."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import CARD_NAME, DataError
from rllib_om2p.data.writer import LOCK_NAME, DatasetWriter


def hashes(directory):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.iterdir()}


def hashes_of_files(directory):
    names = [path.name for path in directory.iterdir() if path.is_file()]
    return {n: hashlib.sha256((directory / n).read_bytes()).hexdigest() for n in names}


def stack(episodes, names):
    """Lay episodes of one length side by side, as write_batch takes them."""
    fields = ("obs", "actions", "rewards", "terminateds")
    return [
        {name: np.stack([getattr(episode, field)[name] for episode in episodes]) for name in names}
        for field in fields
    ]


def test_equal_input_gives_equal_bytes(write, spec, episodes):
    assert hashes(write(spec, episodes, "one")) == hashes(write(spec, episodes, "two"))


def test_batches_and_single_episodes_give_equal_bytes(write, spec, make_episode, tmp_path):
    episodes = [make_episode(spec, 6, seed) for seed in range(11)]
    one_by_one = write(spec, episodes, "episodes")
    with DatasetWriter(tmp_path / "batch", spec, rows_per_group=20, rows_per_file=30) as writer:
        for part in (episodes[:7], episodes[7:]):
            obs, actions, rewards, terminateds = stack(part, spec.agent_ids)
            truncated = np.array([episode.truncated for episode in part])
            writer.write_batch(obs, actions, rewards, terminateds, truncated=truncated)
    assert hashes(one_by_one) == hashes(tmp_path / "batch")


def test_a_batch_of_no_episodes_writes_nothing(write, spec, episodes, tmp_path):
    none = {name: np.zeros((0, 9)) for name in spec.agent_ids}
    obs = {agent.name: np.zeros((0, 10, agent.obs_dim)) for agent in spec.agents}
    actions = {agent.name: np.zeros((0, 9, agent.action_dim)) for agent in spec.agents}
    with DatasetWriter(tmp_path / "one", spec, rows_per_group=20, rows_per_file=30) as writer:
        for episode in episodes:
            writer.write_batch(obs, actions, none, none, truncated=np.zeros(0, bool))
            writer.write_episode(episode)
        assert writer.num_episodes == 6
    assert hashes(tmp_path / "one") == hashes(write(spec, episodes, "two"))


def test_episodes_never_straddle_row_groups(dataset_path):
    groups = []
    for path in sorted(dataset_path.glob("*.parquet")):
        file = pq.ParquetFile(path)
        groups += [file.read_row_group(i).to_pandas() for i in range(file.num_row_groups)]
    assert len(groups) > 2
    for group in groups:
        assert group["step"].iloc[0] == 0
        assert not group["valid"].iloc[-1]
        assert len(group) <= 20
    ids = np.concatenate([group["episode_id"].unique() for group in groups])
    assert ids.tolist() == [0, 1, 2, 3, 4, 5]


def test_an_episode_longer_than_a_row_group_gets_its_own(write, spec, make_episode):
    path = write(spec, [make_episode(spec, n, n) for n in (3, 60, 3)], rows_per_file=1000)
    file = pq.ParquetFile(path / "part-00000.parquet")
    rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert rows == [4, 61, 4]


def test_files_use_zstd_and_byte_stream_split_without_dictionaries(dataset_path):
    group = pq.read_metadata(dataset_path / "part-00000.parquet").row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    assert not any(column.has_dictionary_page for column in columns)
    floats = [column for column in columns if column.physical_type == "FLOAT"]
    assert len(floats) == 6
    assert all("BYTE_STREAM_SPLIT" in column.encodings for column in floats)


def test_final_rows_hold_the_last_observation_and_nothing_else(dataset_path, episodes):
    table = pq.read_table(sorted(dataset_path.glob("*.parquet"))).to_pandas()
    final = table[~table["valid"]]
    assert final["step"].tolist() == [len(episode) for episode in episodes]
    for episode, obs in zip(episodes, final["obs_agent_2"], strict=True):
        assert np.array_equal(obs, episode.obs["agent_2"][-1])
    for name in ("reward_agent_2", "terminated_agent_2", "truncated"):
        assert not final[name].any()
    assert not np.stack(final["action_agent_2"]).any()


def test_truncated_stands_on_the_last_acting_row(write, spec, episodes):
    cut = [dataclasses.replace(episode, truncated=True) for episode in episodes]
    path = write(spec, cut)
    table = pq.read_table(sorted(path.glob("*.parquet"))).to_pandas()
    steps = table[table["truncated"]]["step"]
    assert steps.tolist() == [len(episode) - 1 for episode in episodes]


def test_card_counts_hashes_and_spec_match_the_files(dataset_path, spec):
    card = json.loads((dataset_path / CARD_NAME).read_text())
    assert card["counts"] == {"episodes": 6, "rows": 46, "transitions": 40}
    assert card["spec"] == json.loads(spec.to_json())
    assert [entry["name"] for entry in card["files"]] == sorted(
        path.name for path in dataset_path.glob("*.parquet")
    )
    for entry in card["files"]:
        data = (dataset_path / entry["name"]).read_bytes()
        assert entry["bytes"] == len(data)
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    assert sum(entry["rows"] for entry in card["files"]) == 46
    assert sum(entry["episodes"] for entry in card["files"]) == 6


def test_a_caller_may_reuse_its_buffers(tmp_path, spec, make_episode):
    episode = make_episode(spec, 5)
    expected = episode.obs["agent_2"].copy()
    with DatasetWriter(tmp_path, spec) as writer:
        writer.write_episode(episode)
        episode.obs["agent_2"][:] = 7
    (back,) = OfflineDataset.open(str(tmp_path)).episodes()
    assert np.array_equal(back.obs["agent_2"], expected)


def test_an_error_while_writing_leaves_nothing(tmp_path, spec, episodes):
    def write_and_fail():
        with DatasetWriter(tmp_path / "d", spec, rows_per_group=20, rows_per_file=30) as writer:
            for episode in episodes:
                writer.write_episode(episode)
            raise KeyError("simulator")

    with pytest.raises(KeyError, match="simulator"):
        write_and_fail()
    assert list((tmp_path / "d").iterdir()) == []


def test_a_dataset_is_not_overwritten_by_accident(write, spec, episodes):
    path = write(spec, episodes)
    before = hashes(path)
    with pytest.raises(DataError, match="overwrite=True"):
        write(spec, episodes[:1])
    assert hashes(path) == before


def test_a_failed_overwrite_keeps_the_old_dataset(write, spec, episodes, tmp_path):
    before = hashes(write(spec, episodes, "data"))
    broken = dataclasses.replace(episodes[0], rewards={})
    with pytest.raises(DataError):
        write(spec, [episodes[1], broken], "data", overwrite=True)
    assert hashes(tmp_path / "data") == before


def test_overwrite_leaves_no_old_files(write, spec, episodes):
    path = write(spec, episodes)
    write(spec, episodes[:1], overwrite=True)
    assert sorted(p.name for p in path.iterdir()) == [CARD_NAME, "part-00000.parquet"]
    assert OfflineDataset.open(str(path)).num_episodes == 1


@pytest.mark.parametrize("with_dataset", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_parquet_files_of_others_are_refused_and_stay(
    tmp_path, write, spec, episodes, with_dataset, overwrite
):
    path = tmp_path / "data"
    if with_dataset:
        write(spec, episodes)
    path.mkdir(exist_ok=True)
    # Another program's file may well bear the name of a part.
    names = ["part-00000.parquet", "recording.parquet"][with_dataset:]
    for name in names:
        pq.write_table(pa.table({"reward": [1.0]}), path / name)
    before = hashes(path)
    words = rf"holds {names[0]}, which is not of a dataset there.*move it away or choose another"
    with pytest.raises(DataError, match=words):
        write(spec, episodes[:1], overwrite=overwrite)
    assert hashes(path) == before


def test_a_file_that_comes_while_one_overwrites_stays_and_is_not_mixed_in(
    tmp_path, write, spec, episodes
):
    path = write(spec, episodes)
    stray = path / "recording.parquet"
    with DatasetWriter(path, spec, overwrite=True) as writer:
        writer.write_episode(episodes[0])
        stray.write_bytes((path / "part-00000.parquet").read_bytes())
    with pytest.raises(DataError, match=r"recording.parquet, which its card does not name"):
        OfflineDataset.open(str(path))
    stray.rename(tmp_path / "elsewhere.parquet")
    assert OfflineDataset.open(str(path)).num_episodes == 1


def test_a_card_names_no_files_of_other_folders(tmp_path, write, spec, episodes):
    path = write(spec, episodes)
    other = tmp_path / "other.parquet"
    other.write_bytes((path / "part-00000.parquet").read_bytes())
    card = json.loads((path / CARD_NAME).read_text())
    card["files"].append({"name": "../other.parquet"})
    (path / CARD_NAME).write_text(json.dumps(card))
    write(spec, episodes[:1], overwrite=True)
    assert other.exists()


@pytest.mark.parametrize("card", [None, "cut off"])
def test_parts_of_a_half_published_set_are_overwritten(write, spec, episodes, card):
    path = write(spec, episodes)
    (path / CARD_NAME).unlink()
    if card is not None:
        (path / CARD_NAME).write_text(card)
    with pytest.raises(DataError, match="already holds .* pass overwrite=True"):
        write(spec, episodes[:1])
    write(spec, episodes[:1], overwrite=True)
    assert sorted(p.name for p in path.iterdir()) == [CARD_NAME, "part-00000.parquet"]
    assert OfflineDataset.open(str(path)).num_episodes == 1


def test_writing_no_episode_is_an_error(tmp_path, spec):
    with (
        pytest.raises(DataError, match="no episode was written"),
        DatasetWriter(tmp_path, spec),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: {"obs": {"agent_2": e.obs["agent_2"]}}, "lack .*obs_agent_10"),
        (lambda e: {"state": np.zeros((6, 1))}, "bring .*state"),
        (lambda e: {"rewards": e.rewards | {"agent_2": np.zeros(4)}}, "reward of agent agent_2"),
        (lambda e: {"obs": e.obs | {"agent_2": np.zeros((5, 2))}}, r"obs of agent.*\(1, 6, 2\)"),
        (
            lambda e: {"rewards": e.rewards | {"agent_2": np.array([0, 0, np.nan, 0, 0])}},
            "episode 0, step 2, agent agent_2: column reward_agent_2 holds nan",
        ),
        (
            lambda e: {"actions": e.actions | {"agent_2": np.full((5, 2), 1.75)}},
            r"step 0, agent agent_2.*1.75 at feature 1, outside the action space \[0.5, 1.5\]",
        ),
    ],
)
def test_broken_episodes_are_refused_by_name(tmp_path, spec, make_episode, change, words):
    episode = make_episode(spec, 5)
    broken = dataclasses.replace(episode, **change(episode))
    with pytest.raises(DataError, match=words), DatasetWriter(tmp_path, spec) as writer:
        writer.write_episode(broken)


@pytest.mark.parametrize("flag", [0.3, 2, float("nan")])
@pytest.mark.parametrize("field", ["terminateds", "alive"])
def test_flags_must_be_true_or_false(tmp_path, rich_spec, make_episode, field, flag):
    episode = make_episode(rich_spec, 5)
    agent = rich_spec.agent_ids[0]
    flags = {**getattr(episode, field), agent: np.array(getattr(episode, field)[agent], np.float64)}
    changed = dataclasses.replace(episode, **{field: flags})
    with DatasetWriter(tmp_path / "d", rich_spec) as writer:
        writer.write_episode(changed)  # 0.0 and 1.0 are flags.
        flags[agent][2] = flag
        kind = field.removesuffix("s")
        with pytest.raises(DataError, match=f"{kind} of agent {agent} must be true or false"):
            writer.write_episode(changed)
        with pytest.raises(DataError, match="truncated must be true or false"):
            writer.write_episode(dataclasses.replace(episode, truncated=flag))
    assert OfflineDataset.open(str(tmp_path / "d")).num_episodes == 1


def test_a_behaviour_id_that_does_not_fit_its_column_is_refused(tmp_path, rich_spec, make_episode):
    episode = dataclasses.replace(make_episode(rich_spec, 5), behaviour_id=2**32 + 7)
    words = r"behaviour_id must be integers from -2147483648 to 2147483647.*4294967303"
    with (
        pytest.raises(DataError, match=words),
        DatasetWriter(tmp_path / "d", rich_spec) as writer,
    ):
        writer.write_episode(episode)


def test_discrete_actions_must_be_integers_in_range(tmp_path, rich_spec, make_episode):
    episode = make_episode(rich_spec, 3)
    for actions, words in ((np.array([0, 1, 4]), "from 0 to 3"), (np.zeros(3), "integers")):
        broken = dataclasses.replace(episode, actions=episode.actions | {"walker": actions})
        with pytest.raises(DataError, match=words), DatasetWriter(tmp_path, rich_spec) as writer:
            writer.write_episode(broken)


KILLED_WRITER = """
import os, signal, sys
import numpy as np
from rllib_om2p.data.schema import AgentSpec, DatasetSpec
from rllib_om2p.data.writer import DatasetWriter

path, moves, overwrite = sys.argv[1], int(sys.argv[2]), "overwrite" in sys.argv[3:]
spec = DatasetSpec("test/killed", (AgentSpec.box("a", 3, 1),))
replace = os.replace

def replace_or_die(source, target):
    global moves
    if moves == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    moves -= 1
    replace(source, target)

os.replace = replace_or_die
with DatasetWriter(
    path, spec, rows_per_group=20, rows_per_file=40, overwrite=overwrite
) as writer:
    for number in range(12):
        writer.write_batch(
            {"a": np.zeros((1, 10, 3))}, {"a": np.zeros((1, 9, 1))}, {"a": np.zeros((1, 9))},
            {"a": np.zeros((1, 9), bool)}, truncated=np.array([True]),
        )
        print(number, flush=True)
    if moves < 0:
        sys.stdin.read()
"""


@pytest.mark.parametrize("moves", [-1, 0, 1, 2, 3])
def test_a_killed_writer_leaves_nothing_that_opens(tmp_path, moves):
    """Killed while writing (-1), or when so many files were in place (3: all but the card)."""
    path = tmp_path / "data"
    command = [sys.executable, "-c", textwrap.dedent(KILLED_WRITER), str(path), str(moves)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if line.strip() == "11" and moves < 0:
                process.send_signal(signal.SIGKILL)
        process.stdin.close()
    assert process.returncode == -signal.SIGKILL
    assert (path / ".writing").is_dir()
    with pytest.raises(DataError, match="half-written.*write the dataset again"):
        OfflineDataset.open(str(path))


# Of the former dataset the card and three parts move, of the new one three parts and the card.
@pytest.mark.parametrize("moves", range(1, 8))
def test_a_dataset_comes_back_after_a_kill_while_it_was_replaced(write, spec, episodes, moves):
    path = write(spec, episodes)
    assert len(list(path.iterdir())) == 4
    before = hashes(path)
    command = [sys.executable, "-c", textwrap.dedent(KILLED_WRITER), str(path), str(moves)]
    killed = subprocess.run([*command, "overwrite"], stdout=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match=r"half-written.*the former dataset comes back"):
        OfflineDataset.open(str(path))
    with pytest.raises(DataError, match="already holds"):
        write(spec, episodes[:1])
    found = hashes_of_files(path)
    assert {name: found[name] for name in before} == before
    write(spec, episodes[:1], overwrite=True)
    assert sorted(p.name for p in path.iterdir()) == [CARD_NAME, "part-00000.parquet"]
    assert OfflineDataset.open(str(path)).num_episodes == 1


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("moves", range(6))
@pytest.mark.parametrize("resume", [False, True])
def test_a_dataset_comes_back_after_an_error_while_it_was_replaced(
    write, spec, episodes, monkeypatch, error, moves, resume
):
    path = write(spec, episodes)
    before = hashes(path)
    replace, calls = os.replace, iter([False] * moves + [True])

    def replace_or_fail(source, target):
        is_journal = str(target).endswith("journal.json")
        if not is_journal and next(calls, False):
            raise error
        replace(source, target)

    def overwrite():
        with DatasetWriter(path, spec, overwrite=True, resume=resume) as writer:
            writer.write_episode(episodes[0])
            monkeypatch.setattr(os, "replace", replace_or_fail)

    with pytest.raises(type(error)):
        overwrite()
    found = hashes_of_files(path)
    assert {name: found[name] for name in before} == before
    assert OfflineDataset.open(str(path)).num_episodes == len(episodes)
    # What was written may go on; the former dataset is replaced once the new one is whole.
    with DatasetWriter(path, spec, overwrite=True, resume=resume) as writer:
        assert writer.num_episodes == (1 if resume else 0)
        writer.write_episode(episodes[1])
    assert OfflineDataset.open(str(path)).num_episodes == (2 if resume else 1)
    assert not [p.name for p in path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_writer_is_refused_naming_the_first_which_goes_on(
    tmp_path, spec, episodes, resume
):
    with DatasetWriter(tmp_path, spec, resume=resume) as writer:
        writer.write_episode(episodes[0])
        words = rf"is being written by process {os.getpid()} on .* \(since "
        for overwrite in (False, True):
            second = DatasetWriter(tmp_path, spec, overwrite=overwrite, resume=resume)
            with pytest.raises(DataError, match=words), second:
                pass
        writer.write_episode(episodes[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == [CARD_NAME, "part-00000.parquet"]
    assert OfflineDataset.open(str(tmp_path)).num_episodes == 2


def test_a_refused_writer_lets_the_next_one_in(write, spec, episodes):
    path = write(spec, episodes)
    with pytest.raises(DataError, match="already holds"):
        write(spec, episodes)
    assert write(spec, episodes[:1], overwrite=True) == path
    assert not (path / LOCK_NAME).exists()


def test_the_lock_of_a_killed_writer_is_taken_over(tmp_path, spec, episodes):
    command = [sys.executable, "-c", textwrap.dedent(KILLED_WRITER), str(tmp_path), "0"]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == -signal.SIGKILL
    assert (tmp_path / LOCK_NAME).exists()
    with DatasetWriter(tmp_path, spec) as writer:
        writer.write_episode(episodes[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == [CARD_NAME, "part-00000.parquet"]


def test_a_file_system_without_locks_is_warned_of_and_written(
    write, spec, episodes, monkeypatch, caplog
):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    expected = hashes(write(spec, episodes, "locked"))
    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert hashes(write(spec, episodes, "unlocked")) == expected
    assert "cannot be locked" in caplog.text


def test_the_next_writer_cleans_up_after_a_killed_one(tmp_path, spec, episodes):
    (tmp_path / ".writing").mkdir()
    (tmp_path / ".writing" / "part-00000.parquet").write_bytes(b"PAR1 cut")
    with DatasetWriter(tmp_path, spec) as writer:
        writer.write_episode(episodes[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == [CARD_NAME, "part-00000.parquet"]
