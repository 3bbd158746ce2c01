"""OMIGA's hdf5: d = 1 marks an extra row, and the Ant's actuators are permuted."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from rllib_om2p.data.importers.known import ANT_ACTUATORS
from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.stream import import_dataset
from rllib_om2p.data.schema import DataError
from tests.data.importers.layouts import assert_equal, ends, make_teams, read_back, write_omiga


def run(path, tmp_path, **options):
    lines: list[str] = []
    found = import_dataset(
        "omiga",
        path,
        out=tmp_path / "out",
        options=ImportOptions(**options),
        progress=lines.append,
    )
    return read_back(tmp_path / "out"), found, "\n".join(lines)


def test_extra_row_is_the_final_observation_and_its_action_and_reward_are_dropped(tmp_path):
    teams = make_teams([8, 3, 8], shared_reward=True)
    path = write_omiga(tmp_path / "robot.hdf5", teams)
    episodes, _, _ = run(path, tmp_path, time_limit=8)
    assert len(episodes) == 3
    for episode, team in zip(episodes, teams, strict=True):
        assert_equal(episode, team, state=True)


def test_d_at_the_limit_is_a_truncation_and_earlier_a_termination(tmp_path):
    path = write_omiga(tmp_path / "robot.hdf5", make_teams([8, 3], shared_reward=True))
    episodes, _, _ = run(path, tmp_path, time_limit=8)
    assert ends(episodes[0]) == {"terminated": {"agent_0": [], "agent_1": []}, "truncated": True}
    assert ends(episodes[1]) == {"terminated": {"agent_0": [2], "agent_1": [2]}, "truncated": False}


def test_at_limit_terminated_is_the_original_loaders_reading(tmp_path):
    path = write_omiga(tmp_path / "robot.hdf5", make_teams([8, 3], shared_reward=True))
    episodes, found, _ = run(path, tmp_path, time_limit=8, at_limit="terminated")
    assert ends(episodes[0])["terminated"] == {"agent_0": [7], "agent_1": [7]}
    assert not episodes[0].truncated
    assert found.spec.behaviour["at_limit"] == "terminated"


def test_missing_final_row_at_the_end_of_the_file_is_replaced_by_the_last_row(tmp_path):
    teams = make_teams([8, 5], shared_reward=True)
    path = write_omiga(tmp_path / "robot.hdf5", teams, last_is_whole=False)
    episodes, _, text = run(path, tmp_path, time_limit=8)
    assert_equal(episodes[1], teams[1], state=True)
    assert episodes[1].truncated
    assert not episodes[1].terminateds["agent_0"].any()
    assert "rows 9 to 14 have no final row" in text


def test_shared_reward_and_done_may_be_flat(tmp_path):
    teams = make_teams([4], shared_reward=True)
    path = write_omiga(tmp_path / "robot.hdf5", teams)
    with h5py.File(path, "a") as file:
        for key in "rd":
            flat = file[key][:, 0, 0]
            del file[key]
            file[key] = flat
    episodes, _, _ = run(path, tmp_path, time_limit=4)
    assert_equal(episodes[0], teams[0], state=True)


def test_names_tell_task_and_quality(tmp_path):
    teams = make_teams([6], [(14, 1)] * 3, shared_reward=True)
    path = write_omiga(tmp_path / "Hopper-v2-3x1-medium-replay.hdf5", teams)
    _, found, _ = run(path, tmp_path)
    assert (found.spec.env, found.spec.quality) == ("mamujoco/3x1-Hopper", "medium-replay")
    assert found.spec.time_limit == 1000


def test_ant_moves_the_same_actuators_as_where_it_was_recorded(tmp_path):
    teams = make_teams([6], [(113, 4)] * 2, shared_reward=True)
    path = write_omiga(tmp_path / "Ant-v2-2x4-expert.hdf5", teams)
    episodes, found, text = run(path, tmp_path)
    ours = np.concatenate([episodes[0].actions[f"agent_{i}"] for i in (0, 1)], axis=1)
    recorded = np.concatenate(teams[0].actions, axis=1)
    # Where it was recorded, feature k drove actuator k; ours drives it with ANT_ACTUATORS[k].
    np.testing.assert_array_equal(ours[:, ANT_ACTUATORS], recorded)
    assert "moved to the actuators [6, 7, 0, 1, 2, 3, 4, 5]" in text
    assert found.spec.behaviour["actuators"] == list(ANT_ACTUATORS)


def test_ant_keeps_its_actions_on_demand(tmp_path):
    teams = make_teams([6], [(113, 4)] * 2, shared_reward=True)
    path = write_omiga(tmp_path / "Ant-v2-2x4-expert.hdf5", teams)
    episodes, _, _ = run(path, tmp_path, actuators=range(8))
    assert_equal(episodes[0], teams[0], state=True)


def test_actuators_must_be_as_many_as_the_teams_features(tmp_path):
    path = write_omiga(tmp_path / "robot.hdf5", make_teams([4], shared_reward=True))
    with pytest.raises(DataError, match=r"--actuators must have 4 places.*got 2"):
        run(path, tmp_path, actuators=(1, 0))


def test_file_without_a_key_is_named(tmp_path):
    path = write_omiga(tmp_path / "robot.hdf5", make_teams([4], shared_reward=True))
    with h5py.File(path, "a") as file:
        del file["r"]
    with pytest.raises(DataError, match=r"robot.hdf5 lacks \['r'\], expected .*got \['a', 'd'"):
        run(path, tmp_path)


def test_truncated_hdf5_is_named(tmp_path):
    path = write_omiga(tmp_path / "robot.hdf5", make_teams([40], shared_reward=True))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"robot.hdf5 is not a whole hdf5 file.*Copy it again"):
        run(path, tmp_path)


def test_keys_of_different_length_are_named(tmp_path):
    path = write_omiga(tmp_path / "robot.hdf5", make_teams([4], shared_reward=True))
    with h5py.File(path, "a") as file:
        short = file["a"][:-1]
        del file["a"]
        file["a"] = short
    with pytest.raises(DataError, match="equally many rows, got .*'a': 4, 'r': 5"):
        run(path, tmp_path)


def test_no_end_at_all_is_an_error(tmp_path):
    path = write_omiga(
        tmp_path / "robot.hdf5", make_teams([4], shared_reward=True), last_is_whole=False
    )
    with pytest.raises(DataError, match="d is 0 everywhere"):
        run(path, tmp_path)


def test_episode_longer_than_the_limit_is_named(tmp_path):
    path = write_omiga(tmp_path / "robot.hdf5", make_teams([4, 9], shared_reward=True))
    with pytest.raises(
        DataError, match=r"rows 5 to 13 are one episode of 9 steps.*with --time-limit\.$"
    ):
        run(path, tmp_path, time_limit=8)


def test_flag_on_the_last_step_in_place_of_an_extra_row_is_noticed(tmp_path):
    path = write_omiga(tmp_path / "robot.hdf5", make_teams([7, 7], shared_reward=True))
    _, _, text = run(path, tmp_path, time_limit=8)
    assert "most episodes have 7 steps, one less than the time limit" in text
