"""The critics' temporal-difference loss by hand, of episodes that end and are cut off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rllib_om2p import OM2PConfig
from rllib_om2p.core.agent_groups import JointBatch, RowLayout
from rllib_om2p.core.transform import fit_transform
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.writer import DatasetWriter
from tests.algorithms.loops import scalar_layout, scalars, set_sums


@pytest.mark.parametrize(
    ("target_aggregate", "bootstrap_at_truncation", "expected"),
    [("mean", True, 23 / 8), ("min", True, 9 / 4), ("mean", False, 7 / 4), ("min", False, 7 / 4)],
)
def test_an_end_has_no_value_and_a_time_limit_has_unless_told(
    tmp_path, target_aggregate, bootstrap_at_truncation, expected
):
    """Hand numbers for r = 1, gamma = 1/2, o = 0, o' = 2.

    Next action: u = 0, so it is the noise 1/2. Qbar_1 = o' + 4 a' = 4, Qbar_2 = 4 a' = 2: mean 3,
    minimum 2. One episode ends: y = 1; the other is cut off: y = 1 + 3/2 = 5/2 (minimum: 2; if
    that is an end too: 1).
    Q_1 = o + 4 a + 1, Q_2 = 0 at a = 1/2 of the first are 3 and 0: (4 + 1) / 2 = 5/2; at a = 1/4 of
    the second 2 and 0: (1/4 + 25/4) / 2 = 13/4 (minimum: (0 + 4) / 2; end: (1 + 1) / 2).
    Loss = (5/2 + 13/4) / 2 = 23/8 (minimum: (5/2 + 2) / 2; end: (5/2 + 1) / 2).
    """
    layout = scalar_layout()
    config = OM2PConfig().training(
        actor_hidden=(), critic_hidden=(), gamma=0.5, target_aggregate=target_aggregate
    )
    networks = config.build_networks(layout.groups, torch.Generator())
    set_sums(networks.actors[0].mlp, (0.0, 0.0, 0.0, 0.0, 0.0))
    set_sums(networks.critics[0].mlp, (1.0, 4.0, 1.0), (0.0, 0.0, 0.0))
    set_sums(networks.target_critics[0].mlp, (1.0, 4.0, 0.0), (0.0, 4.0, 0.0))
    batch = recorded(tmp_path / "set", layout, bootstrap_at_truncation)
    critic_phase, _ = config.build_phases(networks, layout)
    loss, metrics = critic_phase.loss(batch, (scalars([[1 / 2, 1 / 2]]),))
    assert loss.item() == pytest.approx(expected)
    assert metrics["q"].item() == pytest.approx(5 / 4)


def recorded(path, layout: RowLayout, bootstrap_at_truncation: bool) -> JointBatch:
    """Return both transitions of a dataset with an episode that ends and one that is cut off."""
    (agent,) = layout.agents
    with DatasetWriter(path, layout.spec) as writer:
        writer.write_batch(
            obs={agent.name: np.array([[0, 2], [0, 2]], "f4")[..., None]},
            actions={agent.name: np.array([[1 / 2], [1 / 4]], "f4")[..., None]},
            rewards={agent.name: np.ones((2, 1), "f4")},
            terminateds={agent.name: np.array([[True], [False]])},
            truncated=np.array([False, True]),
        )
    dataset = OfflineDataset.open(str(path))
    transform = fit_transform(
        layout,
        dataset,
        normalize_observations=False,
        standardize_rewards=False,
        bootstrap_at_truncation=bootstrap_at_truncation,
    )
    blocks = list(dataset.blocks(layout.columns, use_ray=False))
    rows = torch.from_numpy(transform(np.concatenate([block.rows for block in blocks])))
    steps = np.flatnonzero(np.concatenate([block.valid for block in blocks]))
    return layout.view(rows[steps], rows[steps + 1][:, : layout.observed_width])
