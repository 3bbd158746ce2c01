"""The contract's words: specs, columns and team returns."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from rllib_om2p.data.schema import (
    SPEC_KEY,
    AgentSpec,
    DataError,
    DatasetSpec,
    arrow_schema,
    contract_columns,
    team_rewards,
)


def test_spec_comes_back_from_json(spec, rich_spec):
    for original in (spec, rich_spec):
        assert DatasetSpec.from_json(original.to_json()) == original


def test_spec_with_tuples_equals_its_stored_form(spec):
    made = DatasetSpec("x", spec.agents, env_kwargs={"sizes": (1, 2)})
    assert DatasetSpec.from_json(made.to_json()) == made


def test_spec_json_does_not_depend_on_the_order_of_keys(spec):
    forward = DatasetSpec("x", spec.agents, behaviour={"a": 1, "b": 2})
    backward = DatasetSpec("x", spec.agents, behaviour={"b": 2, "a": 1})
    assert forward.to_json() == backward.to_json()


def test_agents_keep_the_order_they_were_given_in(spec):
    assert spec.agent_ids == ("agent_10", "agent_2")
    assert DatasetSpec.from_json(spec.to_json()).agent_ids == ("agent_10", "agent_2")


def test_every_agent_has_columns_under_its_name(rich_spec):
    assert list(contract_columns(rich_spec)) == [
        "episode_id",
        "step",
        "obs_walker",
        "action_walker",
        "reward_walker",
        "terminated_walker",
        "action_mask_walker",
        "alive_walker",
        "obs_flyer",
        "action_flyer",
        "reward_flyer",
        "terminated_flyer",
        "alive_flyer",
        "truncated",
        "valid",
        "state",
        "behaviour_id",
    ]


def test_arrow_types_are_those_of_the_contract(rich_spec):
    schema = arrow_schema(rich_spec)
    assert schema.field("episode_id").type == pa.int64()
    assert schema.field("step").type == pa.int32()
    assert schema.field("action_walker").type == pa.int64()
    assert schema.field("reward_flyer").type == pa.float32()
    obs = schema.field("obs_flyer").type
    assert (obs.list_size, obs.value_type) == (4, pa.float32())
    assert json.loads(schema.metadata[SPEC_KEY])["dataset_id"] == "test/rich"


def test_discrete_actions_are_one_hot_in_the_unit_box():
    agent = AgentSpec.discrete("walker", 2, 3)
    assert (agent.action_dim, agent.action_low, agent.action_high) == (3, (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("mean over agents", [2.0, 3.0]), ("agent 0", [1.0, 2.0]), ("sum", [4.0, 6.0])],
)
def test_team_reward_follows_the_rule_and_the_agents_order(spec, rule, expected):
    made = DatasetSpec("x", spec.agents, team_return=rule)
    rewards = {"agent_2": np.array([3.0, 4.0]), "agent_10": np.array([1.0, 2.0])}
    assert team_rewards(made, rewards).tolist() == expected


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AgentSpec.box("a", 0, 1), "obs_dim"),
        (lambda: AgentSpec("a", 1, 2, (0.0,), (1.0,)), "2 lower and upper ends"),
        (lambda: AgentSpec.box("a", 1, 1, high=float("inf")), "finite"),
        (lambda: AgentSpec.box("a", 1, 1, low=1.0, high=1.0), "low < high"),
        (lambda: AgentSpec.box("", 1, 1), "without any of"),
        (lambda: AgentSpec.box("team/a", 1, 1), "got 'team/a'; choose one without any of"),
        (lambda: AgentSpec.box("a.", 1, 1), "without a dot or a space at its end"),
        (lambda: AgentSpec.box("a", 2.5, 1), "obs_dim must be a whole number, got 2.5"),
        (lambda: DatasetSpec("x", ()), "at least one agent"),
        (lambda: DatasetSpec("x", (AgentSpec.box("a", 1, 1),) * 2), "different names"),
        (lambda: DatasetSpec("x", (AgentSpec.box("a", 1, 1),), team_return="max"), "team_return"),
        (
            lambda: DatasetSpec("x", (AgentSpec.box("a", 1, 1),), seeds={"s": object()}),
            "seeds of x must hold plain JSON",
        ),
        (
            lambda: contract_columns(
                DatasetSpec(
                    "x",
                    (AgentSpec.discrete("a", 1, 2), AgentSpec.discrete("mask_a", 1, 2)),
                    has_action_masks=True,
                )
            ),
            "rename the agents",
        ),
    ],
)
def test_impossible_specs_are_refused(make, words):
    with pytest.raises(DataError, match=words):
        make()


def test_whole_numbers_of_numpy_become_pythons():
    agent = AgentSpec.discrete("a.1 ä", np.int32(3), np.int64(4))
    spec = DatasetSpec("x", (agent,), time_limit=np.int64(25), state_dim=np.int64(2))
    assert DatasetSpec.from_json(spec.to_json()) == spec
