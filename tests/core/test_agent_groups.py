"""Groups, columns and transforms against the episodes that were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_om2p.core.agent_groups import RowLayout, fit_transform, make_groups
from rllib_om2p.data.reader import OfflineDataset
from tests.small_data import write_random

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
    layout = RowLayout(dataset.spec, make_groups(dataset.spec))
    transform = fit_transform(
        layout, dataset.statistics(), **SETTINGS | dict.fromkeys(list(SETTINGS)[:2], False)
    )
    raw, valid = packed(dataset, layout)
    rows = torch.from_numpy(transform(raw))
    steps = torch.from_numpy(np.flatnonzero(valid))
    batch = layout.view(rows[steps], rows[steps + 1][:, : layout.obs_width])
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
    np.testing.assert_allclose(batch.team_rewards, team, rtol=1e-5, atol=1e-5)


def test_normalised_columns_have_mean_zero_and_deviation_one_on_acting_rows(dataset):
    layout = RowLayout(dataset.spec, make_groups(dataset.spec))
    raw, valid = packed(dataset, layout)
    rows = fit_transform(layout, dataset.statistics(), **SETTINGS)(raw)[valid]
    reward_start = layout.obs_width + layout.action_width
    for columns in (
        rows[:, : layout.obs_width],
        rows[:, reward_start : reward_start + 3],
        rows[:, -2:-1],
    ):
        np.testing.assert_allclose(columns.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(columns.std(0), 1, atol=1e-4)


def test_time_limit_counts_as_the_end_only_when_asked(dataset):
    layout = RowLayout(dataset.spec, make_groups(dataset.spec))
    raw, valid = packed(dataset, layout)
    statistics = dataset.statistics()
    kept = fit_transform(layout, statistics, **SETTINGS)(raw)[valid]
    cut = fit_transform(layout, statistics, **SETTINGS | {"bootstrap_at_truncation": False})(raw)[
        valid
    ]
    # 40 episodes, half of them ended by the time limit.
    assert kept[:, -1].sum() == 20
    assert cut[:, -1].sum() == 40


def test_constant_feature_is_centred_and_not_blown_up(dataset, tmp_path):
    layout = RowLayout(dataset.spec, make_groups(dataset.spec))
    statistics = dataset.statistics()
    statistics.obs["walker"].std[0] = 0.0
    transform = fit_transform(layout, statistics, **SETTINGS)
    assert transform.obs_std[0] == 1.0


@pytest.mark.parametrize(
    ("convention", "expected"), [("mean over agents", 2.0), ("sum", 6.0), ("agent 0", 1.0)]
)
def test_team_reward_follows_the_datasets_convention(tmp_path, convention, expected):
    from rllib_om2p.core.agent_groups import team_reward

    path = write_random(tmp_path / "set", num_episodes=3, team_return=convention)
    spec = OfflineDataset.open(str(path)).spec
    layout = RowLayout(spec, make_groups(spec))
    assert team_reward(layout, np.array([[1.0, 2.0, 3.0]]))[0] == pytest.approx(expected)
