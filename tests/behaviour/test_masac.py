"""MASAC, its resumable runs, and datasets of robots."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium_robotics", reason="needs pip install 'rllib-om2p[mamujoco]'")

from rllib_om2p import envs
from rllib_om2p.behaviour import make_behaviour, make_dataset, policies, reroll
from rllib_om2p.behaviour.masac import MASAC, Batch
from rllib_om2p.behaviour.masac_networks import TanhGaussianTeam
from rllib_om2p.behaviour.masac_recipes import MASAC_RECIPES, MASACRecipe
from rllib_om2p.behaviour.masac_replay import StreamBuffer
from rllib_om2p.behaviour.masac_run import masac_replay_of
from rllib_om2p.behaviour.masac_training import MASACTraining
from rllib_om2p.behaviour.recipes import recipe
from rllib_om2p.data.reader import OfflineDataset
from rllib_om2p.data.writer import DatasetWriter

HOPPER = "mamujoco/3x1-Hopper"
CHEETAH = "mamujoco/2x3-HalfCheetah"
# Any return is within the tolerance of medium; nobody reaches expert.
SMALL = MASACRecipe(
    targets={"medium": 20.0, "expert": 1e6},
    tolerance=0.9,
    total_steps=400,
    num_worlds=2,
    uniform_steps=100,
    check_every=200,
    check_episodes=2,
    keep_episodes=4,
    actor_hidden=(16,),
    critic_hidden=(16,),
    batch_size=16,
    random_length=22.0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Policies of a short run."""
    out = tmp_path_factory.mktemp("policies")
    make_behaviour(HOPPER, out, settings=SMALL)
    return out


def _learner(**settings: Any) -> MASAC:
    recipe = dataclasses.replace(MASAC_RECIPES[CHEETAH], batch_size=32, **settings)
    generator = torch.Generator().manual_seed(0)
    return MASAC([[0, 1], [2, 3]], 3, 5, settings=recipe, generator=generator)


def _batch(size: int = 32, *, terminated: float = 0.0) -> Batch:
    generator = torch.Generator().manual_seed(1)
    states, next_states = torch.randn(2, size, 5, generator=generator)
    actions = torch.rand(size, 6, generator=generator) * 2 - 1
    rewards = torch.randn(size, generator=generator)
    return Batch(states, actions, rewards, next_states, torch.full((size,), terminated))


def test_log_probability_is_that_of_the_squashed_gaussian() -> None:
    actor = TanhGaussianTeam([[0, 1], [2, 3]], 3, (8,))
    actor.mlp.initialise(torch.Generator().manual_seed(0))
    states, noise = torch.randn(7, 5), torch.randn(2, 7, 3)
    with torch.no_grad():
        mean, log_sd = actor(states)
        drawn = actor.sample(states, noise)
    base = torch.distributions.Normal(mean, log_sd.exp())
    tanh = torch.distributions.transforms.TanhTransform()
    squashed = torch.distributions.TransformedDistribution(base, tanh)
    actions = drawn.actions.view(7, 2, 3).transpose(0, 1)
    expected = squashed.log_prob(actions).sum(dim=(0, -1))
    torch.testing.assert_close(drawn.log_prob, expected, atol=1e-3, rtol=1e-4)


def test_actor_reads_nothing_but_its_own_features() -> None:
    actor = TanhGaussianTeam([[0, 1], [2, 3]], 3, (8,))
    actor.mlp.initialise(torch.Generator().manual_seed(0))
    states = torch.zeros(1, 5)
    other = states.clone()
    other[0, 2:] = 1.0
    with torch.no_grad():
        before, after = actor(states)[0], actor(other)[0]
    torch.testing.assert_close(before[0], after[0], atol=0, rtol=0)
    assert (before[1] - after[1]).abs().max() > 1e-3


def test_critic_learns_the_reward_where_the_episode_ended_for_good() -> None:
    learner, batch = _learner(learning_rate=3e-3, policy_delay=10**9), _batch(terminated=1.0)
    for _ in range(400):
        learner.update(batch)
    with torch.no_grad():
        q = learner.critic(batch.states, batch.actions)
    torch.testing.assert_close(q, batch.rewards.expand(2, -1), atol=0.05, rtol=0)


def test_target_bootstraps_with_the_entropy_bonus() -> None:
    learner = _learner(learning_rate=1e-30, tau=1e-30, gamma=0.5)
    batch = _batch()
    noise = torch.randn(2, 32, 3, generator=torch.Generator().manual_seed(5))
    learner._noise = lambda: noise  # type: ignore[method-assign]
    with torch.no_grad():
        learner.log_alpha.fill_(math.log(0.1))
        drawn = learner.actor.sample(batch.next_states, noise)
        value = learner.target_critic(batch.next_states, drawn.actions).amin(dim=0)
        target = batch.rewards + 0.5 * (value - 0.1 * drawn.log_prob)
        expected = (learner.critic(batch.states, batch.actions) - target).square().mean()
    losses: list[torch.Tensor] = []
    learner._descend = lambda name, loss, _: losses.append(loss)  # type: ignore[method-assign]
    learner.update(batch)
    torch.testing.assert_close(losses[0], expected)


def test_temperature_falls_while_there_is_more_entropy_than_wanted() -> None:
    learner = _learner()
    for _ in range(20):
        learner.update(_batch())
    assert learner.log_alpha < 0


def test_buffer_gives_back_whole_episodes_of_each_world_in_order() -> None:
    buffer = StreamBuffer(5, 2, state_dim=1, action_dim=1)
    # World 0 ends at its steps 2 and 6, world 1 at its step 5; rows 0 and 1 are overwritten.
    for step in range(7):
        state = np.array([[step], [100 + step]], np.float32)
        ends = np.array([step in (2, 6), step == 5])
        buffer.add(
            states=state,
            actions=state,
            rewards=state[:, 0],
            next_states=state + 0.5,
            terminateds=ends * [True, False],
            truncateds=ends * [False, True],
        )
    assert buffer.num_steps == 10
    (episode,) = buffer.episodes()
    np.testing.assert_array_equal(episode.states[:, 0], [3, 4, 5, 6, 6.5])
    np.testing.assert_array_equal(episode.rewards, [3, 4, 5, 6])
    assert episode.terminated
    batch = buffer.sample(np.random.default_rng(0), 500)
    assert set(batch.states[:, 0].tolist()) == {2, 3, 4, 5, 6, 102, 103, 104, 105, 106}
    torch.testing.assert_close(batch.next_states, batch.states + 0.5)
    assert set(batch.states[batch.terminateds > 0, 0].tolist()) == {2, 6}


@pytest.mark.parametrize("env", [HOPPER, "mamujoco/2x4-Ant"])
def test_run_goes_on_bit_for_bit_from_what_it_saved(tmp_path: Path, env: str) -> None:
    whole = MASACTraining(env, seed=3, settings=SMALL)
    whole.run_until_check(lambda: whole.save(tmp_path) if whole.num_steps == 150 else None)
    resumed = MASACTraining(env, seed=3, settings=dataclasses.replace(SMALL, total_steps=10**6))
    resumed.load(tmp_path)
    assert resumed.num_steps == 150
    resumed.run_until_check()
    for one in (whole, resumed):
        one.run_until_check()
    assert whole.check() == resumed.check() | {"cpu_seconds": whole.curve[-1]["cpu_seconds"]}
    for mine, theirs in zip(
        whole.learner.actor.state_dict().values(),
        resumed.learner.actor.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(mine, theirs)
    other = MASACTraining(env, seed=4, settings=SMALL)
    with pytest.raises(ValueError, match=r"another run: \{'seed': \(4, 3\)\}"):
        other.load(tmp_path)


def test_interrupted_make_behaviour_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    lines: list[str] = []
    settings = dataclasses.replace(SMALL, tolerance=1e-9)
    for _ in range(2):
        make_behaviour(HOPPER, tmp_path, minutes=1e-9, settings=settings, progress=lines.append)
    assert (tmp_path / ".training-mamujoco-3x1-Hopper-0" / "state.pt").is_file()
    assert "the same command goes on" in lines[-1]
    whole = tmp_path / "whole"
    make_behaviour(HOPPER, tmp_path, settings=settings, progress=lines.append)
    make_behaviour(HOPPER, whole, settings=settings)
    assert lines[-1] == "expert: the target 1000000.0 was not reached"
    names = {file.name for file in whole.iterdir()}
    stem = "mamujoco-3x1-Hopper"
    kinds = ("medium.safetensors", "expert.safetensors", "curve.json", "curve.png")
    assert names == {f"{stem}-{kind}" for kind in kinds}
    for quality in ("medium", "expert"):
        mine, theirs = (
            policies.load_policy(policies.path(f"{HOPPER}/{quality}", out))
            for out in (tmp_path, whole)
        )
        assert mine.metadata["weights_sha256"] == theirs.metadata["weights_sha256"]
        assert mine.metadata["measured"] == theirs.metadata["measured"]


def _rows(directory: Path) -> list[str]:
    card = json.loads((directory / "dataset_card.json").read_text())
    return [file["sha256"] for file in card["files"]]


def test_dataset_holds_what_the_environment_shows(tmp_path: Path, folder: Path) -> None:
    make_dataset(HOPPER, "medium", out=tmp_path, steps=600, policy_folder=folder)
    dataset = OfflineDataset.open(str(tmp_path))
    info = envs.info(HOPPER)
    assert dataset.spec.state_dim == 11
    assert [agent.obs_dim for agent in dataset.spec.agents] == [14, 14, 14]
    assert dataset.num_transitions == pytest.approx(600, rel=0.3)
    env = envs.make(HOPPER)
    # The start states were drawn from the plan's generator.
    starts = np.random.default_rng([0, 0]).integers(2**31, size=1)
    episode = next(iter(dataset.episodes()))
    obs, _ = env.reset(seed=int(starts[0]))
    assert episode.state is not None
    for step in range(len(episode)):
        np.testing.assert_array_equal(episode.state[step], env.state())
        for agent in info.agent_ids:
            np.testing.assert_array_equal(episode.obs[agent][step], obs[agent])
        actions = {agent: episode.actions[agent][step] for agent in info.agent_ids}
        obs, rewards, terminateds, _, _ = env.step(actions)
        assert episode.rewards["agent_2"][step] == np.float32(rewards["agent_0"])
        assert episode.terminateds["agent_1"][step] == terminateds["agent_1"]
    assert terminateds["agent_0"]
    assert not episode.truncated


def _make_until_killed(num_episodes: int, quality: str, **arguments: Any) -> None:
    """Call `make_dataset` and stop it after some episodes are written."""
    write, written = DatasetWriter.write_episode, itertools.count()

    def killed(writer: DatasetWriter, episode: Any) -> None:
        if next(written) == num_episodes:
            raise KeyboardInterrupt
        write(writer, episode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatasetWriter, "write_episode", killed)
        with pytest.raises(KeyboardInterrupt):
            make_dataset(HOPPER, quality, **arguments)


def test_interrupted_dataset_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rllib_om2p.behaviour import rollout

    monkeypatch.setattr(rollout, "_ROBOT_SIZES", {"rows_per_group": 300, "rows_per_file": 300})
    arguments: dict[str, Any] = {"steps": 2_000, "seed": 2}
    _make_until_killed(60, "random", out=tmp_path / "a", **arguments)
    with pytest.raises(ValueError, match="half-written"):
        OfflineDataset.open(str(tmp_path / "a"))
    lines: list[str] = []
    make_dataset(HOPPER, "random", out=tmp_path / "a", progress=lines.append, **arguments)
    kept = int(lines[0].removeprefix(f"{HOPPER} random: going on after ").split()[0])
    assert 25 < kept < 60  # Whole files, of more than the first block.
    make_dataset(HOPPER, "random", out=tmp_path / "b", **arguments)
    assert len(_rows(tmp_path / "a")) > 4
    assert _rows(tmp_path / "a") == _rows(tmp_path / "b")
    assert [file.name for file in (tmp_path / "a").iterdir() if file.name.startswith(".")] == []


@pytest.mark.usefixtures("ray_cluster")
def test_any_number_of_workers_writes_the_same_bytes(tmp_path: Path, folder: Path) -> None:
    for workers in (0, 2):
        make_dataset(
            HOPPER,
            "medium-expert",
            out=tmp_path / str(workers),
            steps=1_500,
            policy_folder=folder,
            workers=workers,
        )
    assert _rows(tmp_path / "0") == _rows(tmp_path / "2")
    card = json.loads((tmp_path / "0" / "dataset_card.json").read_text())
    assert card["spec"]["mixture"] == {"medium": 0.5, "expert": 0.5}


def test_mixture_has_the_fraction_of_steps_not_of_episodes(tmp_path: Path, folder: Path) -> None:
    for quality, length in (("medium", 20.0), ("expert", 60.0)):
        policy = policies.load_policy(policies.path(f"{HOPPER}/{quality}", folder))
        metadata = {**policy.metadata, "measured": {"length": length}}
        file = tmp_path / policies.file_name(f"{HOPPER}/{quality}")
        policies.save_policy(file, policy.actor, metadata)
    make_dataset(HOPPER, "medium-expert", out=tmp_path / "a", steps=3_000, policy_folder=tmp_path)
    ids = [episode.behaviour_id for episode in OfflineDataset.open(str(tmp_path / "a")).episodes()]
    assert np.bincount(ids).tolist() == [75, 25]


def test_local_observations_are_written_when_asked_for(tmp_path: Path, folder: Path) -> None:
    for quality, steps in (("medium", 60), ("medium-replay", 50)):
        make_dataset(
            HOPPER,
            quality,
            out=tmp_path / quality,
            steps=steps,
            observations="local",
            **({"policy_folder": folder} if quality == "medium" else {"settings": SMALL}),
        )
        dataset = OfflineDataset.open(str(tmp_path / quality))
        assert dataset.spec.env_kwargs == {"observations": "local"}
        assert [agent.obs_dim for agent in dataset.spec.agents] == [8, 9, 8]
        episode = next(iter(dataset.episodes()))
        assert episode.state is not None
        # agent_1 begins with the leg's angle and velocity.
        np.testing.assert_allclose(episode.obs["agent_1"][:, :2], episode.state[:, [3, 9]])


def test_replay_is_the_end_of_the_run_that_made_the_policy(tmp_path: Path, folder: Path) -> None:
    make_dataset(HOPPER, "medium-replay", out=tmp_path / "a", steps=60, settings=SMALL)
    card = json.loads((tmp_path / "a" / "dataset_card.json").read_text())
    medium = policies.load_policy(policies.path(f"{HOPPER}/medium", folder))
    described = card["spec"]["behaviour"]["medium-replay"]
    assert described["weights_sha256"] == medium.metadata["weights_sha256"]
    assert 60 <= card["counts"]["transitions"] < 60 + 60
    assert not (tmp_path / "a" / ".training").exists()
    with pytest.raises(ValueError, match="joint steps of whole episodes, got steps=5000"):
        make_dataset(HOPPER, "medium-replay", out=tmp_path / "b", steps=5_000, settings=SMALL)


def test_replay_has_the_same_bytes_however_long_the_processor_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("a", 0.001), ("b", 10.0)):
        clock = itertools.count(step=seconds)
        monkeypatch.setattr(time, "process_time", lambda clock=clock: next(clock))
        make_dataset(HOPPER, "medium-replay", out=tmp_path / name, steps=60, settings=SMALL)
    a, b = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in "ab")
    assert a == b


def test_replay_that_was_interrupted_while_writing_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"steps": 140, "settings": SMALL}
    make_dataset(HOPPER, "medium-replay", out=tmp_path / "whole", **arguments)
    _make_until_killed(4, "medium-replay", out=tmp_path / "a", **arguments)
    steps: list[int] = []
    monkeypatch.setattr(MASACTraining, "_step", lambda self: steps.append(self.num_steps))
    make_dataset(HOPPER, "medium-replay", out=tmp_path / "a", **arguments)
    assert steps == []
    assert _rows(tmp_path / "a") == _rows(tmp_path / "whole")


def test_smaller_replay_after_an_interrupted_one_holds_the_newest_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rllib_om2p.behaviour import rollout

    monkeypatch.setattr(rollout, "_ROBOT_SIZES", {"rows_per_group": 30, "rows_per_file": 30})
    _make_until_killed(4, "medium-replay", out=tmp_path / "a", steps=140, settings=SMALL)
    for name in "ab":
        make_dataset(HOPPER, "medium-replay", out=tmp_path / name, steps=40, settings=SMALL)
    assert _rows(tmp_path / "a") == _rows(tmp_path / "b")
    card = json.loads((tmp_path / "a" / "dataset_card.json").read_text())
    assert card["spec"]["seeds"] == {"training": 0, "planned_episodes": card["counts"]["episodes"]}


def test_replay_with_a_return_is_taken_when_the_newest_steps_have_it(tmp_path: Path) -> None:
    # Under uniformly random actions the hopper falls after about 20 steps with about 18.
    settings = dataclasses.replace(SMALL, replay_return=5.0)
    make_dataset(HOPPER, "medium-replay", out=tmp_path / "a", steps=60, settings=settings)
    card = json.loads((tmp_path / "a" / "dataset_card.json").read_text())
    assert card["statistics"]["team_return"]["mean"] >= 5.0
    assert "once their mean return was 5" in card["spec"]["behaviour"]["medium-replay"]["kind"]
    settings = dataclasses.replace(SMALL, replay_return=1e5)
    with pytest.raises(ValueError, match="60 steps never had a mean return of 100000 in 400 steps"):
        make_dataset(HOPPER, "medium-replay", out=tmp_path / "b", steps=60, settings=settings)


def test_replay_of_more_steps_than_the_buffer_holds_is_refused_before_training(
    tmp_path: Path,
) -> None:
    settings = dataclasses.replace(SMALL, buffer_steps=50)
    lines: list[str] = []
    with pytest.raises(ValueError, match="holds 50 joint steps, got steps=60; ask for fewer"):
        masac_replay_of(
            HOPPER,
            "medium",
            60,
            folder=tmp_path / "state",
            settings=settings,
            progress=lines.append,
        )
    assert lines == []


def test_reroll_is_repeatable_and_near_the_dataset(tmp_path: Path, folder: Path) -> None:
    make_dataset(HOPPER, "medium", out=tmp_path, steps=2_000, policy_folder=folder)
    dataset = OfflineDataset.open(str(tmp_path))
    statistics = dataset.statistics().team_return
    returns, again = (reroll(HOPPER, "medium", range(75), policy_folder=folder) for _ in range(2))
    np.testing.assert_array_equal(returns, again)
    error = statistics.std * np.sqrt(1 / 75 + 1 / dataset.num_episodes)
    assert abs(returns.mean() - statistics.mean) < 4 * error


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"prey": "prey.pt"}, "has no prey"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"observations": "most"}, "no observations='most'"),
        ({"env": "mpe/simple_spread", "workers": 2}, "played in this process, got workers=2"),
        ({"env": CHEETAH, "steps": 1_500}, "multiple of 1000, got 1500; the next one is 2000"),
    ],
)
def test_settings_that_an_environment_lacks_are_refused(
    tmp_path: Path, kwargs: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        make_dataset(**{"env": HOPPER, "quality": "random", "out": tmp_path / "data", **kwargs})
    assert not (tmp_path / "data").exists()


def test_recipe_of_another_algorithm_is_refused(tmp_path: Path) -> None:
    particles: Any = recipe("mpe/simple_spread")
    with pytest.raises(ValueError, match="mamujoco/3x1-Hopper must be a MASACRecipe, got MATD3Rec"):
        make_behaviour(HOPPER, tmp_path / "policies", settings=particles)
    with pytest.raises(ValueError, match="must be a MASACRecipe"):
        make_dataset(HOPPER, "medium-replay", out=tmp_path / "data", settings=particles)
    assert list(tmp_path.iterdir()) == []


def test_particles_are_trained_in_one_go(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trained in one go, got minutes=5"):
        make_behaviour("mpe/simple_spread", tmp_path, minutes=5)
