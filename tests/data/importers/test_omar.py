"""The .npy folders of OMAR and OM2P."""

from __future__ import annotations

import numpy as np
import pytest

from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.stream import import_dataset
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import DataError
from tests.data.importers.layouts import assert_equal, ends, make_teams, read_back, write_omar

PREY = ((16, 2), (16, 2), (16, 2), (14, 2))


def run(path, tmp_path, **options):
    lines: list[str] = []
    out = tmp_path / "out"
    found = import_dataset(
        "omar", path, out=out, options=ImportOptions(**options), progress=lines.append
    )
    return read_back(out), found, "\n".join(lines)


def test_every_number_comes_back_with_states_and_float64_rounded(tmp_path):
    teams = make_teams([5, 5, 5], [(3, 2), (4, 1)], dtype="f8")
    folder = write_omar(tmp_path / "robots", teams, states=True)
    episodes, _, _ = run(folder, tmp_path, time_limit=5)
    assert len(episodes) == 3
    for episode, team in zip(episodes, teams, strict=True):
        assert_equal(episode, team, state=True)


def test_dones_that_are_all_zero_become_truncations_at_the_known_limit(tmp_path):
    teams = make_teams([25, 25], [(18, 2)] * 3)
    folder = write_omar(tmp_path / "simple_spread" / "medium" / "seed_0_data", teams)
    episodes, found, text = run(folder.parent, tmp_path)
    assert [ends(episode)["truncated"] for episode in episodes] == [True, True]
    assert not any(flags.any() for e in episodes for flags in e.terminateds.values())
    spec = found.spec
    assert (spec.env, spec.quality, spec.time_limit) == ("mpe/simple_spread", "medium", 25)
    assert spec.team_return == "mean over agents"
    assert spec.references["expert"] == 516.8
    assert any("terminated is never true" in notice for notice in found.notices)
    assert "no episode terminates; 2 are truncated" in text
    assert len(spec.parents) == 15
    assert "obs_0.npy sha256:" in " ".join(spec.parents)


@pytest.mark.parametrize("other", [{"team_return": "sum"}, {"time_limit": 50}])
def test_returns_that_are_formed_in_another_way_have_no_references(tmp_path, other):
    teams = make_teams([25, 25], [(18, 2)] * 3)
    folder = write_omar(tmp_path / "simple_spread" / "medium" / "seed_0_data", teams)
    _, found, _ = run(folder.parent, tmp_path, **other)
    assert found.spec.env == "mpe/simple_spread"
    assert found.spec.references == {}


def test_done_at_the_limit_is_a_truncation_and_earlier_a_termination(tmp_path):
    teams = make_teams([10, 4, 10])
    folder = write_omar(tmp_path / "set", teams, dones=[1.0, 1.0, 0.0])
    episodes, _, _ = run(folder, tmp_path, time_limit=10)
    terminated = [ends(episode)["terminated"]["agent_1"] for episode in episodes]
    assert terminated == [[], [3], []]
    assert [episode.truncated for episode in episodes] == [True, False, True]


def test_at_limit_terminated_gives_the_reading_of_the_original_loaders(tmp_path):
    teams = make_teams([10, 4])
    folder = write_omar(tmp_path / "set", teams, dones=[0.0, 0.0])
    episodes, _, _ = run(folder, tmp_path, time_limit=10, at_limit="terminated")
    assert [ends(episode)["terminated"]["agent_0"] for episode in episodes] == [[9], []]
    assert [episode.truncated for episode in episodes] == [False, True]


def test_at_limit_without_a_limit_is_refused(tmp_path):
    folder = write_omar(tmp_path / "set", make_teams([10, 4]))
    with pytest.raises(DataError, match="--at-limit terminated .* give it with --time-limit"):
        run(folder, tmp_path, at_limit="terminated")


def test_two_rewards_in_a_row_are_named(tmp_path):
    folder = write_omar(tmp_path / "set", make_teams([5]))
    np.save(folder / "rews_1.npy", np.zeros((5, 2)))
    with pytest.raises(DataError, match=r"rews_1.npy has 2 rewards in a row"):
        run(folder, tmp_path)


def test_episode_that_breaks_off_is_found_where_next_obs_disagrees(tmp_path):
    teams = make_teams([10, 3, 10])
    episodes, _, text = run(write_omar(tmp_path / "set", teams), tmp_path, time_limit=10)
    assert [len(episode) for episode in episodes] == [10, 3, 10]
    assert "1 of 3 episodes break off before 10 steps" in text
    for episode, team in zip(episodes, teams, strict=True):
        assert_equal(episode, team)


def test_without_a_limit_the_ends_come_from_next_obs_alone(tmp_path):
    teams = make_teams([6, 2, 7])
    episodes, found, text = run(write_omar(tmp_path / "set", teams), tmp_path)
    assert [len(episode) for episode in episodes] == [6, 2, 7]
    assert found.spec.time_limit is None
    assert "no time limit is known" in text


@pytest.mark.parametrize(("task", "width"), [("simple_tag", 16), ("simple_world", 24)])
def test_prey_is_left_out_by_default_and_kept_on_demand(tmp_path, task, width):
    dims = [(width, 2)] * 3 + [(14, 2)]
    teams = make_teams([25, 25], dims)
    folder = write_omar(tmp_path / task / "expert", teams)
    episodes, found, text = run(folder, tmp_path)
    assert_equal(episodes[1], teams[1], numbers=[0, 1, 2])
    assert (found.spec.env, found.spec.team_return) == (f"mpe/{task}", "agent 0")
    assert "'agent_3'] is the frozen prey" in text
    whole = import_dataset(
        "omar",
        folder,
        out=tmp_path / "all",
        options=ImportOptions(agents=("3", "agent_0")),
    )
    assert whole.spec.env is None
    assert_equal(read_back(tmp_path / "all")[0], teams[0], numbers=[3, 0])


def test_seeds_are_one_dataset_and_behaviour_ids_their_positions_in_the_card(tmp_path):
    streams = [make_teams([5, 5], seed=seed) for seed in range(3)]
    for seed, teams in zip((0, 2, 10), streams, strict=True):
        write_omar(tmp_path / "set" / f"seed_{seed}_data", teams)
    episodes, found, _ = run(tmp_path / "set", tmp_path, time_limit=5)
    assert [episode.behaviour_id for episode in episodes] == [0, 0, 1, 1, 2, 2]
    assert found.spec.seeds == {"recorded": [0, 2, 10]}
    seeds = [found.spec.seeds["recorded"][episode.behaviour_id] for episode in episodes]
    assert seeds == [0, 0, 2, 2, 10, 10]
    for episode, team in zip(episodes, [t for teams in streams for t in teams], strict=True):
        assert_equal(episode, team)


def test_column_order_and_column_vectors_read_alike(tmp_path):
    teams = make_teams([5, 5])
    folder = write_omar(tmp_path / "set", teams)
    np.save(folder / "obs_0.npy", np.asfortranarray(np.load(folder / "obs_0.npy")))
    np.save(folder / "rews_1.npy", np.load(folder / "rews_1.npy")[:, None])
    episodes, _, _ = run(folder, tmp_path, time_limit=5)
    for episode, team in zip(episodes, teams, strict=True):
        assert_equal(episode, team)


def test_actions_outside_the_box_are_an_error_unless_clipped(tmp_path):
    teams = make_teams([5])
    teams[0].actions[1][2, 0] = 1.5
    folder = write_omar(tmp_path / "set", teams)
    with pytest.raises(DataError, match=r"step 2, agent agent_1.*holds 1.5.*clip the actions"):
        run(folder, tmp_path)
    episodes, _, _ = run(folder, tmp_path, clip_actions=True)
    assert episodes[0].actions["agent_1"][2, 0] == 1.0
    wide = import_dataset(
        "omar", folder, out=tmp_path / "wide", options=ImportOptions(action_high=2.0)
    )
    assert wide.spec.agents[1].action_high == (2.0, 2.0)


def test_truncated_file_is_named_with_what_its_header_promises(tmp_path):
    folder = write_omar(tmp_path / "set", make_teams([5, 5]))
    data = (folder / "acs_1.npy").read_bytes()
    (folder / "acs_1.npy").write_bytes(data[:-9])
    with pytest.raises(DataError, match=r"acs_1.npy is cut short: .* 10 rows.*got .*copy it again"):
        run(folder, tmp_path)
    (folder / "acs_1.npy").write_bytes(data[:7])
    with pytest.raises(DataError, match=r"acs_1.npy is not a whole .npy file"):
        run(folder, tmp_path)
    assert not (tmp_path / "out").exists()


def test_agents_of_different_length_are_named(tmp_path):
    folder = write_omar(tmp_path / "set", make_teams([5, 5]))
    np.save(folder / "rews_1.npy", np.load(folder / "rews_1.npy")[:-1])
    with pytest.raises(DataError, match=r"rews_1.npy has 9 rows, but obs_0.npy has 10"):
        run(folder, tmp_path)


def test_episode_longer_than_the_limit_is_named_with_its_rows(tmp_path):
    folder = write_omar(tmp_path / "set", make_teams([5, 8]))
    with pytest.raises(
        DataError,
        match=r"set: rows 5 to 12 are one episode of 8 steps.*limit of 5.*with --time-limit\.$",
    ):
        run(folder, tmp_path, time_limit=5)


def test_missing_file_and_wrong_folder_are_named(tmp_path):
    folder = write_omar(tmp_path / "set", make_teams([5]))
    (folder / "next_obs_1.npy").unlink()
    with pytest.raises(DataError, match=r"next_obs_1.npy does not exist"):
        run(folder, tmp_path)
    with pytest.raises(DataError, match=r"holds no obs_0.npy"):
        run(tmp_path, tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "nothing", tmp_path)


def test_objects_in_a_file_are_never_unpickled(tmp_path):
    folder = write_omar(tmp_path / "set", make_teams([5]))
    np.save(folder / "obs_0.npy", np.array([{}] * 5, object), allow_pickle=True)
    with pytest.raises(DataError, match="obs_0.npy holds Python objects"):
        run(folder, tmp_path)


def test_unfitting_env_is_an_error_when_given_and_a_note_when_guessed(tmp_path):
    folder = write_omar(tmp_path / "simple_spread", make_teams([25]))
    with pytest.raises(DataError, match=r"does not fit --env mpe/simple_spread: .* 3 learned"):
        run(folder, tmp_path, env="mpe/simple_spread")
    _, found, text = run(folder, tmp_path)
    assert found.spec.env is None
    assert "no environment is entered" in text


def test_prey_shape_is_the_papers(tmp_path):
    teams = make_teams([25], PREY)
    episodes, _, _ = run(write_omar(tmp_path / "simple_tag", teams), tmp_path, agents=("3",))
    assert OfflineDataset.open(str(tmp_path / "out")).spec.agents[0].obs_dim == 14
    assert_equal(episodes[0], teams[0], numbers=[3])
