"""Broken datasets: each is made for real, and its error names the place and the remedy."""

from __future__ import annotations

import importlib.util
import json

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import (
    CARD_NAME,
    SPEC_KEY,
    VERSION_KEY,
    DataError,
    DatasetSpec,
    StorageError,
)


def open_and_read(input_):
    dataset = OfflineDataset.open(input_)
    columns = [
        f"{kind}_{name}"
        for name in dataset.spec.agent_ids
        for kind in ("obs", "action", "reward", "terminated")
    ]
    for _ in dataset.blocks([*columns, "truncated"], use_ray=False):
        pass


def replace(table, name, values):
    position = table.schema.get_field_index(name)
    return table.set_column(position, table.schema.field(position), values)


def vector(rows):
    rows = np.asarray(rows, np.float32)
    element = pa.field("element", pa.float32(), nullable=False)
    flat = pa.array(rows.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(element, rows.shape[1]))


def spoil(name, row, value):
    """Return a change of a table: one value of one column."""

    def change(table):
        rows = table[name].to_pylist()
        if isinstance(rows[row], list):
            rows[row][-1] = value
            return replace(table, name, vector(rows))
        rows[row] = value
        return replace(table, name, pa.array(rows, table.schema.field(name).type))

    return change


def keep(rows):
    return lambda table: table.take(rows(table.num_rows))


# The first file holds episode 0 (4 steps, rows 0 to 4) and episode 1 (9 steps, rows 5 to 14).
BROKEN_ROWS = [
    (spoil("obs_agent_2", 7, np.nan), "episode 1, step 2, agent agent_2: column obs_agent_2.*nan"),
    (spoil("obs_agent_10", 4, np.inf), "episode 0, step 4, agent agent_10: .*obs_agent_10.*inf"),
    (spoil("reward_agent_2", 1, -np.inf), "episode 0, step 1, agent agent_2.*reward_agent_2.*-inf"),
    (
        spoil("action_agent_2", 8, 1.75),
        r"episode 1, step 3, agent agent_2.*1.75.*outside the action space \[0.5, 1.5\]; clip",
    ),
    (spoil("action_agent_2", 4, 0.75), "episode 0, step 4, agent agent_2.*not zero on the final"),
    (spoil("reward_agent_10", 14, 1.0), "episode 1, step 9, agent agent_10.*not zero on the final"),
    (spoil("truncated", 6, True), "episode 1, step 1: truncated is true, but the episode goes on"),
    (keep(lambda n: np.arange(n - 1)), "episode 1 is cut short: it ends at step 8.*final row"),
    (keep(lambda n: np.delete(np.arange(n), 4)), "episode 0 is cut short: it ends at step 3"),
    (keep(lambda n: np.arange(2, n)), "episode 0 begins at step 2, not 0"),
    (
        keep(lambda n: np.delete(np.arange(n), 7)),
        "episode 1 is out of order: step 3 follows step 1",
    ),
    (
        keep(lambda n: np.r_[0:6, 7, 6, 8:n]),
        "episode 1 is out of order: step 2 follows step 0; sort",
    ),
    (keep(lambda n: np.r_[0:n, 0:5]), "rows of episode 0 are not contiguous; sort"),
    (spoil("valid", 8, False), "episode 1 goes on after its final row.*at step 3"),
    (keep(lambda n: np.r_[0:0, n:n]), "holds no rows"),
]


@pytest.mark.parametrize(("change", "words"), BROKEN_ROWS)
def test_broken_rows_are_named_with_file_episode_step_and_agent(
    dataset_path, rewrite, change, words
):
    rewrite(dataset_path / "part-00000.parquet", change)
    with pytest.raises(DataError, match=f"(?s)part-00000.parquet.*{words}"):
        open_and_read(str(dataset_path))


def test_an_episode_that_straddles_row_groups_is_found(dataset_path):
    path = dataset_path / "part-00000.parquet"
    pq.write_table(pq.read_table(path), path, row_group_size=8)
    with pytest.raises(DataError, match="part-00000.parquet, row group 0: episode 1 is cut short"):
        open_and_read(str(dataset_path))


def test_a_final_row_alone_is_no_episode(dataset_path, rewrite):
    def change(table):
        table = table.take(np.r_[14, 0:5])
        return replace(table, "step", pa.array([0, 0, 1, 2, 3, 4], pa.int32()))

    rewrite(dataset_path / "part-00000.parquet", change)
    with pytest.raises(DataError, match="episode 1 has a final row but no steps; leave it out"):
        open_and_read(str(dataset_path))


def test_nulls_are_found(dataset_path, rewrite):
    def change(table):
        rewards = table["reward_agent_2"].to_pylist()
        rewards[3] = None
        position = table.schema.get_field_index("reward_agent_2")
        return table.set_column(position, "reward_agent_2", pa.array(rewards, pa.float32()))

    rewrite(dataset_path / "part-00000.parquet", change)
    with pytest.raises(DataError, match="row 3, agent agent_2: column reward_agent_2 holds nulls"):
        open_and_read(str(dataset_path))


def test_a_missing_column_is_named_with_its_agent(dataset_path, rewrite):
    rewrite(dataset_path / "part-00001.parquet", lambda table: table.drop(["action_agent_2"]))
    with pytest.raises(
        DataError,
        match=r"part-00001.parquet: column action_agent_2 of agent agent_2 is missing; .*"
        r"fixed_size_list<float>\[2\]",
    ):
        OfflineDataset.open(str(dataset_path))


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        (pa.list_(pa.float64(), 2), r"float>\[2\], got fixed_size_list<double>\[2\]"),
        (pa.list_(pa.float32()), r"float>\[2\], got list<float> of any length"),
    ],
)
def test_a_column_of_another_type_is_named_with_both_types(dataset_path, rewrite, type_, words):
    def change(table):
        values = pa.array(table["obs_agent_2"].to_pylist(), type_)
        position = table.schema.get_field_index("obs_agent_2")
        return table.set_column(position, "obs_agent_2", values)

    rewrite(dataset_path / "part-00000.parquet", change)
    with pytest.raises(DataError, match=f"column obs_agent_2 of agent agent_2 must be .*{words}"):
        OfflineDataset.open(str(dataset_path))


def test_a_list_of_another_size_is_named_with_both_sizes(dataset_path, rewrite):
    def change(table):
        position = table.schema.get_field_index("obs_agent_2")
        values = vector(np.zeros((table.num_rows, 5)))
        return table.set_column(position, "obs_agent_2", values)

    rewrite(dataset_path / "part-00000.parquet", change)
    with pytest.raises(
        DataError, match=r"obs_agent_2 of agent agent_2 must be .*\[2\], got .*\[5\]"
    ):
        OfflineDataset.open(str(dataset_path))


@pytest.mark.parametrize("version", [b"2", b"soon"])
def test_an_unknown_version_is_refused(dataset_path, rewrite, version):
    def change(table):
        return table.replace_schema_metadata(table.schema.metadata | {VERSION_KEY: version})

    rewrite(dataset_path / "part-00000.parquet", change)
    with pytest.raises(
        DataError,
        match=f"part-00000.parquet: schema version '{version.decode()}' is unknown.*update",
    ):
        OfflineDataset.open(str(dataset_path))


def test_a_card_of_an_unknown_version_is_refused(dataset_path):
    card = json.loads((dataset_path / CARD_NAME).read_text()) | {"schema_version": 9}
    (dataset_path / CARD_NAME).write_text(json.dumps(card))
    with pytest.raises(DataError, match="dataset_card.json: schema version 9 is unknown"):
        OfflineDataset.open(str(dataset_path))


@pytest.mark.parametrize("spec_text", [b"{", b"[]", b'{"schema_version": 1, "colour": "red"}'])
def test_a_damaged_spec_is_refused_with_the_file(dataset_path, rewrite, spec_text):
    def change(table):
        return table.replace_schema_metadata(table.schema.metadata | {SPEC_KEY: spec_text})

    rewrite(dataset_path / "part-00000.parquet", change)
    with pytest.raises(DataError, match="part-00000.parquet: the spec"):
        OfflineDataset.open(str(dataset_path))


def test_parquet_of_another_kind_is_refused(tmp_path):
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x.parquet is Parquet but not .* contract.*import"):
        OfflineDataset.open(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize("size", [0, 3, 1000])
def test_a_cut_file_is_refused(dataset_path, size):
    path = dataset_path / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match="part-00001.parquet is not a readable Parquet file.*copy"):
        OfflineDataset.open(str(dataset_path))


def test_damaged_pages_are_refused_when_read(dataset_path):
    path = dataset_path / "part-00000.parquet"
    column = pq.read_metadata(path).row_group(0).column(2)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = (
        b"\xff" * column.total_compressed_size
    )
    path.write_bytes(data)
    with pytest.raises(DataError, match="part-00000.parquet, row group 0 cannot be read"):
        open_and_read(str(dataset_path))


@pytest.mark.parametrize("suffix", ["", "/none", "/*.parquet", "/sub/**/*.parquet"])
def test_a_path_that_does_not_exist_is_named(tmp_path, suffix):
    with pytest.raises(DataError, match="nowhere.*(does not exist|matches no file)"):
        OfflineDataset.open(f"{tmp_path}/nowhere{suffix}")


def test_an_empty_directory_is_no_dataset(tmp_path):
    with pytest.raises(DataError, match="holds no dataset.*make-dataset"):
        OfflineDataset.open(str(tmp_path))


@pytest.mark.parametrize("input_", ["", [], [""]])
def test_no_input_is_an_error(input_):
    with pytest.raises(DataError, match="give a path"):
        OfflineDataset.open(input_)


def test_a_directory_without_card_is_half_written(dataset_path):
    (dataset_path / CARD_NAME).unlink()
    with pytest.raises(DataError, match=r"no dataset_card.json: it is half-written.*\*.parquet"):
        OfflineDataset.open(str(dataset_path))


def test_a_cut_card_is_half_written(dataset_path):
    path = dataset_path / CARD_NAME
    path.write_text(path.read_text()[:100])
    with pytest.raises(DataError, match="dataset_card.json is not a whole dataset card"):
        OfflineDataset.open(str(dataset_path))


def test_a_missing_part_is_named(dataset_path):
    (dataset_path / "part-00001.parquet").unlink()
    with pytest.raises(DataError, match="incomplete.*part-00001.parquet"):
        OfflineDataset.open(str(dataset_path))


def test_a_file_that_the_card_does_not_name_is_not_ignored(dataset_path):
    stray = dataset_path / "part-00099.parquet"
    stray.write_bytes((dataset_path / "part-00000.parquet").read_bytes())
    with pytest.raises(DataError, match=r"part-00099.parquet, which its card does not name"):
        OfflineDataset.open(str(dataset_path))


def test_the_same_file_twice_is_an_error(dataset_path):
    path = str(dataset_path / "part-00000.parquet")
    with pytest.raises(DataError, match="named twice"):
        OfflineDataset.open([path, path])


def test_datasets_of_other_agents_do_not_open_together(write, spec, rich_spec, make_episode):
    first = write(spec, [make_episode(spec, 3)], "first")
    second = write(rich_spec, [make_episode(rich_spec, 3)], "second")
    with pytest.raises(
        DataError, match="(?s)do not belong together: agents is .* open them as two"
    ):
        OfflineDataset.open([str(first), str(second)])


def test_the_same_agents_in_another_order_do_not_open_together(write, spec, make_episode):
    turned = DatasetSpec(spec.dataset_id, spec.agents[::-1])
    first = write(spec, [make_episode(spec, 3)], "first")
    second = write(turned, [make_episode(turned, 3)], "second")
    with pytest.raises(DataError, match="do not belong together"):
        OfflineDataset.open([str(first), str(second)])


def test_an_unknown_scheme_is_named():
    with pytest.raises(DataError, match="no file system is known for quux://"):
        OfflineDataset.open("quux://bucket/data")


@pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is not None, reason="huggingface_hub is installed"
)
def test_a_missing_filesystem_package_is_named():
    with pytest.raises(DataError, match="reading hf:// needs a package.*huggingface_hub"):
        OfflineDataset.open("hf://datasets/someone/something")


def test_another_dataset_in_the_place_of_the_opened_one_is_noticed(
    write, dataset_path, spec, make_episode
):
    """Equal lengths, so that every row group is where it was."""
    dataset = OfflineDataset.open(str(dataset_path))
    again = [make_episode(spec, len(episode), 50) for episode in dataset.episodes()]
    write(spec, again, overwrite=True)
    with pytest.raises(DataError, match="part-00000.parquet, row group 0 .*the file was replaced"):
        list(dataset.blocks(["step"], use_ray=False))
    assert len(list(OfflineDataset.open(str(dataset_path)).blocks(["step"], use_ray=False))) > 1


class NoCredentialsError(Exception):
    """As the clients of object stores have them, of no common class."""


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), TimeoutError("no answer"), NoCredentialsError("!")],
)
def test_storage_that_cannot_be_reached_is_not_taken_for_a_damaged_file(
    dataset_path, monkeypatch, error
):
    def refuse(*_, **__):
        raise error

    memory = fsspec.filesystem("memory")
    memory.put(str(dataset_path), "/reached", recursive=True)
    dataset = OfflineDataset.open("memory://reached")
    words = f"cannot be reached \\({type(error).__name__}"
    monkeypatch.setattr(type(memory), "_open", refuse)
    with pytest.raises(StorageError, match=f"part-00000.parquet, row group 0 {words}"):
        list(dataset.blocks(["step"], use_ray=False))
    # It may be whole, so it is not left out either.
    with pytest.raises(StorageError, match=words):
        list(dataset.blocks(["step"], use_ray=False, skip_corrupt=True))
    with pytest.raises(StorageError, match=f"part-00000.parquet {words}"):
        OfflineDataset.open("memory://reached/part-00000.parquet")
    monkeypatch.setattr(type(memory), "info", refuse)
    with pytest.raises(StorageError, match=words):
        OfflineDataset.open("memory://reached")


def test_a_file_replaced_after_opening_is_noticed(dataset_path, rewrite):
    dataset = OfflineDataset.open(str(dataset_path))
    rewrite(dataset_path / "part-00000.parquet", lambda table: table.slice(0, 5))
    with pytest.raises(DataError, match="part-00000.parquet, row group 0 .*was replaced"):
        list(dataset.blocks(["step"], use_ray=False))
