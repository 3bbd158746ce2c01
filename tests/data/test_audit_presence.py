"""What the audit finds in the columns alive and action_mask, by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rllib_om2p.data.audit import Presence, audit
from rllib_om2p.data.audit_notices import notices
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import AgentSpec, DataError, DatasetSpec, Episode

# The arm's box leaves zero out.
SPEC = DatasetSpec(
    "test/presence",
    (AgentSpec("arm", 1, 1, (0.5,), (2.0,)), AgentSpec.discrete("coin", 1, 2)),
    has_alive=True,
    has_action_masks=True,
)


def column(*values, dtype=np.float32):
    return np.array(values, dtype)[:, None]


def leaves_early():
    """Three steps: the arm leaves after the first one, the coin comes after it."""
    return Episode(
        obs={"arm": column(1, 2, 0, 0), "coin": column(0, 6, 7, 8)},
        actions={"arm": column(1.5, 0.5, 0.5), "coin": np.array([0, 1, 0])},
        rewards={"arm": np.float32([3, 0, 0]), "coin": np.float32([0, 1, 1])},
        terminateds={"arm": np.array([True, False, False]), "coin": np.array([False] * 3)},
        truncated=True,
        action_masks={"coin": np.array([[1, 0], [1, 1], [1, 0], [1, 1]], bool)},
        alive={"arm": np.array([1, 0, 0, 0], bool), "coin": np.array([0, 1, 1, 1], bool)},
    )


@pytest.fixture
def run(write):
    def run(episode, spec=SPEC):
        return audit(OfflineDataset.open(str(write(spec, [episode], overwrite=True))))

    return run


def _said(found):
    words = ("alive", "mask")
    return [notice for notice in found.notices if any(word in notice for word in words)]


def test_an_episode_of_the_contract_is_found_faultless(run):
    found = run(leaves_early())
    assert found.presence == {"arm": Presence(absent=2), "coin": Presence(absent=1)}
    assert _said(found) == []
    assert "| arm | 33.3% |" in found.to_markdown()
    assert found.to_dict()["presence"]["coin"] == {
        "absent": 1,
        "filled": 0,
        "illegal": 0,
        "no_choice": 0,
        "after_end": 0,
    }


@pytest.mark.parametrize(
    ("field", "name", "row", "value"),
    [
        ("obs", "arm", 2, 5.0),  # row 1 may hold what it saw last
        ("obs", "arm", 3, 5.0),
        ("obs", "coin", 0, 5.0),
        ("actions", "arm", 1, 1.0),
        ("actions", "coin", 0, 1),
        ("rewards", "arm", 2, 1.0),
        ("terminateds", "arm", 1, True),
    ],
)
def test_values_of_an_absent_agent_are_reported(run, field, name, row, value):
    episode = leaves_early()
    getattr(episode, field)[name][row] = value
    found = run(episode)
    assert found.presence[name].filled == 1
    assert [notice.partition(" hold")[0] for notice in _said(found)][:1] == [f"1 rows of {name}"]


def test_the_agent_whose_reward_is_the_teams_must_be_there(run):
    spec = dataclasses.replace(SPEC, team_return="agent 0")
    with pytest.raises(DataError, match="that of arm .* absent at episode 0, step 1; set team_re"):
        run(leaves_early(), spec)
    found = dataclasses.replace(run(leaves_early()), spec=spec)
    assert any("reward is that of arm, who is absent in 2 rows" in text for text in notices(found))


def test_absent_agents_do_not_count_among_the_actions(run):
    found = run(leaves_early())
    assert found.actions["arm"].moments.mean.tolist() == [1.5]
    assert found.actions["coin"].at_high.tolist() == [0.5, 0.5]


def test_illegal_actions_and_masks_without_a_choice_are_reported(run):
    episode = leaves_early()
    episode.action_masks["coin"][1:3] = [[1, 0], [0, 0]]
    found = run(episode)
    assert found.presence["coin"] == Presence(absent=1, illegal=2, no_choice=1)
    assert _said(found) == [
        "2 actions of coin are forbidden by its mask: check which row a mask belongs to; it stands "
        "beside the observation that the action answers.",
        "1 rows of coin have a mask without a legal action: allow one.",
    ]


def test_masks_are_checked_where_nobody_leaves(run):
    spec = dataclasses.replace(SPEC, has_alive=False)
    episode = dataclasses.replace(leaves_early(), alive=None)
    episode.action_masks["coin"][1] = [1, 0]
    found = run(episode, spec)
    assert found.presence == {"arm": Presence(after_end=2), "coin": Presence(illegal=1)}
    assert "## Presence" not in found.to_markdown()


def test_steps_after_an_end_for_good_are_reported(run):
    episode = leaves_early()
    episode.alive["arm"][1] = True
    found = run(episode)
    assert found.presence["arm"] == Presence(absent=1, after_end=1)
    assert any(notice.startswith("1 rows of arm come after it term") for notice in found.notices)


def test_an_end_for_good_is_one_of_its_own_episode(write):
    episode = dataclasses.replace(leaves_early(), alive=None)
    for flags in episode.terminateds.values():
        flags[:] = [False, False, True]
    path = write(dataclasses.replace(SPEC, has_alive=False), [episode] * 3)
    found = audit(OfflineDataset.open(str(path)))
    assert found.presence == {"arm": Presence(), "coin": Presence()}


def test_an_agent_that_never_comes_is_named(run):
    episode = leaves_early()
    episode.alive["coin"][:] = False
    assert "coin is never alive: leave it out." in run(episode).notices
