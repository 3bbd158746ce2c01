"""Groups, columns and transforms against the episodes that were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_om2p.core.agent_groups import RowLayout, Team, make_groups
from rllib_om2p.core.transform import fit_transform, team_rewards
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import AgentSpec, DatasetSpec
from rllib_om2p.data.writer import DatasetWriter
from tests.small_data import write_discrete, write_random

SETTINGS = {
    "normalize_observations": True,
    "standardize_rewards": True,
    "bootstrap_at_truncation": True,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> OfflineDataset:
    path = write_random(Path(tmp_path_factory.mktemp("data")) / "set")
    return OfflineDataset.open(str(path))


def packed(dataset: OfflineDataset, layout: RowLayout) -> tuple[np.ndarray, np.ndarray]:
    blocks = list(dataset.blocks(layout.columns, use_ray=False))
    rows = np.concatenate([block.rows for block in blocks])
    return rows, np.concatenate([block.valid for block in blocks])


def test_agents_of_equal_shape_form_one_group_in_the_datasets_order(dataset):
    groups = make_groups(dataset.spec)
    assert [group.agent_ids for group in groups] == [("walker",), ("arm_10", "arm_2")]
    assert [group.positions for group in groups] == [(0,), (1, 2)]


def test_view_gives_each_agent_its_own_columns(dataset):
    layout = RowLayout.of(dataset.spec)
    transform = fit_transform(
        layout, dataset, **SETTINGS | dict.fromkeys(list(SETTINGS)[:2], False)
    )
    raw, valid = packed(dataset, layout)
    rows = torch.from_numpy(transform(raw))
    steps = torch.from_numpy(np.flatnonzero(valid))
    batch = layout.view(rows[steps], rows[steps + 1][:, : layout.observed_width])
    episodes = list(dataset.episodes())
    for group, part in zip(layout.groups, batch.groups, strict=True):
        for index, agent in enumerate(group.agents):
            name = agent.name
            obs = np.concatenate([e.obs[name][:-1] for e in episodes])
            next_obs = np.concatenate([e.obs[name][1:] for e in episodes])
            actions = np.concatenate([e.actions[name] for e in episodes])
            rewards = np.concatenate([e.rewards[name] for e in episodes])
            ends = np.concatenate([e.terminateds[name] for e in episodes])
            np.testing.assert_array_equal(part.obs[index], obs)
            np.testing.assert_array_equal(part.next_obs[index], next_obs)
            # The box is [-2, 1].
            np.testing.assert_allclose(part.actions[index], (actions + 0.5) / 1.5, atol=1e-6)
            np.testing.assert_array_equal(part.rewards[index], rewards)
            np.testing.assert_array_equal(part.terminateds[index], ends)
    team = np.concatenate([np.mean([*e.rewards.values()], axis=0) for e in episodes])
    np.testing.assert_allclose(batch.team_rewards[0], team, rtol=1e-5, atol=1e-5)


def test_normalised_columns_have_mean_zero_and_deviation_one_on_acting_rows(tmp_path):
    dataset = OfflineDataset.open(str(write_random(tmp_path / "set", terminate=False)))
    layout = RowLayout.of(dataset.spec)
    raw, valid = packed(dataset, layout)
    rows = fit_transform(layout, dataset, **SETTINGS)(raw)[valid]
    for section in ("obs", "reward", "team_reward"):
        columns = rows[:, layout.sections[section]]
        np.testing.assert_allclose(columns.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(columns.std(0), 1, atol=1e-4)


@pytest.mark.parametrize("bootstrap_at_truncation", [True, False])
def test_rewards_are_scaled_and_not_centred_where_an_end_is_worth_0(
    tmp_path, bootstrap_at_truncation
):
    """Half of the episodes terminate; or the time limit counts as the end of those that do not."""
    path = write_random(tmp_path / "set", terminate=bootstrap_at_truncation)
    dataset = OfflineDataset.open(str(path))
    layout = RowLayout.of(dataset.spec, {"arms": ["arm_2", "arm_10"], "legs": ["walker"]})
    settings = SETTINGS | {"bootstrap_at_truncation": bootstrap_at_truncation}
    raw, valid = packed(dataset, layout)
    rows = fit_transform(layout, dataset, **settings)(raw)[valid]
    for section in ("reward", "team_reward"):
        columns = rows[:, layout.sections[section]]
        np.testing.assert_allclose(columns.std(0), 1, atol=1e-4)
    rewards, scaled = (x[:, layout.sections["reward"]] for x in (raw[valid], rows))
    np.testing.assert_allclose(scaled, rewards / rewards.std(0), rtol=1e-4)


def test_living_on_is_better_than_ending_in_the_tables_rewards_too(tmp_path):
    """Each step is worth 1 and an end 1.5, of a mean of 1.05: the chain of the rewards' shift."""
    spec = DatasetSpec(dataset_id="chain", agents=(AgentSpec.box("a", 1, 1),))
    ends = np.zeros((10, 9), bool)
    ends[:5, -1] = True
    with DatasetWriter(tmp_path / "set", spec) as writer:
        writer.write_batch(
            obs={"a": np.zeros((10, 10, 1), "f4")},
            actions={"a": np.zeros((10, 9, 1), "f4")},
            rewards={"a": np.where(ends, 1.5, 1.0).astype("f4")},
            terminateds={"a": ends},
            truncated=~ends[:, -1],
        )
    dataset = OfflineDataset.open(str(tmp_path / "set"))
    layout = RowLayout.of(dataset.spec)
    raw, valid = packed(dataset, layout)
    rows = fit_transform(layout, dataset, **SETTINGS)(raw)[valid]
    rewards, terminateds = (rows[:, layout.sections[s]][:, 0] for s in ("reward", "terminated"))
    live, end = rewards[terminateds == 0].max(), rewards[terminateds == 1].min()
    assert live / (1 - 0.99) > end


def test_time_limit_counts_as_the_end_only_when_asked(dataset):
    layout = RowLayout.of(dataset.spec)
    raw, valid = packed(dataset, layout)
    kept = fit_transform(layout, dataset, **SETTINGS)(raw)[valid]
    settings = SETTINGS | {"bootstrap_at_truncation": False}
    cut = fit_transform(layout, dataset, **settings)(raw)[valid]
    # Of every agent 40 episodes, half of them ended by the time limit.
    terminateds = layout.sections["terminated"]
    assert kept[:, terminateds].sum(0).tolist() == [20, 20, 20]
    assert cut[:, terminateds].sum(0).tolist() == [40, 40, 40]


def test_agent_that_is_cut_off_before_the_others_ends_only_when_asked(tmp_path):
    spec = DatasetSpec(
        dataset_id="leaves",
        agents=tuple(AgentSpec.box(name, 1, 1) for name in "ab"),
        has_alive=True,
    )
    alive = {"a": np.ones((2, 5), bool), "b": np.tile([True, True, False, False, False], (2, 1))}
    with DatasetWriter(tmp_path / "set", spec) as writer:
        writer.write_batch(
            obs={name: np.zeros((2, 5, 1), "f4") for name in "ab"},
            actions={name: np.zeros((2, 4, 1), "f4") for name in "ab"},
            rewards={name: np.zeros((2, 4), "f4") for name in "ab"},
            terminateds={name: np.zeros((2, 4), bool) for name in "ab"},
            truncated=np.ones(2, bool),
            alive=alive,
        )
    dataset = OfflineDataset.open(str(tmp_path / "set"))
    layout = RowLayout.of(spec)
    raw, valid = packed(dataset, layout)
    ends = {}
    for bootstrap in (True, False):
        settings = SETTINGS | {"bootstrap_at_truncation": bootstrap}
        rows = fit_transform(layout, dataset, **settings)(raw)[valid]
        ends[bootstrap] = rows[:, layout.sections["terminated"]].reshape(2, 4, 2)
    assert not ends[True].any()
    for episode in ends[False]:
        assert episode[:, 0].tolist() == [0, 0, 0, 1]  # the time limit
        assert episode[:2, 1].tolist() == [0, 1]  # its last step; later ones are not its own


def test_constant_feature_is_centred_and_not_blown_up(tmp_path):
    spec = DatasetSpec(dataset_id="constant", agents=(AgentSpec.box("a", 2, 1),))
    obs = np.random.default_rng(0).normal(size=(4, 6, 2)).astype("f4")
    obs[..., 0] = 3.0
    with DatasetWriter(tmp_path / "set", spec) as writer:
        writer.write_batch(
            obs={"a": obs},
            actions={"a": np.zeros((4, 5, 1), "f4")},
            rewards={"a": np.ones((4, 5), "f4")},
            terminateds={"a": np.zeros((4, 5), bool)},
            truncated=np.ones(4, bool),
        )
    constant = OfflineDataset.open(str(tmp_path / "set"))
    layout = RowLayout.of(constant.spec)
    rows = fit_transform(layout, constant, **SETTINGS)(packed(constant, layout)[0])
    assert not rows[:, 0].any()
    assert rows[:, 1].std() > 0.5


@pytest.mark.parametrize(
    ("convention", "expected"), [("mean over agents", 2.0), ("sum", 6.0), ("agent 0", 1.0)]
)
def test_team_reward_follows_the_datasets_convention(tmp_path, convention, expected):
    path = write_random(tmp_path / "set", num_episodes=3, team_return=convention)
    layout = RowLayout.of(OfflineDataset.open(str(path)).spec)
    rewards = team_rewards(np.array([[1.0, 2.0, 3.0]]), layout.teams, convention)
    assert rewards.tolist() == [[pytest.approx(expected)]]


def test_teams_have_their_own_rewards_ends_and_constants(dataset):
    teams = {"arms": ["arm_2", "arm_10"], "legs": ["walker"]}
    layout = RowLayout.of(dataset.spec, teams)
    assert layout.teams == (Team("arms", (1, 2)), Team("legs", (0,)))
    raw, valid = packed(dataset, layout)
    rows = fit_transform(layout, dataset, **SETTINGS | {"standardize_rewards": False})(raw)
    steps = torch.from_numpy(np.flatnonzero(valid))
    batch = layout.view(
        torch.from_numpy(rows)[steps], torch.from_numpy(rows)[steps + 1][:, : layout.observed_width]
    )
    rewards = batch.groups[1].rewards
    torch.testing.assert_close(batch.team_rewards[0], rewards.mean(0))
    torch.testing.assert_close(batch.team_rewards[1], batch.groups[0].rewards[0])
    standard = fit_transform(layout, dataset, **SETTINGS)(raw)[valid]
    own = batch.team_rewards.numpy().T
    scaled = standard[:, layout.sections["team_reward"]]
    np.testing.assert_allclose(scaled, own / own.std(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "teams",
    [
        {"one": ["walker"]},
        {"one": ["walker", "arm_10"], "two": ["arm_2", "walker"]},
        {"one": ["walker", "arm_10", "arm_2"], "none": []},
        {"one": ["walker", "arm_10", "arm_3"]},
    ],
)
def test_teams_that_do_not_hold_each_agent_once_are_refused(dataset, teams):
    with pytest.raises(ValueError, match="teams must hold each agent"):
        RowLayout.of(dataset.spec, teams)


def test_masks_and_presence_come_with_their_own_step_and_agent(tmp_path):
    dataset = OfflineDataset.open(str(write_discrete(tmp_path / "set")))
    layout = RowLayout.of(dataset.spec)
    assert [group.agent_ids for group in layout.groups] == [("picker_1", "picker_0"), ("crane",)]
    raw, valid = packed(dataset, layout)
    rows = torch.from_numpy(fit_transform(layout, dataset, **SETTINGS)(raw))
    steps = torch.from_numpy(np.flatnonzero(valid))
    batch = layout.view(rows[steps], rows[steps + 1][:, : layout.observed_width])
    episodes = list(dataset.episodes())
    for group, part in zip(layout.groups, batch.groups, strict=True):
        for index, agent in enumerate(group.agents):
            alive = np.concatenate([e.alive[agent.name][:-1] for e in episodes])
            after = np.concatenate([e.alive[agent.name][1:] for e in episodes])
            np.testing.assert_array_equal(part.alive[index], alive)
            np.testing.assert_array_equal(part.next_alive[index], after)
            if not group.is_discrete:
                assert part.action_mask is None
                continue
            masks = [e.action_masks[agent.name] for e in episodes]
            np.testing.assert_array_equal(
                part.action_mask[index], np.concatenate([m[:-1] for m in masks])
            )
            np.testing.assert_array_equal(
                part.next_action_mask[index], np.concatenate([m[1:] for m in masks])
            )
            chosen = np.concatenate([e.actions[agent.name] for e in episodes])
            np.testing.assert_array_equal(part.actions[index].argmax(-1), chosen)
            assert set(part.actions[index].unique().tolist()) == {-1.0, 1.0}
    assert batch.alive.shape == (3, len(steps))
