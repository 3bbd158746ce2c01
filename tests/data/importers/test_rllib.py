"""What RLlib records, written by RLlib's own classes."""

from __future__ import annotations

import base64
import itertools
import pickle

import gymnasium as gym
import lz4.frame
import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.offline.json_writer import JsonWriter
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.compression import pack
from ray.rllib.utils.spaces.space_utils import unsquash_action

from rllib_om2p.data.importers.options import ImportOptions
from rllib_om2p.data.importers.rllib_files import find_files
from rllib_om2p.data.importers.rllib_survey import side_by_side, survey
from rllib_om2p.data.importers.stream import import_dataset
from rllib_om2p.data.schema import DataError
from tests.data.importers.layouts import Team, assert_equal, ends, make_teams, read_back

DIMS = ((4, 2), (3, 1))


def run(path, tmp_path, **options):
    lines: list[str] = []
    found = import_dataset(
        "rllib",
        path,
        out=tmp_path / "out",
        options=ImportOptions(**options),
        progress=lines.append,
    )
    return read_back(tmp_path / "out"), found, "\n".join(lines)


def columns(team: Team, agent: int, episode: int, *, terminated=False, truncated=True):
    steps = len(team.rewards[0])
    last = np.eye(steps, dtype=bool)[-1]
    return {
        "obs": team.obs[agent][:-1],
        "new_obs": team.obs[agent][1:],
        "actions": team.actions[agent],
        "rewards": team.rewards[agent],
        "terminateds": last & terminated,
        "truncateds": last & truncated,
        "eps_id": np.full(steps, episode),
        "agent_index": np.full(steps, agent),
    }


def part(values: dict, rows: slice) -> dict:
    return {name: array[rows] for name, array in values.items()}


def batch(*agents: dict) -> MultiAgentBatch:
    return MultiAgentBatch(
        {f"policy_{i}": SampleBatch(values) for i, values in enumerate(agents)}, 0
    )


def encode(value):
    """Write arrays as msgpack-numpy does, which RLlib uses and which need not be installed."""
    if isinstance(value, np.ndarray):
        kind, data = (b"O", value.dumps()) if value.dtype.hasobject else (b"", value.tobytes())
        return {
            b"nd": True,
            b"type": value.dtype.str,
            b"kind": kind,
            b"shape": value.shape,
            b"data": data,
        }
    if isinstance(value, np.generic):
        return {b"nd": False, b"type": value.dtype.str, b"data": value.tobytes()}
    raise TypeError(type(value))


def write_states(path, states) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    items = [msgpack.packb(state, default=encode) for state in states]
    pq.write_table(pa.table({"item": pa.array(items, pa.binary())}), path)


def single(team: Team, agent: int = 0, *, rows: slice | None = None, box=(-2.0, 2.0), **settings):
    """Return one agent's SingleAgentEpisode, or the piece of it that acts in `rows`."""
    rows = rows or slice(0, len(team.rewards[0]))
    obs_dim, action_dim = team.obs[agent].shape[1], team.actions[agent].shape[1]
    return SingleAgentEpisode(
        observations=list(team.obs[agent][rows.start : rows.stop + 1]),
        actions=list(team.actions[agent][rows]),
        rewards=[float(r) for r in team.rewards[agent][rows]],
        infos=[{}] * (rows.stop - rows.start + 1),
        observation_space=gym.spaces.Box(-np.inf, np.inf, (obs_dim,)),
        action_space=gym.spaces.Box(*box, (action_dim,)),
        **settings,
    )


def scaled(team: Team, factor: float) -> Team:
    """Return a team whose actions are larger."""
    return team._replace(actions=[np.float32(factor) * actions for actions in team.actions])


def write_team(path, *agents: Team, box=(-2.0, 2.0)) -> None:
    """Write an episode in which agent i acts as agent 0 of the i-th recording."""
    settings = {"multi_agent_episode_id": "m", "truncated": True, "len_lookback_buffer": 0}
    write_states(
        path,
        [
            single(team, agent_id=f"agent_{i}", box=box, **settings).get_state()
            for i, team in enumerate(agents)
        ],
    )


def test_multi_agent_batches_of_the_json_writer_come_back_number_for_number(tmp_path):
    teams = make_teams([5, 3], DIMS)
    writer = JsonWriter(str(tmp_path / "json"))
    writer.write(batch(*(columns(teams[0], a, 7) for a in (0, 1))))
    # The second episode comes in two pieces, as fragments do.
    second = [columns(teams[1], a, 8, terminated=True, truncated=False) for a in (0, 1)]
    writer.write(batch(*(part(values, slice(0, 2)) for values in second)))
    writer.write(batch(*(part(values, slice(2, 3)) for values in second)))
    episodes, _, _ = run(tmp_path / "json", tmp_path)
    for episode, team in zip(episodes, teams, strict=True):
        assert_equal(episode, team)
    assert ends(episodes[0]) == {"terminated": {"agent_0": [], "agent_1": []}, "truncated": True}
    assert ends(episodes[1]) == {"terminated": {"agent_0": [2], "agent_1": [2]}, "truncated": False}


def test_importing_over_the_recordings_themselves_keeps_them(tmp_path):
    (team,) = make_teams([4], DIMS[:1])
    write_team(tmp_path / "a.parquet", team)
    before = (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(DataError, match=r"holds a\.parquet, which is not of a dataset there"):
        import_dataset("rllib", tmp_path, out=tmp_path, overwrite=True)
    assert (tmp_path / "a.parquet").read_bytes() == before


def test_old_dones_are_terminations_and_discrete_actions_need_their_number(tmp_path):
    values = columns(make_teams([5])[0], 0, 1)
    values["dones"] = values.pop("terminateds") | values.pop("truncateds")
    values["actions"] = np.arange(5) % 3
    JsonWriter(str(tmp_path / "json")).write(SampleBatch(values))
    with pytest.raises(DataError, match="actions of agent_0 are integers.*--num-actions"):
        run(tmp_path / "json", tmp_path)
    episodes, found, _ = run(tmp_path / "json", tmp_path, num_actions=3)
    assert found.spec.agents[0].num_actions == 3
    np.testing.assert_array_equal(episodes[0].actions["agent_0"], np.arange(5) % 3)
    assert ends(episodes[0]) == {"terminated": {"agent_0": [4]}, "truncated": False}


def write_dones(tmp_path, lengths, *, drop=()):
    """Write episodes whose only flag is a done at the last step; return their teams."""
    teams = make_teams(lengths)
    writer = JsonWriter(str(tmp_path / "json"))
    for number, team in enumerate(teams):
        values = columns(team, 0, number)
        values["dones"] = values.pop("terminateds") | values.pop("truncateds")
        writer.write(SampleBatch({name: a for name, a in values.items() if name not in drop}))
    return teams


def test_old_done_at_the_time_limit_is_a_truncation_and_earlier_a_termination(tmp_path):
    teams = write_dones(tmp_path, [5, 3])
    episodes, found, text = run(tmp_path / "json", tmp_path, time_limit=5)
    assert [ends(episode)["terminated"]["agent_0"] for episode in episodes] == [[], [2]]
    assert [episode.truncated for episode in episodes] == [True, False]
    assert found.spec.behaviour["at_limit"] == "truncated"
    assert "no time limit is known" not in text
    for episode, team in zip(episodes, teams, strict=True):
        assert_equal(episode, team, numbers=[0])


def test_old_done_at_the_limit_is_terminal_on_demand_and_without_a_limit_with_a_note(tmp_path):
    write_dones(tmp_path, [5, 3])
    options = {"time_limit": 5, "at_limit": "terminated"}
    episodes, found, _ = run(tmp_path / "json", tmp_path, **options)
    assert [ends(episode)["terminated"]["agent_0"] for episode in episodes] == [[4], [2]]
    assert [episode.truncated for episode in episodes] == [False, False]
    assert found.spec.behaviour["at_limit"] == "terminated"
    lines: list[str] = []
    import_dataset("rllib", tmp_path / "json", out=tmp_path / "none", progress=lines.append)
    assert "no time limit is known: every recorded end counts as terminal" in "\n".join(lines)


def test_old_done_at_the_limit_without_new_obs_makes_the_last_step_the_final_row(tmp_path):
    (team,) = write_dones(tmp_path, [5], drop=["new_obs"])
    episodes, _, _ = run(tmp_path / "json", tmp_path, time_limit=5)
    assert_equal(episodes[0], team, numbers=[0], steps=4)
    assert ends(episodes[0]) == {"terminated": {"agent_0": []}, "truncated": True}


def test_time_limit_of_an_environment_that_does_not_fit_moves_no_end(tmp_path):
    write_dones(tmp_path, [25])
    folder = (tmp_path / "json").rename(tmp_path / "simple_tag")
    episodes, found, text = run(folder, tmp_path)
    assert "no environment is entered" in text
    assert found.spec.time_limit is None
    assert ends(episodes[0]) == {"terminated": {"agent_0": [24]}, "truncated": False}


def test_terminateds_beside_truncateds_are_kept_at_the_limit_and_at_limit_is_refused(tmp_path):
    writer = JsonWriter(str(tmp_path / "json"))
    for number, team in enumerate(make_teams([5, 5])):
        flags = {"terminated": number == 0, "truncated": number == 1}
        writer.write(SampleBatch(columns(team, 0, number, **flags)))
    episodes, _, _ = run(tmp_path / "json", tmp_path, time_limit=5)
    assert [ends(episode)["terminated"]["agent_0"] for episode in episodes] == [[4], []]
    assert [episode.truncated for episode in episodes] == [False, True]
    with pytest.raises(DataError, match="holds truncateds, .* --at-limit truncated has no use"):
        import_dataset(
            "rllib",
            tmp_path / "json",
            out=tmp_path / "other",
            options=ImportOptions(at_limit="truncated", time_limit=5),
        )


def test_dones_beside_truncateds_are_terminal_only_where_nothing_was_truncated(tmp_path):
    writer = JsonWriter(str(tmp_path / "json"))
    for number, team in enumerate(make_teams([5, 5])):
        values = columns(team, 0, number, terminated=number == 0, truncated=number == 1)
        values["dones"] = values.pop("terminateds") | values["truncateds"]
        writer.write(SampleBatch(values))
    episodes, _, _ = run(tmp_path / "json", tmp_path)
    assert [ends(episode)["terminated"]["agent_0"] for episode in episodes] == [[4], []]
    assert [episode.truncated for episode in episodes] == [False, True]


def test_missing_new_obs_makes_the_last_step_the_final_row(tmp_path):
    team = make_teams([5])[0]
    values = columns(team, 0, 1)
    del values["new_obs"]
    JsonWriter(str(tmp_path / "json")).write(SampleBatch(values))
    episodes, _, _ = run(tmp_path / "json", tmp_path)
    assert_equal(episodes[0], team, numbers=[0], steps=4)
    assert episodes[0].truncated


def test_episode_that_was_still_going_on_is_truncated(tmp_path):
    team = make_teams([5])[0]
    JsonWriter(str(tmp_path / "json")).write(SampleBatch(columns(team, 0, 1, truncated=False)))
    episodes, _, text = run(tmp_path / "json", tmp_path)
    assert_equal(episodes[0], team, numbers=[0])
    assert episodes[0].truncated
    assert "1 episodes were still going on" in text


def test_rows_of_the_new_stack_spread_over_files_are_joined_in_order(tmp_path):
    teams = make_teams([4, 3])
    rows = []
    for number, team in enumerate(teams):
        values = columns(team, 0, number)
        values["obs"], values["new_obs"] = (
            [pack(o) for o in values[n]] for n in ("obs", "new_obs")
        )
        rows += [
            {
                "eps_id": f"e{number}",
                "agent_id": None,
                "obs": values["obs"][t],
                "new_obs": values["new_obs"][t],
                "actions": values["actions"][t].tolist(),
                "rewards": float(values["rewards"][t]),
                "terminateds": bool(values["terminateds"][t]),
                "truncateds": bool(values["truncateds"][t]),
            }
            for t in range(len(team.rewards[0]))
        ]
    (tmp_path / "run").mkdir()
    for number, row in enumerate(rows):
        # Names without leading zeros: _10 must come after _9.
        table = pa.Table.from_pylist([row])
        pq.write_table(table, tmp_path / "run" / f"block_{number + 5}.parquet")
    episodes, _, _ = run(tmp_path / "run", tmp_path)
    for episode, team in zip(episodes, teams, strict=True):
        assert_equal(episode, team, numbers=[0])


def test_states_of_single_agent_episodes_are_joined_without_their_lookback(tmp_path):
    teams = make_teams([6, 4])
    whole = single(teams[1], terminated=True, id_="b", len_lookback_buffer=0)
    first = single(teams[0], rows=slice(0, 4), id_="a", len_lookback_buffer=0)
    then = first.cut(len_lookback_buffer=2)
    for t in (4, 5):
        team = teams[0]
        then.add_env_step(
            team.obs[0][t + 1],
            team.actions[0][t],
            float(team.rewards[0][t]),
            {},
            truncated=t == 5,
        )
    states = [first.get_state(), whole.get_state(), then.get_state()]
    write_states(tmp_path / "run" / "a.parquet", states)
    episodes, found, _ = run(tmp_path / "run", tmp_path)
    assert found.spec.agents[0].action_high == (2.0, 2.0)
    assert_equal(episodes[0], scaled(teams[1], 2), numbers=[0])
    assert_equal(episodes[1], scaled(teams[0], 2), numbers=[0])
    assert [episode.truncated for episode in episodes] == [False, True]


def test_states_of_multi_agent_episodes_come_back_number_for_number(tmp_path):
    teams = make_teams([6, 4], DIMS)
    states = []
    for number, team in enumerate(teams):
        steps = len(team.rewards[0])
        episode = MultiAgentEpisode(
            id_=f"m{number}",
            observations=[{"a": team.obs[0][t], "b": team.obs[1][t]} for t in range(steps + 1)],
            actions=[{"a": team.actions[0][t], "b": team.actions[1][t]} for t in range(steps)],
            rewards=[
                {"a": float(team.rewards[0][t]), "b": float(team.rewards[1][t])}
                for t in range(steps)
            ],
            infos=[{"a": {}, "b": {}}] * (steps + 1),
            terminateds={"__all__": number == 1},
            truncateds={"__all__": number == 0},
            len_lookback_buffer=0,
        )
        state = episode.get_state()
        # Functions and buffers, which msgpack does not write; nobody needs them here.
        for key in ("agent_to_module_mapping_fn", "env_t_to_agent_t"):
            state[key] = None
        states.append(state)
    write_states(tmp_path / "run" / "a.parquet", states)
    episodes, _, _ = run(tmp_path / "run", tmp_path)
    for episode, team in zip(episodes, teams, strict=True):
        assert_equal(episode, team, names=["a", "b"])
    assert ends(episodes[0]) == {"terminated": {"a": [], "b": []}, "truncated": True}
    assert ends(episodes[1]) == {"terminated": {"a": [3], "b": [3]}, "truncated": False}


def test_a_time_limit_of_rllibs_own_environments_is_no_end_for_good(tmp_path):
    """They call an episode terminated when nobody goes on, at a time limit too."""
    states = []
    for flags in ({"a": True, "b": True}, {"a": False, "b": False}):
        is_cut = not any(flags.values())
        episode = MultiAgentEpisode(id_=f"m{is_cut}")
        seen = {"a": np.zeros(1), "b": np.ones(1)}
        episode.add_env_reset(observations=seen, infos={})
        episode.add_env_step(
            observations=seen,
            actions={"a": 1, "b": 0},
            rewards={"a": 1.0, "b": 1.0},
            infos={},
            terminateds={**flags, "__all__": True},
            truncateds={"a": is_cut, "b": is_cut, "__all__": is_cut},
        )
        state = episode.get_state()
        for key in ("agent_to_module_mapping_fn", "env_t_to_agent_t"):
            state[key] = None
        states.append(state)
    write_states(tmp_path / "run" / "a.parquet", states)
    (fell, cut), _, _ = run(tmp_path / "run", tmp_path, num_actions=2)
    assert ends(fell) == {"terminated": {"a": [0], "b": [0]}, "truncated": False}
    assert ends(cut) == {"terminated": {"a": [], "b": []}, "truncated": True}


@pytest.mark.parametrize("box", [(-2.0, 2.0), (-0.5, 3.0), (0.0, 0.25)])
def test_normalised_actions_come_in_as_rllib_hands_them_to_the_environment(tmp_path, box):
    team = make_teams([50])[0]
    write_team(tmp_path / "run" / "a.parquet", team, box=box)
    episodes, found, text = run(tmp_path / "run", tmp_path)
    space = gym.spaces.Box(*box, (2,))
    acted = [unsquash_action(action, space) for action in team.actions[0]]
    np.testing.assert_allclose(episodes[0].actions["agent_0"], acted, rtol=0, atol=1e-6)
    agent = found.spec.agents[0]
    assert (agent.action_low, agent.action_high) == ((box[0],) * 2, (box[1],) * 2)
    assert found.spec.behaviour["brought_from_normalised"] == ["agent_0"]
    assert "taken as normalised" in text
    assert "--action-units environment" in text


@pytest.mark.parametrize("box", [(-np.inf, np.inf), (-2.0, np.inf), (-1.0, 1.0)])
def test_actions_that_rllib_hands_on_as_they_are_stay_bit_for_bit(tmp_path, box):
    team = make_teams([50])[0]
    write_team(tmp_path / "run" / "a.parquet", team, box=box)
    episodes, found, text = run(tmp_path / "run", tmp_path)
    assert_equal(episodes[0], team, numbers=[0])
    assert found.spec.agents[0].action_high == (1.0, 1.0)
    assert ("no bounded action box of ['agent_0']" in text) == bool(np.isinf(box).any())
    assert "taken as" not in text


def test_actions_beyond_1_are_the_environments_for_the_whole_team(tmp_path):
    small, large = make_teams([50, 50])
    large = scaled(large, 1.9)
    write_team(tmp_path / "run" / "a.parquet", small, large)
    episodes, found, text = run(tmp_path / "run", tmp_path)
    np.testing.assert_array_equal(episodes[0].actions["agent_0"], small.actions[0])
    np.testing.assert_array_equal(episodes[0].actions["agent_1"], large.actions[0])
    assert found.spec.agents[0].action_high == (2.0, 2.0)
    assert found.spec.behaviour["brought_from_normalised"] == []
    assert "taken as the environment's: they leave [-1, 1]" in text
    assert "--action-units normalised" in text


def test_actions_that_stay_in_a_box_within_1_are_the_environments(tmp_path):
    team = scaled(make_teams([50])[0], 0.4)
    write_team(tmp_path / "run" / "a.parquet", team, box=(-0.4, 0.4))
    episodes, _, text = run(tmp_path / "run", tmp_path)
    assert_equal(episodes[0], team, numbers=[0])
    assert "they stay in its box, which is a part of [-1, 1]" in text


def test_unbounded_policy_is_clipped_on_demand_as_rllib_does(tmp_path):
    team = scaled(make_teams([50])[0], 3)
    write_team(tmp_path / "run" / "a.parquet", team)
    with pytest.raises(DataError, match=r"out of \[-1, 1\] and out of the action box.*--clip-act"):
        run(tmp_path / "run", tmp_path)
    episodes, _, _ = run(tmp_path / "run", tmp_path, clip_actions=True)
    expected = np.clip(2 * team.actions[0], -2, 2)
    np.testing.assert_allclose(episodes[0].actions["agent_0"], expected, rtol=0, atol=1e-6)


def test_action_units_decide_against_the_range(tmp_path):
    team = make_teams([50])[0]
    write_team(tmp_path / "run" / "a.parquet", team)
    kept, _, text = run(tmp_path / "run", tmp_path, action_units="environment")
    assert_equal(kept[0], team, numbers=[0])
    assert "taken as" not in text
    large = scaled(team, 1.5)
    write_team(tmp_path / "wide" / "a.parquet", large, box=(-100.0, 100.0))
    out = tmp_path / "wide-out"
    options = ImportOptions(action_units="normalised", clip_actions=True)
    import_dataset("rllib", tmp_path / "wide", out=out, options=options)
    expected = np.clip(100 * large.actions[0], -100, 100)
    np.testing.assert_allclose(read_back(out)[0].actions["agent_0"], expected, rtol=1e-6)


def test_files_without_a_box_keep_their_actions_unless_it_is_declared(tmp_path):
    team = make_teams([50])[0]
    JsonWriter(str(tmp_path / "json")).write(SampleBatch(columns(team, 0, 1)))
    with pytest.raises(DataError, match=r"hold none of \['agent_0'\]; give it with --action-low"):
        run(tmp_path / "json", tmp_path, action_units="normalised")
    episodes, _, text = run(tmp_path / "json", tmp_path)
    assert_equal(episodes[0], team, numbers=[0])
    assert "no bounded action box of ['agent_0']" in text
    options = ImportOptions(action_low=-2, action_high=2)
    import_dataset("rllib", tmp_path / "json", out=tmp_path / "declared", options=options)
    assert_equal(read_back(tmp_path / "declared")[0], scaled(team, 2), numbers=[0])


TEAMS = [("m1", 0), ("m1", 1), ("m2", 0), ("m2", 1)]


@pytest.mark.parametrize(
    "files",
    [[TEAMS], [TEAMS[::2], TEAMS[1::2]], [TEAMS[::2], TEAMS[:0:-2]], [TEAMS[:1], TEAMS[1:]]],
    ids=["one file", "a file per agent", "in another order", "cut within a team"],
)
def test_single_episodes_of_a_team_are_joined_wherever_they_lie(tmp_path, files):
    teams = dict(zip(("m1", "m2"), make_teams([5, 3], DIMS), strict=True))
    for number, episodes in enumerate(files):
        states = [
            single(
                teams[team],
                agent,
                box=(-1.0, 1.0),
                truncated=True,
                agent_id=f"agent_{agent}",
                multi_agent_episode_id=team,
                len_lookback_buffer=0,
            ).get_state()
            for team, agent in episodes
        ]
        write_states(tmp_path / "run" / f"{number}.parquet", states)
    found, _, text = run(tmp_path / "run", tmp_path)
    assert len(found) == 2
    for episode in found:
        assert_equal(episode, teams["m1" if len(episode) == 5 else "m2"])
    assert "lack agents" not in text
    assert "still going on" not in text


def test_files_of_single_agents_are_read_side_by_side(tmp_path):
    team = make_teams([3])[0]
    for agent in (0, 1):
        settings = {"agent_id": f"agent_{agent}", "truncated": True, "len_lookback_buffer": 0}
        states = [
            single(team, agent, multi_agent_episode_id=f"m{i}", **settings).get_state()
            for i in range(3)
        ]
        for part_number, half in enumerate((states[:2], states[2:])):
            write_states(tmp_path / f"{agent}_{part_number}.parquet", half)
    pieces = [unit[0] for unit in side_by_side(survey(find_files(tmp_path)).groups)]
    order = [(piece.episode, piece.agent) for piece in pieces]
    assert order == [(f"m{i}", f"agent_{agent}") for i in range(3) for agent in (0, 1)]


def test_teams_that_lack_an_agent_are_left_out_and_reported(tmp_path):
    teams = make_teams([5, 4, 3])
    writer = JsonWriter(str(tmp_path / "json"))
    for number in (0, 1):
        writer.write(batch(*(columns(teams[number], a, number) for a in (0, 1))))
    writer.write(SampleBatch(columns(teams[2], 0, 2)))
    episodes, _, text = run(tmp_path / "json", tmp_path)
    assert [len(episode) for episode in episodes] == [5, 4]
    assert "1 episodes lack agents" in text
    assert "episode 2 has no steps of ['agent_1'], it holds ['agent_0']; they are left out" in text
    import_dataset(
        "rllib", tmp_path / "json", out=tmp_path / "one", options=ImportOptions(agents=("agent_0",))
    )
    assert [len(episode) for episode in read_back(tmp_path / "one")] == [5, 4, 3]


def test_teams_that_mostly_lack_an_agent_are_an_error(tmp_path):
    team = make_teams([5])[0]
    writer = JsonWriter(str(tmp_path / "json"))
    for agent in (0, 1):
        writer.write(SampleBatch(columns(team, agent, 7 + agent)))
    with pytest.raises(DataError, match=r"2 episodes lack agents.*; 0 hold every agent.*--agents"):
        run(tmp_path / "json", tmp_path)


def test_agents_are_in_the_order_of_their_numbers(tmp_path):
    write_team(tmp_path / "run" / "a.parquet", *make_teams([3] * 11), box=(-1.0, 1.0))
    _, found, _ = run(tmp_path / "run", tmp_path)
    assert found.spec.agent_ids == tuple(f"agent_{i}" for i in range(11))


def test_agents_of_different_length_are_named(tmp_path):
    team = make_teams([5])[0]
    short = part(columns(team, 1, 1), slice(0, 3))
    short["truncateds"][-1] = True
    JsonWriter(str(tmp_path / "json")).write(batch(columns(team, 0, 1), short))
    with pytest.raises(
        DataError, match=r"episode 1: agents must act together, got .*'agent_0': 5, 'agent_1': 3"
    ):
        run(tmp_path / "json", tmp_path)


def test_steps_out_of_order_are_noticed(tmp_path):
    values = columns(make_teams([5])[0], 0, 1)
    turned = {name: array[[0, 2, 1, 3, 4]] for name, array in values.items()}
    JsonWriter(str(tmp_path / "json")).write(SampleBatch(turned))
    with pytest.raises(
        DataError, match="episode 1, agent agent_0: the observation of step 1 is not"
    ):
        run(tmp_path / "json", tmp_path)


@pytest.mark.parametrize("rows", [[0, 1, 3, 4], [0, 2, 1, 3, 4], [0, 1, 1, 2, 3, 4]])
@pytest.mark.parametrize("has_next", [False, True])
def test_steps_that_are_missing_twice_or_out_of_order_are_noticed_by_t(tmp_path, rows, has_next):
    values = columns(make_teams([5])[0], 0, 1) | {"t": np.arange(5)}
    if not has_next:
        del values["new_obs"]
    # In two pieces, of which each is in order.
    writer = JsonWriter(str(tmp_path / "json"))
    for piece in (rows[:2], rows[2:]):
        writer.write(SampleBatch({name: array[piece] for name, array in values.items()}))
    before, after = next((a, b) for a, b in itertools.pairwise(rows) if b != a + 1)
    words = f"agent agent_0: step {after} follows step {before}: steps are missing"
    with pytest.raises(DataError, match=words):
        run(tmp_path / "json", tmp_path)


def test_steps_without_next_observation_or_number_are_taken_as_they_stand_with_a_note(tmp_path):
    values = columns(make_teams([5])[0], 0, 1)
    del values["new_obs"]
    for name, column in (("bare", {}), ("numbered", {"t": np.arange(3, 8)})):
        JsonWriter(str(tmp_path / name)).write(SampleBatch(values | column))
    assert "none that is missing is noticed" in run(tmp_path / "bare", tmp_path / "first")[2]
    assert "missing" not in run(tmp_path / "numbered", tmp_path / "second")[2]


def test_cut_line_missing_column_and_long_episode_are_named(tmp_path):
    values = columns(make_teams([5])[0], 0, 1)
    writer = JsonWriter(str(tmp_path / "json"))
    writer.write(SampleBatch(values))
    with pytest.raises(
        DataError, match="episode 1 has 5 steps, expected at most the time limit of 4"
    ):
        run(tmp_path / "json", tmp_path, time_limit=4)
    writer.write(SampleBatch({name: a for name, a in values.items() if name != "rewards"}))
    with pytest.raises(DataError, match="line 2 lacks the column rewards, it holds"):
        run(tmp_path / "json", tmp_path)
    file = next((tmp_path / "json").iterdir())
    file.write_text(file.read_text()[:-20])
    with pytest.raises(DataError, match="line 2 is not JSON"):
        run(tmp_path / "json", tmp_path)


class _Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_pickles_never_run_code(tmp_path, capsys):
    evil = base64.b64encode(lz4.frame.compress(pickle.dumps(_Evil()))).decode()
    values = columns(make_teams([5])[0], 0, 1)
    rows = {name: [array[0].tolist()] for name, array in values.items()} | {"obs": [evil]}
    (tmp_path / "run").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "run" / "a.parquet")
    with pytest.raises(DataError, match="names builtins.print, only arrays are allowed"):
        run(tmp_path / "run", tmp_path)
    assert "code ran" not in capsys.readouterr().out
