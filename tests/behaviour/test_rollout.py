"""Datasets of the project's own policies."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rllib_om2p import envs
from rllib_om2p.behaviour import make_behaviour, make_dataset, policies, reroll
from rllib_om2p.behaviour.masac_recipes import masac_recipe
from rllib_om2p.behaviour.recipes import MATD3Recipe, recipe
from rllib_om2p.behaviour.requests import default_steps
from rllib_om2p.envs.prey import own_prey_file, save_prey
from rllib_om2p.envs.rollout import evaluate_policy

NAME = "mpe/simple_spread"
TAG, WORLD = "mpe/simple_tag", "mpe/simple_world"
# Any return is within the tolerance, so that the first check ends the run, after 800 steps.
SMALL = MATD3Recipe(
    targets={"medium": 120.0},
    tolerance=0.9,
    total_steps=800,
    buffer_steps=800,
    uniform_steps=400,
    check_every=800,
    check_episodes=20,
    batch_size=32,
)
MASAC_RECIPE = masac_recipe("mamujoco/3x1-Hopper")


def _make(out: Path, quality: str, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    make_dataset(NAME, quality, out=out, **kwargs)
    table = pq.read_table(sorted(out.glob("*.parquet")))
    return table, json.loads((out / "dataset_card.json").read_text())


def _column(table: Any, name: str) -> Any:
    return np.stack(table[name].to_numpy(zero_copy_only=False))


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("quality", ["medium", "expert"])
@pytest.mark.parametrize("env", [NAME, TAG, WORLD])
def test_repository_policy_makes_the_papers_return_with_the_collection_noise(
    env: str, quality: str
) -> None:
    policy = policies.load_policy(policies.path(f"{env}/{quality}"))
    act = policy.noisy(np.random.default_rng(0))
    returns = evaluate_policy(env, act, range(2_000))
    assert returns.mean() == pytest.approx(recipe(env).targets[quality], rel=0.1)
    assert policy.metadata["quality"] == quality


@pytest.mark.parametrize("quality", ["medium", "expert"])
@pytest.mark.parametrize("env", [TAG, WORLD])
def test_repository_policy_was_trained_against_the_prey_that_is_shipped(
    env: str, quality: str
) -> None:
    policy = policies.load_policy(policies.path(f"{env}/{quality}"))
    assert policy.metadata["prey"]["sha256"] == _sha256(own_prey_file(env))


def test_damaged_or_missing_policy_is_refused(tmp_path: Path) -> None:
    source = policies.path(f"{NAME}/medium")
    data = bytearray(source.read_bytes())
    data[-1] ^= 1
    damaged = tmp_path / source.name
    damaged.write_bytes(data)
    with pytest.raises(ValueError, match=f"{source.name} is damaged"):
        policies.load_policy(damaged)
    with pytest.raises(ValueError, match=r"'mpe/simple_spread/poor'; .*mpe-simple_spread-medium"):
        policies.path(f"{NAME}/poor")
    with pytest.raises(ValueError, match="there is none"):
        policies.path(f"{NAME}/medium", folder=tmp_path / "empty")


@pytest.mark.parametrize(
    ("env", "quality", "target"),
    [
        (NAME, "random", None),
        (NAME, "medium-expert", None),
        (NAME, "medium-replay", 120.0),
        (TAG, "medium-expert", None),
        (TAG, "medium-replay", -6.0),
        (WORLD, "medium-replay", -6.0),
    ],
)
def test_same_seed_writes_the_same_bytes_and_another_seed_does_not(
    tmp_path: Path, env: str, quality: str, target: float | None
) -> None:
    settings = None
    if target is not None:
        settings = dataclasses.replace(SMALL, targets={"medium": target}, tolerance=3.0)
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_dataset(env, quality, out=tmp_path / folder, steps=500, seed=seed, settings=settings)
    a, b, c = (_bytes(tmp_path / folder) for folder in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert a["part-00000.parquet"] != c["part-00000.parquet"]


def test_mixture_holds_the_asked_fraction_of_expert_transitions_and_says_whose_they_are(
    tmp_path: Path,
) -> None:
    table, card = _make(tmp_path, "medium-expert", steps=5_000, expert_fraction=0.3)
    assert card["spec"]["mixture"] == {"medium": 0.7, "expert": 0.3}
    assert card["spec"]["behaviour"]["policies"] == ["medium", "expert"]
    valid = table["valid"].to_numpy()
    acted = table["behaviour_id"].to_numpy()[valid]
    assert len(acted) == 5_000
    assert acted.mean() == 0.3
    # In no order: a run of one policy is 1 / 0.42 = 2.4 episodes on average, not 100.
    assert 60 < np.count_nonzero(np.diff(acted)) < 110
    obs = np.stack([_column(table, f"obs_agent_{i}")[valid] for i in range(3)], axis=1)
    actions = np.stack([_column(table, f"action_agent_{i}")[valid] for i in range(3)], axis=1)
    for index, quality in enumerate(("medium", "expert")):
        policy = policies.load_policy(policies.path(f"{NAME}/{quality}"))
        errors = np.abs(actions - policy.act(obs)).mean(axis=(1, 2))
        # Clipped noise of 0.2 has a mean size of at most 0.16; the other policy is far from it.
        assert errors[acted == index].mean() < 0.16
        assert errors[acted != index].mean() > 0.3


def test_rows_are_the_simulators_transitions_and_only_time_limits_end_them(tmp_path: Path) -> None:
    table, card = _make(tmp_path, "medium", steps=1_000)
    assert card["counts"] == {"episodes": 40, "transitions": 1_000, "rows": 1_040}
    valid = table["valid"].to_numpy().reshape(40, 26)
    assert valid[:, :25].all()
    assert not valid[:, 25].any()
    truncated = table["truncated"].to_numpy().reshape(40, 26)
    np.testing.assert_array_equal(np.argwhere(truncated)[:, 1], 24)
    for agent in range(3):
        assert not table[f"terminated_agent_{agent}"].to_numpy().any()
        obs = _column(table, f"obs_agent_{agent}").reshape(40, 26, 18)
        # Position moves with the new velocity: x' = x + 0.1 v'.
        np.testing.assert_allclose(
            obs[:, 1:, 2:4], obs[:, :-1, 2:4] + 0.1 * obs[:, 1:, :2], atol=1e-6
        )


def test_card_names_the_policies_the_seeds_and_the_references(tmp_path: Path) -> None:
    _, card = _make(tmp_path, "expert", steps=500, seed=3)
    spec = card["spec"]
    assert (spec["env"], spec["quality"]) == (NAME, "expert")
    assert spec["team_return"] == "mean over agents"
    assert spec["time_limit"] == 25
    assert spec["seeds"] == {"rollout": 3}
    assert (spec["references"]["random"], spec["references"]["expert"]) == (159.8, 516.8)
    expert = spec["behaviour"]["expert"]
    stored = policies.load_policy(policies.path(f"{NAME}/expert"))
    assert expert["weights_sha256"] == stored.metadata["weights_sha256"]
    assert expert["collection_noise"] == 0.2
    assert expert["hyperparameters"]["batch_size"] == 256
    assert {"numpy", "torch"} <= spec["package_versions"].keys()


def test_card_names_the_prey_and_the_environment_is_made_with_it(tmp_path: Path) -> None:
    make_dataset(WORLD, "medium", out=tmp_path / "own", steps=100)
    spec = json.loads((tmp_path / "own" / "dataset_card.json").read_text())["spec"]
    assert spec["env_kwargs"] == {}
    assert spec["behaviour"]["prey"]["sha256"] == _sha256(own_prey_file(WORLD))
    assert spec["behaviour"]["prey"]["source"] == "mpe-simple_world.safetensors"

    still = {f"fc{i}.weight": np.zeros(s) for i, s in ((1, (8, 22)), (2, (8, 8)), (3, (2, 8)))}
    still |= {f"fc{i}.bias": np.zeros(size) for i, size in ((1, 8), (2, 8), (3, 2))}
    file = tmp_path / "still.safetensors"
    save_prey(file, still, {})
    make_dataset(WORLD, "medium", out=tmp_path / "other", steps=2_500, prey=file)
    card = json.loads((tmp_path / "other" / "dataset_card.json").read_text())
    cited = {"source": file.name, "sha256": _sha256(file)}
    assert card["spec"]["behaviour"]["prey"] == card["spec"]["env_kwargs"]["prey"] == cited
    assert str(tmp_path) not in json.dumps(card)
    with pytest.raises(ValueError, match=r"prey of still\.safetensors .* say where that file lies"):
        envs.make(WORLD, **card["spec"]["env_kwargs"])
    env = envs.make(WORLD, prey={**cited, "file": str(file)})
    np.testing.assert_array_equal(env.unwrapped.prey(np.ones((1, 22))), 0.0)
    # The predators know only the prey that they learned to catch.
    returns = reroll(WORLD, "medium", range(500), prey=file)
    assert abs(returns.mean() - reroll(WORLD, "medium", range(500)).mean()) > 20
    error = np.hypot(returns.std() / 500**0.5, card["statistics"]["team_return"]["std"] / 10)
    assert abs(card["statistics"]["team_return"]["mean"] - returns.mean()) < 4 * error
    # What the papers' predators made of the papers' prey is no scale for one that stands still.
    assert spec["references"]["expert"] == 79.5
    assert card["spec"]["references"] == {}


def test_medium_replay_is_by_default_as_long_as_the_papers() -> None:
    lengths = [default_steps(env, "medium-replay") for env in (NAME, TAG, WORLD)]
    assert lengths == [97_500, 62_500, 80_000]
    assert default_steps(TAG, "medium") == 100_000


def test_medium_replay_is_the_newest_part_of_the_buffer(tmp_path: Path) -> None:
    whole, _ = _make(tmp_path / "whole", "medium-replay", steps=800, settings=SMALL)
    newest, card = _make(tmp_path / "newest", "medium-replay", steps=300, settings=SMALL)
    for name in ("obs_agent_1", "action_agent_2"):
        np.testing.assert_array_equal(_column(newest, name), _column(whole, name)[-12 * 26 :])
    assert card["spec"]["seeds"] == {"training": 0}
    assert card["spec"]["behaviour"]["medium-replay"]["buffer_episodes"] == 32
    with pytest.raises(ValueError, match="holds 800 joint steps, got steps=825"):
        make_dataset(NAME, "medium-replay", out=tmp_path / "c", steps=825, settings=SMALL)


def test_policies_of_an_own_folder_are_used(tmp_path: Path) -> None:
    file = make_behaviour(NAME, tmp_path / "own", seed=5, settings=SMALL)["medium"]
    _, card = _make(tmp_path / "data", "medium", steps=100, policy_folder=tmp_path / "own")
    own = policies.load_policy(file)
    described = card["spec"]["behaviour"]["medium"]
    assert described["weights_sha256"] == own.metadata["weights_sha256"]
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(ValueError, match="No behaviour policy"):
        reroll(NAME, "medium", [1], policy_folder=tmp_path / "own")


def test_reroll_acts_as_the_dataset_did_from_the_given_starts(tmp_path: Path) -> None:
    _, card = _make(tmp_path, "medium-expert", steps=25_000, expert_fraction=0.5)
    seeds = np.arange(1_000)
    returns = reroll(NAME, "medium-expert", seeds, expert_fraction=0.5)
    assert returns.shape == (1_000,)
    statistics = card["statistics"]["team_return"]
    standard_error = statistics["std"] * np.sqrt(2 / 1_000)
    assert abs(returns.mean() - statistics["mean"]) < 4 * standard_error
    np.testing.assert_array_equal(
        returns, reroll(NAME, "medium-expert", seeds, expert_fraction=0.5)
    )
    # The same starts for every behaviour: good starts are good for both policies.
    medium, expert = (reroll(NAME, quality, seeds) for quality in ("medium", "expert"))
    assert expert.mean() > medium.mean() + 150
    assert np.corrcoef(medium, expert)[0, 1] > 0.15


def test_taken_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    make_dataset(NAME, "random", out=tmp_path, steps=25)
    lines: list[str] = []
    with pytest.raises(ValueError, match="already holds a dataset"):
        make_dataset(NAME, "medium-replay", out=tmp_path, progress=lines.append)
    assert lines == []
    make_dataset(NAME, "random", out=tmp_path, steps=50, overwrite=True)
    card = json.loads((tmp_path / "dataset_card.json").read_text())
    assert card["counts"]["transitions"] == 50


def test_reroll_of_a_replay_points_to_the_dataset() -> None:
    with pytest.raises(ValueError, match="compare with the mean return of the dataset"):
        reroll(NAME, "medium-replay", [1, 2])


def test_reroll_refuses_what_it_would_not_use() -> None:
    with pytest.raises(ValueError, match="belongs to medium-expert"):
        reroll(NAME, "medium", [1, 2], expert_fraction=0.5)
    with pytest.raises(ValueError, match="has no effect on random"):
        reroll(NAME, "random", [1, 2], policy_folder="/nowhere")


def test_recipe_of_another_algorithm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mpe/simple_spread must be a MATD3Recipe, got MASACRec"):
        make_behaviour(NAME, tmp_path / "policies", settings=MASAC_RECIPE)
    with pytest.raises(ValueError, match="policies of mpe/simple_tag are the predators', got prey"):
        make_behaviour(TAG, tmp_path / "policies", prey="agent")
    assert not (tmp_path / "policies").exists()


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"quality": "good"}, "quality must be one of .*'medium-replay'.* got 'good'"),
        ({"quality": "medium", "steps": 110}, "multiple of 25, got 110; the next one is 125"),
        ({"quality": "medium", "steps": 0}, "multiple of 25, got 0; the next one is 25"),
        ({"quality": "medium-expert", "expert_fraction": 1.5}, "between 0 and 1, got 1.5"),
        ({"quality": "medium", "env": "mpe/simple_sprea"}, "did you mean mpe/simple_spread"),
        (
            {"quality": "random", "expert_fraction": 7.0},
            "belongs to medium-expert, got expert_fraction=7.0 with quality='random'; leave it out",
        ),
        (
            {"quality": "random", "policy_folder": "/nowhere"},
            "no effect on random of mpe/simple_spread, .* got '/nowhere'; leave it out",
        ),
        ({"quality": "medium-replay", "policy_folder": "/nowhere"}, "no effect on medium-replay"),
        ({"quality": "medium", "settings": SMALL}, "recipe of medium-replay's run, got .*leave it"),
        (
            {"quality": "medium-replay", "settings": "nonsense"},
            "settings of mpe/simple_spread must be a MATD3Recipe, got 'nonsense'",
        ),
        ({"quality": "medium-replay", "settings": MASAC_RECIPE}, "must be a MATD3Recipe, got MASA"),
        ({"quality": "medium", "env": TAG, "prey": np.tanh}, "prey must be a file"),
    ],
)
def test_wrong_request_is_refused_and_leaves_nothing(
    tmp_path: Path, kwargs: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        make_dataset(**{"env": NAME, "out": tmp_path / "data", **kwargs})
    assert not (tmp_path / "data").exists()
