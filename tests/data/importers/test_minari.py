"""Minari datasets, written by Minari itself."""

from __future__ import annotations

import json

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.stream import import_dataset
from rllib_om2p.data.schema import DataError
from tests.data.importers.layouts import assert_equal, ends, make_teams, read_back

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari.*")

# Minari sorts agent_10 before agent_2, as strings; the dims tell them apart.
NAMES = ("agent_2", "agent_10")
DIMS = ((4, 2), (3, 1))


def write(monkeypatch, folder, teams, *, flags, discrete=False, low=-1.0, **settings):
    """Write episodes that end with (terminated, truncated); return the dataset's folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    obs_space = {
        n: spaces.Box(-np.inf, np.inf, (d,)) for n, (d, _) in zip(NAMES, DIMS, strict=True)
    }
    boxes = {n: spaces.Box(low, 1.0, (a,)) for n, (_, a) in zip(NAMES, DIMS, strict=True)}
    if discrete:
        boxes["agent_10"] = spaces.Discrete(3)
    buffers = []
    for team, (terminated, truncated) in zip(teams, flags, strict=True):
        steps = len(team.rewards[0])
        last = np.eye(steps, dtype=bool)[-1]
        actions = dict(zip(NAMES, team.actions, strict=True))
        if discrete:
            actions["agent_10"] = np.arange(steps) % 3
        buffers.append(
            EpisodeBuffer(
                observations=dict(zip(NAMES, team.obs, strict=True)),
                actions=actions,
                rewards=team.rewards[0],
                terminations=last & terminated,
                truncations=last & truncated,
                infos={"state": team.state},
            )
        )
    minari.create_dataset_from_buffers(
        "pair/medium-v0",
        buffers,
        env=None,
        observation_space=spaces.Dict(obs_space),
        action_space=spaces.Dict(boxes),
        algorithm_name="made up",
        author="nobody",
        author_email="nobody@example.org",
        code_permalink="https://example.org",
        **settings,
    )
    return folder / "pair" / "medium-v0"


def run(path, tmp_path, **options):
    found = import_dataset("minari", path, out=tmp_path / "out", options=ImportOptions(**options))
    return read_back(tmp_path / "out"), found


def test_every_number_of_unequal_agents_comes_back_in_the_order_of_their_numbers(
    monkeypatch, tmp_path
):
    teams = make_teams([6, 3, 4], DIMS, shared_reward=True)
    flags = [(False, True), (True, False), (False, False)]
    path = write(monkeypatch, tmp_path / "minari", teams, flags=flags)
    episodes, found = run(path, tmp_path)
    assert found.spec.agent_ids == NAMES
    assert found.spec.agents[0].action_low == (-1.0, -1.0)
    assert found.spec.behaviour["algorithm_name"] == "made up"
    for episode, team in zip(episodes, teams, strict=True):
        assert_equal(episode, team, names=NAMES, state=True)


def test_terminations_and_truncations_keep_their_meaning_and_no_flag_is_a_truncation(
    monkeypatch, tmp_path
):
    teams = make_teams([6, 3, 4], DIMS, shared_reward=True)
    flags = [(False, True), (True, False), (False, False)]
    episodes, _ = run(write(monkeypatch, tmp_path / "minari", teams, flags=flags), tmp_path)
    assert [ends(episode)["terminated"]["agent_10"] for episode in episodes] == [[], [2], []]
    assert [episode.truncated for episode in episodes] == [True, False, True]


def rewrite(path, key, value):
    """Store another value, an array or one per agent, in the first episode."""
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        episode = file["episode_0"]
        del episode[key]
        for name, array in value.items() if isinstance(value, dict) else ():
            episode[f"{key}/{name}"] = array
        if not isinstance(value, dict):
            episode[key] = value


def test_rewards_may_be_a_group_per_agent(monkeypatch, tmp_path):
    teams = make_teams([6], DIMS)
    path = write(monkeypatch, tmp_path / "minari", teams, flags=[(False, True)])
    rewrite(path, "rewards", dict(zip(NAMES, teams[0].rewards, strict=True)))
    (episode,), _ = run(path, tmp_path)
    assert_equal(episode, teams[0], names=NAMES, state=True)


def test_rewards_side_by_side_are_taken_only_where_their_order_is_clear(monkeypatch, tmp_path):
    teams = make_teams([6], DIMS)
    path = write(monkeypatch, tmp_path / "minari", teams, flags=[(False, True)])
    rewrite(path, "rewards", np.stack(teams[0].rewards, axis=1))
    with pytest.raises(DataError, match=r"rewards must be .* \(6, 2\), .* which column is whose"):
        run(path, tmp_path)
    metadata = path / "data" / "metadata.json"
    values = json.loads(metadata.read_text())
    for key in ("observation_space", "action_space"):
        space = json.loads(values[key])
        space["subspaces"] = {name: space["subspaces"][name] for name in NAMES}
        values[key] = json.dumps(space)
    metadata.write_text(json.dumps(values))
    (episode,), _ = run(path, tmp_path)
    assert_equal(episode, teams[0], names=NAMES, state=True)


def test_discrete_actions_and_a_chosen_agent(monkeypatch, tmp_path):
    teams = make_teams([6], DIMS, shared_reward=True)
    path = write(monkeypatch, tmp_path / "minari", teams, flags=[(False, True)], discrete=True)
    episodes, found = run(path, tmp_path, agents=("agent_10",))
    assert found.spec.agents[0].num_actions == 3
    np.testing.assert_array_equal(episodes[0].actions["agent_10"], np.arange(6) % 3)


def test_infinite_action_box_must_be_declared(monkeypatch, tmp_path):
    teams = make_teams([6], DIMS, shared_reward=True)
    path = write(monkeypatch, tmp_path / "minari", teams, flags=[(False, True)], low=-np.inf)
    with pytest.raises(DataError, match="action box of agent_2 must be finite.*--action-low"):
        run(path, tmp_path)
    _, found = run(path, tmp_path, action_low=-1.0)
    assert found.spec.agents[0].action_low == (-1.0, -1.0)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("actions/agent_10", r"episode_0: actions lacks agent agent_10"),
        ("rewards", r"episode_0 lacks rewards, it holds \['actions'"),
    ],
)
def test_file_without_a_key_is_named(monkeypatch, tmp_path, key, words):
    teams = make_teams([6], DIMS, shared_reward=True)
    path = write(monkeypatch, tmp_path / "minari", teams, flags=[(False, True)])
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0"][key]
    with pytest.raises(DataError, match=words):
        run(path, tmp_path)


def test_agents_of_different_length_are_named(monkeypatch, tmp_path):
    teams = make_teams([6], DIMS, shared_reward=True)
    path = write(monkeypatch, tmp_path / "minari", teams, flags=[(False, True)])
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        group = file["episode_0"]["actions"]
        short = group["agent_10"][:-1]
        del group["agent_10"]
        group["agent_10"] = short
    with pytest.raises(DataError, match="actions of agent agent_10 have 5 steps, expected 6"):
        run(path, tmp_path)


@pytest.mark.parametrize("key", ["terminations", "truncations"])
def test_flags_of_another_length_are_named(monkeypatch, tmp_path, key):
    teams = make_teams([6], DIMS, shared_reward=True)
    path = write(monkeypatch, tmp_path / "minari", teams, flags=[(False, True)])
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        flags = file["episode_0"][key][:-1]
        del file["episode_0"][key]
        file["episode_0"][key] = flags
    with pytest.raises(DataError, match=rf"episode_0: {key} of .* have 5 steps, expected 6"):
        run(path, tmp_path)


def test_episode_without_steps_is_named(monkeypatch, tmp_path):
    teams = make_teams([6, 3], DIMS, shared_reward=True)
    path = write(monkeypatch, tmp_path / "minari", teams, flags=[(False, True)] * 2)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        episode = file["episode_1"]
        lengths = {f"observations/{name}": 1 for name in NAMES} | {
            key: 0
            for key in (*(f"actions/{n}" for n in NAMES), "rewards", "terminations", "truncations")
        }
        for key, length in lengths.items():
            values = episode[key][:length]
            del episode[key]
            episode[key] = values
    with pytest.raises(DataError, match="episode_1 has no steps; write the dataset again without"):
        run(path, tmp_path)


def test_missing_episodes_other_formats_and_long_episodes_are_named(monkeypatch, tmp_path):
    teams = make_teams([6, 3], DIMS, shared_reward=True)
    flags = [(False, True)] * 2
    path = write(monkeypatch, tmp_path / "minari", teams, flags=flags)
    with pytest.raises(DataError, match="episode_0 has 6 steps, expected at most .* limit of 5"):
        run(path, tmp_path, time_limit=5)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1"]
    with pytest.raises(DataError, match="holds 1 episodes, but metadata.json promises 2"):
        run(path, tmp_path)
    metadata = path / "data" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"data_format": "arrow"}))
    with pytest.raises(DataError, match="stored as arrow, expected hdf5"):
        run(path, tmp_path)
    with pytest.raises(DataError, match="is no Minari dataset"):
        run(tmp_path, tmp_path)
