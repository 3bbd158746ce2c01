"""The audit: what it finds in data made to hold it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from rllib_om2p.data.audit import audit
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import AgentSpec, DatasetSpec, Episode

SPEC = DatasetSpec(
    "test/audit",
    (AgentSpec.box("a", 2, 1),),
    time_limit=4,
    references={"random": 0.0, "expert": 8.0, "source": "made up"},
)


def episode(seed, *, length=4, truncated=True, terminated=False, actions=None):
    rng = np.random.default_rng(seed)
    terminateds = np.zeros(length, bool)
    terminateds[-1] = terminated
    obs = rng.normal(size=(length + 1, 2)).astype(np.float32)
    obs[:, 1] = 3.0
    acted = rng.uniform(-0.9, 0.9, (length, 1)) if actions is None else np.array(actions)[:, None]
    return Episode(
        obs={"a": obs},
        actions={"a": acted.astype(np.float32)},
        rewards={"a": np.ones(length, np.float32)},
        terminateds={"a": terminateds},
        truncated=truncated,
    )


@pytest.fixture
def run(write):
    def run(episodes, spec=SPEC):
        return audit(OfflineDataset.open(str(write(spec, episodes, overwrite=True))))

    return run


def test_endings_are_counted(run):
    found = run(
        [
            episode(0),
            episode(1, truncated=False, terminated=True),
            episode(2, truncated=False, terminated=True),
            episode(3, terminated=True),
            episode(4, truncated=False),
            episode(5, truncated=False, length=2),
        ]
    )
    assert dataclasses.astuple(found.endings) == (2, 1, 1, 2, 1, 2)
    assert "2 episodes end without terminated or truncated." in found.notices


def test_never_terminated_and_never_truncated_are_noticed(run):
    assert any(n.startswith("terminated is never true") for n in run([episode(0)]).notices)


def test_never_truncated_is_noticed(run):
    found = run([episode(0, truncated=False, terminated=True)])
    assert any(notice.startswith("truncated is never true") for notice in found.notices)
    assert not any(notice.startswith("terminated is never true") for notice in found.notices)


def test_dones_that_are_all_zero_are_noticed(run):
    found = run([episode(seed, truncated=False) for seed in range(3)])
    assert found.notices[0].startswith("No end is marked: 3 episodes, all after 4 steps")
    marked = run([episode(0, truncated=False), episode(1)])
    assert not any(notice.startswith("No end is marked") for notice in marked.notices)


def test_a_time_limit_that_is_marked_as_an_end_for_good_is_noticed(run):
    ends = {"truncated": False, "terminated": True}
    found = run([episode(0, **ends), episode(1, **ends), episode(2, length=2, **ends)])
    assert found.endings.terminated_at_limit == 2
    expected = "2 of 3 terminated episodes end at step 4: if that is a time limit"
    assert any(notice.startswith(expected) for notice in found.notices)
    early = run([episode(seed, length=1 + seed, **ends) for seed in range(4)])
    assert not any("if that is a time limit" in notice for notice in early.notices)


def test_episodes_longer_than_the_limit_are_noticed(run):
    found = run([episode(0, length=6)])
    assert "Episodes last up to 6 steps, longer than the time limit of 4." in found.notices


def test_a_time_limit_without_truncation_is_noticed(run):
    found = run([episode(0), episode(1, truncated=False)])
    assert "1 episodes reach the time limit of 4 steps without truncated." in found.notices


def test_duplicate_episodes_are_found_by_content(run):
    twin = episode(0)
    almost = episode(0)
    almost.obs["a"][2, 0] += 1e-6
    found = run([twin, episode(1), twin, almost, twin])
    assert found.duplicate_episodes == [[0, 2, 4]]
    assert any("2 episodes repeat another one" in notice for notice in found.notices)


def test_steps_in_another_order_are_no_duplicate(run):
    one = episode(0)
    turned = dataclasses.replace(
        one, obs={"a": one.obs["a"][::-1].copy()}, actions={"a": one.actions["a"][::-1].copy()}
    )
    assert run([one, turned]).duplicate_episodes == []


def test_coverage_counts_unique_joint_rows(run):
    one = episode(0)
    other_actions = dataclasses.replace(one, actions={"a": one.actions["a"] / 2})
    found = run([one, other_actions, one, episode(1)])
    assert found.coverage.unique_obs == 8 / 16
    assert found.coverage.unique_obs_actions == 12 / 16


def test_saturation_counts_actions_at_the_ends_of_the_box(run):
    found = run([episode(0, actions=[-1.0, 1.0, 1.0, 0.5])])
    used = found.actions["a"]
    assert (used.at_low[0], used.at_high[0]) == (0.25, 0.5)
    assert (used.moments.min[0], used.moments.max[0]) == (-1.0, 1.0)
    assert used.moments.mean[0] == pytest.approx(0.375)


def test_actions_at_the_ends_or_in_a_corner_of_the_box_are_noticed(run):
    found = run([episode(0, actions=[-1.0, 1.0, 1.0, 0.5])])
    assert "75% of the actions of a lie at the ends of their box." in found.notices
    small = run([episode(0, actions=[0.0, 0.1, 0.05, 0.0])])
    assert any(n.startswith("Action features [0] of a use less than 10%") for n in small.notices)
    wide = run([episode(0, actions=[0.0, 0.3, 0.05, 0.0])])
    assert not any("of a " in notice and "box" in notice for notice in wide.notices)


def test_discrete_actions_that_never_occur_are_noticed(run, make_episode):
    spec = DatasetSpec("test/discrete", (AgentSpec.discrete("a", 2, 3),))
    made = make_episode(spec, 4)
    made.actions["a"][:] = [0, 2, 2, 2]
    assert "a never takes actions [1]." in run([made], spec).notices


def test_the_histogram_counts_team_returns(run):
    found = run([episode(0), episode(1, length=2), episode(2, length=2)])
    edges, counts = found.returns.edges, found.returns.counts
    assert (edges[0], edges[-1], sum(counts)) == (2.0, 4.0, 3)
    assert (counts[0], counts[-1]) == (2, 1)


def test_returns_that_differ_by_rounding_alone_are_one(run):
    """Twenty rewards at once, or one by one: 20/3 against twenty times 1/3."""
    names = ("a", "b", "c")
    spec = DatasetSpec("test/equal", tuple(AgentSpec.box(name, 1, 1) for name in names))

    def team(rewards):
        steps = len(rewards)
        return Episode(
            obs=dict.fromkeys(names, np.zeros((steps + 1, 1), np.float32)),
            actions=dict.fromkeys(names, np.zeros((steps, 1), np.float32)),
            rewards={"a": np.float32(rewards)} | dict.fromkeys("bc", np.zeros(steps, np.float32)),
            terminateds=dict.fromkeys(names, np.zeros(steps, bool)),
            truncated=True,
        )

    found = run([team([20] + 19 * [0]), team(20 * [1])], spec)
    with pytest.raises(ValueError, match="Too many bins"):
        np.histogram([np.add.reduceat([x] * n, [0])[0] for x, n in ((20 / 3, 1), (1 / 3, 20))], 40)
    assert found.returns.edges[0] == pytest.approx(20 / 3 - 0.5)
    assert sum(found.returns.counts) == 2
    assert "Every episode has the same team return: there is nothing to prefer." in found.notices


def test_references_without_a_distance_give_no_normalised_mean(run):
    references = {"random": 2.0, "expert": 2.0, "source": "made up"}
    text = run([episode(0)], dataclasses.replace(SPEC, references=references)).to_markdown()
    assert "Normalised" not in text


def test_constant_features_are_named(run):
    found = run([episode(0), episode(1)])
    assert found.constant_features == {"a": [1]}
    assert "1 features of a never change." in found.notices


def test_discrete_actions_report_their_frequencies(run, make_episode):
    spec = DatasetSpec("test/discrete", (AgentSpec.discrete("a", 2, 3),))
    made = make_episode(spec, 4)
    made.actions["a"][:] = [0, 2, 2, 2]
    used = run([made], spec).actions["a"]
    assert used.at_high.tolist() == [0.25, 0.0, 0.75]


def test_report_shows_returns_raw_and_normalised(run):
    text = run([episode(0), episode(1, length=2)]).to_markdown()
    assert "| team | 3 | 1 | 2 |" in text
    assert "Normalised mean (random = 0, expert = 100): 37.5." in text
    assert "Every" not in text


def test_report_is_saved_as_markdown_and_json(run, tmp_path):
    found = run([episode(0), episode(0)])
    markdown, data = found.save(tmp_path / "report")
    assert markdown.read_text() == found.to_markdown()
    values = json.loads(data.read_text())
    assert values["duplicate_episodes"] == [[0, 1]]
    assert values["fingerprint"] == found.fingerprint
    assert values["statistics"]["num_transitions"] == 8


def test_audit_of_every_optional_column_runs(run, rich_spec, make_episode):
    found = run([make_episode(rich_spec, 5, seed) for seed in range(3)], rich_spec)
    assert found.coverage.unique_obs == 1.0
    assert "flyer" in found.to_markdown()
