"""Datasets of teams: discrete actions, a prey that is an agent, level-based foraging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rllib_om2p import envs
from rllib_om2p.behaviour import make_dataset, policies, reroll
from rllib_om2p.behaviour.teams import RANDOM_SHARE, nearest_force
from rllib_om2p.data.audit import audit
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.schema import AgentSpec, Episode
from rllib_om2p.envs.prey import cite_prey, load_prey, own_prey_file, save_prey

SPREAD, TAG = "mpe/simple_spread", "mpe/simple_tag"
FORAGING = "lbf/Foraging-8x8-3p-2f"
FORCES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])


def _make(out: Path, env: str, quality: str, **kwargs: Any) -> OfflineDataset:
    return OfflineDataset.open(str(make_dataset(env, quality, out=out, **kwargs)))


def _replay(env: Any, episode: Episode) -> list[dict[str, Any]]:
    """Play an episode's actions in an environment that was reset; return what each step gave."""
    steps = []
    for step in range(len(episode)):
        acted = {name: actions[step] for name, actions in episode.actions.items()}
        steps.append(dict(zip(("obs", "rewards", "terminateds"), env.step(acted), strict=False)))
    return steps


@pytest.mark.parametrize("quality", ["random", "medium", "expert", "medium-expert"])
def test_discrete_set_has_numbers_as_actions_and_a_near_return(
    tmp_path: Path, quality: str
) -> None:
    dataset = _make(tmp_path, SPREAD, quality, steps=10_000, continuous_actions=False)
    spec = dataset.spec
    assert spec.dataset_id == f"{SPREAD}/{quality}-discrete"
    assert spec.env_kwargs == {"continuous_actions": False}
    assert spec.agents == tuple(AgentSpec.discrete(f"agent_{i}", 18, 5) for i in range(3))
    assert not spec.has_action_masks
    # What the continuous policies make is the most that five forces can be worth.
    bounds = {
        "random": (145, 175),
        "medium": (245, 285),
        "expert": (430, 500),
        "medium-expert": (255, 310),
    }
    low, high = bounds[quality]
    assert low < dataset.statistics().team_return.mean < high
    assert not [notice for notice in audit(dataset).notices if "never takes" in notice]


def test_discrete_actions_are_the_nearest_to_the_policys_but_for_a_random_share(
    tmp_path: Path,
) -> None:
    dataset = _make(tmp_path, SPREAD, "medium", steps=10_000, continuous_actions=False)
    policy = policies.load_policy(policies.path(f"{SPREAD}/medium"))
    same = []
    for episode in dataset.episodes():
        obs = np.stack([episode.obs[name][:-1] for name in dataset.spec.agent_ids], axis=1)
        expected = nearest_force(policy.act(obs))
        acted = np.stack([episode.actions[name] for name in dataset.spec.agent_ids], axis=1)
        same.append(acted == expected)
    # One in five random actions is the nearest force as well.
    share = 1 - RANDOM_SHARE * 4 / 5
    count = np.size(same)
    assert abs(np.mean(same) - share) < 5 * (share * (1 - share) / count) ** 0.5


def test_nearest_force_is_the_nearest() -> None:
    forces = np.random.default_rng(0).uniform(-1, 1, (500, 2))
    expected = [np.argmin(np.linalg.norm(FORCES - force, axis=1)) for force in forces]
    np.testing.assert_array_equal(nearest_force(forces), expected)
    assert nearest_force(np.array([[0.3, -0.4], [0.1, 0.9]])).tolist() == [0, 4]


@pytest.mark.parametrize("discrete", [False, True])
def test_prey_is_recorded_as_an_agent_with_its_own_reward(tmp_path: Path, discrete: bool) -> None:
    dataset = _make(
        tmp_path, TAG, "medium", steps=500, prey="agent", continuous_actions=not discrete
    )
    spec = dataset.spec
    assert spec.agent_ids == ("agent_0", "agent_1", "agent_2", "prey")
    assert [agent.obs_dim for agent in spec.agents] == [16, 16, 16, 14]
    assert spec.env_kwargs["prey"] == "agent"
    assert spec.dataset_id == f"{TAG}/medium-{'discrete-' if discrete else ''}prey-agent"
    said = spec.behaviour["medium"]["prey_agent"]
    assert said["source"] == own_prey_file(TAG).name
    assert spec.references == {}
    episodes = list(dataset.episodes())
    assert len(episodes) == 20
    # The prey earns the opposite of the predators, less a penalty outside the arena.
    for episode in episodes:
        assert (episode.rewards["prey"] <= -episode.rewards["agent_0"] + 1e-5).all()
    assert any((e.rewards["prey"] + e.rewards["agent_0"] > -1e-5).all() for e in episodes)
    assert (np.concatenate([e.rewards["agent_0"] for e in episodes]) > 5).any()


def test_recorded_prey_is_our_own_with_the_collection_noise(tmp_path: Path) -> None:
    dataset = _make(tmp_path, TAG, "expert", steps=5_000, prey="agent")
    prey = load_prey(TAG)
    assert prey is not None
    errors = []
    for episode in dataset.episodes():
        means = prey(episode.obs["prey"][:-1])
        inside = np.abs(means) < 0.4  # clipping is then two standard deviations away
        errors.append((episode.actions["prey"] - means)[inside])
    noise = np.concatenate(errors)
    assert len(noise) > 500
    assert abs(noise.std() - 0.2) < 0.02


def _prey_that_pushes(file: Path, force: float) -> Path:
    """Write a prey that always wants the same force."""
    state = {f"fc{i}.weight": np.zeros(s) for i, s in ((1, (8, 14)), (2, (8, 8)), (3, (2, 8)))}
    state |= {f"fc{i}.bias": np.full(size, force) for i, size in ((1, 8), (2, 8), (3, 2))}
    save_prey(file, state, {})
    return file


def test_discrete_predators_hunt_the_prey_that_is_given(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"continuous_actions": False}
    sets = {}
    for name, force in (("still", 0.0), ("left", -1.0)):
        file = _prey_that_pushes(tmp_path / f"{name}.safetensors", force)
        sets[name] = _make(tmp_path / name, TAG, "expert", steps=2_500, prey=file, **settings)
        spec = sets[name].spec
        assert spec.env_kwargs == {"continuous_actions": False, "prey": cite_prey(TAG, file)}
        assert spec.behaviour["prey"] == cite_prey(TAG, file)
        assert str(tmp_path) not in spec.to_json()
    still, left = (
        np.stack([episode.obs["agent_0"] for episode in dataset.episodes()])
        for dataset in sets.values()
    )
    assert (still[:, 0] == left[:, 0]).all()
    assert not (still == left).all()
    # The observation ends with the prey's velocity.
    assert (still[:, :10, -2:] == 0).mean() > 0.5
    assert (left[:, 1, -2:] < 0).mean() > 0.9
    file = tmp_path / "still.safetensors"
    returns = reroll(TAG, "expert", range(100), prey=file, **settings)
    own = reroll(TAG, "expert", range(100), **settings)
    summary = sets["still"].statistics().team_return
    error = np.hypot(returns.std() / 10, summary.std / 10)
    assert abs(returns.mean() - summary.mean) < 4 * error
    assert not np.array_equal(returns, own)


def test_card_of_a_discrete_set_names_the_prey_that_is_our_own(tmp_path: Path) -> None:
    spec = _make(tmp_path, TAG, "medium", steps=25, continuous_actions=False).spec
    assert spec.env_kwargs == {"continuous_actions": False}
    assert spec.behaviour["prey"]["source"] == own_prey_file(TAG).name


@pytest.mark.parametrize("env", [SPREAD, TAG, FORAGING])
def test_same_seed_writes_the_same_bytes_and_another_seed_does_not(
    tmp_path: Path, env: str
) -> None:
    if env == FORAGING:
        pytest.importorskip("lbforaging", reason="needs rllib-om2p[lbf]")
    settings: dict[str, Any] = {} if env == FORAGING else {"continuous_actions": False}
    found = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_dataset(env, "expert", out=tmp_path / folder, steps=250, seed=seed, **settings)
        found.append({file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()})
    assert found[0] == found[1]
    assert found[0]["part-00000.parquet"] != found[2]["part-00000.parquet"]


def test_foraging_set_replays_in_the_environment_with_masks_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("lbforaging", reason="needs rllib-om2p[lbf]")
    dataset = _make(tmp_path, FORAGING, "medium", steps=800)
    spec = dataset.spec
    assert spec.has_action_masks
    assert spec.agents == tuple(AgentSpec.discrete(f"agent_{i}", 15, 6) for i in range(3))
    assert dataset.num_transitions == pytest.approx(800, rel=0.2)
    env = envs.make(FORAGING)
    starts = np.random.default_rng([0, 0])
    ends = set()
    episodes = list(dataset.episodes())
    # `assign` shuffles the components first, then the start states are drawn.
    starts.permutation(len(episodes))
    seeds = starts.integers(2**31, size=len(episodes))
    for episode, seed in list(zip(episodes, seeds, strict=True))[:12]:
        obs, _ = env.reset(seed=int(seed))
        played = _replay(env, episode)
        seen = [obs, *(step["obs"] for step in played)]
        assert env.agents == []
        for name in spec.agent_ids:
            np.testing.assert_array_equal(
                episode.obs[name], [o[name]["observations"] for o in seen]
            )
            masks = np.array([view[name]["action_mask"] for view in seen], bool)
            assert episode.action_masks is not None
            np.testing.assert_array_equal(episode.action_masks[name], masks)
            assert masks[np.arange(len(episode)), episode.actions[name]].all()
            earned = [step["rewards"][name] for step in played]
            np.testing.assert_allclose(episode.rewards[name], earned, rtol=1e-6)
            ended = [step["terminateds"][name] for step in played]
            np.testing.assert_array_equal(episode.terminateds[name], ended)
        assert episode.truncated is not bool(ended[-1])
        ends.add(episode.truncated)
    assert ends == {False, True}


def test_mixture_holds_the_asked_fraction_of_steps_though_experts_are_quicker(
    tmp_path: Path,
) -> None:
    pytest.importorskip("lbforaging", reason="needs rllib-om2p[lbf]")
    dataset = _make(tmp_path, FORAGING, "medium-expert", steps=2_000)
    assert dataset.spec.mixture == {"medium": 0.5, "expert": 0.5}
    steps = np.zeros(2)
    for episode in dataset.episodes():
        assert episode.behaviour_id is not None
        steps[episode.behaviour_id] += len(episode)
    assert steps[1] / steps.sum() == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(
    ("env", "settings"),
    [(SPREAD, {"continuous_actions": False}), (TAG, {"prey": "agent"}), (FORAGING, {})],
)
def test_reroll_makes_the_return_of_the_dataset(
    tmp_path: Path, env: str, settings: dict[str, Any]
) -> None:
    if env == FORAGING:
        pytest.importorskip("lbforaging", reason="needs rllib-om2p[lbf]")
    steps = 1_500 if env == FORAGING else 10_000
    summary = _make(tmp_path, env, "medium", steps=steps, **settings).statistics().team_return
    returns = reroll(env, "medium", range(50 if env == FORAGING else 100), **settings)
    error = np.hypot(returns.std() / len(returns) ** 0.5, summary.std / (steps / 50) ** 0.5)
    assert abs(returns.mean() - summary.mean) < 4 * error


@pytest.mark.parametrize(
    ("env", "kwargs", "text"),
    [
        (SPREAD, {"prey": "agent"}, "has no prey='agent'; leave it out"),
        ("mamujoco/3x1-Hopper", {"continuous_actions": False}, "has no continuous_actions=False"),
        (
            SPREAD,
            {"quality": "medium-replay", "continuous_actions": False},
            "no medium-replay of mpe/simple_spread with {'continuous_actions': False}",
        ),
        (FORAGING, {"quality": "medium-replay"}, "a scripted team: no training run"),
        (FORAGING, {"workers": 2}, "is played in this process, got workers=2"),
        (FORAGING, {"policy_folder": "/nowhere"}, "where a scripted team acts; got '/nowhere'"),
    ],
)
def test_wrong_request_is_refused_and_leaves_nothing(
    tmp_path: Path, env: str, kwargs: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        make_dataset(env, **{"quality": "medium", "out": tmp_path / "data", **kwargs})
    assert not (tmp_path / "data").exists()


def test_card_says_how_the_forces_became_numbers(tmp_path: Path) -> None:
    make_dataset(SPREAD, "medium", out=tmp_path, steps=25, continuous_actions=False)
    said = json.loads((tmp_path / "dataset_card.json").read_text())["spec"]["behaviour"]["medium"]
    assert said["discrete_actions"] == "the nearest unit force"
    assert said["random_share"] == RANDOM_SHARE
    assert "collection_noise" not in said
