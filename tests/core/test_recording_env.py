"""The wrapper around an environment: what stands in an episode, agent by agent and step by step."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_om2p.core.recording_env import (
    RecordingEnv,
    agent_order,
    agent_spec,
    has_action_mask,
)
from rllib_om2p.data.schema import AgentSpec, DataError

BOX = spaces.Box(np.float32([-2.0, 1.0]), np.float32([3.0, 2.0]))
ALL = "__all__"


class Scripted(MultiAgentEnv):
    """Answers with what it was given; `coin` has the actions 0 and 1, `arm` a box without zero."""

    def __init__(self, *answers):
        super().__init__()
        self.possible_agents = self.agents = ["arm", "coin"]
        view = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.observation_spaces = {"arm": view, "coin": view}
        self.action_spaces = {"arm": BOX, "coin": spaces.Discrete(2)}
        self.answers = list(answers)
        self.received = []

    def reset(self, *, seed=None, options=None):
        return self.answers.pop(0), {}

    def step(self, action_dict):
        self.received.append({agent: np.copy(action) for agent, action in action_dict.items()})
        for action in action_dict.values():
            if isinstance(action, np.ndarray):
                action[...] = 99  # as environments that work in place do
        return *self.answers.pop(0), {}


def see(**values):
    return {agent: np.array([value]) for agent, value in values.items()}


@pytest.fixture
def record():
    kept = []

    def record(env, *actions):
        agents = {agent: agent_spec(env, agent) for agent in agent_order(env)}
        recording = RecordingEnv(env, agents, kept.append)
        recording.reset()
        for action in actions:
            recording.step(action)
        return kept

    return record


def both(arm=(0.5, 1.5), coin=0):
    return {"arm": np.array(arm), "coin": coin}


def test_rows_are_what_the_environment_saw_and_said(record):
    env = Scripted(
        see(arm=0.25, coin=0.0),
        (see(arm=0.5, coin=1.0), {"arm": 1.5, "coin": -2.0}, {ALL: False}, {ALL: False}),
        (see(arm=0.75, coin=2.0), {"arm": 2.5, "coin": 4.0}, {ALL: False}, {ALL: True}),
    )
    (episode,) = record(env, both((0.5, 1.5), 1), both((3.0, 1.0), 0))
    assert episode.obs["arm"].tolist() == [[0.25], [0.5], [0.75]]
    assert episode.actions["arm"].tolist() == [[0.5, 1.5], [3.0, 1.0]]
    assert episode.actions["coin"].tolist() == [1, 0]
    assert episode.rewards["arm"].tolist() == [1.5, 2.5]
    assert episode.rewards["coin"].tolist() == [-2.0, 4.0]
    assert not episode.terminateds["arm"].any()
    assert episode.truncated
    assert episode.alive is None
    assert [action["coin"] for action in env.received] == [1, 0]


@pytest.mark.parametrize(
    ("terminateds", "truncateds", "ends", "truncated"),
    [
        ({ALL: True}, {ALL: False}, (True, True), False),
        ({ALL: False}, {ALL: True}, (False, False), True),
        ({"arm": True, "coin": True, ALL: True}, {ALL: False}, (True, True), False),
        # Neither flag covers all, and yet nobody is left.
        ({"arm": True, "coin": False, ALL: False}, {"coin": True, ALL: False}, (True, False), True),
        # RLlib's make_multi_agent sets "__all__" when nobody goes on, whatever the reason.
        ({"arm": False, ALL: True}, {"arm": True, "coin": True, ALL: True}, (False, False), True),
        ({"arm": True, ALL: True}, {"coin": True, ALL: False}, (True, False), True),
    ],
)
def test_an_end_for_good_is_told_from_a_time_limit(
    record, terminateds, truncateds, ends, truncated
):
    env = Scripted(see(arm=0, coin=0), (see(arm=1, coin=1), {}, terminateds, truncateds))
    (episode,) = record(env, both())
    assert (episode.terminateds["arm"][-1], episode.terminateds["coin"][-1]) == ends
    assert episode.truncated == truncated
    assert episode.alive is None


def test_an_agent_may_leave_early_and_another_come_late(record):
    env = Scripted(
        see(arm=1),
        (see(arm=2, coin=5), {"arm": 1.0}, {ALL: False}, {ALL: False}),
        (see(arm=3, coin=6), {"arm": 1.0, "coin": 1.0}, {"arm": True, ALL: False}, {ALL: False}),
        (see(coin=7), {"coin": 2.0}, {ALL: True}, {ALL: False}),
    )
    (episode,) = record(env, {"arm": np.array([1.0, 2.0])}, both(coin=1), {"coin": 1})
    assert episode.obs["arm"].tolist() == [[1], [2], [3], [0]]  # what it saw last, then nothing
    assert episode.obs["coin"].tolist() == [[0], [5], [6], [7]]
    assert episode.alive["arm"].tolist() == [True, True, False, False]
    assert episode.alive["coin"].tolist() == [False, True, True, True]
    assert episode.actions["arm"].tolist() == [[1.0, 2.0], [0.5, 1.5], [0.0, 1.0]]
    assert episode.actions["coin"].tolist() == [0, 1, 1]
    assert episode.terminateds["arm"].tolist() == [False, True, False]
    assert episode.terminateds["coin"].tolist() == [False, False, True]
    assert not episode.truncated


def test_masks_stand_beside_the_observations_that_they_belong_to(record):
    box = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    legal = spaces.Box(0, 1, (2,), np.int8)

    def told(value, *mask):
        return {"observations": np.array([value]), "action_mask": np.array(mask, np.int8)}

    going = {ALL: False}
    env = Scripted(
        {"arm": np.array([1.0]), "coin": told(0, 1, 0)},
        ({"arm": np.array([2.0]), "coin": told(5, 0, 1)}, {}, {"coin": True, ALL: False}, going),
        ({"arm": np.array([3.0])}, {}, going, {ALL: True}),
    )
    env.observation_spaces["coin"] = spaces.Dict({"observations": box, "action_mask": legal})
    assert agent_spec(env, "coin") == AgentSpec.discrete("coin", 1, 2)
    assert [has_action_mask(env, agent) for agent in ("arm", "coin")] == [False, True]
    (episode,) = record(env, both(), {"arm": np.array([1.0, 2.0])})
    assert episode.obs["coin"].tolist() == [[0], [5], [0]]
    # Away, the coin may do nothing but what is recorded of it.
    masks = {agent: mask.tolist() for agent, mask in episode.action_masks.items()}
    assert masks == {"coin": [[True, False], [False, True], [True, False]]}
    assert episode.alive["coin"].tolist() == [True, False, False]


def test_an_episode_cut_by_a_reset_is_left_out(record):
    going = (see(arm=1, coin=1), {}, {ALL: False}, {ALL: False})
    over = (see(arm=9, coin=9), {}, {ALL: True}, {ALL: False})
    env = Scripted(see(arm=0, coin=0), going, see(arm=5, coin=5), over)
    agents = {agent: agent_spec(env, agent) for agent in agent_order(env)}
    kept = []
    recording = RecordingEnv(env, agents, kept.append)
    recording.reset()
    recording.step(both())
    recording.reset()
    recording.step(both())
    assert [episode.obs["arm"].tolist() for episode in kept] == [[[5], [9]]]


def test_a_paused_recording_forgets_what_it_began(record):
    over = (see(arm=9, coin=9), {}, {ALL: True}, {ALL: False})
    env = Scripted(see(arm=0, coin=0), over)
    agents = {agent: agent_spec(env, agent) for agent in agent_order(env)}
    kept = []
    recording = RecordingEnv(env, agents, kept.append)
    recording.is_paused = True
    recording.reset()
    recording.step(both())
    assert kept == []


@pytest.mark.parametrize("action", [both((3.1, 1.5)), both(coin=2), both(coin=-1)])
def test_actions_outside_the_space_are_refused(record, action):
    with pytest.raises(DataError, match=r"outside its action space.*normalize_actions"):
        record(Scripted(see(arm=0, coin=0)), action)


def test_agents_that_take_turns_are_refused(record):
    with pytest.raises(DataError, match="coin is present at step 0 but does not act"):
        record(Scripted(see(arm=0, coin=0)), {"arm": np.array([1.0, 1.0])})
    env = Scripted(see(arm=0, coin=0), (see(arm=1), {}, {ALL: False}, {ALL: False}))
    with pytest.raises(DataError, match="coin got no observation at step 0"):
        record(env, both())


def test_spaces_become_specs():
    env = Scripted()
    assert agent_spec(env, "arm") == AgentSpec("arm", 1, 2, (-2.0, 1.0), (3.0, 2.0))
    assert agent_spec(env, "coin") == AgentSpec.discrete("coin", 1, 2)


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Box(0, 1, (2, 2))])
def test_observations_that_are_no_vector_are_refused(space):
    env = Scripted()
    env.observation_spaces["arm"] = space
    with pytest.raises(DataError, match="Agent arm: observations must be a flat Box"):
        agent_spec(env, "arm")


def test_discrete_actions_that_do_not_begin_at_zero_are_refused():
    env = Scripted()
    env.action_spaces["coin"] = spaces.Discrete(2, start=3)
    with pytest.raises(DataError, match=r"Agent coin: discrete actions must begin at 0, got Disc"):
        agent_spec(env, "coin")


def test_the_ends_of_a_box_far_from_zero_are_inside_it(record):
    over = (see(arm=1, coin=1), {}, {ALL: True}, {ALL: False})
    env = Scripted(see(arm=0, coin=0), over)
    env.action_spaces["arm"] = spaces.Box(100.1, 101.1, (2,), np.float64)
    (episode,) = record(env, both((100.1, 101.1)))
    np.testing.assert_allclose(episode.actions["arm"], [[100.1, 101.1]], rtol=1e-6)


def test_pettingzoo_decides_the_order_under_rllibs_own_wrapper():
    from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv

    from rllib_om2p import envs

    env = ParallelPettingZooEnv(envs.make("mpe/simple_spread"))
    assert agent_order(env) == ["agent_0", "agent_1", "agent_2"]
