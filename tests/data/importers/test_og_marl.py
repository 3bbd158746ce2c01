"""OG-MARL's vaults: padding in time and in features, and no final observations."""

from __future__ import annotations

import numpy as np
import pytest
import tensorstore

from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.stream import import_dataset
from rllib_om2p.data.schema import DataError
from tests.data.importers.layouts import assert_equal, ends, make_teams, read_back, write_vault


def run(path, tmp_path, **options):
    lines: list[str] = []
    found = import_dataset(
        "og-marl",
        path,
        out=tmp_path / "out",
        options=ImportOptions(**options),
        progress=lines.append,
    )
    return read_back(tmp_path / "out"), found, "\n".join(lines)


def write_flags(vault, name, flags) -> None:
    store = {"driver": "ocdbt", "base": f"file://{vault}/", "path": name}
    leaf = tensorstore.open(
        {"driver": "zarr", "kvstore": store}, create=True, shape=flags.shape, dtype="bool"
    ).result()
    leaf.write(flags).result()


def test_rows_after_the_vault_index_are_padding(tmp_path):
    teams = make_teams([5, 5])
    vault = write_vault(tmp_path / "set.vlt" / "Good", [teams], extra_rows=7)
    episodes, found, _ = run(vault, tmp_path, time_limit=5)
    assert found.statistics.num_episodes == 2
    for episode, team in zip(episodes, teams, strict=True):
        assert_equal(episode, team, steps=4, state=True)


def test_missing_final_observation_after_a_truncation_is_the_last_steps_own(tmp_path):
    teams = make_teams([5])
    episodes, _, text = run(write_vault(tmp_path / "set", [teams]), tmp_path, time_limit=5)
    assert_equal(episodes[0], teams[0], steps=4, state=True)
    assert ends(episodes[0]) == {"terminated": {"agent_0": [], "agent_1": []}, "truncated": True}
    assert "1 of 1 episodes lose the action and reward of their last step" in text


def test_missing_final_observation_after_a_termination_is_never_bootstrapped_from(tmp_path):
    teams = make_teams([5, 4])
    vault = write_vault(tmp_path / "set", [teams], terminal=[True, True])
    episodes, _, text = run(vault, tmp_path)
    for episode, team in zip(episodes, teams, strict=True):
        assert_equal(episode, team, repeated=True, state=True)
        last = len(team.rewards[0]) - 1
        expected = {"terminated": {"agent_0": [last], "agent_1": [last]}, "truncated": False}
        assert ends(episode) == expected
    assert "lose" not in text


def test_terminal_at_the_limit_is_a_truncation_unless_asked_otherwise(tmp_path):
    teams = make_teams([5, 4])
    vault = write_vault(tmp_path / "set", [teams], terminal=[True, True])
    episodes, _, _ = run(vault, tmp_path, time_limit=5)
    assert [episode.truncated for episode in episodes] == [True, False]
    assert_equal(episodes[0], teams[0], steps=4, state=True)
    import_dataset(
        "og-marl",
        vault,
        out=tmp_path / "original",
        options=ImportOptions(time_limit=5, at_limit="terminated"),
    )
    original = read_back(tmp_path / "original")
    assert [episode.truncated for episode in original] == [False, False]
    assert_equal(original[0], teams[0], repeated=True, state=True)


def test_vault_without_any_flag_is_cut_by_the_time_limit(tmp_path):
    teams = make_teams([5, 5, 3])
    vault = write_vault(tmp_path / "set", [teams], flags=False)
    episodes, _, _ = run(vault, tmp_path, time_limit=5)
    assert [len(episode) for episode in episodes] == [4, 4, 2]
    assert_equal(episodes[1], teams[1], steps=4, state=True)


def test_vault_without_any_flag_needs_a_time_limit(tmp_path):
    vault = write_vault(tmp_path / "set", [make_teams([5, 5])], flags=False)
    with pytest.raises(DataError, match="stream 0: no step is terminal or truncated.*--time-limit"):
        run(vault, tmp_path)


def test_streams_of_five_seeds_become_behaviour_ids(tmp_path):
    streams = [make_teams([4, 4], seed=seed) for seed in range(5)]
    episodes, found, _ = run(write_vault(tmp_path / "set", streams), tmp_path, time_limit=4)
    assert [episode.behaviour_id for episode in episodes] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert found.spec.seeds == {"recorded": [0, 1, 2, 3, 4]}
    for episode, team in zip(episodes, [t for teams in streams for t in teams], strict=True):
        assert_equal(episode, team, steps=3, state=True)


def test_padding_of_unequal_agents_with_minus_infinity_is_removed(tmp_path):
    teams = make_teams([5], [(4, 2), (2, 2)])
    vault = write_vault(tmp_path / "set", [teams], padding=-np.inf)
    episodes, found, _ = run(vault, tmp_path)
    assert [agent.obs_dim for agent in found.spec.agents] == [4, 2]
    assert_equal(episodes[0], teams[0], steps=4, state=True)


def test_padding_of_unequal_agents_with_zeros_is_removed_by_declared_lengths(tmp_path):
    teams = make_teams([5], [(4, 2), (2, 2)])
    vault = write_vault(tmp_path / "set", [teams])
    episodes, _, _ = run(vault, tmp_path, obs_dims=(4, 2))
    assert_equal(episodes[0], teams[0], steps=4, state=True)


def test_what_is_cut_away_as_padding_must_be_padding(tmp_path):
    vault = write_vault(tmp_path / "set", [make_teams([5], [(4, 2), (2, 2)])])
    with pytest.raises(DataError, match=r"agent_0 hold .* at step 0, feature 3, expected padding"):
        run(vault, tmp_path, obs_dims=(3, 2))
    with pytest.raises(DataError, match="--obs-dims must be 2 lengths up to 4"):
        run(vault, tmp_path, obs_dims=(5, 2))


def test_prey_is_left_out_and_known_lengths_remove_the_padding(tmp_path):
    teams = make_teams([25, 25], [(16, 2)] * 3 + [(14, 2)])
    vault = write_vault(tmp_path / "simple_tag.vlt" / "Expert", [teams])
    episodes, found, text = run(vault, tmp_path)
    assert (found.spec.env, found.spec.quality) == ("mpe/simple_tag", "expert")
    assert found.spec.references["random"] == -4.1
    assert "frozen prey" in text
    assert_equal(episodes[1], teams[1], numbers=[0, 1, 2], steps=24, state=True)


def test_integer_actions_are_discrete_with_their_masks(tmp_path):
    teams = make_teams([5])
    vault = write_vault(tmp_path / "set", [teams], terminal=[True], discrete=6)
    episodes, found, _ = run(vault, tmp_path)
    expected = (np.abs(teams[0].actions[1][:, 0]) * 6).astype(int)
    np.testing.assert_array_equal(episodes[0].actions["agent_1"], expected)
    assert found.spec.agents[1].num_actions == 6
    masks = episodes[0].action_masks
    assert masks is not None
    np.testing.assert_array_equal(masks["agent_1"][:5], np.eye(6, dtype=bool)[expected])


def test_integer_actions_without_masks_need_their_number(tmp_path):
    vault = write_vault(
        tmp_path / "set", [make_teams([5])], discrete=6, leave_out=["infos.legals."]
    )
    with pytest.raises(DataError, match="--num-actions"):
        run(vault, tmp_path)
    _, found, _ = run(vault, tmp_path, num_actions=6)
    assert found.spec.agents[0].num_actions == 6


def test_vault_with_zero_valid_steps_is_an_error(tmp_path):
    vault = write_vault(tmp_path / "set", [make_teams([5])], vault_index=0)
    with pytest.raises(DataError, match=r"set has 0 valid steps \(vault_index\)"):
        run(vault, tmp_path)


def test_vault_without_a_leaf_is_named(tmp_path):
    vault = write_vault(tmp_path / "set", [make_teams([5])], leave_out=["rewards."])
    with pytest.raises(DataError, match=r"lacks the leaf 'rewards.'"):
        run(vault, tmp_path)


def test_folder_above_the_vault_names_the_vaults_in_it(tmp_path):
    write_vault(tmp_path / "set.vlt" / "Good", [make_teams([5])])
    with pytest.raises(DataError, match=r"it holds the vaults \['Good'\]"):
        run(tmp_path / "set.vlt", tmp_path)


def test_time_limit_without_a_flag_ends_episodes_between_those_with_one(tmp_path):
    """Of lengths 6, 10, 10, 4, 10 only the two that fall are marked, as MPE's recorders do it."""
    teams, falls = make_teams([6, 10, 10, 4, 10]), [True, False, False, True, False]
    vault = write_vault(tmp_path / "set", [teams], terminal=falls, leave_out=["truncations."])
    write_flags(vault, "truncations.", np.zeros((1, 40, 2), bool))
    episodes, _, text = run(vault, tmp_path, time_limit=10)
    for episode, team, fell in zip(episodes, teams, falls, strict=True):
        steps = len(team.rewards[0]) - (not fell)
        assert_equal(episode, team, steps=steps, repeated=fell, state=True)
        assert episode.truncated == (not fell)
    assert "stream 0: 2 episodes reach the time limit of 10 steps without a flag" in text
    assert "the first at row 15" in text


def test_single_recorded_steps_leave_nothing_to_keep(tmp_path):
    teams = make_teams([1, 5])
    episodes, _, text = run(write_vault(tmp_path / "set", [teams]), tmp_path, time_limit=5)
    assert len(episodes) == 1
    assert_equal(episodes[0], teams[1], steps=4, state=True)
    assert "1 episodes of a single step are left out" in text
