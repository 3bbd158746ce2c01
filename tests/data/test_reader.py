"""The reader: what was written comes back, from anywhere, in shards of whole episodes."""

from __future__ import annotations

import dataclasses
import shutil

import fsspec
import numpy as np
import pyarrow.fs as pafs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rllib_om2p.data import reader
from rllib_om2p.data.decode import decode
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import AgentSpec, DataError, DatasetSpec, Episode
from rllib_om2p.data.writer import DatasetWriter

COLUMNS = ["obs_agent_2", "action_agent_10", "reward_agent_2", "terminated_agent_2", "truncated"]


def assert_equal_episodes(actual, expected):
    for field in ("obs", "actions", "rewards", "terminateds", "action_masks", "alive"):
        ours, theirs = getattr(actual, field), getattr(expected, field)
        assert (ours is None) == (theirs is None)
        for name in ours or {}:
            assert ours[name].dtype == theirs[name].dtype
            assert ours[name].tobytes() == theirs[name].tobytes()
        assert set(ours or {}) == set(theirs or {})
    assert actual.truncated == expected.truncated
    assert (actual.state is None) == (expected.state is None)
    if actual.state is not None:
        assert actual.state.tobytes() == expected.state.tobytes()
    assert actual.behaviour_id == expected.behaviour_id


def all_rows(dataset, columns, **settings):
    return np.concatenate([block.rows for block in dataset.blocks(columns, **settings)])


@pytest.mark.parametrize("kind", ["spec", "rich_spec"])
def test_episodes_come_back_bit_for_bit(request, write, make_episode, kind):
    spec = request.getfixturevalue(kind)
    written = [make_episode(spec, length, length) for length in (1, 7, 12, 3, 9)]
    dataset = OfflineDataset.open(str(write(spec, written)))
    assert dataset.spec == spec
    assert (dataset.num_episodes, dataset.num_transitions) == (5, 32)
    back = list(dataset.episodes())
    assert [episode.episode_id for episode in back] == [0, 1, 2, 3, 4]
    for actual, expected in zip(back, written, strict=True):
        assert_equal_episodes(actual, expected)


@given(
    data=st.data(),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    rows_per_group=st.integers(2, 30),
)
def test_any_finite_float_survives_any_grouping(tmp_path_factory, data, lengths, rows_per_group):
    spec = DatasetSpec("test/any", (AgentSpec.box("a", 2, 1),))
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
    written = [
        Episode(
            obs={"a": data.draw(hnp.arrays(np.float32, (length + 1, 2), elements=floats))},
            actions={"a": np.zeros((length, 1), np.float32)},
            rewards={"a": data.draw(hnp.arrays(np.float32, (length,), elements=floats))},
            terminateds={"a": np.zeros(length, bool)},
            truncated=True,
        )
        for length in lengths
    ]
    path = tmp_path_factory.mktemp("any")
    with DatasetWriter(path, spec, rows_per_group=rows_per_group, rows_per_file=40) as writer:
        for episode in written:
            writer.write_episode(episode)
    back = list(OfflineDataset.open(str(path)).episodes())
    for actual, expected in zip(back, written, strict=True):
        assert_equal_episodes(actual, expected)


def test_next_obs_is_the_row_below(dataset_path, episodes):
    dataset = OfflineDataset.open(str(dataset_path))
    rows, valid = [], []
    for block in dataset.blocks(["obs_agent_2"], use_ray=False):
        rows.append(block.rows)
        valid.append(block.valid)
    rows, valid = np.concatenate(rows), np.concatenate(valid)
    next_obs = rows[np.flatnonzero(valid) + 1]
    expected = np.concatenate([episode.obs["agent_2"][1:] for episode in episodes])
    assert next_obs.tobytes() == expected.tobytes()


def test_packed_columns_stand_in_the_order_asked_for(dataset_path, episodes):
    dataset = OfflineDataset.open(str(dataset_path))
    block = next(dataset.blocks(COLUMNS, use_ray=False))
    assert block.rows.dtype == np.float32
    assert block.rows.shape[1] == 7
    assert block.rows.flags.c_contiguous
    first = episodes[0]
    steps = len(first)
    assert np.array_equal(block.rows[: steps + 1, 0:2], first.obs["agent_2"])
    assert np.array_equal(block.rows[:steps, 2:4], first.actions["agent_10"])
    assert np.array_equal(block.rows[:steps, 4], first.rewards["agent_2"])
    assert np.array_equal(block.rows[:steps, 5], first.terminateds["agent_2"])
    assert block.rows[:steps, 6].tolist() == [0] * (steps - 1) + [first.truncated]
    assert not block.rows[steps, 2:].any()
    assert block.valid[: steps + 1].tolist() == [True] * steps + [False]
    assert block.source.endswith("part-00000.parquet, row group 0")


def test_discrete_actions_are_packed_one_hot(write, rich_spec, make_episode):
    episode = make_episode(rich_spec, 5)
    dataset = OfflineDataset.open(str(write(rich_spec, [episode])))
    rows = all_rows(dataset, ["action_walker"], use_ray=False)
    assert np.array_equal(rows[:-1], np.eye(4)[episode.actions["walker"]])
    assert not rows[-1].any()


def test_optional_columns_are_packed_as_numbers(write, rich_spec, make_episode):
    episode = make_episode(rich_spec, 5)
    dataset = OfflineDataset.open(str(write(rich_spec, [episode])))
    names = ["state", "action_mask_walker", "alive_flyer", "behaviour_id", "step"]
    rows = all_rows(dataset, names, use_ray=False)
    assert np.array_equal(rows[:, 0:3], episode.state)
    assert np.array_equal(rows[:, 3:7], episode.action_masks["walker"])
    assert np.array_equal(rows[:, 7], episode.alive["flyer"])
    assert rows[:, 8].tolist() == [episode.behaviour_id] * 6
    assert rows[:, 9].tolist() == [0, 1, 2, 3, 4, 5]


def test_only_asked_columns_are_read(dataset_path):
    dataset = OfflineDataset.open(str(dataset_path))
    episode = next(dataset.episodes(["reward_agent_2"]))
    assert set(episode.rewards) == {"agent_2"}
    assert episode.obs == {}
    assert len(episode) == 4


def test_flags_are_looked_up_in_the_footers(write, spec, make_episode, monkeypatch):
    """Only a row group that holds a true one is read, and not for rows that do not count."""
    name = f"terminated_{spec.agent_ids[0]}"
    episodes = [dataclasses.replace(make_episode(spec, 5), truncated=True) for _ in range(4)]
    for episode in episodes:
        for ends in episode.terminateds.values():
            ends[:] = False
    episodes[2].terminateds[spec.agent_ids[0]][-1] = True
    read = []
    monkeypatch.setattr(
        reader, "decode", lambda rows, *rest: read.append(rows.group) or decode(rows, *rest)
    )
    dataset = OfflineDataset.open(str(write(spec, episodes, rows_per_group=6)))
    read.clear()
    assert dataset.is_ever_true([name])
    assert read == [2]
    assert not dataset.is_ever_true([f"terminated_{spec.agent_ids[1]}"])
    without = dataset._part(np.array([True, True, False, True]))
    assert not without.is_ever_true([name])
    assert read == [2]
    together = OfflineDataset.open(str(write(spec, episodes, rows_per_group=12, overwrite=True)))
    read.clear()
    assert not together._part(np.array([True, True, False, True])).is_ever_true([name])
    assert read == [1]


def test_shuffling_permutes_blocks_and_follows_the_seed(write, spec, make_episode):
    written = [make_episode(spec, 9, seed) for seed in range(20)]
    dataset = OfflineDataset.open(str(write(spec, written)))

    def order(seed):
        blocks = dataset.blocks(["reward_agent_2"], shuffle_seed=seed, use_ray=False)
        return [block.source for block in blocks]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == order(None)


@given(
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=12),
    num_shards=st.integers(1, 12),
)
def test_shards_are_whole_episodes_that_add_up(tmp_path_factory, lengths, num_shards):
    num_shards = min(num_shards, len(lengths))
    spec = DatasetSpec("test/shards", (AgentSpec.box("a", 1, 1),))
    path = tmp_path_factory.mktemp("shards")
    with DatasetWriter(path, spec, rows_per_group=20, rows_per_file=40) as writer:
        for length in lengths:
            zeros = {"a": np.zeros((1, length))}
            writer.write_batch(
                {"a": np.zeros((1, length + 1, 1))},
                {"a": np.zeros((1, length, 1))},
                zeros,
                {"a": np.zeros((1, length), bool)},
                truncated=np.array([True]),
            )
    dataset = OfflineDataset.open(str(path))
    shards = []
    for rank in range(num_shards):
        blocks = list(dataset.blocks(["step"], rank=rank, num_shards=num_shards, use_ray=False))
        ids = np.concatenate([block.episode_ids for block in blocks])
        assert all(block.rows[0] == 0 and not block.valid[-1] for block in blocks)
        shards.append(ids)
    assert all(len(ids) for ids in shards)
    expected = np.repeat(np.arange(len(lengths)), np.array(lengths) + 1)
    assert np.concatenate(shards).tolist() == expected.tolist()


def test_shards_have_about_the_same_number_of_transitions(write, spec, make_episode):
    lengths = [3, 40, 5, 5, 30, 8, 2, 27, 4, 36]
    written = [make_episode(spec, length) for length in lengths]
    dataset = OfflineDataset.open(str(write(spec, written)))
    sizes = [
        sum(int(block.valid.sum()) for block in dataset.blocks(["step"], rank=r, num_shards=4))
        for r in range(4)
    ]
    assert sum(sizes) == 160
    assert max(abs(size - 40) for size in sizes) <= 20


def test_a_shard_reads_only_the_row_groups_it_touches(write, spec, make_episode):
    dataset = OfflineDataset.open(str(write(spec, [make_episode(spec, 9) for _ in range(8)])))
    sources = [
        [b.source for b in dataset.blocks(["step"], rank=rank, num_shards=4, use_ray=False)]
        for rank in range(4)
    ]
    assert [len(names) for names in sources] == [1, 1, 1, 1]
    assert len({names[0] for names in sources}) == 4


def test_more_shards_than_episodes_is_an_error_with_both_numbers(dataset_path):
    dataset = OfflineDataset.open(str(dataset_path))
    with pytest.raises(DataError, match="6 episodes.*7 shards.*between 1 and 6 learners"):
        dataset.blocks(["step"], num_shards=7)


@pytest.mark.parametrize("columns", [[], ["step", "step"], ["episode_id"], ["obs_agent_3"]])
def test_impossible_columns_are_refused_at_once(dataset_path, columns):
    with pytest.raises(DataError):
        OfflineDataset.open(str(dataset_path)).blocks(columns)


def test_paths_globs_lists_and_uris_open_the_same_dataset(dataset_path, monkeypatch):
    files = sorted(str(path) for path in dataset_path.glob("*.parquet"))
    monkeypatch.chdir(dataset_path.parent)
    expected = OfflineDataset.open(str(dataset_path))
    for input_ in (
        f"{dataset_path}/",
        dataset_path,
        "data",
        "./data/../data",
        f"{dataset_path}/*.parquet",
        f"{dataset_path.parent}/d*/part-0000[0-9].parquet",
        f"{dataset_path.parent}/**/*.parquet",
        files,
        f"file://{dataset_path}",
        f"file://{dataset_path}/*.parquet",
    ):
        dataset = OfflineDataset.open(input_)
        assert dataset.fingerprint == expected.fingerprint
        assert dataset.num_episodes == 6
        assert np.array_equal(all_rows(dataset, COLUMNS), all_rows(expected, COLUMNS))


def test_a_relative_glob_in_a_given_file_system_is_found(dataset_path, monkeypatch):
    monkeypatch.chdir(dataset_path)
    found = OfflineDataset.open("*.parquet", filesystem=pafs.LocalFileSystem())
    assert found.num_episodes == OfflineDataset.open(str(dataset_path)).num_episodes
    below = pafs.SubTreeFileSystem(str(dataset_path), pafs.LocalFileSystem())
    assert OfflineDataset.open("*.parquet", filesystem=below).fingerprint == found.fingerprint


def test_a_path_with_glob_characters_is_taken_literally_if_it_exists(dataset_path):
    odd = dataset_path.parent / "data [v1]"
    shutil.copytree(dataset_path, odd)
    assert OfflineDataset.open(str(odd)).num_episodes == 6
    assert OfflineDataset.open(f"file://{odd}").num_episodes == 6


def test_file_uris_are_decoded_and_may_name_this_host(dataset_path):
    odd = dataset_path.parent / "dätä mit [raum] 100%"
    shutil.copytree(dataset_path, odd)
    for input_ in (
        odd.as_uri(),
        f"file://localhost{odd}",
        odd.as_uri().replace("file://", "file://localhost"),
        f"{(odd / 'part').as_uri()}*.parquet".replace("%5B", "[[]"),
    ):
        assert OfflineDataset.open(input_).num_episodes == 6


def test_a_file_uri_that_is_not_encoded_is_taken_as_it_is_if_nothing_else_exists(dataset_path):
    odd, decoded = (dataset_path.parent / name for name in ("a%20b", "a b"))
    shutil.copytree(dataset_path, odd)
    assert OfflineDataset.open(f"file://{odd}").num_episodes == 6
    decoded.mkdir()
    with pytest.raises(DataError, match="holds no dataset"):
        OfflineDataset.open(f"file://{odd}")
    assert OfflineDataset.open(odd.as_uri()).num_episodes == 6


def test_a_single_file_opens(dataset_path):
    dataset = OfflineDataset.open(str(dataset_path / "part-00001.parquet"))
    assert 0 < dataset.num_episodes < 6


def test_files_in_an_fsspec_filesystem_open_by_uri(dataset_path):
    memory = fsspec.filesystem("memory")
    memory.put(str(dataset_path), "/bucket/data", recursive=True)
    try:
        expected = OfflineDataset.open(str(dataset_path))
        for input_ in ("memory://bucket/data", "memory://bucket/data/*.parquet"):
            dataset = OfflineDataset.open(input_)
            assert dataset.fingerprint == expected.fingerprint
            assert np.array_equal(all_rows(dataset, COLUMNS), all_rows(expected, COLUMNS))
        for filesystem in (memory, pafs.PyFileSystem(pafs.FSSpecHandler(memory))):
            assert OfflineDataset.open("/bucket/data", filesystem=filesystem).num_episodes == 6
    finally:
        memory.rm("/bucket", recursive=True)


def written_fingerprint(write, spec, episodes):
    """Return the fingerprint of episodes that are written with a spec."""
    return OfflineDataset.open(str(write(spec, episodes, "written", overwrite=True))).fingerprint


def test_fingerprint_follows_the_content_and_not_the_place(write, spec, episodes, tmp_path):
    path = write(spec, episodes)
    fingerprint = OfflineDataset.open(str(path)).fingerprint
    shutil.copytree(path, tmp_path / "moved")
    assert OfflineDataset.open(str(tmp_path / "moved")).fingerprint == fingerprint
    episodes[0].rewards["agent_2"][0] += 1
    other = write(spec, episodes, "other")
    episodes[0].rewards["agent_2"][0] -= 1
    assert OfflineDataset.open(str(other)).fingerprint != fingerprint


@pytest.mark.parametrize(
    "said",
    [
        {"package_versions": {"numpy": "1.0"}},
        {"behaviour": {"policies": ["expert"], "expert": {"algorithm": "MASAC"}}},
        {"seeds": {"training": 3, "planned_episodes": 7}},
        {"references": {"random": 0.0, "expert": 1.0, "source": "ours"}},
        {"mixture": {"expert": 0.5}, "parents": ["another"]},
    ],
    ids=lambda said: next(iter(said)),
)
def test_fingerprint_does_not_follow_where_the_rows_come_from(write, spec, episodes, said):
    told = dataclasses.replace(spec, **said)
    assert told != spec
    assert written_fingerprint(write, told, episodes) == written_fingerprint(write, spec, episodes)


@pytest.mark.parametrize(
    "meant",
    [
        {"dataset_id": "test/another"},
        {"team_return": "sum"},
        {"time_limit": 25},
        {"env": "mpe/simple_spread"},
        {"env": "mpe/simple_spread", "env_kwargs": {"dynamics": "mpe2"}},
    ],
    ids=lambda meant: next(reversed(meant)),
)
def test_fingerprint_follows_what_the_rows_mean(write, spec, episodes, meant):
    other = dataclasses.replace(spec, **meant)
    assert other != spec
    assert written_fingerprint(write, other, episodes) != written_fingerprint(write, spec, episodes)


def test_datasets_of_the_same_agents_open_together(write, spec, episodes, make_episode):
    first = write(spec, episodes, "first")
    second = write(
        DatasetSpec("test/pair/expert", spec.agents), [make_episode(spec, 4)] * 2, "second"
    )
    both = OfflineDataset.open([str(first), str(second)])
    assert both.num_episodes == 8
    assert both.spec.agents == spec.agents
    assert both.spec.dataset_id == "test/pair/medium + test/pair/expert"
    assert both.statistics().num_transitions == 48


def test_datasets_that_are_opened_together_say_only_what_all_of_them_say(write, spec, episodes):
    variants = (
        dataclasses.replace(spec, dataset_id="m", time_limit=9, behaviour={"who": "medium"}),
        dataclasses.replace(spec, dataset_id="e", quality="expert", behaviour={"who": "expert"}),
    )
    paths = [str(write(variant, episodes, variant.dataset_id)) for variant in variants]
    for order in (paths, paths[::-1]):
        united = OfflineDataset.open(order).spec
        assert (united.quality, united.behaviour, united.time_limit) == ("", {}, None)
        assert (united.references, united.seeds) == (spec.references, spec.seeds)
        assert united.parents == united.dataset_id.split(" + ")


def ids_of(dataset, **settings):
    blocks = dataset.blocks(COLUMNS, **settings)
    return [int(i) for block in blocks for i in np.unique(block.episode_ids)]


def test_split_parts_are_whole_disjoint_and_complete(write, spec, make_episode):
    written = [make_episode(spec, length, length) for length in (3, 9, 4, 1, 7, 5, 2, 8, 6, 10)]
    dataset = OfflineDataset.open(str(write(spec, written, rows_per_group=20)))
    kept, held_out = dataset.split(0.3)
    assert (kept.num_episodes, held_out.num_episodes) == (7, 3)
    assert kept.num_transitions + held_out.num_transitions == dataset.num_transitions
    assert sorted(ids_of(kept) + ids_of(held_out)) == list(range(10))
    for part in (kept, held_out):
        for episode in part.episodes():
            assert_equal_episodes(episode, written[episode.episode_id])
        lengths = [len(episode) for episode in part.episodes()]
        assert part.statistics().episode_length.mean == np.mean(lengths)
        sharded = [ids_of(part, rank=rank, num_shards=2) for rank in range(2)]
        assert sum(sharded, []) == ids_of(part)
        sizes = [sum(part.block_rows(rank=rank, num_shards=2)) for rank in range(2)]
        assert sizes == [len(all_rows(part, COLUMNS, rank=r, num_shards=2)) for r in range(2)]


def test_a_part_can_be_split_again(write, spec, make_episode):
    written = [make_episode(spec, 3, number) for number in range(40)]
    dataset = OfflineDataset.open(str(write(spec, written, rows_per_group=20)))
    rest, test = dataset.split(0.25)
    train, validation = rest.split(0.25)
    parts = [ids_of(part) for part in (train, validation, test)]
    assert [len(part) for part in parts] == [22, 8, 10]
    assert sorted(sum(parts, [])) == list(range(40))
    assert train.statistics().num_transitions == train.num_transitions == 66


def test_split_is_the_same_every_time_and_not_the_end_of_the_file(write, spec, make_episode):
    path = str(write(spec, [make_episode(spec, 2, i) for i in range(40)], rows_per_group=30))
    first, second = (ids_of(OfflineDataset.open(path).split(0.25)[1]) for _ in range(2))
    assert first == second
    assert len(first) == 10
    assert min(first) < 20 <= max(first)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 0.99])
def test_split_without_episodes_on_both_sides_is_refused(dataset_path, fraction):
    with pytest.raises(DataError, match="held-out fraction must be in"):
        OfflineDataset.open(str(dataset_path)).split(fraction)
